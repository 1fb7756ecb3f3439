"""Configs: what a saved model may name, and loading it without running code of the file."""

import copy
import sys
import types
from typing import Any

from tfreg.backend.apis import keras, tf_keras

PACKAGE = "tfreg"
# The config key that marks objects of tf_keras.
_KERAS_KEY = "keras"


def register(cls):
    """Registers `cls` with Keras 3 and tf_keras, so that saved models that hold one load."""
    keras.saving.register_keras_serializable(PACKAGE)(cls)
    # tf_keras, unlike Keras 3, refuses a class that a notebook defines again.
    registration = sys.modules[tf_keras.saving.get_registered_name.__module__]
    registration._GLOBAL_CUSTOM_OBJECTS.pop(f"{PACKAGE}>{cls.__name__}", None)
    tf_keras.saving.register_keras_serializable(PACKAGE)(cls)
    return cls


def register_regularizer(cls):
    """`register`, for .h5 files too."""
    # tf_keras writes a class into .h5 files by its bare name, and looks that up among its own
    # regularizers. Its table of custom objects would shadow the user's classes of that name.
    setattr(sys.modules[tf_keras.regularizers.Regularizer.__module__], cls.__name__, cls)
    return register(cls)


def _is_of(api, value):
    """Whether the class of `value` belongs to `api`, or is registered with it."""
    roots = {cls.__module__.split(".")[0] for cls in type(value).__mro__}
    return api.__name__ in roots or _is_registered(api, type(value))


def _is_registered(api: Any, value):
    return api.saving.get_registered_object(api.saving.get_registered_name(value)) is value


def check_registered(name, value):
    """Raises a ValueError if a saved model could not name `value`, a function or an object.

    A class of Keras itself, such as a layer's, is not one that a user registered.
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


def copied(value):
    """A copy of `value` if it is an object of Keras's own, which its user may change."""
    is_keras_own = type(value).__module__.split(".")[0] in (keras.__name__, tf_keras.__name__)
    return copy.deepcopy(value) if is_keras_own else value


def is_schedule(value):
    """Whether `value` is a learning-rate schedule that saved models of its Keras can name."""
    cls = type(value)
    is_keras_own = cls.__module__.split(".")[0] in ("keras", "tf_keras")
    return any(
        issubclass(cls, api.optimizers.schedules.LearningRateSchedule)
        and (is_keras_own or _is_registered(api, cls))
        for api in (keras, tf_keras)
    )


def serialize(value):
    """The dict from which `deserialize` makes `value` again.

    Args:
        value: an object of either Keras or registered with it, or a registered function.
    """
    if isinstance(value, types.FunctionType):
        api = keras if _is_registered(keras, value) else tf_keras
        return {"class_name": "function", "config": api.saving.get_registered_name(value)}
    if _is_of(keras, value):
        return keras.saving.serialize_keras_object(value)
    # Its own classes go by the same modules and names as those of Keras 3.
    return {**tf_keras.saving.serialize_keras_object(value), _KERAS_KEY: tf_keras.__name__}


def deserialize(config):
    """The object that `serialize` turned into `config`; it runs no code that a file brings.

    Raises:
        TypeError, ValueError: if `serialize` cannot have produced `config`.
    """
    is_function = isinstance(config, dict) and config.get("class_name") == "function"
    # Keras would take the default arguments where there is no config.
    if not _is_named(config) or not isinstance(config.get("config"), str if is_function else dict):
        raise ValueError(
            "The config of an object must be a dict with a string as its 'class_name' and a dict, "
            f"or of a function its name, as its 'config'. Received: {config!r}"
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
    # tf_keras gives any function of any module that a config says is an object.
    if isinstance(made, type) or not hasattr(made, "get_config"):
        raise ValueError(
            "The config of an object must name a class that a saved model can name. "
            f"Received: {config!r}"
        )
    return made


def _is_named(config):
    return (
        isinstance(config, dict)
        and isinstance(config.get("class_name"), str)
        and isinstance(config.get("registered_name", ""), (str, type(None)))
        and isinstance(config.get("module", ""), (str, type(None)))
    )


def _deserialize_object(config):
    if _KERAS_KEY not in config:
        return keras.saving.deserialize_keras_object(config)
    config = {key: value for key, value in config.items() if key != _KERAS_KEY}
    if in_old_format_of_tf_keras():  # which looks among one kind of objects
        return tf_keras.regularizers.deserialize(config)
    return tf_keras.saving.deserialize_keras_object(config)


def in_old_format_of_tf_keras():
    saved_model_utils = sys.modules["tf_keras.src.saving.legacy.saved_model.utils"]
    return saved_model_utils.in_tf_saved_model_scope()
