"""Signs, roots and reciprocals at 0 and at infinity."""

import numpy as np
import pytest
import tensorflow as tf

from tfreg.compute.numerics import root_or_zero, signum


@pytest.mark.parametrize("jit_compile", [None, False, True])
def test_signum_does_not_hide_infinity(jit_compile):
    x = tf.constant([-2.0, -0.0, 0.0, 3.0, np.inf, -np.inf, np.nan])
    function = signum
    if jit_compile is not None:
        function = tf.function(function, jit_compile=jit_compile)
    np.testing.assert_array_equal(function(x), [-1, 0, 0, 1, np.nan, np.nan, np.nan])


def test_signum_has_no_slope():
    x = tf.constant([-2.0, 0.0, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        sign = signum(x)
    slope = tape.gradient(sign, x)
    np.testing.assert_array_equal(slope, [0, 0, 0])


def test_root_or_zero_is_differentiable_at_zero():
    x = tf.constant([0.0, 4.0, np.inf, np.nan])
    with tf.GradientTape() as tape:
        tape.watch(x)
        roots = root_or_zero(x)
    np.testing.assert_array_equal(roots, [0.0, 2.0, np.inf, np.nan])
    np.testing.assert_array_equal(tape.gradient(roots, x), [0.0, 0.25, 0.0, np.nan])
