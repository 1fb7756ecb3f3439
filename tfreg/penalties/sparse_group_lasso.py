"""SparseGroupLasso: few groups, and few weights in each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfreg.checks import check_number
from tfreg.compute.kernels import compiled, kernel
from tfreg.compute.numerics import in_metric, signum, with_common_dtype
from tfreg.compute.reductions import total
from tfreg.layout import Layout
from tfreg.penalties.base import StepSize
from tfreg.penalties.group_lasso import (
    GroupLasso,
    group_soft_threshold,
    group_soft_threshold_in_metric,
    weighted_norms,
)
from tfreg.penalties.grouped import (
    AnyGroups,
    Axis,
    GroupLists,
    GroupSize,
    GroupWeights,
    Weighting,
    weights_of,
)
from tfreg.penalties.registry import register
from tfreg.slices import Slices

# A smaller one is 0 in float32, and would hide infinity.
_LEAST_SHARE = float(np.finfo(np.float32).tiny)


def _roots_of_norms_if_used(
    w: tf.Tensor, l2: tf.Tensor | None, groups: AnyGroups, **_: Any
) -> tf.Tensor | None:
    return None if l2 is None else groups.roots_to_keep(w)


@kernel(keeps=_roots_of_norms_if_used)
def sparse_group_lasso(
    w: tf.Tensor,
    kept: tf.Tensor | None,
    l1: tf.Tensor | None,
    l2: tf.Tensor | None,
    groups: AnyGroups,
    weighting: Weighting,
) -> tf.Tensor:
    """`l1 ||w||_1 + l2 sum_g weight_g ||w_g||_2`; None leaves a term out, even 0 times infinity."""
    l1_term = [] if l1 is None else [l1 * total(tf.abs(w))]
    l2_term = [] if l2 is None else [l2 * weighted_norms(w, kept, groups, weighting)]
    return tf.add_n(l1_term + l2_term)


@sparse_group_lasso.pullback
def _(
    w: tf.Tensor,
    upstream: tf.Tensor,
    kept: tf.Tensor | None,
    l1: tf.Tensor | None,
    l2: tf.Tensor | None,
    groups: AnyGroups,
    weighting: Weighting,
) -> tf.Tensor:
    """`upstream (l1 sign(w) + l2 weight_g w_g / ||w_g||_2)`"""
    weights = weights_of(w, groups, weighting)
    l1_term = [] if l1 is None else [upstream * l1 * signum(w)]
    l2_term = [] if l2 is None else [groups.direction(w, weights, upstream * l2, kept)]
    return tf.add_n(l1_term + l2_term)


def _soft_threshold(w: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """`sign(w) max(|w| - threshold, 0)`; where `w` is NaN, NaN."""
    return tf.where(tf.abs(w) <= threshold, tf.zeros_like(w), w - threshold * tf.sign(w))


@kernel
def l1_norm(w: tf.Tensor) -> tf.Tensor:
    """`||w||_1`"""
    return total(tf.abs(w))


@l1_norm.gradient
def _(w: tf.Tensor) -> tf.Tensor:
    """`sign(w)`"""
    return signum(w)


@compiled
def sparse_group_lasso_prox(
    w: tf.Tensor,
    strength: tf.Tensor,
    l1: tf.Tensor | None,
    l2: tf.Tensor | None,
    groups: AnyGroups,
    weighting: Weighting,
) -> tf.Tensor:
    sparse = w if l1 is None else _soft_threshold(w, strength * l1)
    if l2 is None:
        return sparse
    return group_soft_threshold(sparse, strength * l2, groups, weighting)


@compiled
def sparse_group_lasso_metric_prox(
    w: tf.Tensor,
    strength: tf.Tensor,
    metric: tf.Tensor,
    l1: tf.Tensor | None,
    l2: tf.Tensor | None,
    groups: AnyGroups,
    weighting: Weighting,
) -> tf.Tensor:
    # The second step keeps signs and zeros: `metric_i (x_i - w_i) + t x_i / ||x||`, which it makes
    # 0 for the w_i of the first, is with the w_i before that minus the slope of the L1 norm at x_i.
    sparse = w if l1 is None else _soft_threshold(w, in_metric(strength * l1, metric))
    if l2 is None:
        return sparse
    return group_soft_threshold_in_metric(sparse, metric, strength * l2, groups, weighting)


@compiled
def soft_threshold(w: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    return _soft_threshold(w, threshold)


@register
class SparseGroupLasso(GroupLasso):
    """The L1 norm and the group lasso mixed: few groups, and few weights in each.

    `factor * (l1_ratio * ||w||_1 + (1 - l1_ratio) * sum_g sqrt(size_g) * ||w_g||_2)`

    Args:
        factor: the strength, a finite number >= 0.
        l1_ratio: the share of the L1 norm, a number in [0, 1]. 0 is `GroupLasso`, 1 is L1.
        axis: the axes that a group spans, as for `GroupLasso`.
        group_size: the length of the runs that an axis is cut into, as for `GroupLasso`.
        size_weighted: whether a group's norm is multiplied by the square root of its number of
            elements.
        groups: groups of any sizes, as lists of indices or as labels, as for `GroupLasso`. The L1
            norm is that of all weights, of those in no group too.
        group_weights: with `groups`, a number >= 0 for each, as for `GroupLasso`.

    Raises:
        TypeError, ValueError: for other arguments; when called, if the weight lacks an axis or an
            index. NotImplementedError: by `prox`, for `groups` that overlap.

    Example:

    >>> penalty = tfreg.SparseGroupLasso(0.1, l1_ratio=0.5, size_weighted=False)
    >>> float(penalty(tf.constant([[3.0, 0.0], [4.0, 0.0]])))
    0.6

    Reference:
        Simon, Friedman, Hastie and Tibshirani, A sparse-group lasso, 2013.
    """

    _kernel = sparse_group_lasso
    _operator = sparse_group_lasso_prox
    _metric_operator = sparse_group_lasso_metric_prox

    def __init__(
        self,
        factor: float = 0.01,
        l1_ratio: float = 0.5,
        axis: Axis | Sequence[Axis] = "output",
        group_size: GroupSize = None,
        size_weighted: bool = True,
        groups: GroupLists | None = None,
        group_weights: GroupWeights | None = None,
    ) -> None:
        super().__init__(factor, axis, group_size, size_weighted, groups, group_weights)
        self.l1_ratio = check_number(
            "l1_ratio", l1_ratio, "a number in [0, 1]", lambda number: 0 <= number <= 1
        )

    def _shares(self) -> list[float | None]:
        """Those of the L1 norm and of the groups' norms; None for one that is 0 in float32."""
        shares = self.l1_ratio, 1.0 - self.l1_ratio
        return [share if share >= _LEAST_SHARE else None for share in shares]

    def _parameters(self, w: tf.Tensor, layout: Layout) -> dict[str, Any]:
        l1, l2 = self._shares()
        return {"l1": l1, "l2": l2, **super()._parameters(w, layout)}

    def compute_joint_value(
        self, tensors: list[tf.Tensor], layouts: list[Layout], names: list[str]
    ) -> tf.Tensor:
        terms = []
        l1, l2 = self._shares()
        if l1 is not None:
            terms += [l1 * l1_norm(w, factor=self.factor) for w in with_common_dtype(tensors)]
        if l2 is not None:
            terms.append(l2 * super().compute_joint_value(tensors, layouts, names))
        return tf.add_n(terms)

    def compute_joint_prox(
        self,
        tensors: list[tf.Tensor],
        layouts: list[Layout],
        names: list[str],
        step_size: StepSize,
    ) -> list[tf.Tensor]:
        strength = step_size * self.factor
        l1, l2 = self._shares()
        if l1 is not None:
            tensors = [soft_threshold(tensor, threshold=strength * l1) for tensor in tensors]
        if l2 is not None:
            tensors = super().compute_joint_prox(tensors, layouts, names, step_size * l2)
        return tensors

    def compute_coupled_value(
        self, tensors: list[tf.Tensor], slices: Sequence[Slices], group_weight: float | None
    ) -> tf.Tensor:
        terms = []
        l1, l2 = self._shares()
        if l1 is not None:
            # An element of two entries is in the norms of both, and here once.
            penalized = [each.only(w) for w, each in zip(tensors, slices)]
            terms += [l1 * l1_norm(w, factor=self.factor) for w in penalized]
        if l2 is not None:
            terms.append(l2 * super().compute_coupled_value(tensors, slices, group_weight))
        return tf.add_n(terms)

    def compute_coupled_prox(
        self,
        tensors: list[tf.Tensor],
        slices: Sequence[Slices],
        group_weight: float | None,
        step_size: StepSize,
    ) -> list[tf.Tensor]:
        l1, l2 = self._shares()
        if l1 is not None:
            threshold = step_size * self.factor * l1
            sparse = [soft_threshold(w, threshold=threshold) for w in tensors]
            tensors = [each.only(x, w) for x, w, each in zip(sparse, tensors, slices)]
        if l2 is not None:
            tensors = super().compute_coupled_prox(tensors, slices, group_weight, step_size * l2)
        return tensors
