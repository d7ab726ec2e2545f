"""Find Bragg peaks in three dimensions, column, row and frame, a few frames in memory at a time.

Pixels are strong that exceed their surroundings by some standard deviations of its counts; strong
pixels that touch each other, in a frame or from one to the next, belong to one peak.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import gammainc

from offbragg.errors import OrientationError
from offbragg.reduction.strong_pixels import FrameSearch
from offbragg.stack import Stack, read_frame

Array = NDArray[Any]

_CORE = 0.2  # of its highest excess: what is below is the foot of a peak, often diffuse
# what a Gaussian peak keeps of its variance without that foot, in three dimensions
_LEFT = float(gammainc(2.5, -np.log(_CORE)) / gammainc(1.5, -np.log(_CORE)))
_MOST_THREADS = 8
_LONGEST = 8.0  # degree: what is strong for longer belongs to the detector or to powder
_WIDEST = 10.0  # pixels, standard deviation
_BRIDGE = 2  # missing frames over which a peak is still one


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """Peaks of one sweep; one row each, the strongest first.

    Parameters
    ----------
    x, y
        Centroid, column and row, pixel; the corner of pixel (0, 0) is (0, 0).
    z
        Centroid, frames since the sweep's start; frame n is from n to n + 1.
    intensity
        Counts above the background.
    width
        Standard deviation along z, frames, as of a Gaussian.
    clean
        False if something may have moved the centroid: a gap, a dead or saturated pixel, a
        missing frame, the sweep's end.
    ignored
        What was strong but is not a peak, and how many of each kind.
    """

    x: Array
    y: Array
    z: Array
    intensity: Array
    width: Array
    clean: NDArray[np.bool_]
    ignored: dict[str, int]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> Peaks:
        return Peaks(
            *(getattr(self, name)[which] for name in ("x", "y", "z", "intensity", "width")),
            clean=self.clean[which],
            ignored=self.ignored,
        )


class _Pixels(NamedTuple):
    """Strong pixels, ordered by turn, row, column."""

    turn: NDArray[np.int64]  # counts the frames that are there; a long gap counts as one more
    frame: NDArray[np.int64]
    where: NDArray[np.int64]  # in the flat frame
    excess: NDArray[np.float32]  # counts above background
    background: NDArray[np.float32]

    def take(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> _Pixels:
        some: Any = [each[which] for each in self]
        return _Pixels(*some)


def find_peaks(
    stack: Stack,
    *,
    stored: NDArray[np.bool_] | None = None,
    mask: NDArray[np.bool_] | None = None,
    saturation: float | None = None,
    strong: float = 6.0,
    most: int = 20_000,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Peaks:
    """Find the Bragg peaks of a sweep.

    The background of a pixel is the median of its surroundings; a pixel is strong if its counts
    exceed that by ``strong`` standard deviations of a Poisson distribution (as in Kabsch, Acta
    Cryst. D66, 133, 2010, with a median for the mean). The centroid is weighted with the excess
    of those pixels that have at least a fifth of the highest one, so that diffuse scattering
    around a Bragg point does not count.

    Memory does not grow with the number of frames: a frame for each thread and one more, the
    strong pixels of a few, and the peaks found.

    Parameters
    ----------
    stack
        The sweep.
    stored
        Which of its frames count, shape (frame,); all if None. A missing frame is not looked at,
        and a peak next to it is not clean.
    mask
        Pixels to leave out (True), shape (slow, fast); negative counts are left out anyhow.
    saturation
        Counts from which on a pixel is saturated.
    strong
        Number of standard deviations above the background.
    most
        Limit of the number of peaks; the strongest are kept.
    threads
        Number of threads; one per processor if None. The result does not depend on it.
    progress
        Called with the number of frames that are done, and of all.

    Raises
    ------
    OrientationError
        If no frame is there.
    """
    total, rows, columns = stack.counts.shape
    there = np.ones(total, np.bool_) if stored is None else np.asarray(stored, np.bool_)[:total]
    if not there.any():
        raise OrientationError(
            f"none of the {total} frames is there: nothing to look for peaks in\n"
            "Look at the ledger: offbragg verify FILE"
        )
    numbers = np.flatnonzero(there) + stack.first
    steps = np.diff(numbers)
    turns = np.concatenate([[0], np.cumsum(np.where(steps <= _BRIDGE + 1, 1, 2))])
    step = abs(stack.sweep.step)
    longest = max(12, min(int(np.ceil(_LONGEST / step)), 200)) if step else 12
    search = _Search((rows, columns), longest, mask, saturation)
    threads = threads or min(os.cpu_count() or 1, _MOST_THREADS)
    free = [FrameSearch((rows, columns), strong) for _ in range(threads + 1)]

    def look(frame: FrameSearch, number: int) -> FrameSearch:
        counts = read_frame(stack.counts, number - stack.first, frame.buffer)
        frame.look(counts, search.masked)
        return frame

    waiting: deque[Future[FrameSearch]] = deque()
    ahead = iter(numbers)
    with ThreadPoolExecutor(threads) as pool:
        try:
            for done, (number, turn) in enumerate(zip(numbers, turns, strict=True)):
                while free and (following := next(ahead, None)) is not None:
                    waiting.append(pool.submit(look, free.pop(), int(following)))
                frame = waiting.popleft().result()
                search.take(frame, int(number), int(turn))
                free.append(frame)
                progress(done + 1, len(numbers))
        finally:
            pool.shutdown(cancel_futures=True)
    search.settle(everything=True)
    gone = np.flatnonzero(np.diff(numbers) > 1)
    ends = np.concatenate(
        [[numbers[0], numbers[-1]], numbers[gone], numbers[gone + 1]]
    )  # frames beside which something is not known
    return search.peaks(ends, most)


class _Search:
    def __init__(
        self,
        shape: tuple[int, int],
        longest: int,
        mask: NDArray[np.bool_] | None,
        saturation: float | None,
    ) -> None:
        self.shape, self.longest = shape, longest
        self.saturation = np.inf if saturation is None else saturation
        self.masked = np.zeros(shape, np.bool_) if mask is None else np.array(mask, np.bool_)
        self.beside: Any = None  # next to a pixel without counts
        self.open: list[_Pixels] = []
        self.n_open = 0
        self.found: list[Array] = []
        self.n_found = 0
        self.ignored = {"single pixels": 0, "lasting": 0, "broad": 0, "crowded frames": 0}

    def take(self, frame: FrameSearch, number: int, turn: int) -> None:
        """Take the strong pixels of the next frame."""
        if not frame.has_counts:
            return
        if self.beside is None:
            self.beside = binary_dilation(~frame.valid | self.masked, iterations=2)
        where, got, level, crowded = frame.strong(self.masked)
        self.ignored["crowded frames"] += crowded
        if not where.size:
            return
        excess = (got - level).astype(np.float32)
        # the top of a saturated peak is not known: the sign of its background says so
        level = np.where(got >= self.saturation, -1.0, level).astype(np.float32)
        self.open.append(
            _Pixels(np.full(where.size, turn), np.full(where.size, number), where, excess, level)
        )
        self.n_open += where.size
        if self.n_open > 400_000 or len(self.open) > self.longest + 16:
            self.settle()

    def settle(self, *, everything: bool = False) -> None:
        """Close the groups that no later frame can add to."""
        if not self.open:
            return
        pixels = _Pixels(*(np.concatenate(each) for each in zip(*self.open, strict=True)))
        self.open, self.n_open = [], 0
        label = self._label(pixels)
        n = int(label.max()) + 1
        last, first = np.zeros(n, np.int64), np.full(n, np.iinfo(np.int64).max)
        np.maximum.at(last, label, pixels.turn)
        np.minimum.at(first, label, pixels.turn)
        lasting = last - first + 1 > self.longest
        closed = np.ones(n, np.bool_) if everything else last < pixels.turn[-1]
        if lasting.any():
            self.ignored["lasting"] += int(lasting.sum())
            self._leave_out(pixels, lasting[label])
        whole = closed & ~lasting
        its = whole[label]
        self._summarise(pixels.take(its), (np.cumsum(whole) - 1)[label[its]])
        carried = (~closed & ~lasting)[label]
        if carried.any():
            self.open, self.n_open = [pixels.take(carried)], int(carried.sum())

    def _leave_out(self, pixels: _Pixels, which: NDArray[np.bool_]) -> None:
        """Exclude pixels that were strong in most of the recent frames."""
        often = np.bincount(pixels.where[which], minlength=self.masked.size) > self.longest // 2
        self.masked |= often.reshape(self.shape)

    def _label(self, pixels: _Pixels) -> NDArray[np.int64]:
        """Assign a number to the groups of pixels that touch each other."""
        columns = self.shape[1]
        stride = columns + 2
        plane = (self.shape[0] + 2) * stride
        key = (
            pixels.turn * plane
            + (pixels.where // columns + 1) * stride
            + pixels.where % columns
            + 1
        )
        beside = np.flatnonzero(np.diff(key) == 1)
        links = [(beside, beside + 1)]
        for offset in (stride - 1, stride, stride + 1, plane):
            there = np.searchsorted(key, key + offset)
            there[there == key.size] = 0
            here = np.flatnonzero(key[there] == key + offset)
            links.append((here, there[here]))
        a, b = (np.concatenate(each) for each in zip(*links, strict=True))
        graph = coo_array((np.ones(a.size, np.bool_), (a, b)), shape=(key.size, key.size))
        return cast(NDArray[np.int64], connected_components(graph, directed=False)[1])

    def _summarise(self, pixels: _Pixels, label: NDArray[np.int64]) -> None:
        """Note the centroids of groups of pixels, numbered from 0."""
        if not pixels.where.size:
            return
        highest = np.zeros(label.max() + 1, np.float32)
        np.maximum.at(highest, label, pixels.excess)
        pixels = pixels.take(pixels.excess >= _CORE * highest[label])
        label = self._label(pixels)
        n = int(label.max()) + 1
        columns = self.shape[1]
        weight = pixels.excess.astype(np.float64)
        x, y = pixels.where % columns + 0.5, pixels.where // columns + 0.5
        z = pixels.frame + 0.5
        whole = np.bincount(label, weight, n)

        def mean(of: Array) -> Array:
            return np.bincount(label, weight * of, n) / whole

        cx, cy, cz = mean(x), mean(y), mean(z)
        vx, vy, vz = (mean((u - c[label]) ** 2) for u, c in ((x, cx), (y, cy), (z, cz)))
        assert self.beside is not None
        dirty = self.beside.reshape(-1)[pixels.where] | (pixels.background < 0)
        first, last = np.full(n, np.iinfo(np.int64).max), np.zeros(n, np.int64)
        np.minimum.at(first, label, pixels.frame)
        np.maximum.at(last, label, pixels.frame)
        size = np.bincount(label, minlength=n)
        single = (vx + vy < 1e-9) | (size < 3)
        broad = np.maximum(vx, vy) > _WIDEST**2
        self.ignored["single pixels"] += int((single & ~broad).sum())
        self.ignored["broad"] += int(broad.sum())
        table = np.column_stack(
            [cx, cy, cz, whole, np.sqrt(vz / _LEFT), np.bincount(label, dirty, n) == 0, first, last]
        )
        self.found.append(table[~single & ~broad])
        self.n_found += len(self.found[-1])
        if self.n_found > 200_000:  # bounded, whatever the frames hold
            best = np.concatenate(self.found)
            self.found = [best[np.argsort(-best[:, 3])[:100_000]]]
            self.n_found = 100_000

    def peaks(self, ends: NDArray[np.int64], most: int) -> Peaks:
        """Return all that was found, the strongest first."""
        table = np.concatenate(self.found) if self.found else np.zeros((0, 8))
        table = table[np.argsort(-table[:, 3], kind="stable")[:most]]
        x, y, z, intensity, width, clean, first, last = table.T
        whole = (clean > 0) & ~np.isin(first, ends) & ~np.isin(last, ends)
        return Peaks(x, y, z, intensity, width, whole, dict(self.ignored))
