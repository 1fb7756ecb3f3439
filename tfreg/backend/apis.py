"""Imports Keras 3 and tf_keras, and tells which of them an object belongs to."""

import concurrent.futures
import types
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import tensorflow as tf

try:
    import keras
except ImportError as error:
    raise ImportError(
        "tfreg could not import Keras 3. It needs Keras on the TensorFlow backend: set the "
        'environment variable KERAS_BACKEND to "tensorflow", or "backend" in '
        f"~/.keras/keras.json, before Keras is imported. Received: {error}"
    ) from error
try:
    import tf_keras
except ImportError as error:
    raise ImportError(
        "tfreg could not import tf_keras, which TensorFlow Probability needs too: "
        f"pip install tf_keras. Received: {error}"
    ) from error

if keras.config.backend() != "tensorflow":
    raise ImportError(
        "tfreg needs Keras on the TensorFlow backend. Set the environment variable "
        'KERAS_BACKEND to "tensorflow", or "backend" in ~/.keras/keras.json, before Keras is '
        f"imported. Received: backend={keras.config.backend()!r}"
    )


Layer: TypeAlias = keras.layers.Layer | tf_keras.layers.Layer
Model: TypeAlias = keras.Model | tf_keras.Model
Optimizer: TypeAlias = (
    keras.optimizers.Optimizer
    | tf_keras.optimizers.Optimizer
    | tf_keras.optimizers.legacy.Optimizer
)

_Result = TypeVar("_Result")


class Regularizer(keras.regularizers.Regularizer, tf_keras.regularizers.Regularizer):
    """A regularizer for both APIs: tf_keras warns when it saves one that is not its own."""


class Callback(keras.callbacks.Callback, tf_keras.callbacks.Callback):
    """A callback for both APIs, with the attributes and the constructor of Keras 3's."""


def in_a_fresh_thread(function: Callable[[], _Result]) -> _Result:
    """Calls `function` in a new thread.

    The new thread has none of this one's context: graph, device, replica, and the checks that
    `tf.debugging` makes of each operation.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()


def check_not_graph_mode(what: str) -> None:
    """Raises a RuntimeError that names `what` if eager mode is disabled.

    Inside a tf.function or a tf.Graph it is still enabled.
    """
    if not in_a_fresh_thread(tf.executing_eagerly):
        raise RuntimeError(
            f"{what} needs TensorFlow 2's eager mode. Do not call "
            "tf.compat.v1.disable_eager_execution() or tf.compat.v1.disable_v2_behavior()."
        )


def check_shapes_of_ints(what: str) -> None:
    """Raises a RuntimeError that names `what` if shapes are those of TensorFlow 1."""
    if not isinstance(tf.TensorShape([1])[0], int):
        raise RuntimeError(
            f"{what} needs TensorFlow 2's shapes. Do not call "
            "tf.compat.v1.disable_v2_behavior() or tf.compat.v1.disable_v2_tensorshape()."
        )


def is_regularizer(value: object) -> bool:
    """Whether `value` is a regularizer object of either API."""
    return isinstance(value, (keras.regularizers.Regularizer, tf_keras.regularizers.Regularizer))


def api_of(cls: type) -> types.ModuleType:
    """The API that a class of layers, models or optimizers belongs to: `keras` or `tf_keras`."""
    is_of_keras_3 = issubclass(cls, (keras.layers.Layer, keras.optimizers.Optimizer))
    return keras if is_of_keras_3 else tf_keras


def keeps_losses_of_frozen_layers(model: Model) -> bool:
    """Whether the regularizer of a frozen layer's weight goes on adding to `model.losses`."""
    return not isinstance(model, keras.Model)


def is_built(optimizer: Optimizer) -> bool:
    """Whether `optimizer` knows the variables that it trains, as it does after its first step."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(optimizer, tf_keras.optimizers.Optimizer):
        return getattr(optimizer, "_built", False)
    if isinstance(optimizer, tf_keras.optimizers.legacy.Optimizer):
        return optimizer._hypers_created
    return getattr(optimizer, "built", True)


def counts_its_steps(optimizer: Optimizer) -> bool:
    """Whether `optimizer` counts its steps, as Keras's own optimizers do.

    One that hands the gradients to another optimizer may leave the counting to that.
    """
    cls = getattr(type(optimizer), "_tfreg_own_class", type(optimizer))
    methods = [getattr(cls, name, None) for name in ("apply", "apply_gradients")]
    modules = {method.__module__.split(".")[0] for method in methods if method is not None}
    return modules <= {keras.__name__, tf_keras.__name__}


def has_keras_own_train_step(model_class: type[Model]) -> bool:
    return model_class.train_step is api_of(model_class).Model.train_step


def is_asynchronous(strategy: tf.distribute.Strategy) -> bool:
    """Whether the workers of `strategy` train without waiting for each other."""
    return isinstance(
        strategy,
        (
            tf.distribute.ParameterServerStrategy,
            tf.distribute.experimental.ParameterServerStrategy,
        ),
    )


def is_input(value: object) -> bool:
    return isinstance(value, (keras.layers.InputLayer, tf_keras.layers.InputLayer))


def is_model(value: object) -> bool:
    return isinstance(value, (keras.Model, tf_keras.Model))


def is_layer(value: object) -> bool:
    return isinstance(value, (keras.layers.Layer, tf_keras.layers.Layer))
