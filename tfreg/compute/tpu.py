"""What XLA computes better on a TPU."""

import functools

import numpy as np
import tensorflow as tf

from tfreg.compute.direct import root_of_norm, unless_single
from tfreg.compute.gpu import Gpu, moved
from tfreg.compute.tiles import steps


class Tpu(Gpu):
    """No reshape cuts the last two axes, which lie in tiles; squares are of float32.

    The steps from a weight to its groups determine the shape of a grid.
    """

    def _is_in_one_pass(self, x, axis, order):
        # Flattened too, without a reshape.
        axis = 0 if axis is None and x.shape.rank > 1 else axis
        return super()._is_in_one_pass(x, axis, order)

    def _neighbour(self, x, axis, by):
        if axis is not None:
            return super()._neighbour(x, axis, by)
        beside, is_inside = super()._neighbour(x, x.shape.rank - 1, by)
        # The last entry of a row stands before the first of the next.
        ends = x[..., -1:] if by > 0 else x[..., :1]
        rows = ends.shape.num_elements()
        around = tf.reshape(moved(tf.reshape(ends, [-1]), 0, by), ends.shape)
        has_row = tf.not_equal(tf.reshape(tf.range(rows), ends.shape), 0 if by > 0 else rows - 1)
        return tf.where(is_inside, beside, around), is_inside | has_row

    def sizes(self, w, runs):
        sizes = np.ones([1] * w.shape.rank)
        for step, shape in steps(tuple(w.shape), tuple(runs.items())):
            sizes = step.carried(sizes) * step.sizes(shape)
        return tf.constant(sizes, w.dtype)

    def roots_of_norms(self, w, runs):
        x, of_roots = w, False
        for step, _ in steps(tuple(w.shape), tuple(runs.items())):
            x, of_roots = step.roots_of_norms(x, of_roots)
        return x

    def roots_of_lists(self, x, table, of_roots):
        reduce = functools.partial(unless_single, root_of_norm, of_roots=of_roots)
        return table.reduced(x, reduce, self.gather)

    def spread(self, grid, w, runs):
        for step, shape in reversed(steps(tuple(w.shape), tuple(runs.items()))):
            grid = step.spread(grid, shape)
        return grid

    def scale(self, grid, w, runs):
        return self.spread(grid, w, runs) * w

    def scaled_twice(self, grid, w, runs, by):
        # The inherited method would spread the grid twice.
        spread_grid = self.spread(grid, w, runs)
        return by * (spread_grid * (spread_grid * w))

    def total_of_groups(self, grid, w, runs):
        counts = np.ones([1] * w.shape.rank, bool)
        for step, shape in steps(tuple(w.shape), tuple(runs.items())):
            counts = step.carried(counts) & step.counts(shape)
        if not counts.all():
            grid = tf.where(counts, grid, tf.zeros([], grid.dtype))
        return self.total(grid)

    def one_entry_a_group(self, grid, w, runs):
        for step, _ in reversed(steps(tuple(w.shape), tuple(runs.items()))):
            grid = step.one_entry_a_group(grid)
        return grid

    def grid_of(self, entries, w, runs):
        for step, _ in steps(tuple(w.shape), tuple(runs.items())):
            entries = step.grid_of(entries)
        return entries
