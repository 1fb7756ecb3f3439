"""Penalties over a model: on weights of several layers, apart or together, and on a schedule.

A penalized model is of a class made from its own that adds the penalties to what Keras collects
from every layer as its losses, and to its config. So they are in every kind of training, count
once, and are saved.
"""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfreg import backend, schedules
from tfreg.kernels import with_common_dtype
from tfreg.penalties import Joint, Sum, get
from tfreg.penalties.base import Penalty
from tfreg.selection import Contents, Selection, check_no_lora

# To a type checker the classes below stand before any model's own class.
_OwnClass: Any = object
# The key of the penalties in a model's config.
CONFIG_KEY = "tfreg"


class Term(NamedTuple):
    """A penalty on some of a model's weights."""

    penalty: Penalty | Joint
    selection: Selection
    schedule: Callable | None


@dataclasses.dataclass(frozen=True)
class AttachedPenalty:
    """What `get_penalties` tells about one penalty.

    Attributes:
        penalty: the penalty, or the `Joint`.
        paths: the paths of the weights that it is on; None before the model is built.
        schedule: the schedule of its strength, or None.
        weights: the weights, frozen ones included; None before the model is built.
    """

    penalty: Any
    paths: list[str] | None
    schedule: Any = None
    weights: list | None = dataclasses.field(default=None, repr=False)


def add_penalty(model, penalty, weights=None, schedule=None):
    """Adds a penalty on some of a model's weights to `model.losses`.

    `loss + schedule(step) * sum_w penalty(w)`, or, of a `tfreg.Joint`,
    `loss + schedule(step) * penalty(w_1, ..., w_n)`

    It is what `Model.add_loss` should be for weights: the penalty counts once in `fit`,
    `evaluate`, `train_on_batch` and loops of your own that read `model.losses`, on one device or
    under `tf.distribute`; it is in the `.keras` file; and where the model was compiled before, its
    next step follows. (A compiled model around this one must be compiled anew.) The model itself
    is changed: its class becomes one made from its own, of the same name, which saves the
    penalties. On each layer the names of `GroupLasso.axis` mean what they say: see `tfreg.layers`.

    Args:
        model: a model of either Keras: Sequential, Functional or subclassed, built or not,
            compiled or not.
        penalty: a penalty, the name or config of one as `tfreg.get` takes it, a Keras regularizer
            (which counts as the `Sum` of it alone), or a `tfreg.Joint`.
        weights: the weights to penalize, those of nested models included:

            - None: every kernel, embeddings included; no bias, no normalization weight.
            - a string: those whose path (in tf_keras, the names of the layers and the weight
              joined with slashes) the regular expression is found in.
            - a function of (layer, weight): those for which it returns true.
            - a list of layers (for their kernels), variables, layer names and weight paths. A
              `Joint` gets the weights in this order.

            The choice is made once all layers are built, and lasts. Frozen weights are left out of
            the loss as long as they are frozen; as one of several in a `Joint` they are
            constants.
        schedule: a multiplier of the strength: a `keras.optimizers.schedules` object,
            `tfreg.schedules.CubicRamp` or another registered callable of the step, which is
            `model.optimizer.iterations`: also in a loop of your own, whose optimizer the model
            must have.

    Returns:
        `model`.

    Raises:
        TypeError, ValueError: for other arguments; if no weight is selected, or something in the
            list is not part of the model or ambiguous; if the penalty does not fit a selected
            weight; if a layer has LoRA enabled. Before the model is built, when it is.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(2)])
    >>> model = tfreg.add_penalty(model, tfreg.GroupLasso(1e-3))
    >>> len(model.losses)
    1
    >>> ramp = tfreg.schedules.CubicRamp(begin=0, end=1000)
    >>> penalty = tfreg.BoxPenalty(0.1, -1.0, 1.0)
    >>> model = tfreg.add_penalty(model, penalty, weights="bias$", schedule=ramp)
    """
    if not backend.is_model(model):
        raise TypeError(
            f"Argument `model` must be a model of Keras 3 or tf_keras. Received: model={model!r}"
        )
    term = Term(
        _checked_penalty(penalty),
        Selection.in_model(model, weights),
        schedules.check_schedule(schedule),
    )
    if model.built:  # what the weights alone can show is an error now, not in the first step
        _check_fit(Contents(model), term)
    _attach(model, [term])
    backend.renew_compiled_functions(model)
    return model


def remove_penalties(model):
    """Removes what `add_penalty` added; layers keep the regularizers of their own.

    The model is of its own class again, with its weights, its optimizer and its compiled state.

    Args:
        model: a model of either Keras. Models nested in it keep theirs.

    Returns:
        `model`.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = tfreg.add_penalty(model, tfreg.GroupLasso())
    >>> model = tfreg.remove_penalties(model)
    >>> len(model.losses), type(model) is keras.Sequential
    (0, True)
    """
    if isinstance(model, PenalizedModel):
        _detach(model)
        backend.renew_compiled_functions(model)
    return model


def get_penalties(model):
    """What is attached to what: the penalties that `add_penalty` added, and the layers' own.

    Args:
        model: a model of either Keras.

    Returns:
        A list of `AttachedPenalty`, with fields `penalty`, `paths`, `schedule` and `weights`: first
        those added to the model, in order, then those of nested models and of layers, as long as
        they are of tfreg.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
    >>> model = tfreg.add_penalty(model, tfreg.BoxPenalty(0.1))
    >>> attached = tfreg.get_penalties(model)[0]
    >>> attached.penalty
    BoxPenalty(factor=0.1, lower=-1.0, upper=1.0)
    """
    contents = Contents(model)
    paths = {id(weight.variable): weight.path for weight in contents.weights}
    attached = []
    for _, names, layer in contents.layers:
        for term in _terms(layer):
            if layer.built:
                weights = [weight.variable for weight in term.selection.select(Contents(layer))]
                of_weights = [paths[id(weight)] for weight in weights]
                attached.append(AttachedPenalty(term.penalty, of_weights, term.schedule, weights))
            else:
                attached.append(AttachedPenalty(term.penalty, None, term.schedule))
        for weight, regularizer in backend.regularized_weights(layer):
            if isinstance(regularizer, Penalty):
                path = backend.weight_path(weight, names)
                attached.append(AttachedPenalty(regularizer, [path], weights=[weight]))
    return attached


def clone_model(model):
    """A copy of a model with weights of its own, initialized anew, and the same penalties.

    `keras.models.clone_model` drops the penalties of a Sequential model without a word.

    Args:
        model: a model of either Keras, penalized or not, whose `get_config` and `from_config` are
            as saving needs them.

    Returns:
        A model, not compiled.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = tfreg.add_penalty(model, tfreg.GroupLasso(1e-3))
    >>> clone = tfreg.clone_model(model)
    >>> len(clone.losses)
    1
    """
    api = backend.api_of(model)
    config = api.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    own_class = _own_class(model)
    return api.saving.deserialize_keras_object(
        config, custom_objects={own_class.__name__: own_class}
    )


def regularization_loss(model):
    """The sum of a model's losses, for a training loop of your own.

    `sum(model.losses) / replicas`

    Call it after the model, in the step: under `tf.distribute` in the function that `run` gets,
    where it is scaled so that the sum over the replicas counts each penalty once.

    Args:
        model: a model of either Keras.

    Returns:
        A scalar tensor; 0 if the model has no losses.

    Raises:
        RuntimeError: in a strategy's scope, but outside of its replicas.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model = tfreg.add_penalty(model, tfreg.GroupLasso(1e-3))
    >>> x, y = tf.ones([4, 2]), tf.ones([4, 1])
    >>> with tf.GradientTape() as tape:
    ...     loss = tf.reduce_mean((model(x) - y) ** 2) + tfreg.regularization_loss(model)
    >>> gradients = tape.gradient(loss, model.trainable_variables)
    """
    losses = [tf.reduce_sum(loss) for loss in model.losses]
    return tf.nn.scale_regularization_loss(_sum(losses) if losses else tf.constant(0.0))


def _checked_penalty(penalty):
    if isinstance(penalty, Joint):
        return penalty
    resolved = None if inspect.isclass(penalty) or penalty is None else get(penalty)
    if not backend.is_regularizer(resolved):
        raise TypeError(
            "Argument `penalty` must be a penalty, a Keras regularizer, or a tfreg.Joint. "
            f"Received: penalty={penalty!r}"
        )
    return resolved if isinstance(resolved, Penalty) else Sum([resolved])


def _check_fit(contents, term):
    """Raises a ValueError if the penalty cannot apply to the selected weights."""
    selected = term.selection.select(contents)
    check_no_lora(selected)
    variables = [weight.variable for weight in selected]
    layouts = [contents.layouts.get(id(variable)) for variable in variables]
    if isinstance(term.penalty, Joint):
        term.penalty.value_on(variables, layouts)
    else:  # without the value, whose kernels would be compiled here
        for variable, layout in zip(variables, layouts):
            term.penalty._checked(variable, layout)


def _losses(model, terms):
    """What the terms add to the losses of the model; nothing where there is nothing to train."""
    if not model.built:
        return []
    contents = Contents(model)
    losses = [_loss(contents, term) for term in terms]
    return [loss for loss in losses if loss is not None]


def _loss(contents, term):
    selected = term.selection.select(contents)
    check_no_lora(selected)
    variables = [weight.variable for weight in selected]
    to_train = [variable for variable in variables if id(variable) in contents.trainable]
    if not to_train:
        return None
    if isinstance(term.penalty, Joint):
        layouts = [contents.layouts.get(id(variable)) for variable in variables]
        value = term.penalty.value_on(variables, layouts)
    else:
        value = _sum(
            [
                term.penalty.value_on(variable, contents.layouts.get(id(variable)))
                for variable in to_train
            ]
        )
    if term.schedule is None:
        return value
    optimizer = getattr(contents.model, "optimizer", None)
    return schedules.multiplier(term.schedule, optimizer, value.dtype) * value


def _sum(scalars):
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


def _terms(layer):
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
        if backend.saves_without_class(self):
            raise _cannot_save("an .h5 file or a SavedModel")
        config = dict(super().get_config())
        contents = Contents(self)
        config[CONFIG_KEY] = {
            "model": backend.identity(_own_class(self)),
            "penalties": [_term_config(contents, term) for term in _terms(self)],
        }
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        penalized = config.pop(CONFIG_KEY)
        own_class = getattr(cls, "_tfreg_own_class", None)
        known = {} if own_class is None else {own_class.__name__: own_class}
        model = backend.deserialize_model(
            cls._tfreg_api,
            {**penalized["model"], "config": config},
            custom_objects={**known, **(custom_objects or {})},
        )
        _attach(model, [_term_of(term) for term in penalized["penalties"]])
        return model

    def save(self, *args, **kwargs):
        # Before get_config says so, and leaves a piece of a file.
        arguments = inspect.signature(super().save).bind(*args, **kwargs).arguments
        filepath = str(next(iter(arguments.values())))
        if not self._tfreg_can_save(filepath, arguments.get("save_format")):
            raise _cannot_save(f"filepath={filepath!r}")
        return super().save(*args, **kwargs)

    def __deepcopy__(self, memo):
        reduced: Any = self.__reduce__()
        function, arguments = reduced
        memo[id(self)] = function(*arguments)
        return memo[id(self)]


@backend.keras.saving.register_keras_serializable(backend.PACKAGE, "PenalizedModel")
class PenalizedKerasModel(PenalizedModel):
    _tfreg_api = backend.keras

    @staticmethod
    def _tfreg_can_save(filepath, save_format):
        return not filepath.endswith((".h5", ".hdf5"))

    def _get_own_losses(self):
        return super()._get_own_losses() + _losses(self, _terms(self))

    def __reduce__(self):
        # The function is found by the name of its class, which only the model's own one has.
        return _own_class(self)._unpickle_model, super().__reduce__()[1]


@backend.tf_keras.saving.register_keras_serializable(backend.PACKAGE, "PenalizedModel")
class PenalizedTFKerasModel(PenalizedModel):
    _tfreg_api = backend.tf_keras

    @staticmethod
    def _tfreg_can_save(filepath, save_format):
        return save_format == "keras" or (save_format is None and filepath.endswith(".keras"))

    def _updated_config(self):
        config = super()._updated_config()
        registered = backend.tf_keras.saving.get_registered_name(type(self))
        return {**config, "class_name": registered}

    def __reduce__(self):
        if self.built:
            return super().__reduce__()
        config = backend.tf_keras.saving.serialize_keras_object(self)
        return backend.tf_keras.saving.deserialize_keras_object, (config,)


@functools.cache
def _penalized_class(own_class):
    """The class of penalized models of `own_class`, of its name: Keras looks at some names."""
    is_of_keras_3 = issubclass(own_class, backend.keras.Model)
    stand_in = PenalizedKerasModel if is_of_keras_3 else PenalizedTFKerasModel
    namespace = {
        "__module__": __name__,
        "__qualname__": own_class.__qualname__,
        "__doc__": own_class.__doc__,
        "_tfreg_own_class": own_class,
    }
    if "build" in vars(own_class):  # tf_keras looks there whether a model has one of its own
        namespace["build"] = vars(own_class)["build"]
    if is_of_keras_3 and backend.is_default(own_class.get_config):
        # One that Keras fills in, or refuses to, by the arguments of the constructor.
        namespace["get_config"] = backend.as_default(stand_in.get_config)
    cls = types.new_class(
        own_class.__name__, (stand_in, own_class), exec_body=lambda body: body.update(namespace)
    )
    backend.call_alike(cls, stand_in)
    return cls


def _cannot_save(received):
    return ValueError(
        "Only the .keras format holds the penalties over a model's weights. Use it, save_weights, "
        f"export, or save what tfreg.remove_penalties(model) returns. Received: {received}"
    )


def _own_class(model):
    return model._tfreg_own_class if isinstance(model, PenalizedModel) else type(model)


def _attach(model, terms):
    if not isinstance(model, PenalizedModel):
        # Past the attribute tracking of both Kerases, which has nothing to find here.
        object.__setattr__(model, "_tfreg_terms", _Terms())
        own_class: Any = type(model)
        object.__setattr__(model, "__class__", _penalized_class(own_class))
    model._tfreg_terms.terms += terms
    if isinstance(model, PenalizedTFKerasModel):
        model._callable_losses += [_CallableLoss(model, term) for term in terms]


def _detach(model):
    if isinstance(model, PenalizedTFKerasModel):
        for loss in list(model._callable_losses):
            if isinstance(loss, _CallableLoss):
                model._callable_losses.remove(loss)
    object.__setattr__(model, "__class__", _own_class(model))
    object.__delattr__(model, "_tfreg_terms")


def _term_config(contents, term):
    return {
        "penalty": backend.serialize(term.penalty),
        "weights": term.selection.get_config(contents),
        "schedule": None if term.schedule is None else backend.serialize(term.schedule),
    }


def _term_of(config):
    schedule = config["schedule"]
    return Term(
        backend.deserialize(config["penalty"]),
        Selection.from_config(config["weights"]),
        None if schedule is None else backend.deserialize(schedule),
    )
