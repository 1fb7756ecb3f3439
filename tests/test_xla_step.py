"""Whole train steps that XLA compiles: every penalty on every kind of layer."""

import re

import cases
import model_cases
import numpy as np
import pytest
import tensorflow as tf

import tfreg

# What leaves the device in the middle of a step.
HOST = re.compile(r"callback|infeed|outfeed|\bsend\(|\brecv\(|host", re.IGNORECASE)
# A length that is known only when the step runs.
DYNAMIC = re.compile(r"\[[^\]]*<=|set-dimension-size|get-dimension-size")


def every_kind_of_layer(api):
    layers = api.layers
    image, words = api.Input((8, 8, 3)), api.Input((5,), dtype="int32")
    x = layers.Conv2D(4, 3, padding="same")(image)
    x = layers.BatchNormalization()(x)
    x = layers.DepthwiseConv2D(3)(x)
    x = layers.SeparableConv2D(4, 3)(x)
    x = layers.Conv2DTranspose(3, 2)(x)
    x = layers.Reshape((5, 15))(x)
    x = layers.Concatenate()([x, layers.Embedding(11, 4)(words)])
    # Over a loop XLA takes minutes in tf_keras, whatever is in it.
    x = layers.LSTM(4, return_sequences=True, unroll=True)(x)
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True, unroll=True))(x)
    x = layers.MultiHeadAttention(num_heads=2, key_dim=3)(x, x)
    x = layers.LayerNormalization()(x)
    x = layers.Conv1D(4, 2)(x)
    x = layers.EinsumDense("abc,cd->abd", (None, 4))(x)
    x = layers.GlobalAveragePooling1D()(x)
    return api.Model([image, words], layers.Dense(2)(x))


def penalize(model):
    """Each penalty on a few kernels, each kernel with a few penalties, and one on two of them."""
    kernels = tfreg.get_penalties(tfreg.add_penalty(model, tfreg.GroupLasso()))[0].weights
    tfreg.remove_penalties(model)
    for i, case in enumerate(cases.CASES):
        fitting = [kernel for kernel in kernels if len(kernel.shape) >= case.min_rank]
        if fitting:
            chosen = {id(kernel): kernel for kernel in (fitting * 3)[i % len(fitting) :][:2]}
            schedule = model_cases.RAMP if i % 2 else None
            tfreg.add_penalty(model, case.penalty, list(chosen.values()), schedule)
    tied = tfreg.Joint(tfreg.GroupLasso(0.1, axis="all"))
    return tfreg.add_penalty(model, tied, kernels[:2])


def step_of(model):
    def step(image, words, targets):
        with tf.GradientTape() as tape:
            outputs = model([image, words], training=True)
            loss = tf.reduce_mean((outputs - targets) ** 2) + tf.add_n(model.losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables))
        return loss

    return step


def batch():
    rng = np.random.default_rng(0)
    image, targets = rng.normal(size=(4, 8, 8, 3)), rng.normal(size=(4, 2))
    words = tf.constant(rng.integers(0, 11, (4, 5)), tf.int32)
    return tf.constant(image, tf.float32), words, tf.constant(targets, tf.float32)


def built(api):
    api.utils.set_random_seed(0)
    model = penalize(every_kind_of_layer(api))
    model.compile(api.optimizers.SGD(1e-3))
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [None, "OneDeviceStrategy"])
def test_xla_compiles_a_whole_step(api, strategy):
    model = built(api)
    expected = tf.function(step_of(model))(*batch())
    weights = [w.numpy() for w in model.weights]
    distribution = tf.distribute.get_strategy()
    if strategy is not None:
        distribution = tf.distribute.OneDeviceStrategy("CPU:0")
    with distribution.scope():
        model = built(api)
    step = tf.function(step_of(model), jit_compile=True)
    if strategy is None:
        hlo = step.experimental_get_compiler_ir(*batch())(stage="hlo")
        assert "ENTRY" in hlo
        assert not HOST.search(hlo) and not DYNAMIC.search(hlo)
    loss = distribution.run(step, batch())
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for actual, weight in zip(model.weights, weights, strict=True):
        np.testing.assert_allclose(actual.numpy(), weight, rtol=1e-4, atol=1e-5)


def test_what_leaves_the_device_would_be_found():
    @tf.function(jit_compile=True)
    def dynamic(x):
        return tf.reduce_sum(tf.boolean_mask(x, x > 0))

    assert HOST.search('custom-call-target="xla_python_cpu_callback"')
    hlo = dynamic.experimental_get_compiler_ir(tf.ones([8]))(stage="hlo")
    assert DYNAMIC.search(hlo), hlo
