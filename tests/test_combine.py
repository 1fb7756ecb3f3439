import copy
import json
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from cases import weight

import tfreg

A, B, C = tfreg.GroupLasso(0.1), tfreg.BoxPenalty(0.2), tfreg.TotalVariation(0.3)


def test_plus_makes_a_flat_sum():
    assert isinstance(A + B, tfreg.Sum)
    assert (A + B + C).penalties == [A, B, C]
    assert (A + (B + C)).penalties == [A, B, C]
    assert tfreg.Sum([A, tfreg.Sum([B]), C]).penalties == [A, B, C]


@pytest.mark.parametrize("module", [keras, tf_keras])
def test_a_regularizer_of_either_keras_can_be_a_member(module):
    l2 = module.regularizers.L2(0.25)
    w = weight((4, 3), "float32")
    expected = float(A(w)) + 0.25 * np.square(w).sum()
    for penalty in [A + l2, l2 + A]:
        assert isinstance(penalty, tfreg.Sum)
        np.testing.assert_allclose(penalty(tf.constant(w)), expected, rtol=1e-6)
        np.testing.assert_allclose(penalty(keras.Variable(w)), expected, rtol=1e-6)
        config = json.loads(json.dumps(penalty.get_config()))
        again = tfreg.Sum.from_config(config)
        np.testing.assert_allclose(again(w), expected, rtol=1e-6)
        for copied in [copy.deepcopy(penalty), pickle.loads(pickle.dumps(penalty))]:
            np.testing.assert_allclose(copied(w), expected, rtol=1e-6)


def test_a_half_precision_weight_is_accumulated_in_float32_by_every_member():
    w = tf.constant(np.full((100, 100), 200, "float16"))
    value = (A + keras.regularizers.L2(1.0))(w)
    assert value.dtype == tf.float32
    np.testing.assert_allclose(value, float(A(w)) + 1e4 * 200.0**2, rtol=1e-6)


def test_a_user_regularizer_known_to_tf_keras_alone_is_loaded_again():
    @tf_keras.saving.register_keras_serializable("test_combine")
    class Quartic(tf_keras.regularizers.Regularizer):
        def __call__(self, x):
            return tf.reduce_sum(x**4)

        def get_config(self):
            return {}

    config = json.loads(json.dumps((A + Quartic()).get_config()))
    assert isinstance(tfreg.Sum.from_config(config).penalties[1], Quartic)


@pytest.mark.parametrize("other", [1, None, "l2", [A], lambda w: 0.0])
def test_plus_takes_regularizers_only(other):
    with pytest.raises(TypeError):
        A + other
    with pytest.raises(TypeError):
        other + A


def test_a_config_that_names_a_lambda_is_refused():
    config = {
        "penalties": [
            {
                "class_name": "__lambda__",
                "config": {"value": "4wAAAA=="},
                "module": "builtins",
                "registered_name": None,
            }
        ]
    }
    with pytest.raises((ValueError, TypeError)):
        tfreg.Sum.from_config(config)


def test_the_member_that_lacks_an_axis_names_the_weight():
    variable = keras.Variable(np.ones((2, 2), "float32"), name="projection")
    with pytest.raises(ValueError, match="projection.*rank 2"):
        (A + tfreg.GroupLasso(0.1, axis=3))(variable)
