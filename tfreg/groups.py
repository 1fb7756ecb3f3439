"""How a weight is cut into groups.

Per-group results of a weight form a grid, whose shape is the affair of the strategy that computes
it. A grid broadcasts against the weight once `spread` has repeated each entry over its group.
"""

import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf

from tfreg.checks import is_int
from tfreg.compute import reductions
from tfreg.compute.numerics import signum
from tfreg.layout import NOT_SPANNED, Layout


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
            if size != 1
        }

    def _strategy(self, w):
        return reductions.current(w), self._runs(w.shape)

    def sizes(self, w):
        """The grid of the groups' numbers of elements, of length 1 where all are alike."""
        strategy, runs = self._strategy(w)
        return strategy.sizes(w, runs)

    def spread(self, grid, w):
        """The `grid` of the groups of `w` with each entry repeated over the group.

        An axis of length 1 stays so, to be broadcast.
        """
        strategy, runs = self._strategy(w)
        return strategy.spread(grid, w, runs)

    def scale(self, grid, w):
        """`w` with each group multiplied by its entry of the `grid`."""
        strategy, runs = self._strategy(w)
        return strategy.scale(grid, w, runs)

    def total(self, grid, w):
        """The sum of the entries of the `grid` of the groups of `w`."""
        strategy, runs = self._strategy(w)
        return strategy.total_of_groups(grid, w, runs)

    def listed(self, grid, w):
        """A vector of the entries of the `grid` of the groups of `w`, the k-th that of group k."""
        strategy, runs = self._strategy(w)
        grid = strategy.one_entry_a_group(grid, w, runs)
        if self.order is not None:
            grid = tf.transpose(grid, self.order)
        return tf.reshape(grid, [-1])

    def grid_of(self, entries, w):
        """The inverse of `listed`: the grid of the groups of `w` with these `entries`."""
        strategy, runs = self._strategy(w)
        shape = strategy.grid_shape(w, runs)
        if self.order is None:
            grid = tf.reshape(entries, shape)
        else:
            listed = tf.reshape(entries, [shape[axis] for axis in self.order])
            grid = tf.transpose(listed, np.argsort(self.order))
        return strategy.grid_of(grid, w, runs)

    def listed_sizes(self, w):
        """A vector of the groups' numbers of elements."""
        strategy, runs = self._strategy(w)
        ones = tf.ones(strategy.grid_shape(w, runs), w.dtype)
        return self.listed(self.sizes(w) * strategy.grid_of(ones, w, runs), w)

    def roots_of_norms(self, w):
        """The grid of the square roots of the groups' norms; None where each element is a group."""
        strategy, runs = self._strategy(w)
        if all(size is None and w.shape[axis] == 1 for axis, size in runs.items()):
            return None
        return strategy.roots_of_norms(w, runs)

    def roots_to_keep(self, w):
        """`roots_of_norms`; None where these are not small beside the weight."""
        strategy, runs = self._strategy(w)
        if not w.shape.is_fully_defined():
            return None
        groups = math.prod(strategy.grid_shape(w, runs))
        is_small = groups * strategy.kept_min_size <= w.shape.num_elements()
        return self.roots_of_norms(w) if is_small else None

    def norm(self, w, roots=None):
        """The grid of the groups' Euclidean norms; `roots` are their roots, if these are known."""
        roots = self.roots_of_norms(w) if roots is None else roots
        return tf.abs(w) if roots is None else tf.square(roots)

    def direction(self, w, weights=1.0, upstream=1.0, roots=None):
        """`w` over its group's norm, times the group's entry of `weights`, times a scalar.

        It is 0 in a zero group, and NaN in one that is not finite.
        """
        roots = self.roots_of_norms(w) if roots is None else roots
        if roots is None:
            return upstream * weights * signum(w)
        # The difference is NaN where an infinite weight would be hidden by a reciprocal of 0.
        strategy, runs = self._strategy(w)
        reciprocals = strategy.reciprocals(roots + tf.stop_gradient(roots - roots), w)
        roots_of_weights = tf.sqrt(tf.cast(weights, w.dtype))
        return strategy.scaled_twice(roots_of_weights * reciprocals, w, runs, by=upstream)


def _unchecked(runs, order=None):
    """Groups of `runs`, lengths by axis; of none, where each element is a group, too."""
    groups = object.__new__(Groups)
    object.__setattr__(groups, "axis", tuple(runs))
    object.__setattr__(groups, "group_size", tuple(runs.values()))
    object.__setattr__(groups, "order", order)
    return groups


def _length_or_inf(length):
    return math.inf if length is None else length
