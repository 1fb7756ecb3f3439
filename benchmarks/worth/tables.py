"""The measurements as tables: every figure of every case, and how often which was the better."""

from collections.abc import Iterator

import numpy as np

from benchmarks.worth import protocol

USUAL = [protocol.NONE, "early stopping", "L2", "L1", "dropout"]
HEADER = ["experiment", "case", "figure", *USUAL, "others", "penalties, against the best other"]
SUMMARY_HEADER = [
    "problem",
    "penalty",
    "figure",
    "to none",
    "to L2",
    "to the best other",
    "where it gained most, or lost least",
]
# The figures that a summary has, where it does not have all.
SUMMARIZED = {
    "features": ["test error", "F1", "average precision"],
    "forgetting": ["mean error", "mean error, chosen by the new task"],
    "quantization": ["int8 error per tensor", "int8 error per channel"],
}
# How the docs name an experiment.
PROBLEMS = {
    "tv": "few examples, weights along time or pixels",
    "features": "which features matter",
    "linear": "which coefficients are not 0",
    "forgetting": "a second task",
    "priors": "small tables",
    "depth": "a stack of equal blocks",
    "quantization": "int8",
}


def _number(value: float) -> str:
    return f"{value:.3f}"


def every(rows: list[dict]) -> Iterator[list[str]]:
    """A line for each figure of each case, with what every contender reached."""
    for compared in protocol.comparisons(rows):
        reached = {name: _with_spread(values) for name, values in compared.values.items()}
        usual = [reached.pop(name, "-") for name in USUAL]
        penalties = [f"{name} {reached.pop(name)}{_told(compared, name)}" for name in compared.ours]
        others = "; ".join(f"{name} {value}" for name, value in reached.items()) or "-"
        yield [
            compared.experiment,
            compared.case,
            compared.figure,
            *usual,
            others,
            "; ".join(penalties),
        ]


def _with_spread(values):
    return " ± ".join(map(_number, protocol.mean_and_spread(values)))


def _told(compared, contender):
    if not compared.decides:
        return ""
    other = compared.best_other()
    said, mean, error = compared.against(contender, other)
    return f", {said} ({mean:+.3f} ± {_number(error)} to {other})"


def summary(rows: list[dict]) -> Iterator[list[str]]:
    """A line for each penalty and figure: in how many cases it was better, no different, worse."""
    by_penalty: dict = {}
    for compared in protocol.comparisons(rows):
        if not compared.decides:
            continue
        figures = SUMMARIZED.get(compared.experiment, [compared.figure])
        for contender in compared.ours if compared.figure in figures else ():
            key = compared.experiment, contender, compared.figure
            by_penalty.setdefault(key, []).append(compared)
    for (experiment, contender, figure), cases in by_penalty.items():
        counts = [_counts(cases, contender, other) for other in (protocol.NONE, "L2", None)]
        yield [PROBLEMS[experiment], contender, figure, *counts, _best_case(cases, contender)]


def _counts(cases, contender, other):
    """Better / no difference / worse, than `other` or the best in each case."""
    held = [(each, other or each.best_other()) for each in cases]
    said = [each.against(contender, name)[0] for each, name in held if name in each.values]
    return " / ".join(str(said.count(verdict)) for verdict in protocol.VERDICTS)


def _best_case(cases, contender):
    """Where the difference to the best other was the best, and both means."""
    gains = [-each.sign * each.against(contender, each.best_other())[1] for each in cases]
    most = cases[int(np.argmax(gains))]
    other = most.best_other()
    own, its = (_number(float(np.mean(most.values[name]))) for name in (contender, other))
    return f"{most.case}: {own}, {other} {its}"
