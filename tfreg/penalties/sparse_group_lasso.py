"""SparseGroupLasso: few groups, and few weights in each."""

import tensorflow as tf

from tfreg.checks import check_number
from tfreg.compute.kernels import compiled, kernel
from tfreg.compute.numerics import signum, with_common_dtype
from tfreg.compute.reductions import total
from tfreg.penalties.group_lasso import GroupLasso, group_soft_threshold, weighted_norms
from tfreg.penalties.grouped import group_weights
from tfreg.penalties.registry import register


def _roots_of_norms_if_used(w, l2, groups, **_):
    return None if l2 is None else groups.roots_to_keep(w)


@kernel(keeps=_roots_of_norms_if_used)
def sparse_group_lasso(w, kept, l1, l2, groups, size_weighted):
    """`l1 ||w||_1 + l2 sum_g weight_g ||w_g||_2`; None leaves a term out, infinity and all."""
    l1_term = [] if l1 is None else [l1 * total(tf.abs(w))]
    l2_term = [] if l2 is None else [l2 * weighted_norms(w, kept, groups, size_weighted)]
    return tf.add_n(l1_term + l2_term)


@sparse_group_lasso.pullback
def _(w, upstream, kept, l1, l2, groups, size_weighted):
    """`upstream (l1 sign(w) + l2 weight_g w_g / ||w_g||_2)`"""
    weights = group_weights(w, groups, size_weighted)
    l1_term = [] if l1 is None else [upstream * l1 * signum(w)]
    l2_term = [] if l2 is None else [groups.direction(w, weights, upstream * l2, kept)]
    return tf.add_n(l1_term + l2_term)


def _soft_threshold(w, threshold):
    """`sign(w) max(|w| - threshold, 0)`; where `w` is NaN, NaN."""
    return tf.where(tf.abs(w) <= threshold, tf.zeros_like(w), w - threshold * tf.sign(w))


@kernel
def l1_norm(w):
    """`||w||_1`"""
    return total(tf.abs(w))


@l1_norm.gradient
def _(w):
    """`sign(w)`"""
    return signum(w)


@compiled
def sparse_group_lasso_prox(w, strength, l1, l2, groups, size_weighted):
    sparse = w if l1 is None else _soft_threshold(w, strength * l1)
    if l2 is None:
        return sparse
    threshold = strength * l2 * group_weights(w, groups, size_weighted)
    return group_soft_threshold(sparse, threshold, groups)


@compiled
def soft_threshold(w, threshold):
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

    Raises:
        TypeError, ValueError: for other arguments; when called, if the weight lacks an axis.

    Example:

    >>> penalty = tfreg.SparseGroupLasso(0.1, l1_ratio=0.5, size_weighted=False)
    >>> float(penalty(tf.constant([[3.0, 0.0], [4.0, 0.0]])))
    0.6

    Reference:
        Simon, Friedman, Hastie and Tibshirani, A sparse-group lasso, 2013.
    """

    _is_additive = True

    def __init__(
        self, factor=0.01, l1_ratio=0.5, axis="output", group_size=None, size_weighted=True
    ):
        super().__init__(factor, axis, group_size, size_weighted)
        self.l1_ratio = check_number(
            "l1_ratio", l1_ratio, "a number in [0, 1]", lambda number: 0 <= number <= 1
        )

    def _parameters(self, layout):
        l1, l2 = self.l1_ratio or None, (1.0 - self.l1_ratio) or None
        return {"l1": l1, "l2": l2, **super()._parameters(layout)}

    def _value(self, tensor, layout):
        w = self._groups[0].split(tensor, layout)
        return sparse_group_lasso(w, factor=self.factor, **self._parameters(layout))

    def _prox(self, tensor, layout, step_size):
        w, strength = self._groups[0].split(tensor, layout), step_size * self.factor
        result = sparse_group_lasso_prox(w, strength=strength, **self._parameters(layout))
        return layout.merge(result, tensor)

    def _joint_value(self, tensors, layouts, names):
        terms = []
        if self.l1_ratio > 0:
            terms += [
                self.l1_ratio * l1_norm(w, factor=self.factor) for w in with_common_dtype(tensors)
            ]
        if self.l1_ratio < 1:
            terms.append((1.0 - self.l1_ratio) * super()._joint_value(tensors, layouts, names))
        return tf.add_n(terms)

    def _joint_prox(self, tensors, layouts, names, step_size):
        strength = step_size * self.factor
        if self.l1_ratio > 0:
            threshold = strength * self.l1_ratio
            tensors = [soft_threshold(tensor, threshold=threshold) for tensor in tensors]
        if self.l1_ratio < 1:
            strength *= 1.0 - self.l1_ratio
            tensors = self._shrunk_together(tensors, layouts, names, strength)
        return tensors
