"""The benchmarks run, and check what they time; no test looks at a time."""

import functools
import importlib
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
SMALLEST = ["--shape", "8x16", "--repeats", "1"]
WITHOUT_PROX = ["TotalVariation axis=None", "TotalVariation axis=0", "TotalVariation axis=-1"]
WITH_PROX = [
    "BoxPenalty",
    "GroupLasso output",
    "GroupLasso input",
    "GroupLasso shape",
    "GroupLasso all",
    "GroupLasso group_size=4",
    "GroupLasso group_size=5",
    "GroupLasso 16x16",
    "GroupLasso 7x7",
    "SparseGroupLasso",
    "Prior Normal",
    "Prior Laplace",
]
L2 = "keras L2"


@pytest.fixture
def benchmark(monkeypatch):
    """The module of a benchmark, by its name."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def rows(printed):
    """The cells of the tables' rows, without their headers."""
    lines = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in cells] for cells in lines[2:]]


def test_bench_kernels_prints_each_penalty_and_writes_json(tmp_path):
    out = tmp_path / "kernels.json"
    command = [sys.executable, "-m", "benchmarks.bench_kernels", *SMALLEST, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    expected = {(name, "prox") for name in [L2, *WITH_PROX]} | {
        (name, computes)
        for name in [L2, *WITHOUT_PROX, *WITH_PROX]
        for computes in ("value", "gradient")
    }
    assert sorted(tuple(row[:2]) for row in rows(done.stdout)) == sorted(expected)
    contents = json.loads(out.read_text())
    assert "tensorflow" in contents["environment"]
    measured = {measurement["penalty"] for measurement in contents["measurements"]}
    assert measured == {"numpy.copyto", L2, *WITHOUT_PROX, *WITH_PROX}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_bench_kernels_of_half_precision(benchmark, capsys, dtype):
    options = ["--dtype", dtype, "--penalty", "Box"]
    benchmark("bench_kernels").main([*SMALLEST, *options])
    names = [L2] * 3 + ["BoxPenalty"] * 3
    assert [row[0] for row in rows(capsys.readouterr().out)] == names


def _value_off(value, gradient):
    return value * (1.0 + 1e-4), gradient


def _one_entry_of_the_gradient_off(value, gradient):
    wrong = gradient.copy()
    wrong[0, -1] += 1e-4 * np.abs(gradient).max()
    return value, wrong


@pytest.mark.parametrize(
    "spoil, computes", [(_value_off, "value"), (_one_entry_of_the_gradient_off, "gradient")]
)
def test_bench_kernels_stops_at_a_wrong_answer(benchmark, monkeypatch, spoil, computes):
    penalties = benchmark("penalties")
    right = penalties.box_reference
    monkeypatch.setattr(penalties, "box_reference", lambda w: spoil(*right(w)))
    with pytest.raises(SystemExit, match=f"BoxPenalty tfreg {computes} graph") as stopped:
        benchmark("bench_kernels").main([*SMALLEST, "--penalty", "Box"])
    assert stopped.value.code not in (None, 0)


def test_bench_kernels_stops_at_a_wrong_prox(benchmark, monkeypatch):
    penalties = benchmark("penalties")
    monkeypatch.setattr(penalties, "box_prox_reference", lambda w, strength: w)
    with pytest.raises(SystemExit, match="BoxPenalty tfreg prox graph"):
        benchmark("bench_kernels").main([*SMALLEST, "--penalty", "Box"])


def test_bench_fit_prints_each_way_and_writes_json(benchmark, api, tmp_path, capsys):
    out = tmp_path / "fit.json"
    options = ["--model", "lstm", "--steps", "1", "--repeats", "1", "--out", str(out)]
    modes = ["--mode", "default", "--penalty", "TotalVariation", "--keras", api.__name__]
    benchmark("bench_fit").main([*options, *modes])
    expected = [["none", "-"], [L2, "layers"]]
    expected += [["TotalVariation", through] for through in ("layers", "add_penalty")]
    assert [row[2:4] for row in rows(capsys.readouterr().out)] == expected
    [first, *_] = json.loads(out.read_text())["measurements"]
    assert first["model"] == "lstm" and first["keras"] == api.__name__


@pytest.mark.parametrize("name", ["dense", "resnet", "transformer", "lstm"])
def test_the_losses_of_the_models_are_those_of_their_kernels(benchmark, api, name):
    models = benchmark("models")
    for variant in models.variants(re.compile("GroupLasso|Box")):
        model = models.penalized(api, name, variant)
        assert models.check_losses(name, model, variant) <= models.TOLERANCE
        assert bool(model.losses) == (variant != models.NONE)


def test_bench_fit_stops_at_wrong_losses(benchmark, monkeypatch):
    models = benchmark("models")
    doubled = functools.partial(models.penalized, factor=2 * models.FACTOR)
    monkeypatch.setattr(models, "penalized", doubled)
    with pytest.raises(SystemExit, match="lstm keras L2 layers"):
        benchmark("bench_fit").main(["--model", "lstm", "--mode", "default"])


def test_answer_check_refuses_nan_and_returns_the_error(benchmark):
    expected = np.array([2.0, 4.0])
    check_answer = benchmark("common").check_answer
    with pytest.raises(SystemExit, match="a norm"):
        check_answer("a norm", np.array([2.0, np.nan]), expected, 1e-5)
    error = check_answer("a norm", np.array([2.0, 4.0 + 1e-6]), expected, 1e-5)
    assert error == pytest.approx(2.5e-7)


@pytest.mark.parametrize("shape", ["256", "4x0", "4xfour"])
def test_a_bad_shape_is_refused(benchmark, shape, capsys):
    with pytest.raises(SystemExit):
        benchmark("bench_kernels").main(["--shape", shape])
    assert shape in capsys.readouterr().err
