import numpy as np
import oracles
import pytest
import tensorflow as tf
from cases import gradient, weight

import tfreg


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
