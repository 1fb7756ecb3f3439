"""What the penalties of a model are along an epoch, measured before some of its steps."""

from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import tensorflow as tf

from tfreg import schedules, steps
from tfreg.inventory import Model
from tfreg.model.attached import unscheduled_values
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


def total(sample: Sample) -> float:
    """The sum of all penalties."""
    measured = (part.measured for part in sample.values())
    return sum(float(each.multiplier) * float(each.value) for each in measured)


class Meter:
    """Measures the penalties on the weights of a model that are trained now."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._keys: list[Key] = []
        self._multipliers: dict[Key, Callable[[np.ndarray], np.ndarray]] = {}
        # What runs eagerly may have schedules that only do so.
        is_eager = model.run_eagerly
        self._measure = self._sums if is_eager else tf.function(self._sums, autograph=False)
        self._along = _one_by_one if is_eager else _in_a_graph

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
            self._multipliers[key] = self._along(schedule, step.dtype)
        return Measured(value, schedules.multiplier(schedule, source, tf.float64), step)


def _in_a_graph(schedule: Schedule, dtype: tf.DType) -> Callable[[np.ndarray], np.ndarray]:
    @tf.function(input_signature=[tf.TensorSpec([None], dtype)], autograph=False)
    def along(at: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(
            lambda step: schedules.multiplier(schedule, lambda: step, tf.float64),
            at,
            fn_output_signature=tf.float64,
        )

    def multipliers(at: np.ndarray) -> np.ndarray:
        with tf.device("CPU:0"):  # a step is too little work for another device
            return along(tf.constant(at, dtype)).numpy()

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

    def end(self, batch: int) -> None:
        """Counts the execution that ends with that step, or that begins with it."""
        self._executions += 1
        self._last = batch

    def steps(self, at_once: int, planned: int | None) -> int:
        """How many steps ended, with so many in each execution but perhaps the last one."""
        first = self._first or 0
        done = max(self._last + 1 - first, self._executions * at_once)
        return done if planned is None else min(done, planned - first)

    def mean(self, steps: int, at_end: Sample) -> float:
        """The mean of the penalties before each of so many steps.

        Values without schedules, and what these count, go straight from one sample to the next.
        """
        at, samples = [*self._measured_at, steps], [*self._samples, at_end]
        return sum(_mean(steps, key, at, samples) for key in dict.fromkeys(chain(*samples)))


def _mean(steps: int, key: Key, at: list[int], samples: list[Sample]) -> float:
    """That of the penalties that share a schedule; 0 where they were not trained."""
    here = np.arange(steps)
    values = [float(each[key].measured.value) if key in each else 0.0 for each in samples]
    along = np.interp(here, at, values)
    multipliers = next(each[key].multipliers for each in samples if key in each)
    if multipliers is not None:
        steps_counted = np.interp(here, *_counts(key, at, samples))
        distinct, places = np.unique(_whole(steps_counted), return_inverse=True)
        along *= multipliers(distinct)[places]
    return float(np.mean(along))


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
