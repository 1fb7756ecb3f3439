"""The models whose training is measured, penalized in each of the ways that there are."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tf_keras

import tfreg
from benchmarks import common, penalties

APIS: dict[str, Any] = {"keras": keras, "tf_keras": tf_keras}
MODES: dict[str, dict] = {"default": {}, "jit_compile": {"jit_compile": True}}
FACTOR = 1e-3
# Some of the weights that Keras initializes are beyond it in every layer.
BOUND = 0.03
BATCH_SIZE = 8
# Of a sum of float32 values over all layers.
TOLERANCE = 1e-4


class Variant(NamedTuple):
    """A penalty, and whether layers get it as an argument or the model by `add_penalty`."""

    penalty: str
    through: str


class Run(NamedTuple):
    """The training of a model in a mode, with a variant of the penalty."""

    model: str
    mode: str
    penalty: str
    through: str


NONE, L2 = Variant("none", "-"), Variant(penalties.L2_NAME, "layers")


class PenaltyOfModels(NamedTuple):
    make: Callable
    reference: Callable  # of a weight's values, a column per unit


def _group_lasso_reference(w):
    return penalties.groups_reference(w, sizes={0: len(w)}, size_weighted=True)[0]


PENALTIES = {
    L2.penalty: PenaltyOfModels(keras.regularizers.L2, lambda w: penalties.l2_reference(w)[0]),
    "GroupLasso": PenaltyOfModels(tfreg.GroupLasso, _group_lasso_reference),
    "TotalVariation": PenaltyOfModels(
        functools.partial(tfreg.TotalVariation, axis=0),
        lambda w: penalties.tv_reference(w, axis=0)[0],
    ),
    "BoxPenalty": PenaltyOfModels(
        functools.partial(tfreg.BoxPenalty, lower=-BOUND, upper=BOUND),
        lambda w: penalties.box_reference(w, BOUND)[0],
    ),
}


def variants(pattern):
    """No penalty, Keras's L2, and those in whose name `pattern` is found, in both ways."""
    names = [name for name in PENALTIES if name != L2.penalty and pattern.search(name)]
    return [NONE, L2] + [Variant(name, way) for name in names for way in ("layers", "add_penalty")]


def dense(api, regularizer):
    """100 Dense layers of 64 inputs and 64 units."""
    layer = functools.partial(
        api.layers.Dense, 64, activation="relu", kernel_regularizer=regularizer
    )
    return api.Sequential([api.Input((64,)), *(layer() for _ in range(100))])


def resnet(api, regularizer):
    """ResNet-20 for 32x32 images (He et al., 2016), with projections as shortcuts."""
    layers = api.layers

    def convolution(x, filters, size, strides=1):
        options = {"padding": "same", "use_bias": False, "kernel_regularizer": regularizer}
        x = layers.Conv2D(filters, size, strides, **options)(x)
        return layers.BatchNormalization()(x)

    def block(x, filters, strides):
        residual = layers.ReLU()(convolution(x, filters, 3, strides))
        residual = convolution(residual, filters, 3)
        shortcut = x if strides == 1 else convolution(x, filters, 1, strides)
        return layers.ReLU()(layers.Add()([residual, shortcut]))

    image = api.Input((32, 32, 3))
    x = layers.ReLU()(convolution(image, 16, 3))
    for filters in (16, 32, 64):
        for i in range(3):
            x = block(x, filters, strides=2 if i == 0 and filters > 16 else 1)
    x = layers.GlobalAveragePooling2D()(x)
    return api.Model(image, layers.Dense(10, kernel_regularizer=regularizer)(x))


def transformer(api, regularizer):
    """An encoder of two layers: 64 features, 4 heads, sequences of 32."""
    layers, regularized = api.layers, {"kernel_regularizer": regularizer}
    sequence = x = api.Input((32, 64))
    for _ in range(2):
        attended = layers.MultiHeadAttention(num_heads=4, key_dim=16, **regularized)(x, x)
        x = layers.LayerNormalization()(layers.Add()([x, attended]))
        hidden = layers.Dense(256, activation="relu", **regularized)(x)
        x = layers.LayerNormalization()(layers.Add()([x, layers.Dense(64, **regularized)(hidden)]))
    x = layers.GlobalAveragePooling1D()(x)
    return api.Model(sequence, layers.Dense(10, **regularized)(x))


def lstm(api, regularizer):
    """An LSTM of 64 units over sequences of 32."""
    recurrent = api.layers.LSTM(
        64, kernel_regularizer=regularizer, recurrent_regularizer=regularizer
    )
    output = api.layers.Dense(10, kernel_regularizer=regularizer)
    return api.Sequential([api.Input((32, 64)), recurrent, output])


BUILDERS = {build.__name__: build for build in (dense, resnet, transformer, lstm)}


def parser(description):
    """The options of every benchmark, and which models to train, and how."""
    result = common.parser(description)
    result.add_argument("--keras", choices=APIS, default="keras")
    result.add_argument("--model", action="append", choices=BUILDERS, help="repeatable")
    result.add_argument("--mode", action="append", choices=MODES, help="repeatable")
    return result


def batch(model):
    """Random inputs and targets; what they are does not matter to the time of a step."""
    rng = np.random.default_rng(0)
    shapes = [(BATCH_SIZE, *shape[1:]) for shape in (model.input_shape, model.output_shape)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def penalized(api, name, variant, factor=FACTOR):
    """The model of that name, not compiled, with the penalty of `variant` on every kernel."""
    if variant == NONE:
        return BUILDERS[name](api, None)
    penalty = PENALTIES[variant.penalty].make(factor)
    if variant == L2 and api is tf_keras:
        penalty = tf_keras.regularizers.L2(factor)
    if variant.through == "layers":
        return BUILDERS[name](api, penalty)
    return tfreg.add_penalty(BUILDERS[name](api, None), penalty)


def compiled(model, mode):
    model.compile("sgd", "mse", **MODES[mode])
    return model


def _units_in_columns(weight, through):
    """A kernel's values; what a layer computes for one unit is a column, if the layer is asked."""
    w = weight.numpy().astype(np.float64)
    path = getattr(weight, "path", weight.name)
    if through == "add_penalty" and "lstm" in path:
        return w.reshape(-1, w.shape[-1] // 4)
    if through == "add_penalty" and any(part in path for part in ("query", "key/", "value")):
        return w.reshape(len(w), -1)
    return w.reshape(-1, w.shape[-1])


def _reference(weight, variant):
    if variant.penalty == "TotalVariation":
        return PENALTIES[variant.penalty].reference(weight.numpy().astype(np.float64))
    return PENALTIES[variant.penalty].reference(_units_in_columns(weight, variant.through))


def check_losses(what, model, variant, factor=FACTOR):
    """The relative error of `model.losses`; ends the program if it is too large."""
    if variant == NONE:
        return 0.0
    kernels = [weight for weight in model.trainable_weights if "kernel" in weight.name]
    expected = factor * sum(_reference(weight, variant) for weight in kernels)
    actual = float(sum(model.losses))
    return common.check_answer(f"{what} {' '.join(variant)}", actual, expected, TOLERANCE)
