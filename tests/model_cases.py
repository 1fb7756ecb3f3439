"""Models of every kind that compute `x A B C`, and NumPy's account of how they train."""

import functools

import keras
import numpy as np
import tensorflow as tf
import tf_keras

import tfreg

WIDTHS = (6, 5, 4, 2)
RATE = 0.05
BATCHES, BATCH = 4, 8


def dense(api, units, **kwargs):
    return api.layers.Dense(units, use_bias=False, **kwargs)


@functools.cache
def chain_class(api):
    """A subclassed model, registered."""

    class Chain(api.Model):
        def __init__(self, hidden=WIDTHS[1:3], **kwargs):
            super().__init__(**kwargs)
            self.hidden = list(hidden)
            self.blocks = [dense(api, units) for units in hidden]
            self.out = dense(api, WIDTHS[3])

        def call(self, x):
            for block in self.blocks:
                x = block(x)
            return self.out(x)

        def get_config(self):
            return {**super().get_config(), "hidden": self.hidden}

    Chain.__qualname__ = f"Chain_{api.__name__}"  # pickle finds it by that name
    globals()[Chain.__qualname__] = Chain
    return api.saving.register_keras_serializable("tests")(Chain)


for _api in (keras, tf_keras):
    chain_class(_api)


@functools.cache
def keeper_class(api):
    """A wrapper, registered."""

    class Keeper(api.layers.Wrapper):
        """Keeps the kernel of its layer, as wrappers for pruning and quantization do."""

        def build(self, shape):
            if not self.layer.built:
                self.layer.build(shape)
                self.layer.built = True
            super().build(shape)
            self.kernel = self.layer.kernel

        def call(self, x):
            return self.layer(x)

        def compute_output_shape(self, shape):
            return self.layer.compute_output_shape(shape)

    return api.saving.register_keras_serializable("tests")(Keeper)


def sequential(api):
    layers = [dense(api, units) for units in WIDTHS[1:]]
    return api.Sequential([api.Input((WIDTHS[0],)), *layers])


def deferred(api):
    return api.Sequential([dense(api, units) for units in WIDTHS[1:]])


def functional(api):
    x = api.Input((WIDTHS[0],))
    y = x
    for units in WIDTHS[1:]:
        y = dense(api, units)(y)
    return api.Model(x, y)


def subclassed(api):
    return chain_class(api)()


def subclassed_built(api):
    model = subclassed(api)
    model(np.zeros((1, WIDTHS[0]), "float32"))
    return model


def nested(api):
    """A model in a model in a model: A and B are inside, each in another."""
    x = api.Input((WIDTHS[0],))
    inner = api.Sequential([api.Input((WIDTHS[1],)), dense(api, WIDTHS[2])])
    middle_input = api.Input((WIDTHS[0],))
    middle = api.Model(middle_input, inner(dense(api, WIDTHS[1])(middle_input)))
    return api.Model(x, dense(api, WIDTHS[3])(middle(x)))


KINDS = [sequential, deferred, functional, subclassed, subclassed_built, nested]
BUILT = [sequential, functional, subclassed_built, nested]


def mirrored(replicas):
    """A strategy of that many of this process's devices."""
    return tf.distribute.MirroredStrategy(
        [f"CPU:{i}" for i in range(replicas)],
        # Two strategies in one process die of collective operations.
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def data():
    rng = np.random.default_rng(0)
    size = BATCHES * BATCH
    return (
        rng.normal(size=(size, WIDTHS[0])).astype("float32"),
        rng.normal(size=(size, WIDTHS[3])).astype("float32"),
    )


def initial_weights():
    rng = np.random.default_rng(1)
    return [
        rng.normal(0, 0.5, size=shape).astype("float32") for shape in zip(WIDTHS[:-1], WIDTHS[1:])
    ]


def ordered(weights):
    """A, B and C, in whatever order a model lists them."""
    return sorted(weights, key=lambda w: -int(np.prod(w.shape)))


def set_initial_weights(model):
    if not model.built:
        model(np.zeros((1, WIDTHS[0]), "float32"))
    for variable, value in zip(ordered(model.trainable_weights), initial_weights(), strict=True):
        variable.assign(value)


RAMP = tfreg.schedules.CubicRamp(begin=1, end=6, start=0.25, peak=2.0)
PER_WEIGHT = tfreg.GroupLasso(0.05, axis="input", size_weighted=False)
JOINT = tfreg.Joint(tfreg.GroupLasso(0.02, axis=["output", "input"]))


def first_two(layer, weight):
    """A and B."""
    return tuple(weight.shape) in {WIDTHS[:2], WIDTHS[1:3]}


def add_penalties(model):
    """A penalty on each kernel and a joint one, each on a schedule and without one."""
    for schedule in (RAMP, None):
        tfreg.add_penalty(model, PER_WEIGHT, schedule=schedule)
        tfreg.add_penalty(model, JOINT, first_two, schedule=schedule)
    return model


def penalized_in_every_way(api, *normalization):
    """A model with the penalties of `add_penalties`, one of them as its layers' own argument.

    Args:
        normalization: layers behind the first one, if any.
    """
    first, *others = [dense(api, units, kernel_regularizer=PER_WEIGHT) for units in WIDTHS[1:]]
    model = api.Sequential([api.Input((WIDTHS[0],)), first, *normalization, *others])
    tfreg.add_penalty(model, PER_WEIGHT, schedule=RAMP)
    for schedule in (RAMP, None):
        tfreg.add_penalty(model, JOINT, first_two, schedule=schedule)
    return model


def ramp(step):
    t = min(max((step - RAMP.begin) / (RAMP.end - RAMP.begin), 0.0), 1.0)
    return RAMP.peak + (RAMP.start - RAMP.peak) * (1 - t) ** 3


def penalties(weights, per_weight=1.0, joint=1.0):
    """The value of the two penalties, times their multipliers, and its gradient."""
    gradients = [np.zeros_like(w) for w in weights]
    value = 0.0
    for w, gradient in zip(weights, gradients):
        for row, row_gradient in zip(w, gradient):
            norm = np.sqrt(np.sum(row**2))
            value += per_weight * 0.05 * norm
            row_gradient += per_weight * 0.05 * row / norm
    a, b = weights[:2]
    for unit in range(WIDTHS[1]):
        norm = np.sqrt(np.sum(a[:, unit] ** 2) + np.sum(b[unit] ** 2))
        strength = joint * 0.02 * np.sqrt(WIDTHS[0] + WIDTHS[2])
        value += strength * norm
        gradients[0][:, unit] += strength * a[:, unit] / norm
        gradients[1][unit] += strength * b[unit] / norm
    return value, gradients


def penalties_at(weights, step):
    return penalties(weights, 1 + ramp(step), 1 + ramp(step))


def loss(weights, x, y, step):
    a, b, c = weights
    return np.mean((x @ a @ b @ c - y) ** 2) + penalties_at(weights, step)[0]


def train(epochs, first_step=0, weights=None):
    """The mean loss of each epoch of gradient descent, and the weights at the end."""
    x, y = (array.astype("float64") for array in data())
    weights = [w.astype("float64") for w in (weights or initial_weights())]
    history, step = [], first_step
    for _ in range(epochs):
        losses = []
        for batch in range(BATCHES):
            rows = slice(batch * BATCH, (batch + 1) * BATCH)
            a, b, c = weights
            losses.append(loss(weights, x[rows], y[rows], step))
            residual = 2 * (x[rows] @ a @ b @ c - y[rows]) / y[rows].size
            gradients = [
                x[rows].T @ residual @ c.T @ b.T,
                (x[rows] @ a).T @ residual @ c.T,
                (x[rows] @ a @ b).T @ residual,
            ]
            weights = [
                w - RATE * (gradient + penalty_gradient)
                for w, gradient, penalty_gradient in zip(
                    weights, gradients, penalties_at(weights, step)[1]
                )
            ]
            step += 1
        history.append(np.mean(losses))
    return history, weights


def evaluation(weights, step):
    """What `evaluate` gives after that many steps."""
    return loss([w.astype("float64") for w in weights], *data(), step)


def compiled(model, api, **arguments):
    model.compile(api.optimizers.SGD(RATE), api.losses.MeanSquaredError(), **arguments)
    return model


def fit(model, epochs=1):
    x, y = data()
    history = model.fit(x, y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0)
    return history.history["loss"]


def kernels(model):
    """A, B and C as arrays."""
    return [np.asarray(variable) for variable in ordered(model.trainable_weights)]


def assert_trained(model, expected):
    for actual, weight in zip(kernels(model), expected, strict=True):
        np.testing.assert_allclose(actual, weight, rtol=1e-5, atol=1e-6)


def counted(step, traces, model):
    """The train `step` of a model, which notes each time that it is traced."""

    def counting(data):
        traces.append(model)
        return step(data)

    return counting
