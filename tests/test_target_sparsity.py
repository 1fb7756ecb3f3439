"""`tfreg.callbacks.TargetSparsity`: it reaches its share in every way to train, and resumes."""

import functools

import keras
import model_cases
import numpy as np
import pytest
import tensorflow as tf
from marks import KERAS_3_FIRST, in_turn, slow

import tfreg
from tfreg.penalties.coupled import Coupled
from tfreg.proximal.zeros import count_zeros

BATCH, BATCHES, UNITS = 32, 8, (24, 16)
END = 160
OPTIMIZERS = {"SGD": {"learning_rate": 0.02, "momentum": 0.9}, "Adam": {"learning_rate": 0.005}}
LAPLACE = tfreg.Prior("Laplace", 0.1, loc=0.0, scale=1.0)
TargetSparsity = tfreg.callbacks.TargetSparsity


def data():
    """Random digits: ten clusters."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, BATCH * BATCHES)
    x = rng.normal(size=(10, 20))[labels] + rng.normal(size=(len(labels), 20))
    return x.astype(np.float32), labels.astype(np.int32)


def on_units(model):
    return [(tfreg.couple(model), tfreg.GroupLasso())]


def compiled(api, kind="SGD", penalties=on_units, proximal=None, **arguments):
    """A network for the digits, with the `penalties` of it."""
    api.utils.set_random_seed(1)
    layers = [api.layers.Dense(units, "relu") for units in UNITS]
    model = api.Sequential([api.Input((20,)), *layers, api.layers.Dense(10)])
    optimizer = getattr(api.optimizers, kind)(**OPTIMIZERS[kind])
    optimizer = tfreg.Proximal(optimizer, model, penalties(model), **(proximal or {}))
    loss = api.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], **arguments)
    return model


def fitted(model, epochs, *callbacks):
    """The history of training."""
    x, y = data()
    fit = functools.partial(model.fit, x, y, BATCH, epochs, shuffle=False, verbose=0)
    return fit(callbacks=list(callbacks)).history


def strength(model):
    return float(tf.convert_to_tensor(model.optimizer._tfreg_steps.strength))


def zero_units(model):
    """Of each unit, whether all of its weights are 0."""
    layers = model.layers[-3:]
    found = []
    for layer, following in zip(layers, layers[1:]):
        weights = [layer.kernel.numpy(), layer.bias.numpy()[None], following.kernel.numpy().T]
        found.append(~np.any(np.concatenate(weights), axis=0))
    return np.concatenate(found)


COMPILED = [
    {},
    {"jit_compile": True},
    {"steps_per_execution": 4},
    slow({"jit_compile": True, "steps_per_execution": 16}),
    slow({"run_eagerly": True}),
]


@in_turn(api=["keras", slow("tf_keras")], kind=[*OPTIMIZERS], target=[0.5, 0.8], how=COMPILED)
def test_it_reaches_its_target_bit_by_bit_while_the_network_learns(api, kind, target, how):
    model = compiled(api, kind, **how)
    history = fitted(model, 40, TargetSparsity(target, end=END))
    shares = np.array(history["sparsity"])
    assert abs(shares[-1] - target) <= 2.5 / sum(UNITS)
    assert shares.max() <= target + 3 / sum(UNITS)
    assert shares[0] == 0.0 < shares[END // BATCHES - 3] < target
    assert shares[-1] == pytest.approx(np.mean(zero_units(model)))
    assert history["accuracy"][-1] > (0.95 if target == 0.5 else 0.2)


@KERAS_3_FIRST
@pytest.mark.parametrize("penalty", [LAPLACE, slow(tfreg.MCP(0.1)), slow(tfreg.SCAD(0.1))])
def test_a_target_of_elements(api, penalty):
    model = compiled(api, "Adam", lambda _: penalty)
    shares = fitted(model, 40, TargetSparsity(0.7, end=END, of="elements"))["sparsity"]
    zeros = [np.ravel(layer.kernel.numpy() == 0) for layer in model.layers[-3:]]
    assert shares[-1] == pytest.approx(np.mean(np.concatenate(zeros)))
    assert abs(shares[-1] - 0.7) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1e-6, 1e3])
def test_the_factor_does_not_matter(factor):
    def shares(factor):
        model = compiled(
            keras, penalties=lambda model: [(tfreg.couple(model), tfreg.GroupLasso(factor))]
        )
        return fitted(model, 40, TargetSparsity(0.5, end=END))["sparsity"]

    np.testing.assert_allclose(shares(factor), shares(0.1), atol=2.5 / sum(UNITS))


def assert_alike(model, other):
    for ours, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    ours, theirs = model.optimizer._tfreg_steps, other.optimizer._tfreg_steps
    assert float(ours.strength) == float(theirs.strength) != 0.0
    assert float(ours.slack) == float(theirs.slack) != 0.0


# The measurements do not go with the epochs, and the last ones come after the end.
HALF = functools.partial(TargetSparsity, 0.5, end=30, every=7)


@KERAS_3_FIRST
def test_a_file_resumes(api, tmp_path):
    whole, half = compiled(api, "Adam"), compiled(api, "Adam")
    fitted(whole, 6, HALF())
    fitted(half, 4, HALF())
    half.save(tmp_path / "model.keras")
    resumed = api.models.load_model(tmp_path / "model.keras")
    fitted(resumed, 2, HALF())
    assert_alike(resumed, whole)


@KERAS_3_FIRST
def test_a_checkpoint_resumes(api, tmp_path):
    whole, half, resumed = (compiled(api, "Adam") for _ in range(3))
    fitted(whole, 6, HALF())
    fitted(half, 4, HALF())
    path = str(tmp_path / "checkpoint")
    path = tf.train.Checkpoint(model=half, optimizer=half.optimizer).save(path)
    fitted(resumed, 1, HALF())  # makes all variables
    tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer).restore(path)
    fitted(resumed, 2, HALF())
    assert_alike(resumed, whole)


class _Cut(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("is_first", [True, False])
def test_a_backup_resumes_before_and_behind_it(api, tmp_path, is_first):
    def cut(epoch, logs=None):
        if epoch == 4:
            raise _Cut

    backup = functools.partial(api.callbacks.BackupAndRestore, str(tmp_path / "backup"))
    whole, model, resumed = (compiled(api, "Adam") for _ in range(3))
    fitted(whole, 6, HALF())
    with pytest.raises(_Cut):
        fitted(model, 6, backup(), HALF(), api.callbacks.LambdaCallback(on_epoch_begin=cut))
    fitted(resumed, 6, *([backup(), HALF()] if is_first else [HALF(), backup()]))
    assert_alike(resumed, whole)


@pytest.mark.slow
def test_two_devices_train_as_one_does(api):
    def history(strategy):
        with strategy.scope():
            model = compiled(api)
        return fitted(model, 4, TargetSparsity(0.5, end=20, every=4))

    both, alone = history(model_cases.mirrored(2)), history(tf.distribute.get_strategy())
    np.testing.assert_allclose(both["strength"], alone["strength"], rtol=0.05)
    np.testing.assert_allclose(both["sparsity"], alone["sparsity"], atol=1.5 / sum(UNITS))
    assert both["sparsity"][-1] > 0.2


@KERAS_3_FIRST
def test_an_optimizer_that_has_trained_is_driven_and_keeps_its_strength(api):
    """Its compiled function has to read the strength, and goes on reading it without callback."""
    model = compiled(api, penalties=lambda _: tfreg.GroupLasso(1e-9))
    fitted(model, 1)
    count = len(model.optimizer.variables)
    shares = fitted(model, 5, TargetSparsity(0.5, end=20, every=4))["sparsity"]
    assert len(model.optimizer.variables) == count + 2
    assert shares[0] == 0.0 < shares[-1]
    before, taken = strength(model), int(model.optimizer.iterations)
    fitted(model, 1)
    assert strength(model) == before > 1e3 and int(model.optimizer.iterations) > taken
    assert fitted(model, 1, TargetSparsity(0.5, end=20))["sparsity"][0] > 0.0
    assert len(model.optimizer.variables) == count + 2


@KERAS_3_FIRST
def test_penalties_that_make_no_zeros_keep_their_steps_and_others_wait(api):
    def penalties(model):
        box, lasso = tfreg.BoxPenalty(1e6, -0.05, 0.05), tfreg.GroupLasso(1e6)
        return [([model.layers[-1]], box), ([model.layers[-2]], lasso)]

    model = compiled(api, penalties=penalties)
    history = fitted(model, 2, TargetSparsity(0.5, end=200, begin=100))
    assert history["sparsity"] == [0.0, 0.0] == history["strength"]
    assert np.abs(model.layers[-1].kernel.numpy()).max() <= 0.05 + 1e-6
    assert model.layers[-2].kernel.numpy().all()
    # Nor do they count: half of the 16 groups.
    history = fitted(model, 20, TargetSparsity(0.5, end=60, every=4))
    assert np.abs(np.array(history["sparsity"][-5:]) - 0.5).max() < 0.15


@KERAS_3_FIRST
def test_what_is_left_heals_where_zeros_stay(api):
    model = compiled(api, proximal={"freeze_zeros_from": 40})
    shares = fitted(model, 12, TargetSparsity(0.5, end=40, every=4))["sparsity"]
    zero = zero_units(model)
    assert abs(shares[-1] - 0.5) <= 1.5 / sum(UNITS) and strength(model) < 1e-8
    norms = np.linalg.norm(model.layers[-2].kernel.numpy())
    fitted(model, 3)
    np.testing.assert_array_equal(zero_units(model), zero)
    assert np.linalg.norm(model.layers[-2].kernel.numpy()) > norms
    small = tfreg.compact(model)
    assert small.layers[-2].units < UNITS[1]
    assert strength(small) == strength(model)


@KERAS_3_FIRST
def test_a_penalty_that_is_not_yet_there_raises_no_strength(api):
    ramp = tfreg.schedules.CubicRamp(begin=20, end=30)

    def penalties(model):
        return [(tfreg.couple(model), tfreg.GroupLasso(), ramp)]

    model = compiled(api, penalties=penalties, proximal={"start_step": 8})
    history = fitted(model, 8, TargetSparsity(0.5, end=50, every=4))
    assert history["strength"][:2] == [0.0, 0.0] and history["strength"][-1] > 0.0
    assert history["sparsity"][-1] > 0.3


@pytest.mark.slow
def test_it_drives_a_diagonal_metric_gradient_accumulation_and_loss_scaling():
    model = compiled(keras, "Adam", lambda _: LAPLACE, proximal={"metric": "diagonal"})
    shares = fitted(model, 60, TargetSparsity(0.5, end=160))["sparsity"]
    assert abs(np.mean(shares[-10:]) - 0.5) < 0.1
    model = compiled(keras, penalties=lambda _: LAPLACE)
    inner = keras.optimizers.SGD(0.02, momentum=0.9, gradient_accumulation_steps=2)
    optimizer = tfreg.Proximal(keras.optimizers.LossScaleOptimizer(inner), model, LAPLACE)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    shares = fitted(model, 80, TargetSparsity(0.5, end=160))["sparsity"]
    assert abs(np.mean(shares[-10:]) - 0.5) < 0.1


def test_numbers_of_zeros():
    """Of the groups of each kind of penalty."""

    def zeros(penalty, *weights):
        count, total = count_zeros(penalty, list(weights), [None] * len(weights))
        return int(count), total

    w = tf.constant([[0.0, 1.0], [0.0, 0.0], [2.0, 0.0]])
    assert zeros(tfreg.MCP(0.1), w) == (4, 6)
    for penalty in (tfreg.GroupLasso(0.0, "input"), tfreg.SparseGroupLasso(0.1, axis="input")):
        assert zeros(penalty, w) == (1, 3)
    assert zeros(tfreg.GroupMCP(0.1, axis=(0, 1), group_size=(2, 1)), w) == (2, 4)
    listed = tfreg.GroupLasso(1.0, "input", groups=[[1], [2]], group_weights=[0.0, 1.0])
    assert zeros(listed, w) == (1, 2)
    tied = tfreg.Joint(tfreg.GroupLasso(0.1, axis=["input", "output"]))
    assert zeros(tied, w, tf.constant([[0.0, 3.0, 0.0]])) == (0, 3)
    assert zeros(tied, w, tf.zeros([1, 3])) == (1, 3)
    slices = [[(0, [[0], [1]])], [(1, [[0], [1]])]]
    assert zeros(Coupled(tfreg.GroupLasso(0.1), slices, 0.0), w, tf.zeros([4, 2])) == (1, 2)


def test_names_that_are_taken_are_an_error(api):
    callback = TargetSparsity(0.5, end=10)
    model = compiled(api)
    fitted(model, 1, callback)
    for name in ("sparsity", "strength"):
        with pytest.raises(ValueError, match=f"{name!r} to the logs.*another"):
            callback.on_epoch_end(0, {name: 1.0})
    callback.on_epoch_end(0, None)


@KERAS_3_FIRST
def test_an_optimizer_without_zeros_to_make_is_an_error(api):
    model = api.Sequential([api.Input((2,)), api.layers.Dense(1)])
    callback = TargetSparsity(0.5, end=10)
    for optimizer in (None, api.optimizers.SGD()):
        model.optimizer = optimizer
        with pytest.raises(ValueError, match="drives an optimizer of tfreg.Proximal"):
            callback.set_model(model)
    others = [
        tfreg.BoxPenalty(1.0, -1.0, 1.0),
        tfreg.Quadratic(1.0),
        tfreg.TotalVariation(1.0),
        tfreg.Prior("Normal", 1.0, loc=0.0, scale=1.0),
        tfreg.GroupLasso(0.0),
    ]
    for penalty in others:
        model.compile(tfreg.Proximal(api.optimizers.SGD(), model, penalty), "mse")
        with pytest.raises(ValueError, match=f"make zeros.*{type(penalty).__name__}"):
            model.fit(tf.ones([4, 2]), tf.ones([4, 1]), verbose=0, callbacks=[callback])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"target": 0.0}, r"`target` must be a number in \(0, 1\)"),
        ({"target": 1}, r"`target` must be a number in \(0, 1\)"),
        ({"target": "half"}, r"`target` must be a number in \(0, 1\)"),
        ({"end": 0.5}, "`end` must be an int above"),
        ({"end": 5, "begin": 5}, "`end` must be an int above"),
        ({"begin": -1}, "`begin` must be an int >= 0"),
        ({"of": "units"}, "`of` must be one of"),
        ({"every": 0}, "`every` must be an int >= 1"),
        ({"rate": 0.0}, "`rate` must be a finite number > 0"),
    ],
)
def test_arguments_are_checked(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        TargetSparsity(**{"target": 0.5, "end": 100, **change})
