"""How Keras writes and reads model files: what its savers ask of a model, and what they call it."""

import sys

from tfreg.backend.apis import api_of, keras, tf_keras
from tfreg.backend.serialization import in_old_format_of_tf_keras


def identity(cls):
    """What a saved model calls `cls`, the class of a model."""
    api = api_of(cls)
    module, name = cls.__module__, cls.__name__
    if getattr(api, name, None) is cls:
        return {"module": "keras", "class_name": name, "registered_name": None}
    registered_name = api.saving.get_registered_name(cls)
    return {"module": module, "class_name": name, "registered_name": registered_name}


def save_as(cls, registered):
    """Saves `cls` under the name of `registered`, and so loads it as that."""
    api = api_of(cls)
    registration = sys.modules[api.saving.get_registered_name.__module__]
    # Registering it would put it in the place of the other, or, in tf_keras, raise.
    names = "GLOBAL_CUSTOM_NAMES" if api is keras else "_GLOBAL_CUSTOM_NAMES"
    getattr(registration, names)[cls] = api.saving.get_registered_name(registered)


def is_called_for_h5_metadata():
    """Whether the caller of the caller is the function of Keras that describes a model in .h5.

    `model_metadata`, of keras.src.legacy.saving.saving_utils and of its twin in tf_keras, writes
    `model.__class__.__name__` as the name to load, and offers no other way to set it.
    """
    caller = sys._getframe(1).f_back
    return caller is not None and caller.f_code.co_name == "model_metadata"


def h5_build_config(model):
    """What builds a loaded `model`, as .keras files have it, if Keras 3 is writing an .h5 file."""
    state = sys.modules["keras.src.backend.common.global_state"]
    if not isinstance(model, keras.Model) or not state.get_global_attribute("use_legacy_config"):
        return {}
    build_config = model.get_build_config()
    return {"build_config": build_config} if build_config else {}


def end_legacy_config(model):
    """Takes back what tf_keras sets on each model in an .h5 file, and takes back from one only."""
    if isinstance(model, tf_keras.Model) and hasattr(model, "use_legacy_config"):
        model.use_legacy_config = False


def is_writing_saved_model():
    """Whether TensorFlow is writing the functions of a SavedModel."""
    return sys.modules["tensorflow.python.saved_model.save_context"].in_save_context()


def is_saved_model_of_tf_keras(model):
    """Whether tf_keras is writing `model` as a SavedModel."""
    return isinstance(model, tf_keras.Model) and in_old_format_of_tf_keras()


def is_saved_as_preset(model):
    """Whether a preset of `model`, or of a task around it, is being saved.

    `from_preset` wants the class that the preset names to be a subclass of its own. KerasHub's
    `save_to_preset` serializes a task, the backbone in it included, before it writes a file, and
    tells neither what it is doing: only the calls on the stack show it.
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


def deserialize_model(api, config, custom_objects):
    """The model of `api` that has this `config`, one with what `identity` gives."""
    if api is tf_keras and in_old_format_of_tf_keras():
        # As part of an .h5 file, which names a class by one name.
        name = config["registered_name"] or config["class_name"]
        return tf_keras.layers.deserialize(
            {"class_name": name, "config": config["config"]}, custom_objects
        )
    return api.saving.deserialize_keras_object(config, custom_objects=custom_objects)
