"""How a distribution of TensorFlow Probability is kept, made again and found fit for weights."""

import contextlib
import difflib
import inspect
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfreg import backend
from tfreg.compute.numerics import eager_constants

REAL_LINE, HALF_LINE = "the real numbers", "the real numbers >= 0"
# The floor of a density that TFP evaluates everywhere but at 0.
BESIDE_ZERO = 1e-30
# Arguments of a distribution that have no part in its density.
_OPTIONS = {"self", "name", "validate_args", "allow_nan_stats", "dtype"}


class Recipe(NamedTuple):
    """A distribution but for its numbers, which are arguments of the kernels, as strengths are.

    Each argument of the distribution is the key of a number or an array, a bool, a recipe, or a
    tuple of recipes.
    """

    name: str
    arguments: tuple

    def distribution(self, numbers, **options):
        """The distribution that the recipe makes of `numbers`, a dict of tensors of one dtype."""
        arguments = {
            argument: _ingredient(
                value, numbers, lambda recipe: recipe.distribution(numbers, **options)
            )
            for argument, value in self.arguments
        }
        return getattr(_distributions(), self.name)(**arguments, **options)

    def description(self, numbers):
        """The dict of a name and parameters that `read` makes the recipe and `numbers` of."""
        arguments = {
            argument: _ingredient(value, numbers, lambda recipe: recipe.description(numbers))
            for argument, value in self.arguments
        }
        return {"distribution": self.name, **arguments}


def _ingredient(value, numbers, of_recipe):
    if isinstance(value, Recipe):
        return of_recipe(value)
    if isinstance(value, tuple):
        return [of_recipe(recipe) for recipe in value]
    return numbers[value] if isinstance(value, str) else value


def read(distribution, parameters):
    """The recipe and the numbers of a distribution, or of the name of one and its parameters."""
    numbers: dict[str, Any] = {}
    if isinstance(distribution, str):
        return _recipe({"distribution": distribution, **parameters}, numbers), numbers
    if not isinstance(distribution, _distributions().Distribution):
        raise TypeError(
            "Argument `distribution` must be a distribution of TensorFlow Probability or the name "
            f"of one. Received: distribution={distribution!r}"
        )
    if parameters:
        raise ValueError(
            "Parameters must come with the name of a distribution, which has none yet. "
            f"Received: distribution={distribution!r} with {parameters!r}"
        )
    _check_scalar(distribution)
    return _recipe(distribution, numbers), numbers


def _recipe(described, numbers, path=()):
    """The recipe of a distribution, or of a dict; its numbers are added to `numbers`."""
    if isinstance(described, dict):
        given = dict(described)
        cls = _class_named(given.pop("distribution", None))
        known = _parameters_of(cls)
    else:
        cls = _class_of(described)
        known = _parameters_of(cls)
        given = {
            argument: value
            for argument, value in described.parameters.items()
            if argument in known and not _is_default(value, known[argument])
        }
    if "distribution" in given or known.get("distribution") is inspect.Parameter.empty:
        raise ValueError(
            "Argument `distribution` must not be one that wraps another. "
            f"Received: {cls.__name__}, with parameters {list(known)}"
        )
    unknown = sorted(set(given) - set(known), key=str)
    if unknown:
        raise ValueError(
            f"The parameters of {cls.__name__} must be among {list(known)}. Received: {unknown}"
        )
    arguments = []
    for argument, value in sorted(given.items()):
        if not isinstance(value, bool) or not isinstance(known[argument], bool):
            value = _read_argument(value, numbers, (*path, argument))
        arguments.append((argument, value))
    return Recipe(cls.__name__, tuple(arguments))


def _read_argument(value, numbers, path):
    if _is_distribution(value):
        return _recipe(value, numbers, path)
    if isinstance(value, (list, tuple)) and any(map(_is_distribution, value)):
        return tuple(
            _read_argument(entry, numbers, (*path, str(i))) for i, entry in enumerate(value)
        )
    key = "__".join(path)
    numbers[key] = _number(".".join(path), value)
    return key


def _is_distribution(value):
    return isinstance(value, (dict, _distributions().Distribution))


def _number(name, value):
    """`value` as a float or an array of float64."""
    entries = tf.nest.flatten(value)
    if any(backend.is_variable(entry) or getattr(entry, "variables", ()) for entry in entries):
        raise ValueError(
            "The parameters of a Prior's distribution must be constants: what a variable among "
            f"them learns would neither be followed nor saved. Received: {name}={value!r}"
        )
    try:
        if any(isinstance(entry, bool) for entry in entries):  # which NumPy makes numbers of
            raise TypeError("a truth value")
        array = np.asarray(tf.get_static_value(value) if tf.is_tensor(value) else value)
        if array.dtype.kind not in "iufV":  # V for bfloat16
            raise TypeError(f"a dtype of {array.dtype}")
        array = np.array(array, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "A parameter of a Prior's distribution must be a number, an array of numbers or a "
            f"distribution of TensorFlow Probability. Received: {name}={value!r}"
        ) from error
    with np.errstate(over="ignore"):
        is_finite = np.isfinite(array.astype(np.float32)).all()
    if not is_finite:
        raise ValueError(
            "The parameters of a Prior's distribution must be finite, in float32 too. "
            f"Received: {name}={value!r}"
        )
    array.flags.writeable = False
    return float(array) if array.ndim == 0 else array


def _distributions():
    """TensorFlow Probability's module of distributions, which takes long to import."""
    try:
        from tensorflow_probability import distributions
    except ImportError as error:
        raise ImportError(
            "tfreg.Prior needs TensorFlow Probability: pip install 'tensorflow-probability[tf]'. "
            f"Received: {error}"
        ) from error
    return distributions


def _class_named(name):
    distributions = _distributions()
    classes = {
        name: cls
        for name, cls in vars(distributions).items()
        if inspect.isclass(cls) and issubclass(cls, distributions.Distribution)
    }
    if not isinstance(name, str) or name not in classes:
        near = difflib.get_close_matches(str(name), classes, n=3, cutoff=0.6)
        raise ValueError(
            "Argument `distribution` must name a distribution of TensorFlow Probability. "
            f"Received: {name!r}" + (f". Nearest: {near}" if near else "")
        )
    return classes[name]


def _class_of(distribution):
    # Some have a class for each of two ways of tracking, which differ by an underscore.
    name = type(distribution).__name__.removeprefix("_")
    cls = getattr(_distributions(), name, type(None))
    if not issubclass(cls, type(distribution)):
        raise TypeError(
            "Argument `distribution` must be of a class of TensorFlow Probability's own, which a "
            f"saved model can name. Received: {type(distribution)!r}"
        )
    return cls


def _parameters_of(cls):
    """The parameters of the density, each with its default."""
    parameters = inspect.signature(cls.__init__).parameters
    return {name: parameters[name].default for name in parameters if name not in _OPTIONS}


def _is_default(value, default):
    is_simple = value is None or isinstance(value, (bool, int, float, str, tf.DType))
    return value is default or (is_simple and type(value) is type(default) and value == default)


class Traits(NamedTuple):
    """What the penalty must know of a density.

    `floor` is the magnitude below which the density is held constant, or None. `cusp` is where TFP
    has no gradient, or no curvature: 0.0, "loc" for the number of that key, or None.
    """

    batch_shape: tf.TensorShape
    is_half_line: bool
    floor: float | None
    cusp: str | float | None


def traits(recipe, numbers, floor):
    """The `Traits` of a density, or a ValueError if it can be no prior of a weight."""
    # There tf.debugging.enable_check_numerics() does not take a density of 0 for an error.
    return backend.in_a_fresh_thread(lambda: _traits(recipe, numbers, floor))


def _traits(recipe, numbers, floor):
    with _explained_errors(recipe, numbers):
        single = recipe.distribution(eager_constants(numbers, tf.float32))
        double = recipe.distribution(eager_constants(numbers, tf.float64))
        # Not in double precision: TFP would ask of float32 probabilities that they add up so.
        recipe.distribution(eager_constants(numbers, tf.float32), validate_args=True)
    _check_scalar(double)
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
        # On the half-line, of a LogNormal say, `loc` is no location.
        loc = eager_constants(numbers, tf.float64).get("loc")
        if loc is not None and support == REAL_LINE and _has_cusp(double, loc):
            cusp = "loc"
    _check_floor(densities, given, double)
    return Traits(double.batch_shape, support == HALF_LINE, floor, cusp)


@contextlib.contextmanager
def _explained_errors(recipe, numbers):
    """Makes of what TFP raises one error that tells of which distribution."""
    try:
        yield
    except (AttributeError, TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            f"TensorFlow Probability makes no density of these parameters: {error}. "
            f"Received: {recipe.description(numbers)}"
        ) from error


def _check_scalar(distribution):
    event_shape = distribution.event_shape
    if not isinstance(event_shape, tf.TensorShape) or event_shape.rank != 0:
        raise ValueError(
            "Argument `distribution` must be one of scalars: its batch shape, not its event shape, "
            f"broadcasts to the weight. Received: {distribution!r}"
        )


def _check_support(support, distribution):
    if support not in (REAL_LINE, HALF_LINE):
        raise ValueError(
            f"Argument `distribution` must have {REAL_LINE} or {HALF_LINE} as its support, since "
            f"those are what weights can be. Received: {distribution!r}, whose support is {support}"
        )


def _support(distribution):
    if hasattr(distribution, "components_distribution"):
        return _support(distribution.components_distribution)
    if hasattr(distribution, "components"):
        return " and ".join(sorted({_support(part) for part in distribution.components}))
    if isinstance(distribution, _distributions().Deterministic):
        return "a discrete set"
    try:
        from_the_real_line = distribution.experimental_default_event_space_bijector()
    except NotImplementedError:
        return "not known to TensorFlow Probability"
    if from_the_real_line is None:
        return "a discrete set"
    # Where the support ends is where the bijector takes the ends of the real line.
    ends = tf.reshape([-1e30, 1e30], [2] + [1] * distribution.batch_shape.rank)
    images = from_the_real_line.forward(ends).numpy()
    lower, upper = images.min(axis=0), images.max(axis=0)
    if np.all(upper > 1e15):
        if np.all(lower < -1e15):
            return REAL_LINE
        if np.all(np.abs(lower) < 1e-15):
            return HALF_LINE
    return f"from {np.min(lower)} to {np.max(upper)}"


def _check_floor(log_densities, floor, distribution):
    if any(np.isposinf(log_density).any() for log_density in log_densities):
        raise ValueError(
            "Argument `floor` must be the magnitude below which a density that is infinite at 0 is "
            f"held constant, 1e-6 say. Received: floor={floor!r} for {distribution!r}, whose "
            f"density is infinite {'at 0' if floor is None else 'there'}"
        )


def _has_cusp(distribution, point):
    def derivatives(point):
        zero = tf.UnconnectedGradients.ZERO
        first = tf.gradients(distribution.log_prob(point), point)
        return first + tf.gradients(first, point, unconnected_gradients=zero)

    traced = tf.function(derivatives, autograph=False).get_concrete_function(point)
    first, second = (derivative.numpy() for derivative in traced(point))
    # Of a cusp as that of |w|^1.5 TFP knows the slope, which is 0, but makes NaN of the curvature.
    return np.any(~np.isfinite(first) | ((first == 0.0) & ~np.isfinite(second)))
