"""Parts of a panel that never meet the same cell during a sweep, so that threads need no locks.

While the crystal turns about an axis, the component of q along that axis stays what it is. So two
pixels whose components differ by more than a cell extends along the axis are never in the same
cell. The panel is divided into bands across the axis; every second one is done at the same time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from offbragg.geometry import Geometry
from offbragg.grid import Grid
from offbragg.kernels.transform import Band, point_of

Array = NDArray[np.float64]

_NUMBERS = (16, 12, 8, 6, 4)  # of bands that are tried


def bands(geometry: Geometry, UB: Array, grid: Grid, inverses: Array) -> list[list[Band]]:
    """Divide a panel: bands of one list never meet, lists are done one after the other.

    Parameters
    ----------
    geometry
        Beam, panel and goniometer.
    UB
        Orientation matrix, Å⁻¹ without 2π.
    grid
        The cells.
    inverses
        1 / distance of each measured point of each pixel, 1/mm, shape (sides², slow, fast).

    Returns
    -------
    bands
        One list with the whole panel, if it cannot be divided.
    """
    rows, columns = geometry.panel.shape
    extent, low, high = _along_axis(geometry, UB, grid, inverses)
    for number in _NUMBERS:
        for axis in (0, 1):
            size = (rows, columns)[axis]
            if size < 2 * number:
                continue
            edges = np.linspace(0, size, number + 1).astype(int)
            least = [low.min(axis=1 - axis)[a:b].min() for a, b in _pairs(edges)]
            most = [high.max(axis=1 - axis)[a:b].max() for a, b in _pairs(edges)]
            if not all(_apart(least[i::2], most[i::2], extent) for i in (0, 1)):
                continue
            parts: list[Band] = [
                (a, b, 0, columns) if axis == 0 else (0, rows, a, b) for a, b in _pairs(edges)
            ]
            return [parts[0::2], parts[1::2]]
    return [[(0, rows, 0, columns)]]


def any_bands(shape: tuple[int, int]) -> list[list[Band]]:
    """Divide a panel into bands of rows that may be done at the same time if they may meet."""
    rows, columns = shape
    edges = np.linspace(0, rows, min(rows, _NUMBERS[0]) + 1).astype(int)
    return [[(a, b, 0, columns) for a, b in _pairs(edges)]]


def _along_axis(
    geometry: Geometry, UB: Array, grid: Grid, inverses: Array
) -> tuple[float, Array, Array]:
    """Return how far a cell extends along the axis, and from where to where each pixel is, 1/Å."""
    outside, about, inside = geometry.around_scan_axis()
    axis = outside @ about
    # (R⁻¹ q)·(inside⁻¹ e) = q·(outside e) for every angle
    in_crystal = inside.T @ about
    extent = float(np.sum(np.abs(in_crystal @ UB) / np.array(grid.per_unit)))
    panel = geometry.panel
    origin = float(np.dot(panel.origin, axis))
    across = float(np.dot(panel.fast, axis)) * panel.pixel_size[0]
    down = float(np.dot(panel.slow, axis)) * panel.pixel_size[1]
    rows, columns = panel.shape
    low, high = np.full((rows, columns), np.inf), np.full((rows, columns), -np.inf)
    sides = round(len(inverses) ** 0.5)
    for part, inverse in enumerate(inverses):
        x, y = point_of(part, sides)
        place = origin + (np.arange(columns) + x) * across + (np.arange(rows)[:, None] + y) * down
        height = place * inverse / geometry.wavelength
        np.minimum(low, height, out=low)
        np.maximum(high, height, out=high)
    return extent, low, high


def _pairs(edges: NDArray[np.int_]) -> Iterator[tuple[int, int]]:
    for a, b in itertools.pairwise(edges):
        yield int(a), int(b)


def _apart(least: Sequence[float], most: Sequence[float], extent: float) -> bool:
    """Return whether ranges are further from each other than a cell extends."""
    order = np.argsort(least)
    gaps = np.array(least)[order][1:] - np.maximum.accumulate(np.array(most)[order])[:-1]
    return bool(np.all(gaps > extent * 1.001))
