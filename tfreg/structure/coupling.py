"""Coupling: slices of weights that live and die together."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tfreg import backend
from tfreg.checks import is_int
from tfreg.inventory import Member, Variable


class Cost(NamedTuple):
    """What an entry of a coupling stands for.

    Attributes:
        parameters: the trainable weights in all its slices.
        multiply_adds: the multiplications with these weights for one example.
    """

    parameters: int
    multiply_adds: int


class Use(NamedTuple):
    """A weight, and how often each of its elements is multiplied for one example.

    `times` is None where the layer is not followed.
    """

    variable: Variable
    times: int | None


@dataclasses.dataclass(frozen=True)
class Coupling:
    """Units, filters or heads of a layer with all that depends on each of them.

    Entry k holds slices of several weights, which live and die together: what makes unit k, its
    bias and normalization, and what every later layer makes of it.

    Attributes:
        size: the number of entries.
        members: for each weight a tuple of the `variable`, its `path`, and its `slices`: pairs of
            an axis and an array of shape `(size, n)` with the indices of each entry along it.
        cost: what an entry stands for: `parameters` and `multiply_adds` of one example.
        group_weight: by what a penalty multiplies the norm of an entry, in place of the root of
            its number of elements; None for that root.
        reads: pairs of an index in `members` and an axis, along which the weight reads the entries;
            along the others it makes them.
        uses: all weights of the model that was followed, with how often each is multiplied.
    """

    size: int
    members: tuple[Member, ...] = dataclasses.field(repr=False)
    cost: Cost
    group_weight: float | None = None
    reads: frozenset[tuple[int, int]] = dataclasses.field(default=frozenset(), repr=False)
    uses: tuple[Use, ...] = dataclasses.field(default=(), repr=False)

    @property
    def weights(self) -> list[Variable]:
        """The weights that the slices are of."""
        return [member.variable for member in self.members]

    @property
    def paths(self) -> list[str]:
        """The paths of the weights, as `tfreg.get_penalties` tells them."""
        return [member.path for member in self.members]

    def norms(self) -> np.ndarray:
        """The Euclidean norm of each entry over all its slices.

        Returns:
            A float64 array of shape `(size,)`.
        """
        squares = np.zeros(self.size)
        for member in self.members:
            array = np.asarray(backend.array_of(member.variable))
            squares += squares_of_entries(array, member.slices, self.size)
        return np.sqrt(squares)

    def zero(self, entries: Sequence[int] | np.ndarray) -> None:
        """Sets all slices of some entries to exact zeros, in the readers too.

        The outputs of the model change, unless the entries were dead.

        Args:
            entries: the entries' indices, or a bool for each entry.

        Raises:
            TypeError, ValueError: for other `entries`.
        """
        chosen = self._checked(entries)
        for member in self.members:
            array = np.array(backend.array_of(member.variable))
            for axis, indices in member.slices:
                array[(slice(None),) * axis + (indices[chosen].ravel(),)] = 0
            member.variable.assign(array)

    def _checked(self, entries: Sequence[int] | np.ndarray) -> np.ndarray:
        array = np.asarray(entries)
        if array.dtype == bool and array.shape == (self.size,):
            return np.flatnonzero(array)
        if array.size == 0 and array.ndim == 1:
            return np.zeros(0, np.int64)
        if array.ndim != 1 or not all(map(is_int, array.tolist())):
            raise TypeError(
                "Argument `entries` must be a list of ints, or have a bool for each entry. "
                f"Received: entries={entries!r}"
            )
        if array.min() < 0 or array.max() >= self.size:
            raise ValueError(
                f"Argument `entries` must be in [0, {self.size}), the coupling's entries. "
                f"Received: entries={entries!r}"
            )
        return array


# How many elements are converted at a time.
_BLOCK = 2**20


def sums_of_squares(array: np.ndarray, axes: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    """The sums, over `axes`, of the squares of an array over a `scale`, in float64.

    No float64 array of all elements is made.
    """
    count = max(1, _BLOCK * len(array) // max(array.size, 1))
    sums = []
    for start in range(0, len(array), count):
        block = array[start : start + count].astype(np.float64)
        if scale != 1.0:
            block /= scale
        sums.append(np.square(block, out=block).sum(axis=axes))
    if not sums:
        return np.square(array.astype(np.float64)).sum(axis=axes)
    return sum(sums[1:], sums[0]) if 0 in axes else np.concatenate(sums)


def squares_of_entries(
    array: np.ndarray, slices: Sequence[tuple[int, np.ndarray]], size: int, scale: float = 1.0
) -> np.ndarray:
    """The sum of the squares over each entry, of float64, of a weight over a `scale`."""
    sums = np.zeros(size)
    for axis, indices, part in _disjoint_slices(array, slices):
        sums += sums_of_squares(part, other_axes(part, axis), scale)[indices].sum(axis=1)
    return sums


def other_axes(array: np.ndarray, axis: int) -> tuple[int, ...]:
    return tuple(i for i in range(array.ndim) if i != axis)


def _disjoint_slices(
    array: np.ndarray, slices: Sequence[tuple[int, np.ndarray]]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The `slices` of a weight, with the array of which they are taken.

    Where an entry has slices along two axes, what they share counts with the first alone.
    """
    for place, (axis, indices) in enumerate(slices):
        remaining = array
        for other, others in slices[:place]:
            owners = np.full((2, max(array.shape)), -1)
            owners[0, others] = np.arange(len(others))[:, None]
            owners[1, indices] = np.arange(len(indices))[:, None]
            along = [
                np.reshape(owners[i, : array.shape[a]], _in_place(array.ndim, a))
                for i, a in enumerate((other, axis))
            ]
            is_shared = (along[0] == along[1]) & (along[0] >= 0)
            remaining = np.where(is_shared, np.zeros([], remaining.dtype), remaining)
        yield axis, indices, remaining


def _in_place(rank: int, axis: int) -> list[int]:
    return [-1 if i == axis else 1 for i in range(rank)]


class Fixed(NamedTuple):
    """What is not free: a weight's axis, how many of its entries stay, and why."""

    path: str
    axis: int
    size: int
    reason: str


class Couplings(Sequence[Coupling]):
    """The couplings of a model, and what of it is not free.

    A sequence of `Coupling`, in the order of the model; `tfreg.add_penalty` takes it, or a list of
    some of them, as its `weights`. Printed, it is a table.

    Attributes:
        fixed: a list of `Fixed` with the `path` of a weight, its `axis`, the `size` of what cannot
            be cut there, and the `reason`.
    """

    def __init__(self, couplings: Sequence[Coupling], fixed: Sequence[Fixed]) -> None:
        self._couplings = list(couplings)
        self.fixed = list(fixed)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._couplings[index]

    def __len__(self) -> int:
        return len(self._couplings)

    def weighted(self, by: str) -> "Couplings":
        """The same couplings, whose entries a penalty weights by what they cost.

        A norm is multiplied by the cost of its entry over the mean cost of all entries, and by the
        root of the mean number of elements: a factor means about what it does by size.

        Args:
            by: `"parameters"` or `"multiply_adds"`.

        Returns:
            Other `Couplings`.

        Raises:
            ValueError: for another `by`.

        Example:

        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> model.add(keras.layers.Dense(2))
        >>> couplings = tfreg.couple(model).weighted("multiply_adds")
        >>> model = tfreg.add_penalty(model, tfreg.GroupLasso(1e-3), weights=couplings)
        """
        if by not in Cost._fields:
            raise ValueError(
                f"Argument `by` must be one of {list(Cost._fields)}. Received: by={by!r}"
            )
        sizes = sum(coupling.size for coupling in self)
        costs = [getattr(coupling.cost, by) for coupling in self]
        total = sum(cost * coupling.size for cost, coupling in zip(costs, self))
        elements = sum(coupling.cost.parameters * coupling.size for coupling in self)
        unit = math.sqrt(elements / sizes) * sizes / total if total else 0.0
        weighted = [
            dataclasses.replace(coupling, group_weight=cost * unit)
            for cost, coupling in zip(costs, self)
        ]
        return Couplings(weighted, self.fixed)

    def __repr__(self) -> str:
        rows = [("entries", "parameters", "multiply-adds", "weights")]
        for coupling in self:
            paths = coupling.paths
            listed = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if paths[3:] else "")
            cost = coupling.cost
            rows.append(
                (str(coupling.size), f"{cost.parameters:,}", f"{cost.multiply_adds:,}", listed)
            )
        lines = _table(rows, "right right right left")
        if self.fixed:
            fixed = [("fixed", "axis", "weight", "because")]
            fixed += [
                (str(each.size), str(each.axis), each.path, each.reason) for each in self.fixed
            ]
            lines += ["", *_table(fixed, "right right left left")]
        return "\n".join(lines)


def _table(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if side == "right" else cell.ljust(width)
            for cell, width, side in zip(row, widths, sides.split())
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
