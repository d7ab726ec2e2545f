"""Motor record, cooler and beam over Channel Access."""

from __future__ import annotations

import time

import numpy as np
import pytest
from simulated import MOTOR_CLOCK

pytestmark = pytest.mark.ioc


@pytest.fixture
def motor(ioc, client):
    from ophyd import EpicsMotor

    motor = EpicsMotor(f"{ioc['prefix']}chi", name="chi")
    motor.wait_for_connection(all_signals=True, timeout=20)
    motor.velocity.put(100.0, wait=True)
    yield motor
    # by put completion: to ophyd, a late report of the test's own motion would end this one too
    client.send("chi.SPMG", "Go")
    client.send("chi.STOP", 1)
    client.put("chi", 0.0)
    client.put("chi.VELO", 10.0)


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


@pytest.mark.parametrize(("target", "moving"), [(5.0, 1025), (-5.0, 1024)])
def test_a_move_reports_in_the_order_of_the_real_record(motor, client, wait_until, target, moving):
    motor.set(0.0).wait(20)

    with client.watch("chi.DMOV", "chi.VAL", "chi.MSTA", "chi.MOVN") as seen:
        client.put("chi", target)
        wait_until(lambda: ("chi.DMOV", "1") in seen)

    short = [(name.removeprefix("chi."), float(text)) for name, text in seen]
    assert short == [
        ("DMOV", 0), ("VAL", target), ("MSTA", 0), ("MSTA", moving), ("MOVN", 1),
        ("MSTA", 2), ("MOVN", 0), ("DMOV", 1),
    ]  # fmt: skip


# with PVs of the form that ophyd asks for, so in another process
STAMPS = """
import time
from epics import PV

events = {"DMOV": [], "RBV": []}

def note(value=0.0, timestamp=0.0, pvname="", **_):
    events[pvname.rpartition(".")[2]].append((value, timestamp))

pvs = [PV(f"{prefix}chi.{field}", form="time", callback=note) for field in events]
speed = PV(f"{prefix}chi.VELO", form="time", auto_monitor=False)
limit = time.monotonic() + 20
while not all(events.values()):
    assert time.monotonic() < limit
    time.sleep(0.01)
for seen in events.values():
    seen.clear()
speed.wait_for_connection(timeout=10)
before = speed.get_with_metadata(use_monitor=False)["timestamp"]
caput(f"{prefix}chi.VELO", 20.0, wait=True)  # does not make the record process
time.sleep(0.5)
put_at = time.time()
caput(f"{prefix}chi", 3.0, wait=True)
while not events["DMOV"] or not events["DMOV"][-1][0]:
    assert time.monotonic() < limit
    time.sleep(0.01)
print(json.dumps({"before": before, "put_at": put_at, **events}))
"""


def test_the_event_of_dmov_has_the_stamp_of_the_processing_before(motor, ioc, elsewhere):
    motor.set(0.0).wait(20)

    found = elsewhere(ioc, f"prefix = {ioc['prefix']!r}\n{STAMPS}")

    put_at = found["put_at"] + MOTOR_CLOCK
    began, *_, ended = found["DMOV"]
    assert began == [0, pytest.approx(found["before"], abs=1e-3)]
    assert found["before"] < put_at - 0.4
    assert all(stamp >= put_at - 1e-3 for _, stamp in found["RBV"])
    assert ended == [1, pytest.approx(found["RBV"][-1][1], abs=1e-6)]


@pytest.mark.parametrize("field", ["RBV", "TDIR", "MSTA", "MOVN", "DRBV", "RRBV", "DMOV", "MISS",
                                   "RCNT", "ATHM", "LVIO", "DIFF"])  # fmt: skip
def test_what_the_record_tells_cannot_be_written(motor, client, field):
    from epics import PV

    pv = PV(f"{client.prefix}chi.{field}", auto_monitor=False, form="native")
    assert pv.wait_for_connection(timeout=10)

    assert pv.read_access
    assert not pv.write_access


def test_a_stop_leaves_pending_what_was_asked_for_while_spmg_was_stop(motor, client, wait_until):
    motor.set(0.0).wait(20)
    client.put("chi.SPMG", "Stop")
    completed = client.start("chi", 4.0)
    wait_until(lambda: client.get("chi.DMOV") == 0)

    client.send("chi.STOP", 1)
    time.sleep(0.3)
    assert client.get("chi.VAL") == 4.0
    assert client.get("chi.DMOV") == 0
    client.send("chi.SPMG", "Go")
    wait_until(completed)

    assert client.get("chi.RBV") == pytest.approx(4.0)


def test_a_tweak_is_a_step_and_its_button_comes_back(motor, client):
    motor.set(2.0).wait(20)
    client.put("chi.TWV", 0.5)

    client.put("chi.TWF", 1)
    assert client.get("chi") == 2.5
    client.put("chi.TWR", 1)

    assert client.get("chi.RBV") == pytest.approx(2.0)
    assert client.get("chi.TWF") == client.get("chi.TWR") == 0


def test_stop_slows_down_and_takes_the_place_reached_as_the_demand(motor, client, wait_until):
    client.put("chi.VELO", 10.0)
    completed = client.start("chi", 90.0)
    wait_until(lambda: client.get("chi.RBV") > 2.0)
    assert client.get("chi.MSTA") == 1025

    client.send("chi.STOP", 1)
    wait_until(completed)

    assert client.get("chi.STOP") == 0
    assert client.get("chi.DMOV") == 1
    assert client.get("chi.MSTA") == 2
    assert 2.0 < client.get("chi.RBV") < 80.0
    assert client.get("chi.VAL") == pytest.approx(client.get("chi.RBV"))


def test_pause_stops_without_being_done_and_go_resumes(motor, client, wait_until):
    completed = client.start("chi", 60.0)
    wait_until(lambda: client.get("chi.RBV") > 1.0)

    with client.watch("chi.DMOV") as seen:
        client.send("chi.SPMG", "Pause")
        wait_until(lambda: client.get("chi.MOVN") == 0)
        assert client.get("chi.DMOV") == 0
        assert client.get("chi.RBV") < 60.0
        assert client.get("chi.VAL") == 60.0
        assert not completed()
        client.send("chi.SPMG", "Go")
        wait_until(lambda: client.get("chi.DMOV") == 1)
    wait_until(completed)

    assert ("chi.DMOV", "1") not in seen[:-1]
    assert client.get("chi.RBV") == pytest.approx(60.0)


def test_stop_ends_a_pause(motor, client, wait_until):
    completed = client.start("chi", 60.0)
    wait_until(lambda: client.get("chi.RBV") > 1.0)
    client.send("chi.SPMG", "Pause")

    client.send("chi.STOP", 1)
    wait_until(completed)
    client.send("chi.SPMG", "Go")

    assert client.get("chi.DMOV") == 1
    assert client.get("chi.VAL") == pytest.approx(client.get("chi.RBV"))


def test_with_spmg_at_stop_a_put_hangs_until_go(motor, client, wait_until):
    before = client.get("chi.RBV")
    client.send("chi.SPMG", "Stop")
    completed = client.start("chi", before + 5.0)
    wait_until(lambda: client.get("chi.DMOV") == 0)
    time.sleep(0.3)
    assert client.get("chi.RBV") == before
    assert not completed()

    client.send("chi.SPMG", "Go")
    wait_until(completed)

    assert client.get("chi.RBV") == pytest.approx(before + 5.0)


def test_the_detector_stages_are_in_mm_and_move_what_the_panel_sees(client, camera, tmp_path):
    import fabio

    assert client.text("detx.EGU") == "mm"
    assert client.text("dety.EGU") == "mm"
    camera(2)
    client.put("cam1:Acquire", 1)
    client.put("detx", 5.0)
    client.put("cam1:FileName", "y")
    client.put("cam1:Acquire", 1)
    client.put("detx", 0.0)

    # the shadow of the beamstop, around column 48, moves by 5 mm / 0.172 mm
    before, after = (fabio.open(str(tmp_path / f"{name}_000.cbf")).data for name in "xy")
    here, there = np.s_[98:105, 45:52], np.s_[98:105, 74:81]
    assert before[here].max() <= 0 < before[there].max()
    assert after[there].max() <= 0 < after[here].max()


def test_the_attenuator_takes_a_part_of_the_beam(client, camera):
    camera(4)
    counts = {}
    for transmission in (1.0, 0.25):
        client.put("atten:transmission", transmission)
        client.put("mcs:EraseStart", 1)
        client.put("cam1:FileName", f"t{100 * transmission:.0f}")
        client.put("cam1:Acquire", 1)
        counts[transmission] = client.get("mcs:mca1").mean()
    client.put("atten:transmission", 7.0)

    assert counts[0.25] / counts[1.0] == pytest.approx(0.25, rel=0.05)
    assert client.get("atten:transmission_RBV") == 1.0
    client.put("atten:transmission", 1.0)
    client.put("mcs:StopAll", 1)


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


def test_the_lakeshore_drives_the_same_sample(client, wait_until):
    client.put("ls:OnRamp1", "ON")
    client.put("ls:RampR1", 100.0)

    client.put("ls:OUT1:SP", 200.0)
    wait_until(lambda: client.get("ls:OUT1:SP_RBV") == 200.0)
    wait_until(lambda: abs(client.get("sim:sample_temperature") - 200.0) < 0.1)

    assert client.get("ls:IN1") == pytest.approx(200.0, abs=0.3)
    assert client.get("cryo:TEMP") == pytest.approx(200.0, abs=0.3)
    assert client.get("ls:RampR1_RBV") == 100.0
    client.put("ls:OUT1:SP", 500.0)
    assert client.get("ls:OUT1:SP") == 200.0
    assert "500 K is outside 1.4 to 420 K" in client.text("sim:message")
    client.put("ls:HTR1:Range", "OFF")
    client.put("ls:OUT1:SP", 210.0)
    assert client.get("ls:OUT1:SP_RBV") == pytest.approx(200.0)
    client.put("ls:HTR1:Range", "HIGH")


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


def test_a_dump_of_some_seconds_ends_by_itself(client, wait_until):
    client.put("sim:dump", 0.6)
    assert client.get("ring:current") == 0.0
    assert client.text("ring:dump") == "Lost"

    wait_until(lambda: client.get("ring:current") > 100.0)

    assert client.text("ring:dump") == "Beam"


def test_a_silent_ioc_answers_nothing_and_then_everything(client, wait_until):
    before = client.get("cryo:TEMP")
    assert before is not None

    client.start("sim:silent", 1.0)
    time.sleep(0.1)
    began = time.monotonic()
    answer = client.get("ring:current")

    assert 0.5 < time.monotonic() - began < 4.0
    assert answer > 100.0


def test_an_encoder_jitters_and_so_do_the_angles_of_position_compare(client, camera, wait_until):
    client.put("sim:jitter", 0.05)
    readings = []
    for _ in range(10):
        client.put("chi", 1.0 + len(readings) / 100)
        readings.append(client.get("chi.RBV") - client.get("chi.VAL"))
    camera(5, period=0.1)
    client.put("phi.VELO", 20.0)
    client.put("phi", 0.0)
    client.put("phi.VELO", 5.0)
    for name, value in {"compare_start": 2.0, "compare_step": 0.5}.items():
        client.put(f"sim:{name}", value)
    client.put("cam1:TriggerMode", "Mult. Trigger")
    completed = client.start("cam1:Acquire", 1)
    wait_until(lambda: client.get("cam1:Armed") == 1)
    client.put("phi", 5.0)
    wait_until(completed)
    angles = client.get("sim:angles")
    client.put("cam1:TriggerMode", 0)
    client.put("sim:jitter", 0.0)
    client.put("phi.VELO", 20.0)
    client.put("chi", 0.0)

    assert 0.01 < max(abs(reading) for reading in readings) < 0.5
    errors = np.abs(angles - (2.0 + 0.5 * np.arange(5)))
    assert 0.001 < errors.max() < 0.5


def test_a_sensor_sticks_a_ramp_overshoots_and_readings_are_noisy(client, wait_until):
    def readings(seconds: float) -> list[float]:
        found, began = [], time.monotonic()
        while time.monotonic() - began < seconds:
            found.append(client.get("cryo:TEMP"))
            time.sleep(0.05)
        return found

    client.put("sim:stuck", 2.0)
    time.sleep(0.3)  # an earlier reading may still be shown
    stuck = set(readings(0.6))
    client.put("sim:noise", 2.0)
    wait_until(lambda: client.get("cryo:TEMP") not in stuck)
    noisy = np.std(readings(1.5))
    client.put("sim:noise", 0.0)
    start = client.get("cryo:SETPOINT")
    usual = client.get("sim:acceleration")
    client.put("sim:acceleration", 60.0)  # else it is over between two readings
    client.put("sim:overshoot", 5.0)
    client.put("ls:OnRamp1", "OFF")
    client.put("ls:OUT1:SP", start - 10.0)
    wait_until(lambda: client.get("sim:sample_temperature") < start - 12.0)
    wait_until(lambda: abs(client.get("sim:sample_temperature") - start + 10.0) < 0.1)

    client.put("sim:acceleration", usual)
    client.put("sim:noise", 0.02)
    assert len(stuck) == 1
    assert noisy > 0.5
