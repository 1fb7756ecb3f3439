"""`tfreg.callbacks.TargetSparsity`: the share of zeros that it reaches, its logs, and its state."""

import keras
import model_cases
import numpy as np
import pytest
import tensorflow as tf
from marks import KERAS_3_FIRST

import tfreg

INPUTS, UNITS, ROWS, BATCH = 8, 24, 256, 32


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, INPUTS)).astype(np.float32)
    return x, np.maximum(x @ rng.normal(size=(INPUTS, 4)).astype(np.float32), 0.0)


def network(api, penalty=None, optimizer=None, **compiled):
    api.utils.set_random_seed(0)
    hidden = api.layers.Dense(UNITS, "relu", name="hidden")
    model = api.Sequential([api.Input((INPUTS,)), hidden, api.layers.Dense(4, name="last")])
    optimizer = optimizer or api.optimizers.Adam(0.01)
    penalty = (tfreg.couple(model), tfreg.GroupLasso()) if penalty is None else penalty
    loss = api.losses.MeanSquaredError()
    model.compile(tfreg.Proximal(optimizer, model, [penalty]), loss, **compiled)
    return model


def fitted(model, target, epochs=60, **options):
    x, y = data()
    callbacks = [] if target is None else [target]
    options = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **options}
    return model.fit(x, y, epochs=epochs, callbacks=callbacks, **options).history


def dead_units(model):
    return np.mean(np.all(model.layers[0].kernel.numpy() == 0, axis=0))


def strength_of(model):
    return float(tf.convert_to_tensor(model.optimizer._tfreg_steps.strength))


@KERAS_3_FIRST
@pytest.mark.parametrize("share", [0.5, 0.8])
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_it_reaches_its_target(api, kind, share):
    optimizer = {
        "SGD": lambda: api.optimizers.SGD(0.05, momentum=0.9),
        "Adam": lambda: api.optimizers.Adam(0.01),
    }[kind]()
    model = network(api, optimizer=optimizer)
    history = fitted(model, tfreg.callbacks.TargetSparsity(share, end=240))
    assert abs(dead_units(model) - share) <= 0.1
    assert history["sparsity"][-1] == pytest.approx(dead_units(model), abs=1e-6)
    assert history["strength"][-1] == pytest.approx(strength_of(model))


@KERAS_3_FIRST
@pytest.mark.parametrize(
    "compiled", [{"jit_compile": True}, {"steps_per_execution": 4}, {"run_eagerly": True}]
)
def test_however_the_model_is_compiled(api, compiled):
    epochs = 10 if "run_eagerly" in compiled else 60
    model = network(api, **compiled)
    fitted(model, tfreg.callbacks.TargetSparsity(0.5, end=240, every=4), epochs)
    assert strength_of(model) > 0.0
    if epochs == 60:
        assert abs(dead_units(model) - 0.5) <= 0.1


@KERAS_3_FIRST
def test_elements_of_penalties_without_groups(api):
    model = network(api, (["hidden/kernel"], tfreg.MCP(0.01)))
    history = fitted(model, tfreg.callbacks.TargetSparsity(0.6, end=240, of="elements"))
    share = np.mean(model.layers[0].kernel.numpy() == 0)
    assert abs(share - 0.6) <= 0.1
    assert history["sparsity"][-1] == pytest.approx(share, abs=1e-6)


@KERAS_3_FIRST
def test_a_target_that_rises(api):
    model = network(api)
    history = fitted(model, tfreg.callbacks.TargetSparsity(0.5, end=400, begin=16))
    assert history["sparsity"][0] == 0.0  # 8 steps
    assert history["sparsity"][4] < 0.5
    assert abs(dead_units(model) - 0.5) <= 0.1


@KERAS_3_FIRST
def test_an_optimizer_that_trained_before_is_driven_and_goes_on_without_it(api):
    model = network(api)
    fitted(model, None, 2)
    assert dead_units(model) < 1.0
    fitted(model, tfreg.callbacks.TargetSparsity(0.5, end=100), 30)
    strength = strength_of(model)
    assert strength > 0.0
    fitted(model, None, 2)
    assert strength_of(model) == strength


@KERAS_3_FIRST
def test_a_file_resumes(api, tmp_path):
    model = network(api)
    fitted(model, tfreg.callbacks.TargetSparsity(0.5, end=100), 8)
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = api.models.load_model(path)
    assert strength_of(loaded) == strength_of(model) > 0.0
    for each in (model, loaded):
        fitted(each, tfreg.callbacks.TargetSparsity(0.5, end=100), 4)
    for ours, theirs in zip(model.weights, loaded.weights):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_checkpoint_resumes(api, tmp_path):
    model = network(api)
    fitted(model, tfreg.callbacks.TargetSparsity(0.5, end=100), 8)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    path = checkpoint.write(str(tmp_path / "checkpoint"))
    strength = strength_of(model)
    fitted(model, tfreg.callbacks.TargetSparsity(0.5, end=100), 4)
    first = [weight.numpy() for weight in model.weights]
    checkpoint.read(path).expect_partial()
    assert strength_of(model) == strength
    fitted(model, tfreg.callbacks.TargetSparsity(0.5, end=100), 4)
    for ours, theirs in zip(first, model.weights):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_devices_train_as_one_does(api):
    one = network(api)
    with model_cases.mirrored(2).scope():
        two = network(api)
    for model in (one, two):
        fitted(model, tfreg.callbacks.TargetSparsity(0.5, end=100), 6)
    assert strength_of(two) == pytest.approx(strength_of(one), rel=1e-3)
    for ours, theirs in zip(one.weights, two.weights):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-3, atol=1e-4)


@KERAS_3_FIRST
def test_what_cannot_be_driven_is_an_error(api):
    x, y = data()
    plain = api.Sequential([api.Input((INPUTS,)), api.layers.Dense(4)])
    plain.compile("sgd", "mse")
    with pytest.raises(ValueError, match="optimizer of tfreg.Proximal"):
        plain.fit(x, y, verbose=0, callbacks=[tfreg.callbacks.TargetSparsity(0.5, end=100)])
    model = network(api, (["hidden/kernel"], tfreg.BoxPenalty(0.1)))
    with pytest.raises(ValueError, match="make zeros(.|\n)*BoxPenalty"):
        fitted(model, tfreg.callbacks.TargetSparsity(0.5, end=100), 1)


@KERAS_3_FIRST
def test_names_in_the_logs_that_are_taken(api):
    model = network(api)
    x, y = data()

    class Taken(api.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["sparsity"] = 1.0

    with pytest.raises(ValueError, match="'sparsity'"):
        callbacks = [Taken(), tfreg.callbacks.TargetSparsity(0.5, end=100)]
        model.fit(x, y, verbose=0, callbacks=callbacks)


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"end": 9, "target": 0.0}, ValueError),
        ({"end": 9, "target": 1.0}, ValueError),
        ({"end": 9, "target": "half"}, TypeError),
        ({"target": 0.5, "end": 9, "of": "units"}, ValueError),
        ({"target": 0.5, "end": 9, "every": 0}, ValueError),
        ({"target": 0.5, "end": 9, "rate": 0.0}, ValueError),
        ({"target": 0.5, "end": 9, "begin": -1}, ValueError),
        ({"target": 0.5, "begin": 5, "end": 5}, ValueError),
    ],
)
def test_bad_arguments(arguments, error):
    name = list(arguments)[-1]
    with pytest.raises(error, match=f"Argument `{name}`"):
        tfreg.callbacks.TargetSparsity(**arguments)


def test_both_apis_take_the_one_class():
    assert issubclass(tfreg.callbacks.TargetSparsity, keras.callbacks.Callback)
