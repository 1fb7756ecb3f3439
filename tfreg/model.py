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

from tfreg import backend, layers, schedules
from tfreg.kernels import with_common_dtype
from tfreg.penalties import Joint, Sum, get
from tfreg.penalties.base import Penalty
from tfreg.selection import Selection, walk, weights_of

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
    under `tf.distribute`; it is saved and loaded with the model; and what was compiled before
    follows. The model itself is changed: its class becomes one made from its own, of the same
    name, which saves the penalties. On each layer the names of `GroupLasso.axis` mean what they
    say: see `tfreg.layers`.

    Args:
        model: a model of either Keras: Sequential, Functional or subclassed, built or not,
            compiled or not.
        penalty: a penalty, a Keras regularizer, the name or config of one as `tfreg.get` takes
            it, or a `tfreg.Joint`.
        weights: the weights to penalize, those of nested models included:

            - None: every kernel, embeddings included; no bias, no normalization weight.
            - a string: those whose path (in tf_keras, the names of the layers and the weight
              joined with slashes) the regular expression is found in.
            - a function of (layer, weight): those for which it returns true.
            - a list of layers (for their kernels), variables, layer names and weight paths. A
              `Joint` gets the weights in this order.

            The choice is made once the model is built, and lasts. Frozen weights are left out of
            the loss as long as they are frozen; as one of several in a `Joint` they are
            constants.
        schedule: a multiplier of the strength: a `keras.optimizers.schedules` object,
            `tfreg.schedules.CubicRamp` or another registered callable of `optimizer.iterations`.

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
        _check_fit(model, term)
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
    paths = {id(weight.variable): weight.path for weight in weights_of(model)}
    attached: list[tuple] = []
    for _, _, layer in walk(model):
        for term in _terms(layer):
            weights = None
            if layer.built:
                weights = [weight.variable for weight in term.selection.select(layer)]
            attached.append((term.penalty, weights, term.schedule))
        for weight, regularizer in backend.regularized_weights(layer):
            if isinstance(regularizer, Penalty):
                attached.append((regularizer, [weight], None))
    return [
        AttachedPenalty(
            penalty, weights and [paths[id(weight)] for weight in weights], schedule, weights
        )
        for penalty, weights, schedule in attached
    ]


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


def _check_fit(model, term):
    """Raises a ValueError if the penalty cannot apply to the selected weights."""
    variables = [weight.variable for weight in term.selection.select(model)]
    laid_out = _layouts_of(model, variables)
    if isinstance(term.penalty, Joint):
        term.penalty.value_on(variables, laid_out)
    else:  # without the value, whose kernels would be compiled here
        for variable, layout in zip(variables, laid_out):
            term.penalty._checked(variable, layout)


def _loss(model, term):
    """What the term adds to the losses of the model; None if there is nothing to train."""
    if not model.built:
        return None
    selected = [weight.variable for weight in term.selection.select(model)]
    trainable = {id(variable) for variable in model.trainable_weights}
    to_train = [variable for variable in selected if id(variable) in trainable]
    if not to_train:
        return None
    value = _value(model, term, selected if isinstance(term.penalty, Joint) else to_train)
    if term.schedule is None:
        return value
    optimizer = getattr(model, "optimizer", None)
    return schedules.multiplier(term.schedule, optimizer, value.dtype) * value


def _value(model, term, variables):
    laid_out = _layouts_of(model, variables)
    if isinstance(term.penalty, Joint):
        return term.penalty.value_on(variables, laid_out)
    return _sum([term.penalty.value_on(*pair) for pair in zip(variables, laid_out)])


def _layouts_of(model, variables):
    layouts = layers.weight_layouts(model)
    return [layouts.get(id(variable)) for variable in variables]


def _sum(scalars):
    alike = len({scalar.dtype for scalar in scalars}) == 1
    return tf.add_n(scalars if alike else with_common_dtype(scalars))


class _CallableLoss:
    """A term among the losses that tf_keras calls: its saving wants no functools.partial there."""

    def __init__(self, model, term):
        self.model = model
        self.term = term

    def __call__(self):
        return _loss(self.model, self.term)


class _Terms:
    """The terms of a model, kept where neither Keras looks for layers, variables or state."""

    def __init__(self):
        self.terms = []


def _terms(layer):
    return layer._tfreg_terms.terms if isinstance(layer, PenalizedModel) else []


class PenalizedModel(_OwnClass):
    """What a penalized model's class has before its own class: saving, and a way back."""

    def __new__(cls, *args, **kwargs):
        raise TypeError(
            f"A penalized {cls.__name__} is not made by its class, as keras.models.clone_model "
            "does. Use tfreg.clone_model(model)."
        )

    def get_config(self):
        config = dict(super().get_config())
        config[CONFIG_KEY] = {
            "model": backend.identity(_own_class(self)),
            "penalties": [_term_config(self, term) for term in _terms(self)],
        }
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        penalized = config.pop(CONFIG_KEY)
        own_class = getattr(cls, "_tfreg_own_class", None)
        known = {} if own_class is None else {own_class.__name__: own_class}
        model = cls._tfreg_api.saving.deserialize_keras_object(
            {**penalized["model"], "config": config},
            custom_objects={**known, **(custom_objects or {})},
        )
        _attach(model, [_term_of(term) for term in penalized["penalties"]])
        return model

    def save(self, filepath, *args, **kwargs):
        arguments = inspect.signature(super().save).bind(filepath, *args, **kwargs).arguments
        if not self._tfreg_can_save(str(filepath), arguments.get("save_format")):
            raise ValueError(
                "Only the .keras format holds the penalties over a model's weights. Use it, "
                "save_weights, export, or save what tfreg.remove_penalties(model) returns. "
                f"Received: filepath={str(filepath)!r}"
            )
        return super().save(filepath, *args, **kwargs)

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
        losses = [_loss(self, term) for term in _terms(self)]
        return super()._get_own_losses() + [loss for loss in losses if loss is not None]

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
    cls = types.new_class(
        own_class.__name__, (stand_in, own_class), exec_body=lambda body: body.update(namespace)
    )
    backend.call_alike(cls, stand_in)
    return cls


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


def _term_config(model, term):
    if model.built:
        term.selection.select(model)
    return {
        "penalty": backend.serialize(term.penalty),
        "weights": term.selection.get_config(),
        "schedule": None if term.schedule is None else backend.serialize(term.schedule),
    }


def _term_of(config):
    schedule = config["schedule"]
    return Term(
        backend.deserialize(config["penalty"]),
        Selection.from_config(config["weights"]),
        None if schedule is None else backend.deserialize(schedule),
    )
