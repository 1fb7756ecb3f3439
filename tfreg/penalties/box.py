"""BoxPenalty: keep every weight between two bounds."""

import tensorflow as tf

from tfreg.checks import check_number
from tfreg.compute.kernels import compiled, kernel
from tfreg.compute.numerics import share
from tfreg.compute.reductions import total
from tfreg.penalties.base import Penalty
from tfreg.penalties.registry import register


def _violation(w, lower, upper):
    """`w - clip(w, lower, upper)`."""
    if lower is None:
        return tf.maximum(w - upper, 0.0)
    if upper is None:
        return tf.minimum(w - lower, 0.0)
    return w - tf.minimum(tf.maximum(w, lower), upper)


@kernel
def box_penalty(w, lower, upper):
    return total(tf.square(_violation(w, lower, upper)))


@box_penalty.gradient
def _(w, lower, upper):
    return 2.0 * _violation(w, lower, upper)


@compiled
def box_prox(w, strength, lower, upper):
    """`w - 2 strength / (1 + 2 strength) (w - clip(w))`, for a strength of 0 or infinity too."""
    return w - share(2.0 * strength) * _violation(w, lower, upper)


@register
class BoxPenalty(Penalty):
    """Quadratic exterior penalty of a box: squares of what exceeds the bounds.

    `factor * sum_i (w_i - clip(w_i, lower, upper))^2`

    It is zero, and so is its gradient, inside the box; a weight outside is pulled back in
    proportion to its distance. The bounds are soft: for hard ones use a Keras constraint.

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

    _stacks = True

    def __init__(self, factor=0.01, lower=-1.0, upper=1.0):
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

    def _value(self, tensor, layout):
        return box_penalty(tensor, factor=self.factor, lower=self.lower, upper=self.upper)

    def _prox(self, tensor, layout, step_size):
        strength = step_size * self.factor
        return box_prox(tensor, strength=strength, lower=self.lower, upper=self.upper)
