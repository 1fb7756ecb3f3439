"""Splits a distribution of TensorFlow Probability into a recipe and numbers, and rebuilds it."""

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfreg import backend
from tfreg.checks import nearest

# Arguments of a distribution that its density does not depend on.
_OPTIONS = {"self", "name", "validate_args", "allow_nan_stats", "dtype"}


class Recipe(NamedTuple):
    """A distribution without its numbers, which are arguments of the kernels, as strengths are.

    Args:
        name: the name of a class of distributions.
        arguments: pairs of an argument's name and a value: the key of a number or an array, a
            bool, a recipe, or a tuple of recipes.
    """

    name: str
    arguments: tuple[tuple[str, Any], ...]

    def distribution(self, numbers: Mapping[str, tf.Tensor], **options: Any) -> Any:
        """Builds the distribution with `numbers`, tensors of one dtype by key."""
        arguments = {
            argument: _ingredient(
                value, numbers, lambda recipe: recipe.distribution(numbers, **options)
            )
            for argument, value in self.arguments
        }
        return getattr(distributions_of_probability(), self.name)(**arguments, **options)

    def event_ranks(self, rank: int = 0) -> dict[str, int]:
        """How many of the last axes of each number are no batch axes, by key.

        `rank` is the same of the whole distribution in the one that it is part of.
        """
        properties = _class_named(self.name).parameter_properties()  # type: ignore[attr-defined]
        ranks = {}
        for argument, value in self.arguments:
            own = getattr(properties.get(argument), "event_ndims", 0)
            of_argument = rank + (own if isinstance(own, int) else 0)
            if isinstance(value, str):
                ranks[value] = of_argument
            elif isinstance(value, (Recipe, tuple)):
                for recipe in [value] if isinstance(value, Recipe) else value:
                    ranks |= recipe.event_ranks(of_argument)
        return ranks

    def description(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """The dict from which `read` rebuilds the recipe and the `numbers`."""
        arguments = {
            argument: _ingredient(value, numbers, lambda recipe: recipe.description(numbers))
            for argument, value in self.arguments
        }
        return {"distribution": self.name, **arguments}


def _ingredient(value: Any, numbers: Mapping[str, Any], of_recipe: Callable[[Recipe], Any]) -> Any:
    if isinstance(value, Recipe):
        return of_recipe(value)
    if isinstance(value, tuple):
        return [of_recipe(recipe) for recipe in value]
    return numbers[value] if isinstance(value, str) else value


def read(distribution: Any, parameters: Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """The recipe and the numbers of a distribution.

    Args:
        distribution: a distribution of TensorFlow Probability, or the name of a class of them.
        parameters: the arguments of that class; empty for a distribution.

    Raises:
        TypeError, ValueError: if a recipe cannot describe it.
    """
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
            "Parameters must come with the name of a distribution: an object has its own. "
            f"Received: distribution={distribution!r} with {parameters!r}"
        )
    check_scalar(distribution)
    return _recipe(distribution, numbers), numbers


def _recipe(described: Any, numbers: dict[str, Any], path: tuple[str, ...] = ()) -> Recipe:
    """The recipe of a distribution or of its description; adds its numbers to `numbers`."""
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


def _read_argument(value: Any, numbers: dict[str, Any], path: tuple[str, ...]) -> Any:
    if _is_distribution(value):
        return _recipe(value, numbers, path)
    if isinstance(value, (list, tuple)) and any(map(_is_distribution, value)):
        return tuple(
            _read_argument(entry, numbers, (*path, str(i))) for i, entry in enumerate(value)
        )
    key = "__".join(path)
    numbers[key] = _number(".".join(path), value)
    return key


def _is_distribution(value: object) -> bool:
    return isinstance(value, (dict, distributions_of_probability().Distribution))


def _number(name: str, value: Any) -> float | np.ndarray:
    """Returns `value` as a float or a read-only array of float64."""
    entries = tf.nest.flatten(value)
    if any(backend.is_variable(entry) or getattr(entry, "variables", ()) for entry in entries):
        raise ValueError(
            "The parameters of a Prior's distribution must be constants: changes of a variable "
            f"would be neither followed nor saved. Received: {name}={value!r}"
        )
    try:
        if any(isinstance(entry, bool) for entry in entries):  # NumPy converts these
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


def distributions_of_probability() -> types.ModuleType:
    """TensorFlow Probability's module of distributions, imported on demand as it takes long."""
    try:
        from tensorflow_probability import distributions
    except ImportError as error:
        raise ImportError(
            "tfreg.Prior needs TensorFlow Probability: pip install 'tensorflow-probability[tf]'. "
            f"Received: {error}"
        ) from error
    return distributions


def _class_named(name: Any) -> type:
    distributions = distributions_of_probability()
    classes = {
        name: cls
        for name, cls in vars(distributions).items()
        if inspect.isclass(cls) and issubclass(cls, distributions.Distribution)
    }
    if not isinstance(name, str) or name not in classes:
        raise ValueError(
            "Argument `distribution` must name a distribution of TensorFlow Probability. "
            f"Received: {name!r}{nearest(str(name), classes)}"
        )
    return classes[name]


def _class_of(distribution: Any) -> type:
    # TFP has some classes twice, for two ways of tracking variables: `Name` and `_Name`.
    name = type(distribution).__name__.removeprefix("_")
    cls = getattr(distributions_of_probability(), name, type(None))
    if not issubclass(cls, type(distribution)):
        raise TypeError(
            "Argument `distribution` must be of one of TensorFlow Probability's own classes, so "
            f"that a saved model can name it. Received: {type(distribution)!r}"
        )
    return cls


def _parameters_of(cls: Any) -> dict[str, Any]:
    """The parameters of the density, each with its default."""
    parameters = inspect.signature(cls.__init__).parameters
    return {name: parameters[name].default for name in parameters if name not in _OPTIONS}


def _is_default(value: Any, default: Any) -> bool:
    is_simple = value is None or isinstance(value, (bool, int, float, str, tf.DType))
    return value is default or (is_simple and type(value) is type(default) and value == default)


def check_scalar(distribution: Any) -> None:
    event_shape = distribution.event_shape
    if not isinstance(event_shape, tf.TensorShape) or event_shape.rank != 0:
        raise ValueError(
            "Argument `distribution` must be one of scalars: its batch shape, not its event shape, "
            f"broadcasts to the weight. Received: {distribution!r}"
        )
