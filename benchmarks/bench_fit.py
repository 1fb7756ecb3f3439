"""What does a penalty add to a train step?

    python -m benchmarks.bench_fit [--quick] [--keras tf_keras] [--model lstm] [--mode default]
        [--penalty REGEX] [--steps N] [--repeats N] [--out FILE]

Whole steps of `fit`, with small batches and plain SGD so that the penalty's share shows, of models
with a penalty on every kernel: as an argument of the layers, and through `tfreg.add_penalty`. They
are compared to the same model with Keras's own L2, and to that with no penalty. All times are
ratios, of samples of the same round: below 1 is faster.
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
    """The samples of each variant of a model, in seconds for all its steps, and its errors."""
    runs, errors = {}, {}
    for variant in models.variants(options.penalty):
        run = models.Run(name, mode, *variant)
        model = models.penalized(models.APIS[options.keras], name, variant)
        errors[run] = models.check_losses(name, model, variant)
        one_batch = tf.data.Dataset.from_tensors(tuple(models.batch(model)))
        steps = one_batch.repeat(options.steps)
        runs[run] = functools.partial(fit, models.compiled(model, mode), steps)
    return common.interleaved_samples(runs, repeats), errors


def over(base, samples, run):
    """The quartiles of a run's ratios to that with the variant `base` of the penalty."""
    return common.paired_ratios(samples[run], samples[run._replace(**base._asdict())])


def rows(samples):
    for run in samples:
        none = over(models.NONE, samples, run)
        yield [*run, common.with_spread(over(models.L2, samples, run)), f"{none[1]:.2f}"]


def main(arguments=None):
    parser = models.parser(__doc__)
    parser.add_argument("--steps", type=common.positive, default=STEPS, help="of one sample")
    options = parser.parse_args(arguments)
    repeats = options.repeats or (QUICK_REPEATS if options.quick else REPEATS)
    print(common.environment_line())
    samples, errors = {}, {}
    for name in options.model or (QUICK_MODELS if options.quick else models.BUILDERS):
        for mode in options.mode or models.MODES:
            of_runs, of_model = measure(options, name, mode, repeats)
            samples.update(of_runs)
            errors.update(of_model)
    print(f"\n{options.keras}, {repeats} samples of {options.steps} steps of each run\n")
    common.print_table(HEADER, list(rows(samples)))
    if options.out:
        measurements = [
            {
                "keras": options.keras,
                **run._asdict(),
                "over_l2": over(models.L2, samples, run),
                "over_none": over(models.NONE, samples, run),
                "errors": errors[run],
            }
            for run in samples
        ]
        common.write_json(options.out, measurements)


if __name__ == "__main__":
    main()
