"""Pixels that count far too much in frames all over a sweep."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter  # pyright: ignore[reportUnknownVariableType, reportMissingTypeStubs]

from offbragg.stack import Stack

Mask = NDArray[np.bool_]
Counts = NDArray[np.int32]

LEAST_TURN = 5.0  # degree, of a sweep in which hot pixels can be distinguished from reflections
_FRAMES = 31  # that are compared
_SLAB = 16  # rows
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
        seen = _read(stack, list(frames))
        if len(seen) < 3:
            return None
        few, middle = _places(len(seen) + 1)
        self._places = (few - 1, few, middle - 1, middle)
        if few == 0 or len(seen) < len(frames):  # what comes next may be below all
            self._kept, self._frames = None, {}
            least, median = _ordered(seen, _places(len(seen)))
            return least, median
        self._kept, self._frames = np.stack(_ordered(seen, self._places)), dict(frames)
        few, middle = _places(len(seen))
        return self._kept[self._places.index(few)], self._kept[self._places.index(middle)]


def hot_pixels(
    stack: Stack,
    *,
    times: float = 5.0,
    least_turn: float = LEAST_TURN,
    without: Collection[int] = (),
    before: Comparison | None = None,
    digests: Sequence[str] | None = None,
) -> Mask:
    """Find pixels that count far too much in frames all over the sweep.

    A Bragg peak is there in some frames, near the axis in many, a hot pixel in all; so in
    a sweep that hardly turned they cannot be distinguished, and none is found. The counts that a
    pixel has in nine frames of ten are compared with the median of the 5 × 5 pixels around it,
    over space and frames. A pixel is hot if it is ``times`` as high and ten standard deviations
    above. Up to 31 frames are compared, spread over the sweep.

    Parameters
    ----------
    stack
        The frames.
    times
        Factor above its surroundings from which a pixel is hot.
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
    # where even the lowest median around a pixel is too high for it, it cannot be hot
    lowest = cast(Counts, minimum_filter(median, size=2 * _AROUND + 1))
    maybe = np.flatnonzero(_above(least, lowest, times))
    if not maybe.size:
        return hot
    hot.flat[maybe] = _above(least.flat[maybe], _median_around(median, maybe), times)
    return hot


def _above(least: Counts, around: Counts, times: float) -> Mask:
    usual = np.maximum(around, 1)
    return (least > times * usual) & (least > around + 10.0 * np.sqrt(usual))


def _places(n: int) -> tuple[int, int]:
    """Return which of n counts, in order, a pixel has in nine of ten at least, and the median."""
    return n // 10, n // 2


def _read(stack: Stack, numbers: Sequence[int]) -> list[Counts]:
    """Read frames; those that are not stored are left out."""
    return [counts for i in numbers if (counts := np.asarray(stack.counts[i])).max() >= 0]


def _ordered(seen: Sequence[Counts], places: tuple[int, ...]) -> tuple[Counts, ...]:
    """Return what each pixel has at some places of its counts in order."""
    rows, columns = seen[0].shape
    found = np.empty((len(places), rows, columns), np.int32)
    for begin in range(0, rows, _SLAB):  # a slab at a time: it stays in a processor's cache
        slab = np.stack([counts[begin : begin + _SLAB] for counts in seen])
        slab.partition(sorted(set(places)), axis=0)
        found[:, begin : begin + _SLAB] = slab[list(places)]
    return tuple(found)


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
