"""One penalty on several weights together."""

import copy
import json
import pathlib
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from cases import JOINT_CASES, first_of_each_penalty, weight
from oracles import finite_differences

import tfreg

MODES = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": lambda function: tf.function(function, jit_compile=True),
}
HALF_EPSILON = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 1e-5}
FEW = first_of_each_penalty(JOINT_CASES)
TIED = tfreg.Joint(tfreg.GroupLasso(0.5, axis=["output", "input"], size_weighted=False))


def weights_of(case, dtype="float64"):
    return [weight(shape, dtype, seed) for seed, shape in enumerate(case.shapes)]


def value_and_gradients(penalty, tensors):
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = penalty(tensors)
    return value, tape.gradient(value, tensors, unconnected_gradients="zero")


def constants(weights, dtype=None):
    return [tf.constant(w, dtype) for w in weights]


@pytest.mark.parametrize("case", JOINT_CASES, ids=str)
def test_value_is_the_oracles(case):
    weights = weights_of(case)
    value = case.penalty(constants(weights))
    assert value.dtype == tf.float64 and value.shape == []
    np.testing.assert_allclose(value, case.oracle(weights), rtol=1e-12)
    np.testing.assert_allclose(case.penalty(tuple(weights)), case.oracle(weights), rtol=1e-12)


@pytest.mark.parametrize("case", FEW, ids=str)
def test_gradients_are_those_of_finite_differences(case):
    weights = weights_of(case)
    _, gradients = value_and_gradients(case.penalty, constants(weights))
    for i, gradient in enumerate(gradients):

        def value(w, i=i):
            return float(case.penalty(constants([*weights[:i], w, *weights[i + 1 :]])))

        expected = finite_differences(value, weights[i])
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("case", FEW, ids=str)
def test_eager_graph_and_xla_agree_in_every_dtype(case):
    tensors = {dtype: [tf.cast(w, dtype) for w in weights_of(case)] for dtype in HALF_EPSILON}

    def of_every_dtype(tensors):
        return {dtype: value_and_gradients(case.penalty, tensors[dtype]) for dtype in tensors}

    exact = of_every_dtype(
        {dtype: [tf.cast(w, tf.float64) for w in tensors[dtype]] for dtype in tensors}
    )
    for mode in MODES.values():
        for dtype, (value, gradients) in mode(of_every_dtype)(tensors).items():
            assert value.dtype == tf.float32
            np.testing.assert_allclose(value, exact[dtype][0], rtol=1e-5)
            for gradient, expected in zip(gradients, exact[dtype][1], strict=True):
                assert gradient.dtype == dtype
                np.testing.assert_allclose(
                    tf.cast(gradient, tf.float64), expected, rtol=HALF_EPSILON[dtype], atol=1e-6
                )


@pytest.mark.parametrize("case", JOINT_CASES, ids=str)
def test_config_makes_the_same_penalty_again(api, case):
    config = json.loads(json.dumps(case.penalty.get_config()))
    serialized = json.loads(json.dumps(api.saving.serialize_keras_object(case.penalty)))
    weights = weights_of(case)
    for again in [
        tfreg.Joint.from_config(config),
        api.saving.deserialize_keras_object(serialized),
        copy.deepcopy(case.penalty),
        pickle.loads(pickle.dumps(case.penalty)),
    ]:
        assert again.get_config() == case.penalty.get_config()
        assert float(again(weights)) == float(case.penalty(weights))


@pytest.mark.parametrize("case", JOINT_CASES[:-1], ids=str)
def test_at_zero_the_value_and_the_gradients_are_zero(case):
    zeros = [tf.zeros(shape) for shape in case.shapes]
    value, gradients = value_and_gradients(case.penalty, zeros)
    assert float(value) == 0.0
    assert all(np.all(np.asarray(gradient) == 0.0) for gradient in gradients)


def test_a_zero_part_of_a_group_has_no_gradient_and_hides_no_other():
    first, second = np.array([[0.0, 3.0], [0.0, 4.0]]), np.array([[12.0], [0.0]])
    value, gradients = value_and_gradients(TIED, constants([first, second]))
    np.testing.assert_allclose(value, 0.5 * (12 + 5))
    np.testing.assert_allclose(gradients[0], [[0.0, 0.3], [0.0, 0.4]])
    np.testing.assert_allclose(gradients[1], [[0.5], [0.0]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_reaches_the_value_and_its_own_group_alone(bad):
    first, second = np.array([[1.0, 3.0], [2.0, 4.0]]), np.array([[bad], [2.0]])
    value, gradients = value_and_gradients(TIED, constants([first, second]))
    assert not np.isfinite(value)
    assert np.isnan(gradients[0][:, 0]).all() and np.isfinite(gradients[0][:, 1]).all()
    assert np.isnan(gradients[1][0]).all() and np.isfinite(gradients[1][1]).all()


def test_beyond_the_threshold_even_an_infinite_norm_has_the_slope_0():
    penalty = tfreg.Joint(tfreg.GroupMCP(0.5, 2.0, size_weighted=False))
    first, second = np.array([[np.inf, 0.6]]), np.array([[1.0, 0.8]])
    value, gradients = value_and_gradients(penalty, constants([first, second]))
    np.testing.assert_allclose(value, 0.5 * (1.0 + 0.75))
    np.testing.assert_allclose(gradients, [[[0.0, 0.15]], [[0.0, 0.2]]], rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_value_and_gradients_do_not_overflow_or_vanish(scale):
    case = JOINT_CASES[0]
    weights = weights_of(case)
    exact, exact_gradients = value_and_gradients(case.penalty, constants(weights))
    scaled = [tf.constant(w * scale, tf.float32) for w in weights]
    value, gradients = value_and_gradients(case.penalty, scaled)
    np.testing.assert_allclose(float(value) / scale, exact, rtol=1e-5)
    for gradient, expected in zip(gradients, exact_gradients):
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_second_derivatives():
    case = JOINT_CASES[0]
    weights = weights_of(case)
    tensors = constants(weights)
    directions = constants([weight(shape, seed=9) for shape in case.shapes])

    with tf.GradientTape() as outer:
        outer.watch(tensors)
        _, gradients = value_and_gradients(case.penalty, tensors)
        slope = tf.add_n([tf.reduce_sum(g * d) for g, d in zip(gradients, directions)])
    product = outer.gradient(slope, tensors)
    step = 1e-6
    ahead, behind = (
        value_and_gradients(case.penalty, [w + sign * d for w, d in zip(tensors, directions)])[1]
        for sign in (step, -step)
    )
    for actual, a, b in zip(product, ahead, behind):
        np.testing.assert_allclose(actual, (a - b) / (2 * step), rtol=1e-5, atol=1e-7)


def test_weights_of_several_dtypes():
    weights = weights_of(JOINT_CASES[0])
    for dtypes in [("float16", "float32", "bfloat16"), ("float32", "float64", "float16")]:
        tensors = [tf.cast(w, dtype) for w, dtype in zip(weights, dtypes)]
        value, gradients = value_and_gradients(JOINT_CASES[0].penalty, tensors)
        assert value.dtype == ("float64" if "float64" in dtypes else "float32")
        exact = JOINT_CASES[0].oracle([np.asarray(tf.cast(w, tf.float64)) for w in tensors])
        np.testing.assert_allclose(value, exact, rtol=1e-5)
        assert [gradient.dtype for gradient in gradients] == list(dtypes)


def test_variables_of_either_keras():
    weights = weights_of(JOINT_CASES[0], "float32")
    expected = JOINT_CASES[0].oracle(weights)
    for variable in (keras.Variable, tf.Variable):
        value = JOINT_CASES[0].penalty([variable(w) for w in weights])
        np.testing.assert_allclose(value, expected, rtol=1e-5)


def registered_with_tf_keras_alone(weights):
    return tf.add_n([tf.reduce_sum(w**4) for w in weights])


def test_a_function_that_one_keras_knows(api):
    tf_keras.saving.register_keras_serializable("test_joint")(registered_with_tf_keras_alone)
    penalty = tfreg.Joint(registered_with_tf_keras_alone)
    again = tfreg.Joint.from_config(json.loads(json.dumps(penalty.get_config())))
    assert again.penalty is registered_with_tf_keras_alone
    config = {"penalty": {"class_name": "function", "config": "test_joint>never_registered"}}
    with pytest.raises(ValueError, match="never_registered.*registers it"):
        tfreg.Joint.from_config(config)


def unregistered(weights):
    return tf.reduce_sum(weights[0])


@pytest.mark.parametrize(
    "penalty, error, message",
    [
        (tfreg.BoxPenalty(0.1), ValueError, "couples weights.*BoxPenalty.*without Joint"),
        (tfreg.GroupLasso() + tfreg.BoxPenalty(), ValueError, "couples weights.*BoxPenalty"),
        (tfreg.GroupLasso() + keras.regularizers.L2(), ValueError, "no regularizer of Keras"),
        (tfreg.TotalVariation(axis=0), ValueError, "no `axis`.*axis=0"),
        (keras.regularizers.L2(), TypeError, "`penalty`.*L2"),
        (tf_keras.regularizers.L2(), TypeError, "`penalty`.*L2"),
        (TIED, TypeError, "`penalty`.*Joint"),
        (lambda weights: 0.0, ValueError, "`penalty` must be registered.*lambda"),
        (unregistered, ValueError, "`penalty` must be registered.*unregistered"),
        ("group_lasso", TypeError, "`penalty`.*'group_lasso'"),
        (None, TypeError, "`penalty`.*None"),
    ],
)
def test_what_does_not_couple_or_save_is_refused(penalty, error, message):
    with pytest.raises(error, match=message):
        tfreg.Joint(penalty)


def test_weights_that_do_not_go_together_are_named():
    first = keras.Variable(np.ones((3, 4), "float32"), name="first")
    second = keras.Variable(np.ones((3, 5), "float32"), name="second")
    with pytest.raises(ValueError, match="must have as many.*'first'.*4.*'second'.*5"):
        tfreg.Joint(tfreg.GroupLasso())([first, second])
    with pytest.raises(ValueError, match=r"same shape.*first.*\(3, 4\).*second.*\(3, 5\)"):
        tfreg.Joint(tfreg.TotalVariation())([first, second])
    with pytest.raises(ValueError, match="entry for each weight.*first"):
        TIED([first])
    with pytest.raises(ValueError, match=r"\[-2, 2\).*axis=.3,.*second"):
        tfreg.Joint(tfreg.GroupLasso(axis=["output", (3,)]))([first, second])
    with pytest.raises(ValueError, match="EagerTensor at 0.*EagerTensor at 1"):
        tfreg.Joint(tfreg.GroupLasso())([tf.ones([3, 4]), tf.ones([3, 5])])


@pytest.mark.parametrize("weights", [tf.ones([2, 2]), [], None])
def test_weights_must_be_a_list(weights):
    with pytest.raises(TypeError, match="non-empty list.*no layer's regularizer"):
        TIED(weights)


@keras.saving.register_keras_serializable("tests")
def not_a_scalar(weights):
    return weights[0]


def test_a_function_must_return_a_scalar():
    with pytest.raises(ValueError, match=r"scalar.*\(2, 2\).*not_a_scalar"):
        tfreg.Joint(not_a_scalar)([tf.ones([2, 2])])


def test_an_axis_per_weight_is_for_joint():
    penalty = tfreg.GroupLasso(0.1, axis=["output", (0, 1)])
    assert penalty.axis == ["output", (0, 1)]
    assert penalty.get_config()["axis"] == ["output", [0, 1]]
    again = tfreg.GroupLasso.from_config(json.loads(json.dumps(penalty.get_config())))
    assert again.axis == ["output", (0, 1)]
    for use in (penalty, lambda w: penalty.prox(w, 1.0)):
        with pytest.raises(ValueError, match="tfreg.Joint.*axis="):
            use(tf.ones([2, 2]))
    with pytest.raises(ValueError, match="`axis`.*'outputs'"):
        tfreg.GroupLasso(axis=["output", "outputs"])


LOAD = """
import json, pathlib, sys
import tfreg
import KERAS

sys.path.append(sys.argv[1])
import cases  # which registers a function

model = KERAS.models.load_model(sys.argv[2])
print(json.dumps([float(loss) for loss in model.losses]))
"""


@pytest.mark.slow
def test_saved_and_loaded_in_a_fresh_process(api, tmp_path, run_fresh):
    dense = [api.layers.Dense(4), api.layers.Dense(4), api.layers.Dense(4)]
    model = api.Sequential([api.Input((4,)), *dense])
    kernels, biases = [d.kernel for d in dense], [d.bias for d in dense]
    for i, variable in enumerate([*kernels, *biases]):
        variable.assign(weight(variable.shape, "float32", seed=i))
    tied = [kernels[0], biases[0], kernels[1]]
    selections = {(3, 3, 2, 4): tied, (3, 4): kernels, (6,): biases, (5, 4): kernels[:2]}
    for case in JOINT_CASES:
        if str(case.penalty.penalty).count("axis=(") == 0 and case.shapes[0] in selections:
            selected = selections[case.shapes[0]][: len(case.shapes)]
            if "(0, 1, 3)" not in str(case) and len(selected) >= 2:
                tfreg.add_penalty(model, case.penalty, selected)
    losses = [float(loss) for loss in model.losses]
    assert len(losses) >= 10 and all(np.isfinite(losses))
    model.save(tmp_path / "model.keras")
    tests = pathlib.Path(__file__).parent
    assert run_fresh(LOAD.replace("KERAS", api.__name__), tests, tmp_path / "model.keras") == losses
