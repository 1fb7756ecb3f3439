"""Penalized models that are saved, copied, and opened again."""

import copy
import functools
import itertools
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
from marks import APIS, KERAS_3_FIRST, in_turn, slow
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
    if KERAS.__name__ == "keras" and path.endswith(".h5"):
        # The optimizer that Keras 3 loads from .h5 knows no variables, without penalties too.
        optimizer = KERAS.optimizers.SGD.from_config(model.optimizer.get_config())
        optimizer.iterations.assign(model.optimizer.iterations)
        model.compile(optimizer, KERAS.losses.MeanSquaredError())
    import numpy as np
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(32, 6)).astype("float32"), rng.normal(size=(32, 2)).astype("float32")
    penalties = [repr(attached.penalty) for attached in tfreg.get_penalties(model)]
    history = model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0).history["loss"]
    weights = [np.asarray(weight).tolist() for weight in model.trainable_weights]
    results.append([losses, history, weights, penalties])
print(json.dumps(results))
"""


def can_be_h5(api, kind):
    """Whether an .h5 file holds such a model at all: tf_keras refuses subclassed ones."""
    return api is keras or kind not in (cases.subclassed, cases.subclassed_built)


# Those that have the most in them, and the others.
TWO_KINDS = [cases.nested, cases.subclassed]
OTHER_KINDS = [kind for kind in cases.KINDS if kind not in TWO_KINDS]


@KERAS_3_FIRST
@pytest.mark.parametrize("ending", ["keras", slow("h5")])
@pytest.mark.parametrize("kinds", [TWO_KINDS, slow(OTHER_KINDS)], ids=["two", "others"])
def test_saved_and_trained_on_in_a_fresh_process(api, ending, kinds, tmp_path, run_fresh):
    paths, losses, penalties = [], [], []
    for kind in kinds:
        if ending == "h5" and not can_be_h5(api, kind):
            continue
        model = cases.compiled(cases.add_penalties(kind(api)), api)
        cases.set_initial_weights(model)
        cases.fit(model)
        paths.append(tmp_path / f"{kind.__name__}.{ending}")
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


@functools.cache
def trained(kind, api):
    """A trained model, the same one each time."""
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


# Every kind in one way, and in every way the kinds that have the most in them.
@in_turn(
    kind_and_way=[(cases.nested, way) for way in ("clone_model", "from_config", "pickle")]
    + [slow(cases.nested, way) for way in ("model_from_json", "deepcopy")]
    + [slow(cases.subclassed, way) for way in COPIES]
    + [slow(kind, "clone_model") for kind in (cases.sequential, cases.functional)]
    + [slow(kind, "deepcopy") for kind in (cases.deferred, cases.subclassed_built)],
    api=APIS,
)
def test_copies_have_the_penalties(api, kind_and_way):
    kind, way = kind_and_way
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


@in_turn(
    way_and_kind=[(way, kind) for kind in (cases.deferred, cases.subclassed) for way in COPIES],
    api=APIS,
)
def test_copies_of_an_unbuilt_model(api, way_and_kind):
    way, kind = way_and_kind
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


@in_turn(kind=cases.BUILT, api=APIS)
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


# Loads every file and tells what it holds.
SUMMARIES = """
import json, sys
import numpy as np
import tfreg
import KERAS

sys.path.append(sys.argv[1])
import test_model_saving

results = [
    test_model_saving.summary(KERAS.models.load_model(path, custom_objects))
    for path in sys.argv[2:]
    for custom_objects in [test_model_saving.custom_objects(KERAS, path)]
]
print(json.dumps(results))
"""


def summary(model):
    return {
        "outputs": np.asarray(model(np.ones((1, cases.WIDTHS[0]), "float32"))).tolist(),
        "losses": [float(loss) for loss in model.losses],
        "penalties": [
            [repr(attached.penalty), [list(weight.shape) for weight in attached.weights]]
            for attached in tfreg.get_penalties(model)
        ],
    }


@functools.cache
def around_class(api):
    """A registered, subclassed model around another, which is built once it is made."""

    class Around(api.Model):
        def __init__(self, inner, **kwargs):
            super().__init__(**kwargs)
            self.inner = inner
            self(np.zeros((1, cases.WIDTHS[0]), "float32"))

        def call(self, x):
            return self.inner(x)

        def get_config(self):
            inner = api.saving.serialize_keras_object(self.inner)
            return {**super().get_config(), "inner": inner}

        @classmethod
        def from_config(cls, config):
            inner = api.saving.deserialize_keras_object(config.pop("inner"))
            return cls(inner, **config)

    return api.saving.register_keras_serializable("tests")(Around)


def custom_objects(api, path):
    # An .h5 file names the class of the outermost model by what Python calls it.
    return {"Around": around_class(api)} if "subclassed" in str(path) else None


def in_functional(api, inner):
    x = api.Input((cases.WIDTHS[0],))
    return api.Model(x, api.layers.Dense(3)(inner(x)))


def in_sequential(api, inner):
    return api.Sequential([api.Input((cases.WIDTHS[0],)), inner, api.layers.Dense(3)])


def in_subclassed(api, inner):
    return around_class(api)(inner)


def in_several(api, inner):
    tfreg.add_penalty(inner, tfreg.BoxPenalty(1.0, -0.1, 0.1), "kernel")
    middle = tfreg.add_penalty(in_sequential(api, inner), PER_WEIGHT)
    return in_functional(api, in_functional(api, middle))


AROUND = [in_functional, in_sequential, in_subclassed, in_several]


def by_callback(api, model, path):
    x = np.ones((2, cases.WIDTHS[0]), "float32")
    saver = api.callbacks.ModelCheckpoint(str(path))
    cases.compiled(model, api).fit(x, np.zeros(model(x).shape), verbose=0, callbacks=[saver])


SAVE = {
    "method": lambda api, model, path: model.save(path),
    "saving": lambda api, model, path: api.saving.save_model(model, path),
    "models": lambda api, model, path: api.models.save_model(model, path),
    "callback": by_callback,
}


@pytest.mark.slow
def test_h5_files_hold_the_penalties_of_nested_models(api, tmp_path, run_fresh):
    paths, expected = [], []
    arounds = [around for around in AROUND if api is keras or around is not in_subclassed]
    kinds = itertools.cycle([cases.sequential, cases.functional, cases.subclassed_built])
    for kind, (around, way) in zip(kinds, itertools.product(arounds, SAVE)):
        inner = tfreg.add_penalty(kind(api), PER_WEIGHT)
        tfreg.add_penalty(inner, cases.JOINT, cases.first_two)
        model = around(api, inner)
        paths.append(tmp_path / f"{around.__name__}_{way}.h5")
        SAVE[way](api, model, paths[-1])
        expected.append(summary(model))
    tests = pathlib.Path(__file__).parent
    results = run_fresh(SUMMARIES.replace("KERAS", api.__name__), tests, *paths)
    assert len(results) == len(expected) > 0
    for result, wanted in zip(results, expected):
        assert len(wanted["losses"]) == len(wanted["penalties"]) >= 2
        assert result["penalties"] == wanted["penalties"]
        np.testing.assert_allclose(result["losses"], wanted["losses"], rtol=1e-6)
        np.testing.assert_allclose(result["outputs"], wanted["outputs"], rtol=1e-5, atol=1e-6)


def files_of(path):
    """The bytes of a file, or of each file in a folder."""
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    return {str(each): each.read_bytes() for each in files}


@pytest.fixture
def leaves_alone(tmp_path):
    """Checks that saving raises, and leaves what was there byte for byte."""

    def check(save, model, older, path, match):
        path = tmp_path / path
        older.save(path)
        before = files_of(path)
        assert before
        with pytest.raises(ValueError, match=match):
            save(model, path)
        assert files_of(path) == before
        new = path.with_name("new_" + path.name)
        with pytest.raises(ValueError, match=match):
            save(model, new)
        assert not new.exists()

    return check


@pytest.mark.parametrize("kind", [cases.sequential, cases.functional, cases.subclassed_built])
def test_what_cannot_hold_the_penalties_says_so(kind, leaves_alone, tmp_path):
    model, older = cases.add_penalties(kind(tf_keras)), cases.sequential(tf_keras)

    def save(model, path):
        model.save(path)

    def save_as_tf(model, path):
        model.save(path, save_format="tf")

    match = r"Only the \.keras format.*Received: filepath="
    leaves_alone(save, model, older, "model", match)
    leaves_alone(save_as_tf, model, older, "model.keras", match)
    plain = tfreg.remove_penalties(model)
    plain.save(tmp_path / "plain.keras")
    assert tf_keras.models.load_model(tmp_path / "plain.keras").losses == []


@pytest.mark.parametrize("name", ["model.h5", "model.hdf5"])
@pytest.mark.parametrize("kind", [cases.sequential, cases.functional, cases.subclassed_built])
@KERAS_3_FIRST
def test_h5_files_hold_the_penalties_of_the_model_itself(api, kind, name, tmp_path):
    model = cases.compiled(cases.add_penalties(kind(api)), api)
    if not can_be_h5(api, kind):
        with pytest.raises(NotImplementedError, match="Functional model or a Sequential model"):
            model.save(tmp_path / name)
        assert not (tmp_path / name).exists()
        return
    saves = [lambda path: model.save(path), lambda path: api.models.save_model(model, path)]
    if api is tf_keras:
        saves.append(lambda path: model.save(path.with_suffix(".keras"), save_format="h5"))
    for i, save in enumerate(saves):
        path = tmp_path / f"{i}_{name}"
        save(path)
        [path] = tmp_path.glob(f"{i}_*")
        again = api.models.load_model(path)
        assert type(again) is type(model)
        assert len(tfreg.get_penalties(again)) == 4
        for actual, expected in zip(cases.kernels(again), cases.kernels(model)):
            np.testing.assert_array_equal(actual, expected)
        # The class has the name of the model's own one, but while an .h5 file is written.
        own_name = type(tfreg.remove_penalties(again)).__name__
        assert type(model).__name__ == own_name


@KERAS_3_FIRST
def test_functions_that_save_do_not_drop_the_penalties_either(api, tmp_path, leaves_alone):
    inner = tfreg.add_penalty(cases.functional(api), PER_WEIGHT)
    tfreg.add_penalty(inner, cases.JOINT, cases.first_two)
    x = api.Input((6,))
    for model in [inner, api.Model(x, inner(x)), api.Sequential([api.Input((6,)), inner])]:
        for ending in ["keras", "h5"]:
            path = tmp_path / f"model.{ending}"
            api.models.save_model(model, path)
            again = api.models.load_model(path)
            assert len(tfreg.get_penalties(again)) == 2
            losses = [float(loss) for loss in model.losses]
            np.testing.assert_allclose([float(loss) for loss in again.losses], losses, rtol=1e-6)
        if api is not keras:
            leaves_alone(
                api.models.save_model,
                model,
                cases.sequential(api),
                "saved_model",
                r"Only the \.keras format",
            )
    tfreg.remove_penalties(inner)
    inner.save(tmp_path / "plain.h5")
    assert api.models.load_model(tmp_path / "plain.h5").losses == []


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_model_without_a_config_leaves_the_file_alone(api, name, leaves_alone):
    def save(model, path):
        model.save(path)

    older = cases.sequential(api)
    unbuilt = tfreg.add_penalty(cases.deferred(api), PER_WEIGHT, lambda layer, weight: True)
    leaves_alone(save, unbuilt, older, name, "function.*Build the model")
    gone = tfreg.add_penalty(cases.sequential(api), PER_WEIGHT)
    gone.losses
    gone.pop()
    leaves_alone(save, gone, older, name, "not have a trainable weight where one was penalized")
    inner = tfreg.add_penalty(cases.deferred(api), PER_WEIGHT, lambda layer, weight: True)
    outer = tfreg.add_penalty(api.Sequential([inner]), PER_WEIGHT)
    leaves_alone(save, outer, older, name, "function.*Build the model")


def test_a_model_of_a_class_with_a_metaclass(api, tmp_path):
    class Meta(type(api.Model)):
        def __call__(cls, *args, **kwargs):
            model = super().__call__(*args, **kwargs)
            model.made_by = cls.__name__
            return model

    @api.saving.register_keras_serializable("tests")
    class Stack(api.Sequential, metaclass=Meta):
        pass

    model = Stack([api.Input((6,)), api.layers.Dense(3)])
    tfreg.add_penalty(model, PER_WEIGHT)
    for name in ["model.keras", "model.h5"]:
        model.save(tmp_path / name)
        again = api.models.load_model(tmp_path / name)
        assert type(again) is type(model) and isinstance(type(again), Meta)
        assert again.made_by == "Stack" == type(again).__name__
        assert len(again.losses) == 1


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
