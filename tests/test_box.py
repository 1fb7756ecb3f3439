import numpy as np
import oracles
import pyproximal
import pytest
import tensorflow as tf
from cases import gradient, weight

import tfreg


@pytest.mark.parametrize("shape", [(7,), (64, 33), (3, 4, 5), (3, 3, 8, 16), (2, 3, 2, 3, 2)])
def test_equals_the_hand_written_form(shape):
    w = weight(shape, "float32")
    value = tfreg.BoxPenalty(1.0, -0.5, 0.25)(tf.constant(w))
    np.testing.assert_allclose(value, oracles.article_range(w, -0.5, 0.25), rtol=2e-6)


def test_value_and_gradient_are_zero_inside_the_box():
    w = tf.constant([-1.0, -0.3, 0.0, 1.0])
    penalty = tfreg.BoxPenalty(0.1, -1.0, 1.0)
    assert float(penalty(w)) == 0
    np.testing.assert_array_equal(gradient(penalty, w), np.zeros(4))


def test_equal_bounds_are_a_target():
    w = tf.constant([1.0, 2.0, 4.0])
    assert float(tfreg.BoxPenalty(1.0, 2.0, 2.0)(w)) == 5


def test_gradient_of_large_and_small_weights():
    w = tf.constant([1e30, -1e30, 1e-30])
    np.testing.assert_allclose(gradient(tfreg.BoxPenalty(0.5), w), [1e30, -1e30, 0.0], rtol=1e-6)


def test_a_large_float16_weight_has_the_true_value_and_a_finite_gradient():
    w = tf.constant(np.full((100, 100), 60000, "float16"))
    penalty = tfreg.BoxPenalty(0.01)
    np.testing.assert_allclose(penalty(w), 100 * 59999.0**2, rtol=1e-6)
    np.testing.assert_allclose(gradient(penalty, w), np.full((100, 100), 1200.0), rtol=1e-3)


@pytest.mark.parametrize("step_size", [0.1, 3.0])
@pytest.mark.parametrize("lower, upper", [(-0.5, 0.25), (None, 0.25), (-0.5, None)])
def test_prox_is_that_of_pyproximal(lower, upper, step_size):
    # The proximal operator of half a squared distance averages the weight and its projection.
    projection = pyproximal.Box(
        -np.inf if lower is None else lower, np.inf if upper is None else upper
    )
    w = weight((6, 5))
    strength = 2 * 0.7 * step_size
    expected = (w + strength * projection.prox(w.ravel(), 1.0).reshape(w.shape)) / (1 + strength)
    prox = tfreg.BoxPenalty(0.7, lower, upper).prox(tf.constant(w), step_size)
    np.testing.assert_allclose(prox, expected, rtol=1e-12)


def test_a_gradient_beyond_float16_is_its_largest_number():
    w = tf.constant([60000.0, -60000.0, 0.5, np.inf, np.nan], tf.float16)
    slope = gradient(tfreg.BoxPenalty(1.0), w)
    np.testing.assert_array_equal(slope, [65504.0, -65504.0, 0.0, np.inf, np.nan])
