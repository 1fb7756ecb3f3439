"""What each axis of a weight means, and what the penalties make of it."""

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf

import tfreg
from tfreg.compute import policy
from tfreg.groups import Groups
from tfreg.layout import Layout

LSTM = Layout(("input", (("gate", 4), "output")))
LSTM_BIAS = Layout(((("gate", 4), "output"),))
GRU_BIAS = Layout(("gate", (("gate", 3), "output")))
PROJECTION = Layout(("input", "head output", "output"))
GROUPED = Layout(("position", "input", (("group input output", 2), "output")))


def ints(shape):
    return np.arange(np.prod(shape), dtype="float64").reshape(shape)


def groups_of(layout, axis, w, group_size=None):
    """The entries of `w`, which are distinct, in each group."""
    split = Groups(axis, group_size).split(tf.constant(w), layout)
    groups = Groups(axis, group_size).resolve(layout)
    count = int(groups.listed_sizes(tf.cast(split, "float32")).shape[0])
    numbers = groups.spread(groups.grid_of(tf.range(count), split), split)
    numbers = np.broadcast_to(numbers, split.shape).ravel()
    return [set(split.numpy().ravel()[numbers == number]) for number in range(count)]


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("axis", ["output", "input", "shape", "all"])
def test_by_position_the_names_mean_what_they_did(axis, rank):
    w = ints((2, 3, 2, 3, 2)[:rank])
    expected = [{w[i] for i in group} for group in oracles.groups(w.shape, axis).values()]
    assert sorted(map(sorted, groups_of(Layout.positional(rank), axis, w))) == sorted(
        map(sorted, expected)
    )


def test_a_unit_spans_its_columns_of_all_gates():
    kernel, bias = ints((2, 12)), ints((12,))
    units = [set(kernel.reshape(2, 4, 3)[:, :, unit].ravel()) for unit in range(3)]
    assert groups_of(LSTM, "output", kernel) == units
    assert groups_of(LSTM, "input", kernel) == [set(row) for row in kernel]
    assert groups_of(LSTM, "shape", kernel) == [set(row) for row in kernel]
    assert groups_of(LSTM_BIAS, "output", bias) == [set(bias[unit::3]) for unit in range(3)]
    assert groups_of(LSTM_BIAS, "input", bias) == groups_of(LSTM_BIAS, "output", bias)
    biases = ints((2, 9))
    units = [set(biases.reshape(6, 3)[:, unit]) for unit in range(3)]
    assert groups_of(GRU_BIAS, "output", biases) == units


def test_integer_axes_are_those_of_the_weight_and_runs_stay_in_a_gate():
    kernel = ints((2, 12))
    assert groups_of(LSTM, 0, kernel) == [set(column) for column in kernel.T]
    assert groups_of(LSTM, 1, kernel) == groups_of(LSTM, -1, kernel)
    assert groups_of(LSTM, 1, kernel) == [set(row) for row in kernel]
    runs = groups_of(LSTM, 1, kernel, group_size=2)
    gates = [gate for row in kernel for gate in row.reshape(4, 3)]
    assert runs == [set(gate[start : start + 2]) for gate in gates for start in (0, 2)]


def test_heads():
    w = ints((3, 2, 4))
    assert groups_of(PROJECTION, "head", w) == [set(w[:, head].ravel()) for head in range(2)]
    assert groups_of(PROJECTION, "input", w) == [set(row.ravel()) for row in w]
    columns = [set(w[:, head, i]) for head in range(2) for i in range(4)]
    assert groups_of(PROJECTION, "output", w) == columns


def test_an_input_channel_of_a_grouped_convolution_is_one_of_its_group():
    w = ints((2, 3, 4))
    in_groups = [w[..., :2], w[..., 2:]]
    channels = [set(part[:, j].ravel()) for part in in_groups for j in range(3)]
    assert groups_of(GROUPED, "input", w) == channels
    places = [set(part[k, j]) for k in range(2) for part in in_groups for j in range(3)]
    assert groups_of(GROUPED, "shape", w) == places
    assert groups_of(GROUPED, "output", w) == [set(w[..., f].ravel()) for f in range(4)]
    assert groups_of(GROUPED, "all", w) == [set(w.ravel())]


def test_with_an_axis_of_their_own_the_groups_of_a_convolution_count_first_too():
    w = ints((3, 2, 4))
    layout = Layout(("input", "group input output", "output"))
    channels = [set(w[j, g]) for g in range(2) for j in range(3)]
    assert groups_of(layout, "input", w) == channels
    filters = [set(w[:, g, f]) for g in range(2) for f in range(4)]
    assert groups_of(layout, "output", w) == filters
    in_front = Layout(("group input output", "input", "output"))
    assert groups_of(in_front, "input", w) == [set(w[g, j]) for g in range(3) for j in range(2)]


@pytest.mark.parametrize(
    "axis, group_size",
    [(0, None), (1, None), (-1, None), ((0, 2), None), (2, 3), (-1, 2), ((1, 2), (2, 3))],
)
def test_integer_axes_do_not_see_the_groups_of_a_convolution(axis, group_size):
    w = ints((2, 3, 8))
    positional = groups_of(Layout.positional(3), axis, w, group_size)
    assert groups_of(GROUPED, axis, w, group_size) == positional


@pytest.mark.parametrize("is_last", [False, True])
def test_the_groups_of_a_convolution_do_not_hide_gates(is_last):
    parts = (("gate", 2), "output", ("group input output", 2))
    layout = Layout(("input", parts if is_last else (parts[0], parts[2], parts[1])))
    w = ints((1, 12))
    runs = [{0, 1, 2, 3}, {4, 5}, {6, 7, 8, 9}, {10, 11}]
    assert groups_of(layout, 1, w, 4) == runs
    assert groups_of(layout.stacked(), 1, w[np.newaxis], 4) == runs


@pytest.mark.parametrize("axis", ["head", "output", "input"])
def test_a_weight_without_such_an_axis_is_an_error_that_names_it(axis):
    layout = Layout(("feature", "position"))
    with pytest.raises(ValueError, match=f"axis='{axis}' for weight 'a/b'.*hold {axis}s"):
        Groups(axis).resolve(layout, "'a/b'")


def test_differences_do_not_cross_gates():
    w = np.random.default_rng(0).normal(size=(5, 12))
    gates = [w[:, 3 * gate : 3 * gate + 3] for gate in range(4)]

    def value(w, layout, **arguments):
        penalty = tfreg.TotalVariation(1.0, **arguments)
        return float(penalty.value_on(tf.constant(w), layout))

    for arguments in [{}, {"axis": 0}, {"axis": 1}, {"axis": -1, "order": 2}, {"axis": (0, 1)}]:
        expected = sum(oracles.total_variation(gate, **arguments) for gate in gates)
        np.testing.assert_allclose(value(w, LSTM, **arguments), expected, rtol=1e-12)
    isotropic = {"axis": (0, 1), "isotropic": True}
    assert value(w, LSTM, **isotropic) > 0
    bias = np.random.default_rng(1).normal(size=(2, 9))
    rows = bias.reshape(6, 3)
    expected = sum(oracles.total_variation(row) for row in rows)
    np.testing.assert_allclose(value(bias, GRU_BIAS), expected, rtol=1e-12)
    np.testing.assert_allclose(value(bias, GRU_BIAS, axis=1), expected, rtol=1e-12)
    assert value(bias, GRU_BIAS, axis=0) == 0.0


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"axis": 2},
        {"axis": -1, "order": 2},
        {"axis": (0, 2)},
        {"axis": (1, -1), "isotropic": True},
    ],
)
def test_filters_of_two_groups_of_a_convolution_are_neighbours(arguments):
    w = np.random.default_rng(0).normal(size=(2, 3, 8))
    penalty = tfreg.TotalVariation(1.0, **arguments)
    expected = oracles.total_variation(w, **arguments)
    np.testing.assert_allclose(penalty.value_on(tf.constant(w), GROUPED), expected, rtol=1e-12)


@pytest.mark.parametrize("layout", [LSTM, GROUPED])
@pytest.mark.parametrize(
    "penalty",
    [
        tfreg.GroupLasso(0.2),
        tfreg.GroupLasso(0.2, axis="input"),
        tfreg.SparseGroupLasso(0.2, 0.5),
        tfreg.SparseGroupLasso(0.2, 0.5, axis="shape"),
        tfreg.GroupLasso(0.2, axis=1, group_size=2),
        tfreg.TotalVariation(0.2),
        tfreg.BoxPenalty(0.2, -0.1, 0.1),
        tfreg.GroupLasso(0.2) + tfreg.TotalVariation(0.1, axis=1),
    ],
    ids=repr,
)
def test_gradients_over_a_layout_are_those_of_finite_differences(penalty, layout):
    w = np.random.default_rng(0).normal(size={LSTM: (3, 12), GROUPED: (2, 3, 4)}[layout])
    tensor = tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        value = penalty.value_on(tensor, layout)
    expected = oracles.finite_differences(
        lambda x: float(penalty.value_on(tf.constant(x), layout)), w
    )
    np.testing.assert_allclose(tape.gradient(value, tensor), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "layout", [LSTM, LSTM_BIAS, GRU_BIAS, PROJECTION, GROUPED, Layout.positional(3)]
)
@pytest.mark.parametrize(
    "penalty",
    [
        tfreg.GroupLasso(0.2),
        tfreg.GroupLasso(0.2, axis="input"),
        tfreg.GroupLasso(0.2, axis="all"),
        tfreg.GroupLasso(0.2, axis=0),
        tfreg.GroupLasso(0.2, axis=-1, group_size=2),
        tfreg.SparseGroupLasso(0.2, 0.5, axis="shape"),
        tfreg.TotalVariation(0.2),
        tfreg.TotalVariation(0.2, axis=0),
        tfreg.TotalVariation(0.2, axis=-1, order=2),
        tfreg.TotalVariation(0.2, axis=0, isotropic=True),
        tfreg.BoxPenalty(0.2, -0.1, 0.1),
        tfreg.Prior("Laplace", 0.2, loc=0.1, scale=0.5),
    ],
    ids=repr,
)
def test_the_value_at_a_stack_is_the_sum_of_the_values(penalty, layout):
    rng = np.random.default_rng(0)
    shapes = {LSTM: (5, 12), LSTM_BIAS: (12,), GRU_BIAS: (2, 9)}
    weights = [tf.constant(rng.normal(size=shapes.get(layout, (3, 2, 4)))) for _ in range(3)]
    [value] = penalty.values_on(weights, [layout] * 3)
    expected = sum(penalty.value_on(w, layout) for w in weights)
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_only_weights_that_are_alike_are_stacked():
    penalty = tfreg.GroupLasso(0.2)
    large = tf.ones([policy.STACK_MAX_ELEMENTS, 2])
    weights = [tf.ones([5, 12]), tf.ones([3, 12]), tf.ones([5, 12]), tf.ones([5, 12], "float16")]
    layouts = [None] * 4 + [LSTM] + [None] * 2
    values = penalty.values_on([*weights, tf.ones([5, 12]), large, large], layouts)
    assert len(values) == 6  # the first and the third are together
    expected = sum(penalty.value_on(*pair) for pair in zip(weights, layouts))
    np.testing.assert_allclose(sum(values[:3]), expected, rtol=1e-6)


@pytest.mark.slow
def test_weights_of_unknown_lengths_are_not_stacked():
    variables = [tf.Variable(tf.ones([length, 3]), shape=[None, 3]) for length in (2, 5)]
    penalty = tfreg.GroupLasso(0.2)
    values = tf.function(lambda: penalty.values_on(variables, [None] * 2))()
    np.testing.assert_allclose(values, [penalty(v) for v in variables], rtol=1e-6)


def test_a_subclass_with_a_value_of_its_own_is_not_stacked():
    class Largest(tfreg.GroupLasso):
        def compute_value(self, tensor, layout):
            return tf.reduce_max(tensor)

    values = Largest().values_on([tf.ones([2, 3]), 2.0 * tf.ones([2, 3])], [None] * 2)
    np.testing.assert_array_equal(values, [1.0, 2.0])


def test_a_sum_is_stacked_if_all_of_its_members_are():
    weights = [tf.ones([2, 3]), tf.fill([2, 3], 2.0)]
    own = tfreg.GroupLasso(0.2) + tfreg.BoxPenalty(0.2)
    with_keras = own + keras.regularizers.L2(0.1)
    for penalty, count in ((own, 1), (with_keras, 2)):
        values = penalty.values_on(weights, [None] * 2)
        assert len(values) == count
        np.testing.assert_allclose(sum(values), sum(map(penalty, weights)), rtol=1e-6)


@pytest.mark.parametrize("penalty", [tfreg.GroupLasso(0.5), tfreg.SparseGroupLasso(0.5, 0.4)])
def test_prox_over_a_layout_is_that_of_each_unit(penalty):
    w = np.random.default_rng(0).normal(size=(3, 12))
    actual = penalty.prox_on(tf.constant(w), LSTM, 1.0).numpy().reshape(3, 4, 3)
    for unit in range(3):
        entries = w.reshape(3, 4, 3)[:, :, unit]
        expected = penalty.prox(tf.constant(entries.ravel()[:, np.newaxis]), 1.0)
        np.testing.assert_allclose(actual[:, :, unit].ravel(), expected[:, 0], rtol=1e-12)


@pytest.mark.parametrize("axis", ["output", "input", "shape", "all"])
def test_prox_over_a_grouped_convolution_is_that_of_each_group(axis):
    w = np.random.default_rng(0).normal(size=(2, 3, 4))
    members = oracles.grouped_convolution(w.shape, axis, 2)
    for penalty, l1 in [(tfreg.GroupLasso(0.3, axis), 0.0), (_sparse(0.6, axis), 0.3)]:
        [expected] = oracles.joint_prox([w], [members], l1 * 0.5, 0.3 * 0.5)
        actual = penalty.prox_on(tf.constant(w), GROUPED, 0.5)
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(penalty.prox_on(w, GROUPED, tf.constant(0.0)), w)


def _sparse(factor, axis):
    return tfreg.SparseGroupLasso(factor, 0.5, axis)


@pytest.mark.parametrize(
    "penalty",
    [
        tfreg.GroupLasso(0.2, axis="input"),
        tfreg.SparseGroupLasso(0.2, axis=0, group_size=2),
        tfreg.BoxPenalty(0.2, -0.1, 0.1),
        tfreg.Prior("Laplace", 0.2, loc=0.1, scale=0.5),
    ],
    ids=repr,
)
def test_prox_goes_by_position_where_no_layout_is_known(penalty):
    w = tf.constant(np.random.default_rng(0).normal(size=(3, 12)))
    expected = penalty.prox(w, 0.5)
    for layout in (None, Layout.positional(2)):
        np.testing.assert_array_equal(penalty.prox_on(w, layout, 0.5), expected)
    if not isinstance(penalty, tfreg.GroupLasso):  # elementwise
        np.testing.assert_array_equal(penalty.prox_on(w, LSTM, 0.5), expected)
    step_size = tf.constant(0.5, tf.float64)
    np.testing.assert_array_equal(penalty.prox_on(w, None, step_size), expected)
    with pytest.raises(ValueError, match="`step_size`"):
        penalty.prox_on(w, LSTM, -0.5)


def test_prox_of_a_weight_that_lacks_the_axis_is_an_error():
    with pytest.raises(ValueError, match="axis='head'.*hold heads"):
        tfreg.GroupLasso(axis="head").prox_on(tf.ones([3, 12]), LSTM, 1.0)


def test_a_layout_with_unknown_lengths():
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float64)])
    def value(w):
        total = tfreg.TotalVariation(1.0).value_on(w, LSTM)
        return total + tfreg.GroupLasso(1.0).value_on(w, LSTM)

    w = tf.constant(np.random.default_rng(0).normal(size=(5, 12)))
    expected = tfreg.TotalVariation(1.0).value_on(w, LSTM) + tfreg.GroupLasso(1.0).value_on(w, LSTM)
    np.testing.assert_allclose(value(w), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "axes",
    [
        "input",
        ["input", "units"],
        ("input", ""),
        ("input", ()),
        ("input", ("gate", "output")),
        ("input", (("gate", 0), "output")),
        ("input", (("gate", 2.0), "output")),
        ("input", (("gate", 4, 4), "output")),
        ("input", 3),
        None,
    ],
    ids=repr,
)
def test_bad_layouts(axes):
    with pytest.raises(ValueError, match="layout must be.*Received"):
        Layout(axes)
