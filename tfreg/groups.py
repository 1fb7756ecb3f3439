"""The groups that a user asks for, by axis and size."""

import dataclasses
import functools
from typing import Any

import tensorflow as tf

from tfreg.checks import is_int
from tfreg.layout import KEPT_ROLES, Layout
from tfreg.runs import Runs


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


@dataclasses.dataclass(frozen=True)
class Groups:
    """The groups that `axis` and `group_size` cut a weight into.

    Args:
        axis: the axes that a group spans: an int, a tuple of ints, or one of `"output"` (every
            axis but the last), `"input"` (every axis but the second last; none on a rank-1
            weight), `"shape"` (the last axis), `"all"` and `"head"`. Where the layout of the
            weight is known, `resolve` takes the axes of the name from that.
        group_size: the number of consecutive entries in each of the runs that a spanned axis is
            cut into: an int for one axis, a tuple with an entry per axis for several. None keeps
            an axis whole. The last run is shorter where the size does not divide the axis.

    Raises:
        ValueError: for any other `axis` or `group_size`.
    """

    axis: int | str | tuple[int, ...]
    group_size: int | tuple[int | None, ...] | None = None

    def __post_init__(self) -> None:
        names = ", ".join(repr(name) for name in KEPT_ROLES)
        if not (isinstance(self.axis, str) and self.axis in KEPT_ROLES):
            expected = f"an int, a non-empty tuple of distinct ints or one of {names}"
            object.__setattr__(self, "axis", check_axis(self.axis, expected=expected))
        object.__setattr__(self, "group_size", self._check_group_size(self.group_size))

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
                f"entry for each entry of `axis`. {received}"
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
        return self._layout(layout).split(w)

    def _layout(self, layout: Layout) -> Layout:
        # An int names an axis of the weight, and does not see a convolution's groups in it.
        return layout if isinstance(self.axis, str) else layout.ungrouped()

    @functools.lru_cache(maxsize=1024)
    def resolve(self, layout: Layout, weight_name: str = "weight") -> Runs:
        """The runs that these groups are on what `split` returns for a weight with `layout`.

        Raises:
            ValueError: if the weight lacks an axis.
        """
        layout = self._layout(layout)
        if isinstance(self.axis, str):
            spanned = layout.spanned(self.axis, weight_name)
            whole = tuple((axis, None) for axis in spanned)
            return Runs(whole, layout.counting_order(self.axis))
        axes = resolve_axes(self.axis, layout.rank, weight_name)
        sizes = _entries(self.group_size) if self.group_size is not None else [None] * len(axes)
        lengths: dict[int, int | None] = {}
        for axis, size in zip(axes, sizes):
            # Along the last part, no run crosses the border of a gate or a group.
            parts = layout.parts_of(axis)
            lengths |= dict.fromkeys(parts) if size is None else {parts[-1]: size}
        return Runs(tuple(lengths.items()))
