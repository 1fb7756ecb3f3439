"""Models of keras.applications, rebuilt with a penalty on every kernel by way of their configs."""

import numpy as np
import pytest

import tfreg

APPLICATIONS = {"MobileNetV3Small": (64, 64, 3), "ResNet50": (32, 32, 3)}


def penalized(model, penalty, api):
    """`model` with `penalty` on the kernel of each of its layers, and how many there are."""
    config, count = model.get_config(), 0
    serialized = api.regularizers.serialize(penalty)
    for layer in config["layers"]:
        for name in {"kernel_regularizer", "depthwise_regularizer"} & set(layer["config"]):
            # tf_keras's depthwise convolution has both, but only a depthwise kernel.
            if layer["class_name"] != "DepthwiseConv2D" or name == "depthwise_regularizer":
                layer["config"][name] = serialized
                count += 1
    return type(model).from_config(config), count


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", APPLICATIONS)
def test_group_lasso_on_every_kernel(api, name):
    api.utils.set_random_seed(0)
    shape = APPLICATIONS[name]
    plain = getattr(api.applications, name)(weights=None, input_shape=shape, classes=10)
    model, count = penalized(plain, tfreg.GroupLasso(1e-5), api)
    kernels = [w for w in model.trainable_weights if len(w.shape) > 1]
    assert len(model.losses) == count == len(kernels) > 50
    model.compile("sgd", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 255, size=(6, *shape)), rng.integers(0, 10, 6)
    history = model.fit(x, y, batch_size=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert all(np.isfinite(w.numpy()).all() for w in model.trainable_weights)
