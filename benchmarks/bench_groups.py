"""What do groups by lists of indices cost over runs of one size?

    python -m benchmarks.bench_groups [--quick] [--shape 4096x4096] [--penalty REGEX]
        [--repeats N] [--out FILE]

A group lasso along an axis, or over inputs or outputs, whose groups are runs of 8; the same runs as
lists; consecutive lists of 1 to 15 indices; lists of 8 and of 1 to 15 indices in a random order;
and lists each of which shares half of its indices with the next. All times, of the value and the
gradient, are ratios to the runs. Values and gradients are checked against NumPy.
"""

import functools

import numpy as np
import tensorflow as tf

import tfreg
from benchmarks import common
from benchmarks.bench_kernels import MODES, gradient

AXES: list[int | str] = [0, 1, "input", "output"]
SIZE, FACTOR, TOLERANCE = 8, 0.1, 1e-5


def lists_of(length):
    """The lists by name."""
    rng = np.random.default_rng(0)
    order = rng.permutation(length)
    equal = np.arange(SIZE, length, SIZE)
    ends = np.cumsum(rng.integers(1, 2 * SIZE, length))
    unequal = ends[ends < length]
    starts = np.arange(0, length - SIZE // 2, SIZE // 2)
    return {
        "equal, consecutive": np.split(np.arange(length), equal),
        "unequal, consecutive": np.split(np.arange(length), unequal),
        "equal, in any order": np.split(order, equal),
        "unequal, in any order": np.split(order, unequal),
        "overlapping": [np.arange(start, min(start + SIZE, length)) for start in starts],
    }


def reference(w, axis, lists):
    """The value and the gradient in NumPy."""
    matrix = w if axis in (0, "input") else w.T
    value, slope = 0.0, np.zeros_like(matrix)
    for entries in lists:
        part = matrix[entries]
        along = None if isinstance(axis, str) else 0
        norms = np.sqrt(np.sum(part**2, axis=along, keepdims=True))
        weight = np.sqrt(part.size if along is None else len(part))
        value += weight * norms.sum()
        slope[entries] += weight * part / norms
    return FACTOR * value, FACTOR * (slope if axis in (0, "input") else slope.T)


def cases(shape):
    """Yields the axis, the name and the penalty of each case, and the lists that it amounts to."""
    for axis in AXES:
        length = shape[0] if axis in (0, "input") else shape[1]
        runs = np.split(np.arange(length), np.arange(SIZE, length, SIZE))
        if isinstance(axis, str):
            yield axis, "runs", tfreg.GroupLasso(FACTOR, axis), [[i] for i in range(length)]
        else:
            yield axis, "runs", tfreg.GroupLasso(FACTOR, axis, group_size=SIZE), runs
        for name, lists in lists_of(length).items():
            groups = [entries.tolist() for entries in lists]
            yield axis, name, tfreg.GroupLasso(FACTOR, axis, groups=groups), lists


def checked_runs(w, wanted):
    """What performs each run, by axis, name and mode."""
    exact = w.numpy().astype(np.float64)
    for axis, name, penalty, lists in cases(w.shape):
        if name != "runs" and not wanted.search(name):
            continue
        expected = reference(exact, axis, lists)
        for mode, jit_compile in MODES.items():
            run = tf.function(
                functools.partial(gradient, penalty),
                jit_compile=jit_compile,
                autograph=False,
            )
            for actual, right in zip(run(w), expected):
                common.check_answer(f"{axis} {name} {mode}", actual.numpy(), right, TOLERANCE)
            yield (str(axis), name, mode), functools.partial(run, w)


def main(arguments=None):
    parser = common.parser(__doc__)
    parser.add_argument("--shape", type=common.shape, default=None)
    options = parser.parse_args(arguments)
    shape = options.shape or ((512, 512) if options.quick else (4096, 4096))
    repeats = options.repeats or (5 if options.quick else 15)
    print(common.environment_line())
    w = tf.constant(np.random.default_rng(0).normal(0.0, 0.5, shape), tf.float32)
    samples = common.interleaved_samples(dict(checked_runs(w, options.penalty)), repeats)
    ratios = {
        key: common.paired_ratios(taken, samples[key[0], "runs", key[2]])
        for key, taken in samples.items()
    }
    print(f"\n{'x'.join(map(str, shape))}, {repeats} samples; time over that of the runs\n")
    rows = [
        [axis, name] + [common.with_spread(ratios[axis, name, mode]) for mode in MODES]
        for axis, name, first in ratios
        if first == "graph" and name != "runs"
    ]
    common.print_table(["axis", "groups", *MODES], rows)
    if options.out:
        measured = [
            {"axis": axis, "groups": name, "mode": mode, "seconds": common.quartiles(taken)}
            for (axis, name, mode), taken in samples.items()
        ]
        common.write_json(options.out, measured)


if __name__ == "__main__":
    main()
