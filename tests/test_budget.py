"""`tfreg.Budget` over couplings: against a loop in NumPy, on every network, saved, refused."""

import contextlib
import dataclasses
import functools
import json
import math
import pickle
from typing import NamedTuple

import clusters
import jobs
import keras
import model_cases
import networks
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from marks import KERAS_3_FIRST, name_of, slow
from networks import NETWORKS, inputs_for, outputs_of, randomize
from numpy_optimizers import STEPS

import tfreg
from tfreg.structure.couplings import traced

BATCH, BATCHES, EPOCHS = 16, 4, 4
RATE = 0.05


# Two networks, as functions of their weights and as models.


class Slice(NamedTuple):
    """What the entries of a coupling have along an axis of a weight, by its place."""

    weight: int
    axis: int
    indices: np.ndarray
    makes: bool = True  # the entries, else it reads them


def _each(size):
    return np.arange(size)[:, None]


class Chain:
    """Three dense layers."""

    widths = (8, 6)
    shapes = [(5, 8), (8,), (8, 6), (6,), (6, 2), (2,)]
    couplings = [
        [Slice(0, 1, _each(8)), Slice(1, 0, _each(8)), Slice(2, 0, _each(8), False)],
        [Slice(2, 1, _each(6)), Slice(3, 0, _each(6)), Slice(4, 0, _each(6), False)],
    ]
    input_shape, outputs = (5,), 2

    @staticmethod
    def model(api, dtype=None):
        k = api.layers
        return api.Sequential(
            [
                api.Input((5,)),
                k.Dense(8, "tanh", dtype=dtype, name="first"),
                k.Dense(6, "tanh", dtype=dtype, name="second"),
                k.Dense(2, dtype=dtype, name="last"),
            ]
        )

    @staticmethod
    def outputs_of(w, x):
        return tf.tanh(tf.tanh(x @ w[0] + w[1]) @ w[2] + w[3]) @ w[4] + w[5]

    @staticmethod
    def costs(widths):
        first, second = widths
        multiply_adds = 5 * first + first * second + second * 2
        return {
            "multiply_adds": multiply_adds,
            "parameters": multiply_adds + first + second + 2,
            "groups": first + second,
        }


class Images:
    """A convolution, its normalization, another convolution and a dense layer over positions."""

    widths = (6, 5)
    shapes = [(3, 3, 2, 6), (6,), (6,), (2, 2, 6, 5), (5,), (20, 3), (3,)]
    couplings = [
        [Slice(0, 3, _each(6)), Slice(1, 0, _each(6)), Slice(2, 0, _each(6))]
        + [Slice(3, 2, _each(6), False)],
        [Slice(3, 3, _each(5)), Slice(4, 0, _each(5))]
        + [Slice(5, 0, np.arange(5)[:, None] + 5 * np.arange(4), False)],
    ]
    input_shape, outputs = (5, 5, 2), 3

    @staticmethod
    def model(api, dtype=None):
        k = api.layers
        return api.Sequential(
            [
                api.Input((5, 5, 2)),
                k.Conv2D(6, 3, use_bias=False, dtype=dtype, name="first"),
                k.BatchNormalization(momentum=0.5, dtype=dtype, name="norm"),
                k.Activation("tanh", dtype=dtype),
                k.Conv2D(5, 2, activation="tanh", dtype=dtype, name="second"),
                k.Flatten(dtype=dtype),
                k.Dense(3, dtype=dtype, name="last"),
            ]
        )

    @staticmethod
    def outputs_of(w, x):
        y = tf.nn.conv2d(x, w[0], 1, "VALID")
        mean, variance = tf.nn.moments(y, [0, 1, 2])
        y = tf.tanh((y - mean) * tf.math.rsqrt(variance + 1e-3) * w[1] + w[2])
        y = tf.tanh(tf.nn.conv2d(y, w[3], 1, "VALID") + w[4])
        return tf.reshape(y, (-1, 20)) @ w[5] + w[6]

    @staticmethod
    def costs(widths):
        first, second = widths
        reads = 9 * (2 * 9 * first) + 4 * (4 * first * second) + 4 * second * 3
        parameters = 2 * 9 * first + 2 * first + 4 * first * second + second + 4 * second * 3 + 3
        return {"multiply_adds": reads, "parameters": parameters, "groups": first + second}


def initial_weights(net):
    rng = np.random.default_rng(5)
    weights = [rng.normal(0.0, 0.5, shape) for shape in net.shapes]
    for i, shape in enumerate(net.shapes):
        if len(shape) == 1:  # biases and normalizations
            weights[i] = rng.uniform(0.5, 1.0, shape) * rng.choice([-1.0, 1.0], shape)
    return [w.astype(np.float32) for w in weights]


def data(net, rows=BATCH * BATCHES):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, *net.input_shape)).astype(np.float32)
    flat = x.reshape(rows, -1)
    return x, np.sin(flat @ rng.normal(size=(flat.shape[1], net.outputs))).astype(np.float32)


def made(api, net, dtype=None):
    model = net.model(api, dtype)
    for variable, value in zip(model.trainable_variables, initial_weights(net), strict=True):
        variable.assign(value)
    return model


# The loop in NumPy.

HALVING = "halving"  # the learning rate: RATE / (1 + k / 2)


@keras.saving.register_keras_serializable("tests")
@tf_keras.saving.register_keras_serializable("tests")
def absolute(weight, gradient):
    return tf.abs(weight * gradient)


class Removals:
    """Which entries are left, by the definition of a budget."""

    def __init__(self, net, budget):
        self.net, self.budget = net, budget
        self.total = net.costs(net.widths)
        given = {name: budget[name] for name in self.total if name in budget}
        self.targets = {
            name: math.floor(target * self.total[name]) if isinstance(target, float) else target
            for name, target in given.items()
        }
        self.alive = [np.ones(size, bool) for size in net.widths]
        self.scores = [np.zeros(size) for size in net.widths]
        self.events: dict[int, int] = {}  # how many went, by the step

    def dead(self):
        """For each weight a mask of what is zero."""
        masks = [np.zeros(shape, bool) for shape in self.net.shapes]
        for slices, alive in zip(self.net.couplings, self.alive):
            for each in slices:
                gone = each.indices[~alive].ravel()
                masks[each.weight][(slice(None),) * each.axis + (gone,)] = True
        return masks

    def _summed(self, arrays):
        """For each entry the sum over what makes it."""
        sums = [np.zeros(size) for size in self.net.widths]
        for slices, total in zip(self.net.couplings, sums):
            for each in slices:
                if each.makes:
                    along = np.moveaxis(arrays[each.weight], each.axis, 0)[each.indices]
                    total += along.reshape(len(total), -1).sum(1)
        return sums

    def observe(self, weights, gradients):
        products = [w * g for w, g in zip(weights, gradients)]
        score = self.budget.get("score", "taylor")
        if score == "taylor":
            seen = [each**2 for each in self._summed(products)]
        elif score == "norm":
            return
        else:
            seen = self._summed([np.abs(each) for each in products])
        self.scores = [0.98 * old + 0.02 * new for old, new in zip(self.scores, seen)]

    def remove(self, weights, step):
        begin, end, every = (self.budget[name] for name in ("begin", "end", "every"))
        if step < begin or ((step - begin) % every and step != end):
            return
        if self.budget.get("score") == "norm":
            self.scores = [np.sqrt(s) for s in self._summed([w**2 for w in weights])]
        progress = 1.0 - (1.0 - min((step - begin) / (end - begin), 1.0)) ** 3
        most = {}
        for name, target in self.targets.items():
            total = self.total[name]
            curve = math.log(total) + (math.log(target) - math.log(total)) * progress
            most[name] = target if progress == 1.0 else math.exp(curve)
        while True:
            widths = [int(alive.sum()) for alive in self.alive]
            costs = self.net.costs(widths)
            if all(costs[name] <= limit * (1 + 1e-12) for name, limit in most.items()):
                return
            _, coupling, entry = min(self._candidates(widths))
            self.alive[coupling][entry] = False
            self.events[step] = self.events.get(step, 0) + 1

    def _candidates(self, widths):
        """The least entry of each coupling by its score over what it costs beyond the targets."""
        costs, found = self.net.costs(widths), []
        for i, width in enumerate(widths):
            if width > self.budget.get("minimum", 2):
                fewer = self.net.costs([w - (i == j) for j, w in enumerate(widths)])
                price = 0.0
                for name, target in self.targets.items():
                    beyond = max(costs[name] - target, 0)
                    price += min(costs[name] - fewer[name], beyond) / costs[name]
                scores = np.where(self.alive[i], self.scores[i], np.inf)
                if price > 0:
                    found.append((scores.min() / price, i, int(scores.argmin())))
        return found


BUDGET = {"multiply_adds": 0.4, "begin": 1, "end": 10, "heal": 12, "every": 2}


@dataclasses.dataclass(frozen=True)
class Run:
    """A way to train. `options` are those of the optimizer."""

    kind: str = "SGD"
    options: dict = dataclasses.field(default_factory=dict)
    compiled: dict = dataclasses.field(default_factory=dict)
    budget: dict = dataclasses.field(default_factory=lambda: BUDGET)
    rate: float | str = RATE
    net: type = Chain

    def optimizer(self, api):
        rate = self.rate
        if rate == HALVING:
            rate = api.optimizers.schedules.InverseTimeDecay(RATE, 1, 0.5)
        return getattr(api.optimizers, self.kind)(rate, **self.options)

    def trained(self, api, strategy=None, scaled=False, batches_lost=()):
        x, y = data(self.net)
        y = y.copy()
        for k in batches_lost:
            y[k * BATCH] = np.inf
        with strategy.scope() if strategy else contextlib.nullcontext():
            model = made(api, self.net)
            optimizer = tfreg.Proximal(self.optimizer(api), model, tfreg.Budget(**self.budget))
            if scaled:
                wrapper = api.optimizers if api is keras else api.mixed_precision
                optimizer = wrapper.LossScaleOptimizer(optimizer)
            model.compile(optimizer, api.losses.MeanSquaredError(), **self.compiled)
        model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0)
        return [weight.numpy() for weight in model.trainable_variables]

    @functools.cache
    def _gradient(self):
        @tf.function(autograph=False)
        def gradient(w, x, y):
            with tf.GradientTape() as tape:
                tape.watch(w)
                loss = tf.reduce_mean((self.net.outputs_of(w, x) - y) ** 2)
            return tape.gradient(loss, w)

        return gradient

    def __hash__(self):
        return id(self)

    def expected(self, api, batches_lost=()):
        """What the loop trains, and its removals. Keras counts lost steps in tf_keras alone."""
        options = dict(self.options)
        decay = options.pop("weight_decay", 0.004 if self.kind == "AdamW" else 0.0)
        every = options.pop("gradient_accumulation_steps", 1)
        use_ema = options.pop("use_ema", False)
        ema = options.pop("ema_momentum", 0.99)
        overwrite = options.pop("ema_overwrite_frequency", 0)
        clipnorm = options.pop("clipnorm", None)
        x, y = (array.astype(np.float64) for array in data(self.net))
        weights = [w.astype(np.float64) for w in initial_weights(self.net)]
        removals = Removals(self.net, self.budget)
        states: list[dict] = [{} for _ in weights]
        average = [w.copy() for w in weights]
        added = [0.0 for _ in weights]
        k = 0  # updates
        for micro in range(EPOCHS * BATCHES):
            if micro % BATCHES in batches_lost:
                k += api is tf_keras
                continue
            rows = slice(micro % BATCHES * BATCH, (micro % BATCHES + 1) * BATCH)
            gradients = self._gradient()(list(map(tf.constant, weights)), x[rows], y[rows])
            masks = removals.dead()
            masked = [np.where(gone, 0.0, g) for gone, g in zip(masks, gradients)]
            added = [total + g / every for total, g in zip(added, masked)]
            if (micro + 1) % every:
                continue
            # A schedule of the learning rate sees the batches.
            rate = RATE / (1.0 + micro / 2.0) if self.rate == HALVING else self.rate
            if clipnorm is not None:
                added = [g * clipnorm / max(np.linalg.norm(g), clipnorm) for g in added]
            weights = [w * (1.0 - rate * decay) for w in weights]
            removals.observe(weights, added)
            for i, g in enumerate(added):
                weights[i] = STEPS[self.kind](weights[i], g, states[i], k, rate, **options)
            removals.remove([np.where(gone, 0.0, w) for gone, w in zip(masks, weights)], k)
            masks = removals.dead()
            weights = [np.where(gone, 0.0, w) for gone, w in zip(masks, weights)]
            added = [0.0 for _ in weights]
            if use_ema:
                keep = 0.0 if k == 0 and api is keras else ema
                average = [keep * a + (1.0 - keep) * w for a, w in zip(average, weights)]
                if overwrite and (k + 1) % overwrite == 0:
                    weights = [np.where(gone, 0.0, a) for gone, a in zip(masks, average)]
            k += 1
        if use_ema:
            weights = [np.where(gone, 0.0, a) for gone, a in zip(masks, average)]
        return weights, removals


MOMENTUM = {"momentum": 0.9}
EMA = {"use_ema": True, "ema_momentum": 0.8}
OF_IMAGES = {**BUDGET, "every": 1}
STEEP = {**BUDGET, "begin": 0, "end": 5, "heal": 5, "every": 1}
RUNS = {
    "SGD": Run(),
    "momentum": Run(options=MOMENTUM),
    "Adam": Run("Adam"),
    "AdamW": Run("AdamW", {"weight_decay": 0.1}),
    "RMSprop": Run("RMSprop", {"momentum": 0.5}, rate=0.01),
    "images": Run(options=MOMENTUM, net=Images, budget=OF_IMAGES),
    "eager": Run("Adam", compiled={"run_eagerly": True}),
    "jit": Run(options=MOMENTUM, compiled={"jit_compile": True}, net=Images, budget=OF_IMAGES),
    "several steps per execution": Run("Adam", compiled={"steps_per_execution": 4}),
    "weight decay": Run(options={**MOMENTUM, "weight_decay": 0.1}),
    "clipped": Run(options={"clipnorm": 0.1}, rate=0.5),
    "schedule of the rate": Run(rate=HALVING),
    "averages": Run("Adam", EMA),
    "averages that overwrite": Run("Adam", {**EMA, "ema_overwrite_frequency": 3}),
    "parameters": Run("Adam", budget={**STEEP, "parameters": 60, "multiply_adds": 1.0}),
    "groups": Run("Adam", budget={"groups": 7, "begin": 3, "end": 10, "heal": 15, "every": 1}),
    "groups beside what is met": Run(
        options=MOMENTUM, budget={**STEEP, "multiply_adds": 1.0, "parameters": 80, "groups": 0.4}
    ),
    "all resources": Run(
        options=MOMENTUM,
        net=Images,
        budget={**OF_IMAGES, "multiply_adds": 0.6, "parameters": 0.5, "groups": 0.65},
    ),
    "minimum": Run("Adam", budget={**BUDGET, "minimum": 5, "multiply_adds": 0.6}),
    "of one": Run("Adam", budget={**BUDGET, "multiply_adds": 0.1, "minimum": 1}),
    "norm": Run(options=MOMENTUM, budget={**OF_IMAGES, "score": "norm"}, net=Images),
    "function": Run(options=MOMENTUM, budget={**OF_IMAGES, "score": absolute}, net=Images),
}
# Those that TensorFlow's Keras 2 does not have.
KERAS_3_RUNS = {
    "accumulation": Run(options={**MOMENTUM, "gradient_accumulation_steps": 2}, budget=STEEP),
    "accumulation on schedules": Run(
        "Adam", {"gradient_accumulation_steps": 2}, rate=HALVING, budget=STEEP
    ),
    "accumulation, compiled": Run(
        "Adam",
        {"gradient_accumulation_steps": 2},
        {"jit_compile": True, "steps_per_execution": 2},
        budget=STEEP,
    ),
}
QUICK = ("AdamW", "jit", "clipped", "averages that overwrite", "all resources", "function")
QUICK += ("groups beside what is met", "accumulation")
QUICK_IN_TF_KERAS = ("momentum",)


def assert_trained(weights, expected, removals):
    assert len(removals.events) > 1
    for actual, wanted, gone in zip(weights, expected, removals.dead(), strict=True):
        np.testing.assert_array_equal(actual == 0, gone)
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [n if n in QUICK else slow(n) for n in [*RUNS, *KERAS_3_RUNS]])
def test_keras_3_trains_as_numpy_does(name):
    run = {**RUNS, **KERAS_3_RUNS}[name]
    assert_trained(run.trained(keras), *run.expected(keras))


@pytest.mark.parametrize("name", [n if n in QUICK_IN_TF_KERAS else slow(n) for n in RUNS])
def test_tf_keras_trains_as_numpy_does(name):
    run = RUNS[name]
    assert_trained(run.trained(tf_keras), *run.expected(tf_keras))


@KERAS_3_FIRST
def test_loss_scaling_skips_events_with_its_steps(api):
    run, lost = Run("Adam", rate=0.02), [2]
    weights = run.trained(api, scaled=True, batches_lost=lost)
    assert_trained(weights, *run.expected(api, batches_lost=lost))


@pytest.mark.slow
@pytest.mark.parametrize("heal", [7, 20])
def test_a_last_event_that_loss_scaling_skips_is_made_up_for(api, heal):
    """tf_keras counts the steps that it skips: step 6 is one."""
    budget = {**BUDGET, "begin": 1, "end": 6, "heal": heal, "every": 4}
    run, lost = Run("Adam", budget=budget, rate=0.02), [2]
    weights = run.trained(api, scaled=True, batches_lost=lost)
    widths = [int(np.any(weights[i] != 0, axis=0).sum()) for i in (0, 2)]
    assert Chain.costs(widths)["multiply_adds"] <= 0.4 * Chain.costs(Chain.widths)["multiply_adds"]


@KERAS_3_FIRST
@pytest.mark.parametrize("name", ["momentum", slow("averages"), slow("function")])
def test_two_devices_train_as_numpy_does(api, name):
    # Not of images: each device normalizes its own part of a batch.
    run = dataclasses.replace(RUNS[name], net=Chain)
    assert_trained(run.trained(api, model_cases.mirrored(2)), *run.expected(api))


@pytest.mark.slow
def test_two_devices_skip_the_steps_that_loss_scaling_skips(api):
    run, lost = Run("Adam", rate=0.02), [2]
    weights = run.trained(api, model_cases.mirrored(2), scaled=True, batches_lost=lost)
    assert_trained(weights, *run.expected(api, batches_lost=lost))


@pytest.mark.slow
def test_two_workers_train_as_one_does(api, tmp_path):
    arguments = {"api_name": api.__name__, "epochs": 4, "build": "with_a_budget"}
    cluster = clusters.loopback(worker=2)
    workers = [
        clusters.Process("multi_worker_proximal", arguments, cluster, "worker", i, tmp_path)
        for i in range(2)
    ]
    with clusters.running(*workers):
        clusters.wait_for(workers, timeout=120)
        results = [worker.result()["kernels"] for worker in workers]
    model = jobs.with_a_budget(api)
    model.fit(jobs.dataset(), epochs=4, verbose=0)
    wanted = jobs.kernels(model)
    assert any(0.0 in np.ravel(kernel) for kernel in wanted)
    for kernels in results:
        for ours, theirs in zip(kernels, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


# Any network, by the shapes that are left.


RESOURCES = ("multiply_adds", "parameters", "groups")


def uses_of(model, rules=None):
    """How often each element of a weight is multiplied, by the weight's id."""
    found: dict[int, float] = {}
    for step in traced(model, rules)[0].steps:
        for variable, times in step.uses:
            found[id(variable)] = found.get(id(variable), 0) + times
    return found


def sizes_of(model, rules=None):
    """The multiply-adds and the parameters of a model as it is."""
    uses = uses_of(model, rules)
    shapes = [(id(w), math.prod(w.shape)) for w in model.trainable_variables]
    multiply_adds = sum(uses.get(key, 0) * size for key, size in shapes)
    return {"multiply_adds": multiply_adds, "parameters": sum(size for _, size in shapes)}


class Left:
    """What is left of the couplings of a model, by brute force."""

    def __init__(self, model, couplings=None, rules=None):
        self.model = model
        self.couplings = tfreg.couple(model, rules) if couplings is None else couplings
        self.uses = uses_of(model, rules)
        self.trained = {id(w): w for w in model.trainable_variables}

    def living(self):
        """For each coupling a bool for each entry: whether a trained weight of it is not 0."""
        found = []
        for coupling in self.couplings:
            alive = np.zeros(coupling.size, bool)
            for member in coupling.members:
                if id(member.variable) in self.trained:
                    nonzero = np.asarray(member.variable) != 0
                    for axis, indices in member.slices:
                        along = np.moveaxis(nonzero, axis, 0).reshape(nonzero.shape[axis], -1)
                        alive |= along.any(1)[indices].any(1)
            found.append(alive)
        return found

    def costs(self, living):
        """What the model costs if these entries are left."""
        kept = {key: [np.ones(n, bool) for n in w.shape] for key, w in self.trained.items()}
        for coupling, alive in zip(self.couplings, living, strict=True):
            for member in coupling.members:
                for axis, indices in member.slices:
                    if id(member.variable) in kept:
                        kept[id(member.variable)][axis][indices[~alive]] = False
        sizes = {key: math.prod(int(k.sum()) for k in axes) for key, axes in kept.items()}
        return {
            "multiply_adds": sum(self.uses.get(key, 0) * size for key, size in sizes.items()),
            "parameters": sum(sizes.values()),
            "groups": sum(int(alive.sum()) for alive in living),
        }

    def everything(self):
        return [np.ones(coupling.size, bool) for coupling in self.couplings]

    def least(self, minimum=2):
        """The costs if only the `minimum` of each coupling is left."""
        return self.costs([np.arange(len(each)) < minimum for each in self.everything()])

    def halfway(self, resource, minimum=2, share=0.5):
        """A count between all that is there and the least."""
        most, least = self.costs(self.everything())[resource], self.least(minimum)[resource]
        return max(int(least + share * (most - least)), 1)

    def assert_met(self, targets, minimum=2):
        """The targets are met, and with an entry that went one of them would not be."""
        living = self.living()
        now = self.costs(living)
        assert all(now[name] <= target for name, target in targets.items()), (now, targets)
        for coupling, alive in zip(self.couplings, living):
            assert alive.sum() >= min(coupling.size, minimum)
        with_one_back = []
        for i, alive in enumerate(living):
            for entry in np.flatnonzero(~alive):
                more = [each.copy() for each in living]
                more[i][entry] = True
                with_one_back.append(self.costs(more))
        is_needed = any(
            costs[name] > target for costs in with_one_back for name, target in targets.items()
        )
        assert is_needed or not with_one_back, (now, targets)
        # What is left is whole, what went is zero.
        nonzero = sum(int(np.count_nonzero(np.asarray(w))) for w in self.trained.values())
        assert nonzero == now["parameters"]
        return now


def descend_at_random(model, optimizer, steps, seed=0, see=lambda: None):
    """Steps along random gradients."""
    rng = np.random.default_rng(seed)
    weights = model.trainable_variables
    for _ in range(steps):
        gradients = [
            tf.constant(rng.normal(0.0, 0.1, w.shape), tf.as_dtype(w.dtype)) for w in weights
        ]
        optimizer.apply_gradients(zip(gradients, weights))
        see()


def assert_compact_is_equal(model, now, rules=None):
    """What is cut out costs what the budget counted, and computes the same."""
    small = tfreg.compact(model, rules=rules)
    found = sizes_of(small, rules)
    assert found == {name: now[name] for name in found}
    inputs = inputs_for(model, np.random.default_rng(5))
    for actual, expected in zip(outputs_of(small, inputs), outputs_of(model, inputs), strict=True):
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    return small


SHORT = {"begin": 0, "end": 4, "heal": 5, "every": 2}


def budgeted(api, model, couplings=None, optimizer=None, **arguments):
    """An optimizer with a budget, of the couplings that `tfreg.couple` finds or these."""
    budget = tfreg.Budget(**{**SHORT, **arguments})
    optimizer = optimizer or api.optimizers.SGD(0.02, momentum=0.9)
    return tfreg.Proximal(optimizer, model, [(couplings, budget)])


QUICK_NETWORKS = {
    "multiply_adds": {"residual", "language_model", "grouped", "cross_attention", "convolutions"},
    "parameters": {"recurrent", "inception"},
    "groups": {"mobile"},
}


def each_network():
    """Resources, apis and networks; most of them are slow."""
    cases = []
    for resource in RESOURCES:
        for name, network in NETWORKS.items():
            for i, api in enumerate(network.apis):
                is_quick = i == 0 and name in QUICK_NETWORKS[resource]
                case = (resource, api, network)
                cases.append(case if is_quick else slow(*case))
    return pytest.mark.parametrize(
        "resource, api, network", cases, indirect=["api"], ids=lambda value: name_of(value)
    )


@each_network()
def test_every_network_meets_its_budget(resource, api, network):
    rules = network.rules(api)
    model = randomize(network(api), np.random.default_rng(0))
    couplings = tfreg.couple(model, rules)
    left = Left(model, couplings, rules)
    target = left.halfway(resource, minimum=1)
    optimizer = budgeted(api, model, couplings, minimum=1, **{resource: target})
    descend_at_random(model, optimizer, 7)
    now = left.assert_met({resource: target}, minimum=1)
    assert sum(not each.all() for each in left.living()) > 0
    assert_compact_is_equal(model, now, rules)


FITTED = ("residual", "separable", "bert", "language_model", "masked", "conv_lstm", "nested")


@pytest.mark.parametrize("name", [slow(name) for name in FITTED])
def test_fit_meets_the_budget(api, name):
    """Sparse gradients of embeddings included."""
    network = NETWORKS[name]
    rules = network.rules(api)
    model = randomize(network(api), np.random.default_rng(0))
    couplings = tfreg.couple(model, rules)
    left = Left(model, couplings, rules)
    target = left.halfway("multiply_adds")
    optimizer = budgeted(api, model, couplings, api.optimizers.Adam(0.01), multiply_adds=target)
    model.compile(optimizer, api.losses.MeanSquaredError())
    rng = np.random.default_rng(1)
    x = inputs_for(model, rng, batch=32)
    y = rng.normal(size=np.shape(outputs_of(model, x)[0])).astype(np.float32)
    model.fit(x, y, batch_size=8, epochs=3, verbose=0)
    assert_compact_is_equal(model, left.assert_met({"multiply_adds": target}), rules)


@KERAS_3_FIRST
def test_several_resources_are_all_met(api):
    for share in (0.3, 0.6):
        model = randomize(networks.residual(api), np.random.default_rng(1))
        left = Left(model)
        targets = {name: left.halfway(name, share=share) for name in RESOURCES}
        descend_at_random(model, budgeted(api, model, **targets), 6)
        left.assert_met(targets)


@KERAS_3_FIRST
@pytest.mark.parametrize("resource", RESOURCES)
def test_a_float_is_a_share_of_what_is_there(api, resource):
    model = randomize(networks.convolutions(api), np.random.default_rng(1))
    left = Left(model)
    total = left.costs(left.everything())[resource]
    descend_at_random(model, budgeted(api, model, **{resource: 0.7}), 6)
    left.assert_met({resource: math.floor(0.7 * total)})


@pytest.mark.parametrize("others", [{}, {"multiply_adds": 1.0, "parameters": 1.0}])
@pytest.mark.parametrize("count", [4, 9, *map(slow, (10, 11, 12, 13)), 14])
def test_groups_are_met_exactly(count, others):
    model = made(keras, Chain)
    left = Left(model)
    descend_at_random(model, budgeted(keras, model, groups=count, **others), 6)
    assert left.costs(left.living())["groups"] == count
    assert min(int(each.sum()) for each in left.living()) >= 2


@pytest.mark.parametrize("target", [1.0, 100])
def test_a_budget_that_is_met_already_removes_nothing(target):
    model = made(keras, Chain)
    descend_at_random(model, budgeted(keras, model, multiply_adds=target), 6)
    assert all(alive.all() for alive in Left(model).living())


def test_the_least_that_is_reachable_is_reached():
    for minimum in (1, 2, 6, 7):
        model = made(keras, Chain)
        left = Left(model)
        least = left.least(minimum)["multiply_adds"]
        optimizer = budgeted(keras, model, multiply_adds=least, minimum=minimum)
        descend_at_random(model, optimizer, 6)
        assert [int(each.sum()) for each in left.living()] == [minimum, min(minimum, 6)]


@pytest.mark.parametrize(
    "every, events", [(4, {3, 7, 11, 14, 15}), slow(20, {3, 14}), slow(1, {*range(3, 20)})]
)
def test_the_curve_holds_at_each_event(every, events):
    model = made(keras, Chain)
    left, seen = Left(model), []
    budget = {"parameters": 30, "begin": 3, "end": 14, "heal": 17, "every": every}
    optimizer = budgeted(keras, model, **budget)

    def see():
        seen.append(left.costs(left.living())["parameters"])

    descend_at_random(model, optimizer, 20, see=see)
    total = Chain.costs(Chain.widths)["parameters"]
    assert seen[:4] == [total] * 4  # at step 3 the curve begins
    changes = {i for i in range(1, 20) if seen[i] != seen[i - 1]}
    assert changes and changes <= events
    for step in range(3, 20):
        progress = 1 - (1 - min((max(each for each in events if each <= step) - 3) / 11, 1)) ** 3
        curve = math.exp(math.log(total) + math.log(30 / total) * progress)
        assert seen[step] <= curve + 1e-9
        largest = 5 + 1 + 6  # what an entry costs at most
        assert step not in changes or seen[step] > curve - largest


# What went stays zero.


OPTIMIZERS = {
    "momentum": ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    "AdamW": ("AdamW", {"weight_decay": 0.1}),
    "averages": ("Adam", {**EMA, "ema_overwrite_frequency": 2}),
    "RMSprop": ("RMSprop", {"momentum": 0.9, "clipnorm": 1.0}),
}


@KERAS_3_FIRST
@pytest.mark.parametrize("name", ["averages", *map(slow, sorted({*OPTIMIZERS} - {"averages"}))])
def test_what_went_stays_zero(api, name):
    kind, options = OPTIMIZERS[name]
    model = randomize(networks.residual(api), np.random.default_rng(0))
    left, seen = Left(model), []
    optimizer = getattr(api.optimizers, kind)(0.05, **options)
    optimizer = budgeted(
        api, model, None, optimizer, multiply_adds=0.3, end=8, heal=9, every=1, minimum=1
    )
    descend_at_random(model, optimizer, 16, see=lambda: seen.append(np.hstack(left.living())))
    dead = ~np.array(seen)
    assert (np.diff(dead.astype(int), axis=0) >= 0).all()
    assert (dead[8:] == dead[-1]).all() and 0 < dead[-1].sum()
    assert len(np.unique(dead.sum(1))) > 3
    left.assert_met({"multiply_adds": left.halfway("multiply_adds", 1, 1.0) * 0.3}, minimum=1)
    if options.get("use_ema"):
        optimizer.finalize_variable_values(model.trainable_variables)
        np.testing.assert_array_equal(~np.hstack(left.living()), dead[-1])


@KERAS_3_FIRST
@pytest.mark.parametrize("dtype", ["mixed_float16", slow("mixed_bfloat16"), slow("bfloat16")])
def test_dtype_policies(api, dtype):
    model = made(api, Images, dtype)
    left = Left(model)
    target = left.halfway("multiply_adds")
    optimizer = budgeted(api, model, None, api.optimizers.Adam(0.01), multiply_adds=target)
    if dtype == "mixed_float16":
        wrapper = api.optimizers if api is keras else api.mixed_precision
        optimizer = wrapper.LossScaleOptimizer(optimizer)
    model.compile(optimizer, api.losses.MeanSquaredError())
    x, y = data(Images)
    # Loss scaling may skip the first steps.
    model.fit(x, y, batch_size=BATCH, epochs=8, verbose=0)
    now = left.assert_met({"multiply_adds": target})
    assert sizes_of(tfreg.compact(model))["multiply_adds"] == now["multiply_adds"]


def test_a_run_that_is_lost_ends_all_the_same():
    model = made(keras, Chain)
    optimizer, weights = budgeted(keras, model, groups=6), model.trainable_variables
    for _ in range(6):
        optimizer.apply_gradients([(tf.fill(w.shape, np.nan), w) for w in weights])
    left = Left(model)
    assert left.costs(left.living())["groups"] == 6


@KERAS_3_FIRST
def test_weights_without_a_gradient(api):
    """Those of the head `a` are in no loss."""
    model = randomize(networks.multi_output(api), np.random.default_rng(0))
    left = Left(model)
    optimizer = budgeted(api, model, groups=8)
    rng, weights = np.random.default_rng(1), model.trainable_variables
    [left_kernel] = [w for w in weights if tuple(w.shape) == (8, 6)]
    unused = {id(w) for w in [left_kernel, *model.get_layer("a").weights]}
    for _ in range(7):
        gradients = [
            None if id(w) in unused else tf.constant(rng.normal(size=w.shape), tf.float32)
            for w in weights
        ]
        optimizer.apply_gradients(zip(gradients, weights))
    left.assert_met({"groups": 8})


# Which couplings.


@KERAS_3_FIRST
def test_a_list_of_couplings_leaves_the_others(api):
    model = made(api, Chain)
    couplings = tfreg.couple(model)
    left = Left(model)
    optimizer = budgeted(api, model, [couplings[1]], groups=3)
    descend_at_random(model, optimizer, 6)
    assert [int(each.sum()) for each in left.living()] == [8, 3]
    model = made(api, Chain)
    left = Left(model)
    optimizer = budgeted(api, model, [tfreg.couple(model)[0]], multiply_adds=0.5)
    descend_at_random(model, optimizer, 6)
    first, second = (int(each.sum()) for each in left.living())
    # The share counts the multiply-adds of the whole model.
    assert second == 6 and first == (0.5 * 100 - 12) // 11


@KERAS_3_FIRST
def test_couplings_with_frozen_weights(api):
    model = made(api, Chain)
    model.get_layer("last").trainable = False
    left = Left(model)
    optimizer = budgeted(api, model, multiply_adds=60)
    descend_at_random(model, optimizer, 6)
    # 5 a + 6 a + 12, the multiplications with frozen weights included
    assert [int(np.any(w.numpy() != 0, 0).sum()) for w in model.layers[-3:-1][0].weights[:1]] == [4]
    assert left.living()[1].all()
    raises(
        ValueError,
        "last/kernel.*frozen|frozen.*last/kernel",
        api.optimizers.SGD(),
        model,
        [(tfreg.couple(model), tfreg.Budget(groups=0.5, **SHORT))],
    )
    model.trainable = False
    raises(ValueError, "frozen", api.optimizers.SGD(), model, tfreg.Budget(groups=0.5, **SHORT))


@KERAS_3_FIRST
def test_a_model_that_is_not_built_is_resolved_with_the_optimizer(api):
    def deferred():
        return api.Sequential([api.layers.Dense(n, "tanh") for n in (8, 6, 2)])

    model = deferred()
    optimizer = budgeted(api, model, multiply_adds=40)
    with pytest.raises(ValueError, match="not built"):
        optimizer.get_config()
    model.compile(optimizer, api.losses.MeanSquaredError())
    x, y = data(Chain)
    model.fit(x, y, batch_size=BATCH, epochs=2, verbose=0)
    Left(model).assert_met({"multiply_adds": 40})
    model = deferred()
    optimizer = budgeted(api, model, multiply_adds=3)
    model(x)
    with pytest.raises(ValueError, match="multiply_adds"):
        descend_at_random(model, optimizer, 1)


@KERAS_3_FIRST
def test_a_subclassed_model(api):
    model = randomize(networks.subclassed(api), np.random.default_rng(0))
    left = Left(model)
    descend_at_random(model, budgeted(api, model, groups=3), 6)
    now = left.assert_met({"groups": 3})
    assert_compact_is_equal(model, now)


@KERAS_3_FIRST
def test_channels_that_are_positions_of_another_layer(api):
    """In an MLP-Mixer a layer over tokens is called once for each channel."""
    k = api.layers
    x = api.Input((6, 3))
    y = k.Dense(8, name="stem")(x)
    z = k.Permute((2, 1))(y)
    z = k.Dense(6, name="down")(k.Dense(5, activation="relu", name="up")(z))
    y = k.Dense(2, name="last")(k.Add()([y, k.Permute((2, 1))(z)]))
    model = randomize(api.Model(x, y), np.random.default_rng(0))
    left = Left(model)
    assert [len(each) for each in left.everything()] == [8, 5]
    descend_at_random(model, budgeted(api, model, multiply_adds=300), 6)
    stem, up = (int(each.sum()) for each in left.living())
    small = sizes_of(tfreg.compact(model))["multiply_adds"]
    assert small == 6 * 3 * stem + stem * 6 * up * 2 + 6 * stem * 2 <= 300
    # The budget counts a call for each channel that there was at first.
    left.assert_met({"multiply_adds": 300})


# Beside penalties.


@KERAS_3_FIRST
def test_penalties_rest_from_heal_on(api):
    model = made(api, Chain)
    last = model.layers[-1].kernel
    optimizer = tfreg.Proximal(
        api.optimizers.SGD(0.05),
        model,
        [
            ([model.layers[-1]], tfreg.GroupLasso(0.01, axis="input")),
            (None, tfreg.Budget(groups=10, score="norm", **SHORT)),
        ],
    )
    weights, seen = model.trainable_variables, []
    for _ in range(9):
        optimizer.apply_gradients([(tf.zeros(w.shape), w) for w in weights])
        seen.append(last.numpy())
    alive = seen[-1] != 0
    for step in range(1, 9):
        is_same = np.array_equal(seen[step][alive], seen[step - 1][alive])
        assert is_same == (step >= 5), step
    assert Left(model).costs(Left(model).living())["groups"] == 10


@pytest.mark.slow
def test_frozen_zeros_beside_a_budget(api):
    model = made(api, Chain)
    optimizer = tfreg.Proximal(
        api.optimizers.SGD(0.05, momentum=0.9),
        model,
        [
            (["first/kernel"], tfreg.GroupLasso(0.5, axis="input")),
            (tfreg.couple(model), tfreg.Budget(groups=10, **SHORT)),
        ],
        freeze_zeros_from=5,
    )
    descend_at_random(model, optimizer, 5)
    zeros = [w.numpy() == 0 for w in model.trainable_variables]
    descend_at_random(model, optimizer, 10)
    for before, weight in zip(zeros, model.trainable_variables):
        assert not weight.numpy()[before].any()
    assert Left(model).costs(Left(model).living())["groups"] == 10


# Saved and resumed.


def compiled(api, net=Chain):
    """In training for 8 steps an epoch, of which the budget takes two and a half."""
    model = made(api, net)
    budget = tfreg.Budget(0.4, score=absolute, begin=2, end=20, heal=22, every=3)
    model.compile(
        tfreg.Proximal(api.optimizers.Adam(0.02), model, budget), api.losses.MeanSquaredError()
    )
    return model


def fitted(model, epochs, **options):
    x, y = data(Images if len(model.layers) > 4 else Chain)
    model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **options)
    return model


def assert_alike(model, other, tolerance=1e-6):
    for ours, theirs in zip(model.weights, other.weights, strict=True):
        ours, theirs = ours.numpy(), theirs.numpy()
        np.testing.assert_array_equal(ours == 0, theirs == 0)
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def assert_is_midway(model):
    """Some of what is to go has gone, and some has not."""
    left = Left(model)
    now = left.costs(left.living())["multiply_adds"]
    total = left.costs(left.everything())["multiply_adds"]
    assert 0.4 * total < now < total


RESUME = """
import json, sys
import numpy as np
import keras, tf_keras, tensorflow as tf

@keras.saving.register_keras_serializable("tests")
@tf_keras.saving.register_keras_serializable("tests")
def absolute(weight, gradient):
    return tf.abs(weight * gradient)

import tfreg
api = {"keras": keras, "tf_keras": tf_keras}[sys.argv[1]]
model = api.models.load_model(sys.argv[2])
data = np.load(sys.argv[3])
model.fit(data["x"], data["y"], batch_size=8, epochs=2, shuffle=False, verbose=0)
print(json.dumps([weight.numpy().tolist() for weight in model.weights]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("net", [Chain, Images])
def test_a_fresh_process_resumes_from_a_file(api, net, tmp_path, run_fresh):
    whole, half = fitted(compiled(api, net), 3), fitted(compiled(api, net), 1)
    assert_is_midway(half)
    half.save(tmp_path / "model.keras")
    x, y = data(net)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    weights = run_fresh(RESUME, api.__name__, tmp_path / "model.keras", tmp_path / "data.npz")
    for resumed, weight in zip(weights, whole.weights, strict=True):
        np.testing.assert_array_equal(np.array(resumed) == 0, weight.numpy() == 0)
        np.testing.assert_allclose(resumed, weight.numpy(), rtol=1e-6, atol=1e-6)


@KERAS_3_FIRST
@pytest.mark.parametrize("ending", ["keras", slow("h5")])
def test_files_keep_the_budget_and_what_it_removed(api, ending, tmp_path):
    model = fitted(compiled(api), 1)
    assert_is_midway(model)
    model.save(tmp_path / f"model.{ending}")
    loaded = api.models.load_model(tmp_path / f"model.{ending}")
    assert type(loaded.optimizer) is type(model.optimizer)
    ours, theirs = model.optimizer.get_config(), loaded.optimizer.get_config()
    assert json.dumps(ours["tfreg"]) == json.dumps(theirs["tfreg"])
    again = type(loaded.optimizer).from_config(theirs)
    assert again.get_config()["tfreg"] == ours["tfreg"]
    if (api, ending) != (keras, "h5"):  # from which no optimizer of Keras 3 goes on
        assert_alike(fitted(loaded, 2), fitted(model, 2))


@pytest.mark.slow
def test_files_keep_it_in_a_loss_scale_optimizer(api, tmp_path):
    scaling = api.optimizers if api is keras else api.mixed_precision
    model = compiled(api)
    model.compile(scaling.LossScaleOptimizer(model.optimizer), api.losses.MeanSquaredError())
    fitted(model, 1).save(tmp_path / "model.keras")
    assert_is_midway(model)
    loaded = api.models.load_model(tmp_path / "model.keras")
    assert_alike(fitted(loaded, 2), fitted(model, 2))


@pytest.mark.slow
def test_pickles_and_saved_models_keep_it(api, tmp_path):
    model = fitted(compiled(api), 1)
    pickled = pickle.loads(pickle.dumps(model))
    assert_alike(fitted(pickled, 2), fitted(compiled(api), 3))
    if api is tf_keras:  # whose format has no state of optimizers
        model.save(tmp_path / "model", save_format="tf")
        loaded = tf_keras.models.load_model(tmp_path / "model")
        assert loaded.optimizer.get_config()["tfreg"] == model.optimizer.get_config()["tfreg"]
        fitted(loaded, 3)
        assert Left(loaded).costs(Left(loaded).living())["multiply_adds"] <= 40


@pytest.mark.slow
def test_checkpoints_resume(api, tmp_path):
    whole, half = fitted(compiled(api), 3), fitted(compiled(api), 1)
    assert_is_midway(half)
    path = tf.train.Checkpoint(model=half, optimizer=half.optimizer).save(tmp_path / "checkpoint")
    resumed = compiled(api)
    if api is keras:
        resumed.optimizer.build(resumed.trainable_variables)
    tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer).restore(path)
    assert_alike(fitted(resumed, 2), whole)


class _Cut(Exception):
    pass


@pytest.mark.parametrize("api", ["keras", "tf_keras"], indirect=True)
@pytest.mark.slow
def test_backups_resume(api, tmp_path):
    whole, model = fitted(compiled(api), 3), compiled(api)

    def cut(epoch, logs=None):
        if epoch == 1:
            raise _Cut

    backup = functools.partial(api.callbacks.BackupAndRestore, str(tmp_path / "backup"))
    ends = api.callbacks.LambdaCallback(on_epoch_begin=cut)
    with pytest.raises(_Cut):
        fitted(model, 3, callbacks=[backup(), ends])
    assert_alike(fitted(compiled(api), 3, callbacks=[backup()]), whole)


@pytest.mark.slow
def test_two_devices_save_what_one_goes_on_with(api, tmp_path):
    with model_cases.mirrored(2).scope():
        both = compiled(api)
    fitted(both, 1).save(tmp_path / "model.keras")
    loaded = api.models.load_model(tmp_path / "model.keras")
    assert_alike(fitted(loaded, 2), fitted(compiled(api), 3), 1e-5)


# A smaller model afterwards.


@KERAS_3_FIRST
def test_compact_leaves_a_plain_optimizer_once_the_budget_is_met(api, caplog):
    model = fitted(compiled(api), 3)
    left = Left(model)
    assert_compact_is_equal(model, left.assert_met({"multiply_adds": 40}))
    small = tfreg.compact(model)
    assert type(small.optimizer) is api.optimizers.Adam and "Budget" not in caplog.text
    for each in (model, small):
        fitted(each, 1)
    x, _ = data(Chain)
    np.testing.assert_allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-4)


@pytest.mark.slow
def test_compact_before_the_budget_is_met_warns(api, caplog):
    model = fitted(compiled(api), 1)
    assert_is_midway(model)
    small = tfreg.compact(model)
    assert "is without Budget" in caplog.text and "8 steps" in caplog.text
    assert type(small.optimizer) is api.optimizers.Adam
    left = Left(model)
    assert sizes_of(small)["multiply_adds"] == left.costs(left.living())["multiply_adds"]
    fitted(small, 1)


@pytest.mark.slow
def test_compact_keeps_the_other_penalties(api):
    model = made(api, Chain)
    optimizer = tfreg.Proximal(
        api.optimizers.SGD(0.02),
        model,
        [
            (["last/kernel"], tfreg.MCP(0.01)),
            (None, tfreg.Budget(0.4, begin=0, end=10, heal=12, every=2)),
        ],
    )
    model.compile(optimizer, api.losses.MeanSquaredError())
    small = tfreg.compact(fitted(model, 2))
    assert type(small.optimizer) is type(model.optimizer)
    assert "Budget" not in json.dumps(small.optimizer.get_config()["tfreg"])
    copied = type(small.optimizer).from_config(small.optimizer.get_config())
    for optimizer in (small.optimizer, copied):  # they still rest: the budget has been met
        assert optimizer.get_config()["tfreg"]["rests_from"] == 12
    kernel, weights = small.layers[-1].kernel, small.trainable_variables
    before = kernel.numpy()
    small.optimizer.apply_gradients([(tf.zeros(w.shape), w) for w in weights])
    np.testing.assert_array_equal(kernel.numpy(), before)
    fitted(small, 1)


@KERAS_3_FIRST
def test_a_cut_that_moves_a_pattern_warns(api, caplog):
    model = made(api, Chain)
    budgets = [
        (None, tfreg.Budget(groups=10, **SHORT)),
        (None, tfreg.Budget(pattern=(1, 2), **SHORT)),
    ]
    model.compile(tfreg.Proximal(api.optimizers.SGD(0.02), model, budgets), "mse")
    tfreg.compact(fitted(model, 2))
    assert "lost inputs" in caplog.text and "second/kernel" in caplog.text


@pytest.mark.skipif(not hasattr(keras.callbacks, "SwapEMAWeights"), reason="an older Keras")
@pytest.mark.parametrize("target", [{"groups": 10}, {"elements": 0.5}])
def test_averages_that_are_swapped_in_bring_nothing_back(target):
    model = made(keras, Chain)
    optimizer = tfreg.Proximal(
        keras.optimizers.Adam(0.01, use_ema=True), model, tfreg.Budget(**target, **SHORT)
    )
    model.compile(optimizer, "mse")
    fitted(model, 3, callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True)])
    if "groups" in target:
        assert Left(model).costs(Left(model).living())["groups"] == 10
    else:
        assert sum(np.sum(layer.kernel.numpy() != 0) for layer in model.layers[-3:]) == 50


@KERAS_3_FIRST
def test_couplings_of_parts_of_a_model_count_in_the_whole(api):
    k = api.layers
    parts = [
        api.Sequential([api.Input((n,)), k.Dense(8), k.Dense(n)], name=f"part_{n}") for n in (4, 6)
    ]
    x = api.Input((4,))
    model = api.Model(x, k.Dense(2)(parts[1](k.Dense(6)(parts[0](x)))))
    couplings = [*tfreg.couple(parts[0]), *tfreg.couple(parts[1])]
    total = sizes_of(model)["multiply_adds"]
    optimizer = budgeted(api, model, couplings, multiply_adds=total - 1)
    descend_at_random(model, optimizer, 6)
    assert total - 12 <= sizes_of(tfreg.compact(model))["multiply_adds"] <= total - 8


@KERAS_3_FIRST
def test_multiply_adds_that_are_not_known_are_named(api, caplog):
    @api.saving.register_keras_serializable("tests")
    class Own(api.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 5), name="kernel")

        def call(self, x):
            return tf.matmul(x, tf.convert_to_tensor(self.kernel))

    k = api.layers
    model = api.Sequential([api.Input((4,)), k.Dense(8), k.Dense(8), Own(name="own"), k.Dense(2)])
    budgeted(api, model, multiply_adds=0.9)
    assert "counts no multiply-adds of ['own/kernel']" in caplog.text


# Arguments and errors.


def raises(error, message, *arguments, **options):
    with pytest.raises(error, match=message):
        tfreg.Proximal(*arguments, **options)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "multiply_adds"),
        ({"groups": 0.5, "elements": 0.5}, "elements"),
        ({"groups": 0.5, "pattern": (2, 4)}, "pattern"),
        *[({"multiply_adds": bad}, "multiply_adds") for bad in (0, 0.0, 1.5, -1, "all", True)],
        *[({"parameters": bad}, "parameters") for bad in (0, float("nan"), [0.5])],
        *[({"groups": 3, "score": bad}, "score") for bad in ("l2", 3, keras.layers.Dense)],
        ({"groups": 3, "score": lambda weight, gradient: weight}, "regist"),
        ({"groups": 3, "begin": 0.05}, "steps"),
        ({"groups": 3, "begin": 0.05, "end": 30, "heal": 40}, "begin.*steps"),
        *[({"groups": 3, "begin": bad}, "begin") for bad in (-1, 1.5, "0", None)],
        ({"groups": 3, "begin": 9, "end": 4, "heal": 12}, "begin < end"),
        ({"groups": 3, "begin": 9, "end": 9, "heal": 12}, "begin < end"),
        ({"groups": 3, "begin": 1, "end": 9, "heal": 8}, "heal"),
        ({"groups": 3, "begin": 0.5, "end": 0.2, "heal": 0.6, "steps": 100}, "begin < end"),
        *[({**SHORT, "groups": 3, "every": bad}, "every") for bad in (0, 2.5, None)],
        *[({**SHORT, "groups": 3, "minimum": bad}, "minimum") for bad in (0, 1.5, "2")],
        *[({**SHORT, "groups": 3, "steps": bad}, "steps") for bad in (0, 10.0)],
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tfreg.Budget(**arguments)


def test_an_optimizer_past_the_beginning_is_refused():
    model = made(keras, Chain)
    optimizer = keras.optimizers.SGD(0.01)
    descend_at_random(model, optimizer, 3)
    late = {"begin": 3, "end": 6, "heal": 7}
    raises(ValueError, "taken 3 steps", optimizer, model, tfreg.Budget(groups=10, **SHORT))
    tfreg.Proximal(optimizer, model, tfreg.Budget(groups=10, **late))
    descend_at_random(model, optimizer, 6)
    assert Left(model).costs(Left(model).living())["groups"] == 10


def test_arguments_for_penalties_alone_are_refused():
    for arguments in ({"start_step": 3}, {"freeze_zeros_from": 3}, {"metric": "diagonal"}):
        model = made(keras, Chain)
        budget = tfreg.Budget(groups=10, **SHORT)
        raises(ValueError, "are for penalties", keras.optimizers.Adam(), model, budget, **arguments)


def test_shares_of_steps_are_steps():
    of_shares = tfreg.Budget(0.2, steps=1000)
    assert (of_shares.begin_step, of_shares.end_step, of_shares.heal_step) == (50, 500, 550)
    mixed = tfreg.Budget(0.2, begin=7, end=0.25, heal=1.0, steps=1000)
    # The last of 1000 steps has the number 999.
    assert (mixed.begin_step, mixed.end_step, mixed.heal_step) == (7, 250, 999)


def test_an_end_with_the_last_step_is_met():
    model = made(keras, Chain)
    left = Left(model)
    budget = tfreg.Budget(parameters=50, begin=0, end=1.0, heal=1.0, every=5, steps=12)
    descend_at_random(model, tfreg.Proximal(keras.optimizers.SGD(0.1), model, budget), 12)
    left.assert_met({"parameters": 50})


@pytest.mark.parametrize("score", ["taylor", "norm", absolute])
def test_configs_are_json_and_make_the_same_budget(api, score):
    budget = tfreg.Budget(0.2, parameters=1000, score=score, begin=1, end=0.5, steps=100)
    config = json.loads(json.dumps(budget.get_config()))
    again = tfreg.Budget.from_config(config)
    assert again.get_config() == budget.get_config()
    assert repr(again) == repr(budget) and "multiply_adds=0.2" in repr(budget)
    through = api.saving.deserialize_keras_object(api.saving.serialize_keras_object(budget))
    assert through.get_config() == budget.get_config()
    with pytest.raises(AttributeError):
        budget.every = 3
    for broken in ({**config, "more": 1}, {"every": 10}, "Budget"):
        with pytest.raises((TypeError, ValueError)):
            tfreg.Budget.from_config(broken)


@pytest.mark.parametrize("resource", RESOURCES)
def test_a_budget_that_cannot_be_met_names_the_least_that_can(resource):
    model = made(keras, Chain)
    least = Left(model).least()[resource]
    budget = tfreg.Budget(**{resource: least - 1}, **SHORT)
    raises(ValueError, f"{resource}(.|\n)*{least}", keras.optimizers.SGD(), model, budget)
    share = tfreg.Budget(**{resource: 1e-6}, **SHORT)
    raises(ValueError, f"{resource}(.|\n)*{least}", keras.optimizers.SGD(), model, share)
    budgeted(keras, model, **{resource: int(least)})


@KERAS_3_FIRST
def test_where_a_budget_does_not_belong(api):
    model, budget = made(api, Chain), tfreg.Budget(groups=5, **SHORT)
    with pytest.raises((TypeError, ValueError), match="tfreg.Proximal"):
        tfreg.add_penalty(model, budget)
    # Older versions of Keras refuse it themselves.
    with pytest.raises((TypeError, ValueError), match="tfreg.Proximal|Received: regularizer"):
        layer = api.layers.Dense(2, kernel_regularizer=budget)
        sum(api.Sequential([api.Input((3,)), layer]).losses)
    with pytest.raises((TypeError, ValueError), match="Budget"):
        tfreg.Joint(budget)
    with pytest.raises(TypeError, match="Budget"):
        tfreg.MCP() + budget
    with pytest.raises(TypeError, match="Budget"):
        tfreg.Sum([tfreg.MCP(), budget])
    ramp = tfreg.schedules.CubicRamp(begin=2, end=8)
    sgd = api.optimizers.SGD()
    raises(ValueError, "schedule", sgd, model, [(None, budget, ramp)])
    raises((TypeError, ValueError), "coupl", sgd, model, [("kernel", budget)])
    raises((TypeError, ValueError), "coupl", sgd, model, [([model.layers[0]], budget)])
    raises((TypeError, ValueError), "coupl|empty", sgd, model, [([], budget)])
    raises(ValueError, "Budget", sgd, model, [(None, budget), (None, budget)])
    first, second = tfreg.couple(model)
    raises(ValueError, "Budget", sgd, model, [([first], budget), ([second], budget)])
    other = tfreg.couple(made(api, Chain))
    raises(ValueError, "model", sgd, model, [(other, budget)])
    narrow = api.Sequential([api.Input((3,)), api.layers.Dense(2)])
    raises(ValueError, "coupl", sgd, narrow, budget)
    optimizer = tfreg.Proximal(sgd, model, budget)
    raises(ValueError, "no proximal steps yet", optimizer, model, budget)


@KERAS_3_FIRST
@pytest.mark.parametrize("steps", [0, 1])
def test_a_weight_that_is_frozen_later(api, steps):
    model = made(api, Chain)
    optimizer = budgeted(api, model, groups=6)
    descend_at_random(model, optimizer, steps)
    model.get_layer("last").trainable = False
    with pytest.raises(ValueError, match="does not train the weight '.*last/kernel'"):
        descend_at_random(model, optimizer, 1)


@KERAS_3_FIRST
def test_an_optimizer_of_another_model_is_refused(api):
    model = made(api, Chain)
    optimizer = budgeted(api, model, groups=6)
    loaded = type(optimizer).from_config(optimizer.get_config())
    other = made(api, Images)
    with pytest.raises(ValueError, match="made for another model(.|\n)*kernel"):
        loaded.build(other.trainable_variables)
    loaded = type(optimizer).from_config(optimizer.get_config())
    wider = api.Sequential([api.Input((5,)), *[api.layers.Dense(n) for n in (9, 6, 2)]])
    with pytest.raises(ValueError, match="made for another model(.|\n)*first/kernel"):
        loaded.build(wider.trainable_variables)


def changed(config, keys, value):
    config = json.loads(json.dumps(config))
    inner = config["tfreg"]
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return config


def test_configs_that_are_none():
    model = made(keras, Chain)
    optimizer = budgeted(keras, model, groups=6)
    config = optimizer.get_config()
    of_first = ("budgets", 0, "couplings", 0, 0)
    for keys, value in [
        (("budgets",), None),
        (("budgets", 0), {}),
        (("budgets", 0, "budget"), None),
        (("budgets", 0, "weights"), None),
        (("budgets", 0, "weights", 0, "shape"), [5, 3]),
        (("budgets", 0, "times"), [1]),
        (("budgets", 0, "times"), None),
        (("budgets", 0, "fixed"), [1, 2, 3]),
        (("budgets", 0, "couplings"), [[]]),
        (("budgets", 0, "couplings"), 3),
        ((*of_first, "weight"), 9),
        ((*of_first, "reads"), None),
        ((*of_first, "slices"), []),
    ]:
        with pytest.raises(ValueError, match="Received"):
            type(optimizer).from_config(changed(config, keys, value))


@keras.saving.register_keras_serializable("tests")
def summed(weight, gradient):
    return tf.reduce_sum(weight * gradient)


def test_a_score_of_another_shape():
    model = made(keras, Chain)
    with pytest.raises(ValueError, match="`score`.*shape"):
        descend_at_random(model, budgeted(keras, model, groups=6, score=summed), 1)


# Random networks.


@st.composite
def random_networks(draw):
    """How to build dense chains, some with residual connections or normalizations."""
    blocks = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    width = draw(st.integers(1, 9))
    residual = draw(st.lists(st.booleans(), min_size=len(blocks), max_size=len(blocks)))
    normalized = draw(st.booleans())

    def build(api):
        k = api.layers
        x = api.Input((4,))
        y = k.Dense(width)(x)
        for units, is_residual in zip(blocks, residual):
            z = k.Dense(units, "relu")(y)
            if normalized:
                z = k.BatchNormalization()(z)
            y = k.Add()([y, k.Dense(width)(z)]) if is_residual else z
            if not is_residual:
                y = k.Dense(width, use_bias=False)(y)
        return api.Model(x, k.Dense(2)(y))

    return build


@pytest.mark.parametrize("examples", [5, slow(150)])
def test_random_networks_meet_random_budgets(examples):
    @settings(
        max_examples=examples,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(data=st.data())
    def check(data):
        model = randomize(data.draw(random_networks())(keras), np.random.default_rng(0))
        minimum = data.draw(st.integers(1, 4))
        share = data.draw(st.floats(0.0, 1.0))
        names = data.draw(st.sets(st.sampled_from(RESOURCES), min_size=1))
        left = Left(model)
        targets = {name: left.halfway(name, minimum, share) for name in names}
        optimizer = budgeted(
            keras,
            model,
            minimum=minimum,
            score=data.draw(st.sampled_from(["taylor", "norm"])),
            every=data.draw(st.integers(1, 9)),
            **targets,
        )
        descend_at_random(model, optimizer, 5)
        now = left.assert_met(targets, minimum)
        found = sizes_of(tfreg.compact(model))
        assert found == {name: now[name] for name in found}

    check()
