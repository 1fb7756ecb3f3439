"""Which step a schedule counts, and whether that is the step of the training in progress."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tfreg import backend


class UnknownStepError(RuntimeError):
    """The step that a schedule counts is not known here."""

    # By which AutoGraph knows that it can make another one, with the traceback in the message.
    __init__ = Exception.__init__


# How often the weights may change within one step: sharpness-aware minimization looks ahead, and a
# wrapper may normalize them for each micro-batch.
MOST_MOVES = 8
# A step by which any schedule that ends has ended.
_LATE = 2**30


@dataclasses.dataclass
class _Training:
    """A step of `model`, by Keras's own `train_step` or, not `is_keras_own`, by its class's."""

    model: Any
    is_keras_own: bool
    # The optimizers whose steps schedules counted, each with a function that tells whether the
    # weights have changed since.
    counted: list[tuple[Any, Callable]] = dataclasses.field(default_factory=list)


# The model whose losses are being read, the outermost of nested ones.
_reading: contextvars.ContextVar = contextvars.ContextVar("reading", default=None)
# The step that is being taken, by a model that knows its optimizer.
_training: contextvars.ContextVar = contextvars.ContextVar("training", default=None)


def check_step(step: Any, schedule: Any) -> Any:
    """`step` if it is None or something that the `schedule` can count."""
    if step is None:
        return None
    if schedule is None:
        raise ValueError(
            "Argument `step` goes with a `schedule`, which counts it. "
            f"Received: step={step!r}, schedule=None"
        )
    if backend.is_variable(step):
        is_known = tf.as_dtype(step.dtype).is_integer and tuple(step.shape) == ()
    else:
        is_known = hasattr(step, "iterations") or callable(step)
    if not is_known or isinstance(step, type):
        raise TypeError(
            "Argument `step` must be None, an optimizer, a scalar integer variable or a function "
            f"that returns the step. Received: step={step!r}"
        )
    return step


def current(source: Any) -> tf.Tensor:
    """The current step of `source`, an optimizer, a variable or a function."""
    # In Keras 3.8 a LossScaleOptimizer leaves counting to the optimizer that it wraps.
    optimizer = getattr(source, "inner_optimizer", source)
    if hasattr(optimizer, "iterations"):
        return tf.convert_to_tensor(optimizer.iterations)
    step = source if backend.is_variable(source) else source()
    if not (tf.is_tensor(step) or backend.is_variable(step)):
        raise ValueError(f"{_NOT_A_STEP} Received: {step!r} from {source!r}")
    step = tf.convert_to_tensor(step)
    if step.shape.rank != 0 or not step.dtype.is_integer:
        raise ValueError(
            f"{_NOT_A_STEP} Received: a tensor of shape {step.shape} and dtype {step.dtype.name} "
            f"from {source!r}"
        )
    if not tf.executing_eagerly() and tf.get_static_value(step) is not None:
        raise ValueError(
            f"{_NOT_A_STEP} Received: a constant from {source!r}, which the compiled function "
            "would keep for ever"
        )
    return step


_NOT_A_STEP = (
    "Argument `step` must return a scalar integer as a variable, or as a tensor made of one."
)


@contextlib.contextmanager
def reading_losses(model: Any) -> Iterator[None]:
    """Within it, schedules count the steps of the optimizer of `model`, or of one around it."""
    outermost = _reading.get()
    token = _reading.set(model if outermost is None else outermost)
    try:
        yield
    finally:
        _reading.reset(token)


@contextlib.contextmanager
def training_step(model: Any, is_keras_own: bool) -> Iterator[None]:
    """A step of `model`, by Keras's own `train_step` or, not `is_keras_own`, by its class's.

    Raises a RuntimeError if a schedule counts the steps of an optimizer that takes none.
    """
    token = _training.set(_Training(model, is_keras_own))
    try:
        yield
        counted = _training.get().counted
    finally:
        _training.reset(token)
    for optimizer, has_moved in counted:
        if not backend.is_built(optimizer) and has_moved():
            raise RuntimeError(_takes_no_step(optimizer, model.name))


def count(optimizer: Any, has_moved: Callable[[], bool]) -> None:
    """Notes that a schedule counts the steps of `optimizer`, if a step is being taken."""
    training = _training.get()
    if training is not None and training.model is _reading.get():
        training.counted.append((optimizer, has_moved))


def optimizer_of(holder: Any) -> Any:
    """The optimizer whose steps a schedule on `holder`, a penalized model, counts."""
    model = _reading.get()
    if model is None and backend.is_writing_saved_model():
        model = holder  # tf_keras traces its losses on their own
    if model is None:
        raise UnknownStepError(
            f"The schedule of a penalty over the model {holder.name!r} counts the steps of the "
            "optimizer that trains it, which cannot be known here: another model or layer around "
            "it reads its losses. Add the penalty to the outermost model, or say "
            "whose steps to count: tfreg.add_penalty(..., schedule=..., step=outer.optimizer)."
        )
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise UnknownStepError(
            "The schedule of a penalty counts the steps of the model's optimizer, and the model "
            f"{model.name!r} has none. Compile it, or, for a loop of your own, set "
            "model.optimizer or say whose steps to count: "
            "tfreg.add_penalty(..., schedule=..., step=optimizer). A schedule without a step "
            "belongs on the outermost model, whose optimizer trains."
        )
    return optimizer


def _is_known_to_step(optimizer: Any) -> bool:
    """Whether `optimizer` surely takes the step that is being taken."""
    training = _training.get()
    return (
        training is not None
        and training.is_keras_own
        and getattr(training.model, "optimizer", None) is optimizer
        and backend.counts_its_steps(optimizer)
    )


def _takes_no_step(optimizer: Any, name: str) -> str:
    return (
        f"The schedule of a penalty over the model {name!r} counts the steps of an optimizer, "
        f"{type(optimizer).__name__}, which takes none while the weights change: the schedule "
        "would stand still. If another one trains them, say so: tfreg.add_penalty(..., "
        "schedule=..., step=optimizer). If none trains them, give the step as a function: "
        "step=lambda: optimizer.iterations."
    )


class StandstillCheck:
    """Detects that weights are trained while the step of the counted optimizer stands still.

    For training steps other than Keras's own: each time the gradient of the penalty is taken, it
    checks that the weights have changed at most a few times within the step. It is off for
    parameter servers, whose workers do not wait for each other: they may take any number of
    gradients at one step.
    """

    def __init__(self, model: Any) -> None:
        self._name = model.name
        strategy = model.distribute_strategy
        self.is_off = backend.is_asynchronous(strategy)
        if not self.is_off:
            with tf.init_scope(), strategy.scope():
                self._step = _state(-1, tf.int64)
                self._value = _state(0.0, tf.float64)
                self._moves = _state(0, tf.int64)
                self._stands_still = _state(False, tf.bool)

    @property
    def variables(self) -> list[tf.Variable]:
        if self.is_off:
            return []
        return [self._step, self._value, self._moves, self._stands_still]

    def watch(self, value: tf.Tensor, optimizer: Any, schedule: Callable) -> tf.Tensor:
        """The `value` of a penalty; its gradient raises an error once the step stands still.

        A function that XLA compiles cannot raise: there the value becomes NaN.
        """
        if self.is_off or _is_known_to_step(optimizer):
            return value
        step = current(optimizer)

        @tf.custom_gradient
        def watched(value: tf.Tensor) -> tuple[tf.Tensor, Callable]:
            def pullback(upstream: tf.Tensor) -> tf.Tensor:
                with tf.control_dependencies(self._look(value, step, optimizer, schedule)):
                    return tf.identity(upstream)

            return tf.identity(value), pullback

        stands_still = self._stands_still & tf.equal(tf.cast(step, tf.int64), self._step)
        goes_on = tf.cast(~stands_still, value.dtype)
        return watched(value) + tf.zeros_like(goes_on) / goes_on  # 0 or NaN

    def _look(
        self, value: tf.Tensor, step: tf.Tensor, optimizer: Any, schedule: Callable
    ) -> list[tf.Operation]:
        """Raises an error if the step stands still; in a graph, the operations that do."""
        value = tf.cast(tf.stop_gradient(value), tf.float64)
        is_settled = _is_constant_from(step, schedule)
        step = tf.cast(step, tf.int64)
        is_same_step = tf.equal(step, self._step)
        has_moved = tf.not_equal(value, self._value) & tf.math.is_finite(value) & ~is_settled
        moves = tf.where(is_same_step, self._moves + tf.cast(has_moved, tf.int64), 0)
        too_many = moves > MOST_MOVES
        self._stands_still.assign(is_same_step & (self._stands_still | too_many))
        self._step.assign(step)
        self._value.assign(value)
        self._moves.assign(tf.where(too_many, tf.zeros_like(moves), moves))
        message = _takes_no_step(optimizer, self._name)
        if not tf.executing_eagerly():
            return [tf.debugging.Assert(~too_many, [message, step])]
        if too_many:
            raise RuntimeError(message)
        return []


def _is_constant_from(step: tf.Tensor, schedule: Callable) -> tf.Tensor:
    """Whether `schedule` has ended at `step`, so that no later step would change it."""
    now, soon, late = (
        tf.convert_to_tensor(schedule(each))
        for each in (step, step + 1, tf.constant(_LATE, step.dtype))
    )
    return tf.equal(now, soon) & tf.equal(now, late)


def _state(value: Any, dtype: tf.DType) -> tf.Variable:
    # One a replica, without communication: all see the same steps.
    return tf.Variable(
        value,
        dtype=dtype,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
