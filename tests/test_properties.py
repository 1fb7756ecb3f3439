"""Penalties at random: arguments, shapes, ranks, dtypes and extreme values."""

import functools
import json

import numpy as np
import oracles
import tensorflow as tf
from cases import value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st

import tfreg

MAGNITUDES = [0.0, 1e-30, 1e-5, 1.0, 3e4, 1e30]
DTYPES = {"float16": 6e4, "bfloat16": 1e30, "float32": 1e30, "float64": 1e150}
LOG_PRIORS = {
    name: functools.partial(oracles.negative_log_density, log_density=log_density)
    for name, log_density in [("Normal", oracles.log_normal), ("Laplace", oracles.log_laplace)]
}
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


def axes_of(rank):
    signed = st.integers(0, rank - 1).flatmap(lambda a: st.sampled_from([a, a - rank]))
    several = st.lists(signed, min_size=1, max_size=rank, unique_by=lambda a: a % rank)
    return signed | several.map(tuple)


@st.composite
def groupings(draw, rank):
    axis = draw(st.sampled_from(["output", "input", "shape", "all"]) | axes_of(rank))
    sizes = st.none() | st.integers(1, 6)
    if isinstance(axis, str):
        group_size = None
    elif isinstance(axis, int):
        group_size = draw(sizes)
    else:
        group_size = draw(st.none() | st.tuples(*[sizes] * len(axis)))
    return {"axis": axis, "group_size": group_size, "size_weighted": draw(st.booleans())}


@st.composite
def penalties(draw, rank):
    """A penalty for weights of `rank`, and its oracle."""
    factor = draw(FACTORS)
    family = draw(st.sampled_from(["variation", "isotropic", "box", "lasso", "sparse", "prior"]))
    if family == "variation":
        arguments = {"axis": draw(st.none() | axes_of(rank)), "order": draw(st.integers(1, 2))}
        return tfreg.TotalVariation(factor, **arguments), oracles.total_variation, arguments
    if family == "isotropic":
        arguments = {"axis": draw(axes_of(rank)), "isotropic": True}
        return tfreg.TotalVariation(factor, **arguments), oracles.total_variation, arguments
    if family == "box":
        lower, upper = sorted(draw(st.tuples(st.floats(-2, 2), st.floats(-2, 2))))
        bounds = draw(st.sampled_from([(lower, upper), (lower, None), (None, upper)]))
        arguments = dict(zip(("lower", "upper"), bounds))
        return tfreg.BoxPenalty(factor, **arguments), oracles.box, arguments
    if family == "prior":
        name = draw(st.sampled_from(["Normal", "Laplace"]))
        arguments = {"loc": 0.0, "scale": draw(st.floats(1.0, 100.0))}
        return tfreg.Prior(name, factor, **arguments), LOG_PRIORS[name], arguments
    arguments = draw(groupings(rank))
    if family == "lasso":
        return tfreg.GroupLasso(factor, **arguments), oracles.group_lasso, arguments
    arguments["l1_ratio"] = draw(st.sampled_from([0.0, 0.3, 1.0]))
    return tfreg.SparseGroupLasso(factor, **arguments), oracles.sparse_group_lasso, arguments


@st.composite
def problems(draw):
    weight = draw(weights())
    return weight, *draw(penalties(weight.shape.rank))


@settings(max_examples=200)
@given(problems())
def test_value_gradient_config_and_prox(problem):
    w, penalty, oracle, arguments = problem
    value, gradient = value_and_gradient(penalty, w)

    accumulation = np.float64 if w.dtype == tf.float64 else np.float32
    # In the same precision as the penalty, or a difference of neighbours would be another one.
    exact = oracle(tf.cast(w, accumulation).numpy(), **arguments) if tf.size(w) > 0 else 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        expected = accumulation(penalty.factor) * accumulation(exact)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-35)

    assert gradient.dtype == w.dtype and gradient.shape == w.shape
    assert np.isfinite(tf.cast(gradient, tf.float64)).all()
    config = json.loads(json.dumps(penalty.get_config()))
    assert type(penalty).from_config(config).get_config() == penalty.get_config()
    if not isinstance(penalty, tfreg.TotalVariation):
        shrunk = tf.cast(penalty.prox(w, 0.5), tf.float64)
        assert np.isfinite(shrunk).all()
        if not isinstance(penalty, tfreg.BoxPenalty):
            assert (np.abs(shrunk) <= np.abs(tf.cast(w, tf.float64)) * 1.00001).all()
