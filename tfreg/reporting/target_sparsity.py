"""TargetSparsity: drives the strength of proximal steps until enough is zero."""

import functools
import math
from typing import Any, Literal

import tensorflow as tf

from tfreg import backend, steps
from tfreg.checks import check_number, check_positive, is_int
from tfreg.reporting.logs import add_to_logs

OF = ("groups", "elements")
# Once it is to be reached: what is about to become zero, by the measurement after the next.
_MEASUREMENTS_AHEAD = 2
# How what may be about to become zero follows the error then, and what it may exceed the target by:
# parts of the target and of the rest.
_SLACK_RATE, _LEAST_SLACK, _MOST_SLACK = 0.02, -0.5, 1.1
# Logarithms of the strength: where it may be, how much it falls at most in one go, and how much it
# rises where it makes nothing zero. Each halving of a range takes a proximal step.
_RANGE, _LARGEST_FALL, _LARGEST_RISE = 20.0, 5.0, 3.0
_HALVINGS, _FIRST_HALVINGS = 7, 10
# The target is a float, as are shares.
_TOLERANCE = 1e-9


class TargetSparsity(backend.Callback):
    """Drives the strength of a `tfreg.Proximal` optimizer's penalties to a share of zeros.

    `strength = min(strength * exp(rate * (target - share)), limit)` every few steps

    `share` is how much of what the penalties are on is exactly 0 by then. `limit` is the strength
    at which the proximal steps alone, without those of the optimizer, would reach the target at the
    step `end`: where gradients oppose it, it rises as the end comes near, and what is to go becomes
    zero bit by bit. From `end` on it looks two measurements ahead, and aims higher or lower as
    zeros come back or more follow. So factors matter only relative to each other: at first the
    strength is the limit. Before `begin` the penalties take no steps. Give it to `fit`: `evaluate`
    with it makes the optimizer wait for its strength too.

    It drives the penalties that make zeros, such as `GroupLasso`, `GroupMCP` and `MCP`, and leaves
    others alone. The optimizer saves the strength and goes on from it, and keeps it in a `fit`
    without this callback. The logs of each epoch have `sparsity`, the share, and `strength`.

    The share is met to about a group if zeros stay, and to some percent if they come and go with
    the noise of the batches. With `freeze_zeros_from` of `tfreg.Proximal` they stay, and what is
    left heals. To meet a cost, exactly, use a `tfreg.Budget`.

    Args:
        target: the share that is to be zero, in (0, 1).
        end: the step of the optimizer by which it is to be, an int above `begin`.
        begin: the step from which on it measures, an int >= 0.
        of: `"groups"`: of the entries of couplings, the groups of other penalties that have groups,
            and the elements under penalties that have none, all counted together. `"elements"`: of
            the elements of all weights that they are on.
        every: how many steps apart it measures, an int >= 1; with several steps per execution,
            after the execution in which that many are complete. A measurement takes as long as
            about ten proximal steps.
        rate: how fast the strength follows the error, a number > 0.

    Raises:
        TypeError, ValueError: for other arguments; at the begin of `fit`, if the optimizer is none
            of `tfreg.Proximal` or has no penalty that makes zeros; at the end of an epoch, if the
            model has a metric named as one of the figures.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu")])
    >>> model.add(keras.layers.Dense(1))
    >>> penalty = (tfreg.couple(model), tfreg.GroupLasso())
    >>> model.compile(tfreg.Proximal(keras.optimizers.Adam(0.01), model, [penalty]), "mse")
    >>> half = tfreg.callbacks.TargetSparsity(0.5, end=400)
    >>> x = tf.random.stateless_normal([256, 8], seed=[0, 0])
    >>> history = model.fit(x, x[:, :1], epochs=100, verbose=0, callbacks=[half])
    >>> 0.4 <= history.history["sparsity"][-1] <= 0.6
    True
    """

    def __init__(
        self,
        target: float,
        end: int,
        begin: int = 0,
        of: Literal["groups", "elements"] = "groups",
        every: int = 10,
        rate: float = 0.3,
    ) -> None:
        super().__init__()
        expected = "a number in (0, 1)"
        self.target = check_number("target", target, expected, lambda share: 0.0 < share < 1.0)
        if not is_int(begin) or begin < 0:
            raise ValueError(f"Argument `begin` must be an int >= 0. Received: begin={begin!r}")
        if not is_int(end) or end <= begin:
            raise ValueError(
                "Argument `end` must be an int above `begin`, a step of the optimizer. "
                f"Received: end={end!r}, begin={begin!r}"
            )
        self.end, self.begin = int(end), int(begin)
        if of not in OF:
            raise ValueError(f"Argument `of` must be one of {OF}. Received: of={of!r}")
        self.of = of
        if not is_int(every) or every < 1:
            raise ValueError(f"Argument `every` must be an int >= 1. Received: every={every!r}")
        self.every = int(every)
        self.rate = check_positive("rate", rate)
        self._proximal_steps: Any = None

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        optimizer = getattr(model, "optimizer", None)
        proximal_steps = backend.proximal_steps_of(optimizer)
        if proximal_steps is None:
            raise ValueError(
                "TargetSparsity drives an optimizer of tfreg.Proximal: compile the model with one. "
                f"Received: optimizer={optimizer!r}"
            )
        optimizer = backend.innermost(optimizer)
        # Not when training begins: then other callbacks may restore variables already.
        if proximal_steps.drive(optimizer):
            backend.renew_compiled_functions(model)
        if proximal_steps is not self._proximal_steps:  # tracing takes long
            share_of_zeros = functools.partial(proximal_steps.share_of_zeros, optimizer, self.of)
            self._share_of_zeros = tf.function(share_of_zeros, autograph=False)
        self._proximal_steps, self._optimizer = proximal_steps, optimizer

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._steps_seen: int | None = None

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # Not when training begins: another callback may restore the steps then.
        if self._steps_seen is None:
            self._steps_seen = self._steps_taken()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        before, now = self._steps_seen or 0, self._steps_taken()
        self._steps_seen = now
        turns = [(step - self.begin) // self.every for step in (before, now)]
        if now >= self.begin and turns[1] > turns[0]:
            self._adjust(now, max(self.every, now - before))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None:
            return
        figures = {
            "sparsity": self._share(0.0),
            "strength": self._strength(),
        }
        add_to_logs(logs, figures, self)

    def _strength(self) -> float:
        return float(tf.convert_to_tensor(self._proximal_steps.strength))

    def _steps_taken(self) -> int:
        return int(steps.current(self._optimizer))

    def _share(self, ahead: float) -> float:
        return float(self._share_of_zeros(tf.constant(ahead, tf.float32)))

    def _adjust(self, step: int, every: int) -> None:
        """Sets the strength for the next `every` steps."""
        proximal_steps = self._proximal_steps
        if not float(proximal_steps.longest_step(self._optimizer)) > 0.0:  # as before its start
            return
        share = self._share(0.0)
        error = self.target - share
        slack = float(tf.convert_to_tensor(proximal_steps.slack))
        if step >= self.end:
            slack += _SLACK_RATE * error
            slack = max(slack, _LEAST_SLACK * self.target)
            slack = min(slack, _MOST_SLACK * (1.0 - self.target))
        ahead = max(self.end - step, _MEASUREMENTS_AHEAD * every)
        strength = self._strength()
        is_first = strength == 0.0
        if is_first:
            most = _RANGE
        else:
            is_idle = error > 0.0 and self._share(ahead * strength) <= share
            change = _LARGEST_RISE if is_idle else self.rate * error
            most = min(math.log(strength) + change, _RANGE)
        if error <= 0.0 and proximal_steps.keeps_zeros(step):
            limited = -_RANGE  # what is left heals
        else:
            limited = self._limited(most, self.target + slack - _TOLERANCE, ahead, is_first)
        proximal_steps.slack.assign(slack)
        proximal_steps.strength.assign(math.exp(limited))

    def _limited(self, most: float, share: float, ahead: int, is_first: bool) -> float:
        """The log of a strength that makes at most that `share` zero `ahead`; not above `most`."""
        if self._share(ahead * math.exp(most)) <= share:
            return most
        low, high = -_RANGE if is_first else max(most - _LARGEST_FALL, -_RANGE), most
        for _ in range(_FIRST_HALVINGS if is_first else _HALVINGS):
            middle = (low + high) / 2.0
            if self._share(ahead * math.exp(middle)) >= share:
                high = middle
            else:
                low = middle
        return (low + high) / 2.0
