"""Prior: a distribution of TensorFlow Probability as a penalty."""

import functools
import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfreg import backend, distributions, traits
from tfreg.checks import broadcasts_to, check_number
from tfreg.compute.kernels import compiled, kernel
from tfreg.compute.numerics import (
    accumulation_dtype,
    eager_constants,
    in_metric,
    not_broadcast,
    share,
)
from tfreg.compute.reductions import total
from tfreg.layout import Layout
from tfreg.penalties.base import Cut, Penalty, StepSize
from tfreg.penalties.registry import register


def _log_density(
    w: tf.Tensor, recipe: distributions.Recipe, numbers: dict[str, tf.Tensor]
) -> tf.Tensor:
    return not_broadcast(recipe.distribution(numbers).log_prob(w), w)


def _flat(
    w: tf.Tensor, is_half_line: bool, cusp: tf.Tensor | None, floor: tf.Tensor | None
) -> tf.Tensor | None:
    """A mask of where the gradient is 0 by convention, not by TFP; None if nowhere."""
    masks = []
    if is_half_line:
        masks.append(w < 0.0)
    if floor is not None:
        masks.append(tf.abs(w) < floor)
    if cusp is not None:
        masks.append(tf.equal(w, cusp))
    return functools.reduce(tf.logical_or, masks) if masks else None


@kernel(shares_terms=False)  # XLA would write shared quotients of the weight to memory
def negative_log_density(
    w: tf.Tensor,
    recipe: distributions.Recipe,
    is_half_line: bool,
    cusp: tf.Tensor | None,
    floor: tf.Tensor | None,
    **numbers: tf.Tensor,
) -> tf.Tensor:
    """`-sum_i log p(w_i)`; `|w_i|` counts as the `floor` where it is less"""
    x = w
    if floor is not None:
        x = tf.where(tf.abs(x) < floor, tf.where(x < 0.0, -floor, floor), x)
    if not is_half_line:
        return total(-_log_density(x, recipe, numbers))
    losses = -_log_density(tf.where(w < 0.0, tf.ones_like(w), x), recipe, numbers)
    return total(tf.where(w < 0.0, tf.constant(math.inf, w.dtype), losses))


@negative_log_density.gradient
def _(
    w: tf.Tensor,
    recipe: distributions.Recipe,
    is_half_line: bool,
    cusp: tf.Tensor | None,
    floor: tf.Tensor | None,
    **numbers: tf.Tensor,
) -> tf.Tensor:
    """`-d/dw_i log p(w_i)`, by autodiff; 0 off the support, below the floor and at a cusp"""
    flat = _flat(w, is_half_line, cusp, floor)
    # Differentiate at a regular point there: a NaN would reach the second derivative, mask or not.
    regular = 1.0 if cusp is None else cusp + 1.0
    x = w if flat is None else tf.where(flat, regular * tf.ones_like(w), w)
    [gradient] = tf.gradients(-_log_density(x, recipe, numbers), x)  # in a graph: no tape
    if flat is not None:
        gradient = tf.where(flat, tf.zeros_like(w), gradient)
    return gradient + tf.stop_gradient(w - w)  # NaN where the weight is infinite or NaN


@compiled
def normal_prox(w: tf.Tensor, strength: tf.Tensor, loc: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """`(w + t loc) / (1 + t)` for `t = strength / scale^2`, also where that is infinite"""
    return not_broadcast(w - share(strength / scale / scale) * (w - loc), w)


@compiled
def laplace_prox(w: tf.Tensor, strength: tf.Tensor, loc: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """`loc + sign(w - loc) max(|w - loc| - t, 0)` for `t = strength / scale`"""
    threshold = strength / scale
    distance = w - loc
    shrunk = tf.where(tf.abs(distance) <= threshold, loc, w - threshold * tf.sign(distance))
    return not_broadcast(shrunk, w)


PROXIMAL_OPERATORS = {"Normal": normal_prox, "Laplace": laplace_prox}


@register
class Prior(Penalty):
    """Negative log density of a distribution of TensorFlow Probability: MAP training.

    `-factor * sum_i log p(w_i)`

    If the loss is the mean of the examples' negative log likelihoods, such as cross-entropy, then
    `factor = 1 / (number of training examples)` puts the minimum of the penalized loss at the
    maximum a posteriori (MAP) estimate. If it is the mean squared error of k outputs with noise of
    standard deviation s, multiply that by `2 s^2 / k`.

    The gradient is TFP's. Where that is undefined though the density is not, such as at 0 or at
    the location of a generalized normal distribution, it is 0.

    A density on the numbers >= 0 is for weights that a constraint keeps there. At a negative weight
    the penalty is infinite and its gradient 0. The same holds at 0 if the density is 0 there, as
    that of Gamma with a concentration above 1; a `floor` makes the penalty finite there.

    Args:
        distribution: a distribution of `tensorflow_probability.distributions` or the name of one,
            such as `"Laplace"`: continuous, of scalars, on all real numbers or all of those >= 0,
            with constant parameters and a batch shape that broadcasts to the weight's shape.
        factor: the strength, a finite number >= 0. There is no default.
        floor: a magnitude > 0 below which the density is held constant, or None. A density that
            is infinite at 0 needs one.
        **parameters: the parameters of a distribution given by name: numbers, arrays or, as for a
            mixture, distributions.

    Raises:
        TypeError: if `distribution` or a parameter is of another type.
        ValueError: for other arguments; at the first call if the batch shape does not broadcast
            to the weight's shape.
        ImportError: if TensorFlow Probability cannot be imported.

    Example:

    >>> penalty = tfreg.Prior("Laplace", factor=1 / 1000, loc=0.0, scale=0.1)
    >>> layer = keras.layers.Dense(8, kernel_regularizer=penalty)
    >>> spike_and_slab = tfreg.Prior(
    ...     "MixtureSameFamily",
    ...     factor=1 / 1000,
    ...     mixture_distribution={"distribution": "Categorical", "probs": [0.9, 0.1]},
    ...     components_distribution={"distribution": "Normal", "loc": 0.0, "scale": [0.01, 1.0]},
    ... )
    >>> round(float(spike_and_slab(tf.zeros([10]))), 4)
    -0.0358

    References:
        Murphy, Probabilistic Machine Learning: An Introduction, 2022, section 4.5 (MAP estimates).
        Carvalho, Polson and Scott, The horseshoe estimator for sparse signals, 2010.
        George and McCulloch, Variable selection via Gibbs sampling, 1993 (spike and slab).
    """

    is_additive = True

    def __init__(
        self,
        distribution: Any,
        factor: float | None = None,
        floor: float | None = None,
        **parameters: Any,
    ) -> None:
        if factor is None:
            raise ValueError(
                "Argument `factor` must be given: 1 / (number of training examples) if the loss is "
                "the mean of their negative log likelihoods. Received: factor=None"
            )
        super().__init__(factor)
        backend.check_not_graph_mode("Prior")
        expected = "a finite number > 0 or None"
        self.floor = (
            None if floor is None else check_number("floor", floor, expected, lambda x: x > 0)
        )
        self._recipe, self._numbers = distributions.read(distribution, parameters)
        self._traits = traits.traits(self._recipe, self._numbers, self.floor)

    @property
    def distribution(self) -> str:
        """The name of the distribution."""
        return self._recipe.name

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters: numbers, arrays, and a dict for each distribution among them."""
        description = self._recipe.description(self._numbers)
        del description["distribution"]
        return self._read_only("parameters", description)

    def check_weight(self, shape: tf.TensorShape, layout: Layout, weight_name: str) -> None:
        if not broadcasts_to(self._traits.batch_shape, shape):
            raise ValueError(
                "Argument `distribution` must have a batch shape that broadcasts to the weight's "
                f"shape. Received: a batch shape of {tuple(self._traits.batch_shape)} for weight "
                f"{weight_name} of shape {tuple(shape)}"
            )

    def compute_value(self, tensor: tf.Tensor, layout: Layout) -> tf.Tensor:
        numbers = eager_constants(self._numbers, accumulation_dtype(tensor.dtype))
        return negative_log_density(
            tensor,
            factor=self.factor,
            recipe=self._recipe,
            is_half_line=self._traits.is_half_line,
            cusp=numbers["loc"] if self._traits.cusp == "loc" else self._traits.cusp,
            floor=self._traits.floor,
            **numbers,
        )

    def compute_prox(self, tensor: tf.Tensor, layout: Layout, step_size: StepSize) -> tf.Tensor:
        return self._shrunk(tensor, step_size * self.factor)

    def compute_metric_prox(
        self, tensor: tf.Tensor, layout: Layout, step_size: StepSize, metric: tf.Tensor
    ) -> tf.Tensor:
        return self._shrunk(tensor, in_metric(step_size * self.factor, metric))

    def _shrunk(self, tensor: tf.Tensor, strength: StepSize) -> tf.Tensor:
        if self.distribution not in PROXIMAL_OPERATORS or self.floor is not None:
            raise NotImplementedError(
                f"The proximal operator of {self!r} has no known closed form. "
                f"Without a floor, that of {' and '.join(PROXIMAL_OPERATORS)} has one."
            )
        prox = PROXIMAL_OPERATORS[self.distribution]
        numbers = eager_constants(self._numbers, accumulation_dtype(tensor.dtype))
        return prox(tensor, strength=strength, **numbers)

    def on_part(self, cut: Cut) -> "Prior":
        ranks = self._recipe.event_ranks()
        numbers = {
            key: (
                cut.of_array(number, np.ndim(number) - ranks[key])
                if np.ndim(number) > ranks[key]
                else number
            )
            for key, number in self._numbers.items()
        }
        if all(numbers[key] is number for key, number in self._numbers.items()):
            return self
        return type(self)(factor=self.factor, floor=self.floor, **self._recipe.description(numbers))

    def _arguments(self) -> dict[str, Any]:
        return {
            "distribution": self.distribution,
            "factor": self.factor,
            "floor": self.floor,
            **self.parameters,
        }
