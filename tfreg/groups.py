"""The groups that a user asks for, by axis and size."""

import collections
import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfreg.checks import is_int, shown
from tfreg.compute.tables import Table
from tfreg.layout import KEPT_ROLES, Layout
from tfreg.runs import Runs
from tfreg.sets import Sets


def _entries(value: Any) -> Any:
    return (value,) if is_int(value) else value


def check_axis(
    axis: Any, *, expected: str = "an int or a non-empty tuple of distinct ints"
) -> int | tuple[int, ...]:
    """Returns `axis` as an int or a tuple of distinct ints; `resolve_axes` checks their range."""
    if is_int(axis):
        return int(axis)
    if isinstance(axis, (list, tuple)) and axis and all(is_int(entry) for entry in axis):
        if len(set(axis)) == len(axis):
            return tuple(int(entry) for entry in axis)
    raise ValueError(f"Argument `axis` must be {expected}. Received: axis={axis!r}")


def resolve_axes(
    axis: int | tuple[int, ...], rank: int, weight_name: str = "weight"
) -> tuple[int, ...]:
    """The non-negative axes that `axis` names on a weight of `rank`.

    Raises:
        ValueError: if one is out of range, or named twice.
    """
    entries = _entries(axis)
    if not all(-rank <= entry < rank for entry in entries):
        raise ValueError(
            f"Argument `axis` must name axes of the weight, in [{-rank}, {rank}). "
            f"Received: axis={axis!r} for weight {weight_name} of rank {rank}"
        )
    axes = tuple(entry % rank for entry in entries)
    if len(set(axes)) < len(axes):
        raise ValueError(
            "Argument `axis` must name each axis of the weight once. "
            f"Received: axis={axis!r} for weight {weight_name} of rank {rank}"
        )
    return axes


# Gathers take indices of 32 bits.
_MAX_INDEX = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Lists:
    """Groups as lists of indices.

    Args:
        given: a list of lists of indices, or of labels.
        table: the lists.
    """

    given: list[Any] = dataclasses.field(compare=False, repr=False)
    table: Table

    @classmethod
    def of(cls, groups: Any) -> "Lists":
        """The lists that the argument `groups` stands for.

        Raises:
            ValueError: if it is neither a list of lists of indices nor a list of labels.
        """
        groups = _as_list(groups)
        if not isinstance(groups, list) or not groups:
            raise _bad_groups(f"groups={shown(groups)}")
        if _are_ints(groups):
            return cls._of_labels([int(label) for label in groups])
        lists = []
        for number, entries in enumerate(map(_as_list, groups)):
            where = f"groups[{number}]={shown(entries)}"
            if not isinstance(entries, list) or not entries:
                raise _bad_groups(where)
            if not _are_ints(entries) or not 0 <= min(entries) <= max(entries) <= _MAX_INDEX:
                is_good = [is_int(index) and 0 <= index <= _MAX_INDEX for index in entries]
                raise _bad_groups(f"{entries[is_good.index(False)]!r} in {where}")
            if len(set(entries)) < len(entries):
                repeated, _ = collections.Counter(entries).most_common(1)[0]
                raise _bad_groups(f"{repeated!r} twice in {where}")
            lists.append([int(index) for index in entries])
        sizes = np.array([len(entries) for entries in lists])
        return cls(lists, Table(np.array([index for each in lists for index in each]), sizes))

    @classmethod
    def _of_labels(cls, labels: list[int]) -> "Lists":
        if min(labels) < -1:
            place = next(i for i, label in enumerate(labels) if label < -1)
            raise _bad_groups(f"the label {labels[place]} at index {place}")
        there = set(labels) - {-1}
        if max(labels) != len(there) - 1 or not there:
            missing = next(label for label in range(len(there) + 1) if label not in there)
            raise _bad_groups(f"labels none of which is {missing}")
        values = np.array(labels)
        used = np.flatnonzero(values >= 0)
        sizes = np.bincount(values[used])
        return cls(labels, Table(used[np.argsort(values[used], kind="stable")], sizes))

    @property
    def count(self) -> int | None:
        """The number of indices if that is given, by labels."""
        return len(self.given) if is_int(self.given[0]) else None


def _are_ints(values: list[Any]) -> bool:
    return set(map(type, values)) == {int} or all(map(is_int, values))


def _as_list(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _bad_groups(received: str) -> ValueError:
    return ValueError(
        "Argument `groups` must be a non-empty list of groups, each a non-empty list of distinct "
        "indices >= 0, or a list with a label for each index: those from 0 on, each of them used, "
        f"and -1 for what is in no group. Received: {received}"
    )


@dataclasses.dataclass(frozen=True)
class Groups:
    """The groups that `axis`, and `group_size` or a table, cut a weight into.

    Args:
        axis: the axes that a group spans: an int, a tuple of ints, or one of `"output"` (every
            axis but the last), `"input"` (every axis but the second last; none on a rank-1
            weight), `"shape"` (the last axis), `"all"` and `"head"`. Where the layout of the
            weight is known, `resolve` takes the axes of the name from that.
        group_size: the number of consecutive entries in each of the runs that a spanned axis is
            cut into: an int for one axis, a tuple with an entry per axis for several. None keeps
            an axis whole. The last run is shorter where the size does not divide the axis.
        lists: the groups as lists: of indices along an integer `axis`, or of the groups that
            "input" or "output" names, which are merged. Without `group_size`.

    Raises:
        ValueError: for any other `axis` or `group_size`.
    """

    axis: int | str | tuple[int, ...]
    group_size: int | tuple[int | None, ...] | None = None
    lists: Lists | None = None

    def __post_init__(self) -> None:
        names = ", ".join(repr(name) for name in KEPT_ROLES)
        if not (isinstance(self.axis, str) and self.axis in KEPT_ROLES):
            expected = f"an int, a non-empty tuple of distinct ints or one of {names}"
            object.__setattr__(self, "axis", check_axis(self.axis, expected=expected))
        object.__setattr__(self, "group_size", self._check_group_size(self.group_size))
        if self.lists is not None:
            if not is_int(self.axis) and self.axis not in ("input", "output"):
                raise ValueError(
                    "Argument `groups` goes with an int, 'input' or 'output' as `axis` only. "
                    f"Received: axis={self.axis!r}"
                )
            if self.group_size is not None:
                raise ValueError(
                    "Arguments `groups` and `group_size` do not go together. "
                    f"Received: group_size={self.group_size!r}"
                )

    def _check_group_size(self, group_size: Any) -> int | tuple[int | None, ...] | None:
        if group_size is None:
            return None
        received = f"Received: group_size={group_size!r} with axis={self.axis!r}"
        if isinstance(self.axis, str):
            raise ValueError(
                "Argument `group_size` goes with an int or a tuple of ints as `axis` only. "
                f"{received}"
            )
        sizes = _entries(group_size)
        if not isinstance(sizes, (list, tuple)) or len(sizes) != len(_entries(self.axis)):
            raise ValueError(
                "Argument `group_size` must be None, an int for one axis, or a tuple with an "
                "entry for each entry of `axis`; runs of several lengths along an axis are given "
                f"as `groups`. {received}"
            )
        if not all(size is None or (is_int(size) and size > 0) for size in sizes):
            raise ValueError(
                f"Argument `group_size` must consist of positive ints or None. {received}"
            )
        if is_int(group_size):
            return int(group_size)
        return tuple(size if size is None else int(size) for size in sizes)

    def split(self, w: tf.Tensor, layout: Layout) -> tf.Tensor:
        """Reshapes `w` to the axes, parts of those of its `layout`, that `resolve` refers to."""
        if self.lists is not None and is_int(self.axis):
            return w  # whose own axis the indices count along
        return self._layout(layout).split(w)

    def check_fits(self, shape: tf.TensorShape, layout: Layout, weight_name: str) -> None:
        """Raises a ValueError if the weight has fewer indices than the table, or not as many."""
        if self.lists is None:
            return
        length = self._indices_on(shape, layout, weight_name)
        if length is None:
            return
        count, reach = self.lists.count, self.lists.table.reach
        received = f"for the {length} indices of weight {weight_name} of shape {tuple(shape)}"
        if count is not None and count != length:
            raise ValueError(
                "Argument `groups` must have a label for each index. "
                f"Received: {count} labels {received}"
            )
        if reach > length:
            raise ValueError(
                f"Argument `groups` must consist of indices below {length}. "
                f"Received: {reach - 1} {received}"
            )

    def _indices_on(self, shape: tf.TensorShape, layout: Layout, weight_name: str) -> int | None:
        """How many indices a weight has, or None if that is not known."""
        if isinstance(self.axis, str):
            return layout.number_of_groups(self.axis, shape, weight_name)
        [axis] = resolve_axes(self.axis, layout.rank, weight_name)
        return shape[axis + layout.is_stack]

    def _layout(self, layout: Layout) -> Layout:
        # An int names an axis of the weight, and does not see a convolution's groups in it.
        return layout if isinstance(self.axis, str) else layout.ungrouped()

    def numbers(self, shape: Sequence[int], layout: Layout) -> np.ndarray:
        """The number of the group, or of what the lists count, that each element is in.

        It broadcasts to a weight of that `shape`.
        """
        if self.lists is not None and is_int(self.axis):
            [axis] = resolve_axes(self.axis, layout.rank)
            return np.reshape(np.arange(shape[axis]), [-1] + [1] * (layout.rank - 1 - axis))
        layout = self._layout(layout)
        runs: Any = dataclasses.replace(self, lists=None).resolve(layout)
        lengths = layout.lengths_of_parts(shape)
        spans = dict(runs.lengths)
        # Half as large as the default, where that holds all numbers.
        dtype: Any = np.int32 if math.prod(lengths) < 2**31 else np.int64
        number, count = np.zeros([1] * len(lengths), dtype), 1
        for axis in reversed(runs.order or range(len(lengths))):
            span = spans.get(axis, 1)
            if span is None:
                continue
            along = np.arange(lengths[axis], dtype=dtype) // dtype(span)
            along = along if along.any() or not len(along) else along[:1]
            number = number + dtype(count) * np.reshape(
                along, [-1] + [1] * (len(lengths) - 1 - axis)
            )
            count *= int(np.max(along, initial=-1)) + 1
        full: list[int] = []
        merged = []
        for axis in range(layout.rank):
            parts = layout.parts_of(axis)
            is_counted = any(number.shape[i] != 1 for i in parts)
            full += [lengths[i] if is_counted else 1 for i in parts]
            merged.append(math.prod(full[-len(parts) :]))
        return np.reshape(np.broadcast_to(number, full), merged)

    @functools.lru_cache(maxsize=1024)
    def resolve(self, layout: Layout, weight_name: str = "weight") -> "Runs | Sets":
        """The runs that these groups are on what `split` returns for a weight with `layout`.

        Raises:
            ValueError: if the weight lacks an axis.
        """
        layout = self._layout(layout)
        if isinstance(self.axis, str):
            spanned = layout.spanned(self.axis, weight_name)
            whole = tuple((axis, None) for axis in spanned)
            runs = Runs(whole, layout.counting_order(self.axis))
            if self.lists is None:
                return runs
            return Sets(self.lists.table, None, runs, layout.is_stack, self.lists.count)
        if self.lists is not None:
            [axis] = resolve_axes(self.axis, layout.rank, weight_name)
            return Sets(self.lists.table, axis + layout.is_stack, count=self.lists.count)
        axes = resolve_axes(self.axis, layout.rank, weight_name)
        sizes = _entries(self.group_size) if self.group_size is not None else [None] * len(axes)
        lengths: dict[int, int | None] = {}
        for axis, size in zip(axes, sizes):
            # Along the last part, no run crosses the border of a gate or a group.
            parts = layout.parts_of(axis)
            lengths |= dict.fromkeys(parts) if size is None else {parts[-1]: size}
        return Runs(tuple(lengths.items()))
