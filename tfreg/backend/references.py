"""What configs of one process may refer to: objects, classes and functions, registered or not."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from tfreg.backend.apis import is_layer, keras, tf_keras

# The name under which configs refer to objects that exist.
_HELD = "tfreg>Held"


class References:
    """Configs from which Keras's `deserialize` functions get objects that exist.

    Attributes:
        names: what must be known by name where the configs are read.
    """

    def __init__(self) -> None:
        held: list[Any] = []

        class Held:
            @staticmethod
            def from_config(config: dict[str, Any]) -> Any:
                return held[config["index"]]

        self._held = held
        self.names: dict[str, Any] = {_HELD: Held}

    def to(self, value: Any) -> dict[str, Any]:
        """The config that stands for `value` itself."""
        self._held.append(value)
        config = {"index": len(self._held) - 1}
        return {"module": "tfreg", "class_name": _HELD, "registered_name": _HELD, "config": config}

    def for_objects(self, old: Any, config: dict[str, Any]) -> dict[str, Any]:
        """`config` with references to what `old` holds and no saved model could name."""
        changed = dict(config)
        for key, value in config.items():
            held = getattr(old, key, None)
            held = getattr(old, f"_{key}", None) if held is None else held
            if isinstance(value, (dict, str)) and _is_nameless(held, value):
                changed[key] = self.to(held)
        return changed


@contextlib.contextmanager
def naming(api: Any, values: list[Any], names: dict[str, Any] | None = None) -> Iterator[None]:
    """A scope in which the configs of `api` may name `values`, functions and classes.

    Lambdas may be read in it: they come from objects that exist, not from a file.
    """
    known = dict(names or {})
    for value in values:
        if not _is_keras_own(value):
            known[value.__name__] = value
            known[api.saving.get_registered_name(value)] = value
    unsafe = sys.modules[api.saving.deserialize_keras_object.__module__].SafeModeScope(False)
    with api.saving.custom_object_scope(known), unsafe:
        yield


def named_by(value: Any) -> Any:
    """What a config names to tell of `value`: a function, or the class of an object."""
    if isinstance(value, type):
        return None
    if hasattr(value, "get_config"):
        return type(value)
    has_name = getattr(value, "__name__", "<lambda>") != "<lambda>"
    return value if callable(value) and has_name else None


def _is_nameless(held: Any, value: str | dict[str, Any]) -> bool:
    """Whether `value`, which a config has for the attribute `held`, cannot tell of it."""
    if held is None or is_layer(held) or isinstance(held, (type, str, dict, list, tuple)):
        return False
    class_name = value.get("class_name") if isinstance(value, dict) else None
    if hasattr(held, "get_config"):
        cls = type(held)
        is_of_it = class_name == cls.__name__
        return is_of_it and not _is_keras_own(cls) and not _is_registered(cls)
    if not callable(held) or _is_registered(held):
        return False
    if isinstance(value, str):
        return not _is_keras_own(held)
    return class_name in ("function", "__lambda__", None)


def _is_registered(value: Any) -> bool:
    if not hasattr(value, "__name__"):  # such as a functools.partial
        return False
    name = value.__name__
    return any(api.saving.get_registered_name(value) != name for api in (keras, tf_keras))


def _is_keras_own(value: Any) -> bool:
    module = getattr(value, "__module__", None) or ""
    return module.split(".")[0] in (keras.__name__, tf_keras.__name__)
