"""The penalties and budgets of a model, each with what it is on and what it does there."""

import dataclasses
import math
import numbers
import re
from collections.abc import Iterator
from typing import Any, TypeGuard

import numpy as np

from tfreg import backend
from tfreg.inventory import Model
from tfreg.model.attached import every_penalty_on_weights, is_of_a_layer
from tfreg.model.contents import Contents
from tfreg.model.terms import OnWeights
from tfreg.penalties import Joint, Penalty, Sum
from tfreg.penalties.coupled import Coupled
from tfreg.proximal.listing import counts_of_budgets, proximal_penalties
from tfreg.reporting.zeros import are_zero, norms_in, structures


@dataclasses.dataclass(frozen=True)
class ReportedPenalty:
    """A penalty on a weight; that of a `tfreg.Joint` or of a coupling on several.

    Attributes:
        paths: the paths of the weights, as `tfreg.get_penalties` tells them.
        shapes: their shapes.
        penalty: what the penalty is printed as.
        kind: the name of its class; of a penalty that ties weights, that of the one in it.
        of_entries: what the one in the penalty of a coupling is printed as; None for any other.
        where: `"layer"`, the argument of a layer; `"model"`, added by `tfreg.add_penalty`; or
            `"optimizer"`, in a `tfreg.Proximal`.
        strength: its factor, times what its schedule gives now, and times the strength that a
            `TargetSparsity` drives. None if it has no one factor, as a sum has not, or if the step
            that its schedule counts is not known.
        value: its value now, with all of that; None if the step is not known or the model is not
            built. In the loss it is 0 for frozen weights. That of an `"optimizer"` is in no loss;
            `start_step`, `heal` and what is frozen do not count in it.
        share: of the sum of all finite values in the report; 0 for any other value.
        elements: the number of elements of its weights, frozen or not.
        zero_elements: how many of them are exactly 0.
        groups: the number of its groups; None if it has none.
        zero_groups: how many groups are exactly 0.
        small_groups: how many have a norm of at most the report's `tolerance` times the largest of
            this penalty's; those that are 0 included.
        norms: the Euclidean norms of the groups, a float64 vector; of a penalty without groups the
            magnitudes of the elements, of float64 weights in float64 and of others in float32.

    Rows are equal if all but their norms are; none has a hash.
    """

    paths: list[str]
    shapes: list[tuple[int, ...]]
    penalty: str
    kind: str
    of_entries: str | None
    where: str
    strength: float | None
    value: float | None
    share: float
    elements: int
    zero_elements: int
    groups: int | None
    zero_groups: int | None
    small_groups: int | None
    norms: np.ndarray = dataclasses.field(repr=False, compare=False)


@dataclasses.dataclass(frozen=True)
class ReportedWeight:
    """A weight that was made to be trained, frozen or not; `zero_elements` are exactly 0."""

    path: str
    shape: tuple[int, ...]
    zero_elements: int


@dataclasses.dataclass(frozen=True)
class ReportedBudget:
    """What a `tfreg.Budget` of an optimizer bounds.

    Attributes:
        budget: what it is printed as.
        resource: `"multiply_adds"`, `"parameters"`, `"groups"`, `"elements"` or `"pattern"`.
        target: how much is to be left.
        left: how much is left now. Of a pattern that is the most in any of its runs.
        total: how much there was at first.
    """

    budget: str
    resource: str
    target: int
    left: int
    total: int


def reported_penalties(model: Model, tolerance: float) -> list[ReportedPenalty]:
    """A row for each weight, or tied weights, of each penalty of `model`."""
    rows = [_row(where, on, paths, tolerance) for where, on, paths in _all_on_weights(model)]
    total = math.fsum(row.value for row in rows if _is_finite(row.value))
    return [dataclasses.replace(row, share=_share(row.value, total)) for row in rows]


def _all_on_weights(model: Model) -> Iterator[tuple[str, OnWeights, list[str]]]:
    """Where each penalty is, on which weights, and their paths."""
    for entry, found in every_penalty_on_weights(model):
        where = "layer" if is_of_a_layer(entry) else "model"
        known = {id(w): path for w, path in zip(entry.weights or (), entry.paths or ())}
        for on in found:
            yield where, on, [known[id(variable)] for variable in on.variables]
    known = {id(weight.variable): weight.path for weight in Contents(model).weights}
    for on in proximal_penalties(model):
        yield "optimizer", on, [known[id(variable)] for variable in on.variables]


def _row(where: str, on: OnWeights, paths: list[str], tolerance: float) -> ReportedPenalty:
    arrays = [np.asarray(backend.array_of(variable)) for variable in on.variables]
    found = structures(on.penalty, [array.shape for array in arrays], on.layouts)
    groups = zero_groups = small_groups = None
    if found is None or not arrays:
        magnitudes = [np.abs(_at_least_float32(array)).ravel() for array in arrays]
        norms = np.concatenate(magnitudes or [np.zeros(0)])
    else:
        norms = norms_in(found, arrays)
        is_zero = are_zero(found, [array != 0 for array in arrays])
        largest = norms[np.isfinite(norms)].max(initial=0.0)
        groups, zero_groups = len(norms), int(is_zero.sum())
        small_groups = int(np.sum(is_zero | (norms <= tolerance * largest)))
    elements = sum(array.size for array in arrays)
    return ReportedPenalty(
        paths=paths,
        shapes=[array.shape for array in arrays],
        penalty=_shown(on.penalty),
        kind=_kind(on.penalty),
        of_entries=_shown(on.penalty.penalty) if isinstance(on.penalty, Coupled) else None,
        where=where,
        strength=_strength(on),
        value=on.value,
        share=0.0,
        elements=elements,
        zero_elements=elements - sum(int(np.count_nonzero(array)) for array in arrays),
        groups=groups,
        zero_groups=zero_groups,
        small_groups=small_groups,
        norms=norms,
    )


def _at_least_float32(array: np.ndarray) -> np.ndarray:
    return array if array.dtype == np.float64 else array.astype(np.float32, copy=False)


def _kind(penalty: Any) -> str:
    if isinstance(penalty, Joint):
        return _kind(penalty.penalty)
    # A regularizer may be a function.
    return getattr(penalty, "__name__", type(penalty).__name__)


def _strength(on: OnWeights) -> float | None:
    factor = _factor(on.penalty)
    return None if factor is None or on.multiplier is None else factor * on.multiplier


def _factor(penalty: Any) -> float | None:
    """The one number that a penalty's value is proportional to; None if there is none."""
    if isinstance(penalty, Joint):
        return _factor(penalty.penalty)
    if isinstance(penalty, Penalty):
        factor = getattr(penalty, "factor", None)
        return None if factor is None else float(factor)
    factors = [value for name, value in _config(penalty).items() if name in ("l1", "l2")]
    return float(factors[0]) if len(factors) == 1 else None


def _shown(penalty: Any) -> str:
    """What a penalty is printed as, the same in each process."""
    if isinstance(penalty, Sum):
        text = f"Sum(penalties=[{', '.join(map(_shown, penalty.penalties))}])"
    elif isinstance(penalty, (Penalty, Joint)):
        text = repr(penalty)
    elif hasattr(penalty, "get_config"):
        arguments = ", ".join(f"{key}={value!r}" for key, value in _config(penalty).items())
        text = f"{type(penalty).__name__}({arguments})"
    else:
        text = getattr(penalty, "__name__", repr(penalty))
    return _ADDRESS.sub("", text)


_ADDRESS = re.compile(" at 0x[0-9a-fA-F]+")


def _config(penalty: Any) -> dict[str, Any]:
    """The arguments of a regularizer of Keras, with numbers as they were given."""
    try:
        config = penalty.get_config() if hasattr(penalty, "get_config") else {}
    except NotImplementedError:  # Keras's own for a class that defines none
        config = {}
    return {key: _as_given(value) for key, value in config.items()}


def _as_given(value: Any) -> Any:
    if not isinstance(value, numbers.Real):
        return value
    # tf_keras rounds it to float32, of which the shortest decimal is what was given.
    rounded = np.float32(value)
    return float(str(rounded)) if float(rounded) == float(value) else float(value)


def _is_finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _share(value: float | None, total: float) -> float:
    return value / total if _is_finite(value) and total else 0.0


def reported_weights(model: Model) -> list[ReportedWeight]:
    """The weights of `model`."""
    rows = []
    for weight in Contents(model).weights:
        array = backend.array_of(weight.variable)
        zeros = array.size - int(np.count_nonzero(array))
        rows.append(ReportedWeight(weight.path, array.shape, zeros))
    return rows


def reported_budgets(model: Model) -> list[ReportedBudget]:
    """A row for each resource that a budget of the optimizer of `model` bounds."""
    return [
        ReportedBudget(repr(bound.budget), each.resource, each.target, each.left, each.total)
        for bound, counts in counts_of_budgets(model)
        for each in counts
    ]
