"""What the penalties of a model are along an epoch, measured before some of its steps."""

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from tfreg import backend, schedules, steps
from tfreg.inventory import Model
from tfreg.model.attached import get_penalties, unscheduled_values
from tfreg.model.terms import Schedule

# How far apart it is measured: the steps that are done, divided by this. So the first steps, in
# which the weights may move fast, are measured one by one. A short epoch has the wider gaps: there
# each measurement counts in its time.
_APART, _APART_AT_FIRST, _WIDEST_AT_FIRST = 8, 4, 16
# After so large a change of a multiplier, as a share of its largest, the weights may move fast
# again. So often in an epoch at most.
_CHANGE, _MOST_CHANGES = 1 / 8, 16
# At so many places it looks for such a change until the next measurement.
_LOOKS = 64


# The schedule, and what it counts.
Key: TypeAlias = tuple[int, int]


class Measured(NamedTuple):
    """The sum of the penalties that share a schedule, without it, and what it gives at its step.

    Those without a schedule have a multiplier of 1 and no step. Tensors, so that nobody waits for
    them before the end.
    """

    value: tf.Tensor
    multiplier: tf.Tensor
    step: tf.Tensor | None


class Part(NamedTuple):
    """What was measured, and a function that gives the multipliers at an array of steps."""

    measured: Measured
    multipliers: Callable[[np.ndarray], np.ndarray] | None


Sample: TypeAlias = dict[Key, Part]
# Totals and counts by the names of metrics.
Means: TypeAlias = Mapping[str, tuple[Any, Any]]


def total(sample: Sample) -> float:
    """The sum of all penalties."""
    measured = (part.measured for part in sample.values())
    return sum(float(each.multiplier) * float(each.value) for each in measured)


class Meter:
    """Measures the penalties on the weights of a model that are trained now."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._measured_things = _things(model)
        self._weights = backend.trainable_weights(model)
        self._keys: list[Key] = []
        self._multipliers: dict[Key, Callable[[np.ndarray], np.ndarray]] = {}
        # What runs eagerly may have schedules that only do so.
        self._multipliers_of = _one_by_one if model.run_eagerly else _in_a_graph
        self._measure: Callable[[], list[Measured]] = self._sums
        if not model.run_eagerly:
            # Concrete, as TensorFlow warns of functions that are traced anew in each training.
            self._measure = tf.function(self._sums, autograph=False).get_concrete_function()

    def has_weights_of(self, model: Model) -> bool:
        """Whether those that are trained in `model` are still these."""
        return _are_same(backend.trainable_weights(model), self._weights)

    def measures(self, model: Model) -> bool:
        """Whether it measures what is on the weights of `model`."""
        return _are_same(_things(model), self._measured_things) and self.has_weights_of(model)

    def sample(self) -> Sample:
        measured = self._measure()
        parts = [Part(each, self._multipliers.get(key)) for key, each in zip(self._keys, measured)]
        return dict(zip(self._keys, parts))

    def _sums(self) -> list[Measured]:
        values: dict[Key, list[tf.Tensor]] = {}
        counts: dict[Key, tuple[Schedule | None, Any]] = {}
        for value, schedule, source in unscheduled_values(self._model):
            key = id(schedule), id(source)
            values.setdefault(key, []).append(tf.cast(value, tf.float64))
            counts[key] = schedule, source
        self._keys = list(values)
        return [self._measured(key, tf.add_n(values[key]), *counts[key]) for key in values]

    def _measured(
        self, key: Key, value: tf.Tensor, schedule: Schedule | None, source: Any
    ) -> Measured:
        if schedule is None:
            return Measured(value, tf.ones([], tf.float64), None)
        step = steps.current(source)
        if key not in self._multipliers:
            self._multipliers[key] = self._multipliers_of(schedule, step.dtype)
        return Measured(value, schedules.multiplier(schedule, source, tf.float64), step)


def _things(model: Model) -> list[Any]:
    """What a value depends on besides weights and steps."""
    attached = get_penalties(model)
    things = [model, getattr(model, "optimizer", None), model.run_eagerly]
    return things + [thing for each in attached for thing in (each.penalty, each.schedule)]


def _are_same(these: list[Any], those: list[Any]) -> bool:
    return len(these) == len(those) and all(a is b for a, b in zip(these, those))


def _in_a_graph(schedule: Schedule, dtype: tf.DType) -> Callable[[np.ndarray], np.ndarray]:
    def along(at: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(
            lambda step: schedules.multiplier(schedule, lambda: step, tf.float64),
            at,
            fn_output_signature=tf.float64,
        )

    signature = [tf.TensorSpec([None], dtype)]
    with tf.init_scope():  # from within the trace of what is measured
        traced = tf.function(along, signature, autograph=False).get_concrete_function()

    def multipliers(at: np.ndarray) -> np.ndarray:
        with tf.device("CPU:0"):  # a step is too little work for another device
            return traced(tf.constant(at, dtype)).numpy()

    return multipliers


def _one_by_one(schedule: Schedule, dtype: tf.DType) -> Callable[[np.ndarray], np.ndarray]:
    def multiplier(step: tf.Tensor) -> float:
        return float(schedules.multiplier(schedule, lambda: step, tf.float64))

    return lambda at: np.array([multiplier(tf.constant(step, dtype)) for step in at])


class Course:
    """The penalties before some of an epoch's steps."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._measured_at: list[int] = []
        self._samples: list[Sample] = []
        self._next = 0
        self._changed_at, self._changes = 0, 0
        self._largest: dict[Key, float] = {}
        self._executions, self._last = 0, -1
        self._means_at_first: Means = {}

    def begin(self, batch: int, sample: Callable[[], Sample] | None) -> None:
        """Measures before the step with that number, if it is time to and it can be."""
        if self._first is None:  # not 0 if training goes on in the middle of an epoch
            self._first = batch
        step = batch - self._first
        if step >= self._next and sample is not None:
            self._measured_at.append(step)
            self._samples.append(sample())
            self._next = step + self._apart(step)

    def _apart(self, step: int) -> int:
        """How many steps after this one to measure again: before it, if a multiplier changes."""
        done = step - self._changed_at
        apart = max(done // _APART, min(done // _APART_AT_FIRST, _WIDEST_AT_FIRST), 1)
        if len(self._samples) < 2 or self._changes == _MOST_CHANGES:
            return apart
        ahead = np.unique(np.linspace(0, apart, _LOOKS).astype(int))
        has_changed = np.zeros(len(ahead), bool)
        for key, part in self._samples[-1].items():
            if part.multipliers is not None:
                multipliers = part.multipliers(self._steps_ahead(key, step + ahead))
                self._largest[key] = max(self._largest.get(key, 0.0), np.abs(multipliers).max())
                has_changed |= np.abs(multipliers - multipliers[0]) > _CHANGE * self._largest[key]
        if not has_changed.any():
            return apart
        apart = int(ahead[has_changed.argmax()])
        self._changed_at = step + apart
        self._changes += 1
        return apart

    def _steps_ahead(self, key: Key, at: np.ndarray) -> np.ndarray:
        """What a schedule will count there, if it goes on as it did."""
        # The last sample may not be computed yet, and is not waited for.
        where, counts = _counts(key, self._measured_at[:-1], self._samples[:-1])
        if len(where) < 2:
            return _whole(counts[0] + at - where[0]) if where else at
        rate = (counts[-1] - counts[0]) / (where[-1] - where[0])
        return counts[-1] + _whole(rate * (at - where[-1]))

    def end(self, batch: int, model: Model) -> None:
        """Counts the execution that ends with that step, or that begins with it."""
        if not self._executions:
            self._means_at_first = backend.means_in_metrics(model)
        self._executions += 1
        self._last = batch

    def steps(self, at_once: int, planned: int | None) -> int:
        """How many steps ended, with so many in each execution but perhaps the last one."""
        first = self._first or 0
        # Keras 3.8 tells the first step of an execution at its end, others tell its last.
        done = max(self._last + 1 - first, self._executions * at_once)
        return done if planned is None else min(done, planned - first)

    def shares(self, steps: int, at_once: int, loss: float, means: Means) -> np.ndarray:
        """How much each of so many steps counts in the `loss` that `fit` tells, in sum 1.

        Args:
            steps, at_once: how many steps there were, and in each execution.
            loss: what `fit` tells.
            means: those in the metrics at the end of the epoch, of which one is the loss. Where
                none is, a train step of the user's own tells the loss of the last step.
        """
        shares = np.zeros(steps)
        shares[-1] = 1.0
        for name, (total, count) in means.items():
            if float(count) > 0.0 and np.isclose(float(total) / float(count), loss, rtol=1e-5):
                _, at_first = self._means_at_first.get(name, (0.0, 0.0))
                of_step = float(at_first) / min(at_once, steps)
                if of_step > 0.0:
                    # All batches are as large as the first one, but perhaps the last.
                    shares[:] = of_step
                    shares[-1] = max(float(count) - of_step * (steps - 1), 0.0)
                break
        return shares / shares.sum()

    def mean(self, shares: np.ndarray, at_end: Sample) -> float:
        """The mean of the penalties before each step, which have these `shares` in it.

        Values without schedules, and what these count, go straight from one sample to the next.
        """
        at, samples = [*self._measured_at, len(shares)], [*self._samples, at_end]
        found = (_along(len(shares), key, at, samples) for key in dict.fromkeys(chain(*samples)))
        return sum(float(shares @ along) for along in found)


def _along(steps: int, key: Key, at: list[int], samples: list[Sample]) -> np.ndarray:
    """The penalties that share a schedule before each step; 0 where they were not trained."""
    here = np.arange(steps)
    values = [float(each[key].measured.value) if key in each else 0.0 for each in samples]
    multipliers = next(each[key].multipliers for each in samples if key in each)
    if multipliers is None:
        return np.interp(here, at, values)
    measured = [float(each[key].measured.multiplier) if key in each else 0.0 for each in samples]
    where, counts = _counts(key, at, samples)
    again = multipliers(np.array(counts))
    if not np.allclose(again, [m for m, each in zip(measured, samples) if key in each], rtol=1e-5):
        # What the schedule gives depends on more than the step.
        return np.interp(here, at, np.multiply(values, measured))
    distinct, places = np.unique(_whole(np.interp(here, where, counts)), return_inverse=True)
    return np.interp(here, at, values) * multipliers(distinct)[places]


def _counts(key: Key, at: list[int], samples: list[Sample]) -> tuple[list[int], list[int]]:
    """The places where a schedule was measured, and what it counted there."""
    places, counts = [], []
    for where, sample in zip(at, samples):
        step = sample[key].measured.step if key in sample else None
        if step is not None:
            places.append(where)
            counts.append(int(step))
    return places, counts


def _whole(counts: np.ndarray) -> np.ndarray:
    return np.floor(counts + 1e-6).astype(np.int64)  # what rounding left below a step is that step
