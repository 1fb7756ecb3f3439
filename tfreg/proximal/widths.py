"""What the weights of a model cost, as a function of how many entries of each coupling are left."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

# Counts of multiplications pass 2^24, from where float32 skips numbers.
DTYPE = tf.float64


class CountedWeight(NamedTuple):
    """A weight, how often each element is multiplied, and what couplings have along its axes.

    `widths` has for each axis pairs of a coupling and how many indices an entry has there.
    """

    shape: tuple[int, ...]
    times: int
    widths: tuple[tuple[tuple[int, int], ...], ...]


class Widths:
    """The parameters and multiply-adds of weights, which depend on the entries that are left.

    `parameters = sum_w prod_a length_wa` and `multiply_adds = sum_w times_w prod_a length_wa`
    with `length_wa = fixed_wa + sum_c width_wac * left_c`

    Args:
        weights: the weights in which couplings have slices.
        sizes: the number of entries of each coupling.
        fixed: the parameters and multiply-adds of all other weights.
    """

    def __init__(
        self, weights: Sequence[CountedWeight], sizes: Sequence[int], fixed: tuple[int, int]
    ) -> None:
        self.sizes, self.fixed = np.array(sizes, np.int64), fixed
        rank = max(len(weight.shape) for weight in weights)
        # Axes that a weight does not have are of length 1.
        self._fixed_lengths = np.ones([len(weights), rank])
        self._widths = np.zeros([len(weights), rank, len(sizes)])
        for i, weight in enumerate(weights):
            for axis, (length, pairs) in enumerate(zip(weight.shape, weight.widths)):
                for coupling, width in pairs:
                    self._widths[i, axis, coupling] += width
                coupled = self._widths[i, axis] @ self.sizes
                self._fixed_lengths[i, axis] = length - coupled
        self._times = np.array([weight.times for weight in weights], np.float64)

    def costs(self, left: Any) -> dict[str, tf.Tensor]:
        """What is left of each resource if `left` entries of each coupling are."""
        left = tf.cast(left, DTYPE)
        elements = tf.reduce_prod(self._lengths(left), axis=1)
        return {
            "multiply_adds": self.fixed[1] + tf.tensordot(elements, self._times, 1),
            "parameters": self.fixed[0] + tf.reduce_sum(elements),
            "groups": tf.reduce_sum(left),
        }

    def shares(self, left: Any, targets: Mapping[str, int]) -> tf.Tensor:
        """For each coupling, the share that an entry costs of what has `targets`, summed.

        `sum_r min(d cost_r / d left_c, cost_r - target_r) / cost_r`

        What goes beyond a target counts for nothing.
        """
        left = tf.cast(left, DTYPE)
        costs = self.costs(left)
        shares = []
        for name, target in targets.items():
            excess = tf.maximum(costs[name] - float(target), 0.0)
            shares.append(tf.minimum(self._slopes(name, left), excess) / costs[name])
        return tf.add_n(shares)

    def _slopes(self, name: str, left: tf.Tensor) -> tf.Tensor:
        """The derivative of a cost by the entries that are left of each coupling."""
        if name == "groups":
            return tf.ones_like(left)
        lengths = self._lengths(left)
        beside = tf.stack(
            [
                tf.reduce_prod(tf.concat([lengths[:, :axis], lengths[:, axis + 1 :]], 1), axis=1)
                for axis in range(lengths.shape[1])
            ],
            axis=1,
        )
        if name == "multiply_adds":
            beside *= self._times[:, np.newaxis]
        return tf.tensordot(beside, self._widths, 2)

    def _lengths(self, left: tf.Tensor) -> tf.Tensor:
        return self._fixed_lengths + tf.linalg.matvec(tf.constant(self._widths), left)
