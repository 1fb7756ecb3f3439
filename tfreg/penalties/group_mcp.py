"""GroupMCP: the minimax concave penalty of the norms of groups."""

import tensorflow as tf

from tfreg.checks import check_positive
from tfreg.compute.kernels import compiled, kernel
from tfreg.penalties.grouped import (
    ACROSS_WEIGHTS,
    Grouped,
    group_norms,
    group_weights,
    roots_of_norms,
    scaled_together,
    weights_across,
)
from tfreg.penalties.mcp import MCP
from tfreg.penalties.registry import register


def _relative(norms, weights):
    """The norms over the groups' weights: the root mean squares"""
    return norms / tf.maximum(weights, 1.0)  # an empty weight's are 0


def _terms(norms, weights, threshold):
    return tf.square(weights) * MCP.f(_relative(norms, weights), threshold)


@kernel(keeps=roots_of_norms)
def group_mcp(w, kept, groups, size_weighted, threshold):
    """`sum_g weight_g^2 f(||w_g||_2 / weight_g)`"""
    weights = group_weights(w, groups, size_weighted)
    return groups.total(_terms(groups.norm(w, kept), weights, threshold), w)


@group_mcp.pullback
def _(w, upstream, kept, groups, size_weighted, threshold):
    """`upstream weight_g f'(||w_g||_2 / weight_g) w_g / ||w_g||_2`; 0 in a group that is free"""
    weights = group_weights(w, groups, size_weighted)
    slopes = groups.spread(MCP.df(_relative(groups.norm(w, kept), weights), threshold), w)
    direction = groups.direction(w, weights, upstream, kept)
    return tf.where(tf.equal(slopes, 0.0), tf.zeros_like(w), slopes * direction)


def _shrinkage(norms, weights, strength, threshold):
    """By what `MCP` multiplies a weight of the size `norms / weights`"""
    before = _relative(norms, weights)
    after = MCP.argmin(before, strength, threshold)
    is_same, one = tf.equal(before, after), tf.ones_like(after)  # also of 0, and of infinity
    return tf.where(is_same, one, after / tf.where(is_same, one, before))


@compiled
def group_mcp_prox(w, strength, groups, size_weighted, threshold):
    weights = group_weights(w, groups, size_weighted)
    return groups.scale(_shrinkage(groups.norm(w), weights, strength, threshold), w)


@compiled
def shrinkage_of_tied(norms, strength, weights, threshold):
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

    Raises:
        TypeError, ValueError: for other arguments; when called, if the weight lacks an axis.

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

    _is_additive = True

    def __init__(
        self, factor=0.01, threshold=1.0, axis="output", group_size=None, size_weighted=True
    ):
        super().__init__(factor, axis, group_size, size_weighted)
        self.threshold = check_positive("threshold", threshold)

    def _parameters(self, layout):
        return {"threshold": self.threshold, **super()._parameters(layout)}

    def _value(self, tensor, layout):
        w = self._groups[0].split(tensor, layout)
        return group_mcp(w, factor=self.factor, **self._parameters(layout))

    def _prox(self, tensor, layout, step_size):
        w, strength = self._groups[0].split(tensor, layout), step_size * self.factor
        result = group_mcp_prox(w, strength=strength, **self._parameters(layout))
        return layout.merge(result, tensor)

    def _check_joint(self):
        pass

    def _joint_value(self, tensors, layouts, names):
        _, _, norms, weights = self._norms_of_tied(tensors, layouts, names)
        return self.factor * tf.reduce_sum(_terms(norms, weights, self.threshold))

    def _joint_prox(self, tensors, layouts, names, step_size):
        parts, groups, norms, weights = self._norms_of_tied(tensors, layouts, names)
        strength, threshold = step_size * self.factor, self.threshold
        shrinkage = shrinkage_of_tied(
            norms, strength=strength, weights=weights, threshold=threshold
        )
        return scaled_together(shrinkage, tensors, layouts, parts, groups)

    def _norms_of_tied(self, tensors, layouts, names):
        """What `_tied` gives, with the norm of each tied group, and the groups' weights."""
        parts, groups, norms = self._tied(tensors, layouts, names)
        norms = group_norms(norms, factor=1.0, groups=ACROSS_WEIGHTS)
        weights = weights_across(parts, groups) if self.size_weighted else tf.ones_like(norms)
        return parts, groups, norms, weights
