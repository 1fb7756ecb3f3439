"""What a model costs now, and what it would cost without what is dead in it."""

import dataclasses
import math

import numpy as np

from tfreg import backend
from tfreg.inventory import Model
from tfreg.model.contents import Contents
from tfreg.structure.compact import what_is_left
from tfreg.structure.coupling import Coupling, Couplings
from tfreg.structure.couplings import couplings_of, traced, uses_of
from tfreg.structure.rules import Rules, rule_finder
from tfreg.structure.tracing import Trace


@dataclasses.dataclass(frozen=True)
class ReportedCoupling:
    """A coupling of `tfreg.couple`.

    Attributes:
        paths: the paths of the weights in which its entries have slices.
        size: the number of entries.
        left: how many entries `tfreg.compact` leaves.
        norms: the Euclidean norm of each entry, a float64 vector.
    """

    paths: list[str]
    size: int
    left: int
    norms: np.ndarray = dataclasses.field(repr=False, compare=False)


@dataclasses.dataclass(frozen=True)
class Unfollowed:
    """Weights of which entries must stay, and the `reason`."""

    reason: str
    paths: list[str]


@dataclasses.dataclass(frozen=True)
class Totals:
    """The couplings of a model, and its counts now and after `tfreg.compact`.

    What is not known is None.
    """

    parameters: int
    parameters_after: int | None
    multiply_adds: int | None
    multiply_adds_after: int | None
    couplings: list[ReportedCoupling]
    unfollowed: list[Unfollowed]
    not_counted: list[str]


def totals(model: Model, rules: Rules | None) -> Totals:
    """The totals of `model`.

    Raises:
        TypeError, ValueError: for other `rules`.
    """
    rule_finder(rules)
    parameters = count_parameters(model)
    paths = [weight.path for weight in Contents(model).weights]
    try:
        trace, followed = traced(model, rules)
        couplings = couplings_of(model, trace)
        left = what_is_left(model, followed, trace, rules)
    except (TypeError, ValueError, NotImplementedError) as error:
        unfollowed = [Unfollowed(str(error), paths)]
        return Totals(parameters, None, None, None, [], unfollowed, paths)
    uses = uses_of(model, trace)
    return Totals(
        parameters,
        parameters if left.model is model else count_parameters(left.model),
        _multiply_adds(trace),
        _multiply_adds(left.trace),
        [_reported(coupling, left.kept) for coupling in couplings],
        _unfollowed(couplings),
        [path for path, use in zip(paths, uses) if use.times is None],
    )


def count_parameters(model: Model) -> int:
    """As `model.count_params()`, moving statistics included; 0 before the model is built."""
    contents = Contents(model)
    # Keras does not tell the weights of a model of which a part is not built.
    made = [weight.variable for weight in contents.weights]
    weights = model.weights if model.built and contents.is_built else made
    return sum(math.prod(weight.shape) for weight in backend.distinct(weights))


def multiply_adds(model: Model, rules: Rules | None = None) -> int:
    """The multiplications with weights for one example, as `Coupling.cost` counts them."""
    return _multiply_adds(traced(model, rules)[0])


def _multiply_adds(trace: Trace) -> int:
    uses = [use for step in trace.steps for use in step.uses]
    return int(sum(times * math.prod(variable.shape) for variable, times in uses))


def _reported(
    coupling: Coupling, kept: dict[int, tuple[np.ndarray | None, ...]]
) -> ReportedCoupling:
    is_left = np.zeros(coupling.size, bool)
    for member in coupling.members:
        along = kept[id(member.variable)]
        for axis, indices in member.slices:
            stays = along[axis]
            is_left |= True if stays is None else np.isin(indices, stays).any(axis=1)
    return ReportedCoupling(coupling.paths, coupling.size, int(is_left.sum()), coupling.norms())


def _unfollowed(couplings: Couplings) -> list[Unfollowed]:
    reasons: dict[str, dict[str, None]] = {}
    for fixed in couplings.fixed:
        reasons.setdefault(fixed.reason, {})[fixed.path] = None
    return [Unfollowed(reason, list(paths)) for reason, paths in reasons.items()]
