"""What each axis of the weights of each of Keras's layers means: the layers themselves tell."""

import inspect
import re

import keras
import layer_cases
import numpy as np
import oracles
import pytest
import tensorflow as tf
import tf_keras
from layer_cases import NOT_BUILT, RECIPES, WEIGHTLESS, rand

from tfreg import backend
from tfreg.groups import Groups
from tfreg.layers import registry
from tfreg.layout import Layout

APIS = {"keras": keras, "tf_keras": tf_keras}


def exported(namespace):
    """The layer classes of a Keras, those of the namespaces in its `layers` included."""
    base = (keras.layers.Layer, tf_keras.layers.Layer)
    found = []
    for value in vars(namespace).values():
        if inspect.isclass(value) and issubclass(value, base):
            found.append(value)
        elif inspect.ismodule(value) and value.__name__.startswith("tf_keras.layers."):
            found += exported(value)
    return list(dict.fromkeys(found))


CLASSES = [(api, each) for api in APIS for each in exported(APIS[api].layers)]


def recipes(wanted=lambda recipe: True, names=None, turn=None):
    """The recipes of the classes that the Kerases have.

    With a `turn`, two in three of those that both have are slow tests.
    """
    found = []
    for number, (api, layer_class) in enumerate(CLASSES):
        name = layer_class.__name__
        for i, recipe in enumerate(RECIPES.get(name, [])):
            is_of_both = all(hasattr(each.layers, name) for each in APIS.values())
            is_of_both &= not recipe.only
            waits = turn is not None and is_of_both and (number + i) % 3 != turn
            marks = pytest.mark.slow if waits else ()
            if recipe.only in ("", api) and wanted(recipe) and (names is None or name in names):
                found.append(pytest.param(api, recipe, id=f"{api}-{name}-{i}", marks=marks))
    return found


@pytest.fixture(autouse=True)
def registrations(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


@pytest.fixture(autouse=True)
def input_spec(monkeypatch):
    """The SpectralNormalization of tf_keras takes `tf.keras`, now Keras 3, for itself."""
    monkeypatch.setattr(tf.keras.layers, "InputSpec", tf_keras.layers.InputSpec)


def labels(layout, axis, shape):
    """The number of the group of each entry of a weight, as the groups count."""
    groups = Groups(axis).resolve(layout)
    w = Groups(axis).split(tf.zeros(shape), layout)
    count = groups.listed_sizes(w).shape[0]
    numbers = groups.spread(groups.grid_of(tf.range(count), w), w)
    return np.broadcast_to(numbers, w.shape).reshape(shape)


def groups_of(layer, weight, axis):
    return labels(registry.weight_layouts(layer)[id(weight)], axis, tuple(weight.shape))


def number_of_groups(layer, weight, axis):
    return groups_of(layer, weight, axis).max() + 1


def kernels(layer):
    layouts = registry.weight_layouts(layer)
    return [weight for weight in layer.trainable_weights if layouts[id(weight)].is_kernel]


def touched(call, inputs, weights, seeds_of):
    """For each of `seeds_of(output)`, where its gradient with respect to each weight is not 0."""
    variables = [w.value if isinstance(w, keras.Variable) else w for w in weights]
    with tf.GradientTape(persistent=True) as tape:
        output = call(*inputs)
    for seed in seeds_of(output):
        seed = tf.constant(seed, output.dtype)
        gradients = tape.gradient(output, variables, seed, tf.UnconnectedGradients.ZERO)
        yield [np.not_equal(tf.convert_to_tensor(gradient), 0.0) for gradient in gradients]


def one_at_a_time(x, axes):
    """`x`, each time with all but one of the entries along `axes` set to 0."""
    x = np.asarray(x)
    axes = sorted(axis % x.ndim for axis in axes)
    for index in np.ndindex(*[x.shape[axis] for axis in axes]):
        one = np.zeros_like(x)
        where = tuple(index[axes.index(i)] if i in axes else slice(None) for i in range(x.ndim))
        one[where] = x[where]
        yield one


def only_group(numbers, where):
    """The one group in which everything is that is touched."""
    (group,) = np.unique(numbers[where])
    return group


def check_units(layer, call, inputs, weights, units=(-1,), in_order=True, complete=True):
    """Unit k of the output depends on the entries of group k only."""
    owners: list[list] = [[] for _ in weights]
    groups = [groups_of(layer, weight, "output") for weight in weights]
    for wheres in touched(call, inputs, weights, lambda y: one_at_a_time(rand(*y.shape), units)):
        for numbers, where, owner in zip(groups, wheres, owners):
            owner.append(only_group(numbers, where))
            assert not complete or where[numbers == owner[-1]].all()
    layouts = registry.weight_layouts(layer)
    # A bias may be over some of the axes of the output only.
    check_owners(groups, owners, in_order, [not layouts[id(w)].is_kernel for w in weights])


def check_channels(layer, call, inputs, weights, channels=(-1,), shared=False, complete=True):
    """Channel k of the input meets the entries of group k only."""
    owners: list[list] = [[] for _ in weights]
    groups = [groups_of(layer, weight, "input") for weight in weights]
    met = [np.zeros_like(numbers, bool) for numbers in groups]
    for x in one_at_a_time(inputs[0], channels):
        (wheres,) = touched(call, [x, *inputs[1:]], weights, lambda y: [rand(*y.shape)])
        for i, where in enumerate(wheres):
            owners[i].append(only_group(groups[i], where))
            met[i] |= where
    assert not complete or all(where.all() for where in met)
    check_owners(groups, owners, True, [shared] * len(weights))


def check_owners(groups, owners, in_order, shared):
    for numbers, owner, may_share in zip(groups, owners, shared):
        count = numbers.max() + 1
        assert set(owner) == set(range(count))
        assert may_share or count == len(owner)
        if count == len(owner) and in_order:
            assert owner == list(range(count))


# Every class that the Kerases export


def test_every_layer_has_its_place():
    counts = {
        f"{api}.{layer_class.__name__}": sum(
            layer_class.__name__ in table for table in (RECIPES, WEIGHTLESS, NOT_BUILT)
        )
        for api, layer_class in CLASSES
    }
    message = "each layer must be in one of RECIPES, WEIGHTLESS, NOT_BUILT of layer_cases.py"
    assert {name: count for name, count in counts.items() if count != 1} == {}, message


@pytest.mark.parametrize("api, recipe", recipes(turn=0))
def test_every_weight_is_registered(api, recipe):
    layer, _ = layer_cases.build(APIS[api].layers, recipe)
    registered = registry.registered_layouts(layer)
    layouts = registry.weight_layouts(layer)
    assert registered == layouts
    weights = [weight for weight in layer.trainable_weights if len(weight.shape) > 0]
    assert {id(weight) for weight in weights} == set(registered)
    assert weights or layer.trainable_weights  # an Attention has scalars only
    for weight in weights:
        name = re.search(r"(\w+)(:0)?$", getattr(weight, "path", weight.name)).group(1)
        is_kernel = re.search("(kernel|embeddings|embedding_weights)$", name) is not None
        assert layouts[id(weight)].is_kernel == is_kernel, name


def test_a_layer_without_weights_has_none():
    weightless = [pair for pair in CLASSES if pair[1].__name__ in WEIGHTLESS]
    assert len(weightless) > 100
    with_weights = []
    for api, layer_class in weightless:
        layer = layer_cases.build_weightless(layer_class)
        if registry.weight_layouts(layer) != {} or layer.trainable_weights != []:
            with_weights.append(f"{api}.{layer_class.__name__}")
    assert with_weights == []


# What the axes mean, from the layers' outputs and gradients


@pytest.mark.parametrize("api, recipe", recipes(lambda recipe: recipe.linear, turn=0))
def test_a_group_of_output_is_what_a_unit_depends_on(api, recipe):
    layer, inputs = layer_cases.build(APIS[api].layers, recipe)
    weights = layer.trainable_weights
    check_units(layer, layer, inputs, weights, recipe.units, recipe.in_order, recipe.complete)


@pytest.mark.parametrize("api, recipe", recipes(lambda recipe: recipe.linear, turn=1))
def test_a_group_of_input_is_what_a_channel_meets(api, recipe):
    layer, inputs = layer_cases.build(APIS[api].layers, recipe)
    weights = kernels(layer)
    check_channels(layer, layer, inputs, weights, recipe.channels, recipe.shared, recipe.complete)
    for weight in layer.trainable_weights:
        if not any(weight is kernel for kernel in weights):
            by_output = groups_of(layer, weight, "output")
            np.testing.assert_array_equal(groups_of(layer, weight, "input"), by_output)


@pytest.mark.parametrize("api, recipe", recipes(lambda recipe: recipe.linear, turn=2))
def test_a_group_of_shape_is_what_leads_from_an_input_to_a_place(api, recipe):
    layer, inputs = layer_cases.build(APIS[api].layers, recipe)
    weights = kernels(layer)
    x = np.asarray(inputs[0])
    places = set(range(1, x.ndim)) - {axis % x.ndim for axis in recipe.channels}
    # One channel of the first example, in the middle.
    one = np.zeros_like(x)
    middle = tuple(x.shape[i] // 2 if i in places else 0 for i in range(x.ndim))
    one[middle] = 1.0

    def places_reached(y):
        at = sorted(set(range(len(y.shape))) - {axis % len(y.shape) for axis in recipe.units})
        change = np.asarray(y) - np.asarray(layer(np.zeros_like(x)))
        seeds = [seed for seed in one_at_a_time(change, at) if seed.any()]
        return seeds[:: 1 + len(seeds) // 30]

    groups = [groups_of(layer, weight, "shape") for weight in weights]
    met: list[list] = [[] for _ in weights]
    for wheres in touched(layer, [one], weights, places_reached):
        for i, where in enumerate(wheres):
            met[i].append(only_group(groups[i], where))
    layouts = registry.weight_layouts(layer)
    for weight, found in zip(weights, met):
        # Every place of a Dense is reached by the same weights.
        has_positions = any("position" in part.roles for part in layouts[id(weight)].parts)
        assert len(set(found)) == (len(found) if has_positions else 1)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_input_of_a_grouped_convolution_is_a_channel_of_the_layers_input(api, rank, count):
    layer = getattr(api.layers, f"Conv{rank}D")(8, 2, groups=count)
    layer(np.zeros((1, *[3] * rank, 4)))
    shape = tuple(layer.kernel.shape)
    assert shape == (*[2] * rank, 4 // count, 8)
    for axis in ("output", "input", "shape", "all"):
        numbers = groups_of(layer, layer.kernel, axis)
        members = oracles.grouped_convolution(shape, axis, count)
        for number, (_, indices) in enumerate(sorted(members.items())):
            assert set(map(tuple, np.argwhere(numbers == number))) == set(indices)
    one_group = Layout.positional(rank + 2)
    assert (layout_of(layer, layer.kernel) == one_group) == (count == 1)


@pytest.mark.parametrize("api, recipe", recipes(names=["SeparableConv1D", "SeparableConv2D"]))
def test_separable_convolutions(api, recipe):
    layer, inputs = layer_cases.build(APIS[api].layers, recipe)
    depthwise, pointwise = layer.depthwise_kernel, layer.pointwise_kernel
    check_units(layer, layer, inputs, [pointwise, layer.bias])
    check_channels(layer, layer, inputs, [depthwise])
    # With the identity after it, the filters of the depthwise convolution are the units.
    pointwise.assign(np.reshape(np.eye(6), pointwise.shape))
    check_units(layer, layer, inputs, [depthwise])
    # And what the pointwise convolution reads are the filters of the other.
    numbers = groups_of(layer, depthwise, "output")
    values = backend.weight_tensor(depthwise).numpy()
    for k in range(6):
        depthwise.assign(values * (numbers == k))
        ((where,),) = touched(layer, inputs, [pointwise], lambda y: [rand(*y.shape)])
        assert only_group(groups_of(layer, pointwise, "input"), where) == k


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_a_local_kernel_that_is_a_list_of_its_connections(data_format, padding):
    layer = tf_keras.layers.LocallyConnected2D(
        2, (2, 3), padding=padding, implementation=3, data_format=data_format
    )
    x = rand(2, 3, 4, 4) if data_format == "channels_first" else rand(2, 4, 4, 3)
    layer(x)
    axes = (1,) if data_format == "channels_first" else (-1,)
    if padding == "valid" or data_format == "channels_first":
        check_units(layer, layer, [x], [layer.kernel], axes)
    else:
        with pytest.raises(ValueError, match="known to hold outputs"):
            groups_of(layer, layer.kernel, "output")
    if padding == "valid" or data_format == "channels_last":
        check_channels(layer, layer, [x], [layer.kernel], axes)
    assert registry.weight_layouts(layer)[id(layer.kernel)].is_kernel


def test_a_weight_that_the_layer_reshapes_has_a_group_per_entry():
    norm = keras.layers.LayerNormalization(axis=[1, -1])
    norm(rand(4, 5, 2, 3))
    local = tf_keras.layers.LocallyConnected1D(2, 2, data_format="channels_first")
    local(rand(2, 3, 4))
    for layer, weight, units in [(norm, norm.gamma, -1), (local, local.bias, 1)]:
        x = rand(4, 5, 2, 3) if layer is norm else rand(2, 3, 4)
        numbers = groups_of(layer, weight, "output")
        np.testing.assert_array_equal(numbers.ravel(), np.arange(numbers.size))
        counts = np.zeros_like(numbers)
        for (where,) in touched(
            layer, [x], [weight], lambda y: one_at_a_time(rand(*y.shape), [units])
        ):
            counts += where
        np.testing.assert_array_equal(counts, 1)


@pytest.mark.parametrize("tied", [True, False])
def test_a_row_of_an_embedding_is_a_group(api, tied):
    layer = api.layers.Embedding(5, 3)
    reverse = []
    if hasattr(api.layers, "ReversibleEmbedding"):
        layer = api.layers.ReversibleEmbedding(5, 3, tie_weights=tied)
        reverse = [layer]
    layer(np.array([0]))
    for axis in ("input", "output"):
        for row in range(5):
            x = [np.array([row])]
            ((where,),) = touched(layer, x, [layer.embeddings], lambda y: [rand(*y.shape)])
            numbers = groups_of(layer, layer.embeddings, axis)
            np.testing.assert_array_equal(numbers == row, where)
    for layer in reverse:
        kernel = layer.embeddings if tied else layer.reverse_embeddings
        check_units(layer, lambda x: layer(x, reverse=True), [rand(2, 3)], [kernel])


def test_feature_columns_have_a_group_per_row():
    recipe = RECIPES["DenseFeatures"][0]
    layer, inputs = layer_cases.build(tf_keras.layers, recipe)
    (table,) = layer.trainable_weights
    ((where,),) = touched(layer, inputs, [table], lambda y: [rand(*y.shape)])
    np.testing.assert_array_equal(np.isin(groups_of(layer, table, "output"), [1, 4]), where)


# Recurrent layers


def recurrent(api, units=3):
    cells = [
        (api.layers.SimpleRNN(units, return_sequences=True), (2, 5, 4)),
        (api.layers.LSTM(units, return_sequences=True), (2, 5, 4)),
        (api.layers.GRU(units, return_sequences=True), (2, 5, 4)),
        (api.layers.GRU(units, return_sequences=True, reset_after=False), (2, 5, 4)),
    ]
    for rank in (1, 2, 3):
        layer_class = getattr(api.layers, f"ConvLSTM{rank}D")
        layer = layer_class(units, 2, padding="same", return_sequences=True)
        cells.append((layer, (2, 3, *[3] * rank, 4)))
    return cells


@pytest.mark.parametrize("i", range(7))
def test_without_its_groups_a_recurrent_unit_stays_at_zero(api, i):
    layer, shape = recurrent(api)[i]
    x = rand(*shape)
    layer(x)
    values = [rand(*weight.shape, seed=seed) for seed, weight in enumerate(layer.weights)]
    numbers = [groups_of(layer, weight, "output") for weight in layer.weights]
    assert len(values) == 3
    for unit in range(3):
        for weight, value, number in zip(layer.weights, values, numbers):
            assert number.max() == 2
            weight.assign(np.where(number == unit, 0.0, value))
        states = np.array(layer(x)).reshape(-1, 3)
        assert not states[:, unit].any()
        assert np.delete(states, unit, axis=1).any(axis=0).all()


@pytest.mark.parametrize("i", range(7))
def test_input_of_a_recurrent_kernel_is_what_it_reads(api, i):
    layer, shape = recurrent(api)[i]
    x = rand(*shape)
    layer(x)
    cell = layer.cell
    check_channels(layer, layer, [x], [cell.kernel])
    assert number_of_groups(layer, cell.kernel, "input") == 4
    assert number_of_groups(layer, cell.recurrent_kernel, "input") == 3
    # It reads the units themselves, along its last axis but one.
    numbers = groups_of(layer, cell.recurrent_kernel, "input")
    expected = np.broadcast_to(np.arange(3)[:, None], numbers.shape)
    np.testing.assert_array_equal(numbers, expected)


def test_the_gates_of_a_recurrent_kernel_are_apart(api):
    for layer, gates in [
        (api.layers.LSTM(3), 4),
        (api.layers.GRU(3), 3),
        (api.layers.GRU(3, reset_after=False), 3),
    ]:
        layer(np.zeros((2, 5, 6)))
        layouts = registry.weight_layouts(layer)
        for weight in layer.weights:
            apart = layouts[id(weight)].gates_apart(tf.convert_to_tensor(weight))
            of_bias_and_reset_after = 2 if tuple(weight.shape) == (2, 9) else 1
            assert apart.shape[0] == gates * of_bias_and_reset_after
            columns = np.split(backend.weight_tensor(weight).numpy(), gates, axis=-1)
            if of_bias_and_reset_after == 1:
                np.testing.assert_array_equal(apart, [column.ravel() for column in columns])


# Attention


def attention(query, value, w, heads, per_value_head=1):
    """What `heads` alone give, in NumPy, of the weights `w` by projection and attribute."""
    q, k, v = (
        np.einsum("btc,chd->bthd", x, w[name, "kernel"]) + w[name, "bias"]
        for name, x in [("query", query), ("key", value), ("value", value)]
    )
    output = w["output", "bias"]
    gates = np.ones((query.shape[1], q.shape[2], v.shape[3]))
    if ("gate", "kernel") in w:
        logits = np.einsum("btc,chd->bthd", query, w["gate", "kernel"]) + w["gate", "bias"]
        gates = 1.0 / (1.0 + np.exp(-logits))
    for h in heads:
        shared = h // per_value_head
        scores = np.einsum("btd,bsd->bts", q[:, :, h], k[:, :, shared]) / np.sqrt(q.shape[-1])
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        seen = np.einsum("bts,bsd->btd", p, v[:, :, shared]) * gates[..., h, :]
        output = output + np.tensordot(seen, w["output", "kernel"][h], 1)
    return output


PROJECTIONS = ("query", "key", "value", "gate", "output")


def projections(layer):
    """The weights of an attention, by projection and attribute."""
    return {
        (name, attribute): getattr(getattr(layer, f"_{name}_dense"), attribute)
        for name in PROJECTIONS
        for attribute in ("kernel", "bias")
        if hasattr(layer, f"_{name}_dense")
    }


def check_without_heads(layer, inputs, removed, heads, per_value_head=1):
    """Zeros in the groups `removed` of a projection's head axis leave only the `heads`."""
    weights = projections(layer)
    original = {key: backend.weight_tensor(weight).numpy() for key, weight in weights.items()}
    for (name, attribute), weight in weights.items():
        if (name, attribute) != ("output", "bias") and name in removed:
            number = groups_of(layer, weight, "head")
            weight.assign(np.where(np.isin(number, removed[name]), 0.0, original[name, attribute]))
    expected = attention(*inputs, original, heads, per_value_head)
    np.testing.assert_allclose(layer(*inputs), expected, rtol=1e-4, atol=1e-5)
    for key, weight in weights.items():
        weight.assign(original[key])


@pytest.mark.parametrize("i", [0, 1])
def test_without_its_groups_a_head_gives_nothing(api, i):
    shape = (2, 3) if i else None
    recipe = layer_cases.Recipe(
        lambda layers: layer_cases.attention(layers, output_shape=shape), ((2, 5, 4), (2, 6, 7))
    )
    layer, inputs = layer_cases.build(api.layers, recipe)
    check_without_heads(layer, inputs, {}, range(3))
    for head in range(3):
        others = [h for h in range(3) if h != head]
        check_without_heads(layer, inputs, dict.fromkeys(PROJECTIONS, [head]), others)
        for name in ("value", "output"):
            check_without_heads(layer, inputs, {name: [head]}, others)
    for (name, attribute), weight in projections(layer).items():
        if (name, attribute) != ("output", "bias"):
            assert number_of_groups(layer, weight, "head") == 3


def test_without_its_groups_a_head_of_a_grouped_attention_gives_nothing():
    layer, inputs = layer_cases.build(keras.layers, RECIPES["GroupedQueryAttention"][0])
    check_without_heads(layer, inputs, {}, range(4), 2)
    for head in range(4):
        others = [h for h in range(4) if h != head]
        own = {"query": [head], "gate": [head], "output": [head]}
        check_without_heads(layer, inputs, own, others, 2)
        check_without_heads(layer, inputs, {"output": [head]}, others, 2)
    for shared in range(2):
        others = [h for h in range(4) if h // 2 != shared]
        check_without_heads(layer, inputs, {"value": [shared]}, others, 2)
    for (name, attribute), weight in projections(layer).items():
        if (name, attribute) != ("output", "bias"):
            expected = 2 if name in ("key", "value") else 4
            assert number_of_groups(layer, weight, "head") == expected


@pytest.mark.parametrize(
    "api, recipe", recipes(names=["MultiHeadAttention", "GroupedQueryAttention"])
)
def test_units_and_channels_of_an_attentions_projections(api, recipe):
    layer, inputs = layer_cases.build(APIS[api].layers, recipe)
    x = {"query": inputs[0], "gate": inputs[0], "value": inputs[1], "key": inputs[-1]}
    x["output"] = rand(*inputs[0].shape[:-1], *layer._output_dense.kernel.shape[:2])
    for name in PROJECTIONS:
        dense = getattr(layer, f"_{name}_dense", None)
        if dense is not None:
            of_output = len(dense.kernel.shape) - 2 if name == "output" else 2
            units = tuple(range(-of_output, 0))
            channels = (-2, -1) if name == "output" else (-1,)
            weights = dense.trainable_weights
            check_units(layer, dense, [x[name]], weights, units)
            check_channels(layer, dense, [x[name]], weights[:1], channels)


# Registering


class Bank(keras.layers.Layer):
    """Filters in front, and some weights in lists."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(6, shape[-1]), name="kernel")
        self.more = [self.add_weight(shape=(2, 3, shape[-1])) for _ in range(2)]
        self.bias = self.add_weight(shape=(6,), name="bias")
        self.temperature = self.add_weight(shape=())
        self.count = self.add_weight(shape=(4,), dtype="int32", initializer="zeros")

    def call(self, x):
        return x @ keras.ops.transpose(self.kernel)


class BankOfTfKeras(tf_keras.layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight("kernel", shape=(6, shape[-1]))
        self.more = [self.add_weight(f"more{i}", shape=(2, 3, shape[-1])) for i in range(2)]
        self.bias = self.add_weight("bias", shape=(6,))
        self.temperature = self.add_weight("temperature", shape=())

    def call(self, x):
        return x @ tf.transpose(self.kernel)


@pytest.fixture
def bank_class(api):
    return Bank if api is keras else BankOfTfKeras


def built(layer):
    layer(np.zeros((2, 4), "float32"))
    return layer


def layout_of(layer, weight):
    return registry.weight_layouts(layer)[id(weight)]


def test_a_layer_of_which_nothing_is_known_has_the_positional_layouts(bank_class):
    bank = built(bank_class())
    assert registry.registered_layouts(bank) == {}
    weights = [bank.kernel, *bank.more, bank.bias]
    assert registry.weight_layouts(bank) == {
        id(weight): Layout.positional(len(weight.shape)) for weight in weights
    }


def test_axes_of_an_attribute_a_list_and_a_callable(bank_class):
    registry.register(
        bank_class,
        {
            "kernel": ("output", "input"),
            "more": lambda layer: ("output", "position", "input"),
            "bias": lambda layer: None,
            "missing": ("input",),
            "_losses": ("input",),
        },
    )
    bank = built(bank_class())
    assert layout_of(bank, bank.kernel) == Layout(("output", "input"))
    for weight in bank.more:
        assert layout_of(bank, weight) == Layout(("output", "position", "input"))
    assert layout_of(bank, bank.bias) == Layout(("output",))
    assert id(bank.bias) not in registry.registered_layouts(bank)


def test_a_subclass_inherits_and_replaces_weight_by_weight(bank_class):
    class Subclass(bank_class):
        pass

    class Further(Subclass):
        pass

    registry.register(
        bank_class, {"kernel": ("output", "input"), "more": ("output", "position", "input")}
    )
    registry.register(Subclass, {"more": ("position", "output", "input")})
    bank = built(Further())
    assert layout_of(bank, bank.kernel) == Layout(("output", "input"))
    assert layout_of(bank, bank.more[1]) == Layout(("position", "output", "input"))
    registry.register(Further, {"kernel": lambda layer: None})
    assert layout_of(bank, bank.kernel) == Layout(("input", "output"))


def test_a_subclass_of_a_built_in_layer_inherits(api):
    class Transposed(api.layers.Conv2DTranspose):
        pass

    layer = Transposed(3, 2)
    layer(np.zeros((1, 4, 4, 2)))
    assert layout_of(layer, layer.kernel) == Layout(("position", "position", "output", "input"))
    registry.register(Transposed, {"kernel": ("feature", "feature", "input", "output")})
    assert layout_of(layer, layer.kernel) == Layout(("feature", "feature", "input", "output"))


def test_registering_again_replaces(bank_class):
    registry.register(bank_class, {"kernel": ("output", "input"), "bias": ("feature",)})
    registry.register(bank_class, {"kernel": ("input", "feature")})
    bank = built(bank_class())
    assert layout_of(bank, bank.kernel) == Layout(("input", "feature"))
    assert layout_of(bank, bank.bias) == Layout(("output",))


def test_what_is_registered_cannot_be_changed_behind_it(bank_class):
    layouts = {"kernel": ("output", "input")}
    registry.register(bank_class, layouts)
    layouts["kernel"] = ("input", "feature")
    bank = built(bank_class())
    assert layout_of(bank, bank.kernel) == Layout(("output", "input"))


def test_an_enclosing_layer_comes_first(api):
    class Outer(api.layers.Layer):
        def __init__(self):
            super().__init__()
            # The model holds the inner layer, too, and before the outer one.
            self.inner = [api.layers.Dense(3), api.layers.Dense(3)]

        def call(self, x):
            return self.inner[0](x) + self.inner[1](x)

    outer = Outer()
    inputs = api.Input((4,))
    model = api.Model(inputs, outer(inputs) + outer.inner[0](inputs))
    kernel = outer.inner[0].kernel
    registry.register(Outer, {"inner.kernel": ("input", "head output")})
    for each in (outer, model, api.Sequential([outer.inner[0], outer])):
        found = [layout_of(each, dense.kernel) for dense in outer.inner]
        assert found == [Layout(("input", "head output"))] * 2
        assert layout_of(each, outer.inner[0].bias) == Layout(("output",))
    assert layout_of(outer.inner[0], kernel) == Layout(("input", "output"))


def test_layers_within_layers(api):
    dense = api.layers.Dense(3)
    inner = api.Sequential([api.Input((4,)), dense, api.layers.PReLU()])
    model = api.Sequential([api.Input((4,)), inner, api.layers.Dense(4), inner])
    layouts = registry.weight_layouts(model)
    assert set(layouts) == {id(weight) for weight in model.trainable_weights}
    assert len(layouts) == 5
    model.trainable = False
    assert registry.weight_layouts(model) == layouts


def test_mixed_precision_and_a_strategy(api):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        layer = api.layers.Conv1DTranspose(3, 2, dtype="mixed_float16")
        layer.build((None, 5, 4))
    assert registry.registered_layouts(layer) == registry.weight_layouts(layer)
    assert layout_of(layer, layer.kernel) == Layout(("position", "output", "input"))


def test_an_unbuilt_layer_has_no_weights(api):
    assert registry.weight_layouts(api.layers.Dense(3)) == {}


@pytest.mark.parametrize(
    "make, shape, axes",
    [
        (lambda: keras.layers.Dense(3), (2, 4), ("input", "output")),
        (lambda: keras.layers.Conv1D(3, 2), (2, 5, 4), ("position", "input", "output")),
        (
            lambda: keras.layers.EinsumDense("abc,dec->abde", (5, 3, 2)),
            (2, 5, 4),
            ("output", "output", "input"),
        ),
    ],
)
def test_a_kernel_keeps_its_layout_with_lora(make, shape, axes):
    layer = make()
    layer(rand(*shape))
    layer.enable_lora(1)
    # `kernel` is a sum by now, which no longer is the weight.
    assert registry.registered_layouts(layer)[id(layer._kernel)] == Layout(axes)


def test_a_quantized_kernel_is_no_weight_to_penalize():
    layer = built(keras.layers.Dense(3))
    layer.quantize("int8")
    assert id(layer._kernel) not in registry.weight_layouts(layer)
    assert layout_of(layer, layer.bias) == Layout(("output",))


@pytest.mark.parametrize(
    "layer_class, layouts, match",
    [
        (keras.layers.Dense(1), {}, "Argument `layer_class` must be a layer class"),
        (dict, {}, "Argument `layer_class` must be .* Received: layer_class=<class 'dict'>"),
        ("Dense", {}, "Argument `layer_class`"),
        (Bank, [("kernel", ("input",))], "Argument `layouts` must be a dict"),
        (Bank, {1: ("input",)}, "Argument `layouts` must be .* Received: layouts={1: "),
        (Bank, {"": ("input",)}, "Argument `layouts`"),
        (Bank, {"a..b": ("input",)}, "Argument `layouts`"),
        (Bank, {"kernel": "input"}, "layout must be a tuple"),
        (Bank, {"kernel": None}, "layout must be a tuple"),
        (Bank, {"kernel": ("input", "units")}, "entry of a layout must be .* Received: 'units'"),
        (Bank, {"kernel": ("input", ("gate", "output"))}, "entry of a layout must be"),
    ],
)
def test_bad_arguments(layer_class, layouts, match):
    before = dict(registry._registered)
    with pytest.raises(ValueError, match=match):
        registry.register(layer_class, layouts)
    assert registry._registered == before


@pytest.mark.parametrize(
    "axes",
    [
        ("output",),
        ("position", "input", "output"),
        ("input", (("gate", 3), "output")),
        ("input", (("gate", 2), ("output", 3))),
        ("input", (("output", 3),)),
    ],
)
def test_a_layout_must_fit_its_weight(bank_class, axes):
    class Odd(bank_class):
        pass

    bank = built(Odd())
    for given in (axes, lambda layer: axes):
        registry.register(bank_class, {"kernel": given})
        with pytest.raises(ValueError) as error:
            registry.weight_layouts(bank)
        for part in ("Odd.kernel", repr(axes), "(6, 4)"):
            assert part in str(error.value)


def test_a_callable_must_return_a_layout(bank_class):
    registry.register(bank_class, {"kernel": lambda layer: ("rows", "columns")})
    with pytest.raises(ValueError, match=rf"{bank_class.__name__}.kernel .*Received: 'rows'"):
        registry.weight_layouts(built(bank_class()))
