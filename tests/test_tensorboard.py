"""The callback TensorBoard: TensorBoard's own reader gets back what NumPy computes."""

import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.request

import clusters
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from marks import KERAS_3_FIRST
from matplotlib.colors import to_rgb
from model_cases import counted, mirrored
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tfreg
from tfreg.reporting import pictures, themes
from tfreg.reporting.summaries import Summaries

X = np.random.default_rng(0).normal(size=(12, 5, 5, 2)).astype("float32")
Y = np.random.default_rng(1).normal(size=(12, 3)).astype("float32")
TensorBoard = tfreg.callbacks.TensorBoard
RAMP = tfreg.schedules.CubicRamp(begin=0, end=6)
GREY = pictures._palette()[pictures.ZERO]


def penalized(api):
    """Groups, one of them dead; elements; and a penalty that ties two weights, on a schedule."""
    api.utils.set_random_seed(0)
    convolution = api.layers.Conv2D(4, 3, name="conv", kernel_regularizer=tfreg.GroupLasso(0.1))
    out = api.layers.Dense(3, name="out", kernel_regularizer=api.regularizers.L1(0.01))
    pooling = api.layers.GlobalAveragePooling2D()
    model = api.Sequential([api.Input((5, 5, 2)), convolution, pooling, out])
    alive = np.array([1, 0, 1, 1], "float32")
    convolution.kernel.assign(convolution.kernel * alive)
    joint = tfreg.Joint(tfreg.GroupLasso(0.5, axis="all"))
    return tfreg.add_penalty(model, joint, schedule=RAMP)


def compiled(api, **arguments):
    model = penalized(api)
    model.compile(api.optimizers.Adam(0.01), "mse", **arguments)
    return model


def fitted(model, *callbacks, epochs=3, **arguments):
    return model.fit(X, Y, 4, epochs, verbose=0, callbacks=list(callbacks), **arguments).history


def written(folder):
    """What TensorBoard reads: of each tag, the arrays by their steps."""
    read = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    read.Reload()
    return {
        tag: {event.step: tf.make_ndarray(event.tensor_proto) for event in read.Tensors(tag)}
        for tag in read.Tags()["tensors"]
    }


def over_epochs(found, tag):
    """The values of a scalar, one for each epoch."""
    return [float(found[tag][epoch]) for epoch in range(len(found[tag]))]


def decoded(tensor):
    width, height, encoded = tensor
    picture = tf.io.decode_png(encoded, channels=3).numpy()
    assert picture.shape == (int(height), int(width), 3)
    return picture


@KERAS_3_FIRST
def test_what_is_written_is_what_the_weights_are(api, tmp_path):
    model, seen = compiled(api), []

    def see(epoch, logs):
        step = int(tf.convert_to_tensor(model.optimizer.iterations))
        seen.append((step, model.get_layer("conv").kernel.numpy(), model.layers[-1].kernel.numpy()))

    callbacks = [TensorBoard(tmp_path), api.callbacks.LambdaCallback(on_epoch_end=see)]
    history = fitted(model, tfreg.callbacks.PenaltyMetrics(), *callbacks)
    found = written(tmp_path)

    conv, out, both = "conv/kernel", "out/kernel", "conv/kernel and 1 more"
    kinds = ("norms", "penalty", "strength", "zero_groups")
    assert sorted(found) == sorted(
        [f"{kind}/{path}" for kind in kinds for path in (conv, out, both)]
        + [f"kernels/{conv}", f"kernels/{out}", "penalty", "zero_groups", "report"]
    )
    for tag in ("penalty", "zero_groups"):
        np.testing.assert_allclose(over_epochs(found, tag), history[tag], rtol=1e-6)
    for epoch, (step, kernel, dense) in enumerate(seen):
        norms = np.linalg.norm(np.float64(kernel.reshape(-1, 4)), axis=0)
        assert norms[1] > 0.0  # Adam moves what is dead
        total = np.sqrt(np.sum(kernel**2.0) + np.sum(dense**2.0))
        strength = 0.5 * (1 - (1 - min(step / 6, 1)) ** 3)
        values = {
            f"penalty/{conv}": 0.1 * np.sqrt(18) * norms.sum(),
            f"penalty/{out}": 0.01 * np.abs(dense).sum(),
            f"penalty/{both}": strength * np.sqrt(kernel.size + dense.size) * total,
            f"zero_groups/{conv}": 0.0,
            f"zero_groups/{out}": np.mean(dense == 0),
            f"strength/{conv}": 0.1,
            f"strength/{out}": 0.01,
            f"strength/{both}": strength,
        }
        for tag, value in values.items():
            np.testing.assert_allclose(found[tag][epoch], value, rtol=1e-5, err_msg=tag)
        for path, of in ((conv, norms), (out, np.abs(dense).ravel())):
            counts, edges = np.histogram(np.float64(of), bins=30)
            buckets = found[f"norms/{path}"][epoch]
            np.testing.assert_array_equal(buckets[:, 2], counts)
            np.testing.assert_allclose(buckets[:, 0], edges[:-1], rtol=1e-5)
        np.testing.assert_allclose(found[f"norms/{both}"][epoch][-1], [total, total, 1], rtol=1e-5)


@KERAS_3_FIRST
def test_a_dead_filter_is_grey_in_the_picture(api, tmp_path):
    model = penalized(api)
    model.layers[0].trainable = False
    model.compile("sgd", "mse")
    fitted(model, TensorBoard(tmp_path, images=1), epochs=1)
    found = written(tmp_path)
    assert found["zero_groups/conv/kernel"][0] == 0.25
    [largest] = (tag for tag in found if tag.startswith("kernels/"))
    assert largest == "kernels/conv/kernel"
    times = 128 // 15  # four tiles that are three wide, and what is between them
    is_grey = np.all(decoded(found[largest][0])[::times, ::times] == GREY, axis=-1)
    expected = np.zeros((7, 15), bool)
    expected[:, 4:7] = True
    expected[3] = False
    np.testing.assert_array_equal(is_grey, expected)


@KERAS_3_FIRST
def test_it_writes_every_so_many_epochs_and_reports_before_and_after(api, tmp_path):
    fitted(compiled(api), TensorBoard(tmp_path, every=2), epochs=4)
    found = written(tmp_path)
    assert list(found["penalty"]) == list(found["kernels/conv/kernel"]) == [0, 2]
    assert list(found["report"]) == [0, 4]
    first, last = (text.item().decode() for text in found["report"].values())
    assert first != last
    for text in (first, last):
        assert text.startswith("```\n") and text.endswith("\n```")
        assert "conv/kernel" in text and "GroupLasso" in text


def state(model):
    variables = model.optimizer.variables
    variables = variables() if callable(variables) else variables
    return [tf.convert_to_tensor(v).numpy() for v in (*model.weights, *variables)]


@KERAS_3_FIRST
def test_it_changes_nothing_and_stands_beside_the_callback_of_keras(api, tmp_path):
    model, plain, traces = compiled(api), compiled(api), []
    for each in (model, plain):
        each.train_step = counted(each.train_step, traces, each)
    # Which switches off summaries of steps that it does not write itself.
    of_keras = api.callbacks.TensorBoard(tmp_path, update_freq=2)
    history = fitted(model, of_keras, TensorBoard(tmp_path))
    assert history == fitted(plain)
    assert traces.count(model) == traces.count(plain) > 0
    for ours, theirs in zip(state(model), state(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert list(written(tmp_path)["penalty"]) == [0, 1, 2]
    assert "epoch_loss" in written(tmp_path / "train")


@KERAS_3_FIRST
def test_fits_that_follow_one_another_also_on_one_that_failed(api, tmp_path, monkeypatch):
    writers, create = [], tf.summary.create_file_writer
    monkeypatch.setattr(
        tf.summary, "create_file_writer", lambda *args: writers.append(create(*args)) or writers[-1]
    )
    model, board = compiled(api), TensorBoard(tmp_path)

    def fail(epoch, logs):
        if epoch == 1:
            raise OSError("The disk is full.")

    with pytest.raises(OSError, match="disk"):
        fitted(model, board, api.callbacks.LambdaCallback(on_epoch_begin=fail))
    fitted(model, board, initial_epoch=1, epochs=2)
    fitted(model, board, initial_epoch=2, epochs=4)
    # Files of one second are read in any order.
    assert sorted(written(tmp_path)["penalty"]) == [0, 1, 2, 3]
    assert len(writers) == len(list(tmp_path.iterdir())) == 3
    for writer in writers:
        with pytest.raises(RuntimeError, match="closed"):
            writer.set_as_default()


@KERAS_3_FIRST
def test_proximal_steps_and_penalties_that_share_a_weight(api, tmp_path):
    model = api.Sequential([api.Input((5, 5, 2)), api.layers.Flatten(), api.layers.Dense(3)])
    dense = model.layers[-1]
    penalties = [([dense.kernel], tfreg.GroupLasso(1e3)), ([dense.kernel], tfreg.BoxPenalty(0.5))]
    model.compile(tfreg.Proximal(api.optimizers.SGD(0.1), model, penalties), "mse")
    fitted(model, TensorBoard(tmp_path), epochs=1)
    found = written(tmp_path)
    [path] = (tag.removeprefix("kernels/") for tag in found if tag.startswith("kernels/"))
    assert found["penalty"][0] == 0.0  # in the loss
    assert found[f"zero_groups/{path}"][0] == 1.0 and found[f"strength/{path} (2)"][0] == 0.5
    assert np.all(decoded(found[f"kernels/{path}"][0]) == GREY)


@KERAS_3_FIRST
def test_a_model_without_penalties_or_not_built_has_its_report(api, tmp_path):
    model = api.Sequential([api.layers.Flatten(), api.layers.Dense(3)])
    model.compile("sgd", "mse")
    fitted(model, TensorBoard(tmp_path), epochs=1)
    found = written(tmp_path)
    assert found.keys() == {"penalty", "report"} and found["penalty"][0] == 0.0
    assert 1 in found["report"]


@KERAS_3_FIRST
def test_it_writes_the_first_epoch_of_a_fit_whatever_its_number(api, tmp_path):
    model, board = compiled(api), TensorBoard(tmp_path, every=2)
    fitted(model, board, initial_epoch=3, epochs=6)
    assert list(written(tmp_path)["penalty"]) == [3, 5]
    fitted(model, board, initial_epoch=6, epochs=7)
    assert sorted(written(tmp_path)["penalty"]) == [3, 5, 6]


def test_a_folder_that_cannot_be_written_to_is_an_error_before_training(api, tmp_path):
    (tmp_path / "file").touch()
    model, epochs = compiled(api), []
    see = api.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    with pytest.raises(OSError, match="`log_dir` must be a folder.*Received.*file/logs"):
        fitted(model, see, TensorBoard(tmp_path / "file" / "logs"))
    assert not epochs


class BytesPath:
    def __fspath__(self):
        return b"logs"


def test_other_arguments_are_errors(tmp_path):
    for folder in (None, 3, b"logs", BytesPath()):
        with pytest.raises(TypeError, match="`log_dir` must be a string or a path. Received"):
            TensorBoard(folder)
    with pytest.raises(ValueError, match="`log_dir` must not be empty. Received"):
        TensorBoard("")
    for name, value in [("every", 0), ("every", 1.5), ("images", -1), ("images", True)]:
        with pytest.raises(ValueError, match=f"`{name}` must be an int.*{value}"):
            TensorBoard(tmp_path, **{name: value})


def test_without_tensorboard_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.summary_pb2", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tfreg\[tensorboard\]'"):
        TensorBoard(tmp_path)


def test_histograms_of_many_values_are_bounded_and_leave_out_what_is_not_finite(tmp_path):
    summaries = Summaries()
    many = np.linspace(0.0, 1.0, 300_001)
    summaries.add_histogram("many", many)
    summaries.add_histogram("some", np.array([1.0, np.nan, 2.0, np.inf]))
    summaries.add_histogram("none", np.zeros(0))
    writer = tf.summary.create_file_writer(str(tmp_path))
    with writer.as_default():
        tf.summary.experimental.write_raw_pb(summaries.taken(), step=0)
    writer.close()
    counts = {tag: arrays[0][:, 2] for tag, arrays in written(tmp_path).items()}
    assert {tag: int(count.sum()) for tag, count in counts.items()} == {
        "many": 2**17,
        "some": 2,
        "none": 0,
    }
    np.testing.assert_allclose(counts["many"], 2**17 / 30, atol=2)


COLOURS = pictures._palette()


def colours(values):
    """The red, green and blue of the picture of a weight, from its file."""
    drawn = pictures.picture(values)
    decoded = tf.io.decode_png(pictures.png(drawn)).numpy()
    np.testing.assert_array_equal(decoded, COLOURS[drawn])
    return decoded


def test_a_matrix_has_the_colours_of_the_plots():
    times = 64  # as wide as it needs
    picture = colours(np.array([[-2.0, 1e-6], [0.0, 2.0]]))
    assert picture.shape == (2 * times, 2 * times, 3)
    found = picture[times // 2 :: times, times // 2 :: times].reshape(4, 3)
    light = themes.theme_named("light")
    expected = [to_rgb(each) for each in (light.low, light.middle, light.zero, light.high)]
    np.testing.assert_allclose(found / 255, expected, atol=1.1 / 255)
    shades = COLOURS[pictures._LOWEST :] / 255
    of_plots = themes.diverging(light)(np.linspace(0.0, 1.0, len(shades)))[:, :3]
    np.testing.assert_allclose(shades, of_plots, atol=3 / 255)


def test_a_convolution_has_a_tile_for_each_input_and_unit():
    kernel = np.random.default_rng(0).normal(size=(3, 2, 40, 50)) + 10.0
    kernel[:, :, 7, 9] = 0.0
    kernel[2, 1, 8, 9] = -1e3
    picture = colours(kernel)
    assert picture.shape == (40 * 4 - 1, 50 * 3 - 1, 3)
    is_grey = np.all(picture == GREY, axis=-1)
    assert is_grey.sum() == 3 * 2 and np.all(is_grey[7 * 4 : 7 * 4 + 3, 9 * 3 : 9 * 3 + 2])
    np.testing.assert_array_equal(picture[8 * 4 + 2, 9 * 3 + 1], COLOURS[pictures._LOWEST])
    between = np.all(picture == COLOURS[pictures.BETWEEN], axis=-1)
    assert np.all(between[3::4]) and np.all(between[:, 2::3])


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((), (128, 128)),
        ((5,), (25, 125)),
        ((2000, 600), (512, 512)),
        ((3, 3, 300, 10), (511, 39)),
        ((2000, 8, 64), (15, 512)),
        ((2, 2, 3, 4, 6), (95, 115)),
        ((3, 3, 1, 64), (124, 124)),
        ((5, 5, 1, 10), (85, 115)),
    ],
)
def test_the_sizes_of_pictures(shape, expected):
    assert colours(np.ones(shape)).shape[:2] == expected


def test_the_tiles_of_one_input_fill_a_square():
    weight = np.ones((2, 2, 1, 5))
    weight[..., 3] = 0.0
    picture = colours(weight)[:: 128 // 8, :: 128 // 8]
    is_grey = np.all(picture == GREY, axis=-1)
    expected = np.zeros((5, 8), bool)
    expected[3:5, 0:2] = True  # the first of the second row
    np.testing.assert_array_equal(is_grey, expected)


def test_what_is_not_finite_is_not_grey():
    assert not np.any(np.all(colours(np.array([[np.nan, np.inf, -np.inf]])) == GREY, axis=-1))


@pytest.mark.slow
def test_a_mirrored_model_writes_what_one_device_does(api, tmp_path):
    fitted(compiled(api, jit_compile=False), TensorBoard(tmp_path / "one"))
    with mirrored(2).scope():
        model = compiled(api, jit_compile=False)
    fitted(model, TensorBoard(tmp_path / "two"))
    one, two = written(tmp_path / "one"), written(tmp_path / "two")
    assert one.keys() == two.keys()
    for tag in one:
        if tag.startswith(("penalty", "zero_groups", "strength")):
            np.testing.assert_allclose(over_epochs(two, tag), over_epochs(one, tag), rtol=1e-5)


@pytest.mark.slow
def test_of_several_workers_the_first_writes(tmp_path):
    cluster = clusters.loopback(worker=2)
    workers = [
        clusters.Process(
            "multi_worker_board",
            {"api_name": "tf_keras", "folder": str(tmp_path / str(index))},
            cluster,
            "worker",
            index,
            tmp_path,
        )
        for index in range(2)
    ]
    with clusters.running(*workers):
        clusters.wait_for(workers, timeout=200)
    results = [worker.result() for worker in workers]
    assert not (tmp_path / "1").exists()
    np.testing.assert_allclose(
        over_epochs(written(tmp_path / "0"), "penalty"), results[0]["penalty"], rtol=1e-6
    )
    assert results[0] == results[1]


@contextlib.contextmanager
def served(folder):
    """TensorBoard's address, of a process of this test's own."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder)]
    log = folder.with_suffix(".log")
    with open(log, "w") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", "0"], stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + 120
        while (found := re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())) is None:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield found[0]
    finally:
        process.kill()
        process.wait()


def get(address):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=60) as answer:
        return answer.read().decode()


@pytest.mark.slow
def test_the_page_of_tensorboard_shows_it(tmp_path):
    folder = tmp_path / "logs"
    fitted(compiled(tf_keras), TensorBoard(folder))
    with served(folder) as address:
        assert "<title>TensorBoard</title>" in get(address)
        deadline = time.monotonic() + 60
        while "." not in (tags := json.loads(get(f"{address}data/plugin/scalars/tags"))):
            assert time.monotonic() < deadline  # it reads the file after it has begun to serve
            time.sleep(0.5)
        assert {"penalty", "penalty/conv/kernel", "zero_groups/out/kernel"} <= tags["."].keys()
        for plugin, tag in [("histograms", "norms"), ("images", "kernels"), ("text", "report")]:
            assert tag in get(f"{address}data/plugin/{plugin}/tags")
