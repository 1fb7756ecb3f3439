"""The axes of the weights of Keras's own layers."""

import math

from tfreg import backend
from tfreg.inventory import Layer
from tfreg.layers.registry import Axes, AxesOf, register


def _output_at(axis: int, rank: int) -> Axes:
    return tuple("output" if i == axis else "position" for i in range(rank))


def _all_output(attribute: str) -> AxesOf:
    return lambda layer: ("output",) * len(getattr(layer, attribute).shape)


def _einsum_kernel(layer: Layer) -> Axes:
    inputs, _, rest = layer.equation.partition(",")
    kernel, _, outputs = rest.partition("->")
    return tuple(
        " ".join(["input"] * (letter in inputs) + ["output"] * (letter in outputs))
        for letter in kernel
    )


def _over_axes(attribute: str) -> AxesOf:
    """For a normalization over one or several axes, the last of which holds the channels."""

    def axes(layer: Layer) -> Axes:
        rank = len(getattr(layer, attribute).shape)
        signs = {axis < 0 for axis in layer.axis}
        if len(signs) == 1 and list(layer.axis) == sorted(layer.axis):
            return _output_at(rank - 1, rank)
        # Reshaped, not transposed, to the order of the input's axes: no axis counts channels, but
        # each entry acts on one.
        return ("output",) * rank

    return axes


def _over_axes_of_the_input(attribute: str) -> AxesOf:
    """Like `_over_axes`, but with several axes the weight has the input's rank."""

    def axes(layer: Layer) -> Axes:
        rank = len(getattr(layer, attribute).shape)
        return _output_at(max(layer.axis), rank) if rank > 1 else ("output",)

    return axes


def _prelu(layer: Layer) -> Axes:
    rank = len(layer.alpha.shape)
    shared = {axis - 1 for axis in layer.shared_axes or ()}
    unshared = [axis for axis in range(rank) if not shared & {axis, axis - rank}]
    # Channels come last, or first with the positions behind them shared.
    return _output_at(unshared[-1] if unshared else rank - 1, rank)


def _gru_bias(layer: Layer) -> Axes:
    # With `reset_after`, the kernel and the recurrent kernel have a bias each.
    return _GATED[-1:] if len(layer.bias.shape) == 1 else ("gate", *_GATED[-1:])


def _attention_output(layer: Layer) -> Axes:
    outputs = len(layer._output_dense.kernel.shape) - 2
    return ("head input", "input", *["output"] * outputs)


def _conv_kernel(layer: Layer) -> Axes:
    filters = "output" if layer.groups == 1 else (("group input output", layer.groups), "output")
    return (*["position"] * layer.rank, "input", filters)


def _local_kernel(layer: Layer) -> Axes:
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
    # The nonzero entries of a matrix with a row for each output.
    outputs = ("output", layer.filters)
    positions = ("position", layer.kernel_shape[0] // layer.filters)
    inputs = ("input", *layer.input_spec.axes.values())
    if math.prod((outputs[1], positions[1], inputs[1], size)) == layer.kernel.shape[0]:
        if channels_first:
            return ((outputs, positions, inputs, "position"),)
        return ((positions, outputs, "position", inputs),)
    # Outputs at the border have fewer inputs: only the first or the last part has a fixed length.
    return ((outputs, "input position"),) if channels_first else (("feature", inputs),)


def _local_bias(layer: Layer) -> Axes:
    rank = len(layer.bias.shape)
    if layer.data_format == "channels_first":
        # Reshaped, not transposed: no axis counts filters, but each entry acts on one.
        return ("output",) * rank
    return _output_at(rank - 1, rank)


_BIAS = {"bias": ("output",)}
_GATED: Axes = ("input", (("gate", 3), "output"))
_LSTM_GATED: Axes = ("input", (("gate", 4), "output"))
_PROJECTION = ("input", "head output", "output")
_ATTENTION: dict[str, Axes | AxesOf] = {
    **{f"_{name}_dense.kernel": _PROJECTION for name in ("query", "key", "value", "gate")},
    **{f"_{name}_dense.bias": _PROJECTION[1:] for name in ("query", "key", "value", "gate")},
    "_output_dense.kernel": _attention_output,
    "_output_dense.bias": lambda layer: _attention_output(layer)[2:],
}
# By the names that Keras exports; either Keras may lack some.
_BUILT_IN: dict[str, dict[str, Axes | AxesOf]] = {
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


def register_built_in() -> None:
    """Registers the layers of `_BUILT_IN` that either Keras has."""
    for api in (backend.keras, backend.tf_keras):
        for module in (api.layers, getattr(api.layers, "experimental", None)):
            for name, layouts in _BUILT_IN.items():
                if hasattr(module, name):
                    register(getattr(module, name), layouts)
