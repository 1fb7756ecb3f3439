"""Removal of elements by their magnitude, until a budget is met."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfreg import backend
from tfreg.checks import check_config
from tfreg.compute.magnitudes import largest, largest_of_runs
from tfreg.layout import Layout
from tfreg.proximal.bound import Trained
from tfreg.proximal.target import Budget, Count


class ByMagnitude:
    """A budget of `elements` or of a `pattern`, on weights.

    It keeps no variables: what is removed is what is exactly zero.

    Args:
        budget: the budget.
        weights: the weights.

    Raises:
        ValueError: if the budget cannot be met, or if a weight has no axis for the pattern.
    """

    def __init__(self, budget: Budget, weights: Sequence[Trained]) -> None:
        self.budget, self.weights = budget, tuple(weights)
        self._sizes = [math.prod(weight.shape) for weight in self.weights]
        self._least = [min(budget.minimum, size) for size in self._sizes]
        if budget.pattern is None:
            self._at_first = sum(self._sizes)
            self._target = self._checked_target(budget.elements, self._at_first)
        else:
            self._target, self._at_first = budget.pattern
            self._views = [_along_inputs(weight) for weight in self.weights]

    def _checked_target(self, given: Any, total: int) -> int:
        """The number of elements of `total` that are left at the end."""
        target = self.budget.resolved(given, total)
        if not sum(self._least) <= target <= total:
            first, *others = (repr(weight.path) for weight in self.weights)
            what = f"{first} and {len(others)} others" if others else first
            raise ValueError(
                f"Argument `elements` of tfreg.Budget must be at least {sum(self._least):,}, since "
                f"`minimum`, {self.budget.minimum}, of each weight stay, and at most {total:,}, "
                f"those of the weights: {what}. Received: elements={given!r}, which is {target:,}"
            )
        return target

    def state(self) -> list[tuple[int, ...]]:
        """The shapes of its variables."""
        return []

    def observe(
        self,
        state: Sequence[tf.Variable],
        weights: Sequence[tf.Variable],
        gradients: Sequence[Any],
        step: tf.Tensor,
    ) -> None:
        """Does nothing: gradients say nothing about magnitudes."""

    def remove(
        self, state: Sequence[tf.Variable], weights: Sequence[tf.Variable], step: tf.Tensor
    ) -> None:
        """Sets to 0 what is to go after this `step`."""

        def removed() -> None:
            tensors = [tf.convert_to_tensor(weight) for weight in weights]
            for weight, tensor, is_kept in zip(weights, tensors, self._kept(tensors, step)):
                weight.assign(tf.where(is_kept, tensor, tf.zeros_like(tensor)))

        tf.cond(self.budget.is_event(step), removed, lambda: None)

    def _kept(self, tensors: list[tf.Tensor], step: tf.Tensor) -> list[tf.Tensor]:
        left = self._left(step)
        if self.budget.pattern is None:
            return largest(tensors, left, self._least)
        _, length = self.budget.pattern
        return [
            largest_of_runs(tensor, view, length, left)
            for tensor, view in zip(tensors, self._views)
        ]

    def _left(self, step: tf.Tensor) -> tf.Tensor:
        """How many elements may be left after this `step`, in all or of each run."""
        progress = self.budget.progress(step)
        curve = tf.exp(np.log(self._at_first) + np.log(self._target / self._at_first) * progress)
        # A rounding must not lead past the ends.
        within = tf.clip_by_value(tf.math.ceil(curve), self._target, self._at_first)
        is_over = tf.cast(step, tf.int64) >= self.budget.end_step
        return tf.where(is_over, tf.cast(self._target, tf.int64), tf.cast(within, tf.int64))

    def are_alive(
        self, state: Sequence[Any], weights: Sequence[Any], step: tf.Tensor
    ) -> list[tf.Tensor]:
        """For each weight a mask: false where an element is removed.

        These are the zeros, once there has been an event.
        """
        # What is zero at first, as some kernels are, may change until then.
        is_early = tf.cast(step, tf.int64) <= self.budget.begin_step
        return [tf.not_equal(tf.convert_to_tensor(weight), 0) | is_early for weight in weights]

    def counts(self, state: Sequence[Any], weights: Sequence[Any]) -> list[Count]:
        """What there is now of what is bounded."""
        arrays = [backend.array_of(weight) for weight in weights]
        if self.budget.pattern is None:
            left = sum(int(np.count_nonzero(array)) for array in arrays)
            return [Count("elements", self._at_first, self._target, left)]
        fullest = max(
            _fullest_run(array.reshape(view) != 0, self._at_first)
            for array, view in zip(arrays, self._views)
        )
        return [Count("pattern", self._at_first, self._target, fullest)]

    def get_config(self) -> dict[str, Any]:
        return {
            "budget": backend.serialize(self.budget),
            "weights": [weight.get_config() for weight in self.weights],
        }

    @classmethod
    def from_config(cls, config: Any) -> "ByMagnitude":
        config = check_config("a tfreg.Budget by magnitude", config, ("budget", "weights"))
        weights = list(map(Trained.from_config, config["weights"]))
        return cls(backend.deserialize(config["budget"]), weights)


def _fullest_run(is_nonzero: np.ndarray, length: int) -> int:
    """The most that is nonzero in a run along the middle axis."""
    starts = np.arange(0, is_nonzero.shape[1], length)
    return int(np.add.reduceat(is_nonzero.astype(np.int64), starts, axis=1).max(initial=0))


def _along_inputs(weight: Trained) -> tuple[int, int, int]:
    """The shape of a weight with its axes of inputs merged, and those before and behind them."""
    layout = weight.layout
    if layout is None and len(weight.shape) > 0:
        layout = Layout.positional(len(weight.shape))
    parts = () if layout is None else layout.parts
    # An input that is an output too, as in an embedding, is not summed over.
    of_inputs = [
        i for i, part in enumerate(parts) if "input" in part.roles and "output" not in part.roles
    ]
    if layout is None or not of_inputs:
        raise ValueError(
            "A tfreg.Budget of a `pattern` needs weights with an axis of inputs that are summed, "
            "as a kernel of a Dense or Conv layer has. Choose the weights: "
            "tfreg.Proximal(optimizer, model, [(weights, budget)]). "
            f"Received: the weight {weight.path!r} of shape {weight.shape}"
        )
    end = of_inputs[-1] + 1
    start = end - 1
    while start - 1 in of_inputs:
        start -= 1
    lengths = layout.lengths_of_parts(weight.shape)
    return math.prod(lengths[:start]), math.prod(lengths[start:end]), math.prod(lengths[end:])
