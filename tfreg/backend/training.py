"""How a model of either API is compiled, and what its optimizer remembers of each weight."""

import logging
from typing import Any, NamedTuple

import tensorflow as tf

from tfreg.backend.apis import Model, Optimizer, keras, tf_keras
from tfreg.backend.rebuilding import scope_of
from tfreg.backend.references import References, named_by, naming
from tfreg.backend.tensors import is_variable

_logger = logging.getLogger(__name__)


class Slot(NamedTuple):
    """A variable of an optimizer: of which weight, under which name, and its twin in another.

    `weight` is an index among the weights that the old optimizer trains; None for what the
    optimizer has once, such as the number of steps.
    """

    name: str
    weight: int | None
    old: Any
    new: Any


def compile_like(new: Model, old: Model) -> bool:
    """Compiles `new` as `old` is compiled, with an optimizer and metrics of its own.

    Losses are shared. Returns whether `new` is compiled now.
    """
    is_of_keras_3 = isinstance(old, keras.Model)
    if not (old.compiled if is_of_keras_3 else old._is_compiled):
        return False
    compiled = getattr(old, "_compile_config", None)
    base: Any = keras.Model if is_of_keras_3 else tf_keras.Model
    if compiled is None or type(new).compile is not base.compile:
        _logger.warning(
            "The model %r has a compile of its own, or was compiled by its SavedModel: compile "
            "the new model, whose optimizer starts anew.",
            old.name,
        )
        return False
    arguments = dict(compiled.config)
    with scope_of(old):
        arguments["optimizer"] = None if old.optimizer is None else _copied(old.optimizer)
        for name in ("metrics", "weighted_metrics"):
            arguments[name] = _copied_metrics(arguments.get(name))
        if is_of_keras_3:  # the optimizer scales the loss already, if it does
            arguments["auto_scale_loss"] = False
        new.compile(**arguments)
    if new.run_eagerly != old.run_eagerly:  # it may have been set since
        new.run_eagerly = old.run_eagerly
    if new.jit_compile != old.jit_compile:
        new.jit_compile = old.jit_compile
    return True


def _copied_metrics(metrics: Any) -> Any:
    """The metrics that `compile` was given, with copies of the objects among them."""
    if isinstance(metrics, dict):
        return {key: _copied_metrics(value) for key, value in metrics.items()}
    if isinstance(metrics, (list, tuple)):
        return [_copied_metrics(value) for value in metrics]
    if not isinstance(metrics, (keras.metrics.Metric, tf_keras.metrics.Metric)):
        return metrics
    new = _copied(metrics)
    if len(new.variables) == len(metrics.variables):
        for ours, theirs in zip(new.variables, metrics.variables):
            if tuple(ours.shape) == tuple(theirs.shape):
                ours.assign(theirs)
    return new


def _copied(old: Any) -> Any:
    api = keras if _is_of_keras_3(old) else tf_keras
    named = [type(old), *(named_by(value) for value in vars(old).values())]
    inner = getattr(old, "inner_optimizer", None)
    if inner is not None:
        named += [type(inner), *(named_by(value) for value in vars(inner).values())]
    references = References()
    with naming(api, [value for value in named if value is not None], references.names):
        made = type(old).from_config(references.for_objects(old, old.get_config()))
    if isinstance(made, (keras.optimizers.Optimizer, tf_keras.optimizers.Optimizer)):
        _make_plain(innermost(made))
    return made


def _make_plain(optimizer: Any) -> None:
    """Gives an optimizer of tfreg.Proximal its own class back: its steps are on other weights."""
    if proximal_steps_of(optimizer) is not None:
        object.__setattr__(optimizer, "__class__", type(optimizer)._tfreg_own_class)
        object.__delattr__(optimizer, "_tfreg_steps")


def proximal_steps_of(optimizer: Any) -> Any:
    """The proximal steps that tfreg.Proximal added to an optimizer, or None."""
    return vars(innermost(optimizer)).get("_tfreg_steps") if optimizer is not None else None


def _is_of_keras_3(value: Any) -> bool:
    return any(cls.__module__.split(".")[0] == keras.__name__ for cls in type(value).__mro__)


def trained_by(optimizer: Optimizer, variables: list[Any]) -> list[Any]:
    """Those of `variables` that a built optimizer trains, in its order."""
    inner = innermost(optimizer)
    if isinstance(inner, tf_keras.optimizers.legacy.Optimizer):
        return [variable for variable in variables if _legacy_slots(inner, variable)]
    placed = [(_place(inner, variable), variable) for variable in variables]
    trained = [(place, variable) for place, variable in placed if place is not None]
    return [variable for _, variable in sorted(trained, key=lambda pair: pair[0])]


def _place(optimizer: Any, variable: Any) -> int | None:
    """Where an optimizer's lists of slots have those of a variable."""
    return _places(optimizer).get(optimizer._var_key(variable))


def _places(optimizer: Any) -> dict[Any, int]:
    places = getattr(optimizer, "_trainable_variables_indices", None)
    return getattr(optimizer, "_index_dict", {}) if places is None else places


def innermost(optimizer: Optimizer) -> Any:
    """The optimizer that a LossScaleOptimizer holds."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def build_optimizer(model: Model, variables: list[Any]) -> None:
    """Makes the slots of `variables` in the optimizer of `model`."""
    optimizer = model.optimizer
    inner = innermost(optimizer)
    with scope_of(model):
        if isinstance(optimizer, keras.optimizers.Optimizer):
            optimizer.build(variables)
        elif isinstance(inner, tf_keras.optimizers.legacy.Optimizer):
            inner._create_all_weights(variables)
        else:
            inner.build(variables)


def copy_counts(old: Any, new: Any) -> None:
    """Sets the plain numbers that an optimizer counts, as tf_keras's Nadam does in eager mode."""
    if innermost(old) is not old:
        copy_counts(innermost(old), innermost(new))
        return
    for name, value in vars(old).items():
        if type(value) is int and type(vars(new).get(name)) is int:
            setattr(new, name, value)


def slots(old: Any, new: Any, old_weights: list[Any], new_weights: list[Any]) -> list[Slot]:
    """The variables of two optimizers of one class, in pairs.

    Args:
        old, new: the optimizers, both built.
        old_weights, new_weights: what they train, in their orders; `new_weights` has the twin of
            `old_weights[i]` at `i`, and None for a weight that has none.
    """
    found = []
    if innermost(old) is not old:
        found += slots(innermost(old), innermost(new), old_weights, new_weights)
        scales = getattr(old, "_loss_scale", None), getattr(new, "_loss_scale", None)
        if all(hasattr(scale, "current_loss_scale") for scale in scales):
            for name in ("current_loss_scale", "counter"):
                found.append(Slot(name, None, getattr(scales[0], name), getattr(scales[1], name)))
    elif isinstance(old, tf_keras.optimizers.legacy.Optimizer):
        for i, (ours, theirs) in enumerate(zip(old_weights, new_weights)):
            twins = _legacy_slots(new, theirs)
            for name, slot in _legacy_slots(old, ours).items():
                if name in twins:
                    found.append(Slot(name, i, slot, twins[name]))
        found += [
            Slot(name, None, value, new._hyper[name])
            for name, value in old._hyper.items()
            if is_variable(value) and is_variable(new._hyper.get(name))
        ]
    inside = {id(slot.old) for slot in found}
    for name, value in vars(old).items():
        twin = vars(new).get(name)
        if is_variable(value) and is_variable(twin) and id(value) not in inside:
            found.append(Slot(name, None, value, twin))
        elif name not in _NOT_SLOTS and hasattr(old, "_var_key"):
            ours = _by_weight(old, value, old_weights)
            theirs = _by_weight(new, twin, new_weights)
            found += [Slot(name, i, ours[i], theirs[i]) for i in ours if i in theirs]
    return found


# Lists of an optimizer that hold weights, or all variables.
_NOT_SLOTS = ("_trainable_variables", "_variables", "_weights", "_slots")


def _by_weight(optimizer: Any, value: Any, weights: list[Any]) -> dict[int, Any]:
    """The slots in an attribute of an optimizer by the index of their weight in `weights`."""
    found = {}
    for i, weight in enumerate(weights):
        if weight is None:
            continue
        if isinstance(value, (list, tuple)) and len(value) == len(_places(optimizer)):
            place = _place(optimizer, weight)
            found[i] = None if place is None else value[place]
        elif isinstance(value, dict):
            slots = [value[key] for key in _keys(optimizer, weight) if key in value]
            found[i] = slots[0] if slots else None
    return {i: slot for i, slot in found.items() if is_variable(slot)}


def _keys(optimizer: Any, weight: Any) -> list[Any]:
    """The keys under which an optimizer may keep something of a weight."""
    return [optimizer._var_key(weight), id(weight), getattr(weight, "path", None), weight.name]


def _legacy_slots(optimizer: Any, weight: Any) -> dict[str, Any]:
    key = getattr(weight, "_unique_id", None) if weight is not None else None
    return dict(optimizer._slots.get(key, {}))


def slot_of(optimizer: Any, name: str, weight: Any) -> Any:
    """The slot of a weight in a list of the optimizer; None if it has none."""
    return _by_weight(optimizer, vars(optimizer).get(name), [weight]).get(0)


def average_of(optimizer: Any, weight: Any) -> Any:
    """The moving average of a weight that a built optimizer keeps; None if it keeps none."""
    if not optimizer.use_ema:
        return None
    return slot_of(optimizer, "_model_variables_moving_average", weight)


def means_in_metrics(model: Model) -> dict[str, tuple[Any, Any]]:
    """The total and the count, as tensors, of each metric of `model` that is a mean."""
    means = [each for each in model.metrics if hasattr(each, "total") and hasattr(each, "count")]
    return {
        each.name: (tf.convert_to_tensor(each.total), tf.convert_to_tensor(each.count))
        for each in means
    }


def is_trainable(variable: Any) -> bool:
    """Whether the variable itself is: its layer may be frozen."""
    return bool(variable.trainable)


def set_trainable(variable: Any, value: bool) -> None:
    """Freezes a variable, which a layer of tf_keras alone can do, or the reverse."""
    if isinstance(variable, keras.Variable) and variable.trainable != value:
        variable.trainable = value


def seed_states(layer: Any) -> list[Any]:
    """The states of a layer's own generators of random numbers."""
    if isinstance(layer, keras.layers.Layer):
        return [generator.state for generator in layer._seed_generators]
    generator = getattr(getattr(layer, "_random_generator", None), "_generator", None)
    return [] if generator is None else [generator._state_var]
