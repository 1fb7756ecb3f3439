"""Large models: a penalty on every kernel, per layer and over the model, and one across layers."""

import numpy as np
import pytest

import tfreg

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def transformer(api):
    """Two blocks of a Transformer over words."""
    k = api.layers
    words = api.Input((12,))
    y = k.Embedding(50, 16, name="words")(words)
    for i in range(2):
        attended = k.MultiHeadAttention(2, 8, name=f"attention_{i}")(y, y)
        y = k.LayerNormalization(name=f"norm_{i}_attention")(k.Add()([y, attended]))
        hidden = k.Dense(32, activation="relu", name=f"up_{i}")(y)
        y = k.Add()([y, k.Dense(16, name=f"down_{i}")(hidden)])
        y = k.LayerNormalization(name=f"norm_{i}_dense")(y)
    return api.Model(words, k.Dense(10, activation="softmax")(k.GlobalAveragePooling1D()(y)))


def application(name, shape):
    return lambda api: getattr(api.applications, name)(weights=None, input_shape=shape, classes=10)


def tied(api, model):
    """A convolution's filter, its normalization's scale and the next one's input channel."""
    layers = model.layers
    for i, conv in enumerate(layers):
        norm = layers[i + 1] if i + 1 < len(layers) else None
        if isinstance(conv, api.layers.Conv2D) and isinstance(norm, api.layers.BatchNormalization):
            for following in layers[i + 2 :]:
                kernel = getattr(following, "depthwise_kernel", getattr(following, "kernel", None))
                if kernel is not None and len(kernel.shape) == 4:
                    assert kernel.shape[-2] == conv.filters
                    return [conv, norm.gamma, following]
    raise AssertionError("no convolution with a normalization after it")


TIED = tfreg.Joint(tfreg.GroupLasso(1e-3, axis=["output", "output", "input"]))
OVER_DEPTH = tfreg.Joint(tfreg.TotalVariation(1e-3))

MODELS = {
    "ResNet50": (application("ResNet50", (32, 32, 3)), TIED, tied),
    "MobileNetV3Small": (application("MobileNetV3Small", (32, 32, 3)), TIED, tied),
    "EfficientNetB0": (application("EfficientNetB0", (32, 32, 3)), TIED, tied),
    "Transformer": (transformer, OVER_DEPTH, lambda api, model: ["up_0", "up_1"]),
}

THREE_STEPS = """
import numpy as np

def three_steps(model):
    rng = np.random.default_rng(0)
    if len(model.input_shape) == 2:
        x = rng.integers(0, 50, (6, *model.input_shape[1:]))
    else:
        x = rng.uniform(0, 255, (6, *model.input_shape[1:]))
    y = rng.integers(0, 10, 6)
    losses = [float(model.train_on_batch(x[i : i + 2], y[i : i + 2])) for i in (0, 2, 4)]
    return losses, [float(loss) for loss in model.losses]
"""
LOAD = """
import json, sys
import tfreg
import KERAS

model = KERAS.models.load_model(sys.argv[1])
loaded = [float(loss) for loss in model.losses]
paths = [attached.paths for attached in tfreg.get_penalties(model)]
losses, penalties = three_steps(model)
norms = [float(np.linalg.norm(np.asarray(w))) for w in model.trainable_weights]
print(json.dumps([loaded, losses, penalties, norms, list(map(len, paths))]))
"""
exec(THREE_STEPS)


@pytest.mark.parametrize(
    "api, name",
    [
        ("keras", "ResNet50"),
        ("tf_keras", "EfficientNetB0"),
        ("keras", "MobileNetV3Small"),
        ("tf_keras", "MobileNetV3Small"),
        ("keras", "Transformer"),
        ("tf_keras", "Transformer"),
        # Minutes each, of much the same layers.
        pytest.param("tf_keras", "ResNet50", marks=pytest.mark.soak),
        pytest.param("keras", "EfficientNetB0", marks=pytest.mark.soak),
    ],
    indirect=["api"],
)
def test_three_steps_saved_and_three_more_are_six(api, name, tmp_path, run_fresh):
    build, joint, weights = MODELS[name]
    api.utils.set_random_seed(0)
    model = build(api)
    kernels = [w for w in model.trainable_weights if len(w.shape) > 1]
    tfreg.add_penalty(model, tfreg.GroupLasso(1e-4))
    ramp = tfreg.schedules.CubicRamp(begin=1, end=5)
    tfreg.add_penalty(model, joint, weights(api, model), schedule=ramp)
    every, across = tfreg.get_penalties(model)
    biases = [w for w in kernels if "bias" in w.name]
    assert len(every.weights) == len(kernels) - len(biases) > 10
    assert len(across.weights) == len(weights(api, model))
    for layer in model.layers:  # tf_keras does not save the state of a dropout
        if hasattr(layer, "rate"):
            layer.rate = 0.0
    loss = "sparse_categorical_crossentropy"
    model.compile(api.optimizers.SGD(1e-3, momentum=0.9), loss, jit_compile=False)
    three_steps(model)  # noqa: F821
    model.save(tmp_path / "model.keras")
    saved = [float(loss) for loss in model.losses]
    assert all(np.isfinite(saved)) and all(loss > 0 for loss in saved)
    code = THREE_STEPS + LOAD.replace("KERAS", api.__name__)
    loaded, losses, penalties, norms, counts = run_fresh(
        code, tmp_path / "model.keras", timeout=600
    )
    np.testing.assert_allclose(loaded, saved, rtol=1e-6)
    assert counts == [len(every.weights), len(across.weights)]
    expected_losses, expected_penalties = three_steps(model)  # noqa: F821
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    np.testing.assert_allclose(penalties, expected_penalties, rtol=1e-5)
    expected_norms = [np.linalg.norm(np.asarray(w)) for w in model.trainable_weights]
    np.testing.assert_allclose(norms, expected_norms, rtol=1e-4, atol=1e-6)


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


def test_group_lasso_as_every_layers_own_argument_is_that_over_the_model(api):
    api.utils.set_random_seed(0)
    plain = application("MobileNetV3Small", (64, 64, 3))(api)
    penalty = tfreg.GroupLasso(1e-5, axis="all")  # whose groups no layer sees otherwise
    model, count = penalized(plain, penalty, api)
    model.set_weights(plain.get_weights())
    assert len(model.losses) == count > 50
    tfreg.add_penalty(plain, penalty)
    np.testing.assert_allclose(float(plain.losses[0]), float(sum(model.losses)), rtol=1e-5)
    assert len(tfreg.get_penalties(model)) == len(tfreg.get_penalties(plain)[0].weights) == count
    model.compile("sgd", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 255, size=(6, 64, 64, 3)), rng.integers(0, 10, 6)
    history = model.fit(x, y, batch_size=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert all(np.isfinite(w.numpy()).all() for w in model.trainable_weights)
