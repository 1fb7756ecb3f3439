"""The picture of a training: zeros, strengths, losses and metrics over the epochs."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfreg.checks import nearest, shown
from tfreg.reporting import drawing
from tfreg.reporting.drawing import StrPath
from tfreg.reporting.histories import VALIDATION, Curve, Frequency, check_frequency, figures_of
from tfreg.reporting.themes import Theme, theme_named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Whether the name of a metric, without "val_", is one of those of a panel; the order is theirs.
_PANELS = {
    "zeros, %": re.compile(r"sparsity|zero"),
    "strength": re.compile(r"strength"),
    "loss": re.compile(r"loss|penalty"),
    "metric": re.compile(r"acc|auc|precision|recall|f1|iou"),
}
_STYLES: list[Any] = ["-", (0, (1, 1.5))]
_VALIDATION_STYLES: list[Any] = [(0, (5, 2)), (0, (5, 1.5, 1, 1.5))]
# Up to this many epochs, each is a dot.
_MOST_DOTS = 40
_WIDTH, _PANEL_HEIGHT = 9.0, 2.3
# In inches: a line of a legend.
_LINE_HEIGHT = 0.215
# Of a figure; and of a panel, where no metrics are named.
_MOST_PANELS, _MOST_CURVES = 8, 8
# What comes first where a panel has too many: those of the whole model.
_FIRST = re.compile(
    "loss|loss_without_penalty|penalty|sparsity|zero_groups|zero_elements|strength|accuracy"
)


@drawing.by_defaults()
def plot_history(
    history: Any,
    path: StrPath | None = None,
    metrics: Sequence[str] | None = None,
    theme: str = "light",
    validation_freq: Frequency = None,
) -> "Figure":
    """Draws how zeros, strengths, losses and metrics went over the epochs of a training.

    The panels are, from the top and as far as there are figures for them: shares of zeros in
    percent, counts of zeros, the strength on a log scale, losses and penalties, and metrics such as
    accuracy; others have a panel each. Figures of the validation are dashed. A cross at the upper
    border stands for NaN or infinity. Epochs count from 1, as in the progress line of `fit`.

    A figure has at most 8 panels. A panel has at most 8 curves, with those of the whole model
    first; the title says how many are left out. Of `metrics` that are named, a panel draws up to
    12, each with that of the validation.

    Args:
        history: what `fit` returns, a dict of lists, or the path of a file that Keras's
            `CSVLogger` wrote. If epochs start again, as in the file of two trainings, they are
            counted on.
        path: a file to save the figure in, in the format that its ending names. None saves
            nothing.
        metrics: a list of the names to draw. None draws those with zeros, strengths, losses,
            penalties and kinds of accuracy, or all if there is none of these.
        theme: `"light"` or `"dark"`.
        validation_freq: what `fit` was given, if it was not 1: each how many epochs, or a list of
            epochs. A history does not hold it. None takes it for the one number that gives as many
            figures as a shorter list has, if there is one: a list of epochs must be given. A file
            has gaps instead, and needs none.

    Returns:
        A `matplotlib.figure.Figure`, which a notebook shows.

    Raises:
        TypeError: for any other `history`.
        ValueError: if it has no figures, or not those of `metrics`; for more of these than can be
            told apart; if a list is shorter than the others, and `validation_freq` is not given
            where several would do, or is another one; for any other `theme`; and for a `path` with
            an unknown ending or in no directory.
        ModuleNotFoundError: without matplotlib.

    Example:

    >>> history = {"loss": [2.0, 1.5], "val_loss": [2.1, 1.8], "sparsity": [0.0, 0.4]}
    >>> figure = tfreg.plot_history(history)
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['zeros, %', 'loss']
    """
    colors, place = theme_named(theme), drawing.check_path(path)
    check_frequency(validation_freq)
    figures = figures_of(history)
    names = _chosen(list(figures.columns), metrics)
    panels = _panels([figures.curve(name, validation_freq) for name in names])
    if metrics is None:
        panels = _limited(panels)
    _check_limits(panels, len(colors.lines) * len(_STYLES))
    left_out = len(names) - sum(map(len, panels.values()))
    heights = [max(_PANEL_HEIGHT, 0.4 + _LINE_HEIGHT * len(each)) for each in panels.values()]
    figure = drawing.new_figure(_WIDTH, max(sum(heights), 3.2) + 0.5 + 0.3 * (left_out > 0), colors)
    if left_out:
        title = f"{left_out} of {len(names)} curves left out: name those to draw by metrics=[...]"
        drawing.set_title(figure, title, colors)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (label, curves) in zip(grid, panels.items()):
        _draw(axes, label, curves, colors)
    _set_epochs(grid[-1], panels, colors)
    figure.align_ylabels(list(grid))
    return drawing.save(figure, place)


def _chosen(names: list[str], metrics: Any) -> list[str]:
    if metrics is None:
        return [name for name in names if _panel_of(name) is not None] or names
    is_list = isinstance(metrics, (list, tuple)) and metrics
    if not is_list or not all(isinstance(name, str) for name in metrics):
        raise ValueError(
            f"Argument `metrics` must be None or a list of names. Received: metrics={metrics!r}"
        )
    for name in metrics:
        if name not in names:
            raise ValueError(
                f"Argument `metrics` must consist of names out of {shown(names)}. "
                f"Received: {name!r}{nearest(name, names)}"
            )
    return list(dict.fromkeys(metrics))


def _panel_of(name: str) -> str | None:
    base = name.removeprefix(VALIDATION)
    return next((label for label, names in _PANELS.items() if names.search(base)), None)


def _panels(curves: list[Curve]) -> dict[str, list[Curve]]:
    """The curves of each panel, by the panel's label, from the top."""
    panels: dict[str, list[Curve]] = {label: [] for label in ("zeros, %", "zeros", *_PANELS)}
    for curve in curves:
        label = _panel_of(curve.name) or curve.name.removeprefix(VALIDATION)
        if label == "zeros, %":
            finite = curve.values[np.isfinite(curve.values)]
            if np.max(finite, initial=0.0) > 1.0:
                label = "zeros"
            else:
                curve = curve._replace(values=100.0 * curve.values)
        panels.setdefault(label, []).append(curve)
    return {label: curves for label, curves in panels.items() if curves}


def _limited(panels: dict[str, list[Curve]]) -> dict[str, list[Curve]]:
    return {label: _that_matter(panels[label]) for label in list(panels)[:_MOST_PANELS]}


def _that_matter(curves: list[Curve]) -> list[Curve]:
    """At most `_MOST_CURVES` of the `curves`, in order; a training has its validation."""
    kept: list[str] = []
    for base in sorted(_bases(curves), key=lambda base: _FIRST.fullmatch(base) is None):
        names = [each.name for each in curves if each.name.removeprefix(VALIDATION) == base]
        if len(kept) + len(names) > _MOST_CURVES:
            break
        kept += names
    return [curve for curve in curves if curve.name in kept]


def _bases(curves: list[Curve]) -> list[str]:
    """The names of the metrics, without "val_"."""
    return list(dict.fromkeys(curve.name.removeprefix(VALIDATION) for curve in curves))


def _check_limits(panels: dict[str, list[Curve]], most: int) -> None:
    if len(panels) > _MOST_PANELS:
        raise ValueError(
            f"Argument `metrics` must consist of names for at most {_MOST_PANELS} panels. "
            f"Received: names for {len(panels)}, {shown(list(panels))}"
        )
    for label, curves in panels.items():
        bases = _bases(curves)
        if len(bases) > most:
            raise ValueError(
                f"Argument `metrics` must have at most {most} metrics for a panel, and their "
                f"validation: more cannot be told apart. Received: {len(bases)} for {label!r}"
            )


def _draw(axes: "Axes", label: str, curves: list[Curve], theme: Theme) -> None:
    drawing.style(axes, theme)
    bases = _bases(curves)
    for curve in curves:
        base = curve.name.removeprefix(VALIDATION)
        turn, number = divmod(bases.index(base), len(theme.lines))
        styles = _STYLES if curve.name == base else _VALIDATION_STYLES
        color, bad = theme.lines[number], ~np.isfinite(curve.values)
        more = f" ({np.count_nonzero(bad)} NaN or infinite)" if bad.any() else ""
        axes.plot(
            curve.epochs,
            np.where(bad, np.nan, curve.values),
            color=color,
            linewidth=1.8,
            linestyle=styles[turn % len(styles)],
            marker="o" if len(curve.epochs) <= _MOST_DOTS else "none",
            markersize=3.5,
            label=drawing.shortened(curve.name + more, 190.0),
        )
        axes.plot(
            curve.epochs[bad],
            np.full(np.count_nonzero(bad), 0.96),
            transform=axes.get_xaxis_transform(),
            color=color,
            linestyle="none",
            marker="x",
            markersize=6.0,
        )
    axes.set_ylabel(drawing.shortened(label, 140.0), **drawing.words(theme))
    _set_scale(axes, label, curves)
    # In the order of the curves, to the right of them: it covers none.
    drawing.legend(axes, theme, loc="upper left", bbox_to_anchor=(1.0, 1.02), borderaxespad=0.3)


def _set_scale(axes: "Axes", label: str, curves: list[Curve]) -> None:
    values = np.concatenate([curve.values for curve in curves])
    values = values[np.isfinite(values)]
    positive = values[values > 0.0]
    if label == "strength" and len(positive):
        drawing.log_axis(axes, positive.min(), positive.max())
    elif label in ("zeros, %", "zeros"):
        most = np.max(values, initial=0.0) or 1.0
        axes.set_ylim(-0.05 * most, 1.1 * most)
    elif not len(values):
        axes.set_ylim(0.0, 1.0)
        axes.set_yticks([])


def _set_epochs(axes: "Axes", panels: dict[str, list[Curve]], theme: Theme) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = np.concatenate([curve.epochs for curves in panels.values() for curve in curves])
    margin = max(0.02 * (epochs.max() - epochs.min()), 0.25)
    axes.set_xlim(epochs.min() - margin, epochs.max() + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", **drawing.words(theme))
