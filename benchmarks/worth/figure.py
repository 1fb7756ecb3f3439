"""The measurements as bars with their spread, one colour a contender.

Each is divided by the mean of *none* in the same case, so that errors of classes and of targets
share a scale.
"""

import textwrap

from matplotlib.figure import Figure

from benchmarks.worth import protocol, tables

# Colours that people with any kind of colour vision tell apart (Okabe and Ito, 2008).
USUAL = {
    "none": "#999999",
    "early stopping": "#000000",
    "L2": "#0072B2",
    "L1": "#56B4E9",
    "dropout": "#F0E442",
}
OTHERS = ["#009E73", "#004D38", "#7FCEB9", "#B5E61D"]
OURS = ["#D55E00", "#CC79A7", "#E69F00", "#7A3600", "#663C54"]
# The figure that is drawn of an experiment, if not its first.
DRAWN = {"linear": "F1", "forgetting": "mean error", "quantization": "int8 error per tensor"}


def colors_of(compared):
    """The colour of each contender: warm ones are tfreg's."""
    others = [name for name in compared.values if name not in USUAL and name not in compared.ours]
    return USUAL | dict(zip(others, OTHERS)) | dict(zip(compared.ours, OURS))


def _draw(ax, comparisons):
    """Bars of the means of all contenders, side by side in each case."""
    names = dict.fromkeys(name for each in comparisons for name in each.values)
    # Its bar would dwarf the others.
    names.pop(protocol.NO_INPUTS, None)
    colors = {name: color for each in comparisons for name, color in colors_of(each).items()}
    width = 0.85 / len(names)
    for number, name in enumerate(names):
        places, means, spreads = [], [], []
        for place, compared in enumerate(comparisons):
            if name in compared.values:
                mean, spread = protocol.mean_and_spread(compared.values[name])
                of_none, _ = protocol.mean_and_spread(compared.values[protocol.NONE])
                places.append(place + number * width)
                means.append(mean / of_none)
                spreads.append(spread / of_none)
        bars = {"color": colors[name], "align": "edge", "label": name, "error_kw": {"lw": 0.8}}
        ax.bar(places, means, width, yerr=spreads, **bars)
    room = max(14, 200 // len(comparisons))  # characters
    cases = [textwrap.fill(each.case, room, break_long_words=False) for each in comparisons]
    ax.set_xticks([place + 0.42 for place in range(len(cases))], cases, fontsize=7)
    ax.set_xlim(-0.1, len(cases))
    ax.set_ylim(bottom=0.0)
    title = tables.PROBLEMS[comparisons[0].experiment]
    more_is_better = ", more is better" if comparisons[0].sign < 0.0 else ""
    ax.set(title=title, ylabel=f"{comparisons[0].figure} / that of none{more_is_better}")
    ax.grid(axis="y", alpha=0.4)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)


def worth(measurements):
    """One panel for each experiment, of one of its figures."""
    panels: dict = {}
    for compared in protocol.comparisons(measurements):
        panels.setdefault(compared.experiment, []).append(compared)
    for experiment, comparisons in panels.items():
        drawn = DRAWN.get(experiment, comparisons[0].figure)
        panels[experiment] = [each for each in comparisons if each.figure == drawn]
    figure = Figure(figsize=(24.0, 3.6 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for ax, comparisons in zip(axes, panels.values()):
        _draw(ax, comparisons)
    return figure
