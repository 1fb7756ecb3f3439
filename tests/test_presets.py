"""Presets: `from_preset` wants the class that a config names to be a subclass of its own."""

import functools
import json
import pathlib
import types

import keras
import model_cases as cases
import numpy as np
import pytest

import tfreg

TELLS = r"remove_penalties\(model\).*add_penalty again after from_preset"


@functools.cache
def preset_classes(api):
    """A backbone and a task that save and load as those of keras_hub do."""

    def write(model, preset_dir, name):
        config = api.saving.serialize_keras_object(model)
        for key in ("build_config", "compile_config"):
            config.pop(key, None)
        (pathlib.Path(preset_dir) / name).write_text(json.dumps(config))

    def read(cls, preset_dir, name):
        config = json.loads((pathlib.Path(preset_dir) / name).read_text())
        named = api.saving.get_registered_object(config["registered_name"])
        if not issubclass(named, cls):
            raise ValueError(f"{named.__name__} is not a subclass of {cls.__name__}")
        return api.saving.deserialize_keras_object(config)

    @api.saving.register_keras_serializable("tests")
    class Backbone(api.Model):
        def __init__(self, units=3, inner=None, **kwargs):
            x = api.Input((cases.WIDTHS[0],))
            y = x if inner is None else inner(x)
            super().__init__(x, api.layers.Dense(units)(y), **kwargs)
            self.units = units
            self.inner = inner

        def get_config(self):
            inner = None if self.inner is None else api.saving.serialize_keras_object(self.inner)
            return {"units": self.units, "inner": inner, "name": self.name}

        @classmethod
        def from_config(cls, config):
            inner = config.pop("inner")
            return cls(inner=inner and api.saving.deserialize_keras_object(inner), **config)

        def save_to_preset(self, preset_dir):
            pathlib.Path(preset_dir).mkdir(exist_ok=True)
            write(self, preset_dir, "config.json")
            self.save_weights(f"{preset_dir}/model.weights.h5")

        @classmethod
        def from_preset(cls, preset_dir):
            model = read(cls, preset_dir, "config.json")
            model.load_weights(f"{preset_dir}/model.weights.h5")
            return model

    @api.saving.register_keras_serializable("tests")
    class Task(api.Model):
        def __init__(self, backbone, **kwargs):
            x = api.Input((cases.WIDTHS[0],))
            super().__init__(x, api.layers.Dense(2)(backbone(x)), **kwargs)
            self.backbone = backbone

        def get_config(self):
            backbone = api.saving.serialize_keras_object(self.backbone)
            return {"backbone": backbone, "name": self.name}

        @classmethod
        def from_config(cls, config):
            return cls(api.saving.deserialize_keras_object(config.pop("backbone")), **config)

        def save_to_preset(self, preset_dir):
            pathlib.Path(preset_dir).mkdir(exist_ok=True)
            write(self, preset_dir, "task.json")
            self.save_weights(f"{preset_dir}/task.weights.h5")
            if hasattr(self.backbone, "save_to_preset"):
                self.backbone.save_to_preset(preset_dir)
            else:
                write(self.backbone, preset_dir, "config.json")

        @classmethod
        def from_preset(cls, preset_dir):
            model = read(cls, preset_dir, "task.json")
            model.load_weights(f"{preset_dir}/task.weights.h5")
            return model

    return types.SimpleNamespace(Backbone=Backbone, Task=Task)


def penalized(model):
    return tfreg.add_penalty(model, cases.PER_WEIGHT)


@pytest.fixture
def says_what_to_do(tmp_path):
    """Checks that a preset is refused before anything is written, and is saved as a .keras file."""

    def check(api, model, older):
        older.save_to_preset(str(tmp_path / "preset"))
        before = {path: path.read_bytes() for path in (tmp_path / "preset").rglob("*.*")}
        assert len(before) >= 2
        for name in ["preset", "new"]:
            with pytest.raises(ValueError, match=TELLS):
                model.save_to_preset(str(tmp_path / name))
        assert {path: path.read_bytes() for path in (tmp_path / "preset").rglob("*.*")} == before
        assert not list((tmp_path / "new").rglob("*.*"))
        model.save(tmp_path / "model.keras")
        again = api.models.load_model(tmp_path / "model.keras")
        assert len(tfreg.get_penalties(again)) == len(tfreg.get_penalties(model)) > 0
        again.set_weights(model.get_weights())
        losses = [float(loss) for loss in model.losses]
        np.testing.assert_allclose([float(loss) for loss in again.losses], losses, rtol=1e-6)

    return check


def test_a_backbone_says_what_to_do(api, says_what_to_do, tmp_path):
    classes = preset_classes(api)
    model = penalized(classes.Backbone())
    says_what_to_do(api, model, classes.Backbone())
    assert not (tmp_path / "new").exists()
    tfreg.remove_penalties(model).save_to_preset(str(tmp_path / "plain"))
    again = penalized(classes.Backbone.from_preset(str(tmp_path / "plain")))
    np.testing.assert_allclose(again.losses, penalized(model).losses, rtol=1e-6)


def test_a_task_says_what_to_do(api, says_what_to_do):
    classes = preset_classes(api)
    says_what_to_do(
        api, penalized(classes.Task(classes.Backbone())), classes.Task(classes.Backbone())
    )


def test_a_task_around_a_penalized_backbone_says_what_to_do(api, says_what_to_do):
    classes = preset_classes(api)
    says_what_to_do(
        api, classes.Task(penalized(classes.Backbone())), classes.Task(classes.Backbone())
    )


def test_a_function_that_saves_a_preset_says_what_to_do(api, tmp_path):
    def save_to_preset(layer, preset):
        config = api.saving.serialize_keras_object(layer)
        pathlib.Path(preset).write_text(json.dumps(config))

    backbone = penalized(preset_classes(api).Backbone())
    for model in [backbone, preset_classes(api).Task(backbone)]:
        with pytest.raises(ValueError, match=TELLS):
            save_to_preset(model, tmp_path / "preset.json")
        assert not (tmp_path / "preset.json").exists()


def test_models_whose_class_no_loader_checks_keep_their_penalties(api, tmp_path):
    classes = preset_classes(api)
    inside = classes.Backbone(inner=penalized(cases.sequential(api)))
    in_backbone = classes.Backbone(inner=penalized(classes.Backbone()))
    of_no_preset = classes.Task(penalized(cases.functional(api)))
    for i, model in enumerate([inside, classes.Task(inside), in_backbone, of_no_preset]):
        model.save_to_preset(str(tmp_path / f"{i}"))
        again = type(model).from_preset(str(tmp_path / f"{i}"))
        assert len(tfreg.get_penalties(again)) == 1
        np.testing.assert_allclose(again.losses, model.losses, rtol=1e-6)


def keras_hub():
    return pytest.importorskip("keras_hub", exc_type=ImportError)


def gpt2():
    return keras_hub().models.GPT2Backbone(
        vocabulary_size=11,
        num_layers=1,
        num_heads=2,
        hidden_dim=4,
        intermediate_dim=8,
        max_sequence_length=6,
    )


def causal_lm(backbone):
    vocabulary = {"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}
    tokenizer = keras_hub().models.GPT2Tokenizer(vocabulary, ["a b"])
    preprocessor = keras_hub().models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=6)
    return keras_hub().models.GPT2CausalLM(backbone, preprocessor)


MODELS = {
    "backbone": gpt2,
    "task": lambda: causal_lm(gpt2()),
    "task around": lambda: causal_lm(gpt2()),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_presets_of_keras_hub_say_what_to_do(kind, says_what_to_do, tmp_path):
    model, older = MODELS[kind](), MODELS[kind]()
    penalized(model.backbone if kind == "task around" else model)
    says_what_to_do(keras, model, older)
    tfreg.remove_penalties(model.backbone if kind == "task around" else model)
    model.save_to_preset(str(tmp_path / "plain"))
    again = type(model).from_preset(str(tmp_path / "plain"))
    assert len(penalized(again).losses) == 1


@pytest.mark.slow
def test_models_of_keras_hub_in_h5_files(tmp_path):
    model = penalized(gpt2())
    model.save(tmp_path / "model.h5")
    again = keras.models.load_model(tmp_path / "model.h5")
    assert type(again) is type(model)
    np.testing.assert_allclose(again.losses, model.losses, rtol=1e-6)
