"""A set point that somebody else changes during a run is in the run's stop document."""

from __future__ import annotations

import threading
from functools import partial
from types import SimpleNamespace

import bluesky.plan_stubs as bps
import pytest
from bluesky import RunEngine
from ophyd import Signal
from ophyd.status import Status
from runs import wait_until

from offbragg.callbacks.progress import describe_run
from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker
from offbragg.plans import rotation_scan
from offbragg.plans.meddling import noting_others
from offbragg.recovery.verify import scan_file_of_run, verify
from offbragg.shell.runs_table import list_runs
from offbragg.sweep import Sweep

SWEEP = Sweep(axis="phi", start=0.0, step=0.2, n_frames=30, exposure=0.09, period=0.1)


class Motor:
    def __init__(self, name: str) -> None:
        self.name = name
        self.user_setpoint = Signal(name=f"{name}_user_setpoint", value=0.0)

    def set(self, value):
        self.user_setpoint.put(value)
        status = Status()
        status.set_finished()
        return status


class Heater:
    name = "heater"
    asked: float | None = 100.0

    def __init__(self) -> None:
        self.asked_signal = Signal(name="heater_target", value=100.0)

    @property
    def now(self) -> float | None:
        return self.asked_signal.get()

    def changed_by_others(self) -> str:
        if self.asked is None or self.now == self.asked:
            return ""
        return f"heater: its set point is {self.now:g} K, and {self.asked:g} K was asked for"

    def read_asked(self) -> float | None:
        return self.now


@pytest.fixture
def stop_after():
    """Run something in an open run with a motor and a heater; give the stop document."""
    chi, heater = Motor("chi"), Heater()

    def run(during, *, reason=""):
        RE = RunEngine({}, context_managers=[])
        RE.preprocessors.append(noting_others({"chi": chi, "heater": heater}))
        stops = []
        RE.subscribe(lambda _, doc: stops.append(doc), "stop")

        def plan():
            yield from bps.open_run()
            for step in during:
                if callable(step):
                    step()
                else:
                    yield from step
            yield from bps.close_run(exit_status="success", reason=reason)

        RE(plan())
        return stops[-1]

    return SimpleNamespace(run=run, chi=chi, heater=heater)


def test_a_motor_that_others_move_is_in_the_reason_with_both_numbers(stop_after, caplog):
    stop = stop_after.run([lambda: stop_after.chi.user_setpoint.put(12.5)], reason="angles as read")

    assert stop["exit_status"] == "success"
    assert stop["reason"] == (
        "angles as read; chi: its set point was 0 when the run began, and 12.5 later: somebody "
        "else has moved it"
    )
    assert "somebody else has moved it" in caplog.text  # as at the prompt


def test_a_temperature_that_others_change_is_in_the_reason_with_both_numbers(stop_after):
    stop = stop_after.run([lambda: stop_after.heater.asked_signal.put(150.0)])
    assert stop["reason"] == "heater: its set point is 150 K, and 100 K was asked for"

    stop_after.heater.asked = None  # no one asked for it in this session
    stop = stop_after.run([lambda: stop_after.heater.asked_signal.put(80.0)])
    assert "its set point was 150 K when the run began, and is 80 K at its end" in stop["reason"]


def test_what_the_plan_moves_itself_and_what_is_away_is_not_said(stop_after):
    stop = stop_after.run([bps.abs_set(stop_after.chi, 5.0, wait=True)])
    assert stop["reason"] == ""

    stop_after.heater.asked_signal = SimpleNamespace(get=lambda: None)
    stop_after.heater.asked = None
    stop_after.chi.user_setpoint.get = lambda: 1 / 0
    assert stop_after.run([])["reason"] == ""


@pytest.mark.parametrize("asked", [100.0, None])
def test_a_set_point_that_is_put_back_was_another_all_the_same(stop_after, asked):
    chi, heater = stop_after.chi.user_setpoint, stop_after.heater.asked_signal
    stop_after.heater.asked = asked

    def at_once():  # nobody looks in between
        for signal, there, back in ((chi, 12.5, 0.0), (heater, 105.0, 100.0)):
            signal.put(there)
            signal.put(back)

    stop = stop_after.run([at_once])

    assert stop["reason"] == (
        "chi: its set point was 0 when the run began, and 12.5 later: somebody else has moved it; "
        "heater: its set point was 100 K when the run began, and 105 K later: somebody else has "
        "changed it and put it back"
    )
    assert stop_after.run([])["reason"] == ""  # that was another run


def test_a_controller_on_its_way_to_what_was_asked_for_is_not_others(stop_after):
    heater = stop_after.heater
    heater.asked = 120.0
    heater.changed_by_others = lambda: ""  # it has not shown 120 K yet

    stop = stop_after.run([lambda: heater.asked_signal.put(110.0), bps.null()])

    assert stop["reason"] == ""


def test_no_monitor_is_left_of_a_run_that_a_plan_left_open(stop_after):
    RE = RunEngine({}, context_managers=[])
    RE.preprocessors.append(noting_others({"chi": stop_after.chi, "heater": stop_after.heater}))

    RE(bps.open_run())
    RE(bps.null())

    for signal in (stop_after.chi.user_setpoint, stop_after.heater.asked_signal):
        assert not signal._callbacks["value"]


def test_what_a_stop_document_says_is_seen_at_the_prompt_in_runs_and_by_verify(run):
    reason = "chi: its set point was 0 when the run began, and 12.5 later: somebody else has moved"
    run.begin()
    run.write(*range(10))
    run.announce(10)
    stop = {
        "uid": "a-stop", "run_start": run.uid, "time": run.began + 1.0, "exit_status": "success",
        "reason": reason, "num_events": {"primary": 10},
    }  # fmt: skip
    run.journal("stop", stop)
    follow(run.journal_directory, [Stacker(run.experiment, late=run.late)], once=True)
    places = SimpleNamespace(journal=run.journal_directory, experiment=run.experiment)

    (row,) = runs = list_runs(SimpleNamespace(paths=places))

    assert row.remark == reason
    assert repr(runs).splitlines()[0].endswith("remark")
    assert repr(runs).splitlines()[1].endswith(reason)
    assert describe_run(run.start, stop).endswith(f"success · {reason}")
    path = scan_file_of_run(run.uid, journal=run.journal_directory, experiment=run.experiment)
    verdict = verify(path, journal=run.journal_directory)
    assert verdict.ok
    assert verdict.ended == f"success: {reason}"


@pytest.mark.ioc
@pytest.mark.parametrize("is_put_back", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_set_points_changed_during_a_sweep_are_in_its_stop_document(
    RE, devices, documents, is_put_back
):
    from epics import caput

    pilatus, chi, cryostream = devices["pilatus"], devices["chi"], devices["cryostream"]
    begin, kelvin = chi.position, cryostream.read_asked()
    asked, cryostream._asked = cryostream._asked, None  # whatever an earlier test asked for
    temperatures = [kelvin + 5.0, kelvin] if is_put_back else [kelvin + 5.0]

    def shows(there):
        return cryostream.read_asked() == there

    def meddle():
        wait_until(lambda: pilatus.flying and pilatus.get_index() >= 3, 60, "three frames")
        caput(f"{chi.prefix}.VAL", begin + 1.5, wait=True)
        caput(f"{chi.prefix}.VAL", begin, wait=True)  # back again: it was elsewhere all the same
        for there in temperatures:
            caput(cryostream.ramp_target.pvname, there, wait=True)
            caput(cryostream.ramp.pvname, 1, wait=True)
            wait_until(partial(shows, there), 20, f"the target {there:g} K")

    thread = threading.Thread(target=meddle)
    thread.start()
    try:
        RE(rotation_scan(pilatus, devices["phi"], SWEEP, shutter=devices["shutter"]))
    finally:
        thread.join()
        cryostream.set(kelvin).wait(120)
        cryostream._asked = asked

    stop = documents.stop()
    assert stop["exit_status"] == "success"
    assert f"chi: its set point was {begin:g} when the run began, and " in stop["reason"]
    later = "later: somebody else has changed it and put it back"
    how = later if is_put_back else "at its end: somebody else has changed it"
    assert f"{kelvin + 5:g} K {how}" in stop["reason"]


@pytest.mark.ioc
def test_the_headers_say_where_the_other_axes_stand(RE, devices, documents, config):
    from offbragg.files import read_frame

    pilatus, phi = devices["pilatus"], devices["phi"]
    phi.set(7.5).wait(60)
    try:
        RE(rotation_scan(pilatus, devices["omega"], Sweep("omega", 0.0, 0.2, 3, 0.09, 0.1)))
    finally:
        phi.set(0.0).wait(60)

    folder = config.paths.frames / documents.start()["uid"][:8]
    header = read_frame(next(iter(sorted(folder.glob("*.cbf")))), number=0).header
    assert header["phi"] == pytest.approx(7.5, abs=0.01)
    assert header["oscillation_axis"] == "OMEGA"
