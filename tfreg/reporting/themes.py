"""The themes of plots, and the colours of weights."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.colors import LinearSegmentedColormap


@dataclasses.dataclass(frozen=True)
class Theme:
    """The colours of a figure.

    The `lines` are those of Okabe and Ito, "Color Universal Design" (2008), which people with any
    kind of colour vision tell apart, without the ones that are too close to the background. Weights
    go from `low` over `middle`, at 0, to `high`.
    """

    background: str
    text: str
    grid: str
    zero: str
    lines: tuple[str, ...]
    low: str
    middle: str
    high: str


_BLUE, _SKY, _GREEN, _YELLOW = "#0072B2", "#56B4E9", "#009E73", "#F0E442"
_ORANGE, _VERMILLION, _PURPLE = "#E69F00", "#D55E00", "#CC79A7"
_THEMES = {
    "light": Theme(
        background="#ffffff",
        text="#1a1a1a",
        grid="#dddddd",
        zero="#b3b3b3",
        lines=(_BLUE, _VERMILLION, _GREEN, _PURPLE, _ORANGE, _SKY),
        low=_BLUE,
        middle="#efefef",
        high=_VERMILLION,
    ),
    "dark": Theme(
        background="#16181d",
        text="#ececec",
        grid="#3a3d45",
        zero="#6e727c",
        lines=(_SKY, _ORANGE, _GREEN, _PURPLE, _YELLOW, _VERMILLION),
        low=_SKY,
        middle="#23262d",
        high=_ORANGE,
    ),
}


def theme_named(name: Any) -> Theme:
    """The theme of that `name`.

    Raises:
        ValueError: if there is none.
    """
    if not isinstance(name, str) or name not in _THEMES:
        names = " or ".join(map(repr, _THEMES))
        raise ValueError(f"Argument `theme` must be {names}. Received: theme={name!r}")
    return _THEMES[name]


def diverging(theme: Theme) -> "LinearSegmentedColormap":
    """The colours of weights: even steps of lightness, chroma and hue away from 0."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    low, middle, high = (
        to_oklab(np.array(to_rgb(color))) for color in (theme.low, theme.middle, theme.high)
    )
    share = np.linspace(0.0, 1.0, 128)[:, None]
    colors = np.concatenate([low + share * (middle - low), middle + share[1:] * (high - middle)])
    return LinearSegmentedColormap.from_list("tfreg", from_oklab(colors), N=255)


def magnitudes(theme: Theme) -> "LinearSegmentedColormap":
    """The colours of norms: the upper half of those of weights."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("tfreg", diverging(theme)(np.linspace(0.5, 1.0, 128)))


# Ottosson, "A perceptual color space for image processing" (2020).
_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def to_oklab(srgb: np.ndarray) -> np.ndarray:
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T


def from_oklab(lab: np.ndarray) -> np.ndarray:
    lms = (lab @ np.linalg.inv(_TO_LAB).T) ** 3
    linear = np.clip(lms @ np.linalg.inv(_TO_LMS).T, 0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
