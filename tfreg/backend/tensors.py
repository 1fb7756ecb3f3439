"""A weight as a tensor: variables of either API, shards, dtypes and names."""

from typing import Any, TypeAlias

import tensorflow as tf

from tfreg.backend.apis import keras

# The type of a tf_keras weight under a variable partitioner.
ShardedVariable = tf.__internal__.distribute.ShardedVariable
Weight: TypeAlias = keras.Variable | tf.Variable | tf.__internal__.distribute.ShardedVariable
_FLOATS = (tf.float16, tf.bfloat16, tf.float32, tf.float64)
_NOT_DENSE = (
    tf.SparseTensor,
    tf.RaggedTensor,
    tf.IndexedSlices,
    keras.KerasTensor,
)


def is_variable(value: object) -> bool:
    return isinstance(value, (keras.Variable, tf.Variable, ShardedVariable))


def is_shard(value: object) -> bool:
    """Whether `value` is one of the variables that a ShardedVariable consists of."""
    return getattr(value, "_sharded_container", None) is not None


def whole_weight(variable: Any) -> Any:
    """The weight of which `variable` is a shard; anything else as it is."""
    if not is_shard(variable):
        return variable
    whole = variable._sharded_container()
    if whole is None:
        raise ValueError(
            f"The weight of which {variable.name!r} is a shard is gone: keep a reference to the "
            "layer, or to the tf.__internal__.distribute.ShardedVariable, as long as it is used."
        )
    return whole


def is_later_shard(variable: tf.Variable) -> bool:
    """Whether `variable` is a shard of a weight, and not the first."""
    return is_shard(variable) and whole_weight(variable).variables[0] is not variable


def scoped_path(weight: Weight) -> str:
    """The path of `weight` with the names that its layers had when they made it."""
    if isinstance(weight, keras.Variable):
        return weight.path
    return _name(weight).removesuffix(":0")


def _name(weight: Weight) -> str:
    if isinstance(weight, ShardedVariable):  # its own name is that of its class
        return weight.variables[0].name.removesuffix(":0").removesuffix("/part_0")
    return weight.name


def weight_name(weight: object) -> str:
    """How messages call `weight`: by its path, its name or its type."""
    if isinstance(weight, keras.Variable):
        return repr(weight.path)
    if is_variable(weight):
        return repr(_name(weight))
    return f"of type {type(weight).__name__}"


def weight_tensor(weight: Any) -> tf.Tensor:
    """Converts `weight` to a dense tensor, if it is one that a penalty takes.

    Args:
        weight: a variable of either API, or whatever TensorFlow converts to a tensor.

    Raises:
        TypeError: if it is not dense, or has no floating-point dtype.
        ValueError: if it is a shard, or its rank is unknown or 0.
    """
    if isinstance(weight, _NOT_DENSE):
        raise TypeError(
            "Argument `weight` must be a dense tensor or a variable. "
            f"Received: {type(weight).__name__}"
        )
    if is_shard(weight):
        raise ValueError(
            "Argument `weight` must be a whole weight, as the attribute of its layer is. "
            f"Received: {weight.name!r}, which is a shard"
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


def loss_value(value: tf.Tensor, weight: object) -> tf.Tensor:
    """`value` in a dtype that the trainer of the API that owns `weight` can add to a loss."""
    if isinstance(weight, keras.Variable):
        return tf.cast(value, keras.config.floatx())
    return value
