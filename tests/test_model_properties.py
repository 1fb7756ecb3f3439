"""Models at random, of wrapped, shared, nested, renamed and frozen layers."""

import copy
import tempfile

import keras
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import KERAS_3_FIRST
from model_cases import keeper_class

import tfreg

WIDTH = 3
PENALTY = tfreg.GroupLasso(0.5, "output", size_weighted=False)
OWN = tfreg.BoxPenalty(2.0, -0.1, 0.1)


BLOCKS = ["dense", "own", "wrapped", "twice wrapped", "shared", "nested", "shared nested"]


class Drawn:
    """A model, and what it was made of."""

    def __init__(self, api, kinds, depth=2):
        self.api, self.count = api, 0
        self.dense, self.paths, self.with_own = [], {}, []
        self.model = self._model(kinds, (), depth)

    def _name(self, prefix):
        self.count += 1
        return f"{prefix}_{self.count}"

    def _dense(self, around, own=False):
        arguments = {"kernel_regularizer": OWN} if own else {}
        layer = self.api.layers.Dense(WIDTH, name=self._name("dense"), **arguments)
        self.dense.append(layer)
        self.with_own += [layer] if own else []
        self.paths[id(layer)] = "/".join([*around, layer.name])
        return layer

    def _block(self, kind, around, depth):
        if kind.endswith("nested"):
            name = self._name("model")
            kinds = ["wrapped", "own"] if depth > 0 else ["dense"]
            return self._model(kinds, (*around, name), depth - 1, name)
        wrappers = {"wrapped": 1, "twice wrapped": 2}.get(kind, 0)
        names = [self._name("keeper") for _ in range(wrappers)]
        block = self._dense((*around, *names), own=kind == "own")
        for name in reversed(names):
            block = keeper_class(self.api)(block, name=name)
        return block

    def _model(self, kinds, around, depth, name="outer"):
        x = y = self.api.Input((WIDTH,))
        for kind in kinds:
            block = self._block(kind, around, depth)
            y = block(y)
            if kind.startswith("shared"):
                y = block(y)
        return self.api.Model(x, y, name=name)

    def kernel_path(self, layer):
        return f"{self.paths[id(layer)]}/kernel"

    def rename(self, layer, name):
        setattr(layer, "name" if self.api is keras else "_name", name)
        around, _, _ = self.paths[id(layer)].rpartition("/")
        self.paths[id(layer)] = f"{around}/{name}".lstrip("/")


def group_lasso(layers):
    return sum(0.5 * np.linalg.norm(np.asarray(layer.kernel), axis=0).sum() for layer in layers)


def joint_group_lasso(layers):
    """The k-th units of all layers are one group."""
    columns = [np.asarray(layer.kernel) for layer in layers]
    return 0.5 * np.linalg.norm(np.concatenate(columns), axis=0).sum() if columns else 0.0


def own_box(layer):
    kernel = np.asarray(layer.kernel)
    return 2.0 * np.sum((kernel - np.clip(kernel, -0.1, 0.1)) ** 2)


def ways_to_select(drawn, chosen):
    """What stands for the kernels of the layers that were chosen."""
    kernels = {id(layer.kernel) for layer in chosen}
    paths = [drawn.kernel_path(layer) for layer in chosen]
    return {
        "regular expression": "^(" + "|".join(paths) + ")$",
        "predicate": lambda layer, w: id(w) in kernels and layer in chosen,
        "layers": chosen,
        "variables": [layer.kernel for layer in chosen],
        "names": [layer.name for layer in chosen],
        "paths": paths,
    }


def total(model):
    return sum(float(loss) for loss in model.losses)


def check(drawn, model, chosen, expected, own):
    """What is on `chosen`, and what it and the layers' own penalties add up to."""
    term, *others = tfreg.get_penalties(model)
    assert sorted(term.paths) == sorted(drawn.kernel_path(layer) for layer in chosen)
    assert len(others) == len(drawn.with_own)
    np.testing.assert_allclose(float(term.value()), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(total(model), expected + own, rtol=1e-5, atol=1e-6)
    told = sum(float(attached.value()) for attached in tfreg.get_penalties(model))
    np.testing.assert_allclose(told, total(model), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        float(tfreg.regularization_loss(model)), total(model), rtol=1e-5, atol=1e-6
    )


@KERAS_3_FIRST
def test_what_is_selected_counts_once_before_and_after_saving(api):
    # A wrapper of tf_keras cannot load a user's layer in it.
    blocks = [block for block in BLOCKS if api is keras or block != "twice wrapped"]

    @settings(max_examples=10)
    @given(st.lists(st.sampled_from(blocks), min_size=1, max_size=4), st.data())
    def run(kinds, data):
        drawn = Drawn(api, kinds)
        renamed = data.draw(st.sets(st.sampled_from(drawn.dense)), "renamed")
        for layer in renamed:
            drawn.rename(layer, f"new_{layer.name}")
        chosen = sorted(
            data.draw(st.sets(st.sampled_from(drawn.dense), min_size=1), "chosen"),
            key=drawn.dense.index,
        )
        frozen = data.draw(st.sets(st.sampled_from(drawn.dense)), "frozen")
        ways = ways_to_select(drawn, chosen)
        way = data.draw(st.sampled_from(["none", *ways]), "way")
        if way == "none":
            chosen = drawn.dense
        is_joint = data.draw(st.booleans(), "joint")
        penalty = tfreg.Joint(PENALTY) if is_joint else PENALTY
        tfreg.add_penalty(drawn.model, penalty, None if way == "none" else ways[way])
        for layer in frozen:
            layer.trainable = False
        # What a wrapper of tf_keras holds is trained with the wrapper.
        trained = {id(weight) for weight in drawn.model.trainable_weights}
        frozen = {layer for layer in frozen if id(layer.kernel) not in trained}
        counted = [layer for layer in chosen if layer not in frozen]
        if is_joint:  # in which those that are frozen are constants
            expected = joint_group_lasso(chosen if counted else [])
        else:
            expected = group_lasso(counted)
        if api is keras:
            own = sum(own_box(layer) for layer in drawn.with_own if layer not in frozen)
        else:  # which goes on counting what is frozen
            own = sum(map(own_box, drawn.with_own))
        check(drawn, drawn.model, chosen, expected, own)
        # In a functional model of tf_keras nothing can be renamed that is to be saved.
        if api is keras or not renamed:
            with tempfile.TemporaryDirectory() as directory:
                drawn.model.save(f"{directory}/m.keras")
                again = api.models.load_model(f"{directory}/m.keras")
            clone = tfreg.clone_model(drawn.model)
            clone.set_weights(drawn.model.get_weights())
            for model in (again, clone, copy.deepcopy(drawn.model)):
                check(drawn, model, chosen, expected, own)
        [term, *_] = tfreg.get_penalties(drawn.model)
        if not is_joint or len(counted) in (0, len(chosen)):
            for weight, shrunk in zip(term.weights, term.prox(1e6), strict=True):
                is_frozen = any(weight is layer.kernel for layer in frozen)
                assert np.array_equal(shrunk, np.asarray(weight) if is_frozen else 0.0 * shrunk)
        tfreg.remove_penalties(drawn.model)
        np.testing.assert_allclose(total(drawn.model), own, rtol=1e-5, atol=1e-6)

    run()
