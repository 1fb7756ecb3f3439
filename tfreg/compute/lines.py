"""The proximal operator of the total variation of lines, all lines at once."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfreg.compute.views import known_shape

# Of longer lines the equations would be too many.
_MAX_UNROLLED = 8
# What an infinite strength counts as beside infinite entries: in a float32 it is infinite too.
_LARGEST_STRENGTH = {tf.float32: 1e40, tf.float64: 1e270}
# Beyond this, sums of entries might overflow.
_LARGEST_SUMMED, _SCALE = 1e270, 2.0**-64


def needs_loops(length: int | None) -> bool:
    """Whether `smoothed` goes through the entries of columns of that `length` in loops."""
    return length is None or length > _MAX_UNROLLED


def smoothed(y: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """`argmin_x 1/2 ||x - y||^2 + strength ||D x||_1` for each column of the matrix `y`.

    Equal neighbours are equal to the last bit. NaN reaches its own column. An infinite entry stays,
    and pulls its neighbours as any that is far away.
    """
    if y.shape[0] in (0, 1) or y.shape[1] == 0:
        return y
    if y.shape.is_fully_defined():
        return _smoothed(y, strength)
    return tf.cond(tf.equal(tf.size(y), 0), lambda: y, lambda: _smoothed(y, strength))


def _smoothed(y: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    wide, t = tf.cast(y, tf.float64), tf.cast(strength, tf.float64)
    is_infinite = tf.math.is_inf(wide)
    wide = tf.where(tf.math.is_finite(wide), wide, tf.zeros_like(wide))
    largest = tf.reduce_max(tf.abs(wide), axis=0)
    scale = tf.ones_like(largest)
    if y.dtype == tf.float64:
        scale = tf.where(largest > _LARGEST_SUMMED, _SCALE * scale, scale)
    wide, largest = wide * scale, largest * scale
    # From some strength on a column is constant. It may be less than a rounding of the given one.
    constant_from = 2.0 * tf.cast(known_shape(y)[0], tf.float64) * largest
    has_infinite = tf.reduce_any(is_infinite, axis=0)
    strongest = tf.constant(_LARGEST_STRENGTH[y.dtype], tf.float64)
    limit = tf.where(has_infinite, strongest, constant_from)
    strengths = tf.minimum(t * scale, limit)
    far = tf.sign(tf.cast(y, tf.float64)) * (4.0 * (largest + strengths))
    wide = tf.where(is_infinite, far, wide)
    solve = _of_long if needs_loops(y.shape[0]) else _of_short
    x = tf.cast(solve(wide, strengths) / scale, y.dtype)
    x = tf.where(tf.equal(t, 0.0) | is_infinite, y, x)
    # NaN, if it is in the column.
    return x + tf.reduce_sum(tf.where(tf.math.is_nan(y), y, tf.zeros_like(y)), axis=0)


def _of_short(y: tf.Tensor, strengths: tf.Tensor) -> tf.Tensor:
    """By dynamic programming: entry k is the next one, clipped to an interval.

    The ends of the interval are where the derivative of the least objective of the entries up to k,
    as a function of entry k, is `-strength` and `strength`. That derivative is the sum of
    `x - y_i` over all these entries, clipped in turn to within `strength` of the sum from each
    entry j on; so its inverse is the mean over all, clipped to means from j on.
    """
    rows = tf.unstack(y)
    lower: list[tf.Tensor] = []
    upper: list[tf.Tensor] = []
    sums: list[tf.Tensor] = []
    for row in rows:
        sums = [former + row for former in sums] + [row]
        lower.append(_inverse(sums, -1, strengths))
        upper.append(_inverse(sums, 1, strengths))
    x = [_inverse(sums, 0, strengths)]
    for low, high in zip(lower[-2::-1], upper[-2::-1]):
        x.insert(0, tf.minimum(tf.maximum(x[0], low), high))
    return tf.stack(x)


def _inverse(sums: list[tf.Tensor], at: int, strengths: tf.Tensor) -> tf.Tensor:
    """Where the derivative is `at * strengths`, from the sums of `y` from each entry on."""
    count = len(sums)
    x = (sums[0] + at * strengths) / count
    for j in range(1, count):
        low = (sums[j] + (at - 1) * strengths) / (count - j)
        high = (sums[j] + (at + 1) * strengths) / (count - j)
        x = tf.maximum(tf.minimum(x, high), low)
    return x


def _of_long(y: tf.Tensor, strengths: tf.Tensor) -> tf.Tensor:
    """By halving: cut each segment where the solution crosses the segment's mean, until none does.

    The entries above a level minimize a cut of a chain, a dynamic program of two values an entry.
    Once a segment is cut, whether a neighbouring one is higher is known, and with that the mean of
    each: the levels of the next round. Rounds are about the logarithm of the number of segments.
    """
    length = known_shape(y)[0]
    last = length - 1
    # Cutting where a rounding has crossed a mean would break a segment.
    crossed = strengths + 2e-15 * (strengths + tf.reduce_max(tf.abs(y), axis=0))
    zeros = tf.zeros_like(y[0])
    no_step = tf.zeros_like(zeros, tf.int8)

    # `steps[i]` is the sign of the step from the segment that ends with entry i to the next, or 0.
    def cut(sides: tf.Tensor, steps: tf.Tensor) -> list[tf.Tensor]:
        """The steps with those where `sides` change, and sums and counts up to segments' ends."""

        def row(i: Any, state: Any, side: tf.Tensor, step: tf.Tensor, value: tf.Tensor) -> Any:
            following, total, count = state
            side = tf.where(tf.equal(side, 0), following, side)
            is_end = tf.not_equal(step, 0) | tf.equal(i, last)
            step = tf.where(is_end, step, tf.sign(following - side))
            is_end |= tf.not_equal(step, 0)
            pull = strengths * tf.cast(step, y.dtype)
            total = value + tf.where(is_end, pull, total)
            count = 1.0 + tf.where(is_end, zeros, count)
            return (side, total, count), (step, total, count)

        state = (no_step, zeros, zeros)
        dtypes = [tf.int8, y.dtype, y.dtype]
        return _row_by_row(row, state, [sides, steps, y], dtypes, backwards=True)

    def mean_of(i: Any, state: Any, total: tf.Tensor, count: tf.Tensor) -> tuple:
        """Whether a segment starts at `i`, the pull of the one before, and the segment's mean."""
        mean, step = state
        is_start = tf.not_equal(step, 0) | tf.equal(i, 0)
        pull = strengths * tf.cast(step, y.dtype)
        return is_start, pull, tf.where(is_start, (total - pull) / count, mean)

    def sides_of(steps: tf.Tensor, totals: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
        """1 above the segment's mean, -1 below it, and 0 where the next entry is; by entry."""

        def row(
            i: Any,
            state: Any,
            step: tf.Tensor,
            total: tf.Tensor,
            count: tf.Tensor,
            value: tf.Tensor,
        ) -> Any:
            gain, *known = state
            is_start, pull, mean = mean_of(i, known, total, count)
            gain = tf.minimum(tf.maximum(gain, -strengths), strengths)
            value = value + strengths * tf.cast(step, y.dtype) - pull
            gain = tf.where(is_start, zeros, gain) + (value - mean)
            is_end = tf.not_equal(step, 0) | tf.equal(i, last)
            bound = tf.where(is_end, zeros, crossed)
            side = tf.cast(gain > bound, tf.int8) - tf.cast(gain < -bound, tf.int8)
            return (gain, mean, step), (side,)

        state = (zeros, zeros, no_step)
        [sides] = _row_by_row(row, state, [steps, totals, counts, y], [tf.int8])
        return sides

    def is_cut(was_cut: tf.Tensor, *_: tf.Tensor) -> tf.Tensor:
        return was_cut

    def halve(_: tf.Tensor, steps: tf.Tensor, *sums: tf.Tensor) -> list[tf.Tensor]:
        new, *others = cut(sides_of(steps, *sums), steps)
        return [tf.reduce_any(tf.not_equal(new, steps)), new, *others]

    def fill(i: Any, state: Any, step: tf.Tensor, total: tf.Tensor, count: tf.Tensor) -> Any:
        _, _, mean = mean_of(i, state, total, count)
        return (mean, step), (mean,)

    whole = tf.zeros_like(y, tf.int8)
    start = [tf.constant(True), *cut(whole, whole)]
    _, *segments = tf.while_loop(is_cut, halve, start, maximum_iterations=length)
    [x] = _row_by_row(fill, (zeros, no_step), segments, [y.dtype])
    return x


def _row_by_row(
    function: Callable,
    state: tuple,
    matrices: list[tf.Tensor],
    dtypes: list[tf.DType],
    backwards: bool = False,
) -> list[tf.Tensor]:
    """Calls `function(i, state, *rows)` for each row in turn; it returns the next state, and rows.

    Returns:
        A matrix of each of the rows, which have the `dtypes`.
    """
    length, _ = known_shape(matrices[0])
    shape = matrices[0].shape[1:]
    results = [tf.TensorArray(dtype, length, element_shape=shape) for dtype in dtypes]

    def body(turn: tf.Tensor, state: tuple, results: list[tf.TensorArray]) -> tuple:
        i = length - 1 - turn if backwards else turn
        state, rows = function(i, state, *[x[i] for x in matrices])
        return turn + 1, state, [result.write(i, row) for result, row in zip(results, rows)]

    _, _, results = tf.while_loop(
        lambda turn, *_: turn < length,
        body,
        (tf.constant(0), state, results),
        maximum_iterations=length,
        parallel_iterations=1,
    )
    return [result.stack() for result in results]
