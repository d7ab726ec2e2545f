"""The sums of a volume read brick by brick, so that nobody must hold the whole of them as float64.

A brick is 32 × 32 × 32 cells, fewer at the upper edges of a grid, and the first one begins at the
grid's first cell. It is also a chunk of a volume file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from offbragg.errors import ReductionError
from offbragg.grid import Array, Grid, Three
from offbragg.kernels.brick import LEVELS, WholeSums
from offbragg.sample import Sample
from offbragg.volume import Volume

__all__ = [
    "BRICK",
    "LEVELS",
    "SUMS",
    "Bricks",
    "WholeBricks",
    "above_background",
    "brick_counts",
    "brick_places",
    "brick_slices",
    "levels_of",
    "volume_bricks",
]

BRICK = 32
"""Cells along each edge of a brick."""

SUMS = ("counts", "weight", "variance", "background", "background_variance")
"""The sums that there can be, as `Volume` has them; counts and weight are always there."""


class Bricks(Protocol):
    """A volume's sums, read in bricks.

    Places are counted in bricks along l, k, h, from 0; arrays are [l, k, h], as they are stored.
    """

    @property
    def grid(self) -> Grid:
        """Where the cells are."""
        ...

    @property
    def sample(self) -> Sample | None:
        """The crystal."""
        ...

    @property
    def symmetry(self) -> str:
        """Laue class over which the sums were made; empty for none."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Which of `SUMS` there are, in that order."""
        ...

    def brick(self, l: int, k: int, h: int) -> Mapping[str, Array] | None:  # noqa: E741
        """Read the sums of one brick; may be called from several threads at once.

        Returns
        -------
        sums
            For each of `names` a float64 array [l, k, h], C-contiguous, of `brick_slices`; the
            caller does not write into it. None: nothing was measured there, all of it is 0.
        """
        ...


@runtime_checkable
class WholeBricks(Bricks, Protocol):
    """Bricks whose sums are whole numbers, of which a kernel makes all that is stored."""

    def whole(self) -> WholeSums:
        """Return the sums of all bricks; they go on changing where they are."""
        ...

    def number(self, l: int, k: int, h: int) -> int | None:  # noqa: E741
        """Return the number of a brick; None: nothing was measured there, all of it is 0."""
        ...


def brick_counts(grid: Grid) -> Three:
    """Return how many bricks a grid has along l, k, h.

    Examples
    --------
    >>> brick_counts(Grid((0, 0, 0), (601, 32, 33), (1, 1, 1)))
    (2, 1, 19)
    """
    h, k, l = (-(-n // BRICK) for n in grid.shape)  # noqa: E741
    return l, k, h


def brick_places(grid: Grid) -> Iterator[Three]:
    """Yield the place of each brick, h fastest."""
    l, k, h = brick_counts(grid)  # noqa: E741
    yield from itertools.product(range(l), range(k), range(h))


def brick_slices(grid: Grid, l: int, k: int, h: int) -> tuple[slice, slice, slice]:  # noqa: E741
    """Return the slices of a brick's cells along l, k, h.

    Examples
    --------
    >>> brick_slices(Grid((0, 0, 0), (601, 32, 33), (1, 1, 1)), 1, 0, 18)
    (slice(32, 33, None), slice(0, 32, None), slice(576, 601, None))
    """
    a, b, c = (
        slice(BRICK * place, min(BRICK * (place + 1), n))
        for place, n in zip((l, k, h), reversed(grid.shape), strict=True)
    )
    return a, b, c


def above_background(sums: Mapping[str, Array]) -> Array:
    """Return the counts of a brick above its background."""
    background = sums.get("background")
    return sums["counts"] if background is None else sums["counts"] - background


def levels_of(sums: Mapping[str, Array] | None) -> dict[int, tuple[Array, Array]] | None:
    """Sum the cells of a brick to coarser ones: counts above background, and weight, by level.

    Each level is halved from the one before, along h, then k, then l. Sums of whole numbers are
    exact in any order. Of other weights, level 2 is the sum along h, then k, then l, and level 4
    the same of level 2.
    """
    if sums is None:
        return None
    above, weight = above_background(sums), sums["weight"]
    found: dict[int, tuple[Array, Array]] = {}
    for level in LEVELS:
        above, weight = found[level] = _halved(above), _halved(weight)
    return found


def _halved(array: Array) -> Array:
    """Sum blocks of 2 × 2 × 2 cells, along the last axis first; the last ones may have fewer."""
    if any(n % 2 for n in array.shape):
        array = np.pad(array, [(0, n % 2) for n in array.shape])
    array = array[:, :, 0::2] + array[:, :, 1::2]
    array = array[:, 0::2] + array[:, 1::2]
    return array[0::2] + array[1::2]


def volume_bricks(volume: Volume) -> Bricks:
    """Read a volume that is in memory in bricks.

    Raises
    ------
    ReductionError
        If it has no grid.
    """
    return _VolumeBricks(volume)


class _VolumeBricks:
    def __init__(self, volume: Volume) -> None:
        if volume.grid is None:
            raise ReductionError("a volume without a grid has no bricks and cannot be written")
        self.grid = volume.grid
        self.sample = volume.sample
        self.symmetry = volume.symmetry
        self._arrays: dict[str, Array] = {
            name: array for name in SUMS if (array := getattr(volume, name)) is not None
        }
        self.names = tuple(self._arrays)

    def brick(self, l: int, k: int, h: int) -> Mapping[str, Array] | None:  # noqa: E741
        part = brick_slices(self.grid, l, k, h)[::-1]
        cut = {name: array[part] for name, array in self._arrays.items()}
        if not any(array.any() for array in cut.values()):
            return None
        return {name: np.ascontiguousarray(array.T, np.float64) for name, array in cut.items()}
