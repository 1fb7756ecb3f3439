"""Penalties under the strategies of tf.distribute, as the table in docs/distributed.md says."""

import functools
import json
import re
import signal

import clusters
import jobs
import keras
import model_cases as cases
import numpy as np
import pytest
import tensorflow as tf
from cases import CASES, JOINT_CASES, away_from_zero
from marks import KERAS_3_FIRST, slow

import tfreg


def random_away_from_zero(seed):
    """An initializer."""

    def initialize(shape, dtype=None):
        w = np.random.default_rng(seed).normal(0.0, 0.2, shape)
        return tf.constant(away_from_zero(w), dtype)

    return initialize


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
                    name=f"w{i}",
                    shape=shape,
                    initializer=random_away_from_zero(seed=i),
                    regularizer=regularizer,
                )
                for i, (shape, regularizer) in enumerate(zip(shapes, regularizers, strict=True))
            ]

        def call(self, x):
            return x

    return Holder


def penalized_by_every_case(api):
    """A weight for each penalty of the tables, as an argument and by add_penalty in turn."""
    holder, shape = holder_class(api), (3, 4, 5, 2, 3)
    as_arguments, over_the_model = CASES[::2], CASES[1::2]
    own = holder([shape] * len(as_arguments), [case.penalty for case in as_arguments])
    added = holder([shape] * len(over_the_model), [None] * len(over_the_model))
    shapes = [shape for case in JOINT_CASES for shape in case.shapes]
    joint = holder(shapes, [None] * len(shapes))
    x = api.Input((6,))
    y = api.layers.BatchNormalization(synchronized=True)(api.layers.Dense(5)(x))
    model = api.Model(x, api.layers.Dense(2)(joint(added(own(y)))))
    schedules = [None, cases.RAMP]
    for i, (case, weight) in enumerate(zip(over_the_model, added.held, strict=True)):
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


@KERAS_3_FIRST
def test_one_device_by_name_trains_as_numpy_does(api):
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        model = cases.compiled(cases.penalized_in_every_way(api), api)
        cases.set_initial_weights(model)
    losses, weights = cases.train(epochs=2)
    np.testing.assert_allclose(cases.fit(model, epochs=2), losses, rtol=1e-5)
    cases.assert_trained(model, weights)


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
@pytest.mark.slow
@pytest.mark.parametrize("data_weight, tolerance", [slow(1.0, 5e-3), (0.0, 1e-5)])
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


def train_together(job, folder, arguments, timeout=120):
    """What a job gives on two workers."""
    cluster = clusters.loopback(worker=2)
    workers = [
        clusters.Process(job, arguments, cluster, "worker", index, folder) for index in range(2)
    ]
    with clusters.running(*workers):
        clusters.wait_for(workers, timeout)
        return [worker.result() for worker in workers]


def assert_trained_as_numpy_does(results, epochs):
    losses, weights = cases.train(epochs)
    for result in results:
        behind = result["losses"]
        np.testing.assert_allclose(behind, losses[epochs - len(behind) :], rtol=1e-5)
        for actual, expected in zip(result["kernels"], weights, strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


WORK = [("multi_worker_fit", "tf_keras"), ("multi_worker_loop", "tf_keras")]
WORK += [("multi_worker_loop", "keras")]


@pytest.mark.slow
@pytest.mark.parametrize("job, api_name", WORK)
def test_two_workers_train_as_one_does(job, api_name, tmp_path):
    results = train_together(job, tmp_path, {"api_name": api_name, "epochs": 2})
    assert_trained_as_numpy_does(results, epochs=2)


@pytest.mark.slow
@pytest.mark.parametrize("job, api_name", WORK)
def test_workers_of_which_one_was_killed_train_as_if_none_had_been(job, api_name, tmp_path):
    arguments = {"api_name": api_name, "epochs": 3, "backup": str(tmp_path / "backup")}
    cluster = clusters.loopback(worker=2)
    killed_at = [None, cases.BATCHES + 2]
    workers = [
        clusters.Process(job, {**arguments, "killed_at": step}, cluster, "worker", i, tmp_path)
        for i, step in enumerate(killed_at)
    ]
    with clusters.running(*workers):
        # The other one cannot go on alone, and is started again too, as a scheduler would.
        assert workers[1].popen.wait(timeout=120) == -signal.SIGKILL
    results = train_together(job, tmp_path, arguments)
    assert all(len(result["losses"]) == 2 for result in results)
    assert_trained_as_numpy_does(results, epochs=3)


@pytest.mark.slow
@pytest.mark.parametrize("penalized", [True, False])
def test_keras_3_does_not_fit_on_several_workers(penalized, tmp_path):
    arguments = {"api_name": "keras", "epochs": 1, "penalized": penalized}
    with pytest.raises(AssertionError, match="PerReplica.*unsupported type"):
        train_together("multi_worker_fit", tmp_path, arguments)


def train_on_servers(job, folder, arguments, timeout=120):
    """What a job gives on the coordinator of two workers and a parameter server."""
    cluster = clusters.loopback(chief=1, worker=2, ps=1)
    tasks = [("worker", 0), ("worker", 1), ("ps", 0)]
    servers = [clusters.Process("server", {}, cluster, *task, folder) for task in tasks]
    coordinator = clusters.Process(job, arguments, cluster, "chief", 0, folder)
    with clusters.running(*servers, coordinator):
        clusters.wait_for([coordinator], timeout)
        return coordinator.result()


@pytest.mark.slow
@pytest.mark.parametrize(
    "job, api_name, shards",
    [
        ("parameter_server_fit", "tf_keras", None),
        ("parameter_server_fit", "tf_keras", 2),
        ("parameter_server_loop", "tf_keras", 2),
        ("parameter_server_loop", "keras", None),
    ],
)
def test_parameter_servers_train_as_one_process_does(job, api_name, shards, tmp_path):
    result = train_on_servers(job, tmp_path, {"api_name": api_name, "shards": shards})
    model = jobs.penalized_for_servers(jobs.APIS[api_name])
    expected = jobs.report(model, jobs.fit_one_batch(model))
    np.testing.assert_allclose(result["losses"], expected["losses"], rtol=1e-5)
    np.testing.assert_allclose(result["penalties"], expected["penalties"], rtol=1e-5)
    assert without_numbers(result["attached"]) == without_numbers(expected["attached"])
    for actual, kernel in zip(result["kernels"], expected["kernels"], strict=True):
        np.testing.assert_allclose(actual, kernel, rtol=1e-5, atol=1e-6)


def without_numbers(attached):
    """Keras numbers the layers of a process."""
    return json.loads(re.sub(r"dense(_\d+)?/", "dense/", json.dumps(attached)))


@pytest.mark.slow
@pytest.mark.parametrize("penalized", [True, False])
@pytest.mark.parametrize(
    "job, shards, error",
    [
        ("parameter_server_fit", None, "create_per_worker_dataset"),
        ("parameter_server_loop", 2, "ShardedVariable.* object has no attribute"),
    ],
)
def test_what_keras_3_cannot_do_on_parameter_servers(job, shards, error, penalized, tmp_path):
    arguments = {"api_name": "keras", "shards": shards, "penalized": penalized}
    with pytest.raises(AssertionError, match=error):
        train_on_servers(job, tmp_path, arguments)


def test_the_documented_step_scales_the_loss_where_the_optimizer_does():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = cases.compiled(cases.penalized_in_every_way(keras), keras, jit_compile=False)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    cases.set_initial_weights(model)
    model.optimizer.build(model.trainable_weights)
    strategy, loss = tf.distribute.get_strategy(), keras.losses.MeanSquaredError(reduction="none")
    step = jobs.documented_step(keras)(strategy, model, loss)
    losses = [float(step(batch)) for _ in range(3) for batch in jobs.dataset()]
    expected, weights = cases.train(epochs=3)
    np.testing.assert_allclose(np.mean(np.reshape(losses, [3, -1]), axis=1), expected, rtol=5e-3)
    for actual, weight in zip(cases.kernels(model), weights, strict=True):
        np.testing.assert_allclose(actual, weight, atol=5e-3)


@pytest.mark.parametrize("penalized", [True, slow(False)])
def test_neither_keras_has_xla_compile_the_step_of_several_devices(api, penalized):
    build = cases.penalized_in_every_way if penalized else cases.sequential
    with cases.mirrored(2).scope():
        model = cases.compiled(build(api), api, jit_compile=True)
    errors = (RuntimeError, tf.errors.InvalidArgumentError)
    with pytest.raises(errors, match="merge_call|located in device"):
        cases.fit(model)
