"""What does a proximal step add to a train step?

    python -m benchmarks.bench_proximal [--quick] [--keras tf_keras] [--model dense]
        [--mode default] [--penalty REGEX] [--steps N] [--repeats N] [--out FILE]

Whole steps of `fit` with SGD and momentum, as it is and in `tfreg.Proximal`: with penalties on
every kernel and over couplings, and with budgets, while they remove and afterwards. All times are
ratios to the optimizer alone, of samples of the same round: below 1 is faster. A budget that is met
must have left as many zeros as it says.
"""

import functools

import numpy as np
import tensorflow as tf

import tfreg
from benchmarks import common, models

STEPS, REPEATS = 20, 15
QUICK_MODELS, QUICK_REPEATS = ["transformer"], 3
HEADER = ["model", "mode", "proximal", "/ none", "zeros"]
NONE = "none"
# Later than any step that is taken here.
LATE = 10**6


def budget(late, **target):
    """A budget that removes every 10 steps, or one that has been met and keeps its zeros."""
    end = LATE if late else 1
    return tfreg.Budget(**target, begin=0, end=end, heal=end, every=10)


# From a model to the argument `penalties`.
PROXIMAL = {
    NONE: None,
    "GroupLasso": lambda model: tfreg.GroupLasso(0.1),
    "GroupLasso over couplings": lambda model: [(tfreg.couple(model), tfreg.GroupLasso(0.1))],
    "Budget of multiply-adds, removing": lambda model: budget(True, multiply_adds=0.2),
    "Budget of multiply-adds, met": lambda model: budget(False, multiply_adds=0.2),
    "Budget of elements, removing": lambda model: budget(True, elements=0.2),
    "Budget of elements, met": lambda model: budget(False, elements=0.2),
    "Budget of 2:4, met": lambda model: budget(False, pattern=(2, 4)),
}


def compiled(api, name, mode, penalties):
    api.utils.set_random_seed(0)
    model = models.BUILDERS[name](api, None)
    optimizer = api.optimizers.SGD(0.01, momentum=0.9)
    if penalties is not None:
        optimizer = tfreg.Proximal(optimizer, model, penalties(model))
    model.compile(optimizer, "mse", **models.MODES[mode])
    return model


def zeros(model):
    """The share of the kernels' elements that are exactly 0."""
    kernels = [w.numpy() for w in model.trainable_weights if len(w.shape) > 1]
    return sum(int(np.sum(w == 0)) for w in kernels) / sum(w.size for w in kernels)


def measure(options, name, mode, repeats):
    """The samples of each way to train a model, in seconds for all steps, and its zeros."""
    runs, trained = {}, {}
    for what, penalties in PROXIMAL.items():
        if what != NONE and not options.penalty.search(what):
            continue
        model = trained[what] = compiled(models.APIS[options.keras], name, mode, penalties)
        one_batch = tf.data.Dataset.from_tensors(tuple(models.batch(model)))
        steps = one_batch.repeat(options.steps)
        runs[what] = functools.partial(model.fit, steps, shuffle=False, verbose=0)
    samples = common.interleaved_samples(runs, repeats)
    shares = {what: zeros(model) for what, model in trained.items()}
    for what, share in shares.items():
        if what.endswith("met") and not share > 0.4:
            raise SystemExit(f"Wrong answer: {share:.2f} of {name} is zero after {what}.")
    return samples, shares


def main(arguments=None):
    parser = models.parser(__doc__)
    parser.add_argument("--steps", type=common.positive, default=STEPS, help="of one sample")
    options = parser.parse_args(arguments)
    repeats = options.repeats or (QUICK_REPEATS if options.quick else REPEATS)
    print(common.environment_line())
    measurements = []
    for name in options.model or (QUICK_MODELS if options.quick else ["resnet"]):
        for mode in options.mode or models.MODES:
            samples, shares = measure(options, name, mode, repeats)
            measurements += [
                {
                    "keras": options.keras,
                    "model": name,
                    "mode": mode,
                    "proximal": what,
                    "over_none": common.paired_ratios(samples[what], samples[NONE]),
                    "zeros": shares[what],
                }
                for what in samples
            ]
    rows = [
        [
            row["model"],
            row["mode"],
            row["proximal"],
            common.with_spread(row["over_none"]),
            f"{row['zeros']:.2f}",
        ]
        for row in measurements
    ]
    print(f"\n{options.keras}, {repeats} samples of {options.steps} steps of each run\n")
    common.print_table(HEADER, rows)
    if options.out:
        common.write_json(options.out, measurements)


if __name__ == "__main__":
    main()
