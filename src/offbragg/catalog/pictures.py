"""A cut through a volume as PNG, for the eye: logarithmic shades of a palette.

The palette is viridis, which the colour-blind see as well, at nine of its colours and straight
between them. What was not measured is grey.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offbragg.files.cuts import Cut

_VIRIDIS = (
    (68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141), (39, 173, 129),
    (92, 200, 99), (170, 220, 50), (253, 231, 37),
)  # fmt: skip
_UNMEASURED = (204, 204, 204)
_SHADES = (254, 126, 62, 30, 14)  # of a palette, the most that fit are taken
_BITS = 5.2  # of a pixel: so 1000 × 1000 have at most 0.65 MB
_BRAGG = 0.15  # r.l.u.: cells so near a point of whole h, k, l do not set the colours
_LOOKED_AT = 50_000  # cells that set the ends of the colours


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, and the intensities at the ends of its colours."""

    png: bytes
    low: float
    high: float


def draw(cut: Cut, *, low: float | None = None, high: float | None = None) -> Picture:
    """Draw a plane: the first axis to the right, the second one up.

    Parameters
    ----------
    cut
        Two axes.
    low, high
        Intensities at the ends of the colours; None: the first percentile of the cells, and the
        99th of those away from Bragg points, by 0.15 r.l.u.
    """
    ends = _ends(cut)
    low = ends[0] if low is None else low
    high = max(ends[1] if high is None else high, low * 1.001)
    level = _logarithmic(cut.intensity, low, high)
    shades = _affordable(level)
    pixels = np.where(np.isnan(level), 0, 1 + np.minimum(level * shades, shades - 1)).astype(
        np.uint8
    )
    image = Image.fromarray(np.ascontiguousarray(pixels.T[::-1]), mode="P")
    image.putpalette([*_UNMEASURED, *_palette(shades)])
    raw = io.BytesIO()
    image.save(raw, "PNG", compress_level=1, compress_type=zlib.Z_RLE)  # noise: half the time
    return Picture(raw.getvalue(), low, high)


def _logarithmic(intensity: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """Return where each intensity is between the ends, 0 to 1; NaN where nothing was measured."""
    bounded = np.clip(intensity, low, high)  # NaN stays
    return (np.log(bounded / np.float32(low)) / np.float32(np.log(high / low))).astype(np.float32)


def _affordable(level: NDArray[np.float32]) -> int:
    """Return the most shades of which the picture is not larger than it may be.

    Noise cannot be compressed to less than its entropy; with half of the shades it has one bit
    less.
    """
    known = level[np.isfinite(level)]
    if not known.size:
        return _SHADES[-1]
    for shades in _SHADES:
        counts = np.bincount(np.minimum(known * shades, shades - 1).astype(np.int64))
        part = counts[counts > 0] / known.size
        if -(part * np.log2(part)).sum() * known.size <= _BITS * level.size:
            return shades
    return _SHADES[-1]


def _ends(cut: Cut) -> tuple[float, float]:
    step = max(1, cut.intensity.size // _LOOKED_AT)
    flat = cut.intensity.reshape(-1)[::step]
    positive = np.isfinite(flat) & (flat > 0)
    if not positive.any():
        return 1.0, 10.0  # nothing to see
    away = _off_bragg(cut).reshape(-1)[::step] & positive
    chosen = flat[away] if np.count_nonzero(away) >= 10 else flat[positive]
    return float(np.percentile(flat[positive], 1.0)), float(np.percentile(chosen, 99.0))


def _off_bragg(cut: Cut) -> NDArray[np.bool_]:
    first, second = cut.axes
    away = np.zeros((first.size, second.size), np.bool_)
    for i in range(3):
        u, v = (direction[i] for direction in cut.directions)
        index = cut.at[i] + u * first[:, None] + v * second
        away |= np.abs(index - np.rint(index)) > _BRAGG
    return away


def _palette(shades: int) -> list[int]:
    at = np.linspace(0, len(_VIRIDIS) - 1, shades)
    channels = [
        np.interp(at, np.arange(len(_VIRIDIS)), [colour[i] for colour in _VIRIDIS])
        for i in range(3)
    ]
    return np.rint(np.stack(channels, axis=1)).astype(int).reshape(-1).tolist()
