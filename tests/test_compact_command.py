"""`tfreg compact`: from a model's file into that of a smaller one."""

import importlib
import re
import subprocess
import sys
import tempfile

import keras
import numpy as np
import pytest
import tf_keras

import tfreg
from tfreg import __main__ as command
from tfreg.cli import compact

INPUTS = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
OWN_LAYER = """
import {api}
import tfreg


@{api}.saving.register_keras_serializable("mine")
class Doubled({api}.layers.Layer):
    def call(self, x):
        return 2.0 * x
"""


def network(api):
    """A net with random weights; the constant 0.5 of a dead unit in `second` goes into a bias."""
    api.utils.set_random_seed(0)
    return api.Sequential(
        [
            api.Input((6,)),
            api.layers.Dense(8, activation="relu", name="first"),
            api.layers.Dense(4, activation="sigmoid", name="second"),
            api.layers.Dense(3, use_bias=False, name="last"),
        ]
    )


def with_dead_units(api):
    model = network(api)
    tfreg.couple(model)[0].zero([0, 3, 5])
    return model


def saved(model, directory, name="large.keras"):
    model.save(directory / name)
    return str(directory / name)


def predictions(model):
    return np.asarray(model(INPUTS, training=False))


def records_of_tfreg(caplog):
    return [record for record in caplog.records if record.name.startswith("tfreg")]


def rows(text):
    return [re.split("  +", line) for line in text.splitlines() if line]


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_smaller_model_is_written_and_what_went_is_printed(api, ending, tmp_path, capsys):
    large = with_dead_units(api)
    large.compile(api.optimizers.Adam(0.01), api.losses.MeanSquaredError())
    large.fit(INPUTS, np.ones((5, 3)), epochs=2, verbose=0)
    tfreg.couple(large)[0].zero([0, 3, 5])
    source, target = saved(large, tmp_path), tmp_path / f"small{ending}"
    command.main(["compact", source, str(target)])
    [_, first, bias, second, _, parameters, multiply_adds, size, last] = rows(
        capsys.readouterr().out
    )
    assert first == ["first/kernel", "6 x 8", "6 x 5"]
    assert bias == ["first/bias", "8", "5"]
    assert second == ["second/kernel", "8 x 4", "5 x 4"]
    assert parameters == ["parameters", "104", "71", "68%"]
    assert multiply_adds == ["multiply-adds", "92", "62", "67%"]
    assert size[0] == "bytes of the file"
    assert last == [f"The smaller model is {target}"]

    small = api.models.load_model(target, compile=ending == ".keras")
    assert type(small) is api.Sequential and small.count_params() == 71
    np.testing.assert_allclose(predictions(small), predictions(large), rtol=1e-5, atol=1e-6)
    if ending == ".keras":
        assert int(small.optimizer.iterations) == int(large.optimizer.iterations) == 2
    assert {file.name for file in tmp_path.iterdir()} == {"large.keras", target.name}


def test_penalties_are_in_the_smaller_models_file(api, tmp_path):
    large = with_dead_units(api)
    tfreg.add_penalty(large, tfreg.GroupLasso(0.01), weights=tfreg.couple(large))
    source, target = saved(large, tmp_path), tmp_path / "small.keras"
    command.main(["compact", source, str(target)])
    small = api.models.load_model(target)
    assert small.count_params() == 71
    assert len(tfreg.get_penalties(small)) == len(tfreg.get_penalties(large)) == 2


def test_a_constant_is_folded_unless_that_is_declined(api, tmp_path, capsys):
    large = network(api)
    second = large.get_layer("second")
    kernel, bias = (np.array(weight) for weight in second.get_weights())
    kernel[:, 1] = bias[1] = 0.0
    second.set_weights([kernel, bias])
    source, folded = saved(large, tmp_path), tmp_path / "folded.keras"
    command.main(["compact", source, str(folded)])
    printed = rows(capsys.readouterr().out)
    assert ["last/kernel", "4 x 3", "3 x 3"] in printed
    assert ["last/bias", "none", "3"] in printed
    small = api.models.load_model(folded)
    np.testing.assert_allclose(predictions(small), predictions(large), rtol=1e-5, atol=1e-6)

    command.main(["compact", source, str(tmp_path / "same.keras"), "--no-fold"])
    assert "Nothing can be cut" in capsys.readouterr().out


def test_nothing_to_cut_is_said_with_the_reasons(api, tmp_path, capsys, caplog):
    large = network(api)
    source, target = saved(large, tmp_path), tmp_path / "same.keras"
    command.main(["compact", source, str(target)])
    out = capsys.readouterr().out
    first, *table, last = rows(out)
    assert first == [f"Nothing can be cut from {source}: none of its entries is dead."]
    assert str(tfreg.couple(large)) in out
    assert ["3", "1", "last/kernel", "it is an output of the model"] in [
        [cell.strip() for cell in row if cell.strip()] for row in table
    ]
    assert last == [f"A copy of the model is {target}"]
    assert not records_of_tfreg(caplog)
    same = api.models.load_model(target)
    np.testing.assert_array_equal(predictions(same), predictions(large))


def test_the_log_is_heard_again_afterwards(tmp_path, caplog):
    source = saved(network(keras), tmp_path)
    command.main(["compact", source, str(tmp_path / "same.keras")])
    tfreg.compact(network(keras))
    assert len(records_of_tfreg(caplog)) == 1


@pytest.mark.parametrize(
    "arguments, name",
    [
        (["{in}", "{directory}/small.pt"], "OUT"),
        (["{in}", "{directory}/small"], "OUT"),
        (["{in}", "{none}/small.keras"], "OUT"),
        (["{in}", "{in}"], "OUT"),
        (["{in}", "{directory}/folder.keras", "--force"], "OUT"),
        (["{in}", "{out}", "--import", "no_such_module"], "--import"),
        (["{in}", "{out}", "--import", "failing_module"], "--import"),
    ],
    ids=" ".join,
)
def test_bad_argument(arguments, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "failing_module.py").write_text("raise RuntimeError('what is wrong')")
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "large.keras").write_text("kept")
    places = {
        "in": tmp_path / "large.keras",
        "out": tmp_path / "small.keras",
        "none": tmp_path / "none",
        "directory": tmp_path,
    }
    with pytest.raises(SystemExit) as exit:
        command.main(["compact", *(argument.format(**places) for argument in arguments)])
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert f"error: argument {name}: " in error and "Traceback" not in error
    if "failing_module" in arguments:
        assert "RuntimeError: what is wrong" in error
    assert places["in"].read_text() == "kept" and not places["out"].exists()


def test_force_replaces_a_file_even_the_given_one(api, tmp_path):
    large = with_dead_units(api)
    source, target = saved(large, tmp_path), tmp_path / "small.keras"
    target.write_text("replaced")
    command.main(["compact", source, str(target), "--force"])
    command.main(["compact", source, source, "--force"])
    for file in (source, target):
        assert api.models.load_model(file).count_params() == 71


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_holds_no_model_is_an_error(content, tmp_path):
    source, target = tmp_path / "large.keras", tmp_path / "small.keras"
    source.write_bytes(content)
    with pytest.raises(SystemExit, match="large.keras cannot be loaded: ") as exit:
        command.main(["compact", str(source), str(target)])
    assert isinstance(exit.value.code, str)  # which Python prints, to exit with 1
    assert not target.exists()


def test_a_save_that_fails_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    class Unsavable(keras.Sequential):
        def save(self, file):
            file.write_text("half of it")
            raise OSError("the disk is full")

    unsavable = Unsavable([keras.Input((6,)), keras.layers.Dense(1)])
    monkeypatch.setattr(compact, "compact", lambda model, fold: unsavable)
    source, target = saved(network(keras), tmp_path), tmp_path / "small.keras"
    target.write_text("kept")
    with pytest.raises(SystemExit, match="cannot be saved: the disk is full"):
        command.main(["compact", source, str(target), "--force"])
    assert target.read_text() == "kept"
    assert {file.name for file in tmp_path.iterdir()} == {"large.keras", "small.keras"}


def test_a_directory_that_may_not_be_written(tmp_path, monkeypatch):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)  # a process of root may write all
    with pytest.raises(SystemExit, match="cannot be saved: .*Permission denied") as exit:
        command.main(["compact", saved(network(keras), tmp_path), str(tmp_path / "small.keras")])
    assert len(exit.value.code.splitlines()) == 1


def test_what_compact_refuses_is_an_error_without_a_traceback(tmp_path, monkeypatch):
    def refuse(model, fold):
        raise ValueError("The subclassed model 'mine' cannot be followed")

    refuse.__module__ = "tfreg"
    monkeypatch.setattr(compact, "compact", refuse)
    with pytest.raises(SystemExit, match="^tfreg compact: The subclassed model") as exit:
        command.main(["compact", saved(network(keras), tmp_path), str(tmp_path / "small.keras")])
    assert "\n" not in exit.value.code


@pytest.mark.parametrize("api", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_modules_that_register_layers_are_imported(api, tmp_path, monkeypatch, capsys):
    name = f"layers_of_mine_in_{api.__name__}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / f"{name}.py").write_text(OWN_LAYER.format(api=api.__name__))
    sys.path.insert(0, str(tmp_path))
    module = importlib.import_module(name)
    model = api.Sequential([api.Input((6,)), *with_dead_units(api).layers, module.Doubled()])
    source, target = saved(model, tmp_path), tmp_path / "small.keras"
    # As in a process that knows nothing of it.
    api.saving.get_custom_objects().pop("mine>Doubled")
    sys.modules.pop(name)
    sys.path.pop(0)

    with pytest.raises(SystemExit, match="cannot be loaded: it has '.*Doubled'.*--import MODULE"):
        command.main(["compact", source, str(target)])
    command.main(["compact", source, str(target), "--import", name])
    assert ["first/kernel", "6 x 8", "6 x 5"] in rows(capsys.readouterr().out)
    api.saving.get_custom_objects().pop("mine>Doubled")
    sys.modules.pop(name)


@pytest.mark.slow
def test_in_a_process_of_its_own(api, tmp_path):
    source, target = saved(with_dead_units(api), tmp_path), tmp_path / "small.keras"
    arguments = [sys.executable, "-m", "tfreg", "compact", source, str(target)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert ["first/kernel", "6 x 8", "6 x 5"] in rows(done.stdout)
    assert api.models.load_model(target).count_params() == 71

    again = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert again.returncode == 2 and again.stdout == ""
    assert "is there already" in again.stderr and "Traceback" not in again.stderr
