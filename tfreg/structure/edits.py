"""How the config of a layer changes when its weights and tensors lose positions."""

import math
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np

from tfreg import backend
from tfreg.backend.rebuilding import CALL
from tfreg.inventory import Layer, Variable

Shape: TypeAlias = tuple[int | None, ...]
Config: TypeAlias = dict[str, Any]


class Sizes(Protocol):
    """The shapes of the new model, told by the objects of the old one."""

    def weight(self, variable: Variable) -> tuple[int, ...]:
        """The new shape of a variable."""

    def inputs(self, layer: Any) -> list[Shape]:
        """The new shapes of the tensors of the first call; none if they are not known."""

    def outputs(self, layer: Any) -> list[Shape]:
        """The new shapes of what the first call yields; none if they are not known."""


def edited(layer: Any, config: Config, sizes: Sizes, gets_bias: bool) -> Config:
    """The config of the new layer.

    Args:
        layer: a layer of the old model, or an operation between its layers.
        config: its config; or `{"call": {"args": ..., "kwargs": ...}}`, the arguments of the call
            of a function.
        sizes: the shapes in the new model.
        gets_bias: whether the layer gets a bias, which it did not have.

    Returns:
        A new dict. Values that stay are the same objects.
    """
    if CALL in config:
        return {CALL: _edited_call(layer, config[CALL], sizes)}
    config = dict(config)
    edits = _LAYERS if backend.is_layer(layer) else _OPERATIONS
    for cls in type(layer).__mro__:
        if cls.__name__ in edits:
            config |= edits[cls.__name__](layer, config, sizes)
            break
    if gets_bias:
        config |= _with_bias(config)
    shapes = sizes.inputs(layer)
    if config.get("batch_input_shape") is not None and not backend.is_input(layer) and shapes:
        config["batch_input_shape"] = merged(config["batch_input_shape"], shapes[0])
    return config


def merged(old: Any, new: Shape) -> tuple[Any, ...]:
    """A shape in a config with new lengths; what it leaves open (None, or -1) stays open."""
    old = tuple(old)
    if len(old) != len(new):
        return old
    return tuple(o if o in (None, -1) or n is None else n for o, n in zip(old, new))


def _with_bias(config: Config) -> Config:
    changed: Config = {"bias_initializer": "zeros"} if "bias_initializer" in config else {}
    if "bias_axes" in config:
        inputs, _, outputs = config["equation"].partition("->")
        inputs, _, weights = inputs.partition(",")
        made = [letter for letter in outputs if letter in weights and letter not in inputs]
        return {**changed, "bias_axes": "".join(made)}
    return {**changed, "use_bias": True}


def _new_shape(layer: Any, name: str, sizes: Sizes) -> tuple[int, ...] | None:
    """The new shape of a weight; None if the layer is not built, or has no such weight."""
    variable = getattr(layer, name, None)
    return None if variable is None else tuple(sizes.weight(variable))


def _from_axis(field: str, weight: str, axis: int) -> Callable[[Layer, Config, Sizes], Config]:
    """An edit that sets a field to the length of an axis of a weight."""

    def edit(layer: Layer, config: Config, sizes: Sizes) -> Config:
        shape = _new_shape(layer, weight, sizes)
        return {} if shape is None else {field: shape[axis]}

    return edit


def _convolution(layer: Any, config: Config, sizes: Sizes) -> Config:
    shape = _new_shape(layer, "kernel", sizes)
    if shape is None:
        return {}
    groups = config.get("groups", 1)
    # A group stays whole or goes.
    per_group = layer.kernel.shape[-1] // groups
    changed = {"groups": shape[-1] // per_group} if groups > 1 else {}
    return {"filters": shape[-1], **changed}


def _embedding(layer: Any, config: Config, sizes: Sizes) -> Config:
    shape = _new_shape(layer, "embeddings", sizes)
    return {} if shape is None else {"input_dim": shape[0], "output_dim": shape[1]}


def _einsum_dense(layer: Any, config: Config, sizes: Sizes) -> Config:
    kernel = _new_shape(layer, "kernel", sizes)
    operands, _, outputs = config["equation"].replace(" ", "").partition("->")
    weights = operands.partition(",")[2]
    if kernel is None or len(weights) != len(kernel):
        return {}
    lengths = dict(zip(weights, kernel))
    shape = list(config["output_shape"])
    # From the right, up to an ellipsis; the batch axis is not in the config.
    letters = outputs.rpartition(".")[2]
    known = next(iter(sizes.outputs(layer)), ())
    for i in range(1, min(len(shape), len(letters)) + 1):
        if shape[-i] is not None and letters[-i] in lengths:
            shape[-i] = lengths[letters[-i]]
        elif shape[-i] is not None and len(known) >= i and known[-i] is not None:
            shape[-i] = known[-i]
    return {"output_shape": tuple(shape)}


def _recurrent(field: str, axis: int) -> Callable[[Layer, Config, Sizes], Config]:
    of_cell = _from_axis(field, "recurrent_kernel", axis)
    return lambda layer, config, sizes: of_cell(getattr(layer, "cell", layer), config, sizes)


def _attention(layer: Any, config: Config, sizes: Sizes) -> Config:
    if getattr(layer, "_output_dense", None) is None:
        return {}
    query, key, value, output = (
        tuple(sizes.weight(projection.kernel))
        for projection in (
            layer._query_dense,
            layer._key_dense,
            layer._value_dense,
            layer._output_dense,
        )
    )
    if "num_query_heads" in config:
        return {
            "num_query_heads": query[1],
            "num_key_value_heads": key[1],
            "head_dim": query[2],
        }
    changed: Config = {"num_heads": query[1], "key_dim": query[2], "value_dim": value[2]}
    if config["output_shape"] or output[2:] != query[:1]:  # by default as wide as the query
        changed["output_shape"] = output[2:]
    # tf_keras saves the shapes that it is built with.
    for name, kernel in (("query_shape", query), ("key_shape", key), ("value_shape", value)):
        if config.get(name) is not None:
            changed[name] = (*tuple(config[name])[:-1], kernel[0])
    return changed


def _group_normalization(layer: Any, config: Config, sizes: Sizes) -> Config:
    for name in ("gamma", "beta"):
        variable = getattr(layer, name, None)
        if variable is not None:
            return _groups(config, math.prod(variable.shape), math.prod(sizes.weight(variable)))
    shapes = sizes.inputs(layer)
    new = shapes[0][config["axis"]] if shapes else None
    if new is None:
        return {}
    [old] = layer.input_spec.axes.values()
    return _groups(config, old, new)


def _groups(config: Config, old: int, new: int) -> Config:
    if config["groups"] == -1:
        return {}
    return {"groups": new // (old // config["groups"])}


def _rms_normalization(layer: Any, config: Config, sizes: Sizes) -> Config:
    """The mean square of the `m` channels that stay is `n / m` times that of all `n`."""
    shape = _new_shape(layer, "scale", sizes)
    if shape is None:
        return {}
    old, new = math.prod(layer.scale.shape), math.prod(shape)
    return {"epsilon": config["epsilon"] * old / new} if new != old else {}


def _target_shape(layer: Layer, config: Config, sizes: Sizes) -> Config:
    shapes = sizes.outputs(layer)
    return {"target_shape": merged(config["target_shape"], shapes[0][1:])} if shapes else {}


def _input(layer: Layer, config: Config, sizes: Sizes) -> Config:
    shapes = sizes.outputs(layer)
    fields = [name for name in ("batch_shape", "batch_input_shape") if config.get(name)]
    return {name: merged(config[name], shapes[0]) for name in fields} if shapes else {}


def _dropout(layer: Layer, config: Config, sizes: Sizes) -> Config:
    shapes = sizes.inputs(layer)
    noise = config.get("noise_shape")
    if noise is None or not shapes or len(noise) != len(shapes[0]):
        return {}
    return {
        "noise_shape": tuple(o if o == 1 else n for o, n in zip(noise, merged(noise, shapes[0])))
    }


def _lambda(layer: Layer, config: Config, sizes: Sizes) -> Config:
    shapes, shape = sizes.outputs(layer), config.get("output_shape")
    is_shape = isinstance(shape, (tuple, list)) and all(
        isinstance(length, (int, type(None))) for length in shape
    )
    return {"output_shape": merged(shape, shapes[0][1:])} if is_shape and shapes else {}


_LAYERS: dict[str, Callable[[Any, Config, Sizes], Config]] = {
    "InputLayer": _input,
    "Dense": _from_axis("units", "kernel", -1),
    "EinsumDense": _einsum_dense,
    # The classes of tf_keras that inherit from Conv stand before it.
    **dict.fromkeys(("Conv", "BaseConv"), _convolution),
    **dict.fromkeys(
        ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose", "BaseConvTranspose"),
        _from_axis("filters", "kernel", -2),
    ),
    **dict.fromkeys(("DepthwiseConv", "BaseDepthwiseConv"), lambda layer, config, sizes: {}),
    **dict.fromkeys(
        ("SeparableConv", "BaseSeparableConv"), _from_axis("filters", "pointwise_kernel", -1)
    ),
    **dict.fromkeys(("Embedding", "ReversibleEmbedding"), _embedding),
    **dict.fromkeys(
        ("SimpleRNN", "SimpleRNNCell", "GRU", "GRUCell", "LSTM", "LSTMCell"),
        _recurrent("units", 0),
    ),
    **dict.fromkeys(("ConvLSTM", "ConvLSTMCell"), _recurrent("filters", -2)),
    **dict.fromkeys(
        ("MultiHeadAttention", "GroupQueryAttention", "GroupedQueryAttention"), _attention
    ),
    "GroupNormalization": _group_normalization,
    "RMSNormalization": _rms_normalization,
    "LayerScale": _from_axis("projection_dim", "gamma", -1),
    "Reshape": _target_shape,
    "Dropout": _dropout,
    "Lambda": _lambda,
}


def _shape_field(name: str) -> Callable[[Any, Config, Sizes], Config]:
    def edit(operation: Any, config: Config, sizes: Sizes) -> Config:
        shapes = sizes.outputs(operation)
        old = getattr(operation, name, None)
        if not shapes or not isinstance(old, (tuple, list)):
            return {}
        new = merged(old, shapes[0])
        return {name: new} if new != tuple(old) else {}

    return edit


# By the class of an operation of Keras 3.
_OPERATIONS: dict[str, Callable[[Any, Config, Sizes], Config]] = {
    "Reshape": _shape_field("newshape"),
    "BroadcastTo": _shape_field("shape"),
}


def _edited_call(operation: Any, call: Config, sizes: Sizes) -> Config:
    """The arguments of the call of a function, with a shape that fits the new sizes."""
    args, kwargs = list(call["args"]), dict(call["kwargs"])
    if backend.function_name(operation) in _TAKE_SHAPES:
        if len(args) > 1:
            args[1] = _called_shape(operation, args[1], sizes)
        elif "shape" in kwargs:
            kwargs["shape"] = _called_shape(operation, kwargs["shape"], sizes)
    return {"args": tuple(args), "kwargs": kwargs}


def _called_shape(operation: Any, shape: Any, sizes: Sizes) -> Any:
    """A shape, of which single lengths may be tensors."""
    shapes = sizes.outputs(operation)
    if backend.is_symbolic(shape) or not shapes:
        return shape
    entries = list(shape) if isinstance(shape, (list, tuple)) else np.asarray(shape).tolist()
    if len(entries) != len(shapes[0]):
        return shape
    return [
        old if not isinstance(old, int) or old == -1 or new is None else new
        for old, new in zip(entries, shapes[0])
    ]


# The functions of TensorFlow that take a shape as their second argument, `shape`.
_TAKE_SHAPES = ("reshape", "broadcast_to")
