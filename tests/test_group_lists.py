"""Groups by lists of indices: values, gradients and proximal operators against NumPy's loops."""

import json
import pickle

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from cases import value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import slow
from skglm.datafits import QuadraticGroup
from skglm.penalties import WeightedGroupL2
from skglm.solvers import GroupBCD

import tfreg
from tfreg.compute import reductions

THRESHOLD, SHARE = 1.3, 0.4
KINDS = {
    "GroupLasso": lambda **arguments: tfreg.GroupLasso(0.7, **arguments),
    "SparseGroupLasso": lambda **arguments: tfreg.SparseGroupLasso(0.7, SHARE, **arguments),
    "GroupMCP": lambda **arguments: tfreg.GroupMCP(0.7, THRESHOLD, **arguments),
}
MODES = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": lambda function: tf.function(function, jit_compile=True),
}


def members(shape, axis, lists):
    """Pairs of the number of a list and the indices of the entries of one of its groups."""
    a = {"output": len(shape) - 1, "input": len(shape) - 2}.get(axis, axis)
    a = max(a, 0) if isinstance(axis, str) else a % len(shape)
    found = {}
    for index in np.ndindex(*shape):
        for number, entries in enumerate(lists):
            if index[a] in entries:
                others = () if isinstance(axis, str) else index[:a] + index[a + 1 :]
                found.setdefault((number, others), []).append(index)
    return found


def oracle(w, kind, axis, lists, weights=None, size_weighted=True):
    value = 0.0
    for (number, _), indices in members(w.shape, axis, lists).items():
        entries = np.array([w[index] for index in indices])
        weight = np.sqrt(len(entries)) if size_weighted else 1.0
        weight = weight if weights is None else weights[number]
        norm = np.sqrt(np.sum(entries**2))
        if kind != "GroupMCP":
            value += weight * norm
        elif weight > 0:
            value += weight**2 * oracles.mcp(norm / weight, THRESHOLD)
    if kind == "SparseGroupLasso":
        value = SHARE * np.abs(w).sum() + (1.0 - SHARE) * value
    return 0.7 * value


@st.composite
def problems(draw, overlap=True):
    """A weight, an axis, lists of its indices and weights of their groups or None."""
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    names = ["output", "input"]
    axis = draw(st.sampled_from(names) | st.integers(-len(shape), len(shape) - 1))
    a = {"output": len(shape) - 1, "input": max(len(shape) - 2, 0)}.get(axis, axis)
    order = draw(st.permutations(range(shape[a])))
    if overlap and draw(st.booleans()):
        subset = st.lists(st.sampled_from(order), min_size=1, unique=True)
        lists = draw(st.lists(subset, min_size=1, max_size=4))
    else:
        used = order[: draw(st.integers(1, len(order)))]
        cuts = draw(st.sets(st.integers(1, len(used)), max_size=3))
        edges = sorted({0, *cuts, len(used)})
        lists = [used[first:last] for first, last in zip(edges, edges[1:])]
    number = st.sampled_from([0.0, 0.5, 2.0])
    each = st.lists(number, min_size=len(lists), max_size=len(lists))
    weights = draw(st.none() | each)
    seed = draw(st.integers(0, 2**16))
    return np.random.default_rng(seed).normal(size=shape), axis, lists, weights


@pytest.mark.parametrize("number", [10, slow(30)])
@pytest.mark.parametrize("kind", KINDS)
def test_value_gradient_and_config_are_those_of_the_loops(kind, number):
    def check(problem):
        w, axis, lists, weights = problem
        made = KINDS[kind](axis=axis, groups=lists, group_weights=weights)
        config = json.loads(json.dumps(made.get_config()))
        penalty = type(made).from_config(config)
        assert penalty.get_config() == made.get_config()
        value, gradient = value_and_gradient(penalty, tf.constant(w))
        np.testing.assert_allclose(value, oracle(w, kind, axis, lists, weights), rtol=1e-12)
        expected = oracles.finite_differences(lambda x: oracle(x, kind, axis, lists, weights), w)
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)

    settings(max_examples=number)(given(problems())(check))()


@pytest.mark.parametrize("number", [5, slow(20)])
@pytest.mark.parametrize("kind", KINDS)
def test_no_point_is_better_than_the_proximal_operator(kind, number):
    def check(problem):
        w, axis, lists, weights = problem
        penalty = KINDS[kind](axis=axis, groups=lists, group_weights=weights)
        x = penalty.prox(tf.constant(w), 0.8).numpy()

        def objective(y):
            return 0.5 * np.sum((y - w) ** 2) + 0.8 * oracle(y, kind, axis, lists, weights)

        rng, best = np.random.default_rng(0), objective(x)
        near = [x + scale * rng.normal(size=w.shape) for scale in (1e-3, 0.1) for _ in range(20)]
        for other in [w, 0.0 * w, 0.99 * x, 1.01 * x, *near]:
            assert best <= objective(other) + 1e-12

    settings(max_examples=number)(given(problems(overlap=False))(check))()


CASES = [
    ((7, 3), 0, [[0, 1, 2], [3, 4], [6]], None),
    ((2, 7, 3), 1, [[6, 0], [5, 1, 3]], [0.5, 2.0]),
    ((7, 3), "input", [[0, 1, 2], [3, 4], [6]], None),
    ((2, 3, 7), "output", [[6, 0], [5, 1, 3]], [0.0, 2.0]),
    ((7, 3), 0, [[0, 1], [1, 2], [5]], None),
    ((7, 3), "input", [[0, 1], [1, 2], [5]], [1.0, 2.0, 3.0]),
]


@pytest.fixture
def device(request):
    tfreg.kernels.set_device(request.param)
    yield request.param
    tfreg.kernels.set_device(None)


@pytest.mark.parametrize("device", reductions.DEVICES, indirect=True)
@pytest.mark.parametrize("kind", ["GroupLasso", slow("SparseGroupLasso"), slow("GroupMCP")])
@pytest.mark.parametrize(
    "case", [CASES[0], slow(CASES[1]), slow(CASES[2]), *CASES[3:5], slow(CASES[5])]
)
def test_modes_dtypes_and_strategies_agree(case, kind, device):
    shape, axis, lists, weights = case
    w = np.random.default_rng(0).normal(size=shape)
    penalty = KINDS[kind](axis=axis, groups=lists, group_weights=weights)
    tensors = [tf.cast(tf.constant(w), d) for d in ("bfloat16", "float16", "float32", "float64")]

    def of_each(*tensors):
        return [value_and_gradient(penalty, tensor) for tensor in tensors]

    for mode in ("graph", "xla"):
        for tensor, (value, gradient) in zip(tensors, MODES[mode](of_each)(*tensors)):
            exact = tf.cast(tensor, tf.float64).numpy()
            rtol = 1e-12 if tensor.dtype == tf.float64 else 1e-5
            np.testing.assert_allclose(value, oracle(exact, kind, axis, lists, weights), rtol)
            _, expected = value_and_gradient(penalty, tf.constant(exact))
            rtol = {"bfloat16": 1e-2, "float16": 2e-3, "float32": 1e-5}.get(tensor.dtype.name, 1e-9)
            np.testing.assert_allclose(
                tf.cast(gradient, tf.float64), expected, rtol=rtol, atol=1e-6
            )


@pytest.mark.parametrize("kind", ["GroupLasso", slow("SparseGroupLasso"), slow("GroupMCP")])
@pytest.mark.parametrize("scale", [1e-30, slow(1e-18), slow(1e18), 1e30])
@pytest.mark.parametrize("device", reductions.DEVICES, indirect=True)
def test_extreme_weights_keep_their_norms(kind, scale, device):
    for shape, axis, lists, weights in CASES[::2]:
        w = np.random.default_rng(0).normal(size=shape) * scale
        penalty = KINDS[kind](axis=axis, groups=lists, group_weights=weights)
        compiled = tf.function(lambda w: value_and_gradient(penalty, w))
        value, gradient = compiled(tf.constant(w, tf.float32))
        exact, expected = value_and_gradient(penalty, tf.constant(w))
        np.testing.assert_allclose(value, exact, rtol=1e-5)
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", ["output", 0])
def test_what_is_in_no_group_beside_overlapping_ones_is_free(kind, axis):
    w = np.array([0.1, -0.2, 0.6])
    penalty = KINDS[kind](axis=axis, groups=[[2], [2]])
    value, gradient = value_and_gradient(penalty, tf.constant(w))
    np.testing.assert_allclose(value, oracle(w, kind, axis, [[2], [2]]), rtol=1e-12)
    expected = oracles.finite_differences(lambda x: oracle(x, kind, axis, [[2], [2]]), w)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_lists_and_labels_are_the_runs_that_they_say(kind):
    w = tf.constant(np.random.default_rng(0).normal(size=(7, 4)))
    runs = KINDS[kind](axis=0, group_size=3)
    for groups in ([[0, 1, 2], [3, 4, 5], [6]], np.array([0, 0, 0, 1, 1, 1, 2])):
        penalty = KINDS[kind](axis=0, groups=groups)
        for actual, expected in zip(value_and_gradient(penalty, w), value_and_gradient(runs, w)):
            np.testing.assert_allclose(actual, expected, rtol=1e-12)
        np.testing.assert_allclose(penalty.prox(w, 0.5), runs.prox(w, 0.5), rtol=1e-12)


def test_what_is_in_no_group_is_free_even_if_it_is_not_finite():
    penalty = tfreg.GroupLasso(1.0, axis=0, groups=[0, 0, -1], size_weighted=False)
    w = tf.constant([3.0, 4.0, np.nan])
    value, gradient = value_and_gradient(penalty, w)
    assert float(value) == 5.0
    np.testing.assert_allclose(gradient, [0.6, 0.8, 0.0], rtol=1e-6)
    np.testing.assert_allclose(penalty.prox(w, 1.0), [2.4, 3.2, np.nan], rtol=1e-6)


@keras.saving.register_keras_serializable("tests")
def differences(sizes):
    return abs(np.diff(sizes))


@keras.saving.register_keras_serializable("tests")
def negatives(sizes):
    return -sizes


def test_a_function_of_the_sizes_must_return_a_weight_for_each_group():
    lists, w = [[0, 1, 2], [3]], tf.ones([5, 2])
    with pytest.raises(ValueError, match="a number for each of the 2 groups"):
        tfreg.GroupLasso(axis="input", groups=lists, group_weights=differences)(w)
    with pytest.raises(ValueError, match=r"finite number >= 0.*, with -6\.0"):
        tfreg.GroupLasso(axis="input", groups=lists, group_weights=negatives)(w)
    penalty = tfreg.GroupLasso(axis="input", groups=lists, group_weights=roots_of_roots)
    of_unknown = tf.function(penalty, input_signature=[tf.TensorSpec([None, 2])])
    with pytest.raises(ValueError, match="only for weights of known shape"):
        of_unknown(w)


@keras.saving.register_keras_serializable("tests")
def roots_of_roots(sizes):
    return np.sqrt(np.sqrt(sizes))


def test_weights_may_be_a_function_of_the_sizes(api, tmp_path):
    lists = [[0, 1, 2], [3]]
    penalty = tfreg.GroupLasso(0.5, "input", groups=lists, group_weights=roots_of_roots)
    layer = api.layers.Dense(4, kernel_regularizer=penalty)
    model = api.Sequential([api.Input((5,)), layer])
    expected = oracle(layer.kernel.numpy(), "GroupLasso", "input", lists, [12**0.25, 4**0.25])
    np.testing.assert_allclose(model.losses, [expected * 0.5 / 0.7], rtol=1e-5)
    model.save(tmp_path / "m.keras")
    again = api.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(again.losses, model.losses)
    with pytest.raises(ValueError, match="`group_weights` must be registered"):
        tfreg.GroupLasso(axis=0, groups=lists, group_weights=lambda sizes: sizes)


BAD = [
    ([], r"groups=\[\]"),
    ([[]], r"groups\[0\]=\[\]"),
    ([[0], [1, 1]], r"1 twice in groups\[1\]"),
    ([[0, True]], "True in"),
    ([[0.0]], "0.0 in"),
    ([[0, "1"]], "'1' in"),
    ([[-1]], "-1 in"),
    (["a"], r"groups\[0\]='a'"),
    ([[0], 1], r"groups\[1\]=1"),
    ("ab", "groups='ab'"),
    ([0, 2], "none of which is 1"),
    ([-1, -1], "none of which is 0"),
    ([0, -2], "label -2 at index 1"),
    ([0, 0.5], r"groups\[0\]=0"),
    ([0, 10**13], "none of which is 1"),
    ([0, 2**70], "none of which is 1"),
    ([[0, 2**31]], "2147483648 in"),
    (np.array(3), "groups=3"),
]


@pytest.mark.parametrize("groups, received", BAD, ids=str)
def test_bad_groups_name_the_first_bad_entry(groups, received):
    with pytest.raises(ValueError, match=f"Argument `groups` must be.*Received: .*{received}"):
        tfreg.GroupLasso(axis=0, groups=groups)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"axis": "all"}, "`groups` goes with an int.*'all'"),
        ({"axis": "shape"}, "`groups` goes with an int.*'shape'"),
        ({"axis": (0, 1)}, r"`groups` goes with an int.*\(0, 1\)"),
        ({"axis": 0, "group_size": 2}, "`groups` and `group_size` do not go together"),
        (
            {"axis": 0, "group_weights": [1.0]},
            "`group_weights` must have a number for each of the 2",
        ),
        (
            {"axis": 0, "group_weights": [1.0, -2.0]},
            r"`group_weights` must be a finite number >= 0.*, with -2\.0",
        ),
        ({"axis": 0, "group_weights": [1.0, 1.0], "size_weighted": False}, "in place of"),
    ],
)
def test_what_does_not_go_with_groups_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfreg.GroupLasso(groups=[[0], [1]], **arguments)


def test_group_weights_without_groups_are_refused():
    with pytest.raises(ValueError, match="`group_weights` goes with `groups`"):
        tfreg.GroupLasso(group_weights=[1.0])


@pytest.mark.parametrize(
    "axis, groups, message",
    [
        (0, [[0, 9]], "indices below 3.*Received: 9.*kernel"),
        ("output", [[0, 9]], "indices below 4.*Received: 9.*kernel"),
        (0, [0, 1], "a label for each index.*2 labels for the 3 indices.*kernel"),
    ],
)
def test_what_only_the_weight_shows_names_it(api, axis, groups, message):
    layer = api.layers.Dense(4, kernel_regularizer=tfreg.GroupLasso(axis=axis, groups=groups))
    with pytest.raises(ValueError, match=message):
        layer(tf.ones([1, 3]))
        layer.losses


def test_overlap_has_no_proximal_operator_and_names_an_index():
    penalty = tfreg.GroupLasso(axis=0, groups=[[0, 2], [1, 2]])
    with pytest.raises(NotImplementedError, match="disjoint groups has one.*the index 2 in two"):
        penalty.prox(tf.ones([3]), 1.0)


@pytest.mark.parametrize("count", [1_000, slow(100_000)])
def test_a_graph_does_not_grow_with_the_number_of_groups(count):
    sizes = 1 + np.random.default_rng(0).integers(0, 4, count)
    labels = np.repeat(np.arange(count), sizes)
    for order in (labels, np.random.default_rng(0).permutation(labels)):
        penalty = tfreg.GroupLasso(axis=0, groups=order)
        traced = tf.function(lambda w: value_and_gradient(penalty, w))
        graph = traced.get_concrete_function(tf.TensorSpec([len(labels)])).graph
        functions = graph.as_graph_def().library.function
        assert sum(len(function.node_def) for function in functions) < 500


def test_ten_thousand_groups_are_saved_and_loaded(tmp_path):
    lists = [[2 * i, 2 * i + 1] for i in range(10_000)]
    layer = keras.layers.Dense(1, kernel_regularizer=tfreg.GroupLasso(0.1, "input", groups=lists))
    model = keras.Sequential([keras.Input((20_000,)), layer])
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert again.layers[0].kernel_regularizer.groups == lists
    np.testing.assert_allclose(again.losses, model.losses)


def test_joint_ties_the_kth_lists_of_each_weight(api):
    rng = np.random.default_rng(0)
    layers = [api.layers.Dense(2, use_bias=False), api.layers.Dense(6, use_bias=False)]
    model = api.Sequential([api.Input((6,)), *layers])
    lists = [[[0, 1], [2]], [[5], [4, 3]]]
    penalty = tfreg.Joint(tfreg.GroupLasso(0.5, axis=["input", "output"], groups=lists))
    tfreg.add_penalty(model, penalty, weights=layers)
    first, second = rng.normal(size=(6, 2)), rng.normal(size=(2, 6))
    for layer, w in zip(layers, (first, second)):
        layer.kernel.assign(w)
    expected = 0.0
    for a, b in zip(*lists):
        tied = np.concatenate([first[a].ravel(), second[:, b].ravel()])
        expected += 0.5 * np.sqrt(tied.size) * np.linalg.norm(tied)
    np.testing.assert_allclose(model.losses, [expected], rtol=1e-6)
    again = tfreg.Joint.from_config(json.loads(json.dumps(penalty.get_config())))
    weights = [tf.constant(first), tf.constant(second)]
    np.testing.assert_allclose(again(weights), expected, rtol=1e-12)
    [attached] = tfreg.get_penalties(model)
    shrunk = attached.prox(1e3)
    np.testing.assert_array_equal(shrunk[0][:3], np.zeros((3, 2)))
    np.testing.assert_allclose(shrunk[0][3:], first[3:], rtol=1e-6)
    np.testing.assert_array_equal(shrunk[1][:, 3:], np.zeros((2, 3)))


def test_joint_weights_are_those_of_the_lists():
    weights = [tf.constant([[3.0, 1.0]]), tf.constant([[4.0], [7.0], [1.0]])]
    penalty = tfreg.GroupLasso(
        1.0, ["output", "input"], groups=[None, [[0], [2]]], group_weights=[2.0, 0.5]
    )
    expected = 2.0 * 5.0 + 0.5 * 2.0**0.5
    np.testing.assert_allclose(tfreg.Joint(penalty)(weights), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_joint_lists_that_overlap_have_no_proximal_operator(kind):
    layer = keras.layers.Dense(2, use_bias=False)
    model = keras.Sequential([keras.Input((3,)), layer])
    penalty = KINDS[kind](axis="input", groups=[[0, 1], [1, 2]])
    tfreg.add_penalty(model, tfreg.Joint(penalty), weights=[layer])
    [attached] = tfreg.get_penalties(model)
    with pytest.raises(NotImplementedError, match="disjoint groups has one.*the index 1 in two"):
        attached.prox(1.0)


def test_joint_wants_lists_for_each_weight():
    weights = [tf.ones([3, 2]), tf.ones([3, 2]), tf.ones([3, 2])]
    penalty = tfreg.GroupLasso(axis="input", groups=[[[0], [1, 2]], [[2], [0]]])
    with pytest.raises(ValueError, match="an entry for each weight.*axis='input'.*at 0, .*at 2"):
        tfreg.Joint(penalty)(weights)
    with pytest.raises(ValueError, match="an entry for each weight only under tfreg.Joint"):
        penalty(weights[0])
    with pytest.raises(ValueError, match="`axis` and `groups` must have an entry for each weight"):
        tfreg.GroupLasso(axis=["input"] * 3, groups=[[[0]], [[1]]])
    with pytest.raises(ValueError, match="must have as many.*with 2.*with 1"):
        tfreg.Joint(tfreg.GroupLasso(axis="input", groups=[[[0], [1]], [[0, 1]]]))(weights[:2])


@pytest.mark.slow
def test_least_squares_reach_the_coefficients_of_skglm():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 12))
    lists = [[3, 0, 7], [1], [2, 11, 4, 10], [5, 9], [6, 8]]
    true = np.zeros(12)
    true[lists[0] + lists[3]] = [2.0, -1.0, 0.5, 1.0, 3.0]
    y = x @ true + 0.1 * rng.normal(size=80)
    alpha, weights = 0.2, np.sqrt([len(entries) for entries in lists])
    where = np.array([0, *np.cumsum([len(entries) for entries in lists])], np.int32)
    order = np.concatenate(lists).astype(np.int32)
    theirs, _, _ = GroupBCD(max_iter=10_000, tol=1e-12, fit_intercept=False).solve(
        x, y, QuadraticGroup(where, order), WeightedGroupL2(alpha, weights, where, order)
    )
    penalty = tfreg.GroupLasso(alpha, "input", groups=lists)
    step = len(y) / np.linalg.norm(x, 2) ** 2
    prox = tf.function(lambda w: penalty.prox(w, step))
    ours = tf.zeros([12, 1], tf.float64)
    for _ in range(500):
        ours = prox(ours - step / len(y) * x.T @ (x @ ours - y[:, np.newaxis]))
    np.testing.assert_allclose(ours[:, 0], theirs, atol=1e-6)
    assert np.count_nonzero(theirs) == 5 == np.count_nonzero(ours)


def test_an_integer_axis_counts_the_weights_own_entries(api):
    layer = api.layers.LSTM(2)
    model = api.Sequential([api.Input((4, 3)), layer])
    lists = [[0, 7], [3, 4, 5]]
    tfreg.add_penalty(
        model, tfreg.GroupLasso(0.7, axis=1, groups=lists), weights=[layer.cell.kernel]
    )
    kernel = layer.cell.kernel.numpy()
    np.testing.assert_allclose(model.losses, [oracle(kernel, "GroupLasso", 1, lists)], rtol=1e-5)


def test_names_of_axes_follow_the_layer(api):
    lists = [[0, 2], [1]]
    layer = api.layers.Conv2DTranspose(3, 2)
    model = api.Sequential([api.Input((4, 4, 5)), layer])
    tfreg.add_penalty(model, tfreg.GroupLasso(0.7, axis="output", groups=lists))
    kernel = np.moveaxis(layer.kernel.numpy(), 2, 3)
    expected = oracle(kernel, "GroupLasso", "output", lists)
    np.testing.assert_allclose(model.losses, [expected], rtol=1e-5)


def test_equal_layers_are_computed_together():
    lists = [[0, 2], [1]]
    layers = [keras.layers.Dense(4) for _ in range(3)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    tfreg.add_penalty(model, tfreg.GroupLasso(0.7, axis="input", groups=lists))
    kernels = [layer.kernel.numpy() for layer in layers]
    expected = sum(oracle(kernel, "GroupLasso", "input", lists) for kernel in kernels)
    np.testing.assert_allclose(sum(model.losses), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[4]])
def test_weights_of_unknown_shape_work(case, kind):
    shape, axis, lists, weights = case
    w = np.random.default_rng(0).normal(size=shape)
    penalty = KINDS[kind](axis=axis, groups=lists, group_weights=weights)
    signature = [tf.TensorSpec([None] * len(shape), tf.float64)]
    value, gradient = tf.function(
        lambda w: value_and_gradient(penalty, w), input_signature=signature
    )(w)
    np.testing.assert_allclose(value, oracle(w, kind, axis, lists, weights), rtol=1e-12)
    np.testing.assert_allclose(gradient, value_and_gradient(penalty, tf.constant(w))[1])


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 4) | st.floats() | st.text(max_size=2),
    lambda each: st.lists(each, max_size=4) | st.lists(each, max_size=3).map(tuple),
    max_leaves=8,
)


@pytest.mark.parametrize("number", [50, slow(1000)])
def test_anything_else_raises_a_documented_error(number):
    def check(groups, group_weights):
        try:
            tfreg.GroupLasso(1.0, "input", groups=groups, group_weights=group_weights)
        except (TypeError, ValueError) as error:
            assert "Received" in str(error)

    settings(max_examples=number)(given(JUNK, JUNK)(check))()


def test_long_lists_are_shown_without_their_middle():
    penalty = tfreg.GroupLasso(axis=0, groups=np.arange(10_000))
    assert "groups=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... 10000 in all]" in repr(penalty)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_one_may_be_infinite(kind, mode):
    w = tf.constant([[1.0, np.inf], [2.0, 3.0]], tf.float64)
    for arguments in ({"axis": "output", "groups": [[1]]}, {"axis": 1, "groups": [[1]]}):
        penalty = KINDS[kind](**arguments)
        value, gradient = MODES[mode](lambda w: value_and_gradient(penalty, w))(w)
        eager, _ = value_and_gradient(penalty, w)
        np.testing.assert_array_equal(value, eager)
        assert not np.isnan(float(value)) and np.isfinite(gradient[0, 0])


@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_weight_0_is_free_whatever_it_holds(kind, bad):
    w = tf.constant([bad, 1.0, 3.0, 4.0], tf.float64)
    lists, weights = [[0, 1], [2, 3]], [0.0, 1.0]
    if kind == "SparseGroupLasso":
        penalty = tfreg.SparseGroupLasso(0.7, 0.0, 0, groups=lists, group_weights=weights)
    else:
        penalty = KINDS[kind](axis=0, groups=lists, group_weights=weights)
    without = type(penalty).from_config(
        {**penalty.get_config(), "groups": lists[1:], "group_weights": weights[1:]}
    )
    joint = tfreg.Joint(penalty)
    for function in (penalty, lambda w: joint([w])):
        value, gradient = value_and_gradient(function, w)
        expected_value, expected = value_and_gradient(without, w)
        np.testing.assert_allclose(value, expected_value, rtol=1e-12)
        np.testing.assert_allclose(gradient, expected, rtol=1e-12)
    np.testing.assert_allclose(penalty.prox(w, 0.5), without.prox(w, 0.5), rtol=1e-12)
    np.testing.assert_allclose(joint.prox_on([w], [None], 0.5)[0], without.prox(w, 0.5), rtol=1e-12)


@pytest.mark.parametrize(
    "device, mode",
    # A TPU has nothing but XLA.
    [(d, mode) for d in reductions.DEVICES for mode in MODES if d != "TPU" or mode == "xla"],
    indirect=["device"],
)
def test_slopes_of_overlapping_groups_hold_for_huge_norms(mode, device):
    lists = [[0, 1], [1, 2]]
    joint = tfreg.Joint(tfreg.GroupLasso(1e-3, 0, groups=lists, size_weighted=False))

    def of_two(w):
        return value_and_gradient(lambda w: joint([w, w]), w)

    for scale in (1e36, 1e-36):
        w = tf.constant([scale, scale, 0.0], tf.float32)
        _, gradient = MODES[mode](of_two)(w)
        _, expected = of_two(tf.cast(w, tf.float64))
        np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_a_free_entry_that_is_nan_reaches_no_second_derivative_of_others():
    penalty = tfreg.GroupLasso(1.0, "input", groups=[[0, 1]])
    w = tf.Variable([[1.0, 2.0], [0.5, 1.0], [np.nan, 1.0]], dtype=tf.float64)
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            value = penalty(w)
        total = tf.reduce_sum(inner.gradient(value, w)[:2])
    second = outer.gradient(total, w)[:2]
    assert np.isfinite(second).all() and np.abs(second).max() > 0.0


@pytest.mark.parametrize("axis", [0, "input"])
@pytest.mark.parametrize("groups, length", [([0, 1, 1], 5), ([0, 0, 1, 1], 3), ([[0, 9]], 3)])
def test_a_running_graph_checks_indices_of_unknown_shapes(axis, groups, length):
    penalty = tfreg.GroupLasso(1.0, axis, groups=groups)
    value = tf.function(penalty, input_signature=[tf.TensorSpec([None, 2])], autograph=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`groups` is for weights with"):
        value(tf.ones([length, 2]))


@keras.saving.register_keras_serializable("tests")
def roots_in_tensorflow(sizes):
    return tf.sqrt(tf.cast(sizes, tf.float32))


def test_a_function_of_the_sizes_may_use_tensorflow():
    lists, w = [[0, 1, 2], [3]], tf.ones([5, 2])
    penalty = tfreg.GroupLasso(axis="input", groups=lists, group_weights=roots_in_tensorflow)
    expected = tfreg.GroupLasso(axis="input", groups=lists)(w)
    for mode in MODES.values():
        np.testing.assert_allclose(mode(penalty)(w), expected, rtol=1e-6)


def test_joint_weights_need_as_many_groups_of_each_weight():
    groups = [[[0], [1]], [[0], [1], [2]]]
    with pytest.raises(ValueError, match=r"as many groups of each weight. Received: \[2, 3\]"):
        tfreg.GroupLasso(1.0, "input", groups=groups, group_weights=[1.0, 2.0])
    penalty = tfreg.GroupLasso(
        1.0, ["output", 0], groups=[None, [[0, 1]]], group_weights=roots_of_roots
    )
    with pytest.raises(ValueError, match=r"as many groups of each weight. Received: \[4, 1\]"):
        tfreg.Joint(penalty)([tf.ones([3, 4]), tf.ones([2, 4])])


def test_joint_takes_an_integer_axis_for_each_weight():
    penalty = tfreg.GroupLasso(1.0, [0, 1], groups=[[[0]], [[1]]], size_weighted=False)
    value = tfreg.Joint(penalty)([tf.constant([[3.0], [7.0]]), tf.constant([[7.0, 4.0]])])
    assert float(value) == 5.0
    assert penalty.axis == [0, 1]


def test_an_unpickled_table_is_the_same():
    penalty = tfreg.GroupLasso(axis=0, groups=[[0, 2], [1]])
    penalty(tf.ones([3]))
    again = pickle.loads(pickle.dumps(penalty))
    assert again._groups[0] == penalty._groups[0]
    assert "_hash" not in vars(again._groups[0].lists.table)
