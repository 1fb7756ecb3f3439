"""BoxPenalty: keep every weight between two bounds."""

from typing import TypeAlias

import tensorflow as tf

from tfreg.checks import check_number
from tfreg.compute.numerics import share
from tfreg.penalties.elementwise import Elementwise
from tfreg.penalties.registry import register

Bound: TypeAlias = tf.Tensor | None


def _violation(w: tf.Tensor, lower: Bound, upper: Bound) -> tf.Tensor:
    """`w - clip(w, lower, upper)`."""
    if lower is None:
        return tf.maximum(w - upper, 0.0)
    if upper is None:
        return tf.minimum(w - lower, 0.0)
    return w - tf.minimum(tf.maximum(w, lower), upper)


@register
class BoxPenalty(Elementwise):
    """Quadratic exterior penalty of a box: squares of what exceeds the bounds.

    `factor * sum_i (w_i - clip(w_i, lower, upper))^2`

    Inside the box the value and the gradient are 0; outside, a weight is pulled back in proportion
    to its distance. The bounds are soft: for hard ones use a Keras constraint.

    Args:
        factor: the strength, a finite number >= 0.
        lower: the lower bound, a finite number, or None for no lower bound.
        upper: the upper bound, a finite number >= `lower`, or None for no upper bound.

    Raises:
        TypeError, ValueError: for other arguments, or if both bounds are None.

    Example:

    >>> penalty = tfreg.BoxPenalty(0.1, lower=-0.5, upper=0.5)
    >>> float(penalty(tf.constant([-1.0, 0.0, 0.2, 2.5])))
    0.425

    Reference:
        Nocedal and Wright, Numerical Optimization, 2006, chapter 17 (quadratic penalty).
    """

    def __init__(
        self, factor: float = 0.01, lower: float | None = -1.0, upper: float | None = 1.0
    ) -> None:
        super().__init__(factor)
        bound = "a finite number or None"
        self.lower = None if lower is None else check_number("lower", lower, bound)
        self.upper = None if upper is None else check_number("upper", upper, bound)
        if self.lower is None and self.upper is None:
            raise ValueError(
                "Arguments `lower` and `upper` must not both be None: one of them must be a "
                "finite number. Received: lower=None, upper=None"
            )
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise ValueError(
                "Argument `lower` must not be greater than `upper`. "
                f"Received: lower={lower!r}, upper={upper!r}"
            )

    @staticmethod
    def f(w: tf.Tensor, lower: Bound, upper: Bound) -> tf.Tensor:
        return tf.square(_violation(w, lower, upper))

    @staticmethod
    def df(w: tf.Tensor, lower: Bound, upper: Bound) -> tf.Tensor:
        return 2.0 * _violation(w, lower, upper)

    @staticmethod
    def argmin(w: tf.Tensor, strength: tf.Tensor, lower: Bound, upper: Bound) -> tf.Tensor:
        """`w - 2 s / (1 + 2 s) (w - clip(w))` for the strength s, also where that is infinite."""
        return w - share(2.0 * strength) * _violation(w, lower, upper)
