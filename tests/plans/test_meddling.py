"""Somebody stops the axis or the detector in the middle of a sweep: the error says so."""

from __future__ import annotations

import re
import threading
from types import SimpleNamespace

import bluesky.plan_stubs as bps
import pytest
from bluesky import RunEngine
from bluesky.utils import FailedStatus
from ophyd.device import Staged
from ophyd.sim import make_fake_device
from ophyd.status import Status
from ophyd.utils.errors import DisconnectedError
from runs import wait_until

from offbragg.devices.goniometer import RotationAxis
from offbragg.errors import DeviceError
from offbragg.plans import rotation_scan
from offbragg.plans.rotation import _close_failed, record
from offbragg.sweep import Sweep

SWEEP = Sweep(axis="phi", start=0.0, step=0.2, n_frames=40, exposure=0.09, period=0.1)


@pytest.fixture
def meddle(RE, devices):
    """Measure a sweep in which a record is put after a few frames."""

    def measure(record, value):
        from epics import caput

        def put():
            pilatus = devices["pilatus"]
            wait_until(lambda: pilatus.flying and pilatus.get_index() >= 3, 60, "three frames")
            caput(record, value)

        thread = threading.Thread(target=put)
        thread.start()
        try:
            RE(rotation_scan(devices["pilatus"], devices["phi"], SWEEP, shutter=devices["shutter"]))
        finally:
            thread.join()

    return measure


@pytest.mark.ioc
def test_an_axis_that_somebody_stops_by_spmg_says_how_it_goes_on(meddle, devices, simulator):
    from epics import caput

    try:
        with pytest.raises(DeviceError, match=r"phi stopped at .*\n.*\.SPMG is Stop: .* put Go to"):
            meddle(f"{devices['phi'].prefix}.SPMG", "Stop")
    finally:
        caput(f"{devices['phi'].prefix}.SPMG", "Go", wait=True)

    assert devices["shutter"].state.get(use_monitor=False) == 0


@pytest.mark.ioc
def test_an_axis_that_somebody_stops_says_so(meddle, devices):
    with pytest.raises(DeviceError, match=r"phi stopped at .*\nDid somebody stop it"):
        meddle(f"{devices['phi'].prefix}.STOP", 1)


@pytest.mark.ioc
def test_a_detector_that_somebody_aborts_says_so(meddle, devices, documents):
    with pytest.raises(DeviceError, match=r"aborted by somebody else after \d+ of 40 frames"):
        meddle(f"{devices['pilatus'].prefix}Acquire", 0)

    n_frames = documents.stop()["num_events"]["primary"]
    assert 3 <= n_frames < 40


@pytest.mark.ioc
@pytest.mark.parametrize(
    ("name", "far", "record", "value", "message"),
    [
        ("phi", 60.0, "STOP", 1, r"phi did not reach 60 .*: somebody else stopped it"),
        ("detx", 20.0, "STOP", 1, r"detx did not reach 20 mm: somebody else stopped it"),
        ("phi", 60.0, "VAL", 3.0, r"sent it elsewhere \(SIM:phi\.VAL is 3\)"),
    ],
)
def test_a_motor_that_somebody_stops_on_its_way_has_not_arrived(
    RE, devices, name, far, record, value, message
):
    from epics import caput

    motor = devices[name]
    begin = motor.position

    def meddle():
        wait_until(lambda: abs(motor.position - begin) > 0.2, 20, "it moves")
        caput(f"{motor.prefix}.{record}", value)

    thread = threading.Thread(target=meddle)
    thread.start()
    try:
        with pytest.raises(FailedStatus) as caught:
            RE(bps.mv(motor, far))
    finally:
        thread.join()
        motor.set(begin).wait(60)

    assert isinstance(caught.value.__cause__, DeviceError)
    assert re.search(message, str(caught.value.__cause__))
    assert motor.position == pytest.approx(begin, abs=0.01)  # and the next move is one


@pytest.mark.ioc
def test_a_move_that_we_stop_ourselves_is_not_said_to_be_stopped_by_others(devices):
    motor = devices["chi"]
    status = motor.set(20.0)
    wait_until(lambda: motor.moving, 20, "it moves")

    motor.stop(success=True)

    status.wait(20)


def test_an_axis_whose_ioc_is_away_does_not_stay_staged(monkeypatch):
    kind = make_fake_device(RotationAxis)
    axis = kind("X:phi", name="phi")
    axis.stage()
    axis._usual_speed = 10.0  # in the middle of a sweep

    def away(**_):
        raise DisconnectedError("phi is not connected")

    monkeypatch.setattr(axis, "stop", away)
    axis.unstage()

    assert axis._staged is Staged.no


def test_a_sweep_with_an_instrument_that_is_away_is_refused_in_words(monkeypatch):
    monkeypatch.setattr("offbragg.plans.rotation._RECONNECTING", 0.1)
    detector = SimpleNamespace(name="pilatus", prefix="13PIL1:cam1:", connected=False)
    detector.prepare = None
    plan = record(detector, None, SWEEP, md={})

    with pytest.raises(DeviceError, match=r"^pilatus \(13PIL1:cam1:\): not connected"):
        RunEngine(context_managers=[])(plan)


def test_what_the_end_of_a_run_meets_with_does_not_hide_why_it_failed(caplog):
    plan = _close_failed("phi went away")
    assert next(plan).kwargs == {"exit_status": "fail", "reason": "phi went away"}

    with pytest.raises(StopIteration):
        plan.throw(TimeoutError("the baseline cannot be read"))

    assert "the baseline cannot be read" in caplog.text


def test_an_axis_whose_ioc_was_restarted_in_a_sweep_says_so(monkeypatch):
    kind = make_fake_device(RotationAxis)
    there = True
    monkeypatch.setattr(kind, "connected", property(lambda _: there))
    axis = kind("X:phi", name="phi")
    axis.mode.sim_put("Go")
    axis.user_setpoint.sim_set_limits((-100, 100))
    axis.user_readback.sim_put(4.0)
    axis.motor_done_move.sim_put(0)

    motion = axis.move(10.0, wait=False, timeout=60)
    there = False
    wait_until(lambda: axis._was_away, 20, "it is seen that the IOC is away")
    there = True
    axis.user_readback.sim_put(0.0)
    motion.set_finished()  # the first event after a restart is DMOV = 1
    wait_until(lambda: motion.done, 20, "the move has ended")
    axis._land(motion, SWEEP, landing := Status())

    wait_until(lambda: landing.done, 20, "it has landed")
    assert "its IOC (X:phi) went away during a move" in str(landing.exception())


@pytest.mark.ioc
def test_a_set_point_that_somebody_changes_while_it_settles_is_said_with_both_numbers(devices):
    from offbragg.devices.background import put

    cryostream = devices["cryostream"]
    begin = cryostream.position
    status = cryostream.set(begin - 40.0)
    wait_until(lambda: cryostream._shown, 20, "the controller shows what was asked for")
    try:
        put(cryostream.ramp_target, begin - 10.0)
        put(cryostream.ramp, 1)

        with pytest.raises(DeviceError) as caught:
            status.wait(30)
    finally:
        cryostream.set(begin).wait(120)

    message = str(caught.value)
    assert f"its set point is {begin - 10:g} K, and {begin - 40:g} K was asked for" in message
    assert "somebody else has changed it" in message
