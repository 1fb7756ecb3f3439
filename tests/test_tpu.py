"""What the TPU's own compiler makes of penalties: memory traffic and temporaries."""

import json
import re

import pytest

import tfreg

pytest.importorskip("libtpu", reason="pip install -e '.[tpu]'")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("a_trace_for_every_shape"),
]

SHAPE = (16384, 16384)
IN_ONE_PASS, IN_TWO_PASSES = (2.2, 0.1, 2.1), (3.2, 0.1, 3.2)
IN_TILES, IN_TILES_AND_COLUMNS = (8.0, 2.0, 8.0), (10.0, 2.0, 10.0)
# In weights: memory traffic and temporaries of the value with its gradient, and the traffic of the
# proximal operator, if there is one.
LIMITS = {
    "keras L2": IN_ONE_PASS,
    "TotalVariation axis=None": IN_ONE_PASS,
    "TotalVariation axis=0": IN_ONE_PASS,
    "TotalVariation axis=-1": IN_ONE_PASS,
    "BoxPenalty": IN_ONE_PASS,
    "MCP": IN_ONE_PASS,
    "SCAD": IN_ONE_PASS,
    "Quadratic": IN_ONE_PASS,
    "GroupLasso output": IN_TWO_PASSES,
    "GroupLasso input": IN_TWO_PASSES,
    "GroupLasso shape": IN_TWO_PASSES,
    "GroupLasso all": IN_TWO_PASSES,
    "GroupLasso group_size=4": IN_TILES,
    "GroupLasso group_size=5": IN_TILES,
    "GroupLasso 16x16": IN_TILES,
    "GroupLasso 7x7": IN_TILES_AND_COLUMNS,
    "SparseGroupLasso": IN_TWO_PASSES,
    "GroupMCP": IN_TWO_PASSES,
    "Prior Normal": IN_ONE_PASS,
    "Prior Laplace": IN_ONE_PASS,
}


@pytest.fixture
def bench_tpu(benchmark):
    tfreg.kernels.set_device("TPU")
    yield benchmark("bench_tpu")
    tfreg.kernels.set_device(None)


@pytest.fixture
def cases(benchmark):
    every = benchmark("penalties").cases(SHAPE, re.compile(""))
    return {case.name: case for case in every}


def test_every_penalty_that_is_measured_by_hand_has_limits(cases):
    measured = [name for name, case in cases.items() if "by hand" in case.forms]
    assert set(measured) <= set(LIMITS) <= set(cases)


def check(bench_tpu, case, chip):
    traffic, temporaries, prox_traffic = LIMITS[case.name]
    [form, *_] = case.forms.values()
    figures = bench_tpu.figures_of_kernel(form, bench_tpu.gradient, SHAPE, chip)
    assert figures.traffic <= traffic and figures.temporaries <= temporaries
    for operator in [*case.prox_forms.values()][:1]:
        figures = bench_tpu.figures_of_kernel(operator, bench_tpu.prox, SHAPE, chip)
        assert figures.traffic <= prox_traffic


@pytest.mark.parametrize("name", LIMITS)
def test_traffic_and_temporaries(bench_tpu, cases, name):
    check(bench_tpu, cases[name], "v5e")


@pytest.mark.parametrize("chip", ["v5p", "v6e"])
@pytest.mark.parametrize("name", ["TotalVariation axis=None", "BoxPenalty", "GroupLasso output"])
def test_traffic_and_temporaries_of_other_chips(bench_tpu, cases, name, chip):
    check(bench_tpu, cases[name], chip)


@pytest.mark.parametrize("penalty", ["GroupLasso", "TotalVariation", "BoxPenalty"])
def test_traffic_of_a_whole_step(bench_tpu, benchmark, penalty):
    models = benchmark("models")
    variant = models.Variant(penalty, "add_penalty")
    step = bench_tpu.figures_of_step("transformer", variant, "v5e")
    assert step.traffic <= 1.02 * bench_tpu.figures_of_step("transformer", models.L2, "v5e").traffic


def test_the_benchmark_prints_tables_and_writes_json(bench_tpu, tmp_path, capsys):
    out = tmp_path / "tpu.json"
    options = ["--shape", "256x256", "--penalty", "BoxPenalty", "--model", "lstm"]
    bench_tpu.main([*options, "--out", str(out)])
    printed = capsys.readouterr().out
    assert "| BoxPenalty" in printed and "| lstm" in printed
    measurements = json.loads(out.read_text())["measurements"]
    assert {"BoxPenalty", "keras L2"} < {entry["penalty"] for entry in measurements}
    assert all(entry["traffic"] > 0 and entry["cycles"] > 0 for entry in measurements)
