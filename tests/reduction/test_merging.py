"""Sums of whole numbers: merged and sent elsewhere without a bit lost."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from offbragg.errors import ReductionError
from offbragg.grid import Grid
from offbragg.kernels.numbering import CELLS, place_of
from offbragg.kernels.transform import add
from offbragg.reduction.accumulator import Accumulator
from offbragg.reduction.packed import PAGE

GRID = Grid((0, 0, 0), (40, 33, 70), (10, 10, 10))


def some(seed: int, *, most: int = 1 << 45, **more) -> tuple[Accumulator, np.ndarray, np.ndarray]:
    """Return sums, and what is in each brick's cells: positive and negative, over 32 bits."""
    rng = np.random.default_rng(seed)
    made = Accumulator(GRID, 20, **more)
    n = 3000
    where = place_of(rng.integers(0, (20, 33, 70), (n, 3)).T.copy(), GRID.shape)  # not all bricks
    terms = rng.integers(-most, most, (2, n))
    add(made.sums, where, terms[0], terms[1])
    expected = np.zeros((2, made.sums.low.shape[0] * CELLS), np.int64)
    for column in (0, 1):
        np.add.at(expected[column], where, terms[column])
    return made, expected, where


def integers(sums: Accumulator) -> np.ndarray:
    low, high = sums.sums.low.astype(np.int64), sums.sums.high.astype(np.int64)
    return np.moveaxis(low | (high << 32), 2, 0).reshape(2, -1)


@pytest.mark.parametrize("most", [100, 1 << 32, 1 << 45])
def test_merging_carries_between_the_halves_of_a_sum(most):
    one, first, _ = some(1, most=most)
    other, second, _ = some(2, most=most)

    one.merge(other)

    np.testing.assert_array_equal(integers(one), first + second)


def test_sums_are_sent_as_the_bricks_that_were_added_to():
    made, expected, _ = some(3, parts=4, background=(20, 30))

    packed = pickle.dumps(made.packed())
    back = Accumulator(GRID, 20, parts=4, background=(20, 30))
    back.merge(pickle.loads(packed))

    np.testing.assert_array_equal(integers(back), expected)
    touched = made.touched().size
    assert touched < made.sums.changed.size
    assert len(packed) < 2 * touched * CELLS * 8 + 10_000
    back.merge(made)
    np.testing.assert_array_equal(integers(back), 2 * expected)
    np.testing.assert_array_equal(back.touched(), made.touched())


def test_only_pages_that_hold_something_are_sent():
    made = Accumulator(GRID, 20)
    where = np.array([5, CELLS + 700], np.uint32)  # the second brick gets and loses something
    terms = np.array([1 << 40, 3])
    add(made.sums, where, terms, terms)
    add(made.sums, where[1:], terms[1:], terms[1:], subtract=True)

    packed = made.packed()
    back = Accumulator(GRID, 20)
    back.merge(packed)
    back.merge(packed)

    assert len(pickle.dumps(packed)) < 3 * PAGE * 8
    np.testing.assert_array_equal(back.touched(), [0, 1])
    np.testing.assert_array_equal(
        np.flatnonzero(integers(back)), [5, made.sums.low[..., 0].size + 5]
    )
    assert integers(back)[0, 5] == 2 << 40


def test_other_units_do_not_merge():
    with pytest.raises(ReductionError, match=r"2\^-20.* do not add to sums of .*2\^-21"):
        Accumulator(GRID, 21).merge(Accumulator(GRID, 20))
