"""What is in a model: its layers, the weights that each made, and their paths."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from tfreg import backend

Model: TypeAlias = backend.Model
Layer: TypeAlias = backend.Layer
Variable: TypeAlias = backend.Weight
# A layer with its place in a model and the names of the layers around it.
Located: TypeAlias = tuple[tuple[int, ...], tuple[str, ...], Layer]


class Weight(NamedTuple):
    """A weight of a model and a layer that holds it.

    Its `place` lists the indices of layers within layers, then that among the layer's own weights.
    """

    place: tuple[int, ...]
    path: str
    layer: Layer
    variable: Variable

    @property
    def scoped_path(self) -> str:
        """The path with the names that the layers had when the weight was made."""
        return backend.scoped_path(self.variable)


class Member(NamedTuple):
    """A weight in which the entries of a coupling have slices.

    The `slices` are pairs of an axis and an int array of shape `(size, n)`, whose row k lists the
    indices of entry k along that axis. Several pairs are slices along several axes, as the rows and
    columns of a recurrent kernel: an entry is the union of its slices, and an element that is in
    two of them counts once.
    """

    variable: Variable
    path: str
    slices: tuple[tuple[int, np.ndarray], ...]


@runtime_checkable
class HasMembers(Protocol):
    """What a coupling tells of itself: its entries are the rows of its members' slices.

    `group_weight` is the weight of each entry's norm, or None where a penalty chooses that.
    """

    @property
    def size(self) -> int: ...

    @property
    def members(self) -> Sequence[Member]: ...

    @property
    def group_weight(self) -> float | None: ...


def walk(
    layer: Layer,
    place: tuple[int, ...] = (),
    names: tuple[str, ...] = (),
    seen: set[int] | None = None,
) -> Iterator[Located]:
    """`layer` and every layer in it, each once, from the outside in.

    Yields the place, the names of the layers around it, and the layer.
    """
    seen = set() if seen is None else seen
    if id(layer) not in seen:
        seen.add(id(layer))
        yield place, names, layer
        for i, sublayer in enumerate(backend.sublayers(layer)):
            yield from walk(sublayer, (*place, i), (*names, sublayer.name), seen)


def holdings(layers: Iterable[Located]) -> list[list[Weight]]:
    """For each weight that `layers`, as `walk` gives them, hold: a `Weight` for each holder."""
    found: dict[int, list[Weight]] = {}
    for place, names, layer in layers:
        for i, variable in enumerate(backend.own_weights(layer)):
            path = backend.weight_path(variable, names)
            found.setdefault(id(variable), []).append(Weight((*place, i), path, layer, variable))
    return list(found.values())


def made(holders: list[Weight]) -> Weight:
    """The one of the `holders` of a weight whose layer made it.

    A wrapper that keeps its layer's kernel as an attribute of its own holds it too, and so does a
    layer that shares the weight of another.
    """
    if len(holders) == 1:
        return holders[0]

    def evidence(weight: Weight) -> tuple[bool, ...]:
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
