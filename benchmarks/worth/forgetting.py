"""Quadratic as elastic weight consolidation: digits, then digits with their pixels in disorder."""

import functools

import keras
import numpy as np
import tensorflow as tf

import tfreg
from benchmarks.worth import contenders, data
from benchmarks.worth.protocol import NONE, Case, Contender, Outcome
from benchmarks.worth.training import Trainer

layers = keras.layers
EXAMPLES = 400
CASE = "permuted digits, 400 examples each"
QUICK = {CASE}
REPLAY = "replay of 5%"
OLD_L2, CONSOLIDATION = "L2 to the old weights", "Quadratic of the Fisher information"


def build(drop):
    hidden = layers.Dense(64, activation="relu", name="first")
    return keras.Sequential([keras.Input((64,)), hidden, drop(), layers.Dense(10, name="last")])


def tasks(seed):
    """The parts of both tasks: the second has the same digits, their pixels in another order."""
    everything = data.load("digits")
    flat = data.Data(everything.x.reshape(-1, 64), everything.y)
    old = data.split(flat, seed, EXAMPLES)
    order = np.random.default_rng(seed).permutation(64)
    new = data.Parts(*(data.Data(part.x[:, order], part.y) for part in old))
    return data.on_device(old), data.on_device(new)


def fisher_information(model, x, seed):
    """Mean squared gradients of the log likelihoods of labels that the model draws."""
    labels = tf.random.stateless_categorical(model(x), 1, [seed, 0])[:, 0]
    with tf.GradientTape() as tape:
        outputs = model(x)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs)
    jacobians = tape.jacobian(losses, model.trainable_weights)
    return [tf.reduce_mean(jacobian**2, axis=0).numpy() for jacobian in jacobians]


def _fit_with(contender, plan):
    learner = Trainer(build, Contender(NONE))
    parts = functools.cache(tasks)

    @functools.cache
    def learned(seed):
        """The weights that the first task gives, and how much it needs each."""
        old, _ = parts(seed)
        learner.train(seed, 0.0, old.train.x, old.train.y, plan.steps)
        fisher = fisher_information(learner.model, old.train.x, seed)
        return [weight.numpy() for weight in learner.model.trainable_weights], fisher

    @functools.cache
    def trainer_of(seed):
        if contender.name not in (OLD_L2, CONSOLIDATION):
            return Trainer(build, contender)
        weights, fisher = learned(seed)
        precisions = fisher if contender.name == CONSOLIDATION else [1.0] * len(weights)
        terms = [
            ("/".join(weight.path.split("/")[-2:]), tfreg.Quadratic(1.0, center, precision))
            for weight, center, precision in zip(
                learner.model.trainable_weights, weights, precisions
            )
        ]
        return Trainer(build, contender._replace(penalty=terms))

    def fit(strength, seed):
        old, new = parts(seed)
        x, y = new.train
        if contender.name == REPLAY:
            kept = EXAMPLES // 20
            copies = round(strength)
            x = tf.concat([x, *[old.train.x[:kept]] * copies], axis=0)
            y = tf.concat([y, *[old.train.y[:kept]] * copies], axis=0)
        trainer = trainer_of(seed if contender.name in (OLD_L2, CONSOLIDATION) else None)
        trainer.train(seed, strength, x, y, plan.steps, learned(seed)[0])
        forgotten, learnt = trainer.errors(*old.test)[1], trainer.errors(*new.test)[1]
        figures = {"old error": forgotten, "new error": learnt}
        figures["mean error"] = (forgotten + learnt) / 2
        validation = trainer.errors(*old.validation)[0] + trainer.errors(*new.validation)[0]
        return Outcome(validation, lambda: figures)

    return fit


def cases(available, folder):
    named = [
        *contenders.usual(),
        Contender(OLD_L2, 1e-3, 10.0),
        Contender(REPLAY, 1.0, 20.0),
        Contender(CONSOLIDATION, 1.0, 1e4, ours=True),
    ]
    yield Case(CASE, named, _fit_with)
