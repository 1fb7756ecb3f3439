"""SparseGroupLasso, MCP and GroupMCP in the linear case: what is found, and how much it shrinks."""

import functools

import keras
import numpy as np
import tensorflow as tf

import tfreg
from benchmarks.worth import contenders, data, features
from benchmarks.worth.protocol import Case, Contender, Outcome
from benchmarks.worth.training import Trainer, momentum, squared_loss, trainers

layers = keras.layers
NAME, EXAMPLES, NOISE = "breast cancer", 100, 0.2
# Each of 10 properties of the cells has a mean, an error and a worst value.
PROPERTIES, VALUES = 10, 3
COLUMNS = PROPERTIES * VALUES
# How many coefficients of how many properties are not 0.
TRUTHS = {"5 coefficients": (5, 1), "3 groups of 3": (3, 3), "3 groups, 2 of 3 in each": (3, 2)}
QUICK = {"3 groups of 3"}
# skglm iterates until it has converged to that tolerance. So have ours after so many steps, at
# the strengths that are chosen, but GroupMCP for one seed of 30.
TIMES, TOLERANCE = 100, 1e-6
L1_RANGE, L2_RANGE = (0.02, 0.64), (0.05, 5.0)
# skglm halves the squared error, so that its strengths are half as large for the same minimum.
SKGLM_RANGE = (L1_RANGE[0] / 2.0, L1_RANGE[1] / 2.0)
# MCP is flat beyond so many times the strength, in skglm's scale.
GAMMA = 3.0
# Least squares fits the noise after a few steps: these are 5 to 200 of 40,000. At the rate of the
# others the best moment is after about 4, where one step more or less is too much.
STOP_RANGE, STOP_RATE = (0.000125, 0.005), 0.004
SKGLM = LASSO, MCP, GROUP_LASSO = "skglm Lasso", "skglm MCP", "skglm GroupLasso"
LISTS = features.with_copies([list(range(k, COLUMNS, PROPERTIES)) for k in range(PROPERTIES)])


def build(drop):
    # Where MCP has several minima the start decides; skglm's is 0 too.
    layer = layers.Dense(1, kernel_initializer="zeros", name="first")
    return keras.Sequential([keras.Input((COLUMNS * (features.COPIES + 1),)), layer])


def solver(name, alpha):
    """The estimator of that name, with an intercept as the layer has a bias."""
    import skglm  # which takes seconds

    if name == LASSO:
        return skglm.Lasso(alpha, tol=TOLERANCE)
    if name == MCP:
        return skglm.MCPRegression(alpha, gamma=GAMMA, tol=TOLERANCE)
    return skglm.GroupLasso(LISTS, alpha, tol=TOLERANCE)


def make_trainer(contender):
    # Subgradients settle only if the rate falls. Proximal steps settle at any, and if it fell, the
    # momentum of longer steps would keep moving weights that should be 0.
    make_optimizer = functools.partial(momentum, STOP_RATE) if contender.stops_early else momentum
    falls = not contender.proximal
    options = {"falls": falls, "metric": "euclidean", "jit_compile": True}
    return Trainer(build, contender, squared_loss, make_optimizer, **options)


def problem(seed, groups, within):
    """Parts with targets of known coefficients on real columns, and these; of variance 1."""
    everything = data.load(NAME)
    single = [[index] for index in range(everything.x.shape[1])]
    # By all rows: with those to train on alone, the true coefficients would differ by split.
    x = data.standardized(features.with_noise(everything.x, single, seed))
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
    """How well the coefficients are found, and by which share their sum is off.

    That bias exceeds 1 if one column stands in for others that are much like it.
    """
    size = np.abs(found)
    # The same rule for all, and Keras's penalties leave no zeros.
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

        def outcome(seed, predict, found):
            (_, *others), truth = parts(seed)
            validation, test = (float(np.mean((predict(x) - y[:, 0]) ** 2)) for x, y in others)
            told = {"test error": test} | figures(found, truth)
            return Outcome({"error": (validation,)}, {"error": lambda: told})

        def solve(strength, seed):
            x, y = (each.astype(np.float64) for each in parts(seed)[0].train)
            solved = solver(contender.name, strength).fit(x, y[:, 0])
            return outcome(seed, solved.predict, solved.coef_)

        if contender.name in SKGLM:
            return solve
        trainer_of = trainers(contender, make_trainer)

        def fit(strength, seed):
            trainer = trainer_of(strength)
            trainer.train(seed, strength, *map(tf.constant, parts(seed)[0].train), plan.steps)
            found = trainer.model.get_layer("first").kernel.numpy()[:, 0]
            return outcome(seed, lambda x: trainer.predict(x).numpy()[:, 0], found)

        return fit

    return fit_with


def ours():
    """tfreg's penalties. Their strengths are twice those of skglm."""
    lists = {"axis": "input", "groups": LISTS, "size_weighted": False}
    shared = functools.partial(Contender, weights="kernel", proximal=True, ours=True)
    for name, penalty in {
        "L1, proximal": tfreg.SparseGroupLasso(1.0, l1_ratio=1.0),
        "GroupLasso": tfreg.GroupLasso(1.0, **lists),
        "SparseGroupLasso": tfreg.SparseGroupLasso(1.0, **lists),
    }.items():
        yield shared(name, *L1_RANGE, penalty)
    for name, make in {
        "MCP": lambda s: tfreg.MCP(s, threshold=GAMMA / 2.0 * s),
        "GroupMCP": lambda s: tfreg.GroupMCP(s, threshold=GAMMA / 2.0 * s, **lists),
    }.items():
        yield shared(name, *L1_RANGE, make=make)


def cases(available, folder):
    ranges = {"early stopping": STOP_RANGE, "L2": L2_RANGE, "L1": L1_RANGE}
    usual = contenders.with_ranges(contenders.usual(drops_out=False), ranges)
    named = [
        *(each._replace(natural=()) for each in usual),
        *(Contender(name, *SKGLM_RANGE) for name in SKGLM if "skglm" in available),
        *ours(),
    ]
    for title, (groups, within) in TRUTHS.items():
        yield Case(title, named, _fit_with(groups, within), TIMES)
