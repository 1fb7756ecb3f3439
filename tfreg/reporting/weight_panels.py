"""The panel of one weight: tiles, a matrix or bars."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tfreg.reporting import drawing
from tfreg.reporting.themes import Theme, diverging, magnitudes
from tfreg.reporting.weight_views import View, columns_of_tiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What a panel draws at most, from the first on: tiles, or rows and columns.
MOST_TILES = 256
MOST_LINES = 256
# Rows and columns are crossed if they have this share of the panel: there is room.
_LEAST_HATCHED = 0.02


def draw_tiles(axes: "Axes", view: View, theme: Theme) -> None:
    """Draws a tile for each filter, row by row."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgb

    shown = shown_units(view)
    height, width = view.values.shape[1:3]
    columns = columns_of_tiles(len(shown), height, width)
    rows = math.ceil(len(shown) / columns)
    gap = max(height, width) // 12 + 1
    down, right = height + gap, width + gap
    mosaic = np.empty((rows * down - gap, columns * right - gap, 3))
    mosaic[:] = to_rgb(theme.background)
    tiles = _painted(view.values[: len(shown)], view, theme)
    tiles[view.is_dead[: len(shown)]] = to_rgb(dead_color(view, theme))
    crosses = []
    for number in shown:
        top, left = number // columns * down, number % columns * right
        mosaic[top : top + height, left : left + width] = tiles[number]
        if view.is_dead[number]:
            low, high = (left - 0.5, top - 0.5), (left + width - 0.5, top + height - 0.5)
            corners = [low, (low[0], high[1]), high, (high[0], low[1])]
            crosses += [corners[::2], corners[1::2], [*corners, low]]
    axes.imshow(mosaic, interpolation="nearest", origin="upper", aspect="equal")
    axes.add_collection(LineCollection(crosses, colors=theme.text, linewidths=0.9))
    axes.set_xticks([])
    step = math.ceil(rows / 8)
    axes.set_yticks(
        [row * down + (height - 1) / 2 for row in range(0, rows, step)],
        labels=[str(row * columns) for row in range(0, rows, step)],
    )
    axes.set_ylabel("index of the first in the row", **drawing.words(theme))
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_matrix(axes: "Axes", view: View, theme: Theme) -> None:
    """Draws a column for each unit, one gate beside the other."""
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator

    shown = shown_units(view)
    gates, rows = view.values.shape[0], min(view.values.shape[1], MOST_LINES)
    units = len(shown)
    painted = _painted(view.values[:, :rows, :units], view, theme)
    is_dead, dead_row = view.is_dead[:units], dead_rows(view)[:rows]
    painted[:, dead_row] = to_rgb(theme.zero)
    painted[:, :, is_dead] = to_rgb(theme.zero)
    image = np.moveaxis(painted, 0, 1).reshape(rows, gates * units, 3)
    axes.imshow(image, interpolation="nearest", origin="upper", aspect="auto")
    for axis, dead in (("column", np.tile(is_dead, gates)), ("row", dead_row)):
        for start, length in _runs(dead):
            corner = (start - 0.5, -0.5) if axis == "column" else (-0.5, start - 0.5)
            size = (length, rows) if axis == "column" else (gates * units, length)
            if length >= _LEAST_HATCHED * len(dead):
                axes.add_patch(
                    Rectangle(corner, *size, fill=False, hatch="xx", color=theme.text, linewidth=0)
                )
    for gate in range(1, gates):
        axes.axvline(gate * units - 0.5, color=theme.text, linewidth=1.2, linestyle="-")
    one = singular(view.units)
    axes.set_xlabel(f"{one}, in {gates} gates" if gates > 1 else one, **drawing.words(theme))
    axes.set_ylabel(view.row, **drawing.words(theme))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    if gates > 1:
        axes.set_xticks(
            [gate * units + (units - 1) / 2 for gate in range(gates)],
            labels=[f"gate {gate}" for gate in range(gates)],
        )
    else:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))


def _runs(dead: np.ndarray) -> list[tuple[int, int]]:
    """The starts and lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], dead.astype(int), [0]])))
    return [(int(start), int(end - start)) for start, end in zip(edges[::2], edges[1::2])]


def draw_bars(axes: "Axes", view: View, theme: Theme) -> None:
    """Draws a bar for each entry, a cross for what is 0 and a diamond for what is not finite."""
    from matplotlib.ticker import MaxNLocator

    count = len(shown_units(view))
    values, is_dead = view.values[0, 0, :count], view.is_dead[:count]
    is_bad = ~np.isfinite(values)
    index = np.arange(count)
    colors = np.where(values < 0.0, theme.low, theme.high)
    axes.bar(index, np.where(is_bad, 0.0, values), 0.8, color=list(colors), linewidth=0)
    axes.axhline(0.0, color=theme.text, linewidth=0.8, linestyle="-")
    dots: dict[str, Any] = {"linestyle": "none", "clip_on": False}
    axes.plot(index[is_dead], 0.0 * index[is_dead], marker="x", color=theme.text, **dots)
    axes.plot(index[is_bad], 0.0 * index[is_bad], marker="D", color=theme.lines[3], **dots)
    axes.set_ylim(*_around(values[~is_bad]))
    axes.set_xlim(-0.7, count - 0.3)
    axes.set_ylabel(view.meaning, **drawing.words(theme))
    axes.set_xlabel("entry", **drawing.words(theme))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))


def _around(values: np.ndarray) -> tuple[float, float]:
    low, high = float(np.min(values, initial=0.0)), float(np.max(values, initial=0.0))
    margin = 0.08 * (high - low) or 1.0
    return low - margin, high + margin


def singular(things: str) -> str:
    return "entry" if things == "entries" else things.removesuffix("s")


def shown_units(view: View) -> range:
    """The units that are drawn."""
    count = len(view.is_dead)
    if view.is_tiled:
        return range(min(count, MOST_TILES))
    return range(min(count, max(MOST_LINES // view.values.shape[0], 1)))


def dead_rows(view: View) -> np.ndarray:
    """Which rows of a matrix are exactly 0."""
    return ~np.any(view.values != 0.0, axis=(0, 2))


def dead_color(view: View, theme: Theme) -> str:
    """The colour of what is exactly 0; grey is a small weight where a tile has colours."""
    return theme.background if view.has_colors else theme.zero


def _painted(values: np.ndarray, view: View, theme: Theme) -> np.ndarray:
    """The colours of `values`, of shape `(..., 3)`; those of what is not finite stand out."""
    from matplotlib.colors import to_rgb

    bad = ~np.isfinite(values)
    scaled = np.where(bad, 0.0, values) / view.limit
    if view.has_colors:
        painted, bad = 0.5 + 0.5 * scaled, bad.any(axis=-1)
    elif view.is_signed:
        painted = diverging(theme)(0.5 + 0.5 * scaled)[..., :3]
    else:
        painted = magnitudes(theme)(scaled)[..., :3]
    painted[bad] = to_rgb(theme.lines[3])
    return painted
