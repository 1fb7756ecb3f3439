"""Models that users write in ways of their own."""

import keras
import model_cases as cases
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from marks import KERAS_3_FIRST
from model_cases import PER_WEIGHT

import tfreg


def paths(model):
    return ["/".join(path.split("/")[-2:]) for path in tfreg.get_penalties(model)[0].paths]


def late_class(api):
    """A model that is built before its layers are."""

    class Late(api.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.first = api.layers.Dense(3, name="first")
            self.in_training = api.layers.Dense(3, name="in_training")

        def build(self, shape):
            self.own = self.add_weight(shape=(shape[-1], 4), name="own", initializer="ones")
            self.built = True

        def call(self, x, training=False):
            y = self.first(x @ self.own)
            return self.in_training(y) if training else y

    return Late


def test_what_is_built_later_is_selected_too(api):
    model = late_class(api)()
    model.build((None, 4))
    tfreg.add_penalty(model, PER_WEIGHT)
    assert [path.split("/")[-1] for path in paths(model)] == ["own"]
    model(np.ones((2, 4), "float32"))
    assert paths(model)[1:] == ["first/kernel"]
    model(np.ones((2, 4), "float32"), training=True)
    assert paths(model)[1:] == ["first/kernel", "in_training/kernel"]
    with pytest.raises(ValueError, match="none matches"):
        tfreg.add_penalty(model, PER_WEIGHT, "nothing")


def test_a_layer_that_is_replaced_is_not_mistaken_for_the_new_one():
    class Model(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.body = tf_keras.layers.Dense(4, name="body")
            self.head = tf_keras.layers.Dense(4, name="head")

        def call(self, x):
            return self.head(self.body(x))

    model = Model()
    model(np.ones((1, 4)))
    tfreg.add_penalty(model, PER_WEIGHT, ["body"])
    model.body = tf_keras.layers.Dense(4, name="body_2")
    model(np.ones((1, 4)))
    with pytest.raises(ValueError, match="layers are not what they were"):
        model.losses


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Layer .* does not have any trainable")
def test_a_kernel_that_is_quantized_away_is_not_mistaken_for_the_bias():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    tfreg.add_penalty(model, tfreg.BoxPenalty(1.0, 0.0, 0.5))
    model.quantize("int8")
    with pytest.raises(ValueError, match="layers are not what they were"):
        model.losses
    assert tfreg.remove_penalties(model).losses == []


def test_a_class_that_keeps_count_of_its_subclasses(api):
    class Counting(api.Model):
        seen: list = []

        def __init_subclass__(cls, tag, **kwargs):
            super().__init_subclass__(**kwargs)
            cls.seen.append(tag)

        def __init__(self):
            super().__init__()
            self.dense = api.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Counting()
    model(np.ones((1, 3)))
    tfreg.add_penalty(model, PER_WEIGHT)
    assert len(model.losses) == 1 and Counting.seen == []


@KERAS_3_FIRST
def test_methods_of_the_users_own(api, tmp_path):
    class Own(cases.chain_class(api)):
        def make_train_function(self):
            self.made = getattr(self, "made", 0) + 1
            return super().make_train_function()

        def save(self, path, note=None):
            self.note = note
            return super().save(path)

        def train_step(self, data):
            self.traced = True
            return super().train_step(data)

    model = cases.compiled(Own(), api)
    cases.set_initial_weights(model)
    cases.fit(model)
    cases.add_penalties(model)
    history = cases.fit(model)
    assert model.made > 2 and model.traced
    plain = cases.compiled(cases.sequential(api), api)
    cases.set_initial_weights(plain)
    cases.fit(plain)
    expected, _ = cases.train(1, first_step=4, weights=cases.kernels(plain))
    np.testing.assert_allclose(history, expected, rtol=1e-5)
    model.save(path=tmp_path / "model.keras", note="kept")
    assert model.note == "kept" and (tmp_path / "model.keras").exists()
    if api is not keras:
        with pytest.raises(ValueError, match=r"Only the \.keras format"):
            model.save(path=tmp_path / "saved_model")


def config_keys(model):
    """The keys of a model's config; None where Keras refuses to make one."""
    try:
        return set(model.get_config())
    except NotImplementedError:
        return None


def test_a_class_whose_config_keras_makes_or_refuses(api, tmp_path):
    class NoConfig(api.Model):
        def __init__(self, make, **kwargs):
            super().__init__(**kwargs)
            self.dense = make()

        def call(self, x):
            return self.dense(x)

    @api.saving.register_keras_serializable("test_model_unusual")
    class Automatic(NoConfig):
        def __init__(self, units=3, **kwargs):
            super().__init__(lambda: api.layers.Dense(units), **kwargs)

    for model in [NoConfig(lambda: api.layers.Dense(2)), Automatic()]:
        model(np.ones((1, 3)))
        keys = config_keys(model)
        tfreg.add_penalty(model, PER_WEIGHT)
        assert config_keys(model) == (None if keys is None else {*keys, "tfreg"})
    model.save(tmp_path / "model.keras")
    again = api.models.load_model(tmp_path / "model.keras")
    assert [float(loss) for loss in again.losses] == [float(loss) for loss in model.losses]


def test_a_weight_that_is_not_trained_with_a_penalty_of_its_own(api):
    class Layer(api.layers.Layer):
        def build(self, shape):
            own = {"shape": (3, 3), "initializer": "ones", "regularizer": tfreg.BoxPenalty(0.1)}
            self.fixed = self.add_weight(name="fixed", trainable=False, **own)
            self.free = self.add_weight(name="free", **own)

        def call(self, x):
            return x @ self.fixed @ self.free

    model = api.Sequential([api.Input((3,)), Layer()])
    names = [attached.paths[0].split("/")[-1] for attached in tfreg.get_penalties(model)]
    assert "free" in names and len(model.losses) == len(names)


def test_the_class_of_a_penalized_model_makes_none(api):
    model = cases.add_penalties(cases.sequential(api))
    with pytest.raises(TypeError, match="makes no models.*tfreg.clone_model"):
        type(model)()


@KERAS_3_FIRST
def test_an_own_add_loss_and_compute_loss_stay(api):
    @api.saving.register_keras_serializable("test_model_unusual")
    class Lossy(api.layers.Layer):
        def call(self, x):
            self.add_loss(0.0 * tf.reduce_sum(x) + 0.25)
            return x

    def build():
        layers = [cases.dense(api, units) for units in cases.WIDTHS[1:]]
        return api.Sequential([api.Input((cases.WIDTHS[0],)), *layers, Lossy()])

    model = cases.compiled(cases.add_penalties(build()), api)
    cases.set_initial_weights(model)
    history = cases.fit(model)
    expected, weights = cases.train(epochs=1)
    np.testing.assert_allclose(history, np.add(expected, 0.25), rtol=1e-5)
    cases.assert_trained(model, weights)


def test_the_layers_of_a_model_as_a_list(api):
    x = api.Input((4,))
    y = api.layers.ReLU()(api.layers.Dense(3, name="d")(x))
    model = api.Model(x, api.layers.Dense(2, name="e")(api.layers.Dropout(0.5)(y)))
    tfreg.add_penalty(model, PER_WEIGHT, model.layers)
    assert paths(model) == ["d/kernel", "e/kernel"]
    with pytest.raises(ValueError, match="none matches"):
        tfreg.add_penalty(model, PER_WEIGHT, [model.layers[2]])


def test_a_graph_that_is_the_default_for_a_while_is_none_of_that_mode():
    with tf.Graph().as_default():
        model = tf_keras.Sequential([tf_keras.layers.Dense(3)])
        tfreg.add_penalty(model, PER_WEIGHT)
    assert len(tfreg.get_penalties(model)) == 1
