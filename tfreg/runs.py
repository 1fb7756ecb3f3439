"""The groups of one weight: their norms and sizes, and what is spread over their entries.

Per-group results of a weight form a grid, whose shape is the affair of the strategy that computes
it. A grid broadcasts against the weight once `spread` has repeated each entry over its group.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from tfreg.compute import reductions
from tfreg.compute.numerics import signum


@dataclasses.dataclass(frozen=True)
class Runs:
    """Groups as runs of consecutive entries along axes of a weight.

    Args:
        lengths: a pair of each axis that a group spans and the length of its runs, None for a
            whole axis. Without any, each element is a group.
        order: the order of a grid's axes in which the groups count; None for that of the grid.
    """

    lengths: tuple[tuple[int, int | None], ...]
    order: tuple[int, ...] | None = None

    def _strategy(self, w):
        return reductions.current(w), self._on(w.shape)

    def _on(self, shape):
        """The length of the runs of each spanned axis of a weight; None where it is whole."""
        return {
            axis: None if size is None or size >= _length_or_inf(shape[axis]) else size
            for axis, size in self.lengths
            if size != 1
        }

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


def _length_or_inf(length):
    return math.inf if length is None else length
