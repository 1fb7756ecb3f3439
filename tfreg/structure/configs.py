"""A new model from the configs of an old one, edited."""

from collections.abc import Callable
from typing import Any, TypeVar

from tfreg import backend
from tfreg.backend import rebuilding
from tfreg.inventory import Layer, Model
from tfreg.model.penalized import is_penalized, own_class

M = TypeVar("M", bound=Model)


def rebuilt(model: M, edit: Callable[[Any, dict[str, Any]], dict[str, Any]]) -> M:
    """A built model like `model`, of new layers made from edited configs.

    Layers keep their names and are called as they were; one that was shared or called several
    times still is. Custom layers, functions and initializers need not be registered. The weights
    are new, and the model is neither compiled nor penalized. `model` does not change.

    Args:
        model: a built Functional or Sequential model; or one with the `get_config` and
            `from_config` that saving needs.
        edit: given a layer of `model`, or an operation between its layers, and its config, returns
            the config of the new one. It is called for every layer that a config describes: those
            of nested models, in wrappers, and RNN cells too, the innermost first. In the config,
            what is not plain data may be a reference to an object. The call of a function, such as
            `keras.ops.add` or a TensorFlow function, is edited too: as a config whose one entry,
            `"call"`, has the `"args"` and `"kwargs"`, with symbolic tensors in them.

    Returns:
        The new model. A Functional model whose class has a constructor of its own becomes a plain
        `keras.Model`.
    """
    return rebuilding.Rebuilding(edit, _plain_class).model(model)


def _plain_class(layer: Layer) -> Any:
    return own_class(layer) if backend.is_model(layer) and is_penalized(layer) else type(layer)
