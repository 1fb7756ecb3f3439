"""Following the channels of a model: labels for the positions of axes of tensors and weights."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tfreg import backend
from tfreg.inventory import Layer, Model, Variable
from tfreg.structure.labels import Labels

Shape: TypeAlias = tuple[int | None, ...]


class Value(NamedTuple):
    """A tensor of the graph.

    Args:
        shape: its shape, with None for the batch and for other lengths that are not known.
        axes: for each axis the labels of its positions, or None for an axis that nothing cuts.
        source: what made the tensor, for the reason why a weight that reads it is not cut.
    """

    shape: Shape
    axes: tuple[np.ndarray | None, ...]
    source: str = ""

    @property
    def channel_axis(self) -> int | None:
        """The one axis that has labels; None if there are none or several."""
        labelled = [axis for axis, labels in enumerate(self.axes) if labels is not None]
        return labelled[0] if len(labelled) == 1 else None


# What is known of a tensor at inference: for each position of its channel axis the constant that
# it holds for every input, or NaN. None: nothing is known.
Known: TypeAlias = np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Fold:
    """How a constant channel goes into the bias of a layer that reads it.

    Args:
        layer: the layer.
        bias: its bias; None if it gets one.
        shift: what the bias gains, from the weight and from the constants along the axis that it
            reads, which are 0 for channels that stay.
    """

    layer: Layer
    bias: Variable | None
    shift: Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Read:
    """What sums over the channels of a tensor: an axis of a weight, or a norm.

    Args:
        variable: the weight; None for a norm, which only zeros may leave.
        axis: its axis.
        labels: the labels along it.
        known: the constants along it, from those of the step's inputs and outputs.
        fold: where these go; None if only zeros may be left out.
    """

    variable: Variable | None
    axis: int
    labels: np.ndarray
    known: Callable[[list[Known], list[Known]], Known]
    fold: Fold | None = None


class Step:
    """One call of one operation, with a `Value` for each of its tensors.

    A rule returns the values of the outputs, and tells of the step what compaction must know.

    Attributes:
        operation: the layer or operation.
        args, kwargs: the arguments of the call, a `Value` in place of each tensor.
        inputs: these values, in order.
        dtypes: the dtypes of the tensors of the call.
        output_shapes: the shapes of the flat outputs.
        path: how messages call the operation.
        outputs: the rule's values.
        reads: the `Read`s.
        constants: from what is `Known` of the inputs, what is known of each output.
        uses: pairs of a weight and how often each of its elements is multiplied for an example.
        rescaled: triples of a weight, labels, and by what the weight is multiplied if of the `n`
            positions with these labels `m` stay.
    """

    def __init__(self, trace: "Trace", call: backend.Call, inputs: list[Value], path: str) -> None:
        self.trace = trace
        self.operation = call.operation
        by_id = {id(tensor): value for tensor, value in zip(call.inputs, inputs)}
        self.args = backend.mapped(call.args, lambda tensor: by_id[id(tensor)])
        self.kwargs = backend.mapped(call.kwargs, lambda tensor: by_id[id(tensor)])
        self.inputs = inputs
        self.dtypes = [tensor.dtype for tensor in call.inputs]
        self.output_shapes = [backend.shape_of(tensor) for tensor in call.outputs]
        self.path = path
        self.outputs: list[Value] = []
        self.reads: list[Read] = []
        self.uses: list[tuple[Variable, float]] = []
        self.rescaled: list[tuple[Variable, np.ndarray, Callable[[int, int], float]]] = []
        self.constants: Callable[[list[Known]], list[Known]] = self.nothing_known

    def nothing_known(self, known: list[Known]) -> list[Known]:
        return [None] * len(self.output_shapes)

    def new(self, count: int) -> np.ndarray:
        return self.trace.labels.new(count)

    def unify(self, first: np.ndarray, second: np.ndarray) -> None:
        """Unifies labels pair by pair; one label goes with all of the other."""
        first, second = np.broadcast_arrays(first, second)
        self.trace.labels.unify(first.ravel(), second.ravel())

    def pin(self, labels: np.ndarray | None, reason: str) -> None:
        """Keeps what has these `labels`, for a `reason` that a user understands."""
        if labels is not None:
            self.trace.labels.pin(labels, reason)

    def pin_all(self, reason: str) -> list[Value]:
        """Keeps what the inputs and the layer's weights hold; values that nothing cuts."""
        for value in self.inputs:
            for labels in value.axes:
                self.pin(labels, reason)
        self.pin_weights(self.operation, reason)
        return [self.unlabelled(shape) for shape in self.output_shapes]

    def pin_weights(self, layer: Layer, reason: str) -> None:
        for variable in self.trace.variables_in(layer):
            self.trace.block(variable, reason)

    def keep_other_axes(self, value: Value, axis: int) -> None:
        """Keeps what lies along other axes than the one whose channels the layer reads."""
        for other, labels in enumerate(value.axes):
            if other != axis % len(value.shape):
                self.pin(labels, f"{self.path} takes its channels from another axis")

    def unlabelled(self, shape: Shape) -> Value:
        return Value(shape, (None,) * len(shape), self.path)

    def value(self, shape: Shape, axis: int, labels: np.ndarray | None) -> Value:
        """A tensor of which one axis has labels."""
        axes: list[np.ndarray | None] = [None] * len(shape)
        axes[axis] = labels
        return Value(shape, tuple(axes), self.path)

    def weight(self, variable: Variable, axis: int, labels: np.ndarray | None = None) -> np.ndarray:
        """The labels along an `axis` of a weight, made when first asked for.

        Given `labels` become one with them, so that a weight that is used twice unifies.
        """
        return self.trace.weight(variable, axis, labels)

    def labels_of(self, value: Value, axis: int, of: str) -> np.ndarray:
        """The labels of a value's axis; pinned ones for an axis that has none.

        `of` says what reads them.
        """
        labels, length = value.axes[axis], value.shape[axis]
        if labels is None:
            if length is None:
                raise ValueError(f"{self.path} has an axis of unknown length, which {of} reads")
            labels = self.new(length)
            self.pin(labels, f"it reads {value.source}")
        return labels

    def read(
        self,
        variable: Variable,
        axis: int,
        labels: np.ndarray,
        value: int | Callable[[list[Known], list[Known]], Known] = 0,
        fold: Fold | None = None,
    ) -> np.ndarray:
        """Tells that the layer sums over an `axis` of a weight, which has these `labels`.

        `value` is the input whose channels, in the same order, these are; or a function that gives
        the constants along the axis from what is known of the inputs and of the outputs.
        """
        axis %= len(variable.shape)
        if callable(value):
            known = value
        else:
            # What is known of an input is known along its one axis with labels.
            source = self.inputs[value]
            at = source.channel_axis
            is_of_axis = at is not None and source.axes[at] is labels
            known = _of_input(value) if is_of_axis else _nothing
        labels = self.weight(variable, axis, labels)
        self.reads.append(Read(variable, axis, labels, known, fold))
        return labels

    def read_norm(self, labels: np.ndarray, value: int = 0) -> None:
        """Tells that the layer takes a norm over the channels of an input: only zeros may go."""
        self.reads.append(Read(None, 0, labels, _of_input(value)))

    def use(self, variable: Variable, times: float) -> None:
        self.uses.append((variable, times))


def _of_input(index: int) -> Callable[[list[Known], list[Known]], Known]:
    return lambda inputs, outputs: inputs[index]


def _nothing(inputs: list[Known], outputs: list[Known]) -> Known:
    return None


Rule: TypeAlias = Callable[[Step], list[Value]]


class Trace:
    """All steps of a model, from its inputs to its outputs, with the labels that they share.

    Args:
        model: a Functional or built Sequential model.
        rule_for: finds the rule for an operation.
        elementwise: functions of the user that act on each element apart.
    """

    def __init__(
        self,
        model: Model,
        rule_for: Callable[[Any], Rule],
        elementwise: frozenset[Any] = frozenset(),
    ) -> None:
        self.elementwise = elementwise
        self.labels = Labels()
        self.steps: list[Step] = []
        # The labels along axes of weights, by the weight's id and the axis.
        self.axes: dict[tuple[int, int], np.ndarray] = {}
        self.variables: dict[int, Variable] = {}
        # For each input layer and operation, the values that it yields, call by call.
        self.values: dict[int, list[list[Value]]] = {}
        self.input_values: dict[int, list[list[Value]]] = {}
        # The values outside of inner models by the ids of those inside.
        self.outer_values: dict[int, Value] = {}
        self.blocked: dict[int, str] = {}
        # Axes of weights that meet an axis of a tensor that nothing cuts.
        self._whole: dict[tuple[int, int], str] = {}
        self.rule_for = rule_for
        self._variables_in: dict[int, list[Variable]] = {}
        graph = backend.graph_of(model)
        if graph is None:
            raise ValueError(f"The model {model.name!r} has no graph to follow: it is not built.")
        inputs = []
        for tensor in graph.inputs:
            shape = backend.shape_of(tensor)
            source = f"the model's input {backend.tensor_name(tensor)!r}"
            inputs.append(Value(shape, (None,) * len(shape), source))
        self.outputs = self._follow(graph, inputs, ())
        for value in self.outputs:
            for labels in value.axes:
                if labels is not None:
                    self.labels.pin(labels, "it is an output of the model")
        # A weight along one axis and along another: what is blocked later holds too.
        for (key, axis), labels in self.axes.items():
            reason = self.blocked.get(key, self._whole.get((key, axis)))
            if reason is not None:
                self.labels.pin(labels, reason)

    def _follow(
        self, graph: backend.Graph, inputs: list[Value], names: tuple[str, ...]
    ) -> list[Value]:
        values = {id(tensor): value for tensor, value in zip(graph.inputs, inputs)}
        for call in graph.calls:
            arguments = [values[id(tensor)] for tensor in call.inputs]
            outputs = self.call(call, arguments, names)
            operation = id(call.operation)
            self.values.setdefault(operation, []).append(outputs)
            self.input_values.setdefault(operation, []).append(arguments)
            values |= {id(tensor): value for tensor, value in zip(call.outputs, outputs)}
        return [values[id(tensor)] for tensor in graph.outputs]

    def call(self, call: backend.Call, inputs: list[Value], names: tuple[str, ...]) -> list[Value]:
        """Follows a call inside of the layers with these `names`; the values that it yields."""
        names = (*names, call.operation.name)
        for variable in backend.variables_among(call.args, call.kwargs):
            self.block(variable, f"{'/'.join(names)} computes with it")
        reason = _call_reason(call, "/".join(names))
        if reason is not None:
            step = Step(self, call, inputs, "/".join(names))
            step.outputs = step.pin_all(reason)
            self.steps.append(step)
            return step.outputs
        graph = backend.graph_of(call.operation) if backend.is_model(call.operation) else None
        # Masks and other arguments beside the inputs are followed by no inner graph.
        if graph is not None and len(inputs) == len(graph.inputs):
            inputs = [self._as_known_inside(tensor, v) for tensor, v in zip(graph.inputs, inputs)]
            return self._follow(graph, inputs, names)
        step = Step(self, call, inputs, "/".join(names))
        step.outputs = self.rule_for(call.operation)(step)
        if not self.variables_in(call.operation) and inputs and not any(map(_has_labels, inputs)):
            # What reads it further on reads what this one reads.
            step.outputs = [each._replace(source=inputs[0].source) for each in step.outputs]
        self.steps.append(step)
        return step.outputs

    def _as_known_inside(self, tensor: Any, value: Value) -> Value:
        """A `value` given to an inner model, whose input layer has one width in all its calls."""
        earlier = self.values.setdefault(id(backend.maker_of(tensor)), [])
        axes = list(value.axes)
        for [other] in earlier:
            for axis, (first, second) in enumerate(zip(other.axes, value.axes)):
                if first is None and second is None:
                    continue
                if first is None or second is None:
                    known = second if first is None else first
                    assert known is not None
                    self.labels.pin(known, "an inner model is called on tensors that differ")
                    axes[axis] = known
                else:
                    self.labels.unify(first, second)
        inside = value._replace(axes=tuple(axes))
        self.outer_values[id(inside)] = value
        earlier.append([inside])
        return inside

    def weight(self, variable: Variable, axis: int, labels: np.ndarray | None) -> np.ndarray:
        axis %= len(variable.shape)
        key = (id(variable), axis)
        if key not in self.axes:
            made = self.labels.new(variable.shape[axis]) if labels is None else labels
            assert len(made) == variable.shape[axis], (variable, axis, len(made))
            self.axes[key] = made
            self.variables[id(variable)] = variable
        elif labels is not None:
            self.labels.unify(self.axes[key], labels)
        return self.axes[key]

    def keep_whole(self, variable: Variable, axis: int, reason: str) -> None:
        """Keeps an axis of a weight, if another use of the weight labels it."""
        self._whole.setdefault((id(variable), axis % len(variable.shape)), reason)

    def block(self, variable: Variable, reason: str) -> None:
        """Keeps a weight whole."""
        self.variables[id(variable)] = variable
        self.blocked.setdefault(id(variable), reason)

    def variables_in(self, layer: Any) -> list[Variable]:
        """All variables in a layer, those of the layers in it included; none of an operation."""
        if not backend.is_layer(layer):
            return []
        if id(layer) not in self._variables_in:
            self._variables_in[id(layer)] = list(layer.weights)
        return self._variables_in[id(layer)]


def _call_reason(call: backend.Call, path: str) -> str | None:
    """Why a call cannot be followed, whatever is called."""
    if backend.is_set_to_train(call):
        return f"{path} is called with training=True"
    if backend.is_model(call.operation) and backend.takes_by_name(call):
        return f"{path} is called with a dict, and its inputs are none"
    return None


def _has_labels(value: Value) -> bool:
    return any(labels is not None for labels in value.axes)


def positions(shape: Shape, but: int = -1) -> float:
    """The entries of a tensor of an example, without one axis; unknown lengths count 1."""
    but %= len(shape)
    return math.prod(n or 1 for i, n in enumerate(shape) if i not in (0, but))
