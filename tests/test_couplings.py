"""Which slices of which weights live and die together."""

import keras
import networks
import numpy as np
import pytest
import tensorflow as tf
from marks import KERAS_3_FIRST
from networks import NETWORKS, randomize

import tfreg


def assert_couplings(model, expected, rules=None):
    """The couplings of `model` are the `expected`: pairs of a size and its weights by their axes.

    A weight is a pair of the variable and its axis, or a tuple of axes.
    """
    found = [
        (coupling.size, sorted(map(keyed, axes_of(coupling))))
        for coupling in tfreg.couple(model, rules)
    ]
    expected = [(size, sorted(map(keyed, weights))) for size, weights in expected]
    assert sorted(found) == sorted(expected)


def axes_of(coupling):
    return [
        (member.variable, tuple(axis for axis, _ in member.slices))
        for member in coupling.members
        if not is_statistic(member.variable)
    ]


def is_statistic(variable):
    return "moving" in getattr(variable, "path", variable.name)


def keyed(weight):
    variable, axes = weight
    axes = axes if isinstance(axes, tuple) else (axes,)
    return id(variable), tuple(sorted(axis % len(variable.shape) for axis in axes))


def the_coupling_of(model, variable, axis=-1, rules=None):
    """The coupling that cuts an axis of a weight, if it is one."""
    wanted = keyed((variable, axis))
    [found] = [
        coupling
        for coupling in tfreg.couple(model, rules)
        if wanted in map(keyed, axes_of(coupling))
    ]
    return found


def is_coupled(model, variable, axis=-1, rules=None):
    """Whether anything of an axis of a weight is free."""
    axis %= len(variable.shape)
    return any(
        member.variable is variable and axis in [a for a, _ in member.slices]
        for coupling in tfreg.couple(model, rules)
        for member in coupling.members
    )


def zeroed_by(coupling, entries, variable):
    """Where `zero` makes zeros in a weight."""
    before = np.asarray(variable).copy()
    variable.assign(np.ones_like(before))
    coupling.zero(entries)
    zeros = np.asarray(variable) == 0
    variable.assign(before)
    return zeros


def layers_of(model, names):
    return [model.get_layer(name) for name in names.split()]


def told(couplings):
    """The reasons why what is fixed is so, as one text."""
    return str(couplings.fixed)


# What is coupled with what.


def test_units_of_dense_layers(api):
    model = networks.dense(api)
    first, second, last = layers_of(model, "first second last")
    assert_couplings(
        model,
        [
            (8, [(first.kernel, 1), (first.bias, 0), (second.kernel, 0)]),
            (7, [(second.kernel, 1), (second.bias, 0), (last.kernel, 0)]),
        ],
    )


def test_paths_are_those_of_penalties(api):
    model = networks.dense(api)
    tfreg.add_penalty(model, tfreg.BoxPenalty(1.0), weights=lambda layer, weight: True)
    known = tfreg.get_penalties(model)[0].paths
    for coupling in tfreg.couple(model):
        assert len(coupling.paths) == len(coupling.weights) == 3
        assert set(coupling.paths) <= set(known)
        tfreg.add_penalty(model, tfreg.BoxPenalty(1.0), weights=coupling.paths)
        # A model lists its weights in their order in the model.
        selected = tfreg.get_penalties(model)[-1].weights
        assert {id(w) for w in selected} == {id(w) for w in coupling.weights}


def test_an_addition_ties_the_channels_of_all_that_it_adds(api):
    k = api.layers
    x = api.Input((4,))
    a = k.Dense(6, name="a")(x)
    b = k.Dense(6, name="b")(k.Dense(5, activation="relu", name="inner")(a))
    model = api.Model(x, k.Dense(2, name="last")(k.Add()([a, b])))
    a, b, inner, last = layers_of(model, "a b inner last")
    assert_couplings(
        model,
        [
            (
                6,
                [
                    (a.kernel, 1),
                    (a.bias, 0),
                    (inner.kernel, 0),
                    (b.kernel, 1),
                    (b.bias, 0),
                    (last.kernel, 0),
                ],
            ),
            (5, [(inner.kernel, 1), (inner.bias, 0), (b.kernel, 0)]),
        ],
    )


def test_a_normalization_goes_with_the_filters_before_and_the_channels_after_it(api):
    k = api.layers
    first, norm = k.Conv2D(4, 3), k.BatchNormalization()
    second = k.Conv2D(2, 1, use_bias=False)
    model = api.Sequential([api.Input((5, 5, 3)), first, norm, k.ReLU(), second])
    assert_couplings(
        model,
        [
            (
                4,
                [
                    (first.kernel, 3),
                    (first.bias, 0),
                    (norm.gamma, 0),
                    (norm.beta, 0),
                    (second.kernel, 2),
                ],
            )
        ],
    )


def test_parts_of_a_concatenation_are_read_where_they_stand(api):
    k = api.layers
    x = api.Input((4,))
    parts = [k.Dense(units, name=f"of_{units}")(x) for units in (3, 2)]
    model = api.Model(x, k.Dense(2, name="last")(k.Concatenate()(parts)))
    of_3, of_2, last = layers_of(model, "of_3 of_2 last")
    for layer, rows in [(of_3, [0, 1, 2]), (of_2, [3, 4])]:
        coupling = the_coupling_of(model, layer.kernel)
        assert coupling.size == len(rows)
        for entry, row in enumerate(rows):
            zeros = zeroed_by(coupling, [entry], last.kernel)
            assert zeros[row].all() and zeros.sum() == 2
            assert zeroed_by(coupling, [entry], layer.kernel)[:, entry].all()


def test_a_flattened_channel_is_read_at_each_position(api):
    k = api.layers
    conv, last = k.Conv2D(3, 2), k.Dense(2)
    model = api.Sequential([api.Input((3, 4, 1)), conv, k.Flatten(), last])
    [coupling] = tfreg.couple(model)
    assert coupling.size == 3
    zeros = zeroed_by(coupling, [1], last.kernel)
    np.testing.assert_array_equal(np.flatnonzero(zeros.all(1)), 1 + 3 * np.arange(6))
    assert zeros.sum() == 2 * 6


def test_a_reshape_to_more_channels_repeats_them(api):
    k = api.layers
    dense, last = k.Dense(3), k.Dense(2)
    model = api.Sequential([api.Input((4, 5)), dense, k.Reshape((2, 6)), last])
    [coupling] = tfreg.couple(model)
    zeros = zeroed_by(coupling, [2], last.kernel)
    np.testing.assert_array_equal(np.flatnonzero(zeros.all(1)), [2, 5])


def test_what_a_multiplier_makes_of_a_channel_goes_with_it(api):
    k = api.layers
    stem, depthwise, last = k.Conv2D(3, 1), k.DepthwiseConv2D(2, depth_multiplier=2), k.Dense(2)
    model = api.Sequential([api.Input((4, 4, 2)), stem, depthwise, last])
    [coupling] = tfreg.couple(model)
    assert coupling.size == 3
    kernel = getattr(depthwise, "kernel", None)
    kernel = depthwise.depthwise_kernel if kernel is None else kernel
    assert zeroed_by(coupling, [1], kernel)[:, :, 1].all()
    for variable, axis in [(depthwise.bias, 0), (last.kernel, 0)]:
        zeros = zeroed_by(coupling, [1], variable)
        np.testing.assert_array_equal(
            np.flatnonzero(zeros.all(tuple(range(1, zeros.ndim)))), [2, 3]
        )


def test_a_grouped_convolution_has_one_entry_for_each_group(api):
    k = api.layers
    stem, conv, last = k.Conv2D(6, 1), k.Conv2D(9, 2, groups=3), k.Conv2D(2, 1)
    model = api.Sequential([api.Input((4, 4, 2)), stem, conv, last])
    [coupling] = tfreg.couple(model)
    assert coupling.size == 3
    for variable, axis, positions in [
        (stem.kernel, -1, [2, 3]),
        (stem.bias, 0, [2, 3]),
        (conv.kernel, -1, [3, 4, 5]),
        (conv.bias, 0, [3, 4, 5]),
        (last.kernel, 2, [3, 4, 5]),
    ]:
        zeros = zeroed_by(coupling, [1], variable)
        found = np.unique(np.nonzero(zeros)[axis])
        np.testing.assert_array_equal(found, positions)
        assert zeros.sum() == zeros.size // 3


def test_a_recurrent_unit_has_columns_of_every_gate_and_rows(api):
    k = api.layers
    layer, last = k.LSTM(4), k.Dense(2)
    model = api.Sequential([api.Input((3, 2)), layer, last])
    [coupling] = tfreg.couple(model)
    assert coupling.size == 4
    gates = 1 + 4 * np.arange(4)
    kernel = zeroed_by(coupling, [1], layer.cell.kernel)
    np.testing.assert_array_equal(np.flatnonzero(kernel.all(0)), gates)
    assert kernel.sum() == 2 * 4
    bias = zeroed_by(coupling, [1], layer.cell.bias)
    np.testing.assert_array_equal(np.flatnonzero(bias), gates)
    recurrent = zeroed_by(coupling, [1], layer.cell.recurrent_kernel)
    assert recurrent[1].all() and recurrent[:, gates].all()
    assert recurrent.sum() == 4 * 4 + 16 - 4  # an element of both counts once
    assert zeroed_by(coupling, [1], last.kernel)[1].all()


@pytest.mark.parametrize("name", ["GRU", "SimpleRNN"])
def test_units_of_other_recurrent_layers(api, name):
    k = api.layers
    layer, last = getattr(k, name)(5), k.Dense(2)
    model = api.Sequential([api.Input((3, 2)), k.Dense(4), layer, last])
    assert sorted(coupling.size for coupling in tfreg.couple(model)) == [4, 5]
    coupling = the_coupling_of(model, layer.cell.recurrent_kernel, (0, 1))
    assert zeroed_by(coupling, [3], layer.cell.recurrent_kernel)[:, 3].all()
    assert zeroed_by(coupling, [3], layer.cell.recurrent_kernel)[3].all()
    assert zeroed_by(coupling, [3], layer.cell.kernel)[:, 3].all()


def attention_weights(layer):
    """The kernels of the query, the key, the value and the output."""
    dense = [
        getattr(layer, f"{name}_dense", None) or getattr(layer, f"_{name}_dense")
        for name in ("query", "key", "value", "output")
    ]
    return [each.kernel for each in dense]


def test_heads_of_attention(api):
    k = api.layers
    x = api.Input((4, 6))
    attention = k.MultiHeadAttention(3, 2, value_dim=5, name="attention")
    model = api.Model(x, attention(x, x))
    query, key, value, output = attention_weights(attention)
    coupling = the_coupling_of(model, query, 1)
    assert coupling.size == 3
    for kernel in (query, key, value):
        zeros = zeroed_by(coupling, [1], kernel)
        assert zeros[:, 1].all() and zeros.sum() == zeros.size // 3
    zeros = zeroed_by(coupling, [1], output)
    assert zeros[1].all() and zeros.sum() == zeros.size // 3


def test_words_are_coupled_along_the_features_of_their_one_table():
    model = networks.language_model(keras)
    rules = NETWORKS["language_model"].rules(keras)
    table = model.get_layer("words").embeddings
    coupling = the_coupling_of(model, table, 1, rules)
    assert coupling.size == 6
    assert sum(weight is table for weight in coupling.weights) == 1
    assert any(weight is model.get_layer("lower").cell.kernel for weight in coupling.weights)
    upper = model.get_layer("upper").cell
    assert any(weight is upper.recurrent_kernel for weight in coupling.weights)
    assert not is_coupled(model, table, 0, rules)


def test_two_calls_of_an_inner_model_share_their_labels(api):
    model = networks.inner_twice(api)
    inner = model.get_layer("inner")
    first, last = layers_of(model, "first last")
    up, down = layers_of(inner, "up down")
    assert_couplings(
        model,
        [
            (
                6,
                [
                    (first.kernel, 1),
                    (first.bias, 0),
                    (up.kernel, 0),
                    (down.kernel, 1),
                    (down.bias, 0),
                    (last.kernel, 0),
                ],
            ),
            (7, [(up.kernel, 1), (up.bias, 0), (down.kernel, 0)]),
        ],
    )


def test_a_layer_called_twice_has_one_label_for_each_of_its_channels(api):
    model = networks.shared(api)
    a, b, both = layers_of(model, "a b both")
    coupling = the_coupling_of(model, both.kernel, 0)
    assert coupling.size == 4
    assert {id(a.kernel), id(b.kernel)} <= {id(weight) for weight in coupling.weights}


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_network_has_couplings_of_weights_of_its_own(name):
    network = NETWORKS[name]
    api = networks.APIS[network.apis[0]]
    model = network(api)
    couplings = tfreg.couple(model, network.rules(api))
    assert len(couplings) == len(list(couplings)) > 0
    own = {id(variable) for variable in model.variables}
    for coupling in couplings:
        assert {id(weight) for weight in coupling.weights} <= own
        assert coupling.size > 0 and len(coupling.norms()) == coupling.size
        assert len(coupling.weights) == len(coupling.paths) == len(coupling.members)
        for member in coupling.members:
            for axis, indices in member.slices:
                assert indices.shape[0] == coupling.size
                assert 0 <= indices.min() <= indices.max() < member.variable.shape[axis]


# What a coupling computes.


def test_norms_are_over_all_slices(api):
    k = api.layers
    layer, last = k.LSTM(4), k.Dense(2)
    model = randomize(api.Sequential([api.Input((3, 2)), layer, last]), np.random.default_rng(0))
    [coupling] = tfreg.couple(model)
    kernel, recurrent, bias, read = (
        np.asarray(variable, "float64")
        for variable in (
            layer.cell.kernel,
            layer.cell.recurrent_kernel,
            layer.cell.bias,
            last.kernel,
        )
    )
    expected = []
    for unit in range(4):
        columns = unit + 4 * np.arange(4)
        in_recurrent = np.zeros(recurrent.shape, bool)
        in_recurrent[unit] = in_recurrent[:, columns] = True
        squares = [kernel[:, columns], bias[columns], recurrent[in_recurrent], read[unit]]
        expected.append(np.sqrt(sum(np.sum(part**2) for part in squares)))
    np.testing.assert_allclose(coupling.norms(), expected, rtol=1e-5)


def test_zero_makes_exact_zeros_of_its_slices_and_touches_nothing_else(api):
    model = randomize(networks.residual(api), np.random.default_rng(0))
    for coupling in tfreg.couple(model):
        before = [np.asarray(variable).copy() for variable in model.variables]
        norms = np.asarray(coupling.norms())
        assert (norms > 0).all()
        coupling.zero([1])
        after = np.asarray(coupling.norms())
        assert after[1] == 0.0
        np.testing.assert_array_equal(np.delete(after, 1), np.delete(norms, 1))
        own = {id(weight) for weight in coupling.weights}
        for variable, old in zip(model.variables, before):
            new = np.asarray(variable)
            assert ((new == old) | (new == 0)).all()
            if id(variable) not in own:
                np.testing.assert_array_equal(new, old)
            else:
                assert (new != old).any()


@pytest.mark.parametrize("entries", [[], [0], [1, 4], np.array([2, 5]), range(2)])
def test_zero_takes_any_list_of_entries(entries):
    model = randomize(networks.dense(keras), np.random.default_rng(0))
    coupling = the_coupling_of(model, model.get_layer("first").kernel)
    coupling.zero(entries)
    np.testing.assert_array_equal(np.flatnonzero(np.asarray(coupling.norms()) == 0), list(entries))


@pytest.mark.parametrize("entries", [[8], [-9], [0.5], "all", [[0]]])
def test_zero_of_entries_that_are_not_there(entries):
    model = networks.dense(keras)
    coupling = the_coupling_of(model, model.get_layer("first").kernel)
    with pytest.raises((TypeError, ValueError), match="entries"):
        coupling.zero(entries)


def test_zeros_of_an_entry_change_nothing_but_its_own_effect(api):
    """All slices of an entry are zero: the rest computes as if it were not there."""
    model = randomize(networks.dense(api), np.random.default_rng(0))
    first, second, last = layers_of(model, "first second last")
    the_coupling_of(model, first.kernel).zero([0, 3])
    x = np.random.default_rng(1).normal(size=(4, 6)).astype("float32")
    kept = [1, 2, 4, 5, 6, 7]
    hidden = np.maximum(x @ np.asarray(first.kernel)[:, kept] + np.asarray(first.bias)[kept], 0)
    hidden = hidden @ np.asarray(second.kernel)[kept] + np.asarray(second.bias)
    expected = 1 / (1 + np.exp(-hidden)) @ np.asarray(last.kernel) + np.asarray(last.bias)
    [actual] = networks.outputs_of(model, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


# What is fixed, and why.


def test_inputs_and_outputs_are_fixed(api):
    model = networks.dense(api)
    first, last = layers_of(model, "first last")
    assert not is_coupled(model, first.kernel, 0)
    assert not is_coupled(model, last.kernel, 1)
    text = told(tfreg.couple(model))
    assert "input" in text and "output" in text
    fixed = {(each.path, each.axis, each.size) for each in tfreg.couple(model).fixed}
    assert fixed == {("first/kernel", 0, 6), ("last/kernel", 1, 3), ("last/bias", 0, 3)}


def fixed_width(api, *layers, units=6, shape=(4,)):
    """A model of a Dense layer, `layers` and a Dense layer, and the first."""
    k = api.layers
    dense = k.Dense(units, name="first")
    return api.Sequential([api.Input(shape), dense, *layers, k.Dense(2, name="last")]), dense


@pytest.mark.parametrize(
    "make",
    [
        lambda k: k.LayerNormalization(name="odd"),
        lambda k: k.Softmax(name="odd"),
        lambda k: k.Activation("softmax", name="odd"),
        lambda k: k.Lambda(networks.doubled, name="odd"),
    ],
    ids=["LayerNormalization", "Softmax", "softmax", "Lambda"],
)
def test_operations_over_channels_fix_them_and_say_so(api, make):
    model, dense = fixed_width(api, make(api.layers))
    assert len(tfreg.couple(model)) == 0
    assert not is_coupled(model, dense.kernel)
    reasons = {each.path: each.reason for each in tfreg.couple(model).fixed if each.axis == 1}
    assert "odd" in reasons["first/kernel"]


def test_a_dense_layers_own_softmax_fixes_its_units(api):
    k = api.layers
    model = api.Sequential(
        [api.Input((4,)), k.Dense(6, activation="softmax", name="odd"), k.Dense(2)]
    )
    assert len(tfreg.couple(model)) == 0
    assert "softmax" in told(tfreg.couple(model))


def test_softmax_over_positions_fixes_nothing(api):
    model, dense = fixed_width(api, api.layers.Softmax(axis=1), shape=(3, 4))
    assert is_coupled(model, dense.kernel)


def test_a_channel_shuffle_ties_the_channels_of_a_group(api):
    k = api.layers
    x = api.Input((3, 3, 2))
    y = k.Reshape((3, 3, 2, 3))(k.Conv2D(6, 1, name="first")(x))
    y = k.Reshape((3, 3, 6))(k.Permute((1, 2, 4, 3))(y))
    model = api.Model(x, k.Conv2D(2, 1, name="last")(y))
    first, last = layers_of(model, "first last")
    [coupling] = tfreg.couple(model)
    assert coupling.size == 2
    bias = zeroed_by(coupling, [1], first.bias)
    np.testing.assert_array_equal(np.flatnonzero(bias), [3, 4, 5])
    channels = zeroed_by(coupling, [1], last.kernel)[0, 0].all(1)
    np.testing.assert_array_equal(np.flatnonzero(channels), [1, 3, 5])


def test_one_channel_that_is_broadcast_is_fixed(api):
    k = api.layers
    x = api.Input((4,))
    one, many = k.Dense(1, name="one")(x), k.Dense(5, name="many")(x)
    model = api.Model(x, k.Dense(2)(k.Multiply()([one, many])))
    assert not is_coupled(model, model.get_layer("one").kernel)
    assert the_coupling_of(model, model.get_layer("many").kernel).size == 5


def test_lora_and_quantized_weights_are_fixed():
    model = networks.dense(keras)
    model.get_layer("first").enable_lora(2)
    assert not is_coupled(model, model.get_layer("first").bias)
    assert is_coupled(model, model.get_layer("last").kernel, 0)
    model = networks.dense(keras)
    model.get_layer("second").quantize("int8")
    assert not is_coupled(model, model.get_layer("first").kernel)
    assert not is_coupled(model, model.get_layer("last").kernel, 0)


def test_an_initial_state_of_ones_own_is_followed_or_fixed(api):
    k = api.layers
    x = api.Input((3, 2))
    state = k.Dense(4, name="state")(k.Flatten()(x))
    y = k.GRU(4, name="gru")(x, initial_state=state)
    model = api.Model(x, k.Dense(2)(y))
    dense, gru = layers_of(model, "state gru")
    if is_coupled(model, gru.cell.kernel):
        coupling = the_coupling_of(model, gru.cell.recurrent_kernel, (0, 1))
        assert any(weight is dense.kernel for weight in coupling.weights)
    else:
        assert not is_coupled(model, dense.kernel)


def test_a_layer_without_a_rule_pins_what_it_meets(api):
    scale = networks.positions_class(api)(name="mine")
    model, dense = fixed_width(api, scale)
    assert not is_coupled(model, dense.kernel) and not is_coupled(model, scale.embeddings)
    text = told(tfreg.couple(model))
    assert "mine" in text


# Rules of ones own, and arguments.


def test_rules_by_name_make_an_unknown_layer_free(api):
    cls = networks.positions_class(api)
    scale = cls(name="mine")
    model, dense = fixed_width(api, scale)
    last = model.get_layer("last")
    assert_couplings(
        model,
        [(6, [(dense.kernel, 1), (dense.bias, 0), (scale.embeddings, 0), (last.kernel, 0)])],
        rules={cls: "elementwise"},
    )


def test_a_rule_holds_for_subclasses(api):
    class Doubled(api.layers.Dense):
        def call(self, x):
            return 2 * super().call(x)

    k = api.layers
    first, last = Doubled(5), k.Dense(2)
    model = api.Sequential([api.Input((4,)), first, last])
    assert_couplings(
        model,
        [(5, [(first.kernel, 1), (first.bias, 0), (last.kernel, 0)])],
        rules={Doubled: "dense"},
    )


@pytest.mark.parametrize(
    "rules",
    [
        {"Dense": "elementwise"},
        {keras.layers.Dense: "dens"},
        {keras.layers.Dense: 3},
        {3: "dense"},
        [keras.layers.Dense],
        "dense",
    ],
)
def test_rules_that_are_none(rules):
    with pytest.raises((TypeError, ValueError), match="rules"):
        tfreg.couple(networks.dense(keras), rules)


def test_an_unknown_name_of_a_rule_lists_the_known_ones():
    with pytest.raises(ValueError, match="elementwise"):
        tfreg.couple(networks.dense(keras), {keras.layers.Dense: "elementwize"})


@pytest.mark.parametrize("model", [None, "model", 3, keras.layers.Dense(2), keras.Model])
def test_what_is_no_model(model):
    with pytest.raises(TypeError, match="model"):
        tfreg.couple(model)


def test_a_model_that_is_not_built(api):
    with pytest.raises(ValueError, match="built"):
        tfreg.couple(api.Sequential([api.layers.Dense(3), api.layers.Dense(2)]))


def test_a_subclassed_model_that_cannot_be_traced_says_what_to_do(api):
    class Untraceable(api.Model):
        def __init__(self):
            super().__init__()
            self.dense = api.layers.Dense(3)

        def call(self, x):
            y = self.dense(x)
            return y if float(tf.reduce_sum(y)) > 0 else -y

    model = Untraceable()
    model(np.ones((2, 4), "float32"))
    with pytest.raises(ValueError, match="[Ff]unctional"):
        tfreg.couple(model)


def test_a_subclassed_model_is_traced(api):
    model = networks.subclassed(api)
    coupling = the_coupling_of(model, model.up.kernel)
    assert coupling.size == 8
    assert {id(w) for w in (model.up.bias, model.norm.gamma, model.down.kernel)} <= {
        id(weight) for weight in coupling.weights
    }


# What users read.


def test_couplings_print_as_a_table(api):
    model = networks.dense(api)
    couplings = tfreg.couple(model)
    text = str(couplings)
    for coupling in couplings:
        assert str(coupling.size) in text
        assert any(path in text for path in coupling.paths)
    assert repr(couplings) == text
    assert len(text.splitlines()) > len(couplings)
    assert max(map(len, text.splitlines())) <= 120


def test_a_model_without_couplings_prints_why(api):
    k = api.layers
    model = api.Sequential([api.Input((4,)), k.Dense(2, name="only")])
    couplings = tfreg.couple(model)
    assert len(couplings) == 0 and list(couplings) == []
    assert "only" in told(couplings)
    assert str(couplings)


@KERAS_3_FIRST
def test_the_cost_counts_parameters_and_multiplications(api):
    """Of a 3x3 filter over 4x4 positions, and of its reader."""
    k = api.layers
    conv, last = k.Conv2D(4, 3), k.Conv2D(2, 1)
    model = api.Sequential([api.Input((6, 6, 3)), conv, last])
    [coupling] = tfreg.couple(model)
    parameters, operations = coupling.cost
    assert parameters == 3 * 3 * 3 + 1 + 2
    assert operations == 16 * (3 * 3 * 3 + 2)
