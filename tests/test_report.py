"""The report of a model, against NumPy's loops over its weights."""

import itertools
import json
import math

import cases
import keras
import networks
import numpy as np
import oracles
import pytest
import tensorflow as tf
import tf_keras
from marks import KERAS_3_FIRST

import tfreg
from tfreg.proximal.zeros import count_zeros
from tfreg.reporting import zeros
from tfreg.reporting.zeros import norms_in, structures, zero_groups

HALF = tfreg.schedules.CubicRamp(begin=0, end=1, start=0.5, peak=0.5)
RAMP = tfreg.schedules.CubicRamp(begin=0, end=8)
TOLERANCE = 0.1


def net(api, regularizer=None, dtype=None):
    """A convolution, a frozen dense layer and two others."""
    k = api.layers
    layers = [
        k.Conv2D(4, 3, name="conv", kernel_regularizer=regularizer, dtype=dtype),
        k.Flatten(),
        k.Dense(6, name="hidden", dtype=dtype),
        k.Dense(6, name="frozen", trainable=False),
        k.Dense(3, name="last"),
    ]
    model = api.Sequential([api.Input((5, 5, 2)), *layers], name="net")
    return networks.randomize(model, np.random.default_rng(0))


def assigned(weight, index, value=0.0):
    array = np.asarray(weight).copy()
    array[index] = value
    weight.assign(array)


def norms_by_loops(arrays, members):
    """The norms of tied groups, and which are 0; `members` lists those of each array."""
    norms, are_zero = [], []
    for tied in zip(*members, strict=True):
        values = [float(w[index]) for w, indices in zip(arrays, tied) for index in indices]
        norms.append(math.sqrt(math.fsum(value * value for value in values)))
        are_zero.append(not any(values))
    return np.array(norms), np.array(are_zero)


def in_order(groups):
    """The lists of indices of groups in the order of their identities."""
    return [indices for _, indices in sorted(groups.items())]


def random_zeros(rng, arrays, members, share=0.5):
    """Sets a random part of the groups to 0, and single elements; one group gets tiny."""
    for number, tied in enumerate(zip(*members, strict=True)):
        kind = rng.uniform()
        for w, indices in zip(arrays, tied):
            for index in indices:
                if kind < share:
                    w[index] = 0.0
                elif number == 0:
                    w[index] *= 1e-3
    for w in arrays:
        w[tuple(rng.integers(0, n) for n in w.shape)] = 0.0
    return arrays


def group_norms(penalty, variables, layouts):
    arrays = [tf.convert_to_tensor(variable).numpy() for variable in variables]
    return norms_in(structures(penalty, [array.shape for array in arrays], layouts), arrays)


# Groups, by an oracle of each kind.


def positional(shape, *, axis, group_size=None):
    return in_order(oracles.groups(shape, axis, group_size))


POSITIONAL = [
    ((6, 4), {"axis": "output"}),
    ((6, 4), {"axis": "input"}),
    ((6, 4), {"axis": "all"}),
    ((5,), {"axis": "input"}),
    ((5,), {"axis": "output"}),
    ((3, 2, 4, 5), {"axis": "output"}),
    ((3, 2, 4, 5), {"axis": "input"}),
    ((3, 2, 4, 5), {"axis": "shape"}),
    ((7, 4), {"axis": 0, "group_size": 3}),
    ((7, 4), {"axis": (0, 1), "group_size": (3, None)}),
    ((7, 5), {"axis": (0, 1), "group_size": (3, 2)}),
    ((3, 7, 2), {"axis": -2, "group_size": 4}),
    ((3, 4, 2), {"axis": (0, 2)}),
    ((3, 4, 2), {"axis": 1}),
]
CLASSES = [tfreg.GroupLasso, tfreg.SparseGroupLasso, tfreg.GroupMCP]


@pytest.mark.parametrize("shape, arguments", POSITIONAL, ids=str)
def test_the_groups_of_a_weight_are_those_of_a_loop(shape, arguments):
    rng = np.random.default_rng(1)
    members = [positional(shape, **arguments)]
    [w] = random_zeros(rng, [rng.normal(size=shape)], members)
    for cls, dtype in itertools.product(CLASSES, ["float32", "float64", "float16", "bfloat16"]):
        weight = tf.Variable(tf.cast(w, dtype))
        array = tf.cast(weight, tf.float64).numpy()
        expected, are_zero = norms_by_loops([array], members)
        penalty = cls(0.1, **arguments)
        norms = group_norms(penalty, [weight], [None])
        np.testing.assert_allclose(norms, expected, rtol=1e-14)
        assert norms.dtype == np.float64
    zeros, total = count_zeros(penalty, [tf.convert_to_tensor(weight)], [None])
    assert (int(zeros), total) == (int(are_zero.sum()), len(expected))


LISTS = {
    "overlapping": [[0, 2, 3], [3, 4], [5]],  # 1 is in no group
    "labels": [0, 1, 1, -1, 0, 2],
}


def indices_of(groups):
    if isinstance(groups[0], list):
        return groups
    return [[i for i, label in enumerate(groups) if label == k] for k in range(max(groups) + 1)]


@pytest.mark.parametrize("name", sorted(LISTS))
@pytest.mark.parametrize("axis", ["input", "output", 0, 1])
def test_groups_by_lists_are_those_of_a_loop(name, axis):
    groups = LISTS[name]
    shape = {"input": (6, 4), "output": (4, 6), 0: (6, 4), 1: (4, 6)}[axis]
    place = {"input": 0, "output": 1, 0: 0, 1: 1}[axis]
    along, across = range(shape[place]), range(shape[1 - place])
    assert len(along) == 6

    def at(i, j):
        return (i, j) if place == 0 else (j, i)

    if isinstance(axis, str):
        members = [[at(i, j) for i in each for j in across] for each in indices_of(groups)]
    elif place == 0:
        members = [[at(i, j) for i in each] for each in indices_of(groups) for j in across]
    else:
        members = [[at(i, j) for i in each] for j in across for each in indices_of(groups)]
    rng = np.random.default_rng(2)
    [w] = random_zeros(rng, [rng.normal(size=shape)], [members])
    penalty = tfreg.GroupLasso(0.1, axis=axis, groups=groups)
    expected, are_zero = norms_by_loops([w], [members])
    np.testing.assert_allclose(group_norms(penalty, [tf.Variable(w)], [None]), expected, rtol=1e-14)
    model = tfreg.add_penalty(dense_with(keras, w), penalty)
    assert zero_groups(model) == (are_zero.sum(), len(expected))
    if name == "labels":  # which are disjoint
        zeros, total = count_zeros(penalty, [tf.constant(w)], [None])
        assert (int(zeros), total) == (are_zero.sum(), len(expected))


def dense_with(api, kernel):
    """A model of one layer with that kernel, in float64."""
    rows, columns = kernel.shape
    layer = api.layers.Dense(columns, use_bias=False, dtype="float64")
    model = api.Sequential([api.Input((rows,)), layer])
    layer.kernel.assign(kernel)
    return model


GROUPED_JOINTS = [
    case
    for case in cases.JOINT_CASES
    if isinstance(case.penalty.penalty, (tfreg.GroupLasso, tfreg.SparseGroupLasso, tfreg.GroupMCP))
]


@pytest.mark.parametrize("case", GROUPED_JOINTS, ids=str)
def test_tied_groups_are_those_of_a_loop(case):
    penalty = case.penalty.penalty
    axes = penalty.axis if isinstance(penalty.axis, list) else [penalty.axis] * len(case.shapes)
    members = [
        positional(shape, axis=axis, group_size=penalty.group_size)
        for shape, axis in zip(case.shapes, axes)
    ]
    rng = np.random.default_rng(3)
    arrays = random_zeros(rng, [rng.normal(size=shape) for shape in case.shapes], members)
    expected, are_zero = norms_by_loops(arrays, members)
    layouts = [None] * len(arrays)
    norms = group_norms(case.penalty, list(map(tf.Variable, arrays)), layouts)
    np.testing.assert_allclose(norms, expected, rtol=1e-14)
    zeros, total = count_zeros(case.penalty, list(map(tf.constant, arrays)), layouts)
    assert (int(zeros), total) == (are_zero.sum(), len(expected))


def row_of(model, **more):
    [row] = tfreg.report(model, **more).penalties
    return row


def assert_row(row, arrays, members, tolerance):
    """A row of a report has the figures of a loop over the groups of the weights as saved."""
    expected, are_zero = norms_by_loops(arrays, members)
    np.testing.assert_allclose(row.norms, expected, rtol=1e-12)
    assert (row.groups, row.zero_groups) == (len(expected), int(are_zero.sum()))
    small = [zero or norm <= tolerance * expected.max() for norm, zero in zip(expected, are_zero)]
    assert row.small_groups == sum(small) >= row.zero_groups > 0
    assert row.elements == sum(w.size for w in arrays)
    assert row.zero_elements == sum(int((w == 0).sum()) for w in arrays)


LAYER_GROUPS = {
    "an LSTM": (lambda k: k.LSTM(3), (4, 2), "output", lambda s: oracles.recurrent_units(s, 4)),
    "a GRU": (lambda k: k.GRU(3), (4, 2), "output", lambda s: oracles.recurrent_units(s, 3)),
    "inputs of an LSTM": (lambda k: k.LSTM(3), (4, 2), "input", lambda s: along(s, 0)),
    "a grouped convolution": (
        lambda k: k.Conv2D(6, 2, groups=2),
        (4, 4, 4),
        "input",
        lambda s: oracles.grouped_convolution(s, "input", 2),
    ),
    "a depthwise convolution": (
        lambda k: k.DepthwiseConv2D(2, depth_multiplier=2),
        (4, 4, 3),
        "input",
        lambda s: along(s, 2),
    ),
    "a transposed convolution": (
        lambda k: k.Conv2DTranspose(3, 2),
        (4, 4, 2),
        "output",
        lambda s: along(s, 2),
    ),
    "an embedding": (lambda k: k.Embedding(7, 3), None, "input", lambda s: along(s, 0)),
}


def along(shape, axis):
    return oracles.entries_along(shape, axis)


@KERAS_3_FIRST
@pytest.mark.parametrize("name", sorted(LAYER_GROUPS))
def test_the_groups_of_a_layer_are_those_of_a_loop(api, name):
    make, shape, axis, groups = LAYER_GROUPS[name]
    layer = make(api.layers)
    x = api.Input((5,), dtype="int32") if shape is None else api.Input(shape)
    model = api.Model(x, layer(x))
    weight = model.trainable_weights[0]
    members = [in_order(groups(tuple(weight.shape)))]
    rng = np.random.default_rng(4)
    weight.assign(random_zeros(rng, [rng.normal(size=weight.shape)], members)[0])
    penalty = tfreg.GroupLasso(0.1, axis=axis)
    model = tfreg.add_penalty(model, penalty, weights=[weight])
    row = row_of(model, tolerance=TOLERANCE)
    assert_row(row, [np.asarray(weight)], members, TOLERANCE)
    # The argument of a layer sees no layer: its axes go by position.
    by_position = group_norms(penalty, [weight], [None])
    expected, _ = norms_by_loops([np.asarray(weight)], [positional(tuple(weight.shape), axis=axis)])
    np.testing.assert_allclose(by_position, expected, rtol=1e-12)


@KERAS_3_FIRST
def test_heads_are_groups(api):
    x = api.Input((4, 5))
    attention = api.layers.MultiHeadAttention(3, 2, name="attention")
    model = api.Model(x, attention(x, x))
    [kernel] = [w for w in model.weights if tuple(w.shape) == (5, 3, 2)][:1]
    kernel.assign(np.random.default_rng(0).normal(size=(5, 3, 2)))
    assigned(kernel, np.s_[:, 1])
    model = tfreg.add_penalty(model, tfreg.GroupLasso(0.1, axis="head"), weights=[kernel])
    members = [in_order(along((5, 3, 2), 1))]
    assert_row(row_of(model), [np.asarray(kernel)], members, 1e-3)


@pytest.mark.parametrize("name", ["residual", "recurrent", "bert"])
@KERAS_3_FIRST
def test_the_entries_of_couplings_are_those_of_a_loop(api, name):
    rules = networks.NETWORKS[name].rules(api)
    model = networks.randomize(networks.NETWORKS[name](api), np.random.default_rng(0))
    couplings = tfreg.couple(model, rules)
    for coupling in couplings:
        coupling.zero([0, coupling.size - 1])
    members = [
        [[owned(member, entry) for entry in range(coupling.size)] for member in coupling.members]
        for coupling in couplings
    ]
    is_trained = [
        [any(weight is w for w in model.trainable_weights) for weight in coupling.weights]
        for coupling in couplings
    ]
    model = tfreg.add_penalty(model, tfreg.GroupLasso(0.1), weights=couplings)
    rows = tfreg.report(model, TOLERANCE, rules).penalties
    assert len(rows) == len(couplings) and all(row.where == "model" for row in rows)
    for row, coupling, tied, trained in zip(rows, couplings, members, is_trained):
        arrays = [np.asarray(weight) for weight in coupling.weights]
        assert row.paths == [p for p, each in zip(coupling.paths, trained) if each]
        chosen = [each for each, is_one in zip(zip(arrays, tied), trained) if is_one]
        assert_row(row, [w for w, _ in chosen], [of for _, of in chosen], TOLERANCE)
    zeros, total = zero_groups(model)
    assert (zeros, total) == (2 * len(couplings), sum(each.size for each in couplings))


def owned(member, entry):
    """The indices of the elements that an entry of a coupling owns in a weight, each once."""
    found = {}
    for axis, indices in member.slices:
        for index in np.ndindex(*member.variable.shape):
            if index[axis] in indices[entry]:
                found[index] = None
    return list(found)


@KERAS_3_FIRST
def test_a_sum_has_the_groups_of_its_first_member_that_has_some(api):
    penalty = tfreg.BoxPenalty(0.1) + tfreg.GroupLasso(0.1, "input") + tfreg.GroupLasso(0.1)
    model = net(api)
    assigned(model.get_layer("hidden").kernel, np.s_[[1, 5]])
    model = tfreg.add_penalty(model, penalty, weights="hidden/kernel")
    row = row_of(model)
    kernel = np.asarray(model.get_layer("hidden").kernel)
    assert_row(row, [kernel], [positional(kernel.shape, axis="input")], 1e-3)
    assert row.strength is None


def test_without_groups_the_norms_are_those_of_elements(api):
    model = net(api)
    kernel = model.get_layer("last").kernel
    assigned(kernel, np.s_[0])
    model = tfreg.add_penalty(model, tfreg.MCP(0.1, 2.0), weights="last/kernel")
    row = row_of(model)
    assert row.groups is row.zero_groups is row.small_groups is None
    np.testing.assert_array_equal(row.norms, np.abs(np.asarray(kernel, np.float64)).ravel())
    assert row.norms.dtype == np.float32
    assert (row.elements, row.zero_elements) == (18, 3)


@KERAS_3_FIRST
def test_a_weight_with_an_axis_of_length_0_has_rows(api):
    class Empty(api.layers.Layer):
        def build(self, shape):
            self.rows = self.add_weight(name="rows", shape=(0, 4), regularizer=penalty("output"))
            self.columns = self.add_weight(name="columns", shape=(4, 0), regularizer=penalty(0))
            self.none = self.add_weight(name="none", shape=(0, 4), regularizer=penalty("input"))
            self.built = True

        def call(self, x):
            return x

    def penalty(axis):
        return tfreg.GroupLasso(0.1, axis=axis)

    model = api.Sequential([api.Input((8,)), Empty()])
    found = tfreg.report(model)
    assert [(row.groups, row.zero_groups) for row in found.penalties] == [(4, 4), (0, 0), (0, 0)]
    assert all(row.elements == row.value == 0 for row in found.penalties) and str(found)
    assert zero_groups(model) == (4, 4)


def test_no_table_as_large_as_a_large_weight_is_remembered():
    model = keras.Sequential([keras.Input((1100,)), keras.layers.Dense(1000, use_bias=False)])
    penalty = tfreg.GroupLasso(0.1, axis=0, group_size=3)
    model = tfreg.add_penalty(model, penalty)
    before = zeros._kept.cache_info().currsize
    assert zero_groups(model) == (0, 367 * 1000)
    assert zeros._kept.cache_info().currsize == before
    [numbered] = structures(penalty, [(1100, 1000)], [None])
    assert numbered.numbers.dtype == np.int32
    # Of whole axes no table is made.
    [whole] = structures(tfreg.GroupLasso(0.1), [(1100, 1000)], [None])
    assert whole.numbers.size == 1000


def test_norms_neither_overflow_nor_hide_what_is_not_a_number():
    penalty = tfreg.GroupLasso(0.1)
    for factor in (1e-200, 1e200):
        w = factor * np.array([[3.0, 0.0], [4.0, 0.0]])
        np.testing.assert_allclose(
            group_norms(penalty, [tf.Variable(w)], [None]), [5.0 * factor, 0.0], rtol=1e-15
        )
    # Each group at its own scale.
    columns = np.array([3e200, 3.0, 3e-200, 3e-310, 0.0, math.nan, math.inf])
    w = np.stack([columns, 4 / 3 * columns])
    np.testing.assert_allclose(
        group_norms(penalty, [tf.Variable(w)], [None]),
        [5e200, 5.0, 5e-200, 5e-310, 0.0, math.nan, math.inf],
        rtol=1e-12,
    )
    w = tf.Variable([[math.nan, 1.0, math.inf, 0.0]])
    np.testing.assert_array_equal(group_norms(penalty, [w], [None]), [math.nan, 1.0, math.inf, 0])


def test_a_group_whose_square_is_zero_is_not_zero(api):
    model = api.Sequential([api.Input((2,)), api.layers.Dense(3, dtype="float64")])
    model.layers[0].kernel.assign([[1.0, 1e-200, 0.0], [1.0, 0.0, 0.0]])
    model = tfreg.add_penalty(model, tfreg.GroupLasso(0.1))
    row = row_of(model, tolerance=0.0)
    assert (row.zero_groups, row.zero_elements) == (1, 3)
    assert zero_groups(model) == (1, 3)


# Values and strengths.


def test_the_values_in_the_loss_add_up_to_the_losses(api):
    model = net(api, regularizer=tfreg.GroupLasso(0.01))
    for layer in ("hidden", "last"):
        kernel = model.get_layer(layer).kernel
        if api is keras:
            kernel.regularizer = keras.regularizers.L1(0.02)
    model = tfreg.add_penalty(model, tfreg.SparseGroupLasso(0.3), schedule=HALF)
    model = tfreg.add_penalty(model, tfreg.GroupLasso(0.2), weights=tfreg.couple(model))
    joint = tfreg.Joint(tfreg.GroupLasso(0.4, axis=["output", "input"]))
    model = tfreg.add_penalty(model, joint, weights=["hidden/kernel", "frozen/kernel"])
    proximal = tfreg.Proximal(api.optimizers.SGD(0.1), model, [("hidden", tfreg.MCP(0.1, 2.0))])
    model.compile(proximal, "mse")
    found = tfreg.report(model)
    wheres = [row.where for row in found.penalties]
    assert {"layer", "model", "optimizer"} == {*wheres}
    in_loss = [row.value for row in found.penalties if row.where != "optimizer"]
    losses = math.fsum(map(float, model.losses))
    np.testing.assert_allclose(math.fsum(in_loss), losses, rtol=1e-6)
    np.testing.assert_allclose(sum(row.share for row in found.penalties), 1.0, rtol=1e-12)
    total = math.fsum(row.value for row in found.penalties)
    for row in found.penalties:
        np.testing.assert_allclose(row.share, row.value / total, rtol=1e-12)
    frozen = [row for row in found.penalties if row.paths == ["frozen/kernel"]]
    assert [row.value for row in frozen] == [0.0] and frozen[0].elements == 36
    # A joint penalty on a frozen weight and on one that is trained counts whole.
    [tied] = [row for row in found.penalties if row.penalty.startswith("Joint")]
    assert tied.value > 0.0 and tied.paths == ["hidden/kernel", "frozen/kernel"]
    [own] = [row for row in found.penalties if row.where == "layer" and row.groups is not None]
    assert (own.paths, own.strength) == (["conv/kernel"], 0.01)


@pytest.mark.parametrize(
    "name, expected", [("L1", 0.01), ("L2", 0.01), ("L1L2", None), ("OrthogonalRegularizer", None)]
)
def test_regularizers_of_keras_have_rows_without_groups(api, name, expected):
    arguments = {"l1": 0.01, "l2": 0.02} if name == "L1L2" else {}
    regularizer = getattr(api.regularizers, name)(**arguments)
    layer = api.layers.Dense(3, kernel_regularizer=regularizer, name="dense")
    model = api.Sequential([api.Input((4,)), layer])
    row = row_of(model)
    assert row.penalty.startswith(f"{name}(") and "0x" not in row.penalty
    assert row.where == "layer" and row.groups is None
    assert row.strength == expected if expected is None else abs(row.strength - 0.01) < 1e-9
    np.testing.assert_allclose(row.value, float(model.losses[0]), rtol=1e-6)
    assert tfreg.report(model).to_dict() == tfreg.report(model).to_dict()


def test_a_function_as_a_regularizer_has_a_row():
    layer = tf_keras.layers.Dense(3, kernel_regularizer=root_of_squares, name="dense")
    model = tf_keras.Sequential([tf_keras.Input((4,)), layer])
    row = row_of(model)
    assert (row.penalty, row.strength) == ("root_of_squares", None)
    np.testing.assert_allclose(row.value, np.linalg.norm(model.layers[0].kernel), rtol=1e-6)


def root_of_squares(w):
    return tf.sqrt(tf.reduce_sum(tf.square(w)))


def test_a_frozen_layer_has_the_value_that_keras_adds(api):
    model = net(api, regularizer=tfreg.GroupLasso(0.01))
    model.get_layer("conv").trainable = False
    row = row_of(model)
    np.testing.assert_allclose(row.value, sum(map(float, model.losses)), rtol=1e-6)
    [attached] = tfreg.get_penalties(model)
    assert row.value == float(attached.value())


@KERAS_3_FIRST
@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float16", "float64"])
def test_weights_of_every_dtype_have_rows(api, dtype):
    model = tfreg.add_penalty(net(api, dtype=dtype), tfreg.GroupLasso(0.1))
    assigned(model.get_layer("conv").kernel, np.s_[..., 1])
    found = tfreg.report(model)
    assert [row.zero_groups for row in found.penalties] == [1, 0, 0, 0]
    values = [row.value for row in found.penalties]
    np.testing.assert_allclose(sum(values), float(sum(model.losses)), rtol=1e-3)


@KERAS_3_FIRST
def test_a_strength_has_what_the_schedule_gives_now(api):
    model = net(api)
    model = tfreg.add_penalty(model, tfreg.GroupLasso(0.4), "hidden/kernel", schedule=RAMP)
    model.compile(api.optimizers.SGD(0.01), "mse")
    assert (row_of(model).strength, row_of(model).value) == (0.0, 0.0)
    model.fit(np.ones((4, 5, 5, 2)), np.ones((4, 3)), batch_size=1, verbose=0)
    now = 1.0 - (1.0 - 4 / 8) ** 3
    row = row_of(model)
    np.testing.assert_allclose(row.strength, 0.4 * now, rtol=1e-6)
    np.testing.assert_allclose(row.value, float(sum(model.losses)), rtol=1e-6)
    whole = float(tfreg.GroupLasso(0.4)(model.get_layer("hidden").kernel))
    np.testing.assert_allclose(row.value, now * whole, rtol=1e-5)


def test_a_step_that_is_not_known_makes_strength_and_value_unknown(api):
    model = net(api)
    model = tfreg.add_penalty(model, tfreg.GroupLasso(0.4), "hidden/kernel", schedule=RAMP)
    model = tfreg.add_penalty(model, tfreg.GroupLasso(0.2), "last/kernel")
    found = tfreg.report(model)
    unknown, known = found.penalties
    assert unknown.strength is unknown.value is None and unknown.share == 0.0
    assert unknown.groups == 6 and known.share == 1.0
    text = " ".join(str(found).split())
    assert "unknown step" in text
    assert "unknown before the model is compiled, if a schedule counts its steps." in text
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["penalties"][0]["value"] is None
    with pytest.raises(RuntimeError):
        tfreg.get_penalties(model)[0].value()


@KERAS_3_FIRST
def test_an_error_of_a_schedule_is_none_of_an_unknown_step(api):
    def broken(step):
        raise RuntimeError("this schedule is broken")

    broken = keras.saving.register_keras_serializable("tests", "broken_schedule")(broken)
    broken = tf_keras.saving.register_keras_serializable("tests", "broken_schedule")(broken)
    model = tfreg.add_penalty(net(api), tfreg.GroupLasso(0.4), schedule=broken)
    model.compile("sgd", "mse")
    with pytest.raises(RuntimeError, match="this schedule is broken"):
        tfreg.report(model)


# Optimizers.


@KERAS_3_FIRST
def test_a_proximal_optimizer_has_rows_before_and_after_it_is_built(api):
    model = net(api)
    assigned(model.get_layer("hidden").kernel, np.s_[:, 2])
    entries = [
        ("hidden/kernel", tfreg.GroupLasso(0.2), HALF),
        (tfreg.couple(model)[0], tfreg.GroupLasso(0.3)),
    ]
    optimizer = tfreg.Proximal(api.optimizers.SGD(0.0), model, entries)
    optimizer = api.mixed_precision.LossScaleOptimizer(optimizer)
    model.compile(optimizer, "mse")
    before = tfreg.report(model)
    model.fit(np.ones((4, 5, 5, 2)), np.ones((4, 3)), verbose=0)
    after = tfreg.report(model)
    for found in (before, after):
        first, second = found.penalties
        assert first.where == second.where == "optimizer"
        assert (first.strength, first.paths) == (0.1, ["hidden/kernel"])
        assert (second.strength, len(second.paths)) == (0.3, 3)
        assert (first.groups, first.zero_groups) == (6, 1)
    kernel = model.get_layer("hidden").kernel
    np.testing.assert_allclose(before.penalties[0].value, float(tfreg.GroupLasso(0.1)(kernel)))
    assert model.losses == []


def test_a_model_that_is_not_built_has_rows_without_weights(api):
    model = api.Sequential([api.layers.Dense(3), api.layers.Dense(2)])
    model = tfreg.add_penalty(model, tfreg.GroupLasso(0.1))
    model.compile(tfreg.Proximal(api.optimizers.SGD(), model, tfreg.MCP(0.2, 2.0)), "mse")
    found = tfreg.report(model)
    assert [row.where for row in found.penalties] == ["model", "optimizer"]
    for row in found.penalties:
        assert row.paths == row.shapes == [] and row.value is row.strength is row.groups is None
        assert len(row.norms) == row.elements == 0
    assert "not built" in str(found) and zero_groups(model) is None
    assert not found.is_built
    model.build((None, 4))
    assert [row.elements for row in tfreg.report(model).penalties] == [12, 6, 12, 6]


def test_a_regularizer_without_a_config_has_a_row(api):
    class Own(api.regularizers.Regularizer):
        def __call__(self, w):
            return tf.reduce_sum(tf.square(w))

    layer = api.layers.Dense(3, kernel_regularizer=Own(), name="dense")
    row = row_of(api.Sequential([api.Input((4,)), layer]))
    assert (row.penalty, row.strength) == ("Own()", None) and row.value > 0.0


@KERAS_3_FIRST
def test_a_driven_strength_is_in_the_strengths_of_what_makes_zeros(api):
    model = net(api)
    entries = [
        ("hidden/kernel", tfreg.GroupLasso(0.2)),
        ("last/kernel", tfreg.BoxPenalty(0.3)),
    ]
    model.compile(tfreg.Proximal(api.optimizers.SGD(0.01), model, entries), "mse")
    drive = tfreg.callbacks.TargetSparsity(0.5, end=4, every=1)
    drive.set_model(model)
    assert [row.strength for row in tfreg.report(model).penalties] == [0.0, 0.3]
    x, y = np.ones((8, 5, 5, 2)), np.ones((8, 3))
    history = model.fit(x, y, batch_size=2, epochs=2, verbose=0, callbacks=[drive])
    driven, other = tfreg.report(model).penalties
    np.testing.assert_allclose(driven.strength, 0.2 * history.history["strength"][-1], rtol=1e-6)
    assert other.strength == 0.3 and driven.strength > 0.0
    kernel = model.get_layer("hidden").kernel
    expected = driven.strength * float(tfreg.GroupLasso(1.0)(kernel))
    np.testing.assert_allclose(driven.value, expected, rtol=1e-5)


@KERAS_3_FIRST
def test_budgets_tell_what_is_left(api):
    model = net(api)
    pattern = tfreg.Budget(pattern=(2, 4), begin=1, end=4, heal=5, every=1)
    elements = tfreg.Budget(elements=9, begin=1, end=4, heal=5, every=1)
    entries = [("hidden/kernel", pattern), ("last/kernel", elements)]
    model.compile(tfreg.Proximal(api.optimizers.SGD(0.01), model, entries), "mse")
    before = {each.resource: each for each in tfreg.report(model).budgets}
    assert (before["pattern"].left, before["pattern"].target, before["pattern"].total) == (4, 2, 4)
    assert (before["elements"].left, before["elements"].target) == (18, 9)
    x, y = np.ones((8, 5, 5, 2)), np.ones((8, 3))
    model.fit(x, y, batch_size=1, verbose=0)
    after = tfreg.report(model)
    assert [(each.left, each.target) for each in after.budgets] == [(2, 2), (9, 9)]
    weights = [model.get_layer(name).kernel for name in ("hidden", "last")]
    zeros = sum(int((np.asarray(weight) == 0).sum()) for weight in weights)
    assert after.penalties == [] and zero_groups(model) == (zeros, 36 * 6 + 6 * 3)


@KERAS_3_FIRST
def test_a_budget_over_couplings_tells_what_it_has_removed(api):
    model = api.Sequential(
        [api.Input((4,)), api.layers.Dense(8, "relu", name="a"), api.layers.Dense(2, name="b")]
    )
    budget = tfreg.Budget(multiply_adds=0.5, groups=3, begin=1, end=4, heal=5, every=1)
    model.compile(tfreg.Proximal(api.optimizers.SGD(0.01), model, budget), "mse")
    found = {each.resource: each for each in tfreg.report(model).budgets}
    assert (found["multiply_adds"].left, found["multiply_adds"].target) == (48, 24)
    assert (found["groups"].left, found["groups"].target, found["groups"].total) == (8, 3, 8)
    x = np.random.default_rng(0).normal(size=(8, 4))
    model.fit(x, x[:, :2], batch_size=1, verbose=0)
    found = tfreg.report(model)
    left = {each.resource: each.left for each in found.budgets}
    assert left == {"multiply_adds": 3 * 4 + 3 * 2, "groups": 3}
    assert zero_groups(model) == (5, 8)
    assert found.couplings[0].left == 3 and found.multiply_adds_after == 18


@KERAS_3_FIRST
@pytest.mark.parametrize("widths", [(4, 3), (3, 3)], ids=str)
def test_an_optimizer_made_for_another_model_is_refused(api, widths):
    def dense(*widths):
        layers = [api.layers.Dense(width) for width in widths]
        return api.Sequential([api.Input((3,)), *layers])

    other, model = dense(*widths), dense(3, 3)
    optimizer = tfreg.Proximal(api.optimizers.SGD(0.1), other, tfreg.GroupLasso(0.1))
    for asked in (model, dense(3)):
        asked.compile(optimizer, "mse")
        for ask in (tfreg.report, zero_groups):
            with pytest.raises(ValueError, match="does not train the weight|for another model"):
                ask(asked)
    other.compile(optimizer, "mse")
    other.fit(np.ones((2, 3)), np.ones((2, 3)), verbose=0)
    model.compile(optimizer, "mse")
    with pytest.raises(ValueError, match="does not train the weight|for another model"):
        tfreg.report(model)


@KERAS_3_FIRST
def test_an_optimizer_made_for_an_inner_model_has_rows_of_its_weights(api):
    inner = api.Sequential([api.Input((3,)), api.layers.Dense(2, name="b")], name="inner")
    model = api.Sequential([api.Input((4,)), api.layers.Dense(3, name="a"), inner])
    model.compile(tfreg.Proximal(api.optimizers.SGD(0.1), inner, tfreg.GroupLasso(0.1)), "mse")
    before = row_of(model).paths
    model.fit(np.ones((2, 4)), np.ones((2, 2)), verbose=0)
    assert before == row_of(model).paths == ["inner/b/kernel"]


# Counts for callbacks.


def test_zero_groups_counts_groups_and_else_elements(api):
    model = net(api)
    assert zero_groups(model) is None
    assert zero_groups(api.Sequential([api.layers.Dense(2)])) is None
    model = tfreg.add_penalty(model, tfreg.MCP(0.1, 2.0), weights="last/kernel")
    model = tfreg.add_penalty(model, tfreg.BoxPenalty(0.1), weights="last/kernel")
    assigned(model.get_layer("last").kernel, np.s_[0])
    assert zero_groups(model) == (3, 18)
    model = tfreg.add_penalty(model, tfreg.GroupLasso(0.1), weights="hidden/kernel")
    assigned(model.get_layer("hidden").kernel, np.s_[:, [1, 4]])
    assert zero_groups(model) == (2, 6)
    rows = tfreg.report(model).penalties
    assert (2, 6) == (sum(r.zero_groups or 0 for r in rows), sum(r.groups or 0 for r in rows))


# Models of every kind.


def test_a_model_without_penalties_and_one_without_weights_have_reports(api):
    plain = tfreg.report(net(api))
    assert plain.penalties == [] and plain.couplings and "Nothing is penalized" in str(plain)
    x = api.Input((3,))
    empty = tfreg.report(api.Model(x, api.layers.ReLU()(x)))
    assert (empty.parameters, empty.parameters_after, empty.multiply_adds) == (0, 0, 0)
    assert empty.weights == [] and str(empty) and empty._repr_html_()
    nothing = tfreg.report(api.Sequential())
    assert nothing.parameters == 0 and nothing.multiply_adds is None


@KERAS_3_FIRST
def test_nothing_is_penalized_where_that_is_known(api):
    regularized = api.layers.Dense(3, kernel_regularizer=tfreg.GroupLasso(0.1))
    unbuilt = tfreg.report(api.Sequential([regularized]))
    assert "Nothing is penalized" not in str(unbuilt) and not unbuilt.is_built
    assert "layers that are not built are not known" in " ".join(str(unbuilt).split())
    model = net(api)
    budget = tfreg.Budget(elements=9, begin=1, end=4, heal=5, every=1)
    optimizer = tfreg.Proximal(api.optimizers.SGD(0.01), model, [("last/kernel", budget)])
    model.compile(optimizer, "mse")
    bounded = tfreg.report(model)
    assert bounded.penalties == [] and "Nothing is penalized" not in str(bounded)
    assert bounded.is_built


def test_the_weights_of_nested_and_shared_layers_have_their_paths(api):
    inner = api.Sequential([api.Input((4,)), api.layers.Dense(3, name="a")], name="inner")
    inner = tfreg.add_penalty(inner, tfreg.GroupLasso(0.1))
    model = api.Sequential([api.Input((4,)), inner, api.layers.Dense(2, name="b")])
    model = tfreg.add_penalty(model, tfreg.BoxPenalty(0.1), weights="b/kernel")
    found = tfreg.report(model)
    paths = [row.paths for row in found.penalties]
    assert paths == [entry.paths for entry in tfreg.get_penalties(model)]
    assert [each.path for each in found.weights] == [
        *("inner/a/kernel", "inner/a/bias"),
        *("b/kernel", "b/bias"),
    ]
    in_loss = sum(row.value for row in found.penalties)
    np.testing.assert_allclose(in_loss, float(sum(model.losses)), rtol=1e-6)


@KERAS_3_FIRST
def test_a_report_changes_nothing(api):
    model = tfreg.add_penalty(net(api), tfreg.GroupLasso(0.1))
    tfreg.couple(model)[0].zero([0])
    penalty = ("hidden/kernel", tfreg.MCP(0.1, 2.0))
    model.compile(tfreg.Proximal(api.optimizers.Adam(), model, [penalty]), "mse")
    x, y = np.ones((4, 5, 5, 2)), np.ones((4, 3))
    model.fit(x, y, verbose=0)
    functions = model.train_function, model.optimizer, model.losses.__class__
    before = [np.asarray(v).copy() for v in [*model.variables, *variables_of(model.optimizer)]]
    found = tfreg.report(model)
    str(found), found.to_dict(), found.to_dataframe()
    after = [np.asarray(v) for v in [*model.variables, *variables_of(model.optimizer)]]
    assert len(before) == len(after)
    for old, new in zip(before, after):
        np.testing.assert_array_equal(old, new)
    assert functions == (model.train_function, model.optimizer, model.losses.__class__)
    model.fit(x, y, verbose=0)


def counting_model(api, whose="norm"):
    """A subclassed model whose call assigns a variable, a layer's or its own, and has a loss."""

    class Counting(api.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.hidden = api.layers.Dense(4, activity_regularizer="l2", name="hidden")
            self.norm = api.layers.BatchNormalization(name="norm")
            self.last = api.layers.Dense(2, name="last")

        def build(self, shape):
            if whose == "model":
                self.own = self.add_weight(name="own", shape=(), trainable=False)
            super().build(shape)

        def call(self, x):
            y = self.norm(self.hidden(x))
            counted = self.own if whose == "model" else self.norm.moving_mean
            counted.assign_add(tf.ones_like(tf.convert_to_tensor(counted)))
            return self.last(y)

    model = Counting(name="counting")
    model(np.ones((2, 3), "float32"))
    return networks.randomize(model, np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["functional", "subclassed"])
def test_a_report_gives_no_names(api, kind):
    def next_names(asks):
        api.backend.clear_session()
        model = net(api) if kind == "functional" else counting_model(api)
        tfreg.couple(model)[0].zero([0])
        for _ in range(asks):
            found = tfreg.report(model)
            assert found.parameters_after < found.parameters
        layers = [api.layers.Dense(2), api.layers.ReLU(), api.layers.Conv2D(2, 1)]
        x = api.Input((3,))
        return [each.name for each in [*layers, x, api.Model(x, layers[0](x))]]

    assert next_names(asks=2) == next_names(asks=0)


@pytest.mark.parametrize("whose", ["norm", "model"])
def test_a_report_changes_nothing_of_a_subclassed_model(api, whose):
    model = counting_model(api, whose)
    model(np.ones((2, 3), "float32"))

    def state():
        lines = []
        model.summary(print_fn=lambda text, **_: lines.append(text))
        arrays = [np.asarray(variable).tolist() for variable in model.variables]
        layers = [model, model.hidden, model.norm, model.last]
        nodes = [len(n) for each in layers for n in (each._inbound_nodes, each._outbound_nodes)]
        return arrays, nodes, list(map(float, model.losses)), lines

    before = state()
    assert before[2][0] > 0.0
    found = tfreg.report(model)
    if whose == "norm":
        assert found.multiply_adds == 3 * 4 + 4 * 2 and found.couplings[0].left == 4
    else:
        assert "own" in found.not_followed and found.couplings == []
    assert state() == before
    model(np.ones((2, 3), "float32"))
    assert state() != before


def test_a_report_builds_nothing(api):
    class Unbuilt(api.Model):
        def __init__(self):
            super().__init__(name="unbuilt")
            self.dense = api.layers.Dense(3, name="dense")

        def call(self, x):
            return self.dense(x)

    model = Unbuilt()
    model.built = True  # as Keras takes a model that is built without its layers
    found = tfreg.report(model)
    assert "The layers ['dense'] are not built" in found.not_followed and not found.is_built
    assert not model.dense.built and model.weights == []


def test_in_a_function_the_error_says_so():
    model = net(keras)
    function = tf.function(lambda: tfreg.report(model) and 1, autograph=False)
    with pytest.raises(RuntimeError, match="Call it outside of tf.function"):
        function()


def test_reports_have_a_hash_and_rows_a_kind(api):
    model = net(api, regularizer=api.regularizers.L1(0.1))
    model = tfreg.add_penalty(model, tfreg.GroupLasso(0.2), weights=tfreg.couple(model)[0])
    joint = tfreg.Joint(tfreg.GroupMCP(0.1, 2.0))
    model = tfreg.add_penalty(model, joint, weights=["hidden/kernel", "frozen/kernel"])
    found = tfreg.report(model)
    assert {found: 1}[found] == 1 and found != tfreg.report(model)
    rows = [(row.kind, row.of_entries is not None) for row in found.penalties]
    assert sorted(rows) == [("GroupLasso", True), ("GroupMCP", False), ("L1", False)]
    [coupled] = [row for row in found.penalties if row.of_entries]
    assert coupled.of_entries == repr(tfreg.GroupLasso(0.2))


def variables_of(optimizer):
    return optimizer.variables if isinstance(optimizer.variables, list) else optimizer.variables()


@pytest.mark.slow
def test_a_mirrored_model_has_the_report_of_a_plain_one(api):
    def reported(strategy):
        with strategy.scope():
            model = net(api, regularizer=tfreg.GroupLasso(0.01))
            model = tfreg.add_penalty(model, tfreg.GroupLasso(0.2), weights=tfreg.couple(model))
            tfreg.couple(model)[0].zero([1, 2])
            model.compile(tfreg.Proximal(api.optimizers.SGD(0.1), model, tfreg.MCP(0.1, 2.0)))
        figures = tfreg.report(model).to_dict()
        del figures["unfollowed"]  # which names the inputs
        return figures

    mirrored = reported(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    plain = reported(tf.distribute.get_strategy())
    assert mirrored == plain
    assert plain["parameters_after"] < plain["parameters"]


@pytest.mark.parametrize("bad", [None, "model", keras.layers.Dense(2)])
def test_what_is_no_model_is_refused(bad):
    with pytest.raises(TypeError, match="Argument `model` must be a model"):
        tfreg.report(bad)


@pytest.mark.parametrize(
    "bad, error", [(-0.1, ValueError), (1.0, ValueError), ("0.1", TypeError), (None, TypeError)]
)
def test_a_bad_tolerance_is_refused(bad, error):
    with pytest.raises(error, match=r"Argument `tolerance` must be a number in \[0, 1\)"):
        tfreg.report(net(keras), tolerance=bad)


@KERAS_3_FIRST
def test_bad_rules_are_refused(api):
    with pytest.raises((TypeError, ValueError), match="rules"):
        tfreg.report(net(api), rules={"Dense": "elementwise"})
