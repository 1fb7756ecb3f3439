"""A model of either Keras: its layers, their weights, and its compiled functions."""

import functools
import inspect

from tfreg.backend.apis import is_input, keras
from tfreg.backend.tensors import is_later_shard, scoped_path, whole_weight


def sublayers(layer):
    """The layers that `layer` holds itself, each once, in the order in which it got them.

    Without those for input, which come and go as a model is built.
    """
    return [
        sublayer
        for sublayer in layer._flatten_layers(include_self=False, recursive=False)
        if not is_input(sublayer)
    ]


def own_weights(layer):
    """The weights that `layer` itself made to be trained, frozen or not, in that order."""
    if isinstance(layer, keras.layers.Layer):
        return list(layer._trainable_variables)
    return distinct(map(whole_weight, layer._trainable_weights))


def trainable_weights(model):
    """The weights of `model` that are not frozen."""
    return distinct(map(whole_weight, model.trainable_weights))


def distinct(values):
    """`values` in order, each object once."""
    return list({id(value): value for value in values}.values())


def regularized_weights(layer, made):
    """The weights with a regularizer of their own among those that `layer` made, each with it."""
    if isinstance(layer, keras.layers.Layer):
        return [(weight, weight.regularizer) for weight in made if weight.regularizer is not None]
    pairs = []
    for loss in layer._callable_losses:
        # add_weight hands add_loss a function of the weight that encloses the regularizer.
        of_weight = loss.args[0] if isinstance(loss, functools.partial) and loss.args else None
        if isinstance(of_weight, functools.partial) and inspect.isfunction(of_weight.func):
            enclosed = inspect.getclosurevars(of_weight.func).nonlocals
            variable = of_weight.args[0]
            if "regularizer" in enclosed and not is_later_shard(variable):
                pairs.append((whole_weight(variable), enclosed["regularizer"]))
    return pairs


def as_default(function):
    """A copy of `function` that Keras takes for its own method and not for a user's."""

    def default(self):
        return function(self)

    setattr(default, "_is_default", True)
    return functools.update_wrapper(default, function)


def renew_compiled_functions(model):
    """Has the next step of `model` traced anew, one in the middle of `fit` too."""
    for kind in ("train", "test"):
        if getattr(model, f"{kind}_function", None) is not None:
            make = getattr(model, f"make_{kind}_function")
            if "force" in inspect.signature(make).parameters:
                make(force=True)
            else:  # a user's own
                setattr(model, f"{kind}_function", None)
                make()


def weight_path(weight, layer_names):
    """The path of `weight`: the names of the layers around it, as they are now, and its own."""
    return "/".join([*layer_names, _own_name(weight)])


def _own_name(weight):
    return scoped_path(weight).rsplit("/", 1)[-1]


def was_made_in(weight, layer):
    """Whether the name scope in which `weight` was made is that of `layer`."""
    scope, _, _ = scoped_path(weight).rpartition("/")
    return f"/{scope}".endswith(f"/{layer.name}")


def has_exact_scope(weight):
    """Whether the name scope in which `weight` was made is that of the layer that made it.

    In tf_keras it is the wrapper's where that builds the layer in it.
    """
    return isinstance(weight, keras.Variable)


def is_attribute_of_its_name(weight, layer):
    """Whether `layer` holds `weight` under the name of the weight, as `add_weight` calls it."""
    name = _own_name(weight)
    return any(vars(layer).get(attribute) is weight for attribute in (name, f"_{name}"))
