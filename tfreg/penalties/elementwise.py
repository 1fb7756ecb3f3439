"""Elementwise: a penalty that is a sum over the elements of a weight."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfreg.checks import broadcasts_to
from tfreg.compute.kernels import Kernel, compiled, kernel
from tfreg.compute.numerics import (
    accumulation_dtype,
    eager_constants,
    in_metric,
    not_broadcast,
)
from tfreg.compute.reductions import total
from tfreg.layout import Layout
from tfreg.penalties.base import Cut, P, Penalty, StepSize

# What compiled functions call arguments of their own.
_TAKEN = {"w", "weight", "factor", "upstream", "strength", "kept"}


class Elementwise(Penalty):
    """A penalty that is a sum over the elements of a weight, of any shape.

    `factor * sum_i f(w_i)`

    A subclass states `f` and its derivative as functions of a tensor; this class adds the sum, its
    compilation and gradient, half precision, shards, config and `repr`. Further parameters of `f`
    are arguments of the constructor of the same names: floats, arrays that broadcast to the weight,
    or None, bools, ints and strings, which compile `f` anew for each value.

    - `f(w, ...)`: the penalty of each entry of `w`.
    - `df(w, ...)`: its derivative: at a kink a subgradient, and 0 where `f` has a minimum.
    - `argmin(w, strength, ...)`, where that has a closed form: the proximal operator
      `argmin_x 1/2 (x - w)^2 + strength * f(x)` of each entry. In a diagonal metric `strength`, a
      scalar otherwise, is a tensor of the shape of `w`.

    They are static methods; the decorator may be left out. All return a tensor of the shape of `w`,
    and keep NaN. If `f` has a finite limit at infinity, it returns that limit there, and `df`
    returns 0.

    Args:
        factor: the strength, a finite number >= 0.

    Raises:
        TypeError: when a subclass is made, if it has only one of `f` and `df`, if its methods do
            not have the same parameters, or if its constructor lacks one of them.
        ValueError: when called, if an array does not broadcast to the weight's shape, or a method
            returns another shape.

    Example:

    >>> @tfreg.register
    ... class Ridge(tfreg.Elementwise):
    ...     def f(w):
    ...         return w**2
    ...
    ...     def df(w):
    ...         return 2.0 * w
    ...
    ...     def argmin(w, strength):
    ...         return w / (1.0 + 2.0 * strength)
    ...
    >>> penalty = Ridge(0.5)
    >>> float(penalty(tf.constant([1.0, -3.0])))
    5.0
    >>> penalty.prox(tf.constant([1.0, -3.0]), step_size=1.0).numpy()
    array([ 0.5, -1.5], dtype=float32)
    """

    is_additive = True
    _kernel: Any = None
    _operator: Any = None
    argmin: Any = None
    _parameter_names: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        stated = {name: vars(cls)[name] for name in ("f", "df", "argmin") if name in vars(cls)}
        for name, function in stated.items():
            if inspect.isfunction(function):
                setattr(cls, name, staticmethod(function))
        if not stated:
            return
        if ("f" in stated) != ("df" in stated):
            raise TypeError(f"{cls.__name__} must define `f` and `df` together.")
        if "argmin" not in stated:
            cls.argmin = cls._operator = None  # of another penalty
        cls._parameter_names = _common_parameters(cls)
        if "f" in stated:
            cls._kernel = _kernel_of(cls)
        if "argmin" in stated:
            cls._operator = compiled(_entrywise(cls, "argmin"))

    def __init__(self, factor: float = 0.01) -> None:
        super().__init__(factor)

    def check_weight(self, shape: tf.TensorShape, layout: Layout, weight_name: str) -> None:
        for name in self._parameter_names:
            value = self._argument(name)
            if isinstance(value, np.ndarray) and not broadcasts_to(value.shape, shape):
                raise ValueError(
                    f"Argument `{name}` must broadcast to the weight's shape. Received: an array "
                    f"of shape {value.shape} for weight {weight_name} of shape {tuple(shape)}"
                )

    def compute_value(self, tensor: tf.Tensor, layout: Layout) -> tf.Tensor:
        if self._kernel is None:
            raise NotImplementedError(
                f"{type(self).__name__} must define `f(w, ...)` and `df(w, ...)`."
            )
        return self._kernel(tensor, factor=self.factor, **self._parameters(tensor))

    def compute_prox(self, tensor: tf.Tensor, layout: Layout, step_size: StepSize) -> tf.Tensor:
        if self._operator is None:
            return super().compute_prox(tensor, layout, step_size)
        strength = step_size * self.factor
        return self._operator(tensor, strength=strength, **self._parameters(tensor))

    def compute_metric_prox(
        self, tensor: tf.Tensor, layout: Layout, step_size: StepSize, metric: tf.Tensor
    ) -> tf.Tensor:
        if self._operator is None:
            return super().compute_metric_prox(tensor, layout, step_size, metric)
        strengths = in_metric(step_size * self.factor, metric)
        return self._operator(tensor, strength=strengths, **self._parameters(tensor))

    def on_part(self: P, cut: Cut) -> P:
        arrays = {
            name: value
            for name in self._parameter_names
            if isinstance(value := self._argument(name), np.ndarray) and value.ndim > 0
        }
        if cut.is_whole or not arrays:
            return self
        cut_arrays = {name: cut.of_array(array) for name, array in arrays.items()}
        return type(self)(**{**self._arguments(), **cut_arrays})

    def _parameters(self, tensor: tf.Tensor) -> dict[str, Any]:
        """The further parameters of `f`: arrays as tensors, whose values are not compiled in."""
        values = {name: self._argument(name) for name in self._parameter_names}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        return values | eager_constants(arrays, accumulation_dtype(tensor.dtype))


def _kernel_of(cls: Any) -> Kernel:
    f = _entrywise(cls, "f")

    def summed(w: tf.Tensor, **parameters: Any) -> tf.Tensor:
        return total(f(w, **parameters))

    summed.__name__ = cls.__name__
    result: Kernel = kernel(summed)
    result.gradient(_entrywise(cls, "df"))
    return result


def _entrywise(cls: Any, name: str) -> Callable[..., tf.Tensor]:
    """The method `name` of `cls`, which must return a tensor of the shape of its first argument."""
    method = getattr(cls, name)

    def entrywise(w: tf.Tensor, **parameters: Any) -> tf.Tensor:
        result = tf.convert_to_tensor(method(w, **parameters), w.dtype)
        if result.shape.rank != w.shape.rank or not result.shape.is_compatible_with(w.shape):
            raise ValueError(
                f"`{name}` of {cls.__name__} must return a tensor of the shape of `w`. Received: "
                f"the shape {tuple(result.shape)} for `w` of shape {tuple(w.shape)}"
            )
        return not_broadcast(result, w)

    entrywise.__name__ = f"{cls.__name__}_{name}"
    return entrywise


def _common_parameters(cls: type) -> tuple[str, ...]:
    """The further parameters of `f`, which `df` and `argmin` must have too."""
    leading = {"f": 1, "df": 1, "argmin": 2}
    parameters = {
        name: tuple(inspect.signature(method).parameters)[count:]
        for name, count in leading.items()
        if (method := getattr(cls, name, None)) is not None
    }
    if "f" not in parameters or len(set(parameters.values())) > 1:
        raise TypeError(
            f"{cls.__name__} must define `f(w, ...)` and `df(w, ...)`, and may define "
            "`argmin(w, strength, ...)`, all with the same further parameters. "
            f"Received: {parameters}"
        )
    taken = _TAKEN & set(parameters["f"])
    if taken:
        raise TypeError(
            f"`f` of {cls.__name__} takes the weight first, no `self`, and further parameters of "
            f"other names than {sorted(_TAKEN)}. Received: {sorted(taken)}"
        )
    missing = set(parameters["f"]) - set(inspect.signature(cls).parameters)
    if missing:
        raise TypeError(
            f"The constructor of {cls.__name__} must have an argument for each further parameter "
            f"of `f`. Received: none for {sorted(missing)}"
        )
    return parameters["f"]
