import numpy as np
import oracles
import pyproximal
import pytest
import tensorflow as tf
from cases import gradient, weight

import tfreg


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("shape", [(6,), (36, 33), (6, 4, 5), (6, 3, 8, 16), (6, 3, 2, 3, 2)])
def test_equals_the_hand_written_form_where_the_size_divides(shape, k):
    w = weight(shape, "float32")
    penalty = tfreg.GroupLasso(1.0, axis=0, group_size=k, size_weighted=False)
    expected = oracles.article_group_sparsity(w, k)
    np.testing.assert_allclose(penalty(tf.constant(w)), expected, rtol=2e-6)


@pytest.mark.parametrize("shape", [(7,), (7, 3), (7, 2, 3), (7, 2, 2, 3), (7, 2, 2, 1, 3)])
def test_equals_the_loop_over_true_groups_where_it_does_not(shape):
    w = weight(shape, "float32")
    for size_weighted in [False, True]:
        penalty = tfreg.GroupLasso(1.0, axis=0, group_size=3, size_weighted=size_weighted)
        expected = oracles.group_lasso(w, 0, 3, size_weighted)
        np.testing.assert_allclose(penalty(tf.constant(w)), expected, rtol=2e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("penalty", [tfreg.GroupLasso(1.0), tfreg.SparseGroupLasso(1.0)])
def test_value_and_gradient_are_scale_free(penalty, scale):
    w = weight((8, 5), "float32")
    scaled = tf.constant(w * np.float32(scale))
    np.testing.assert_allclose(penalty(scaled) / scale, penalty(tf.constant(w)), rtol=2e-6)
    np.testing.assert_allclose(
        gradient(penalty, scaled), gradient(penalty, tf.constant(w)), rtol=1e-5
    )


def test_gradient_is_zero_at_a_zero_group_and_right_beside_it():
    w = tf.constant([[0.0, 3.0], [0.0, 4.0]])
    penalty = tfreg.GroupLasso(1.0, size_weighted=False)
    np.testing.assert_allclose(gradient(penalty, w), [[0, 0.6], [0, 0.8]], rtol=1e-6)


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5, 1.0])
def test_a_zero_group_beside_another_under_the_sparse_group_lasso(l1_ratio):
    w = tf.constant([[0.0, 3.0], [0.0, 4.0]])
    penalty = tfreg.SparseGroupLasso(1.0, l1_ratio, size_weighted=False)
    expected = l1_ratio * np.array([1, 1]) + (1 - l1_ratio) * np.array([0.6, 0.8])
    slope = gradient(penalty, w).numpy()
    np.testing.assert_allclose(slope[:, 1], expected, rtol=1e-6)
    np.testing.assert_array_equal(slope[:, 0], [0, 0])


def test_a_term_of_no_weight_does_not_overflow():
    one_large = tf.constant([[1e38]] + [[0.0]] * 99)  # whose root of 100 times the norm does
    np.testing.assert_allclose(tfreg.SparseGroupLasso(1.0, 1.0)(one_large), 1e38, rtol=1e-6)
    all_large = tf.fill([100, 1], 1e37)  # whose L1 norm does
    penalty = tfreg.SparseGroupLasso(1.0, 0.0, size_weighted=False)
    np.testing.assert_allclose(penalty(all_large), 1e38, rtol=1e-6)


def test_axis_and_group_size_cannot_be_changed_behind_the_groups():
    penalty = tfreg.GroupLasso(1.0, axis=0, group_size=3)
    for name in ["axis", "group_size"]:
        with pytest.raises(AttributeError):
            setattr(penalty, name, 1)


@pytest.mark.parametrize(
    "shape, axis, groups",
    [
        ((64, 10), "output", 10),
        ((64, 10), "input", 64),
        ((3, 3, 8, 16), "output", 16),
        ((3, 3, 8, 16), "input", 8),
        ((3, 3, 8, 16), "shape", 3 * 3 * 8),
        ((3, 3, 8, 1), "input", 8),
        ((1000, 32), "input", 1000),
        ((1000, 32), "output", 32),
        ((5, 4 * 7), "input", 5),
        ((5, 4 * 7), "output", 4 * 7),
    ],
)
def test_the_number_of_groups_on_the_weights_of_layers(shape, axis, groups):
    w = tf.fill(shape, 3.0)
    value = tfreg.GroupLasso(1.0, axis=axis, size_weighted=False)(w)
    size = np.prod(shape) / groups
    np.testing.assert_allclose(value, groups * 3.0 * np.sqrt(size), rtol=1e-5)


def test_a_large_float16_weight_has_the_true_value_and_a_finite_gradient():
    w = tf.constant(np.full((400, 4), 60000, "float16"))
    penalty = tfreg.GroupLasso(1.0, size_weighted=False)
    value = penalty(w)
    assert value.dtype == tf.float32
    np.testing.assert_allclose(value, 4 * 20 * 60000.0, rtol=1e-6)
    np.testing.assert_allclose(gradient(penalty, w), np.full((400, 4), 0.05), rtol=1e-3)


def test_groups_of_one_are_the_l1_norm():
    w = tf.constant(weight((4, 3)))
    np.testing.assert_allclose(
        tfreg.GroupLasso(0.5, axis=0, group_size=1)(w), 0.5 * np.abs(w).sum(), rtol=1e-12
    )


def test_l1_ratio_of_zero_is_the_group_lasso_and_of_one_the_l1_norm():
    w = tf.constant(weight((4, 3)))
    arguments = {"axis": 0, "group_size": 3}
    for actual, expected in [
        (tfreg.SparseGroupLasso(0.5, 0.0, **arguments), tfreg.GroupLasso(0.5, **arguments)),
        (tfreg.SparseGroupLasso(0.5, 1.0, **arguments), tfreg.GroupLasso(0.5, 0, 1)),
    ]:
        np.testing.assert_allclose(actual(w), expected(w), rtol=1e-12)
        np.testing.assert_allclose(actual.prox(w, 0.7), expected.prox(w, 0.7), rtol=1e-12)


@pytest.mark.parametrize("l1_ratio", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("size_weighted", [False, True])
@pytest.mark.parametrize(
    "axis, group_size",
    [("output", None), ("input", None), (0, 3), ((0, 1), (4, 2)), ("all", None)],
)
def test_prox_is_that_of_pyproximal(axis, group_size, size_weighted, l1_ratio):
    w, step_size, factor = weight((7, 5)), 0.6, 0.4
    grouping = {"axis": axis, "group_size": group_size, "size_weighted": size_weighted}
    if l1_ratio is None:
        penalty, l1, l2 = tfreg.GroupLasso(factor, **grouping), 0.0, factor
    else:
        penalty = tfreg.SparseGroupLasso(factor, l1_ratio, **grouping)
        l1, l2 = factor * l1_ratio, factor * (1 - l1_ratio)
    expected = w.copy()
    for indices in oracles.groups(w.shape, axis, group_size).values():
        where = tuple(np.transpose(indices))
        sigma = l2 * (np.sqrt(len(indices)) if size_weighted else 1.0)
        sparse = pyproximal.L1(l1).prox(w[where], step_size)
        if np.linalg.norm(sparse) > 0:
            sparse = pyproximal.Euclidean(sigma).prox(sparse, step_size)
        expected[where] = sparse
    prox = penalty.prox(tf.constant(w), step_size)
    np.testing.assert_allclose(prox, expected, rtol=1e-10, atol=1e-12)


def test_prox_reaches_exact_zeros():
    w = tf.constant(weight((50, 20), "float32") * np.linspace(0, 1, 20, dtype="float32"))
    shrunk = tfreg.GroupLasso(0.1).prox(w, 4.0).numpy()
    zero = (shrunk == 0).all(axis=0)
    assert 0 < zero.sum() < 20
    assert (shrunk[:, ~zero] != 0).all()
    shrunk = tfreg.SparseGroupLasso(0.1, 0.9).prox(w, 2.0).numpy()
    assert ((shrunk == 0).any(axis=0) & (shrunk != 0).any(axis=0)).any()


@pytest.mark.parametrize("l1_ratio", [6e-97, 1e-40])
def test_a_share_that_is_0_in_float32_hides_no_infinity(l1_ratio):
    penalty = tfreg.SparseGroupLasso(0.1, l1_ratio=l1_ratio)
    assert float(penalty(tf.constant([np.inf, 1.0]))) == np.inf
    w = tf.constant([3.0, 4.0])
    np.testing.assert_allclose(penalty(w), tfreg.GroupLasso(0.1)(w), rtol=1e-6)
    np.testing.assert_allclose(penalty.prox(w, 1.0), tfreg.GroupLasso(0.1).prox(w, 1.0), rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("l1_ratio", [0.0, 0.3])
@pytest.mark.parametrize("spread", [0.0, 1.0, 6.0])
def test_prox_in_a_metric_is_the_oracles(spread, l1_ratio, jit_compile):
    rng = np.random.default_rng(0)
    w = rng.normal(size=(6, 40)) * np.exp(rng.normal(size=40))
    metric = np.exp(spread * rng.normal(size=w.shape))
    penalty = tfreg.SparseGroupLasso(1.0, l1_ratio, size_weighted=False)
    prox = tf.function(penalty.prox_on, jit_compile=jit_compile)
    for strength in (1e-6, 0.3, 2.0, 30.0):
        strengths = strength * l1_ratio, strength * (1 - l1_ratio)
        expected = [
            oracles.group_prox_in_metric(*column, *strengths) for column in zip(w.T, metric.T)
        ]
        for dtype, tolerance in (("float64", 1e-11), ("float32", 1e-5)):
            tensors = [tf.constant(x.astype(dtype)) for x in (w, metric)]
            shrunk = prox(tensors[0], None, tf.constant(strength, dtype), tensors[1])
            np.testing.assert_allclose(np.transpose(shrunk), expected, tolerance, tolerance)


@pytest.mark.parametrize("axis", [0, 1, "input"])
def test_prox_in_a_metric_of_lists_of_indices(axis):
    w = tf.constant(np.random.default_rng(0).normal(size=(5, 5)))
    metric = tf.exp(2.0 * w[::-1])
    lists, weights = [[0, 3], [1, 2]], [0.5, 1.5]
    penalty = tfreg.GroupLasso(1.0, axis, groups=lists, group_weights=weights)
    shrunk = penalty.prox_on(w, None, 0.6, metric).numpy()
    along = 0 if axis == "input" else axis
    expected = np.moveaxis(w.numpy().copy(), along, 0)
    rows, metrics = expected.copy(), np.moveaxis(metric.numpy(), along, 0)
    for indices, share in zip(lists, weights):
        columns = [slice(None)] if axis == "input" else range(5)
        for column in columns:
            group = (rows[indices, column], metrics[indices, column])
            expected[indices, column] = oracles.group_prox_in_metric(*group, 0.0, 0.6 * share)
    np.testing.assert_allclose(np.moveaxis(shrunk, along, 0), expected, rtol=1e-11)
    overlapping = tfreg.GroupLasso(1.0, axis, groups=[[0, 1], [1, 2]])
    with pytest.raises(NotImplementedError, match="disjoint groups has one.*the index 1 in two"):
        overlapping.prox_on(w, None, 0.6, metric)


def test_prox_in_a_metric_of_extremes():
    penalty = tfreg.GroupLasso(1.0, size_weighted=False)
    for scale in (1e-30, 1e-18, 1e18, 1e37):
        w = tf.constant([[1.0, 3.0], [2.0, -1.0]]) * scale
        metric = tf.constant([[1.0, 0.1], [10.0, 2.0]])
        expected = penalty.prox_on(w / scale, None, 0.7, metric)
        shrunk = penalty.prox_on(w, None, 0.7 * scale, metric)
        np.testing.assert_allclose(shrunk / scale, expected, rtol=1e-5)
    w = tf.constant([[np.inf, 3.0, np.nan, 1.0], [2.0, -1.0, 1.0, 0.0]])
    shrunk = penalty.prox_on(w, None, 0.1, tf.ones_like(w)).numpy()
    np.testing.assert_array_equal(shrunk[:, 0], [np.inf, 2.0])
    assert np.isnan(shrunk[:, 2]).all() and np.isfinite(shrunk[:, [1, 3]]).all()
    for step_size in (1e-38, 1e38, 1e300):
        for metric in (1e-38, 1.0, 1e38):
            shrunk = penalty.prox_on(w[:, 1:2], None, step_size, tf.fill([2, 1], metric))
            assert np.isfinite(shrunk).all()
