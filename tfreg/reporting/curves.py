"""The picture of a training: zeros, strengths, losses and metrics over the epochs."""

import csv
import os
import pathlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfreg.checks import nearest, shown
from tfreg.reporting import drawing
from tfreg.reporting.drawing import StrPath
from tfreg.reporting.themes import Theme, theme_named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_VALIDATION = "val_"
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


class _Curve(NamedTuple):
    name: str
    epochs: np.ndarray
    values: np.ndarray


def plot_history(
    history: Any,
    path: StrPath | None = None,
    metrics: Sequence[str] | None = None,
    theme: str = "light",
) -> "Figure":
    """Draws how zeros, strengths, losses and metrics went over the epochs of a training.

    The panels are, from the top and as far as there are figures for them: shares of zeros in
    percent, counts of zeros, the strength on a log scale, losses and penalties, and metrics such as
    accuracy; others have a panel each. What is of the validation is dashed. A cross at the upper
    border stands for NaN or infinity. Epochs count from 1, as in the progress line of `fit`.

    Args:
        history: what `fit` returns, a dict of lists, or the path of a file that Keras's
            `CSVLogger` wrote. A list that has an entry for each n-th epoch, as with
            `validation_freq`, is drawn at these. If epochs start again, as in the file of two
            trainings, they are counted on.
        path: a file to save the figure in, in the format that its ending names. None saves
            nothing.
        metrics: a list of the names to draw. None draws those with zeros, strengths, losses,
            penalties and kinds of accuracy, or all if there is none of these.
        theme: `"light"` or `"dark"`.

    Returns:
        A `matplotlib.figure.Figure`, which a notebook shows.

    Raises:
        TypeError: for any other `history`.
        ValueError: if it has no figures, or not those of `metrics`; for any other `theme`; and for
            a `path` with an unknown ending or in no directory.
        ModuleNotFoundError: without matplotlib.

    Example:

    >>> history = {"loss": [2.0, 1.5], "val_loss": [2.1, 1.8], "sparsity": [0.0, 0.4]}
    >>> figure = tfreg.plot_history(history)
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['zeros, %', 'loss']
    """
    colors, place = theme_named(theme), drawing.check_path(path)
    panels = _panels(_chosen(_curves(history), metrics))
    figure = drawing.new_figure(_WIDTH, max(len(panels) * _PANEL_HEIGHT, 3.2) + 0.5, colors)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, curves) in zip(grid, panels.items()):
        _draw(axes, label, curves, colors)
    _set_epochs(grid[-1], panels, colors)
    figure.align_ylabels(list(grid))
    return drawing.save(figure, place)


def _curves(history: Any) -> dict[str, _Curve]:
    """The figures of `history` by name."""
    columns, epochs = _columns(history)
    count = max(map(len, columns.values()), default=0)
    if not count:
        raise ValueError(
            f"Argument `history` must have figures of at least one epoch. Received: {history!r}"
        )
    if epochs is None or len(epochs) != count or not (np.diff(epochs) > 0).all():
        epochs = np.arange(count)
    curves = {}
    for name, values in columns.items():
        every = count // max(len(values), 1)
        if values and count // every != len(values):
            raise ValueError(
                "Argument `history` must have a figure for each epoch, or for each n-th. "
                f"Received: {len(values)} of {name!r} for {count} epochs"
            )
        at = epochs[every - 1 :: every][: len(values)] + 1
        is_there = np.array([value is not None for value in values], bool)
        numbers = np.array([value for value in values if value is not None], float)
        curves[name] = _Curve(name, at[is_there], numbers)
    return {name: curve for name, curve in curves.items() if len(curve.values)}


def _columns(history: Any) -> tuple[dict[str, list[Any]], np.ndarray | None]:
    """Lists of figures by name, None where one is missing, and the epochs if they are known."""
    if isinstance(history, (str, os.PathLike)):
        columns = _read(pathlib.Path(history))
        epochs: Any = columns.pop("epoch", None)
    else:
        columns = getattr(history, "history", history)
        if not isinstance(columns, dict):
            raise TypeError(
                "Argument `history` must be what `fit` returns, a dict of lists, or the path of "
                f"a CSV file. Received: {history!r}"
            )
        columns = {str(name): _numbers(values) for name, values in columns.items()}
        epochs = columns.pop("epoch", getattr(history, "epoch", None))
    if epochs is not None:
        epochs = None if None in epochs else np.array(epochs, float)
    return {name: values for name, values in columns.items() if values is not None}, epochs


def _read(path: pathlib.Path) -> dict[str, Any]:
    """The columns of a CSV file."""
    with path.open(newline="") as file:
        header = file.readline()
        file.seek(0)
        separator = max(",;\t|", key=header.count)
        rows = list(csv.DictReader(file, delimiter=separator))
    names = [name for name in (rows[0] if rows else {}) if name]
    return {name: _numbers([row[name] for row in rows]) for name in names}


def _numbers(values: Any) -> list[float | None] | None:
    """`values` as floats, None where one is missing; None if they are no numbers."""
    numbers: list[float | None] = []
    try:
        for value in values:
            is_missing = value is None or (isinstance(value, str) and value in ("", "NA"))
            numbers.append(None if is_missing else float(value))
    except (TypeError, ValueError):  # a metric may be an array
        return None
    return numbers


def _chosen(curves: dict[str, _Curve], metrics: Any) -> list[_Curve]:
    if metrics is None:
        known = [curve for name, curve in curves.items() if _panel_of(name) is not None]
        return known or list(curves.values())
    is_list = isinstance(metrics, (list, tuple)) and metrics
    if not is_list or not all(isinstance(name, str) for name in metrics):
        raise ValueError(
            f"Argument `metrics` must be None or a list of names. Received: metrics={metrics!r}"
        )
    for name in metrics:
        if name not in curves:
            raise ValueError(
                f"Argument `metrics` must consist of names out of {shown(list(curves))}. "
                f"Received: {name!r}{nearest(name, curves)}"
            )
    return [curves[name] for name in dict.fromkeys(metrics)]


def _panel_of(name: str) -> str | None:
    base = name.removeprefix(_VALIDATION)
    return next((label for label, names in _PANELS.items() if names.search(base)), None)


def _panels(curves: list[_Curve]) -> dict[str, list[_Curve]]:
    """The curves of each panel, by the panel's label, from the top."""
    panels: dict[str, list[_Curve]] = {label: [] for label in ("zeros, %", "zeros", *_PANELS)}
    for curve in curves:
        label = _panel_of(curve.name) or curve.name.removeprefix(_VALIDATION)
        if label == "zeros, %":
            finite = curve.values[np.isfinite(curve.values)]
            if np.max(finite, initial=0.0) > 1.0:
                label = "zeros"
            else:
                curve = curve._replace(values=100.0 * curve.values)
        panels.setdefault(label, []).append(curve)
    return {label: curves for label, curves in panels.items() if curves}


def _draw(axes: "Axes", label: str, curves: list[_Curve], theme: Theme) -> None:
    drawing.style(axes, theme)
    bases = list(dict.fromkeys(curve.name.removeprefix(_VALIDATION) for curve in curves))
    for curve in curves:
        base = curve.name.removeprefix(_VALIDATION)
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


def _set_scale(axes: "Axes", label: str, curves: list[_Curve]) -> None:
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


def _set_epochs(axes: "Axes", panels: dict[str, list[_Curve]], theme: Theme) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = np.concatenate([curve.epochs for curves in panels.values() for curve in curves])
    margin = max(0.02 * (epochs.max() - epochs.min()), 0.25)
    axes.set_xlim(epochs.min() - margin, epochs.max() + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", **drawing.words(theme))
