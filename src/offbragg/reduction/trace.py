"""From a cell back to the pixels of the frames that fall into it.

A pixel falls into a cell by the kernel's arithmetic (`offbragg.kernels.transform`), which is asked
for few pixels only. With the kernel's ``across``, ``down`` and ``base`` as the columns of T, a
point (x, y) of the panel, at the distance d from the crystal, has in units of cells

    c = T (x, y, 1) / d + shift,    so    (x, y, 1) / d = T⁻¹ (c − shift) = v

and a cell is the v of a small parallelepiped. It meets the panel's points if P v, with the panel's
vectors as the columns of P, can have the length 1; x = v₀ / v₂ and y = v₁ / v₂ are then within
bounds that hold for the whole parallelepiped. Frames and windows are chosen by these bounds, the
kernel decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offbragg.kernels.numbering import place_of
from offbragg.kernels.transform import Band, Exposures, places
from offbragg.reduction.binning import Binner, FrameToAdd

Array = NDArray[np.float64]
Cell = tuple[int, int, int]

_HALF = 0.5 + 1e-6  # of a cell: more than the rounding of the kernel's arithmetic
_AROUND = 1  # pixels added on each side of a window


@dataclass(frozen=True, slots=True, eq=False)
class Visit:
    """The pixels of one frame that fall into one cell.

    Parameters
    ----------
    cell
        Its number among those that were asked for.
    frame
        Number of the frame.
    slow, fast
        Of each pixel, shape (n,).
    parts
        How many parts of each pixel fall into the cell, shape (n,); 1 without oversampling.
    """

    cell: int
    frame: int
    slow: NDArray[np.intp]
    fast: NDArray[np.intp]
    parts: NDArray[np.int64]


def visits(binner: Binner, frames: Sequence[FrameToAdd], cells: Sequence[Cell]) -> Iterator[Visit]:
    """Find the pixels that fall into cells, whether they count or not, frame by frame.

    Parameters
    ----------
    binner
        Of the sweep.
    frames
        All of the sweep's; they are not read.
    cells
        Indices along h, k, l in the binner's grid.
    """
    if not frames or not cells:
        return
    shape = binner.grid.shape
    wanted = np.array(cells, np.int64).T
    place = place_of(wanted, shape)
    turns = np.stack([binner.turns(frame) for frame in frames])
    windows: dict[int, list[tuple[int, Band]]] = {}
    search = _Search(binner, turns)
    for number in range(len(cells)):
        for frame, window in search.windows(wanted[:, number]):
            windows.setdefault(frame, []).append((number, window))
    panel = binner.geometry.panel.shape
    # only places are looked at
    nothing, no_flux = np.broadcast_to(np.int32(0), (1, *panel)), np.zeros(1, np.float32)
    for frame in sorted(windows):
        parts = binner.exposures(turns[frame : frame + 1], no_flux, nothing)
        for number, window in windows[frame]:
            inside = _count(parts, shape, window, int(place[number]))
            slow, fast = np.nonzero(inside)
            if slow.size:
                yield Visit(
                    number, frame, slow + window[0], fast + window[2], inside[slow, fast]
                )  # fmt: skip


def _count(parts: Sequence[Exposures], shape: Cell, window: Band, place: int) -> NDArray[np.int64]:
    """Return how many parts of each pixel of a window fall into a place."""
    found = np.zeros((window[1] - window[0], window[3] - window[2]), np.int64)
    for exposures in parts:
        found += places(exposures, shape, window) == place
    return found


class _Search:
    """Finds where on the panel, and in which frames, a cell can be.

    Parameters
    ----------
    binner
        Of the sweep.
    turns
        Of all parts of all frames, shape (frame, part, 4, 3).
    """

    def __init__(self, binner: Binner, turns: Array) -> None:
        panel = binner.geometry.panel
        self._shape = panel.shape
        n, parts = turns.shape[:2]
        flat = turns.reshape(n * parts, 4, 3)
        self._parts, self._shift = parts, flat[:, 3]
        self._inverse = np.linalg.inv(flat[:, [1, 2, 0]].transpose(0, 2, 1))
        self._panel = np.stack(
            [
                np.array(panel.fast) * panel.pixel_size[0],
                np.array(panel.slow) * panel.pixel_size[1],
                np.array(panel.origin),
            ],
            axis=1,
        )
        # the same in all frames: a rotation changes no length
        corners = np.array(list(itertools.product((-_HALF, _HALF), repeat=3)))
        reach = np.linalg.norm(corners @ (self._panel @ self._inverse[0]).T, axis=1)
        self._reach = float(reach.max()) * (1 + 1e-6)

    def windows(self, cell: NDArray[np.int64]) -> Iterator[tuple[int, Band]]:
        """Find windows of the panel that hold all pixels of a cell: (number of a frame, window)."""
        offset = cell + 0.5 - self._shift
        middle = np.einsum("nij,nj->ni", self._inverse, offset)
        length = np.linalg.norm(middle @ self._panel.T, axis=1)
        near = np.flatnonzero((np.abs(length - 1.0) <= self._reach) & (middle[:, 2] > 0))
        found: dict[int, Band] = {}
        for n in near.tolist():
            window = self._window(middle[n], self._inverse[n])
            if window is not None:
                frame = n // self._parts
                found[frame] = _both(found.get(frame, window), window)
        yield from found.items()

    def _window(self, middle: Array, inverse: Array) -> Band | None:
        rows, columns = self._shape
        least = middle[2] - _HALF * float(np.abs(inverse[2]).sum())
        if least <= 0:  # seen at grazing angles
            return 0, rows, 0, columns
        bounds: list[tuple[int, int]] = []
        for axis, size in ((1, rows), (0, columns)):
            at = middle[axis] / middle[2]
            spread = _HALF * float(np.abs(inverse[axis] - at * inverse[2]).sum()) / least
            begin = max(int(np.floor(max(at - spread, -1.0))) - _AROUND, 0)
            end = min(int(np.floor(min(at + spread, size + 1.0))) + 1 + _AROUND, size)
            if begin >= end:
                return None
            bounds.append((begin, end))
        return (*bounds[0], *bounds[1])


def _both(one: Band, other: Band) -> Band:
    return (
        min(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), max(one[3], other[3])
    )  # fmt: skip
