"""The one seam to Keras 3 and tf_keras: no other module imports either."""

import sys

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
    # tf_keras writes a class into .h5 files by its bare name, and looks that up among its own
    # regularizers. Its table of custom objects would shadow the user's classes of that name.
    setattr(sys.modules[tf_keras.regularizers.Regularizer.__module__], cls.__name__, cls)
    return cls


def is_regularizer(value):
    """Whether `value` is a regularizer object of either Keras."""
    return isinstance(
        value, (keras.regularizers.Regularizer, tf_keras.regularizers.Regularizer)
    )


def serialize(regularizer):
    """The dict from which `deserialize` makes the regularizer, of either Keras, again."""
    if isinstance(regularizer, keras.regularizers.Regularizer):
        return keras.saving.serialize_keras_object(regularizer)
    return tf_keras.saving.serialize_keras_object(regularizer)


def deserialize(config):
    """The regularizer that `serialize` made `config` of; it runs no code that a file brings."""
    name = config.get("registered_name") if isinstance(config, dict) else None
    # tf_keras's own classes go by the same module and name as those of Keras 3, which do the same.
    if name is not None and keras.saving.get_registered_object(name) is None:
        return tf_keras.saving.deserialize_keras_object(config)
    return keras.saving.deserialize_keras_object(config)


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
