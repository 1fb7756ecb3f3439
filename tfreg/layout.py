"""What each axis of a weight means."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from tfreg.checks import is_int
from tfreg.compute.views import known_shape

# The roles that users may name; the axis of a stack has one of its own, "weight".
ROLES = ("input", "output", "position", "head", "group", "gate", "feature")
# Roles along which the groups of each name differ; a group spans all other axes.
KEPT_ROLES: dict[str, set[str]] = {
    "output": {"output"},
    "input": {"input"},
    "shape": {"position", "input"},
    "head": {"head"},
    "all": set(),
}


@dataclasses.dataclass(frozen=True)
class Part:
    """An axis of a weight, or one of several that an axis holds in row-major order.

    Its `roles` say what it counts; a `length` of None is what the axis leaves.
    """

    roles: frozenset[str]
    length: int | None = None


_WEIGHT = Part(frozenset({"weight"}))


@dataclasses.dataclass(frozen=True)
class Layout:
    """What each axis of a weight means.

    Args:
        axes: an entry for each axis of the weight, as `tfreg.layers.register` documents them: a
            string of one or more of the `ROLES`, or a tuple with a string or a pair of a string
            and a length for each of several that the axis holds in row-major order.
        is_stack: whether one more axis in front stacks weights that each have these axes. No
            argument of a penalty counts that axis, and the penalty of a stack is the sum of the
            penalties of the weights.

    Raises:
        ValueError: for any other `axes`.
    """

    axes: tuple[Any, ...]
    is_stack: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.axes, (list, tuple)):
            raise ValueError(
                f"A layout must be a tuple with an entry for each axis. Received: {self.axes!r}"
            )
        parts = tuple(_parts(entry, self.axes) for entry in self.axes)
        object.__setattr__(self, "axes", parts)

    @classmethod
    @functools.cache
    def positional(cls, rank: int) -> "Layout":
        """The layout of a weight whose layer is not known: that of a Dense or Conv kernel."""
        if rank == 1:
            return cls(("output",))
        return cls(("position",) * (rank - 2) + ("input", "output"))

    @property
    def rank(self) -> int:
        return len(self.axes)

    @property
    def parts(self) -> tuple[Part, ...]:
        of_a_weight = tuple(part for parts in self.axes for part in parts)
        return (_WEIGHT, *of_a_weight) if self.is_stack else of_a_weight

    def get_config(self) -> list[list[Any]]:
        """The `axes` of a weight in JSON's types."""
        return [[_part_config(part) for part in parts] for parts in self.axes]

    def stacked(self) -> "Layout":
        """The layout of a stack of weights with this one."""
        return dataclasses.replace(self, is_stack=True)

    @functools.lru_cache(maxsize=1024)
    def ungrouped(self) -> "Layout":
        """This layout with an axis of filters as one part, even in a grouped convolution.

        An integer axis of a penalty counts the axes of the weight, and does not see its groups.
        """
        return dataclasses.replace(self, axes=tuple(map(_ungrouped, self.axes)))

    @property
    def is_kernel(self) -> bool:
        """Whether the weight has an axis of inputs, which no bias, scale or the like has."""
        return any("input" in part.roles for part in self.parts)

    def parts_of(self, axis: int) -> tuple[int, ...]:
        """The indices in `parts` of what the weight's `axis` holds."""
        start = self.is_stack + sum(len(parts) for parts in self.axes[:axis])
        return tuple(range(start, start + len(self.axes[axis])))

    def spanned(self, name: str, weight_name: str = "weight") -> tuple[int, ...]:
        """The indices in `parts` of what a group called `name` spans.

        Raises:
            ValueError: if the weight has no axis with that role.
        """
        not_spanned = self._with_roles(KEPT_ROLES[name])
        if name == "input" and not not_spanned:
            not_spanned = self._with_roles({"output"})  # a bias, a scale: per element
        if name in ("output", "input", "head") and not not_spanned:
            raise ValueError(
                f"Argument `axis` must name axes of the weight. Received: axis={name!r} for weight "
                f"{weight_name}, no axis of which is known to hold {name}s"
            )
        not_spanned += self._with_roles({"weight"})
        return tuple(i for i in range(len(self.parts)) if i not in not_spanned)

    def counting_order(self, name: str) -> tuple[int, ...] | None:
        """The indices in `parts` in the order in which groups called `name` count.

        None stands for the order of the parts. The input channels of a grouped convolution count
        by group first, and then by their place in the group.
        """
        group = self._with_roles({"group"})
        places = [i for i in self._with_roles({"input"}) if i not in group]
        if not group or not places or "input" not in KEPT_ROLES[name]:
            return None
        rest = [i for i in range(len(self.parts)) if i not in group]
        first = rest.index(places[0])
        order = (*rest[:first], *group, *rest[first:])
        return None if order == tuple(range(len(order))) else order

    def number_of_groups(self, name: str, shape: tf.TensorShape, weight_name: str) -> int | None:
        """The number of groups called `name` in a weight of `shape`, or None if not known."""
        spanned = self.spanned(name, weight_name)
        count = 1
        for axis, (parts, length) in enumerate(zip(self.axes, shape[self.is_stack :])):
            known = math.prod(part.length or 1 for part in parts)
            for index, part in zip(self.parts_of(axis), parts):
                if index not in spanned:
                    if part.length is None and length is None:
                        return None
                    count *= part.length or length // known
        return count

    def _with_roles(self, roles: set[str]) -> list[int]:
        return [i for i, part in enumerate(self.parts) if part.roles & roles]

    def split(self, w: tf.Tensor) -> tf.Tensor:
        """Reshapes `w` to one axis for each part."""
        if all(len(parts) == 1 for parts in self.axes):
            return w
        return tf.reshape(w, self.lengths_of_parts(known_shape(w)))

    def lengths_of_parts(self, shape: Sequence[Any]) -> list[Any]:
        """The lengths of the `parts` in a weight of `shape`."""
        lengths = list(shape[: self.is_stack])
        for parts, length in zip(self.axes, shape[self.is_stack :]):
            known = math.prod(part.length or 1 for part in parts)
            lengths += [length // known if part.length is None else part.length for part in parts]
        return lengths

    def merge(self, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """Reshapes `x`, of the shape of `split(w)`, to the shape of `w`."""
        return x if x.shape.rank == w.shape.rank else tf.reshape(x, known_shape(w))

    def neighbours(self, axes: Iterable[int]) -> tuple[int, ...]:
        """The axes of `split(w)` along which entries on the weight's `axes` are neighbours.

        There is none for an axis of gates, which are unrelated.
        """
        last = [self.parts_of(axis)[-1] for axis in axes]
        return tuple(i for i in last if "gate" not in self.parts[i].roles)

    def gates_apart(self, w: tf.Tensor) -> tf.Tensor:
        """`w` as a matrix with a row, in row-major order, for each gate of each stacked weight."""
        gates = self._with_roles({"weight", "gate"})
        rest = [i for i in range(len(self.parts)) if i not in gates]
        w = self.split(w)
        lengths = known_shape(w)
        if gates and gates[-1] >= len(gates):  # else they are in front already
            w = tf.transpose(w, gates + rest)
        return tf.reshape(w, [math.prod(lengths[i] for i in gates), -1])

    def gates_together(self, x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """The inverse of `gates_apart`: `x`, of the shape of `gates_apart(w)`, in that of `w`."""
        gates = self._with_roles({"weight", "gate"})
        order = gates + [i for i in range(len(self.parts)) if i not in gates]
        shape = known_shape(w)
        lengths = self.lengths_of_parts(shape)
        x = tf.reshape(x, [lengths[i] for i in order])
        if order != sorted(order):
            x = tf.transpose(x, [order.index(i) for i in range(len(order))])
        return tf.reshape(x, shape)


def _parts(entry: Any, axes: Any) -> tuple[Part, ...]:
    """The parts that one entry of a layout's `axes` stands for."""
    entries = (entry,) if isinstance(entry, str) else entry
    if isinstance(entries, (list, tuple)):
        parts = [_part(part) for part in entries]
        valid = [part for part in parts if part and part.roles and part.roles <= set(ROLES)]
        is_valid = len(parts) == len(valid) > 0
        if is_valid and sum(part.length is None for part in valid) <= 1:
            return tuple(valid)
    raise ValueError(
        "An entry of a layout must be a string of words out of "
        f"{', '.join(repr(role) for role in ROLES)}, or a tuple of such strings and pairs of a "
        f"string and a length, all but one with a length. Received: {entry!r} in {axes!r}"
    )


def _ungrouped(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Merges the `parts` of an axis if a "group" is among them, except for gates."""
    if not any("group" in part.roles for part in parts):
        return parts
    ungrouped: list[Part] = []
    for is_gate, run in itertools.groupby(parts, lambda part: "gate" in part.roles):
        ungrouped += run if is_gate else [_merged(list(run))]
    return tuple(ungrouped)


def _merged(parts: list[Part]) -> Part:
    roles: frozenset[str] = frozenset().union(*(part.roles for part in parts))
    lengths = [part.length for part in parts if part.length is not None]
    return Part(roles, math.prod(lengths) if len(lengths) == len(parts) else None)


def _part(entry: Any) -> Part | None:
    if isinstance(entry, str):
        return Part(frozenset(entry.split()))
    if isinstance(entry, (list, tuple)) and len(entry) == 2:
        roles, length = entry
        if isinstance(roles, str) and is_int(length) and length > 0:
            return Part(frozenset(roles.split()), length)
    return entry if isinstance(entry, Part) else None


def _part_config(part: Part) -> Any:
    roles = " ".join(sorted(part.roles))
    return roles if part.length is None else [roles, part.length]
