"""The penalties of a model, and their values and proximal operators: `get_penalties`."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfreg import backend
from tfreg.inventory import Model, Variable
from tfreg.layout import Layout
from tfreg.model import penalized, terms
from tfreg.model.contents import Contents
from tfreg.model.terms import OnWeights, Schedule, Term
from tfreg.penalties import Joint, Penalty
from tfreg.penalties.base import StepSize


@dataclasses.dataclass(frozen=True)
class AttachedPenalty:
    """A penalty and the weights that it is on, as `get_penalties` lists them.

    Attributes:
        penalty: the penalty, or the `Joint`.
        paths: the paths of the weights; None before the model is built.
        schedule: the schedule of its strength, or None.
        weights: the weights, frozen ones included; None before the model is built.
    """

    penalty: Penalty | Joint
    paths: list[str] | None
    schedule: Schedule | None = None
    weights: list[Variable] | None = dataclasses.field(default=None, repr=False)
    _on: "_OnModel | _OnLayer | None" = dataclasses.field(default=None, repr=False, compare=False)

    def value(self) -> tf.Tensor:
        """What the penalty adds to `model.losses` now.

        `schedule(step) * sum_w penalty(w)` over the weights that are not frozen, with the axes
        that each has on its layer.

        Returns:
            A scalar tensor.

        Raises:
            RuntimeError: if the step that its schedule counts is not known.
            ValueError: if the model is not built.

        Example:

        >>> model = keras.Sequential([keras.Input((3, 2)), keras.layers.LSTM(4)])
        >>> model = tfreg.add_penalty(model, tfreg.GroupLasso(0.1, axis="output"))
        >>> [attached] = tfreg.get_penalties(model)
        >>> bool(attached.value() == model.losses[0])
        True
        """
        return self._built().value()

    def prox(self, step_size: StepSize) -> list[tf.Tensor]:
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

    def _built(self) -> "_OnModel | _OnLayer":
        if self._on is None:
            raise ValueError(
                f"The model that {self.penalty!r} was added to is not built: it has no weights yet."
            )
        return self._on


@dataclasses.dataclass(frozen=True)
class _OnModel:
    """A penalty that was added to the model `holder` in `root`, the model that is asked."""

    root: Model
    holder: Model
    term: Term

    def value(self) -> tf.Tensor:
        with penalized.reading_losses(self.root):
            return terms.value_of(self.holder, self.term)

    def prox(self, step_size: StepSize) -> list[tf.Tensor]:
        with penalized.reading_losses(self.root):
            return terms.prox_of(self.holder, self.term, step_size)

    def on_weights(self, contents: Contents) -> list[OnWeights]:
        with penalized.reading_losses(self.root):
            return list(terms.on_weights(contents, self.term))


@dataclasses.dataclass(frozen=True)
class _OnLayer:
    """A penalty that is the regularizer of a layer in `root`: names of axes go by position."""

    root: Model
    penalty: Any
    weight: Variable

    def value(self) -> tf.Tensor:
        return self._value(self._is_trained())

    def value_in(self, contents: Contents) -> tf.Tensor:
        """The value, with the `contents` of the root, which take long to look up."""
        return self._value(id(self.weight) in contents.trainable)

    def _value(self, is_trained: bool) -> tf.Tensor:
        if is_trained or backend.keeps_losses_of_frozen_layers(self.root):
            return self.penalty(self.weight)
        return tf.zeros([])

    def prox(self, step_size: StepSize) -> list[tf.Tensor]:
        if self._is_trained():
            return [self.penalty.prox(self.weight, step_size)]
        return [tf.convert_to_tensor(self.weight)]

    def on_weights(self, contents: Contents) -> list[OnWeights]:
        value = float(self.value_in(contents))
        return [OnWeights(self.penalty, [self.weight], [None], 1.0, value)]

    def _is_trained(self) -> bool:
        return any(weight is self.weight for weight in backend.trainable_weights(self.root))


def get_penalties(model: Model) -> list[AttachedPenalty]:
    """The penalties that `add_penalty` added, and the layers' own, with their weights.

    Args:
        model: a model of either Keras.

    Returns:
        A list of `AttachedPenalty`, with fields `penalty`, `paths`, `schedule` and `weights`, and
        methods `value()`, what it adds to `model.losses` now, and `prox(step_size)`, its proximal
        operator as it is trained: first those added to the model, in order, then those of nested
        models and of layers. Regularizers that are not tfreg's are not listed.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
    >>> model = tfreg.add_penalty(model, tfreg.BoxPenalty(0.1))
    >>> attached = tfreg.get_penalties(model)[0]
    >>> attached.penalty
    BoxPenalty(factor=0.1, lower=-1.0, upper=1.0)
    """
    return [entry for entry in _entries(model) if isinstance(entry.penalty, (Penalty, Joint))]


def is_of_a_layer(entry: AttachedPenalty) -> bool:
    """Whether it is the argument of a layer, and not added to a model."""
    return isinstance(entry._on, _OnLayer)


def every_penalty_on_weights(model: Model) -> Iterator[tuple[AttachedPenalty, list[OnWeights]]]:
    """The penalties on each of their weights, with their values; Keras's own regularizers too.

    Of a model that is not built, a penalty is on no weights.
    """
    for entry, contents in _with_contents(model):
        if entry._on is None:
            yield entry, [OnWeights(entry.penalty, [], [], None, None)]
        else:
            yield entry, entry._on.on_weights(contents)


def penalized_weights(model: Model) -> Iterator[tuple[Any, list[Variable], list[Layout | None]]]:
    """What `get_penalties` lists on each weight, or on those that are tied, and their layouts.

    Without what is on a model that is not built.
    """
    for entry, contents in _with_contents(model):
        if isinstance(entry._on, _OnModel):
            for weights, layouts in terms.tied_weights(contents, entry._on.term):
                yield entry.penalty, weights, layouts
        elif isinstance(entry._on, _OnLayer) and isinstance(entry.penalty, Penalty):
            yield entry.penalty, [entry._on.weight], [None]


def _entries(model: Model) -> Iterator[AttachedPenalty]:
    return (entry for entry, _ in _with_contents(model))


def _with_contents(model: Model) -> Iterator[tuple[AttachedPenalty, Contents]]:
    """The penalties, with what is in the model that holds each, or for layers' own in `model`."""
    contents = Contents(model)
    paths = {id(weight.variable): weight.path for weight in contents.weights}
    for _, names, layer in contents.layers:
        added = penalized.terms_of(layer)
        inside = Contents(layer) if added and layer is not model else contents
        for term in added:
            if not layer.built:
                yield AttachedPenalty(term.penalty, None, term.schedule), inside
                continue
            weights = [weight.variable for weight in term.selection.select(inside)]
            entry = AttachedPenalty(
                term.penalty,
                [paths[id(weight)] for weight in weights],
                term.schedule,
                weights,
                _OnModel(model, layer, term),
            )
            yield entry, inside
        for weight, regularizer in backend.regularized_weights(layer, contents.made_by(layer)):
            path = backend.weight_path(weight, names)
            on_layer = _OnLayer(model, regularizer, weight)
            yield AttachedPenalty(regularizer, [path], None, [weight], on_layer), contents


def unscheduled_values(model: Model) -> Iterator[tuple[tf.Tensor, Schedule | None, Any]]:
    """The value of each penalty on weights without its schedule, that schedule, what it counts.

    Regularizers of Keras are included.
    """
    for entry, contents in _with_contents(model):
        if isinstance(entry._on, _OnLayer):
            yield entry._on.value_in(contents), None, None
        elif entry._on is not None:
            with penalized.reading_losses(model):
                yield terms.unscheduled(contents, entry._on.term)
