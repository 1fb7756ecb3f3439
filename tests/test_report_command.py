"""`tfreg report`: the report of a model's file, and each way in which that can fail."""

import json
import pathlib
import subprocess
import sys
import types

import h5py
import keras
import numpy as np
import pytest
import tf_keras

import tfreg
from tfreg import __main__ as command

OWN = """
import {api}


@{api}.saving.register_keras_serializable("mine")
class Doubled({api}.layers.Layer):
    def call(self, x):
        return 2.0 * x


@{api}.saving.register_keras_serializable("mine")
def halved(x):
    return 0.5 * x
"""


def network(api, penalty=None):
    """A net with random weights, of whose hidden units 1 and 3 are dead."""
    api.utils.set_random_seed(0)
    model = api.Sequential(
        [
            api.Input((6,)),
            api.layers.Dense(8, activation="relu", name="first", kernel_regularizer=penalty),
            api.layers.Dense(3, name="last"),
        ]
    )
    tfreg.couple(model)[0].zero([1, 3])
    return model


def saved(model, directory, name="model.keras"):
    model.save(directory / name)
    return str(directory / name)


def output_of(capsys, *arguments):
    """What a call that succeeds prints; it must leave standard error empty."""
    command.main(["report", *map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def failure_of(capsys, *arguments, name="report", out=""):
    """The one line of a call that fails with status 1, after it printed `out` and no more."""
    with pytest.raises(SystemExit) as exit:
        command.main([name, *map(str, arguments)])
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == (out, "")
    line = exit.value.code
    assert isinstance(line, str)  # which Python prints on standard error, to exit with 1
    assert line.startswith(f"tfreg {name}: ") and len(line.splitlines()) == 1
    return line


def usage_error_of(capsys, *arguments):
    with pytest.raises(SystemExit) as exit:
        command.main(["report", *map(str, arguments)])
    captured = capsys.readouterr()
    assert exit.value.code == 2 and captured.out == ""
    last = captured.err.splitlines()[-1]
    assert last.startswith(("tfreg report: error: ", "tfreg: error: "))
    return last


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_it_prints_the_report(api, ending, tmp_path, capsys):
    model = network(api, tfreg.GroupLasso(0.01))
    file = saved(model, tmp_path, f"model{ending}")
    loaded = tfreg.report(api.models.load_model(file))
    assert output_of(capsys, file) == f"{loaded}\n"
    [penalty] = loaded.penalties
    assert (penalty.groups, penalty.zero_groups) == (8, 2)
    assert (loaded.parameters, loaded.parameters_after) == (8 * 7 + 3 * 9, 6 * 7 + 3 * 7)


def test_json_is_all_of_standard_output(api, tmp_path, capsys):
    file = saved(network(api, tfreg.GroupLasso(0.01)), tmp_path)
    printed = json.loads(output_of(capsys, file, "--json", "--tolerance", "0.5"))
    expected = tfreg.report(api.models.load_model(file), tolerance=0.5).to_dict()
    assert printed == json.loads(json.dumps(expected)) == expected
    assert printed["tolerance"] == 0.5


def test_a_model_without_penalties_is_reported(api, tmp_path, capsys):
    printed = json.loads(output_of(capsys, saved(network(api), tmp_path), "--json"))
    assert printed["penalties"] == [] and printed["parameters_after"] < printed["parameters"]


def test_a_penalty_is_put_over_the_kernels_of_a_model_from_elsewhere(api, tmp_path, capsys):
    file = saved(network(api), tmp_path)
    arguments = ["--penalty", "sparse_group_lasso", "--axis", "input", "--factor", "0.5"]
    printed = json.loads(output_of(capsys, file, *arguments, "--json"))
    first, last = printed["penalties"]
    assert first["paths"] == ["first/kernel"] and last["paths"] == ["last/kernel"]
    assert first["penalty"] == repr(tfreg.SparseGroupLasso(0.5, axis="input"))
    assert (first["groups"], last["groups"], last["zero_groups"]) == (6, 8, 2)


@pytest.mark.parametrize(
    "arguments, penalty",
    [
        (["GroupLasso"], tfreg.GroupLasso()),
        (["group_mcp", "--axis", "0", "--factor", "2"], tfreg.GroupMCP(2.0, axis=0)),
        (["GroupLasso", "--axis=0,1"], tfreg.GroupLasso(axis=(0, 1))),
        (["GroupLasso", "--axis=-1,-2"], tfreg.GroupLasso(axis=(-1, -2))),
        (["total_variation", "--axis", "-1"], tfreg.TotalVariation(axis=-1)),
        (["mcp"], tfreg.MCP()),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_how_a_penalty_is_given(arguments, penalty, tmp_path, capsys):
    file = saved(network(keras), tmp_path)
    printed = json.loads(output_of(capsys, file, "--json", "--penalty", *arguments))
    assert [each["penalty"] for each in printed["penalties"]] == [repr(penalty)] * 2


@pytest.mark.parametrize(
    "arguments, said",
    [
        (
            ["--penalty", "group_laso"],
            "the command knows no 'group_laso'; those that go are BoxPenalty, G",
        ),
        (["--penalty", "prior"], "Prior needs 'distribution', which the command cannot give; th"),
        (["--penalty", "Sum"], "Sum needs 'penalties'"),
        (["--penalty", "Joint"], "the command knows no 'Joint'"),
        (["--penalty", "mcp", "--axis", "0"], "MCP has no axis"),
        (["--penalty", "group_lasso", "--axis", "outputs"], "Argument `axis` must"),
        (["--penalty", "total_variation", "--axis", "output"], "Argument `axis` must"),
        (["--penalty", "group_lasso", "--factor", "-1"], "Argument `factor` must"),
        (["--axis", "0"], "argument --axis: goes with --penalty alone"),
        (["--factor", "0"], "argument --factor: goes with --penalty alone"),
        (["--tolerance", "-1"], "argument --tolerance: must be in [0, 1)"),
        (["--tolerance", "nan"], "argument --tolerance: must be in [0, 1)"),
        (["--tolerance", "1"], "argument --tolerance: must be in [0, 1)"),
        (["--tolerance", "x"], "argument --tolerance: invalid float value"),
        (["--theme", "blue"], "argument --theme: invalid choice"),
        (["--import", "no_such_module"], "argument --import: ModuleNotFoundError"),
        (["--no-fold"], "unrecognized arguments"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert said in usage_error_of(capsys, tmp_path / "none.keras", *arguments)


def test_penalties_that_go_are_listed(tmp_path, capsys):
    listed = usage_error_of(capsys, tmp_path, "--penalty", "x").split("those that go are ")[1]
    assert listed.split(", ") == [
        "BoxPenalty",
        "GroupLasso",
        "GroupMCP",
        "MCP",
        "Quadratic",
        "SCAD",
        "SparseGroupLasso",
        "TotalVariation",
    ]


def test_a_penalty_that_the_weights_refuse_is_a_failure(tmp_path, capsys):
    arguments = ["--penalty", "group_lasso", "--axis", "3"]
    line = failure_of(capsys, saved(network(keras), tmp_path), *arguments)
    assert "Received" in line and "axis" in line


def test_before_and_after(api, tmp_path, capsys):
    before = network(api, tfreg.GroupLasso(0.01))
    after = tfreg.compact(before)
    files = [saved(before, tmp_path), saved(after, tmp_path, "small.keras")]
    large, small = (tfreg.report(api.models.load_model(file)) for file in files)
    printed = output_of(capsys, files[0], "--compare", files[1])
    assert printed == f"{large.compare(small)}\n"
    as_json = json.loads(output_of(capsys, files[0], "--compare", files[1], "--json"))
    assert as_json == large.compare(small).to_dict()
    totals = as_json["totals"]
    assert totals["parameters_after"]["before"] == totals["parameters"]["after"] == 6 * 7 + 3 * 7


def is_picture(path):
    return pathlib.Path(path).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_plot_is_written(theme, tmp_path, capsys):
    file, plot = saved(network(keras, tfreg.GroupLasso(0.01)), tmp_path), tmp_path / "plot.png"
    printed = output_of(capsys, file, "--plot", plot, "--theme", theme)
    assert printed.endswith(f"\nThe plot is {plot}\n") and is_picture(plot)


def test_a_plot_beside_json_and_a_comparison(tmp_path, capsys):
    file, plot = saved(network(keras, tfreg.GroupLasso(0.01)), tmp_path), tmp_path / "plot.png"
    printed = output_of(capsys, file, "--compare", file, "--plot", plot, "--json")
    assert "totals" in json.loads(printed) and is_picture(plot)


@pytest.mark.parametrize("name", ["none/plot.png", "plot.nosuchkind", ""])
def test_a_plot_that_cannot_be_written(name, tmp_path, capsys):
    file = saved(network(keras, tfreg.GroupLasso(0.01)), tmp_path)
    out = output_of(capsys, file)
    line = failure_of(capsys, file, "--plot", tmp_path / name, out=out)
    assert f"{tmp_path / name} cannot be written: " in line


def test_a_plot_without_matplotlib(tmp_path, monkeypatch, capsys):
    file = saved(network(keras, tfreg.GroupLasso(0.01)), tmp_path)
    out = output_of(capsys, file)
    for module in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    line = failure_of(capsys, file, "--plot", tmp_path / "plot.png", out=out)
    assert "matplotlib" in line and "pip install" in line


def half_of(file):
    return file.read_bytes()[: file.stat().st_size // 2]


def broken_files(directory):
    """Paths that hold no model, by what is wrong with them, with a part of what is said of them."""
    model = network(keras)
    large = pathlib.Path(saved(model, directory, "large.keras"))
    old = pathlib.Path(saved(model, directory, "large.h5"))
    model.save_weights(directory / "of.weights.h5")
    (directory / "folder.keras").mkdir()
    contents = {
        "empty.keras": b"",
        "text.keras": b"text",
        "random.h5": np.random.default_rng(0).bytes(5000),
        "no_end.keras": half_of(large),
        "no_end.h5": half_of(old),
        "no_entries.keras": b"PK\x05\x06" + bytes(18),
        "renamed.h5": large.read_bytes(),
        "renamed.keras": old.read_bytes(),
    }
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    with h5py.File(directory / "other.h5", "w") as file:
        file["numbers"] = np.arange(3)
    not_a_whole_one = "it is no .keras or .h5 file, or not the whole of one"
    no_model = "it must be a .keras or .h5 file that holds a whole model"
    return {
        "none.keras": "cannot be read: No such file",
        "large.keras/below.keras": "cannot be read: Not a directory",
        f"{'long' * 100}.keras": "cannot be read: File name too long",
        "folder.keras": "is not a file",
        "empty.keras": not_a_whole_one,
        "text.keras": not_a_whole_one,
        "random.h5": not_a_whole_one,
        "no_end.keras": not_a_whole_one,
        "no_end.h5": "truncated file",
        "no_entries.keras": no_model,
        "of.weights.h5": no_model,
        "other.h5": no_model,
        "renamed.h5": "its content is that of a file whose name ends in .keras",
        "renamed.keras": "its content is that of a file whose name ends in .h5",
    }


@pytest.mark.parametrize("name", ["report", "compact"])
def test_files_that_hold_no_model(name, tmp_path, capsys):
    for file, said in broken_files(tmp_path).items():
        target = [tmp_path / "small.keras"] if name == "compact" else []
        line = failure_of(capsys, tmp_path / file, *target, name=name)
        assert str(tmp_path / file) in line and said in line
    assert not (tmp_path / "small.keras").exists()


def test_a_model_to_compare_with_that_is_not_there(tmp_path, capsys):
    none = tmp_path / "none.keras"
    line = failure_of(capsys, saved(network(keras), tmp_path), "--compare", none)
    assert line == f"tfreg report: {none} cannot be read: No such file or directory"


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch, capsys):
    def refuse(self, *arguments):
        raise PermissionError(13, "Permission denied", str(self))

    file = saved(network(keras), tmp_path)
    monkeypatch.setattr(pathlib.Path, "open", refuse)  # a process of root may read all
    assert failure_of(capsys, file).endswith("model.keras cannot be read: Permission denied")


def with_own_parts(api, kind):
    """A model with a layer or a function that nothing else has; none of them is registered then."""
    own = types.ModuleType("own")
    exec(OWN.format(api=api.__name__), vars(own))
    model = api.Sequential([api.Input((6,)), api.layers.Dense(4)])
    model.add(own.Doubled() if kind == "Doubled" else api.layers.Dense(2, activation=own.halved))
    return model


@pytest.fixture
def forget():
    """Takes the parts of a model's own out of both registers; again after the test."""

    def forgotten():
        for api in (keras, tf_keras):
            for name in ("mine>Doubled", "mine>halved"):
                api.saving.get_custom_objects().pop(name, None)

    yield forgotten
    forgotten()


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("kind", ["Doubled", "halved"])
def test_what_is_not_registered_is_named(api, kind, ending, forget, tmp_path, monkeypatch, capsys):
    file = saved(with_own_parts(api, kind), tmp_path, f"model{ending}")
    forget()
    line = failure_of(capsys, file)
    assert line.endswith("which nothing here registers; name the module that does: --import MODULE")
    is_nameless = api is tf_keras and (kind, ending) == ("halved", ".h5")
    assert f"{'function' if is_nameless else kind}'" in line
    if is_nameless:  # tf_keras cannot load such a file
        return
    module = f"parts_of_{api.__name__}_{kind}_{ending[1:]}"
    (tmp_path / f"{module}.py").write_text(OWN.format(api=api.__name__))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    printed = json.loads(output_of(capsys, file, "--json", "--import", module))
    assert printed["parameters"] > 0


def test_a_lambda_is_refused_with_what_to_do(api, tmp_path, capsys):
    model = api.Sequential([api.Input((6,)), api.layers.Lambda(lambda x: 2.0 * x)])
    line = failure_of(capsys, saved(model, tmp_path))
    assert "Python lambda" in line and "registered function" in line


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_diverged(api, value, tmp_path, capsys):
    model = network(api, tfreg.GroupLasso(0.01))
    kernel, bias = model.get_layer("first").get_weights()
    kernel[0, 0] = value
    model.get_layer("first").set_weights([kernel, bias])
    file = saved(model, tmp_path)
    assert str(value) in output_of(capsys, file)
    plot = tmp_path / "plot.png"
    printed = json.loads(output_of(capsys, file, "--json", "--plot", plot))
    assert printed["penalties"][0]["groups"] == 8 and is_picture(plot)


def test_a_model_that_is_not_built(api, tmp_path, capsys):
    model = api.Sequential([api.layers.Dense(3)])
    file = saved(model, tmp_path)
    printed = json.loads(output_of(capsys, file, "--json"))
    assert printed["parameters_after"] is printed["multiply_adds"] is None
    assert "not built" in printed["not_followed"]
    assert output_of(capsys, file)


@pytest.mark.parametrize("name", ["report", "compact"])
def test_help_shows_examples(name, capsys):
    with pytest.raises(SystemExit) as exit:
        command.main([name, "--help"])
    out = capsys.readouterr().out
    assert exit.value.code == 0 and "examples:\n  tfreg " in out
    assert "Exit status: 0; 1 for" in out and max(map(len, out.splitlines())) <= 100


@pytest.mark.slow
def test_in_a_process_of_its_own(api, tmp_path):
    file = saved(network(api, tfreg.GroupLasso(0.01)), tmp_path)
    arguments = [sys.executable, "-m", "tfreg", "report", file, "--json"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert json.loads(done.stdout) == tfreg.report(api.models.load_model(file)).to_dict()
    arguments[4] = str(tmp_path / "none.keras")
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (1, "")
    *of_tensorflow, line = done.stderr.splitlines()  # which logs while it is imported
    assert line == f"tfreg report: {arguments[4]} cannot be read: No such file or directory"
    assert not [line for line in of_tensorflow if "tfreg" in line or "Traceback" in line]


@pytest.mark.slow
def test_a_reader_that_has_enough(tmp_path):
    file = saved(network(keras, tfreg.GroupLasso(0.01)), tmp_path)
    arguments = [sys.executable, "-m", "tfreg", "report", file]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"Error" not in process.stderr.read() and process.wait(120) == 1
