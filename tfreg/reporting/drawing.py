"""What all plots share: figures without pyplot, axes, and texts that fit."""

import contextlib
import functools
import io
import math
import os
import pathlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from tfreg.reporting.themes import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

StrPath: TypeAlias = str | os.PathLike[str]

# In points. A panel of a figure has texts of the one size, the figure's title has the other.
SIZE, TITLE_SIZE = 10.0, 12.0
# Of pictures with pixels, in dots per inch.
_RESOLUTION = 150
# A log axis ends there, where matplotlib can still compute, and reaches that much below its end.
_HIGHEST, _DEEPEST = 1e250, 1e-40


# What of the user's settings counts: it is needed for some names, or is no part of the picture.
_OF_THE_USER = re.compile(
    r"font\.(family|serif|sans-serif|monospace|cursive|fantasy)$|(pdf|ps|svg)\.fonttype$"
)


@contextlib.contextmanager
def by_defaults() -> Iterator[None]:
    """Draws by the defaults of matplotlib, and not by the user's settings, except for fonts."""
    try:
        import matplotlib.style
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] != "matplotlib":
            raise
        raise ModuleNotFoundError(
            "Plots need matplotlib. Install it: pip install 'tfreg[plot]'", name=error.name
        ) from error

    settings = matplotlib.rcParams
    # Not by items(): to ask for the backend would choose one.
    kept: dict[str, Any] = {name: settings[name] for name in settings if _OF_THE_USER.match(name)}
    with matplotlib.style.context(["default", kept]):
        yield


def new_figure(width: float, height: float, theme: Theme) -> "Figure":
    """An empty figure of that size in inches, which a notebook shows; no pyplot knows it."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=100, facecolor=theme.background, layout="constrained")
    # IPython itself draws figures only once pyplot has chosen its way to show them.
    setattr(figure, "_repr_png_", functools.partial(_png, figure))
    # Most ticks are made no sooner than that.
    setattr(figure, "draw", functools.partial(_draw, figure))
    return figure


@by_defaults()
def _draw(figure: "Figure", renderer: Any) -> None:
    type(figure).draw(figure, renderer)


def _png(figure: "Figure") -> bytes:
    picture = io.BytesIO()
    _write(figure, picture, format="png", dpi=100)
    return picture.getvalue()


def _write(figure: "Figure", file: Any, **arguments: Any) -> None:
    # The user's defaults would give another background and cut the margins.
    figure.savefig(
        file,
        facecolor=figure.get_facecolor(),
        edgecolor="none",
        transparent=False,
        bbox_inches=figure.bbox_inches,
        **arguments,
    )


def check_path(path: Any) -> pathlib.Path | None:
    """Returns `path` if a figure can be saved there.

    Raises:
        TypeError: if it is no path.
        ValueError: if its directory is not there.
    """
    if path is None:
        return None
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"Argument `path` must be None or the path of a file. Received: {path!r}")
    place = pathlib.Path(path)
    if not place.parent.is_dir():
        raise ValueError(
            "Argument `path` must be a file in a directory that exists. "
            f"Received: path={str(path)!r}"
        )
    return place


def save(figure: "Figure", path: pathlib.Path | None) -> "Figure":
    """Saves `figure` under `path`, if that is given, and returns it.

    Raises:
        ValueError: if matplotlib has no format for the ending of `path`.
    """
    if path is not None:
        formats = sorted(figure.canvas.get_supported_filetypes())
        if path.suffix.lower().removeprefix(".") not in formats:
            raise ValueError(
                f"Argument `path` must end in one of {', '.join(f'.{name}' for name in formats)}. "
                f"Received: path={str(path)!r}"
            )
        _write(figure, path, dpi=_RESOLUTION)
    return figure


def style(axes: "Axes", theme: Theme, grid: bool = True) -> None:
    """Sets the colours and sizes of `axes`, without a frame where there is a `grid`."""
    axes.set_facecolor(theme.background)
    axes.tick_params(which="both", colors=theme.text, labelsize=SIZE - 1)
    axes.tick_params(top=False, right=False, labeltop=False, labelright=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set(color=theme.text, fontsize=SIZE - 1)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom") or not grid)
        spine.set_color(theme.grid)
    axes.grid(False, which="both")
    if grid:
        axes.grid(True, which="major", color=theme.grid, linewidth=0.6, linestyle="-")
        axes.set_axisbelow(True)


def words(theme: Theme, size: float = SIZE, **more: Any) -> dict[str, Any]:
    """The arguments of a text of the figure; "$" and "_" in it have no meaning of their own."""
    return {"color": theme.text, "fontsize": size, "parse_math": False, "usetex": False} | more


def set_title(figure: "Figure | SubFigure", text: str, theme: Theme) -> None:
    """Writes `text`, in as many lines as it takes, above all panels of `figure`."""
    width = 72.0 * figure.figure.get_figwidth() - 20.0
    lines = _wrapped(text, width)
    figure.suptitle("\n".join(lines), **words(theme, TITLE_SIZE), fontweight="bold")


def legend(holder: Any, theme: Theme, **arguments: Any) -> None:
    """Adds a legend without a frame to `holder`, a figure or axes."""
    drawn = holder.legend(
        frameon=False, fontsize=SIZE - 1, labelcolor=theme.text, markerscale=1.0, **arguments
    )
    for text in drawn.get_texts():
        text.set(parse_math=False, usetex=False)


def log_axis(axes: "Axes", low: float, high: float) -> None:
    """Gives the vertical axis a log scale from about `low` to `high`, with some labels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    high = min(high, _HIGHEST)
    low = min(max(low, high * _DEEPEST), high)
    decades = math.log10(high) - math.log10(low)
    margin = 10.0 ** max(0.06 * decades, (1.0 - decades) / 2.0)
    axes.set_ylim(low / margin, high * margin)  # first: to scale it to the data may overflow
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.0 else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def shortened(text: str, width: float, size: float = SIZE, weight: str = "normal") -> str:
    """`text` without its middle, so that it is at most `width` points wide."""
    kept = len(text)
    short = text
    while kept > 2 and _width(short, size, weight) > width:
        kept -= 1
        short = f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"
    return short


def _wrapped(text: str, width: float) -> list[str]:
    """The words of a title in lines that are at most `width` points wide."""
    lines = [""]
    for word in text.split():
        line = f"{lines[-1]} {word}".strip()
        if lines[-1] and _width(line, TITLE_SIZE, "bold") > width:
            lines.append(shortened(word, width, TITLE_SIZE, "bold"))
        else:
            lines[-1] = shortened(line, width, TITLE_SIZE, "bold")
    return lines


def _width(text: str, size: float, weight: str) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size, weight=weight)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width)
