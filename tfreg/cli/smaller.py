"""The part of `tfreg demo` that makes a net smaller: trained on a budget, cut, compared, shown."""

import statistics
import sys
import time

import numpy as np

from tfreg.callbacks import PenaltyMetrics
from tfreg.cli.tables import print_table, print_title
from tfreg.cli.training import fit, number_of_steps
from tfreg.proximal import Budget, Proximal
from tfreg.reporting import plot_history, plot_weights, report
from tfreg.reporting.totals import multiply_adds
from tfreg.structure import compact

SHARE = 0.2  # of the multiply-adds, which is to be left
LEARNING_RATE = 0.002
# The models: trained as usual; trained on the budget, with the zeros; and with these cut out.
DENSE, WITH_ZEROS, CUT = NAMES = ["wide-conv", "wide-conv-Budget", "wide-conv-cut"]
FIRST = "conv1"  # the layer whose filters are drawn
TIMED_ROUNDS = 9
# Sums without the zeros are taken in another order.
TOLERANCE = 1e-4


def _wide_conv(keras):
    layers = keras.layers

    def convolution(name, filters):
        return layers.Conv2D(filters, 3, padding="same", activation="relu", name=name)

    return keras.Sequential(
        [
            keras.Input((8, 8), name="image"),
            layers.Reshape((8, 8, 1)),
            convolution(FIRST, 64),
            convolution("conv2", 128),
            layers.MaxPooling2D(),
            convolution("conv3", 128),
            convolution("conv4", 128),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", name="digit"),
        ],
        name="wide_conv",
    )


def train(keras, data, epochs, seed, shows):
    """The three models by their names, and the history of the training on the budget.

    `shows` has what shows the progress of each training.
    """
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
        optimizer, callbacks = keras.optimizers.Adam(rate), []
        if name == WITH_ZEROS:
            optimizer = Proximal(optimizer, models[name], budget)
            callbacks = [PenaltyMetrics()]
        history = fit(models[name], keras, optimizer, data, epochs, shows[name], callbacks)
    models[CUT] = compact(models[WITH_ZEROS])
    return models, history


def compare(models, files, images, test_set):
    """Prints what the budget and the cut did; exits with an error if the cut changed outputs."""
    test_inputs, test_labels = test_set
    predictions = {name: _predicted(model, test_inputs) for name, model in models.items()}
    seconds = _seconds_to_predict(models, images)
    difference = np.abs(predictions[CUT] - predictions[WITH_ZEROS]).max()
    heads = ["accuracy", "parameters", "multiply-adds", "file, bytes"]
    rows = [["net", *heads, "time of predict", "outputs differ"]]
    for name, model in models.items():
        accuracy = np.mean(predictions[name].argmax(axis=-1) == test_labels)
        counts = [model.count_params(), multiply_adds(model), files[name].stat().st_size]
        row = [name, f"{accuracy:.1%}", *(f"{count:,}" for count in counts)]
        row.append(f"{seconds[name] / seconds[DENSE]:.2f}")
        row.append(f"{difference:.1e}" if name == CUT else "-")
        rows.append(row)
    title = f"A wide net; trained on a budget of {SHARE:.0%} of its multiply-adds; and then cut:"
    print_table("<>>>>>>", rows, title)
    if not difference <= TOLERANCE:
        sys.exit(f"tfreg demo: {CUT} must compute what {WITH_ZEROS} does, to {TOLERANCE}")


def report_and_plot(models, history, out):
    """Prints the reports of the budgeted net; the pictures of it, which are saved in `out`."""
    with_zeros, cut = report(models[WITH_ZEROS]), report(models[CUT])
    print_title(f"tfreg.report({WITH_ZEROS}): what the budget removed, and what a cut would leave:")
    print(with_zeros)
    print_title(f"The same beside the report of {CUT}: what was cut, and what is left:")
    print(with_zeros.compare(cut))
    pictures = [out / f"{name}.png" for name in ("norms", "history", "filters")]
    norms, course, filters = pictures
    with_zeros.plot(norms)
    plot_history(history, course, metrics=["zero_groups", "accuracy", "val_accuracy"])
    plot_weights(models[WITH_ZEROS].get_layer(FIRST), filters)
    return pictures


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
