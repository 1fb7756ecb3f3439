"""Distributions as arguments: what is read, kept, made again and refused."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from marks import KERAS_3_FIRST
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfreg

NESTED = {
    "mixture_distribution": {"distribution": "Categorical", "probs": [0.9, 0.1]},
    "components_distribution": {"distribution": "Normal", "loc": 0.0, "scale": [1 / 3, 1.0]},
}


@pytest.mark.parametrize(
    "given, name, parameters",
    [
        (tfd.Laplace(0.0, 0.1), "Laplace", {"loc": 0.0, "scale": 0.1}),
        (tfd.StudentT(3, 0, scale=1 / 3), "StudentT", {"df": 3.0, "loc": 0.0, "scale": 1 / 3}),
        (tfd.Exponential(2.0, validate_args=True, name="rates"), "Exponential", {"rate": 2.0}),
        (
            tfd.MixtureSameFamily(tfd.Categorical(probs=[0.9, 0.1]), tfd.Normal(0.0, [1 / 3, 1.0])),
            "MixtureSameFamily",
            NESTED,
        ),
        (
            tfd.Mixture(
                tfd.Categorical(logits=tf.constant([0.0, 1.0])),
                [tfd.Normal(0.0, 1.0), tfd.Laplace(0.1, tf.constant(0.25))],
            ),
            "Mixture",
            {
                "cat": {"distribution": "Categorical", "logits": [0.0, 1.0]},
                "components": [
                    {"distribution": "Normal", "loc": 0.0, "scale": 1.0},
                    {"distribution": "Laplace", "loc": 0.1, "scale": 0.25},
                ],
            },
        ),
    ],
    ids=lambda given: getattr(given, "name", None),
)
def test_an_object_is_the_same_as_its_name_and_parameters(given, name, parameters):
    penalty, named = tfreg.Prior(given, 0.3), tfreg.Prior(name, 0.3, **parameters)
    expected = {"distribution": name, "factor": 0.3, "floor": None, **parameters}
    assert penalty.get_config() == named.get_config() == expected
    assert penalty.distribution == name and set(penalty.parameters) == set(parameters)
    w = tf.constant([0.1, 1.0, 3.0], tf.float64)
    assert float(penalty(w)) == float(named(w))


@KERAS_3_FIRST
@pytest.mark.parametrize(
    "number, kept",
    [
        (1, 1.0),
        (0.1 + 1e-17, 0.1 + 1e-17),
        (np.float32(0.1), 0.10000000149011612),
        (np.float64(1 / 3), 1 / 3),
        (np.array(0.25), 0.25),
        (np.int64(2), 2.0),
        (tf.constant(0.1), 0.10000000149011612),
        (tf.constant(1 / 3, tf.float64), 1 / 3),
        (tf.constant(0.1, tf.bfloat16), 0.10009765625),
        ([1, 1 / 3], [1.0, 1 / 3]),
        (np.array([[1, 2]]), [[1.0, 2.0]]),
        (tf.constant([0.5, 0.25]), [0.5, 0.25]),
    ],
    ids=repr,
)
def test_numbers_are_kept_to_the_last_digit(api, number, kept):
    penalty = tfreg.Prior("Normal", 0.1, loc=0.0, scale=number)
    again = api.regularizers.get(json.loads(json.dumps(api.regularizers.serialize(penalty))))
    for config in [penalty.get_config(), again.get_config()]:
        assert config["scale"] == kept and json.loads(json.dumps(config)) == config


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_probabilities_need_add_up_only_in_their_own_precision(dtype):
    probs = tf.nn.softmax(tf.constant([0.1, 0.2, 0.7], dtype))
    mixed = tfd.Categorical(probs=probs, dtype=tf.int64)
    scales = tf.constant([0.1, 0.2, 0.3], dtype)
    mixture = tfd.MixtureSameFamily(mixed, tfd.Normal(tf.constant(0.0, dtype), scales))
    w = tf.constant([0.1, -0.3], dtype)
    expected = -0.5 * tf.reduce_sum(mixture.log_prob(w))
    np.testing.assert_allclose(tfreg.Prior(mixture, 0.5)(w), expected, rtol=1e-6)


def test_a_changed_array_of_the_callers_changes_nothing():
    loc = np.zeros(3)
    penalty = tfreg.Prior("Normal", 0.1, loc=loc, scale=1.0)
    loc[:] = 5.0
    assert penalty.get_config()["loc"] == [0.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="read-only"):
        penalty.parameters["loc"][0] = 5.0


def test_the_same_distribution_made_in_a_graph():
    @tf.function
    def value(w):
        return tfreg.Prior("GeneralizedNormal", 0.1, loc=tf.constant(0.0), scale=1.0, power=0.5)(w)

    w = tf.constant([0.0, 1.0])
    penalty = tfreg.Prior("GeneralizedNormal", 0.1, loc=0.0, scale=1.0, power=0.5)
    np.testing.assert_allclose(value(w), penalty(w))


class Normal(tfd.Normal):
    """Of a user's own, which no file can name."""


def prior(distribution, /, **parameters):
    return lambda: tfreg.Prior(distribution, 0.1, **parameters)


def prior_of(distribution):
    return lambda: tfreg.Prior(distribution(), 0.1)


# What is built, what its error says and what it received.
BAD = [
    (prior("Poisson", rate=2.0), "support", "Poisson.*a discrete set"),
    (prior("Bernoulli", logits=0.0), "support", "Bernoulli.*a discrete set"),
    (prior("Deterministic", loc=0.0), "support", "Deterministic.*a discrete set"),
    (prior_of(lambda: tfd.Poisson(2.0)), "support", "Poisson.*a discrete set"),
    (
        prior(
            "MixtureSameFamily",
            **{**NESTED, "components_distribution": {"distribution": "Poisson", "rate": [1, 2]}},
        ),
        "support",
        "MixtureSameFamily.*a discrete set",
    ),
    (
        prior(
            "Mixture",
            cat=NESTED["mixture_distribution"],
            components=[
                {"distribution": "Normal", "loc": 0, "scale": 1},
                {"distribution": "Exponential", "rate": 1},
            ],
        ),
        "support",
        "Mixture.*the real numbers and the real numbers >= 0",
    ),
    (prior("Beta", concentration1=2.0, concentration0=2.0), "support", "Beta.*0.0 to 1.0"),
    (prior("Uniform", low=-1.0, high=1.0), "support", "Uniform.*-1.0 to 1.0"),
    (prior("Pareto", concentration=1.0, scale=0.5), "support", "Pareto.*0.5 to"),
    (prior("HalfCauchy", loc=-0.5, scale=0.5), "support", "HalfCauchy.*-0.5 to"),
    (prior("Dirichlet", concentration=[1.0, 2.0]), "one of scalars", "Dirichlet"),
    (prior_of(lambda: tfd.MultivariateNormalDiag([0.0, 1.0])), "one of scalars", "Multivariate"),
    (
        prior_of(lambda: tfd.JointDistributionSequential([tfd.Normal(0.0, 1.0)])),
        "one of scalars",
        "JointDistribution",
    ),
    (prior_of(lambda: tfd.Normal(tf.Variable(0.0), 1.0)), "must be constants", "loc=<tf.Variable"),
    (prior_of(lambda: tfd.Normal(keras.Variable(0.0), 1.0)), "must be constants", "loc=<Variable"),
    (prior("Normal", loc=0.0, scale=tf.Variable(1.0)), "must be constants", "scale=<tf.Variable"),
    (prior("Normal", loc=keras.Variable(0.0), scale=1.0), "must be constants", "loc=<Variable"),
    (prior("Horseshoe", scale=1.0), "`floor` must be", "floor=None.*Horseshoe.*infinite at 0"),
    (prior("Chi", df=1.0), "`floor` must be", "floor=None.*Chi.*infinite at 0"),
    (prior("Gamma", concentration=0.5, rate=1.0), "`floor` must be", "=None.*Gamma.*infinite at 0"),
    (prior("Horseshoe", floor=1e-40, scale=1.0), "`floor` must be", "=1e-40.*infinite there"),
    (prior("Horseshoe", floor=0.0, scale=1.0), "`floor` must be a finite number > 0", "=0.0"),
    (prior("Horseshoe", floor=-1.0, scale=1.0), "`floor` must be a finite number > 0", "=-1.0"),
    (prior("Horseshoe", floor="1", scale=1.0), "`floor` must be a finite number > 0", "='1'"),
    (prior("laplace", loc=0.0, scale=1.0), "must name a distribution", "'laplace'.*'Laplace'"),
    (prior("Horshoe", scale=1.0), "must name a distribution", "'Horshoe'.*'Horseshoe'"),
    (prior("os.system"), "must name a distribution", "'os.system'"),
    (prior("softplus"), "must name a distribution", "'softplus'"),
    (prior("Normal", loc=0.0, sigma=1.0), r"among \['loc', 'scale'\]", "sigma"),
    (prior("Normal", loc=0.0, scale=1.0, name="x"), r"among \['loc', 'scale'\]", "name"),
    (prior("Normal", loc=0.0), "scale", "'loc': 0.0"),
    (prior("Normal", loc=0.0, scale=-1.0), "`scale` must be positive", "'scale': -1.0"),
    (prior("Normal", loc=[0.0, 1.0], scale=[1.0] * 3), "compatible shapes", "'Normal'"),
    (prior("Normal", loc="0", scale=1.0), "must be a number", "loc='0'"),
    (prior("Normal", loc=True, scale=1.0), "must be a number", "loc=True"),
    (prior("Normal", loc=1j, scale=1.0), "must be a number", "loc=1j"),
    (prior("Normal", loc=None, scale=1.0), "must be a number", "loc=None"),
    (prior("Normal", loc=[[0.0], [1.0, 2.0]], scale=1.0), "must be a number", "loc="),
    (prior("Normal", loc=abs, scale=1.0), "must be a number", "loc=<built-in"),
    (prior("Normal", loc=[tf.Variable(1.0), 0.0], scale=1.0), "must be constants", "loc="),
    (prior("Normal", loc=1e300, scale=1.0), "must be finite, in float32", "loc=1e.300"),
    (prior("Normal", loc=0.0, scale=1e-50), "`scale` must be positive", "'scale': 1e-50"),
    (prior("Normal", loc=float("nan"), scale=1.0), "must be finite", "loc=nan"),
    (prior("Normal", loc=0.0, scale=float("inf")), "must be finite", "scale=inf"),
    (prior("Normal", loc={"distribution": "Normal"}, scale=1.0), "missing", "Normal"),
    (prior("Normal", loc={}, scale=1.0), "must name a distribution", "None"),
    (prior("Normal", loc={"distribution": [1]}, scale=1.0), "must name a distribution", r"\[1\]"),
    (prior_of(lambda: tfd.Normal), "must be a distribution of TensorFlow Prob", "<class"),
    (prior(None), "must be a distribution of TensorFlow Probability", "None"),
    (prior({"distribution": "Normal"}), "must be a distribution of TensorFlow Prob", "Normal"),
    (prior(tfd.Normal(0.0, 1.0), scale=2.0), "with the name", "Normal.*'scale': 2.0"),
    (prior_of(lambda: Normal(0.0, 1.0)), "TensorFlow Probability's own", "Normal"),
    (
        prior_of(lambda: tfd.TransformedDistribution(tfd.Normal(0.0, 1.0), tfb.Exp())),
        "wraps another",
        "TransformedDistribution",
    ),
    (prior_of(lambda: tfd.Independent(tfd.Normal(0.0, 1.0))), "wraps another", "Independent"),
    (lambda: tfreg.Prior("Laplace", loc=0.0, scale=1.0), "`factor` must be given", "None"),
    (lambda: tfreg.Prior("Laplace", -1.0, loc=0.0, scale=1.0), "`factor` must be", "-1.0"),
    (lambda: tfreg.get("prior"), "`identifier` must be a dict or an object", "'prior'"),
]


@pytest.mark.parametrize("build, expected, received", BAD)
def test_bad_arguments(build, expected, received):
    with pytest.raises((TypeError, ValueError)) as error:
        build()
    message = " ".join(str(error.value).split())
    assert re.search(f"{expected}.*Received: .*{received}", message), message


def test_a_file_names_only_what_tensorflow_probability_has(api):
    config = tfreg.Prior("Normal", 0.1, loc=0.0, scale=1.0).get_config()
    for changes in [
        {"distribution": "builtins.eval"},
        {"distribution": "tfp"},
        {"distribution": {"class_name": "__lambda__", "config": {"value": "x"}}},
        {"loc": {"distribution": "Inline"}},
        {"loc": {"class_name": "__lambda__", "config": {"value": "x"}}},
        {"name": "x"},
        {"from_a_later_release": 1.0},
    ]:
        saved = {"class_name": "tfreg>Prior", "config": {**config, **changes}}
        with pytest.raises((TypeError, ValueError), match="distribution|among"):
            api.regularizers.get(saved)


@pytest.mark.slow
def test_importing_tensorflow_probability_waits_for_the_first_prior(run_fresh):
    code = """
import json, sys
import tfreg
before = "tensorflow_probability" in sys.modules
tfreg.Prior("Normal", 0.1, loc=0.0, scale=1.0)
print(json.dumps([before, "tensorflow_probability" in sys.modules]))
"""
    assert run_fresh(code) == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize(
    "missing, does, remedy",
    [
        ("tf_keras", "import tfreg", "pip install tf_keras"),
        (
            "tensorflow_probability",
            "import tfreg; tfreg.Prior('Normal', 0.1, loc=0.0, scale=1.0)",
            "pip install 'tensorflow-probability",
        ),
    ],
)
def test_what_is_missing_is_said_in_one_line(run_fresh, missing, does, remedy):
    code = f"""
import json, sys
sys.modules[{missing!r}] = None
try:
    {does}
except ImportError as error:
    print(json.dumps(str(error)))
"""
    message = run_fresh(code)
    assert missing in message and remedy in message and "\n" not in message
