"""Model files of other programs give the hkl of a pixel that the other program gives."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from offbragg.files import read_head
from offbragg.files.model import Model, compare_with_headers
from offbragg.lattice import q_to_hkl

PYTHON = "/usr/bin/python3"  # the Debian package's
SHAPE = (1679, 1475)
SCRIPT = """
import json, sys
from dxtbx.model import (Beam, Crystal, Detector, Experiment, ExperimentList, Goniometer,
    MultiAxisGoniometer, Panel, Scan)
from dxtbx.serialize.xds import to_xds
from scitbx import matrix
from scitbx.array_family import flex

folder, points = sys.argv[1], json.loads(sys.argv[2])
turn = matrix.col((1, 2, 3)).normalize().axis_and_angle_as_r3_rotation_matrix(17, deg=True)
tilt = matrix.col((0.1, 1, 0.2)).normalize().axis_and_angle_as_r3_rotation_matrix(-20, deg=True)
basis = [turn * matrix.col(v) for v in ((5.4, 0, 0), (0.9, 8.1, 0), (0.3, -0.7, 12.2))]

def panel():
    made = Detector()
    made.add_panel(Panel("SENSOR_PAD", "Panel", tilt * matrix.col((1, 0, 0)),
        tilt * matrix.col((0, -1, 0)), tilt * matrix.col((-120.0, 140.0, -190.0)),
        (0.172, 0.172), (1475, 1679), (0, 1e6), 0.32, "Si"))
    return made

def axes(scanned):
    return MultiAxisGoniometer(flex.vec3_double([(0.5774, -0.8165, 0.0), (0, 0, 1), (1, 0, 0)]),
        flex.double([35.0, -20.0, 40.0]), flex.std_string(["GON_PHI", "GON_CHI", "GON_OMEGA"]),
        scanned)

class Sequence:
    def __init__(self, found): self.found = found
    def get_detector(self): return self.found.detector
    def get_beam(self): return self.found.beam
    def get_goniometer(self): return self.found.goniometer
    def get_scan(self): return self.found.scan

answers = {}
for name, scanned in (("outer", 2), ("middle", 1), ("inner", 0), ("single", None)):
    whole = axes(2 if scanned is None else scanned)
    gonio = whole
    if scanned is None:
        gonio = Goniometer(whole.get_rotation_axis_datum(), whole.get_fixed_rotation(),
            turn.elems)
    beam = Beam(matrix.col((0.004, -0.003, 1.0)).normalize(), 0.6889)
    scan = Scan((5, 24), (40.0, 0.5))
    found = Experiment(beam=beam, detector=panel(), goniometer=gonio, scan=scan,
        crystal=Crystal(*basis, space_group_symbol="P1"))
    made = ExperimentList()
    made.append(found)
    made.as_file(folder + "/" + name + ".expt")
    R = [matrix.sqr(m) for m in (gonio.get_setting_rotation(), gonio.get_fixed_rotation())]
    UB = matrix.sqr(found.crystal.get_A())
    if name == "outer":
        inside = [R[1] * matrix.col(v) for v in found.crystal.get_real_space_vectors()]
        to_xds(Sequence(found)).xparm_xds(*inside, 1)
        import io, contextlib
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            again = to_xds(Sequence(found)).xparm_xds(*inside, 1)
        open(folder + "/XPARM.XDS", "w").write(again or text.getvalue())
    hkl = []
    for x, y, z in points:
        s = matrix.col(found.detector[0].get_pixel_lab_coord((x, y))).normalize() / 0.6889
        q = s - matrix.col(beam.get_s0())
        axis = matrix.col(gonio.get_rotation_axis_datum())
        turned = axis.axis_and_angle_as_r3_rotation_matrix(40.0 + 0.5 * z, deg=True)
        hkl.append((R[0] * turned * R[1] * UB).inverse() * q)
    answers[name] = [h.elems for h in hkl]
print(json.dumps(answers))
"""
_RANDOM = np.random.default_rng(1)
POINTS = np.column_stack([_RANDOM.uniform(0, n, 40) for n in (1475, 1679, 20)])


def _is_there() -> bool:
    try:
        return not subprocess.run(
            [PYTHON, "-c", "import dxtbx"], capture_output=True, timeout=60
        ).returncode
    except OSError:
        return False


pytestmark = pytest.mark.skipif(not _is_there(), reason="DIALS is not installed")


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("models")
    done = subprocess.run(
        [PYTHON, "-c", SCRIPT, str(folder), json.dumps(POINTS.tolist())],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("file", "answer", "close"),
    [
        ("outer.expt", "outer", 1e-9),
        ("middle.expt", "middle", 1e-9),
        ("inner.expt", "inner", 1e-9),
        ("single.expt", "single", 1e-9),
        ("XPARM.XDS", "outer", 2e-4),  # its numbers have few digits
    ],
)
def test_each_pixel_has_the_hkl_that_dials_gives_it(written, file, answer, close):
    folder, answers = written
    model = Model.read(folder / file)

    geometry, sweep, crystal = model.geometry(
        shape=SHAPE, header={"exposure_time": 0.1}, n_frames=20
    )

    angles = sweep.start + sweep.step * POINTS[:, 2]
    q = geometry.q(POINTS[:, 0], POINTS[:, 1], angles)
    np.testing.assert_allclose(q_to_hkl(q, crystal["UB"]), answers[answer], atol=close)
    assert (sweep.start, sweep.step) == (40.0, 0.5)
    named = ["phi", "chi", "omega"] if answer != "single" and file != "XPARM.XDS" else ["axis0"]
    assert [axis.name for axis in geometry.axes] == named
    np.testing.assert_allclose(crystal["lattice"][0], 5.4, atol=1e-3)


IMGCIF = """
import json, sys, pycbf
from dxtbx.model.beam import BeamFactory
from dxtbx.model.detector import DetectorFactory
from dxtbx.model.goniometer import GoniometerFactory
handle = pycbf.cbf_handle_struct()
handle.read_widefile(sys.argv[1].encode(), pycbf.MSG_DIGEST)
panel = DetectorFactory.imgCIF_H(handle, "PAD")[0]
gonio = GoniometerFactory.imgCIF_H(handle)
print(json.dumps({
    "panel_origin_mm": panel.get_origin(), "fast": panel.get_fast_axis(),
    "slow": panel.get_slow_axis(), "pixel_mm": panel.get_pixel_size()[0],
    "shape": panel.get_image_size()[::-1], "s0": BeamFactory.imgCIF_H(handle).get_s0(),
    "axes": [list(axis) for axis in gonio.get_axes()], "angles": list(gonio.get_angles()),
    "names": list(gonio.get_names()), "scan_axis": gonio.get_scan_axis(),
}))
"""


def test_an_imgcif_header_is_what_dials_reads_in_it():
    path = Path(__file__).parents[1] / "data" / "imgcif_header.cbf"
    done = subprocess.run(
        [PYTHON, "-c", IMGCIF, str(path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    dials = json.loads(done.stdout.splitlines()[-1])

    document = Model.read(path).document

    for key in ("panel_origin_mm", "fast", "slow", "pixel_mm", "shape", "s0"):
        np.testing.assert_allclose(document[key], dials[key], atol=1e-11, err_msg=key)
    turns = document["goniometer"]
    np.testing.assert_allclose(turns["axes"], dials["axes"], atol=1e-5)  # as written: 5 digits
    assert turns["angles_deg"] == dials["angles"]
    assert turns["scan_axis"] == dials["scan_axis"]
    assert [f"GONIOMETER_{name.upper()}" for name in turns["names"]] == dials["names"]


REAL = Path(__file__).parents[2].parent / "shared" / "data" / "l-cysteine"
ON_REAL = """
import json, sys
from dxtbx.model import Crystal
from dxtbx.model.experiment_list import ExperimentListFactory
from scitbx import matrix

target, *frames = sys.argv[1:]
model = json.load(open(target.replace(".expt", ".json")))
found = ExperimentListFactory.from_filenames(frames)
found[0].detector[0].set_frame(model["fast"], model["slow"], model["panel_origin_mm"])
found[0].beam.set_unit_s0(matrix.col(model["s0"]).normalize())
basis = matrix.sqr(model["UB_no_2pi"]).inverse()
found[0].crystal = Crystal(basis[:3], basis[3:6], basis[6:], "P1")
found.as_file(target)
"""


@pytest.mark.skipif(not REAL.exists(), reason="../shared/data/l-cysteine is not there")
def test_a_refined_model_of_real_frames_has_their_spots_and_agrees_with_their_headers(tmp_path):
    target, frames = tmp_path / "real.expt", sorted(REAL.glob("*.cbf"))
    target.with_suffix(".json").write_text((REAL / "model.json").read_text())
    subprocess.run([PYTHON, "-c", ON_REAL, target, *frames], check=True, timeout=120)
    model, head = Model.read(target), read_head(frames[0])

    geometry, sweep, crystal = model.geometry(shape=head.shape, header=head.header, n_frames=15)
    differences = compare_with_headers(model, geometry, head.header, trusted=False)

    spots = json.loads((REAL / "spots.json").read_text())["spots"]
    x, y, z = (np.array([spot[key] for spot in spots]) for key in "xyz")
    found = q_to_hkl(geometry.q(x, y, sweep.start + sweep.step * z), crystal["UB"])
    np.testing.assert_allclose(found, [spot["hkl"] for spot in spots], atol=2e-3)
    assert [axis.name for axis in geometry.axes] == ["phi", "omega"]
    assert differences  # refined, and not refused
    assert all(each.endswith(": the model counts") for each in differences)
