"""Sums over the cells of a grid as whole numbers: exact, in any order, and taken away as exactly.

Counts are whole numbers. A weight becomes one in fixed point, in units of 2⁻ⁿ; n is chosen from the
largest weight that there can be, and stands in the record. The contribution of one pixel of one
frame is rounded to the nearest unit (ties to even, so without bias): for weights down to 1/32 of
the largest that is at most 2⁻²⁰ of each. So nothing depends on the order, the batches, the threads
or the processes in which frames came, and a frame that turns out not to count is subtracted without
a trace.

Memory is taken by what was measured alone: cells lie in bricks, 8 bytes each, and pages that
nothing was added to do not exist; upper halves of sums that outgrow 32 bits lie apart and exist
where they are needed.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from offbragg.bricks import brick_slices
from offbragg.errors import ReductionError
from offbragg.grid import Grid
from offbragg.kernels.brick import Scaled, WholeSums
from offbragg.kernels.numbering import CELLS, NOWHERE, SIDE, bricks, cells_within
from offbragg.kernels.transform import PairSums
from offbragg.reduction.packed import PackedPair, PackedSums
from offbragg.sample import Sample
from offbragg.volume import Volume

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux; in Python's mmap from 3.13 on
_SMALL = 2 << 30  # bytes that sums may take though only a few of their bricks are filled: 601³
BY_STAYS = (20, 20)
"""n of the units 2⁻ⁿ of background and variance in records of earlier versions."""
_EXACT = 1 << 53  # float64 holds each whole number up to this one
_FIRST, _SECOND = 0, 1
_TAKEN = 2  # of a brick's change: it was seen
_WITHIN = cells_within()
_ORDER = [*range(0, 15, 3), *range(1, 15, 3), *range(2, 15, 3)]


def weight_exponent(factor: float, flux: float) -> int:
    """Choose n, so that in units of 2⁻ⁿ the largest weight of a pixel in a frame is below 2²⁷.

    Parameters
    ----------
    factor
        Largest weight of a pixel, or of a part of one, for a flux of one.
    flux
        Largest on the crystal during a frame; it counts as the next power of 4, so that sweeps in
        the same beam have the same units.

    Raises
    ------
    ReductionError
        If factor or flux is not above 0.
    """
    if not (0 < factor < math.inf and 0 < flux < math.inf):
        raise ReductionError(f"weight {factor:g} × flux {flux:g}: both must be above 0")
    return 27 - math.frexp(factor)[1] - 2 * math.ceil(math.log2(flux) / 2)


class Accumulator:
    """The sums of a volume while it grows, which `offbragg.bricks.Bricks` reads.

    Parameters
    ----------
    grid
        The cells.
    exponent
        n of the unit 2⁻ⁿ of the weight, see `weight_exponent`.
    parts
        Into how many parts a pixel of a frame is divided; above 1 the variance is kept, too.
    background
        n of the units 2⁻ⁿ of what is expected without the crystal and of its variance; None: it is
        not kept.
    sample
        The crystal.
    symmetry
        Laue class by which the cells of a larger grid are folded into this one; empty: none.

    Raises
    ------
    ReductionError
        If the grid has too many cells to be numbered.
    """

    def __init__(
        self,
        grid: Grid,
        exponent: int,
        *,
        parts: int = 1,
        background: tuple[int, int] | None = None,
        sample: Sample | None = None,
        symmetry: str = "",
    ) -> None:
        self.grid, self.exponent, self.parts, self.sample = grid, exponent, parts, sample
        self.symmetry, self.background = symmetry, background
        try:
            self._bricks = bricks(grid.shape)
        except ValueError as error:
            raise ReductionError(
                f"{error}\nTake a smaller box, or larger steps (--grid)."
            ) from None
        self._emptied = np.zeros(math.prod(self._bricks), np.bool_)
        self.sums = self._empty()
        """Counts and weight."""
        self.spread = self._empty() if parts > 1 else None
        """Variance of the counts, and nothing."""
        self.air = None if background is None else self._empty()
        """Background and its variance."""

    def _empty(self) -> PairSums:
        n = math.prod(self._bricks)
        low = _lazily(n, large_pages=n * CELLS * 8 <= _SMALL)
        return PairSums(low, _lazily(n), np.zeros(n, np.uint8), self.grid.shape)

    @property
    def names(self) -> tuple[str, ...]:
        """Which sums there are."""
        found = ["counts", "weight"]
        if self.spread is not None:
            found.append("variance")
        if self.air is not None:
            found += ["background", "background_variance"]
        return tuple(found)

    def unit(self, name: str) -> float:
        """Return what one means in a sum: ``counts``, ``weight`` and so on."""
        first, second = self.background or (0, 0)
        return {
            "counts": 1.0 / self.parts,
            "weight": 2.0**-self.exponent,
            "variance": 1.0 / self.parts**2,
            "background": 2.0**-first,
            "background_variance": 2.0**-second,
        }[name]

    def _of(self, name: str) -> tuple[PairSums, int]:
        pair = {"variance": self.spread, "background": self.air, "background_variance": self.air}
        found = pair.get(name, self.sums)
        assert found is not None
        return found, _SECOND if name in ("weight", "background_variance") else _FIRST

    def touched(self) -> NDArray[np.intp]:
        """Return the numbers of the bricks that were added to."""
        return np.flatnonzero(self.sums.changed)

    def take_changed(self) -> NDArray[np.intp]:
        """Return the numbers of the bricks whose sums changed since the last call."""
        pairs = [pair for pair in (self.sums, self.spread, self.air) if pair is not None]
        changed = self._emptied | np.any([pair.changed == 1 for pair in pairs], axis=0)
        for pair in pairs:  # whoever adds to a brick makes it 1 again
            pair.changed[pair.changed == 1] = _TAKEN
        self._emptied[:] = False
        return np.flatnonzero(changed)

    def place(self, number: int) -> tuple[int, int, int]:
        """Return where a brick is, along l, k, h."""
        rest, h = divmod(int(number), self._bricks[0])
        return *divmod(rest, self._bricks[1]), h

    def forget_empty(self) -> None:
        """Forget bricks that hold nothing any more, as when all of it was subtracted again.

        To be called before `take_changed`, which looks at what changed once.
        """
        for pair in (self.sums, self.spread, self.air):
            if pair is None:
                continue
            for number in np.flatnonzero(pair.changed == 1):
                if not (pair.low[number].any() or pair.high[number].any()):
                    pair.changed[number] = 0
                    self._emptied[number] = True

    def total(self, name: str) -> float:
        """Return one of the sums over all cells."""
        pair, column = self._of(name)
        found = 0
        for number in np.flatnonzero(pair.changed):
            found += int(pair.low[number, :, column].sum(dtype=np.int64))
            found += int(pair.high[number, :, column].sum(dtype=np.int64)) << 32
        return found * self.unit(name)

    def integers(self, name: str, number: int) -> Integers:
        """Read one sum of a brick, in its units: int64 [l, k, h], shape (32, 32, 32)."""
        pair, column = self._of(name)
        low = pair.low[number, :, column]
        value = low.astype(np.int64)
        if pair.high[number, :, column].any():
            value |= pair.high[number, :, column].astype(np.int64) << 32
        return value[_WITHIN].reshape(SIDE, SIDE, SIDE)

    def brick(self, l: int, k: int, h: int) -> Mapping[str, Array] | None:  # noqa: E741
        """Read the sums of one brick, see `offbragg.bricks.Bricks`."""
        number = self.number(l, k, h)
        if number is None:
            return None
        cut = tuple(slice(0, s.stop - s.start) for s in brick_slices(self.grid, l, k, h))
        found: dict[str, Array] = {}
        lower = self._lower(number)
        for name in self.names:
            if lower is not None and name in ("counts", "weight"):
                value = lower[..., ("counts", "weight").index(name)][cut]
                found[name] = np.multiply(value, self.unit(name), dtype=np.float64, order="C")
            else:
                found[name] = self._in_counts(name, self.integers(name, number)[cut])
        return found

    def _lower(self, number: int) -> NDArray[np.uint32] | None:
        """Read counts and weight of a brick, [l, k, h, which]; None if they need upper halves."""
        if self.sums.high[number].any():
            return None
        # the bits of l, k and h are interleaved: each is an axis of two, to be put in order
        cells = self.sums.low[number].view(np.uint64).reshape((2,) * 15)
        ordered = np.ascontiguousarray(cells.transpose(_ORDER))
        return ordered.view(np.uint32).reshape(SIDE, SIDE, SIDE, 2)

    def whole(self) -> WholeSums:
        """Return the sums as they are, see `offbragg.bricks.WholeBricks`."""
        return WholeSums(
            Scaled(self.sums, (self.unit("counts"), self.unit("weight"))),
            None if self.spread is None else Scaled(self.spread, (self.unit("variance"), 0.0)),
            None
            if self.air is None
            else Scaled(self.air, (self.unit("background"), self.unit("background_variance"))),
        )

    def number(self, l: int, k: int, h: int) -> int | None:  # noqa: E741
        """Return the number of a brick, see `offbragg.bricks.WholeBricks`."""
        number = (l * self._bricks[1] + k) * self._bricks[0] + h
        return number if self.sums.changed[number] else None

    def at(self, places: NDArray[np.uint32]) -> Mapping[str, Array] | None:
        """Read the sums at places of cells, `NOWHERE` among them; None: nothing is there."""
        there = places != NOWHERE
        there[there] = self.sums.changed[places[there] // CELLS] != 0
        if not there.any():
            return None
        found: dict[str, Array] = {}
        for name in self.names:
            pair, column = self._of(name)
            low, high = (
                half.reshape(-1, 2)[places[there], column] for half in (pair.low, pair.high)
            )
            value = np.zeros(places.shape, np.int64)
            value[there] = low | high.astype(np.int64) << 32
            found[name] = self._in_counts(name, value)
        return found

    def _in_counts(self, name: str, value: Integers) -> Array:
        """Return whole numbers times their unit, if that is exact."""
        most = int(value.max(initial=0))
        if most >= _EXACT:
            raise ReductionError(
                f"a cell's {name} is {most:.4g} units of {self.unit(name):g}: a file holds up to "
                "2^53 of them exactly\nReduce the sweeps in parts, or take smaller cells (--grid)."
            )
        return np.multiply(value, self.unit(name), dtype=np.float64, order="C")

    def filled(self) -> Iterator[tuple[tuple[slice, slice, slice], Mapping[str, Array]]]:
        """Go through the bricks that were added to: where each is (h, k, l), and its sums."""
        for number in self.touched():
            l, k, h = self.place(number)  # noqa: E741
            sums = self.brick(l, k, h)
            assert sums is not None
            slices = brick_slices(self.grid, l, k, h)
            yield (slices[2], slices[1], slices[0]), sums

    def merge(self, other: Accumulator | PackedSums) -> None:
        """Add the sums of another accumulator: whole numbers, so in any order.

        Raises
        ------
        ReductionError
            If its cells, units or sums are not the same.
        """
        mine, its = (
            (each.grid, each.exponent, each.parts, each.names, each.symmetry, each.background)
            for each in (self, other)
        )
        if mine != its:
            raise ReductionError(
                f"sums of {other.grid} (weight in 2^-{other.exponent}, {', '.join(other.names)}) "
                f"do not add to sums of {self.grid} (2^-{self.exponent}, {', '.join(self.names)}): "
                f"symmetry {other.symmetry or 'none'} and {self.symmetry or 'none'}, background in "
                f"2^-n with n = {other.background} and {self.background}"
            )
        packed = other if isinstance(other, PackedSums) else other.packed()
        for into, more in zip((self.sums, self.spread, self.air), packed.pairs, strict=True):
            if into is not None and more is not None:
                more.add_to(into)

    def packed(self) -> PackedSums:
        """Return a copy of what was added, to be sent and merged elsewhere."""
        return PackedSums(
            self.grid, self.exponent, self.parts, self.names, self.symmetry,
            self.background,
            tuple(
                None if pair is None else PackedPair.of(pair)
                for pair in (self.sums, self.spread, self.air)
            ),
        )  # fmt: skip

    def add_to(self, volume: Volume) -> None:
        """Add the sums to the arrays of a volume on the same grid."""
        for where, sums in self.filled():
            for name, value in sums.items():
                array: Array | None = getattr(volume, name)
                if array is not None:
                    array[where] += value.T

    def volume(self) -> Volume:
        """Return the sums as a volume."""
        volume = Volume.empty(
            self.grid, sample=self.sample, variance=self.spread is not None,
            background=self.air is not None,
        )  # fmt: skip
        self.add_to(volume)
        return volume


def _lazily(n: int, *, large_pages: bool = False) -> NDArray[np.uint32]:
    """Return zeros that take memory page by page, when they are written to.

    Large pages, of 8 bricks, are got and found faster; of what is sparse they take more.
    """
    size = n * CELLS * 2 * 4
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    except (OSError, ValueError, AttributeError):
        return np.zeros((n, CELLS, 2), np.uint32)  # pragma: no cover  not on this system
    if large_pages and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint32).reshape(n, CELLS, 2)
