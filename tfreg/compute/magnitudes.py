"""Which elements of tensors have the largest magnitudes, without a sort."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfreg.compute import policy
from tfreg.compute.numerics import with_common_dtype

# How many elements are counted in float32, which is exact below 2^24, before these counts are added
# as int64: the weights of a model may have more elements than int32 counts.
_ROW = 1024


class _Range(NamedTuple):
    """Integers from `low` to before `high`, and what has been counted at either."""

    low: tf.Tensor
    high: tf.Tensor
    at_low: tf.Tensor
    at_high: tf.Tensor

    def halved(
        self,
        count: Callable[[tf.Tensor], tf.Tensor],
        excess: Callable[[tf.Tensor], tf.Tensor],
    ) -> "_Range":
        """Halves the range until it has one integer, or `excess(count(low))` is 0.

        The `excess`, a scalar or one for each of several ranges, is >= 0 at `low` and falls up to
        `high`, where it is below 0.
        """

        def is_open(low: tf.Tensor, high: tf.Tensor, at_low: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
            return tf.reduce_any((high - low > 1) & tf.not_equal(excess(at_low), 0))

        def halve(
            low: tf.Tensor, high: tf.Tensor, at_low: tf.Tensor, at_high: tf.Tensor
        ) -> list[tf.Tensor]:
            middle = low + (high - low) // 2
            found = count(middle)
            is_low = excess(found) >= 0
            return [
                tf.where(is_low, middle, low),
                tf.where(is_low, high, middle),
                tf.where(is_low, found, at_low),
                tf.where(is_low, at_high, found),
            ]

        return _Range(*tf.while_loop(is_open, halve, list(self)))


def largest(
    weights: Sequence[tf.Tensor], count: tf.Tensor, least: Sequence[int]
) -> list[tf.Tensor]:
    """Where the `count` largest magnitudes are, no fewer than `least` of each weight among them.

    Of equal ones, the first are taken. A sort of all elements would take long: the smallest
    magnitude that stays is found by halving the range of its bits.

    Args:
        weights: tensors of known shapes.
        count: how many elements of all weights, an int64 scalar.
        least: how many at least of each weight, together no more than `count`.

    Returns:
        For each weight a mask, which means nothing where an element is 0.
    """
    sizes = [weight.shape.num_elements() for weight in weights]
    heights = [-(-size // _ROW) for size in sizes]
    pieces = []
    for weight, size, height in zip(with_common_dtype(weights), sizes, heights):
        pieces += [tf.reshape(weight, [-1]), tf.zeros([height * _ROW - size], weight.dtype)]
    x = tf.concat(pieces, 0)
    # Rows of elements, each of one weight.
    keys = tf.reshape(_keys(x), [-1, _ROW])
    weight_of = np.repeat(np.arange(len(sizes), dtype=np.int32), heights)
    starts = np.concatenate([np.arange(height, dtype=np.int64) * _ROW for height in heights])

    def of_rows(values: tf.Tensor) -> tf.Tensor:
        return tf.gather(values, weight_of)[:, tf.newaxis]

    def before(places: tf.Tensor) -> tf.Tensor:
        return tf.range(_ROW, dtype=tf.int64) < of_rows(places) - starts[:, np.newaxis]

    def counts(is_counted: tf.Tensor) -> tf.Tensor:
        """How many there are in each weight."""
        in_rows = tf.reduce_sum(tf.cast(is_counted, tf.float32), axis=1)
        return tf.math.unsorted_segment_sum(tf.cast(in_rows, tf.int64), weight_of, len(sizes))

    size, floor = tf.constant(sizes, tf.int64), tf.constant(list(least), tf.int64)
    zero = tf.zeros([], keys.dtype)
    none = tf.zeros_like(size)

    # The key from which on elements stay, of which each weight keeps its floor.
    keys_left = _Range(zero, zero + (_infinity(x.dtype) + 2), size, none).halved(
        lambda key: counts(keys >= key),
        lambda found: tf.reduce_sum(tf.maximum(found, floor)) - count,
    )
    # How many stay of each weight: all above that key, and the first of those that have it.
    above = tf.maximum(keys_left.at_high, floor)
    equal = tf.maximum(keys_left.at_low, floor) - above
    missing = count - tf.reduce_sum(above)
    quota = above + tf.clip_by_value(missing - tf.cumsum(equal, exclusive=True), 0, equal)
    # The key of each weight: a lower one where its floor is more than it has.
    is_short = keys_left.at_low < quota
    lowest = _Range(
        tf.where(is_short, zero, keys_left.low),
        tf.where(is_short, keys_left.low, keys_left.high),
        tf.where(is_short, size, keys_left.at_low),
        tf.where(is_short, keys_left.at_low, keys_left.at_high),
    ).halved(lambda key: counts(keys >= of_rows(key)), lambda found: found - quota)
    # The place up to which elements of that key stay; no matter where, if they are 0.
    is_above, is_edge = keys >= of_rows(lowest.high), keys >= of_rows(lowest.low)
    is_edge &= ~is_above
    wanted = tf.where(lowest.high > 1, quota - lowest.at_high, 0)
    edges = lowest.at_low - lowest.at_high
    is_all = wanted >= edges
    place = _Range(tf.where(is_all, size, none), size, tf.where(is_all, edges, none), edges).halved(
        lambda place: counts(is_edge & before(place)), lambda found: wanted - found
    )
    is_kept = tf.reshape(is_above | (is_edge & before(place.low)), [-1])
    starts_of = np.cumsum([0, *heights]) * _ROW
    return [
        tf.reshape(is_kept[start : start + size], weight.shape)
        for weight, size, start in zip(weights, sizes, starts_of)
    ]


def largest_of_runs(
    weight: tf.Tensor, view: tuple[int, int, int], length: int, count: tf.Tensor
) -> tf.Tensor:
    """Where the `count` elements of largest magnitude of each run are.

    Of equal ones, the first are taken.

    Args:
        weight: a tensor.
        view: a shape of three axes for it, along the second of which the runs are.
        length: of each run; the last may be shorter.
        count: how many elements, an integer scalar.

    Returns:
        A mask of the shape of `weight`.
    """
    [x] = with_common_dtype([weight])
    before, size, after = view
    runs = -(-size // length)
    keys = tf.reshape(_keys(x), view)
    keys = tf.pad(keys, [[0, 0], [0, runs * length - size], [0, 0]], constant_values=-1)
    keys = tf.reshape(keys, [before * runs, length, after])
    places = tf.range(length, dtype=keys.dtype)[:, tf.newaxis]

    def pass_by(place: tf.Tensor, rank: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Adds 1 to the `rank` of all that the element at `place` of their run precedes."""
        other = tf.gather(keys, [place], axis=1)
        precedes = (other > keys) | (
            tf.equal(other, keys) & (tf.cast(place, places.dtype) < places)
        )
        return place + 1, rank + tf.cast(precedes, rank.dtype)

    start = tf.constant(0), tf.zeros_like(keys)
    _, rank = tf.while_loop(lambda place, _: place < length, pass_by, start)
    is_kept = tf.reshape(rank < tf.cast(count, rank.dtype), [before, runs * length, after])
    return tf.reshape(is_kept[:, :size], weight.shape)


def _keys(x: tf.Tensor) -> tf.Tensor:
    """Integers in the order of the magnitudes of `x`, float32 or float64; 0 for 0, NaN on top."""
    own = tf.int64 if x.dtype == tf.float64 else tf.int32
    # TensorFlow itself does arithmetic with int32 on the CPU.
    keys = tf.cast(tf.bitcast(x, own), tf.int64 if policy.device_of(x) == "GPU" else own)
    return tf.minimum(keys & own.max, _infinity(x.dtype) + 1)


def _infinity(dtype: tf.DType) -> int:
    """The key of infinity."""
    return 0x7FF0_0000_0000_0000 if dtype == tf.float64 else 0x7F80_0000
