"""Rules for what acts on each channel apart: elementwise functions, merging, pooling, dropout."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfreg import backend
from tfreg.structure.axes import arguments_of
from tfreg.structure.tracing import Known, Rule, Step, Value

# Functions, and layers as activations, that act on each element apart.
_ELEMENTWISE = set(
    "linear relu relu6 elu selu celu gelu silu swish mish sigmoid hard_sigmoid hard_silu "
    "hard_swish hard_tanh hard_shrink soft_shrink softplus softsign tanh tanh_shrink "
    "exponential exp leaky_relu leakyrelu thresholdedrelu log_sigmoid squareplus sparse_plus "
    "sparse_sigmoid threshold square abs sin cos erf".split()
)


def passes(step: Step) -> list[Value]:
    """One input, which is the output at inference."""
    [value] = step.inputs[:1]
    step.constants = lambda known: known[:1]
    return [value._replace(source=step.path)]


def elementwise(step: Step) -> list[Value]:
    """A function of the elements of its inputs at one place, and of weights at one channel."""
    if len(step.output_shapes) != 1:
        return step.pin_all(f"{step.path} has several outputs")
    reason = mixing_reason(step, getattr(step.operation, "activation", None))
    if reason is not None:
        return step.pin_all(f"{step.path} {reason}")
    [shape] = step.output_shapes
    axes = tuple(_broadcast(step, shape, axis) for axis in range(-len(shape), 0))
    if any(each is not None and n not in (None, len(each)) for n, each in zip(shape, axes)):
        return step.pin_all(f"{step.path} yields more or fewer channels than it gets")
    output = Value(shape, axes, step.path)
    for variable in step.trace.variables_in(step.operation):
        _follow_weight(step, variable, output)
    if backend.is_of_keras(step.operation):
        step.constants = lambda known: [_evaluated(step, output, known)]
    return [output]


def multiply(step: Step) -> list[Value]:
    """Elementwise products: one factor that is 0 is enough."""
    [output] = elementwise(step)
    labels = None if output.channel_axis is None else output.axes[output.channel_axis]

    def constants(known: list[Known]) -> list[Known]:
        product = _evaluated(step, output, known)
        if labels is None:
            return [None]
        for value, factors in zip(step.inputs, known):
            if factors is None or not _is_aligned(value, output):
                continue
            product = np.full(len(labels), np.nan) if product is None else product
            product = np.where(factors == 0.0, 0.0, product)
        return [product]

    step.constants = constants
    return [output]


def softmax(step: Step) -> list[Value]:
    [value], masks = step.inputs[:1], step.inputs[1:]
    axis = (arguments_of(step) or {}).get("axis", -1)
    if axis is None:  # the last for TensorFlow's function, all for Keras's
        axis = -1 if hasattr(step.operation, "symbol") else range(len(value.shape))
    if masks or any(value.axes[each] is not None for each in np.ravel(axis).tolist()):
        return step.pin_all(f"{step.path} takes a softmax over it")
    return [value._replace(source=step.path)]


def pooling(step: Step) -> list[Value]:
    """Pooling over positions, which keeps a constant."""
    [value], [shape] = step.inputs[:1], step.output_shapes
    axis = channels_axis(step.operation, len(value.shape))
    if any(labels is not None for i, labels in enumerate(value.axes) if i != axis):
        return step.pin_all(f"{step.path} pools over it")
    labels = value.axes[axis]
    step.constants = lambda known: known[:1]
    return [step.value(shape, axis if len(shape) == len(value.shape) else -1, labels)]


def channels_axis(layer: Any, rank: int) -> int:
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def mixing_reason(step: Step, function: Any) -> str | None:
    """Why `function`, an activation, cannot be followed: it is not elementwise, or not known."""
    if function is None or function in step.trace.elementwise:
        return None
    name = getattr(function, "__name__", type(function).__name__)
    # An activation may be a layer of Keras: its name is that of its class.
    owner = function if hasattr(function, "__name__") else type(function)
    is_known = owner.__module__.split(".")[0] in ("keras", "tf_keras", "tensorflow")
    if is_known and name.lower() in _ELEMENTWISE:
        return None
    if is_known and "softmax" in name.lower():
        return f"takes a {name} over it"
    return f"has the activation {name!r}, which may mix channels"


def applied(function: Any, known: np.ndarray) -> np.ndarray:
    """An elementwise activation of constants."""
    if function is None:
        return known
    array = backend.array_of(function(tf.constant(known, tf.float64)))
    return np.where(np.isnan(known), np.nan, array)


def _broadcast(step: Step, shape: tuple, axis: int) -> np.ndarray | None:
    """The labels of an output's axis, counted from the last, from those of all inputs."""
    found: list[np.ndarray] = []
    whole = None
    for value in step.inputs:
        if len(value.shape) < -axis:
            continue
        labels, length = value.axes[axis], value.shape[axis]
        if length == 1 and shape[axis] != 1:
            step.pin(labels, f"{step.path} spreads its one channel over others")
        elif labels is not None:
            found.append(labels)
        elif length != 1:
            whole = value.source
    for labels in found[1:]:
        step.unify(found[0], labels)
    if not found:
        return None
    if whole is not None:
        step.pin(found[0], f"{step.path} combines it with {whole}")
    elif _has_arrays(step, axis):
        step.pin(found[0], f"{step.path} combines it with an array of its own")
    return found[0]


def _has_arrays(step: Step, axis: int) -> bool:
    """Whether an argument that is no tensor of the graph has several entries along the axis."""
    own = {} if backend.is_layer(step.operation) else vars(step.operation)
    given = [value for name, value in own.items() if not name.startswith("_")]
    for leaf in _leaves([step.args, step.kwargs, given]):
        shape = np.shape(leaf) if isinstance(leaf, (np.ndarray, np.generic)) else ()
        if tf.is_tensor(leaf) or hasattr(leaf, "assign"):
            shape = tuple(leaf.shape)
        if len(shape) >= -axis and shape[axis] != 1:
            return True
    return False


def _leaves(structure: Any) -> Iterator[Any]:
    if isinstance(structure, Value):
        return
    if isinstance(structure, dict):
        structure = list(structure.values())
    if isinstance(structure, (list, tuple)):
        if _is_of_numbers(structure):
            yield np.asarray(structure)
        else:
            for entry in structure:
                yield from _leaves(entry)
    else:
        yield structure


def _is_of_numbers(structure: Any) -> bool:
    if isinstance(structure, (list, tuple)):
        return len(structure) > 0 and all(map(_is_of_numbers, structure))
    return isinstance(structure, (int, float))


def _follow_weight(step: Step, variable: Any, output: Value) -> None:
    """Labels the axes of a weight, which broadcasts to the output from the right."""
    rank = len(variable.shape)
    for axis in range(-min(rank, len(output.shape)), 0):
        labels = output.axes[axis]
        if variable.shape[axis] == 1:
            continue
        if labels is None:
            step.trace.keep_whole(variable, axis, f"{step.path} combines it with {output.source}")
        elif variable.shape[axis] == len(labels):
            step.weight(variable, axis, labels)
        else:
            step.pin(labels, f"{step.path} has a weight of another length, {variable.shape[axis]}")


def _is_aligned(value: Value, output: Value) -> bool:
    """Whether the channels of `value` are those of `output`."""
    first, second = value.channel_axis, output.channel_axis
    if first is None or second is None:
        return False
    return first - len(value.shape) == second - len(output.shape)


def _evaluated(step: Step, output: Value, known: list[Known]) -> Known:
    """What the operation yields for inputs that are the same at all positions."""
    axis = output.channel_axis
    if axis is None or not known:
        return None
    from_last = axis - len(output.shape)
    unknown = np.zeros(output.axes[axis].shape, bool)  # type: ignore[union-attr]
    for value, constants in zip(step.inputs, known):
        if constants is None or not _is_aligned(value, output):
            return None
        unknown = unknown | np.isnan(constants)
    if unknown.all():
        return None
    has_weights = bool(step.trace.variables_in(step.operation))
    tensors = {
        id(value): tf.cast(_tensor(value, constants, from_last, has_weights), dtype)
        for value, constants, dtype in zip(step.inputs, known, step.dtypes)
    }
    args, kwargs = (_replaced(given, tensors) for given in (step.args, step.kwargs))
    [result] = backend.evaluated(step.operation, args, kwargs)
    rows = np.moveaxis(np.asarray(result, np.float64), from_last, -1).reshape(-1, len(unknown))
    is_constant = (rows == rows[0]).all(axis=0) & ~unknown
    return np.where(is_constant, rows[0], np.nan)


def _tensor(value: Value, constants: Known, from_last: int, has_weights: bool) -> tf.Tensor:
    """A tensor of the constants; of weights with positions it must have the whole shape."""
    assert constants is not None
    shape = [(n or 1) if has_weights and i > 0 else 1 for i, n in enumerate(value.shape)]
    shape[from_last] = len(constants)
    in_place = [1] * len(shape)
    in_place[from_last] = len(constants)
    filled = np.nan_to_num(constants).reshape(in_place)
    return tf.constant(np.broadcast_to(filled, shape), tf.float32)


def _replaced(structure: Any, tensors: dict[int, tf.Tensor]) -> Any:
    if isinstance(structure, Value):
        return tensors[id(structure)]
    if isinstance(structure, dict):
        return {key: _replaced(value, tensors) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        return type(structure)(_replaced(value, tensors) for value in structure)
    return structure


def rescaling(step: Step) -> list[Value]:
    layer = step.operation
    if np.ndim(layer.scale) or np.ndim(layer.offset):
        return step.pin_all(f"{step.path} has a scale for each channel in its config")
    return elementwise(step)


LAYERS: dict[str, Rule] = {
    "Softmax": softmax,
    "Multiply": multiply,
    "Rescaling": rescaling,
    **{
        name: elementwise
        for name in "Activation Add Subtract Maximum Minimum Average ReLU LeakyReLU ELU "
        "ThresholdedReLU PReLU LayerScale CustomScaleLayer".split()
    },
    **{
        name: passes
        for name in "Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D GaussianNoise "
        "GaussianDropout AlphaDropout ActivityRegularization StochasticDepth "
        "RandomFlip RandomRotation RandomZoom RandomTranslation RandomContrast RandomBrightness "
        "RandomColorJitter RandomHue RandomSaturation RandomSharpness RandomErasing "
        "RandomGaussianBlur RandomShear RandomPerspective".split()
    },
    **{
        f"{kind}Pooling{rank}D": pooling
        for kind in (
            "Max",
            "Average",
            "GlobalMax",
            "GlobalAverage",
            "AdaptiveMax",
            "AdaptiveAverage",
        )
        for rank in (1, 2, 3)
    },
}
_OPERATIONS = (
    "Absolute Abs Add Arctan Ceil Celu Clip Cos Divide DivideNoNan Elu Erf Exp Expm1 Floor Gelu "
    "HardShrink HardSigmoid HardSilu HardSwish HardTanh LeakyRelu Log Log1p LogSigmoid Maximum "
    "Minimum Mish Negative Power Reciprocal Relu Relu6 Round Rsqrt Selu Sigmoid Sign Silu Sin Sinh "
    "SoftShrink Softplus Softsign Sqrt Square SquaredDifference Squareplus "
    "Subtract Swish Tanh TanhShrink Threshold TrueDivide Where NotEqual Equal Greater GreaterEqual "
    "Less LessEqual LogicalAnd LogicalNot LogicalOr"
).split()
_TF_FUNCTIONS = (
    "__operators__.add __operators__.sub __operators__.truediv __operators__.pow "
    "__operators__.radd __operators__.rsub __operators__.rtruediv __operators__.neg math.abs "
    "math.add math.subtract math.divide math.truediv math.divide_no_nan math.maximum math.minimum "
    "math.pow math.negative math.exp math.log math.log1p math.sqrt math.rsqrt math.square "
    "math.sigmoid math.tanh math.erf math.softplus math.reciprocal math.squared_difference "
    "math.not_equal math.equal math.greater math.less nn.relu nn.relu6 nn.elu nn.selu nn.silu "
    "nn.swish nn.gelu nn.leaky_relu nn.softplus nn.softsign nn.sigmoid nn.tanh clip_by_value "
    "math.logical_and math.logical_not keras.activations.relu keras.activations.sigmoid "
    "keras.activations.tanh keras.activations.gelu keras.activations.hard_sigmoid where"
).split()
FUNCTIONS: dict[str, Rule] = {
    "Multiply": multiply,
    "math.multiply": multiply,
    "__operators__.mul": multiply,
    "__operators__.rmul": multiply,
    "Softmax": softmax,
    "LogSoftmax": softmax,
    "nn.softmax": softmax,
    **{name: elementwise for name in [*_OPERATIONS, *_TF_FUNCTIONS]},
}
KINDS: dict[str, Rule] = {"elementwise": elementwise}
