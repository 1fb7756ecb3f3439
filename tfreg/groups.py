"""How a weight is cut into groups.

The per-group results of a weight form a grid of the weight's rank: a spanned axis has one
entry for each run of consecutive entries (one run if it is spanned whole), every other axis
keeps its length. A grid broadcasts against the weight once `spread` has repeated each entry
over its run.
"""

import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf

from tfreg.checks import is_int
from tfreg.kernels import (
    FEW_TERMS,
    XLA_MIN_ELEMENTS,
    float64_holds_squares,
    middle_sum_of_squares,
    reciprocal_or_zero,
    root,
    signum,
)
from tfreg.layout import NOT_SPANNED, Layout, known_shape

# Of tensors that broadcast, by TensorFlow's own kernels.
_MAX_RANK = 6


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
    # The order of a grid's axes in which the groups count; None stands for that of the grid.
    order: tuple[int, ...] | None = dataclasses.field(default=None, init=False, repr=False)

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

    def split(self, w, layout):
        """`w` with an axis for each part of its `layout` by which these groups go."""
        return self._layout(layout).split(w)

    def _layout(self, layout):
        # A number names an axis of the weight, whatever groups of a convolution are in it.
        return layout if isinstance(self.axis, str) else layout.ungrouped()

    @functools.lru_cache(maxsize=1024)
    def on(self, layout, weight_name="weight"):
        """These groups on what `split` gives for a weight with `layout`.

        Raises a ValueError if the weight lacks an axis.
        """
        layout = self._layout(layout)
        runs: dict[int, int | None] = {}
        order = None
        if isinstance(self.axis, str):
            runs = dict.fromkeys(layout.spanned(self.axis, weight_name))
            order = layout.counting_order(self.axis)
        else:
            axes = resolve_axes(self.axis, layout.rank, weight_name)
            sizes = _entries(self.group_size) if self.group_size is not None else [None] * len(axes)
            for axis, size in zip(axes, sizes):
                # Runs go along the last part, within one entry of each other: within a gate, say.
                parts = layout.parts_of(axis)
                runs |= dict.fromkeys(parts) if size is None else {parts[-1]: size}
        return _unchecked(runs, order)

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

    def listed(self, grid):
        """A vector of the entries of `grid`, the k-th that of the k-th group."""
        if self.order is not None:
            grid = tf.transpose(grid, self.order)
        return tf.reshape(grid, [-1])

    def grid_of(self, entries, w):
        """The inverse of `listed`: the grid of the groups of `w` with these `entries`."""
        shape = self.grid_shape(w)
        if self.order is None:
            return tf.reshape(entries, shape)
        listed = tf.reshape(entries, [shape[axis] for axis in self.order])
        return tf.transpose(listed, np.argsort(self.order))

    def sum(self, w):
        """The grid of the groups' sums."""
        return self._reduce(tf.reduce_sum, w)

    def sizes(self, w):
        """The grid of the groups' numbers of elements, of length 1 where all are alike."""
        sizes = np.ones([1] * w.shape.rank)
        for axis, size in self._runs(w.shape).items():
            lengths = _lengths_of_runs(size, known_shape(w)[axis])
            in_the_grid = [-1 if i == axis else 1 for i in range(w.shape.rank)]
            # Lengths that are known before the graph runs are no operations in it.
            if tf.is_tensor(lengths):
                sizes = sizes * tf.reshape(tf.cast(lengths, tf.float64), in_the_grid)
            else:
                sizes = sizes * np.reshape(lengths, in_the_grid)
        return tf.cast(sizes, w.dtype) if tf.is_tensor(sizes) else tf.constant(sizes, w.dtype)

    def spread(self, grid, w):
        """The `grid` of the groups of `w` with each entry repeated over the run it stands for.

        An axis of length 1 stays so, to be broadcast.
        """
        for axis, size in self._runs(w.shape).items():
            if size is not None and grid.shape[axis] != 1:
                repeat = functools.partial(_repeat_runs, size, known_shape(w)[axis])
                grid = along(axis, grid, repeat)
        return grid

    def times(self, grid, w):
        """`w` with each group multiplied by its entry of the `grid`."""
        shape = known_shape(w)
        runs = self._runs(w.shape)
        view: list = []
        grid_view: list = []
        for axis, length in enumerate(shape):
            size = None if grid.shape[axis] == 1 else runs.get(axis)
            if size and _divides(size, length) and w.shape.rank + len(view) - axis < _MAX_RANK:
                view += [length // size, size]
                grid_view += [length // size, 1]
            else:
                if size:
                    grid = along(axis, grid, functools.partial(_repeat_runs, size, length))
                view.append(length)
                grid_view.append(known_shape(grid)[axis])
        if len(view) == len(shape):
            return grid * w
        return tf.reshape(tf.reshape(grid, grid_view) * tf.reshape(w, view), shape)

    def _pooled(self, w):
        """`w` with neighbouring axes as one where they are cut alike, and these groups on it."""
        runs = self._runs(w.shape)
        lengths: list = []
        sizes: list = []
        for axis, length in enumerate(known_shape(w)):
            size = runs.get(axis, 1)
            if size in (None, 1) and sizes[-1:] == [size]:
                lengths[-1] *= length
            else:
                lengths.append(length)
                sizes.append(size)
        spanned = {axis: size for axis, size in enumerate(sizes) if size != 1}
        return tf.reshape(w, lengths), _unchecked(spanned)

    def _sums_of_squares(self, w):
        """The grid of the groups' sums of squares, in float64."""
        if (w.shape.num_elements() or 0) < XLA_MIN_ELEMENTS:
            return self.sum(tf.square(tf.cast(w, tf.float64)))
        x, groups = self._pooled(w)
        runs = groups._runs(x.shape)
        lengths = {axis: x.shape[axis] if size is None else size for axis, size in runs.items()}
        longest = max(lengths, key=lambda axis: lengths[axis])
        if None in runs.values() or lengths[longest] > FEW_TERMS:
            # The longest first, as what is left to sum is in memory.
            size = lengths[longest]
            squares = along(longest, x, functools.partial(_sums_of_squares_per_run, size))
            del runs[longest]
        else:
            squares = tf.square(tf.cast(x, tf.float64))
        return tf.reshape(_unchecked(runs).sum(squares), self.grid_shape(w))

    def _scaled(self, w):
        """`w / scale`, `scale` and the groups' sums of the squares of `w / scale`; 0 / 0 is 0.

        No square of a float32 number is too large or too small for float64. Where that does not
        do, the scale is a group's largest magnitude; no result depends on it, so neither does a
        derivative.
        """
        if float64_holds_squares(w.dtype):
            return w, 1.0, self._sums_of_squares(w)
        largest = tf.stop_gradient(self._reduce(tf.reduce_max, tf.abs(w)))
        scale = tf.where(tf.math.is_finite(largest), largest, tf.ones_like(largest))
        scaled = tf.math.divide_no_nan(w, self.spread(scale, w))
        return scaled, scale, self.sum(tf.square(scaled))

    def _roots_of_norms(self, w):
        """`w / scale`, `scale`, and the roots of the norms of the groups of `w / scale`.

        Of these, unlike of the norms, the reciprocals are no more than the weight's dtype holds.
        """
        scaled, scale, squares = self._scaled(w)
        return scaled, scale, tf.cast(tf.sqrt(root(squares)), w.dtype)

    def _are_single(self, w):
        """Whether each element is a group."""
        runs = self._runs(w.shape)
        return all(1 in (size, w.shape[axis]) for axis, size in runs.items())

    def norm(self, w):
        """The grid of the groups' Euclidean norms."""
        if self._are_single(w):
            return tf.abs(w)
        _, scale, roots = self._roots_of_norms(w)
        return scale * tf.square(roots)

    def direction(self, w, lengths):
        """`w` over its group's norm, times the group's entry in the grid of `lengths`.

        It is 0 in a zero group, and NaN in one that is not finite.
        """
        if self._are_single(w):
            return lengths * signum(w)
        scaled, _, roots = self._roots_of_norms(w)
        # The difference is NaN where an infinite weight would be hidden by a reciprocal of 0.
        reciprocals = _reciprocals_no_nan(roots + tf.stop_gradient(roots - roots), w)
        return self.times(lengths * reciprocals, self.times(reciprocals, scaled))


def _unchecked(runs, order=None):
    """Groups of `runs`, lengths by axis; of none, where each element is a group, too."""
    groups = object.__new__(Groups)
    object.__setattr__(groups, "axis", tuple(runs))
    object.__setattr__(groups, "group_size", tuple(runs.values()))
    object.__setattr__(groups, "order", order)
    return groups


def _reciprocals_no_nan(x, w):
    """`1 / x`, and 0 for 0, as factors of groups of `w`."""
    if (w.shape.num_elements() or 0) < XLA_MIN_ELEMENTS:
        return tf.math.divide_no_nan(1.0, x)
    is_zero = tf.equal(x, 0.0)
    return reciprocal_or_zero(tf.where(is_zero, tf.ones_like(x), x), is_zero)


def _divides(size, length):
    return isinstance(length, int) and length % size == 0


def _length_or_inf(length):
    return math.inf if length is None else length


def _lengths_of_runs(size, length):
    """How many entries each of the runs of `size` along an axis of that `length` has."""
    if size is None:
        return length
    if tf.is_tensor(length):
        return tf.minimum(size, length - tf.range(0, length, size))
    return np.minimum(size, length - np.arange(0, length, size))


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


def _sums_of_squares_per_run(size, x):
    """The sums of squares of the runs of `size` entries along the middle axis of `x`."""
    before, length, after = x.shape
    end = length - length % size
    runs = tf.reshape(x[:, :end], [before * (end // size), size, after])
    sums = tf.reshape(middle_sum_of_squares(runs), [before, end // size, after])
    if end == length:
        return sums
    return tf.concat([sums, middle_sum_of_squares(x[:, end:])], axis=1)


def _repeat_runs(size, length, grid):
    """`grid` with each entry along its middle axis repeated `size` times, up to `length`."""
    before, runs, after = known_shape(grid)
    repeated = tf.broadcast_to(grid[:, :, tf.newaxis], [before, runs, size, after])
    return tf.reshape(repeated, [before, runs * size, after])[:, :length]
