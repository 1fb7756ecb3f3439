"""How a distribution of TensorFlow Probability is kept, made again and found fit for weights."""

import difflib
import inspect
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfreg import backend

REAL_LINE, HALF_LINE = "the real numbers", "the real numbers >= 0"
_FAR = 1e300
# Arguments of every distribution that have no part in its density.
_OPTIONS = {"self", "name", "validate_args", "allow_nan_stats"}


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


def tensors(numbers, dtype):
    """`numbers` as tensors, outside of any function: its graph would hold a copy of an array."""
    with tf.init_scope():
        return {key: tf.constant(number, dtype) for key, number in numbers.items()}


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
    if backend.is_variable(value) or getattr(value, "variables", ()):
        raise ValueError(
            "The parameters of a Prior's distribution must be constants: what a variable among "
            f"them learns would neither be followed nor saved. Received: {name}={value!r}"
        )
    try:
        array = np.asarray(tf.get_static_value(value) if tf.is_tensor(value) else value)
        if array.dtype.kind not in "iufV":  # V for bfloat16
            raise TypeError(f"a dtype of {array.dtype}")
        array = np.array(array, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "A parameter of a Prior's distribution must be a number, an array of numbers or a "
            f"distribution of TensorFlow Probability. Received: {name}={value!r}"
        ) from error
    if not np.isfinite(array).all():
        raise ValueError(
            f"The parameters of a Prior's distribution must be finite. Received: {name}={value!r}"
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
    """What the penalty must know of a density: a cusp is a number or the key of one."""

    batch_shape: tf.TensorShape
    is_half_line: bool
    cusp: Any


def traits(recipe, numbers, floor):
    """The `Traits` of a density, or a ValueError if it can be no prior of a weight."""
    with tf.init_scope():
        exact = tensors(numbers, tf.float64)
        try:
            recipe.distribution(exact, validate_args=True)
            distribution = recipe.distribution(exact)
        except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
            raise ValueError(
                f"TensorFlow Probability makes no distribution of these parameters: {error}. "
                f"Received: {recipe.description(numbers)}"
            ) from error
        _check_scalar(distribution)
        is_half_line = _check_support(distribution) == HALF_LINE
        batch_shape = distribution.batch_shape
        cusp: Any = None
        if floor is None:
            zero = tf.zeros(batch_shape, tf.float64)
            _check_floor(distribution, zero)
            if not _has_gradient(distribution, zero):
                cusp = 0.0
        else:
            single = recipe.distribution(tensors(numbers, tf.float32))
            _check_floor(single, floor * tf.ones(batch_shape))
        if "loc" in exact and not is_half_line and not _has_gradient(distribution, exact["loc"]):
            cusp = "loc"
        return Traits(batch_shape, is_half_line, cusp)


def _check_scalar(distribution):
    event_shape = distribution.event_shape
    if not isinstance(event_shape, tf.TensorShape) or event_shape.rank != 0:
        raise ValueError(
            "Argument `distribution` must be one of scalars: its batch shape, not its event shape, "
            f"broadcasts to the weight. Received: {distribution!r}"
        )


def _check_support(distribution):
    support = _support(distribution)
    if support not in (REAL_LINE, HALF_LINE):
        raise ValueError(
            f"Argument `distribution` must have {REAL_LINE} or {HALF_LINE} as its support, since "
            f"those are what weights can be. Received: {distribution!r}, whose support is {support}"
        )
    return support


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
    ends = np.reshape([-_FAR, _FAR], [2] + [1] * distribution.batch_shape.rank)
    images = from_the_real_line.forward(tf.constant(ends)).numpy()
    lower, upper = images.min(axis=0), images.max(axis=0)
    if np.all(upper > math.sqrt(_FAR)):
        if np.all(lower < -math.sqrt(_FAR)):
            return REAL_LINE
        if np.all(np.abs(lower) < 1.0 / math.sqrt(_FAR)):
            return HALF_LINE
    return f"from {np.min(lower)} to {np.max(upper)}"


def _check_floor(distribution, point):
    if np.any(np.isposinf(distribution.log_prob(point))):
        raise ValueError(
            "Argument `floor` must be the magnitude below which a density that is infinite at 0 is "
            f"held constant, 1e-6 say. Received: {distribution!r}, infinite at {np.max(point)}"
        )


def _has_gradient(distribution, point):
    def gradient(point):
        return tf.gradients(distribution.log_prob(point), point)

    traced = tf.function(gradient, autograph=False).get_concrete_function(point)
    return np.isfinite(traced(point)).all()
