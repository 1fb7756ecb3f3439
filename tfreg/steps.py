"""Which step a schedule counts, and whether that is the step of the training that goes on."""

import contextlib
import contextvars

import tensorflow as tf

from tfreg import backend

# How often a loop may change the weights at one step: to look ahead of it, for instance.
MOST_MOVES = 2
# The model whose losses are being read, the outermost of nested ones.
_reading: contextvars.ContextVar = contextvars.ContextVar("reading", default=None)
# The model that takes a step, and what the schedules have read of its optimizer.
_training: contextvars.ContextVar = contextvars.ContextVar("training", default=None)


def check_step(step, schedule):
    """`step` if it is None or tells the step that the `schedule` is to count."""
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


def current(source):
    """The step that `source`, an optimizer, a variable or a function, is at, as a tensor."""
    # Keras 3.8 counts the steps in what a LossScaleOptimizer wraps, and not in itself.
    optimizer = getattr(source, "inner_optimizer", source)
    if hasattr(optimizer, "iterations"):
        return tf.convert_to_tensor(optimizer.iterations)
    step = tf.convert_to_tensor(source if backend.is_variable(source) else source())
    if step.shape.rank != 0 or not step.dtype.is_integer:
        raise ValueError(
            "Argument `step` must return a scalar integer. "
            f"Received: a tensor of shape {step.shape} and dtype {step.dtype.name} from {source!r}"
        )
    return step


@contextlib.contextmanager
def reading_losses(model):
    """While the losses of `model` are read, its optimizer trains what they are losses of."""
    outermost = _reading.get()
    token = _reading.set(model if outermost is None else outermost)
    try:
        yield
    finally:
        _reading.reset(token)


@contextlib.contextmanager
def training_step(model, is_keras_own):
    """A step of `model`, as Keras takes it or, not `is_keras_own`, as the model's class does.

    Raises a RuntimeError if a schedule counts the steps of an optimizer that takes none.
    """
    token = _training.set({"model": model, "is_keras_own": is_keras_own, "counted": None})
    try:
        yield
        optimizer = _training.get()["counted"]
    finally:
        _training.reset(token)
    if optimizer is not None and not backend.is_built(optimizer):
        raise RuntimeError(_not_trained_by(model.name, optimizer))


def optimizer_of(holder):
    """The optimizer whose steps a schedule on `holder`, a penalized model, counts."""
    model = _reading.get()
    if model is None:
        raise RuntimeError(
            f"The schedule of a penalty over the model {holder.name!r} counts the steps of the "
            "optimizer that trains it, and which that is cannot be known here: another model or "
            "layer around it reads its losses. Add the penalty to the outermost model, or say "
            "whose steps to count: tfreg.add_penalty(..., schedule=..., step=outer.optimizer)."
        )
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise RuntimeError(
            "The schedule of a penalty counts the steps of the model's optimizer, and the model "
            f"{model.name!r} has none. Compile it, or, for a loop of your own, set "
            "model.optimizer or say whose steps to count: "
            "tfreg.add_penalty(..., schedule=..., step=optimizer). Without a step, a schedule goes "
            "on the outermost model, whose optimizer steps."
        )
    if (training := _training.get()) is not None and training["model"] is model:
        training["counted"] = optimizer
    return optimizer


def is_known_to_step():
    """Whether the optimizer of the model whose losses are read takes the step that goes on."""
    training = _training.get()
    return (
        training is not None and training["is_keras_own"] and training["model"] is _reading.get()
    )


def _not_trained_by(name, optimizer):
    return (
        f"The schedule of a penalty counts the steps of the optimizer of the model {name!r}, "
        f"which is {type(optimizer).__name__}, but another one trains its weights: the schedule "
        "would stand still. Say whose steps to count: "
        "tfreg.add_penalty(..., schedule=..., step=optimizer)."
    )


class StandstillCheck:
    """Finds, in a loop of the user's own, that weights are trained while the step stands still.

    It sees the gradient of the penalty taken: at each step a loop does so with one value of the
    weights, and with a few at most if it looks ahead. Parameter servers train without waiting for
    each other, so that many values are seen at one step: there it is off.
    """

    def __init__(self, model):
        self._name = model.name
        strategy = model.distribute_strategy
        self._is_off = backend.is_asynchronous(strategy)
        if not self._is_off:
            with tf.init_scope(), strategy.scope():
                self._step = _state(-1, tf.int64)
                self._value = _state(0.0, tf.float64)
                self._moves = _state(0, tf.int64)

    def watch(self, value, optimizer):
        """`value`, of a penalty, which raises an error once the optimizer's step stands still.

        A function that XLA compiles cannot raise: there the gradient becomes NaN.
        """
        if self._is_off:
            return value
        step = current(optimizer)

        @tf.custom_gradient
        def watched(value):
            def pullback(upstream):
                return upstream + tf.cast(self._poison(value, step, optimizer), upstream.dtype)

            return tf.identity(value), pullback

        return watched(value)

    def _poison(self, value, step, optimizer):
        """0, or NaN and an error where there is one."""
        step = tf.cast(tf.stop_gradient(step), tf.int64)
        value = tf.cast(tf.stop_gradient(value), tf.float64)
        has_moved = tf.not_equal(value, self._value) & tf.math.is_finite(value)
        moves = tf.where(
            tf.equal(step, self._step), self._moves + tf.cast(has_moved, tf.int64), 0
        )
        self._step.assign(step)
        self._value.assign(value)
        self._moves.assign(moves)
        stands_still = moves > MOST_MOVES
        message = _not_trained_by(self._name, optimizer)
        if tf.executing_eagerly():
            if stands_still:
                raise RuntimeError(message)
            return 0.0
        with tf.control_dependencies([tf.debugging.Assert(~stands_still, [message, step])]):
            return tf.where(stands_still, float("nan"), 0.0)


def _state(value, dtype):
    # Each replica keeps its own: they see the same steps.
    return tf.Variable(
        value,
        dtype=dtype,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
