"""What a report and a comparison of two are printed as, and what they become."""

import dataclasses
import importlib
import json
import re
import sys

import keras
import networks
import numpy as np
import pytest
from marks import KERAS_3_FIRST

import tfreg
from tfreg.reporting.comparison import Comparison


def net(api, name="net", units=4):
    k = api.layers
    layers = [k.Dense(units, "relu", name="hidden"), k.Dense(2, name="last")]
    model = api.Sequential([api.Input((3,)), *layers], name=name)
    networks.randomize(model, np.random.default_rng(0))
    return tfreg.add_penalty(model, tfreg.GroupLasso(0.5))


def long_net(api, depth=30):
    """More weights than a table has rows, with long names, and penalties of every place."""
    x = api.Input((4,))
    y = x
    for i in range(depth):
        name = f"a_layer_with_a_name_that_is_long_and_does_not_fit_into_its_column_{i}"
        regularizer = tfreg.GroupLasso(10.0 ** -(i + 1)) + tfreg.BoxPenalty(0.1, -0.5, 0.5)
        y = api.layers.Dense(4, name=name, kernel_regularizer=regularizer)(y)
    model = networks.randomize(api.Model(x, y, name="deep"), np.random.default_rng(0))
    model = tfreg.add_penalty(model, tfreg.GroupLasso(0.1), weights=tfreg.couple(model))
    groups = [[i % 4] for i in range(40)]
    model = tfreg.add_penalty(model, tfreg.GroupLasso(0.1, axis=0, groups=groups))
    budget = tfreg.Budget(parameters=0.8, multiply_adds=0.8, begin=1, end=2, heal=3)
    return compiled(api, model, [(None, budget), (None, tfreg.MCP(0.1, 2.0))])


def compiled(api, model, entries):
    model.compile(tfreg.Proximal(api.optimizers.SGD(0.1), model, entries), "mse")
    return model


def cells(text, name):
    """The cells of the line that begins with `name`."""
    [line] = [line for line in text.splitlines() if line.strip().startswith(name)]
    return re.split(r" {2,}", line.strip())


@pytest.mark.parametrize("build", [net, long_net])
@KERAS_3_FIRST
def test_what_is_printed_fits_100_columns_of_any_terminal(api, build, monkeypatch):
    model = build(api)
    report = tfreg.report(model)
    comparison = report.compare(tfreg.report(net(api, name="n" * 120)))
    texts = [str(report), str(comparison)]
    for text in texts:
        assert max(map(len, text.splitlines())) <= 100
        assert "\x1b" not in text and text.isascii()
        assert not any(line.endswith(" ") for line in text.splitlines())
    assert texts == [repr(report), repr(comparison)]
    for name, value in {"COLUMNS": "40", "FORCE_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    assert texts == [str(report), str(comparison)]


def test_the_figures_are_in_the_tables(api):
    model = net(api)
    tfreg.couple(model)[0].zero([0, 3])
    text = str(tfreg.report(model))
    assert text.splitlines()[0] == "Report of the model 'net'"
    assert cells(text, "parameters") == ["parameters", "26", "14", "53.8%"]
    assert cells(text, "multiply-adds") == ["multiply-adds", "20", "10", "50.0%"]
    row = cells(text, "hidden/kernel  GroupLasso")
    assert row[3:] == [row[3], "50.0%", "2 / 4", "2"] and row[3].endswith("%")
    assert cells(text, "hidden/kernel and 2 more")[1:3] == ["2 / 4", "0"]
    assert "leaves 2 of 4" in text
    assert cells(text, "it is an output of the model") == [
        "it is an output of the model",
        "2",
        "last/kernel and 1 more",
    ]


def test_long_tables_show_what_is_largest_and_say_how_much_is_left_out():
    report = tfreg.report(long_net(keras))
    assert len(report.penalties) == 30 + 29 + 30 + 30
    lines = str(report).splitlines()
    text = " ".join(" ".join(lines).split())
    assert "Shown are 12 of 119, those with the largest values." in text
    assert "Shown are 12 of 29, those that lose most." in text
    start = next(i for i, line in enumerate(lines) if line.startswith("  weight  "))
    largest = sorted(report.penalties, key=lambda row: -row.share)[:12]
    for row, line in zip(largest, lines[start + 1 :], strict=False):
        assert line.split()[-5:] == [f"{row.share:.1%}", "0.0%", "0", "/", "160", "0"][-5:]
        assert row.paths[0].startswith(line.split("...")[0].strip())
    assert lines[start + 13] == ""
    # Of the penalties of all couplings there is one row.
    assert sum("over couplings" in line for line in lines) == 1
    figures = report.to_dict()
    assert len(figures["penalties"]) == 119 and len(figures["couplings"]) == 29


def test_large_counts_have_separators():
    x = keras.Input((500,))
    y = keras.layers.Dense(2000, name="wide")(x)
    model = keras.Model(x, keras.layers.Dense(1)(y))
    text = str(tfreg.report(tfreg.add_penalty(model, tfreg.GroupLasso(0.1))))
    assert cells(text, "parameters")[1] == "1,004,001"
    assert "0 / 2,000" in text


def test_what_is_printed_is_not_read_as_markup(api):
    report = tfreg.report(net(api))
    [first, *others] = report.penalties
    first = dataclasses.replace(first, paths=["[bold]a[/bold] :smile: <b>&"])
    report = dataclasses.replace(report, model="<i>", penalties=[first, *others])
    assert "[bold]a[/bold] :smile: <b>&" in str(report)
    html = report._repr_html_()
    assert "[bold]a[/bold] :smile: &lt;b&gt;&amp;" in html
    assert "<i>" not in html and "<b>" not in html and "&lt;i&gt;" in html


@KERAS_3_FIRST
def test_html_has_the_tables_of_the_text(api):
    report = tfreg.report(long_net(api, depth=3))
    html = report._repr_html_()
    titles = re.findall("<h4>(.*?)</h4>", html)
    assert titles == [
        *("Totals", "Penalties", "Penalized weights"),
        *("Budgets", "Couplings", "Cannot be cut"),
    ]
    assert all(title in str(report) for title in titles)
    assert html.count("<table>") == html.count("</table>") == len(titles)
    assert html.count("<tr>") == html.count("</tr>") > len(report.penalties)
    comparison = report.compare(report)._repr_html_()
    assert re.findall("<h4>(.*?)</h4>", comparison)[0] == "Totals"


def test_what_diverged_shows():
    model = net(keras)
    for weight, value in zip(model.trainable_weights[::2], [np.nan, np.inf]):
        weight.assign(np.full(weight.shape, value))
    report = tfreg.report(model)
    values = [row["value"] for row in report.to_dict()["penalties"]]
    assert values == ["nan", "inf"] and [float(value) for value in values][1] == np.inf
    assert [row.share for row in report.penalties] == [0.0, 0.0]
    assert "nan" in str(report) and "inf" in str(report)
    json.dumps(report.to_dict(), allow_nan=False)
    assert report.to_dataframe()["value"].isna().tolist() == [True, False]


# As other objects.


@KERAS_3_FIRST
def test_the_dict_has_everything_but_norms(api):
    model = long_net(api, depth=4)
    report = tfreg.report(model)
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain == report.to_dict()
    assert {*plain} == {field.name for field in dataclasses.fields(report)}
    for name in ("penalties", "couplings", "budgets", "weights", "unfollowed"):
        rows = getattr(report, name)
        assert len(plain[name]) == len(rows) > 0
        fields = {field.name for field in dataclasses.fields(rows[0])} - {"norms"}
        for row, as_dict in zip(rows, plain[name]):
            assert {*as_dict} == fields
            for field in fields:
                value = getattr(row, field)
                value = list(map(list, value)) if field == "shapes" else value
                value = list(value) if isinstance(value, tuple) else value
                assert as_dict[field] == value
    assert plain["parameters"] == model.count_params()


@KERAS_3_FIRST
def test_a_data_frame_has_a_row_for_each_penalty(api):
    model = long_net(api, depth=3)
    report = tfreg.report(model)
    frame = report.to_dataframe()
    assert len(frame) == len(report.penalties)
    assert list(frame.columns) == [
        *("paths", "shapes", "penalty", "kind", "of_entries", "where"),
        *("strength", "value", "share"),
        *("elements", "zero_elements", "groups", "zero_groups", "small_groups"),
    ]
    assert frame["value"].tolist() == [row.value for row in report.penalties]
    assert frame["paths"].tolist() == [", ".join(row.paths) for row in report.penalties]
    missing = [row.groups is None for row in report.penalties]
    assert frame["groups"].isna().tolist() == missing and any(missing) and not all(missing)
    assert str(frame["groups"].dtype) == "Int64"
    without = dataclasses.replace(report, penalties=[])
    assert list(without.to_dataframe().columns) == list(frame.columns)


def test_without_pandas_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        tfreg.report(net(keras)).to_dataframe()


def test_plot_hands_the_report_on(monkeypatch):
    module = importlib.import_module("tfreg.reporting.report")
    monkeypatch.setattr(module, "plot_report", lambda *arguments: arguments)
    report = tfreg.report(net(keras))
    assert report.plot("a.png", theme="dark") == (report, "a.png", "dark")
    assert report.plot() == (report, None, "light")


# Two reports.


def test_a_comparison_pairs_what_has_the_same_paths(api):
    model = net(api)
    before = tfreg.report(model)
    tfreg.couple(model)[0].zero([1])
    middle = tfreg.report(model)
    after = tfreg.report(tfreg.compact(model))
    changed = before.compare(middle)
    assert isinstance(changed, Comparison)
    assert (changed.before, changed.after) == (before, middle)
    figures = changed.to_dict()
    assert figures == json.loads(json.dumps(figures, allow_nan=False))
    assert figures["weights"][0] == {
        "path": "hidden/kernel",
        "before": {"shape": [3, 4], "zero_elements": 0},
        "after": {"shape": [3, 4], "zero_elements": 3},
    }
    assert figures["couplings"][0]["after"] == {"size": 4, "left": 3}
    assert figures["penalties"][0]["before"]["zero_groups"] == 0
    assert figures["penalties"][0]["after"]["zero_groups"] == 1
    assert figures["totals"]["parameters_after"] == {"before": 26, "after": 20}
    text = str(changed)
    assert cells(text, "hidden/kernel  3 x 4") == ["hidden/kernel", "3 x 4", "3 x 4", "0", "3"]
    assert cells(text, "hidden/kernel  GroupLasso") == [
        *("hidden/kernel", "GroupLasso", "0 / 4", "1 / 4")
    ]
    assert "3 of 4 have changed." in text and "last/bias" not in text
    cut = str(middle.compare(after))
    assert cells(cut, "hidden/kernel  3 x 4") == ["hidden/kernel", "3 x 4", "3 x 3", "3", "0"]
    assert cells(cut, "parameters  ") == ["parameters", "26", "20", "76.9%"]
    assert "Two reports of the model 'net'" in cut
    assert "0 of 4 have changed." in str(before.compare(before))


def test_what_one_report_lacks_is_none_in_it(api):
    small, large = net(api, "small"), long_net(api, depth=2)
    comparison = tfreg.report(small).compare(tfreg.report(large))
    figures = comparison.to_dict()
    by_path = {row["path"]: row for row in figures["weights"]}
    assert by_path["hidden/bias"]["after"] is None
    assert by_path["hidden/bias"]["before"]["shape"] == [4]
    others = [row for path, row in by_path.items() if path.startswith("a_layer")]
    assert len(others) == 4 and all(row["before"] is None for row in others)
    assert figures["models"] == {"before": "small", "after": "deep"}
    text = str(comparison)
    assert "none" in cells(text, "hidden/bias") and "'small'" in text and "'deep'" in text
    assert figures["couplings"][0]["after"] is None


def test_several_penalties_on_one_weight_are_paired_in_their_order(api):
    model = tfreg.add_penalty(net(api), tfreg.GroupLasso(0.1, "input"), weights="hidden/kernel")
    report = tfreg.report(model)
    rows = report.compare(report).to_dict()["penalties"]
    assert len(rows) == 3 and all(row["before"] == row["after"] for row in rows)
    assert [row["before"]["groups"] for row in rows] == [4, 3, 2]


def test_only_reports_are_compared():
    report = tfreg.report(net(keras))
    with pytest.raises(TypeError, match="Argument `other` must be a report. Received: other=3"):
        report.compare(3)


# In another process.


FRESH = """
import json, sys
import keras, tf_keras, tfreg
api = {"keras": keras, "tf_keras": tf_keras}[sys.argv[1]]
print(json.dumps(tfreg.report(api.models.load_model(sys.argv[2])).to_dict()))
"""


@pytest.mark.slow
def test_a_saved_model_has_the_same_report_in_a_fresh_process(api, run_fresh, tmp_path):
    k, penalty = api.layers, tfreg.GroupLasso(0.1) + api.regularizers.L1(0.1)
    layers = [
        k.Conv2D(6, 3, name="conv", kernel_regularizer=api.regularizers.L2(0.1)),
        k.BatchNormalization(name="norm"),
        k.Flatten(),
        k.Dense(5, name="hidden", kernel_regularizer=penalty),
        k.Dense(2, name="last"),
    ]
    model = api.Sequential([api.Input((5, 5, 2)), *layers], name="net")
    networks.randomize(model, np.random.default_rng(0))
    ramp = tfreg.schedules.CubicRamp(begin=0, end=8)
    model = tfreg.add_penalty(model, tfreg.SparseGroupLasso(0.1), schedule=ramp)
    model = tfreg.add_penalty(model, tfreg.GroupLasso(0.2), weights=tfreg.couple(model))
    budget = tfreg.Budget(parameters=0.6, begin=1, end=4, heal=6, every=1)
    penalty = ("last/kernel", tfreg.MCP(0.1, 2.0))
    model = compiled(api, model, [(None, budget), penalty])
    model.fit(np.ones((10, 5, 5, 2)), np.ones((10, 2)), batch_size=2, verbose=0)
    report = tfreg.report(model)
    assert report.parameters_after < report.parameters
    model.save(tmp_path / "model.keras")
    found = run_fresh(FRESH, api.__name__, tmp_path / "model.keras")
    assert found == json.loads(json.dumps(report.to_dict()))
