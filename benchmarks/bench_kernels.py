"""What do a penalty's value, its gradient and its proximal operator cost?

    python -m benchmarks.bench_kernels [--quick] [--shape 256x256] [--penalty REGEX]
        [--dtype float16] [--repeats N] [--out FILE]

Each penalty runs against the form that people write by hand, Keras's own L2 and a copy of the
weight in memory; in a plain `tf.function`, where tfreg itself decides what XLA compiles, and in
one that XLA compiles as a whole. All times are ratios: below 1 is faster. The copy is NumPy's on a
CPU; on a GPU it is `w * 2`, which reads and writes as much, and calls overlap their launches.

The form by hand of a prior is the regularizer of Keras that it amounts to, L2 or L1. Keras has no
proximal operators: L2's is one division by hand. In half precision the forms of others get the
weight in float32, as their sums would overflow without.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from benchmarks import common, penalties

SHAPES, REPEATS = [(256, 256), (3, 3, 512, 512), (4096, 4096)], 30
QUICK_SHAPES, QUICK_REPEATS = SHAPES[:2], 5
MODES = {"graph": False, "XLA": True}
HEADER = ["penalty", "computes"] + [f"{m} / {of}" for m in MODES for of in ("copy", "L2", "hand")]
# The others need only be the same penalty: XLA sums their 16 million terms with errors up to 1e-3.
TOLERANCES = {"tfreg": 1e-5, "by hand": 3e-3, "Keras": 3e-3}
ROUNDING = {"float32": 0.0, "float16": 1e-3, "bfloat16": 1e-2}


class Run(NamedTuple):
    penalty: str
    form: str
    computes: str
    mode: str


COPY = Run("copy", form="-", computes="copy", mode="none")
L2 = Run(penalties.L2_NAME, form="Keras", computes="value", mode="graph")


def value(penalty, w):
    return [penalty(w)]


def gradient(penalty, w):
    with tf.GradientTape() as tape:
        tape.watch(w)
        result = penalty(w)
    return [result, tape.gradient(result, w)]


def prox(operator, w):
    return [operator(w)]


def in_float32(form, w):
    return form(tf.cast(w, tf.float32))


def in_float32_and_back(operator, w):
    return tf.cast(in_float32(operator, w), w.dtype)


def _computations(case, w):
    """Yields the form, the name, the function and the expected answers of what to compute."""
    exact = w.numpy().astype(np.float64)
    expected = [penalties.FACTOR * part for part in case.reference(exact)]
    for form, penalty in case.forms.items():
        own = penalty if form == "tfreg" else functools.partial(in_float32, penalty)
        for computes in (value, gradient):
            yield form, computes.__name__, functools.partial(computes, own), expected
    for form, operator in case.prox_forms.items():
        own = operator if form == "tfreg" else functools.partial(in_float32_and_back, operator)
        expected = [case.prox_reference(exact, penalties.STRENGTH)]
        yield form, prox.__name__, functools.partial(prox, own), expected


def _errors(run, answers, expected):
    for answer, right in zip(answers, expected):
        tolerance = TOLERANCES[run.form] + ROUNDING[answer.dtype.name]
        actual = answer.numpy().astype(np.float32)
        yield common.check_answer(" ".join(run), actual, right, tolerance)


def checked_runs(case, w):
    """Yields each `Run` of the case, what performs it, and its errors against the reference."""
    for computation, mode in itertools.product(_computations(case, w), MODES):
        form, computes, traced, expected = computation
        function = tf.function(traced, jit_compile=MODES[mode], autograph=False)
        run = Run(case.name, form, computes, mode)
        errors = list(_errors(run, function(w), expected))
        yield run, functools.partial(function, w), errors


def measure(shape, options, repeats):
    """The quartiles of the seconds of each run, and its errors."""
    w = tf.constant(np.random.default_rng(0).normal(0.0, 0.5, shape), options.dtype)
    runs: dict = {COPY: common.copy(w)}
    errors: dict = {COPY: []}
    for case in penalties.cases(shape, options.penalty):
        for run, performance, run_errors in checked_runs(case, w):
            runs[run], errors[run] = performance, run_errors
    return common.interleaved_quartiles(runs, repeats), errors


def rows(quartiles):
    for first in quartiles:
        if first.mode == "graph" and first.form != "by hand":
            row = [first.penalty, first.computes]
            for run in (first, first._replace(mode="XLA")):
                l2 = L2._replace(computes=run.computes, mode=run.mode)
                row.append(common.ratio_and_spread(quartiles[run], quartiles[COPY]))
                for base in (l2, run._replace(form="by hand")):
                    row.append(common.ratio(quartiles[run], quartiles.get(base)))
            yield row


def main(arguments=None):
    parser = common.parser(__doc__)
    parser.add_argument("--shape", action="append", type=common.shape, help="repeatable")
    parser.add_argument("--dtype", choices=ROUNDING, default="float32", help="of the weight")
    options = parser.parse_args(arguments)
    repeats = options.repeats or (QUICK_REPEATS if options.quick else REPEATS)
    print(common.environment_line())
    measurements = []
    for shape in options.shape or (QUICK_SHAPES if options.quick else SHAPES):
        label = "x".join(map(str, shape)) + f" {options.dtype}"
        quartiles, errors = measure(shape, options, repeats)
        copy = common.ratio_and_spread(quartiles[COPY], quartiles[COPY])
        print(f"\n{label}, {repeats} samples of each run; copy / copy: {copy}\n")
        common.print_table(HEADER, list(rows(quartiles)))
        measurements += [
            {"weight": label, **run._asdict(), "seconds": quartiles[run], "errors": errors[run]}
            for run in quartiles
        ]
    if options.out:
        common.write_json(options.out, measurements)


if __name__ == "__main__":
    main()
