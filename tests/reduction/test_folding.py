"""Sums of the part that a Laue class does not repeat are those of all cells, folded, bit by bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offbragg.bricks import brick_places
from offbragg.errors import ReductionError
from offbragg.geometry import Geometry
from offbragg.grid import Grid
from offbragg.instrument import Axis, Panel
from offbragg.kernels import available
from offbragg.kernels.folding import fold
from offbragg.kernels.numbering import place_of
from offbragg.reduction import Corrections, ReductionSetup
from offbragg.reduction.accumulator import Accumulator
from offbragg.reduction.air import AirRate
from offbragg.reduction.binning import Oversample
from offbragg.reduction.folding import Folding, Unfolded
from offbragg.reduction.reduce import add_frames
from offbragg.reduction.symmetry import NAMES, Laue, symmetrise
from offbragg.stack import Stack
from offbragg.sweep import Sweep

SHAPE = (61, 53)
N = 24
PANEL = Panel((26.0, 31.0, 80.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (1.0, 1.0), SHAPE)
GEOMETRY = Geometry(
    0.7, PANEL, (Axis("phi", (0.0, 1.0, 0.0)), Axis("chi", (0.0, 0.0, 1.0), 12.0)), "phi"
)
UB = np.array([[0.17, 0.02, 0.0], [-0.01, 0.18, 0.03], [0.0, 0.02, 0.16]])
SYMMETRIC = Grid.box((-3, 3), (-3, 3), (-3, 3), step=0.1)
SKEW = Grid.box((-1.3, 2.4), (-3, 1.1), (0.3, 2.9), step=0.1)
FLUX = np.random.default_rng(3).uniform(8e5, 1.2e6, N)


@pytest.fixture(scope="module")
def stack() -> Stack:
    rng = np.random.default_rng(7)
    counts = rng.poisson(3.0, (N, *SHAPE)).astype(np.int32)
    counts[rng.random(counts.shape) < 0.01] = -1
    counts[rng.random(counts.shape) < 0.001] = 1 << 29  # a run of them needs 64 bits
    return Stack(counts, Sweep("phi", -10.0, 3.0, N, 0.1, 0.1))


def setup(grid: Grid, **more) -> ReductionSetup:
    return ReductionSetup(GEOMETRY, UB, grid, Corrections(efficiency=False, air=False), **more)


def summed(stack: Stack, made: ReductionSetup, **options) -> Accumulator:
    into = made.accumulator(made.exponent(float(FLUX.max())))
    add_frames(stack, made, FLUX[: len(stack)], into, **options)
    return into


def integers(sums: Accumulator, name: str) -> np.ndarray:
    """All cells [h, k, l]."""
    found = np.zeros(tuple(-(-n // 32) * 32 for n in sums.grid.shape), np.int64)
    for number, place in enumerate(brick_places(sums.grid)):
        where = tuple(slice(32 * at, 32 * at + 32) for at in reversed(place))
        found[where] = sums.integers(name, number).T
    return found[tuple(map(slice, sums.grid.shape))]


def greatest(labels: np.ndarray, laue: Laue) -> np.ndarray:
    """Image of each cell that is the greatest, by sorting."""
    images = np.stack([np.array(W) @ labels for W in laue.operations])
    keys = images[:, 0] * 10**8 + images[:, 1] * 10**4 + images[:, 2]
    return np.take_along_axis(images, keys.argmax(0)[None, None], 0)[0]


@pytest.mark.parametrize("grid", [SYMMETRIC, SKEW], ids=["symmetric", "skew"])
@pytest.mark.parametrize("name", NAMES)
def test_folded_sums_are_those_of_all_cells_folded(stack, name, grid):
    laue = Laue.named(name)
    folding = Folding.of(grid, laue)
    whole = summed(stack, setup(grid))

    sums = summed(stack, setup(grid, folding=folding))

    labels = np.indices(grid.shape).reshape(3, -1) + np.array(grid.first)[:, None]
    to = greatest(labels, laue) - np.array(folding.part.first)[:, None]
    assert np.all(to >= 0)
    assert np.all(to < np.array(folding.part.shape)[:, None])
    for column in ("counts", "weight"):
        expected = np.zeros(folding.part.shape, np.int64)
        np.add.at(expected, tuple(to), integers(whole, column).ravel())
        np.testing.assert_array_equal(integers(sums, column), expected)
        assert sums.total(column) == whole.total(column) > 0


@pytest.mark.parametrize("grid", [SYMMETRIC, SKEW], ids=["symmetric", "skew"])
@pytest.mark.parametrize(
    ("name", "by_stays"),
    [("-1", True), ("2/m", False), ("-31m", False), ("6/mmm", False), ("m-3m", False)],
)
def test_what_is_read_is_what_symmetrising_whole_volumes_gives(stack, name, grid, by_stays):
    laue = Laue.named(name)
    air = AirRate(np.full(SHAPE, 1e-6), np.full(SHAPE, 1e-14), by_stays=by_stays)
    more = {"air": air, "oversample": Oversample(2, 1)}
    folding = Folding.of(grid, laue)
    expected = symmetrise(summed(stack[:6], setup(grid, **more)).volume(), laue)

    read = Unfolded(summed(stack[:6], setup(grid, folding=folding, **more)), folding, grid)

    volume = read.volume()
    assert volume.symmetry == expected.symmetry == name
    for each in ("counts", "weight", "variance", "background", "background_variance"):
        np.testing.assert_array_equal(getattr(volume, each), getattr(expected, each))
    assert read.total("counts") == expected.counts.sum()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_that_meet_in_a_cell_change_no_bit(stack, threads):
    """All pixels in few cells, so that threads meet, and lower halves are full again and again."""
    grid = Grid.box((-3, 3), (-3, 3), (-3, 3), step=1.0)
    folding = Folding.of(grid, Laue.named("m-3m"))
    whole = summed(stack, setup(grid, threads=1, oversample=Oversample(2, 1)))
    made = setup(grid, folding=folding, threads=threads, oversample=Oversample(2, 1))

    sums = summed(stack, made)

    assert np.count_nonzero(sums.sums.high) > 20
    for name in ("counts", "weight", "variance"):
        assert sums.total(name) == whole.total(name)
    add_frames(stack, made, FLUX, sums, subtract=True)
    assert not sums.sums.low.any()
    assert not sums.sums.high.any()


def test_a_part_of_the_box_is_read_alone(stack):
    folding = Folding.of(SYMMETRIC, Laue.named("m-3m"))
    sums = summed(stack, setup(SYMMETRIC, folding=folding))
    wanted = Grid.box((-2, 0.3), (0, 3), (-1, 1), step=0.1)

    part = Unfolded(sums, folding, wanted).volume()

    whole = Unfolded(sums, folding, SYMMETRIC).volume()
    where = tuple(
        slice(a - b, a - b + n)
        for a, b, n in zip(wanted.first, SYMMETRIC.first, wanted.shape, strict=True)
    )
    np.testing.assert_array_equal(part.counts, whole.counts[where])


def test_frames_are_taken_away_from_folded_sums_and_these_merge(stack):
    made = setup(SYMMETRIC, folding=Folding.of(SYMMETRIC, Laue.named("mmm")))
    sums = summed(stack, made)
    first = summed(stack[:9], made)

    add_frames(stack[9:], made, FLUX[9:], sums, subtract=True)

    sums.forget_empty()
    np.testing.assert_array_equal(integers(sums, "weight"), integers(first, "weight"))
    other = made.accumulator(sums.exponent)
    add_frames(stack[9:], made, FLUX[9:], other)
    other.merge(first.packed())
    np.testing.assert_array_equal(
        integers(other, "counts"), integers(summed(stack, made), "counts")
    )
    with pytest.raises(ReductionError, match="symmetry none and mmm"):
        sums.merge(Accumulator(sums.grid, sums.exponent))


@pytest.mark.parametrize("level", available())
@pytest.mark.parametrize("name", ["m-3m", "6/mmm", "-3 (r)"])
def test_every_level_folds_alike(level, name):
    folding = Folding.of(SYMMETRIC, Laue.named(name))
    cells = np.random.default_rng(1).integers(0, 61, (3, 5000))
    place = place_of(cells, SYMMETRIC.shape)
    place[::7] = 0xFFFFFFFF

    found = fold(place, folding.kernel, level=level)

    np.testing.assert_array_equal(found, fold(place, folding.kernel, level="reference"))
    assert (found[::7] == 0xFFFFFFFF).all()


def test_the_part_of_mmm_is_an_eighth_and_that_of_m3m_a_48th():
    cells = {}
    for name in ("mmm", "m-3m"):
        folding = Folding.of(SYMMETRIC, Laue.named(name))
        labels = np.indices(SYMMETRIC.shape).reshape(3, -1) - 30
        assert folding.part == replace(SYMMETRIC, first=(0, 0, 0), shape=(31, 31, 31))
        cells[name] = np.unique(folding.places(labels)).size
    assert cells["mmm"] == 31**3
    assert cells["m-3m"] == 31 * 32 * 33 // 6


def test_a_grid_that_does_not_fit_the_class_is_refused():
    with pytest.raises(ReductionError, match="exchanges k and h"):
        Folding.of(Grid((0, 0, 0), (9, 9, 9), (10, 20, 10)), Laue.named("4/m"))
    with pytest.raises(ReductionError, match="no --fold"):
        Folding.of(Grid((1 << 18, 0, 0), (9, 9, 9), (10, 10, 10)), Laue.named("mmm"))
