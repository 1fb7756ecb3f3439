"""How long a test takes."""

import itertools

import pytest


def slow(*values):
    """The values of a parameter that are left to the slow tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


# Where Keras 3 and tf_keras take long alike, tf_keras waits for the slow tests.
KERAS_3_FIRST = pytest.mark.parametrize("api", ["keras", slow("tf_keras")], indirect=True)
APIS = ["keras", "tf_keras"]


def in_turn(**parameters):
    """All combinations of the parameters' values, of which few are in every run.

    These have each value of the longest list with one of the combinations of the rest, which go
    round; each of those is there once at least. What has a value that is marked `slow` waits for
    the slow tests, which go round all values in the same way. What is left is a `soak` test.
    `api` is the fixture.
    """
    given = [list(values) for values in parameters.values()]
    lists = [[unmarked(value) for value in values] for values in given]
    quick = [[i for i, value in enumerate(values) if not is_marked(value)] for values in given]
    in_every_run = _going_round(quick)
    in_slow_runs = _going_round([list(range(len(values))) for values in lists])

    def marks(places):
        if places in in_every_run:
            return ()
        return pytest.mark.slow if places in in_slow_runs else pytest.mark.soak

    combinations = [
        pytest.param(
            *(values[i] for values, i in zip(lists, places)),
            marks=marks(places),
            id="-".join(name_of(values[i]) for values, i in zip(lists, places)),
        )
        for places in itertools.product(*(range(len(values)) for values in lists))
    ]
    indirect = ["api"] if "api" in parameters else False
    return pytest.mark.parametrize(list(parameters), combinations, indirect=indirect)


def _going_round(lists):
    """Each entry of the longest list with one of the combinations of the other lists' entries."""
    longest = max(range(len(lists)), key=lambda i: len(lists[i]))
    combined = list(itertools.product(*(x for i, x in enumerate(lists) if i != longest)))
    chosen = set()
    for turn in range(max(len(lists[longest]), len(combined))):
        places = list(combined[turn % len(combined)])
        places.insert(longest, lists[longest][turn % len(lists[longest])])
        chosen.add(tuple(places))
    return chosen


def is_marked(value):
    return isinstance(value, type(slow(None)))


def unmarked(value):
    if not is_marked(value):
        return value
    return value.values if len(value.values) > 1 else value.values[0]


def name_of(value):
    if isinstance(value, tuple):
        return "-".join(map(name_of, value))
    return getattr(value, "__name__", str(value))
