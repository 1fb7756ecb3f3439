"""A schedule counts the steps of the optimizer that trains the weights, or says that it cannot."""

import keras
import model_cases as cases
import numpy as np
import pytest
import tensorflow as tf
from marks import KERAS_3_FIRST, slow

import tfreg
from tfreg import backend, steps

RAMP = tfreg.schedules.CubicRamp(begin=0, end=3)
PENALTY = tfreg.GroupLasso(1.0)
X, Y = np.ones((8, 4), "float32"), np.ones((8, 1), "float32")


def backbone(api, **arguments):
    """A compiled model with a penalty on a schedule."""
    inner = api.Sequential([api.Input((4,)), api.layers.Dense(3, name="hidden")], name="inner")
    tfreg.add_penalty(inner, PENALTY, schedule=RAMP, **arguments)
    inner.compile("adam", "mse")
    return inner


def around(inner, api):
    """A model around `inner`, which does not learn: penalties change by their schedule alone."""
    outer = api.Sequential([api.Input((4,)), inner, api.layers.Dense(1)], name="outer")
    outer.compile(api.optimizers.SGD(0.0), "mse", metrics=["mse"])
    return outer


def penalties_of_epochs(model, epochs=2):
    """What the penalties added to the loss, on average over the 8 steps of each epoch."""
    log = model.fit(X, Y, batch_size=1, epochs=epochs, shuffle=False, verbose=0).history
    return np.subtract(log["loss"], log["mse"])


def expected_of_epochs(model, epochs=2):
    full = float(PENALTY(model.get_layer("inner").layers[-1].kernel))
    ramp = [float(RAMP(step)) for step in range(8 * epochs)]
    return full * np.mean(np.reshape(ramp, (epochs, 8)), axis=1)


@KERAS_3_FIRST
@pytest.mark.parametrize("way", ["fit", "train_on_batch", "evaluate", "losses", "mirrored"])
def test_a_model_inside_the_one_that_trains_does_not_know_the_step(api, way):
    strategy = cases.mirrored(2) if way == "mirrored" else tf.distribute.get_strategy()
    with strategy.scope():
        outer = around(backbone(api), api)
    with pytest.raises(RuntimeError, match="'inner'.*outermost model.*step=outer.optimizer"):
        if way in ("fit", "mirrored"):
            outer.fit(X, Y, verbose=0)
        elif way == "losses":
            outer.losses
        else:
            getattr(outer, way)(X, Y)


@KERAS_3_FIRST
def test_the_step_that_is_given_is_counted_by_a_model_inside(api):
    inner = backbone(api)
    outer = around(inner, api)
    for step in (outer.optimizer, outer.optimizer.iterations, lambda: outer.optimizer.iterations):
        outer.optimizer.iterations.assign(0)
        tfreg.remove_penalties(inner)
        tfreg.add_penalty(inner, PENALTY, schedule=RAMP, step=step)
        outer.make_train_function(force=True)
        expected = expected_of_epochs(outer)
        np.testing.assert_allclose(penalties_of_epochs(outer), expected, rtol=1e-4)
        assert float(sum(outer.losses)) == pytest.approx(float(PENALTY(inner.layers[-1].kernel)))


def test_a_model_inside_a_penalized_one_counts_the_steps_of_that(api):
    outer = around(backbone(api), api)
    tfreg.add_penalty(outer, tfreg.BoxPenalty(1.0, -9.0, 9.0))
    np.testing.assert_allclose(penalties_of_epochs(outer), expected_of_epochs(outer), rtol=1e-4)


def test_a_frozen_model_inside_adds_nothing_and_raises_nothing(api):
    inner = backbone(api)
    inner.trainable = False
    outer = around(inner, api)
    np.testing.assert_allclose(penalties_of_epochs(outer), [0.0, 0.0], atol=1e-6)


def gan_class(api):
    class Gan(api.Model):
        """Its `compile` leaves a default optimizer that its `train_step` does not use."""

        def __init__(self):
            super().__init__(name="gan")
            self.generator = api.layers.Dense(4, name="generator")
            self.critic = api.layers.Dense(1, name="critic")

        def compile(self, own):
            super().compile()
            self.own = own

        def call(self, x):
            return self.critic(self.generator(x))

        def train_step(self, data):
            x = data[0]
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(self(x)) + tfreg.regularization_loss(self)
            weights = self.trainable_variables
            self.own.apply_gradients(zip(tape.gradient(loss, weights), weights))
            return {"loss": loss}

    return Gan


def gan(api, own, **arguments):
    model = gan_class(api)()
    model(X)
    tfreg.add_penalty(model, PENALTY, "critic/kernel", RAMP, **arguments)
    model.compile(own)
    return model


@pytest.mark.parametrize("way", ["fit", "train_on_batch", "eager"])
def test_a_default_optimizer_that_a_train_step_does_not_use(api, way):
    model = gan(api, api.optimizers.SGD(0.01))
    model.run_eagerly = way == "eager"
    with pytest.raises(RuntimeError, match="'gan'.*takes none while.*step=optimizer"):
        if way == "train_on_batch":
            model.train_on_batch(X, Y)
        else:
            model.fit(X, Y, batch_size=8, verbose=0)


def test_a_default_optimizer_that_was_built_all_the_same(api):
    model = gan(api, api.optimizers.SGD(0.01))
    model.optimizer.build(model.trainable_variables)
    with pytest.raises(tf.errors.InvalidArgumentError, match="stand still"):
        model.fit(X, Y, batch_size=1, epochs=2, verbose=0)


def test_a_train_step_with_another_optimizer_counts_the_step_that_is_given(api):
    own = api.optimizers.SGD(0.0)
    model = gan(api, own, step=own)
    model.fit(X, Y, batch_size=4, verbose=0)
    expected = float(RAMP(2)) * float(PENALTY(model.critic.kernel))
    np.testing.assert_allclose([float(loss) for loss in model.losses], [expected], rtol=1e-5)


@KERAS_3_FIRST
@pytest.mark.parametrize("own_step", [False, True])
def test_a_train_step_that_ends_in_keras_own(api, own_step):
    class Own(cases.chain_class(api)):
        def train_step(self, data):
            return super().train_step(data)

    model = (Own if own_step else cases.chain_class(api))()
    cases.set_initial_weights(model)
    cases.compiled(cases.add_penalties(model), api)
    history = cases.fit(model, epochs=2)
    np.testing.assert_allclose(history, cases.train(epochs=2)[0], rtol=1e-5)


def loop(model, optimizer, mode):
    """A step of a loop of one's own."""

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - y)) + tfreg.regularization_loss(model)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    return step if mode == "eager" else tf.function(step, jit_compile=mode == "xla")


def scheduled(api):
    model = api.Sequential([api.Input((4,)), api.layers.Dense(1)], name="scheduled")
    model.compile(api.optimizers.SGD(0.01), api.losses.MeanSquaredError())
    return tfreg.add_penalty(model, tfreg.GroupLasso(0.1), schedule=RAMP)


def loaded(api, path):
    """A model whose optimizer has taken steps, in another process for all that it knows."""
    model = scheduled(api)
    model.fit(X, Y, verbose=0)
    model.save(path)
    return api.models.load_model(path)


LOOPS = ["eager", "graph", "xla"]


@KERAS_3_FIRST
@pytest.mark.parametrize("mode", LOOPS)
@pytest.mark.parametrize("is_loaded", [slow(False), True])
def test_a_loop_with_the_optimizer_of_the_model(api, mode, is_loaded, tmp_path):
    model = loaded(api, tmp_path / "m.keras") if is_loaded else scheduled(api)
    model.optimizer.build(model.trainable_variables)
    step = loop(model, model.optimizer, mode)
    assert np.isfinite([float(step(X, Y)) for _ in range(10)]).all()


@KERAS_3_FIRST
@pytest.mark.parametrize("mode", LOOPS)
@pytest.mark.parametrize("is_loaded", [slow(False), True])
def test_a_loop_with_an_optimizer_that_the_model_was_not_compiled_with(
    api, mode, is_loaded, tmp_path
):
    model = loaded(api, tmp_path / "m.keras") if is_loaded else scheduled(api)
    other = api.optimizers.SGD(0.01)
    other.build(model.trainable_variables)
    step = loop(model, other, mode)
    if mode == "xla":  # which has no way to raise
        losses = [float(step(X, Y)) for _ in range(steps.MOST_MOVES + 4)]
        assert np.isfinite(losses[0]) and np.isnan(losses[-1])
        assert all(np.isfinite(weight).all() for weight in model.get_weights())
        return
    error = RuntimeError if mode == "eager" else tf.errors.InvalidArgumentError
    with pytest.raises(error, match="takes none while.*stand still.*step=optimizer"):
        for _ in range(steps.MOST_MOVES + 4):
            step(X, Y)
    # A graph may take the step in which it finds out.
    assert int(other.iterations) <= steps.MOST_MOVES + 2


@KERAS_3_FIRST
@pytest.mark.parametrize("mode", LOOPS)
def test_a_loop_counts_the_step_that_is_given(api, mode):
    model = scheduled(api)
    other = api.optimizers.SGD(0.0)
    other.build(model.trainable_variables)
    tfreg.remove_penalties(model)
    tfreg.add_penalty(model, tfreg.GroupLasso(0.1), schedule=RAMP, step=other)
    step = loop(model, other, mode)
    losses = np.array([float(step(X, Y)) for _ in range(5)])
    full = float(tfreg.GroupLasso(0.1)(model.layers[-1].kernel))
    expected = full * np.array([float(RAMP(i)) for i in range(5)])
    np.testing.assert_allclose(losses - losses[0], expected, rtol=1e-4, atol=1e-5)


@KERAS_3_FIRST
@pytest.mark.parametrize("replicas", [2, slow(4)])
def test_a_loop_under_a_strategy(api, replicas):
    strategy = cases.mirrored(replicas)
    with strategy.scope():
        model = scheduled(api)
        other = api.optimizers.SGD(0.01)
        for optimizer in (model.optimizer, other):
            optimizer.build(model.trainable_variables)
    for optimizer in (model.optimizer, other):
        of_replica = loop(model, optimizer, "eager")
        step = tf.function(lambda: strategy.run(of_replica, args=(X, Y)))
        if optimizer is model.optimizer:
            for _ in range(6):
                step()
            model.optimizer.iterations.assign(0)
            continue
        with pytest.raises(tf.errors.InvalidArgumentError, match="stand still"):
            for _ in range(steps.MOST_MOVES + 4):
                step()


@KERAS_3_FIRST
def test_gradients_may_be_taken_any_number_of_times_at_one_step(api):
    model = scheduled(api)
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(2)
    kernel = model.layers[-1].kernel

    def gradient():
        with tf.GradientTape() as tape:
            loss = tfreg.regularization_loss(model)
        return tape.gradient(loss, model.trainable_variables)[0]

    first = gradient()
    for _ in range(20):  # accumulated, or skipped by loss scaling
        np.testing.assert_array_equal(gradient(), first)
    for _ in range(20):  # looked at, but not trained
        kernel.assign(kernel * 1.1)
        assert np.isfinite(float(tfreg.regularization_loss(model)))
    for _ in range(20):  # as sharpness-aware minimization: from a point close by
        kernel.assign(kernel * 1.1)
        gradient()
        kernel.assign(kernel / 1.1)
        model.optimizer.apply_gradients(zip([gradient(), tf.zeros([1])], model.trainable_variables))


def test_a_function_that_returns_what_a_graph_would_keep_is_refused(api):
    counter = [0]
    model = scheduled(api)
    tfreg.remove_penalties(model)
    tfreg.add_penalty(model, PENALTY, schedule=RAMP, step=lambda: tf.constant(counter[0], tf.int64))
    assert float(model.losses[0]) == 0.0
    with pytest.raises(ValueError, match="a constant.*keep for ever"):
        model.fit(X, Y, verbose=0)


@KERAS_3_FIRST
@pytest.mark.parametrize("way", ["compiled anew", "never used", "used before"])
def test_an_optimizer_that_was_given_but_does_not_train(api, way):
    model = scheduled(api)
    given = model.optimizer if way == "compiled anew" else api.optimizers.SGD(0.01)
    if way == "used before":
        given.build(model.trainable_variables)
    tfreg.remove_penalties(model)
    tfreg.add_penalty(model, PENALTY, schedule=RAMP, step=given)
    model.compile(api.optimizers.SGD(0.01), api.losses.MeanSquaredError(), jit_compile=False)
    with pytest.raises((RuntimeError, tf.errors.InvalidArgumentError), match="takes none while"):
        model.fit(X, Y, batch_size=1, epochs=2, verbose=0)


def wrapping_class(api):
    class Wrapping(api.optimizers.Optimizer):
        """Leaves each step, and the count of them, to the optimizer in it."""

        def __init__(self, inner):
            super().__init__(**({"learning_rate": 0.1} if api is keras else {"name": "wrapping"}))
            self.inner = inner

        def build(self, variables):
            super().build(variables)
            self.inner.build(variables)

        def apply(self, grads, trainable_variables=None):
            if not self.built:
                self.build(trainable_variables)
            self.inner.apply(grads, trainable_variables)

        def apply_gradients(self, grads_and_vars, *args, **kwargs):
            if api is keras:
                return super().apply_gradients(grads_and_vars, *args, **kwargs)
            pairs = list(grads_and_vars)
            self.build([variable for _, variable in pairs])
            return self.inner.apply_gradients(pairs, *args, **kwargs)

        def get_config(self):
            return {}

    return Wrapping


def test_an_optimizer_that_leaves_the_counting_to_another(api):
    model = scheduled(api)
    inner = api.optimizers.SGD(0.01)
    model.compile(wrapping_class(api)(inner), api.losses.MeanSquaredError(), jit_compile=False)
    errors = (RuntimeError, tf.errors.InvalidArgumentError)
    with pytest.raises(errors, match="Wrapping, which takes none while"):
        model.fit(X, Y, batch_size=1, epochs=2, verbose=0)
    model, inner = scheduled(api), api.optimizers.SGD(0.01)
    tfreg.remove_penalties(model)
    tfreg.add_penalty(model, PENALTY, schedule=RAMP, step=inner)
    model.compile(wrapping_class(api)(inner), api.losses.MeanSquaredError(), jit_compile=False)
    model.fit(X, Y, batch_size=1, epochs=2, verbose=0)
    assert int(tf.convert_to_tensor(inner.iterations)) == 16


@KERAS_3_FIRST
def test_a_schedule_that_has_ended_may_stand_still(api):
    model = scheduled(api)
    model.fit(X, Y, batch_size=1, verbose=0)
    other = api.optimizers.Adam(0.01)
    other.build(model.trainable_variables)
    for mode in LOOPS:
        step = loop(model, other, mode)
        assert np.isfinite([float(step(X, Y)) for _ in range(steps.MOST_MOVES + 4)]).all()


def test_a_loop_goes_on_with_the_right_optimizer_after_the_error(api):
    model, other = scheduled(api), api.optimizers.SGD(0.01)
    for optimizer in (model.optimizer, other):
        optimizer.build(model.trainable_variables)
    for mode, error in [("eager", RuntimeError), ("graph", tf.errors.InvalidArgumentError)]:
        model.optimizer.iterations.assign(0)
        with pytest.raises(error, match="stand still"):
            step = loop(model, other, mode)
            for _ in range(steps.MOST_MOVES + 4):
                step(X, Y)
        step = loop(model, model.optimizer, mode)
        assert np.isfinite([float(step(X, Y)) for _ in range(4)][1:]).all()


def test_an_eager_train_step_need_not_train_at_once(api):
    class Own(api.Sequential):
        """Trains with every third batch."""

        def train_step(self, data):
            x, y = data[:2]
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x) - y) ** 2) + tfreg.regularization_loss(self)
            weights = self.trainable_variables
            gradients = tape.gradient(loss, weights)
            self.seen = getattr(self, "seen", 0) + 1
            if self.seen % 3 == 0:
                self.optimizer.apply_gradients(zip(gradients, weights))
            return {"loss": loss}

    model = Own([api.Input((4,)), api.layers.Dense(1)])
    tfreg.add_penalty(model, PENALTY, schedule=RAMP)
    model.compile(api.optimizers.SGD(0.01), run_eagerly=True)
    model.fit(X, Y, batch_size=1, epochs=2, verbose=0)
    assert int(tf.convert_to_tensor(model.optimizer.iterations)) == 5


@pytest.mark.slow
def test_a_function_that_trains_can_be_saved(api, tmp_path):
    class Trainer(tf.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.optimizer = model, model.optimizer
            self.take = loop(model, model.optimizer, "eager")

        @tf.function(input_signature=[tf.TensorSpec((8, 4)), tf.TensorSpec((8, 1))])
        def train(self, x, y):
            return self.take(x, y)

    model = scheduled(api)
    model.optimizer.build(model.trainable_variables)
    trainer = Trainer(model)
    first = float(trainer.train(X, Y))
    tf.saved_model.save(trainer, tmp_path / "saved", signatures={"train": trainer.train})
    again = tf.saved_model.load(tmp_path / "saved")
    assert float(again.train(X, Y)) != first


@KERAS_3_FIRST
def test_second_derivatives_through_a_schedule(api):
    model = scheduled(api)
    model.optimizer.iterations.assign(2)
    [kernel, _] = model.trainable_variables

    def hessian(loss):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as tape:
                value = loss()
            gradient = tape.gradient(value, kernel)
        return outer.jacobian(gradient, kernel).numpy()

    expected = hessian(lambda: tfreg.GroupLasso(0.1)(kernel)) * float(RAMP(2))
    actual = hessian(lambda: tfreg.regularization_loss(model))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)
    with tf.GradientTape() as tape:
        losses = tf.stack([tfreg.regularization_loss(model)] * 2)
    assert np.isfinite(tape.jacobian(losses, kernel)).all()


def test_a_step_that_was_given_is_not_saved_and_says_so(api, tmp_path):
    model = scheduled(api)
    tfreg.remove_penalties(model)
    tfreg.add_penalty(model, PENALTY, schedule=RAMP, step=model.optimizer)
    model.save(tmp_path / "m.keras")
    for again in (api.models.load_model(tmp_path / "m.keras"), tfreg.clone_model(model)):
        with pytest.raises(RuntimeError, match="'scheduled'.*`step`.*remove_penalties.*add them"):
            again.losses
        [attached] = tfreg.get_penalties(again)
        tfreg.remove_penalties(again)
        counter = tf.Variable(3, dtype=tf.int64)
        tfreg.add_penalty(again, attached.penalty, attached.paths, attached.schedule, counter)
        np.testing.assert_allclose(
            float(again.losses[0]), float(PENALTY(again.layers[-1].kernel)), rtol=1e-6
        )


@pytest.mark.parametrize("change", [{"step": 3}, {"step": "lost", "schedule": None}])
def test_a_config_with_another_step_is_refused(api, change):
    model = scheduled(api)
    config = model.get_config()
    config["tfreg"]["penalties"][0].update(change)
    with pytest.raises(ValueError, match="'lost' as its 'step'.*Received"):
        type(model).from_config(config)


BAD_STEPS = [
    (3, TypeError, "`step` must be None, an optimizer, a scalar integer variable.*step=3"),
    ("iterations", TypeError, "`step` must be None.*'iterations'"),
    (tf.constant(3), TypeError, "`step` must be None"),
    (tf.Variable(0.5), TypeError, "`step` must be None"),
    (tf.Variable([1, 2]), TypeError, "`step` must be None"),
    (keras.Variable(0.5), TypeError, "`step` must be None"),
    (keras.optimizers.SGD, TypeError, "`step` must be None"),
]


@pytest.mark.parametrize("step, error, message", BAD_STEPS)
def test_bad_steps(api, step, error, message):
    model = cases.sequential(api)
    with pytest.raises(error, match=message):
        tfreg.add_penalty(model, PENALTY, schedule=RAMP, step=step)
    assert model.losses == []


def test_a_step_goes_with_a_schedule(api):
    with pytest.raises(ValueError, match="`step` goes with a `schedule`"):
        tfreg.add_penalty(cases.sequential(api), PENALTY, step=api.optimizers.SGD())


@pytest.mark.parametrize("returned", [0.5, 3, np.int64(3), [1, 2], tf.constant(1.0), None])
def test_a_function_must_return_an_integer(api, returned):
    model = tfreg.add_penalty(cases.sequential(api), PENALTY, schedule=RAMP, step=lambda: returned)
    with pytest.raises(ValueError, match="`step` must return a scalar integer"):
        model.losses


@pytest.mark.parametrize("legacy", [False, True])
def test_whether_an_optimizer_is_built(api, legacy):
    if legacy and api is keras:
        pytest.skip("Keras 3 has no legacy optimizers")
    optimizers = api.optimizers.legacy if legacy else api.optimizers
    optimizer, weight = optimizers.SGD(0.1), api.layers.Dense(2)
    weight.build((None, 3))
    scaling = api.optimizers if api is keras else api.mixed_precision
    scaled = scaling.LossScaleOptimizer(optimizer)
    assert not backend.is_built(optimizer) and not backend.is_built(scaled)
    pairs = [(tf.zeros([3, 2]), weight.kernel), (tf.zeros([2]), weight.bias)]
    optimizer.apply_gradients(pairs)
    assert backend.is_built(optimizer) and backend.is_built(scaled)
