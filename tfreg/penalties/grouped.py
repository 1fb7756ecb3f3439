"""Grouped: what penalties of the norms of groups share."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfreg import backend
from tfreg.checks import check_arguments, check_array, check_bool, is_int, shown
from tfreg.compute.kernels import compiled, kernel
from tfreg.compute.numerics import accumulation_dtype, eager_constants, with_common_dtype
from tfreg.compute.policy import is_small
from tfreg.groups import Groups, Lists, resolve_axes
from tfreg.layout import Layout
from tfreg.penalties.base import Cut, P, Penalty, StepSize
from tfreg.runs import Runs
from tfreg.sets import Sets
from tfreg.slices import Slices

Axis: TypeAlias = int | str | tuple[int, ...]
GroupSize: TypeAlias = int | tuple[int | None, ...] | None
# Lists of indices, or labels; under tfreg.Joint, such lists for each weight.
GroupLists: TypeAlias = Sequence[Any] | npt.NDArray[np.integer]
GroupWeights: TypeAlias = npt.ArrayLike | Callable[[np.ndarray], npt.ArrayLike]
AnyGroups: TypeAlias = Runs | Sets
# The weights of the groups' norms: a number for each group; or, for True, the root of its number of
# elements (Yuan and Lin), and for False 1.
Weighting: TypeAlias = tf.Tensor | bool


def weights_of(w: tf.Tensor, groups: AnyGroups, weighting: Weighting) -> tf.Tensor:
    """The grid of the weights of the groups' norms."""
    if isinstance(weighting, tf.Tensor):
        return tf.reshape(weighting, [1, -1, 1])
    return tf.sqrt(groups.sizes(w)) if weighting else tf.ones([], w.dtype)


def weighted(weights: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """`weights * x`; 0 for a weight of 0, whatever `x` is."""
    return tf.where(tf.equal(weights, 0.0), tf.zeros_like(x), weights * x)


def roots_of_norms(w: tf.Tensor, groups: AnyGroups, **_: Any) -> tf.Tensor | None:
    return groups.roots_to_keep(w)


@kernel(keeps=roots_of_norms)
def group_norms(w: tf.Tensor, kept: tf.Tensor | None, groups: AnyGroups) -> tf.Tensor:
    """`||w_g||_2` of each group, as a vector"""
    return groups.listed(groups.norm(w, roots=kept), w)


@group_norms.pullback
def _(w: tf.Tensor, upstream: tf.Tensor, kept: tf.Tensor | None, groups: AnyGroups) -> tf.Tensor:
    """`upstream_g w_g / ||w_g||_2`; 0 where `upstream_g` is, also for an infinite norm"""
    return groups.scaled_direction(w, groups.grid_of(upstream, w), kept)


# In a matrix with a row for each weight and a column for each tied group: the columns.
ACROSS_WEIGHTS = Runs(((0, None),))


@compiled
def shrunk_groups(w: tf.Tensor, shrinkage: tf.Tensor, groups: AnyGroups) -> tf.Tensor:
    """`shrinkage_g w_g`"""
    return groups.scale(groups.grid_of(shrinkage, w), w)


def norms_of_entries(tensors: list[tf.Tensor], slices: Sequence[Slices]) -> tf.Tensor:
    """Rows of norms of parts of a coupling's entries, or of their elements."""
    rows, norms = [], []
    for w, each in zip(tensors, slices):
        # A kernel for each small weight takes longer, to compile and to run, than copying them.
        for part, groups in each.parts(w, is_small=is_small(w)):
            if groups is None:
                rows.append(part)
            else:
                norms.append(group_norms(part, factor=1.0, groups=groups))
    if norms:
        rows.append(tf.stack(norms))
    return rows[0] if len(rows) == 1 else tf.concat(rows, axis=0)


def _shrunk_entries(w: tf.Tensor, slices: Slices, shrinkage: tf.Tensor) -> tf.Tensor:
    """`w` with the entries of a coupling multiplied by those of `shrinkage`."""
    [(part, groups)] = slices.parts(w)
    if groups is None:
        # Not infinity times 0.
        scaled = tf.where(tf.equal(shrinkage, 0.0), tf.zeros_like(part), shrinkage * part)
    else:
        scaled = shrunk_groups(part, shrinkage=shrinkage, groups=groups)
    return slices.with_part(w, scaled)


class Grouped(Penalty):
    """A penalty of the norms of the groups that a weight is cut into.

    A subclass sets `_kernel` and `_operator`, its value and proximal operator at a split weight,
    and `_metric_operator`, if that has a closed form in a diagonal metric; and it defines
    `_value_across` and `_shrinkage_across`, those of groups that are tied over weights.
    """

    is_additive = True
    _kernel: Any = None
    _operator: Any = None
    _metric_operator: Any = None

    def __init__(
        self,
        factor: float,
        axis: Axis | Sequence[Axis],
        group_size: GroupSize,
        size_weighted: bool,
        groups: GroupLists | None,
        group_weights: GroupWeights | None,
    ) -> None:
        super().__init__(factor)
        has_lists = isinstance(groups, (list, tuple)) and any(map(_is_of_lists, groups))
        # A list of ints is one tuple of axes, which goes with no lists of indices.
        self._has_axes = isinstance(axis, list) and (has_lists or not all(map(is_int, axis)))
        axes: Any = axis if self._has_axes else [axis]
        lists, self.groups = _checked_lists(groups, has_lists)
        self._is_per_weight = self._has_axes or has_lists
        if len(axes) > 1 and len(lists) > 1 and len(axes) != len(lists):
            raise ValueError(
                "Arguments `axis` and `groups` must have an entry for each weight. "
                f"Received: axis={axis!r} and {len(lists)} lists of groups"
            )
        count = max(len(axes), len(lists))
        self._groups = [
            Groups(each, group_size, of_lists)
            for each, of_lists in zip(axes * (count // len(axes)), lists * (count // len(lists)))
        ]
        self.size_weighted = check_bool("size_weighted", size_weighted)
        self.group_weights = self._check_group_weights(group_weights)

    def _check_group_weights(self, group_weights: Any) -> Any:
        if group_weights is None:
            return None
        lists = next((each.lists for each in self._groups if each.lists is not None), None)
        if lists is None or not self.size_weighted:
            raise ValueError(
                "Argument `group_weights` goes with `groups`, in place of `size_weighted`. "
                f"Received: groups={shown(self.groups)}, size_weighted={self.size_weighted!r}"
            )
        if callable(group_weights):
            backend.check_registered("group_weights", group_weights)
            return group_weights
        counts = {len(each.lists.table.sizes) for each in self._groups if each.lists is not None}
        if len(counts) > 1:
            raise ValueError(
                "Argument `group_weights` needs as many groups of each weight. "
                f"Received: {sorted(counts)} groups"
            )
        return _checked_weights(group_weights, *counts)

    @property
    def axis(self) -> Axis | list[Axis]:
        axes = [groups.axis for groups in self._groups]
        return self._read_only("axis", axes) if self._has_axes else axes[0]

    @property
    def group_size(self) -> GroupSize:
        return self._groups[0].group_size

    def check_weight(self, shape: tf.TensorShape, layout: Layout, weight_name: str) -> None:
        if self._is_per_weight:
            raise ValueError(
                "Arguments `axis` and `groups` may have an entry for each weight only under "
                f"tfreg.Joint. Received: {self!r} for weight {weight_name}"
            )
        self._groups[0].resolve(layout, weight_name)
        self._groups[0].check_fits(shape, layout, weight_name)

    def compute_value(self, tensor: tf.Tensor, layout: Layout) -> tf.Tensor:
        w = self._groups[0].split(tensor, layout)
        return self._kernel(w, factor=self.factor, **self._parameters(w, layout))

    def compute_prox(self, tensor: tf.Tensor, layout: Layout, step_size: StepSize) -> tf.Tensor:
        w, strength = self._groups[0].split(tensor, layout), step_size * self.factor
        result = self._operator(w, strength=strength, **self._parameters(w, layout))
        return layout.merge(result, tensor)

    def compute_metric_prox(
        self, tensor: tf.Tensor, layout: Layout, step_size: StepSize, metric: tf.Tensor
    ) -> tf.Tensor:
        if self._metric_operator is None:
            return super().compute_metric_prox(tensor, layout, step_size, metric)
        w, metric = (self._groups[0].split(x, layout) for x in (tensor, metric))
        strength, parameters = step_size * self.factor, self._parameters(w, layout)
        result = self._metric_operator(w, strength=strength, metric=metric, **parameters)
        return layout.merge(result, tensor)

    def check_joint(self) -> None:
        pass

    def compute_joint_value(
        self, tensors: list[tf.Tensor], layouts: list[Layout], names: list[str]
    ) -> tf.Tensor:
        parts, groups, norms = self._tied(tensors, layouts, names)
        return self._value_across(norms, self._weights_across(parts, groups))

    def compute_joint_prox(
        self,
        tensors: list[tf.Tensor],
        layouts: list[Layout],
        names: list[str],
        step_size: StepSize,
    ) -> list[tf.Tensor]:
        parts, groups, norms = self._tied(tensors, layouts, names)
        weights = self._weights_across(parts, groups)
        shrinkage = self._shrinkage_across(norms, weights, step_size * self.factor)
        return scaled_together(shrinkage, tensors, layouts, parts, groups)

    def check_coupled(self) -> None:
        given = {name: getattr(self, name) for name in ("group_size", "groups", "group_weights")}
        named = [name for name, value in given.items() if value is not None]
        if self._has_axes or self.axis != "output":
            named = ["axis", *named]
        if named:
            raise ValueError(
                f"Argument `{named[0]}` must be left out where `weights` are couplings, whose "
                f"entries are the groups. Received: {self!r}"
            )

    def compute_coupled_value(
        self, tensors: list[tf.Tensor], slices: Sequence[Slices], group_weight: float | None
    ) -> tf.Tensor:
        weight = self._weight_of_entries(tensors, slices, group_weight)
        return self._value_across(norms_of_entries(tensors, slices), weight)

    def compute_coupled_prox(
        self,
        tensors: list[tf.Tensor],
        slices: Sequence[Slices],
        group_weight: float | None,
        step_size: StepSize,
    ) -> list[tf.Tensor]:
        weight = self._weight_of_entries(tensors, slices, group_weight)
        shrinkage = self._shrinkage_across(
            norms_of_entries(tensors, slices), weight, step_size * self.factor
        )
        return [_shrunk_entries(w, each, shrinkage) for w, each in zip(tensors, slices)]

    def _weight_of_entries(
        self, tensors: list[tf.Tensor], slices: Sequence[Slices], group_weight: float | None
    ) -> float:
        """The weight of each entry of a coupling, all of which have as many elements."""
        if group_weight is not None:
            return group_weight
        if not self.size_weighted:
            return 1.0
        return math.sqrt(sum(each.count(w.shape) for w, each in zip(tensors, slices)))

    def on_part(self: P, cut: Cut) -> P:
        return self if cut.is_whole else self.on_parts([cut])

    def on_parts(self: P, cuts: Sequence[Cut]) -> P:
        """Like `on_part`: without the groups of which nothing is left."""
        asked = self.groups_on([cut.name for cut in cuts])
        lists: list[list[list[int]] | None] = []
        first: list[int] = []
        for each, cut in zip(asked, cuts):
            _check_runs_are_whole(self, each, cut)
            numbers = _kept_groups(self, each, cut)
            lists.append(None if each.lists is None else _lists_left(each.lists, numbers))
            # The k-th groups of all weights are one: all must have lost the same.
            left = numbers.tolist() if each.lists is None else _places_of_full(lists[-1])
            if len(lists) == 1:
                first = left
            elif left != first:
                raise cut.not_carried(
                    self, f"the groups left are not those that are left of {cuts[0].name}"
                )
        if all(each is None for each in lists):
            return self
        changed: dict[str, Any] = {}
        if not first:  # a group that is free
            lists, first = [[[0]] for _ in lists], [0]
            changed = {"group_weights": [0.0], "size_weighted": True}
        elif self.group_weights is not None and not callable(self.group_weights):
            changed["group_weights"] = self.group_weights[first]
        new = [each if each is None else [each[k] for k in first] for each in lists]
        groups = new[0] if all(each == new[0] for each in new) else new
        return type(self)(**{**self._arguments(), "groups": groups, **changed})

    def _value_across(self, norms: tf.Tensor, weights: tf.Tensor | float) -> tf.Tensor:
        """The value at tied groups; `norms` has a row for each weight, of norms or of entries."""
        raise NotImplementedError

    def _shrinkage_across(
        self, norms: tf.Tensor, weights: tf.Tensor | float, strength: StepSize
    ) -> tf.Tensor:
        """The factor by which the proximal operator scales each tied group, as a vector."""
        raise NotImplementedError

    def _parameters(self, w: tf.Tensor, layout: Layout) -> dict[str, Any]:
        groups = self._groups[0].resolve(layout)
        return {"groups": groups, "weighting": self._weighting([w], [groups])}

    def _weighting(self, parts: list[tf.Tensor], groups: list[AnyGroups]) -> Weighting:
        """The weights of the groups' norms, of groups that are tied over the `parts`."""
        weights = self.group_weights
        if weights is None:
            return self.size_weighted
        if callable(weights):
            if not all(w.shape.is_fully_defined() for w in parts):
                raise ValueError(
                    "Argument `group_weights` may be a function only for weights of known shape. "
                    f"Received: the shapes {[tuple(w.shape) for w in parts]}"
                )
            each = [group.known_sizes(w.shape) for group, w in zip(groups, parts)]
            if len(set(map(len, each))) > 1:
                raise ValueError(
                    "Argument `group_weights` may be a function only for as many groups of each "
                    f"weight. Received: {[len(sizes) for sizes in each]} groups"
                )
            sizes = np.sum(each, axis=0)
            with tf.init_scope():  # the function may use TensorFlow
                weights = _checked_weights(np.asarray(weights(sizes)), len(sizes))
        return eager_constants({"": weights}, accumulation_dtype(parts[0].dtype))[""]

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if callable(self.group_weights):
            config["group_weights"] = backend.serialize(self.group_weights)
        return config

    @classmethod
    def from_config(cls: type[P], config: dict[str, Any]) -> P:
        config = check_arguments(cls, config)
        if isinstance(config.get("group_weights"), dict):
            weights = backend.deserialize(config["group_weights"])
            config = {**config, "group_weights": weights}
        return cls(**config)

    def _arguments(self) -> dict[str, Any]:
        """Without what is not given: releases up to 0.5 did not know `groups`."""
        arguments = super()._arguments()
        left_out = {"groups", "group_weights"} & {k for k, v in arguments.items() if v is None}
        return {name: value for name, value in arguments.items() if name not in left_out}

    def _tied(
        self, tensors: list[tf.Tensor], layouts: list[Layout], names: list[str]
    ) -> tuple[list[tf.Tensor], list[AnyGroups], tf.Tensor]:
        """The `tensors` split and in one dtype, the groups of each, and a row of norms for each.

        Raises a ValueError if they do not have the same number of groups.
        """
        asked = self.groups_on(names)
        for each, tensor, layout, name in zip(asked, tensors, layouts, names):
            each.check_fits(tensor.shape, layout, name)
        groups = [each.resolve(layout, name) for each, layout, name in zip(asked, layouts, names)]
        parts = with_common_dtype(
            [each.split(tensor, layout) for each, layout, tensor in zip(asked, layouts, tensors)]
        )
        norms = [group_norms(w, factor=1.0, groups=group) for w, group in zip(parts, groups)]
        counts = [norm.shape[0] for norm in norms]
        if len(set(counts)) > 1:
            listed = ", ".join(f"{name} with {count}" for name, count in zip(names, counts))
            raise ValueError(
                f"{type(self).__name__} over several weights ties their k-th groups: all weights "
                f"must have as many. Received: {listed} for {self!r}"
            )
        return parts, groups, tf.stack(norms)

    def _weights_across(self, parts: list[tf.Tensor], groups: list[AnyGroups]) -> tf.Tensor | float:
        """The weight of each tied group: the root of the number of its elements in all `parts`."""
        if self.group_weights is None:
            if not self.size_weighted:
                return 1.0
            sizes = [group.listed_sizes(w) for w, group in zip(parts, groups)]
            return tf.sqrt(tf.add_n(sizes))
        w, sets = next(pair for pair in zip(parts, groups) if isinstance(pair[1], Sets))
        return sets.listed(weights_of(w, sets, self._weighting(parts, groups)), w)

    def groups_on(self, names: list[str]) -> list[Groups]:
        """What groups each of the weights has, called `names` in messages."""
        if not self._is_per_weight:
            return self._groups * len(names)
        if len(self._groups) != len(names):
            raise ValueError(
                "Arguments `axis` and `groups` must have an entry for each weight. "
                f"Received: {self!r} for the weights {', '.join(names)}"
            )
        return self._groups


def _kept_groups(penalty: Any, groups: Groups, cut: Cut) -> np.ndarray:
    """The numbers that the groups, or what the lists count, had before, of those that are left."""
    before, after = cut.layouts
    old = cut.of_array(groups.numbers(cut.shape, before))
    new = groups.numbers(cut.new_shape, after)
    shape = np.broadcast_shapes(old.shape, new.shape)
    old, new = np.broadcast_to(old, shape), np.broadcast_to(new, shape)
    numbers = np.full(int(new.max(initial=-1)) + 1, -1)
    numbers[new.ravel()] = old.ravel()
    if (numbers[new] != old).any():
        raise cut.not_carried(penalty, "a group loses entries that other groups keep")
    return numbers


def _lists_left(lists: Lists, numbers: np.ndarray) -> list[list[int]]:
    """The lists of what is left, of which some may be empty."""
    table = lists.table
    places = np.full(max(table.reach, int(numbers.max(initial=-1)) + 1), -1)
    places[numbers] = np.arange(len(numbers))
    split = np.split(places[table.indices], np.cumsum(table.sizes)[:-1])
    return [entries[entries >= 0].tolist() for entries in split]


def _places_of_full(lists: list[list[int]] | None) -> list[int]:
    return [place for place, entries in enumerate(lists or []) if entries]


def _check_runs_are_whole(penalty: Any, groups: Groups, cut: Cut) -> None:
    """Raises a ValueError if an axis that is cut into runs is among those of the `cut`."""
    if groups.group_size is None:
        return
    axes = resolve_axes(groups.axis, len(cut.shape), cut.name)  # type: ignore[arg-type]
    sizes = groups.group_size if isinstance(groups.group_size, tuple) else (groups.group_size,)
    for axis, size in zip(axes, sizes):
        if size not in (None, 1) and cut.kept[axis] is not None:
            raise cut.not_carried(penalty, f"its groups are runs along axis {axis}")


def _checked_weights(weights: Any, count: int) -> Any:
    """The `group_weights` of that many groups."""
    checked = check_array("group_weights", weights, least=0.0)
    if np.shape(checked) != (count,):
        raise ValueError(
            f"Argument `group_weights` must have a number for each of the {count} groups. "
            f"Received: group_weights={shown(weights)}"
        )
    return checked


def _checked_lists(groups: Any, is_per_weight: bool) -> tuple[list[Lists | None], Any]:
    """The lists of each weight, and `groups` as it is kept."""
    if groups is None:
        return [None], None
    if is_per_weight:
        each = [None if entry is None else Lists.of(entry) for entry in groups]
        return each, [None if lists is None else lists.given for lists in each]
    lists = Lists.of(groups)
    return [lists], lists.given


def _is_of_lists(groups: Any) -> bool:
    return isinstance(groups, (list, tuple)) and any(
        isinstance(entry, (list, tuple)) for entry in groups
    )


def scaled_together(
    shrinkage: tf.Tensor,
    tensors: list[tf.Tensor],
    layouts: list[Layout],
    parts: list[tf.Tensor],
    groups: list[AnyGroups],
) -> list[tf.Tensor]:
    """The `tensors` with their tied groups multiplied by the entries of `shrinkage`."""
    return [
        layout.merge(shrunk_groups(w, shrinkage=shrinkage, groups=group), tensor)
        for layout, tensor, w, group in zip(layouts, tensors, parts, groups)
    ]
