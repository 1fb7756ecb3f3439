"""Which entries of a weight form a group, and the groups' norms."""

import numpy as np
import oracles
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import slow

from tfreg.compute import reductions
from tfreg.compute.views import along
from tfreg.groups import Groups
from tfreg.layout import Layout


def runs(rank, axis, group_size=None):
    """The groups on a weight of that rank, whose axes go by position."""
    return Groups(axis, group_size).resolve(Layout.positional(rank))


@st.composite
def groupings(draw):
    """A shape and the `axis` and `group_size` of groups on it."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=5)))
    if draw(st.booleans()):
        return shape, draw(st.sampled_from(["output", "input", "shape", "all"])), None
    rank = len(shape)
    axes = draw(st.lists(st.integers(0, rank - 1), min_size=1, max_size=rank, unique=True))
    axis = tuple(draw(st.sampled_from([a, a - rank])) for a in axes)
    sizes = tuple(draw(st.none() | st.integers(1, 9)) for _ in axes)
    if len(axis) == 1 and draw(st.booleans()):
        return shape, axis[0], sizes[0]
    return shape, axis, draw(st.sampled_from([sizes, None]))


def labels(shape, axis, group_size):
    """An array of `shape` that holds the number of the group of each entry."""
    numbers = np.zeros(shape, int)
    for number, indices in enumerate(oracles.groups(shape, axis, group_size).values()):
        for index in indices:
            numbers[index] = number
    return numbers


@settings(max_examples=150)
@given(groupings())
def test_groups_are_those_of_the_loop(grouping):
    shape, axis, group_size = grouping
    groups, numbers = runs(len(shape), axis, group_size), labels(shape, axis, group_size)
    w = np.random.default_rng(0).normal(size=shape)
    tensor = tf.constant(w)
    norms = np.sqrt(np.bincount(numbers.ravel(), np.square(w).ravel()))
    counts = np.bincount(numbers.ravel())

    grid = groups.norm(tensor)
    assert grid.shape.num_elements() == len(counts)
    per_entry = np.broadcast_to(groups.spread(grid, tensor), shape)
    np.testing.assert_allclose(per_entry, norms[numbers], rtol=1e-12)
    sizes = np.broadcast_to(groups.spread(groups.sizes(tensor), tensor), shape)
    np.testing.assert_array_equal(sizes, counts[numbers])
    np.testing.assert_allclose(groups.direction(tensor), w / norms[numbers], rtol=1e-12)


@settings(max_examples=40)
@given(groupings(), st.sampled_from([1e-30, 1e-18, 1.0, 1e18, 1e30, 2e38]))
def test_norm_and_direction_do_not_depend_on_the_scale(grouping, scale):
    shape, axis, group_size = grouping
    groups = runs(len(shape), axis, group_size)
    w = np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")
    w.flat[0] = 0.0
    exact = tf.constant((w * np.float32(scale)).astype("float64"))
    scaled = tf.constant(w * np.float32(scale))
    with np.errstate(over="ignore"):
        expected = groups.norm(exact).numpy().astype("float32")
    np.testing.assert_allclose(groups.norm(scaled), expected, rtol=1e-6)
    directions = [groups.direction(tensor) for tensor in (scaled, exact)]
    np.testing.assert_allclose(*directions, 1e-6, 1e-9)


@pytest.mark.parametrize("jit_compile", [slow(False), True])
@pytest.mark.parametrize(
    "shape, axis, group_size",
    [
        ((700, 400), "output", None),
        slow((700, 400), "input", None),
        ((700, 401), "all", None),
        ((3, 3, 180, 170), "output", None),
        slow((3, 3, 180, 170), "input", None),
        ((3, 3, 170, 180), "shape", None),
        ((20, 16, 900), (0, 2), None),
        ((2, 3, 4, 5, 6, 400), (1, 3), None),
        ((700, 400), 0, 4),
        slow((700, 400), 0, 300),
        ((700, 400), (0, 1), (7, 16)),
        slow((700, 400), (0, 1), (9, None)),
        ((700, 400), (0, 1), (64, 64)),
        slow((700, 400), 1, 64),
        slow((700, 400), 0, 1),
        ((3, 3, 170, 180), (2, 3), (40, 3)),
        # Runs by the number of which XLA sums in one way or another.
        ((160, 1700), "output", None),
        slow((512, 600), "output", None),
        slow((530, 600), "output", None),
        ((1030, 300), "output", None),
        ((300_000,), 0, 7),
    ],
)
def test_norms_and_directions_of_large_weights(shape, axis, group_size, jit_compile):
    w = np.random.default_rng(0).normal(size=shape).astype("float32")
    w[:40] *= np.float32(1e-30)
    w[-2:] *= np.float32(1e30)
    w[50:100] = 0.0
    groups = runs(len(shape), axis, group_size)
    exact = groups.norm(tf.constant(w.astype(float)))
    norms, direction = tf.function(
        lambda w: (groups.norm(w), groups.direction(w)), jit_compile=jit_compile
    )(tf.constant(w))
    np.testing.assert_allclose(norms, exact, rtol=1e-6)
    per_entry = groups.spread(exact, tf.constant(w)).numpy()
    expected = w / np.where(per_entry == 0.0, 1.0, per_entry)
    np.testing.assert_allclose(direction, expected, rtol=1e-6, atol=1e-30)


def test_second_derivatives_are_finite_where_runs_of_a_large_weight_are_zero():
    w = tf.concat([tf.zeros([640, 500]), tf.ones([10, 500])], axis=0)
    groups = runs(2, "output")
    with tf.GradientTape() as tape:
        tape.watch(w)
        first = groups.direction(w)[-1, 0]
    # The derivative of w / ||w|| in a group of ten ones.
    expected = np.zeros([650, 500])
    expected[640:, 0] = -(10.0**-1.5)
    expected[-1, 0] += 10.0**-0.5
    np.testing.assert_allclose(tape.gradient(first, w), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("device", reductions.DEVICES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_derivatives_at_a_zero_group_are_zero(dtype, device):
    w = tf.zeros([24, 8], dtype)
    with reductions.using(reductions.strategy_for(w.shape, device)):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(w)
            direction = tf.reduce_sum(runs(2, 0, 3).direction(w))
            norm = tf.reduce_sum(runs(2, 0, 3).norm(w))
        np.testing.assert_array_equal(tape.gradient(norm, w), np.zeros([24, 8]))
        np.testing.assert_array_equal(tape.gradient(direction, w), np.zeros([24, 8]))


@pytest.mark.parametrize("axis, group_size", [(0, None), (0, 2), (1, None)])
def test_a_graph_does_not_square_a_reciprocal_that_underflows(axis, group_size):
    w = tf.fill([4, 4], 2e38)
    groups = runs(2, axis, group_size)
    direction = tf.function(lambda w: groups.direction(w))(w)
    np.testing.assert_allclose(direction, (group_size or 4) ** -0.5, rtol=1e-6)


def test_direction_is_zero_in_a_zero_group_and_nan_in_one_that_is_not_finite():
    w = tf.constant([[0.0, 0.0], [3.0, 4.0], [np.inf, 1.0], [np.nan, 0.0]])
    expected = [[0.0, 0.0], [0.6, 0.8], [np.nan] * 2, [np.nan] * 2]
    groups = runs(2, 1)
    np.testing.assert_allclose(groups.direction(w), expected, rtol=1e-6)
    np.testing.assert_array_equal(np.isnan(groups.norm(w))[:, 0], [False, False, False, True])
    assert np.isinf(groups.norm(w)[2, 0])


@pytest.mark.parametrize(
    "axis, rank, groups",
    [
        ("output", 1, 6),
        ("input", 1, 6),
        ("shape", 1, 1),
        ("all", 1, 1),
        ("output", 2, 5),
        ("input", 2, 6),
        ("output", 4, 3),
        ("input", 4, 4),
        ("shape", 4, 6 * 5 * 4),
        ("all", 4, 1),
    ],
)
def test_named_axes(axis, rank, groups):
    w = tf.ones([6, 5, 4, 3][:rank])
    assert runs(rank, axis).norm(w).shape.num_elements() == groups


def test_a_size_that_does_not_divide_leaves_a_shorter_last_group():
    w = tf.constant([[1.0], [2.0], [2.0], [3.0], [4.0]])
    groups = runs(2, 0, 3)
    np.testing.assert_allclose(groups.norm(w), [[3.0], [5.0]], rtol=1e-6)
    np.testing.assert_array_equal(groups.sizes(w), [[3.0], [2.0]])


def test_a_size_beyond_the_axis_is_one_group():
    w = tf.constant([3.0, 4.0])
    np.testing.assert_allclose(runs(1, 0, 99).norm(w), [5.0], rtol=1e-6)


@pytest.mark.slow
def test_every_axis_of_a_conv3d_kernel_can_be_cut():
    # Each axis seen as two would be of rank 10, which TensorFlow's ops do not take.
    w = np.random.default_rng(0).normal(size=(3, 3, 3, 5, 7))
    groups = runs(5, (0, 1, 2, 3, 4), (2, 2, 2, 2, 2))
    numbers = labels(w.shape, (0, 1, 2, 3, 4), (2, 2, 2, 2, 2))
    expected = np.sqrt(np.bincount(numbers.ravel(), np.square(w).ravel()))
    assert groups.norm(tf.constant(w)).shape == (2, 2, 2, 3, 4)
    direction = tf.function(groups.direction, jit_compile=True)(tf.constant(w))
    np.testing.assert_allclose(direction, w / expected[numbers], rtol=1e-12)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_along_shows_an_axis_in_the_middle(axis):
    x = tf.reshape(tf.range(24), [2, 3, 4])
    result = along(axis, x, lambda y: tf.reverse(y, [1])[:, :1])
    np.testing.assert_array_equal(result, tf.gather(tf.reverse(x, [axis]), [0], axis=axis))
