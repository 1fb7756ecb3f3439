"""Rules for joining several tensors."""

import math

import numpy as np

from tfreg.structure.axes import arguments_of
from tfreg.structure.tracing import Known, Step, Value


def concatenate(step: Step) -> list[Value]:
    values, axis = _values(step), _joining_axis(step, default=-1)
    if values is None or axis is None:
        return step.pin_all(f"{step.path} has arguments that the model computes")
    return _concatenated(step, values, axis)


def append(step: Step) -> list[Value]:
    axis = (arguments_of(step) or {}).get("axis")
    if axis is None or len(step.inputs) != 2:
        return step.pin_all(f"{step.path} is not followed")
    return _concatenated(step, step.inputs, axis)


def hstack(step: Step) -> list[Value]:
    values = _values(step)
    if values is None or any(len(value.shape) < 2 for value in values):
        return step.pin_all(f"{step.path} is not followed")
    return _concatenated(step, values, 1)


def _concatenated(step: Step, values: list[Value], axis: int) -> list[Value]:
    [shape] = step.output_shapes
    axis %= len(shape)
    if any(len(value.shape) != len(shape) for value in values):
        return step.pin_all(f"{step.path} is not followed")
    lengths = [value.shape[axis] for value in values]
    joined: np.ndarray | None = None
    if any(value.axes[axis] is not None for value in values):
        if any(length is None for length in lengths):
            return step.pin_all(f"{step.path} joins it with a tensor of unknown length")
        parts = [step.labels_of(value, axis, of=step.path) for value in values]
        joined = np.concatenate(parts)
    axes = [joined if i == axis else _unified(step, values, i) for i in range(len(shape))]
    result = step.unlabelled(shape)._replace(axes=tuple(axes))

    def constants(known: list[Known]) -> list[Known]:
        if result.channel_axis != axis:
            return [_agreed(known)]
        parts = [
            np.full(length or 0, math.nan) if each is None or value.channel_axis != axis else each
            for each, value, length in zip(known, values, lengths)
        ]
        return [np.concatenate(parts)]

    step.constants = constants
    return [result]


def stack(step: Step) -> list[Value]:
    values, axis = _values(step), _joining_axis(step, default=0)
    if values is None or axis is None:
        return step.pin_all(f"{step.path} has arguments that the model computes")
    [shape] = step.output_shapes
    axis %= len(shape)
    if any(len(value.shape) != len(shape) - 1 for value in values):
        return step.pin_all(f"{step.path} is not followed")
    axes = [_unified(step, values, i) for i in range(len(shape) - 1)]
    step.constants = lambda known: [_agreed(known)]
    return [step.unlabelled(shape)._replace(axes=(*axes[:axis], None, *axes[axis:]))]


def _values(step: Step) -> list[Value] | None:
    """The tensors that are joined; None unless all are tensors of the model."""
    first = step.args[0] if step.args else next(iter(step.kwargs.values()))
    values = [first] if isinstance(first, Value) else list(first)  # a `Value` is a tuple itself
    is_all = len(values) == len(step.inputs) and all(isinstance(each, Value) for each in values)
    return values if is_all else None


def _joining_axis(step: Step, default: int) -> int | None:
    axis = (arguments_of(step) or {}).get("axis", default)
    return int(axis) if np.ndim(axis) == 0 and not isinstance(axis, Value) else None


def _unified(step: Step, values: list[Value], axis: int) -> np.ndarray | None:
    """The labels of an axis along which several tensors lie side by side."""
    known = [value.axes[axis] for value in values]
    labelled = [labels for labels in known if labels is not None]
    for labels in labelled[1:]:
        step.unify(labelled[0], labels)
    if labelled and len(labelled) < len(values):
        others = [value.source for value, labels in zip(values, known) if labels is None]
        step.pin(labelled[0], f"{step.path} joins it with {others[0]}")
    return labelled[0] if labelled else None


def _agreed(known: list[Known]) -> Known:
    """The constants that are the same in several tensors."""
    given = [each for each in known if each is not None]
    if len(given) < len(known):
        return None
    agree = np.all([each == given[0] for each in given], axis=0)
    return np.where(agree, given[0], math.nan)
