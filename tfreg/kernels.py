"""Sets when XLA compiles the kernels of penalties, and for which device."""

from tfreg.compute.policy import set_device, set_jit

__all__ = ["set_device", "set_jit"]
