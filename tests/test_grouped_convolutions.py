"""Penalties over a model on the kernels of grouped convolutions."""

import numpy as np
import oracles
import pytest
import tensorflow as tf
from layer_cases import rand
from marks import KERAS_3_FIRST, slow

import tfreg
from tfreg.layers import registry

GROUPINGS = [(4, 2, 4), (4, 2, 8), (6, 3, 3), (4, 4, 4), (3, 3, 6)]  # channels, groups, filters

# The others differ in a number of axes.
RANKS = [2, slow(1), slow(3)]


def convolution(api, rank, grouping, size=2, **more):
    channels, groups, filters = grouping
    layer = getattr(api.layers, f"Conv{rank}D")(filters, size, groups=groups, **more)
    model = api.Sequential([api.Input((*[4] * rank, channels)), layer])
    layer.kernel.assign(rand(*layer.kernel.shape, seed=1))
    return model, layer


def loss(model):
    return sum(float(loss) for loss in model.losses)


def saved_and_loaded(api, model, tmp_path):
    model.save(tmp_path / "model.keras")
    return api.models.load_model(tmp_path / "model.keras")


def test_channels_of_two_groups_are_two_groups(api):
    model, layer = convolution(api, 2, (4, 2, 4), size=1)
    kernel = np.zeros((1, 1, 2, 4), "float32")
    kernel[0, 0, 0, 0], kernel[0, 0, 0, 2] = 3.0, 4.0  # of the input channels 0 and 2
    layer.kernel.assign(kernel)
    tfreg.add_penalty(model, tfreg.GroupLasso(1.0, "input", size_weighted=False))
    assert loss(model) == 7.0


@KERAS_3_FIRST
@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("rank", RANKS)
def test_the_loss_is_that_of_the_loop_before_and_after_saving(api, rank, grouping, tmp_path):
    model, layer = convolution(api, rank, grouping)
    kernel = np.asarray(layer.kernel)
    expected = 0.0
    for axis in ("output", "input", "shape", "all"):
        members = oracles.grouped_convolution(kernel.shape, axis, grouping[1])
        for size_weighted in (True, False):
            tfreg.add_penalty(model, tfreg.GroupLasso(0.2, axis, size_weighted=size_weighted))
            norms = oracles.sum_of_norms(kernel, members, size_weighted)
            expected += 0.2 * norms
        tfreg.add_penalty(model, tfreg.SparseGroupLasso(0.3, 0.4, axis, size_weighted=False))
        expected += 0.3 * (0.4 * np.abs(kernel).sum() + 0.6 * norms)
        np.testing.assert_allclose(loss(model), expected, rtol=1e-5)
    again = saved_and_loaded(api, model, tmp_path)
    np.testing.assert_allclose(loss(again), expected, rtol=1e-5)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_integer_axes_runs_and_differences_are_those_of_the_kernel(api, rank):
    model, layer = convolution(api, rank, (4, 2, 8))
    kernel = np.asarray(layer.kernel)
    expected = 0.0
    for axis, group_size in [(-1, 3), (-1, None), ((rank, rank + 1), (2, 5)), (0, None)]:
        tfreg.add_penalty(model, tfreg.GroupLasso(0.2, axis, group_size))
        expected += 0.2 * oracles.group_lasso(kernel, axis, group_size)
    for axis in (None, -1, (0, -1)):
        tfreg.add_penalty(model, tfreg.TotalVariation(0.3, axis))
        expected += 0.3 * oracles.total_variation(kernel, axis)
    np.testing.assert_allclose(loss(model), expected, rtol=1e-5)


@KERAS_3_FIRST
def test_a_channel_whose_group_is_zero_is_not_read(api):
    model, layer = convolution(api, 2, (6, 3, 6), use_bias=False)
    kernel = np.asarray(layer.kernel)
    layout = registry.weight_layouts(layer)[id(layer.kernel)]
    members = oracles.grouped_convolution(kernel.shape, "input", 3)
    for channel in range(6):
        faint = kernel.copy()
        faint[tuple(np.transpose(members[channel,]))] *= 1e-3
        layer.kernel.assign(faint)
        penalty = tfreg.GroupLasso(0.1, "input", size_weighted=False)
        shrunk = penalty.prox_on(layer.kernel, layout, 1.0)
        assert not np.any(shrunk.numpy()[tuple(np.transpose(members[channel,]))])
        layer.kernel.assign(shrunk)
        x = rand(2, 4, 4, 6)
        without = x.copy()
        without[..., channel] = 0.0
        np.testing.assert_allclose(model(x), model(without), atol=1e-6)
        other = x.copy()
        other[..., (channel + 1) % 6] = 0.0
        assert np.abs(model(x) - model(other)).max() > 1e-3


@KERAS_3_FIRST
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_small_kernels_in_a_stack(api, rank):
    k = getattr(api.layers, f"Conv{rank}D")
    same = {"padding": "same", "use_bias": False}
    convolutions = [k(4, 2, groups=groups, **same) for groups in (2, 2, 2, 1, 4)]
    model = api.Sequential([api.Input((*[3] * rank, 4)), *convolutions])
    for axis in ("input", "shape"):
        tfreg.add_penalty(model, tfreg.SparseGroupLasso(0.2, 0.3, axis))
    expected, gradients = 0.0, []
    for seed, each in enumerate(convolutions):
        kernel = rand(*each.kernel.shape, seed=seed)
        each.kernel.assign(kernel)

        def value(kernel, count=each.groups):
            norms = sum(
                oracles.sum_of_norms(kernel, oracles.grouped_convolution(kernel.shape, axis, count))
                for axis in ("input", "shape")
            )
            return 0.2 * (0.3 * 2 * np.abs(kernel).sum() + 0.7 * norms)

        expected += value(kernel)
        if rank == 1:
            gradients.append(oracles.finite_differences(value, kernel.astype("float64")))
    with tf.GradientTape() as tape:
        total = tf.add_n(model.losses)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    actual = tape.gradient(total, model.trainable_variables)
    for gradient, by_differences in zip(actual, gradients):
        np.testing.assert_allclose(gradient, by_differences, rtol=1e-4, atol=1e-5)


def test_only_kernels_with_the_same_groups_are_stacked(api):
    built = [convolution(api, 1, grouping)[1] for grouping in [(4, 2, 4), (8, 4, 4), (4, 2, 4)]]
    kernels = [layer.kernel for layer in built]
    assert len({tuple(kernel.shape) for kernel in kernels}) == 1
    layouts = [registry.weight_layouts(layer)[id(layer.kernel)] for layer in built]
    values = tfreg.GroupLasso(1.0, "input").values_on(kernels, layouts)
    assert len(values) == 2
    expected = [
        oracles.sum_of_norms(
            np.asarray(kernel), oracles.grouped_convolution(kernel.shape, "input", count)
        )
        for kernel, count in zip(kernels, (2, 4, 2))
    ]
    np.testing.assert_allclose(values, [expected[0] + expected[2], expected[1]], rtol=1e-5)


@KERAS_3_FIRST
@pytest.mark.parametrize("size_weighted", [True, False])
@pytest.mark.parametrize("rank", RANKS)
def test_channels_line_up_with_the_filters_of_the_layer_before(api, rank, size_weighted, tmp_path):
    k = getattr(api.layers, f"Conv{rank}D")
    first, norm = k(6, 2), api.layers.BatchNormalization()
    for groups in (2, 3, 6):
        second = k(6, 1, groups=groups)
        model = api.Sequential([api.Input((*[3] * rank, 4)), first, norm, second])
        kernels = [rand(*first.kernel.shape), rand(6, seed=1), rand(*second.kernel.shape, seed=2)]
        for weight, kernel in zip((first.kernel, norm.gamma, second.kernel), kernels):
            weight.assign(kernel)
        axes = ["output", "output", "input"]
        penalty = tfreg.Joint(tfreg.GroupLasso(0.2, axes, size_weighted=size_weighted))
        tfreg.add_penalty(model, penalty, [first, norm.gamma, second])
        expected = 0.0
        for channel in range(6):
            group, place = divmod(channel, 6 // groups)
            filters = slice(group * 6 // groups, (group + 1) * 6 // groups)
            values = np.concatenate(
                [
                    kernels[0][..., channel].ravel(),
                    kernels[1][channel : channel + 1],
                    kernels[2][..., place, filters].ravel(),
                ]
            )
            weight = np.sqrt(values.size) if size_weighted else 1.0
            expected += 0.2 * weight * np.linalg.norm(values)
        np.testing.assert_allclose(loss(model), expected, rtol=1e-5)
        again = saved_and_loaded(api, model, tmp_path)
        np.testing.assert_allclose(loss(again), expected, rtol=1e-5)


def test_places_line_up_with_those_of_another_kernel(api):
    grouped = api.layers.Conv2D(4, 2, groups=2, padding="same")
    plain = api.layers.Conv2D(3, 2, padding="same")
    model = api.Sequential([api.Input((3, 3, 4)), grouped, plain])
    kernels = [rand(*grouped.kernel.shape), rand(*plain.kernel.shape, seed=1)]
    grouped.kernel.assign(kernels[0])
    plain.kernel.assign(kernels[1])
    penalty = tfreg.Joint(tfreg.GroupLasso(1.0, "shape", size_weighted=False))
    tfreg.add_penalty(model, penalty, [grouped, plain])
    members = [
        oracles.grouped_convolution(kernels[0].shape, "shape", 2),
        oracles.grouped_convolution(kernels[1].shape, "shape", 1),
    ]
    expected = oracles.joint_sum_of_norms(kernels, members, size_weighted=False)
    np.testing.assert_allclose(loss(model), expected, rtol=1e-5)


@KERAS_3_FIRST
def test_training_step_under_xla_and_half_precision(api):
    for dtype in ("float32", "mixed_float16"):
        model, layer = convolution(api, 2, (4, 2, 4), dtype=dtype)
        kernel = np.asarray(layer.kernel)
        tfreg.add_penalty(model, tfreg.GroupLasso(0.5, "input", size_weighted=False))
        model.compile("sgd", lambda y, p: 0.0 * tf.reduce_sum(tf.cast(p, "float32")))
        members = oracles.grouped_convolution(kernel.shape, "input", 2)
        expected = 0.5 * oracles.sum_of_norms(kernel, members, size_weighted=False)
        value = model.train_on_batch(rand(2, 4, 4, 4), np.zeros((2, 3, 3, 4)))
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        compiled = tf.function(lambda: tf.add_n(model.losses), jit_compile=True)
        kernel = np.asarray(layer.kernel)
        expected = 0.5 * oracles.sum_of_norms(kernel, members, size_weighted=False)
        np.testing.assert_allclose(compiled(), expected, rtol=1e-5)
