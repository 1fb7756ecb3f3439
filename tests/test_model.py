"""Penalties over a model: in every kind of model, in every kind of training."""

import keras
import model_cases as cases
import numpy as np
import pytest
import tensorflow as tf
from marks import APIS, KERAS_3_FIRST, in_turn, slow
from model_cases import JOINT, PER_WEIGHT, RAMP

import tfreg

GRAPH = {"jit_compile": False}
OTHER_MODES = {
    "eager": {"run_eagerly": True, **GRAPH},
    "xla": {"jit_compile": True},
    "several steps": {"steps_per_execution": 4, **GRAPH},
}


FEW = [cases.sequential, cases.nested]


def others_slow(kinds):
    return [kind if kind in FEW else slow(kind) for kind in kinds]


# Every kind in a graph, and every mode on the kind that has the most in it.
@in_turn(
    kind_and_mode=[(cases.sequential, GRAPH), slow(cases.nested, GRAPH)]
    + [slow(kind, GRAPH) for kind in cases.KINDS if kind not in FEW]
    + [(cases.nested, mode) for mode in OTHER_MODES.values()],
    api=APIS,
)
def test_fit_and_evaluate_give_what_numpy_gives(api, kind_and_mode):
    kind, mode = kind_and_mode
    model = cases.compiled(cases.add_penalties(kind(api)), api, **mode)
    cases.set_initial_weights(model)
    history = cases.fit(model, epochs=2)
    expected_history, expected = cases.train(epochs=2)
    np.testing.assert_allclose(history, expected_history, rtol=1e-5)
    cases.assert_trained(model, expected)
    assert len(model.losses) == 4
    evaluated = model.evaluate(*cases.data(), batch_size=cases.BATCH, verbose=0)
    np.testing.assert_allclose(evaluated, cases.evaluation(expected, step=8), rtol=1e-5)


@in_turn(kind=others_slow(cases.KINDS), api=APIS)
def test_train_on_batch_gives_what_numpy_gives(api, kind):
    model = cases.compiled(cases.add_penalties(kind(api)), api)
    cases.set_initial_weights(model)
    x, y = cases.data()
    for start in range(0, len(x), cases.BATCH):
        model.train_on_batch(x[start : start + cases.BATCH], y[start : start + cases.BATCH])
    cases.assert_trained(model, cases.train(epochs=1)[1])


@in_turn(kind=others_slow(cases.KINDS), api=APIS)
def test_a_compiled_loop_of_ones_own_gives_what_numpy_gives(api, kind):
    check_loop(api, kind, compile_step=True)


@in_turn(kind=[cases.deferred, cases.nested], api=APIS)
def test_an_eager_loop_of_ones_own_gives_what_numpy_gives(api, kind):
    check_loop(api, kind, compile_step=False)


def check_loop(api, kind, compile_step):
    model = cases.add_penalties(kind(api))
    optimizer = api.optimizers.SGD(cases.RATE)
    model.compile(optimizer)
    cases.set_initial_weights(model)
    optimizer.build(model.trainable_variables)

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
            loss += tfreg.regularization_loss(model)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    if compile_step:
        step = tf.function(step, jit_compile=True)
    x, y = cases.data()
    losses = [
        float(step(x[start : start + cases.BATCH], y[start : start + cases.BATCH]))
        for start in range(0, len(x), cases.BATCH)
    ]
    [expected_loss], expected = cases.train(epochs=1)
    np.testing.assert_allclose(np.mean(losses), expected_loss, rtol=1e-5)
    cases.assert_trained(model, expected)


@in_turn(kind=[cases.deferred, cases.subclassed], api=APIS)
def test_fit_builds_an_unbuilt_model_with_its_penalties(api, kind):
    model = cases.compiled(cases.add_penalties(kind(api)), api)
    assert model.losses == []
    assert [attached.weights for attached in tfreg.get_penalties(model)] == [None] * 4
    cases.fit(model)
    assert len(model.losses) == 4
    expected, _ = cases.penalties_at(cases.kernels(model), step=4)
    np.testing.assert_allclose(float(sum(model.losses)), expected, rtol=1e-5)


@in_turn(kind=[cases.nested, *map(slow, cases.BUILT[:-1])], api=APIS)
def test_added_to_a_trained_model_and_removed_again(api, kind):
    model = cases.compiled(kind(api), api)
    cases.set_initial_weights(model)
    plain_type, optimizer = type(model), model.optimizer
    cases.fit(model)
    model.evaluate(*cases.data(), verbose=0)
    trained = cases.kernels(model)

    cases.add_penalties(model)
    evaluated = model.evaluate(*cases.data(), batch_size=cases.BATCH, verbose=0)
    np.testing.assert_allclose(evaluated, cases.evaluation(trained, step=4), rtol=1e-5)
    history = cases.fit(model)
    expected_history, expected = cases.train(1, first_step=4, weights=trained)
    np.testing.assert_allclose(history, expected_history, rtol=1e-5)
    cases.assert_trained(model, expected)

    assert tfreg.remove_penalties(model) is model
    assert type(model) is plain_type and model.optimizer is optimizer
    assert int(optimizer.iterations) == 8 and model.losses == []
    cases.assert_trained(model, expected)
    plain = model.evaluate(*cases.data(), verbose=0)
    np.testing.assert_allclose(plain, np.mean((product(expected) - cases.data()[1]) ** 2), 1e-5)
    history = cases.fit(model)
    twin = cases.compiled(kind(api), api)
    for variable, weight in zip(cases.ordered(twin.trainable_weights), expected):
        variable.assign(weight)
    np.testing.assert_allclose(history, cases.fit(twin), rtol=1e-5)
    assert tfreg.remove_penalties(model) is model  # which has none


def product(weights):
    a, b, c = weights
    return cases.data()[0] @ a @ b @ c


@KERAS_3_FIRST
def test_added_in_the_middle_of_fit(api):
    plain = cases.compiled(cases.sequential(api), api)
    cases.set_initial_weights(plain)
    cases.fit(plain)
    halfway = cases.kernels(plain)

    class Add(api.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                cases.add_penalties(self.model)

    model = cases.compiled(cases.sequential(api), api)
    cases.set_initial_weights(model)
    x, y = cases.data()
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[Add()])
    cases.assert_trained(model, cases.train(1, first_step=4, weights=halfway)[1])


def test_the_same_penalty_twice_counts_twice(api):
    model = cases.sequential(api)
    for _ in range(2):
        tfreg.add_penalty(model, PER_WEIGHT)
    first, second = tfreg.get_penalties(model)
    assert first == second and first.penalty is PER_WEIGHT
    assert len(model.losses) == 2
    assert float(model.losses[0]) == float(model.losses[1]) > 0


def test_get_penalties_tells_what_is_attached_to_what(api):
    own = tfreg.BoxPenalty(0.1)
    inner = api.Sequential(
        [api.Input((3,)), api.layers.Dense(4, name="inner", kernel_regularizer=own)]
    )
    tfreg.add_penalty(inner, PER_WEIGHT)
    plain = api.layers.Dense(2, name="outer", kernel_regularizer="l2", bias_regularizer=own)
    model = api.Sequential([api.Input((3,)), inner, plain])
    tfreg.add_penalty(model, JOINT, [inner.layers[-1], "outer"], schedule=RAMP)
    joint, *others = tfreg.get_penalties(model)
    assert joint.penalty is JOINT and joint.schedule is RAMP
    assert [w is v for w, v in zip(joint.weights, [inner.layers[-1].kernel, plain.kernel])]
    assert [path.split("/")[-2:] for path in joint.paths] == [
        ["inner", "kernel"],
        ["outer", "kernel"],
    ]
    found = [(attached.penalty, attached.weights[0]) for attached in others]
    assert [penalty for penalty, _ in found] == [PER_WEIGHT, own, own]
    for (_, weight), expected in zip(
        found, [inner.layers[-1].kernel, inner.layers[-1].kernel, plain.bias], strict=True
    ):
        assert weight is expected
    assert all(attached.schedule is None for attached in others)
    assert "weights" not in repr(joint) and "outer/kernel" in repr(joint)


def test_frozen_weights_are_left_out_and_come_back(api):
    model = cases.sequential(api)
    cases.set_initial_weights(model)
    tfreg.add_penalty(model, PER_WEIGHT)
    tfreg.add_penalty(model, JOINT, cases.first_two)
    weights = cases.initial_weights()
    model.layers[0].trainable = False
    alone = sum(0.05 * np.linalg.norm(w, axis=1).sum() for w in weights[1:])
    joint = cases.penalties(weights, per_weight=0.0)[0]
    np.testing.assert_allclose([float(loss) for loss in model.losses], [alone, joint], rtol=1e-5)

    # In the joint penalty the frozen member is a constant.
    cases.compiled(model, api)
    cases.fit(model)
    np.testing.assert_array_equal(np.asarray(model.layers[0].kernel), weights[0])

    model.trainable = False
    assert model.losses == []
    model.trainable = True
    assert len(model.losses) == 2


def test_a_model_that_is_frozen_when_the_penalty_is_added(api):
    base = cases.functional(api)
    base.trainable = False
    x = api.Input((cases.WIDTHS[0],))
    model = api.Model(x, api.layers.Dense(1)(base(x)))
    tfreg.add_penalty(model, tfreg.GroupLasso(0.1))
    [attached] = tfreg.get_penalties(model)
    assert len(attached.weights) == 4
    before = float(model.losses[0])
    base.trainable = True
    assert float(model.losses[0]) > before > 0


def test_shared_layers_count_once(api):
    shared = api.layers.Dense(4)
    x = api.Input((4,))
    inner_x = api.Input((4,))
    inner = api.Model(inner_x, shared(inner_x))
    model = api.Model(x, inner(shared(shared(x))))
    tfreg.add_penalty(model, tfreg.GroupLasso(0.1))
    [attached] = tfreg.get_penalties(model)
    assert [weight is shared.kernel for weight in attached.weights] == [True]
    expected = 0.1 * 2 * np.linalg.norm(np.asarray(shared.kernel), axis=0).sum()
    np.testing.assert_allclose([float(loss) for loss in model.losses], [expected], rtol=1e-5)


def test_a_layer_in_two_models_is_penalized_through_the_one_that_was_asked(api):
    shared = api.layers.Dense(4)
    asked = api.Sequential([api.Input((4,)), shared])
    other = api.Sequential([api.Input((4,)), shared, api.layers.Dense(2)])
    plain = cases.compiled(other, api)
    tfreg.add_penalty(asked, PER_WEIGHT)
    assert len(asked.losses) == 1 and other.losses == []
    assert tfreg.get_penalties(plain) == []
    # A model that contains the one that was asked trains it, with its penalty.
    outer = api.Sequential([api.Input((4,)), asked])
    np.testing.assert_allclose(
        [float(loss) for loss in outer.losses], [float(loss) for loss in asked.losses]
    )


def summary(model):
    lines = []
    model.summary(print_fn=lambda line, **_: lines.append(line))
    return "\n".join(lines)


@pytest.mark.parametrize("kind", cases.BUILT, ids=lambda kind: kind.__name__)
def test_the_plain_model_shows_through(api, kind):
    model = kind(api)
    kinds, name, plain_summary = type(model).__mro__, type(model).__name__, summary(model)
    config, layers = model.get_config(), model.layers
    names = getattr(model, "output_names", None)
    cases.add_penalties(model)
    assert all(isinstance(model, kind) for kind in kinds) and type(model).__name__ == name
    assert summary(model) == plain_summary
    assert all(a is b for a, b in zip(model.layers, layers, strict=True))
    assert getattr(model, "output_names", None) == names
    penalized = model.get_config()
    assert set(penalized) - set(config) == {"tfreg"}
    assert {key: value for key, value in penalized.items() if key != "tfreg"} == config


def test_the_loss_of_a_loop_is_for_replicas():
    strategy = cases.mirrored(2)
    with strategy.scope():
        model = tfreg.add_penalty(cases.sequential(keras), PER_WEIGHT)
        with pytest.raises(RuntimeError, match="replica context"):
            tfreg.regularization_loss(model)
        shares = strategy.run(lambda: tfreg.regularization_loss(model)).values
    expected = cases.penalties(cases.kernels(model), joint=0.0)[0]
    np.testing.assert_allclose([float(share) for share in shares], [expected / 2] * 2, rtol=1e-5)


@pytest.mark.parametrize("kind", [cases.sequential, cases.nested])
def test_losses_are_in_the_dtype_that_the_trainer_adds_up(api, kind):
    model = cases.compiled(cases.add_penalties(kind(api)), api)
    assert {loss.dtype for loss in model.losses} == {tf.float32}
    assert tfreg.regularization_loss(model).dtype == tf.float32
    assert tfreg.regularization_loss(cases.sequential(api)).numpy() == 0.0


# By how much weights may be off after twelve steps of this precision.
POLICIES = {"float64": 1e-5, "mixed_float16": 5e-3, "float16": 1e-2, "mixed_bfloat16": 4e-2}


@in_turn(
    policy=[policy if policy == "mixed_float16" else slow(policy) for policy in POLICIES], api=APIS
)
def test_policies_train_with_loss_scaling(api, policy):
    policies = api.dtype_policies.DTypePolicy if api is keras else api.mixed_precision.Policy
    dtype = policies(policy)
    first, second, last = [cases.dense(api, units, dtype=dtype) for units in cases.WIDTHS[1:]]
    x = api.Input((6,), dtype=dtype.compute_dtype)
    model = api.Model(x, last(second(first(x))))
    cases.add_penalties(model)
    optimizer = api.optimizers.SGD(cases.RATE)
    if policy == "mixed_float16":
        scaling = api.optimizers if api is keras else api.mixed_precision
        optimizer = scaling.LossScaleOptimizer(optimizer)
    model.compile(optimizer, api.losses.MeanSquaredError(), jit_compile=False)
    cases.set_initial_weights(model)
    weights = [kernel.astype("float64") for kernel in cases.kernels(model)]
    expected, _ = cases.penalties_at(weights, step=0)
    np.testing.assert_allclose(float(tfreg.regularization_loss(model)), expected, rtol=1e-5)
    history = cases.fit(model, epochs=3)
    expected_history, expected_weights = cases.train(epochs=3)
    np.testing.assert_allclose(history, expected_history, rtol=POLICIES[policy])
    for actual, weight in zip(cases.kernels(model), expected_weights, strict=True):
        np.testing.assert_allclose(actual.astype("float64"), weight, atol=POLICIES[policy])


def with_synchronized_normalization(api):
    x = api.Input((6,))
    y = api.layers.Dense(5, use_bias=False)(x)
    y = api.layers.BatchNormalization(synchronized=True)(y)
    return api.Model(x, api.layers.Dense(2)(api.layers.Dense(4, use_bias=False)(y)))


@KERAS_3_FIRST
@pytest.mark.parametrize("loop", ["fit", slow("custom")])
def test_two_devices_give_the_loss_and_weights_of_one(api, loop):
    x, y = cases.data()
    penalties = [
        (tfreg.GroupLasso(0.01), None, RAMP),
        (JOINT, cases.first_two, None),
    ]
    strategies = [
        tf.distribute.get_strategy(),
        cases.mirrored(2),
    ]
    results = []
    for strategy in strategies:
        api.utils.set_random_seed(3)
        with strategy.scope():
            model = with_synchronized_normalization(api)
            for penalty, weights, schedule in penalties:
                tfreg.add_penalty(model, penalty, weights, schedule)
            cases.compiled(model, api, jit_compile=False)
            if loop == "fit":
                losses = cases.fit(model, epochs=2)
            else:
                losses = distributed_loop(model, strategy, x, y)
        results.append((losses, [w.numpy() for w in model.weights]))
    (losses, weights), (two_losses, two_weights) = results
    if loop == "custom" or api is not keras or not keras.__version__.startswith("3.8."):
        # The history of Keras 3.8 is off under a strategy, without a penalty too.
        np.testing.assert_allclose(two_losses, losses, rtol=1e-5)
    for two, one in zip(two_weights, weights, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-6)


def distributed_loop(model, strategy, x, y):
    replicas = strategy.num_replicas_in_sync
    model.optimizer.build(model.trainable_variables)

    @tf.function
    def step(x, y):
        def replica_step(x, y):
            with tf.GradientTape() as tape:
                errors = tf.reduce_mean(tf.square(model(x, training=True) - y), axis=-1)
                loss = tf.nn.compute_average_loss(errors, global_batch_size=cases.BATCH)
                loss += tfreg.regularization_loss(model)
            gradients = tape.gradient(loss, model.trainable_variables)
            model.optimizer.apply_gradients(zip(gradients, model.trainable_variables))
            return loss

        losses = strategy.run(replica_step, args=(x, y))
        return strategy.reduce("SUM", losses, axis=None)

    losses = []
    for start in range(0, len(x), cases.BATCH):
        batch = [array[start : start + cases.BATCH] for array in (x, y)]
        shares = [
            strategy.experimental_distribute_values_from_function(
                lambda context, array=array: tf.constant(
                    np.array_split(array, replicas)[context.replica_id_in_sync_group]
                )
            )
            for array in batch
        ]
        losses.append(float(step(*shares)))
    return losses


def test_a_schedule_without_an_optimizer_is_an_error_that_says_so(api):
    model = tfreg.add_penalty(cases.sequential(api), PER_WEIGHT, schedule=RAMP)
    with pytest.raises(RuntimeError, match="Compile it.*outermost model"):
        model.losses
    model.compile(api.optimizers.SGD())
    assert float(model.losses[0]) > 0


def test_a_keras_schedule_and_a_registered_function(api):
    @api.saving.register_keras_serializable("tests", "half_from_two_on")
    def half_from_two_on(step):
        return tf.where(step >= 2, 0.5, 0.0)

    decay = api.optimizers.schedules.PolynomialDecay(1.0, 4, end_learning_rate=0.0)
    model = cases.sequential(api)
    tfreg.add_penalty(model, PER_WEIGHT, schedule=decay)
    tfreg.add_penalty(model, PER_WEIGHT, schedule=half_from_two_on)
    tfreg.add_penalty(model, PER_WEIGHT)
    model.compile(api.optimizers.SGD())
    for step, multipliers in [(0, (1.0, 0.0)), (2, (0.5, 0.5)), (5, (0.0, 0.5))]:
        model.optimizer.iterations.assign(step)
        decayed, halved, plain = [float(loss) for loss in model.losses]
        np.testing.assert_allclose([decayed, halved], np.multiply(multipliers, plain), rtol=1e-6)


def test_a_keras_regularizer_over_a_model(api):
    model = tfreg.add_penalty(cases.sequential(api), api.regularizers.L2(0.5))
    kernels = [np.asarray(w) for w in model.trainable_weights]
    expected = 0.5 * sum(np.square(kernel).sum() for kernel in kernels)
    np.testing.assert_allclose(float(model.losses[0]), expected, rtol=1e-5)


BAD = [
    (lambda m: tfreg.add_penalty("model", PER_WEIGHT), TypeError, "`model`.*'model'"),
    (lambda m: tfreg.add_penalty(m.layers[-1], PER_WEIGHT), TypeError, "`model`.*Dense"),
    (lambda m: tfreg.add_penalty(m, None), TypeError, "`penalty`.*None"),
    (lambda m: tfreg.add_penalty(m, tfreg.GroupLasso), TypeError, "`penalty`.*GroupLasso"),
    (lambda m: tfreg.add_penalty(m, lambda w: 0.0), TypeError, "`penalty`.*lambda"),
    (lambda m: tfreg.add_penalty(m, 0.1), TypeError, "0.1"),
    (lambda m: tfreg.add_penalty(m, "group_laso"), ValueError, "Nearest.*group_lasso"),
    (lambda m: tfreg.add_penalty(m, PER_WEIGHT, schedule=0.5), TypeError, "`schedule`.*0.5"),
    (lambda m: tfreg.add_penalty(m, PER_WEIGHT, schedule=lambda s: 1.0), ValueError, "registered"),
    (
        lambda m: tfreg.add_penalty(m, PER_WEIGHT, schedule=tfreg.schedules.CubicRamp),
        TypeError,
        "`schedule`",
    ),
    (lambda m: tfreg.add_penalty(m, tfreg.GroupLasso(axis=2)), ValueError, "axis=2.*kernel"),
    (lambda m: tfreg.add_penalty(m, tfreg.GroupLasso(axis="head")), ValueError, "head.*kernel"),
    (
        lambda m: tfreg.add_penalty(m, tfreg.GroupLasso(axis=["output", "input"])),
        ValueError,
        "Joint",
    ),
    (
        lambda m: tfreg.add_penalty(m, tfreg.Joint(tfreg.GroupLasso())),
        ValueError,
        "kernel.*5.*kernel.*4.*kernel.*2",
    ),
    (
        lambda m: tfreg.add_penalty(m, tfreg.Joint(tfreg.TotalVariation())),
        ValueError,
        r"kernel.*\(6, 5\).*kernel.*\(5, 4\)",
    ),
    (lambda m: tfreg.add_penalty(m, JOINT), ValueError, "entry for each weight.*kernel"),
]


@pytest.mark.parametrize("add, error, message", BAD)
def test_bad_arguments_change_nothing(api, add, error, message):
    model = cases.sequential(api)
    plain_type = type(model)
    with pytest.raises(error, match=message):
        add(model)
    assert type(model) is plain_type and model.losses == []


def test_what_only_the_weights_show_raises_once_the_model_is_built(api):
    model = tfreg.add_penalty(cases.deferred(api), tfreg.Joint(tfreg.GroupLasso()))
    cases.compiled(model, api, run_eagerly=True)
    with pytest.raises(ValueError, match="must have as many.*kernel"):
        cases.fit(model)


@pytest.mark.skipif(not hasattr(keras.layers.Dense, "enable_lora"), reason="no LoRA")
def test_lora_is_refused():
    model = cases.sequential(keras)
    tfreg.add_penalty(model, PER_WEIGHT)
    model.layers[0].enable_lora(2)
    with pytest.raises(ValueError, match="LoRA"):
        model.losses
    model = cases.sequential(keras)
    model.layers[0].enable_lora(2)
    with pytest.raises(ValueError, match="LoRA"):
        tfreg.add_penalty(model, PER_WEIGHT)
    assert len(tfreg.add_penalty(model, PER_WEIGHT, [model.layers[1]]).losses) == 1
