"""GroupLasso and SparseGroupLasso: remove whole units, filters, inputs or blocks."""

import tensorflow as tf

from tfreg.checks import check_bool, check_number, is_int
from tfreg.compute.kernels import compiled, kernel
from tfreg.compute.numerics import reciprocal_or_zero, signum, with_common_dtype
from tfreg.compute.reductions import total
from tfreg.groups import Groups
from tfreg.penalties.base import Penalty, register


def _group_weights(w, groups, size_weighted):
    """The weight of each group's norm; Yuan and Lin's is the root of its number of elements."""
    return tf.sqrt(groups.sizes(w)) if size_weighted else tf.ones([1] * w.shape.rank, w.dtype)


def _roots_of_norms(w, groups, **_):
    return groups.roots_to_keep(w)


def _weighted_norms(w, roots, groups, size_weighted):
    """`sum_g weight_g ||w_g||_2`"""
    norms = groups.norm(w, roots)
    return groups.total(_group_weights(w, groups, size_weighted) * norms, w)


@kernel(keeps=_roots_of_norms)
def group_lasso(w, kept, groups, size_weighted):
    """`sum_g weight_g ||w_g||_2`"""
    return _weighted_norms(w, kept, groups, size_weighted)


@group_lasso.pullback
def _(w, upstream, kept, groups, size_weighted):
    """`upstream weight_g w_g / ||w_g||_2`"""
    weights = _group_weights(w, groups, size_weighted)
    return groups.direction(w, weights, upstream, kept)


def _roots_of_norms_if_used(w, l2, groups, **_):
    return None if l2 is None else groups.roots_to_keep(w)


@kernel(keeps=_roots_of_norms_if_used)
def sparse_group_lasso(w, kept, l1, l2, groups, size_weighted):
    """`l1 ||w||_1 + l2 sum_g weight_g ||w_g||_2`; None leaves a term out, infinity and all."""
    l1_term = [] if l1 is None else [l1 * total(tf.abs(w))]
    l2_term = [] if l2 is None else [l2 * _weighted_norms(w, kept, groups, size_weighted)]
    return tf.add_n(l1_term + l2_term)


@sparse_group_lasso.pullback
def _(w, upstream, kept, l1, l2, groups, size_weighted):
    """`upstream (l1 sign(w) + l2 weight_g w_g / ||w_g||_2)`"""
    weights = _group_weights(w, groups, size_weighted)
    l1_term = [] if l1 is None else [upstream * l1 * signum(w)]
    l2_term = [] if l2 is None else [groups.direction(w, weights, upstream * l2, kept)]
    return tf.add_n(l1_term + l2_term)


def _soft_threshold(w, threshold):
    """`sign(w) max(|w| - threshold, 0)`; where `w` is NaN, NaN."""
    return tf.where(tf.abs(w) <= threshold, tf.zeros_like(w), w - threshold * tf.sign(w))


def _group_soft_threshold(w, threshold, groups):
    """`max(1 - threshold_g / ||w_g||, 0) w_g`; 0 in a zero group, also at threshold 0."""
    return groups.scale(_shrinkage(groups.norm(w), threshold), w)


def _shrinkage(norm, threshold):
    """`max(1 - threshold_g / norm_g, 0)`; 0 for a norm of 0."""
    is_zero = norm <= threshold
    excess = tf.where(is_zero, tf.ones_like(norm), norm - threshold)
    # 1 - t / n, of an infinite n too.
    return reciprocal_or_zero(1.0 + threshold / excess, is_zero)


@kernel
def l1_norm(w):
    """`||w||_1`"""
    return total(tf.abs(w))


@l1_norm.gradient
def _(w):
    """`sign(w)`"""
    return signum(w)


@kernel(keeps=_roots_of_norms)
def group_norms(w, kept, groups):
    """`||w_g||_2` of each group, as a vector"""
    return groups.listed(groups.norm(w, roots=kept), w)


@group_norms.pullback
def _(w, upstream, kept, groups):
    """`upstream_g w_g / ||w_g||_2`"""
    return groups.scale(groups.grid_of(upstream, w), groups.direction(w, roots=kept))


@compiled
def group_lasso_prox(w, strength, groups, size_weighted):
    threshold = strength * _group_weights(w, groups, size_weighted)
    return _group_soft_threshold(w, threshold, groups)


@compiled
def sparse_group_lasso_prox(w, strength, l1, l2, groups, size_weighted):
    sparse = w if l1 is None else _soft_threshold(w, strength * l1)
    if l2 is None:
        return sparse
    threshold = strength * l2 * _group_weights(w, groups, size_weighted)
    return _group_soft_threshold(sparse, threshold, groups)


# In a stack of one vector per weight of a joint penalty, those that the same groups are part of.
_ACROSS_WEIGHTS = Groups(axis=0)


def _weights_across(weights, groups):
    """The root of the number of elements of each tied group."""
    return tf.sqrt(tf.add_n([group.listed_sizes(w) for w, group in zip(weights, groups)]))


@compiled
def soft_threshold(w, threshold):
    return _soft_threshold(w, threshold)


@compiled
def shrinkage_across_weights(norms, strength, group_weights):
    """The factor by which each tied group shrinks; `norms` has a row for each weight."""
    shrinkage = _shrinkage(_ACROSS_WEIGHTS.norm(norms), strength * group_weights)
    return _ACROSS_WEIGHTS.listed(shrinkage, norms)


@compiled
def shrunk_groups(w, shrinkage, groups):
    """`shrinkage_g w_g`"""
    return groups.scale(groups.grid_of(shrinkage, w), w)


@register
class GroupLasso(Penalty):
    """Sum of the Euclidean norms of groups of weights.

    `factor * sum_g sqrt(size_g) * ||w_g||_2`

    It drives whole groups to zero: with `prox` exactly, by gradient steps nearly. The gradient
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
            there an input channel of a grouped convolution is one of each of its groups. On a
            rank-1 weight `"output"` and `"input"` make each element a group.
            For `tfreg.Joint` it may be a list of such names and tuples, one for each weight.
        group_size: with integer axes only: cuts each spanned axis into runs of that many
            consecutive entries; an int for one axis, a tuple with an entry per axis for
            several, None to keep an axis whole. The last run is shorter where the length does
            not divide. `axis=(0, 1), group_size=(16, 16)` is block sparsity.
        size_weighted: whether a group's norm is multiplied by the square root of its number of
            elements.

    Raises:
        TypeError, ValueError: for other arguments; when called, if the weight lacks an axis.

    Example:

    >>> penalty = tfreg.GroupLasso(0.1, axis="output", size_weighted=False)
    >>> kernel = tf.constant([[3.0, 0.1], [4.0, 0.0]])
    >>> float(penalty(kernel))
    0.51
    >>> penalty.prox(kernel, step_size=1.0).numpy()
    array([[2.94, 0.  ],
           [3.92, 0.  ]], dtype=float32)

    Reference:
        Yuan and Lin, Model selection and estimation in regression with grouped variables, 2006.
    """

    _stacks = True

    def __init__(self, factor=0.01, axis="output", group_size=None, size_weighted=True):
        super().__init__(factor)
        self._is_per_weight = isinstance(axis, list) and any(not is_int(entry) for entry in axis)
        entries = axis if self._is_per_weight else [axis]
        self._groups = [Groups(entry, group_size) for entry in entries]
        self.size_weighted = check_bool("size_weighted", size_weighted)

    @property
    def axis(self):
        axes = [groups.axis for groups in self._groups]
        return self._read_only("axis", axes) if self._is_per_weight else axes[0]

    @property
    def group_size(self):
        return self._groups[0].group_size

    def _check(self, shape, layout, weight_name):
        if self._is_per_weight:
            raise ValueError(
                "Argument `axis` must be one for all weights, but under tfreg.Joint. "
                f"Received: axis={self.axis!r} for weight {weight_name}"
            )
        self._groups[0].on(layout, weight_name)

    def _parameters(self, layout):
        return {"groups": self._groups[0].on(layout), "size_weighted": self.size_weighted}

    def _value(self, tensor, layout):
        w = self._groups[0].split(tensor, layout)
        return group_lasso(w, factor=self.factor, **self._parameters(layout))

    def _prox(self, tensor, layout, step_size):
        w, strength = self._groups[0].split(tensor, layout), step_size * self.factor
        result = group_lasso_prox(w, strength=strength, **self._parameters(layout))
        return layout.merge(result, tensor)

    def _check_joint(self):
        pass

    def _joint_value(self, tensors, layouts, names):
        weights, groups, norms = self._tied(tensors, layouts, names)
        if self.size_weighted:
            # The norm of a scaled group is the scaled norm.
            norms *= _weights_across(weights, groups)
        return group_lasso(
            norms, factor=self.factor, groups=_ACROSS_WEIGHTS, size_weighted=False
        )

    def _joint_prox(self, tensors, layouts, names, step_size):
        return self._shrunk_together(tensors, layouts, names, step_size * self.factor)

    def _shrunk_together(self, tensors, layouts, names, strength):
        """The proximal operator of `strength` times the weighted norms of the tied groups."""
        weights, groups, norms = self._tied(tensors, layouts, names)
        shrinkage = shrinkage_across_weights(
            norms,
            strength=strength,
            group_weights=_weights_across(weights, groups) if self.size_weighted else 1.0,
        )
        return [
            layout.merge(shrunk_groups(w, shrinkage=shrinkage, groups=group), tensor)
            for layout, tensor, w, group in zip(layouts, tensors, weights, groups)
        ]

    def _tied(self, tensors, layouts, names):
        """The `tensors` split and in one dtype, the groups of each, and a row of norms for each.

        Raises a ValueError if they do not have the same number of groups.
        """
        asked = self._groups_of(names)
        groups = [each.on(layout, name) for each, layout, name in zip(asked, layouts, names)]
        weights = with_common_dtype(
            [each.split(tensor, layout) for each, layout, tensor in zip(asked, layouts, tensors)]
        )
        norms = [group_norms(w, factor=1.0, groups=group) for w, group in zip(weights, groups)]
        counts = [norm.shape[0] for norm in norms]
        if len(set(counts)) > 1:
            listed = ", ".join(f"{name} with {count}" for name, count in zip(names, counts))
            raise ValueError(
                f"{type(self).__name__} over several weights ties their k-th groups, of which all "
                f"must have as many. Received: {listed} for {self!r}"
            )
        return weights, groups, tf.stack(norms)

    def _groups_of(self, names):
        if not self._is_per_weight:
            return self._groups * len(names)
        if len(self._groups) != len(names):
            raise ValueError(
                "Argument `axis` must have an entry for each weight. "
                f"Received: axis={self.axis!r} for the weights {', '.join(names)}"
            )
        return self._groups


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

    _stacks = True

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
