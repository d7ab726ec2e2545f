"""Hot pixels of a sweep that grows: the same as of the whole, reading one frame more."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import median_filter

from offbragg.reduction.hot_pixels import Comparison, hot_pixels, sampled
from offbragg.stack import Stack
from offbragg.sweep import Sweep

SWEEP = Sweep("phi", 0.0, 1.0, 62, 0.1, 0.1)


def frames(level: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(level, (62, 40, 60)).astype(np.int32)
    counts[:, 17:20] = -1  # a gap
    counts[:, 25:32, 5:12] = -2  # dead
    counts[:, 28, 8] = 9
    counts[:, 5, ::7] = rng.poisson(6 * level + 30, (62, 9))
    counts[:, 30:33, 40:44] *= 20
    counts[:40, 0, 0] += 500
    counts[:, 39, 59] = 3000
    return counts


def by_scipy(counts: np.ndarray) -> np.ndarray:
    """As it was before it was made to be fast."""
    order = np.sort(counts[sampled(len(counts))], axis=0)
    least, median = order[len(order) // 10], order[len(order) // 2]
    around = median_filter(median, size=5)
    usual = np.maximum(around, 1)
    return (least > 5.0 * usual) & (least > around + 10.0 * np.sqrt(usual))


class Reading:
    """Frames up to some number, that count how often one is read."""

    def __init__(self, counts: np.ndarray) -> None:
        self.counts, self.stored, self.read = counts, len(counts), 0
        self.shape = counts.shape

    def __getitem__(self, number: int) -> np.ndarray:
        self.read += 1
        there = number < self.stored
        return self.counts[number] if there else np.full_like(self.counts[number], -1)


@pytest.mark.parametrize("level", [0.3, 4.0, 300.0])
def test_they_are_those_of_a_median_over_all_pixels(level):
    counts = frames(level)

    found = hot_pixels(Stack(counts, SWEEP))

    np.testing.assert_array_equal(found, by_scipy(counts))
    assert found[39, 59]
    assert found.sum() < 60


@pytest.mark.parametrize("level", [0.3, 40.0])
def test_of_a_sweep_that_grows_only_the_last_frame_is_read(level):
    counts = frames(level)
    reading, before = Reading(counts), Comparison()
    stack = Stack(reading, SWEEP)  # type: ignore[arg-type]
    digests = [""] * 62
    last = sampled(62)[-1]

    for stored in (0, 5, 30, 61, 61, 62, 62):
        reading.stored, reading.read = stored, 0
        digests[:stored] = [f"{n}" for n in range(stored)]
        found = hot_pixels(stack, before=before, digests=digests)
        at_once = hot_pixels(stack)
        np.testing.assert_array_equal(found, at_once)
        if stored == 61:
            read = reading.read
    assert last == 61
    assert read == 31 + 30  # only for the comparison, twice what is stored: the second time none
    reading.read = 0
    assert hot_pixels(stack, before=before, digests=digests)[39, 59]
    assert reading.read == 1  # the last one is not kept


def test_a_frame_that_is_another_now_is_read_again():
    counts, before = frames(3.0), Comparison()
    digests = [f"{n}" for n in range(62)]
    assert hot_pixels(Stack(counts, SWEEP), before=before, digests=digests)[39, 59]
    counts[::2, 39, 59] = counts[1::2, 39, 59] = 0
    digests = [f"{n} again" for n in range(62)]

    found = hot_pixels(Stack(counts, SWEEP), before=before, digests=digests)

    np.testing.assert_array_equal(found, hot_pixels(Stack(counts, SWEEP)))
    assert not found[39, 59]
