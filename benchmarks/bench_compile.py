"""What does a penalty add to the time to the first step, in traces and in compilations?

    python -m benchmarks.bench_compile [--quick] [--keras tf_keras] [--model lstm]
        [--mode default] [--penalty REGEX] [--repeats N] [--out FILE]

The first step of `fit` of the models of bench_fit, each in a process of its own that has trained
another model before: what Keras and TensorFlow trace for it, XLA's compilation, and one step. The
traces are those of tfreg's kernels; a second model whose penalty has another strength needs none.
All times are ratios: below 1 is faster.
"""

import os
import tempfile
import time
from typing import NamedTuple
from unittest import mock

from benchmarks import common, models
from tfreg.compute import kernels

REPEATS = 5
QUICK_MODELS, QUICK_REPEATS = ["lstm"], 1
HEADER = [
    "model",
    "mode",
    "penalty",
    "through",
    "first step / L2",
    "/ none",
    "compilations",
    "traces",
    "traces for another strength",
]
# TensorFlow counts XLA's compilations, but tells only its log.
COMPILATION = "device_compilation_profiler"
ENVIRONMENT = {"TF_CPP_VMODULE": f"{COMPILATION}=1", "TF_CPP_MIN_LOG_LEVEL": "0"}


class Sample(NamedTuple):
    seconds: float
    compilations: int
    traces: int
    traces_for_another_strength: int
    error: float


def fit(model):
    model.fit(*models.batch(model), verbose=0)


def compilations(perform, *arguments):
    """How often XLA compiles during the call."""
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            perform(*arguments)
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
        log.seek(0)
        return log.read().count(COMPILATION.encode())


def measure(keras_name, run):
    """A `Sample` of the run, in a process that has not trained a model yet."""
    api, variant = models.APIS[keras_name], models.Variant(run.penalty, run.through)
    fit(models.compiled(api.Sequential([api.Input((1,)), api.layers.Dense(1)]), run.mode))
    trace = kernels.Compiled._trace
    with mock.patch.object(kernels.Compiled, "_trace", autospec=True, side_effect=trace) as traced:
        model = models.compiled(models.penalized(api, run.model, variant), run.mode)
        start = time.perf_counter()
        compiled = compilations(fit, model)
        seconds = time.perf_counter() - start
        traces = traced.call_count
        another = models.penalized(api, run.model, variant, factor=2.0 * models.FACTOR)
        fit(models.compiled(another, run.mode))
        more = traced.call_count - traces
    error = models.check_losses(run.model, model, variant)
    return Sample(seconds, compiled, traces, more, error)


def selected(options):
    """Each `models.Run` that the options ask for."""
    for name in options.model or (QUICK_MODELS if options.quick else models.BUILDERS):
        for mode in options.mode or models.MODES:
            # XLA takes minutes for this, whatever the penalty.
            if (options.keras, name, mode) != ("tf_keras", "lstm", "jit_compile"):
                yield from (models.Run(name, mode, *v) for v in models.variants(options.penalty))


def rows(samples):
    quartiles = {run: common.quartiles([s.seconds for s in samples[run]]) for run in samples}
    for run, [first, *_] in samples.items():
        none, l2 = (quartiles[run._replace(**v._asdict())] for v in (models.NONE, models.L2))
        times = common.ratio_and_spread(quartiles[run], l2), common.ratio(quartiles[run], none)
        counts = first.compilations, first.traces, first.traces_for_another_strength
        yield [*run, *times, *map(str, counts)]


def main(arguments=None):
    options = models.parser(__doc__).parse_args(arguments)
    repeats = options.repeats or (QUICK_REPEATS if options.quick else REPEATS)
    print(common.environment_line())
    samples: dict = {run: [] for run in selected(options)}
    for _ in range(repeats):
        for run, taken in samples.items():
            arguments = (options.keras, run)
            taken.append(common.in_fresh_process(measure, *arguments, environment=ENVIRONMENT))
    print(f"\n{options.keras}, {repeats} samples of each run\n")
    common.print_table(HEADER, list(rows(samples)))
    if options.out:
        measurements = [
            {"keras": options.keras, **run._asdict(), **sample._asdict()}
            for run, taken in samples.items()
            for sample in taken
        ]
        common.write_json(options.out, measurements)


if __name__ == "__main__":
    main()
