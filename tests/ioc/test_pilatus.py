"""The simulated ADPilatus over Channel Access, against what the real one does."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from itertools import pairwise

import fabio
import numpy as np
import pytest

from sim_iocs.cbf import MAGIC
from sim_iocs.records import read_table

pytestmark = pytest.mark.ioc

TYPES = {"double": "double", "long": "long", "enum": "enum", "string": "string", "char": "char"}


def md5_holds(content: bytes) -> bool:
    declared = re.search(rb"Content-MD5: (\S+)", content)[1]
    size = int(re.search(rb"X-Binary-Size: (\d+)", content)[1])
    binary = content.split(MAGIC, 1)[1][:size]
    return base64.b64decode(declared) == hashlib.md5(binary).digest()


def test_all_248_records_answer_with_the_real_type_count_and_labels(ioc, wait_until):
    from epics import PV

    table = read_table("cam1.json")
    pvs = {name: PV(f"{ioc['prefix']}cam1:{name}", auto_monitor=False) for name in table}
    wait_until(lambda: all(pv.connected for pv in pvs.values()))

    assert len(table) == 248
    for name, row in table.items():
        pv = pvs[name]
        assert pv.type.removeprefix("time_") == TYPES[row["type"]], name
        assert pv.nelm == row.get("count", 1), name
        if any(row.get("enums", [])):
            assert [s.decode() if isinstance(s, bytes) else s for s in pv.enum_strs] == row["enums"]
        if row.get("units"):
            assert pv.units == row["units"], name


def test_every_setting_is_mirrored_to_its_readback(client):
    special = {"FilePath", "Acquire", "Energy", "ThresholdEnergy", "Gain", "ArrayCounter"}
    table = read_table("cam1.json")
    mirrored = [
        n for n, row in table.items()
        if f"{n}_RBV" in table and n not in special and row.get("count", 1) == 1
        and row["type"] in ("double", "long") and row.get("record") in ("ao", "longout")
    ]  # fmt: skip
    assert len(mirrored) > 15

    for name in mirrored:
        before = client.get(f"cam1:{name}")
        client.put(f"cam1:{name}", 3)
        assert client.get(f"cam1:{name}_RBV") == 3, name
        client.put(f"cam1:{name}", before)


@pytest.mark.parametrize(
    ("name", "asked", "used"),
    [
        ("NumImages", 0, 1), ("NumExposures", -3, 1), ("AcquireTime", -0.1, 1.0),
        ("AcquirePeriod", -1.0, 2.0), ("DelayTime", -1.0, 0.0), ("AcquirePeriod", 0.0, 0.0),
    ],
)  # fmt: skip
def test_the_driver_takes_its_own_number_for_one_below_the_least(client, name, asked, used):
    client.put(f"cam1:{name}", asked)

    assert client.get(f"cam1:{name}") == asked
    assert client.get(f"cam1:{name}_RBV") == used
    client.put(f"cam1:{name}", used)


def test_the_file_number_counts_acquires_and_not_frames(client, camera, frames, tmp_path):
    camera(3, template="%s%s_%3.3d_00000.cbf")
    client.put("cam1:AutoIncrement", 1)

    client.put("cam1:Acquire", 1)
    client.put("cam1:Acquire", 1)

    assert client.get("cam1:FileNumber_RBV") == 2
    assert [f.stem for f in frames(tmp_path)] == [
        f"x_00{i}_0000{j}" for i in (0, 1) for j in range(3)
    ]


def test_the_status_is_read_on_request_only(client):
    client.put("cam1:Temp1_RBV", 0.0)

    client.put("cam1:ReadStatus", 1)

    assert client.get("cam1:Temp1_RBV") > 0.0
    assert client.get("cam1:Temperature_RBV") == client.get("cam1:Temp0_RBV")
    assert client.text("cam1:StringToServer_RBV") == "thread"


def test_gain_power_and_no_energy_set_the_threshold_too(client):
    client.put("sim:threshold_seconds", 0.1)
    client.put("cam1:ThresholdEnergy", 6.0)

    client.put("cam1:Energy", 0.0)
    assert client.get("cam1:Energy_RBV") == 12.0  # twice the threshold
    client.put("cam1:GainMenu", 3)
    assert client.get("cam1:Gain_RBV") == 3.0
    client.put("cam1:Energy", 12.0)
    assert client.text("cam1:StringToServer_RBV") == "SetThreshold energy 12000 uhighG 6000"
    client.put("cam1:StringToServer_RBV", "")
    began = time.monotonic()
    client.put("cam1:ResetPower", 1)

    assert time.monotonic() - began > 1.0  # ResetPowerTime
    assert client.text("cam1:StringToServer_RBV").startswith("SetThreshold")
    client.put("cam1:GainMenu", 1)
    client.put("sim:threshold_seconds", 0.5)


def test_a_series_reports_in_the_order_of_the_real_ioc(client, camera, tmp_path, wait_until):
    camera(3)
    names = (
        "StatusMessage_RBV DetectorState_RBV Armed Acquire_RBV FullFileName_RBV ArrayCounter_RBV "
        "AcquireBusy"
    )

    with client.watch(*(f"cam1:{name}" for name in names.split())) as seen:
        client.put("cam1:Acquire", 1)
        wait_until(lambda: ("cam1:AcquireBusy", "Done") in seen)

    short = [(name.split(":")[1], text.replace(f"{tmp_path}/", "")) for name, text in seen]
    changes = [b for a, b in pairwise([None, *short]) if a != b]
    reading = [
        item
        for i in range(3)
        for item in (
            ("FullFileName_RBV", f"x_00{i}.cbf"),
            ("StatusMessage_RBV", f"Reading image file x_00{i}.cbf"),
            ("ArrayCounter_RBV", f"{i + 1}"),
        )
    ]
    assert changes == [
        ("StatusMessage_RBV", "Acquiring data"),
        ("DetectorState_RBV", "Acquire"),
        ("Acquire_RBV", "Acquiring"),
        ("AcquireBusy", "Acquiring"),
        ("Armed", "Armed"),
        *reading,
        ("StatusMessage_RBV", "Waiting for 7OK response"),
        ("StatusMessage_RBV", "Waiting for acquire command"),
        ("DetectorState_RBV", "Idle"),
        ("Acquire_RBV", "Done"),
        ("Armed", "Unarmed"),
        ("AcquireBusy", "Done"),
    ]


def test_the_put_completes_when_the_last_file_is_there(client, camera, frames, tmp_path):
    camera(20, period=0.05)

    began = time.monotonic()
    client.put("cam1:Acquire", 1)
    seconds = time.monotonic() - began

    assert 1.0 <= seconds < 10.0
    assert [f.name for f in frames(tmp_path)] == [f"x_{i:03d}.cbf" for i in range(20)]
    assert all(md5_holds(f.read_bytes()) for f in frames(tmp_path))
    assert client.text("cam1:DetectorState_RBV") == "Idle"


def test_channel_access_answers_at_once_while_frames_are_made(client, camera):
    from epics import PV

    camera(20, period=0.1)
    state = PV(f"{client.prefix}cam1:DetectorState_RBV", auto_monitor=False)
    assert state.wait_for_connection(timeout=5)
    completed = client.start("cam1:Acquire", 1)

    waits = []
    while not completed():
        began = time.perf_counter()
        state.get(use_monitor=False)
        waits.append(time.perf_counter() - began)
        time.sleep(0.02)

    assert np.median(waits) < 0.050
    assert max(waits) < 0.5


def test_a_frame_has_the_headers_that_were_put_and_counts_the_angles_on(
    client, camera, frames, tmp_path
):
    camera(2)
    settings = {
        "Wavelength": 0.7, "DetDist": 100.0, "BeamX": 48.3, "BeamY": 101.6, "StartAngle": 10.0,
        "AngleIncr": 0.5, "OscillAxis": "PHI",
    }  # fmt: skip
    for name, value in settings.items():
        client.put(f"cam1:{name}", value)

    client.put("cam1:Acquire", 1)

    text = fabio.open(str(frames(tmp_path)[1])).header["_array_data.header_contents"]
    assert "# Wavelength 0.70000 A" in text
    assert "# Detector_distance 0.10000 m" in text
    assert "# Beam_xy (48.30, 101.60) pixels" in text
    assert "# Start_angle 10.5000 deg." in text
    assert "# Exposure_time 0.0470000 s" in text
    assert "# Oscillation_axis PHI" in text


def test_one_image_is_a_plain_name_and_tiff_goes_by_the_ending(client, camera, tmp_path):
    camera(1, template="%s%s_%2.2d.tif")

    client.put("cam1:Acquire", 1)

    assert fabio.open(str(tmp_path / "x_00.tif")).data.shape == (195, 487)
    assert client.text("cam1:FullFileName_RBV") == f"{tmp_path}/x_00.tif"
    assert client.get("cam1:ArrayCounter_RBV") == 1


def test_the_path_gets_a_slash_and_is_looked_for(client, tmp_path):
    client.put("cam1:FilePath", str(tmp_path))
    assert client.text("cam1:FilePath_RBV") == f"{tmp_path}/"
    assert client.get("cam1:FilePathExists_RBV") == 1

    client.put("cam1:FilePath", str(tmp_path / "nowhere"))

    assert client.get("cam1:FilePathExists_RBV") == 0


def test_a_text_can_be_emptied_again(client):
    for name in ("FilePath", "FileName", "HeaderString"):
        client.put(f"cam1:{name}", "something")
        client.put(f"cam1:{name}", "")
        assert client.text(f"cam1:{name}") == "", name
    client.put("cam1:FileName", np.zeros(256, np.uint8))  # as ophyd puts an empty one back

    assert client.text("cam1:FilePath_RBV") == ""
    assert client.get("cam1:FilePathExists_RBV") == 0


def test_abort_answers_at_once_and_holds_the_port_for_two_seconds(
    client, camera, frames, tmp_path, wait_until
):
    camera(400, period=0.05)
    completed = client.start("cam1:Acquire", 1)
    wait_until(lambda: client.get("cam1:ArrayCounter_RBV") >= 3)

    with client.watch("cam1:Acquire") as seen:
        began = time.monotonic()
        client.send("cam1:Acquire", 0)
        assert client.get("cam1:Acquire") == 0  # the record has it, before the driver does
        wait_until(lambda: client.text("cam1:DetectorState_RBV") == "Aborted")
        assert client.get("cam1:Armed") == 0
        others = [client.start(f"cam1:{name}", 0.5) for name in ("DelayTime", "Wavelength", "Flux")]
        assert not completed()
        assert seen == []
        wait_until(completed)
        assert seen == [("cam1:Acquire", "Done")]
    wait_until(lambda: all(other() for other in others))  # only now they have had their turn
    client.put("cam1:DelayTime", 0.0)

    assert time.monotonic() - began > 1.9
    assert client.text("cam1:StatusMessage_RBV") == "Acquisition aborted"
    assert client.get("cam1:Acquire") == 0
    wait_until(completed)
    written = len(frames(tmp_path))
    client.put("cam1:FileName", "y")
    assert len(frames(tmp_path)) == written < 100


def test_a_dropped_frame_stops_the_driver_but_not_the_camserver(client, camera, frames, tmp_path):
    camera(8)
    client.put("cam1:ImageFileTmot", 1.0)
    client.put("sim:drop", 3)

    client.put("cam1:Acquire", 1)

    assert client.text("cam1:DetectorState_RBV") == "Error"
    assert client.text("cam1:StatusMessage_RBV") == "Timeout waiting for file to be created"
    assert client.get("cam1:ArrayCounter_RBV") == 3
    assert [f.stem[-1] for f in frames(tmp_path)] == list("0124567")
    assert client.get("sim:drop") == -1


def test_a_flipped_bit_is_in_that_frame_only(client, camera, frames, tmp_path):
    camera(4)
    client.put("sim:flip", 2)

    client.put("cam1:Acquire", 1)

    assert [md5_holds(f.read_bytes()) for f in frames(tmp_path)] == [True, True, False, True]


def test_a_duplicated_frame_has_the_bytes_of_the_one_before(client, camera, frames, tmp_path):
    camera(4)
    client.put("sim:duplicate", 2)

    client.put("cam1:Acquire", 1)

    content = [f.read_bytes() for f in frames(tmp_path)]
    assert content[2] == content[1]
    assert len({content[0], content[1], content[3]}) == 3


def test_a_late_frame_comes_after_its_time(client, camera, frames, tmp_path, wait_until):
    camera(4)
    client.put("sim:late_seconds", 1.0)
    client.put("sim:late", 1)

    completed = client.start("cam1:Acquire", 1)
    wait_until(lambda: len(frames(tmp_path)) == 3)
    assert not (tmp_path / "x_001.cbf").exists()
    wait_until(completed)

    assert len(frames(tmp_path)) == 4
    assert client.text("cam1:DetectorState_RBV") == "Idle"
    client.put("sim:late_seconds", 2.0)


def test_a_rate_that_the_model_cannot_make_is_refused_with_both_rates(client, camera):
    camera(5)
    client.put("cam1:AcquireTime", 0.0001)
    client.put("cam1:AcquirePeriod", 0.0021)

    client.put("cam1:Acquire", 1)

    message = client.text("cam1:StatusMessage_RBV")
    possible = client.get("sim:shortest_period")
    assert client.text("cam1:DetectorState_RBV") == "Error"
    assert "476 Hz asked" in message
    assert f"period {possible:.3f} s" in message
    assert client.text("sim:message") == message


def test_camserver_refuses_a_period_without_readout_and_the_driver_does_not_notice(client, camera):
    camera(3)
    client.put("cam1:AcquireTime", 0.05)
    client.put("cam1:ImageFileTmot", 0.5)

    client.put("cam1:Acquire", 1)

    assert "ERR" in client.text("cam1:StringFromServer_RBV")
    assert client.text("cam1:StatusMessage_RBV") == "Timeout waiting for file to be created"


def test_the_monitor_has_one_channel_per_frame_and_is_dark_behind_the_shutter(client, camera):
    camera(6)
    client.put("mcs:EraseStart", 1)

    client.put("cam1:Acquire", 1)
    open_counts = client.get("mcs:mca1")
    client.put("shutter:open", 0)
    client.put("mcs:EraseStart", 1)
    client.put("cam1:Acquire", 1)

    assert len(open_counts) == 6
    assert open_counts == pytest.approx(2.0e6 * 0.047 * client.get("ring:current") / 100, rel=0.05)
    assert np.all(client.get("mcs:mca1") == 0)


@pytest.mark.parametrize("mode", ["Ext. Trigger", "Mult. Trigger"])
def test_position_compare_starts_frames_exactly_at_their_angles(client, camera, mode, wait_until):
    camera(5, period=0.05)
    client.put("phi.VELO", 20.0)
    client.put("phi", 0.0)
    client.put("phi.VELO", 4.0)
    for name, value in {"compare_start": 1.5, "compare_step": 0.2}.items():
        client.put(f"sim:{name}", value)
    client.put("cam1:TriggerMode", mode)
    completed = client.start("cam1:Acquire", 1)
    wait_until(lambda: client.get("cam1:Armed") == 1)

    client.put("phi", 5.0)
    wait_until(completed)

    angles = client.get("sim:angles")
    client.put("phi.VELO", 20.0)
    np.testing.assert_allclose(angles, 1.5 + 0.2 * np.arange(5), atol=1e-6)


def test_the_threshold_takes_its_time_and_puts_tell(client):
    client.put("cam1:ThresholdEnergy", 8.0)

    assert client.text("cam1:DetectorState_RBV") in ("Idle", "Error")
    assert client.get("cam1:ThresholdEnergy_RBV") == 8.0
    assert client.get("cam1:Energy_RBV") == client.get("cam1:Energy")
