"""The rules for what moves axes: labels, cuts and constants against the operations themselves."""

import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tfreg import backend
from tfreg.structure import shapes
from tfreg.structure.tracing import Trace

ops = keras.ops
FILLED = 2  # labels are shown to operations as numbers from here on, apart from what they fill in


class Case(NamedTuple):
    """A call on a tensor whose channels lie along `axis`.

    `make` gets the tensor, and the target of a reshape, which is `target` with the lengths of axes
    that are cut. `free` is how many sets of channels can go.
    """

    name: str
    shape: tuple
    make: Callable
    free: int
    axis: int = -1
    target: tuple = ()

    def __str__(self):
        return self.name


# Calls with Keras's operations, TensorFlow's, and layers of both.
OPERATIONS = [
    # Reshapes.
    Case("merge", (None, 3, 4), lambda x, to: ops.reshape(x, to), 4, target=(-1, 12)),
    Case("merge first", (None, 3, 4), lambda x, to: ops.reshape(x, to), 3, 1, (-1, 12)),
    Case("merge with batch", (None, 3, 4), lambda x, to: ops.reshape(x, to), 4, target=(-1, 4)),
    Case("merge channels with batch", (None, 4), lambda x, to: ops.reshape(x, to), 0, target=(-1,)),
    Case("to image", (None, 12), lambda x, to: ops.reshape(x, to), 3, target=(-1, 2, 2, 3)),
    Case("to heads", (None, 5, 12), lambda x, to: ops.reshape(x, to), 4, target=(-1, 5, 4, 3)),
    Case("from heads", (None, 5, 4, 3), lambda x, to: ops.reshape(x, to), 4, 2, (-1, 5, 12)),
    Case("ones", (None, 1, 6), lambda x, to: ops.reshape(x, to), 6, target=(-1, 6, 1, 1)),
    Case("one channel", (None, 6, 1), lambda x, to: ops.reshape(x, to), 0, target=(-1, 6)),
    Case("another split", (None, 4, 6), lambda x, to: ops.reshape(x, to), 2, target=(-1, 8, 3)),
    Case("keeps batch", (2, 3, 4), lambda x, to: ops.reshape(x, to), 4, target=(2, 12)),
    Case("moves the batch", (None, 5, 4), lambda x, to: ops.reshape(x, to), 4, target=(5, -1, 4)),
    Case("unknown length", (None, None, 4), lambda x, to: ops.reshape(x, to), 4, target=(-1, 4)),
    Case("unknown merged", (None, None, 4), lambda x, to: ops.reshape(x, to), 0, target=(-1, 8)),
    Case("static", (None, 4), lambda x, to: ops.reshape(x, to), 4, target=(1, -1, 4)),
    Case("ravel", (2, 4), lambda x, to: ops.ravel(x), 4),
    # Axes.
    Case("transpose", (None, 3, 4), lambda x, to: ops.transpose(x, (0, 2, 1)), 4),
    Case("transpose all", (2, 3, 4), lambda x, to: ops.transpose(x), 4),
    Case("swapaxes", (None, 3, 4), lambda x, to: ops.swapaxes(x, 1, -1), 4),
    Case("moveaxis", (None, 2, 3, 4), lambda x, to: ops.moveaxis(x, -1, 1), 4),
    Case("moveaxes", (None, 2, 3, 4), lambda x, to: ops.moveaxis(x, (1, 3), (2, 1)), 4),
    Case("expand", (None, 4), lambda x, to: ops.expand_dims(x, 1), 4),
    Case("expand last", (None, 4), lambda x, to: ops.expand_dims(x, -1), 4),
    Case("expand twice", (None, 4), lambda x, to: ops.expand_dims(x, (1, -1)), 4),
    Case("squeeze", (None, 1, 4), lambda x, to: ops.squeeze(x, 1), 4),
    Case("squeeze all", (None, 1, 4), lambda x, to: ops.squeeze(x), 0),
    Case("squeeze the channel", (None, 3, 1), lambda x, to: ops.squeeze(x, -1), 0),
    Case("broadcast", (2, 1, 4), lambda x, to: ops.broadcast_to(x, to), 4, target=(2, 3, 4)),
    Case("broadcast the channel", (2, 3, 1), lambda x, to: ops.broadcast_to(x, (2, 3, 4)), 0),
    # Repetition and order.
    Case("repeat", (None, 3, 4), lambda x, to: ops.repeat(x, 2, axis=-1), 4),
    Case("repeat positions", (None, 3, 4), lambda x, to: ops.repeat(x, [1, 2, 3], axis=1), 4),
    Case("repeat each", (None, 4), lambda x, to: ops.repeat(x, [1, 2, 1, 1], axis=1), 0),
    Case("tile", (None, 3, 4), lambda x, to: ops.tile(x, (1, 2, 3)), 4),
    Case("tile last", (None, 3, 4), lambda x, to: ops.tile(x, 2), 4),
    Case("tile more", (None, 4), lambda x, to: ops.tile(x, (2, 1, 3)), 4),
    Case("flip", (None, 3, 4), lambda x, to: ops.flip(x, axis=-1), 4),
    Case("flip positions", (None, 3, 4), lambda x, to: ops.flip(x, axis=1), 4),
    Case("flip all", (None, 3, 4), lambda x, to: ops.flip(x), 4),
    Case("roll", (None, 3, 4), lambda x, to: ops.roll(x, 1, axis=1), 4),
    Case("roll channels", (None, 3, 4), lambda x, to: ops.roll(x, 1, axis=-1), 0),
    # Slices.
    Case("item", (None, 3, 4), lambda x, to: x[:, 1], 4),
    Case("item new axis", (None, 3, 4), lambda x, to: x[:, None, ::2, ..., None], 4),
    Case("item from", (None, 3, 4), lambda x, to: x[..., 1:], 3),
    Case("item up to", (None, 3, 4), lambda x, to: x[..., :3], 1),
    Case("item last ones", (None, 3, 4), lambda x, to: x[..., -1:], 3),
    Case("item but last", (None, 3, 4), lambda x, to: x[..., :-1], 3),
    Case("item inner", (None, 3, 6), lambda x, to: x[..., 1:-1], 4),
    Case("item mixed", (None, 3, 6), lambda x, to: x[..., -4:3], 0),
    Case("item beyond", (None, 4), lambda x, to: x[:, -4:9], 4),
    Case("item reversed", (None, 4), lambda x, to: x[:, ::-1], 4),
    Case("item strided", (None, 4), lambda x, to: x[:, ::2], 0),
    Case("item one channel", (None, 4), lambda x, to: x[:, 1], 2),
    Case("item last channel", (None, 4), lambda x, to: x[:, 3], 0),
    Case("item -1", (None, 4), lambda x, to: x[:, -1], 3),
    Case("item first from behind", (None, 4), lambda x, to: x[..., -4], 0),
    Case("slice", (2, 3, 4), lambda x, to: ops.slice(x, (0, 1, 0), (2, 2, 3)), 1),
    Case("slice whole", (2, 3, 4), lambda x, to: ops.slice(x, (0, 1, 0), (2, 2, 4)), 0),
    Case("split", (None, 3, 6), lambda x, to: ops.split(x, 3, axis=-1), 2),
    Case("split positions", (None, 4, 6), lambda x, to: ops.split(x, 2, axis=1), 6),
    Case("split singly", (None, 3), lambda x, to: ops.split(x, 3, axis=-1), 0),
    Case("split at", (None, 6), lambda x, to: ops.split(x, [1, 3], axis=-1), 3),
    Case("unstack", (None, 3, 4), lambda x, to: ops.unstack(x, axis=1), 4),
    Case("unstack channels", (None, 3, 4), lambda x, to: ops.unstack(x, axis=2), 0),
    Case("take", (None, 6), lambda x, to: ops.take(x, [2, 0, 2], axis=-1), 3),
    Case("take negative", (None, 6), lambda x, to: ops.take(x, [2, -1], axis=-1), 0),
    Case("take positions", (None, 3, 4), lambda x, to: ops.take(x, [2, 0], axis=1), 4),
    Case("take one", (None, 3, 4), lambda x, to: ops.take(x, 2, axis=1), 4),
    Case("take table", (None, 3, 4), lambda x, to: ops.take(x, [[0, 1], [1, 2]], axis=1), 4),
    # Padding.
    Case("pad", (None, 3, 4), lambda x, to: ops.pad(x, ((0, 0), (1, 2), (0, 0))), 4),
    Case("pad channels", (None, 3, 4), lambda x, to: ops.pad(x, ((0, 0), (0, 0), (1, 2))), 4),
    Case("pad with 1", (2, 4), lambda x, to: ops.pad(x, [[1, 1]] * 2, constant_values=1.0), 4),
    Case("reflect", (None, 3, 4), lambda x, to: ops.pad(x, ((0, 0), (1, 1), (0, 0)), "reflect"), 4),
    Case("reflect channels", (None, 4), lambda x, to: ops.pad(x, ((0, 0), (1, 1)), "reflect"), 0),
    # Joining.
    Case("concatenate", (None, 4), lambda x, to: ops.concatenate([x, x], axis=-1), 4),
    Case("concatenate positions", (None, 3, 4), lambda x, to: ops.concatenate([x, x], 1), 4),
    Case(
        "concatenate reversed", (None, 3, 4), lambda x, to: ops.concatenate([x, x[..., ::-1]], 1), 2
    ),
    Case("append", (None, 4), lambda x, to: ops.append(x, x, axis=-1), 4),
    Case("hstack", (None, 4), lambda x, to: ops.hstack([x, x]), 4),
    Case("stack", (None, 4), lambda x, to: ops.stack([x, x], axis=1), 4),
    Case("stack last", (None, 4), lambda x, to: ops.stack([x, x], axis=-1), 4),
    # Reductions: of equal numbers, as all along other axes are.
    Case("mean", (None, 3, 4), lambda x, to: ops.mean(x, axis=1), 4),
    Case("mean, axes kept", (None, 3, 4), lambda x, to: ops.mean(x, axis=1, keepdims=True), 4),
    Case("max", (None, 2, 3, 4), lambda x, to: ops.max(x, axis=(1, 2)), 4),
    Case("min", (None, 3, 4), lambda x, to: ops.min(x, axis=-2), 4),
    Case("sum", (None, 1, 4), lambda x, to: ops.sum(x, axis=1), 4),
    Case("amax", (None, 3, 4), lambda x, to: ops.amax(x, axis=1), 4),
    # Others.
    Case("resize", (None, 2, 3, 4), lambda x, to: ops.image.resize(x, (4, 4)), 4),
    Case(
        "resize padded",
        (None, 2, 3, 4),
        lambda x, to: ops.image.resize(x, (4, 4), pad_to_aspect_ratio=True),
        4,
    ),
    Case("cast", (None, 4), lambda x, to: ops.cast(x, "float64"), 4),
    Case("stop_gradient", (None, 4), lambda x, to: ops.stop_gradient(x), 4),
    Case("copy", (None, 4), lambda x, to: ops.copy(x), 4),
]
TENSORFLOW = [
    Case("merge", (None, 3, 4), lambda x, to: tf.reshape(x, to), 4, target=(-1, 12)),
    Case("to heads", (None, 5, 12), lambda x, to: tf.reshape(x, to), 4, target=(-1, 5, 4, 3)),
    Case("computed", (None, 3, 4), lambda x, to: tf.reshape(x, [tf.shape(x)[0], 12]), 0),
    Case("transpose", (None, 3, 4), lambda x, to: tf.transpose(x, [0, 2, 1]), 4),
    Case("permute", (None, 3, 4), lambda x, to: permuted(x, (0, 2, 1)), 4),
    Case("matrix_transpose", (None, 3, 4), lambda x, to: tf.linalg.matrix_transpose(x), 4),
    Case("expand_dims", (None, 4), lambda x, to: tf.expand_dims(x, 1), 4),
    Case("squeeze", (None, 1, 4), lambda x, to: tf.squeeze(x, axis=1), 4),
    Case("squeeze axes", (None, 1, 1, 4), lambda x, to: tf.squeeze(x, [1, 2]), 4),
    Case("squeeze all", (None, 1, 4), lambda x, to: tf.squeeze(x), 0),
    Case("broadcast_to", (2, 1, 4), lambda x, to: tf.broadcast_to(x, to), 4, target=(2, 3, 4)),
    Case("ensure_shape", (None, 4), lambda x, to: tf.ensure_shape(x, (None, 4)), 0),
    Case("ensure rank", (None, 4), lambda x, to: tf.ensure_shape(x, (None, None)), 4),
    Case("repeat", (None, 3, 4), lambda x, to: tf.repeat(x, 2, axis=-1), 4),
    Case("tile", (None, 3, 4), lambda x, to: tf.tile(x, [1, 2, 3]), 4),
    Case("reverse", (None, 3, 4), lambda x, to: tf.reverse(x, [1, 2]), 4),
    Case("roll", (None, 3, 4), lambda x, to: tf.roll(x, 1, 1), 4),
    Case("roll channels", (None, 3, 4), lambda x, to: tf.roll(x, shift=1, axis=2), 0),
    Case("item", (None, 3, 4), lambda x, to: x[:, 1], 4),
    Case("item new axis", (None, 3, 4), lambda x, to: x[:, tf.newaxis, ::2, ..., None], 4),
    Case("item from", (None, 3, 4), lambda x, to: x[..., 1:], 3),
    Case("item one channel", (None, 4), lambda x, to: x[:, 1], 2),
    Case("slice", (None, 3, 4), lambda x, to: tf.slice(x, [0, 1, 1], [-1, 2, 2]), 1),
    Case("slice the rest", (None, 3, 4), lambda x, to: tf.slice(x, [0, 1, 1], [-1, 2, -1]), 3),
    Case("strided_slice", (None, 4), lambda x, to: tf.strided_slice(x, [0, 0], [2, 3]), 0),
    Case("split", (None, 3, 6), lambda x, to: tf.split(x, 3, axis=-1), 2),
    Case("split sizes", (None, 6), lambda x, to: tf.split(x, [1, 3, 2], axis=1), 0),
    Case("unstack", (None, 3, 4), lambda x, to: tf.unstack(x, axis=1), 4),
    Case("gather", (None, 6), lambda x, to: tf.gather(x, [2, 0, 2], axis=-1), 3),
    Case("gather positions", (None, 3, 4), lambda x, to: tf.gather(x, [2, 0], axis=1), 4),
    Case("gather in batch", (2, 4), lambda x, to: tf.gather(x, [[0], [1]], batch_dims=1), 0),
    Case("pad", (None, 3, 4), lambda x, to: tf.pad(x, [[0, 0], [1, 2], [0, 0]]), 4),
    Case("pad channels", (None, 4), lambda x, to: tf.pad(x, [[0, 0], [1, 2]]), 4),
    Case("reflect", (None, 4), lambda x, to: tf.pad(x, [[0, 0], [1, 2]], mode="REFLECT"), 0),
    Case("concat", (None, 3, 4), lambda x, to: tf.concat([x, x], -1), 4),
    Case("concat positions", (None, 3, 4), lambda x, to: tf.concat([x, x], axis=1), 4),
    Case("stack", (None, 4), lambda x, to: tf.stack([x, x], axis=1), 4),
    Case("mean", (None, 3, 4), lambda x, to: tf.reduce_mean(x, 1), 4),
    Case("max, axes kept", (None, 3, 4), lambda x, to: tf.reduce_max(x, [1], keepdims=True), 4),
    Case("min", (None, 3, 4), lambda x, to: tf.math.reduce_min(x, axis=1), 4),
    Case("sum", (None, 1, 4), lambda x, to: tf.reduce_sum(x, axis=1), 4),
    Case("resize", (None, 2, 3, 4), lambda x, to: tf.image.resize(x, (4, 4)), 4),
    Case("cast", (None, 4), lambda x, to: tf.cast(x, tf.float64), 4),
    Case("identity", (None, 4), lambda x, to: tf.identity(x), 4),
    Case("stop_gradient", (None, 4), lambda x, to: tf.stop_gradient(x), 4),
]


def permuted(x, order):
    return tf_keras.backend.permute_dimensions(x, order)


def layer_cases(api):
    of = api.layers
    first = {"data_format": "channels_first"}
    return [
        Case("Flatten", (None, 2, 3, 4), lambda x, to: of.Flatten()(x), 4),
        Case("Flatten features", (None, 4), lambda x, to: of.Flatten()(x), 4),
        Case("Flatten first", (None, 4, 2, 3), lambda x, to: of.Flatten(**first)(x), 4, 1),
        Case("Flatten along", (None, 2, 3, 4), lambda x, to: of.Flatten()(x), 3, 2),
        Case("Flatten unknown", (None, None, 4), lambda x, to: of.Flatten()(x), 0),
        Case("Reshape", (None, 12), lambda x, to: of.Reshape(to[1:])(x), 3, target=(-1, 2, 2, 3)),
        Case("Reshape -1", (None, 12), lambda x, to: of.Reshape((4, -1))(x), 3),
        Case("Reshape kept", (None, 3, 4), lambda x, to: of.Reshape(to[1:])(x), 4, -1, (-1, 3, 4)),
        Case("Permute", (None, 3, 4), lambda x, to: of.Permute((2, 1))(x), 4),
        Case("RepeatVector", (None, 4), lambda x, to: of.RepeatVector(3)(x), 4),
        Case("Identity", (None, 4), lambda x, to: of.Identity()(x), 4),
        Case("Concatenate", (None, 3, 4), lambda x, to: of.Concatenate()([x, x]), 4),
        Case("Concatenate 1", (None, 3, 4), lambda x, to: of.Concatenate(axis=1)([x, x]), 4),
        Case("ZeroPadding1D", (None, 3, 4), lambda x, to: of.ZeroPadding1D(2)(x), 4),
        Case("ZeroPadding1D along", (None, 4, 3), lambda x, to: of.ZeroPadding1D(2)(x), 4, 1),
        Case("ZeroPadding2D", (None, 2, 3, 4), lambda x, to: of.ZeroPadding2D((1, 2))(x), 4),
        Case("ZeroPadding first", (2, 4, 3, 3), lambda x, to: of.ZeroPadding2D(**first)(x), 4, 1),
        Case("ZeroPadding3D", (None, 2, 2, 3, 4), lambda x, to: of.ZeroPadding3D(1)(x), 4),
        Case("Cropping1D", (None, 5, 4), lambda x, to: of.Cropping1D((1, 2))(x), 4),
        Case("Cropping1D along", (None, 5, 4), lambda x, to: of.Cropping1D((1, 2))(x), 2, 1),
        Case("Cropping2D", (None, 5, 5, 4), lambda x, to: of.Cropping2D(((1, 2), (0, 1)))(x), 4),
        Case("Cropping3D", (None, 3, 3, 3, 4), lambda x, to: of.Cropping3D(1)(x), 4),
        Case("UpSampling1D", (None, 3, 4), lambda x, to: of.UpSampling1D(2)(x), 4),
        Case("UpSampling1D along", (None, 3, 4), lambda x, to: of.UpSampling1D(2)(x), 0, 1),
        Case("UpSampling2D", (None, 2, 3, 4), lambda x, to: of.UpSampling2D(2)(x), 4),
        Case(
            "UpSampling2D bilinear",
            (None, 2, 3, 4),
            lambda x, to: of.UpSampling2D(2, interpolation="bilinear")(x),
            4,
        ),
        Case("Resizing", (None, 2, 3, 4), lambda x, to: of.Resizing(4, 4)(x), 4),
        Case("CenterCrop", (None, 5, 5, 4), lambda x, to: of.CenterCrop(2, 3)(x), 4),
        Case("UpSampling3D", (None, 2, 2, 2, 4), lambda x, to: of.UpSampling3D(2)(x), 4),
    ]


CASES = {
    **{f"keras.ops {case.name}": (keras, case) for case in OPERATIONS},
    **{f"tf {case.name}": (tf_keras, case) for case in TENSORFLOW},
    **{
        f"{api.__name__} {case.name}": (api, case)
        for api in (keras, tf_keras)
        for case in layer_cases(api)
    },
}


def source_rule(axis):
    """Channels along an axis of a tensor; nothing is known of any other."""

    def rule(step):
        [shape] = step.output_shapes
        return [step.value(shape, axis, step.new(shape[axis]))]

    return rule


class Traced:
    """A case that was followed: the `value` given to it, and its `outputs`."""

    def __init__(self, api, case, **rules):
        tensor = api.Input(batch_shape=case.shape)
        given = api.layers.Activation("linear", name="channels")(tensor)
        made = case.make(given, case.target)
        # The outputs of a model are pinned: what follows tells nothing of them.
        outputs = [made] if not isinstance(made, (list, tuple)) else list(made)
        last = [api.layers.Activation("linear", name=f"last_{i}") for i in range(len(outputs))]
        ends = [layer(output) for layer, output in zip(last, outputs)]
        model = api.Model(tensor, ends)
        rules |= {"channels": source_rule(case.axis)} | {layer.name: ignored for layer in last}
        self.trace = Trace(model, lambda operation: self.rule_for(operation, rules))
        steps = {step.operation.name: step for step in self.trace.steps}
        [self.value] = steps["channels"].outputs
        self.steps = [step for step in self.trace.steps if step.operation.name not in rules]
        self.outputs = [self.trace.input_values[id(layer)][0][0] for layer in last]

    def rule_for(self, operation, rules):
        if operation.name in rules:
            return rules[operation.name]
        name = backend.function_name(operation)
        if name is None:
            return shapes.LAYERS[type(operation).__name__]
        return shapes.FUNCTIONS.get(name) or (lambda step: step.pin_all("it is not followed"))

    def known(self, known):
        """What is known of the outputs."""
        known_of = {id(self.value): known}
        for step in self.steps:
            outputs = step.constants([known_of.get(id(value)) for value in step.inputs])
            known_of |= {id(value): each for value, each in zip(step.outputs, outputs)}
        return [known_of.get(id(value)) for value in self.outputs]


def ignored(step):
    return [step.unlabelled(shape) for shape in step.output_shapes]


def tensor(case, along, rng=None, unknown=4):
    """A batch that holds `along` along the case's axis; numbers at random instead of NaN."""
    shape = [unknown if length is None else length for length in case.shape]
    shape[case.axis] = len(along)
    view = [1] * len(shape)
    view[case.axis] = -1
    values = np.broadcast_to(np.reshape(along, view), shape).astype(np.float32)
    if rng is not None:
        values = np.where(np.isnan(values), rng.normal(size=shape), values)
    return values.astype(np.float32)


def called(case, values, target=None):
    made = case.make(tf.constant(values), target or case.target)
    made = list(made) if isinstance(made, (list, tuple)) else [made]
    return [backend.array_of(each) for each in made]


def along(values, axis):
    """A row of `values` for each position of an axis."""
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


@pytest.mark.parametrize("api, case", CASES.values(), ids=CASES)
def test_labels_cuts_and_constants_are_those_of_the_operation(api, case):
    traced = Traced(api, case)
    labels = traced.trace.labels
    [channels] = [each for each in traced.value.axes if each is not None]
    roots = labels.roots(channels)
    free = np.unique(roots[~labels.are_pinned(channels)])
    assert len(free) == case.free
    assert all(labels.reason(root) for root in roots if root not in free)
    check_labels(case, traced, channels, free)
    check_cuts(case, traced, channels, free)
    check_constants(case, traced, len(channels))


def check_labels(case, traced, channels, free):
    """The operation on the labels themselves."""
    labels = traced.trace.labels
    for result, value in zip(called(case, tensor(case, channels + FILLED)), traced.outputs):
        if value.shape == () and not free.size:  # of unknown rank
            continue
        assert result.ndim == len(value.shape)
        places = np.rint(result).astype(int) - FILLED
        moved = np.where(places < 0, -1, labels.roots(np.maximum(places, 0)))
        if value.channel_axis is None:
            assert not np.isin(moved, free).any()
            continue
        given = value.axes[value.channel_axis]
        assert len(given) == result.shape[value.channel_axis] == value.shape[value.channel_axis]
        for row, label in zip(along(moved, value.channel_axis), given):
            is_filled = np.isin(row, channels, invert=True) | (row < 0)
            assert (is_filled | (row == labels.roots(np.array([label])))).all()
            assert not is_filled.all() or labels.are_pinned(np.array([label])).all()


def check_cuts(case, traced, channels, free):
    """The operation on what is left equals what is left of it."""
    labels = traced.trace.labels
    rng = np.random.default_rng(0)
    for share in (0.5, 1.0):
        gone = rng.permutation(free)[: int(share * len(free))]
        for each in [channels, *(each for value in traced.outputs for each in value.axes)]:
            if each is not None and np.isin(labels.roots(each), gone).all():
                gone = gone[gone != labels.roots(each)[0]]  # one stays along each axis
        kept = ~np.isin(labels.roots(channels), gone)
        whole = tensor(case, np.full(len(channels), math.nan), rng)
        cut = np.compress(kept, whole, axis=case.axis)
        target, results = list(case.target), []
        for result, value in zip(called(case, whole), traced.outputs):
            for axis, each in enumerate(value.axes):
                if each is not None:
                    stays = ~np.isin(labels.roots(each), gone)
                    result = np.compress(stays, result, axis=axis)
                    if target and target[axis] > 0:
                        target[axis] = int(stays.sum())
            results.append(result)
        for small, result in zip(called(case, cut, tuple(target)), results, strict=True):
            np.testing.assert_allclose(small, result, rtol=1e-6)


def check_constants(case, traced, count):
    rng = np.random.default_rng(1)
    for constants in ([0.0], [0.0, math.nan, 2.5], [1.0, 0.0]):
        known = np.resize(constants, count)
        results = called(case, tensor(case, known, rng))
        for result, value, each in zip(results, traced.outputs, traced.known(known)):
            if each is None:
                # Where channels pass, so do zeros.
                assert value.channel_axis is None or not free_in(traced, value)
                continue
            assert len(each) == value.shape[value.channel_axis]
            for row, constant in zip(along(result, value.channel_axis), each):
                assert math.isnan(constant) or np.allclose(row, constant, rtol=1e-6)
            if constants == [0.0]:
                assert (each[~np.isnan(each)] == 0).any() or case.name == "pad with 1"


def free_in(traced, value):
    labels = value.axes[value.channel_axis]
    return not traced.trace.labels.are_pinned(labels).all()


TF_NAMES = {
    "sum": tf.reduce_sum,
    "prod": tf.reduce_prod,
    "mean": tf.reduce_mean,
    "std": tf.math.reduce_std,
}


@pytest.mark.parametrize(
    "name, expected",
    {
        "sum": [0.0, 2.0, 6.0, math.nan],
        "prod": [0.0, 1.0, math.nan, math.nan],
        "mean": [0.0, 1.0, 3.0, math.nan],
        "std": [0.0, 0.0, 0.0, math.nan],
        "zeros_like": [0.0, 0.0, 0.0, 0.0],
        "ones_like": [1.0, 1.0, 1.0, 1.0],
    }.items(),
)
def test_constants_after_arithmetic(api, name, expected):
    function = getattr(ops, name) if api is keras else TF_NAMES.get(name) or getattr(tf, name)
    arguments = {} if name.endswith("like") else {"axis": 1}
    case = Case("", (None, 2, 4), lambda x, to: function(x, **arguments), 4)
    [found] = Traced(api, case).known(np.array([0.0, 1.0, 3.0, math.nan]))
    np.testing.assert_equal(found, expected)


def test_sum_over_an_unknown_length_keeps_zeros_alone(api):
    function = ops.sum if api is keras else tf.reduce_sum
    case = Case("", (None, None, 2), lambda x, to: function(x, axis=1), 2)
    [found] = Traced(api, case).known(np.array([0.0, 3.0]))
    np.testing.assert_equal(found, [0.0, math.nan])


def test_padding_keeps_the_constant_that_it_fills_in():
    widths = ((0, 0), (1, 0), (1, 0))
    case = Case("", (None, 2, 2), lambda x, to: ops.pad(x, widths, constant_values=1.0), 2)
    [found] = Traced(keras, case).known(np.array([0.0, 1.0]))
    np.testing.assert_equal(found, [1.0, math.nan, 1.0])


def test_a_reduction_over_channels_keeps_them(api):
    function = ops.mean if api is keras else tf.reduce_mean
    traced = Traced(api, Case("", (None, 3, 4), lambda x, to: function(x, axis=-1), 0))
    [labels] = [each for each in traced.value.axes if each is not None]
    assert traced.trace.labels.are_pinned(labels).all()
    assert "one number from all of its channels" in traced.trace.labels.reason(
        traced.trace.labels.roots(labels)[0]
    )
    assert traced.outputs[0].axes == (None, None)


def test_joining_with_what_stays_keeps_channels(api):
    join = ops.concatenate if api is keras else tf.concat

    def make(x, to, axis):
        other = api.layers.Activation("linear", name="other")(x)
        return join([x, other], axis)

    for axis, free in ((-1, 4), (1, 0)):
        case = Case("", (None, 3, 4), lambda x, to, axis=axis: make(x, to, axis), free)
        traced = Traced(api, case, other=ignored)
        channels = traced.value.axes[-1]
        assert (~traced.trace.labels.are_pinned(channels)).sum() == free
        assert len(traced.outputs[0].axes[-1]) == (8 if axis == -1 else 4)


def test_a_reshape_layer_that_is_called_twice_keeps_as_many(api):
    reshape = api.layers.Reshape((2, 3))

    def make(x, to):
        return [reshape(x), reshape(api.layers.Identity()(x))]

    traced = Traced(api, Case("", (None, 6), make, 3))
    first, second = (value.axes[-1] for value in traced.outputs)
    roots = traced.trace.labels.roots
    np.testing.assert_array_equal(roots(first), roots(second))
