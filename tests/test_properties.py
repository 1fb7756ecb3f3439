"""Penalties at random: arguments, shapes, ranks, dtypes and extreme values."""

import json

import numpy as np
import pytest
import tensorflow as tf
from cases import TABLE, value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import slow

MAGNITUDES = [0.0, 1e-30, 1e-5, 1.0, 3e4, 1e30]
DTYPES = {"float16": 6e4, "bfloat16": 1e30, "float32": 1e30, "float64": 1e150}
FACTORS = st.sampled_from([0.0, 1e-4, 1 / 3, 2.0])


@st.composite
def weights(draw):
    """A weight of rank 1 to 5 whose entries are zero, ordinary or of an extreme magnitude."""
    shape = tuple(draw(st.lists(st.integers(0, 5), min_size=1, max_size=5)))
    dtype = draw(st.sampled_from(list(DTYPES)))
    magnitudes = draw(st.lists(st.sampled_from(MAGNITUDES), min_size=1, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    w = rng.uniform(-1, 1, shape) * rng.choice(magnitudes, shape)
    return tf.cast(tf.constant(np.clip(w, -DTYPES[dtype], DTYPES[dtype])), dtype)


@st.composite
def problems(draw):
    """A weight, a row of the table, its penalty, and the arguments of that."""
    weight = draw(weights())
    row = draw(st.sampled_from([row for row in TABLE if row.choices]))
    arguments = draw(row.arguments_at(weight.shape.rank))
    return weight, row, row.make(draw(FACTORS), **arguments), arguments


@pytest.mark.parametrize("number", [40, slow(200)])
def test_value_gradient_config_and_prox(number):
    settings(max_examples=number)(given(problems())(check))()


def check(problem):
    w, row, penalty, arguments = problem
    value, gradient = value_and_gradient(penalty, w)

    accumulation = np.float64 if w.dtype == tf.float64 else np.float32
    # In the same precision as the penalty, or a difference of neighbours would be another one.
    exact = row.oracle(tf.cast(w, accumulation).numpy(), **arguments) if tf.size(w) > 0 else 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        expected = accumulation(penalty.factor) * accumulation(exact)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-35)

    assert gradient.dtype == w.dtype and gradient.shape == w.shape
    assert np.isfinite(tf.cast(gradient, tf.float64)).all()
    config = json.loads(json.dumps(penalty.get_config()))
    assert type(penalty).from_config(config).get_config() == penalty.get_config()
    if row.has_prox_with(arguments):
        shrunk = tf.cast(penalty.prox(w, 0.5), tf.float64)
        assert np.isfinite(shrunk).all()
        if row.shrinks:
            assert (np.abs(shrunk) <= np.abs(tf.cast(w, tf.float64)) * 1.00001).all()
