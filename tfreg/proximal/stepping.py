"""The steps that an optimizer of tfreg.Proximal takes after its own."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfreg import backend, steps
from tfreg.inventory import Model, Variable
from tfreg.model.carried import Cuts
from tfreg.model.contents import Contents
from tfreg.model.terms import Term
from tfreg.proximal import bound
from tfreg.proximal.bound import Bound
from tfreg.proximal.zeros import masked


class ProximalSteps:
    """The proximal steps of an optimizer: their penalties, and the weights once it is built.

    It is kept where neither Keras looks for state: what the steps depend on is in the weights and
    in the config.
    """

    def __init__(self, start_step: int, freeze_zeros_from: int | None) -> None:
        self.start_step = start_step
        self.freeze_zeros_from = freeze_zeros_from
        self.variables: list[Variable] | None = None  # all that the optimizer trains
        self._pending: tuple[Model, list[Term]] | None = None
        self._expected: list[tuple[str, int]] | None = None
        self._terms: list[Bound] = []
        self._count = 0
        # In tf_keras: what follows the optimizer's own step that is being taken.
        self.finish: Callable[[], None] = nothing
        self._is_reached = False

    def over_model(self, model: Model, terms: list[Term]) -> "ProximalSteps":
        self._pending = model, terms
        if model.built:  # raise now what building the optimizer would raise
            bound.check(model, terms)
            contents = Contents(model)
            self._expected = [
                (weight.path, id(weight.variable))
                for term in terms
                for weight in bound.trained_weights(contents, term)
            ]
        return self

    def loaded(self, terms: list[Bound], count: int) -> "ProximalSteps":
        self._terms, self._count = terms, count
        return self

    @property
    def terms(self) -> list[Bound]:
        """The penalties and their weights, now if the optimizer is not built."""
        if self._pending is None:
            return self._terms
        model, terms = self._pending
        self._check_built(model)
        return bound.bind(model, terms, list(model.trainable_variables))

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
            bound.check_fits(self._terms, variables, self._count)
        else:
            model, terms = self._pending
            self._check_built(model)
            if self._expected is None:
                bound.check(model, terms)
            known = {id(variable) for variable in variables}
            for path, key in self._expected or ():
                if key not in known:
                    raise ValueError(bound.not_trained(path))
            self._terms = bound.bind(model, terms, variables)
            self._count = len(variables)
            self._pending = None
        self.variables = variables

    def check_trained(self, optimizer: Any, variables: Sequence[Variable]) -> None:
        """Raises a ValueError unless each penalized weight is among the `variables`."""
        keys = {optimizer._var_key(variable) for variable in variables}
        for weight in bound.weights_in(self._terms):
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
                f"{type(optimizer)._tfreg_own_class.__name__}, which does not update the weights by "
                "the methods of Keras's optimizers. If it hands them to another optimizer, wrap "
                "that one in tfreg.Proximal."
            )

    def reached(self) -> None:
        self._is_reached = True

    def weight_at(self, place: int) -> Variable:
        assert self.variables is not None  # the optimizer is built
        return self.variables[place]

    def variables_of(self, term: Bound) -> list[tf.Variable]:
        return [backend.native(self.weight_at(weight.place)) for weight in term.weights]

    def alive(self, step: tf.Tensor) -> dict[int, tf.Tensor]:
        """By place, whether each element may change at `step`; nothing if all may, always."""
        found: dict[int, tf.Tensor] = {}
        if self.freeze_zeros_from is None:
            return found
        is_early = step < tf.cast(self.freeze_zeros_from, step.dtype)
        for term in self._terms:
            tensors = [tf.convert_to_tensor(variable) for variable in self.variables_of(term)]
            for weight, is_alive in zip(term.weights, term.are_alive(tensors)):
                is_alive |= is_early
                known = found.get(weight.place)
                found[weight.place] = is_alive if known is None else known & is_alive
        return found

    def masked(self, optimizer: Any, gradients: Any, variables: Any) -> list[Any]:
        """`gradients` of the `variables` with 0 for what is frozen."""
        alive = self.alive(steps.current(optimizer))
        by_key = {optimizer._var_key(self.weight_at(i)): mask for i, mask in alive.items()}
        keys = [optimizer._var_key(variable) for variable in variables]
        return [
            gradient if key not in by_key or gradient is None else masked(gradient, by_key[key])
            for gradient, key in zip(gradients, keys)
        ]

    def following(
        self, optimizer: Any, strategy: Any, learning_rate: Any = None
    ) -> Callable[[], None]:
        """What to call after the own step of `optimizer` that is to be taken now."""
        step = tf.identity(steps.current(optimizer))
        momentum = backend.momentum_of(optimizer)
        alive = self.alive(step)

        def shrink(term: Bound, variables: Any, learning_rate: Any, step: tf.Tensor) -> None:
            rate = optimizer.learning_rate if learning_rate is None else learning_rate
            term.shrink(variables, rate, step, self.start_step, momentum)

        def finish() -> None:
            for term in self._terms:
                backend.update(
                    strategy,
                    functools.partial(shrink, term),
                    self.variables_of(term),
                    learning_rate,
                    step,
                )
            self.keep_zero(strategy, alive)

        return finish

    def keep_zero(self, strategy: Any, alive: dict[int, tf.Tensor]) -> None:
        """Sets what is not `alive` to 0."""
        for place, is_alive in alive.items():
            backend.update(strategy, _keep, [backend.native(self.weight_at(place))], is_alive)

    def nonzero(self) -> dict[int, tf.Tensor]:
        """By place, whether each element of the penalized weights is nonzero."""
        places = [weight.place for weight in bound.weights_in(self._terms)]
        tensors = [tf.convert_to_tensor(backend.native(self.weight_at(i))) for i in places]
        return {i: tf.not_equal(tensor, 0) for i, tensor in zip(places, tensors)}

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
        old = list(model.trainable_variables) if self.variables is None else self.variables
        terms = bound.carried(self.terms, old, new_model, new, twins, cuts)
        if not terms:
            return None
        left = ProximalSteps(self.start_step, self.freeze_zeros_from).loaded(terms, len(new))
        if trained is not None:
            left.build(trained)
        return left

    def get_config(self) -> dict[str, Any]:
        return {
            "penalties": bound.config_of(self.terms),
            "trains": self.count,
            "start_step": self.start_step,
            "freeze_zeros_from": self.freeze_zeros_from,
        }


def nothing() -> None:
    pass


def _keep(variables: list[tf.Variable], is_alive: tf.Tensor) -> None:
    [variable] = variables
    tensor = tf.convert_to_tensor(variable)
    variable.assign(tf.where(is_alive, tensor, tf.zeros_like(tensor)))
