"""Multipliers of a penalty's strength, as functions of the optimizer's step."""

from typing import Any

import tensorflow as tf

from tfreg import backend, steps
from tfreg.checks import check_arguments, check_int, check_strength
from tfreg.read_only import ReadOnly

__all__ = ["CubicRamp"]


def check_schedule(schedule: Any) -> Any:
    """Returns `schedule` if it is None or a callable of the step that a saved model can name."""
    if schedule is not None and not backend.is_schedule(check_kind(schedule)):
        backend.check_registered("schedule", schedule)
    return schedule


def check_kind(schedule: Any) -> Any:
    """Returns `schedule` if it is a callable of the step, registered or not."""
    is_other = isinstance(schedule, type) or backend.is_regularizer(schedule)
    if is_other or not callable(schedule):
        raise TypeError(
            "Argument `schedule` must be None, a LearningRateSchedule or a registered callable of "
            f"the step. Received: schedule={schedule!r}"
        )
    return schedule


def multiplier(schedule: Any, step: Any, dtype: tf.DType) -> tf.Tensor:
    """The factor that `schedule` gives the strength at the `step`, a source for `steps.current`."""
    value = tf.convert_to_tensor(schedule(steps.current(step)))
    if value.shape.rank != 0:
        raise ValueError(
            "Argument `schedule` must return a scalar. "
            f"Received: a tensor of shape {value.shape} from {schedule!r}"
        )
    return tf.cast(value, dtype)


@backend.register
class CubicRamp(ReadOnly):
    """A ramp that rises fast at first and levels off: the warm-up of a penalty.

    `peak + (start - peak) * (1 - t)^3` with `t = (step - begin) / (end - begin)` clipped to [0, 1]

    Args:
        begin: the step of the optimizer at which the ramp begins, an int >= 0.
        end: the step at which it ends, an int > `begin`.
        start: the multiplier of the strength until `begin`, a finite number >= 0.
        peak: the multiplier from `end` on, a finite number >= 0.

    Raises:
        ValueError: if `begin` or `end` is not such an int, or `start` or `peak` is out of range.
        TypeError: if `start` or `peak` is not a number.

    Example:

    >>> ramp = tfreg.schedules.CubicRamp(begin=100, end=200)
    >>> [float(ramp(step)) for step in (0, 100, 150, 200, 1000)]
    [0.0, 0.0, 0.875, 1.0, 1.0]

    Reference:
        Zhu and Gupta, To prune, or not to prune: exploring the efficacy of pruning for model
        compression, 2017.
    """

    _instead = (
        "Make another schedule, and add its penalty with it: tfreg.remove_penalties(model), then "
        "tfreg.add_penalty."
    )

    def __init__(self, begin: int, end: int, start: float = 0.0, peak: float = 1.0) -> None:
        self.begin = check_int("begin", begin, 0)
        self.end = check_int("end", end, 0)
        if self.end <= self.begin:
            raise ValueError(
                f"Argument `end` must be above `begin`. Received: begin={begin!r}, end={end!r}"
            )
        self.start = check_strength("start", start)
        self.peak = check_strength("peak", peak)

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        """Returns the multiplier at a step.

        Args:
            step: an int, or a scalar tensor of an integer dtype.

        Returns:
            A scalar tensor of float32.
        """
        # Subtract as integers: past 2^24 float32 does not tell one step from the next.
        elapsed = tf.cast(step, tf.int64) - self.begin
        t = tf.cast(elapsed, tf.float32) / float(self.end - self.begin)
        rest = 1.0 - tf.clip_by_value(t, 0.0, 1.0)
        return self.peak + (self.start - self.peak) * rest**3

    def get_config(self) -> dict[str, int | float]:
        return {
            "begin": self.begin,
            "end": self.end,
            "start": self.start,
            "peak": self.peak,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "CubicRamp":
        return cls(**check_arguments(cls, config))

    def __repr__(self) -> str:
        return (
            f"CubicRamp(begin={self.begin}, end={self.end}, start={self.start}, peak={self.peak})"
        )
