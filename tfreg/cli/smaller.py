"""The part of `tfreg demo` that makes a net smaller: trained on a budget, cut, and compared."""

import statistics
import sys
import time

import numpy as np

from tfreg.cli.compact import multiply_adds
from tfreg.cli.tables import print_table
from tfreg.cli.training import fit, number_of_steps
from tfreg.proximal import Budget, Proximal
from tfreg.structure import compact

SHARE = 0.2  # of the multiply-adds, which is to be left
LEARNING_RATE = 0.002
# The models: trained as usual; trained on the budget, with the zeros; and with these cut out.
DENSE, WITH_ZEROS, CUT = NAMES = ["wide-conv", "wide-conv-Budget", "wide-conv-cut"]
TIMED_ROUNDS = 9
# Sums without the zeros are taken in another order.
TOLERANCE = 1e-4


def _wide_conv(keras):
    layers = keras.layers
    options = {"padding": "same", "activation": "relu"}
    return keras.Sequential(
        [
            keras.Input((8, 8)),
            layers.Reshape((8, 8, 1)),
            layers.Conv2D(64, 3, **options),
            layers.Conv2D(128, 3, **options),
            layers.MaxPooling2D(),
            layers.Conv2D(128, 3, **options),
            layers.Conv2D(128, 3, **options),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )


def train(keras, data, epochs, seed, shows):
    """The three models by their names; `shows` has what shows the progress of each training."""
    steps = number_of_steps(data, epochs)
    budget = Budget(multiply_adds=SHARE, steps=steps)
    heal = budget.heal_step
    # Constant until the budget is met, then down to 0 while the rest heals.
    rate = keras.optimizers.schedules.CosineDecay(
        LEARNING_RATE, steps - heal, warmup_target=LEARNING_RATE, warmup_steps=heal
    )
    models = {}
    for name in (DENSE, WITH_ZEROS):
        keras.utils.set_random_seed(seed)
        models[name] = _wide_conv(keras)
        optimizer = keras.optimizers.Adam(rate)
        if name == WITH_ZEROS:
            optimizer = Proximal(optimizer, models[name], budget)
        fit(models[name], keras, optimizer, data, epochs, shows[name])
    models[CUT] = compact(models[WITH_ZEROS])
    return models


def report(models, files, images, test_set):
    """Prints what the budget and the cut did; exits with an error if the cut changed outputs."""
    test_inputs, test_labels = test_set
    predictions = {name: _predicted(model, test_inputs) for name, model in models.items()}
    seconds = _seconds_to_predict(models, images)
    difference = np.abs(predictions[CUT] - predictions[WITH_ZEROS]).max()
    heads = ["test accuracy", "parameters", "multiply-adds", "bytes of the file"]
    rows = [["net", *heads, "time of predict", "outputs differ by"]]
    for name, model in models.items():
        accuracy = np.mean(predictions[name].argmax(axis=-1) == test_labels)
        counts = [model.count_params(), multiply_adds(model), files[name].stat().st_size]
        row = [name, f"{accuracy:.1%}", *(f"{count:,}" for count in counts)]
        row.append(f"{seconds[name] / seconds[DENSE]:.2f}")
        row.append(f"{difference:.1e}" if name == CUT else "-")
        rows.append(row)
    print_table("<>>>>>>", rows)
    if not difference <= TOLERANCE:
        sys.exit(f"tfreg demo: {CUT} must compute what {WITH_ZEROS} does, to {TOLERANCE}")


def _predicted(model, inputs):
    return model(inputs, training=False).numpy()


def _seconds_to_predict(models, images):
    """The median over rounds, in each of which every model predicts all `images` once."""
    seconds: dict = {name: [] for name in models}
    for warm_up in [True, True] + [False] * TIMED_ROUNDS:
        for name, model in models.items():
            start = time.perf_counter()
            model.predict(images, batch_size=len(images), verbose=0)
            if not warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}
