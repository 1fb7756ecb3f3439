"""SCAD: smoothly clipped absolute deviation, L1 up to a knee and constant beyond a threshold."""

import numpy as np
import tensorflow as tf

from tfreg.checks import check_positive
from tfreg.penalties.elementwise import Elementwise
from tfreg.penalties.mcp import MCP
from tfreg.penalties.registry import register


def _excess(w: tf.Tensor, knee: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """By how much `abs(w)` exceeds the knee, up to the threshold."""
    return tf.clip_by_value(tf.abs(w), knee, threshold) - knee


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
        if not np.float32(self.knee) < np.float32(self.threshold):
            raise ValueError(
                "Argument `knee` must be below `threshold`, in float32 too. "
                f"Received: knee={knee!r}, threshold={threshold!r}"
            )

    @staticmethod
    def f(w: tf.Tensor, knee: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
        excess = _excess(w, knee, threshold)
        return tf.minimum(tf.abs(w), knee) + MCP.f(excess, threshold - knee)

    @staticmethod
    def df(w: tf.Tensor, knee: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
        return tf.sign(w) * (1.0 - _excess(w, knee, threshold) / (threshold - knee))

    @staticmethod
    def argmin(
        w: tf.Tensor, strength: tf.Tensor, knee: tf.Tensor, threshold: tf.Tensor
    ) -> tf.Tensor:
        """Soft thresholding, then a line, then the identity.

        Where the objective is not convex, a jump replaces the line.
        """
        t, width = tf.abs(w), threshold - knee
        soft = tf.where(t <= strength, tf.zeros_like(w), w - tf.sign(w) * strength)
        is_convex = strength < width
        slope = strength / tf.where(is_convex, width - strength, width)
        line = w - tf.sign(w) * (threshold - t) * slope
        ends = knee + strength, threshold
        is_far = strength > knee + threshold
        jump = tf.where(
            is_far,
            tf.sqrt(strength) * tf.sqrt(knee + threshold),
            0.5 * (knee + threshold + strength),
        )
        convex = tf.where(t <= ends[0], soft, tf.where(t < ends[1], line, w))
        return tf.where(is_convex, convex, tf.where(t <= jump, soft, w))
