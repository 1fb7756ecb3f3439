"""The graph of a model of either API: which operation was called on which symbolic tensors."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from tfreg.backend.apis import Layer, Model, is_input, is_layer, keras, tf_keras
from tfreg.backend.tensors import is_variable


class Call(NamedTuple):
    """One call of a layer, or of an operation such as `keras.ops.add`.

    `args` and `kwargs` are its arguments; `inputs` the symbolic tensors in them, in order.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[Any]
    outputs: list[Any]


class Graph(NamedTuple):
    """The `calls` that lead from `inputs` to `outputs`, in an order in which they can be made."""

    inputs: list[Any]
    outputs: list[Any]
    calls: list[Call]


def is_symbolic(value: object) -> bool:
    """Whether `value` is a tensor of a graph of either API."""
    return hasattr(value, "_keras_history")


def mapped(structure: Any, replace: Callable[[Any], Any]) -> Any:
    """`structure` with `replace` called on each symbolic tensor in its lists, tuples and dicts."""
    if isinstance(structure, dict):
        return {key: mapped(value, replace) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        entries = [mapped(value, replace) for value in structure]
        return tuple(entries) if isinstance(structure, tuple) else entries
    return replace(structure) if is_symbolic(structure) else structure


def flat_tensors(structure: Any) -> list[Any]:
    """The symbolic tensors in `structure`, those of a dict by sorted keys, as Keras orders them."""
    return list(_tensors_in(structure))


def _tensors_in(structure: Any) -> Iterator[Any]:
    if isinstance(structure, dict):
        for key in sorted(structure):
            yield from _tensors_in(structure[key])
    elif isinstance(structure, (list, tuple)):
        for value in structure:
            yield from _tensors_in(value)
    elif is_symbolic(structure):
        yield structure


def graph_of(layer: Layer) -> Graph | None:
    """The graph of a Functional or a built Sequential model; None for anything else.

    A subclass with a `call` of its own has none.
    """
    return None if has_own_call(layer) else network_of(layer)


def has_own_call(layer: Layer) -> bool:
    """Whether the class of `layer`, or one that it inherits from, is not Keras's in its `call`."""
    module = type(layer).call.__module__
    return module.split(".")[0] not in (keras.__name__, tf_keras.__name__)


def network_of(layer: Layer) -> Graph | None:
    """The graph that a Functional or Sequential model holds, whatever its `call` does."""
    network = getattr(layer, "_functional", None) or layer
    if isinstance(network, keras.Model):
        by_depth = getattr(network, "_nodes_by_depth", None)
    elif isinstance(network, tf_keras.Model) and network._is_graph_network:
        by_depth = network._nodes_by_depth
    else:
        by_depth = None
    if not by_depth:
        return None
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    calls = [_call(node) for node in nodes if not node.is_input]
    return Graph(flat_tensors(network.inputs), flat_tensors(network.outputs), calls)


def _call(node: Any) -> Call:
    if hasattr(node, "operation"):
        args, kwargs = tuple(node.arguments.args), dict(node.arguments.kwargs)
        outputs = flat_tensors(node.outputs)
        return Call(node.operation, args, kwargs, flat_tensors([args, kwargs]), outputs)
    args, kwargs = tuple(node.call_args), dict(node.call_kwargs)
    return Call(node.layer, args, kwargs, flat_tensors([args, kwargs]), flat_tensors(node.outputs))


def is_set_to_train(call: Call) -> bool:
    """Whether a layer is called with `training=True`, which is not its default."""
    parameter = inspect.signature(type(call.operation).call).parameters.get("training")
    return call.kwargs.get("training") is True and not (parameter and parameter.default is True)


def takes_by_name(call: Call) -> bool:
    """Whether a model whose inputs are no dict is called with one."""
    model, given = call.operation, call.args[0] if call.args else None
    network = getattr(model, "_functional", None) or model
    inputs = getattr(network, "_inputs_struct", getattr(network, "_nested_inputs", None))
    return isinstance(given, dict) and not isinstance(inputs, dict)


def variables_among(*structures: Any) -> list[Any]:
    """The variables among the arguments of a call."""
    return [leaf for leaf in tf.nest.flatten(structures) if is_variable(leaf)]


def shape_of(tensor: Any) -> tuple[int | None, ...]:
    """The shape of a symbolic tensor; that of a tensor of unknown rank is ()."""
    shape = tensor.shape
    if isinstance(shape, tf.TensorShape):
        return tuple(shape.as_list()) if shape.rank is not None else ()
    return tuple(shape)


def tensor_name(tensor: Any) -> str:
    """The name of the layer that yields an input of a model."""
    return str(maker_of(tensor).name)


def maker_of(tensor: Any) -> Any:
    """The layer or operation that yields a symbolic tensor."""
    return tensor._keras_history[0]


def function_name(operation: Any) -> str | None:
    """The name of the function that an operation of a graph stands for; None for a layer.

    `"Add"` of `keras.ops.add`; `"math.add"` of `tf.math.add`, as tf_keras calls it.
    """
    if isinstance(operation, tf_keras.layers.Layer):
        return getattr(operation, "symbol", None)
    return None if is_layer(operation) else type(operation).__name__


def is_of_keras(operation: Any) -> bool:
    """Whether the class of `operation` is one of either API's own."""
    return type(operation).__module__.split(".")[0] in (keras.__name__, tf_keras.__name__)


def classes_named(name: str) -> list[type]:
    """The layer classes that either API exports under `name`."""
    modules = [keras.layers, tf_keras.layers, getattr(tf_keras.layers, "experimental", None)]
    found = [getattr(module, name, None) for module in modules]
    return [cls for cls in found if isinstance(cls, type)]


def evaluated(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """What `operation` yields at inference for tensors, as a flat list of arrays.

    A layer keeps nothing of it, such as an activity regularizer's loss.
    """
    function = operation
    if is_layer(operation) and function_name(operation) is None:
        function = operation.call
        if _takes_training(operation):
            kwargs = {**kwargs, "training": False}
        args, kwargs = tf.nest.map_structure(
            lambda value: _autocast(operation, value), (args, kwargs)
        )
    results = function(*args, **kwargs)
    return [array_of(result) for result in tf.nest.flatten(results)]


def _autocast(layer: Layer, value: Any) -> Any:
    is_float = tf.is_tensor(value) and value.dtype.is_floating
    return tf.cast(value, layer.compute_dtype) if is_float else value


def _takes_training(layer: Layer) -> bool:
    if isinstance(layer, keras.layers.Layer):
        return bool(layer._call_has_training_arg)
    return bool(layer._expects_training_arg)


def array_of(value: Any) -> Any:
    """A variable or a tensor as an array; a weight in shards as a whole."""
    return tf.convert_to_tensor(value).numpy()


def all_variables(layer: Layer) -> list[Any]:
    """The variables that `layer` itself made, trainable or not, seeds and counters included."""
    if isinstance(layer, keras.layers.Layer):
        return [*layer._trainable_variables, *layer._non_trainable_variables]
    return [*layer._trainable_weights, *layer._non_trainable_weights]


def functional_of(model: Model) -> Model:
    """A functional model of the layers of a subclassed one, which must be built.

    Raises:
        ValueError: if the API cannot trace its `call`, or `call` uses weights that are no layer's.
    """
    inputs = _inputs_of(model)
    _check_inference_is_the_default(model, inputs)
    api = keras if isinstance(model, keras.Model) else tf_keras
    functional = api.Model(inputs, _called(model, inputs), name=model.name)
    inside = {id(weight) for weight in functional.weights}
    outside = [weight for weight in model.weights if id(weight) not in inside]
    if outside:
        names = [getattr(weight, "path", weight.name) for weight in outside]
        raise ValueError(_untraceable(model, f"no layer that its call uses holds {names}"))
    return functional


def _check_inference_is_the_default(model: Model, inputs: Any) -> None:
    """Raises a ValueError if `call` does something else at inference than by default."""
    if "training" not in inspect.signature(model.call).parameters:
        return
    called = [
        _calls_towards(_called(model, inputs, **kwargs)) for kwargs in ({}, {"training": False})
    ]
    if called[0] != called[1]:
        why = "its call does something else for training=False than without `training`"
        raise ValueError(_untraceable(model, why))


def _called(model: Model, inputs: Any, **kwargs: Any) -> Any:
    try:
        return model.call(inputs, **kwargs)
    except Exception as error:  # whatever the user's `call` raises on a symbolic tensor
        why = f"its call fails on symbolic tensors: {error}"
        raise ValueError(_untraceable(model, why)) from error


def _calls_towards(outputs: Any) -> list[Any]:
    """What is called on the way to symbolic `outputs`: layers, and the names of functions."""
    found, seen = [], set()
    pending = flat_tensors(outputs)
    while pending:
        tensor = pending.pop()
        operation, node_index = tensor._keras_history[:2]
        if (id(operation), node_index) in seen or is_input(operation):
            continue
        seen.add((id(operation), node_index))
        found.append(function_name(operation) or id(operation))
        pending += _call(operation._inbound_nodes[node_index]).inputs
    return found


def _untraceable(model: Model, why: str) -> str:
    return (
        f"The subclassed model {model.name!r} cannot be followed: {why}. Build it of layers that "
        "its `call` calls on its inputs, or as a functional model."
    )


def _inputs_of(model: Model) -> Any:
    """New inputs like those of `model`.

    Raises:
        ValueError: if they are not known.
    """
    network = getattr(model, "_functional", None) or model
    known = getattr(network, "_inputs_struct", getattr(network, "_nested_inputs", None))
    if known is not None:
        api = keras if isinstance(model, keras.Model) else tf_keras
        return mapped(known, lambda each: api.Input(shape_of(each)[1:], dtype=each.dtype))
    if isinstance(model, keras.Model):
        shapes = dict(getattr(model, "_build_shapes_dict", None) or {})
        if len(shapes) > 1:
            why = f"its call takes the tensors {sorted(shapes)}, and not one or a list or dict"
            raise ValueError(_untraceable(model, why))
        if not shapes:
            why = "it was never called, or Keras could not trace its call on symbolic tensors"
            raise ValueError(_untraceable(model, why))
        [shape] = shapes.values()
        return _keras_inputs(shape)
    spec = model._saved_model_inputs_spec
    if spec is None:
        raise ValueError(_untraceable(model, "it was never called"))
    return tf.nest.map_structure(
        lambda each: tf_keras.Input(each.shape[1:], dtype=each.dtype), spec
    )


def _keras_inputs(shape: Any) -> Any:
    if isinstance(shape, dict):
        return {key: _keras_inputs(value) for key, value in shape.items()}
    if isinstance(shape, (list, tuple)) and shape and isinstance(shape[0], (list, tuple, dict)):
        return [_keras_inputs(value) for value in shape]
    return keras.Input(batch_shape=(None, *shape[1:]))
