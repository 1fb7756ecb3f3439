"""SCAD: smoothly clipped absolute deviation, L1 up to a knee and constant beyond a threshold."""

import tensorflow as tf

from tfreg.checks import check_positive
from tfreg.penalties.elementwise import Elementwise
from tfreg.penalties.registry import register


def _slope(w: tf.Tensor, knee: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """The slope at `abs(w)`: 1 up to the knee, from there linear to 0 at the threshold."""
    t = tf.clip_by_value(tf.abs(w), knee, threshold)
    return (threshold - t) / (threshold - knee)


@register
class SCAD(Elementwise):
    """Smoothly clipped absolute deviation: sparse weights, without L1's bias on the large ones.

    `factor * sum_i f(abs(w_i))` with the slope `f'(t) = 1` up to the knee, from there linear to 0
    at the threshold, and 0 beyond

    Args:
        factor: the strength, a finite number >= 0.
        knee: the magnitude up to which it is `factor * L1`, a finite number > 0.
        threshold: the magnitude from which a weight is free, a finite number > `knee`.

    Raises:
        TypeError, ValueError: for other arguments.

    Example:

    >>> penalty = tfreg.SCAD(1.0, knee=1.0, threshold=3.0)
    >>> float(penalty(tf.constant([1.0, -5.0])))
    3.0
    >>> penalty.prox(tf.constant([0.4, 1.2, -5.0]), step_size=0.5).numpy().round(2)
    array([ 0. ,  0.7, -5. ], dtype=float32)

    Reference:
        Fan and Li, Variable selection via nonconcave penalized likelihood and its oracle
        properties, 2001.
    """

    def __init__(self, factor: float = 0.01, knee: float = 1.0, threshold: float = 3.0) -> None:
        super().__init__(factor)
        self.knee = check_positive("knee", knee)
        self.threshold = check_positive("threshold", threshold)
        if self.knee >= self.threshold:
            raise ValueError(
                "Argument `knee` must be below `threshold`. "
                f"Received: knee={knee!r}, threshold={threshold!r}"
            )

    def f(w: tf.Tensor, knee: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
        slope = _slope(w, knee, threshold)
        return tf.minimum(tf.abs(w), knee) + 0.5 * (threshold - knee) * (1.0 - slope**2)

    def df(w: tf.Tensor, knee: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
        return tf.sign(w) * _slope(w, knee, threshold)

    def argmin(
        w: tf.Tensor, strength: tf.Tensor, knee: tf.Tensor, threshold: tf.Tensor
    ) -> tf.Tensor:
        """Soft thresholding, a line, the identity; if that is not convex, a jump for the line."""
        t, width = tf.abs(w), threshold - knee
        soft = tf.where(t <= strength, tf.zeros_like(w), w - tf.sign(w) * strength)
        is_convex = strength < width
        rise = width / tf.where(is_convex, width - strength, width)
        line = w - tf.sign(w) * (threshold - t) * (rise - 1.0)
        ends = knee + strength, threshold
        is_far = strength > knee + threshold
        jump = tf.where(
            is_far,
            tf.sqrt(strength) * tf.sqrt(knee + threshold),
            0.5 * (knee + threshold + strength),
        )
        convex = tf.where(t <= ends[0], soft, tf.where(t < ends[1], line, w))
        return tf.where(is_convex, convex, tf.where(t <= jump, soft, w))
