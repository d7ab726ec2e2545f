"""While the beam is away plans wait; what cannot be repeated is finished first."""

from __future__ import annotations

import threading
import time

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
import pytest

from offbragg.beamline.run_engine import install_suspender
from offbragg.errors import ConfigError
from offbragg.plans import rotation_scan, temperature_series
from offbragg.plans.beam import BeamSuspender
from offbragg.sweep import Sweep

pytestmark = pytest.mark.ioc

SWEEP = Sweep(axis="phi", start=0.0, step=0.2, n_frames=25, exposure=0.09, period=0.1)


@pytest.fixture
def ring(devices, ioc):
    """Lose the beam, or bring it back; gives when it is seen."""
    from epics import caput

    current = devices["ring"].current

    def dump(lost: bool) -> None:
        assert caput(f"{ioc['prefix']}ring:dump", int(lost), wait=True, timeout=5) == 1
        until(lambda: (current.get() < 10.0) == lost)

    dump(False)
    yield dump
    dump(False)


@pytest.fixture
def suspender(RE, config, devices, ring):
    suspender = install_suspender(RE, config, devices)
    yield suspender
    RE.remove_suspender(suspender)
    devices["shutter"].set("closed").wait(10)


def until(condition, timeout=20.0):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Meanwhile(threading.Thread):
    """Do something beside a plan; what goes wrong there is raised at the end."""

    def __init__(self, work, ring):
        super().__init__(daemon=True)
        self.work, self.ring, self.error = work, ring, None
        self.start()

    def run(self):
        try:
            self.work()
        except BaseException as error:
            self.error = error
            self.ring(False)  # or the plan would wait for ever

    def end(self):
        self.join(60)
        if self.error is not None:
            raise self.error


def primary(documents):
    """Events of the stream "primary"."""
    streams = {doc["uid"] for doc in documents.of("descriptor") if doc["name"] == "primary"}
    return [doc for doc in documents.of("event") if doc["descriptor"] in streams]


def waits(RE) -> bool:
    """Whether the RunEngine is at a message that waits for beam."""
    return RE.state == "running" and last(RE) == "wait_for"


def last(RE) -> str:
    return getattr(RE, "last_command", "")


@pytest.fixture(autouse=True)
def last_command(RE):
    RE.msg_hook = lambda msg: setattr(RE, "last_command", msg.command)


def test_a_scan_without_a_permit_waits_with_the_shutter_closed(
    RE, devices, documents, suspender, ring
):
    shutter = devices["shutter"]
    shutter.set("open").wait(10)
    seen = {}

    def work():
        until(lambda: len(primary(documents)) >= 4)
        ring(True)
        until(lambda: waits(RE))
        seen["shutter"] = shutter.is_open
        seen["events"] = len(primary(documents))
        time.sleep(0.5)
        seen["later"] = len(primary(documents))
        ring(False)

    beside = Meanwhile(work, ring)
    RE(bp.count([devices["ring"], devices["attenuator"]], num=15, delay=0.1))
    beside.end()

    assert seen["shutter"] is False
    assert seen["events"] == seen["later"]
    assert shutter.is_open, "it was open before"
    assert documents.stop()["exit_status"] == "success"
    assert documents.stop()["num_events"]["primary"] == 15
    currents = [doc["data"]["ring_current"] for doc in primary(documents)]
    assert min(currents) > 10.0


def test_a_detector_scan_goes_on_at_the_point_that_it_lost(
    RE, devices, documents, suspender, ring, config
):
    twin = devices["pilatus"].step
    twin.exposure.put(0.5)

    def work():
        until(lambda: twin.cam.acquire.get() and twin.get_index() >= 1)
        ring(True)
        until(lambda: waits(RE))
        ring(False)

    beside = Meanwhile(work, ring)
    RE(bp.scan([twin], devices["chi"], 0.0, 1.0, 3))
    beside.end()

    assert documents.stop()["exit_status"] == "success"
    assert documents.stop()["num_events"]["primary"] == 3
    points = [doc["data"]["chi"] for doc in primary(documents)]
    np.testing.assert_allclose(points, [0.0, 0.5, 1.0], atol=1e-3)


def test_a_sweep_on_its_way_is_finished_and_what_follows_waits(
    RE, devices, documents, suspender, ring
):
    pilatus, shutter = devices["pilatus"], devices["shutter"]
    seen = {}

    def work():
        until(lambda: pilatus.flying and pilatus.get_index() >= 5)
        ring(True)
        until(lambda: documents.of("stop"))
        until(lambda: waits(RE))
        seen.update(stop=documents.stop(), runs=len(documents.of("start")), open=shutter.is_open)
        ring(False)

    def two():
        yield from rotation_scan(pilatus, devices["phi"], SWEEP, shutter=shutter)
        yield from rotation_scan(pilatus, devices["phi"], SWEEP, shutter=shutter)

    beside = Meanwhile(work, ring)
    RE(two())
    beside.end()

    assert seen["stop"]["exit_status"] == "success"
    assert seen["stop"]["num_events"]["primary"] == 25
    assert (seen["runs"], seen["open"]) == (1, False)
    assert [doc["exit_status"] for doc in documents.of("stop")] == ["success"] * 2
    # the last sweep has nothing behind it: no one waits
    late = Meanwhile(lambda: (until(lambda: pilatus.flying and pilatus.get_index() >= 5),
                              ring(True)), ring)  # fmt: skip
    RE(rotation_scan(pilatus, devices["phi"], SWEEP, shutter=shutter))
    late.end()


@pytest.mark.slow  # a sweep waits the same way above
def test_a_series_without_a_permit_waits_between_its_sweeps(
    RE, devices, documents, suspender, ring
):
    pilatus, cryostream = devices["pilatus"], devices["cryostream"]
    seen = {}

    def work():
        until(lambda: pilatus.flying and pilatus.get_index() >= 5)
        ring(True)
        until(lambda: documents.of("stop") and waits(RE))
        seen.update(
            runs=len(documents.of("start")), open=devices["shutter"].is_open,
            setpoint=cryostream.setpoint.get(), flying=pilatus.flying, moving=devices["phi"].moving,
        )  # fmt: skip
        ring(False)

    beside = Meanwhile(work, ring)
    RE(
        temperature_series(
            pilatus, devices["phi"], cryostream, [291.0], [SWEEP, SWEEP],
            shutter=devices["shutter"],
        )
    )  # fmt: skip
    beside.end()

    assert seen == {
        "runs": 1, "open": False, "setpoint": 291.0, "flying": False, "moving": False,
    }  # fmt: skip
    assert [doc["num_events"]["primary"] for doc in documents.of("stop")] == [25, 25]


def test_a_top_up_suspends_nothing(RE, ioc, devices, documents, suspender):
    from epics import caput

    asked = []
    RE.request_suspend = lambda *args, **kwargs: asked.append(args)
    assert caput(f"{ioc['prefix']}ring:lifetime", 0.02, wait=True, timeout=5) == 1
    try:
        RE(bp.count([devices["ring"]], num=12, delay=0.1))
    finally:
        caput(f"{ioc['prefix']}ring:lifetime", 8.0, wait=True, timeout=5)

    currents = documents.rows("ring_current")
    assert max(np.diff(currents)) > 0.1, "there was no top-up"
    assert asked == []


def test_a_plan_that_begins_without_beam_waits_and_an_abort_ends_the_waiting(
    RE, documents, suspender, ring
):
    from bluesky.utils import RunEngineInterrupted

    ring(True)
    until(lambda: suspender.tripped)

    def work():
        until(lambda: waits(RE))
        RE.abort("enough")

    beside = Meanwhile(work, ring)
    with pytest.raises(RunEngineInterrupted):
        RE(bp.count([], num=1))
    beside.end()
    assert documents == []

    ring(False)
    RE(bps.null())


def test_a_threshold_to_resume_below_that_to_suspend_is_refused(config, devices):
    with pytest.raises(ConfigError, match="resume 5 is less than below 10"):
        BeamSuspender(devices["ring"].current, 10.0, resume=5.0)
