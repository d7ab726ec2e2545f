"""Rotation scans over real Channel Access: documents, files, angles, and what goes wrong."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import numpy as np
import pytest
from bluesky.utils import RunEngineInterrupted
from event_model import DocumentNames, schema_validators

from offbragg.devices.acquisition import is_idle
from offbragg.errors import ConfigError, DeviceError, MetadataError, SweepError
from offbragg.files import read_frame
from offbragg.plans import estimate, expose, rotation_scan
from offbragg.sweep import Sweep

pytestmark = pytest.mark.ioc


def sweep(n=10, step=0.5, start=0.0, **changed):
    return Sweep(
        **{"axis": "phi", "start": start, "step": step, "n_frames": n, "exposure": 0.09,
           "period": 0.1, **changed}
    )  # fmt: skip


@pytest.fixture
def scan(RE, devices, documents):
    """Run a rotation scan with everything that the beamline has."""

    def scan(sweep, **more):
        (uid,) = RE(
            rotation_scan(
                devices["pilatus"],
                devices["phi"],
                sweep,
                flyers=[devices["monitor"]],
                shutter=devices["shutter"],
                **more,
            )
        )
        return uid

    return scan


@pytest.fixture
def idle(devices, simulator, monkeypatch):
    """What must hold after every scan, whatever happened in it."""
    monkeypatch.setattr(devices["pilatus"], "max_missing", 0)
    pilatus, phi, shutter = devices["pilatus"], devices["phi"], devices["shutter"]
    speed = phi.velocity.get()
    yield
    for name in ("drop", "flip", "hang"):
        simulator(name, -1)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and not is_idle(pilatus.cam):
        time.sleep(0.05)
    assert is_idle(pilatus.cam), "the detector was left acquiring"
    assert phi.velocity.get(use_monitor=False) == speed, "the axis keeps the speed of the sweep"
    assert not phi.moving
    assert shutter.state.get() == 0, "the shutter was left open"


def indices(documents):
    return [(d["indices"]["start"], d["indices"]["stop"]) for d in documents.of("stream_datum")]


def assert_covers(documents, n):
    """Indices are contiguous from 0 to n, and sequence numbers go along."""
    edges = indices(documents)
    assert edges[0][0] == 0
    assert edges[-1][1] == n
    assert all(a[1] == b[0] for a, b in pairwise(edges))
    for datum in documents.of("stream_datum"):
        assert datum["seq_nums"] == {
            "start": datum["indices"]["start"] + 1, "stop": datum["indices"]["stop"] + 1,
        }  # fmt: skip


def test_a_sweep_is_one_run_of_valid_documents(scan, documents, config, idle):
    uid = scan(sweep(12))

    start = documents.start()
    assert start["uid"] == uid
    assert start["purpose"] == "data"
    assert start["wavelength"] == start["geometry"]["wavelength"] == 0.7
    assert start["detector"]["shape"] == [195, 487]
    assert Sweep.from_dict(start["sweep"]) == sweep(12)
    assert set(start["per_frame"]) == {"angle", "monitor", "temperature", "ring"}
    assert documents.stop()["exit_status"] == "success"
    assert documents.stop()["num_events"]["primary"] == 12
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)
    streams = {doc["name"] for doc in documents.of("descriptor")}
    assert streams == {
        "primary", "monitor", "baseline", "cryostream_temperature", "ring_current", "watch",
        "timing", "phi_read_back",
    }  # fmt: skip


def test_frames_are_documented_while_the_axis_turns(scan, documents, config, idle):
    scan(sweep(15))

    assert_covers(documents, 15)
    assert len(indices(documents)) >= 3
    (resource,) = documents.of("stream_resource")
    assert resource["mimetype"] == "multipart/related;type=image/x-cbf"
    assert resource["uri"].startswith("file://localhost/")
    folder = config.paths.frames / resource["uri"].rstrip("/").rsplit("/", 1)[1]
    template = resource["parameters"]["template"]
    assert sorted(p.name for p in folder.iterdir()) == [template.format(n) for n in range(15)]


def test_the_monitor_counts_once_per_frame(scan, documents, idle):
    scan(sweep(11))

    assert documents.rows("monitor_frame") == list(range(11))
    assert all(counts > 0 for counts in documents.rows("monitor_counts"))
    assert documents.start()["per_frame"]["monitor"] == {
        "key": "monitor_counts", "by": "monitor_frame", "units": "counts",
    }  # fmt: skip


def test_the_first_exposure_begins_where_the_sweep_begins(scan, devices, documents, idle):
    positions = []
    phi, pilatus = devices["phi"], devices["pilatus"]
    watch = phi.user_readback.subscribe(
        lambda value=None, timestamp=None, **_: positions.append((timestamp, value)), run=False
    )
    scan(sweep(20, step=0.2, start=5.0))
    phi.user_readback.unsubscribe(watch)

    (resource,) = documents.of("stream_resource")
    t, angle = np.array(positions).T
    # of the two IOCs' clocks
    t -= resource["parameters"]["exposure_started"] + phi.clock.offset - pilatus.clock.offset
    turning = (t > 0.1) & (t < 1.8)
    speed, began = np.polyfit(t[turning], angle[turning], 1)
    assert speed == pytest.approx(2.0, rel=0.02)
    # one frame is 0.1 s; generous for a busy host
    assert abs(began - 5.0) < 0.05 * speed


def test_frame_headers_say_what_the_start_document_says(scan, documents, config, idle):
    scan(sweep(4, step=0.5, start=2.0))

    start = documents.start()
    (resource,) = documents.of("stream_resource")
    folder = config.paths.frames / resource["uri"].rstrip("/").rsplit("/", 1)[1]
    headers = [
        read_frame(folder / resource["parameters"]["template"].format(n), number=n).header
        for n in range(4)
    ]
    assert [h["start_angle"] for h in headers] == pytest.approx([2.0, 2.5, 3.0, 3.5])
    assert {h["angle_increment"] for h in headers} == {0.5}
    assert {h["wavelength"] for h in headers} == {start["wavelength"]}
    # where the beam hits the panel, by hand from the panel's origin
    assert headers[0]["beam_xy"] == pytest.approx((8.3076 / 0.172, 17.4752 / 0.172), abs=0.01)
    assert headers[0]["distance"] == pytest.approx(100.0)


def test_backwards_is_a_sweep_too(scan, documents, idle):
    scan(sweep(8, step=-0.5, start=4.0))

    assert_covers(documents, 8)
    assert documents.stop()["exit_status"] == "success"


def test_tiff_frames(scan, devices, documents, config, idle, monkeypatch):
    monkeypatch.setattr(devices["pilatus"], "format", "tif")

    scan(sweep(5))

    (resource,) = documents.of("stream_resource")
    assert resource["mimetype"] == "multipart/related;type=image/tiff"
    folder = config.paths.frames / resource["uri"].rstrip("/").rsplit("/", 1)[1]
    assert len(list(folder.glob("*.tif"))) == 5


def test_one_frame_is_a_sweep(scan, documents, config, idle):
    scan(sweep(1))

    assert_covers(documents, 1)
    (resource,) = documents.of("stream_resource")
    folder = config.paths.frames / resource["uri"].rstrip("/").rsplit("/", 1)[1]
    name = resource["parameters"]["template"].format(0)
    assert [p.name for p in folder.iterdir()] == [name]


def test_a_dropped_frame_within_the_allowed_number_shifts_nothing(
    scan, devices, documents, config, simulator, idle, monkeypatch
):
    monkeypatch.setattr(devices["pilatus"], "max_missing", 1)
    monkeypatch.setattr(devices["pilatus"], "patience", 1.0)
    simulator("drop", 4)

    scan(sweep(10))

    assert_covers(documents, 10)
    assert documents.stop()["exit_status"] == "success"
    (resource,) = documents.of("stream_resource")
    folder = config.paths.frames / resource["uri"].rstrip("/").rsplit("/", 1)[1]
    assert sorted(int(p.stem[-5:]) for p in folder.iterdir()) == [0, 1, 2, 3, 5, 6, 7, 8, 9]


def test_more_lost_frames_than_allowed_fail_the_run_by_number(
    scan, devices, documents, simulator, idle, monkeypatch
):
    monkeypatch.setattr(devices["pilatus"], "patience", 1.0)
    simulator("drop", 4)

    with pytest.raises(DeviceError, match=r"frame 4 of 10 did not come within 1 s"):
        scan(sweep(10))

    assert documents.stop()["exit_status"] == "fail"
    assert "frame 4 of 10" in documents.stop()["reason"]


def test_a_detector_that_hangs_fails_the_run_in_time(
    scan, devices, documents, simulator, idle, monkeypatch
):
    monkeypatch.setattr(devices["pilatus"], "patience", 1.0)
    monkeypatch.setattr(devices["pilatus"], "stall", 5.0)  # then the sweep is over
    simulator("hang", 3)
    began = time.monotonic()

    with pytest.raises(DeviceError, match=r"did not come within 1 s"):
        scan(sweep(40, step=0.1))

    assert time.monotonic() - began < 30
    assert documents.stop()["exit_status"] == "fail"
    assert indices(documents)[-1][1] >= 3


def test_two_sweeps_never_share_a_file(scan, documents, idle):
    scan(sweep(3))
    scan(sweep(3))

    first, second = documents.of("stream_resource")
    assert first["uri"] != second["uri"]
    assert first["parameters"]["template"] != second["parameters"]["template"]


@pytest.fixture
def moved(devices):
    """Whether anything was put to the instruments since the test began."""
    phi, cam = devices["phi"], devices["pilatus"].cam

    def state():
        return phi.user_setpoint.get(), cam.n_frames.get(), cam.file_name.get()

    before = state()
    return lambda: state() != before


@pytest.mark.parametrize(
    ("wrong", "error", "named"),
    [
        ({"exposure": 0.0999}, SweepError, "period 0.1 s is shorter"),
        ({"start": 1e6}, SweepError, "its limits are"),
        ({"n": 70000}, SweepError, "70000 frames are more"),
    ],
)
def test_an_impossible_sweep_is_refused_before_anything_moves(
    scan, documents, moved, wrong, error, named
):
    with pytest.raises(error, match=named):
        scan(sweep(**wrong))

    assert documents == []
    assert not moved()


def test_a_run_without_wavelength_is_refused_before_anything_moves(
    scan, devices, documents, moved, monkeypatch
):
    monkeypatch.setattr(devices["pilatus"], "geometry", None)

    with pytest.raises(MetadataError, match="lacks wavelength"):
        scan(sweep())

    assert documents == []
    assert not moved()


def test_a_frames_directory_that_is_not_there_is_refused(
    scan, devices, documents, moved, tmp_path, monkeypatch
):
    monkeypatch.setattr(devices["pilatus"], "frames", tmp_path / "nowhere")

    with pytest.raises(ConfigError, match=r"nowhere is not there or cannot be written"):
        scan(sweep())

    assert documents == []
    assert not moved()


def test_too_little_disk_for_the_frames_is_refused(scan, devices, documents, moved, monkeypatch):
    monkeypatch.setattr(devices["pilatus"], "reserve", 1e9)

    with pytest.raises(ConfigError, match="too little disk for 10 frames"):
        scan(sweep())

    assert documents == []
    assert not moved()


def test_a_folder_that_the_detector_cannot_see_is_named(
    scan, devices, documents, idle, monkeypatch
):
    monkeypatch.setattr(devices["pilatus"], "write_path", "/nowhere/at/all")

    with pytest.raises(DeviceError, match=r"cannot write to /nowhere/at/all/.*FilePath"):
        scan(sweep())

    assert documents.stop()["exit_status"] == "fail"


def interrupt(RE, devices, how):
    """Call ``how`` in the middle of a sweep."""

    def wait_and_do():
        deadline = time.monotonic() + 30
        pilatus = devices["pilatus"]
        while time.monotonic() < deadline and not (pilatus.flying and pilatus.get_index() >= 3):
            time.sleep(0.02)
        how()

    thread = threading.Thread(target=wait_and_do)
    thread.start()
    return thread


def test_an_abort_in_the_middle_leaves_everything_idle(RE, scan, devices, documents, idle):
    thread = interrupt(RE, devices, lambda: RE.abort("enough"))

    with pytest.raises(RunEngineInterrupted):
        scan(sweep(40, step=0.1))
    thread.join()

    assert documents.stop()["exit_status"] == "abort"
    assert 3 <= indices(documents)[-1][1] < 40
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)


def test_after_each_pause_in_the_middle_the_sweep_is_begun_again_as_a_run_of_its_own(
    RE, scan, devices, documents, idle
):
    n_pauses = 2  # each measures again for 4 s
    for pause in range(n_pauses):
        thread = interrupt(RE, devices, RE.request_pause)
        with pytest.raises(RunEngineInterrupted):
            RE.resume() if pause else scan(sweep(20, step=0.1))
        thread.join()
        assert RE.state == "paused"
        assert devices["shutter"].command.get() == 0
        assert not devices["pilatus"].flying

    RE.resume()

    assert RE.state == "idle"
    *paused, last = documents.of("stop")
    assert [doc["exit_status"] for doc in paused] == ["fail"] * n_pauses
    reasons = [doc["reason"] for doc in paused]
    assert all("was stopped" in reason for reason in reasons), reasons
    assert last["exit_status"] == "success"
    assert last["num_events"]["primary"] == 20
    assert len({doc["uid"] for doc in documents.of("start")}) == n_pauses + 1
    for name, doc in documents:
        schema_validators[DocumentNames[name]].validate(doc)


def test_a_second_pause_while_the_first_ones_run_is_ended_changes_nothing(
    RE, devices, documents, idle
):
    """Without an axis that turns only the detector knows why its frames ended."""
    closing = []

    def pause_while_it_tidies(msg):
        if msg.command == "unstage" and not closing:
            closing.append(threading.Thread(target=RE.request_pause))  # not in its event loop
            closing[0].start()
            time.sleep(0.2)  # so it is asked for before the next message

    RE.msg_hook = pause_while_it_tidies
    thread = interrupt(RE, devices, RE.request_pause)
    with pytest.raises(RunEngineInterrupted):
        RE(expose(devices["pilatus"], 40, 0.097, axis=devices["phi"], shutter=devices["shutter"]))
    thread.join()
    with pytest.raises(RunEngineInterrupted):
        RE.resume()
    closing[0].join()

    RE.resume()

    assert [doc["exit_status"] for doc in documents.of("stop")] == ["fail", "success"]


def test_after_an_abort_the_next_sweep_is_complete(RE, scan, devices, documents, idle):
    thread = interrupt(RE, devices, lambda: RE.abort("enough"))
    with pytest.raises(RunEngineInterrupted):
        scan(sweep(40, step=0.1))
    thread.join()
    documents.clear()

    scan(sweep(6))

    assert_covers(documents, 6)
    assert documents.stop()["exit_status"] == "success"


def test_an_estimate_moves_nothing_and_counts_everything(devices, moved):
    total = estimate(
        sweep(100), sweep(50), detector=devices["pilatus"], axis=devices["phi"],
        temperatures=[100.0, 120.0], settling=60.0,
    )  # fmt: skip

    assert total.sweeps == 4
    assert total.frames == 300
    assert 2 * 15.0 + 120.0 < total.seconds < 2 * 15.0 + 120.0 + 20.0
    assert total.bytes == 300 * devices["pilatus"].frame_bytes()
    assert not moved()
