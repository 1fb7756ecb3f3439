"""Quadratic: weights near a center, each with a precision of its own."""

import numpy.typing as npt
import tensorflow as tf

from tfreg.checks import check_array
from tfreg.compute.numerics import share
from tfreg.penalties.elementwise import Elementwise
from tfreg.penalties.registry import register


@register
class Quadratic(Elementwise):
    """Squared distance to a center: L2-SP, and elastic weight consolidation.

    `factor / 2 * sum_i precision_i (w_i - center_i)^2`

    With the weights of an earlier task as its center, and their Fisher information as the
    precision, it keeps what that task needs (elastic weight consolidation). With those of a
    pretrained model as its center it is L2-SP.

    Args:
        factor: the strength, a finite number >= 0.
        center: a finite number, or an array that broadcasts to the weight's shape.
        precision: a finite number >= 0, or an array of those that broadcasts to the weight's shape.
            A weight of precision 0 is free.

    Raises:
        TypeError, ValueError: for other arguments; when called, if an array does not broadcast.

    Example:

    >>> penalty = tfreg.Quadratic(0.5, center=[1.0, 2.0], precision=[4.0, 0.0])
    >>> float(penalty(tf.constant([3.0, 7.0])))
    4.0
    >>> penalty.prox(tf.constant([3.0, 7.0]), step_size=0.5).numpy()
    array([2., 7.], dtype=float32)

    References:
        Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, 2017.
        Li, Grandvalet and Davoine, Explicit inductive bias for transfer learning, 2018 (L2-SP).
    """

    def __init__(
        self, factor: float = 0.01, center: npt.ArrayLike = 0.0, precision: npt.ArrayLike = 1.0
    ) -> None:
        super().__init__(factor)
        self.center = check_array("center", center)
        self.precision = check_array("precision", precision, least=0.0)

    @staticmethod
    def f(w: tf.Tensor, center: tf.Tensor, precision: tf.Tensor) -> tf.Tensor:
        each = 0.5 * precision * (w - center) ** 2
        # Where the precision is 0, a square may be infinite; NaN and infinity in `w` still show.
        return tf.where(tf.equal(precision, 0.0), w - w, each)

    @staticmethod
    def df(w: tf.Tensor, center: tf.Tensor, precision: tf.Tensor) -> tf.Tensor:
        return precision * (w - center)

    @staticmethod
    def argmin(
        w: tf.Tensor, strength: tf.Tensor, center: tf.Tensor, precision: tf.Tensor
    ) -> tf.Tensor:
        # A weight of precision 0 is free, even of an infinite strength.
        return w - share(tf.math.multiply_no_nan(strength, precision)) * (w - center)
