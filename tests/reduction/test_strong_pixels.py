"""Strong pixels are those of the definition, worked out one by one."""

from __future__ import annotations

import numpy as np
import pytest

from offbragg.reduction.strong_pixels import FrameSearch

LIMIT = 6.0


def background_of(counts: np.ndarray) -> np.ndarray:
    """Of each tile of 16 × 16 pixels: half its own median, half that of the 3 × 3 around it."""
    down, across = (-(-n // 16) for n in counts.shape)
    value, weight = np.zeros((down, across)), np.zeros((down, across))
    for i in range(down):
        for j in range(across):
            tile = counts[16 * i : 16 * i + 16 : 2, 16 * j : 16 * j + 16 : 2]
            good = np.sort(tile[(tile >= 0) & (tile < 2**31 - 1)])
            if good.size >= 6:
                value[i, j], weight[i, j] = good[good.size * 9 // 20], good.size
    found = np.zeros((down, across))
    for i in range(down):
        for j in range(across):
            i9 = np.clip([i - 1, i, i + 1], 0, down - 1)[:, None]
            j9 = np.clip([j - 1, j, j + 1], 0, across - 1)
            total = weight[i9, j9].sum()
            around = (weight * value)[i9, j9].sum() / total if total else 0.0
            found[i, j] = 0.5 * (value[i, j] + around) if weight[i, j] else around
    return found


def strong_of(counts: np.ndarray, masked: np.ndarray) -> list[int]:
    background, found = background_of(counts), []
    angle = 2 * np.pi * np.arange(24) / 24
    ring = np.rint(7.5 * np.array([np.sin(angle), np.cos(angle)])).astype(int)
    rows, columns = counts.shape
    for row in range(rows):
        for column in range(columns):
            level = background[row // 16, column // 16]
            if masked[row, column] or counts[row, column] <= limit_of(level):
                continue
            around = counts[
                np.clip(row + ring[0], 0, rows - 1), np.clip(column + ring[1], 0, columns - 1)
            ]
            around = np.sort(around)
            none = np.sum(around < 0)
            middle = max(around[min((none + 24) // 2, 23)], 0)
            if counts[row, column] > limit_of(max(level, middle)):
                found.append(row * columns + column)
    return found


def limit_of(level: float) -> float:
    return level + LIMIT * np.sqrt(max(level, 1.0)) + 2.0


@pytest.mark.parametrize("shape", [(48, 64), (33, 50), (5, 7), (16, 15), (100, 17)])
@pytest.mark.parametrize("mean", [0.05, 3.0, 400.0])
def test_they_are_those_of_the_definition(shape, mean):
    rng = np.random.default_rng(shape[0])
    masked = rng.random(shape) < 0.02
    search = FrameSearch(shape, LIMIT)
    found = 0
    for _ in range(4):
        counts = rng.poisson(mean, shape).astype(np.int32)
        bright = rng.random(shape) < 0.01
        counts[bright] += rng.integers(10, 10_000, bright.sum(), dtype=np.int32)
        counts[rng.random(shape) < 0.05] = -1
        counts[:, shape[1] // 2 :][:, :6] = -2
        counts[0, 0] = 2**31 - 1

        search.look(counts, masked)
        strong = search.strong(masked)

        if not strong.crowded:
            assert strong.where.tolist() == strong_of(counts, masked)
            np.testing.assert_array_equal(strong.counts, counts.reshape(-1)[strong.where])
            found += strong.where.size
    assert found or shape == (5, 7)


def test_a_pixel_that_is_masked_after_the_look_is_left_out():
    counts = np.random.default_rng(0).poisson(2.0, (64, 64)).astype(np.int32)
    counts[20, 30], counts[40, 50] = 500, 600
    masked = np.zeros((64, 64), bool)
    search = FrameSearch((64, 64), LIMIT)
    search.look(counts, masked)
    masked[20, 30] = True

    assert search.strong(masked).where.tolist() == [40 * 64 + 50]


def test_a_crowded_frame_gives_its_best_pixels():
    counts = np.zeros((64, 64), np.int32)
    counts.reshape(-1)[::10] = np.arange(100, 510)
    masked = np.zeros((64, 64), bool)
    search = FrameSearch((64, 64), LIMIT)

    search.look(counts, masked)
    strong = search.strong(masked)

    assert strong.crowded
    assert strong.counts.tolist() == list(range(510 - 82, 510))  # a fiftieth of its pixels


def test_a_frame_without_counts_has_none():
    search = FrameSearch((40, 40), LIMIT)
    masked = np.zeros((40, 40), bool)
    search.look(np.full((40, 40), 100, np.int32), masked)
    search.look(np.full((40, 40), -2, np.int32), masked)

    assert not search.has_counts
    assert search.strong(masked).where.size == 0
