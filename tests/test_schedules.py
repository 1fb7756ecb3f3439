"""The multiplier of a strength as a function of the step."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tfreg import schedules
from tfreg.schedules import CubicRamp

STEPS = [0, 1, 99, 100, 101, 137, 199, 200, 201, 10**9]


def oracle(step, begin, end, start, peak):
    t = np.clip((step - begin) / (end - begin), 0, 1)
    return peak + (start - peak) * (1 - t) ** 3


@pytest.mark.parametrize("start, peak", [(0.0, 1.0), (0.25, 2.0), (1.0, 0.0), (3.0, 3.0)])
def test_cubic_ramp_is_the_oracles(start, peak):
    ramp = CubicRamp(100, 200, start, peak)
    expected = [oracle(step, 100, 200, start, peak) for step in STEPS]
    np.testing.assert_allclose([float(ramp(step)) for step in STEPS], expected, atol=1e-6)
    for jit_compile in (False, True):
        compiled = tf.function(ramp, jit_compile=jit_compile)
        for dtype in (tf.int32, tf.int64):
            values = [float(compiled(tf.constant(step, dtype))) for step in STEPS]
            np.testing.assert_allclose(values, expected, atol=1e-6)


def test_cubic_ramp_does_not_lose_a_late_step():
    begin = 2**40
    ramp = CubicRamp(begin, begin + 4)
    assert [float(ramp(tf.constant(begin + i, tf.int64))) for i in (0, 2, 4)] == [0.0, 0.875, 1.0]


def test_cubic_ramp_makes_its_config_again(api):
    ramp = CubicRamp(np.int64(3), 7, start=1 / 3, peak=2)
    config = {"begin": 3, "end": 7, "start": 1 / 3, "peak": 2.0}
    assert ramp.get_config() == config and type(ramp.get_config()["begin"]) is int
    again = api.saving.deserialize_keras_object(api.saving.serialize_keras_object(ramp))
    assert type(again) is CubicRamp and again.get_config() == config
    assert repr(again) == "CubicRamp(begin=3, end=7, start=0.3333333333333333, peak=2.0)"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"begin": -1, "end": 5}, "`begin`.*-1"),
        ({"begin": 0.5, "end": 5}, "`begin`.*0.5"),
        ({"begin": True, "end": 5}, "`begin`.*True"),
        ({"begin": 0, "end": "5"}, "`end`.*'5'"),
        ({"begin": 5, "end": 5}, "`end`.*`begin`.*5, end=5"),
        ({"begin": 0, "end": 5, "start": -0.1}, "`start`.*-0.1"),
        ({"begin": 0, "end": 5, "peak": float("nan")}, "`peak`.*nan"),
        ({"begin": 0, "end": 5, "peak": "1"}, "`peak`.*'1'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        CubicRamp(**arguments)


def lr_schedules():
    for api in (keras, tf_keras):
        yield api.optimizers.schedules.CosineDecay(0.3, 10)


@pytest.mark.parametrize("schedule", [None, CubicRamp(0, 5), *lr_schedules()])
def test_what_is_a_schedule(schedule):
    assert schedules.check_schedule(schedule) is schedule


class Unregistered:
    def __call__(self, step):
        return 1.0

    def get_config(self):
        return {}


class UnregisteredSchedule(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 1.0

    def get_config(self):
        return {}


def unregistered(step):
    return 1.0


@pytest.mark.parametrize(
    "schedule", [lambda step: 1.0, unregistered, Unregistered(), UnregisteredSchedule(), print]
)
def test_what_a_saved_model_could_not_name_is_refused(schedule):
    with pytest.raises(ValueError, match="`schedule` must be registered.*Received"):
        schedules.check_schedule(schedule)


@pytest.mark.parametrize("schedule", [1.0, "ramp", CubicRamp, tf.constant(1.0)])
def test_what_is_no_callable_is_refused(schedule):
    with pytest.raises(TypeError, match="`schedule` must be None"):
        schedules.check_schedule(schedule)


def test_a_schedule_must_return_a_scalar(api):
    optimizer = api.optimizers.SGD()
    with pytest.raises(ValueError, match=r"scalar.*\(2,\)"):
        schedules.multiplier(lambda step: tf.ones([2]), optimizer, tf.float32)
    value = schedules.multiplier(lambda step: 0.5, optimizer, tf.float64)
    assert value.dtype == tf.float64 and float(value) == 0.5
