"""What does each penalty buy?

    python -m benchmarks.bench_worth [--quick] [--only REGEX] [--jobs N] [--resume] [--data DIR]
        [--out FILE]

Trains small models on real data that packages ship: without a penalty, with what users would use
otherwise, and with a penalty of tfreg. Every contender has the same search, that of
`benchmarks/worth/protocol.py`: as many strengths, seeds and steps. For each seed the data are
split anew, and the strength is that which does best on a validation part; the figures are of the
test part, and are compared seed by seed. *better* and *worse* are said where the mean difference
exceeds twice its standard error.

--only picks experiments, cases and contenders; --jobs runs that many at a time, each in a process
of its own. What FILE has of other rows is kept; with --resume its rows are not measured again.
Data that are not on the machine are left out, and named.

How much accuracy is left at which size, with budgets and compact, is measured by bench_sparsity.
"""

import concurrent.futures
import json
import multiprocessing
import pathlib
import re
import time
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from benchmarks import bench_sparsity, common
from benchmarks.worth import (
    data,
    depth,
    features,
    forgetting,
    linear,
    priors,
    protocol,
    quantization,
    tables,
    total_variation,
)

EXPERIMENTS: dict[str, Any] = {
    "tv": total_variation,
    "features": features,
    "linear": linear,
    "forgetting": forgetting,
    "priors": priors,
    "depth": depth,
    "quantization": quantization,
}


class Task(NamedTuple):
    """A contender in a case, which is measured in one process."""

    experiment: str
    case: str
    contender: str
    folder: pathlib.Path
    plan: protocol.Plan

    @property
    def key(self):
        return self.experiment, self.case, self.contender


def cases(experiment, folder):
    """The cases of an experiment whose data are on this machine."""
    return EXPERIMENTS[experiment].cases(data.EVERYTHING - data.missing(folder).keys(), folder)


def plan_of(options):
    return protocol.QUICK if options.quick else protocol.WHOLE


def tasks(options):
    """What the options ask for."""
    plan = plan_of(options)
    return [
        Task(name, case.name, contender.name, options.data, case.plan(plan))
        for name, experiment in EXPERIMENTS.items()
        for case in cases(name, options.data)
        if not options.quick or case.name in experiment.QUICK
        for contender in case.contenders
        if options.only.search(f"{name} {case.name} {contender.name}")
    ]


def find(task):
    """The case and the contender of a task."""
    [case] = [each for each in cases(task.experiment, task.folder) if each.name == task.case]
    [contender] = [each for each in case.contenders if each.name == task.contender]
    return case, contender


def measure(task):
    """The row of a task."""
    # It warns of tracing, and each penalty that `make` builds is traced.
    tf.get_logger().setLevel("ERROR")
    # A seed fixes everything.
    tf.config.experimental.enable_op_determinism()
    start = time.perf_counter()
    case, contender = find(task)
    found = protocol.search(contender, case.fit_with(contender, task.plan), task.plan)
    row = {"experiment": task.experiment, "case": task.case, "contender": task.contender}
    return row | {"ours": contender.ours} | found | {"seconds": time.perf_counter() - start}


def use_one_thread():
    """Hides GPUs and computes each operation by one thread: sums do not depend on their number.

    The models are too small for more, and each process would take all memory of a GPU.
    """
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_intra_op_parallelism_threads(1)


def measure_all(asked, jobs):
    """The row of each task, in as many processes as `jobs`."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, spawn, use_one_thread) as processes:
        done = [processes.submit(measure, task) for task in asked]
        try:
            for each in concurrent.futures.as_completed(done):
                yield each.result()
        finally:  # on an error, too, cancel what has not started
            processes.shutdown(cancel_futures=True)


def key(row):
    return row["experiment"], row["case"], row["contender"]


def is_measured(task, rows):
    """Whether there is a row of this task, of its plan and at its strengths."""
    strengths = find(task)[1].strengths(task.plan)
    return any(
        task.key == key(row)
        and (len(row["seeds"]), row["steps"]) == (task.plan.seeds, task.plan.steps)
        and len(row["strengths"]) == len(strengths)
        and np.allclose(row["strengths"], strengths, rtol=1e-6, atol=0.0)
        for row in rows
    )


def in_order(rows, folder):
    """Rows of the same key once, the last, in the order of the experiments."""
    last = {key(row): row for row in rows}
    order = [
        (name, case.name, contender.name)
        for name in EXPERIMENTS
        for case in EXPERIMENTS[name].cases(data.EVERYTHING, folder)
        for contender in case.contenders
    ]
    return [last[each] for each in order if each in last]


def write_json(path, rows):
    """As the other benchmarks, but a line for each row."""
    lines = ",\n".join(map(json.dumps, rows))
    environment = json.dumps(common.environment())
    text = f'{{"environment": {environment},\n"measurements": [\n{lines}\n]}}\n'
    pathlib.Path(path).write_text(text)


def read_rows(options):
    """The rows of the output file. Exits if they are of another plan."""
    if not options.out or not pathlib.Path(options.out).exists():
        return []
    rows = json.loads(pathlib.Path(options.out).read_text())["measurements"]
    plan = plan_of(options)
    for row in rows:
        if len(row["seeds"]) != plan.seeds or len(row["strengths"]) not in (1, plan.strengths):
            raise SystemExit(
                f"{options.out} has rows of another plan than {plan}: name another file."
            )
    return rows


def print_tables(rows):
    common.print_table(tables.HEADER, list(tables.every(rows)))
    print()
    common.print_table(tables.SUMMARY_HEADER, list(tables.summary(rows)))


def main(arguments=None):
    parser = common.parser(__doc__)
    parser.add_argument(
        "--only", type=re.compile, default=re.compile(""), metavar="REGEX", help="what to measure"
    )
    parser.add_argument("--jobs", type=common.positive, default=1, metavar="N", help="at a time")
    parser.add_argument("--resume", action="store_true", help="keep the rows that FILE has")
    parser.add_argument("--data", type=pathlib.Path, default=bench_sparsity.FOLDER, metavar="DIR")
    options = parser.parse_args(arguments)
    print(common.environment_line())
    for left_out in data.missing(options.data).values():
        print(left_out)
    rows = read_rows(options)
    asked = [task for task in tasks(options) if not (options.resume and is_measured(task, rows))]
    for row in measure_all(asked, options.jobs):
        rows = in_order([*rows, row], options.data)
        means = {name: sum(each) / len(each) for name, each in row["figures"].items()}
        figures = ", ".join(f"{name} {mean:.4f}" for name, mean in means.items())
        print(f"{' / '.join(key(row))}: {figures}, {row['seconds']:.0f} s", flush=True)
        if options.out:  # what is there counts even if the rest is cut short
            write_json(options.out, rows)
    print()
    print_tables(rows)


if __name__ == "__main__":
    use_one_thread()
    main()
