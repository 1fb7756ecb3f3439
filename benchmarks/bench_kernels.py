"""What do a penalty's value and its gradient cost?

    python -m benchmarks.bench_kernels [--quick] [--shape 256x256] [--repeats N] [--out FILE]

Each penalty runs against the form that people write by hand, Keras's own L2 and a copy of the
weight in memory; in a plain `tf.function`, where tfreg itself decides what XLA compiles, and in
one that XLA compiles as a whole. All times are ratios: below 1 is faster.
"""

import functools
import itertools
import math
from typing import Callable, NamedTuple

import keras
import numpy as np
import tensorflow as tf

import tfreg
from benchmarks import common

FACTOR = 0.01
SHAPES, REPEATS = [(256, 256), (3, 3, 512, 512), (4096, 4096)], 30
QUICK_SHAPES, QUICK_REPEATS = SHAPES[:2], 5
MODES = {"graph": False, "XLA": True}
HEADER = ["penalty", "computes"] + [f"{m} / {of}" for m in MODES for of in ("copy", "L2", "hand")]
# The others need only be the same penalty: under XLA their sum of 16 million is off by 8e-5.
TOLERANCES = {"tfreg": 1e-5, "by hand": 1e-3, "Keras": 1e-3}


class Case(NamedTuple):
    """A penalty: its TensorFlow forms; its value and gradient, of unit strength, in NumPy."""

    name: str
    forms: dict[str, Callable]
    reference: Callable


class Run(NamedTuple):
    penalty: str
    form: str
    computes: str
    mode: str


COPY = Run("numpy.copyto", form="NumPy", computes="copy", mode="none")
L2 = Run("keras L2", form="Keras", computes="value", mode="graph")


def tv_by_hand(w, axis):
    w = tf.reshape(w, [-1]) if axis is None else w
    difference = w[..., 1:] - w[..., :-1] if axis == -1 else w[1:] - w[:-1]
    return FACTOR * tf.reduce_sum(tf.abs(difference))


def tv_reference(w, axis):
    if axis is None:
        value, gradient = tv_reference(w.ravel(), axis=0)
        return value, gradient.reshape(w.shape)
    difference = np.diff(w, axis=axis)
    gradient = -np.diff(np.sign(difference), axis=axis, prepend=0.0, append=0.0)
    return np.abs(difference).sum(), gradient


def box_by_hand(w):
    return FACTOR * tf.reduce_sum(tf.square(w - tf.clip_by_value(w, -0.5, 0.5)))


def box_reference(w):
    violation = w - np.clip(w, -0.5, 0.5)
    return np.square(violation).sum(), 2.0 * violation


def groups_by_hand(w, axes):
    weight = math.sqrt(math.prod(w.shape[axis] for axis in axes))
    return FACTOR * weight * tf.reduce_sum(tf.sqrt(tf.reduce_sum(tf.square(w), axis=axes)))


def groups_reference(w, axes):
    norm = np.sqrt(np.square(w).sum(axis=axes, keepdims=True))
    weight = math.sqrt(w.size / norm.size)
    return weight * norm.sum(), weight * w / norm


def runs_by_hand(w, size):
    groups = tf.reshape(w, [-1, size, w.shape[-1]])
    return FACTOR * tf.reduce_sum(tf.sqrt(tf.reduce_sum(tf.square(groups), axis=1)))


def runs_reference(w, size):
    length = w.shape[-2]
    norm = np.sqrt(np.add.reduceat(np.square(w), range(0, length, size), axis=-2))
    return norm.sum(), w / np.repeat(norm, size, axis=-2)[..., :length, :]


def sparse_by_hand(w, axes):
    return 0.5 * FACTOR * tf.reduce_sum(tf.abs(w)) + 0.5 * groups_by_hand(w, axes)


def sparse_reference(w, axes):
    value, gradient = groups_reference(w, axes)
    return 0.5 * np.abs(w).sum() + 0.5 * value, 0.5 * np.sign(w) + 0.5 * gradient


def cases(shape):
    def case(name, penalty, by_hand, reference, **parameters):
        forms = {"tfreg": penalty, "by hand": functools.partial(by_hand, **parameters)}
        return Case(name, forms, functools.partial(reference, **parameters))

    l2 = keras.regularizers.L2(FACTOR)
    yield Case(L2.penalty, {L2.form: l2}, lambda w: (np.square(w).sum(), 2.0 * w))
    for axis in (None, 0, -1):
        tv = tfreg.TotalVariation(FACTOR, axis=axis)
        yield case(f"TotalVariation axis={axis}", tv, tv_by_hand, tv_reference, axis=axis)
    yield case("BoxPenalty", tfreg.BoxPenalty(FACTOR, -0.5, 0.5), box_by_hand, box_reference)
    spanned = {axis: tuple(np.delete(range(len(shape)), axis).tolist()) for axis in (-1, -2)}
    for name, axis in (("output", -1), ("input", -2)):
        lasso, axes = tfreg.GroupLasso(FACTOR, axis=name), spanned[axis]
        yield case(f"GroupLasso {name}", lasso, groups_by_hand, groups_reference, axes=axes)
    for size in (4, 5):
        lasso = tfreg.GroupLasso(FACTOR, axis=-2, group_size=size, size_weighted=False)
        cut = case(f"GroupLasso group_size={size}", lasso, runs_by_hand, runs_reference, size=size)
        if shape[-2] % size:
            del cut.forms["by hand"]
        yield cut
    sparse = tfreg.SparseGroupLasso(FACTOR, axis="output")
    yield case("SparseGroupLasso", sparse, sparse_by_hand, sparse_reference, axes=spanned[-1])


def value(penalty, w):
    return [penalty(w)]


def gradient(penalty, w):
    with tf.GradientTape() as tape:
        tape.watch(w)
        result = penalty(w)
    slope = tape.gradient(result, w)
    # A device returns a tensor before it is computed; a scalar made of both can be waited for.
    return [result, slope, result + tf.reshape(slope, [-1])[0]]


def checked_runs(case, w):
    """Yields each `Run` of the case, what performs it, and its errors against the reference."""
    expected = [FACTOR * part for part in case.reference(w.numpy().astype(np.float64))]
    for form, mode, computes in itertools.product(case.forms, MODES, (value, gradient)):
        traced = functools.partial(computes, case.forms[form])
        function = tf.function(traced, jit_compile=MODES[mode], autograph=False)
        run = Run(case.name, form, computes.__name__, mode)
        errors = [
            common.check_answer(" ".join(run), answer.numpy(), right, TOLERANCES[form])
            for answer, right in zip(function(w), expected)
        ]
        yield run, lambda function=function: function(w)[-1].numpy(), errors


def measure(shape, repeats):
    """The quartiles of the seconds of each run, and its errors."""
    w = tf.constant(np.random.default_rng(0).normal(0.0, 0.5, shape), tf.float32)
    runs: dict = {COPY: functools.partial(np.copyto, np.empty(shape, np.float32), w.numpy())}
    errors: dict = {COPY: []}
    for case in cases(shape):
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
    options = common.parse(__doc__, arguments)
    repeats = options.repeats or (QUICK_REPEATS if options.quick else REPEATS)
    print(common.environment_line())
    measurements = []
    for shape in options.shape or (QUICK_SHAPES if options.quick else SHAPES):
        label = "x".join(map(str, shape))
        quartiles, errors = measure(shape, repeats)
        copy = common.ratio_and_spread(quartiles[COPY], quartiles[COPY])
        print(f"\n{label}, {repeats} samples of each run; copy / copy: {copy}\n")
        common.print_table(HEADER, list(rows(quartiles)))
        measurements += [
            {"shape": label, **run._asdict(), "seconds": quartiles[run], "errors": errors[run]}
            for run in quartiles
        ]
    if options.out:
        common.write_json(options.out, measurements)


if __name__ == "__main__":
    main()
