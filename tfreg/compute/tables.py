"""Sums over lists of entries, by static tables of their indices."""

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfreg.compute.views import known_shape, repeat_runs

# Up to so many slices, or widths of lists, a graph holds one of each; it must not grow with the
# number of lists.
_MAX_PARTS = 16


class _Stretch(NamedTuple):
    """Lists of one size, one after the other: `lists` of them from entry `first` on."""

    first: int
    lists: int
    size: int


class Table:
    """Lists of indices, whose entries are summed, or get what belongs to their list.

    Tables of the same lists are equal.

    Args:
        indices: an int array, the indices of all lists, one list after the other.
        sizes: an int array, the number of indices of each list; some may be 0.
    """

    def __init__(self, indices: np.ndarray, sizes: np.ndarray) -> None:
        self.indices, self.sizes = indices, sizes
        self._key = (indices.tobytes(), sizes.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self._key)

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """The places in `indices` where the lists begin."""
        return np.cumsum(self.sizes) - self.sizes

    @functools.cached_property
    def reach(self) -> int:
        """The least number of entries that has all the indices."""
        return int(self.indices.max(initial=-1)) + 1

    @functools.cached_property
    def _owners(self) -> np.ndarray:
        """The number of the list of each of the `indices`."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    @functools.cached_property
    def transposed(self) -> "Table":
        """For each entry the list of the lists that it is in."""
        order = np.argsort(self.indices, kind="stable")
        return Table(self._owners[order], np.bincount(self.indices, minlength=self.reach))

    @functools.cached_property
    def is_disjoint(self) -> bool:
        """Whether no entry is in two lists."""
        return len(np.unique(self.indices)) == len(self.indices)

    @functools.cached_property
    def _stretches(self) -> list[_Stretch] | None:
        """The lists as a few stretches of the entries; None if they are not."""
        starts, sizes = self.starts, self.sizes
        if not len(sizes) or not sizes.all():
            return None
        within = np.diff(self.indices) == 1
        begins = np.zeros(len(self.indices), bool)
        begins[starts] = True
        if not (within | begins[1:]).all():
            return None
        firsts = self.indices[starts]
        goes_on = (sizes[1:] == sizes[:-1]) & (firsts[1:] == firsts[:-1] + sizes[:-1])
        edges = np.flatnonzero(~goes_on) + 1
        if len(edges) >= _MAX_PARTS:
            return None
        bounds = zip([0, *edges], [*edges, len(sizes)])
        return [_Stretch(int(firsts[a]), int(b - a), int(sizes[a])) for a, b in bounds]

    @functools.cached_property
    def _rows(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pairs of the numbers of lists, and a matrix with the indices of each, plus 1, in a row.

        Short rows are filled up with 0.
        """
        widths = self.sizes
        if len(np.unique(widths)) > _MAX_PARTS:
            widths = np.where(widths > 0, 2 ** np.ceil(np.log2(np.maximum(widths, 1))), 0)
        pairs = []
        for width in np.unique(widths).astype(int):
            numbers = np.flatnonzero(widths == width)
            columns = np.arange(width)
            is_inside = columns < self.sizes[numbers, np.newaxis]
            places = np.where(is_inside, self.starts[numbers, np.newaxis] + columns, 0)
            pairs.append((numbers, np.where(is_inside, self.indices[places] + 1, 0)))
        return pairs

    def sums(self, x: tf.Tensor) -> tf.Tensor:
        """The sums of the lists' entries along the middle axis of `x`."""
        before, _, after = known_shape(x)
        if self._stretches is not None:
            parts = []
            for first, count, size in self._stretches:
                cut = x[:, first : first + count * size]
                runs = tf.reshape(cut, [before, count, size, after])
                parts.append(tf.reduce_sum(runs, axis=2))
            return _joined(parts)
        if all((matrix > 0).all() for _, matrix in self._rows):
            matrices = [matrix - 1 for _, matrix in self._rows]
        else:
            x, matrices = tf.pad(x, [[0, 0], [1, 0], [0, 0]]), [matrix for _, matrix in self._rows]
        parts = [
            tf.reduce_sum(tf.gather(x, matrix.astype(np.int32), axis=1), axis=2)
            for matrix in matrices
        ]
        order = np.concatenate([numbers for numbers, _ in self._rows])
        if (np.diff(order) == 1).all():
            return _joined(parts)
        return tf.gather(_joined(parts), np.argsort(order).astype(np.int32), axis=1)

    def picked(self, grid: tf.Tensor, length: int | tf.Tensor, fill: float) -> tf.Tensor:
        """For each of `length` entries that of its list, along the middle axis of `grid`.

        The lists are disjoint. Entries in none get `fill`.
        """
        stretches = self._stretches
        if stretches is not None and all(
            a.first < b.first for a, b in zip(stretches, stretches[1:])
        ):
            return self._repeated(stretches, grid, length, fill)
        labels = np.full(self.reach, -1)
        labels[self.indices] = self._owners
        grid = tf.pad(grid, [[0, 0], [1, 0], [0, 0]], constant_values=fill)
        return up_to(length, tf.gather(grid, labels.astype(np.int32) + 1, axis=1), fill)

    def _repeated(
        self, stretches: list[_Stretch], grid: tf.Tensor, length: int | tf.Tensor, fill: float
    ) -> tf.Tensor:
        before, _, after = known_shape(grid)
        parts: list[tf.Tensor] = []
        place = number = 0
        for first, count, size in stretches:
            if first > place:
                filled = tf.cast(fill, grid.dtype)
                parts.append(tf.fill([before, first - place, after], filled))
            parts.append(repeat_runs(size, count * size, grid[:, number : number + count]))
            place, number = first + count * size, number + count
        return up_to(length, _joined(parts), fill)


def _joined(parts: list[tf.Tensor]) -> tf.Tensor:
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)


def up_to(length: int | tf.Tensor, x: tf.Tensor, fill: float) -> tf.Tensor:
    """Fills the middle axis of `x` up to `length`."""
    reach = x.shape[1]
    if isinstance(length, int) and length == reach:
        return x
    return tf.pad(x, [[0, 0], [0, length - reach], [0, 0]], constant_values=fill)
