"""The picture of a report: the norms of the groups of each weight, and how many of them are 0."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfreg.reporting import drawing
from tfreg.reporting.drawing import StrPath
from tfreg.reporting.themes import Theme, theme_named

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tfreg.reporting.penalized import ReportedPenalty
    from tfreg.reporting.report import Report

# Panels of a figure, at most.
_MOST_PANELS = 20
# A panel draws this many of the norms, at even ranks, if there are more.
_MOST_POINTS = 1000
# If no panel has more norms to draw, each is a dot.
_MOST_DOTS = 60
_ONE = {"groups": "group", "elements": "element", "entries": "entry"}
_PANEL_WIDTH, _PANEL_HEIGHT = 3.3, 2.5


class _Panel(NamedTuple):
    """The `norms` that one panel shows, those of `things`.

    `zeros` of these are exactly 0, which a norm may be of what is not. Up to `small` they count as
    small. The `share` of the sum of all penalties ranks the panels.
    """

    paths: Sequence[str]
    kind: str
    things: str
    norms: np.ndarray
    zeros: int
    small: float | None
    share: float

    @property
    def rank(self) -> tuple[float, float]:
        """More for what is to be shown first."""
        return self.zeros / max(len(self.norms), 1), self.share


@drawing.by_defaults()
def plot_report(report: "Report", path: StrPath | None = None, theme: str = "light") -> "Figure":
    """Draws the norms of the groups of each penalized weight, and counts the exact zeros.

    A panel for each penalty of the `report` has the norms in descending order, on a log scale; the
    shaded part is exactly 0. A penalty without groups has the absolute values of the elements.
    Where no penalty has groups, the entries of the model's couplings have panels too.

    A figure has at most 20 panels: those of the largest share of zeros, then those of the largest
    share of the penalty, in the model's order. Its title says how many there are. A panel draws at
    most 1000 of its norms, at even ranks; it counts all.

    Args:
        report: what `tfreg.report` returns.
        path: a file to save the figure in, in the format that its ending names. None saves
            nothing.
        theme: `"light"` or `"dark"`.

    Returns:
        A `matplotlib.figure.Figure`, which a notebook shows.

    Raises:
        ValueError: for any other `theme`, and for a `path` with an unknown ending or in no
            directory.
        ModuleNotFoundError: without matplotlib.
    """
    colors, place = theme_named(theme), drawing.check_path(path)
    panels = _panels(report)
    shown = _that_matter(panels)
    columns = _columns(len(shown))
    rows = math.ceil(len(shown) / columns)
    width, height = max(columns * _PANEL_WIDTH, 6.4), max(rows * _PANEL_HEIGHT, 3.0) + 1.0
    figure = drawing.new_figure(width, height, colors)
    drawing.set_title(figure, _headline(report.model, panels, len(shown)), colors)
    if shown:
        _draw_all(figure, shown, rows, columns, report.tolerance, colors)
    return drawing.save(figure, place)


def _panels(report: "Report") -> list[_Panel]:
    panels = [_of_penalty(each, report.tolerance) for each in report.penalties]
    if all(penalty.groups is None for penalty in report.penalties):
        for each in report.couplings:
            zeros = int(np.count_nonzero(each.norms == 0.0))
            panels.append(_Panel(each.paths, "Coupling", "entries", each.norms, zeros, None, 0.0))
    return panels


def _of_penalty(reported: "ReportedPenalty", tolerance: float) -> _Panel:
    norms = reported.norms
    small = tolerance * np.max(norms, initial=0.0, where=np.isfinite(norms))
    things, zeros = "groups", reported.zero_groups
    if zeros is None:
        things, zeros = "elements", reported.zero_elements
    return _Panel(reported.paths, reported.kind, things, norms, zeros, small, reported.share)


def _that_matter(panels: list[_Panel]) -> list[_Panel]:
    """At most `_MOST_PANELS` of the `panels`, in their order."""
    by_rank = sorted(range(len(panels)), key=lambda i: panels[i].rank, reverse=True)
    return [panels[i] for i in sorted(by_rank[:_MOST_PANELS])]


def _columns(count: int) -> int:
    return min(max(count, 1), 3 if count in (3, 5, 6, 9) else 2 if count <= 4 else 4)


def _headline(model: str, panels: list[_Panel], shown: int) -> str:
    if not panels:
        return f"{model}: no penalties on weights, and no couplings"
    if shown < len(panels):
        has_couplings = any(panel.things == "entries" for panel in panels)
        what = "penalties and couplings" if has_couplings else "penalties on weights"
        return (
            f"{model}: norms under {shown} of {len(panels)} {what}. Left out: the "
            f"{len(panels) - shown} with the smallest share of zeros, then of the penalty"
        )
    return f"{model}: norms, from the largest to the smallest"


def _draw_all(
    figure: "Figure",
    panels: list[_Panel],
    rows: int,
    columns: int,
    tolerance: float,
    theme: Theme,
) -> None:
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    kinds = {panel.kind for panel in panels}
    pitch = 72.0 * (figure.get_figwidth() - 0.9) / columns - 14.0
    things = sorted({panel.things for panel in panels})
    marker = "o" if all(len(_positive(panel)) <= _MOST_DOTS for panel in panels) else "none"
    for number, axes in enumerate(grid.flat):
        if number >= len(panels):
            axes.remove()
            continue
        panel = panels[number]
        _draw(axes, panel, marker, theme)
        lines = [_names(panel.paths), *[panel.kind] * (len(kinds) > 1), *_counts(panel)]
        title = "\n".join(drawing.shortened(line, pitch) for line in lines)
        axes.set_title(title, loc="left", **drawing.words(theme))
        if number % columns == 0:
            axes.set_ylabel(_norm_label(things), **drawing.words(theme))
        if number + columns >= len(panels):
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("rank, % of all", **drawing.words(theme))
    _set_limits(grid[0, 0], panels)
    _add_legend(figure, panels, tolerance, theme)


def _names(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{paths[0]}{more}"


def _counts(panel: _Panel) -> list[str]:
    things = panel.things if len(panel.norms) != 1 else _ONE[panel.things]
    counts = [f"{panel.zeros:,} of {len(panel.norms):,} {things} zero"]
    bad = int(np.count_nonzero(~np.isfinite(panel.norms)))
    return counts + [f"{bad:,} NaN or infinite"] * (bad > 0)


def _norm_label(things: list[str]) -> str:
    names = {"groups": "group norm", "elements": "|weight|", "entries": "norm of the entry"}
    return ", ".join(names[thing] for thing in things)


def _draw(axes: "Axes", panel: _Panel, marker: str, theme: Theme) -> None:
    drawing.style(axes, theme)
    axes.set_autoscale_on(False)  # the panels have limits in common
    axes.plot(
        *_curve(panel),
        color=theme.lines[0],
        linestyle="-",
        linewidth=1.8,
        marker=marker,
        markersize=3.5,
    )
    if panel.zeros:
        # The last ranks; what is not finite takes the first.
        start = 100.0 * (1.0 - panel.zeros / len(panel.norms))
        axes.axvspan(start, 100.0, facecolor=theme.zero, edgecolor="none", alpha=0.6)
    if panel.small:
        axes.axhline(panel.small, color=theme.lines[1], linewidth=1.2, linestyle=(0, (4, 2)))


def _curve(panel: _Panel) -> tuple[np.ndarray, np.ndarray]:
    """Ranks in percent, and the positive norms in descending order at these."""
    positive = np.sort(_positive(panel))[::-1]
    places = np.arange(len(positive))
    if len(positive) > _MOST_POINTS:
        places = np.linspace(0, len(positive) - 1, _MOST_POINTS).round().astype(int)
    bad = np.count_nonzero(~np.isfinite(panel.norms))
    return 100.0 * (places + bad + 0.5) / max(len(panel.norms), 1), positive[places]


def _positive(panel: _Panel) -> np.ndarray:
    return panel.norms[np.isfinite(panel.norms) & (panel.norms > 0.0)]


def _set_limits(axes: "Axes", panels: list[_Panel]) -> None:
    axes.set_xlim(-1.5, 101.5)
    axes.set_xticks([0, 25, 50, 75, 100])
    low, high = np.inf, 0.0
    for panel in panels:
        low = np.min(_positive(panel), initial=min(low, panel.small or low))
        high = np.max(_positive(panel), initial=high)
    if high > 0.0:
        drawing.log_axis(axes, low, high)
    else:  # all that there is is shaded, and a scale would mean nothing
        axes.set_ylim(0.0, 1.0)
        axes.set_yticks([0.0])


def _add_legend(figure: "Figure", panels: list[_Panel], tolerance: float, theme: Theme) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    if any(panel.zeros for panel in panels):
        handles.append(Patch(facecolor=theme.zero, alpha=0.6, label="exactly 0"))
    if any(panel.small for panel in panels):
        label = f"{tolerance:g} × the largest norm: up to it, norms count as small"
        handles.append(
            Line2D([], [], color=theme.lines[1], linewidth=1.2, linestyle=(0, (4, 2)), label=label)
        )
    if handles:
        drawing.legend(figure, theme, loc="outside lower left", handles=handles, ncols=2)
