"""The benchmarks run, and check what they time; no test looks at a time."""

import functools
import gzip
import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from cases import TABLE, weight
from marks import KERAS_3_FIRST, slow

import tfreg

ROOT = pathlib.Path(__file__).parents[1]
SMALLEST = ["--shape", "8x16", "--repeats", "1"]
L2 = "keras L2"
COMPUTES = ["value", "gradient", "prox"]


def rows(printed):
    """The cells of the tables' rows, without their headers."""
    lines = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("|")]
    every = [[cell.strip() for cell in cells] for cells in lines]
    rules = [number for number, row in enumerate(every) if set("".join(row)) == {"-"}]
    return [row for i, row in enumerate(every) if i not in rules and i + 1 not in rules]


@pytest.mark.slow
def test_bench_kernels_prints_each_penalty_and_writes_json(benchmark, tmp_path):
    out = tmp_path / "kernels.json"
    command = [sys.executable, "-m", "benchmarks.bench_kernels", *SMALLEST, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    cases = list(benchmark("penalties").cases((8, 16)))
    expected = {(case.name, computes) for case in cases for computes in ("value", "gradient")}
    expected |= {(case.name, "prox") for case in cases if case.prox_forms}
    assert sorted(tuple(row[:2]) for row in rows(done.stdout)) == sorted(expected)
    contents = json.loads(out.read_text())
    assert "tensorflow" in contents["environment"]
    measured = {measurement["penalty"] for measurement in contents["measurements"]}
    assert measured == {"copy"} | {case.name for case in cases}


@pytest.mark.parametrize("dtype", ["float16", slow("bfloat16")])
def test_bench_kernels_of_half_precision(benchmark, capsys, dtype):
    options = ["--dtype", dtype, "--penalty", "Box"]
    benchmark("bench_kernels").main([*SMALLEST, *options])
    names = [L2] * 3 + ["BoxPenalty"] * 3
    assert [row[0] for row in rows(capsys.readouterr().out)] == names


def test_references_are_the_oracles(benchmark):
    w = weight((8, 10))
    for case in benchmark("penalties").cases(w.shape):
        if case.name != L2:
            unit = oracle_of(case.forms["tfreg"])
            value, gradient = case.reference(w)
            np.testing.assert_allclose(value, unit(w), rtol=1e-12, err_msg=case.name)
            expected = oracles.finite_differences(unit, w)
            np.testing.assert_allclose(gradient, expected, 1e-6, 1e-7, err_msg=case.name)


def oracle_of(penalty):
    """The oracle, of factor 1, of the row of the table that has such a penalty."""
    config = penalty.get_config()
    arguments = {name: tuple(v) if isinstance(v, list) else v for name, v in config.items()}
    del arguments["factor"]
    for row in TABLE:
        example = row.cases[0].penalty
        its_class = type(example), example.get_config().get("distribution")
        if its_class == (type(penalty), config.get("distribution")):
            given = {name: arguments[name] for name in row.choices}
            return functools.partial(row.oracle, **given)
    raise AssertionError(f"no row for {penalty}")


class Sextic(tfreg.Elementwise):
    def f(w):
        return w**6

    def df(w):
        return 6.0 * w**5


def test_bench_kernels_measures_a_penalty_that_has_no_form_by_hand(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(benchmark("penalties"), "_penalties_of_one_weight", lambda: {Sextic})
    benchmark("bench_kernels").main([*SMALLEST, "--penalty", "Sextic"])
    names = [row[0] for row in rows(capsys.readouterr().out)]
    assert names == [L2] * 3 + ["Sextic"] * 2


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


@KERAS_3_FIRST
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
    assert first["over_none"] == [1.0, 1.0, 1.0] and all(ratio > 0 for ratio in first["over_l2"])


def test_a_slow_round_does_not_change_paired_ratios(benchmark):
    base, samples = np.array([1.0, 1.0, 1.0, 1.0]), np.array([2.0, 2.0, 2.5, 1.5])
    slow_round = np.array([1.0, 8.0, 1.0, 1.0])
    common = benchmark("common")
    ratios = common.paired_ratios(samples * slow_round, base * slow_round)
    assert ratios == common.paired_ratios(samples, base) == [1.875, 2.0, 2.125]


def test_on_a_gpu_a_copy_is_the_devices_and_launches_overlap(benchmark, monkeypatch):
    common, waits, calls = benchmark("common"), [], []
    monkeypatch.setattr(common, "has_gpu", lambda: True)
    monkeypatch.setattr(common.tf.test.experimental, "sync_devices", lambda: waits.append(None))
    w = tf.constant([[1.0, 2.0]])
    np.testing.assert_array_equal(common.copy(w)(), 2.0 * w)
    common.interleaved_samples({"run": lambda: calls.append(None)}, repeats=2)
    assert len(waits) == 4 + 2 < len(calls) / 10


@pytest.mark.parametrize("name", [*map(slow, ["dense", "resnet", "transformer"]), "lstm"])
def test_the_losses_of_the_models_are_those_of_their_kernels(benchmark, api, name):
    models = benchmark("models")
    for variant in models.variants(re.compile("GroupLasso|Box")):
        model = models.penalized(api, name, variant)
        assert models.check_losses(name, model, variant) <= models.TOLERANCE
        assert bool(model.losses) == (variant != models.NONE)


@pytest.mark.slow
def test_bench_embedding_tells_what_each_way_costs(benchmark, api, tmp_path, capsys):
    out = tmp_path / "embedding.json"
    options = ["--rows", "50", "--repeats", "1", "--keras", api.__name__, "--out", str(out)]
    benchmark("bench_embedding").main(options)
    runs = [list(run) for run in benchmark("bench_embedding").RUNS]
    assert [row[:2] for row in rows(capsys.readouterr().out)] == runs
    measurements = json.loads(out.read_text())["measurements"]
    assert [[m["penalty"], m["on"]] for m in measurements] == runs


def test_bench_embedding_stops_at_wrong_losses(benchmark, monkeypatch):
    penalties = benchmark("penalties")
    monkeypatch.setattr(penalties, "box_reference", lambda w, bound: (1.0, None))
    with pytest.raises(SystemExit, match="BoxPenalty on the table"):
        benchmark("bench_embedding").main(["--rows", "50", "--penalty", "Box"])


def test_bench_fit_stops_at_wrong_losses(benchmark, monkeypatch):
    models = benchmark("models")
    doubled = functools.partial(models.penalized, factor=2 * models.FACTOR)
    monkeypatch.setattr(models, "penalized", doubled)
    with pytest.raises(SystemExit, match="lstm keras L2 layers"):
        benchmark("bench_fit").main(["--model", "lstm", "--mode", "default"])


@pytest.fixture
def same_process(benchmark, monkeypatch):
    """Lets a benchmark measure in the process of the test, where what is patched holds."""

    def call(function, *arguments, environment):
        return function(*arguments)

    monkeypatch.setattr(benchmark("common"), "in_fresh_process", call)


@pytest.mark.slow
def test_bench_compact_prints_a_row_for_each_model(benchmark, tmp_path, capsys):
    out = tmp_path / "out.json"
    benchmark("bench_compact").main(["--quick", "--repeats", "1", "--out", str(out)])
    [measured] = json.loads(out.read_text())["measurements"]
    assert measured["parameters"][1] < measured["parameters"][0] / 2
    assert measured["model"] in capsys.readouterr().out


@pytest.mark.slow
def test_bench_compact_stops_at_a_wrong_answer(benchmark, monkeypatch):
    wrong = lambda model: keras.models.clone_model(model)  # noqa: E731
    monkeypatch.setattr(tfreg, "compact", wrong)
    with pytest.raises(SystemExit, match="Wrong answer: MobileNetV2 is off"):
        benchmark("bench_compact").main(["--quick", "--repeats", "1"])


@pytest.mark.slow
def test_bench_proximal_measures_each_way(benchmark, tmp_path):
    out = tmp_path / "out.json"
    quick = ["--quick", "--steps", "2", "--repeats", "1", "--mode", "default", "--out", str(out)]
    bench_proximal = benchmark("bench_proximal")
    bench_proximal.main(quick)
    measured = {m["proximal"]: m for m in json.loads(out.read_text())["measurements"]}
    assert list(measured) == list(bench_proximal.PROXIMAL)
    assert measured["none"]["zeros"] == 0.0 and measured["none"]["over_none"] == [1.0] * 3
    assert measured["Budget of elements, met"]["zeros"] == pytest.approx(0.8, abs=0.01)


@pytest.mark.slow
def test_bench_proximal_stops_at_a_budget_that_is_not_met(benchmark, monkeypatch):
    monkeypatch.setattr(tfreg, "Proximal", lambda optimizer, model, penalties: optimizer)
    with pytest.raises(SystemExit, match="Wrong answer: 0.00 of transformer is zero after Budget"):
        benchmark("bench_proximal").main(
            ["--quick", "--steps", "1", "--repeats", "1", "--mode", "default", "--penalty", "2:4"]
        )


@pytest.mark.slow
def test_bench_sparsity_trains_each_row_in_processes_and_merges_them(benchmark, tmp_path, capsys):
    out = tmp_path / "out.json"
    options = ["--quick", "--jobs", "2", "--data", str(tmp_path), "--out", str(out)]
    benchmark("bench_sparsity").main(options)
    printed = capsys.readouterr().out
    expected = [[m, row] for m in ("resnet", "transformer") for row in ("dense", "budget 0.25")]
    assert [row[:2] for row in rows(printed)] == expected
    assert "lenet is left out" in printed
    measured = json.loads(out.read_text())["measurements"]
    assert sorted([m["model"], m["row"]] for m in measured) == sorted(expected)
    sizes = {(m["model"], m["row"]): m["multiply_adds"] for m in measured}
    for model in ("resnet", "transformer"):
        assert sizes[model, "budget 0.25"] <= 0.25 * sizes[model, "dense"]


@pytest.mark.slow
def test_bench_sparsity_stops_at_a_wrong_answer(benchmark, monkeypatch):
    wrong = lambda model, optimizer: keras.models.clone_model(model)  # noqa: E731
    monkeypatch.setattr(tfreg, "compact", wrong)
    with pytest.raises(SystemExit, match="Wrong answer: resnet budget 0.25 seed 0 is off"):
        benchmark("bench_sparsity").main(["--quick", "--only", "resnet budget"])


@pytest.mark.parametrize("name", ["lenet", slow("resnet"), slow("transformer")])
def test_bench_sparsity_counts_multiply_adds_as_couplings_do(benchmark, name):
    bench_sparsity = benchmark("bench_sparsity")
    model = bench_sparsity.SETUPS[name].build()
    total = bench_sparsity.multiply_adds(model)
    if name == "lenet":
        assert (model.count_params(), total) == (431_080, 2_293_000)
    coupling = tfreg.couple(model)[0]
    coupling.zero([0])
    smaller = bench_sparsity.multiply_adds(tfreg.compact(model))
    assert total - smaller == coupling.cost.multiply_adds


def test_bench_sparsity_reads_debians_files(benchmark, tmp_path):
    bench_sparsity = benchmark("bench_sparsity")
    rng, arrays = np.random.default_rng(0), []
    for part, count in (("train", 3), ("t10k", 2)):
        for name, shape in zip(bench_sparsity.FILES, ((count, 28, 28), (count,))):
            arrays.append(rng.integers(0, 256, shape, np.uint8))
            header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
            contents = gzip.compress(header + arrays[-1].tobytes())
            (tmp_path / name.format(part)).write_bytes(contents)
    assert bench_sparsity.has_fashion(tmp_path, download=False)
    read = bench_sparsity.fashion(tmp_path, download=False)
    for found, expected in zip(read, arrays):
        np.testing.assert_array_equal(found.squeeze(), expected)


def test_bench_sparsity_without_its_data_says_so(benchmark, tmp_path, capsys):
    benchmark("bench_sparsity").main(["--only", "lenet", "--data", str(tmp_path)])
    printed = capsys.readouterr().out
    assert f"lenet is left out, since {tmp_path} has no Fashion-MNIST" in printed
    assert not rows(printed)


@pytest.mark.parametrize(
    "values, sizes, verdict",
    [
        ((0.91, 0.90, 0.89), (400_000, 409_999, 410_000), "holds (budget 410,000: 0.9000"),
        ((0.91, 0.90, 0.88), (400_000, 409_999, 410_000), "does not hold (budget 410,000: 0.8967"),
        ((0.91, 0.90, 0.89), (400_000, 400_000, 410_001), "does not hold (no row: 0.0000"),
    ],
)
def test_bench_sparsity_tells_which_limits_hold(benchmark, values, sizes, verdict):
    measured = [
        {"model": "lenet", "row": row, "seed": seed, "accuracy": value, "multiply_adds": size}
        for row, shift in (("budget 410,000", 0), ("dense", 10**6))
        for seed, (value, size) in enumerate(zip(values, np.add(sizes, shift)))
    ]
    first, *_ = benchmark("bench_sparsity").limits(measured)
    assert first.startswith(f"At most 410,000 multiply-adds with accuracy >= 0.900: {verdict}")


@pytest.mark.slow
def test_bench_groups_prints_each_kind_of_lists(benchmark, tmp_path, capsys):
    options = ["--shape", "520x512", "--repeats", "1", "--out", str(tmp_path / "out.json")]
    benchmark("bench_groups").main(options)
    measured = json.loads((tmp_path / "out.json").read_text())["measurements"]
    assert len(measured) == 4 * 6 * 2 and all(run["seconds"][1] > 0.0 for run in measured)
    assert capsys.readouterr().out.count("overlapping") == 4


def test_bench_groups_stops_at_a_wrong_answer(benchmark, monkeypatch):
    right = benchmark("bench_groups").reference
    wrong = lambda *arguments: [1.001 * part for part in right(*arguments)]  # noqa: E731
    monkeypatch.setattr(benchmark("bench_groups"), "reference", wrong)
    with pytest.raises(SystemExit, match="Wrong answer: 0 runs graph is off"):
        benchmark("bench_groups").main(["--shape", "16x16"])


@pytest.mark.slow
def test_bench_memory_prints_each_form_and_writes_json(benchmark, tmp_path, capsys):
    out = tmp_path / "memory.json"
    options = ["--shape", "2048x2048", "--repeats", "1", "--out", str(out)]
    benchmark("bench_memory").main([*options, "--penalty", "Box"])
    printed = rows(capsys.readouterr().out)
    every = [[name, computes] for name in (L2, "BoxPenalty") for computes in COMPUTES]
    assert [row[:2] for row in printed] == every
    measurements = json.loads(out.read_text())["measurements"]
    assert {measurement["form"] for measurement in measurements} == {"Keras", "tfreg", "by hand"}


def test_bench_memory_stops_at_a_wrong_meter(benchmark, same_process, monkeypatch):
    bench_memory = benchmark("bench_memory")
    monkeypatch.setattr(bench_memory, "peak", lambda perform: 5 * 8 * 16 * 4)
    with pytest.raises(SystemExit, match="the meter"):
        bench_memory.main(SMALLEST)


def test_bench_memory_stops_at_a_wrong_answer(benchmark, same_process, monkeypatch):
    bench_memory, penalties = benchmark("bench_memory"), benchmark("penalties")
    right = penalties.box_reference
    monkeypatch.setattr(bench_memory, "check_meter", lambda w: None)
    monkeypatch.setattr(penalties, "box_reference", lambda w: _value_off(*right(w)))
    with pytest.raises(SystemExit, match="BoxPenalty tfreg value graph"):
        bench_memory.main([*SMALLEST, "--penalty", "Box"])


def test_bench_memory_stops_where_no_meter_is(benchmark, monkeypatch, tmp_path):
    bench_memory = benchmark("bench_memory")
    monkeypatch.setattr(bench_memory, "CLEAR_REFS", tmp_path / "clear_refs")
    with pytest.raises(SystemExit, match="Linux"):
        bench_memory.main(SMALLEST)


@pytest.mark.slow
def test_bench_compile_prints_each_way_and_writes_json(
    benchmark, same_process, api, tmp_path, capsys
):
    out = tmp_path / "compile.json"
    options = ["--model", "lstm", "--repeats", "1", "--out", str(out), "--keras", api.__name__]
    benchmark("bench_compile").main([*options, "--mode", "default", "--penalty", "Box"])
    printed = rows(capsys.readouterr().out)
    expected = [["none", "-"], [L2, "layers"], ["BoxPenalty", "layers"]]
    assert [row[2:4] for row in printed] == [*expected, ["BoxPenalty", "add_penalty"]]
    assert {row[-1] for row in printed} == {"0"}
    [first, *_] = json.loads(out.read_text())["measurements"]
    assert first["model"] == "lstm" and first["keras"] == api.__name__


@pytest.mark.slow
def test_bench_compile_counts_traces_and_compilations(benchmark):
    common, models = benchmark("common"), benchmark("models")
    bench_compile = benchmark("bench_compile")
    run = models.Run("lstm", "jit_compile", "BoxPenalty", "layers")
    arguments = (bench_compile.measure, "keras", run)
    sample = common.in_fresh_process(*arguments, environment=bench_compile.ENVIRONMENT)
    # Of two shapes of kernels, the value and the gradient.
    assert (sample.traces, sample.traces_for_another_strength) == (4, 0)
    assert sample.compilations >= 1


def test_bench_compile_leaves_out_what_takes_minutes(benchmark):
    options = ["--keras", "tf_keras", "--model", "lstm"]
    parsed = benchmark("models").parser("").parse_args(options)
    assert {run.mode for run in benchmark("bench_compile").selected(parsed)} == {"default"}


@pytest.mark.slow
def test_bench_compile_stops_at_wrong_losses(benchmark, same_process, monkeypatch):
    models = benchmark("models")
    doubled = models.PENALTIES[L2]._replace(reference=lambda w: 2.0 * np.square(w).sum())
    monkeypatch.setitem(models.PENALTIES, L2, doubled)
    with pytest.raises(SystemExit, match="lstm keras L2 layers"):
        benchmark("bench_compile").main(["--model", "lstm", "--mode", "default"])


def test_a_fresh_process_has_its_environment_and_hands_back_what_it_raises(benchmark):
    in_fresh_process = benchmark("common").in_fresh_process
    environment = {"TFREG_TEST": "there"}
    assert in_fresh_process(os.getenv, "TFREG_TEST", environment=environment) == "there"
    assert "TFREG_TEST" not in os.environ
    assert in_fresh_process(os.getpid) != os.getpid()
    with pytest.raises(SystemExit, match="wrong"):
        in_fresh_process(sys.exit, "wrong")


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


COPY = "copy"
TINY = ["--size", "2^10", "--size", "2^12", "--fit-from", "2^12", "--grouped", "2^6"]
TINY += ["--repeats", "1"]


@pytest.mark.slow
def test_bench_growth_prints_sizes_and_groups_and_writes_json(benchmark, tmp_path, capsys):
    out = tmp_path / "growth.json"
    options = ["--penalty", "Box|GroupLasso (all|columns|runs along 1)", "--out", str(out)]
    benchmark("bench_growth").main([*TINY, *options])
    every, columns, runs = "GroupLasso all", "GroupLasso columns", "GroupLasso runs along 1"
    by_size, by_groups = [COPY, L2, "BoxPenalty", every], [every, columns, runs]
    printed = rows(capsys.readouterr().out)
    assert [row[0] for row in printed] == by_size + by_groups
    assert [row[1:5].count("-") for row in printed[-3:]] == [3, 0, 2]
    measured = [
        (m["varies"], m["penalty"], m["weights"], m["groups"])
        for m in json.loads(out.read_text())["measurements"]
    ]
    assert sorted(measured, key=str) == sorted(
        [
            *(("weights", name, size, None) for name in by_size for size in (2**10, 2**12)),
            *(("groups", columns, 2**6, groups) for groups in (1, 4, 16, 64)),
            *(("groups", runs, 2**6, groups) for groups in (16, 64)),
            ("groups", every, 2**6, 1),
            ("groups", COPY, 2**6, None),
        ],
        key=str,
    )


@pytest.mark.parametrize("size", [2**6, 2**7])
def test_every_form_of_groups_is_as_many_as_it_says(benchmark, size):
    for groups, shape, case in benchmark("bench_growth").grouped_cases(size):
        config = case.forms["tfreg"].get_config() | {"factor": 1.0, "size_weighted": False}
        sum_of_norms = float(tfreg.GroupLasso(**config)(np.ones(shape, np.float32)))
        assert sum_of_norms == pytest.approx(groups * np.sqrt(size / groups)), case.name


@pytest.mark.parametrize("power", [1, 2])
def test_slope_is_the_power_of_the_size_with_which_time_grows(benchmark, power):
    seconds = {2**e: 2e-4 + 1e-12 * 2.0 ** (power * e) for e in range(10, 27, 2)}
    assert benchmark("bench_growth").slope(seconds, 2**16) == pytest.approx(power, abs=0.01)


def test_slope_of_a_time_that_does_not_grow_is_nan(benchmark):
    assert np.isnan(benchmark("bench_growth").slope({2**10: 2.0, 2**16: 3.0, 2**18: 2.0}, 2**16))


@pytest.mark.parametrize(
    "reference, name", [("box_reference", "BoxPenalty"), ("groups_reference", "GroupLasso rows")]
)
def test_bench_growth_stops_at_a_wrong_answer(benchmark, monkeypatch, reference, name):
    penalties = benchmark("penalties")
    right = getattr(penalties, reference)

    def spoiled(*arguments, **parameters):
        return _value_off(*right(*arguments, **parameters))

    monkeypatch.setattr(penalties, reference, spoiled)
    with pytest.raises(SystemExit, match=f"{name} value of") as stopped:
        benchmark("bench_growth").main([*TINY, "--penalty", name])
    assert stopped.value.code not in (None, 0)


@pytest.mark.parametrize("size", ["1024", "2^0", "3^4", "2^x"])
def test_a_bad_size_is_refused(benchmark, size, capsys):
    with pytest.raises(SystemExit):
        benchmark("bench_growth").main(["--size", size])
    assert size in capsys.readouterr().err


def _of_kernels():
    weight = {"weight": "8x16 float32", "seconds": [1.0, 2.0, 3.0]}
    yield {**weight, "penalty": COPY, "form": "NumPy", "computes": "copy", "mode": "none"}
    for mode in ("graph", "XLA"):
        run = {**weight, "computes": "gradient", "mode": mode}
        yield {**run, "penalty": L2, "form": "Keras"}
        yield from ({**run, "penalty": "BoxPenalty", "form": form} for form in ("tfreg", "by hand"))


def _of_growth():
    for varies, groups in (("weights", (None,)), ("groups", (1, 4))):
        run = {"varies": varies, "weights": 64, "seconds": [1.0, 2.0, 3.0]}
        yield {**run, "penalty": COPY, "groups": None}
        yield from ({**run, "penalty": "GroupLasso all", "groups": number} for number in groups)


def _of_fit():
    for mode in ("default", "jit_compile"):
        run = {"keras": "keras", "model": "lstm", "mode": mode, "over_l2": [0.9, 1.0, 1.1]}
        for penalty, through in (("none", "-"), (L2, "layers"), ("BoxPenalty", "add_penalty")):
            yield {**run, "penalty": penalty, "through": through}


MEASUREMENTS = {"kernels": _of_kernels, "growth": _of_growth, "fit": _of_fit}


@pytest.mark.parametrize("names", [[], ["kernels"], ["kernels", "growth", "fit"]])
def test_the_figures_of_the_measurements_that_exist_are_drawn(benchmark, tmp_path, names):
    for name in names:
        contents = {"environment": {}, "measurements": list(MEASUREMENTS[name]())}
        (tmp_path / f"{name}.json").write_text(json.dumps(contents))
    benchmark("figures").main([str(tmp_path)])
    drawn = {path.stem: path.read_bytes() for path in tmp_path.glob("*.png")}
    assert drawn.keys() == set(names)
    assert all(contents.startswith(b"\x89PNG") for contents in drawn.values())


def test_a_bar_is_as_long_as_the_ratio(benchmark):
    measurements = list(_of_fit())
    measurements[2]["over_l2"] = [2.0, 2.5, 3.0]
    [panel] = benchmark("figures").fit(measurements).axes
    assert [bar.get_width() for bar in panel.patches] == [1.0, 1.0, 2.5, 1.0, 1.0, 1.0]
    labels = [label.get_text() for label in panel.get_yticklabels()]
    assert labels == ["none (-)", f"{L2} (layers)", "BoxPenalty (add_penalty)"]


@pytest.mark.parametrize("has_libtpu", [False, True])
def test_every_benchmark_is_run(benchmark, monkeypatch, tmp_path, has_libtpu):
    everything, ran = benchmark("__main__"), {}
    spec = object() if has_libtpu else None
    monkeypatch.setattr(everything.importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(everything, "succeeds", lambda name, options: ran.setdefault(name, options))
    everything.main(["--quick", "--out", str(tmp_path / "new")])
    files = (ROOT / "benchmarks").glob("bench_*.py")
    assert ran == {
        f"benchmarks.{path.stem}": [
            "--quick",
            "--out",
            str(tmp_path / "new" / f"{path.stem.removeprefix('bench_')}.json"),
        ]
        for path in files
        if has_libtpu or path.stem != "bench_tpu"
    }


@pytest.mark.parametrize("fails", [False, True])
def test_the_failure_of_one_benchmark_is_that_of_all(benchmark, monkeypatch, tmp_path, fails):
    everything, stubs = benchmark("__main__"), tmp_path / "benchmarks"
    stubs.mkdir()
    (stubs / "__init__.py").touch()
    (stubs / "bench_a.py").write_text(f"raise SystemExit({int(fails)})")
    (stubs / "bench_b.py").write_text("import sys; open(sys.argv[-1], 'w').close()")
    monkeypatch.setattr(everything, "FOLDER", stubs)
    if fails:
        with pytest.raises(SystemExit, match="benchmarks.bench_a$"):
            everything.main(["--out", str(tmp_path)])
    else:
        everything.main(["--out", str(tmp_path)])
    assert (tmp_path / "b.json").exists() and not (tmp_path / "a.json").exists()
