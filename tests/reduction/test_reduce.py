"""By hand, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offbragg.errors import GeometryError, ReductionError
from offbragg.geometry import Geometry
from offbragg.grid import Grid
from offbragg.instrument import Axis, Panel
from offbragg.reduction import Corrections, ReductionSetup, binning, reduce
from offbragg.reduction.air import AirRate
from offbragg.reduction.binning import Oversample
from offbragg.reduction.reduce import air_rate, check_overlap, check_UB, check_units
from offbragg.sample import Sample
from offbragg.stack import Stack
from offbragg.sweep import Sweep

PANEL = Panel((5.0, 5.0, 100.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (1.0, 1.0), (10, 10))
GEOMETRY = Geometry(0.5, PANEL, (Axis("phi", (0.0, 1.0, 0.0)),), "phi")
UB = np.eye(3) / 5.0
SWEEP = Sweep("phi", -0.5, 1.0, 3, 0.1, 0.1)
PLAIN = Corrections(solid_angle=False, polarization=None, efficiency=False, air=False)
GRID = Grid.box((-0.6, 0.6), (-0.6, 0.6), (-0.2, 0.2), step=0.01)


def scene(**more) -> ReductionSetup:
    return ReductionSetup(GEOMETRY, UB, GRID, PLAIN, {"saturation": 1000}, **more)


def test_one_pixel_by_hand():
    counts = np.full((3, 10, 10), -1, np.int32)
    counts[0, 2, 5] = 42  # 2.5 mm above the beam, −0.5 mm across: at phi = 0

    volume = reduce(Stack(counts, SWEEP), scene(), np.array([3.0, 5.0, 7.0]))

    s = np.array([-0.5, 2.5, 100.0])
    hkl = 5.0 * (s / np.linalg.norm(s) - [0, 0, 1]) / 0.5
    cell = GRID.index(hkl)
    assert volume.counts[cell] == volume.counts.sum() == 42
    assert volume.weight[cell] == volume.weight.sum() == 3.0


def test_a_frame_that_is_not_there_weighs_nothing():
    counts = np.ones((3, 10, 10), np.int32)
    counts[1] = -1
    flux = np.array([1.0, 1.0, np.nan])  # and the last has no monitor yet

    volume = reduce(Stack(counts, SWEEP), scene(), flux)

    assert volume.weight.sum() == volume.counts.sum() == 100


def test_pixels_that_must_not_count():
    counts = np.ones((3, 10, 10), np.int32)
    counts[:, 0, 0], counts[:, 0, 1] = -1, -2
    counts[0, 5, 5], counts[1, 5, 5] = 1000, 999  # at the cut-off, and just below it
    mask = np.zeros((10, 10), bool)
    mask[9] = True

    volume = reduce(Stack(counts, SWEEP), scene(mask=mask), np.ones(3))

    assert volume.weight.sum() == 3 * (100 - 2 - 10) - 1
    assert volume.counts.sum() == 3 * (100 - 2 - 10 - 1) + 999 + 1


def test_angles_that_were_read_are_used():
    counts = np.ones((3, 10, 10), np.int32)
    shifted = replace(SWEEP, start=SWEEP.start + 2.0)

    read = reduce(Stack(counts, SWEEP), scene(), np.ones(3), angles=shifted.midpoints)
    commanded = reduce(Stack(counts, shifted), scene(), np.ones(3))

    np.testing.assert_array_equal(read.counts, commanded.counts)


def test_a_frame_is_divided_along_its_turn():
    counts = np.zeros((1, 10, 10), np.int32)
    counts[0, 0, 0] = 8
    wide = Sweep("phi", 0.0, 8.0, 1, 0.1, 0.1)
    grid = Grid.box((-0.6, 0.6), (-0.6, 0.6), (-0.6, 0.6), step=0.01)
    divided = replace(scene(oversample=Oversample(1, 4)), grid=grid)

    volume = reduce(Stack(counts, wide), divided, np.ones(1))

    hit = volume.counts[volume.counts > 0]
    np.testing.assert_allclose(hit, [2.0] * 4)
    # a quarter of a pixel with 8 counts: variance 8 / 16
    np.testing.assert_allclose(volume.variance[volume.counts > 0], 0.5)
    assert volume.weight.sum() == pytest.approx(100)


def test_parts_of_a_pixel_in_one_cell_have_its_variance():
    counts = np.full((1, 10, 10), 6, np.int32)
    coarse = replace(scene(oversample=Oversample(3, 2)), grid=Grid((0, 0, 0), (1, 1, 1), (1, 1, 1)))

    volume = reduce(Stack(counts, replace(SWEEP, n_frames=1)), coarse, np.ones(1))

    assert volume.counts.sum() == pytest.approx(600)
    assert volume.variance.sum() == pytest.approx(600)


def test_air_of_a_pixel_that_stays_in_its_cell_is_one_measurement():
    counts = np.full((3, 10, 10), 4, np.int32)
    still = Sweep("phi", 0.0, 0.0, 3, 0.1, 0.1)
    rate = AirRate(np.full((10, 10), 2.0), np.full((10, 10), 0.1), frames=3)
    whole = replace(scene(air=rate), grid=Grid((0, 0, 0), (1, 1, 1), (1, 1, 1)))

    volume = reduce(Stack(counts, still), whole, np.ones(3))
    by_stays = replace(whole, air=replace(rate, by_stays=True))
    before = reduce(Stack(counts, still), by_stays, np.array([1.0, 2.0, 1.0]))

    assert volume.background.sum() == pytest.approx(100 * 2.0 * 3.0)
    assert volume.background_variance.sum() == pytest.approx(100 * 0.1 * 3.0**2)
    assert volume.intensity.item() == pytest.approx((1200 - 600) / 300)
    assert before.background.sum() == pytest.approx(100 * 2.0 * 4.0)
    assert before.background_variance.sum() == pytest.approx(100 * 0.1 * 4.0**2)


def test_the_air_rate_is_counts_per_flux():
    counts = np.array([[[6, -1]], [[2, -1]]], np.int32)
    rate = air_rate(Stack(counts, replace(SWEEP, n_frames=2)), np.array([3.0, 1.0]))

    assert rate.rate[0, 0] == pytest.approx(2.0)
    assert rate.variance[0, 0] == pytest.approx(8 / 16)
    assert np.isnan(rate.rate[0, 1])
    with pytest.raises(ReductionError, match="no frame with flux"):
        air_rate(Stack(counts, replace(SWEEP, n_frames=2)), np.zeros(2))


def test_a_grid_beyond_memory_is_refused_before_it_is_allocated(monkeypatch):
    huge = replace(scene(), grid=Grid((0, 0, 0), (20_000, 20_000, 20_000), (100, 100, 100)))

    with pytest.raises(ReductionError, match=r"needs 128000\.0 GB, and there are .* GB"):
        huge.empty()
    monkeypatch.setattr(binning, "available_memory", lambda: 1000)
    with pytest.raises(ReductionError, match="steps of about"):
        scene().empty()


@pytest.mark.parametrize(
    ("wrong", "lattice", "message"),
    [
        (np.zeros((3, 3)), None, "singular"),
        (np.diag([0.2, 0.2, -0.2]), None, "left-handed"),
        (np.eye(3) * 2 * np.pi / 5, (5, 5, 5, 90, 90, 90), "contains 2π"),
        (np.eye(3) / 5, (5, 5, 6, 90, 90, 90), "does not belong to the lattice"),
        (np.eye(3) / 5, (5, 5, 5, 90, 90, 100), "does not belong to the lattice"),
        (np.eye(3) * 5.0, None, "Å⁻¹"),
        (np.full((3, 3), np.nan), None, "finite"),
    ],
)
def test_what_is_no_orientation_is_refused(wrong, lattice, message):
    with pytest.raises(GeometryError, match=message):
        check_UB(wrong, lattice)
    sample = None if lattice is None else Sample("a", "b", lattice=lattice)
    with pytest.raises(GeometryError, match=message):
        ReductionSetup(GEOMETRY, wrong, GRID, PLAIN, sample=sample)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (replace(GEOMETRY, wavelength=0.03), "nm, or an energy"),
        (replace(GEOMETRY, wavelength=17.7), "nm, or an energy"),
        (replace(GEOMETRY, panel=replace(PANEL, pixel_size=(0.000172, 0.000172))), "in m"),
        (replace(GEOMETRY, panel=replace(PANEL, origin=(0.01, 0.01, 0.1))), "in m"),
    ],
)
def test_wrong_units_are_refused(wrong, message):
    with pytest.raises(GeometryError, match=message):
        check_units(wrong)


def test_a_grid_that_no_frame_reaches_is_refused():
    with pytest.raises(ReductionError, match="no frame reaches the grid"):
        check_overlap(Grid.box((5, 6), (0, 1), (0, 1)), GEOMETRY, SWEEP, UB)
    check_overlap(GRID, GEOMETRY, SWEEP, UB)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: reduce(Stack(np.zeros((3, 9, 10), np.int32), SWEEP), s, np.ones(3)), "panel"),
        (lambda s: reduce(Stack(np.zeros((3, 10, 10), np.int32), SWEEP), s, np.ones(2)), "flux"),
        (
            lambda s: reduce(
                Stack(np.zeros((3, 10, 10), np.int32), replace(SWEEP, axis="omega")), s, np.ones(3)
            ),
            "scan axis",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(call, message):
    with pytest.raises((GeometryError, ReductionError), match=message):
        call(scene())
