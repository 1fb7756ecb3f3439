"""Rules for layers that read along one axis and yield along another: Dense, Embedding and kin."""

import functools
import math
from typing import Any

import numpy as np

from tfreg import backend
from tfreg.layers.registry import weight_layouts
from tfreg.structure.channelwise import applied, mixing_reason
from tfreg.structure.tracing import Fold, Known, Rule, Step, Value, positions


def blocked_reason(layer: Any) -> str | None:
    """Why the weights of a layer cannot be cut; None if they can."""
    if getattr(layer, "lora_enabled", False):
        return f"{layer.name} has LoRA enabled"
    if getattr(layer, "quantization_mode", None) is not None:
        return f"{layer.name} is quantized"
    if any(backend.is_shard(variable) for variable in layer.weights):
        return f"{layer.name} has a weight in shards"
    return None


def unless_blocked(rule: Rule) -> Rule:
    """The same rule, which keeps layers whose weights cannot be cut."""

    @functools.wraps(rule)
    def checked(step: Step) -> list[Value]:
        reason = blocked_reason(step.operation)
        return rule(step) if reason is None else step.pin_all(reason)

    return checked


def yields(step: Step, labels: np.ndarray, bias: Any, axis: int) -> Value:
    """The output of a layer with an activation, whose `axis` has these labels."""
    layer = step.operation
    if bias is not None:
        labels = step.weight(bias, -1, labels)
    reason = mixing_reason(step, getattr(layer, "activation", None))
    if reason is not None:
        step.pin(labels, f"{step.path} {reason}")
    return step.value(step.output_shapes[0], axis, labels)


def constant_sums(kernel: np.ndarray, known: Known, bias: Any) -> Known:
    """`known @ kernel + bias` where no unknown input counts."""
    known = np.full(len(kernel), np.nan) if known is None else known
    is_unknown = np.isnan(known)
    is_constant = (kernel[is_unknown] == 0.0).all(axis=0)
    if not is_constant.any():
        return None
    with np.errstate(invalid="ignore"):  # a weight that is not finite shows in the total
        total = np.nan_to_num(known) @ kernel
    if bias is not None:
        total = total + array(bias)
    return np.where(is_constant, total, np.nan)


def activated(step: Step, known: Known) -> list[Known]:
    """What the layer's activation makes of constants; nothing if it mixes channels."""
    function = getattr(step.operation, "activation", None)
    if known is None or mixing_reason(step, function) is not None:
        return [None]
    return [applied(function, known)]


def array(variable: Any) -> np.ndarray:
    return np.asarray(backend.array_of(variable), np.float64)


@unless_blocked
def dense(step: Step) -> list[Value]:
    layer, [value] = step.operation, step.inputs[:1]
    kernel, bias = layer.kernel, layer.bias
    fold = Fold(layer, bias, lambda kernel, constants: constants @ kernel)
    step.read(kernel, 0, step.labels_of(value, -1, step.path), fold=fold)
    step.use(kernel, positions(value.shape))
    output = yields(step, step.weight(kernel, 1), bias, -1)
    axes = (*value.axes[:-1], output.axes[-1])
    if any(labels is not None for labels in value.axes[:-1]):
        return [output._replace(axes=axes)]
    is_read = value.channel_axis == len(value.shape) - 1
    step.constants = lambda known: activated(
        step, constant_sums(array(kernel), known[0] if is_read else None, bias)
    )
    return [output]


@unless_blocked
def einsum_dense(step: Step) -> list[Value]:
    layer, [value] = step.operation, step.inputs[:1]
    kernel, bias = layer.kernel, layer.bias
    parsed = _parsed(layer.equation, len(value.shape), len(step.output_shapes[0]))
    if parsed is None:
        return step.pin_all(f"the equation {layer.equation!r} of {step.path} is not followed")
    inputs, weights, outputs = parsed
    letters: dict[str, np.ndarray | None] = dict(zip(inputs, value.axes))
    contracted = [letter for letter in weights if letter in inputs and letter not in outputs]
    made = [letter for letter in weights if letter in outputs and letter not in inputs]
    if any(letters[each] is not None for each in inputs if each not in weights + outputs):
        return step.pin_all(f"{step.path} sums over it")
    foldable = set(made) == set(weights) - set(contracted)
    for letter in contracted:
        labels = step.labels_of(value, inputs.index(letter), step.path)
        is_channel = value.channel_axis == inputs.index(letter)
        known = 0 if is_channel else _unknown
        fold = _einsum_fold(layer, weights, letter, outputs) if foldable and is_channel else None
        step.read(kernel, weights.index(letter), labels, known, fold)
    for letter in weights:
        if letter in made:
            letters[letter] = step.weight(kernel, weights.index(letter))
        elif letter in outputs and letters[letter] is not None:
            step.weight(kernel, weights.index(letter), letters[letter])
        elif letter in outputs:
            why = f"{step.path} combines it with {value.source}"
            step.trace.keep_whole(kernel, weights.index(letter), why)
    shape = step.output_shapes[0]
    if bias is not None:
        for axis in range(-len(bias.shape), 0):
            labels_there = letters[outputs[axis]]
            if labels_there is not None and bias.shape[axis] != 1:
                step.weight(bias, axis, labels_there)
    axes = tuple(letters[letter] for letter in outputs)
    reason = mixing_reason(step, layer.activation)
    if reason is not None:
        for labels_there in axes:
            step.pin(labels_there, f"{step.path} {reason}")
    rest = math.prod(
        n or 1 for letter, n in zip(inputs[1:], value.shape[1:]) if letter not in weights
    )
    step.use(kernel, rest)
    return [Value(shape, axes, step.path)]


def _unknown(inputs: list[Known], outputs: list[Known]) -> Known:
    return None


def _einsum_fold(layer: Any, weights: str, letter: str, outputs: str) -> Fold | None:
    """The shift of a bias that has all axes that the kernel makes; a layer gets one of one axis."""
    made = "".join(each for each in outputs if each in weights)
    bias = layer.bias
    if not outputs.endswith(made) or len(made) != (1 if bias is None else len(bias.shape)):
        return None
    if bias is not None and 1 in bias.shape:
        return None
    return Fold(
        layer,
        bias,
        lambda kernel, constants: np.einsum(f"{weights},{letter}->{made}", kernel, constants),
    )


def _parsed(equation: str, input_rank: int, output_rank: int) -> tuple[str, str, str] | None:
    """The letters of the input, the kernel and the output, an ellipsis spelt out."""
    inputs, _, rest = equation.replace(" ", "").partition(",")
    weights, _, outputs = rest.partition("->")
    if "..." in weights:
        return None
    spare = [chr(code) for code in range(ord("A"), ord("Z")) if chr(code) not in equation]
    if "..." in inputs:
        hidden = "".join(spare[: input_rank - len(inputs) + 3])
        inputs, outputs = inputs.replace("...", hidden), outputs.replace("...", hidden)
    fits = len(inputs) == input_rank and len(outputs) == output_rank
    distinct = all(len(set(letters)) == len(letters) for letters in (inputs, weights, outputs))
    return (inputs, weights, outputs) if fits and distinct else None


@unless_blocked
def embedding(step: Step) -> list[Value]:
    layer = step.operation
    table = layer.embeddings
    if _is_reversed(step):
        return _reversed_embedding(step)
    for labels in step.inputs[0].axes:
        step.pin(labels, f"{step.path} looks it up")
    step.use(table, 0)
    axis = len(step.output_shapes[0]) - 1
    step.constants = lambda known: [_constant_columns(array(table))]
    return [step.value(step.output_shapes[0], axis, step.weight(table, 1))]


def _constant_columns(table: np.ndarray) -> np.ndarray:
    return np.where((table == table[:1]).all(axis=0), table[0], np.nan)


def _is_reversed(step: Step) -> bool:
    given = step.kwargs.get("reverse", step.args[1] if len(step.args) > 1 else False)
    return bool(given)


def _reversed_embedding(step: Step) -> list[Value]:
    """The scores of all tokens, from the same table or from one of its own."""
    layer, [value] = step.operation, step.inputs[:1]
    own = getattr(layer, "reverse_embeddings", None)
    step.keep_other_axes(value, -1)
    labels = step.labels_of(value, -1, step.path)
    if own is None:
        step.read(layer.embeddings, 1, labels)
    else:
        step.read(own, 0, labels)
    step.use(layer.embeddings if own is None else own, positions(value.shape))
    return [step.unlabelled(step.output_shapes[0])]


def registered(step: Step) -> list[Value]:
    """A layer that reads the last axis and yields along it, as `tfreg.layers.register` tells."""
    layer, [value] = step.operation, step.inputs[:1]
    layouts = weight_layouts(layer)
    step.keep_other_axes(value, -1)
    read, made, times = step.labels_of(value, -1, step.path), None, positions(value.shape)
    for variable in step.trace.variables_in(layer):
        layout = layouts.get(id(variable))
        if layout is None or any(len(parts) != 1 for parts in layout.axes):
            return step.pin_all(f"the axes of a weight of {step.path} are not registered")
        roles = [parts[0].roles for parts in layout.axes]
        if any(len(role) != 1 for role in roles):
            return step.pin_all(f"an axis of a weight of {step.path} has several roles")
        for axis, role in enumerate(roles):
            if role == {"input"}:
                step.read(variable, axis, read)
                step.use(variable, times)
            elif role == {"output"}:
                made = step.weight(variable, axis, made)
    reason = mixing_reason(step, getattr(layer, "activation", None))
    if reason is not None:
        step.pin(made, f"{step.path} {reason}")
    return [step.value(step.output_shapes[0], -1, made)]


LAYERS: dict[str, Rule] = {
    "Dense": dense,
    "EinsumDense": einsum_dense,
    "Embedding": embedding,
    "ReversibleEmbedding": embedding,
}
KINDS: dict[str, Rule] = {"dense": registered}
