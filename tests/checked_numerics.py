"""Every penalty under tf.debugging.enable_check_numerics(), which holds for a whole process.

    python checked_numerics.py MODE

It prints how many weights were tried, and what was wrong.
"""

import json
import sys

import tensorflow as tf

# Before the cases are made: the constructor of a Prior computes densities.
tf.debugging.enable_check_numerics()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tf_keras  # noqa: E402
from cases import CASES, JOINT_CASES  # noqa: E402
from test_prior import HALF_LINE, made  # noqa: E402

import tfreg  # noqa: E402

# Besides float32, which all are tried in, one in turn for each case.
OTHER_DTYPES = ["float16", "bfloat16", "float64"]
# Of the penalties, for a process each.
PARTS = 3
MODES = {"eager": lambda function: function, "graph": tf.function}


def weights(shape):
    """A random weight, one with zeros among its entries and groups, one of zeros, a constant."""
    w = np.random.default_rng(0).normal(size=shape)
    with_zeros = np.where(np.abs(w) < 0.5, 0.0, w)
    with_zeros[..., 0] = 0.0
    with_zeros[0] = 0.0
    return [w, with_zeros, np.zeros(shape), np.full(shape, 0.1)]


def results(penalty, has_prox, order=1):
    """A function of a weight: the value, its derivatives up to `order`, the proximal operator."""

    def function(w):
        with tf.GradientTape() as outer:
            outer.watch(w)
            with tf.GradientTape() as inner:
                inner.watch(w)
                value = penalty(w)
            gradient = inner.gradient(value, w)
        given = [value, gradient]
        if order == 2:
            given.append(outer.gradient(gradient, w, unconnected_gradients="zero"))
        sizes = (0.0, 0.5, 1e30) if has_prox else ()
        return given + [penalty.prox(w, size) for size in sizes]

    return function


def tries_of_cases(compiled, part):
    for number, case in list(enumerate(CASES))[part::PARTS]:
        random, with_zeros, *others = weights((5, 4) if case.min_rank <= 2 else (2, 3, 2, 3, 2))
        function = compiled(results(case.penalty, case.has_prox))
        dtype = OTHER_DTYPES[number // PARTS % 3]
        yield (str(case), dtype), function, [tf.cast(with_zeros, dtype)]
        function = compiled(results(case.penalty, case.has_prox, order=2))
        for w in (random, with_zeros, *others):
            yield str(case), function, [tf.constant(w, tf.float32)]


def tries_of_joint_cases(compiled, part):
    # The last is a function of the tests' own, of norms with no gradient at 0.
    for case in JOINT_CASES[:-1][part::PARTS]:

        def function(*w, penalty=case.penalty):
            with tf.GradientTape() as tape:
                tape.watch(w)
                value = penalty(list(w))
            return value, tape.gradient(value, w)

        function = compiled(function)
        for each in zip(*map(weights, case.shapes)):
            yield str(case), function, [tf.constant(w, tf.float32) for w in each]


def tries_of_priors(compiled, part):
    for number, (name, parameters) in list(enumerate(HALF_LINE))[part::PARTS]:
        penalty = tfreg.Prior(name, 0.2, **parameters)
        function = compiled(results(penalty, has_prox=False, order=2))
        for w in ([0.0, 0.5, 2.0], [0.0, 0.0, 0.0], [0.1, 0.2, 0.3]):
            if is_finite_at(name, parameters, w):
                yield (name, w), function, [tf.constant(w)]
        dtype = OTHER_DTYPES[number // PARTS % 3]
        w = tf.constant([0.1, 0.2, 2.0], dtype)
        yield (name, dtype), compiled(results(penalty, has_prox=False)), [w]
    # So large that XLA compiles what is computed of it.
    penalty = [tfreg.Prior("HalfNormal", 0.1, scale=1.0), tfreg.GroupLasso(0.1)][part % 2]
    yield repr(penalty), compiled(results(penalty, has_prox=False)), [tf.zeros([2**18])]


TRIES = {"cases": tries_of_cases, "joint": tries_of_joint_cases, "priors": tries_of_priors}


def is_finite_at(name, parameters, w):
    tf.debugging.disable_check_numerics()
    density = made(name, parameters).log_prob(tf.constant(w, tf.float64))
    tf.debugging.enable_check_numerics()
    return np.isfinite(density).all()


def wrong(kind, part, mode):
    count, found = 0, []
    for what, function, arguments in TRIES[kind](MODES[mode], int(part)):
        count += 1
        try:
            given = tf.nest.flatten(function(*arguments))
        except tf.errors.InvalidArgumentError as error:
            found.append(f"{what}: {str(error).strip()[:300]}")
        else:
            if not all(np.isfinite(tf.cast(result, tf.float64)).all() for result in given):
                found.append(f"{what}: not finite")
    return [count, found]


def hides_nothing(mode):
    """The weights that are not finite, or off the support, at which no error is raised."""
    hidden = []
    half_normal = tfreg.Prior("HalfNormal", 0.1, scale=1.0)
    tried = [(half_normal, -1.0)]
    for penalty in (half_normal, tfreg.GroupLasso(0.1), tfreg.TotalVariation(0.1)):
        tried += [(penalty, bad) for bad in (np.inf, -np.inf, np.nan)]
    for penalty, bad in tried:
        try:
            MODES[mode](lambda w: 2.0 * penalty(w))(tf.Variable([[0.5, bad]]))
        except tf.errors.InvalidArgumentError:
            continue
        hidden.append([repr(penalty), bad])
    return hidden


def trained(name, path):
    """The values of the penalty of a model that was trained, saved and loaded."""
    api = {"keras": keras, "tf_keras": tf_keras}[name]
    prior = tfreg.Prior("Exponential", 0.1, rate=1.0)
    layer = api.layers.Dense(
        3,
        kernel_regularizer=prior + tfreg.GroupLasso(0.1),
        kernel_constraint=api.constraints.NonNeg(),
        kernel_initializer="zeros",
    )
    model = api.Sequential([api.Input((4,)), layer, api.layers.Dense(2)])
    half_normal = tfreg.Prior("HalfNormal", 0.1, scale=1.0)
    tfreg.add_penalty(model, half_normal, weights=[model.layers[0]])
    model.compile(api.optimizers.SGD(0.01), api.losses.MeanSquaredError(), jit_compile=False)
    model.fit(np.ones((4, 4)), np.ones((4, 2)), epochs=2, verbose=0)
    model.save(path)
    again = api.models.load_model(path)
    again.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
    ramp = tfreg.schedules.CubicRamp(begin=0, end=30)
    tfreg.add_penalty(again, tfreg.GroupLasso(0.1), schedule=ramp)

    @tf.function
    def step():  # of a loop, where the step that a schedule counts is watched
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(again(np.ones((4, 4)))) + tfreg.regularization_loss(again)
        gradients = tape.gradient(loss, again.trainable_variables)
        again.optimizer.apply_gradients(zip(gradients, again.trainable_variables))

    for _ in range(2):
        step()
    return [float(loss) for loss in again.losses]


def refusals():
    """What is said of densities that are infinite at 0."""
    messages = []
    for name, parameters in [
        ("Horseshoe", {"scale": 0.5}),
        ("Gamma", {"concentration": 0.5, "rate": 2.0}),
    ]:
        try:
            tfreg.Prior(name, 0.1, **parameters)
        except ValueError as error:
            messages.append(str(error))
    return messages


if __name__ == "__main__":
    ask = {"wrong": wrong, "hides_nothing": hides_nothing, "trained": trained, "refusals": refusals}
    print(json.dumps(ask[sys.argv[1]](*sys.argv[2:])))
