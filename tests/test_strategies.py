"""Penalties under the strategies of tf.distribute, with each Keras: what README's table says."""

import functools
import re

import clusters
import jobs
import keras
import model_cases as cases
import numpy as np
import pytest
import tensorflow as tf
from cases import CASES, JOINT_CASES

import tfreg

@functools.cache
def holder_class(api):
    class Holder(api.layers.Layer):
        """Holds weights for penalties to train; its inputs pass through it.

        Penalties alone train them, for where these have kinks, the rounding of anything else can
        decide to which side a weight goes.
        """

        def __init__(self, shapes, regularizers):
            super().__init__()
            self.held = [
                self.add_weight(
                    name=f"w{i}", shape=shape, initializer="glorot_normal", regularizer=regularizer
                )
                for i, (shape, regularizer) in enumerate(zip(shapes, regularizers, strict=True))
            ]

        def call(self, x):
            return x

    return Holder


def penalized_by_every_case(api):
    """A weight for each penalty of the tables, as an argument or by add_penalty, and joint ones."""
    holder, each = holder_class(api), [(3, 4, 5, 2, 3)] * len(CASES)
    own = holder(each, [case.penalty for case in CASES])
    added = holder(each, [None] * len(CASES))
    shapes = [shape for case in JOINT_CASES for shape in case.shapes]
    joint = holder(shapes, [None] * len(shapes))
    x = api.Input((6,))
    y = api.layers.BatchNormalization(synchronized=True)(api.layers.Dense(5)(x))
    model = api.Model(x, api.layers.Dense(2)(joint(added(own(y)))))
    schedules = [None, cases.RAMP]
    for i, (case, weight) in enumerate(zip(CASES, added.held)):
        tfreg.add_penalty(model, case.penalty, [weight], schedules[i % 2])
    left = list(joint.held)
    for i, case in enumerate(JOINT_CASES):
        weights, left = left[: len(case.shapes)], left[len(case.shapes) :]
        tfreg.add_penalty(model, case.penalty, weights, schedules[i % 2])
    return model


def trained(build, api, strategy, optimizer=None, data_weight=1.0):
    """The losses of ten steps on the same batch, and the weights behind them."""
    api.utils.set_random_seed(3)
    with strategy.scope():
        model = build(api)
        model.compile(
            api.optimizers.SGD(1e-4) if optimizer is None else optimizer(),
            api.losses.MeanSquaredError(),
            loss_weights=[data_weight],
            jit_compile=False,
        )
    x, y = (array[: cases.BATCH] for array in cases.data())
    history = model.fit(x, y, batch_size=cases.BATCH, epochs=10, shuffle=False, verbose=0)
    return history.history["loss"], [w.numpy() for w in model.weights]


def assert_trained_alike(result, expected, tolerance=1e-5):
    assert len(set(expected[0])) == len(expected[0])  # each step changed something
    np.testing.assert_allclose(result[0], expected[0], rtol=tolerance)
    for actual, weight in zip(result[1], expected[1], strict=True):
        np.testing.assert_allclose(actual, weight, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_two_and_four_devices_train_every_penalty_as_one_does(api):
    one, two, four = (
        trained(penalized_by_every_case, api, strategy)
        for strategy in (tf.distribute.get_strategy(), cases.mirrored(2), cases.mirrored(4))
    )
    assert_trained_alike(two, one)
    assert_trained_alike(four, one)


def with_normalization(api):
    return cases.penalized_in_every_way(api, api.layers.BatchNormalization(synchronized=True))


# Half types round the activations of a batch and of its parts differently; penalties are of
# float32 weights.
@pytest.mark.parametrize("data_weight, tolerance", [(1.0, 5e-3), (0.0, 1e-5)])
def test_devices_train_in_mixed_precision_with_loss_scaling(api, data_weight, tolerance):
    scaling = api.optimizers if api is keras else api.mixed_precision

    def optimizer():
        return scaling.LossScaleOptimizer(api.optimizers.SGD(1e-2), initial_scale=2.0**8)

    api.mixed_precision.set_global_policy("mixed_float16")
    try:
        one, four = (
            trained(with_normalization, api, strategy, optimizer, data_weight)
            for strategy in (tf.distribute.get_strategy(), cases.mirrored(4))
        )
    finally:
        api.mixed_precision.set_global_policy("float32")
    assert_trained_alike(four, one, tolerance)
