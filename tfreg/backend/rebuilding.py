"""Rebuilding a model of either API from edited configs: copies of its layers, called alike."""

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from tfreg.backend.apis import Layer, Model, api_of, is_layer, is_model, keras, tf_keras
from tfreg.backend.graphs import all_variables, flat_tensors, has_own_call, mapped, network_of
from tfreg.backend.references import References, named_by, naming

# Marks the config of a layer that another layer's config holds.
_MARK = "tfreg_layer"
# The key of the arguments of an operation's call in the config that is edited.
CALL = "call"

Edit = Callable[[Any, dict[str, Any]], dict[str, Any]]


class Rebuilding:
    """Makes copies of the layers of one model, each once, so that what is shared stays shared.

    Args:
        edit: given a layer or an operation of the old model and its config, the new config. It is
            called on inner layers before those around them.
        class_of: the class of a layer's copy.
    """

    def __init__(self, edit: Edit, class_of: Callable[[Any], Any] = type) -> None:
        self._edit = edit
        self._class_of = class_of
        self._copies: dict[int, Any] = {}
        self._originals: dict[int, Any] = {}  # which keeps the ids valid
        self._references = References()
        self._layers: list[Layer] = []
        self._markers: list[Callable[[], dict[str, Any]]] = []

    def model(self, old: Model) -> Model:
        """A built copy of the model, made in the scope of its distribution strategy."""
        self._layers = _layers_in(old)
        self._markers = [
            functools.partial(dict, {"name": layer.name, _MARK: i})
            for i, layer in enumerate(self._layers)
        ]
        with scope_of(old), self._names_of(old):
            new = self.copy(old)
            if not new.built:
                _build(old, new)
            self._build_what_is_called_inside()
        return new

    def _build_what_is_called_inside(self) -> None:
        """Builds layers that others call as functions, such as an activation with weights."""
        for number, old in self._originals.items():
            copy = self._copies[number]
            if is_layer(old) and old.built and not copy.built and all_variables(old):
                copy.build_from_config(old.get_build_config())

    def copy(self, old: Any) -> Any:
        """The copy of a layer or of an operation."""
        if id(old) not in self._copies:
            self._originals[id(old)] = old
            self._copies[id(old)] = self._copied(old)
        return self._copies[id(old)]

    def _copied(self, old: Any) -> Any:
        if not is_layer(old):
            return self._operation(old)
        if isinstance(old, (keras.Sequential, tf_keras.Sequential)):
            return _with_policy_of(old, self._sequential(old))
        if is_model(old) and network_of(old) is not None:
            return _with_policy_of(old, self._functional(old))
        if _is_function_layer(old):
            # Its config is that of the function, which may not have a public name.
            return type(old)(old.function, name=old.name, dtype=old.dtype)
        return self._from_config(old)

    def _from_config(self, old: Layer) -> Layer:
        return self._class_of(old).from_config(self._edit(old, self._config(old)))

    def _config(self, old: Layer) -> dict[str, Any]:
        """The config of a layer, with copies of the layers and functions that it holds."""
        with self._marked(old), warnings.catch_warnings():
            # That a file with a lambda does not load concerns no copy.
            warnings.simplefilter("ignore", UserWarning)
            config = dict(self._class_of(old).get_config(old))
        config = {key: self._with_copies(value) for key, value in config.items()}
        if isinstance(old, tf_keras.layers.Bidirectional):
            self._set_directions(old, config)
        if isinstance(old, (keras.layers.Lambda, tf_keras.layers.Lambda)):
            return self._with_functions(old, config)
        return self._references.for_objects(old, config)

    @contextlib.contextmanager
    def _marked(self, old: Layer) -> Iterator[None]:
        """Has all layers but `old` answer `get_config` with their index among the layers.

        So the config of `old` shows which layers it holds, whatever it saves of them.
        """
        others = [
            i
            for i, layer in enumerate(self._layers)
            if layer is not old and "get_config" not in vars(layer)
        ]
        try:
            for i in others:
                vars(self._layers[i])["get_config"] = self._markers[i]
            yield
        finally:
            for i in others:
                vars(self._layers[i]).pop("get_config", None)

    def _with_copies(self, value: Any) -> Any:
        """A config's `value` with a reference to its copy in place of each layer."""
        if is_layer(value):
            return self.copy(value)
        if isinstance(value, dict):
            config = value.get("config")
            if isinstance(config, dict) and _MARK in config:
                return self._references.to(self.copy(self._layers[config[_MARK]]))
            if _MARK in value:
                layer = self._layers[value[_MARK]]
                return self._edit(layer, self._config(layer))
            return {key: self._with_copies(entry) for key, entry in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self._with_copies(entry) for entry in value)
        return value

    def _with_functions(self, old: Any, config: dict[str, Any]) -> dict[str, Any]:
        """The config of a Lambda with the functions themselves."""
        if isinstance(old, keras.layers.Lambda):
            config["function"] = self._references.to(old.function)
            config["arguments"] = self._references.to(old.arguments)
            if callable(old._output_shape):
                config["output_shape"] = self._references.to(old._output_shape)
            if "mask" in config:
                config["mask"] = old.mask
            return config
        functions = {"function": old.function, "output_shape": old._output_shape}
        if "mask" in config:
            functions["mask"] = old.mask
        for key, function in functions.items():
            config |= {key: function, f"{key}_type": "raw"}
        return config

    def _set_directions(self, old: Any, config: dict[str, Any]) -> None:
        """References to the layers that a Bidirectional of tf_keras runs.

        It saves the layer that it was given, which has no weights.
        """
        forward = self._edit(old.forward_layer, self._config(old.forward_layer))
        forward["name"] = old.layer.name
        forward_class = self._class_of(old.forward_layer)
        config["layer"] = self._references.to(forward_class.from_config(forward))
        if "backward_layer" in config:
            backward = self._edit(old.backward_layer, self._config(old.backward_layer))
            backward["name"] = old.backward_layer.name.removeprefix("backward_")
            backward_class = self._class_of(old.backward_layer)
            config["backward_layer"] = self._references.to(backward_class.from_config(backward))

    @contextlib.contextmanager
    def _names_of(self, old: Model) -> Iterator[None]:
        """A scope in which configs may name what the model holds, registered or not."""
        classes = {self._class_of(layer) for layer in _layers_in(old)}
        values = [*classes, *_objects_in(old)]
        with naming(api_of(type(old)), values, self._references.names):
            yield

    def _operation(self, old: Any) -> Any:
        """A copy of an operation of Keras 3 that is not a layer."""
        try:
            config = self._references.for_objects(old, old.get_config())
        except NotImplementedError:  # it holds functions or arrays
            config = {}
        edited = self._edit(old, dict(config))
        if any(edited.get(key) is not value for key, value in config.items()):
            return type(old).from_config(edited)
        new = object.__new__(type(old))
        vars(new).update(vars(old))
        vars(new).update(_inbound_nodes=[], _outbound_nodes=[])
        return new

    def _sequential(self, old: Any) -> Any:
        layers = old._layers if isinstance(old, keras.Sequential) else old._self_tracked_trackables
        cls = self._class_of(old)
        base = keras.Sequential if isinstance(old, keras.Sequential) else tf_keras.Sequential
        if cls.__init__ is base.__init__:
            return cls([self.copy(layer) for layer in layers], name=old.name)
        return self._from_config(old)

    def _functional(self, old: Any) -> Any:
        """Calls copies of the operations of a functional model as the operations were called."""
        is_of_keras_3 = isinstance(old, keras.Model)
        inputs = old._inputs_struct if is_of_keras_3 else old._nested_inputs
        outputs = old._outputs_struct if is_of_keras_3 else old._nested_outputs
        graph = network_of(old)
        assert graph is not None
        tensors = {}
        for tensor in flat_tensors(inputs):
            tensors[id(tensor)] = self.copy(tensor._keras_history[0]).output
        for call in graph.calls:
            if any(id(tensor) not in tensors for tensor in call.inputs):
                continue  # such as a mask of a tensor outside of the model
            operation = self.copy(call.operation)
            args, kwargs = self._arguments(call.operation, call.args, call.kwargs)
            args = mapped(args, lambda tensor: tensors[id(tensor)])
            kwargs = mapped(kwargs, lambda tensor: tensors[id(tensor)])
            made = flat_tensors(operation(*args, **kwargs))
            tensors |= {id(tensor): new for tensor, new in zip(call.outputs, made)}

        def new_of(structure: Any) -> Any:
            return mapped(structure, lambda tensor: tensors[id(tensor)])

        cls = self._class_of(old) if _is_made_like_functional(old, self._class_of(old)) else None
        if cls is None and has_own_call(old):
            raise ValueError(
                f"The model {old.name!r} in the model cannot be made anew: its class has a `call` "
                "and a constructor of its own."
            )
        cls = cls or api_of(type(old)).Model
        new = cls(new_of(inputs), new_of(outputs), name=old.name)
        if not is_of_keras_3:
            created = {layer.name: self.copy(layer) for layer in old.layers}
            _functional_module(old).connect_ancillary_layers(new, created)
        return new

    def _arguments(self, operation: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments of a call, edited if it is one of a function, with the new variables."""
        if not is_layer(operation) or _is_function_layer(operation):
            config = self._edit(operation, {CALL: {"args": args, "kwargs": kwargs}})
            args, kwargs = config[CALL]["args"], config[CALL]["kwargs"]
        return self._with_variables(args), self._with_variables(kwargs)

    def _with_variables(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._with_variables(entry) for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            entries = [self._with_variables(entry) for entry in value]
            return tuple(entries) if isinstance(value, tuple) else entries
        if hasattr(value, "assign"):
            return self._new_variable(value)
        return value

    def _new_variable(self, variable: Any) -> Any:
        for number, old in list(self._originals.items()):
            if not is_layer(old) or number not in self._copies:
                continue
            for layer, copy in zip(_layers_in(old), _layers_in(self._copies[number])):
                for i, weight in enumerate(all_variables(layer)):
                    if weight is variable:
                        return all_variables(copy)[i]
        raise ValueError(
            "A model that computes with a variable outside of its layers, or before the layer that "
            f"made it, cannot be rebuilt. Received: the variable {variable.name!r}"
        )


def scope_of(model: Model) -> contextlib.AbstractContextManager[Any]:
    """The scope of the distribution strategy that `model` was made in."""
    strategy = model.distribute_strategy
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def _with_policy_of(old: Any, new: Any) -> Any:
    """`new` with the dtype policy that `old` was made under: a graph's config has none."""
    if isinstance(old, keras.Model):
        if new.dtype_policy != old.dtype_policy:
            new.dtype_policy = old.dtype_policy
    elif new.dtype_policy.name != old.dtype_policy.name:
        new._set_dtype_policy(old.dtype_policy)
    return new


def _objects_in(old: Model) -> list[Any]:
    """The functions, and the classes of the objects, that the layers of `old` hold."""
    found: dict[int, Any] = {}
    for layer in _layers_in(old):
        for value in vars(layer).values():
            for entry in value if isinstance(value, (list, tuple)) else [value]:
                named = named_by(entry)
                if named is not None:
                    found[id(named)] = named
    return list(found.values())


def _layers_in(layer: Layer) -> list[Layer]:
    """`layer` and all layers in it, input layers included, each once."""
    found: dict[int, Layer] = {}

    def visit(layer: Layer) -> None:
        if id(layer) not in found:
            found[id(layer)] = layer
            for sublayer in layer._flatten_layers(include_self=False, recursive=False):
                visit(sublayer)

    visit(layer)
    return list(found.values())


def _is_function_layer(layer: Any) -> bool:
    """Whether tf_keras made `layer` of a TensorFlow function that was called on a tensor."""
    return any(cls.__name__ == "TFOpLambda" for cls in type(layer).__mro__)


def _functional_module(model: Any) -> Any:
    name = "keras" if isinstance(model, keras.Model) else "tf_keras"
    place = "models" if name == "keras" else "engine"
    return sys.modules[f"{name}.src.{place}.functional"]


def _is_made_like_functional(old: Any, cls: Any) -> bool:
    module = _functional_module(old)
    if isinstance(old, keras.Model):
        return bool(module.functional_like_constructor(cls))
    return bool(module.has_functional_like_constructor(cls))


def _build(old: Any, new: Any) -> None:
    """Builds a model that is built by being called, as `old` was."""
    shape = getattr(old, "_build_input_shape", None) or getattr(old, "_inferred_input_shape", None)
    if isinstance(old, (keras.Sequential, tf_keras.Sequential)) and shape is not None:
        new.build(shape)
    else:
        new.build_from_config(old.get_build_config())
