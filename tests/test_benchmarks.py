"""The benchmarks run, and check what they time; no test looks at a time."""

import importlib
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
SMALLEST = ["--shape", "8x16", "--repeats", "1"]
PENALTIES = [
    "keras L2",
    "TotalVariation axis=None",
    "TotalVariation axis=0",
    "TotalVariation axis=-1",
    "BoxPenalty",
    "GroupLasso output",
    "GroupLasso input",
    "GroupLasso group_size=4",
    "GroupLasso group_size=5",
    "SparseGroupLasso",
]


@pytest.fixture
def bench_kernels(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.bench_kernels")


@pytest.fixture
def common(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.common")


def test_bench_kernels_prints_each_penalty_and_writes_json(tmp_path):
    out = tmp_path / "kernels.json"
    command = [sys.executable, "-m", "benchmarks.bench_kernels", *SMALLEST, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    lines = [line.split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    rows = [(cells[1].strip(), cells[2].strip()) for cells in lines[2:]]
    assert rows == [(name, computes) for name in PENALTIES for computes in ("value", "gradient")]

    contents = json.loads(out.read_text())
    assert "tensorflow" in contents["environment"]
    measured = {measurement["penalty"] for measurement in contents["measurements"]}
    assert measured == {"numpy.copyto", *PENALTIES}


def _value_off(value, gradient):
    return value * (1.0 + 1e-4), gradient


def _one_entry_of_the_gradient_off(value, gradient):
    wrong = gradient.copy()
    wrong[0, -1] += 1e-4 * np.abs(gradient).max()
    return value, wrong


@pytest.mark.parametrize(
    "spoil, computes", [(_value_off, "value"), (_one_entry_of_the_gradient_off, "gradient")]
)
def test_bench_kernels_stops_at_a_wrong_answer(bench_kernels, monkeypatch, spoil, computes):
    right = bench_kernels.box_reference
    monkeypatch.setattr(bench_kernels, "box_reference", lambda w: spoil(*right(w)))
    with pytest.raises(SystemExit, match=f"BoxPenalty tfreg {computes} graph") as stopped:
        bench_kernels.main(SMALLEST)
    assert stopped.value.code not in (None, 0)


def test_answer_check_refuses_nan_and_returns_the_error(common):
    expected = np.array([2.0, 4.0])
    with pytest.raises(SystemExit, match="a norm"):
        common.check_answer("a norm", np.array([2.0, np.nan]), expected, 1e-5)
    error = common.check_answer("a norm", np.array([2.0, 4.0 + 1e-6]), expected, 1e-5)
    assert error == pytest.approx(2.5e-7)


@pytest.mark.parametrize("shape", ["256", "4x0", "4xfour"])
def test_a_bad_shape_is_refused(common, shape, capsys):
    with pytest.raises(SystemExit):
        common.parse("", ["--shape", shape])
    assert shape in capsys.readouterr().err
