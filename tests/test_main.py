"""The `tfreg` command."""

import dataclasses
import importlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import tfreg
from tfreg import __main__ as command
from tfreg.cli import demo, reload, smaller, training


def no_progress(epoch, loss):
    pass


def rows_of_the_smaller_net(lines):
    """The cells of the table's rows, by the names of the models."""
    split = [re.split("  +", line) for line in lines]
    return {row[0]: row for row in split if row[0] in smaller.NAMES}


def count(cell):
    return int(cell.replace(",", ""))


@pytest.mark.timeout(280)
@pytest.mark.parametrize("keras_name", ["keras", "tf_keras"])
@pytest.mark.slow
def test_demo(keras_name, tmp_path):
    out = tmp_path / "new" / "directory"
    arguments = ["demo", "--epochs", "1", "--keras", keras_name, "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "tfreg", *arguments], capture_output=True, timeout=240
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"\r" not in done.stdout and b"\x1b" not in done.stdout
    lines = done.stdout.decode().splitlines()

    ends = {}
    for number, net in enumerate(demo.nets(), start=1):
        assert sum(line.startswith(f"[{number:>2}/11] {net.name} ") for line in lines) == 1
        [row] = [line for line in lines if line.startswith(f"{net.name} ")]
        _, accuracy, start, end, measure, with_penalty, without = re.split("  +", row)
        assert 20 < float(accuracy.removesuffix("%")) <= 100
        if net.penalty is None:
            assert [start, end, measure, with_penalty, without] == ["-"] * 5
            continue
        assert measure == net.measure
        # One epoch takes no weight out of the box.
        assert (float(start) > 0) == (float(end) != 0) == (net.measure != demo.OUTSIDE)
        if net.measure == demo.WITHIN:
            assert float(end) < float(start)
            assert float(with_penalty.rstrip("%")) > 2 * float(without.rstrip("%"))
        if net.measure == demo.VARIATION:
            assert float(end) < float(start)
            assert 0 < float(with_penalty) < float(without)
        ends[net.name] = end

    assert max(map(len, lines[:-1])) <= 100  # the last has a path
    titles = [line for line in lines if line.endswith(":")]
    assert len(titles) == 5 and all(lines[lines.index(title) - 1] == "" for title in titles)

    rows = rows_of_the_smaller_net(lines)
    for name in smaller.NAMES:
        _, accuracy, parameters, multiply_adds, size, seconds, difference = rows[name]
        assert 20 < float(accuracy.removesuffix("%")) <= 100
        assert count(size) == (out / f"{name}.keras").stat().st_size
        assert float(seconds) > 0
        assert (difference == "-") == (name != smaller.CUT)
    for column in (2, 3):  # zeros alone cut nothing
        assert rows[smaller.WITH_ZEROS][column] == rows[smaller.DENSE][column]
    assert count(rows[smaller.CUT][3]) <= smaller.SHARE * count(rows[smaller.DENSE][3])
    assert count(rows[smaller.CUT][4]) < count(rows[smaller.DENSE][4]) / 2
    assert rows[smaller.CUT][1] == rows[smaller.WITH_ZEROS][1]
    assert float(rows[smaller.CUT][6]) <= smaller.TOLERANCE

    names = [*(net.name for net in demo.nets()), *smaller.NAMES]
    for name in names:
        [reload] = [line for line in lines if line.startswith(f"{name}.keras ")]
        _, loss, loss_reloaded, difference, verdict = re.split("  +", reload)
        assert float(loss) == pytest.approx(float(loss_reloaded), rel=1e-4)
        assert float(difference) < 1e-5
        assert verdict == "equal"

    models = {f"{name}.keras" for name in names}
    pictures = {f"{name}.png" for name in ("norms", "history", "filters", "total_variation")}
    assert {file.name for file in out.iterdir()} == models | pictures
    load_model = importlib.import_module(keras_name).models.load_model
    model = load_model(out / "conv-GroupLasso.keras")
    assert f"{float(sum(model.losses)):.3g}" == ends["conv-GroupLasso"]
    small = load_model(out / f"{smaller.CUT}.keras")
    assert f"{small.count_params():,}" == rows[smaller.CUT][2]

    for picture in pictures:
        content = (out / picture).read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = np.frombuffer(content[16:24], ">u4")
        assert min(width, height) > 400 and len(content) > 20_000
        assert picture in lines[-1]
    assert str(out) in lines[-1]


@pytest.mark.slow
def test_same_seed_same_numbers(api):
    rng = np.random.default_rng(0)
    data = [rng.random((100, 8, 8), "float32"), rng.random((50, 8, 8), "float32")]
    data += [rng.integers(10, size=100), rng.integers(10, size=50)]
    [net] = [net for net in demo.nets() if net.name == "dense-GroupLasso"]
    first, second, other = [
        demo._train(net, api, data, epochs=2, seed=seed, show=no_progress)[1] for seed in (5, 5, 6)
    ]
    assert first.outcome.loss == second.outcome.loss != other.outcome.loss
    np.testing.assert_array_equal(first.weights, second.weights)
    assert first.penalty_start == second.penalty_start != other.penalty_start
    assert first.penalty_end == second.penalty_end != other.penalty_end


@pytest.mark.parametrize(
    "name, penalty, weights, expected",
    [
        (
            demo.VARIATION,
            tfreg.TotalVariation(0.1, axis=0),
            [[[0.0, 1.0], [2.0, 1.0], [2.0, 4.0]], [[1.0], [0.0]]],
            "6.0",
        ),
        (
            demo.OUTSIDE,
            tfreg.BoxPenalty(0.1, -0.5, 0.5),
            [[[0.505, 0.6]], [[-0.7], [0.0]]],
            "50.0%",
        ),
        (
            demo.NORMS,
            tfreg.GroupLasso(0.1, axis=0, group_size=3),
            [[[3.0], [4.0], [0.0], [2.0]], [[3.0]]],
            "2.0e+00 to 5.00",
        ),
        (
            demo.WITHIN,
            demo.spike_and_slab(),
            [[[0.001, -0.02, 0.5]], [[-0.009]]],
            "50.0%",
        ),
    ],
)
def test_measures(name, penalty, weights, expected):
    weights = [np.array(weight, "float32") for weight in weights]
    assert demo.MEASURES[name](penalty, weights) == expected


def test_every_penalized_net_has_its_plain_one():
    plain = [net.build for net in demo.nets() if net.penalty is None]
    assert all(plain.count(net.build) == 1 for net in demo.nets())
    [uneven] = [net.penalty for net in demo.nets() if net.name == "dense-GroupLasso"]
    assert 64 % uneven.group_size


@pytest.fixture
def digits():
    """The digits as the demo splits them."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8).astype("float32") / 16.0
    return train_test_split(
        images, labels, train_size=demo.TRAINING_EXAMPLES, stratify=labels, random_state=0
    )


@pytest.mark.slow
def test_the_smaller_net_is_nearly_as_good(api, digits):
    shows = dict.fromkeys(smaller.NAMES, no_progress)
    models, history = smaller.train(api, digits, epochs=8, seed=0, shows=shows)
    _, inputs, _, labels = digits
    dense, with_zeros, cut = [
        np.mean(reload.outcome_of(model, inputs, labels).predictions.argmax(axis=-1) == labels)
        for model in models.values()
    ]
    assert dense > 0.97 and with_zeros > dense - 0.03
    assert cut == with_zeros
    assert models[smaller.CUT].count_params() < models[smaller.DENSE].count_params() / 2


def one_unit(api, bias):
    model = api.Sequential([api.Input((2,)), api.layers.Dense(1)])
    model.layers[0].set_weights([np.ones((2, 1)), np.full(1, bias)])
    return model


def reported(api, biases, directory, monkeypatch):
    monkeypatch.setattr(smaller, "TIMED_ROUNDS", 1)
    models = {name: one_unit(api, bias) for name, bias in zip(smaller.NAMES, biases)}
    files = {name: directory / name for name in models}
    for file in files.values():
        file.write_bytes(bytes(1234))
    images = np.ones((4, 2), "float32")
    smaller.compare(models, files, images, (images, np.array([0, 0, 0, 1])))


def test_report_of_the_smaller_net(api, tmp_path, monkeypatch, capsys):
    reported(api, [0.5, 0.25, 0.25], tmp_path, monkeypatch)
    rows = rows_of_the_smaller_net(capsys.readouterr().out.splitlines())
    assert [*rows] == smaller.NAMES
    assert all(row[1:5] == ["75.0%", "3", "2", "1,234"] for row in rows.values())
    assert rows[smaller.DENSE][5] == "1.00"
    assert [row[6] for row in rows.values()] == ["-", "-", "0.0e+00"]


@pytest.mark.parametrize("bias", [0.2502, float("nan")])
def test_smaller_net_with_other_outputs_is_an_error(bias, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match=f"{smaller.CUT} must compute what") as exit:
        reported(keras, [0.5, 0.25, bias], tmp_path, monkeypatch)
    assert isinstance(exit.value.code, str)
    assert smaller.CUT in capsys.readouterr().out


OUTCOME = reload.Outcome(0.25, np.array([[0.25, 0.75], [0.5, 0.5]]))


def test_equal_outcomes_are_reported(capsys):
    reload.report_reload(["a.keras", "b.keras"], [OUTCOME] * 2, [OUTCOME] * 2)
    _, title, _, *rows = capsys.readouterr().out.splitlines()
    assert "fresh process" in title
    assert [row.split() for row in rows] == [
        [name, "0.250000", "0.250000", "0.0e+00", "equal"] for name in ("a.keras", "b.keras")
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": 0.2501},
        {"loss": float("nan")},
        {"predictions": np.array([[0.25, 0.75], [0.5, 0.5001]])},
        {"predictions": np.array([[0.25, 0.75], [0.5, float("nan")]])},
    ],
    ids=["loss", "loss is NaN", "prediction", "prediction is NaN"],
)
def test_different_outcome_is_an_error(changes, capsys):
    different = dataclasses.replace(OUTCOME, **changes)
    with pytest.raises(SystemExit, match="as when saved: b.keras$") as exit:
        reload.report_reload(["a.keras", "b.keras"], [OUTCOME] * 2, [OUTCOME, different])
    assert isinstance(exit.value.code, str)  # which Python prints, to exit with 1
    _, _, _, a, b = capsys.readouterr().out.splitlines()
    assert a.endswith(" equal") and b.endswith(" DIFFERENT")


@pytest.mark.slow
def test_model_that_lost_its_penalty_is_an_error(tmp_path):
    inputs, labels = np.ones((4, 8, 8), "float32"), np.arange(4)
    models = []
    for penalty in (tfreg.TotalVariation(0.001, axis=0), None):
        keras.utils.set_random_seed(0)
        model, _ = demo._dense(keras, penalty)
        model.compile("adam", "sparse_categorical_crossentropy")
        models.append(model)
    penalized, plain = models
    file = tmp_path / "lost.keras"
    plain.save(file)
    saved = reload.outcome_of(penalized, inputs, labels)
    [reloaded] = reload.outcomes_in_fresh_process("keras", inputs, labels, [file])
    np.testing.assert_allclose(reloaded.predictions, saved.predictions, rtol=1e-5)
    with pytest.raises(SystemExit, match="lost.keras"):
        reload.report_reload([file.name], [saved], [reloaded])


def test_fresh_process_that_fails_is_an_error(monkeypatch):
    monkeypatch.setattr(reload, "RELOAD", "raise OSError('what is wrong')")
    with pytest.raises(SystemExit, match="could not load") as exit:
        reload.outcomes_in_fresh_process("keras", np.ones((4, 8, 8)), np.arange(4), ["a.keras"])
    assert "OSError: what is wrong" in exit.value.code


def test_progress_in_a_file(capsys):
    show = training.progress_line("net", epochs=2)
    show(1, 0.5)
    show(2, 0.25)
    assert capsys.readouterr().out == "net  epoch 2/2  loss 0.2500\n"


def test_progress_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    show = training.progress_line("net", epochs=2)
    show(1, 10.5)
    show(2, 0.25)
    out = capsys.readouterr().out
    assert re.fullmatch(r"\rnet  epoch 1/2  loss 10.5000 +\rnet  epoch 2/2  loss 0.2500 +\n", out)


def test_mosaic():
    kernel = np.arange(64.0 * 32).reshape(64, 32)
    mosaic = demo._mosaic(kernel)
    assert mosaic.shape == (4 * 9 - 1, 8 * 9 - 1)
    for unit in range(32):
        row, column = 9 * (unit // 8), 9 * (unit % 8)
        tile = mosaic[row : row + 8, column : column + 8]
        np.testing.assert_array_equal(tile, kernel[:, unit].reshape(8, 8))
    assert np.isnan(mosaic).sum() == mosaic.size - kernel.size


@pytest.fixture
def demo_calls(monkeypatch):
    """The arguments that `demo.run` is called with, in place of the call."""
    calls = []
    monkeypatch.setattr(demo, "run", lambda *arguments: calls.append(arguments))
    return calls


def test_default_arguments(demo_calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command.main(["demo"])
    [(epochs, out, keras_name, seed)] = demo_calls
    assert (epochs, str(out), keras_name, seed) == (30, "tfreg-demo", "keras", 0)
    assert (tmp_path / "tfreg-demo").is_dir()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "0"],
        ["--epochs", "-1"],
        ["--epochs", "1.5"],
        ["--keras", "torch"],
        ["--seed", "-1"],
        ["--seed", str(2**32)],
        ["--seed", "x"],
        ["--out", __file__],
        ["--out", f"{__file__}/below"],
    ],
    ids=" ".join,
)
def test_bad_argument(arguments, demo_calls, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        command.main(["demo", *arguments])
    assert exit.value.code == 2
    assert f"error: argument {arguments[0]}: " in capsys.readouterr().err
    assert not demo_calls and not list(tmp_path.iterdir())


def test_unknown_command(capsys):
    with pytest.raises(SystemExit) as exit:
        command.main(["train"])
    assert exit.value.code == 2
    assert "invalid choice: 'train'" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["sklearn.datasets", "matplotlib.figure"])
def test_missing_extra(module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit) as exit:
        command.main(["demo", "--out", str(tmp_path)])
    assert module in exit.value.code and "pip install 'tfreg[demo]'" in exit.value.code
    assert "\n" not in exit.value.code
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_missing_extra_exits_with_1(tmp_path):
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "from tfreg.__main__ import main; main(['demo', '--out', sys.argv[1]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines()[-1].endswith("pip install 'tfreg[demo]'")
    assert "Traceback" not in done.stderr


def test_version(capsys):
    with pytest.raises(SystemExit) as exit:
        command.main(["--version"])
    assert not exit.value.code
    assert capsys.readouterr().out == f"tfreg {tfreg.__version__}\n"


def test_without_a_command_prints_help(capsys):
    command.main([])
    out = capsys.readouterr().out
    assert out.startswith("usage: tfreg ") and "demo" in out and "compact" in out
