"""Motor record, cooler and beam over Channel Access."""

from __future__ import annotations

import time

import pytest

pytestmark = pytest.mark.ioc


@pytest.fixture
def motor(ioc):
    from ophyd import EpicsMotor

    motor = EpicsMotor(f"{ioc['prefix']}chi", name="chi")
    motor.wait_for_connection(all_signals=True, timeout=20)
    motor.velocity.put(100.0, wait=True)
    yield motor
    motor.stop()
    motor.set(0.0).wait(20)
    motor.velocity.put(10.0, wait=True)


def test_ophyd_moves_it_and_the_status_ends_with_the_motion(motor):
    began = time.monotonic()
    motor.velocity.put(20.0, wait=True)

    motor.set(10.0).wait(20)

    assert time.monotonic() - began > 0.6  # 10 degrees at 20 degree/s and two ramps of 0.2 s
    assert motor.position == pytest.approx(10.0)
    assert not motor.moving


def test_ophyd_knows_its_limits_and_the_record_puts_back_what_is_outside(motor, client, wait_until):
    from ophyd.utils import LimitError

    assert motor.limits == (-100.0, 100.0)
    with pytest.raises(LimitError):
        motor.set(101.0)

    before = client.get("chi.VAL")
    with client.watch("chi.DMOV") as seen:
        client.put("chi", 101.0)
        wait_until(lambda: len(seen) >= 2)

    assert client.get("chi.VAL") == before
    assert client.get("chi.LVIO") == 1
    assert [text for _, text in seen] == ["0", "1"]


def test_the_same_value_again_gives_a_pulse_and_no_motion(motor, client, wait_until):
    motor.set(3.0).wait(20)

    with client.watch("chi.DMOV", "chi.MOVN") as seen:
        client.put("chi", 3.0)
        wait_until(lambda: len(seen) >= 2)

    assert seen == [("chi.DMOV", "0"), ("chi.DMOV", "1")]


def test_stop_slows_down_and_takes_the_place_reached_as_the_demand(motor, client, wait_until):
    client.put("chi.VELO", 10.0)
    completed = client.start("chi", 90.0)
    wait_until(lambda: client.get("chi.RBV") > 2.0)
    assert client.get("chi.MSTA") == 1025

    client.put("chi.STOP", 1)
    wait_until(completed)

    assert client.get("chi.STOP") == 0
    assert client.get("chi.DMOV") == 1
    assert client.get("chi.MSTA") == 2
    assert 2.0 < client.get("chi.RBV") < 80.0
    assert client.get("chi.VAL") == pytest.approx(client.get("chi.RBV"))


def test_pause_stops_without_being_done_and_go_resumes(motor, client, wait_until):
    completed = client.start("chi", 60.0)
    wait_until(lambda: client.get("chi.RBV") > 1.0)

    client.put("chi.SPMG", "Pause")
    assert client.get("chi.DMOV") == 0
    assert client.get("chi.RBV") < 60.0
    client.put("chi.SPMG", "Go")
    wait_until(lambda: client.get("chi.DMOV") == 1)
    wait_until(completed)

    assert client.get("chi.RBV") == pytest.approx(60.0)


def test_set_changes_the_offset_and_shifts_the_limits(motor, client):
    motor.set(1.0).wait(20)
    client.put("chi.SET", 1)
    client.put("chi", 6.0)
    client.put("chi.SET", 0)

    assert client.get("chi.OFF") == pytest.approx(5.0)
    assert client.get("chi.HLM") == pytest.approx(105.0)
    assert client.get("chi.RBV") == pytest.approx(6.0)
    assert client.get("chi.DRBV") == pytest.approx(1.0)
    client.put("chi.OFF", 0.0)
    assert client.get("chi.HLM") == pytest.approx(100.0)


def test_a_ramp_of_the_cooler_ends_at_its_target(client, wait_until):
    client.put("cryo:RRATE", 360)
    client.put("cryo:RTEMP", 140.0)
    client.put("cryo:RAMP", 1)
    wait_until(lambda: client.text("cryo:PHASE") == "Hold")
    wait_until(lambda: abs(client.get("sim:sample_temperature") - 140.0) < 0.1)

    assert client.get("cryo:TEMP") == pytest.approx(140.0, abs=0.2)
    assert client.get("cryo:TARGETTEMP") == 140.0


def test_a_temperature_out_of_range_is_not_taken(client):
    before = client.get("cryo:RTEMP")

    client.put("cryo:RTEMP", 20.0)

    assert client.get("cryo:RTEMP") == before
    assert "20 K is outside 80 to 400 K" in client.text("sim:message")


def test_a_beam_dump_is_seen_and_the_beam_comes_back(client):
    assert client.get("ring:current") > 100.0

    client.put("ring:dump", 1)
    assert client.get("ring:current") == 0.0
    client.put("ring:dump", 0)

    assert client.get("ring:current") > 100.0
