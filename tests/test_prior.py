"""Prior: any distribution of TensorFlow Probability, and what MAP training comes to."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import value_and_gradient, values_and_gradients
from marks import KERAS_3_FIRST, in_turn, slow
from model_cases import mirrored
from sklearn.linear_model import Lasso
from tensorflow_probability import distributions as tfd

import tfreg
from tfreg.penalties.prior import negative_log_density

MODES = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": lambda function: tf.function(function, jit_compile=True),
}
MIXED = {"distribution": "Categorical", "probs": [0.75, 0.25]}
SPIKE_AND_SLAB = {
    "mixture_distribution": MIXED,
    "components_distribution": {"distribution": "Normal", "loc": 0.0, "scale": [0.01, 1.0]},
}
REAL_LINE = [
    ("Normal", {"loc": 0.2, "scale": 0.7}),
    ("Laplace", {"loc": 0.2, "scale": 0.7}),
    ("Cauchy", {"loc": 0.2, "scale": 0.7}),
    ("StudentT", {"df": 3.0, "loc": 0.2, "scale": 0.7}),
    ("Logistic", {"loc": 0.2, "scale": 0.7}),
    ("Gumbel", {"loc": 0.2, "scale": 0.7}),
    ("Moyal", {"loc": 0.2, "scale": 0.7}),
    ("GeneralizedNormal", {"loc": 0.2, "scale": 0.7, "power": 0.5}),
    ("JohnsonSU", {"skewness": 0.3, "tailweight": 1.2, "loc": 0.2, "scale": 0.7}),
    ("SinhArcsinh", {"skewness": 0.3, "tailweight": 1.2, "loc": 0.2, "scale": 0.7}),
    ("TwoPieceNormal", {"skewness": 0.3, "loc": 0.2, "scale": 0.7}),
    ("ExponentiallyModifiedGaussian", {"rate": 2.0, "loc": 0.2, "scale": 0.7}),
    ("DoublesidedMaxwell", {"loc": 0.2, "scale": 0.7}),
    ("ExpGamma", {"concentration": 1.5, "rate": 2.0}),
    ("MixtureSameFamily", SPIKE_AND_SLAB),
    (
        "Mixture",
        {
            "cat": MIXED,
            "components": [
                {"distribution": "Normal", "loc": 0.2, "scale": 0.7},
                {"distribution": "MixtureSameFamily", **SPIKE_AND_SLAB},
            ],
        },
    ),
]
HALF_LINE = [
    ("Exponential", {"rate": 2.0}),
    ("HalfNormal", {"scale": 0.7}),
    ("HalfCauchy", {"loc": 0.0, "scale": 0.7}),
    ("Gamma", {"concentration": 1.5, "rate": 2.0}),
    ("InverseGamma", {"concentration": 1.5, "scale": 0.7}),
    ("LogNormal", {"loc": 0.2, "scale": 0.7}),
    ("InverseGaussian", {"loc": 0.7, "concentration": 1.5}),
    ("Weibull", {"concentration": 1.5, "scale": 0.7}),
    (
        "MixtureSameFamily",
        {
            "mixture_distribution": MIXED,
            "components_distribution": {
                "distribution": "Gamma",
                "concentration": [1.0, 2.0],
                "rate": [2.0, 1.0],
            },
        },
    ),
]


IN_EVERY_RUN = ["GeneralizedNormal", "MixtureSameFamily", "Gamma"]


def others_slow(priors):
    return [prior if prior[0] in IN_EVERY_RUN else slow(*prior) for prior in priors]


def made(name, parameters, dtype="float64"):
    """The distribution itself, and none of tfreg's code."""

    def argument(value):
        if isinstance(value, dict):
            value = dict(value)
            return made(value.pop("distribution"), value, dtype)
        if isinstance(value, list) and isinstance(value[0], dict):
            return [argument(entry) for entry in value]
        return tf.constant(value, dtype)

    return getattr(tfd, name)(**{key: argument(value) for key, value in parameters.items()})


def of_probability(distribution, factor, w):
    with tf.GradientTape() as tape:
        tape.watch(w)
        value = -factor * tf.reduce_sum(distribution.log_prob(w))
    return value, tape.gradient(value, w)


def weight(shape, sign=None):
    w = np.random.default_rng(len(shape)).normal(size=shape)
    return np.abs(w) if sign == "positive" else w


@pytest.mark.parametrize(
    "name, parameters, sign",
    others_slow([(*prior, None) for prior in REAL_LINE])
    + others_slow([(*prior, "positive") for prior in HALF_LINE]),
)
def test_value_and_gradient_are_tensorflow_probabilitys(name, parameters, sign):
    shapes = [(7,), (2, 3, 2, 3)]
    weights = [tf.constant(weight(shape, sign)) for shape in shapes]
    # Once for each: TFP keeps what a bijector made of a tensor, without its gradient.
    exact = [of_probability(made(name, parameters), 0.3, w) for w in weights]
    penalty = tfreg.Prior(name, 0.3, **parameters)
    for mode in MODES.values():
        results = mode(lambda *weights: values_and_gradients(penalty, weights))(*weights)
        for (value, gradient), (expected, expected_gradient) in zip(results, exact, strict=True):
            np.testing.assert_allclose(value, expected, rtol=1e-6)
            np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-6, atol=1e-12)


@in_turn(prior=others_slow(REAL_LINE), dtype=["float16", "bfloat16"])
def test_half_types_are_accumulated_in_float32(prior, dtype):
    name, parameters = prior
    w = tf.cast(weight((40, 50)), dtype)
    value, gradient = value_and_gradient(tfreg.Prior(name, 0.3, **parameters), w)
    assert value.dtype == tf.float32 and gradient.dtype == dtype
    expected, expected_gradient = of_probability(
        made(name, parameters), 0.3, tf.cast(w, tf.float64)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    tolerance = {"float16": 2e-3, "bfloat16": 1.6e-2}[dtype]
    np.testing.assert_allclose(
        tf.cast(gradient, tf.float64), expected_gradient, rtol=tolerance, atol=1e-4
    )


@pytest.mark.parametrize(
    "penalty, of_keras",
    [
        (tfreg.Prior("Normal", 1.0, loc=0.0, scale=0.3), keras.regularizers.L2(1 / (2 * 0.3**2))),
        (tfreg.Prior("Laplace", 1.0, loc=0.0, scale=0.3), keras.regularizers.L1(1 / 0.3)),
    ],
    ids=["L2", "L1"],
)
def test_normal_and_laplace_are_l2_and_l1(penalty, of_keras):
    w = tf.constant(weight((5, 4)), tf.float32)
    value, gradient = value_and_gradient(penalty, w)
    other, expected = value_and_gradient(of_keras, w)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    constant = float(penalty(tf.zeros([5, 4])))
    np.testing.assert_allclose(value - constant, other, rtol=1e-5)
    assert not np.any(value_and_gradient(penalty, tf.zeros([3]))[1])


GAMMAS = {"distribution": "Gamma", "concentration": [1.0, 3.0], "rate": [2.0, 0.5]}
CUSPS = [
    ("Laplace", {"loc": 0.0, "scale": 0.7}, 0.0),
    slow("Laplace", {"loc": 1.0, "scale": 0.7}, 1.0),
    slow("GeneralizedNormal", {"loc": 0.0, "scale": 0.7, "power": 0.5}, 0.0),
    ("GeneralizedNormal", {"loc": 0.0, "scale": 0.7, "power": [0.5, 1.5, 3.0]}, 0.0),
    slow("GeneralizedNormal", {"loc": 0.0, "scale": 0.7, "power": 1.0}, 0.0),
    slow("GeneralizedNormal", {"loc": 1.0, "scale": 0.7, "power": 1.5}, 1.0),
    ("GeneralizedNormal", {"loc": [0.0, 1.0, -1.0], "scale": 0.7, "power": 0.5}, [0.0, 1.0, -1.0]),
    slow(
        "MixtureSameFamily", {"mixture_distribution": MIXED, "components_distribution": GAMMAS}, 0.0
    ),
    (
        "MixtureSameFamily",
        {
            "mixture_distribution": MIXED,
            "components_distribution": {
                "distribution": "GeneralizedNormal",
                "loc": 0.0,
                "scale": [0.1, 1.0],
                "power": 0.5,
            },
        },
        0.0,
    ),
]


@in_turn(prior=CUSPS, mode=MODES)
def test_derivatives_are_finite_at_a_cusp(prior, mode):
    name, parameters, cusp = prior
    penalty = tfreg.Prior(name, 1.0, **parameters)
    cusp = tf.constant(np.broadcast_to(cusp, [2, 3]).astype("float32"))

    def derivatives(w):
        with tf.GradientTape() as outer:
            outer.watch(w)
            value, gradient = value_and_gradient(penalty, w)
        return value, gradient, outer.gradient(gradient, w, unconnected_gradients="zero")

    value, gradient, second = MODES[mode](derivatives)(cusp)
    assert np.isfinite(value) and np.isfinite(gradient).all() and np.isfinite(second).all()
    if "Gamma" not in str(parameters):
        np.testing.assert_array_equal(gradient, np.zeros([2, 3]))


@pytest.mark.parametrize("name, parameters", others_slow(HALF_LINE), ids=str)
def test_at_the_end_of_the_support_the_gradient_is_finite_and_the_value_not_nan(name, parameters):
    value, gradient = value_and_gradient(tfreg.Prior(name, 1.0, **parameters), tf.zeros([3]))
    assert np.isfinite(gradient).all() and not np.isnan(value)


@pytest.mark.parametrize(
    "name, parameters, least, most",
    [
        ("LogLogistic", {"loc": 0.0, "scale": 1.0}, -1e-6, 1e-6),
        ("InverseGaussian", {"loc": 1.0, "concentration": 1.0}, 1e29, np.inf),
        ("InverseGamma", {"concentration": 2.0, "scale": 1.0}, 1e29, np.inf),
    ],
)
def test_where_probability_has_no_value_at_0_it_is_that_beside_it(name, parameters, least, most):
    value, gradient = value_and_gradient(tfreg.Prior(name, 1.0, **parameters), tf.zeros([1]))
    assert least <= float(value) <= most and not np.any(gradient)


def test_a_floor_makes_a_density_of_0_at_0_finite():
    parameters = {"concentration": 2.0, "rate": 1.0}
    assert tfreg.Prior("Gamma", 1.0, **parameters)(tf.zeros([1])) == np.inf
    value = tfreg.Prior("Gamma", 1.0, 1e-3, **parameters)(tf.zeros([1]))
    np.testing.assert_allclose(value, -made("Gamma", parameters).log_prob(1e-3), rtol=1e-6)


@in_turn(prior=others_slow(HALF_LINE), mode=MODES)
def test_a_weight_off_the_support_has_an_infinite_penalty_and_no_gradient(prior, mode):
    name, parameters = prior
    penalty = tfreg.Prior(name, 1.0, **parameters)
    w = tf.constant([0.5, -0.5, -1e-3, 2.0], tf.float64)
    value, gradient = MODES[mode](lambda x: value_and_gradient(penalty, x))(w)
    assert value == np.inf
    inside = tf.constant([0.5, 2.0], tf.float64)
    _, expected = of_probability(made(name, parameters), 1.0, inside)
    np.testing.assert_allclose(gradient, [expected[0], 0.0, 0.0, expected[1]], rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "name, parameters",
    [("Horseshoe", {"scale": 0.5}), ("Gamma", {"concentration": 0.5, "rate": 2.0})],
)
def test_below_the_floor_the_density_is_held_constant(name, parameters, mode):
    floor = 1e-3
    penalty = tfreg.Prior(name, 0.3, floor, **parameters)
    assert penalty.get_config()["floor"] == floor
    w = np.array([0.0, 1e-30, 9e-4, 1e-3, 1.1e-3, 0.2, 3.0])
    if name == "Horseshoe":
        w = np.concatenate([w, -w])
    held = np.sign(w + 1e-300) * np.maximum(np.abs(w), floor)
    expected, expected_gradient = of_probability(made(name, parameters), 0.3, tf.constant(held))
    value, gradient = MODES[mode](lambda x: value_and_gradient(penalty, x))(tf.constant(w))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(
        gradient, np.where(np.abs(w) < floor, 0.0, expected_gradient), rtol=1e-6
    )
    assert np.isfinite(value_and_gradient(penalty, tf.zeros([3]))[1]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_spike_and_slab_where_both_densities_underflow(dtype):
    penalty = tfreg.Prior("MixtureSameFamily", 1.0, **SPIKE_AND_SLAB)
    for w in [1e2, -1e4, 1e8]:
        assert tfd.Normal(0.0, 1.0).prob(w) == 0.0
        value, gradient = value_and_gradient(penalty, tf.constant([w], dtype))
        slab = -np.log(0.25) + 0.5 * np.log(2 * np.pi) + 0.5 * w**2
        np.testing.assert_allclose(value, slab, rtol=1e-6)
        np.testing.assert_allclose(gradient, [w], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_value_of_many_weights_is_summed_without_loss(scale):
    w = tf.random.stateless_normal([2048, 2048], [1, 2])
    distribution = made("Normal", {"loc": 0.0, "scale": scale})
    exact = -np.sum(distribution.log_prob(tf.cast(w, tf.float64)))
    penalty = tfreg.Prior("Normal", 1.0, loc=0.0, scale=scale)
    for mode in MODES.values():
        np.testing.assert_allclose(mode(penalty)(w), exact, rtol=2e-6)


@pytest.mark.parametrize("shape", [(4,), (1, 4), (3, 1), (3, 4), ()])
def test_a_batch_of_distributions_goes_with_the_weight(shape):
    rng = np.random.default_rng(0)
    parameters = {"loc": rng.normal(size=shape), "scale": rng.uniform(0.5, 2.0, shape)}
    w = tf.constant(weight((2, 3, 4)))
    expected, expected_gradient = of_probability(made("Laplace", parameters), 0.3, w)
    penalty = tfreg.Prior("Laplace", 0.3, **parameters)
    for mode in MODES.values():
        value, gradient = mode(lambda x: value_and_gradient(penalty, x))(w)
        np.testing.assert_allclose(value, expected, rtol=1e-9)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-9)
    thresholds = 0.5 * 0.3 / np.broadcast_to(parameters["scale"], w.shape)
    loc = np.broadcast_to(parameters["loc"], w.shape)
    shrunk = loc + np.sign(w - loc) * np.maximum(np.abs(w - loc) - thresholds, 0.0)
    prox = penalty.prox(w, 0.5)
    np.testing.assert_allclose(prox, shrunk, rtol=1e-9)
    within = np.abs(w - loc) <= thresholds
    np.testing.assert_array_equal(prox[within], loc[within])


@pytest.mark.parametrize("shape", [(5,), (2, 4), (3, 2, 4)])
def test_a_batch_that_does_not_go_with_the_weight_is_an_error_that_names_it(api, shape):
    penalty = tfreg.Prior("Normal", 0.1, loc=np.zeros(shape), scale=1.0)
    with pytest.raises(ValueError, match=r"batch shape of \(.*for weight .*readout/kernel"):
        layer = api.layers.Dense(4, kernel_regularizer=penalty, name="readout")
        layer(tf.ones([1, 3]))
        layer.losses


def test_a_batch_does_not_repeat_a_weight_of_unknown_shape():
    penalty = tfreg.Prior("Normal", 1.0, loc=[0.0, 1.0, 2.0], scale=1.0)
    dynamic = tf.function(penalty, input_signature=[tf.TensorSpec([None, None], tf.float64)])
    w = tf.constant(weight((2, 3)))
    np.testing.assert_allclose(dynamic(w), penalty(w))
    prox = tf.function(
        lambda w: penalty.prox(w, 0.5), input_signature=[tf.TensorSpec([None, None], tf.float64)]
    )
    np.testing.assert_allclose(prox(w), penalty.prox(w, 0.5))
    for function in (dynamic, prox):
        with pytest.raises(tf.errors.InvalidArgumentError, match="must broadcast to the weight"):
            function(tf.ones([2, 1], tf.float64))


def test_priors_of_a_kind_share_their_traces():
    w = tf.constant(weight((3, 5)))
    value_and_gradient(tfreg.Prior("Gumbel", 0.1, loc=0.0, scale=1.0), w)
    traces = len(negative_log_density._value._traces), len(negative_log_density._gradient._traces)
    for i in range(3):
        value_and_gradient(tfreg.Prior("Gumbel", 0.1 + i, loc=0.5 * i, scale=1.0 + i), w)
    assert traces == (
        len(negative_log_density._value._traces),
        len(negative_log_density._gradient._traces),
    )


def test_a_graph_holds_no_copy_of_an_array():
    penalty = tfreg.Prior("Normal", 0.1, loc=np.zeros([300, 400]), scale=1.0)
    traced = tf.function(lambda w: value_and_gradient(penalty, w))
    graph = traced.get_concrete_function(tf.TensorSpec([300, 400])).graph
    assert graph.as_graph_def().ByteSize() < 4 * 300 * 400 / 4


def regression(noise=0.5):
    """64 examples of 6 features and 2 targets, with 3 informative coefficients each."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6))
    coefficients = np.array([[2.0, -1.5, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 1.5, -2.0]])
    return x, x @ coefficients.T + noise * rng.normal(size=(64, 2))


def trained_coefficients(api, x, y, penalty, steps, rate):
    layer = api.layers.Dense(2, use_bias=False, kernel_regularizer=penalty, dtype="float64")
    model = api.Sequential([api.Input((6,), dtype="float64"), layer])
    model.compile(api.optimizers.SGD(rate), api.losses.MeanSquaredError())
    x, y = np.tile(x, [steps, 1]), np.tile(y, [steps, 1])
    model.fit(x, y, batch_size=len(x) // steps, shuffle=False, verbose=0)
    return layer.kernel.numpy()


def test_bayesian_linear_regression_reaches_its_map_estimate(api):
    noise, scale = 0.5, 0.3
    x, y = regression(noise)
    penalty = tfreg.Prior("Normal", factor=2 * noise**2 / y.size, loc=0.1, scale=scale)
    trained = trained_coefficients(api, x, y, penalty, steps=300, rate=0.2)
    precision = x.T @ x / noise**2 + np.eye(6) / scale**2
    expected = np.linalg.solve(precision, x.T @ y / noise**2 + 0.1 / scale**2)
    np.testing.assert_allclose(trained, expected, atol=1e-4)


@KERAS_3_FIRST
def test_a_laplace_prior_is_the_lasso(api):
    noise, scale = 0.5, 0.05
    x, y = regression(noise)
    factor = 2 * noise**2 / y.size
    penalty = tfreg.Prior("Laplace", factor, loc=0.0, scale=scale)
    trained = trained_coefficients(api, x, y, penalty, steps=600, rate=0.03)
    # Its loss is half of the mean over the examples alone.
    lasso = Lasso(alpha=factor / scale, fit_intercept=False).fit(x, y).coef_.T
    informative = np.abs(lasso) > 0.5
    assert informative.sum() == 6
    np.testing.assert_allclose(trained[informative], lasso[informative], atol=1e-2)


@pytest.mark.slow
def test_over_a_model_it_is_saved_and_trained_on(api, tmp_path, run_fresh):
    model = api.Sequential(
        [api.Input((5, 4)), api.layers.LSTM(3), api.layers.Dense(2, name="readout")]
    )
    penalty = tfreg.Prior("MixtureSameFamily", 1 / 3, **SPIKE_AND_SLAB)
    tfreg.add_penalty(model, penalty)
    tfreg.add_penalty(model, tfreg.Prior("Horseshoe", 0.1, 1e-6, scale=0.1), weights="readout")
    model.compile(api.optimizers.SGD(0.01), api.losses.MeanSquaredError(), jit_compile=False)
    model.fit(np.ones((4, 5, 4)), np.ones((4, 2)), verbose=0)
    model.save(tmp_path / "model.keras")
    code = f"""
import json, sys
import tfreg
import {api.__name__} as api
model = api.models.load_model(sys.argv[1])
attached = [entry.penalty.get_config() for entry in tfreg.get_penalties(model)]
print(json.dumps([attached, [float(loss) for loss in model.losses]]))
"""
    configs, losses = run_fresh(code, tmp_path / "model.keras")
    assert configs[0] == json.loads(json.dumps(penalty.get_config()))
    np.testing.assert_allclose(losses, [float(loss) for loss in model.losses], rtol=1e-6)


@KERAS_3_FIRST
def test_a_prior_of_an_array_each_weight_in_training_and_files(api, tmp_path):
    kernel = np.random.default_rng(0).normal(size=(12, 20)).astype("float32")
    penalty = tfreg.Prior("Normal", 0.5, loc=kernel, scale=0.1)
    for scope, options in [
        (tf.distribute.get_strategy().scope(), {}),
        (tf.distribute.get_strategy().scope(), {"jit_compile": True}),
        (mirrored(2).scope(), {}),
    ]:
        with scope:
            layer = api.layers.Dense(20, kernel_regularizer=penalty)
            model = api.Sequential([api.Input((12,)), layer])
            model.compile(api.optimizers.SGD(0.01), api.losses.MeanSquaredError(), **options)
            before = layer.kernel.numpy()
            model.fit(np.zeros((4, 12)), np.zeros((4, 20)), batch_size=4, verbose=0)
        step = 0.01 * 0.5 * (before - kernel) / 0.1**2
        np.testing.assert_allclose(layer.kernel.numpy(), before - step, rtol=1e-4, atol=1e-6)
    formats = {"model.keras": {}}
    if api is not keras:
        formats["model"] = {"save_format": "tf"}
    for name, options in formats.items():
        model.save(tmp_path / name, **options)
        again = api.models.load_model(tmp_path / name)
        assert again.layers[-1].kernel_regularizer.get_config() == penalty.get_config()
        np.testing.assert_allclose(again.losses, model.losses, rtol=1e-6)


@pytest.mark.parametrize(
    "penalty",
    [
        tfreg.Prior("Cauchy", 0.1, loc=0.0, scale=1.0),
        tfreg.Prior("Normal", 0.1, floor=1e-3, loc=0.0, scale=1.0),
    ],
    ids=repr,
)
def test_prox_is_there_only_where_it_has_a_closed_form(penalty):
    with pytest.raises(NotImplementedError, match="closed form.*Normal and Laplace"):
        penalty.prox(tf.ones([3]), 0.1)


def test_joint_refuses_it():
    with pytest.raises(ValueError, match="couples weights.*Prior"):
        tfreg.Joint(tfreg.Prior("Normal", 0.1, loc=0.0, scale=1.0))
