"""Looking while centring, over Channel Access: TriggerMode Alignment, and how it ends."""

from __future__ import annotations

import time

import ophyd
import pytest
from bluesky.utils import RunEngineInterrupted
from runs import wait_until

from offbragg.devices.pilatus_align import ALIGNMENT
from offbragg.devices.pilatus_cam import TRIGGERS
from offbragg.errors import ConfigError, DeviceError, SweepError
from offbragg.files import read_frame
from offbragg.plans import align, expose

pytestmark = pytest.mark.ioc


@pytest.fixture
def looks(devices, config):
    """The detector as it is before and must be after: in pulse mode, 7 frames, shutter closed."""
    pilatus, shutter = devices["pilatus"], devices["shutter"]
    cam = pilatus.cam
    cam.trigger_mode.set(TRIGGERS["ext_trigger"]).wait(10)
    cam.n_frames.set(7).wait(10)
    yield pilatus
    assert not pilatus.alignment.looking
    assert cam.acquire.get(use_monitor=False) == 0
    assert cam.armed.get(use_monitor=False) == 0
    assert cam.trigger_mode.get(use_monitor=False) == TRIGGERS["ext_trigger"]
    assert cam.n_frames.get(use_monitor=False) == 7
    assert shutter.state.get(use_monitor=False) == 0


def when_it_looks(pilatus, devices, do):
    """Call ``do`` once two exposures have been seen."""

    began = time.time()

    def written():
        try:
            return pilatus.alignment.file.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def wait_and_do():
        wait_until(lambda: written() > began, 20, "the first exposure")
        first = written()
        wait_until(lambda: written() > first, 20, "the second exposure")
        assert devices["shutter"].state.get() == 1
        do()

    thread = ophyd.get_cl().thread_class(target=wait_and_do)  # one that may use Channel Access
    thread.start()
    return thread


def test_it_exposes_into_one_file_until_the_time_is_over(RE, looks, devices, documents, config):
    seen = when_it_looks(looks, devices, lambda: None)

    RE(align(looks, 1.5, 0.1, shutter=devices["shutter"]))
    seen.join()

    file = looks.alignment.file
    assert [path.name for path in file.parent.iterdir()] == ["alignment.tif"]
    assert read_frame(file, number=0).counts.shape == looks.shape
    assert documents == []  # nothing is recorded


def test_a_detector_that_waits_for_pulses_in_sweeps_looks_by_itself(
    RE, looks, devices, monkeypatch
):
    monkeypatch.setattr(looks, "trigger_mode", "ext_trigger")  # and no one gives any pulse
    thread = when_it_looks(looks, devices, lambda: None)

    RE(align(looks, 2.0, 0.1, shutter=devices["shutter"]))  # what `looks` asserts then: put back
    thread.join()

    assert looks.trigger_mode == "ext_trigger"
    RE(expose(looks, 2, 0.09, period=0.1))  # so does this
    assert looks.cam.trigger_mode.get(use_monitor=False) == TRIGGERS["ext_trigger"]
    looks.cam.n_frames.set(7).wait(10)


def test_an_abort_ends_it_and_the_next_series_is_whole(RE, looks, devices, documents):
    thread = when_it_looks(looks, devices, lambda: RE.abort("seen enough"))

    with pytest.raises(RunEngineInterrupted):
        RE(align(looks, 60.0, 0.1, shutter=devices["shutter"]))
    thread.join()

    assert not looks.alignment.looking
    usual = looks.cam.trigger_mode.get(), looks.cam.n_frames.get()
    RE(expose(looks, 3, 0.09, period=0.1))
    assert documents.stop()["num_events"]["primary"] == 3
    for signal, value in zip((looks.cam.trigger_mode, looks.cam.n_frames), usual, strict=True):
        signal.set(value).wait(10)


def test_a_pause_ends_it_and_resuming_looks_again(RE, looks, devices):
    thread = when_it_looks(looks, devices, RE.request_pause)
    with pytest.raises(RunEngineInterrupted):
        RE(align(looks, 1.5, 0.1, shutter=devices["shutter"]))
    thread.join()
    assert devices["shutter"].command.get() == 0
    wait_until(lambda: not looks.alignment.looking, 20, "end of the alignment")
    looks.alignment.file.unlink()

    RE.resume()

    assert looks.alignment.file.exists()


def test_a_camserver_that_is_gone_is_reported(RE, looks, devices, simulator):
    simulator("camserver", "Gone")
    try:
        with pytest.raises(DeviceError, match=r"alignment ended on its own after .*\nIs camserver"):
            RE(align(looks, 60.0, 0.1, shutter=devices["shutter"]))
    finally:
        simulator("camserver", "Running")


@pytest.mark.parametrize(
    ("seconds", "exposure", "named"),
    [
        (-1.0, 0.5, r"seconds is -1\.0: it must be above 0 s"),
        (float("inf"), 0.5, "seconds is inf"),
        (10.0, 0.0, r"exposure is 0\.0"),
    ],
)
def test_times_that_are_none_are_refused(RE, looks, devices, seconds, exposure, named):
    with pytest.raises(ConfigError, match=named):
        RE(align(looks, seconds, exposure, shutter=devices["shutter"]))


def test_what_cannot_look_is_refused(RE, devices):
    with pytest.raises(SweepError, match="detector is phi, which has no 'alignment'"):
        RE(align(devices["phi"]))


def test_a_detector_that_looks_does_nothing_else(RE, looks, devices, monkeypatch):
    status = looks.alignment.set(60.0, exposure=0.1)
    for plan in (align(looks, 10.0), expose(looks, 3, 0.09, period=0.1)):
        with pytest.raises(DeviceError, match="pilatus is busy: pilatus_alignment is on"):
            RE(plan)
    mode, state = looks.cam.trigger_mode, looks.cam.state
    # an error that an earlier test left is reset first, by a series that is aborted
    wait_until(lambda: mode.get(use_monitor=False) == ALIGNMENT, 20, "TriggerMode Alignment")
    wait_until(lambda: str(state.get(use_monitor=False)) == "Acquire", 20, "exposing")

    with monkeypatch.context() as patch:  # as another process sees it
        patch.setattr(looks.alignment, "_status", None)
        with pytest.raises(DeviceError, match=r"pilatus is busy: .*\n.* put 0 to SIM:cam1:Acquire"):
            RE(expose(looks, 3, 0.09, period=0.1))

    assert not status.done
    looks.alignment.set(0).wait(30)
    assert status.done
