"""Penalty: what every penalty shares."""

import inspect

import numpy as np
import tensorflow as tf

from tfreg import backend
from tfreg.checks import check_arguments, check_non_negative, check_strength
from tfreg.compute.numerics import accumulation_dtype
from tfreg.compute.policy import should_batch
from tfreg.layout import Layout
from tfreg.penalties.registry import class_named
from tfreg.read_only import ReadOnly


class Penalty(ReadOnly, backend.Regularizer):
    """A strength times a function of a weight tensor, as a regularizer of either Keras.

    Called directly, or as a layer's own regularizer, a penalty sees a tensor and not its layer, so
    that `axis="output"` and the like go by position: they mean what they do on the kernel of a
    Dense or Conv layer. `tfreg.add_penalty` knows the layer. The units of an LSTM, transposed,
    depthwise and grouped convolutions, embeddings and attention heads stand elsewhere: there,
    `penalty(weight)` and `penalty.prox(weight, step_size)` belong to another penalty than the one
    that `tfreg.add_penalty` trains. `tfreg.get_penalties(model)` has entries with `value()` and
    `prox(step_size)`, which go by the layouts of training.

    A subclass states its arguments in `__init__`, keeps each as an attribute of the same name,
    and defines `_value(tensor, layout)`; `_prox(tensor, layout, step_size)` where that has a
    closed form; `_check(shape, layout, weight_name)` where some weights cannot be penalized; and
    `_joint_value(tensors, layouts, names)` with `_check_joint()` where it couples weights, and
    `_joint_prox(tensors, layouts, names, step_size)` where that has a closed form. It sets
    `_is_additive` if its `_value` at a stack of weights, of which the layout tells, is the sum of
    theirs; a subclass with a value of its own sets it anew.

    The arguments of a penalty are read-only once it is made.

    Args:
        factor: the strength, a non-negative number that is finite in float32 too.
    """

    _is_additive = False
    _instead = (
        "A strength that changes over training is a `schedule` of tfreg.add_penalty. For another "
        "penalty call tfreg.remove_penalties(model) and tfreg.add_penalty, or make a new layer."
    )

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "_value" in vars(cls) and "_is_additive" not in vars(cls):
            cls._is_additive = False

    def __init__(self, factor):
        backend.check_shapes_of_ints(type(self).__name__)
        self.factor = check_strength("factor", factor)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, weight):
        """The penalty's value, with names of axes by position.

        They mean what they do on the kernel of a Dense or Conv layer. On other layers the value
        may differ from what `tfreg.add_penalty` adds to the losses: that is the `value()` of an
        entry of `tfreg.get_penalties(model)`.

        Args:
            weight: a floating-point variable of either Keras, or a tensor, of rank >= 1. The
                first of a weight's shards stands for the weight, the others for nothing.

        Returns:
            A scalar tensor, accumulated in float32 (float64 for a float64 weight). For a
            `keras.Variable` it has the dtype `keras.config.floatx()`.

        Raises:
            TypeError: if `weight` is not dense or not floating-point.
            ValueError: if `weight` is a scalar or lacks an axis that the penalty names.
        """
        if backend.is_later_shard(weight):
            # tf_keras asks for each shard of a weight, and adds up: the first is the whole.
            return tf.zeros([], accumulation_dtype(weight.dtype))
        return self.value_on(backend.whole_weight(weight), None)

    def value_on(self, weight, layout):
        """The value at a `weight` whose axes mean what `layout` says; None goes by position."""
        tensor, layout = self._checked(weight, layout)
        return backend.loss_value(self._value(tensor, layout), weight)

    def values_on(self, weights, layouts):
        """Values whose sum is that of the values at `weights`.

        There is one for all that have the same shape, dtype and layout if they are small, and one
        for each other weight.
        """
        alike: dict = {}
        for weight, layout in zip(weights, layouts):
            tensor, layout = self._checked(weight, layout)
            alike.setdefault((tuple(tensor.shape), tensor.dtype, layout), []).append(tensor)
        values = []
        for (_, _, layout), tensors in alike.items():
            if self._is_additive and should_batch(tensors):
                values.append(self._value(tf.stack(tensors), layout.stacked()))
            else:
                values += [self._value(tensor, layout) for tensor in tensors]
        return [backend.loss_value(value, weights[0]) for value in values]

    @tf.autograph.experimental.do_not_convert
    def prox(self, weight, step_size):
        """The proximal operator: `argmin_x 1/2 ||x - weight||^2 + step_size * penalty(x)`.

        As in a call, names of axes go by position. The proximal operator of what
        `tfreg.add_penalty` trains is the `prox(step_size)` of an entry of
        `tfreg.get_penalties(model)`.

        Args:
            weight: a floating-point variable of either Keras, or a tensor, of rank >= 1.
            step_size: a non-negative number or scalar tensor, a learning rate say.

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
    def prox_on(self, weight, layout, step_size):
        """As `prox`, with axes that mean what `layout` says; None goes by position."""
        tensor, layout = self._checked(weight, layout)
        return self._prox(tensor, layout, check_step_size(step_size, tensor.dtype))

    def _checked(self, weight, layout):
        tensor = backend.weight_tensor(weight)
        layout = layout or Layout.positional(tensor.shape.rank)
        self._check(tensor.shape, layout, backend.weight_name(weight))
        return tensor, layout

    def _check(self, shape, layout, weight_name):
        """Raises a ValueError if the penalty cannot apply to a weight of `shape` with `layout`."""

    def _value(self, tensor, layout):
        raise NotImplementedError(f"{type(self).__name__} must define `_value(tensor, layout)`.")

    def _prox(self, tensor, layout, step_size):
        raise NotImplementedError(f"{type(self).__name__} has no proximal operator.")

    def _check_joint(self):
        """Raises a ValueError if the penalty does not couple weights."""
        raise ValueError(
            "Argument `penalty` must be one that couples weights. On several weights "
            f"{type(self).__name__} is the sum of what it is on each, which add_penalty gives "
            f"without Joint. Received: penalty={self!r}"
        )

    def _joint_value(self, tensors, layouts, names):
        """The value at several weights together, called `names` in messages."""
        raise NotImplementedError(f"{type(self).__name__} does not couple weights.")

    def _joint_prox(self, tensors, layouts, names, step_size):
        """The proximal operator at several weights together, tensors of one dtype."""
        raise no_joint_prox(self)

    def get_config(self):
        """The arguments of the constructor as they were given, in JSON's types."""
        return {name: _plain(value) for name, value in self._arguments().items()}

    @classmethod
    def from_config(cls, config):
        """The penalty with the arguments `config`, what `get_config` returned."""
        return cls(**check_arguments(cls, config))

    def _arguments(self):
        """The arguments that make the penalty again, by their names."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def __add__(self, other):
        return (
            class_named("Sum")([self, other]) if backend.is_regularizer(other) else NotImplemented
        )

    def __radd__(self, other):
        return (
            class_named("Sum")([other, self]) if backend.is_regularizer(other) else NotImplemented
        )

    def __repr__(self):
        arguments = ", ".join(f"{name}={value!r}" for name, value in self._arguments().items())
        return f"{type(self).__name__}({arguments})"


def no_joint_prox(penalty):
    """What to raise for a `penalty` on several weights that has no proximal operator."""
    return NotImplementedError(
        f"The proximal operator of {penalty!r} over several weights has no closed form, or none "
        "that is known. Use it in the loss, or a tfreg.Joint of a GroupLasso or a "
        "SparseGroupLasso, which has one."
    )


def check_step_size(step_size, dtype):
    """`step_size` as a float or, where it is known only when the graph runs, a scalar tensor."""
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


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value.tolist() if isinstance(value, np.ndarray) else value
