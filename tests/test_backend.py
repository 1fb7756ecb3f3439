"""The seam to Keras 3 and tf_keras."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from marks import slow

import tfreg
from tfreg import backend


def test_one_object_serves_both_kerases_in_one_process():
    penalty = tfreg.GroupLasso(0.3)
    values = []
    for module in [keras, tf_keras]:
        layer = module.layers.Dense(3, kernel_initializer="ones", kernel_regularizer=penalty)
        layer.build((None, 4))
        values.append(float(layer.losses[0]))
    np.testing.assert_allclose(values, [0.3 * 3 * 4] * 2, rtol=1e-6)


@pytest.mark.parametrize("floatx", ["float32", "float64"])
def test_value_has_floatx_where_keras_3_adds_it(floatx):
    before = keras.config.floatx()
    try:
        keras.config.set_floatx(floatx)
        for dtype in ["float16", "bfloat16", "float32", "float64"]:
            variable = keras.Variable(np.ones((2, 2)), dtype=dtype)
            assert tfreg.TotalVariation()(variable).dtype == floatx
            assert tfreg.GroupLasso()(variable).dtype == floatx
    finally:
        keras.config.set_floatx(before)


def test_tf_keras_names_stay_its_own_and_its_users():
    assert type(tf_keras.metrics.get("Sum")) is tf_keras.metrics.Sum
    assert not set(tf_keras.saving.get_custom_objects()) & set(tfreg.__all__)

    class GroupLasso(tf_keras.regularizers.Regularizer):
        pass

    config = {"class_name": "GroupLasso", "config": {}}
    with tf_keras.saving.custom_object_scope({"GroupLasso": GroupLasso}):
        assert type(tf_keras.regularizers.get(config)) is GroupLasso
    layer = {"class_name": "Dense", "config": {"units": 2, "kernel_regularizer": config}}
    again = tf_keras.layers.deserialize(layer, custom_objects={"GroupLasso": GroupLasso})
    assert type(again.kernel_regularizer) is GroupLasso


@pytest.mark.parametrize(
    "build",
    [
        lambda api: api.optimizers.schedules.CosineDecay(0.3, 10),
        lambda api: api.optimizers.schedules.PolynomialDecay(0.0, 4, 1.0),
        lambda api: api.optimizers.schedules.ExponentialDecay(0.3, 4, 0.5),
        lambda api: api.optimizers.schedules.PiecewiseConstantDecay([2, 4], [0.0, 0.5, 1.0]),
        lambda api: api.regularizers.L1L2(0.25, 0.5),
    ],
)
def test_a_kerases_own_object_stays_of_that_keras(api, build):
    value = build(api)
    again = tfreg.backend.deserialize(json.loads(json.dumps(tfreg.backend.serialize(value))))
    assert type(again) is type(value) and again.get_config() == value.get_config()


def test_weight_names():
    assert backend.weight_name(keras.Variable(1.0, name="gate")) == "'gate'"
    assert backend.weight_name(tf.Variable(1.0, name="gate")) == "'gate:0'"
    assert "Tensor" in backend.weight_name(tf.ones([2]))


@pytest.mark.parametrize("name", [slow("jax"), slow("torch"), slow("numpy")])
def test_another_backend_is_told_what_to_set(name):
    done = subprocess.run(
        [sys.executable, "-c", "import tfreg"],
        env={**os.environ, "KERAS_BACKEND": name},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: tfreg") and "KERAS_BACKEND" in last, done.stderr


@pytest.mark.slow
def test_tf_keras_under_its_old_name(run_fresh):
    code = """
import json
import tensorflow as tf
import tf_keras, tfreg
model = tf.keras.Sequential([tf.keras.layers.Dense(2, kernel_regularizer=tfreg.GroupLasso(1.0))])
assert isinstance(model, tf_keras.Model)
model.compile("sgd", "mse")
history = model.fit(tf.ones([4, 3]), tf.ones([4, 2]), verbose=0)
again = tf.keras.regularizers.get({"class_name": "tfreg>GroupLasso", "config": {"factor": 0.5}})
print(json.dumps([history.history["loss"], again.get_config()["factor"]]))
"""
    loss, factor = run_fresh(code, env={"TF_USE_LEGACY_KERAS": "1"})
    assert np.isfinite(loss).all() and factor == 0.5
