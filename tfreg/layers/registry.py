"""What each axis of a layer's weights means: registered by class, looked up by weight."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import tensorflow as tf

from tfreg import backend
from tfreg.inventory import Layer, Variable, Weight, holdings, made, walk
from tfreg.layout import Layout, Part

Entry: TypeAlias = str | tuple[str | tuple[str, int], ...]
Axes: TypeAlias = tuple[Entry, ...]
AxesOf: TypeAlias = Callable[[Any], Axes | None]

# The `layouts` of each class.
_registered: dict[type, dict[str, Axes | AxesOf]] = {}


def register(layer_class: type[Layer], layouts: Mapping[str, Axes | AxesOf]) -> None:
    """Declares what each axis of the weights of a layer class means.

    Under `tfreg.add_penalty`, `axis="output"`, `"input"`, `"shape"` and `"head"` of a penalty then
    follow it. A weight that nothing is registered for counts as a kernel like that of a Dense or
    Conv layer if it has several axes, and as a bias if it has one.

    Args:
        layer_class: a layer class of Keras 3 or tf_keras. Its subclasses inherit what is
            registered for it, and may replace it weight by weight.
        layouts: a dict with the axes of each weight, by the attribute of the layer that holds the
            weight or a list of such weights. A dotted attribute, `"query.kernel"`, is that of a
            sublayer, and overrides what is registered for the sublayer's class.
            The axes are a tuple with an entry for each axis. An entry is a string of one or more
            of the words

            - `"input"`: what the layer reads: features, channels. A weight with such an axis is a
              kernel
            - `"output"`: what it yields: units, filters
            - `"position"`: positions of a convolution's kernel
            - `"head"`: the heads of an attention, besides "input" or "output"
            - `"group"`: the groups of a grouped convolution, besides "input" and "output": each
              reads channels and yields filters of its own. "input" alone then counts the channels
              of one group
            - `"gate"`: the gates of a recurrent cell
            - `"feature"`: none of these, such as the dimensions of an embedding

            or, for an axis that holds several in row-major order, a tuple with a pair of such a
            string and a length for each, or, for one of them, the string alone:
            `("input", (("gate", 4), "output"))` is the kernel of an LSTM, and
            `("position", "input", (("group input output", 2), "output"))` that of a Conv1D layer
            with two groups. If the axes depend on the layer, pass a function of the layer that
            returns them, or None where it cannot tell.

    Raises:
        ValueError: for any other `layer_class` or `layouts`.

    Example:

    >>> class Linear(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.kernel = self.add_weight(shape=(16, shape[-1]))
    ...
    ...     def call(self, x):
    ...         return x @ keras.ops.transpose(self.kernel)
    ...
    >>> tfreg.layers.register(Linear, {"kernel": ("output", "input")})
    """
    if not isinstance(layer_class, type) or not issubclass(layer_class, _LAYERS):
        raise ValueError(
            "Argument `layer_class` must be a layer class of Keras 3 or tf_keras. "
            f"Received: layer_class={layer_class!r}"
        )
    if not isinstance(layouts, dict) or not all(map(_is_attribute, layouts)):
        raise ValueError(
            "Argument `layouts` must be a dict whose keys are the names of attributes. "
            f"Received: layouts={layouts!r}"
        )
    for axes in layouts.values():
        if not callable(axes):
            Layout(axes)
    _registered[layer_class] = dict(layouts)


_LAYERS = (backend.keras.layers.Layer, backend.tf_keras.layers.Layer)


def _is_attribute(key: object) -> bool:
    return isinstance(key, str) and all(name.isidentifier() for name in key.split("."))


def weight_layouts(layer: Layer) -> dict[int, Layout]:
    """The layouts of the weights in `layer`, by the weights' ids."""
    weights = _weights(layer)
    positional = {
        key: Layout.positional(len(weight.variable.shape)) for key, weight in weights.items()
    }
    return positional | _registered_for(layer, weights)


def registered_layouts(layer: Layer) -> dict[int, Layout]:
    """Like `weight_layouts`, without the weights that nothing is registered for."""
    return _registered_for(layer, _weights(layer))


def _registered_for(layer: Layer, weights: dict[int, Weight]) -> dict[int, Layout]:
    layouts: dict[int, Layout] = {}
    for sublayer in _inner_first(layer):
        # An enclosing layer knows better what the weights of its sublayers are for.
        layouts |= _layouts_known_to(sublayer, weights)
    return layouts


def _weights(layer: Layer) -> dict[int, Weight]:
    """The weights in `layer` that a penalty can apply to, by their ids."""
    return {
        id(weight.variable): weight
        for weight in map(made, holdings(walk(layer)))
        if len(weight.variable.shape) > 0 and tf.as_dtype(weight.variable.dtype).is_floating
    }


def _inner_first(layer: Layer) -> list[Layer]:
    """`layer` and all layers in it, each once and after the layers that it encloses."""
    seen: set[int] = set()
    ordered: list[Layer] = []

    def visit(layer: Layer) -> None:
        if id(layer) not in seen:
            seen.add(id(layer))
            for sublayer in backend.sublayers(layer):
                visit(sublayer)
            ordered.append(layer)

    visit(layer)
    return ordered


def _layouts_known_to(layer: Layer, weights: dict[int, Weight]) -> dict[int, Layout]:
    """The layouts of `weights` that are registered for the class of `layer`."""
    layouts: dict[int, Layout | None] = {}
    for layer_class in reversed(type(layer).__mro__):
        for attribute, axes in _registered.get(layer_class, {}).items():
            for value in _values_at(layer, attribute):
                # None, and the sum of a kernel and its LoRA factors, are no weights.
                weight = weights.get(id(value))
                # A layer does not describe weights of others that it shares.
                if weight and (weight.layer is layer or "." in attribute):
                    layouts[id(value)] = _layout(axes, layer, attribute, value)
    return {key: layout for key, layout in layouts.items() if layout is not None}


def _values_at(layer: Layer, attribute: str) -> list[Any]:
    """What `layer` has under `attribute`, which may be dotted or hold lists."""
    values: list[Any] = [layer]
    for name in attribute.split("."):
        found = [_value_at(value, name) for value in values]
        values = []
        for value in found:
            values += value if isinstance(value, (list, tuple)) else [value]
    return values


def _value_at(holder: Any, name: str) -> Any:
    # Layers of Keras 3 compute `kernel` from the weight `_kernel`, LoRA and quantization included.
    if isinstance(getattr(type(holder), name, None), property) and hasattr(holder, f"_{name}"):
        name = f"_{name}"
    return getattr(holder, name, None)


def _layout(axes: Axes | AxesOf, layer: Layer, attribute: str, weight: Variable) -> Layout | None:
    """The layout with these `axes`, which must fit the `weight`; None if a function cannot tell."""
    known = axes(layer) if callable(axes) else axes
    if known is None:
        return None
    place = f"{type(layer).__name__}.{attribute}"
    shape = tuple(weight.shape)
    try:
        layout = Layout(known)
    except ValueError as error:
        raise ValueError(f"What is registered for {place} must return a layout. {error}") from error
    if len(layout.axes) != len(shape) or not all(map(_holds, layout.axes, shape)):
        raise ValueError(
            f"The layout that is registered for {place} must have an entry for each axis of the "
            "weight, with lengths whose product is the axis's, or divides it if one is left out. "
            f"Received: {known!r} for a weight of shape {shape}"
        )
    return layout


def _holds(parts: tuple[Part, ...], length: int) -> bool:
    """Whether an axis of that `length` can hold the `parts`."""
    known = math.prod(part.length or 1 for part in parts)
    if any(part.length is None for part in parts):
        return length % known == 0
    return length == known
