"""Rules for reshapes, and for axes that move, come and go, or repeat."""

import math
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np

from tfreg.structure.axes import Arguments, Axis, given, moved, numbered, pin_if_one, same
from tfreg.structure.tracing import Shape, Step, Value


def reshape(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    [shape] = step.output_shapes
    return moved(step, value, [_reshaped(step, value, shape)])


def reshape_layer(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    """As a reshape; the layer has one target shape in all its calls."""
    results = reshape(step, value, arguments)
    for [earlier] in step.trace.values.get(id(step.operation), []):
        for other, labels in zip(earlier.axes, results[0].axes):
            if other is not None and labels is not None and len(other) == len(labels):
                step.unify(other, labels)
            else:
                step.pin(other, f"{step.path} is called on tensors that differ")
                step.pin(labels, f"{step.path} is called on tensors that differ")
    return results


def flatten(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    if arguments.get("data_format") != "channels_first" or len(value.shape) < 3:
        return reshape(step, value, arguments)
    # Keras moves the channels to the end first.
    order = [0, *range(2, len(value.shape)), 1]
    last = Value(
        tuple(value.shape[axis] for axis in order),
        tuple(value.axes[axis] for axis in order),
        value.source,
    )
    axes = _reshaped(step, last, step.output_shapes[0])
    back = [Axis(None if axis.of is None else order[axis.of], axis.positions) for axis in axes]
    return moved(step, value, [back])


def _reshaped(step: Step, value: Value, shape: Shape) -> list[Axis]:
    """The axes of `value` in another shape, in row-major order.

    Both shapes are cut into blocks of equal size, from the last axis on; within a block of one axis
    each nothing happens.
    """
    before, after = _products(*_lengths(value.shape, shape))
    axes: list[Axis] = []
    left, right = len(value.shape), len(shape)
    while left or right:
        start, end = _block(before[: left + 1], after[: right + 1])
        block = _merged(step, value, list(range(start, left)), shape, list(range(end, right)))
        axes = [*block, *axes]
        left, right = start, end
    return axes


# A length as a number times lengths that are not known, each of which has a name.
_Length: TypeAlias = tuple[int, tuple[str, ...]]


def _lengths(before: Shape, after: Shape) -> tuple[list[_Length], list[_Length]]:
    """The lengths of two shapes of as many entries, with names for those that are not known."""
    old: list[_Length] = [
        (1, (f"old {axis}",)) if length is None else (length, ())
        for axis, length in enumerate(before)
    ]
    new: list[_Length] = [
        (1, (f"new {axis}",)) if length is None else (length, ())
        for axis, length in enumerate(after)
    ]
    unknown = [axis for axis, length in enumerate(after) if length is None]
    if len(unknown) > 1 and unknown[0] == 0 and before and before[0] is None:
        new[unknown.pop(0)] = old[0]  # the batch
    if len(unknown) == 1:
        names = [name for _, each in old for name in each]
        for _, each in (new[axis] for axis in range(len(new)) if axis != unknown[0]):
            for name in each:
                names.remove(name)
        size = math.prod(number for number, _ in old)
        rest = math.prod(number for number, _ in new)
        if rest and size % rest == 0:
            new[unknown[0]] = (size // rest, tuple(names))
    return old, new


def _products(*shapes: list[_Length]) -> list[list[_Length]]:
    """For each axis of each shape, the size of what starts there."""
    products = []
    for lengths in shapes:
        sizes: list[_Length] = [(1, ())]
        for number, names in reversed(lengths):
            sizes.append((sizes[-1][0] * number, tuple(sorted((*sizes[-1][1], *names)))))
        products.append(sizes[::-1])
    return products


def _block(before: list[_Length], after: list[_Length]) -> tuple[int, int]:
    """Where the last block starts in each of the shapes that have these products."""
    one_before = len(before) > 1 and before[-2] == before[-1]
    one_after = len(after) > 1 and after[-2] == after[-1]
    if one_before or one_after:  # axes of length 1 come and go
        return len(before) - 1 - one_before, len(after) - 1 - one_after
    for start in range(len(before) - 2, -1, -1):
        for end in range(len(after) - 2, -1, -1):
            if before[start] == after[end]:
                return start, end
    return 0, 0


def _merged(step: Step, value: Value, old: list[int], shape: Shape, new: list[int]) -> list[Axis]:
    """The axes `new` of a reshape, into which it merges or splits the axes `old`."""
    if len(old) == len(new) == 1 and value.shape[old[0]] == shape[new[0]]:
        return [Axis(old[0])]
    labelled = [axis for axis in old if value.axes[axis] is not None]
    for axis in list(labelled):
        if value.shape[axis] == 1:
            step.pin(value.axes[axis], f"{step.path} reshapes an axis of one channel")
            labelled.remove(axis)
    if not labelled:
        return [Axis()] * len(new)
    lengths = [value.shape[axis] for axis in old], [shape[axis] for axis in new]
    known = [[length for length in each if length is not None] for each in lengths]
    if len(labelled) > 1:
        return _fixed(step, value, labelled, len(new), "merges two axes that hold channels")
    if [*map(len, known)] != [*map(len, lengths)] or math.prod(known[0]) != math.prod(known[1]):
        why = "reshapes its channels with an axis of unknown length"
        return _fixed(step, value, labelled, len(new), why)
    [axis] = labelled
    labels = value.axes[axis]
    assert labels is not None
    along = [-1 if each == axis else 1 for each in old]
    places = np.broadcast_to(np.arange(len(labels)).reshape(along), known[0]).reshape(known[1])
    rows = [np.moveaxis(places, i, 0).reshape(known[1][i], -1) for i in range(len(new))]
    choice = _choice(step, labels, rows, is_image=len(value.shape) == 2 and old == [1])
    roots = step.trace.labels.roots(labels[rows[choice]])
    differ = (roots != roots[:, :1]).any(axis=1)
    if differ.any():
        step.unify(roots[differ, :1], roots[differ, 1:])
        pin_if_one(step, labels, f"{step.path} splits its channels over several axes")
    return [Axis(axis, rows[i]) if i == choice else Axis() for i in range(len(new))]


def _choice(step: Step, labels: np.ndarray, rows: list[np.ndarray], is_image: bool) -> int:
    """The axis that the channels lie along: the one on which it depends which channel it is.

    Where that takes several, what lies along one of them goes together: along the last where
    features become an image or a sequence, else along the first, as of heads or groups.
    """
    many = [i for i, places in enumerate(rows) if len(places) > 1]
    for i in many:
        roots = step.trace.labels.roots(labels[rows[i]])
        if (roots == roots[:, :1]).all():
            return i
    return many[-1 if is_image else 0] if many else 0


def _fixed(step: Step, value: Value, labelled: Iterable[int], count: int, why: str) -> list[Axis]:
    for axis in labelled:
        step.pin(value.axes[axis], f"{step.path} {why}")
    return [Axis()] * count


def transpose(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    order = given(arguments, "axes", "perm")
    rank = len(value.shape)
    axes = list(range(rank))[::-1] if order is None else numbered(order, rank)
    return moved(step, value, [[Axis(axis) for axis in axes]])


def permute(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    return moved(step, value, [[Axis(0), *(Axis(axis) for axis in arguments["dims"])]])


def matrix_transpose(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    axes = same(value)
    return moved(step, value, [[*axes[:-2], axes[-1], axes[-2]]])


def swapaxes(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    axes = same(value)
    first, second = arguments["axis1"], arguments["axis2"]
    axes[first], axes[second] = axes[second], axes[first]
    return moved(step, value, [axes])


def moveaxis(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    rank = len(value.shape)
    source = numbered(arguments["source"], rank)
    places = dict(zip(numbered(arguments["destination"], rank), source))
    others = iter([axis for axis in range(rank) if axis not in source])
    order = [places[i] if i in places else next(others) for i in range(rank)]
    return moved(step, value, [[Axis(axis) for axis in order]])


def expand_dims(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    axis = np.atleast_1d(np.asarray(arguments["axis"]))
    rank = len(value.shape) + len(axis)
    new, others = numbered(axis, rank), iter(same(value))
    return moved(step, value, [[Axis() if i in new else next(others) for i in range(rank)]])


def squeeze(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    axis = given(arguments, "axis", "squeeze_dims")
    if axis is None or np.size(axis) == 0:
        # An axis that is cut to one channel would go as well.
        for labels in value.axes:
            step.pin(labels, f"{step.path} drops all axes of length 1")
        axis = [i for i, length in enumerate(value.shape) if length == 1]
    gone = numbered(axis, len(value.shape))
    for i in gone:
        step.pin(value.axes[i], f"{step.path} drops an axis of one channel")
    return moved(step, value, [[axis for axis in same(value) if axis.of not in gone]])


def broadcast_to(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    [shape] = step.output_shapes
    axes = [*[Axis()] * (len(shape) - len(value.shape)), *same(value)]
    for i, axis in enumerate(axes):
        if axis.of is not None and value.shape[axis.of] != shape[i]:
            step.pin(value.axes[axis.of], f"{step.path} spreads its one channel over others")
            axes[i] = Axis()
    return moved(step, value, [axes])


def ensure_shape(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    for labels, length in zip(value.axes, arguments["shape"]):
        if length is not None:
            step.pin(labels, f"{step.path} is given its length as a number")
    return moved(step, value, [same(value)])


def repeat(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    repeats, axis = arguments["repeats"], arguments.get("axis")
    if axis is None:
        return step.pin_all(f"{step.path} flattens its input")
    [axis] = numbered(axis, len(value.shape))
    axes, labels = same(value), value.axes[axis]
    if labels is not None:
        if np.size(repeats) > 1:
            step.pin(labels, f"{step.path} is given a number for each of its channels")
        axes[axis] = Axis(axis, np.repeat(np.arange(len(labels)), repeats))
    return moved(step, value, [axes])


def tile(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    repeats = np.atleast_1d(np.asarray(given(arguments, "repeats", "multiples")))
    new = max(len(repeats) - len(value.shape), 0)
    axes = [*[Axis()] * new, *same(value)]
    for i, times in enumerate(repeats[::-1], 1):
        of = axes[-i].of
        labels = None if of is None else value.axes[of]
        if labels is not None:
            axes[-i] = Axis(of, np.tile(np.arange(len(labels)), times))
    return moved(step, value, [axes])


def repeat_vector(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    return moved(step, value, [[Axis(0), Axis(), Axis(1)]])


def flip(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    axes = same(value)
    for axis in numbered(arguments.get("axis"), len(axes)):
        labels = value.axes[axis]
        if labels is not None:
            axes[axis] = Axis(axis, np.arange(len(labels))[::-1])
    return moved(step, value, [axes])


def roll(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    axes, axis = same(value), arguments.get("axis")
    for i in numbered(axis, len(axes)):
        labels = value.axes[i]
        if labels is not None:
            step.pin(labels, f"{step.path} rolls it by a number of positions")
            axes[i] = Axis()
    return moved(step, value, [axes])
