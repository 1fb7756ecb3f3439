"""What a model costs now, and what it would cost without what is dead in it."""

import contextlib
import dataclasses
import math

import numpy as np

from tfreg import backend
from tfreg.inventory import Model
from tfreg.model.contents import Contents
from tfreg.structure.compact import Left, what_is_left
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
        left: how many entries `tfreg.compact` leaves; None if that is not known.
        norms: the Euclidean norm of each entry, a float64 vector.
    """

    paths: list[str]
    size: int
    left: int | None
    norms: np.ndarray = dataclasses.field(repr=False, compare=False)


@dataclasses.dataclass(frozen=True)
class Unfollowed:
    """Weights of which entries must stay, and the `reason`."""

    reason: str
    paths: list[str]


@dataclasses.dataclass(frozen=True)
class Totals:
    """The couplings of a model, and its counts now and after `tfreg.compact`.

    What is not known is None, or not listed; `not_followed` or `not_cut` says why.
    """

    parameters: int
    not_counted: list[str]
    parameters_after: int | None = None
    multiply_adds: int | None = None
    multiply_adds_after: int | None = None
    couplings: list[ReportedCoupling] = dataclasses.field(default_factory=list)
    unfollowed: list[Unfollowed] = dataclasses.field(default_factory=list)
    unknown_lengths: list[str] = dataclasses.field(default_factory=list)
    not_followed: str | None = None
    not_cut: str | None = None


def totals(model: Model, rules: Rules | None) -> Totals:
    """The totals of `model`.

    Raises:
        TypeError, ValueError: for other `rules`.
    """
    rule_finder(rules)
    contents = Contents(model)
    parameters, paths = count_parameters(model), [weight.path for weight in contents.weights]
    # A trace would build what is not built.
    if not contents.is_built and backend.graph_of(model) is None:
        return Totals(parameters, paths, not_followed=_not_built(contents))
    with backend.as_if_nothing_was_made(), _calls_forgotten(model):
        try:
            trace, followed = traced(model, rules)
            couplings = couplings_of(model, trace)
        except (TypeError, ValueError, NotImplementedError) as error:
            why = str(error) or type(error).__name__
            return Totals(parameters, paths, not_followed=why)
        left, not_cut = _what_is_left(model, followed, trace, rules)
        return Totals(
            parameters,
            _not_counted(contents, trace),
            None if left is None else _parameters_of(left.model, model, parameters),
            _multiply_adds_in(trace),
            None if left is None else _multiply_adds_in(left.trace),
            [_reported(coupling, left) for coupling in couplings],
            _unfollowed(couplings),
            _of_unknown_lengths(contents, trace),
            not_cut=not_cut,
        )


def _not_built(contents: Contents) -> str:
    unbuilt = [layer.name for _, _, layer in contents.layers[1:] if not layer.built]
    what = f"The layers {unbuilt} are" if unbuilt else "The model is"
    return f"{what} not built. Call the model on a batch, or give it an Input."


def _calls_forgotten(model: Model) -> contextlib.AbstractContextManager[None]:
    """A scope around the calls by which a subclassed model is traced."""
    if backend.graph_of(model) is not None or not model.built:
        return contextlib.nullcontext()
    return backend.as_if_never_called(model)


def _what_is_left(
    model: Model, followed: Model, trace: Trace, rules: Rules | None
) -> tuple[Left | None, str | None]:
    """What `tfreg.compact` would leave; or None, and why that is not known."""
    try:
        return what_is_left(model, followed, trace, rules), None
    except Exception as error:  # whatever get_config and from_config of others' classes raise
        return None, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _parameters_of(left: Model, model: Model, parameters: int) -> int:
    return parameters if left is model else count_parameters(left)


def _not_counted(contents: Contents, trace: Trace) -> list[str]:
    """The weights that are multiplied nobody knows how often, those not to be trained included."""
    made = [
        weight.path
        for weight, use in zip(contents.weights, uses_of(contents.model, trace))
        if use.times is None
    ]
    used = {id(variable) for step in trace.steps for variable, _ in step.uses}
    known = used | {id(weight.variable) for weight in contents.weights}
    # Such as the kernels of quantized layers.
    others = {
        id(variable): backend.weight_path(variable, names)
        for _, names, layer in contents.layers
        for variable in backend.all_variables(layer)
        if id(variable) in trace.blocked and id(variable) not in known and len(variable.shape) > 1
    }
    return [*made, *others.values()]


def _of_unknown_lengths(contents: Contents, trace: Trace) -> list[str]:
    """The weights that are multiplied at positions along an axis of unknown length."""
    used = {id(variable) for step in trace.steps for variable, times in step.uses if times}
    found = {
        id(variable)
        for step in trace.steps
        if any(None in value.shape[1:] for value in (*step.inputs, *step.outputs))
        for variable in trace.variables_in(step.operation)
    }
    return [each.path for each in contents.weights if id(each.variable) in used & found]


def count_parameters(model: Model) -> int:
    """As `model.count_params()`, moving statistics included; 0 before the model is built."""
    contents = Contents(model)
    # Keras does not tell the weights of a model of which a part is not built.
    made = [weight.variable for weight in contents.weights]
    weights = model.weights if model.built and contents.is_built else made
    return sum(math.prod(weight.shape) for weight in backend.distinct(weights))


def multiply_adds(model: Model, rules: Rules | None = None) -> int:
    """The multiplications with weights for one example, as `Coupling.cost` counts them."""
    with backend.as_if_nothing_was_made(), _calls_forgotten(model):
        return _multiply_adds_in(traced(model, rules)[0])


def _multiply_adds_in(trace: Trace) -> int:
    uses = [use for step in trace.steps for use in step.uses]
    return int(sum(times * math.prod(variable.shape) for variable, times in uses))


def _reported(coupling: Coupling, left: Left | None) -> ReportedCoupling:
    entries = None if left is None else _entries_left(coupling, left.kept)
    return ReportedCoupling(coupling.paths, coupling.size, entries, coupling.norms())


def _entries_left(coupling: Coupling, kept: dict[int, tuple[np.ndarray | None, ...]]) -> int:
    is_left = np.zeros(coupling.size, bool)
    for member in coupling.members:
        along = kept[id(member.variable)]
        for axis, indices in member.slices:
            stays = along[axis]
            is_left |= True if stays is None else np.isin(indices, stays).any(axis=1)
    return int(is_left.sum())


def _unfollowed(couplings: Couplings) -> list[Unfollowed]:
    reasons: dict[str, dict[str, None]] = {}
    for fixed in couplings.fixed:
        reasons.setdefault(fixed.reason, {})[fixed.path] = None
    return [Unfollowed(reason, list(paths)) for reason, paths in reasons.items()]
