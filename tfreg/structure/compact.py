"""Compact: a smaller model with equal outputs."""

import logging
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfreg import backend
from tfreg.checks import check_bool
from tfreg.inventory import Layer, Model, Variable
from tfreg.model.carried import carry_penalties
from tfreg.model.penalized import own_class
from tfreg.structure import configs, edits, transfer
from tfreg.structure.couplings import couplings_of, traced
from tfreg.structure.kernels import array
from tfreg.structure.liveness import Outcome, decide
from tfreg.structure.regularizers import carried_regularizers
from tfreg.structure.rules import Rules
from tfreg.structure.tracing import Shape, Trace, Value

_logger = logging.getLogger(__name__)


def compact(
    model: Model,
    fold: bool = True,
    optimizer: bool = True,
    penalties: bool = True,
    rules: Rules | None = None,
) -> Model:
    """Cuts out what is dead in a model: a smaller one whose outputs at inference are equal.

    An entry of a coupling goes if, at every layer that reads it, its slice is zero towards all that
    stays, or it is the constant 0 there, or it is a constant that folds exactly into the reader's
    bias. Zeros are exact zeros: of `penalty.prox`, of `coupling.zero`, or set by hand.

    Args:
        model: a built model of either Keras, as for `tfreg.couple`. It stays as it is.
        fold: whether constants other than 0 go into the biases of the layers that read them, such
            as the offset of a normalization whose scale is 0. A dense layer or convolution without
            a bias gets one. False cuts what yields or adds zeros alone.
        optimizer: whether the new model is compiled as `model` is, with the optimizer's state cut
            like the weights, so that training goes on. After steps of SGD, Adam, AdamW, Nadam,
            RMSprop, Lion and the like the weights are those of `model` with its dead entries held
            at zero. Adafactor and Muon, which average over a weight, take other steps.
        penalties: whether penalties, on layers, added to the model or in a `tfreg.Proximal`, go
            with what is left of their weights. False leaves tfreg's out.
        rules: how to follow layers of your own: see `tfreg.couple`.

    Returns:
        A new model of the same class, Sequential or Functional; of a subclassed one, a Functional
        model. If nothing can go it is a copy, and the log says so.

    Raises:
        TypeError, ValueError: for other arguments; if a penalty cannot be carried over.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, activation="relu")])
    >>> model.add(keras.layers.Dense(2))
    >>> [coupling] = tfreg.couple(model)
    >>> coupling.zero([0, 2])
    >>> small = tfreg.compact(model)
    >>> [layer.units for layer in small.layers], small.count_params()
    ([2, 2], 24)
    """
    for name, value in (("fold", fold), ("optimizer", optimizer), ("penalties", penalties)):
        check_bool(name, value)
    trace, followed = traced(model, rules)
    outcome = decide(trace, fold)
    if not _cuts(outcome):
        reasons = sorted({fixed.reason for fixed in couplings_of(model, trace).fixed})
        _logger.warning(
            "tfreg.compact: nothing can be cut from the model %r, and a copy of it is returned. "
            "No entry that is free is dead. What is fixed: %s",
            model.name,
            "; ".join(reasons),
        )
    large = model
    while True:
        small = _without(outcome, model, followed, optimizer, penalties)
        # What is left may be freer: of a grouped convolution one group, whose filters are single.
        outcome = decide(traced(small, rules)[0], fold)
        if not _cuts(outcome):
            break
        model = followed = small
    if own_class(small).train_step is not own_class(large).train_step:
        _logger.warning(
            "tfreg.compact: the smaller model is a %s without the train_step of %s.",
            own_class(small).__name__,
            own_class(large).__name__,
        )
    return small


class Left(NamedTuple):
    """What `compact` would leave of a model.

    Attributes:
        model: the smaller model, without optimizer and penalties; the model itself if nothing goes.
        trace: its trace.
        kept: for each weight of which something goes, by its id, what stays along each of its axes;
            None for all.
    """

    model: Model
    trace: Trace
    kept: dict[int, tuple[np.ndarray | None, ...]]


def what_is_left(model: Model, followed: Model, trace: Trace, rules: Rules | None) -> Left:
    """What `compact` would leave of a model, of which this is the `trace`."""
    # By the id of the weight's twin in the model that is cut next: the weight's id, and its cuts.
    twins: dict[int, tuple[int, tuple[np.ndarray | None, ...]]] = {
        key: (key, (None,) * len(variable.shape)) for key, variable in trace.variables.items()
    }
    while True:
        outcome = decide(trace, fold=True)
        cuts = _cuts(outcome)
        if not cuts:
            return Left(model, trace, dict(twins.values()))
        with tf.device("CPU"):  # where it takes none of a GPU's memory
            small = _without(outcome, model, followed, optimizer=False, penalties=False)
        twins = {
            id(new): (twins[id(old)][0], _both(twins[id(old)][1], cuts.get(id(old))))
            for old, new in transfer.variable_pairs(followed, small, outcome.new_biases)
            if id(old) in twins
        }
        trace, _ = traced(small, rules)
        model = followed = small


def _both(
    kept: tuple[np.ndarray | None, ...], then: tuple[np.ndarray | None, ...] | None
) -> tuple[np.ndarray | None, ...]:
    """What stays along each axis after two cuts."""
    if then is None:
        return kept
    return tuple(
        first if second is None else second if first is None else first[second]
        for first, second in zip(kept, then)
    )


def _without(
    outcome: Outcome, model: Model, followed: Model, optimizer: bool, penalties: bool
) -> Model:
    """A new model without what goes; `followed` has the graph of `model`."""
    cuts, shifts = _cuts(outcome), _shifts(outcome)
    sizes = _Sizes(outcome, cuts)

    def edit(layer: Any, config: dict[str, Any]) -> dict[str, Any]:
        config = edits.edited(layer, config, sizes, id(layer) in outcome.new_biases)
        config = _with_new_width(layer, config, outcome, cuts)
        return carried_regularizers(layer, config, cuts, penalties)

    small = configs.rebuilt(followed, edit)
    biases = {key: _cut_bias(outcome, key) for key in outcome.new_biases}
    transfer.carry_weights(followed, small, cuts, shifts, biases)
    transfer.carry_trainable(followed, small)
    if penalties:
        pairs = transfer.variable_pairs(followed, small, biases)
        twins = {id(old): new for old, new in pairs if old is not None}
        carry_penalties(model, followed, small, twins, cuts)
    if optimizer:
        transfer.carry_training(model, small, cuts, shifts)
        proximal_steps = backend.proximal_steps_of(getattr(model, "optimizer", None))
        if penalties and proximal_steps is not None and small.optimizer is not None:
            backend.innermost(model.optimizer).tfreg_carry(model, small, twins, cuts)
    return small


# What layers of the user's own call the number of their channels.
_WIDTHS = ("units", "filters", "features", "channels", "output_dim", "dim")


def _with_new_width(
    layer: Any, config: dict[str, Any], outcome: Outcome, cuts: transfer.Cuts
) -> dict[str, Any]:
    """The config of a user's own layer with the number of channels that it yields now.

    If a field is meant otherwise, its weights do not get the shapes that they must have, which is
    an error.
    """
    calls = outcome.trace.values.get(id(layer))
    is_cut = any(id(variable) in cuts for variable in outcome.trace.variables_in(layer))
    if not calls or not is_cut or backend.is_of_keras(layer):
        return config
    value = calls[0][0]
    labels = value.axes[-1]
    if labels is None:
        return config
    width = len(outcome.kept(labels))
    changed = {name: width for name in _WIDTHS if config.get(name) == len(labels)}
    return {**config, **changed}


def _cuts(outcome: Outcome) -> transfer.Cuts:
    """What stays along each axis of the weights that lose something."""
    trace = outcome.trace
    cuts: dict[int, list[np.ndarray | None]] = {}
    for (key, axis), labels in trace.axes.items():
        kept = outcome.kept(labels)
        if len(kept) < len(labels):
            rank = len(trace.variables[key].shape)
            cuts.setdefault(key, [None] * rank)[axis] = kept
    return {key: tuple(along) for key, along in cuts.items()}


def _shifts(outcome: Outcome) -> dict[int, np.ndarray]:
    """What the weights gain: what is folded into biases, and new scales of norms."""
    shifts = dict(outcome.shifts)
    for step in outcome.trace.steps:
        for variable, labels, multiplier in step.rescaled:
            count, left = len(labels), len(outcome.kept(labels))
            if left < count and id(variable) not in shifts:
                shifts[id(variable)] = array(variable) * (multiplier(count, left) - 1.0)
    return shifts


def _cut_bias(outcome: Outcome, key: int) -> np.ndarray:
    """The bias that a layer gets, of the units that stay."""
    trace, bias = outcome.trace, outcome.new_biases[key]
    reads = [read for step in trace.steps for read in step.reads]
    variable, read_axis = next(
        (read.variable, read.axis)
        for read in reads
        if read.fold is not None and id(read.fold.layer) == key
    )
    axes = {axis: labels for (of, axis), labels in trace.axes.items() if of == id(variable)}
    [labels] = [labels for axis, labels in axes.items() if axis != read_axis]
    return bias[outcome.kept(labels)]


class _Sizes:
    """The shapes that weights and tensors have in the new model."""

    def __init__(self, outcome: Outcome, cuts: transfer.Cuts) -> None:
        self._outcome, self._cuts = outcome, cuts

    def weight(self, variable: Variable) -> tuple[int, ...]:
        along = self._cuts.get(id(variable), (None,) * len(variable.shape))
        return tuple(n if k is None else len(k) for n, k in zip(variable.shape, along))

    def inputs(self, layer: Layer) -> list[Shape]:
        calls = self._outcome.trace.input_values.get(id(layer), [[]])
        return [self._shape(value) for value in calls[0]]

    def outputs(self, layer: Layer) -> list[Shape]:
        calls = self._outcome.trace.values.get(id(layer), [[]])
        return [self._shape(value) for value in calls[0]]

    def _shape(self, value: Value) -> Shape:
        return tuple(
            n if labels is None else len(self._outcome.kept(labels))
            for n, labels in zip(value.shape, value.axes)
        )
