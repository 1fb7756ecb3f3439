"""What the penalty must know of a density, and whether it can be a prior of a weight."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfreg import backend
from tfreg.compute.numerics import eager_constants
from tfreg.distributions import Recipe, check_scalar, distributions_of_probability

REAL_LINE, HALF_LINE = "the real numbers", "the real numbers >= 0"
# The floor of a density that TFP evaluates everywhere but at 0.
BESIDE_ZERO = 1e-30


class Traits(NamedTuple):
    """What the penalty must know of a density.

    Args:
        batch_shape: the shape of the distribution's parameters, which broadcasts to the weight.
        is_half_line: whether the support is the non-negative numbers.
        floor: the magnitude below which the density is held constant, or None.
        cusp: where TFP has no gradient or curvature: 0.0, "loc" for the number of that key, or
            None.
    """

    batch_shape: tf.TensorShape
    is_half_line: bool
    floor: float | None
    cusp: str | float | None


def traits(recipe: Recipe, numbers: Mapping[str, Any], floor: float | None) -> Traits:
    """The `Traits` of a density.

    Raises:
        ValueError: if it cannot be a prior of a weight.
    """
    # In this thread, tf.debugging.enable_check_numerics() may take a density of 0 for an error.
    return backend.in_a_fresh_thread(lambda: _traits(recipe, numbers, floor))


def _traits(recipe: Recipe, numbers: Mapping[str, Any], floor: float | None) -> Traits:
    with _explained_errors(recipe, numbers):
        single = recipe.distribution(eager_constants(numbers, tf.float32))
        double = recipe.distribution(eager_constants(numbers, tf.float64))
        # float32 probabilities may fail TFP's check that they sum to 1 in double precision.
        recipe.distribution(eager_constants(numbers, tf.float32), validate_args=True)
    check_scalar(double)
    with _explained_errors(recipe, numbers):
        support = _support(single)
    _check_support(support, double)
    with _explained_errors(recipe, numbers):
        zero = tf.zeros(double.batch_shape, tf.float64)
        given = floor
        if floor is None and np.isnan(double.log_prob(zero)).any():
            floor = BESIDE_ZERO
        lowest = zero if floor is None else floor * tf.ones_like(zero)
        densities = [single.log_prob(tf.cast(lowest, tf.float32)), double.log_prob(lowest)]
        cusp: str | float | None = None
        if floor is None and _has_cusp(double, zero):
            cusp = 0.0
        # On the half-line, as in a LogNormal, `loc` is no location.
        loc = eager_constants(numbers, tf.float64).get("loc")
        if loc is not None and support == REAL_LINE and _has_cusp(double, loc):
            cusp = "loc"
    _check_floor(densities, given, double)
    return Traits(double.batch_shape, support == HALF_LINE, floor, cusp)


@contextlib.contextmanager
def _explained_errors(recipe: Recipe, numbers: Mapping[str, Any]) -> Iterator[None]:
    """Re-raises TFP's errors, naming the distribution."""
    try:
        yield
    except (AttributeError, TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            f"TensorFlow Probability rejects the parameters of a distribution: {error}. "
            f"Received: {recipe.description(numbers)}"
        ) from error


def _check_support(support: str, distribution: Any) -> None:
    if support not in (REAL_LINE, HALF_LINE):
        raise ValueError(
            f"Argument `distribution` must have {REAL_LINE} or {HALF_LINE} as its support. "
            f"Received: {distribution!r}, whose support is {support}"
        )


def _support(distribution: Any) -> str:
    if hasattr(distribution, "components_distribution"):
        return _support(distribution.components_distribution)
    if hasattr(distribution, "components"):
        return " and ".join(sorted({_support(part) for part in distribution.components}))
    if isinstance(distribution, distributions_of_probability().Deterministic):
        return "a discrete set"
    try:
        from_the_real_line = distribution.experimental_default_event_space_bijector()
    except NotImplementedError:
        return "not known to TensorFlow Probability"
    if from_the_real_line is None:
        return "a discrete set"
    # The bijector maps the ends of the real line to those of the support.
    ends = tf.reshape([-1e30, 1e30], [2] + [1] * distribution.batch_shape.rank)
    images = from_the_real_line.forward(ends).numpy()
    lower, upper = images.min(axis=0), images.max(axis=0)
    if np.all(upper > 1e15):
        if np.all(lower < -1e15):
            return REAL_LINE
        if np.all(np.abs(lower) < 1e-15):
            return HALF_LINE
    return f"from {np.min(lower)} to {np.max(upper)}"


def _check_floor(log_densities: list[Any], floor: float | None, distribution: Any) -> None:
    if any(np.isposinf(log_density).any() for log_density in log_densities):
        raise ValueError(
            "Argument `floor` must be the magnitude below which a density that is infinite at 0 is "
            f"held constant, for example 1e-6. Received: floor={floor!r} for {distribution!r}, "
            f"whose density is infinite {'at 0' if floor is None else 'there'}"
        )


def _has_cusp(distribution: Any, point: tf.Tensor) -> bool:
    def derivatives(point: tf.Tensor) -> list[tf.Tensor]:
        zero = tf.UnconnectedGradients.ZERO
        first = tf.gradients(distribution.log_prob(point), point)
        return first + tf.gradients(first, point, unconnected_gradients=zero)

    traced = tf.function(derivatives, autograph=False).get_concrete_function(point)
    first, second = (derivative.numpy() for derivative in traced(point))
    # At a cusp such as that of |w|^1.5, TFP has the slope 0, but NaN as the curvature.
    return bool(np.any(~np.isfinite(first) | ((first == 0.0) & ~np.isfinite(second))))
