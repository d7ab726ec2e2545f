"""The arrays of a volume file, written brick by brick: compressed by threads, stored in one order.

A brick is a chunk. Those that hold nothing but the fill value are not stored. The levels are summed
within blocks of 8 × 8 × 8 bricks, which are 2 × 2 × 2 … chunks of the coarser arrays: so no more
than one such block is in memory.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from offbragg import kernels
from offbragg.bricks import (
    BRICK,
    Bricks,
    WholeBricks,
    above_background,
    brick_counts,
    levels_of,
)
from offbragg.files.cells import encode
from offbragg.files.frame_pool import processors
from offbragg.files.volume_shells import Counted, Shells
from offbragg.kernels import brick as kernel

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]

BLOCK = 8  # bricks along each edge: one chunk of the coarsest level
AT_ONCE = 8
"""Bricks that a thread makes in one go."""
_AHEAD = 2  # goes of each thread that may wait for being stored
_NAN = np.array(np.nan, np.float32).view(np.int32)
Place = tuple[int, ...]  # along l, k, h
Octets = NDArray[np.uint8]
Chunk = tuple[str, Place, bytes | Octets | None]
"""Name of the array, or its level as text; place in chunks; None: nothing but the fill value."""
_NOTHING: Mapping[Place, Counted] = {}
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


def new_array(
    group: h5py.Group, name: str, shape: tuple[int, ...], kind: Any, **attributes: str
) -> h5py.Dataset:
    """Make a dataset in cubic chunks of a brick; what is not stored is 0, or NaN in float32."""
    data = group.create_dataset(
        name,
        shape=shape,
        dtype=kind,
        chunks=tuple(min(BRICK, n) for n in shape),
        fillvalue=np.nan if kind == np.float32 else 0,
        fletcher32=True,  # HDF5 compares it whenever the chunk is read
        **hdf5plugin.Bitshuffle(cname="lz4"),
    )
    for key, value in attributes.items():
        data.attrs[key] = np.bytes_(value)
    return data


def write_arrays(
    bricks: Bricks,
    arrays: Mapping[str, h5py.Dataset],
    levels: Mapping[int, h5py.Dataset],
    *,
    progress: Progress = lambda done, total: None,
    threads: int | None = None,
) -> Shells:
    """Write all arrays of a volume.

    The file does not depend on the number of threads.

    Parameters
    ----------
    bricks
        The sums.
    arrays
        Datasets of `new_array`: the sums by their names, ``intensity``, ``intensity_errors`` and
        ``v``, counts above background, if it is not the counts.
    levels
        Those of the coarser intensities, by level.
    progress
        Called with the number of bricks that are stored, and of all.
    threads
        How many compress; None: as many as there are processors.

    Returns
    -------
    shells
        What was measured at which distance.
    """
    along, done = brick_counts(bricks.grid), 0
    maker = ChunkMaker(bricks, arrays, levels)
    by_name = {**arrays, **{str(level): data for level, data in levels.items()}}
    threads = threads or processors()
    with ThreadPoolExecutor(threads, thread_name_prefix="volume") as pool:
        for first in itertools.product(*(range(0, n, BLOCK) for n in along)):
            block = maker.block(first)

            def work(places: Sequence[Place], block: Block = block) -> MadeBricks:
                return maker.make(places, lambda place: block)

            goes = at_once(places_in(along, first))
            for made in in_order(pool, work, goes, threads):
                for _, chunks, counted in made.bricks:
                    store(chunks, by_name)
                    maker.shells.add(counted)
                    done += 1
                    progress(done, math.prod(along))
                maker.stored(made)
            for chunk in in_order(pool, block.chunk, block.places(), threads):
                store([chunk], by_name)
    return maker.shells


def places_in(along: Place, first: Place) -> Iterator[Place]:
    """Yield the places of the bricks of a block, in the order in which they are stored."""
    return itertools.product(
        *(range(a, min(a + BLOCK, n)) for a, n in zip(first, along, strict=True))
    )


def at_once(places: Iterable[Place]) -> Iterator[list[Place]]:
    """Yield a few bricks at a time, for `ChunkMaker.make`."""
    rest = iter(places)
    while some := list(itertools.islice(rest, AT_ONCE)):
        yield some


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[_Item], _Made], items: Iterable[_Item], threads: int
) -> Iterator[_Made]:
    """Yield what threads make of items, in order, never more than a few of them ahead."""
    waiting: deque[Future[_Made]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > _AHEAD * threads:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def store(chunks: Iterable[Chunk], arrays: Mapping[str, h5py.Dataset]) -> None:
    """Store chunks that hold something."""
    for name, place, chunk in chunks:
        if chunk is not None:
            arrays[name].id.write_direct_chunk(offset_of(place), chunk)


def offset_of(place: Place) -> Place:
    """Return the first cell of a chunk."""
    return tuple(BRICK * at for at in place)


class _Array:
    """What must be known of a dataset of `new_array` to make its chunks."""

    def __init__(self, name: str, data: h5py.Dataset) -> None:
        self.name, self.shape, self.chunks = name, data.shape, data.chunks or ()
        self.kind, self.fill = data.dtype, data.fillvalue

    def chunk(self, place: Place, cells: NDArray[Any]) -> Chunk:
        """Compress a chunk, filled up to a whole one, unless it holds nothing but the fill."""
        if np.isnan(cells).all() if np.isnan(self.fill) else not cells.any():
            return self.name, place, None
        if cells.shape != self.chunks:
            whole = np.full(self.chunks, self.fill, self.kind)
            whole[tuple(slice(n) for n in cells.shape)] = cells
            cells = whole
        return self.name, place, encode(np.ascontiguousarray(cells, self.kind))

    def blank(self) -> bytes:
        """Compress a chunk of nothing but the fill, to be written over another one."""
        return encode(np.full(self.chunks, self.fill, self.kind))


class MadeBricks(NamedTuple):
    """Bricks to be stored: where each is, its chunks, and what was counted of it."""

    bricks: list[tuple[Place, list[Chunk], Counted]]
    room: Octets | None
    """The buffer that the chunks are in."""


class ChunkMaker:
    """Makes the chunks of a volume file from its sums.

    Parameters
    ----------
    bricks
        The sums; they may grow, while no chunk is made.
    arrays, levels
        As for `write_arrays`; only their properties are used.
    """

    def __init__(
        self,
        bricks: Bricks,
        arrays: Mapping[str, h5py.Dataset],
        levels: Mapping[int, h5py.Dataset],
    ) -> None:
        self._bricks = bricks
        self._whole = bricks if isinstance(bricks, WholeBricks) else None
        self._sums = None if self._whole is None else self._whole.whole()
        self._stored = None  # by a kernel
        if kernels.compiled:
            names = bricks.names
            self._stored = kernel.Stored(
                bricks.grid.shape, "variance" in names, "background" in names
            )
        self._rooms: list[Octets] = []
        self._arrays = [_Array(name, data) for name, data in arrays.items()]
        self._levels = {level: _Array(str(level), data) for level, data in levels.items()}
        self.shells = Shells(bricks.grid, bricks.sample)
        """What was measured at which distance, once it was added."""
        self.blank = {each.name: each.blank() for each in (*self._arrays, *self._levels.values())}
        """Chunks of nothing but the fill value."""

    def block(self, first: Place) -> Block:
        """Make the sums of the levels of a block, from its first brick on."""
        return Block(first, self._levels)

    def make(
        self,
        places: Sequence[Place],
        block: Callable[[Place], Block],
        before: Mapping[Place, Counted] = _NOTHING,
    ) -> MadeBricks:
        """Make what is stored of a few bricks; several threads may do so at once.

        Parameters
        ----------
        places
            Of the bricks, `AT_ONCE` at most.
        block
            Finds the sums of the levels that a brick is added to.
        before
            What was counted of them, see `Shells.count`.

        Returns
        -------
        made
            `stored` takes it back.
        """
        room = None
        found: list[tuple[Place, list[Chunk], Counted]] = []
        whole: dict[Place, kernel.MadeBrick] = {}
        at = 0
        if self._stored is not None:
            room = self._rooms.pop() if self._rooms else self._stored.room(AT_ONCE)
            whole = self._of_whole(places, room)
        for place in places:
            brick = whole.get(place)
            if brick is None:
                sums = self._bricks.brick(*place)
                if sums is None or self._stored is None or room is None or whole:
                    found.append(
                        (place, *self._by_arrays(place, sums, block(place), before.get(place)))
                    )
                    continue
                brick = kernel.make_of_cells(sums, self._stored, room[at:])
                at += sum(0 if chunk is None else chunk.size for chunk in brick.chunks)
            block(place).add(place, brick.levels)
            chunks: list[Chunk] = [
                (each.name, place, chunk)
                for each, chunk in zip(self._arrays, brick.chunks, strict=True)
            ]
            assert self._stored is not None
            side, known = self._stored.side, before.get(place)
            found.append((place, chunks, self.shells.count_bits(place, brick.bits, side, known)))
        return MadeBricks(found, room)

    def stored(self, made: MadeBricks) -> None:
        """Take back the buffer of chunks that are stored."""
        if made.room is not None:
            self._rooms.append(made.room)

    def coarse(self, places: Sequence[Place], block: Callable[[Place], Block]) -> None:
        """Add a few bricks to the levels only."""
        whole = self._of_whole(places, None)
        for place in places:
            brick = whole.get(place)
            sums = levels_of(self._bricks.brick(*place)) if brick is None else brick.levels
            block(place).add(place, sums)

    def _of_whole(
        self, places: Sequence[Place], room: Octets | None
    ) -> dict[Place, kernel.MadeBrick]:
        """Make bricks of whole numbers, but for empty ones, and those from an error on."""
        if self._whole is None or self._sums is None or self._stored is None:
            return {}
        numbers = {place: self._whole.number(*place) for place in places}
        there = {place: number for place, number in numbers.items() if number is not None}
        if not there:
            return {}
        made = kernel.make(self._sums, self._stored, list(there.values()), room)
        return dict(zip(there, made, strict=False))

    def _by_arrays(
        self, place: Place, sums: Mapping[str, Array] | None, block: Block, before: Counted | None
    ) -> tuple[list[Chunk], Counted]:
        """Make what is stored of a brick with NumPy: the reference of the kernel."""
        if sums is None:
            block.add(place, None)
            nothing: list[Chunk] = [(each.name, place, None) for each in self._arrays]
            if self._stored is not None:
                return nothing, self.shells.count_bits(place, None, self._stored.side, before)
            return nothing, self.shells.count(place, None, before=before)
        counts, weight, above = sums["counts"], sums["weight"], above_background(sums)
        variance = sums.get("variance", counts)
        if "background" in sums:
            variance = variance + sums["background_variance"]
        intensity, sigma = _divided(weight, above, np.sqrt(variance))
        values = dict(sums, intensity=intensity, intensity_errors=sigma, v=above)
        block.add(place, levels_of(sums))
        chunks = [each.chunk(place, values[each.name]) for each in self._arrays]
        return chunks, self.shells.count(place, weight, before=before)


def _divided(weight: Array, *values: Array) -> list[NDArray[np.float32]]:
    """Divide each by the weight; where there is none it is NaN, always the same one.

    NaN is put in by bits: a masked assignment takes five times as long as the division.
    """
    keep = -(weight > 0).astype(np.int32)  # all bits of what was measured
    blank = ~keep & _NAN
    ratios = []
    for value in values:
        ratio = np.empty(weight.shape, np.float32)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            np.divide(value, weight, out=ratio, casting="same_kind")
        bits = ratio.view(np.int32)
        bits &= keep
        bits |= blank
        ratios.append(ratio)
    return ratios


class Block:
    """Counts above background and weight of the coarser cells of 8 × 8 × 8 bricks."""

    def __init__(self, first: Place, levels: Mapping[int, _Array]) -> None:
        self._levels = levels
        self._added: set[Place] = set()
        self._begin = {level: tuple(BRICK * n // level for n in first) for level in levels}
        self._sums = {
            level: np.zeros(
                (
                    2,
                    *(
                        min(BRICK * BLOCK // level, n - a)
                        for a, n in zip(self._begin[level], target.shape, strict=True)
                    ),
                )
            )
            for level, target in levels.items()
        }

    def add(self, place: Place, sums: Mapping[int, tuple[Array, Array]] | None) -> None:
        """Put in counts above background and weight of a brick, by level; None: it is empty."""
        if sums is None and place not in self._added:
            return  # it is 0 there, in memory that does not exist yet
        self._added.add(place)
        for level, totals in self._sums.items():
            cells = tuple(
                slice(begin := BRICK * at // level - a, begin + BRICK // level)
                for at, a in zip(place, self._begin[level], strict=True)
            )
            if sums is None:
                totals[:, *cells] = 0.0
                continue
            for total, array in zip(totals, sums[level], strict=True):
                part = total[cells]  # a chunk may reach beyond the grid
                part[...] = array[tuple(slice(n) for n in part.shape)]

    def places(self) -> Iterator[tuple[int, Place]]:
        """Yield the level and the place within the block of each chunk."""
        for level, sums in self._sums.items():
            for place in np.ndindex(*(-(-n // BRICK) for n in sums.shape[1:])):
                yield level, place

    def chunk(self, at: tuple[int, Place]) -> Chunk:
        """Compress one chunk of a level; all bricks must have been added."""
        level, place = at
        part = tuple(slice(BRICK * n, BRICK * (n + 1)) for n in place)
        above, weight = (total[part] for total in self._sums[level])
        whole = tuple(n + a // BRICK for n, a in zip(place, self._begin[level], strict=True))
        return self._levels[level].chunk(whole, _divided(weight, above)[0])
