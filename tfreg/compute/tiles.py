"""How a TPU sums groups: the last two axes of a weight lie in tiles, and no reshape cuts them.

The steps from a weight to the grid of its groups: runs of rows are summed within tiles, runs of
columns as rows once the last two axes are swapped, runs of other axes by reshapes.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfreg.compute.direct import root_of_norm, roots_of_norms
from tfreg.compute.gpu import moved
from tfreg.compute.numerics import root_or_zero
from tfreg.compute.views import numbers_of_elements, spread

# A TPU stores float32 in tiles of so many rows: a cut anywhere else is a copy.
_SUBLANES = 8


@functools.lru_cache(maxsize=1024)
def steps(
    shape: tuple[int, ...], runs: tuple[tuple[int, int | None], ...]
) -> list[tuple[Any, tuple[int, ...]]]:
    """The steps from a weight of `shape` to the grid of its groups, each with the shape before."""
    sizes = dict(runs)
    rows, columns = len(shape) - 2, len(shape) - 1
    whole = tuple(axis for axis, size in runs if size is None)
    leading = {axis + 1: size for axis, size in runs if axis < rows and size is not None}
    by_rows, by_columns = sizes.get(rows), sizes.get(columns)
    rows_fit = rows >= 0 and shape[rows] % _SUBLANES == 0
    columns_fit = rows >= 0 and shape[columns] % _SUBLANES == 0
    path: list[Any] = []
    if by_rows and rows_fit:
        path = [_tiles(shape[rows], by_rows, whole)]
        if by_columns and columns_fit:
            path += [_Swap(), _tiles(shape[columns], by_columns, ())]
        elif by_columns:
            leading[columns + 1] = by_columns
    elif by_columns and columns_fit and rows not in sizes:
        path = [_Swap(), _tiles(shape[columns], by_columns, whole)]
    if not path:
        path = [_Reshape(runs)]
    elif leading:
        last = len(path) - 2 if len(path) == 3 else len(path)
        path.insert(last, _Reshape(tuple(leading.items())))
    shapes = [shape]
    for step in path:
        shapes.append(step.grid_shape(shapes[-1]))
    return list(zip(path, shapes))


class _Reshape(NamedTuple):
    """Runs by a reshape that cuts their axes."""

    runs: tuple[tuple[int, int | None], ...]

    def grid_shape(self, shape):
        runs = dict(self.runs)
        return tuple(
            length if axis not in runs else -(-length // (runs[axis] or length))
            for axis, length in enumerate(shape)
        )

    def roots_of_norms(self, x, of_roots):
        return roots_of_norms(x, dict(self.runs), of_roots), True

    def spread(self, grid, shape):
        return spread(grid, shape, dict(self.runs))

    def carried(self, constant):
        return constant

    def sizes(self, shape):
        return math.prod(numbers_of_elements(shape, dict(self.runs)))

    def counts(self, shape):
        return np.bool_(True)

    def one_entry_a_group(self, grid):
        return grid

    def grid_of(self, entries):
        return entries


class _Swap(NamedTuple):
    """Swaps the last two axes, so that columns can be cut as rows are."""

    def grid_shape(self, shape):
        return (*shape[:-2], shape[-1], shape[-2])

    def roots_of_norms(self, x, of_roots):
        return tf.linalg.matrix_transpose(x), of_roots

    def spread(self, grid, shape):
        return tf.linalg.matrix_transpose(grid)

    def carried(self, constant):
        return np.swapaxes(constant, -1, -2)

    def sizes(self, shape):
        return 1.0

    def counts(self, shape):
        return np.bool_(True)

    def one_entry_a_group(self, grid):
        return tf.linalg.matrix_transpose(grid)

    def grid_of(self, entries):
        return tf.linalg.matrix_transpose(entries)


@functools.lru_cache(maxsize=1024)
def _tiles(length, size, whole):
    """The tiles for runs of `size` among `length` rows; groups span the `whole` axes too."""
    aligned = math.lcm(size, _SUBLANES)
    largest = max(size, 2 * _SUBLANES)
    if aligned > largest or length % aligned:
        candidates = range(_SUBLANES, largest + 1, _SUBLANES)
        aligned = max(rows for rows in candidates if length % rows == 0)
    return _Tiles(size, whole, np.arange(length).reshape(-1, aligned) // size)


class _Tiles:
    """Runs of `size` rows, summed in tiles of rows that need not hold whole runs.

    A grid has shape `[groups that a tile meets, ..., tiles, columns]`: an entry for each group
    and tile that have rows in common.

    Args:
        size: the number of rows in a run.
        whole: the axes that the groups span besides.
        group: the number of each row's group, an array of shape `[tiles, rows of a tile]`.
    """

    def __init__(self, size, whole, group):
        self._whole = whole
        first, last = group[:, 0], group[:, -1]
        self._local = group - first[:, np.newaxis]  # a group's number among those of the tile
        self._meets = int(self._local.max()) + 1
        # These have the shape of a grid without columns and axes in between: `[meets, tiles]`.
        self._group = first + np.arange(self._meets)[:, np.newaxis]
        self._exists = self._group <= last
        self._sizes = np.where(self._exists, np.minimum(size, group.size - self._group * size), 0)
        self._is_first = self._exists & (self._group > np.concatenate([[-1], last[:-1]]))

    def _constant(self, entries, rank):
        return entries.reshape([self._meets] + [1] * (rank - 2) + [-1, 1])

    def grid_shape(self, shape):
        spanned = [1 if axis in self._whole else length for axis, length in enumerate(shape)]
        return (self._meets, *spanned[:-2], len(self._local), spanned[-1])

    def carried(self, constant):
        return constant[np.newaxis]

    def sizes(self, shape):
        of_whole = math.prod(shape[axis] for axis in self._whole)
        return of_whole * self._constant(self._sizes, len(shape))

    def counts(self, shape):
        return self._constant(self._is_first, len(shape))

    def roots_of_norms(self, x, of_roots):
        """Those of `x`, or of `x^2`, for each group and tile; True, as the result is roots."""
        parts = self._in_tiles(x, of_roots)
        whole = [self._with_other_tiles(parts, local) for local in range(self._meets)]
        return tf.stack(whole), True

    def _in_tiles(self, x, of_roots):
        rows = x.shape.rank - 2
        cut = tf.reshape(x, [*x.shape[:rows], *self._local.shape, x.shape[-1]])
        axes = [rows + 1] + [axis if axis < rows else axis + 1 for axis in self._whole]
        parts = []
        for local in range(self._meets):
            of_group = cut
            if self._meets > 1:
                is_in_group = (self._local == local)[..., np.newaxis]
                of_group = tf.where(is_in_group, cut, tf.zeros([], cut.dtype))
            roots = root_of_norm(of_group, axes, keepdims=True, of_roots=of_roots)
            parts.append(tf.squeeze(roots, rows + 1))
        return parts

    def _with_other_tiles(self, parts, local):
        """Those of the groups that are number `local` of their tile, over all of their rows."""
        pieces = [parts[local]]
        for distance in range(1, len(self._local)):
            around = [
                (by, other, self._is_same(by, other, local))
                for by in (distance, -distance)
                for other in range(self._meets)
            ]
            if not any(is_same.any() for *_, is_same in around):
                break
            for by, other, is_same in around:
                if is_same.any():
                    part = moved(parts[other], parts[other].shape.rank - 2, by)
                    pieces.append(tf.where(is_same[:, np.newaxis], part, tf.zeros([], part.dtype)))
        return pieces[0] if len(pieces) == 1 else _root_of_hypotenuse(pieces)

    def _is_same(self, by, other, local):
        """For each tile, whether its group `local` is group `other` of the tile `by` before it."""
        here = slice(by, None) if by > 0 else slice(None, by)
        there = slice(None, -by) if by > 0 else slice(-by, None)
        both_exist = self._exists[other, there] & self._exists[local, here]
        is_same = np.zeros(len(self._local), bool)
        is_same[here] = both_exist & (self._group[other, there] == self._group[local, here])
        return is_same

    def spread(self, grid, shape):
        result = grid[-1][..., np.newaxis, :]
        for local in range(self._meets - 1):
            is_in_group = (self._local == local)[..., np.newaxis]
            result = tf.where(is_in_group, grid[local][..., np.newaxis, :], result)
        *before, tiles, _, columns = result.shape
        result = tf.broadcast_to(result, [*before, tiles, self._local.shape[1], columns])
        return tf.reshape(result, [*before, self._local.size, columns])

    def one_entry_a_group(self, grid):
        *before, tiles, columns = grid.shape[1:]
        by_tile = tf.transpose(grid, [*range(1, grid.shape.rank - 1), 0, grid.shape.rank - 1])
        by_tile = tf.reshape(by_tile, [*before, tiles * self._meets, columns])
        return tf.gather(by_tile, np.flatnonzero(self._is_first.T), axis=len(before))

    def grid_of(self, entries):
        group = np.minimum(self._group, self._group[self._exists].max())
        return tf.stack([tf.gather(entries, row, axis=entries.shape.rank - 2) for row in group])


def _root_of_hypotenuse(roots):
    """The square root of the Euclidean norm of the squares of `roots`."""
    largest = tf.stop_gradient(functools.reduce(tf.maximum, roots))
    is_scale = tf.math.is_finite(largest) & (largest > 0.0)
    scale = tf.where(is_scale, largest, tf.ones([], largest.dtype))
    squares = [tf.square(tf.square(root / scale)) for root in roots]
    return scale * root_or_zero(root_or_zero(tf.add_n(squares)))
