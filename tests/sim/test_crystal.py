"""The forward model against cases worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from sim_iocs import crystal
from sim_iocs.crystal import Crystal, Exposure


@pytest.fixture(scope="module")
def small() -> Crystal:
    return Crystal("100K", seed=3)


def by_hand(hkl, phi):
    """Where a reflection comes out, written without a matrix product of the model.

    Rodrigues' formula for U, a turn about y for phi, similar triangles for the panel.
    """
    axis = np.array([0.36, -0.48, 0.80])
    angle = math.radians(37.0)
    h = np.array(hkl, float) / 4.186
    unit = axis / np.linalg.norm(axis)
    g = (
        h * math.cos(angle)
        + np.cross(unit, h) * math.sin(angle)
        + unit * (unit @ h) * (1 - math.cos(angle))
    )
    c, s = math.cos(math.radians(phi)), math.sin(math.radians(phi))
    x, y, z = c * g[0] + s * g[2], g[1], -s * g[0] + c * g[2]
    z += 1 / 0.7
    off_sphere = math.sqrt(x * x + y * y + z * z) - 1 / 0.7
    # looking downstream x is to the left and y up; columns run to the right and rows down
    return 48.3 - 100.0 * x / z / 0.172, 101.6 - 100.0 * y / z / 0.172, off_sphere


def crossing(hkl, low, high):
    """The phi between two angles at which a reflection meets the Ewald sphere."""
    for _ in range(60):
        middle = 0.5 * (low + high)
        if by_hand(hkl, low)[2] * by_hand(hkl, middle)[2] <= 0:
            high = middle
        else:
            low = middle
    return 0.5 * (low + high)


@pytest.mark.parametrize(
    ("hkl", "about"), [((-1.5, 0.5, -0.5), 25.5), ((-2.5, 0.5, -0.5), 17.0), ((-2.5, 1.5, -0.5), 8)]
)
def test_a_superlattice_spot_is_where_a_hand_written_formula_puts_it(small, hkl, about):
    phi = crossing(hkl, about - 2.0, about + 2.0)
    column, row, _ = by_hand(hkl, phi)
    exposure = Exposure(angles=((phi, 0, 0), (phi, 0, 0)), temperature=60.0)
    without = replace(exposure, temperature=149.99999)

    spot = small.expected(exposure) - small.expected(without)

    r, c = int(row), int(column)
    box = np.clip(spot[r - 5 : r + 6, c - 5 : c + 6], 0, None)
    rows, columns = np.indices(box.shape)
    assert np.sum(box * rows) / box.sum() + r - 5 + 0.5 == pytest.approx(row, abs=0.15)
    assert np.sum(box * columns) / box.sum() + c - 5 + 0.5 == pytest.approx(column, abs=0.15)


def test_a_spot_is_brightest_in_the_frame_in_which_it_crosses_the_sphere(small):
    hkl = (-1.5, 0.5, -0.5)
    phi = crossing(hkl, 23.5, 27.5)
    column, row, _ = by_hand(hkl, phi)

    light = [
        small.expected(Exposure(angles=((0.5 * i, 0, 0), (0.5 * i + 0.5, 0, 0)), temperature=60.0))[
            int(row), int(column)
        ]
        for i in range(60)
    ]

    assert int(np.argmax(light)) == int(phi / 0.5)


def test_two_half_frames_count_as_much_as_the_whole(small):
    whole = Exposure(angles=((25.0, 0, 0), (26.0, 0, 0)), seconds=0.2, temperature=100.0)
    first = replace(whole, angles=((25.0, 0, 0), (25.5, 0, 0)), seconds=0.1)
    second = replace(whole, angles=((25.5, 0, 0), (26.0, 0, 0)), seconds=0.1)

    together = small.expected(first) + small.expected(second)

    expected = small.expected(whole)
    column, row, _ = by_hand((-1.5, 0.5, -0.5), 25.5)
    box = np.s_[int(row) - 4 : int(row) + 5, int(column) - 4 : int(column) + 5]
    assert together[box].sum() == pytest.approx(expected[box].sum(), rel=0.01)


@pytest.mark.parametrize(
    ("kelvin", "squared"), [(0.0, 1.0), (75.0, 0.5**0.66), (149.0, (1 / 150) ** 0.66), (150.0, 0.0)]
)
def test_the_order_parameter_vanishes_at_tc_with_its_exponent(kelvin, squared):
    assert crystal.order_parameter_squared(kelvin) == pytest.approx(squared)


def test_above_tc_the_superlattice_is_gone_and_the_bragg_peaks_stay(small):
    def spot(hkl, phi, kelvin):
        column, row, _ = by_hand(hkl, phi)
        frame = small.expected(
            Exposure(angles=((phi - 0.25, 0, 0), (phi + 0.25, 0, 0)), temperature=kelvin)
        )
        box = frame[int(row) - 1 : int(row) + 2, int(column) - 1 : int(column) + 2].mean()
        ring = frame[int(row) - 9 : int(row) + 10, int(column) - 9 : int(column) + 10]
        return box / np.median(ring)

    phi = crossing((-1.5, 0.5, -0.5), 23.5, 27.5)

    assert spot((-1.5, 0.5, -0.5), phi, 120.0) > 5.0
    assert spot((-1.5, 0.5, -0.5), phi, 180.0) < 1.1
    bragg = crossing((-2.0, 1.0, 0.0), -40.0, 60.0)
    assert spot((-2.0, 1.0, 0.0), bragg, 180.0) > 5.0


def test_counts_are_poisson_with_the_expected_mean(small):
    exposure = Exposure(angles=((3.0, 0, 0), (3.5, 0, 0)))
    expected = small.expected(exposure)
    valid = ~(small.gaps | small.bad)

    pulls = [
        (small.count(replace(exposure, number=i)) - expected)[valid]
        / np.sqrt(expected[valid] + 1e-9)
        for i in range(4)
    ]

    lit = expected[valid] > 0.05
    pull = np.concatenate([p[lit] for p in pulls])
    assert abs(pull.mean()) < 0.01
    assert pull.std() == pytest.approx(1.0, abs=0.01)


def test_a_closed_shutter_gives_a_dark_frame_with_its_marks(small):
    counts = small.count(Exposure(beam=0.0))

    assert np.all(counts[~(small.gaps | small.bad)] == 0)
    assert np.all(counts[small.bad] == -2)
    assert small.bad.any()


def test_twice_the_ring_current_is_twice_the_counts(small):
    once = small.expected(Exposure(beam=1.0))
    twice = small.expected(Exposure(beam=2.0))

    np.testing.assert_allclose(twice, 2.0 * once, rtol=1e-5)


def test_the_same_seed_counts_the_same(small):
    exposure = Exposure(number=5, angles=((1, 0, 0), (2, 0, 0)))

    assert np.array_equal(small.count(exposure), Crystal("100K", seed=3).count(exposure))
    assert not np.array_equal(small.count(exposure), small.count(replace(exposure, series=1)))


def test_gaps_of_a_2m_are_where_the_manual_has_them():
    gaps = crystal.module_mask((1679, 1475))

    rows = np.flatnonzero(gaps.all(axis=1))
    columns = np.flatnonzero(gaps.all(axis=0))
    assert [int(r) for r in rows[::17]] == [195 + 212 * i for i in range(7)]
    assert [int(c) for c in columns[::7]] == [487, 981]
    assert len(rows) == 7 * 17
    assert len(columns) == 2 * 7


def test_horizontal_polarization_dims_the_horizontal_direction(small):
    column, row = (int(v) for v in small.centre)
    two_theta = math.atan((487 - column - 0.5) * 0.172 / 100.0)

    along = small.polarization[row, -1]

    # P = ½ [1 + cos²2θ − 0.99 cos 2η sin²2θ] with η = 0 in the plane of the electric vector
    by_formula = 0.5 * (1 + math.cos(two_theta) ** 2 - 0.99 * math.sin(two_theta) ** 2)
    assert along == pytest.approx(by_formula, abs=1e-3)


def test_overloaded_pixels_stop_at_the_cutoff(small):
    assert small.count(Exposure(beam=1e6)).max() == crystal.CUTOFF


def test_a_panel_moved_by_whole_pixels_sees_the_same_elsewhere():
    panel = Crystal("100K")
    exposure = Exposure(angles=((10.0, 0.0, 0.0), (10.5, 0.0, 0.0)))
    before = panel.expected(exposure)

    panel.shift(10 * crystal.PIXEL, -4 * crystal.PIXEL)

    # fast and slow point to −x and −y
    np.testing.assert_allclose(panel.expected(exposure)[:-4, 10:], before[4:, :-10], rtol=2e-3)
    panel.shift(0.0, 0.0)
    np.testing.assert_array_equal(panel.expected(exposure), before)
