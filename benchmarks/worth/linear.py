"""SparseGroupLasso, MCP and GroupMCP in the linear case: what is found, and how much it shrinks."""

import functools

import keras
import numpy as np

import tfreg
from benchmarks.worth import contenders, data, features
from benchmarks.worth.protocol import Case, Contender, Outcome
from benchmarks.worth.training import Trainer, momentum, squared_loss, trainers

layers = keras.layers
NAME, EXAMPLES, NOISE = "breast cancer", 100, 0.2
# Each of 10 properties of the cells has a mean, an error and a worst value.
PROPERTIES, VALUES = 10, 3
# How many coefficients of how many properties are not 0.
TRUTHS = {"5 coefficients": (5, 1), "3 groups of 3": (3, 3), "3 groups, 2 of 3 in each": (3, 2)}
QUICK = {"3 groups of 3"}
# Beyond so many times the strength MCP is flat, in scikit-learn's scale, where the loss is halved.
GAMMA = 3.0
# skglm iterates until it has converged.
TIMES = 5
OURS = (2e-3, 2.0)
THEIRS = (1e-3, 1.0)
LISTS = features.with_copies([list(range(k, 30, PROPERTIES)) for k in range(PROPERTIES)])


def build(drop):
    return keras.Sequential([keras.Input((120,)), layers.Dense(1, name="first")])


def _skglm(name, alpha):
    import skglm  # which takes seconds

    if name == "skglm Lasso":
        return skglm.Lasso(alpha)
    if name == "skglm MCP":
        return skglm.MCPRegression(alpha, gamma=GAMMA)
    return skglm.GroupLasso(LISTS, alpha)


def problem(seed, groups, within):
    """Parts with targets of known coefficients on real columns, and these; of variance 1."""
    everything = data.load(NAME)
    single = [[index] for index in range(everything.x.shape[1])]
    x = features.with_noise(everything.x, single, seed)
    rng = np.random.default_rng(seed)
    truth = np.zeros(x.shape[1])
    for group in rng.choice(PROPERTIES, groups, replace=False):
        places = rng.choice(LISTS[group], within, replace=False)
        truth[places] = rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1.5, within)
    signal = x @ truth
    # Noise of that share of the variance of the targets.
    y = signal + rng.normal(size=len(x)) * signal.std() * np.sqrt(NOISE / (1.0 - NOISE))
    targets = ((y - y.mean()) / y.std()).astype(np.float32)[:, None]
    return data.split(data.Data(x, targets), seed, EXAMPLES), truth / y.std()


def figures(found, truth):
    size = np.abs(found)
    kept, real = size > features.KEPT * size.max(), truth != 0.0
    right = kept & real
    if right.any():
        shrunk = np.sum(np.sign(truth[right]) * found[right]) / np.abs(truth[right]).sum()
        bias = float(abs(1.0 - shrunk))
    else:
        bias = 1.0
    return features.recovery(real, kept) | {"bias": bias}


def _fit_with(groups, within):
    def fit_with(contender, plan):
        parts = functools.cache(lambda seed: problem(seed, groups, within))
        if contender.name.startswith("skglm"):

            def solve(strength, seed):
                (train, *others), truth = parts(seed)
                found = _skglm(contender.name, strength).fit(train.x, train.y.ravel())
                validation, test = (
                    float(np.mean((found.predict(part.x) - part.y.ravel()) ** 2)) for part in others
                )
                told = {"test error": test} | figures(found.coef_, truth)
                return Outcome(validation, lambda: told)

            return solve
        trainer_of = trainers(contender, lambda each: Trainer(build, each, squared_loss, momentum))

        def fit(strength, seed):
            split, truth = parts(seed)
            train, validation, test = data.on_device(split)
            trainer = trainer_of(strength)
            trainer.train(seed, strength, *train, plan.steps)
            found = trainer.model.get_layer("first").kernel.numpy()[:, 0]
            told = {"test error": trainer.errors(*test)[1]} | figures(found, truth)
            return Outcome(trainer.errors(*validation)[0], lambda: told)

        return fit

    return fit_with


def _ours():
    lists = {"axis": "input", "groups": LISTS}
    made = {
        "L1, proximal": lambda s: tfreg.SparseGroupLasso(s, l1_ratio=1.0),
        "MCP": lambda s: tfreg.MCP(s, threshold=GAMMA / 2.0 * s),
        "GroupLasso": lambda s: tfreg.GroupLasso(s, **lists),
        "SparseGroupLasso": lambda s: tfreg.SparseGroupLasso(s, **lists),
        "GroupMCP": lambda s: tfreg.GroupMCP(s, threshold=GAMMA / 2.0 * s, **lists),
    }
    for name, make in made.items():
        yield Contender(name, *OURS, weights="kernel", make=make, proximal=True, ours=True)


def cases(available, folder):
    named = [
        *contenders.usual(drops_out=False),
        *(Contender(f"skglm {name}", *THEIRS) for name in ("Lasso", "MCP", "GroupLasso")),
        *_ours(),
    ]
    for title, (groups, within) in TRUTHS.items():
        yield Case(title, named, _fit_with(groups, within), TIMES)
