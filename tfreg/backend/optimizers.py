"""Optimizers of either API: which one, what they train, and how they step."""

import contextlib
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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


class _Metric(NamedTuple):
    """The diagonal of a metric, as a function of an optimizer, its step and its slots there."""

    slots: Callable[[Any], tuple[str, ...]]  # of an optimizer: the attributes that hold them
    diagonal: Callable[..., tf.Tensor]


def _root_of_correction(optimizer: Any, step: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """What the root of the second moment is divided by, rounded as the optimizer rounds it."""
    return tf.sqrt(1.0 - tf.pow(tf.cast(optimizer.beta_2, dtype), tf.cast(step + 1, dtype)))


def _adam_diagonal(optimizer: Any, step: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
    root, epsilon = _root_of_correction(optimizer, step, v.dtype), optimizer.epsilon
    if getattr(optimizer, "adaptive_epsilon", False):  # in tf_keras
        epsilon *= root
    return (tf.sqrt(v) + epsilon) / root


def _nadam_diagonal(optimizer: Any, step: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(v) / _root_of_correction(optimizer, step, v.dtype) + optimizer.epsilon


def _rmsprop_slots(optimizer: Any) -> tuple[str, ...]:
    return ("_velocities", "_average_gradients") if optimizer.centered else ("_velocities",)


def _rmsprop_diagonal(
    optimizer: Any, step: tf.Tensor, v: tf.Tensor, mean: tf.Tensor | None = None
) -> tf.Tensor:
    variance = v if mean is None else v - tf.square(mean)
    return tf.sqrt(variance + optimizer.epsilon)


def _adam_slots(optimizer: Any) -> tuple[str, ...]:
    return ("_velocity_hats",) if optimizer.amsgrad else ("_velocities",)


_ADAM = _Metric(_adam_slots, _adam_diagonal)
# By the class, of either API, that has the method `update_step`.
_METRICS = {
    "Adam": _ADAM,
    "AdamW": _ADAM,
    "Adamax": _Metric(lambda _: ("_u",), lambda optimizer, _, u: u + optimizer.epsilon),
    "Nadam": _Metric(lambda _: ("_velocities",), _nadam_diagonal),
    "RMSprop": _Metric(_rmsprop_slots, _rmsprop_diagonal),
    "Adagrad": _Metric(
        lambda _: ("_accumulators",), lambda optimizer, _, v: tf.sqrt(v + optimizer.epsilon)
    ),
}


def _metric_of_class(optimizer: Any) -> _Metric | None:
    """That of the class which has the `update_step` of the `optimizer`, if it is known."""
    [stepping, *_] = [each for each in type(optimizer).__mro__ if "update_step" in vars(each)]
    for api in (keras, tf_keras):
        for name, metric in _METRICS.items():
            if stepping is getattr(api.optimizers, name):
                return metric
    return None


def check_has_metric(optimizer: Optimizer) -> None:
    """Raises a ValueError unless the steps of `optimizer` are those of a known diagonal metric."""
    if _metric_of_class(optimizer) is not None:
        return
    name = type(optimizer).__name__
    if isinstance(optimizer, (keras.optimizers.SGD, tf_keras.optimizers.SGD)):
        raise ValueError(
            f"Argument `metric` must be 'euclidean' for {name}, which takes its steps in that "
            "metric. Received: metric='diagonal'"
        )
    raise ValueError(
        f"Argument `metric` may be 'diagonal' for {', '.join(_METRICS)}, and for subclasses that "
        "keep their `update_step`. Use metric='euclidean' for other optimizers. "
        f"Received: metric='diagonal' for an optimizer of class {name}"
    )


def metric_slots(optimizer: Any, variable: Weight) -> list[tf.Variable]:
    """What the metric of a built `optimizer` at `variable` depends on, for `metric_from`."""
    metric = _metric_of_class(optimizer)
    assert metric is not None  # see `check_has_metric`
    if isinstance(optimizer, keras.optimizers.Optimizer):
        index = optimizer._get_variable_index(variable)
    else:
        index = optimizer._index_dict[optimizer._var_key(variable)]
    return [native(getattr(optimizer, name)[index]) for name in metric.slots(optimizer)]


def metric_from(optimizer: Any, step: tf.Tensor, slots: Sequence[tf.Variable]) -> tf.Tensor:
    """The diagonal of the metric of the own step of `optimizer` at `step`, which it has taken.

    That is `w - learning_rate * m / diagonal`, where `m` averages gradients; with a heavy ball
    such steps add up.
    """
    metric = _metric_of_class(optimizer)
    assert metric is not None  # see `check_has_metric`
    return metric.diagonal(optimizer, step, *map(tf.convert_to_tensor, slots))


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


def add_optimizer_variable(optimizer: Any, shape: tuple[int, ...], name: str) -> Weight:
    """A variable of zeros that a built optimizer keeps, saves and restores with its own."""
    # tf_keras builds an optimizer within the first replica, whose variables are its strategy's.
    in_replica = not tf.distribute.in_cross_replica_context()
    with contextlib.nullcontext() if in_replica else strategy_of(optimizer).scope():
        return optimizer.add_variable(shape, initializer="zeros", dtype="float32", name=name)


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
