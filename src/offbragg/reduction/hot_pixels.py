"""Pixels that count far too much in frames all over a sweep."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import (  # pyright: ignore[reportMissingTypeStubs]
    maximum_filter,  # pyright: ignore[reportUnknownVariableType]
    minimum_filter,  # pyright: ignore[reportUnknownVariableType]
)

from offbragg.stack import Stack, read_frame

Mask = NDArray[np.bool_]
Counts = NDArray[np.int32]

LEAST_TURN = 5.0  # degree, of a sweep in which hot pixels can be distinguished from reflections
_FRAMES = 31  # that are compared
_FEW = 10_000  # pixels that are looked at one by one rather than all, or at a time
_TIMES = 5.0  # its surroundings' counts, from which a pixel is hot
_ABOVE = 10.0  # standard deviations
_AROUND = 2  # pixels on each side of one: 5 × 5


def sampled(n_frames: int) -> list[int]:
    """Return the numbers of the frames of a sweep that are compared."""
    return sorted({int(i) for i in np.linspace(0, n_frames - 1, min(_FRAMES, n_frames))})


class Comparison:
    """The frames of a sweep that are compared, kept while it grows.

    Of each pixel's counts, in order, those are kept that decide once there is one frame more. So
    when the last one comes only that one is read.
    """

    def __init__(self) -> None:
        self._frames: dict[int, str] = {}  # number and checksum
        self._kept: NDArray[np.int32] | None = None  # two of the lowest ones, two of the middle
        self._places: tuple[int, ...] = ()  # in the order of the counts

    def of(
        self, stack: Stack, numbers: Sequence[int], digests: Sequence[str]
    ) -> tuple[Counts, Counts] | None:
        """Return what a pixel counts at least in nine frames of ten, and its median.

        Parameters
        ----------
        stack
            The frames.
        numbers
            Of those that are compared, if they are stored.
        digests
            Checksums of all frames; empty for one that is not stored, or was without it.

        Returns
        -------
        least, median
            None if there are too few: a reflection could be in all of them.
        """
        wanted = {n: digests[n] for n in numbers if digests[n]}
        known = {n: text for n, text in wanted.items() if self._frames.get(n) == text}
        more = [n for n in wanted if n not in known]
        if self._kept is None or len(known) < len(self._frames) or len(more) > 1:
            return self._compare(stack, wanted)
        if not more:
            few, middle = _places(len(known))
            return self._kept[self._places.index(few)], self._kept[self._places.index(middle)]
        last = np.asarray(stack.counts[more[0]])
        if last.max() < 0:
            return self._compare(stack, known)
        below, few, beneath, middle = self._kept
        return np.clip(last, below, few), np.clip(last, beneath, middle)

    def _compare(self, stack: Stack, frames: dict[int, str]) -> tuple[Counts, Counts] | None:
        self._kept, self._frames = None, {}
        seen, low = _low(stack, frames)
        if len(seen) < 3:
            return None
        few, middle = _places(len(seen) + 1)
        if few == 0 or len(seen) < len(frames):  # what comes next may be below all
            few, middle = _places(len(seen))
            _, least, _, median = _ordered(stack, seen, low, few, middle)
            return least, median
        self._kept, self._frames = _ordered(stack, seen, low, few, middle), dict(frames)
        self._places = (few - 1, few, middle - 1, middle)
        few, middle = _places(len(seen))
        return self._kept[self._places.index(few)], self._kept[self._places.index(middle)]


def hot_pixels(
    stack: Stack,
    *,
    least_turn: float = LEAST_TURN,
    without: Collection[int] = (),
    before: Comparison | None = None,
    digests: Sequence[str] | None = None,
) -> Mask:
    """Find pixels that count far too much in frames all over the sweep.

    A Bragg peak is there in some frames, near the axis in many, a hot pixel in all; so in
    a sweep that hardly turned they cannot be distinguished, and none is found. The counts that a
    pixel has in nine frames of ten are compared with the median of the 5 × 5 pixels around it,
    over space and frames. A pixel is hot if it is five times as high and ten standard deviations
    above. Up to 31 frames are compared, spread over the sweep.

    Parameters
    ----------
    stack
        The frames.
    least_turn
        Least rotation of the sweep, degree; 0 for an air run. In real frames of 0.1 degree
        reflections are taken for hot pixels up to 1.4 degree.
    without
        Frames that are not used.
    before, digests
        What is kept of the same sweep while it grows, and the checksum of each frame.
    """
    n, rows, columns = stack.counts.shape
    hot = np.zeros((rows, columns), np.bool_)
    if n * abs(stack.sweep.step) < least_turn:
        return hot
    which = [i for i in sampled(n) if i not in without]
    if before is not None and digests is not None:
        found = before.of(stack, which, digests)
    else:
        found = Comparison().of(stack, which, [" "] * n)
    if found is None:
        return hot
    least, median = found
    maybe = np.flatnonzero(least > _TIMES)
    if maybe.size > _FEW:
        # where even the lowest median around a pixel is too high for it, it cannot be hot
        lowest = cast(Counts, minimum_filter(median, size=2 * _AROUND + 1))
        maybe = np.flatnonzero(_above(least, lowest))
    if not maybe.size:
        return hot
    hot.flat[maybe] = _above(least.flat[maybe], _median_around(median, maybe))
    return hot


def _above(least: Counts, around: Counts) -> Mask:
    usual = np.maximum(around, 1)
    return (least > _TIMES * usual) & (least > around + _ABOVE * np.sqrt(usual))


def _places(n: int) -> tuple[int, int]:
    """Return which of n counts, in order, a pixel has in nine of ten at least, and the median."""
    return n // 10, n // 2


def _low(stack: Stack, frames: Iterable[int]) -> tuple[list[int], NDArray[np.uint8]]:
    """Find the frames that are stored, and in how many a pixel counts too little to be hot."""
    shape = stack.counts.shape[1:]
    seen, low, room = [], np.zeros(shape, np.uint8), np.empty(shape, np.int32)
    for number in frames:
        counts = read_frame(stack.counts, number, room)
        if counts.max() >= 0:  # the others are not stored
            seen.append(number)
            low += counts <= _TIMES
    return seen, low


def _ordered(
    stack: Stack, frames: Sequence[int], low: NDArray[np.uint8], few: int, middle: int
) -> Counts:
    """Order the counts of each pixel that can be hot, and of those around it.

    Frames are read once more for these pixels: all at once they would take 300 MB, and new memory
    more time than decoding.

    Returns
    -------
    counts
        At the places few - 1, few, middle - 1 and middle, shape (4, slow, fast). 0 for all other
        pixels; at few - 1 also if there is none.
    """
    found = np.zeros((4, *low.shape), np.int32)
    near = _around(low <= few)
    if not near.size:
        return found
    seen, room = np.empty((len(frames), near.size), np.int32), np.empty(low.shape, np.int32)
    for counts, number in zip(seen, frames, strict=True):
        counts[:] = read_frame(stack.counts, number, room).take(near)
    for begin in range(0, near.size, _FEW):  # some at a time: they stay in a processor's cache
        part, some = near[begin : begin + _FEW], seen[:, begin : begin + _FEW].copy()
        some.partition((few, middle), axis=0)
        if few:
            found[0].flat[part] = some[:few].max(axis=0)
        found[1].flat[part] = some[few]
        found[2].flat[part] = some[:middle].max(axis=0)
        found[3].flat[part] = some[middle]
    return found


def _around(maybe: Mask) -> NDArray[np.intp]:
    """Return the pixels within 2 rows and columns of some, as flat indices."""
    if not maybe.any():
        return np.zeros(0, np.intp)
    return np.flatnonzero(cast(Mask, maximum_filter(maybe, size=2 * _AROUND + 1)))


def _median_around(median: Counts, where: NDArray[np.intp]) -> Counts:
    """Return the median of the 5 × 5 pixels around some; at edges they are mirrored."""
    padded = np.pad(median, _AROUND, mode="symmetric")
    row, column = np.divmod(where, median.shape[1])
    step = np.arange(2 * _AROUND + 1)
    around = padded[
        row[:, None, None] + step[:, None], column[:, None, None] + step
    ].reshape(where.size, -1)  # fmt: skip
    middle = around.shape[1] // 2
    return np.partition(around, middle, axis=1)[:, middle]
