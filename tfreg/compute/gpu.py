"""What XLA computes better on a GPU, where a sum and a tensor come from one fusion."""

import tensorflow as tf

from tfreg.compute.direct import Direct
from tfreg.compute.views import known_shape


class Gpu(Direct):
    """Differences in one pass. Reshapes are free, and so are squares in float64."""

    def previous(self, x, axis):
        # A pad and then a slice stays in a fusion; a slice and then a pad is written to memory.
        return moved(x, axis, 1)

    def following(self, x, axis):
        return moved(x, axis, -1)

    def _transposed(self, function, x, axis, order):
        if order == 1:
            return self._masked_transposed(function, x, axis)
        return super()._transposed(function, x, axis, order)


def moved(x, axis, by):
    """`x` moved along `axis` by so many entries, with zeros in their place."""
    paddings, begin = [[0, 0]] * x.shape.rank, [0] * x.shape.rank
    paddings[axis] = [by, 0] if by > 0 else [0, -by]
    begin[axis] = max(-by, 0)
    return tf.slice(tf.pad(x, paddings), begin, known_shape(x))
