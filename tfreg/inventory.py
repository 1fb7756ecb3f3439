"""What is in a model: its layers, the weights that each made, and their paths."""

from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf

from tfreg import backend

Model: TypeAlias = backend.keras.Model | backend.tf_keras.Model
Layer: TypeAlias = backend.keras.layers.Layer | backend.tf_keras.layers.Layer
Variable: TypeAlias = backend.keras.Variable | tf.Variable | backend.ShardedVariable


class Weight(NamedTuple):
    """A weight of a model, the layer that made it, and where that stands."""

    place: tuple[int, ...]  # the indices of layers in layers, then that among the layer's weights
    path: str
    layer: Any
    variable: Any

    @property
    def scoped_path(self):
        """The path with the names that the layers had when the weight was made."""
        return backend.scoped_path(self.variable)


def walk(layer, place=(), names=(), seen=None):
    """`layer` and every layer in it, each once, from the outside in: place, names around, layer."""
    seen = set() if seen is None else seen
    if id(layer) not in seen:
        seen.add(id(layer))
        yield place, names, layer
        for i, sublayer in enumerate(backend.sublayers(layer)):
            yield from walk(sublayer, (*place, i), (*names, sublayer.name), seen)


def holdings(layers):
    """For each weight that `layers`, as `walk` gives them, hold: a `Weight` for each holder."""
    found: dict[int, list[Weight]] = {}
    for place, names, layer in layers:
        for i, variable in enumerate(backend.own_weights(layer)):
            path = backend.weight_path(variable, names)
            found.setdefault(id(variable), []).append(Weight((*place, i), path, layer, variable))
    return list(found.values())


def made(holders):
    """The one among `holders` of a weight whose layer made it.

    A wrapper that keeps its layer's kernel as an attribute of its own holds it too, and so does a
    layer that shares the weight of another.
    """
    if len(holders) == 1:
        return holders[0]

    def evidence(weight):
        inside = {id(layer) for _, _, layer in walk(weight.layer)}
        encloses_another = any(
            other is not weight and id(other.layer) in inside for other in holders
        )
        in_scope = backend.was_made_in(weight.variable, weight.layer)
        return (
            in_scope and backend.has_exact_scope(weight.variable),
            not encloses_another,
            in_scope,
            backend.is_attribute_of_its_name(weight.variable, weight.layer),
        )

    return max(holders, key=evidence)  # the first of equals
