"""The class of a penalized model.

It inherits from the model's own class and adds the penalties to the losses that Keras collects from
every layer, and to the config. So they are in every kind of training, count once, and are saved.
"""

import contextlib
import functools
import inspect
import types
from typing import Any, NoReturn

import tensorflow as tf

from tfreg import backend, steps
from tfreg.checks import check_config
from tfreg.inventory import Layer, Model
from tfreg.model.contents import Contents
from tfreg.model.terms import Term, losses_of, term_config, term_of

# To a type checker: what follows the classes below in the method resolution order.
_OwnClass: Any = object
_OwnMetaclass: Any = type
# The key of the penalties in a model's config.
CONFIG_KEY = "tfreg"
# The endings of files that hold the penalties.
_FILES = (".keras", ".h5", ".hdf5")


class _CallableLoss:
    """A term among the losses that tf_keras calls, where its saving refuses a functools.partial."""

    def __init__(self, model: Model, term: Term) -> None:
        self.model = model
        self.term = term

    def __call__(self) -> tf.Tensor | None:
        return next(iter(losses_of(self.model, [self.term])), None)


class _Terms:
    """The terms of a model, kept where neither Keras looks for layers, variables or state."""

    def __init__(self) -> None:
        self.terms: list[Term] = []


def terms_of(layer: Layer) -> list[Term]:
    """The terms of a penalized model; none of any other layer."""
    return layer._tfreg_terms.terms if isinstance(layer, PenalizedModel) else []


class PenalizedModel(_OwnClass):
    """Mixin placed before the model's class in the method resolution order."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Skips that of the model's class, which might register the new class."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"The class of a penalized {cls.__name__} makes no models, not even for "
            "keras.models.clone_model. Use tfreg.clone_model(model) for a copy, or the class that "
            "the model had before."
        )

    def get_config(self) -> dict[str, Any]:
        if backend.is_saved_as_preset(self):
            raise _cannot_load_preset(self)
        if backend.is_saved_model_of_tf_keras(self):
            raise _cannot_save("a SavedModel")
        config = dict(super().get_config())
        contents = Contents(self)
        config[CONFIG_KEY] = {
            "model": {**backend.identity(own_class(self)), **backend.h5_build_config(self)},
            "penalties": [term_config(contents, term) for term in terms_of(self)],
        }
        backend.end_legacy_config(self)
        return config

    @classmethod
    def from_config(cls, config: Any, custom_objects: dict[str, Any] | None = None) -> Any:
        config = dict(config)
        penalized = check_config(
            "a penalized model", config.pop(CONFIG_KEY, None), ("model", "penalties")
        )
        if not isinstance(penalized["penalties"], list) or not isinstance(penalized["model"], dict):
            raise ValueError(
                "The config of a penalized model must have a dict as its 'model' and a list as its "
                f"'penalties'. Received: {penalized!r}"
            )
        known_class = getattr(cls, "_tfreg_own_class", None)
        known = {} if known_class is None else {known_class.__name__: known_class}
        model = backend.deserialize_model(
            cls._tfreg_api,
            {**penalized["model"], "config": config},
            custom_objects={**known, **(custom_objects or {})},
        )
        attach(model, [term_of(term) for term in penalized["penalties"]])
        return model

    @property
    def losses(self) -> list[tf.Tensor]:
        with steps.reading_losses(self):
            return super().losses

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        is_keras_own = backend.has_keras_own_train_step(own_class(self))
        with steps.training_step(self, is_keras_own):
            return super().train_step(*args, **kwargs)

    @staticmethod
    def _tfreg_can_save(filepath: str, save_format: str | None) -> bool:
        return True

    def save(self, *args: Any, **kwargs: Any) -> Any:
        arguments = inspect.signature(super().save).bind(*args, **kwargs).arguments
        filepath = str(next(iter(arguments.values())))
        if not self._tfreg_can_save(filepath, arguments.get("save_format")):
            raise _cannot_save(f"filepath={filepath!r}")
        if filepath.endswith(_FILES):
            self.get_config()  # Raise before Keras opens the file, which empties it.
        return super().save(*args, **kwargs)

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> dict[str, Any]:
        children = super()._trackable_children(save_type, **kwargs)
        if save_type == "savedmodel":  # whose functions may read the losses
            watched = [term.standstill for term in terms_of(self) if term.standstill]
            variables = [variable for check in watched for variable in check.variables]
            children |= {f"tfreg_state_{i}": variable for i, variable in enumerate(variables)}
        return children

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        reduced: Any = self.__reduce__()
        function, arguments = reduced
        memo[id(self)] = function(*arguments)
        return memo[id(self)]


@backend.keras.saving.register_keras_serializable(backend.PACKAGE, "PenalizedModel")
class PenalizedKerasModel(PenalizedModel):
    _tfreg_api = backend.keras

    def _get_own_losses(self) -> list[tf.Tensor]:
        return super()._get_own_losses() + losses_of(self, terms_of(self))

    def __reduce__(self) -> tuple[Any, ...]:
        # pickle finds the function by the name of its class: the own class has it, not this one.
        return own_class(self)._unpickle_model, super().__reduce__()[1]


@backend.tf_keras.saving.register_keras_serializable(backend.PACKAGE, "PenalizedModel")
class PenalizedTFKerasModel(PenalizedModel):
    _tfreg_api = backend.tf_keras

    @staticmethod
    def _tfreg_can_save(filepath: str, save_format: str | None) -> bool:
        return save_format in ("keras", "h5") or (save_format is None and filepath.endswith(_FILES))

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> dict[str, Any]:
        # Raise before a file is opened: get_config is called after the SavedModel is written.
        if save_type == "savedmodel" and backend.is_saved_model_of_tf_keras(self):
            raise _cannot_save("a SavedModel")
        return super()._trackable_children(save_type, **kwargs)

    def _updated_config(self) -> dict[str, Any]:
        config = super()._updated_config()
        registered = backend.tf_keras.saving.get_registered_name(type(self))
        return {**config, "class_name": registered}

    def __reduce__(self) -> tuple[Any, ...]:
        if self.built:
            return super().__reduce__()
        config = backend.tf_keras.saving.serialize_keras_object(self)
        return backend.tf_keras.saving.deserialize_keras_object, (config,)


class _NamedInFiles(_OwnMetaclass):
    """Metaclass of the classes of penalized models, which gives .h5 files a name that loads.

    They record the `__name__` of the outermost model's class, .keras files its registered name.
    """

    @property
    def __name__(cls) -> str:
        # `model.__class__.__name__` is all that Keras asks for, here and in the function that
        # reads the file, where it is looked up among the registered names.
        if backend.is_called_for_h5_metadata():
            return cls._tfreg_api.saving.get_registered_name(cls)
        return type.__dict__["__name__"].__get__(cls)


@functools.cache
def _metaclass_over(metaclass: type) -> type:
    if metaclass is type:
        return _NamedInFiles
    return type(metaclass.__name__, (_NamedInFiles, metaclass), {})


@functools.cache
def _penalized_class(cls: Any) -> type:
    """The class of penalized models of `cls`, under its name, since Keras looks at some names."""
    is_of_keras_3 = backend.api_of(cls) is backend.keras
    stand_in = PenalizedKerasModel if is_of_keras_3 else PenalizedTFKerasModel
    namespace = {
        "__module__": __name__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "_tfreg_own_class": cls,
    }
    if "build" in vars(cls):  # tf_keras looks here for a user's own
        namespace["build"] = vars(cls)["build"]
    if cls.get_config is stand_in._tfreg_api.Model.get_config:
        # Keras's own fills in the arguments of the constructor, or refuses to.
        namespace["get_config"] = backend.as_default(stand_in.get_config)
    if hasattr(cls, "save_to_preset"):  # it makes a folder before it calls get_config
        namespace["save_to_preset"] = _refuse_preset
    its_metaclass: Any = type(cls)
    made = types.new_class(
        cls.__name__,
        (stand_in, cls),
        {"metaclass": _metaclass_over(its_metaclass)},
        lambda body: body.update(namespace),
    )
    backend.save_as(made, stand_in)
    return made


def _cannot_save(received: str) -> ValueError:
    return ValueError(
        "Only the .keras format and .h5 files hold the penalties over a model's weights. Use one "
        "of them, save_weights, export, or save what tfreg.remove_penalties(model) returns. "
        f"Received: {received}"
    )


def _cannot_load_preset(model: Model) -> ValueError:
    return ValueError(
        "A preset does not load with the penalties over a model's weights. Save a .keras file, or "
        "save the preset of what tfreg.remove_penalties(model) returns and call tfreg.add_penalty "
        f"again after from_preset. Received: the penalized model {model.name!r}"
    )


def _refuse_preset(model: Model, *args: Any, **kwargs: Any) -> NoReturn:
    raise _cannot_load_preset(model)


def is_penalized(model: Model) -> bool:
    return isinstance(model, PenalizedModel)


def reading_losses(model: Model) -> contextlib.AbstractContextManager:
    """A context to read the losses of `model` in: its schedules know whose steps to count."""
    return steps.reading_losses(model) if is_penalized(model) else contextlib.nullcontext()


def own_class(model: Model) -> Any:
    """The class of `model` without its penalties."""
    return model._tfreg_own_class if isinstance(model, PenalizedModel) else type(model)


def attach(model: Model, terms: list[Term]) -> None:
    """Makes `model` a penalized one, or adds to its terms."""
    if not isinstance(model, PenalizedModel):
        # object's, since those of either Keras track attributes.
        object.__setattr__(model, "_tfreg_terms", _Terms())
        its_class: Any = type(model)
        object.__setattr__(model, "__class__", _penalized_class(its_class))
    terms = [_watched(model, term) for term in terms]
    model._tfreg_terms.terms += terms
    if isinstance(model, PenalizedTFKerasModel):
        model._callable_losses += [_CallableLoss(model, term) for term in terms]


def _watched(model: Model, term: Term) -> Term:
    # A variable or a function may stand still on purpose.
    counts_optimizer = term.step is None or hasattr(term.step, "iterations")
    if term.schedule is None or not counts_optimizer:
        return term
    return term._replace(standstill=steps.StandstillCheck(model))


def detach(model: Model) -> None:
    """Makes a penalized `model` a plain one again."""
    if isinstance(model, PenalizedTFKerasModel):
        for loss in list(model._callable_losses):
            if isinstance(loss, _CallableLoss):
                model._callable_losses.remove(loss)
    object.__setattr__(model, "__class__", own_class(model))
    object.__delattr__(model, "_tfreg_terms")
