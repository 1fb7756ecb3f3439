"""Leaving things as they are while models are made and called: names, seeds, variables, nodes."""

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfreg.backend.apis import Layer, Model, keras
from tfreg.backend.graphs import array_of


@contextlib.contextmanager
def as_if_nothing_was_made() -> Iterator[None]:
    """A scope after which either Keras draws the seeds and gives the names that it would have.

    Seeds are drawn from the `random` of the process: what another thread draws meanwhile is drawn
    once more.
    """
    with _seeds_kept(), _names_kept():
        yield


@contextlib.contextmanager
def _seeds_kept() -> Iterator[None]:
    state = random.getstate()
    # What tf_keras.utils.set_random_seed has set, in this thread.
    seeds_of_tf_keras = sys.modules["tf_keras.src.backend"]._SEED_GENERATOR
    generator = getattr(seeds_of_tf_keras, "generator", None)
    seeds = None if generator is None else generator.getstate()
    try:
        yield
    finally:
        random.setstate(state)
        if generator is not None:
            generator.setstate(seeds)


@contextlib.contextmanager
def _names_kept() -> Iterator[None]:
    saved = [(counters, dict(counters)) for counters in _name_counters()]
    try:
        yield
    finally:
        before = {id(counters): counts for counters, counts in saved}
        for counters in _name_counters():
            counters.clear()
            counters.update(before.get(id(counters), {}))


def _name_counters() -> list[dict[str, int]]:
    """How often each name was given in this thread, by Keras 3 and by tf_keras."""
    of_keras_3 = sys.modules["keras.src.backend.common.global_state"].get_global_attribute(
        "object_name_uids"
    )
    backend = sys.modules["tf_keras.src.backend"]
    of_tf_keras = backend.PER_GRAPH_OBJECT_NAME_UIDS.get(backend.get_graph())
    return [counters for counters in (of_keras_3, of_tf_keras) if counters is not None]


@contextlib.contextmanager
def as_if_never_called(model: Model) -> Iterator[None]:
    """A scope after which the variables, nodes and losses in a built `model` are as before."""
    layers = list(model._flatten_layers())
    variables = [(variable, array_of(variable)) for variable in model.variables]
    nodes = [
        (nodes, len(nodes))
        for layer in layers
        for nodes in (layer._inbound_nodes, layer._outbound_nodes)
    ]
    losses = [_losses(layer) for layer in layers]
    try:
        yield
    finally:
        for variable, array in variables:
            if not _is_same(array_of(variable), array):
                variable.assign(array)
        for of_layer, count in nodes:
            del of_layer[count:]
        for layer, kept in zip(layers, losses):
            _set_losses(layer, kept)


def _is_same(first: np.ndarray, second: np.ndarray) -> bool:
    # Of numbers the bytes, as NaN does not equal itself.
    return first.shape == second.shape and first.tobytes() == second.tobytes()


def _losses(layer: Layer) -> list[list[Any]]:
    """The losses that the last call of `layer` added."""
    if isinstance(layer, keras.layers.Layer):
        return [list(layer._losses)]
    return [list(layer._losses), list(layer._eager_losses)]


def _set_losses(layer: Layer, losses: list[list[Any]]) -> None:
    layer._losses.clear()
    layer._losses.extend(losses[0])
    if not isinstance(layer, keras.layers.Layer):
        layer._eager_losses = losses[1]
    elif hasattr(layer, "_loss_ids"):
        layer._loss_ids.clear()
        layer._loss_ids.update(map(id, losses[0]))
