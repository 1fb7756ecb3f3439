"""Compilation: traces, the policy, accumulation."""

import threading
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfreg
from tfreg import kernels


@pytest.fixture
def ridge():
    """A kernel of its own, and the list of the shapes for which its value was traced."""
    traced = []

    @kernels.kernel
    def ridge(w, power=2):
        traced.append(w.shape)
        return kernels.total(tf.abs(w) ** power)

    @ridge.gradient
    def _(w, power=2):
        return power * tf.sign(w) * tf.abs(w) ** (power - 1)

    return ridge, traced


def test_strengths_share_one_trace(ridge):
    function, traced = ridge
    for factor in [0.1, 0.2, 3.0, tf.constant(4.0)]:
        value = function(tf.ones([3, 2]), factor=factor)
        np.testing.assert_allclose(value, 6 * float(factor), rtol=1e-6)
    assert len(traced) == 1


def test_one_trace_for_each_shape_dtype_and_static_parameter(ridge):
    function, traced = ridge
    for _ in range(3):
        for shape, dtype, power in [
            ([2], "float32", 2),
            ([3], "float32", 2),
            ([3], "float64", 2),
            ([3], "float64", 3),
        ]:
            function(tf.ones(shape, dtype), factor=1.0, power=power)
    assert len(traced) == 4


@pytest.mark.parametrize("case", [(tfreg.GroupLasso, {}), (tfreg.BoxPenalty, {"lower": -0.5})])
def test_penalties_that_differ_in_a_number_share_one_trace(case, monkeypatch):
    penalty, arguments = case
    traces = []
    original = kernels.Compiled._trace

    def counted(self, *rest):
        traces.append(self)
        return original(self, *rest)

    monkeypatch.setattr(kernels.Compiled, "_trace", counted)
    w = tf.Variable(tf.ones([11, 13]))
    for factor in np.linspace(0.1, 1.0, 20):
        with tf.GradientTape() as tape:
            value = penalty(float(factor), **arguments)(w)
        tape.gradient(value, w)
    assert len(traces) == 1


def test_a_layer_called_for_a_thousand_steps_traces_once(monkeypatch):
    traces = []
    original = kernels.Compiled._trace
    monkeypatch.setattr(
        kernels.Compiled, "_trace", lambda *args: traces.append(args) or original(*args)
    )
    layer = keras.layers.Dense(17, kernel_regularizer=tfreg.TotalVariation(0.1))
    layer.build((None, 19))
    for _ in range(1000):
        layer.kernel.assign_add(tf.ones([19, 17]))
        layer.losses
    assert len(traces) == 1


def test_ever_new_shapes_do_not_fill_the_memory(ridge, monkeypatch):
    function, traced = ridge
    monkeypatch.setattr(kernels, "MAX_STATIC_TRACES", 5)
    for size in range(1, 30):
        w = tf.fill([size, 2], 2.0)
        with tf.GradientTape() as tape:
            tape.watch(w)
            value = function(w, factor=1.0)
        assert float(value) == 8 * size
        np.testing.assert_array_equal(tape.gradient(value, w), 2 * w)
    assert len(traced) == 6 and traced[-1].as_list() == [None, None]


def test_the_device_of_the_first_caller_does_not_stick_to_a_trace(ridge):
    function, _ = ridge
    with tf.device("/CPU:1"):
        function(tf.ones([3]), factor=1.0)
    [trace] = function._differentiable._traces.values()
    assert {operation.device for operation in trace.graph.get_operations()} == {""}


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_thousand_steps_of_fit_trace_once(api, run_eagerly, monkeypatch):
    traces = []
    original = kernels.Compiled._trace
    monkeypatch.setattr(
        kernels.Compiled, "_trace", lambda *args: traces.append(args) or original(*args)
    )
    penalty = tfreg.GroupLasso(0.1, axis=0, group_size=2 if run_eagerly else 4)
    width = 23 if api.__name__ == "keras" else 29
    model = api.Sequential([api.Input((3,)), api.layers.Dense(width, kernel_regularizer=penalty)])
    model.compile("sgd", "mse", run_eagerly=run_eagerly)
    steps = 100 if run_eagerly else 1000
    model.fit(np.ones((steps, 3)), np.ones((steps, width)), batch_size=1, verbose=0)
    # In a graph the value's and the gradient's.
    assert len(traces) == (1 if run_eagerly else 2)


def test_many_threads_agree():
    w = tf.ones([23, 29])
    values = []
    threads = [
        threading.Thread(target=lambda: values.append(float(tfreg.GroupLasso(1.0)(w))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(values) == 8 and len(set(values)) == 1


def test_the_gradient_of_the_factor(ridge):
    function, _ = ridge
    factor = tf.Variable(0.5)
    with tf.GradientTape() as tape:
        value = function(tf.fill([3], 2.0), factor=factor)
    assert float(tape.gradient(value, factor)) == 12.0


def test_half_types_are_accumulated_in_float32(ridge):
    function, _ = ridge
    w = tf.cast(tf.fill([1000, 100], 200.0), "float16")
    value = function(w, factor=1.0)
    assert value.dtype == tf.float32
    np.testing.assert_allclose(value, 1e5 * 200**2, rtol=1e-6)
    assert function(tf.cast(w, "bfloat16"), factor=1.0).dtype == tf.float32
    assert function(tf.cast(w, "float64"), factor=1.0).dtype == tf.float64


def compiled_by_xla(function, *args):
    """Whether the graph of `function` asks for a nested compilation by XLA."""
    graph = tf.function(function).get_concrete_function(*args).graph.as_graph_def()
    return any(
        "_XlaMustCompile" in f.attr and f.attr["_XlaMustCompile"].b for f in graph.library.function
    )


SMALL = tf.TensorSpec([64, 64])
LARGE = tf.TensorSpec([kernels.XLA_MIN_ELEMENTS // 64, 64])


def test_policy(jit):
    penalty = tfreg.BoxPenalty()
    assert not compiled_by_xla(penalty, SMALL)
    assert compiled_by_xla(penalty, LARGE)
    assert not compiled_by_xla(penalty, tf.TensorSpec([None, 64]))
    jit(True)
    assert compiled_by_xla(penalty, SMALL)
    jit(False)
    assert not compiled_by_xla(penalty, LARGE)
    jit("auto")
    assert not compiled_by_xla(penalty, SMALL)


def test_without_xla_auto_falls_back_with_one_warning(monkeypatch):
    def no_compiler(device_name):
        return False

    monkeypatch.setattr(kernels, "_xla_compiles_on", no_compiler)
    kernels._xla_available.cache_clear()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert not compiled_by_xla(tfreg.BoxPenalty(), LARGE)
            assert not compiled_by_xla(tfreg.GroupLasso(), LARGE)
        assert [w for w in caught if "XLA has no compiler" in str(w.message)] == caught[:1]
        assert np.isfinite(tfreg.BoxPenalty()(tf.ones(LARGE.shape)))
    finally:
        kernels._xla_available.cache_clear()


def test_the_probe_finds_xla_on_this_cpu():
    assert kernels._xla_compiles_on("/CPU:0")


SMALL_SHAPES = [(), (5,), (4097,), (3, 5000), (70, 4096), (5000, 1), (0,), (2, 0)]
# Those that are summed in short runs: along rows and flattened, with and without a rest of either.
LARGE_SHAPES = [(2**19,), (2**18 + 5,), (601, 600), (64, 2, 2048), (3, 2**18 + 1), (2**18, 3)]


@pytest.mark.parametrize("shape", SMALL_SHAPES + LARGE_SHAPES)
def test_total_is_the_sum(shape):
    x = np.random.default_rng(0).normal(0.5, size=shape)
    for function in [kernels.total, tf.function(kernels.total, jit_compile=True)]:
        np.testing.assert_allclose(function(tf.constant(x)), x.sum(), rtol=1e-12)


MODES = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": lambda function: tf.function(function, jit_compile=True),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("function", [kernels.total, kernels.total_of_sums])
@pytest.mark.parametrize("shape", [s for s in SMALL_SHAPES if 0 not in s] + LARGE_SHAPES)
def test_sums_hide_nothing_that_is_not_finite(shape, function, dtype, mode):
    compiled = MODES[mode](function)
    x = np.ones(shape, dtype)
    for place in (0, x.size // 2, -1):
        for bad in (np.inf, -np.inf, np.nan):
            x.flat[place] = bad
            np.testing.assert_equal(compiled(tf.constant(x)).numpy(), x.dtype.type(bad))
        x.flat[place] = 1.0
    np.testing.assert_allclose(compiled(tf.constant(x)), x.size, rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 2**19, 1), (2, 2**18 + 5, 1), (3, 2**12 + 1, 70)])
def test_sums_of_squares_hide_nothing_that_is_not_finite(shape, mode):
    compiled = MODES[mode](kernels.middle_sum_of_squares)
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
        value = tf.function(kernels.total, jit_compile=True)(tf.constant(x))
        np.testing.assert_allclose(value, x.sum(dtype="float64"), rtol=5e-7)


@pytest.mark.parametrize("jit_compile", [None, False, True])
def test_signum_does_not_hide_infinity(jit_compile):
    x = tf.constant([-2.0, -0.0, 0.0, 3.0, np.inf, -np.inf, np.nan])
    function = kernels.signum
    if jit_compile is not None:
        function = tf.function(function, jit_compile=jit_compile)
    np.testing.assert_array_equal(function(x), [-1, 0, 0, 1, np.nan, np.nan, np.nan])


def test_signum_has_no_slope():
    x = tf.constant([-2.0, 0.0, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        sign = kernels.signum(x)
    slope = tape.gradient(sign, x)
    np.testing.assert_array_equal(slope, [0, 0, 0])


def test_autograph_leaves_penalties_alone(caplog):
    @tf.function
    def step(w):
        return tfreg.BoxPenalty()(w) + tfreg.TotalVariation()(w)

    step(tf.ones([3, 3]))
    assert "AutoGraph" not in caplog.text
