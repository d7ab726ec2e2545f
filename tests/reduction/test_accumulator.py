"""Sums that are whole numbers: any order gives the same bits, and what is taken away is gone."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from offbragg.bricks import brick_places
from offbragg.errors import ReductionError
from offbragg.geometry import Geometry
from offbragg.grid import Grid
from offbragg.instrument import Axis, Panel
from offbragg.kernels.numbering import NOWHERE
from offbragg.kernels.transform import Exposures, places
from offbragg.reduction import Corrections, ReductionSetup
from offbragg.reduction.accumulator import Accumulator, weight_exponent
from offbragg.reduction.air import AirRate, expected_stay
from offbragg.reduction.bands import bands
from offbragg.reduction.binning import Oversample
from offbragg.reduction.reduce import add_frames
from offbragg.stack import Stack
from offbragg.sweep import Sweep

SHAPE = (61, 53)
N = 70
PANEL = Panel((26.0, 31.0, 80.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (1.0, 1.0), SHAPE)
AXES = (Axis("phi", (0.0, 1.0, 0.0)), Axis("chi", (0.0, 0.0, 1.0), 12.0))
GEOMETRY = Geometry(0.7, PANEL, AXES, "phi")
UB = np.array([[0.17, 0.02, 0.0], [-0.01, 0.18, 0.03], [0.0, 0.02, 0.16]])
GRID = Grid.box((-3, 3), (-3, 3), (-3, 3), step=0.1)
SWEEP = Sweep("phi", -10.0, 1.0, N, 0.1, 0.1)
FACTORS = Corrections(efficiency=False, air=False)


@pytest.fixture(scope="module")
def stack() -> Stack:
    rng = np.random.default_rng(7)
    counts = rng.poisson(3.0, (N, *SHAPE)).astype(np.int32)
    counts[rng.random(counts.shape) < 0.01] = -1
    counts[rng.random(counts.shape) < 0.001] = 5000
    return Stack(counts, SWEEP)


FLUX = np.random.default_rng(3).uniform(8e5, 1.2e6, N)


def setup(**more) -> ReductionSetup:
    return ReductionSetup(GEOMETRY, UB, GRID, FACTORS, {"saturation": 5000}, **more)


def summed(stack, flux, made=None, into=None, **options) -> Accumulator:
    made = made or setup()
    into = into or made.accumulator(made.exponent(float(FLUX.max())))
    add_frames(stack, made, flux, into, **options)
    return into


def bits(sums: Accumulator) -> dict[tuple[str, int], bytes]:
    """All bricks in which something is, whether they were touched or not."""
    found = {
        (name, int(number)): sums.integers(name, int(number))
        for name in sums.names for number in sums.touched()
    }  # fmt: skip
    return {key: value.tobytes() for key, value in found.items() if value.any()}


@pytest.fixture(scope="module")
def whole(stack) -> dict[tuple[str, int], bytes]:
    return bits(summed(stack, FLUX))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(stack, whole, threads):
    assert bits(summed(stack, FLUX, setup(threads=threads))) == whole


@pytest.mark.parametrize("seed", range(3))
def test_frames_in_any_order_and_any_batches_make_the_same_sums(stack, whole, seed):
    rng = np.random.default_rng(seed)
    sums, binner = None, setup().binner()
    cuts = sorted(rng.choice(N, 6, replace=False).tolist())
    parts = list(itertools.pairwise([0, *cuts, N]))
    for i in rng.permutation(len(parts)):
        a, b = parts[i]
        sums = summed(stack[a:b], FLUX[a:b], into=sums, binner=binner)

    assert sums is not None
    assert bits(sums) == whole


def test_sums_of_parts_merge_to_the_whole(stack, whole):
    parts = [summed(stack[a:b], FLUX[a:b]) for a, b in ((40, N), (0, 13), (13, 40))]
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    assert bits(parts[0]) == whole


@pytest.mark.parametrize("number", [1, 10, 60])
def test_frames_that_turn_out_dark_are_taken_away_without_a_trace(stack, number):
    dark = np.random.default_rng(number).choice(N, number, replace=False)
    lit, only_dark = FLUX.copy(), np.zeros(N)
    lit[dark] = 0.0
    only_dark[dark] = FLUX[dark]

    sums = summed(stack, FLUX)
    summed(stack, only_dark, into=sums, subtract=True)

    assert bits(sums) == bits(summed(stack, lit))


def test_parts_of_pixels_and_frames_are_taken_away_too(stack):
    made = setup(oversample=Oversample(2, 3))
    few = stack[:6]
    sums = summed(few, FLUX[:6], made)
    summed(few[2:5], FLUX[2:5], made, into=sums, subtract=True)
    lit = np.where(np.isin(np.arange(6), (2, 3, 4)), 0.0, FLUX[:6])
    assert bits(sums) == bits(summed(few, lit, made))


def air(**more) -> AirRate:
    rng = np.random.default_rng(9)
    rate = rng.uniform(1e-7, 1e-6, SHAPE)
    rate[rng.random(SHAPE) < 0.02] = np.nan
    return AirRate(rate, rate / 1e7, **more)


def test_frames_with_a_background_are_taken_away_too_and_come_in_any_order(stack):
    made = setup(air=air(), oversample=Oversample(2, 1))
    forwards = summed(stack[:20], FLUX[:20], made)
    sums, binner = None, made.binner()
    for a, b in ((13, 20), (4, 13), (0, 4)):
        sums = summed(stack[a:b], FLUX[a:b], made, into=sums, binner=binner)
    assert sums is not None
    assert bits(sums) == bits(forwards)

    summed(stack[4:9], FLUX[4:9], made, into=sums, subtract=True)

    lit = np.where(np.isin(np.arange(20), range(4, 9)), 0.0, FLUX[:20])
    assert bits(sums) == bits(summed(stack[:20], lit, made))


def test_the_background_is_rate_times_flux_and_its_variance_that_of_stays(stack):
    """The expected stay, against each pixel followed through the frames."""
    flux = np.full(N, 1e6)
    new = summed(stack, flux, setup(air=air(frames=N))).volume()
    stays = summed(stack, flux, setup(air=air(by_stays=True))).volume()

    assert new.background is not None
    assert new.background_variance is not None
    assert stays.background is not None
    assert stays.background_variance is not None
    np.testing.assert_allclose(new.background, stays.background, rtol=1e-5, atol=1e-4)
    ratio = new.background_variance.sum() / stays.background_variance.sum()
    assert ratio == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("speed", [(0.3, 0.1, 0.02), (0.05, 0.05, 0.01), (1.4, 0.7, 0.0)])
def test_an_expected_stay_is_the_mean_over_places_in_the_cell(speed):
    rng = np.random.default_rng(2)
    frames, n = 90, 40_000
    place, first = rng.random((3, n)), rng.integers(0, frames, n)  # where it is, and in which frame
    found = np.zeros(n)
    for k in range(-frames, frames + 1):
        there = np.floor(place + k * np.array(speed)[:, None]) == 0
        found += there.all(axis=0) & (first + k >= 0) & (first + k < frames)

    expected = expected_stay(np.array(speed)[:, None], frames)[0]

    assert expected == pytest.approx(found.mean(), rel=0.01)


def test_a_frame_too_bright_for_the_units_of_the_background_is_refused(stack):
    made = setup(air=air())
    sums = made.accumulator(made.exponent(float(FLUX.max())), background=(60, 60))
    with pytest.raises(ReductionError, match=r"2\^-60, 2\^-60"):
        summed(stack[:1], FLUX[:1], made, into=sums)


def test_frames_with_a_background_by_stays_are_not_taken_away_one_by_one(stack):
    made = setup(air=air(by_stays=True))
    sums = summed(stack[:3], FLUX[:3], made)
    with pytest.raises(ReductionError, match="begin again"):
        summed(stack[:3], FLUX[:3], made, into=sums, subtract=True)


def test_a_weight_is_rounded_by_less_than_2_to_the_minus_20_and_without_bias(stack):
    made = setup()
    sums = summed(stack, FLUX, made)
    factor, flux = made.factor(), FLUX
    exact = factor[None] * flux[:, None, None]
    unit = sums.unit("weight")
    rounded = np.rint(factor.astype(np.float32) * (flux / unit).astype(np.float32)[:, None, None])
    relative = rounded.astype(np.float64) * unit / exact - 1.0

    assert exact.max() / exact.min() < 32
    assert np.abs(relative).max() <= 2.0**-20
    assert abs(relative.mean()) < 4 * relative.std() / math.sqrt(N) + 2.0**-26  # float32 of factor
    assert 2.0**24 < exact.max() / unit < 2.0**27


def test_each_unit_is_that_of_a_beam_of_up_to_four_times_the_flux():
    assert weight_exponent(1.0, 1.0) == 26
    found = [weight_exponent(3e-6, flux) for flux in (1.1e6, 2e6, 4e6)]
    assert found == [found[0]] * 3
    assert weight_exponent(3e-6, 4.3e6) == found[0] - 2
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ReductionError, match="above 0"):
            weight_exponent(1.0, wrong)


def test_a_frame_brighter_than_its_unit_is_refused(stack):
    made = setup()
    sums = made.accumulator(made.exponent(1.0))
    with pytest.raises(ReductionError, match="Begin the volume again"):
        summed(stack, FLUX, made, into=sums)
    assert not sums.touched().size


def test_sums_of_another_grid_or_unit_do_not_merge(stack):
    sums = summed(stack[:1], FLUX[:1])
    other = Accumulator(GRID, sums.exponent + 1)
    with pytest.raises(ReductionError, match="do not add"):
        sums.merge(other)


def test_a_sum_that_float64_does_not_hold_is_not_written():
    sums = Accumulator(Grid.box((0, 1), (0, 1), (0, 1), step=0.5), 20)
    sums.sums.changed[0] = 1
    sums.sums.high[0, 0, 1] = 1 << 21
    with pytest.raises(ReductionError, match=r"2\^53"):
        sums.brick(0, 0, 0)


def test_only_what_was_measured_takes_memory(stack):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    grid = Grid.box((-3, 3), (-3, 3), (-3, 3), step=0.005)  # 1201³ cells: 2 × 14 GB of addresses
    made = ReductionSetup(GEOMETRY, UB, grid, FACTORS)
    before = resident()
    sums = made.accumulator(made.exponent(2e6))
    add_frames(stack[:2], made, FLUX[:2], sums)

    assert resident() - before < 400 << 20
    assert sums.total("counts") == sum(
        value["counts"].sum() for _, value in sums.filled()
    )  # fmt: skip


def test_bricks_and_volume_hold_the_same_numbers(stack):
    sums = summed(stack, FLUX)
    volume = sums.volume()
    for l, k, h in brick_places(GRID):  # noqa: E741
        brick = sums.brick(l, k, h)
        part = tuple(slice(32 * at, 32 * at + 32) for at in (h, k, l))
        for name in ("counts", "weight"):
            expected = getattr(volume, name)[part].T
            if brick is None:
                assert not expected.any()
            else:
                np.testing.assert_array_equal(brick[name], expected)


@pytest.mark.parametrize("vector", [(0.0, 1.0, 0.0), (1.0, 0.0, 0.0), (0.6, 0.0, 0.8)])
@pytest.mark.parametrize("step", [0.02, 0.1])
def test_bands_that_are_done_at_the_same_time_never_meet(vector, step):
    """By looking at every pixel, every half degree: not by what the bands are made of."""
    geometry = Geometry(0.7, PANEL, (Axis("phi", vector), AXES[1]), "phi")
    grid = Grid.box((-3, 3), (-3, 3), (-3, 3), step=step)
    made = ReductionSetup(geometry, UB, grid, FACTORS)
    binner = made.binner()
    groups = bands(geometry, UB, grid, binner._inverses)
    covered = np.zeros(SHAPE, int)
    for a, b, c, d in itertools.chain(*groups):
        covered[a:b, c:d] += 1
    assert (covered == 1).all()
    if step == 0.02 and vector != (0.6, 0.0, 0.8):  # else a cell may extend over two bands
        assert len(groups) == 2

    for group in groups:
        seen: list[set[int]] = [set() for _ in group]
        for angle in np.arange(-10.0, 60.0, 0.5):
            turns = binner._turns_at(angle)[None]
            exposures = Exposures(
                np.zeros((1, *SHAPE), np.int32), turns, np.ones(1, np.float32),
                binner._inverses[0], np.ones(SHAPE, np.float32),
            )  # fmt: skip
            for number, band in enumerate(group):
                seen[number].update(places(exposures, grid.shape, band).ravel().tolist())
        for one, other in itertools.combinations(seen, 2):
            assert one & other <= {NOWHERE}
