"""Models that are saved and opened again by a process that only imports tfreg."""

import json

import keras
import numpy as np
import pytest
import tf_keras
from cases import CASES

import tfreg

pytestmark = pytest.mark.usefixtures("a_trace_for_every_shape")

CONV2D = [case for case in CASES if case.min_rank <= 4]
FIRST = [case.penalty for case in CONV2D if case.is_first]
FIRST.append(tfreg.GroupLasso(1 / 3) + keras.regularizers.L2(0.25))
OTHERS = [case.penalty for case in CONV2D if not case.is_first]

LOAD = """
import json, sys
import numpy as np
import tfreg
import KERAS

results = []
for path in sys.argv[1:]:
    model = KERAS.models.load_model(path)
    layers = [layer for layer in model.layers if layer.name.startswith("penalized")]
    configs = [layer.kernel_regularizer.get_config() for layer in layers]
    losses = [float(loss) for loss in model.losses]
    inputs, targets = np.ones((4, 6, 6, 3)), np.ones((4, 2))
    results.append([configs, losses, model.evaluate(inputs, targets, verbose=0)])
    # Keras 3 does not train on from a whole-model .h5 file, with or without a penalty.
    if path.endswith(".keras"):
        model.fit(inputs, targets, verbose=0)
print(json.dumps(results))
"""


def trained(api, penalties):
    x = api.Input((6, 6, 3))
    branches = [
        api.layers.Conv2D(4, 3, kernel_regularizer=penalty, name=f"penalized_{i}")(x)
        for i, penalty in enumerate(penalties)
    ]
    y = api.layers.Flatten()(api.layers.Concatenate()(branches))
    model = api.Model(x, api.layers.Dense(2)(y))
    # Keras 3 cannot load its own string "mse" from .h5.
    model.compile(api.optimizers.SGD(0.01), api.losses.MeanSquaredError())
    model.train_on_batch(np.ones((4, 6, 6, 3)), np.ones((4, 2)))
    return model


def plain(config):
    return json.loads(json.dumps(config))


@pytest.mark.slow
@pytest.mark.parametrize("penalties", [FIRST, OTHERS], ids=["first", "others"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_saved_and_loaded_in_a_fresh_process(api, penalties, tmp_path, run_fresh):
    model = trained(api, penalties)
    paths = [tmp_path / "model.keras", tmp_path / "model.h5"]
    for path in paths:
        model.save(path)
    losses = [float(loss) for loss in model.losses]
    loss = model.evaluate(np.ones((4, 6, 6, 3)), np.ones((4, 2)), verbose=0)
    loaded = run_fresh(LOAD.replace("KERAS", api.__name__), *paths)
    for configs, loaded_losses, loaded_loss in loaded:
        for actual, penalty in zip(configs, penalties, strict=True):
            assert actual == plain(penalty.get_config())
        assert loaded_losses == losses
        np.testing.assert_allclose(loaded_loss, loss, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_h5_with_a_named_loss_loads_without_compiling(api, tmp_path):
    model = api.Sequential([api.Input((4,)), api.layers.Dense(3, kernel_regularizer=FIRST[0])])
    model.compile("sgd", "mse")
    model.save(tmp_path / "model.h5")
    again = api.models.load_model(tmp_path / "model.h5", compile=False)
    assert again.layers[-1].kernel_regularizer.get_config() == FIRST[0].get_config()
    assert [float(loss) for loss in again.losses] == [float(loss) for loss in model.losses]


def test_tf_keras_saves_without_a_warning(tmp_path, recwarn, caplog):
    model = tf_keras.Sequential([tf_keras.layers.Dense(3, kernel_regularizer=tfreg.GroupLasso())])
    model(np.ones((2, 4)))
    model.save(tmp_path / "model.keras")
    assert not [w for w in recwarn if "GroupLasso" in str(w.message)]
    assert "GroupLasso" not in caplog.text


def test_tf_keras_saved_model_loads(tmp_path):
    penalty = tfreg.GroupLasso(0.3, axis=0, group_size=3)
    model = tf_keras.Sequential([tf_keras.layers.Dense(3, kernel_regularizer=penalty)])
    model(np.ones((2, 4)))
    model.save(tmp_path / "model", save_format="tf")
    again = tf_keras.models.load_model(tmp_path / "model")
    assert again.layers[0].kernel_regularizer.get_config() == penalty.get_config()
    np.testing.assert_allclose(again.losses, model.losses)


def test_an_unknown_key_in_a_saved_file_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_regularizer="l2")])
    config = model.get_config()
    config["layers"][-1]["config"]["kernel_regularizer"] = {
        "class_name": "tfreg>GroupLasso",
        "config": {"factor": 0.1, "from_a_later_release": True},
    }
    with pytest.raises((TypeError, ValueError), match="from_a_later_release"):
        keras.Sequential.from_config(config)
