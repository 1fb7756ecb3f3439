"""What is in a model now: its layers, weights, layouts, and which of them are trained."""

import functools

from tfreg import backend
from tfreg.inventory import Layer, Located, Variable, Weight, holdings, made, walk
from tfreg.layers.registry import weight_layouts
from tfreg.layout import Layout


class Contents:
    """What is in a model now; each part is looked up once."""

    def __init__(self, model: Layer) -> None:
        self.model = model
        self.name = model.name

    @functools.cached_property
    def layers(self) -> list[Located]:
        """Every layer with its place and the names of the layers around it."""
        return list(walk(self.model))

    @functools.cached_property
    def is_built(self) -> bool:
        """Whether all layers have made their weights."""
        return all(layer.built for _, _, layer in self.layers)

    @functools.cached_property
    def _holdings(self) -> list[list[Weight]]:
        return holdings(self.layers)

    @functools.cached_property
    def weights(self) -> list[Weight]:
        """Every weight that was made to be trained, frozen or not, with the layer that made it."""
        return [made(holders) for holders in self._holdings]

    @functools.cached_property
    def weights_by_place(self) -> dict[tuple[int, ...], Weight]:
        """The weights by their places in all the layers that hold them."""
        return {
            holder.place: weight
            for holders, weight in zip(self._holdings, self.weights)
            for holder in holders
        }

    @functools.cached_property
    def weights_by_id(self) -> dict[int, Weight]:
        """The weights by the ids of their variables."""
        return {id(weight.variable): weight for weight in self.weights}

    def made_by(self, layer: Layer) -> list[Variable]:
        """The weights that `layer` made, as variables."""
        return [weight.variable for weight in self.weights if weight.layer is layer]

    @functools.cached_property
    def layouts(self) -> dict[int, Layout]:
        """The layouts of the weights by their ids."""
        return weight_layouts(self.model)

    @functools.cached_property
    def kernels(self) -> list[Weight]:
        layouts = self.layouts
        return [
            weight
            for weight in self.weights
            if id(weight.variable) in layouts and layouts[id(weight.variable)].is_kernel
        ]

    @functools.cached_property
    def trainable(self) -> set[int]:
        """The ids of the weights that are not frozen."""
        return {id(variable) for variable in backend.trainable_weights(self.model)}

    def listing(self) -> str:
        paths = [weight.path for weight in self.weights]
        return f". There are: {paths}" if paths else ""
