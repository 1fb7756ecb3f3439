"""Rules for normalizations."""

import math
from typing import Any

import numpy as np

from tfreg import backend
from tfreg.structure.tracing import Known, Rule, Step, Value


def batch_normalization(step: Step) -> list[Value]:
    """At inference a scale and an offset for each channel."""
    layer, [value] = step.operation, step.inputs[:1]
    axes = [axis % len(value.shape) for axis in np.ravel(layer.axis).tolist()]
    labelled = [axis for axis, labels in enumerate(value.axes) if labels is not None]
    if not labelled:
        step.pin_weights(layer, f"{step.path} normalizes {value.source}")
        return [value._replace(source=step.path)]
    if axes != labelled or getattr(layer, "virtual_batch_size", None):
        return step.pin_all(f"{step.path} normalizes over it")
    [axis], labels = axes, value.axes[axes[0]]
    for variable in step.trace.variables_in(layer):
        if tuple(variable.shape) == (value.shape[axis],):
            step.weight(variable, 0, labels)
    # Its weights have one axis, wherever the channels stand.
    step.constants = lambda known: [_of_channels(step, value, known[0])]
    return [value._replace(source=step.path)]


def _of_channels(step: Step, value: Value, known: Known) -> Known:
    """`beta + gamma (x - mean) / sqrt(variance + epsilon)`; beta where gamma is 0."""
    layer = step.operation
    variance = np.asarray(_array(layer, "moving_variance"), np.float64)
    scale = 1.0 / np.sqrt(variance + layer.epsilon)
    if layer.gamma is not None:
        scale = scale * _array(layer, "gamma")
    if known is None:
        known = np.full(len(scale), np.nan)
    centered = np.where(scale == 0.0, 0.0, scale * (known - _array(layer, "moving_mean")))
    return centered if layer.beta is None else centered + _array(layer, "beta")


def _array(layer: Any, name: str) -> np.ndarray:
    return backend.array_of(getattr(layer, name))


def layer_normalization(step: Step) -> list[Value]:
    [value] = step.inputs[:1]
    axes = np.ravel(step.operation.axis).tolist()
    if any(value.axes[axis] is not None for axis in axes):
        return step.pin_all(f"{step.path} takes the mean and the variance over it")
    if any(labels is not None for labels in value.axes):
        return step.pin_all(f"{step.path} is not followed along other axes")
    return [value._replace(source=step.path)]


def rms_normalization(step: Step) -> list[Value]:
    """`x scale / sqrt(sum x^2 / n + epsilon)`, which channels that are 0 may leave."""
    layer, [value] = step.operation, step.inputs[:1]
    axis = value.channel_axis
    axes = [each % len(value.shape) for each in np.ravel(layer.axis).tolist()]
    if axis is None or axes != [axis]:
        return step.pin_all(f"{step.path} is followed over one axis of channels only")
    labels = value.axes[axis]
    assert labels is not None
    step.weight(layer.scale, 0, labels)
    step.read_norm(labels)
    # The mean square of what is left is n / m times that of all; so becomes epsilon.
    step.rescaled.append((layer.scale, labels, rms_multiplier))
    step.constants = lambda known: [_zeros_of(known[0])]
    return [value._replace(source=step.path)]


def rms_multiplier(old: int, new: int) -> float:
    """What the scale of an RMSNormalization is multiplied by if `new` of `old` channels stay.

    With s the sum of squares, x scale / sqrt(s / n + eps) =
    x scale sqrt(n / m) / sqrt(s / m + eps n / m).
    """
    return math.sqrt(old / new)


def unit_normalization(step: Step) -> list[Value]:
    """`x / ||x||`, which channels that are 0 may leave."""
    [value] = step.inputs[:1]
    axis = value.channel_axis
    axes = [each % len(value.shape) for each in np.ravel(step.operation.axis).tolist()]
    if axis is None or axes != [axis]:
        return step.pin_all(f"{step.path} is followed over one axis of channels only")
    labels = value.axes[axis]
    assert labels is not None
    step.read_norm(labels)
    step.constants = lambda known: [_zeros_of(known[0])]
    return [value._replace(source=step.path)]


def _zeros_of(known: Known) -> Known:
    return None if known is None else np.where(known == 0.0, 0.0, np.nan)


def group_normalization(step: Step) -> list[Value]:
    """Whole groups of channels."""
    layer, [value] = step.operation, step.inputs[:1]
    axis = value.channel_axis
    if axis is None or layer.axis % len(value.shape) != axis:
        return step.pin_all(f"{step.path} is followed over one axis of channels only")
    labels = value.axes[axis]
    assert labels is not None
    count = len(labels) if layer.groups == -1 else layer.groups
    groups = labels.reshape(count, -1)
    if count == 1:
        return step.pin_all(f"{step.path} takes the mean and the variance over it")
    step.unify(groups[:, :1], groups)
    for variable in (layer.gamma, layer.beta):
        if variable is not None:
            step.weight(variable, 0, labels)

    def constants(known: list[Known]) -> list[Known]:
        """A group of zeros yields the offset."""
        if known[0] is None:
            return [None]
        are_zero = (known[0].reshape(count, -1) == 0.0).all(axis=1)
        beta = 0.0 if layer.beta is None else _array(layer, "beta")
        return [np.where(np.repeat(are_zero, groups.shape[1]), beta, np.nan)]

    step.constants = constants
    return [value._replace(source=step.path)]


def normalization(step: Step) -> list[Value]:
    """Keras's `Normalization`, whose statistics may stand in its config."""
    if all(labels is None for value in step.inputs for labels in value.axes):
        return [step.unlabelled(shape) for shape in step.output_shapes]
    return step.pin_all(f"{step.path} has statistics of each channel")


LAYERS: dict[str, Rule] = {
    "BatchNormalization": batch_normalization,
    "SyncBatchNormalization": batch_normalization,
    "LayerNormalization": layer_normalization,
    "RMSNormalization": rms_normalization,
    "UnitNormalization": unit_normalization,
    "GroupNormalization": group_normalization,
    "Normalization": normalization,
}
