"""Rules for operations without weights: padding, resizing, reductions, and the tables of all."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from tfreg.structure.axes import Arguments, Axis, given, moved, numbered, of_one, same
from tfreg.structure.joining import append, concatenate, hstack, stack
from tfreg.structure.reshapes import (
    broadcast_to,
    ensure_shape,
    expand_dims,
    flatten,
    flip,
    matrix_transpose,
    moveaxis,
    permute,
    repeat,
    repeat_vector,
    reshape,
    reshape_layer,
    roll,
    squeeze,
    swapaxes,
    tile,
    transpose,
)
from tfreg.structure.slicing import get_item, slice_of, sliced, split, take, unstack
from tfreg.structure.tracing import Rule, Step, Value

# Padding, cropping, resizing


def _pad(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    widths = [tuple(pair) for pair in np.asarray(given(arguments, "pad_width", "paddings"))]
    widths = widths * len(value.shape) if len(widths) == 1 else widths
    mode = str(arguments["mode"]).lower()
    fill = arguments.get("constant_values")
    fill = 0.0 if fill is None else float(fill) if np.ndim(fill) == 0 else math.nan
    return _padded(step, value, widths, mode, fill)


def _zero_padding(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    widths = [(0, 0)] * len(value.shape)
    for axis, pair in zip(_spatial_axes(value, arguments), _pairs(arguments["padding"])):
        widths[axis] = pair
    return _padded(step, value, widths, "constant", 0.0)


def _padded(
    step: Step, value: Value, widths: Sequence[tuple[int, ...]], mode: str, fill: float
) -> list[Value]:
    axes, is_constant = same(value), mode == "constant"
    is_mixed = False  # whether channels get positions that hold what is filled in
    for axis, (before, after) in enumerate(widths):
        labels = value.axes[axis]
        if not (before or after):
            continue
        if labels is None:
            is_mixed = is_mixed or is_constant
        elif is_constant:
            inside = np.arange(len(labels))
            axes[axis] = Axis(axis, np.pad(inside, (before, after), constant_values=-1))
        else:
            step.pin(labels, f"{step.path} pads it with its own channels")
            axes[axis] = Axis()

    def change(known: np.ndarray) -> np.ndarray:
        return np.where(known == fill, known, math.nan) if is_mixed else known

    return moved(step, value, [axes], change, fill)


def _cropping(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    axes = same(value)
    for axis, (before, after) in zip(
        _spatial_axes(value, arguments), _pairs(arguments["cropping"])
    ):
        axes[axis] = sliced(step, value, axis, slice(before or None, -after or None))
    return moved(step, value, [axes])


def _pairs(widths: Any) -> list[tuple[int, int]]:
    return [(int(before), int(after)) for before, after in np.reshape(widths, (-1, 2))]


def _spatial_axes(value: Value, arguments: Arguments) -> range:
    rank = len(value.shape)
    is_first = arguments.get("data_format") == "channels_first"
    return range(2, rank) if is_first else range(1, rank - 1)


def _up_sampling(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    return _resized(step, value, _spatial_axes(value, arguments))


def _resized_images(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    rank = len(value.shape)  # images may stand alone
    is_first = arguments.get("data_format") == "channels_first"
    axes = range(rank - 2, rank) if is_first else range(rank - 3, rank - 1)
    fill = arguments.get("fill_value") if arguments.get("pad_to_aspect_ratio") else None
    return _resized(step, value, axes, fill)


def _resized(
    step: Step, value: Value, spatial: Iterable[int], fill: float | None = None
) -> list[Value]:
    """Positions are repeated, left out or interpolated, which leaves constants as they are."""
    axes = same(value)
    for axis in spatial:
        if value.axes[axis] is not None:
            step.pin(value.axes[axis], f"{step.path} resizes it")
            axes[axis] = Axis()

    def change(known: np.ndarray) -> np.ndarray:
        return known if fill is None else np.where(known == fill, known, math.nan)

    return moved(step, value, [axes], change)


# Reductions and casts


def _reduction(constant: Callable[[np.ndarray, float], np.ndarray]) -> Rule:
    """The rule for what takes one number from all positions of some axes.

    `constant` is what becomes of constants that stand there a number of times, NaN if unknown.
    """

    def plan(step: Step, value: Value, arguments: Arguments) -> list[Value]:
        rank = len(value.shape)
        axis = given(arguments, "axis", "reduction_indices")
        keepdims = bool(given(arguments, "keepdims", "keep_dims"))
        reduced = numbered(axis, rank)
        for i in reduced:
            step.pin(value.axes[i], f"{step.path} takes one number from all of its channels")
        lengths = [value.shape[i] for i in reduced]
        count = math.prod(math.nan if length is None else length for length in lengths)
        axes = [
            Axis() if i in reduced else Axis(i) for i in range(rank) if keepdims or i not in reduced
        ]
        if given(arguments, "initial") is not None:
            return moved(step, value, [axes], lambda known: None)
        return moved(step, value, [axes], lambda known: constant(known, count))

    return of_one(plan)


def _kept(known: np.ndarray, count: float) -> np.ndarray:
    return known


def _zeros(known: np.ndarray, count: float) -> np.ndarray:
    return known * 0


def _summed(known: np.ndarray, count: float) -> np.ndarray:
    return np.where(known == 0, 0.0, known * count)


def _multiplied(known: np.ndarray, count: float) -> np.ndarray:
    return np.where((known == 0) | (known == 1), known, math.nan)


def _identity(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    return moved(step, value, [same(value)])


def _cast(step: Step, value: Value, arguments: Arguments) -> list[Value]:
    dtype = given(arguments, "dtype")
    is_wide = str(getattr(dtype, "name", dtype)) in ("None", "float32", "float64")

    def change(known: np.ndarray) -> np.ndarray:
        return known if is_wide else np.where(known == 0, known, math.nan)  # others are rounded

    return moved(step, value, [same(value)], change)


def _filled(constant: float) -> Rule:
    def plan(step: Step, value: Value, arguments: Arguments) -> list[Value]:
        return moved(step, value, [same(value)], lambda known: np.full(len(known), constant))

    return of_one(plan)


LAYERS: dict[str, Rule] = {
    "CenterCrop": of_one(_resized_images),
    "Concatenate": concatenate,
    "Cropping1D": of_one(_cropping),
    "Cropping2D": of_one(_cropping),
    "Cropping3D": of_one(_cropping),
    "Flatten": of_one(flatten),
    "Identity": of_one(_identity),
    "Permute": of_one(permute),
    "RepeatVector": of_one(repeat_vector),
    "Reshape": of_one(reshape_layer),
    "Resizing": of_one(_resized_images),
    "UpSampling1D": of_one(_up_sampling),
    "UpSampling2D": of_one(_up_sampling),
    "UpSampling3D": of_one(_up_sampling),
    "ZeroPadding1D": of_one(_zero_padding),
    "ZeroPadding2D": of_one(_zero_padding),
    "ZeroPadding3D": of_one(_zero_padding),
}

_KERAS: dict[str, Rule] = {
    "Amax": _reduction(_kept),
    "Amin": _reduction(_kept),
    "Append": append,
    "ArraySplit": of_one(split),
    "BroadcastTo": of_one(broadcast_to),
    "Cast": of_one(_cast),
    "Concatenate": concatenate,
    "Copy": of_one(_identity),
    "ExpandDims": of_one(expand_dims),
    "Flip": of_one(flip),
    "GetItem": of_one(get_item),
    "Hstack": hstack,
    "Max": _reduction(_kept),
    "Mean": _reduction(_kept),
    "Min": _reduction(_kept),
    "Moveaxis": of_one(moveaxis),
    "OnesLike": _filled(1.0),
    "Pad": of_one(_pad),
    "Prod": _reduction(_multiplied),
    "Ravel": of_one(reshape),
    "Repeat": of_one(repeat),
    "Reshape": of_one(reshape),
    "Resize": of_one(_resized_images),
    "Roll": of_one(roll),
    "Slice": of_one(slice_of),
    "Split": of_one(split),
    "Squeeze": of_one(squeeze),
    "Stack": stack,
    "Std": _reduction(_zeros),
    "StopGradient": of_one(_identity),
    "Sum": _reduction(_summed),
    "Swapaxes": of_one(swapaxes),
    "Take": of_one(take),
    "Tile": of_one(tile),
    "Transpose": of_one(transpose),
    "Unstack": of_one(unstack),
    "Var": _reduction(_zeros),
    "ZerosLike": _filled(0.0),
}

_TENSORFLOW: dict[str, Rule] = {
    "__operators__.getitem": of_one(get_item),
    "broadcast_to": of_one(broadcast_to),
    "cast": of_one(_cast),
    "concat": concatenate,
    "convert_to_tensor": of_one(_cast),
    "ensure_shape": of_one(ensure_shape),
    "expand_dims": of_one(expand_dims),
    "gather": of_one(take),
    "identity": of_one(_identity),
    "image.resize": of_one(_resized_images),
    "keras.backend.batch_flatten": of_one(reshape),
    "linalg.matrix_transpose": of_one(matrix_transpose),
    "math.reduce_max": _reduction(_kept),
    "math.reduce_mean": _reduction(_kept),
    "math.reduce_min": _reduction(_kept),
    "math.reduce_prod": _reduction(_multiplied),
    "math.reduce_std": _reduction(_zeros),
    "math.reduce_sum": _reduction(_summed),
    "math.reduce_variance": _reduction(_zeros),
    "ones_like": _filled(1.0),
    "pad": of_one(_pad),
    "repeat": of_one(repeat),
    "reshape": of_one(reshape),
    "reverse": of_one(flip),
    "roll": of_one(roll),
    "slice": of_one(slice_of),
    "split": of_one(split),
    "squeeze": of_one(squeeze),
    "stack": stack,
    "stop_gradient": of_one(_identity),
    "tile": of_one(tile),
    "transpose": of_one(transpose),
    "unstack": of_one(unstack),
    "zeros_like": _filled(0.0),
}

# tf_keras records these under the names of TensorFlow 1's functions.
_OLD = {
    f"compat.v1.{name}": _TENSORFLOW[name] for name in ("gather", "pad", "squeeze", "transpose")
}

FUNCTIONS: dict[str, Rule] = {**_KERAS, **_TENSORFLOW, **_OLD}
