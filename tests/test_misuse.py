"""Misuse at random: what is asked for is what there is, or one of the documented errors."""

import copy
import functools
import json
import os
import re
import sys

import keras
import model_cases as models
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from cases import CASES, TABLE, fits, value_and_gradient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marks import slow

import tfreg

FACTORS = [0.0, 0.1, 2]
ROWS = [row for row in TABLE if row.choices]
JSON_JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 20),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from([[], {}, [0, 0], [[0]], "output", "head", [None], {"a": 1}, 10**400, 1e308]),
)
JUNK = JSON_JUNK | st.sampled_from(
    [(), 1j, b"x", np.float32(0.5), np.int64(1), np.nan, object, print, (1, 2), (0.5,), {0}]
)


@st.composite
def arguments_of(draw, row):
    """Arguments most of which are good."""
    chosen = {}
    for name, good in {"factor": FACTORS, **row.choices}.items():
        kind = draw(st.sampled_from(["none", "good", "good", "good", "good", "good", "junk"]))
        if kind != "none" or name in row.needed or name == "factor":
            chosen[name] = draw(JUNK if kind == "junk" else st.sampled_from(good))
    if draw(st.integers(0, 30)) == 0:
        chosen["axes"] = 0
    return chosen


@st.composite
def weights(draw):
    """Of 0 to 6 axes with 0 to 17 entries each, in any dtype, with what a diverged run leaves."""
    shape: list[int] = []
    for _ in range(draw(st.integers(0, 6))):
        most = max(1, 500 // max(1, int(np.prod(shape))))
        shape.append(draw(st.integers(0, min(17, most))))
    dtype = draw(st.sampled_from(["float32"] * 4 + list(DTYPES)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    w = rng.normal(size=shape) * draw(st.sampled_from([1.0, 1e-5, 1e-42, 1e4]))
    bad = draw(st.sampled_from([None, None, None, np.nan, np.inf, -np.inf]))
    if bad is not None and w.size > 0:
        w = np.where(rng.uniform(size=shape) < 0.1, bad, w)
    if dtype == "string":
        return tf.fill(shape, "w")
    with np.errstate(invalid="ignore"):
        return tf.cast(tf.constant(w, tf.float64), dtype)


FLOATS = ["float16", "bfloat16", "float32", "float64"]
DTYPES = [*FLOATS, "int32", "bool", "complex64", "string"]


def assert_documented(error):
    known = "Received|its layers are not what they were|Could not locate class"
    assert re.search(known, str(error)), repr(error)


def broadcast(arrays, shape):
    """Whether the arrays together broadcast to that shape."""
    try:
        return np.broadcast_shapes(*(array.shape for array in arrays), shape) == tuple(shape)
    except ValueError:
        return False


def check_arguments_and_a_weight(data):
    row = data.draw(st.sampled_from(ROWS), "row")
    arguments = data.draw(arguments_of(row), "arguments")
    weight = data.draw(weights(), "weight")
    try:
        penalty = row.make(**arguments)
    except (TypeError, ValueError) as error:
        if "axes" not in arguments:
            assert_documented(error)
        return
    given_config = penalty.get_config()
    assert {name: plain(value) for name, value in arguments.items()}.items() <= given_config.items()
    right = weight.dtype.name in FLOATS and weight.shape.rank > 0
    right = right and fits(weight.shape.rank, arguments.get("axis"))
    arrays = [np.asarray(arguments[name]) for name in row.arrays if name in arguments]
    right = right and broadcast(arrays, tuple(weight.shape))
    try:
        value, gradient = value_and_gradient(penalty, weight)
    except (TypeError, ValueError) as error:
        assert_documented(error)
        assert not right, error
        return
    assert right
    assert_right(row, penalty, arguments, weight, value, gradient)


def assert_right(row, penalty, arguments, weight, value, gradient):
    accumulation = np.float64 if weight.dtype == tf.float64 else np.float32
    exact = 0.0
    asked = {name: value for name, value in arguments.items() if name != "factor"}
    with np.errstate(over="ignore", invalid="ignore"):
        if tf.size(weight) > 0:
            asked = {name: tuple(v) if isinstance(v, list) else v for name, v in asked.items()}
            exact = row.oracle(tf.cast(weight, accumulation).numpy(), **asked)
        expected = accumulation(penalty.factor) * accumulation(exact)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-35)
    assert gradient.shape == weight.shape and gradient.dtype == weight.dtype
    # A multiple of about the largest number there is, as a strength or a bound may be, is infinite.
    numbers = [penalty.factor, *(n for n in asked.values() if isinstance(n, (int, float)))]
    if np.isfinite(tf.cast(weight, tf.float64)).all() and max(map(abs, numbers)) < 1e30:
        assert np.isfinite(tf.cast(gradient, tf.float64)).all()


def plain(value):
    """`value` as JSON would give it back."""
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value.item() if isinstance(value, np.generic) else value


def mutated(draw, config):
    """A copy of `config`, of JSON's types, with an entry at any depth changed, gone or new."""
    config = json.loads(json.dumps(config))
    places = []

    def visit(node):
        if isinstance(node, (dict, list)):
            places.append(node)
            for child in node.values() if isinstance(node, dict) else node:
                visit(child)

    visit(config)
    node = draw(st.sampled_from(range(len(places))))
    node = places[node]
    change = draw(st.sampled_from(["change", "change", "change", "drop", "add"]))
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    if change == "add" or not keys:
        if isinstance(node, dict):
            node[draw(st.text(max_size=3))] = draw(JSON_JUNK)
        else:
            node.append(draw(JSON_JUNK))
        return config
    key = draw(st.sampled_from(keys))
    if change == "drop":
        del node[key]
    else:
        node[key] = draw(JSON_JUNK)
    return config


def includes(whole, part):
    """Whether what `part` says is also in `whole`, a config of which it may leave out defaults."""
    if isinstance(part, dict) and isinstance(whole, dict):
        keys = set(part)
        if "class_name" in whole:
            # What Keras writes about an object: one name is enough, and more goes unread.
            names = ("class_name", "registered_name")
            if not any(part.get(name) == whole[name] for name in names):
                return False
            keys = {"config"}
        elif isinstance(part.get("weights", []), (str, type(None))):
            keys.remove("weights")  # they are asked for, and then saved by their places
        return all(key in whole and includes(whole[key], part.get(key)) for key in keys)
    if isinstance(part, list) and isinstance(whole, list):
        return len(whole) == len(part) and all(map(includes, whole, part))
    if isinstance(part, bool) or isinstance(whole, bool):
        return part is whole
    return part == whole


def check_a_penaltys_config(data):
    penalty = data.draw(st.sampled_from([case.penalty for case in CASES]), "penalty")
    config = mutated(data.draw, penalty.get_config())
    data.draw(st.just(config), "config")
    try:
        again = type(penalty).from_config(copy.deepcopy(config))
    except (TypeError, ValueError) as error:
        assert_documented(error)
        return
    assert includes(json.loads(json.dumps(again.get_config())), config)


def check_a_models_config(data):
    api = data.draw(st.sampled_from([keras, tf_keras]), "api")
    config = saved_config(api)
    model = config["tfreg"].pop("model")
    config["tfreg"] = mutated(data.draw, config["tfreg"])
    asked = copy.deepcopy(config["tfreg"])
    data.draw(st.just(asked), "penalties")
    config["tfreg"]["model"] = model
    try:
        again = type(penalized(api)).from_config(config)
        actual = json.loads(json.dumps(again.get_config()["tfreg"]))
    except (TypeError, ValueError) as error:
        assert_documented(error)
        return
    assert includes(actual["penalties"], asked["penalties"])


@functools.cache
def penalized(api):
    return models.add_penalties(models.sequential(api))


def saved_config(api):
    return json.loads(json.dumps(penalized(api).get_config()))


CHECKS = [check_arguments_and_a_weight, check_a_penaltys_config, check_a_models_config]


def examples(check, number, seeded=lambda test: test):
    suppressed = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    limits = settings(max_examples=number, suppress_health_check=suppressed, deadline=None)
    seeded(limits(given(st.data())(check)))()


@pytest.mark.parametrize("number", [25, slow(200)])
@pytest.mark.parametrize("check", CHECKS)
def test_misuse_is_an_error(check, number):
    examples(check, number)


BLOCK = """
import sys
import hypothesis
import test_misuse

check, block = sys.argv[1:]
settings = hypothesis.settings(derandomize=False, database=None)
hypothesis.settings.register_profile("block", settings)
hypothesis.settings.load_profile("block")
seeded = hypothesis.seed(int(block))
test_misuse.examples(getattr(test_misuse, check), 2000, seeded)
print("null")
"""


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("block", range(10))
@pytest.mark.parametrize("check", CHECKS)
def test_much_misuse_is_an_error(check, block, run_fresh):
    # A process of their own, as the traces of thousands of penalties and weights fill the memory.
    tests = {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    run_fresh(BLOCK, check.__name__, block, env=tests, timeout=1700)


@pytest.mark.parametrize("config", [None, "", [], False, 0, "axis"])
def test_a_config_of_no_arguments_is_not_that_of_the_default_ones(api, config):
    joint = saved_config(api)
    joint["tfreg"]["penalties"][1]["penalty"]["config"]["penalty"]["config"] = config
    with pytest.raises(ValueError, match="config"):
        type(penalized(api)).from_config(joint)
    penalty = {"module": None, "class_name": "BoxPenalty", "registered_name": "tfreg>BoxPenalty"}
    with pytest.raises(ValueError, match="config"):
        tfreg.get({"class_name": "Sum", "config": {"penalties": [{**penalty, "config": config}]}})


RAN: list = []


def noted(weights):
    RAN.append(weights)
    return tf.constant(0.0)


def with_functions(config):
    """The config of a model with a joint penalty on a schedule, each in turn one of `FUNCTIONS`."""
    for path in (["penalty", "config", "penalty"], ["schedule"]):
        for function in FUNCTIONS:
            changed = copy.deepcopy(config)
            node = changed["tfreg"]["penalties"][1]
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = function
            yield changed


LAMBDA = keras.saving.serialize_keras_object(lambda *args: RAN.append(args) or tf.constant(1.0))
FUNCTIONS = [
    LAMBDA,
    {"class_name": "function", "config": "noted", "module": __name__, "registered_name": "noted"},
    {"class_name": "function", "config": "system", "module": "os", "registered_name": "function"},
    {"class_name": "noted", "config": {}, "module": __name__, "registered_name": None},
]
FUNCTIONS += [{**function, "keras": "tf_keras"} for function in FUNCTIONS]


def test_a_file_that_names_code_is_refused(api):
    for changed in with_functions(saved_config(api)):
        with pytest.raises((TypeError, ValueError)):
            type(penalized(api)).from_config(changed)
    assert RAN == []
