"""A model that is traced once and trained many times: for each strength, each seed, each data."""

import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfreg
from benchmarks.worth import data
from benchmarks.worth.protocol import NO_INPUTS, Outcome


@functools.cache
def strength_variable():
    """What every contender is tuned by: a multiplier of a penalty, the odds of dropout, ..."""
    return tf.Variable(0.0, trainable=False, name="strength")


@keras.saving.register_keras_serializable("benchmarks.worth")
def strength(step):
    """As a schedule that reads the variable, so that a traced step sees its new value."""
    return tf.convert_to_tensor(strength_variable())


class Dropout(keras.layers.Layer):
    """Dropout whose odds are the strength; what it drops depends on `seed` and the call alone."""

    def __init__(self):
        super().__init__()
        self.state = self.add_weight(
            shape=(2,), dtype="int32", initializer="zeros", trainable=False
        )

    def call(self, inputs, training=False):
        if not training:
            return inputs
        self.state.assign_add([0, 1])
        seed = tf.convert_to_tensor(self.state)
        odds = strength(None)
        return tf.nn.experimental.stateless_dropout(inputs, odds / (1.0 + odds), seed)


def softmax_loss(labels, outputs):
    """The cross-entropies, one for each example."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs)


def squared_loss(targets, outputs):
    return tf.reduce_mean((outputs - targets) ** 2, axis=-1)


def gaussian_loss(squared_error, variance):
    """The negative log likelihood of targets around the outputs, with that variance."""
    return 0.5 * (np.log(2.0 * np.pi * variance) + squared_error / variance)


def adam():
    return keras.optimizers.Adam(0.02)


def momentum(rate=0.04):
    """For the linear case. With it proximal steps of MCP end at a minimum, too.

    They have the length rate / (1 - momentum). Where MCP is concave one multiplies a weight by
    1 / (1 - length * strength / threshold). That times the momentum must stay below 1, or weights
    may never settle: it is 0.92 here, and 1.13 with 0.03 and 0.9.
    """
    return keras.optimizers.SGD(rate, momentum=0.8)


class Trainer:
    """Trains the model that `build` returns for a class of dropout layers.

    Args:
        build: a function of the layer's class, `Dropout` or `keras.layers.Identity`.
        contender: the contender, which says what is added to the training.
        loss: `softmax_loss` or `squared_loss`.
        make_optimizer: a function without arguments.
        batch: the examples of a step, drawn anew for each; None for all.
        falls: whether the learning rate falls to 0, in a half cosine over the steps.
        metric: that of proximal steps.
        jit_compile: whether XLA compiles the steps, which pays where each of them is small.
    """

    def __init__(
        self,
        build,
        contender,
        loss=softmax_loss,
        make_optimizer=adam,
        batch=None,
        falls=True,
        metric="diagonal",
        jit_compile=False,
    ):
        self._build = functools.partial(
            build, Dropout if contender.drops_out else keras.layers.Identity
        )
        self._loss, self._batch, self._falls = loss, batch, falls
        self._initial: dict[int, list[np.ndarray]] = {}
        self.model = self._build()
        optimizer: Any = make_optimizer()
        self._rate = float(optimizer.learning_rate)
        schedule = strength if contender.multiplied else None
        if contender.proximal:
            terms = [(weights, penalty, schedule) for weights, penalty in contender.terms()]
            optimizer = tfreg.Proximal(optimizer, self.model, terms, metric=metric)
        else:
            step = optimizer if schedule else None
            for weights, penalty in contender.terms():
                tfreg.add_penalty(self.model, penalty, weights, schedule, step)
        self._constraint, self._stops_early = contender.constraint, contender.stops_early
        self._constrained = [] if contender.constraint is None else self._named(contender.weights)
        optimizer.build(self.model.trainable_variables)
        self._optimizer = optimizer
        self._fresh = [variable.numpy() for variable in optimizer.variables]
        # Otherwise another number of examples would be traced anew.
        x = tf.TensorSpec([None, *self.model.input_shape[1:]])
        y = tf.TensorSpec([None, 1]) if loss is squared_loss else tf.TensorSpec([None], tf.int32)
        numbers = [tf.TensorSpec([], tf.int32)] * 3
        self._train = tf.function(
            self._steps, input_signature=[x, y, *numbers], jit_compile=jit_compile
        )
        self.predict = tf.function(self._outputs, input_signature=[x])

    def _named(self, name):
        """The weights of that name; without one, the kernels."""
        if name is None:
            return [weight for weight in self.model.trainable_variables if len(weight.shape) > 1]
        return [weight for weight in self.model.trainable_variables if weight.name == name]

    def train(self, seed, strength, x, y, steps, weights=None):
        """Trains from the weights that `seed` gives, or from `weights`, the trainable ones."""
        self._reset(seed, weights)
        strength_variable().assign(strength)
        stop = max(1, round(strength * steps)) if self._stops_early else steps
        self._train(x, y, *(tf.constant(count) for count in (seed, steps, stop)))

    def errors(self, x, y):
        """The mean loss, and the share of wrong answers or the mean squared error."""
        outputs = self.predict(x)
        loss = float(np.mean(self._loss(y, outputs)))
        # Of outputs that are not numbers argmax picks the first class, which may well be right.
        if self._loss is squared_loss or not np.isfinite(loss):
            return loss, loss
        return loss, float(np.mean(np.argmax(outputs, axis=-1) != y))

    def _reset(self, seed, weights):
        if seed not in self._initial:
            keras.utils.set_random_seed(seed)
            self._initial[seed] = self._build().get_weights()
        self.model.set_weights(self._initial[seed])
        for variable, value in zip(self.model.trainable_variables, weights or ()):
            variable.assign(value)
        dropouts = [layer for layer in self.model.layers if isinstance(layer, Dropout)]
        for number, layer in enumerate(dropouts):
            # Far apart, so that no layer drops what another one does in any step.
            layer.state.assign([seed, number << 20])
        for variable, value in zip(self._optimizer.variables, self._fresh):
            variable.assign(value)

    def _outputs(self, x):
        return self.model(x, training=False)

    def _steps(self, x, y, seed, steps, stop):
        weights = self.model.trainable_variables
        for step in tf.range(stop):
            if self._batch is not None:
                places = tf.random.stateless_uniform(
                    [self._batch], [seed, step], 0, tf.shape(x)[0], tf.int32
                )
                inputs, targets = tf.gather(x, places), tf.gather(y, places)
            else:
                inputs, targets = x, y
            with tf.GradientTape() as tape:
                outputs = self.model(inputs, training=True)
                value = tf.reduce_mean(self._loss(targets, outputs))
                value = tf.add_n([value, *self.model.losses])
            gradients = tape.gradient(value, weights)
            if self._falls:
                turn = np.pi * tf.cast(step, tf.float32) / tf.cast(steps, tf.float32)
                self._optimizer.learning_rate.assign(self._rate * 0.5 * (1.0 + tf.cos(turn)))
            self._optimizer.apply(gradients, weights)
            for weight in self._constrained:
                weight.assign(self._constraint(weight, strength(None)))


def trainers(contender, create):
    """A function from a strength to its trainer, which is one for all strengths where it can be."""
    if contender.make is None:
        made = create(contender)
        return lambda strength: made

    @functools.cache
    def trainer(strength):
        return create(contender.made(strength))

    return trainer


def head(everything):
    """The number of outputs, and the loss."""
    if data.is_regression(everything):
        return 1, squared_loss
    return int(everything.y.max()) + 1, softmax_loss


def shown_to(contender, parts):
    """The parts as the contender sees them."""
    return data.without_inputs(parts) if contender.name == NO_INPUTS else parts


def fit_by_examples(build, load, examples, with_loss=False):
    """A `Case.fit_with` that trains on so many examples, and tests on those that are left.

    `build` takes the shape of an example, the number of outputs and the class of dropout layers.
    The loss is reported too if asked for, at the strength that did best by it: the negative log
    likelihood of a test example, whose target has the variance that the validation part shows.
    """

    def fit_with(contender, plan):
        everything = load()
        outputs, loss = head(everything)
        build_model = functools.partial(build, everything.x.shape[1:], outputs)
        trainer_of = trainers(contender, lambda each: Trainer(build_model, each, loss))

        @functools.cache
        def parts(seed):
            return data.on_device(shown_to(contender, data.split(everything, seed, examples)))

        def fit(strength, seed):
            train, validation, test = parts(seed)
            trainer = trainer_of(strength)
            trainer.train(seed, strength, *train, plan.steps)
            validation_loss, validation_error = trainer.errors(*validation)
            test_loss, error = trainer.errors(*test)
            judged: dict = {"error": (validation_error, validation_loss)}
            figures: dict = {"error": lambda: {"test error": error}}
            if with_loss:
                if data.is_regression(everything):
                    test_loss = gaussian_loss(test_loss, variance=validation_loss)
                judged["loss"] = (validation_loss,)
                figures["loss"] = lambda: {"test loss": test_loss}
            return Outcome(judged, figures)

        return fit

    return fit_with
