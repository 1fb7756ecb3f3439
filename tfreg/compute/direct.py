"""Sums, group sums and differences as their equations read: for weights of unknown shape.

The other strategies inherit from this one, and say what their device computes better.

Per-group results of a weight form a grid of the weight's rank: an axis that groups span has one
entry for each run of consecutive entries (one if it is spanned whole), every other axis keeps its
length. `runs` gives the length of the runs by spanned axis, None where it is whole.
"""

import functools

import tensorflow as tf

from tfreg.compute.numerics import root, root_or_zero
from tfreg.compute.views import (
    along,
    known_shape,
    merged_around,
    numbers_of_elements,
    reduce_groups,
    repeat_runs,
    spread,
)

# Below this many elements the launch of an XLA executable costs more than it saves.
XLA_MIN_ELEMENTS = 2**18
# TensorFlow's own kernels broadcast tensors up to this rank.
_MAX_RANK = 6
# Where squares overflow or underflow a dtype, and what keeps them from it.
_BLUE = {
    tf.float32: {"scale": 2.0**80, "largest": 2.0**120, "least": 2.0**-60, "small": 2.0**-30},
    tf.float64: {"scale": 2.0**600, "largest": 2.0**1000, "least": 2.0**-500, "small": 2.0**-250},
}


def is_large(x):
    """Whether kernels of `x` are compiled by XLA."""
    return (x.shape.num_elements() or 0) >= XLA_MIN_ELEMENTS


def root_of_norm(x, axis, keepdims=False, of_roots=False):
    """The square root of the Euclidean norm of `x`, or of `x^2`, along `axis`.

    Squares may overflow or underflow the dtype. Blue's algorithm: three sums of squares, of `x` as
    it is, scaled down and scaled up, in one pass, of which one holds.

    Reference:
        Blue, A portable Fortran program to find the Euclidean norm of a vector, 1978.
    """
    blue = _BLUE[x.dtype]
    # The dtype holds the root of a norm that is beyond it.
    power = 0.5 if of_roots else 1.0
    scale = blue["scale"] ** power

    def sum_of_squares(y):
        y = tf.square(y) if of_roots else y
        return tf.reduce_sum(tf.square(y), axis=axis, keepdims=keepdims)

    squares = sum_of_squares(x)
    scaled_down = sum_of_squares(x / scale)
    # What is not small would overflow, and make the derivative of what is not used NaN.
    scaled_up = sum_of_squares(tf.minimum(tf.abs(x), blue["small"] ** power) * scale)
    overflows, underflows = squares > blue["largest"], squares < blue["least"]
    held = tf.where(overflows, scaled_down, tf.where(underflows, scaled_up, squares))
    root_of_scale, one = blue["scale"] ** 0.5, tf.ones_like(held)
    factor = tf.where(overflows, root_of_scale * one, one)
    factor = tf.where(underflows, one / root_of_scale, factor)
    return factor * root_or_zero(root_or_zero(held))


def roots_of_norms(x, runs, of_roots=False):
    """The square roots of the norms of the groups of `x`, or of `x^2`, one axis after the other."""
    whole = {axis: size for axis, size in runs.items() if size is None}
    if whole:
        reduce = functools.partial(root_of_norm, of_roots=of_roots)
        x, of_roots = reduce_groups(reduce, x, whole), True
    for axis, size in runs.items():
        if size is not None:
            reduce = functools.partial(root_of_norm, of_roots=of_roots)
            x, of_roots = reduce_groups(reduce, x, {axis: size}), True
    return x if of_roots else root_or_zero(tf.abs(x))


def place(x, axis):
    """The index along `axis`, to be broadcast against `x`."""
    return tf.reshape(tf.range(known_shape(x)[axis]), [-1] + [1] * (x.shape.rank - 1 - axis))


def sliced(x, axis, begin, end):
    return x[(slice(None),) * axis + (slice(begin, end),)]


def padded(x, axis, before, after):
    paddings = [[0, 0]] * x.shape.rank
    paddings[axis] = [before, after]
    return tf.pad(x, paddings)


class Direct:
    """Each equation as it reads."""

    # Sums
    def apart(self, x):
        """`x`, which the compiler must not fuse with what it is also used in."""
        return x

    def total(self, x):
        """The sum of all entries."""
        return tf.reduce_sum(x)

    # Neighbours
    def difference(self, x, axis, order):
        """`D x`: the differences of `order` along `axis`, each once, and perhaps zeros.

        The axis None is that of `x` flattened in row-major order.
        """
        if axis is None:
            return self.difference(tf.reshape(x, [-1]), 0, order)
        return merged_around(axis, x, functools.partial(_difference, order=order))

    def difference_transposed(self, function, x, axis, order):
        """`D^T function(D x)` for an elementwise `function` that is 0 at 0."""
        if axis is None:
            flat = self.difference_transposed(function, tf.reshape(x, [-1]), 0, order)
            return tf.reshape(flat, known_shape(x))
        return merged_around(axis, x, functools.partial(self._transposed, function, order=order))

    def _transposed(self, function, x, axis, order):
        y = function(_difference(x, axis, order))
        return _transposed_difference(y, axis, order, known_shape(x)[axis])

    def step(self, x, axis):
        """`x_(i+1) - x_i` at each `i` along `axis`, 0 at the last."""
        if axis is None:
            return tf.reshape(self.step(tf.reshape(x, [-1]), 0), known_shape(x))
        return merged_around(axis, x, self._step)

    def _step(self, x, axis):
        return _first(padded(_difference(x, axis, 1), axis, 0, 1), axis, known_shape(x)[axis])

    def step_transposed(self, y, axis):
        """The transpose of `step`, applied to `y`."""
        if axis is None:
            return tf.reshape(self.step_transposed(tf.reshape(y, [-1]), 0), known_shape(y))
        return merged_around(axis, y, self._step_transposed)

    def _step_transposed(self, y, axis):
        return _transposed_difference(sliced(y, axis, 0, -1), axis, 1, known_shape(y)[axis])

    # Groups
    # To write a norm and read it again takes less than to compute it again from so many weights.
    kept_min_size = 16

    def grid_shape(self, w, runs):
        """The shape of a grid of the groups of `w`."""
        shape = known_shape(w)
        for axis, size in runs.items():
            shape[axis] = 1 if size is None else -(-shape[axis] // size)
        return shape

    def sizes(self, w, runs):
        """The grid of the groups' numbers of elements, of length 1 where all are alike."""
        # A constant of the grid's shape would stand in the compiled program.
        factors = numbers_of_elements(known_shape(w), runs)
        return functools.reduce(tf.multiply, [tf.cast(factor, w.dtype) for factor in factors])

    def roots_of_norms(self, w, runs):
        """The grid of the square roots of the groups' Euclidean norms.

        Unlike 1 / norm, 1 / sqrt(norm) cannot overflow the dtype.
        """
        # No square of a float32 number is too large or too small for float64.
        if w.dtype == tf.float32:
            return tf.cast(tf.sqrt(root(self._sums_of_squares(w, runs))), w.dtype)
        return roots_of_norms(w, runs)

    def _sums_of_squares(self, w, runs):
        return self._sums(tf.square(tf.cast(w, tf.float64)), runs)

    def _sums(self, x, runs):
        """The grid of the sums of the groups of `x`."""
        return reduce_groups(tf.reduce_sum, x, runs)

    def reciprocals(self, grid, w):
        """`1 / grid`, and 0 for 0, as factors of groups of `w`."""
        return tf.math.divide_no_nan(1.0, grid)

    def spread(self, grid, w, runs):
        """The `grid` of the groups of `w` with each entry repeated over its group.

        An axis of length 1 stays so, to be broadcast.
        """
        return spread(grid, known_shape(w), runs)

    def scale(self, grid, w, runs):
        """`w` with each group multiplied by its entry of the `grid`."""
        shape = known_shape(w)
        view: list = []
        grid_view: list = []
        for axis, length in enumerate(shape):
            size = None if grid.shape[axis] == 1 else runs.get(axis)
            if size and _divides(size, length) and w.shape.rank + len(view) - axis < _MAX_RANK:
                view += [length // size, size]
                grid_view += [length // size, 1]
            else:
                if size:
                    grid = along(axis, grid, functools.partial(repeat_runs, size, length))
                view.append(length)
                grid_view.append(known_shape(grid)[axis])
        if len(view) == len(shape):
            return grid * w
        return tf.reshape(tf.reshape(grid, grid_view) * tf.reshape(w, view), shape)

    def scaled_twice(self, grid, w, runs, by):
        """`by grid^2 w`, though no square of an entry of `grid` is in the range of float32."""
        if w.dtype == tf.float32 and not is_large(w):
            # Outside XLA, TensorFlow multiplies small tensors first, whatever the brackets say.
            squares = tf.cast(by, tf.float64) * tf.square(tf.cast(grid, tf.float64))
            return tf.cast(self.scale(squares, tf.cast(w, tf.float64), runs), w.dtype)
        return self.scale(by * grid, self.scale(grid, w, runs), runs)

    def total_of_groups(self, grid, w, runs):
        """The sum of the entries of a `grid`, each group's once."""
        return self.total(grid)

    def one_entry_a_group(self, grid, w, runs):
        """A `grid` in which each group has one entry, where it stands in the weight."""
        return grid

    def grid_of(self, entries, w, runs):
        """The inverse of `one_entry_a_group`."""
        return entries


def _difference(x, axis, order):
    for _ in range(order):
        x = sliced(x, axis, 1, None) - sliced(x, axis, 0, -1)
    return x


def _transposed_difference(y, axis, order, length):
    """`D^T y`, of that `length` along the axis."""
    for _ in range(order):
        y = padded(y, axis, 1, 0) - padded(y, axis, 0, 1)
    return _first(y, axis, length)


def _first(x, axis, length):
    # Only on an axis too short for a difference does the padding leave more than that.
    return x if x.shape[axis] == length else sliced(x, axis, 0, length)


def _divides(size, length):
    return isinstance(length, int) and length % size == 0
