"""A Laue class's part of a grid: sums are kept there alone, and read as those of all equivalents.

Equivalent cells have one sum. While frames are binned each pixel is added once, to the cell of the
part that its own is equivalent to, which for m-3m takes a 48th of the memory; a cell on a mirror
plane is its own image and gets what it counted, once. What is read is what symmetrising whole
volumes gives, to the last bit: whole numbers do not depend on the order. That holds for the
variances, too: a pixel of which parts fall on both sides of a mirror plane, or that passes
through it, is taken as if it were two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from offbragg.bricks import BRICK, brick_places, brick_slices
from offbragg.errors import ReductionError
from offbragg.grid import Grid, Three
from offbragg.kernels import folding as kernel
from offbragg.kernels.numbering import NOWHERE, bricks, place_of
from offbragg.reduction.accumulator import Accumulator
from offbragg.reduction.symmetry import Laue
from offbragg.sample import Sample
from offbragg.volume import Volume

Array = NDArray[np.float64]
Whole = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Folding:
    """How the cells of a grid are brought into the part that a Laue class does not repeat.

    Parameters
    ----------
    grid
        Cells that pixels fall into.
    laue
        The class.
    part
        Cells whose sums are kept: those of h, k, l that are the greatest of equivalent ones, first
        by h, then k, then l, and the box around them.
    kernel
        The same for the kernel.
    """

    grid: Grid
    laue: Laue
    part: Grid
    kernel: kernel.Fold

    @staticmethod
    def of(grid: Grid, laue: Laue) -> Folding:
        """Find the part of a grid, which need not be symmetric itself.

        Raises
        ------
        ReductionError
            If an operation would not take a cell to a cell, or the labels are too large.
        """
        return _folding(grid, laue)

    def places(self, labels: Whole) -> NDArray[np.uint32]:
        """Return where the sums of cells are, by their labels, shape (3, ...); `NOWHERE`: never."""
        index = labels - _column(self.grid.first, labels.ndim)
        inside = np.all((index >= 0) & (index < _column(self.grid.shape, labels.ndim)), axis=0)
        place = place_of(np.where(inside, index, 0), self.grid.shape)
        place[~inside] = NOWHERE
        return kernel.fold(place, self.kernel)


def _column(values: Three, ndim: int) -> Whole:
    return np.array(values, np.int64).reshape(3, *[1] * (ndim - 1))


@lru_cache(maxsize=4)
def _folding(grid: Grid, laue: Laue) -> Folding:
    laue.check_grid(grid)
    furthest = max(-min(grid.first), max(grid.end))
    if furthest >= kernel.MOST_LABEL:
        raise ReductionError(
            f"labels of the grid reach {furthest}: with a fold they must be below "
            f"{kernel.MOST_LABEL}\nTake a smaller box, larger steps (--grid), or no --fold."
        )
    operations = np.array(laue.operations, np.int8)
    low, high = _boxes(grid)
    candidates, first, last = _candidates(operations, low, high)
    # the greatest images fill a cone: where none of a small cube is below 0, none is at all
    cube = np.indices((9, 9, 9), np.int64).reshape(3, -1) - 4
    least = _greatest(operations, cube).min(axis=1)
    first = np.where(least >= 0, np.maximum(first, 0), first)
    part = Grid(_three(first), _three(last - first + 1), grid.per_unit)
    return Folding(
        grid, laue, part,
        kernel.Fold(grid.shape, grid.first, operations, candidates, part.first, part.shape),
    )  # fmt: skip


def _three(values: Whole) -> Three:
    h, k, l = (int(value) for value in values)  # noqa: E741
    return h, k, l


def _greatest(operations: NDArray[np.int8], labels: Whole) -> Whole:
    best = np.argmax(kernel.keys(operations) @ labels, axis=0)
    return np.einsum("nij,jn->in", operations.astype(np.int64)[best], labels)


def _boxes(grid: Grid) -> tuple[Whole, Whole]:
    """Return the first and the last labels of each brick, shape (3, bricks)."""
    counts = bricks(grid.shape)
    at = np.stack(np.unravel_index(np.arange(np.prod(counts)), counts[::-1])[::-1])
    low = at * BRICK + _column(grid.first, 2)
    return low, np.minimum(low + BRICK, _column(grid.end, 2)) - 1


def _candidates(
    operations: NDArray[np.int8], low: Whole, high: Whole
) -> tuple[NDArray[np.uint64], Whole, Whole]:
    """Return which operations may be best in each brick, and the box around all their images."""
    key = kernel.keys(operations)
    best = np.argmax(key @ ((low + high) // 2), axis=0)
    found = np.zeros(low.shape[1], np.uint64)
    first, last = np.full(3, np.iinfo(np.int64).max), np.full(3, np.iinfo(np.int64).min)
    for number, operation in enumerate(operations.astype(np.int64)):
        # what is best in the middle is ahead by this, at least
        ahead = (key[best] - key[number]).T
        certain = np.minimum(ahead * low, ahead * high).sum(axis=0) > 0
        found[~certain] |= np.uint64(1 << number)
        if not certain.all():
            a, b = low[:, ~certain], high[:, ~certain]
            plus, minus = np.maximum(operation, 0), np.minimum(operation, 0)
            first = np.minimum(first, (plus @ a + minus @ b).min(axis=1))
            last = np.maximum(last, (plus @ b + minus @ a).max(axis=1))
    return found, first, last


class Unfolded:
    """The sums of all equivalents of each cell of a grid, read from those of a part.

    It is an `offbragg.bricks.Bricks`: each brick is made when it is asked for.

    Parameters
    ----------
    sums
        Of the part.
    folding
        How they were made.
    grid
        Cells that are wanted, within the folding's grid.
    """

    def __init__(self, sums: Accumulator, folding: Folding, grid: Grid) -> None:
        self.grid, self.sums, self._folding = grid, sums, folding

    @property
    def sample(self) -> Sample | None:
        """The crystal."""
        return self.sums.sample

    @property
    def symmetry(self) -> str:
        """The Laue class."""
        return self._folding.laue.name

    @property
    def names(self) -> tuple[str, ...]:
        """Which sums there are."""
        return self.sums.names

    def brick(self, l: int, k: int, h: int) -> Mapping[str, Array] | None:  # noqa: E741
        """Read the sums of one brick, see `offbragg.bricks.Bricks`."""
        cut = brick_slices(self.grid, l, k, h)[::-1]
        begin = np.array(
            [s.start + first for s, first in zip(cut, self.grid.first, strict=True)], np.int64
        )
        labels = np.indices([s.stop - s.start for s in cut]).astype(np.int64)
        labels += begin.reshape(3, 1, 1, 1)
        places = self._folding.places(labels).T
        return self.sums.at(np.ascontiguousarray(places))

    def total(self, name: str) -> float:
        """Return one of the sums over all cells."""
        found = (self.brick(*place) for place in brick_places(self.grid))
        return float(sum(float(brick[name].sum()) for brick in found if brick is not None))

    def volume(self) -> Volume:
        """Return the sums as a volume."""
        volume = Volume.empty(
            self.grid, sample=self.sample, variance="variance" in self.names,
            background="background" in self.names,
        )  # fmt: skip
        for place in brick_places(self.grid):
            brick = self.brick(*place)
            if brick is not None:
                where = brick_slices(self.grid, *place)[::-1]
                for name, value in brick.items():
                    getattr(volume, name)[where] = value.T
        return replace(volume, symmetry=self.symmetry)
