"""The arguments of penalties and schedules are read-only; copies and subclasses work on."""

import abc
import copy
import functools
import inspect
import json
import pickle
import re
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from marks import KERAS_3_FIRST

import tfreg

ARRAY = np.array([0.0, 0.5, 1.0])
GAMMAS = {"distribution": "Gamma", "concentration": np.array([1.0, 2.0]), "rate": 1.0}
MIXTURE = {
    "mixture_distribution": {"distribution": "Categorical", "probs": [0.5, 0.5]},
    "components_distribution": GAMMAS,
}
MADE = [
    tfreg.TotalVariation(0.1, axis=(0, 1)),
    tfreg.BoxPenalty(0.1, -0.5, 0.5),
    tfreg.GroupLasso(0.1, axis=0, group_size=2),
    tfreg.GroupLasso(0.1, axis=["output", (0, 2)]),
    tfreg.SparseGroupLasso(0.1, 0.3),
    tfreg.Prior("Normal", 0.1, loc=ARRAY, scale=1.0),
    tfreg.Prior("MixtureSameFamily", 0.1, **MIXTURE),
    tfreg.Sum([tfreg.GroupLasso(0.1), keras.regularizers.L2(0.1)]),
    tfreg.Joint(tfreg.GroupLasso(0.1)),
    tfreg.schedules.CubicRamp(0, 10),
]
COPIES = {
    "itself": lambda made: made,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda made: pickle.loads(pickle.dumps(made)),
    "pickle_0": lambda made: pickle.loads(pickle.dumps(made, protocol=0)),
    "config": lambda made: type(made).from_config(made.get_config()),
}
WHAT_TO_DO = {
    tfreg.schedules.CubicRamp: "Make another schedule.*remove_penalties.*add_penalty",
    object: "`schedule` of tfreg.add_penalty.*remove_penalties.*new layer",
}


def refused(made):
    advice = next(text for cls, text in WHAT_TO_DO.items() if isinstance(made, cls))
    return pytest.raises(AttributeError, match=f"cannot be changed.*{advice}")


def arguments_of(made):
    """The names of the attributes that tell what `made` was made with."""
    names = [*inspect.signature(type(made)).parameters]
    return names + (["distribution"] if isinstance(made, tfreg.Prior) else [])


def state_of(made):
    return json.dumps(made.get_config())


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("made", MADE, ids=lambda made: type(made).__name__)
def test_no_argument_can_be_assigned_or_deleted(made, way):
    made = COPIES[way](made)
    before = state_of(made)
    for name in arguments_of(made):
        for value in (getattr(made, name), 100.0, -1.0, None, tf.Variable(1.0)):
            with refused(made):
                setattr(made, name, value)
        with refused(made):
            delattr(made, name)
    assert state_of(made) == before


@pytest.mark.parametrize("made", MADE, ids=lambda made: type(made).__name__)
def test_neither_a_second_construction_nor_one_that_fails_changes_it(made):
    before = state_of(made)
    for arguments in [made.get_config(), {"unknown": 1}]:
        with refused(made):
            made.__init__(**arguments)
    for base in type(made).__mro__[1:-1]:
        if "__init__" in vars(base):
            with refused(made):
                base.__init__(made, 0.5)
    with refused(made):
        setattr(made, arguments_of(made)[0], 1.0)
    assert state_of(made) == before


def test_an_object_whose_construction_failed_cannot_be_completed():
    made = tfreg.GroupLasso.__new__(tfreg.GroupLasso)
    with pytest.raises(ValueError, match="`factor`"):
        made.__init__(-1.0)
    with refused(made):
        made.factor = 1.0


CHANGES_OF_LISTS = [
    lambda x: x.append(1),
    lambda x: x.extend([1]),
    lambda x: x.insert(0, 1),
    lambda x: x.remove(x[0]),
    lambda x: x.pop(),
    lambda x: x.clear(),
    lambda x: x.sort(key=str),
    lambda x: x.reverse(),
    lambda x: x.__setitem__(0, 1),
    lambda x: x.__setitem__(slice(0, 1), [1]),
    lambda x: x.__delitem__(0),
    lambda x: x.__iadd__([1]),
    lambda x: x.__imul__(2),
]
CHANGES_OF_DICTS = [
    lambda x: x.__setitem__("loc", 1.0),
    lambda x: x.__delitem__(next(iter(x))),
    lambda x: x.pop(next(iter(x))),
    lambda x: x.popitem(),
    lambda x: x.clear(),
    lambda x: x.update(loc=1.0),
    lambda x: x.setdefault("loc", 1.0),
    lambda x: x.__ior__({"loc": 1.0}),
]


@pytest.mark.parametrize("way", COPIES)
def test_no_list_or_dict_can_be_changed_in_place(way):
    total = COPIES[way](MADE[7])
    per_weight = COPIES[way](MADE[3])
    mixture = COPIES[way](MADE[6])
    for made, values, changes in [
        (total, total.penalties, CHANGES_OF_LISTS),
        (per_weight, per_weight.axis, CHANGES_OF_LISTS),
        (mixture, mixture.parameters, CHANGES_OF_DICTS),
        (mixture, mixture.parameters["components_distribution"], CHANGES_OF_DICTS),
    ]:
        before = state_of(made)
        for change in changes:
            with refused(made):
                change(values)
        assert state_of(made) == before
        assert type(values.copy()) in (list, dict) and values.copy() == values
        for again in (copy.copy(values), copy.deepcopy(values), pickle.loads(pickle.dumps(values))):
            assert type(again) is type(values) and len(again) == len(values)
            with refused(made):
                again.clear()


def test_every_mutator_of_a_list_and_a_dict_is_refused():
    """Also those that later versions of Python may add."""
    reading = {"copy", "count", "index", "fromkeys", "get", "items", "keys", "values"}
    for values, plain in [(MADE[7].penalties, list), (MADE[6].parameters, dict)]:
        for name in vars(plain):
            changes = not name.startswith("_") or re.fullmatch("__([sd]e[tl]item|i[a-z]+)__", name)
            if changes and name not in {*reading, "__init__", "__iter__"}:
                with refused(None):
                    getattr(values, name)()


@pytest.mark.parametrize("way", COPIES)
def test_no_array_can_be_written_to(way):
    for prior in (COPIES[way](MADE[5]), COPIES[way](MADE[6])):
        before = state_of(prior)
        nested = prior.parameters.get("components_distribution", prior.parameters)
        [array] = [value for value in nested.values() if isinstance(value, np.ndarray)]
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 100.0
        assert state_of(prior) == before


def test_what_was_given_is_copied():
    axis, members = ["output", [0, 2]], [tfreg.GroupLasso(0.1), tfreg.BoxPenalty(0.1)]
    array, nested = np.zeros(3), {"distribution": "Normal", "loc": 0.0, "scale": np.ones(2)}
    probs = [0.5, 0.5]
    made = [
        tfreg.GroupLasso(0.1, axis=axis),
        tfreg.Sum(members),
        tfreg.Prior("Normal", 0.1, loc=array, scale=1.0),
        tfreg.Prior(
            "MixtureSameFamily",
            0.1,
            mixture_distribution={"distribution": "Categorical", "probs": probs},
            components_distribution=nested,
        ),
    ]
    before = [state_of(each) for each in made]
    axis[1].append(1)
    axis.append("all")
    members.clear()
    array[:] = 7.0
    nested["scale"][0] = 7.0
    nested["loc"] = 7.0
    probs[0] = 0.9
    assert [state_of(each) for each in made] == before


@pytest.mark.parametrize("made", MADE, ids=lambda made: type(made).__name__)
def test_a_config_is_of_plain_types_and_the_callers_own(made):
    def all_types(value):
        found = {type(value)}
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            found = found.union(*map(all_types, value))
        return found

    config = made.get_config()
    assert all_types(config) <= {dict, list, str, int, float, bool, type(None)}
    config.clear()
    assert made.get_config()


class Counted:
    """A mixin whose constructor is no penalty's."""

    def __init__(self, *args, start=0, **kwargs):
        super().__init__(*args, **kwargs)
        self.start = start
        self.calls = start

    def __call__(self, weight):
        self.calls += 1
        return super().__call__(weight)


class Noted(tfreg.GroupLasso, abc.ABC):
    """A subclass with parameters of its own, and a state that changes."""

    def __init__(self, strength, note="", **kwargs):
        self.note = note
        self.seen = []
        try:
            super().__init__(factor=-1.0)
        except ValueError:
            super().__init__(factor=2.0 * strength, **kwargs)
        self.factor = self.factor + 1.0
        self.strength = strength

    def __call__(self, weight):
        self.seen.append(tuple(weight.shape))
        return super().__call__(weight)

    def get_config(self):
        return {"strength": self.strength, "note": self.note}


class Inheriting(Noted):
    pass


class CountedNoted(Counted, Noted):
    pass


def decorated(init):
    @functools.wraps(init)
    def wrapper(self, *args):
        init(self, *args)
        self.after = True

    return wrapper


class Decorated(tfreg.BoxPenalty):
    @decorated
    def __init__(self, width):
        super().__init__(1.0, -width, width)
        self.width = width


class Total(tfreg.penalties.Penalty):
    def compute_value(self, tensor, layout):
        return self.factor * tf.reduce_sum(tensor)


class NotedRamp(tfreg.schedules.CubicRamp):
    def __init__(self, note="", **kwargs):
        super().__init__(**kwargs)
        self.note = note
        self.steps = []


SUBCLASSES = [
    (lambda: Noted(0.5, note="a", axis="all"), ["factor", "axis", "strength", "note"]),
    (lambda: Inheriting(0.5), ["factor", "group_size", "strength", "note"]),
    (lambda: CountedNoted(0.5, start=2), ["factor", "strength", "note", "start"]),
    (lambda: Decorated(0.5), ["factor", "lower", "upper", "width"]),
    (lambda: Total(0.5), ["factor"]),
    (lambda: NotedRamp("a", begin=0, end=3), ["begin", "peak", "note"]),
]


@pytest.mark.parametrize("way", [way for way in COPIES if way != "config"])
@pytest.mark.parametrize("make, names", SUBCLASSES)
def test_a_subclass_has_its_own_arguments_read_only_and_its_own_state_free(make, names, way):
    made = COPIES[way](make())
    for name in names:
        with refused(made):
            setattr(made, name, 3.0)
        with refused(made):
            delattr(made, name)
    made.state = [1]
    made.state.append(2)
    made.state = made.state[1:]
    del made.state


def test_the_state_of_a_subclass_follows_its_calls():
    penalty = CountedNoted(0.5, "a", start=2)
    w = tf.constant([[3.0], [4.0]])
    assert penalty.factor == 2.0 and float(penalty(w)) == pytest.approx(10.0 * 2**0.5)
    assert penalty.calls == 3 and penalty.seen == [(2, 1)] and penalty.start == 2
    again = copy.deepcopy(penalty)
    again(w)
    assert again.calls == 4 and penalty.calls == 3 and penalty.seen == [(2, 1)]
    noted = Noted.from_config(Noted(0.5, "a").get_config())
    assert noted.factor == 2.0 and noted.note == "a"


def test_signatures_are_those_of_the_constructors():
    assert list(inspect.signature(Noted).parameters) == ["strength", "note", "kwargs"]
    assert list(inspect.signature(tfreg.BoxPenalty).parameters) == ["factor", "lower", "upper"]
    assert tfreg.BoxPenalty.__init__.__name__ == "__init__"


def test_penalties_are_made_in_threads():
    together, made = threading.Barrier(8), []

    def make(number):
        together.wait(timeout=60)
        made.extend(Noted(0.5 * number) for _ in range(200))

    threads = [threading.Thread(target=make, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted({penalty.factor for penalty in made}) == [1.0 + number for number in range(8)]
    assert len(made) == 1600
    for penalty in made:
        with refused(penalty):
            penalty.factor = 0.0


@KERAS_3_FIRST
@pytest.mark.parametrize("attach", ["as a layer's argument", "over the model"])
def test_a_strength_cannot_change_behind_a_compiled_model(api, attach, tmp_path):
    penalty = tfreg.GroupLasso(0.5) + tfreg.BoxPenalty(0.5, -0.1, 0.1)
    own = penalty if attach == "as a layer's argument" else None
    model = api.Sequential([api.Input((3,)), api.layers.Dense(2, kernel_regularizer=own)])
    if own is None:
        ramp = tfreg.schedules.CubicRamp(0, 5, start=0.5)
        tfreg.add_penalty(model, penalty, schedule=ramp)
        with refused(ramp):
            ramp.peak = 100.0
    model.compile(api.optimizers.SGD(0.0), api.losses.MeanSquaredError())
    x, y = np.ones((4, 3)), np.ones((4, 2))
    model.fit(x, y, verbose=0)
    before = model.evaluate(x, y, verbose=0)
    for value in (100.0, -1.0, tf.Variable(1.0), keras.Variable(1.0)):
        for member in penalty.penalties:
            with refused(member):
                member.factor = value
        with refused(penalty):
            penalty.penalties[0] = tfreg.GroupLasso(100.0)
    assert model.evaluate(x, y, verbose=0) == before
    model.save(tmp_path / "model.keras")
    again = api.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.evaluate(x, y, verbose=0), before, rtol=1e-6)
    [loaded] = [p for p in [again.layers[-1].kernel_regularizer] if p] or [
        entry.penalty for entry in tfreg.get_penalties(again)
    ]
    with refused(loaded):
        loaded.penalties = []


def test_lists_and_arrays_of_a_subclass_are_copied_and_locked():
    class Scaled(tfreg.GroupLasso):
        def __init__(self, factor, scales, table):
            super().__init__(factor)
            self.scales = scales
            self.table = table

    scales, table = [1.0, [2.0]], np.ones(2)
    penalty = Scaled(0.1, scales, table)
    scales[0] = scales[1][0] = table[0] = 5.0
    assert penalty.scales == [1.0, [2.0]] and penalty.table.tolist() == [1.0, 1.0]
    for change in (lambda: penalty.scales.append(3.0), lambda: penalty.scales[1].clear()):
        with pytest.raises(AttributeError, match="cannot be changed"):
            change()
    with pytest.raises(ValueError, match="read-only"):
        penalty.table[0] = 5.0


def test_objects_of_keras_are_copied(api):
    l2 = api.regularizers.L2(0.5)
    decay = api.optimizers.schedules.ExponentialDecay(1.0, 10, 0.5)
    model = api.Sequential([api.Input((3,)), api.layers.Dense(2)])
    model.compile(api.optimizers.SGD(0.1), "mse")
    tfreg.add_penalty(model, l2)
    tfreg.add_penalty(model, tfreg.GroupLasso(0.1) + l2, schedule=decay)
    before = [float(loss) for loss in model.losses]
    l2.l2 = 100.0
    decay.initial_learning_rate = 100.0
    assert [float(loss) for loss in model.losses] == before
