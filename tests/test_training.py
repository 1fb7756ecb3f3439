"""Every penalty on the weights of Keras's layers: eager, graph and XLA train alike."""

import copy
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import CASES, away_from_zero
from marks import APIS, KERAS_3_FIRST, in_turn, slow
from model_cases import mirrored

import tfreg
from tfreg.compute import policy

# Differences, magnitudes and norms of groups at once.
PENALTY = tfreg.TotalVariation(2e-3, axis=0) + tfreg.SparseGroupLasso(1e-3, axis="output")

# A layer, the weights' arguments that take a penalty, and the shape of one input.
LAYERS = {
    "Dense": (lambda k, **r: k.layers.Dense(5, **r), ["kernel", "bias"], (7,)),
    "EinsumDense": (
        lambda k, **r: k.layers.EinsumDense("abc,cde->abde", (4, 2, 3), bias_axes="de", **r),
        ["kernel", "bias"],
        (4, 5),
    ),
    "Embedding": (lambda k, **r: k.layers.Embedding(11, 3, **r), ["embeddings"], (6,)),
    "Conv1D": (lambda k, **r: k.layers.Conv1D(4, 3, **r), ["kernel", "bias"], (8, 3)),
    "Conv2D": (lambda k, **r: k.layers.Conv2D(4, 3, **r), ["kernel", "bias"], (6, 6, 3)),
    "Conv3D": (lambda k, **r: k.layers.Conv3D(3, 2, **r), ["kernel"], (4, 4, 4, 2)),
    "Conv2DTranspose": (lambda k, **r: k.layers.Conv2DTranspose(4, 3, **r), ["kernel"], (4, 4, 3)),
    "DepthwiseConv2D": (lambda k, **r: k.layers.DepthwiseConv2D(3, **r), ["depthwise"], (6, 6, 3)),
    "SeparableConv2D": (
        lambda k, **r: k.layers.SeparableConv2D(4, 3, **r),
        ["depthwise", "pointwise"],
        (6, 6, 3),
    ),
    "LSTM": (lambda k, **r: k.layers.LSTM(3, **r), ["kernel", "recurrent", "bias"], (4, 5)),
    "GRU": (lambda k, **r: k.layers.GRU(3, **r), ["kernel", "recurrent", "bias"], (4, 5)),
    # Not its biases: the loss does not depend on the key's, which rounding alone then moves.
    "MultiHeadAttention": (lambda k, **r: self_attention(k, **r), ["kernel"], (4, 6)),
    "BatchNormalization": (
        lambda k, **r: k.layers.BatchNormalization(**r),
        ["gamma", "beta"],
        (6,),
    ),
}
MODES = {
    "eager": {"run_eagerly": True, "jit_compile": False},
    "graph": {"run_eagerly": False, "jit_compile": False},
    "xla": {"run_eagerly": False, "jit_compile": True},
}


def self_attention(api, **regularizers):
    attention = api.layers.MultiHeadAttention(2, 3, **regularizers)
    x = api.Input((4, 6))
    return api.Model(x, attention(x, x))


def data(layer_names):
    """Inputs of the layers of those names, and targets."""
    rng = np.random.default_rng(0)
    inputs = []
    for layer_name in layer_names:
        shape = (8, *LAYERS[layer_name][2])
        if layer_name == "Embedding":
            inputs.append(rng.integers(0, 11, shape))
        else:
            inputs.append(rng.normal(size=shape).astype("float32"))
    return inputs, rng.normal(size=(8, 1)).astype("float32")


def side_by_side(api, layers, inputs):
    """The mean of what a dense layer computes from each of `layers`, which read the `inputs`."""
    flat = [api.layers.Flatten()(layer(x)) for layer, x in zip(layers, inputs, strict=True)]
    outputs = [api.layers.Dense(1)(x) for x in flat]
    return api.layers.Average()(outputs) if len(outputs) > 1 else outputs[0]


def build(api, layer_names, penalty):
    """The layers of those names, penalized, and the model of them side by side."""
    api.utils.set_random_seed(1)
    layers, inputs = [], []
    for layer_name in layer_names:
        make, weights, shape = LAYERS[layer_name]
        layers.append(make(api, **{f"{weight}_regularizer": penalty for weight in weights}))
        inputs.append(api.Input(shape))
    return layers, api.Model(inputs, side_by_side(api, layers, inputs))


def train(model, api, x, y, mode, steps=3):
    model.compile(api.optimizers.SGD(0.05), api.losses.MeanSquaredError(), **MODES[mode])
    history = model.fit(x, y, batch_size=8, epochs=steps, shuffle=False, verbose=0)
    return history.history["loss"], [w.numpy() for w in model.trainable_weights]


def assert_alike(results):
    """The losses and the final weights of each of `results` are those of the first."""
    assert np.isfinite(results[0][0]).all()
    for loss, weights in results[1:]:
        np.testing.assert_allclose(loss, results[0][0], rtol=1e-5)
        for actual, expected in zip(weights, results[0][1], strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


# Many layers in one model: a step takes little beside its trace. Those of tf_keras take longest.
@KERAS_3_FIRST
@pytest.mark.parametrize(
    "layer_names",
    [["Dense", "Conv2D"], slow(list(LAYERS)[::2]), slow(list(LAYERS)[1::2])],
    ids=range(3),
)
def test_every_layer_trains_alike_in_every_mode(api, layer_names):
    x, y = data(layer_names)
    results = {}
    for mode in MODES:
        layers, model = build(api, layer_names, PENALTY)
        if mode == "eager":
            for layer in layers:
                expected = sum(float(PENALTY(w)) for w in layer.trainable_weights)
                np.testing.assert_allclose(float(sum(layer.losses)), expected, rtol=1e-5)
                assert expected > 0
        before = [w.numpy() for w in model.trainable_weights]
        results[mode] = train(model, api, x, y, mode)
        assert all(np.any(a != b) for a, b in zip(before, results[mode][1]))
    assert_alike(list(results.values()))


TRAINED = [case for case in CASES if case.min_rank <= 4]
FIRST = [case for case in TRAINED if case.is_first]
OTHERS = [case for case in TRAINED if not case.is_first]


@pytest.mark.slow
@pytest.mark.parametrize("cases", [FIRST, OTHERS[::2], OTHERS[1::2]], ids=range(3))
def test_every_penalty_trains_alike_in_every_mode(api, cases):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 6, 6, 3)).astype("float32")
    y = rng.normal(size=(8, 1)).astype("float32")
    results = []
    for mode in MODES:
        api.utils.set_random_seed(1)
        layers = [api.layers.Conv2D(4, 3, kernel_regularizer=case.penalty) for case in cases]
        image = api.Input((6, 6, 3))
        model = api.Model(image, side_by_side(api, layers, [image] * len(cases)))
        for layer, case in zip(layers, cases, strict=True):
            kernel = away_from_zero(layer.kernel.numpy())
            layer.kernel.assign(kernel)
            np.testing.assert_allclose(float(layer.losses[0]), case.oracle(kernel), rtol=2e-6)
        results.append(train(model, api, x, y, mode))
    assert_alike(results)


def test_a_step_moves_the_weights_by_the_penaltys_gradient(api):
    layer = api.layers.Dense(3, use_bias=False, kernel_regularizer=tfreg.GroupLasso(0.5))
    model = api.Sequential([api.Input((4,)), layer])
    model.compile(api.optimizers.SGD(0.1), api.losses.MeanSquaredError())
    before = layer.kernel.numpy()
    model.fit(np.zeros((2, 4)), np.zeros((2, 3)), verbose=0)
    expected = before - 0.1 * 0.5 * 2 * before / np.linalg.norm(before, axis=0)
    np.testing.assert_allclose(layer.kernel.numpy(), expected, rtol=1e-5)


@KERAS_3_FIRST
@pytest.mark.parametrize(
    "policy, mode",
    [
        slow("float64", "xla"),
        slow("float16", "graph"),
        slow("bfloat16", "xla"),
        slow("mixed_float16", "xla"),
        ("mixed_float16", "graph"),
        ("mixed_bfloat16", "graph"),
    ],
)
def test_every_dtype_policy_trains(api, policy, mode):
    # Of other weights the scaled gradients may overflow, which skips steps.
    api.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(8, 6, 6, 3))
    policies = api.dtype_policies.DTypePolicy if api is keras else api.mixed_precision.Policy
    dtype = policies(policy)
    model = api.Sequential(
        [
            api.Input((6, 6, 3), dtype=dtype.compute_dtype),
            api.layers.Conv2D(4, 3, kernel_regularizer=PENALTY, dtype=dtype),
            api.layers.Flatten(dtype=dtype),
            api.layers.Dense(2, kernel_regularizer=PENALTY, bias_regularizer=PENALTY, dtype=dtype),
        ]
    )
    optimizer = api.optimizers.SGD(0.05)
    if policy == "mixed_float16":
        optimizer_module = api.optimizers if api is keras else api.mixed_precision
        optimizer = optimizer_module.LossScaleOptimizer(optimizer)
    model.compile(optimizer, api.losses.MeanSquaredError(), **MODES[mode])
    before = [w.numpy() for w in model.trainable_weights]
    history = model.fit(x, np.ones((8, 2)), batch_size=8, epochs=3, verbose=0).history["loss"]
    assert np.isfinite(history).all() and history[-1] < history[0]
    assert all(np.any(a != b.numpy()) for a, b in zip(before, model.trainable_weights))
    assert len(model.losses) == 3


def test_losses_read_inside_call_under_a_mixed_policy():
    class Layer(keras.layers.Dense):
        def call(self, x):
            self.seen = self.losses
            return super().call(x)

    layer = Layer(3, kernel_regularizer=PENALTY, dtype="mixed_float16")
    layer(np.ones((2, 4)))
    assert layer.seen[0].dtype == tf.float32 and np.isfinite(layer.seen[0])


@in_turn(mode=MODES, api=APIS)
def test_an_activity_regularizer(api, mode):
    penalty = tfreg.GroupLasso(0.1, axis=-1)
    layer = api.layers.Dense(3, activity_regularizer=penalty)
    model = api.Sequential([api.Input((4,)), layer])
    loss, _ = train(model, api, np.ones((8, 4)), np.ones((8, 3)), mode)
    assert np.isfinite(loss).all()


def wide(api):
    """A model with a weight so large that its kernels are XLA's in a plain graph too; data."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 0.04, (24, 601)).astype("float32"), rng.normal(size=(24, 1))
    api.utils.set_random_seed(1)
    hidden = api.layers.Dense(503, kernel_regularizer=PENALTY, bias_regularizer=PENALTY)
    model = api.Sequential([api.Input((601,)), hidden, api.layers.Dense(1)])
    assert hidden.kernel.shape[0] * hidden.kernel.shape[1] >= policy.XLA_MIN_ELEMENTS
    return model, x, y


@pytest.mark.slow
def test_large_weights_train_alike_in_every_mode(api):
    results = []
    for mode in MODES:
        model, x, y = wide(api)
        results.append(train(model, api, x, y, mode))
    assert_alike(results)


@pytest.mark.slow
def test_without_xla_everything_trains_with_one_warning(api, monkeypatch):
    with_xla, x, y = wide(api)
    train(with_xla, api, x, y, "graph")
    monkeypatch.setattr(policy, "_xla_compiles_on", lambda device_name: False)
    policy._xla_available.cache_clear()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            without, x, y = wide(api)
            tfreg.add_penalty(without, tfreg.BoxPenalty(0.0))
            train(without, api, x, y, "graph")
            large = tf.ones([policy.XLA_MIN_ELEMENTS // 64, 64])
            shrunk = tfreg.GroupLasso(size_weighted=False).prox(large, 1.0)
    finally:
        policy._xla_available.cache_clear()
    np.testing.assert_allclose(shrunk, 1.0 - 0.01 / np.sqrt(large.shape[0]), rtol=1e-6)
    assert len([w for w in caught if "XLA has no compiler" in str(w.message)]) == 1
    for actual, expected in zip(without.trainable_weights, with_xla.trainable_weights):
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_strategy_of_two_devices_gives_the_weights_of_one(api):
    strategy = mirrored(2)
    one, x, y = wide(api)
    train(one, api, x, y, "graph")
    with strategy.scope():
        two, x, y = wide(api)
        train(two, api, x, y, "graph")
    # Not the history: that of Keras 3.8 is wrong here without a penalty too.
    np.testing.assert_allclose(
        [float(loss) for loss in two.losses], [float(loss) for loss in one.losses], rtol=1e-5
    )
    for actual, expected in zip(two.trainable_weights, one.trainable_weights):
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_a_model_is_cloned_with_its_penalties(api):
    _, model = build(api, ["Conv2D"], PENALTY)
    clones = [
        api.models.clone_model(model),
        type(model).from_config(model.get_config()),
        api.models.model_from_json(model.to_json()),
        copy.deepcopy(model),
    ]
    for clone in clones:
        clone.set_weights(model.get_weights())
        assert len(clone.losses) == len(model.losses) == 2
        np.testing.assert_allclose(
            [float(loss) for loss in clone.losses], [float(loss) for loss in model.losses]
        )
