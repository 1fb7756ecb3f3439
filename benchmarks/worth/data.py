"""Real data that packages ship, without a network."""

import functools
import importlib.util
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import tensorflow as tf
from sklearn import datasets
from sklearn.model_selection import train_test_split

from benchmarks import bench_sparsity

# Both ship these series under datasets/data.
SERIES_PACKAGES, PARTS = ["sktime", "aeon"], ["TRAIN", "TEST"]
MOST_TESTED = 1000


class Data(NamedTuple):
    """Examples and their labels, integers, or targets, floats of shape (examples, 1)."""

    x: np.ndarray
    y: np.ndarray


class Table(Data):
    """Data that `split` standardizes, inputs and targets, by the part to train on."""


class Parts(NamedTuple):
    train: Data
    validation: Data
    test: Data


def _inside(package, path):
    """The path in an installed package, which is not imported; None where it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    found = pathlib.Path(spec.submodule_search_locations[0]) / path
    return found if found.exists() else None


def series_folder(name):
    """Where the series of that name are, of the first package that has them; None without."""
    for package in SERIES_PACKAGES:
        files = [_inside(package, f"datasets/data/{name}/{name}_{part}.ts") for part in PARTS]
        if None not in files:
            return files[0].parent
    return None


def _read_series(path):
    """The series of a .ts file, each a line of numbers, and what follows the last colon."""
    lines = path.read_text().lower().partition("@data\n")[2].splitlines()
    fields = [line.rpartition(":") for line in lines if line.strip()]
    numbers = np.array([np.array(series.split(","), np.float32) for series, _, _ in fields])
    return numbers, np.array([answer for _, _, answer in fields])


def _series(name):
    def load(folder):
        files = [series_folder(name) / f"{name}_{part}.ts" for part in PARTS]
        numbers, answers = map(np.concatenate, zip(*map(_read_series, files)))
        return Data(numbers[..., None], np.unique(answers, return_inverse=True)[1].astype(np.int32))

    return load


def standardized(columns, by=None):
    """Scales columns by the mean and the standard deviation of `by`, by default their own."""
    by = columns if by is None else by
    scale = by.std(axis=0)
    # A column may be constant over few examples.
    return ((columns - by.mean(axis=0)) / np.where(scale > 0.0, scale, 1.0)).astype(np.float32)


def _digits(folder):
    pixels, labels = datasets.load_digits(return_X_y=True)
    return Data(pixels.reshape(-1, 8, 8, 1).astype(np.float32) / 16.0, labels.astype(np.int32))


def _fashion(folder):
    images = bench_sparsity.fashion(folder, False)
    return Data(images.images.astype(np.float32) / 255.0, images.labels.astype(np.int32))


def _table(load_table, regression=False):
    def load(folder):
        columns, answers = load_table(return_X_y=True)
        if regression:
            return Table(columns, answers[:, None].astype(np.float32))
        return Table(columns, answers.astype(np.int32))

    return load


AFFAIRS = "datasets/fair/fair.csv"


# How many answers each question of the survey has.
ANSWERS = {
    "rate_marriage": 5,
    "age": 6,
    "yrs_married": 7,
    "children": 6,
    "religious": 4,
    "educ": 6,
    "occupation": 6,
    "occupation_husb": 6,
}


def _affairs(folder):
    """The answers to each question, one-hot, and whether there was an affair."""
    table = pd.read_csv(_inside("statsmodels", AFFAIRS))
    columns = [pd.get_dummies(table[name]).to_numpy(np.float32) for name in ANSWERS]
    return Data(np.concatenate(columns, axis=1), (table["affairs"] > 0).to_numpy(np.int32))


LOADERS: dict[str, Callable[[pathlib.Path], Data]] = {
    "GunPoint": _series("GunPoint"),
    "ItalyPowerDemand": _series("ItalyPowerDemand"),
    "digits": _digits,
    "Fashion-MNIST": _fashion,
    "breast cancer": _table(datasets.load_breast_cancer),
    "wine": _table(datasets.load_wine),
    "diabetes": _table(datasets.load_diabetes, regression=True),
    "affairs": _affairs,
}
SERIES = ["GunPoint", "ItalyPowerDemand"]
# What a case or a contender may take.
EVERYTHING = {*LOADERS, "skglm"}


@functools.cache
def load(name, folder=bench_sparsity.FOLDER):
    return LOADERS[name](folder)


def missing(folder):
    """What is not on this machine, each with how to get it."""
    result: dict[str, str] = {}
    for name in SERIES:
        if series_folder(name) is None:
            result[name] = f"{name} is left out: pip install sktime"
    if importlib.util.find_spec("skglm") is None:
        result["skglm"] = "skglm is left out: pip install skglm"
    if _inside("statsmodels", AFFAIRS) is None:
        result["affairs"] = "affairs is left out: pip install statsmodels"
    if not bench_sparsity.has_fashion(folder, download=False):
        result["Fashion-MNIST"] = (
            f"Fashion-MNIST is left out, since {folder} has none: install Debian's package "
            "dataset-fashion-mnist, or name its folder by --data."
        )
    return result


def is_regression(data):
    return data.y.dtype == np.float32


def split(data, seed, examples, tested=MOST_TESTED):
    """Parts drawn at random: as many to choose by as to train on, the rest for the test."""

    def cut(x, y, first, second):
        labels = None if is_regression(data) else y
        parts = train_test_split(
            x, y, train_size=first, test_size=second, stratify=labels, random_state=seed
        )
        return data._replace(x=parts[0], y=parts[2]), data._replace(x=parts[1], y=parts[3])

    left = min(tested, len(data.x) - 2 * examples)
    used, test = cut(data.x, data.y, 2 * examples, left)
    train, validation = cut(used.x, used.y, examples, examples)
    parts = Parts(train, validation, test)
    return Parts(*(_scaled(part, train) for part in parts)) if isinstance(data, Table) else parts


def _scaled(part, train):
    y = standardized(part.y, train.y) if is_regression(part) else part.y
    return part._replace(x=standardized(part.x, train.x), y=y)


def without_inputs(parts):
    return Parts(*(part._replace(x=np.zeros_like(part.x)) for part in parts))


def on_device(parts):
    return Parts(*(part._replace(x=tf.constant(part.x), y=tf.constant(part.y)) for part in parts))
