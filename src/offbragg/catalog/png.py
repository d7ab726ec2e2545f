"""Pictures as small PNG files: shades of a palette, as few as noise makes necessary."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SHADES = (254, 126, 62, 44, 30, 20, 14)  # of a palette, the most that fit are taken
_COUNTED = 200_000  # pixels of which the entropy is taken
_FINE = 1 << 14  # intervals, many in each shade


def affordable_shades(place: NDArray[np.float32], most: float) -> int:
    """Return the most shades of which a picture is not larger than it may be.

    Noise cannot be compressed to less than its entropy; with half of the shades it has one bit
    less. The entropy is that of some of the rows.

    Parameters
    ----------
    place
        Where in the palette each pixel is, 0 to 1; NaN is drawn in a colour of its own.
    most
        Bits of a pixel, in the mean.
    """
    some = place[:: max(1, place.size // _COUNTED)]
    known = some[np.isfinite(some)]
    if not known.size:
        return SHADES[-1]
    fine = np.bincount((known * (_FINE - 1)).astype(np.intp), minlength=_FINE)
    for shades in SHADES:
        counts = np.add.reduceat(fine, np.arange(shades) * _FINE // shades)
        part = counts[counts > 0] / known.size
        if -(part * np.log2(part)).sum() * known.size <= most * some.size:
            return shades
    return SHADES[-1]


def shaded(place: NDArray[np.float32], shades: int) -> NDArray[np.uint8]:
    """Return the shade of each pixel from 1 on, 0 where its place is NaN."""
    shade = np.minimum(place * np.float32(shades), np.float32(shades - 1)) + 1
    return np.where(np.isnan(shade), 0, shade).astype(np.uint8)


def encode_png(
    shades: NDArray[np.uint8], palette: NDArray[np.uint8], *, unmeasured: tuple[int, ...] | None
) -> bytes:
    """Return a PNG with a palette.

    Parameters
    ----------
    shades
        Of each pixel, shape (height, width), as from `shaded`.
    palette
        Red, green, blue of each shade from 1 on, shape (n, 3).
    unmeasured
        Colour of 0; None: transparent.
    """
    picture = Image.fromarray(np.ascontiguousarray(shades), mode="P")
    picture.putpalette([*(unmeasured or (0, 0, 0)), *palette.reshape(-1).tolist()])
    more: dict[str, Any] = {} if unmeasured else {"transparency": 0}
    raw = io.BytesIO()
    # noise: half the time
    picture.save(raw, "PNG", compress_level=1, compress_type=zlib.Z_RLE, **more)
    return raw.getvalue()
