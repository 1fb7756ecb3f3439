"""Grouped: what penalties of the norms of groups share."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from tfreg.checks import check_bool, is_int
from tfreg.compute.kernels import compiled, kernel
from tfreg.compute.numerics import with_common_dtype
from tfreg.groups import Groups
from tfreg.layout import Layout
from tfreg.penalties.base import Penalty, StepSize
from tfreg.runs import Runs

Axis: TypeAlias = int | str | tuple[int, ...]
GroupSize: TypeAlias = int | tuple[int | None, ...] | None


def group_weights(w: tf.Tensor, groups: Runs, size_weighted: bool) -> tf.Tensor:
    """The weight of each group's norm: the root of its number of elements (Yuan and Lin), or 1."""
    return tf.sqrt(groups.sizes(w)) if size_weighted else tf.ones([1] * w.shape.rank, w.dtype)


def roots_of_norms(w: tf.Tensor, groups: Runs, **_: Any) -> tf.Tensor | None:
    return groups.roots_to_keep(w)


@kernel(keeps=roots_of_norms)
def group_norms(w: tf.Tensor, kept: tf.Tensor | None, groups: Runs) -> tf.Tensor:
    """`||w_g||_2` of each group, as a vector"""
    return groups.listed(groups.norm(w, roots=kept), w)


@group_norms.pullback
def _(w: tf.Tensor, upstream: tf.Tensor, kept: tf.Tensor | None, groups: Runs) -> tf.Tensor:
    """`upstream_g w_g / ||w_g||_2`; 0 where `upstream_g` is, also for an infinite norm"""
    slopes = groups.spread(groups.grid_of(upstream, w), w)
    direction = groups.direction(w, roots=kept)
    return tf.where(tf.equal(slopes, 0.0), tf.zeros_like(w), slopes * direction)


# In a matrix with a row for each weight and a column for each tied group: the columns.
ACROSS_WEIGHTS = Runs(((0, None),))


def weights_across(parts: list[tf.Tensor], groups: list[Runs]) -> tf.Tensor:
    """The weight of each tied group: the root of the number of its elements in all `parts`."""
    return tf.sqrt(tf.add_n([group.listed_sizes(w) for w, group in zip(parts, groups)]))


@compiled
def shrunk_groups(w: tf.Tensor, shrinkage: tf.Tensor, groups: Runs) -> tf.Tensor:
    """`shrinkage_g w_g`"""
    return groups.scale(groups.grid_of(shrinkage, w), w)


class Grouped(Penalty):
    """A penalty of the norms of the groups that `axis` and `group_size` cut a weight into.

    A subclass sets `_kernel` and `_operator`, its value and proximal operator at a split weight.
    """

    is_additive = True
    _kernel: Any = None
    _operator: Any = None

    def __init__(
        self,
        factor: float,
        axis: Axis | Sequence[Axis],
        group_size: GroupSize,
        size_weighted: bool,
    ) -> None:
        super().__init__(factor)
        self._is_per_weight = isinstance(axis, list) and any(not is_int(entry) for entry in axis)
        entries: Any = axis if self._is_per_weight else [axis]
        self._groups = [Groups(entry, group_size) for entry in entries]
        self.size_weighted = check_bool("size_weighted", size_weighted)

    @property
    def axis(self) -> Axis | list[Axis]:
        axes = [groups.axis for groups in self._groups]
        return self._read_only("axis", axes) if self._is_per_weight else axes[0]

    @property
    def group_size(self) -> GroupSize:
        return self._groups[0].group_size

    def check_weight(self, shape: tf.TensorShape, layout: Layout, weight_name: str) -> None:
        if self._is_per_weight:
            raise ValueError(
                "Argument `axis` may have an entry for each weight only under tfreg.Joint. "
                f"Received: axis={self.axis!r} for weight {weight_name}"
            )
        self._groups[0].resolve(layout, weight_name)

    def compute_value(self, tensor: tf.Tensor, layout: Layout) -> tf.Tensor:
        w = self._groups[0].split(tensor, layout)
        return self._kernel(w, factor=self.factor, **self._parameters(layout))

    def compute_prox(self, tensor: tf.Tensor, layout: Layout, step_size: StepSize) -> tf.Tensor:
        w, strength = self._groups[0].split(tensor, layout), step_size * self.factor
        result = self._operator(w, strength=strength, **self._parameters(layout))
        return layout.merge(result, tensor)

    def check_joint(self) -> None:
        pass

    def _parameters(self, layout: Layout) -> dict[str, Any]:
        return {"groups": self._groups[0].resolve(layout), "size_weighted": self.size_weighted}

    def _tied(
        self, tensors: list[tf.Tensor], layouts: list[Layout], names: list[str]
    ) -> tuple[list[tf.Tensor], list[Runs], tf.Tensor]:
        """The `tensors` split and in one dtype, the groups of each, and a row of norms for each.

        Raises a ValueError if they do not have the same number of groups.
        """
        asked = self._groups_of(names)
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

    def _groups_of(self, names: list[str]) -> list[Groups]:
        if not self._is_per_weight:
            return self._groups * len(names)
        if len(self._groups) != len(names):
            raise ValueError(
                "Argument `axis` must have an entry for each weight. "
                f"Received: axis={self.axis!r} for the weights {', '.join(names)}"
            )
        return self._groups


def scaled_together(
    shrinkage: tf.Tensor,
    tensors: list[tf.Tensor],
    layouts: list[Layout],
    parts: list[tf.Tensor],
    groups: list[Runs],
) -> list[tf.Tensor]:
    """The `tensors` with their tied groups multiplied by the entries of `shrinkage`."""
    return [
        layout.merge(shrunk_groups(w, shrinkage=shrinkage, groups=group), tensor)
        for layout, tensor, w, group in zip(layouts, tensors, parts, groups)
    ]
