"""What each axis of the weights of a layer means: registered by class, looked up by weight."""

import math

import tensorflow as tf

from tfreg import backend
from tfreg.inventory import holdings, made, walk
from tfreg.layout import Layout

# For each class, what `register` was given: the axes, or what tells them, of each attribute.
_registered: dict[type, dict] = {}


def register(layer_class, layouts):
    """Says what each axis of the weights of a class of layers means.

    Over a model, `axis="output"`, `"input"`, `"shape"` and `"head"` of a penalty then follow it. A
    weight that nothing is registered for is taken for a kernel like that of a Dense or Conv layer
    if it has several axes, and for a bias if it has one.

    Args:
        layer_class: a layer class of Keras 3 or tf_keras. Its subclasses inherit what is
            registered for it, and may replace it weight by weight.
        layouts: a dict with the axes of each weight, by the attribute of the layer that holds the
            weight or a list of such weights. The attribute is dotted for a weight of a sublayer,
            `"query.kernel"`, and comes before what is registered for the sublayer's class.
            The axes are a tuple with an entry for each axis. It is a string of one or more of
            the words

            - `"input"`: what the layer reads: features, channels. A weight is taken for a kernel
              if it has such an axis
            - `"output"`: what it yields: units, filters
            - `"position"`: positions of a convolution's kernel
            - `"head"`: the heads of an attention, besides "input" or "output"
            - `"group"`: the groups of a grouped convolution, besides "input" and "output": each
              reads channels and yields filters of its own. "input" alone then counts the channels
              of one group
            - `"gate"`: the gates of a recurrent cell
            - `"feature"`: none of these, as the dimensions of an embedding

            or, for an axis that holds several in row-major order, a tuple with such a string or
            a pair of a string and a length for each, of which one may do without the length:
            `("input", (("gate", 4), "output"))` is the kernel of an LSTM, and
            `("position", "input", (("group input output", 2), "output"))` that of a Conv1D layer
            with two groups. Where the axes depend on the layer, a callable of the layer returns
            them, or None where it cannot tell.

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


def _is_attribute(key):
    return isinstance(key, str) and all(name.isidentifier() for name in key.split("."))


def weight_layouts(layer):
    """The layouts of the weights in `layer`, by the weights' ids."""
    weights = _weights(layer)
    positional = {
        key: Layout.positional(len(weight.variable.shape)) for key, weight in weights.items()
    }
    return positional | _registered_for(layer, weights)


def registered_layouts(layer):
    """Those of `weight_layouts` that something is registered for."""
    return _registered_for(layer, _weights(layer))


def _registered_for(layer, weights):
    layouts: dict[int, Layout] = {}
    for sublayer in _inner_first(layer):
        # An enclosing layer knows what the weight of a sublayer is for.
        layouts |= _layouts_known_to(sublayer, weights)
    return layouts


def _weights(layer):
    """The weights in `layer` that a penalty can apply to, by their ids."""
    return {
        id(weight.variable): weight
        for weight in map(made, holdings(walk(layer)))
        if len(weight.variable.shape) > 0 and tf.as_dtype(weight.variable.dtype).is_floating
    }


def _inner_first(layer):
    """`layer` and all layers in it, each once and none before a layer that it encloses."""
    entered: set[int] = set()
    left = []

    def visit(layer):
        if id(layer) not in entered:
            entered.add(id(layer))
            for sublayer in backend.sublayers(layer):
                visit(sublayer)
            left.append(layer)

    visit(layer)
    return left


def _layouts_known_to(layer, weights):
    """The layouts, of the `weights` by id, that are registered for the class of `layer`."""
    layouts: dict[int, Layout | None] = {}
    for layer_class in reversed(type(layer).__mro__):
        for attribute, axes in _registered.get(layer_class, {}).items():
            for value in _values_at(layer, attribute):
                # It may be None, and the sum of a kernel and its LoRA factors is no weight.
                weight = weights.get(id(value))
                # What a layer merely shares is not for it to describe.
                if weight and (weight.layer is layer or "." in attribute):
                    layouts[id(value)] = _layout(axes, layer, attribute, value)
    return {key: layout for key, layout in layouts.items() if layout is not None}


def _values_at(layer, attribute):
    """What `layer` has under `attribute`, which may be dotted or hold lists."""
    values = [layer]
    for name in attribute.split("."):
        found = [_value_at(value, name) for value in values]
        values = []
        for value in found:
            values += value if isinstance(value, (list, tuple)) else [value]
    return values


def _value_at(holder, name):
    # Layers of Keras 3 compute `kernel` from the weight `_kernel`, LoRA and quantization included.
    if isinstance(getattr(type(holder), name, None), property) and hasattr(holder, f"_{name}"):
        name = f"_{name}"
    return getattr(holder, name, None)


def _layout(axes, layer, attribute, weight):
    """The layout that `axes`, which must fit the `weight`, stand for; None if they cannot tell."""
    if callable(axes):
        axes = axes(layer)
    if axes is None:
        return None
    place = f"{type(layer).__name__}.{attribute}"
    shape = tuple(weight.shape)
    try:
        layout = Layout(axes)
    except ValueError as error:
        raise ValueError(f"What is registered for {place} must return a layout. {error}") from error
    if len(layout.axes) != len(shape) or not all(map(_holds, layout.axes, shape)):
        raise ValueError(
            f"The layout that is registered for {place} must have an entry for each axis of the "
            "weight, with lengths that the axis is made up of. "
            f"Received: {axes!r} for a weight of shape {shape}"
        )
    return layout


def _holds(parts, length):
    """Whether an axis of that `length` can hold the `parts`."""
    known = math.prod(part.length or 1 for part in parts)
    if any(part.length is None for part in parts):
        return length % known == 0
    return length == known
