"""Configs: what a saved model may name, and loading it without running code from the file."""

import copy
import inspect
import sys
import types
from typing import Any, TypeVar

from tfreg.backend.apis import Regularizer, keras, tf_keras

PACKAGE = "tfreg"
# The config key that marks objects of tf_keras.
_KERAS_KEY = "keras"

_Class = TypeVar("_Class", bound=type)
_T = TypeVar("_T")


def register(cls: _Class) -> _Class:
    """Registers `cls` with Keras 3 and tf_keras, so that saved models with such objects load."""
    keras.saving.register_keras_serializable(PACKAGE)(cls)
    # tf_keras, unlike Keras 3, refuses a class that a notebook defines again.
    registration = sys.modules[tf_keras.saving.get_registered_name.__module__]
    registration._GLOBAL_CUSTOM_OBJECTS.pop(f"{PACKAGE}>{cls.__name__}", None)
    tf_keras.saving.register_keras_serializable(PACKAGE)(cls)
    return cls


def register_regularizer(cls: _Class) -> _Class:
    """`register`, for .h5 files too.

    Raises:
        ValueError: if tf_keras itself has something of the name.
    """
    # tf_keras writes a class into .h5 files by its bare name, and looks that up among its own
    # regularizers. Its table of custom objects would shadow the user's classes of that name.
    regularizers = sys.modules[tf_keras.regularizers.Regularizer.__module__]
    known = getattr(regularizers, cls.__name__, cls)
    if not (inspect.isclass(known) and issubclass(known, Regularizer)):
        raise ValueError(
            "Argument `cls` must have a name that tf_keras.regularizers does not have. "
            f"Received: {cls!r}"
        )
    setattr(regularizers, cls.__name__, cls)
    return register(cls)


def _belongs_to(api: types.ModuleType, value: object) -> bool:
    """Whether the class of `value` belongs to `api`, or is registered with it."""
    roots = {cls.__module__.split(".")[0] for cls in type(value).__mro__}
    return api.__name__ in roots or _is_registered(api, type(value))


def _is_registered(api: types.ModuleType, value: object) -> bool:
    name = api.saving.get_registered_name(value)
    return api.saving.get_registered_object(name) is value


def check_registered(name: str, value: object) -> None:
    """Raises a ValueError if a saved model could not name `value`, a function or an object.

    Objects of Keras's own classes, such as layers, do not pass: no user registered those.
    """
    if isinstance(value, types.FunctionType):
        is_known = any(_is_registered(api, value) for api in (keras, tf_keras))
    else:
        is_known = hasattr(value, "get_config") and any(
            _is_registered(api, type(value)) for api in (keras, tf_keras)
        )
    if not is_known:
        raise ValueError(
            f"Argument `{name}` must be registered with "
            "keras.saving.register_keras_serializable, or be of a class that is, so that a saved "
            f"model can name it: a lambda cannot be. Received: {name}={value!r}"
        )


def copied(value: _T) -> _T:
    """Copies `value` if it is an object of Keras's own, which its user may change."""
    is_keras_own = type(value).__module__.split(".")[0] in (keras.__name__, tf_keras.__name__)
    return copy.deepcopy(value) if is_keras_own else value


def is_schedule(value: object) -> bool:
    """Whether `value` is a learning-rate schedule that saved models of its API can name."""
    cls = type(value)
    is_keras_own = cls.__module__.split(".")[0] in ("keras", "tf_keras")
    return any(
        issubclass(cls, api.optimizers.schedules.LearningRateSchedule)
        and (is_keras_own or _is_registered(api, cls))
        for api in (keras, tf_keras)
    )


def serialize(value: object) -> dict[str, Any]:
    """Turns `value` into the dict from which `deserialize` rebuilds it.

    Args:
        value: an object of either API or registered with it, or a registered function.
    """
    if isinstance(value, types.FunctionType):
        api = keras if _is_registered(keras, value) else tf_keras
        return {"class_name": "function", "config": api.saving.get_registered_name(value)}
    if _belongs_to(keras, value):
        return keras.saving.serialize_keras_object(value)
    # tf_keras gives its own classes the modules and names of those of Keras 3.
    return {**tf_keras.saving.serialize_keras_object(value), _KERAS_KEY: tf_keras.__name__}


def deserialize(config: Any) -> Any:
    """Rebuilds what `serialize` turned into `config`, without running code from the file.

    Raises:
        TypeError, ValueError: if `serialize` cannot have produced `config`.
    """
    is_function = isinstance(config, dict) and config.get("class_name") == "function"
    # Without a 'config', Keras would use default arguments.
    if not _is_named(config) or not isinstance(config.get("config"), str if is_function else dict):
        raise ValueError(
            "The config of an object must be a dict with a string as its 'class_name' and, as its "
            f"'config', a dict, or the name of a function. Received: {config!r}"
        )
    if is_function:
        name = config["config"]
        for api in (keras, tf_keras):
            function = api.saving.get_registered_object(name)
            if function is not None:
                return function
        raise ValueError(
            f"A saved model names the function {name!r}. Import the module that registers it with "
            "keras.saving.register_keras_serializable before the model is loaded."
        )
    made = _deserialize_object(config)
    # tf_keras returns any function of any module that a config names as an object.
    if isinstance(made, type) or not hasattr(made, "get_config"):
        raise ValueError(
            "The config of an object must name a class with a `get_config`. "
            f"Received: {config!r}"
        )
    return made


def _is_named(config: Any) -> bool:
    return (
        isinstance(config, dict)
        and isinstance(config.get("class_name"), str)
        and isinstance(config.get("registered_name", ""), (str, type(None)))
        and isinstance(config.get("module", ""), (str, type(None)))
    )


def _deserialize_object(config: dict[str, Any]) -> Any:
    if _KERAS_KEY not in config:
        return keras.saving.deserialize_keras_object(config)
    config = {key: value for key, value in config.items() if key != _KERAS_KEY}
    if in_old_format_of_tf_keras():  # whose loaders take one kind of object each
        return tf_keras.regularizers.deserialize(config)
    return tf_keras.saving.deserialize_keras_object(config)


def in_old_format_of_tf_keras() -> bool:
    """Whether tf_keras is writing or reading a SavedModel or an .h5 file."""
    saved_model_utils = sys.modules["tf_keras.src.saving.legacy.saved_model.utils"]
    return bool(saved_model_utils.in_tf_saved_model_scope())
