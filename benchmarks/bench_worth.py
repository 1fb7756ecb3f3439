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
import os
import pathlib
import re
import time
from typing import Any, NamedTuple
from unittest import mock

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
    available = set(data.LOADERS) - set(data.missing(folder))
    return EXPERIMENTS[experiment].cases(available, folder)


def tasks(options):
    """What the options ask for."""
    plan = protocol.QUICK if options.quick else protocol.WHOLE
    return [
        Task(name, case.name, contender.name, options.data, case.plan(plan))
        for name, experiment in EXPERIMENTS.items()
        for case in cases(name, options.data)
        if not options.quick or case.name in experiment.QUICK
        for contender in case.contenders
        if options.only.search(f"{name} {case.name} {contender.name}")
    ]


def measure(task):
    """The row of a task."""
    # A seed fixes everything.
    tf.config.experimental.enable_op_determinism()
    start = time.perf_counter()
    [case] = [each for each in cases(task.experiment, task.folder) if each.name == task.case]
    [contender] = [each for each in case.contenders if each.name == task.contender]
    found = protocol.search(contender, case.fit_with(contender, task.plan), task.plan)
    row = {"experiment": task.experiment, "case": task.case, "contender": task.contender}
    return row | {"ours": contender.ours} | found | {"seconds": time.perf_counter() - start}


def measure_all(asked, jobs):
    """The row of each task, in as many processes as `jobs`."""
    spawn = multiprocessing.get_context("spawn")
    # The models are too small for more threads; and with another number sums may differ.
    with mock.patch.dict(os.environ, {"TF_NUM_INTRAOP_THREADS": "1"}):
        with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=spawn) as processes:
            done = [processes.submit(measure, task) for task in asked]
            for each in concurrent.futures.as_completed(done):
                yield each.result()


def key(row):
    return row["experiment"], row["case"], row["contender"]


def is_measured(task, rows):
    """Whether there is a row of this task, and of its plan."""
    wanted = task.plan.seeds, task.plan.steps
    return any(task.key == key(row) and wanted == (len(row["seeds"]), row["steps"]) for row in rows)


def in_order(rows, folder):
    """Rows of the same key once, the last, in the order of the experiments."""
    last = {key(row): row for row in rows}
    order = [
        (name, case.name, contender.name)
        for name in EXPERIMENTS
        for case in EXPERIMENTS[name].cases(set(data.LOADERS), folder)
        for contender in case.contenders
    ]
    return [last[each] for each in order if each in last]


def write_json(path, rows):
    """As the other benchmarks, but a line for each row."""
    lines = ",\n".join(map(json.dumps, rows))
    environment = json.dumps(common.environment())
    text = f'{{"environment": {environment},\n"measurements": [\n{lines}\n]}}\n'
    pathlib.Path(path).write_text(text)


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
    print(*data.missing(options.data).values(), sep="\n")
    rows: list = []
    if options.out and pathlib.Path(options.out).exists():
        rows = json.loads(pathlib.Path(options.out).read_text())["measurements"]
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
    main()
