"""GroupLasso over inputs as feature selection: real features among shuffled copies of them."""

import functools

import keras
import numpy as np
import tensorflow as tf
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.feature_selection import SelectFromModel
from sklearn.inspection import permutation_importance
from sklearn.metrics import average_precision_score

import tfreg
from benchmarks.worth import contenders, data
from benchmarks.worth.protocol import Case, Contender, Outcome
from benchmarks.worth.training import Trainer, softmax_loss, squared_loss

layers = keras.layers
COPIES = 3
# An input counts as kept whose weights have more than this share of the largest norm.
KEPT = 0.01
EXAMPLES = {"breast cancer": 60, "wine": 40, "diabetes": 100, "affairs": 1000}
QUICK = {"breast cancer, 60 examples"}
FROM_MODEL, PERMUTATION = "SelectFromModel", "permutation importance"


def build(inputs, outputs, drop):
    first = layers.Dense(16, activation="relu", name="first")
    return keras.Sequential([keras.Input((inputs,)), first, drop(), layers.Dense(outputs)])


def columns_of(name, features):
    """The columns of each feature: of the survey one for each answer, otherwise one."""
    if name != "affairs":
        return [[index] for index in range(features)]
    ends = np.cumsum(list(data.ANSWERS.values()))
    return [list(range(end - width, end)) for width, end in zip(data.ANSWERS.values(), ends)]


def with_noise(x, features, seed):
    """Appends copies of all features, the rows of each in an order of its own."""
    rng = np.random.default_rng(seed)
    noise = [x[rng.permutation(len(x))][:, columns] for _ in range(COPIES) for columns in features]
    return np.concatenate([x, *noise], axis=1)


def with_copies(features):
    width = sum(map(len, features))
    shifts = [copy * width for copy in range(COPIES + 1)]
    return [[index + shift for index in columns] for shift in shifts for columns in features]


class _Network:
    """What scikit-learn takes for a fitted estimator, less is better."""

    def __init__(self, trainer):
        self._trainer = trainer

    def fit(self, x, y):
        raise NotImplementedError

    def score(self, x, y):
        return -self._trainer.errors(tf.constant(x, tf.float32), y)[0]


def importances(name, trainer, parts, seed):
    """How much each column matters, to a forest or to the network on the validation part."""
    x, y = parts.train
    if name == PERMUTATION:
        network = _Network(trainer)
        return permutation_importance(
            network, *parts.validation, random_state=seed
        ).importances_mean
    forest = RandomForestRegressor if data.is_regression(parts.train) else RandomForestClassifier
    selector = SelectFromModel(forest(random_state=seed)).fit(x, y.ravel())
    return selector.estimator_.feature_importances_


def figures(importance, kept, features):
    """Of what is kept of features of which the first are real, and of the order of all."""
    real = np.arange(len(features)) < len(features) // (COPIES + 1)
    return recovery(real, kept) | {
        "average precision": float(average_precision_score(real, importance)),
    }


def recovery(real, kept):
    """How well what is kept is what is real; nothing kept counts as 0."""
    found = (real & kept).sum()
    return {
        "precision": float(found / max(1, kept.sum())),
        "recall": float(found / real.sum()),
        "F1": float(2 * found / (kept.sum() + real.sum())),
    }


def _fit_with(name, folder):
    def fit_with(contender, plan):
        everything = data.load(name, folder)
        features = columns_of(name, everything.x.shape[1])
        listed = with_copies(features)
        regression = data.is_regression(everything)
        outputs = 1 if regression else int(everything.y.max()) + 1
        make = functools.partial(build, everything.x.shape[1] * (COPIES + 1), outputs)
        trainer = Trainer(make, contender, squared_loss if regression else softmax_loss)

        @functools.cache
        def parts(seed):
            noisy = data.Data(with_noise(everything.x, features, seed), everything.y)
            return data.split(noisy, seed, EXAMPLES[name])

        @functools.cache
        def ranked(seed):
            if contender.name == PERMUTATION:
                train = data.on_device(parts(seed)).train
                trainer.train(seed, 0.0, train.x, train.y, plan.steps)
            return importances(contender.name, trainer, parts(seed), seed)

        def fit(strength, seed):
            mask = np.ones(everything.x.shape[1] * (COPIES + 1), np.float32)
            if contender.name in (FROM_MODEL, PERMUTATION):
                number = max(1, round(strength * len(mask)))
                mask[np.argsort(-ranked(seed))[number:]] = 0.0
            masked = data.Parts(*(data.Data(part.x * mask, part.y) for part in parts(seed)))
            train, validation, test = data.on_device(masked)
            trainer.train(seed, strength, train.x, train.y, plan.steps)
            if contender.name in (FROM_MODEL, PERMUTATION):
                by_column, kept_columns = ranked(seed), mask > 0.0
            else:
                by_column = np.linalg.norm(trainer.model.get_layer("first").kernel, axis=1)
                kept_columns = by_column > KEPT * by_column.max()
            importance = np.array([by_column[columns].max() for columns in listed])
            kept = np.array([kept_columns[columns].any() for columns in listed])
            found = {"test error": trainer.errors(*test)[1]} | figures(importance, kept, listed)
            return Outcome(trainer.errors(*validation)[0], lambda: found)

        return fit

    return fit_with


def cases(available, folder):
    for name, examples in EXAMPLES.items():
        if name not in available:
            continue

        def lasso(title, **arguments):
            penalty = tfreg.GroupLasso(1.0, axis="input", size_weighted=True, **arguments)
            limits, where = contenders.L1_RANGE, "first/kernel"
            return Contender(title, *limits, penalty, where, proximal=True, ours=True)

        named = [
            *contenders.usual(),
            Contender(FROM_MODEL, 0.02, 1.0),
            Contender(PERMUTATION, 0.02, 1.0),
            lasso("GroupLasso"),
        ]
        if name == "affairs":
            listed = with_copies(columns_of(name, 0))
            named.append(lasso("GroupLasso of lists", groups=listed))
        yield Case(f"{name}, {examples} examples", named, _fit_with(name, folder))
