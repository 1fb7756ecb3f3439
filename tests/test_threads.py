"""Threads, and both Kerases in one process."""

import concurrent.futures
import threading

import keras
import model_cases as cases
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfreg

THREADS = 8


def in_threads(function, *arguments):
    """What `function` gives in each of several threads that begin at once."""
    together = threading.Barrier(THREADS)

    def run(number):
        together.wait(timeout=60)
        return function(number, *arguments)

    with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(run, range(THREADS)))


@pytest.mark.slow
def test_penalties_are_built_called_and_saved_in_threads():
    def work(number):
        values = []
        for length in range(2, 8):  # shapes that no trace is there for
            w = tf.reshape(tf.range(0.0, 13.0 * length), [13, length])
            penalty = tfreg.GroupLasso(number + 1.0) + tfreg.TotalVariation(number + 1.0)
            again = tfreg.get(keras.saving.serialize_keras_object(penalty))
            with tf.GradientTape() as tape:
                tape.watch(w)
                value = tf.function(again)(w) + again(w)
            values.append([float(value), float(tf.reduce_sum(tape.gradient(value, w)))])
        return np.array(values) / (number + 1.0)

    results = in_threads(work)
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-6)


@pytest.mark.slow
def test_models_of_both_kerases_train_in_threads():
    apis = [keras, tf_keras]

    def work(number):
        api = apis[number % 2]
        # A thread's models are its own; their layers' names are counted for all.
        model = cases.compiled(cases.penalized_in_every_way(api), api)
        cases.set_initial_weights(model)
        return cases.fit(model, epochs=2), cases.kernels(model)

    losses, weights = cases.train(epochs=2)
    for its_losses, kernels in in_threads(work):
        np.testing.assert_allclose(its_losses, losses, rtol=1e-5)
        for actual, expected in zip(kernels, weights, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_models_of_both_kerases_take_turns():
    models = []
    for api in (keras, tf_keras):
        models.append(cases.compiled(cases.penalized_in_every_way(api), api))
        cases.set_initial_weights(models[-1])
    histories = [[cases.fit(model)[0] for model in models] for _ in range(3)]
    losses, weights = cases.train(epochs=3)
    for model, history in zip(models, zip(*histories), strict=True):
        np.testing.assert_allclose(history, losses, rtol=1e-5)
        cases.assert_trained(model, weights)
