"""Prior: spike and slab, horseshoe and Student's t on small tables."""

import functools

import keras

import tfreg
from benchmarks.worth import contenders, data
from benchmarks.worth.protocol import Case, Contender
from benchmarks.worth.training import fit_by_examples

layers = keras.layers
EXAMPLES = {"breast cancer": (30, 100), "wine": (20,), "diabetes": (50,)}
QUICK = {"breast cancer, 30 examples"}
SCALES = {"spike and slab": (0.03, 30.0), "horseshoe": (1e-3, 1e3), "Student's t": (0.01, 30.0)}


def build(shape, outputs, drop):
    hidden = layers.Dense(16, activation="relu")
    return keras.Sequential([keras.Input(shape), hidden, drop(), layers.Dense(outputs)])


def _spike_and_slab(factor, scale):
    return tfreg.Prior(
        "MixtureSameFamily",
        factor,
        mixture_distribution={"distribution": "Categorical", "probs": [0.9, 0.1]},
        components_distribution={
            "distribution": "Normal",
            "loc": 0.0,
            "scale": [0.01 * scale, scale],
        },
    )


def _ours(examples):
    """The scale of the prior is searched. With this factor the minimum is the most probable model.

    For squared errors it is if they have a variance of 1/2, about that of diabetes.
    """
    factor = 1.0 / examples
    made = {
        "spike and slab": lambda scale: _spike_and_slab(factor, scale),
        "horseshoe": lambda scale: tfreg.Prior("Horseshoe", factor, floor=1e-4, scale=scale),
        "Student's t": lambda scale: tfreg.Prior("StudentT", factor, df=3.0, loc=0.0, scale=scale),
    }
    for name, make in made.items():
        # A wide prior says little.
        yield Contender(name, *SCALES[name], make=make, ours=True, natural=("most",))


def cases(available, folder):
    for name, sizes in EXAMPLES.items():
        for examples in sizes:
            load = functools.partial(data.load, name, folder)
            fit_with = fit_by_examples(build, load, examples, with_loss=True)
            named = [*contenders.usual_for_tables(), *_ours(examples)]
            yield Case(f"{name}, {examples} examples", named, fit_with)
