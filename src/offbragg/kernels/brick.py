"""All that a volume file has of bricks, made of their whole sums in one go.

A brick's sums become float64 cells, their ratios, sums of coarser cells, and the chunks that are
stored, compressed and with their checksum. The reference is what `offbragg.files.volume_chunks`
does with the sums as arrays; both have the same bits.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from offbragg.kernels import level, number_of
from offbragg.kernels.numbering import SIDE, Shape
from offbragg.kernels.transform import PairSums

_ARRAYS = 8  # at most, of a brick
_LEVELS = (2, 4, 8)
_LOCAL = threading.local()

Octets = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Scaled:
    """Two sums, and what one means in each of them."""

    sums: PairSums
    units: tuple[float, float]

    def arguments(self) -> tuple[object, ...]:
        """Return it as the kernel takes it."""
        return self.sums.low, self.sums.high, *self.units


@dataclass(frozen=True, eq=False)
class WholeSums:
    """The sums of a volume as whole numbers.

    Parameters
    ----------
    counts
        Counts and weight.
    spread
        Variance of the counts, and nothing.
    air
        Background and its variance.
    """

    counts: Scaled
    spread: Scaled | None = None
    air: Scaled | None = None

    @cached_property
    def side(self) -> Shape:
        """Cells of a chunk along l, k, h."""
        h, k, l = (min(n, SIDE) for n in self.counts.sums.shape)  # noqa: E741
        return l, k, h

    def room(self, bricks: int) -> Octets:
        """Make a buffer that the chunks of so many bricks fit into, whatever they hold."""
        return np.empty(bricks * self.sizes[1], np.uint8)

    @cached_property
    def sizes(self) -> tuple[int, int]:
        """Bytes of scratch, and of the chunks of a brick at most."""
        compiled = number_of(level)
        assert compiled is not None
        return compiled[0].brick_sizes(self.spread is not None, self.air is not None, self.side)


class MadeBrick(NamedTuple):
    """What was made of a brick; views of buffers that the next call of this thread uses again."""

    levels: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]
    """Counts above background and weight of the coarser cells of its chunk, by level."""
    chunks: list[Octets | None]
    """What is stored: the sums, intensity and its error, and with a background the counts above it;
    None: nothing but the fill value. Views of the room. Empty if only levels were wanted."""
    bits: Octets
    """Which cells of the chunk have a weight, as `np.packbits` has them."""


def make(
    sums: WholeSums, numbers: Sequence[int], room: Octets | None, *, level: str = level
) -> list[MadeBrick]:
    """Make all that is stored of bricks.

    Parameters
    ----------
    sums
        They must not change during the call.
    numbers
        Of the bricks.
    room
        Of `WholeSums.room`, for as many bricks at least; None: only the levels are made.
    level
        One of `offbragg.kernels.available` but the reference.

    Returns
    -------
    bricks
        Fewer than were asked for, if one has a sum that float64 cannot hold exactly.
    """
    compiled = number_of(level)
    if compiled is None:
        raise ValueError("bricks are made from whole numbers by compiled kernels alone")
    module, number = compiled
    asked = len(numbers)
    work = _Work.of(sums, asked)
    n = module.bricks(
        number, np.asarray(numbers, np.int64), sums.counts.arguments(),
        *(None if each is None else each.arguments() for each in (sums.spread, sums.air)),
        sums.side, work.scratch, room, work.lengths[:asked], work.bits[:asked], work.levels[:asked],
    )  # fmt: skip
    made: list[MadeBrick] = []
    arrays, at = 4 + (sums.spread is not None) + 3 * (sums.air is not None), 0
    for lengths, bits, levels in zip(
        work.lengths[:n].tolist(), work.bits, work.levels, strict=False
    ):
        chunks: list[Octets | None] = []
        for length in lengths[:arrays] if room is not None else ():
            chunks.append(room[at : at + length] if length and room is not None else None)
            at += length
        made.append(MadeBrick(work.levels_of(levels), chunks, bits))
    return made


class _Work:
    """Buffers of one thread."""

    def __init__(self, sums: WholeSums, bricks: int) -> None:
        self.side = sums.side
        self._parts: list[tuple[int, slice, Shape]] = []
        at = 0
        for coarse in _LEVELS:
            l, k, h = (-(-n // coarse) for n in sums.side)  # noqa: E741
            self._parts.append((coarse, slice(at, at := at + l * k * h), (l, k, h)))
        self.scratch = np.empty(sums.sizes[0], np.uint8)
        self.lengths = np.empty((bricks, _ARRAYS), np.int64)
        self.bits = np.empty((bricks, -(-int(np.prod(sums.side)) // 8)), np.uint8)
        self.levels = np.empty((bricks, 2, at))

    @staticmethod
    def of(sums: WholeSums, bricks: int) -> _Work:
        """Find those of this thread, or make them."""
        kept: _Work | None = getattr(_LOCAL, "work", None)
        if kept is None or kept.side != sums.side or len(kept.bits) < bricks:
            kept = _LOCAL.work = _Work(sums, bricks)
        return kept

    def levels_of(
        self, levels: NDArray[np.float64]
    ) -> dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        return {
            coarse: (levels[0, part].reshape(shape), levels[1, part].reshape(shape))
            for coarse, part, shape in self._parts
        }


@dataclass(frozen=True, slots=True, eq=False)
class Distances:
    """Where the cells of a brick are: squared distances are h + k + l + 2 (hk + hl + kl).

    Parameters
    ----------
    h, k, l
        float64, one for each cell along an edge.
    products
        hk, hl, kl, each of both axes; None: the axes are orthogonal.
    thresholds
        Ascending.
    """

    h: NDArray[np.float64]
    k: NDArray[np.float64]
    l: NDArray[np.float64]  # noqa: E741
    products: tuple[NDArray[np.float64], ...] | None
    thresholds: NDArray[np.float64]


def count_beyond(
    cells: Distances, side: Shape, bits: Octets, *, level: str = level
) -> NDArray[np.int64]:
    """Count the cells of a brick whose squared distance is not below each threshold.

    Parameters
    ----------
    cells
        Where they are.
    side
        Cells of the brick's chunk along l, k, h.
    bits
        Of `MadeBrick`.

    Returns
    -------
    counts
        All, and those that have a weight, shape (2, thresholds).
    """
    compiled = number_of(level)
    if compiled is None:
        raise ValueError("shells are counted from bits by compiled kernels alone")
    module, number = compiled
    found = np.empty((2, cells.thresholds.size), np.int64)
    products = (
        (None, None, None)
        if cells.products is None
        else tuple(np.ascontiguousarray(each) for each in cells.products)
    )
    module.shells(
        number, cells.h, cells.k, cells.l, *products, (cells.l.size, cells.k.size, cells.h.size),
        side, cells.thresholds, bits, found[0], found[1],
    )  # fmt: skip
    return found
