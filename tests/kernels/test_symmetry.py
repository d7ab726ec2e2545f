"""Sums over equivalent cells: the C against NumPy, to the last bit, whatever the box."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offbragg import kernels
from offbragg.grid import Grid
from offbragg.kernels.symmetry import symmetrise
from offbragg.reduction.symmetry import NAMES, Laue, steps

MATRICES = {name: np.array(Laue.named(name).operations, np.int8) for name in NAMES}


def numbered(name: str, grid: Grid) -> list[list[int]]:
    laue = Laue.named(name)
    return [[laue.operations.index(each) for each in step] for step in steps(grid, laue)]


def summed(name: str, grid: Grid, array: np.ndarray | None, **options) -> np.ndarray:
    out = np.full(grid.shape, np.nan)
    symmetrise(array, grid.first, MATRICES[name], numbered(name, grid), out, **options)
    return out


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Sums of these differ with their order, and a zero has a sign."""
    rng = np.random.default_rng(seed)
    return rng.choice([-0.0, 0.0, 1.0], shape) * rng.standard_normal(shape)


def assert_same_bits(one: np.ndarray, other: np.ndarray):
    np.testing.assert_array_equal(one.view(np.uint64), other.view(np.uint64))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("first", [(-6, -6, -6), (-17, -17, -17), (-6, -6, -40), (2, 2, 2)])
@pytest.mark.parametrize("name", NAMES)
def test_every_class_gives_the_bits_of_the_reference(compiled_level, name, first, shared):
    grid = Grid(first, tuple(max(1 - 2 * a, 9) for a in first), (5, 5, 5))
    array = noise(grid.shape)
    share = 1 / np.random.default_rng(1).integers(1, 49, grid.shape) if shared else None

    done = summed(name, grid, array, share=share, level=compiled_level)

    assert_same_bits(done, summed(name, grid, array, share=share, level="reference"))


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    first=st.tuples(*[st.integers(-20, 8)] * 3),
    shape=st.tuples(*[st.integers(1, 24)] * 3),
    ones=st.booleans(),
)
def test_any_box_gives_the_bits_of_the_reference(name, first, shape, ones):
    grid = Grid(first, shape, (1, 1, 1))
    array = None if ones else noise(shape)

    assert_same_bits(summed(name, grid, array), summed(name, grid, array, level="reference"))


@pytest.mark.parametrize("name", ["-1", "mmm", "6/mmm", "-3 (r)", "m-3m"])
def test_threads_and_a_result_in_place_of_the_array_change_nothing(level, name):
    grid = Grid((-18, -18, -18), (37, 37, 37), (1, 1, 1))
    array = noise(grid.shape)
    alone = summed(name, grid, array, level=level)

    both = summed(name, grid, array, threads=3, level=level)
    symmetrise(
        array, grid.first, MATRICES[name], numbered(name, grid), array, threads=2, level=level
    )

    assert_same_bits(both, alone)
    assert_same_bits(array, alone)


def test_a_row_longer_than_a_tile():
    grid = Grid((-1, -1, -9000), (3, 3, 18001), (1, 1, 1))
    array = noise(grid.shape)

    for name in ("-1", "mmm", "6/mmm"):
        done = summed(name, grid, array)
        assert_same_bits(done, summed(name, grid, array, level="reference"))


ONE = np.eye(3, dtype=np.int8)[None]
BOX = np.zeros((3, 4, 5))


@pytest.mark.parametrize(
    ("array", "out", "operations", "message"),
    [
        (BOX[:2], BOX, ONE, r"array must be .* \(3, 4, 5\)"),
        (BOX.astype(np.float32), BOX, ONE, "array must be float64"),
        (np.zeros((6, 4, 5))[::2], BOX, ONE, "C-contiguous"),
        (BOX, np.zeros(60), ONE, "three axes"),
        (BOX, BOX, ONE.astype(int), "operations must be int8"),
        (BOX, BOX, ONE[0], "operations must be int8"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(level, array, out, operations, message):
    with pytest.raises(ValueError, match=message):
        symmetrise(array, (0, 0, 0), operations, [], out, level=level)


@pytest.mark.parametrize(
    ("operations", "steps"),
    [
        (ONE[:0], []),
        (-ONE, []),
        (np.concatenate([ONE, 2 * ONE]), []),
        (np.concatenate([ONE, np.roll(ONE, 1, axis=1)]), []),  # its square is missing
        (np.concatenate([ONE, 0 * ONE]), []),
        (np.concatenate([ONE] * 49), []),
        # the six-fold axis along h: l mixes with k
        (np.roll(MATRICES["6/m"], 1, axis=(1, 2)), []),
        (np.concatenate([ONE, -ONE]), [[2]]),
        (np.concatenate([ONE, -ONE]), [[]]),
    ],
)
def test_what_is_not_a_group_is_refused(compiled_level, operations, steps):
    with pytest.raises(ValueError, match="not a group"):
        symmetrise(BOX, (0, 0, 0), operations, steps, BOX.copy(), level=compiled_level)


@pytest.mark.parametrize(
    ("first", "part", "parts"),
    [((2**31, 0, 0), 0, 1), ((-(2**40), 0, 0), 0, 1), ((0, 0, 0), 1, 1), ((0, 0, 0), -1, 1),
     ((0, 0, 0), 0, 0)],
)  # fmt: skip
def test_the_c_checks_numbers_of_its_own_accord(first, part, parts):
    if not kernels.compiled:
        pytest.skip("there is no C")
    kernel, out = kernels._kernels.symmetrise, BOX.copy()

    with pytest.raises(ValueError, match="not a group"):
        kernel(BOX, None, out, first, BOX.shape, ONE.tobytes(), b"\xff", part, parts)
    for shape in itertools.permutations((3, 4, 2**62)):
        with pytest.raises(ValueError, match="cells cannot be"):
            kernel(BOX, None, out, (0, 0, 0), shape, ONE.tobytes(), b"\xff", 0, 1)
    for wrong in (BOX[:2], bytes(479), np.zeros(481, np.uint8)[1:]):
        with pytest.raises(ValueError, match="aligned"):
            kernel(wrong, None, out, (0, 0, 0), BOX.shape, ONE.tobytes(), b"\xff", 0, 1)
