"""Pixels into cells: C and NumPy agree in every bit, and no sum is ever too large."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offbragg.geometry import rotation_about
from offbragg.kernels import available
from offbragg.kernels.folding import Fold, fold
from offbragg.kernels.numbering import (
    CELLS,
    NOWHERE,
    SIDE,
    bricks,
    cell_of,
    cells_within,
    place_of,
)
from offbragg.kernels.transform import Exposures, PairSums, add, places, transform, variance

SHAPE = (70, 64, 97)
ROWS, COLUMNS = 41, 77
WHOLE = (0, ROWS, 0, COLUMNS)


def sums(shape=SHAPE) -> PairSums:
    n = int(np.prod(bricks(shape)))
    return PairSums(
        np.zeros((n, CELLS, 2), np.uint32), np.zeros((n, CELLS, 2), np.uint32),
        np.zeros(n, np.uint8), shape,
    )  # fmt: skip


def inside(cell) -> bool:
    return all(0 <= c < n for c, n in zip(cell, SHAPE, strict=True))


def value(pair: PairSums) -> np.ndarray:
    return (pair.high.astype(np.int64) << 32) + pair.low


def exposures(rng, *, frames=3, most_flux=1e6, counts=None, point=(0.5, 0.5)) -> Exposures:
    pixel = 0.172 * rng.uniform(0.5, 8)
    origin = np.array([-COLUMNS * pixel / 2, -ROWS * pixel / 2, rng.uniform(20, 90)])
    x = np.arange(COLUMNS)[None, :, None] + point[0]
    y = np.arange(ROWS)[:, None, None] + point[1]
    position = origin + x * pixel * np.array([1.0, 0, 0]) + y * pixel * np.array([0, 1.0, 0])
    tilt = rotation_about([0.6, 0, 0.8], rng.uniform(0, 90))
    turns = []
    for n in range(frames):
        R = rotation_about([0, 1, 0], 2.0 * n) @ tilt
        M = np.array(SHAPE)[:, None] * rng.uniform(0.5, 1.5) * R.T
        turns.append(
            [M @ origin, M[:, 0] * pixel, M[:, 1] * pixel, 0.5 + np.array(SHAPE) // 2 - M[:, 2]]
        )
    if counts is None:
        counts = rng.poisson(2.0, (frames, ROWS, COLUMNS))
        counts[rng.random(counts.shape) < 0.02] = -1
        counts[rng.random(counts.shape) < 0.02] = 1000
    factor = rng.uniform(0.03, 1.0, (ROWS, COLUMNS)).astype(np.float32)
    factor[rng.random(factor.shape) < 0.05] = 0
    return Exposures(
        counts.astype(np.int32), np.array(turns),
        rng.uniform(0.5, 1.0, frames).astype(np.float32) * np.float32(most_flux),
        np.ascontiguousarray(1.0 / np.linalg.norm(position, axis=-1)), factor, 999, point,
    )  # fmt: skip


@pytest.mark.parametrize("level", available())
@pytest.mark.parametrize("seed", range(6))
def test_every_level_makes_the_same_sums(level, seed):
    rng = np.random.default_rng(seed)
    made = exposures(rng, most_flux=2.0**27)
    band = (*sorted(rng.integers(0, ROWS + 1, 2)), *sorted(rng.integers(0, COLUMNS + 1, 2)))
    band = tuple(map(int, band))
    mine, its = sums(), sums()

    for pair, how in ((mine, level), (its, "reference")):
        transform(made, pair, WHOLE, level=how)
        for _ in range(20):  # until halves are full
            transform(made, pair, band, level=how)

    np.testing.assert_array_equal(value(mine), value(its))
    np.testing.assert_array_equal(mine.changed, its.changed)
    assert mine.high.any() or seed == 4, "seed 4 looks past the grid, for the most part"
    for n in range(3):
        np.testing.assert_array_equal(
            places(made, SHAPE, band, n, level=level),
            places(made, SHAPE, band, n, level="reference"),
        )


@pytest.mark.parametrize("level", available())
def test_the_sums_are_those_of_the_definition(level):
    """Pixel by pixel, in Python's own numbers."""
    made = exposures(np.random.default_rng(5), frames=1)
    pair = sums()
    transform(made, pair, WHOLE, level=level)

    base, across, down, shift = made.turns[0].tolist()
    expected: dict[tuple[int, ...], list[int]] = {}
    for row in range(ROWS):
        for column in range(COLUMNS):
            count, factor = int(made.counts[0, row, column]), made.factor[row, column]
            inverse = float(made.inverse[row, column])
            cell = tuple(
                int(np.floor(((base[i] + (row + 0.5) * down[i]) + (column + 0.5) * across[i])
                             * inverse + shift[i]))
                for i in range(3)
            )  # fmt: skip
            if 0 <= count <= 999 and factor > 0 and inside(cell):
                both = expected.setdefault(cell, [0, 0])
                both[0] += count
                both[1] += int(np.rint(factor * made.flux[0]))
    assert len(expected) > 200

    found = value(pair).reshape(-1, 2)
    for cell, both in expected.items():
        assert found[place_of(np.array(cell)[:, None], SHAPE)[0]].tolist() == both
    assert found.sum(0).tolist() == np.sum(list(expected.values()), axis=0).tolist()


@pytest.mark.parametrize("level", available())
def test_what_is_taken_away_leaves_no_trace(level):
    rng = np.random.default_rng(3)
    one, other = exposures(rng, most_flux=2.0**27), exposures(rng, most_flux=2.0**27)
    pair, alone = sums(), sums()
    for _ in range(30):
        transform(one, pair, WHOLE, level=level)
    transform(other, pair, WHOLE, level=level)
    transform(other, alone, WHOLE, level=level)

    for _ in range(30):
        transform(one, pair, WHOLE, subtract=True, level=level)

    np.testing.assert_array_equal(value(pair), value(alone))
    transform(other, pair, WHOLE, subtract=True, level=level)
    assert not pair.low.any()
    assert not pair.high.any()


@pytest.mark.parametrize("level", available())
@pytest.mark.parametrize("peak", [10**6, 2**28 - 1, 2**28, 2**31 - 2])
def test_a_bragg_peak_through_a_whole_phase_diagram_is_not_too_much(level, peak):
    """1e6 counts a pixel through 1e5 frames are 1e11 in a cell: more than 24 and 32 bits hold."""
    made = exposures(np.random.default_rng(1), frames=2)
    made = replace(
        made, counts=np.full_like(made.counts, peak), most=2**31 - 1,
        turns=np.repeat(made.turns[:1] * 0.01, 2, axis=0) + np.array([0, 0, 0, 20.0])[:, None],
    )  # fmt: skip
    pair = sums()
    for _ in range(4):
        transform(made, pair, WHOLE, level=level)

    n = np.count_nonzero(made.factor > 0)
    assert value(pair)[..., 0].sum() == 4 * 2 * n * peak
    assert value(pair)[..., 0].max() > 2**32
    place = np.full(100_000, 7, np.uint32)  # what 1e5 frames add to one cell
    add(pair, place, np.full(place.size, 10**6), np.full(place.size, 2**27))
    at = value(pair).reshape(-1, 2)[7]
    assert at.tolist() == [10**11, 2**27 * 10**5]


@pytest.mark.parametrize("level", available())
def test_parts_of_a_pixel_in_one_cell_are_one_count(level):
    rng = np.random.default_rng(8)
    made = exposures(rng, frames=2)
    made = replace(made, turns=np.stack([made.turns, made.turns + rng.normal(0, 0.3, (4, 3))], 1))
    inverses = np.stack([made.inverse * f for f in (1.0, 0.999, 1.001, 0.9995)])
    mine, its = sums(), sums()
    variance(made, inverses, mine, WHOLE, level=level)
    variance(made, inverses, its, WHOLE, level="reference")
    np.testing.assert_array_equal(value(mine), value(its))
    variance(made, inverses, mine, WHOLE, level=level, subtract=True)
    assert not value(mine).any()


@pytest.mark.parametrize("level", available())
@pytest.mark.parametrize("factor", [1e30, np.inf, np.nan, -1e30])
def test_a_weight_that_32_bits_do_not_hold_is_cut(level, factor):
    """Casting it would be undefined, and 16 of them would carry into the next cell's sums."""
    made = exposures(np.random.default_rng(2), frames=1)
    made = replace(made, factor=np.full_like(made.factor, factor), flux=np.float32([1e6]))
    pair = sums()

    transform(made, pair, WHOLE, level=level)

    good = (made.counts[0] >= 0) & (made.counts[0] <= made.most)
    n = np.count_nonzero(good & (places(made, SHAPE, WHOLE, level="reference") != NOWHERE))
    assert n > 100
    assert value(pair)[..., 1].sum() == (n * (2**28 - 16) if factor > 0 else 0)


@pytest.mark.parametrize("level", available())
def test_a_rate_is_added_in_place_of_the_counts(level):
    rng = np.random.default_rng(4)
    made = exposures(rng)
    rate = rng.uniform(0, 1, made.factor.shape).astype(np.float32)
    rate[rng.random(rate.shape) < 0.1] = 0
    air = replace(made, rate=rate, rate_flux=np.float32([3e6, 2e5, 1e7]))
    pair, plain, expected = sums(), sums(), sums()

    transform(air, pair, WHOLE, level=level)

    transform(made, plain, WHOLE, level="reference")
    np.testing.assert_array_equal(value(pair)[..., 1], value(plain)[..., 1])
    rate_alone = replace(made, factor=np.where(made.factor > 0, rate, 0), flux=air.rate_flux)
    transform(rate_alone, expected, WHOLE, level="reference")
    np.testing.assert_array_equal(value(pair)[..., 0], value(expected)[..., 1])
    transform(air, pair, WHOLE, level=level, subtract=True)
    assert not value(pair).any()


@pytest.mark.parametrize("flux", [-1.0, np.nan, np.inf])
def test_a_flux_that_none_has_is_refused(compiled_level, flux):
    made = exposures(np.random.default_rng(1), frames=1)
    with pytest.raises(ValueError, match="the flux of frame 0"):
        transform(replace(made, flux=np.float32([flux])), sums(), WHOLE, level=compiled_level)


def test_a_fold_that_is_not_one_is_refused(compiled_level):
    one = np.eye(3, dtype=np.int8)[None]
    good = Fold((40, 1, 1), (0, 0, 0), one, np.ones(2, np.uint64), (0, 0, 0), (40, 1, 1))
    place = place_of(np.array([[0, 39], [0, 0], [0, 0]]), good.shape)
    np.testing.assert_array_equal(fold(place, good, level=compiled_level), place)
    for wrong in (
        {"operations": 2 * one},
        {"operations": np.repeat(one, 49, 0)},
        {"candidates": good.candidates[1:]},
        {"first": (1 << 18, 0, 0)},
        {"part_first": (-(1 << 21), 0, 0)},
    ):
        with pytest.raises(ValueError, match=r"a fold has|items of"):
            fold(place, replace(good, **wrong), level=compiled_level)


def test_what_a_fold_leads_out_of_its_part_is_left_out(compiled_level):
    made = exposures(np.random.default_rng(1))
    n = int(np.prod(bricks(SHAPE)))
    one = np.eye(3, dtype=np.int8)[None]
    half = Fold(SHAPE, (0, 0, 0), one, np.ones(n, np.uint64), (35, 0, 0), (35, *SHAPE[1:]))
    pair, whole = sums(half.part_shape), sums()
    transform(made, pair, WHOLE, fold=half, level=compiled_level)
    transform(made, whole, WHOLE, level=compiled_level)
    cells = np.indices(SHAPE).reshape(3, -1)
    expected = value(whole).reshape(-1, 2)[place_of(cells[:, cells[0] >= 35], SHAPE)]
    assert value(pair).sum() == expected.sum() > 0


def test_every_cell_has_a_place_of_its_own():
    cells = np.indices((40, 33, 65)).reshape(3, -1)
    found = place_of(cells, (40, 33, 65))
    assert np.unique(found).size == found.size
    np.testing.assert_array_equal(cell_of(found, (40, 33, 65)), cells)
    assert sorted(cells_within()) == list(range(CELLS))
    l, k, h = 5, 7, 31  # noqa: E741
    assert cells_within().reshape(SIDE, SIDE, SIDE)[l, k, h] == place_of(
        np.array([[h], [k], [l]]), (40, 33, 65)
    )


def test_what_is_far_outside_is_nowhere():
    made = exposures(np.random.default_rng(1), frames=1)
    for far in (1e300, -1e300, np.nan, np.inf, 2.0**31, 2.0**32):
        turns = made.turns.copy()
        turns[0, 3, 1] = far
        for level in available():
            pair = sums()
            transform(replace(made, turns=turns), pair, WHOLE, level=level)
            assert not pair.changed.any(), (far, level)
            found = places(replace(made, turns=turns), SHAPE, WHOLE, level=level)
            assert (found == NOWHERE).all()


@pytest.mark.parametrize("wrong", ["counts", "turns", "flux", "inverse", "factor"])
def test_arrays_that_do_not_belong_together_are_refused(wrong):
    made = exposures(np.random.default_rng(1))
    short = replace(made, **{wrong: np.ascontiguousarray(getattr(made, wrong)[:-1])})
    for level in available():
        if level != "reference":
            with pytest.raises(ValueError, match=r"items of|are not in"):
                transform(short, sums(), WHOLE, level=level)


@pytest.mark.parametrize("band", [(-1, 3, 0, 3), (0, ROWS + 1, 0, 3), (0, 3, 5, 4), (0, 3, 0, 999)])
def test_a_band_outside_the_panel_is_refused(band):
    for level in available():
        if level != "reference":
            with pytest.raises(ValueError, match="are not in"):
                transform(exposures(np.random.default_rng(1)), sums(), band, level=level)


def test_a_grid_that_32_bits_cannot_number_is_refused():
    with pytest.raises(ValueError, match="cannot be numbered"):
        bricks((1700, 1700, 1700))
    assert bricks((1201, 1201, 1201)) == (38, 38, 38)
