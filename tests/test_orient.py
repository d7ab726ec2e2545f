"""``offbragg index``: from scan files to orientation.json, to the next start document."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import numpy as np
import pytest
from bluesky.preprocessors import SupplementalData

from offbragg.errors import OrientationError
from offbragg.files.dials_spots import read_spots
from offbragg.files.orientation import read_orientation
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_writer import ScanWriter
from offbragg.frame import Frame
from offbragg.geometry import Geometry
from offbragg.instrument import Axis, Panel
from offbragg.plans.defaults import Defaults
from offbragg.reduction.peaks import Peaks, find_peaks
from offbragg.shell.session import _names, with_orientation
from offbragg.sweep import Sweep
from offbragg.workflows.index import find_orientation
from sim_iocs import crystal as sim

CUBIC = [sim.LATTICE] * 3 + [90.0] * 3


def geometry() -> Geometry:
    return Geometry(
        sim.WAVELENGTH,
        Panel(
            tuple(sim.panel_origin("100K")), sim.FAST, sim.SLOW, (sim.PIXEL,) * 2,
            sim.SHAPES["100K"],
        ),
        tuple(Axis(name, vector) for name, vector in sim.AXES.items()),
        "phi",
    )  # fmt: skip


def scan_file(
    folder: Path, *, n_frames: int = 60, frames: bool = True, name: str = "KMnF3", **start: Any
) -> Path:
    """A scan file of the simulator's crystal, as a beamline would write it."""
    sweep = Sweep("phi", 0.0, 1.5, n_frames, 0.1, 0.1)
    document = {
        "uid": f"run-{name}-{len(start)}",
        "time": 1.7e9,
        "beamline_id": "test",
        "sample": {"name": name, "label": "x1", "lattice": CUBIC, "space_group": "P m -3 m"},
        "sweep": sweep.to_dict(),
        "geometry": geometry().to_dict(),
        "detector": {
            "sensor_material": "Si", "sensor_thickness": 0.45, "shape": sim.SHAPES["100K"],
            "saturation": sim.CUTOFF,
        },
    } | start  # fmt: skip
    scan = ScanWriter.create(folder, start=document)
    crystal = sim.Crystal("100K", seed=1)
    for number in range(n_frames if frames else 0):
        if number == 7:
            scan.mark(number, "missing", "was not there")
            continue
        angles = tuple((1.5 * (number + i), 0, 0) for i in (0, 1))
        counts = crystal.count(sim.Exposure(number=number, angles=angles))
        scan.write_frame(Frame(number, counts), source=f"x_{number}.cbf", time=1.7e9 + number)
    scan.finish(time=1.7e9 + 60, exit_status="success", reason="", summary={})
    return scan.path


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    return scan_file(tmp_path_factory.mktemp("experiment") / "KMnF3" / "x1_orient" / "300K")


def nearest_turn(UB: np.ndarray) -> float:
    """Degrees to the simulator's UB, over the rotations of a cube."""
    best = 180.0
    for axes in np.array(np.meshgrid(*[[-1, 1]] * 3)).T.reshape(-1, 3):
        for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1], [2, 1, 0], [1, 0, 2]):
            w = np.eye(3)[:, order] * axes
            if np.linalg.det(w) > 0:
                u, _, v = np.linalg.svd(UB @ w @ np.linalg.inv(sim.orientation()))
                best = min(best, np.degrees(np.arccos(np.clip((np.trace(u @ v) - 1) / 2, -1, 1))))
    return best


@pytest.mark.parametrize("unknown", [False, True])
def test_the_simulators_orientation_is_written_beside_its_scan_file(measured, tmp_path, unknown):
    before = hashlib.sha256(measured.read_bytes()).hexdigest()
    out = tmp_path / "orientation.json"

    found = find_orientation([measured], unknown_cell=unknown, out=out)

    written = read_orientation(out)
    assert nearest_turn(np.array(written.UB)) < 0.02
    np.testing.assert_allclose(written.lattice, CUBIC, rtol=5e-4)
    assert written.source["files"][0]["sha256"] == before
    assert written.source["files"][0]["run"] == "run-KMnF3-0"
    assert written.residuals["bravais"] == "cP"
    assert written.residuals["fraction"] > 0.5
    assert written.geometry is None
    assert found.picture is not None
    assert found.picture.read_bytes().startswith(b"\x89PNG")
    assert hashlib.sha256(measured.read_bytes()).hexdigest() == before


def test_the_command_line_tells_people_and_machines(measured):
    def offbragg(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "offbragg", "index", str(measured), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    people = offbragg("--refine", "beam")
    machines = offbragg("--json", "--no-picture")
    mistaken = offbragg("--cell", "5,5")
    wrong = offbragg("--cell", "5.7,5.7,5.7,90,90,90")

    assert people.returncode == 0, people.stderr
    assert "peaks indexed" in people.stdout
    assert "panel      fast:" in people.stdout
    result = json.loads(machines.stdout)
    assert result["path"] == str(measured.parent / "orientation.json")
    assert result["kept"].endswith("orientation_1.json")
    assert read_orientation(result["kept"]).geometry is not None
    assert mistaken.returncode == 2
    assert "six numbers" in " ".join(mistaken.stderr.replace("│", " ").split())
    assert wrong.returncode == OrientationError.exit_code
    assert "Traceback" not in wrong.stderr
    assert "--unknown-cell" in wrong.stderr


def test_the_next_sample_of_that_mount_has_its_UB(measured):
    find_orientation([measured], picture=False)
    experiment = measured.parents[3]

    sample, message = with_orientation({"name": "KMnF3", "label": "x1"}, experiment)

    path = measured.parent / "orientation.json"
    assert sample["UB"] == [list(row) for row in read_orientation(path).UB]
    assert f"UB from {path}" in message
    assert with_orientation({"name": "KMnF3", "label": "x1"}, experiment, False)[1] == ""
    assert with_orientation({"name": "KMnF3", "label": "x2"}, experiment)[1] == ""
    assert with_orientation(sample, experiment) == (sample, "")
    with pytest.raises(OrientationError, match=r"no orientation\.json of KMnF3 x2"):
        with_orientation({"name": "KMnF3", "label": "x2"}, experiment, True)
    with pytest.raises(OrientationError, match="has the lattice"):
        with_orientation({"name": "KMnF3", "label": "x1", "lattice": [5.0] * 3 + [90.0] * 3},
                         experiment, path)  # fmt: skip


def test_sample_at_the_prompt_takes_it_and_says_so(measured, capsys):
    find_orientation([measured], picture=False)
    RE: Any = SimpleNamespace(md={}, preprocessors=[SupplementalData()])
    config: Any = SimpleNamespace(paths=SimpleNamespace(experiment=measured.parents[3]))
    sample: Any = _names(RE, config, Defaults())["sample"]

    mounted = sample(name="KMnF3", label="x1", formula="KMnF3")
    output = capsys.readouterr().out
    without = sample(name="KMnF3", label="x1", orientation=False)
    again = sample(orientation=measured.parent / "orientation.json")

    UB = read_orientation(measured.parent / "orientation.json").UB
    assert mounted.UB == again.UB == UB
    assert f"UB from {measured.parent / 'orientation.json'} (found 20" in output
    assert without.UB is None
    assert RE.md["sample"]["UB"] == [list(row) for row in UB]


def test_frames_that_are_all_missing_are_refused(tmp_path):
    path = scan_file(tmp_path, n_frames=5, frames=False)

    with pytest.raises(OrientationError, match=r"f1\.h5: none of the 5 frames is there"):
        find_orientation([path])


def test_a_file_without_geometry_is_refused(tmp_path):
    path = scan_file(tmp_path, n_frames=2, geometry=None)

    with pytest.raises(Exception, match="does not say where beam, panel and axes were"):
        find_orientation([path])


def test_mounts_are_not_mixed(tmp_path, measured):
    other = scan_file(tmp_path, n_frames=2, name="other")

    with pytest.raises(OrientationError, match=r"is of other x1, but .* of KMnF3 x1"):
        find_orientation([measured, other])


def test_what_is_no_file_or_no_place_is_refused(tmp_path, measured):
    with pytest.raises(OrientationError, match="is not a file"):
        find_orientation([tmp_path / "f9.h5"])
    with pytest.raises(OrientationError, match=r"name ends with \.json"):
        find_orientation([measured], out=measured)
    with pytest.raises(OrientationError, match="does not exist"):
        find_orientation([measured], out=tmp_path / "no" / "orientation.json")
    with pytest.raises(OrientationError, match="centring 'X' is unknown"):
        find_orientation([measured], centring="X", out=tmp_path / "o.json")


# -- spots of DIALS --------------------------------------------------------------------------------


def reflection_table(path: Path, peaks: Peaks, **more: Any) -> Path:
    """Write peaks as DIALS writes its spots."""
    n = len(peaks)
    at = np.stack([peaks.x, peaks.y, peaks.z], axis=1)
    box = np.stack([np.floor(at) - 1, np.floor(at) + 2], axis=2).reshape(n, 6)
    columns = {
        "xyzobs.px.value": ["vec3<double>", [n, at.astype("<f8").tobytes()]],
        "bbox": ["int6", [n, box.astype("<i4").tobytes()]],
        "intensity.sum.value": ["double", [n, peaks.intensity.astype("<f8").tobytes()]],
        "id": ["int", [n, np.zeros(n, "<i4").tobytes()]],
        "panel": ["std::size_t", [n, np.zeros(n, "<u8").tobytes()]],
        "shoebox": ["Shoebox<>", [n, b"what is not read"]],
    } | more
    table = ["dials::af::reflection_table", 1,
             {"identifiers": {0: "x"}, "nrows": n, "data": columns}]  # fmt: skip
    path.write_bytes(msgpack.packb(table))
    return path


def test_spots_of_dials_instead_of_our_own(tmp_path):
    path = scan_file(tmp_path)
    own = find_orientation([path], out=tmp_path / "own.json", picture=False)
    with ScanFile.open(path) as scan:
        stored = np.array([str(each) == "stored" for each in scan.ledger.statuses])
        peaks = find_peaks(
            scan.stack, stored=stored, mask=scan.pixel_mask() != 0, saturation=sim.CUTOFF
        )
    spots = reflection_table(tmp_path / "strong.refl", peaks)

    done = subprocess.run(
        [sys.executable, "-m", "offbragg", "index", str(path), "--spots", str(spots), "--out",
         str(tmp_path / "theirs.json"), "--no-picture"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    theirs = read_orientation(tmp_path / "theirs.json")
    np.testing.assert_allclose(theirs.UB, own.orientation.UB, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"panel": ["std::size_t", [2, np.array([0, 1], "<u8").tobytes()]]}, "several panels"),
        ({"id": ["int", [2, np.array([0, 1], "<i4").tobytes()]]}, "several sweeps"),
        ({"bbox": ["int6", [2, b"short"]]}, "no column bbox"),
        ({"xyzobs.px.value": ["vec3<double>", [2, np.full(6, 61.0, "<f8").tobytes()]]},
         "frame 61.0, and the sweep has 487 columns, 195 rows and 60 frames"),
    ],
)  # fmt: skip
def test_spots_that_are_not_of_the_sweep_are_refused(tmp_path, more, message):
    two = np.array([1.5, 2.5])
    peaks = Peaks(two, two, two, two, two, np.ones(2, np.bool_), {})
    spots = reflection_table(tmp_path / "strong.refl", peaks, **more)

    with pytest.raises(OrientationError, match=message):
        read_spots(spots, n_frames=60, panel=(195, 487))


def test_a_file_that_is_no_reflection_table_is_refused(tmp_path):
    path = tmp_path / "x.refl"
    for content in (b"", b"not MessagePack", msgpack.packb(["a", 1, {}]), msgpack.packb(7)):
        path.write_bytes(content)
        with pytest.raises(OrientationError, match="no reflection table of DIALS"):
            read_spots(path, n_frames=60, panel=(195, 487))
