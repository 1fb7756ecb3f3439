"""GroupMCP: the minimax concave penalty of the norms of groups."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfreg.checks import check_positive
from tfreg.compute.kernels import compiled, kernel
from tfreg.layout import Layout
from tfreg.penalties.base import StepSize
from tfreg.penalties.grouped import (
    ACROSS_WEIGHTS,
    AnyGroups,
    Axis,
    Grouped,
    GroupLists,
    GroupSize,
    GroupWeights,
    Weighting,
    group_norms,
    roots_of_norms,
    weights_of,
)
from tfreg.penalties.mcp import MCP
from tfreg.penalties.registry import register


def _relative(norms: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """The norms over the groups' weights: the root mean squares; 0 without a weight."""
    has_weight = weights > 0.0
    norms = tf.where(has_weight, norms, tf.zeros_like(norms))
    return norms / tf.where(has_weight, weights, tf.ones_like(weights))


def _terms(norms: tf.Tensor, weights: tf.Tensor, threshold: StepSize) -> tf.Tensor:
    return tf.square(weights) * MCP.f(_relative(norms, weights), threshold)


@kernel(keeps=roots_of_norms)
def group_mcp(
    w: tf.Tensor,
    kept: tf.Tensor | None,
    groups: AnyGroups,
    weighting: Weighting,
    threshold: tf.Tensor,
) -> tf.Tensor:
    """`sum_g weight_g^2 f(||w_g||_2 / weight_g)`"""
    weights = weights_of(w, groups, weighting)
    return groups.total(_terms(groups.norm(w, kept), weights, threshold), w)


@group_mcp.pullback
def _(
    w: tf.Tensor,
    upstream: tf.Tensor,
    kept: tf.Tensor | None,
    groups: AnyGroups,
    weighting: Weighting,
    threshold: tf.Tensor,
) -> tf.Tensor:
    """`upstream weight_g f'(||w_g||_2 / weight_g) w_g / ||w_g||_2`; 0 beyond the threshold"""
    weights = weights_of(w, groups, weighting)
    slopes = weights * MCP.df(_relative(groups.norm(w, kept), weights), threshold)
    return groups.scaled_direction(w, upstream * slopes, kept)


def _shrinkage(
    norms: tf.Tensor, weights: tf.Tensor, strength: tf.Tensor, threshold: tf.Tensor
) -> tf.Tensor:
    """The factor by which `MCP.argmin` scales `norms / weights`; 0 for a norm of 0."""
    before = _relative(norms, weights)
    after = MCP.argmin(before, strength, threshold)
    is_same = tf.equal(before, after) | tf.equal(weights, 0.0)  # also at infinity
    one = tf.ones_like(after)
    factor = tf.where(is_same, one, after / tf.where(is_same, one, before))
    # Also that of elements so small that it underflows.
    return tf.where(tf.equal(before, 0.0) & (weights > 0.0), tf.zeros_like(factor), factor)


@compiled
def group_mcp_prox(
    w: tf.Tensor, strength: tf.Tensor, groups: AnyGroups, weighting: Weighting, threshold: tf.Tensor
) -> tf.Tensor:
    weights = weights_of(w, groups, weighting)
    return groups.scale(_shrinkage(groups.norm(w), weights, strength, threshold), w)


@compiled
def shrinkage_of_tied(
    norms: tf.Tensor, strength: tf.Tensor, weights: tf.Tensor, threshold: tf.Tensor
) -> tf.Tensor:
    return _shrinkage(norms, weights, strength, threshold)


@register
class GroupMCP(Grouped):
    """Minimax concave penalty of groups: few groups, without the group lasso's bias on the others.

    `factor * sum_g size_g f(||w_g||_2 / sqrt(size_g))` with `f(t) = t - t^2 / (2 threshold)` up to
    the threshold, and `threshold / 2` beyond

    Near 0 it is `GroupLasso`. Its slope falls to 0 where a group's root mean square reaches the
    threshold: larger groups are free. With `size_weighted=False` it is `factor * sum_g f(||w_g||)`.

    Args:
        factor: the strength, a finite number >= 0.
        threshold: the root mean square, or without `size_weighted` the norm, from which a group is
            free, a finite number > 0.
        axis: the axes that a group spans, as for `GroupLasso`.
        group_size: the length of the runs that an axis is cut into, as for `GroupLasso`.
        size_weighted: whether a group counts by its number of elements.
        groups: groups of any sizes, as lists of indices or as labels, as for `GroupLasso`.
        group_weights: with `groups`, a number >= 0 for each, in place of the square root of its
            number of elements: the threshold holds for the norm over that.

    Raises:
        TypeError, ValueError: for other arguments; when called, if the weight lacks an axis or an
            index. NotImplementedError: by `prox`, for `groups` that overlap.

    Example:

    >>> penalty = tfreg.GroupMCP(1.0, threshold=4.0, size_weighted=False)
    >>> kernel = tf.constant([[3.0, 0.6], [4.0, 0.8]])
    >>> float(penalty(kernel))
    2.875
    >>> penalty.prox(kernel, step_size=1.0).numpy()
    array([[3., 0.],
           [4., 0.]], dtype=float32)

    References:
        Zhang, Nearly unbiased variable selection under minimax concave penalty, 2010.
        Breheny and Huang, Group descent algorithms for nonconvex penalized regression, 2015.
    """

    _kernel = group_mcp
    _operator = group_mcp_prox

    def __init__(
        self,
        factor: float = 0.01,
        threshold: float = 1.0,
        axis: Axis | Sequence[Axis] = "output",
        group_size: GroupSize = None,
        size_weighted: bool = True,
        groups: GroupLists | None = None,
        group_weights: GroupWeights | None = None,
    ) -> None:
        super().__init__(factor, axis, group_size, size_weighted, groups, group_weights)
        self.threshold = check_positive("threshold", threshold)

    def _parameters(self, tensor: tf.Tensor, layout: Layout) -> dict[str, Any]:
        return {"threshold": self.threshold, **super()._parameters(tensor, layout)}

    def _value_across(self, norms: tf.Tensor, weights: tf.Tensor | float) -> tf.Tensor:
        norms = group_norms(norms, factor=1.0, groups=ACROSS_WEIGHTS)
        terms = _terms(norms, tf.ones_like(norms) * weights, self.threshold)
        return self.factor * tf.reduce_sum(terms)

    def _shrinkage_across(
        self, norms: tf.Tensor, weights: tf.Tensor | float, strength: StepSize
    ) -> tf.Tensor:
        norms = group_norms(norms, factor=1.0, groups=ACROSS_WEIGHTS)
        return shrinkage_of_tied(
            norms,
            strength=strength,
            weights=tf.ones_like(norms) * weights,
            threshold=self.threshold,
        )
