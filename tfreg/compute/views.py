"""A tensor seen with axes merged or cut into runs."""

import functools
import math

import numpy as np
import tensorflow as tf


def known_shape(x):
    """The lengths of the axes of `x`: ints wherever they are known before the graph runs."""
    if x.shape.is_fully_defined():
        return x.shape.as_list()
    dynamic = tf.shape(x)
    return [dynamic[i] if length is None else length for i, length in enumerate(x.shape)]


def along(axis, x, function):
    """`function` of `x` seen as `[before, length, after]` with `axis` in the middle.

    Whatever the rank of `x`, `function` sees one that every TensorFlow op accepts.
    """
    shape = known_shape(x)
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    result = function(tf.reshape(x, [before, shape[axis], after]))
    return tf.reshape(result, [*shape[:axis], known_shape(result)[1], *shape[axis + 1 :]])


def merged_around(axis, x, function):
    """`function(x, axis)` of `x` with the axes before and those behind its `axis` merged.

    Where there are none before, `x` has its axis in front: slices of that are no copies.
    """
    shape = known_shape(x)
    before = [math.prod(shape[:axis])] if axis > 0 else []
    after = [math.prod(shape[axis + 1 :])] if axis < len(shape) - 1 else []
    result = function(tf.reshape(x, [*before, shape[axis], *after]), len(before))
    return tf.reshape(result, [*shape[:axis], known_shape(result)[len(before)], *shape[axis + 1 :]])


def lengths_of_runs(size, length):
    """How many entries each of the runs of `size` along an axis of that `length` has."""
    if size is None:
        return length
    if tf.is_tensor(length):
        return tf.minimum(size, length - tf.range(0, length, size))
    return np.minimum(size, length - np.arange(0, length, size))


def numbers_of_elements(shape, runs):
    """Factors of the grid of the groups' numbers of elements, each along one axis.

    They are arrays, and no operations in a graph, wherever the lengths in `shape` are known.
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


def reduce_runs(reduce, size, x):
    """`x` with the runs of `size` entries along its middle axis, the last one shorter, as one."""
    before, length, after = known_shape(x)
    end = length - length % size
    grid = reduce(tf.reshape(x[:, :end], [before, end // size, size, after]), axis=2)
    if isinstance(length, int) and length == end:
        return grid
    rest = reduce(x[:, end:], axis=1, keepdims=True)
    # Where the length is known only when the graph runs, the rest may have no entries.
    return tf.concat([grid, rest], axis=1)[:, : -(-length // size)]


def reduce_groups(reduce, x, runs):
    """The grid of the groups of `x`, each reduced to one entry by `reduce`."""
    whole = [axis for axis, size in runs.items() if size is None]
    grid = reduce(x, axis=whole, keepdims=True) if whole else x
    for axis, size in runs.items():
        if size is not None:
            grid = along(axis, grid, functools.partial(reduce_runs, reduce, size))
    return grid


def spread(grid, shape, runs):
    """The `grid` with each entry repeated over its run, but axes of length 1 left to broadcasting.

    `shape` is that of what the groups are of.
    """
    for axis, size in runs.items():
        if size is not None and grid.shape[axis] != 1:
            grid = along(axis, grid, functools.partial(repeat_runs, size, shape[axis]))
    return grid


def repeat_runs(size, length, grid):
    """`grid` with each entry along its middle axis repeated `size` times, up to `length`."""
    before, runs, after = known_shape(grid)
    repeated = tf.broadcast_to(grid[:, :, tf.newaxis], [before, runs, size, after])
    return tf.reshape(repeated, [before, runs * size, after])[:, :length]
