"""Penalties over a model: on weights of several layers, apart or together, and on a schedule."""

import inspect
from collections.abc import Iterable
from typing import Any, TypeVar

import tensorflow as tf

from tfreg import backend, schedules, steps
from tfreg.inventory import HasMembers, Model
from tfreg.model import penalized
from tfreg.model.contents import Contents
from tfreg.model.coupled import couplings_in, terms_of_couplings
from tfreg.model.selection import Selection, Weights
from tfreg.model.terms import Schedule, Step, Term, check_fit, sum_of
from tfreg.penalties import Joint, Penalty, Sum, get
from tfreg.penalties.base import Regularizer

M = TypeVar("M", bound=Model)


def add_penalty(
    model: M,
    penalty: Regularizer | Joint | str | dict[str, Any],
    weights: Weights | HasMembers | Iterable[HasMembers] = None,
    schedule: Schedule | None = None,
    step: Step | None = None,
) -> M:
    """Adds a penalty on some of a model's weights to `model.losses`.

    `loss + schedule(step) * sum_w penalty(w)`, or, for a `tfreg.Joint`,
    `loss + schedule(step) * penalty(w_1, ..., w_n)`

    It is what `Model.add_loss` should be for weights: the penalty counts once in `fit`,
    `evaluate`, `train_on_batch` and loops of your own that read `model.losses`, on one device or
    under `tf.distribute`; it is saved with the model; and the next step of a compiled model
    includes it. (A compiled model around this one must be compiled anew.) The model changes in
    place: its class becomes a subclass of its own, of the same name, which saves the penalties. On
    each layer the names of `GroupLasso.axis` mean what they say: see `tfreg.layers`.

    Args:
        model: a model of either Keras: Sequential, Functional or subclassed, built or not,
            compiled or not.
        penalty: a penalty, the name or config of one as `tfreg.get` takes it, a Keras regularizer
            (which counts as the `Sum` of it alone), or a `tfreg.Joint`.
        weights: the weights to penalize, those of nested models included:

            - None: every kernel, embeddings included; no bias, no normalization weight.
            - a string: a regular expression, searched in each weight's path. A path joins the
              current names of the layers around the weight and its own with slashes:
              "block/dense/kernel". Name the layers of a subclassed model: otherwise they get new
              names when it is loaded.
            - a function of (layer, weight): those for which it returns true.
            - a list of layers (for their kernels), variables, layer names and weight paths. A
              `Joint` gets the weights in this order.
            - what `tfreg.couple(model)` returns, or a list of some of its couplings: the entries
              of each coupling, with all they own of its weights, are the groups of a `GroupLasso`,
              `SparseGroupLasso` or `GroupMCP` (or a `Sum` of those) with the default `axis`. Each
              coupling has an entry of its own in `tfreg.get_penalties`.

            Weights are selected for good once all layers are built. A weight belongs to the layer
            that made it, even if a wrapper or another layer holds it too. Frozen weights add
            nothing to the loss while they are frozen; in a `Joint` with others they are constants.
        schedule: a multiplier of the strength: a `keras.optimizers.schedules` object,
            `tfreg.schedules.CubicRamp` or another registered callable of the step.
        step: what the schedule counts: an optimizer, whose steps it counts; a scalar integer
            variable; or a function that returns one or a tensor made of one. It is not saved: add
            the penalty anew to a loaded model. None counts the steps of the optimizer of `model`,
            or of the penalized model around it.

            The optimizer must be the one that trains the weights. If not, the first step of `fit`
            or `train_on_batch` raises an error; in a training step of your own, one of the first
            ten does. (A function that XLA compiles cannot raise: its loss becomes NaN. A loop under
            a ParameterServerStrategy is not checked.) A variable or a function is not checked.

    Returns:
        `model`.

    Raises:
        TypeError, ValueError: for other arguments; if no weight is selected, or something in the
            list is not part of the model or ambiguous; if the penalty does not fit a selected
            weight; if a layer has LoRA enabled. If the model is not built, once it is.
        RuntimeError: in TensorFlow 1's graph mode.

    A model made of the layers or tensors of a penalized one is another model, without its
    penalties: `keras.Model(model.input, model.layers[-2].output)`, `Sequential(model.layers[:-1])`,
    the clone that a scikit-learn wrapper or a wrapper of tfmot trains. Add them to the model that
    is trained.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(2)])
    >>> model = tfreg.add_penalty(model, tfreg.GroupLasso(1e-3))
    >>> len(model.losses)
    1
    >>> ramp = tfreg.schedules.CubicRamp(begin=0, end=1000)
    >>> penalty = tfreg.BoxPenalty(0.1, -1.0, 1.0)
    >>> model = tfreg.add_penalty(model, penalty, weights="bias$", schedule=ramp)
    """
    backend.check_not_graph_mode("tfreg.add_penalty")
    if not backend.is_model(model):
        raise TypeError(
            f"Argument `model` must be a model of Keras 3 or tf_keras. Received: model={model!r}"
        )
    terms = terms_for(model, penalty, weights, schedule, step)
    if model.built:  # raise now what the first step would raise
        contents = Contents(model)
        for term in terms:
            check_fit(contents, term)
    penalized.attach(model, terms)
    backend.renew_compiled_functions(model)
    return model


def terms_for(
    model: Model, penalty: Any, weights: Any, schedule: Any = None, step: Any = None
) -> list[Term]:
    """The terms that arguments of `add_penalty` stand for: one, or one for each coupling.

    Raises:
        TypeError, ValueError: for other arguments.
    """
    checked, couplings = _checked_penalty(penalty), couplings_in(weights)
    schedule = backend.copied(schedules.check_schedule(schedule))
    step = steps.check_step(step, schedule)
    if couplings is not None:
        return terms_of_couplings(model, checked, couplings, schedule, step)
    return [Term(checked, Selection.in_model(model, weights), schedule, step)]


def remove_penalties(model: M) -> M:
    """Removes what `add_penalty` added; layers keep the regularizers of their own.

    The model gets its own class back, and keeps its weights, optimizer and compiled state.

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
    if penalized.is_penalized(model):
        penalized.detach(model)
        backend.renew_compiled_functions(model)
    return model


def clone_model(model: M) -> M:
    """A copy of a model with weights of its own, initialized anew, and the same penalties.

    `keras.models.clone_model` silently drops the penalties of a Sequential model.

    Args:
        model: a model of either Keras, penalized or not, with the `get_config` and `from_config`
            that saving needs.

    Returns:
        A model, not compiled.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> model = tfreg.add_penalty(model, tfreg.GroupLasso(1e-3))
    >>> clone = tfreg.clone_model(model)
    >>> len(clone.losses)
    1
    """
    api = backend.api_of(type(model))
    config = api.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    own_class = penalized.own_class(model)
    return api.saving.deserialize_keras_object(
        config, custom_objects={own_class.__name__: own_class}
    )


def regularization_loss(model: Model) -> tf.Tensor:
    """The sum of a model's losses, for a training loop of your own.

    `sum(model.losses) / replicas`

    Call it after the model, in the step: under `tf.distribute` in the function passed to `run`,
    where it is scaled so that the sum over the replicas counts each penalty once.

    Args:
        model: a model of either Keras.

    Returns:
        A scalar tensor; 0 if the model has no losses.

    Raises:
        RuntimeError: in a strategy's scope, outside of its replicas.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model = tfreg.add_penalty(model, tfreg.GroupLasso(1e-3))
    >>> x, y = tf.ones([4, 2]), tf.ones([4, 1])
    >>> with tf.GradientTape() as tape:
    ...     loss = tf.reduce_mean((model(x) - y) ** 2) + tfreg.regularization_loss(model)
    >>> gradients = tape.gradient(loss, model.trainable_variables)
    """
    losses = [tf.reduce_sum(loss) for loss in model.losses]
    return tf.nn.scale_regularization_loss(sum_of(losses) if losses else tf.constant(0.0))


def _checked_penalty(penalty: Any) -> Penalty | Joint:
    if isinstance(penalty, Joint):
        return penalty
    resolved: Any = None if inspect.isclass(penalty) or penalty is None else get(penalty)
    if not backend.is_regularizer(resolved):
        raise TypeError(
            "Argument `penalty` must be a penalty, a Keras regularizer, or a tfreg.Joint; a "
            "tfreg.Budget goes with tfreg.Proximal. "
            f"Received: penalty={penalty!r}"
        )
    return resolved if isinstance(resolved, Penalty) else Sum([resolved])
