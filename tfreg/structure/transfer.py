"""What a rebuilt model takes over from the old one: weights, cut, and how it is trained."""

import logging
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from tfreg import backend
from tfreg.backend import training
from tfreg.inventory import Layer, Model, Variable

# For the weights that lose positions, by the id of the old variable: for each axis the indices
# that are kept, None for all.
Cuts: TypeAlias = dict[int, tuple[np.ndarray | None, ...]]

_logger = logging.getLogger(__name__)


def layer_pairs(old: Layer, new: Layer) -> list[tuple[Layer, Layer]]:
    """The layers of the rebuilt `new` model and what they were made from, the outer ones first.

    Layers of the old model that are not part of its graph have no pair.
    """
    pairs: dict[int, tuple[Layer, Layer]] = {}

    def visit(old: Layer, new: Layer) -> None:
        if id(new) not in pairs:
            pairs[id(new)] = (old, new)
            for inner_old, inner_new in _sublayer_pairs(old, new):
                visit(inner_old, inner_new)

    visit(old, new)
    return list(pairs.values())


def _sublayer_pairs(old: Layer, new: Layer) -> Iterator[tuple[Layer, Layer]]:
    ours, theirs = backend.sublayers(old), backend.sublayers(new)
    named = {layer.name: layer for layer in ours}
    names = [layer.name for layer in theirs]
    if len(named) == len(ours) and len(set(names)) == len(names) and {*names} <= {*named}:
        return zip([named[name] for name in names], theirs)
    if len(ours) != len(theirs):
        raise ValueError(
            f"The layers in {old.name!r} are not those of the layer made from its config: "
            f"{[layer.name for layer in ours]} and {names}. It must save in its config what it "
            "needs to make them."
        )
    return zip(ours, theirs)


def variable_pairs(
    old: Model, new: Model, new_biases: dict[int, np.ndarray]
) -> list[tuple[Variable | None, Variable]]:
    """The variables of the rebuilt `new` model, trainable or not, and the ones that they replace.

    Args:
        old, new: the models.
        new_biases: has the ids of the old layers that get a bias, whose pairs have None.

    Raises:
        ValueError: if a layer's variables are not those of the layer made from its config.
    """
    pairs: dict[int, tuple[Variable | None, Variable]] = {}
    for old_layer, new_layer in layer_pairs(old, new):
        for pair in _own_pairs(old_layer, new_layer):
            pairs.setdefault(id(pair[1]), pair)
    return list(pairs.values())


def _own_pairs(old: Layer, new: Layer) -> Iterator[tuple[Variable | None, Variable]]:
    ours, theirs = _own_variables(old), _own_variables(new)
    if len(theirs) == len(ours) + 1:
        biases = [v for v in theirs if backend.scoped_path(v).rsplit("/", 1)[-1] == "bias"]
        if len(biases) == 1:
            yield None, biases[0]
            theirs = [variable for variable in theirs if variable is not biases[0]]
    if len(ours) != len(theirs):
        raise ValueError(
            f"The layer {old.name!r} has {len(ours)} variables, and the one made from its config "
            f"{len(theirs)}."
        )
    yield from zip(ours, theirs)


def _own_variables(layer: Layer) -> list[Variable]:
    return [*backend.all_variables(layer), *training.seed_states(layer)]


def carry_weights(
    old: Model,
    new: Model,
    cuts: Cuts,
    shifts: dict[int, np.ndarray],
    new_biases: dict[int, np.ndarray],
) -> None:
    """Sets the variables of the rebuilt `new` model, seeds and statistics too.

    Args:
        old, new: the models.
        cuts: what is kept of the old variables.
        shifts: by the ids of old variables, what is added before they are cut.
        new_biases: by the ids of old layers, the biases that they get, already cut.

    Raises:
        ValueError: if a variable does not get the shape that the new one has.
    """
    values = {}
    for old_layer, new_layer in layer_pairs(old, new):
        for variable, twin in _own_pairs(old_layer, new_layer):
            if variable is None:
                bias = new_biases.get(id(old_layer))
                value = np.zeros(tuple(twin.shape)) if bias is None else bias
            else:
                value = backend.array_of(variable)
                if id(variable) in shifts:
                    value = (value + shifts[id(variable)]).astype(value.dtype)
                value = cut(value, cuts.get(id(variable)))
            values[id(twin)] = (twin, value)
    for twin, value in values.values():
        if tuple(twin.shape) != value.shape:
            raise ValueError(
                f"The weight {backend.weight_name(twin)} of the smaller model has the shape "
                f"{tuple(twin.shape)}, not {value.shape}: its layer's config does not follow its "
                "sizes. Declare the layer as fixed: tfreg.compact(model, rules={cls: 'fixed'})."
            )
        twin.assign(value)


def cut(value: Any, kept: tuple[np.ndarray | None, ...] | None) -> Any:
    """An array with the indices that are `kept` along each axis."""
    for axis, indices in enumerate(kept or ()):
        if indices is not None:
            value = np.take(value, indices, axis)
    return value


def carry_trainable(old: Model, new: Model) -> None:
    """Freezes in the rebuilt `new` model what is frozen in the old one."""
    pairs = layer_pairs(old, new)
    for old_layer, new_layer in pairs:  # the outer ones first: they set those in them too
        if new_layer.trainable != old_layer.trainable:
            new_layer.trainable = old_layer.trainable
    for old_layer, new_layer in pairs:
        for variable, twin in _own_pairs(old_layer, new_layer):
            if variable is not None:
                training.set_trainable(twin, training.is_trainable(variable))


def carry_training(
    old: Model, new: Model, cuts: Cuts, shifts: dict[int, np.ndarray] | None = None
) -> None:
    """Compiles the rebuilt `new` model as the old one is, with the optimizer's state.

    What the optimizer keeps of a weight is cut like it. What cannot be cut starts anew, which the
    log tells.

    Args:
        old, new: the models; `new` has its weights and what is frozen.
        cuts: what is kept of the old variables.
        shifts: what was added to them; averages of weights gain it too.
    """
    if not training.compile_like(new, old) or old.optimizer is None:
        return
    if not backend.is_built(old.optimizer):
        return
    pairs = variable_pairs(old, new, {})
    twins = {id(variable): twin for variable, twin in pairs if variable is not None}
    trained = training.trained_by(old.optimizer, [v for v, _ in pairs if v is not None])
    ids = {id(twins[id(variable)]) for variable in trained}
    added = {id(twin) for variable, twin in pairs if variable is None}
    ours = [v for v in new.trainable_variables if id(v) in ids | added]
    listed = {id(variable) for variable in ours}
    ours += [twins[id(v)] for v in trained if id(twins[id(v)]) not in listed]  # frozen since
    training.build_optimizer(new, ours)
    training.copy_counts(old.optimizer, new.optimizer)
    replaced = [twins[id(variable)] for variable in trained]
    for slot in training.slots(old.optimizer, new.optimizer, trained, replaced):
        if slot.weight is None:
            _assign(slot, backend.array_of(slot.old), old.optimizer, None)
            continue
        weight = trained[slot.weight]
        value = backend.array_of(slot.old)
        if slot.name == _AVERAGE and id(weight) in (shifts or {}):
            value = (value + (shifts or {})[id(weight)]).astype(value.dtype)
        kept = _kept_of_slot(slot, value.shape, weight, replaced[slot.weight], cuts)
        _assign(slot, cut(value, kept), old.optimizer, weight)
    inner = training.innermost(new.optimizer)
    for variable in (twin for variable, twin in pairs if variable is None):
        average = training.slot_of(inner, _AVERAGE, variable)
        if average is not None:
            average.assign(backend.array_of(variable))


# The list of an optimizer that holds the averages of weights.
_AVERAGE = "_model_variables_moving_average"


def _kept_of_slot(
    slot: training.Slot, shape: tuple[int, ...], weight: Variable, twin: Variable, cuts: Cuts
) -> tuple[np.ndarray | None, ...] | None:
    """What is kept of a slot that has the weight's shape, or that without one of its axes."""
    kept, full = cuts.get(id(weight)), tuple(weight.shape)
    if kept is None or shape == full or len(shape) != len(full) - 1:
        return kept if shape == full else None
    left = [
        axis
        for axis in (len(full) - 1, len(full) - 2)
        if axis >= 0
        and shape == full[:axis] + full[axis + 1 :]
        and tuple(slot.new.shape) == tuple(twin.shape)[:axis] + tuple(twin.shape)[axis + 1 :]
    ]
    if not left:
        return None
    # Adafactor's averages over the last axis and, in "_c", over the one before.
    axis = left[-1] if slot.name.endswith("c") else left[0]
    return kept[:axis] + kept[axis + 1 :]


def _assign(slot: training.Slot, value: Any, optimizer: Any, weight: Variable | None) -> None:
    if tuple(slot.new.shape) == tuple(value.shape):
        slot.new.assign(value)
        return
    _logger.warning(
        "tfreg.compact: %r of the optimizer %s for %s starts anew: its shape %s does not follow "
        "that of the weight.",
        slot.name,
        type(optimizer).__name__,
        "all weights" if weight is None else backend.weight_name(weight),
        tuple(value.shape),
    )
