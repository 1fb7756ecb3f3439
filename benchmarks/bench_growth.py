"""How does a penalty's cost grow with the weight, and with the number of its groups?

    python -m benchmarks.bench_growth [--quick] [--size 2^20] [--fit-from 2^16]
        [--grouped 2^22] [--penalty REGEX] [--repeats N] [--out FILE]

Value and gradient under XLA. The first table is of square matrices, in nanoseconds per weight. Its
slope is that of log time over log size, by least squares: 1 is a cost in proportion to the weight.
A call has a cost of its own, tens to hundreds of microseconds. So the slope is fitted from 2^16
weights on, to the time beyond that of the same call on the smallest weight; it is nan where there
is none. Two more things make it differ from 1: threads, which XLA uses on larger weights only (two
cores, from 2^16 weights on, for another 0.1 ms), and caches. What caches do is seen in the slope of
a copy, fitted alike.

The second table is of GroupLasso on always as many weights, as ratios to a copy of them. Columns
and rows are those of a matrix with as many as there are groups, runs those of a square matrix.
"""

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from benchmarks import bench_kernels, common, penalties

SIZES, GROUPED, REPEATS = [2**exponent for exponent in range(10, 27, 2)], 2**22, 9
QUICK_SIZES, QUICK_GROUPED, QUICK_REPEATS = SIZES[:6], 2**18, 5
FIT_FROM = 2**16
COPY = bench_kernels.COPY.penalty


class Run(NamedTuple):
    penalty: str
    weights: int
    groups: int | None = None  # only where their number is what varies


def power_of_two(text):
    """The number that a text like 2^10 means."""
    base, exponent = text.split("^")
    if base != "2":
        raise ValueError
    return 2 ** common.positive(exponent)


def label(power):
    return f"2^{power.bit_length() - 1}"


def square(size):
    """The shape of a matrix of `size` weights, as square as powers of two allow."""
    rows = 2 ** ((size.bit_length() - 1) // 2)
    return rows, size // rows


def random_weight(shape):
    return tf.constant(np.random.default_rng(0).normal(0.0, 0.5, shape), tf.float32)


def checked(case, w):
    """What computes value and gradient of the case's own penalty, and the errors of both."""
    form, penalty = next(iter(case.forms.items()))
    traced = functools.partial(bench_kernels.gradient, penalty)
    function = tf.function(traced, jit_compile=True, autograph=False)
    expected = case.reference(w.numpy().astype(np.float64))
    errors = [
        common.check_answer(
            f"{case.name} {computes} of {'x'.join(map(str, w.shape))}",
            answer.numpy(),
            penalties.FACTOR * right,
            bench_kernels.TOLERANCES[form],
        )
        for computes, answer, right in zip(("value", "gradient"), function(w), expected)
    ]
    return functools.partial(function, w), errors


def measure_sizes(sizes, pattern, repeats):
    """The quartiles of the seconds of each penalty on each size, and its errors."""
    runs: dict = {}
    errors: dict = {}
    for size in sizes:
        w = random_weight(square(size))
        runs[Run(COPY, size)], errors[Run(COPY, size)] = common.copy(w), []
        for case in penalties.cases(square(size), pattern):
            run = Run(case.name, size)
            runs[run], errors[run] = checked(case, w)
    return common.interleaved_quartiles(runs, repeats), errors


def grouped_cases(size):
    """Yields the number of groups, the shape of the weight and the case."""
    height, width = square(size)
    whole = {0: height, 1: width}
    yield 1, square(size), penalties.group_lasso_case("all", square(size), whole, axis="all")
    # Every second power, as of the sizes.
    for exponent in range(0, size.bit_length(), 2):
        groups = 2**exponent
        length = size // groups
        for name, axis, shape in (
            ("columns", 0, (length, groups)),
            ("rows", 1, (groups, length)),
        ):
            case = penalties.group_lasso_case(name, shape, {axis: length}, axis=axis)
            yield groups, shape, case
        for axis in whole:
            if length <= whole[axis]:
                name, run = f"runs along {axis}", {"axis": axis, "group_size": length}
                case = penalties.group_lasso_case(name, square(size), {axis: length}, **run)
                yield groups, square(size), case


def measure_groups(size, pattern, repeats):
    """The quartiles of the seconds of each form and number of groups, and its errors."""
    runs: dict = {}
    errors: dict = {}
    for groups, shape, case in grouped_cases(size):
        if pattern.search(case.name):
            run = Run(case.name, size, groups)
            runs[run], errors[run] = checked(case, random_weight(shape))
    if runs:
        runs[Run(COPY, size)] = common.copy(random_weight(square(size)))
        errors[Run(COPY, size)] = []
    return common.interleaved_quartiles(runs, repeats), errors


def slope(medians, fit_from):
    """The power of the size with which time grows, from the seconds by size."""
    smallest = min(medians)
    fitted = [size for size in medians if size >= fit_from and size > smallest]
    work = [medians[size] - medians[smallest] for size in fitted]
    if len(fitted) < 2 or min(work) <= 0.0:
        return float("nan")
    return np.polyfit(np.log(fitted), np.log(work), 1)[0]


def print_sizes(quartiles, sizes, fit_from):
    rows = []
    for name in dict.fromkeys(run.penalty for run in quartiles):
        medians = {size: quartiles[Run(name, size)][1] for size in sizes}
        per_weight = [f"{1e9 * seconds / size:.2f}" for size, seconds in medians.items()]
        rows.append([name, *per_weight, f"{slope(medians, fit_from):.2f}"])
    common.print_table(["penalty", *map(label, sizes), "slope"], rows)


def print_groups(quartiles, size):
    base = quartiles[Run(COPY, size)]
    medians = {run: of_run[1] for run, of_run in quartiles.items() if run.groups}
    numbers = sorted({run.groups for run in medians})
    rows = []
    for name in dict.fromkeys(run.penalty for run in medians):
        of_form = [seconds for run, seconds in medians.items() if run.penalty == name]
        every = [quartiles.get(Run(name, size, groups)) for groups in numbers]
        cells = [common.ratio(of_run, base) if of_run else "-" for of_run in every]
        rows.append([name, *cells, f"{max(of_form) / min(of_form):.2f}"])
    common.print_table(["groups", *map(label, numbers), "max / min"], rows)
    every_form = max(medians.values()) / min(medians.values())
    print(f"\nThe dearest of all takes {every_form:.2f} times as long as the cheapest.")


def main(arguments=None):
    parser = common.parser(__doc__)
    parser.add_argument(
        "--size", action="append", type=power_of_two, help="weights, repeatable, as 2^20"
    )
    parser.add_argument("--fit-from", type=power_of_two, default=FIT_FROM, help="weights, as 2^16")
    parser.add_argument("--grouped", type=power_of_two, help="weights in groups, as 2^22")
    options = parser.parse_args(arguments)
    repeats = options.repeats or (QUICK_REPEATS if options.quick else REPEATS)
    sizes = sorted(options.size or (QUICK_SIZES if options.quick else SIZES))
    grouped = options.grouped or (QUICK_GROUPED if options.quick else GROUPED)
    print(common.environment_line())
    quartiles, errors = measure_sizes(sizes, options.penalty, repeats)
    print(f"\nns per weight, {repeats} samples; slope from {label(options.fit_from)} weights on\n")
    print_sizes(quartiles, sizes, options.fit_from)
    by_groups, errors_by_groups = measure_groups(grouped, options.penalty, repeats)
    if by_groups:
        print(f"\n{label(grouped)} weights by number of groups, / copy, {repeats} samples\n")
        print_groups(by_groups, grouped)
    if options.out:
        measurements = [
            {"varies": varies, **run._asdict(), "seconds": of_run, "errors": of_errors[run]}
            for varies, of_runs, of_errors in (
                ("weights", quartiles, errors),
                ("groups", by_groups, errors_by_groups),
            )
            for run, of_run in of_runs.items()
        ]
        common.write_json(options.out, measurements)


if __name__ == "__main__":
    main()
