"""The one seam to Keras 3 and tf_keras: no other module imports either."""

import functools
import inspect
import sys
import types

import tensorflow as tf

try:
    import keras
except ImportError as error:
    raise ImportError(
        "tfreg could not import Keras 3. It needs Keras on the TensorFlow backend: set the "
        'environment variable KERAS_BACKEND to "tensorflow", or "backend" in '
        f"~/.keras/keras.json, before Keras is imported. Received: {error}"
    ) from error
import tf_keras

if keras.config.backend() != "tensorflow":
    raise ImportError(
        "tfreg needs Keras on the TensorFlow backend. Set the environment variable "
        'KERAS_BACKEND to "tensorflow", or "backend" in ~/.keras/keras.json, before Keras is '
        f"imported. Received: backend={keras.config.backend()!r}"
    )

PACKAGE = "tfreg"

_FLOATS = (tf.float16, tf.bfloat16, tf.float32, tf.float64)
_NOT_DENSE = (
    tf.SparseTensor,
    tf.RaggedTensor,
    tf.IndexedSlices,
    keras.KerasTensor,
)


class Regularizer(keras.regularizers.Regularizer, tf_keras.regularizers.Regularizer):
    """A regularizer to both Kerases: tf_keras warns on saving one that is not its own."""


def register(cls):
    """Makes saved models that hold a `cls` load in both Kerases."""
    keras.saving.register_keras_serializable(PACKAGE)(cls)
    tf_keras.saving.register_keras_serializable(PACKAGE)(cls)
    return cls


def register_regularizer(cls):
    """`register`, for .h5 files too."""
    # tf_keras writes a class into .h5 files by its bare name, and looks that up among its own
    # regularizers. Its table of custom objects would shadow the user's classes of that name.
    setattr(sys.modules[tf_keras.regularizers.Regularizer.__module__], cls.__name__, cls)
    return register(cls)


def is_regularizer(value):
    """Whether `value` is a regularizer object of either Keras."""
    return isinstance(
        value, (keras.regularizers.Regularizer, tf_keras.regularizers.Regularizer)
    )


def _is_of(api, value):
    """Whether `value` is of `api`, one of the Kerases, or of a class registered with it."""
    roots = {cls.__module__.split(".")[0] for cls in type(value).__mro__}
    return api.__name__ in roots or _is_registered(api, type(value))


def _is_registered(api, value):
    return api.saving.get_registered_object(api.saving.get_registered_name(value)) is value


def check_serializable(name, value):
    """Raises a ValueError if a saved model could not name `value`, a function or an object."""
    if isinstance(value, types.FunctionType):
        can = any(_is_registered(api, value) for api in (keras, tf_keras))
    else:
        is_known = (
            type(value).__module__.split(".")[0] in ("keras", "tf_keras")
            or _is_registered(keras, type(value))
            or _is_registered(tf_keras, type(value))
        )
        can = hasattr(value, "get_config") and is_known
    if not can:
        raise ValueError(
            f"Argument `{name}` must be registered with "
            "keras.saving.register_keras_serializable, so that a saved model can name it, which a "
            f"lambda cannot be. Received: {name}={value!r}"
        )


def serialize(value):
    """The dict from which `deserialize` makes `value` again.

    Args:
        value: an object of either Keras or registered with it, or a registered function.
    """
    if isinstance(value, types.FunctionType):
        api = keras if _is_registered(keras, value) else tf_keras
        return {"class_name": "function", "config": api.saving.get_registered_name(value)}
    api = keras if _is_of(keras, value) else tf_keras
    return api.saving.serialize_keras_object(value)


def deserialize(config):
    """What `serialize` made `config` of; it runs no code that a file brings."""
    if isinstance(config, dict) and config.get("class_name") == "function":
        name = config["config"]
        for api in (keras, tf_keras):
            function = api.saving.get_registered_object(name)
            if function is not None:
                return function
        raise ValueError(
            f"A saved model names the function {name!r}. Import the module that registers it with "
            "keras.saving.register_keras_serializable before the model is loaded."
        )
    name = config.get("registered_name") if isinstance(config, dict) else None
    # tf_keras's own classes go by the same module and name as those of Keras 3, which do the same.
    if name is not None and keras.saving.get_registered_object(name) is None:
        return tf_keras.saving.deserialize_keras_object(config)
    return keras.saving.deserialize_keras_object(config)


def api_of(layer):
    """The Keras that `layer` is of."""
    return keras if isinstance(layer, keras.layers.Layer) else tf_keras


def is_variable(value):
    return isinstance(value, (keras.Variable, tf.Variable))


def is_model(value):
    return isinstance(value, (keras.Model, tf_keras.Model))


def is_layer(value):
    return isinstance(value, (keras.layers.Layer, tf_keras.layers.Layer))


def sublayers(layer):
    """The layers that `layer` holds itself, each once, in the order in which it got them.

    Without those for input, which come and go as a model is built.
    """
    return [
        sublayer
        for sublayer in layer._flatten_layers(include_self=False, recursive=False)
        if not isinstance(sublayer, (keras.layers.InputLayer, tf_keras.layers.InputLayer))
    ]


def own_weights(layer):
    """The weights that `layer` itself made to be trained, frozen or not, in that order."""
    if isinstance(layer, keras.layers.Layer):
        return list(layer._trainable_variables)
    return list(layer._trainable_weights)


def regularized_weights(layer):
    """The weights that `layer` itself has with a regularizer of their own, each with that."""
    if isinstance(layer, keras.layers.Layer):
        return [
            (weight, weight.regularizer)
            for weight in own_weights(layer)
            if weight.regularizer is not None
        ]
    pairs = []
    for loss in layer._callable_losses:
        # add_weight hands add_loss a function of the weight that encloses the regularizer.
        of_weight = loss.args[0] if isinstance(loss, functools.partial) and loss.args else None
        if isinstance(of_weight, functools.partial) and inspect.isfunction(of_weight.func):
            enclosed = inspect.getclosurevars(of_weight.func).nonlocals
            if "regularizer" in enclosed:
                pairs.append((of_weight.args[0], enclosed["regularizer"]))
    return pairs


def identity(cls):
    """What a saved model calls `cls`, the class of a model."""
    api = keras if issubclass(cls, keras.Model) else tf_keras
    return {
        "module": cls.__module__,
        "class_name": cls.__name__,
        "registered_name": api.saving.get_registered_name(cls),
    }


def call_alike(cls, registered):
    """Has saved models call `cls` what they call `registered`, and so load it as that."""
    api = keras if issubclass(cls, keras.Model) else tf_keras
    registration = sys.modules[api.saving.get_registered_name.__module__]
    # Registering it would put it in the place of the other, or, in tf_keras, raise.
    names = "GLOBAL_CUSTOM_NAMES" if api is keras else "_GLOBAL_CUSTOM_NAMES"
    getattr(registration, names)[cls] = api.saving.get_registered_name(registered)


def renew_compiled_functions(model):
    """Has the next step of `model` traced anew; the running one, if it is in `fit`, goes on."""
    if getattr(model, "train_function", None) is not None:
        model.make_train_function(force=True)
    if getattr(model, "test_function", None) is not None:
        model.make_test_function(force=True)


def weight_path(weight, layer_names):
    """The path of `weight`: Keras 3's own, or the names of the layers around it and its own."""
    if isinstance(weight, keras.Variable):
        return weight.path
    return "/".join([*layer_names, weight.name.rsplit("/", 1)[-1].removesuffix(":0")])


def weight_name(weight):
    """What a user calls `weight`, for a message: its path, its name or its kind."""
    if isinstance(weight, keras.Variable):
        return repr(weight.path)
    if isinstance(weight, tf.Variable):
        return repr(weight.name)
    return f"of type {type(weight).__name__}"


def weight_tensor(weight):
    """`weight`, a variable of either Keras or what TensorFlow converts, as a dense tensor."""
    if isinstance(weight, _NOT_DENSE):
        raise TypeError(
            "Argument `weight` must be a dense tensor or a variable. "
            f"Received: {type(weight).__name__}"
        )
    try:
        tensor = tf.convert_to_tensor(weight)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"Argument `weight` must be a dense tensor or a variable. Received: {weight!r}"
        ) from error
    if not isinstance(tensor, tf.Tensor):  # a symbolic input of tf_keras's functional models
        raise TypeError(
            "Argument `weight` must be a dense tensor or a variable. "
            f"Received: {type(weight).__name__}"
        )
    if tensor.dtype not in _FLOATS:
        raise TypeError(
            "Argument `weight` must have one of the dtypes "
            f"{', '.join(dtype.name for dtype in _FLOATS)}. "
            f"Received: weight {weight_name(weight)} with dtype={tensor.dtype.name}"
        )
    if tensor.shape.rank is None or tensor.shape.rank == 0:
        raise ValueError(
            "Argument `weight` must have a known rank of at least 1. "
            f"Received: weight {weight_name(weight)} with shape={tensor.shape}"
        )
    return tensor


def loss_value(value, weight):
    """`value` in the dtype that the trainer of the Keras that owns `weight` can add up."""
    if isinstance(weight, keras.Variable):
        return tf.cast(value, keras.config.floatx())
    return value
