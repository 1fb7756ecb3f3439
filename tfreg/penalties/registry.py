"""The penalties by name: what a saved model or `tfreg.get` may ask for."""

import inspect
import re
from collections.abc import Callable
from typing import Any, TypeVar

from tfreg import backend
from tfreg.checks import nearest

T = TypeVar("T")
_CLASSES: dict[str, type] = {}


def register(cls: type[T]) -> type[T]:
    """Registers a penalty, so that saved models and `tfreg.get` find it by its name.

    A process that loads such a model must import the module of the class first.

    Args:
        cls: a subclass of `tfreg.Penalty`. One that is defined again, as in a notebook, takes the
            place of the first.

    Returns:
        `cls`, so that this is a decorator.

    Raises:
        TypeError: if `cls` is not such a class.
        ValueError: if another module has registered a penalty of its name, or tf_keras itself has
            a regularizer of it.

    Example:

    >>> @tfreg.register
    ... class Sextic(tfreg.Elementwise):
    ...     def f(w):
    ...         return w**6
    ...
    ...     def df(w):
    ...         return 6.0 * w**5
    ...
    >>> tfreg.get("sextic")
    Sextic(factor=0.01)
    """
    if not (inspect.isclass(cls) and issubclass(cls, backend.Regularizer)):
        raise TypeError(f"Argument `cls` must be a subclass of tfreg.Penalty. Received: {cls!r}")
    for known in _CLASSES.values():
        is_same_name = _snake_case(known.__name__) == _snake_case(cls.__name__)
        if is_same_name and known.__module__ != cls.__module__:
            raise ValueError(
                f"Argument `cls` must have another name than {known!r}. Received: {cls!r}"
            )
    backend.register_regularizer(cls)
    _CLASSES[cls.__name__] = cls
    return cls


def get(identifier: str | dict[str, Any] | Callable[..., Any] | None) -> Any:
    """The penalty that `identifier` stands for, as `keras.regularizers.get` resolves it.

    Args:
        identifier: the name of a penalty, `"group_lasso"` or `"GroupLasso"`, which gives it with
            its default arguments if all have one; a dict with a `"class_name"` and a `"config"`,
            as Keras writes it; a penalty or any other callable, which is returned as it is; a
            class, which is called; or None.

    Returns:
        A penalty, the callable, or None.

    Raises:
        ValueError: if no penalty has that name, or its class does not take the config.
        TypeError: if `identifier` is none of these.

    Example:

    >>> tfreg.get("group_lasso")
    GroupLasso(factor=0.01, axis='output', group_size=None, size_weighted=True)
    >>> tfreg.get({"class_name": "BoxPenalty", "config": {"factor": 0.5}})
    BoxPenalty(factor=0.5, lower=-1.0, upper=1.0)
    """
    if isinstance(identifier, str):
        cls = class_named(identifier)
        parameters = inspect.signature(cls).parameters.values()
        if any(parameter.default is parameter.empty for parameter in parameters):
            raise ValueError(
                "Argument `identifier` must be a dict or an object for a penalty that has no "
                f"default arguments. Received: {identifier!r}"
            )
        return cls()
    if isinstance(identifier, dict):
        config = identifier.get("config", {})
        if not isinstance(identifier.get("class_name"), str) or not isinstance(config, dict):
            raise ValueError(
                "Argument `identifier` must have a string as its 'class_name' and a dict as its "
                f"'config'. Received: identifier={identifier!r}"
            )
        return class_named(identifier["class_name"]).from_config(config)
    made: Any = identifier() if inspect.isclass(identifier) else identifier
    if made is None or callable(made):
        return made
    raise TypeError(
        "Argument `identifier` must be a penalty's name, a dict, a callable or None. "
        f"Received: identifier={made!r}"
    )


def class_named(name: str) -> Any:
    """The registered class of that name, in either spelling."""
    names = {_snake_case(class_name): class_name for class_name in _CLASSES}
    bare = name.removeprefix(f"{backend.PACKAGE}>")
    class_name = names.get(bare, bare)
    if class_name not in _CLASSES:
        raise ValueError(
            f"The name of a penalty must be one of {sorted(names)}; those of Keras are given as "
            f"objects. Received: {name!r}{nearest(_snake_case(bare), names, cutoff=0.3)}"
        )
    return _CLASSES[class_name]


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
