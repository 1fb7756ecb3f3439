"""What the penalties and budgets of an optimizer are on, and what they come to now."""

from collections.abc import Iterator
from typing import Any

from tfreg import backend, steps
from tfreg.inventory import Model, Variable
from tfreg.layout import Layout
from tfreg.model.contents import Contents
from tfreg.model.terms import OnWeights, product, value_at
from tfreg.penalties import GroupLasso
from tfreg.penalties.coupled import Coupled
from tfreg.proximal.bound import check_fits, not_trained, weights_in
from tfreg.proximal.budgets import BoundBudget
from tfreg.proximal.magnitude import ByMagnitude
from tfreg.proximal.target import Count

# A penalty whose groups are the entries of couplings.
_OF_ENTRIES = GroupLasso(0.0)


def proximal_penalties(model: Model) -> Iterator[OnWeights]:
    """The penalties of the optimizer of `model`, now; on no weights before the model is built.

    Nothing if the optimizer is none of `tfreg.Proximal`.
    """
    proximal_steps = backend.proximal_steps_of(getattr(model, "optimizer", None))
    if proximal_steps is None:
        return
    if not proximal_steps.has_weights_in(model):
        yield from (OnWeights(each, [], [], None, None) for each in proximal_steps.penalties)
        return
    variables = _variables(proximal_steps, model)
    step = steps.current(backend.innermost(model.optimizer))
    for number, term in enumerate(proximal_steps.terms):
        multiplier = term.multiplier(step) * proximal_steps.strength_of(number)
        weights = [variables[weight.place] for weight in term.weights]
        layouts = [weight.layout for weight in term.weights]
        value = product(multiplier, value_at(term.penalty, weights, layouts))
        yield OnWeights(term.penalty, weights, layouts, multiplier, value)


def _variables(proximal_steps: Any, model: Model) -> list[Variable]:
    """What the optimizer trains, or will train, in `model`.

    Raises:
        ValueError: if its penalties and budgets are on weights of another model.
    """
    bound_to = [*proximal_steps.terms, *proximal_steps.budgets]
    variables = proximal_steps.variables_in(model)
    check_fits(bound_to, variables, proximal_steps.count)
    there = Contents(model).weights_by_id
    for weight in weights_in(bound_to):
        if id(variables[weight.place]) not in there:
            raise ValueError(not_trained(weight.path))
    return variables


def weights_of_proximal_penalties(
    model: Model,
) -> Iterator[tuple[Any, list[Variable], list[Layout | None]]]:
    """The penalties of the optimizer of `model`, with their weights and the layouts of these.

    A budget over couplings is the penalty of their entries. Nothing before the model is built.
    """
    proximal_steps = backend.proximal_steps_of(getattr(model, "optimizer", None))
    if proximal_steps is None or not proximal_steps.has_weights_in(model):
        return
    variables = _variables(proximal_steps, model)
    for term in proximal_steps.terms:
        layouts = [weight.layout for weight in term.weights]
        yield term.penalty, [variables[weight.place] for weight in term.weights], layouts
    for budget in proximal_steps.budgets:
        weights = [variables[weight.place] for weight in budget.weights]
        if isinstance(budget, ByMagnitude):
            for weight in weights:
                yield budget.budget, [weight], [None]
            continue
        for entries in budget.entries:
            coupled = Coupled(_OF_ENTRIES, [slices for _, slices in entries])
            yield coupled, [weights[number] for number, _ in entries], [None] * len(entries)


def counts_of_budgets(model: Model) -> list[tuple[BoundBudget, list[Count]]]:
    """The budgets of the optimizer of `model`, and of each what there is now of what it bounds."""
    proximal_steps = backend.proximal_steps_of(getattr(model, "optimizer", None))
    if proximal_steps is None or not proximal_steps.has_weights_in(model):
        return []
    variables = _variables(proximal_steps, model)
    return [
        (budget, budget.counts(state, [variables[each.place] for each in budget.weights]))
        for budget, state in zip(proximal_steps.budgets, proximal_steps.states)
    ]
