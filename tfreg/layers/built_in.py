"""What each axis of the weights of Keras's own layers means."""

import math

from tfreg import backend
from tfreg.layers.registry import register


def _output_at(axis, rank):
    return tuple("output" if i == axis else "position" for i in range(rank))


def _all_output(attribute):
    return lambda layer: ("output",) * len(getattr(layer, attribute).shape)


def _einsum_kernel(layer):
    inputs, _, rest = layer.equation.partition(",")
    kernel, _, outputs = rest.partition("->")
    return tuple(
        " ".join(["input"] * (letter in inputs) + ["output"] * (letter in outputs))
        for letter in kernel
    )


def _over_axes(attribute):
    """For a normalization over one or several axes, the last of which holds the channels."""

    def axes(layer):
        rank = len(getattr(layer, attribute).shape)
        signs = {axis < 0 for axis in layer.axis}
        if len(signs) == 1 and list(layer.axis) == sorted(layer.axis):
            return _output_at(rank - 1, rank)
        # The layer reshapes the weight to the order of the input's axes, unlike its own: a channel
        # is no index of one of them. Each entry acts on one channel, at any rate.
        return ("output",) * rank

    return axes


def _over_axes_of_the_input(attribute):
    """Like `_over_axes`, but with several axes the weight has the input's rank."""

    def axes(layer):
        rank = len(getattr(layer, attribute).shape)
        return _output_at(max(layer.axis), rank) if rank > 1 else ("output",)

    return axes


def _prelu(layer):
    rank = len(layer.alpha.shape)
    shared = {axis - 1 for axis in layer.shared_axes or ()}
    apart = [axis for axis in range(rank) if not shared & {axis, axis - rank}]
    # Where the channels come first, the positions after them are what one shares.
    return _output_at(apart[-1] if apart else rank - 1, rank)


def _gru_bias(layer):
    # With `reset_after`, the kernel and the recurrent kernel have a bias each.
    return _GATED[-1:] if len(layer.bias.shape) == 1 else ("gate", *_GATED[-1:])


def _attention_output(layer):
    outputs = len(layer._output_dense.kernel.shape) - 2
    return ("head input", "input", *["output"] * outputs)


def _conv_kernel(layer):
    filters = "output" if layer.groups == 1 else (("group input output", layer.groups), "output")
    return (*["position"] * layer.rank, "input", filters)


def _local_kernel(layer):
    channels_first = layer.data_format == "channels_first"
    size = math.prod(layer.kernel_size)
    grid = ("position",) * len(layer.kernel_size)
    if layer.implementation == 1:
        patch = ("input", ("position", size)) if channels_first else (("position", size), "input")
        return ("position", patch, "output")
    if layer.implementation == 2:
        if channels_first:
            return ("input", *grid, "output", *grid)
        return (*grid, "input", *grid, "output")
    # A list of what is not zero in a matrix with a row for each output.
    outputs = ("output", layer.filters)
    positions = ("position", layer.kernel_shape[0] // layer.filters)
    inputs = ("input", *layer.input_spec.axes.values())
    if math.prod((outputs[1], positions[1], inputs[1], size)) == layer.kernel.shape[0]:
        if channels_first:
            return ((outputs, positions, inputs, "position"),)
        return ((positions, outputs, "position", inputs),)
    # An output at the border has fewer inputs, so that only the first or the last is regular.
    return ((outputs, "input position"),) if channels_first else (("feature", inputs),)


def _local_bias(layer):
    rank = len(layer.bias.shape)
    if layer.data_format == "channels_first":
        # Reshaped, not transposed: a filter is no index of an axis. Each entry acts on one filter.
        return ("output",) * rank
    return _output_at(rank - 1, rank)


_BIAS = {"bias": ("output",)}
_GATED = ("input", (("gate", 3), "output"))
_LSTM_GATED = ("input", (("gate", 4), "output"))
_PROJECTION = ("input", "head output", "output")
_ATTENTION = {
    **{f"_{name}_dense.kernel": _PROJECTION for name in ("query", "key", "value", "gate")},
    **{f"_{name}_dense.bias": _PROJECTION[1:] for name in ("query", "key", "value", "gate")},
    "_output_dense.kernel": _attention_output,
    "_output_dense.bias": lambda layer: _attention_output(layer)[2:],
}
# By the names under which either Keras exports the classes, whether it has each or not.
_BUILT_IN = {
    "Dense": {"kernel": ("input", "output"), **_BIAS},
    "EinsumDense": {"kernel": _einsum_kernel, "bias": _all_output("bias")},
    "Embedding": {"embeddings": ("input output", "feature")},
    "ReversibleEmbedding": {"reverse_embeddings": ("feature", "input output")},
    "DenseFeatures": {"_trainable_weights": ("input output", "feature")},
    "RandomFourierFeatures": {"kernel_scale": ("output",)},
    "STFTSpectrogram": {
        "real_kernel": ("position", "input", "output"),
        "imag_kernel": ("position", "input", "output"),
    },
    "SimpleRNNCell": {
        "kernel": ("input", "output"),
        "recurrent_kernel": ("input", "output"),
        **_BIAS,
    },
    "GRUCell": {"kernel": _GATED, "recurrent_kernel": _GATED, "bias": _gru_bias},
    "LSTMCell": {
        "kernel": _LSTM_GATED,
        "recurrent_kernel": _LSTM_GATED,
        "bias": _LSTM_GATED[-1:],
    },
    "MultiHeadAttention": _ATTENTION,
    "GroupQueryAttention": _ATTENTION,
    "AdditiveAttention": {"scale": ("output",)},
    "BatchNormalization": {
        "gamma": _over_axes_of_the_input("gamma"),
        "beta": _over_axes_of_the_input("beta"),
    },
    "SyncBatchNormalization": {
        "gamma": _over_axes_of_the_input("gamma"),
        "beta": _over_axes_of_the_input("beta"),
    },
    "LayerNormalization": {"gamma": _over_axes("gamma"), "beta": _over_axes("beta")},
    "RMSNormalization": {"scale": _over_axes("scale")},
    "GroupNormalization": {"gamma": ("output",), "beta": ("output",)},
    "PReLU": {"alpha": _prelu},
}
for _rank in (1, 2, 3):
    _GRID = ("position",) * _rank
    _BUILT_IN |= {
        f"Conv{_rank}D": {"kernel": _conv_kernel, **_BIAS},
        f"Conv{_rank}DTranspose": {"kernel": (*_GRID, "output", "input"), **_BIAS},
        f"DepthwiseConv{_rank}D": {
            "kernel": (*_GRID, "input output", "output"),
            "depthwise_kernel": (*_GRID, "input output", "output"),
            **_BIAS,
        },
        f"SeparableConv{_rank}D": {
            "depthwise_kernel": (*_GRID, "input output", "output"),
            "pointwise_kernel": (*_GRID, "input", "output"),
            **_BIAS,
        },
        f"LocallyConnected{_rank}D": {"kernel": _local_kernel, "bias": _local_bias},
        f"ConvLSTM{_rank}D": {
            "cell.kernel": (*_GRID, *_LSTM_GATED),
            "cell.recurrent_kernel": (*_GRID, *_LSTM_GATED),
            "cell.bias": _LSTM_GATED[-1:],
        },
    }


def register_built_in():
    """Registers the layers of `_BUILT_IN` that either Keras has."""
    for api in (backend.keras, backend.tf_keras):
        for module in (api.layers, getattr(api.layers, "experimental", None)):
            for name, layouts in _BUILT_IN.items():
                if hasattr(module, name):
                    register(getattr(module, name), layouts)
