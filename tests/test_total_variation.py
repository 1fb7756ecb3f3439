import numpy as np
import oracles
import pytest
import tensorflow as tf
from cases import gradient, weight

import tfreg
from tfreg.layout import Layout


@pytest.mark.parametrize("shape", [(7,), (64, 33), (3, 4, 5), (3, 3, 8, 16), (2, 3, 2, 3, 2)])
def test_equals_the_hand_written_form(shape):
    w = weight(shape, "float32")
    value = tfreg.TotalVariation(1.0)(tf.constant(w))
    np.testing.assert_allclose(value, oracles.article_total_variation(w), rtol=2e-6)


def test_along_an_axis_rows_do_not_mix():
    w = tf.constant([[1.0, 2.0], [1.0, 2.0]])
    assert float(tfreg.TotalVariation(1.0, axis=0)(w)) == 0
    assert float(tfreg.TotalVariation(1.0, axis=1)(w)) == 2
    assert float(tfreg.TotalVariation(1.0)(w)) == 3


def test_gradient_is_zero_at_equal_neighbours():
    w = tf.constant([1.0, 1.0, 1.0, 3.0, 3.0])
    np.testing.assert_array_equal(gradient(tfreg.TotalVariation(1.0), w), [0, 0, -1, 1, 0])


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1, (0, 1)])
def test_gradient_of_a_large_weight_is_the_differences_of_signs(axis, jit_compile):
    w = np.random.default_rng(0).integers(-2, 3, size=(600, 500)).astype("float32")
    penalty = tfreg.TotalVariation(1.0, axis)
    compute = tf.function(lambda w: tf.gradients(penalty(w), w)[0], jit_compile=jit_compile)
    expected = np.zeros_like(w)
    views = (
        [(w.ravel(), expected.reshape(-1), 0)]
        if axis is None
        else [(w, expected, entry) for entry in np.atleast_1d(axis)]
    )
    for values, slope, along in views:
        signs = np.moveaxis(np.sign(np.diff(values, axis=along)), along, 0)
        np.moveaxis(slope, along, 0)[1:] += signs
        np.moveaxis(slope, along, 0)[:-1] -= signs
    np.testing.assert_array_equal(compute(tf.constant(w)), expected)
    w[300, 200] = np.inf
    at_infinity = np.isnan(compute(tf.constant(w)))
    assert at_infinity[300, 200] and 3 <= at_infinity.sum() <= 5


def test_order_two_is_zero_on_a_straight_line():
    ramp = tf.range(9.0)
    assert float(tfreg.TotalVariation(1.0, order=2)(ramp)) == 0
    assert float(tfreg.TotalVariation(1.0, order=1)(ramp)) == 8


def test_isotropic_does_not_depend_on_the_direction_of_an_edge():
    field = tf.constant([[0.0, 3.0], [4.0, 0.0]])
    # The differences at the first point are (4, 3); those past an edge count as 0.
    assert float(tfreg.TotalVariation(1.0, axis=(0, 1), isotropic=True)(field)) == 5 + 3 + 4
    assert float(tfreg.TotalVariation(1.0, axis=(0, 1))(field)) == 4 + 3 + 3 + 4


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_an_axis_no_longer_than_the_order_contributes_nothing(length, order):
    w = tf.random.stateless_normal([length, 4], [0, 0])
    penalty = tfreg.TotalVariation(1.0, axis=0, order=order)
    if length <= order:
        assert float(penalty(w)) == 0
        np.testing.assert_array_equal(gradient(penalty, w), np.zeros([length, 4]))
    else:
        assert float(penalty(w)) > 0


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("arguments", [{}, {"axis": (0, 1), "isotropic": True}])
def test_gradient_is_scale_free(arguments, scale):
    w = weight((5, 4), "float32")
    penalty = tfreg.TotalVariation(1.0, **arguments)
    np.testing.assert_allclose(
        gradient(penalty, tf.constant(w * np.float32(scale))),
        gradient(penalty, tf.constant(w)),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_large_float16_weight_has_the_true_value():
    w = np.zeros((300, 300), "float16")
    w[::2] = 60000
    value = tfreg.TotalVariation(1.0, axis=0)(tf.constant(w))
    np.testing.assert_allclose(value, 299 * 300 * 60000.0, rtol=1e-6)
    assert np.isfinite(gradient(tfreg.TotalVariation(1.0, axis=0), tf.constant(w))).all()


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_sum_over_millions_is_right(jit_compile):
    # One running sum in float32, XLA's on a CPU, would be off by 8e-5.
    w = weight((2048, 2048), "float32")
    for arguments in [{}, {"axis": 0}, {"axis": -1}]:
        penalty = tfreg.TotalVariation(1.0, **arguments)
        value = tf.function(penalty, jit_compile=jit_compile)(tf.constant(w))
        np.testing.assert_allclose(value, oracles.total_variation(w, **arguments), rtol=1e-6)


SMOOTHED = [
    ((7,), 0),
    ((5, 4), 0),
    ((4, 5), None),
    ((3, 4, 5), 1),
    ((60, 3), 0),
    ((3, 60), -1),
    ((2, 30, 2), None),
]


@pytest.mark.parametrize("step_size", [0.0, 1e-3, 0.1, 0.7, 3.0, 50.0])
@pytest.mark.parametrize("shape, axis", SMOOTHED)
def test_prox_is_the_oracles(shape, axis, step_size):
    penalty = tfreg.TotalVariation(1.0, axis)
    for w in (weight(shape), np.cumsum(weight(shape), axis=0)):
        expected = oracles.total_variation_prox(w, step_size, axis)
        np.testing.assert_allclose(penalty.prox(tf.constant(w), step_size), expected, atol=1e-11)
        single = w.astype("float32")
        smooth = penalty.prox(tf.constant(single), step_size)
        expected = oracles.total_variation_prox(single, step_size, axis)
        np.testing.assert_allclose(smooth, expected, rtol=2e-7, atol=1e-7)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("length", [6, 8, 9, 300])
def test_prox_of_blocks_is_of_blocks_that_are_equal_to_the_last_bit(length, jit_compile):
    rng = np.random.default_rng(0)
    blocks = np.repeat(rng.normal(size=(length // 3, 40)), 3, axis=0)
    w = tf.constant((blocks + 0.05 * rng.normal(size=blocks.shape)).astype("float32"))
    penalty = tfreg.TotalVariation(1.0, axis=0)
    smooth = tf.function(penalty.prox, jit_compile=jit_compile)(w, tf.constant(0.2)).numpy()
    # Each cut is there for a reason: the dual variable is at its bound.
    dual = np.cumsum(w.numpy().astype(float) - smooth, axis=0)[:-1]
    jumps = np.diff(smooth, axis=0)
    assert 0 < np.count_nonzero(jumps) < jumps.size
    np.testing.assert_allclose(dual[jumps != 0.0], -0.2 * np.sign(jumps[jumps != 0.0]), atol=1e-4)
    assert np.abs(dual).max() < 0.2 + 1e-4


@pytest.mark.parametrize("length", [5, 20])
def test_prox_of_a_constant_is_itself(length):
    for dtype in ("float32", "float64"):
        w = tf.fill([length, 3], tf.constant(0.1, dtype))
        for step_size in (0.0, 1e-10, 1.0, 1e30):
            smooth = tfreg.TotalVariation(1.0, axis=0).prox(w, step_size)
            # In float64 the mean may be off by a rounding.
            np.testing.assert_allclose(smooth, w, rtol=0.0 if dtype == "float32" else 4e-16)
            assert not np.diff(smooth, axis=0).any()


@pytest.mark.parametrize("length", [3, 8, 50])
def test_prox_of_an_enormous_step_is_the_mean(length):
    w = weight((length, 4), "float32")
    for step_size in (1e3, 1e30, 3e38, 1e300):
        smooth = tfreg.TotalVariation(1.0, axis=0).prox(tf.constant(w), step_size).numpy()
        np.testing.assert_allclose(smooth, np.broadcast_to(w.mean(axis=0), w.shape), atol=1e-6)
        assert not np.diff(smooth, axis=0).any()


@pytest.mark.parametrize("length", [5, 20])
@pytest.mark.parametrize(
    "dtype, scale", [("float32", 1e-30), ("float32", 1e38), ("float64", 1e-300), ("float64", 1e308)]
)
def test_prox_is_scale_free(dtype, scale, length):
    w = np.clip(weight((length, 3)), -1.5, 1.5)
    smooth = tfreg.TotalVariation(1.0, axis=0).prox((w * scale).astype(dtype), 0.5 * scale).numpy()
    expected = oracles.total_variation_prox(w, 0.5, 0)
    np.testing.assert_allclose(smooth / scale, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("length", [6, 20])
def test_prox_of_an_infinite_entry_pulls_its_neighbours_as_one_that_is_far(length):
    w = weight((length, 4))
    far, infinite = w.copy(), w.copy()
    for column, sign in ((0, 1.0), (1, -1.0)):
        far[2, column], infinite[2, column] = 1e6 * sign, np.inf * sign
    penalty = tfreg.TotalVariation(1.0, axis=0)
    for step_size in (0.3, 2.0):
        expected = penalty.prox(tf.constant(far), step_size).numpy()
        smooth = penalty.prox(tf.constant(infinite), step_size).numpy()
        np.testing.assert_array_equal(smooth[2, :2], infinite[2, :2])
        others = np.delete(np.arange(length), 2)
        np.testing.assert_allclose(smooth[others], expected[others], atol=1e-9)
    for step_size in (1e30, 1e300):
        assert not np.isnan(penalty.prox(tf.constant(infinite, tf.float32), step_size)).any()


@pytest.mark.parametrize("length", [6, 20])
def test_nan_reaches_its_own_line_of_the_prox(length):
    w = weight((length, 4))
    expected = tfreg.TotalVariation(1.0, axis=0).prox(tf.constant(w), 0.3).numpy()
    w[3, 1] = np.nan
    smooth = tfreg.TotalVariation(1.0, axis=0).prox(tf.constant(w), 0.3).numpy()
    assert np.isnan(smooth[:, 1]).all()
    np.testing.assert_array_equal(np.delete(smooth, 1, axis=1), np.delete(expected, 1, axis=1))


@pytest.mark.parametrize("is_stack", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_prox_does_not_cross_gates_or_stacked_weights(axis, is_stack):
    layout = Layout(("input", (("gate", 4), "output")))
    weights = [weight((3, 12), seed=seed) for seed in range(2 if is_stack else 1)]
    expected = []
    for w in weights:
        gates = np.split(w, 4, axis=1)
        smooth = [oracles.total_variation_prox(gate, 0.4, axis) for gate in gates]
        expected.append(np.concatenate(smooth, axis=1))
    penalty = tfreg.TotalVariation(1.0, axis)
    if is_stack:
        smooth = penalty.compute_prox(tf.stack(weights), layout.stacked(), 0.4)
    else:
        smooth, expected = penalty.prox_on(weights[0], layout, 0.4), expected[0]
    np.testing.assert_allclose(smooth, expected, atol=1e-11)


def test_prox_along_an_axis_of_gates_alone_is_the_identity():
    w = tf.constant(weight((3, 4)))
    penalty = tfreg.TotalVariation(1.0, axis=1)
    np.testing.assert_array_equal(penalty.prox_on(w, Layout(("input", "gate")), 0.4), w)


def test_prox_of_unknown_dimensions():
    for axis in (None, 0, 1):
        penalty = tfreg.TotalVariation(1.0, axis)
        dynamic = tf.function(
            lambda w: penalty.prox(w, 0.3), input_signature=[tf.TensorSpec([None, None])]
        )
        for shape in [(5, 4), (1, 12), (12, 1), (0, 3), (3, 0)]:
            w = weight(shape, "float32")
            expected = oracles.total_variation_prox(w, 0.3, axis) if w.size else w
            np.testing.assert_allclose(dynamic(w), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("length", [7, 40])
def test_prox_of_forced_xla_and_plain_kernels_agree(length, jit):
    w = tf.constant(weight((length, 6), "float32"))
    penalty = tfreg.TotalVariation(1.0, axis=0)
    jit(False)
    plain = penalty.prox(w, 0.4)
    jit(True)
    np.testing.assert_allclose(penalty.prox(w, 0.4), plain, rtol=1e-6, atol=1e-7)


def test_prox_inside_a_tape_is_not_recorded():
    w = tf.Variable(weight((30, 4), "float32"))
    with tf.GradientTape() as tape:
        smooth = tfreg.TotalVariation(1.0, axis=0).prox(w, 0.3)
    assert tape.gradient(smooth, w) is None


def test_joint_prox_is_along_the_weights():
    weights = [weight((3, 4), seed=seed) for seed in range(5)]
    joint = tfreg.Joint(tfreg.TotalVariation(2.0))
    smooth = joint.prox_on([tf.constant(w) for w in weights], [None] * 5, 0.2)
    expected = oracles.total_variation_prox(np.stack(weights), 0.4, 0)
    np.testing.assert_allclose(smooth, expected, atol=1e-11)


@pytest.mark.parametrize(
    "arguments", [{"order": 2}, {"axis": (0, 1)}, {"axis": (0, 1), "isotropic": True}]
)
def test_which_forms_have_a_prox_is_said(arguments):
    with pytest.raises(NotImplementedError, match="closed form.*order 1 along one axis.*has one"):
        tfreg.TotalVariation(0.1, **arguments).prox(tf.ones([5, 4]), 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("shape, axis", [((700, 600), 0), ((600, 700), 1), ((300, 400), None)])
def test_prox_of_a_large_weight_satisfies_the_conditions_of_its_optimum(shape, axis):
    w = np.cumsum(weight(shape), axis=axis or 0).astype("float32")
    smooth = tfreg.TotalVariation(1.0, axis).prox(tf.constant(w), 1.5).numpy()
    if axis is None:
        w, smooth, axis = w.ravel(), smooth.ravel(), 0
    dual = np.cumsum(w.astype(float) - smooth, axis=axis)
    jumps = np.diff(smooth, axis=axis)
    inner, end = np.split(dual, [dual.shape[axis] - 1], axis=axis)
    scale = 1e-6 * np.abs(w).max() * w.shape[axis]
    assert np.abs(end).max() < scale
    assert np.abs(inner).max() < 1.5 + scale
    np.testing.assert_allclose(inner[jumps != 0], -1.5 * np.sign(jumps[jumps != 0]), atol=scale)
