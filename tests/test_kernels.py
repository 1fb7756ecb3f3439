"""Compilation: traces, the policy, accumulation."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
from marks import KERAS_3_FIRST, slow

import tfreg
from tfreg.compute import kernels, policy, reductions


@pytest.fixture
def ridge():
    """A kernel of its own, and the list of the shapes for which its value was traced."""
    traced = []

    @kernels.kernel
    def ridge(w, power=2):
        traced.append(w.shape)
        return reductions.total(tf.abs(w) ** power)

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


@KERAS_3_FIRST
@pytest.mark.parametrize("run_eagerly", [False, slow(True)])
@pytest.mark.usefixtures("a_trace_for_every_shape")
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
LARGE = tf.TensorSpec([policy.XLA_MIN_ELEMENTS // 64, 64])


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

    monkeypatch.setattr(policy, "_xla_compiles_on", no_compiler)
    policy._xla_available.cache_clear()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert not compiled_by_xla(tfreg.BoxPenalty(), LARGE)
            assert not compiled_by_xla(tfreg.GroupLasso(), LARGE)
        assert [w for w in caught if "XLA has no compiler" in str(w.message)] == caught[:1]
        assert np.isfinite(tfreg.BoxPenalty()(tf.ones(LARGE.shape)))
    finally:
        policy._xla_available.cache_clear()


def test_the_probe_finds_xla_on_this_cpu():
    assert policy._xla_compiles_on("/CPU:0")


def test_autograph_leaves_penalties_alone(caplog):
    @tf.function
    def step(w):
        return tfreg.BoxPenalty()(w) + tfreg.TotalVariation()(w)

    step(tf.ones([3, 3]))
    assert "AutoGraph" not in caplog.text
