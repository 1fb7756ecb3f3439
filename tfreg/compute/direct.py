"""Sums, group sums and differences as their equations read: for weights of unknown shape.

Other strategies inherit from this one, and override what their device computes better.

Per-group results of a weight form a grid of the weight's rank: an axis that groups span has one
entry for each run of consecutive entries (one if it is spanned whole), every other axis keeps its
length. `runs` maps each spanned axis to the length of its runs, None where it is whole.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfreg.compute.numerics import root, root_or_zero
from tfreg.compute.tables import Table, gather
from tfreg.compute.views import (
    RunLengths,
    along,
    known_shape,
    merged_around,
    numbers_of_elements,
    padded,
    reduce_groups,
    repeat_runs,
    sliced,
    spread,
)

# Below this many elements the launch of an XLA executable costs more than it saves.
XLA_MIN_ELEMENTS = 2**18
# TensorFlow's own kernels broadcast tensors up to this rank.
_MAX_RANK = 6
# By dtype: a sum of squares holds between `least` and `largest`; beyond, entries are scaled by
# `scale`, those up to `small` upwards.
_BLUE = {
    tf.float32: {"scale": 2.0**80, "largest": 2.0**120, "least": 2.0**-60, "small": 2.0**-30},
    tf.float64: {"scale": 2.0**600, "largest": 2.0**1000, "least": 2.0**-500, "small": 2.0**-250},
}


def is_large(x: tf.Tensor) -> bool:
    """Whether XLA compiles the kernels of `x` by default."""
    return (x.shape.num_elements() or 0) >= XLA_MIN_ELEMENTS


def root_of_norm(
    x: tf.Tensor,
    axis: int | Sequence[int],
    keepdims: bool = False,
    of_roots: bool = False,
) -> tf.Tensor:
    """The square root of the Euclidean norm of `x`, or of `x^2` if `of_roots`, along `axis`.

    The dtype holds the root of a norm that is beyond it. As squares may overflow or underflow,
    Blue's algorithm sums them in one pass of `x` as it is, scaled down and scaled up, and takes
    the sum that holds.

    Reference:
        Blue, A portable Fortran program to find the Euclidean norm of a vector, 1978.
    """
    blue = _BLUE[x.dtype]
    power = 0.5 if of_roots else 1.0
    scale = blue["scale"] ** power

    def sum_of_squares(y: tf.Tensor) -> tf.Tensor:
        y = tf.square(y) if of_roots else y
        return tf.reduce_sum(tf.square(y), axis=axis, keepdims=keepdims)

    squares = sum_of_squares(x)
    scaled_down = sum_of_squares(x / scale)
    # Large entries would overflow here, and make the derivative NaN even where this is not used.
    scaled_up = sum_of_squares(tf.minimum(tf.abs(x), blue["small"] ** power) * scale)
    overflows, underflows = squares > blue["largest"], squares < blue["least"]
    held = tf.where(overflows, scaled_down, tf.where(underflows, scaled_up, squares))
    root_of_scale, one = blue["scale"] ** 0.5, tf.ones_like(held)
    factor = tf.where(overflows, root_of_scale * one, one)
    factor = tf.where(underflows, one / root_of_scale, factor)
    return factor * root_or_zero(root_or_zero(held))


def unless_single(
    root_of_norm: Callable[..., tf.Tensor], x: tf.Tensor, axis: int, of_roots: bool
) -> tf.Tensor:
    """`root_of_norm`, which XLA simplifies for a single entry to one that is NaN for infinity."""
    if x.shape[axis] != 1:
        return root_of_norm(x, axis=axis, of_roots=of_roots)
    single = tf.squeeze(x, axis)
    return tf.abs(single) if of_roots else root_or_zero(tf.abs(single))


def _root_of_norm_in_float64(x, axis, of_roots):
    squares = tf.square(tf.cast(x, tf.float64))
    sums = tf.reduce_sum(tf.square(squares) if of_roots else squares, axis=axis)
    return tf.cast(tf.sqrt(root(sums)), x.dtype)


def roots_of_norms(x: tf.Tensor, runs: RunLengths, of_roots: bool = False) -> tf.Tensor:
    """The square roots of the norms of the groups of `x`, or of `x^2`, one axis after the other."""
    whole: RunLengths = {axis: size for axis, size in runs.items() if size is None}
    if whole:
        reduce = functools.partial(root_of_norm, of_roots=of_roots)
        x, of_roots = reduce_groups(reduce, x, whole), True
    for axis, size in runs.items():
        if size is not None:
            reduce = functools.partial(root_of_norm, of_roots=of_roots)
            x, of_roots = reduce_groups(reduce, x, {axis: size}), True
    return x if of_roots else root_or_zero(tf.abs(x))


class Direct:
    """Each equation as it reads."""

    def apart(self, x: tf.Tensor) -> tf.Tensor:
        """`x` behind a fusion barrier, on devices that need one."""
        return x

    def total(self, x: tf.Tensor) -> tf.Tensor:
        """The sum of all entries."""
        return tf.reduce_sum(x)

    def difference(self, x: tf.Tensor, axis: int | None, order: int) -> tf.Tensor:
        """`D x`: each difference of `order` along `axis` once, possibly among zeros.

        An axis of None flattens `x` in row-major order.
        """
        if axis is None:
            return self.difference(tf.reshape(x, [-1]), 0, order)
        return merged_around(axis, x, functools.partial(_difference, order=order))

    def difference_transposed(
        self,
        function: Callable[[tf.Tensor], tf.Tensor],
        x: tf.Tensor,
        axis: int | None,
        order: int,
    ) -> tf.Tensor:
        """`D^T function(D x)` for an elementwise `function` that is 0 at 0."""
        if axis is None:
            flat = self.difference_transposed(function, tf.reshape(x, [-1]), 0, order)
            return tf.reshape(flat, known_shape(x))
        return merged_around(axis, x, functools.partial(self._transposed, function, order=order))

    def _transposed(self, function, x, axis, order):
        y = function(_difference(x, axis, order))
        return _transposed_difference(y, axis, order, known_shape(x)[axis])

    def step(self, x: tf.Tensor, axis: int | None) -> tf.Tensor:
        """`x_(i+1) - x_i` at each `i` along `axis`, 0 at the last."""
        if axis is None:
            return tf.reshape(self.step(tf.reshape(x, [-1]), 0), known_shape(x))
        return merged_around(axis, x, self._step)

    def _step(self, x, axis):
        return _first(padded(_difference(x, axis, 1), axis, 0, 1), axis, known_shape(x)[axis])

    def step_transposed(self, y: tf.Tensor, axis: int | None) -> tf.Tensor:
        """The transpose of `step`, applied to `y`."""
        if axis is None:
            return tf.reshape(self.step_transposed(tf.reshape(y, [-1]), 0), known_shape(y))
        return merged_around(axis, y, self._step_transposed)

    def _step_transposed(self, y, axis):
        return _transposed_difference(sliced(y, axis, 0, -1), axis, 1, known_shape(y)[axis])

    # For groups of at least so many elements, writing a norm and reading it costs less than
    # computing it again.
    kept_min_size = 16
    # The same, for norms that take a gather.
    kept_min_size_of_lists = 4

    def grid_shape(self, w: tf.Tensor, runs: RunLengths) -> list[Any]:
        """The shape of a grid of the groups of `w`."""
        shape = known_shape(w)
        for axis, size in runs.items():
            shape[axis] = 1 if size is None else -(-shape[axis] // size)
        return shape

    def sizes(self, w: tf.Tensor, runs: RunLengths) -> tf.Tensor:
        """The grid of the groups' numbers of elements, of length 1 where all are equal."""
        # The product as one constant would be stored in the compiled program.
        factors = numbers_of_elements(known_shape(w), runs)
        return functools.reduce(tf.multiply, [tf.cast(factor, w.dtype) for factor in factors])

    def roots_of_norms(self, w: tf.Tensor, runs: RunLengths) -> tf.Tensor:
        """The grid of the square roots of the groups' Euclidean norms.

        Unlike 1 / norm, 1 / sqrt(norm) cannot overflow the dtype.
        """
        # float64 holds the square of every float32 number.
        if w.dtype == tf.float32:
            return tf.cast(tf.sqrt(root(self._sums_of_squares(w, runs))), w.dtype)
        return roots_of_norms(w, runs)

    gather = staticmethod(gather)

    def roots_of_lists(self, x: tf.Tensor, table: Table, of_roots: bool) -> tf.Tensor:
        """The square roots of the norms of the `table`'s lists along the middle axis of `x`.

        With `of_roots` the entries of `x` are square roots of what the norms are of.
        """
        norms = _root_of_norm_in_float64 if x.dtype == tf.float32 else root_of_norm
        reduce = functools.partial(unless_single, norms, of_roots=of_roots)
        return table.reduced(x, reduce, self.gather)

    def picked(
        self, grid: tf.Tensor, table: Table, length: int | tf.Tensor, fill: float
    ) -> tf.Tensor:
        """For each of `length` entries that of its list, as `Table.picked` does it."""
        return table.picked(grid, length, fill, self.gather)

    def _sums_of_squares(self, w, runs):
        return self._sums(tf.square(tf.cast(w, tf.float64)), runs)

    def _sums(self, x, runs):
        """The grid of the sums of the groups of `x`."""
        return reduce_groups(tf.reduce_sum, x, runs)

    def reciprocals(self, grid: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        """`1 / grid`, and 0 for 0, as factors of groups of `w`."""
        return tf.math.divide_no_nan(1.0, grid)

    def spread(self, grid: tf.Tensor, w: tf.Tensor, runs: RunLengths) -> tf.Tensor:
        """Repeats each entry of the `grid` over its group of `w`.

        Axes of length 1 are left to broadcasting.
        """
        return spread(grid, known_shape(w), runs)

    def scale(self, grid: tf.Tensor, w: tf.Tensor, runs: RunLengths) -> tf.Tensor:
        """Multiplies each group of `w` by its entry of the `grid`."""
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

    def scaled_twice(
        self, grid: tf.Tensor, w: tf.Tensor, runs: RunLengths, by: tf.Tensor | float
    ) -> tf.Tensor:
        """`by * grid^2 * w`, even where the squares are beyond float32."""
        if w.dtype == tf.float32 and not is_large(w):
            squares = tf.cast(by, tf.float64) * tf.square(tf.cast(grid, tf.float64))
            return tf.cast(self.scale(squares, tf.cast(w, tf.float64), runs), w.dtype)
        return self.scale(by * grid, self.scale(grid, w, runs), runs)

    def multiplied_twice(
        self, x: tf.Tensor, factors: tf.Tensor, by: tf.Tensor | float = 1.0
    ) -> tf.Tensor:
        """`by * factors^2 * x`, even where the squares are beyond float32; 0 for a factor of 0."""
        # What has no factor must not reach a derivative either, even if it is not finite.
        x = tf.where(tf.equal(factors, 0.0), tf.zeros_like(x), x)
        if x.dtype == tf.float32 and not is_large(x):
            # Outside XLA, TensorFlow multiplies small tensors first, whatever the parentheses say.
            squares = tf.cast(by, tf.float64) * tf.square(tf.cast(factors, tf.float64))
            return tf.cast(squares * tf.cast(x, tf.float64), x.dtype)
        return (by * factors) * (factors * x)

    def total_of_groups(self, grid: tf.Tensor, w: tf.Tensor, runs: RunLengths) -> tf.Tensor:
        """The sum of the entries of a `grid`, each group's once."""
        return self.total(grid)

    def one_entry_a_group(self, grid: tf.Tensor, w: tf.Tensor, runs: RunLengths) -> tf.Tensor:
        """The `grid` with one entry for each group, in the order of the weight."""
        return grid

    def grid_of(self, entries: tf.Tensor, w: tf.Tensor, runs: RunLengths) -> tf.Tensor:
        """The inverse of `one_entry_a_group`."""
        return entries


def _difference(x, axis, order):
    for _ in range(order):
        x = sliced(x, axis, 1, None) - sliced(x, axis, 0, -1)
    return x


def _transposed_difference(y, axis, order, length):
    """`D^T y`, of that `length` along `axis`."""
    for _ in range(order):
        y = padded(y, axis, 1, 0) - padded(y, axis, 0, 1)
    return _first(y, axis, length)


def _first(x, axis, length):
    # The padding leaves more than `length` only on an axis too short for a difference.
    return x if x.shape[axis] == length else sliced(x, axis, 0, length)


def _divides(size, length):
    return isinstance(length, int) and length % size == 0
