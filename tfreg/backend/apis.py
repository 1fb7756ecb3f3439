"""Both Keras APIs: importing them, and telling which one an object belongs to."""

import concurrent.futures

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


class Regularizer(keras.regularizers.Regularizer, tf_keras.regularizers.Regularizer):
    """A regularizer of Keras 3 and of tf_keras, which warns on saving one that is not its own."""


def in_a_fresh_thread(function):
    """`function()`, run outside of whatever this thread is in.

    A thread begins without a graph, a device, a replica, and what `tf.debugging` checks of each
    operation of this one.
    """
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()


def check_not_graph_mode(what):
    """Raises a RuntimeError, which says that `what` needs it, if there is no eager mode.

    A tf.function, and a tf.Graph used as the default, are no obstacle.
    """
    if not in_a_fresh_thread(tf.executing_eagerly):
        raise RuntimeError(
            f"{what} needs TensorFlow 2's eager mode. Do not call "
            "tf.compat.v1.disable_eager_execution() or tf.compat.v1.disable_v2_behavior()."
        )


def check_shapes_of_ints(what):
    """Raises a RuntimeError, which says that `what` needs them, if shapes are TensorFlow 1's."""
    if not isinstance(tf.TensorShape([1])[0], int):
        raise RuntimeError(
            f"{what} needs TensorFlow 2's shapes. Do not call "
            "tf.compat.v1.disable_v2_behavior() or tf.compat.v1.disable_v2_tensorshape()."
        )


def is_regularizer(value):
    """Whether `value` is a regularizer object of either Keras."""
    return isinstance(value, (keras.regularizers.Regularizer, tf_keras.regularizers.Regularizer))


def api_of(layer_class):
    """The Keras that a class of layers or models is of."""
    return keras if issubclass(layer_class, keras.layers.Layer) else tf_keras


def keeps_losses_of_frozen_layers(model):
    """Whether the regularizer of a frozen layer's weight goes on adding to `model.losses`."""
    return not isinstance(model, keras.Model)


def is_built(optimizer):
    """Whether `optimizer` has the variables of those that it trains, as after its first step."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(optimizer, tf_keras.optimizers.Optimizer):
        return getattr(optimizer, "_built", False)
    if isinstance(optimizer, tf_keras.optimizers.legacy.Optimizer):
        return optimizer._hypers_created
    return getattr(optimizer, "built", True)


def counts_its_steps(optimizer):
    """Whether `optimizer` counts each step that it takes, as Keras's own do.

    One that hands the gradients to another may leave that to it.
    """
    methods = [getattr(type(optimizer), name, None) for name in ("apply", "apply_gradients")]
    modules = {method.__module__.split(".")[0] for method in methods if method is not None}
    return modules <= {keras.__name__, tf_keras.__name__}


def has_keras_own_train_step(model_class):
    return model_class.train_step is api_of(model_class).Model.train_step


def is_asynchronous(strategy):
    """Whether the workers of `strategy` train without waiting for each other."""
    return isinstance(
        strategy,
        (
            tf.distribute.ParameterServerStrategy,
            tf.distribute.experimental.ParameterServerStrategy,
        ),
    )


def is_input(value):
    return isinstance(value, (keras.layers.InputLayer, tf_keras.layers.InputLayer))


def is_model(value):
    return isinstance(value, (keras.Model, tf_keras.Model))


def is_layer(value):
    return isinstance(value, (keras.layers.Layer, tf_keras.layers.Layer))
