"""What do the benchmarks' measurements look like?

    python -m benchmarks.figures [FOLDER]

Draws kernels.png, growth.png, fit.png and worth.png from those of kernels.json, growth.json,
fit.json and worth.json that are in the folder, which is that of the results if none is given.
"""

import argparse
import json
import pathlib

from matplotlib import color_sequences
from matplotlib.figure import Figure

from benchmarks.worth.figure import worth

RESULTS = pathlib.Path(__file__).parent / "results"
# The names are also in `penalties` and `bench_kernels`, which import TensorFlow.
COPY, L2 = "copy", "keras L2"


def median(measurement):
    return measurement["seconds"][1]


def values(measurements, key):
    """The distinct values of `key`, in order."""
    return list(dict.fromkeys(measurement[key] for measurement in measurements))


def only(measurements, **wanted):
    return [m for m in measurements if wanted.items() <= m.items()]


def _draw_bars(ax, series):
    """Draws horizontal bars, side by side, of the lengths by label of each of `series`."""
    labels = list(dict.fromkeys(label for lengths in series.values() for label in lengths))
    height = 0.8 / len(series)
    for number, (name, lengths) in enumerate(series.items()):
        positions = [labels.index(label) + number * height for label in lengths]
        ax.barh(positions, list(lengths.values()), height, align="edge", label=name)
    ax.set_yticks([position + 0.4 for position in range(len(labels))], labels)
    ax.set_ylim(len(labels), -0.2)
    ax.grid(axis="x", alpha=0.4)


def _add_legend(figure):
    # All panels have the same.
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def kernels(measurements):
    """Value and gradient of each penalty, in both modes, on each weight."""
    weights = values(measurements, "weight")
    figure = Figure(figsize=(3.0 + 4.0 * len(weights), 7.0), layout="constrained")
    panels = figure.subplots(1, len(weights), sharey=True, squeeze=False)[0]
    for ax, weight in zip(panels, weights):
        [copy] = only(measurements, weight=weight, penalty=COPY)
        gradients = only(measurements, weight=weight, computes="gradient")
        own = [m for m in gradients if m["form"] != "by hand"]
        series = {
            mode: {m["penalty"]: median(m) / median(copy) for m in only(own, mode=mode)}
            for mode in values(own, "mode")
        }
        _draw_bars(ax, series)
        ax.axvline(1.0, color="black", label="1 copy")
        ax.axvline(1.5, color="black", linestyle="dotted", label="1.5 copies")
        ax.set(title=weight, xlabel="time of value and gradient / copy of the weight")
    _add_legend(figure)
    return figure


def _draw_sizes(ax, measurements):
    names = values(measurements, "penalty")
    for name, color in zip(names, color_sequences["tab20"] * len(names)):
        of_penalty = only(measurements, penalty=name)
        style = {"color": "black", "linestyle": "dashed"} if name == COPY else {"color": color}
        sizes = [m["weights"] for m in of_penalty]
        ax.plot(sizes, [median(m) for m in of_penalty], marker=".", label=name, **style)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set(xlabel="weights", ylabel="seconds of value and gradient under XLA")
    ax.grid(alpha=0.4)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _draw_groups(ax, measurements):
    [copy] = only(measurements, penalty=COPY)
    grouped = [m for m in measurements if m["penalty"] != COPY]
    for name in values(grouped, "penalty"):
        of_form = only(grouped, penalty=name)
        ratios = [median(m) / median(copy) for m in of_form]
        ax.plot([m["groups"] for m in of_form], ratios, marker="o", label=name)
    ax.set_xscale("log", base=2)
    ax.set_xticks(values(grouped, "groups"))
    ax.set_ylim(bottom=0.0)
    ax.set(xlabel=f"groups of {copy['weights']} weights", ylabel="time / copy of the weights")
    ax.grid(alpha=0.4)
    ax.legend()


def growth(measurements):
    """Time by size of each penalty, and by number of groups of each form of group."""
    draw = {"weights": _draw_sizes, "groups": _draw_groups}
    measured = values(measurements, "varies")
    figure = Figure(figsize=(8.0 * len(measured), 6.0), layout="constrained")
    for ax, varies in zip(figure.subplots(1, len(measured), squeeze=False)[0], measured):
        draw[varies](ax, only(measurements, varies=varies))
    return figure


def fit(measurements):
    """The step of each model with each penalty, in both modes."""
    models = values(measurements, "model")
    figure = Figure(figsize=(3.0 + 3.0 * len(models), 5.0), layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for ax, model in zip(panels, models):
        series: dict = {}
        for mode in values(measurements, "mode"):
            of_mode = only(measurements, model=model, mode=mode)
            series[mode] = {f"{m['penalty']} ({m['through']})": m["over_l2"][1] for m in of_mode}
        _draw_bars(ax, series)
        ax.axvline(1.0, color="black", label=L2)
        ax.set(title=model, xlabel="time of a step / that with L2")
    _add_legend(figure)
    return figure


FIGURES = {draw.__name__: draw for draw in (kernels, growth, fit, worth)}


def draw_all(folder):
    """Draws each figure whose measurements are in the folder; yields the files."""
    for name, draw in FIGURES.items():
        measured = folder / f"{name}.json"
        if measured.exists():
            figure = draw(json.loads(measured.read_text())["measurements"])
            figure.savefig(folder / f"{name}.png", dpi=80)
            yield folder / f"{name}.png"


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=RESULTS)
    for drawn in draw_all(parser.parse_args(arguments).folder):
        print(f"Wrote {drawn}")


if __name__ == "__main__":
    main()
