"""Signs, roots, reciprocals and casts, right at 0 and at infinity."""

import tensorflow as tf


def accumulation_dtype(dtype):
    """The dtype in which a weight of `dtype` is summed."""
    return tf.float64 if dtype == tf.float64 else tf.float32


def with_common_dtype(tensors):
    """`tensors` in the dtype in which the widest of them is summed."""
    wide = any(tensor.dtype == tf.float64 for tensor in tensors)
    return [tf.cast(tensor, tf.float64 if wide else tf.float32) for tensor in tensors]


def eager_constants(numbers, dtype):
    """A dict of tensors made outside of any function, whose graph would hold a copy of an array."""
    with tf.init_scope():
        return {name: tf.constant(number, dtype) for name, number in numbers.items()}


def saturate_cast(x, dtype):
    """`x` in `dtype`; finite numbers stay finite, infinity and NaN stay what they are."""
    largest = float(dtype.max)
    within = tf.minimum(tf.maximum(x, -largest), largest)
    return tf.cast(tf.where(tf.math.is_finite(x), within, x), dtype)


@tf.custom_gradient
def signum(x):
    """The sign of `x`, without a slope, but NaN where `x` is infinite, as where it is NaN."""
    return tf.math.divide_no_nan(x, tf.abs(x)), lambda upstream: tf.zeros_like(upstream)


def root(x):
    """`sqrt(max(x, tiny))`, differentiable at 0."""
    # In float64 less than the square of any float32 number.
    return tf.sqrt(tf.maximum(x, 1e-300 if x.dtype == tf.float64 else 1e-30))


def root_or_zero(x):
    """`sqrt(x)`, with the derivative 0 at 0."""
    is_zero = tf.equal(x, 0.0)
    return tf.where(is_zero, tf.zeros_like(x), tf.sqrt(tf.where(is_zero, tf.ones_like(x), x)))


def reciprocal_or_zero(x, is_zero):
    """`1 / x`, but 0 where `is_zero`, as the factor of a group."""
    # XLA keeps what is divided last, and does no more for each weight than multiply. (What a
    # constant 1 is divided by goes to TensorFlow's less accurate reciprocal.)
    return tf.where(is_zero, tf.zeros_like(x), tf.ones_like(x)) / x


def share(t):
    """`t / (1 + t)` for a `t` >= 0, infinity too, and nothing infinite on the way"""
    small, large = tf.minimum(t, 1.0), tf.maximum(t, 1.0)
    return tf.where(t > 1.0, 1.0 / (1.0 + 1.0 / large), small / (1.0 + small))
