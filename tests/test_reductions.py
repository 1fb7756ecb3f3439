"""Sums, group sums and differences: each device's strategy gives the same answers."""

import numpy as np
import pytest
import tensorflow as tf
from cases import (
    CASES,
    PROXIMAL,
    applicable,
    hessian_times,
    others_slow,
    value_and_gradient,
    weight,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import in_turn

import tfreg
from tfreg.compute import cpu, policy, reductions
from tfreg.compute.direct import root_of_norm
from tfreg.compute.reductions import total
from tfreg.groups import Groups
from tfreg.layout import Layout

pytestmark = pytest.mark.usefixtures("a_trace_for_every_shape")

MODES = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": lambda function: tf.function(function, jit_compile=True),
}


DEVICES = reductions.DEVICES
# Runs of rows and of columns that fit a TPU's tiles, and others.
SHAPES = [(48, 7), (2, 3, 24, 16)]


OTHERS = [device for device in DEVICES if device != "CPU"]


@pytest.fixture
def device(name):
    """Has kernels compiled for the device of that name, for one test."""
    tfreg.kernels.set_device(name)
    yield name
    tfreg.kernels.set_device(None)


def on_others(**parameters):
    """As `in_turn`, on each device that is no CPU."""
    return in_turn(**parameters, name=OTHERS)


@pytest.fixture
def on_device(device):
    """Compiles a function as it would run on the device: a TPU has XLA alone."""
    return MODES["xla" if device == "TPU" else "graph"]


def on_cpu(function, *arguments):
    """What `function` returns where kernels are compiled for a CPU."""
    device = policy._device
    tfreg.kernels.set_device("CPU")
    try:
        return function(*arguments)
    finally:
        tfreg.kernels.set_device(device)


@on_others(case_and_shape=others_slow(applicable(CASES, SHAPES)))
def test_every_penalty_on_every_strategy(case_and_shape, on_device):
    case, shape = case_and_shape
    w = tf.constant(weight(shape))
    value, gradient = on_device(lambda w: value_and_gradient(case.penalty, w))(w)
    np.testing.assert_allclose(value, case.oracle(w.numpy()), rtol=1e-12)
    _, expected = on_cpu(value_and_gradient, case.penalty, w)
    np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@on_others(case_and_shape=others_slow(applicable(CASES, SHAPES)))
def test_second_derivatives_on_every_strategy(case_and_shape, on_device):
    case, shape = case_and_shape
    w, direction = tf.constant(weight(shape)), weight(shape, seed=1)
    product = on_device(lambda w: hessian_times(case.penalty, w, direction))(w)
    expected = on_cpu(hessian_times, case.penalty, w, direction)
    np.testing.assert_allclose(product, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.slow
@on_others(case=others_slow(c for c in CASES if c.min_rank <= 4 and "Group" in str(c)))
def test_eager_derivatives_on_every_strategy(case, device):
    # Groups whose norms some devices keep and others compute again.
    shape = (2, 3, 2, 7)
    w, direction = tf.constant(weight(shape)), weight(shape, seed=1)
    _, gradient = value_and_gradient(case.penalty, w)
    product = hessian_times(case.penalty, w, direction)
    _, expected = on_cpu(value_and_gradient, case.penalty, w)
    np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-12)
    expected = on_cpu(hessian_times, case.penalty, w, direction)
    np.testing.assert_allclose(product, expected, rtol=1e-8, atol=1e-9)


@on_others(case_and_shape=others_slow(applicable(PROXIMAL, SHAPES)))
def test_every_prox_on_every_strategy(case_and_shape, on_device):
    case, shape = case_and_shape
    w = tf.constant(weight(shape, "float32"))
    actual = on_device(lambda w: case.penalty.prox(w, 0.7))(w)
    expected = on_cpu(case.penalty.prox, w, 0.7)
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=1e-7)
    np.testing.assert_array_equal(actual == 0.0, expected == 0.0)


@on_others(
    case=others_slow(case for case in CASES if case.min_rank <= 4), dtype=["bfloat16", "float32"]
)
def test_every_dtype_on_every_strategy(case, dtype, device):
    w = tf.cast(tf.constant(weight((2, 3, 24, 16))), dtype)
    value, gradient = tf.function(lambda w: value_and_gradient(case.penalty, w))(w)
    expected, expected_gradient = on_cpu(value_and_gradient, case.penalty, w)
    assert value.dtype == expected.dtype and gradient.dtype == w.dtype
    np.testing.assert_allclose(value, expected, rtol=2e-6)
    eps = 2**-7 if dtype == "bfloat16" else 1e-5
    np.testing.assert_allclose(
        tf.cast(gradient, "float64"), tf.cast(expected_gradient, "float64"), rtol=eps, atol=1e-6
    )


@on_others(case=others_slow(c for c in CASES if c.min_rank <= 3 and "Prior" not in str(c)))
def test_extremes_on_every_strategy(case, on_device):
    def both(w):
        return value_and_gradient(case.penalty, w)

    compiled = on_device(both)
    for extreme in (0.0, 1e-30, 1e-18, 1e18, 1e30, 1.5e38, np.inf, -np.inf, np.nan):
        w = weight((2, 24, 16), "float32")
        w[0, 3:9, 2:5] = extreme
        w[1] *= np.float32(1e-30) if abs(extreme) < 1.0 else 1.0
        value, gradient = compiled(tf.constant(w))
        expected, expected_gradient = on_cpu(both, tf.constant(w))
        np.testing.assert_allclose(value, expected, rtol=3e-6)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 4), max_size=2),
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.booleans(), st.booleans()),
    st.tuples(*[st.none() | st.integers(1, 50)] * 4),
    st.integers(1, 15),
)
def test_groups_on_a_tpu_are_those_of_a_cpu(before, last, sizes, spanned):
    rows, columns, aligned_rows, aligned_columns = last
    shape = (*before, rows * (8 if aligned_rows else 3), columns * (8 if aligned_columns else 3))
    axis = tuple(a for a in range(len(shape)) if spanned >> a & 1) or (0,)
    groups = Groups(axis, sizes[: len(axis)]).resolve(Layout.positional(len(shape)))
    w = np.random.default_rng(0).normal(size=shape).astype("float32")
    w[..., : shape[-1] // 2] *= np.float32(1e-25)
    w.flat[0] = 0.0
    w = tf.constant(w)

    def everything():
        norms = groups.norm(w)
        listed = groups.listed(norms, w)
        return (
            groups.total(groups.sizes(w) * norms, w),
            listed,
            groups.listed_sizes(w),
            tf.broadcast_to(groups.spread(norms, w), shape),
            groups.direction(w, groups.sizes(w), 0.5),
            groups.scale(groups.grid_of(listed, w), w),
        )

    expected = everything()
    for device in ("GPU", "TPU"):
        with reductions.using(reductions.strategy_for(w.shape, device)):
            for actual, right in zip(everything(), expected, strict=True):
                np.testing.assert_allclose(actual, right, rtol=3e-6, atol=1e-30)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_norm_neither_overflows_nor_underflows(dtype):
    limits = np.finfo(dtype)
    x = np.random.default_rng(0).uniform(0.1, 1.0, size=(50, 9)).astype(dtype)
    x *= np.geomspace(limits.tiny * 20, limits.max / 50, 9).astype(dtype)
    x[1:, 4] = 0.0
    expected = np.linalg.norm(x / x.max(axis=0), axis=0) * x.max(axis=0)
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        norm = tf.square(root_of_norm(x, 0))
    np.testing.assert_allclose(norm, expected, rtol=2e-6 if dtype == "float32" else 1e-13)
    np.testing.assert_allclose(tape.gradient(norm, x), x / norm, rtol=2e-6, atol=1e-30)
    assert root_of_norm(tf.zeros([3], dtype), 0) == 0.0


def test_the_device_is_part_of_the_key_of_a_trace():
    penalty, w = tfreg.GroupLasso(0.5, axis=0, group_size=4), tf.ones([56, 8])
    values = []
    for device in (*DEVICES, None):
        tfreg.kernels.set_device(device)
        values.append(float(penalty(w)))
    np.testing.assert_allclose(values, 56 * 8 / 4 * 0.5 * 4, rtol=1e-6)


@pytest.mark.parametrize("device", ["cpu", "XPU", 1])
def test_an_unknown_device_is_an_error(device):
    with pytest.raises(ValueError, match="`device` must be 'CPU', 'GPU', 'TPU' or None.*Received"):
        tfreg.kernels.set_device(device)


SMALL_SHAPES = [(), (5,), (4097,), (3, 5000), (70, 4096), (5000, 1), (0,), (2, 0)]
# Those that are summed in short runs: along rows and flattened, with and without a rest of either.
LARGE_SHAPES = [(2**19,), (2**18 + 5,), (601, 600), (64, 2, 2048), (3, 2**18 + 1), (2**18, 3)]


@pytest.mark.parametrize("shape", SMALL_SHAPES + LARGE_SHAPES)
def test_total_is_the_sum(shape):
    x = np.random.default_rng(0).normal(0.5, size=shape)
    for function in [total, tf.function(total, jit_compile=True)]:
        np.testing.assert_allclose(function(tf.constant(x)), x.sum(), rtol=1e-12)


@in_turn(
    shape_and_function=[
        (shape, function)
        for function in (total, cpu.sum_of_partials)
        for shape in [s for s in SMALL_SHAPES if 0 not in s] + LARGE_SHAPES
    ],
    mode=MODES,
    dtype=["float32", "float64"],
)
def test_sums_hide_nothing_that_is_not_finite(shape_and_function, dtype, mode):
    shape, function = shape_and_function
    compiled = MODES[mode](function)
    x = np.ones(shape, dtype)
    for place in (0, x.size // 2, -1):
        for bad in (np.inf, -np.inf, np.nan):
            x.flat[place] = bad
            np.testing.assert_equal(compiled(tf.constant(x)).numpy(), x.dtype.type(bad))
        x.flat[place] = 1.0
    np.testing.assert_allclose(compiled(tf.constant(x)), x.size, rtol=1e-6)


@in_turn(shape=[(2, 5, 3), (1, 2**19, 1), (2, 2**18 + 5, 1), (3, 2**12 + 1, 70)], mode=MODES)
def test_sums_of_squares_hide_nothing_that_is_not_finite(shape, mode):
    compiled = MODES[mode](cpu.sums_of_squares)
    x = np.ones(shape, "float32")
    for place in (0, x.size // 2, -1):
        for bad, expected in ((np.inf, np.inf), (-np.inf, np.inf), (np.nan, np.nan)):
            x.flat[place] = bad
            sums = np.where(np.isfinite(x).all(axis=1, keepdims=True), shape[1], expected)
            np.testing.assert_allclose(compiled(tf.constant(x)), sums, rtol=1e-6)
        x.flat[place] = 1.0


def test_total_under_xla_is_as_right_as_pairwise_summation():
    for shape in [(4096, 1024), (2**22,), (4, 2**20), (2**21, 2)]:
        x = np.random.default_rng(0).uniform(size=shape).astype("float32")
        value = tf.function(total, jit_compile=True)(tf.constant(x))
        np.testing.assert_allclose(value, x.sum(dtype="float64"), rtol=5e-7)
