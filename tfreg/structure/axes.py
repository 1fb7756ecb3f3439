"""What the rules for operations without weights share: which axis an axis of an output comes from.

Nothing here has a weight. A rule tells for each axis of an output which axis of the input it is,
and which positions of it, in order; labels and constants are moved alike. Arguments in numbers of
positions, such as the bounds of a slice, stay as they are in the smaller model: the positions that
they count over are pinned. Only the target shapes of reshapes and broadcasts are set anew.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tfreg.structure.tracing import Known, Rule, Shape, Step, Value


class Axis(NamedTuple):
    """Where an axis of an output comes from.

    Args:
        of: the axis of the input; None for a new one.
        positions: those of the input's axis that it holds, in order, -1 for what is filled in; or
            several in each row, which go together; None: all, in their order.
    """

    of: int | None = None
    positions: np.ndarray | None = None


Arguments: TypeAlias = dict[str, Any]
Plan: TypeAlias = Callable[[Step, Value, Arguments], list[Value]]


def of_one(plan: Plan) -> Rule:
    """The rule for an operation on one tensor whose other arguments are constants."""

    def rule(step: Step) -> list[Value]:
        arguments = arguments_of(step)
        if len(step.inputs) != 1 or arguments is None:
            return step.pin_all(f"{step.path} has arguments that the model computes")
        return plan(step, step.inputs[0], arguments)

    return rule


def arguments_of(step: Step) -> Arguments | None:
    """The arguments of a call by name, with what Keras 3 keeps in the operation itself."""
    function = getattr(step.operation, "function", None) or step.operation.call
    try:
        bound = inspect.signature(function).bind(*step.args, **step.kwargs)
    except (TypeError, ValueError):
        return None
    bound.apply_defaults()
    return {**vars(step.operation), **bound.arguments}


def given(arguments: Arguments, *names: str) -> Any:
    """The argument that has one of these names; None if there is none."""
    return next((arguments[name] for name in names if arguments.get(name) is not None), None)


def numbered(axis: Any, rank: int) -> list[int]:
    """Axes as numbers from 0; all where `axis` is None."""
    if axis is None:
        return list(range(rank))
    return [int(each) % rank for each in np.atleast_1d(np.asarray(axis))]


def same(value: Value) -> list[Axis]:
    return [Axis(axis) for axis in range(len(value.shape))]


def moved(
    step: Step,
    value: Value,
    outputs: list[list[Axis]],
    change: Callable[[np.ndarray], Known] = lambda known: known,
    fill: float = math.nan,
) -> list[Value]:
    """The outputs whose axes are those of `value`; `change` is what becomes of constants."""
    shapes = step.output_shapes
    if [len(axes) for axes in outputs] != [len(shape) for shape in shapes]:
        return step.pin_all(f"{step.path} is not followed")
    values = [_value(step, value, axes, shape) for axes, shape in zip(outputs, shapes)]
    if any(made is None for made in values):
        return step.pin_all(f"{step.path} is not followed")
    results = [made for made in values if made is not None]

    def constants(known: list[Known]) -> list[Known]:
        return [
            _constants(known[0], value, made, axes, change, fill)
            for made, axes in zip(results, outputs)
        ]

    step.constants = constants
    return results


def _value(step: Step, value: Value, axes: list[Axis], shape: Shape) -> Value | None:
    """The output, or None if its shape is not what the axes tell."""
    lengths, made = list(shape), [_labels(step, value, axis) for axis in axes]
    for axis, labels in enumerate(made):
        if labels is not None:
            if lengths[axis] not in (None, len(labels)):
                return None
            lengths[axis] = len(labels)
    return Value(tuple(lengths), tuple(made), step.path)


def _labels(step: Step, value: Value, axis: Axis) -> np.ndarray | None:
    labels = None if axis.of is None else value.axes[axis.of]
    if labels is None or axis.positions is None:
        return labels
    positions = axis.positions
    if positions.ndim == 2:
        return labels[positions[:, 0]]
    filled = positions < 0
    picked = labels[np.where(filled, 0, positions)]
    if filled.any():
        picked[filled] = step.new(int(filled.sum()))
        step.pin(picked[filled], f"{step.path} fills it in")
    return picked


def _constants(
    known: Known,
    value: Value,
    made: Value,
    axes: list[Axis],
    change: Callable[[np.ndarray], Known],
    fill: float,
) -> Known:
    if known is None or made.channel_axis is None:
        return None
    axis = axes[made.channel_axis]
    if axis.of != value.channel_axis:
        return None
    if axis.positions is not None:
        known = np.append(known, fill)[axis.positions]  # -1 is the last
        if known.ndim == 2:
            known = np.where((known == known[:, :1]).all(axis=1), known[:, 0], math.nan)
    return change(known)


def pin_if_one(step: Step, labels: np.ndarray, reason: str) -> None:
    """Pins channels that have all become one, which stays."""
    roots = step.trace.labels.roots(labels)
    if len(labels) > 1 and (roots == roots[0]).all():
        step.pin(labels, reason)
