"""Each trigger mode over real Channel Access: frames, documents and the angles they began at."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest

from offbragg.devices.goniometer import PositionCompare
from offbragg.devices.pilatus_cam import check_period
from offbragg.errors import ConfigError, DeviceError, SweepError
from offbragg.files.scan_file import ScanFile
from offbragg.followers.stacker import Stacker
from offbragg.plans import rotation_scan
from offbragg.sweep import Sweep

ioc_test = pytest.mark.ioc


def sweep(n=10, step=0.2, start=5.0, **changed):
    return Sweep(
        **{"axis": "phi", "start": start, "step": step, "n_frames": n, "exposure": 0.09,
           "period": 0.1, **changed}
    )  # fmt: skip


@pytest.fixture(scope="module")
def compare(devices):
    device = PositionCompare("SIM:sim:", name="compare")
    device.wait_for_connection(all_signals=True, timeout=10)
    return device


@pytest.fixture
def pilatus(devices, simulator, monkeypatch):
    device = devices["pilatus"]
    monkeypatch.setattr(device, "max_missing", 0)
    yield device
    device.trigger_mode = "internal"
    for fault in ("drop", "hang"):
        simulator(fault, -1)
    deadline = time.monotonic() + 10
    while device.cam.acquire.get(use_monitor=False):
        assert time.monotonic() < deadline, "the detector was left acquiring"
        time.sleep(0.05)


@pytest.fixture
def scan(RE, devices, compare):
    def scan(sweep, **more):
        (uid,) = RE(
            rotation_scan(
                devices["pilatus"], devices["phi"], sweep,
                flyers=[devices["monitor"], compare], shutter=devices["shutter"], **more,
            )
        )  # fmt: skip
        return uid

    return scan


# pulses by position are exact; an internal start is as good as a busy host is prompt
@ioc_test
@pytest.mark.parametrize(
    ("trigger", "within", "start", "step"),
    [
        ("internal", 0.5, 5.0, 0.2),
        ("ext_trigger", 0.003, 5.0, 0.2),
        ("mult_trigger", 0.003, 9.0, -0.2),
        ("ext_enable", 0.003, 5.0, 0.2),
    ],
)
def test_frames_begin_at_their_angles(
    scan, pilatus, documents, record_property, trigger, within, start, step
):
    pilatus.trigger_mode = trigger
    asked = sweep(step=step, start=start)

    scan(asked)

    read = np.array(documents.rows("compare_angle"))
    assert documents.rows("compare_frame") == list(range(asked.n_frames))
    off = read - asked.midpoints
    record_property("start_angle_off", float(off[0]))
    print(f"{trigger} {step:+g}: first {off[0]:+.4f}, worst {np.abs(off).max():.4f} degree")
    assert np.abs(off).max() < within
    assert documents.stop()["exit_status"] == "success"
    assert documents.start()["detector"]["trigger"] == trigger
    data = documents.of("stream_datum")
    assert (data[0]["indices"]["start"], data[-1]["indices"]["stop"]) == (0, asked.n_frames)


@ioc_test
def test_the_time_of_the_first_pulse_is_known(scan, pilatus, devices, documents):
    pilatus.trigger_mode = "mult_trigger"
    positions = []
    phi = devices["phi"]
    watch = phi.user_readback.subscribe(
        lambda value=None, timestamp=None, **_: positions.append((timestamp, value)), run=False
    )

    scan(sweep(n=20))
    phi.user_readback.unsubscribe(watch)

    (resource,) = documents.of("stream_resource")
    t, angle = np.array(positions).T
    # of the two IOCs' clocks
    t -= resource["parameters"]["exposure_started"] + phi.clock.offset - pilatus.clock.offset
    turning = (t > 0.2) & (t < 1.8)
    speed, began = np.polyfit(t[turning], angle[turning], 1)
    assert speed == pytest.approx(2.0, rel=0.02)
    assert abs(began - 5.0) < 0.1 * speed


@ioc_test
def test_angles_that_were_read_are_in_the_scan_file(scan, pilatus, documents, tmp_path):
    pilatus.trigger_mode = "mult_trigger"
    scan(sweep(n=5))

    start = documents.start()
    assert start["per_frame"]["angle"]["key"] == "compare_angle"
    values = stack(documents, tmp_path)
    assert {str(source) for source in values["angle_source"]} == {"position compare"}
    assert values["angle"] == pytest.approx(documents.rows("compare_angle"))


def stack(documents, folder):
    """Stack the last run of some documents; give the values of its frames."""
    follower = Stacker(folder).open(documents.start())
    for name, doc in documents:
        follower(name, doc)
    deadline = time.monotonic() + 20
    while not follower.poll():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with ScanFile.open(follower.path) as file:
        return file.frame_values()


@ioc_test
def test_a_clock_that_is_an_hour_ahead_of_the_files_makes_no_frame_late(
    scan, pilatus, documents, monkeypatch
):
    ahead = SimpleNamespace(time=lambda: time.time() + 3600.0, monotonic=time.monotonic)
    monkeypatch.setattr("offbragg.devices.pilatus.time", ahead)
    pilatus.trigger_mode = "mult_trigger"

    scan(sweep(n=5))

    assert documents.stop()["exit_status"] == "success"
    assert documents.stop()["num_events"]["primary"] == 5


@ioc_test
@pytest.mark.parametrize(
    "trigger", ["mult_trigger", pytest.param("ext_trigger", marks=pytest.mark.slow)]
)
def test_a_trigger_that_never_comes_is_reported(
    RE, pilatus, devices, documents, monkeypatch, simulator, trigger
):
    monkeypatch.setattr(pilatus, "trigger_timeout", 1.0)
    monkeypatch.setattr(pilatus, "patience", 1.0)
    monkeypatch.setattr(pilatus, "pulsed_elsewhere", True)
    pilatus.trigger_mode = trigger
    simulator("compare_start", 1e6)

    with pytest.raises(DeviceError, match="no trigger came within"):
        RE(rotation_scan(pilatus, devices["phi"], sweep()))  # without the position compare

    assert documents.stop()["exit_status"] == "fail"
    assert "no trigger came" in documents.stop()["reason"]


@ioc_test
@pytest.mark.parametrize(
    "after",
    [0.05, *(pytest.param(after, marks=pytest.mark.slow) for after in (0.0, 0.2, 0.5))],
)
def test_a_detector_given_up_while_it_is_prepared_is_not_left_armed(pilatus, after):
    pilatus.trigger_mode = "mult_trigger"
    status = pilatus.prepare(sweep())
    time.sleep(after)

    pilatus.unstage().wait(30)

    deadline = time.monotonic() + 20
    while not status.done:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    while pilatus.cam.acquire.get(use_monitor=False) or pilatus.cam.armed.get(use_monitor=False):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@ioc_test
def test_after_a_hang_the_next_sweep_is_whole(scan, pilatus, documents, simulator, monkeypatch):
    monkeypatch.setattr(pilatus, "max_missing", 1000)
    monkeypatch.setattr(pilatus, "stall", 1.0)
    monkeypatch.setattr(pilatus, "patience", 1.0)
    simulator("hang", 3)
    with pytest.raises(DeviceError, match=r"stalled: no file came for .* after frame 2 of 100"):
        scan(sweep(n=100, step=0.05))
    documents.clear()

    scan(sweep(n=5))

    assert documents.stop()["exit_status"] == "success"
    assert documents.stop()["num_events"]["primary"] == 5


@ioc_test
def test_an_error_of_the_ioc_is_reset_before_the_next_sweep(
    scan, pilatus, documents, simulator, monkeypatch
):
    monkeypatch.setattr(pilatus, "max_missing", 1)
    monkeypatch.setattr(pilatus, "patience", 0.5)
    simulator("drop", 1)
    scan(sweep(n=20, step=0.05))
    deadline = time.monotonic() + 10
    while pilatus.cam.state.get(use_monitor=False) != "Error":
        assert time.monotonic() < deadline
        time.sleep(0.05)

    pilatus.prime(0.05).wait(30)

    assert pilatus.cam.state.get(use_monitor=False) == "Idle"
    scan(sweep(n=3))
    assert documents.stop()["exit_status"] == "success"


@ioc_test
def test_an_axis_that_is_not_compared_is_refused(scan, compare, pilatus, devices, documents):
    with pytest.raises(SweepError, match="cannot give pulses along kappa"):
        compare.check(sweep(axis="kappa"))


@ioc_test
def test_a_threshold_is_done_when_it_is_applied(pilatus):
    cam = pilatus.cam
    began = time.monotonic()

    cam.threshold.set(9.0).wait(20)

    assert time.monotonic() - began > 0.4  # the simulated detector takes 0.5 s
    assert cam.threshold.get() == pytest.approx(9.0)
    assert cam.energy.get(use_monitor=False) > 0
    cam.threshold.set(10.0).wait(20)


@ioc_test
def test_headers_say_whose_frame_it_is_and_where_other_records_are(
    RE, scan, pilatus, devices, documents, config
):
    from ophyd import EpicsSignalRO

    from offbragg.beamline.run_engine import sample
    from offbragg.files import read_frame

    sample(RE, name="LSMO-140", label="c" * 60)

    pilatus.header = {"Chi": EpicsSignalRO("SIM:chi.RBV", name="Chi"), "Polarization": 0.99}
    devices["chi"].set(3.0).wait(20)
    try:
        scan(sweep(n=2))
    finally:
        pilatus.header = {}
        devices["chi"].set(0.0).wait(20)

    (resource,) = documents.of("stream_resource")
    folder = config.paths.frames / resource["uri"].rstrip("/").rsplit("/", 1)[1]
    path = folder / resource["parameters"]["template"].format(1)
    text = path.read_bytes()[:4000].decode("latin-1")
    assert "Chi 3.0000 deg." in text
    assert "Polarization 0.990" in text
    assert "Phi 5.2000 deg." in text
    start = documents.start()
    whose = f"{start['uid'][:8]} #{start['scan_id']} LSMO-140 {'c' * 60}"
    assert f"# {whose[:68]}\r\n" in text  # camserver takes 68 bytes
    assert "Energy_range (17712, 17712) eV" in text
    assert read_frame(path, number=1).verified


def test_a_trigger_mode_must_be_one(devices_offline):
    with pytest.raises(ConfigError, match="trigger 'gate' is not one of internal"):
        devices_offline(trigger="gate")


def test_a_header_record_must_be_one(devices_offline):
    with pytest.raises(ConfigError, match=r"header\.Chii is unknown; there are"):
        devices_offline(header={"Chii": 1.0})


@pytest.fixture
def devices_offline(tmp_path):
    from ophyd.sim import make_fake_device

    from offbragg.devices.pilatus import Pilatus

    fake = make_fake_device(Pilatus)

    def make(**more):
        return fake("X:", name="p", frames=str(tmp_path), model="PILATUS 2M",
                    sensor_material="Si", sensor_thickness=0.45, **more)  # fmt: skip

    return make


@pytest.mark.parametrize(
    ("model", "trigger", "exposure", "taken"),
    [
        ("PILATUS 2M", "internal", 0.0970, True),
        ("PILATUS 2M", "internal", 0.0980, False),
        ("PILATUS 2M", "mult_trigger", 0.0970, False),
        ("PILATUS 2M", "mult_trigger", 0.0955, True),
        ("PILATUS 2M", "ext_trigger", 0.0970, True),
        ("PILATUS3 2M", "internal", 0.0990, True),
        ("PILATUS3 2M", "mult_trigger", 0.0990, False),
        ("PILATUS3 2M", "mult_trigger", 0.0985, True),
    ],
)
def test_readout_and_period_by_model_and_trigger(model, trigger, exposure, taken):
    asked = sweep(exposure=exposure)

    if taken:
        check_period(model, asked, trigger=trigger)
    else:
        with pytest.raises(SweepError, match=r"period 0\.1 s is shorter"):
            check_period(model, asked, trigger=trigger)
