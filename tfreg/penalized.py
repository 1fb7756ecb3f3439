"""The class of a penalized model.

It is made from the model's own class and adds the penalties to what Keras collects from every layer
as its losses, and to its config. So they are in every kind of training, count once, and are saved.
"""

import contextlib
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfreg import backend, schedules, steps
from tfreg.checks import check_config
from tfreg.compute.numerics import with_common_dtype
from tfreg.penalties import Joint, Penalty
from tfreg.penalties.base import check_step_size
from tfreg.selection import Contents, Selection, check_no_lora

# To a type checker the classes below stand before any model's own class and metaclass.
_OwnClass: Any = object
_OwnMetaclass: Any = type
# The key of the penalties in a model's config.
CONFIG_KEY = "tfreg"
# The endings of files that hold the penalties.
_FILES = (".keras", ".h5", ".hdf5")
# What the config of a penalty has for a step that was given.
_LOST = "lost"


class _LostStep:
    """In place of a step that a model was given and that its file could not keep."""


class Term(NamedTuple):
    """A penalty on some of a model's weights.

    `step` tells the step that the schedule counts; it is None for that of the model's optimizer.
    `standstill` watches an optimizer, given or the model's.
    """

    penalty: Penalty | Joint
    selection: Selection
    schedule: Callable | None
    step: Any = None
    standstill: steps.StandstillCheck | None = None


def check_fit(contents, term):
    """Raises a ValueError if the penalty cannot apply to the selected weights."""
    variables = _selected(contents, term)
    if isinstance(term.penalty, Joint):
        _value(contents, term, variables)
    else:  # without the value, whose kernels would be compiled here
        for variable in variables:
            term.penalty._checked(variable, contents.layouts.get(id(variable)))


def _losses(model, terms):
    """What the terms add to the losses of the model; nothing where there is nothing to train."""
    if not model.built:
        return []
    contents = Contents(model)
    losses = [_loss(contents, term) for term in terms]
    return [loss for loss in losses if loss is not None]


def _loss(contents, term):
    variables = _selected(contents, term)
    to_train = [variable for variable in variables if id(variable) in contents.trainable]
    if not to_train:
        return None
    if not isinstance(term.penalty, Joint):
        variables = to_train
    value = _value(contents, term, variables)
    if term.schedule is None:
        return value
    step = _step(contents.model, term)
    if term.standstill is not None:
        steps.count(step, lambda: _has_moved(contents, term, variables, value))
        watched = term.standstill.watch(value, step, term.schedule)
    else:
        watched = value
    return schedules.multiplier(term.schedule, step, value.dtype) * watched


def _has_moved(contents, term, variables, value):
    """Whether the weights are other ones than when the term had the `value`."""
    if not tf.executing_eagerly():
        return True  # In a graph whatever trains them is part of it.
    return bool(_value(contents, term, variables) != value)


def value_of(holder, term):
    """What the `term` of the model `holder` adds to the losses now, as a scalar tensor."""
    loss = _loss(Contents(holder), term)
    return tf.zeros([]) if loss is None else loss


def prox_of(holder, term, step_size):
    """The proximal operator of the `term` at its weights; what is frozen stays as it is."""
    contents = Contents(holder)
    variables = _selected(contents, term)
    layouts = _layouts(contents, variables)
    is_frozen = [id(variable) not in contents.trainable for variable in variables]
    if all(is_frozen):
        return [tf.convert_to_tensor(variable) for variable in variables]
    step_size = check_step_size(step_size, tf.as_dtype(variables[0].dtype))
    if term.schedule is not None:
        dtype = tf.float64 if isinstance(step_size, float) else step_size.dtype
        step_size *= schedules.multiplier(term.schedule, _step(holder, term), dtype)
    if not isinstance(term.penalty, Joint):
        return [
            tf.convert_to_tensor(variable)
            if frozen
            else term.penalty.prox_on(variable, layout, step_size)
            for variable, layout, frozen in zip(variables, layouts, is_frozen)
        ]
    if any(is_frozen):
        raise NotImplementedError(
            "The proximal operator of a tfreg.Joint some of whose weights are frozen, and so "
            "constants, has no closed form. Freeze all of them or none. Received: "
            f"{term.penalty!r} in the model {holder.name!r}"
        )
    return term.penalty.prox_on(variables, layouts, step_size)


def _step(holder, term):
    """What tells the step that the schedule of a `term` of the model `holder` counts."""
    if isinstance(term.step, _LostStep):
        raise RuntimeError(
            f"The schedule of a penalty over the model {holder.name!r} counts a step that was "
            "given as `step` of tfreg.add_penalty, which no file or copy of the model keeps. "
            "Remove the penalties with tfreg.remove_penalties and add them anew with the step."
        )
    return steps.optimizer_of(holder) if term.step is None else term.step


def _selected(contents, term):
    weights = term.selection.select(contents)
    check_no_lora(weights)
    return [weight.variable for weight in weights]


def _layouts(contents, variables):
    return [contents.layouts.get(id(variable)) for variable in variables]


def _value(contents, term, variables):
    layouts = _layouts(contents, variables)
    if isinstance(term.penalty, Joint):
        return term.penalty.value_on(variables, layouts)
    return sum_of(term.penalty.values_on(variables, layouts))


def sum_of(scalars):
    """The sum of tensors of one or several dtypes."""
    alike = len({scalar.dtype for scalar in scalars}) == 1
    return tf.add_n(scalars if alike else with_common_dtype(scalars))


class _CallableLoss:
    """A term among the losses that tf_keras calls: its saving wants no functools.partial there."""

    def __init__(self, model, term):
        self.model = model
        self.term = term

    def __call__(self):
        return next(iter(_losses(self.model, [self.term])), None)


class _Terms:
    """The terms of a model, kept where neither Keras looks for layers, variables or state."""

    def __init__(self):
        self.terms = []


def terms_of(layer):
    """The terms of a penalized model; none of any other layer."""
    return layer._tfreg_terms.terms if isinstance(layer, PenalizedModel) else []


class PenalizedModel(_OwnClass):
    """What a penalized model's class has before its own class: saving, and a way back."""

    def __init_subclass__(cls, **kwargs):
        """Not the own class's, which may register its subclasses, say."""

    def __new__(cls, *args, **kwargs):
        raise TypeError(
            f"The class of a penalized {cls.__name__} makes no models, also none for "
            "keras.models.clone_model. Use tfreg.clone_model(model) for a copy, or the class that "
            "the model had before."
        )

    def get_config(self):
        if backend.is_saved_as_preset(self):
            raise _cannot_load_preset(self)
        if backend.is_saved_model_of_tf_keras(self):
            raise _cannot_save("a SavedModel")
        config = dict(super().get_config())
        contents = Contents(self)
        config[CONFIG_KEY] = {
            "model": {**backend.identity(own_class(self)), **backend.h5_build_config(self)},
            "penalties": [_term_config(contents, term) for term in terms_of(self)],
        }
        backend.end_legacy_config(self)
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
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
        attach(model, [_term_of(term) for term in penalized["penalties"]])
        return model

    @property
    def losses(self):
        with steps.reading_losses(self):
            return super().losses

    def train_step(self, *args, **kwargs):
        is_keras_own = backend.has_keras_own_train_step(own_class(self))
        with steps.training_step(self, is_keras_own):
            return super().train_step(*args, **kwargs)

    @staticmethod
    def _tfreg_can_save(filepath, save_format):
        return True

    def save(self, *args, **kwargs):
        arguments = inspect.signature(super().save).bind(*args, **kwargs).arguments
        filepath = str(next(iter(arguments.values())))
        if not self._tfreg_can_save(filepath, arguments.get("save_format")):
            raise _cannot_save(f"filepath={filepath!r}")
        if filepath.endswith(_FILES):
            self.get_config()  # Raise before Keras opens the file, which empties it.
        return super().save(*args, **kwargs)

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        children = super()._trackable_children(save_type, **kwargs)
        if save_type == "savedmodel":  # whose functions may read the losses
            watched = [term.standstill for term in terms_of(self) if term.standstill]
            variables = [variable for check in watched for variable in check.variables]
            children |= {f"tfreg_state_{i}": variable for i, variable in enumerate(variables)}
        return children

    def __deepcopy__(self, memo):
        reduced: Any = self.__reduce__()
        function, arguments = reduced
        memo[id(self)] = function(*arguments)
        return memo[id(self)]


@backend.keras.saving.register_keras_serializable(backend.PACKAGE, "PenalizedModel")
class PenalizedKerasModel(PenalizedModel):
    _tfreg_api = backend.keras

    def _get_own_losses(self):
        return super()._get_own_losses() + _losses(self, terms_of(self))

    def __reduce__(self):
        # The function is found by the name of its class, which only the model's own one has.
        return own_class(self)._unpickle_model, super().__reduce__()[1]


@backend.tf_keras.saving.register_keras_serializable(backend.PACKAGE, "PenalizedModel")
class PenalizedTFKerasModel(PenalizedModel):
    _tfreg_api = backend.tf_keras

    @staticmethod
    def _tfreg_can_save(filepath, save_format):
        return save_format in ("keras", "h5") or (
            save_format is None and filepath.endswith(_FILES)
        )

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        # Raise before a file is opened: get_config is called after the SavedModel is written.
        if save_type == "savedmodel" and backend.is_saved_model_of_tf_keras(self):
            raise _cannot_save("a SavedModel")
        return super()._trackable_children(save_type, **kwargs)

    def _updated_config(self):
        config = super()._updated_config()
        registered = backend.tf_keras.saving.get_registered_name(type(self))
        return {**config, "class_name": registered}

    def __reduce__(self):
        if self.built:
            return super().__reduce__()
        config = backend.tf_keras.saving.serialize_keras_object(self)
        return backend.tf_keras.saving.deserialize_keras_object, (config,)


class _NamedInFiles(_OwnMetaclass):
    """Metaclass of the classes of penalized models, which gives .h5 files a name that loads.

    They record the `__name__` of the outermost model's class, where .keras files record the name
    under which a class is registered.
    """

    @property
    def __name__(cls):
        # `model.__class__.__name__` is all that Keras asks for, here and in the function that
        # reads the file, where it is looked up among the registered names.
        if backend.is_called_for_h5_metadata():
            return cls._tfreg_api.saving.get_registered_name(cls)
        return type.__dict__["__name__"].__get__(cls)


@functools.cache
def _metaclass_over(metaclass):
    if metaclass is type:
        return _NamedInFiles
    return type(metaclass.__name__, (_NamedInFiles, metaclass), {})


@functools.cache
def _penalized_class(cls):
    """The class of penalized models of `cls`, of its name: Keras looks at some names."""
    is_of_keras_3 = backend.api_of(cls) is backend.keras
    stand_in = PenalizedKerasModel if is_of_keras_3 else PenalizedTFKerasModel
    namespace = {
        "__module__": __name__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "_tfreg_own_class": cls,
    }
    if "build" in vars(cls):  # tf_keras looks there whether a model has one of its own
        namespace["build"] = vars(cls)["build"]
    if cls.get_config is stand_in._tfreg_api.Model.get_config:
        # Which fills it in, or refuses to, by the arguments of the constructor.
        namespace["get_config"] = backend.as_default(stand_in.get_config)
    if hasattr(cls, "save_to_preset"):  # which makes a folder before it calls get_config
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


def _cannot_save(received):
    return ValueError(
        "Only the .keras format and .h5 files hold the penalties over a model's weights. Use one "
        "of them, save_weights, export, or save what tfreg.remove_penalties(model) returns. "
        f"Received: {received}"
    )


def _cannot_load_preset(model):
    return ValueError(
        "A preset does not load with the penalties over a model's weights. Save a .keras file, or "
        "save the preset of what tfreg.remove_penalties(model) returns and call tfreg.add_penalty "
        f"again after from_preset. Received: the penalized model {model.name!r}"
    )


def _refuse_preset(model, *args, **kwargs):
    raise _cannot_load_preset(model)


def is_penalized(model):
    return isinstance(model, PenalizedModel)


def reading_losses(model):
    """While the losses of `model` are read: a penalized one knows whose steps a schedule counts."""
    return steps.reading_losses(model) if is_penalized(model) else contextlib.nullcontext()


def own_class(model):
    """The class of `model` without its penalties."""
    return model._tfreg_own_class if isinstance(model, PenalizedModel) else type(model)


def attach(model, terms):
    """Makes `model` a penalized one, or adds to its terms."""
    if not isinstance(model, PenalizedModel):
        # Past the attribute tracking of both Kerases, which has nothing to find here.
        object.__setattr__(model, "_tfreg_terms", _Terms())
        its_class: Any = type(model)
        object.__setattr__(model, "__class__", _penalized_class(its_class))
    terms = [_watched(model, term) for term in terms]
    model._tfreg_terms.terms += terms
    if isinstance(model, PenalizedTFKerasModel):
        model._callable_losses += [_CallableLoss(model, term) for term in terms]


def _watched(model, term):
    # A variable or a function may stand still, as its user wants.
    counts_optimizer = term.step is None or hasattr(term.step, "iterations")
    if term.schedule is None or not counts_optimizer:
        return term
    return term._replace(standstill=steps.StandstillCheck(model))


def detach(model):
    """Makes a penalized `model` a plain one again."""
    if isinstance(model, PenalizedTFKerasModel):
        for loss in list(model._callable_losses):
            if isinstance(loss, _CallableLoss):
                model._callable_losses.remove(loss)
    object.__setattr__(model, "__class__", own_class(model))
    object.__delattr__(model, "_tfreg_terms")


def _term_config(contents, term):
    config = {
        "penalty": backend.serialize(term.penalty),
        "weights": term.selection.get_config(contents),
        "schedule": None if term.schedule is None else backend.serialize(term.schedule),
    }
    return config if term.step is None else {**config, "step": _LOST}


def _term_of(config):
    check_config(
        "a penalty over a model", config, ("penalty", "weights", "schedule"), optional=("step",)
    )
    schedule = config["schedule"]
    penalty = backend.deserialize(config["penalty"])
    if not isinstance(penalty, (Penalty, Joint)):
        raise ValueError(
            "The config of a penalty over a model must have a penalty or a tfreg.Joint as its "
            f"'penalty'. Received: {penalty!r} in {config!r}"
        )
    if "step" in config and (config["step"] != _LOST or schedule is None):
        raise ValueError(
            f"The config of a penalty over a model may have {_LOST!r} as its 'step', with a "
            f"schedule. Received: {config!r}"
        )
    return Term(
        penalty,
        Selection.from_config(config["weights"]),
        None if schedule is None else schedules.check_kind(backend.deserialize(schedule)),
        _LostStep() if "step" in config else None,
    )
