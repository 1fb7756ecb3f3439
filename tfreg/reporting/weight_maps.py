"""The picture of a layer's weights, with what is exactly 0 in it."""

from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from tfreg import backend
from tfreg.inventory import holdings, made, walk
from tfreg.layers.registry import weight_layouts
from tfreg.layout import Layout
from tfreg.reporting import drawing
from tfreg.reporting.drawing import StrPath
from tfreg.reporting.themes import Theme, diverging, magnitudes, theme_named
from tfreg.reporting.weight_panels import (
    MOST_LINES,
    dead_color,
    dead_rows,
    draw_bars,
    draw_matrix,
    draw_tiles,
    shown_units,
    singular,
)
from tfreg.reporting.weight_views import View, view_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_KERNELS = 6
_WIDTH = 8.0
_TILED_HEIGHT, _MATRIX_HEIGHT, _LOW_HEIGHT = 6.6, 4.4, 3.2


@drawing.by_defaults()
def plot_weights(layer: Any, path: StrPath | None = None, theme: str = "light") -> "Figure":
    """Draws the kernels of a layer, marks the units that are exactly 0, and counts them.

    A convolution over a plane or in space has a tile for each filter: the filter itself if it reads
    one channel, or three, which are red, green and blue then, with grey for 0; else the norm over
    the channels. Slices in depth stand side by side. Any other kernel is a matrix with a column for
    each unit and a row for each input; the gates of a recurrent layer stand side by side. A weight
    of rank 1 has bars.

    What is exactly 0, units as well as rows, is grey, or blank among red, green and blue, and
    crossed where there is room. What is small has another colour. A panel draws at most 256
    filters, or 256 rows and 256 columns, and says so; it counts all. Of the kernels of a layer, as
    a recurrent one has several, the first 6 have a panel.

    Args:
        layer: a layer of Keras 3 or tf_keras that has been built, or one of its weights; without
            the layer, the axes of a weight count as those of a Dense or Conv kernel.
        path: a file to save the figure in, in the format that its ending names. None saves
            nothing.
        theme: `"light"` or `"dark"`.

    Returns:
        A `matplotlib.figure.Figure`, which a notebook shows.

    Raises:
        TypeError: if `layer` is neither a layer nor a weight, or a weight of no floating-point
            numbers.
        ValueError: if it has no kernel, as a quantized layer has none of floating-point numbers, or
            one without entries; for any other `theme`; and for a `path` with an unknown
            ending or in no directory.
        ModuleNotFoundError: without matplotlib.

    Example:

    >>> layer = keras.layers.Dense(4)
    >>> layer.build((None, 3))
    >>> _ = layer.kernel.assign([[1.0, 0.0, -2.0, 0.0]] * 3)
    >>> figure = tfreg.plot_weights(layer)
    >>> figure.axes[0].get_title(loc="left").splitlines()[1]
    '2 of 4 units zero'
    """
    colors, place = theme_named(theme), drawing.check_path(path)
    kernels = _kernels(layer)
    _check_entries(kernels)
    views = [
        view_of(name, _array(weight), layout) for name, weight, layout in kernels[:_MOST_KERNELS]
    ]
    heights = [_height(view, len(views)) for view in views]
    figure = drawing.new_figure(_WIDTH, sum(heights) + 0.6, colors)
    if len(kernels) > len(views):
        title = f"The first {len(views)} of {len(kernels)} kernels of {layer.name}"
        drawing.set_title(figure, title, colors)
    grid = figure.subplots(len(views), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, view in zip(grid, views):
        _draw(figure, axes, view, colors)
    _add_legend(figure, views, colors)
    return drawing.save(figure, place)


def _kernels(layer: Any) -> list[tuple[str, Any, Layout]]:
    """The names, weights and layouts of what is to be drawn of `layer`."""
    if backend.is_variable(layer):
        weight = backend.whole_weight(layer)
        rank = backend.weight_tensor(weight).shape.rank
        return [(backend.scoped_path(weight), weight, Layout.positional(rank))]
    if not backend.is_layer(layer):
        raise TypeError(
            "Argument `layer` must be a layer of Keras 3 or tf_keras, or one of its weights. "
            f"Received: layer={layer!r}"
        )
    layouts = weight_layouts(layer)
    weights = map(made, holdings(walk(layer)))
    kernels = [
        (f"{layer.name}/{weight.path}", weight.variable, layouts[id(weight.variable)])
        for weight in weights
        if id(weight.variable) in layouts and layouts[id(weight.variable)].is_kernel
    ]
    if not kernels:
        dtypes = sorted({tf.as_dtype(weight.dtype).name for weight in layer.weights})
        raise ValueError(
            "Argument `layer` must have a kernel of floating-point numbers, and be built. "
            f"Received: layer={layer!r} with {len(layer.weights)} weights"
            f"{' of the dtypes ' * bool(dtypes)}{', '.join(dtypes)}"
        )
    return kernels


def _check_entries(kernels: list[tuple[str, Any, Layout]]) -> None:
    for name, weight, _ in kernels:
        shape = tuple(weight.shape)
        if 0 in shape:
            raise ValueError(
                "Argument `layer` must have entries. "
                f"Received: weight {name!r} with shape={shape}"
            )


def _array(weight: Any) -> np.ndarray:
    # Not by TensorFlow, which rounds the smallest numbers to 0.
    return np.asarray(backend.weight_tensor(weight)).astype(np.float64)


def _height(view: View, panels: int) -> float:
    if view.is_tiled:
        return _TILED_HEIGHT
    return _MATRIX_HEIGHT if panels == 1 and not view.has_bars else _LOW_HEIGHT


def _draw(figure: "Figure", axes: "Axes", view: View, theme: Theme) -> None:
    drawing.style(axes, theme, grid=view.has_bars)
    if view.is_tiled:
        draw_tiles(axes, view, theme)
    elif view.has_bars:
        draw_bars(axes, view, theme)
    else:
        draw_matrix(axes, view, theme)
    if not (view.has_bars or view.has_colors):
        _add_colorbar(figure, axes, view, theme)
    width = 72.0 * (_WIDTH - 1.4)
    lines = [f"{view.path}, shape {view.shape}", *_counts(view)]
    title = "\n".join(drawing.shortened(line, width) for line in lines)
    axes.set_title(title, loc="left", **drawing.words(theme))


def _counts(view: View) -> list[str]:
    count = len(view.is_dead)
    units = view.units if count != 1 else singular(view.units)
    parts = [f"{np.count_nonzero(view.is_dead):,} of {count:,} {units} zero"]
    if not (view.is_tiled or view.has_bars):
        rows = np.count_nonzero(dead_rows(view))
        if rows and not view.is_dead.all():
            parts.append(f"{rows:,} of {view.values.shape[1]:,} rows zero")
    if view.bad:
        parts.append(f"{view.bad:,} {'entries' if view.bad > 1 else 'entry'} NaN or infinite")
    lines = ["; ".join(parts)]
    drawn = len(shown_units(view))
    limits = [f"{drawn:,} of {count:,} {view.units}"] * (drawn < count)
    if not view.is_tiled and view.values.shape[1] > MOST_LINES:
        limits.append(f"{MOST_LINES} of {view.values.shape[1]:,} rows")
    if limits:
        lines.append(f"drawn: the first {' and '.join(limits)}")
    if view.has_colors:
        lines.append("red, green and blue are the three input channels; grey is about 0")
    if view.is_tiled and len(view.shape) == 5:
        lines.append("the slices in depth of a filter are side by side")
    return lines


def _add_colorbar(figure: "Figure", axes: "Axes", view: View, theme: Theme) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    signed = view.is_signed
    colormap = diverging(theme) if signed else magnitudes(theme)
    scale = ScalarMappable(Normalize(-view.limit if signed else 0.0, view.limit), colormap)
    bar = figure.colorbar(scale, ax=axes, shrink=0.8, aspect=25, pad=0.02)
    bar.set_label(view.meaning, **drawing.words(theme))
    bar.ax.tick_params(colors=theme.text, labelsize=drawing.SIZE - 1)
    bar.outline.set_edgecolor(theme.grid)  # type: ignore[operator]


def _add_legend(figure: "Figure", views: list[View], theme: Theme) -> None:
    from matplotlib.patches import Patch

    handles = []
    dead = [view for view in views if view.is_dead.any()]
    if dead:
        color = dead_color(dead[0], theme)
        handles.append(Patch(facecolor=color, hatch="xx", edgecolor=theme.text, label="exactly 0"))
    if any(view.bad for view in views):
        handles.append(Patch(facecolor=theme.lines[3], label="NaN or infinite"))
    if handles:
        drawing.legend(figure, theme, loc="outside lower left", handles=handles, ncols=2)
