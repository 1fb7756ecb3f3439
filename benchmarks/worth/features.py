"""GroupLasso over inputs as feature selection: real features among shuffled copies of them."""

import functools

import keras
import numpy as np
import tensorflow as tf
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.inspection import permutation_importance
from sklearn.metrics import average_precision_score

import tfreg
from benchmarks.worth import contenders, data
from benchmarks.worth.protocol import NO_INPUTS, Case, Contender, Outcome
from benchmarks.worth.training import Trainer, head, shown_to

layers = keras.layers
COPIES = 3
# An input counts as kept whose weights have more than this share of the largest norm.
KEPT = 0.01
EXAMPLES = {"breast cancer": 60, "wine": 40, "diabetes": 100, "affairs": 1000}
COLUMNS = {"breast cancer": 30, "wine": 13, "diabetes": 10, "affairs": sum(data.ANSWERS.values())}
QUICK = {"breast cancer, 60 examples"}
SELECTORS = FOREST, PERMUTATION = "SelectFromModel of a forest", "permutation importance"


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
    """What scikit-learn takes for a fitted estimator; its score is higher where it errs less."""

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
    return forest(random_state=seed).fit(x, y.ravel()).feature_importances_


def most_important(importance, number):
    """The mask of so many columns: those that SelectFromModel keeps, given `max_features`."""
    mask = np.zeros(len(importance), bool)
    mask[np.argsort(-importance, kind="stable")[:number]] = True
    return mask


def figures(importance, kept, features):
    """How well the kept features, and the order of all, agree with the real ones, the first."""
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
        outputs, loss = head(everything)
        make = functools.partial(build, everything.x.shape[1] * (COPIES + 1), outputs)
        trainer = Trainer(make, contender, loss)

        @functools.cache
        def parts(seed):
            noisy = everything._replace(x=with_noise(everything.x, features, seed))
            return data.split(noisy, seed, EXAMPLES[name])

        @functools.cache
        def ranked(seed):
            if contender.name == PERMUTATION:
                train = data.on_device(parts(seed)).train
                trainer.train(seed, 0.0, train.x, train.y, plan.steps)
            return importances(contender.name, trainer, parts(seed), seed)

        def judge(by_column, kept_columns):
            importance = np.array([by_column[columns].max() for columns in listed])
            kept = np.array([kept_columns[columns].any() for columns in listed])
            return figures(importance, kept, listed)

        def fit(strength, seed):
            shown = shown_to(contender, parts(seed))
            if contender.name in SELECTORS:
                selected = most_important(ranked(seed), round(strength))
                shown = data.Parts(*(part._replace(x=part.x * selected) for part in shown))
            train, validation, test = data.on_device(shown)
            trainer.train(seed, strength, train.x, train.y, plan.steps)
            validation_loss, validation_error = trainer.errors(*validation)
            found = {"test error": trainer.errors(*test)[1]}
            if contender.name in SELECTORS:
                found |= judge(ranked(seed), selected)
            elif contender.name != NO_INPUTS:
                norms = np.linalg.norm(trainer.model.get_layer("first").kernel, axis=1)
                found |= judge(norms, norms > KEPT * norms.max())
            judged: dict = {"error": (validation_error, validation_loss)}
            return Outcome(judged, {"error": lambda: found})

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
            *contenders.usual_for_tables(),
            # How many columns are kept, from the best alone to all.
            *(
                Contender(selector, 1, COLUMNS[name] * (COPIES + 1), natural=("least", "most"))
                for selector in SELECTORS
            ),
            lasso("GroupLasso"),
        ]
        if name == "affairs":
            listed = with_copies(columns_of(name, 0))
            named.append(lasso("GroupLasso of lists", groups=listed))
        yield Case(f"{name}, {examples} examples", named, _fit_with(name, folder))
