"""When a sweep is refused for its angles, with an axis and clocks that are known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from offbragg.errors import DeviceError
from offbragg.plans.timing import AngleCheck, Timing
from offbragg.sweep import Sweep

SWEEP = Sweep("phi", start=0.0, step=0.1, n_frames=40, exposure=0.09, period=0.1)
BEGAN = 1000.0


def check(
    position, *, sweep=SWEEP, first=-0.5, last=None, began=BEGAN, pulses=False, after=0.0, seen=None
):
    """Make the check of a sweep; ``position`` of the time since its start should have come."""
    last = sweep.duration + 0.5 if last is None else last
    seen = np.arange(first, last, 0.1) if seen is None else seen
    read = [(BEGAN + t, position(t)) for t in seen]
    clocks = iter([0.0, after])

    def clock():
        return SimpleNamespace(offset=next(clocks, after), half_width=0.001, known=True)

    axis = SimpleNamespace(
        name="phi", read_backs=read, at_speed=(0.2, 0.1), was_late=lambda _: None,
        clock=SimpleNamespace(offset=0.0, half_width=0.001, known=True), measure_clock=clock,
    )  # fmt: skip
    still = SimpleNamespace(offset=0.0, half_width=0.001, known=True)
    detector = SimpleNamespace(
        name="pilatus", exposure_started=began, began_at=began, start_sigma=0.002, clock=still,
        measure_clock=lambda: still,
    )  # fmt: skip
    next(clocks)
    return AngleCheck(detector, axis, sweep, None if pulses else Timing(0.0, 0.002))


def judge(judged):
    judged.begin()
    return judged.end()


def even(t):
    return min(max(t, -0.5), 4.5)


def test_a_sweep_that_is_where_it_should_be_passes_without_a_word():
    judged = check(even)

    judged.begin()
    judged.compare_clocks()

    assert judged.end() == ""


@pytest.mark.parametrize("pulses", [False, True])
@pytest.mark.parametrize("seconds", [-3.0, 20.0])
def test_frames_that_were_exposed_while_the_axis_stood_fail_the_sweep(pulses, seconds):
    """A pulse that is none comes before the axis moves, or the first one long after it stopped."""
    judged = check(even, pulses=pulses, began=BEGAN + seconds)

    with pytest.raises(DeviceError, match=r"phi stood at .* degree when frame 0 of 40 was exposed"):
        judge(judged)


def test_an_axis_that_starts_a_second_late_in_a_short_sweep_fails_it():
    sweep = Sweep("phi", start=0.0, step=0.1, n_frames=3, exposure=0.09, period=0.1)
    judged = check(lambda t: t - 1.0, sweep=sweep, first=0.6, last=2.0)

    with pytest.raises(DeviceError, match=r"phi stood at -0\.4"):
        judge(judged)


@pytest.mark.parametrize("seconds", [0.1, 0.3])
def test_an_axis_that_stands_for_a_moment_fails_the_sweep(seconds):
    judged = check(lambda t: even(t) if t < 2.04 else max(2.04, even(t) - seconds))

    with pytest.raises(DeviceError, match="phi did not turn evenly: it went from 2"):
        judge(judged)


def flight(t):
    """Turn with ramps of 0.2 s, 0.25 s before the start and 0.12 s after the end of the sweep."""
    up, down = min(max(t + 0.45, 0.0), 0.2), min(max(t - 4.12, 0.0), 0.2)
    at_speed = min(max(t, -0.25), 4.12)
    return at_speed - 0.1 + 0.5 * up**2 / 0.2 + down - 0.5 * down**2 / 0.2


@pytest.mark.parametrize(
    ("unseen", "gap", "which"),
    [
        ((3.8, 4.5), "0.80", "38 to 39"),
        ((-0.5, 0.1), "0.70", "0 to 1"),
        ((3.6, 4.4), "0.90", "36 to 39"),
    ],
    ids=["end", "beginning", "longer"],
)
def test_a_host_too_busy_to_see_the_axis_stop_or_start_does_not_lose_the_sweep(
    unseen, gap, which, caplog
):
    every = np.arange(-0.53, 4.8, 0.1)
    judged = check(flight, seen=every[(every < unseen[0]) | (every > unseen[1])])

    text = judge(judged)

    assert f"no read-back of phi came for {gap} s, at frames {which}" in text
    assert "this host or an IOC was too busy" in text
    assert f"no read-back of phi came for {gap} s" in caplog.text


@pytest.mark.parametrize(
    ("position", "unseen"),
    [
        (lambda t: flight(t) if t < 2.04 else max(2.04, flight(t) - 0.3), (2.0, 2.5)),
        (lambda t: flight(t) if t < 3.9 else 4.22, (3.8, 3.99)),  # it cannot be there that early
    ],
    ids=["stood", "hurried"],
)
def test_an_axis_that_did_not_turn_evenly_fails_the_sweep_however_busy_the_host(position, unseen):
    every = np.arange(-0.53, 4.8, 0.1)
    judged = check(position, seen=every[(every < unseen[0]) | (every > unseen[1])])

    with pytest.raises(DeviceError, match="phi did not turn evenly"):
        judge(judged)


def test_a_detector_that_began_too_late_and_the_axis_slowed_down_is_named():
    judged = check(flight, seen=np.arange(-0.53, 4.8, 0.1), began=BEGAN + 0.37)

    with pytest.raises(DeviceError, match=r"phi slowed down .* pilatus began 0\.37 s late") as info:
        judge(judged)

    assert "too busy" in str(info.value)


def test_read_backs_that_always_come_rarely_are_not_a_busy_host():
    judged = check(flight, seen=np.arange(-0.55, 5.2, 0.7))

    with pytest.raises(DeviceError, match="does the record read back too rarely"):
        judge(judged)


def test_a_clock_that_is_set_during_a_sweep_fails_it():
    judged = check(even, after=0.3)

    with pytest.raises(DeviceError, match=r"differ by \+0\.300 s more than before the sweep"):
        judged.compare_clocks()


def test_an_ioc_that_is_away_after_the_sweep_does_not_fail_it(caplog):
    judged = check(even)

    def away():
        raise TimeoutError("X does not answer")

    judged._axis.measure_clock = away

    assert judged.compare_clocks() is None
    assert "the clocks were not compared after the sweep: X does not answer" in caplog.text
    assert judge(judged) == ""


def test_a_first_pulse_whose_file_is_seen_late_is_no_reason_to_fail():
    judged = check(even, pulses=True, began=BEGAN + 0.9)

    assert judge(judged) == ""


def test_without_read_backs_it_is_said_that_nothing_has_checked_the_angles():
    judged = check(even)
    judged._axis.read_backs = []

    assert "as commanded and nothing has checked them: 0 read-backs" in judged.end()
    assert math.isfinite(judged._began)
