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


def test_a_name_of_tfregs_own_is_refused():
    with pytest.raises(ValueError, match="another name.*GroupLasso"):

        @tfreg.register
        class GroupLasso(tfreg.Elementwise):
            def f(w):
                return w

            def df(w):
                return w


@pytest.mark.parametrize(
    "body, message",
    [
        ({"f": lambda w: w}, "must define.*`df"),
        ({"f": lambda w, a: w, "df": lambda w: w}, "same further parameters"),
        (
            {"f": lambda w: w, "df": lambda w: w, "argmin": lambda w, strength, a: w},
            "same further parameters",
        ),
        ({"f": lambda w, a: w, "df": lambda w, a: w}, r"constructor.*\['a'\]"),
    ],
)
def test_a_class_that_cannot_work_is_refused_as_it_is_made(body, message):
    with pytest.raises(TypeError, match=message):
        type("Wrong", (tfreg.Elementwise,), body)


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
    ],
    ids=repr,
)
def test_what_is_no_array_of_finite_numbers_is_refused(center, error):
    with pytest.raises(error, match="`center` must be a finite number, or an array of those. Rec"):
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
