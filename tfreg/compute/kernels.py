"""How a penalty's arithmetic is compiled.

A penalty's file states its value and its gradient as equations:

    @kernel
    def ridge(w):
        return total(tf.square(w))

    @ridge.gradient
    def _(w):
        return 2.0 * w

and `ridge(weight, factor=factor)` is `factor * value`, a `tf.function` with that gradient.

What the value and the gradient both need of the weight, `keeps` computes once:

    @kernel(keeps=norms)
    def group_lasso(w, kept, groups):
        return total(kept)
"""

import functools

import tensorflow as tf

from tfreg import backend
from tfreg.compute import policy, reductions
from tfreg.compute.numerics import accumulation_dtype, saturate_cast

# Weights of ever new shapes, activities say, must not fill the memory with traces.
MAX_STATIC_TRACES = 256
# The argument of a gradient for what its value has kept.
_KEPT = "kept"


class Compiled:
    """`function(weight, **parameters)` compiled, and computed in the accumulation dtype.

    There is one trace for each shape and dtype of the weight, each device and each value of the
    parameters. Floats and tensors among these are arguments of the trace: all their values share
    it. Functions with the same set `static_traces` have static shapes for the same weights, so
    that a tensor that one of them returns suits the others.
    """

    def __init__(self, function, restore_dtype, static_traces=None):
        functools.update_wrapper(self, function)
        self._name = function.__name__
        self._function = function
        self._restore_dtype = restore_dtype
        self._traces = {}
        self._static_traces = set() if static_traces is None else static_traces

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
        trace = self._trace_for(weight, shapes, tuple(static))
        return trace(weight, **tensors)

    def inline(self, weight, **parameters):
        """The same as operations of the function that is being traced."""
        dtype = accumulation_dtype(weight.dtype)
        result = self._function(tf.cast(weight, dtype), **parameters)
        if self._restore_dtype and weight.dtype != dtype:
            return saturate_cast(result, weight.dtype)
        return result

    def _trace_for(self, weight, tensor_shapes, static):
        shape, dtype = self._traced_shape(weight, static), weight.dtype
        if not shape.is_fully_defined():
            tensor_shapes = tuple(
                (name, (None,) * len(lengths) if name == _KEPT else lengths)
                for name, lengths in tensor_shapes
            )
        jit_compile, device = policy.is_xla_compiled(shape), policy.device_of(weight)
        key = (tuple(shape), dtype, tensor_shapes, static, jit_compile, device)
        if key not in self._traces:
            strategy = reductions.strategy_for(shape, device)
            trace = self._trace(shape, dtype, tensor_shapes, dict(static), jit_compile, strategy)
            # Of two threads that meet here, both go on with the trace that came first.
            self._traces.setdefault(key, trace)
        return self._traces[key]

    def _traced_shape(self, weight, static):
        """The shape of `weight`, without its lengths when there are too many static traces."""
        shape = weight.shape
        if not shape.is_fully_defined():
            return shape
        parameters = tuple(entry for entry in static if entry[0] != _KEPT)
        static_trace = (tuple(shape), weight.dtype, parameters)
        if static_trace not in self._static_traces:
            if len(self._static_traces) >= MAX_STATIC_TRACES:
                return tf.TensorShape([None] * shape.rank)
            self._static_traces.add(static_trace)
        return shape

    def _trace(self, shape, dtype, tensor_shapes, static, jit_compile, strategy):
        accumulation = accumulation_dtype(dtype)

        def function(weight, **tensors):
            with reductions.using(strategy):
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

    def __init__(self, kernel, static_traces):
        super().__init__(kernel._value._function, False, static_traces)
        self._kernel = kernel

    def inline(self, weight, **parameters):
        factor, strategy = parameters.pop("factor"), reductions.current(weight)

        def inlined(function):
            def call(*arguments, **parameters):
                # The gradient is traced when it is asked for: this trace is done by then.
                with reductions.using(strategy):
                    return function.inline(*arguments, **parameters)

            return call

        return factor * self._kernel._unit(weight, parameters, called=inlined)


class Kernel:
    """`factor * value(weight, **parameters)`, with `gradient` for the gradient in the weight.

    A value that is not a scalar has a `pullback` in its place, of `upstream`, the derivative of
    the loss in the value, to that in the weight.
    """

    def __init__(self, value, keeps=None, shares_terms=True):
        functools.update_wrapper(self, value)
        self._name = value.__name__
        self._static_traces: set = set()
        self._shares_terms = shares_terms
        self._keeps = keeps and Compiled(keeps, False, self._static_traces)

        @functools.wraps(value)
        def value_and_kept(w, **parameters):
            if keeps is None:
                return value(w, **parameters), None
            kept = keeps(w, **parameters)
            return value(w, kept=kept, **parameters), kept

        self._value = Compiled(value_and_kept, False, self._static_traces)

    def gradient(self, gradient):
        """Declares the closed form of the gradient in the weight; a decorator."""

        @functools.wraps(gradient)
        def scaled(w, upstream, **parameters):
            w = w if self._shares_terms else reductions.current(w).apart(w)
            return upstream * gradient(w, **parameters)

        return self.pullback(scaled)

    def pullback(self, pullback):
        """Declares the product of `upstream` and the Jacobian in the weight; a decorator."""
        pullback.__name__ = f"{self._name}_gradient"
        self._gradient = Compiled(pullback, True, self._static_traces)
        self._differentiable = Differentiable(self, self._static_traces)
        return pullback

    def __call__(self, weight, factor, **parameters):
        if not isinstance(factor, float):
            factor = tf.cast(tf.convert_to_tensor(factor), accumulation_dtype(weight.dtype))
        if tf.executing_eagerly() and not policy.is_xla_compiled(weight.shape):
            # One call of a function takes less of Python's time than tf.custom_gradient does.
            return self._differentiable(weight, factor=factor, **parameters)
        return factor * self._unit(weight, parameters, lambda function: function)

    def _unit(self, weight, parameters, called):
        """The value of unit strength, differentiable; `called` gives how functions are called."""
        value, gradient = called(self._value), called(self._gradient)

        @tf.custom_gradient
        def function(weight):
            # Eagerly, a tape around this records the value's own operations too, for nothing. In a
            # graph, forward mode goes through them.
            inner = tf.stop_gradient(weight) if tf.executing_eagerly() else weight
            result, kept = value(inner, **parameters)

            def pullback(upstream):
                if self._keeps is None:
                    return gradient(weight, upstream=upstream, **parameters)
                known = kept if kept is None else self._linked(weight, kept, parameters, called)
                return gradient(weight, upstream=upstream, kept=known, **parameters)

            return result, pullback

        return function(weight)

    def _linked(self, weight, kept, parameters, called):
        """`kept`, whose derivative in the weight, for the second one, comes from the weight."""

        @tf.custom_gradient
        def link(weight, kept):
            def pullback(upstream):
                with tf.GradientTape() as tape:
                    tape.watch(weight)
                    again = called(self._keeps)(weight, **parameters)
                return tape.gradient(again, weight, upstream), None

            return tf.identity(kept), pullback

        # A function's gradient's gradient, taken eagerly, does not find tensors of the function.
        return link(tf.identity(weight), tf.stop_gradient(kept))


def kernel(value=None, *, keeps=None, shares_terms=True):
    """Declares the value of a penalty of unit strength; its `gradient` must follow.

    Args:
        value: a function of the weight and of parameters.
        keeps: a function of the same. The value and the gradient get what it returns as `kept`,
            which is small beside the weight.
        shares_terms: whether the gradient may use what the value computes for each weight.
    """
    if value is None:
        return functools.partial(kernel, keeps=keeps, shares_terms=shares_terms)
    return Kernel(value, keeps, shares_terms)


def compiled(function):
    """Declares a map of a weight to one of its shape and dtype, a proximal operator say."""
    return Compiled(function, restore_dtype=True)
