"""A tensor seen with axes merged or cut into runs."""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

# The length of the runs by axis that groups span; None where they span it whole.
RunLengths: TypeAlias = dict[int, int | None]


def known_shape(x: tf.Tensor) -> list[Any]:
    """The lengths of the axes of `x`: ints where known before the graph runs, else tensors."""
    if x.shape.is_fully_defined():
        return x.shape.as_list()
    dynamic = tf.shape(x)
    return [dynamic[i] if length is None else length for i, length in enumerate(x.shape)]


def along(axis: int, x: tf.Tensor, function: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """Calls `function` on `x` reshaped to `[before, length, after]` with `axis` in the middle.

    Every TensorFlow op accepts that rank, whatever the rank of `x`.
    """
    shape = known_shape(x)
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    result = function(tf.reshape(x, [before, shape[axis], after]))
    return tf.reshape(result, [*shape[:axis], known_shape(result)[1], *shape[axis + 1 :]])


def merged_around(
    axis: int, x: tf.Tensor, function: Callable[[tf.Tensor, int], tf.Tensor]
) -> tf.Tensor:
    """Calls `function(x, axis)` with the axes before `axis` merged, and those behind it.

    Without axes before it, `axis` is in front, where slices are no copies.
    """
    shape = known_shape(x)
    before = [math.prod(shape[:axis])] if axis > 0 else []
    after = [math.prod(shape[axis + 1 :])] if axis < len(shape) - 1 else []
    result = function(tf.reshape(x, [*before, shape[axis], *after]), len(before))
    return tf.reshape(result, [*shape[:axis], known_shape(result)[len(before)], *shape[axis + 1 :]])


def place(x: tf.Tensor, axis: int) -> tf.Tensor:
    """The index along `axis`, to be broadcast against `x`."""
    return tf.reshape(tf.range(known_shape(x)[axis]), [-1] + [1] * (x.shape.rank - 1 - axis))


def sliced(x: tf.Tensor, axis: int, begin: int | None, end: int | None) -> tf.Tensor:
    return x[(slice(None),) * axis + (slice(begin, end),)]


def padded(x: tf.Tensor, axis: int, before: int, after: int) -> tf.Tensor:
    paddings = [[0, 0]] * x.shape.rank
    paddings[axis] = [before, after]
    return tf.pad(x, paddings)


def lengths_of_runs(size: int | None, length: Any) -> Any:
    """The number of entries in each run of `size` along an axis of that `length`."""
    if size is None:
        return length
    if tf.is_tensor(length):
        return tf.minimum(size, length - tf.range(0, length, size))
    return np.minimum(size, length - np.arange(0, length, size))


def numbers_of_elements(shape: list[Any] | tuple[int, ...], runs: RunLengths) -> list[Any]:
    """Factors, each along one axis, of the grid of the groups' numbers of elements.

    They are arrays, not operations in a graph, wherever the lengths in `shape` are known.
    """
    same, others = np.ones([1] * len(shape)), []
    for axis, size in runs.items():
        lengths = lengths_of_runs(size, shape[axis])
        in_the_grid = [-1 if i == axis else 1 for i in range(len(shape))]
        if tf.is_tensor(lengths):
            others.append(tf.reshape(tf.cast(lengths, tf.float64), in_the_grid))
        elif size is None or shape[axis] % size == 0:
            same = same * (size or shape[axis])
        else:
            others.append(np.reshape(lengths, in_the_grid))
    return [same, *others]


def reduce_runs(reduce: Callable[..., tf.Tensor], size: int, x: tf.Tensor) -> tf.Tensor:
    """Reduces each run of `size` entries along the middle axis of `x`; the last may be shorter."""
    before, length, after = known_shape(x)
    end = length - length % size
    grid = reduce(tf.reshape(x[:, :end], [before, end // size, size, after]), axis=2)
    if isinstance(length, int) and length == end:
        return grid
    rest = reduce(x[:, end:], axis=1, keepdims=True)
    # Where the length is known only when the graph runs, the rest may have no entries.
    return tf.concat([grid, rest], axis=1)[:, : -(-length // size)]


def reduce_groups(reduce: Callable[..., tf.Tensor], x: tf.Tensor, runs: RunLengths) -> tf.Tensor:
    """The grid of the groups of `x`, each reduced to one entry by `reduce`."""
    whole = [axis for axis, size in runs.items() if size is None]
    grid = reduce(x, axis=whole, keepdims=True) if whole else x
    for axis, size in runs.items():
        if size is not None:
            grid = along(axis, grid, functools.partial(reduce_runs, reduce, size))
    return grid


def spread(grid: tf.Tensor, shape: list[Any] | tuple[int, ...], runs: RunLengths) -> tf.Tensor:
    """Repeats each entry of the `grid` over its run, up to the `shape` of the grouped tensor.

    Axes of length 1 are left to broadcasting.
    """
    for axis, size in runs.items():
        if size is not None and grid.shape[axis] != 1:
            grid = along(axis, grid, functools.partial(repeat_runs, size, shape[axis]))
    return grid


def repeat_runs(size: int, length: int | tf.Tensor, grid: tf.Tensor) -> tf.Tensor:
    """Repeats each entry along the middle axis of `grid` `size` times, up to `length`."""
    before, runs, after = known_shape(grid)
    repeated = tf.broadcast_to(grid[:, :, tf.newaxis], [before, runs, size, after])
    return tf.reshape(repeated, [before, runs * size, after])[:, :length]
