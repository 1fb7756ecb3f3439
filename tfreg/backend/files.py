"""How Keras writes and reads model files: what its savers ask of a model, and what they name it."""

import json
import logging
import sys
import types
import zipfile
from typing import Any

import h5py

from tfreg.backend.apis import Model, Optimizer, api_of, keras, tf_keras
from tfreg.backend.serialization import in_old_format_of_tf_keras


def identity(cls: type) -> dict[str, str | None]:
    """The names by which a saved model finds `cls`, the class of a model or an optimizer."""
    api = api_of(cls)
    module, name = cls.__module__, cls.__name__
    for public, names in (("keras", api), ("keras.optimizers", api.optimizers)):
        if getattr(names, name, None) is cls:
            return {"module": public, "class_name": name, "registered_name": None}
    registered_name = api.saving.get_registered_name(cls)
    return {"module": module, "class_name": name, "registered_name": registered_name}


def save_as(cls: type, registered: type) -> None:
    """Saves `cls` under the name of `registered`, so that it loads as `registered`."""
    api = api_of(cls)
    registration = sys.modules[api.saving.get_registered_name.__module__]
    # Registering `cls` would replace `registered` or, in tf_keras, raise.
    names = "GLOBAL_CUSTOM_NAMES" if api is keras else "_GLOBAL_CUSTOM_NAMES"
    getattr(registration, names)[cls] = api.saving.get_registered_name(registered)


def is_called_for_h5_metadata() -> bool:
    """Whether the caller's caller is `model_metadata`, which describes a model in an .h5 file.

    That function (of keras.src.legacy.saving.saving_utils, and its twin in tf_keras) writes
    `model.__class__.__name__` as the name to load, and offers no other way to set it.
    """
    caller = sys._getframe(1).f_back
    return caller is not None and caller.f_code.co_name == "model_metadata"


def h5_build_config(model: Model) -> dict[str, Any]:
    """The entry that builds a loaded `model`, as in .keras files, if Keras 3 is writing .h5."""
    state = sys.modules["keras.src.backend.common.global_state"]
    if not isinstance(model, keras.Model) or not state.get_global_attribute("use_legacy_config"):
        return {}
    build_config = model.get_build_config()
    return {"build_config": build_config} if build_config else {}


def end_legacy_config(model: Model) -> None:
    """Resets the flag that tf_keras sets on each model in an .h5 file, but resets on one only."""
    if isinstance(model, tf_keras.Model) and hasattr(model, "use_legacy_config"):
        model.use_legacy_config = False


def is_writing_saved_model() -> bool:
    """Whether TensorFlow is writing the functions of a SavedModel."""
    save_context = sys.modules["tensorflow.python.saved_model.save_context"]
    return bool(save_context.in_save_context())


def is_saved_model_of_tf_keras(model: Model) -> bool:
    """Whether tf_keras is writing `model` as a SavedModel."""
    return isinstance(model, tf_keras.Model) and in_old_format_of_tf_keras()


def is_saved_as_preset(model: Model) -> bool:
    """Whether a preset of `model`, or of a task around it, is being saved.

    A preset must name a subclass of the class whose `from_preset` loads it. KerasHub's
    `save_to_preset` serializes a task with its backbone before it writes a file, and tells
    neither: only the call stack shows it.
    """
    if not hasattr(model, "from_preset"):
        return False
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        code = frame.f_code
        if code.co_name == "save_to_preset" and code.co_argcount > 0:
            saved = frame.f_locals[code.co_varnames[0]]
            if saved is model or getattr(saved, "backbone", None) is model:
                return True
    return False


def deserialize_optimizer(
    api: types.ModuleType, config: dict[str, Any], custom_objects: dict[str, Any] | None
) -> Optimizer:
    """Loads an optimizer of `api` from `config`, which holds the names that `identity` gives."""
    if api is tf_keras and in_old_format_of_tf_keras():
        name = config["registered_name"] or config["class_name"]
        return tf_keras.optimizers.deserialize(
            {"class_name": name, "config": config["config"]}, custom_objects, use_legacy_format=True
        )
    return api.saving.deserialize_keras_object(config, custom_objects=custom_objects)


def deserialize_model(
    api: types.ModuleType, config: dict[str, Any], custom_objects: dict[str, Any] | None
) -> Model:
    """Loads a model of `api` from `config`, which holds the names that `identity` gives."""
    if api is tf_keras and in_old_format_of_tf_keras():
        # An .h5 file holds one name for a class.
        name = config["registered_name"] or config["class_name"]
        return tf_keras.layers.deserialize(
            {"class_name": name, "config": config["config"]}, custom_objects
        )
    return api.saving.deserialize_keras_object(config, custom_objects=custom_objects)


def load_model(path: str) -> Model:
    """Loads a model of either API from a .keras or .h5 file, compiled if it was.

    Raises:
        ValueError: if the file holds no model.
    """
    api = tf_keras if _version_in_file(path).startswith("2.") else keras
    try:
        return api.models.load_model(path)
    except (TypeError, ValueError):
        if api is tf_keras or zipfile.is_zipfile(path):
            raise
    # Keras 3 looks for losses and metrics such as "mse" under other names than it writes into .h5.
    try:
        return keras.models.load_model(path, custom_objects=_losses_by_name())
    except (TypeError, ValueError):
        model = keras.models.load_model(path, compile=False)
    logging.getLogger(__name__).warning(
        "%s was loaded without its optimizer, loss and metrics, which Keras cannot read.", path
    )
    return model


def _losses_by_name() -> dict[str, Any]:
    named = {**vars(keras.metrics), **vars(keras.losses)}
    functions = {name: f for name, f in named.items() if isinstance(f, types.FunctionType)}
    aliases = ("mse", "mae", "mape", "msle", "kld")
    return {**functions, **{name: keras.losses.get(name) for name in aliases}}


def _version_in_file(path: str) -> str:
    """The version of Keras that wrote a model file: tf_keras has kept to 2."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if "metadata.json" in file.namelist():
                return str(json.loads(file.read("metadata.json"))["keras_version"])
    elif h5py.is_hdf5(path):
        with h5py.File(path) as file:
            version = file.attrs.get("keras_version", "")
            if "model_config" in file.attrs:
                return version.decode() if isinstance(version, bytes) else str(version)
    raise ValueError(
        "Argument `path` must be a .keras or .h5 file that holds a whole model. "
        f"Received: path={path!r}"
    )
