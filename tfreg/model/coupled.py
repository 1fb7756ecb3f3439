"""Penalties over couplings: a term for each."""

from collections.abc import Iterable, Iterator
from typing import Any

from tfreg import backend
from tfreg.inventory import HasMembers, Member, Model
from tfreg.model.contents import Contents
from tfreg.model.selection import Selection
from tfreg.model.terms import Schedule, Step, Term
from tfreg.penalties import Joint, Penalty
from tfreg.penalties.coupled import Coupled
from tfreg.slices import Slices


def couplings_in(weights: Any) -> list[HasMembers] | None:
    """The couplings that the argument `weights` of `tfreg.add_penalty` consists of, else None.

    Raises:
        TypeError: if it lists something else too.
        ValueError: if there is no coupling in what `tfreg.couple` returns.
    """
    if _is_coupling(weights):
        return [weights]
    is_list = isinstance(weights, (list, tuple, Iterator))
    # What tfreg.couple returns; a tensor or a layer may raise where it is iterated.
    is_of_couplings = hasattr(weights, "weighted") and isinstance(weights, Iterable)
    if not is_list and not is_of_couplings:
        return None
    entries: list[Any] = list(weights)
    couplings = list(filter(_is_coupling, entries))
    if is_list and not couplings:
        return None
    if not couplings:
        raise ValueError(
            "Argument `weights` must have a coupling. Received: couplings of which the model has "
            "none: see what they are printed as"
        )
    if len(couplings) < len(entries):
        other = next(entry for entry in entries if not _is_coupling(entry))
        raise TypeError(
            "A list as argument `weights` must consist of couplings alone, or of no couplings. "
            f"Received: {other!r} in a list with {len(couplings)} couplings"
        )
    return couplings


def _is_coupling(value: Any) -> bool:
    is_something_else = isinstance(value, (str, type)) or backend.is_layer(value)
    return not is_something_else and isinstance(value, HasMembers)


def terms_of_couplings(
    model: Model,
    penalty: Penalty | Joint,
    couplings: list[HasMembers],
    schedule: Schedule | None,
    step: Step | None,
) -> list[Term]:
    """A term for each of the `couplings` of `model`.

    Raises:
        TypeError, ValueError: if `penalty` does not go with couplings, or the model lacks a weight.
    """
    if isinstance(penalty, Joint):
        raise TypeError(
            "Argument `penalty` must be a GroupLasso, SparseGroupLasso, GroupMCP or a Sum of those "
            "where `weights` are couplings, each of which ties its weights by itself. "
            f"Received: penalty={penalty!r}"
        )
    contents = Contents(model)
    # What layers keep beside their weights, such as moving means, is trained by no penalty.
    state = {id(variable) for variable in model.variables} - contents.weights_by_id.keys()
    terms = []
    for coupling in couplings:
        members = [member for member in coupling.members if id(member.variable) not in state]
        if not members:
            raise ValueError(
                "Argument `weights` must have couplings of weights. Received: a coupling of "
                f"{[member.path for member in coupling.members]}, none of which is trained"
            )
        selection = Selection.of_variables(
            contents, [backend.whole_weight(member.variable) for member in members]
        )
        coupled = Coupled(penalty, list(map(_slices_of, members)), coupling.group_weight)
        terms.append(Term(coupled, selection, schedule, step))
    return terms


def _slices_of(member: Member) -> Slices:
    rank = len(member.variable.shape)
    return Slices([(axis % rank, indices) for axis, indices in member.slices])
