"""Budgets of elements and of patterns, by magnitude: against sorts in NumPy, and in training."""

import json

import hypothesis
import hypothesis.strategies as st
import keras
import model_cases
import numpy as np
import pytest
import tensorflow as tf
from marks import KERAS_3_FIRST, in_turn, slow

import tfreg
from tfreg.compute.magnitudes import largest, largest_of_runs
from tfreg.layers.registry import weight_layouts
from tfreg.layout import Layout
from tfreg.proximal.bound import Trained
from tfreg.proximal.magnitude import ByMagnitude, _along_inputs

DTYPES = ["float32", "float16", "bfloat16", "float64"]


def order_of(x):
    """The order of the elements of a flat array by magnitude, NaN first; of equal ones, as is."""
    x = np.abs(np.asarray(x).astype(np.float64))
    return np.lexsort((np.arange(len(x)), -np.where(np.isnan(x), 0.0, x), ~np.isnan(x)))


def largest_by_sorting(arrays, count, least):
    flat = np.concatenate([np.ravel(array).astype(np.float64) for array in arrays])
    starts = np.cumsum([0, *(array.size for array in arrays)])
    kept = np.zeros(len(flat), bool)
    for start, end, floor in zip(starts, starts[1:], least):
        kept[start + order_of(flat[start:end])[:floor]] = True
    others = [i for i in order_of(flat) if not kept[i]]
    kept[others[: count - kept.sum()]] = True
    return [kept[s:e].reshape(array.shape) for s, e, array in zip(starts, starts[1:], arrays)]


def assert_kept(masks, expected, arrays):
    """The same elements stay, those that are zero aside."""
    for mask, wanted, array in zip(masks, expected, arrays, strict=True):
        there = np.asarray(array).astype(np.float64) != 0
        np.testing.assert_array_equal(np.asarray(mask) & there, wanted & there)


def normal(rng, shape):
    return rng.normal(size=shape)


def tied(rng, shape):
    return rng.integers(-3, 4, shape)


def zeros(rng, shape):
    return np.zeros(shape)


def ones(rng, shape):
    return rng.choice([-1.0, 1.0], shape)


def not_finite(rng, shape):
    return rng.choice([np.nan, -np.inf, np.inf, 1.0, 0.5, 1e-4], shape)


def tiny(rng, shape):
    """Mostly below the normal numbers of float16."""
    return 1e-6 * rng.normal(size=shape)


def tiniest(rng, shape):
    """Mostly below the normal numbers of float32 and bfloat16."""
    return 1e-38 * rng.normal(size=shape)


SHAPES = [(70, 31), (5,), (3, 3, 2, 40), (1024,), (1, 1)]
LEAST = [2, 2, 2, 2, 1]
KINDS = [normal, tied, zeros, ones, not_finite, tiny, tiniest]


def arrays_of(kind, dtype, shapes=SHAPES):
    rng = np.random.default_rng(3)
    return [kind(rng, shape).astype(tf.as_dtype(dtype).as_numpy_dtype) for shape in shapes]


def tensors_of(arrays):
    return [tf.constant(array) for array in arrays]


@in_turn(dtype=DTYPES, kind=KINDS)
def test_the_largest_are_those_of_a_sort(dtype, kind):
    arrays = arrays_of(kind, dtype)
    total = sum(array.size for array in arrays)
    masks_of = tf.function(lambda tensors, count: largest(tensors, count, LEAST), autograph=False)
    for count in (sum(LEAST), 10, 123, total // 2, total - 1, total):
        masks = masks_of(tensors_of(arrays), tf.constant(count, tf.int64))
        assert_kept(masks, largest_by_sorting(arrays, count, LEAST), arrays)


@in_turn(
    dtype=["bfloat16", slow("float32"), slow("float64"), slow("float16")],
    kind=[tied, slow(normal), slow(not_finite), slow(tiny), slow(tiniest)],
)
def test_eagerly_and_under_xla_they_are_the_same(dtype, kind):
    arrays = arrays_of(kind, dtype)
    compiled = tf.function(
        lambda tensors, count: largest(tensors, count, LEAST), autograph=False, jit_compile=True
    )
    for count in (20, 1500):
        expected = largest_by_sorting(arrays, count, LEAST)
        count = tf.constant(count, tf.int64)
        assert_kept(largest(tensors_of(arrays), count, LEAST), expected, arrays)
        assert_kept(compiled(tensors_of(arrays), count), expected, arrays)


def test_weights_of_several_dtypes_are_compared_exactly():
    rng = np.random.default_rng(0)
    wide = rng.normal(size=300)
    arrays = [wide, wide.astype(np.float32), wide.astype(np.float16), 1.0 + 1e-12 * wide]
    arrays.append(tf.cast(wide, tf.bfloat16).numpy())
    for count in (50, 700):
        masks = largest(tensors_of(arrays), tf.constant(count, tf.int64), [3] * 5)
        assert_kept(masks, largest_by_sorting(arrays, count, [3] * 5), arrays)


def test_each_weight_keeps_its_least():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=200).astype(np.float32) * scale for scale in (1.0, 1e-3, 1e-6, 1e-9)]
    arrays[3][:] = arrays[3][0]  # where the first ones stay
    for least in ([5, 5, 5, 5], [0, 20, 1, 7]):
        for count in (sum(least), 60, 230, 640):
            masks = largest(tensors_of(arrays), tf.constant(count, tf.int64), least)
            assert_kept(masks, largest_by_sorting(arrays, count, least), arrays)
            numbers = [int(np.sum(mask)) for mask in masks]
            assert sum(numbers) == count
            assert all(number >= floor for number, floor in zip(numbers, least))


@hypothesis.settings(max_examples=40)
@hypothesis.given(st.data())
def test_any_weights_any_counts(data):
    values = st.floats(-4.0, 4.0, width=16) | st.sampled_from([0.0, 1.0, np.inf, np.nan])
    dtype = data.draw(st.sampled_from(DTYPES))
    sizes = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    drawn = [data.draw(st.lists(values, min_size=size, max_size=size)) for size in sizes]
    arrays = [tf.cast(np.array(each), dtype).numpy() for each in drawn]
    least = [data.draw(st.integers(0, size)) for size in sizes]
    count = data.draw(st.integers(sum(least), sum(sizes)))
    masks = largest(tensors_of(arrays), tf.constant(count, tf.int64), least)
    assert_kept(masks, largest_by_sorting(arrays, count, least), arrays)


def runs_by_sorting(array, view, length, count):
    x = np.reshape(array, view)
    kept = np.zeros(view, bool)
    for i in range(view[0]):
        for j in range(view[2]):
            for start in range(0, view[1], length):
                kept[i, start + order_of(x[i, start : start + length, j])[:count], j] = True
    return kept.reshape(array.shape)


VIEWS = {
    (12,): (1, 12, 1),
    (7, 5): (1, 7, 5),
    (8, 3): (1, 8, 3),
    (3, 2, 4): (3, 2, 4),
    (2, 3, 9, 4): (6, 9, 4),
}


@in_turn(shape=[*VIEWS], dtype=DTYPES)
def test_the_largest_of_runs_are_those_of_sorts(dtype, shape):
    for kind in (normal, tied, not_finite):
        [array] = arrays_of(kind, dtype, [shape])
        for count, length in ((1, 4), (2, 4), (3, 4), (4, 4), (3, 5), (2, 16)):
            mask = largest_of_runs(tf.constant(array), VIEWS[shape], length, tf.constant(count))
            expected = runs_by_sorting(array, VIEWS[shape], length, count)
            np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_largest_of_runs_in_graphs(jit_compile):
    [array] = arrays_of(tied, "float32", [(2, 3, 9, 4)])

    @tf.function(jit_compile=jit_compile, autograph=False)
    def mask_of(tensor, count):
        return largest_of_runs(tensor, (6, 9, 4), 4, count)

    for count in (1, 2, 4):
        mask = mask_of(tf.constant(array), tf.constant(count, tf.int64))
        np.testing.assert_array_equal(mask, runs_by_sorting(array, (6, 9, 4), 4, count))


def budget(begin=2, end=10, heal=10, every=2, **targets):
    return tfreg.Budget(begin=begin, end=end, heal=heal, every=every, **targets)


def trained(*shapes):
    return [Trained(i, shape, f"layer_{i}/kernel", None) for i, shape in enumerate(shapes)]


def curve(at_first, target, step, begin=2, end=10):
    """What may be left."""
    t = min(max((step - begin) / (end - begin), 0.0), 1.0)
    left = np.exp(np.log(at_first) + np.log(target / at_first) * (1.0 - (1.0 - t) ** 3))
    return int(np.ceil(left - 1e-9))


@pytest.mark.parametrize("jit_compile", [False, True, None])
def test_the_elements_that_are_left_follow_the_curve(jit_compile):
    rng = np.random.default_rng(4)
    shapes = [(20, 10), (30, 4)]
    variables = [tf.Variable(rng.normal(size=shape).astype(np.float32)) for shape in shapes]
    magnitude = ByMagnitude(budget(elements=0.1, minimum=3), trained(*shapes))
    assert magnitude.state() == []

    def remove(step):
        magnitude.remove([], variables, step)

    if jit_compile is not None:
        remove = tf.function(remove, jit_compile=jit_compile, autograph=False)
    left = []
    for step in range(14):
        before = [variable.numpy() for variable in variables]
        remove(tf.constant(step, tf.int64))
        for variable, array in zip(variables, before):
            kept = variable.numpy()
            np.testing.assert_array_equal(kept[kept != 0], array[kept != 0])
        left.append(sum(np.count_nonzero(variable) for variable in variables))
    expected = [320] * 4
    for step in range(4, 10, 2):
        expected += [curve(320, 32, step)] * 2
    assert left == expected + [32] * 4


def test_the_pattern_falls_to_its_number():
    rng = np.random.default_rng(4)
    variable = tf.Variable(rng.normal(size=(3, 14, 5)).astype(np.float32))
    first = variable.numpy()
    magnitude = ByMagnitude(budget(pattern=(2, 8)), trained(variable.shape))
    for step in range(14):
        magnitude.remove([], [variable], tf.constant(step, tf.int64))
        if step % 2 == 0:
            count = curve(8, 2, step) if step >= 2 else 8
            kept = runs_by_sorting(first, (3, 14, 5), 8, count)
            np.testing.assert_array_equal(variable.numpy(), np.where(kept, first, 0.0))
    assert np.count_nonzero(variable.numpy()[:, :8]) == 3 * 5 * 2


def test_the_end_is_no_less_and_no_more_than_asked_for():
    """Also where the end is no event by number, and for counts that no rounding may change."""
    for total, target in ((1000, 999), (1000, 1000), (3, 2), (7_000_001, 3_000_000)):
        magnitude = ByMagnitude(budget(end=9, elements=target, minimum=1), trained((total,)))
        left = [int(magnitude._left(tf.constant(step, tf.int64))) for step in range(12)]
        assert left[:3] == [total] * 3 and left[9:] == [target] * 3
        assert left == sorted(left, reverse=True)
        assert bool(magnitude.budget.is_event(tf.constant(9, tf.int64)))


def test_more_elements_than_int32_counts():
    shape = (40_000, 40_000)
    magnitude = ByMagnitude(budget(elements=0.5), trained(shape, shape))
    assert int(magnitude._left(tf.constant(0, tf.int64))) == 3_200_000_000
    assert int(magnitude._left(tf.constant(10, tf.int64))) == 1_600_000_000


def test_what_is_zero_is_removed_once_there_has_been_an_event():
    magnitude = ByMagnitude(budget(elements=0.5), trained((4, 3)))
    w = tf.constant([[0.0, -1.0, np.nan]] * 4)
    for step, is_dead in ((0, False), (2, False), (3, True), (100, True)):
        [mask] = magnitude.are_alive([], [w], tf.constant(step, tf.int64))
        np.testing.assert_array_equal(mask, [[not is_dead, True, True]] * 4)


def view_of(layer, input_shape, place=0):
    """What runs lie along in a weight of a layer: the numbers before, along and behind the axis."""
    layer.build(*input_shape if isinstance(input_shape, list) else [input_shape])
    weight = layer.weights[place]
    layout = weight_layouts(layer)[id(weight)]
    return _along_inputs(Trained(0, tuple(weight.shape), weight.path, layout))


def test_runs_lie_along_the_inputs_that_are_summed():
    layers = keras.layers
    assert view_of(layers.Dense(8), (None, 6)) == (1, 6, 8)
    assert view_of(layers.Conv2D(5, (3, 2)), (None, 9, 9, 4)) == (6, 4, 5)
    assert view_of(layers.Conv2D(6, (3, 2), groups=2), (None, 9, 9, 4)) == (6, 2, 6)
    assert view_of(layers.Conv2DTranspose(5, (3, 2)), (None, 9, 9, 4)) == (30, 4, 1)
    assert view_of(layers.EinsumDense("abc,bcd->ad", (7,)), (None, 3, 5)) == (1, 15, 7)
    assert view_of(layers.EinsumDense("ab,b->a", ()), (None, 3)) == (1, 3, 1)
    assert view_of(layers.MultiHeadAttention(2, 3), [(None, 4, 5)] * 2) == (1, 5, 6)
    assert view_of(layers.MultiHeadAttention(2, 3), [(None, 4, 5)] * 2, 6) == (1, 6, 5)
    assert view_of(layers.LSTM(3), (None, 4, 5)) == (1, 5, 12)
    for shape, view in (((6, 8), (1, 6, 8)), ((2, 6, 8), (2, 6, 8)), ((3, 2, 6, 8), (6, 6, 8))):
        assert _along_inputs(Trained(0, shape, "w", None)) == view


@pytest.mark.parametrize("layer", ["Embedding", "DepthwiseConv2D"])
def test_a_pattern_needs_inputs_that_are_summed(api, layer):
    model = api.Sequential([api.Input((5,)), api.layers.Embedding(6, 4, name="found")])
    if layer == "DepthwiseConv2D":
        model = api.Sequential([api.Input((5, 5, 3)), api.layers.DepthwiseConv2D(2, name="found")])
    with pytest.raises(ValueError, match="needs weights with an axis of inputs.*'found/.*shape"):
        tfreg.Proximal(api.optimizers.SGD(), model, budget(pattern=(2, 4)))
    for shape in ((), (5,)):
        with pytest.raises(ValueError, match="the weight 'layer_0/kernel' of shape"):
            ByMagnitude(budget(pattern=(2, 4)), trained(shape))


def test_a_budget_that_cannot_be_met():
    message = "`elements` .* at least 9,.*`minimum`, 4, of each weight.*at most 101,.*"
    for elements, means in ((0.05, 5), (8, 8), (102, 102)):
        with pytest.raises(ValueError, match=f"{message}'layer_0/kernel' and 2 others.* {means}$"):
            ByMagnitude(budget(elements=elements, minimum=4), trained((10, 5), (50,), (1, 1)))
    least = ByMagnitude(budget(elements=9, minimum=4), trained((10, 5), (50,), (1, 1)))
    assert int(least._left(tf.constant(99, tf.int64))) == 9


def test_configs():
    layout = Layout(("position", ("input", ("output", 2))))
    weights = [Trained(3, (5, 4), "a", layout), Trained(0, (7, 2), "b", None)]
    for targets in ({"elements": 0.5, "minimum": 7}, {"pattern": (2, 4)}):
        magnitude = ByMagnitude(budget(**targets), weights)
        config = json.loads(json.dumps(magnitude.get_config()))
        again = ByMagnitude.from_config(config)
        assert again.weights == tuple(weights)
        assert again.budget.get_config() == magnitude.budget.get_config()
        assert again.get_config() == magnitude.get_config()
    for broken in ({"budget": config["budget"]}, {**config, "more": 1}):
        with pytest.raises(ValueError, match="by magnitude must have"):
            ByMagnitude.from_config(broken)


INPUTS, UNITS, BATCH, BATCHES, EPOCHS = 8, 5, 8, 4, 4  # 16 steps
ELEMENTS = budget(2, 10, 11, 3, elements=13)
PATTERN = budget(2, 10, 11, 3, pattern=(2, 4))
BUDGETS = {"elements": ELEMENTS, "pattern": PATTERN}


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH * BATCHES, INPUTS)).astype(np.float32)
    return x, (x[:, :2] @ rng.normal(size=(2, UNITS)) + 0.3).astype(np.float32)


def linear(api):
    model = api.Sequential([api.Input((INPUTS,)), api.layers.Dense(UNITS)])
    initial = np.random.default_rng(1).normal(0.0, 0.5, (INPUTS, UNITS))
    model.layers[-1].kernel.assign(initial)
    return model


def deep(api):
    """A model with several kernels, of which one is much smaller than the others."""
    api.utils.set_random_seed(4)
    small = api.layers.Dense(4, "tanh", kernel_initializer=api.initializers.RandomNormal(0, 1e-3))
    wide = api.layers.Dense(9, "tanh")
    return api.Sequential([api.Input((INPUTS,)), wide, small, api.layers.Dense(UNITS)])


RATES = {"SGD": 0.05, "Adam": 0.05, "AdamW": 0.05}
OPTIONS = {"SGD": {"momentum": 0.9}, "Adam": {}, "AdamW": {"weight_decay": 0.1}}


def compiled(api, targets, kind="SGD", build=linear, options=None, **compiling):
    model = build(api)
    options = OPTIONS[kind] if options is None else options
    optimizer = getattr(api.optimizers, kind)(RATES[kind], **options)
    optimizer = tfreg.Proximal(optimizer, model, targets)
    model.compile(optimizer, api.losses.MeanSquaredError(), **compiling)
    return model


def fitted(model, epochs=EPOCHS, callbacks=()):
    x, y = data()
    model.fit(
        x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0, callbacks=[*callbacks]
    )
    return model


def weights_of(model):
    return [weight.numpy() for weight in model.weights]


def assert_alike(ours, theirs):
    for weight, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(weight == 0, other == 0)


def by_numpy(targets, kind):
    """The kernel that the same steps in NumPy lead to, and the number of elements after each."""
    x, y = data()
    w, b = linear(keras).layers[-1].kernel.numpy().astype(float), np.zeros(UNITS)
    states = {}
    alive = np.ones_like(w, bool)
    numbers = []
    for k in range(EPOCHS * BATCHES):
        rows = slice(k % BATCHES * BATCH, (k % BATCHES + 1) * BATCH)
        residual = 2.0 * (x[rows] @ w + b - y[rows]) / (BATCH * UNITS)
        b = stepped("b", b, residual.sum(0), states, k, kind)
        w = alive * stepped("w", w, alive * (x[rows].T @ residual), states, k, kind)
        if k >= 2 and ((k - 2) % 3 == 0 or k == 10):
            if targets is ELEMENTS:
                [alive] = largest_by_sorting([w], curve(w.size, 13, k), [2])
            else:
                alive = runs_by_sorting(w, (1, INPUTS, UNITS), 4, curve(4, 2, k))
            w = w * alive
        numbers.append(np.count_nonzero(w))
    return [w, b], numbers


def stepped(name, w, g, states, k, kind):
    m, v = states.get(name, (0.0, 0.0))
    if kind == "SGD":
        states[name] = 0.9 * m - 0.05 * g, v
        return w + states[name][0]
    w = w * (1.0 - 0.05 * OPTIONS[kind].get("weight_decay", 0.0))
    m, v = states[name] = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    rate = 0.05 * np.sqrt(1.0 - 0.999 ** (k + 1)) / (1.0 - 0.9 ** (k + 1))
    return w - rate * m / (np.sqrt(v) + 1e-7)


@in_turn(api=["keras", slow("tf_keras")], targets=[*BUDGETS], kind=["SGD", "Adam", "AdamW"])
def test_training_is_that_of_a_loop_in_numpy(api, targets, kind):
    """Step by step as many elements: what is gone stays zero, whatever the momentum."""
    targets = BUDGETS[targets]
    numbers = []

    def note(batch, logs=None):
        numbers.append(np.count_nonzero(model.layers[-1].kernel.numpy()))

    model = compiled(api, targets, kind)
    noting = api.callbacks.LambdaCallback(on_train_batch_end=note)
    weights, expected = by_numpy(targets, kind)
    assert_alike(weights_of(fitted(model, callbacks=[noting])), weights)
    assert numbers == expected
    assert numbers[-1] == (13 if targets is ELEMENTS else INPUTS * UNITS // 2)


MODES = {
    "eager": {"run_eagerly": True},
    "jit": {"jit_compile": True},
    "several steps": {"steps_per_execution": 4},
}


@in_turn(api=["keras", slow("tf_keras")], mode=[*MODES], targets=[*BUDGETS])
def test_every_way_to_run_is_the_same(api, mode, targets):
    expected = weights_of(fitted(compiled(api, BUDGETS[targets], "Adam", deep)))
    model = compiled(api, BUDGETS[targets], "Adam", deep, **MODES[mode])
    assert_alike(weights_of(fitted(model)), expected)
    kernels = [layer.kernel.numpy() for layer in model.layers[-3:]]
    if targets == "elements":
        assert sum(map(np.count_nonzero, kernels)) == 13
        assert np.count_nonzero(kernels[1]) == 2
    else:
        for kernel in kernels:
            length = len(kernel)
            runs = np.split(kernel, range(4, length, 4))
            assert all((np.count_nonzero(run, axis=0) == min(2, len(run))).all() for run in runs)


@KERAS_3_FIRST
@pytest.mark.parametrize("targets", ["elements", slow("pattern")])
def test_two_devices_train_as_one_does(api, targets):
    with model_cases.mirrored(2).scope():
        both = compiled(api, BUDGETS[targets], "Adam")
    alone = compiled(api, BUDGETS[targets], "Adam")
    assert_alike(weights_of(fitted(both)), weights_of(fitted(alone)))


@KERAS_3_FIRST
@pytest.mark.parametrize("targets", ["elements", slow("pattern")])
def test_files_resume(api, targets, tmp_path):
    whole, half = (compiled(api, BUDGETS[targets], "Adam", deep) for _ in range(2))
    fitted(half, 2).save(tmp_path / "model.keras")  # within the removal
    loaded = api.models.load_model(tmp_path / "model.keras")
    ours, theirs = half.optimizer.get_config(), loaded.optimizer.get_config()
    assert json.dumps(ours["tfreg"]) == json.dumps(theirs["tfreg"])
    assert_alike(weights_of(fitted(loaded, 2)), weights_of(fitted(whole)))


@KERAS_3_FIRST
def test_averages_of_weights_keep_what_is_left(api):
    options = {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 3}
    model = fitted(compiled(api, ELEMENTS, "Adam", options=options))
    assert np.count_nonzero(model.layers[-1].kernel.numpy()) == 13


@KERAS_3_FIRST
def test_a_last_event_that_loss_scaling_skips_is_made_up_for(api):
    """tf_keras counts the steps that it skips: step 10 is one."""
    x, y = data()
    y[2 * BATCH] = np.inf
    model = linear(api)
    optimizer = tfreg.Proximal(api.optimizers.SGD(0.05), model, ELEMENTS)
    scaling = api.optimizers if api is keras else api.mixed_precision
    scaled = scaling.LossScaleOptimizer(optimizer)
    model.compile(scaled, api.losses.MeanSquaredError())
    model.fit(x, y, batch_size=BATCH, epochs=6, shuffle=False, verbose=0)
    assert np.count_nonzero(model.layers[-1].kernel.numpy()) == 13


def test_accumulated_gradients():
    x, y = data()
    every = budget(1, 5, 5, 1, elements=13)
    model = compiled(keras, every, options={"gradient_accumulation_steps": 2})
    model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    assert np.count_nonzero(model.layers[-1].kernel.numpy()) == 13


@KERAS_3_FIRST
def test_a_kernel_of_zeros_trains_until_something_is_removed(api):
    x, y = data()
    model = api.Sequential(
        [api.Input((INPUTS,)), api.layers.Dense(UNITS, kernel_initializer="zeros")]
    )
    optimizer = tfreg.Proximal(api.optimizers.SGD(0.1), model, budget(0, 4, 4, 1, elements=0.5))
    model.compile(optimizer, api.losses.MeanSquaredError())
    model.fit(x, y, batch_size=BATCH, epochs=2, verbose=0)
    assert np.count_nonzero(model.layers[-1].kernel.numpy()) == INPUTS * UNITS // 2


@KERAS_3_FIRST
def test_penalties_beside_it_rest_when_it_is_met(api):
    model = linear(api)
    penalty = tfreg.Prior("Laplace", 0.1, loc=0.0, scale=1.0)
    penalties = [("kernel", budget(2, 6, 8, 2, elements=0.5)), ("bias", penalty)]
    optimizer = tfreg.Proximal(api.optimizers.SGD(0.0), model, penalties)
    model.compile(optimizer, api.losses.MeanSquaredError())
    fitted(model)
    assert np.count_nonzero(model.layers[-1].kernel.numpy()) == INPUTS * UNITS // 2


@pytest.mark.parametrize("dtype", ["bfloat16", slow("float16"), slow("float64")])
def test_weights_of_any_float_dtype(dtype):
    model = keras.Sequential([keras.Input((INPUTS,)), keras.layers.Dense(UNITS, dtype=dtype)])
    optimizer = tfreg.Proximal(keras.optimizers.Adam(0.01), model, budget(0, 4, 4, 1, elements=7))
    variables = model.trainable_variables
    for _ in range(8):
        gradients = [tf.ones(variable.shape, dtype) for variable in variables]
        optimizer.apply_gradients(zip(gradients, variables))
    assert np.count_nonzero(model.layers[-1].kernel.numpy().astype(float)) == 7
