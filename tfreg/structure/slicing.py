"""Rules for slices, for what is taken by constant indices, and for splitting."""

import operator
from typing import Any

import numpy as np

from tfreg.structure.axes import Arguments, Axis, given, moved, numbered, pin_if_one, same
from tfreg.structure.tracing import Step, Value


def get_item(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    parts = _key_parts(arguments["key" if "key" in arguments else "slice_spec"])
    if parts is None:
        return step.pin_all(f"{step.path} picks by something other than numbers and slices")
    taken = sum(part is not None and part is not Ellipsis for part in parts)
    if not any(part is Ellipsis for part in parts):
        parts = [*parts, Ellipsis]
    axes: list[Axis] = []
    left = 0
    for part in parts:
        if part is None:
            axes.append(Axis())
        elif part is Ellipsis:
            rest = len(value.shape) - taken
            axes += [Axis(axis) for axis in range(left, left + rest)]
            left += rest
        else:
            if isinstance(part, slice):
                axes.append(sliced(step, value, left, part))
            else:
                _pin_to(step, value, left, part)
            left += 1
    return moved(step, value, [axes])


def _key_parts(key: Any) -> list[Any] | None:
    """The parts of a key: ints, slices, None and Ellipsis; None if there is another."""
    parts = []
    for part in key if isinstance(key, (tuple, list)) else [key]:
        if isinstance(part, dict) and set(part) == {"start", "stop", "step"}:  # tf_keras's slices
            part = slice(part["start"], part["stop"], part["step"])
        try:
            if isinstance(part, slice):
                part = slice(*map(_index, (part.start, part.stop, part.step)))
            elif part is not Ellipsis:
                part = _index(part)
        except TypeError:
            return None
        parts.append(part)
    return parts


def _index(number: Any) -> int | None:
    if isinstance(number, (bool, np.bool_)):
        raise TypeError
    return None if number is None else operator.index(number)


def sliced(step: Step, value: Value, axis: int, part: slice) -> Axis:
    labels = value.axes[axis]
    if labels is None or part == slice(None):
        return Axis(axis)
    _pin_counted(step, value, axis, part)
    return Axis(axis, np.arange(len(labels))[part])


def _pin_counted(step: Step, value: Value, axis: int, part: slice) -> None:
    """Pins the channels that the bounds of a slice count over: it stays as it is."""
    labels = value.axes[axis]
    assert labels is not None
    count, counted = len(labels), np.zeros(len(labels), bool)
    start, stop = part.start, part.stop
    if part.step not in (None, 1, -1) or (part.step == -1 and (start, stop) != (None, None)):
        counted[:] = True
    # A bound beyond the ends is beyond those of a shorter axis too.
    for bound, is_inside in ((start, (start or 0) > -count), (stop, (stop or 0) < count)):
        if bound is not None and is_inside:
            counted[slice(bound) if bound >= 0 else slice(bound, None)] = True
    if counted.any():
        step.pin(labels[counted], f"{step.path} picks its channels by their numbers")


def _pin_to(step: Step, value: Value, axis: int, index: int) -> None:
    """Pins the channels from an end to the one with this index."""
    labels = value.axes[axis]
    if labels is not None:
        counted = labels[: index + 1] if index >= 0 else labels[index:]
        step.pin(counted, f"{step.path} picks its channels by their numbers")


def slice_of(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    starts = np.asarray(given(arguments, "start_indices", "begin"))
    sizes = np.asarray(given(arguments, "shape", "size"))
    axes = []
    for axis, (start, size) in enumerate(zip(starts.tolist(), sizes.tolist())):
        part = slice(start, None if size < 0 else start + size)
        if start + size > 0 and size >= 0:
            # Unlike a slice's, these bounds must lie within the axis.
            _pin_to(step, value, axis, start + size - 1)
        axes.append(sliced(step, value, axis, part))
    return moved(step, value, [axes])


def split(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    [axis] = numbered(arguments["axis"], len(value.shape))
    labels, count = value.axes[axis], len(step.output_shapes)
    axes = [same(value) for _ in range(count)]
    if labels is None:
        return moved(step, value, axes)
    bounds = np.cumsum([0, *(shape[axis] or 0 for shape in step.output_shapes)])
    sections = given(arguments, "indices_or_sections", "num_or_size_splits")
    if np.ndim(sections) == 0 and len(labels) % count == 0:
        # As many sections, each of which loses the same positions.
        parts = labels.reshape(count, -1)
        step.unify(parts[:1], parts[1:])
        pin_if_one(step, labels, f"{step.path} splits it into single channels")
    elif "indices_or_sections" in arguments and np.ndim(sections) == 1:
        for bound in np.asarray(sections).tolist():
            _pin_counted(step, value, axis, slice(bound))
    else:
        step.pin(labels, f"{step.path} splits it into sections of given lengths")
    for i in range(count):
        axes[i][axis] = Axis(axis, np.arange(bounds[i], bounds[i + 1]))
    if bounds[-1] != len(labels):
        return step.pin_all(f"{step.path} splits it into sections that overlap")
    return moved(step, value, axes)


def unstack(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    [axis] = numbered(arguments["axis"], len(value.shape))
    step.pin(value.axes[axis], f"{step.path} makes a tensor of each of its channels")
    others = [each for each in same(value) if each.of != axis]
    return moved(step, value, [others] * len(step.output_shapes))


def take(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    table, indices = given(arguments, "x", "params"), np.asarray(arguments["indices"])
    axis = arguments.get("axis")
    if axis is None and "params" in arguments:
        axis = 0  # tf.gather's default
    # tf.gather can take along an axis for each index of earlier ones.
    batch = arguments.get("batch_dims") or 0
    if not isinstance(table, Value) or axis is None or batch or indices.dtype.kind not in "iu":
        return step.pin_all(f"{step.path} picks positions in a way that is not followed")
    [axis] = numbered(axis, len(value.shape))
    axes, labels = same(value), value.axes[axis]
    new = [Axis()] * indices.ndim
    if labels is not None:
        counted = slice(indices.max() + 1) if indices.size and indices.min() >= 0 else slice(None)
        step.pin(labels[counted], f"{step.path} picks its channels by their numbers")
        if indices.ndim == 1:
            new = [Axis(axis, indices % len(labels))]
    elif indices.ndim == 1:
        new = [Axis(axis)]
    return moved(step, value, [[*axes[:axis], *new, *axes[axis + 1 :]]])
