"""Angles from read-backs: against an axis whose motion is known."""

from __future__ import annotations

import numpy as np
import pytest

from offbragg.followers.frame_values import FrameValues
from offbragg.sweep import Sweep

SWEEP = Sweep("phi", start=0.0, step=0.5, n_frames=40, exposure=0.09, period=0.1)
READ_BACK = {
    "angle": {"key": "phi", "how": "read-back", "units": "degree", "before": 0.27, "after": 0.27}
}
BEGAN = 1000.0


def measure(
    position, *, sweep=SWEEP, clock=0.0, difference=0.0, every=0.1, silent=(0.0, 0.0), seed=None
):
    """Return a sweep's values, measured by an axis that was at ``position(time)``."""
    rng = np.random.default_rng(seed)
    middles = np.full(sweep.n_frames, np.nan)
    values = FrameValues(READ_BACK, middles, sweep=sweep)
    values.add({"clock_difference": difference, "time_sigma": 0.002}, {}, BEGAN)
    for number in range(sweep.n_frames):
        values.exposed(number, BEGAN + number * sweep.period + sweep.exposure / 2)
    for at in np.arange(-0.437, sweep.duration + 0.437, every):
        if silent[0] < at < silent[1]:
            continue
        jitter = 0.0 if seed is None else rng.uniform(0, 0.004)
        stamp = BEGAN + at + clock + jitter
        values.add({"phi": position(at)}, {"phi": stamp}, stamp)
    return values


def angles_of(values, **final):
    found = {column: (numbers, each) for column, numbers, each in values.take(**final)}
    return found["angle"]


@pytest.mark.parametrize("late", [0.0, 0.03, 2.1])
def test_an_axis_that_was_elsewhere_gives_the_angles_where_it_was(late):
    """2.1 degree off, of a shutter that took two seconds, was once thrown away as wrong."""
    values = measure(lambda at: 5.0 * (at + late))

    numbers, angles = angles_of(values, final=True)

    assert numbers.tolist() == list(range(40))
    np.testing.assert_allclose(angles, SWEEP.midpoints + 5.0 * late, atol=1e-6)
    assert values.summary()["angles"]["first_offset"] == pytest.approx(5.0 * late)


def test_an_axis_that_stops_on_its_way_is_followed():
    def position(at):
        return 5.0 * at if at < 2 else 5.0 * max(2.0, at - 1.0)

    values = measure(position)
    _, angles = angles_of(values, final=True)

    true = np.array([position(0.1 * n + 0.05) for n in range(40)])
    assert np.abs(angles - true).max() < 0.5  # beside the edges of the stop
    np.testing.assert_allclose(angles[:16], true[:16], atol=1e-6)
    np.testing.assert_allclose(angles[35:], true[35:], atol=1e-6)


def test_the_difference_of_the_clocks_is_taken_away():
    values = measure(lambda at: 5.0 * at, clock=7.5, difference=7.5)

    _, angles = angles_of(values, final=True)

    np.testing.assert_allclose(angles, SWEEP.midpoints, atol=1e-6)


def test_clocks_that_drift_apart_are_followed_from_one_comparison_to_the_next():
    """The event's own time is of a third clock, which may be anywhere."""
    values = measure(lambda at: 5.0 * at)
    drifting = FrameValues(READ_BACK, np.full(40, np.nan), sweep=SWEEP)
    drifting.add({"clock_difference": 7.5, "time_sigma": 0.002}, {}, 5.0)
    for number in range(40):
        drifting.exposed(number, BEGAN + 0.1 * number + 0.045)
    for at in np.arange(-0.437, 4.437, 0.1):
        stamp = BEGAN + at + 7.5 + 0.04 * at / 4.0
        drifting.add({"phi": 5.0 * at}, {"phi": stamp}, 6.0)
    drifting.add({"clock_difference": 7.54, "time_sigma": 0.002}, {}, 7.0)

    _, angles = angles_of(drifting, final=True)

    np.testing.assert_allclose(angles, angles_of(values, final=True)[1], atol=0.002)


def test_jitter_of_the_stamps_is_averaged_and_its_uncertainty_is_known():
    sweep = Sweep("phi", start=0.0, step=0.3, n_frames=400, exposure=0.009, period=0.01)
    values = measure(lambda at: 30.0 * at, sweep=sweep, seed=5)

    found = {column: each for column, _, each in values.take(final=True)}

    # a stamp that comes up to 4 ms late is 2 ms late on average: 0.06 degree
    off = found["angle"] - sweep.midpoints + 0.06
    assert np.abs(off).max() < 0.05
    assert 0.1 < np.sqrt(np.mean(off**2)) / np.median(found["angle_sigma"]) < 2.0


def test_an_angle_is_known_only_once_the_read_backs_around_it_are_there():
    values = measure(lambda at: 5.0 * at)
    values.take(final=False)
    for number in range(40):  # everything again, as after a restart
        values.exposed(number, BEGAN + 0.1 * number + 0.045)

    assert values.take(final=False) == []


def test_where_the_axis_was_silent_and_stood_angles_stay_as_commanded():
    values = measure(lambda at: 5.0 * at if at < 2.5 else 5.0 * (at - 0.5), silent=(1.5, 3.5))

    numbers, _ = angles_of(values, final=True)

    missing = sorted(set(range(40)) - set(numbers.tolist()))
    assert missing == list(range(15, 36))
    assert values.unchecked() == missing


def test_where_the_axis_was_silent_and_turned_at_its_speed_the_angles_are_known():
    """As a record that posts changes above a deadband only."""
    values = measure(lambda at: 5.0 * at, silent=(1.5, 3.5))

    numbers, angles = angles_of(values, final=True)

    assert len(numbers) == 40
    np.testing.assert_allclose(angles, SWEEP.midpoints, atol=1e-6)


@pytest.mark.parametrize("seconds", [0.02, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("speed", [1.0, 10.0])
def test_an_axis_that_stands_for_a_moment_has_no_wrong_angle_that_claims_to_be_right(
    speed, seconds
):
    sweep = Sweep("phi", start=0.0, step=speed / 10, n_frames=40, exposure=0.09, period=0.1)

    def position(at):
        return speed * (at if at < 2.03 else max(2.03, at - seconds))

    values = measure(position, sweep=sweep)
    found = {column: each for column, _, each in values.take(final=True)}

    true = np.array([position(0.1 * n + 0.05) for n in range(40)])
    off = np.abs(found["angle"] - true)
    assert (off < 0.01 + 0.005 * speed + 2 * found["angle_sigma"]).all()
    assert np.median(found["angle_sigma"]) < 0.01 + 0.005 * speed


def test_an_axis_that_reads_back_rarely_is_enough():
    values = measure(lambda at: 5.0 * at, every=0.4)

    numbers, angles = angles_of(values, final=True)

    np.testing.assert_allclose(angles, SWEEP.midpoints[numbers], atol=1e-6)
    assert len(numbers) >= 38


def test_a_stacker_that_starts_again_finds_the_same_angles():
    """Whether they are worked out while the axis turns, or all at once from the journal."""
    rng = np.random.default_rng(3)
    stamps = np.sort(np.arange(-0.4, 4.4, 0.1) + rng.uniform(0, 0.03, 49))
    positions = 5.0 * stamps + rng.normal(0, 0.01, 49)
    found = []
    for live in (True, False):
        values = FrameValues(READ_BACK, np.full(40, np.nan), sweep=SWEEP)
        angles, number = np.full(40, np.nan), 0
        for stamp, position in zip(stamps, positions, strict=True):
            values.add({"phi": position}, {"phi": BEGAN + stamp}, BEGAN + stamp)
            while number < 40 and 0.1 * number + 0.2 < stamp:
                values.exposed(number, BEGAN + 0.1 * number + 0.045)
                number += 1
            for column, numbers, taken in values.take(final=False) if live else ():
                if column == "angle":
                    angles[numbers] = taken
        for column, numbers, taken in values.take(final=True):
            if column == "angle":
                angles[numbers] = taken
        found.append(angles)

    assert np.isfinite(found[0]).all()
    np.testing.assert_allclose(*found, rtol=0, atol=1e-9)
