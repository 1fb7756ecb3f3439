"""What does a penalty add to a train step?

    python -m benchmarks.bench_fit [--quick] [--keras tf_keras] [--model lstm] [--mode default]
        [--penalty REGEX] [--steps N] [--repeats N] [--out FILE]

Whole steps of `fit`, with small batches and plain SGD so that the penalty's share shows, of models
with a penalty on every kernel: as an argument of the layers, and through `tfreg.add_penalty`. They
are compared to the same model with Keras's own L2, and to that with no penalty. All times are
ratios: below 1 is faster.
"""

import functools

import tensorflow as tf

from benchmarks import common, models

STEPS, REPEATS = 20, 15
QUICK_MODELS, QUICK_REPEATS = ["lstm"], 3
HEADER = ["model", "mode", "penalty", "through", "/ L2", "/ none"]


def fit(model, dataset):
    model.fit(dataset, shuffle=False, verbose=0)


def measure(options, name, mode, repeats):
    """The quartiles of the seconds per step of each variant of a model, and its errors."""
    runs, errors = {}, {}
    for variant in models.variants(options.penalty):
        run = models.Run(name, mode, *variant)
        model = models.penalized(models.APIS[options.keras], name, variant)
        errors[run] = models.check_losses(name, model, variant)
        one_batch = tf.data.Dataset.from_tensors(tuple(models.batch(model)))
        steps = one_batch.repeat(options.steps)
        runs[run] = functools.partial(fit, models.compiled(model, mode), steps)
    quartiles = common.interleaved_quartiles(runs, repeats)
    per_step = {
        run: [seconds / options.steps for seconds in of_run] for run, of_run in quartiles.items()
    }
    return per_step, errors


def rows(quartiles):
    for run in quartiles:
        none, l2 = (quartiles[run._replace(**v._asdict())] for v in (models.NONE, models.L2))
        yield [
            *run,
            common.ratio_and_spread(quartiles[run], l2),
            common.ratio(quartiles[run], none),
        ]


def main(arguments=None):
    parser = models.parser(__doc__)
    parser.add_argument("--steps", type=common.positive, default=STEPS, help="of one sample")
    options = parser.parse_args(arguments)
    repeats = options.repeats or (QUICK_REPEATS if options.quick else REPEATS)
    print(common.environment_line())
    quartiles, errors = {}, {}
    for name in options.model or (QUICK_MODELS if options.quick else models.BUILDERS):
        for mode in options.mode or models.MODES:
            of_runs, of_model = measure(options, name, mode, repeats)
            quartiles.update(of_runs)
            errors.update(of_model)
    print(f"\n{options.keras}, {repeats} samples of {options.steps} steps of each run\n")
    common.print_table(HEADER, list(rows(quartiles)))
    if options.out:
        measurements = [
            {
                "keras": options.keras,
                **run._asdict(),
                "seconds": quartiles[run],
                "errors": errors[run],
            }
            for run in quartiles
        ]
        common.write_json(options.out, measurements)


if __name__ == "__main__":
    main()
