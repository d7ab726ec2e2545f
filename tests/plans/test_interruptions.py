"""Pause, resume, abort and stop at any moment leave everything safe and the documents valid."""

from __future__ import annotations

import random
import threading
import time
from itertools import pairwise

import pytest
from bluesky.utils import RunEngineInterrupted
from event_model import DocumentNames, schema_validators
from runs import wait_until

from offbragg.devices.acquisition import is_idle
from offbragg.errors import OffbraggError
from offbragg.plans import rotation_scan
from offbragg.sweep import Sweep

pytestmark = pytest.mark.ioc

SWEEP = Sweep(axis="phi", start=0.0, step=0.2, n_frames=20, exposure=0.09, period=0.1)
LENGTH = 4.5  # s, from the first message to the last

ENDS = {
    "pause, then resume": lambda RE: RE.resume(),
    "pause, then abort": lambda RE: RE.abort("enough"),
    "pause, then stop": lambda RE: RE.stop(),
    "abort": None,
    "stop": None,
    "deferred pause": lambda RE: RE.resume(),
}


def interrupt(RE, how: str, after: float) -> threading.Thread:
    """Interrupt a RunEngine from another thread, as a Ctrl-C or a button does."""

    def wait_and_do():
        time.sleep(after)
        if RE.state != "running":
            return  # it was faster
        match how:
            case "abort":
                RE.abort("enough")
            case "stop":
                RE.stop()
            case _:
                RE.request_pause(defer=how.startswith("deferred"))

    thread = threading.Thread(target=wait_and_do)
    thread.start()
    return thread


def measure(RE, devices, how: str, after: float) -> str:
    """Measure one sweep that is interrupted; give how it ended."""
    plan = rotation_scan(
        devices["pilatus"], devices["phi"], SWEEP, flyers=[devices["monitor"]],
        shutter=devices["shutter"],
    )  # fmt: skip
    thread = interrupt(RE, how, after)
    try:
        RE(plan)
        ended = "done"
    except RunEngineInterrupted:
        ended = "interrupted"
    except OffbraggError as error:
        ended = str(error)
    thread.join()
    if RE.state == "paused":
        assert devices["shutter"].command.get() == 0, "the shutter is open while no one measures"
        assert not devices["pilatus"].flying
        try:
            ENDS[how](RE)
            ended = "ended after a pause"
        except RunEngineInterrupted:
            ended = "interrupted"
        except OffbraggError as error:
            ended = str(error)
    assert RE.state == "idle"
    return ended


def assert_safe(devices, speed: float) -> None:
    """Detector idle, axis at rest with its own speed, shutter closed."""
    pilatus, phi, shutter = devices["pilatus"], devices["phi"], devices["shutter"]
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and (not is_idle(pilatus.cam) or phi.moving):
        time.sleep(0.05)
    assert is_idle(pilatus.cam), "the detector was left acquiring"
    assert not phi.moving
    assert phi.velocity.get(use_monitor=False) == speed, "the axis keeps the speed of the sweep"
    assert shutter.state.get() == 0, "the shutter was left open"


def assert_valid(documents) -> None:
    """Each document fits its schema; each run that began has one end, and nothing after it."""
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)
    starts = [doc["uid"] for doc in documents.of("start")]
    assert [doc["run_start"] for doc in documents.of("stop")] == starts
    if starts:
        assert documents[-1][0] == "stop"
    for before, after in pairwise(documents.of("stream_datum")):
        if before["stream_resource"] == after["stream_resource"]:  # else of the next run
            assert before["indices"]["stop"] == after["indices"]["start"]


def check(RE, devices, documents, how: str, after: float) -> None:
    speed = devices["phi"].velocity.get(use_monitor=False)

    ended = measure(RE, devices, how, after)

    where = f"{how} after {after:.2f} s: {ended}"
    try:
        assert_safe(devices, speed)
        assert_valid(documents)
    except AssertionError as error:
        raise AssertionError(f"{where}: {error}") from error
    if ended == "done":
        assert documents.stop()["exit_status"] == "success", where
    elif how.endswith("abort") and documents:
        assert documents.stop()["exit_status"] == "abort", where
    # and the next sweep is none the worse for it
    documents.clear()


@pytest.mark.parametrize(
    ("how", "after"),
    [("pause, then resume", 2.0), ("pause, then abort", 0.7), ("stop", 2.6)],
)
def test_an_interruption_leaves_everything_safe(RE, devices, documents, how, after):
    check(RE, devices, documents, how, after)


@pytest.mark.parametrize(
    "after", [2.0, *(pytest.param(after, marks=pytest.mark.slow) for after in (0.5, 6.0))]
)
def test_instruments_that_are_away_for_five_seconds(RE, devices, documents, simulator, after):
    """The connections are gone; detector and axis go on, and so do the frames."""
    sweep = Sweep(axis="phi", start=0.0, step=0.1, n_frames=80, exposure=0.09, period=0.1)
    speed = devices["phi"].velocity.get(use_monitor=False)
    leave = threading.Timer(after, lambda: simulator("away", 5.0))
    leave.start()

    try:
        RE(
            rotation_scan(
                devices["pilatus"], devices["phi"], sweep, flyers=[devices["monitor"]],
                shutter=devices["shutter"],
            )
        )  # fmt: skip
        done = True
    except Exception:  # until the crystal turns, whatever is asked something says so
        done = False
    leave.join()
    wait_until(lambda: all(device.connected for device in devices.values()), 30, "connections")

    assert_safe(devices, speed)
    assert_valid(documents)
    if done:
        assert documents.of("stream_datum")[-1]["indices"]["stop"] == 80
    elif documents:
        assert documents.stop()["exit_status"] == "fail"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", ENDS)
def test_twenty_interruptions_at_random_moments(RE, devices, documents, how):
    moments = random.Random(how)
    for _ in range(20):
        check(RE, devices, documents, how, moments.uniform(0.0, LENGTH))
    RE(rotation_scan(devices["pilatus"], devices["phi"], SWEEP, shutter=devices["shutter"]))
    assert documents.stop()["exit_status"] == "success"
    assert documents.stop()["num_events"]["primary"] == 20
