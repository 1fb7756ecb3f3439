"""What XLA computes better on a CPU, where it cannot yield a sum and a tensor from one fusion."""

import functools

import tensorflow as tf

from tfreg.compute.direct import Direct, is_large
from tfreg.compute.numerics import reciprocal_or_zero, root
from tfreg.compute.tables import gather
from tfreg.compute.views import along, known_shape, padded, place, reduce_groups, sliced

_ROW = 4096
# Before it sums more terms than these, XLA:CPU writes them to memory.
FEW_TERMS = 32
# XLA:CPU does not vectorize reductions of more than 8 terms, unless each is as cheap as a square;
# down a column of squares, 32 rows do not fit the fastest cache.
_RUN, _RUN_OF_SQUARES = 8, 16
_MAX_INDEX = 2**31 - 1
# Enough columns for a processor's vectors.
_MIN_COLUMNS = 64


def fusion_barrier(x: tf.Tensor) -> tf.Tensor:
    """Fusion barrier: a no-op clamp.

    Without it, XLA merges sums of sums into one running sum, off by 8e-5 over 16 million elements.
    """
    # XLA would remove a maximum with minus infinity. This one needs the `where`, which keeps minus
    # infinity and NaN.
    lowest = x.dtype.min
    return tf.where(x >= lowest, tf.maximum(x, lowest), x)


def sum_of_partials(x: tf.Tensor) -> tf.Tensor:
    """The sum of partial sums `x`, which XLA must not merge into one running sum."""
    if x.shape.is_fully_defined() and x.shape.num_elements() <= _ROW:
        return tf.reduce_sum(x)
    if x.shape.rank > 1 and (x.shape[-1] or 0) <= _ROW:
        row_sums = fusion_barrier(tf.reduce_sum(x, axis=-1))
        return sum_of_partials(tf.reshape(row_sums, [-1]))
    x = tf.reshape(x, [-1])
    size = x.shape[0] or 0
    if size <= _ROW:
        return tf.reduce_sum(x)
    end = size - size % _ROW
    return sum_of_partials(tf.reshape(x[:end], [-1, _ROW])) + tf.reduce_sum(x[end:])


def sums_of_squares(x: tf.Tensor) -> tf.Tensor:
    """Sums of squares in float64 along the middle axis of `x`, kept with length 1."""
    before, length, after = x.shape
    run = FEW_TERMS if after == 1 else _RUN_OF_SQUARES
    if not is_large(x) or length < 2 * run:
        return tf.reduce_sum(_float64_squares(x), axis=1, keepdims=True)
    end = length // run * run
    runs = tf.reshape(x[:, :end], [before, end // run, run, after])
    roots = root(tf.reduce_mean(_float64_squares(runs), axis=2))
    # In memory, roots take half the space of float64 sums; none exceeds the largest entry.
    roots = fusion_barrier(tf.cast(roots, x.dtype))
    result = tf.reduce_sum(_float64_squares(roots), axis=1, keepdims=True)
    if after > 1:
        # The maximum changes nothing: no sum of squares is less than its first term. A second
        # consumer stops XLA from fusing `roots` into a strided loop.
        result = tf.maximum(result, _float64_squares(roots[:, :1]))
    result = float(run) * result
    return result if end == length else result + sums_of_squares(x[:, end:])


def _float64_squares(x):
    return tf.square(tf.cast(x, tf.float64))


def _sums_of_squares_per_run(size, x):
    """Sums of squares of the runs of `size` entries along the middle axis of `x`."""
    before, length, after = x.shape
    end = length - length % size
    runs = tf.reshape(x[:, :end], [before * (end // size), size, after])
    sums = tf.reshape(sums_of_squares(runs), [before, end // size, after])
    if end == length:
        return sums
    return tf.concat([sums, sums_of_squares(x[:, end:])], axis=1)


def _flat_gather(x, indices):
    """`gather` from one long axis: along another, XLA would write what it gathers transposed."""
    before, length, after = known_shape(x)
    if before == 1 or before * length > _MAX_INDEX:
        return gather(x, indices)
    rows = tf.reshape(tf.range(before) * length, [before] + [1] * indices.ndim)
    return tf.gather(tf.reshape(x, [before * length, after]), rows + indices)


class XlaOnCpu(Direct):
    """Sums in short runs behind fusion barriers; small weights mostly as the equations read."""

    apart = staticmethod(fusion_barrier)

    def total(self, x):
        """Sums runs, and then their sums: nearly as accurate as pairwise summation."""
        if not is_large(x):
            return sum_of_partials(x)
        x = tf.reshape(x, [-1, x.shape[-1]])
        rows, columns = x.shape
        if rows < _RUN or columns < _MIN_COLUMNS:
            x = tf.reshape(x, [-1])
            end = x.shape[0] // _ROW * _ROW
            return self.total(tf.reshape(x[:end], [-1, _ROW])) + tf.reduce_sum(x[end:])
        end = rows // _RUN * _RUN
        run_sums = tf.reduce_sum(tf.reshape(x[:end], [-1, _RUN, columns]), axis=1)
        result = sum_of_partials(fusion_barrier(run_sums))
        return result if end == rows else result + sum_of_partials(x[end:])

    def _transposed(self, function, x, axis, order):
        if order == 1 and is_large(x):
            return _masked_transposed(function, x, axis)
        return super()._transposed(function, x, axis, order)

    def _sums_of_squares(self, w, runs):
        if not is_large(w):
            return super()._sums_of_squares(w, runs)
        x, runs_of_x = _pooled(w, runs)
        lengths = {axis: size or x.shape[axis] for axis, size in runs_of_x.items()}
        longest = max(lengths, key=lambda axis: lengths[axis])
        if None in runs_of_x.values() or lengths[longest] > FEW_TERMS:
            # The longest first: the sums that it leaves are written to memory.
            size = lengths[longest]
            squares = along(longest, x, functools.partial(_sums_of_squares_per_run, size))
            del runs_of_x[longest]
        else:
            squares = _float64_squares(x)
        sums = reduce_groups(tf.reduce_sum, squares, runs_of_x)
        return tf.reshape(sums, self.grid_shape(w, runs))

    gather = staticmethod(_flat_gather)

    def roots_of_lists(self, x, table, of_roots):
        roots = super().roots_of_lists(x, table, of_roots)
        before, lists, after = known_shape(roots)
        # XLA fuses no roots into a broadcast. Into other operations it does, and computes the norm
        # of a list again for each use.
        twice = tf.broadcast_to(roots[:, tf.newaxis], [before, 2, lists, after])
        return tf.reshape(twice, [before, 2 * lists, after])[:, :lists]

    def reciprocals(self, grid, w):
        if not is_large(w):
            return super().reciprocals(grid, w)
        is_zero = tf.equal(grid, 0.0)
        return reciprocal_or_zero(tf.where(is_zero, tf.ones_like(grid), grid), is_zero)

    def total_of_groups(self, grid, w, runs):
        return sum_of_partials(grid)


def _masked_transposed(function, x, axis):
    """`function(x_i - x_(i-1)) - function(x_(i+1) - x_i)`, in one pass."""
    zero, index, last = tf.zeros_like(x), place(x, axis), known_shape(x)[axis] - 1
    previous = padded(sliced(x, axis, 0, -1), axis, 1, 0)
    following = padded(sliced(x, axis, 1, None), axis, 0, 1)
    from_previous = tf.where(index > 0, function(x - previous), zero)
    return from_previous - tf.where(index < last, function(following - x), zero)


def _pooled(w, runs):
    """Merges neighbouring axes of `w` that are cut alike; returns the result and its runs."""
    lengths: list[int] = []
    sizes: list[int | None] = []
    for axis, length in enumerate(known_shape(w)):
        size = runs.get(axis, 1)
        if size in (None, 1) and sizes[-1:] == [size]:
            lengths[-1] *= length
        else:
            lengths.append(length)
            sizes.append(size)
    spanned = {axis: size for axis, size in enumerate(sizes) if size != 1}
    return tf.reshape(w, lengths), spanned
