"""The steps that an optimizer of tfreg.Proximal takes after its own."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import tensorflow as tf

from tfreg import backend, steps
from tfreg.inventory import Model, Variable
from tfreg.model.carried import Cuts
from tfreg.model.contents import Contents
from tfreg.model.terms import Term
from tfreg.penalties import Joint, Penalty
from tfreg.proximal import bound
from tfreg.proximal.bound import Bound
from tfreg.proximal.budgets import BoundBudget, Request, bind_budget
from tfreg.proximal.zeros import masked

_logger = logging.getLogger(__name__)


class ProximalSteps:
    """The proximal steps of an optimizer: their penalties and budgets, and the weights once built.

    Neither Keras tracks it: what the steps depend on is in the weights, in
    the config, and in variables that the optimizer keeps.
    """

    def __init__(
        self, start_step: int, freeze_zeros_from: int | None, metric: str = "euclidean"
    ) -> None:
        self.start_step = start_step
        self.freeze_zeros_from = freeze_zeros_from
        self.metric = metric
        # After compact dropped the budgets: the step from which on the penalties rest.
        self.rests_from: int | None = None
        self.variables: list[Variable] | None = None  # all that the optimizer trains
        self._pending: tuple[Model, list[Term], list[Request]] | None = None
        self._expected: list[tuple[str, int]] | None = None
        self._terms: list[Bound] = []
        self._budgets: list[BoundBudget] = []
        self._states: list[list[Variable]] = []  # the variables of each budget
        self._count = 0
        # For a strength that is driven: which penalties have it; and the variables `strength`, by
        # which their steps are multiplied, and `slack`, which whoever drives it keeps there.
        self.is_driven = False
        self._makes_zeros: list[bool] = []
        self._drive: list[Variable] = []
        # In tf_keras: what follows the optimizer's own step that is being taken.
        self.finish: Callable[[], None] = nothing
        self._is_reached = False

    def over_model(
        self, model: Model, terms: list[Term], requests: list[Request]
    ) -> "ProximalSteps":
        self._pending = model, terms, requests
        if model.built:  # raise now what building the optimizer would raise
            bound.check(model, terms, self.is_diagonal)
            contents = Contents(model)
            self._expected = [
                (weight.path, id(weight.variable))
                for term in terms
                for weight in bound.trained_weights(contents, term)
            ]
            trained = list(model.trainable_variables)
            self._expected += [
                (weight.path, id(trained[weight.place]))
                for weight in bound.weights_in(self._bound_budgets(trained))
            ]
        return self

    def loaded(self, terms: list[Bound], budgets: list[BoundBudget], count: int) -> "ProximalSteps":
        self._terms, self._budgets, self._count = terms, budgets, count
        return self

    @property
    def is_diagonal(self) -> bool:
        return self.metric == "diagonal"

    @property
    def terms(self) -> list[Bound]:
        """The penalties and their weights, now if the optimizer is not built."""
        if self._pending is None:
            return self._terms
        model, terms, _ = self._pending
        self._check_built(model)
        return bound.bind(model, terms, list(model.trainable_variables))

    @property
    def budgets(self) -> list[BoundBudget]:
        """The budgets and their weights, now if the optimizer is not built."""
        if self._pending is None:
            return self._budgets
        self._check_built(self._pending[0])
        return self._bound_budgets(list(self._pending[0].trainable_variables))

    def _bound_budgets(self, variables: list[Variable]) -> list[BoundBudget]:
        assert self._pending is not None  # what is bound is in `_budgets`
        model, _, requests = self._pending
        return [bind_budget(model, request, variables) for request in requests]

    def _check_built(self, model: Model) -> None:
        if not model.built:
            raise ValueError(
                f"The penalties of tfreg.Proximal are on weights of the model {model.name!r}, "
                "which is not built. Build it before the optimizer is built, saved or copied."
            )

    @property
    def count(self) -> int:
        """The number of weights that the optimizer trains."""
        if self._pending is None:
            return self._count
        return len(self._pending[0].trainable_variables)

    def build(self, variables: Sequence[Variable]) -> None:
        """Binds the penalties to the weights that the optimizer trains."""
        variables = list(variables)
        if self._pending is None:
            bound.check_fits([*self._terms, *self._budgets], variables, self._count)
        else:
            model, terms, _ = self._pending
            self._check_built(model)
            if self._expected is None:
                bound.check(model, terms, self.is_diagonal)
            known = {id(variable) for variable in variables}
            for path, key in self._expected or ():
                if key not in known:
                    raise ValueError(bound.not_trained(path))
            self._terms = bound.bind(model, terms, variables)
            self._budgets = self._bound_budgets(variables)
            self._count = len(variables)
            self._pending = None
        self.variables = variables

    def make_state(self, optimizer: Any) -> None:
        """Makes the variables that a built `optimizer` keeps with its own."""
        self._states = [
            [
                backend.add_optimizer_variable(optimizer, shape, f"budget_{i}_{j}")
                for j, shape in enumerate(budget.state())
            ]
            for i, budget in enumerate(self._budgets)
        ]
        if self.is_driven:
            self._make_drive(optimizer)

    def drive(self, optimizer: Any) -> bool:
        """Makes the strength a variable of `optimizer`, which is 0 at first.

        Returns whether it was none before.

        Raises:
            ValueError: if no penalty makes zeros; if the optimizer is not built, once it is.
        """
        if self.is_driven:
            return False
        if self.variables is not None:
            self._make_drive(optimizer)
        self.is_driven = True
        return True

    def _make_drive(self, optimizer: Any) -> None:
        self._makes_zeros = [term.makes_zeros() for term in self._terms]
        if not any(self._makes_zeros):
            raise ValueError(
                "A strength is driven for penalties of tfreg.Proximal that make zeros, such as "
                "GroupLasso, GroupMCP, MCP, SCAD or Prior('Laplace'), with a factor above 0. "
                f"Received: {[term.penalty for term in self._terms]}"
            )
        self._drive = [
            backend.add_optimizer_variable(optimizer, (), name) for name in ("strength", "slack")
        ]

    @property
    def strength(self) -> tf.Variable:
        """Multiplier of the proximal steps of the penalties that make zeros."""
        return backend.native(self._drive[0])

    @property
    def slack(self) -> tf.Variable:
        """A number for whoever drives the strength."""
        return backend.native(self._drive[1])

    def keeps_zeros(self, step: int) -> bool:
        """Whether what is zero stays zero at `step`."""
        return self.freeze_zeros_from is not None and step >= self.freeze_zeros_from

    def longest_step(self, optimizer: Any) -> tf.Tensor:
        """The size of the next proximal step at a strength of 1, the longest of those driven."""
        step = steps.current(optimizer)
        sizes = [self._step_size(optimizer, term, tf.float32, step) for term in self._driven()]
        return tf.reduce_max(tf.stack(sizes))

    def share_of_zeros(
        self, optimizer: Any, of: Literal["groups", "elements"], ahead: Any
    ) -> tf.Tensor:
        """The share of what the driven penalties are on that is exactly 0.

        That is after a proximal step alone that is `ahead` times as long as the next one at a
        strength of 1.
        """
        step = steps.current(optimizer)
        zeros, total = [], 0
        nonzero: dict[int, tf.Tensor] = {}
        for term in self._driven():
            variables = self.variables_of(term)
            size = self._step_size(optimizer, term, variables[0].dtype, step)
            metric = self._metric(optimizer, step - 1, self._slots_of(optimizer, term))
            tensors = list(map(tf.convert_to_tensor, variables))
            shrunk = term.prox(tensors, tf.cast(ahead, size.dtype) * size, metric)
            if of == "groups":
                ours, count = term.zeros(shrunk)
                zeros.append(ours)
                total += count
            else:
                for weight, tensor in zip(term.weights, shrunk):
                    _narrow(nonzero, weight.place, tf.not_equal(tensor, 0))
        for mask in nonzero.values():
            zeros.append(tf.math.count_nonzero(~mask))
            total += mask.shape.num_elements()
        return tf.cast(tf.add_n(zeros), tf.float64) / total

    def _driven(self) -> list[Bound]:
        return [term for term, makes_zeros in zip(self._terms, self._makes_zeros) if makes_zeros]

    def _step_size(
        self, optimizer: Any, term: Bound, dtype: tf.DType, step: tf.Tensor, rate: Any = None
    ) -> tf.Tensor:
        rate = optimizer.learning_rate if rate is None else rate
        momentum = backend.momentum_of(optimizer)
        return term.step_size(dtype, rate, step, self.start_step, self._rests_from, momentum)

    def _metric(self, optimizer: Any, step: tf.Tensor, slots: Any) -> tf.Tensor | None:
        """The diagonal of the metric of the own step of `optimizer` at `step`, once taken."""
        return backend.metric_from(optimizer, step, slots) if self.is_diagonal else None

    def check_trained(self, optimizer: Any, variables: Sequence[Variable]) -> None:
        """Raises a ValueError unless each penalized weight is among the `variables`."""
        keys = {optimizer._var_key(variable) for variable in variables}
        for weight in bound.weights_in([*self._terms, *self._budgets]):
            if optimizer._var_key(self.weight_at(weight.place)) not in keys:
                raise ValueError(bound.not_trained(weight.path))

    @contextlib.contextmanager
    def applying(self, optimizer: Any, gradients: Any) -> Iterator[None]:
        """Within it, `optimizer` applies the `gradients`, and must come to `reached`."""
        self._is_reached = False
        yield
        if not self._is_reached and any(gradient is not None for gradient in gradients):
            raise NotImplementedError(
                "tfreg.Proximal takes no steps after those of a "
                f"{type(optimizer)._tfreg_own_class.__name__}, which does not update the weights "
                "by the methods of Keras's optimizers. If it hands them to another optimizer, wrap "
                "that one in tfreg.Proximal."
            )

    def reached(self) -> None:
        self._is_reached = True

    def weight_at(self, place: int) -> Variable:
        assert self.variables is not None  # the optimizer is built
        return self.variables[place]

    def variables_of(self, term: Bound | BoundBudget) -> list[tf.Variable]:
        return [backend.native(self.weight_at(weight.place)) for weight in term.weights]

    def _slots_of(self, optimizer: Any, term: Bound) -> list[tf.Variable]:
        """What the metric depends on, which the own step of `optimizer` has just changed."""
        if not self.is_diagonal:
            return []
        [weight] = term.weights  # see `bound.check`
        return backend.metric_slots(optimizer, self.weight_at(weight.place))

    def alive(self, step: tf.Tensor) -> dict[int, tf.Tensor]:
        """By place, whether each element may change at `step`; nothing if all may, always."""
        found: dict[int, tf.Tensor] = {}
        if self.freeze_zeros_from is None:
            return found
        is_early = step < tf.cast(self.freeze_zeros_from, step.dtype)
        for term in self._terms:
            tensors = [tf.convert_to_tensor(variable) for variable in self.variables_of(term)]
            for weight, is_alive in zip(term.weights, term.are_alive(tensors)):
                _narrow(found, weight.place, is_alive | is_early)
        return found

    @property
    def is_masking(self) -> bool:
        """Whether gradients must be masked: else `alive` and `within_budgets` have nothing."""
        has_budgets = bool(self._budgets) or bool(self._pending and self._pending[2])
        return self.freeze_zeros_from is not None or has_budgets

    def within_budgets(self, step: tf.Tensor) -> dict[int, tf.Tensor]:
        """By place, what the budgets have not removed, as a mask that broadcasts to the weight."""
        found: dict[int, tf.Tensor] = {}
        for budget, state in zip(self._budgets, self._states):
            native = list(map(backend.native, state))
            for weight, is_alive in zip(
                budget.weights, budget.are_alive(native, self.variables_of(budget), step)
            ):
                _narrow(found, weight.place, is_alive)
        return found

    def masked(self, optimizer: Any, gradients: Any, variables: Any) -> list[Any]:
        """`gradients` of the `variables` with 0 for what is frozen."""
        step = steps.current(optimizer)
        alive = self.alive(step)
        for place, is_alive in self.within_budgets(step).items():
            _narrow(alive, place, is_alive)
        by_key = {optimizer._var_key(self.weight_at(i)): mask for i, mask in alive.items()}
        keys = [optimizer._var_key(variable) for variable in variables]
        return [
            gradient if key not in by_key or gradient is None else masked(gradient, by_key[key])
            for gradient, key in zip(gradients, keys)
        ]

    def following(
        self,
        optimizer: Any,
        strategy: Any,
        gradient_of: Callable[[Variable], Any],
        learning_rate: Any = None,
    ) -> Callable[[], None]:
        """What to call after the own step of `optimizer` that is to be taken now."""
        step = tf.identity(steps.current(optimizer))
        alive = self.alive(step)
        strength = tf.convert_to_tensor(self.strength) if self.is_driven else None
        for budget in self._budgets:
            if not budget.state():  # what it has removed is what is zero before the step
                tensors = self.variables_of(budget)
                for weight, mask in zip(budget.weights, budget.are_alive([], tensors, step)):
                    _narrow(alive, weight.place, mask)
        for budget, variables in self._with_variables():
            gradients = [gradient_of(self.weight_at(weight.place)) for weight in budget.weights]
            observe = functools.partial(_observe, budget)
            backend.update(strategy, observe, variables, step, *gradients)

        def shrink(
            term: Bound, variables: Any, learning_rate: Any, step: tf.Tensor, strength: Any
        ) -> None:
            count = len(term.weights)
            weights, slots = variables[:count], variables[count:]
            size = self._step_size(optimizer, term, weights[0].dtype, step, learning_rate)
            if strength is not None:
                size *= tf.cast(strength, size.dtype)
            term.shrink(weights, size, self._metric(optimizer, step, slots))

        def finish() -> None:
            for i, term in enumerate(self._terms):
                backend.update(
                    strategy,
                    functools.partial(shrink, term),
                    self.variables_of(term) + self._slots_of(optimizer, term),
                    learning_rate,
                    step,
                    strength if self.is_driven and self._makes_zeros[i] else None,
                )
            self.keep_zero(strategy, alive, optimizer)
            for budget, variables in self._with_variables():
                averages = self._averages_of(optimizer, [each.place for each in budget.weights])
                remove = functools.partial(_remove, budget, len(averages))
                backend.update(strategy, remove, averages + variables, step)

        return finish

    @property
    def _rests_from(self) -> int | None:
        """The step from which on the penalties take no steps, so that what is left heals."""
        return max((each.budget.heal_step for each in self._budgets), default=self.rests_from)

    def _with_variables(self) -> Iterator[tuple[BoundBudget, list[tf.Variable]]]:
        """The budgets with their weights, followed by their own variables."""
        for budget, state in zip(self._budgets, self._states):
            yield budget, self.variables_of(budget) + list(map(backend.native, state))

    def keep_zero(self, strategy: Any, alive: dict[int, tf.Tensor], optimizer: Any = None) -> None:
        """Sets what is not `alive` to 0, in the averages that an `optimizer` keeps too."""
        for place, is_alive in alive.items():
            variables = [backend.native(self.weight_at(place))]
            if optimizer is not None:
                variables += self._averages_of(optimizer, [place])
            backend.update(strategy, _keep, variables, is_alive)

    def _averages_of(self, optimizer: Any, places: list[int]) -> list[tf.Variable]:
        """The moving averages of weights; none if the optimizer keeps none."""
        averages = [backend.average_of(optimizer, self.weight_at(place)) for place in places]
        return [backend.native(average) for average in averages if average is not None]

    def nonzero(self) -> dict[int, tf.Tensor]:
        """By place, whether each element of the penalized weights is nonzero."""
        weights = bound.weights_in([*self._terms, *self._budgets])
        places = [weight.place for weight in weights]
        tensors = [tf.convert_to_tensor(backend.native(self.weight_at(i))) for i in places]
        return {i: tf.not_equal(tensor, 0) for i, tensor in zip(places, tensors)}

    def has_weights_in(self, model: Model) -> bool:
        """Whether the weights are known that the penalties are on, those of `model`."""
        return self._pending is None or model.built

    def variables_in(self, model: Model) -> list[Variable]:
        """What the optimizer trains, or will train, in `model`: its terms count places in it."""
        if self.variables is not None:
            return self.variables
        made_for = model if self._pending is None else self._pending[0]
        return list(made_for.trainable_variables)

    def strength_of(self, number: int) -> float:
        """By what the steps of that penalty are multiplied, where a strength is driven."""
        if not self.is_driven:
            return 1.0
        if not self._drive:  # it is 0 at first
            return 0.0 if self.terms[number].makes_zeros() else 1.0
        return float(tf.convert_to_tensor(self.strength)) if self._makes_zeros[number] else 1.0

    @property
    def penalties(self) -> list[Penalty | Joint]:
        """Those of the `terms`, whose weights need not be known."""
        return [term.penalty for term in (self._pending[1] if self._pending else self._terms)]

    @property
    def states(self) -> list[list[Variable]]:
        """The variables of each budget; none before they are made."""
        return self._states or [[] for _ in self.budgets]

    def carried(
        self, model: Model, new_model: Model, twins: Mapping[int, Variable], cuts: Cuts
    ) -> "ProximalSteps | None":
        """The steps on what is left of these weights in `new_model`; None if nothing is.

        Raises:
            ValueError: if a penalty does not hold for what is left.
        """
        optimizer = backend.innermost(new_model.optimizer)
        trained = backend.trained_variables(optimizer, list(new_model.variables))
        new = list(new_model.trainable_variables) if trained is None else trained
        old = self.variables_in(model)
        terms = bound.carried(self.terms, old, new_model, new, twins, cuts)
        self._warn_of_budgets_left_behind(int(steps.current(backend.innermost(model.optimizer))))
        self._warn_of_patterns_moved(old, cuts)
        if not terms:
            return None
        left = ProximalSteps(self.start_step, self.freeze_zeros_from, self.metric)
        left = left.loaded(terms, [], len(new))
        left.is_driven, left.rests_from = self.is_driven, self._rests_from
        if trained is not None:
            left.build(trained)
            left.make_state(optimizer)
            for old_variable, new_variable in zip(self._drive, left._drive):
                new_variable.assign(old_variable)
        return left

    def _warn_of_budgets_left_behind(self, steps_taken: int) -> None:
        for budget in (each.budget for each in self.budgets):
            if steps_taken <= budget.end_step:
                _logger.warning(
                    "tfreg.compact: the smaller model's optimizer is without %r, which is met "
                    "after step %d, not after the %d steps that were taken.",
                    budget,
                    budget.end_step,
                    steps_taken,
                )
            elif not budget.resources:
                _logger.warning(
                    "tfreg.compact: the smaller model's optimizer is without %r: what is zero "
                    "comes back if it is trained on.",
                    budget,
                )

    def _warn_of_patterns_moved(self, variables: list[Variable], cuts: Cuts) -> None:
        """Warns where the runs of a pattern are others, since inputs in between were cut out."""
        for budget in self.budgets:
            if budget.budget.pattern is None:
                continue
            moved = []
            for weight in budget.weights:
                kept = cuts.get(id(variables[weight.place]), ())
                if any(indices is not None for indices in kept[:-1]):
                    moved.append(weight.path)
            if moved:
                _logger.warning(
                    "tfreg.compact: %s lost inputs, after which other elements are consecutive: "
                    "they may break the pattern %r.",
                    moved,
                    budget.budget.pattern,
                )

    def get_config(self) -> dict[str, Any]:
        return {
            "penalties": bound.config_of(self.terms),
            "budgets": [budget.get_config() for budget in self.budgets],
            "trains": self.count,
            "start_step": self.start_step,
            "freeze_zeros_from": self.freeze_zeros_from,
            "metric": self.metric,
            "is_driven": self.is_driven,
            "rests_from": self.rests_from,
        }


def nothing() -> None:
    pass


def _narrow(masks: dict[int, tf.Tensor], place: int, mask: tf.Tensor) -> None:
    known = masks.get(place)
    masks[place] = mask if known is None else known & mask


def _observe(
    budget: BoundBudget, variables: list[tf.Variable], step: tf.Tensor, *gradients: Any
) -> None:
    count = len(budget.weights)
    budget.observe(variables[count:], variables[:count], gradients, step)


def _remove(
    budget: BoundBudget, averaged: int, variables: list[tf.Variable], step: tf.Tensor
) -> None:
    """Removes what has to go after this `step`, and what came back of what is gone.

    The `variables` are moving averages of all weights or of none, the weights, and the state.
    """
    averages, variables = variables[:averaged], variables[averaged:]
    count = len(budget.weights)
    weights, state = variables[:count], variables[count:]
    budget.remove(state, weights, step)
    if not state:  # what is gone is what is zero: see `following`
        return
    masks = budget.are_alive(state, weights, step)
    for variable, is_alive in zip([*weights, *averages], [*masks, *masks]):
        _keep([variable], is_alive)


def _keep(variables: list[tf.Variable], is_alive: tf.Tensor) -> None:
    for variable in variables:
        tensor = tf.convert_to_tensor(variable)
        variable.assign(tf.where(is_alive, tensor, tf.zeros_like(tensor)))
