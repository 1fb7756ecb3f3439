"""A term of a model's losses: a penalty on some of its weights, and its schedule."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf

from tfreg import backend, schedules, steps
from tfreg.checks import check_config
from tfreg.compute.numerics import with_common_dtype
from tfreg.inventory import Model, Variable
from tfreg.layout import Layout
from tfreg.model.contents import Contents
from tfreg.model.selection import Selection, check_no_lora
from tfreg.penalties import Joint, Penalty
from tfreg.penalties.base import StepSize, check_step_size
from tfreg.penalties.coupled import Coupled

Schedule: TypeAlias = Callable[[tf.Tensor], float | tf.Tensor]
Step: TypeAlias = backend.Optimizer | Variable | Callable[[], Variable | tf.Tensor]
# In a config: a step was given, which no file can keep.
_LOST = "lost"


class _LostStep:
    """Stands for a step that was given and could not be saved."""


class Term(NamedTuple):
    """A penalty on some of a model's weights.

    `step` is what the schedule counts, None for the steps of the model's optimizer. `standstill`
    watches an optimizer, given or the model's.
    """

    penalty: Penalty | Joint
    selection: Selection
    schedule: Schedule | None
    step: Step | None = None
    standstill: steps.StandstillCheck | None = None


class OnWeights(NamedTuple):
    """A penalty on a weight, or on several that it ties.

    `multiplier` is what its schedule gives the strength now, and `value` its value with that. Both
    are None if the step that the schedule counts is not known.
    """

    penalty: Any
    variables: list[Variable]
    layouts: list[Layout | None]
    multiplier: float | None
    value: float | None


def check_fit(contents: Contents, term: Term) -> None:
    """Raises a ValueError if the penalty cannot apply to the selected weights."""
    variables = _selected(contents, term)
    if isinstance(term.penalty, Coupled):
        shapes = [tuple(variable.shape) for variable in variables]
        term.penalty.check_weights(shapes, [backend.weight_name(each) for each in variables])
    elif isinstance(term.penalty, Joint):
        _value(contents, term, variables)
    else:  # the value would compile its kernels
        for variable in variables:
            term.penalty.checked(variable, contents.layouts.get(id(variable)))


def losses_of(model: Model, terms: list[Term]) -> list[tf.Tensor]:
    """What the `terms` add to the losses; nothing for those without weights to train."""
    if not model.built:
        return []
    contents = Contents(model)
    losses = [_loss(contents, term) for term in terms]
    return [loss for loss in losses if loss is not None]


def _loss(contents: Contents, term: Term) -> tf.Tensor | None:
    variables = _selected(contents, term)
    to_train = [variable for variable in variables if id(variable) in contents.trainable]
    if not to_train:
        return None
    if not isinstance(term.penalty, Joint):
        variables = to_train
    value = _value(contents, term, variables)
    if term.schedule is None:
        return value
    step = _step(contents.model, term)
    if term.standstill is not None:
        steps.count(step, lambda: _has_moved(contents, term, variables, value))
        watched = term.standstill.watch(value, step, term.schedule)
    else:
        watched = value
    return schedules.multiplier(term.schedule, step, value.dtype) * watched


def _has_moved(contents: Contents, term: Term, variables: list[Variable], value: tf.Tensor) -> bool:
    """Whether the weights have changed since the term had this `value`."""
    if not tf.executing_eagerly():
        return True  # What trains them is part of the graph.
    return bool(_value(contents, term, variables) != value)


def value_of(holder: Model, term: Term) -> tf.Tensor:
    """What the `term` of the model `holder` adds to the losses now, as a scalar tensor."""
    loss = _loss(Contents(holder), term)
    return tf.zeros([]) if loss is None else loss


def prox_of(holder: Model, term: Term, step_size: StepSize) -> list[tf.Tensor]:
    """The proximal operator of the `term` at its weights; frozen ones stay as they are."""
    contents = Contents(holder)
    variables = _selected(contents, term)
    layouts = _layouts(contents, variables)
    is_frozen = [id(variable) not in contents.trainable for variable in variables]
    if all(is_frozen):
        return [tf.convert_to_tensor(variable) for variable in variables]
    step_size = check_step_size(step_size, tf.as_dtype(variables[0].dtype))
    if term.schedule is not None:
        dtype = tf.float64 if isinstance(step_size, float) else step_size.dtype
        step_size *= schedules.multiplier(term.schedule, _step(holder, term), dtype)
    if not isinstance(term.penalty, Joint):
        return [
            (
                tf.convert_to_tensor(variable)
                if frozen
                else term.penalty.prox_on(variable, layout, step_size)
            )
            for variable, layout, frozen in zip(variables, layouts, is_frozen)
        ]
    if any(is_frozen):
        raise NotImplementedError(
            "The proximal operator of a tfreg.Joint or a coupling some of whose weights are frozen "
            f"has no closed form. Freeze all of them or none. Received: {term.penalty!r} in the "
            f"model {holder.name!r}"
        )
    return term.penalty.prox_on(variables, layouts, step_size)


def on_weights(contents: Contents, term: Term) -> Iterator[OnWeights]:
    """The penalty of a `term` on each of its weights, or on those that it ties together."""
    multiplier = _multiplier_now(contents.model, term)
    for tied, layouts in tied_weights(contents, term):
        value: float | None = 0.0
        if any(id(variable) in contents.trainable for variable in tied):
            value = product(multiplier, value_at(term.penalty, tied, layouts))
        yield OnWeights(term.penalty, tied, layouts, multiplier, value)


def tied_weights(
    contents: Contents, term: Term
) -> Iterator[tuple[list[Variable], list[Layout | None]]]:
    """Each weight of a `term`, or all that its penalty ties together, and their layouts."""
    variables = _selected(contents, term)
    together = [variables] if isinstance(term.penalty, Joint) else [[each] for each in variables]
    return ((tied, _layouts(contents, tied)) for tied in together)


def value_at(
    penalty: Any, variables: Sequence[Variable], layouts: Sequence[Layout | None]
) -> tf.Tensor:
    """The value of a penalty at the weight that it is on, or of a `Joint` at several."""
    if isinstance(penalty, Joint):
        return penalty.value_on(variables, layouts)
    return penalty.value_on(variables[0], layouts[0])


def product(multiplier: float | None, value: tf.Tensor) -> float | None:
    return None if multiplier is None else multiplier * float(value)


def _multiplier_now(holder: Model, term: Term) -> float | None:
    if term.schedule is None:
        return 1.0
    try:
        step = _step(holder, term)
    except steps.UnknownStepError:
        return None
    return float(schedules.multiplier(term.schedule, step, tf.float64))


def _step(holder: Model, term: Term) -> Step:
    """What the schedule of a `term` of the model `holder` counts."""
    if isinstance(term.step, _LostStep):
        raise steps.UnknownStepError(
            f"The schedule of a penalty over the model {holder.name!r} counts a step that was "
            "given as `step` of tfreg.add_penalty, which no file or copy of the model keeps. "
            "Remove the penalties with tfreg.remove_penalties and add them anew with the step."
        )
    return steps.optimizer_of(holder) if term.step is None else term.step


def _selected(contents: Contents, term: Term) -> list[Variable]:
    weights = term.selection.select(contents)
    check_no_lora(weights)
    return [weight.variable for weight in weights]


def _layouts(contents: Contents, variables: list[Variable]) -> list[Layout | None]:
    return [contents.layouts.get(id(variable)) for variable in variables]


def _value(contents: Contents, term: Term, variables: list[Variable]) -> tf.Tensor:
    penalty: Any = term.penalty
    layouts = _layouts(contents, variables)
    if isinstance(penalty, Joint):
        return penalty.value_on(variables, layouts)
    return sum_of(penalty.values_on(variables, layouts))


def sum_of(scalars: list[tf.Tensor]) -> tf.Tensor:
    """The sum of tensors of one or several dtypes."""
    alike = len({scalar.dtype for scalar in scalars}) == 1
    return tf.add_n(scalars if alike else with_common_dtype(scalars))


def term_config(contents: Contents, term: Term) -> dict[str, Any]:
    config = {
        "penalty": backend.serialize(term.penalty),
        "weights": term.selection.get_config(contents),
        "schedule": None if term.schedule is None else backend.serialize(term.schedule),
    }
    return config if term.step is None else {**config, "step": _LOST}


def term_of(config: Any) -> Term:
    check_config(
        "a penalty over a model", config, ("penalty", "weights", "schedule"), optional=("step",)
    )
    schedule = config["schedule"]
    penalty = backend.deserialize(config["penalty"])
    if not isinstance(penalty, (Penalty, Joint)):
        raise ValueError(
            "The config of a penalty over a model must have a penalty or a tfreg.Joint as its "
            f"'penalty'. Received: {penalty!r} in {config!r}"
        )
    if "step" in config and (config["step"] != _LOST or schedule is None):
        raise ValueError(
            f"The config of a penalty over a model may have {_LOST!r} as its 'step', with a "
            f"schedule. Received: {config!r}"
        )
    return Term(
        penalty,
        Selection.from_config(config["weights"]),
        None if schedule is None else schedules.check_kind(backend.deserialize(schedule)),
        _LostStep() if "step" in config else None,
    )


def unscheduled(contents: Contents, term: Term) -> tuple[tf.Tensor, Schedule | None, Step | None]:
    """What `value_of` gives without the schedule, that schedule, and what it counts.

    Without weights to train no schedule counts anything.
    """
    value = _loss(contents, term._replace(schedule=None))
    if value is None:
        return tf.zeros([]), None, None
    return value, term.schedule, None if term.schedule is None else _step(contents.model, term)
