"""Rebuilding a model from edited configs, and what the new one takes over."""

import functools
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from marks import KERAS_3_FIRST, slow

import tfreg
from tfreg.backend.files import load_model
from tfreg.structure import edits, normalizations, transfer
from tfreg.structure.configs import rebuilt


class Sizes:
    """New sizes from cuts made by hand, and from the shapes that a test gives by layer."""

    def __init__(self, cuts=None, inputs=None, outputs=None):
        self.cuts, self.by_input, self.by_output = cuts or {}, inputs or {}, outputs or {}

    def weight(self, variable):
        kept = self.cuts.get(id(variable), (None,) * len(variable.shape))
        return tuple(n if k is None else len(k) for n, k in zip(variable.shape, kept))

    def inputs(self, layer):
        return [self.by_input[id(layer)]] if id(layer) in self.by_input else []

    def outputs(self, layer):
        return [self.by_output[id(layer)]] if id(layer) in self.by_output else []


def unchanged(layer, config):
    return config


def copy_of(model):
    new = rebuilt(model, unchanged)
    transfer.carry_weights(model, new, {}, {}, {})
    transfer.carry_trainable(model, new)
    return new


def cut_copy(model, cuts, sizes=None, new_biases=None, shifts=None):
    sizes, new_biases = sizes or Sizes(cuts), new_biases or {}

    def edit(layer, config):
        return edits.edited(layer, config, sizes, id(layer) in new_biases)

    new = rebuilt(model, edit)
    transfer.carry_weights(model, new, cuts, shifts or {}, new_biases)
    transfer.carry_trainable(model, new)
    transfer.carry_training(model, new, cuts)
    return new


def outputs(model, x):
    return [np.asarray(tf.cast(y, "float32")) for y in tf.nest.flatten(model(x))]


def assert_same_outputs(actual, expected, x, tolerance=1e-6):
    for a, e in zip(outputs(actual, x), outputs(expected, x), strict=True):
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)


def all_layers(model):
    return [layer for layer in model._flatten_layers(include_self=False)]


def random(*shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


# Models that a copy must be like. None of the classes and functions is registered.


def doubled_tanh(x):
    return 2.0 * tf.tanh(x)


def tenths(shape, dtype=None, **kwargs):
    return tf.fill(shape, tf.cast(0.1, dtype or "float32"))


@functools.cache
def classes(api):
    class Halves(api.initializers.Initializer):
        def __call__(self, shape, dtype=None, **kwargs):
            return tf.fill(shape, tf.cast(0.5, dtype or "float32"))

        def get_config(self):
            return {}

    class Around(api.layers.Layer):
        def __init__(self, inner, function, **kwargs):
            super().__init__(**kwargs)
            self.inner, self.function = inner, function

        def call(self, x):
            return self.function(self.inner(x))

        def get_config(self):
            inner = api.saving.serialize_keras_object(self.inner)
            return {**super().get_config(), "inner": inner, "function": self.function}

        @classmethod
        def from_config(cls, config):
            inner = api.saving.deserialize_keras_object(config.pop("inner"))
            return cls(inner, **config)

    class AroundRaw(Around):
        def get_config(self):
            return {**super().get_config(), "inner": self.inner}

        @classmethod
        def from_config(cls, config):
            return cls(**config)

    class OneDense(api.Model):
        def __init__(self, units):
            x = api.Input((4,))
            super().__init__(x, api.layers.Dense(units)(x))

    class Stack(api.Sequential):
        pass

    return Halves, Around, AroundRaw, OneDense, Stack


def functions(api):
    k, (halves, *_) = api.layers, classes(api)
    shift = 3.0
    return api.Sequential(
        [
            api.Input((4,)),
            k.Dense(3, activation=doubled_tanh, kernel_initializer=tenths),
            k.Dense(3, activation=lambda x: shift * doubled_tanh(x), bias_initializer=halves()),
            k.Lambda(lambda x, y: x + shift + y, arguments={"y": 1.0}),
            k.Reshape((1, 3)),
            k.TimeDistributed(k.Lambda(lambda x: x * shift)),
            k.Lambda(doubled_tanh, output_shape=lambda shape: shape),
        ]
    )


def called(api):
    model = api.Sequential([api.layers.Dense(3), api.layers.Dense(2)])
    model(random(2, 4))
    return model


def nested(api):
    k = api.layers
    inner = api.Sequential([k.Dense(3), k.Dense(4)], name="stack")
    x = api.Input((4,))
    graph = api.Model(x, k.Dense(4, name="inside")(x), name="graph")
    shared = k.Dense(4, name="shared")
    x = api.Input((4,), name="x")
    y, z = shared(inner(x)), graph(shared(x))
    z = inner(graph(z))
    return api.Model({"x": x}, {"sum": y + z, "both": [y, z]})


def custom(api):
    k, (_, around, around_raw, one_dense, stack) = api.layers, classes(api)
    shared = k.Dense(4, name="shared")
    x = api.Input((4,))
    y = around(shared, doubled_tanh)(x)
    y = around_raw(shared, lambda x: x + 1.0)(y)
    y = around(api.Sequential([api.Input((4,)), k.Dense(4)]), doubled_tanh)(y)
    return api.Model(x, stack([k.Dense(3)])(one_dense(4)(shared(y))))


def recurrent(api):
    k = api.layers
    backward = k.GRU(3, return_sequences=True, go_backwards=True)
    x = api.Input((4, 1))
    y = k.Bidirectional(k.LSTM(3, return_sequences=True))(x)
    y = k.Bidirectional(k.GRU(3, return_sequences=True), "sum", backward_layer=backward)(y)
    y = k.RNN([k.LSTMCell(3), k.GRUCell(2)], return_sequences=True)(y)
    y = k.RNN(k.StackedRNNCells([k.SimpleRNNCell(3)]), return_sequences=True)(y)
    y = k.TimeDistributed(api.Sequential([k.Dense(3), k.Dense(2)]))(y)
    return api.Model(x, k.SimpleRNN(3)(y))


def masked(api):
    k = api.layers
    words = api.Input((4,), dtype="int32")
    embedding = k.Embedding(7, 4, mask_zero=True)
    y = k.LSTM(4, return_sequences=True)(embedding(words))
    y = k.LayerNormalization()(y + k.MultiHeadAttention(2, 3)(y, y))
    return api.Model(words, k.GlobalAveragePooling1D()(k.Dropout(0.5, seed=3)(y)))


def operations(api):
    x = api.Input((4,))
    table = api.layers.Embedding(5, 6)
    y = api.layers.Dense(6)(table(api.layers.Lambda(lambda x: tf.cast(x > 0, "int32"))(x)))
    if api is keras:
        y = keras.ops.reshape(y, (-1, 24)) + np.ones(24, "float32")
        y = keras.ops.concatenate([y[:, 2:], keras.ops.sin(y) * 2.0], axis=-1)
        y = keras.ops.split(y, 2, axis=-1)[1]
        y = keras.ops.matmul(api.layers.Dense(5)(y), table.embeddings)
    else:
        y = tf.reshape(y, [-1, 24]) + np.ones(24, "float32")
        y = tf.concat([y[:, 2:], tf.sin(y) * 2.0], axis=-1)
        y = tf.split(y, 2, axis=-1)[1]
        y = tf.matmul(api.layers.Dense(5)(y), table.embeddings)
    return api.Model(x, y)


def penalized(api):
    inner = api.Sequential([api.Input((4,)), api.layers.Dense(3)])
    tfreg.add_penalty(inner, tfreg.GroupLasso(0.1))
    x = api.Input((4,))
    model = api.Model(x, inner(x))
    return tfreg.add_penalty(model, tfreg.GroupLasso(0.1))


def mixed(api):
    policies = ("mixed_float16", "mixed_bfloat16")
    layers = [api.layers.Dense(3, dtype=policy) for policy in policies]
    return api.Sequential([api.Input((4,)), *layers])


def subclassed(api):
    class OneLayer(api.Model):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units, self.dense = units, api.layers.Dense(units)

        def call(self, x):
            return self.dense(x)

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    model = OneLayer(3)
    model(random(2, 4))
    return model


MODELS = [
    functions,
    called,
    nested,
    custom,
    recurrent,
    masked,
    operations,
    penalized,
    mixed,
    subclassed,
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_unedited_copy_is_like_the_model(api, make):
    model = make(api)
    calls = [(layer.name, len(layer._inbound_nodes)) for layer in all_layers(model)]
    new = copy_of(model)
    x = random(3, 4) if make is not masked else np.arange(12).reshape(3, 4) % 5
    x = {"x": x} if make is nested else x
    assert_same_outputs(new, model, x)
    if make is not subclassed:  # whose layers get new names
        names = [layer.name for layer in model.layers]
        assert [layer.name for layer in new.layers] == names
    assert [tuple(v.shape) for v in new.variables] == [tuple(v.shape) for v in model.variables]
    ids = {id(layer) for layer in all_layers(model)}
    assert not ids & {id(layer) for layer in all_layers(new)}
    assert [(layer.name, len(layer._inbound_nodes)) for layer in all_layers(model)] == calls
    assert not any("get_config" in vars(layer) for layer in all_layers(model))
    assert type(new).__name__ == type(model).__name__


def test_classes_of_the_copy(api):
    assert type(rebuilt(penalized(api), unchanged)).__module__.startswith(api.__name__)
    assert not rebuilt(penalized(api), unchanged).losses
    new = rebuilt(custom(api), unchanged)
    assert [type(layer).__name__ for layer in new.layers[-2:]] == ["Functional", "Stack"]
    copy, model = rebuilt(mixed(api), unchanged), mixed(api)
    assert [layer.compute_dtype for layer in copy.layers] == [
        layer.compute_dtype for layer in model.layers
    ]


@pytest.mark.parametrize("suffix", [".keras", slow(".h5")])
@KERAS_3_FIRST
def test_copy_can_be_saved(api, suffix, tmp_path):
    new = copy_of(recurrent(api))
    path = str(tmp_path / f"model{suffix}")
    new.save(path)
    assert_same_outputs(load_model(path), new, random(2, 4, 1))


def test_inner_layers_are_edited_first(api):
    edited = []

    def edit(layer, config):
        edited.append(layer.name)
        return config

    k = api.layers
    inner = api.Sequential([k.Dense(3, name="first"), k.Dense(3, name="second")], name="stack")
    model = api.Sequential([api.Input((2, 2)), k.TimeDistributed(inner, name="around")])
    rebuilt(model, edit)
    assert edited[-3:] == ["first", "second", "around"]


def test_model_of_a_strategy_is_copied_in_its_scope(api):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = api.Sequential([api.Input((2,)), api.layers.Dense(2)])
    assert rebuilt(model, unchanged).distribute_strategy is strategy


def test_variable_of_no_layer_cannot_be_rebuilt():
    x = tf_keras.Input((3,))
    model = tf_keras.Model(x, tf.matmul(x, tf.Variable(random(3, 2))))
    with pytest.raises(ValueError, match="variable outside of its layers"):
        rebuilt(model, unchanged)


# Dead units that are cut out.


def dense_net(api):
    k = api.layers
    layers = [k.Dense(6, activation="relu"), k.BatchNormalization(), k.Dense(5, "tanh")]
    return api.Sequential([api.Input((4,)), *layers, k.Dense(1)])


def cuts_of(model):
    """Some units of each layer, and where these stand in the next ones."""
    first, norm, second, last = (layer for layer in model.layers if layer.weights)
    a, b = np.array([0, 2, 5]), np.array([1, 2, 4])
    cuts = {
        id(first.kernel): (None, a),
        id(first.bias): (a,),
        **{id(variable): (a,) for variable in norm.weights},
        id(second.kernel): (a, b),
        id(second.bias): (b,),
        id(last.kernel): (b, None),
    }
    return cuts


def kill(model, cuts):
    """Zeros where the cuts keep nothing."""
    for variable in model.trainable_variables:
        array = np.zeros_like(variable)
        kept = cuts.get(id(variable), (None,) * array.ndim)
        where = np.ix_(*(range(n) if k is None else k for n, k in zip(array.shape, kept)))
        array[where] = np.asarray(variable)[where]
        variable.assign(array)


def test_dead_units_are_cut_out(api):
    model = dense_net(api)
    cuts = cuts_of(model)
    kill(model, cuts)
    new = cut_copy(model, cuts)
    assert_same_outputs(new, model, random(3, 4))
    assert [layer.units for layer in new.layers[::2]] == [3, 3] and new.layers[-1].units == 1
    assert not getattr(new, "compiled", getattr(new, "_is_compiled", None))


def test_dead_filters_of_a_nested_model_are_cut_out(api):
    k, kept = api.layers, np.array([0, 3])
    inside = api.Input((5, 5, 4), name="inside")
    convolution = k.Conv2D(3, 3, padding="same")
    inner = api.Model(inside, convolution(inside), name="inner")
    first = k.Conv2D(4, 3)
    x = api.Input((7, 7, 2))
    y = first(x)
    model = api.Model(x, k.Add()([inner(y), inner(k.Activation("relu")(y))]))
    cuts = {
        id(first.kernel): (None, None, None, kept),
        id(first.bias): (kept,),
        id(convolution.kernel): (None, None, kept, None),
    }
    kill(model, cuts)
    input_layer = next(layer for layer in inner.layers if layer.name == "inside")
    sizes = Sizes(cuts, outputs={id(input_layer): (None, 5, 5, 2)})
    new = cut_copy(model, cuts, sizes)
    assert_same_outputs(new, model, random(2, 7, 7, 2), 1e-5)
    assert new.get_layer("inner").input_shape[-1] == 2


def test_dead_groups_of_a_convolution_are_cut_out(api):
    k, kept, filters = api.layers, np.array([0, 1, 4, 5]), np.array([0, 1, 2, 6, 7, 8])
    layers = [k.Conv2D(6, 1), k.Conv2D(9, 3, groups=3), k.Conv2D(1, 1)]
    model = api.Sequential([api.Input((5, 5, 2)), *layers])
    first, grouped, last = layers
    cuts = {
        id(first.kernel): (None, None, None, kept),
        id(first.bias): (kept,),
        id(grouped.kernel): (None, None, None, filters),
        id(grouped.bias): (filters,),
        id(last.kernel): (None, None, filters, None),
    }
    kill(model, cuts)
    new = cut_copy(model, cuts)
    assert_same_outputs(new, model, random(2, 5, 5, 2), 1e-5)
    assert (new.layers[1].groups, new.layers[1].filters) == (2, 6)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "SimpleRNN"])
def test_dead_units_of_both_directions_are_cut_out(api, name):
    k = api.layers
    model = api.Sequential([api.Input((4, 2)), k.Bidirectional(getattr(k, name)(4)), k.Dense(1)])
    both, last = model.layers
    kept = np.array([1, 2])
    gates = both.forward_layer.cell.kernel.shape[-1] // 4
    columns = np.concatenate([kept + 4 * gate for gate in range(gates)])
    cuts = {id(last.kernel): (np.concatenate([kept, kept + 4]), None)}
    for layer in (both.forward_layer, both.backward_layer):
        cell = layer.cell
        cuts |= {id(cell.kernel): (None, columns), id(cell.recurrent_kernel): (kept, columns)}
        cuts[id(cell.bias)] = (None,) * (len(cell.bias.shape) - 1) + (columns,)
    kill(model, cuts)
    new = cut_copy(model, cuts)
    assert_same_outputs(new, model, random(3, 4, 2))


# The fields of configs. A case: a layer, the input's shape, the lengths that axes of weights are
# cut to, and the fields that change.

FIELDS = {
    "transposed convolution": (
        lambda k: k.Conv2DTranspose(6, 3),
        (5, 5, 2),
        {"kernel": {-2: 4}, "bias": {0: 4}},
        {"filters": 4},
    ),
    "separable convolution": (
        lambda k: k.SeparableConv2D(6, 3),
        (5, 5, 2),
        {"pointwise_kernel": {-1: 4}, "bias": {0: 4}},
        {"filters": 4},
    ),
    "depthwise convolution": (
        lambda k: k.DepthwiseConv2D(3, depth_multiplier=2),
        (5, 5, 2),
        {},
        {},
    ),
    "embedding": (
        lambda k: k.Embedding(5, 6),
        (3,),
        {"embeddings": {1: 4}},
        {"output_dim": 4},
    ),
    "einsum": (
        lambda k: k.EinsumDense("abc,cde->abde", (None, 4, 6), bias_axes="de"),
        (3, 2),
        {"kernel": {1: 3}, "bias": {0: 3}},
        {"output_shape": (None, 3, 6)},
    ),
    "einsum with an ellipsis": (
        lambda k: k.EinsumDense("...x,xy->...y", 6, bias_axes="y"),
        (3, 2),
        {"kernel": {1: 4}, "bias": {0: 4}},
        {"output_shape": (4,)},
    ),
    "convolutional LSTM": (
        lambda k: k.ConvLSTM2D(2, 3, use_bias=False),
        (3, 5, 5, 2),
        {"cell.kernel": {-1: 4}, "cell.recurrent_kernel": {-2: 1, -1: 4}},
        {"filters": 1},
    ),
}


def weight_of(layer, path):
    return functools.reduce(getattr, path.split("."), layer)


@pytest.mark.parametrize("case", FIELDS)
def test_fields_of_the_config_follow_the_weights(api, case):
    make, shape, lengths, changed = FIELDS[case]
    layer = make(api.layers)
    model = api.Sequential([api.Input(shape), layer])
    cuts = {}
    for path, axes in lengths.items():
        variable = weight_of(layer, path)
        kept = [None] * len(variable.shape)
        for axis, length in axes.items():
            kept[axis] = np.arange(length)
        cuts[id(variable)] = tuple(kept)
    [new] = cut_copy(model, cuts).layers
    config, before = new.get_config(), layer.get_config()
    differing = {name for name in config if str(config[name]) != str(before.get(name))}
    for name, value in changed.items():
        assert np.array_equal(config[name], value) or tuple(config[name]) == value
    assert differing - {"shared_object_id"} == {*changed}


@pytest.mark.parametrize("width", [6, None])
def test_heads_of_attention_are_cut_out(api, width):
    k, kept, channels = api.layers, np.array([0, 2]), np.array([1, 4])
    x = api.Input((4, 5))
    attention = k.MultiHeadAttention(3, 2, value_dim=3, output_shape=width)
    model = api.Model(x, attention(x, x))
    inner = [attention._query_dense, attention._key_dense, attention._value_dense]
    cuts = {id(layer.kernel): (None, kept, None) for layer in inner}
    cuts |= {id(layer.bias): (kept, None) for layer in inner}
    output = attention._output_dense
    cuts |= {id(output.kernel): (kept, None, channels), id(output.bias): (channels,)}
    kill(model, cuts)
    [_, new] = cut_copy(model, cuts).layers
    y = random(2, 4, 5)
    np.testing.assert_allclose(new(y, y), np.take(attention(y, y), channels, -1), atol=1e-6)
    assert new.get_config()["num_heads"] == 2


def test_groups_of_attention_are_cut_out():
    kept, heads = np.array([1]), np.array([2, 3])
    x = keras.Input((4, 5))
    attention = keras.layers.GroupQueryAttention(3, 4, 2)
    model = keras.Model(x, attention(x, x))
    query, key, value, output = (
        getattr(attention, f"_{name}_dense") for name in ("query", "key", "value", "output")
    )
    cuts = {id(output.kernel): (heads, None, None)}
    for layer, indices in ((query, heads), (key, kept), (value, kept)):
        cuts |= {id(layer.kernel): (None, indices, None), id(layer.bias): (indices, None)}
    kill(model, cuts)
    assert_same_outputs(cut_copy(model, cuts), model, random(2, 4, 5))


def test_groups_of_a_normalization_are_cut_out(api):
    layer = api.layers.GroupNormalization(3)
    model = api.Sequential([api.Input((4, 6)), layer])
    kept = np.array([0, 1, 4, 5])
    cuts = {id(layer.gamma): (kept,), id(layer.beta): (kept,)}
    sizes = Sizes(cuts, outputs={id(model.layers[0]): (None, 4, 4)})
    assert edits.edited(layer, layer.get_config(), sizes, False)["groups"] == 2
    plain = api.layers.GroupNormalization(3, center=False, scale=False)
    api.Sequential([api.Input((4, 6)), plain])
    sizes = Sizes(inputs={id(plain): (None, 4, 2)})
    assert edits.edited(plain, plain.get_config(), sizes, False)["groups"] == 1


@pytest.mark.skipif(not hasattr(keras.layers, "RMSNormalization"), reason="Keras is older")
def test_epsilon_of_a_root_mean_square():
    x, kept = random(3, 4), np.array([0, 2])
    x[:, [1, 3]] = 0.0
    layer = keras.layers.RMSNormalization(epsilon=0.5)
    layer(x)
    layer.scale.assign(random(4, seed=1))
    cuts = {id(layer.scale): (kept,)}
    config = edits.edited(layer, layer.get_config(), Sizes(cuts), False)
    new = keras.layers.RMSNormalization.from_config(config)
    new.build((None, 2))
    new.scale.assign(np.asarray(layer.scale)[kept] * normalizations.rms_multiplier(4, 2))
    np.testing.assert_allclose(new(x[:, kept]), np.asarray(layer(x))[:, kept], rtol=1e-6)


@pytest.mark.parametrize("target, expected", [((2, 6), (2, 3)), ((2, -1), (2, -1))])
def test_target_of_a_reshape(api, target, expected):
    layer = api.layers.Reshape(target)
    sizes = Sizes(outputs={id(layer): (None, 2, 3)})
    assert edits.edited(layer, layer.get_config(), sizes, False)["target_shape"] == expected


def test_shape_of_the_input_of_a_nested_model(api):
    layer = api.layers.Dense(2, input_shape=(4,)) if api is tf_keras else api.layers.Dense(2)
    model = api.Sequential([layer] if api is tf_keras else [api.Input((4,)), layer])
    [first] = {layer for layer in all_layers(model) if "InputLayer" in type(layer).__name__}
    new = {id(first): (None, 3)}
    sizes = Sizes(inputs={id(layer): (None, 3)}, outputs=new)
    small = rebuilt(model, lambda layer, config: edits.edited(layer, config, sizes, False))
    assert small.input_shape == (None, 3)


def test_reshape_of_a_graph_is_edited(api):
    k, kept = api.layers, np.array([0, 3])
    x = api.Input((3, 2))
    first, last = k.Dense(4), k.Dense(1)
    reshape = keras.ops.reshape if api is keras else tf.reshape
    y = reshape(first(x), (-1, 12))
    model = api.Model(x, last(y))
    rows = (np.arange(3)[:, None] * 4 + kept).ravel()
    cuts = {
        id(first.kernel): (None, kept),
        id(first.bias): (kept,),
        id(last.kernel): (rows, None),
    }
    kill(model, cuts)
    operation = y._keras_history[0]
    new = cut_copy(model, cuts, Sizes(cuts, outputs={id(operation): (None, 6)}))
    assert_same_outputs(new, model, random(2, 3, 2))


def test_layers_get_a_bias(api):
    k = api.layers
    model = api.Sequential(
        [
            api.Input((4, 4, 2)),
            k.Conv2D(3, 2, use_bias=False),
            k.EinsumDense("abcd,de->abce", (None, None, 2)),
            k.Dense(2, use_bias=False, bias_initializer="ones"),
        ]
    )
    model.compile("adam", "mse", run_eagerly=True)
    x, y = random(2, 4, 4, 2), random(2, 3, 3, 2)
    model.train_on_batch(x, y)
    biases = {id(layer): random(n) for layer, n in zip(model.layers, (3, 2, 2))}
    new = cut_copy(model, {}, new_biases=biases)
    for layer, bias in zip(new.layers, biases.values()):
        np.testing.assert_array_equal(layer.bias, bias)
    z = outputs(model.layers[0], x)[0] + list(biases.values())[0]
    z = outputs(model.layers[1], z)[0] + list(biases.values())[1]
    z = outputs(model.layers[2], z)[0] + list(biases.values())[2]
    np.testing.assert_allclose(new(x), z, rtol=1e-5, atol=1e-6)
    new.train_on_batch(x, y)
    assert int(new.optimizer.iterations) == 2


def test_weights_are_shifted_before_they_are_cut(api):
    model = dense_net(api)
    cuts, first = cuts_of(model), model.layers[0]
    shift = np.arange(6.0)
    new = cut_copy(model, cuts, shifts={id(first.bias): shift})
    np.testing.assert_array_equal(new.layers[0].bias, shift[[0, 2, 5]])


def test_config_that_does_not_follow_its_sizes_is_an_error(api):
    model = dense_net(api)
    new = rebuilt(model, unchanged)
    with pytest.raises(ValueError, match="does not follow its sizes"):
        transfer.carry_weights(model, new, cuts_of(model), {}, {})


def test_frozen_layers_stay_frozen(api):
    inner = api.Sequential([api.Input((4,)), api.layers.Dense(3), api.layers.Dense(3)])
    norm = api.layers.BatchNormalization()
    model = api.Sequential([api.Input((4,)), inner, norm, api.layers.Dense(2)])
    inner.trainable = False
    inner.layers[1].trainable = True
    model.layers[1].trainable = False
    if api is keras:
        model.layers[2].bias.trainable = False
    new = copy_of(model)
    flags = [layer.trainable for layer in all_layers(model)]
    assert [layer.trainable for layer in all_layers(new)] == flags
    assert len(new.trainable_variables) == len(model.trainable_variables)
    frozen = copy_of(new)
    assert len(frozen.trainable_variables) == len(model.trainable_variables)


def test_states_of_random_numbers_are_carried_over():
    model = keras.Sequential([keras.Input((50,)), keras.layers.Dropout(0.5)])
    x = np.ones((2, 50), "float32")
    model(x, training=True)
    new = copy_of(model)
    np.testing.assert_array_equal(new(x, training=True), model(x, training=True))


# Training goes on.


class OwnAdam(keras.optimizers.Adam):
    pass


class OwnTFAdam(tf_keras.optimizers.Adam):
    pass


def schedule(api):
    class Falling(api.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.01 / (1.0 + tf.cast(step, "float32"))

        def get_config(self):
            return {}

    return Falling()


K, T, OLD = keras.optimizers, tf_keras.optimizers, tf_keras.optimizers.legacy
SCALED = tf_keras.mixed_precision.LossScaleOptimizer
OPTIMIZERS = {
    "momentum": lambda: K.SGD(0.01, momentum=0.9, nesterov=True),
    "amsgrad with averages": lambda: K.Adam(
        0.01, amsgrad=True, use_ema=True, ema_overwrite_frequency=3
    ),
    "accumulation": lambda: K.AdamW(0.01, gradient_accumulation_steps=2),
    "loss scale": lambda: K.LossScaleOptimizer(K.Adam(0.01), dynamic_growth_steps=3),
    "own class and schedule": lambda: OwnAdam(schedule(keras)),
    "Nadam": lambda: K.Nadam(0.01),
    "tf_keras": lambda: T.Adam(0.01, amsgrad=True, use_ema=True),
    "tf_keras, own class and schedule": lambda: OwnTFAdam(schedule(tf_keras)),
    "tf_keras, loss scale": lambda: SCALED(T.Adam(0.01), dynamic_growth_steps=3),
    "tf_keras, legacy": lambda: OLD.Adam(0.01, amsgrad=True),
}
SLOW_OPTIMIZERS = {
    "SGD": lambda: K.SGD(0.01),
    "a function's rate": lambda: K.Adam(lambda: 0.01),
    "RMSprop": lambda: K.RMSprop(0.01, centered=True, momentum=0.5),
    "Lion": lambda: K.Lion(0.001),
    "Adagrad": lambda: K.Adagrad(0.01),
    "Adadelta": lambda: K.Adadelta(0.1),
    "Adamax": lambda: K.Adamax(0.01),
    "Ftrl": lambda: K.Ftrl(0.01),
    "tf_keras, momentum": lambda: T.SGD(0.01, momentum=0.9),
    "tf_keras, RMSprop": lambda: T.RMSprop(0.01),
    "tf_keras, Lion": lambda: T.Lion(0.001),
    "tf_keras, Nadam": lambda: T.Nadam(0.01),
    "tf_keras, Ftrl": lambda: T.Ftrl(0.01),
    "tf_keras, legacy SGD": lambda: OLD.SGD(0.01, momentum=0.9),
    "tf_keras, legacy RMSprop": lambda: OLD.RMSprop(0.01, centered=True, momentum=0.1),
    "tf_keras, legacy Nadam": lambda: OLD.Nadam(0.01),
    "tf_keras, legacy loss scale": lambda: SCALED(OLD.Adam(0.01), dynamic_growth_steps=3),
}
X, Y = random(16, 4), random(16, 1, seed=1)


@pytest.mark.parametrize(
    "make",
    [
        *(pytest.param(make, id=name) for name, make in OPTIMIZERS.items()),
        *(
            pytest.param(make, id=name, marks=pytest.mark.slow)
            for name, make in SLOW_OPTIMIZERS.items()
        ),
    ],
)
def test_training_goes_on(make):
    optimizer = make()
    api = keras if isinstance(optimizer, keras.optimizers.Optimizer) else tf_keras
    model = dense_net(api)
    model.compile(optimizer, "mse", run_eagerly=True)
    for _ in range(3):
        model.train_on_batch(X, Y)
    cuts = cuts_of(model)
    kill(model, cuts)
    new = cut_copy(model, cuts)
    for _ in range(4):
        model.train_on_batch(X, Y)
        new.train_on_batch(X, Y)
        kill(model, cuts)
    assert type(new.optimizer) is type(model.optimizer)
    assert int(new.optimizer.iterations) == int(model.optimizer.iterations)
    expected = cut_copy(model, cuts)
    for actual, variable in zip(new.variables, expected.variables, strict=True):
        np.testing.assert_allclose(actual, variable, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["Adafactor", pytest.param("Muon", marks=pytest.mark.slow)])
def test_slots_of_other_shapes_are_cut(name, caplog):
    if not hasattr(keras.optimizers, name):
        pytest.skip("Keras is older")
    model = dense_net(keras)
    model.compile(getattr(keras.optimizers, name)(0.01), "mse", run_eagerly=True)
    model.train_on_batch(X, Y)
    cuts = cuts_of(model)
    with caplog.at_level(logging.WARNING):
        new = cut_copy(model, cuts)
    assert caplog.text == ""
    new.train_on_batch(X, Y)
    if name == "Adafactor":
        model.compile(model.optimizer, "mse")
        fresh = cut_copy(model, cuts)
        second = model.layers[2]
        place = [v is second.kernel for v in model.trainable_variables].index(True)
        rows = np.asarray(model.optimizer._r[place])[cuts[id(second.kernel)][0]]
        np.testing.assert_array_equal(fresh.optimizer._r[place], rows)


def test_slot_that_cannot_be_cut_starts_anew_and_the_log_tells(caplog):
    class Flat(keras.optimizers.SGD):
        def build(self, variables):
            super().build(variables)
            self.flat = [self.add_variable((int(np.prod(v.shape)),)) for v in variables]

    model = dense_net(keras)
    model.compile(Flat(0.01), "mse", run_eagerly=True)
    model.train_on_batch(X, Y)
    with caplog.at_level(logging.WARNING):
        cut_copy(model, cuts_of(model))
    assert "'flat' of the optimizer Flat for" in caplog.text and "kernel" in caplog.text


def test_weights_frozen_since_the_first_step_keep_their_slots(api):
    model = dense_net(api)
    model.compile("adam", "mse", run_eagerly=True)
    model.train_on_batch(X, Y)
    model.layers[0].trainable = False
    cuts = cuts_of(model)
    new = cut_copy(model, cuts)
    new.train_on_batch(X, Y)
    assert not new.layers[0].trainable
    count = [len(m.optimizer.variables) for m in (model, new)] if api is keras else [0, 0]
    assert count[0] == count[1]


def squared(y, z):
    return tf.reduce_mean(tf.square(y - z), axis=-1)


def test_compiled_state_is_carried_over(api):
    class Mean(api.metrics.Mean):
        def update_state(self, y, z, sample_weight=None):
            super().update_state(y - z)

    k = api.layers
    x = api.Input((4,))
    y = k.Dense(3)(x)
    model = api.Model(x, {name: k.Dense(1, name=name)(y) for name in ("a", "b")})
    model.compile(
        "sgd",
        loss={"a": squared, "b": api.losses.Huber(0.5)},
        loss_weights={"a": 1.0, "b": 2.0},
        metrics={"a": ["mae", squared, Mean()]},
        weighted_metrics={"b": [api.metrics.MeanSquaredError(name="error")]},
        run_eagerly=True,
        steps_per_execution=1,
    )
    new = cut_copy(model, {})
    assert new.run_eagerly and new.loss["a"] is squared
    assert not api.optimizers.get("sgd") is new.optimizer is model.optimizer
    for each in (model, new):
        each.optimizer.learning_rate.assign(0.1)
    targets = {"a": Y, "b": Y}
    weights = {"a": np.ones(16, "float32"), "b": np.arange(16, dtype="float32")}
    first = model.train_on_batch(X, targets, sample_weight=weights, return_dict=True)
    second = new.train_on_batch(X, targets, sample_weight=weights, return_dict=True)
    assert {*first} == {*second} and len(first) >= 6
    np.testing.assert_allclose([*first.values()], [second[name] for name in first], rtol=1e-6)


def test_learning_rate_and_what_was_set_since(api):
    model = dense_net(api)
    model.compile(api.optimizers.Adam(0.01), "mse", run_eagerly=True)
    model.train_on_batch(X, Y)
    model.optimizer.learning_rate.assign(0.5)
    model.run_eagerly = False
    new = cut_copy(model, cuts_of(model))
    assert float(new.optimizer.learning_rate) == 0.5 and not new.run_eagerly


def test_scaling_of_the_loss_is_carried_over(api):
    model = api.Sequential(
        [api.Input((4,)), api.layers.Dense(3, dtype="mixed_float16"), api.layers.Dense(1)]
    )
    model.compile("sgd", "mse", run_eagerly=True)
    new = cut_copy(model, {})
    assert type(new.optimizer) is type(model.optimizer)


def test_compile_of_its_own_is_left_to_the_user(api, caplog):
    class Own(api.Sequential):
        def compile(self, *args, **kwargs):
            super().compile("sgd", "mse")

    model = Own([api.Input((4,)), api.layers.Dense(1)])
    model.compile()
    with caplog.at_level(logging.WARNING):
        new = cut_copy(model, {})
    assert "has a compile of its own" in caplog.text
    assert type(new).__name__ == "Own"


# Files.


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_load_model_tells_the_api_by_the_file(api, suffix, tmp_path):
    model = tfreg.add_penalty(dense_net(api), tfreg.GroupLasso(0.1))
    model.compile("adam", "mse", metrics=["mae"])
    path = str(tmp_path / f"model{suffix}")
    model.save(path)
    loaded = load_model(path)
    assert type(loaded.optimizer).__module__.startswith(api.__name__)
    assert len(loaded.losses) == 1
    assert_same_outputs(loaded, model, random(2, 4))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_load_model_of_another_file_is_an_error(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_text("no model")
    with pytest.raises(ValueError, match="must be a .keras or .h5 file"):
        load_model(str(path))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    weights = str(tmp_path / "model.weights.h5")
    model.save_weights(weights)
    with pytest.raises(ValueError, match="holds a whole model"):
        load_model(weights)
