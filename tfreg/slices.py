"""The entries of a coupling in one weight: slices along its axes.

Entry k owns some indices along one axis of the weight, or along several: then it is the union of
these slices, and an element in two of them counts once.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfreg.checks import check_config, is_int
from tfreg.compute.tables import Table
from tfreg.compute.views import sliced
from tfreg.runs import Runs
from tfreg.sets import Sets


class Part(NamedTuple):
    """The slices along one axis as groups, of which the k-th is entry k.

    Without `groups` it is a matrix with a column for each entry.
    """

    tensor: tf.Tensor
    groups: Runs | Sets | None


class _Slice:
    """The indices that each entry owns along an axis.

    Where they are a range they need no table: of order "C" if one entry's indices follow those of
    another, as in heads; of order "F" if the first of all entries come first, as in gates and in
    the inputs behind a Flatten.
    """

    def __init__(self, axis: int, indices: np.ndarray) -> None:
        self.axis, self.indices = axis, indices
        self.size, self.width = indices.shape
        self.start, self.stop = int(indices.min()), int(indices.max()) + 1

    @functools.cached_property
    def order(self) -> str | None:
        for order in ("C", "F"):
            if (np.diff(np.ravel(self.indices, order)) == 1).all():
                return order
        return None

    def labels(self, length: int) -> np.ndarray:
        """The entry of each index along the axis, -1 for none."""
        labels = np.full(length, -1, np.int32)
        labels[self.indices] = np.arange(self.size)[:, np.newaxis]
        return labels

    def part(self, w: tf.Tensor, is_small: bool) -> Part:
        """What the entries have of `w`: of a vector or a small weight as a matrix, where it can."""
        axis, shape = self.axis, w.shape.as_list()
        if self.stop - self.start < shape[axis]:
            w = sliced(w, axis, self.start, self.stop)
        if self.order is not None and (is_small or len(shape) == 1):
            return Part(self._matrix(w, math.prod(shape[:axis])), None)
        others = tuple((i, None) for i in range(len(shape)) if i != axis)
        if self.order == "C":
            return Part(w, Runs((*others, (axis, self.width))))
        if self.order == "F":
            split = [*shape[:axis], self.width, self.size, *shape[axis + 1 :]]
            spanned = (i for i in range(len(split)) if i != axis + 1)
            return Part(tf.reshape(w, split), Runs(tuple((i, None) for i in spanned)))
        table = Table(np.ravel(self.indices) - self.start, np.full(self.size, self.width))
        return Part(w, Sets(table, None, Runs(others)))

    def _matrix(self, x: tf.Tensor, before: int) -> tf.Tensor:
        """The range of the indices in a weight, as a matrix with a column for each entry."""
        is_in_columns = self.order == "F" or self.width == 1
        after = x.shape.num_elements() // (before * self.size * self.width)
        if not is_in_columns:
            x = tf.reshape(x, [before, self.size, self.width * after])
            x = tf.transpose(x, [0, 2, 1])
        elif after > 1:
            x = tf.reshape(x, [before * self.width, self.size, after])
            x = tf.transpose(x, [0, 2, 1])
        return tf.reshape(x, [-1, self.size])

    def with_part(self, w: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
        """`w` with another `part`, the tensor of `part(w, is_small=False)`."""
        if w.shape.rank == 1 and self.order == "C":
            part = tf.transpose(part)
        shape = w.shape.as_list()
        shape[self.axis] = self.stop - self.start
        pieces = [
            sliced(w, self.axis, 0, self.start),
            tf.reshape(part, shape),
            sliced(w, self.axis, self.stop, None),
        ]
        pieces = [piece for piece in pieces if piece.shape[self.axis] != 0]
        return pieces[0] if len(pieces) == 1 else tf.concat(pieces, self.axis)


class Slices:
    """The entries of a coupling in one weight.

    Args:
        pairs: pairs of an axis and an int array of shape `(size, n)`, whose row k lists the indices
            of entry k along that axis.

    Raises:
        ValueError: if there is no pair, an axis is there twice, the arrays have not as many rows,
            or an index is there twice along an axis.
    """

    def __init__(self, pairs: Sequence[tuple[int, Any]]) -> None:
        pairs = [(_checked_axis(axis), _checked_indices(rows)) for axis, rows in pairs]
        axes = [axis for axis, _ in pairs]
        if not pairs or len(set(axes)) < len(axes) or len({len(rows) for _, rows in pairs}) > 1:
            raise ValueError(
                "The slices of a weight must be pairs of an axis, each axis once, and an array "
                f"with a row for each entry. Received: the axes {axes} with arrays of shapes "
                f"{[rows.shape for _, rows in pairs]}"
            )
        self._slices = tuple(_Slice(*pair) for pair in pairs)

    @property
    def size(self) -> int:
        """The number of entries."""
        return self._slices[0].size

    @property
    def pairs(self) -> list[tuple[int, np.ndarray]]:
        """The axes with the indices of each entry along them."""
        return [(piece.axis, piece.indices) for piece in self._slices]

    def check_fits(self, shape: Sequence[int | None], weight_name: str) -> None:
        """Raises a ValueError if a weight of `shape` lacks an axis or an index."""
        lengths = tuple(shape)
        if None in lengths:
            raise ValueError(
                "A coupling is one of weights of known shape. "
                f"Received: weight {weight_name} of shape {lengths}"
            )
        for piece in self._slices:
            if piece.axis >= len(lengths) or piece.stop > (lengths[piece.axis] or 0):
                raise ValueError(
                    "A coupling must have slices of its weights. Received: the index "
                    f"{piece.stop - 1} along axis {piece.axis} of weight {weight_name} of shape "
                    f"{lengths}"
                )

    def count(self, shape: Sequence[int]) -> int:
        """The number of elements of each entry in a weight of `shape`."""
        beside = list(shape)
        for piece in self._slices:
            beside[piece.axis] -= piece.width
        return math.prod(shape) - math.prod(beside)

    def parts(self, w: tf.Tensor, is_small: bool = False) -> list[Part]:
        """The slices of `w` along each axis; an element of an entry is in one of them, else 0.

        Those of a vector, and of a weight that is called small, are matrices where they can be.
        """
        parts = []
        for number, piece in enumerate(self._slices):
            x = w
            for former in self._slices[:number]:
                is_counted = tf.equal(_along(piece, w), _along(former, w)) & (_along(piece, w) >= 0)
                x = tf.where(is_counted, tf.zeros_like(w), x)
            parts.append(piece.part(x, is_small))
        return parts

    @property
    def is_disjoint(self) -> bool:
        """Whether no element is in two entries."""
        return len(self._slices) == 1 or self.size == 1

    def with_part(self, w: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
        """`w` with another tensor in place of its only part."""
        [piece] = self._slices
        return piece.with_part(w, part)

    def only(self, x: tf.Tensor, w: tf.Tensor | None = None) -> tf.Tensor:
        """`x` where an element belongs to an entry; elsewhere `w`, or 0."""
        if any(piece.size * piece.width == x.shape[piece.axis] for piece in self._slices):
            return x
        inside = [_along(piece, x) >= 0 for piece in self._slices]
        w = tf.zeros_like(x) if w is None else w
        return tf.where(functools.reduce(tf.logical_or, inside), x, w)

    def cut(self, kept: Sequence[np.ndarray | None]) -> "tuple[Slices | None, np.ndarray]":
        """The slices in a weight of which the indices `kept` along each axis are left.

        Returns:
            The slices, None if no entry is left; and which entries are left.

        Raises:
            ValueError: if a part of an entry is left.
        """
        left: list[np.ndarray] = []
        moved = []
        for piece in self._slices:
            indices = kept[piece.axis]
            if indices is None:
                left.append(np.ones([piece.size, piece.width], bool))
                moved.append((piece.axis, piece.indices))
                continue
            places = np.full(max(piece.stop, int(np.max(indices, initial=-1)) + 1), -1)
            places[indices] = np.arange(len(indices))
            left.append(places[piece.indices] >= 0)
            moved.append((piece.axis, places[piece.indices]))
        is_left = np.concatenate(left, axis=1)
        whole: np.ndarray = np.all(is_left, axis=1)
        is_torn = whole != np.any(is_left, axis=1)
        if is_torn.any():
            entry = int(np.argmax(is_torn))
            raise ValueError(f"a part of entry {entry} of a coupling is removed, and a part is not")
        if not whole.any():
            return None, whole
        return Slices([(axis, indices[whole]) for axis, indices in moved]), whole

    def get_config(self) -> list[dict[str, Any]]:
        """The slices in JSON's types, with runs of consecutive indices as ranges."""
        return [{"axis": piece.axis, **_compressed(piece.indices)} for piece in self._slices]

    @classmethod
    def from_config(cls, config: Any) -> "Slices":
        if not isinstance(config, (list, tuple)):
            raise ValueError(
                f"The config of the slices of a weight must be a list. Received: {config!r}"
            )
        pairs = []
        for entry in config:
            check_config("a slice", entry, ("axis", "shape", "order", "ranges"))
            pairs.append((entry["axis"], _expanded(entry)))
        return cls(pairs)


def _along(piece: _Slice, w: tf.Tensor) -> tf.Tensor:
    """The entries along the slice's axis, to be broadcast against `w`."""
    shape = [-1 if axis == piece.axis else 1 for axis in range(w.shape.rank)]
    return tf.reshape(piece.labels(w.shape[piece.axis]), shape)


def _checked_axis(axis: Any) -> int:
    if not (is_int(axis) and axis >= 0):
        raise ValueError(f"The axis of a slice must be an int >= 0. Received: {axis!r}")
    return int(axis)


def _checked_indices(indices: Any) -> np.ndarray:
    array = np.asarray(indices)
    is_matrix = array.dtype.kind in "iu" and array.ndim == 2 and array.size > 0
    if not is_matrix or array.min() < 0 or len(np.unique(array)) < array.size:
        raise ValueError(
            "The indices of a slice must be a matrix of distinct ints >= 0, with a row for each "
            f"entry. Received: {array!r}"
        )
    array = np.array(array, np.int64)
    array.flags.writeable = False
    return array


def _compressed(indices: np.ndarray) -> dict[str, Any]:
    """The `indices` in the order, by rows or by columns, in which they are the fewest ranges."""
    ranges = {order: _ranges(np.ravel(indices, order)) for order in ("C", "F")}
    order = min(ranges, key=lambda order: len(ranges[order]))
    return {"shape": list(indices.shape), "order": order, "ranges": ranges[order]}


def _ranges(indices: np.ndarray) -> list[list[int]]:
    ends = np.flatnonzero(np.diff(indices) != 1) + 1
    starts, stops = np.array([0, *ends]), np.array([*ends, len(indices)])
    return np.stack([indices[starts], indices[stops - 1] + 1], axis=1).tolist()


def _expanded(config: dict[str, Any]) -> np.ndarray:
    """The indices whose `_compressed` is `config`."""
    ranges, shape, order = config["ranges"], config["shape"], config["order"]
    is_known = order in ("C", "F") and _are_pairs(ranges) and _are_pairs([shape])
    if not is_known or not 0 < sum(stop - start for start, stop in ranges) == math.prod(shape):
        raise ValueError(
            "The config of a slice must have the 'shape' of its indices, 'C' or 'F' as their "
            f"'order', and 'ranges' that make as many of them. Received: {config!r}"
        )
    indices = np.concatenate([np.arange(start, stop) for start, stop in ranges])
    return np.reshape(indices, shape, order=order)


def _are_pairs(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and all(map(is_int, pair))
        and 0 <= pair[0]
        for pair in values
    )
