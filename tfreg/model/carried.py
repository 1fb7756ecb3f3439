"""The penalties of a model for another one, whose weights are parts of its weights."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from tfreg import backend
from tfreg.inventory import Model, Variable, Weight
from tfreg.model import penalized
from tfreg.model.contents import Contents
from tfreg.model.selection import Selection
from tfreg.model.terms import Term
from tfreg.penalties import Joint, Penalty
from tfreg.penalties.base import Cut

# For each weight, by its id, the indices kept along each of its axes; None for all of them.
Cuts: TypeAlias = Mapping[int, tuple[np.ndarray | None, ...]]


def carried_terms(
    model: Model, new_model: Model, old_to_new: Mapping[int, Variable], cuts: Cuts
) -> list[Term]:
    """The terms of `model`, not of models nested in it, for `new_model`.

    Args:
        model: a penalized model, or one without terms.
        new_model: a model with parts of its weights, built.
        old_to_new: the weights of `new_model` by the ids of those of `model`.
        cuts: what is left of the weights of `model`; those that are not there are whole.

    Returns:
        A list of terms. A term whose weights or entries are all gone is left out; a penalty that
        differs from weight to weight becomes several terms.

    Raises:
        ValueError: if a penalty does not hold for what is left of a weight.
    """
    old, new = Contents(model), Contents(new_model)
    carried = []
    for term in penalized.terms_of(model):
        weights = term.selection.select(old)
        variables = [old_to_new.get(id(weight.variable)) for weight in weights]
        parts = [
            _cut(weight, cuts, old, new, variable)
            for weight, variable in zip(weights, variables)
            if variable is not None
        ]
        there = [variable for variable in variables if variable is not None]
        for penalty, selected in _on_parts(term, there, parts, len(weights)):
            carried.append(
                Term(
                    penalty,
                    Selection.of_variables(new, selected),
                    term.schedule,
                    # The smaller model counts the steps of its own optimizer.
                    None if term.step is getattr(model, "optimizer", None) else term.step,
                )
            )
    return carried


def carry_penalties(
    model: Model,
    followed: Model,
    new_model: Model,
    old_to_new: Mapping[int, Variable],
    cuts: Cuts,
) -> None:
    """Adds the terms of `model`, and of models nested in it, to `new_model`: see `carried_terms`.

    `followed` has the structure of `new_model`: it is `model`, or a functional model of the layers
    of a subclassed one, which gets the terms of models that it does not hold itself. What
    `new_model` and its nested models have is removed first.
    """
    pairs = zip(Contents(followed).layers, Contents(new_model).layers, strict=True)
    twins = {id(old): new for (_, _, old), (_, _, new) in pairs}
    carried = []
    for _, _, old in Contents(model).layers:
        if penalized.terms_of(old):
            holder = twins.get(id(old), new_model)
            carried.append((holder, carried_terms(old, holder, old_to_new, cuts)))
    for _, _, layer in Contents(new_model).layers:
        if penalized.is_penalized(layer):
            penalized.detach(layer)
    for holder, terms in carried:
        if terms:
            penalized.attach(holder, terms)
    backend.renew_compiled_functions(new_model)


def _cut(weight: Weight, cuts: Cuts, old: Contents, new: Contents, variable: Variable) -> Cut:
    shape = tuple(weight.variable.shape)
    return Cut(
        shape,
        cuts.get(id(weight.variable), (None,) * len(shape)),
        repr(weight.path),
        old.layouts.get(id(weight.variable)),
        new.layouts.get(id(variable)),
    )


def _on_parts(
    term: Term, variables: Sequence[Variable], parts: Sequence[Cut], count: int
) -> list[tuple[Penalty | Joint, list[Variable]]]:
    """The penalties of a term for what is left, each with the weights that it is on."""
    if not variables:
        return []
    if isinstance(term.penalty, Joint):
        if len(variables) < count:
            raise parts[0].not_carried(term.penalty, "another of its weights is gone")
        joint = term.penalty.on_parts(parts)
        return [] if joint is None else [(joint, list(variables))]
    found: list[tuple[Penalty | Joint, list[Variable]]] = []
    for variable, part in zip(variables, parts):
        penalty = term.penalty.on_part(part)
        config = penalty.get_config()
        alike = [
            selected
            for known, selected in found
            if known is penalty or known.get_config() == config
        ]
        if alike:
            alike[0].append(variable)
        else:
            found.append((penalty, [variable]))
    return found
