"""Which entries can go: a greatest fixed point over all that read them."""

import dataclasses

import numpy as np

from tfreg import backend
from tfreg.structure.constants import known_reads
from tfreg.structure.kernels import array
from tfreg.structure.tracing import Fold, Read, Step, Trace


@dataclasses.dataclass
class Outcome:
    """What goes, and what that changes in the weights that stay.

    Attributes:
        gone: for each label, by the root of its set, whether it goes.
        shifts: what a weight gains before it is cut, by its id.
        new_biases: the biases of layers that had none, by the layers' ids, uncut.
    """

    trace: Trace
    gone: np.ndarray
    shifts: dict[int, np.ndarray]
    new_biases: dict[int, np.ndarray]

    def kept(self, labels: np.ndarray) -> np.ndarray:
        """The positions of those `labels` that stay."""
        return np.flatnonzero(~self.gone[self.trace.labels.roots(labels)])


class _Reader:
    """A read, and what of it counts towards what stays."""

    def __init__(
        self, trace: Trace, step: Step, read: Read, constants: np.ndarray, can_fold: np.ndarray
    ) -> None:
        self.read, self.constants = read, constants
        self.roots = trace.labels.roots(read.labels)
        self.is_harmless = (constants == 0.0) | can_fold
        self.others: list[np.ndarray] = []
        if read.variable is None:
            self._counts = np.ones([len(self.roots)], bool)
            return
        rank = len(read.variable.shape)
        axes = {axis: trace.axes.get((id(read.variable), axis)) for axis in range(rank)}
        # Axes that the step sums over together must not excuse each other.
        summed = {each.axis for each in step.reads if each.variable is read.variable}
        labelled = [i for i in range(rank) if i not in summed and axes[i] is not None]
        self.others = [trace.labels.roots(axes[i]) for i in labelled]  # type: ignore[arg-type]
        nonzero = np.asarray(backend.array_of(read.variable)) != 0
        rest = tuple(i for i in range(rank) if i != read.axis and i not in labelled)
        reduced = nonzero.any(axis=rest)
        place = sum(i < read.axis for i in labelled)
        self._counts = np.moveaxis(reduced, place, 0)

    def reinstated(self, gone: np.ndarray) -> np.ndarray:
        """The roots of what is read towards what stays, and is not harmless."""
        counts = self._counts
        for axis, roots in reversed(list(enumerate(self.others, start=1))):
            counts = np.compress(~gone[roots], counts, axis=axis).any(axis=axis)
        return self.roots[gone[self.roots] & counts & ~self.is_harmless]


def decide(trace: Trace, fold: bool) -> Outcome:
    """Lets go of all that is free, and takes back what the outputs need until nothing changes."""
    reads = known_reads(trace)
    foldable = (
        _foldable(reads, _shared_biases(trace))
        if fold
        else [np.zeros(len(known), bool) for _, _, known in reads]
    )
    readers = [
        _Reader(trace, step, read, known, can_fold)
        for (step, read, known), can_fold in zip(reads, foldable)
    ]
    vectors = _label_vectors(trace)
    gone = np.zeros(trace.labels.count, bool)
    for vector in vectors:
        gone[vector] = ~trace.labels.are_pinned(vector)
    _settle(gone, readers, readers)
    while True:
        empty = [vector for vector in vectors if len(vector) and gone[vector].all()]
        if not empty:
            break
        # An axis keeps one entry, which may then need others: those of earlier layers.
        before = gone.copy()
        gone[empty[-1][0]] = False
        _settle(gone, readers, _affected(readers, before & ~gone))
    return Outcome(trace, gone, *_shifts(readers, foldable, gone))


def _settle(gone: np.ndarray, readers: list[_Reader], pending: list[_Reader]) -> None:
    """Takes back what `pending` readers need, and what that makes other readers need."""
    while pending:
        before = gone.copy()
        for reader in pending:
            gone[reader.reinstated(gone)] = False
        pending = _affected(readers, before & ~gone)


def _affected(readers: list[_Reader], changed: np.ndarray) -> list[_Reader]:
    """The readers that yield, or read, what `changed`."""
    if not changed.any():
        return []
    return [reader for reader in readers if any(changed[roots].any() for roots in reader.others)]


def _label_vectors(trace: Trace) -> list[np.ndarray]:
    """The roots along every axis of weights and tensors: none may end without entries."""
    vectors = [trace.labels.roots(labels) for labels in trace.axes.values()]
    for step in trace.steps:
        for value in [*step.inputs, *step.outputs]:
            vectors += [trace.labels.roots(each) for each in value.axes if each is not None]
    return list({vector.tobytes(): vector for vector in vectors}.values())


def _shared_biases(trace: Trace) -> set[int]:
    """The ids of the variables that several layers which read use."""
    users: dict[int, int] = {}
    shared = set()
    for step in trace.steps:
        if step.reads:
            for variable in trace.variables_in(step.operation):
                if users.setdefault(id(variable), id(step.operation)) != id(step.operation):
                    shared.add(id(variable))
    return shared


def _foldable(reads: list, shared_biases: set[int]) -> list[np.ndarray]:
    """For each read the channels whose constants can go into a bias.

    A layer that is called twice has one bias: it must see the same constants in all calls.
    """
    seen: dict[tuple[int, int, int], np.ndarray] = {}
    for _, read, known in reads:
        if read.fold is not None:
            key = _fold_key(read, read.fold)
            earlier = seen.get(key, known)
            seen[key] = np.where(earlier == known, known, np.nan)
    return [
        (
            np.zeros(len(known), bool)
            if read.fold is None or id(read.fold.bias) in shared_biases
            else ~np.isnan(seen[_fold_key(read, read.fold)])
        )
        for _, read, known in reads
    ]


def _fold_key(read: Read, fold: Fold) -> tuple[int, int, int]:
    """The same for the reads of all calls of a layer, whose constants go into its bias once."""
    return id(fold.layer), id(read.variable), read.axis


def _shifts(
    readers: list[_Reader], foldable: list[np.ndarray], gone: np.ndarray
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    shifts: dict[int, np.ndarray] = {}
    new_biases: dict[int, np.ndarray] = {}
    done: set[tuple[int, int, int]] = set()
    for reader, can_fold in zip(readers, foldable):
        fold, variable = reader.read.fold, reader.read.variable
        goes = gone[reader.roots] & can_fold & (reader.constants != 0.0)
        if fold is None or variable is None or not goes.any():
            continue
        key = _fold_key(reader.read, fold)
        if key in done:
            continue
        done.add(key)
        constants = np.where(goes, reader.constants, 0.0)
        shift = fold.shift(array(variable), constants)
        if not shift.any():
            continue
        _add(shifts, new_biases, fold, shift)
    return shifts, new_biases


def _add(
    shifts: dict[int, np.ndarray], new_biases: dict[int, np.ndarray], fold: Fold, shift: np.ndarray
) -> None:
    table, owner = (new_biases, fold.layer) if fold.bias is None else (shifts, fold.bias)
    table[id(owner)] = table.get(id(owner), 0.0) + shift
