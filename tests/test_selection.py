"""Which weights of a model `weights` selects, and what it is told when it selects none."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from marks import KERAS_3_FIRST

import tfreg
from tfreg.layers import registry

PENALTY = tfreg.GroupLasso(0.1)


@pytest.fixture
def model(api):
    """A convolution, a normalization, a nested model, an embedding and an attention's read-out."""
    k = api.layers
    image, words = api.Input((6, 6, 3)), api.Input((5,))
    y = k.Conv2D(4, 3, name="conv")(image)
    y = k.BatchNormalization(name="norm")(y)
    y = k.PReLU(name="prelu")(y)
    inner_input = api.Input((64,))
    inner = api.Model(inner_input, k.Dense(4, name="inner_dense")(inner_input), name="inner")
    y = inner(k.Flatten()(y))
    z = k.Embedding(11, 4, name="words")(words)
    z = k.MultiHeadAttention(2, 2, name="attention")(z, z)
    z = k.LSTM(4, name="lstm")(z)
    return api.Model([image, words], k.Dense(2, name="out")(k.Add()([y, z])), name="model")


def selected(model, weights):
    """The names of the layer and the weight of each that `weights` selects."""
    tfreg.add_penalty(model, PENALTY, weights)
    paths = tfreg.get_penalties(model)[-1].paths
    return [path.split("/") for path in paths]


KERNELS = {
    "conv/kernel",
    "inner_dense/kernel",
    "words/embeddings",
    "query/kernel",
    "key/kernel",
    "value/kernel",
    "attention_output/kernel",
    "lstm_cell/kernel",
    "lstm_cell/recurrent_kernel",
    "out/kernel",
}


def tails(paths):
    return ["/".join(path[-2:]) for path in paths]


def test_none_selects_every_kernel_and_no_bias_or_normalization(api, model):
    found = tails(selected(model, None))
    assert len(found) == len(set(found)) and set(found) == KERNELS


def test_a_regular_expression_is_searched_in_the_path(api, model):
    assert tails(selected(model, "conv/kernel$")) == ["conv/kernel"]
    assert set(tails(selected(model, "(gamma|beta)"))) == {"norm/gamma", "norm/beta"}
    assert set(tails(selected(model, "query|key/kernel"))) == {
        "query/kernel",
        "query/bias",
        "key/kernel",
    }
    assert tails(selected(model, "inner_dense/bias")) == ["inner_dense/bias"]


def test_a_predicate_sees_the_layer_and_the_weight(api, model):
    found = selected(
        model, lambda layer, w: isinstance(layer, api.layers.Dense) and len(w.shape) == 2
    )
    assert tails(found) == ["inner_dense/kernel", "out/kernel"]


def test_a_list_selects_in_its_order(api, model):
    conv, norm = model.get_layer("conv"), model.get_layer("norm")
    path = tfreg.get_penalties(tfreg.add_penalty(model, PENALTY, "out/bias"))[0].paths[0]
    found = selected(model, [norm.gamma, "lstm", conv, path, model.get_layer("inner")])
    assert tails(found) == [
        "norm/gamma",
        "lstm_cell/kernel",
        "lstm_cell/recurrent_kernel",
        "conv/kernel",
        "out/bias",
        "inner_dense/kernel",
    ]
    assert set(tails(selected(model, ("attention",)))) == {
        "query/kernel",
        "key/kernel",
        "value/kernel",
        "attention_output/kernel",
    }
    assert set(tails(selected(model, [model]))) == KERNELS


def stranger(api):
    layer = api.layers.Dense(3, name="stranger")
    layer.build((None, 2))
    return layer


@KERAS_3_FIRST
@pytest.mark.parametrize(
    "weights, error, message",
    [
        (lambda api, m: "nothing", ValueError, "'nothing', which none matches.*conv/kernel"),
        (lambda api, m: "(", ValueError, r"`weights` must be a regular expression.*'\('"),
        (lambda api, m: lambda layer, weight: False, ValueError, "none matches.*conv/kernel"),
        (lambda api, m: [], TypeError, r"non-empty list.*\[\]"),
        (lambda api, m: 3, TypeError, "`weights` must be None.*3"),
        (lambda api, m: tfreg.schedules.CubicRamp(0, 9), TypeError, "`weights` must be.*CubicRamp"),
        (lambda api, m: m.get_layer("conv"), TypeError, "`weights` must be.*list of layers"),
        (lambda api, m: m.get_layer("conv").kernel, TypeError, "`weights` must be.*list"),
        (lambda api, m: ["conv", 3], TypeError, "must consist of layers.*3"),
        (lambda api, m: ["conv", stranger(api)], ValueError, "'stranger', which is not part"),
        (lambda api, m: [stranger(api).kernel], ValueError, "variable.*kernel.*not part"),
        (lambda api, m: ["conv", "convolution"], ValueError, "'convolution'.*which is not part"),
        (lambda api, m: ["conw"], ValueError, r"'conw', which is not part.*Nearest: \['conv'"),
        (lambda api, m: ["norm"], ValueError, "have a kernel.*'norm'.*gamma"),
        (lambda api, m: [m.get_layer("norm").moving_mean], ValueError, "moving_mean.*not part"),
        (lambda api, m: ["conv", m.get_layer("conv")], ValueError, "once.*conv/kernel' twice"),
    ],
)
def test_what_cannot_be_selected_is_named(api, model, weights, error, message):
    with pytest.raises(error, match=message):
        tfreg.add_penalty(model, PENALTY, weights(api, model))
    assert tfreg.get_penalties(model) == []


def test_a_name_that_two_layers_have_is_ambiguous(api):
    x = api.Input((4,))
    inner_input = api.Input((4,))
    inner = api.Model(inner_input, api.layers.Dense(4, name="twin")(inner_input))
    model = api.Model(x, api.layers.Dense(4, name="twin")(inner(x)))
    with pytest.raises(ValueError, match="unambiguously.*'twin', the name of 2 layers"):
        tfreg.add_penalty(model, PENALTY, ["twin"])
    tfreg.add_penalty(model, PENALTY, [model.layers[-1]])
    assert tfreg.get_penalties(model)[0].weights[0] is model.layers[-1].kernel
    assert len(selected(model, "twin/kernel")) == 2


def test_two_nested_weights_of_one_name_are_told_apart_after_loading(api, tmp_path):
    def block():
        x = api.Input((4,))
        return api.Model(x, api.layers.Dense(4, name="d")(x))

    first, second = block(), block()
    x = api.Input((4,))
    model = api.Model(x, second(first(x)))
    tfreg.add_penalty(model, PENALTY, [second.layers[-1].kernel])
    first.layers[-1].kernel.assign(np.zeros((4, 4)))
    expected = float(model.losses[0])
    model.save(tmp_path / "model.keras")
    again = api.models.load_model(tmp_path / "model.keras")
    assert float(again.losses[0]) == expected > 0


def test_what_layers_are_registered_for_is_what_none_selects(api):
    class Scale(api.layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(2, shape[-1]), name="table", initializer="ones")

        def call(self, x):
            return x * self.table[0] + self.table[1]

    model = api.Sequential([api.Input((4,)), Scale(), api.layers.Dense(2, name="dense")])
    assert tails(selected(model, None)) == ["scale/table", "dense/kernel"]
    tfreg.layers.register(Scale, {"table": ("feature", "output")})
    try:
        assert tails(selected(model, None)) == ["dense/kernel"]
        tfreg.add_penalty(model, tfreg.GroupLasso(1.0, size_weighted=False), "table")
        np.testing.assert_allclose(float(model.losses[-1]), 4 * np.sqrt(2), rtol=1e-6)
    finally:
        del registry._registered[Scale]


def test_on_a_layer_the_names_of_axes_mean_what_they_say(api):
    k = api.layers
    x = api.Input((6, 6, 2))
    y = k.Conv2DTranspose(3, 2, name="up", use_bias=False)(x)
    y = k.DepthwiseConv2D(2, name="depth", use_bias=False)(y)
    model = api.Model(x, y)
    penalty = tfreg.GroupLasso(1.0, axis="output", size_weighted=False)
    up, depth = [np.asarray(w) for w in model.trainable_weights]
    tfreg.add_penalty(model, penalty, "up")
    tfreg.add_penalty(model, penalty, "depth")
    by_filter = np.linalg.norm(up.transpose(2, 0, 1, 3).reshape(3, -1), axis=1).sum()
    by_channel = np.linalg.norm(depth.transpose(2, 0, 1, 3).reshape(3, -1), axis=1).sum()
    losses = [float(loss) for loss in model.losses]
    np.testing.assert_allclose(losses, [by_filter, by_channel], rtol=1e-5)


def test_joint_ties_a_units_weights_of_a_recurrent_layer(api):
    model = api.Sequential([api.Input((5, 3)), api.layers.LSTM(4, name="lstm")])
    cell = model.layers[-1].cell
    cell.bias.assign(np.random.default_rng(0).normal(size=16))
    penalty = tfreg.Joint(tfreg.GroupLasso(1.0, size_weighted=False))
    tfreg.add_penalty(model, penalty, [cell.kernel, cell.recurrent_kernel, cell.bias])
    arrays = [np.asarray(w) for w in (cell.kernel, cell.recurrent_kernel, cell.bias)]
    columns = np.concatenate([a.reshape(-1, 4, 4) for a in arrays])  # rows, gates, units
    expected = sum(np.linalg.norm(columns[:, :, unit]) for unit in range(4))
    np.testing.assert_allclose(float(model.losses[0]), expected, rtol=1e-5)


def test_joint_ties_the_weights_of_a_head(api):
    x = api.Input((5, 6))
    attention = api.layers.MultiHeadAttention(2, 3, name="attention")
    model = api.Model(x, attention(x, x))
    penalty = tfreg.Joint(tfreg.GroupLasso(1.0, axis="head", size_weighted=False))
    tfreg.add_penalty(model, penalty, [attention])
    paths = tails([path.split("/") for path in tfreg.get_penalties(model)[0].paths])
    kernels = {path: np.asarray(w) for path, w in zip(paths, tfreg.get_penalties(model)[0].weights)}
    expected = 0.0
    for head in range(2):
        projections = [kernels[f"{name}/kernel"][:, head] for name in ("query", "key", "value")]
        entries = [*projections, kernels["attention_output/kernel"][head]]
        expected += np.linalg.norm(np.concatenate([entry.ravel() for entry in entries]))
    np.testing.assert_allclose(float(model.losses[0]), expected, rtol=1e-5)


def halves(next_creator, **kwargs):
    """As a ParameterServerStrategy with a partitioner makes variables."""
    if not callable(kwargs["initial_value"]):  # a counter of tf_keras's own
        return next_creator(**kwargs)
    initial, name = kwargs["initial_value"](), kwargs["name"]
    parts = [
        next_creator(
            **{**kwargs, "initial_value": part, "shape": part.shape, "name": f"{name}/part_{i}"}
        )
        for i, part in enumerate(tf.split(initial, 2))
    ]
    return tf.__internal__.distribute.ShardedVariable(parts, name=name)


def test_shards_are_selected_as_their_weight():
    with tf.variable_creator_scope(halves):
        model = tf_keras.Sequential(
            [
                tf_keras.Input((4,)),
                tf_keras.layers.Dense(6, kernel_regularizer=tfreg.GroupLasso(0.5)),
                tf_keras.layers.Dense(2),
            ]
        )
    kernel, other = (layer.kernel for layer in model.layers)
    assert len(model.trainable_weights) == 8
    ways = [None, "kernel$", [kernel, other], model.trainable_weights[:2] + [other]]
    ways += [[kernel.variables[1], other.variables[0]]]
    for weights in [*ways, lambda layer, weight: "kernel" in weight.variables[0].name]:
        tfreg.add_penalty(model, tfreg.GroupLasso(0.5), weights)
        [attached, *own] = tfreg.get_penalties(model)
        assert [path.split("/")[-1] for path in attached.paths] == ["kernel", "kernel"]
        assert [weight is kernel for weight in attached.weights] == [True, False]
        assert len(own) == 1 and own[0].weights[0] is kernel
        expected = [float(tfreg.GroupLasso(0.5)(tf.convert_to_tensor(w))) for w in (kernel, other)]
        losses = [float(loss) for loss in model.losses]
        np.testing.assert_allclose(sorted(losses), sorted([0.0, expected[0], sum(expected)]))
        tfreg.remove_penalties(model)
    with pytest.raises(ValueError, match="twice"):
        tfreg.add_penalty(model, tfreg.GroupLasso(), [kernel.variables[0], kernel])
