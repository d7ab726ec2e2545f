"""DIALS finds in our files what it finds in the frame files, and pyFAI integrates the same powder.

The frames are real. DIALS imports them, its own model of them is ours, and it is asked again with
our scan file: stacked from the frame files, and stacked from frames that were adopted.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import fabio
import h5py
import hdf5plugin
import numpy as np
import pytest

from offbragg.files import ScanFile, read_frame
from offbragg.files.dials_spots import read_spots
from offbragg.files.model import Model
from offbragg.files.nxrefine import pyfai_parameters
from offbragg.files.scan_writer import ScanWriter
from offbragg.frame import Frame
from offbragg.workflows.adopt import adopt

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "l-cysteine"
PYTHON = "/usr/bin/python3"  # the Debian package's
N_FRAMES, SHAPE = 8, (1679, 1475)
SOME = [[0.5, 0.5], [1400.5, 30.5], [700.5, 800.5], [12.5, 1600.5]]  # pixels, along fast and slow
POWDER = 5  # frames are enough for a powder
IMPORT = """
import sys
from dials.command_line import dials_import

dials_import.run(["output.experiments=" + sys.argv[1], "output.log=None", *sys.argv[2:]])
"""
# dials.import and dials.find_spots as their commands call them, in one process: their imports are
# half of the time
FIND = (
    f"""
SOME = "{SOME}"
"""
    + """
import json, sys
from dials.command_line import dials_import, find_spots
from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentList
from scitbx import matrix

answers = []
for i, path in enumerate(sys.argv[1:]):
    name = f"{i}.expt" if not path.endswith(".expt") else path
    if name != path:
        dials_import.run([f"output.experiments={name}", "output.log=None", path])
    find_spots.run([name, f"output.reflections={i}.refl", "output.log=None", "nproc=1"])
    spots = flex.reflection_table.from_file(f"{i}.refl")
    found = ExperimentList.from_file(name)[0]
    beam, panel, turns = found.beam, found.detector[0], found.goniometer
    at = panel.get_beam_centre(beam.get_s0())  # mm: in pixels it has the parallax, too
    x, y = (mm / size for mm, size in zip(at, panel.get_pixel_size()))
    met = matrix.col(panel.get_lab_coord(at))
    fast, slow = (matrix.col(axis) for axis in (panel.get_fast_axis(), panel.get_slow_axis()))
    answers.append({
        "wavelength": beam.get_wavelength(), "s0": beam.get_unit_s0(),
        "origin": panel.get_origin(), "fast": fast.elems, "slow": slow.elems,
        "pixel": panel.get_pixel_size(), "size": panel.get_image_size(),
        "thickness": panel.get_thickness(), "material": panel.get_material(),
        "overload": panel.get_trusted_range()[1],
        "names": [each.split("_")[-1].lower() for each in turns.get_names()],
        "axes": [matrix.col(axis).normalize().elems for axis in turns.get_axes()],
        "angles": list(turns.get_angles()),
        "scanned": turns.get_scan_axis(), "oscillation": found.scan.get_oscillation(),
        "images": len(found.imageset), "met": [x, y, met.length()],
        "directions": [
            matrix.col(panel.get_lab_coord((0.172 * x, 0.172 * y))).normalize().elems
            for x, y in json.loads(SOME)
        ],
        "spots": [list(xyz) for xyz in spots["xyzobs.px.value"]],
        "intensities": list(spots["intensity.sum.value"]),
    })
print(json.dumps(answers))
"""
)


def _is_there() -> bool:
    try:
        return not subprocess.run(
            [PYTHON, "-c", "import dials"], capture_output=True, timeout=60
        ).returncode
    except OSError:
        return False


pytestmark = [
    pytest.mark.skipif(not REAL.exists(), reason="../shared/data/l-cysteine is not there"),
    pytest.mark.skipif(not _is_there(), reason="DIALS is not installed"),
]


def _dials(folder: Path, script: str, *arguments: Path) -> str:
    done = subprocess.run(
        [PYTHON, "-c", script, *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"HDF5_PLUGIN_PATH": hdf5plugin.PLUGIN_PATH},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("same")


@pytest.fixture(scope="module")
def model(folder) -> Path:
    """What DIALS makes of the frame files' headers."""
    _dials(folder, IMPORT, folder / "frames.expt", *sorted(REAL.glob("*.cbf"))[:N_FRAMES])
    return folder / "frames.expt"


def _start(model: Path, header: dict, sample: str) -> dict:
    geometry, sweep, _ = Model.read(model).geometry(shape=SHAPE, header=header, n_frames=N_FRAMES)
    return {
        "uid": sample,
        "time": 1.45e9,
        "sample": {"name": sample, "label": "xtal001"},
        "sweep": sweep.to_dict(),
        "geometry": geometry.to_dict(),
        "detector": {
            "sensor_material": "Si", "sensor_thickness": 0.32, "shape": SHAPE,
            "saturation": 388705,
        },
    }  # fmt: skip


def _stacked(folder: Path, start: dict, counts) -> Path:
    with ScanWriter.create(folder, start=start) as scan:
        for number in range(N_FRAMES):
            scan.write_frame(Frame(number, counts[number]), source="x", time=1.45e9)
        scan.finish(time=1.45e9 + 2, exit_status="success", reason="", summary={})
        return scan.path


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return [
        read_frame(path, number=number, shape=SHAPE)
        for number, path in enumerate(sorted(REAL.glob("*.cbf"))[:N_FRAMES])
    ]


@pytest.fixture(scope="module")
def scan_file(folder, model, frames) -> Path:
    start = _start(model, frames[0].header, "stacked")
    return _stacked(folder / "ours", start, [frame.counts for frame in frames])


@pytest.fixture(scope="module")
def adopted(folder, model, frames) -> Path:
    """The same frames as uint32 in somebody's HDF5 file, adopted with the same model."""
    (folder / "theirs").mkdir()
    with h5py.File(folder / "theirs" / "x.h5", "w") as file:
        data = file.create_dataset(
            "entry/data/data", (N_FRAMES, *SHAPE), np.uint32, chunks=(1, *SHAPE), **hdf5plugin.LZ4()
        )
        for frame in frames:
            data[frame.number] = frame.counts.view(np.uint32)
    path = folder / "theirs" / "f1.h5"
    adopt(
        folder / "theirs" / "x.h5", path, model=model, sample="adopted",
        given={"exposure_time": 0.0964, "exposure_period": 0.1},
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def answers(folder, model, scan_file, adopted, frames) -> list[dict]:
    with ScanFile.open(adopted) as scan:
        start = _start(model, frames[0].header, "copied")
        start |= {"geometry": scan.geometry.to_dict(), "sweep": scan.sweep.to_dict()}
        copied = _stacked(folder / "copied", start, scan.stack.counts)
    answered = _dials(folder, FIND, model, scan_file, copied)
    return json.loads(answered.splitlines()[-1])


@pytest.mark.parametrize("which", [1, 2], ids=["stacked", "adopted"])
def test_dials_has_the_same_beam_panel_goniometer_and_scan(answers, which):
    frames, ours = answers[0], answers[which]

    assert ours["names"] == frames["names"] == ["phi", "omega"]
    for key in ("size", "material", "scanned", "images"):
        assert ours[key] == frames[key], key
    for key in (
        "wavelength", "s0", "origin", "fast", "slow", "pixel", "thickness", "overload", "axes",
        "angles", "oscillation",
    ):  # fmt: skip
        np.testing.assert_allclose(ours[key], frames[key], rtol=0, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("which", [1, 2], ids=["stacked", "adopted"])
def test_dials_finds_the_same_spots(answers, which):
    frames, ours = answers[0], answers[which]

    assert len(ours["spots"]) == len(frames["spots"]) > 20
    np.testing.assert_allclose(ours["spots"], frames["spots"], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(ours["intensities"], frames["intensities"])


def test_its_spots_are_read_as_it_has_them(answers, folder):
    found = read_spots(folder / "1.refl", n_frames=N_FRAMES, panel=SHAPE)

    np.testing.assert_array_equal(found.at, answers[1]["spots"])
    np.testing.assert_array_equal(found.intensity, answers[1]["intensities"])
    low, high = found.box[:, ::2], found.box[:, 1::2]
    assert np.all((low <= found.at) & (found.at <= high))


def test_pyfai_integrates_the_same_powder(answers, scan_file, adopted):
    """Its geometry of the frame files comes from where DIALS has the beam meet the panel."""
    integrator = pytest.importorskip("pyFAI.integrator.azimuthal").AzimuthalIntegrator
    x, y, distance = answers[0]["met"]
    s0, fast, slow = (np.array(answers[0][key]) for key in ("s0", "fast", "slow"))
    theirs = integrator(wavelength=0.6889e-10)
    theirs.setFit2D(
        distance, x, y, tilt=np.degrees(np.arccos(abs(np.cross(fast, slow) @ s0))),
        # its plane of the tilt: from the foot of the normal to where the beam meets the panel
        tiltPlanRotation=np.degrees(np.arctan2(s0 @ slow, s0 @ fast)),
        pixelX=172.0, pixelY=172.0,
    )  # fmt: skip
    raw = [fabio.open(str(path)).data for path in sorted(REAL.glob("*.cbf"))[:POWDER]]
    choices = {"mask": raw[0] < 0, "unit": "q_A^-1", "method": "histogram"}
    q, wanted = theirs.integrate1d_ng(sum(raw).astype(float), 800, **choices)
    assert wanted.max() > 5 * np.median(wanted[wanted > 0])  # there is something to see

    for path in (scan_file, adopted):
        with ScanFile.open(path) as scan:
            ours = _integrator_of(integrator, pyfai_parameters(scan.geometry))
            counts = scan.stack.counts[:POWDER].sum(axis=0, dtype=float)
            np.testing.assert_array_equal(scan.pixel_mask() != 0, raw[0] < 0)
        again, powder = ours.integrate1d_ng(counts, 800, **choices)

        np.testing.assert_allclose(again, q, rtol=1e-6)
        np.testing.assert_allclose(powder, wanted, rtol=1e-6, atol=1e-6 * wanted.max())


def test_pyfai_has_the_polarization_of_the_directions_that_dials_gives(answers, scan_file):
    integrator = pytest.importorskip("pyFAI.integrator.azimuthal").AzimuthalIntegrator
    with ScanFile.open(scan_file) as scan:
        ours = _integrator_of(integrator, pyfai_parameters(scan.geometry))

    found = ours.polarization(SHAPE, factor=0.99)

    x, y, _ = np.array(answers[0]["directions"]).T  # the electric field is along x
    wanted = 1.0 - 0.995 * x**2 - 0.005 * y**2
    columns, rows = np.array(SOME).astype(int).T
    np.testing.assert_allclose(found[rows, columns], wanted, atol=1e-6)


def _integrator_of(integrator, panel: dict[str, float]):
    return integrator(
        dist=panel["Distance"], poni1=panel["Poni1"], poni2=panel["Poni2"], rot1=panel["Rot1"],
        rot2=panel["Rot2"], rot3=panel["Rot3"], pixel1=panel["PixelSize1"],
        pixel2=panel["PixelSize2"], wavelength=panel["Wavelength"],
    )  # fmt: skip
