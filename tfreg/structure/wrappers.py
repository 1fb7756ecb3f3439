"""The rule for TimeDistributed, which applies a layer or model to each step in time."""

import copy
from typing import Any

from tfreg import backend
from tfreg.inventory import Layer
from tfreg.structure.recurrent import pin_others
from tfreg.structure.tracing import Rule, Step, Value


def time_distributed(step: Step) -> list[Value]:
    """A layer or model that is applied to each step in time, as if each were an example.

    It is followed as three steps: one that takes the time axis away, those of what is inside, and
    this one, which puts the axis back.
    """
    trace, layer = step.trace, step.operation.layer
    value = step.args[0] if step.args else step.kwargs.get("inputs")
    if not isinstance(value, Value):
        return step.pin_all(f"{step.path} takes several inputs")
    pin_others(step, [value])
    step.pin(value.axes[1], f"{step.path} goes over it")
    inside = _without_time(value)
    entry = _beside(step, step.operation, [value])
    entry.outputs, entry.constants = [inside], lambda known: known
    trace.steps.append(entry)
    first = len(trace.steps)
    if backend.is_model(layer) and backend.graph_of(layer) is not None:
        call = backend.Call(layer, (), {}, [], [])
        results = trace.call(call, [inside], (step.path,))
    else:
        results = _follow_inside(step, layer, inside)
    trace.values.setdefault(id(layer), []).append(results)
    trace.input_values.setdefault(id(layer), []).append([inside])
    length = value.shape[1] or 1
    for each in trace.steps[first:]:
        each.uses = [(variable, times * length) for variable, times in each.uses]
    step.inputs = results
    step.constants = lambda known: known
    return [_with_time(result, step) for result in results]


def _follow_inside(step: Step, layer: Layer, value: Value) -> list[Value]:
    inner = _beside(step, layer, [value])
    inner.path = f"{step.path}/{layer.name}"
    inner.output_shapes = [(shape[0], *shape[2:]) for shape in step.output_shapes]
    inner.outputs = step.trace.rule_for(layer)(inner)
    step.trace.steps.append(inner)
    return inner.outputs


def _beside(step: Step, operation: Any, inputs: list[Value]) -> Step:
    """Another step for a part of what `step` does."""
    part = copy.copy(step)
    part.operation, part.inputs = operation, inputs
    part.args, part.kwargs = tuple(inputs), {}
    part.reads, part.uses, part.rescaled = [], [], []
    part.constants = part.nothing_known
    return part


def _without_time(value: Value) -> Value:
    shape, axes = value.shape, value.axes
    return value._replace(shape=(shape[0], *shape[2:]), axes=(axes[0], *axes[2:]))


def _with_time(value: Value, step: Step) -> Value:
    shape, axes = value.shape, value.axes
    length = step.output_shapes[0][1]
    return Value((shape[0], length, *shape[1:]), (axes[0], None, *axes[1:]), step.path)


LAYERS: dict[str, Rule] = {"TimeDistributed": time_distributed}
