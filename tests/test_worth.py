"""bench_worth gives every contender the same, repeats itself, and the docs say what it measured."""

import concurrent.futures
import importlib.util
import json
import pathlib
import re
import time
import types

import keras
import numpy as np
import oracles
import pytest
import scipy.integrate
import scipy.stats
import tensorflow as tf
from sklearn import linear_model
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectFromModel

import tfreg

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CHOOSING = ROOT / "docs" / "choosing.md"
NOT_THERE = pathlib.Path("/no/such/folder")
EXPERIMENTS = ["depth", "features", "forgetting", "linear", "priors", "quantization", "tv"]


@pytest.fixture(scope="module")
def measured():
    """The rows that the results hold."""
    return json.loads((RESULTS / "worth.json").read_text())["measurements"]


@pytest.fixture
def every_case(benchmark):
    """Each case that a row may be of, wherever its data are, by experiment and name."""
    everything = benchmark("worth.data").EVERYTHING
    return {
        (name, case.name): case
        for name, experiment in benchmark("bench_worth").EXPERIMENTS.items()
        for case in experiment.cases(everything, NOT_THERE)
    }


def test_the_experiments_are_all_there(benchmark):
    assert sorted(benchmark("bench_worth").EXPERIMENTS) == EXPERIMENTS
    assert sorted(benchmark("worth.tables").PROBLEMS) == EXPERIMENTS


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_no_contender_is_given_fewer_strengths(benchmark, every_case, name):
    plan = benchmark("worth.protocol").WHOLE
    assert plan.seeds >= 10
    for (experiment, _), case in every_case.items():
        if experiment == name:
            tried = {each.name: each.strengths(plan) for each in case.contenders}
            assert tried.pop("none") == [0.0] == tried.pop("no inputs", [0.0])
            assert {len(set(strengths)) for strengths in tried.values()} == {plan.strengths}
            assert {"L2", "L1", "early stopping"} <= tried.keys()
            assert any(each.ours for each in case.contenders)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_quick_run_takes_cases_that_there_are(benchmark, every_case, name):
    cases = {case for experiment, case in every_case if experiment == name}
    assert cases >= benchmark("bench_worth").EXPERIMENTS[name].QUICK > set()


def test_every_contender_was_measured_alike(benchmark, every_case, measured):
    plan, by_case = benchmark("worth.protocol").WHOLE, {}
    for row in measured:
        by_case.setdefault((row["experiment"], row["case"]), {})[row["contender"]] = row
    for key, rows in by_case.items():
        case = every_case[key]
        assert list(rows) == [contender.name for contender in case.contenders], key
        for contender in case.contenders:
            row = rows[contender.name]
            strengths = contender.strengths(plan)
            assert row["steps"] == case.plan(plan).steps
            assert row["seeds"] == list(range(plan.seeds))
            np.testing.assert_allclose(row["strengths"], strengths, rtol=1e-6)
            assert {len(values) for values in row["figures"].values()} == {plan.seeds}
            for chosen in row["chosen"].values():
                assert len(chosen) == plan.seeds and set(chosen) <= set(row["strengths"])
            assert all(np.isfinite(values).all() for values in row["figures"].values())


def test_no_range_of_strengths_ends_too_early(every_case, measured):
    ends = {"least": 0, "most": -1}
    for row in measured:
        case = every_case[row["experiment"], row["case"]]
        [contender] = [each for each in case.contenders if each.name == row["contender"]]
        for end in ends.keys() - set(contender.natural) if len(row["strengths"]) > 1 else ():
            for criterion, chosen in row["chosen"].items():
                times = chosen.count(row["strengths"][ends[end]])
                named = row["experiment"], row["case"], row["contender"], criterion
                assert times <= len(chosen) // 3, (*named, times)


# Determinism, once it is asked for, is for the whole process.
TWICE = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
from benchmarks import bench_worth
from benchmarks.worth import protocol
bench_worth.use_one_thread()
plan = protocol.Plan(seeds=2, strengths=2, steps=5)
tasks = [
    bench_worth.Task(*key, pathlib.Path("/no/such/folder"), plan)
    for key in (
        ("features", "wine, 40 examples", "GroupLasso"),
        ("features", "wine, 40 examples", "dropout"),
        ("linear", "3 groups of 3", "MCP"),
        ("quantization", "digits separable convolutions, 400 examples", "L2"),
        ("forgetting", "split digits, 200 examples each", "Quadratic of the Fisher information"),
    )
]
print(json.dumps([bench_worth.measure(task) for task in tasks + tasks]))
"""


@pytest.mark.slow
def test_a_cell_gives_the_same_number_twice(run_fresh):
    rows = run_fresh(TWICE, ROOT)
    assert all(row.pop("seconds") > 0.0 for row in rows)
    assert rows[:5] == rows[5:]
    for found in rows[:5]:
        assert any(len(set(values)) == 2 for values in found["figures"].values())


def test_a_trainer_starts_anew_each_time(benchmark):
    training, protocol = benchmark("worth.training"), benchmark("worth.protocol")
    features = benchmark("worth.features")
    penalty = benchmark("worth.contenders").usual()[2].penalty
    contender = protocol.Contender("L2", 0.1, 1.0, penalty)
    trainer = training.Trainer(lambda drop: features.build(3, 2, drop), contender)
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(20, 3)), tf.float32)
    y = tf.constant(rng.integers(0, 2, 20), tf.int32)

    def sizes(seed, strength):
        trainer.train(seed, strength, x, y, steps=50)
        return [float(tf.norm(weight)) for weight in trainer.model.trainable_variables]

    first = sizes(0, 0.0)
    assert sizes(1, 0.0) != first
    assert sizes(0, 10.0)[0] < 0.7 * first[0]
    np.testing.assert_allclose(sizes(0, 0.0), first, rtol=1e-6)


@pytest.mark.parametrize(
    "values, verdict",
    [
        ([0.1, 0.2, 0.3], "better"),
        ([0.3, 0.4, 0.5], "worse"),
        ([0.2, 0.3, 0.4], "no difference"),
        # 0.02 on average, with a standard error of just over 0.01, and of just under it.
        ([0.1625, 0.28, 0.3975], "no difference"),
        ([0.1629, 0.28, 0.3971], "better"),
    ],
)
def test_better_takes_twice_the_standard_error(benchmark, values, verdict):
    protocol = benchmark("worth.protocol")
    others = [0.2, 0.3, 0.4]
    mean, error = protocol.difference(values, others)
    paired = np.subtract(values, others)
    assert mean == pytest.approx(paired.mean())
    assert error == pytest.approx(np.sqrt(paired.var(ddof=1) / 3))
    assert protocol.verdict(values, others) == verdict


def test_what_is_not_finite_is_not_compared(benchmark):
    with pytest.raises(ValueError, match="not finite"):
        benchmark("worth.protocol").verdict([0.1, float("nan")], [0.1, 0.2])


def row(contender, values, figure="test error", ours=False):
    named = {"experiment": "tv", "case": "digits", "contender": contender, "ours": ours}
    return named | {"seeds": [0, 1, 2], "strengths": [0.0], "steps": 3, "figures": {figure: values}}


@pytest.mark.parametrize(
    "figure, best, verdict", [("test error", "L2", "worse"), ("F1", "none", "no difference")]
)
def test_a_penalty_is_held_against_the_best_of_the_others(benchmark, figure, best, verdict):
    values = {"none": [0.4, 0.5, 0.6], "L2": [0.1, 0.2, 0.3]}
    rows = [row(name, taken, figure) for name, taken in values.items()]
    rows.append(row("TotalVariation", [0.4, 0.6, 0.5], figure, ours=True))
    [compared] = benchmark("worth.protocol").comparisons(rows)
    assert compared.best_other() == best
    assert compared.against("TotalVariation", best)[0] == verdict
    [line] = benchmark("worth.tables").summary(rows)
    better = "1 / 0 / 0" if figure == "F1" else "0 / 0 / 1"
    assert line[1:3] == ["TotalVariation", figure] and better in line


@pytest.mark.parametrize("other", [{"seeds": [0, 1, 3]}, {"steps": 4}])
def test_rows_of_unlike_plans_are_not_compared(benchmark, other):
    rows = [row("none", [0.4, 0.5, 0.6]), row("TotalVariation", [0.1, 0.2, 0.3], ours=True)]
    benchmark("worth.protocol").comparisons(rows)
    rows[1] |= other
    with pytest.raises(ValueError, match="tv / digits differ in their seeds or steps"):
        benchmark("worth.protocol").comparisons(rows)


@pytest.mark.parametrize("figure", ["precision", "recall", "lost per tensor", "lost per channel"])
def test_what_is_lost_gets_no_verdict(benchmark, figure):
    tables = benchmark("worth.tables")
    rows = [
        row("none", [0.4, 0.5, 0.6], figure),
        row("TotalVariation", [0.1, 0.2, 0.3], figure, ours=True),
    ]
    assert list(tables.summary(rows)) == []
    [line] = tables.every(rows)
    assert figure in line and "0.200 ± 0.100" in line[-1]
    assert not any(verdict in line[-1] for verdict in benchmark("worth.protocol").VERDICTS)


def test_a_diverged_run_is_never_chosen(benchmark):
    protocol = benchmark("worth.protocol")
    contender = protocol.Contender("L2", 0.01, 1.0)

    def fit(strength, seed):
        validation = float("nan") if strength == 0.01 else strength
        figures = {"error": lambda: {"test error": strength + seed}}
        return protocol.Outcome({"error": (validation,)}, figures)

    found = protocol.search(contender, fit, protocol.Plan(seeds=2, strengths=3, steps=7))
    np.testing.assert_allclose(found["chosen"]["error"], [0.1, 0.1])
    np.testing.assert_allclose(found["figures"]["test error"], [0.1, 1.1])
    assert found["seeds"] == [0, 1] and found["steps"] == 7


def test_each_figure_is_of_the_strength_that_its_criterion_chose(benchmark):
    protocol = benchmark("worth.protocol")
    contender = protocol.Contender("L2", 1.0, 100.0)
    # The errors of the last two strengths are equal, and the last has the smaller loss.
    errors = {1.0: (0.3, 0.1), 10.0: (0.2, 0.6), 100.0: (0.2, 0.5)}

    def fit(strength, seed):
        error, loss = errors[round(strength)]
        judged = {"error": (error, loss), "loss": (loss,)}
        names = {"error": "test error", "loss": "test loss"}
        figures = {key: lambda name=name: {name: strength} for key, name in names.items()}
        return protocol.Outcome(judged, figures)

    found = protocol.search(contender, fit, protocol.Plan(seeds=1, strengths=3, steps=7))
    assert found["chosen"] == {"error": [pytest.approx(100.0)], "loss": [pytest.approx(1.0)]}
    assert found["figures"] == {"test error": [pytest.approx(100.0)], "test loss": [1.0]}


def test_the_same_number_chooses_and_trains(benchmark):
    data = benchmark("worth.data")
    digits = data.load("digits", NOT_THERE)
    parts = data.split(digits, seed=1, examples=20)
    assert [len(part.x) for part in parts] == [20, 20, data.MOST_TESTED]
    assert [np.bincount(part.y).tolist() for part in parts[:2]] == [[2] * 10] * 2
    drawn = np.concatenate([part.x.reshape(len(part.x), -1) for part in parts])
    assert len(np.unique(drawn, axis=0)) == len(drawn)
    again = data.split(digits, seed=1, examples=20)
    np.testing.assert_array_equal(again.train.x, parts.train.x)


def test_columns_are_standardized_by_the_part_to_train_on(benchmark):
    data = benchmark("worth.data")
    parts = data.split(data.load("diabetes", NOT_THERE), seed=0, examples=50)
    for columns in parts.train:
        np.testing.assert_allclose(columns.mean(axis=0), 0.0, atol=1e-6)
        np.testing.assert_allclose(columns.std(axis=0), 1.0, rtol=1e-5)
    raw = data.split(data.Data(*data.load("diabetes", NOT_THERE)), seed=0, examples=50)
    for name in ("x", "y"):
        train = getattr(raw.train, name)
        expected = (getattr(raw.test, name) - train.mean(axis=0)) / train.std(axis=0)
        np.testing.assert_allclose(getattr(parts.test, name), expected, rtol=1e-4, atol=1e-5)
    same = np.ones((4, 1))
    np.testing.assert_array_equal(data.standardized(same), np.zeros((4, 1)))


def test_without_inputs_a_network_answers_what_is_most_frequent(benchmark):
    protocol, priors = benchmark("worth.protocol"), benchmark("worth.priors")
    [case] = [each for each in priors.cases({"breast cancer"}, NOT_THERE) if " 30 " in each.name]
    [blind] = [each for each in case.contenders if each.name == "no inputs"]
    found = protocol.search(blind, case.fit_with(blind, protocol.QUICK), protocol.QUICK)
    answers = benchmark("worth.data").load("breast cancer", NOT_THERE).y
    rarer = 1.0 - np.bincount(answers).max() / len(answers)
    np.testing.assert_allclose(found["figures"]["test error"], rarer, atol=0.01)


def test_the_strength_of_dropout_is_its_odds(benchmark):
    training = benchmark("worth.training")
    layer = training.Dropout()
    training.strength_variable().assign(4.0)
    dropped = layer(tf.ones((100, 100)), training=True).numpy()
    assert np.mean(dropped == 0.0) == pytest.approx(0.8, abs=0.02)
    np.testing.assert_allclose(dropped[dropped > 0.0], 5.0, rtol=1e-5)


def test_the_likelihood_of_targets_is_that_of_a_normal_distribution(benchmark):
    outputs, targets = np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.0, 3.0])
    found = benchmark("worth.training").gaussian_loss(np.mean((outputs - targets) ** 2), 0.7)
    expected = -scipy.stats.norm(outputs, np.sqrt(0.7)).logpdf(targets).mean()
    assert found == pytest.approx(expected)


def test_series_are_read_from_their_files(benchmark, monkeypatch, tmp_path):
    data = benchmark("worth.data")
    folder = tmp_path / "GunPoint"
    folder.mkdir()
    for part, lines in (("TRAIN", "1.0,2.5:2\n-1,0:1\n"), ("TEST", "3,4:1\n")):
        (folder / f"GunPoint_{part}.ts").write_text(
            f"# Words\n@classLabel true 1 2\n@data\n{lines}"
        )
    monkeypatch.setattr(data, "series_folder", lambda name: folder)
    found = data.LOADERS["GunPoint"](NOT_THERE)
    np.testing.assert_array_equal(found.x[..., 0], [[1.0, 2.5], [-1.0, 0.0], [3.0, 4.0]])
    np.testing.assert_array_equal(found.y, [1, 0, 0])


def test_missing_data_are_named_and_left_out(benchmark, monkeypatch, capsys):
    data, bench_worth = benchmark("worth.data"), benchmark("bench_worth")
    find_spec = importlib.util.find_spec

    def without_skglm(name, *arguments):
        return None if name == "skglm" else find_spec(name, *arguments)

    monkeypatch.setattr(importlib.util, "find_spec", without_skglm)
    monkeypatch.setattr(data, "_inside", lambda package, path: None)
    monkeypatch.setattr(bench_worth, "measure_all", lambda asked, jobs: print(asked) or [])
    bench_worth.main(["--data", str(NOT_THERE), "--quick"])
    printed = capsys.readouterr().out
    for name in ("GunPoint", "ItalyPowerDemand", "Fashion-MNIST", "affairs", "skglm"):
        assert f"{name} is left out" in printed
        assert f"case='{name}" not in printed and f"contender='{name}" not in printed
    assert "case='digits dense, 50 examples'" in printed


def row_of(bench_worth, task, value):
    """As `bench_worth.measure` gives it, with that figure for every seed."""
    named = dict(zip(("experiment", "case", "contender"), task.key))
    strengths = bench_worth.find(task)[1].strengths(task.plan)
    seeds = {"seeds": list(range(task.plan.seeds)), "steps": task.plan.steps}
    rest = {"ours": False, "seconds": 1.0, "strengths": strengths, "chosen": {}}
    return named | seeds | rest | {"figures": {"test error": [value] * task.plan.seeds}}


def test_what_is_measured_is_kept(benchmark, monkeypatch, tmp_path):
    bench_worth, out = benchmark("bench_worth"), tmp_path / "worth.json"
    asked = []

    def measure_all(tasks, jobs):
        asked.append([task.contender for task in tasks])
        for task in tasks:
            yield row_of(bench_worth, task, float(len(asked)))

    monkeypatch.setattr(bench_worth, "measure_all", measure_all)
    options = ["--out", str(out), "--data", str(NOT_THERE), "--only"]
    bench_worth.main([*options, "^depth digits, 50 examples L1"])
    bench_worth.main([*options, "^depth digits, 50 examples L", "--resume"])
    bench_worth.main([*options, "^depth digits, 50 examples L2"])
    assert asked == [["L1"], ["L2"], ["L2"]]
    rows = json.loads(out.read_text())["measurements"]
    values = {each["contender"]: each["figures"]["test error"][0] for each in rows}
    assert list(values.items()) == [("L2", 3.0), ("L1", 1.0)]
    before = out.read_text()
    with pytest.raises(SystemExit, match="rows of another plan"):
        bench_worth.main([*options, "^depth digits, 50 examples L2", "--quick"])
    assert out.read_text() == before and len(asked) == 3
    text = json.loads(before)
    text["measurements"][0]["strengths"][-1] *= 2.0
    out.write_text(json.dumps(text))
    bench_worth.main([*options, "^depth digits, 50 examples L", "--resume"])
    assert asked[3:] == [["L2"]], "a row of other strengths is no row of this plan"


def test_a_failure_keeps_what_is_measured_and_ends_the_rest(benchmark, monkeypatch, tmp_path):
    bench_worth, out = benchmark("bench_worth"), tmp_path / "worth.json"
    begun = []

    def measure(task):
        begun.append(task.contender)
        if task.contender == "early stopping":
            deadline = time.monotonic() + 20.0
            while not out.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            raise RuntimeError("out of luck")
        time.sleep(0.0 if task.contender == "none" else 1.0)
        return row_of(bench_worth, task, 0.5)

    def in_threads(jobs, *arguments):
        return concurrent.futures.ThreadPoolExecutor(jobs)

    monkeypatch.setattr(bench_worth, "measure", measure)
    monkeypatch.setattr(bench_worth.concurrent.futures, "ProcessPoolExecutor", in_threads)
    options = ["--quick", "--out", str(out), "--data", str(NOT_THERE), "--only", "^depth digits"]
    with pytest.raises(RuntimeError, match="out of luck"):
        bench_worth.main(options)
    assert begun[:2] == ["none", "early stopping"] and len(begun) < 4
    assert [row["contender"] for row in json.loads(out.read_text())["measurements"]] == ["none"]


# Data that not every machine has: the shape of an example, and the number of classes.
STAND_INS = {
    "GunPoint": ((150, 1), 2),
    "ItalyPowerDemand": ((24, 1), 2),
    "Fashion-MNIST": ((28, 28, 1), 10),
    "affairs": ((46,), 2),
}


@pytest.fixture
def stand_ins(benchmark, monkeypatch):
    """Random data in place of those that may be missing; returns the folder to name."""
    data, rng = benchmark("worth.data"), np.random.default_rng(0)
    for name, (shape, classes) in STAND_INS.items():
        x = rng.normal(size=(2400, *shape)).astype(np.float32)
        drawn = data.Data(x, (np.arange(len(x)) % classes).astype(np.int32))
        monkeypatch.setitem(data.LOADERS, name, lambda folder, drawn=drawn: drawn)
    return pathlib.Path("/stand/ins")


@pytest.fixture
def untrained(benchmark, monkeypatch):
    """The trainers in order, which leave each model at its start, and the last inputs of each."""
    training, given = benchmark("worth.training"), {}

    def train(self, seed, strength, x, y, steps, weights=None):
        self._reset(seed, weights)
        training.strength_variable().assign(strength)
        given[self] = x

    monkeypatch.setattr(training.Trainer, "train", train)
    return given


def squares(weights):
    return sum(np.sum(weight**2) for weight in weights)


def sizes(weights):
    return sum(np.sum(np.abs(weight)) for weight in weights)


def steps_of_first(at):
    """The total variation of the first kernel, along all axes but its inputs and outputs."""
    [kernel] = at.named("first/kernel")
    return oracles.total_variation(kernel, axis=range(kernel.ndim - 2))


def norms_of_inputs(at):
    return np.linalg.norm(*at.named("first/kernel"), axis=1)


def norms_of_properties(at):
    """Of 4 copies of 30 columns: the means of 10 properties, their errors and worst values."""
    [kernel] = at.kernels
    return np.linalg.norm(kernel.reshape(4, 3, 10), axis=1).ravel()


def norms_of_questions(at):
    """Of 4 copies of 46 columns: the answers to 8 questions, times the root of their number."""
    kernel = at.named("first/kernel")[0].reshape(4, 46, 16)
    questions = np.split(kernel, np.cumsum([5, 6, 7, 6, 6, 6, 6]), axis=1)
    return sum(np.sqrt(each[0].size) * np.linalg.norm(each, axis=(1, 2)) for each in questions)


def from_old(at, precision):
    return sum(oracles.quadratic(*pair, precision(pair[1])) for pair in zip(at.named(""), at.old))


def surprise(at, log_density):
    """The negative log density, at a scale, for each example."""
    return -sum(np.sum(log_density(each, at.strength)) for each in at.kernels) / at.examples


def log_students_t(weight, scale):
    return scipy.stats.t.logpdf(weight, df=3.0, scale=scale)


def log_spike_and_slab(weight, scale):
    spike, slab = (scipy.stats.norm(scale=width * scale).logpdf for width in (0.01, 1.0))
    return np.logaddexp(np.log(0.9) + spike(weight), np.log(0.1) + slab(weight))


def log_horseshoe(weight, scale):
    """By its definition: a normal distribution whose scale has a half-Cauchy distribution."""
    local = np.geomspace(1e-5, 1e5, 500)
    chance = scipy.stats.norm.pdf(weight[..., None], scale=scale * local)
    chance *= scipy.stats.halfcauchy.pdf(local)
    return np.log(scipy.integrate.trapezoid(chance * local, np.log(local), axis=-1))


def boxes(weights, lower, upper):
    return sum(oracles.box(weight, lower, upper) for weight in weights)


# What is added to the loss at a strength, by the name of the contender or of the experiment too.
PENALTIES = {
    "L2": lambda at: at.strength * squares(at.kernels),
    "L1": lambda at: at.strength * sizes(at.kernels),
    "TotalVariation": lambda at: at.strength * steps_of_first(at),
    "TotalVariation + L2": lambda at: at.strength * (steps_of_first(at) + 10 * squares(at.kernels)),
    "Joint TotalVariation": lambda at: (
        at.strength * sizes(np.diff([*at.named(*(f"block_{k}/kernel" for k in range(6)))], axis=0))
    ),
    "features GroupLasso": lambda at: at.strength * 4.0 * norms_of_inputs(at).sum(),
    "GroupLasso of lists": lambda at: at.strength * norms_of_questions(at).sum(),
    "L1, proximal": lambda at: at.strength * sizes(at.kernels),
    "linear GroupLasso": lambda at: at.strength * norms_of_properties(at).sum(),
    "SparseGroupLasso": lambda at: (
        at.strength * 0.5 * (sizes(at.kernels) + norms_of_properties(at).sum())
    ),
    "MCP": lambda at: at.strength * oracles.mcp(at.kernels[0], 1.5 * at.strength),
    "GroupMCP": lambda at: at.strength * oracles.mcp(norms_of_properties(at), 1.5 * at.strength),
    "L2 to the old weights": lambda at: at.strength * from_old(at, np.ones_like),
    "Quadratic of the Fisher information": lambda at: at.strength * from_old(at, np.square),
    "spike and slab": lambda at: surprise(at, log_spike_and_slab),
    "horseshoe": lambda at: surprise(at, log_horseshoe),
    "Student's t": lambda at: surprise(at, log_students_t),
    "BoxPenalty": lambda at: boxes(at.kernels, -at.strength, at.strength),
    "BoxPenalty, factor": lambda at: at.strength * boxes(at.kernels, -0.3, 0.3),
    "BoxPenalty of beta": lambda at: boxes(at.named("beta"), -at.strength, None),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_contender_adds_the_penalty_of_its_name(
    benchmark, monkeypatch, untrained, stand_ins, name
):
    training, protocol = benchmark("worth.training"), benchmark("worth.protocol")
    experiment, rng = benchmark("bench_worth").EXPERIMENTS[name], np.random.default_rng(0)

    def in_the_loss(optimizer, model, terms, **arguments):
        for weights, penalty, schedule in terms:
            tfreg.add_penalty(model, penalty, weights, schedule, optimizer if schedule else None)
        return optimizer

    monkeypatch.setattr(tfreg, "Proximal", in_the_loss)
    monkeypatch.setattr(training.Trainer, "errors", lambda *arguments: (0.5, 0.5))
    if name == "forgetting":

        def squared(model, x):
            return [weight**2 for weight in model.trainable_variables]

        monkeypatch.setattr(experiment, "fisher_information", squared)
    if name == "features":

        def equal(_, trainer, *arguments):
            return np.ones(trainer.model.input_shape[1])

        monkeypatch.setattr(experiment, "importances", equal)
    plan = protocol.Plan(seeds=1, strengths=3, steps=1)
    cases = experiment.cases(benchmark("worth.data").EVERYTHING - {"skglm"}, stand_ins)
    # Those that differ in the number of examples alone would show the same.
    for case in {case.name.partition(", ")[0]: case for case in cases}.values():
        for contender in case.contenders:
            strength = contender.strengths(plan)[len(contender.strengths(plan)) // 2]
            untrained.clear()
            case.fit_with(contender, plan)(strength, 0)
            models = [trainer.model for trainer in untrained]
            old, model = [weight.numpy() for weight in models[0].trainable_variables], models[-1]
            training.strength_variable().assign(strength)
            for weight in model.trainable_variables:
                weight.assign(rng.normal(size=weight.shape))

            def named(*ends, model=model):
                weights = [each for each in model.trainable_variables if each.path.endswith(ends)]
                return [weight.numpy().astype(np.float64) for weight in weights]

            examples = int(re.findall(r"(\d+) examples|$", case.name)[0] or 0)
            values = {"strength": strength, "kernels": named("kernel"), "examples": examples}
            at = types.SimpleNamespace(**values, named=named, old=old)
            nothing = PENALTIES.get(contender.name, lambda at: 0.0)
            expected = PENALTIES.get(f"{name} {contender.name}", nothing)(at)
            found = float(sum(model.losses))
            assert found == pytest.approx(expected, rel=1e-3), (case.name, contender.name)
            drops = any(isinstance(layer, training.Dropout) for layer in model.layers)
            assert drops == (contender.name == "dropout"), (case.name, contender.name)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_figures_are_of_the_test_part_and_choices_are_not(benchmark, monkeypatch, untrained, name):
    bench_worth, data = benchmark("bench_worth"), benchmark("worth.data")
    if name == "quantization":

        def share_of_zeros(model, parts, per_channel):
            return float(np.mean(np.asarray(parts.test.y) == 0))

        monkeypatch.setattr(bench_worth.EXPERIMENTS[name], "int8_error", share_of_zeros)
    case = next(bench_worth.cases(name, NOT_THERE))
    contender, plan = case.contenders[0], benchmark("worth.protocol").QUICK
    split = data.split

    def with_others(*arguments):
        parts = split(*arguments)
        y = parts.test.y
        others = y**2 + 1.0 if data.is_regression(parts.test) else np.minimum(y + 1, y.max())
        return parts._replace(test=parts.test._replace(y=others))

    def measured():
        outcome = case.fit_with(contender, plan)(0.0, 0)
        figures = [item for each in outcome.figures.values() for item in each().items()]
        errors = [(key, value) for key, value in figures if re.search("error|loss", key)]
        return outcome.judged, dict(errors)

    judged, figures = measured()
    monkeypatch.setattr(data, "split", with_others)
    judged_with_others, figures_with_others = measured()
    assert judged_with_others == judged
    assert figures and all(figures_with_others[key] != value for key, value in figures.items())


def network(drop):
    """A small network with names as those of the experiments."""
    layers = keras.layers
    first = layers.Dense(16, activation="relu", name="first")
    return keras.Sequential(
        [keras.Input((4,)), first, drop(), layers.BatchNormalization(), drop(), layers.Dense(3)]
    )


@pytest.fixture
def examples():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 4)).astype(np.float32), rng.integers(0, 3, 20).astype(np.int32)
    return tf.constant(x), tf.constant(y)


def contender_of(experiment, name):
    [contender] = [
        each
        for each in next(experiment.cases({"digits", "wine"}, NOT_THERE)).contenders
        if each.name == name
    ]
    return contender


@pytest.mark.parametrize("name", ["clipping", "clipping of beta", "MaxNorm"])
def test_a_constraint_holds_after_training(benchmark, examples, name):
    contender, bound = contender_of(benchmark("worth.quantization"), name), 0.01
    trainer = benchmark("worth.training").Trainer(network, contender)
    trainer.train(0, bound, *examples, steps=3)
    named = {weight.path: weight.numpy() for weight in trainer.model.trainable_variables}
    kernels = [value for path, value in named.items() if path.endswith("kernel")]
    [beta] = [value for path, value in named.items() if path.endswith("beta")]
    sizes = [np.abs(kernel) for kernel in kernels]
    if name == "MaxNorm":
        sizes = [np.linalg.norm(kernel, axis=0) for kernel in kernels]
    if name == "clipping of beta":
        assert beta.min() == pytest.approx(-bound) and beta.max() > 2.0 * bound
        assert min(map(np.max, sizes)) > 0.1
    else:
        assert list(map(np.max, sizes)) == pytest.approx([bound] * len(kernels), rel=1e-3)
        assert np.abs(beta).max() > 2.0 * bound


def test_early_stopping_takes_its_share_of_the_steps(benchmark, examples):
    [stopping] = [each for each in benchmark("worth.contenders").usual() if each.stops_early]
    trainer = benchmark("worth.training").Trainer(network, stopping)
    taken = []
    for strength in (0.2, 0.5, 1.0, 0.001):
        trainer.train(0, strength, *examples, steps=20)
        taken.append(int(trainer._optimizer.iterations))
    assert taken == [4, 10, 20, 1]


@pytest.mark.parametrize("falls", [True, False])
def test_the_learning_rate_falls_to_0(benchmark, examples, falls):
    training, protocol = benchmark("worth.training"), benchmark("worth.protocol")
    trainer = training.Trainer(network, protocol.Contender("none"), falls=falls)
    rates = []
    for steps in (1, 40):
        trainer.train(0, 0.0, *examples, steps=steps)
        rates.append(float(trainer._optimizer.learning_rate))
    assert rates[0] == pytest.approx(0.02)
    assert rates[1] < 1e-4 if falls else rates[1] == rates[0]


def test_the_learning_rate_and_the_batch_are_those_of_the_contender(benchmark, examples):
    quantization = benchmark("worth.quantization")
    seen = []

    class Watched(keras.layers.Layer):
        def call(self, inputs):
            seen.append(inputs.shape[0])
            return tf.identity(inputs)

    def build(drop):
        return keras.Sequential([keras.Input((4,)), Watched(), keras.layers.Dense(3)])

    for name, strength, rate in (
        ("learning rate", 0.001, 0.001),
        ("learning rate", 0.002, 0.002),
        ("L2", 0.002, quantization.RATE),
    ):
        trainer = quantization._trainers(contender_of(quantization, name), build)(strength)
        seen.clear()
        trainer.train(0, strength, *examples, steps=1)
        assert float(trainer._optimizer.learning_rate) == pytest.approx(rate)
        assert seen[-1] == quantization.BATCH


def test_dropout_changes_the_training_by_its_strength(benchmark, examples):
    [dropout] = [each for each in benchmark("worth.contenders").usual() if each.drops_out]
    trainer = benchmark("worth.training").Trainer(network, dropout)
    kernels = []
    for strength in (0.0, 1.0, 1.0):
        trainer.train(0, strength, *examples, steps=2)
        kernels.append(trainer.model.get_layer("first").kernel.numpy())
    assert np.any(kernels[0] != kernels[1])
    np.testing.assert_allclose(kernels[2], kernels[1], rtol=1e-6)


def test_layers_drop_out_independently(benchmark, examples):
    training = benchmark("worth.training")
    [dropout] = [each for each in benchmark("worth.contenders").usual() if each.drops_out]
    trainer = training.Trainer(network, dropout)
    trainer.train(0, 1.0, *examples, steps=1)
    layers = [each for each in trainer.model.layers if isinstance(each, training.Dropout)]
    first, second = (layer(tf.ones((100, 16)), training=True).numpy() > 0.0 for layer in layers)
    assert np.mean(first == second) == pytest.approx(0.5, abs=0.1)


def test_outputs_that_are_not_numbers_are_never_right(benchmark, examples):
    training, protocol = benchmark("worth.training"), benchmark("worth.protocol")
    trainer = training.Trainer(network, protocol.Contender("none"))
    x, y = examples
    trainer.model.layers[-1].bias.assign([np.nan] * 3)
    assert np.isnan(trainer.errors(x, tf.zeros_like(y))).all()


def test_group_lasso_makes_inputs_exactly_0(benchmark, examples):
    lasso = contender_of(benchmark("worth.features"), "GroupLasso")
    trainer = benchmark("worth.training").Trainer(network, lasso)
    x, y = examples
    trainer.train(0, 0.1, tf.concat([x[:, :1], tf.zeros_like(x[:, 1:])], axis=1), y, steps=100)
    norms = np.linalg.norm(trainer.model.get_layer("first").kernel, axis=1)
    assert norms[0] > 0.0 and not norms[1:].any()


@pytest.mark.parametrize("name", ["FOREST", "PERMUTATION"])
def test_a_selector_shows_the_network_the_selected_columns_alone(
    benchmark, monkeypatch, untrained, name
):
    features, training = benchmark("worth.features"), benchmark("worth.training")
    columns = 4 * 13
    importance = np.random.default_rng(0).permutation(columns).astype(np.float64)
    judged = []

    def errors(self, x, y):
        judged.append(x)
        return 0.5, 0.5

    monkeypatch.setattr(features, "importances", lambda *arguments: importance)
    monkeypatch.setattr(training.Trainer, "errors", errors)
    [case] = features.cases({"wine"}, NOT_THERE)
    [contender] = [each for each in case.contenders if each.name == getattr(features, name)]
    fit = case.fit_with(contender, benchmark("worth.protocol").QUICK)
    for number in (1, 5, columns):
        judged.clear()
        figures = fit(float(number), 0).figures["error"]()
        [trained] = untrained.values()
        for shown in (trained, *judged):
            np.testing.assert_array_equal(
                np.any(shown.numpy() != 0.0, axis=0), importance >= columns - number
            )
        assert len(judged) == 2
        found = np.sum(importance[:13] >= columns - number)
        assert figures["precision"] == pytest.approx(found / number)


def test_without_inputs_a_network_finds_no_features(benchmark, untrained):
    [case] = benchmark("worth.features").cases({"wine"}, NOT_THERE)
    [blind] = [each for each in case.contenders if each.name == "no inputs"]
    outcome = case.fit_with(blind, benchmark("worth.protocol").QUICK)(0.0, 0)
    assert outcome.figures["error"]().keys() == {"test error"}
    [shown] = untrained.values()
    assert not np.any(shown)


def test_the_most_important_columns_are_those_of_select_from_model(benchmark):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 8)), rng.integers(0, 2, 60)
    forest = RandomForestClassifier(20, random_state=0).fit(x, y)
    for number in (1, 3, 8):
        limits = {"max_features": number, "threshold": -np.inf}
        kept = SelectFromModel(forest, prefit=True, **limits).fit(x).get_support()
        found = benchmark("worth.features").most_important(forest.feature_importances_, number)
        np.testing.assert_array_equal(found, kept)


def test_selectors_take_unlike_numbers_of_columns(benchmark, every_case):
    features, plan = benchmark("worth.features"), benchmark("worth.protocol").WHOLE
    columns = {"breast cancer": 30, "wine": 13, "diabetes": 10, "affairs": 46}
    cases = [case for (experiment, _), case in every_case.items() if experiment == "features"]
    assert len(cases) == len(columns)
    for case in cases:
        for contender in case.contenders:
            if contender.name in (features.FOREST, features.PERMUTATION):
                numbers = [round(strength) for strength in contender.strengths(plan)]
                assert len(set(numbers)) == len(numbers), (case.name, numbers)
                assert numbers[0] == 1 and numbers[-1] == 4 * columns[case.name.split(",")[0]]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_measures_every_contender(benchmark, tmp_path, name):
    out = tmp_path / "worth.json"
    bench_worth = benchmark("bench_worth")
    quick = bench_worth.EXPERIMENTS[name].QUICK
    case = next(each for each in bench_worth.cases(name, NOT_THERE) if each.name in quick)
    only = f"^{name} {re.escape(case.name)} "
    bench_worth.main(["--quick", "--only", only, "--out", str(out), "--jobs", "2"])
    rows = json.loads(out.read_text())["measurements"]
    assert [row["contender"] for row in rows] == [each.name for each in case.contenders]
    for row in rows:
        assert row["case"] == case.name
        assert row["steps"] == case.plan(benchmark("worth.protocol").QUICK).steps
        assert all(np.isfinite(values).all() for values in row["figures"].values())


def test_fisher_information_expects_every_label(benchmark):
    forgetting = benchmark("worth.forgetting")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, use_bias=False)])
    x = 3.0 * np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    [found] = forgetting.fisher_information(model, tf.constant(x))
    chance = tf.nn.softmax(model(x)).numpy()
    # The gradient for a label drawn has the variance of the label, times the square of the input.
    expected = (x[:, :, None] ** 2 * (chance * (1.0 - chance))[:, None]).mean(axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_replay_keeps_a_twentieth_of_the_old_data(benchmark):
    forgetting = benchmark("worth.forgetting")
    old, new = (parts.train for parts in forgetting.permuted(0))
    mixed = forgetting.with_replay(old, new)
    np.testing.assert_array_equal(mixed.x, tf.concat([new.x, old.x[:20]], axis=0))
    np.testing.assert_array_equal(mixed.y, tf.concat([new.y, old.y[:20] + 10], axis=0))
    outputs = tf.constant([[0.5, -1.0]] * 3)
    benchmark("worth.training").strength_variable().assign(7.0)
    plain, other, replayed = forgetting.loss(tf.constant([1, 0, 11]), outputs).numpy()
    assert replayed == pytest.approx(7.0 * plain) and plain == pytest.approx(other + 1.5)


@pytest.mark.parametrize("name", ["replay of 5%", "Quadratic of the Fisher information"])
def test_the_new_task_chooses_without_old_data(benchmark, name):
    forgetting, data = benchmark("worth.forgetting"), benchmark("worth.data")
    plan = benchmark("worth.protocol").Plan(seeds=1, strengths=2, steps=5)
    [contender] = [
        each for each in next(forgetting.cases(None, NOT_THERE)).contenders if each.name == name
    ]

    def without_old_data(seed):
        old, new = forgetting.permuted(seed)
        lost = (data.Data(part.x * 0.0, part.y) for part in (old.validation, old.test))
        return data.Parts(old.train, *lost), new

    def judged(tasks):
        fit = forgetting._fit_with(tasks, 10)(contender, plan)
        outcomes = [fit(strength, 0).judged for strength in contender.strengths(plan)]
        return [[each[criterion] for each in outcomes] for criterion in ("both tasks", "new task")]

    by_both, by_new = judged(forgetting.permuted)
    by_both_lost, by_new_lost = judged(without_old_data)
    assert by_new == by_new_lost and by_new[0] != by_new[1]
    assert np.isfinite([*by_both, *by_both_lost]).all() and by_both != by_both_lost


@pytest.mark.parametrize(
    "tried, best",
    [
        ([(0.05, -1.0), (0.06, -4.0), (0.07, -5.0), (0.075, -9.0)], (0.07, -5.0)),
        ([(0.4, -5.0), (0.2, -1.0), (0.3, -2.0)], (0.2, -1.0)),
    ],
)
def test_the_new_task_chooses_the_strongest_within_the_margin(benchmark, tried, best):
    by_new_task = benchmark("worth.forgetting").by_new_task
    assert min(tried, key=lambda each: by_new_task(each[0], 0.05, each[1])) == best


def test_noise_is_real_features_whose_rows_are_shuffled(benchmark):
    features = benchmark("worth.features")
    x = np.arange(12.0).reshape(4, 3)
    noisy = features.with_noise(x, [[0, 1], [2]], seed=0)
    assert noisy.shape == (4, 3 * (features.COPIES + 1))
    np.testing.assert_array_equal(noisy[:, :3], x)
    np.testing.assert_array_equal(np.sort(noisy[:, 3:6], axis=0), x)
    # The columns of a feature stay together.
    np.testing.assert_array_equal(noisy[:, 4] - noisy[:, 3], np.ones(4))
    assert features.with_copies([[0, 1], [2]])[:4] == [[0, 1], [2], [3, 4], [5]]


def test_recovery_counts_what_is_found(benchmark):
    real, kept = np.array([1, 1, 1, 0, 0], bool), np.array([1, 1, 0, 1, 0], bool)
    found = benchmark("worth.features").recovery(real, kept)
    assert found == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "F1": 2 / 3})
    nothing = benchmark("worth.features").recovery(real, np.zeros(5, bool))
    assert nothing == {"precision": 0.0, "recall": 0.0, "F1": 0.0}


def test_bias_is_the_share_by_which_what_is_found_shrank(benchmark):
    linear = benchmark("worth.linear")
    truth = np.array([1.0, -2.0, 0.0, 1.0])
    told = linear.figures(np.array([0.5, -1.0, 0.1, 0.0]), truth)
    assert told["bias"] == pytest.approx(0.5) and told["recall"] == pytest.approx(2 / 3)
    assert linear.figures(np.zeros(4), truth)["bias"] == 1.0


def coefficients(linear, name, strength, x, y):
    """The kernel and bias to which a contender of the linear case trains."""
    [contender] = [each for each in linear.ours() if each.name == name]
    trainer = linear.make_trainer(contender if contender.make is None else contender.made(strength))
    trainer.train(0, strength, tf.constant(x), tf.constant(y), linear.TIMES * 400)
    layer = trainer.model.get_layer("first")
    return layer.kernel.numpy()[:, 0], float(layer.bias[0])


@pytest.mark.parametrize("strength", [0.03, 0.1, 0.3])
def test_l1_in_proximal_steps_is_scikit_learns_lasso(benchmark, strength):
    linear = benchmark("worth.linear")
    x, y = linear.problem(0, 3, 3)[0].train
    found, bias = coefficients(linear, "L1, proximal", strength, x, y)
    # Whose loss is half the mean square.
    lasso = linear_model.Lasso(strength / 2.0, tol=1e-10, max_iter=10**6)
    lasso.fit(x.astype(np.float64), y[:, 0].astype(np.float64))
    np.testing.assert_allclose(found, lasso.coef_, atol=1e-4)
    np.testing.assert_array_equal(found == 0.0, lasso.coef_ == 0.0)
    assert bias == pytest.approx(lasso.intercept_, abs=1e-4)


@pytest.mark.parametrize("name", ["MCP", "GroupMCP"])
def test_mcp_ends_at_a_minimum_with_exact_zeros(benchmark, name):
    linear = benchmark("worth.linear")
    x, y = linear.problem(1, 3, 3)[0].train
    strength = 0.3
    found, bias = coefficients(linear, name, strength, x, y)
    groups = [[k] for k in range(120)] if name == "MCP" else linear.LISTS
    slope = 2.0 * x.T @ (x @ found + bias - y[:, 0]) / len(x)
    # The coefficients and the slope of the loss, a row for each group.
    found, slope = found[groups], slope[groups]
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    kept = norms[:, 0] > 0.0
    assert 2 <= kept.sum() <= 20 and not kept.all()
    shrink = strength * np.maximum(1.0 - norms / (linear.GAMMA / 2.0 * strength), 0.0)
    pull = shrink[kept] * found[kept] / norms[kept]
    np.testing.assert_allclose(slope[kept], -pull, atol=1e-5)
    assert np.linalg.norm(slope[~kept], axis=1).max() <= strength


@pytest.fixture
def normalized():
    """Convolutions with normalizations that have seen data, and channels of unlike ranges."""
    layers, rng = keras.layers, np.random.default_rng(0)
    stack = []
    for convolution in (
        layers.Conv2D(3, 3, use_bias=False),
        layers.DepthwiseConv2D(2, depth_multiplier=2, use_bias=False),
        layers.Conv2D(5, 1, use_bias=False),
    ):
        stack += [convolution, layers.BatchNormalization(), layers.ReLU()]
    model = keras.Sequential(
        [keras.Input((6, 6, 2)), *stack, layers.GlobalAveragePooling2D(), layers.Dense(4)]
    )
    for weight in model.weights:
        weight.assign(10.0 ** rng.uniform(-2.0, 0.5, weight.shape))
        if weight.name in {"kernel", "beta", "moving_mean"}:
            weight.assign(weight * rng.choice([-1.0, 1.0], weight.shape))
    return model


def test_a_folded_network_computes_the_same_without_its_normalizations(benchmark, normalized):
    images = np.random.default_rng(1).normal(size=(20, 6, 6, 2)).astype(np.float32)
    expected = normalized(images).numpy()
    benchmark("worth.quantization").fold(normalized)
    np.testing.assert_allclose(normalized(images), expected, rtol=1e-4, atol=1e-5)
    stack, values = [keras.Input((6, 6, 2))], []
    for layer, following in zip(normalized.layers, [*normalized.layers[1:], None]):
        if isinstance(following, keras.layers.BatchNormalization):
            stack.append(type(layer).from_config(layer.get_config() | {"use_bias": True}))
            values += [layer.kernel, following.beta]
        elif not isinstance(layer, keras.layers.BatchNormalization):
            stack.append(type(layer).from_config(layer.get_config()))
            values += layer.weights
    plain = keras.Sequential(stack)
    plain.set_weights([value.numpy() for value in values])
    np.testing.assert_allclose(plain(images), expected, rtol=1e-4, atol=1e-5)


def test_a_rounded_kernel_has_at_most_255_values(benchmark):
    quantization = benchmark("worth.quantization")
    kernel = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    rounded = quantization.rounded(kernel)
    assert 100 < len(np.unique(rounded)) <= 255
    step = np.abs(kernel).max() / 127
    assert 0.4 * step < np.abs(rounded - kernel).max() <= 0.5001 * step
    np.testing.assert_array_equal(quantization.rounded(np.zeros((2, 3))), np.zeros((2, 3)))


def channels(layer):
    """The kernel, a row for each channel of the outputs."""
    kernel = layer.kernel.numpy()
    outputs = 2 if isinstance(layer, keras.layers.DepthwiseConv2D) else 1
    return kernel.reshape(-1, np.prod(kernel.shape[-outputs:])).T


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_kernel_has_one_scale_or_one_for_each_channel(benchmark, normalized, per_channel):
    quantization = benchmark("worth.quantization")
    with_kernel = [layer for layer in normalized.layers if hasattr(layer, "kernel")]
    biases = [weight.numpy() for weight in normalized.weights if weight.name != "kernel"]
    before = [channels(layer) for layer in with_kernel]
    assert [len(kernel) for kernel in before] == [3, 6, 5, 4]
    quantization.round_kernels(normalized, per_channel)
    for layer, kernel in zip(with_kernel, before):
        largest = np.abs(kernel).max(axis=1 if per_channel else None, keepdims=True)
        expected = np.round(kernel / largest * 127.0) * largest / 127.0
        np.testing.assert_allclose(channels(layer), expected, rtol=1e-5, atol=1e-7)
        assert np.any(expected != kernel)
    after = [weight.numpy() for weight in normalized.weights if weight.name != "kernel"]
    for bias, rounded in zip(biases, after):
        np.testing.assert_array_equal(rounded, bias)


def test_rounded_networks_are_judged_by_their_errors_first(benchmark, normalized):
    trainer = types.SimpleNamespace(model=normalized, errors=lambda x, y: (5.0, 0.1))
    judged = benchmark("worth.quantization").judged_rounded(trainer, None, None)
    assert judged == {"per tensor": (0.1, 5.0), "per channel": (0.1, 5.0)}


def test_the_norm_of_each_channel_is_bounded(benchmark, normalized):
    quantization = benchmark("worth.quantization")
    for layer in normalized.layers:
        if hasattr(layer, "kernel"):
            norms = np.linalg.norm(channels(layer), axis=1)
            bound = np.median(norms)
            layer.kernel.assign(quantization.of_bounded_norm(layer.kernel, bound))
            found = np.linalg.norm(channels(layer), axis=1)
            np.testing.assert_allclose(found, np.minimum(norms, bound), rtol=1e-4)


def test_what_is_lost_is_lost_by_the_chosen_network(benchmark, monkeypatch):
    quantization, protocol = benchmark("worth.quantization"), benchmark("worth.protocol")
    converted = []

    def int8_error(model, parts, per_channel):
        converted.append((model.get_weights(), per_channel))
        return 1.0

    monkeypatch.setattr(quantization, "int8_error", int8_error)
    # At these strengths rounding breaks the network.
    worst = {False: 0.1, True: 0.01}

    def round_kernels(model, per_channel):
        if abs(float(benchmark("worth.training").strength_variable()) - worst[per_channel]) < 1e-6:
            model.layers[-1].bias.assign(np.full(10, np.nan))

    monkeypatch.setattr(quantization, "round_kernels", round_kernels)
    case = next(iter(quantization.cases(set(), NOT_THERE)))
    plan = protocol.Plan(seeds=1, strengths=2, steps=3)
    contender = protocol.Contender("L2", 0.01, 0.1, keras.regularizers.L2(1.0))
    found = protocol.search(contender, case.fit_with(contender, plan), plan)
    assert found["chosen"] == {
        "per tensor": [pytest.approx(0.01)],
        "per channel": [pytest.approx(0.1)],
    }
    figures = {name: value for name, [value] in found["figures"].items()}
    assert figures["int8 error per tensor"] == figures["int8 error per channel"] == 1.0
    for criterion in ("per tensor", "per channel"):
        assert 0.0 < figures[f"float error {criterion}"] < 1.0
        assert figures[f"lost {criterion}"] == 1.0 - figures[f"float error {criterion}"]
    (first, *_), second = [weights for weights, _ in converted]
    assert [per_channel for _, per_channel in converted] == [False, True]
    assert np.any(first != second[0])


def test_the_figure_has_a_bar_for_each_contender(benchmark, measured):
    rows = [each for each in measured if each["experiment"] == "depth"]
    figure = benchmark("worth.figure").worth(rows)
    [panel] = figure.axes
    cases = {each["case"] for each in rows}
    names = {each["contender"] for each in rows}
    assert len(panel.patches) == len(rows) == len(cases) * len(names)
    shown = [bar.get_facecolor() for bar in panel.patches]
    assert len(set(shown)) == len(names)


def section():
    """What the page says under "What each bought"."""
    return re.search(r"^## What each bought$.*?(?=^## |\Z)", CHOOSING.read_text(), re.M | re.S)[0]


def test_the_tables_are_those_of_the_measurements(benchmark, measured, capsys):
    benchmark("bench_worth").print_tables(measured)
    every, summary = capsys.readouterr().out.strip().split("\n\n")
    assert summary in section()
    assert every in (RESULTS / "README.md").read_text()


# Words of the page, and what the measurements say if they are true: expressions for cases,
# contenders, the verdict, others and figures. "best" is the best other one of the case.
CLAIMS = {
    "errs less than L2 on four data sets of four": [
        "features | GroupLasso | better | L2 | test error"
    ],
    "better than skglm's penalties": ["linear 3 groups of 3 | GroupMCP | better | skglm.* | F1"],
    "saves a network that one int8 scale for a tensor ruins": [
        "quantization | BoxPenalty.* | better | none | int8 error per tensor"
    ],
    "nothing that the best of the others did not": [
        "tv | TotalVariation | not better | best | test error"
    ],
    "less than without it and than with L2, on all four": [
        "features | GroupLasso | better | none|L2 | test error"
    ],
    "is no different on three and better on diabetes": [
        "features (breast|wine|affairs) | GroupLasso | no difference | best | test error",
        "features diabetes | GroupLasso | worse | best | test error",
    ],
    "As a judge of features it is worse": [
        "features | GroupLasso | worse | best | average precision"
    ],
    "no better than a group for each column": [
        "features affairs | GroupLasso of lists | not better | GroupLasso | test error"
    ],
    "better (F1) than anything else here": ["linear 3 groups of 3 | GroupMCP | better | .* | F1"],
    "where groups are partly used it has the smallest error": [
        "linear .*2 of 3 | GroupMCP | better | best | test error"
    ],
    "`MCP` is no different from skglm's": [
        "linear 5 coefficients | MCP | no difference | skglm MCP | test error|F1|bias"
    ],
    "err as skglm's `Lasso` and `GroupLasso` do": [
        "linear | L1, proximal | equal | skglm Lasso | test error",
        "linear | GroupLasso | equal | skglm GroupLasso | test error",
    ],
    "errs less over both tasks than plain training, L2, L1 or dropout": [
        "forgetting | Quadratic.* | better | none|L2|L1|dropout | mean error"
    ],
    "is no different, and better where the new task chooses": [
        "forgetting | Quadratic.* | no difference | replay.* | mean error",
        "forgetting | Quadratic.* | worse | replay.* | mean error, .*",
    ],
    "worse on pixels in another order, better on 0 to 4": [
        "forgetting permuted | Quadratic.* | better | L2 to the old weights | mean error",
        "forgetting split | Quadratic.* | worse | L2 to the old weights | mean error",
    ],
    "no different where the new task chooses": [
        "forgetting | Quadratic.* | no difference | L2 to the old weights | mean error, .*"
    ],
    "No prior beats L2, in error or in likelihood": [
        "priors | spike.*|horse.*|Stud.* | not better | L2 | test .*"
    ],
    "Spike and slab is no different": ["priors | spike and slab | no difference | L2 | test .*"],
    "Student's t is worse in likelihood on diabetes": [
        "priors diabetes | Student's t | worse | L2 | test loss",
        "priors (breast|wine) | Student's t | no difference | L2 | test .*",
    ],
    "the horseshoe in both on wine": ["priors wine | horseshoe | worse | L2 | test .*"],
    "is better than nothing on digits": ["depth digits | Joint.* | better | none | test error"],
    "dropout is better still": ["depth digits | Joint.* | worse | dropout | test error"],
    "bought nothing on ItalyPowerDemand": [
        "depth Italy | Joint.* | not better | none | test error"
    ],
    "So do L2, L1, MaxNorm, clipping and a lower rate": [
        "quantization | L2|L1|MaxNorm|clipping|learning rate | better | none | int8 .* tensor"
    ],
    "only L1, on digits, is worse than `BoxPenalty` on the kernels": [
        "quantization digits | BoxPenalty | better | L1 | int8 .* tensor",
        "quantization | BoxPenalty | not better | L2|MaxNorm|clipping|learning.* | int8 .* tensor",
        "quantization Fashion | BoxPenalty | not better | L1 | int8 .* tensor",
    ],
}
STATEMENTS = [(words, statement) for words, said in CLAIMS.items() for statement in said]


@pytest.mark.parametrize("words, statement", STATEMENTS)
def test_every_claim_of_the_text_is_measured(benchmark, measured, words, statement):
    where, taken, wanted, others, figure = statement.split(" | ")
    assert words in on_one_line(section())
    checked = 0
    for compared in benchmark("worth.protocol").comparisons(measured):
        named = f"{compared.experiment} {compared.case}"
        if not re.match(where, named) or not re.fullmatch(figure, compared.figure):
            continue
        for contender in (each for each in compared.values if re.fullmatch(taken, each)):
            against = {each for each in compared.values if re.fullmatch(others, each)}
            against |= {compared.best_other()} if "best" in others else set()
            for other in against - {contender}:
                verdict, mean, _ = compared.against(contender, other)
                is_so = {"not better": verdict != "better", "equal": abs(mean) < 1e-3}
                assert is_so.get(wanted, verdict == wanted), (named, contender, other, verdict)
                checked += 1
    assert checked


def on_one_line(text):
    return " ".join(text.split())


def test_the_best_of_the_usual_ways_was_rarely_beaten(benchmark, measured):
    compared = [
        (each, contender)
        for each in benchmark("worth.protocol").comparisons(measured)
        if each.decides
        for contender in each.ours
    ]
    verdicts = [each.against(contender, each.best_other())[0] for each, contender in compared]
    assert verdicts.count("better") < 0.1 * len(verdicts)


def test_the_front_page_says_what_the_measurements_do():
    [summary] = re.findall(r"^In short: (.*?)\n\n", section(), re.M | re.S)
    assert on_one_line(summary) in on_one_line((ROOT / "README.md").read_text())


def test_every_number_of_the_text_is_measured(benchmark, measured):
    tables = benchmark("worth.tables")
    told = [*tables.every(measured), *tables.summary(measured)]
    known = set(re.findall(r"\d+\.\d+", " ".join(cell for line in told for cell in line)))
    stated = re.findall(r"\d+\.\d+", section())
    assert stated and set(stated) <= known
