"""What is measured and how: the same search for every contender, and when one is the better."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

# Contenders that have nothing to choose: no penalty, and a network that sees zeros.
NONE, NO_INPUTS = "none", "no inputs"


class Plan(NamedTuple):
    """How much each contender gets, in every experiment."""

    seeds: int
    strengths: int
    steps: int


WHOLE = Plan(seeds=10, strengths=7, steps=400)
QUICK = Plan(seeds=3, strengths=3, steps=60)


class Contender(NamedTuple):
    """One way to train. Its strength, from `least` to `most`, is what the search chooses.

    Where `penalty` is given, it is on the `weights`, or is a list of pairs of weights and penalty,
    and the strength multiplies it: in the loss or, if `proximal`, in proximal steps. If the
    strength is an argument of the penalty instead, `make(strength)` builds it. A `constraint` is a
    function of a weight and the strength, for the `weights` of that name, or all kernels.

    `natural` are the ends of the range that may do best: the least strength is as good as no
    penalty, for instance, or the most is a limit. At another end the range would end too early.
    """

    name: str
    least: float = 0.0
    most: float = 0.0
    penalty: Any = None
    weights: Any = None
    make: Any = None
    multiplied: bool = True
    proximal: bool = False
    constraint: Callable | None = None
    drops_out: bool = False
    stops_early: bool = False
    ours: bool = False
    natural: tuple[str, ...] = ("least",)

    def made(self, strength: float) -> "Contender":
        """With the penalty built for that strength."""
        return self._replace(make=None, penalty=self.make(strength), multiplied=False)

    def terms(self) -> list[tuple[Any, Any]]:
        """Pairs of weights and a penalty."""
        if isinstance(self.penalty, list):
            return self.penalty
        return [] if self.penalty is None else [(self.weights, self.penalty)]

    def strengths(self, plan: Plan) -> list[float]:
        """As many as the plan has, evenly spaced in their logarithms, or the only one."""
        if self.name in (NONE, NO_INPUTS):
            return [0.0]
        return np.geomspace(self.least, self.most, plan.strengths).tolist()


class Outcome(NamedTuple):
    """What one training led to, by criterion.

    `judged` are scores on the validation part: the run with the smallest is chosen, by the first
    number, where that is equal by the next. `figures` are called for the chosen run alone, since
    converting a model takes seconds.
    """

    judged: dict[str, tuple[float, ...]]
    figures: dict[str, Callable[[], dict[str, float]]]


Fit = Callable[[float, int], Outcome]


class Case(NamedTuple):
    """Contenders on the same data; `fit_with(contender, plan)` makes the function to search with.

    All of them take `times` the steps of the plan.
    """

    name: str
    contenders: list[Contender]
    fit_with: Callable[[Contender, Plan], Fit]
    times: int = 1

    def plan(self, plan: Plan) -> Plan:
        return plan._replace(steps=self.times * plan.steps)


def search(contender: Contender, fit: Fit, plan: Plan) -> dict:
    """For each seed, the figures at the strengths that did best on the validation part."""
    chosen: dict[str, list[float]] = {}
    figures: dict[str, list[float]] = {}
    for seed in range(plan.seeds):
        tried = [(strength, fit(strength, seed)) for strength in contender.strengths(plan)]
        for criterion in tried[0][1].judged:
            strength, best = min(tried, key=lambda each: _judged(each[1], criterion))
            chosen.setdefault(criterion, []).append(strength)
            for name, value in best.figures[criterion]().items():
                figures.setdefault(name, []).append(value)
    return {
        "strengths": contender.strengths(plan),
        "seeds": list(range(plan.seeds)),
        "steps": plan.steps,
        "chosen": chosen,
        "figures": figures,
    }


def _judged(outcome: Outcome, criterion: str) -> list[float]:
    """A diverged run is never the best."""
    return np.nan_to_num(outcome.judged[criterion], nan=np.inf, posinf=np.inf).tolist()


def difference(values: Iterable[float], others: Iterable[float]) -> tuple[float, float]:
    """The mean of the differences, seed by seed, and its standard error."""
    paired = np.subtract(list(values), list(others))
    return float(paired.mean()), float(paired.std(ddof=1) / np.sqrt(len(paired)))


VERDICTS = ["better", "no difference", "worse"]


def verdict(values: Iterable[float], others: Iterable[float]) -> str:
    """Whether `values`, of which less is better, beat the others, or cannot be told from them."""
    mean, error = difference(values, others)
    if not np.isfinite(mean):
        raise ValueError(f"A figure that is not finite cannot be compared: {values}, {others}.")
    if abs(mean) <= 2.0 * error or mean == 0.0:
        return "no difference"
    return "better" if mean < 0.0 else "worse"


# Of these more is better; of all other figures less is.
MORE_IS_BETTER = {"F1", "average precision"}
# No contender is better by one of them alone: who keeps everything has a recall of 1, and who errs
# much has little to lose.
NOT_COMPARED = {"precision", "recall", "lost per tensor", "lost per channel"}


class Comparison(NamedTuple):
    """One figure of all contenders of a case: the values of each, by seed."""

    experiment: str
    case: str
    figure: str
    values: dict[str, list[float]]
    ours: list[str]

    @property
    def decides(self) -> bool:
        """Whether a contender can be better by this figure."""
        return self.figure not in NOT_COMPARED

    @property
    def sign(self) -> float:
        """1 where less is better, otherwise -1."""
        return -1.0 if self.figure in MORE_IS_BETTER else 1.0

    def best_other(self) -> str:
        """The contender with the best mean, of those that are not tfreg's."""
        others = [name for name in self.values if name not in self.ours]
        return min(others, key=lambda name: self.sign * float(np.mean(self.values[name])))

    def against(self, contender: str, other: str) -> tuple[str, float, float]:
        """The verdict on `contender`, the mean difference to `other`, and its standard error."""
        values, others = self.values[contender], self.values[other]
        said = verdict(np.multiply(self.sign, values), np.multiply(self.sign, others))
        return said, *difference(values, others)


def mean_and_spread(values: Iterable[float]) -> tuple[float, float]:
    """The mean and the standard deviation over the seeds."""
    array = np.array(list(values))
    return float(array.mean()), float(array.std(ddof=1))


def comparisons(rows: list[dict]) -> list[Comparison]:
    """One for each figure of each case that has contenders of tfreg and others."""
    by_case: dict = {}
    for row in rows:
        by_case.setdefault((row["experiment"], row["case"]), []).append(row)
    result = []
    for (experiment, case), taken in by_case.items():
        ours = [row["contender"] for row in taken if row["ours"]]
        if not ours or len(ours) == len(taken):
            continue
        if any(
            (row["seeds"], row["steps"]) != (taken[0]["seeds"], taken[0]["steps"]) for row in taken
        ):
            raise ValueError(f"The rows of {experiment} / {case} differ in their seeds or steps.")
        for figure in taken[0]["figures"]:
            values = {
                row["contender"]: row["figures"][figure]
                for row in taken
                if figure in row["figures"]
            }
            result.append(Comparison(experiment, case, figure, values, ours))
    return result
