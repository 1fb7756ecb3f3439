"""TotalVariation: keep neighbouring weights close, with few jumps."""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from tfreg.checks import check_bool, is_int
from tfreg.compute.kernels import compiled, kernel
from tfreg.compute.lines import needs_loops, smoothed
from tfreg.compute.numerics import accumulation_dtype, signum, with_common_dtype
from tfreg.compute.reductions import (
    difference,
    difference_transposed,
    step,
    step_transposed,
    total,
)
from tfreg.compute.views import known_shape
from tfreg.groups import check_axis, resolve_axes
from tfreg.layout import Layout
from tfreg.penalties.base import Cut, Penalty, StepSize, no_joint_prox
from tfreg.penalties.registry import register
from tfreg.runs import Runs

Axes: TypeAlias = tuple[int | None, ...]  # None is that of the flattened weight
# In a stack of one difference for each axis: those at one point.
_POINTS = Runs(((0, None),))


@kernel
def total_variation(w: tf.Tensor, axes: Axes, order: int) -> tf.Tensor:
    """`sum_axis ||D w||_1`"""
    return tf.add_n([total(tf.abs(difference(w, axis, order))) for axis in axes])


@total_variation.gradient
def _(w: tf.Tensor, axes: Axes, order: int) -> tf.Tensor:
    """`sum_axis D^T sign(D w)`"""
    return tf.add_n([difference_transposed(signum, w, axis, order) for axis in axes])


def _steps(w: tf.Tensor, axes: Axes) -> tf.Tensor:
    """The first differences along each of `axes` at each point, 0 past the edge; stacked."""
    return tf.stack([step(w, axis) for axis in axes])


@kernel
def isotropic_total_variation(w: tf.Tensor, axes: Axes) -> tf.Tensor:
    """`sum_point ||(D w)_point||_2`"""
    return total(_POINTS.norm(_steps(w, axes)))


@isotropic_total_variation.gradient
def _(w: tf.Tensor, axes: Axes) -> tf.Tensor:
    """`sum_axis D^T (D w / ||D w||_2)`"""
    directions = tf.unstack(_POINTS.direction(_steps(w, axes)), num=len(axes))
    return tf.add_n([step_transposed(y, axis) for axis, y in zip(axes, directions)])


def _along_columns(w: tf.Tensor, strength: tf.Tensor, axis: int) -> tf.Tensor:
    order = [axis, *(i for i in range(w.shape.rank) if i != axis)]
    moved = w if axis == 0 else tf.transpose(w, order)
    shape = known_shape(moved)
    columns = tf.reshape(moved, [shape[0], math.prod(shape[1:])])
    smooth = tf.reshape(smoothed(columns, strength), shape)
    return smooth if axis == 0 else tf.transpose(smooth, np.argsort(order))


@compiled
def prox_along_short_axis(w: tf.Tensor, strength: tf.Tensor, axis: int) -> tf.Tensor:
    return _along_columns(w, strength, axis)


@compiled(has_loops=True)
def prox_along_axis(w: tf.Tensor, strength: tf.Tensor, axis: int) -> tf.Tensor:
    return _along_columns(w, strength, axis)


def _prox_along(axis: int, tensor: tf.Tensor, strength: StepSize) -> tf.Tensor:
    """`argmin_x 1/2 ||x - tensor||^2 + strength ||D x||_1` with the differences along an axis."""
    operator = prox_along_axis if needs_loops(tensor.shape[axis]) else prox_along_short_axis
    # A tape would record the loops.
    return operator(tf.stop_gradient(tensor), strength=strength, axis=axis)


@register
class TotalVariation(Penalty):
    """Sum of absolute differences of neighbouring weights.

    `factor * sum_axis sum_i |(D^order w)_i|`, or, isotropic,
    `factor * sum_i sqrt(sum_axis (D w)_i^2)`

    It favours weights that are piecewise constant along an axis (order 2: piecewise linear). Of
    order 1 along one axis, `prox` makes them so exactly: neighbours are equal to the last bit.

    Args:
        factor: the strength, a finite number >= 0.
        axis: the axes along which differences are taken: an int or a tuple of ints, negative
            ones counted from the last. None takes the flattened weight in row-major order,
            differences between the end of a row and the start of the next included. On the
            kernel `(inputs, units)` of a Dense layer `axis=0` compares neighbouring inputs of
            each unit; on that of a Conv2D layer, `(height, width, channels, filters)`,
            `axis=(0, 1)` compares neighbouring positions of each filter. Under `tfreg.Joint`
            it must be None: there the differences are those of one weight and the next.
        order: the order of the differences, an int >= 1. An axis no longer than `order`
            contributes nothing.
        isotropic: whether to take, at each point, the Euclidean norm of the differences along
            `axis` in place of the sum of their absolute values; of order 1 only. A difference
            past the end of an axis is 0.

    Raises:
        TypeError, ValueError: for other arguments; when called, if the weight lacks an axis.
            NotImplementedError: by `prox`, for several axes or a higher order.

    Example:

    >>> penalty = tfreg.TotalVariation(1.0, axis=0)
    >>> float(penalty(tf.constant([[0.0, 1.0], [0.0, 3.0], [2.0, 3.0]])))
    4.0
    >>> penalty.prox(tf.constant([0.0, 0.5, 4.0, 4.5]), step_size=1.0).numpy()
    array([0.75, 0.75, 3.75, 3.75], dtype=float32)

    References:
        Rudin, Osher and Fatemi, Nonlinear total variation based noise removal algorithms, 1992.
        Kim, Koh, Boyd and Gorinevsky, l1 trend filtering, 2009 (order 2).
    """

    is_additive = True

    def __init__(
        self,
        factor: float = 0.01,
        axis: int | tuple[int, ...] | None = None,
        order: int = 1,
        isotropic: bool = False,
    ) -> None:
        super().__init__(factor)
        expected = "None, an int or a non-empty tuple of distinct ints"
        self.axis = None if axis is None else check_axis(axis, expected=expected)
        if not (is_int(order) and order >= 1):
            raise ValueError(f"Argument `order` must be an int >= 1. Received: order={order!r}")
        self.order = int(order)
        self.isotropic = check_bool("isotropic", isotropic)
        if self.isotropic and self.order > 1:
            raise ValueError(
                "Argument `isotropic` must be False for an `order` above 1. "
                f"Received: isotropic=True, order={order!r}"
            )

    def check_weight(self, shape: tf.TensorShape, layout: Layout, weight_name: str) -> None:
        if self.axis is not None:
            resolve_axes(self.axis, layout.rank, weight_name)

    def compute_value(self, tensor: tf.Tensor, layout: Layout) -> tf.Tensor:
        # The last filter of a convolution's group and the first of the next are neighbours.
        layout = layout.ungrouped()
        if self.axis is None and len(layout.parts) == layout.rank:
            return self._along((None,), tensor)
        if self.axis is None:
            return self._along((1,), layout.gates_apart(tensor))
        axes = layout.neighbours(resolve_axes(self.axis, layout.rank))
        return self._along(axes, layout.split(tensor))

    def _along(self, axes: Axes, tensor: tf.Tensor) -> tf.Tensor:
        if not axes:
            return tf.zeros([], accumulation_dtype(tensor.dtype))
        if self.isotropic:
            return isotropic_total_variation(tensor, factor=self.factor, axes=axes)
        return total_variation(tensor, factor=self.factor, axes=axes, order=self.order)

    def check_joint(self) -> None:
        if self.axis is not None:
            raise ValueError(
                "Argument `penalty` must have no `axis` where it couples weights: the differences "
                f"are those of one weight and the next. Received: penalty={self!r}"
            )

    def compute_joint_value(
        self, tensors: list[tf.Tensor], layouts: list[Layout], names: list[str]
    ) -> tf.Tensor:
        return self._along((0,), self._stacked(tensors, names))

    def compute_joint_prox(
        self,
        tensors: list[tf.Tensor],
        layouts: list[Layout],
        names: list[str],
        step_size: StepSize,
    ) -> list[tf.Tensor]:
        if self.order > 1:
            raise no_joint_prox(self)
        stacked = self._stacked(tensors, names)
        return tf.unstack(_prox_along(0, stacked, step_size * self.factor), num=len(tensors))

    def _stacked(self, tensors: list[tf.Tensor], names: list[str]) -> tf.Tensor:
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if len(set(shapes)) > 1:
            listed = ", ".join(f"{name} of {shape}" for name, shape in zip(names, shapes))
            raise ValueError(
                "TotalVariation over several weights takes the differences of one and the next, "
                f"which must have the same shape. Received: {listed}"
            )
        if len(tensors) <= self.order:
            raise ValueError(
                "TotalVariation over several weights must have more of them than its order. "
                f"Received: {', '.join(names)} for order={self.order}"
            )
        return tf.stack(with_common_dtype(tensors))

    def on_parts(self, cuts: Sequence[Cut]) -> "TotalVariation":
        for cut in cuts:
            pairs: Any = zip(cut.kept, cuts[0].kept)
            if not all(np.array_equal(*pair) for pair in pairs):
                raise cut.not_carried(self, f"other entries are left than of {cuts[0].name}")
        return self

    def compute_prox(self, tensor: tf.Tensor, layout: Layout, step_size: StepSize) -> tf.Tensor:
        strength, layout = step_size * self.factor, layout.ungrouped()
        if self.axis is None:
            self._check_has_prox(1)
            smooth = _prox_along(1, layout.gates_apart(tensor), strength)
            return layout.gates_together(smooth, tensor)
        axes = layout.neighbours(resolve_axes(self.axis, layout.rank))
        self._check_has_prox(len(axes))
        if not axes:
            return tensor
        return layout.merge(_prox_along(axes[0], layout.split(tensor), strength), tensor)

    def _check_has_prox(self, number_of_axes: int) -> None:
        if self.order > 1 or number_of_axes > 1:
            raise NotImplementedError(
                f"The proximal operator of {self!r} has no closed form: that of differences of "
                "order 1 along one axis, or along the flattened weight, has one. Use the others in "
                "the loss."
            )
