"""Budgets bound to the weights that an optimizer trains."""

import logging
import math
from typing import Any, NamedTuple, TypeAlias

from tfreg import backend
from tfreg.inventory import Member, Model, Variable
from tfreg.model.contents import Contents
from tfreg.model.coupled import couplings_in
from tfreg.model.selection import Selection
from tfreg.proximal.bound import Trained, not_trained, trained_of
from tfreg.proximal.magnitude import ByMagnitude
from tfreg.proximal.removal import Owned, Removal
from tfreg.proximal.target import Budget
from tfreg.slices import Slices
from tfreg.structure.coupling import Coupling
from tfreg.structure.couplings import couple, traced, uses_of

_logger = logging.getLogger(__name__)
BoundBudget: TypeAlias = Removal | ByMagnitude


class Request(NamedTuple):
    """A budget and what it is for: couplings, None for all; or a selection of weights."""

    budget: Budget
    of: list[Coupling] | Selection | None


def requested(model: Model, weights: Any, budget: Budget, schedule: Any) -> Request:
    """The request that an entry of the argument `penalties` of `tfreg.Proximal` stands for.

    Raises:
        TypeError, ValueError: for other arguments.
    """
    if schedule is not None:
        raise ValueError(
            "A tfreg.Budget has a schedule of its own: its arguments `begin`, `end` and `heal`. "
            f"Received: schedule={schedule!r} with {budget!r}"
        )
    couplings: Any = couplings_in(weights)
    if not budget.resources:
        if couplings is not None:
            raise TypeError(
                "A tfreg.Budget of `elements` or a `pattern` is for weights, chosen as in "
                f"tfreg.add_penalty. Received: couplings with {budget!r}"
            )
        return Request(budget, Selection.in_model(model, weights))
    are_couplings = couplings is not None and all(isinstance(c, Coupling) for c in couplings)
    if weights is not None and not are_couplings:
        raise TypeError(
            "A tfreg.Budget of `multiply_adds`, `parameters` or `groups` is for couplings: None "
            "for all of the model, or some of tfreg.couple(model). "
            f"Received: weights={weights!r} with {budget!r}"
        )
    return Request(budget, couplings)


def check_requests(requests: list[Request]) -> None:
    """Raises a ValueError for several budgets over couplings, which would not know each other."""
    over_couplings = [request.budget for request in requests if request.budget.resources]
    if len(over_couplings) > 1:
        raise ValueError(
            "tfreg.Proximal takes one tfreg.Budget over couplings: give its targets together, and "
            f"list the couplings of all. Received: {over_couplings}"
        )


def bind_budget(model: Model, request: Request, variables: list[Variable]) -> BoundBudget:
    """The budget on weights of a built `model`, among the `variables` that are trained.

    Raises:
        ValueError: if a weight is frozen or not trained, or the budget cannot be met.
    """
    contents = Contents(model)
    places = {id(variable): place for place, variable in enumerate(variables)}
    if isinstance(request.of, Selection):
        weights = trained_of(contents, request.of, request.budget, are_together=False)
        return ByMagnitude(request.budget, tuple(_trained(contents, w, places) for w in weights))
    couplings = request.of
    if couplings is None:
        couplings = _trained_couplings(model, contents)
    members = [_weights_of(coupling, model, contents) for coupling in couplings]
    distinct = {id(member.variable): member.variable for each in members for _, member in each}
    selection = Selection.of_variables(
        contents, [backend.whole_weight(variable) for variable in distinct.values()]
    )
    weights = trained_of(contents, selection, request.budget, are_together=True)
    numbers = {id(weight.variable): number for number, weight in enumerate(weights)}
    owned = [
        [
            Owned(
                numbers[id(member.variable)],
                Slices(member.slices),
                tuple(axis for number, axis in sorted(coupling.reads) if number == place),
            )
            for place, member in each
        ]
        for coupling, each in zip(couplings, members)
    ]
    times = _times(model, contents, couplings, request.budget)
    others = [each.variable for each in contents.weights if id(each.variable) not in numbers]
    counts = [math.prod(variable.shape) for variable in others]
    multiply_adds = sum(times[id(each)] * count for each, count in zip(others, counts))
    return Removal(
        request.budget,
        [_trained(contents, weight, places) for weight in weights],
        owned,
        [times[id(weight.variable)] for weight in weights],
        (sum(counts), multiply_adds),
    )


def _times(
    model: Model, contents: Contents, couplings: list[Coupling], budget: Budget
) -> dict[int, int]:
    """How often each weight of the model is multiplied for an example, by its id."""
    uses = {id(use.variable): use.times for coupling in couplings for use in coupling.uses}
    paths = {id(weight.variable): weight.path for weight in contents.weights}
    if not uses.keys() >= paths.keys():  # couplings of a part of the model
        trace, _ = traced(model, None)
        in_model = {id(use.variable): use.times for use in uses_of(model, trace)}
        uses |= {key: times for key, times in in_model.items() if times is not None}
    unknown = [path for key, path in paths.items() if uses.get(key) is None]
    if unknown and "multiply_adds" in budget.resources:
        _logger.warning(
            "tfreg.Budget counts no multiply-adds of %s, whose layers are not followed. Tell how "
            "by tfreg.couple(model, rules=...).",
            unknown,
        )
    return {key: uses.get(key) or 0 for key in paths}


def _trained_couplings(model: Model, contents: Contents) -> list[Coupling]:
    """The couplings of the model none of whose weights is frozen."""
    couplings = couple(model)
    if not couplings:
        raise ValueError(
            "A tfreg.Budget of `multiply_adds`, `parameters` or `groups` needs couplings. "
            f"Received: the model {model.name!r}, which has none: print(tfreg.couple(model)) says "
            "why"
        )
    trained = [
        coupling
        for coupling in couplings
        if all(
            id(member.variable) in contents.trainable
            for _, member in _weights_of(coupling, model, contents)
        )
    ]
    if not trained:
        raise ValueError(
            "A tfreg.Budget of `multiply_adds`, `parameters` or `groups` needs couplings whose "
            f"weights are trained. Received: the model {model.name!r}, of whose {len(couplings)} "
            "couplings all have frozen weights. See print(tfreg.couple(model)) for what is fixed"
        )
    return trained


def _weights_of(coupling: Coupling, model: Model, contents: Contents) -> list[tuple[int, Member]]:
    """The members, with their numbers, that are weights and no moving statistics of the model."""
    state = {id(variable) for variable in model.variables} - contents.weights_by_id.keys()
    return [
        (number, member)
        for number, member in enumerate(coupling.members)
        if id(member.variable) not in state
    ]


def _trained(contents: Contents, weight: Any, places: dict[int, int]) -> Trained:
    variable = weight.variable
    if id(variable) not in places:
        raise ValueError(not_trained(weight.path))
    layout = contents.layouts.get(id(variable))
    return Trained(places[id(variable)], tuple(variable.shape), weight.path, layout)


def budget_from(config: Any) -> BoundBudget:
    """The budget whose `get_config` is `config`."""
    budget = backend.deserialize(config.get("budget")) if isinstance(config, dict) else None
    if not isinstance(budget, Budget):
        raise ValueError(
            "The config of a budget of tfreg.Proximal must have a tfreg.Budget as its 'budget'. "
            f"Received: {config!r}"
        )
    return (Removal if budget.resources else ByMagnitude).from_config(config)
