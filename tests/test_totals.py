"""What a model costs, now and without what is dead in it."""

import logging
import random
import threading

import keras
import networks
import numpy as np
import pytest
import tensorflow as tf
from marks import KERAS_3_FIRST, slow
from networks import NETWORKS, WORDS, randomize

import tfreg
from tfreg.reporting.totals import multiply_adds

# Layers with what they are called on, and their multiplications with weights, by hand.
LAYERS = {
    "Dense": (lambda k: k.Dense(5), (4, 3), 4 * 3 * 5),
    "Dense without bias": (lambda k: k.Dense(5, use_bias=False), (3,), 3 * 5),
    "Conv1D": (lambda k: k.Conv1D(6, 3, strides=2, padding="same"), (10, 4), 5 * 3 * 4 * 6),
    "Conv1D causal": (lambda k: k.Conv1D(6, 3, padding="causal"), (10, 4), 10 * 3 * 4 * 6),
    "Conv2D": (lambda k: k.Conv2D(6, (3, 2), strides=2), (9, 8, 4), (4 * 4) * (3 * 2) * 4 * 6),
    "Conv2D dilated": (lambda k: k.Conv2D(2, 3, dilation_rate=2), (7, 7, 3), 3 * 3 * 9 * 3 * 2),
    "Conv3D": (lambda k: k.Conv3D(2, 2, padding="same"), (4, 3, 2, 3), (4 * 3 * 2) * 8 * 3 * 2),
    # Each position of the input meets the whole kernel.
    "Conv2DTranspose": (lambda k: k.Conv2DTranspose(5, 3, strides=2), (4, 4, 3), 16 * 9 * 3 * 5),
    "DepthwiseConv2D": (
        lambda k: k.DepthwiseConv2D(3, depth_multiplier=2),
        (5, 5, 4),
        9 * 9 * (4 * 2),
    ),
    "SeparableConv2D": (
        lambda k: k.SeparableConv2D(6, 3, depth_multiplier=2),
        (5, 5, 4),
        9 * 9 * (4 * 2) + 9 * (4 * 2) * 6,
    ),
    "grouped Conv2D": (lambda k: k.Conv2D(6, 2, groups=2), (4, 4, 4), 9 * 4 * (4 // 2) * 6),
    "Embedding": (lambda k: k.Embedding(WORDS, 6), None, 0),  # it looks up
    "SimpleRNN": (lambda k: k.SimpleRNN(5), (4, 3), 4 * (3 * 5 + 5 * 5)),
    "LSTM": (lambda k: k.LSTM(5), (4, 3), 4 * 4 * (3 * 5 + 5 * 5)),
    "GRU": (lambda k: k.GRU(5), (4, 3), 4 * 3 * (3 * 5 + 5 * 5)),
    "Bidirectional": (
        lambda k: k.Bidirectional(k.LSTM(5)),
        (4, 3),
        2 * 4 * 4 * (3 * 5 + 5 * 5),
    ),
    "TimeDistributed": (
        lambda k: k.TimeDistributed(k.Conv1D(5, 2)),
        (3, 6, 2),
        3 * 5 * 2 * 2 * 5,
    ),
    "EinsumDense": (
        lambda k: k.EinsumDense("abc,cde->abde", (None, 2, 5), bias_axes="de"),
        (4, 6),
        4 * 6 * (2 * 5),
    ),
    "BatchNormalization": (lambda k: k.BatchNormalization(), (4, 3), 0),
    "LayerNormalization": (lambda k: k.LayerNormalization(), (4, 3), 0),
    "PReLU": (lambda k: k.PReLU(), (4, 3), 0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_multiply_adds_of_a_layer_are_those_by_hand(api, name):
    make, shape, expected = LAYERS[name]
    x = api.Input((5,), dtype="int32") if shape is None else api.Input(shape)
    model = api.Model(x, make(api.layers)(x))
    assert multiply_adds(model) == tfreg.report(model).multiply_adds == expected


def test_the_multiply_adds_of_attention_are_those_by_hand(api):
    """Without those of queries with keys and of weights with values: both are activations."""
    x, memory = api.Input((4, 5)), api.Input((6, 3))
    attention = api.layers.MultiHeadAttention(2, 3, value_dim=4, output_shape=7)
    model = api.Model([x, memory], attention(x, memory))
    queries, keys, values = 4 * 5 * (2 * 3), 6 * 3 * (2 * 3), 6 * 3 * (2 * 4)
    outputs = 4 * (2 * 4) * 7
    assert multiply_adds(model) == queries + keys + values + outputs


@KERAS_3_FIRST
def test_a_layer_that_is_called_twice_counts_twice(api):
    x, y = api.Input((3,)), api.Input((3,))
    dense = api.layers.Dense(5)
    model = api.Model([x, y], api.layers.Add()([dense(x), dense(y)]))
    assert multiply_adds(model) == 2 * 3 * 5


@KERAS_3_FIRST
def test_an_axis_of_unknown_length_counts_once(api):
    model = api.Sequential([api.Input((None, 4)), api.layers.Conv1D(6, 3)])
    assert multiply_adds(model) == 3 * 4 * 6


@KERAS_3_FIRST
def test_weights_over_axes_of_unknown_length_are_listed(api):
    k = api.layers
    x, known = api.Input((None, None, 4)), api.Input((3,))
    y = k.Conv2D(5, 3, name="conv")(x)
    y = k.TimeDistributed(k.Dense(6, name="inner"), name="each")(y)
    y = k.GlobalAveragePooling2D()(y)
    y = k.Dense(2, name="pooled")(y)
    model = api.Model([x, known], [y, k.Dense(2, name="known")(known)])
    found = tfreg.report(model)
    assert found.unknown_lengths == ["conv/kernel", "each/inner/kernel"]
    text = " ".join(str(found).split())
    assert "Axes of unknown length count as one position, which is so for 2 weights" in text
    assert tfreg.report(api.Sequential([api.Input((3,)), k.Dense(2)])).unknown_lengths == []


def test_the_kernels_of_quantized_layers_are_listed_as_not_counted():
    layers = [keras.layers.Dense(4, name="a"), keras.layers.Dense(2, name="b")]
    model = keras.Sequential([keras.Input((8,)), *layers])
    model.quantize("int8")
    found = tfreg.report(model)
    assert found.not_counted == ["a/kernel", "b/kernel"] and found.multiply_adds == 0
    assert "not counted, are those of 2 weights" in " ".join(str(found).split())


@KERAS_3_FIRST
def test_states_and_statistics_are_no_uncounted_weights(api):
    k = api.layers
    layers = [k.LSTM(3, stateful=True, return_sequences=True), k.BatchNormalization()]
    model = api.Sequential([api.Input(batch_shape=(2, 5, 4)), *layers, k.Normalization(axis=-1)])
    assert tfreg.report(model).not_counted == []


# As published, of images of 224 x 224 pixels: the number, how exactly it was given, and where.
PUBLISHED = {
    # He et al., Deep residual learning for image recognition, 2015, table 1 and section 3.3.
    "ResNet50": (3.8e9, 0.03),
    "VGG16": (15.3e9, 0.02),
    # Sandler et al., MobileNetV2: Inverted residuals and linear bottlenecks, 2018, table 4.
    "MobileNetV2": (300e6, 0.01),
    # Howard et al., MobileNets, 2017, table 4.
    "MobileNet": (569e6, 0.001),
}


@pytest.mark.parametrize("name", [slow(name) for name in sorted(PUBLISHED)])
def test_the_multiply_adds_of_an_application_are_those_published(api, name):
    expected, tolerance = PUBLISHED[name]
    model = getattr(api.applications, name)(weights=None)
    found = tfreg.report(model)
    assert abs(found.multiply_adds / expected - 1.0) < tolerance
    assert found.parameters == model.count_params()
    assert found.not_counted == []


# After compact.

QUICK = ["residual", "grouped", "recurrent"]
EACH_NETWORK = [
    (api, name) if api == "keras" and name in QUICK else slow(api, name)
    for name, network in sorted(NETWORKS.items())
    for api in network.apis
]
each_network = pytest.mark.parametrize("api, name", EACH_NETWORK, indirect=["api"])


def with_zeros(api, name, seed):
    """A network with zeros in a random part of each coupling, the couplings and the parts."""
    rng = np.random.default_rng(seed)
    model, rules = randomize(NETWORKS[name](api), rng), NETWORKS[name].rules(api)
    couplings = tfreg.couple(model, rules)
    zeroed = [rng.permutation(each.size)[: rng.integers(0, each.size)] for each in couplings]
    for coupling, entries in zip(couplings, zeroed):
        coupling.zero(entries)
    return model, rules, couplings, zeroed


def assert_as_compact_leaves(found, model, rules):
    small = tfreg.compact(model, rules=rules)
    assert found.parameters == model.count_params()
    assert found.parameters_after == small.count_params()
    assert found.multiply_adds == multiply_adds(model, rules)
    assert found.multiply_adds_after == multiply_adds(small, rules)


@each_network
def test_the_totals_afterwards_are_those_of_the_compact_model(api, name):
    model, rules, couplings, zeroed = with_zeros(api, name, seed=0)
    found = tfreg.report(model, rules=rules)
    assert_as_compact_leaves(found, model, rules)
    assert [each.paths for each in found.couplings] == [each.paths for each in couplings]
    for reported, coupling, entries in zip(found.couplings, couplings, zeroed):
        assert (reported.size, reported.left) == (coupling.size, coupling.size - len(entries))
        np.testing.assert_array_equal(reported.norms, coupling.norms())


@each_network
def test_zeros_that_compact_cannot_cut_stay_in_the_totals(api, name):
    """Zeros in some of the weights of an entry alone, and whole weights of zeros."""
    rng = np.random.default_rng(1)
    model, rules = randomize(NETWORKS[name](api), rng), NETWORKS[name].rules(api)
    for coupling in tfreg.couple(model, rules):
        entries = rng.permutation(coupling.size)[: coupling.size // 2]
        for member in coupling.members:
            if rng.uniform() < 0.6:
                array = np.asarray(member.variable).copy()
                for axis, indices in member.slices:
                    np.moveaxis(array, axis, 0)[np.unique(indices[entries])] = 0.0
                member.variable.assign(array)
    assert_as_compact_leaves(tfreg.report(model, rules=rules), model, rules)


@KERAS_3_FIRST
def test_what_is_cut_in_a_second_round_counts_too(api):
    """Once one of two groups of a convolution is gone, single filters of the other are free."""
    k = api.layers
    x = api.Input((4, 4, 4))
    y = k.Conv2D(4, 1, name="stem")(x)
    y = k.Conv2D(8, 1, groups=2, use_bias=False, name="grouped")(y)
    model = api.Model(x, k.Conv2D(2, 1, name="last")(y))
    randomize(model, np.random.default_rng(0))
    grouped = model.get_layer("grouped")
    kernel = np.asarray(grouped.kernel).copy()
    kernel[..., [0, 1, 2, 3, 4]] = 0.0  # one group, and a filter of the other
    grouped.kernel.assign(kernel)
    found = tfreg.report(model)
    assert_as_compact_leaves(found, model, None)
    small = tfreg.compact(model)
    assert small.get_layer("grouped").kernel.shape[-1] == 3
    assert [(each.size, each.left) for each in found.couplings] == [(2, 1)]


@KERAS_3_FIRST
def test_couplings_of_which_nothing_is_dead_are_all_left(api):
    model = randomize(NETWORKS["dense"](api), np.random.default_rng(0))
    found = tfreg.report(model)
    assert all(each.left == each.size for each in found.couplings)
    assert found.parameters_after == found.parameters > 0
    assert found.multiply_adds_after == found.multiply_adds == 6 * 8 + 8 * 7 + 7 * 3


@KERAS_3_FIRST
def test_moving_statistics_count_as_parameters(api):
    model = randomize(NETWORKS["convolutions"](api), np.random.default_rng(0))
    assert tfreg.report(model).parameters == model.count_params()
    assert model.count_params() > sum(int(np.prod(w.shape)) for w in model.trainable_weights)


# What is not followed.


def test_what_is_not_followed_is_listed_by_its_reason(api):
    model = randomize(NETWORKS["dense"](api), np.random.default_rng(0))
    found = {each.reason: each.paths for each in tfreg.report(model).unfollowed}
    assert found["it is an output of the model"] == ["last/kernel", "last/bias"]
    assert any("input" in reason and paths == ["first/kernel"] for reason, paths in found.items())


def unknown_layer(api):
    class Unknown(api.layers.Layer):
        def build(self, shape):
            self.matrix = self.add_weight(name="matrix", shape=(shape[-1], 3))

        def call(self, x):
            return tf.matmul(x, self.matrix)

        def compute_output_shape(self, shape):
            return (*shape[:-1], 3)

    return Unknown


def test_the_weights_of_unknown_layers_are_listed_as_not_counted(api):
    cls = unknown_layer(api)
    layers = [api.layers.Dense(4), cls(name="unknown"), api.layers.Dense(2)]
    model = api.Sequential([api.Input((5,)), *layers])
    found = tfreg.report(model)
    assert found.not_counted == ["unknown/matrix"]
    assert found.multiply_adds == 5 * 4 + 3 * 2
    assert "unknown/matrix" in str(found)
    tfreg.layers.register(cls, {"matrix": ("input", "output")})
    known = tfreg.report(model, rules={cls: "dense"})
    assert known.not_counted == [] and known.multiply_adds == 5 * 4 + 4 * 3 + 3 * 2


@pytest.mark.parametrize("kind", ["unbuilt", "untraceable"])
def test_a_model_without_a_graph_has_no_counts_but_a_reason(api, kind):
    class Branching(api.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = api.layers.Dense(3, name="dense")

        def call(self, x):
            y = self.dense(x)
            return y if tf.executing_eagerly() and float(tf.reduce_sum(y)) > 0 else np.asarray(x)

        def compute_output_shape(self, shape):
            return (*shape[:-1], 3)

    if kind == "unbuilt":
        model = api.Sequential([api.layers.Dense(3, name="dense")])
    else:
        model = Branching()
        model(np.ones((2, 4), "float32"))
    model = tfreg.add_penalty(model, tfreg.GroupLasso(0.1))
    found = tfreg.report(model)
    assert found.parameters == (0 if kind == "unbuilt" else 4 * 3 + 3)
    assert found.parameters_after is found.multiply_adds is found.multiply_adds_after is None
    assert found.couplings == found.unfollowed == [] and found.not_cut is None
    [row] = found.penalties
    assert row.strength == 0.1 if kind == "untraceable" else row.elements == 0
    assert (
        "dense'] are not built" if kind == "unbuilt" else "cannot be followed"
    ) in found.not_followed
    text = " ".join(str(found).split())
    assert f"Couplings and multiply-adds are not known. {found.not_followed[:60]}" in text
    assert "Cannot be cut" not in text


class NoConfig:
    """What `get_config` of a layer does: it raises an error."""

    def __init__(self, error, **kwargs):
        super().__init__(**kwargs)
        self.error = error

    def call(self, x):
        return x * 1.0

    def get_config(self):
        raise self.error


@KERAS_3_FIRST
@pytest.mark.parametrize(
    "error", [NotImplementedError(), AttributeError("no 'a'"), TypeError("b")], ids=repr
)
def test_what_cannot_be_made_anew_leaves_the_rest_of_the_report(api, error):
    cls = type("Own", (NoConfig, api.layers.Layer), {})
    k = api.layers
    layers = [k.Dense(6, name="a"), k.Dense(5, name="b"), cls(error, name="own"), k.Dense(2)]
    model = randomize(api.Sequential([api.Input((8,)), *layers]), np.random.default_rng(0))
    model = tfreg.add_penalty(model, tfreg.GroupLasso(0.1), weights="a/kernel")
    whole = tfreg.report(model)
    assert whole.not_cut is None and whole.couplings[0].left == 6
    tfreg.couple(model)[0].zero([0])
    found = tfreg.report(model)
    assert found.multiply_adds == whole.multiply_adds == 8 * 6 + 6 * 5 + 5 * 2
    assert [(each.size, each.left) for each in found.couplings] == [(6, None)]
    assert found.parameters_after is found.multiply_adds_after is None
    assert found.unfollowed and found.not_followed is None
    assert type(error).__name__ in found.not_cut and str(error) in found.not_cut
    text = " ".join(str(found).split())
    assert f"What tfreg.compact would leave is not known: {found.not_cut}" in text
    assert " - / 6 " in text and " - / 6" in " ".join(str(whole.compare(found)).split())
    assert found.penalties[0].zero_groups == 1 and found._repr_html_() and found.to_dict()


# What stays as it is.


def test_nothing_is_logged_and_no_random_number_is_drawn(api, caplog):
    def drawn(asks):
        api.utils.set_random_seed(3)
        model = with_zeros(api, "residual", seed=0)[0]
        with caplog.at_level(logging.DEBUG, "tfreg"):
            for _ in range(asks):
                assert tfreg.report(model).parameters_after < model.count_params()
        new = api.layers.Dense(3)
        new.build((None, 4))
        figures = [random.random(), np.random.rand(), float(tf.random.uniform([]))]
        return [*figures, *np.ravel(new.kernel)]

    assert drawn(asks=2) == drawn(asks=0)
    assert not caplog.records


@KERAS_3_FIRST
def test_the_functional_twin_of_a_subclassed_model_is_followed(api):
    model, _, _, zeroed = with_zeros(api, "subclassed", seed=2)
    found = tfreg.report(model)
    assert_as_compact_leaves(found, model, None)
    assert found.couplings[0].left == networks.block_class(api)().units - len(zeroed[0])


def test_models_are_made_in_another_thread_meanwhile(api):
    """Names of layers must be unique in a model, whatever a report does in another thread."""

    def make():
        try:
            for _ in range(8):
                api.Sequential([api.Input((2,)), *(api.layers.Dense(2) for _ in range(20))])
        except ValueError as error:
            failures.append(error)

    failures: list = []
    model = networks.dense(api)
    thread = threading.Thread(target=make)
    thread.start()
    while thread.is_alive():
        multiply_adds(model)
    thread.join()
    assert not failures
