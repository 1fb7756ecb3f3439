"""Which groups of a penalty are zero, and their norms, by NumPy."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from tfreg import backend
from tfreg.checks import is_int
from tfreg.compute.tables import Table
from tfreg.groups import Groups, resolve_axes
from tfreg.inventory import Model, Variable
from tfreg.layout import Layout
from tfreg.model.attached import penalized_weights
from tfreg.penalties import Joint, Sum
from tfreg.penalties.coupled import Coupled
from tfreg.penalties.grouped import Grouped
from tfreg.proximal.listing import weights_of_proximal_penalties
from tfreg.structure.coupling import other_axes, squares_of_entries, sums_of_squares

Shape = tuple[int, ...]
# Norms above and below this have squares that are not what they should be in float64, and by what
# their elements are divided then.
_LARGE, _SMALL = (1e150, 2.0**600), (1e-150, 2.0**-600)
# How many elements a weight may have for what its groups are to be remembered.
_LARGEST_KEPT = 2**20


class _Structure(Protocol):
    """What the groups of a penalty are in a weight."""

    def squares(self, array: np.ndarray, scale: float) -> np.ndarray:
        """The sum of the squares over each group, of float64, of an array over a `scale`."""

    def any(self, array: np.ndarray) -> np.ndarray:
        """Whether anything is true in each group."""


class _Numbered(NamedTuple):
    """Groups by the number of the one that each element is in, which broadcasts to the weight.

    With a `table`, what has a number is listed there, and the lists are the groups.
    """

    numbers: np.ndarray
    length: int
    table: Table | None

    def squares(self, array: np.ndarray, scale: float) -> np.ndarray:
        reduced = sums_of_squares(array, self._within(array), scale)
        sums = np.bincount(np.ravel(self.numbers), np.ravel(reduced), self.length)
        return sums if self.table is None else _over_lists(sums, self.table, np.add)

    def any(self, array: np.ndarray) -> np.ndarray:
        reduced = array.any(axis=self._within(array))
        found = np.zeros(self.length, bool)
        found[np.ravel(self.numbers)[np.ravel(reduced)]] = True
        return found if self.table is None else _over_lists(found, self.table, np.logical_or)

    def _within(self, array: np.ndarray) -> tuple[int, ...]:
        """The axes along which all elements are in one group."""
        return tuple(i for i in range(array.ndim) if self.numbers.shape[i] == 1)


class _Lists(NamedTuple):
    """Groups as lists of indices along an axis, at each position of the others."""

    axis: int
    table: Table

    def squares(self, array: np.ndarray, scale: float) -> np.ndarray:
        return self._over(np.square(array.astype(np.float64) / scale), np.add)

    def any(self, array: np.ndarray) -> np.ndarray:
        return self._over(array, np.logical_or)

    def _over(self, array: np.ndarray, combine: np.ufunc) -> np.ndarray:
        return np.ravel(_over_lists(array, self.table, combine, self.axis))


def _over_lists(array: np.ndarray, table: Table, combine: np.ufunc, axis: int = 0) -> np.ndarray:
    listed = np.take(array, table.indices, axis)
    return combine.reduceat(listed, table.starts, axis)


class _Entries(NamedTuple):
    """The entries of a coupling, by their slices."""

    slices: Sequence[tuple[int, np.ndarray]]
    size: int

    def squares(self, array: np.ndarray, scale: float) -> np.ndarray:
        return squares_of_entries(array, self.slices, self.size, scale)

    def any(self, array: np.ndarray) -> np.ndarray:
        found = np.zeros(self.size, bool)
        for axis, indices in self.slices:
            along = np.any(array, axis=other_axes(array, axis))
            found |= np.take(along, indices).any(axis=1)
        return found


def structures(
    penalty: Any, shapes: Sequence[Shape], layouts: Sequence[Layout | None]
) -> list[_Structure] | None:
    """What the groups of a `penalty` are in weights of these `shapes`; None if it has none.

    The groups of a sum are those of its first member that has some. The k-th groups of several
    weights are one.
    """
    if isinstance(penalty, Coupled):
        return [_Entries(each.pairs, each.size) for each in penalty.slices]
    inner = penalty.penalty if isinstance(penalty, Joint) else penalty
    grouped = _first_grouped(inner)
    if grouped is None:
        return None
    asked = grouped.groups_on([repr(shape) for shape in shapes])
    return [
        _structure(groups, shape, layout or Layout.positional(len(shape)))
        for groups, shape, layout in zip(asked, shapes, layouts)
    ]


def _first_grouped(penalty: Any) -> Grouped | None:
    if isinstance(penalty, Sum):
        found = map(_first_grouped, penalty.penalties)
        return next((each for each in found if each is not None), None)
    return penalty if isinstance(penalty, Grouped) else None


def _structure(groups: Groups, shape: Shape, layout: Layout) -> _Structure:
    # A table may be as large as the weight.
    make = _kept if math.prod(shape) <= _LARGEST_KEPT else _made
    return make(groups, shape, layout)


def _made(groups: Groups, shape: Shape, layout: Layout) -> _Structure:
    table = None if groups.lists is None else groups.lists.table
    if table is not None and is_int(groups.axis):
        return _Lists(resolve_axes(groups.axis, len(shape))[0], table)
    numbers = groups.numbers(shape, layout)
    return _Numbered(numbers, int(numbers.max(initial=-1)) + 1, table)


_kept = functools.lru_cache(maxsize=1024)(_made)


def norms_in(found: Sequence[_Structure], arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The Euclidean norms of groups, of which each of the `arrays` has a part, in float64."""
    norms = _norms(found, arrays, 1.0)
    if any(array.dtype == np.float64 for array in arrays):
        (large, down), (small, up) = _LARGE, _SMALL
        for is_beyond, scale in ((~(norms <= large), down), (norms < small, up)):
            if is_beyond.any():
                norms = np.where(is_beyond, _norms(found, arrays, scale), norms)
    return norms


def _norms(found: Sequence[_Structure], arrays: Sequence[np.ndarray], scale: float) -> np.ndarray:
    with np.errstate(over="ignore"):
        sums = [each.squares(array, scale) for each, array in zip(found, arrays)]
        return scale * np.sqrt(functools.reduce(np.add, sums))


def are_zero(found: Sequence[_Structure], are_nonzero: Sequence[np.ndarray]) -> np.ndarray:
    """Which groups are exactly 0, of whose elements each array tells `are_nonzero`."""
    alive = [each.any(array) for each, array in zip(found, are_nonzero)]
    return ~functools.reduce(np.logical_or, alive)


def zero_groups(model: Model) -> tuple[int, int] | None:
    """How many groups of all penalties of `model` are exactly 0, and of how many.

    Those are the groups of penalties in the loss and in a `tfreg.Proximal`, and the entries of the
    couplings of its budget. Where none has groups, it is the elements of the penalized weights.
    None if nothing is penalized.
    """
    masks: dict[int, np.ndarray] = {}

    def is_nonzero(variable: Variable) -> np.ndarray:
        if id(variable) not in masks:
            masks[id(variable)] = backend.array_of(variable) != 0
        return masks[id(variable)]

    zeros, total = 0, 0
    penalized = itertools.chain(penalized_weights(model), weights_of_proximal_penalties(model))
    for penalty, variables, layouts in penalized:
        nonzero = [is_nonzero(variable) for variable in variables]
        found = structures(penalty, [array.shape for array in nonzero], layouts)
        if found is not None:
            groups = are_zero(found, nonzero)
            zeros, total = zeros + int(groups.sum()), total + len(groups)
    if total:
        return zeros, total
    if not masks:
        return None
    sizes = sum(mask.size for mask in masks.values())
    return sizes - sum(int(np.count_nonzero(mask)) for mask in masks.values()), sizes
