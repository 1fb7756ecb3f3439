"""BoxPenalty before quantization to int8 by TFLite, one scale for a tensor or one for a channel."""

import contextlib
import functools
import io

import keras
import numpy as np
import tensorflow as tf

import tfreg
from benchmarks.worth import contenders, data
from benchmarks.worth.protocol import Case, Contender, Outcome
from benchmarks.worth.training import Dropout, Trainer, trainers

layers = keras.layers
EXAMPLES, BATCH = 400, 32
# Bounds of a weight; norms of all weights of a unit.
BOUNDS, NORMS = (0.05, 2.0), (0.2, 8.0)
QUICK = {"digits dense, 400 examples"}


def dense(drop):
    hidden = [layers.Dense(64, activation="relu") for _ in range(2)]
    return keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), *hidden, drop(), layers.Dense(10)]
    )


def separable(drop):
    """A convolution and two separable ones, as in networks for phones."""
    convolutions = [layers.Conv2D(16, 3, padding="same", use_bias=False)]
    for filters in (32, 32):
        convolutions.append(layers.DepthwiseConv2D(3, padding="same", use_bias=False))
        convolutions.append(layers.Conv2D(filters, 1, use_bias=False))
    stack = [keras.Input((8, 8, 1))]
    for convolution in convolutions:
        stack += [convolution, layers.BatchNormalization(momentum=0.9), layers.ReLU()]
    return keras.Sequential([*stack, layers.GlobalAveragePooling2D(), drop(), layers.Dense(10)])


def rounded(weight):
    """A kernel in int8 with one scale, back in floats; a bias as it is."""
    if weight.ndim < 2 or not np.abs(weight).max() > 0.0:
        return weight
    scale = np.abs(weight).max() / 127.0
    return np.round(weight / scale) * scale


def int8_error(model, parts, per_channel):
    """The test error of the model that TFLite converts."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    images = np.asarray(parts.train.x)
    converter.representative_dataset = lambda: ([image[None]] for image in images[:100])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter._experimental_disable_per_channel = not per_channel
    converter._experimental_disable_per_channel_quantization_for_dense_layers = not per_channel
    with contextlib.redirect_stdout(io.StringIO()):  # Keras lists what it exports
        contents = converter.convert()
    # XNNPACK refuses some models: their scales are out of its range.
    resolver = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = tf.lite.Interpreter(
        model_content=contents,
        num_threads=1,
        experimental_op_resolver_type=resolver,
    )
    [given], [answer] = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(given["index"], parts.test.x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], parts.test.x)
    interpreter.invoke()
    labels = interpreter.get_tensor(answer["index"]).argmax(axis=-1)
    return float(np.mean(labels != parts.test.y))


def weights_of(model):
    """All but the states of what drops out."""
    return [
        weight
        for layer in model.layers
        if not isinstance(layer, Dropout)
        for weight in layer.weights
    ]


def assign(model, values):
    for weight, value in zip(weights_of(model), values):
        weight.assign(value)


def _fit_with(build):
    def fit_with(contender, plan):
        everything = data.load("digits")
        parts = functools.cache(lambda seed: data.split(everything, seed, EXAMPLES))
        trainer_of = trainers(contender, lambda each: Trainer(build, each, batch=BATCH))
        plain = build(keras.layers.Identity)

        def figures(seed, values, error):
            assign(plain, values)
            found = {"test error": error}
            for name, per_channel in {"per tensor": False, "per channel": True}.items():
                quantized = int8_error(plain, parts(seed), per_channel)
                found |= {f"int8 error {name}": quantized, f"lost {name}": quantized - error}
            return found

        def fit(strength, seed):
            train, validation, test = data.on_device(parts(seed))
            trainer = trainer_of(strength)
            trainer.train(seed, strength, *train, plan.steps)
            error = trainer.errors(*test)[1]
            values = [weight.numpy() for weight in weights_of(trainer.model)]
            # What TFLite does takes seconds: it is done to the chosen one alone.
            assign(trainer.model, map(rounded, values))
            judged = trainer.errors(*validation)[0]
            return Outcome(judged, functools.partial(figures, seed, values, error))

        return fit

    return fit_with


def clipped(weight, bound):
    return tf.clip_by_value(weight, -bound, bound)


def of_bounded_norm(weight, norm):
    """Keras's MaxNorm, whose bound here is a variable."""
    axes = [0] if len(weight.shape) == 2 else [0, 1, 2]
    return keras.constraints.MaxNorm(norm, axis=axes)(weight)


def cases(available, folder):
    box = Contender(
        "BoxPenalty", *BOUNDS, make=lambda bound: tfreg.BoxPenalty(1.0, -bound, bound), ours=True
    )
    named = [
        *contenders.usual(),
        Contender("clipping", *BOUNDS, constraint=clipped),
        Contender("MaxNorm", *NORMS, constraint=of_bounded_norm),
        box,
    ]
    for name, build in {"dense": dense, "separable convolutions": separable}.items():
        yield Case(f"digits {name}, {EXAMPLES} examples", named, _fit_with(build))
