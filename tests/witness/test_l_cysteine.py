"""Real Pilatus 2M frames and what another program says of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import nxmx
import pytest

from offbragg.files import ScanFile, read_frame
from offbragg.files.cbf import content_md5
from offbragg.files.nxrefine import translate
from offbragg.files.scan_writer import ScanWriter
from offbragg.geometry import Geometry, rotation_about
from offbragg.lattice import direct_basis, q_to_hkl
from offbragg.reduction import Corrections
from offbragg.reduction.hot_pixels import hot_pixels
from offbragg.stack import Stack
from offbragg.sweep import Sweep
from offbragg.workflows.choices import Choices
from offbragg.workflows.index import find_orientation
from offbragg.workflows.reduce import reduce_files

FOLDER = Path(__file__).parents[2].parent / "shared" / "data" / "l-cysteine"
SHAPE = (1679, 1475)
NO_AIR = Corrections(air=False)

pytestmark = pytest.mark.skipif(
    not (FOLDER / "model.json").exists(), reason="../shared/data/l-cysteine is not there"
)


@pytest.fixture(scope="module")
def model() -> dict:
    return json.loads((FOLDER / "model.json").read_text())


@pytest.fixture(scope="module")
def spots() -> dict[str, np.ndarray]:
    spots = json.loads((FOLDER / "spots.json").read_text())["spots"]
    return {key: np.array([spot[key] for spot in spots]) for key in ("x", "y", "z", "hkl")}


@pytest.fixture(scope="module")
def checksums() -> dict[str, dict]:
    return json.loads((FOLDER / "pixels.json").read_text())


@pytest.fixture(scope="module")
def sweep(model) -> Sweep:
    goniometer = model["goniometer"]
    return Sweep("omega", goniometer["start_deg"], goniometer["step_deg"], 15, 0.0964, 0.1)


@pytest.fixture(scope="module")
def truth(model) -> tuple[Geometry, np.ndarray]:
    return Geometry.from_model(model, shape=SHAPE, names=("phi", "omega"))


@pytest.fixture(scope="module")
def scan_path(tmp_path_factory, model, truth, sweep, checksums) -> Path:
    geometry, UB = truth
    start = {
        "uid": "l-cysteine",
        "time": 1.45e9,
        "beamline_id": "I19",
        "sample": {
            "name": "L-cysteine",
            "label": "xtal001",
            "lattice": model["cell"],
            "UB": UB.tolist(),
        },
        "sweep": sweep.to_dict(),
        "geometry": geometry.to_dict(),
        "detector": {"sensor_material": "Si", "sensor_thickness": 0.32, "shape": SHAPE},
    }
    scan = ScanWriter.create(tmp_path_factory.mktemp("scan"), start=start)
    for number, name in enumerate(sorted(checksums)):
        scan.write_frame(
            read_frame(FOLDER / name, number=number, shape=SHAPE), source=name, time=1.45e9
        )
    scan.finish(time=1.45e9 + 2, exit_status="success", reason="", summary={})
    return scan.path


def sha256(counts: np.ndarray) -> str:
    return hashlib.sha256(counts.astype("<i4").tobytes()).hexdigest()


def test_every_pixel_is_as_counted(checksums, scan_path):
    with ScanFile.open(scan_path) as scan:
        assert scan.ledger.counts()["stored"] == len(checksums) == 15
        values, stack = scan.frame_values(), scan.stack
        for number, name in enumerate(sorted(checksums)):
            frame = read_frame(FOLDER / name, number=number)
            stored = stack.counts[number]

            assert frame.verified
            assert sha256(frame.counts) == checksums[name]["sha256_int32_le"]
            assert sha256(stored) == checksums[name]["sha256_int32_le"]
            assert content_md5(stored) == values["md5"][number] == frame.md5
            assert values["source"][number] == name
            assert frame.header["start_angle"] == pytest.approx(scan.sweep.starts[number])
        mask = scan.pixel_mask()
    first = checksums["l-cyst_01_00001.cbf"]
    assert (mask == 1).sum() == first["minus1"]
    assert (mask == 2).sum() == first["minus2"]


def test_the_geometry_puts_every_spot_on_its_hkl(scan_path, spots):
    with ScanFile.open(scan_path) as scan:
        geometry, sweep, UB = scan.geometry, scan.sweep, scan.sample.UB
    q = geometry.q(spots["x"], spots["y"], sweep.start + sweep.step * spots["z"])

    np.testing.assert_allclose(q_to_hkl(q, UB), spots["hkl"], atol=1e-3)


def test_the_nexus_fields_alone_put_every_spot_on_its_hkl(scan_path, spots, sweep):
    """As DIALS does it: nothing but the NXmx chain, by another package, NeXus's definitions."""
    with h5py.File(scan_path) as file:
        (entry,) = nxmx.NXmx(file).entries
        (module,) = entry.instruments[0].detectors[0].modules
        chain = nxmx.get_dependency_chain(module.fast_pixel_direction)
        origin = (nxmx.get_cumulative_transformation(chain[1:])[0] @ [0, 0, 0, 1])[:3]
        fast = module.fast_pixel_direction[()].magnitude * module.fast_pixel_direction.vector
        slow = module.slow_pixel_direction[()].magnitude * module.slow_pixel_direction.vector
        wavelength = entry.instruments[0].beams[0].incident_wavelength.magnitude
        axes = nxmx.get_rotation_axes(nxmx.get_dependency_chain(entry.samples[0].depends_on))
        UB = file["entry/sample/ub_matrix"][0]
        starts = file["entry/sample/transformations/omega"][()]
    frames = np.arange(15)
    for x, y, z, hkl in zip(spots["x"], spots["y"], spots["z"], spots["hkl"], strict=True):
        position = origin + x * fast + y * slow
        q = (position / np.linalg.norm(position) - [0, 0, 1]) / wavelength
        for axis, angle, scanned in reversed(
            list(zip(axes.axes, axes.angles, axes.is_scan_axis, strict=True))
        ):
            turned = np.interp(z, frames, starts) if scanned and z <= 14 else angle
            if scanned and z > 14:
                turned = starts[-1] + 0.1 * (z - 14)
            q = rotation_about(axis, -turned) @ q
        np.testing.assert_allclose(np.linalg.inv(UB) @ q, hkl, atol=1e-3)


def test_spots_are_predicted_where_they_were_found(truth, spots, sweep):
    geometry, UB = truth

    x, y, z, which = geometry.predict(spots["hkl"], UB, sweep)

    assert sorted(which) == list(range(len(spots["x"])))
    # hkl is given to 1e-4, so pixels come back to some hundredths
    np.testing.assert_allclose(x, spots["x"][which], atol=0.05)
    np.testing.assert_allclose(y, spots["y"][which], atol=0.05)
    np.testing.assert_allclose(z, spots["z"][which], atol=0.1)


def test_strong_spots_are_where_integer_hkl_are_predicted(truth, spots, sweep):
    geometry, UB = truth
    near = np.abs(spots["hkl"] - np.round(spots["hkl"])).max(axis=1) < 0.02
    hkl = np.unique(np.round(spots["hkl"][near]), axis=0)

    x, y, _, _ = geometry.predict(hkl, UB, sweep)

    assert near.sum() >= 1
    for spot in np.flatnonzero(near):
        assert np.hypot(x - spots["x"][spot], y - spots["y"][spot]).min() < 6


def test_nxrefine_sees_the_same_hkl(truth, spots, sweep, model):
    """NXRefine's equations by hand (x along the beam, z along phi), panel at 2theta = 30."""
    geometry, UB = truth
    s = translate(geometry, sweep, UB)
    R1, R2, R3 = (lambda a, v=v: rotation_about(v, a) for v in np.eye(3))
    A = direct_basis(model["cell"])
    u_nx = s.UB @ A
    M = R1(s.roll) @ R2(s.pitch) @ R3(s.yaw)
    for x, y, z in zip(spots["x"], spots["y"], np.floor(spots["z"]), strict=True):
        on_panel = 0.172 * np.array([0.0, -(x - s.xc), y - s.yc])
        v = M @ on_panel + [s.distance, 0, 0]
        G = R2(s.theta) @ R3(s.omega) @ R1(s.chi) @ R3(s.phi + s.step * z)
        q = G.T @ (v / np.linalg.norm(v) - [1, 0, 0]) / 0.6889
        theirs = np.linalg.inv(u_nx @ np.linalg.inv(A)) @ q

        ours = q_to_hkl(geometry.q(x, y, sweep.midpoints[int(z)]), UB)
        np.testing.assert_allclose(theirs, ours, atol=1e-9)


@pytest.fixture(scope="module")
def volume(scan_path):
    choices = Choices(step=0.05, monitor=False, background="none", corrections=NO_AIR)
    return reduce_files(scan_path, choices)


def test_every_spot_is_in_the_volume_within_a_cell_of_its_hkl(scan_path, spots, volume):
    """What its brightest pixel counted is in the cell of its hkl or one next to it.

    And the brightest cell for some cells around is one of these, but for what lies beside a
    stronger spot.
    """
    alone = 0
    with ScanFile.open(scan_path) as scan:
        counts = scan.stack.counts[:]
    for x, y, z, hkl in zip(spots["x"], spots["y"], spots["z"], spots["hkl"], strict=True):
        i, j, n = int(y), int(x), int(z)
        brightest = counts[max(n - 1, 0) : n + 2, i - 1 : i + 2, j - 1 : j + 2].max()
        near = volume[volume.grid.around(hkl, 1.5 * 0.05)].counts.max()
        alone += near == volume[volume.grid.around(hkl, 3.5 * 0.05)].counts.max()

        assert near >= brightest > 0

    assert alone >= 0.85 * len(spots["x"])


def test_no_reflection_is_taken_for_a_hot_pixel(scan_path):
    """Frames of 0.1 degree: near the axis a reflection is there in most of them, or in all."""
    with ScanFile.open(scan_path) as scan:
        stack = scan.stack
        counts = stack.counts[:]
    for n in (3, 5, 13, 15):
        assert not hot_pixels(Stack(counts[:n], stack.sweep)).any()
    assert hot_pixels(Stack(counts[:5], stack.sweep), least_turn=0.0).any()  # they would be


def test_no_count_of_the_real_frames_is_lost(scan_path, volume):
    with ScanFile.open(scan_path) as scan:
        masked = scan.pixel_mask() != 0
        hot = hot_pixels(scan.stack)
        counts = scan.stack.counts[:]
    counts[:, masked | hot] = 0

    assert volume.counts.sum() == counts[counts > 0].sum()


def test_the_header_does_not_give_the_beam_centre(truth):
    """The trap: Beam_xy is that of 2theta = 0, hundreds of pixels from where the beam goes."""
    geometry, _ = truth
    frame = read_frame(FOLDER / "l-cyst_01_00001.cbf", number=0)

    x, y, _ = geometry.direct_beam()

    assert np.hypot(x - frame.header["beam_xy"][0], y - frame.header["beam_xy"][1]) > 300


@pytest.mark.parametrize("known", [True, False], ids=["cell given", "cell unknown"])
def test_the_orientation_is_found_in_the_frames(scan_path, truth, model, known, tmp_path):
    """15 frames, 1.5 degree; the published model is of four sweeps of 170 degrees."""
    _, UB = truth

    found = find_orientation([scan_path], unknown_cell=not known, out=tmp_path / "o.json")

    # the cell is nearly orthorhombic: four settings that 1.5 degree cannot tell apart
    settings = [np.diag(d) for d in ([1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1])]
    turns = [np.linalg.svd(found.indexed.UB @ s @ np.linalg.inv(UB)) for s in settings]
    traces = [np.trace(u @ v) for u, _, v in turns]
    assert np.degrees(np.arccos((max(traces) - 1) / 2)) < 1.0
    assert found.indexed.fraction > 0.8
    if known:  # the file has the published UB, and the nearest setting is taken
        assert np.argmax(traces) == 0
    else:
        np.testing.assert_allclose(found.indexed.lattice[:3], model["cell"][:3], rtol=0.01)
