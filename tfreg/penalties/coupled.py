"""Coupled: one penalty on the entries of a coupling."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfreg import backend
from tfreg.checks import check_arguments, check_non_negative
from tfreg.compute.numerics import with_common_dtype
from tfreg.layout import Layout
from tfreg.penalties.base import Cut, Penalty, StepSize, WeightLike, check_step_size
from tfreg.penalties.joint import Joint, known_weights
from tfreg.slices import Slices


@backend.register
class Coupled(Joint):
    """One penalty on the entries of a coupling, which `tfreg.add_penalty` makes of each coupling.

    `penalty(w_1, ..., w_n)`, whose groups are the entries: what they own of all the weights

    For `GroupLasso` that is `factor * sum_k weight_k * sqrt(sum of squares of all elements of entry
    k)`, with the `group_weight`, or else the square root of the number of these elements, as
    weight. An element that is in two entries, as in a recurrent kernel, counts in both norms, and
    once in the L1 norm of a `SparseGroupLasso`.

    Args:
        penalty: a `GroupLasso`, `SparseGroupLasso` or `GroupMCP` with the default `axis` and no
            other groups, or a `Sum` of them.
        slices: for each weight the slices of the entries: a list of pairs of an axis and an int
            array of shape `(size, n)`, whose row k lists the indices of entry k.
        group_weight: the weight of each entry's norm, a finite number >= 0; None leaves it to
            `penalty`.

    Raises:
        TypeError, ValueError: for other arguments; when called, if a weight lacks an axis or an
            index.
    """

    def __init__(
        self,
        penalty: Penalty,
        slices: Sequence[Slices | Sequence[tuple[int, Any]]],
        group_weight: float | None = None,
    ) -> None:
        if not isinstance(penalty, Penalty):
            raise TypeError(
                "Argument `penalty` must be a GroupLasso, SparseGroupLasso, GroupMCP or a Sum of "
                f"those where `weights` are couplings. Received: penalty={penalty!r}"
            )
        penalty.check_coupled()
        self.penalty = penalty
        self.slices = tuple(each if isinstance(each, Slices) else Slices(each) for each in slices)
        sizes = {each.size for each in self.slices}
        if len(sizes) != 1:
            raise ValueError(
                "Argument `slices` must have slices of each weight, all with as many entries. "
                f"Received: {[each.size for each in self.slices]} entries"
            )
        self.group_weight = (
            None if group_weight is None else check_non_negative("group_weight", group_weight)
        )

    @property
    def size(self) -> int:
        """The number of entries."""
        return self.slices[0].size

    def check_weights(self, shapes: Sequence[Sequence[int | None]], names: Sequence[str]) -> None:
        """Raises a ValueError if the slices are not those of weights of these `shapes`."""
        if len(shapes) != len(self.slices):
            raise ValueError(
                f"A coupling of {len(self.slices)} weights must have as many. "
                f"Received: {', '.join(names)}"
            )
        for slices, shape, name in zip(self.slices, shapes, names):
            slices.check_fits(shape, name)

    @tf.autograph.experimental.do_not_convert
    def value_on(
        self, weights: Sequence[WeightLike], layouts: Sequence[Layout | None]
    ) -> tf.Tensor:
        tensors = self._checked(weights, layouts)
        penalty: Any = self.penalty
        value = penalty.compute_coupled_value(tensors, self.slices, self.group_weight)
        return backend.loss_value(value, weights[0])

    @tf.autograph.experimental.do_not_convert
    def prox_on(
        self,
        weights: Sequence[WeightLike],
        layouts: Sequence[Layout | None],
        step_size: StepSize,
    ) -> list[tf.Tensor]:
        """Like that of a `Joint`.

        Raises:
            NotImplementedError: if an element is in two entries too.
        """
        tensors = self._checked(weights, layouts)
        if not all(slices.is_disjoint for slices in self.slices):
            overlapping = [not slices.is_disjoint for slices in self.slices]
            name = backend.weight_name(weights[overlapping.index(True)])
            raise NotImplementedError(
                "The proximal operator of a coupling whose entries share elements has no known "
                f"closed form. Received: the weight {name}, along several axes of which they have "
                "slices. Use it in the loss."
            )
        step_size = check_step_size(step_size, tensors[0].dtype)
        penalty: Any = self.penalty
        results = penalty.compute_coupled_prox(tensors, self.slices, self.group_weight, step_size)
        return [tf.cast(result, weight.dtype) for result, weight in zip(results, weights)]

    def _checked(
        self, weights: Sequence[WeightLike], layouts: Sequence[Layout | None]
    ) -> list[tf.Tensor]:
        tensors, _, names = known_weights(weights, layouts)
        self.check_weights([tensor.shape.as_list() for tensor in tensors], names)
        return with_common_dtype(tensors)

    def on_parts(self, cuts: Sequence[Cut]) -> "Coupled | None":
        """The penalty of the entries that are left; None if none is.

        Raises:
            ValueError: if a part of an entry is left, or another entry in another weight.
        """
        slices: list[Any] = []
        left: list[np.ndarray] = []
        for each, cut in zip(self.slices, cuts):
            try:
                part, is_left = each.cut(cut.kept)
            except ValueError as error:
                raise cut.not_carried(self, str(error)) from error
            slices.append(part)
            left.append(is_left)
            if (is_left != left[0]).any():
                raise cut.not_carried(
                    self, f"other entries of a coupling are left than of {cuts[0].name}"
                )
        penalty: Any = self.penalty
        return Coupled(penalty, slices, self.group_weight) if left[0].any() else None

    def get_config(self) -> dict[str, Any]:
        return {
            "penalty": backend.serialize(self.penalty),
            "slices": [each.get_config() for each in self.slices],
            "group_weight": self.group_weight,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Coupled":
        config = check_arguments(cls, config)
        penalty, slices = backend.deserialize(config["penalty"]), config["slices"]
        if not isinstance(slices, (list, tuple)):
            raise ValueError(f"The config of Coupled must have a list of slices: {slices!r}")
        return cls(penalty, list(map(Slices.from_config, slices)), config.get("group_weight"))

    def __repr__(self) -> str:
        weight = "" if self.group_weight is None else f", group_weight={self.group_weight!r}"
        return (
            f"Coupled({self.penalty!r}, {self.size} entries of {len(self.slices)} weights{weight})"
        )
