from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from measured import Measured

from offbragg.errors import GeometryError, MetadataError, ScanFileError
from offbragg.files import ScanFile
from offbragg.files.nxrefine import pyfai_parameters, translate, write_wrapper
from offbragg.files.scan_folders import scan_directory
from offbragg.files.scan_writer import ScanWriter
from offbragg.frame import Frame
from offbragg.geometry import Geometry, rotation_about
from offbragg.lattice import direct_basis, q_to_hkl
from offbragg.sweep import Sweep


def nxrefine_hkl(wrapper: Path, name: str, x: float, y: float, z: float) -> np.ndarray:
    """NXRefine's equations, from the wrapper's numbers alone; z in frames from the first."""

    def turn(axis: str, degrees: float) -> np.ndarray:
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        return np.array(
            {
                "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
                "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
                "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
            }[axis]
        )

    with h5py.File(wrapper) as file:
        detector = file[f"{name}/instrument/detector"]
        goniometer = file[f"{name}/instrument/goniometer"]
        wavelength = file[f"{name}/instrument/monochromator/wavelength"][()]
        yaw, pitch, roll = (detector[key][()] for key in ("yaw", "pitch", "roll"))
        xc, yc = detector["beam_center_x"][()], detector["beam_center_y"][()]
        distance, pixel = detector["distance"][()], detector["pixel_size"][()]
        assert detector["detector_orientation"][()] == b"-y +z -x"
        phi = goniometer["phi"][()] + goniometer["phi"].attrs["step"] * z
        theta, omega, chi = (goniometer[key][()] for key in ("theta", "omega", "chi"))
        cell = file["entry/sample"]
        a, b, c = (cell[f"unitcell_{key}"][()] for key in "abc")
        al, be, ga = (
            math.radians(cell[f"unitcell_{key}"][()]) for key in ("alpha", "beta", "gamma")
        )
        u_nx = detector["orientation_matrix"][()]
    third = (math.cos(al) - math.cos(be) * math.cos(ga)) / math.sin(ga)
    A = np.array(
        [
            [a, b * math.cos(ga), c * math.cos(be)],
            [0, b * math.sin(ga), c * third],
            [0, 0, c * math.sqrt(1 - math.cos(be) ** 2 - third**2)],
        ]
    )
    UB = u_nx @ np.linalg.inv(A)
    O = np.array([[0, -1, 0], [0, 0, 1], [-1, 0, 0]])  # noqa: E741
    D = np.linalg.inv(turn("x", roll) @ turn("y", pitch) @ turn("z", yaw))
    pixels = np.array([x - xc, y - yc, 0.0])
    v = np.linalg.inv(D) @ (pixel * np.linalg.inv(O) @ pixels) + [distance, 0, 0]
    G = turn("y", theta) @ turn("z", omega) @ turn("x", chi) @ turn("z", phi)
    q = np.linalg.inv(G) @ (v / np.linalg.norm(v) - [1, 0, 0]) / wavelength
    return np.linalg.inv(UB) @ q


def oblique(start: dict, *, axes: list[dict], scan_axis: str, tilt: float) -> dict:
    """The same run with a panel turned anyhow about the crystal, and other axes."""
    turned = rotation_about(np.array([2.0, 3.0, 6.0]) / 7.0, tilt)
    panel = start["geometry"]["panel"]
    panel |= {key: (turned @ panel[key]).tolist() for key in ("origin", "fast", "slow")}
    start["geometry"] |= {"axes": axes, "scan_axis": scan_axis}
    start["sweep"] |= {"axis": scan_axis}
    return start


def finished(directory: Path, start: dict, make_counts, skip: tuple[int, ...] = ()) -> Path:
    scan = ScanWriter.create(directory, start=start)
    for number in range(scan.n_frames):
        if number not in skip:
            scan.write_frame(Frame(number, make_counts(number)), source="x", time=1.0)
    if "monitor" in scan.columns:
        scan.set_values("monitor", range(5), [100.0, 200.0, 300.0, 400.0, 0.0])
    scan.finish(time=1.8e9, exit_status="success", reason="", summary={})
    return scan.path


PHI = {"name": "phi", "vector": [0.0, 1.0, 0.0], "angle": 11.0}
CHI = {"name": "chi", "vector": [0.0, 0.0, 1.0], "angle": -90.0}
OMEGA = {"name": "omega", "vector": [0.0, 1.0, 0.0], "angle": 15.0}
THETA = {"name": "theta", "vector": [1.0, 0.0, 0.0], "angle": 3.0}
ODD = {"name": "kappa", "vector": [2 / 3, -2 / 3, 1 / 3], "angle": 40.0}
SIDEWAYS = {"name": "phi", "vector": [-1.0, 0.0, 0.0], "angle": 0.0}


@pytest.mark.parametrize(
    ("axes", "scan_axis", "tilt", "angles"),
    [
        ([PHI], "phi", 0.0, (0, 0, 0)),
        ([PHI, CHI], "phi", 0.0, (0, 0, -90)),
        ([PHI, CHI, OMEGA, THETA], "phi", 25.0, (3, 15, -90)),
        ([PHI, CHI, OMEGA], "omega", 25.0, None),
        ([PHI, ODD, OMEGA], "kappa", 40.0, None),
        ([ODD], "kappa", -20.0, None),
        ([SIDEWAYS, CHI], "phi", 20.0, (0, 0, -90)),
    ],
)
def test_nxrefine_sees_the_same_hkl(tmp_path, start, make_counts, axes, scan_axis, tilt, angles):
    start = oblique(start, axes=axes, scan_axis=scan_axis, tilt=tilt)
    path = finished(scan_directory(tmp_path, start), start, make_counts)

    wrapper = write_wrapper(path)

    with ScanFile.open(path) as scan:
        geometry, sweep, UB = scan.geometry, scan.sweep, np.array(scan.sample.UB)
    for x, y, z in ((0.0, 0.0, 0), (29.5, 3.25, 5), (12.0, 19.0, 3)):
        ours = q_to_hkl(geometry.q(x, y, sweep.midpoints[z]), UB)
        np.testing.assert_allclose(nxrefine_hkl(wrapper, "f1", x, y, z), ours, atol=1e-9)
    with h5py.File(wrapper) as file:
        goniometer = file["f1/instrument/goniometer"]
        assert goniometer["phi"][()] == -5.0
        assert goniometer["phi"].attrs["end"] == -2.0
        if angles is not None:
            assert tuple(goniometer[k][()] for k in ("theta", "omega", "chi")) == angles


def test_without_a_lattice_the_basis_is_that_of_UB(tmp_path, start, make_counts):
    del start["sample"]["lattice"]
    wrapper = write_wrapper(finished(scan_directory(tmp_path, start), start, make_counts))

    with h5py.File(wrapper) as file:
        matrix = file["f1/instrument/detector/orientation_matrix"][()]

    UB = np.array(start["sample"]["UB"])
    a, b, c = np.linalg.inv(UB)  # direct basis vectors are the rows of the inverse
    lengths = [np.linalg.norm(v) for v in (a, b, c)]
    angles = [
        math.degrees(math.acos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)))
        for u, v in ((b, c), (a, c), (a, b))
    ]
    rest = matrix @ np.linalg.inv(direct_basis([*lengths, *angles]))
    np.testing.assert_allclose(rest.T @ rest, UB.T @ UB, atol=1e-12)


def test_what_nxrefine_has_no_words_for_is_refused(start):
    geometry = Geometry.from_dict(start["geometry"])
    sweep = Sweep.from_dict(start["sweep"])

    def changed(**changes) -> Geometry:
        document = geometry.to_dict()
        document["panel"] |= changes.pop("panel", {})
        return Geometry.from_dict(document | changes)

    along = [{"name": "phi", "vector": [0, 0, 1], "angle": 0}]
    with pytest.raises(GeometryError, match="along the beam"):
        translate(changed(axes=along), sweep, None)
    with pytest.raises(GeometryError, match="not square"):
        translate(changed(panel={"pixel_size": [0.1, 0.2]}), sweep, None)
    with pytest.raises(GeometryError, match="never meets"):
        translate(changed(panel={"fast": [0, 0, 1]}), sweep, None)


def test_the_wrapper_and_its_parent(tmp_path, start, make_counts):
    path = finished(scan_directory(tmp_path, start), start, make_counts, skip=(2,))

    wrapper = write_wrapper(path)

    assert path == tmp_path / "LSMO-140" / "crystal1" / "102p5K" / "f1.h5"
    assert wrapper == tmp_path / "LSMO-140" / "crystal1" / "LSMO-140_102p5K.nxs"
    assert sorted(p.name for p in wrapper.parent.iterdir()) == [
        "102p5K",
        "LSMO-140_102p5K.nxs",
        "LSMO-140_scans.nxs",
    ]
    with h5py.File(wrapper) as file:
        link = file["f1/data"].get("data", getlink=True)
        assert (link.filename, link.path) == ("102p5K/f1.h5", "/entry/data/data")
        np.testing.assert_array_equal(file["f1/data/data"][3], make_counts(3))
        assert file["f1/data"].attrs["axes"].tolist() == [b"frame_number", b"y_pixel", b"x_pixel"]
        weight = file["f1/data/monitor_weight"][()]
        mean = (100 + 200 + 400) / 3  # frame 2 is missing, 4 and 5 have no monitor
        np.testing.assert_allclose(weight, [100 / mean, 200 / mean, 0, 400 / mean, 0, 0])
        assert set(file["f1/nxworkflow"]) == {"nxload", "nxlink"}
        assert file["f1/sample/name"][()] == b"LSMO-140"
        assert file["entry/sample/temperature"][()] == 102.5
        assert file["f1/instrument/detector/description"][()] == b"Pilatus 100K"
        assert file["f1/instrument/detector/pixel_mask"][7].all()
        assert file["f1/instrument/monochromator/energy"][()] == pytest.approx(17.9974, abs=1e-4)
    with h5py.File(tmp_path / "LSMO-140" / "crystal1" / "LSMO-140_scans.nxs") as file:
        assert file["entry/sample/name"][()] == b"LSMO-140"
        assert "f1/instrument/detector/yaw" in file


def test_without_monitor_stored_frames_weigh_one_and_the_file_says_so(tmp_path, start, make_counts):
    start["per_frame"] = {}
    path = finished(scan_directory(tmp_path, start), start, make_counts, skip=(0,))

    with h5py.File(write_wrapper(path)) as file:
        weight = file["f1/data/monitor_weight"]
        np.testing.assert_array_equal(weight, [0, 1, 1, 1, 1, 1])
        assert b"no monitor" in weight.attrs["description"]


def test_rotations_of_a_temperature_share_a_wrapper(tmp_path, start, make_counts):
    first = finished(scan_directory(tmp_path, start), start, make_counts)
    wrapper = write_wrapper(first)
    with h5py.File(wrapper, "a") as file:
        file["f1/peaks"] = 7  # NXRefine's work
    second = start | {"uid": "second", "time": start["time"] + 100}

    assert write_wrapper(finished(scan_directory(tmp_path, second), second, make_counts)) == wrapper

    with h5py.File(wrapper) as file:
        assert {"entry", "f1", "f2"} == set(file)
        assert file["f1/peaks"][()] == 7
        assert file["f2/data"].get("data", getlink=True).filename == "102p5K/f2.h5"


def test_the_tree_can_be_moved(tmp_path, start, make_counts):
    wrapper = write_wrapper(finished(scan_directory(tmp_path / "a", start), start, make_counts))

    (tmp_path / "a").rename(tmp_path / "b")

    with h5py.File(tmp_path / "b" / wrapper.relative_to(tmp_path / "a")) as file:
        np.testing.assert_array_equal(file["f1/data/data"][1], make_counts(1))


def test_a_stale_lock_is_named(tmp_path, start, make_counts, monkeypatch):
    path = finished(scan_directory(tmp_path, start), start, make_counts)
    lock = path.parent.parent / "LSMO-140_102p5K.nxs.lock"
    lock.write_text("1")
    monkeypatch.setattr("offbragg.files.nxrefine._LOCK_PATIENCE", 0.1)

    with pytest.raises(ScanFileError, match=r"LSMO-140_102p5K\.nxs\.lock"):
        write_wrapper(path)

    assert lock.exists()


@pytest.mark.filterwarnings("ignore:The set_bad function:PendingDeprecationWarning")
def test_a_frame_plots_through_the_wrapper(tmp_path, start, make_counts):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from nexusformat.nexus import nxload

    wrapper = write_wrapper(finished(scan_directory(tmp_path, start), start, make_counts))

    root = nxload(wrapper)
    root.f1.data[3].plot()

    (image,) = pyplot.gcf().axes[0].get_images() or pyplot.gcf().axes[0].collections
    shown = np.asarray(image.get_array()).reshape(20, 30)
    np.testing.assert_array_equal(np.sort(shown, axis=None), np.sort(make_counts(3), axis=None))
    pyplot.close("all")


# ---- names on disk ---------------------------------------------------------------------


def at(start: dict, kelvin: float | None, **changes) -> dict:
    temperature = None if kelvin is None else {"setpoint": kelvin}
    return start | {"temperature": temperature} | changes


@pytest.mark.parametrize(
    ("kelvin", "name"),
    [(100, "100K"), (102.5, "102p5K"), (-5.0, "m5K"), (0.125, "0p125K"), (None, "ambient")],
)
def test_a_scan_is_named_after_its_temperature(tmp_path, start, kelvin, name):
    directory = scan_directory(tmp_path, at(start, kelvin))

    assert directory == tmp_path / "LSMO-140" / "crystal1" / name
    assert list(tmp_path.iterdir()) == []


def test_other_purposes_have_a_label_of_their_own(tmp_path, start):
    directory = scan_directory(tmp_path, start | {"purpose": "background"})

    assert directory == tmp_path / "LSMO-140" / "crystal1_background" / "102p5K"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sample": {"name": "../../x", "label": "a"}}, "sample.name"),
        ({"sample": {"name": "a", "label": "/etc"}}, "sample.label"),
        ({"sample": {"name": "a\0", "label": "b"}}, "sample.name"),
        ({"sample": {"name": "a", "label": "x" * 300}}, "sample.label"),
        ({"purpose": "../data"}, "purpose"),
        ({"temperature": {"setpoint": math.nan}}, "temperature.setpoint"),
        ({"temperature": {"setpoint": "../300"}}, "temperature.setpoint"),
        ({"temperature": {"setpoint": 10.0**200}}, "temperature.setpoint"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path, start, changes, field):
    with pytest.raises(MetadataError, match=field):
        scan_directory(tmp_path, start | changes)


def test_links_that_lead_elsewhere_are_refused(tmp_path, start):
    (tmp_path / "outside").mkdir()
    (tmp_path / "experiment" / "LSMO-140").mkdir(parents=True)
    (tmp_path / "experiment" / "LSMO-140" / "crystal1").symlink_to(tmp_path / "outside")

    with pytest.raises(ScanFileError, match="outside"):
        scan_directory(tmp_path / "experiment", start)


def test_a_temperature_that_is_come_back_to_is_another_scan(tmp_path, start, make_counts):
    def measure(uid: str, kelvin: float, when: float, series: str | None = None) -> str:
        run = at(start, kelvin, uid=uid, time=when)
        if series:
            run["series"] = {"uid": series, "index": 0, "kind": "temperature"}
        path = finished(scan_directory(tmp_path, run), run, make_counts)
        assert scan_directory(tmp_path, run) == path.parent  # asked again, it stays
        return f"{path.parent.name}/{path.name}"

    assert measure("a", 300, 1.0) == "300K/f1.h5"
    assert measure("b", 300, 2.0) == "300K/f2.h5"
    assert measure("c", 100, 3.0) == "100K/f1.h5"
    assert measure("d", 300, 4.0) == "300K_2/f1.h5"
    assert measure("e", 300, 5.0) == "300K_2/f2.h5"
    assert measure("f", 300, 6.0, series="new") == "300K_3/f1.h5"


def _pyfai_position(found: dict[str, float], slow: np.ndarray, fast: np.ndarray) -> np.ndarray:
    """Where a pixel is by the definition in pyFAI's documentation, m, along its axes 1, 2, 3."""
    (s1, c1), (s2, c2), (s3, c3) = (
        (np.sin(found[name]), np.cos(found[name])) for name in ("Rot1", "Rot2", "Rot3")
    )
    one = np.array([[1, 0, 0], [0, c1, s1], [0, -s1, c1]])
    two = np.array([[c2, 0, -s2], [0, 1, 0], [s2, 0, c2]])
    three = np.array([[c3, -s3, 0], [s3, c3, 0], [0, 0, 1]])
    on_panel = np.array([
        slow * found["PixelSize1"] - found["Poni1"], fast * found["PixelSize2"] - found["Poni2"],
        np.full(slow.shape, found["Distance"]),
    ])  # fmt: skip
    return three @ two @ one @ on_panel


@pytest.mark.parametrize("turn", [(0, 0, 0), (5, -7, 3), (-3, 12, -20), (8, 2, 45)])
@pytest.mark.parametrize("hand", [1, -1])
def test_pyfai_sees_each_pixel_at_the_same_polar_angle(start, turn, hand):
    geometry = Geometry.from_dict(start["geometry"])
    turned = np.linalg.multi_dot([
        rotation_about(axis, angle) for axis, angle in zip(np.eye(3), turn, strict=True)
    ])  # fmt: skip
    content = geometry.to_dict()
    panel = content["panel"]
    for name in ("origin", "fast", "slow"):
        panel[name] = list(turned @ np.array(panel[name]))
    panel["fast"] = [hand * x for x in panel["fast"]]
    geometry = Geometry.from_dict(content)
    slow, fast = np.random.default_rng(1).uniform(0, 400, (2, 50))

    found = pyfai_parameters(geometry)

    there = _pyfai_position(found, slow, fast)
    panel = geometry.panel
    ours = 1e-3 * (
        np.array(panel.origin)[:, None]
        + np.outer(panel.fast, fast * panel.pixel_size[0])
        + np.outer(panel.slow, slow * panel.pixel_size[1])
    )
    assert found["Distance"] > 0
    assert there[0] == pytest.approx(ours[1], abs=1e-12)  # up
    assert there[2] == pytest.approx(ours[2], abs=1e-12)  # along the beam
    assert np.abs(there[1]) == pytest.approx(np.abs(ours[0]), abs=1e-12)  # across, or its mirror
    assert len({*np.sign(there[1] * ours[0])}) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    "OFFBRAGG_NXREFINE" not in os.environ,
    reason="OFFBRAGG_NXREFINE is not set: the Python of an environment with NXRefine and offbragg",
)
def test_nxrefine_itself_finds_refines_and_sets_a_transform_up(tmp_path):
    """NXRefine as it is, on a tree as it is when a sweep has ended."""
    swept = Measured(n_frames=60, temperature=90.0)
    path = swept.write(scan_directory(tmp_path / "tree", swept.start))
    write_wrapper(path)
    driver = Path(__file__).parents[1] / "programs" / "drive_nxrefine.py"
    done = subprocess.run(
        [os.environ["OFFBRAGG_NXREFINE"], str(driver), str(tmp_path / "tree"), str(path.parent)],
        env={**os.environ, "QT_QPA_PLATFORM": "offscreen"}, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    seen = json.loads((tmp_path / "tree" / "seen.json").read_text())

    counts = swept.counts
    assert seen["beamline"] == "offbragg"
    excluded = np.load(tmp_path / "tree" / "excluded.npy")
    assert excluded[counts.min(axis=0) < 0].all()  # gaps and bad pixels
    assert seen["maximum"] == counts[:, ~excluded].max() > 10_000
    assert seen["radial_least"] >= 0.0
    assert "start_document" in seen["logs"]
    assert len(seen["monitor"]) == 60
    assert seen["peaks"] >= 10
    assert max(abs(angle) for angle in seen["angles"].values()) < 0.1
    hkl = 2 * np.array(seen["hkl"])  # at 90 K there are superlattice peaks at (½ ½ ½), too
    assert np.abs(hkl - np.round(hkl)).max() < 0.05
    assert "parameters.ubMat" in seen["settings"]
    assert "outputData.dimensions = [121, 121, 121]" in seen["settings"]
