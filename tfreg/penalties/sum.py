"""Sum: several penalties on one weight."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfreg import backend
from tfreg.checks import check_arguments
from tfreg.compute.numerics import accumulation_dtype
from tfreg.layout import Layout
from tfreg.penalties.base import Cut, P, Penalty, Regularizer, StepSize
from tfreg.penalties.registry import register
from tfreg.slices import Slices


@register
class Sum(Penalty):
    """The sum of several penalties on one weight, which `a + b` makes too.

    `sum_k penalty_k(w)`

    Args:
        penalties: a non-empty list of penalties and Keras regularizers, such as
            `keras.regularizers.L2`. A sum among them counts as its members.

    Raises:
        TypeError: if an entry is not a regularizer.
        ValueError: if `penalties` is empty.

    Example:

    >>> penalty = tfreg.GroupLasso(1e-3) + tfreg.BoxPenalty(1e-2, -1.0, 1.0)
    >>> layer = keras.layers.Dense(8, kernel_regularizer=penalty)
    """

    def __init__(self, penalties: Sequence[Regularizer]) -> None:
        backend.check_shapes_of_ints("Sum")
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
            backend.copied(member)
            for penalty in penalties
            for member in (penalty.penalties if isinstance(penalty, Sum) else [penalty])
        ]
        self.is_additive = all(
            isinstance(member, Penalty) and member.is_additive for member in self.penalties
        )

    def check_weight(self, shape: tf.TensorShape, layout: Layout, weight_name: str) -> None:
        for penalty in self.penalties:
            if isinstance(penalty, Penalty):
                penalty.check_weight(shape, layout, weight_name)

    def compute_value(self, tensor: tf.Tensor, layout: Layout) -> tf.Tensor:
        dtype = accumulation_dtype(tensor.dtype)
        accumulated = tf.cast(tensor, dtype)
        return tf.add_n(
            [
                (
                    penalty.compute_value(accumulated, layout)
                    if isinstance(penalty, Penalty)
                    else tf.cast(penalty(accumulated), dtype)
                )
                for penalty in self.penalties
            ]
        )

    def check_joint(self) -> None:
        for penalty in self.penalties:
            if not isinstance(penalty, Penalty):
                raise ValueError(
                    "Argument `penalty` must couple weights, which no regularizer of Keras does. "
                    f"Received: {penalty!r} in penalty={self!r}"
                )
            penalty.check_joint()

    def compute_joint_value(
        self, tensors: list[tf.Tensor], layouts: list[Layout], names: list[str]
    ) -> tf.Tensor:
        values = [
            penalty.compute_joint_value(tensors, layouts, names) for penalty in self.penalties
        ]
        return tf.add_n(values)

    def check_coupled(self) -> None:
        for penalty in self.penalties:
            if not isinstance(penalty, Penalty):
                raise ValueError(
                    "Argument `penalty` must couple weights where `weights` are couplings, which "
                    f"no regularizer of Keras does. Received: {penalty!r} in penalty={self!r}"
                )
            penalty.check_coupled()

    def compute_coupled_value(
        self, tensors: list[tf.Tensor], slices: Sequence[Slices], group_weight: float | None
    ) -> tf.Tensor:
        return tf.add_n(
            [
                penalty.compute_coupled_value(tensors, slices, group_weight)
                for penalty in self.penalties
            ]
        )

    def on_part(self, cut: Cut) -> "Sum":
        return Sum(
            [
                penalty.on_part(cut) if isinstance(penalty, Penalty) else penalty
                for penalty in self.penalties
            ]
        )

    def on_parts(self, cuts: Sequence[Cut]) -> "Sum":
        return Sum([penalty.on_parts(cuts) for penalty in self.penalties])

    def compute_prox(self, tensor: tf.Tensor, layout: Layout, step_size: StepSize) -> tf.Tensor:
        raise NotImplementedError(
            "The proximal operator of a sum is not the sum or the composition of those of its "
            "members, and has no closed form in general. Use a penalty that has one: "
            "SparseGroupLasso for the L1 norm plus the group lasso."
        )

    def get_config(self) -> dict[str, Any]:
        return {"penalties": [backend.serialize(penalty) for penalty in self.penalties]}

    @classmethod
    def from_config(cls: type[P], config: dict[str, Any]) -> P:
        members = check_arguments(cls, config)["penalties"]
        if isinstance(members, (list, tuple)):
            members = [
                backend.deserialize(entry) if isinstance(entry, dict) else entry
                for entry in members
            ]
        return cls(**{**config, "penalties": members})
