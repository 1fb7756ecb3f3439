"""TensorFlow 1's graph mode, which holds for a whole process: what works, and what says no."""

import numpy as np
import pytest
import tensorflow as tf

import tfreg
from tfreg import backend

SET_UP = """
import json, sys
import numpy as np
import tensorflow as tf
import tf_keras
import tfreg
getattr(tf.compat.v1, sys.argv[1])()
"""

SWITCHES = ["disable_eager_execution", "disable_v2_behavior"]
PRIOR = 'tfreg.Prior("Normal", 0.1, loc=0.0, scale=1.0)'
PENALTIES = [
    "tfreg.TotalVariation(0.1)",
    "tfreg.BoxPenalty(0.1, -0.05, 0.05)",
    "tfreg.GroupLasso(0.1)",
    "tfreg.SparseGroupLasso(0.1)",
    "tfreg.GroupLasso(0.1) + tfreg.BoxPenalty(0.1)",
    "tfreg.Sum([tf_keras.regularizers.L2(0.1)])",
]

REFUSED = """
messages = {}
for code in [PENALTIES]:
    try:
        eval(code)
    except RuntimeError as error:
        messages[code] = str(error)
print(json.dumps(messages))
"""

TRAINED = """
results = {}
for code in [PENALTIES]:
    layer = tf_keras.layers.Dense(3, kernel_regularizer=eval(code))
    model = tf_keras.Sequential([tf_keras.Input((4,)), layer])
    model.compile(tf_keras.optimizers.legacy.SGD(0.1), "mse")
    kernel = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    layer.set_weights([kernel, np.zeros(3)])
    [loss] = model.fit(np.zeros((4, 4)), np.zeros((4, 3)), verbose=0).history["loss"]
    results[code] = [float(loss), layer.get_weights()[0].tolist()]
print(json.dumps(results))
"""


def of(code, names):
    return SET_UP + code.replace("PENALTIES", ", ".join(map(repr, names)))


@pytest.mark.slow
@pytest.mark.parametrize("switch", SWITCHES)
def test_add_penalty_and_priors_say_that_they_need_eager_mode(switch, run_fresh):
    added = "tfreg.add_penalty(tf_keras.Sequential([tf_keras.layers.Dense(3)]), 'group_lasso')"
    of_a_model, of_a_prior = run_fresh(of(REFUSED, [added, PRIOR]), switch).values()
    assert of_a_model.startswith("tfreg.add_penalty needs TensorFlow 2's eager mode")
    assert of_a_prior.startswith("Prior needs TensorFlow 2's")
    assert "Do not call" in of_a_prior and f"tf.compat.v1.{switch}()" in of_a_prior


@pytest.mark.slow
def test_without_tensorflow_2s_shapes_every_penalty_says_so(run_fresh):
    messages = run_fresh(of(REFUSED, PENALTIES), "disable_v2_behavior")
    assert list(messages) == PENALTIES
    for message in messages.values():
        assert "needs TensorFlow 2's shapes. Do not call tf.compat.v1.disable_v2_behav" in message


@pytest.mark.slow
def test_the_other_penalties_work_as_a_layers_argument(run_fresh):
    results = run_fresh(of(TRAINED, PENALTIES), "disable_eager_execution")
    w = tf.constant(np.random.default_rng(0).normal(size=(4, 3)), tf.float32)
    for code, (loss, trained) in results.items():
        penalty = eval(code, {"tfreg": tfreg, "tf_keras": backend.tf_keras})
        with tf.GradientTape() as tape:
            tape.watch(w)
            value = penalty(w)
        np.testing.assert_allclose(loss, value, rtol=1e-5)
        np.testing.assert_allclose(trained, w - 0.1 * tape.gradient(value, w), rtol=1e-5, atol=1e-7)


def test_neither_a_function_nor_a_graph_is_graph_mode():
    backend.check_not_graph_mode("This")
    tf.function(lambda: backend.check_not_graph_mode("This"))()
    with tf.Graph().as_default():
        backend.check_not_graph_mode("This")
        penalty = tfreg.Prior("Exponential", 0.5, rate=1.0)
    np.testing.assert_allclose(penalty(tf.constant([1.0, 2.0])), 1.5, rtol=1e-6)
