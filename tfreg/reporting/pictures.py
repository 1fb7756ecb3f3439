"""Pictures of weights, as PNG files, by NumPy alone."""

import math
import struct
import zlib

import numpy as np

from tfreg.reporting import themes
from tfreg.reporting.weight_views import columns_of_tiles

# Pixels along a side: at most, and at least before pixels are repeated.
MOST, _LEAST = 512, 128
# The colours of values: 0 by itself, the space between tiles, and from the most negative one
# through almost 0 to the most positive.
ZERO, BETWEEN, _LOWEST = 0, 1, 2
_SHADES = 254
_THEME = themes.theme_named("light")


def picture(values: np.ndarray) -> np.ndarray:
    """What a weight looks like: numbers of colours, a uint8 matrix.

    It has a row of tiles for each entry of the last axis but one, the inputs, and a column of them
    for each of the last one, the units. Each tile has the axes before these, such as the window of
    a convolution; those of a single input fill a square. Blue is negative and vermillion positive,
    as strong as the value is large beside the weight's largest; grey is exactly 0. Of what has no
    room in 512 pixels along a side, it has evenly picked entries of each axis.
    """
    values = np.asarray(values)
    values = values.reshape((1,) * (3 - values.ndim) + values.shape)
    *window, rows, columns = values.shape
    tiles = values.reshape(int(np.prod(window[:-1])), window[-1], rows, columns)
    is_tiled = tiles.shape[:2] != (1, 1)
    within = [_evenly(size, MOST) for size in tiles.shape[:2]]
    room = [MOST // (len(each) + 1) if is_tiled else MOST for each in within]
    tiles = tiles[np.ix_(*within, *map(_evenly, (rows, columns), room))]
    height, width, rows, columns = tiles.shape
    space = int(is_tiled)
    spaced = np.full((rows, height + space, columns, width + space), BETWEEN, np.uint8)
    spaced[:, :height, :, :width] = _shades(tiles).transpose(2, 0, 3, 1)
    if is_tiled and rows == 1:
        spaced = _wrapped(spaced[0])
    rows, _, columns, _ = spaced.shape
    whole = spaced.reshape(rows * (height + space), columns * (width + space))
    return _enlarged(whole[: len(whole) - space, : whole.shape[1] - space])


def _wrapped(row: np.ndarray) -> np.ndarray:
    """The tiles of a row in several rows, about as high together as they are wide."""
    height, count, width = row.shape
    columns = columns_of_tiles(count, height, width)
    rows = max(math.ceil(count / columns), 1)
    wrapped = np.full((rows * columns, height, width), BETWEEN, np.uint8)
    wrapped[:count] = row.transpose(1, 0, 2)
    return wrapped.reshape(rows, columns, height, width).transpose(0, 2, 1, 3)


def _evenly(size: int, room: int) -> np.ndarray:
    """Indices of at most so many entries of an axis, but of one at least."""
    count = min(size, max(room, 1))
    return np.arange(count) * size // max(count, 1)


def _shades(values: np.ndarray) -> np.ndarray:
    """The colour of each value; the strongest for one that is not finite."""
    values = values.astype(np.float64)
    largest = np.abs(values).max(initial=0.0, where=np.isfinite(values))
    with np.errstate(invalid="ignore", divide="ignore"):
        along = np.clip(np.nan_to_num(values / largest, nan=1.0), -1.0, 1.0)
    shades = _LOWEST + np.rint((along + 1.0) / 2.0 * (_SHADES - 1))
    return np.where(values == 0.0, ZERO, shades).astype(np.uint8)


def _enlarged(colours: np.ndarray) -> np.ndarray:
    times = max(1, _LEAST // max(*colours.shape, 1))
    return colours.repeat(times, axis=0).repeat(times, axis=1)


def png(colours: np.ndarray) -> bytes:
    """A PNG file of a picture."""
    height, width = colours.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits into a palette
    lines = np.concatenate([np.zeros((height, 1), np.uint8), colours], axis=1)  # not filtered
    chunks = [
        (b"IHDR", header),
        (b"PLTE", _palette().tobytes()),
        (b"IDAT", zlib.compress(lines.tobytes(), 1)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*each) for each in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _palette() -> np.ndarray:
    """The red, green and blue of each colour: those of the plots."""
    low, middle, high = map(_from_hex, (_THEME.low, _THEME.middle, _THEME.high))
    along = np.linspace(-1.0, 1.0, _SHADES)[:, None]
    low, middle, high = map(themes.to_oklab, (low, middle, high))
    shades = themes.from_oklab(middle + np.abs(along) * (np.where(along < 0, low, high) - middle))
    others = [_from_hex(_THEME.zero), _from_hex(_THEME.background)]
    return np.rint(255 * np.concatenate([others, shades])).astype(np.uint8)


def _from_hex(colour: str) -> np.ndarray:
    return np.array(list(bytes.fromhex(colour.removeprefix("#")))) / 255
