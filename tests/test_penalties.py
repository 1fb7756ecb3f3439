"""What holds for every penalty, over the table of cases."""

import copy
import json
import pickle

import cases
import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import (
    CASES,
    JOINT_CASES,
    SHAPES,
    TABLE,
    applicable,
    hessian_times,
    others_slow,
    value_and_gradient,
    values_and_gradients,
    weight,
)
from marks import in_turn, slow
from oracles import finite_differences

import tfreg

TOLERANCE = {"float16": 1e-6, "bfloat16": 1e-6, "float32": 2e-6, "float64": 1e-12}
HALF_EPSILON = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 1e-6, "float64": 1e-12}


MODES = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": lambda function: tf.function(function, jit_compile=True),
}
# A trace for each case and mode would take too long to run every time.
FIRST_OF_EACH_ROW = others_slow(CASES)
PROXIMAL = others_slow(cases.PROXIMAL)
METRIC = others_slow(cases.METRIC)
EAGER_FIRST = pytest.mark.parametrize("mode", ["eager", slow("graph"), slow("xla")])


def test_every_public_penalty_is_in_the_tables():
    public = {getattr(tfreg, name) for name in tfreg.penalties.__all__ if name[0].isupper()}
    public -= {tfreg.Penalty, tfreg.Elementwise}
    tables = {
        "TABLE of tests/cases.py": (
            public - {tfreg.Sum, tfreg.Joint},
            [case.penalty for row in TABLE for case in row.cases],
        ),
        "JOINT_CASES of tests/cases.py": (
            {type(case.penalty) for case in CASES if takes_several_weights(case.penalty)},
            [case.penalty.penalty for case in JOINT_CASES],
        ),
    }
    missing = [
        f"{penalty.__name__}: add it to {table}"
        for table, (needed, there) in tables.items()
        for penalty in sorted(needed - set(map(type, there)), key=str)
    ]
    missing += [
        f"{type(row.cases[0].penalty).__name__}: add values of {name!r} to the `choices` of its row"
        for row in TABLE
        if not isinstance(row.cases[0].penalty, tfreg.Prior)
        for name in row.cases[0].penalty.get_config()
        if name not in ("factor", *row.choices)
    ]
    assert not missing, "\n".join(missing)


def takes_several_weights(penalty):
    try:
        tfreg.Joint(penalty)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    "case, shape",
    applicable(CASES, SHAPES[-1:]) + others_slow(applicable(CASES, SHAPES[:-1])),
    ids=str,
)
def test_value_is_the_oracles(case, shape):
    w = weight(shape)
    value = case.penalty(tf.constant(w))
    assert value.dtype == tf.float64 and value.shape == []
    np.testing.assert_allclose(value, case.oracle(w), rtol=1e-12)


@pytest.mark.parametrize(
    "case, shape", others_slow(applicable(CASES, [SHAPES[0], SHAPES[-1]])), ids=str
)
def test_gradient_is_that_of_finite_differences(case, shape):
    w = weight(shape)
    _, gradient = value_and_gradient(case.penalty, tf.constant(w))
    expected = finite_differences(lambda x: float(case.penalty(tf.constant(x))), w)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("case", FIRST_OF_EACH_ROW, ids=str)
def test_eager_graph_and_xla_agree_in_every_dtype(case):
    weights = [tf.cast(weight((3, 4, 3, 2, 2)), dtype) for dtype in TOLERANCE]
    exact = values_and_gradients(case.penalty, [tf.cast(w, tf.float64) for w in weights])
    for mode in MODES.values():
        results = mode(lambda *weights: values_and_gradients(case.penalty, weights))(*weights)
        for dtype, (value, gradient), (exact_value, exact_gradient) in zip(
            TOLERANCE, results, exact, strict=True
        ):
            assert value.dtype == ("float64" if dtype == "float64" else "float32")
            assert gradient.dtype == dtype
            np.testing.assert_allclose(value, exact_value, TOLERANCE[dtype], err_msg=dtype)
            gradient = tf.cast(gradient, tf.float64)
            np.testing.assert_allclose(
                gradient, exact_gradient, HALF_EPSILON[dtype], atol=5e-7, err_msg=dtype
            )


@EAGER_FIRST
@pytest.mark.parametrize("case", FIRST_OF_EACH_ROW, ids=str)
def test_several_weights_have_the_gradients_of_each(case, mode):
    weights = [tf.constant(weight((3, 4, 3, 2, 2)) + shift) for shift in (0.0, 0.1, -0.3)]

    def together(*weights):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            value = tf.add_n(case.penalty.values_on(weights, [None] * 3))
        return value, tape.gradient(value, weights)

    value, gradients = MODES[mode](together)(*weights)
    values, expected = zip(*[value_and_gradient(case.penalty, w) for w in weights])
    np.testing.assert_allclose(value, sum(values), rtol=1e-12)
    np.testing.assert_allclose(gradients, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", FIRST_OF_EACH_ROW, ids=str)
def test_forced_xla_and_plain_kernels_agree(case, jit):
    w = tf.constant(weight((3, 4, 3, 2, 2), "float32"))
    jit(False)
    plain = value_and_gradient(case.penalty, w)
    jit(True)
    forced = value_and_gradient(case.penalty, w)
    np.testing.assert_allclose(forced[0], plain[0], rtol=2e-6)
    np.testing.assert_allclose(forced[1], plain[1], rtol=1e-5, atol=1e-7)


@EAGER_FIRST
@pytest.mark.parametrize("case", FIRST_OF_EACH_ROW, ids=str)
def test_second_derivatives(case, mode):
    w, direction = weight((3, 4, 3, 2, 2)), weight((3, 4, 3, 2, 2), seed=1)
    product = MODES[mode](lambda x: hessian_times(case.penalty, x, direction))(tf.constant(w))
    step = 1e-6
    _, ahead = value_and_gradient(case.penalty, tf.constant(w + step * direction))
    _, behind = value_and_gradient(case.penalty, tf.constant(w - step * direction))
    np.testing.assert_allclose(product, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-6)


@EAGER_FIRST
@pytest.mark.parametrize("case", FIRST_OF_EACH_ROW, ids=str)
def test_forward_mode(case, mode):
    w, direction = weight((3, 4, 3, 2, 2)), tf.constant(weight((3, 4, 3, 2, 2), seed=1))

    def slope_along_direction(x):
        with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
            value = case.penalty(x)
        return accumulator.jvp(value)

    slope = MODES[mode](slope_along_direction)(tf.constant(w))
    _, gradient = value_and_gradient(case.penalty, tf.constant(w))
    np.testing.assert_allclose(slope, tf.reduce_sum(gradient * direction), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", FIRST_OF_EACH_ROW, ids=str)
def test_at_zero_the_value_gradient_and_second_derivative_are_finite(case):
    w = tf.zeros([3, 4, 3, 2, 2])
    with tf.GradientTape() as outer:
        outer.watch(w)
        value, gradient = value_and_gradient(case.penalty, w)
        norm = tf.reduce_sum(gradient**2)
    second = outer.gradient(norm, w)
    assert np.isfinite(value) and np.isfinite(gradient).all() and np.isfinite(second).all()
    if case.oracle(np.zeros((3, 4, 3, 2, 2))) == 0:
        assert float(value) == 0 and not np.any(gradient)


@pytest.mark.parametrize("case", FIRST_OF_EACH_ROW, ids=str)
def test_vectorized_map(case):
    w = weight((3, 4, 3, 2, 2))
    batch = tf.stack([w, 2 * w, 0 * w])
    np.testing.assert_allclose(
        tf.vectorized_map(case.penalty, batch), [case.penalty(x) for x in batch], rtol=1e-12
    )


@pytest.mark.parametrize("case", FIRST_OF_EACH_ROW, ids=str)
def test_unknown_dimensions(case):
    dynamic = tf.function(
        lambda x: value_and_gradient(case.penalty, x),
        input_signature=[tf.TensorSpec([None] * 5, tf.float64)],
    )
    for shape in [(2, 3, 2, 3, 2), (4, 2, 2, 2, 3), (1, 1, 1, 1, 1), (2, 0, 1, 3, 2)]:
        w = weight(shape)
        value, gradient = dynamic(w)
        expected, expected_gradient = value_and_gradient(case.penalty, tf.constant(w))
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", FIRST_OF_EACH_ROW, ids=str)
def test_an_empty_weight_gives_zero_and_an_empty_gradient(case):
    for shape in [(0, 3, 2, 2, 2), (3, 0, 2, 2, 2), (2, 2, 2, 2, 0)]:
        value, gradient = value_and_gradient(case.penalty, tf.zeros(shape))
        assert float(value) == 0 and gradient.shape == shape
        if case.has_prox:
            assert case.penalty.prox(tf.zeros(shape), 1.0).shape == shape


def entries_that_share_a_term(case, w, index):
    """Where the gradient depends on the entry at `index`, its sign and its size."""
    gradients = []
    for value in case.probes:
        w[index] = value
        gradients.append(value_and_gradient(case.penalty, tf.constant(w))[1])
    return tf.not_equal(*gradients).numpy()


@pytest.mark.parametrize("case", FIRST_OF_EACH_ROW, ids=str)
def test_what_is_not_finite_reaches_the_value_and_its_own_terms_alone(case):
    w, index = weight((6, 5, 2, 2, 6)), (3, 1, 1, 0, 2)
    affected = entries_that_share_a_term(case, w, index)
    assert affected[index] and affected.all() == case.is_one_group
    w[index] = 0.123
    _, reference = value_and_gradient(case.penalty, tf.constant(w))
    diverged = []
    for bad in (np.nan, np.inf, -np.inf):
        w[index] = bad
        diverged.append(w.copy())
    for mode in MODES.values():
        compiled = mode(lambda *weights: values_and_gradients(case.penalty, weights))
        results = compiled(*map(tf.constant, diverged))
        for w, (value, gradient) in zip(diverged, results, strict=True):
            with np.errstate(invalid="ignore"):
                expected = case.oracle(w)
            if np.isfinite(expected):  # infinite on the side of a box that has no bound
                assert np.isfinite(value) and np.isfinite(gradient).all()
                continue
            assert not np.isfinite(value)
            np.testing.assert_array_equal(np.isfinite(gradient), ~affected)
            np.testing.assert_allclose(gradient[~affected], reference[~affected], 1e-9, 1e-15)


@pytest.mark.parametrize("case", FIRST_OF_EACH_ROW, ids=str)
def test_a_finite_weight_raises_no_alarm_of_tensorflows(case):
    w = weight((3, 4, 3, 2, 2))
    w[:2] = 0.0
    tf.debugging.enable_check_numerics()
    try:
        value, gradient = value_and_gradient(case.penalty, tf.constant(w))
    finally:
        tf.debugging.disable_check_numerics()
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_config_round_trip_is_exact_and_json(case):
    config = case.penalty.get_config()
    assert json.loads(json.dumps(config)) == config
    again = type(case.penalty).from_config(config)
    assert again.get_config() == config
    w = tf.constant(weight((3, 4, 3, 2, 2)))
    assert float(again(w)) == float(case.penalty(w))


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_deepcopy_and_pickle(case, copy_of):
    again = copy_of(case.penalty)
    assert again is not case.penalty
    w = tf.constant(weight((3, 4, 3, 2, 2)))
    assert float(again(w)) == float(case.penalty(w))
    assert again.get_config() == case.penalty.get_config()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_keras_resolves_and_serializes_it(case, api):
    serialized = api.regularizers.serialize(case.penalty)
    again = api.regularizers.get(json.loads(json.dumps(serialized)))
    assert type(again) is type(case.penalty)
    assert again.get_config() == case.penalty.get_config()
    name = f"tfreg>{type(case.penalty).__name__}"
    again = api.regularizers.get({"class_name": name, "config": case.penalty.get_config()})
    assert again.get_config() == case.penalty.get_config()


@pytest.mark.parametrize("case", FIRST_OF_EACH_ROW, ids=str)
def test_a_variable_of_either_keras_is_a_weight(case):
    w = weight((3, 4, 3, 2, 2), "float32")
    expected = case.oracle(w)
    for variable in [keras.Variable(w), tf.Variable(w), tf.constant(w), w]:
        np.testing.assert_allclose(case.penalty(variable), expected, rtol=2e-6)
    assert case.penalty(keras.Variable(w.astype("float64"), dtype="float64")).dtype == tf.float32


def sharded(w, *cuts):
    parts = [tf.Variable(part, name="kernel") for part in np.split(w, cuts)]
    return tf.__internal__.distribute.ShardedVariable(parts, name="kernel")


@EAGER_FIRST
@pytest.mark.parametrize("case", FIRST_OF_EACH_ROW, ids=str)
def test_the_shards_of_a_weight_are_penalized_as_the_whole(case, mode):
    w = weight((5, 4, 3, 2, 3))
    whole = sharded(w, 2, 3)
    expected, gradient = value_and_gradient(case.penalty, tf.constant(w))
    for asked_for in ([whole], whole.variables):

        def from_shards():
            with tf.GradientTape() as tape:
                value = tf.add_n([case.penalty(variable) for variable in asked_for])
            return value, tape.gradient(value, whole.variables)

        value, gradients = MODES[mode](from_shards)()
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        np.testing.assert_allclose(np.concatenate(gradients), gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("case", PROXIMAL, ids=str)
def test_prox_is_of_a_whole_weight_and_no_shard(case):
    w = weight((5, 4, 3, 2, 3))
    whole = sharded(w, 2)
    expected = case.penalty.prox(tf.constant(w), 0.3)
    np.testing.assert_array_equal(case.penalty.prox(whole, 0.3), expected)
    with pytest.raises(ValueError, match="whole weight.*kernel.*is a shard"):
        case.penalty.prox(whole.variables[0], 0.3)


def test_a_shard_whose_weight_is_gone_is_refused():
    [first, _] = sharded(weight((4, 3)), 2).variables
    with pytest.raises(ValueError, match="is gone: keep a reference"):
        tfreg.GroupLasso()(first)


@in_turn(case=PROXIMAL, dtype=TOLERANCE)
def test_prox_in_every_dtype(case, dtype):
    w = tf.cast(tf.constant(weight((3, 4, 3, 2, 2))), dtype)
    shrunk = case.penalty.prox(w, 0.5)
    assert shrunk.dtype == dtype and shrunk.shape == w.shape
    exact = case.penalty.prox(tf.cast(w, tf.float64), 0.5)
    np.testing.assert_allclose(
        tf.cast(shrunk, tf.float64), exact, rtol=HALF_EPSILON[dtype], atol=1e-6
    )


@pytest.mark.parametrize("case", PROXIMAL, ids=str)
def test_prox_of_an_enormous_step_is_its_limit(case):
    w = tf.constant(weight((3, 4, 3, 2, 2), "float32"))
    limit = case.penalty.prox(w, 1e12)
    for step_size in [1e37, 3e38, 1e300]:
        np.testing.assert_allclose(case.penalty.prox(w, step_size), limit, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("case", PROXIMAL, ids=str)
def test_prox_does_not_lose_a_step_of_low_precision(case):
    w = tf.constant(weight((3, 4, 3, 2, 2)) * 1e-6)
    tiny = type(case.penalty).from_config({**case.penalty.get_config(), "factor": 1e-5})
    step_size = tf.constant(1e-3, tf.float16)
    expected = tiny.prox(w, float(step_size))
    np.testing.assert_array_equal(tiny.prox(w, step_size), expected)
    traced = tf.function(tiny.prox)(w, step_size)
    np.testing.assert_allclose(traced, expected, rtol=1e-12)


@in_turn(case=PROXIMAL, step_size=[0.05, 0.5, 20.0])
def test_prox_is_no_worse_than_any_point_near_or_far(case, step_size):
    rng = np.random.default_rng(0)
    w = weight((3, 4, 3, 2, 2))

    def objective(x):
        return 0.5 * np.sum((x - w) ** 2) + step_size * float(case.penalty(tf.constant(x)))

    x = case.penalty.prox(tf.constant(w), step_size).numpy()
    candidates = [w, np.zeros_like(w), x * 0.999, x * 1.001, 0.5 * (x + w)]
    for scale in [1e-4, 1e-2, 1.0]:
        candidates += [x + scale * rng.normal(size=w.shape) for _ in range(20)]
        # One entry at a time too: a random direction in many dimensions misses an edge.
        for index in map(tuple, rng.integers(0, w.shape, size=(40, w.ndim))):
            moved = x.copy()
            moved[index] += scale * rng.normal()
            candidates.append(moved)
    best = objective(x)
    for candidate in candidates:
        assert best <= objective(candidate) + 1e-12


@pytest.mark.parametrize("case", PROXIMAL, ids=str)
def test_prox_in_graph_and_xla_with_a_tensor_step(case):
    w = tf.constant(weight((3, 4, 3, 2, 2), "float32"))
    expected = case.penalty.prox(w, 0.25)
    for mode in MODES.values():
        np.testing.assert_allclose(
            mode(case.penalty.prox)(w, tf.constant(0.25)), expected, rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize("case", PROXIMAL, ids=str)
def test_prox_at_strength_zero_is_the_identity_also_at_zero(case):
    for w in [weight((3, 4, 3, 2, 2)), np.zeros((3, 4, 3, 2, 2))]:
        np.testing.assert_array_equal(case.penalty.prox(tf.constant(w), 0.0), w)
        config = {**case.penalty.get_config(), "factor": 0.0}
        unpenalized = type(case.penalty).from_config(config)
        np.testing.assert_array_equal(unpenalized.prox(tf.constant(w), 0.5), w)
        assert float(unpenalized(tf.constant(w))) == 0


@pytest.mark.parametrize("case", PROXIMAL, ids=str)
def test_prox_does_not_hide_nan(case):
    w = np.zeros((3, 4, 3, 2, 2))
    w[1, 2, 1, 1, 1] = np.nan
    assert np.isnan(case.penalty.prox(tf.constant(w), 0.5)[1, 2, 1, 1, 1])


def metric(shape, seed=7):
    """Numbers over five orders of magnitude."""
    return np.exp(2.0 * np.random.default_rng(seed).normal(size=shape))


@in_turn(case=METRIC, step_size=[0.05, 0.5, 20.0])
def test_prox_in_a_metric_is_no_worse_than_any_point_near_or_far(case, step_size):
    rng = np.random.default_rng(0)
    w = weight((3, 4, 3, 2, 2))
    m = metric(w.shape)

    def objective(x):
        return 0.5 * np.sum(m * (x - w) ** 2) + step_size * float(case.penalty(tf.constant(x)))

    x = case.penalty.prox_on(tf.constant(w), None, step_size, tf.constant(m)).numpy()
    candidates = [w, np.zeros_like(w), x * 0.999, x * 1.001, 0.5 * (x + w)]
    candidates += [case.penalty.prox(tf.constant(w), step_size / each) for each in (0.1, 1.0, 9.0)]
    for scale in [1e-4, 1e-2, 1.0]:
        for spread in (1.0, 1.0 / m):
            candidates += [x + scale * spread * rng.normal(size=w.shape) for _ in range(20)]
        for index in map(tuple, rng.integers(0, w.shape, size=(40, w.ndim))):
            moved = x.copy()
            moved[index] += scale * rng.normal()
            candidates.append(moved)
    best = objective(x)
    for candidate in candidates:
        assert best <= objective(candidate) + 1e-12


@in_turn(case=METRIC, dtype=TOLERANCE)
def test_prox_in_a_metric_of_ones_is_the_euclidean_one_in_every_dtype(case, dtype):
    w = tf.cast(tf.constant(weight((3, 4, 3, 2, 2))), dtype)
    expected = case.penalty.prox(w, 0.5)
    for mode in MODES.values():
        shrunk = mode(case.penalty.prox_on)(w, None, tf.constant(0.5), tf.ones_like(w))
        assert shrunk.dtype == dtype
        np.testing.assert_array_equal(shrunk == 0.0, expected == 0.0)
        np.testing.assert_allclose(
            tf.cast(shrunk, tf.float64),
            tf.cast(expected, tf.float64),
            rtol=HALF_EPSILON[dtype] * 2,
            atol=1e-6,
        )


@pytest.mark.parametrize("case", METRIC, ids=str)
def test_prox_in_a_metric_of_its_limits(case):
    w = tf.constant(weight((3, 4, 3, 2, 2), "float32"))
    m = tf.constant(metric(w.shape).astype("float32"))

    def prox(w, step_size, metric):
        return case.penalty.prox_on(w, None, step_size, metric)

    for point in (w, tf.zeros_like(w)):
        np.testing.assert_array_equal(prox(point, 0.0, m), point)
        np.testing.assert_array_equal(prox(point, 0.0, tf.zeros_like(m)), point)
        assert np.isfinite(prox(point, 0.5, m)).all()
    # Where the metric is 0, the penalty decides alone.
    is_free = tf.cast(tf.range(2) == 0, tf.float32)
    limit = prox(w, 0.5, m * (1e-25 + is_free))
    np.testing.assert_allclose(prox(w, 0.5, m * is_free), limit, rtol=1e-4, atol=1e-7)
    # It depends on the quotient of the two alone, however large they are.
    for scale in (1e-30, 1e30):
        np.testing.assert_allclose(
            prox(w, 0.5 * scale, m * scale), prox(w, 0.5, m), rtol=1e-5, atol=1e-7
        )
    bad = tf.where(tf.equal(w, w[1, 2, 1, 1, 1]), tf.constant(np.nan, tf.float32), w)
    assert np.isnan(prox(bad, 0.5, m)[1, 2, 1, 1, 1])


@pytest.mark.parametrize(
    "case", [case for case in cases.PROXIMAL if not case.has_metric_prox], ids=str
)
def test_no_prox_in_a_metric_is_said(case):
    w = tf.ones([2, 3, 2, 2, 2])
    with pytest.raises(NotImplementedError, match="diagonal metric"):
        case.penalty.prox_on(w, None, 0.1, w)


def test_a_metric_has_the_shape_of_the_weight():
    with pytest.raises(ValueError, match=r"`metric` must have the shape.*\(3,\).*\(2, 3\)"):
        tfreg.MCP().prox_on(tf.ones([2, 3]), None, 0.1, tf.ones([3]))


@pytest.mark.parametrize("case", [case for case in CASES if not case.has_prox], ids=str)
def test_no_closed_form_prox_is_said(case):
    with pytest.raises(NotImplementedError, match="closed form"):
        case.penalty.prox(tf.ones([2, 3, 2, 2, 2]), 0.1)
