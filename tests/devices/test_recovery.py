"""Every fault of the detector: how the sweep ends, that it is disarmed, and that the next is whole.

Frames that hang, camserver that stalls and an IOC in Error are in test_triggers.py; a lost beam is
in tests/plans/test_beam_loss.py.
"""

from __future__ import annotations

import json
import os
import shutil
import time

import ophyd
import pytest
from runs import wait_until

from offbragg.devices.goniometer import PositionCompare
from offbragg.errors import DeviceError
from offbragg.plans import expose, rotation_scan
from offbragg.sweep import Sweep

pytestmark = pytest.mark.ioc


def still(n=5, **changed):
    return Sweep(
        **{"axis": "phi", "start": 0.0, "step": 0.0, "n_frames": n, "exposure": 0.08,
           "period": 0.1, **changed}
    )  # fmt: skip


@pytest.fixture
def pilatus(devices, simulator, monkeypatch):
    """A detector that waits one second for a file; afterwards it must be disarmed."""
    device = devices["pilatus"]
    monkeypatch.setattr(device, "max_missing", 0)
    monkeypatch.setattr(device, "patience", 1.0)
    monkeypatch.setattr(device, "stall", 4.0)
    yield device
    simulator("camserver", "Running")
    for name in ("drop", "flip", "truncate", "duplicate", "resize", "late", "hiccup"):
        simulator(name, -1)
    simulator("no7ok", 0)
    busy = device.cam.acquire, device.cam.armed
    wait_until(
        lambda: not any(signal.get(use_monitor=False) for signal in busy), 20, "it is disarmed"
    )


@pytest.fixture
def take(RE, pilatus, documents):
    """Take frames with the crystal standing still: everything of a sweep but the axis."""

    def take(n=5):
        documents.clear()
        (uid,) = RE(expose(pilatus, n, 0.08, period=0.1))
        return uid

    return take


@pytest.fixture
def next_is_whole(take, documents, pilatus, config):
    """What must hold after whatever happened: the next sweep has all its frames."""

    def check(n=2):
        take(n)

        assert documents.stop()["exit_status"] == "success"
        assert documents.stop()["num_events"]["primary"] == n
        assert frames(documents, config) == list(range(n))

    return check


def frames(documents, config):
    (resource,) = documents.of("stream_resource")
    folder = config.paths.frames / resource["uri"].rstrip("/").rsplit("/", 1)[1]
    return sorted(int(path.stem[-5:]) for path in folder.iterdir())


def by_hand(pilatus, sweep, *, meddle=lambda: None, stem=""):
    """Fly without a plan, with something going wrong between prepare and kickoff."""
    pilatus.file_stem.put(stem)
    pilatus.prepare(sweep).wait(30)
    meddle()
    try:
        pilatus.kickoff().wait(30)
        pilatus.complete().wait(30)
    finally:
        pilatus.unstage().wait(30)
        pilatus.file_stem.put("")


# a frame's content is for the stacker to judge: the file is there, and is followed to the end
@pytest.mark.parametrize(
    ("fault", "file_format"),
    [
        *((fault, "cbf") for fault in ("flip", "truncate", "duplicate", "resize", "late")),
        pytest.param("truncate", "tif", marks=pytest.mark.slow),
        pytest.param("resize", "tif", marks=pytest.mark.slow),
    ],
)
def test_a_bad_frame_keeps_its_place_and_the_sweep_goes_on(
    take, next_is_whole, pilatus, documents, simulator, config, monkeypatch, fault, file_format
):
    monkeypatch.setattr(pilatus, "format", file_format)
    simulator("late_seconds", 0.5)
    simulator(fault, 2)

    take()

    assert documents.stop()["exit_status"] == "success"
    assert documents.stop()["num_events"]["primary"] == 5
    assert frames(documents, config) == [0, 1, 2, 3, 4]
    next_is_whole()


def test_a_frame_that_comes_too_late_is_missing_and_reported(
    take, next_is_whole, documents, simulator
):
    simulator("late_seconds", 3.0)
    simulator("late", 2)
    try:
        with pytest.raises(DeviceError, match=r"frame 2 of 5 did not come within 1 s"):
            take()
    finally:
        simulator("late_seconds", 2.0)

    assert "frame 2 of 5" in documents.stop()["reason"]
    next_is_whole()


@pytest.mark.parametrize("begins", [2, 11])
def test_a_hiccup_after_which_all_frames_come_fails_no_sweep(
    take, documents, simulator, config, begins
):
    simulator("late_seconds", 2.5)  # more than the patience, less than the stall
    simulator("hiccup", begins)
    try:
        take(14)
    finally:
        simulator("late_seconds", 2.0)

    assert documents.stop()["exit_status"] == "success"
    assert frames(documents, config) == list(range(14))
    assert documents.stop()["num_events"]["primary"] == 14


def test_after_a_missing_frame_the_next_sweep_is_whole(take, next_is_whole, documents, simulator):
    simulator("drop", 2)

    with pytest.raises(DeviceError, match=r"frame 2 of 5 did not come within 1 s of their time"):
        take()

    assert documents.stop()["exit_status"] == "fail"
    next_is_whole()


@pytest.mark.parametrize("n", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_a_series_without_its_7_ok_is_ended_with_all_frames(
    take, next_is_whole, documents, simulator, config, n
):
    simulator("no7ok", 1)

    take(n)

    assert documents.stop()["exit_status"] == "success"
    assert frames(documents, config) == list(range(n))
    next_is_whole()


def test_old_files_of_the_same_name_do_not_pass_for_new_ones(pilatus, config):
    stale = config.paths.frames / "again"
    for name in ("again", "again-2"):
        (config.paths.frames / name).mkdir()
    for number in range(3):
        (stale / f"again_{number:05d}.cbf").write_bytes(b"of another day")
        os.utime(stale / f"again_{number:05d}.cbf")

    by_hand(pilatus, still(3), stem="again")

    made = sorted(path.name for path in (config.paths.frames / "again-3").iterdir())
    assert made == [f"again-3_{number:05d}.cbf" for number in range(3)]
    assert {path.read_bytes() for path in stale.iterdir()} == {b"of another day"}
    for name in ("again", "again-2", "again-3"):
        shutil.rmtree(config.paths.frames / name)


def test_a_template_that_somebody_changed_is_reported_by_the_ioc(pilatus, next_is_whole):
    with pytest.raises(DeviceError, match=r"did not arm: .*Unsupported file extension"):
        by_hand(pilatus, still(), meddle=lambda: pilatus.cam.file_template.put("%s%s_%5.5d.raw"))

    next_is_whole()  # camserver has exposed on


def test_an_err_of_camserver_is_reported(pilatus, next_is_whole):
    """camserver refuses an exposure that leaves no time for the readout; the IOC waits for it."""

    def meddle():
        pilatus.cam.exposure.set(0.0999).wait(10)

    with pytest.raises(DeviceError, match=r"did not start: camserver answered '15 ERR Exposure"):
        by_hand(pilatus, still(), meddle=meddle)

    next_is_whole()


def test_a_camserver_that_is_gone_is_reported_until_it_is_back(
    take, next_is_whole, documents, simulator
):
    simulator("camserver", "Gone")
    for message in (
        "did not arm: .*Is camserver running",
        "cannot be reset: .*Is camserver running",
    ):
        with pytest.raises(DeviceError, match=f"(?s){message}"):
            take()
        assert documents.stop()["exit_status"] == "fail"

    simulator("camserver", "Running")

    next_is_whole(4)  # with one image, as a new camserver has it, there would be one frame


def test_a_camserver_that_goes_in_the_middle_of_a_sweep_is_reported(
    take, next_is_whole, pilatus, documents, simulator
):
    def leave():
        wait_until(lambda: pilatus.flying and pilatus.get_index() >= 2, 20, "two frames")
        simulator("camserver", "Gone")

    thread = ophyd.get_cl().thread_class(target=leave)
    thread.start()
    with pytest.raises(DeviceError, match=r"frames? \d+.* of 20 did not come within 1 s"):
        take(20)
    thread.join()

    simulator("camserver", "Running")
    next_is_whole(4)


def test_after_a_restart_of_camserver_parameters_are_put_again(
    take, next_is_whole, pilatus, simulator
):
    take(4)
    simulator("camserver", "Gone")
    simulator("camserver", "Running")
    assert pilatus.cam.n_frames.get(use_monitor=False) == 4  # it lies: camserver has 1

    next_is_whole(4)


def test_a_restart_between_prepare_and_kickoff_is_reported(pilatus, next_is_whole, simulator):
    def meddle():
        simulator("camserver", "Gone")
        simulator("camserver", "Running")

    with pytest.raises(DeviceError, match=r"of 4 did not come within 1 s"):
        by_hand(pilatus, still(4), meddle=meddle)

    next_is_whole(4)


def test_an_ioc_that_is_silent_for_a_while_loses_nothing(
    take, next_is_whole, pilatus, documents, ioc, config
):
    from epics import caput  # after ophyd, or it warns

    def silence():
        wait_until(lambda: pilatus.flying and pilatus.get_index() >= 2, 20, "two frames")
        # until after the sweep, and longer than ophyd waits for a read
        caput(f"{ioc['prefix']}sim:silent", 4.0, wait=False)

    thread = ophyd.get_cl().thread_class(target=silence)
    thread.start()
    take(10)
    thread.join()

    assert documents.stop()["exit_status"] == "success"
    assert frames(documents, config) == list(range(10))
    next_is_whole()


def test_jitter_of_the_encoder_is_in_the_angles_and_moves_no_frame(
    RE, pilatus, devices, documents, simulator, config
):
    compare = PositionCompare("SIM:sim:", name="compare")
    compare.wait_for_connection(all_signals=True, timeout=10)
    pilatus.trigger_mode = "mult_trigger"
    simulator("jitter", 0.02)
    turn = still(10, start=2.0, step=0.5)
    try:
        RE(rotation_scan(pilatus, devices["phi"], turn, flyers=[compare]))
    finally:
        simulator("jitter", 0.0)
        pilatus.trigger_mode = "internal"

    off = [read - asked for read, asked in zip(
        documents.rows("compare_angle"), turn.midpoints, strict=True)]  # fmt: skip
    assert frames(documents, config) == list(range(10))
    assert 0.002 < max(map(abs, off)) < 0.2
    assert documents.stop()["exit_status"] == "success"


@pytest.mark.slow  # the IOC itself waits 10 s for the 7 OK of a single frame
def test_a_single_frame_without_its_7_ok_is_reported(pilatus, next_is_whole, simulator):
    simulator("no7ok", 1)
    began = time.monotonic()

    with pytest.raises(DeviceError, match=r"took no frame: .* is Error"):
        pilatus.prime(0.05).wait(40)

    assert time.monotonic() - began < 20
    next_is_whole()


# -- states that others leave ------------------------------------------------------------------

REPEATS = [1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 11))]

STRANGE = {
    "TriggerMode": 4, "NumExposures": 4, "DelayTime": 0.05, "GapFill": 1, "AutoIncrement": 1,
    "FileTemplate": "%s%s_%3.3d.tif", "FilePath": "/nowhere", "FileNumber": 77, "NumImages": 3,
    "AcquirePeriod": 0.0,
}  # fmt: skip


def set_by_hand(name, value):
    from epics import caput

    assert caput(f"SIM:cam1:{name}", value, wait=True, timeout=10) == 1


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("names", [tuple(STRANGE), *((name,) for name in ("GapFill", "DelayTime"))])
def test_settings_that_somebody_left_do_not_reach_the_frames(
    pilatus, take, documents, config, caplog, names, repeat
):
    for name in names:
        set_by_hand(name, STRANGE[name])

    take(3)

    assert documents.stop()["exit_status"] == "success"
    assert frames(documents, config) == [0, 1, 2]
    cam = pilatus.cam
    settings = cam.n_exposures, cam.delay, cam.gap_fill, cam.trigger_mode
    assert [signal.get(use_monitor=False) for signal in settings] == [1, 0.0, 2, 0]
    for name in {"GapFill", "DelayTime"} & set(names):
        assert f"SIM:cam1:{name} was" in caplog.text
    (descriptor,) = (doc for doc in documents.of("descriptor") if doc["name"] == "primary")
    recorded = descriptor["configuration"]["pilatus"]["data"]
    assert (recorded["pilatus_cam_delay"], recorded["pilatus_cam_gap_fill"]) == (0.0, 2)


@pytest.fixture
def somebody(pilatus):
    """Start a series by hand that waits for a pulse; end it afterwards."""

    def start(path):
        set_by_hand("TriggerMode", 2)
        set_by_hand("FilePath", str(path))
        pilatus.cam.acquire.put(1)
        wait_until(lambda: pilatus.cam.armed.get(use_monitor=False), 20, "armed")

    yield start
    pilatus.abort()


@pytest.mark.parametrize("repeat", REPEATS)
@pytest.mark.parametrize("place", ["elsewhere", "in our own folder"])
def test_a_series_of_somebody_else_is_left_alone(
    pilatus, take, next_is_whole, somebody, config, tmp_path, place, repeat
):
    path = tmp_path if place == "elsewhere" else config.paths.frames
    somebody(path)

    with pytest.raises(DeviceError, match=rf"acquires for somebody else since \d\d:.*{path}"):
        take()

    assert pilatus.cam.armed.get(use_monitor=False)
    pilatus.abort()
    next_is_whole()


@pytest.mark.parametrize("repeat", REPEATS)
def test_a_series_that_a_dead_session_left_behind_is_aborted(
    pilatus, next_is_whole, somebody, config, caplog, repeat
):
    somebody(config.paths.frames)
    facts = {"host": "here", "process": 4711, "since": time.time()}
    pilatus._claim.path.write_text(json.dumps(facts))  # no one holds the lock on it

    next_is_whole()

    assert "still acquires for process 4711 on here, which has ended: it is aborted" in caplog.text


@pytest.mark.parametrize("repeat", REPEATS)
def test_a_threshold_that_is_being_set_is_waited_for(
    pilatus, next_is_whole, simulator, caplog, repeat
):
    simulator("threshold_seconds", 4.0)
    status = pilatus.cam.threshold.set(9.0)
    wait_until(lambda: pilatus.cam.state.get(use_monitor=False) == "Waiting", 20, "setting")

    next_is_whole()

    status.wait(30)
    simulator("threshold_seconds", 0.5)
    assert "Setting threshold" in caplog.text
    pilatus.cam.threshold.set(10.0).wait(30)


def test_bad_pixels_and_flat_field_of_the_ioc_are_recorded(pilatus, monkeypatch):
    cam = pilatus.cam
    for signal, value in (
        (cam.n_bad_pixels, 12), (cam.bad_pixel_file, "bad.txt"), (cam.flat_field_valid, 1),
        (cam.flat_field_file, "flat.tif"), (cam.header_template, "t.cbf"),
    ):  # fmt: skip
        monkeypatch.setattr(signal, "get", lambda value=value, **_: value)

    found = pilatus.hardware()

    assert found["bad_pixels"] == {"n": 12, "file": "bad.txt"}
    assert found["flat_field"] == {"file": "flat.tif"}
    assert found["header_template"] == "t.cbf"
