"""Where a flight begins, when it passes the start: by hand."""

from __future__ import annotations

import pytest

from offbragg.devices.goniometer import plan_flight
from offbragg.sweep import Sweep


def sweep(step=0.1, start=10.0):
    return Sweep(axis="phi", start=start, step=step, n_frames=100, exposure=0.09, period=0.1)


def test_a_flight_speeds_up_before_the_start():
    flight = plan_flight(sweep(), acceleration_time=0.5, margin=0.5)

    # 0.5 s from 0 to 1 degree/s is 0.25 degree, then 0.5 s at 1 degree/s
    assert flight.begin == pytest.approx(9.25)
    assert flight.end == pytest.approx(20.75)
    assert flight.start_time == pytest.approx(1.0)
    assert flight.duration == pytest.approx(12.0)


def test_a_base_speed_lengthens_the_ramp():
    flight = plan_flight(sweep(), acceleration_time=0.5, base_speed=0.5, margin=0.0)

    assert flight.ramp == pytest.approx(0.375)


def test_a_backward_flight_is_the_mirror_image():
    there = plan_flight(sweep(start=-10.0, step=0.1), acceleration_time=0.2)
    back = plan_flight(sweep(start=10.0, step=-0.1), acceleration_time=0.2)

    assert back.begin == pytest.approx(-there.begin)
    assert back.end == pytest.approx(-there.end)
    assert back.start_time == there.start_time
    assert back.direction == -there.direction


@pytest.mark.parametrize("step", [0.1, -0.1])
def test_an_axis_that_is_read_back_on_its_way_had_left_before_and_not_earlier_than_it_did(step):
    flight = plan_flight(sweep(step=step), acceleration_time=0.5, margin=0.5)
    passed = 100.0  # when it is at the sweep's start

    left = flight.left_by(passed, 10.0)

    assert passed - flight.start_time <= left <= passed - flight.start_time + 0.5
    assert flight.left_by(left, flight.begin) == left
