"""Penalties over couplings: groups of what an entry owns of several weights."""

import copy
import json
import pickle
import time
from typing import NamedTuple

import keras
import model_cases
import numpy as np
import pytest
import tensorflow as tf
from cases import weight
from marks import slow
from oracles import finite_differences
from test_joint import HALF_EPSILON, MODES, constants, value_and_gradients

import tfreg
from tfreg.inventory import Member
from tfreg.layout import Layout
from tfreg.model.carried import carried_terms, carry_penalties
from tfreg.penalties import grouped
from tfreg.penalties.base import Cut
from tfreg.penalties.coupled import Coupled
from tfreg.slices import Slices


class Coupling(NamedTuple):
    size: int
    members: list
    group_weight: float | None = None


def every(size, start=0):
    """Entry k owns the index k."""
    return np.arange(start, start + size)[:, np.newaxis]


def member(variable, *slices):
    return Member(variable, variable.name, slices)


HEADS = np.arange(8).reshape(4, 2)  # the indices of an entry follow those of another
GATES = np.arange(12).reshape(3, 4).T  # the first of all entries come first
MIXED = np.array([[9, 1], [0, 2], [4, 7], [6, 5]])
# Shapes of weights and their slices.
DISJOINT = {
    "filters": [((2, 2, 3, 4), (3, every(4))), ((4,), (0, every(4)))],
    "channels and units": [((2, 4, 3), (1, every(4))), ((4, 2), (0, every(4)))],
    "heads": [((3, 8), (1, HEADS)), ((8,), (0, HEADS)), ((8, 2), (0, HEADS))],
    "gates and positions": [((12, 3), (0, GATES)), ((12,), (0, GATES)), ((2, 12), (1, GATES))],
    "in any order": [((10, 2), (0, MIXED)), ((10,), (0, MIXED)), ((2, 3, 11), (2, MIXED))],
    "part of an axis": [((3, 9), (1, every(4, 2))), ((9,), (0, every(4, 5))), ((9, 2), (0, HEADS))],
    "one entry": [((2, 3), (1, np.array([[0, 2]]))), ((3,), (0, np.array([[1]])))],
}
SHARED = {
    "rows and columns": [((4, 4), (0, every(4)), (1, every(4))), ((4,), (0, every(4)))],
    "a recurrent kernel": [((4, 12), (0, every(4)), (1, GATES)), ((3, 4), (1, every(4)))],
    "parts of rows and columns": [
        ((6, 5, 2), (0, every(3, 2)), (1, every(3))),
        ((3,), (0, every(3))),
    ],
    "three axes": [((2, 3, 4), (0, every(2)), (1, every(2, 1)), (2, np.arange(4).reshape(2, 2)))],
}
ALL = {**DISJOINT, **SHARED}
PENALTIES = [
    tfreg.GroupLasso(0.3),
    tfreg.SparseGroupLasso(0.3, l1_ratio=0.4, size_weighted=False),
    tfreg.GroupMCP(0.3, threshold=0.7),
    tfreg.GroupMCP(0.3, threshold=2.5, size_weighted=False),
    tfreg.GroupLasso(0.2) + tfreg.GroupMCP(0.3),
]
KINDS = PENALTIES[:3]


def name_of(penalty):
    return type(penalty).__name__


def coupled(penalty, name, group_weight=None):
    return Coupled(penalty, [slices for _, *slices in ALL[name]], group_weight)


def weights_of(name, dtype="float64", seed=0):
    return [weight(shape, dtype, seed + i) for i, (shape, *_) in enumerate(ALL[name])]


def elements(shape, slices, entry):
    """Which elements an entry owns."""
    owned = np.zeros(shape, bool)
    for axis, indices in slices:
        np.moveaxis(owned, axis, 0)[indices[entry]] = True
    return owned


def entries_of(name, weights):
    """For each entry the elements that it owns of all weights, in one vector."""
    size = len(ALL[name][0][1][1])
    return [
        np.concatenate(
            [w[elements(w.shape, slices, k)] for w, (_, *slices) in zip(weights, ALL[name])]
        )
        for k in range(size)
    ]


def oracle(penalty, name, weights, group_weight=None):
    """The value, by its definition."""
    if isinstance(penalty, tfreg.Sum):
        return sum(oracle(each, name, weights, group_weight) for each in penalty.penalties)
    value = 0.0
    for entry in entries_of(name, weights):
        scale = np.sqrt(len(entry)) if penalty.size_weighted else 1.0
        scale = scale if group_weight is None else group_weight
        norm = np.linalg.norm(entry)
        if isinstance(penalty, tfreg.GroupMCP):
            t, end = norm / scale, penalty.threshold
            value += scale**2 * (t - t**2 / (2 * end) if t < end else end / 2)
        else:
            value += scale * norm
    if isinstance(penalty, tfreg.SparseGroupLasso):
        value *= 1 - penalty.l1_ratio
        for w, (_, *slices) in zip(weights, ALL[name]):
            size = len(slices[0][1])
            owned = sum(elements(w.shape, slices, k) for k in range(size)) > 0
            value += penalty.l1_ratio * np.abs(w[owned]).sum()
    return penalty.factor * value


@pytest.fixture(params=["small", "large"])
def size(request, monkeypatch):
    """Small weights count as such, or get kernels of their own as large ones do."""
    if request.param == "large":
        monkeypatch.setattr(grouped, "is_small", lambda w: False)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.usefixtures("size")
def test_value_is_the_oracles(name):
    weights = weights_of(name)
    for penalty in PENALTIES:
        value = coupled(penalty, name)(constants(weights))
        assert value.dtype == tf.float64 and value.shape == []
        np.testing.assert_allclose(value, oracle(penalty, name, weights), rtol=1e-12)


@pytest.mark.parametrize("penalty", PENALTIES, ids=name_of)
def test_group_weight_takes_the_place_of_the_size(penalty):
    weights = weights_of("a recurrent kernel")
    value = coupled(penalty, "a recurrent kernel", 3.0)(constants(weights))
    expected = oracle(penalty, "a recurrent kernel", weights, 3.0)
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_a_group_weight_of_0_frees_even_what_is_infinite():
    weights = [np.full((2, 2, 3, 4), np.inf), np.zeros(4)]
    free = coupled(tfreg.GroupLasso(), "filters", 0.0)
    value, gradients = value_and_gradients(free, constants(weights))
    assert float(value) == 0.0
    assert all(np.all(np.asarray(gradient) == 0.0) for gradient in gradients)


@pytest.mark.parametrize("name", ["gates and positions", "in any order", *SHARED])
@pytest.mark.usefixtures("size")
def test_gradients_are_those_of_finite_differences(name):
    weights = weights_of(name)
    for kind in KINDS if name == "rows and columns" else [tfreg.SparseGroupLasso(0.3)]:
        penalty = coupled(kind, name)
        _, gradients = value_and_gradients(penalty, constants(weights))
        for i, gradient in enumerate(gradients):

            def value(w, i=i, penalty=penalty):
                return float(penalty(constants([*weights[:i], w, *weights[i + 1 :]])))

            expected = finite_differences(value, weights[i])
            np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("size", [slow("small"), "large"], indirect=True)
def test_eager_graph_and_xla_agree_in_every_dtype(size):
    cases = {
        (dtype, name): (
            coupled(KINDS[kind], name),
            [tf.cast(w, dtype) for w in weights_of(name)],
        )
        for dtype, kind, name in [
            ("float16", 0, "a recurrent kernel"),
            ("bfloat16", 2, "in any order"),
            ("float32", 0, "heads"),
            ("float32", 1, "a recurrent kernel"),
        ]
    }
    exact = {
        key: value_and_gradients(penalty, [tf.cast(w, tf.float64) for w in tensors])
        for key, (penalty, tensors) in cases.items()
    }

    def of_every_case(tensors):
        return {key: value_and_gradients(cases[key][0], tensors[key]) for key in cases}

    for mode in MODES.values():
        results = mode(of_every_case)({key: tensors for key, (_, tensors) in cases.items()})
        for key, (value, gradients) in results.items():
            assert value.dtype == tf.float32
            np.testing.assert_allclose(value, exact[key][0], rtol=1e-5)
            for gradient, expected in zip(gradients, exact[key][1], strict=True):
                assert gradient.dtype == key[0]
                np.testing.assert_allclose(
                    tf.cast(gradient, tf.float64), expected, rtol=HALF_EPSILON[key[0]], atol=1e-6
                )


def test_weights_of_several_dtypes():
    weights = weights_of("gates and positions")
    tensors = [tf.cast(w, dtype) for w, dtype in zip(weights, ["float16", "float64", "bfloat16"])]
    value, gradients = value_and_gradients(
        coupled(tfreg.GroupLasso(0.3), "gates and positions"), tensors
    )
    exact = [np.asarray(tf.cast(w, tf.float64)) for w in tensors]
    expected = oracle(tfreg.GroupLasso(0.3), "gates and positions", exact)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert [gradient.dtype for gradient in gradients] == ["float16", "float64", "bfloat16"]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.usefixtures("size")
def test_value_and_gradients_do_not_overflow_or_vanish(scale):
    penalty = coupled(tfreg.GroupLasso(0.3), "a recurrent kernel")
    weights = weights_of("a recurrent kernel")
    exact, exact_gradients = value_and_gradients(penalty, constants(weights))
    scaled = [tf.constant(w * scale, tf.float32) for w in weights]
    value, gradients = value_and_gradients(penalty, scaled)
    np.testing.assert_allclose(float(value) / scale, exact, rtol=1e-5)
    for gradient, expected in zip(gradients, exact_gradients):
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["filters", "a recurrent kernel"])
def test_at_zero_the_value_and_the_gradients_are_zero(name):
    for penalty in KINDS:
        zeros = [tf.zeros(shape) for shape, *_ in ALL[name]]
        value, gradients = value_and_gradients(coupled(penalty, name), zeros)
        assert float(value) == 0.0
        assert all(np.all(np.asarray(gradient) == 0.0) for gradient in gradients)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.usefixtures("size")
def test_what_is_not_finite_reaches_the_value_and_its_own_entry_alone(bad):
    kernel, bias = weights_of("filters")
    kernel[0, 1, 2, 1] = bad
    penalty = coupled(tfreg.GroupLasso(0.3), "filters")
    value, gradients = value_and_gradients(penalty, constants([kernel, bias]))
    assert not np.isfinite(value)
    is_bad = np.arange(4) == 1
    for gradient in gradients:
        assert (np.isfinite(gradient) == np.broadcast_to(~is_bad, gradient.shape)).all()


def test_graphs_do_not_grow_with_the_entries():
    def nodes(size):
        indices = np.random.default_rng(0).permutation(2 * size).reshape(size, 2)
        penalty = Coupled(
            tfreg.SparseGroupLasso(0.3), [[(0, every(size)), (1, indices)], [(0, indices)]]
        )
        shapes = [[size, 2 * size], [2 * size]]

        @tf.function
        def step(tensors):
            return value_and_gradients(penalty, tensors)

        graph = step.get_concrete_function([tf.TensorSpec(shape) for shape in shapes]).graph
        return len(graph.as_graph_def().node)

    # Sums of large weights are cut into more parts.
    assert nodes(300) <= nodes(60) + 10


@pytest.mark.parametrize("name", ALL)
def test_config_makes_the_same_penalty_again(api, name):
    penalty = coupled(PENALTIES[-1], name, 0.1)
    serialized = json.loads(json.dumps(api.saving.serialize_keras_object(penalty)))
    for again in [
        Coupled.from_config(json.loads(json.dumps(penalty.get_config()))),
        api.saving.deserialize_keras_object(serialized),
        copy.deepcopy(penalty),
        pickle.loads(pickle.dumps(penalty)),
    ]:
        assert again.get_config() == penalty.get_config()
        weights = weights_of(name)
        assert float(again(weights)) == float(penalty(weights))


def test_configs_of_ten_thousand_entries_are_small_or_at_least_fast():
    def of(indices):
        return Coupled(tfreg.GroupLasso(), [[(0, indices)]])

    size = 10_000
    for regular in (every(size), every(size, 7), np.arange(3 * size).reshape(3, size).T):
        config = of(regular).get_config()
        assert len(json.dumps(config["slices"])) < 100
    start = time.monotonic()
    irregular = of(np.random.default_rng(0).permutation(2 * size).reshape(size, 2))
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(irregular)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == irregular.get_config()
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "slices, message",
    [
        ([], "slices of each weight"),
        ([[]], "each axis once"),
        ([[(0, every(3)), (0, every(3, 3))]], "each axis once"),
        ([[(0, every(3)), (1, every(4))]], "a row for each entry"),
        ([[(0, every(3))], [(0, every(4))]], "as many entries.*3, 4"),
        ([[(0, [[0, 1], [1, 2]])]], "distinct ints"),
        ([[(0, [[0], [-1]])]], "distinct ints >= 0"),
        ([[(0, [0, 1])]], "matrix"),
        ([[(0, [[0.0]])]], "distinct ints"),
        ([[(-1, [[0]])]], "axis of a slice"),
    ],
)
def test_slices_are_checked(slices, message):
    with pytest.raises(ValueError, match=message):
        Coupled(tfreg.GroupLasso(), slices)


@pytest.mark.parametrize(
    "change",
    [
        {"order": "A"},
        {"ranges": [[0, 10**12]]},
        {"ranges": [[0, 3], "ab"]},
        {"ranges": [[-1, 3]]},
        {"shape": [4]},
        {"shape": [2, 2], "ranges": [[0, 3]]},
        {"axis": "0"},
    ],
)
def test_a_config_that_no_coupling_has_is_refused(change):
    [[entry]] = Coupled(tfreg.GroupLasso(), [[(0, every(4))]]).get_config()["slices"]
    with pytest.raises(ValueError, match="slice"):
        Slices.from_config([{**entry, **change}])


def test_weights_must_have_the_slices():
    penalty = coupled(tfreg.GroupLasso(), "filters")
    with pytest.raises(ValueError, match="index 3 along axis 3.*at 0"):
        penalty([tf.ones([2, 2, 3, 3]), tf.ones([4])])
    with pytest.raises(ValueError, match="index 3 along axis 3"):
        penalty([tf.ones([2, 2, 3]), tf.ones([4])])
    with pytest.raises(ValueError, match="2 weights must have as many"):
        penalty([tf.ones([2, 2, 3, 4])])


# Proximal operators


@pytest.mark.parametrize("name", DISJOINT)
def test_prox_shrinks_each_entry(name):
    weights = weights_of(name)
    step_size = 1.5
    for penalty in PENALTIES[:4]:
        result = coupled(penalty, name).prox_on(
            constants(weights), [None] * len(weights), step_size
        )
        strength = step_size * penalty.factor
        for k, entry in enumerate(entries_of(name, weights)):
            scale = np.sqrt(len(entry)) if penalty.size_weighted else 1.0
            if isinstance(penalty, tfreg.SparseGroupLasso):
                threshold = strength * penalty.l1_ratio
                entry = np.sign(entry) * np.maximum(np.abs(entry) - threshold, 0)
                factor = max(1 - strength * (1 - penalty.l1_ratio) / np.linalg.norm(entry), 0)
            elif isinstance(penalty, tfreg.GroupMCP):
                # Of the scaled norm, by search.
                before = np.linalg.norm(entry) / scale
                grid = np.linspace(0, before, 200_001)
                end = penalty.threshold
                each = np.where(grid < end, grid - grid**2 / (2 * end), end / 2)
                factor = grid[np.argmin((grid - before) ** 2 / 2 + strength * each)] / before
            else:
                factor = max(1 - strength * scale / np.linalg.norm(entry), 0)
            actual = entries_of(name, [np.asarray(w) for w in result])[k]
            np.testing.assert_allclose(actual, factor * entry, rtol=1e-4, atol=1e-9)
        for w, x, (_, *slices) in zip(weights, result, ALL[name]):
            owned = sum(elements(w.shape, slices, k) for k in range(len(slices[0][1]))) > 0
            np.testing.assert_array_equal(np.asarray(x)[~owned], w[~owned])


@pytest.mark.parametrize("penalty", PENALTIES[:2], ids=name_of)
def test_prox_is_no_worse_than_what_is_near(penalty):
    weights = weights_of("gates and positions")
    both = coupled(penalty, "gates and positions")
    result = [np.asarray(x) for x in both.prox_on(constants(weights), [None] * 3, 0.8)]

    def objective(xs):
        distance = sum(((x - w) ** 2).sum() for x, w in zip(xs, weights))
        return distance / 2 + 0.8 * oracle(penalty, "gates and positions", xs)

    rng = np.random.default_rng(0)
    for scale in np.geomspace(1e-4, 1.0, 50):
        other = [x + scale * rng.normal(size=x.shape) for x in result]
        assert objective(result) <= objective(other)


def test_prox_makes_zeros_of_what_is_too_small_to_measure():
    """Its mean square is 0 on processors that flush such numbers to 0."""
    w = np.zeros((100, 2), np.float32)
    w[0] = 2e-38
    for penalty in (tfreg.GroupLasso(0.1), tfreg.GroupMCP(0.1), tfreg.SparseGroupLasso(0.1)):
        coupled = Coupled(penalty, [[(1, [[0], [1]])]])
        [shrunk] = coupled.prox_on([tf.constant(w)], [None], 0.2)
        assert not shrunk.numpy().any()


def test_prox_where_entries_share_elements_is_refused():
    for name in SHARED:
        weights = constants(weights_of(name))
        with pytest.raises(NotImplementedError, match="share elements"):
            coupled(tfreg.GroupLasso(), name).prox_on(weights, [None] * len(weights), 1.0)


# Over a model


def network(api, units=(5, 4)):
    """A convolution, normalized, and two layers behind it, each with what follows it coupled."""
    x = api.Input((6, 6, 2))
    conv, norm = api.layers.Conv2D(3, 3, name="conv"), api.layers.BatchNormalization(name="norm")
    y = api.layers.Flatten()(api.layers.ReLU()(norm(conv(x))))
    hidden, wide = (api.layers.Dense(n, activation="relu", name=f"d{n}") for n in units)
    model = api.Model(x, api.layers.Dense(2, name="out")(wide(hidden(y))))
    set_weights(model)
    return model


def set_weights(model):
    for i, variable in enumerate(model.trainable_weights):
        variable.assign(weight(variable.shape, "float32", seed=i))


def couplings_of(model):
    conv, norm, hidden, wide, out = (layer for layer in model.layers if layer.weights)
    positions = hidden.kernel.shape[0] // 3
    return [
        Coupling(
            3,
            [
                member(conv.kernel, (-1, every(3))),
                member(conv.bias, (0, every(3))),
                member(norm.gamma, (0, every(3))),
                member(norm.beta, (0, every(3))),
                member(norm.moving_mean, (0, every(3))),
                member(norm.moving_variance, (0, every(3))),
                member(hidden.kernel, (0, np.arange(3 * positions).reshape(positions, 3).T)),
            ],
        ),
        *(
            Coupling(
                layer.units,
                [
                    member(layer.kernel, (1, every(layer.units))),
                    member(layer.bias, (0, every(layer.units))),
                    member(following.kernel, (0, every(layer.units))),
                ],
                group_weight,
            )
            for layer, following, group_weight in [(hidden, wide, 2.0), (wide, out, None)]
        ),
    ]


def value_by_hand(penalty, coupling):
    value = 0.0
    for k in range(coupling.size):
        owned = [
            w[elements(w.shape, [(axis % w.ndim, rows) for axis, rows in each.slices], k)]
            for each in coupling.members
            if "moving" not in each.path
            for w in [np.asarray(each.variable)]
        ]
        entry = np.concatenate(owned)
        scale = coupling.group_weight or np.sqrt(len(entry))
        value += scale * np.linalg.norm(entry)
    return penalty.factor * value


PENALTY = tfreg.GroupLasso(0.01)


def test_over_a_model(api):
    model = network(api)
    couplings = couplings_of(model)
    expected = [value_by_hand(PENALTY, coupling) for coupling in couplings]
    tfreg.add_penalty(model, PENALTY, couplings)
    np.testing.assert_allclose([float(loss) for loss in model.losses], expected, rtol=1e-5)
    attached = tfreg.get_penalties(model)
    assert [entry.paths for entry in attached] == [
        ["conv/kernel", "conv/bias", "norm/gamma", "norm/beta", "d5/kernel"],
        ["d5/kernel", "d5/bias", "d4/kernel"],
        ["d4/kernel", "d4/bias", "out/kernel"],
    ]
    assert repr(attached[1].penalty) == (
        "Coupled(GroupLasso(factor=0.01, axis='output', group_size=None, size_weighted=True), "
        "5 entries of 3 weights, group_weight=2.0)"
    )
    for entry, value in zip(attached, expected):
        np.testing.assert_allclose(entry.value(), value, rtol=1e-5)
        shrunk = entry.prox(1e9)
        assert all(np.all(np.asarray(w) == 0.0) for w in shrunk)
        np.testing.assert_allclose(entry.prox(0.0)[0], np.asarray(entry.weights[0]), rtol=1e-6)
    # A copy has weights of its own, and the same penalties.
    clone = tfreg.clone_model(model)
    for variable, value in zip(clone.weights, model.weights):
        variable.assign(np.asarray(value))
    np.testing.assert_allclose([float(loss) for loss in clone.losses], expected, rtol=1e-5)
    assert tfreg.remove_penalties(model).losses == []


def test_one_coupling_some_of_them_and_a_schedule(api):
    model = network(api)
    couplings = couplings_of(model)
    expected = [value_by_hand(PENALTY, coupling) for coupling in couplings]
    count = tf.Variable(3)
    ramp = tfreg.schedules.CubicRamp(begin=3, end=10, start=0.5)
    tfreg.add_penalty(model, PENALTY, couplings[0])
    tfreg.add_penalty(model, PENALTY, [c for c in couplings if c.size > 3], ramp, step=count)
    tfreg.add_penalty(model, PENALTY, iter(couplings[:1]))
    wanted = np.multiply([expected[0], *expected[1:], expected[0]], [1, 0.5, 0.5, 1])
    np.testing.assert_allclose([float(loss) for loss in model.losses], wanted, rtol=1e-5)


def test_what_tfreg_couple_finds(api):
    model = network(api)
    tfreg.add_penalty(model, tfreg.GroupLasso(0.01), tfreg.couple(model))
    expected = [
        value_by_hand(PENALTY, coupling._replace(group_weight=None))
        for coupling in couplings_of(model)
    ]
    values = [float(loss) for loss in model.losses]
    np.testing.assert_allclose(sorted(values), sorted(expected), rtol=1e-5)


def test_frozen_members_are_constants(api):
    model = network(api)
    couplings = couplings_of(model)
    tfreg.add_penalty(model, PENALTY, couplings)
    model.get_layer("norm").trainable = False
    model.get_layer("d4").trainable = model.get_layer("out").trainable = False
    # The last coupling has frozen weights alone.
    expected = [value_by_hand(PENALTY, coupling) for coupling in couplings[:2]]
    np.testing.assert_allclose([float(loss) for loss in model.losses], expected, rtol=1e-5)
    attached = tfreg.get_penalties(model)
    assert float(attached[2].value()) == 0.0
    with pytest.raises(NotImplementedError, match="some of whose weights are frozen"):
        attached[0].prox(0.1)


def test_prox_of_two_couplings_that_share_a_weight(api):
    model = network(api)
    first, second = couplings_of(model)[1:]
    tfreg.add_penalty(model, PENALTY, [first, second])
    for entry, coupling in zip(tfreg.get_penalties(model), (first, second)):
        kernel, bias, following = (np.asarray(each.variable) for each in coupling.members)
        norms = np.sqrt((kernel**2).sum(0) + bias**2 + (following**2).sum(1))
        scale = coupling.group_weight or np.sqrt(len(kernel) + 1 + following.shape[1])
        factors = np.maximum(1 - 5.0 * 0.01 * scale / norms, 0)
        expected = [kernel * factors, bias * factors, following * factors[:, np.newaxis]]
        for actual, wanted in zip(entry.prox(5.0), expected):
            np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-6)


def test_errors(api):
    model, other = network(api), network(api)
    couplings = couplings_of(model)
    refused = [
        (tfreg.BoxPenalty(), ValueError, "BoxPenalty does not couple weights"),
        (tfreg.TotalVariation(), ValueError, "TotalVariation does not couple weights"),
        (tfreg.GroupLasso() + tfreg.BoxPenalty(), ValueError, "BoxPenalty does not couple"),
        (api.regularizers.L2(), ValueError, "no regularizer of Keras does"),
        (tfreg.Joint(tfreg.GroupLasso()), TypeError, "ties its weights by itself.*Joint"),
        (tfreg.GroupLasso(axis="input"), ValueError, "`axis` must be left out"),
        (tfreg.GroupLasso(axis=["output", 0]), ValueError, "`axis` must be left out"),
        (tfreg.GroupMCP(axis=0, group_size=2), ValueError, "`axis` must be left out"),
        (tfreg.GroupLasso(groups=[[0]]), ValueError, "`groups` must be left out"),
        (
            tfreg.SparseGroupLasso(groups=[[0]], group_weights=[1.0]),
            ValueError,
            "`groups` must be left out",
        ),
    ]
    for penalty, error, message in refused:
        with pytest.raises(error, match=message):
            tfreg.add_penalty(model, penalty, couplings)
    with pytest.raises(ValueError, match="which is not part of it"):
        tfreg.add_penalty(other, PENALTY, couplings)
    with pytest.raises(TypeError, match="of couplings alone.*'conv'"):
        tfreg.add_penalty(model, PENALTY, [couplings[0], "conv"])
    too_wide = Coupling(3, [member(model.layers[1].kernel, (3, every(3, 1)))])
    with pytest.raises(ValueError, match="index 3 along axis 3"):
        tfreg.add_penalty(model, PENALTY, too_wide)
    state = model.get_layer("norm").moving_mean
    with pytest.raises(ValueError, match="none of which is trained"):
        tfreg.add_penalty(model, PENALTY, Coupling(3, [member(state, (0, every(3)))]))
    assert tfreg.get_penalties(model) == [] and model.losses == []


def penalized(api):
    model = network(api)
    couplings = couplings_of(model)
    for penalty in (*KINDS, PENALTIES[-1]):
        tfreg.add_penalty(model, penalty, couplings[:2])
    gated = Coupling(
        4, [member(model.get_layer("d4").kernel, (0, every(4)), (1, every(4)))], group_weight=0.5
    )
    ramp = tfreg.schedules.CubicRamp(begin=0, end=10, start=0.5)
    return tfreg.add_penalty(model, tfreg.SparseGroupLasso(0.1), gated, ramp, step=tf.Variable(0))


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_saved_and_loaded(api, ending, tmp_path):
    model = penalized(api)
    losses = [float(loss) for loss in model.losses[:8]]
    path = str(tmp_path / f"model.{ending}")
    model.save(path)
    loaded = api.models.load_model(path)
    attached = tfreg.get_penalties(loaded)
    assert [float(entry.value()) for entry in attached[:8]] == losses
    configs = [entry.penalty.get_config() for entry in tfreg.get_penalties(model)]
    assert [entry.penalty.get_config() for entry in attached] == configs
    with pytest.raises(RuntimeError, match="step"):
        attached[8].value()


LOAD = """
import json, sys
import tfreg
import KERAS

model = KERAS.models.load_model(sys.argv[1])
print(json.dumps([float(entry.value()) for entry in tfreg.get_penalties(model)[:8]]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_loaded_in_a_fresh_process(api, ending, tmp_path, run_fresh):
    model = penalized(api)
    losses = [float(loss) for loss in model.losses[:8]]
    model.save(tmp_path / f"model.{ending}")
    assert run_fresh(LOAD.replace("KERAS", api.__name__), tmp_path / f"model.{ending}") == losses


def train(api, strategy):
    """The losses of four steps, and the weights behind them."""
    with strategy.scope():
        model = network(api)
        tfreg.add_penalty(model, tfreg.GroupLasso(0.01), couplings_of(model))
        model.compile(api.optimizers.SGD(1e-2), "mse", jit_compile=False)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 6, 6, 2)), rng.normal(size=(8, 2))
    # The penalties alone train it: batches of replicas are normalized apart.
    history = model.fit(
        np.zeros_like(x), y, 8, epochs=4, shuffle=False, verbose=0, sample_weight=np.zeros(8)
    )
    return history.history["loss"], [np.asarray(w) for w in model.trainable_weights]


@pytest.mark.slow
def test_two_devices_train_as_one_does(api):
    one = train(api, tf.distribute.get_strategy())
    two = train(api, model_cases.mirrored(2))
    assert len(set(one[0])) == 4
    np.testing.assert_allclose(two[0], one[0], rtol=1e-5)
    for actual, expected in zip(two[1], one[1], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_step_trains_as_gradient_descent_does(api):
    for jit in (False, True):
        model = network(api)
        tfreg.add_penalty(model, PENALTY, couplings_of(model))
        weights = [np.asarray(w) for w in model.trainable_weights]
        with tf.GradientTape() as tape:
            loss = tf.add_n(model.losses)
        trained = [w.value if api is keras else w for w in model.trainable_weights]
        gradients = tape.gradient(loss, trained)
        model.compile(api.optimizers.SGD(0.1), "mse", jit_compile=jit)
        x, y = np.zeros((2, 6, 6, 2)), np.zeros((2, 2))
        model.fit(x, y, epochs=1, verbose=0, sample_weight=np.zeros(2))
        for before, gradient, after in zip(weights, gradients, model.trainable_weights):
            step = 0.0 if gradient is None else 0.1 * np.asarray(gradient)
            np.testing.assert_allclose(np.asarray(after), before - step, rtol=1e-4, atol=1e-6)


# What is left of a penalty


def cut(shape, *kept, **layouts):
    kept = [None if indices is None else np.array(indices, int) for indices in kept]
    return Cut(shape, tuple(kept), "'w'", **layouts)


def part_of(w, cut):
    for axis, indices in enumerate(cut.kept):
        w = w if indices is None else np.take(w, indices, axis)
    return w


def only(w, cut):
    """`w` with zeros where it is cut."""
    is_kept = np.ones(w.shape, bool)
    for axis, indices in enumerate(cut.kept):
        if indices is not None:
            along = np.isin(np.arange(w.shape[axis]), indices)
            is_kept &= along.reshape([-1] + [1] * (w.ndim - 1 - axis))
    return np.where(is_kept, w, 0.0)


GATED = Layout(("input", (("gate", 4), "output")))
UNSIZED = {"size_weighted": False}
PARTS = [
    (tfreg.GroupLasso(0.1, **UNSIZED), cut((5, 4), [0, 3], [1, 2])),
    (tfreg.GroupLasso(0.1, axis="input", **UNSIZED), cut((5, 4), [0, 3], [1, 2])),
    (
        tfreg.GroupLasso(0.1, axis=0, groups=[[0, 4], [1, 2], [3]], **UNSIZED),
        cut((5, 4), [2, 4], None),
    ),
    (
        tfreg.GroupLasso(0.1, axis="input", groups=[0, 1, 1, 2, -1], **UNSIZED),
        cut((5, 4), [1, 4], None),
    ),
    (
        tfreg.GroupMCP(0.1, axis="input", groups=[[3, 4], [1], [0, 2]], group_weights=[1, 2, 3.0]),
        cut((5, 4), [0, 2, 3], [0]),
    ),
    (tfreg.GroupLasso(0.1, groups=[[0, 1], [2, 3]], **UNSIZED), cut((5, 4), [0, 2], None)),
    (tfreg.GroupLasso(0.1, groups=[[0, 1], [2]], **UNSIZED), cut((5, 4), None, [3])),
    (tfreg.SparseGroupLasso(0.1, groups=[[0], [1, 2]], **UNSIZED), cut((5, 4), None, [3])),
    (tfreg.GroupLasso(0.1, axis=0, group_size=2, **UNSIZED), cut((4, 4), None, [3])),
    (
        tfreg.GroupLasso(0.1, groups=[[0, 2], [1]], **UNSIZED),
        cut((5, 12), [1, 4], [1, 2, 4, 5, 7, 8, 10, 11], layout=GATED, new_layout=GATED),
    ),
    (
        tfreg.GroupLasso(0.1, axis="input", groups=[[0, 3], [1]], **UNSIZED),
        cut((2, 4, 3), None, [1, 3], [0, 2]),
    ),
    (tfreg.Quadratic(0.1, precision=np.arange(4.0)), cut((5, 4), [0, 1], [1, 3])),
    (tfreg.Quadratic(0.1, precision=np.arange(20.0).reshape(5, 4)), cut((5, 4), [4], [1, 3])),
    (tfreg.Quadratic(0.1, precision=np.arange(5.0).reshape(5, 1)), cut((5, 4), [4], [1, 3])),
    (
        tfreg.Quadratic(0.1) + tfreg.GroupLasso(0.1, axis=0, groups=[[4], [0]], **UNSIZED),
        cut((5, 4), [4], None),
    ),
    (tfreg.BoxPenalty(0.1, -0.5, 0.5), cut((5, 4), [4], [2])),
]


@pytest.mark.parametrize("penalty, cut", PARTS, ids=str)
def test_a_penalty_of_a_part_is_that_of_zeros_elsewhere(penalty, cut):
    w = weight(cut.shape, "float64")
    part = penalty.on_part(cut)
    before = penalty.value_on(tf.constant(only(w, cut)), cut.layout)
    after = part.value_on(tf.constant(part_of(w, cut)), cut.new_layout)
    np.testing.assert_allclose(after, before, rtol=1e-12)
    assert type(penalty).from_config(part.get_config()).get_config() == part.get_config()


def test_what_is_left_of_lists_and_weights():
    penalty = tfreg.GroupLasso(axis=0, groups=[[0, 4], [1, 2], [3]], group_weights=[1.0, 2.0, 3.0])
    part = penalty.on_part(cut((5, 4), [3, 4], None))
    assert part.groups == [[1], [0]] and part.group_weights.tolist() == [1.0, 3.0]
    assert penalty.on_part(cut((5, 4), None, [0])).groups == penalty.groups
    assert penalty.on_part(cut((5, 4), None, None)) is penalty


@pytest.mark.slow
def test_a_prior_with_arrays_is_cut():
    rng = np.random.default_rng(0)
    w = weight((5, 4), "float64")
    mixture = tfreg.Prior(
        "MixtureSameFamily",
        factor=0.1,
        mixture_distribution={"distribution": "Categorical", "probs": [0.9, 0.1]},
        components_distribution={
            "distribution": "Normal",
            "loc": 0.0,
            "scale": rng.uniform(0.5, 1.0, (4, 2)),
        },
    )
    normal = tfreg.Prior("Normal", factor=0.1, loc=rng.normal(size=(5, 1)), scale=np.ones(4))
    plain = tfreg.Prior("Normal", factor=0.1, loc=0.0, scale=1.0)
    part = cut((5, 4), [0, 3], [1, 2, 3])
    for penalty in (mixture, normal, plain):
        whole = [
            penalty.on_part(cut((5, 4), [i], [j]))(w[i : i + 1, j : j + 1])
            for i in (0, 3)
            for j in (1, 2, 3)
        ]
        np.testing.assert_allclose(penalty.on_part(part)(part_of(w, part)), sum(whole), rtol=1e-6)
    assert plain.on_part(part) is plain
    scales = mixture.on_part(part).parameters["components_distribution"]["scale"]
    np.testing.assert_array_equal(
        scales, mixture.parameters["components_distribution"]["scale"][1:]
    )


@pytest.mark.parametrize(
    "penalty",
    [
        tfreg.GroupLasso(axis=0, group_size=2),
        tfreg.GroupMCP(axis=(1, 0), group_size=(None, 2)),
        tfreg.BoxPenalty() + tfreg.GroupLasso(axis=-2, group_size=2),
    ],
    ids=str,
)
def test_runs_along_a_cut_axis_are_refused(penalty):
    with pytest.raises(ValueError, match="'w'.*runs along axis.*penalties=False"):
        penalty.on_part(cut((4, 4), [0, 3], None))


def test_parts_of_weights_that_are_tied():
    shapes = [(3, 4), (4, 2)]
    weights = [weight(shape, "float64") for shape in shapes]
    tied = ["output", "input"]
    cuts = [cut((3, 4), [0, 1], [0, 2, 3]), cut((4, 2), [0, 2, 3], None)]
    for inner in [
        tfreg.GroupLasso(0.1, axis=tied, **UNSIZED),
        tfreg.GroupLasso(0.1, axis=tied, groups=[[0, 1], [2, 3]], **UNSIZED),
        tfreg.GroupLasso(0.1, axis=tied, groups=[[[1], [0, 3]], [[1], [2]]], **UNSIZED),
        tfreg.GroupLasso(0.1, axis=tied, **UNSIZED) + tfreg.GroupMCP(0.1, axis=tied, **UNSIZED),
    ]:
        penalty = tfreg.Joint(inner)
        before = penalty([only(w, each) for w, each in zip(weights, cuts)])
        after = penalty.on_parts(cuts)([part_of(w, each) for w, each in zip(weights, cuts)])
        np.testing.assert_allclose(after, before, rtol=1e-12)
    apart = [cuts[0], cut((4, 2), [0, 1, 3], None)]
    with pytest.raises(ValueError, match="cannot be carried.*the groups left"):
        tfreg.Joint(tfreg.GroupLasso(axis=tied)).on_parts(apart)
    smooth = tfreg.Joint(tfreg.TotalVariation())
    same = [cut((3, 4), [0], None)] * 2
    assert smooth.on_parts(same).get_config() == smooth.get_config()
    with pytest.raises(ValueError, match="other entries are left"):
        smooth.on_parts([same[0], cut((3, 4), [1], None)])


def test_parts_of_a_coupling():
    name = "a recurrent kernel"
    kept = np.array([0, 2, 3])
    gates = np.sort(GATES[kept].ravel())
    cuts = [cut((4, 12), kept, gates), cut((3, 4), [0, 2], kept)]
    weights = weights_of(name)
    penalty = coupled(tfreg.SparseGroupLasso(0.3, **UNSIZED), name)
    part = penalty.on_parts(cuts)
    assert part.size == 3
    before = penalty([only(w, each) for w, each in zip(weights, cuts)])
    after = part([part_of(w, each) for w, each in zip(weights, cuts)])
    np.testing.assert_allclose(after, before, rtol=1e-12)
    none = [cut((4, 12), [], []), cut((3, 4), None, [])]
    assert penalty.on_parts(none) is None
    with pytest.raises(ValueError, match="a part of entry 1"):
        penalty.on_parts([cut((4, 12), kept, None), cuts[1]])
    with pytest.raises(ValueError, match="other entries of a coupling"):
        penalty.on_parts([cuts[0], cut((3, 4), None, [0, 1, 2])])


def smaller(api, model, kept):
    """`model` with some of the units of its layer `d5`, the weights of both, and the cuts."""
    small = network(api, units=(5, 4))
    x = small.layers[0].output
    y = x
    for layer in small.layers[1:]:
        config = layer.get_config()
        config["units"] = len(kept) if layer.name == "d5" else config.get("units")
        config = {key: value for key, value in config.items() if value is not None}
        y = type(layer).from_config(config)(y)
    small = api.Model(x, y)
    cuts = {
        id(model.get_layer("d5").kernel): (None, np.array(kept)),
        id(model.get_layer("d5").bias): (np.array(kept),),
        id(model.get_layer("d4").kernel): (np.array(kept), None),
    }
    pairs = {}
    for old, new in zip(model.weights, small.weights, strict=True):
        value = np.asarray(old)
        for axis, indices in enumerate(cuts.get(id(old), ())):
            value = value if indices is None else np.take(value, indices, axis)
        new.assign(value)
        pairs[id(old)] = new
    return small, pairs, cuts


def test_terms_are_carried_to_a_smaller_model(api):
    model = network(api)
    unsized = tfreg.GroupLasso(0.01, **UNSIZED)
    removed = [1, 4]
    hidden, wide = model.get_layer("d5"), model.get_layer("d4")
    hidden.kernel.assign(np.asarray(hidden.kernel) * ~np.isin(np.arange(5), removed))
    hidden.bias.assign(np.asarray(hidden.bias) * ~np.isin(np.arange(5), removed))
    wide.kernel.assign(np.asarray(wide.kernel) * ~np.isin(np.arange(5), removed)[:, np.newaxis])
    tfreg.add_penalty(model, unsized, couplings_of(model))
    tfreg.add_penalty(model, unsized)
    grouped = tfreg.GroupLasso(0.01, axis="input", groups=[[0, 1], [2, 3]], **UNSIZED)
    tfreg.add_penalty(model, grouped, [hidden.kernel, wide.kernel], tfreg.schedules.CubicRamp(0, 9))
    tfreg.add_penalty(
        model,
        tfreg.Joint(tfreg.GroupLasso(0.1, axis=["output", "input"], **UNSIZED)),
        [hidden, wide],
    )
    model.compile(api.optimizers.SGD(), "mse")
    small, pairs, cuts = smaller(api, model, kept=[0, 2, 3])
    small.compile(api.optimizers.SGD(), "mse")
    assert len(carried_terms(model, small, pairs, cuts)) == 7
    carry_penalties(model, model, small, pairs, cuts)
    before, after = tfreg.get_penalties(model), tfreg.get_penalties(small)
    assert [entry.penalty.size for entry in after[:3]] == [3, 3, 4]
    # The groups of inputs are not the same any more on both kernels.
    assert [entry.paths for entry in after[4:6]] == [["d5/kernel"], ["d4/kernel"]]
    values = [float(entry.value()) for entry in after]
    expected = [float(entry.value()) for entry in before]
    np.testing.assert_allclose([*values[:4], values[4] + values[5], values[6]], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="'d5/kernel'.*runs along axis 1.*penalties=False"):
        tfreg.add_penalty(model, tfreg.GroupLasso(axis=1, group_size=2), [hidden])
        carried_terms(model, small, pairs, cuts)


def test_nested_models_keep_their_own_terms(api):
    inner = api.Sequential([api.Input((6,)), api.layers.Dense(5, name="d5")])
    tfreg.add_penalty(inner, tfreg.GroupLasso(0.01, **UNSIZED))
    model = api.Sequential([api.Input((6,)), inner, api.layers.Dense(2, name="out")])
    new_inner = api.Sequential([api.Input((6,)), api.layers.Dense(4, name="d5")])
    new = api.Sequential([api.Input((6,)), new_inner, api.layers.Dense(2, name="out")])
    pairs = {id(old): each for old, each in zip(model.weights, new.weights, strict=True)}
    kernel, bias = inner.layers[-1].weights
    kept = np.arange(4)
    cuts = {id(kernel): (None, kept), id(bias): (kept,), id(model.weights[2]): (kept, None)}
    carry_penalties(model, model, new, pairs, cuts)
    [entry] = tfreg.get_penalties(new)
    assert len(new.losses) == 1 and entry.weights[0] is new_inner.layers[-1].kernel


def test_a_model_of_another_structure_gets_the_terms_of_nested_ones(api):
    inner = api.Sequential([api.Input((6,)), api.layers.Dense(5, name="d5")])
    tfreg.add_penalty(inner, tfreg.GroupLasso(0.01))
    model = api.Sequential([api.Input((6,)), inner, api.layers.Dense(2, name="out")])
    tfreg.add_penalty(model, tfreg.BoxPenalty(), ["out"])
    x = api.Input((6,))
    y = api.layers.Dense(5, name="d5")(x)
    flat = api.Model(x, api.layers.Dense(2, name="out")(y))
    pairs = {id(old): each for old, each in zip(model.weights, flat.weights, strict=True)}
    followed = api.Model(model.inputs, model.layers[-1](inner.layers[-1](model.inputs[0])))
    carry_penalties(model, followed, flat, pairs, {})
    attached = [(entry.penalty, entry.paths) for entry in tfreg.get_penalties(flat)]
    assert [paths for _, paths in attached] == [["out/kernel"], ["d5/kernel"]]
