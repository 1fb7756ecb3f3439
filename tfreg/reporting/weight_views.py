"""What there is to see of a weight: a tile for each filter, or a matrix, and which units are 0."""

import math
from typing import NamedTuple

import numpy as np

from tfreg.layout import Layout

# More than this is no grid of a convolution, as the axes of a locally connected layer.
_LARGEST_TILE = 32


class View(NamedTuple):
    """The values of a weight, as they are drawn.

    `values` has the shape `(units, height, width)` of tiles, with one more axis of 3 colours where
    there are three input channels, or the shape `(gates, rows, units)` of a matrix. `is_dead` tells
    which units are exactly 0; `dead_rows` counts the rows of a matrix that are, `bad` the entries
    of the weight that are not finite. `meaning` says what a value is, `row` what a row counts.
    """

    path: str
    shape: tuple[int, ...]
    values: np.ndarray
    is_tiled: bool
    is_dead: np.ndarray
    units: str
    meaning: str
    row: str
    bad: int

    @property
    def has_colors(self) -> bool:
        return self.is_tiled and self.values.ndim == 4

    @property
    def has_bars(self) -> bool:
        """Whether it has so few axes, and no more parts in them, that bars show it best."""
        return len(self.shape) == 1 and self.values.shape[:2] == (1, 1)

    @property
    def is_signed(self) -> bool:
        return self.meaning == "weight"

    @property
    def limit(self) -> float:
        """The largest finite magnitude, or 1 if there is none."""
        return float(np.max(np.abs(self.values), initial=0, where=np.isfinite(self.values))) or 1.0


def columns_of_tiles(count: int, height: int, width: int) -> int:
    """How many of so many tiles stand in a row, so that all are about as high as they are wide."""
    return min(max(math.ceil(math.sqrt(count * height / width)), 1), max(count, 1))


def view_of(path: str, weight: np.ndarray, layout: Layout) -> View:
    """The view of a `weight` with that `layout`."""
    parts = layout.parts
    lengths = layout.lengths_of_parts(weight.shape)
    units = [i for i, part in enumerate(parts) if "output" in part.roles]
    has_units = bool(units)
    units = units or [len(parts) - 1]
    gates = [i for i, part in enumerate(parts) if "gate" in part.roles and i not in units]
    others = [i for i in range(len(parts)) if i not in (*units, *gates)]
    positions = [i for i in others if "position" in parts[i].roles]
    channels = [i for i in others if i not in positions]
    is_input = all("input" in parts[i].roles for i in channels)

    apart = weight.reshape(lengths)
    is_dead = np.ravel(~np.any(apart != 0.0, axis=tuple(gates + others)))
    bad = int(np.count_nonzero(~np.isfinite(weight)))
    names = _unit_names(has_units, bool(positions), bool(channels), is_input)
    grid = [lengths[i] for i in positions]
    count = math.prod(lengths[i] for i in units)
    if len(grid) in (2, 3) and 1 < max(grid) <= _LARGEST_TILE:
        apart = np.transpose(apart, units + gates + channels + positions)
        values, meaning = _tiles(apart.reshape(count, -1, *grid), bool(gates))
        return View(path, weight.shape, values, True, is_dead, names, meaning, "", bad)
    apart = np.transpose(apart, gates + others + units)
    values = apart.reshape(math.prod(lengths[i] for i in gates), -1, count)
    row = ", ".join(["position"] * (math.prod(grid) > 1) + [_row_name(is_input)] * bool(channels))
    return View(path, weight.shape, values, False, is_dead, names, "weight", row, bad)


def _row_name(is_input: bool) -> str:
    return "input" if is_input else "feature"


def _unit_names(has_units: bool, has_positions: bool, has_channels: bool, is_input: bool) -> str:
    if not has_units:
        return "columns"
    if has_positions:
        return "filters"
    if not has_channels:
        return "entries"
    return "units" if is_input else "rows"  # those of the table of an embedding


def _tiles(filters: np.ndarray, has_gates: bool) -> tuple[np.ndarray, str]:
    """Tiles of `filters`, of shape `(units, channels, *grid)`, and what their values are."""
    if filters.ndim == 5:  # the slices in depth stand side by side
        units, channels, depth, height, width = filters.shape
        filters = np.moveaxis(filters, 2, 3).reshape(units, channels, height, depth * width)
    channels = filters.shape[1]
    if channels == 1:
        return filters[:, 0], "weight"
    if channels == 3 and not has_gates:
        return np.moveaxis(filters, 1, -1), "weight"
    # Scaled, since squares may overflow.
    largest = np.max(np.abs(filters), initial=0.0, where=np.isfinite(filters)) or 1.0
    norms = largest * np.sqrt(np.sum(np.square(filters / largest), axis=1))
    return norms, "norm over the input channels" + (" and gates" if has_gates else "")
