"""The callbacks: what they add to the logs of `fit`, and that they change nothing else."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from marks import KERAS_3_FIRST

import tfreg

X = np.random.default_rng(0).normal(size=(12, 6)).astype("float32")
Y = np.random.default_rng(1).normal(size=(12, 3)).astype("float32")
VALIDATION = (X[:4] + 0.5, Y[:4])
FIGURES = {"penalty", "val_loss_without_penalty"}


def penalized(api):
    """Penalties of tfreg and of Keras as arguments, one over the model, and one on a schedule."""
    api.utils.set_random_seed(0)
    dense = api.layers.Dense
    layers = [
        dense(5, kernel_regularizer=tfreg.GroupLasso(0.1), bias_regularizer=api.regularizers.L2(3)),
        dense(4, activation="tanh", kernel_regularizer=api.regularizers.L1(0.2)),
        dense(3),
    ]
    model = api.Sequential([api.Input((6,)), *layers])
    tfreg.add_penalty(model, tfreg.BoxPenalty(0.3, -0.1, 0.1))
    ramp = tfreg.schedules.CubicRamp(begin=1, end=9)
    return tfreg.add_penalty(model, tfreg.TotalVariation(0.01), schedule=ramp)


def fitted(api, callbacks, epochs, strategy=None):
    with (strategy or tf.distribute.get_strategy()).scope():
        model = penalized(api)
        model.compile(api.optimizers.Adam(0.05), "mse")
    history = model.fit(
        X, Y, 6, epochs, verbose=0, validation_data=VALIDATION, callbacks=callbacks, shuffle=False
    )
    return model, history.history


@KERAS_3_FIRST
def test_penalty_metrics_reach_every_log_and_change_nothing_else(api, tmp_path):
    log = tmp_path / "log.csv"
    # No epoch improves by so much: training ends after the second.
    stop = api.callbacks.EarlyStopping("val_loss_without_penalty", min_delta=1e9, mode="min")
    metrics = tfreg.callbacks.PenaltyMetrics()
    model, history = fitted(api, [metrics, api.callbacks.CSVLogger(log), stop], epochs=9)
    plain, expected = fitted(api, [], epochs=2)

    header, *rows = log.read_text().splitlines()
    assert FIGURES <= set(header.split(",")) and len(rows) == 2
    assert history.keys() - expected.keys() == FIGURES
    for name in expected:
        assert history[name] == expected[name]
    for ours, theirs in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    np.testing.assert_allclose(history["penalty"][-1], sum(map(float, model.losses)), rtol=1e-6)
    error = np.mean((model.predict(VALIDATION[0], verbose=0) - VALIDATION[1]) ** 2)
    np.testing.assert_allclose(history["val_loss_without_penalty"][-1], error, rtol=1e-5)


@pytest.mark.slow
def test_penalty_metrics_of_a_mirrored_model_count_each_penalty_once(api):
    metrics = [tfreg.callbacks.PenaltyMetrics()]
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    _, history = fitted(api, metrics, epochs=1, strategy=mirrored)
    _, expected = fitted(api, metrics, epochs=1)
    assert history.keys() == expected.keys()
    for name in FIGURES:
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-5)


def test_penalty_metrics_without_a_loss(api):
    logs: dict = {}
    metrics = tfreg.callbacks.PenaltyMetrics()
    metrics.set_model(api.Sequential([api.Input((2,)), api.layers.Dense(1)]))
    metrics.on_epoch_end(0, None)
    metrics.on_epoch_end(0, logs)
    assert logs == {"penalty": 0.0}


def test_penalty_metrics_take_the_weights_that_were_validated():
    average = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
    layer = keras.layers.Dense(3, kernel_regularizer=tfreg.GroupLasso(0.5))
    model = keras.Sequential([keras.Input((6,)), layer])
    model.compile(average, "mse", metrics=["mse"])
    callbacks = [tfreg.callbacks.PenaltyMetrics(), keras.callbacks.SwapEMAWeights()]
    log = model.fit(X, Y, 2, verbose=0, validation_data=VALIDATION, callbacks=callbacks).history
    np.testing.assert_allclose(log["val_loss_without_penalty"], log["val_mse"], rtol=1e-5)
    assert abs(log["val_loss"][0] - log["penalty"][0] - log["val_mse"][0]) > 1e-3


def test_a_model_that_is_not_built_counts_for_nothing(api):
    class Unused(api.Model):
        def __init__(self):
            super().__init__()
            self.used = api.layers.Dense(1, kernel_regularizer=tfreg.GroupLasso(0.1))
            unused = api.Sequential([api.layers.Dense(1)])
            self.unused = tfreg.add_penalty(unused, tfreg.GroupLasso(0.1))

        def call(self, x):
            return self.used(x)

    model = Unused()
    model(X)
    metrics, logs = tfreg.callbacks.PenaltyMetrics(), {}
    metrics.set_model(model)
    metrics.on_epoch_end(0, logs)
    np.testing.assert_allclose(logs["penalty"], sum(map(float, model.losses)), rtol=1e-6)


def test_a_metric_of_the_name_is_an_error(api):
    metrics = tfreg.callbacks.PenaltyMetrics()
    metrics.set_model(api.Sequential([api.Input((2,)), api.layers.Dense(1)]))
    with pytest.raises(ValueError, match="'penalty' to the logs.*another"):
        metrics.on_epoch_end(0, {"penalty": 1.0})
