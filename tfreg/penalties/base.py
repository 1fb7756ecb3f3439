"""Penalty: what every penalty shares."""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import tensorflow as tf

from tfreg import backend
from tfreg.checks import check_arguments, check_non_negative, check_strength, shown
from tfreg.compute.numerics import accumulation_dtype
from tfreg.compute.policy import should_batch
from tfreg.inventory import Variable
from tfreg.layout import Layout
from tfreg.penalties.registry import class_named
from tfreg.read_only import ReadOnly
from tfreg.slices import Slices

Regularizer: TypeAlias = (
    backend.keras.regularizers.Regularizer | backend.tf_keras.regularizers.Regularizer
)
WeightLike: TypeAlias = Variable | tf.Tensor
StepSize: TypeAlias = float | tf.Tensor
P = TypeVar("P", bound="Penalty")


class Cut(NamedTuple):
    """What is left of a weight: along each axis of its `shape` the indices `kept`, or all for None.

    The layouts are those of the weight before and afterwards; None goes by position.
    """

    shape: tuple[int, ...]
    kept: tuple[np.ndarray | None, ...]
    name: str = "weight"
    layout: Layout | None = None
    new_layout: Layout | None = None

    @property
    def new_shape(self) -> tuple[int, ...]:
        pairs = zip(self.shape, self.kept)
        return tuple(length if indices is None else len(indices) for length, indices in pairs)

    @property
    def layouts(self) -> tuple[Layout, Layout]:
        """Those before and afterwards."""
        positional = Layout.positional(len(self.shape))
        return self.layout or positional, self.new_layout or positional

    @property
    def is_whole(self) -> bool:
        return all(indices is None for indices in self.kept)

    def of_array(self, array: np.ndarray, batch_rank: int | None = None) -> np.ndarray:
        """What is left of an `array` whose first axes broadcast to the weight's shape."""
        rank = np.ndim(array) if batch_rank is None else batch_rank
        for axis in range(rank):
            indices = self.kept[axis - rank]
            if indices is not None and array.shape[axis] != 1:
                array = np.take(array, indices, axis)
        return array

    def not_carried(self, penalty: Any, reason: str) -> ValueError:
        """The error for a `penalty` that does not hold for what is left."""
        return ValueError(
            f"{penalty!r} on weight {self.name} of shape {self.shape} cannot be carried to what is "
            f"left of it, of shape {self.new_shape}: {reason}. Pass penalties=False, and add "
            "penalties to the smaller model."
        )


# What release 0.5 called the methods that a subclass defines.
_FORMER_NAMES = {
    "_value": "compute_value",
    "_prox": "compute_prox",
    "_check": "check_weight",
    "_joint_value": "compute_joint_value",
    "_check_joint": "check_joint",
}


class Penalty(ReadOnly, backend.Regularizer):
    """A strength times a function of a weight tensor, as a regularizer of either Keras.

    `factor * f(w)`

    Called directly, or as a layer's own regularizer, a penalty sees a tensor and not its layer:
    `axis="output"` and the like go by position, as on the kernel of a Dense or Conv layer.
    `tfreg.add_penalty` knows the layer. LSTMs, transposed, depthwise and grouped convolutions,
    embeddings and attention heads order their axes otherwise: there `penalty(weight)` and
    `penalty.prox(weight, step_size)` differ from what `tfreg.add_penalty` trains. Use the
    `value()` and `prox(step_size)` of the entries of `tfreg.get_penalties(model)`.

    A subclass takes its arguments in `__init__`, keeps each as an attribute of the same name, and
    defines

    - `compute_value(tensor, layout)`: the value at a dense tensor. The `layout`, a
      `tfreg.layers.Layout`, tells what its axes mean.
    - `compute_prox(tensor, layout, step_size)`: the proximal operator, if it has a closed form;
      `compute_metric_prox(tensor, layout, step_size, metric)`, if it has one in a diagonal metric.
    - `check_weight(shape, layout, weight_name)`, to refuse weights of some shapes.
    - `compute_joint_value(tensors, layouts, names)` and `check_joint()`, if it couples weights;
      `compute_joint_prox(tensors, layouts, names, step_size)`, if that has a closed form.
    - `is_additive = True`, if its value at a stack of weights is the sum of theirs. A class that
      overrides `compute_value` must set it again.

    Arguments are read-only once the penalty is made.

    Args:
        factor: the strength, a number >= 0 that is finite in float32 too.

    Raises:
        TypeError, ValueError: for any other `factor`.

    Example:

    >>> class Largest(tfreg.Penalty):
    ...     def compute_value(self, tensor, layout):
    ...         return self.factor * tf.reduce_max(tf.abs(tensor))
    ...
    >>> float(Largest(0.5)(tf.constant([1.0, -3.0])))
    1.5
    """

    is_additive = False
    _instead = (
        "A strength that changes over training is a `schedule` of tfreg.add_penalty. For another "
        "penalty call tfreg.remove_penalties(model) and tfreg.add_penalty, or make a new layer."
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for former, name in _FORMER_NAMES.items():
            if former in vars(cls):
                raise TypeError(f"`{former}` of {cls.__name__} is now called `{name}`.")
        if "compute_value" in vars(cls) and "is_additive" not in vars(cls):
            cls.is_additive = False

    def __init__(self, factor: float) -> None:
        backend.check_shapes_of_ints(type(self).__name__)
        self.factor = check_strength("factor", factor)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, weight: WeightLike) -> tf.Tensor:
        """The penalty's value; names of axes go by position.

        They mean what they do on the kernel of a Dense or Conv layer. On other layers the value
        may differ from what `tfreg.add_penalty` adds to the losses: that is the `value()` of an
        entry of `tfreg.get_penalties(model)`.

        Args:
            weight: a floating-point variable of either Keras, or a tensor, of rank >= 1. Of a
                sharded weight the first shard gives the value of the whole, the others give 0.

        Returns:
            A scalar tensor, accumulated in float32 (float64 for a float64 weight). For a
            `keras.Variable` it has the dtype `keras.config.floatx()`.

        Raises:
            TypeError: if `weight` is not dense or not floating-point.
            ValueError: if `weight` is a scalar or lacks an axis that the penalty names.
        """
        if backend.is_later_shard(weight):
            # tf_keras adds up the shards' values: the first gives that of the whole weight.
            return tf.zeros([], accumulation_dtype(weight.dtype))
        return self.value_on(backend.whole_weight(weight), None)

    def value_on(self, weight: WeightLike, layout: Layout | None) -> tf.Tensor:
        """The value at a `weight` whose axes mean what `layout` says; None goes by position."""
        tensor, layout = self.checked(weight, layout)
        return backend.loss_value(self.compute_value(tensor, layout), weight)

    def values_on(
        self, weights: Sequence[WeightLike], layouts: Sequence[Layout | None]
    ) -> list[tf.Tensor]:
        """Values that add up to those at `weights`.

        Small weights of the same shape, dtype and layout share one, if the penalty is additive.
        """
        alike: dict = {}
        for weight, layout in zip(weights, layouts):
            tensor, layout = self.checked(weight, layout)
            alike.setdefault((tuple(tensor.shape), tensor.dtype, layout), []).append(tensor)
        values = []
        for (_, _, layout), tensors in alike.items():
            if self.is_additive and should_batch(tensors):
                values.append(self.compute_value(tf.stack(tensors), layout.stacked()))
            else:
                values += [self.compute_value(tensor, layout) for tensor in tensors]
        return [backend.loss_value(value, weights[0]) for value in values]

    @tf.autograph.experimental.do_not_convert
    def prox(self, weight: WeightLike, step_size: StepSize) -> tf.Tensor:
        """The proximal operator: `argmin_x 1/2 ||x - weight||^2 + step_size * penalty(x)`.

        As in a call, names of axes go by position. The proximal operator of what
        `tfreg.add_penalty` trains is the `prox(step_size)` of an entry of
        `tfreg.get_penalties(model)`.

        Args:
            weight: a floating-point variable of either Keras, or a tensor, of rank >= 1.
            step_size: a non-negative number or scalar tensor, such as a learning rate.

        Returns:
            A tensor of the shape and dtype of `weight`.

        Raises:
            NotImplementedError: if the penalty has no proximal operator in closed form.
            TypeError, ValueError: as `__call__`; or if `step_size` is not a scalar, or known to
                be negative.

        Example:

        >>> penalty = tfreg.GroupLasso(0.1, axis="all", size_weighted=False)
        >>> penalty.prox(tf.constant([3.0, 4.0]), step_size=10.0).numpy()
        array([2.4, 3.2], dtype=float32)

        Reference:
            Parikh and Boyd, Proximal algorithms, 2014.
        """
        return self.prox_on(weight, None, step_size)

    @tf.autograph.experimental.do_not_convert
    def prox_on(
        self,
        weight: WeightLike,
        layout: Layout | None,
        step_size: StepSize,
        metric: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Like `prox`, with axes that mean what `layout` says; None goes by position.

        With a `metric`, a tensor of numbers >= 0 of the shape of `weight`, it is
        `argmin_x 1/2 sum_i metric_i (x_i - weight_i)^2 + step_size * penalty(x)`. Where the metric
        is 0, that is the limit for a metric that goes to 0: what the penalty alone makes of it.
        """
        tensor, layout = self.checked(weight, layout)
        step_size = check_step_size(step_size, tensor.dtype)
        if metric is None:
            return self.compute_prox(tensor, layout, step_size)
        return self.compute_metric_prox(tensor, layout, step_size, check_metric(metric, tensor))

    def checked(self, weight: WeightLike, layout: Layout | None) -> tuple[tf.Tensor, Layout]:
        """`weight` as a tensor, with its layout, if the penalty can apply to it."""
        tensor, layout = with_layout(weight, layout)
        self.check_weight(tensor.shape, layout, backend.weight_name(weight))
        return tensor, layout

    def check_weight(self, shape: tf.TensorShape, layout: Layout, weight_name: str) -> None:
        """Raises a ValueError if the penalty cannot apply to a weight of `shape` with `layout`."""

    def compute_value(self, tensor: tf.Tensor, layout: Layout) -> tf.Tensor:
        raise NotImplementedError(
            f"{type(self).__name__} must define `compute_value(tensor, layout)`."
        )

    def compute_prox(self, tensor: tf.Tensor, layout: Layout, step_size: StepSize) -> tf.Tensor:
        raise NotImplementedError(
            f"{type(self).__name__} has no proximal operator in closed form. Use it in the loss."
        )

    def compute_metric_prox(
        self, tensor: tf.Tensor, layout: Layout, step_size: StepSize, metric: tf.Tensor
    ) -> tf.Tensor:
        """The proximal operator in a diagonal metric, of the shape of `tensor`."""
        raise NotImplementedError(
            f"The proximal operator of {self!r} in a diagonal metric has no known closed form. "
            "Use the Euclidean metric."
        )

    def check_joint(self) -> None:
        """Raises a ValueError if the penalty does not couple weights."""
        raise ValueError(
            "Argument `penalty` must be one that couples weights. The value of "
            f"{type(self).__name__} on several weights is the sum of those on each, which "
            f"add_penalty gives without Joint. Received: penalty={self!r}"
        )

    def compute_joint_value(
        self, tensors: list[tf.Tensor], layouts: list[Layout], names: list[str]
    ) -> tf.Tensor:
        """The value at several weights together, called `names` in messages."""
        raise NotImplementedError(f"{type(self).__name__} does not couple weights.")

    def compute_joint_prox(
        self,
        tensors: list[tf.Tensor],
        layouts: list[Layout],
        names: list[str],
        step_size: StepSize,
    ) -> list[tf.Tensor]:
        """The proximal operator at several weights together, tensors of one dtype."""
        raise no_joint_prox(self)

    def check_coupled(self) -> None:
        """Raises a ValueError if the penalty is none of the entries of a coupling."""
        raise ValueError(
            "Argument `penalty` must be one that couples weights where `weights` are couplings: "
            "GroupLasso, SparseGroupLasso, GroupMCP or a Sum of those. "
            f"{type(self).__name__} does not couple weights. Received: penalty={self!r}"
        )

    def compute_coupled_value(
        self, tensors: list[tf.Tensor], slices: Sequence[Slices], group_weight: float | None
    ) -> tf.Tensor:
        """The value at the entries of a coupling: `slices` of each of the `tensors`, of one dtype.

        `group_weight` is the weight of each entry's norm, or None.
        """
        raise NotImplementedError(f"{type(self).__name__} does not couple weights.")

    def compute_coupled_prox(
        self,
        tensors: list[tf.Tensor],
        slices: Sequence[Slices],
        group_weight: float | None,
        step_size: StepSize,
    ) -> list[tf.Tensor]:
        """The proximal operator at the entries of a coupling that share no element."""
        raise no_joint_prox(self)

    def on_part(self: P, cut: "Cut") -> P:
        """The penalty of what is left of a weight: the same, unless it counts along a cut axis.

        Raises:
            ValueError: if no penalty of what is left is the same.
        """
        return self

    def on_parts(self: P, cuts: "Sequence[Cut]") -> P:
        """Like `on_part`, of the penalty in a `tfreg.Joint`, which couples the weights."""
        raise cuts[0].not_carried(self, "it couples weights")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments in JSON's types."""
        return {name: _plain(value) for name, value in self._arguments().items()}

    @classmethod
    def from_config(cls: type[P], config: dict[str, Any]) -> P:
        """The penalty whose `get_config` returned `config`."""
        return cls(**check_arguments(cls, config))

    def _arguments(self) -> dict[str, Any]:
        """The constructor's arguments that make the same penalty."""
        return {name: self._argument(name) for name in inspect.signature(type(self)).parameters}

    def _argument(self, name: str) -> Any:
        try:
            return getattr(self, name)
        except AttributeError as error:
            raise AttributeError(
                f"{type(self).__name__} must keep the argument `{name}` as its attribute `{name}`, "
                "and call `super().__init__(factor)`."
            ) from error

    def __add__(self, other: Regularizer) -> "Penalty":
        return _sum_of(self, other)

    def __radd__(self, other: Regularizer) -> "Penalty":
        return _sum_of(other, self)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={shown(value)}" for name, value in self._arguments().items())
        return f"{type(self).__name__}({arguments})"


def with_layout(weight: WeightLike, layout: Layout | None) -> tuple[tf.Tensor, Layout]:
    """`weight` as a tensor, with its `layout`; None stands for the positional one."""
    tensor = backend.weight_tensor(weight)
    return tensor, layout or Layout.positional(tensor.shape.rank)


def no_joint_prox(penalty: Any) -> NotImplementedError:
    """The error for a `penalty` that has no proximal operator on several weights."""
    return NotImplementedError(
        f"The proximal operator of {penalty!r} over several weights has no known closed form. "
        "Use it in the loss, or a tfreg.Joint of GroupLasso, SparseGroupLasso, GroupMCP or "
        "TotalVariation of order 1, which has one."
    )


def check_step_size(step_size: StepSize, dtype: tf.DType) -> StepSize:
    """`step_size` as a float; as a scalar tensor if only the running graph knows it."""
    if not tf.is_tensor(step_size):
        return check_non_negative("step_size", step_size)
    step_size = tf.convert_to_tensor(step_size)
    if not step_size.dtype.is_floating or step_size.shape.rank != 0:
        raise ValueError(
            "Argument `step_size` must be a number >= 0 or a floating-point scalar tensor. "
            f"Received: step_size={step_size!r}"
        )
    if tf.executing_eagerly():
        return check_step_size(float(step_size), dtype)
    return tf.cast(step_size, accumulation_dtype(dtype))


def check_metric(metric: tf.Tensor, tensor: tf.Tensor) -> tf.Tensor:
    """`metric` in the dtype in which `tensor` is summed, if it has the shape of that."""
    metric = tf.cast(tf.convert_to_tensor(metric), accumulation_dtype(tensor.dtype))
    if metric.shape.rank != tensor.shape.rank or not metric.shape.is_compatible_with(tensor.shape):
        raise ValueError(
            "Argument `metric` must have the shape of the weight. "
            f"Received: the shape {tuple(metric.shape)} for a weight of shape {tuple(tensor.shape)}"
        )
    return metric


def _sum_of(*penalties: Regularizer) -> Penalty:
    if not all(map(backend.is_regularizer, penalties)):
        return NotImplemented
    return class_named("Sum")(list(penalties))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value.tolist() if isinstance(value, np.ndarray) else value
