"""What DIALS makes of a scan file: it is asked itself, where it is installed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import hdf5plugin
import numpy as np
import pytest

from offbragg.files.scan_writer import ScanWriter
from offbragg.frame import Frame
from offbragg.geometry import Geometry
from offbragg.instrument import Axis, Panel
from offbragg.ledger import FrameStatus
from offbragg.sweep import Sweep

PYTHON = "/usr/bin/python3"  # the Debian package's
SHAPE = (20, 30)
SCRIPT = """
import json, sys
from dxtbx.model.experiment_list import ExperimentListFactory

def as_list(array):
    return array.as_numpy_array().tolist()

answers = []
for path in sys.argv[1:]:
    experiments = ExperimentListFactory.from_filenames([path])
    answer = {"n": len(experiments)}
    for found in experiments:
        panel, turns = found.detector[0], found.goniometer
        images = found.imageset
        answer |= {
            "wavelength": found.beam.get_wavelength(), "s0": found.beam.get_unit_s0(),
            "origin": panel.get_origin(), "fast": panel.get_fast_axis(),
            "slow": panel.get_slow_axis(), "pixel": panel.get_pixel_size(),
            "trusted": panel.get_trusted_range(), "names": list(turns.get_names()),
            "axes": [list(axis) for axis in turns.get_axes()], "angles": list(turns.get_angles()),
            "scanned": turns.get_scan_axis(), "oscillation": found.scan.get_oscillation(),
            "exposure": list(found.scan.get_exposure_times()),
            "counts": [as_list(images.get_raw_data(i)[0]) for i in range(len(images))],
            "good": [as_list(images.get_mask(i)[0]) for i in range(len(images))],
        }
    answers.append(answer)
print(json.dumps(answers))
"""


def _is_there() -> bool:
    try:
        return not subprocess.run(
            [PYTHON, "-c", "import dxtbx"], capture_output=True, timeout=60
        ).returncode
    except OSError:
        return False


pytestmark = pytest.mark.skipif(not _is_there(), reason="DIALS is not installed")


@pytest.fixture(scope="module")
def start() -> dict:
    tilt = np.radians(30.0)
    panel = Panel(
        origin=(2.7, 1.9, 100.0),
        fast=(-float(np.cos(tilt)), 0.0, float(np.sin(tilt))),
        slow=(0.0, -1.0, 0.0),
        pixel_size=(0.172, 0.172),
        shape=SHAPE,
    )
    axes = (Axis("phi", (0.0, 1.0, 0.0), -5.0), Axis("chi", (0.0, 0.0, 1.0), -90.0))
    geometry = Geometry(wavelength=0.6889, panel=panel, axes=axes, scan_axis="phi")
    return {
        "uid": "asked",
        "time": 1.77e9,
        "sample": {"name": "a", "label": "b"},
        "sweep": Sweep("phi", -5.0, 0.5, 6, 0.097, 0.1).to_dict(),
        "geometry": geometry.to_dict(),
        "detector": {
            "model": "PILATUS 100K", "saturation": 1000.0, "shape": SHAPE,
            "sensor_material": "Si", "sensor_thickness": 0.45,
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def answers(tmp_path_factory, start) -> list[dict]:
    folder = tmp_path_factory.mktemp("asked")
    paths = [
        _written(folder, "f1.h5", start),
        _written(folder, "f2.h5", start | {"geometry": None}),
    ]
    done = subprocess.run(
        [PYTHON, "-c", SCRIPT, *paths],
        env=os.environ | {"HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _counts(number: int) -> np.ndarray:
    counts = np.arange(600, dtype=np.int32).reshape(SHAPE) + number
    counts[:3] = -1  # a gap
    counts[5, 5] = -2  # a dead pixel
    counts[6, 6] = 2000  # more than the counter counts
    return counts


def _written(folder: Path, name: str, start: dict) -> Path:
    with ScanWriter.create(folder, start=start, name=name) as scan:
        for number in (0, 1, 2, 4, 5):
            scan.write_frame(Frame(number, _counts(number)), source="x", time=1.77e9)
        scan.mark(3, FrameStatus.MISSING, "lost")
        scan.finish(time=1.77e9 + 9, exit_status="success", reason="", summary={})
        return scan.path


def test_the_same_beam_panel_goniometer_and_scan(answers, start):
    seen, panel = answers[0], start["geometry"]["panel"]

    turned = np.array([-1.0, 1.0, -1.0])  # McStas to imgCIF: by 180 degrees about y
    assert seen["n"] == 1
    assert seen["wavelength"] == pytest.approx(0.6889)
    np.testing.assert_allclose(seen["s0"], [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(seen["origin"], panel["origin"] * turned, atol=1e-6)
    np.testing.assert_allclose(seen["fast"], panel["fast"] * turned, atol=1e-9)
    np.testing.assert_allclose(seen["slow"], panel["slow"] * turned, atol=1e-9)
    np.testing.assert_allclose(seen["pixel"], [0.172, 0.172])
    assert seen["names"] == ["phi", "chi"]
    np.testing.assert_allclose(
        seen["axes"], [axis["vector"] * turned for axis in start["geometry"]["axes"]], atol=1e-9
    )
    np.testing.assert_allclose(seen["angles"], [-5.0, -90.0])
    assert seen["scanned"] == 0
    np.testing.assert_allclose(seen["oscillation"], [-5.0, 0.5])
    np.testing.assert_allclose(seen["exposure"], 0.1, atol=0.0031)


def test_it_trusts_nothing_that_was_not_counted(answers):
    counts, good = np.array(answers[0]["counts"]), np.array(answers[0]["good"])

    for number in (0, 1, 2, 4, 5):
        np.testing.assert_array_equal(counts[number], _counts(number))
        expected = (_counts(number) >= 0) & (_counts(number) <= 1000)
        np.testing.assert_array_equal(good[number], expected)
    assert (counts[3] == -1).all()
    assert not good[3].any()  # the frame that is missing


def test_it_does_not_take_a_file_without_a_geometry_for_nxmx(answers):
    assert answers[1] == {"n": 0}
