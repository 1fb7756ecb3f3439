"""What does a penalty on a large embedding add to a train step?

    python -m benchmarks.bench_embedding [--quick] [--keras tf_keras] [--rows N] [--penalty REGEX]
        [--repeats N] [--out FILE]

A step looks up a few rows of a table, and has a gradient for no others: a penalty on the table has
one for all of them, as Keras's L2 has. One on the rows that are looked up, as an
activity_regularizer, has not. All times are ratios to the step without a penalty, of samples of the
same round: below 1 is faster.
"""

import functools

import numpy as np
import tensorflow as tf

import tfreg
from benchmarks import common, models, penalties

ROWS, QUICK_ROWS = 1_000_000, 100_000
COLUMNS, BATCH_SIZE, LENGTH = 16, 64, 8
STEPS, REPEATS, QUICK_REPEATS = 3, 9, 3
HEADER = ["penalty", "on", "/ none"]
TABLE, ACTIVITY = "the table", "the rows of the batch"
RUNS = [
    ("none", "-"),
    (penalties.L2_NAME, TABLE),
    ("GroupLasso input", TABLE),
    ("BoxPenalty", TABLE),
    ("GroupLasso input", ACTIVITY),
]


def penalty_named(name, api):
    if name == penalties.L2_NAME:
        return api.regularizers.L2(models.FACTOR)
    if name == "BoxPenalty":
        return tfreg.BoxPenalty(models.FACTOR, -models.BOUND, models.BOUND)
    return tfreg.GroupLasso(models.FACTOR, axis=-1, size_weighted=False)


def reference_named(name, w):
    if name == penalties.L2_NAME:
        return penalties.l2_reference(w)[0]
    if name == "BoxPenalty":
        return penalties.box_reference(w, models.BOUND)[0]
    return penalties.groups_reference(w, {w.ndim - 1: COLUMNS}, size_weighted=False)[0]


def embedded(api, rows, name, place):
    """A model of one embedding, with the penalty of that name on the table or on its outputs."""
    regularizer = None if name == "none" else penalty_named(name, api)
    keyword = "activity_regularizer" if place == ACTIVITY else "embeddings_regularizer"
    table = api.layers.Embedding(rows, COLUMNS, **{keyword: regularizer})
    layers = [table, api.layers.GlobalAveragePooling1D(), api.layers.Dense(1)]
    model = api.Sequential([api.Input((LENGTH,), dtype="int32"), *layers])
    model.compile(api.optimizers.SGD(0.01), "mse")
    return model


def check_loss(model, words, name, place):
    """The relative error of the model's penalty; ends the program if it is too large."""
    if name == "none":
        return 0.0
    w = model.layers[0].embeddings.numpy().astype(np.float64)
    model(tf.constant(words))
    actual = float(sum(model.losses))
    expected = models.FACTOR * reference_named(name, w[words] if place == ACTIVITY else w)
    if place == ACTIVITY and actual < expected / 2:
        expected /= len(words)  # as Keras does, but not the oldest of Keras 3
    return common.check_answer(f"{name} on {place}", actual, expected, models.TOLERANCE)


def measure(options, rows, repeats):
    rng = np.random.default_rng(0)
    words = rng.integers(0, rows, (BATCH_SIZE, LENGTH)).astype(np.int32)
    batch = words, np.zeros((BATCH_SIZE, 1), np.float32)
    steps = tf.data.Dataset.from_tensors(batch).repeat(STEPS)
    runs, errors = {}, {}
    for run in RUNS:
        if run == RUNS[0] or options.penalty.search(run[0]):
            model = embedded(models.APIS[options.keras], rows, *run)
            errors[run] = check_loss(model, words, *run)
            runs[run] = functools.partial(model.fit, steps, shuffle=False, verbose=0)
    return common.interleaved_samples(runs, repeats), errors


def main(arguments=None):
    parser = common.parser(__doc__)
    parser.add_argument("--keras", choices=models.APIS, default="keras")
    parser.add_argument("--rows", type=common.positive)
    options = parser.parse_args(arguments)
    repeats = options.repeats or (QUICK_REPEATS if options.quick else REPEATS)
    rows = options.rows or (QUICK_ROWS if options.quick else ROWS)
    print(common.environment_line())
    samples, errors = measure(options, rows, repeats)
    ratios = {run: common.paired_ratios(samples[run], samples[RUNS[0]]) for run in samples}
    print(f"\n{options.keras}, {rows} rows of {COLUMNS}, {repeats} samples of {STEPS} steps\n")
    common.print_table(HEADER, [[*run, common.with_spread(ratios[run])] for run in ratios])
    if options.out:
        measurements = [
            {
                "keras": options.keras,
                "rows": rows,
                "penalty": name,
                "on": place,
                "over_none": ratios[name, place],
                "error": errors[name, place],
            }
            for name, place in ratios
        ]
        common.write_json(options.out, measurements)


if __name__ == "__main__":
    main()
