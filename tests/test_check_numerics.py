"""tf.debugging.enable_check_numerics() finds nothing where the result is finite."""

import os
import sys

import numpy as np
import pytest

CODE = """
import runpy, sys
sys.argv = ["checked_numerics.py", *sys.argv[1:]]
runpy.run_module("checked_numerics", run_name="__main__")
"""


@pytest.fixture
def run_checked(run_fresh):
    tests = os.path.dirname(__file__)

    def run(*arguments, timeout=290):
        env = {"PYTHONPATH": os.pathsep.join([tests, *sys.path])}
        return run_fresh(CODE, *arguments, env=env, timeout=timeout)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("kind, least", [("cases", 45), ("joint", 16), ("priors", 8)])
def test_nothing_infinite_is_computed_on_the_way(kind, least, part, run_checked):
    count, found = run_checked("wrong", kind, part, "eager")
    assert count >= least and found == []


# Under check numerics, one of these took more than eight minutes.
@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(3))
@pytest.mark.parametrize("kind, least", [("cases", 45), ("joint", 16), ("priors", 8)])
def test_nothing_infinite_is_computed_in_a_graph(kind, least, part, run_checked):
    count, found = run_checked("wrong", kind, part, "graph", timeout=1700)
    assert count >= least and found == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_what_is_not_finite_still_shows(mode, run_checked):
    assert run_checked("hides_nothing", mode) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["keras", "tf_keras"])
def test_models_train_and_load(name, run_checked, tmp_path):
    losses = run_checked("trained", name, tmp_path / "model.keras")
    assert len(losses) == 3 and np.isfinite(losses).all()


@pytest.mark.slow
def test_a_density_that_is_infinite_at_0_is_still_refused(run_checked):
    messages = run_checked("refusals")
    assert len(messages) == 2
    assert all("Argument `floor` must be the magnitude" in message for message in messages)
