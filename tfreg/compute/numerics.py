"""Signs, roots, reciprocals and casts, right at 0 and at infinity."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf


def accumulation_dtype(dtype: tf.DType) -> tf.DType:
    """The dtype in which a weight of `dtype` is summed."""
    return tf.float64 if dtype == tf.float64 else tf.float32


def with_common_dtype(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """`tensors` in the dtype in which the widest of them is summed."""
    wide = any(tensor.dtype == tf.float64 for tensor in tensors)
    return [tf.cast(tensor, tf.float64 if wide else tf.float32) for tensor in tensors]


def eager_constants(numbers: Mapping[str, Any], dtype: tf.DType) -> dict[str, tf.Tensor]:
    """Converts numbers to tensors outside of any graph, which would hold a copy of each array."""
    with tf.init_scope():
        return {name: tf.constant(number, dtype) for name, number in numbers.items()}


def not_broadcast(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """`x`, which must have the shape of `w`: an axis of `w` of length 1 could be repeated in it."""
    if w.shape.is_fully_defined():
        return x
    message = "The arrays of a penalty must broadcast to the weight's shape."
    with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(x), tf.shape(w), message)]):
        return tf.identity(x)


def saturate_cast(x: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Casts `x` to `dtype`: finite numbers stay finite, infinity and NaN stay what they are."""
    largest = float(dtype.max)
    within = tf.minimum(tf.maximum(x, -largest), largest)
    return tf.cast(tf.where(tf.math.is_finite(x), within, x), dtype)


@tf.custom_gradient
def signum(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
    """The sign of `x`, with slope 0; NaN where `x` is infinite or NaN."""
    return tf.math.divide_no_nan(x, tf.abs(x)), lambda upstream: tf.zeros_like(upstream)


def root(x: tf.Tensor) -> tf.Tensor:
    """`sqrt(max(x, tiny))`, differentiable at 0."""
    # 1e-300 is less than the square of any float32 number.
    return tf.sqrt(tf.maximum(x, 1e-300 if x.dtype == tf.float64 else 1e-30))


def root_or_zero(x: tf.Tensor) -> tf.Tensor:
    """`sqrt(x)`, with derivative 0 at 0."""
    is_zero = tf.equal(x, 0.0)
    return tf.where(is_zero, tf.zeros_like(x), tf.sqrt(tf.where(is_zero, tf.ones_like(x), x)))


def reciprocal_or_zero(x: tf.Tensor, is_zero: tf.Tensor) -> tf.Tensor:
    """`1 / x`, but 0 where `is_zero`, as the factor of a group."""
    # XLA keeps the quotient of a division that comes last, and only multiplies for each element.
    # Divided by `x`, a constant 1 would become TensorFlow's less accurate reciprocal.
    return tf.where(is_zero, tf.zeros_like(x), tf.ones_like(x)) / x


def in_metric(strength: float | tf.Tensor, metric: tf.Tensor) -> tf.Tensor:
    """`strength / metric` for each element; 0 for a strength of 0, also where the metric is 0."""
    strength = tf.cast(strength, metric.dtype)
    return tf.where(tf.equal(strength, 0.0), tf.zeros_like(metric), strength / metric)


def share(t: tf.Tensor) -> tf.Tensor:
    """`t / (1 + t)` for `t` in [0, inf], without infinite intermediate results."""
    small, large = tf.minimum(t, 1.0), tf.maximum(t, 1.0)
    return tf.where(t > 1.0, 1.0 / (1.0 + 1.0 / large), small / (1.0 + small))
