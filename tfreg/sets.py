"""Groups of one weight by lists of indices: of any sizes, in any order, overlapping or not.

They do for a weight what `Runs` do. Their grids have the shape `[before, groups, after]`.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfreg.compute import reductions
from tfreg.compute.numerics import root_or_zero
from tfreg.compute.tables import Table, up_to
from tfreg.compute.views import known_shape
from tfreg.runs import Runs


@dataclasses.dataclass(frozen=True)
class Sets:
    """Groups as lists of entries along an axis, or of groups that are runs.

    Args:
        table: the lists.
        axis: the axis that the indices count along; each entry of the other axes has groups of its
            own. None with `runs`.
        runs: the groups that the indices count: all of a list are one group.
        stacked: with `runs`, whether the first axis stacks weights, each with its own groups.
        count: the number of indices, if that is given.
    """

    table: Table
    axis: int | None = None
    runs: Runs | None = None
    stacked: bool = False
    count: int | None = None

    def _viewed(self, listed: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """A vector of the runs of `w` with their numbers along the middle axis."""
        viewed = tf.reshape(listed, [known_shape(w)[0] if self.stacked else 1, -1, 1])
        return self._long_enough(viewed)

    def _around_axis(self, w: tf.Tensor) -> tf.Tensor:
        shape, axis = known_shape(w), self.axis or 0
        before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        return self._long_enough(tf.reshape(w, [before, shape[axis], after]))

    def _long_enough(self, viewed: tf.Tensor) -> tf.Tensor:
        """`viewed`, if its middle axis has all indices: known before only where the shape is."""
        if viewed.shape[1] is not None:
            return viewed
        length = tf.shape(viewed)[1]
        is_right = length >= self.table.reach if self.count is None else length == self.count
        wanted = f"at least {self.table.reach}" if self.count is None else f"{self.count}"
        message = f"Argument `groups` is for weights with {wanted} indices."
        with tf.control_dependencies([tf.debugging.Assert(is_right, [message, length])]):
            return tf.identity(viewed)

    def roots_of_norms(self, w: tf.Tensor) -> tf.Tensor:
        """The grid of the square roots of the groups' norms."""
        strategy = reductions.current(w)
        if self.runs is None:
            return strategy.roots_of_lists(self._around_axis(w), self.table, of_roots=False)
        roots = self.runs.roots_of_norms(w)
        roots = root_or_zero(tf.abs(w)) if roots is None else roots
        viewed = self._viewed(self.runs.listed(roots, w), w)
        return strategy.roots_of_lists(viewed, self.table, of_roots=True)

    def roots_to_keep(self, w: tf.Tensor) -> tf.Tensor | None:
        """`roots_of_norms` if they are few compared with the elements of `w`, else None."""
        if not w.shape.is_fully_defined():
            return None
        strategy, elements = reductions.current(w), w.shape.num_elements()
        others = elements // max(w.shape[self.axis or 0], 1) if self.runs is None else 1
        is_small = len(self.table.sizes) * others * strategy.kept_min_size_of_lists <= elements
        return self.roots_of_norms(w) if is_small else None

    def norm(self, w: tf.Tensor, roots: tf.Tensor | None = None) -> tf.Tensor:
        """The grid of the groups' Euclidean norms, from their `roots` where those are known."""
        return tf.square(self.roots_of_norms(w) if roots is None else roots)

    def sizes(self, w: tf.Tensor) -> tf.Tensor:
        """The grid of the groups' numbers of elements."""
        if self.runs is None:
            return tf.constant(self.table.sizes.reshape([1, -1, 1]), w.dtype)
        return self.table.reduced(self._viewed(self.runs.listed_sizes(w), w), tf.reduce_sum)

    def total(self, grid: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """The sum of the entries of the `grid` of the groups of `w`."""
        strategy = reductions.current(w)
        return strategy.total(strategy.apart(grid))

    def listed(self, grid: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """The entries of the `grid` as a vector, the k-th that of the k-th group of `w`."""
        shape = self._grid_shape(w)
        return tf.reshape(tf.broadcast_to(grid, shape), [-1])

    def grid_of(self, entries: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """The inverse of `listed`: the grid of the groups of `w` with these `entries`."""
        return tf.reshape(entries, self._grid_shape(w))

    def listed_sizes(self, w: tf.Tensor) -> tf.Tensor:
        """The groups' numbers of elements as a vector."""
        return self.listed(self.sizes(w), w)

    def _grid_shape(self, w: tf.Tensor) -> list:
        count = len(self.table.sizes)
        if self.runs is not None:
            return [known_shape(w)[0] if self.stacked else 1, count, 1]
        shape, axis = known_shape(w), self.axis or 0
        return [math.prod(shape[:axis]), count, math.prod(shape[axis + 1 :])]

    def scale(self, grid: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """Multiplies each group of `w` by its entry of the `grid`; what is in no group stays.

        Raises:
            NotImplementedError: if an index is in two groups.
        """
        self._check_disjoint()
        spread = self._spread(self._picked(grid, w, fill=1.0), w)
        return tf.reshape(spread * self._entries(w), known_shape(w))

    def spread(self, grid: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """Repeats each entry of the `grid` over its group of `w`; what is in no group gets 0.

        Raises:
            NotImplementedError: if an index is in two groups.
        """
        self._check_disjoint()
        spread = self._spread(self._picked(grid, w, fill=0.0), w)
        return tf.reshape(spread * tf.ones_like(self._entries(w)), known_shape(w))

    def _check_disjoint(self) -> None:
        if not self.table.is_disjoint:
            first = int(np.argmax(np.bincount(self.table.indices) > 1))
            raise NotImplementedError(
                "The proximal operator of groups that overlap has no known closed form; that of "
                f"disjoint groups has one. Received: the index {first} in two groups"
            )

    def _picked(self, grid: tf.Tensor, w: tf.Tensor, fill: float) -> tf.Tensor:
        """For each of what the indices count, the entry of the `grid` of its group."""
        return reductions.current(w).picked(grid, self.table, self._count(w), fill)

    def _combined(self, grid: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """The same, or the norm of the entries of several groups."""
        roots = reductions.current(w).roots_of_lists(grid, self.table.transposed, of_roots=False)
        return up_to(self._count(w), tf.square(roots), fill=0.0)

    def _count(self, w: tf.Tensor) -> Any:
        """How many entries, or runs, the indices may count."""
        if self.runs is None:
            return known_shape(w)[self.axis or 0]
        return known_shape(self._viewed(self.runs.listed_sizes(w), w))[1]

    def _entries(self, w: tf.Tensor) -> tf.Tensor:
        """`w` in the shape that `_spread` refers to."""
        return w if self.axis is None else self._around_axis(w)

    def _spread(self, factors: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """The `factors` of what the indices count, for each of the `_entries` of `w`."""
        if self.runs is None:
            return factors
        return self.runs.spread(self.runs.grid_of(tf.reshape(factors, [-1]), w), w)

    def direction(
        self,
        w: tf.Tensor,
        group_weights: tf.Tensor | float = 1.0,
        upstream: tf.Tensor | float = 1.0,
        roots: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """`upstream * sum_g group_weights * w / norm`, over the groups that an entry is in.

        Arguments as those of `Runs.direction`. A group of weight 0 adds 0, whatever its norm.
        """
        roots = self.roots_of_norms(w) if roots is None else roots
        reciprocals = _reciprocals(roots)
        roots_of_weights = tf.sqrt(tf.cast(group_weights, w.dtype)) * tf.ones_like(roots)
        is_free = tf.equal(roots_of_weights, 0.0)
        factors = tf.where(is_free, tf.zeros_like(roots), roots_of_weights * reciprocals)
        # An entry is multiplied twice by the root of the sum of squares over its groups.
        of_parts = (
            self._picked(factors, w, fill=0.0)
            if self.table.is_disjoint
            else self._combined(factors, w)
        )
        strategy, spread = reductions.current(w), self._spread(of_parts, w)
        product = strategy.multiplied_twice(self._entries(w), spread, by=upstream)
        return tf.reshape(product, known_shape(w))

    def scaled_direction(
        self, w: tf.Tensor, slopes: tf.Tensor, roots: tf.Tensor | None = None
    ) -> tf.Tensor:
        """`sum_g slopes * w / norm` with a grid of `slopes`; a slope of 0 adds 0."""
        roots = self.roots_of_norms(w) if roots is None else roots
        if not self.table.is_disjoint:
            return self._scaled_by_several(w, slopes, roots)
        x = self._entries(self.direction(w, roots=roots))
        spread = self._spread(self._picked(slopes, w, fill=0.0), w)
        product = tf.where(tf.equal(spread, 0.0), tf.zeros_like(x), spread * x)
        return tf.reshape(product, known_shape(w))

    def _scaled_by_several(self, w: tf.Tensor, slopes: tf.Tensor, roots: tf.Tensor) -> tf.Tensor:
        """`sum_g slopes * w / norm`; with `1 / sqrt(norm)` over the largest of each entry's groups.

        `1 / norm` may be beyond the dtype.
        """
        reciprocals = _reciprocals(roots)
        reciprocals = tf.where(tf.equal(slopes, 0.0), tf.zeros_like(reciprocals), reciprocals)
        slopes = tf.broadcast_to(slopes, known_shape(reciprocals))

        def largest_and_sum(both: tf.Tensor, axis: int) -> tf.Tensor:
            reciprocals, slopes = tf.split(both, 2, axis=-1)
            # Of an entry in no group, the maximum would be minus infinity.
            largest = tf.maximum(tf.reduce_max(reciprocals, axis=axis, keepdims=True), 0.0)
            relative = tf.math.divide_no_nan(reciprocals, largest)
            sums = tf.reduce_sum(slopes * tf.square(relative), axis=axis)
            return tf.concat([tf.squeeze(largest, axis), sums], axis=-1)

        both = tf.concat([reciprocals, slopes], axis=-1)
        both = self.table.transposed.reduced(both, largest_and_sum)
        largest, sums = tf.split(up_to(self._count(w), both, fill=0.0), 2, axis=-1)
        strategy = reductions.current(w)
        product = strategy.multiplied_twice(
            self._entries(w), self._spread(largest, w), by=self._spread(sums, w)
        )
        return tf.reshape(product, known_shape(w))

    def known_sizes(self, shape: tf.TensorShape) -> np.ndarray:
        """The groups' numbers of elements, of a weight of that `shape`."""
        if self.runs is None:
            return self.table.sizes
        return self.table.sizes * math.prod(shape[axis] for axis, _ in self.runs.lengths)


def _reciprocals(roots: tf.Tensor) -> tf.Tensor:
    """`1 / roots`: 0 for 0, and NaN for an infinite one, which a 0 would hide."""
    return tf.math.divide_no_nan(1.0, roots + tf.stop_gradient(roots - roots))
