"""Optimizers of either API: which one, what they train, and how they step."""

import types
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfreg.backend.apis import Optimizer, keras, tf_keras
from tfreg.backend.tensors import Weight
from tfreg.backend.training import innermost, trained_by

_HEAVY_BALL = (
    keras.optimizers.SGD,
    keras.optimizers.RMSprop,
    tf_keras.optimizers.SGD,
    tf_keras.optimizers.RMSprop,
)
# It has an `apply` of its own, which hands the variables to others.
_MultiOptimizer = getattr(keras.optimizers, "MultiOptimizer", ())


def api_of_optimizer(optimizer: Any) -> types.ModuleType | None:
    """The API that an optimizer belongs to; None if it is none, or another kind of one.

    tf_keras's legacy optimizers and Keras 3's MultiOptimizer update weights in other ways.
    """
    if isinstance(optimizer, keras.optimizers.Optimizer):
        return None if isinstance(optimizer, _MultiOptimizer) else keras
    return tf_keras if isinstance(optimizer, tf_keras.optimizers.Optimizer) else None


def momentum_of(optimizer: Optimizer) -> float:
    """The momentum of a heavy ball, whose steps add up to 1 / (1 - momentum) times the first."""
    return float(optimizer.momentum) if isinstance(optimizer, _HEAVY_BALL) else 0.0


def strategy_of(optimizer: Optimizer) -> tf.distribute.Strategy:
    return optimizer._distribution_strategy


def is_on_a_mesh(optimizer: Optimizer) -> bool:
    """Whether the weights are those of tf_keras's DTensor."""
    return bool(getattr(optimizer, "_mesh", None) or getattr(optimizer, "_run_with_dtensor", False))


def trained_variables(optimizer: Optimizer, variables: list[Weight]) -> list[Weight] | None:
    """Those of `variables` that `optimizer` trains, in its order; None if it is not built."""
    optimizer = innermost(optimizer)
    if isinstance(optimizer, keras.optimizers.Optimizer):
        return list(optimizer._trainable_variables) if optimizer.built else None
    return trained_by(optimizer, variables) if getattr(optimizer, "_built", False) else None


def native(variable: Any) -> tf.Variable:
    """The variable that TensorFlow updates."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def update(
    strategy: tf.distribute.Strategy,
    function: Any,
    variables: Sequence[tf.Variable],
    *arguments: Any,
) -> None:
    """Calls `function(variables, *arguments)` on each device that has a copy of the variables."""
    first, *others = variables

    def on_a_device(first: tf.Variable, others: list[tf.Variable], *arguments: Any) -> None:
        function([first, *others], *arguments)

    strategy.extended.update(first, on_a_device, args=(others, *arguments), group=False)
