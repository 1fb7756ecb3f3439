"""A model of either API: its layers, their weights, and its compiled functions."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tfreg.backend.apis import Layer, Model, is_input, keras
from tfreg.backend.tensors import Weight, is_later_shard, scoped_path, whole_weight

_T = TypeVar("_T")


def sublayers(layer: Layer) -> list[Layer]:
    """The layers that `layer` itself holds, each once, in the order in which it got them.

    Input layers are left out: they come and go as a model is built.
    """
    return [
        sublayer
        for sublayer in layer._flatten_layers(include_self=False, recursive=False)
        if not is_input(sublayer)
    ]


def own_weights(layer: Layer) -> list[Weight]:
    """The weights that `layer` itself made as trainable, even if now frozen, in that order."""
    if isinstance(layer, keras.layers.Layer):
        return list(layer._trainable_variables)
    return distinct(map(whole_weight, layer._trainable_weights))


def trainable_weights(model: Model) -> list[Weight]:
    """The weights of `model` that are not frozen; none of a model in it that is not built."""
    try:
        weights = model.trainable_weights
    except ValueError:  # tf_keras asks each model in it, and one that is not built raises
        weights = list(_trained_in(model))
    return distinct(map(whole_weight, weights))


def _trained_in(layer: Layer) -> Iterator[Weight]:
    if layer.trainable:
        yield from layer._trainable_weights
        for sublayer in sublayers(layer):
            yield from _trained_in(sublayer)


def distinct(values: Iterable[_T]) -> list[_T]:
    """`values` in order, each object once."""
    return list({id(value): value for value in values}.values())


def regularized_weights(layer: Layer, made: Iterable[Weight]) -> list[tuple[Weight, Any]]:
    """Pairs of weight and regularizer: those weights that `layer` made with one of their own."""
    if isinstance(layer, keras.layers.Layer):
        return [(weight, weight.regularizer) for weight in made if weight.regularizer is not None]
    pairs = []
    for loss in layer._callable_losses:
        # The function that add_weight hands to add_loss encloses the regularizer.
        of_weight = loss.args[0] if isinstance(loss, functools.partial) and loss.args else None
        if isinstance(of_weight, functools.partial) and inspect.isfunction(of_weight.func):
            enclosed = inspect.getclosurevars(of_weight.func).nonlocals
            variable = of_weight.args[0]
            if "regularizer" in enclosed and not is_later_shard(variable):
                pairs.append((whole_weight(variable), enclosed["regularizer"]))
    return pairs


def as_default(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Copies `function`, marked so that Keras takes it for its own method and not for a user's."""

    def default(self: Any) -> Any:
        return function(self)

    setattr(default, "_is_default", True)
    return functools.update_wrapper(default, function)


def renew_compiled_functions(model: Model) -> None:
    """Makes `model` trace its next step anew, even in the middle of `fit`."""
    for kind in ("train", "test"):
        if getattr(model, f"{kind}_function", None) is not None:
            make = getattr(model, f"make_{kind}_function")
            if "force" in inspect.signature(make).parameters:
                make(force=True)
            else:  # a user's own
                setattr(model, f"{kind}_function", None)
                make()


def weight_path(weight: Weight, layer_names: Iterable[str]) -> str:
    """The path of `weight`: the names of the layers around it, as they are now, and its own."""
    return "/".join([*layer_names, _own_name(weight)])


def _own_name(weight: Weight) -> str:
    return scoped_path(weight).rsplit("/", 1)[-1]


def was_made_in(weight: Weight, layer: Layer) -> bool:
    """Whether `weight` was made in the name scope of `layer`."""
    scope, _, _ = scoped_path(weight).rpartition("/")
    return f"/{scope}".endswith(f"/{layer.name}")


def has_exact_scope(weight: Weight) -> bool:
    """Whether `weight` was made in the name scope of its own layer.

    In tf_keras, a wrapper may build a layer in the wrapper's scope.
    """
    return isinstance(weight, keras.Variable)


def is_attribute_of_its_name(weight: Weight, layer: Layer) -> bool:
    """Whether `layer` has `weight` as the attribute that its name in `add_weight` suggests."""
    name = _own_name(weight)
    return any(vars(layer).get(attribute) is weight for attribute in (name, f"_{name}"))
