"""The arrays of a volume file, written brick by brick: compressed by threads, stored in one order.

A brick is a chunk. Those that hold nothing but the fill value are not stored. The levels are summed
within blocks of 8 × 8 × 8 bricks, which are 2 × 2 × 2 … chunks of the coarser arrays: so no more
than one such block is in memory.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from offbragg.bricks import BRICK, Bricks, brick_counts
from offbragg.files.cells import encode
from offbragg.files.frame_pool import processors
from offbragg.files.volume_shells import Counted, Shells

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]

LEVELS = (2, 4, 8)
_BLOCK = 8  # bricks along each edge: one chunk of the coarsest level
_AHEAD = 4  # bricks of each thread that may wait for being stored
_NAN = np.array(np.nan, np.float32).view(np.int32)
Place = tuple[int, ...]  # along l, k, h
_Chunk = tuple[h5py.Dataset, Place, bytes]
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
    progress: Progress,
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
    grid = bricks.grid
    along, shells, done = brick_counts(grid), Shells(grid, bricks.sample), 0
    targets = {name: _Target(data) for name, data in arrays.items()}
    coarse = {level: _Target(data) for level, data in levels.items()}
    threads = threads or processors()
    with ThreadPoolExecutor(threads, thread_name_prefix="volume") as pool:
        for first in itertools.product(*(range(0, n, _BLOCK) for n in along)):
            block = _Block(first, coarse)

            def work(place: Place, block: _Block = block) -> tuple[list[_Chunk], Counted]:
                return _brick(bricks, place, targets, block, shells)

            places = (range(a, min(a + _BLOCK, n)) for a, n in zip(first, along, strict=True))
            for chunks, counted in _in_order(pool, work, itertools.product(*places), threads):
                _store(chunks)
                shells.add(counted)
                done += 1
                progress(done, math.prod(along))
            for chunks in _in_order(pool, block.chunk, block.places(), threads):
                _store(chunks)
    return shells


def _in_order(
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


def _store(chunks: Iterable[_Chunk]) -> None:
    for data, offset, chunk in chunks:
        data.id.write_direct_chunk(offset, chunk)


class _Target:
    """A dataset of `new_array`, and what must be known of it to make its chunks."""

    def __init__(self, data: h5py.Dataset) -> None:
        self.data = data
        self.shape, self.chunks, self.kind = data.shape, data.chunks or (), data.dtype
        self.fill = data.fillvalue

    def chunk(self, place: Iterable[int], cells: NDArray[Any]) -> list[_Chunk]:
        """Compress a chunk, filled up to a whole one; none if it holds nothing but the fill."""
        if np.isnan(cells).all() if np.isnan(self.fill) else not cells.any():
            return []
        if cells.shape != self.chunks:
            whole = np.full(self.chunks, self.fill, self.kind)
            whole[tuple(slice(n) for n in cells.shape)] = cells
            cells = whole
        offset = tuple(BRICK * at for at in place)
        return [(self.data, offset, encode(np.ascontiguousarray(cells, self.kind)))]


def _brick(
    bricks: Bricks,
    place: Place,
    targets: Mapping[str, _Target],
    block: _Block,
    shells: Shells,
) -> tuple[list[_Chunk], Counted]:
    """Compress what one brick is in each array; count it in the shells, add it to the levels."""
    l, k, h = place  # noqa: E741
    sums = bricks.brick(l, k, h)
    if sums is None:
        return [], shells.count(place, None)
    counts, weight, background = sums["counts"], sums["weight"], sums.get("background")
    above = counts if background is None else counts - background
    variance = sums.get("variance", counts)
    if background is not None:
        variance = variance + sums["background_variance"]
    intensity, sigma = _divided(weight, above, np.sqrt(variance))
    values = dict(sums, intensity=intensity, intensity_errors=sigma, v=above)
    block.add(place, above, weight)
    chunks = [
        each for name, target in targets.items() for each in target.chunk(place, values[name])
    ]
    return chunks, shells.count(place, weight)


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


class _Block:
    """Counts above background and weight of the coarser cells of 8 × 8 × 8 bricks."""

    def __init__(self, first: Place, levels: Mapping[int, _Target]) -> None:
        self._levels = levels
        self._begin = {level: tuple(BRICK * n // level for n in first) for level in levels}
        self._sums = {
            level: np.zeros(
                (
                    2,
                    *(
                        min(BRICK * _BLOCK // level, n - a)
                        for a, n in zip(self._begin[level], target.shape, strict=True)
                    ),
                )
            )
            for level, target in levels.items()
        }

    def add(self, place: Place, above: Array, weight: Array) -> None:
        """Add a brick: each level is halved from the one before, along h, then k, then l.

        Sums of whole numbers are exact in any order. Of other weights, level 2 is the sum along h,
        then k, then l, and level 4 the same of level 2.
        """
        coarse = [above, weight]
        for level, sums in self._sums.items():
            coarse = [_halved(array) for array in coarse]
            cells = tuple(
                slice(begin := BRICK * at // level - a, begin + n)
                for at, a, n in zip(place, self._begin[level], coarse[0].shape, strict=True)
            )
            for total, array in zip(sums, coarse, strict=True):
                total[cells] = array

    def places(self) -> Iterator[tuple[int, Place]]:
        """Yield the level and the place within the block of each chunk."""
        for level, sums in self._sums.items():
            for place in np.ndindex(*(-(-n // BRICK) for n in sums.shape[1:])):
                yield level, place

    def chunk(self, at: tuple[int, Place]) -> list[_Chunk]:
        """Compress one chunk of a level; all bricks must have been added."""
        level, place = at
        part = tuple(slice(BRICK * n, BRICK * (n + 1)) for n in place)
        above, weight = (total[part] for total in self._sums[level])
        whole = [n + a // BRICK for n, a in zip(place, self._begin[level], strict=True)]
        return self._levels[level].chunk(whole, _divided(weight, above)[0])


def _halved(array: Array) -> Array:
    """Sum blocks of 2 × 2 × 2 cells, along the last axis first; the last ones may have fewer."""
    if any(n % 2 for n in array.shape):
        array = np.pad(array, [(0, n % 2) for n in array.shape])
    array = array[:, :, 0::2] + array[:, :, 1::2]
    array = array[:, 0::2] + array[:, 1::2]
    return array[0::2] + array[1::2]
