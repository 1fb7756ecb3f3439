"""The one seam to Keras 3 and tf_keras: no other module imports either."""

import concurrent.futures
import copy
import functools
import inspect
import sys
import types
from typing import Any

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

PACKAGE = "tfreg"
# The key of the Keras that an object is of, if that is tf_keras.
_KERAS_KEY = "keras"

# What tf_keras has a layer's weight be where a strategy has a partitioner of variables.
ShardedVariable = tf.__internal__.distribute.ShardedVariable

_FLOATS = (tf.float16, tf.bfloat16, tf.float32, tf.float64)
_NOT_DENSE = (
    tf.SparseTensor,
    tf.RaggedTensor,
    tf.IndexedSlices,
    keras.KerasTensor,
)


class Regularizer(keras.regularizers.Regularizer, tf_keras.regularizers.Regularizer):
    """A regularizer to both Kerases: tf_keras warns on saving one that is not its own."""


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


def _is_registered(api: Any, value):
    return api.saving.get_registered_object(api.saving.get_registered_name(value)) is value


def check_registered(name, value):
    """Raises a ValueError if a saved model could not name `value`, a function or an object.

    The Kerases' own classes, as that of a layer, are none that a user registered.
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
    is_kerases_own = cls.__module__.split(".")[0] in ("keras", "tf_keras")
    return any(
        issubclass(cls, api.optimizers.schedules.LearningRateSchedule)
        and (is_kerases_own or _is_registered(api, cls))
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
    """What `serialize` made `config` of; it runs no code that a file brings.

    Raises:
        TypeError, ValueError: if it made it of nothing.
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
    if _in_old_format_of_tf_keras():  # which looks among one kind of objects
        return tf_keras.regularizers.deserialize(config)
    return tf_keras.saving.deserialize_keras_object(config)


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


def is_variable(value):
    return isinstance(value, (keras.Variable, tf.Variable, ShardedVariable))


def is_shard(value):
    """Whether `value` is one of the variables that a ShardedVariable consists of."""
    return getattr(value, "_sharded_container", None) is not None


def whole_weight(variable):
    """The weight of which `variable` is a shard; `variable` itself if it is none."""
    if not is_shard(variable):
        return variable
    whole = variable._sharded_container()
    if whole is None:
        raise ValueError(
            f"The weight of which {variable.name!r} is a shard is gone: keep a reference to the "
            "layer, or to the tf.__internal__.distribute.ShardedVariable, as long as it is used."
        )
    return whole


def is_later_shard(variable):
    """Whether `variable` is a shard of a weight, and not its first."""
    return is_shard(variable) and whole_weight(variable).variables[0] is not variable


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
        if not is_input(sublayer)
    ]


def own_weights(layer):
    """The weights that `layer` itself made to be trained, frozen or not, in that order."""
    if isinstance(layer, keras.layers.Layer):
        return list(layer._trainable_variables)
    return distinct(map(whole_weight, layer._trainable_weights))


def trainable_weights(model):
    """The weights of `model` that are not frozen."""
    return distinct(map(whole_weight, model.trainable_weights))


def distinct(values):
    """`values` in order, each object once."""
    return list({id(value): value for value in values}.values())


def regularized_weights(layer, made):
    """The weights with a regularizer of their own among those that `layer` made, each with it."""
    if isinstance(layer, keras.layers.Layer):
        return [(weight, weight.regularizer) for weight in made if weight.regularizer is not None]
    pairs = []
    for loss in layer._callable_losses:
        # add_weight hands add_loss a function of the weight that encloses the regularizer.
        of_weight = loss.args[0] if isinstance(loss, functools.partial) and loss.args else None
        if isinstance(of_weight, functools.partial) and inspect.isfunction(of_weight.func):
            enclosed = inspect.getclosurevars(of_weight.func).nonlocals
            variable = of_weight.args[0]
            if "regularizer" in enclosed and not is_later_shard(variable):
                pairs.append((whole_weight(variable), enclosed["regularizer"]))
    return pairs


def identity(cls):
    """What a saved model calls `cls`, the class of a model."""
    api = api_of(cls)
    module, name = cls.__module__, cls.__name__
    if getattr(api, name, None) is cls:
        return {"module": "keras", "class_name": name, "registered_name": None}
    registered_name = api.saving.get_registered_name(cls)
    return {"module": module, "class_name": name, "registered_name": registered_name}


def call_alike(cls, registered):
    """Has saved models call `cls` what they call `registered`, and so load it as that."""
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
    return isinstance(model, tf_keras.Model) and _in_old_format_of_tf_keras()


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


def _in_old_format_of_tf_keras():
    saved_model_utils = sys.modules["tf_keras.src.saving.legacy.saved_model.utils"]
    return saved_model_utils.in_tf_saved_model_scope()


def deserialize_model(api, config, custom_objects):
    """The model of `api` that has this `config`, one with what `identity` gives."""
    if api is tf_keras and _in_old_format_of_tf_keras():
        # As part of an .h5 file, which names a class by one name.
        name = config["registered_name"] or config["class_name"]
        return tf_keras.layers.deserialize(
            {"class_name": name, "config": config["config"]}, custom_objects
        )
    return api.saving.deserialize_keras_object(config, custom_objects=custom_objects)


def as_default(function):
    """A copy of `function` that Keras takes for its own method and not for a user's."""

    def default(self):
        return function(self)

    setattr(default, "_is_default", True)
    return functools.update_wrapper(default, function)


def renew_compiled_functions(model):
    """Has the next step of `model` traced anew, one in the middle of `fit` too."""
    for kind in ("train", "test"):
        if getattr(model, f"{kind}_function", None) is not None:
            make = getattr(model, f"make_{kind}_function")
            if "force" in inspect.signature(make).parameters:
                make(force=True)
            else:  # a user's own
                setattr(model, f"{kind}_function", None)
                make()


def weight_path(weight, layer_names):
    """The path of `weight`: the names of the layers around it, as they are now, and its own."""
    return "/".join([*layer_names, _own_name(weight)])


def scoped_path(weight):
    """The path of `weight` with the names that its layers had when they made it."""
    if isinstance(weight, keras.Variable):
        return weight.path
    return _name(weight).removesuffix(":0")


def _own_name(weight):
    return scoped_path(weight).rsplit("/", 1)[-1]


def was_made_in(weight, layer):
    """Whether the name scope in which `weight` was made is that of `layer`."""
    scope, _, _ = scoped_path(weight).rpartition("/")
    return f"/{scope}".endswith(f"/{layer.name}")


def has_exact_scope(weight):
    """Whether the name scope in which `weight` was made is that of the layer that made it.

    In tf_keras it is the wrapper's where that builds the layer in it.
    """
    return isinstance(weight, keras.Variable)


def is_attribute_of_its_name(weight, layer):
    """Whether `layer` holds `weight` under the name of the weight, as `add_weight` calls it."""
    name = _own_name(weight)
    return any(vars(layer).get(attribute) is weight for attribute in (name, f"_{name}"))


def _name(weight):
    if isinstance(weight, ShardedVariable):  # whose own name is that of its class
        return weight.variables[0].name.removesuffix(":0").removesuffix("/part_0")
    return weight.name


def weight_name(weight):
    """What a user calls `weight`, for a message: its path, its name or its kind."""
    if isinstance(weight, keras.Variable):
        return repr(weight.path)
    if is_variable(weight):
        return repr(_name(weight))
    return f"of type {type(weight).__name__}"


def weight_tensor(weight):
    """`weight`, a variable of either Keras or what TensorFlow converts, as a dense tensor."""
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


def loss_value(value, weight):
    """`value` in the dtype that the trainer of the Keras that owns `weight` can add up."""
    if isinstance(weight, keras.Variable):
        return tf.cast(value, keras.config.floatx())
    return value
