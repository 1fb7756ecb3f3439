"""What does it take to make a model smaller, and how much faster is it then?

    python -m benchmarks.bench_compact [--quick] [--model REGEX] [--repeats N] [--out FILE]

Applications of Keras with random weights, half of the entries of each coupling zero. The outputs of
the smaller model are checked against those of the larger. Its `predict` and its parameters are
ratios to the larger's; `tfreg.couple` and `tfreg.compact` are in seconds.
"""

import functools
import re
import time

import keras
import numpy as np

import tfreg
from benchmarks import common

# Names in keras.applications, and lengths of the sides of their images.
MODELS = {"MobileNetV2": 224, "ResNet50": 224, "NASNetMobile": 224}
QUICK = {"MobileNetV2": 32}
TOLERANCE = 1e-5


def application(name, side):
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3))
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "moving_variance" in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif len(variable.shape) == 1:
            variable.assign(
                rng.normal(1.0 if "gamma" in variable.path else 0.0, 0.1, variable.shape)
            )
    return model


def measure(name, side, repeats):
    """The measurements of one model."""
    model = application(name, side)
    start = time.perf_counter()
    couplings = tfreg.couple(model)
    seconds_to_couple = time.perf_counter() - start
    rng = np.random.default_rng(1)
    for coupling in couplings:
        coupling.zero(rng.permutation(coupling.size)[: coupling.size // 2])
    start = time.perf_counter()
    small = tfreg.compact(model)
    seconds_to_compact = time.perf_counter() - start
    images = rng.normal(size=(8, side, side, 3)).astype(np.float32)
    outputs = [each.predict(images, verbose=0) for each in (model, small)]
    error = common.check_answer(name, outputs[1], outputs[0], TOLERANCE)
    runs = {
        what: functools.partial(each.predict, images, verbose=0)
        for what, each in (("larger", model), ("smaller", small))
    }
    samples = common.interleaved_samples(runs, repeats)
    return {
        "model": name,
        "couplings": len(couplings),
        "parameters": [model.count_params(), small.count_params()],
        "error": error,
        "seconds_to_couple": seconds_to_couple,
        "seconds_to_compact": seconds_to_compact,
        "predict": common.paired_ratios(samples["smaller"], samples["larger"]),
    }


def main(arguments=None):
    parser = common.parser(__doc__)
    parser.add_argument("--model", type=re.compile, default=re.compile(""), metavar="REGEX")
    options = parser.parse_args(arguments)
    repeats = options.repeats or (3 if options.quick else 9)
    print(common.environment_line())
    models = QUICK if options.quick else MODELS
    measured = [
        measure(name, side, repeats) for name, side in models.items() if options.model.search(name)
    ]
    rows = [
        [
            row["model"],
            str(row["couplings"]),
            f"{row['parameters'][1] / row['parameters'][0]:.2f}",
            common.with_spread(row["predict"]),
            f"{row['seconds_to_couple']:.2f}",
            f"{row['seconds_to_compact']:.1f}",
        ]
        for row in measured
    ]
    header = ["model", "couplings", "parameters", "predict", "couple (s)", "compact (s)"]
    common.print_table(header, rows)
    if options.out:
        common.write_json(options.out, measured)


if __name__ == "__main__":
    main()
