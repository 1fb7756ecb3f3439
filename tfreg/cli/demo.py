"""`tfreg demo`: what penalties and a budget do to nets on scikit-learn's digits."""

import dataclasses
import functools
import sys
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfreg import backend
from tfreg.cli import smaller
from tfreg.cli.reload import Outcome, outcome_of, outcomes_in_fresh_process, report_reload
from tfreg.cli.tables import print_table
from tfreg.cli.training import fit, number_of_steps, progress_line
from tfreg.groups import Groups
from tfreg.layout import Layout
from tfreg.penalties import BoxPenalty, GroupLasso, Penalty, Prior, TotalVariation

TRAINING_EXAMPLES = 1347  # three quarters of the digits
LEARNING_RATE = 0.02
# The bounds of a BoxPenalty are soft: the data hold some weights just outside.
BOX_MARGIN = 0.01
# The width of the prior's spike.
NEAR_ZERO = 0.01


def _classifier(keras, layers):
    output = keras.layers.Dense(10, activation="softmax")
    return keras.Sequential([keras.Input((8, 8)), *layers, output])


def _dense(keras, penalty):
    hidden = keras.layers.Dense(32, activation="tanh", kernel_regularizer=penalty)
    return _classifier(keras, [keras.layers.Flatten(), hidden]), [hidden.kernel]


def _conv(keras, penalty):
    layers, options = keras.layers, {"activation": "relu", "kernel_regularizer": penalty}
    first = layers.Conv2D(16, 3, padding="same", **options)
    second = layers.Conv2D(32, 3, **options)
    stack = [layers.Reshape((8, 8, 1)), first, layers.MaxPooling2D(), second, layers.Flatten()]
    return _classifier(keras, stack), [first.kernel, second.kernel]


def _lstm(keras, penalty):
    lstm = keras.layers.LSTM(32, recurrent_regularizer=penalty)
    return _classifier(keras, [lstm]), [lstm.cell.recurrent_kernel]


def _entries(weights):
    return np.concatenate([w.ravel() for w in weights])


def _total_variation(penalty, weights):
    return f"{sum(np.abs(np.diff(w, axis=penalty.axis)).sum() for w in weights):.1f}"


def _share_outside(penalty, weights):
    w = _entries(weights)
    outside = (w < penalty.lower - BOX_MARGIN) | (w > penalty.upper + BOX_MARGIN)
    return f"{outside.mean():.1%}"


def _norms_of_groups(penalty, w):
    layout = Layout.positional(w.shape.rank)
    return Groups(penalty.axis, penalty.group_size).resolve(layout).norm(w).numpy().ravel()


def _norms(penalty, weights):
    norms = np.concatenate([_norms_of_groups(penalty, tf.constant(w)) for w in weights])
    return f"{norms.min():.1e} to {norms.max():.2f}"


def _share_near_zero(penalty, weights):
    return f"{(np.abs(_entries(weights)) < NEAR_ZERO).mean():.1%}"


# What the penalties are to achieve: functions of a penalty and its weights that return a text.
MEASURES = {
    "total variation": _total_variation,
    "outside the box": _share_outside,
    "norms of groups": _norms,
    f"within {NEAR_ZERO} of 0": _share_near_zero,
}
VARIATION, OUTSIDE, NORMS, WITHIN = MEASURES


@dataclasses.dataclass(frozen=True)
class Net:
    """A net to train; `build(keras, penalty)` gives a model and its penalized weights."""

    name: str
    build: Callable
    penalty: Penalty | None = None
    measure: str | None = None


def spike_and_slab():
    """A prior; made on demand, since TensorFlow Probability takes long to import."""
    return Prior(
        "MixtureSameFamily",
        factor=1 / TRAINING_EXAMPLES,
        mixture_distribution={"distribution": "Categorical", "probs": [0.8, 0.2]},
        components_distribution={"distribution": "Normal", "loc": 0.0, "scale": [NEAR_ZERO, 0.5]},
    )


@functools.cache
def nets():
    return [
        Net("dense", _dense),
        Net("dense-TotalVariation", _dense, TotalVariation(0.0005, axis=0), VARIATION),
        Net("dense-BoxPenalty", _dense, BoxPenalty(0.02, lower=-0.5, upper=0.5), OUTSIDE),
        Net("dense-GroupLasso", _dense, GroupLasso(0.0005, axis=0, group_size=3), NORMS),
        Net("dense-Prior", _dense, spike_and_slab(), WITHIN),
        Net("conv", _conv),
        Net("conv-GroupLasso", _conv, GroupLasso(0.001, axis="output"), NORMS),
        Net("lstm", _lstm),
        Net("lstm-TotalVariation", _lstm, TotalVariation(0.0003, axis=0), VARIATION),
    ]


PICTURED = ["dense", "dense-TotalVariation"]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A net, its penalty's value at the start and the end, and the trained weights and outcome."""

    net: Net
    penalty_start: float
    penalty_end: float
    weights: list[np.ndarray]
    accuracy: float
    outcome: Outcome


def _penalty_value(penalty, weights):
    return sum(float(penalty(weight)) for weight in weights) if penalty else 0.0


def _train(net, keras, data, epochs, seed, show):
    """The model of `net`, trained, and the `Trained` that describes it."""
    _, test_inputs, _, test_labels = data
    keras.utils.set_random_seed(seed)
    model, penalized = net.build(keras, net.penalty)
    penalty_start = _penalty_value(net.penalty, penalized)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, number_of_steps(data, epochs))
    fit(model, keras, keras.optimizers.Adam(rate), data, epochs, show)
    outcome = outcome_of(model, test_inputs, test_labels)
    return model, Trained(
        net,
        penalty_start,
        penalty_end=_penalty_value(net.penalty, penalized),
        weights=[weight.numpy() for weight in penalized],
        accuracy=np.mean(outcome.predictions.argmax(axis=-1) == test_labels),
        outcome=outcome,
    )


def _report_training(results):
    plain = {result.net.build: result for result in results if not result.net.penalty}
    rows = [["net", "accuracy", "start", "end", "measure", "with it", "without it"]]
    for result in results:
        net, cells = result.net, ["-"] * 5
        if net.penalty:
            measure = functools.partial(MEASURES[net.measure], net.penalty)
            cells = [f"{value:.3g}" for value in (result.penalty_start, result.penalty_end)]
            cells += [net.measure, measure(result.weights), measure(plain[net.build].weights)]
        rows.append([net.name, f"{result.accuracy:.1%}", *cells])
    title = (
        "Penalties at the start and the end; and what each is for, measured with and without it:"
    )
    print_table("<>>><>>", rows, title)


def _mosaic(kernel):
    """The columns of a `(64, 32)` kernel as 8x8 tiles in 4 rows of 8, with NaN between them."""
    tiles = kernel.T.reshape(4, 8, 8, 8)
    framed = np.pad(tiles, [(0, 0), (0, 0), (1, 0), (1, 0)], constant_values=np.nan)
    return framed.transpose(0, 2, 1, 3).reshape(4 * 9, 8 * 9)[1:, 1:]


def _plot(figure, results):
    """Draws the weights of the first layers: one panel per net, one tile per unit."""
    limit = max(np.abs(result.weights[0]).max() for result in results)
    axes = figure.subplots(len(results), 1)
    for ax, result in zip(axes, results):
        image = ax.imshow(_mosaic(result.weights[0]), cmap="RdBu_r", vmin=-limit, vmax=limit)
        title = repr(result.net.penalty) if result.net.penalty else "no penalty"
        ax.set(title=title, facecolor="0.75", xticks=[], yticks=[])
    figure.suptitle("Weights of the first layer: one tile of 8x8 input pixels per unit")
    figure.colorbar(image, ax=axes, label="weight", shrink=0.6)


def run(epochs, out, keras_name, seed):
    """Trains the nets, prints what the penalties did, and checks that the models reload."""
    try:
        from matplotlib.figure import Figure
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError as error:
        sys.exit(f"tfreg demo: {error}. Install what it needs: pip install 'tfreg[demo]'")

    # TensorFlow would warn that each net is traced anew.
    tf.get_logger().setLevel("ERROR")
    keras = getattr(backend, keras_name)
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8).astype("float32") / 16.0
    data = train_test_split(
        images, labels, train_size=TRAINING_EXAMPLES, stratify=labels, random_state=seed
    )
    print(f"scikit-learn's digits, {keras_name} {keras.__version__}, seed {seed}")
    names = [net.name for net in nets()] + [smaller.DENSE, smaller.WITH_ZEROS]
    shows = {
        name: progress_line(f"[{number:>2}/{len(names)}] {name:<20}", epochs)
        for number, name in enumerate(names, start=1)
    }
    models, results = {}, []
    for net in nets():
        models[net.name], trained = _train(net, keras, data, epochs, seed, shows[net.name])
        results.append(trained)
    wide, history = smaller.train(keras, data, epochs, seed, shows)
    models.update(wide)
    files = {name: out / f"{name}.keras" for name in models}
    for name, model in models.items():
        model.save(files[name])
    _report_training(results)
    _, test_inputs, _, test_labels = data
    test_set = test_inputs, test_labels
    smaller.compare(wide, files, images, test_set)

    reloaded = outcomes_in_fresh_process(keras_name, *test_set, files.values())
    saved = [result.outcome for result in results]
    saved += [outcome_of(model, *test_set) for model in wide.values()]
    report_reload([file.name for file in files.values()], saved, reloaded)

    pictures = smaller.report_and_plot(wide, history, out)
    figure = Figure(figsize=(8, 8), layout="constrained")
    _plot(figure, [result for result in results if result.net.name in PICTURED])
    pictures.append(out / "total_variation.png")
    figure.savefig(pictures[-1], dpi=150)
    drawn = ", ".join(picture.name for picture in pictures)
    print(f"\nThe models are in {out}, and so are {drawn}")
