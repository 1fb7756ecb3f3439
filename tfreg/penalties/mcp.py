"""MCP: the minimax concave penalty, L1 near 0 and constant beyond a threshold."""

import tensorflow as tf

from tfreg.checks import check_positive
from tfreg.penalties.elementwise import Elementwise
from tfreg.penalties.registry import register


@register
class MCP(Elementwise):
    """Minimax concave penalty: sparse weights, without L1's bias on the large ones.

    `factor * sum_i f(abs(w_i))` with `f(t) = t - t^2 / (2 threshold)` up to the threshold, and
    `threshold / 2` beyond

    Near 0 it is `factor * L1`. Its slope falls to 0 at the threshold: larger weights are free.

    Args:
        factor: the strength, a finite number >= 0.
        threshold: the magnitude from which a weight is free, a finite number > 0.

    Raises:
        TypeError, ValueError: for other arguments.

    Example:

    >>> penalty = tfreg.MCP(1.0, threshold=2.0)
    >>> float(penalty(tf.constant([1.0, -5.0])))
    1.75
    >>> penalty.prox(tf.constant([0.4, 1.2, -5.0]), step_size=0.5).numpy().round(2)
    array([ 0.  ,  0.93, -5.  ], dtype=float32)

    Reference:
        Zhang, Nearly unbiased variable selection under minimax concave penalty, 2010.
    """

    def __init__(self, factor: float = 0.01, threshold: float = 1.0) -> None:
        super().__init__(factor)
        self.threshold = check_positive("threshold", threshold)

    @staticmethod
    def f(w: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
        t = tf.minimum(tf.abs(w), threshold)
        return t - 0.5 * t * (t / threshold)

    @staticmethod
    def df(w: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
        return tf.sign(w) * tf.maximum(1.0 - tf.abs(w) / threshold, 0.0)

    @staticmethod
    def argmin(w: tf.Tensor, strength: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
        """Firm thresholding; where the objective is not convex, hard thresholding."""
        t = tf.abs(w)
        is_convex = strength < threshold
        scale = threshold / tf.where(is_convex, threshold - strength, threshold)
        firm = tf.where(t < threshold, tf.sign(w) * (t - strength) * scale, w)
        free_from = tf.where(is_convex, strength, tf.sqrt(strength) * tf.sqrt(threshold))
        return tf.where(t <= free_from, tf.zeros_like(w), tf.where(is_convex, firm, w))
