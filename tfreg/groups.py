"""The groups that a user asks for, by axis and size."""

import dataclasses
import functools

from tfreg.checks import is_int
from tfreg.layout import KEPT_ROLES
from tfreg.runs import Runs


def _entries(value):
    return (value,) if is_int(value) else value


def check_axis(axis, *, expected="an int or a non-empty tuple of distinct ints"):
    """`axis` as an int or a tuple of ints, as far as it can be judged without a weight."""
    if is_int(axis):
        return int(axis)
    if isinstance(axis, (list, tuple)) and axis and all(is_int(entry) for entry in axis):
        if len(set(axis)) == len(axis):
            return tuple(int(entry) for entry in axis)
    raise ValueError(f"Argument `axis` must be {expected}. Received: axis={axis!r}")


def resolve_axes(axis, rank, weight_name="weight"):
    """The non-negative axes that `axis`, an int or a tuple, names on a weight of `rank`."""
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
            weight), `"shape"` (the last axis), `"all"` and `"head"`. On a layout that says what
            the axes mean, `on` finds those that the name spans.
        group_size: the length of the runs of consecutive entries that each spanned axis is cut
            into: an int for one axis, a tuple with an entry per axis for several. None keeps an
            axis whole. The last run is shorter where the length does not divide.

    Raises:
        ValueError: for any other `axis` or `group_size`.
    """

    axis: int | str | tuple[int, ...]
    group_size: int | tuple[int | None, ...] | None = None

    def __post_init__(self):
        names = ", ".join(repr(name) for name in KEPT_ROLES)
        if not (isinstance(self.axis, str) and self.axis in KEPT_ROLES):
            expected = f"an int, a non-empty tuple of distinct ints or one of {names}"
            object.__setattr__(self, "axis", check_axis(self.axis, expected=expected))
        object.__setattr__(self, "group_size", self._check_group_size(self.group_size))

    def _check_group_size(self, group_size):
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

    def split(self, w, layout):
        """`w` with an axis for each part of its `layout` by which these groups go."""
        return self._layout(layout).split(w)

    def _layout(self, layout):
        # A number names an axis of the weight, whatever groups of a convolution are in it.
        return layout if isinstance(self.axis, str) else layout.ungrouped()

    @functools.lru_cache(maxsize=1024)
    def resolve(self, layout, weight_name="weight"):
        """The runs of these groups on what `split` gives for a weight with `layout`.

        Raises a ValueError if the weight lacks an axis.
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
            # Runs go along the last part, within one entry of each other: within a gate, say.
            parts = layout.parts_of(axis)
            lengths |= dict.fromkeys(parts) if size is None else {parts[-1]: size}
        return Runs(tuple(lengths.items()))
