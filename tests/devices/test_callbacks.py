"""Sweeps faster than the IOC reads: it reads none of their frames, and all of what comes after."""

from __future__ import annotations

import bluesky.plans as bp
import pytest
from runs import wait_until

from offbragg.plans import expose
from offbragg.sweep import Sweep

pytestmark = pytest.mark.ioc


@pytest.fixture
def pilatus(devices, monkeypatch):
    """A detector whose IOC reads up to 5 Hz."""
    device = devices["pilatus"]
    monkeypatch.setattr(device, "callbacks_up_to", 5.0)
    yield device
    device.cam.callbacks.put(1)
    wait_until(lambda: device.cam.callbacks.get(use_monitor=False) == 1, 10, "callbacks are on")


@pytest.fixture
def read_by_ioc(RE, pilatus, documents):
    """Take frames; returns how many of them the IOC has read."""

    def take(rate, n=3):
        before = counter(pilatus)
        RE(expose(pilatus, n, 0.5 / rate, period=1.0 / rate))
        assert documents.stop()["exit_status"] == "success"
        assert documents.stop()["num_events"]["primary"] == n
        return counter(pilatus) - before

    return take


def counter(pilatus):
    from epics import caget

    return int(caget(f"{pilatus.prefix}ArrayCounter_RBV", use_monitor=False))


def callbacks(pilatus):
    return int(pilatus.cam.callbacks.get(use_monitor=False))


def test_a_fast_sweep_is_not_read_by_the_ioc_and_the_next_slow_one_is(read_by_ioc, pilatus):
    assert read_by_ioc(10.0) == 0
    assert callbacks(pilatus) == 1

    assert read_by_ioc(5.0) == 3


def test_callbacks_that_somebody_had_off_stay_off_after_a_fast_sweep(read_by_ioc, pilatus):
    pilatus.cam.callbacks.put(0, wait=True)

    assert read_by_ioc(10.0) == 0

    assert callbacks(pilatus) == 0


def test_frames_that_are_looked_at_are_always_read(RE, pilatus, devices):
    pilatus.cam.callbacks.put(0, wait=True)

    RE(bp.count([pilatus.step]))

    assert callbacks(pilatus) == 1
    pilatus.cam.callbacks.put(0, wait=True)

    pilatus.prime().wait(30)

    assert callbacks(pilatus) == 1


def test_a_sweep_that_waits_for_pulses_is_read_at_any_rate(pilatus):
    # without reading, the driver gives up 10 s after the duration, though no pulse has come
    pilatus.trigger_mode = "ext_trigger"
    try:
        pilatus.prepare(
            Sweep(axis="phi", start=0.0, step=0.1, n_frames=3, exposure=0.05, period=0.1)
        ).wait(30)

        assert callbacks(pilatus) == 1
    finally:
        pilatus.unstage().wait(30)
        pilatus.trigger_mode = "internal"


def test_an_abort_of_a_fast_sweep_puts_the_callbacks_on_again(pilatus):
    pilatus.prepare(
        Sweep(axis="phi", start=0.0, step=0.1, n_frames=100, exposure=0.05, period=0.1)
    ).wait(30)
    pilatus.kickoff().wait(30)
    assert callbacks(pilatus) == 0

    pilatus.stop()
    pilatus.unstage().wait(30)

    assert callbacks(pilatus) == 1
