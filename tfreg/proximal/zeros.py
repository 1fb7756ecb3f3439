"""Which elements of weights belong to a group that is zero."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfreg.layout import Layout
from tfreg.penalties import GroupLasso, Joint, Penalty
from tfreg.penalties.coupled import Coupled
from tfreg.penalties.grouped import Grouped

# Above the threshold of any group: the square root of its number of elements, times 1.5.
_LARGE = 1e6
_STEP_SIZE = 1.5


def are_alive(
    penalty: Penalty | Joint,
    tensors: Sequence[tf.Tensor],
    layouts: Sequence[Layout | None],
) -> list[tf.Tensor]:
    """Whether each element is nonzero or shares a group of the `penalty` with one that is.

    Elements in no group are alive. Without groups, each element is one.
    """
    marker = _marker(penalty)
    is_nonzero = [tf.not_equal(tensor, 0) for tensor in tensors]
    if marker is None:
        return is_nonzero
    # The proximal operator of a group lasso makes a group of ones zero, unless one is large.
    marks = [1.0 + _LARGE * tf.cast(each, tf.float32) for each in is_nonzero]
    if isinstance(marker, Joint):
        left = marker.prox_on(marks, layouts, _STEP_SIZE)
    else:
        left = [marker.prox_on(each, layout, _STEP_SIZE) for each, layout in zip(marks, layouts)]
    return [tf.greater(each, 0.0) for each in left]


def _marker(penalty: Any) -> Any:
    """The group lasso with the groups of the `penalty`, or None if it has none."""
    inner = penalty.penalty if isinstance(penalty, Joint) else penalty
    if not isinstance(inner, Grouped):
        return None
    if isinstance(penalty, Coupled):
        return Coupled(GroupLasso(1.0), penalty.slices)
    lasso = GroupLasso(1.0, inner.axis, inner.group_size, groups=inner.groups)
    return Joint(lasso) if isinstance(penalty, Joint) else lasso


def masked(gradient: Any, is_alive: tf.Tensor) -> Any:
    """`gradient` with 0 for what is not alive; a sparse one stays sparse."""
    if isinstance(gradient, tf.IndexedSlices):
        kept = tf.gather(is_alive, gradient.indices)
        values = tf.where(kept, gradient.values, tf.zeros_like(gradient.values))
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return tf.where(is_alive, gradient, tf.zeros_like(gradient))
