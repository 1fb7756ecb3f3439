"""Penalized models that are saved, copied, and opened again."""

import copy
import json
import pathlib
import pickle
import sys

import keras
import model_cases as cases
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from model_cases import PER_WEIGHT

import tfreg

# Loads every file, and trains each model on for an epoch.
GO_ON = """
import json, sys
import tfreg
import KERAS

results = []
for path in sys.argv[2:]:
    custom = {}
    if "subclassed" in path:
        sys.path.append(sys.argv[1])
        import model_cases
    model = KERAS.models.load_model(path)
    losses = [float(loss) for loss in model.losses]
    import numpy as np
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 6)).astype("float32"), rng.normal(size=(32, 2)).astype("float32")
    penalties = [repr(attached.penalty) for attached in tfreg.get_penalties(model)]
    history = model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0).history["loss"]
    weights = [np.asarray(weight).tolist() for weight in model.trainable_weights]
    results.append([losses, history, weights, penalties])
print(json.dumps(results))
"""


def test_saved_and_trained_on_in_a_fresh_process(api, tmp_path, run_fresh):
    paths, losses, penalties = [], [], []
    for kind in cases.KINDS:
        model = cases.compiled(cases.add_penalties(kind(api)), api)
        cases.set_initial_weights(model)
        cases.fit(model)
        paths.append(tmp_path / f"{kind.__name__}.keras")
        model.save(paths[-1])
        losses.append([float(loss) for loss in model.losses])
        penalties.append([repr(attached.penalty) for attached in tfreg.get_penalties(model)])
    tests = pathlib.Path(__file__).parent
    results = run_fresh(GO_ON.replace("KERAS", api.__name__), tests, *paths)
    expected_history, expected = cases.train(epochs=2)
    for result, saved_losses, saved_penalties in zip(results, losses, penalties, strict=True):
        loaded_losses, history, weights, loaded_penalties = result
        assert loaded_losses == saved_losses
        assert loaded_penalties == saved_penalties
        np.testing.assert_allclose(history, expected_history[1:], rtol=1e-5)
        for actual, weight in zip(cases.ordered(map(np.array, weights)), expected, strict=True):
            np.testing.assert_allclose(actual, weight, rtol=1e-5, atol=1e-6)


def trained(kind, api):
    model = cases.compiled(cases.add_penalties(kind(api)), api)
    cases.set_initial_weights(model)
    cases.fit(model)
    return model


COPIES = {
    "clone_model": lambda api, model: tfreg.clone_model(model),
    "from_config": lambda api, model: type(model).from_config(model.get_config()),
    "model_from_json": lambda api, model: api.models.model_from_json(model.to_json()),
    "deepcopy": lambda api, model: copy.deepcopy(model),
    "pickle": lambda api, model: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("kind", cases.KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("way", COPIES)
def test_copies_have_the_penalties(api, way, kind):
    model = trained(kind, api)
    again = COPIES[way](api, model)
    assert type(again) is type(model) and again is not model
    keeps_the_state = way in ("deepcopy", "pickle")
    cases.set_initial_weights(again) if not again.built else None
    if not keeps_the_state:
        again.set_weights(model.get_weights())
        cases.compiled(again, api)
        again.optimizer.iterations.assign(4)
    assert not any(a is b for a, b in zip(again.weights, model.weights))
    assert len(again.losses) == 4
    np.testing.assert_allclose(
        [float(loss) for loss in again.losses], [float(loss) for loss in model.losses], rtol=1e-6
    )
    cases.fit(again)
    cases.assert_trained(again, cases.train(epochs=2)[1])


@pytest.mark.parametrize("kind", [cases.deferred, cases.subclassed], ids=lambda k: k.__name__)
@pytest.mark.parametrize("way", COPIES)
def test_copies_of_an_unbuilt_model(api, way, kind):
    model = kind(api)
    first, second = (model.layers if kind is cases.deferred else model.blocks)[:2]
    tfreg.add_penalty(model, PER_WEIGHT)
    tfreg.add_penalty(model, PER_WEIGHT, "kernel")
    tfreg.add_penalty(model, cases.JOINT, [first, second])
    again = COPIES[way](api, model)
    assert again.losses == [] and len(tfreg.get_penalties(again)) == 3
    cases.set_initial_weights(again)
    weights = cases.initial_weights()
    alone = cases.penalties(weights, joint=0.0)[0]
    together = cases.penalties(weights, per_weight=0.0)[0]
    losses = [float(loss) for loss in again.losses]
    np.testing.assert_allclose(losses, [alone, alone, together], rtol=1e-5)


def test_a_predicate_is_asked_before_a_model_is_saved(api):
    model = tfreg.add_penalty(cases.deferred(api), PER_WEIGHT, lambda layer, weight: True)
    with pytest.raises(ValueError, match="function.*Build the model"):
        model.get_config()
    cases.set_initial_weights(model)
    places = model.get_config()["tfreg"]["penalties"][0]["weights"]
    shapes = zip(cases.WIDTHS[:-1], cases.WIDTHS[1:])
    assert places == [{"weight": [i, 0], "shape": list(w)} for i, w in enumerate(shapes)]


@pytest.mark.parametrize("kind", cases.BUILT, ids=lambda kind: kind.__name__)
def test_weights_load_both_ways_between_the_plain_and_the_penalized_model(api, kind, tmp_path):
    plain, model = kind(api), cases.add_penalties(kind(api))
    for i, (source, target) in enumerate([(plain, model), (model, plain)]):
        cases.set_initial_weights(source)
        for weight in target.trainable_weights:
            weight.assign(np.zeros(weight.shape))
        source.save_weights(tmp_path / f"{i}.weights.h5")
        target.load_weights(tmp_path / f"{i}.weights.h5")
        for actual, expected in zip(cases.kernels(target), cases.initial_weights()):
            np.testing.assert_array_equal(actual, expected)


def test_checkpoints_hold_as_much_as_without_penalties(api, tmp_path):
    plain, model = cases.functional(api), cases.add_penalties(cases.functional(api))
    names = []
    for name, each in {"plain": plain, "penalized": model}.items():
        path = tf.train.Checkpoint(model=each).write(str(tmp_path / name))
        names.append({key for key, _ in tf.train.list_variables(path)})
    assert names[0] == names[1]


@pytest.mark.parametrize("kind", [cases.sequential, cases.functional, cases.subclassed_built])
def test_what_cannot_hold_the_penalties_says_so(api, kind, tmp_path):
    model = cases.add_penalties(kind(api))
    paths = ["model.h5", "model.hdf5"] + (["model"] if api is not keras else [])
    for path in paths:
        with pytest.raises(ValueError, match=r"Only the \.keras format.*Received: filepath="):
            model.save(tmp_path / path)
        assert not (tmp_path / path).exists()
    if api is not keras:
        for save_format in ("tf", "h5"):
            with pytest.raises(ValueError, match=r"Only the \.keras format"):
                model.save(tmp_path / "model.keras", save_format=save_format)
    plain = tfreg.remove_penalties(model)
    plain.save(tmp_path / "plain.keras")
    assert api.models.load_model(tmp_path / "plain.keras").losses == []


def test_functions_that_save_do_not_drop_the_penalties_either(api, tmp_path):
    inner = tfreg.add_penalty(cases.functional(api), PER_WEIGHT)
    tfreg.add_penalty(inner, cases.JOINT, cases.first_two)
    x = api.Input((6,))
    for model in [inner, api.Model(x, inner(x))]:
        paths = ["model.h5"] + (["saved_model"] if api is not keras else [])
        for path in paths:
            with pytest.raises(ValueError, match=r"Only the \.keras format"):
                api.models.save_model(model, tmp_path / path)
        api.models.save_model(model, tmp_path / "model.keras")
        assert len(tfreg.get_penalties(api.models.load_model(tmp_path / "model.keras"))) == 2
    if api is not keras:  # whose Sequential saves parts in a way that does hold them
        model = api.Sequential([api.Input((6,)), inner])
        model.save(tmp_path / "sequential.h5")
        again = api.models.load_model(tmp_path / "sequential.h5")
        assert [float(loss) for loss in again.losses] == [float(loss) for loss in model.losses]
    tfreg.remove_penalties(inner)
    inner.save(tmp_path / "plain.h5")


def test_a_file_whose_weights_have_other_shapes_is_refused(api):
    model = tfreg.add_penalty(cases.sequential(api), PER_WEIGHT)
    config = model.get_config()
    config["tfreg"]["penalties"][0]["weights"][0]["shape"] = [5, 6]
    with pytest.raises(ValueError, match="not have a trainable weight where one was penalized"):
        type(model).from_config(config).losses


def test_keras_clone_model_of_a_functional_model_says_what_to_use(api):
    model = cases.add_penalties(cases.functional(api))
    if api is keras:
        with pytest.raises(TypeError, match="tfreg.clone_model"):
            api.models.clone_model(model)
    else:
        clone = cases.compiled(api.models.clone_model(model), api)
        assert len(clone.losses) == 4


def test_clone_model_of_a_plain_model(api):
    model = cases.functional(api)
    clone = tfreg.clone_model(model)
    assert type(clone) is type(model) and clone.losses == []
    assert not any(a is b for a, b in zip(clone.weights, model.weights))


def test_clone_model_of_an_unregistered_class_is_not_compiled(api):
    class Unregistered(api.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = api.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

        def get_config(self):
            return {}

    model = cases.compiled(Unregistered(), api)
    model(np.ones((1, 3)))
    tfreg.add_penalty(model, PER_WEIGHT)
    clone = tfreg.clone_model(model)
    assert isinstance(clone, Unregistered) and getattr(clone, "optimizer", None) is None
    clone(np.ones((1, 3)))
    assert len(clone.losses) == 1


def test_a_model_in_a_model_is_saved_with_its_penalties(api, tmp_path):
    inner = cases.sequential(api)
    tfreg.add_penalty(inner, PER_WEIGHT)
    x = api.Input((6,))
    outer = api.Model(x, api.layers.Dense(1)(inner(x)))
    tfreg.add_penalty(outer, tfreg.BoxPenalty(1.0, -0.1, 0.1), "bias|kernel")
    outer.save(tmp_path / "outer.keras")
    again = api.models.load_model(tmp_path / "outer.keras")
    attached = [entry.penalty.get_config() for entry in tfreg.get_penalties(again)]
    assert attached == [entry.penalty.get_config() for entry in tfreg.get_penalties(outer)]
    assert len(attached) == 2
    np.testing.assert_allclose(
        sorted(float(loss) for loss in again.losses), sorted(float(loss) for loss in outer.losses)
    )


def test_a_config_without_our_key_is_the_plain_models(api):
    model = cases.add_penalties(cases.sequential(api))
    config = model.get_config()
    ours = config.pop("tfreg")
    assert json.loads(json.dumps(ours)) == ours
    plain = api.Sequential.from_config(config)
    assert type(plain) is api.Sequential and plain.losses == []


def test_a_place_that_is_gone_is_an_error(api):
    model = api.Sequential([api.Input((6,)), api.layers.Dense(5), api.layers.Dense(4)])
    tfreg.add_penalty(model, PER_WEIGHT)
    assert len(model.losses) == 1
    model.pop()
    for layer in (None, api.layers.Dense(4)):  # of the same shape, in the same place
        if layer is not None:
            model.add(layer)
        with pytest.raises(ValueError, match="not have a trainable weight.*remove_penalties"):
            model.losses
    tfreg.remove_penalties(model)
    assert len(tfreg.add_penalty(model, PER_WEIGHT).losses) == 1


def test_what_a_subclass_adds_to_a_config_is_kept():
    @keras.saving.register_keras_serializable("tests")
    class NotedSum(tfreg.Sum):
        def __init__(self, penalties, note=""):
            super().__init__(penalties)
            self.note = note

        def get_config(self):
            return {**super().get_config(), "note": self.note}

    @keras.saving.register_keras_serializable("tests")
    class NotedRamp(tfreg.schedules.CubicRamp):
        def __init__(self, note="", **kwargs):
            super().__init__(**kwargs)
            self.note = note

        def get_config(self):
            return {**super().get_config(), "note": self.note}

    for noted in [
        NotedSum([tfreg.GroupLasso(0.1)], note="a"),
        NotedRamp(note="b", begin=0, end=3),
    ]:
        config = keras.saving.serialize_keras_object(noted)
        again = keras.saving.deserialize_keras_object(config)
        assert again.get_config() == noted.get_config()


def test_a_schedule_may_be_known_to_the_loader_alone(tmp_path):
    class Halving(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.5 ** tf.cast(step, tf.float32)

        def get_config(self):
            return {}

    registered = keras.saving.register_keras_serializable("tests")(Halving)
    model = tfreg.add_penalty(cases.sequential(keras), PER_WEIGHT, schedule=registered())
    model.save(tmp_path / "model.keras")
    del keras.saving.get_custom_objects()["tests>Halving"]
    registration = sys.modules[keras.saving.get_registered_name.__module__]
    del registration.GLOBAL_CUSTOM_NAMES[Halving]
    again = keras.models.load_model(
        tmp_path / "model.keras", custom_objects={"tests>Halving": Halving}
    )
    assert type(tfreg.get_penalties(again)[0].schedule) is Halving


def test_a_weight_of_unknown_length_is_remembered_by_its_place():
    class Layer(tf_keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.w = tf.Variable(tf.ones([3, 4]), shape=[None, 4])

        def call(self, x):
            return x

    model = tf_keras.Sequential([tf_keras.Input((2,)), Layer()])
    tfreg.add_penalty(model, PER_WEIGHT, [model.layers[0].w])
    config = model.get_config()
    assert config["tfreg"]["penalties"][0]["weights"] == [{"weight": [0, 0], "shape": [None, 4]}]
    with tf_keras.saving.custom_object_scope({"Layer": Layer}):
        again = type(model).from_config(config)
    assert len(again.losses) == 1
