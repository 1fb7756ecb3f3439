"""bench_worth gives every contender the same, repeats itself, and the docs say what it measured."""

import json
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

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
    everything = set(benchmark("worth.data").LOADERS)
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
            assert tried.pop("none") == [0.0]
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
            assert len(row["chosen"]) == plan.seeds and set(row["chosen"]) <= set(row["strengths"])


# Determinism, once it is asked for, is for the whole process.
TWICE = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
from benchmarks import bench_worth
from benchmarks.worth import protocol
plan = protocol.Plan(seeds=2, strengths=2, steps=5)
case = "features", "wine, 40 examples"
tasks = [
    bench_worth.Task(*case, contender, pathlib.Path("/no/such/folder"), plan)
    for contender in ("GroupLasso", "dropout", "GroupLasso", "dropout")
]
print(json.dumps([bench_worth.measure(task) for task in tasks]))
"""


@pytest.mark.slow
def test_a_cell_gives_the_same_number_twice(run_fresh):
    rows = run_fresh(TWICE, ROOT)
    assert all(row.pop("seconds") > 0.0 for row in rows)
    assert rows[:2] == rows[2:]
    for found in rows[:2]:
        first, second = found["figures"]["average precision"]
        assert first != second


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


def test_a_diverged_run_is_never_chosen(benchmark):
    protocol = benchmark("worth.protocol")
    contender = protocol.Contender("L2", 0.01, 1.0)

    def fit(strength, seed):
        validation = float("nan") if strength == 0.01 else strength
        return protocol.Outcome(validation, lambda: {"test error": strength + seed})

    found = protocol.search(contender, fit, protocol.Plan(seeds=2, strengths=3, steps=7))
    np.testing.assert_allclose(found["chosen"], [0.1, 0.1])
    np.testing.assert_allclose(found["figures"]["test error"], [0.1, 1.1])
    assert found["seeds"] == [0, 1] and found["steps"] == 7


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
    monkeypatch.setattr(data, "_inside", lambda package, path: None)
    monkeypatch.setattr(bench_worth, "measure_all", lambda asked, jobs: print(asked) or [])
    bench_worth.main(["--data", str(NOT_THERE), "--quick"])
    printed = capsys.readouterr().out
    for name in ("GunPoint", "ItalyPowerDemand", "Fashion-MNIST", "affairs"):
        assert f"{name} is left out" in printed
        assert f"case='{name}" not in printed
    assert "case='digits dense, 50 examples'" in printed


def test_what_is_measured_is_kept(benchmark, monkeypatch, tmp_path):
    bench_worth, out = benchmark("bench_worth"), tmp_path / "worth.json"
    asked = []

    def measure_all(tasks, jobs):
        asked.append([task.contender for task in tasks])
        for task in tasks:
            named = dict(zip(("experiment", "case", "contender"), task.key))
            rest = {"ours": False, "seconds": 1.0, "strengths": [], "chosen": []}
            seeds = list(range(task.plan.seeds))
            figures = {"test error": [float(len(asked))] * task.plan.seeds}
            yield named | rest | {"seeds": seeds, "steps": task.plan.steps, "figures": figures}

    monkeypatch.setattr(bench_worth, "measure_all", measure_all)
    options = ["--out", str(out), "--data", str(NOT_THERE), "--only"]
    bench_worth.main([*options, "^depth digits, 50 examples L1"])
    bench_worth.main([*options, "^depth digits, 50 examples L", "--resume"])
    bench_worth.main([*options, "^depth digits, 50 examples L2"])
    assert asked == [["L1"], ["L2"], ["L2"]]
    rows = json.loads(out.read_text())["measurements"]
    values = {each["contender"]: each["figures"]["test error"][0] for each in rows}
    assert list(values.items()) == [("L2", 3.0), ("L1", 1.0)]
    bench_worth.main([*options, "^depth digits, 50 examples L2", "--resume", "--quick"])
    assert asked[-1] == ["L2"], "a row of another plan is no row of this one"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*EXPERIMENTS} - {"features", "tv"}))
def test_an_experiment_measures_every_contender(benchmark, tmp_path, name):
    out = tmp_path / "worth.json"
    bench_worth = benchmark("bench_worth")
    [quick, *_] = bench_worth.EXPERIMENTS[name].QUICK
    bench_worth.main(["--quick", "--only", f"^{name} ", "--out", str(out), "--jobs", "2"])
    rows = json.loads(out.read_text())["measurements"]
    cases = bench_worth.cases(name, NOT_THERE)
    [case] = [each for each in cases if each.name == quick]
    measured = [row["contender"] for row in rows if row["case"] == quick]
    assert measured == [contender.name for contender in case.contenders]
    for row in rows:
        assert row["steps"] == case.plan(benchmark("worth.protocol").QUICK).steps
        assert all(np.isfinite(values).all() for values in row["figures"].values())


def test_fisher_information_is_that_of_drawn_labels(benchmark):
    forgetting = benchmark("worth.forgetting")
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
    x = np.random.default_rng(0).normal(size=(5000, 2)).astype(np.float32)
    [found] = forgetting.fisher_information(model, tf.constant(x), seed=0)
    chance = tf.nn.softmax(model(x)).numpy()
    # The gradient for a label drawn has the variance of the label, times the square of the input.
    expected = (x[:, :, None] ** 2 * (chance * (1.0 - chance))[:, None]).mean(axis=0)
    np.testing.assert_allclose(found, expected, rtol=0.05)


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


def test_a_rounded_kernel_has_256_values(benchmark):
    quantization = benchmark("worth.quantization")
    kernel = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    rounded = quantization.rounded(kernel)
    assert len(np.unique(rounded)) <= 255
    step = np.abs(kernel).max() / 127
    assert 0.4 * step < np.abs(rounded - kernel).max() <= 0.5001 * step
    np.testing.assert_array_equal(quantization.rounded(kernel[0]), kernel[0])


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


def test_every_number_of_the_text_is_measured(benchmark, measured):
    tables = benchmark("worth.tables")
    told = [*tables.every(measured), *tables.summary(measured)]
    known = set(re.findall(r"\d+\.\d+", " ".join(cell for line in told for cell in line)))
    stated = re.findall(r"\d+\.\d+", section())
    assert stated and set(stated) <= known
