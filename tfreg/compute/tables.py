"""Reductions over lists of entries, by static tables of their indices."""

import functools
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from tfreg.compute.views import known_shape, repeat_runs

# A gather of entries along the middle axis, by an array of indices.
Gather: TypeAlias = Callable[[tf.Tensor, np.ndarray], tf.Tensor]


def gather(x: tf.Tensor, indices: np.ndarray) -> tf.Tensor:
    """The entries of `x` along its middle axis, by `indices` of any rank."""
    return tf.gather(x, indices, axis=1)


class Table:
    """Lists of indices, whose entries are reduced, or get what belongs to their list.

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

    def __reduce__(self) -> tuple:
        return Table, (self.indices, self.sizes)  # the hash of bytes is another one elsewhere

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
    def _run_length(self) -> int | None:
        """The size of the lists if they are runs of one size, one behind the other, else None."""
        sizes = self.sizes
        is_same = len(sizes) > 0 and sizes[0] > 0 and (sizes == sizes[0]).all()
        return int(sizes[0]) if is_same and (np.diff(self.indices) == 1).all() else None

    @functools.cached_property
    def _rows(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The numbers of lists, a matrix with the indices of each in a row, and which are theirs.

        Rows that are short are filled up, to at most twice the number of entries.
        """
        by_size = np.argsort(-self.sizes, kind="stable")
        rows, begin = [], 0
        while begin < len(by_size):
            sizes = self.sizes[by_size[begin:]]
            width = sizes[0]
            is_waste = np.arange(1, len(sizes) + 1) * width > 2 * np.cumsum(sizes)
            count = int(np.argmax(is_waste)) if is_waste.any() else len(sizes)
            numbers = np.sort(by_size[begin : begin + count])
            is_inside = np.arange(width) < self.sizes[numbers, np.newaxis]
            places = np.where(is_inside, self.starts[numbers, np.newaxis] + np.arange(width), 0)
            rows.append((numbers, self.indices[places].astype(np.int32), is_inside))
            begin += count
        return rows

    def reduced(
        self, x: tf.Tensor, reduce: Callable[..., tf.Tensor], gather: Gather = gather
    ) -> tf.Tensor:
        """Reduces the lists' entries along the middle axis of `x`, each list to an entry.

        `reduce` gets the keyword `axis`. Zeros change nothing in what it gives.
        """
        before, _, after = known_shape(x)
        size = self._run_length
        if size is not None:
            runs = x[:, self.indices[0] : self.indices[-1] + 1]
            return reduce(tf.reshape(runs, [before, len(self.sizes), size, after]), axis=2)
        parts = []
        for _, indices, is_inside in self._rows:
            y = gather(x, indices)
            if not is_inside.all():
                y = tf.where(is_inside[..., np.newaxis], y, tf.zeros_like(y))
            parts.append(reduce(y, axis=2))
        order = np.concatenate([numbers for numbers, _, _ in self._rows])
        if (np.diff(order) == 1).all():
            return _joined(parts)
        return gather(_joined(parts), np.argsort(order).astype(np.int32))

    def picked(
        self, grid: tf.Tensor, length: int | tf.Tensor, fill: float, gather: Gather = gather
    ) -> tf.Tensor:
        """For each of `length` entries that of its list, along the middle axis of `grid`.

        The lists are disjoint. Entries in none get `fill`.
        """
        size = self._run_length
        if size is not None:
            spread = repeat_runs(size, len(self.indices), grid)
            before = [[0, 0], [self.indices[0], 0], [0, 0]]
            return up_to(length, tf.pad(spread, before, constant_values=fill), fill)
        labels = np.full(self.reach, -1)
        labels[self.indices] = self._owners
        grid = tf.pad(grid, [[0, 0], [1, 0], [0, 0]], constant_values=fill)
        return up_to(length, gather(grid, labels.astype(np.int32) + 1), fill)


def _joined(parts: list[tf.Tensor]) -> tf.Tensor:
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)


def up_to(length: int | tf.Tensor, x: tf.Tensor, fill: float) -> tf.Tensor:
    """Fills the middle axis of `x` up to `length`."""
    reach = x.shape[1]
    if isinstance(length, int) and length == reach:
        return x
    return tf.pad(x, [[0, 0], [0, length - reach], [0, 0]], constant_values=fill)
