"""TotalVariation along time and along pixels, over the number of examples to learn from."""

import functools

import keras

import tfreg
from benchmarks.worth import contenders, data
from benchmarks.worth.protocol import Case, Contender
from benchmarks.worth.training import fit_by_examples

layers = keras.layers
SIZES = {
    "GunPoint": (8, 16, 32, 64),
    "ItalyPowerDemand": (16, 64),
    "digits": (20, 50, 100, 400),
    "Fashion-MNIST": (50, 200),
}
# The most leaves a kernel that is constant along the axis: a limit.
RANGE = (1e-5, 10.0)
QUICK = {"ItalyPowerDemand convolution, 16 examples", "digits dense, 50 examples"}


def convolution(shape, outputs, drop):
    """Filters of a sixth of the series, each averaged over time."""
    return [
        layers.Conv1D(16, shape[0] // 6, activation="relu", name="first"),
        layers.GlobalAveragePooling1D(),
        drop(),
        layers.Dense(outputs),
    ]


def dense_over_time(shape, outputs, drop):
    """A hidden layer of 16 units. As a convolution of one step its kernel has an axis of time."""
    first = layers.Conv1D(16, shape[0], activation="relu", name="first")
    return [first, layers.Flatten(), drop(), layers.Dense(outputs)]


def dense_over_pixels(shape, outputs, drop):
    """A hidden layer of 32 units, whose kernel has the axes of the image."""
    first = layers.Conv2D(32, shape[:2], activation="relu", name="first")
    return [first, layers.Flatten(), drop(), layers.Dense(outputs)]


def build(make_layers, shape, outputs, drop):
    return keras.Sequential([keras.Input(shape), *make_layers(shape, outputs, drop)])


def _models(name):
    if name in data.SERIES:
        return 0, {"convolution": convolution, "dense": dense_over_time}
    return (0, 1), {"dense": dense_over_pixels}


def cases(available, folder):
    for name, sizes in SIZES.items():
        axis, models = _models(name)
        penalty = tfreg.TotalVariation(1.0, axis=axis)
        smooth = "first/kernel", penalty
        # Ten to one, as the ranges are of L2 and L1.
        both = [smooth, (None, keras.regularizers.L2(10.0))]
        ours = [
            Contender("TotalVariation", *RANGE, [smooth], ours=True, natural=("least", "most")),
            Contender("TotalVariation + L2", *contenders.L1_RANGE, both, ours=True),
        ]
        for model, make_layers in models.items() if name in available else ():
            for examples in sizes:
                load = functools.partial(data.load, name, folder)
                yield Case(
                    f"{name} {model}, {examples} examples",
                    [*contenders.usual(), *ours],
                    fit_by_examples(functools.partial(build, make_layers), load, examples),
                )
