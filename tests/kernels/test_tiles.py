"""Medians of tiles and highest counts are those of NumPy, at every level."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from offbragg import kernels

TOP = np.iinfo(np.int32).max
SHAPES = [(1, 1), (16, 16), (17, 16), (15, 33), (64, 80), (100, 7), (3, 200)]


def one_by_one(counts: np.ndarray):
    rows, columns = counts.shape
    down, across = -(-rows // 16), -(-columns // 16)
    number, middle = np.zeros((down, across), int), np.zeros((down, across), int)
    for i, j in np.ndindex(down, across):
        tile = counts[16 * i : 16 * i + 16 : 2, 16 * j : 16 * j + 16 : 2]
        good = np.sort(tile[(tile >= 0) & (tile < TOP)])
        number[i, j] = good.size
        middle[i, j] = good[good.size * 9 // 20] if good.size else 0
    highest = [np.maximum(counts[16 * i : 16 * i + 16].max(axis=0), -1) for i in range(down)]
    return number, middle, np.array(highest)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mean", [0.05, 4.0, 1e5, 2e9])
def test_they_are_those_of_the_definition(level, shape, mean):
    rng = np.random.default_rng(shape[0])
    counts = np.minimum(rng.poisson(mean, shape), TOP).astype(np.int32)
    counts[rng.random(shape) < 0.2] = rng.choice([-1, -2, TOP])

    for got, expected in zip(kernels.tiles(counts, level=level), one_by_one(counts), strict=True):
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, expected)


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays(
        np.int32,
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        elements=st.integers(-(2**31), TOP),
        fill=st.sampled_from([-1, 0, 5, TOP, TOP - 1]),
    )
)
def test_any_counts_give_the_same_at_every_level(counts):
    expected = kernels.tiles(counts, level="reference")

    for level in kernels.available():
        for got, right in zip(kernels.tiles(counts, level=level), expected, strict=True):
            np.testing.assert_array_equal(got, right)
    for got, right in zip(expected, one_by_one(counts), strict=True):
        np.testing.assert_array_equal(got, right)


def test_a_frame_without_counts_has_no_medians(level):
    number, middle, highest = kernels.tiles(np.full((40, 20), -2, np.int32), level=level)

    assert (number == 0).all()
    assert (middle == 0).all()
    assert (highest == -1).all()


def test_counts_that_are_not_a_frame_are_refused(level):
    for wrong in (np.zeros((4, 4), np.int64), np.zeros((4, 8), np.int32)[:, ::2]):
        with pytest.raises(ValueError, match="int32 and C-contiguous"):
            kernels.tiles(wrong, level=level)


def test_the_compiled_module_checks_the_sizes_once_more():
    compiled = pytest.importorskip("offbragg.kernels._kernels")
    counts, one, row = np.zeros((8, 8), np.int32), np.zeros(1, np.int32), np.zeros(8, np.int32)
    for arguments in (
        (0, counts, 8, 9, one, one, row),
        (0, counts, 16, 4, one, one, row),
        (0, counts, 17, 4, one, one, row),
        (0, counts, -8, -8, one, one, row),
        (0, counts, 2**61, 2**61, one, one, row),
        (0, counts, 8, 8, np.zeros(2, np.int32), one, row),
        (0, counts, 8, 8, one, bytearray(3), row),
        (0, counts, 8, 8, one, one, np.zeros(7, np.int32)),
        (9, counts, 8, 8, one, one, row),
    ):
        with pytest.raises(ValueError):
            compiled.tiles(*arguments)
