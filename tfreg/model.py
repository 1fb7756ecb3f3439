"""Penalties over a model: on weights of several layers, apart or together, and on a schedule."""

import dataclasses
import inspect
from typing import Any

import tensorflow as tf

from tfreg import backend, penalized, schedules, steps
from tfreg.penalized import Term
from tfreg.penalties import Joint, Penalty, Sum, get
from tfreg.selection import Contents, Selection


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
    _on: Any = dataclasses.field(default=None, repr=False, compare=False)

    def value(self):
        """What the penalty adds to `model.losses` now.

        `schedule(step) * sum_w penalty(w)` over the weights that are not frozen, with the axes
        that each has on its layer.

        Returns:
            A scalar tensor.

        Raises:
            RuntimeError: if the step that its schedule counts is not known, as in `model.losses`.
            ValueError: if the model is not built.

        Example:

        >>> model = keras.Sequential([keras.Input((3, 2)), keras.layers.LSTM(4)])
        >>> model = tfreg.add_penalty(model, tfreg.GroupLasso(0.1, axis="output"))
        >>> [attached] = tfreg.get_penalties(model)
        >>> bool(attached.value() == model.losses[0])
        True
        """
        return self._built().value()

    def prox(self, step_size):
        """The proximal operator of the penalty at its weights, as it is trained.

        `argmin_x 1/2 sum_w ||x_w - w||^2 + step_size * schedule(step) * sum_w penalty(x_w)`

        Unlike `penalty.prox(weight, step_size)`, which sees a tensor and not its layer, it takes
        the names of axes as the weight's layer means them. A `tfreg.Joint` shrinks all its weights
        together.

        Args:
            step_size: a non-negative number or scalar tensor, such as a learning rate.

        Returns:
            A list with a tensor for each of the `weights`, of its shape and dtype. Frozen weights
            are returned as they are.

        Raises:
            NotImplementedError: if the penalty has no proximal operator in closed form, or is a
                `tfreg.Joint` on some frozen weights and some that are not.
            RuntimeError: if the step that its schedule counts is not known.
            TypeError, ValueError: for another `step_size`; if the model is not built.

        Example:

        >>> model = keras.Sequential([keras.Input((3, 2)), keras.layers.LSTM(4)])
        >>> model = tfreg.add_penalty(model, tfreg.GroupLasso(0.1, axis="output"))
        >>> [attached] = tfreg.get_penalties(model)
        >>> for weight, shrunk in zip(attached.weights, attached.prox(step_size=0.5)):
        ...     _ = weight.assign(shrunk)
        """
        return self._built().prox(step_size)

    def _built(self):
        if self._on is None:
            raise ValueError(
                f"The model that {self.penalty!r} was added to is not built: it has no weights yet."
            )
        return self._on


@dataclasses.dataclass(frozen=True)
class _OnModel:
    """A penalty that was added to the model `holder`, in `root`, whose losses are asked for."""

    root: Any
    holder: Any
    term: Term

    def value(self):
        with penalized.reading_losses(self.root):
            return penalized.value_of(self.holder, self.term)

    def prox(self, step_size):
        with penalized.reading_losses(self.root):
            return penalized.prox_of(self.holder, self.term, step_size)


@dataclasses.dataclass(frozen=True)
class _OnLayer:
    """A penalty that is the argument of a layer in `root`, for a weight, whatever its layer."""

    root: Any
    penalty: Penalty
    weight: Any

    def value(self):
        if self._is_trained() or backend.keeps_losses_of_frozen_layers(self.root):
            return self.penalty(self.weight)
        return tf.zeros([])

    def prox(self, step_size):
        if self._is_trained():
            return [self.penalty.prox(self.weight, step_size)]
        return [tf.convert_to_tensor(self.weight)]

    def _is_trained(self):
        return any(weight is self.weight for weight in backend.trainable_weights(self.root))


def add_penalty(model, penalty, weights=None, schedule=None, step=None):
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
            - a string: those whose path the regular expression is found in. A path is made of the
              names of the layers around the weight, as they are now, and its own, joined with
              slashes: "block/dense/kernel". Name the layers of a subclassed model: otherwise they
              get new names when it is loaded.
            - a function of (layer, weight): those for which it returns true.
            - a list of layers (for their kernels), variables, layer names and weight paths. A
              `Joint` gets the weights in this order.

            The choice is made once all layers are built, and lasts. A weight belongs to the layer
            that made it, also where a wrapper or another layer holds it too. Frozen weights are
            left out of the loss as long as they are frozen; as one of several in a `Joint` they
            are constants.
        schedule: a multiplier of the strength: a `keras.optimizers.schedules` object,
            `tfreg.schedules.CubicRamp` or another registered callable of the step.
        step: what the schedule counts: the steps of an optimizer, a scalar integer variable, or
            what a function returns, a variable or a tensor made of one. It is not saved: a loaded
            model needs its penalties anew. None counts the steps of the optimizer of `model`, or
            of the penalized model around it.

            The optimizer must be the one that trains the weights. If not, the first step of `fit`
            or `train_on_batch` raises an error; in training that Keras does not do itself, a step
            among the first ten may be the one that does. (A function that XLA compiles cannot
            raise: its loss becomes NaN. A loop under a ParameterServerStrategy is not checked.) A
            variable or a function is taken at its word.

    Returns:
        `model`.

    Raises:
        TypeError, ValueError: for other arguments; if no weight is selected, or something in the
            list is not part of the model or ambiguous; if the penalty does not fit a selected
            weight; if a layer has LoRA enabled. Before the model is built, when it is.
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
    term = Term(
        _checked_penalty(penalty),
        Selection.in_model(model, weights),
        backend.copied(schedules.check_schedule(schedule)),
        steps.check_step(step, schedule),
    )
    if model.built:  # what the weights alone can show is an error now, not in the first step
        penalized.check_fit(Contents(model), term)
    penalized.attach(model, [term])
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
    if penalized.is_penalized(model):
        penalized.detach(model)
        backend.renew_compiled_functions(model)
    return model


def get_penalties(model):
    """What is attached to what: the penalties that `add_penalty` added, and the layers' own.

    Args:
        model: a model of either Keras.

    Returns:
        A list of `AttachedPenalty`, with fields `penalty`, `paths`, `schedule` and `weights`, and
        methods `value()`, what it adds to `model.losses` now, and `prox(step_size)`, its proximal
        operator as it is trained: first those added to the model, in order, then those of nested
        models and of layers, as long as they are of tfreg.

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
        for term in penalized.terms_of(layer):
            if not layer.built:
                attached.append(AttachedPenalty(term.penalty, None, term.schedule))
                continue
            weights = [weight.variable for weight in term.selection.select(Contents(layer))]
            attached.append(
                AttachedPenalty(
                    term.penalty,
                    [paths[id(weight)] for weight in weights],
                    term.schedule,
                    weights,
                    _OnModel(model, layer, term),
                )
            )
        for weight, regularizer in backend.regularized_weights(layer, contents.made_by(layer)):
            if isinstance(regularizer, Penalty):
                path = backend.weight_path(weight, names)
                attached.append(
                    AttachedPenalty(
                        regularizer, [path], None, [weight], _OnLayer(model, regularizer, weight)
                    )
                )
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
    api = backend.api_of(type(model))
    config = api.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    own_class = penalized.own_class(model)
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
    return tf.nn.scale_regularization_loss(penalized.sum_of(losses) if losses else tf.constant(0.0))


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
