"""`tfreg.Proximal(..., metric="diagonal")`: the proximal step in the optimizer's own metric."""

import contextlib
import dataclasses
import functools
import json

import keras
import model_cases
import numpy as np
import oracles
import pytest
import tensorflow as tf
import tf_keras
from marks import KERAS_3_FIRST, slow

import tfreg

INPUTS, UNITS, BATCH, BATCHES, EPOCHS = 6, 3, 16, 4, 3
RATE, FACTOR = 0.05, 0.1
INITIAL = np.random.default_rng(1).normal(0.0, 0.5, (INPUTS, UNITS)).astype(np.float32)
INITIAL[3:] *= 0.3  # soon zero


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * BATCHES, INPUTS)).astype(np.float32)
    return x, (x[:, :2] @ rng.normal(size=(2, UNITS)) + 0.3).astype(np.float32)


def linear(api, dtype=None):
    model = api.Sequential([api.Input((INPUTS,)), api.layers.Dense(UNITS, dtype=dtype)])
    model.layers[-1].kernel.assign(INITIAL)
    return model


# What follows takes a weight, its gradient, a state, the number of the step, and the learning rate;
# it returns what it steps along, and what that is divided by.


def adam(g, s, k, amsgrad=False, epsilon=1e-7, adaptive_epsilon=False):
    s["m"] = 0.9 * s.get("m", 0.0) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0.0) + 0.001 * g**2
    s["hat"] = np.maximum(s.get("hat", 0.0), s["v"])
    corrected = np.sqrt(1.0 - 0.999 ** (k + 1))
    epsilon = epsilon if adaptive_epsilon else epsilon / corrected
    root = np.sqrt(s["hat"] if amsgrad else s["v"]) / corrected
    return s["m"] / (1.0 - 0.9 ** (k + 1)), root + epsilon


def nadam(g, s, k, epsilon=1e-7):
    now, then = (0.9 * (1.0 - 0.5 * 0.96**i) for i in (k + 1, k + 2))
    s["m"] = 0.9 * s.get("m", 0.0) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0.0) + 0.001 * g**2
    s["product"] = s.get("product", 1.0) * now
    ahead = then * s["m"] / (1.0 - s["product"] * then)
    root = np.sqrt(s["v"] / (1.0 - 0.999 ** (k + 1)))
    return ahead + (1.0 - now) * g / (1.0 - s["product"]), root + epsilon


def adamax(g, s, k, epsilon=1e-7):
    s["m"] = 0.9 * s.get("m", 0.0) + 0.1 * g
    s["u"] = np.maximum(0.999 * s.get("u", 0.0), np.abs(g))
    return s["m"] / (1.0 - 0.9 ** (k + 1)), s["u"] + epsilon


def rmsprop(g, s, k, momentum=0.0, centered=False, epsilon=1e-7):
    s["v"] = 0.9 * s.get("v", 0.0) + 0.1 * g**2
    s["mean"] = 0.9 * s.get("mean", 0.0) + 0.1 * g
    root = np.sqrt(s["v"] - centered * s["mean"] ** 2 + epsilon)
    # The ball rolls on by the steps, not by the gradients.
    s["ball"] = momentum * s.get("ball", 0.0) + g / root
    return s["ball"] * root, root


def adagrad(g, s, k, epsilon=1e-7):
    s["v"] = s.get("v", 0.1) + g**2
    return g, np.sqrt(s["v"] + epsilon)


STEPS = {
    "Adam": adam,
    "AdamW": adam,
    "Nadam": nadam,
    "Adamax": adamax,
    "RMSprop": rmsprop,
    "Adagrad": adagrad,
}


def group_lasso(w, metric, step_size):
    """The proximal operator of `tfreg.GroupLasso(FACTOR, axis="input")`."""
    strength = step_size * FACTOR * np.sqrt(UNITS)
    rows = [oracles.group_prox_in_metric(*row, 0.0, strength) for row in zip(w, metric)]
    return np.array(rows)


def laplace(w, metric, step_size):
    return np.sign(w) * np.maximum(np.abs(w) - step_size * FACTOR / metric, 0.0)


PENALTIES = {
    group_lasso: tfreg.GroupLasso(FACTOR, axis="input"),
    laplace: tfreg.Prior("Laplace", FACTOR, loc=0.0, scale=1.0),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A way to train. `options` are those of the optimizer."""

    kind: str
    options: dict = dataclasses.field(default_factory=dict)
    prox: object = group_lasso
    compiled: dict = dataclasses.field(default_factory=dict)
    proximal: dict = dataclasses.field(default_factory=dict)
    rate: float = RATE
    schedule: object = None

    def model(self, api, strategy=None, scaled=False):
        with strategy.scope() if strategy else contextlib.nullcontext():
            model = linear(api)
            optimizer = tfreg.Proximal(
                getattr(api.optimizers, self.kind)(self.rate, **self.options),
                model,
                [(None, PENALTIES[self.prox], self.schedule)],
                metric="diagonal",
                **self.proximal,
            )
            if scaled:
                wrapper = api if api is keras else api.mixed_precision
                optimizer = getattr(wrapper, "optimizers", wrapper).LossScaleOptimizer(optimizer)
            model.compile(optimizer, api.losses.MeanSquaredError(), **self.compiled)
        return model

    def trained(self, api, **options):
        return fitted(self.model(api, **options)).get_weights()

    def expected(self):
        """What the loop in NumPy trains."""
        options = dict(self.options)
        decay = options.pop("weight_decay", 0.004 if self.kind == "AdamW" else 0.0)
        every = options.pop("gradient_accumulation_steps", 1)
        x, y = data()
        w = {"kernel": INITIAL.astype(float), "bias": np.zeros(UNITS)}
        states: dict = {name: {} for name in w}
        added = {name: 0.0 for name in w}
        k = 0  # updates
        for micro in range(EPOCHS * BATCHES):
            rows = slice(micro % BATCHES * BATCH, (micro % BATCHES + 1) * BATCH)
            residual = 2.0 * (x[rows] @ w["kernel"] + w["bias"] - y[rows]) / (BATCH * UNITS)
            gradients = {"kernel": x[rows].T @ residual, "bias": residual.sum(0)}
            added = {name: added[name] + gradients[name] / every for name in w}
            if (micro + 1) % every:
                continue
            metrics = {}
            for name, g in added.items():
                along, metrics[name] = STEPS[self.kind](g, states[name], k, **options)
                w[name] = w[name] * (1.0 - self.rate * decay)
                w[name] = w[name] - self.rate * along / metrics[name]
            if k >= self.proximal.get("start_step", 0):
                times = 1.0 if self.schedule is None else float(self.schedule(k))
                step_size = self.rate * times / (1.0 - options.get("momentum", 0.0))
                w["kernel"] = self.prox(w["kernel"], metrics["kernel"], step_size)
            added = {name: 0.0 for name in w}
            k += 1
        return [w["kernel"], w["bias"]]


RAMP = tfreg.schedules.CubicRamp(begin=2, end=8)
# A large epsilon, since a small one is next to nothing.
LARGE = {"epsilon": 0.05}
RUNS = {
    "Adam": Run("Adam"),
    "Adam, elements": Run("Adam", LARGE, laplace),
    "Adam, amsgrad": Run("Adam", {"amsgrad": True}),
    "AdamW": Run("AdamW", {"weight_decay": 0.1, "amsgrad": True, **LARGE}, laplace),
    "Nadam": Run("Nadam"),
    "Nadam, elements": Run("Nadam", LARGE, laplace),
    "Adamax": Run("Adamax", LARGE),
    "RMSprop": Run("RMSprop", LARGE),
    "RMSprop, elements": Run("RMSprop", {}, laplace),
    "RMSprop, centered": Run("RMSprop", {"centered": True, "epsilon": 1e-3}),
    "RMSprop, momentum": Run("RMSprop", {"momentum": 0.5}, rate=0.02),
    "RMSprop, both": Run(
        "RMSprop", {"momentum": 0.5, "centered": True, **LARGE}, laplace, rate=0.02
    ),
    "Adagrad": Run("Adagrad", LARGE, rate=0.2),
    "Adagrad, elements": Run("Adagrad", {}, laplace, rate=0.2),
    "eager": Run("Adam", compiled={"run_eagerly": True}),
    "jit": Run("Adam", compiled={"jit_compile": True}),
    "several steps per execution": Run("Adam", compiled={"steps_per_execution": 4}),
    "schedule": Run("Adam", schedule=RAMP, proximal={"start_step": 4}),
}
KERAS_3_RUNS = {
    "accumulation": Run("Adam", {"gradient_accumulation_steps": 2, "amsgrad": True}),
}
TF_KERAS_RUNS = {
    "adaptive": Run("Adam", {"adaptive_epsilon": True, **LARGE}),
}


# In every run: those of Keras 3, and of tf_keras.
QUICK = (
    *("Adam, amsgrad", "AdamW", "Nadam, elements", "Adamax", "RMSprop", "RMSprop, both"),
    *("Adagrad", "jit", "schedule", "accumulation"),
)
FEW = ("RMSprop, both", "adaptive")


def fitted(model, epochs=EPOCHS):
    x, y = data()
    model.fit(x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0)
    return model


def assert_trained(weights, expected):
    for actual, wanted in zip(weights, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(weights[0] == 0, expected[0] == 0)


@pytest.mark.parametrize("name", [n if n in QUICK else slow(n) for n in [*RUNS, *KERAS_3_RUNS]])
def test_keras_3_trains_as_numpy_does(name):
    run = {**RUNS, **KERAS_3_RUNS}[name]
    assert_trained(run.trained(keras), run.expected())


@pytest.mark.parametrize("name", [n if n in FEW else slow(n) for n in [*RUNS, *TF_KERAS_RUNS]])
def test_tf_keras_trains_as_numpy_does(name):
    run = {**RUNS, **TF_KERAS_RUNS}[name]
    if run.kind == "Nadam":  # whose momentum in tf_keras is another one in a graph
        run = dataclasses.replace(run, compiled={"run_eagerly": True})
    assert_trained(run.trained(tf_keras), run.expected())


def test_the_runs_make_some_groups_and_elements_zero():
    for run in RUNS.values():
        zeros = (run.expected()[0] == 0).sum(axis=1)
        assert 0 < (zeros == UNITS).sum() < INPUTS and zeros[0] == 0


@KERAS_3_FIRST
@pytest.mark.parametrize("name", ["RMSprop, both", slow("Adam, amsgrad"), slow("schedule")])
def test_two_devices_train_as_one_does(api, name):
    run = RUNS[name]
    assert_trained(run.trained(api, strategy=model_cases.mirrored(2)), run.expected())


@KERAS_3_FIRST
def test_loss_scaling_changes_nothing(api):
    run = RUNS["Adam"]
    assert_trained(run.trained(api, scaled=True), run.expected())


@KERAS_3_FIRST
def test_frozen_zeros_stay(api):
    run = dataclasses.replace(RUNS["Adam"], proximal={"freeze_zeros_from": 5})
    model = fitted(run.model(api), 2)
    dead = model.layers[-1].kernel.numpy() == 0
    assert dead.any() and not dead.all()
    assert not fitted(model, 2).layers[-1].kernel.numpy()[dead].any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_weights_of_any_float_dtype(dtype):
    model = linear(keras, dtype)
    optimizer = tfreg.Proximal(
        keras.optimizers.RMSprop(RATE), model, PENALTIES[group_lasso], metric="diagonal"
    )
    gradients = [np.full(INITIAL.shape, 0.1), np.full(UNITS, 0.1)]
    gradients[0][0] = 0.0  # removed at once, since its metric is next to 0
    tensors = [tf.constant(each, dtype) for each in gradients]
    optimizer.apply_gradients(zip(tensors, model.trainable_variables))
    along, metric = rmsprop(gradients[0], {}, 0)
    expected = group_lasso(INITIAL - RATE * along / metric, metric, RATE)
    kernel = model.layers[-1].kernel.numpy().astype(float)
    tolerance = 1e-6 if dtype == "float64" else 1e-2
    np.testing.assert_allclose(kernel, expected, atol=tolerance)
    assert not kernel[0].any() and kernel[1].all()


@KERAS_3_FIRST
@pytest.mark.parametrize("ending", ["keras", slow("h5")])
def test_files_keep_it(api, ending, tmp_path):
    run = RUNS["RMSprop, both"]
    model = fitted(run.model(api), 2)
    model.save(tmp_path / f"model.{ending}")
    loaded = api.models.load_model(tmp_path / f"model.{ending}")
    ours, theirs = (each.optimizer.get_config()["tfreg"] for each in (model, loaded))
    assert ours["metric"] == "diagonal"
    assert json.dumps(ours) == json.dumps(theirs)
    if (api, ending) != (keras, "h5"):  # from which no optimizer of Keras 3 goes on
        assert_trained(fitted(loaded, 1).get_weights(), run.expected())


@KERAS_3_FIRST
def test_checkpoints_resume(api, tmp_path):
    run = RUNS["Adam"]
    half, resumed = fitted(run.model(api), 2), run.model(api)
    path = tf.train.Checkpoint(model=half, optimizer=half.optimizer).save(tmp_path / "checkpoint")
    if api is keras:
        resumed.optimizer.build(resumed.trainable_variables)
    tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer).restore(path)
    assert_trained(fitted(resumed, 1).get_weights(), run.expected())


@KERAS_3_FIRST
def test_an_optimizer_that_has_taken_steps_goes_on(api):
    model, optimizer = linear(api), api.optimizers.Adam(RATE)
    for epochs in (1, EPOCHS - 1):
        model.compile(optimizer, api.losses.MeanSquaredError())
        fitted(model, epochs)
        if epochs == 1:
            tfreg.Proximal(optimizer, model, PENALTIES[laplace], metric="diagonal")
    run = Run("Adam", prox=laplace, proximal={"start_step": BATCHES})
    assert_trained(model.get_weights(), run.expected())


@KERAS_3_FIRST
def test_compact_keeps_it(api):
    hidden = api.layers.Dense(8, "relu", name="hidden")
    model = api.Sequential([api.Input((INPUTS,)), hidden, api.layers.Dense(UNITS)])
    hidden.kernel.assign(np.where(np.arange(8) < 5, hidden.kernel.numpy(), 0.0))
    optimizer = tfreg.Proximal(
        api.optimizers.Adam(1e-3), model, tfreg.GroupLasso(1e-3), metric="diagonal"
    )
    model.compile(optimizer, api.losses.MeanSquaredError())
    small = tfreg.compact(model)
    assert small.layers[-2].units == 5
    assert small.optimizer.get_config()["tfreg"]["metric"] == "diagonal"
    fitted(small, 1)


def regression():
    """80 samples, and 10 groups of 3 features on several scales, of which 3 are informative."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(80, 30)) * np.exp(0.7 * rng.normal(size=30))
    true = np.zeros((10, 3))
    true[:3] = rng.normal(size=(3, 3))
    return x, x @ true.ravel() + 0.3 * rng.normal(size=80)


STRENGTH = 0.3


@functools.cache
def optimum():
    """The minimum of the mean squared error and the group lasso, by proximal gradient steps."""
    x, y = regression()
    rate = 0.5 * len(y) / np.linalg.norm(x, 2) ** 2
    w = np.zeros((10, 3))
    for _ in range(20_000):
        moved = w - 2.0 * rate * (x.T @ (x @ w.ravel() - y)).reshape(10, 3) / len(y)
        norms = np.linalg.norm(moved, axis=1, keepdims=True)
        w = moved * np.maximum(1.0 - rate * STRENGTH * np.sqrt(3.0) / np.maximum(norms, 1e-30), 0.0)
    return w


def trained_on_the_regression(optimizer, **options):
    x, y = regression()
    model = keras.Sequential([keras.Input((30,)), keras.layers.Dense(1, use_bias=False)])
    model.layers[-1].kernel.assign(np.zeros((30, 1)))
    penalty = tfreg.GroupLasso(STRENGTH, axis=0, group_size=3)
    optimizer = tfreg.Proximal(optimizer, model, penalty, **options)
    model.compile(optimizer, "mse", steps_per_execution=100)
    of_one_batch = (x.astype("f"), y.astype("f")[:, np.newaxis])
    batches = tf.data.Dataset.from_tensors(of_one_batch).cache().repeat()
    model.fit(batches, steps_per_epoch=1500, verbose=0, shuffle=False)
    return model.layers[-1].kernel.numpy().reshape(10, 3)


@pytest.mark.parametrize("kind", ["Adam", slow("Nadam"), slow("RMSprop")])
def test_it_ends_at_the_minimum_of_a_convex_problem(kind):
    make = functools.partial(getattr(keras.optimizers, kind), 0.01)
    w = trained_on_the_regression(make(), metric="diagonal")
    np.testing.assert_allclose(w, optimum(), atol=1e-3)
    np.testing.assert_array_equal(w == 0, optimum() == 0)
    assert 0 < (optimum() == 0).all(axis=1).sum() < 10
    elsewhere = trained_on_the_regression(make())
    assert np.abs(elsewhere - optimum()).max() > 0.1


def raises(error, match, *arguments, **options):
    with pytest.raises(error, match=match):
        tfreg.Proximal(*arguments, metric="diagonal", **options)


@KERAS_3_FIRST
def test_optimizers_without_it_are_refused(api):
    class Mine(api.optimizers.Adam):
        def update_step(self, *arguments):
            super().update_step(*arguments)

    class Named(api.optimizers.Adam):
        """With the steps of Adam."""

    model, penalty = linear(api), tfreg.GroupLasso()
    kinds = ["Lion", "Ftrl", "Adadelta", *(["Lamb", "Adafactor"] if api is keras else [])]
    for make in [Mine, *(getattr(api.optimizers, kind) for kind in kinds)]:
        message = f"may be 'diagonal' for Adam, AdamW, .*class {make.__name__}$"
        raises(ValueError, message, make(0.1), model, penalty)
    raises(ValueError, "'euclidean' for SGD, which", api.optimizers.SGD(0.1), model, penalty)
    with pytest.raises(ValueError, match="must be one of .*'adam'"):
        tfreg.Proximal(api.optimizers.Adam(), model, penalty, metric="adam")
    optimizer = tfreg.Proximal(Named(), model, penalty, metric="diagonal")
    broken = optimizer.get_config()
    broken["tfreg"]["metric"] = None
    with pytest.raises(ValueError, match="must be one of .*None"):
        type(optimizer).from_config(broken)


@KERAS_3_FIRST
def test_penalties_without_it_are_refused(api):
    make, model = api.optimizers.Adam, linear(api)
    for penalty in (
        tfreg.GroupMCP(),
        tfreg.TotalVariation(axis=0),
        tfreg.Joint(tfreg.GroupLasso()),
    ):
        message = rf"in the optimizer's own metric.*kernel'\].*{type(penalty).__name__}\("
        raises(NotImplementedError, message, make(), model, penalty)
    model = model_cases.sequential(api)
    couplings = [(tfreg.couple(model), tfreg.GroupLasso())]
    raises(NotImplementedError, "own metric.*Coupled", make(), model, couplings)
    both = tfreg.GroupLasso() + tfreg.BoxPenalty()
    for penalty in (both, tfreg.TotalVariation(order=2)):
        raises(NotImplementedError, "a proximal operator. Rec", make(), model, penalty)
    later = model_cases.deferred(api)
    optimizer = tfreg.Proximal(make(), later, tfreg.GroupMCP(), metric="diagonal")
    later.compile(optimizer, api.losses.MeanSquaredError())
    with pytest.raises(NotImplementedError, match="own metric.*GroupMCP"):
        later.fit(*model_cases.data(), verbose=0)


@KERAS_3_FIRST
def test_penalties_with_it_are_taken(api):
    for penalty in (
        tfreg.SparseGroupLasso(0.1, axis="input"),
        tfreg.MCP(0.1, 2.0),
        tfreg.SCAD(0.1, 2.0, 3.7),
        tfreg.Quadratic(0.1),
        tfreg.GroupLasso(0.1, axis="input", groups=[[0, 3], [1, 2]]),
    ):
        model = linear(api)
        optimizer = tfreg.Proximal(api.optimizers.Adam(RATE), model, penalty, metric="diagonal")
        gradients = [tf.constant(INITIAL), tf.zeros(UNITS)]
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        along, metric = adam(INITIAL, {}, 0)
        moved = tf.constant(INITIAL - RATE * along / metric)
        expected = penalty.prox_on(moved, None, RATE, tf.constant(metric))
        np.testing.assert_allclose(model.layers[-1].kernel.numpy(), expected, atol=1e-5)
