"""A Joint TotalVariation over depth: neighbouring blocks of a stack are to be alike."""

import functools

import keras

import tfreg
from benchmarks.worth import contenders, data
from benchmarks.worth.protocol import Case, Contender
from benchmarks.worth.training import fit_by_examples

layers = keras.layers
BLOCKS, WIDTH = 6, 32
SIZES = {"digits": (50, 200), "ItalyPowerDemand": (32,)}
QUICK = {"digits, 50 examples"}


def build(shape, outputs, drop):
    """Equal residual blocks of one layer each."""
    inputs = keras.Input(shape)
    x = layers.Dense(WIDTH)(layers.Flatten()(inputs))
    for number in range(BLOCKS):
        hidden = layers.Dense(WIDTH, activation="relu", name=f"block_{number}")(x)
        x = layers.Add()([x, drop()(hidden)])
    return keras.Model(inputs, layers.Dense(outputs)(x))


def cases(available, folder):
    penalty = tfreg.Joint(tfreg.TotalVariation(1.0))
    blocks = [f"block_{number}/kernel" for number in range(BLOCKS)]
    ours = Contender("Joint TotalVariation", 1e-3, 100.0, penalty, blocks, ours=True)
    for name, sizes in SIZES.items():
        for examples in sizes if name in available else ():
            load = functools.partial(data.load, name, folder)
            fit_with = fit_by_examples(build, load, examples)
            yield Case(f"{name}, {examples} examples", [*contenders.usual(), ours], fit_with)
