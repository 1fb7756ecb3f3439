"""`tfreg.Proximal`: against loops in NumPy, with all that an optimizer does besides, and saved."""

import contextlib
import copy
import dataclasses
import functools
import json
import pickle

import clusters
import jobs
import keras
import model_cases
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from marks import KERAS_3_FIRST, slow
from numpy_optimizers import STEPS

import tfreg
from tfreg.penalties.coupled import Coupled

INPUTS, UNITS, BATCH, BATCHES, EPOCHS = 6, 3, 16, 4, 3
RATE, FACTOR = 0.05, 0.3
INITIAL = np.random.default_rng(1).normal(0.0, 0.5, (INPUTS, UNITS)).astype(np.float32)
INITIAL[3:] *= 0.1  # soon zero


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * BATCHES, INPUTS)).astype(np.float32)
    return x, (x[:, :2] @ rng.normal(size=(2, UNITS)) + 0.3).astype(np.float32)


def linear(api, dtype=None):
    model = api.Sequential([api.Input((INPUTS,)), api.layers.Dense(UNITS, dtype=dtype)])
    model.layers[-1].kernel.assign(INITIAL)
    return model


def shrunk(w, rate):
    """The proximal operator of `tfreg.GroupLasso(FACTOR, axis="input")`."""
    norms = np.linalg.norm(w, axis=1, keepdims=True)
    threshold = rate * FACTOR * np.sqrt(UNITS)
    return w * np.maximum(1.0 - threshold / np.maximum(norms, 1e-30), 0.0)


HALVING = "halving"  # the learning rate: RATE / (1 + k / 2)


@dataclasses.dataclass(frozen=True)
class Run:
    """A way to train. `options` are those of the optimizer."""

    kind: str = "SGD"
    options: dict = dataclasses.field(default_factory=dict)
    compiled: dict = dataclasses.field(default_factory=dict)
    proximal: dict = dataclasses.field(default_factory=dict)
    rate: float | str = RATE
    schedule: object = None

    def optimizer(self, api):
        rate = self.rate
        if rate == HALVING:
            rate = api.optimizers.schedules.InverseTimeDecay(RATE, 1, 0.5)
        return getattr(api.optimizers, self.kind)(rate, **self.options)

    def trained(self, api, strategy=None, scaled=False, batches_lost=()):
        x, y = data()
        y = y.copy()
        for k in batches_lost:
            y[k * BATCH] = np.inf
        with strategy.scope() if strategy else contextlib.nullcontext():
            model = linear(api)
            optimizer = tfreg.Proximal(
                self.optimizer(api),
                model,
                [(None, tfreg.GroupLasso(FACTOR, axis="input"), self.schedule)],
                **self.proximal,
            )
            if scaled:
                wrapper = api if api is keras else api.mixed_precision
                optimizer = getattr(wrapper, "optimizers", wrapper).LossScaleOptimizer(optimizer)
            model.compile(optimizer, api.losses.MeanSquaredError(), **self.compiled)
        model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0)
        return [weight.numpy() for weight in model.weights]

    def expected(self, api, batches_lost=()):
        """What the loop in NumPy trains. Keras counts lost steps in tf_keras alone."""
        options = dict(self.options)
        decay = options.pop("weight_decay", 0.004 if self.kind == "AdamW" else 0.0)
        every = options.pop("gradient_accumulation_steps", 1)
        use_ema = options.pop("use_ema", False)
        ema = options.pop("ema_momentum", 0.99)
        overwrite = options.pop("ema_overwrite_frequency", 0)
        clipnorm = options.pop("clipnorm", None)
        x, y = data()
        w = {"kernel": INITIAL.astype(float), "bias": np.zeros(UNITS)}
        states: dict = {"kernel": {}, "bias": {}}
        average = {name: value.copy() for name, value in w.items()}
        added = {name: 0.0 for name in w}
        k = 0  # updates
        for micro in range(EPOCHS * BATCHES):
            if micro % BATCHES in batches_lost:
                k += api is tf_keras
                continue
            rows = slice(micro % BATCHES * BATCH, (micro % BATCHES + 1) * BATCH)
            residual = 2.0 * (x[rows] @ w["kernel"] + w["bias"] - y[rows]) / (BATCH * UNITS)
            gradients = {"kernel": x[rows].T @ residual, "bias": residual.sum(0)}
            added = {name: added[name] + gradients[name] / every for name in w}
            if (micro + 1) % every:
                continue
            # A schedule of the learning rate sees the batches.
            rate = RATE / (1.0 + micro / 2.0) if self.rate == HALVING else self.rate
            for name, g in added.items():
                if clipnorm is not None:
                    g = g * clipnorm / max(np.linalg.norm(g), clipnorm)
                w[name] = w[name] * (1.0 - rate * decay)
                w[name] = STEPS[self.kind](w[name], g, states[name], k, rate, **options)
            if k >= self.proximal.get("start_step", 0):
                times = 1.0 if self.schedule is None else float(self.schedule(k))
                step_size = rate * times / (1.0 - options.get("momentum", 0.0))
                w["kernel"] = shrunk(w["kernel"], step_size)
            added = {name: 0.0 for name in w}
            if use_ema:
                keep = 0.0 if k == 0 and api is keras else ema
                average = {name: keep * average[name] + (1.0 - keep) * w[name] for name in w}
                if overwrite and (k + 1) % overwrite == 0:
                    w = {name: np.where(w[name] == 0.0, 0.0, average[name]) for name in w}
            k += 1
        if use_ema:
            w = {name: np.where(w[name] == 0.0, 0.0, average[name]) for name in w}
        return [w["kernel"], w["bias"]]


MOMENTUM = {"momentum": 0.9}
RAMP = tfreg.schedules.CubicRamp(begin=2, end=8)
EMA = {"use_ema": True, "ema_momentum": 0.8}
RUNS = {
    "SGD": Run(),
    "momentum": Run(options=MOMENTUM, rate=0.01),
    "nesterov": Run(options={**MOMENTUM, "nesterov": True}, rate=0.01),
    "Adam": Run("Adam"),
    "AdamW": Run("AdamW", {"weight_decay": 0.1}),
    "RMSprop": Run("RMSprop", {"momentum": 0.5}),
    "eager": Run("Adam", compiled={"run_eagerly": True}),
    "jit": Run(options=MOMENTUM, compiled={"jit_compile": True}, rate=0.01),
    "several steps per execution": Run("Adam", compiled={"steps_per_execution": 4}),
    "weight decay": Run(options={"weight_decay": 0.1}),
    "clipped": Run(options={"clipnorm": 0.5}),
    "schedule": Run("Adam", schedule=RAMP),
    "schedule of the rate": Run(rate=HALVING),
    "start": Run("Adam", proximal={"start_step": 5}),
    "averages": Run("Adam", EMA),
    "averages that overwrite": Run("Adam", {**EMA, "ema_overwrite_frequency": 3}),
}
# Those that TensorFlow's Keras 2 does not have.
KERAS_3_RUNS = {
    "accumulation": Run(options={**MOMENTUM, "gradient_accumulation_steps": 2}, rate=0.02),
    "accumulation on schedules": Run(
        "Adam", {"gradient_accumulation_steps": 2}, rate=HALVING, schedule=RAMP
    ),
    "accumulation, compiled": Run(
        "Adam", {"gradient_accumulation_steps": 2}, {"jit_compile": True, "steps_per_execution": 2}
    ),
}
FEW = ("SGD", "momentum", "averages")  # of tf_keras, in every run


def assert_trained(weights, expected, zeros=True):
    for actual, wanted in zip(weights, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5)
    dead = np.all(np.asarray(weights[0]) == 0, axis=1)
    np.testing.assert_array_equal(dead, np.all(expected[0] == 0, axis=1))
    assert not zeros or 0 < dead.sum() < INPUTS


@pytest.mark.parametrize("name", [*RUNS, *KERAS_3_RUNS])
def test_keras_3_trains_as_numpy_does(name):
    run = {**RUNS, **KERAS_3_RUNS}[name]
    assert_trained(run.trained(keras), run.expected(keras), zeros=False)


@pytest.mark.parametrize("name", [n if n in FEW else slow(n) for n in RUNS])
def test_tf_keras_trains_as_numpy_does(name):
    assert_trained(RUNS[name].trained(tf_keras), RUNS[name].expected(tf_keras), zeros=False)


def test_the_runs_make_some_groups_zero():
    dead = [np.all(run.expected(keras)[0] == 0, axis=1).sum() for run in RUNS.values()]
    assert sum(0 < count < INPUTS for count in dead) > len(RUNS) / 2, dead


@KERAS_3_FIRST
def test_loss_scaling_skips_the_step_where_it_skips_the_optimizers(api):
    run = Run("Adam", rate=0.1)
    lost = [0, 2]
    weights = run.trained(api, scaled=True, batches_lost=lost)
    assert_trained(weights, run.expected(api, batches_lost=lost), zeros=False)


DISTRIBUTED = {
    "Adam": Run("Adam", schedule=RAMP, proximal={"freeze_zeros_from": 8}),
    "schedule of the rate": Run(options=MOMENTUM, rate=HALVING),
    "averages": Run("AdamW", EMA),
}


@pytest.mark.parametrize("name", ["Adam", slow("schedule of the rate"), slow("averages")])
def test_two_devices_train_as_one_does(api, name):
    run = DISTRIBUTED[name]
    assert_trained(run.trained(api, model_cases.mirrored(2)), run.trained(api), zeros=False)


@pytest.mark.slow
def test_two_devices_skip_the_steps_that_loss_scaling_skips(api):
    run, lost = Run("Adam", rate=0.1), [0, 2]
    alone = run.trained(api, scaled=True, batches_lost=lost)
    both = run.trained(api, model_cases.mirrored(2), scaled=True, batches_lost=lost)
    assert_trained(both, alone, zeros=False)


@pytest.mark.slow
def test_two_workers_train_as_one_does(api, tmp_path):
    arguments, cluster = {"api_name": api.__name__, "epochs": 2}, clusters.loopback(worker=2)
    workers = [
        clusters.Process("multi_worker_proximal", arguments, cluster, "worker", i, tmp_path)
        for i in range(2)
    ]
    with clusters.running(*workers):
        clusters.wait_for(workers, timeout=120)
        results = [worker.result()["kernels"] for worker in workers]
    model = jobs.with_proximal_steps(api)
    model.fit(jobs.dataset(), epochs=2, verbose=0)
    for kernels in results:
        for ours, wanted in zip(kernels, jobs.kernels(model), strict=True):
            np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)


def rich(api):
    """A model with weights of several layouts."""
    return api.Sequential(
        [
            api.Input((4, 3)),
            api.layers.LSTM(4, name="lstm"),
            api.layers.Dense(6, "tanh", name="a"),
            api.layers.Dense(5, name="b"),
            api.layers.Dense(2, name="out"),
        ]
    )


def in_every_way(model):
    """Penalties on the weights of a `rich` model: by selection, on a schedule, jointly, coupled."""
    lstm, a, b, out = model.layers[-4:]
    couplings = [
        each for each in tfreg.couple(model) if all(len(m.slices) == 1 for m in each.members)
    ]
    prior = tfreg.Prior("Laplace", 0.1, loc=0.0, scale=1.0)
    return [
        ([lstm], tfreg.GroupLasso(0.1, axis="output")),
        (lambda layer, weight: weight is out.bias, prior, RAMP),
        ([a, b], tfreg.Joint(tfreg.GroupLasso(0.2, axis=["output", "input"]))),
        (couplings[-1:], tfreg.SparseGroupLasso(0.1)),
        ("out/kernel", tfreg.MCP(0.2, 0.5)),
    ]


def sequences():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(32, 4, 3)).astype(np.float32)
    return x, x[:, 0, :2] * 0.5


def descend(model, optimizer):
    x, y = sequences()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x) - y) ** 2)
    weights = model.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))


def assert_alike(model, other, tolerance=1e-6):
    for ours, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=tolerance, atol=tolerance)


@KERAS_3_FIRST
def test_each_step_is_the_prox_of_what_add_penalty_trains(api):
    model, twin = rich(api), rich(api)
    twin.set_weights(model.get_weights())
    optimizer = tfreg.Proximal(api.optimizers.SGD(0.1), model, in_every_way(model))
    step = tf.Variable(0, dtype=tf.int64)
    for weights, penalty, *schedule in in_every_way(twin):
        tfreg.add_penalty(twin, penalty, weights, *schedule, step=step if schedule else None)
    plain = api.optimizers.SGD(0.1)
    for _ in range(5):
        descend(model, optimizer)
        descend(twin, plain)
        for attached in tfreg.get_penalties(twin):
            for weight, shrunk_weight in zip(attached.weights, attached.prox(0.1)):
                weight.assign(shrunk_weight)
        step.assign_add(1)
    assert_alike(model, twin)
    assert any(np.any(weight.numpy() == 0) for weight in model.trainable_variables[3:])


def compiled(api, build=linear):
    api.utils.set_random_seed(4)
    model = build(api)
    penalties: object = tfreg.GroupLasso(FACTOR, axis="input")
    if build is rich:
        penalties = in_every_way(model)
    optimizer = tfreg.Proximal(api.optimizers.Adam(0.02), model, penalties)
    model.compile(optimizer, api.losses.MeanSquaredError())
    return model


@pytest.mark.slow
def test_two_devices_step_on_several_weights_as_one_does(api):
    with model_cases.mirrored(2).scope():
        both = compiled(api, rich)
    alone = compiled(api, rich)
    both.set_weights(alone.get_weights())
    assert_alike(fitted(both, 2), fitted(alone, 2), 1e-5)


def fitted(model, epochs, **options):
    x, y = sequences() if len(model.layers) > 2 else data()
    model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **options)
    return model


RESUME = """
import json, sys
import numpy as np
import tfreg
from tfreg import backend
api = getattr(backend, sys.argv[1])
model = api.models.load_model(sys.argv[2])
data = np.load(sys.argv[3])
model.fit(data["x"], data["y"], batch_size=8, epochs=1, shuffle=False, verbose=0)
print(json.dumps([weight.numpy().tolist() for weight in model.weights]))
"""


@pytest.mark.slow
def test_a_fresh_process_resumes_from_a_file(api, tmp_path, run_fresh):
    whole, half = fitted(compiled(api, rich), 3), fitted(compiled(api, rich), 2)
    half.save(tmp_path / "model.keras")
    x, y = sequences()
    np.savez(tmp_path / "data.npz", x=x, y=y)
    weights = run_fresh(RESUME, api.__name__, tmp_path / "model.keras", tmp_path / "data.npz")
    for resumed, weight in zip(weights, whole.weights, strict=True):
        np.testing.assert_allclose(resumed, weight.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ending", ["keras", slow("h5")])
def test_files_keep_every_argument(api, ending, tmp_path):
    x, y = data()
    model = linear(api)
    penalties = [("kernel", tfreg.GroupLasso(FACTOR, axis="input"), RAMP)]
    optimizer = tfreg.Proximal(api.optimizers.SGD(0.1), model, penalties, 2, freeze_zeros_from=7)
    model.compile(optimizer, api.losses.MeanSquaredError())
    model.fit(x, y, epochs=1, shuffle=False, verbose=0)
    model.save(tmp_path / f"model.{ending}")
    loaded = api.models.load_model(tmp_path / f"model.{ending}")
    assert type(loaded.optimizer) is type(optimizer)
    assert isinstance(loaded.optimizer, api.optimizers.SGD)
    ours, theirs = optimizer.get_config(), loaded.optimizer.get_config()
    assert json.dumps(ours["tfreg"]) == json.dumps(theirs["tfreg"])
    if (api, ending) != (keras, "h5"):  # from which no optimizer of Keras 3 goes on
        for each in (model, loaded):
            each.fit(x, y, epochs=3, shuffle=False, verbose=0)
        assert_alike(loaded, model)
    again = type(optimizer).from_config(theirs)
    assert again.get_config()["tfreg"] == ours["tfreg"]


@pytest.mark.slow
def test_saved_models_of_tf_keras_and_pickles_keep_it(tmp_path):
    model = fitted(compiled(tf_keras), 1)
    model.save(tmp_path / "model", save_format="tf")
    loaded = tf_keras.models.load_model(tmp_path / "model")
    assert type(loaded.optimizer) is type(model.optimizer)
    assert loaded.optimizer.get_config()["tfreg"] == model.optimizer.get_config()["tfreg"]
    fitted(loaded, 1)  # anew: the format has no state of optimizers
    for api in (keras, tf_keras):
        model = compiled(api)
        config = api.optimizers.serialize(model.optimizer)
        assert type(api.optimizers.get(config)) is type(model.optimizer)
        pickled = pickle.loads(pickle.dumps(fitted(model, 1)))
        assert_alike(fitted(copy.deepcopy(pickled), 1), fitted(model, 1))


@KERAS_3_FIRST
def test_checkpoints_resume(api, tmp_path):
    whole, half = fitted(compiled(api), 3), fitted(compiled(api), 2)
    path = tf.train.Checkpoint(model=half, optimizer=half.optimizer).save(tmp_path / "checkpoint")
    resumed = compiled(api)
    if api is keras:
        resumed.optimizer.build(resumed.trainable_variables)
    tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer).restore(path)
    assert_alike(fitted(resumed, 1), whole)


class _Cut(Exception):
    pass


@KERAS_3_FIRST
def test_backups_resume(api, tmp_path):
    whole, model = fitted(compiled(api), 3), compiled(api)

    def cut(epoch, logs=None):
        if epoch == 2:
            raise _Cut

    backup = functools.partial(api.callbacks.BackupAndRestore, str(tmp_path / "backup"))
    ends = api.callbacks.LambdaCallback(on_epoch_begin=cut)
    with pytest.raises(_Cut):
        fitted(model, 3, callbacks=[backup(), ends])
    assert_alike(fitted(compiled(api), 3, callbacks=[backup()]), whole)


def test_compile_wraps_it_under_mixed_float16(api):
    policy = api.mixed_precision.Policy if api is tf_keras else api.DTypePolicy
    before = api.mixed_precision.global_policy() if api is tf_keras else api.config.dtype_policy()
    set_policy = api.mixed_precision.set_global_policy
    try:
        set_policy(policy("mixed_float16"))
        model = linear(api)
    finally:
        set_policy(before)
    penalty = tfreg.GroupLasso(FACTOR, axis="input")
    optimizer = tfreg.Proximal(api.optimizers.SGD(0.1), model, penalty)
    model.compile(optimizer, api.losses.MeanSquaredError())
    assert type(model.optimizer).__name__.startswith("LossScaleOptimizer")
    x, y = data()
    model.fit(x, y, batch_size=BATCH, epochs=8, verbose=0)
    dead = np.all(model.layers[-1].kernel.numpy() == 0, axis=1)
    assert 0 < dead.sum() < INPUTS


@KERAS_3_FIRST
def test_files_keep_it_in_a_loss_scale_optimizer(api, tmp_path):
    scaling = api.optimizers if api is keras else api.mixed_precision
    model = linear(api)
    scaled = scaling.LossScaleOptimizer(api.optimizers.SGD(0.1))
    optimizer = tfreg.Proximal(scaled, model, tfreg.GroupLasso(FACTOR, axis="input"))
    assert optimizer is scaled
    model.compile(optimizer, api.losses.MeanSquaredError())
    fitted(model, 1).save(tmp_path / "model.keras")
    loaded = api.models.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer.inner_optimizer) is type(optimizer.inner_optimizer)
    assert_alike(fitted(loaded, 1), fitted(model, 1))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_weights_of_any_float_dtype(dtype):
    floatx = keras.config.floatx()
    model = linear(keras, dtype)
    optimizer = tfreg.Proximal(keras.optimizers.SGD(0.5), model, tfreg.GroupLasso(0.3, "input"))
    gradients = [tf.zeros(v.shape, dtype) for v in model.trainable_variables]
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    kernel = model.layers[-1].kernel
    norms = np.linalg.norm(INITIAL, axis=1, keepdims=True)
    wanted = INITIAL * np.maximum(1.0 - 0.15 * np.sqrt(UNITS) / norms, 0.0)
    tolerance = 1e-6 if dtype == "float64" else 1e-2
    np.testing.assert_allclose(kernel.numpy().astype(float), wanted, atol=tolerance)
    assert keras.config.floatx() == floatx


def zeros_after_each_step(api, kind, options, times, **arguments):
    """With a penalty that is strong at first, and then not there."""
    x, y = data()
    model = linear(api)
    turning_off = api.optimizers.schedules.PiecewiseConstantDecay([4], [times, 0.0])
    optimizer = tfreg.Proximal(
        getattr(api.optimizers, kind)(0.01, **options),
        model,
        [(None, tfreg.GroupLasso(FACTOR, axis="input"), turning_off)],
        **arguments,
    )
    model.compile(optimizer, api.losses.MeanSquaredError())
    zeros = []

    def note(batch, logs=None):
        zeros.append(np.all(model.layers[-1].kernel.numpy() == 0, axis=1))

    noting = api.callbacks.LambdaCallback(on_train_batch_end=note)
    model.fit(x, y, batch_size=BATCH, epochs=4, shuffle=False, verbose=0, callbacks=[noting])
    return np.array(zeros), optimizer


@pytest.mark.parametrize(
    "kind, options, times",
    [("SGD", MOMENTUM, 2.0), slow("AdamW", {"weight_decay": 0.1}, 10.0)],
)
def test_frozen_zeros_stay(api, kind, options, times):
    zeros, _ = zeros_after_each_step(api, kind, options, times)
    assert zeros[4].any() and not zeros[-1].any()  # they come back
    zeros, optimizer = zeros_after_each_step(api, kind, options, times, freeze_zeros_from=5)
    dead = zeros[4]
    assert dead.any() and not dead.all() and (zeros[5:] == dead).all()
    slots = getattr(optimizer, "momentums" if kind == "SGD" else "_momentums")[0].numpy()
    assert np.abs(slots[dead]).max() < np.abs(slots[~dead]).max()


@KERAS_3_FIRST
def test_frozen_zeros_have_no_part_in_sparse_gradients(api):
    table, dense = api.layers.Embedding(6, 3), api.layers.Dense(2, use_bias=False)
    model = api.Sequential([api.Input((2,)), table, api.layers.Flatten(), dense])
    penalty = tfreg.GroupLasso(1e-9, axis="input")
    values = np.ones((6, 3), np.float32)
    values[[1, 4]] = 0.0
    values[0, 0] = 0.0  # in a group that lives
    table.embeddings.assign(values)
    optimizer = tfreg.Proximal(
        api.optimizers.SGD(0.1), model, [([table], penalty)], freeze_zeros_from=0
    )
    gradient = tf.IndexedSlices(tf.ones([4, 3]), tf.constant([0, 1, 4, 4]), tf.constant([6, 3]))
    variables = model.trainable_variables
    optimizer.apply_gradients(zip([gradient, tf.ones(dense.kernel.shape)], variables))
    table = table.embeddings.numpy()
    assert not table[[1, 4]].any() and table[0].all()


def test_groups_of_marks():
    """What is alive under each kind of penalty."""
    from tfreg.proximal.zeros import are_alive

    w = tf.constant([[0.0, 1.0], [0.0, 0.0], [2.0, 0.0]])
    [alive] = are_alive(tfreg.MCP(0.1), [w], [None])
    np.testing.assert_array_equal(alive, w != 0)
    for penalty in (tfreg.GroupMCP(0.1, axis="input"), tfreg.SparseGroupLasso(0.0, axis="input")):
        [alive] = are_alive(penalty, [w], [None])
        np.testing.assert_array_equal(alive, [[True] * 2, [False] * 2, [True] * 2])
    listed = tfreg.GroupLasso(1.0, "input", groups=[[0, 2]], group_weights=[0.0])
    [alive] = are_alive(listed, [w], [None])
    np.testing.assert_array_equal(alive, [[True] * 2] * 3)
    tied = tfreg.Joint(tfreg.GroupLasso(0.1, axis=["input", "output"]))
    v = tf.constant([[0.0, 3.0, 0.0]])
    ours, theirs = are_alive(tied, [w, v], [None, None])
    np.testing.assert_array_equal(ours, [[True] * 2] * 3)
    ours, theirs = are_alive(tied, [w, 0.0 * v], [None, None])
    np.testing.assert_array_equal(ours[:, 0], [True, False, True])
    np.testing.assert_array_equal(theirs, [[True, False, True]])
    coupled = Coupled(tfreg.GroupLasso(0.1), [[(0, [[0], [1], [2]])], [(1, [[0], [1], [2]])]], 0.0)
    ours, theirs = are_alive(coupled, [w, 0.0 * v], [None, None])
    np.testing.assert_array_equal(theirs, [[True, False, True]])


@KERAS_3_FIRST
def test_a_model_that_is_not_built_is_resolved_with_the_optimizer(api):
    model = model_cases.deferred(api)
    optimizer = tfreg.Proximal(api.optimizers.SGD(0.01), model, tfreg.GroupLasso(1e3))
    model.compile(optimizer, "mse")
    with pytest.raises(ValueError, match="not built"):
        optimizer.get_config()
    model.compile(optimizer, api.losses.MeanSquaredError())
    x, y = model_cases.data()
    model.fit(x, y, verbose=0)
    assert not any(weight.numpy().any() for weight in model.weights)
    wrong = model_cases.deferred(api)
    optimizer = tfreg.Proximal(api.optimizers.SGD(), wrong, [("nothing", tfreg.GroupLasso())])
    wrong.compile(optimizer, api.losses.MeanSquaredError())
    with pytest.raises(ValueError, match="must select a weight"):
        wrong.fit(x, y, verbose=0)


@KERAS_3_FIRST
def test_an_optimizer_that_has_taken_steps_goes_on(api):
    x, y = data()
    model = linear(api)
    optimizer = api.optimizers.Adam(0.01)
    model.compile(optimizer, api.losses.MeanSquaredError())
    model.fit(x, y, verbose=0)
    momentums = optimizer.variables[-1].numpy()
    assert tfreg.Proximal(optimizer, model, tfreg.GroupLasso(100.0)) is optimizer
    np.testing.assert_array_equal(optimizer.variables[-1].numpy(), momentums)
    model.compile(optimizer, api.losses.MeanSquaredError())
    model.fit(x, y, verbose=0)
    assert not model.layers[-1].kernel.numpy().any()


@KERAS_3_FIRST
def test_callbacks_that_change_the_rate_change_the_step(api):
    model = linear(api)
    optimizer = tfreg.Proximal(api.optimizers.SGD(0.1), model, tfreg.GroupLasso(0.3, "input"))
    model.compile(optimizer, api.losses.MeanSquaredError())
    rates = api.callbacks.LearningRateScheduler(lambda epoch: 0.0 if epoch else 10.0)
    plateau = api.callbacks.ReduceLROnPlateau(monitor="loss")
    x = np.zeros((4, INPUTS), np.float32)
    model.fit(x, x[:, :UNITS], epochs=1, verbose=0, callbacks=[rates, plateau])
    assert not model.layers[-1].kernel.numpy().any()
    model.layers[-1].kernel.assign(INITIAL)
    model.fit(x, x[:, :UNITS], epochs=2, initial_epoch=1, verbose=0, callbacks=[rates])
    np.testing.assert_array_equal(model.layers[-1].kernel.numpy(), INITIAL)
    optimizer.learning_rate = 0.25
    assert float(optimizer.learning_rate) == 0.25


def regression(is_logistic=False):
    """200 samples, and 40 groups of 5 features, of which 7 are informative."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(200, 200))
    true = np.zeros((40, 5))
    true[rng.choice(40, 7, replace=False)] = rng.normal(size=(7, 5))
    y = x @ true.ravel() + 0.5 * rng.normal(size=200)
    return x, (y > 0.0).astype(float) if is_logistic else y


@functools.cache
def trained_by_sgd(penalty, momentum, is_logistic=False):
    """The coefficients of a model of one layer."""
    x, y = regression(is_logistic)
    model = keras.Sequential([keras.Input((200,)), keras.layers.Dense(1, use_bias=False)])
    curvature = (0.25 if is_logistic else 2.0) * np.linalg.norm(x, 2) ** 2 / len(y)
    descent = keras.optimizers.SGD(0.9 / curvature, momentum=momentum)
    loss = keras.losses.BinaryCrossentropy(from_logits=True) if is_logistic else "mse"
    model.compile(tfreg.Proximal(descent, model, penalty), loss, steps_per_execution=100)
    of_one_batch = (x.astype("f"), y.astype("f")[:, np.newaxis])
    batches = tf.data.Dataset.from_tensors(of_one_batch).cache().repeat()
    model.fit(batches, steps_per_epoch=1500 if momentum else 6000, verbose=0)
    return model.layers[-1].kernel.numpy()[:, 0].astype(float)


ALPHA = 0.15
LASSO = tfreg.GroupLasso(2.0 * ALPHA, axis=0, group_size=5)
SPARSE = tfreg.SparseGroupLasso(0.1, 0.3, axis=0, group_size=5)
OF_LOGITS = tfreg.GroupLasso(0.03, axis=0, group_size=5)


@pytest.mark.parametrize(
    "penalty, momentum, is_logistic",
    [(LASSO, 0.8, False), slow(LASSO, 0.0, False), (SPARSE, 0.8, False), (OF_LOGITS, 0.9, True)],
)
def test_sgd_ends_where_no_proximal_step_leads_away(penalty, momentum, is_logistic):
    (x, y), w = regression(is_logistic), trained_by_sgd(penalty, momentum, is_logistic)
    logits = x @ w
    error = 1.0 / (1.0 + np.exp(-logits)) - y if is_logistic else 2.0 * (logits - y)
    moved = w - 0.1 * x.T @ error / len(y)
    l1 = 0.1 * penalty.factor * getattr(penalty, "l1_ratio", 0.0)
    l2 = 0.1 * penalty.factor * np.sqrt(5.0) - l1 * np.sqrt(5.0)
    moved = (np.sign(moved) * np.maximum(np.abs(moved) - l1, 0.0)).reshape(40, 5)
    norms = np.linalg.norm(moved, axis=1, keepdims=True)
    moved *= np.maximum(1.0 - l2 / np.maximum(norms, 1e-30), 0.0)
    np.testing.assert_allclose(w.reshape(40, 5), moved, atol=1e-4)
    np.testing.assert_array_equal(w.reshape(40, 5) == 0, moved == 0)
    assert 7 <= np.any(moved, axis=1).sum() < 40


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0.8, 0.0])
def test_sgd_reaches_the_optimum_that_skglm_finds(momentum):
    from skglm.datafits import QuadraticGroup
    from skglm.penalties import WeightedGroupL2
    from skglm.solvers import GroupBCD

    (x, y), ours = regression(), trained_by_sgd(LASSO, momentum)
    weights = np.full(40, np.sqrt(5.0))
    where, order = np.arange(0, 201, 5, np.int32), np.arange(200, dtype=np.int32)
    solver = GroupBCD(max_iter=10_000, tol=1e-10, fit_intercept=False)
    penalty = WeightedGroupL2(ALPHA, weights, where, order)
    theirs, _, _ = solver.solve(x, y, QuadraticGroup(where, order), penalty)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    living = [np.any(w.reshape(40, 5) != 0, axis=1) for w in (ours, theirs)]
    np.testing.assert_array_equal(*living)


@keras.saving.register_keras_serializable("tests")
def sum_of_squares(weights):
    return tf.add_n([tf.reduce_sum(weight**2) for weight in weights])


def raises(error, message, *arguments, **options):
    with pytest.raises(error, match=message):
        tfreg.Proximal(*arguments, **options)


def test_errors_say_what_to_do(api):
    other = tf_keras if api is keras else keras
    model, penalty = linear(api), tfreg.GroupLasso()
    make = functools.partial(api.optimizers.SGD, 0.1)
    raises(TypeError, "`optimizer` must be an optimizer", "sgd", model, penalty)
    raises(TypeError, "MultiOptimizer nor", tf_keras.optimizers.legacy.SGD(), model, penalty)
    of_the_other = other.optimizers.SGD()
    raises(TypeError, f"`optimizer` must be of {api.__name__}", of_the_other, model, penalty)
    raises(TypeError, "`model` must be a model", make(), model.layers[-1], penalty)
    raises(ValueError, "momentum below 1", make(momentum=1.0), model, penalty)
    raises(TypeError, "`penalties` must be a penalty, or", make(), model, [penalty])
    raises(TypeError, "`penalties` must be a penalty, or", make(), model, [])
    raises(TypeError, "`penalties` must be a penalty, or", make(), model, ("kernel", penalty))
    raises(ValueError, "must select a weight", make(), model, [("nothing", penalty)])
    raises(ValueError, "`start_step` must be an int", make(), model, penalty, start_step=-1)
    raises(ValueError, "`freeze_zeros_from`", make(), model, penalty, freeze_zeros_from=0.5)
    raises(NotImplementedError, "has no closed form", make(), model, penalty + tfreg.BoxPenalty())
    layers = [api.layers.Dense(INPUTS) for _ in range(2)]
    square = api.Sequential([api.Input((INPUTS,)), *layers])
    function = tfreg.Joint(sum_of_squares)
    raises(NotImplementedError, "no known", make(), square, function)
    raises(ValueError, "axis", make(), model, tfreg.GroupLasso(axis=7))
    optimizer = tfreg.Proximal(make(), model, penalty)
    raises(ValueError, "no proximal steps yet", optimizer, model, penalty)
    with pytest.raises(TypeError, match="Use tfreg.Proximal"):
        type(optimizer)(0.1)


@KERAS_3_FIRST
def test_a_penalty_counts_in_the_loss_or_in_proximal(api):
    make = functools.partial(api.optimizers.SGD, 0.1)
    model = tfreg.add_penalty(linear(api), tfreg.GroupLasso())
    raises(ValueError, "kernel.* is in the loss and", make(), model, tfreg.GroupLasso(1.0))
    tfreg.Proximal(make(), model, tfreg.MCP())
    layer = api.layers.Dense(1, kernel_regularizer=tfreg.MCP() + tfreg.BoxPenalty())
    model = api.Sequential([api.Input((3,)), layer])
    raises(ValueError, "in the loss and", make(), model, tfreg.MCP(0.5))
    later = linear(api)
    optimizer = tfreg.Proximal(make(), later, tfreg.GroupLasso())
    tfreg.Proximal(make(), later, tfreg.GroupLasso())
    assert optimizer.learning_rate is not None


@KERAS_3_FIRST
def test_frozen_weights(api):
    x, y = model_cases.data()
    make = functools.partial(api.optimizers.SGD, 0.01)
    model = model_cases.sequential(api)
    model.layers[-2].trainable = False
    before = model.layers[-2].kernel.numpy()
    optimizer = tfreg.Proximal(make(), model, tfreg.GroupLasso(900.0))
    model.compile(optimizer, api.losses.MeanSquaredError())
    model.fit(x, y, verbose=0)
    np.testing.assert_array_equal(model.layers[-2].kernel.numpy(), before)
    assert not model.layers[-1].kernel.numpy().any()
    frozen = [([model.layers[-2]], tfreg.GroupLasso())]
    raises(ValueError, "which are frozen", make(), model, frozen)
    joint = tfreg.Joint(tfreg.GroupLasso(axis="all"))
    raises(ValueError, "which are frozen", make(), model, joint)
    for is_built in (False, True):
        model = model_cases.sequential(api)
        optimizer = tfreg.Proximal(make(), model, tfreg.GroupLasso())
        model.compile(optimizer, api.losses.MeanSquaredError())
        if is_built:
            model.fit(x, y, verbose=0)
        model.layers[-1].trainable = False
        model.compile(optimizer, api.losses.MeanSquaredError())
        with pytest.raises(ValueError, match="does not train the weight '.*kernel'"):
            model.fit(x, y, verbose=0)


@KERAS_3_FIRST
def test_an_optimizer_of_another_model_is_refused(api):
    model = linear(api)
    optimizer = tfreg.Proximal(api.optimizers.SGD(0.1), model, tfreg.GroupLasso())
    loaded = type(optimizer).from_config(optimizer.get_config())
    other = api.Sequential([api.Input((INPUTS,)), api.layers.Dense(UNITS + 1)])
    with pytest.raises(ValueError, match="made for another model: its penalty on .*kernel"):
        loaded.build(other.trainable_variables)
    for key, value in (("index", "0"), ("shape", None), ("path", 1), ("layout", ["input"])):
        broken = optimizer.get_config()
        broken["tfreg"]["penalties"][0]["weights"][0][key] = value
        with pytest.raises(ValueError, match="config of a weight of tfreg.Proximal"):
            type(optimizer).from_config(broken)
    broken = optimizer.get_config()
    broken["tfreg"]["penalties"][0]["weights"] = []
    with pytest.raises(ValueError, match="must list its weight"):
        type(optimizer).from_config(broken)
    with pytest.raises(TypeError, match="config of a tfreg.Proximal optimizer"):
        type(optimizer).from_config({"learning_rate": 0.1})


def test_parameter_servers_are_refused(monkeypatch):
    model = linear(tf_keras)
    optimizer = tf_keras.optimizers.SGD()
    strategy = object.__new__(tf.distribute.ParameterServerStrategy)
    monkeypatch.setattr(optimizer, "_distribution_strategy", strategy)
    raises(NotImplementedError, "ParameterServerStrategy", optimizer, model, tfreg.GroupLasso())


def test_penalties_of_the_loss_beside_it_and_schedules_count_its_steps(api):
    model = linear(api)
    tfreg.add_penalty(model, tfreg.Quadratic(0.1), "bias", schedule=RAMP)
    optimizer = tfreg.Proximal(api.optimizers.SGD(0.1), model, tfreg.GroupLasso())
    model.compile(optimizer, api.losses.MeanSquaredError())
    x, y = data()
    model.fit(x, y, verbose=0)
    assert int(tf.convert_to_tensor(optimizer.iterations)) == 2


@KERAS_3_FIRST
def test_compact_keeps_it_on_what_is_left(api):
    x, _ = data()
    inputs = api.Input((INPUTS,))
    hidden = api.layers.Dense(8, "relu", name="hidden")
    model = api.Model(inputs, api.layers.Dense(2)(hidden(inputs)))
    penalties = [(tfreg.couple(model), tfreg.GroupLasso(0.3)), ("hidden", tfreg.MCP(0.01))]
    optimizer = tfreg.Proximal(api.optimizers.SGD(0.05, momentum=0.9), model, penalties)
    model.compile(optimizer, api.losses.MeanSquaredError())
    model.fit(x, x[:, :2], epochs=12, verbose=0)
    small = tfreg.compact(model)
    assert 0 < small.layers[1].units < 8
    assert type(small.optimizer) is type(optimizer)
    weights = small.optimizer.get_config()["tfreg"]["penalties"][0]["weights"]
    assert [tuple(each["shape"]) for each in weights] == [
        tuple(each.shape) for each in small.trainable_variables[:3]
    ]
    for each in (model, small):
        each.fit(x, x[:, :2], epochs=2, verbose=0, shuffle=False)
    np.testing.assert_allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-4)
    plain = tfreg.compact(model, penalties=False)
    assert type(plain.optimizer) is api.optimizers.SGD


@KERAS_3_FIRST
def test_an_optimizer_that_hands_gradients_on_is_refused(api):
    class Handing(api.optimizers.SGD):
        def apply(self, grads, trainable_variables=None):
            for gradient, variable in zip(grads, trainable_variables):
                variable.assign_sub(gradient)

        def apply_gradients(self, grads_and_vars, **kwargs):
            return self.apply(*zip(*grads_and_vars))

    model = linear(api)
    optimizer = tfreg.Proximal(Handing(), model, tfreg.GroupLasso())
    weights = model.trainable_variables
    with pytest.raises(NotImplementedError, match="no steps after those of a Handing"):
        optimizer.apply_gradients(zip([tf.zeros(w.shape) for w in weights], weights))
