"""How a penalty's arithmetic is compiled.

A penalty's file states its value and its gradient as equations:

    @kernel
    def ridge(w):
        return total(tf.square(w))

    @ridge.gradient
    def _(w):
        return 2.0 * w

and `ridge(weight, factor=factor)` is `factor * value`, a `tf.function` with that gradient.

`keeps` computes once what value and gradient both need of the weight:

    @kernel(keeps=norms)
    def group_lasso(w, kept, groups):
        return total(kept)
"""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import tensorflow as tf

from tfreg import backend
from tfreg.compute import policy, reductions
from tfreg.compute.numerics import accumulation_dtype, saturate_cast

# Tensors of ever new shapes, such as activities, must not fill the memory with traces.
MAX_STATIC_TRACES = 256
# The argument of a gradient for what `keeps` has computed.
_KEPT = "kept"

_Function: TypeAlias = Callable[..., Any]


class Compiled:
    """Compiles `function(weight, **parameters)`, which runs in the accumulation dtype.

    There is one trace for each shape and dtype of the weight, each device and each value of the
    parameters, except for floats and tensors: these are arguments of the trace.

    Args:
        function: a function of the weight and of parameters.
        restore_dtype: whether to cast the result to the dtype of the weight.
        static_traces: a set that records for which weights the shape is static. Functions that
            share it agree on that, so that they take each other's results.
        has_loops: whether the function has loops of many small steps, which take TensorFlow longer
            than XLA.
    """

    def __init__(
        self,
        function: _Function,
        restore_dtype: bool,
        static_traces: set[Any] | None = None,
        has_loops: bool = False,
    ) -> None:
        functools.update_wrapper(self, function)
        self._name = function.__name__
        self._function = function
        self._restore_dtype = restore_dtype
        self._has_loops = has_loops
        self._traces: dict[Any, _Function] = {}
        self._static_traces: set[Any] = set() if static_traces is None else static_traces

    def __call__(self, weight: tf.Tensor, **parameters: Any) -> Any:
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

    def inline(self, weight: tf.Tensor, **parameters: Any) -> Any:
        """The same, as operations of the function that is being traced."""
        dtype = accumulation_dtype(weight.dtype)
        result = self._function(tf.cast(weight, dtype), **parameters)
        if self._restore_dtype and weight.dtype != dtype:
            return saturate_cast(result, weight.dtype)
        return result

    def _trace_for(self, weight: tf.Tensor, tensor_shapes: Any, static: Any) -> _Function:
        shape, dtype = self._traced_shape(weight, static), weight.dtype
        if not shape.is_fully_defined():
            tensor_shapes = tuple(
                (name, (None,) * len(lengths) if name == _KEPT else lengths)
                for name, lengths in tensor_shapes
            )
        jit_compile = policy.is_xla_compiled(shape, self._has_loops)
        device = policy.device_of(weight)
        key = (tuple(shape), dtype, tensor_shapes, static, jit_compile, device)
        if key not in self._traces:
            strategy = reductions.strategy_for(shape, device)
            trace = self._trace(shape, dtype, tensor_shapes, dict(static), jit_compile, strategy)
            # Two threads that meet here both go on with the first trace.
            self._traces.setdefault(key, trace)
        return self._traces[key]

    def _traced_shape(self, weight: tf.Tensor, static: Any) -> tf.TensorShape:
        """The shape of `weight`, without its lengths once there are too many static traces."""
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

    def _trace(
        self,
        shape: tf.TensorShape,
        dtype: tf.DType,
        tensor_shapes: Any,
        static: dict[str, Any],
        jit_compile: bool,
        strategy: reductions.Direct,
    ) -> _Function:
        accumulation = accumulation_dtype(dtype)

        def function(weight: tf.Tensor, **tensors: tf.Tensor) -> Any:
            with reductions.using(strategy):
                return self.inline(weight, **tensors, **static)

        function.__name__ = self._name
        compiled = tf.function(function, autograph=False, jit_compile=jit_compile)
        # All replicas share a trace, which must not hold on to the graph and device of one. And
        # tf.debugging.enable_check_numerics() must not see what TFP computes where a density is 0.
        return backend.in_a_fresh_thread(
            functools.partial(
                compiled.get_concrete_function,
                tf.TensorSpec(shape, dtype, "weight"),
                **{name: tf.TensorSpec(shape, accumulation) for name, shape in tensor_shapes},
            )
        )


class Differentiable(Compiled):
    """Compiles the value of a kernel with its gradient, in one trace."""

    def __init__(self, kernel: "Kernel", static_traces: set[Any]) -> None:
        super().__init__(kernel._value._function, False, static_traces)
        self._kernel = kernel

    def inline(self, weight: tf.Tensor, **parameters: Any) -> Any:
        factor, strategy = parameters.pop("factor"), reductions.current(weight)

        def inlined(function: Compiled) -> _Function:
            def call(*arguments: Any, **parameters: Any) -> Any:
                # The gradient is traced on demand, when this trace is done.
                with reductions.using(strategy):
                    return function.inline(*arguments, **parameters)

            return call

        return factor * self._kernel._unit(weight, parameters, called=inlined)


class Kernel:
    """`factor * value(weight, **parameters)`, with `gradient` for the gradient in the weight.

    A value that is not a scalar has a `pullback` instead: from `upstream`, the derivative of the
    loss in the value, to the derivative in the weight.
    """

    def __init__(
        self, value: _Function, keeps: _Function | None = None, shares_terms: bool = True
    ) -> None:
        functools.update_wrapper(self, value)
        self._name = value.__name__
        self._static_traces: set[Any] = set()
        self._shares_terms = shares_terms
        self._keeps = Compiled(keeps, False, self._static_traces) if keeps else None

        @functools.wraps(value)
        def value_and_kept(w: tf.Tensor, **parameters: Any) -> tuple[Any, Any]:
            if keeps is None:
                return value(w, **parameters), None
            kept = keeps(w, **parameters)
            return value(w, kept=kept, **parameters), kept

        self._value = Compiled(value_and_kept, False, self._static_traces)

    def gradient(self, gradient: _Function) -> _Function:
        """Declares the closed form of the gradient in the weight; a decorator."""

        @functools.wraps(gradient)
        def scaled(w: tf.Tensor, upstream: tf.Tensor, **parameters: Any) -> tf.Tensor:
            w = w if self._shares_terms else reductions.current(w).apart(w)
            return upstream * gradient(w, **parameters)

        return self.pullback(scaled)

    def pullback(self, pullback: _Function) -> _Function:
        """Declares the product of `upstream` and the Jacobian in the weight; a decorator."""
        pullback.__name__ = f"{self._name}_gradient"
        self._gradient = Compiled(pullback, True, self._static_traces)
        self._differentiable = Differentiable(self, self._static_traces)
        return pullback

    def __call__(
        self, weight: tf.Tensor, factor: float | tf.Tensor, **parameters: Any
    ) -> tf.Tensor:
        if not isinstance(factor, float):
            factor = tf.cast(tf.convert_to_tensor(factor), accumulation_dtype(weight.dtype))
        if tf.executing_eagerly() and not policy.is_xla_compiled(weight.shape):
            # A single function call takes less Python time than tf.custom_gradient does.
            return self._differentiable(weight, factor=factor, **parameters)
        return factor * self._unit(weight, parameters, lambda function: function)

    def _unit(
        self,
        weight: tf.Tensor,
        parameters: dict[str, Any],
        called: Callable[[Compiled], _Function],
    ) -> tf.Tensor:
        """The differentiable value at strength 1; `called` turns what is compiled into a call."""
        value, gradient = called(self._value), called(self._gradient)

        @tf.custom_gradient
        def function(weight: tf.Tensor) -> Any:
            # Eagerly, an outer tape would record the value's own operations in vain. In a graph,
            # forward mode needs them.
            inner = tf.stop_gradient(weight) if tf.executing_eagerly() else weight
            result, kept = value(inner, **parameters)

            def pullback(upstream: tf.Tensor) -> tf.Tensor:
                if self._keeps is None:
                    return gradient(weight, upstream=upstream, **parameters)
                keeps = functools.partial(called(self._keeps), **parameters)
                known = None if kept is None else _linked(weight, kept, keeps)
                return gradient(weight, upstream=upstream, kept=known, **parameters)

            return result, pullback

        return function(weight)


def _linked(weight: tf.Tensor, kept: tf.Tensor, keeps: _Function) -> tf.Tensor:
    """`kept` as the function `keeps` of the weight, for second derivatives."""

    @tf.custom_gradient
    def link(weight: tf.Tensor, kept: tf.Tensor) -> Any:
        def pullback(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
            with tf.GradientTape() as tape:
                tape.watch(weight)
                again = keeps(weight)
            return tape.gradient(again, weight, upstream), None

        return tf.identity(kept), pullback

    # The second derivative of a function, taken eagerly, does not find the function's tensors.
    return link(tf.identity(weight), tf.stop_gradient(kept))


def kernel(
    value: _Function | None = None, *, keeps: _Function | None = None, shares_terms: bool = True
) -> Any:
    """Declares the value of a penalty of strength 1; its `gradient` must follow.

    Args:
        value: a function of the weight and of parameters.
        keeps: a function of the same. Value and gradient get what it returns as `kept`; it must
            be small compared with the weight.
        shares_terms: whether the gradient may reuse what the value computes for each element.
    """
    if value is None:
        return functools.partial(kernel, keeps=keeps, shares_terms=shares_terms)
    return Kernel(value, keeps, shares_terms)


def compiled(function: _Function | None = None, *, has_loops: bool = False) -> Any:
    """Declares a map to the shape and dtype of the weight, such as a proximal operator.

    Args:
        function: a function of the weight and of parameters.
        has_loops: whether it has loops of many small steps.
    """
    if function is None:
        return functools.partial(compiled, has_loops=has_loops)
    return Compiled(function, restore_dtype=True, has_loops=has_loops)
