"""How arithmetic is compiled: kernels, and the sums that each device computes best."""
