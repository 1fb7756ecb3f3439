"""Grouped: what penalties of the norms of groups share."""

import tensorflow as tf

from tfreg.checks import check_bool, is_int
from tfreg.compute.kernels import compiled, kernel
from tfreg.compute.numerics import with_common_dtype
from tfreg.groups import Groups
from tfreg.penalties.base import Penalty
from tfreg.runs import Runs


def group_weights(w, groups, size_weighted):
    """The weight of each group's norm; Yuan and Lin's is the root of its number of elements."""
    return tf.sqrt(groups.sizes(w)) if size_weighted else tf.ones([1] * w.shape.rank, w.dtype)


def roots_of_norms(w, groups, **_):
    return groups.roots_to_keep(w)


@kernel(keeps=roots_of_norms)
def group_norms(w, kept, groups):
    """`||w_g||_2` of each group, as a vector"""
    return groups.listed(groups.norm(w, roots=kept), w)


@group_norms.pullback
def _(w, upstream, kept, groups):
    """`upstream_g w_g / ||w_g||_2`"""
    return groups.scale(groups.grid_of(upstream, w), groups.direction(w, roots=kept))


# In a stack of one vector per weight of a joint penalty, those that the same groups are part of.
ACROSS_WEIGHTS = Runs(((0, None),))


def weights_across(weights, groups):
    """The root of the number of elements of each tied group."""
    return tf.sqrt(tf.add_n([group.listed_sizes(w) for w, group in zip(weights, groups)]))


@compiled
def shrunk_groups(w, shrinkage, groups):
    """`shrinkage_g w_g`"""
    return groups.scale(groups.grid_of(shrinkage, w), w)


class Grouped(Penalty):
    """A penalty of the norms of the groups that `axis` and `group_size` cut a weight into."""

    def __init__(self, factor, axis, group_size, size_weighted):
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
        self._groups[0].resolve(layout, weight_name)

    def _parameters(self, layout):
        return {"groups": self._groups[0].resolve(layout), "size_weighted": self.size_weighted}

    def _tied(self, tensors, layouts, names):
        """The `tensors` split and in one dtype, the groups of each, and a row of norms for each.

        Raises a ValueError if they do not have the same number of groups.
        """
        asked = self._groups_of(names)
        groups = [each.resolve(layout, name) for each, layout, name in zip(asked, layouts, names)]
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


def scaled_together(shrinkage, tensors, layouts, weights, groups):
    """The `tensors` with their tied groups multiplied by the entries of `shrinkage`."""
    return [
        layout.merge(shrunk_groups(w, shrinkage=shrinkage, groups=group), tensor)
        for layout, tensor, w, group in zip(layouts, tensors, weights, groups)
    ]
