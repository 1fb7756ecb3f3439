"""Which weights of a model: what the argument `weights` selects, and remembering it."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from tfreg import backend, layers


class Weight(NamedTuple):
    """A weight of a model, the layer that made it, and where that stands."""

    place: tuple[int, ...]  # the indices of layers in layers, then that among the layer's weights
    path: str
    layer: Any
    variable: Any


class Place(NamedTuple):
    """A "layer" or a "weight" by its place in a model: names change when one is loaded."""

    kind: str
    indices: tuple[int, ...]


def walk(layer, place=(), names=(), seen=None):
    """`layer` and every layer in it, each once, from the outside in: place, names around, layer."""
    seen = set() if seen is None else seen
    if id(layer) not in seen:
        seen.add(id(layer))
        yield place, names, layer
        for i, sublayer in enumerate(backend.sublayers(layer)):
            yield from walk(sublayer, (*place, i), (*names, sublayer.name), seen)


def weights_of(model):
    """Every weight in `model` that was made to be trained, once."""
    found: dict[int, Weight] = {}
    for place, names, layer in walk(model):
        for i, variable in enumerate(backend.own_weights(layer)):
            path = backend.weight_path(variable, names)
            found.setdefault(id(variable), Weight((*place, i), path, layer, variable))
    return list(found.values())


class Selection:
    """Some weights of a model.

    Args:
        choice: None, a regular expression, a predicate on (layer, weight), or a list of places and
            of names and paths. Once the model is built, it is the list of the places of the
            selected weights.
    """

    def __init__(self, choice):
        self.choice: str | Callable | list[str | Place] | None = choice

    @classmethod
    def in_model(cls, model, weights):
        """The selection that the argument `weights` stands for: see `tfreg.add_penalty`."""
        if weights is None:
            return cls(None)
        if isinstance(weights, str):
            return cls(_checked_pattern(weights))
        if isinstance(weights, (list, tuple)) and weights:
            return cls([_place_of(model, entry) for entry in weights])
        if callable(weights) and not backend.is_layer(weights) and not backend.is_variable(weights):
            return cls(weights)
        raise TypeError(
            "Argument `weights` must be None, a regular expression, a function of (layer, weight), "
            "or a non-empty list of layers, variables, layer names and weight paths. "
            f"Received: weights={weights!r}"
        )

    def select(self, model):
        """The selected weights of the built `model`, in order; it remembers where they stand."""
        candidates = weights_of(model)
        if isinstance(self.choice, list):
            selected = [
                weight for entry in self.choice for weight in _listed(model, entry, candidates)
            ]
        elif self.choice is None:
            selected = _kernels(model, candidates)
        elif isinstance(self.choice, str):
            selected = [weight for weight in candidates if re.search(self.choice, weight.path)]
        else:
            selected = [
                weight for weight in candidates if self.choice(weight.layer, weight.variable)
            ]
        if not selected:
            raise ValueError(
                f"Argument `weights` must select a weight of the model {model.name!r}. "
                f"Received: weights={self.choice!r}, which none matches{_there_are(candidates)}"
            )
        _check_selected(selected)
        self.choice = [Place("weight", weight.place) for weight in selected]
        return selected

    def get_config(self):
        """The choice in JSON's types."""
        if isinstance(self.choice, list):
            return [
                {entry.kind: list(entry.indices)} if isinstance(entry, Place) else entry
                for entry in self.choice
            ]
        if callable(self.choice):
            raise ValueError(
                "The weights of a penalty were given as a function, which is asked once the model "
                "is built. Build the model before it is saved or copied."
            )
        return self.choice

    @classmethod
    def from_config(cls, config):
        if not isinstance(config, list):
            return cls(config)
        return cls([entry if isinstance(entry, str) else _place_from(entry) for entry in config])


def _place_from(config):
    [(kind, indices)] = config.items()
    return Place(kind, tuple(indices))


def _checked_pattern(pattern):
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"Argument `weights` must be a regular expression. Received: weights={pattern!r}, "
            f"of which re says: {error}"
        ) from error
    return pattern


def _place_of(model, entry):
    """An entry of a list, with its place for a layer or a variable."""
    if isinstance(entry, str):
        return entry
    if backend.is_variable(entry):
        kind, called = "weight", f"the variable {backend.weight_name(entry)}"
        places = [weight.place for weight in weights_of(model) if weight.variable is entry]
    elif backend.is_layer(entry):
        kind, called = "layer", f"the layer {entry.name!r}"
        places = [place for place, _, layer in walk(model) if layer is entry]
    else:
        raise TypeError(
            "A list as argument `weights` must consist of layers, variables, layer names and "
            f"weight paths. Received: {entry!r}"
        )
    if not places:
        raise ValueError(_not_in(model, called, weights_of(model)))
    return Place(kind, places[0])


def _not_in(model, called, candidates):
    return (
        f"Argument `weights` must list layers and trainable weights of the model {model.name!r}. "
        f"Received: {called}, which is not part of it{_there_are(candidates)}"
    )


def _there_are(candidates):
    paths = [weight.path for weight in candidates]
    return f". There are: {paths}" if paths else ""


def _listed(model, entry, candidates):
    """The weights that one entry of a list stands for."""
    if isinstance(entry, str):
        named = [place for place, _, layer in walk(model) if place and layer.name == entry]
        pathed = [weight for weight in candidates if weight.path == entry]
        if len(named) + len(pathed) > 1:
            raise ValueError(
                "Argument `weights` must name layers and weights of which there is one. Received: "
                f"{entry!r}, which {len(named)} layers and {len(pathed)} weights of the model "
                f"{model.name!r} are called. List the layers or the variables themselves"
            )
        if pathed:
            return pathed
        if not named:
            raise ValueError(_not_in(model, repr(entry), candidates))
        entry = Place("layer", named[0])
    if entry.kind == "weight":
        at_place = [weight for weight in candidates if weight.place == entry.indices]
        if not at_place:
            raise ValueError(
                f"The model {model.name!r} has no trainable weight at the place {entry.indices} "
                "where one was penalized: its layers are not what they were then. Remove the "
                "penalties with tfreg.remove_penalties and add them anew."
            )
        return at_place
    layer = model
    for i in entry.indices:
        layer = backend.sublayers(layer)[i]
    inside = {id(sublayer) for _, _, sublayer in walk(layer)}
    kernels = [weight for weight in _kernels(model, candidates) if id(weight.layer) in inside]
    if not kernels:
        paths = [weight.path for weight in candidates if id(weight.layer) in inside]
        raise ValueError(
            "Argument `weights` must list layers that have a kernel, or else the weight itself. "
            f"Received: the layer {layer.name!r}, which has the weights {paths}"
        )
    return kernels


def _kernels(model, candidates):
    layouts = layers.weight_layouts(model)
    return [
        weight
        for weight in candidates
        if id(weight.variable) in layouts and layouts[id(weight.variable)].is_kernel
    ]


def _check_selected(selected):
    seen = set()
    for weight in selected:
        if id(weight.variable) in seen:
            raise ValueError(
                f"Argument `weights` must select each weight once. Received: {weight.path!r} twice"
            )
        seen.add(id(weight.variable))
        if getattr(weight.layer, "lora_enabled", False):
            raise ValueError(
                f"The layer {weight.layer.name!r} has LoRA enabled: Keras trains only the factors "
                f"of the weight {weight.path!r}, which no penalty on it reaches. Select other "
                "weights."
            )
