"""BoxPenalty before quantization to int8 by TFLite, one scale for a tensor or one for a channel.

Separable convolutions are trained as MobileNet was, by RMSprop with momentum and a large learning
rate. Some channels die: their beta falls so far that ReLU gives 0 for every example. The variance
of such a channel after the next depthwise convolution is 0, so folding its batch normalization
into the kernel divides by sqrt(epsilon). The folded kernel is then many times that of all other
channels, for which a scale that all share leaves few of the 255 values.
"""

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
BATCH, RATE = 32, 0.01
# Bounds of a weight, of a beta; norms of all weights of a unit; factors; learning rates.
BOUNDS, BETAS, NORMS = (0.1, 4.0), (0.003, 3.0), (0.2, 8.0)
FACTORS, RATES = (1e-5, 10.0), (3e-4, 3e-2)
# The least of the usual ranges keeps some channels alive already.
USUAL_RANGES = {"L2": (1e-6, 0.1), "L1": (1e-6, 0.1), "dropout": (0.002, 2.0)}
# About the largest of the weights at the start.
START = 0.3
LEARNING_RATE = "learning rate"
# Bounds so wide bind nothing.
WIDE = ("most",)
CRITERIA = {"per tensor": False, "per channel": True}
QUICK = {"digits separable convolutions, 400 examples"}


def optimizer(rate=RATE):
    return keras.optimizers.RMSprop(rate, momentum=0.9)


def separable(shape, widths, strides, drop):
    """A convolution and separable ones, as in MobileNet."""
    convolutions = [layers.Conv2D(widths[0], 3, strides[0], padding="same", use_bias=False)]
    for filters, stride in zip(widths[1:], strides[1:]):
        convolutions.append(layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False))
        convolutions.append(layers.Conv2D(filters, 1, use_bias=False))
    stack = [keras.Input(shape)]
    for convolution in convolutions:
        stack += [convolution, layers.BatchNormalization(momentum=0.9), layers.ReLU(6.0)]
    return keras.Sequential([*stack, layers.GlobalAveragePooling2D(), drop(), layers.Dense(10)])


def fold(model):
    """Moves the scale of each normalization into the kernel before it; leaves it a bias to add."""
    for layer, norm in zip(model.layers, model.layers[1:]):
        if not isinstance(norm, layers.BatchNormalization):
            continue
        scale = norm.gamma.numpy() / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
        kernel = layer.kernel.numpy()
        # The last axes are (channels, multiplier) if it is depthwise.
        outputs = kernel.shape[2:] if is_depthwise(layer) else scale.shape
        layer.kernel.assign(kernel * scale.reshape(outputs))
        norm.beta.assign(norm.beta.numpy() - norm.moving_mean.numpy() * scale)
        norm.gamma.assign(np.ones_like(scale))
        norm.moving_mean.assign(np.zeros_like(scale))
        norm.moving_variance.assign(np.full_like(scale, 1.0 - norm.epsilon))


def is_depthwise(layer):
    return isinstance(layer, layers.DepthwiseConv2D)


def rounded(kernel, axes=None):
    """In int8, with one scale for all elements along the axes; back in floats."""
    largest = np.abs(kernel).max(axis=axes, keepdims=True)
    scale = np.where(largest > 0.0, largest, 1.0) / 127.0
    return np.round(kernel / scale) * scale


def round_kernels(model, per_channel):
    """Biases stay as they are: TFLite gives them 32 bits."""
    for layer in model.layers:
        if not hasattr(layer, "kernel"):
            continue
        kernel, axes = layer.kernel.numpy(), None
        if per_channel:
            axes = (0, 1) if is_depthwise(layer) else tuple(range(kernel.ndim - 1))
        layer.kernel.assign(rounded(kernel, axes))


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


def values_of(model):
    return [weight.numpy() for weight in weights_of(model)]


def assign(model, values):
    for weight, value in zip(weights_of(model), values, strict=True):
        weight.assign(value)


def judged_rounded(trainer, x, y):
    """The error and the loss of the network with rounded kernels, by criterion."""
    fold(trainer.model)
    folded, result = values_of(trainer.model), {}
    for name, per_channel in CRITERIA.items():
        assign(trainer.model, folded)
        round_kernels(trainer.model, per_channel)
        loss, error = trainer.errors(x, y)
        result[name] = error, loss
    return result


def _trainers(contender, build):
    create = functools.partial(Trainer, build, batch=BATCH)
    if contender.name == LEARNING_RATE:
        return functools.cache(
            lambda rate: create(contender, make_optimizer=lambda: optimizer(rate))
        )
    return trainers(contender, functools.partial(create, make_optimizer=optimizer))


def _fit_with(build, name, folder, examples):
    def fit_with(contender, plan):
        everything = data.load(name, folder)
        parts = functools.cache(lambda seed: data.split(everything, seed, examples))
        trainer_of = _trainers(contender, build)
        plain = build(keras.layers.Identity)

        def figures(criterion, seed, values, error):
            assign(plain, values)
            quantized = int8_error(plain, parts(seed), CRITERIA[criterion])
            return {
                f"float error {criterion}": error,
                f"int8 error {criterion}": quantized,
                f"lost {criterion}": quantized - error,
            }

        def fit(strength, seed):
            train, validation, test = data.on_device(parts(seed))
            trainer = trainer_of(strength)
            trainer.train(seed, strength, *train, plan.steps)
            error, values = trainer.errors(*test)[1], values_of(trainer.model)
            told: dict = {
                criterion: functools.partial(figures, criterion, seed, values, error)
                for criterion in CRITERIA
            }
            return Outcome(judged_rounded(trainer, *validation), told)

        return fit

    return fit_with


def clipped(weight, bound):
    return tf.clip_by_value(weight, -bound, bound)


def at_least(weight, bound):
    return tf.maximum(weight, -bound)


def of_bounded_norm(weight, norm):
    """Keras's MaxNorm, whose bound here is a variable."""
    axes = [0, 1] if "depthwise" in weight.path else list(range(len(weight.shape) - 1))
    return keras.constraints.MaxNorm(norm, axis=axes)(weight)


def box(bound):
    return tfreg.BoxPenalty(1.0, -bound, bound)


def cases(available, folder):
    named = [
        *contenders.with_ranges(contenders.usual(), USUAL_RANGES),
        Contender(LEARNING_RATE, *RATES),
        Contender("clipping", *BOUNDS, constraint=clipped, natural=WIDE),
        # From below, so that channels stay alive; 0.003 is as good as 0.
        Contender(
            "clipping of beta",
            *BETAS,
            weights="beta",
            constraint=at_least,
            natural=("least", "most"),
        ),
        Contender("MaxNorm", *NORMS, constraint=of_bounded_norm, natural=WIDE),
        # A small kernel bounds the folded one too: by bound * gamma / sqrt(epsilon).
        Contender("BoxPenalty", *BOUNDS, make=box, ours=True, natural=WIDE),
        Contender("BoxPenalty, factor", *FACTORS, box(START), ours=True),
        Contender(
            "BoxPenalty of beta",
            *BETAS,
            weights="beta",
            make=lambda bound: tfreg.BoxPenalty(1.0, -bound, None),
            ours=True,
            natural=("least", "most"),
        ),
    ]
    build = functools.partial(separable, (8, 8, 1), (16, 32, 32), (1, 1, 1))
    fit_with = _fit_with(build, "digits", folder, 400)
    yield Case("digits separable convolutions, 400 examples", named, fit_with)
    if "Fashion-MNIST" in available:
        build = functools.partial(separable, (28, 28, 1), (8, 16, 32), (2, 2, 1))
        fit_with = _fit_with(build, "Fashion-MNIST", folder, 1000)
        yield Case("Fashion-MNIST separable convolutions, 1000 examples", named, fit_with)
