"""Our own devices, and one of ophyd-async, pass the test kit; broken ones do not."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from offbragg.beamline import config as beamline
from offbragg.files.journal_folder import journals
from offbragg.files.scan_file import ScanFile
from offbragg.followers.follow import follow
from offbragg.followers.stacker import Stacker
from offbragg.plans import rotation_scan
from offbragg.sweep import Sweep
from offbragg.testing import (
    AxisTests,
    DetectorTests,
    FlyerTests,
    PermitTests,
    SampleEnvironmentTests,
    kit_run_engine,  # noqa: F401
)

ROOT = Path(__file__).parents[2]
SHORT = Sweep("phi", 0.0, 0.1, 8, exposure=0.049, period=0.05)


@pytest.mark.ioc
class TestPilatus(DetectorTests):
    sweep = SHORT
    bad_sweep = Sweep("phi", 0.0, 0.1, 8, exposure=0.05, period=0.05)

    @pytest.fixture
    def device(self, devices):
        return devices["pilatus"]


@pytest.mark.ioc
class TestRotationAxis(AxisTests):
    sweep = SHORT
    bad_sweep = Sweep("phi", 1e6, 0.1, 8, exposure=0.049, period=0.05)

    @pytest.fixture
    def device(self, devices):
        return devices["phi"]

    @pytest.fixture
    def detector(self, devices):
        return devices["pilatus"]  # knows its start: read-backs are recorded


@pytest.mark.ioc
class TestMonitor(FlyerTests):
    sweep = SHORT

    @pytest.fixture
    def device(self, devices):
        return devices["monitor"]

    @pytest.fixture
    def detector(self, devices):
        return devices["pilatus"]


@pytest.mark.ioc
class TestCryostream(SampleEnvironmentTests):
    values = (299.0, 300.0)
    bad_value = 1e4
    tolerance = 1.0

    @pytest.fixture
    def device(self, devices):
        return devices["cryostream"]


@pytest.mark.ioc
class TestPermit(PermitTests):
    @pytest.fixture
    def device(self, devices):
        return devices["permit"]


def async_camera(folder: Path):
    pytest.importorskip("ophyd_async")
    geometry = beamline.load(ROOT / "profiles" / "profile_offbragg" / "beamline.toml")
    snippet = runpy.run_path(str(ROOT / "docs" / "snippets" / "my_async_detector.py"))
    camera = snippet["AsyncCamera"](
        name="camera", frames=str(folder), geometry=geometry.make_geometry()
    )
    camera.wait_for_connection()
    return camera


class TestDetectorOfOphydAsync(DetectorTests):
    sweep = SHORT
    bad_sweep = Sweep("phi", 0.0, 0.1, 8, exposure=0.05, period=0.05)

    @pytest.fixture
    def device(self, tmp_path):
        return async_camera(tmp_path)


@pytest.mark.ioc
def test_frames_of_an_ophyd_async_detector_arrive_in_the_scan_file(RE, config, devices, tmp_path):
    (frames := tmp_path / "frames").mkdir()
    camera = async_camera(frames)

    RE(rotation_scan(camera, devices["phi"], SHORT))

    newest = max(journals(config.paths.journal), key=lambda path: path.stat().st_mtime)
    only = tmp_path / "journal"
    only.mkdir()
    shutil.copy(newest, only)
    follow(only, [Stacker(tmp_path / "experiment", late=2.0)], once=True)
    (path,) = (tmp_path / "experiment").rglob("f1.h5")
    with ScanFile.open(path) as scan:
        assert set(scan.ledger.statuses) == {"stored"}
        assert [int(scan.stack.counts[n][0, 0]) for n in range(SHORT.n_frames)] == list(range(8))


def test_a_detector_that_writes_hdf5_is_refused_by_its_first_frame(kit_run_engine, tmp_path):  # noqa: F811
    pytest.importorskip("ophyd_async")
    from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider
    from ophyd_async.sim import SimBlobDetector

    from offbragg.devices.async_detector import AsyncDetector
    from offbragg.errors import DeviceError
    from offbragg.testing import StandInAxis

    blobs = SimBlobDetector(StaticPathProvider(UUIDFilenameProvider(), tmp_path), name="blobs")
    detector = AsyncDetector(blobs, shape=(240, 320))
    detector.wait_for_connection()

    with pytest.raises(DeviceError, match="blobs writes application/x-hdf5"):
        kit_run_engine(rotation_scan(detector, StandInAxis("phi"), SHORT))


BROKEN = """
import threading

import pytest
from my_detector import Camera as Whole
from test_my_detector import TestCamera as Kit


class Skipping(Whole):
    def collect_asset_docs(self, index=None):
        for name, doc in super().collect_asset_docs(index):
            if name == "stream_datum":
                later = int(doc["indices"]["start"] > 0)
                for key in ("indices", "seq_nums"):
                    doc[key] = {edge: number + later for edge, number in doc[key].items()}
            yield name, doc


class Careless(Whole):
    def check(self, sweep):
        pass


class Unstoppable(Whole):
    def stop(self, *, success=False):
        pass

    def unstage(self):
        raise RuntimeError("no way")


class Overwriting(Whole):
    def prepare(self, sweep):
        status = super().prepare(sweep)
        self._directory = self._frames
        return status


def kit(cls):
    class Tests(Kit):
        @pytest.fixture
        def device(self, tmp_path_factory, tmp_path):
            from offbragg.geometry import Axis, Geometry, Panel

            directions = (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)
            panel = Panel((8.0, 17.0, 100.0), *directions, (0.172, 0.172), (20, 30))
            geometry = Geometry(0.7, panel, (Axis("phi", (-1.0, 0.0, 0.0)),), "phi")
            folder = tmp_path_factory.getbasetemp() / cls.__name__
            folder.mkdir(exist_ok=True)
            return cls(name="camera", frames=str(folder), geometry=geometry)

    return Tests


TestSkipping, TestCareless, TestUnstoppable, TestOverwriting = map(
    kit, (Skipping, Careless, Unstoppable, Overwriting)
)
"""

FOUND = {
    "Skipping": "test_its_indices_are_contiguous_and_complete",
    "Careless": "test_a_bad_sweep_is_refused_before_anything_moves",
    "Unstoppable": "test_staging_and_unstaging_can_be_repeated",
    "Overwriting": "test_two_sweeps_share_no_file",
}


def test_a_third_party_runs_the_kit_which_finds_what_is_broken(tmp_path):
    for name in ("my_detector", "test_my_detector"):
        shutil.copy(ROOT / "docs" / "snippets" / f"{name}.py", tmp_path)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["offbragg.testing"]\n')
    (tmp_path / "test_broken.py").write_text(BROKEN)

    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=native", "-p", "no:cacheprovider",
         "test_my_detector.py",
         *(f"test_broken.py::Test{cls}::{test}" for cls, test in FOUND.items())],
        capture_output=True, text=True, cwd=tmp_path, timeout=120,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip

    failed = re.findall(r"^(?:FAILED|ERROR) \S+::Test(\w+)::(\w+)", ran.stdout, re.MULTILINE)
    assert set(failed) == set(FOUND.items()), ran.stdout[-3000:]
    assert "8 passed" in ran.stdout
