"""Sums that travel from one process to another: what of them holds something, merged there.

A brick of a sweep is about half empty, in whole pages of memory. So sums are packed page by page:
copied, sent and merged is what was added to alone, and upper halves of it where there are some.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offbragg.grid import Grid
from offbragg.kernels.numbering import CELLS
from offbragg.kernels.transform import PairSums

PAGE = 512
"""Cells of a page: 8 × 8 × 8 of them, 4096 bytes, which follow each other in a brick."""

_PAGES = CELLS // PAGE  # of a brick
_AT_ONCE = 64  # pages that are merged at once: they stay in the cache of a core

Pages = tuple[NDArray[np.intp], NDArray[np.uint32]]
"""Numbers of pages, shape (n,), and what is in them, shape (n, `PAGE`, 2)."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedPair:
    """Two sums of each cell, where they are not 0.

    Parameters
    ----------
    changed
        Numbers of the bricks that were added to.
    low, high
        Pages of their lower and of their upper halves.
    """

    changed: NDArray[np.intp]
    low: Pages
    high: Pages

    @classmethod
    def of(cls, pair: PairSums) -> PackedPair:
        """Copy what two sums hold."""
        changed = np.flatnonzero(pair.changed)
        return cls(changed, _pages(pair.low, changed), _pages(pair.high, changed))

    def add_to(self, into: PairSums) -> None:
        """Add to sums of the same grid, as 64-bit numbers in two's complement."""
        low, high = (half.reshape(-1, PAGE, 2) for half in (into.low, into.high))
        empty = into.changed == 0
        for where, more in _batches(self.low):
            if empty[where // _PAGES].all():  # memory that is not there yet is not read first
                low[where] = more
                continue
            total = low[where]
            total += more
            low[where] = total
            carried = total < more
            if carried.any():
                some = carried.any(axis=(1, 2))  # untouched memory is not there
                high[where[some]] += carried[some]
        for where, more in _batches(self.high):
            high[where] += more
        into.changed[self.changed] = 1


@dataclass(frozen=True, slots=True, eq=False)
class PackedSums:
    """What an accumulator holds, without the memory that it would need for all cells.

    Parameters
    ----------
    grid, exponent, parts, names, symmetry, background
        Of the accumulator.
    pairs
        Of each pair of sums (counts and weight; variance; background), None without it.
    """

    grid: Grid
    exponent: int
    parts: int
    names: tuple[str, ...]
    symmetry: str
    background: tuple[int, int] | None
    pairs: tuple[PackedPair | None, ...]


def _pages(half: NDArray[np.uint32], changed: NDArray[np.intp]) -> Pages:
    """Copy the pages of bricks that hold something."""
    cells = half.view(np.uint64).reshape(-1, _PAGES, PAGE)  # both sums of a cell at once
    found = [number * _PAGES + np.flatnonzero(cells[number].any(axis=1)) for number in changed]
    where = np.concatenate(found) if found else np.empty(0, np.intp)
    return where, half.reshape(-1, PAGE, 2)[where]


def _batches(pages: Pages) -> Iterator[Pages]:
    where, values = pages
    for begin in range(0, len(where), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        yield where[part], values[part]
