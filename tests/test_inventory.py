"""A weight belongs to the layer that made it, whoever else holds it, under the names of now."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from model_cases import keeper_class

import tfreg
from tfreg.inventory import holdings, made, walk
from tfreg.layers import registry

PENALTY = tfreg.GroupLasso(1.0, size_weighted=False)


def weights_of(model):
    return [made(holders) for holders in holdings(walk(model))]


def makers(model):
    """The layer that made each weight, by the weight's path."""
    return {weight.path: weight.layer for weight in weights_of(model)}


def wrapped(api, depth=1, name="inner", **arguments):
    """A model of a dense layer in wrappers, and a plain one."""
    inner = api.layers.Dense(4, name=name, **arguments)
    outer = inner
    for i in range(depth):
        outer = keeper_class(api)(outer, name=f"wrapper_{i}")
    plain = api.layers.Dense(2, name="plain")
    return api.Sequential([api.Input((6,)), outer, plain], name="model"), inner, plain


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("name", ["inner", "wrapper_0"])
def test_the_layer_in_a_wrapper_made_the_weight_that_both_hold(api, depth, name):
    model, inner, plain = wrapped(api, depth, name)
    owners = [weight.layer for weight in weights_of(model)]
    assert sum(layer is inner for layer in owners) == 2
    assert sum(layer is plain for layer in owners) == 2 and len(owners) == 4


def test_selections_see_the_layer_that_made_a_weight(api):
    model, inner, plain = wrapped(api, kernel_regularizer=tfreg.BoxPenalty(1.0, -0.1, 0.1))
    expected = [inner.kernel, plain.kernel]
    kinds = [
        None,
        "kernel$",
        "inner/kernel|plain/kernel",
        lambda layer, w: isinstance(layer, api.layers.Dense) and len(w.shape) == 2,
        ["inner", "plain"],
        [inner, plain],
        ["wrapper_0", plain],
        [inner.kernel, plain.kernel],
        ["wrapper_0/inner/kernel", "plain/kernel"],
    ]
    norms = [np.linalg.norm(np.asarray(kernel), axis=0).sum() for kernel in expected]
    for weights in kinds:
        tfreg.add_penalty(model, PENALTY, weights)
        term, own = tfreg.get_penalties(model)
        assert term.paths == ["wrapper_0/inner/kernel", "plain/kernel"]
        assert all(a is b for a, b in zip(term.weights, expected, strict=True))
        # The layer's own penalty is told once, as it counts once.
        assert own.paths == ["wrapper_0/inner/kernel"] and own.weights[0] is inner.kernel
        losses = sorted(float(loss) for loss in model.losses)
        parts = sorted([float(term.value()), float(own.value())])
        np.testing.assert_allclose(losses, parts, rtol=1e-6)
        np.testing.assert_allclose(float(term.value()), sum(norms), rtol=1e-5)
        tfreg.remove_penalties(model)


def test_spectral_normalization():
    inner = keras.layers.Dense(4, name="inner", kernel_regularizer=tfreg.BoxPenalty(1.0))
    x = keras.Input((6,))
    h = keras.layers.SpectralNormalization(inner)(x)
    model = keras.Model(x, keras.layers.Dense(2, name="plain")(h))
    tfreg.add_penalty(
        model, PENALTY, lambda layer, w: isinstance(layer, keras.layers.Dense) and len(w.shape) == 2
    )
    assert tfreg.get_penalties(model)[0].paths[1] == "plain/kernel"
    assert tfreg.get_penalties(model)[0].weights[0] is inner.kernel
    tfreg.add_penalty(model, PENALTY, ["inner"])
    assert [len(attached.weights) for attached in tfreg.get_penalties(model)] == [2, 1, 1]


def tied_class(api):
    """A layer that yields scores for the rows of an embedding that it shares."""

    class Tied(api.layers.Layer):
        def __init__(self, embedding, **kwargs):
            super().__init__(**kwargs)
            self.shared = lambda: embedding  # which is no layer of this one

        def build(self, shape):
            self.kernel = self.shared().embeddings
            self.bias = self.add_weight(name="bias", shape=(11,))

        def call(self, x):
            return tf.matmul(x, tf.convert_to_tensor(self.kernel), transpose_b=True) + self.bias

        def compute_output_shape(self, shape):
            return (*shape[:-1], 11)

    registry.register(Tied, {"kernel": ("input", "output"), "bias": ("output",)})
    return Tied


@pytest.mark.parametrize("order", ["made first", "shared first"])
def test_a_shared_weight_keeps_the_layout_of_the_layer_that_made_it(api, order):
    embedding = api.layers.Embedding(11, 3, name="words")
    embedding.build((None,))
    tied = tied_class(api)(embedding, name="scores")
    tied.build((None, 3))
    model = api.Model()
    model.parts = [embedding, tied] if order == "made first" else [tied, embedding]
    try:
        [shared] = [w for w in weights_of(model) if w.variable is embedding.embeddings]
        assert shared.layer is embedding and shared.path == "words/embeddings"
        layouts = registry.weight_layouts(model)
        # A group for each row, where the layer that shares them would have one for each column.
        assert layouts[id(embedding.embeddings)].spanned("output") == (1,)
    finally:
        del registry._registered[type(tied)]


def test_a_layer_that_gives_its_weight_to_one_in_it():
    class Parent(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.child = keras.layers.Layer(name="child")

        def build(self, shape):
            self.table = self.add_weight(name="table", shape=(shape[-1], 2))
            self.child.table = self.table

        def call(self, x):
            return tf.matmul(x, self.table)

    parent = Parent(name="parent")
    model = keras.Sequential([keras.Input((3,)), parent])
    assert makers(model) == {"parent/table": parent}


def nested(api):
    inner_input = api.Input((4,))
    inner = api.Model(inner_input, api.layers.Dense(4, name="d")(inner_input), name="block")
    x = api.Input((5, 3))
    rec = api.layers.Bidirectional(api.layers.LSTM(2), name="rec")(x)
    y = api.layers.Dense(4, name="rec_head")(rec)
    return api.Model(x, inner(y), name="outer")


def test_paths_are_the_layers_names_on_a_fresh_model_and_on_a_loaded_one(api, tmp_path):
    model = nested(api)
    model.save(tmp_path / "m.keras")
    loaded = api.models.load_model(tmp_path / "m.keras")
    for each in (model, loaded, tfreg.clone_model(model)):
        tfreg.add_penalty(each, PENALTY, "^rec.*kernel$")
        tfreg.add_penalty(each, PENALTY, "^block/")
        rec, block = (attached.paths for attached in tfreg.get_penalties(each))
        assert len(rec) == 5 and rec[-1] == "rec_head/kernel"
        assert all(path.startswith("rec/") for path in rec[:4])
        assert block == ["block/d/kernel", "block/d/bias"]
    if api is keras:  # in tf_keras a cell gets a new name as it is made
        fresh, again = ([weight.path for weight in weights_of(each)] for each in (model, loaded))
        assert fresh == again


def test_a_path_as_keras_3_gives_it_is_known_in_a_list_and_deprecated_in_a_pattern():
    model = keras.Sequential([keras.layers.Dense(3, name="d")], name="m")
    model(np.ones((1, 2)))
    assert model.layers[0].kernel.path == "m/d/kernel"
    tfreg.add_penalty(model, PENALTY, ["m/d/kernel"])
    assert tfreg.get_penalties(model)[0].paths == ["d/kernel"]
    with pytest.warns(
        FutureWarning, match="'\\^m/d/kernel\\$'.*Match the layers' names.*'d/kernel'"
    ) as caught:
        tfreg.add_penalty(model, PENALTY, "^m/d/kernel$")
    assert [warning.filename for warning in caught] == [__file__]
    assert tfreg.get_penalties(model)[1].paths == ["d/kernel"]


@pytest.mark.filterwarnings("ignore:The pattern:FutureWarning")
@pytest.mark.parametrize("weights", ["^m/d/ker", ["m/d/kernel"]])
def test_a_selection_that_release_0_5_saved_still_loads(weights):
    model = keras.Sequential([keras.layers.Dense(3, name="d")], name="m")
    tfreg.add_penalty(model, PENALTY)
    config = model.get_config()
    config["tfreg"]["penalties"][0]["weights"] = weights
    again = type(model).from_config(config)
    again(np.ones((1, 2)))
    assert tfreg.get_penalties(again)[0].paths == ["d/kernel"]


def test_a_place_that_release_0_5_saved_as_the_wrappers_still_loads():
    def build():
        inner = keras.layers.Dense(4, name="inner")
        return keras.Sequential([keras.Input((6,)), keras.layers.SpectralNormalization(inner)])

    model = tfreg.add_penalty(build(), PENALTY)
    config = model.get_config()
    [ours] = config["tfreg"]["penalties"][0]["weights"]
    assert ours["weight"] == [0, 0, 0]
    ours["weight"] = [0, 0]  # where the wrapper holds it
    again = type(model).from_config(config)
    assert tfreg.get_penalties(again)[0].paths[0].endswith("inner/kernel")


def test_a_renamed_layer_has_its_new_name(api):
    model, inner, plain = wrapped(api)
    for layer, name in [(plain, "head"), (inner, "body")]:
        setattr(layer, "name" if api is keras else "_name", name)
    owners = makers(model)
    assert owners["wrapper_0/body/kernel"] is inner and owners["head/kernel"] is plain
    tfreg.add_penalty(model, PENALTY, ["body", "head/bias"])
    assert tfreg.get_penalties(model)[0].paths == ["wrapper_0/body/kernel", "head/bias"]
