"""All that a volume file has of bricks, made of their sums in one go.

A brick's sums, whole numbers or cells, become float64 cells, their ratios, sums of coarser cells,
and the chunks that are stored, compressed and with their checksum. The reference is what
`offbragg.files.volume_chunks` does with NumPy; both have the same bits.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offbragg.kernels import level, number_of
from offbragg.kernels.numbering import SIDE, Shape
from offbragg.kernels.transform import PairSums

LEVELS = (2, 4, 8)
"""Cells along each edge of the coarser ones."""
_ARRAYS = 8  # at most, of a brick
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


@dataclass(frozen=True, slots=True, eq=False)
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


@dataclass(frozen=True)
class Stored:
    """What is stored of each brick.

    Parameters
    ----------
    shape
        Cells of the grid along h, k, l.
    spread, air
        Whether there is a variance, and a background.
    """

    shape: Shape
    spread: bool = False
    air: bool = False

    @cached_property
    def side(self) -> Shape:
        """Cells of a chunk along l, k, h."""
        h, k, l = (min(n, SIDE) for n in self.shape)  # noqa: E741
        return l, k, h

    @property
    def arrays(self) -> int:
        """Number of chunks of a brick."""
        return 4 + self.spread + 3 * self.air

    def room(self, bricks: int) -> Octets:
        """Make a buffer that the chunks of some bricks fit into, whatever they hold."""
        return np.empty(bricks * self.sizes[1], np.uint8)

    @cached_property
    def sizes(self) -> tuple[int, int]:
        """Bytes of scratch, and of the chunks of a brick at most."""
        compiled = number_of(level)
        assert compiled is not None
        return compiled[0].brick_sizes(self.spread, self.air, self.side)


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
    sums: WholeSums,
    stored: Stored,
    numbers: Sequence[int],
    room: Octets | None,
    *,
    level: str = level,
) -> list[MadeBrick]:
    """Make all that is stored of bricks of whole numbers.

    Parameters
    ----------
    sums
        They must not change during the call.
    stored
        What is.
    numbers
        Of the bricks.
    room
        Of `Stored.room`, for as many bricks at least; None: only the levels are made.
    level
        One of `offbragg.kernels.available` but the reference.

    Returns
    -------
    bricks
        Fewer than were asked for, if one has a sum that float64 cannot hold exactly.
    """
    module, number = _compiled(level)
    asked = len(numbers)
    work = _Work.of(stored, asked)
    made = module.bricks(
        number, np.asarray(numbers, np.int64), sums.counts.arguments(),
        *(None if each is None else each.arguments() for each in (sums.spread, sums.air)),
        stored.side, work.scratch, room, work.lengths[:asked], work.bits[:asked],
        work.levels[:asked],
    )  # fmt: skip
    return work.bricks(made, stored, room)


def make_of_cells(
    sums: Mapping[str, NDArray[np.float64]], stored: Stored, room: Octets, *, level: str = level
) -> MadeBrick:
    """Make all that is stored of one brick of float64 cells.

    Parameters
    ----------
    sums
        ``counts``, ``weight`` and the others that there are, [l, k, h], in the grid alone.
    stored, room, level
        As for `make`.
    """
    module, number = _compiled(level)
    work = _Work.of(stored, 1)
    names = ("counts", "weight", "variance", "background", "background_variance")
    cells = [_filled_up(sums[name], stored.side) if name in sums else None for name in names]
    module.brick_of_cells(
        number, *cells, stored.side, work.scratch, room, work.lengths[:1], work.bits[:1],
        work.levels[:1],
    )  # fmt: skip
    return work.bricks(1, stored, room)[0]


def _filled_up(cells: NDArray[np.float64], side: Shape) -> NDArray[np.float64]:
    if cells.shape == side:
        return np.ascontiguousarray(cells, np.float64)
    whole = np.zeros(side)
    whole[tuple(slice(n) for n in cells.shape)] = cells
    return whole


def _compiled(level: str) -> tuple[Any, int]:
    found = number_of(level)
    if found is None:
        raise ValueError("bricks are made by compiled kernels; the reference is volume_chunks")
    return found


class _Work:
    """Buffers of one thread."""

    def __init__(self, stored: Stored, bricks: int) -> None:
        self.side = stored.side
        self._parts: list[tuple[int, slice, Shape]] = []
        at = 0
        for coarse in LEVELS:
            l, k, h = (-(-n // coarse) for n in stored.side)  # noqa: E741
            self._parts.append((coarse, slice(at, at := at + l * k * h), (l, k, h)))
        self.scratch = np.empty(stored.sizes[0], np.uint8)
        self.lengths = np.empty((bricks, _ARRAYS), np.int64)
        self.bits = np.empty((bricks, -(-int(np.prod(stored.side)) // 8)), np.uint8)
        self.levels = np.empty((bricks, 2, at))

    @staticmethod
    def of(stored: Stored, bricks: int) -> _Work:
        """Find those of this thread, or make them."""
        kept: _Work | None = getattr(_LOCAL, "work", None)
        if kept is None or kept.side != stored.side or len(kept.bits) < bricks:
            kept = _LOCAL.work = _Work(stored, bricks)
        return kept

    def bricks(self, made: int, stored: Stored, room: Octets | None) -> list[MadeBrick]:
        """Return what was made of the first bricks."""
        found: list[MadeBrick] = []
        at = 0
        for number, lengths in enumerate(self.lengths[:made].tolist()):
            chunks: list[Octets | None] = []
            for length in lengths[: stored.arrays] if room is not None else ():
                chunks.append(room[at : at + length] if length and room is not None else None)
                at += length
            found.append(MadeBrick(self.levels_of(self.levels[number]), chunks, self.bits[number]))
        return found

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
    module, number = _compiled(level)
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
