"""How a penalty's arithmetic is compiled.

A penalty's file states its value and its gradient as equations:

    @kernel
    def ridge(w):
        return total(tf.square(w))

    @ridge.gradient
    def _(w):
        return 2.0 * w

and `ridge(weight, factor=factor)` is `factor * value`, a `tf.function` with that gradient.
"""

import functools
import warnings

import tensorflow as tf

from tfreg import backend

# Below this many elements the launch of an XLA executable costs more than it saves.
XLA_MIN_ELEMENTS = 2**18
# Weights of ever new shapes, activities say, must not fill the memory with traces.
MAX_STATIC_TRACES = 256
# Of smaller weights a copy takes less than the operations on each of them.
STACK_MAX_ELEMENTS = 2**12
_ROW = 4096
# XLA on a CPU writes the terms of sums of more than these to memory first.
FEW_TERMS = 32
# Those of sums of more than 8 it does not compute with the processor's vectors, unless they are as
# simple as squares; and down a column of squares, 32 rows do not stay in the fastest cache.
_RUN, _RUN_OF_SQUARES = 8, 16
# So many make use of a processor's vectors.
_MIN_COLUMNS = 64

_jit: bool | str = "auto"


def set_jit(mode):
    """Sets when the kernels are compiled by XLA.

    Inside a function that XLA compiles, a train step under `jit_compile=True` say, every
    kernel is fused into it whatever the mode. What Keras has traced keeps the mode that it
    was traced with.

    Args:
        mode: `"auto"`, the default: large weights of static shape on devices that XLA has a
            compiler for; `True`: always; `False`: never.

    Raises:
        ValueError: for any other mode.

    Example:

    >>> tfreg.kernels.set_jit(False)
    >>> tfreg.kernels.set_jit("auto")
    """
    global _jit
    if not (isinstance(mode, bool) or mode == "auto"):
        raise ValueError(f"Argument `mode` must be 'auto', True or False. Received: {mode!r}")
    _jit = mode


def worth_a_stack(tensors):
    """Whether `tensors`, of one shape and dtype, are better computed on together."""
    shape = tensors[0].shape
    is_small = shape.is_fully_defined() and shape.num_elements() <= STACK_MAX_ELEMENTS
    return is_small and len(tensors) > 1


def accumulation_dtype(dtype):
    """The dtype in which a weight of `dtype` is summed."""
    return tf.float64 if dtype == tf.float64 else tf.float32


def total(x):
    """Sum of `x`, in runs and of their sums, for nearly the accuracy of pairwise summation."""
    if (x.shape.num_elements() or 0) < XLA_MIN_ELEMENTS:
        return total_of_sums(x)
    x = tf.reshape(x, [-1, x.shape[-1]])
    rows, columns = x.shape
    if rows < _RUN or columns < _MIN_COLUMNS:
        x = tf.reshape(x, [-1])
        end = x.shape[0] // _ROW * _ROW
        return total(tf.reshape(x[:end], [-1, _ROW])) + tf.reduce_sum(x[end:])
    end = rows // _RUN * _RUN
    run_sums = tf.reduce_sum(tf.reshape(x[:end], [-1, _RUN, columns]), axis=1)
    result = total_of_sums(kept_apart(run_sums))
    return result if end == rows else result + total_of_sums(x[end:])


def total_of_sums(x):
    """Sum of `x`, sums themselves, with which XLA on a CPU must not fuse longer ones."""
    if x.shape.is_fully_defined() and x.shape.num_elements() <= _ROW:
        return tf.reduce_sum(x)
    if x.shape.rank > 1 and (x.shape[-1] or 0) <= _ROW:
        row_sums = kept_apart(tf.reduce_sum(x, axis=-1))
        return total_of_sums(tf.reshape(row_sums, [-1]))
    x = tf.reshape(x, [-1])
    size = x.shape[0] or 0
    if size <= _ROW:
        return tf.reduce_sum(x)
    end = size - size % _ROW
    return total_of_sums(tf.reshape(x[:end], [-1, _ROW])) + tf.reduce_sum(x[end:])


def kept_apart(x):
    """`x`, which XLA does not merge with what it came from or is also used in.

    It would make one running sum of sums, off by 8e-5 over 16 million elements.
    """
    # XLA does not see that this is `x`, as it would of a maximum with minus infinity. What is not
    # above the lowest number, minus infinity or NaN, stays.
    lowest = x.dtype.min
    return tf.where(x >= lowest, tf.maximum(x, lowest), x)


def float64_holds_squares(dtype):
    """Whether the squares of numbers of `dtype` neither overflow nor underflow in float64.

    A TPU makes float64 of two float32 numbers, with their range.
    """
    return dtype != tf.float64 and not tf.config.list_logical_devices("TPU")


def middle_sum_of_squares(x):
    """The sums of squares along the middle axis of `x`, which is kept, in float64."""
    before, length, after = x.shape
    run = FEW_TERMS if after == 1 else _RUN_OF_SQUARES
    if (x.shape.num_elements() or 0) < XLA_MIN_ELEMENTS or length < 2 * run:
        return tf.reduce_sum(_float64_squares(x), axis=1, keepdims=True)
    end = length // run * run
    runs = tf.reshape(x[:, :end], [before, end // run, run, after])
    roots = root(tf.reduce_mean(_float64_squares(runs), axis=2))
    # These are written to memory: half of the size of sums, and no larger than the largest entry.
    roots = kept_apart(tf.cast(roots, x.dtype))
    result = tf.reduce_sum(_float64_squares(roots), axis=1, keepdims=True)
    if after > 1:
        # No sum of squares is less than its first term, but a second user of these keeps XLA from
        # fusing them with the sum, if that is of few terms: it would loop down each column.
        result = tf.maximum(result, _float64_squares(roots[:, :1]))
    result = float(run) * result
    return result if end == length else result + middle_sum_of_squares(x[:, end:])


def _float64_squares(x):
    return tf.square(tf.cast(x, tf.float64))


def root(x):
    """The square root of `x`, with a derivative at 0: there it is next to nothing, not 0."""
    # In float64 less than the square of any float32 number.
    return tf.sqrt(tf.maximum(x, 1e-300 if x.dtype == tf.float64 else 1e-30))


def with_common_dtype(tensors):
    """`tensors` in the dtype in which the widest of them is summed."""
    wide = any(tensor.dtype == tf.float64 for tensor in tensors)
    return [tf.cast(tensor, tf.float64 if wide else tf.float32) for tensor in tensors]


@tf.custom_gradient
def signum(x):
    """The sign of `x`, without a slope, but NaN where `x` is infinite, as where it is NaN."""
    return tf.math.divide_no_nan(x, tf.abs(x)), lambda upstream: tf.zeros_like(upstream)


def reciprocal_or_zero(x, is_zero):
    """`1 / x`, but 0 where `is_zero`, as the factor of a group."""
    # XLA keeps what is divided last, and does no more for each weight than multiply. (What a
    # constant 1 is divided by goes to TensorFlow's less accurate reciprocal.)
    return tf.where(is_zero, tf.zeros_like(x), tf.ones_like(x)) / x


def share(t):
    """`t / (1 + t)` for a `t` >= 0, infinity too, and nothing infinite on the way"""
    small, large = tf.minimum(t, 1.0), tf.maximum(t, 1.0)
    return tf.where(t > 1.0, 1.0 / (1.0 + 1.0 / large), small / (1.0 + small))


@functools.cache
def _xla_available():
    """Whether XLA compiles for every device here: a graph would tell only when it runs."""
    devices = {device.device_type: device for device in tf.config.list_logical_devices()}
    for device_type, device in devices.items():
        if device_type in ("CPU", "GPU", "TPU") and not _xla_compiles_on(device.name):
            warnings.warn(
                f"XLA has no compiler for {device_type} devices here: tfreg's kernels run as "
                "plain graphs.",
                stacklevel=2,
            )
            return False
    return True


def _xla_compiles_on(device_name):
    def probe():
        with tf.device(device_name):
            tf.function(tf.identity, jit_compile=True)(tf.zeros([1]))

    try:
        # What tf.debugging.enable_check_numerics() adds to a function does not compile.
        backend.in_a_fresh_thread(probe)
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.UnimplementedError):
        return False
    return True


def _jit_compile(shape):
    if _jit != "auto":
        return _jit
    return (shape.num_elements() or 0) >= XLA_MIN_ELEMENTS and _xla_available()


def _saturate_cast(x, dtype):
    """`x` in `dtype`; what is finite stays so, and what is not stays as it is."""
    largest = float(dtype.max)
    within = tf.minimum(tf.maximum(x, -largest), largest)
    return tf.cast(tf.where(tf.math.is_finite(x), within, x), dtype)


class Compiled:
    """`function(weight, **parameters)` compiled, and computed in the accumulation dtype.

    There is one trace for each shape and dtype of the weight and each value of the parameters.
    Floats and tensors among these are arguments of the trace: all their values share it.
    """

    def __init__(self, function, restore_dtype):
        functools.update_wrapper(self, function)
        self._name = function.__name__
        self._function = function
        self._restore_dtype = restore_dtype
        self._traces = {}

    def __call__(self, weight, **parameters):
        dtype = accumulation_dtype(weight.dtype)
        tensors, static = {}, []
        for name, parameter in parameters.items():
            if isinstance(parameter, float):
                tensors[name] = tf.constant(parameter, dtype)
            elif isinstance(parameter, tf.Tensor):
                tensors[name] = tf.cast(parameter, dtype)
            else:
                static.append((name, parameter))
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in tensors.items())
        trace = self._trace_for(weight.shape, weight.dtype, shapes, tuple(static))
        return trace(weight, **tensors)

    def inline(self, weight, **parameters):
        """The same as operations of the function that is being traced."""
        dtype = accumulation_dtype(weight.dtype)
        result = self._function(tf.cast(weight, dtype), **parameters)
        if self._restore_dtype and weight.dtype != dtype:
            return _saturate_cast(result, weight.dtype)
        return result

    def _trace_for(self, shape, dtype, tensor_shapes, static):
        jit_compile = _jit_compile(shape)
        key = (tuple(shape), dtype, tensor_shapes, static, jit_compile)
        if key not in self._traces:
            if len(self._traces) >= MAX_STATIC_TRACES and shape.is_fully_defined():
                any_shape = tf.TensorShape([None] * shape.rank)
                return self._trace_for(any_shape, dtype, tensor_shapes, static)
            trace = self._trace(shape, dtype, tensor_shapes, dict(static), jit_compile)
            # Of two threads that meet here, both go on with the trace that came first.
            self._traces.setdefault(key, trace)
        return self._traces[key]

    def _trace(self, shape, dtype, tensor_shapes, static, jit_compile):
        accumulation = accumulation_dtype(dtype)

        def function(weight, **tensors):
            return self.inline(weight, **tensors, **static)

        function.__name__ = self._name
        compiled = tf.function(function, autograph=False, jit_compile=jit_compile)
        # A replica's graph and device must not stick to a trace that all replicas share. Nor must
        # tf.debugging.enable_check_numerics() see what TFP computes where a density is 0.
        return backend.in_a_fresh_thread(
            functools.partial(
                compiled.get_concrete_function,
                tf.TensorSpec(shape, dtype, "weight"),
                **{name: tf.TensorSpec(shape, accumulation) for name, shape in tensor_shapes},
            )
        )


class Differentiable(Compiled):
    """A kernel's value with its gradient, in one trace."""

    def __init__(self, value, gradient):
        super().__init__(value._function, restore_dtype=False)
        self._value = value
        self._gradient = gradient

    def inline(self, weight, **parameters):
        factor = parameters.pop("factor")
        value, gradient = self._value.inline, self._gradient.inline
        return factor * _with_gradient(weight, value, gradient, parameters)


def _with_gradient(weight, value, gradient, parameters):
    @tf.custom_gradient
    def function(weight):
        def pullback(upstream):
            # Computed anew from the weight: the two share no temporary that would have to be
            # written, and autodiff finds the second derivative in it.
            return gradient(weight, upstream=upstream, **parameters)

        # Eagerly, a tape around this records the value's own operations too, for nothing. In a
        # graph, forward mode goes through them.
        inner = tf.stop_gradient(weight) if tf.executing_eagerly() else weight
        return value(inner, **parameters), pullback

    return function(weight)


class Kernel:
    """`factor * value(weight, **parameters)`, with `gradient` for the gradient in the weight.

    A value that is not a scalar has a `pullback` in its place, of `upstream`, the derivative of
    the loss in the value, to that in the weight.
    """

    def __init__(self, value):
        functools.update_wrapper(self, value)
        self._name = value.__name__
        self._value = Compiled(value, restore_dtype=False)

    def gradient(self, gradient):
        """Declares the closed form of the gradient in the weight; a decorator."""

        @functools.wraps(gradient)
        def scaled(w, upstream, **parameters):
            return upstream * gradient(w, **parameters)

        return self.pullback(scaled)

    def pullback(self, pullback):
        """Declares the product of `upstream` and the Jacobian in the weight; a decorator."""
        pullback.__name__ = f"{self._name}_gradient"
        self._gradient = Compiled(pullback, restore_dtype=True)
        self._differentiable = Differentiable(self._value, self._gradient)
        return pullback

    def __call__(self, weight, factor, **parameters):
        if not isinstance(factor, float):
            factor = tf.cast(tf.convert_to_tensor(factor), accumulation_dtype(weight.dtype))
        if tf.executing_eagerly() and not _jit_compile(weight.shape):
            # One call of a function takes less of Python's time than tf.custom_gradient does.
            return self._differentiable(weight, factor=factor, **parameters)
        return factor * _with_gradient(weight, self._value, self._gradient, parameters)


def kernel(value):
    """Declares the value of a penalty of unit strength; its `gradient` must follow."""
    return Kernel(value)


def compiled(function):
    """Declares a map of a weight to one of its shape and dtype, a proximal operator say."""
    return Compiled(function, restore_dtype=True)
