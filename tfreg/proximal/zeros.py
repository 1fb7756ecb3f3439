"""Which elements of weights belong to a group that is zero."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfreg import backend
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


def count_zeros(
    penalty: Penalty | Joint,
    tensors: Sequence[tf.Tensor],
    layouts: Sequence[Layout | None],
) -> tuple[tf.Tensor, int]:
    """How many groups of the `penalty` are 0, and of how many. Without groups, each element is one.

    Elements in no group do not count.
    """
    marker = _marker(penalty, is_weighted=False)
    if marker is None:
        total = sum(tensor.shape.num_elements() for tensor in tensors)
        return total - tf.add_n(list(map(tf.math.count_nonzero, tensors))), total
    shapes = [tensor.shape for tensor in tensors]
    total = backend.in_a_fresh_thread(  # eagerly, with a gradient tape
        lambda: int(_count_nonzero(marker, list(map(tf.ones, shapes)), layouts))
    )
    marks = [tf.cast(tf.not_equal(tensor, 0), tf.float32) for tensor in tensors]
    return total - _count_nonzero(marker, marks, layouts), total


def _count_nonzero(
    marker: Any, marks: Sequence[tf.Tensor], layouts: Sequence[Layout | None]
) -> tf.Tensor:
    """How many groups of the group lasso `marker` are not 0."""
    with tf.GradientTape() as tape:
        tape.watch(marks)
        if isinstance(marker, Joint):
            value = marker.value_on(marks, layouts)
        else:
            value = tf.add_n([marker.value_on(*each) for each in zip(marks, layouts)])
    # The gradient at a group is its direction, of length 1, and 0 at a zero group.
    directions = tape.gradient(value, marks)
    squares = [tf.reduce_sum(tf.square(tf.cast(each, tf.float64))) for each in directions]
    return tf.cast(tf.round(tf.add_n(squares)), tf.int64)


def _marker(penalty: Any, is_weighted: bool = True) -> Any:
    """The group lasso with the groups of the `penalty`, or None if it has none.

    The weight of a group is the square root of its number of elements or, not `is_weighted`, 1.
    """
    inner = penalty.penalty if isinstance(penalty, Joint) else penalty
    if not isinstance(inner, Grouped):
        return None
    if isinstance(penalty, Coupled):
        return Coupled(GroupLasso(1.0, size_weighted=is_weighted), penalty.slices)
    lasso = GroupLasso(1.0, inner.axis, inner.group_size, is_weighted, inner.groups)
    return Joint(lasso) if isinstance(penalty, Joint) else lasso


def masked(gradient: Any, is_alive: tf.Tensor) -> Any:
    """`gradient` with 0 for what is not alive; a sparse one stays sparse.

    The mask `is_alive` broadcasts to the gradient.
    """
    if isinstance(gradient, tf.IndexedSlices):
        kept = is_alive if is_alive.shape[0] == 1 else tf.gather(is_alive, gradient.indices)
        values = tf.where(kept, gradient.values, tf.zeros_like(gradient.values))
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return tf.where(is_alive, gradient, tf.zeros_like(gradient))
