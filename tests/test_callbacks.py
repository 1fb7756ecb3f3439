"""The callbacks: what they add to the logs of `fit`, and that they change nothing else."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from marks import KERAS_3_FIRST, in_turn, slow
from model_cases import counted, mirrored

import tfreg
from tfreg.reporting.zeros import zero_groups

X = np.random.default_rng(0).normal(size=(12, 6)).astype("float32")
Y = np.random.default_rng(1).normal(size=(12, 3)).astype("float32")
VALIDATION = (X[:4] + 0.5, Y[:4])
FIGURES = {"penalty", "loss_without_penalty", "zero_groups", "val_loss_without_penalty"}
PenaltyMetrics = tfreg.callbacks.PenaltyMetrics


def penalized(api):
    """Penalties of tfreg and of Keras as arguments, one over the model, and one on a schedule."""
    api.utils.set_random_seed(0)
    dense = api.layers.Dense
    layers = [
        dense(5, kernel_regularizer=tfreg.GroupLasso(0.1), bias_regularizer=api.regularizers.L2(3)),
        api.layers.Dropout(0.1),
        dense(4, activation="tanh", kernel_regularizer=api.regularizers.L1(0.2)),
        dense(3),
    ]
    model = api.Sequential([api.Input((6,)), *layers])
    tfreg.add_penalty(model, tfreg.BoxPenalty(0.3, -0.1, 0.1))
    ramp = tfreg.schedules.CubicRamp(begin=1, end=9)
    return tfreg.add_penalty(model, tfreg.TotalVariation(0.01), schedule=ramp)


def one_layer(api):
    api.utils.set_random_seed(0)
    layer = api.layers.Dense(3, kernel_regularizer=tfreg.GroupLasso(0.5, axis="input"))
    return api.Sequential([api.Input((6,)), layer])


def compiled(api, build=one_layer, rate=0.05, **arguments):
    """A model whose metric is the loss without the penalty."""
    model = build(api)
    model.compile(api.optimizers.Adam(rate), "mse", metrics=["mse"], **arguments)
    return model


def fitted(model, callbacks=(), epochs=2, batch=6, **arguments):
    """The history of training."""
    arguments = {"validation_data": VALIDATION, "verbose": 0, **arguments}
    return model.fit(X, Y, batch, epochs, callbacks=list(callbacks), **arguments).history


def assert_is_what_the_metric_says(history, rtol=1e-5):
    np.testing.assert_allclose(history["loss_without_penalty"], history["mse"], rtol=rtol)
    # Elsewhere than at the end of the epoch the penalty is another.
    differs = np.array(history["loss"]) - history["penalty"] - history["mse"]
    assert np.all(np.abs(differs) > 10 * rtol * np.array(history["mse"]))


def state(model):
    """The weights and what the optimizer and the layers keep."""
    variables = model.optimizer.variables
    variables = variables() if callable(variables) else variables
    own = getattr(model, "variables", [])
    return [tf.convert_to_tensor(variable).numpy() for variable in (*own, *variables)]


@KERAS_3_FIRST
def test_penalty_metrics_reach_every_log_and_change_nothing_else(api, tmp_path):
    log = tmp_path / "log.csv"
    # No epoch improves by so much: training ends after the second.
    stop = api.callbacks.EarlyStopping("val_loss_without_penalty", min_delta=1e9, mode="min")
    name = str(tmp_path / "{epoch}-{loss_without_penalty:.4f}.weights.h5")
    save = api.callbacks.ModelCheckpoint(name, save_weights_only=True)
    callbacks = [PenaltyMetrics(), api.callbacks.CSVLogger(log), stop, save]
    model, plain, traces = compiled(api, penalized), compiled(api, penalized), []
    for each in (model, plain):
        each.train_step = counted(each.train_step, traces, each)
    # Shuffled and with dropout: random numbers are the same too.
    history, expected = fitted(model, callbacks, epochs=9), fitted(plain, epochs=2)

    header, *rows = log.read_text().splitlines()
    assert FIGURES <= set(header.split(",")) and len(rows) == 2
    assert history.keys() - expected.keys() == FIGURES
    assert traces.count(model) == traces.count(plain) > 0
    for name in expected:
        assert history[name] == expected[name]
    for ours, theirs in zip(state(model), state(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for epoch, loss in enumerate(history["loss_without_penalty"], start=1):
        assert (tmp_path / f"{epoch}-{loss:.4f}.weights.h5").exists()

    np.testing.assert_allclose(history["penalty"][-1], sum(map(float, model.losses)), rtol=1e-6)
    error = np.mean((model.predict(VALIDATION[0], verbose=0) - VALIDATION[1]) ** 2)
    np.testing.assert_allclose(history["val_loss_without_penalty"][-1], error, rtol=1e-5)
    assert_is_what_the_metric_says(history)


WAYS = [
    {"steps_per_execution": 3},
    {"jit_compile": True},
    slow({"run_eagerly": True}),
    slow({"jit_compile": True, "steps_per_execution": 5}),
    slow({}),
]


@in_turn(api=["keras", "tf_keras"], how=WAYS)
def test_the_figures_of_every_way_to_train(api, how):
    model = compiled(api, rate=0.01, **how)
    history = fitted(model, [PenaltyMetrics()], batch=1)
    np.testing.assert_allclose(history["penalty"][-1], sum(map(float, model.losses)), rtol=1e-6)
    # Between the ends of an execution it takes a straight line.
    assert_is_what_the_metric_says(history, 1e-3)


def long_epochs(api, steps, rate=0.01, epochs=2, optimizer=None, step=None, schedule=None, **how):
    """The history of epochs with so many steps, of one example each, and the callback."""
    model = api.Sequential([api.Input((6,)), api.layers.Dense(4), api.layers.Dense(3)])
    for layer in model.layers:
        generator = np.random.default_rng(2)
        layer.set_weights([generator.normal(size=array.shape) for array in layer.get_weights()])
    optimizer = optimizer or api.optimizers.SGD(rate)
    tfreg.add_penalty(
        model,
        tfreg.GroupLasso(0.1),
        schedule=schedule,
        step=None if step is None else step(optimizer),
    )
    model.compile(optimizer, "mse", metrics=["mse"], **how)
    x, y = (np.resize(array, (steps, array.shape[1])) for array in (X, Y))
    metrics = PenaltyMetrics()
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(1)
    return model.fit(data, epochs=epochs, verbose=0, callbacks=[metrics]).history, metrics


def relative_errors(history):
    """How far off the mean of the penalty over the steps is, as a share of it."""
    penalty = np.subtract(history["loss"], history["mse"])
    return np.subtract(history["mse"], history["loss_without_penalty"]) / penalty


EARLY, LATE = (tfreg.schedules.CubicRamp(begin, begin + 10) for begin in (50, 250))


@KERAS_3_FIRST
@pytest.mark.parametrize("how", [{}, slow({"steps_per_execution": 7})])
@pytest.mark.parametrize("schedule", [slow(EARLY), LATE], ids=["early", "late"])
def test_a_schedule_that_moves_within_an_epoch(api, schedule, how):
    history, _ = long_epochs(api, 300, schedule=schedule, **how)
    np.testing.assert_allclose(relative_errors(history), 0.0, atol=2e-3)


@KERAS_3_FIRST
def test_long_epochs_are_measured_at_few_steps(api):
    history, metrics = long_epochs(api, 320)
    np.testing.assert_allclose(relative_errors(history), 0.0, atol=2e-3)
    assert len(metrics._course._samples) < 50


@pytest.mark.slow
def test_a_schedule_that_counts_another_step_than_those_of_fit(api):
    """The optimizer's through a function; and a variable, once in ten steps."""
    history, _ = long_epochs(
        api, 300, schedule=LATE, step=lambda optimizer: lambda: optimizer.iterations
    )
    np.testing.assert_allclose(relative_errors(history), 0.0, atol=2e-3)
    tenth = tfreg.schedules.CubicRamp(10, 20)
    history, _ = long_epochs(
        api, 300, schedule=tenth, step=lambda optimizer: lambda: optimizer.iterations // 10
    )
    np.testing.assert_allclose(relative_errors(history), 0.0, atol=2e-2)


@pytest.mark.slow
def test_a_schedule_with_accumulated_gradients():
    optimizer = keras.optimizers.SGD(0.01, gradient_accumulation_steps=4)
    ramp = tfreg.schedules.CubicRamp(60, 63)
    history, _ = long_epochs(keras, 300, optimizer=optimizer, schedule=ramp)
    np.testing.assert_allclose(relative_errors(history), 0.0, atol=2e-3)


@tfreg.backend.register
def from_the_third_step(step):
    """No graph can take it."""
    return 1.0 if int(step) >= 3 else 0.0


@KERAS_3_FIRST
def test_a_schedule_that_only_runs_eagerly(api):
    history, _ = long_epochs(api, 6, schedule=from_the_third_step, epochs=1, run_eagerly=True)
    np.testing.assert_allclose(relative_errors(history), 0.0, atol=1e-5)


@pytest.mark.slow
def test_a_schedule_that_moves_at_each_step_is_not_measured_at_each():
    turns = keras.optimizers.schedules.CosineDecayRestarts(1.0, 2, t_mul=1.0)
    history, metrics = long_epochs(keras, 600, schedule=turns)
    np.testing.assert_allclose(relative_errors(history), 0.0, atol=1e-2)
    assert len(metrics._course._samples) < 150


@pytest.mark.slow
def test_penalty_metrics_of_a_mirrored_model_count_each_penalty_once(api):
    one = compiled(api, jit_compile=False)
    with mirrored(2).scope():
        two = compiled(api, jit_compile=False)
    one, two = (fitted(model, [PenaltyMetrics()]) for model in (one, two))
    assert one.keys() == two.keys()
    np.testing.assert_allclose(two["penalty"], one["penalty"], rtol=1e-6)
    # Keras 3.8 tells the losses of one replica.
    for name in ("loss", "val_loss"):
        subtracted = [np.subtract(log[name], log[f"{name}_without_penalty"]) for log in (two, one)]
        np.testing.assert_allclose(*subtracted, rtol=1e-5)


@pytest.mark.slow
def test_epochs_of_a_length_that_nobody_knows(api):
    def batches():
        yield from zip(np.split(X, 2), np.split(Y, 2))

    shapes = tf.TensorSpec((None, 6)), tf.TensorSpec((None, 3))
    data = tf.data.Dataset.from_generator(batches, output_signature=shapes)
    model = compiled(api)
    history = model.fit(data, epochs=3, verbose=0, callbacks=[PenaltyMetrics()]).history
    assert_is_what_the_metric_says(history)


@KERAS_3_FIRST
def test_training_that_stops_in_an_epoch_and_goes_on(api):
    model = compiled(api)

    def stop(batch, logs):
        model.stop_training = batch == 1

    metrics = PenaltyMetrics()
    callbacks = [metrics, api.callbacks.LambdaCallback(on_train_batch_end=stop)]
    assert_is_what_the_metric_says(fitted(model, callbacks, batch=2))
    model.train_on_batch(X, Y)
    model.evaluate(*VALIDATION, verbose=0, callbacks=[metrics])
    history = fitted(model, [metrics], initial_epoch=1, epochs=3)
    assert len(history["penalty"]) == 2
    assert_is_what_the_metric_says(history)


@pytest.mark.slow
def test_a_model_that_is_built_in_its_first_step(api):
    def build(api):
        return api.Sequential([api.layers.Dense(3, kernel_regularizer=tfreg.GroupLasso(0.5))])

    history = fitted(compiled(api, build, rate=1e-4), [PenaltyMetrics()])
    # In tf_keras what it was before that step is not known.
    np.testing.assert_allclose(history["loss_without_penalty"], history["mse"], rtol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["on_epoch_begin", "on_train_batch_end"])
def test_layers_that_are_frozen_during_training_count_no_more(api, when):
    model = compiled(api, penalized)

    def freeze(index, logs):
        model.layers[0].trainable = index == 0

    callbacks = [PenaltyMetrics(), api.callbacks.LambdaCallback(**{when: freeze})]
    history = fitted(model, callbacks)
    np.testing.assert_allclose(history["penalty"][-1], sum(map(float, model.losses)), rtol=1e-6)


def test_no_step_of_tf_keras_waits_for_the_logs_of_the_last_one():
    class Metrics(PenaltyMetrics):
        kinds: set = set()

        def on_train_batch_end(self, batch, logs=None):
            self.kinds.update(map(type, logs.values()))
            super().on_train_batch_end(batch, logs)

    fitted(compiled(tf_keras), [Metrics()])
    assert all(issubclass(kind, tf.Tensor) for kind in Metrics.kinds)


@KERAS_3_FIRST
def test_the_share_of_groups_that_are_zero(api):
    model = compiled(api)
    kernel = model.layers[0].kernel
    kernel.assign(kernel * np.array([1, 0, 1, 0, 0, 1], "float32")[:, None])
    model.compile(api.optimizers.SGD(0.0), "mse")
    history = fitted(model, [PenaltyMetrics()], epochs=1)
    assert history["zero_groups"] == [3 / 6]


@KERAS_3_FIRST
def test_a_model_without_penalties(api):
    model = api.Sequential([api.Input((6,)), api.layers.Dense(3)])
    model.compile("sgd", "mse")
    history = fitted(model, [PenaltyMetrics()])
    assert "zero_groups" not in history and history["penalty"] == [0.0, 0.0]
    assert history["loss_without_penalty"] == history["loss"]


@KERAS_3_FIRST
def test_penalties_of_proximal_steps_are_in_no_loss(api):
    model = api.Sequential([api.Input((6,)), api.layers.Dense(3)])
    strong = tfreg.GroupLasso(1e3, axis="input")
    optimizer = tfreg.Proximal(api.optimizers.SGD(0.1), model, [(model.layers, strong)])
    model.compile(optimizer, "mse")
    history = fitted(model, [PenaltyMetrics()])
    assert history["penalty"] == [0.0, 0.0] and history["zero_groups"] == [1.0, 1.0]
    assert history["loss_without_penalty"] == history["loss"]


def test_penalty_metrics_without_a_loss(api):
    logs: dict = {}
    metrics = PenaltyMetrics()
    metrics.set_model(api.Sequential([api.Input((2,)), api.layers.Dense(1)]))
    metrics.on_epoch_end(0, None)
    metrics.on_epoch_end(0, logs)
    assert logs == {"penalty": 0.0}


def test_penalty_metrics_take_the_weights_that_were_validated():
    average = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
    layer = keras.layers.Dense(3, kernel_regularizer=tfreg.GroupLasso(0.5))
    model = keras.Sequential([keras.Input((6,)), layer])
    model.compile(average, "mse", metrics=["mse"])
    callbacks = [PenaltyMetrics(), keras.callbacks.SwapEMAWeights()]
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
    metrics, logs = PenaltyMetrics(), {}
    metrics.set_model(model)
    metrics.on_epoch_end(0, logs)
    np.testing.assert_allclose(logs["penalty"], sum(map(float, model.losses)), rtol=1e-6)


@KERAS_3_FIRST
@pytest.mark.parametrize("name", ["penalty", slow("loss_without_penalty"), slow("zero_groups")])
def test_a_metric_of_the_name_is_an_error_in_the_first_step(api, name):
    model, steps = one_layer(api), []
    metric = api.metrics.MeanSquaredError(name=name)
    model.compile(api.optimizers.SGD(0.1), "mse", metrics=[metric])
    count = api.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: steps.append(batch)
    )
    with pytest.raises(ValueError, match=f"'{name}' to the logs.*another"):
        fitted(model, [count, PenaltyMetrics()], batch=2)
    assert steps == [0]


@KERAS_3_FIRST
def test_listed_twice_is_an_error(api):
    model, metrics = compiled(api), PenaltyMetrics()
    for both in ([metrics, metrics], [metrics, PenaltyMetrics()]):
        with pytest.raises(ValueError, match="'penalty' to the logs.*list the callback once"):
            fitted(model, both, epochs=1)
    assert len(fitted(model, [metrics], epochs=1)["penalty"]) == 1


@KERAS_3_FIRST
@pytest.mark.parametrize("validation", [None, VALIDATION], ids=["alone", "validated"])
def test_a_smaller_last_batch_counts_less(api, validation):
    model = compiled(api, rate=0.2)
    history = fitted(model, [PenaltyMetrics()], batch=11, validation_data=validation)
    np.testing.assert_allclose(history["loss_without_penalty"], history["mse"], rtol=1e-5)


def own_step(api):
    """A model whose train step tells the loss of its step, not a mean."""

    class Own(api.Model):
        def __init__(self):
            super().__init__()
            self.layer = api.layers.Dense(3, kernel_regularizer=tfreg.GroupLasso(0.5))

        def call(self, x):
            return self.layer(x)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                error = tf.reduce_mean((self(x, training=True) - y) ** 2)
                loss = error + tf.add_n(self.losses)
            weights = self.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
            return {"loss": loss, "error": error}

    api.utils.set_random_seed(0)
    model = Own()
    model(X)
    model.compile(api.optimizers.SGD(0.3))
    return model


@KERAS_3_FIRST
def test_a_train_step_that_tells_its_own_loss(api):
    history = fitted(own_step(api), [PenaltyMetrics()], batch=3, validation_data=None)
    np.testing.assert_allclose(history["loss_without_penalty"], history["error"], rtol=1e-4)


STRENGTH = tf.Variable(1.0, trainable=False)


@keras.saving.register_keras_serializable("tests of callbacks")
@tf_keras.saving.register_keras_serializable("tests of callbacks")
def strength(step):
    return tf.identity(STRENGTH)


@KERAS_3_FIRST
def test_a_schedule_of_more_than_the_step(api):
    STRENGTH.assign(1.0)
    model = tfreg.add_penalty(one_layer(api), tfreg.BoxPenalty(0.5, 0.0, 0.0), None, strength)
    model.compile(api.optimizers.SGD(0.01), "mse", metrics=["mse"])
    raise_it = api.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: STRENGTH.assign(3.0 * STRENGTH) if batch == 1 else 0
    )
    history = fitted(model, [raise_it, PenaltyMetrics()], batch=3)
    np.testing.assert_allclose(history["loss_without_penalty"], history["mse"], rtol=1e-4)


@KERAS_3_FIRST
def test_trainings_that_follow_one_another_trace_once(api, caplog):
    model, metrics = compiled(api, penalized), PenaltyMetrics()
    fitted(model, [metrics], epochs=1)
    meter = metrics._meter
    for _ in range(6):
        fitted(model, [metrics], epochs=1)
    assert metrics._meter is meter
    tfreg.add_penalty(model, tfreg.BoxPenalty(0.1, -0.1, 0.1))
    history = fitted(model, [metrics], epochs=1)
    np.testing.assert_allclose(history["penalty"], [sum(map(float, model.losses))], rtol=1e-6)
    for _ in range(6):
        fitted(model, [PenaltyMetrics()], epochs=1)
    # TensorFlow names the function that it warns of.
    warned = [line for line in caplog.text.splitlines() if "retracing" in line]
    assert not any("_sums" in line or "along" in line for line in warned)


def test_a_joint_in_a_model_that_is_not_built(api):
    class Unused(api.Model):
        def __init__(self):
            super().__init__()
            self.used = api.layers.Dense(3, kernel_regularizer=tfreg.GroupLasso(0.1))
            unused = api.Sequential([api.layers.Dense(3), api.layers.Dense(3)])
            self.unused = tfreg.add_penalty(unused, tfreg.Joint(tfreg.GroupLasso(0.1)))

        def call(self, x):
            return self.used(x)

    model = Unused()
    model(X)
    assert zero_groups(model) == (0, 3)


def test_a_figure_that_another_callback_added_is_an_error(api):
    metrics = PenaltyMetrics()
    metrics.set_model(one_layer(api))
    with pytest.raises(ValueError, match="'penalty' to the logs.*another"):
        metrics.on_epoch_end(0, {"penalty": 1.0})
