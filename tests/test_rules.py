"""What each rule follows, and what it keeps: outputs stay equal whatever is zero."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from networks import WORDS, inputs_for, outputs_of, randomize

import tfreg

in_tf_keras = pytest.mark.parametrize("api", ["tf_keras"], indirect=True)


# Helpers.


def with_zeros(model, seed=0):
    """Random weights, of which some units make a constant and others are read by nothing.

    Along an axis of at least 4 units, 1 yields 0 before its activation, 2 the bias, and nothing
    reads 0 and 3. No coupling is asked, so that what is cut by mistake shows.
    """
    randomize(model, np.random.default_rng(seed))
    for weight in model.weights:
        array, name = np.asarray(weight).copy(), getattr(weight, "path", weight.name)
        if array.ndim > 1 and array.shape[-1] > 3:
            array[..., 1:3] = 0.0
        if array.ndim > 1 and array.shape[-2] > 3:
            array[..., [0, 3], :] = 0.0
        if array.ndim == 1 and len(array) > 3 and ("bias" in name or "beta" in name):
            array[1] = 0.0
        weight.assign(array)
    return model


def assert_kept(model, inputs=None, tolerance=1e-5, **arguments):
    """`compact` neither fails nor changes outputs at inference; the smaller model."""
    inputs = inputs_for(model, np.random.default_rng(5)) if inputs is None else inputs
    expected = outputs_of(model, inputs)
    small = tfreg.compact(model, **arguments)
    for actual, wanted in zip(outputs_of(small, inputs), expected, strict=True):
        assert np.isfinite(wanted).all() and np.abs(wanted).max() > 0.0
        atol = tolerance * np.abs(wanted).max()
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=atol)
    return small


def reasons_for(model, path, axis=-1, rules=None):
    """Why an axis of a weight is fixed: a dict from the reason to how much of it."""
    fixed = [each for each in tfreg.couple(model, rules).fixed if each.path.endswith(path)]
    last = max((each.axis for each in fixed), default=0)
    return {each.reason: each.size for each in fixed if each.axis == axis % (last + 1)}


def assert_fixed(model, path="first/kernel", axis=1, pattern="", rules=None):
    """All of an axis of a weight is fixed, for a reason with the `pattern`."""
    found = reasons_for(model, path, axis, rules)
    [weight] = [w for w in model.weights if path in getattr(w, "path", w.name)]
    assert sum(found.values()) == weight.shape[axis]
    assert any(re.search(pattern, reason) for reason in found), found


def between(api, shape, make, units=6, **arguments):
    """A model of a Dense layer `first`, of what `make` makes of its output, and a Dense layer."""
    k = api.layers
    x = api.Input(shape)
    y = make(k.Dense(units, name="first", **arguments)(x))
    return with_zeros(api.Model(x, k.Dense(2, name="last")(y)))


# Layers over tensors whose channels are along another axis.

OVER_OTHER_AXES = {
    "Conv1D": lambda k: k.Conv1D(4, 2),
    "Conv1D, same": lambda k: k.Conv1D(4, 3, padding="same"),
    "Conv1DTranspose": lambda k: k.Conv1DTranspose(4, 2),
    "SeparableConv1D": lambda k: k.SeparableConv1D(4, 2),
    "DepthwiseConv1D": lambda k: k.DepthwiseConv1D(2),
    "grouped": lambda k: k.Conv1D(5, 2, groups=5),
}


@pytest.mark.parametrize("name", list(OVER_OTHER_AXES))
def test_convolutions_over_channels_keep_them(api, name):
    k = api.layers
    over = OVER_OTHER_AXES[name](k)
    model = between(api, (5, 3), lambda y: k.GlobalAveragePooling1D()(over(k.Permute((2, 1))(y))))
    assert_fixed(model, pattern=over.name)
    assert_kept(model)


def test_a_dense_layer_of_ones_own_over_another_axis_keeps_it(api):
    k = api.layers

    class Own(k.Dense):
        pass

    model = between(api, (5, 3), lambda y: k.GlobalAveragePooling1D()(Own(4)(k.Permute((2, 1))(y))))
    assert_kept(model, rules={Own: "dense"})


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("last", ["Flatten", "Permute"])
def test_a_dense_layer_over_positions_with_dead_ones(api, wrapped, last):
    k = api.layers

    def make(y):
        over = k.Dense(4, activation="sigmoid", name="over")
        y = k.Permute((2, 1))(y)
        y = k.TimeDistributed(over)(y) if wrapped else over(y)
        return k.Flatten()(y) if last == "Flatten" else k.Permute((2, 1))(y)

    assert_kept(between(api, (5, 3), make, activation="relu"))


# What mixes channels.


def test_an_embedding_of_computed_words_keeps_what_computes_them(api):
    k = api.layers
    cast = keras.ops.cast if api is keras else tf.cast

    def make(y):
        return k.GlobalAveragePooling1D()(k.Embedding(11, 3, name="words")(cast(y * 10, "int32")))

    model = between(api, (3,), make, activation="sigmoid")
    assert_fixed(model, pattern="words")
    assert_kept(model)


def permuted_softmax(api, y):
    permute = api.layers.Permute((2, 1))
    softmax = keras.ops.softmax if api is keras else tf.nn.softmax
    return permute(softmax(permute(y), axis=1))


def masked_softmax(api, y):
    """Over positions, where a mask of other channels allows."""
    return api.layers.Softmax(axis=1)(y, mask=api.layers.Dense(6, name="mask")(y) > 0)


def cumulated(api, y):
    return keras.ops.cumsum(y, axis=-1) if api is keras else tf.cumsum(y, axis=-1)


def sorted_channels(api, y):
    return keras.ops.sort(y) if api is keras else tf.sort(y)


def normalized(api, y):
    return keras.ops.normalize(y) if api is keras else tf.nn.l2_normalize(y, -1)


MIXING = {
    "cumsum": cumulated,
    "sort": sorted_channels,
    "normalize": normalized,
    "softmax of axis 1": permuted_softmax,
    "softmax of all": lambda api, y: keras.ops.softmax(y, axis=None),
    "softmax with a mask": masked_softmax,
}


@pytest.mark.parametrize("name", list(MIXING))
def test_an_operation_keeps_what_it_mixes(api, name):
    if name == "softmax of all" and api is tf_keras:
        pytest.skip("tf.nn.softmax has one axis")
    model = between(api, (5, 3), lambda y: MIXING[name](api, y))
    if name != "softmax with a mask":  # which is over positions
        assert_fixed(model)
    assert_kept(model)


def nested_normalization(k):
    api = keras if k is keras.layers else tf_keras
    x = api.Input((6,))
    return api.Model(x, k.BatchNormalization()(x), name="odd")


IN_TRAINING = {
    "BatchNormalization": lambda k: k.BatchNormalization(name="odd"),
    "Dropout": lambda k: k.Dropout(0.5, name="odd"),
    "GaussianNoise": lambda k: k.GaussianNoise(1.0, name="odd"),
    "model": nested_normalization,
}


@pytest.mark.parametrize("name", list(IN_TRAINING))
def test_what_is_always_in_training_is_fixed(api, name):
    layer = IN_TRAINING[name](api.layers)
    model = between(api, (5,), lambda y: layer(y, training=True), activation="sigmoid")
    assert_fixed(model, pattern="training")
    if name in ("Dropout", "GaussianNoise"):  # whose outputs are random
        small = tfreg.compact(model)
        assert [w.shape for w in small.weights] == [w.shape for w in model.weights]
        return
    small = assert_kept(model)
    x = tf.constant(np.random.default_rng(1).normal(size=(30, 5)), tf.float32)
    np.testing.assert_allclose(small(x), model(x), rtol=0, atol=1e-5)


ACTIVATIONS = {
    "normalize": lambda k: keras.ops.normalize,
    "sort": lambda k: keras.ops.sort,
    "tf.sort": lambda k: tf.sort,
    "UnitNormalization": lambda k: k.UnitNormalization(),
    "PReLU": lambda k: k.PReLU(),
    "LayerNormalization": lambda k: k.LayerNormalization(),
}


@pytest.mark.parametrize("where", ["Dense", "Activation", "SimpleRNN"])
@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_an_activation_that_is_not_elementwise_keeps_its_channels(api, name, where):
    k = api.layers
    if api is tf_keras and name in ("normalize", "sort"):
        pytest.skip("a function of Keras 3")
    activation = ACTIVATIONS[name](k)
    x = api.Input((3, 4) if where == "SimpleRNN" else (4,))
    if where == "Dense":
        y = k.Dense(6, activation=activation, name="first")(x)
    elif where == "Activation":
        y = k.Activation(activation)(k.Dense(6, name="first")(x))
    else:
        y = k.SimpleRNN(6, activation=activation, name="first")(x)
    model = api.Model(x, k.Dense(2, name="last")(y))
    outputs_of(model, inputs_for(model, np.random.default_rng(0)))  # makes the activation's weights
    assert_kept(with_zeros(model))


def test_a_dense_layer_of_ones_own_with_a_softmax_keeps_its_units(api):
    k = api.layers

    class Own(k.Dense):
        pass

    x = api.Input((4,))
    y = Own(6, activation="softmax", name="first")(x)
    model = with_zeros(api.Model(x, k.Dense(2, name="last")(y)))
    assert_fixed(model, pattern="softmax", rules={Own: "dense"})
    assert_kept(model, rules={Own: "dense"})


# One layer called twice.

SHARED = {
    "BatchNormalization": lambda k: k.BatchNormalization(name="both"),
    "PReLU": lambda k: k.PReLU(name="both"),
    "EinsumDense": lambda k: k.EinsumDense("abc,c->abc", output_shape=(None, 5), name="both"),
    "EinsumDense, wider": lambda k: k.EinsumDense(
        "abc,cd->abcd", output_shape=(3, 5, 2), bias_axes="c", name="both"
    ),
}


@pytest.mark.parametrize("name", list(SHARED))
def test_a_layer_called_on_channels_and_on_an_input_is_fixed(api, name):
    k = api.layers
    x = api.Input((3, 5))
    both = SHARED[name](k)
    of_dense, of_input = both(k.Dense(5, name="first")(x)), both(x)
    if name == "EinsumDense, wider":
        of_dense, of_input = k.Flatten()(of_dense), k.Flatten()(of_input)
    outputs = [k.Dense(2, name="last")(of_dense), k.Dense(2, name="other")(of_input)]
    model = with_zeros(api.Model(x, outputs))
    assert_fixed(model)
    assert_kept(model)


@in_tf_keras
def test_two_layers_share_a_bias(api):
    k = api.layers
    x = api.Input((4,))
    first, second = k.Dense(3, name="a"), k.Dense(3, name="b")
    y = k.Dense(6, activation="sigmoid", name="first")(x)
    outputs = [first(y), second(y)]
    second.bias = first.bias
    assert_kept(with_zeros(api.Model(x, outputs)))


# Models with a `call` of their own.


def functional_twice(api):
    class Twice(api.Model):
        def call(self, x, training=None, mask=None):
            return super().call(x) * 2

    x = api.Input((4,))
    y = api.layers.Dense(6, activation="relu", name="first")(x)
    return Twice(x, api.layers.Dense(5, name="second")(y))


def sequential_twice(api):
    class Twice(api.Sequential):
        def call(self, x, training=None, mask=None):
            return super().call(x) * 2

    k = api.layers
    return Twice([api.Input((4,)), k.Dense(6, activation="relu"), k.Dense(5)])


def constructed_twice(api):
    class Twice(api.Model):
        def __init__(self, width):
            x = api.Input((4,))
            y = api.layers.Dense(width, activation="relu", name="first")(x)
            super().__init__(x, api.layers.Dense(5, name="second")(y))

        def call(self, x, training=None, mask=None):
            return super().call(x) * 2

    return Twice(6)


def half_of_it(api):
    class Half(api.Model):
        def call(self, x, training=None, mask=None):
            return self.get_layer("first")(x)

    x = api.Input((4,))
    y = api.layers.Dense(5, name="first")(x)
    return Half(x, api.layers.Dense(5, name="second")(y))


OWN_CALLS = [functional_twice, sequential_twice, constructed_twice]


@pytest.mark.parametrize("make", OWN_CALLS)
def test_a_functional_model_with_a_call_of_its_own(api, make):
    assert_kept(with_zeros(make(api)))


def test_a_functional_model_whose_call_leaves_layers_out_is_an_error(api):
    with pytest.raises(ValueError, match="second"):
        tfreg.compact(with_zeros(half_of_it(api)))


@pytest.mark.parametrize("make", [functional_twice, sequential_twice, half_of_it])
def test_an_inner_model_with_a_call_of_its_own(api, make):
    k = api.layers
    x = api.Input((3,))
    y = make(api)(k.Dense(4, activation="relu", name="before")(x))
    assert_kept(with_zeros(api.Model(x, k.Dense(2, name="last")(y))))


def test_an_inner_model_with_a_constructor_of_its_own_too_is_an_error(api):
    k = api.layers
    x = api.Input((3,))
    y = constructed_twice(api)(k.Dense(4, activation="relu", name="before")(x))
    model = with_zeros(api.Model(x, k.Dense(2, name="last")(y)))
    with pytest.raises(ValueError, match="constructor"):
        tfreg.compact(model)


def test_a_model_whose_call_is_another_at_inference(api):
    k = api.layers

    class Branches(api.Model):
        def __init__(self):
            super().__init__()
            self.first, self.last = k.Dense(6, name="first"), k.Dense(2, name="last")

        def call(self, x, training=None):
            y = self.first(x)
            return self.last(2.0 * y if training is not None and not training else y)

    model = Branches()
    model(np.ones((2, 4), "float32"))
    with pytest.raises(ValueError, match="training"):
        tfreg.compact(with_zeros(model))


# Layers of ones own that are declared elementwise.


def own_layers(api):
    class Own(api.layers.Layer):
        def compute_output_shape(self, shape):
            return shape

    class Positions(Own):
        def call(self, x):
            return x + tf.cast(tf.range(x.shape[1]), tf.float32)[:, None]

    class Counter(Own):
        def build(self, shape):
            self.count = self.add_weight(
                shape=(), name="count", trainable=False, initializer="zeros"
            )
            self.built = True

        def call(self, x):
            self.count.assign_add(1.0)
            return 2.0 * x

    class Loss(Own):
        def call(self, x):
            self.add_loss(tf.reduce_sum(x))
            return 2.0 * x

    class Factor(Own):
        def __init__(self, features=6, **kwargs):
            super().__init__(**kwargs)
            self.features = features

        def call(self, x):
            return x * self.features

        def get_config(self):
            return {**super().get_config(), "features": self.features}

    return {cls.__name__: cls for cls in (Positions, Counter, Loss, Factor)}


@pytest.mark.parametrize("name", ["Positions", "Counter", "Loss", "Factor"])
def test_layers_that_are_called_elementwise(api, name):
    cls = own_layers(api)[name]
    model = between(api, (5, 3), lambda y: cls(name="own")(y), activation="relu")
    rules = {cls: "elementwise"}
    before = [np.asarray(variable).copy() for variable in model.variables]
    losses = len(model.losses)
    tfreg.compact(model, rules=rules)
    assert len(model.losses) == losses
    for variable, array in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, array)
    assert_kept(model, rules=rules)


def layer_of(api, call, output_shape):
    class Odd(api.layers.Layer):
        def compute_output_shape(self, shape):
            return output_shape(shape)

    Odd.call = call
    return Odd


def test_no_elementwise_layer_has_two_outputs(api):
    cls = layer_of(api, lambda self, x: (x, 2.0 * x), lambda shape: (shape, shape))
    model = between(api, (4,), lambda y: api.layers.Add()(cls(name="odd")(y)))
    rules = {cls: "elementwise"}
    assert_fixed(model, pattern="odd", rules=rules)
    assert_kept(model, rules=rules)


def test_no_elementwise_layer_changes_the_width(api):
    cls = layer_of(
        api,
        lambda self, x: tf.concat([x, x], -1),
        lambda shape: (*shape[:-1], 2 * shape[-1]),
    )
    model = between(api, (4,), cls(name="odd"))
    rules = {cls: "elementwise"}
    assert_fixed(model, pattern="odd", rules=rules)
    assert_kept(model, rules=rules)


def test_a_rule_that_is_a_list_is_an_error():
    model = between(keras, (4,), keras.layers.ReLU())
    with pytest.raises((TypeError, ValueError), match="`rules`"):
        tfreg.couple(model, {keras.layers.Dense: ["x"]})


# Norms, products and operations with constants.


@pytest.mark.parametrize("name", ["UnitNormalization", "RMSNormalization"])
def test_two_norms_of_different_widths(api, name):
    if not hasattr(api.layers, name):
        pytest.skip("this Keras has no such layer")
    k = api.layers
    norm = getattr(k, name)
    model = between(api, (5,), lambda y: norm()(k.Dense(4, name="narrow")(norm()(y))))
    assert_kept(model)


@pytest.mark.parametrize("first", [True, False])
def test_a_gate_of_one_channel_that_is_zero(api, first):
    k = api.layers
    x = api.Input((4,))
    gate, dense = k.Dense(1, name="gate"), k.Dense(5, name="first")
    factors = [gate(x), dense(x)] if first else [dense(x), gate(x)]
    model = api.Model(x, k.Dense(2, name="last")(k.Multiply()(factors)))
    randomize(model, np.random.default_rng(0))
    gate.kernel.assign(np.zeros((4, 1)))
    gate.bias.assign([0.0])
    assert_kept(model)


def clipped(api, y):
    low, high = np.array([-0.1, -0.2, -0.3], "f4"), np.array([0.1, 0.2, 0.3], "f4")
    return keras.ops.clip(y, low, high) if api is keras else tf.clip_by_value(y, low, high)


def added(api, y):
    permuted = api.layers.Permute((2, 1))(y)
    lists = [[1.0], [2.0], [3.0]]  # which Keras 3 takes as an array
    total = permuted + (np.array(lists, "f4") if api is keras else lists)
    return api.layers.Permute((2, 1))(total)


@pytest.mark.parametrize("make", [clipped, added])
def test_operations_with_an_entry_for_each_channel_keep_them(api, make):
    model = between(api, (5, 3), lambda y: make(api, y), units=3)
    array = np.asarray(model.get_layer("last").kernel).copy()
    array[1:] = 0.0
    model.get_layer("last").kernel.assign(array)
    assert_fixed(model, pattern="array")
    assert_kept(model)


@in_tf_keras
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_float16", "float64"])
def test_operations_with_constants_of_the_type_of_a_model(api, dtype):
    k = api.layers
    policy = api.mixed_precision.Policy(dtype)
    x = api.Input((4,), dtype=policy.compute_dtype)
    y = k.Dense(6, activation="relu", dtype=policy, name="first")(x)
    y = tf.add(y, tf.constant(0.25, y.dtype))
    y = tf.where(y > tf.constant(0.5, y.dtype), y, tf.constant(0.5, y.dtype))
    model = with_zeros(api.Model(x, k.Dense(2, dtype=policy, name="last")(y)))
    inputs = tf.cast(np.random.default_rng(0).normal(size=(3, 4)), policy.compute_dtype)
    small = assert_kept(model, inputs, tolerance=1e-5 if dtype == "float64" else 2e-2)
    assert small.get_layer("first").units == 2


def multiplied(api, early):
    """A Dense layer, whose kernel an operation takes too, `early` in the order of the graph."""
    k = api.layers
    x = api.Input((4,))
    first = k.Dense(6, name="first")
    y = first(k.ReLU()(x))
    product = (keras.ops if api is keras else tf).matmul(x, first.kernel)
    for _ in range(3 if early else 0):
        product = k.ReLU()(product)
    return with_zeros(api.Model(x, [k.Dense(2, name="last")(y), product]))


def test_a_weight_that_an_operation_takes_is_fixed(api):
    model = multiplied(api, early=False)
    assert_fixed(model, pattern="computes with it")
    assert_kept(model)


def test_a_weight_that_an_operation_takes_before_its_layer_is_an_error(api):
    model = multiplied(api, early=True)
    assert_fixed(model, pattern="computes with it")
    with pytest.raises(ValueError, match="variable"):
        tfreg.compact(model)


def test_an_inner_model_called_with_its_inputs_by_name(api):
    k = api.layers
    b, a = api.Input((6,), name="b"), api.Input((6,), name="a")
    y = k.Add()([k.Dense(2, name="of_b")(b), k.Dense(2, name="of_a")(a)])
    inner = api.Model([b, a], y, name="inner")
    x = api.Input((4,))
    named = {name: k.Dense(6, name=f"to_{name}")(x) for name in "ab"}
    model = with_zeros(api.Model(x, inner(named)))
    for name, dead in (("a", [1, 2]), ("b", [4])):
        kernel = np.random.default_rng(0).normal(size=(6, 2))
        kernel[dead] = 0.0
        inner.get_layer(f"of_{name}").kernel.assign(kernel)
    assert_fixed(model, "to_a/kernel", pattern="dict")
    assert_kept(model)


# What is told of subclassed models that cannot be followed.


def plain(api):
    class Plain(api.Model):
        def __init__(self):
            super().__init__()
            self.first, self.last = api.layers.Dense(5), api.layers.Dense(2)

        def call(self, x):
            return self.last(self.first(x))

    return Plain


def test_a_subclassed_model_that_is_not_built(api):
    with pytest.raises(ValueError, match="must be built"):
        tfreg.couple(plain(api)())


def test_a_subclassed_model_that_was_never_called(api):
    model = plain(api)()
    model.built = True
    with pytest.raises(ValueError, match="never called"):
        tfreg.couple(model)


def test_a_subclassed_model_whose_call_fails(api):
    class Fails(plain(api)):
        def call(self, x):
            return super().call(x) if float(tf.reduce_sum(x)) > 0 else x

    model = Fails()
    model(np.ones((2, 4), "float32"))
    with pytest.raises(ValueError, match="call"):
        tfreg.couple(model)


def test_a_subclassed_model_with_weights_that_are_no_layers(api):
    class Weighted(plain(api)):
        def build(self, shape):
            self.scale = self.add_weight(shape=(5,), name="scale")
            self.built = True

        def call(self, x):
            return self.last(self.first(x) * self.scale)

    model = Weighted()
    model(np.ones((2, 4), "float32"))
    with pytest.raises(ValueError, match="scale"):
        tfreg.couple(model)


def test_a_subclassed_model_of_words(api):
    class Words(api.Model):
        def __init__(self):
            super().__init__()
            self.words = api.layers.Embedding(WORDS, 6, name="words")
            self.last = api.layers.Dense(2, name="last")

        def call(self, x):
            return self.last(self.words(x))

    model, words = Words(), np.random.default_rng(0).integers(0, WORDS, (3, 5)).astype("int32")
    model(words)
    small = assert_kept(with_zeros(model), words)
    assert small.count_params() < model.count_params()
