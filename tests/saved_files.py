"""Models in files that later releases must load.

    python tests/saved_files.py

writes those of this release into tests/data. Run it with the oldest TensorFlow and Keras that the
package allows: older ones do not read what newer ones wrote.
"""

import json
import pathlib

import keras
import numpy as np
import tf_keras
from cases import TABLE

import tfreg

DATA = pathlib.Path(__file__).parent / "data"
APIS = {"keras": keras, "tf_keras": tf_keras}
INPUTS = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")


def penalties(api):
    """The first of each row of the table, and what the table does not have."""
    return [
        *(row.cases[0].penalty for row in TABLE),
        tfreg.TotalVariation(1 / 3, axis=0, order=2),
        tfreg.Prior("Horseshoe", 0.01, floor=1e-3, scale=0.5),
        tfreg.GroupLasso(0.2) + api.regularizers.L2(0.01),
    ]


def penalized_layers(api):
    x = api.Input((6,))
    y = x
    for i, penalty in enumerate(penalties(api)):
        y = api.layers.Dense(6, kernel_regularizer=penalty, name=f"layer_{i}")(y)
    return api.Model(x, y)


def penalized_model(api):
    layers = [api.layers.Dense(6, name=f"layer_{i}") for i in range(4)]
    model = api.Sequential([api.Input((6,)), *layers])
    for penalty in penalties(api):
        tfreg.add_penalty(model, penalty, "layer_[01]/kernel")
    ramp = tfreg.schedules.CubicRamp(begin=2, end=9, start=0.5, peak=3.0)
    tied = tfreg.Joint(tfreg.GroupLasso(0.1, axis=["output", "input"]))
    tfreg.add_penalty(model, tied, ["layer_0", "layer_1"], ramp)
    decay = api.optimizers.schedules.CosineDecay(1.0, 10)
    smooth = tfreg.Joint(tfreg.TotalVariation(0.2))
    return tfreg.add_penalty(model, smooth, ["layer_1", "layer_2", "layer_3"], decay)


FILES = {
    f"{name}_{build.__name__}.{ending}": (api, build)
    for name, api in APIS.items()
    for build, ending in [
        (penalized_layers, "keras"),
        (penalized_layers, "h5"),
        (penalized_model, "keras"),
    ]
}


def summary(model):
    """What a file must give back, in JSON's types."""
    return {
        "outputs": model.predict(INPUTS, verbose=0).tolist(),
        "losses": [float(loss) for loss in model.losses],
        "penalties": [
            {
                "class_name": type(attached.penalty).__name__,
                "config": attached.penalty.get_config(),
                # Keras 3 gives a model's weights other paths as it loads it, but for their ends.
                "weights": ["/".join(path.split("/")[-2:]) for path in attached.paths],
            }
            for attached in tfreg.get_penalties(model)
        ],
    }


def write(folder):
    folder.mkdir(parents=True)
    expected = {}
    for name, (api, build) in FILES.items():
        api.utils.set_random_seed(0)
        model = build(api)
        model.compile(api.optimizers.SGD(1e-3), api.losses.MeanSquaredError())
        model.fit(INPUTS, INPUTS, epochs=3, verbose=0)
        model.save(folder / name)
        expected[name] = summary(model)
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    write(DATA / tfreg.__version__)
