"""Quadratic as elastic weight consolidation: digits, then others or with pixels in disorder.

Two criteria choose. By *both tasks* is an upper bound: it takes 400 or 200 labels of the old task,
and who has those could train on them. By the *new task* the strongest is chosen that the new task
allows, as in De Lange et al., A continual learning survey: defying forgetting in classification
tasks, 2022; here it may cost 2 of 100 answers.
"""

import functools

import keras
import numpy as np
import tensorflow as tf

import tfreg
from benchmarks.worth import contenders, data
from benchmarks.worth.protocol import NONE, Case, Contender, Outcome
from benchmarks.worth.training import Trainer, softmax_loss, strength

layers = keras.layers
PERMUTED, SPLIT = "permuted digits, 400 examples each", "split digits, 200 examples each"
QUICK = {PERMUTED}
REPLAY = "replay of 5%"
OLD_L2, CONSOLIDATION = "L2 to the old weights", "Quadratic of the Fisher information"
# The label of an example that is replayed is that much more.
REPLAYED = 10
BOTH, NEW = "both tasks", "new task"
# How much more of the new task may be wrong than after plain training.
MARGIN = 0.02


def build(outputs, drop):
    hidden = layers.Dense(64, activation="relu", name="first")
    return keras.Sequential(
        [keras.Input((64,)), hidden, drop(), layers.Dense(outputs, name="last")]
    )


def digits():
    everything = data.load("digits")
    return data.Data(everything.x.reshape(-1, 64), everything.y)


def permuted(seed):
    """The parts of both tasks: the second has the same digits, their pixels in another order."""
    old = data.split(digits(), seed, 400)
    order = np.random.default_rng(seed).permutation(64)
    new = data.Parts(*(data.Data(part.x[:, order], part.y) for part in old))
    return data.on_device(old), data.on_device(new)


def split_in_two(seed):
    """The parts of both tasks: 0 to 4, then 5 to 9, for which the same outputs stand."""
    x, y = digits()
    halves = (data.Data(x[half], y[half] % 5) for half in (y < 5, y >= 5))
    old, new = (data.on_device(data.split(half, seed, 200)) for half in halves)
    return old, new


@tf.function
def fisher_information(model, x):
    """Expected squares of the gradients of the log likelihood, of labels as the model expects them.

    Drawn labels would not do: a model that is sure of its answers hardly ever draws another, and
    what makes it sure would seem not to matter.
    """
    with tf.GradientTape() as tape:
        log_likelihoods = tf.nn.log_softmax(model(x))
        weighted = tf.stop_gradient(tf.exp(0.5 * log_likelihoods)) * log_likelihoods
    jacobians = tape.jacobian(weighted, model.trainable_weights)
    return [tf.reduce_mean(tf.reduce_sum(each**2, axis=1), axis=0) for each in jacobians]


def with_replay(old, new):
    """The new examples, and a twentieth as many of the old ones."""
    kept = len(old.x) // 20
    x = tf.concat([new.x, old.x[:kept]], axis=0)
    return data.Data(x, tf.concat([new.y, old.y[:kept] + REPLAYED], axis=0))


def loss(labels, outputs):
    """The cross-entropies, those of what is replayed times the strength."""
    losses = softmax_loss(labels % REPLAYED, outputs)
    return tf.where(labels >= REPLAYED, strength(None) * losses, losses)


def by_new_task(error, plain_error, weakness):
    """Less is better: by how much the margin is exceeded, then a smaller weakness."""
    # Errors that are equal as fractions are not always as floats.
    return max(0.0, round(error - plain_error - MARGIN, 9)), weakness


def _fit_with(tasks, outputs):
    build_model = functools.partial(build, outputs)

    def fit_with(contender, plan):
        learner = Trainer(build_model, Contender(NONE))
        parts = functools.cache(tasks)

        @functools.cache
        def learned(seed):
            """The weights after the first task, and the precision of the penalty at each."""
            old, _ = parts(seed)
            learner.train(seed, 0.0, old.train.x, old.train.y, plan.steps)
            precisions = [1.0] * len(learner.model.trainable_weights)
            if contender.name == CONSOLIDATION:
                precisions = [
                    each.numpy() for each in fisher_information(learner.model, old.train.x)
                ]
            return [weight.numpy() for weight in learner.model.trainable_weights], precisions

        @functools.cache
        def plain_error(seed):
            _, new = parts(seed)
            learner.train(seed, 0.0, new.train.x, new.train.y, plan.steps, learned(seed)[0])
            return learner.errors(*new.validation)[1]

        @functools.cache
        def trainer_of(seed):
            if seed is None:
                return Trainer(build_model, contender, loss)
            terms = [
                ("/".join(weight.path.split("/")[-2:]), tfreg.Quadratic(1.0, center, precision))
                for weight, center, precision in zip(
                    learner.model.trainable_weights, *learned(seed)
                )
            ]
            return Trainer(build_model, contender._replace(penalty=terms))

        def fit(strength, seed):
            old, new = parts(seed)
            start, _ = learned(seed)
            trainer = trainer_of(seed if contender.name in (OLD_L2, CONSOLIDATION) else None)
            train = with_replay(old.train, new.train) if contender.name == REPLAY else new.train
            trainer.train(seed, strength, train.x, train.y, plan.steps, start)
            old_loss, old_error = trainer.errors(*old.validation)
            new_loss, new_error = trainer.errors(*new.validation)
            # The fewer steps, the less is forgotten.
            weakness = strength if contender.stops_early else -strength
            judged = {
                BOTH: (old_error + new_error, old_loss + new_loss),
                NEW: by_new_task(new_error, plain_error(seed), weakness),
            }
            forgotten, learnt = trainer.errors(*old.test)[1], trainer.errors(*new.test)[1]
            figures = {"old error": forgotten, "new error": learnt}
            figures["mean error"] = (forgotten + learnt) / 2
            by_new = {f"{name}, chosen by the {NEW}": value for name, value in figures.items()}
            return Outcome(judged, {BOTH: lambda: figures, NEW: lambda: by_new})

        return fit

    return fit_with


def cases(available, folder):
    named = [
        *contenders.usual(),
        # A Quadratic of precision 1, but also a few lines of Keras: it counts as one of the others.
        Contender(OLD_L2, 1e-4, 1.0),
        # The weight of a replayed example in the loss. At the most only what is replayed counts
        # until it is fitted: a limit.
        Contender(REPLAY, 0.1, 1e5, natural=("least", "most")),
        Contender(CONSOLIDATION, 1.0, 1e4, ours=True),
    ]
    yield Case(PERMUTED, named, _fit_with(permuted, 10))
    yield Case(SPLIT, named, _fit_with(split_in_two, 5))
