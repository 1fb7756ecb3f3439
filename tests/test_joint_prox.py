"""One penalty on several weights with layouts: its value and its proximal operator."""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from cases import JOINT_CASES, weight
from marks import slow
from test_joint import HALF_EPSILON, MODES, TIED, constants

import tfreg
from tfreg.layout import Layout

KERNEL = Layout(("input", (("gate", 4), "output")))
BIAS = Layout(KERNEL.axes[-1:])
CONV = Layout(("position", "position", "input", "output"))
SCALE = Layout(("output",))
GROUPED = Layout(("position", "position", "input", (("group input output", 2), "output")))
VALUE = Layout(("input", "head output", "output"))
OUTPUT = Layout(("head input", "input", "output"))


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    axis: str | int | list
    layouts: list
    shapes: list
    members: Callable  # the groups of each weight by the shapes
    group_size: int | None = None

    def __str__(self):
        return self.name


def along(*axes):
    return lambda shapes: [oracles.entries_along(*pair) for pair in zip(shapes, axes)]


CASES = [
    Case(
        "units of an LSTM",
        "output",
        [KERNEL, KERNEL, BIAS],
        [(3, 8), (2, 8), (8,)],
        lambda shapes: [oracles.recurrent_units(shape, 4) for shape in shapes],
    ),
    Case(
        "filters, scales and channels of a grouped convolution",
        ["output", "output", "input"],
        [CONV, SCALE, GROUPED],
        [(2, 2, 3, 6), (6,), (1, 2, 3, 4)],
        lambda shapes: [
            *along(3, 0)(shapes[:2]),
            oracles.grouped_convolution(shapes[2], "input", 2),
        ],
    ),
    Case("heads", "head", [VALUE, OUTPUT], [(5, 2, 3), (2, 3, 4)], along(1, 0)),
    Case("by position", ["output", "input"], [None, None], [(5, 4), (4, 3)], along(1, 0)),
    Case(
        "runs of several lengths",
        0,
        [None, None],
        [(7, 2), (6, 2)],
        lambda shapes: [oracles.groups(shape, 0, 4) for shape in shapes],
        group_size=4,
    ),
    Case("one weight", "output", [KERNEL], [(3, 8)], lambda s: [oracles.recurrent_units(*s, 4)]),
]
# One of them in every run of the tests, where each takes seconds.
FEW = [CASES[0], *map(slow, CASES[1:])]
FACTOR = 0.2


@dataclasses.dataclass(frozen=True)
class Kind:
    name: str
    make: Callable  # of a factor, and arguments by name
    value: Callable  # of weights, the groups of each and whether sizes count, for factor 1
    prox: Callable  # of the same and the strength

    def __str__(self):
        return self.name


def _lasso(make, l1_ratio):
    def value(weights, members, size_weighted):
        norms = oracles.joint_sum_of_norms(weights, members, size_weighted)
        return l1_ratio * sum(np.abs(w).sum() for w in weights) + (1 - l1_ratio) * norms

    def prox(weights, members, size_weighted, strength):
        l1, l2 = strength * l1_ratio, strength * (1 - l1_ratio)
        return oracles.joint_prox(weights, members, l1, l2, size_weighted)

    return Kind(f"{make(FACTOR)}", make, value, prox)


def _sparse(l1_ratio):
    return _lasso(functools.partial(tfreg.SparseGroupLasso, l1_ratio=l1_ratio), l1_ratio)


def _group_mcp(threshold):
    def value(weights, members, size_weighted):
        return oracles.joint_mcp_of_norms(weights, members, threshold, size_weighted)

    def prox(weights, members, size_weighted, strength):
        return oracles.joint_mcp_prox(weights, members, strength, threshold, size_weighted)

    make = functools.partial(tfreg.GroupMCP, threshold=threshold)
    return Kind(f"{make(FACTOR)}", make, value, prox)


LASSO, SPARSE, MCP = _lasso(tfreg.GroupLasso, 0.0), _sparse(0.3), _group_mcp(1.5)
KINDS = [LASSO, SPARSE, MCP]
# What goes another way: SparseGroupLasso without one of its parts.
EVERY_KIND = [*KINDS, _sparse(0.0), _sparse(1.0)]


def penalty_of(case, kind, size_weighted=True, factor=FACTOR):
    arguments = {
        "axis": case.axis,
        "group_size": case.group_size,
        "size_weighted": size_weighted,
    }
    return tfreg.Joint(kind.make(factor, **arguments))


def weights_of(case):
    return [weight(shape, seed=seed) for seed, shape in enumerate(case.shapes)]


def prox(penalty, case, weights, step_size):
    return penalty.prox_on(weights, case.layouts, step_size)


def assert_all_close(actual, expected, **tolerance):
    for x, y in zip(actual, expected, strict=True):
        np.testing.assert_allclose(tf.cast(x, tf.float64), y, **tolerance)


@pytest.mark.parametrize("size_weighted", [True, slow(False)])
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_and_gradients_are_the_oracles(case, kind, size_weighted):
    weights, members = weights_of(case), case.members(case.shapes)
    penalty = penalty_of(case, kind, size_weighted)

    def expected(weights):
        return FACTOR * kind.value(weights, members, size_weighted)

    tensors = constants(weights)
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = penalty.value_on(tensors, case.layouts)
    np.testing.assert_allclose(value, expected(weights), rtol=1e-12)
    for i, gradient in enumerate(tape.gradient(value, tensors)):
        by_differences = oracles.finite_differences(
            lambda w, i=i: expected([*weights[:i], w, *weights[i + 1 :]]), weights[i]
        )
        np.testing.assert_allclose(gradient, by_differences, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("size_weighted", [True, slow(False)])
@pytest.mark.parametrize("kind", EVERY_KIND, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_prox_is_the_oracles(case, kind, size_weighted):
    weights, members = weights_of(case), case.members(case.shapes)
    penalty = penalty_of(case, kind, size_weighted)
    zero_groups = 0
    for step_size in (0.1, 2.0, 40.0, 200.0):
        expected = kind.prox(weights, members, size_weighted, FACTOR * step_size)
        actual = prox(penalty, case, constants(weights), step_size)
        assert [(x.dtype, tuple(x.shape)) for x in actual] == [
            (tf.float64, shape) for shape in case.shapes
        ]
        assert_all_close(actual, expected, rtol=1e-10, atol=1e-12)
        for x, y in zip(actual, expected):  # the zeros are exact
            np.testing.assert_array_equal(x.numpy() == 0.0, y == 0.0)
            zero_groups += np.sum(y == 0.0)
    assert zero_groups > 0


@pytest.mark.parametrize("step_size", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("case", FEW, ids=str)
def test_no_point_near_or_far_is_better(case, kind, step_size):
    rng = np.random.default_rng(0)
    weights, penalty = weights_of(case), penalty_of(case, kind)
    value = tf.function(lambda *x: penalty.value_on(x, case.layouts))

    def objective(x):
        distance = sum(np.sum((a - w) ** 2) for a, w in zip(x, weights))
        return 0.5 * distance + step_size * float(value(*map(tf.constant, x)))

    best = [x.numpy() for x in prox(penalty, case, constants(weights), step_size)]
    lowest = objective(best)
    candidates = [weights, [0.0 * w for w in weights], [0.99 * x for x in best]]
    candidates += [[1.01 * x for x in best], [0.5 * (x + w) for x, w in zip(best, weights)]]
    for scale in (1e-4, 0.1):
        for _ in range(10):
            candidates.append([x + scale * rng.normal(size=x.shape) for x in best])
        for i, x in enumerate(best):  # one entry, in which a zero group is left or entered
            for index in np.ndindex(*x.shape):
                moved = [each.copy() for each in best]
                moved[i][index] += scale * rng.normal()
                candidates.append(moved)
    assert all(lowest <= objective(candidate) + 1e-12 for candidate in candidates)


@pytest.mark.parametrize("kind", [LASSO, slow(SPARSE), slow(MCP)], ids=str)
@pytest.mark.parametrize("case", FEW, ids=str)
def test_eager_graph_and_xla_agree_in_every_dtype(case, kind):
    penalty = penalty_of(case, kind)
    tensors = {dtype: [tf.cast(w, dtype) for w in weights_of(case)] for dtype in HALF_EPSILON}

    def of_every_dtype(step_size, tensors):
        return {dtype: prox(penalty, case, tensors[dtype], step_size) for dtype in tensors}

    exact = of_every_dtype(
        0.25, {dtype: [tf.cast(w, tf.float64) for w in tensors[dtype]] for dtype in tensors}
    )
    for mode, step_size in zip(MODES, (0.25, tf.constant(0.25), tf.constant(0.25, tf.float16))):
        for dtype, actual in MODES[mode](of_every_dtype)(step_size, tensors).items():
            assert [x.dtype for x in actual] == [dtype] * len(tensors[dtype])
            assert_all_close(actual, exact[dtype], rtol=HALF_EPSILON[dtype], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("case", FEW, ids=str)
def test_forced_xla_and_plain_kernels_agree(case, kind, jit):
    penalty, tensors = penalty_of(case, kind), constants(weights_of(case), "float32")
    jit(False)
    plain = prox(penalty, case, tensors, 0.3)
    jit(True)
    assert_all_close(prox(penalty, case, tensors, 0.3), plain, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_large_weights(jit):
    filters, channels = Layout(("input", "output")), Layout(GROUPED.axes[2:])
    shapes = [(600, 512), (256, 1024)]
    weights = [weight(shape, "float32", seed) for seed, shape in enumerate(shapes)]
    weights[0][:, :40] *= 1e-3
    weights[1][:40, :512] *= 1e-3
    penalty = tfreg.Joint(tfreg.GroupLasso(0.1, axis=["output", "input"], size_weighted=False))
    by_channel = np.concatenate([weights[1][:, :512], weights[1][:, 512:]])
    norms = np.sqrt(
        np.square(weights[0], dtype="float64").sum(0)
        + np.square(by_channel, dtype="float64").sum(1)
    )
    factors = np.maximum(1.0 - 1.0 / norms, 0.0)
    assert (factors[:40] == 0.0).all() and (factors[40:] > 0.9).all()
    expected = [weights[0] * factors]
    expected.append(weights[1] * np.repeat(factors.reshape(2, 256).T, 512, axis=1))
    for mode in (False, True):
        jit(mode)
        actual = penalty.prox_on(weights, [filters, channels], 10.0)
        assert_all_close(actual, expected, rtol=1e-5)


def test_weights_of_several_dtypes():
    case = CASES[1]
    weights = weights_of(case)
    for dtypes in [("float16", "float32", "bfloat16"), ("float32", "float64", "float16")]:
        tensors = [tf.cast(w, dtype) for w, dtype in zip(weights, dtypes)]
        exact = oracles.joint_prox(
            [tf.cast(w, tf.float64).numpy() for w in tensors],
            case.members(case.shapes),
            l1=0.3 * FACTOR,
            l2=0.7 * FACTOR,
        )
        actual = prox(penalty_of(case, SPARSE), case, tensors, 1.0)
        for x, y, dtype in zip(actual, exact, dtypes, strict=True):
            assert x.dtype == dtype
            tolerance = HALF_EPSILON.get(dtype, 1e-12)
            np.testing.assert_allclose(tf.cast(x, tf.float64), y, rtol=tolerance, atol=1e-6)


def test_variables_of_either_keras():
    case = CASES[0]
    weights = [w.astype("float32") for w in weights_of(case)]
    expected = prox(penalty_of(case, LASSO), case, weights, 0.5)
    for variable in (keras.Variable, tf.Variable):
        actual = prox(penalty_of(case, LASSO), case, [variable(w) for w in weights], 0.5)
        assert_all_close(actual, expected, rtol=0)


@pytest.mark.parametrize("kind", EVERY_KIND, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_at_strength_zero_nothing_moves_also_at_zero(case, kind):
    weights = weights_of(case)
    for given in (weights, [0.0 * w for w in weights]):
        for step_size in (0.0, tf.constant(0.0)):
            actual = prox(penalty_of(case, kind), case, given, step_size)
            assert_all_close(actual, given, rtol=0)
        unpenalized = penalty_of(case, kind, factor=0.0)
        assert_all_close(prox(unpenalized, case, given, 0.5), given, rtol=0)
    zeros = prox(penalty_of(case, kind), case, [0.0 * w for w in weights], 0.5)
    assert all(np.all(x == 0.0) for x in zeros)


@pytest.mark.parametrize("kind", EVERY_KIND, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_enormous_step_leaves_zeros(case, kind):
    tensors = constants(weights_of(case), "float32")
    for step_size in (1e37, 3e38, 1e300):
        results = prox(penalty_of(case, kind), case, tensors, step_size)
        assert all(np.all(x == 0.0) for x in results)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("kind", [LASSO, SPARSE], ids=str)
@pytest.mark.parametrize("case", FEW, ids=str)
def test_prox_does_not_overflow_or_vanish(case, kind, scale):
    penalty, weights = penalty_of(case, kind), weights_of(case)
    exact = prox(penalty, case, weights, 0.5)
    scaled = [(w * scale).astype("float32") for w in weights]
    actual = [tf.cast(x, tf.float64) / scale for x in prox(penalty, case, scaled, 0.5 * scale)]
    assert_all_close(actual, exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_nan_shows_in_all_of_its_group_and_in_no_other(kind):
    case = CASES[1]
    weights = weights_of(case)
    channel = 4
    expected = prox(penalty_of(case, kind), case, weights, 0.5)
    weights[1][channel] = np.nan
    actual = prox(penalty_of(case, kind), case, weights, 0.5)
    for x, y, members in zip(actual, expected, case.members(case.shapes)):
        own = np.zeros(x.shape, bool)
        own[tuple(np.transpose(sorted(members.items())[channel][1]))] = True
        assert np.isnan(x.numpy()[own]).all()
        np.testing.assert_array_equal(x.numpy()[~own], y.numpy()[~own])


def test_a_finite_weight_raises_no_alarm_of_tensorflows():
    case = CASES[1]
    weights = weights_of(case)
    weights[0][..., 0], weights[1][0], weights[2][0, :, 0, :2] = 0.0, 0.0, 0.0
    tf.debugging.enable_check_numerics()
    try:
        for step_size in (0.0, 0.5, 1e6):
            results = prox(penalty_of(case, SPARSE), case, weights, step_size)
            assert all(np.isfinite(x).all() for x in results)
    finally:
        tf.debugging.disable_check_numerics()


@pytest.mark.parametrize("kind", EVERY_KIND, ids=str)
def test_on_one_weight_it_is_the_prox_on_that(kind):
    case = CASES[-1]
    [w] = weights_of(case)
    penalty = penalty_of(case, kind)
    [actual] = prox(penalty, case, [w], 0.7)
    expected = penalty.penalty.prox_on(w, case.layouts[0], 0.7)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.slow
def test_unknown_lengths():
    case = CASES[3]
    signature = [tf.TensorSpec([None, 4], tf.float64), tf.TensorSpec([4, None], tf.float64)]
    dynamic = tf.function(
        lambda *weights: prox(penalty_of(case, SPARSE), case, list(weights), 0.5),
        input_signature=signature,
    )
    for rows, columns in [(5, 3), (1, 1), (0, 2)]:
        weights = [weight((rows, 4)), weight((4, columns), seed=1)]
        expected = prox(penalty_of(case, SPARSE), case, weights, 0.5)
        assert_all_close(dynamic(*weights), expected, rtol=1e-12)


NO_CLOSED_FORM = [case.penalty for case in JOINT_CASES if not case.has_prox]


@pytest.mark.parametrize("penalty", NO_CLOSED_FORM, ids=repr)
def test_no_closed_form_is_said(penalty):
    assert len(NO_CLOSED_FORM) >= 3
    with pytest.raises(NotImplementedError, match="closed form.*Use it in the loss, or .*Lasso"):
        penalty.prox_on([tf.ones([3, 4])] * 3, [None] * 3, 0.1)


def test_weights_that_do_not_go_together_are_named():
    first = keras.Variable(np.ones((3, 4), "float32"), name="first")
    second = keras.Variable(np.ones((3, 5), "float32"), name="second")
    both = [first, second], [None, None]
    for penalty in (tfreg.GroupLasso(), tfreg.SparseGroupLasso(), tfreg.GroupMCP()):
        name = type(penalty).__name__
        message = f"{name} over.*must have as many.*'first'.*4.*'second'.*5"
        with pytest.raises(ValueError, match=message):
            tfreg.Joint(penalty).prox_on(*both, 0.1)
    with pytest.raises(ValueError, match="entry for each weight.*first"):
        TIED.prox_on([first], [None], 0.1)
    with pytest.raises(ValueError, match=r"\[-2, 2\).*axis=.3,.*second"):
        tfreg.Joint(tfreg.GroupLasso(axis=["output", (3,)])).prox_on(*both, 0.1)
    with pytest.raises(TypeError, match="one of the dtypes.*int32"):
        TIED.prox_on([tf.ones([3, 4], tf.int32), second], [None, None], 0.1)


@pytest.mark.parametrize("step_size", [-0.1, float("nan"), "0.1", tf.constant(-0.1), tf.ones([2])])
def test_a_step_size_must_be_a_number_that_is_not_negative(step_size):
    with pytest.raises((TypeError, ValueError), match="`step_size`"):
        TIED.prox_on([tf.ones([3, 4]), tf.ones([4, 2])], [None, None], step_size)
