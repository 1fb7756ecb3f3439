"""GroupLasso: remove whole units, filters, inputs or blocks."""

from collections.abc import Sequence

import tensorflow as tf

from tfreg.compute.kernels import compiled, kernel
from tfreg.compute.numerics import in_metric, reciprocal_or_zero
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
    roots_of_norms,
    weighted,
    weights_of,
)
from tfreg.penalties.registry import register


def weighted_norms(
    w: tf.Tensor, roots: tf.Tensor | None, groups: AnyGroups, weighting: Weighting
) -> tf.Tensor:
    """`sum_g weight_g ||w_g||_2`"""
    weights, norms = weights_of(w, groups, weighting), groups.norm(w, roots)
    has_zeros = isinstance(weighting, tf.Tensor)
    return groups.total(weighted(weights, norms) if has_zeros else weights * norms, w)


@kernel(keeps=roots_of_norms)
def group_lasso(
    w: tf.Tensor, kept: tf.Tensor | None, groups: AnyGroups, weighting: Weighting
) -> tf.Tensor:
    """`sum_g weight_g ||w_g||_2`"""
    return weighted_norms(w, kept, groups, weighting)


@group_lasso.pullback
def _(
    w: tf.Tensor,
    upstream: tf.Tensor,
    kept: tf.Tensor | None,
    groups: AnyGroups,
    weighting: Weighting,
) -> tf.Tensor:
    """`upstream weight_g w_g / ||w_g||_2`"""
    weights = weights_of(w, groups, weighting)
    return groups.direction(w, weights, upstream, kept)


def group_soft_threshold(
    w: tf.Tensor, strength: tf.Tensor, groups: AnyGroups, weighting: Weighting
) -> tf.Tensor:
    """`max(1 - strength weight_g / ||w_g||_2, 0) w_g`; 0 in a zero group, also at strength 0."""
    weights = weights_of(w, groups, weighting)
    shrinkage = _shrinkage(groups.norm(w), strength * weights)
    if isinstance(weighting, tf.Tensor):
        shrinkage = _free_without_weight(shrinkage, weights)
    return groups.scale(shrinkage, w)


def _free_without_weight(shrinkage: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    return tf.where(tf.equal(weights, 0.0), tf.ones_like(shrinkage), shrinkage)


def _shrinkage(norm: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """`max(1 - threshold_g / norm_g, 0)`; 0 for a norm of 0."""
    is_zero = norm <= threshold
    excess = tf.where(is_zero, tf.ones_like(norm), norm - threshold)
    # `1 - t / n`, without inf / inf for an infinite n.
    return reciprocal_or_zero(1.0 + threshold / excess, is_zero)


@compiled
def group_lasso_prox(
    w: tf.Tensor, strength: tf.Tensor, groups: AnyGroups, weighting: Weighting
) -> tf.Tensor:
    return group_soft_threshold(w, strength, groups, weighting)


# At more extreme numbers, those of the iteration would not be finite. What is as small beside an
# entry does not change it.
_SMALL_BESIDE_ENTRY, _SMALLEST = 1e-12, {tf.float32: 1e-37, tf.float64: 1e-300}
# It has converged long before.
_MAX_STEPS = 50


def group_soft_threshold_in_metric(
    w: tf.Tensor,
    metric: tf.Tensor,
    strength: tf.Tensor,
    groups: AnyGroups,
    weighting: Weighting,
) -> tf.Tensor:
    """`argmin_x 1/2 sum_i metric_i (x_i - w_i)^2 + strength sum_g weight_g ||x_g||_2`

    With `t_i = strength weight_g / metric_i` a group is 0 if `||w_g / t_g||_2 <= 1`. Else it is
    `x_i = w_i n / (n + t_i)`, where `n` is its norm: the root of `||w_g / (n + t_g)||_2 = 1`.
    """
    norms = groups.norm(w)
    weights = weights_of(w, groups, weighting) * tf.ones_like(norms)
    thresholds = in_metric(groups.spread(weighted(weights, strength), w), metric)
    new_norms = groups.spread(_norms_in_metric(w, thresholds, norms, groups), w)
    # An infinite threshold removes its element, whatever the norm.
    is_removed = tf.math.is_inf(thresholds)
    quotients = tf.where(is_removed, thresholds, thresholds / new_norms)
    kept = reciprocal_or_zero(1.0 + quotients, is_removed)
    kept = tf.where(tf.equal(thresholds, 0.0), tf.ones_like(kept), kept)
    is_zero = tf.equal(kept, 0.0) & tf.math.is_inf(w)  # not infinity times 0
    return tf.where(is_zero, tf.zeros_like(w), kept * w)


def _norms_in_metric(
    w: tf.Tensor, thresholds: tf.Tensor, norms: tf.Tensor, groups: AnyGroups
) -> tf.Tensor:
    """The norms that groups have afterwards, by Newton's method on `1 / ||w_g / (n + t_g)||_2`.

    That is concave in `n`: from 0 on, the steps increase up to the root.
    """
    t = tf.maximum(thresholds, _SMALL_BESIDE_ENTRY * tf.abs(w))
    t = tf.maximum(t, _SMALLEST[w.dtype])

    def excess_and_step(new_norms: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        shifted = t if new_norms is None else t + groups.spread(new_norms, w)
        ratios = w / shifted
        norm, other = groups.norm(ratios), groups.norm(ratios * tf.math.rsqrt(shifted))
        excess = norm - 1.0
        other = tf.where(tf.equal(other, 0.0), tf.ones_like(other), other)
        return excess, excess * tf.square(norm / other)

    excess, step = excess_and_step(None)
    is_zero = excess <= 0.0
    start = tf.where(is_zero, tf.zeros_like(step), step)
    tolerance = 1e-8 if w.dtype == tf.float64 else 1e-4  # The steps' errors are its square.

    def improve(new_norms: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        _, step = excess_and_step(new_norms)
        step = tf.where(is_zero, tf.zeros_like(step), step)
        return new_norms + step, tf.reduce_any(tf.abs(step) > tolerance * new_norms)

    new_norms, _ = tf.while_loop(
        lambda _, moves: moves,
        improve,
        (start, tf.constant(True)),
        shape_invariants=(norms.shape, tf.TensorShape([])),
        maximum_iterations=_MAX_STEPS,
    )
    return tf.where(tf.math.is_inf(norms), norms, new_norms)


@compiled
def group_lasso_metric_prox(
    w: tf.Tensor,
    strength: tf.Tensor,
    metric: tf.Tensor,
    groups: AnyGroups,
    weighting: Weighting,
) -> tf.Tensor:
    return group_soft_threshold_in_metric(w, metric, strength, groups, weighting)


@compiled
def shrinkage_across_weights(
    norms: tf.Tensor, strength: tf.Tensor, group_weights: tf.Tensor
) -> tf.Tensor:
    """The factor by which each tied group shrinks; `norms` has a row for each weight."""
    shrinkage = _shrinkage(ACROSS_WEIGHTS.norm(norms), strength * group_weights)
    return ACROSS_WEIGHTS.listed(_free_without_weight(shrinkage, group_weights), norms)


@register
class GroupLasso(Grouped):
    """Sum of the Euclidean norms of groups of weights.

    `factor * sum_g sqrt(size_g) * ||w_g||_2`

    It drives whole groups to zero: exactly with `prox`, nearly with gradient steps. The gradient
    at a zero group is 0.

    Args:
        factor: the strength, a finite number >= 0.
        axis: the axes that a group spans: an int, a tuple of ints, or one of

            - `"output"`: every axis but the last, one group per unit or filter. On the kernel
              `(inputs, units)` of a Dense layer a group holds a unit's input weights; on that
              of a Conv2D layer, `(height, width, channels, filters)`, a filter.
            - `"input"`: every axis but the second last, one group per input feature or channel.
            - `"shape"`: the last axis, one group per position of the kernel, across filters.
            - `"all"`: the whole weight.

            Under `tfreg.add_penalty` the names mean what they say on every layer, and there is
            `"head"`, one group per attention head. As a layer's own argument they go by position:
            there `"input"` ties the k-th channels of all groups of a grouped convolution. On a
            rank-1 weight `"output"` and `"input"` make each element a group.
            Under `tfreg.Joint` it may be a list of such names and tuples, one for each weight.
        group_size: with integer axes only: cuts each spanned axis into runs of that many
            consecutive entries; an int for one axis, a tuple with an entry per axis for
            several, None to keep an axis whole. The last run is shorter where the length does
            not divide. `axis=(0, 1), group_size=(16, 16)` is block sparsity.
        size_weighted: whether a group's norm is multiplied by the square root of its number of
            elements.
        groups: groups of any sizes: a list of lists of indices, such as `[[0, 4], [1, 2, 3]]`, or a
            label for each index, such as `[0, 1, 1, 1, 0, -1]` with -1 for what is in no group.
            With an integer `axis`, the indices count along that, and each entry of the other axes
            has groups of its own, as with `group_size`. With `"input"` or `"output"` a list merges
            the groups of these inputs or outputs into one. Indices in no list are free, those in
            several lists are penalized by each; `prox` needs disjoint lists. Under `tfreg.Joint` it
            may be a list of such lists of lists, one for each weight.
        group_weights: with `groups`, a number >= 0 for each of them, in place of the square root of
            its number of elements: an array, or a registered function of the array of those
            numbers. 0 leaves a group free.

    Raises:
        TypeError, ValueError: for other arguments; when called, if the weight lacks an axis or an
            index. NotImplementedError: by `prox`, for `groups` that overlap.

    Example:

    >>> penalty = tfreg.GroupLasso(0.1, axis="output", size_weighted=False)
    >>> kernel = tf.constant([[3.0, 0.1], [4.0, 0.0]])
    >>> float(penalty(kernel))
    0.51
    >>> penalty.prox(kernel, step_size=1.0).numpy()
    array([[2.94, 0.  ],
           [3.92, 0.  ]], dtype=float32)

    One group of the first two inputs, and one of the third, of a layer's kernel:

    >>> penalty = tfreg.GroupLasso(1.0, axis="input", groups=[[0, 1], [2]], size_weighted=False)
    >>> float(penalty(tf.constant([[3.0, 0.0], [0.0, 4.0], [1.0, 0.0]])))
    6.0

    Reference:
        Yuan and Lin, Model selection and estimation in regression with grouped variables, 2006.
    """

    _kernel = group_lasso
    _operator = group_lasso_prox
    _metric_operator = group_lasso_metric_prox

    def __init__(
        self,
        factor: float = 0.01,
        axis: Axis | Sequence[Axis] = "output",
        group_size: GroupSize = None,
        size_weighted: bool = True,
        groups: GroupLists | None = None,
        group_weights: GroupWeights | None = None,
    ) -> None:
        super().__init__(factor, axis, group_size, size_weighted, groups, group_weights)

    def _value_across(self, norms: tf.Tensor, weights: tf.Tensor | float) -> tf.Tensor:
        # The norm of a scaled group is the scaled norm.
        norms = weighted(weights, norms)
        return group_lasso(norms, factor=self.factor, groups=ACROSS_WEIGHTS, weighting=False)

    def _shrinkage_across(
        self, norms: tf.Tensor, weights: tf.Tensor | float, strength: StepSize
    ) -> tf.Tensor:
        return shrinkage_across_weights(norms, strength=strength, group_weights=weights)
