"""The groups of one weight: their norms and sizes, and what is spread over their entries.

Per-group results of a weight form a grid, whose shape depends on the strategy that computes it. A
grid broadcasts against the weight once `spread` has repeated each entry over its group.
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from tfreg.compute import reductions
from tfreg.compute.direct import Direct
from tfreg.compute.numerics import signum
from tfreg.compute.views import RunLengths, numbers_of_elements


@dataclasses.dataclass(frozen=True)
class Runs:
    """Groups as runs of consecutive entries along axes of a weight.

    Args:
        lengths: pairs of an axis that a group spans and the number of entries in each of its
            runs, None for a whole axis. Without any pair, each element is a group.
        order: the axes of the grid in the order in which the groups count; None for row-major
            order of the grid itself.
    """

    lengths: tuple[tuple[int, int | None], ...]
    order: tuple[int, ...] | None = None

    def _strategy(self, w: tf.Tensor) -> tuple[Direct, RunLengths]:
        return reductions.current(w), self._lengths_on(w.shape)

    def _lengths_on(self, shape: tf.TensorShape) -> RunLengths:
        """The length of the runs along each axis that groups span; None where that is whole."""
        return {
            axis: None if size is None or size >= _length_or_inf(shape[axis]) else size
            for axis, size in self.lengths
            if size != 1
        }

    def sizes(self, w: tf.Tensor) -> tf.Tensor:
        """The grid of the groups' numbers of elements, of length 1 where all are equal."""
        strategy, runs = self._strategy(w)
        return strategy.sizes(w, runs)

    def spread(self, grid: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """Repeats each entry of the `grid` over its group of `w`.

        Axes of length 1 are left to broadcasting.
        """
        strategy, runs = self._strategy(w)
        return strategy.spread(grid, w, runs)

    def scale(self, grid: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """Multiplies each group of `w` by its entry of the `grid`."""
        strategy, runs = self._strategy(w)
        return strategy.scale(grid, w, runs)

    def total(self, grid: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """The sum of the entries of the `grid` of the groups of `w`."""
        strategy, runs = self._strategy(w)
        return strategy.total_of_groups(grid, w, runs)

    def listed(self, grid: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """The entries of the `grid` as a vector, the k-th that of the k-th group of `w`."""
        strategy, runs = self._strategy(w)
        grid = strategy.one_entry_a_group(grid, w, runs)
        if self.order is not None:
            grid = tf.transpose(grid, self.order)
        return tf.reshape(grid, [-1])

    def grid_of(self, entries: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """The inverse of `listed`: the grid of the groups of `w` with these `entries`."""
        strategy, runs = self._strategy(w)
        shape = strategy.grid_shape(w, runs)
        if self.order is None:
            grid = tf.reshape(entries, shape)
        else:
            listed = tf.reshape(entries, [shape[axis] for axis in self.order])
            grid = tf.transpose(listed, np.argsort(self.order))
        return strategy.grid_of(grid, w, runs)

    def listed_sizes(self, w: tf.Tensor) -> tf.Tensor:
        """The groups' numbers of elements as a vector."""
        strategy, runs = self._strategy(w)
        ones = tf.ones(strategy.grid_shape(w, runs), w.dtype)
        return self.listed(self.sizes(w) * strategy.grid_of(ones, w, runs), w)

    def known_sizes(self, shape: tf.TensorShape) -> np.ndarray:
        """The groups' numbers of elements, of a weight of that known `shape`."""
        runs = self._lengths_on(shape)
        grid = np.ones(
            [
                1 if runs.get(axis, 1) is None else -(-length // runs.get(axis, 1))
                for axis, length in enumerate(shape)
            ]
        )
        for factor in numbers_of_elements(shape.as_list(), runs):
            grid = grid * factor
        return np.ravel(grid if self.order is None else np.transpose(grid, self.order))

    def roots_of_norms(self, w: tf.Tensor) -> tf.Tensor | None:
        """The grid of the square roots of the groups' norms; None where each element is a group."""
        strategy, runs = self._strategy(w)
        if all(size is None and w.shape[axis] == 1 for axis, size in runs.items()):
            return None
        return strategy.roots_of_norms(w, runs)

    def roots_to_keep(self, w: tf.Tensor) -> tf.Tensor | None:
        """`roots_of_norms` if they are few compared with the elements of `w`, else None."""
        strategy, runs = self._strategy(w)
        if not w.shape.is_fully_defined():
            return None
        groups = math.prod(strategy.grid_shape(w, runs))
        is_small = groups * strategy.kept_min_size <= w.shape.num_elements()
        return self.roots_of_norms(w) if is_small else None

    def norm(self, w: tf.Tensor, roots: tf.Tensor | None = None) -> tf.Tensor:
        """The grid of the groups' Euclidean norms, from their `roots` where those are known."""
        roots = self.roots_of_norms(w) if roots is None else roots
        return tf.abs(w) if roots is None else tf.square(roots)

    def direction(
        self,
        w: tf.Tensor,
        group_weights: tf.Tensor | float = 1.0,
        upstream: tf.Tensor | float = 1.0,
        roots: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """`upstream * group_weights * w / norm`; 0 in a zero group, NaN in one that is not finite.

        Args:
            w: the weight.
            group_weights: the grid of the groups' weights, or a scalar.
            upstream: a scalar.
            roots: the grid of the square roots of the norms, if known.
        """
        roots = self.roots_of_norms(w) if roots is None else roots
        if roots is None:
            return upstream * group_weights * signum(w)
        # The reciprocal of an infinite root is 0, and would hide it; `inf - inf` is NaN.
        strategy, runs = self._strategy(w)
        reciprocals = strategy.reciprocals(roots + tf.stop_gradient(roots - roots), w)
        roots_of_weights = tf.sqrt(tf.cast(group_weights, w.dtype))
        return strategy.scaled_twice(roots_of_weights * reciprocals, w, runs, by=upstream)

    def scaled_direction(
        self, w: tf.Tensor, slopes: tf.Tensor, roots: tf.Tensor | None = None
    ) -> tf.Tensor:
        """`slopes * w / norm` with a grid of `slopes`; 0 where that is 0, whatever the norm."""
        spread = self.spread(slopes, w)
        scaled = spread * self.direction(w, roots=roots)
        return tf.where(tf.equal(spread, 0.0), tf.zeros_like(w), scaled)


def _length_or_inf(length: int | None) -> float:
    return math.inf if length is None else length
