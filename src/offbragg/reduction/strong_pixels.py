"""Strong pixels of one frame: those that exceed their surroundings by some standard deviations."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from offbragg import kernels

Array = NDArray[Any]

_TILE = 16  # pixels: the background is one number for such a square, as `kernels.tiles` has it
_MOST_STRONG = 0.02  # of a frame's pixels; more is not Bragg scattering
_CIRCLE = 2.0 * np.pi * np.arange(24) / 24
_RING = np.rint(7.5 * np.array([np.sin(_CIRCLE), np.cos(_CIRCLE)])).astype(np.int64)  # pixels
_TOP = np.iinfo(np.int32).max


class StrongPixels(NamedTuple):
    """Strong pixels of a frame, in the order of their places."""

    where: NDArray[np.int64]
    """In the flat frame."""
    counts: Array
    level: Array
    """Their background, counts."""
    crowded: bool
    """Whether there were more than a frame of Bragg scattering has, and only the best are here."""


class FrameSearch:
    """Finds the strong pixels of one frame at a time, in buffers of its own.

    `look` may run in any thread, and early; `strong` then takes what was found, in the order of
    the frames. What it gives does not depend on when `look` ran.

    Parameters
    ----------
    shape
        Rows and columns of a frame.
    limit
        Number of standard deviations above the background.
    """

    def __init__(self, shape: tuple[int, int], limit: float) -> None:
        rows, columns = shape
        self.buffer = np.empty(shape, np.int32)
        """Frames may be read into it before they are looked at."""
        self.has_counts = False
        """Whether any pixel of the frame has a count."""
        self._limit = limit
        self._room = int(_MOST_STRONG * rows * columns) + 1
        self._counts: Array = self.buffer
        self._background: Array = np.zeros((1, 1))
        self._where: NDArray[np.int64] = np.empty(0, np.int64)
        self._found: tuple[NDArray[np.int64], Array, Array] | None = None

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Pixels of the frame that have a count."""
        return self._counts >= 0

    def look(self, counts: NDArray[np.int32], masked: NDArray[np.bool_]) -> None:
        """Find the strong pixels of a frame.

        Parameters
        ----------
        counts
            The frame; it is looked at until the next one is given.
        masked
            Pixels to leave out, shape (slow, fast). More of them may be known when `strong` asks.
        """
        self._counts = np.ascontiguousarray(counts, np.int32)
        number, middle, highest = kernels.tiles(self._counts)
        self._where = np.empty(0, np.int64)
        self.has_counts = bool(highest.max() >= 0)
        if self.has_counts:
            self._background = self._smoothed(number, middle)
            where = self._above_limit(highest)
            self._where = where[~masked.reshape(-1)[where]]
        self._found = self._tested(self._where) if self._where.size <= self._room else None

    def strong(self, masked: NDArray[np.bool_]) -> StrongPixels:
        """Return the strong pixels of the frame that are not masked."""
        flat = masked.reshape(-1)
        if self._found is not None:
            where, counts, level = self._found
            free = ~flat[where]
            return StrongPixels(where[free], counts[free], level[free], False)
        where = self._where[~flat[self._where]]
        crowded = where.size > self._room
        if crowded:
            limit = self._limits().astype(np.float64)
            ratio = self._counts.reshape(-1)[where] / limit[self._tile_of(where)]
            best = np.argpartition(ratio, -self._room)[-self._room :]
            where = np.sort(where[best])
        return StrongPixels(*self._tested(where), crowded)

    def _smoothed(self, number: NDArray[np.int32], middle: NDArray[np.int32]) -> Array:
        """Return the background of every tile: half its own median, half of those around it."""
        weight = np.where(number >= 6, number, 0).astype(np.float64)
        value = np.where(weight > 0, middle, 0).astype(np.float64)
        below: Array = uniform_filter(weight, 3, mode="nearest")
        above: Array = uniform_filter(weight * value, 3, mode="nearest")
        around = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
        return np.where(weight > 0, 0.5 * (value + around), around)

    def _limits(self) -> NDArray[np.float32]:
        """Return the count that a strong pixel exceeds, for each tile."""
        sigma = np.sqrt(np.maximum(self._background, 1.0))
        return (self._background + self._limit * sigma + 2.0).astype(np.float32)

    def _above_limit(self, highest: NDArray[np.int32]) -> NDArray[np.int64]:
        """Find the pixels above the limit of their tile; few columns of a band have one."""
        rows, columns = self._counts.shape
        # of whole counts, those above a limit are above the whole number below it
        limits = np.minimum(np.floor(self._limits()).astype(np.float64), _TOP).astype(np.int32)
        above = highest > np.repeat(limits, _TILE, axis=1)[:, :columns]
        band, column = np.divmod(np.flatnonzero(above), columns)
        row = band[:, None] * _TILE + np.arange(_TILE)
        places = np.minimum(row, rows - 1) * columns + column[:, None]
        high = self._counts.reshape(-1)[places] > limits[band, column // _TILE][:, None]
        high &= row < rows
        return np.sort(places[high])

    def _tile_of(self, where: NDArray[np.int64]) -> tuple[Array, Array]:
        columns = self._counts.shape[1]
        return where // columns // _TILE, where % columns // _TILE

    def _tested(self, where: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array, Array]:
        """Keep what is also above its nearest surroundings; its counts and background."""
        level = np.maximum(self._background[self._tile_of(where)], self._around(where))
        got = self._counts.reshape(-1)[where]
        still = got > level + self._limit * np.sqrt(np.maximum(level, 1.0)) + 2.0
        return where[still], got[still], level[still]

    def _around(self, where: NDArray[np.int64]) -> Array:
        """Return the median of a ring around each pixel: diffuse scattering is broad."""
        rows, columns = self._counts.shape
        row, column = where // columns, where % columns
        down = np.clip(row[:, None] + _RING[0], 0, rows - 1)
        across = np.clip(column[:, None] + _RING[1], 0, columns - 1)
        ring = self._counts.reshape(-1)[down * columns + across]
        ring.sort(axis=1)
        # negative counts, which are none, come first
        first = np.sum(ring < 0, axis=1)
        middle = np.minimum((first + ring.shape[1]) // 2, ring.shape[1] - 1)
        return np.maximum(np.take_along_axis(ring, middle[:, None], 1)[:, 0], 0).astype(np.float64)
