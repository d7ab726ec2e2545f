"""Every row of the error table of the real ADPilatus, and the traps around it."""

from __future__ import annotations

import os
import time

import fabio
import numpy as np
import pytest

pytestmark = pytest.mark.ioc


@pytest.fixture
def ended(client):
    """Acquire, wait for the put, and tell (state, message, frames read)."""

    def acquire() -> tuple[str, str, int]:
        client.put("cam1:Acquire", 1)
        assert client.get("cam1:Acquire") == 0
        assert client.get("cam1:Armed") == 0
        assert client.text("cam1:AcquireBusy") == "Done"
        return (
            client.text("cam1:DetectorState_RBV"),
            client.text("cam1:StatusMessage_RBV"),
            client.get("cam1:ArrayCounter_RBV"),
        )

    yield acquire
    client.put("sim:camserver", "Running")
    client.put("cam1:TriggerMode", 0)


CREATED = "Timeout waiting for file to be created"


def test_a_missing_file_stops_the_driver_after_its_time(client, camera, ended, tmp_path):
    camera(6)
    client.put("cam1:ImageFileTmot", 0.8)
    client.put("sim:drop", 2)

    assert ended() == ("Error", CREATED, 2)

    assert (tmp_path / "x_005.cbf").exists()  # no kill: camserver keeps exposing


def test_a_file_older_than_10_s_is_not_taken(client, camera, ended, tmp_path):
    camera(3, period=0.05)
    client.put("cam1:ImageFileTmot", 0.5)
    client.put("sim:drop", 1)
    (tmp_path / "x_001.cbf").write_bytes(b"from last week")
    os.utime(tmp_path / "x_001.cbf", times=(time.time() - 60.0,) * 2)

    assert ended() == ("Error", "Image file is more than 10 seconds old", 1)


def test_a_stale_file_that_is_younger_is_taken_for_a_frame(client, camera, ended, tmp_path):
    camera(4, period=0.3)
    client.put("cam1:Acquire", 1)
    client.put("cam1:FileNumber", 1)  # the next series overlaps: _001 to _004
    client.put("cam1:NumImages", 3)
    client.put("cam1:ArrayCounter", 0)

    began = time.monotonic()
    completed = client.start("cam1:Acquire", 1)
    while client.get("cam1:ArrayCounter_RBV") < 3:
        assert time.monotonic() - began < 20.0
        time.sleep(0.01)

    assert time.monotonic() - began < 0.6  # three frames of 0.3 s cannot be that quick
    while not completed():
        time.sleep(0.01)


def test_a_wrong_extension_is_an_error_at_once_while_camserver_exposes(
    client, camera, ended, frames, tmp_path, wait_until
):
    camera(2, template="%s%s_%3.3d.edf")

    began = time.monotonic()
    found = ended()

    assert found == ("Error", "Unsupported file extension, expected .tif or .cbf", 0)
    assert time.monotonic() - began < 2.0
    wait_until(lambda: [f.name for f in frames(tmp_path)] == ["x_000.edf", "x_001.edf"])


def test_a_cbf_of_the_wrong_size_is_an_error_at_once(client, camera, ended, tmp_path):
    camera(4)
    client.put("sim:resize", 1)

    state, message, n_read = ended()

    assert (state, n_read) == ("Error", 1)
    assert message == f"Reading image file {tmp_path}/x_001.cbf"


def test_a_tiff_of_the_wrong_size_is_passed_on_after_its_time(client, camera, ended, tmp_path):
    camera(3, template="%s%s_%3.3d.tif")
    client.put("cam1:ImageFileTmot", 0.5)
    client.put("sim:resize", 1)

    assert ended() == ("Idle", "Waiting for acquire command", 3)

    assert fabio.open(str(tmp_path / "x_001.tif")).data.shape == (194, 487)


def test_a_cbf_that_stays_incomplete_is_passed_on_after_its_time(client, camera, ended):
    camera(3)
    client.put("cam1:ImageFileTmot", 0.5)
    client.put("sim:truncate", 1)

    assert ended() == ("Idle", "Waiting for acquire command", 3)


@pytest.mark.parametrize("n_images", [1, 3])
def test_without_7ok_it_kills_and_the_answer_hides_why(client, camera, ended, n_images):
    camera(n_images, template="%s%s_%3.3d_00000.cbf")
    client.put("cam1:ImageFileTmot", 0.5)
    client.put("sim:no7ok", 1)

    began = time.monotonic()
    state, message, n_read = ended()

    assert (state, message) == ("Error", "Camserver returned OK")
    assert n_read == (3 if n_images == 3 else 0)
    assert client.text("cam1:StringToServer_RBV") == "K"
    assert time.monotonic() - began > (10.0 if n_images == 1 else 0.5)


def test_an_error_reply_is_not_noticed(client, camera, ended):
    camera(3)
    client.put("cam1:AcquirePeriod", 0.0)  # not refused by the IOC
    client.put("cam1:ImageFileTmot", 0.5)

    with client.watch("cam1:Armed") as seen:
        found = ended()

    assert found == ("Error", CREATED, 0)
    assert ("cam1:Armed", "Armed") in seen
    assert "ERR" in client.text("cam1:StringFromServer_RBV")


@pytest.mark.slow  # the driver gives a single image ten seconds
def test_an_error_reply_to_a_single_image_ends_in_a_kill(client, camera, ended):
    camera(1)
    client.put("cam1:DelayTime", 1.0)  # longer than the period

    began = time.monotonic()
    found = ended()

    client.put("cam1:DelayTime", 0.0)
    assert found == ("Error", "Camserver returned OK", 0)
    assert "ERR Delay" in client.text("cam1:StringFromServer_RBV")
    assert time.monotonic() - began > 10.0


def test_camserver_gone_is_an_error_at_once_and_settings_seem_to_be_taken(client, camera, ended):
    camera(3)
    client.put("sim:camserver", "Gone")

    began = time.monotonic()
    assert ended() == ("Error", "Starting exposure", 0)
    client.put("cam1:AcquireTime", 0.25)

    assert time.monotonic() - began < 2.0
    assert client.get("cam1:AcquireTime_RBV") == 0.25
    client.put("cam1:DetectorState_RBV", 0)
    client.put("cam1:ReadStatus", 1)
    assert client.text("cam1:DetectorState_RBV") == "Error"


def test_a_restarted_camserver_has_forgotten_and_remembers_after_one_put(
    client, camera, ended, tmp_path
):
    camera(3)
    client.put("cam1:ImageFileTmot", 1.5)
    client.put("cam1:Alpha", 12.5)
    client.put("cam1:StartAngle", 33.0)
    client.put("sim:camserver", "Gone")
    client.put("sim:camserver", "Running")

    state, message, n_read = ended()
    assert (state, message, n_read) == ("Error", CREATED, 1)  # it made one image, of 1 s
    client.put("cam1:FileName", "y")
    client.put("cam1:AcquireTime", 0.047)

    assert ended()[0] == "Idle"
    assert len(list(tmp_path.glob("y*"))) == 3
    text = fabio.open(str(tmp_path / "y_000.cbf")).header["_array_data.header_contents"]
    assert "# Start_angle 33.0000 deg." in text  # is sent with each exposure
    assert "# Alpha 0.0000 deg." in text  # the record still shows 12.5


def test_a_camserver_that_hangs_is_seen_by_the_missing_file(client, camera, ended, tmp_path):
    camera(5)
    client.put("cam1:ImageFileTmot", 0.5)
    client.put("sim:hang", 2)

    assert ended() == ("Error", CREATED, 2)

    assert len(list(tmp_path.glob("x*"))) == 2


def test_a_path_that_does_not_exist_is_not_refused(client, camera, ended, tmp_path):
    camera(2)
    client.put("cam1:FilePath", str(tmp_path / "nowhere"))
    client.put("cam1:ImageFileTmot", 0.5)

    assert client.text("cam1:FilePathExists_RBV") == "No"
    assert ended() == ("Error", CREATED, 0)


def test_without_callbacks_no_file_is_read(client, camera, ended, tmp_path):
    camera(3)
    client.put("cam1:ArrayCallbacks", 0)

    found = ended()

    client.put("cam1:ArrayCallbacks", 1)
    assert found == ("Idle", "Waiting for acquire command", 0)
    assert client.text("cam1:FullFileName_RBV") == f"{tmp_path}/x_002.cbf"


def test_with_no_trigger_it_gives_up_after_the_file_timeout(client, camera, ended):
    camera(3)
    client.put("cam1:ImageFileTmot", 0.5)
    client.put("sim:compare_start", 300.0)
    client.put("cam1:TriggerMode", "Mult. Trigger")

    assert ended() == ("Error", CREATED, 0)


def test_alignment_exposes_into_one_file_until_aborted(client, camera, tmp_path, wait_until):
    camera(5)
    client.put("cam1:TriggerMode", "Alignment")
    assert client.get("cam1:NumImages") == 5
    assert client.get("cam1:NumImages_RBV") == 1

    completed = client.start("cam1:Acquire", 1)
    wait_until(lambda: client.get("cam1:ArrayCounter_RBV") >= 3)
    client.send("cam1:Acquire", 0)
    wait_until(completed)

    client.put("cam1:TriggerMode", 0)
    assert [file.name for file in tmp_path.iterdir()] == ["alignment.tif"]
    assert client.text("cam1:DetectorState_RBV") == "Aborted"


def test_in_ext_enable_the_gate_is_the_exposure(client, camera, tmp_path, wait_until):
    camera(4, period=0.1)
    client.put("cam1:AcquireTime", 0.05)
    client.put("phi.VELO", 20.0)
    client.put("phi", 0.0)
    client.put("phi.VELO", 2.0)  # half the speed that would fit the period
    for name, value in {"compare_start": 1.0, "compare_step": 0.4}.items():
        client.put(f"sim:{name}", value)
    client.put("cam1:TriggerMode", "Ext. Enable")
    client.put("mcs:EraseStart", 1)
    completed = client.start("cam1:Acquire", 1)
    wait_until(lambda: client.get("cam1:Armed") == 1)

    client.put("phi", 4.0)
    wait_until(completed)

    client.put("cam1:TriggerMode", 0)
    client.put("phi.VELO", 20.0)
    np.testing.assert_allclose(client.get("sim:angles"), 1.0 + 0.4 * np.arange(4), atol=1e-6)
    seconds = 0.2 / 2.0  # half a step at 2 degree/s, not AcquireTime
    counts = client.get("mcs:mca1")
    assert counts == pytest.approx(2.0e6 * seconds * client.get("ring:current") / 100, rel=0.05)
    client.put("mcs:StopAll", 1)


def test_several_exposures_per_frame_take_as_many_periods(client, camera):
    camera(2, period=0.1)
    client.put("cam1:NumExposures", 3)

    began = time.monotonic()
    client.put("cam1:Acquire", 1)

    client.put("cam1:NumExposures", 1)
    assert time.monotonic() - began > 0.55  # 2 frames of 3 periods, but for the last readout


@pytest.mark.parametrize("auto", ["Yes", "No"])
def test_energy_shows_the_demand_at_once_and_the_put_ends_with_the_reply(client, auto, wait_until):
    client.put("sim:threshold_seconds", 1.0)
    client.put("cam1:ThresholdAutoApply", auto)
    before = client.get("cam1:Energy_RBV")
    asked = 17.0 + (auto == "Yes")

    completed = client.start("cam1:Energy", asked)
    if auto == "Yes":
        wait_until(lambda: client.text("cam1:DetectorState_RBV") == "Waiting")
        assert client.get("cam1:Energy_RBV") == asked
        assert not completed()
        assert client.text("cam1:StatusMessage_RBV") == "Setting threshold"
    else:
        wait_until(completed)
        assert client.get("cam1:Energy_RBV") == before
        client.put("cam1:ThresholdApply", 1)
        assert client.text("cam1:ThresholdApply") == "Done"
    wait_until(completed)

    assert client.get("cam1:Energy_RBV") == asked
    assert client.text("cam1:DetectorState_RBV") != "Waiting"
    client.put("cam1:ThresholdAutoApply", "Yes")
    client.put("sim:threshold_seconds", 0.5)


def test_a_fresh_ioc_is_as_the_real_one(serve, elsewhere, tmp_path):
    _, announced = serve("--prefix", "N:")

    values = elsewhere(
        announced,
        f"""
names = ("NumImages", "AcquireTime", "AcquirePeriod", "FileTemplate", "FilePath", "AutoIncrement",
         "ArrayCallbacks", "Energy_RBV", "ThresholdEnergy_RBV", "Energy", "ShutterMode")
fresh = [caget("N:cam1:" + name, as_string=True) for name in names]
caput("N:cam1:FilePath", {str(tmp_path)!r}, wait=True)
caput("N:cam1:Acquire", 1, wait=True, timeout=20)
print(json.dumps(fresh + [caget("N:cam1:StatusMessage_RBV", as_string=True)]))
""",
    )

    assert [float(value) for value in values[:3]] == [1, 1.0, 0.0]
    assert values[3:7] == ["", "", "No", "Enable"]
    assert [float(value) for value in values[7:10]] == [0.0, 0.0, 20.0]
    assert values[10:] == ["None", "Unsupported file extension, expected .tif or .cbf"]
