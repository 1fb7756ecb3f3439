"""Rules for recurrent layers, in one direction or both."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tfreg import backend
from tfreg.inventory import Layer, Variable
from tfreg.structure.channelwise import applied, mixing_reason
from tfreg.structure.kernels import array, blocked_reason
from tfreg.structure.tracing import Fold, Known, Rule, Step, Value

# From what is known of a step's inputs, what is known of a tensor.
Knowledge: TypeAlias = Callable[[list[Known]], Known]


class Channels(NamedTuple):
    """The channels of a tensor inside of a layer."""

    labels: np.ndarray
    known: Knowledge


class _Kind(NamedTuple):
    gates: int
    candidate: int  # the gate that is all that a state which starts at 0 can grow from
    states: int


_CELLS = {
    "SimpleRNNCell": _Kind(1, 0, 1),
    "GRUCell": _Kind(3, 2, 1),
    "LSTMCell": _Kind(4, 2, 2),
    "ConvLSTMCell": _Kind(4, 2, 2),
}


class _Arguments(NamedTuple):
    sequence: Value
    states: list[Any]


class _Results(NamedTuple):
    cells: list[Channels]
    states: list[Channels]

    @property
    def output(self) -> Channels:
        return self.cells[-1]


def nothing(known: list[Known]) -> Known:
    """What is known of a tensor of which nothing is."""
    return None


def channels_of(step: Step, value: Value, axis: int) -> Channels:
    """The channels of an input along an `axis`; its other axes are kept whole."""
    axis %= len(value.shape)
    step.keep_other_axes(value, axis)
    labels = step.labels_of(value, axis, step.path)
    if value.channel_axis != axis:
        return Channels(labels, nothing)
    index = index_of(step, value)
    return Channels(labels, lambda known: known[index])


def index_of(step: Step, value: Value) -> int:
    """Which input a value in the step's arguments is."""
    return next(i for i, each in enumerate(step.inputs) if each is value)


def pin_others(step: Step, used: list[Value]) -> None:
    """Keeps what stands in inputs, such as masks, that have no channels."""
    for value in step.inputs:
        if not any(value is each for each in used):
            for labels in value.axes:
                step.pin(labels, f"{step.path} takes it as a mask")


def recurrent(step: Step) -> list[Value]:
    """LSTM, GRU, SimpleRNN, ConvLSTM, and RNN of these cells."""
    layer, given = step.operation, _arguments(step)
    reason = _unknown_reason(layer) if given else "takes more than a sequence and its states"
    if given is None or reason is not None:
        return step.pin_all(f"{step.path} {reason}")
    sequence = channels_of(step, given.sequence, _channel_axis(layer))
    results = _run(step, layer, sequence, given)
    tensors = [results.output, *(results.states if layer.return_state else [])]
    return _values(step, tensors, [_channel_axis(layer)] * len(tensors))


def bidirectional(step: Step) -> list[Value]:
    """Two recurrent layers whose outputs are merged or not."""
    layer, given = step.operation, _arguments(step)
    directions = (layer.forward_layer, layer.backward_layer)
    reason = next(filter(None, map(_unknown_reason, directions)), None)
    if given is None:
        reason = "takes more than a sequence and its states"
    if given is None or reason is not None:
        return step.pin_all(f"{step.path} {reason}")
    axis = _channel_axis(directions[0])
    sequence = channels_of(step, given.sequence, axis)
    half = len(given.states) // 2
    states = (given.states[:half], given.states[half:])
    first, second = (
        _run(step, each, sequence, given._replace(states=own))
        for each, own in zip(directions, states)
    )
    # Keras takes both to be as wide as the forward layer, and may save its config alone.
    for one, other in zip(first.cells[::-1], second.cells[::-1]):
        if len(one.labels) == len(other.labels):
            step.unify(one.labels, other.labels)
        else:
            for labels in (one.labels, other.labels):
                step.pin(labels, f"the two layers of {step.path} differ in their units")
    tensors = _merged(layer.merge_mode, axis, first.output, second.output)
    if layer.return_state:
        tensors += first.states + second.states
    return _values(step, tensors, [axis] * len(tensors))


def _merged(mode: str | None, axis: int, first: Channels, second: Channels) -> list[Channels]:
    if mode is None:
        return [first, second]
    if mode == "concat" and axis == -1:
        labels = np.concatenate([first.labels, second.labels])
        return [Channels(labels, lambda known: _joined(first, second, known))]

    def known_of_both(known: list[Known]) -> Known:
        zeros = are_zero(first, known), are_zero(second, known)
        return zeros_at(zeros[0] | zeros[1] if mode == "mul" else zeros[0] & zeros[1])

    return [Channels(first.labels, known_of_both)]


def _joined(first: Channels, second: Channels, known: list[Known]) -> Known:
    return zeros_at(np.concatenate([are_zero(first, known), are_zero(second, known)]))


def are_zero(channels: Channels, known: list[Known]) -> np.ndarray:
    """Which channels are the constant 0."""
    constants = channels.known(known)
    return np.zeros(len(channels.labels), bool) if constants is None else constants == 0.0


def zeros_at(places: np.ndarray) -> Known:
    """Constants that are 0 there, and not known elsewhere."""
    return np.where(places, 0.0, np.nan) if places.any() else None


def _values(step: Step, tensors: list[Channels], axes: list[int]) -> list[Value]:
    assert len(tensors) == len(step.output_shapes), step.path
    step.constants = lambda known: [tensor.known(known) for tensor in tensors]
    return [
        step.value(shape, axis, tensor.labels)
        for shape, axis, tensor in zip(step.output_shapes, axes, tensors)
    ]


def _arguments(step: Step) -> _Arguments | None:
    """The sequence and the initial states of the call; None if there is more."""
    named = step.kwargs.get("sequences", step.kwargs.get("inputs"))
    first = step.args[0] if step.args else named
    # tf_keras puts the states of the call behind the sequence.
    together: list[Any] = [*first] if isinstance(first, list) else [first]
    sequence = together[0]
    has_constants = bool(getattr(step.operation, "_num_constants", None))
    if not isinstance(sequence, Value) or has_constants:
        return None
    given = [*together[1:], *step.args[1:2], step.kwargs.get("initial_state")]
    states = list(_leaves(given))
    pin_others(step, [sequence, *(each for each in states if isinstance(each, Value))])
    return _Arguments(sequence, states)


def _leaves(structure: Any) -> Iterator[Any]:
    if type(structure) in (list, tuple):
        for entry in structure:
            yield from _leaves(entry)
    elif structure is not None:
        yield structure


def _unknown_reason(layer: Layer) -> str | None:
    """Why a layer cannot be followed at all."""
    if not backend.is_of_keras(layer) or not hasattr(layer, "cell"):
        return f"holds a {type(layer).__name__}, which is not followed"
    if getattr(layer.cell, "reverse_state_order", False):
        return "has its states in reverse order"
    for cell in _cells(layer):
        if not backend.is_of_keras(cell) or type(cell).__name__ not in _CELLS:
            return f"has a cell that is not followed, {type(cell).__name__}"
        reason = blocked_reason(cell)
        if reason is not None:
            return f"has a cell that is not cut: {reason}"
    return None


def _cells(layer: Layer) -> list[Layer]:
    if backend.is_of_keras(layer.cell) and type(layer.cell).__name__ == "StackedRNNCells":
        return list(layer.cell.cells)
    return [layer.cell]


def _channel_axis(layer: Layer) -> int:
    """The axis of the channels of all of the layer's tensors, counted from the last."""
    cell = layer.cell
    is_first = getattr(cell, "data_format", "channels_last") == "channels_first"
    return -1 - cell.rank if is_first else -1


def _run(step: Step, layer: Layer, sequence: Channels, given: _Arguments) -> _Results:
    """Follows the cells of a recurrent layer."""
    cells: list[Channels] = []
    states: list[Channels] = []
    initial = list(given.states)
    for cell in _cells(layer):
        count = _CELLS[type(cell).__name__].states
        own, initial = initial[:count], initial[count:]
        units = _follow_cell(step, layer, cell, cells[-1] if cells else sequence, own)
        cells.append(units)
        # The hidden state, and the carry state of an LSTM, are 0 together.
        states += [units] * count
        times = _length(layer, given.sequence) * _places(step, layer)
        step.use(cell.kernel, times)
        step.use(cell.recurrent_kernel, times)
    return _Results(cells, states)


def _follow_cell(
    step: Step, layer: Layer, cell: Layer, inputs: Channels, initial: list[Any]
) -> Channels:
    """Labels the weights of a cell, and tells what they read; the units."""
    kind = _CELLS[type(cell).__name__]
    kernel, recurrent_kernel = cell.kernel, cell.recurrent_kernel
    bias = cell.bias if cell.use_bias else None
    columns = len(kernel.shape) - 1
    rows = columns - 1
    units = step.new(recurrent_kernel.shape[rows])
    gates = step.weight(kernel, columns, np.tile(units, kind.gates))
    step.weight(recurrent_kernel, columns, gates)
    if bias is not None:
        step.weight(bias, len(bias.shape) - 1, gates)
    reason = _fixed_reason(step, layer, cell)
    if reason is not None:
        step.pin(units, f"{step.path} {reason}")
    starts = [_initial(step, layer, state, units) for state in initial]

    def known(given: list[Known]) -> Known:
        if reason is not None or applied(cell.activation, np.zeros(1))[0] != 0.0:
            return None
        starts_at_zero = np.ones(len(units), bool)
        for start in starts:
            starts_at_zero &= are_zero(start, given)
        return zeros_at(_stay_zero(cell, kind, bias, are_zero(inputs, given), starts_at_zero))

    fold = _fold(cell, bias, kernel) if bias is not None else None
    step.read(kernel, rows, inputs.labels, lambda given, _: inputs.known(given), fold)
    step.read(recurrent_kernel, rows, units, lambda given, _: known(given))
    return Channels(units, known)


def _fixed_reason(step: Step, layer: Layer, cell: Layer) -> str | None:
    """Why the units of a layer that is followed stay."""
    if layer.stateful:
        return "keeps its states from batch to batch"
    functions = [cell.activation, getattr(cell, "recurrent_activation", None)]
    return next(filter(None, (mixing_reason(step, each) for each in functions)), None)


def _initial(step: Step, layer: Layer, state: Any, units: np.ndarray) -> Channels:
    """Unifies an initial state that a call was given with the units."""
    if not isinstance(state, Value):
        step.pin(units, f"{step.path} is given an array as initial state")
        return Channels(units, nothing)
    axis = _channel_axis(layer) % len(state.shape)
    if state.axes[axis] is None:
        step.pin(units, f"its initial state is {state.source}")
        return Channels(units, nothing)
    initial = channels_of(step, state, axis)
    step.unify(initial.labels, units)
    return initial


def _stay_zero(
    cell: Layer,
    kind: _Kind,
    bias: Variable | None,
    inputs_are_zero: np.ndarray,
    starts_at_zero: np.ndarray,
) -> np.ndarray:
    """Which of the units that start at 0 never leave it, whatever the gates are.

    They are the largest set of units whose candidate has no bias and reads neither an input that
    may differ from 0 nor a unit outside of the set.
    """
    count = len(starts_at_zero)
    candidates = slice(kind.candidate * count, (kind.candidate + 1) * count)
    # By rows and columns, at any position of a convolution.
    reads, reads_units = (
        (array(kernel)[..., candidates] != 0.0).any(axis=tuple(range(len(kernel.shape) - 2)))
        for kernel in (cell.kernel, cell.recurrent_kernel)
    )
    stay = starts_at_zero & ~reads[~inputs_are_zero].any(axis=0)
    if bias is not None:
        stay &= (array(bias)[..., candidates].reshape(-1, count) == 0.0).all(axis=0)
    while True:
        left = stay & ~reads_units[~stay].any(axis=0)
        if (left == stay).all():
            return stay
        stay = left


def _fold(cell: Layer, bias: Variable, kernel: Variable) -> Fold | None:
    """Constants go into the bias wherever the kernel sees no padding."""
    if len(kernel.shape) > 2 and cell.padding != "valid" and max(kernel.shape[:-2]) > 1:
        return None
    has_two = len(bias.shape) == 2

    def shift(weight: np.ndarray, constants: np.ndarray) -> np.ndarray:
        gain = constants @ weight.reshape(-1, *weight.shape[-2:]).sum(axis=0)
        # A GRU has a bias for its inputs and one for its states.
        return np.stack([gain, np.zeros_like(gain)]) if has_two else gain

    return Fold(cell, bias, shift)


def _length(layer: Layer, sequence: Value) -> float:
    return sequence.shape[0 if getattr(layer, "time_major", False) else 1] or 1


def _places(step: Step, layer: Layer) -> float:
    """At how many positions a convolutional cell multiplies; 1 for others."""
    rank = getattr(layer.cell, "rank", 0)
    shape = [n or 1 for n in step.output_shapes[0]][-1 - rank :]
    del shape[_channel_axis(layer)]
    return float(np.prod(shape))


LAYERS: dict[str, Rule] = {
    **{name: recurrent for name in ("LSTM", "GRU", "SimpleRNN", "RNN")},
    **{f"ConvLSTM{rank}D": recurrent for rank in (1, 2, 3)},
    "Bidirectional": bidirectional,
}
