"""Proximal: an optimizer that takes a proximal step after each of its own."""

import functools
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import tensorflow as tf

from tfreg import backend, steps
from tfreg.checks import check_bool, check_config, check_int
from tfreg.inventory import Model, Variable
from tfreg.model.attach import terms_for
from tfreg.model.carried import Cuts
from tfreg.model.terms import Term
from tfreg.penalties import Joint
from tfreg.penalties.base import Regularizer
from tfreg.proximal.bound import bound_from
from tfreg.proximal.budgets import Request, budget_from, check_requests, requested
from tfreg.proximal.stepping import ProximalSteps, nothing
from tfreg.proximal.target import Budget

AnyOptimizer = TypeVar("AnyOptimizer", bound=backend.Optimizer)

# To a type checker: what follows the classes below in the method resolution order.
_OwnClass: Any = object
METRICS = ("euclidean", "diagonal")
# The key of the penalties in an optimizer's config.
CONFIG_KEY = "tfreg"
_KEYS = (
    "optimizer",
    "penalties",
    "budgets",
    "trains",
    "start_step",
    "freeze_zeros_from",
    "metric",
    "is_driven",
    "rests_from",
)
_do_not_convert = tf.autograph.experimental.do_not_convert


class ProximalOptimizer(_OwnClass):
    """Mixin placed before the optimizer's class in the method resolution order."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Skips that of the optimizer's class, which might register the new class."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"The class {cls.__name__} makes no optimizers. Use tfreg.Proximal(optimizer, model, "
            "penalties)."
        )

    def get_config(self) -> dict[str, Any]:
        config = dict(super().get_config())
        own = backend.identity(_own_class(self))
        config[CONFIG_KEY] = {"optimizer": own, **self._tfreg_steps.get_config()}
        return config

    @classmethod
    def from_config(cls, config: Any, custom_objects: dict[str, Any] | None = None) -> Any:
        config = dict(config)
        ours = check_config("a tfreg.Proximal optimizer", config.pop(CONFIG_KEY, None), _KEYS)
        check_int("trains", ours["trains"], 0)
        if not isinstance(ours["optimizer"], dict):
            raise ValueError(
                "The config of a tfreg.Proximal optimizer must have a dict as its 'optimizer'. "
                f"Received: {ours!r}"
            )
        known_class = getattr(cls, "_tfreg_own_class", None)
        known = {} if known_class is None else {known_class.__name__: known_class}
        optimizer = backend.deserialize_optimizer(
            cls._tfreg_api,
            {**ours["optimizer"], "config": config},
            custom_objects={**known, **(custom_objects or {})},
        )
        made = _checked_steps(
            optimizer, ours["start_step"], ours["freeze_zeros_from"], ours["metric"]
        )
        if not isinstance(ours["budgets"], list):
            raise ValueError(
                "The config of a tfreg.Proximal optimizer must have a list of budgets. "
                f"Received: {ours!r}"
            )
        made.is_driven = check_bool("is_driven", ours["is_driven"])
        if ours["rests_from"] is not None:
            made.rests_from = check_int("rests_from", ours["rests_from"], 0)
        budgets = list(map(budget_from, ours["budgets"]))
        _swap(optimizer, made.loaded(bound_from(ours["penalties"]), budgets, ours["trains"]))
        return optimizer

    def tfreg_carry(
        self, model: Model, new_model: Model, twins: Mapping[int, Variable], cuts: Cuts
    ) -> None:
        """Makes the optimizer of `new_model` take the steps on what is left of these weights."""
        left = self._tfreg_steps.carried(model, new_model, twins, cuts)
        if left is not None:
            _swap(backend.innermost(new_model.optimizer), left)

    @_do_not_convert
    def _overwrite_model_variables_with_average_value(self, variables: Any) -> None:
        nonzero = self._tfreg_steps.nonzero()
        super()._overwrite_model_variables_with_average_value(variables)
        self._tfreg_steps.keep_zero(backend.strategy_of(self), nonzero)


@backend.keras.saving.register_keras_serializable(backend.PACKAGE, "Proximal")
class ProximalKerasOptimizer(ProximalOptimizer):
    _tfreg_api = backend.keras

    def build(self, variables: Any) -> None:
        # Loading .h5 files builds on no variables, and leaves an optimizer that refuses any.
        is_first = not self.built and bool(variables)
        if is_first:
            self._tfreg_steps.build(variables)
        super().build(variables)
        if is_first:
            self._tfreg_steps.make_state(self)

    def _check_variables_are_known(self, variables: Any) -> None:
        super()._check_variables_are_known(variables)
        self._tfreg_steps.check_trained(self, variables)

    @_do_not_convert
    def apply(self, grads: Any, trainable_variables: Any = None) -> Any:
        with self._tfreg_steps.applying(self, grads):
            return super().apply(grads, trainable_variables)

    @_do_not_convert
    def _backend_apply_gradients(self, grads: Any, trainable_variables: Any) -> None:
        self._tfreg_steps.reached()
        grads = self._tfreg_steps.masked(self, grads, trainable_variables)
        super()._backend_apply_gradients(grads, trainable_variables)

    @_do_not_convert
    def _distributed_tf_update_step(
        self, distribution: Any, grads_and_vars: Any, learning_rate: Any
    ) -> None:
        gradients = {id(variable): gradient for gradient, variable in grads_and_vars}
        finish = self._tfreg_steps.following(
            self,
            distribution,
            lambda variable: gradients.get(id(backend.native(variable))),
            learning_rate,
        )
        super()._distributed_tf_update_step(distribution, grads_and_vars, learning_rate)
        finish()

    def __reduce__(self) -> tuple[Any, ...]:
        # pickle finds the function by the name of its class: the own class has it, not this one.
        return _own_class(self)._unpickle_model, super().__reduce__()[1]


@backend.tf_keras.saving.register_keras_serializable(backend.PACKAGE, "Proximal")
class ProximalTFKerasOptimizer(ProximalOptimizer):
    _tfreg_api = backend.tf_keras

    def build(self, var_list: Any) -> Any:  # with each step
        if getattr(self, "_built", False):
            self._tfreg_steps.check_trained(self, var_list)
            return super().build(var_list)
        self._tfreg_steps.build(var_list)
        result = super().build(var_list)
        self._tfreg_steps.make_state(self)
        return result

    @_do_not_convert
    def apply_gradients(self, grads_and_vars: Any, *args: Any, **kwargs: Any) -> Any:
        grads_and_vars = list(grads_and_vars)
        if self._tfreg_steps.is_masking and grads_and_vars:
            gradients, variables = zip(*grads_and_vars)
            with tf.init_scope():
                self.build(variables)
            gradients = self._tfreg_steps.masked(self, gradients, variables)
            grads_and_vars = list(zip(gradients, variables))
        with self._tfreg_steps.applying(self, [gradient for gradient, _ in grads_and_vars]):
            return super().apply_gradients(grads_and_vars, *args, **kwargs)

    @_do_not_convert
    def _distributed_apply_gradients_fn(
        self, distribution: Any, grads_and_vars: Any, **kwargs: Any
    ) -> Any:
        proximal_steps = self._tfreg_steps
        proximal_steps.reached()
        gradients = {self._var_key(variable): gradient for gradient, variable in grads_and_vars}
        finish = proximal_steps.following(
            self, distribution, lambda variable: gradients.get(self._var_key(variable))
        )
        proximal_steps.finish = finish
        try:
            result = super()._distributed_apply_gradients_fn(distribution, grads_and_vars, **kwargs)
        finally:
            proximal_steps.finish = nothing
        if not self.use_ema:  # else that came before the averages
            finish()
        return result

    @_do_not_convert
    def _update_model_variables_moving_average(self, var_list: Any) -> None:
        self._tfreg_steps.finish()
        super()._update_model_variables_moving_average(var_list)


@functools.cache
def _proximal_class(cls: Any) -> type:
    """The class of proximal optimizers of `cls`."""
    is_of_keras_3 = backend.api_of(cls) is backend.keras
    stand_in = ProximalKerasOptimizer if is_of_keras_3 else ProximalTFKerasOptimizer
    # Loading looks up a name such as "Adam" among Keras's own before the registered ones.
    name = f"Proximal{cls.__name__}"
    namespace = {
        "__module__": __name__,
        "__qualname__": name,
        "__doc__": cls.__doc__,
        "_tfreg_own_class": cls,
    }
    made = types.new_class(
        name, (stand_in, cls), {"metaclass": type(cls)}, lambda body: body.update(namespace)
    )
    backend.save_as(made, stand_in)
    return made


def _own_class(optimizer: Any) -> Any:
    return type(optimizer)._tfreg_own_class


def _swap(optimizer: Any, proximal_steps: ProximalSteps) -> None:
    its_class: Any = type(optimizer)
    # object's, since those of either Keras track attributes.
    object.__setattr__(optimizer, "_tfreg_steps", proximal_steps)
    object.__setattr__(optimizer, "__class__", _proximal_class(its_class))


def _checked_steps(
    optimizer: Any, start_step: Any, freeze_zeros_from: Any, metric: Any
) -> ProximalSteps:
    if freeze_zeros_from is not None:
        freeze_zeros_from = check_int("freeze_zeros_from", freeze_zeros_from, 0)
    if metric not in METRICS:
        raise ValueError(f"Argument `metric` must be one of {METRICS}. Received: metric={metric!r}")
    if metric == "diagonal":
        backend.check_has_metric(optimizer)
    return ProximalSteps(check_int("start_step", start_step, 0), freeze_zeros_from, metric)


def _check_optimizer(optimizer: Any, model: Model) -> None:
    inner = backend.innermost(optimizer)
    api = backend.api_of_optimizer(inner)
    if api is None:
        raise TypeError(
            "Argument `optimizer` must be an optimizer object of Keras 3 or tf_keras, and neither "
            "a MultiOptimizer nor one of tf_keras.optimizers.legacy. "
            f"Received: optimizer={optimizer!r}"
        )
    if api is not backend.api_of(type(model)):
        raise TypeError(
            f"Argument `optimizer` must be of {backend.api_of(type(model)).__name__}, as the model "
            f"is. Received: one of {api.__name__}, optimizer={optimizer!r}"
        )
    if isinstance(inner, ProximalOptimizer):
        raise ValueError(
            "Argument `optimizer` must take no proximal steps yet: make another one, with all "
            f"penalties in one call of tfreg.Proximal. Received: optimizer={optimizer!r}"
        )
    if not 0.0 <= backend.momentum_of(inner) < 1.0:
        raise ValueError(
            "Argument `optimizer` must have a momentum below 1, since a proximal step is as long "
            f"as learning_rate / (1 - momentum). Received: momentum={inner.momentum!r}"
        )
    strategy = backend.strategy_of(inner)
    if backend.is_asynchronous(strategy) or backend.is_on_a_mesh(inner):
        name = "a mesh of DTensor" if backend.is_on_a_mesh(inner) else type(strategy).__name__
        raise NotImplementedError(
            "tfreg.Proximal takes its steps on weights that every replica has a copy of. Train "
            f"under a MirroredStrategy or a MultiWorkerMirroredStrategy. Received: {name}"
        )


def _entries(penalties: Any) -> list[tuple[Any, Any, Any]]:
    """The argument `penalties` as triples of weights, penalty and schedule."""
    if not isinstance(penalties, (list, tuple)):
        return [(None, penalties, None)]
    are_tuples = all(isinstance(entry, tuple) and len(entry) in (2, 3) for entry in penalties)
    if not penalties or isinstance(penalties, tuple) or not are_tuples:
        raise TypeError(
            "Argument `penalties` must be a penalty, or a non-empty list of tuples (weights, "
            f"penalty) or (weights, penalty, schedule). Received: penalties={penalties!r}"
        )
    return [(entry[0], entry[1], entry[2] if len(entry) == 3 else None) for entry in penalties]


def _check_ahead(optimizer: Any, requests: list[Request]) -> None:
    """Raises a ValueError if the steps of a budget are behind those of the `optimizer`."""
    taken = int(steps.current(optimizer))
    for budget in (request.budget for request in requests):
        if taken > budget.begin_step:
            raise ValueError(
                "A tfreg.Budget counts the steps of its optimizer, of which it must not have taken "
                f"more than `begin`. Received: an optimizer that has taken {taken} steps, with "
                f"begin={budget.begin!r}, which is step {budget.begin_step}. Make another "
                "optimizer, or give `begin`, `end` and `heal` as later steps"
            )


def Proximal(
    optimizer: AnyOptimizer,
    model: Model,
    penalties: Regularizer | Joint | Budget | str | dict[str, Any] | list[tuple[Any, ...]],
    start_step: int = 0,
    freeze_zeros_from: int | None = None,
    metric: Literal["euclidean", "diagonal"] = "euclidean",
) -> AnyOptimizer:
    """Makes an optimizer take a proximal step after each of its own: exact zeros.

    `w = argmin_x 1/2 ||x - step(w)||^2 + rate * schedule(k) * penalty(x)` after step k, with
    `rate = learning_rate / (1 - momentum)`

    `step` is the optimizer's own, on the loss without the penalty. Whole groups of a `GroupLasso`,
    or elements, become exactly 0, and may come back. A factor means what it means in the loss:
    with SGD the weights converge to the same minimum. Only the steps of SGD and RMSprop build up
    by a momentum; elsewhere `rate` is the learning rate. Adam and others that scale each element
    take the same operator, and end near the minimum, not at it. With `metric="diagonal"` it is

    `w = argmin_x 1/2 sum_i metric_i (x_i - step(w)_i)^2 + rate * schedule(k) * penalty(x)`

    where `metric_i` is what the step of element i was divided by, for Adam the root of its second
    moment: the minimum is that of SGD. On a deep network it removes what has small gradients first.

    The optimizer changes in place: its class becomes a subclass of its own, which saves the
    penalties with it. What it does besides stays: schedules of the learning rate, weight decay,
    clipping, gradient accumulation (with a proximal step for each update), loss scaling (a skipped
    step skips it), moving averages of the weights (elements that are 0 now are 0 in what replaces
    them, too). Several penalties on one weight take their steps in turn, and budgets come last.

    Args:
        optimizer: an optimizer of Keras 3 or tf_keras, or a `LossScaleOptimizer` around one.
        model: the model whose weights it trains, of the same Keras, built or not, penalized or not.
        penalties: a penalty, for every kernel; or a list of tuples (weights, penalty) or (weights,
            penalty, schedule), each as `tfreg.add_penalty` takes them, couplings and `tfreg.Joint`
            included. The penalties must have a proximal operator. Do not add them to the loss too.
            Weights that are frozen now are left out. In a penalty's place there may be a
            `tfreg.Budget`, which removes what matters least until little enough is left.
        start_step: the step of the optimizer from which on it takes proximal steps.
        freeze_zeros_from: the step from which on what is exactly 0 stays 0: groups where the
            penalty has them, else elements. Their gradients are set to 0, before they are clipped
            or accumulated, and so are they after each step, so that no momentum revives them. None
            lets everything come back.
        metric: `"euclidean"`, or `"diagonal"` for that of an Adam, AdamW, Adamax, Nadam, RMSprop or
            Adagrad. The penalties must then be `GroupLasso` or `SparseGroupLasso` of disjoint
            groups, or elementwise, such as `MCP`; neither `tfreg.Joint` nor over couplings.

    Returns:
        `optimizer`.

    Raises:
        TypeError, ValueError: for other arguments; if no weight is selected, or a selected one is
            not trained or has the same kind of penalty in the loss. If the model is not built, once
            the optimizer is. NotImplementedError: for a penalty without proximal operator (in the
            metric asked for), or under a ParameterServerStrategy.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    >>> penalty = tfreg.GroupLasso(0.1, axis="input")
    >>> optimizer = tfreg.Proximal(keras.optimizers.SGD(0.1, momentum=0.9), model, penalty)
    >>> model.compile(optimizer, "mse")
    >>> history = model.fit(tf.zeros([32, 8]), tf.zeros([32, 1]), epochs=50, verbose=0)
    >>> bool(tf.reduce_all(model.layers[0].kernel == 0))
    True

    Reference:
        Parikh and Boyd, Proximal algorithms, 2014.
    """
    backend.check_not_graph_mode("tfreg.Proximal")
    if not backend.is_model(model):
        raise TypeError(
            f"Argument `model` must be a model of Keras 3 or tf_keras. Received: model={model!r}"
        )
    _check_optimizer(optimizer, model)
    terms: list[Term] = []
    requests: list[Request] = []
    for weights, penalty, schedule in _entries(penalties):
        if isinstance(penalty, Budget):
            requests.append(requested(model, weights, penalty, schedule))
        else:
            terms += terms_for(model, penalty, weights, schedule)
    check_requests(requests)
    inner = backend.innermost(optimizer)
    _check_ahead(inner, requests)
    if not terms and (start_step, freeze_zeros_from, metric) != (0, None, "euclidean"):
        raise ValueError(
            "Arguments `start_step`, `freeze_zeros_from` and `metric` are for penalties: a "
            "tfreg.Budget has `begin`, `end` and `heal`. "
            f"Received: start_step={start_step!r}, freeze_zeros_from={freeze_zeros_from!r}, "
            f"metric={metric!r} with no penalty"
        )
    proximal_steps = _checked_steps(inner, start_step, freeze_zeros_from, metric)
    proximal_steps.over_model(model, terms, requests)
    variables = backend.trained_variables(inner, list(model.variables)) if model.built else None
    if variables is not None:
        proximal_steps.build(variables)
        proximal_steps.make_state(inner)
    _swap(inner, proximal_steps)
    return optimizer
