"""A cut through a volume as PNG, for the eye: logarithmic shades of a palette.

The palette is viridis, which the colour-blind see as well, at nine of its colours and straight
between them. What was not measured is grey.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offbragg.files.cuts import Cells, Cut

_VIRIDIS = (
    (68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141), (39, 173, 129),
    (92, 200, 99), (170, 220, 50), (253, 231, 37),
)  # fmt: skip
_UNMEASURED = (204, 204, 204)
_SHADES = (254, 126, 62, 30, 14)  # of a palette, the most that fit are taken
_BITS = 5.2  # of a pixel: so 1000 × 1000 have at most 0.65 MB
_BRAGG = 0.15  # r.l.u.: cells so near a point of whole h, k, l do not set the colours
_LOOKED_AT = 50_000  # cells that set the ends of the colours
_COUNTED = 200_000  # cells of which the entropy is taken
_ROWS = 64
_FINE = 1 << 14  # intervals, many in each shade


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
    image = cut.intensity.T  # rows are those of the picture, from below
    ends = _ends(cut, image)
    low = ends[0] if low is None else low
    high = max(ends[1] if high is None else high, low * 1.001)
    shades = _affordable(image, low, high)
    pixels = np.empty(image.shape, np.uint8)
    for at in range(0, len(image), _ROWS):  # few enough to stay in the processor's cache
        place = _logarithmic(image[at : at + _ROWS], low, high) * shades
        np.minimum(place, shades - 1, out=place)
        place += 1
        pixels[at : at + _ROWS] = np.where(np.isnan(place), 0, place)
    picture = Image.fromarray(np.ascontiguousarray(pixels[::-1]), mode="P")
    picture.putpalette([*_UNMEASURED, *_palette(shades)])
    raw = io.BytesIO()
    picture.save(raw, "PNG", compress_level=1, compress_type=zlib.Z_RLE)  # noise: half the time
    return Picture(raw.getvalue(), low, high)


def _logarithmic(intensity: Cells, low: float, high: float) -> Cells:
    """Return where each intensity is between the ends, 0 to 1; NaN where nothing was measured."""
    place = np.clip(intensity, np.float32(low), np.float32(high))  # NaN stays
    place /= np.float32(low)
    np.log(place, out=place)
    place /= np.float32(np.log(high / low))
    return place


def _affordable(image: Cells, low: float, high: float) -> int:
    """Return the most shades of which the picture is not larger than it may be.

    Noise cannot be compressed to less than its entropy; with half of the shades it has one bit
    less. The entropy is that of some of the rows.
    """
    some = image[:: max(1, image.size // _COUNTED)]
    place = _logarithmic(some, low, high)
    known = place[np.isfinite(place)]
    if not known.size:
        return _SHADES[-1]
    fine = np.bincount((known * (_FINE - 1)).astype(np.intp), minlength=_FINE)
    for shades in _SHADES:
        counts = np.add.reduceat(fine, np.arange(shades) * _FINE // shades)
        part = counts[counts > 0] / known.size
        if -(part * np.log2(part)).sum() * known.size <= _BITS * some.size:
            return shades
    return _SHADES[-1]


def _ends(cut: Cut, image: Cells) -> tuple[float, float]:
    which = np.arange(0, image.size, max(1, image.size // _LOOKED_AT))
    flat = image.reshape(-1)[which]
    positive = np.isfinite(flat) & (flat > 0)
    if not positive.any():
        return 1.0, 10.0  # nothing to see
    away = _off_bragg(cut, which) & positive
    chosen = flat[away] if np.count_nonzero(away) >= 10 else flat[positive]
    return float(np.percentile(flat[positive], 1.0)), float(np.percentile(chosen, 99.0))


def _off_bragg(cut: Cut, which: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which cells are away from Bragg points, by their numbers in the picture."""
    row, column = np.divmod(which, cut.axes[0].size)
    first, second = cut.axes[0][column], cut.axes[1][row]
    away = np.zeros(which.size, np.bool_)
    for n in range(3):
        u, v = (direction[n] for direction in cut.directions)
        index = cut.at[n] + u * first + v * second
        away |= np.abs(index - np.rint(index)) > _BRAGG
    return away


def _palette(shades: int) -> list[int]:
    at = np.linspace(0, len(_VIRIDIS) - 1, shades)
    channels = [
        np.interp(at, np.arange(len(_VIRIDIS)), [colour[i] for colour in _VIRIDIS])
        for i in range(3)
    ]
    return np.rint(np.stack(channels, axis=1)).astype(int).reshape(-1).tolist()
