"""A smaller model with equal outputs."""

import inspect

import keras
import networks
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from marks import APIS, KERAS_3_FIRST, name_of, slow
from networks import NETWORKS, inputs_for, outputs_of, randomize

import tfreg

QUICK_IN_TF_KERAS = {"convolutions", "dense", "nested", "recurrent", "two_towers", "bert"}


def each_network(also_slow=()):
    """A parameter of networks and their apis; those of tf_keras mostly wait for the slow tests."""
    cases = []
    for name, network in NETWORKS.items():
        for i, api in enumerate(network.apis):
            waits = (i > 0 and name not in QUICK_IN_TF_KERAS) or name in also_slow
            case = (api, network)
            cases.append(slow(*case) if waits else case)
    return pytest.mark.parametrize("api, network", cases, indirect=["api"], ids=name_of)


# Helpers.


def random_network(api, name, seed=0):
    return randomize(NETWORKS[name](api), np.random.default_rng(seed))


def halve(model, seed=0, rules=None):
    """Zeros in a random half of the entries of each coupling; a function that zeros them again."""
    rng = np.random.default_rng(seed)
    halves = [
        (coupling, rng.permutation(coupling.size)[: coupling.size // 2])
        for coupling in tfreg.couple(model, rules)
    ]

    def mask():
        for coupling, entries in halves:
            coupling.zero(entries)

    mask()
    return mask


def nonzeros(model):
    return sum(int(np.count_nonzero(np.asarray(w))) for w in model.trainable_weights)


def parameters(model):
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


def arrays(model):
    return [np.asarray(variable).copy() for variable in model.variables]


def floats(model):
    """All but the states of random numbers."""
    return [array for array in arrays(model) if array.dtype.kind == "f"]


def shapes(model):
    return [tuple(variable.shape) for variable in model.variables]


def assert_close(actual, expected, tolerance=1e-5):
    """Lists of arrays are equal, relative to the largest entry of each."""
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        assert np.isfinite(e).all()
        np.testing.assert_allclose(a, e, rtol=0, atol=tolerance * np.abs(e).max())


def assert_same_outputs(small, large, inputs=None, tolerance=1e-5):
    inputs = inputs_for(large, np.random.default_rng(5)) if inputs is None else inputs
    assert_close(outputs_of(small, inputs), outputs_of(large, inputs), tolerance)


def assert_equal_arrays(actual, expected):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        np.testing.assert_array_equal(a, e)


def saved_and_loaded(api, model, directory):
    model.save(directory / "model.keras")
    return api.models.load_model(directory / "model.keras", safe_mode=False)


def layers_of(model, names):
    return [model.get_layer(name) for name in names.split()]


def set_slice(variable, axis, index, value):
    """Sets the entries of a weight at an index of an axis."""
    new = np.asarray(variable).copy()
    np.moveaxis(new, axis, 0)[index] = value
    variable.assign(new)


def sequential(api, shape, *layers, seed=0):
    return randomize(api.Sequential([api.Input(shape), *layers]), np.random.default_rng(seed))


def width(model, name):
    """The number of units or filters of a layer, by its kernel."""
    return model.get_layer(name).kernel.shape[-1]


# Every network.


@each_network()
def test_half_of_every_coupling_goes(api, network, tmp_path):
    rules = network.rules(api)
    large = randomize(network(api), np.random.default_rng(0))
    halve(large, rules=rules)
    before = arrays(large)
    small = tfreg.compact(large, rules=rules)
    assert_equal_arrays(arrays(large), before)
    assert small is not large and not {id(v) for v in small.variables} & {
        id(v) for v in large.variables
    }
    inputs = inputs_for(large, np.random.default_rng(1))
    expected = outputs_of(large, inputs)
    assert max(np.abs(output).max() for output in expected) > 0.0
    assert_close(outputs_of(small, inputs), expected)
    assert parameters(small) == nonzeros(large) == nonzeros(small) < parameters(large)
    loaded = saved_and_loaded(api, small, tmp_path)
    assert_close(outputs_of(loaded, inputs), expected)


@each_network(also_slow=set(NETWORKS) - {"residual", "recurrent", "bert"})
def test_what_is_compact_stays_as_it_is(api, network):
    rules = network.rules(api)
    large = randomize(network(api), np.random.default_rng(0))
    halve(large, rules=rules)
    small = tfreg.compact(large, rules=rules)
    again = tfreg.compact(small, rules=rules)
    assert_equal_arrays(arrays(again), arrays(small))


@each_network(also_slow=set(NETWORKS) - {"mobile", "language_model", "operations"})
def test_nothing_zero_gives_the_same_model_again(api, network):
    rules = network.rules(api)
    large = randomize(network(api), np.random.default_rng(0))
    same = tfreg.compact(large, rules=rules)
    assert_equal_arrays(arrays(same), arrays(large))
    assert_same_outputs(same, large, tolerance=1e-7)
    if network.name != "subclassed":  # whose weights tf_keras names after the model
        assert [w.name for w in same.variables] == [w.name for w in large.variables]


@each_network(also_slow=set(NETWORKS) - {"u_net", "grouped", "cross_attention"})
def test_one_entry_of_each_coupling_stays(api, network):
    rules = network.rules(api)
    large = randomize(network(api), np.random.default_rng(0))
    for coupling in tfreg.couple(large, rules):
        coupling.zero(range(coupling.size))
    small = tfreg.compact(large, rules=rules)
    inputs = inputs_for(large, np.random.default_rng(1))
    for actual, expected in zip(outputs_of(small, inputs), outputs_of(large, inputs)):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    if network.name != "grouped":  # filters in one group are free again
        assert all(coupling.size == 1 for coupling in tfreg.couple(small, rules))


# What a model is made of stays what it was.


@pytest.mark.parametrize("name", ["dense", "convolutions", "nested"])
def test_sequential_stays_sequential(api, name):
    large = random_network(api, name)
    halve(large)
    small = tfreg.compact(large)
    assert type(small) is type(large) is api.Sequential
    assert [layer.name for layer in small.layers] == [layer.name for layer in large.layers]
    assert small.name == large.name


def test_functional_stays_functional_with_its_names_and_structures(api):
    large = random_network(api, "dict_inputs")
    halve(large)
    small = tfreg.compact(large)
    assert type(small) is type(large)
    assert [layer.name for layer in small.layers] == [layer.name for layer in large.layers]
    assert set(small.input) == {"a", "b"}
    if api is keras:
        large = random_network(api, "multi_output")
        halve(large)
        x = np.ones((2, 5), "float32")
        assert set(tfreg.compact(large)(x)) == {"a", "b"}


def test_no_penalty_and_no_optimizer_make_a_plain_model(api):
    large = random_network(api, "dense")
    halve(large)
    small = tfreg.compact(large)
    assert type(small).__module__.split(".")[0] in ("keras", "tf_keras")
    assert not small.losses and not tfreg.get_penalties(small)


def test_all_layers_and_weights_keep_their_trainable_flags(api):
    large = random_network(api, "nested")
    large.get_layer("a").trainable = False
    large.get_layer("inner").get_layer("norm").trainable = False
    halve(large)
    small = tfreg.compact(large)
    assert [w.trainable for w in small.weights] == [w.trainable for w in large.weights]
    assert len(small.trainable_weights) == len(large.trainable_weights) < len(large.weights)
    assert not small.get_layer("a").trainable and small.get_layer("d").trainable
    assert_same_outputs(small, large)


def test_an_inner_model_stays_frozen(api):
    large = random_network(api, "nested")
    large.get_layer("inner").trainable = False
    halve(large)
    small = tfreg.compact(large)
    assert not small.get_layer("inner").trainable
    assert len(small.trainable_weights) == len(large.trainable_weights)


def test_a_frozen_variable_stays_frozen():
    large = random_network(keras, "dense")
    large.get_layer("first").kernel.trainable = False
    halve(large)
    small = tfreg.compact(large)
    assert not small.get_layer("first").kernel.trainable
    assert small.get_layer("first").bias.trainable


def test_types_of_numbers_are_kept(api):
    k = api.layers
    large = sequential(
        api,
        (4,),
        k.Dense(6, name="a", dtype="float64"),
        k.Dense(2, name="b", dtype="mixed_float16"),
    )
    halve(large)
    small = tfreg.compact(large)
    assert [w.dtype for w in small.weights] == [w.dtype for w in large.weights]
    assert width(small, "a") == 3
    assert_same_outputs(small, large, tolerance=1e-2)


def test_a_subclassed_model_gives_a_model_with_its_outputs(api):
    large = random_network(api, "subclassed")
    halve(large)
    small = tfreg.compact(large)
    assert parameters(small) == nonzeros(large)
    assert_same_outputs(small, large)


def test_unregistered_functions_and_classes_of_the_model_are_kept(api):
    class Own(api.layers.Dense):
        pass

    def twice(x):
        return 2.0 * x

    k = api.layers
    large = sequential(
        api,
        (4,),
        Own(6, name="a", activation="relu"),
        k.Dense(5, name="b", kernel_initializer=lambda shape, dtype=None: tf.ones(shape)),
        k.Lambda(twice),
        k.Dense(2, name="c"),
    )
    halve(large)
    small = tfreg.compact(large)
    assert type(small.get_layer("a")) is Own
    assert_same_outputs(small, large)


# Constants that normalizations and biases leave.


def normalized(api, reader, *between, **norm):
    """A 1x1 convolution, its normalization and what reads them, behind it two layers."""
    k = api.layers
    return sequential(
        api,
        (5, 5, 3),
        k.Conv2D(6, 1, use_bias=False, name="conv"),
        k.BatchNormalization(name="norm", **norm),
        *between,
        reader(k),
        k.Flatten(),
        k.Dense(2, name="last"),
    )


def one_by_one(k, **arguments):
    return k.Conv2D(4, 1, name="reader", **arguments)


def valid(k, **arguments):
    return k.Conv2D(4, 3, name="reader", **arguments)


def same(k, **arguments):
    return k.Conv2D(4, 3, padding="same", name="reader", **arguments)


DEAD = [1, 4]


def assert_cut(large, cut=True, name="conv", **arguments):
    """Whether the units `DEAD` of a layer go; outputs are equal in any case."""
    small = tfreg.compact(large, **arguments)
    assert width(small, name) == width(large, name) - (len(DEAD) if cut else 0)
    assert_same_outputs(small, large)
    return small


def test_a_normalization_without_gamma_leaves_beta_which_folds(api):
    large = normalized(api, one_by_one)
    set_slice(large.get_layer("norm").gamma, 0, DEAD, 0.0)
    assert_cut(large, fold=False, cut=False)
    assert_cut(large)


def test_a_normalization_without_gamma_and_beta_needs_no_folding(api):
    large = normalized(api, same)
    for weight in (large.get_layer("norm").gamma, large.get_layer("norm").beta):
        set_slice(weight, 0, DEAD, 0.0)
    assert_cut(large, fold=False)
    assert_cut(large)


@pytest.mark.parametrize("arguments", [{}, {"scale": False}, {"center": False}])
def test_a_kernel_of_zeros_leaves_a_constant_behind_its_normalization(arguments):
    large = normalized(keras, valid, keras.layers.ReLU(), **arguments)
    set_slice(large.get_layer("conv").kernel, -1, DEAD, 0.0)
    set_slice(large.get_layer("norm").moving_mean, 0, DEAD, -0.4)
    if "gamma" in [weight.name for weight in large.get_layer("norm").weights]:
        set_slice(large.get_layer("norm").gamma, 0, DEAD, 0.9)
    if "beta" in [weight.name for weight in large.get_layer("norm").weights]:
        set_slice(large.get_layer("norm").beta, 0, DEAD, 0.5)
    assert_cut(large, fold=False, cut=False)
    assert_cut(large)


@pytest.mark.parametrize("reader", [one_by_one, valid])
@pytest.mark.parametrize("use_bias", [True, False])
def test_constants_fold_into_valid_convolutions(api, reader, use_bias):
    large = normalized(api, lambda k: reader(k, use_bias=use_bias))
    set_slice(large.get_layer("norm").gamma, 0, DEAD, 0.0)
    small = assert_cut(large)
    # There is no normalization behind, whose mean could move.
    assert small.get_layer("reader").use_bias


def test_a_constant_does_not_fold_into_a_same_convolution_unless_it_is_zero(api):
    large = normalized(api, same)
    set_slice(large.get_layer("norm").gamma, 0, DEAD, 0.0)
    assert_cut(large, cut=False)
    large = normalized(api, same, api.layers.ReLU())
    set_slice(large.get_layer("norm").gamma, 0, DEAD, 0.0)
    set_slice(large.get_layer("norm").beta, 0, DEAD, -0.3)  # which ReLU makes 0
    assert_cut(large, fold=False)


@pytest.mark.parametrize("pool", ["MaxPooling2D", "AveragePooling2D"])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_constant_goes_through_pooling(pool, padding):
    pooling = getattr(keras.layers, pool)(2, padding=padding)
    large = normalized(keras, one_by_one, pooling)
    set_slice(large.get_layer("norm").gamma, 0, DEAD, 0.0)
    assert_cut(large)


def test_a_constant_ends_at_zeros_around_it(api):
    large = normalized(api, valid, api.layers.ZeroPadding2D(1))
    set_slice(large.get_layer("norm").gamma, 0, DEAD, 0.0)
    assert_cut(large, cut=False)
    set_slice(large.get_layer("norm").beta, 0, DEAD, 0.0)
    assert_cut(large)


def test_a_constant_goes_through_depthwise_convolutions_and_activations(api):
    k = api.layers
    large = normalized(
        api, one_by_one, k.Activation("sigmoid"), k.DepthwiseConv2D(2, name="depthwise")
    )
    set_slice(large.get_layer("norm").gamma, 0, DEAD, 0.0)
    assert_cut(large)
    large = normalized(api, one_by_one, k.DepthwiseConv2D(2, padding="same", name="depthwise"))
    set_slice(large.get_layer("norm").gamma, 0, DEAD, 0.0)
    assert_cut(large, cut=False)


READERS = {
    # The shape of an input, the layers behind a constant, and whether it folds.
    "causal": ((5, 3), lambda k: [k.Conv1D(3, 2, padding="causal")], False),
    "causal, one position": ((5, 3), lambda k: [k.Conv1D(3, 1, padding="causal")], True),
    "dilated": ((7, 3), lambda k: [k.Conv1D(3, 2, dilation_rate=2)], True),
    "strided": ((7, 3), lambda k: [k.Conv1D(3, 1, strides=2, padding="same")], True),
    "separable": ((5, 5, 3), lambda k: [k.SeparableConv2D(3, 2)], True),
    "separable, same": ((5, 5, 3), lambda k: [k.SeparableConv2D(3, 2, padding="same")], False),
    "transposed": ((5, 5, 3), lambda k: [k.Conv2DTranspose(3, 3)], False),
    "enlarged": ((5, 5, 3), lambda k: [k.UpSampling2D(interpolation="bilinear")], True),
    "cropped": ((5, 3), lambda k: [k.Cropping1D(1), k.Conv1D(3, 2)], True),
    "rescaled": ((5, 3), lambda k: [k.Rescaling(0.5, 0.3)], True),
    "PReLU": ((5, 3), lambda k: [k.PReLU(shared_axes=[1]), k.Flatten()], True),
    "LSTM": ((5, 3), lambda k: [k.LSTM(3)], True),
    "GRU": ((5, 3), lambda k: [k.GRU(3)], True),
    "GRU without bias": ((5, 3), lambda k: [k.GRU(3, use_bias=False)], False),
    "both ways": ((5, 3), lambda k: [k.Bidirectional(k.LSTM(3))], True),
    "each": ((5, 3), lambda k: [k.TimeDistributed(k.Dense(3, use_bias=False))], True),
    "mean": ((5, 3), lambda k: [k.GlobalAveragePooling1D()], True),
    "Lambda": ((3,), lambda k: [k.Lambda(networks.doubled)], False),
}


@KERAS_3_FIRST
@pytest.mark.parametrize("name", list(READERS))
def test_where_constants_of_biases_fold(api, name):
    shape, layers, folds = READERS[name]
    k = api.layers
    first = k.Dense(6, name="dense")
    large = sequential(api, shape, first, *layers(k), k.Dense(2, name="last"))
    set_slice(first.kernel, -1, DEAD, 0.0)
    assert_cut(large, cut=folds, name="dense")


@KERAS_3_FIRST
def test_attention_reads_constants_through_its_biases(api):
    k = api.layers
    for use_bias in (True, False):
        x = api.Input((5, 3))
        y = k.Dense(6, name="dense")(x)
        y = k.MultiHeadAttention(2, 3, use_bias=use_bias)(y, y)
        large = randomize(api.Model(x, k.Dense(2, name="last")(y)), np.random.default_rng(0))
        set_slice(large.get_layer("dense").kernel, -1, DEAD, 0.0)
        assert_cut(large, cut=use_bias, name="dense")


@KERAS_3_FIRST
def test_constants_of_a_difference_of_two_layers_fold(api):
    k = api.layers
    x = api.Input((4,))
    a, b = k.Dense(6, name="a")(x), k.Dense(6, name="b")(x)
    large = api.Model(x, k.Dense(2, name="last")(k.Subtract()([a, b])))
    randomize(large, np.random.default_rng(0))
    for layer in layers_of(large, "a b"):
        set_slice(layer.kernel, 1, DEAD, 0.0)
    assert_cut(large, name="a", fold=False, cut=False)
    assert_cut(large, name="a")


@KERAS_3_FIRST
def test_one_factor_of_zeros_is_enough(api):
    k = api.layers
    x = api.Input((4,))
    a, b = k.Dense(6, name="a")(x), k.Dense(6, name="b")(x)
    large = api.Model(x, k.Dense(2, name="last")(k.Multiply()([a, b])))
    randomize(large, np.random.default_rng(0))
    for weight, axis in ((large.get_layer("a").kernel, 1), (large.get_layer("a").bias, 0)):
        set_slice(weight, axis, DEAD, 0.0)
    assert_cut(large, name="b", fold=False)


def test_a_reader_without_bias_before_a_normalization(api):
    """It gets a bias, or the mean of its normalization moves."""
    k = api.layers
    large = sequential(
        api,
        (4, 3),
        k.Dense(6, name="dense"),
        k.Dense(5, use_bias=False, name="reader"),
        k.BatchNormalization(name="norm"),
        k.Dense(2, name="last"),
    )
    set_slice(large.get_layer("dense").kernel, 1, DEAD, 0.0)
    small = assert_cut(large, name="dense")
    reader, norm = small.get_layer("reader"), small.get_layer("norm")
    old = np.asarray(large.get_layer("norm").moving_mean)
    assert reader.use_bias != (np.abs(np.asarray(norm.moving_mean) - old).max() > 1e-3)


def test_biases_of_dead_units_fold(api):
    k = api.layers
    large = sequential(
        api,
        (4,),
        k.Dense(6, activation="sigmoid", name="dense"),
        k.Dense(3, use_bias=False, name="reader"),
    )
    set_slice(large.get_layer("dense").kernel, 1, DEAD, 0.0)
    assert_cut(large, fold=False, cut=False, name="dense")
    assert_cut(large, name="dense")


def test_a_layer_called_on_two_constants_does_not_fold(api):
    large = random_network(api, "shared")
    a, b = layers_of(large, "a b")
    for layer, bias in [(a, 0.5), (b, 0.7)]:
        set_slice(layer.kernel, 1, [1], 0.0)
        set_slice(layer.bias, 0, [1], bias)
    small = tfreg.compact(large)
    assert width(small, "a") == width(small, "b") == 4
    assert_same_outputs(small, large)
    for layer in (a, b):
        set_slice(layer.bias, 0, [1], 0.0)
    small = tfreg.compact(large)
    assert width(small, "a") == width(small, "b") == 3
    assert_same_outputs(small, large)


def test_a_constant_that_the_outputs_show_stays(api):
    """The other half of a sum is not constant, so its channels stay."""
    k = api.layers
    x = api.Input((4,))
    a, b = k.Dense(5, name="a")(x), k.Dense(5, name="b")(x)
    large = randomize(
        api.Model(x, k.Dense(2, name="last")(k.Add()([a, b]))), np.random.default_rng(0)
    )
    set_slice(large.get_layer("a").kernel, 1, DEAD, 0.0)
    set_slice(large.get_layer("a").bias, 0, DEAD, 0.0)
    small = tfreg.compact(large)
    assert width(small, "a") == 5
    assert_same_outputs(small, large)
    set_slice(large.get_layer("b").kernel, 1, DEAD, 0.0)
    assert_cut(large, name="a")
    assert_cut(large, name="b")


# Entries that nothing reads.


def test_units_that_nothing_reads_go(api):
    large = random_network(api, "dense")
    set_slice(large.get_layer("second").kernel, 0, DEAD, 0.0)
    assert_cut(large, fold=False, name="first")


def test_units_that_a_slice_drops_go(api):
    k = api.layers
    x = api.Input((3, 4))
    y = k.Dense(6, activation="relu", name="dense")(x)[:, :, :4]
    large = randomize(api.Model(x, k.Dense(2, name="last")(y)), np.random.default_rng(0))
    small = tfreg.compact(large)
    assert width(small, "dense") == 4
    assert_same_outputs(small, large)


def test_units_that_only_dead_units_read_go(api):
    k = api.layers
    layers = [k.Dense(6, activation="relu", name=name) for name in "abc"]
    large = sequential(api, (4,), *layers, k.Dense(2, name="last"))
    a, b, c, last = layers_of(large, "a b c last")
    set_slice(last.kernel, 0, DEAD, 0.0)  # nothing reads these units of c
    kernel = np.asarray(c.kernel).copy()
    kernel[np.ix_(DEAD, [0, 2, 3, 5])] = 0.0  # only these read the same units of b
    c.kernel.assign(kernel)
    kernel = np.asarray(b.kernel).copy()
    kernel[np.ix_(DEAD, [0, 2, 3, 5])] = 0.0
    b.kernel.assign(kernel)
    small = tfreg.compact(large, fold=False)
    assert [width(small, name) for name in "abc"] == [4, 4, 4]
    assert_same_outputs(small, large)


def test_channels_of_a_residual_that_only_itself_reads_go(api):
    k = api.layers
    x = api.Input((4,))
    y = k.Dense(6, name="stem")(x)
    for name in ("one", "two"):
        z = k.Dense(5, activation="relu", name=f"{name}_up")(y)
        y = k.Add()([y, k.Dense(6, name=f"{name}_down")(z)])
    large = randomize(api.Model(x, k.Dense(2, name="last")(y)), np.random.default_rng(0))
    # Channel 1 is read by units that yield channel 1 alone, which only they read.
    set_slice(large.get_layer("last").kernel, 0, [1], 0.0)
    for name in ("one", "two"):
        set_slice(large.get_layer(f"{name}_up").kernel, 0, [1], 0.0)
        kernel = np.asarray(large.get_layer(f"{name}_up").kernel).copy()
        kernel[1, 2] = 0.7
        large.get_layer(f"{name}_up").kernel.assign(kernel)
        kernel = np.asarray(large.get_layer(f"{name}_down").kernel).copy()
        kernel[2] = 0.0
        kernel[2, 1] = 0.9
        large.get_layer(f"{name}_down").kernel.assign(kernel)
    small = tfreg.compact(large, fold=False)
    assert width(small, "stem") == 5
    assert width(small, "one_up") == width(small, "two_up") == 4
    assert_same_outputs(small, large)


# Normalizations over channels.


@pytest.mark.skipif(not hasattr(keras.layers, "RMSNormalization"), reason="Keras has none")
def test_rms_normalization_is_exact_for_channels_of_zeros():
    k = keras.layers
    large = sequential(
        keras,
        (3, 4),
        k.Dense(6, name="dense"),
        k.RMSNormalization(name="norm", epsilon=1e-2),
        k.Dense(2, name="last"),
    )
    set_slice(large.get_layer("dense").kernel, 1, DEAD, 0.0)
    assert_cut(large, cut=False, name="dense")  # the biases are not 0
    set_slice(large.get_layer("dense").bias, 0, DEAD, 0.0)
    assert_cut(large, name="dense")
    set_slice(large.get_layer("last").kernel, 0, [0], 0.0)  # the norm reads what is left of it
    assert_cut(large, name="dense")


def test_unit_normalization_is_exact_for_channels_of_zeros(api):
    k = api.layers
    large = sequential(
        api,
        (3, 4),
        k.Dense(6, name="dense"),
        k.UnitNormalization(name="norm"),
        k.Dense(2, name="last"),
    )
    set_slice(large.get_layer("last").kernel, 0, DEAD, 0.0)
    assert_cut(large, cut=False, name="dense")  # the norm reads them
    set_slice(large.get_layer("dense").kernel, 1, DEAD, 0.0)
    set_slice(large.get_layer("dense").bias, 0, DEAD, 0.0)
    assert_cut(large, name="dense")


def test_layer_normalization_keeps_its_channels(api):
    k = api.layers
    large = sequential(
        api,
        (3, 4),
        k.Dense(6, name="dense"),
        k.LayerNormalization(name="norm"),
        k.Dense(2, name="last"),
    )
    dense, norm, last = layers_of(large, "dense norm last")
    for variable, axis in [
        (dense.kernel, 1),
        (dense.bias, 0),
        (norm.gamma, 0),
        (norm.beta, 0),
        (last.kernel, 0),
    ]:
        set_slice(variable, axis, DEAD, 0.0)
    assert_cut(large, cut=False, name="dense")


def test_group_normalization_loses_whole_groups(api):
    k = api.layers
    large = sequential(
        api,
        (5, 5, 3),
        k.Conv2D(6, 2, name="conv"),
        k.GroupNormalization(3, name="norm"),
        k.Conv2D(2, 1, name="last"),
    )
    conv, norm, last = layers_of(large, "conv norm last")

    def kill(channels):
        for variable, axis in [(norm.gamma, 0), (norm.beta, 0), (last.kernel, 2)]:
            set_slice(variable, axis, channels, 0.0)

    kill([1, 2])  # a half of two groups
    small = tfreg.compact(large)
    assert width(small, "conv") == 6
    kill([3])
    small = tfreg.compact(large)
    assert width(small, "conv") == 4 and small.get_layer("norm").groups == 2
    assert_same_outputs(small, large)


def test_grouped_convolutions_lose_whole_groups(api):
    k = api.layers
    large = sequential(
        api,
        (4, 4, 2),
        k.Conv2D(6, 1, name="stem"),
        k.Conv2D(6, 2, groups=3, name="conv"),
        k.Conv2D(2, 1, name="last"),
    )
    set_slice(large.get_layer("last").kernel, 2, [1, 2], 0.0)
    small = tfreg.compact(large)
    assert width(small, "conv") == 6
    set_slice(large.get_layer("last").kernel, 2, [3], 0.0)
    small = tfreg.compact(large)
    assert width(small, "conv") == width(small, "stem") == 4
    assert small.get_layer("conv").groups == 2
    assert_same_outputs(small, large)


# Recurrence and attention.


CANDIDATES = {  # the gate that a unit is 0 without, and the number of gates
    "LSTM": (2, 4),
    "GRU": (2, 3),
    "SimpleRNN": (0, 1),
}


@pytest.mark.parametrize("name", list(CANDIDATES))
def test_a_recurrent_unit_without_candidate_goes(api, name):
    gate, _ = CANDIDATES[name]
    k = api.layers
    large = sequential(
        api,
        (4, 3),
        getattr(k, name)(6, name="recurrent", return_sequences=True),
        k.Conv1D(2, 2, padding="same", name="last"),
    )
    cell = large.get_layer("recurrent").cell
    columns = gate * 6 + np.array(DEAD)
    for variable in (cell.kernel, cell.recurrent_kernel):
        set_slice(variable, -1, columns, 0.0)
    small = tfreg.compact(large, fold=False)
    assert small.get_layer("recurrent").units == 6  # the biases are left
    set_slice(cell.bias, -1, columns, 0.0)
    small = tfreg.compact(large, fold=False)
    assert small.get_layer("recurrent").units == 4
    assert_same_outputs(small, large)


def test_an_encoders_states_start_its_decoder(api):
    k = api.layers
    x, z = api.Input((5, 3)), api.Input((4, 2))
    _, hidden, cell = k.LSTM(6, return_state=True, name="encoder")(x)
    decoder = k.LSTM(6, return_sequences=True, name="decoder")
    y = decoder(z, initial_state=[hidden, cell])
    large = randomize(api.Model([x, z], k.Dense(2)(y)), np.random.default_rng(0))
    halve(large)
    small = tfreg.compact(large)
    assert small.get_layer("encoder").units == small.get_layer("decoder").units == 3
    assert parameters(small) == nonzeros(large)
    assert_same_outputs(small, large)


@pytest.mark.parametrize("dead", ["value", "output"])
def test_a_head_without_values_or_output_goes(api, dead):
    k = api.layers
    x = api.Input((4, 5))
    attention = k.MultiHeadAttention(3, 2, name="attention")
    large = randomize(
        api.Model(x, k.Dense(2, name="last")(attention(x, x))), np.random.default_rng(0)
    )
    value = getattr(attention, "value_dense", None) or attention._value_dense
    output = getattr(attention, "output_dense", None) or attention._output_dense
    if dead == "value":
        set_slice(value.kernel, 1, [1], 0.0)
        set_slice(value.bias, 0, [1], 0.0)
    else:
        set_slice(output.kernel, 0, [1], 0.0)
    small = tfreg.compact(large, fold=False)
    assert small.get_layer("attention").get_config()["num_heads"] == 2
    assert_same_outputs(small, large)


def test_heads_under_a_mask(api):
    k = api.layers
    x = api.Input((4,), dtype="int32")
    y = k.Embedding(networks.WORDS, 6, mask_zero=True, name="words")(x)
    arguments = {"use_causal_mask": True}
    y = k.MultiHeadAttention(4, 2, name="attention")(y, y, **arguments)
    large = randomize(api.Model(x, k.Dense(2)(y)), np.random.default_rng(0))
    halve(large)
    small = tfreg.compact(large)
    assert parameters(small) == nonzeros(large)
    words = np.array([[3, 4, 5, 6], [7, 0, 0, 0], [2, 1, 0, 0]])
    assert_same_outputs(small, large, words)


# What is fixed stays.


def test_what_a_softmax_reads_stays(api):
    k = api.layers
    large = sequential(api, (4,), k.Dense(6, name="dense"), k.Softmax(), k.Dense(2, name="last"))
    dense, _, last = large.layers[-3:]
    for variable, axis in [(dense.kernel, 1), (dense.bias, 0), (last.kernel, 0)]:
        set_slice(variable, axis, DEAD, 0.0)
    assert_cut(large, cut=False, name="dense")


def test_weights_with_lora_stay():
    large = random_network(keras, "dense")
    large.get_layer("first").enable_lora(2)
    set_slice(large.get_layer("second").kernel, 0, DEAD, 0.0)
    small = tfreg.compact(large)
    assert small.get_layer("first").kernel.shape[-1] == 8
    assert_same_outputs(small, large)


def test_quantized_weights_stay():
    large = random_network(keras, "dense")
    large.get_layer("first").quantize("int8")
    set_slice(large.get_layer("last").kernel, 0, DEAD, 0.0)
    small = tfreg.compact(large)
    assert width(small, "second") == 5
    assert small.get_layer("first").quantization_mode == "int8"
    assert_same_outputs(small, large)


def test_nan_is_not_cut_away(api):
    large = random_network(api, "dense")
    set_slice(large.get_layer("second").kernel, 0, DEAD, np.nan)
    set_slice(large.get_layer("second").kernel, 1, [0], np.nan)
    small = tfreg.compact(large)
    assert width(small, "first") == 8 and width(small, "second") == 7


# Penalties.


def with_penalties(api):
    """A network of weights with penalties of Keras, of a layer and of the model."""
    k = api.layers
    large = sequential(
        api,
        (4,),
        k.Dense(6, activation="relu", name="a", kernel_regularizer=api.regularizers.L2(0.1)),
        k.Dense(6, activation="relu", name="b", kernel_regularizer=tfreg.MCP(0.1, 2.0)),
        k.Dense(2, name="last"),
    )
    tfreg.add_penalty(large, tfreg.MCP(0.2, 3.0), weights=["b"])
    ramp = tfreg.schedules.CubicRamp(begin=1, end=6)
    tfreg.add_penalty(large, tfreg.GroupLasso(0.3, size_weighted=False), schedule=ramp)
    joint = tfreg.Joint(tfreg.GroupLasso(0.1, axis=["output", "input"], size_weighted=False))
    tfreg.add_penalty(large, joint, weights=["b", "last"])
    large.compile("sgd", "mse")
    halve(large)
    return large


def losses(model):
    return [float(loss) for loss in model.losses]


def test_penalties_are_carried_over_to_what_is_left_of_their_weights(api, tmp_path):
    large = with_penalties(api)
    small = tfreg.compact(large)
    assert width(small, "a") == width(small, "b") == 3
    np.testing.assert_allclose(losses(small), losses(large), rtol=1e-5)
    for old, new in zip(tfreg.get_penalties(large), tfreg.get_penalties(small), strict=True):
        assert old.paths == new.paths and repr(old.penalty) == repr(new.penalty)
        assert old.schedule == new.schedule
    loaded = saved_and_loaded(api, small, tmp_path)
    np.testing.assert_allclose(losses(loaded), losses(large), rtol=1e-5)


def test_penalties_can_be_left_out(api):
    large = with_penalties(api)
    small = tfreg.compact(large, penalties=False)
    assert not tfreg.get_penalties(small)
    assert type(small) is api.Sequential
    assert len(losses(small)) < len(losses(large))
    assert_same_outputs(small, large)


# Training.


STEPS = 8


def optimizers(api):
    """Optimizers whose steps are the same for what is left of a model."""
    o = api.optimizers
    made = {
        "momentum": lambda: o.SGD(0.02, momentum=0.9, nesterov=True),
        "amsgrad": lambda: o.Adam(0.01, amsgrad=True),
        "ema": lambda: o.Adam(0.01, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=3),
        "rmsprop": lambda: o.RMSprop(0.01, momentum=0.5, centered=True),
        "nadam": lambda: o.Nadam(0.01),
        "lion": lambda: o.Lion(0.003),
        "schedule": lambda: o.SGD(o.schedules.ExponentialDecay(0.05, 2, 0.9), momentum=0.5),
        "clipped": lambda: o.Adam(0.01, global_clipnorm=0.5, weight_decay=0.01),
    }
    if api is keras:
        accumulated = {"gradient_accumulation_steps": 3}
        made["accumulated"] = lambda: o.AdamW(0.01, weight_decay=0.1, **accumulated)
        made["scaled"] = lambda: o.LossScaleOptimizer(o.Adam(0.01), initial_scale=8.0)
    else:
        made["accumulated"] = lambda: o.AdamW(0.01, weight_decay=0.1)
        made["scaled"] = lambda: tf_keras.mixed_precision.LossScaleOptimizer(o.Adam(0.01))
        made["legacy"] = lambda: o.legacy.Adam(0.01, amsgrad=True)
        made["legacy_momentum"] = lambda: o.legacy.SGD(0.02, momentum=0.9)
    return made


def trained(model, steps, mask=lambda: None, first=0):
    for step in range(first, first + steps):
        rng = np.random.default_rng(step)
        inputs = inputs_for(model, rng, batch=6)
        [output] = outputs_of(model, inputs)
        model.train_on_batch(inputs, rng.normal(size=output.shape).astype("float32"))
        mask()


FIRST_OPTIMIZERS = {"keras": ["momentum", "ema", "accumulated", "scaled"], "tf_keras": ["amsgrad"]}
OPTIMIZERS = [
    (api, name) if name in FIRST_OPTIMIZERS[api] else slow(api, name)
    for api in APIS
    for name in optimizers(networks.APIS[api])
]


@pytest.mark.parametrize("api, name", OPTIMIZERS, indirect=["api"])
def test_training_goes_on(api, name):
    """As that of the large model, whose dead entries are zeroed after each step."""
    k = api.layers
    x = api.Input((6, 6, 2))
    y = k.Conv2D(4, 3, use_bias=False, name="conv")(x)
    y = k.ReLU()(k.BatchNormalization(name="norm")(y))
    z = k.Conv2D(4, 3, padding="same", activation="relu", name="second")(y)
    y = k.Flatten()(k.MaxPooling2D()(k.Add()([y, z])))
    y = k.Dense(6, activation="tanh", name="third")(y)
    large = randomize(api.Model(x, k.Dense(2, name="last")(y)), np.random.default_rng(0))
    large.compile(optimizers(api)[name](), "mse", jit_compile=False)
    trained(large, 4)
    mask = halve(large)
    trained(large, 1, mask, first=4)  # which ends amid an accumulation
    small = tfreg.compact(large)
    assert parameters(small) == nonzeros(large)
    assert int(iterations(small)) == int(iterations(large))
    for model, again in [(large, mask), (small, lambda: None)]:
        trained(model, STEPS, again, first=5)
    cut = tfreg.compact(large)
    for actual, expected, variable in zip(arrays(small), arrays(cut), cut.variables):
        np.testing.assert_allclose(
            actual, expected, rtol=1e-4, atol=1e-5, err_msg=str(variable.name)
        )
    assert_same_outputs(small, large, tolerance=1e-4)


def iterations(model):
    optimizer = model.optimizer
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return optimizer.iterations


def test_training_goes_on_after_saving_and_loading(api, tmp_path):
    large = random_network(api, "dense")
    large.compile(api.optimizers.Adam(0.01), "mse", jit_compile=False)
    trained(large, 2)
    halve(large)
    small = tfreg.compact(large)
    loaded = saved_and_loaded(api, small, tmp_path)
    # Dropout is random.
    for model in (small, loaded):
        model.layers[1].rate = 0.0
    trained(small, 3, first=2)
    trained(loaded, 3, first=2)
    assert_close(floats(loaded), floats(small))


def test_what_a_model_was_compiled_with_is_carried_over(api):
    large = random_network(api, "dense")
    large.compile(
        api.optimizers.SGD(0.25), api.losses.Huber(delta=0.5), metrics=["mae"], jit_compile=False
    )
    halve(large)
    x = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
    y = np.ones((8, 3), "float32")
    expected = large.evaluate(x, y, verbose=0)
    small = tfreg.compact(large)
    np.testing.assert_allclose(small.evaluate(x, y, verbose=0), expected, rtol=1e-5)
    assert float(np.asarray(small.optimizer.learning_rate)) == 0.25
    assert small.optimizer is not large.optimizer


def test_an_optimizer_is_left_out_where_asked(api):
    large = random_network(api, "dense")
    large.compile("adam", "mse")
    halve(large)
    assert not getattr(tfreg.compact(large, optimizer=False), "optimizer", None)
    assert not getattr(tfreg.compact(random_network(api, "dense")), "optimizer", None)


# Arguments and messages.


@pytest.mark.parametrize("model", [None, "model.keras", keras.layers.Dense(2)])
def test_what_is_no_model(model):
    with pytest.raises(TypeError, match="model"):
        tfreg.compact(model)


def test_a_model_that_is_not_built(api):
    with pytest.raises(ValueError, match="built"):
        tfreg.compact(api.Sequential([api.layers.Dense(3), api.layers.Dense(2)]))


def test_the_arguments_have_their_defaults():
    signature = inspect.signature(tfreg.compact)
    defaults = {name: p.default for name, p in signature.parameters.items()}
    assert defaults.pop("model") is inspect.Parameter.empty
    assert defaults == {"fold": True, "optimizer": True, "penalties": True, "rules": None}


def test_rules_are_those_of_couple():
    with pytest.raises(ValueError, match="rules"):
        tfreg.compact(random_network(keras, "dense"), rules={keras.layers.Dense: "dens"})


def test_the_log_says_that_nothing_can_go_and_what_is_fixed(api, caplog):
    large = random_network(api, "dense")
    with caplog.at_level("WARNING", "tfreg"):
        tfreg.compact(large)
    [message] = [record.getMessage() for record in caplog.records if "tfreg" in record.name]
    assert large.name in message and "output" in message
    caplog.clear()
    halve(large)
    with caplog.at_level("WARNING", "tfreg"):
        tfreg.compact(large)
    assert not [record for record in caplog.records if "tfreg" in record.name]


# Random networks.


def image_network(api, choices):
    """A network of convolutions and merges of earlier layers, that `choices` tell."""
    k = api.layers
    x = api.Input((4, 4, 3))
    made = [k.Conv2D(4, 1, name="stem")(x)]
    for kind, width, place in choices:
        y = made[place % len(made)]
        other = made[(place // 7) % len(made)]
        made.append(IMAGE_KINDS[kind](k, y, other, width))
    y = made[-1]
    if choices[0][1] % 2:
        y = k.Conv2D(3, 2, name="before_last")(y)
    y = k.GlobalAveragePooling2D()(y) if choices[0][1] % 3 else k.Flatten()(y)
    return api.Model(x, k.Dense(3, name="last")(y))


def _grouped(k, y, other, width):
    y = k.Conv2D(4, 1)(y)
    return k.Conv2D(2 * width, 2, padding="same", groups=2)(y)


def _pooled(k, y, other, width):
    pool = [k.MaxPooling2D, k.AveragePooling2D][width % 2]
    return pool(2, strides=1, padding="same")(y)


def _excited(k, y, other, width):
    z = k.Dense(width, activation="relu")(k.GlobalAveragePooling2D(keepdims=True)(y))
    return k.Multiply()([y, k.Dense(y.shape[-1], activation="sigmoid")(z)])


def _padded(k, y, other, width):
    return k.Conv2D(width, 3)(k.ZeroPadding2D(1)(y))


def _enlarged(k, y, other, width):
    y = k.UpSampling2D(2, interpolation=["nearest", "bilinear"][width % 2])(y)
    return k.Conv2D(width, 2, strides=2)(y)


def _transposed(k, y, other, width):
    y = k.Conv2DTranspose(width, 2, strides=2)(y)
    return k.Cropping2D(2)(y) if width % 2 else k.MaxPooling2D(2)(y)


def _transposed_alike(k, y, other, width):
    return k.Conv2DTranspose(width, 3, padding="same", use_bias=False)(y)


def _group_normalized(k, y, other, width):
    return k.GroupNormalization(2)(k.Conv2D(2 * (width // 2), 1)(y))


def _activated(k, y, other, width):
    functions = [*["relu", "sigmoid", "tanh", "swish"], k.PReLU(shared_axes=[1, 2]), k.ReLU(6.0)]
    function = functions[width % 6]
    return k.Activation(function)(y) if isinstance(function, str) else function(y)


def _merged(k, y, other, width):
    if y.shape[-1] != other.shape[-1]:
        size = y.shape[-1]
        other = k.Conv2D(size, 1)(other) if len(y.shape) == 4 else k.Dense(size)(other)
    return [k.Add, k.Multiply, k.Maximum, k.Subtract, k.Average][width % 5]()([y, other])


def _concatenated(k, y, other, width):
    return k.Concatenate()([y, other])


IMAGE_KINDS = {
    "conv": lambda k, y, other, n: k.Conv2D(n, 3, padding="same", activation="relu")(y),
    "project": lambda k, y, other, n: k.Conv2D(n, 1, use_bias=False)(y),
    "grouped": _grouped,
    "depthwise": lambda k, y, other, n: k.DepthwiseConv2D(
        2, padding="same", depth_multiplier=1 + n % 2
    )(y),
    "separable": lambda k, y, other, n: k.SeparableConv2D(n, 1, depth_multiplier=2)(y),
    "norm": lambda k, y, other, n: k.BatchNormalization(scale=n % 2 == 0)(y),
    "group norm": _group_normalized,
    "activation": _activated,
    "rescaling": lambda k, y, other, n: k.Rescaling(0.5, 0.25)(y),
    "pool": _pooled,
    "pad": _padded,
    "enlarge": _enlarged,
    "transpose": _transposed,
    "transpose alike": _transposed_alike,
    "excite": _excited,
    "concatenate": _concatenated,
    "merge": _merged,
    "merge again": _merged,
}


def sequence_network(api, choices):
    """The same of layers over sequences."""
    k = api.layers
    x = api.Input((4, 3))
    made = [k.Dense(4, name="stem")(x)]
    for kind, width, place in choices:
        y = made[place % len(made)]
        other = made[(place // 7) % len(made)]
        made.append(SEQUENCE_KINDS[kind](k, y, other, width))
    y = made[-1]
    y = k.GlobalMaxPooling1D()(y) if choices[0][1] % 2 else k.Flatten()(y)
    return api.Model(x, k.Dense(3, name="last")(y))


def _attended(k, y, other, width):
    return k.MultiHeadAttention(1 + width % 3, 2, use_bias=width % 2 == 0)(y, other)


def _normalized(k, y, other, width):
    if width % 3 < 2:
        return [k.BatchNormalization, k.LayerNormalization][width % 3]()(y)
    # A norm needs zeros, and what zero weights feed a sigmoid is 0.5.
    return getattr(k, "RMSNormalization", k.UnitNormalization)()(k.Dense(width)(y))


def _both_ways(k, y, other, width):
    mode = ["concat", "sum", "ave"][width % 3]
    return k.Bidirectional(k.GRU(width, return_sequences=True), merge_mode=mode)(y)


def _moved(k, y, other, width):
    return k.Permute((2, 1))(k.BatchNormalization(axis=1)(k.Permute((2, 1))(y)))


def _recurrent(k, y, other, width):
    if width % 3:
        return k.GRU(width, return_sequences=True, reset_after=width % 3 == 1)(y)
    return k.SimpleRNN(width, return_sequences=True, go_backwards=True)(y)


SEQUENCE_KINDS = {
    "causal": lambda k, y, other, n: k.Conv1D(n, 2, padding="causal", activation="relu")(y),
    "same": lambda k, y, other, n: k.Conv1D(n, 3, padding="same", use_bias=False)(y),
    "dense": lambda k, y, other, n: k.Dense(n, activation="sigmoid")(y),
    "attention": _attended,
    "both ways": _both_ways,
    "norm": _normalized,
    "moved norm": _moved,
    "activation": lambda k, y, other, n: k.Activation(["relu", "tanh", "gelu"][n % 3])(y),
    "lstm": lambda k, y, other, n: k.LSTM(n, return_sequences=True)(y),
    "recurrent": _recurrent,
    "each": lambda k, y, other, n: k.TimeDistributed(k.Dense(n, activation="relu"))(y),
    "concatenate": _concatenated,
    "merge": _merged,
    "merge again": _merged,
}


def choices_of(kinds):
    choice = st.tuples(st.sampled_from(list(kinds)), st.integers(2, 6), st.integers(0, 48))
    return st.lists(choice, min_size=3, max_size=12)


# To shrink an example takes minutes.
HASTY = {
    "phases": [Phase.explicit, Phase.generate],
    "report_multiple_bugs": False,
    "suppress_health_check": list(HealthCheck),
}
FEW = settings(max_examples=8, **HASTY)
MANY = settings(max_examples=100, **HASTY)


def check_random_network(api, build, choices, seed):
    large = randomize(build(api, choices), np.random.default_rng(seed))
    same = tfreg.compact(large)
    assert_equal_arrays(arrays(same), arrays(large))
    halve(large, seed)
    small = tfreg.compact(large)
    inputs = inputs_for(large, np.random.default_rng(seed))
    expected = outputs_of(large, inputs)
    assume(all(np.abs(output).max() < 1e6 for output in expected))  # products of products overflow
    assert_close(outputs_of(small, inputs), expected, 2e-5)
    # A norm that reads the constant of a sigmoid keeps it.
    norms = ("RMSNormalization", "UnitNormalization")
    if not any(type(layer).__name__ in norms for layer in large.layers):
        assert parameters(small) == nonzeros(large)
    assert shapes(tfreg.compact(small)) == shapes(small)


BUILDS = [(image_network, choices_of(IMAGE_KINDS)), (sequence_network, choices_of(SEQUENCE_KINDS))]


@KERAS_3_FIRST
@pytest.mark.parametrize("build, choices", BUILDS, ids=["images", "sequences"])
def test_half_of_a_random_network_goes(api, build, choices):
    @FEW
    @given(choices, st.integers(0, 99))
    def check(choices, seed):
        check_random_network(api, build, choices, seed)

    check()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("build, choices", BUILDS, ids=["images", "sequences"])
def test_half_of_many_random_networks_goes(api, build, choices):
    @MANY
    @given(choices, st.integers(0, 99))
    def check(choices, seed):
        check_random_network(api, build, choices, seed)

    check()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("build, choices", BUILDS, ids=["images", "sequences"])
def test_random_zeros_in_random_networks_keep_outputs(api, build, choices):
    """Slices of single weights, not whole entries: what is constant folds, or stays."""

    @MANY
    @given(choices, st.integers(0, 99), st.booleans())
    def check(choices, seed, fold):
        rng = np.random.default_rng(seed)
        large = randomize(build(api, choices), rng)
        for coupling in tfreg.couple(large):
            entries = rng.permutation(coupling.size)[: coupling.size // 2]
            for member in coupling.members:
                if rng.uniform() < 0.6:
                    zero_slices(member, entries)
        small = tfreg.compact(large, fold=fold)
        inputs = inputs_for(large, rng)
        [actual], [expected] = outputs_of(small, inputs), outputs_of(large, inputs)
        assume(np.abs(expected).max() < 1e6)
        scale = max(np.abs(expected).max(), 1e-2)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-5 * scale)

    check()


def zero_slices(member, entries):
    for axis, indices in member.slices:
        set_slice(member.variable, axis, np.unique(indices[entries]), 0.0)


# Large models.


APPLICATIONS = {
    **dict.fromkeys(["ResNet50", "ResNet50V2", "VGG16", "DenseNet121"], (32, 32, 3)),
    **dict.fromkeys(["MobileNet", "MobileNetV2", "MobileNetV3Small"], (32, 32, 3)),
    **dict.fromkeys(["EfficientNetB0", "EfficientNetV2B0", "ConvNeXtTiny"], (32, 32, 3)),
    **dict.fromkeys(["NASNetMobile"], (32, 32, 3)),
    **dict.fromkeys(["Xception", "InceptionV3", "InceptionResNetV2"], (75, 75, 3)),
    "MobileNetV3Large": (32, 32, 3),
}
IN_TF_KERAS = {
    **dict.fromkeys(["RegNetX002", "RegNetY002", "ResNetRS50"], (32, 32, 3)),
    **dict.fromkeys(["ResNet50", "MobileNetV3Small", "EfficientNetB0"], (32, 32, 3)),
    **dict.fromkeys(["DenseNet121", "ConvNeXtTiny"], (32, 32, 3)),
}
EACH_APPLICATION = [("keras", name, shape) for name, shape in APPLICATIONS.items()]
EACH_APPLICATION += [("tf_keras", name, shape) for name, shape in IN_TF_KERAS.items()]


def application(api, name, shape, seed=0):
    """One with random weights, and statistics at which no output vanishes or explodes."""
    api.utils.set_random_seed(seed)
    arguments = {"weights": None, "input_shape": shape, "classes": 10}
    model = getattr(api.applications, name)(classifier_activation=None, **arguments)
    rng = np.random.default_rng(seed)
    randomize(model, rng)
    norms = [layer for layer in walked(model) if isinstance(layer, api.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(tf.constant(inputs_for(model, rng, batch=4)), training=True)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.moving_variance.assign(np.maximum(np.asarray(norm.moving_variance), 0.1))
    return model


def walked(model):
    for layer in model.layers:
        yield layer
        if isinstance(layer, (keras.Model, tf_keras.Model)):
            yield from walked(layer)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("api, name, shape", EACH_APPLICATION, indirect=["api"])
def test_half_of_an_application_goes(api, name, shape, tmp_path):
    large = application(api, name, shape)
    halve(large)
    small = tfreg.compact(large)
    inputs = inputs_for(large, np.random.default_rng(1))
    expected = outputs_of(large, inputs)
    assert_close(outputs_of(small, inputs), expected)
    assert parameters(small) == nonzeros(large) == nonzeros(small) < 0.8 * parameters(large)
    assert_equal_arrays(arrays(tfreg.compact(small)), arrays(small))
    if (api, name) != (tf_keras, "ConvNeXtTiny"):  # which tf_keras cannot load, cut or not
        loaded = saved_and_loaded(api, small, tmp_path)
        assert_close(outputs_of(loaded, inputs), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["residual", "bert", "recurrent", "nested"])
def test_the_export_of_a_small_model_has_the_same_outputs(api, name, tmp_path):
    rules = NETWORKS[name].rules(api)
    large = random_network(api, name)
    halve(large, rules=rules)
    small = tfreg.compact(large, rules=rules)
    small.export(tmp_path / "exported")
    inputs = inputs_for(large, np.random.default_rng(1))
    exported = tf.saved_model.load(str(tmp_path / "exported"))  # holds the variables
    assert_close([np.asarray(exported.serve(inputs))], outputs_of(large, inputs))
