"""How a weight is cut into groups.

The per-group results of a weight form a grid of the weight's rank: a spanned axis has one
entry for each run of consecutive entries (one run if it is spanned whole), every other axis
keeps its length. A grid broadcasts against the weight once `spread` has repeated each entry
over its run.
"""

import dataclasses
import functools
import math

import tensorflow as tf

from tfreg.checks import is_int
from tfreg.layout import NOT_SPANNED, Layout, known_shape


def _entries(value):
    return (value,) if is_int(value) else value


def check_axis(axis, *, expected="an int or a non-empty tuple of distinct ints"):
    """`axis` as an int or a tuple of ints, as far as it can be judged without a weight."""
    if is_int(axis):
        return int(axis)
    if isinstance(axis, (list, tuple)) and axis and all(is_int(entry) for entry in axis):
        if len(set(axis)) == len(axis):
            return tuple(int(entry) for entry in axis)
    raise ValueError(f"Argument `axis` must be {expected}. Received: axis={axis!r}")


def resolve_axes(axis, rank, weight_name="weight"):
    """The non-negative axes that `axis`, an int or a tuple, names on a weight of `rank`."""
    entries = _entries(axis)
    if not all(-rank <= entry < rank for entry in entries):
        raise ValueError(
            f"Argument `axis` must name axes of the weight, in [{-rank}, {rank}). "
            f"Received: axis={axis!r} for weight {weight_name} of rank {rank}"
        )
    axes = tuple(entry % rank for entry in entries)
    if len(set(axes)) < len(axes):
        raise ValueError(
            "Argument `axis` must name each axis of the weight once. "
            f"Received: axis={axis!r} for weight {weight_name} of rank {rank}"
        )
    return axes


def along(axis, x, function):
    """`function` of `x` seen as `[before, length, after]` with `axis` in the middle.

    Whatever the rank of `x`, `function` sees one that every TensorFlow op accepts.
    """
    shape = known_shape(x)
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    result = function(tf.reshape(x, [before, shape[axis], after]))
    return tf.reshape(result, [*shape[:axis], known_shape(result)[1], *shape[axis + 1 :]])


@dataclasses.dataclass(frozen=True)
class Groups:
    """The groups that `axis` and `group_size` cut a weight into.

    Args:
        axis: the axes that a group spans: an int, a tuple of ints, or one of `"output"` (every
            axis but the last), `"input"` (every axis but the second last; none on a rank-1
            weight), `"shape"` (the last axis), `"all"` and `"head"`. On a layout that says what
            the axes mean, `on` finds those that the name spans.
        group_size: the length of the runs of consecutive entries that each spanned axis is cut
            into: an int for one axis, a tuple with an entry per axis for several. None keeps an
            axis whole. The last run is shorter where the length does not divide.

    Raises:
        ValueError: for any other `axis` or `group_size`.
    """

    axis: int | str | tuple[int, ...]
    group_size: int | tuple[int | None, ...] | None = None

    def __post_init__(self):
        names = ", ".join(repr(name) for name in NOT_SPANNED)
        if not (isinstance(self.axis, str) and self.axis in NOT_SPANNED):
            expected = f"an int, a non-empty tuple of distinct ints or one of {names}"
            object.__setattr__(self, "axis", check_axis(self.axis, expected=expected))
        object.__setattr__(self, "group_size", self._check_group_size(self.group_size))

    def _check_group_size(self, group_size):
        if group_size is None:
            return None
        received = f"Received: group_size={group_size!r} with axis={self.axis!r}"
        if isinstance(self.axis, str):
            raise ValueError(
                "Argument `group_size` goes with an int or a tuple of ints as `axis` only. "
                f"{received}"
            )
        sizes = _entries(group_size)
        if not isinstance(sizes, (list, tuple)) or len(sizes) != len(_entries(self.axis)):
            raise ValueError(
                "Argument `group_size` must be None, an int for one axis, or a tuple with an "
                f"entry for each entry of `axis`. {received}"
            )
        if not all(size is None or (is_int(size) and size > 0) for size in sizes):
            raise ValueError(
                f"Argument `group_size` must consist of positive ints or None. {received}"
            )
        if is_int(group_size):
            return int(group_size)
        return tuple(size if size is None else int(size) for size in sizes)

    @functools.lru_cache(maxsize=1024)
    def on(self, layout, weight_name="weight"):
        """These groups on the parts of a weight with `layout`.

        Raises a ValueError if the weight lacks an axis.
        """
        runs: dict[int, int | None] = {}
        if isinstance(self.axis, str):
            runs = dict.fromkeys(layout.spanned(self.axis, weight_name))
        else:
            axes = resolve_axes(self.axis, layout.rank, weight_name)
            sizes = _entries(self.group_size) if self.group_size is not None else [None] * len(axes)
            for axis, size in zip(axes, sizes):
                # Runs go along the last part, within one entry of each other: within a gate, say.
                parts = layout.parts_of(axis)
                runs |= dict.fromkeys(parts) if size is None else {parts[-1]: size}
        groups = object.__new__(Groups)  # unchecked: with no axis, each element is a group
        object.__setattr__(groups, "axis", tuple(runs))
        object.__setattr__(groups, "group_size", tuple(runs.values()))
        return groups

    def _runs(self, shape):
        """The length of the runs of each spanned axis of a weight; None where it is whole."""
        if isinstance(self.axis, str):
            return dict.fromkeys(Layout.positional(shape.rank).spanned(self.axis))
        axes = resolve_axes(self.axis, shape.rank)
        if self.group_size is None:
            return dict.fromkeys(axes)
        return {
            axis: None if size is None or size >= _length_or_inf(shape[axis]) else size
            for axis, size in zip(axes, _entries(self.group_size))
        }

    def _reduce(self, reduce, w):
        runs = self._runs(w.shape)
        whole = [axis for axis, size in runs.items() if size is None]
        grid = reduce(w, axis=whole, keepdims=True) if whole else w
        for axis, size in runs.items():
            if size is not None:
                grid = along(axis, grid, functools.partial(_reduce_runs, reduce, size))
        return grid

    def grid_shape(self, w):
        """The shape of a grid of the groups of `w`."""
        shape = known_shape(w)
        for axis, size in self._runs(w.shape).items():
            shape[axis] = 1 if size is None else -(-shape[axis] // size)
        return shape

    def sum(self, w):
        """The grid of the groups' sums."""
        return self._reduce(tf.reduce_sum, w)

    def sizes(self, w):
        """The grid of the groups' numbers of elements, of length 1 where all are alike."""
        sizes = tf.ones([1] * w.shape.rank, w.dtype)
        for axis, size in self._runs(w.shape).items():
            length = known_shape(w)[axis]
            if size is not None:
                length = tf.minimum(size, length - tf.range(0, length, size))
            in_the_grid = [-1 if i == axis else 1 for i in range(w.shape.rank)]
            sizes *= tf.reshape(tf.cast(length, w.dtype), in_the_grid)
        return sizes

    def spread(self, grid, w):
        """The `grid` of the groups of `w` with each entry repeated over the run it stands for.

        An axis of length 1 stays so, to be broadcast.
        """
        for axis, size in self._runs(w.shape).items():
            if size is not None and grid.shape[axis] != 1:
                repeat = functools.partial(_repeat_runs, size, known_shape(w)[axis])
                grid = along(axis, grid, repeat)
        return grid

    def _scaled(self, w):
        """`w / scale`, `scale` and the groups' sums of the squares of `w / scale`.

        The scale, a group's largest magnitude, keeps the squares from overflow and underflow.
        No result depends on it, so neither does a derivative.
        """
        largest = tf.stop_gradient(self._reduce(tf.reduce_max, tf.abs(w)))
        is_scale = (largest > 0.0) & tf.math.is_finite(largest)
        scale = tf.where(is_scale, largest, tf.ones_like(largest))
        scaled = w / self.spread(scale, w)
        return scaled, scale, self.sum(tf.square(scaled))

    def norm(self, w):
        """The grid of the groups' Euclidean norms."""
        _, scale, squares = self._scaled(w)
        is_zero, squares = _away_from_zero(squares)
        return tf.where(is_zero, tf.zeros_like(squares), scale * tf.sqrt(squares))

    def direction(self, w):
        """`w` over its group's norm: 0 in a zero group, NaN in one that is not finite."""
        scaled, _, squares = self._scaled(w)
        is_zero, squares = _away_from_zero(squares)
        # Not 1 / sqrt(squares), which hides an infinite weight: that is 0 where this is NaN.
        reciprocal = tf.where(is_zero, tf.zeros_like(squares), tf.sqrt(squares) / squares)
        return scaled * self.spread(reciprocal, w)


def _away_from_zero(squares):
    """Where `squares` are 0, and `squares` with 1 there: the root has no derivative at 0."""
    is_zero = tf.equal(squares, 0.0)
    return is_zero, tf.where(is_zero, tf.ones_like(squares), squares)


def _length_or_inf(length):
    return math.inf if length is None else length


def _reduce_runs(reduce, size, x):
    """`x` with the runs of `size` entries along its middle axis, the last one shorter, as one."""
    before, length, after = known_shape(x)
    end = length - length % size
    grid = reduce(tf.reshape(x[:, :end], [before, end // size, size, after]), axis=2)
    if isinstance(length, int) and length == end:
        return grid
    rest = reduce(x[:, end:], axis=1, keepdims=True)
    # Where the length is known only when the graph runs, the rest may have no entries.
    return tf.concat([grid, rest], axis=1)[:, : -(-length // size)]


def _repeat_runs(size, length, grid):
    """`grid` with each entry along its middle axis repeated `size` times, up to `length`."""
    before, runs, after = known_shape(grid)
    repeated = tf.broadcast_to(grid[:, :, tf.newaxis], [before, runs, size, after])
    return tf.reshape(repeated, [before, runs * size, after])[:, :length]
