"""How a distribution of TensorFlow Probability is kept and made again."""

import difflib
import inspect
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfreg import backend

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
        return getattr(distributions_of_probability(), self.name)(**arguments, **options)

    def description(self, numbers):
        """The dict from which `read` rebuilds the recipe and the `numbers`."""
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
    if not isinstance(distribution, distributions_of_probability().Distribution):
        raise TypeError(
            "Argument `distribution` must be a distribution of TensorFlow Probability or the name "
            f"of one. Received: distribution={distribution!r}"
        )
    if parameters:
        raise ValueError(
            "Parameters must come with the name of a distribution, which has none yet. "
            f"Received: distribution={distribution!r} with {parameters!r}"
        )
    check_scalar(distribution)
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
    return isinstance(value, (dict, distributions_of_probability().Distribution))


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


def distributions_of_probability():
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
    distributions = distributions_of_probability()
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
    cls = getattr(distributions_of_probability(), name, type(None))
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


def check_scalar(distribution):
    event_shape = distribution.event_shape
    if not isinstance(event_shape, tf.TensorShape) or event_shape.rank != 0:
        raise ValueError(
            "Argument `distribution` must be one of scalars: its batch shape, not its event shape, "
            f"broadcasts to the weight. Received: {distribution!r}"
        )
