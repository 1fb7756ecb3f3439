"""What XLA computes better on a GPU, where a sum and a tensor come from one fusion."""

import tensorflow as tf

from tfreg.compute.direct import Direct
from tfreg.compute.views import known_shape, place

# TensorFlow's own kernels pad and select tensors up to this rank.
_MAX_RANK = 5


class Gpu(Direct):
    """Differences keep the weight's shape; groups take one reshape and one sum."""

    kept_min_size = 4

    def difference(self, x, axis, order):
        if not self._is_in_one_pass(x, axis, order):
            return super().difference(x, axis, order)
        return self._masked_difference(x, axis)

    def _masked_difference(self, x, axis):
        previous, has_previous = self._neighbour(x, axis, 1)
        return tf.where(has_previous, x - previous, tf.zeros([], x.dtype))

    def difference_transposed(self, function, x, axis, order):
        if not self._is_in_one_pass(x, axis, order):
            return super().difference_transposed(function, x, axis, order)
        return self._masked_transposed(function, x, axis)

    def _masked_transposed(self, function, x, axis):
        zero = tf.zeros([], x.dtype)
        following, has_following = self._neighbour(x, axis, -1)
        to_next = function(tf.where(has_following, following - x, zero))
        return function(self._masked_difference(x, axis)) - to_next

    def _is_in_one_pass(self, x, axis, order):
        """Whether differences are computed as the equations for each entry read."""
        return axis is not None and order == 1 and x.shape.rank <= _MAX_RANK

    def _neighbour(self, x, axis, by):
        """The entries before (`by=1`) or behind (`by=-1`) those of `x`, and which exist."""
        is_inside = tf.not_equal(place(x, axis), 0 if by > 0 else x.shape[axis] - 1)
        return moved(x, axis, by), is_inside

    def total_of_groups(self, grid, w, runs):
        cut = [axis for axis, size in runs.items() if size is not None]
        is_padded = any(w.shape[axis] % runs[axis] for axis in cut)
        if len(cut) < 2 or not is_padded:
            return self.total(grid)
        # In a single sum, XLA would fuse the padded blocks and sum each in one thread.
        first, others = tf.split(grid, [1, grid.shape[cut[0]] - 1], axis=cut[0])
        return self.total(first) + self.total(others)

    def _sums(self, x, runs):
        if x.shape.rank > _MAX_RANK:
            return super()._sums(x, runs)
        shape: list[int] = []
        spanned = []
        paddings = []
        for axis, length in enumerate(x.shape):
            size = runs.get(axis, length) or length
            paddings.append([0, -length % max(size, 1)])
            if axis in runs and size != length:
                shape.append(-(-length // size))
            if axis in runs:
                spanned.append(len(shape))
            shape.append(size)
        if any(padding != [0, 0] for padding in paddings):
            x = tf.pad(x, paddings)
        sums = tf.reduce_sum(tf.reshape(x, shape), axis=spanned)
        return tf.reshape(sums, self.grid_shape(x, runs))


def moved(x: tf.Tensor, axis: int, by: int) -> tf.Tensor:
    """Moves `x` along `axis` by so many entries, and fills with zeros.

    XLA fuses a slice of a pad; it writes a pad of a slice to memory.
    """
    paddings, begin = [[0, 0]] * x.shape.rank, [0] * x.shape.rank
    paddings[axis] = [by, 0] if by > 0 else [0, -by]
    begin[axis] = max(-by, 0)
    return tf.slice(tf.pad(x, paddings), begin, known_shape(x))
