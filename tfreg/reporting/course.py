"""What a value is along an epoch, measured before some of its steps."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

# How far apart it is measured: the steps that are done, divided by this. So the first steps, in
# which it may fall fast, are measured one by one.
_APART = 2


class Course:
    """The values before some of an epoch's steps; tensors until the end, so that nobody waits."""

    def __init__(self) -> None:
        self._first: int | None = None
        self._measured_at: list[int] = []
        self._values: list[tf.Tensor] = []
        self._next = 0
        self._executions, self._last = 0, -1

    def begin(self, batch: int, measure: Callable[[], tf.Tensor] | None) -> None:
        """Measures before the step with that number, if it is time to and it can be."""
        if self._first is None:  # not 0 if training goes on in the middle of an epoch
            self._first = batch
        step = batch - self._first
        if step >= self._next and measure is not None:
            self._measured_at.append(step)
            self._values.append(measure())
            self._next = step + max(1, step // _APART)

    def end(self, batch: int) -> None:
        """Counts the execution that ends with that step, or that begins with it."""
        self._executions += 1
        self._last = batch

    def steps(self, at_once: int, planned: int | None) -> int:
        """How many steps ended, with so many in each execution but perhaps the last one."""
        first = self._first or 0
        done = max(self._last + 1 - first, self._executions * at_once)
        return done if planned is None else min(done, planned - first)

    def mean(self, steps: int, value_at_end: float) -> float:
        """The mean of the values before each of so many steps, linear between those measured."""
        at = [*self._measured_at, steps]
        values = [*map(float, self._values), value_at_end]
        return float(np.mean(np.interp(np.arange(steps), at, values)))
