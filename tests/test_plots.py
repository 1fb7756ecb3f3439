"""The plots: what they draw and count, and that each of their texts can be read."""

import itertools
import sys
import types

import keras
import matplotlib
import numpy as np
import pytest
import tensorflow as tf
from marks import KERAS_3_FIRST, in_turn, slow
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

import tfreg
from tfreg.reporting.plots import plot_report
from tfreg.reporting.themes import theme_named

THEMES = ["dark", "light"]
LONG = "encoder/block_11/self_attention_with_relative_positions/query_projection/kernel"
PLOTS = {
    "plot_history": lambda **more: tfreg.plot_history({"loss": [2.0, 1.0]}, **more),
    "plot_report": lambda **more: plot_report(report([penalty([1.0, 0.0])]), **more),
    "plot_weights": lambda **more: tfreg.plot_weights(tf.Variable(tf.ones([2, 2])), **more),
}

ENDINGS = {"plot_history": ["png"], "plot_report": ["svg"], "plot_weights": ["PDF"]}


def penalty(
    norms, path="dense/kernel", groups=True, name="GroupLasso", share=1.0, more=(), zeros=None
):
    zeros = int(np.sum(np.equal(norms, 0))) if zeros is None else zeros
    return types.SimpleNamespace(
        paths=[path, *more],
        penalty=f"Coupled({name}(factor=0.1))",
        kind=name,
        share=share,
        groups=len(norms) if groups else None,
        zero_groups=zeros if groups else None,
        # The elements of a group that is not 0 may be.
        zero_elements=zeros + groups,
        norms=np.array(norms, float),
    )


def coupling(norms):
    return types.SimpleNamespace(paths=["a/kernel", "a/bias"], norms=np.array(norms, float))


def report(penalties, couplings=(), model="model"):
    return types.SimpleNamespace(
        model=model, penalties=penalties, couplings=list(couplings), tolerance=1e-3
    )


def of_resnet50():
    """54 kernels, of which every second one has zeros, more the later it comes."""
    rng = np.random.default_rng(0)
    penalties = []
    for i in range(54):
        norms = np.exp(rng.normal(size=64 << i % 6)) * 10.0 ** -(i % 4)
        if i % 2:
            norms[: len(norms) * i // 60] = 0.0
        path = f"conv{i // 12 + 1}_block{i // 3 % 6 + 1}_{i % 3}_conv/kernel"
        penalties.append(penalty(norms, path, share=i / 1000))
    return report(penalties, model="resnet50")


EXTREMES = {
    "all is zero": report([penalty(np.zeros(8))]),
    "no penalties": report([], model="a_model_with_quite_a_long_name"),
    "one group": report([penalty([0.25], LONG)]),
    "one weight": report([penalty(np.r_[np.geomspace(9.0, 0.02, 40), np.zeros(24)])]),
    "several kinds": report(
        [
            penalty(np.zeros(5), "W" * 60),
            penalty([np.nan, np.inf, 2.0, 1.0, 0.0], LONG),
            penalty(np.linspace(0.0, 1.0, 5000), groups=False, name="L1"),
            penalty([1e-5, 1e-12, 0.0], more=["b/kernel", LONG], name="Joint"),
            penalty([1e-310, 1e300], name="GroupMCP"),
        ]
    ),
    "the range of a float": report([penalty([5e-324, np.finfo(float).max, 1.0])]),
    "54 weights": of_resnet50(),
}


pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning")


def texts(figure):
    """The texts that are drawn, without labels of ticks beyond the limits."""
    FigureCanvasAgg(figure).draw()
    unseen = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            beyond = [t for t in ticks if not low * 0.999 <= t.get_loc() <= high * 1.001]
            unseen |= {id(label) for tick in beyond for label in (tick.label1, tick.label2)}
    found = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    return [text for text in found if id(text) not in unseen]


def assert_is_readable(figure):
    drawn = texts(figure)
    boxes = [text.get_window_extent() for text in drawn]
    for text, box in zip(drawn, boxes):
        assert text.get_fontsize() >= 9, text
        inside = box.x0 >= 0 and box.y0 >= 0
        inside &= box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        assert inside, f"{text} sticks out"
    for (a, box), (b, other) in itertools.combinations(zip(drawn, boxes), 2):
        apart = box.x1 <= other.x0 + 0.5 or other.x1 <= box.x0 + 0.5
        apart |= box.y1 <= other.y0 + 0.5 or other.y1 <= box.y0 + 0.5
        assert apart, f"{a} overlaps {b}"


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


@pytest.mark.parametrize("theme", [slow("dark"), "light"])
@pytest.mark.parametrize(
    "name", [slow(name) if name == "54 weights" else name for name in sorted(EXTREMES)]
)
def test_texts_of_a_report_do_not_overlap(name, theme):
    assert_is_readable(plot_report(EXTREMES[name], theme=theme))


def test_report_shows_the_panels_that_matter():
    given = of_resnet50()
    figure = plot_report(given)
    by_zeros = sorted(
        given.penalties, key=lambda each: (np.mean(each.norms == 0), each.share), reverse=True
    )
    chosen = {each.paths[0] for each in by_zeros[:20]}
    kept = [each for each in given.penalties if each.paths[0] in chosen]
    assert titles(figure) == [
        f"{each.paths[0]}\n{np.count_nonzero(each.norms == 0):,} of {len(each.norms):,} groups zero"
        for each in kept
    ]
    title = " ".join(figure.get_suptitle().split())
    assert title.startswith("resnet50: norms under 20 of 54 penalties on weights. Left out: the 34")
    for axes, each in zip(figure.axes, kept):
        [line] = axes.lines[:1]
        positive = np.sort(each.norms[each.norms > 0])[::-1]
        assert line.get_ydata()[[0, -1]].tolist() == positive[[0, -1]].tolist()
        assert set(line.get_ydata()) <= set(positive)
        assert axes.get_yscale() == "log"


def test_report_draws_sorted_norms_and_where_the_zeros_begin():
    norms = [0.5, 0.0, 3.0, 0.001, 0.0, 1.0, 0.0, 2.0]
    [axes] = plot_report(report([penalty(norms)])).axes
    curve, small = axes.lines
    np.testing.assert_array_equal(curve.get_ydata(), [3.0, 2.0, 1.0, 0.5, 0.001])
    np.testing.assert_allclose(curve.get_xdata(), (np.arange(5) + 0.5) * 12.5)
    np.testing.assert_allclose(small.get_ydata(), 0.003)
    [zeros] = axes.patches
    extent = zeros.get_patch_transform().transform_path(zeros.get_path()).get_extents()
    assert (extent.x0, extent.x1) == (62.5, 100.0)
    assert axes.get_title(loc="left") == "dense/kernel\n3 of 8 groups zero"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("rank, % of all", "group norm")
    low, high = axes.get_ylim()
    assert low < 0.001 and high > 3.0


def test_report_counts_a_group_as_zero_only_if_its_elements_are():
    # The norm of a group of tiny float64 weights is 0 all the same.
    tiny = penalty([2.0, 0.0, 0.0, 0.0], zeros=1)
    elements = penalty([2.0, 0.0, 0.0], "b/kernel", groups=False, zeros=2)
    figure = plot_report(report([tiny, elements]))
    assert titles(figure) == [
        "dense/kernel\n1 of 4 groups zero",
        "b/kernel\n2 of 3 elements zero",
    ]
    starts = [axes.patches[0].get_x() for axes in figure.axes]
    np.testing.assert_allclose(starts, [75.0, 100.0 / 3.0])


def test_either_all_panels_of_a_report_have_dots_or_none():
    few, many = penalty(np.arange(1, 61)), penalty(np.arange(1, 62))
    for penalties, marker in (([few, few], "o"), ([few, many], "none"), ([many], "none")):
        figure = plot_report(report(penalties))
        assert [axes.lines[0].get_marker().lower() for axes in figure.axes] == (
            [marker] * len(penalties)
        )


def test_panels_of_a_report_name_the_kinds_of_penalties():
    [first, second] = titles(plot_report(report([penalty([1.0]), penalty([1.0], name="L1")])))
    assert (first.split("\n")[1], second.split("\n")[1]) == ("GroupLasso", "L1")


def test_the_last_panel_of_each_column_has_labels():
    figure = plot_report(report([penalty([1.0, 0.5], f"{i}/kernel") for i in range(5)]))
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", *["rank, % of all"] * 3]
    labels = [text.get_text() for text in texts(figure)]
    assert [labels.count(label) for label in ("0", "25", "75", "100")] == [3, 3, 3, 3]


def test_report_counts_what_is_not_finite():
    [axes] = plot_report(report([penalty([np.nan, np.inf, 2.0, 0.0])])).axes
    assert titles(axes.figure) == ["dense/kernel\n1 of 4 groups zero\n2 NaN or infinite"]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [62.5])
    np.testing.assert_allclose(axes.lines[1].get_ydata(), 0.002)


def test_report_of_a_million_elements_draws_a_thousand():
    norms = np.random.default_rng(0).permutation(1_000_000) / 1e6
    [axes] = plot_report(report([penalty(norms, groups=False)])).axes
    ranks, drawn = axes.lines[0].get_data()
    assert len(drawn) == 1000 and (drawn[0], drawn[-1]) == (0.999999, 1e-6)
    np.testing.assert_allclose(drawn, 1.0 - ranks / 100.0, atol=2e-6)
    assert titles(axes.figure) == ["dense/kernel\n1 of 1,000,000 elements zero"]
    assert axes.get_ylabel() == "|weight|"


def test_report_shows_couplings_where_no_penalty_has_groups():
    grouped, elements = penalty([1.0, 0.0]), penalty([1.0, 2.0], groups=False, name="L1")
    couplings = [coupling([3.0, 0.0, 0.0])]
    shown = titles(plot_report(report([elements], couplings)))
    assert shown[1] == "a/kernel and 1 more\nCoupling\n2 of 3 entries zero"
    assert len(titles(plot_report(report([grouped, elements], couplings)))) == 2
    assert titles(plot_report(report([], couplings))) == [
        "a/kernel and 1 more\n2 of 3 entries zero"
    ]


def test_a_models_report_plots_itself(api, tmp_path):
    dense = api.layers.Dense(4, kernel_regularizer=tfreg.GroupLasso(0.1), name="hidden")
    model = api.Sequential([api.Input((3,)), dense, api.layers.Dense(2, name="head")], name="net")
    tfreg.add_penalty(model, tfreg.GroupLasso(0.2), weights="head/kernel")
    kernel, bias = dense.get_weights()
    kernel[:, [0, 2, 3]] = 0.0
    dense.set_weights([kernel, bias])
    figure = tfreg.report(model).plot(tmp_path / "norms.png", theme="dark")
    assert (tmp_path / "norms.png").exists()
    assert sorted(titles(figure)) == [
        "head/kernel\n0 of 2 groups zero",
        "hidden/kernel\n3 of 4 groups zero",
    ]
    hidden = next(axes for axes in figure.axes if "hidden" in axes.get_title(loc="left"))
    [norm] = hidden.lines[0].get_ydata()
    np.testing.assert_allclose(norm, np.linalg.norm(kernel[:, 1]), rtol=1e-6)


def test_report_without_anything_says_so():
    figure = plot_report(report([], model="plain"))
    assert figure.axes == []
    said = " ".join(figure.get_suptitle().split())
    assert said == "plain: no penalties on weights, and no couplings"


HISTORY = {
    "loss": [3.0, 2.0, 1.5, 1.0],
    "mae": [1.0, 0.8, 0.7, 0.5],
    "val_loss": [3.1, np.nan, 1.9, 1.2],
    "accuracy": [0.1, 0.5, 0.8, 0.9],
    "val_loss_without_penalty": [2.1, 2.0, 1.0, 0.2],
    "zero_groups": [0.0, 0.25, 0.5, 0.75],
    "strength": [0.0, 0.001, 0.01, 1.0],
    "sparsity": [0.0, 0.1, 0.2, 0.3],
}


def curves(figure):
    """The ordinates of each curve, by its label, for each panel by its own."""
    return {
        axes.get_ylabel(): {
            line.get_label(): line.get_ydata().tolist()
            for line in axes.lines
            if not line.get_label().startswith("_")
        }
        for axes in figure.axes
    }


def test_history_has_a_panel_for_each_kind_of_figure():
    figure = tfreg.plot_history(HISTORY)
    drawn = curves(figure)
    assert list(drawn) == ["zeros, %", "strength", "loss", "metric"]
    assert drawn["zeros, %"] == {"zero_groups": [0, 25, 50, 75], "sparsity": [0, 10, 20, 30]}
    assert list(drawn["loss"]) == [
        "loss",
        "val_loss (1 NaN or infinite)",
        "val_loss_without_penalty",
    ]
    assert drawn["metric"] == {"accuracy": HISTORY["accuracy"]}
    zeros, strength, loss, metric = figure.axes
    FigureCanvasAgg(figure).draw()
    for axes in figure.axes:
        assert axes.get_legend().get_window_extent().x0 >= axes.get_window_extent().x1
    assert strength.get_yscale() == "log" and metric.get_xlabel() == "epoch"
    [cross] = [line for line in loss.lines if line.get_marker() == "x" and len(line.get_xdata())]
    assert cross.get_xdata().tolist() == [2]
    [training, validation, without] = [line for line in loss.lines if line.get_marker() == "o"]
    assert training.get_color() == validation.get_color() != without.get_color()
    assert training.get_linestyle() == "-" != validation.get_linestyle()
    low, high = metric.get_xlim()
    assert [tick for tick in metric.get_xticks() if low <= tick <= high] == [1, 2, 3, 4]


def test_history_draws_the_metrics_that_are_asked_for():
    drawn = curves(tfreg.plot_history(HISTORY, metrics=["mae", "val_loss", "mae"]))
    assert {label: len(lines) for label, lines in drawn.items()} == {"loss": 1, "mae": 1}
    assert list(curves(tfreg.plot_history({"mae": [1.0], "lr": [2.0]}))) == ["mae", "lr"]
    assert list(curves(tfreg.plot_history({"zero_groups": [0.0, 24.0]}))) == ["zeros"]


def epochs_of(figure, name):
    [line] = [line for line in figure.axes[0].lines if line.get_label() == name]
    return line.get_xdata().tolist()


@pytest.mark.parametrize(
    "epochs, first, frequency, expected, is_clear",
    [
        (8, 0, 3, [3, 6], False),
        (5, 0, 3, [3], False),
        (7, 0, 2, [2, 4, 6], True),
        (5, 0, [1, 2, 5], [1, 2, 5], False),
        (8, 1, 3, [3, 6], False),
        (9, 2, 3, [3, 6, 9], False),
        (9, 2, 4, [4, 8], True),
        (4, 0, 1, [1, 2, 3, 4], True),
    ],
    ids=[
        "8 by 3",
        "5 by 3",
        "7 by 2",
        "list",
        "8 by 3, later",
        "9 by 3, later",
        "9 by 4, later",
        "4 by 1",
    ],
)
def test_history_places_the_validation(epochs, first, frequency, expected, is_clear):
    numbers = list(range(first + 1, epochs + 1))
    history = {
        "loss": [0.0] * len(numbers),
        "val_loss": [1.0] * len(expected),
        "epoch": [number - 1 for number in numbers],
    }
    figure = tfreg.plot_history(history, validation_freq=frequency)
    assert (epochs_of(figure, "loss"), epochs_of(figure, "val_loss")) == (numbers, expected)
    if is_clear:
        assert epochs_of(tfreg.plot_history(history), "val_loss") == expected
    else:
        with pytest.raises(ValueError, match="Pass `validation_freq`.*figures of 'val_loss'"):
            tfreg.plot_history(history)
    tfreg.plot_history(history, metrics=["loss"])


@in_turn(api=["keras", slow("tf_keras")], frequency=[[1, 2, 5], slow(3)])
def test_history_places_the_validation_of_a_fit(api, frequency, tmp_path):
    model = api.Sequential([api.Input((2,)), api.layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")
    seen = []
    watch = api.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(epoch + 1) if "val_loss" in logs else None
    )
    fitted = model.fit(
        *(x, y),
        epochs=5,
        initial_epoch=1,
        verbose=0,
        callbacks=[watch],
        validation_data=(x, y),
        validation_freq=frequency,
    )
    figure = tfreg.plot_history(fitted, validation_freq=frequency)
    assert epochs_of(figure, "val_loss") == seen
    assert epochs_of(figure, "loss") == [2, 3, 4, 5]


def test_history_of_two_trainings_places_the_validation_of_each():
    history = {"epoch": [0, 1, 2, 3] * 2, "loss": [0.0] * 8, "val_loss": [1.0] * 2}
    figure = tfreg.plot_history(history, validation_freq=3)
    assert epochs_of(figure, "val_loss") == [3, 7]
    again = types.SimpleNamespace(
        history={"loss": [0.0] * 8, "val_loss": [1.0] * 2}, epoch=[0, 1, 2, 3]
    )
    for frequency in (3, None):
        with pytest.raises(ValueError, match="as many epochs as figures.*Received: 4 epochs"):
            tfreg.plot_history(again, validation_freq=frequency)


def test_history_refuses_a_frequency_that_is_none_of_its():
    history = {"loss": [0.0] * 8, "val_loss": [1.0] * 2, "val_mae": []}
    for wrong in (2, [1], [8, 9]):
        with pytest.raises(ValueError, match="must be what `fit` was given.*2 figures of 'val_l"):
            tfreg.plot_history(history, validation_freq=wrong)
    assert epochs_of(tfreg.plot_history(history, validation_freq=[8, 2, 9]), "val_loss") == [2, 8]
    with pytest.raises(ValueError, match="must be what `fit` was given"):
        tfreg.plot_history({"val_loss": [1.0, 2.0]}, validation_freq=3)
    for wrong in (0, -1, 2.0, True, "3", [], [1, 0], [2.0]):
        with pytest.raises(ValueError, match="`validation_freq` must be None, a positive int"):
            tfreg.plot_history(history, validation_freq=wrong)


@in_turn(api=["keras", slow("tf_keras")], separator=[",", ";"])
def test_history_of_a_file_and_of_a_fit_are_the_same(api, separator, tmp_path):
    log = tmp_path / "log.csv"
    model = api.Sequential([api.Input((2,)), api.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    x, y = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")
    logger = api.callbacks.CSVLogger(str(log), separator=separator)
    fitted = model.fit(
        *(x, y), epochs=4, initial_epoch=1, verbose=0, callbacks=[logger], validation_data=(x, y)
    )
    of_fit, of_dict, of_file = map(tfreg.plot_history, (fitted, fitted.history, log))
    drawn = curves(of_fit)["loss"]
    assert drawn == {name: fitted.history[name] for name in ("loss", "val_loss")}
    assert curves(of_dict) == curves(of_fit) == curves(of_file)
    for figure, first in ((of_fit, 2), (of_file, 2), (of_dict, 1)):
        assert figure.axes[0].lines[0].get_xdata().tolist() == [first, first + 1, first + 2]


def test_history_of_a_file_with_gaps(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text("epoch,loss,val_loss,confusion\n0,3,NA,[1 2]\n1,2,2.5,[1 2]\n0,nan,,[1 2]\n")
    figure = tfreg.plot_history(str(log))
    assert list(curves(figure)["loss"]) == ["loss (1 NaN or infinite)", "val_loss"]
    by_label = {line.get_label(): line.get_xdata().tolist() for line in figure.axes[0].lines}
    assert by_label["loss (1 NaN or infinite)"] == [1, 2, 3]  # the epochs begin again
    assert by_label["val_loss"] == [2]

    log.write_text("epoch,loss,val_loss\n0,4,\n1,3,\n2,2,5\n3,1,\n")
    for frequency in (None, 3):
        figure = tfreg.plot_history(log, validation_freq=frequency)
        assert epochs_of(figure, "val_loss") == [3]


@pytest.mark.parametrize(
    "history, error, message",
    [
        ({}, ValueError, "must have figures of at least one epoch"),
        ({"loss": []}, ValueError, "must have figures of at least one epoch"),
        (3, TypeError, "must be what `fit` returns, a dict of lists, or the path of"),
    ],
    ids=["empty", "no epoch", "number"],
)
def test_history_refuses_what_is_none(history, error, message):
    with pytest.raises(error, match=message):
        tfreg.plot_history(history)


def test_history_refuses_a_file_that_is_no_text(tmp_path):
    binary, empty = tmp_path / "model.keras", tmp_path / "log.csv"
    binary.write_bytes(b"PK\x03\x04\xd0\xff\x00" * 50)
    empty.touch()
    for path, message in (
        (tmp_path, "a CSV file. Received: history="),
        (binary, "a CSV file. Received: history="),
        (empty, "must have figures of at least one epoch"),
    ):
        for given in (path, str(path)):
            with pytest.raises(ValueError, match=message):
                tfreg.plot_history(given)
    with pytest.raises(FileNotFoundError):
        tfreg.plot_history(tmp_path / "none.csv")


def test_history_leaves_out_what_does_not_fit():
    many = {f"head_{i}_loss": [2.0, 1.0] for i in range(12)} | {"loss": [3.0, 1.0]}
    many |= {f"val_{name}": values for name, values in many.items()}
    figure = tfreg.plot_history(many | {"sparsity": [0.0, 0.5]})
    drawn = curves(figure)
    # Those of the whole model come first, each with its validation.
    heads = [f"{of}head_{i}_loss" for of in ("", "val_") for i in range(3)]
    assert list(drawn["loss"]) == [*heads[:3], "loss", *heads[3:], "val_loss"]
    assert list(drawn["zeros, %"]) == ["sparsity"]
    said = " ".join(figure.get_suptitle().split())
    assert said == "18 of 27 curves left out: name those to draw by metrics=[...]"
    assert not tfreg.plot_history({name: many[name] for name in heads}).get_suptitle()

    alone = {f"zz{i}": [2.0, 1.0] for i in range(30)}
    figure = tfreg.plot_history(alone)
    assert list(curves(figure)) == [f"zz{i}" for i in range(8)]
    assert figure.get_suptitle().startswith("22 of 30 curves left out")
    assert figure.get_figheight() < 21
    assert_is_readable(figure)


@pytest.mark.parametrize("count", [12, slow(7)])
def test_history_has_room_for_the_metrics_that_are_asked_for(count):
    many = {f"head_{i}_loss": [2.0, 1.0] for i in range(13)}
    many |= {f"val_{name}": values for name, values in many.items()}
    names = [f"{of}head_{i}_loss" for of in ("", "val_") for i in range(count)]
    figure = tfreg.plot_history(many | {"strength": [0.1, 0.2]}, metrics=[*names, "strength"])
    assert list(curves(figure)["loss"]) == names and not figure.get_suptitle()
    assert_is_readable(figure)
    looks = {(line.get_color(), str(line.get_linestyle())) for line in figure.axes[1].lines[::2]}
    assert len({color for color, _ in looks}) == 6
    legends = [axes.get_legend().get_window_extent() for axes in figure.axes]
    for axes, box in zip(figure.axes, legends):
        assert box.y0 >= axes.get_window_extent().y0 - 15


def test_history_refuses_more_metrics_than_can_be_told_apart():
    many = {f"head_{i}_loss": [2.0, 1.0] for i in range(13)}
    alone = {f"zz{i}": [2.0, 1.0] for i in range(9)}
    with pytest.raises(ValueError, match=r"at most 12 metrics for a panel.*13 .*'loss'"):
        tfreg.plot_history(many, metrics=list(many))
    with pytest.raises(ValueError, match=r"at most 8 panels.*Received: .*9"):
        tfreg.plot_history(alone, metrics=list(alone))


def test_history_names_the_metrics_that_there_are():
    with pytest.raises(ValueError, match=r"names out of \['loss'.*'acuracy'. Nearest: .*accuracy"):
        tfreg.plot_history(HISTORY, metrics=["loss", "acuracy"])
    for metrics in ("loss", [], [3]):
        with pytest.raises(ValueError, match="`metrics` must be None or a list of names"):
            tfreg.plot_history(HISTORY, metrics=metrics)


@pytest.mark.parametrize("theme", ["dark", slow("light")])
@pytest.mark.parametrize(
    "history",
    [
        HISTORY,
        {name: values[:1] for name, values in HISTORY.items()},
        {f"{LONG}_loss": [np.nan, np.inf], "strength": [1e-300, 1e300]},
        {f"output_{i}_loss": np.arange(1000) * 1e5 for i in range(9)} | {"val_loss": [1e-9] * 1000},
    ],
    ids=["four epochs", "one epoch", "diverged", "many curves"],
)
def test_texts_of_a_history_do_not_overlap(history, theme):
    assert_is_readable(tfreg.plot_history(history, theme=theme))


def layer_of(api, kind, shape, *arguments, dead=(), **more):
    """A built layer whose last axis of the kernel is 0 at the indices `dead`."""
    api.utils.set_random_seed(0)
    layer = getattr(api.layers, kind)(*arguments, **more)
    layer.build(shape)
    kernel = layer.get_weights()[0]
    kernel[..., list(dead)] = 0.0
    layer.set_weights([kernel, *layer.get_weights()[1:]])
    return layer


def image_of(axes):
    [image] = axes.images
    return np.asarray(image.get_array())


def is_color(image, color):
    return np.all(np.isclose(image, matplotlib.colors.to_rgb(color)), axis=-1)


@KERAS_3_FIRST
def test_weights_of_a_matrix(api):
    layer = layer_of(api, "Dense", (None, 5), 6, dead=[1, 4])
    kernel = layer.get_weights()[0]
    kernel[:, 2] *= 1e-6  # small, not dead
    kernel[3] = 0.0
    layer.set_weights([kernel, *layer.get_weights()[1:]])
    axes, _ = tfreg.plot_weights(layer).axes
    _, counts = axes.get_title(loc="left").split("\n")
    assert counts == "2 of 6 units zero; 1 of 5 rows zero"
    is_grey = is_color(image_of(axes), theme_named("light").zero)
    expected = np.zeros((5, 6), bool)
    expected[:, [1, 4]] = expected[3] = True
    np.testing.assert_array_equal(is_grey, expected)
    assert len(axes.patches) == 3 and all(patch.get_hatch() for patch in axes.patches)
    # Blue is negative and vermillion positive, the more so the larger.
    image = image_of(axes)
    redness = image[..., 0] - image[..., 2]
    live = ~expected & (np.abs(kernel) > 1e-3)
    np.testing.assert_array_equal(np.sign(redness[live]), np.sign(kernel[live]))
    order = np.argsort(kernel[live])
    assert np.all(np.diff(redness[live][order]) >= -1e-6)


@KERAS_3_FIRST
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_weights_of_a_convolution_are_tiles(api, channels):
    layer = layer_of(api, "Conv2D", (None, 9, 9, channels), 4, 3, dead=[2])
    kernel = layer.get_weights()[0]
    figure = tfreg.plot_weights(layer)
    axes = figure.axes[0]
    assert axes.get_title(loc="left").split("\n")[1] == "1 of 4 filters zero"
    image = image_of(axes)
    assert image.shape == (7, 7, 3)  # two rows of two, with a gap
    [crosses] = [c for c in axes.collections if isinstance(c, LineCollection)]
    middle = np.mean([segment.mean(axis=0) for segment in crosses.get_segments()[:2]], axis=0)
    np.testing.assert_allclose(middle, [1.0, 5.0])
    theme = theme_named("light")
    first = image[:3, :3]
    if channels == 3:
        assert len(figure.axes) == 1
        np.testing.assert_allclose(
            first, 0.5 + 0.5 * kernel[..., 0] / np.abs(kernel).max(), rtol=1e-6
        )
        assert is_color(image[4:, :3], theme.background).all()
        return
    assert is_color(image[4:, :3], theme.zero).all()
    label = "weight" if channels == 1 else "norm over the input channels"
    assert figure.axes[1].get_ylabel() == label
    shown = kernel[:, :, 0, 0] if channels == 1 else np.linalg.norm(kernel[..., 0], axis=2)
    order = np.argsort(shown, axis=None)
    assert np.all(np.diff((first[..., 0] - first[..., 2]).ravel()[order]) >= -1e-6)


@KERAS_3_FIRST
@pytest.mark.parametrize(
    "kind, shape, arguments, counts",
    [
        ("Conv1D", (None, 9, 4), (6, 3), "1 of 6 filters zero"),
        ("Conv2D", (None, 9, 9, 4), (6, 1), "1 of 6 filters zero"),
        ("Conv2DTranspose", (None, 9, 9, 4), (6, 3), "0 of 6 filters zero"),
        ("Conv3D", (None, 9, 9, 9, 2), (6, 3), "1 of 6 filters zero"),
        ("DepthwiseConv2D", (None, 9, 9, 4), (3,), "4 of 4 filters zero"),
        ("Embedding", (None, 3), (7, 1), "7 of 7 rows zero"),
        ("GRU", (None, 3, 4), (1,), "0 of 1 unit zero"),
        ("LSTM", (None, 3, 4), (5,), "0 of 5 units zero"),
        ("SimpleRNN", (None, 3, 4), (5,), "1 of 5 units zero"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_weights_of_other_layers(api, kind, shape, arguments, counts):
    layer = layer_of(api, kind, shape, *arguments, dead=[0])
    figure = tfreg.plot_weights(layer)
    assert figure.axes[0].get_title(loc="left").split("\n")[1] == counts


@KERAS_3_FIRST
def test_a_recurrent_unit_is_dead_when_all_its_gates_are(api):
    layer = layer_of(api, "LSTM", (None, 3, 2), 4, dead=[1, 5, 9, 13, 2])
    axes = tfreg.plot_weights(layer).axes[0]
    assert axes.get_title(loc="left").split("\n")[1] == "1 of 4 units zero"
    is_grey = is_color(image_of(axes), theme_named("light").zero)
    assert np.flatnonzero(is_grey.all(axis=0)).tolist() == [1, 5, 9, 13]


def test_weights_of_many_filters_say_what_is_left_out():
    wide = tf.Variable(np.arange(3 * 3 * 2 * 2048, dtype="float32").reshape(3, 3, 2, 2048) + 1)
    first = tfreg.plot_weights(wide).axes[0]
    _, counts, limits = first.get_title(loc="left").split("\n")
    assert counts == "0 of 2,048 filters zero"
    assert limits == "drawn: the first 256 of 2,048 filters"
    large = tfreg.plot_weights(tf.Variable(tf.ones([300, 400]))).axes[0]
    assert image_of(large).shape == (256, 256, 3)
    assert large.get_title(loc="left").endswith(
        "drawn: the first 256 of 400 units and 256 of 300 rows"
    )
    stacked = keras.layers.StackedRNNCells([keras.layers.SimpleRNNCell(2) for _ in range(4)])
    stacked.build((None, 2))
    figure = tfreg.plot_weights(stacked)
    assert figure.get_suptitle().startswith("The first 6 of 8 kernels of")


def test_weights_that_are_small_or_not_finite():
    weight = tf.Variable([[5e-324, np.nan, 0.0], [0.0, np.inf, 0.0]], dtype=tf.float64)
    axes = tfreg.plot_weights(weight).axes[0]
    assert axes.get_title(loc="left").endswith("1 of 3 units zero; 2 entries NaN or infinite")
    assert is_color(image_of(axes), theme_named("light").zero).all(axis=0).tolist() == [0, 0, 1]
    # TensorFlow takes the first two for 0.
    for dtype, least in ((tf.float32, 2.0**-149), (tf.bfloat16, 2.0**-133), (tf.float16, 2.0**-24)):
        least_and_zero = tf.Variable(np.array([[least, 0.0]], dtype.as_numpy_dtype))
        title = tfreg.plot_weights(least_and_zero).axes[0].get_title(loc="left")
        assert title.endswith("1 of 2 units zero"), dtype


def test_a_weight_of_one_axis_has_bars(api):
    layer = api.layers.BatchNormalization()
    layer.build((None, 4))
    layer.gamma.assign([1.0, 0.0, -2.0, np.nan])
    [axes] = tfreg.plot_weights(layer.gamma).axes
    assert [bar.get_height() for bar in axes.patches] == [1.0, 0.0, -2.0, 0.0]
    crosses, diamonds = axes.lines[1:]
    assert (crosses.get_xdata().tolist(), diamonds.get_xdata().tolist()) == ([1], [3])
    assert axes.get_title(loc="left").endswith("1 of 4 entries zero; 1 entry NaN or infinite")
    with pytest.raises(ValueError, match="must have a kernel of floating-point numbers, and"):
        tfreg.plot_weights(layer)


def test_weights_refuse_what_has_none(api):
    with pytest.raises(ValueError, match="must have a kernel of floating-point numbers, and"):
        tfreg.plot_weights(api.layers.Dense(3))
    with pytest.raises(TypeError, match="must be a layer of Keras 3 or tf_keras, or one of its"):
        tfreg.plot_weights("dense")


@KERAS_3_FIRST
def test_weights_without_entries_are_refused(api):
    for shape in ((0, 3), (3, 0), (0,), (3, 3, 0, 2), (3, 3, 2, 0)):
        with pytest.raises(ValueError, match="must have entries. Received: .* with shape="):
            tfreg.plot_weights(tf.Variable(tf.zeros(shape), name="w"))
    layer = api.layers.Dense(3)
    layer.build((None, 0))
    with pytest.raises(ValueError, match=r"must have entries. Received: .*shape=\(0, 3\)"):
        tfreg.plot_weights(layer)


@pytest.mark.slow
def test_weights_that_are_quantized_are_refused():
    layer = keras.layers.Dense(3)
    layer.build((None, 4))
    layer.quantize("int8")
    with pytest.raises(ValueError, match="floating-point.* Received: .*dtypes float32, int8"):
        tfreg.plot_weights(layer)
    with pytest.raises(TypeError, match="one of the dtypes .*float64.* Received: .*int8"):
        tfreg.plot_weights(next(w for w in layer.weights if w.dtype == "int8"))


@pytest.mark.parametrize("theme", ["dark", slow("light")])
@pytest.mark.parametrize(
    "shape", [(1, 1), (4, 700), (7, 7, 3, 64), slow((3, 3, 8, 1)), (3,), slow((1,))], ids=str
)
def test_texts_of_weights_do_not_overlap(shape, theme):
    weight = tf.Variable(np.random.default_rng(0).normal(size=shape), name="W" * 90)
    assert_is_readable(tfreg.plot_weights(weight, theme=theme))


def settings():
    """Those of matplotlib; to ask it for the backend would choose one, by pyplot."""
    return dict(dict.items(matplotlib.rcParams))


@pytest.mark.parametrize("name", ["plot_history", "plot_report", slow("plot_weights")])
def test_a_plot_is_saved_and_changes_no_state(name, tmp_path, monkeypatch):
    # Keras has imported it; now an import raises.
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.delattr(matplotlib, "pyplot", raising=False)
    before = settings()
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "PDF": b"%PDF"}
    for ending in ENDINGS[name]:
        figure = PLOTS[name](path=tmp_path / f"plot.{ending}")
        assert isinstance(figure, Figure)
        assert (tmp_path / f"plot.{ending}").read_bytes().startswith(starts[ending])
    assert figure._repr_png_().startswith(starts["png"])
    assert settings() == before
    for path, message in (
        (tmp_path / "there" / "plot.png", "must be a file in a directory that exists"),
        (tmp_path / "plot.doc", "must end in one of .*[.]png"),
        (tmp_path / "plot", "must end in one of .*[.]png"),
    ):
        with pytest.raises(ValueError, match=message):
            PLOTS[name](path=path)
        assert not path.exists()
    with pytest.raises(TypeError, match="must be None or the path of a file"):
        PLOTS[name](path=3)


@pytest.mark.parametrize("name", sorted(PLOTS))
def test_a_theme_sets_all_colours_whatever_the_defaults(name):
    with matplotlib.rc_context({"text.color": "red", "axes.grid": True, "font.size": 30}):
        dark, light = (PLOTS[name](theme=theme) for theme in THEMES)
    for figure, theme in ((dark, theme_named("dark")), (light, theme_named("light"))):
        colors = {matplotlib.colors.to_hex(text.get_color()) for text in texts(figure)}
        assert colors == {theme.text}
        assert matplotlib.colors.to_hex(figure.get_facecolor()) == theme.background
    for theme in ("Dark", None, 3):
        with pytest.raises(ValueError, match="`theme` must be 'light' or 'dark'. Received: theme="):
            PLOTS[name](theme=theme)


# What would change a picture, or keep it from being drawn where there is no LaTeX.
OF_THE_USER = {
    "text.usetex": True,
    "axes.formatter.limits": (0, 0),
    "axes.grid": True,
    "axes.titlelocation": "right",
    "axes.titlepad": 40.0,
    "figure.constrained_layout.h_pad": 0.5,
    "font.size": 30.0,
    "font.weight": "bold",
    "hatch.linewidth": 5.0,
    "image.origin": "lower",
    "legend.borderpad": 3.0,
    "lines.dash_capstyle": "round",
    "lines.scale_dashes": False,
    "path.sketch": (3.0, 100.0, 2.0),
    "savefig.bbox": "tight",
    "xaxis.labellocation": "right",
    "xtick.direction": "in",
    "xtick.minor.visible": True,
    "ytick.major.size": 20.0,
}


@pytest.mark.parametrize("name", ["plot_history", slow("plot_report"), slow("plot_weights")])
def test_the_users_settings_do_not_change_a_picture(name, tmp_path):
    expected = PLOTS[name](path=tmp_path / "plot.png")._repr_png_()
    with matplotlib.rc_context(OF_THE_USER):
        before = settings()
        figure = PLOTS[name](path=tmp_path / "again.png")
        assert figure._repr_png_() == expected
        figure.savefig(tmp_path / "by_the_user.png")
        assert settings() == before
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "plot.png").read_bytes()


@pytest.mark.slow
def test_a_picture_has_the_users_fonts():
    with matplotlib.rc_context({"font.family": ["DejaVu Serif"]}):
        figure = PLOTS["plot_history"]()
        assert {tuple(text.get_fontfamily()) for text in texts(figure)} == {("DejaVu Serif",)}
    assert figure._repr_png_() != PLOTS["plot_history"]()._repr_png_()


@pytest.mark.parametrize("name", sorted(PLOTS))
def test_without_matplotlib_an_error_says_what_to_install(name, monkeypatch):
    for module in [module for module in sys.modules if module.startswith("matplotlib")]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'tfreg\[plot\]'"):
        PLOTS[name]()


def test_a_file_has_the_themes_background(tmp_path):
    defaults = {"facecolor": "red", "bbox": "tight", "transparent": True}
    with matplotlib.rc_context({f"savefig.{name}": value for name, value in defaults.items()}):
        PLOTS["plot_history"](path=tmp_path / "plot.png", theme="dark")
    picture = matplotlib.image.imread(tmp_path / "plot.png")
    assert picture.shape[1] == 9 * 150
    expected = matplotlib.colors.to_rgb(theme_named("dark").background)
    np.testing.assert_allclose(picture[0, 0], [*expected, 1.0], atol=1e-6)


def test_names_are_no_mathematics():
    figure = plot_report(report([penalty([1.0], "a$b$_c^/kernel")], model="a$_$ $b"))
    [axes] = figure.axes
    assert_is_readable(axes.figure)
    assert axes.get_title(loc="left").startswith("a$b$_c^/kernel")
    assert_is_readable(tfreg.plot_history({"$x_$_loss$": [1.0]}))


@pytest.mark.parametrize("theme", THEMES)
def test_what_is_drawn_stands_out_from_the_background(theme):
    def luminance(color):
        rgb = np.array(matplotlib.colors.to_rgb(color))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    def contrast(a, b):
        low, high = sorted([luminance(a), luminance(b)])
        return (high + 0.05) / (low + 0.05)

    colors = theme_named(theme)
    assert contrast(colors.text, colors.background) > 7
    assert all(contrast(line, colors.background) > 2 for line in colors.lines)
    assert contrast(colors.text, colors.zero) > 3
