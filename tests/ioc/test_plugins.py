"""The plug-ins over Channel Access: image1, Stats1 and HDF1 do their work on the frames written."""

from __future__ import annotations

import time

import fabio
import h5py
import numpy as np
import pytest

pytestmark = pytest.mark.ioc


@pytest.fixture
def enabled(client):
    """Enable plug-ins; they are disabled again at the end."""
    used = []

    def enable(*names: str) -> None:
        used.extend(names)
        for name in names:
            client.put(f"{name}:ArrayCounter", 0)
            client.put(f"{name}:EnableCallbacks", 1)
            client.put(f"{name}:BlockingCallbacks", 1)

    yield enable
    for name in used:
        client.put(f"{name}:EnableCallbacks", 0)
        client.put(f"{name}:BlockingCallbacks", 0)


@pytest.fixture
def hdf(client, enabled, camera, tmp_path):
    """HDF1, primed, streaming to a file of its own; the camera makes TIFF files."""

    def prepare(n_images: int, *, n_capture: int, prime: bool = True, **changes) -> None:
        enabled("HDF1")
        (tmp_path / "h5").mkdir(exist_ok=True)
        settings = {
            "FilePath": str(tmp_path / "h5"), "FileName": "s", "FileTemplate": "%s%s_%3.3d.h5",
            "FileNumber": 4, "AutoIncrement": 1, "FileWriteMode": "Stream", "LazyOpen": 0,
            "NumCapture": n_capture, "CreateDirectory": 0, "Compression": "None",
        }  # fmt: skip
        for name, value in (settings | changes).items():
            client.put(f"HDF1:{name}", value)
        camera(n_images)
        if prime:
            client.put("cam1:NumImages", 1)
            client.put("cam1:Acquire", 1)
            client.put("cam1:NumImages", n_images)
            client.put("cam1:FileNumber", 100)

    yield prepare
    client.send("HDF1:Capture", 0)


def test_image_and_statistics_are_those_of_the_file(client, enabled, camera, tmp_path):
    enabled("image1", "Stats1")
    client.put("Stats1:ComputeCentroid", 1)
    camera(2)

    client.put("cam1:Acquire", 1)

    counts = fabio.open(str(tmp_path / "x_001.cbf")).data
    image = client.get("image1:ArrayData").reshape(counts.shape)
    np.testing.assert_array_equal(image, counts)
    assert client.get("image1:ArrayCounter_RBV") == 2
    assert client.get("image1:UniqueId_RBV") == client.get("cam1:ArrayCounter_RBV")
    assert client.text("image1:DataType_RBV") == "Int32"
    assert list(client.get("image1:Dimensions_RBV"))[:2] == [487, 195]
    assert client.get("Stats1:Total_RBV") == counts.sum()
    assert client.get("Stats1:MaxValue_RBV") == counts.max()
    assert client.get("Stats1:MeanValue_RBV") == pytest.approx(counts.mean())
    assert client.get("Stats1:Sigma_RBV") == pytest.approx(counts.std())
    x, y = (round(client.get(f"Stats1:Max{axis}_RBV")) for axis in "XY")
    assert counts[y, x] == counts.max()
    weight = np.where(counts >= 1, counts, 0).astype(float)
    expected = (weight.sum(axis=0) @ np.arange(487)) / weight.sum()
    assert client.get("Stats1:CentroidX_RBV") == pytest.approx(expected)


def test_a_disabled_plugin_sees_nothing(client, enabled, camera):
    enabled("ROI1")
    client.put("ROI1:EnableCallbacks", 0)
    camera(2)

    client.put("cam1:Acquire", 1)

    assert client.get("ROI1:ArrayCounter_RBV") == 0


def test_capture_is_refused_silently_before_the_first_frame(serve, elsewhere, tmp_path):
    _, announced = serve("--prefix", "F:")

    found = elsewhere(
        announced,
        f"""
for name, value in dict(EnableCallbacks=1, FilePath={str(tmp_path)!r}, FileName="a",
                        FileTemplate="%s%s.h5", FileWriteMode=2, NumCapture=1).items():
    assert caput("F:HDF1:" + name, value, wait=True, timeout=10) == 1
caput("F:HDF1:Capture", 1, wait=True, timeout=5)
refused = [caget("F:HDF1:" + name, as_string=True)
           for name in ("Capture_RBV", "WriteStatus", "WriteMessage")]
caput("F:HDF1:LazyOpen", 1, wait=True, timeout=5)
caput("F:HDF1:Capture", 1)
import time; time.sleep(0.5)
lazy = [caget("F:HDF1:" + name, as_string=True)
        for name in ("Capture_RBV", "WriteFile_RBV", "WriteMessage")]
caput("F:HDF1:Capture", 0, wait=True, timeout=5)
print(json.dumps([refused, lazy]))
""",
    )

    assert found == [["Done", "Write OK", ""], ["Capturing", "Writing", "Lazy Open..."]]


def test_ophyd_calls_a_fresh_plugin_unprimed_and_warms_it_up(serve, elsewhere, tmp_path):
    _, announced = serve("--prefix", "U:")

    found = elsewhere(
        announced,
        f"""
from ophyd import Component as Cpt, Device
from ophyd.areadetector.cam import PilatusDetectorCam
from ophyd.areadetector.plugins import HDF5Plugin_V35, UnprimedPlugin

class Cam(PilatusDetectorCam):
    pool_max_buffers = None

class Detector(Device):
    cam = Cpt(Cam, "cam1:")
    hdf1 = Cpt(HDF5Plugin_V35, "HDF1:")

for name, value in dict(FilePath={str(tmp_path)!r}, FileName="w",
                        FileTemplate="%s%s_%3.3d.cbf").items():
    assert caput("U:cam1:" + name, value, wait=True, timeout=10) == 1
detector = Detector("U:", name="pilatus")
states = []
for _ in range(2):
    try:
        detector.hdf1.stage()
        states.append("staged")
    except UnprimedPlugin:
        states.append("unprimed")
        detector.hdf1.warmup()
print(json.dumps(states))
""",
    )

    assert found == ["unprimed", "staged"]


def test_a_stream_is_a_file_with_the_layout_of_the_real_one(client, hdf, tmp_path, wait_until):
    hdf(6, n_capture=4)
    completed = client.start("HDF1:Capture", 1)
    wait_until(lambda: client.text("HDF1:Capture_RBV") == "Capturing")

    client.put("cam1:Acquire", 1)
    wait_until(completed)

    assert client.text("HDF1:FullFileName_RBV") == f"{tmp_path}/h5/s_004.h5"
    assert client.get("HDF1:FileNumber_RBV") == 5
    assert client.get("HDF1:NumCaptured_RBV") == 4
    with h5py.File(tmp_path / "h5" / "s_004.h5") as file:
        data = file["/entry/data/data"]
        assert data.shape == (4, 195, 487)
        assert data.dtype == np.int32
        assert data.chunks == (1, 195, 487)
        for i in range(4):
            counts = fabio.open(str(tmp_path / f"x_{100 + i}.cbf")).data
            np.testing.assert_array_equal(data[i], counts)
        attributes = file["/entry/instrument/NDAttributes"]
        assert np.all(np.diff(attributes["NDArrayUniqueId"]) == 1)
        began = attributes["NDArrayTimeStamp"][0] + 631152000
        assert time.time() - 60.0 < began < time.time()
        assert {"NDArrayEpicsTSSec", "NDArrayEpicsTSnSec"} <= attributes.keys()
        assert file["/entry/instrument/performance/timestamp"].shape == (4, 5)


def test_a_capture_of_more_frames_than_come_ends_by_hand_and_the_file_is_whole(
    client, hdf, tmp_path, wait_until
):
    hdf(3, n_capture=10, Compression="BSLZ4")
    client.start("HDF1:Capture", 1)
    wait_until(lambda: client.text("HDF1:Capture_RBV") == "Capturing")

    client.put("cam1:Acquire", 1)
    assert client.text("HDF1:Capture_RBV") == "Capturing"
    client.send("HDF1:Capture", 0)

    wait_until(lambda: client.text("HDF1:Capture_RBV") == "Done")
    import hdf5plugin  # noqa: F401  # registers the filter

    with h5py.File(tmp_path / "h5" / "s_004.h5") as file:
        counts = fabio.open(str(tmp_path / "x_102.cbf")).data
        np.testing.assert_array_equal(file["/entry/data/data"][2], counts)


def test_a_bad_path_gives_an_error_per_frame_and_capture_stays_on(
    client, hdf, tmp_path, wait_until
):
    hdf(3, n_capture=3, FilePath=str(tmp_path / "nowhere"), LazyOpen=1)
    assert client.text("HDF1:FilePathExists_RBV") == "No"
    client.start("HDF1:Capture", 1)
    wait_until(lambda: client.text("HDF1:Capture_RBV") == "Capturing")

    client.put("cam1:Acquire", 1)

    assert client.text("HDF1:WriteStatus") == "Write error"
    assert client.text("HDF1:WriteMessage").startswith("Error opening file")
    assert client.get("HDF1:FileNumber_RBV") == 7
    assert client.text("HDF1:Capture_RBV") == "Capturing"


def test_directories_are_created_as_deep_as_allowed(client, hdf, tmp_path):
    hdf(1, n_capture=1, CreateDirectory=-2)
    client.put("HDF1:FilePath", str(tmp_path / "a" / "b"))
    assert client.text("HDF1:FilePathExists_RBV") == "Yes"
    client.put("HDF1:FilePath", str(tmp_path / "c" / "d" / "e"))

    assert client.text("HDF1:FilePathExists_RBV") == "No"
    assert (tmp_path / "a" / "b").is_dir()


def test_a_scan_with_ophyds_file_store_has_every_frame(ioc, tmp_path, client, camera):
    """The scan that was proven on the real IOC: image, HDF5 per point, three frames each."""
    from bluesky import RunEngine
    from bluesky.plans import scan
    from ophyd import Component as Cpt
    from ophyd import DetectorBase, EpicsMotor, SingleTrigger
    from ophyd.areadetector.cam import PilatusDetectorCam
    from ophyd.areadetector.filestore_mixins import FileStoreHDF5IterativeWrite
    from ophyd.areadetector.plugins import HDF5Plugin_V35

    class Cam(PilatusDetectorCam):
        pool_max_buffers = None

    class Hdf(HDF5Plugin_V35, FileStoreHDF5IterativeWrite):
        pass

    class Detector(SingleTrigger, DetectorBase):
        cam = Cpt(Cam, "cam1:")
        hdf1 = Cpt(Hdf, "HDF1:", write_path_template=str(tmp_path))

    camera(3, template="%s%s_%4.4d.cbf")
    client.put("cam1:AutoIncrement", 1)
    client.put("HDF1:EnableCallbacks", 1)
    detector = Detector(ioc["prefix"], name="pilatus")
    detector.hdf1.kind = "normal"
    detector.stage_sigs["cam.num_images"] = 3
    detector.stage_sigs["cam.image_mode"] = "Multiple"
    client.put("cam1:NumImages", 1)
    client.put("cam1:Acquire", 1)  # primes HDF1
    motor = EpicsMotor(f"{ioc['prefix']}chi", name="chi")
    motor.wait_for_connection(timeout=20)
    documents = []

    RunEngine({})(scan([detector], motor, 0, 2, 3), lambda name, doc: documents.append((name, doc)))

    files = list(tmp_path.glob("*.h5"))
    client.put("HDF1:EnableCallbacks", 0)
    motor.set(0.0).wait(20)
    assert len(files) == 1
    with h5py.File(files[0]) as file:
        assert file["/entry/data/data"].shape == (9, 195, 487)
    assert [name for name, _ in documents].count("event") == 3
    assert [name for name, _ in documents].count("datum") == 3
