"""Elementwise: penalties that are sums over elements, tfreg's own and a user's."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from cases import PROXIMAL, value_and_gradient
from skglm import penalties as skglm

import tfreg

WEIGHTS = np.random.default_rng(0).normal(0.0, 2.0, size=200)
ELEMENTWISE = [case for case in PROXIMAL if isinstance(case.penalty, tfreg.Elementwise)]


@tfreg.register
class Quartic(tfreg.Elementwise):
    """`factor * sum_i (w_i^4 + shift)`"""

    def __init__(self, factor=0.01, shift=0.0):
        super().__init__(factor)
        self.shift = float(shift)

    def f(w, shift):
        return w**4 + shift

    def df(w, shift):
        return 4.0 * w**3


@pytest.mark.parametrize("alpha, threshold, step", [(0.3, 1.5, 0.7), (0.5, 0.9, 1.0)])
def test_mcp_is_skglms(alpha, threshold, step):
    theirs, ours = skglm.MCPenalty(alpha, threshold / alpha), tfreg.MCP(alpha, threshold)
    np.testing.assert_allclose(ours(WEIGHTS), theirs.value(WEIGHTS), rtol=1e-12)
    expected = [theirs.prox_1d(w, step, 0) for w in WEIGHTS]
    np.testing.assert_allclose(ours.prox(WEIGHTS, step), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("alpha, gamma, step", [(0.5, 3.7, 0.7), (0.5, 3.7, 1.0), (0.9, 2.5, 1.2)])
def test_scad_is_skglms(alpha, gamma, step):
    theirs = skglm.SCAD(alpha, gamma)
    ours = tfreg.SCAD(alpha, knee=alpha, threshold=gamma * alpha)
    np.testing.assert_allclose(ours(WEIGHTS), theirs.value(WEIGHTS), rtol=1e-12)
    expected = [theirs.prox_1d(w, step, 0) for w in WEIGHTS]
    np.testing.assert_allclose(ours.prox(WEIGHTS, step), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("alpha, threshold, step", [(0.3, 2.5, 0.7), (0.5, 2.0, 1.0)])
def test_group_mcp_is_skglms(alpha, threshold, step):
    rows = WEIGHTS.reshape(50, 4)
    theirs = skglm.BlockMCPenalty(alpha, threshold / alpha)
    ours = tfreg.GroupMCP(alpha, threshold, axis=1, size_weighted=False)
    np.testing.assert_allclose(ours(rows), theirs.value(rows), rtol=1e-12)
    expected = [theirs.prox_1feat(row, step, 0) for row in rows]
    np.testing.assert_allclose(ours.prox(rows, step), expected, rtol=1e-12, atol=1e-15)


# Convex or not: up to steps at which a penalty only keeps or drops a weight.
@pytest.mark.parametrize("step_size", [0.03, 1.0, 3.0, 5.0, 9.0, 30.0])
@pytest.mark.parametrize("case", ELEMENTWISE, ids=str)
def test_prox_is_the_minimum_on_a_grid(case, step_size):
    grid = np.linspace(-8.0, 8.0, 160_001)
    on_grid = np.array([case.oracle(np.array([x])) for x in grid[::40]])
    for w in (-5.0, -1.4, -0.3, 0.0, 0.2, 0.9, 1.6, 2.5, 6.0):
        found = float(case.penalty.prox(tf.constant([w], tf.float64), step_size)[0])
        least = np.min(0.5 * (grid[::40] - w) ** 2 + step_size * on_grid)
        at_found = 0.5 * (found - w) ** 2 + step_size * case.oracle(np.array([found]))
        assert at_found <= least + 1e-9


def test_a_users_penalty_is_a_regularizer_like_any_other(api, tmp_path):
    penalty = Quartic(0.5, shift=1.0)
    layer = api.layers.Dense(3, kernel_regularizer=penalty)
    model = api.Sequential([api.Input((2,)), layer])
    kernel = np.asarray(layer.kernel, "float64")
    np.testing.assert_allclose(model.losses, [0.5 * np.sum(kernel**4 + 1.0)], rtol=1e-5)
    model.save(tmp_path / "model.keras")
    again = api.models.load_model(tmp_path / "model.keras")
    assert again.layers[-1].kernel_regularizer.get_config() == {"factor": 0.5, "shift": 1.0}
    assert repr(tfreg.get("quartic")) == "Quartic(factor=0.01, shift=0.0)"
    with pytest.raises(NotImplementedError, match="Quartic has no proximal operator"):
        penalty.prox(tf.ones([2]), 0.1)
    with pytest.raises(AttributeError, match="`shift` of Quartic cannot be changed"):
        penalty.shift = 2.0


def test_parameters_share_one_trace(monkeypatch):
    from tfreg.compute import kernels

    traces, trace = [], kernels.Compiled._trace
    monkeypatch.setattr(
        kernels.Compiled, "_trace", lambda *args: traces.append(args) or trace(*args)
    )
    for i in range(3):
        value_and_gradient(Quartic(0.1 + i, shift=float(i)), tf.ones([7, 5]))
    assert len(traces) == 1


def test_a_class_that_is_defined_again_takes_the_place_of_the_first():
    def define(value):
        @tfreg.register
        class Twice(tfreg.Elementwise):
            def f(w):
                return value * w

            def df(w):
                return value * tf.ones_like(w)

        return Twice

    first, second = define(1.0), define(2.0)
    assert type(tfreg.get("twice")) is second is not first
    for api in (keras, tf_keras):
        serialized = api.regularizers.serialize(second(1.0))
        assert type(api.regularizers.get(serialized)) is second
    assert float(first(1.0)(tf.ones([2]))) == 2.0 and float(second(1.0)(tf.ones([2]))) == 4.0


LINE = {"f": lambda w: w, "df": lambda w: tf.ones_like(w)}


def named(name, module, **body):
    return type(name, (tfreg.Elementwise,), {**LINE, "__module__": module, **body})


@pytest.mark.parametrize("name", ["GroupLasso", "Mcp"])
def test_a_name_of_tfregs_own_is_refused(name):
    with pytest.raises(ValueError, match="another name.*GroupLasso|another name.*MCP"):
        tfreg.register(named(name, "users"))


def test_a_name_of_another_library_is_refused():
    tfreg.register(named("Line", "library_a"))
    with pytest.raises(ValueError, match="another name.*library_a"):
        tfreg.register(named("Line", "library_b"))
    with pytest.raises(ValueError, match="name that tf_keras.regularizers does not have.*L2"):
        tfreg.register(named("L2", "users"))
    l2 = {"class_name": "L2", "config": {"l2": 0.5}}
    assert isinstance(tf_keras.regularizers.get(l2), tf_keras.regularizers.L2)


def test_a_subclass_with_another_f_has_no_prox_of_the_old_one():
    class Quartic(tfreg.BoxPenalty):
        def f(w, lower, upper):
            return w**4

        def df(w, lower, upper):
            return 4.0 * w**3

    with pytest.raises(NotImplementedError):
        Quartic().prox(tf.ones([2]), 0.1)


def test_a_value_of_ones_own_is_not_taken_for_a_sum():
    class Root(tfreg.BoxPenalty):
        def compute_value(self, tensor, layout):
            return tf.sqrt(super().compute_value(tensor, layout))

    layers = [keras.layers.Dense(2, use_bias=False), keras.layers.Dense(2, use_bias=False)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    for layer in layers:
        layer.kernel.assign(3.0 * tf.ones([2, 2]))
    tfreg.add_penalty(model, Root(1.0, -1.0, 1.0))
    np.testing.assert_allclose(model.losses, [8.0])


@pytest.mark.parametrize(
    "body, message",
    [
        ({"f": lambda w: w}, "`f` and `df` together"),
        ({"f": lambda w, a: w, "df": lambda w: w}, "same further parameters"),
        (
            {"f": lambda w: w, "df": lambda w: w, "argmin": lambda w, strength, a: w},
            "same further parameters",
        ),
        ({"f": lambda w, a: w, "df": lambda w, a: w}, r"constructor.*\['a'\]"),
        ({"argmin": lambda w, strength: w}, "must define"),
        (
            {"f": lambda w, weight: w, "df": lambda w, weight: w},
            r"other names.*Received: \['weight'\]",
        ),
        ({"f": lambda self, w: w, "df": lambda self, w: w}, r"no `self`.*Received: \['w'\]"),
        ({"_value": lambda self, tensor, layout: 0.0}, "`_value` of Wrong is now called"),
    ],
)
def test_a_class_that_cannot_work_is_refused_as_it_is_made(body, message):
    with pytest.raises(TypeError, match=message):
        type("Wrong", (tfreg.Elementwise,), body)


def test_a_subclass_must_change_f_and_df_together():
    with pytest.raises(TypeError, match="`f` and `df` together"):
        type("Wrong", (tfreg.MCP,), {"f": lambda w, threshold: w})
    with pytest.raises(TypeError, match="same further parameters"):
        type("Wrong", (tfreg.MCP,), {"argmin": lambda w, strength: w})


@pytest.mark.parametrize("name", ["f", "df"])
def test_what_has_not_the_shape_of_the_weight_is_refused(name):
    wrong = named("Wrong", "users", **{name: lambda w: tf.reduce_max(w)})
    with pytest.raises(ValueError, match=f"`{name}` of Wrong must return.*shape of `w`"):
        value_and_gradient(wrong(), tf.ones([3, 2]))


def test_without_f_a_class_says_what_it_lacks():
    class Nothing(tfreg.Elementwise):
        pass

    with pytest.raises(NotImplementedError, match=r"must define `f\(w, ...\)`"):
        Nothing()(tf.ones([2]))


def test_an_array_does_not_repeat_a_weight_of_unknown_shape():
    penalty = tfreg.Quadratic(2.0, center=[1.0, 2.0, 3.0])
    unknown = tf.TensorSpec([None], tf.float32)
    value = tf.function(penalty, input_signature=[unknown])
    prox = tf.function(lambda w: penalty.prox(w, 1.0), input_signature=[unknown])
    np.testing.assert_allclose(value(tf.zeros([3])), 14.0)
    for function in (value, prox):
        with pytest.raises(tf.errors.InvalidArgumentError, match="must broadcast to the weight"):
            function(tf.zeros([1]))


@pytest.mark.parametrize(
    "build",
    [
        lambda: tfreg.MCP(threshold=1e-46),
        lambda: tfreg.MCP(threshold=1e39),
        lambda: tfreg.GroupMCP(threshold=1e-40),
        lambda: tfreg.SCAD(knee=1.0, threshold=1.0 + 1e-9),
        lambda: tfreg.Quadratic(center=1e39),
        lambda: tfreg.Quadratic(precision=[1.0, 1e39]),
    ],
)
def test_what_float32_does_not_hold_is_refused(build):
    with pytest.raises(ValueError, match="in float32 too"):
        build()


@pytest.mark.parametrize("knee, threshold", [(1.0, 1e8), (1e-3, 1e4), (1.0, 1.0001)])
def test_scad_loses_no_digits(knee, threshold):
    penalty = tfreg.SCAD(1.0, knee, threshold)
    middle = 0.5 * (knee + min(threshold, 20.0 * knee))
    for w in (0.5 * knee, 2.0 * knee, middle, 10.0 * knee, 2.0 * threshold):
        exact = penalty(tf.constant([w], tf.float64))
        np.testing.assert_allclose(penalty(tf.constant([w], tf.float32)), exact, rtol=1e-6)


def test_a_weight_of_precision_0_is_free_even_of_an_infinite_strength():
    penalty = tfreg.Quadratic(1e30, center=[1.0, 1.0], precision=[0.0, 1.0])
    shrunk = penalty.prox(tf.constant([5.0, 5.0]), 1e30)
    np.testing.assert_allclose(shrunk, [5.0, 1.0])


def test_a_weight_of_precision_0_costs_nothing_however_large():
    penalty = tfreg.Quadratic(0.5, precision=[0.0, 1.0])
    assert float(penalty(tf.constant([1e30, 2.0]))) == 1.0


def test_an_array_is_kept_exactly_and_must_fit(api, tmp_path):
    rng = np.random.default_rng(0)
    center, precision = rng.normal(size=(4, 3)).astype("float32"), rng.uniform(size=3)
    penalty = tfreg.Quadratic(0.5, center, precision)
    layer = api.layers.Dense(3, kernel_regularizer=penalty)
    model = api.Sequential([api.Input((4,)), layer])
    for ending in ("keras", "h5"):
        model.save(tmp_path / f"model.{ending}")
        again = api.models.load_model(tmp_path / f"model.{ending}", compile=False)
        loaded = again.layers[-1].kernel_regularizer
        np.testing.assert_array_equal(loaded.center, center)
        np.testing.assert_array_equal(loaded.precision, precision)
        np.testing.assert_allclose(again.losses, model.losses)
    with pytest.raises(ValueError, match=r"`center` must broadcast.*\(4, 3\).*\(4, 2\)"):
        penalty(tf.ones([4, 2]))
    with pytest.raises((AttributeError, ValueError), match="read-only|cannot be changed"):
        penalty.center[0, 0] = 1.0


@pytest.mark.parametrize(
    "center, error",
    [
        ([True], TypeError),
        ([[0.5, np.True_]], TypeError),
        ("1", TypeError),
        (["1"], TypeError),
        ([None], TypeError),
        ([[1.0], [1.0, 2.0]], TypeError),
        ([10**400], ValueError),
        ([np.nan], ValueError),
        (np.array([1 + 2j]), TypeError),
        (np.array(["2020-01-01"], "datetime64[D]"), TypeError),
    ],
    ids=repr,
)
def test_what_is_no_array_of_finite_numbers_is_refused(center, error):
    with pytest.raises(
        error, match="`center` must be a finite number, in float32 too, or an array.*Rec"
    ):
        tfreg.Quadratic(center=center)


@pytest.mark.slow
def test_consolidation_keeps_what_is_precise():
    center, precision = np.array([[1.0], [2.0]]), np.array([[10.0], [0.0]])
    layer = keras.layers.Dense(1, use_bias=False)
    model = keras.Sequential([keras.Input((2,)), layer])
    layer.kernel.assign(center)
    tfreg.add_penalty(model, tfreg.Quadratic(1.0, center, precision))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(np.eye(2), np.zeros((2, 1)), batch_size=2, epochs=100, verbose=0)
    # The data's loss is |w|^2 / 2.
    np.testing.assert_allclose(layer.kernel, [[10.0 / 11.0], [0.0]], atol=1e-3)
