"""Sum: several penalties on one weight."""

import tensorflow as tf

from tfreg import backend, kernels
from tfreg.penalties.base import Penalty, register


@register
class Sum(Penalty):
    """The sum of several penalties on one weight, which `a + b` makes too.

    `sum_k penalty_k(w)`

    Args:
        penalties: a non-empty list of penalties; regularizers of Keras, `keras.regularizers.L2`
            say, are welcome. A sum among them counts as its members.

    Raises:
        TypeError: if an entry is not a regularizer.
        ValueError: if `penalties` is empty.

    Example:

    >>> penalty = tfreg.GroupLasso(1e-3) + tfreg.BoxPenalty(1e-2, -1.0, 1.0)
    >>> layer = keras.layers.Dense(8, kernel_regularizer=penalty)
    """

    def __init__(self, penalties):
        if not isinstance(penalties, (list, tuple)) or not penalties:
            raise ValueError(
                "Argument `penalties` must be a non-empty list of penalties. "
                f"Received: penalties={penalties!r}"
            )
        for penalty in penalties:
            if not backend.is_regularizer(penalty):
                raise TypeError(
                    "Argument `penalties` must consist of penalties or Keras regularizers. "
                    f"Received: {penalty!r} in penalties={penalties!r}"
                )
        self.penalties: list = [
            member
            for penalty in penalties
            for member in (penalty.penalties if isinstance(penalty, Sum) else [penalty])
        ]

    def _check(self, rank, weight_name):
        for penalty in self.penalties:
            if isinstance(penalty, Penalty):
                penalty._check(rank, weight_name)

    def _value(self, tensor):
        dtype = kernels.accumulation_dtype(tensor.dtype)
        accumulated = tf.cast(tensor, dtype)
        return tf.add_n([tf.cast(penalty(accumulated), dtype) for penalty in self.penalties])

    def _prox(self, tensor, step_size):
        raise NotImplementedError(
            "The proximal operator of a sum is not the sum or the composition of those of its "
            "members, and has no closed form in general. Use a penalty that has one: for the L1 "
            "norm and the group lasso together that is SparseGroupLasso."
        )

    def get_config(self):
        return {"penalties": [backend.serialize(penalty) for penalty in self.penalties]}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if isinstance(config.get("penalties"), (list, tuple)):
            config["penalties"] = [
                backend.deserialize(entry) if isinstance(entry, dict) else entry
                for entry in config["penalties"]
            ]
        return super().from_config(config)
