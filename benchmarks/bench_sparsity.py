"""What accuracy is left at which size?

    python -m benchmarks.bench_sparsity [--quick] [--only REGEX] [--seeds N] [--jobs N]
        [--data DIR] [--download] [--jit-compile] [--out FILE]

LeNet-5 on Fashion-MNIST for 6 epochs, and a small ResNet and a Transformer of two blocks on
scikit-learn's digits: trained dense, and to a budget of multiply-adds by `tfreg.Budget`.
`tfreg.compact` cuts out what is zero, and the outputs of the smaller model are checked against
those of the larger. *From scratch* is the accuracy of new models of the widths that were found,
trained in the same way. The learning rate is constant until healing begins, and falls to 0 from
there on.

Fashion-MNIST is that of Debian's package dataset-fashion-mnist, or in --data DIR; with --download
that of Keras. Without either LeNet-5 is left out. All of it takes hours on a CPU: --only picks
models and rows, and --jobs trains that many of them at a time, each in a process of its own.
"""

import concurrent.futures
import functools
import gzip
import multiprocessing
import os
import pathlib
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tfreg
from benchmarks import common

SEEDS, QUICK_SEEDS, QUICK_EPOCHS = 3, 1, 2
QUICK = re.compile("(resnet|transformer) (dense|budget 0.25)")
FOLDER = pathlib.Path("/usr/share/datasets/fashion-mnist")
FILES = ("{}-images-idx3-ubyte.gz", "{}-labels-idx1-ubyte.gz")
TOLERANCE = 1e-4
# Shares of the steps: removal begins and ends, and what is left is trained alone.
BEGIN, END, HEAL = 0.05, 0.5, 0.55
# For LeNet-5: multiply-adds, and the accuracy that at most as many are to reach.
LIMITS = [(410_000, 0.900), (225_000, 0.890), (120_000, 0.880)]
HEADER = [
    "model",
    "row",
    "accuracy",
    "of each seed",
    "from scratch",
    "units",
    "parameters",
    "multiply-adds",
]


class Given(NamedTuple):
    """A result that was not measured here."""

    row: str
    accuracy: float
    units: tuple[int, ...]
    parameters: int
    multiply_adds: int


# Of torchao's prototype PAT (group lasso by proximal steps in PyTorch): a net of these widths, the
# same data and epochs, one seed. How it scales pixels is not known.
GIVEN = {
    "lenet": [
        Given("PAT 0.001", 0.8891, (20, 28, 59), 41_639, 1_211_000),
        Given("PAT 0.002", 0.8793, (19, 17, 29), 16_803, 799_000),
        Given("PAT 0.004", 0.8603, (14, 11, 21), 8_162, 452_000),
        Given("PAT 0.008", 0.8219, (5, 5, 11), 1_771, 113_000),
    ]
}


def lenet():
    """LeNet-5 with the widths of Caffe's, and a ReLU behind each layer but the last."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(20, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(50, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(500, activation="relu"),
            layers.Dense(10),
        ]
    )


def resnet():
    """Three stages of one block, with projections as shortcuts."""
    layers = keras.layers

    def convolution(x, filters, size, strides=1):
        x = layers.Conv2D(filters, size, strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    image = keras.Input((8, 8, 1))
    x = layers.ReLU()(convolution(image, 16, 3))
    for filters, strides in ((16, 1), (32, 2), (64, 2)):
        residual = layers.ReLU()(convolution(x, filters, 3, strides))
        residual = convolution(residual, filters, 3)
        shortcut = x if strides == 1 else convolution(x, filters, 1, strides)
        x = layers.ReLU()(layers.Add()([residual, shortcut]))
    return keras.Model(image, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def transformer():
    """An encoder of two blocks over the 8 rows of an image: 64 features, 8 heads."""
    layers = keras.layers
    rows = keras.Input((8, 16))
    x = layers.Dense(64)(rows)
    for _ in range(2):
        normalized = layers.RMSNormalization()(x)
        attended = layers.MultiHeadAttention(num_heads=8, key_dim=8)(normalized, normalized)
        x = layers.Add()([x, attended])
        hidden = layers.Dense(256, activation="relu")(layers.RMSNormalization()(x))
        x = layers.Add()([x, layers.Dense(64)(hidden)])
    x = layers.GlobalAveragePooling1D()(layers.RMSNormalization()(x))
    return keras.Model(rows, layers.Dense(10)(x))


class Data(NamedTuple):
    """Images of bytes and their labels, and the largest that a pixel can be."""

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    largest: float


def _idx(path):
    """The array in a file of bytes: four for its type and rank, four for each length, the rest."""
    contents = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(contents, ">i4", count=contents[3], offset=4)
    return np.frombuffer(contents, np.uint8, offset=4 + 4 * contents[3]).reshape(shape)


def has_fashion(folder, download):
    return download or all((folder / name.format("train")).exists() for name in FILES)


@functools.cache
def fashion(folder, download):
    if download:
        parts = keras.datasets.fashion_mnist.load_data()
    else:
        parts = [[_idx(folder / name.format(part)) for name in FILES] for part in ("train", "t10k")]
    (images, labels), (test_images, test_labels) = parts
    return Data(images[..., None], labels, test_images[..., None], test_labels, 255.0)


@functools.cache
def digits(folder, download):
    """Digits, a quarter of them for the test."""
    pixels, labels = load_digits(return_X_y=True)
    images = pixels.reshape(-1, 8, 8, 1).astype(np.uint8)
    parts = train_test_split(images, labels, train_size=1347, stratify=labels, random_state=0)
    return Data(parts[0], parts[2], parts[1], parts[3], 16.0)


def as_rows(images):
    """The rows of images, each followed by its place, one-hot."""
    places = tf.broadcast_to(tf.eye(8), tf.concat([tf.shape(images)[:1], [8, 8]], axis=0))
    return tf.concat([images[..., 0], places], axis=-1)


def sgd(schedule):
    return keras.optimizers.SGD(schedule, momentum=0.9)


class Setup(NamedTuple):
    """A model, and how it is trained."""

    build: Callable
    data: Callable
    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: Callable
    shape_inputs: Callable = tf.identity


SETUPS = {
    "lenet": Setup(lenet, fashion, 6, 128, 0.05, sgd),
    "resnet": Setup(resnet, digits, 50, 64, 0.05, sgd),
    "transformer": Setup(transformer, digits, 50, 64, 2e-3, keras.optimizers.Adam, as_rows),
}


def to_budget(multiply_adds):
    def wrap(optimizer, model, steps):
        budget = tfreg.Budget(
            multiply_adds=multiply_adds, begin=BEGIN, end=END, heal=HEAL, steps=steps
        )
        return tfreg.Proximal(optimizer, model, budget)

    return wrap


def _ways(budgets):
    """What makes zeros, by the name of the row: a function that wraps an optimizer."""
    return {"dense": None} | {f"budget {budget:,}": to_budget(budget) for budget in budgets}


WAYS: dict[str, dict[str, Any]] = {
    "lenet": _ways((800_000, 410_000, 225_000, 120_000, 50_000)),
    "resnet": _ways((0.5, 0.25, 0.1)),
    "transformer": _ways((0.5, 0.25, 0.1)),
}


class Task(NamedTuple):
    """A row of the table with one seed, and what it takes to train it."""

    model: str
    row: str
    seed: int
    epochs: int
    folder: pathlib.Path
    download: bool
    jit_compile: bool


def inputs(setup, data, images):
    """What the model reads: pixels from 0 to 1."""
    return setup.shape_inputs(tf.cast(images, tf.float32) / data.largest)


def dataset(setup, data, seed):
    """Batches in another order in each epoch, all of one size: XLA compiles for each anew."""
    with tf.device("CPU"):  # where datasets compute
        images, labels = tf.constant(data.images), tf.constant(data.labels, tf.int32)

    def batch(indices):
        return inputs(setup, data, tf.gather(images, indices)), tf.gather(labels, indices)

    places = tf.data.Dataset.range(len(data.images)).shuffle(len(data.images), seed=seed)
    batches = places.batch(setup.batch_size, drop_remainder=True)
    return batches.map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def train(model, task, data, way=None):
    """Trains `model`; what `way` makes of its optimizer makes zeros."""
    setup = SETUPS[task.model]
    batches = dataset(setup, data, task.seed)
    steps = task.epochs * len(batches)
    heal = round(HEAL * steps)
    rate = setup.learning_rate
    schedule = keras.optimizers.schedules.CosineDecay(
        rate, decay_steps=steps - heal, warmup_target=rate, warmup_steps=heal
    )
    optimizer = setup.optimizer(schedule)
    model.compile(
        optimizer if way is None else way(optimizer, model, steps),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=task.jit_compile,
        steps_per_execution=len(batches),
    )
    model.fit(batches, epochs=task.epochs, shuffle=False, verbose=0)


def accuracy(outputs, data):
    return float(np.mean(outputs.argmax(axis=-1) == data.test_labels))


def multiply_adds(model):
    """The multiplications with kernels for one example."""
    total = 0
    for layer in model.layers:
        # What a kernel is applied to, once for each position.
        positions = np.prod(layer.output.shape[1:-1], dtype=int)
        kernels = [weight for weight in layer.trainable_weights if weight.name == "kernel"]
        total += positions * sum(np.prod(kernel.shape, dtype=int) for kernel in kernels)
    return int(total)


def measure(task):
    """The measurements of a task."""
    # Tensor cores would round what the answers are checked by.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    keras.utils.clear_session()
    start = time.perf_counter()
    setup, way = SETUPS[task.model], WAYS[task.model][task.row]
    data = setup.data(task.folder, task.download)
    test_inputs = inputs(setup, data, data.test_images)
    keras.utils.set_random_seed(task.seed)
    small = model = setup.build()
    train(model, task, data, way)
    outputs = model.predict(test_inputs, 1000, verbose=0)
    error = from_scratch = None
    if way is not None:
        small = tfreg.compact(model, optimizer=False)
        expected, outputs = outputs, small.predict(test_inputs, 1000, verbose=0)
        what = f"{task.model} {task.row} seed {task.seed}"
        error = common.check_answer(what, outputs, expected, TOLERANCE)
        keras.utils.set_random_seed(task.seed)
        new = keras.models.clone_model(small)
        train(new, task, data)
        from_scratch = accuracy(new.predict(test_inputs, 1000, verbose=0), data)
    return {
        "model": task.model,
        "row": task.row,
        "seed": task.seed,
        "accuracy": accuracy(outputs, data),
        "from_scratch": from_scratch,
        "units": [coupling.size for coupling in tfreg.couple(small)],
        "parameters": sum(int(np.prod(w.shape)) for w in small.trainable_weights),
        "multiply_adds": multiply_adds(small),
        "error": error,
        "seconds": time.perf_counter() - start,
    }


def tasks(options):
    """What the options ask for; those with the same seed first."""
    selected = []
    seeds = options.seeds or (QUICK_SEEDS if options.quick else SEEDS)
    for seed in range(seeds):
        for name, ways in WAYS.items():
            if name == "lenet" and not has_fashion(options.data, options.download):
                continue
            epochs = QUICK_EPOCHS if options.quick else SETUPS[name].epochs
            for row in ways:
                title = f"{name} {row}"
                if options.only.search(title) and (not options.quick or QUICK.search(title)):
                    how = options.data, options.download, options.jit_compile
                    selected.append(Task(name, row, seed, epochs, *how))
    return selected


def _as_they_end(asked, jobs):
    """The measurements of each task, in this process or in as many as `jobs`."""
    if jobs == 1:
        yield from map(measure, asked)
        return
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    # Otherwise each process would take all the cores, and all the memory of a GPU.
    environment = {
        "TF_NUM_INTRAOP_THREADS": os.environ.get("TF_NUM_INTRAOP_THREADS", threads),
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    spawn = multiprocessing.get_context("spawn")
    with mock.patch.dict(os.environ, environment):
        with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=spawn) as processes:
            done = [processes.submit(measure, task) for task in asked]
            for each in concurrent.futures.as_completed(done):
                yield each.result()


def by_row(measurements):
    """The measurements of each row, by model and row, in the order of the tables."""
    rows: dict = {(name, row): [] for name, ways in WAYS.items() for row in ways}
    for measured in measurements:
        rows[measured["model"], measured["row"]].append(measured)
    return {
        key: sorted(taken, key=lambda measured: measured["seed"])
        for key, taken in rows.items()
        if taken
    }


def mean(taken, key):
    return None if taken[0][key] is None else float(np.mean([each[key] for each in taken]))


def _decimal(share):
    return "-" if share is None else f"{share:.4f}"


def _units(units):
    return "-".join(map(str, units))


def table_rows(measurements):
    rows = by_row(measurements)
    last: dict = {name: row for name, row in rows}
    for (name, row), taken in rows.items():
        each = " ".join(_decimal(measured["accuracy"]) for measured in taken)
        yield [
            name,
            row,
            _decimal(mean(taken, "accuracy")),
            each,
            _decimal(mean(taken, "from_scratch")),
            ", ".join(_units(measured["units"]) for measured in taken),
            f"{mean(taken, 'parameters'):,.0f}",
            f"{mean(taken, 'multiply_adds'):,.0f}",
        ]
        for given in GIVEN.get(name, []) if row == last[name] else []:
            numbers = f"{given.parameters:,}", f"{given.multiply_adds:,}"
            units = _units(given.units)
            yield [name, given.row, _decimal(given.accuracy), "-", "-", units, *numbers]


def limits(measurements):
    """A line for each limit: whether it holds, and by which row."""
    rows = [
        (mean(taken, "accuracy"), row, taken)
        for (name, row), taken in by_row(measurements).items()
        if name == "lenet"
    ]
    for most, least in LIMITS if rows else []:
        small = [
            (value, row, len(taken))
            for value, row, taken in rows
            if max(measured["multiply_adds"] for measured in taken) <= most
        ]
        best = max(small, default=(0.0, "no row", 0))
        verdict = "holds" if best[0] >= least else "does not hold"
        yield (
            f"At most {most:,} multiply-adds with accuracy >= {least:.3f}: {verdict} "
            f"({best[1]}: {best[0]:.4f}, mean of {best[2]} seeds)"
        )


def main(arguments=None):
    parser = common.parser(__doc__)
    parser.add_argument(
        "--only", type=re.compile, default=re.compile(""), metavar="REGEX", help="models and rows"
    )
    parser.add_argument("--seeds", type=common.positive, metavar="N", help="0 to N - 1")
    parser.add_argument("--jobs", type=common.positive, default=1, metavar="N", help="at a time")
    parser.add_argument("--data", type=pathlib.Path, default=FOLDER, metavar="DIR")
    parser.add_argument("--download", action="store_true", help="Fashion-MNIST, by Keras")
    parser.add_argument("--jit-compile", action="store_true", help="train under XLA")
    options = parser.parse_args(arguments)
    print(common.environment_line())
    if not has_fashion(options.data, options.download):
        print(
            f"lenet is left out, since {options.data} has no Fashion-MNIST: install Debian's "
            "package dataset-fashion-mnist, name its folder by --data, or --download it."
        )
    measurements: list = []
    for measured in _as_they_end(tasks(options), options.jobs):
        measurements.append(measured)
        print(
            f"{measured['model']} {measured['row']} seed {measured['seed']}: "
            f"{measured['accuracy']:.4f}, from scratch {_decimal(measured['from_scratch'])}, "
            f"{_units(measured['units'])}, {measured['multiply_adds']:,} multiply-adds, "
            f"{measured['seconds']:.0f} s",
            flush=True,
        )
        if options.out:  # what is there counts even if the rest is cut short
            common.write_json(options.out, measurements)
    print()
    common.print_table(HEADER, list(table_rows(measurements)))
    print("", *limits(measurements), sep="\n")


if __name__ == "__main__":
    main()
