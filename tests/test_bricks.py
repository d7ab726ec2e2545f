"""A volume read in bricks is the volume."""

from __future__ import annotations

import numpy as np
import pytest

from offbragg.bricks import SUMS, brick_places, brick_slices, volume_bricks
from offbragg.errors import ReductionError
from offbragg.grid import Grid
from offbragg.volume import Volume

GRID = Grid((-3, 0, 5), (70, 33, 64), (10, 10, 10))


def volume(order: str = "C") -> Volume:
    rng = np.random.default_rng(1)
    arrays = {name: rng.random(GRID.shape) for name in SUMS}
    for array in arrays.values():
        array[32:64, :32, 32:] = 0.0
    if order == "F":
        arrays = {name: np.asfortranarray(array) for name, array in arrays.items()}
    return Volume(grid=GRID, symmetry="-1", **arrays)


@pytest.mark.parametrize("order", ["C", "F"])
def test_bricks_of_a_volume_are_its_cells(order):
    whole = volume(order)
    found = {name: np.full(GRID.shape[::-1], np.nan) for name in SUMS}

    bricks = volume_bricks(whole)
    for place in brick_places(GRID):
        brick = bricks.brick(*place)
        part = brick_slices(GRID, *place)
        assert (brick is None) == (place == (1, 0, 1))
        for name in SUMS:
            found[name][part] = 0.0 if brick is None else brick[name]
            assert brick is None or (
                brick[name].flags.c_contiguous and brick[name].dtype == np.float64
            )

    assert (bricks.names, bricks.symmetry, bricks.sample) == (SUMS, "-1", None)
    for name in SUMS:
        np.testing.assert_array_equal(found[name].T, getattr(whole, name))


def test_only_the_sums_that_there_are():
    ones = np.ones((2, 2, 2))

    bricks = volume_bricks(Volume(ones, ones, Grid((0, 0, 0), (2, 2, 2), (1, 1, 1))))

    assert bricks.names == ("counts", "weight")
    with pytest.raises(ReductionError, match="without a grid"):
        volume_bricks(Volume(ones, ones))
