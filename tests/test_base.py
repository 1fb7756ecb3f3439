"""Arguments, configs and identifiers: what is right, and what each wrong one is told."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tfreg

PENALTIES = [tfreg.TotalVariation, tfreg.BoxPenalty, tfreg.GroupLasso, tfreg.SparseGroupLasso]
ONES = tf.ones([4, 3])

BAD_FACTORS = [-1, -1e-9, float("nan"), float("inf"), 10**400, "0.1", True, [0.1], (0.1,), None]
BAD_FACTORS += [{}, 1j, b"1", np.array([0.1]), np.array(0.1), np.bool_(True), tf.constant(0.1)]
BAD_FACTORS += [tf.Variable(0.1), keras.Variable(0.1), 3.5e38]


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("factor", BAD_FACTORS, ids=repr)
def test_bad_factor(penalty, factor):
    with pytest.raises((TypeError, ValueError)) as error:
        penalty(factor)
    assert "`factor` must be a finite number >= 0" in str(error.value)
    assert f"factor={factor!r}" in str(error.value)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("factor", [0, 1, 0.1, np.float32(0.1), np.float64(0.1), np.int64(2)])
def test_good_factor_is_kept_to_the_last_digit(penalty, factor):
    kept = penalty(factor).get_config()["factor"]
    assert type(kept) is float and kept == factor


# What is built, the argument that its error names, what it expects and what it received.
BAD_ARGUMENTS = [
    (lambda: tfreg.BoxPenalty(lower=1.0, upper=0.5), "`lower`.*`upper`", "lower=1.0, upper=0.5"),
    (lambda: tfreg.BoxPenalty(lower=None, upper=None), "`lower`.*`upper`", "None"),
    (lambda: tfreg.BoxPenalty(lower=float("nan")), "`lower`.*a finite number or None", "nan"),
    (lambda: tfreg.BoxPenalty(upper=float("inf")), "`upper`.*a finite number or None", "inf"),
    (lambda: tfreg.BoxPenalty(upper="1"), "`upper`.*a finite number or None", "'1'"),
    (lambda: tfreg.BoxPenalty(lower=False), "`lower`.*a finite number or None", "False"),
    (lambda: tfreg.GroupLasso(axis="outputs"), "`axis`.*'output', 'input'", "'outputs'"),
    (lambda: tfreg.GroupLasso(axis=0.0), "`axis` must be an int", "axis=0.0"),
    (lambda: tfreg.GroupLasso(axis=None), "`axis` must be an int", "axis=None"),
    (lambda: tfreg.GroupLasso(axis=True), "`axis` must be an int", "axis=True"),
    (lambda: tfreg.GroupLasso(axis=()), "`axis`.*non-empty tuple", r"axis=\(\)"),
    (lambda: tfreg.GroupLasso(axis=(0, 0)), "`axis`.*distinct", r"axis=\(0, 0\)"),
    (lambda: tfreg.GroupLasso(axis=(0, 1.0)), "`axis`.*ints", r"axis=\(0, 1.0\)"),
    (lambda: tfreg.GroupLasso(axis=(0, "output")), "`axis`.*ints", "output"),
    (lambda: tfreg.GroupLasso(axis=0, group_size=0), "`group_size`.*positive ints", "=0"),
    (lambda: tfreg.GroupLasso(axis=0, group_size=-3), "`group_size`.*positive ints", "=-3"),
    (lambda: tfreg.GroupLasso(axis=0, group_size=2.0), "`group_size`", "=2.0"),
    (lambda: tfreg.GroupLasso(axis=0, group_size=True), "`group_size`", "=True"),
    (lambda: tfreg.GroupLasso(axis=0, group_size="3"), "`group_size`", "='3'"),
    (lambda: tfreg.GroupLasso(axis=0, group_size=(2, 2)), "`group_size`.*entry for", r"\(2, 2\)"),
    (lambda: tfreg.GroupLasso(axis=(0, 1), group_size=2), "`group_size`.*entry for", "=2 with"),
    (lambda: tfreg.GroupLasso(axis=(0, 1), group_size=(2,)), "`group_size`.*entry for", r"\(2,\)"),
    (lambda: tfreg.GroupLasso(axis=(0, 1), group_size=(2, 0)), "`group_size`.*positive", r"0\)"),
    (lambda: tfreg.GroupLasso(axis="output", group_size=2), "`group_size`.*`axis`", "=2 with"),
    (lambda: tfreg.GroupLasso(size_weighted=1), "`size_weighted` must be a bool", "=1"),
    (lambda: tfreg.SparseGroupLasso(l1_ratio=-0.1), r"`l1_ratio`.*\[0, 1\]", "=-0.1"),
    (lambda: tfreg.SparseGroupLasso(l1_ratio=1.1), r"`l1_ratio`.*\[0, 1\]", "=1.1"),
    (lambda: tfreg.SparseGroupLasso(l1_ratio=float("nan")), r"`l1_ratio`.*\[0, 1\]", "=nan"),
    (lambda: tfreg.SparseGroupLasso(l1_ratio="half"), r"`l1_ratio`.*\[0, 1\]", "half"),
    (lambda: tfreg.TotalVariation(order=0), "`order` must be an int >= 1", "order=0"),
    (lambda: tfreg.TotalVariation(order=-1), "`order` must be an int >= 1", "order=-1"),
    (lambda: tfreg.TotalVariation(order=1.0), "`order` must be an int >= 1", "order=1.0"),
    (lambda: tfreg.TotalVariation(order=True), "`order` must be an int >= 1", "order=True"),
    (lambda: tfreg.TotalVariation(isotropic=True, order=2), "`isotropic`.*`order`", "order=2"),
    (lambda: tfreg.TotalVariation(isotropic=1), "`isotropic` must be a bool", "=1"),
    (lambda: tfreg.TotalVariation(axis="output"), "`axis` must be None, an int", "'output'"),
    (lambda: tfreg.TotalVariation(axis=0.5), "`axis` must be None, an int", "0.5"),
    (lambda: tfreg.TotalVariation(axis=(1, 1)), "`axis`.*distinct", r"\(1, 1\)"),
    (lambda: tfreg.Sum([]), "`penalties` must be a non-empty list", r"\[\]"),
    (lambda: tfreg.Sum(tfreg.GroupLasso()), "`penalties` must be a non-empty list", "GroupLasso"),
    (lambda: tfreg.Sum([tfreg.GroupLasso(), 1.0]), "`penalties` must consist of", "1.0"),
    # Only the weight can show these.
    (lambda: tfreg.GroupLasso(axis=2)(ONES), r"`axis`.*\[-2, 2\)", "axis=2.*rank 2"),
    (lambda: tfreg.GroupLasso(axis=-3)(ONES), r"`axis`.*\[-2, 2\)", "axis=-3.*rank 2"),
    (lambda: tfreg.GroupLasso(axis=(0, -2))(ONES), "`axis`.*once", r"\(0, -2\).*rank 2"),
    (lambda: tfreg.GroupLasso(axis=(0, 5)).prox(ONES, 1.0), "`axis`.*in", r"\(0, 5\).*rank 2"),
    (lambda: tfreg.TotalVariation(axis=2)(ONES), r"`axis`.*\[-2, 2\)", "axis=2.*rank 2"),
    (lambda: tfreg.TotalVariation(axis=(1, -1))(ONES), "`axis`.*once", r"\(1, -1\)"),
    (lambda: tfreg.GroupLasso().prox(ONES, -1.0), "`step_size`.*>= 0", "-1.0"),
    (lambda: tfreg.GroupLasso().prox(ONES, "1"), "`step_size`.*>= 0", "'1'"),
    (lambda: tfreg.GroupLasso().prox(ONES, tf.constant(-1.0)), "`step_size`.*>= 0", "-1.0"),
    (lambda: tfreg.GroupLasso().prox(ONES, tf.constant(1)), "`step_size`.*scalar", "int32"),
    (lambda: tfreg.GroupLasso().prox(ONES, tf.ones([3])), "`step_size`.*scalar", r"\(3,\)"),
    (lambda: tfreg.get("sum"), "`identifier` must be a dict or an object", "'sum'"),
    (lambda: tfreg.get(int), "`identifier` must be a penalty's name", "=0"),
    (lambda: tfreg.kernels.set_jit("on"), "`mode` must be 'auto', True or False", "'on'"),
    (lambda: tfreg.kernels.set_jit(1), "`mode` must be 'auto', True or False", "1"),
]


@pytest.mark.parametrize("build, expected, received", BAD_ARGUMENTS)
def test_bad_arguments(build, expected, received):
    with pytest.raises((TypeError, ValueError)) as error:
        build()
    message = str(error.value)
    assert re.search(f"Arguments? {expected}.*Received: .*{received}", message), message


BAD_WEIGHTS = [
    (tf.constant([1, 2]), "int32"),
    (tf.constant([1, 2], tf.uint8), "uint8"),
    (tf.constant([True]), "bool"),
    (tf.constant([1j]), "complex128"),
    (tf.constant(["a"]), "string"),
    (tf.cast([1.0], tf.dtypes.experimental.float8_e4m3fn), "float8_e4m3fn"),
    (tf.constant(1.0), "shape="),
    (1.0, "shape="),
    (tf.sparse.from_dense([1.0]), "SparseTensor"),
    (tf.ragged.constant([[1.0], []]), "RaggedTensor"),
    (tf.IndexedSlices(tf.ones([1]), tf.constant([0])), "IndexedSlices"),
    (None, "None"),
    (object(), "object"),
    (keras.Input((3,)), "KerasTensor"),
    (tf_keras.Input((3,)), "KerasTensor"),
]


@pytest.mark.parametrize("weight, received", BAD_WEIGHTS)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_bad_weights(penalty, weight, received):
    with pytest.raises((TypeError, ValueError)) as error:
        penalty()(weight)
    assert re.search(f"Argument `weight` must .*Received: .*{received}", str(error.value))


def test_a_weight_of_unknown_rank_is_refused():
    traced = tf.function(tfreg.GroupLasso(), input_signature=[tf.TensorSpec(None, tf.float32)])
    with pytest.raises(ValueError, match="`weight` must have a known rank"):
        traced.get_concrete_function()


def test_errors_name_the_weight(api):
    penalty = tfreg.GroupLasso(axis=4)
    layer = api.layers.Dense(3, kernel_regularizer=penalty, name="readout")
    with pytest.raises(ValueError, match="readout/kernel"):
        layer(tf.ones([1, 4]))
        layer.losses


def test_config_is_what_was_given():
    factor = 0.1 + 1e-17
    penalty = tfreg.SparseGroupLasso(factor, 1 / 3, (0, -1), (2, None), False)
    assert penalty.get_config() == {
        "factor": factor,
        "l1_ratio": 1 / 3,
        "axis": [0, -1],
        "group_size": [2, None],
        "size_weighted": False,
    }
    assert tfreg.BoxPenalty(0.1, None, 2).get_config() == {
        "factor": 0.1,
        "lower": None,
        "upper": 2.0,
    }
    assert tfreg.TotalVariation(0.1, axis=[0, 1]).get_config()["axis"] == [0, 1]


@pytest.mark.parametrize("penalty", [*PENALTIES, tfreg.Sum])
def test_an_unknown_key_in_a_config_is_refused(penalty):
    config = penalty([tfreg.GroupLasso()] if penalty is tfreg.Sum else 0.1).get_config()
    with pytest.raises(ValueError, match="no keys but.*Received: .*strength"):
        penalty.from_config({**config, "strength": 1.0})


@pytest.mark.parametrize("config", [None, [], "factor"])
def test_a_config_of_another_type_is_refused(config):
    with pytest.raises(TypeError, match="must be a dict. Received"):
        tfreg.GroupLasso.from_config(config)


@pytest.mark.parametrize("identifier", ["group_lasso", "GroupLasso", "tfreg>GroupLasso"])
def test_get_resolves_a_name(identifier):
    penalty = tfreg.get(identifier)
    assert type(penalty) is tfreg.GroupLasso
    assert penalty.get_config() == tfreg.GroupLasso().get_config()
    again = tfreg.get({"class_name": identifier, "config": {"factor": 0.5}})
    assert type(again) is tfreg.GroupLasso and again.factor == 0.5


def test_get_returns_what_needs_no_resolving():
    penalty = tfreg.TotalVariation()
    assert tfreg.get(penalty) is penalty
    assert tfreg.get(None) is None
    assert tfreg.get(abs) is abs
    assert type(tfreg.get(tfreg.BoxPenalty)) is tfreg.BoxPenalty


def test_get_resolves_what_either_keras_serializes(api):
    penalty = tfreg.GroupLasso(0.3, 0, 3) + tfreg.TotalVariation(0.1)
    again = tfreg.get(api.saving.serialize_keras_object(penalty))
    assert again.get_config() == penalty.get_config()


@pytest.mark.parametrize(
    "identifier, nearest",
    [
        ("group_laso", "group_lasso"),
        ("TotalVariations", "total_variation"),
        ({"class_name": "Box", "config": {}}, "box_penalty"),
    ],
)
def test_get_offers_the_nearest_names(identifier, nearest):
    with pytest.raises(ValueError, match=f"name of a penalty must be one of.*Nearest: .*{nearest}"):
        tfreg.get(identifier)


@pytest.mark.parametrize("identifier", [1, 0.5, b"group_lasso", ["group_lasso"], tf.constant(1.0)])
def test_get_refuses_other_types(identifier):
    with pytest.raises(TypeError, match="`identifier` must be"):
        tfreg.get(identifier)


@pytest.mark.parametrize(
    "identifier", [{}, {"class_name": 3}, {"class_name": "GroupLasso", "config": 1}]
)
def test_get_refuses_other_dicts(identifier):
    with pytest.raises(ValueError, match="`identifier` must have"):
        tfreg.get(identifier)


def test_repr_can_be_read_back():
    for penalty in [tfreg.GroupLasso(0.3, (0, 1), (2, None)), tfreg.TotalVariation(0.1, axis=-1)]:
        again = eval(repr(penalty), vars(tfreg))
        assert again.get_config() == penalty.get_config()
