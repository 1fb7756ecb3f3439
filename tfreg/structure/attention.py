"""Rules for attention: a head lives and dies as a whole."""

import math
from typing import Any

import numpy as np

from tfreg import backend
from tfreg.inventory import Layer, Variable
from tfreg.structure.kernels import array, blocked_reason
from tfreg.structure.recurrent import Channels, are_zero, channels_of, pin_others, zeros_at
from tfreg.structure.tracing import Fold, Known, Read, Rule, Step, Value


def attention(step: Step) -> list[Value]:
    """Attention of several heads, or of groups of heads that share a key and a value.

    What is cut is a head, or a group: a head's own dimensions are the same for all heads, and the
    scores depend on their number.
    """
    layer = step.operation
    given = _arguments(step)
    if given is None:
        return step.pin_all(f"{step.path} is not called on a query and a value")
    query, value, key = given
    pin_others(step, [query, value, key])
    gate = getattr(layer, "_gate_dense", None)
    projections = [
        (layer._query_dense, query),
        (layer._key_dense, key),
        (layer._value_dense, value),
        *([] if gate is None else [(gate, query)]),
    ]
    output_layer = layer._output_dense
    for each in (*(projection for projection, _ in projections), output_layer):
        reason = blocked_reason(each)
        if reason is not None:
            return step.pin_all(f"{step.path}: its {reason}")
    inputs = {id(each): channels_of(step, each, -1) for each in given}
    shared = getattr(layer, "num_repeats", 1)
    heads = step.new(layer._value_dense.kernel.shape[1])
    # Query heads that share a key and a value stand side by side.
    query_heads = np.repeat(heads, shared)
    for projection, read in projections:
        is_shared = projection in (layer._key_dense, layer._value_dense)
        _project(step, projection, inputs[id(read)], read, heads if is_shared else query_heads)
    return _outputs(step, query, inputs[id(query)], inputs[id(value)], query_heads)


def _arguments(step: Step) -> tuple[Value, Value, Value] | None:
    """The query, the value and the key."""
    named = dict(zip(("query", "value", "key"), step.args))
    query, value, key = ({**step.kwargs, **named}.get(name) for name in ("query", "value", "key"))
    key = value if key is None else key
    if isinstance(query, Value) and isinstance(value, Value) and isinstance(key, Value):
        return query, value, key
    return None


def _project(
    step: Step, projection: Layer, inputs: Channels, value: Value, heads: np.ndarray
) -> None:
    kernel, bias = projection.kernel, projection.bias
    step.weight(kernel, 1, heads)
    fold = None
    _keep_dimensions(step, kernel, 2)
    if bias is not None:
        step.weight(bias, 0, heads)
        _keep_dimensions(step, bias, 1)
        fold = Fold(projection, bias, lambda kernel, constants: np.tensordot(constants, kernel, 1))
    step.read(kernel, 0, inputs.labels, lambda known, _: inputs.known(known), fold)
    step.use(kernel, math.prod(n or 1 for n in value.shape[1:-1]))


def _keep_dimensions(step: Step, variable: Variable, axis: int) -> None:
    step.pin(step.weight(variable, axis), f"heads of {step.path} have the same dimensions")


def _outputs(
    step: Step, query: Value, queries: Channels, values: Channels, heads: np.ndarray
) -> list[Value]:
    """Labels the projection of all heads to the output, and tells what it reads."""
    layer = step.operation
    kernel, bias = layer._output_dense.kernel, layer._output_dense.bias
    shape, *scores = step.output_shapes
    if scores:
        step.pin(heads, f"{step.path} returns the scores of each head")

    def known_heads(known: list[Known]) -> np.ndarray:
        zeros = _zero_heads(layer._value_dense, values.known(known))
        return np.where(np.repeat(zeros, len(heads) // len(zeros)), 0.0, np.nan)

    step.read(kernel, 0, heads, lambda known, _: known_heads(known))
    _keep_dimensions(step, kernel, 1)
    step.use(kernel, math.prod(n or 1 for n in query.shape[1:-1]))
    rest = [step.unlabelled(each) for each in scores]
    if len(kernel.shape) != 3:
        for axis in range(2, len(kernel.shape)):
            step.pin(step.weight(kernel, axis), f"{step.path} has an output of several axes")
        return [step.unlabelled(shape), *rest]
    channels = step.weight(kernel, 2)
    if bias is not None:
        step.weight(bias, 0, channels)
    if not hasattr(layer, "_output_shape"):
        # Grouped attention is as wide as its query, and takes values of that width alone.
        step.unify(channels, queries.labels)
        step.unify(values.labels, queries.labels)

    def constants(known: list[Known]) -> list[Known]:
        is_read = np.isnan(known_heads(known))
        is_constant = (array(kernel)[is_read] == 0.0).all(axis=(0, 1))
        offset: Any = 0.0 if bias is None else array(bias)
        return [np.where(is_constant, offset, np.nan), *(None for _ in scores)]

    step.constants = constants
    return [step.value(shape, -1, channels), *rest]


def _zero_heads(projection: Layer, known: Known) -> np.ndarray:
    """The heads whose values are 0 for every input, whatever the scores."""
    is_read = array(projection.kernel) != 0.0
    if known is not None:
        is_read = is_read[known != 0.0]
    are_zero = ~is_read.any(axis=(0, 2))
    if projection.bias is not None:
        are_zero &= (array(projection.bias) == 0.0).all(axis=1)
    return are_zero


def plain_attention(step: Step) -> list[Value]:
    """Attention without projections, whose scores sum over the channels of query and key.

    A channel may leave the scores where it adds 0: a product of which one factor is 0, or, if query
    and key are added and go through tanh, a sum of zeros.
    """
    layer = step.operation
    given = step.args[0] if step.args else step.kwargs.get("inputs")
    if type(given) not in (list, tuple) or not all(isinstance(each, Value) for each in given):
        return step.pin_all(f"{step.path} is not called on a query and a value")
    query, value, key = given if len(given) == 3 else (*given, given[1])
    pin_others(step, [query, value, key])
    queries, keys, values = (channels_of(step, each, -1) for each in (query, key, value))
    step.unify(queries.labels, keys.labels)
    # AdditiveAttention of Keras 3 has the score mode of the class that it inherits from.
    is_product = type(layer).__name__ == "Attention" and layer.score_mode == "dot"

    def known_terms(known: list[Known]) -> Known:
        first, second = (are_zero(each, known) for each in (queries, keys))
        return zeros_at(first | second if is_product else first & second)

    scale = getattr(layer, "scale", None)
    if scale is not None and len(scale.shape) == 1:
        if isinstance(layer, backend.tf_keras.layers.Layer):
            # It makes its scale as wide as the value.
            step.unify(values.labels, queries.labels)
        step.read(scale, 0, queries.labels, lambda known, _: known_terms(known))
    else:
        step.reads.append(Read(None, 0, queries.labels, lambda known, _: known_terms(known)))
    shape, *scores = step.output_shapes
    # A mask of the query makes zeros of some positions: of constants only 0 is kept.
    step.constants = lambda known: [zeros_at(are_zero(values, known)), *(None for _ in scores)]
    rest = [step.unlabelled(each) for each in scores]
    return [step.value(shape, -1, values.labels), *rest]


LAYERS: dict[str, Rule] = {
    "MultiHeadAttention": attention,
    "GroupQueryAttention": attention,
    "Attention": plain_attention,
    "AdditiveAttention": plain_attention,
}
