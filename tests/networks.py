"""Small networks of every kind whose layers can be made smaller."""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
import tf_keras

import tfreg

WORDS = 11  # of each vocabulary
APIS = {"keras": keras, "tf_keras": tf_keras}


@dataclasses.dataclass(frozen=True)
class Network:
    """How to build a network with `keras` or `tf_keras`."""

    name: str
    build: Callable
    only: str = ""  # the Keras that has its layers, if the other has not
    rules: Callable = lambda api: None  # what `tfreg.couple` must be told of its layers

    def __call__(self, api):
        return self.build(api)

    def __str__(self):
        return self.name

    @property
    def apis(self):
        return [self.only] if self.only else list(APIS)


NETWORKS: dict[str, Network] = {}


def network(needs=None, **arguments):
    """Enters a function of an api in `NETWORKS`, if Keras has the layer that it `needs`."""

    def enter(build):
        if needs is None or hasattr(keras.layers, needs):
            NETWORKS[build.__name__] = Network(build.__name__, build, **arguments)
        return build

    return enter


def randomize(model, rng):
    """Random weights and statistics, none of which is 0, or that of another layer."""
    for variable in model.variables:
        if tf.as_dtype(variable.dtype).is_floating:
            variable.assign(_random(variable, rng))
    return model


def _random(variable, rng):
    shape = tuple(variable.shape)
    name = getattr(variable, "path", variable.name)
    if "variance" in name:
        return rng.uniform(0.5, 2.0, shape)
    if "gamma" in name or len(shape) < 2:
        return rng.uniform(0.3, 1.0, shape) * rng.choice([-1.0, 1.0], shape)
    # Of a norm at which outputs neither vanish nor explode, however many layers there are.
    return rng.normal(0.0, 1.3 / np.sqrt(np.prod(shape[:-1])), shape)


def inputs_for(model, rng, batch=3):
    """Random inputs of `model`: words where it expects integers, else numbers."""
    if hasattr(model, "example"):
        expected = model.example
    else:  # Keras 3's Sequential has no `input`
        expected = model.inputs[0] if len(model.inputs) == 1 else model.input

    def drawn(tensor):
        shape = (batch, *tensor.shape[1:])
        if tf.as_dtype(tensor.dtype).is_integer:
            return rng.integers(1, WORDS, shape).astype("int32")
        return rng.normal(size=shape).astype("float32")

    return tf.nest.map_structure(drawn, expected)


def outputs_of(model, inputs):
    """The outputs at inference, as a flat list of arrays."""
    called = tf.nest.map_structure(tf.convert_to_tensor, inputs)
    outputs = tf.nest.flatten(model(called, training=False))
    # NumPy compares no bfloat16 with other floats.
    return [tf.cast(output, tf.float64).numpy() for output in outputs]


# Dense layers and merges.


@network()
def dense(api):
    k = api.layers
    return api.Sequential(
        [
            api.Input((6,)),
            k.Dense(8, activation="relu", name="first"),
            k.Dropout(0.3),
            k.Dense(7, activation="sigmoid", name="second"),  # sigmoid(0) is not 0
            k.Dense(3, name="last"),
        ]
    )


@network()
def merges(api):
    k = api.layers
    x = api.Input((5,))
    a, b, c = (k.Dense(6, activation="tanh", name=name)(x) for name in "abc")
    y = k.Add()([k.Subtract()([a, b]), k.Multiply()([b, c])])
    d, e = (k.Dense(4, name=name)(y) for name in "de")
    z = k.Concatenate()([k.Average()([d, e]), k.Maximum()([d, e]), k.Minimum()([d, e])])
    f = k.Dense(6, name="f")(x)
    dot = k.Dot(axes=-1)([k.Dense(5, name="g")(y), k.Dense(5, name="h")(y)])
    return api.Model(x, k.Dense(2, name="out")(k.Concatenate()([z, f, dot])))


@network()
def activations(api):
    k = api.layers
    x = api.Input((5,))
    y = x
    for i, layer in enumerate(
        [
            k.ReLU(max_value=6.0),
            k.LeakyReLU(),
            k.ELU(),
            k.PReLU(),
            k.Activation("gelu"),
            k.Activation("softplus"),
            k.GaussianNoise(0.1),
            k.ActivityRegularization(l2=1e-3),
        ]
    ):
        y = layer(k.Dense(6, name=f"dense_{i}")(y))
    return api.Model(x, k.Dense(2, activation="softmax", name="out")(y))


@network()
def multi_output(api):
    k = api.layers
    x = api.Input((5,))
    trunk = k.Dense(8, activation="relu", name="trunk")(x)
    left = k.Dense(6, activation="relu", name="left")(trunk)
    heads = {"a": k.Dense(2, name="a")(left), "b": k.Dense(1, name="b")(trunk)}
    return api.Model(x, heads if api is keras else list(heads.values()))


@network()
def dict_inputs(api):
    k = api.layers
    x = {"a": api.Input((4,), name="a"), "b": api.Input((3,), name="b")}
    a = k.Dense(6, activation="relu", name="of_a")(x["a"])
    b = k.Dense(6, activation="relu", name="of_b")(x["b"])
    return api.Model(x, k.Dense(2, name="out")(k.Add()([a, b])))


# Convolutions.


@network()
def convolutions(api):
    k = api.layers
    return api.Sequential(
        [
            api.Input((8, 8, 3)),
            k.Conv2D(6, 3, padding="same", use_bias=False, name="first"),
            k.BatchNormalization(name="first_norm"),
            k.ReLU(),
            k.MaxPooling2D(),
            k.Conv2D(5, 2, activation="relu", name="second"),
            k.BatchNormalization(scale=False, name="second_norm"),
            k.Flatten(),
            k.Dense(6, activation="relu", name="third"),
            k.Dense(4, name="last"),
        ]
    )


def _squeezed(k, y, channels, name):
    """`y`, each of its channels scaled by what all of them say."""
    z = k.GlobalAveragePooling2D(keepdims=True)(y)
    z = k.Conv2D(3, 1, activation="relu", name=f"{name}_squeeze")(z)
    z = k.Conv2D(channels, 1, activation="sigmoid", name=f"{name}_excite")(z)
    return k.Multiply()([y, z])


@network()
def residual(api):
    """Two squeeze-excite blocks."""
    k = api.layers
    x = api.Input((6, 6, 3))
    y = k.Conv2D(6, 3, padding="same", use_bias=False, name="stem")(x)
    y = k.ReLU()(k.BatchNormalization(name="stem_norm")(y))
    for name in ("one", "two"):
        z = k.Conv2D(5, 3, padding="same", use_bias=False, name=f"{name}_in")(y)
        z = k.ReLU()(k.BatchNormalization(name=f"{name}_in_norm")(z))
        z = k.Conv2D(6, 3, padding="same", use_bias=False, name=f"{name}_out")(z)
        z = _squeezed(k, k.BatchNormalization(name=f"{name}_out_norm")(z), 6, name)
        y = k.ReLU()(k.Add()([y, z]))
    return api.Model(x, k.Dense(3, name="last")(k.GlobalAveragePooling2D()(y)))


@network()
def mobile(api):
    """Inverted bottlenecks: depthwise convolutions, linear projections and a residual."""
    k = api.layers
    x = api.Input((7, 7, 3))
    y = k.Conv2D(4, 3, strides=2, padding="same", name="stem")(x)
    for name in ("one", "two"):
        z = k.Conv2D(6, 1, use_bias=False, name=f"{name}_expand")(y)
        z = k.ReLU(6.0)(k.BatchNormalization(name=f"{name}_expand_norm")(z))
        z = k.ZeroPadding2D(1)(z)
        z = k.DepthwiseConv2D(3, use_bias=False, name=f"{name}_depthwise")(z)
        z = k.Activation("swish")(k.BatchNormalization(name=f"{name}_depthwise_norm")(z))
        z = k.Conv2D(4, 1, use_bias=False, name=f"{name}_project")(z)
        y = k.Add()([y, k.BatchNormalization(name=f"{name}_project_norm")(z)])
    return api.Model(x, k.Dense(2, name="last")(k.GlobalMaxPooling2D()(y)))


@network()
def separable(api):
    k = api.layers
    x = api.Input((6, 6, 2))
    y = k.Conv2D(4, 1, activation="relu", name="stem")(x)
    y = k.DepthwiseConv2D(2, depth_multiplier=2, activation="relu", name="depthwise")(y)
    y = k.SeparableConv2D(6, 2, depth_multiplier=2, activation="relu", name="separable")(y)
    y = k.Reshape((16, 6))(y)
    y = k.SeparableConv1D(5, 2, activation="relu", name="separable_1d")(y)
    return api.Model(x, k.Dense(3, name="last")(k.GlobalAveragePooling1D()(y)))


@network()
def grouped(api):
    k = api.layers
    x = api.Input((5, 5, 4))
    y = k.Conv2D(8, 1, activation="relu", name="stem")(x)
    y = k.Conv2D(12, 2, groups=4, activation="relu", name="four")(y)
    y = k.Conv2D(6, 2, groups=2, name="two")(y)
    y = k.ReLU()(k.BatchNormalization(name="norm")(y))
    return api.Model(x, k.Conv2D(2, 1, name="last")(y))


@network()
def shuffled(api):
    """Grouped convolutions with their channels shuffled between them, as in ShuffleNet."""
    k = api.layers
    x = api.Input((4, 4, 3))
    y = k.Conv2D(8, 1, activation="relu", name="stem")(x)
    y = k.Conv2D(8, 1, groups=4, name="first")(y)
    y = k.Permute((1, 2, 4, 3))(k.Reshape((4, 4, 4, 2))(y))
    y = k.Reshape((4, 4, 8))(y)
    y = k.DepthwiseConv2D(2, activation="relu", name="depthwise")(y)
    return api.Model(x, k.Conv2D(2, 1, name="last")(y))


@network()
def inception(api):
    k = api.layers
    x = api.Input((6, 6, 3))
    y = k.Conv2D(4, 1, activation="relu", name="stem")(x)
    for name in ("one", "two"):
        a = k.Conv2D(3, 1, activation="relu", name=f"{name}_a")(y)
        b = k.Conv2D(4, 3, padding="same", use_bias=False, name=f"{name}_b")(y)
        b = k.ReLU()(k.BatchNormalization(name=f"{name}_b_norm")(b))
        pooled = k.AveragePooling2D(3, strides=1, padding="same")(y)
        c = k.Conv2D(2, 1, activation="relu", name=f"{name}_c")(pooled)
        y = k.Concatenate()([a, b, c, pooled])
    y = k.BatchNormalization(name="norm")(y)
    return api.Model(x, k.Dense(3, name="last")(k.Flatten()(y)))


@network()
def pooling(api):
    """Convolutions and poolings of 1 and 3 positions."""
    k = api.layers
    x, v = api.Input((12, 2)), api.Input((4, 4, 4, 1))
    y = k.Conv1D(6, 3, padding="causal", activation="relu", name="line")(x)
    y = k.Conv1D(4, 2, dilation_rate=2, name="dilated")(k.MaxPooling1D(2, padding="same")(y))
    y = k.SpatialDropout1D(0.2)(k.AveragePooling1D(2)(y))
    volume = k.Conv3D(5, 2, activation="relu", name="volume")(v)
    volume = k.MaxPooling3D(2, strides=1)(volume)
    pooled = [
        k.GlobalAveragePooling1D()(y),
        k.GlobalMaxPooling1D()(y),
        k.GlobalAveragePooling3D()(volume),
        k.GlobalMaxPooling3D()(volume),
        k.Flatten()(k.AveragePooling3D(2)(volume)),
    ]
    return api.Model([x, v], k.Dense(3, name="last")(k.Concatenate()(pooled)))


@network()
def u_net(api):
    k = api.layers
    x = api.Input((8, 8, 2))
    one = k.Conv2D(4, 3, padding="same", activation="relu", name="down_1")(x)
    two = k.Conv2D(5, 3, padding="same", name="down_2")(k.MaxPooling2D()(one))
    two = k.ReLU()(k.BatchNormalization(name="down_2_norm")(two))
    y = k.Conv2D(6, 3, padding="same", activation="relu", name="bottom")(k.MaxPooling2D()(two))
    y = k.Conv2DTranspose(5, 2, strides=2, activation="relu", name="up_2")(y)
    y = k.Conv2D(4, 3, padding="same", activation="relu", name="merge_2")(k.Concatenate()([two, y]))
    y = k.UpSampling2D(interpolation="bilinear")(y)
    y = k.Cropping2D(1)(k.ZeroPadding2D(1)(y))
    y = k.Conv2DTranspose(3, 3, padding="same", use_bias=False, name="up_1")(y)
    y = k.Concatenate()([one, y])
    return api.Model(x, k.Conv2D(2, 1, activation="sigmoid", name="last")(y))


@network()
def transposed(api):
    k = api.layers
    x = api.Input((6, 2))
    y = k.Conv1DTranspose(5, 3, strides=2, activation="relu", name="line")(x)
    y = k.UpSampling1D(2)(k.Cropping1D(1)(k.ZeroPadding1D(1)(y)))
    y = k.Conv1D(4, 2, strides=2, activation="relu", name="conv")(y)
    y = k.Reshape((13, 1, 1, 4) if api is keras else (-1, 1, 1, 4))(y)
    y = k.Conv3DTranspose(3, (2, 1, 1), activation="relu", name="volume")(y)
    return api.Model(x, k.Dense(2, name="last")(k.GlobalAveragePooling3D()(y)))


@network()
def shapes(api):
    """Axes that are moved, merged and repeated."""
    k = api.layers
    x = api.Input((4, 6))
    y = k.Dense(5, activation="relu", name="a")(x)
    y = k.Permute((2, 1))(k.Permute((2, 1))(y))
    y = k.Dense(6, activation="relu", name="b")(k.Reshape((2, 2, 5))(y))
    flat = k.Flatten()(y)
    z = k.Dense(4, activation="relu", name="c")(flat)
    z = k.Conv1D(3, 2, name="d")(k.RepeatVector(3)(z))
    return api.Model(x, k.Dense(2, name="last")(k.Flatten()(k.Rescaling(0.5, 0.1)(z))))


@network()
def first_channels(api):
    """Channels before the positions, from a transposition on."""
    k = api.layers
    x = api.Input((5, 6))
    y = k.Dense(4, activation="relu", name="a")(x)
    y = k.BatchNormalization(axis=1, name="norm")(k.Permute((2, 1))(y))
    return api.Model(x, k.Dense(2, name="last")(k.Flatten()(y)))


@network()
def group_norms(api):
    k = api.layers
    x = api.Input((5, 5, 3))
    y = k.Conv2D(8, 2, activation="relu", name="a")(x)
    y = k.GroupNormalization(4, name="norm")(y)
    y = k.Conv2D(6, 2, name="b")(y)
    y = k.Activation("relu")(k.GroupNormalization(6, name="of_each")(y))
    return api.Model(x, k.Dense(2, name="last")(k.GlobalAveragePooling2D()(y)))


@network(needs="RMSNormalization", only="keras")
def rms_norms(api):
    k = api.layers
    x = api.Input((4, 5))
    y = k.Dense(6, name="a")(x)
    for name in ("one", "two"):
        z = k.Dense(7, activation="relu", name=f"{name}_up")(
            k.RMSNormalization(name=f"{name}_norm")(y)
        )
        y = k.Add()([y, k.Dense(6, use_bias=False, name=f"{name}_down")(z)])
    return api.Model(x, k.Dense(2, name="last")(k.RMSNormalization(name="norm")(y)))


@network()
def einsum_dense(api):
    k = api.layers
    x = api.Input((4, 6))
    y = k.EinsumDense("abc,cde->abde", (None, 2, 5), bias_axes="de", name="split")(x)
    y = k.Activation("relu")(y)
    y = k.EinsumDense("abde,dec->abc", (None, 4), bias_axes="c", name="join")(y)
    return api.Model(x, k.EinsumDense("abc,cd->abd", (None, 2), name="last")(y))


# Attention and recurrence.


@functools.cache
def positions_class(api):
    """A learned embedding of positions, as those of Keras's hubs."""

    class Positions(api.layers.Layer):
        def build(self, shape):
            self.embeddings = self.add_weight(name="embeddings", shape=tuple(shape[1:]))

        def call(self, x):
            return x + self.embeddings

    return api.saving.register_keras_serializable("networks")(Positions)


@network(rules=lambda api: {positions_class(api): "elementwise"})
def bert(api):
    """Two blocks of an encoder, whose width LayerNormalization fixes."""
    k = api.layers
    words = api.Input((5,), dtype="int32")
    y = positions_class(api)(name="positions")(k.Embedding(WORDS, 8, name="words")(words))
    y = k.LayerNormalization(name="embedding_norm")(y)
    for name in ("one", "two"):
        attended = k.MultiHeadAttention(4, 3, name=f"{name}_attention")(y, y)
        y = k.LayerNormalization(name=f"{name}_attention_norm")(k.Add()([y, attended]))
        z = k.Dense(10, activation="gelu", name=f"{name}_up")(y)
        z = k.Dropout(0.1)(k.Dense(8, name=f"{name}_down")(z))
        y = k.LayerNormalization(name=f"{name}_norm")(k.Add()([y, z]))
    pooled = k.Dense(6, activation="tanh", name="pooler")(k.GlobalAveragePooling1D()(y))
    return api.Model(words, k.Dense(2, name="last")(pooled))


@network()
def cross_attention(api):
    k = api.layers
    x, memory = api.Input((4, 5)), api.Input((6, 3))
    queries = k.Dense(6, activation="relu", name="queries")(x)
    keys = k.Dense(4, activation="relu", name="keys")(memory)
    attend = k.MultiHeadAttention(2, 3, value_dim=4, output_shape=7, use_bias=False, name="attend")
    y = k.Dense(5, activation="relu", name="up")(attend(queries, keys))
    return api.Model([x, memory], k.Dense(2, name="last")(y))


@network(only="keras")
def grouped_attention(api):
    k = api.layers
    x = api.Input((4, 5))
    y = k.Dense(6, name="a")(x)
    attended = k.GroupQueryAttention(3, 4, 2, name="attention")(y, y)
    y = k.Add()([y, attended])
    return api.Model(x, k.Dense(2, name="last")(k.Dense(5, activation="relu", name="b")(y)))


@functools.cache
def tied_head_class(api):
    class TiedHead(api.layers.Layer):
        """The logits of words, by the weights that embed them."""

        def __init__(self, embedding, **kwargs):
            super().__init__(**kwargs)
            self.embedding = lambda: embedding  # no layer of this one, or tf_keras cannot load it

        def build(self, shape):
            self.kernel = self.embedding().embeddings

        def call(self, x):
            return tf.matmul(x, self.kernel, transpose_b=True)

        def compute_output_shape(self, shape):
            return (*shape[:-1], self.embedding().input_dim)

        def get_config(self):
            embedding = api.saving.serialize_keras_object(self.embedding())
            return {**super().get_config(), "embedding": embedding}

        @classmethod
        def from_config(cls, config):
            embedding = api.saving.deserialize_keras_object(config.pop("embedding"))
            return cls(embedding, **config)

    TiedHead = api.saving.register_keras_serializable("networks")(TiedHead)
    tfreg.layers.register(TiedHead, {"kernel": ("output", "input")})
    return TiedHead


@network(rules=lambda api: {tied_head_class(api): "dense"})
def language_model(api):
    """LSTM layers between an embedding and its transpose."""
    k = api.layers
    words = api.Input((5,), dtype="int32")
    embedding = k.Embedding(WORDS, 6, name="words")
    y = k.LSTM(7, return_sequences=True, name="lower")(embedding(words))
    y = k.LSTM(6, return_sequences=True, unit_forget_bias=False, name="upper")(y)
    return api.Model(words, tied_head_class(api)(embedding, name="head")(y))


@network()
def recurrent(api):
    k = api.layers
    x = api.Input((4, 3))
    y = k.Dense(5, activation="relu", name="a")(x)
    y = k.GRU(6, return_sequences=True, name="gru")(y)
    y = k.GRU(5, return_sequences=True, reset_after=False, name="gru_before")(y)
    y = k.SimpleRNN(4, return_sequences=True, use_bias=False, name="simple")(y)
    y, last, cell = k.LSTM(5, return_state=True, name="lstm")(y)
    y = k.Concatenate()([k.Add()([y, last]), cell])
    return api.Model(x, k.Dense(2, name="last")(y))


@network()
def masked(api):
    """Masks that an embedding makes and later layers use."""
    k = api.layers
    words = api.Input((5,), dtype="int32")
    y = k.Embedding(WORDS, 6, mask_zero=True, name="words")(words)
    y = k.LSTM(5, return_sequences=True, name="lstm")(y)
    y = k.TimeDistributed(k.Dense(6, activation="relu"), name="each")(y)
    return api.Model(words, k.Dense(2, name="last")(k.GlobalAveragePooling1D()(y)))


@network()
def stacked_cells(api):
    k = api.layers
    x = api.Input((4, 3))
    cells = [k.LSTMCell(5), k.GRUCell(4), k.SimpleRNNCell(6)]
    return api.Model(x, k.Dense(2, name="last")(k.RNN(cells, name="stacked")(x)))


@network()
def bidirectional(api):
    k = api.layers
    x = api.Input((4, 3))
    y = k.Bidirectional(k.LSTM(4, return_sequences=True), name="lower")(x)
    y = k.Bidirectional(k.GRU(5, return_sequences=True), merge_mode="sum", name="middle")(y)
    y = k.Bidirectional(k.SimpleRNN(4), merge_mode="ave", name="upper")(y)
    return api.Model(x, k.Dense(2, name="last")(y))


@network()
def time_distributed(api):
    k = api.layers
    x = api.Input((3, 6, 6, 2))
    y = k.TimeDistributed(k.Conv2D(4, 3, activation="relu"), name="conv")(x)
    y = k.TimeDistributed(k.BatchNormalization(), name="norm")(y)
    y = k.TimeDistributed(k.MaxPooling2D(), name="pool")(y)
    y = k.TimeDistributed(k.Flatten(), name="flat")(y)
    y = k.TimeDistributed(k.Dense(5, activation="relu"), name="dense")(y)
    return api.Model(x, k.Dense(2, name="last")(k.SimpleRNN(4, name="rnn")(y)))


@network()
def conv_lstm(api):
    k = api.layers
    x = api.Input((3, 5, 5, 2))
    y = k.ConvLSTM2D(4, 3, padding="same", return_sequences=True, name="lower")(x)
    y = k.ConvLSTM2D(5, 2, name="upper")(y)
    return api.Model(x, k.Dense(2, name="last")(k.GlobalAveragePooling2D()(y)))


# Models in models.


@network()
def two_towers(api):
    """Two inputs through one encoder, then compared."""
    k = api.layers
    encoder_input = api.Input((6,))
    y = k.Dense(8, activation="relu", name="wide")(encoder_input)
    encoder = api.Model(encoder_input, k.Dense(5, name="code")(y), name="encoder")
    a, b = api.Input((6,)), api.Input((6,))
    code_a, code_b = encoder(a), encoder(b)
    product = k.Multiply()([code_a, code_b])
    difference = k.Subtract()([code_a, code_b])
    return api.Model([a, b], k.Dense(1, name="last")(k.Concatenate()([product, difference])))


@network()
def shared(api):
    """One layer called on two layers' outputs."""
    k = api.layers
    x = api.Input((5,))
    both = k.Dense(6, activation="relu", name="both")
    a = both(k.Dense(4, activation="tanh", name="a")(x))
    b = both(k.Dense(4, activation="relu", name="b")(x))
    return api.Model(x, k.Dense(2, name="last")(k.Concatenate()([a, b])))


@network()
def inner_twice(api):
    """One model called on its own output."""
    k = api.layers
    x = api.Input((4, 5))
    inner_input = api.Input((4, 6))
    z = k.Dense(7, activation="relu", name="up")(inner_input)
    z = k.Add()([inner_input, k.Dense(6, name="down")(z)])
    inner = api.Model(inner_input, z, name="inner")
    y = k.Dense(6, activation="relu", name="first")(x)
    y = inner(inner(y))
    return api.Model(x, k.Dense(2, name="last")(y))


@network()
def nested(api):
    """A Sequential in a Sequential in one."""
    k = api.layers
    innermost = api.Sequential(
        [api.Input((5, 5, 6)), k.Conv2D(5, 2, name="c"), k.ReLU()], name="innermost"
    )
    inner = api.Sequential(
        [
            api.Input((5, 5, 4)),
            k.Conv2D(6, 1, use_bias=False, name="b"),
            k.BatchNormalization(name="norm"),
            innermost,
            k.Flatten(),
        ],
        name="inner",
    )
    return api.Sequential(
        [
            api.Input((6, 6, 3)),
            k.Conv2D(4, 2, activation="relu", name="a"),
            inner,
            k.Dense(6, activation="relu", name="d"),
            k.Dense(3, name="last"),
        ]
    )


# Operations without a layer.


@network(only="keras")
def operations(api):
    k, ops = api.layers, api.ops
    x = api.Input((4, 5))
    y = k.Dense(8, name="a")(x)
    a, b = ops.split(y, 2, axis=-1)
    y = a * ops.sigmoid(b) + 1.5 * a - b / 2.0
    y = ops.concatenate([y, ops.relu(k.Dense(6, name="b")(x))], axis=-1)
    y = k.Dense(6, activation="relu", name="c")(ops.take(y, [3, 0, 1, 2], axis=1))
    y = ops.subtract(y[:, :, 2:], 0.5)
    z = ops.mean(y, axis=1) + ops.max(y, axis=1)
    flat = ops.reshape(ops.transpose(y, (0, 2, 1)), (-1, 16))
    z = ops.concatenate([z, flat], axis=1)
    return api.Model(x, k.Dense(2, name="last")(z))


@network(only="tf_keras")
def tf_operations(api):
    k = api.layers
    x = api.Input((4, 5))
    y = k.Dense(8, name="a")(x)
    a, b = tf.split(y, 2, axis=-1)
    y = a * tf.sigmoid(b) + 1.5 * a - b / 2.0
    y = tf.concat([y, tf.nn.relu(k.Dense(6, name="b")(x))], axis=-1)
    y = k.Dense(6, activation="relu", name="c")(tf.gather(y, [3, 0, 1, 2], axis=1))
    y = tf.subtract(y[:, :, 2:], 0.5)
    z = tf.reduce_mean(y, axis=1) + tf.reduce_max(y, axis=1)
    flat = tf.reshape(tf.transpose(y, (0, 2, 1)), (-1, 16))
    z = tf.concat([z, flat], axis=1)
    return api.Model(x, k.Dense(2, name="last")(z))


@network()
def lambdas(api):
    """Functions that are not followed, between layers that are."""
    k = api.layers
    x = api.Input((5,))
    y = k.Dense(6, activation="relu", name="a")(x)
    y = k.Lambda(doubled, output_shape=(6,), name="double")(k.Dense(6, name="b")(y))
    return api.Model(x, k.Dense(2, name="last")(k.Dense(4, activation="relu", name="c")(y)))


@keras.saving.register_keras_serializable("networks")
@tf_keras.saving.register_keras_serializable("networks")
def doubled(x):
    return x * 2.0


@functools.cache
def block_class(api):
    class Block(api.Model):
        """A model by a class, which calls its layers one after the other."""

        def __init__(self, units=8, **kwargs):
            super().__init__(**kwargs)
            self.units = units
            self.up = api.layers.Dense(units, activation="relu", name="up")
            self.norm = api.layers.BatchNormalization(name="norm")
            self.down = api.layers.Dense(3, name="down")

        @property
        def example(self):
            return tf.TensorSpec((None, 5), "float32")

        def call(self, x, training=None):
            return self.down(self.norm(self.up(x), training=training))

        def get_config(self):
            return {**super().get_config(), "units": self.units}

    return api.saving.register_keras_serializable("networks")(Block)


@network()
def subclassed(api):
    model = block_class(api)()
    model(np.zeros((1, 5), "float32"))
    return model
