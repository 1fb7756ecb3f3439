"""The weights of a model that the argument `weights` selects, and how they are remembered."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from tfreg import backend
from tfreg.checks import check_config, is_int, nearest, warn_deprecated
from tfreg.inventory import Layer, Model, Variable, Weight, walk
from tfreg.model.contents import Contents
from tfreg.schedules import CubicRamp


class Place(NamedTuple):
    """A "layer" or a "weight" by its place in a model, since loading one may change names."""

    kind: str
    indices: tuple[int, ...]
    shape: tuple[int, ...] | None = None  # of a weight, if known


Predicate: TypeAlias = Callable[[Any, Any], Any]
# The argument `weights` of `tfreg.add_penalty`.
Weights: TypeAlias = str | Predicate | Sequence[str | Layer | Variable] | None


class Selection:
    """Some weights of a model.

    Once all layers of the model are built, it remembers the weights themselves.

    Args:
        choice: None, a regular expression, a predicate on (layer, weight), or a list of places,
            names and paths.
    """

    def __init__(self, choice: str | Predicate | list[str | Place] | None) -> None:
        self._choice = choice
        self._variables: list[Variable] | None = None

    @classmethod
    def in_model(cls, model: Model, weights: Weights) -> "Selection":
        """The selection that the argument `weights` stands for: see `tfreg.add_penalty`."""
        if weights is None:
            return cls(None)
        if isinstance(weights, str):
            return cls(_checked_pattern(weights))
        if isinstance(weights, (list, tuple)) and weights:
            contents = Contents(model)
            # Input layers, which `model.layers` lists, have no weights and no place.
            entries = [entry for entry in weights if not backend.is_input(entry)]
            return cls([_place_of(contents, entry) for entry in _without_shards(entries)])
        is_something_else = backend.is_schedule(weights) or isinstance(weights, CubicRamp)
        is_something_else |= backend.is_layer(weights) or backend.is_variable(weights)
        if callable(weights) and not is_something_else:
            return cls(weights)
        raise TypeError(
            "Argument `weights` must be None, a regular expression, a function of (layer, weight), "
            "or a non-empty list of layers, variables, layer names and weight paths. "
            f"Received: weights={weights!r}"
        )

    @classmethod
    def of_variables(cls, contents: Contents, variables: Sequence[Variable]) -> "Selection":
        """The selection of these weights of a model with the `contents`."""
        return cls([_place_of(contents, variable) for variable in variables])

    def select(self, contents: Contents) -> list[Weight]:
        """The selected weights among the `contents` of a model, in order."""
        if self._variables is not None:
            return self._remembered(contents)
        selected = self._chosen(contents)
        if not selected:
            raise ValueError(
                f"Argument `weights` must select a weight of the model {contents.name!r}. "
                f"Received: weights={self._choice!r}, which none matches{contents.listing()}"
            )
        _check_selected(selected)
        if contents.is_built:
            self._variables = [weight.variable for weight in selected]
        return selected

    def _remembered(self, contents: Contents) -> list[Weight]:
        by_id = contents.weights_by_id
        ids = [id(variable) for variable in self._variables or ()]
        if not by_id.keys() >= set(ids):
            raise ValueError(_GONE.format(name=contents.name))
        return [by_id[key] for key in ids]

    def _chosen(self, contents: Contents) -> list[Weight]:
        if isinstance(self._choice, list):
            return [weight for entry in self._choice for weight in _listed(contents, entry)]
        if self._choice is None:
            return contents.kernels
        if isinstance(self._choice, str):
            return _matching(contents, self._choice)
        accepts = self._choice
        return [weight for weight in contents.weights if accepts(weight.layer, weight.variable)]

    def get_config(self, contents: Contents) -> Any:
        """The selection in JSON's types: by place if the model is built."""
        if contents.model.built:
            return [
                {"weight": list(weight.place), "shape": list(weight.variable.shape)}
                for weight in self.select(contents)
            ]
        if isinstance(self._choice, list):
            return [
                {entry.kind: list(entry.indices)} if isinstance(entry, Place) else entry
                for entry in self._choice
            ]
        if callable(self._choice):
            raise ValueError(
                "The weights of a penalty were given as a function, which selects them once the "
                "model is built. Build the model before it is saved or copied."
            )
        return self._choice

    @classmethod
    def from_config(cls, config: Any) -> "Selection":
        if config is None:
            return cls(None)
        if isinstance(config, str):
            return cls(_checked_pattern(config))
        if isinstance(config, list) and config:
            return cls(
                [entry if isinstance(entry, str) else _place_from(entry) for entry in config]
            )
        raise ValueError(
            "The config of the weights of a penalty must be null, a string or a non-empty list. "
            f"Received: {config!r}"
        )


_GONE = (
    "The model {name!r} does not have a trainable weight where one was penalized: its layers are "
    "not what they were then. Remove the penalties with tfreg.remove_penalties and add them anew."
)


def _place_from(config: Any) -> Place:
    for kind, optional in (("weight", ("shape",)), ("layer", ())):
        if isinstance(config, dict) and kind in config:
            check_config(f"a {kind}'s place", config, (kind,), optional)
            indices, shape = config[kind], config.get("shape", [])
            if _are_counts(indices) and _are_counts(shape, or_unknown=True):
                return Place(kind, tuple(indices), tuple(shape) if "shape" in config else None)
    raise ValueError(
        "The config of the weights of a penalty must list names, paths, and the places of layers "
        f"and weights. Received: {config!r}"
    )


def _are_counts(values: Any, or_unknown: bool = False) -> bool:
    return isinstance(values, (list, tuple)) and all(
        (is_int(value) and value >= 0) or (or_unknown and value is None) for value in values
    )


def _checked_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            "Argument `weights` must be a regular expression. "
            f"Received: weights={pattern!r}: {error}"
        ) from error
    return pattern


def _matching(contents: Contents, pattern: str) -> list[Weight]:
    matching = [weight for weight in contents.weights if re.search(pattern, weight.path)]
    if matching:
        return matching
    # What release 0.5 searched.
    matching = [weight for weight in contents.weights if re.search(pattern, weight.scoped_path)]
    if matching:
        warn_deprecated(
            f"The pattern weights={pattern!r} matches the names that the layers had when they made "
            "their weights",
            f"Match the layers' names as they are now: {[weight.path for weight in matching]}",
        )
    return matching


def _without_shards(entries: Iterable[Any]) -> Iterator[Any]:
    """`entries` with one whole weight in place of its shards, which tf_keras's `weights` lists."""
    seen = set()
    for entry in entries:
        whole = backend.whole_weight(entry)
        if whole is entry or id(whole) not in seen:
            yield whole
        seen.add(id(whole))


def _place_of(contents: Contents, entry: Any) -> str | Place:
    """An entry of a list: a string as it is, a layer or a variable by its place."""
    if isinstance(entry, str):
        return entry
    if backend.is_variable(entry):
        kind, description = "weight", f"the variable {backend.weight_name(entry)}"
        known = contents.weights_by_id.get(id(entry))
        places = [] if known is None else [known.place]
    elif backend.is_layer(entry):
        kind, description = "layer", f"the layer {entry.name!r}"
        places = [place for place, _, layer in contents.layers if layer is entry]
    else:
        raise TypeError(
            "A list as argument `weights` must consist of layers, variables, layer names and "
            f"weight paths. Received: {entry!r}"
        )
    if not places:
        raise ValueError(_not_in(contents, description))
    return Place(kind, places[0])


def _not_in(contents: Contents, description: str) -> str:
    return (
        "Argument `weights` must list layers and trainable weights of the model "
        f"{contents.name!r}. Received: {description}, which is not part of it{contents.listing()}"
    )


def _listed(contents: Contents, entry: str | Place) -> list[Weight]:
    """The weights that one entry of a list stands for."""
    if isinstance(entry, str):
        named = [place for place, _, layer in contents.layers if place and layer.name == entry]
        pathed = [weight for weight in contents.weights if weight.path == entry]
        if not pathed and not named:  # `variable.path` of Keras 3
            pathed = [weight for weight in contents.weights if weight.scoped_path == entry]
        if len(named) + len(pathed) > 1:
            raise ValueError(
                "Argument `weights` must name layers and weights unambiguously: list the layers or "
                f"variables themselves. Received: {entry!r}, the name of {len(named)} layers and "
                f"{len(pathed)} weights of the model {contents.name!r}"
            )
        if pathed:
            return pathed
        if not named:
            names = [layer.name for _, _, layer in contents.layers]
            paths = [weight.path for weight in contents.weights]
            raise ValueError(_not_in(contents, repr(entry)) + nearest(entry, names + paths))
        entry = Place("layer", named[0])
    if entry.kind == "weight":
        return [_weight_at(contents, entry)]
    at_place = [layer for place, _, layer in contents.layers if place == entry.indices]
    if not at_place:
        raise ValueError(_GONE.format(name=contents.name))
    [layer] = at_place
    inside = {id(sublayer) for _, _, sublayer in walk(layer)}
    kernels = [weight for weight in contents.kernels if id(weight.layer) in inside]
    paths = [weight.path for weight in contents.weights if id(weight.layer) in inside]
    if paths and not kernels:
        raise ValueError(
            "Argument `weights` must list layers that have a kernel, or the weights themselves. "
            f"Received: the layer {layer.name!r}, which has the weights {paths}"
        )
    return kernels


def _weight_at(contents: Contents, place: Place) -> Weight:
    weight = contents.weights_by_place.get(place.indices)
    if weight is None or place.shape not in (None, tuple(weight.variable.shape)):
        raise ValueError(_GONE.format(name=contents.name))
    return weight


def _check_selected(selected: list[Weight]) -> None:
    seen: set[int] = set()
    for weight in selected:
        if id(weight.variable) in seen:
            raise ValueError(
                f"Argument `weights` must select each weight once. Received: {weight.path!r} twice"
            )
        seen.add(id(weight.variable))


def check_no_lora(weights: list[Weight]) -> None:
    """Raises a ValueError if a layer that made one of the `weights` has LoRA enabled."""
    for weight in weights:
        if getattr(weight.layer, "lora_enabled", False):
            raise ValueError(
                f"The layer {weight.layer.name!r} has LoRA enabled: its kernel is the sum of a "
                "frozen weight and the product of the factors that are trained, which no penalty "
                f"sees. Received: {weight.path!r}. Select weights of other layers, after "
                "tfreg.remove_penalties(model) if it was selected before."
            )
