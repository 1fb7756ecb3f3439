"""Rules for convolutions: plain, grouped, transposed, depthwise, separable."""

import math
from typing import Any

import numpy as np

from tfreg.structure.channelwise import channels_axis
from tfreg.structure.kernels import activated, array, constant_sums, unless_blocked, yields
from tfreg.structure.tracing import Fold, Known, Rule, Step, Value, positions


def _is_pointwise(layer: Any) -> bool:
    return math.prod(layer.kernel_size) == 1


def _adds_no_edge(layer: Any) -> bool:
    """Whether each output sums over the whole kernel, with no zeros around the input."""
    return layer.padding == "valid" or _is_pointwise(layer)


def _over_positions(kernel: np.ndarray) -> np.ndarray:
    """A convolution's kernel summed over its positions."""
    return kernel.sum(axis=tuple(range(kernel.ndim - 2)))


def _any_position(kernel: np.ndarray) -> np.ndarray:
    """Not 0 where the kernel is not 0 at some position."""
    return np.abs(kernel).max(axis=tuple(range(kernel.ndim - 2)), initial=0.0)


@unless_blocked
def convolution(step: Step) -> list[Value]:
    layer, [value] = step.operation, step.inputs[:1]
    kernel, bias = layer.kernel, layer.bias
    axis = channels_axis(layer, len(value.shape))
    step.keep_other_axes(value, axis)
    labels = step.labels_of(value, axis, step.path)
    step.use(kernel, positions(step.output_shapes[0], axis))
    if layer.groups > 1:
        return [_grouped(step, value, labels, axis)]
    adds_no_edge = _adds_no_edge(layer)
    fold = Fold(layer, bias, lambda kernel, constants: constants @ _over_positions(kernel))
    step.read(kernel, -2, labels, fold=fold if adds_no_edge else None)
    output = yields(step, step.weight(kernel, -1), bias, axis)
    is_read = value.channel_axis == axis
    step.constants = lambda known: activated(
        step, _convolved(array(kernel), known[0] if is_read else None, bias, not adds_no_edge)
    )
    return [output]


def _convolved(kernel: np.ndarray, known: Known, bias: Any, zeros_only: bool) -> Known:
    """A constant, unless a kernel that is not 0 meets an unknown channel or zeros at an edge."""
    magnitudes, sums = _any_position(kernel), _over_positions(kernel)
    known = np.full(len(sums), np.nan) if known is None else known
    if zeros_only:
        known = np.where(known == 0.0, 0.0, np.nan)
    meets = (magnitudes[np.isnan(known)] != 0.0).any(axis=0)
    if meets.all():
        return None
    result = constant_sums(np.where(np.isnan(known)[:, None], 0.0, sums), known, bias)
    return None if result is None else np.where(meets, np.nan, result)


def _grouped(step: Step, value: Value, labels: np.ndarray, axis: int) -> Value:
    """Whole groups: a group reads its channels and yields its filters."""
    layer = step.operation
    groups = labels.reshape(layer.groups, -1)
    step.unify(groups[:, :1], groups)
    filters = np.repeat(groups[:, 0], layer.kernel.shape[-1] // layer.groups)
    labels = step.weight(layer.kernel, -1, filters)
    output = yields(step, labels, layer.bias, axis)

    def constants(known: list[Known]) -> list[Known]:
        kernel = array(layer.kernel)
        per_group = kernel.shape[-1] // layer.groups
        results = []
        for k in range(layer.groups):
            inside = None
            if known[0] is not None and value.channel_axis == axis:
                inside = known[0].reshape(layer.groups, -1)[k]
            filters = slice(k * per_group, (k + 1) * per_group)
            part = _convolved(kernel[..., filters], inside, None, True)
            results.append(np.full(per_group, np.nan) if part is None else part)
        total = np.concatenate(results)
        if layer.bias is not None:
            total = total + array(layer.bias)
        return activated(step, total)

    step.constants = constants
    return output


@unless_blocked
def transposed_convolution(step: Step) -> list[Value]:
    layer, [value] = step.operation, step.inputs[:1]
    if getattr(layer, "groups", 1) > 1:
        return step.pin_all(f"{step.path} has groups")
    kernel, bias = layer.kernel, layer.bias
    axis = channels_axis(layer, len(value.shape))
    step.keep_other_axes(value, axis)
    # Each output sums over a part of the kernel that depends on its place.
    is_uniform = _is_pointwise(layer) and math.prod(layer.strides) == 1
    fold = Fold(layer, bias, lambda kernel, constants: _over_positions(kernel) @ constants)
    step.read(kernel, -1, step.labels_of(value, axis, step.path), fold=fold if is_uniform else None)
    step.use(kernel, positions(value.shape, axis))
    output = yields(step, step.weight(kernel, -2), bias, axis)
    is_read = value.channel_axis == axis

    def constants(known: list[Known]) -> list[Known]:
        swapped = np.swapaxes(array(kernel), -1, -2)
        sums = _convolved(swapped, known[0] if is_read else None, bias, not is_uniform)
        return activated(step, sums)

    step.constants = constants
    return [output]


def _depthwise_kernel(layer: Any) -> Any:
    kernel = getattr(layer, "depthwise_kernel", None)
    return layer.kernel if kernel is None else kernel


def _depthwise(layer: Any, kernel: Any, known: Known) -> np.ndarray:
    """What the sums over each channel are, as a vector of channels times multiplier."""
    weights = array(kernel)
    magnitudes, sums = _any_position(weights), _over_positions(weights)
    known = np.full(len(sums), np.nan) if known is None else known
    if not _adds_no_edge(layer):
        known = np.where(known == 0.0, 0.0, np.nan)
    products = np.where(magnitudes == 0.0, 0.0, known[:, None] * sums)
    return products.reshape(-1)


@unless_blocked
def depthwise_convolution(step: Step) -> list[Value]:
    layer, [value] = step.operation, step.inputs[:1]
    kernel, bias = _depthwise_kernel(layer), layer.bias
    axis = channels_axis(layer, len(value.shape))
    step.keep_other_axes(value, axis)
    labels = step.weight(kernel, -2, step.labels_of(value, axis, step.path))
    step.use(kernel, positions(step.output_shapes[0], axis))
    output = yields(step, np.repeat(labels, kernel.shape[-1]), bias, axis)
    is_read = value.channel_axis == axis

    def constants(known: list[Known]) -> list[Known]:
        total = _depthwise(layer, kernel, known[0] if is_read else None)
        if bias is not None:
            total = total + array(bias)
        return activated(step, total)

    step.constants = constants
    return [output]


@unless_blocked
def separable_convolution(step: Step) -> list[Value]:
    layer, [value] = step.operation, step.inputs[:1]
    depthwise, pointwise, bias = layer.depthwise_kernel, layer.pointwise_kernel, layer.bias
    axis = channels_axis(layer, len(value.shape))
    step.keep_other_axes(value, axis)
    labels = step.weight(depthwise, -2, step.labels_of(value, axis, step.path))
    step.use(depthwise, positions(step.output_shapes[0], axis))
    step.use(pointwise, positions(step.output_shapes[0], axis))
    is_read = value.channel_axis == axis

    def between(known: list[Known], outputs: Any = None) -> Known:
        return _depthwise(layer, depthwise, known[0] if is_read else None)

    fold = Fold(layer, bias, lambda kernel, constants: constants @ _over_positions(kernel))
    step.read(pointwise, -2, np.repeat(labels, depthwise.shape[-1]), between, fold)
    output = yields(step, step.weight(pointwise, -1), bias, axis)
    step.constants = lambda known: activated(
        step, constant_sums(_over_positions(array(pointwise)), between(known), bias)
    )
    return [output]


LAYERS: dict[str, Rule] = {
    **{f"Conv{rank}D": convolution for rank in (1, 2, 3)},
    **{f"Conv{rank}DTranspose": transposed_convolution for rank in (1, 2, 3)},
    **{f"DepthwiseConv{rank}D": depthwise_convolution for rank in (1, 2)},
    **{f"SeparableConv{rank}D": separable_convolution for rank in (1, 2)},
}
