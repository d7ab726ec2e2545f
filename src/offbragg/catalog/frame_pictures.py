"""A frame as a picture, for the eye: binned, in colours between two counts, gaps transparent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offbragg.catalog.frame_questions import PictureQuestion
from offbragg.catalog.palettes import colours
from offbragg.catalog.png import encode_png

_SHADES = 62  # one more doubling adds noise to the file, and nothing for the eye
_LOOKED_AT = 50_000  # pixels that set the ends of the colours
_PERCENTILES = 1.0, 99.5

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FramePicture:
    """A picture of a frame."""

    png: bytes
    shape: tuple[int, int]
    """Height and width, pixels of the picture."""
    bin: int
    """Pixels of the frame along each edge of one of the picture."""
    low: float
    high: float
    """Counts of a pixel at the ends of the colours."""


def draw_frame(counts: NDArray[np.int32], asked: PictureQuestion) -> FramePicture:
    """Draw a frame with its first row on top.

    Parameters
    ----------
    counts
        Shape (slow, fast); a pixel below 0 does not count and is transparent.
    asked
        Its longest edge is nearest to ``size`` with a whole number of pixels binned. Without
        ``low`` and ``high`` the ends of the colours are the first percentile of the pixels, of
        those above 0 on a logarithmic scale, and the 99.5th of all.
    """
    edge = max(1, round(max(counts.shape) / asked.size))
    values = _binned(counts, edge, asked.bin)
    low, high = _ends(values, asked)
    place = np.clip(values, np.float32(low), np.float32(high))  # NaN stays
    if asked.scale == "log":
        place /= np.float32(low)
        np.log(place, out=place)
        place *= np.float32(_SHADES / np.log(high / low))
    else:
        place -= np.float32(low)
        place *= np.float32(_SHADES / (high - low))
    np.minimum(place, _SHADES - 1, out=place)
    place += 1
    shades = np.where(np.isnan(place), np.float32(0), place).astype(np.uint8)
    png = encode_png(shades, colours(asked.palette, _SHADES))
    return FramePicture(png, (shades.shape[0], shades.shape[1]), edge, low, high)


def _binned(counts: NDArray[np.int32], edge: int, how: str) -> Values:
    """Return the mean, or the maximum, of the pixels that count; NaN where there are none."""
    if edge == 1:
        return np.where(counts < 0, np.float32(np.nan), counts.astype(np.float32))
    slow, fast = (-(-n // edge) * edge for n in counts.shape)
    if (slow, fast) != counts.shape:
        more = [(0, slow - counts.shape[0]), (0, fast - counts.shape[1])]
        counts = np.pad(counts, more, constant_values=-1)
    parts = [counts[i::edge, j::edge] for i in range(edge) for j in range(edge)]
    if how == "max":
        largest = parts[0].copy()
        for part in parts[1:]:
            np.maximum(largest, part, out=largest)
        return _binned(largest, 1, how)
    total, number = np.zeros(parts[0].shape, np.float32), np.zeros(parts[0].shape, np.uint16)
    for part in parts:
        total += np.maximum(part, 0)
        number += part >= 0
    with np.errstate(invalid="ignore"):
        return total / number.astype(np.float32)  # 0 / 0 is NaN


def _ends(values: Values, asked: PictureQuestion) -> tuple[float, float]:
    flat = values.reshape(-1)[:: max(1, values.size // _LOOKED_AT)]
    flat = flat[np.isfinite(flat)]
    shown = flat[flat > 0] if asked.scale == "log" else flat
    low, high = np.percentile(shown, _PERCENTILES) if shown.size else (1.0, 10.0)
    low = float(low) if asked.low is None else asked.low
    high = float(high) if asked.high is None else asked.high
    if high > low:
        return low, high
    apart = max(abs(low), 1.0) * 1e-3  # one colour for all of it
    return (low, low + apart) if asked.low is not None or asked.high is None else (high / 2, high)
