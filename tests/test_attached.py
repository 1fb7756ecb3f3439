"""What `get_penalties` returns: the value and the proximal operator as they are trained."""

import keras
import model_cases as cases
import numpy as np
import pytest
import tensorflow as tf
from marks import KERAS_3_FIRST

import tfreg

HALF = tfreg.schedules.CubicRamp(begin=0, end=1, start=0.5, peak=0.5)


def lstm(api):
    """An LSTM of one unit, with numbers that show what a group is."""
    model = api.Sequential([api.Input((3, 2)), api.layers.LSTM(1, use_bias=False, name="lstm")])
    kernel, recurrent = model.trainable_weights
    kernel.assign([[3.0, 0.0, 0.0, 0.5], [0.0, 4.0, 0.0, 0.0]])
    recurrent.assign([[0.0, 0.0, 1.0, 0.0]])
    return model


UNIT = tfreg.GroupLasso(1.0, "output", size_weighted=False)


def test_a_unit_of_an_lstm_is_one_group(api):
    model = tfreg.add_penalty(lstm(api), UNIT, weights="/kernel")
    [term] = tfreg.get_penalties(model)
    [w] = term.weights
    norm = np.sqrt(25.25)
    np.testing.assert_allclose(float(model.losses[0]), norm, rtol=1e-6)
    np.testing.assert_allclose(float(term.value()), norm, rtol=1e-6)
    [shrunk] = term.prox(1.0)
    np.testing.assert_allclose(shrunk, (1 - 1 / norm) * np.asarray(w), rtol=1e-6)
    # By position, as if it were the kernel of a Dense layer, each column is a group.
    np.testing.assert_allclose(float(term.penalty(w)), 7.5, rtol=1e-6)


def test_the_schedule_is_in_the_value_and_in_the_proximal_operator(api):
    model = tfreg.add_penalty(lstm(api), UNIT, weights="/kernel", schedule=HALF)
    [term] = tfreg.get_penalties(model)
    with pytest.raises(RuntimeError, match="Compile it"):
        term.value()
    with pytest.raises(RuntimeError, match="Compile it"):
        term.prox(1.0)
    model.compile(api.optimizers.SGD(0.1), "mse")
    norm = np.sqrt(25.25)
    np.testing.assert_allclose(float(term.value()), 0.5 * norm, rtol=1e-6)
    [w], [shrunk] = term.weights, term.prox(4.0)
    np.testing.assert_allclose(shrunk, (1 - 2 / norm) * np.asarray(w), rtol=1e-6)
    [compiled] = tf.function(term.prox, jit_compile=True)(tf.constant(4.0))
    np.testing.assert_allclose(compiled, shrunk, rtol=1e-6)


def test_a_joint_penalty_shrinks_its_weights_together(api):
    model = tfreg.add_penalty(lstm(api), tfreg.Joint(UNIT), weights="kernel", schedule=HALF)
    model.compile(api.optimizers.SGD(0.1), "mse")
    [term] = tfreg.get_penalties(model)
    norm = np.sqrt(26.25)
    np.testing.assert_allclose(float(term.value()), 0.5 * norm, rtol=1e-6)
    for w, shrunk in zip(term.weights, term.prox(2.0), strict=True):
        np.testing.assert_allclose(shrunk, (1 - 1 / norm) * np.asarray(w), rtol=1e-6)
    assert all(np.all(shrunk == 0) for shrunk in term.prox(12.0))


def convnet(api):
    """Layers whose axes stand where those of a Dense or Conv layer do not."""
    k = api.layers
    x = api.Input((6, 6, 4))
    y = k.Conv2D(4, 2, groups=2, name="grouped")(x)
    y = k.Conv2DTranspose(4, 2, name="up")(y)
    y = k.DepthwiseConv2D(2, name="depth")(y)
    words = api.Input((5,))
    z = k.Embedding(7, 4, name="words")(words)
    z = k.MultiHeadAttention(2, 2, name="attention")(z, z)
    z = k.GRU(3, name="gru")(z)
    flat = k.Concatenate()([k.GlobalAveragePooling2D()(y), z])
    return api.Model([x, words], k.Dense(2, name="out")(flat))


PENALTIES = [
    tfreg.GroupLasso(0.3, "output"),
    tfreg.GroupLasso(0.3, "input", size_weighted=False),
    tfreg.SparseGroupLasso(0.3, 0.4, "shape"),
    tfreg.BoxPenalty(0.3, -0.1, 0.1),
]


@KERAS_3_FIRST
@pytest.mark.parametrize("penalty", PENALTIES, ids=str)
def test_values_are_the_losses_and_proximal_operators_lower_them(api, penalty):
    model = tfreg.add_penalty(convnet(api), penalty)
    [term] = tfreg.get_penalties(model)
    np.testing.assert_allclose(float(term.value()), float(model.losses[0]), rtol=1e-6)
    before = [np.asarray(w) for w in term.weights]
    step = 0.05
    results = [x.numpy() for x in term.prox(step)]

    def objective(weights):
        for variable, w in zip(term.weights, weights):
            variable.assign(w)
        distance = sum(0.5 * np.sum((w - b) ** 2) for w, b in zip(weights, before))
        return distance + step * float(term.value())

    least = objective(results)
    rng = np.random.default_rng(0)
    for scale in [1e-2, 1e-3]:
        for _ in range(5):
            near = [x + scale * rng.normal(size=x.shape).astype("float32") for x in results]
            assert objective(near) >= least - 1e-6
    assert objective(before) > least


def test_frozen_weights_stay(api):
    model = cases.functional(api)
    tfreg.add_penalty(model, tfreg.GroupLasso(0.1, "input"))
    tied = tfreg.Joint(tfreg.GroupLasso(0.1, ["output", "input"]))
    tfreg.add_penalty(model, tied, cases.first_two)
    each, joint = tfreg.get_penalties(model)
    model.layers[1].trainable = False
    before = [np.asarray(w) for w in each.weights]
    after = [x.numpy() for x in each.prox(1.0)]
    assert [np.array_equal(a, b) for a, b in zip(after, before)] == [True, False, False]
    np.testing.assert_allclose(
        [float(each.value()), float(joint.value())], [float(loss) for loss in model.losses]
    )
    with pytest.raises(NotImplementedError, match="some of whose weights are frozen"):
        joint.prox(1.0)
    model.trainable = False
    assert float(each.value()) == float(joint.value()) == 0.0 and model.losses == []
    for attached in (each, joint):
        for w, x in zip(attached.weights, attached.prox(1.0), strict=True):
            np.testing.assert_array_equal(np.asarray(w), x)


def test_a_layers_own_penalty_goes_by_position_as_it_trains(api):
    penalty = tfreg.GroupLasso(1.0, "output", size_weighted=False)
    layer = api.layers.LSTM(1, use_bias=False, kernel_regularizer=penalty)
    model = api.Sequential([api.Input((3, 2)), layer])
    [own] = tfreg.get_penalties(model)
    [kernel] = own.weights
    kernel.assign([[3.0, 0.0, 0.0, 0.5], [0.0, 4.0, 0.0, 0.0]])
    assert float(own.value()) == float(model.losses[0]) == 7.5
    np.testing.assert_allclose(own.prox(1.0)[0], [[2.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0]])
    layer.trainable = False
    assert float(own.value()) == sum(float(loss) for loss in model.losses)
    np.testing.assert_array_equal(own.prox(1.0)[0], np.asarray(kernel))


def test_a_penalty_over_a_model_inside_is_asked_as_the_outer_model_asks(api):
    inner = cases.sequential(api)
    tfreg.add_penalty(inner, UNIT, schedule=HALF)
    inner.compile(api.optimizers.SGD(0.1), "mse")
    outer = api.Sequential([api.Input((6,)), inner, api.layers.Dense(1)])
    [term] = tfreg.get_penalties(outer)
    for ask in (lambda: outer.losses, term.value, lambda: term.prox(1.0)):
        with pytest.raises(RuntimeError, match="outermost model"):
            ask()
    [term] = tfreg.get_penalties(inner)
    np.testing.assert_allclose(float(term.value()), float(inner.losses[0]))


def test_before_a_model_is_built(api):
    model = tfreg.add_penalty(cases.deferred(api), UNIT)
    [term] = tfreg.get_penalties(model)
    for ask in (term.value, lambda: term.prox(1.0)):
        with pytest.raises(ValueError, match="not built"):
            ask()


@pytest.mark.parametrize("step_size", [-1.0, "1", None, tf.constant(1), tf.ones([2])])
def test_bad_step_sizes(api, step_size):
    model = cases.sequential(api)
    tfreg.add_penalty(model, UNIT)
    [term] = tfreg.get_penalties(model)
    with pytest.raises((TypeError, ValueError), match="`step_size` must be"):
        term.prox(step_size)


def test_no_closed_form(api):
    model = cases.sequential(api)
    tfreg.add_penalty(model, tfreg.TotalVariation(0.1, order=2))
    tfreg.add_penalty(model, tfreg.GroupLasso(0.1) + keras.regularizers.L2(0.1))
    for term in tfreg.get_penalties(model):
        with pytest.raises(NotImplementedError, match="closed form"):
            term.prox(1.0)
