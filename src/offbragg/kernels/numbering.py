"""Where cells of a grid lie in memory: brick by brick, what is near in the crystal near together.

Bricks have 32 × 32 × 32 cells and are in the order (l, k, h), the last running fastest. Within a
brick the bits of h, k and l are interleaved.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SIDE = 32
"""Cells along a side of a brick."""
CELLS = SIDE**3
"""Cells of a brick."""
NOWHERE = 0xFFFFFFFF
"""Place of a pixel that is in no cell."""
MOST_CELLS = (1 << 32) - 1
"""Cells of a grid, rounded up to whole bricks, must be fewer."""


Shape = tuple[int, int, int]

_SPREAD = np.array(
    [(x & 1) | (x & 2) << 2 | (x & 4) << 4 | (x & 8) << 6 | (x & 16) << 8 for x in range(SIDE)],
    np.uint32,
)


def bricks(shape: Shape) -> Shape:
    """Return the number of bricks along h, k, l.

    Raises
    ------
    ValueError
        If the cells cannot be numbered with 32 bits.
    """
    h, k, l = (-(-n // SIDE) for n in shape)  # noqa: E741
    if min(shape) < 1 or max(shape) > 1 << 20 or h * k * l * CELLS >= MOST_CELLS:
        raise ValueError(f"a grid of {shape} cells cannot be numbered with 32 bits")
    return h, k, l


def place_of(cell: NDArray[np.int64], shape: Shape) -> NDArray[np.uint32]:
    """Return the places of cells in their bricks' order.

    Parameters
    ----------
    cell
        Indices along h, k, l, within the grid, shape (3, ...).
    shape
        Cells along h, k, l.
    """
    counts = bricks(shape)
    strides = (CELLS, CELLS * counts[0], CELLS * counts[0] * counts[1])
    place = np.zeros(cell.shape[1:], np.uint32)
    for i in range(3):
        place += (cell[i] // SIDE * strides[i]).astype(np.uint32)
        place += _SPREAD[cell[i] % SIDE] << np.uint32(i)
    return place


def cell_of(place: NDArray[np.uint32], shape: Shape) -> NDArray[np.int64]:
    """Return the indices along h, k, l of places that `place_of` returned, shape (3, ...)."""
    counts = bricks(shape)
    brick, within = place // np.uint32(CELLS), place % np.uint32(CELLS)
    cell = np.empty((3, *place.shape), np.int64)
    for i in range(3):
        cell[i] = brick % counts[i] * SIDE
        for bit in range(5):
            cell[i] += (within >> np.uint32(3 * bit + i) & 1) << bit
        brick = brick // counts[i]
    return cell


@lru_cache
def cells_within(side: int = SIDE) -> NDArray[np.intp]:
    """Return where the cells of a brick, in the order [l, k, h], lie in it, shape (side³,).

    Parameters
    ----------
    side
        Cells along each edge: a power of 2, at most `SIDE`; fewer are those of a coarser brick.
    """
    l, k, h = np.indices((side, side, side)).reshape(3, -1)  # noqa: E741
    return (_SPREAD[h] | _SPREAD[k] << 1 | _SPREAD[l] << 2).astype(np.intp)
