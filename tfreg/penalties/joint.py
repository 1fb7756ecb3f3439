"""Joint: one penalty on several weights together."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfreg import backend
from tfreg.checks import check_arguments
from tfreg.compute.numerics import with_common_dtype
from tfreg.layout import Layout
from tfreg.penalties.base import (
    Cut,
    Penalty,
    StepSize,
    WeightLike,
    check_step_size,
    no_joint_prox,
    with_layout,
)
from tfreg.read_only import ReadOnly


@backend.register
class Joint(ReadOnly):
    """One penalty on several weights together, for `tfreg.add_penalty`.

    `penalty(w_1, ..., w_n)`

    - `GroupLasso`, `SparseGroupLasso` and `GroupMCP` tie the weights' groups: the k-th groups of
      all weights become one. For `GroupLasso` that is
      `factor * sum_k sqrt(size_k) * sqrt(sum_i ||w_ik||^2)`. Their `axis` may be a list with an
      entry for each weight.
    - `TotalVariation` compares each weight with the next one of the same shape:
      `factor * sum_i ||w_(i+1) - w_i||_1`, a smoothness over depth.
    - A registered function of a list of tensors returns the value, a scalar.

    Args:
        penalty: one of those penalties, a `Sum` of them, or a function registered with
            `keras.saving.register_keras_serializable`.

    Raises:
        TypeError: if `penalty` is none of these.
        ValueError: if it is a penalty that does not couple weights, or an unregistered function.

    Example:

    >>> penalty = tfreg.Joint(tfreg.GroupLasso(1.0, axis=["output", "input"], size_weighted=False))
    >>> first, second = tf.constant([[3.0, 0.0]]), tf.constant([[4.0], [0.0]])
    >>> float(penalty([first, second]))
    5.0
    """

    _instead = Penalty._instead

    def __init__(self, penalty: Penalty | Callable[[list[tf.Tensor]], tf.Tensor]) -> None:
        if isinstance(penalty, Penalty):
            penalty.check_joint()
        elif (
            not callable(penalty)
            or isinstance(penalty, ReadOnly)
            or backend.is_regularizer(penalty)
        ):
            raise TypeError(
                "Argument `penalty` must be a penalty that couples weights or a registered "
                f"function of a list of tensors. Received: penalty={penalty!r}"
            )
        else:
            backend.check_registered("penalty", penalty)
        self.penalty = penalty

    def __call__(self, weights: Sequence[WeightLike]) -> tf.Tensor:
        """The penalty's value at `weights`, a list; names of axes go by position."""
        if not isinstance(weights, (list, tuple)) or not weights:
            raise TypeError(
                "Argument `weights` must be a non-empty list of tensors or variables: tfreg.Joint "
                "goes with tfreg.add_penalty and is no layer's regularizer. "
                f"Received: {type(weights).__name__}"
            )
        return self.value_on(weights, [None] * len(weights))

    @tf.autograph.experimental.do_not_convert
    def value_on(
        self, weights: Sequence[WeightLike], layouts: Sequence[Layout | None]
    ) -> tf.Tensor:
        """The value at `weights` whose axes mean what `layouts` say; None goes by position."""
        tensors, layouts, names = known_weights(weights, layouts)
        if isinstance(self.penalty, Penalty):
            value = self.penalty.compute_joint_value(tensors, layouts, names)
        else:
            value = tf.convert_to_tensor(self.penalty(with_common_dtype(tensors)))
            if value.shape.rank != 0:
                raise ValueError(
                    "The function of a tfreg.Joint must return a scalar. "
                    f"Received: a tensor of shape {value.shape} from {self.penalty!r}"
                )
        return backend.loss_value(value, weights[0])

    @tf.autograph.experimental.do_not_convert
    def prox_on(
        self,
        weights: Sequence[WeightLike],
        layouts: Sequence[Layout | None],
        step_size: StepSize,
    ) -> list[tf.Tensor]:
        """`argmin_x 1/2 sum_i ||x_i - weights_i||^2 + step_size * penalty(x_1, ..., x_n)`.

        Args:
            weights: a list of variables of either Keras or tensors.
            layouts: what the axes of each mean; None goes by position.
            step_size: a non-negative number or scalar tensor.

        Returns:
            A list of tensors of the shapes and dtypes of `weights`.

        Raises:
            NotImplementedError: if the penalty has no proximal operator in closed form.
            TypeError, ValueError: as for the value; or for any other `step_size`.
        """
        if not isinstance(self.penalty, Penalty):
            raise no_joint_prox(self)
        tensors, layouts, names = known_weights(weights, layouts)
        wide = with_common_dtype(tensors)
        step_size = check_step_size(step_size, wide[0].dtype)
        results = self.penalty.compute_joint_prox(wide, layouts, names, step_size)
        return [tf.cast(result, tensor.dtype) for result, tensor in zip(results, tensors)]

    def on_parts(self, cuts: Sequence[Cut]) -> "Joint | None":
        """The penalty of what is left of the weights, or None if nothing is penalized any more.

        Raises:
            ValueError: if no penalty of what is left is the same.
        """
        if not isinstance(self.penalty, Penalty) or all(cut.is_whole for cut in cuts):
            return self
        return Joint(self.penalty.on_parts(cuts))

    def get_config(self) -> dict[str, Any]:
        return {"penalty": backend.serialize(self.penalty)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Joint":
        penalty = check_arguments(cls, config)["penalty"]
        return cls(**{**config, "penalty": backend.deserialize(penalty)})

    def __repr__(self) -> str:
        return f"Joint({getattr(self.penalty, '__name__', repr(self.penalty))})"


def known_weights(
    weights: Sequence[WeightLike], layouts: Sequence[Layout | None]
) -> tuple[list[tf.Tensor], list[Layout], list[str]]:
    """The `weights` as tensors, their layouts, and their names for messages."""
    tensors, layouts = map(list, zip(*map(with_layout, weights, layouts)))
    return tensors, layouts, _distinct([backend.weight_name(weight) for weight in weights])


def _distinct(names: list[str]) -> list[str]:
    """`names`, with their places if some are the same, as those of tensors are."""
    if len(set(names)) == len(names):
        return names
    return [f"{name} at {place}" for place, name in enumerate(names)]
