"""Wrappers of NXRefine as models: judged by NXRefine's own formulas, written out here."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from measured import Measured

from offbragg.errors import ConfigError
from offbragg.files.model import Model
from offbragg.files.nxrefine import write_wrapper
from offbragg.lattice import q_to_hkl

SHAPE = (195, 487)
CELL = (5.4, 8.1, 12.2, 80.0, 95.0, 103.0)
ANGLES = {"phi": -10.0, "chi": -90.0, "omega": 7.0, "theta": 3.0}
TILT = {"yaw": 1.3, "pitch": -2.1, "roll": 88.0}
STEP, WAVELENGTH, PIXEL, DISTANCE, XC, YC = 0.1, 0.1412, 0.172, 650.0, 240.7, 99.2


def turned(axis: int, degree: float) -> np.ndarray:
    """NXRefine's R1, R2, R3: right-handed about x, y, z."""
    c, s = np.cos(np.radians(degree)), np.sin(np.radians(degree))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    R = np.eye(3)
    R[i, i], R[i, j], R[j, i], R[j, j] = c, -s, s, c
    return R


def triangular(a, b, c, alpha, beta, gamma) -> np.ndarray:
    """The direct basis by which NXRefine multiplies UB."""
    alpha, beta, gamma = np.radians([alpha, beta, gamma])
    x = c * (np.cos(alpha) - np.cos(beta) * np.cos(gamma)) / np.sin(gamma)
    z = np.sqrt(c**2 - (c * np.cos(beta)) ** 2 - x**2)
    return np.array(
        [[a, b * np.cos(gamma), c * np.cos(beta)], [0, b * np.sin(gamma), x], [0, 0, z]]
    )


def some_UB() -> np.ndarray:
    U = turned(2, 33.0) @ turned(0, -71.0) @ turned(1, 12.0)
    return U @ np.linalg.inv(triangular(*CELL)).T


def hkl_of_nxrefine(x: float, y: float, frame: float) -> np.ndarray:
    """Index the point of a frame as NXRefine does: frame z at phi + step · z."""
    D_inverse = turned(0, TILT["roll"]) @ turned(1, TILT["pitch"]) @ turned(2, TILT["yaw"])
    # '-y +z -x': the first pixel direction is -y, the second +z
    O_inverse = np.array([[0, 0, -1.0], [-1.0, 0, 0], [0, 1.0, 0]])
    v = D_inverse @ (PIXEL * O_inverse @ [x - XC, y - YC, 0.0]) + [DISTANCE, 0, 0]
    G = (
        turned(1, ANGLES["theta"]) @ turned(2, ANGLES["omega"]) @ turned(0, ANGLES["chi"])
        @ turned(2, ANGLES["phi"] + STEP * frame)
    )  # fmt: skip
    q = np.linalg.inv(G) @ (v / np.linalg.norm(v) - [1.0, 0, 0]) / WAVELENGTH
    return np.linalg.inv(some_UB()) @ q


def wrapper(path: Path, *rotations: str) -> Path:
    with h5py.File(path, "w") as file:
        for key, value in zip(("a", "b", "c", "alpha", "beta", "gamma"), CELL, strict=True):
            file[f"/entry/sample/unitcell_{key}"] = value
        for name in rotations:
            detector = file.create_group(f"{name}/instrument/detector")
            detector.update({
                "distance": DISTANCE, "pixel_size": PIXEL, "beam_center_x": XC,
                "beam_center_y": YC, "frame_time": 0.1, "detector_orientation": "-y +z -x",
                "orientation_matrix": some_UB() @ triangular(*CELL), **TILT,
            })  # fmt: skip
            for axis, angle in ANGLES.items():
                file[f"{name}/instrument/goniometer/{axis}"] = angle
            file[f"{name}/instrument/goniometer/phi"].attrs["step"] = STEP
            file[f"{name}/instrument/monochromator/wavelength"] = WAVELENGTH
    return path


def test_a_wrapper_gives_the_indices_that_nxrefine_gives(tmp_path):
    model = Model.read(wrapper(tmp_path / "STO_300K.nxs", "f1"))
    header = {"exposure_time": 0.1}
    geometry, sweep, known = model.geometry(shape=SHAPE, header=header, n_frames=3600)
    assert (sweep.axis, sweep.start, sweep.step) == ("phi", -10.0, 0.1)
    np.testing.assert_allclose(known["lattice"], CELL, rtol=1e-9)
    for x, y, number in ((0.0, 0.0, 0), (480.5, 190.5, 1234), (100.25, 33.0, 3599)):
        q = geometry.q(x, y, sweep.midpoints[number])
        hkl = q_to_hkl(np.asarray(q), np.array(known["UB"]))
        np.testing.assert_allclose(hkl, hkl_of_nxrefine(x, y, number), atol=1e-9)


def test_our_own_wrapper_gives_our_own_geometry(tmp_path):
    own = Measured(n_frames=3, step=0.5, chi=20.0)
    path = own.write(tmp_path / "STO" / "a" / "300K")
    model = Model.read(write_wrapper(path))
    geometry, sweep, known = model.geometry(shape=SHAPE, header={"exposure_time": 0.1}, n_frames=3)
    UB = np.array(own.start["sample"]["UB"])
    for x, y in ((0.0, 0.0), (480.0, 190.0)):
        mine = q_to_hkl(np.asarray(own.geometry.q(x, y, own.sweep.midpoints[1])), UB)
        theirs = q_to_hkl(np.asarray(geometry.q(x, y, sweep.midpoints[1])), np.array(known["UB"]))
        np.testing.assert_allclose(theirs, mine, atol=1e-9)


def test_of_several_rotations_one_is_named(tmp_path):
    wrapper(tmp_path / "x.nxs", "f1", "f2")
    with pytest.raises(ConfigError, match=r"rotations f1, f2: say which one"):
        Model.read(tmp_path / "x.nxs")
    model = tmp_path / "model.json"
    model.write_text(json.dumps({"from": "x.nxs", "rotation": "f2", "exposure_time": 0.1}))
    assert Model.read(model).has_geometry
    model.write_text(json.dumps({"from": "x.nxs", "rotation": "f3"}))
    with pytest.raises(ConfigError, match="no rotation 'f3'"):
        Model.read(model)


@pytest.mark.parametrize("what", ["distance", "yaw", "beam_center_y"])
def test_what_a_wrapper_lacks_is_named(tmp_path, what):
    path = wrapper(tmp_path / "x.nxs", "f1")
    with h5py.File(path, "r+") as file:
        del file[f"f1/instrument/detector/{what}"]
    with pytest.raises(ConfigError, match=f"lacks {what}"):
        Model.read(path)


@pytest.mark.parametrize("value", [np.nan, [1.0, 2.0], "much"])
def test_an_angle_that_is_not_a_number_is_refused_and_one_that_is_absent_is_0(tmp_path, value):
    path = wrapper(tmp_path / "x.nxs", "f1")
    with h5py.File(path, "r+") as file:
        del file["f1/instrument/goniometer/chi"]
    assert Model.read(path).document["goniometer"]["angles_deg"][1] == 0.0

    with h5py.File(path, "r+") as file:
        file["f1/instrument/goniometer/chi"] = value
    with pytest.raises(ConfigError, match="goniometer/chi is not one finite number"):
        Model.read(path)


@pytest.mark.parametrize(
    ("name", "unit"),
    [("goniometer/omega", "rad"), ("detector/distance", "m"), ("monochromator/wavelength", "nm")],
)
def test_another_unit_is_refused(tmp_path, name, unit):
    path = wrapper(tmp_path / "x.nxs", "f1")
    with h5py.File(path, "r+") as file:
        file[f"f1/instrument/{name}"].attrs["units"] = unit

    with pytest.raises(ConfigError, match=f"{name} is in '{unit}'"):
        Model.read(path)


def test_an_orientation_without_a_cell_is_refused(tmp_path):
    path = wrapper(tmp_path / "x.nxs", "f1")
    with h5py.File(path, "r+") as file:
        del file["/entry/sample"]
    with pytest.raises(ConfigError, match="no unitcell_a"):
        Model.read(path)


def test_another_hdf5_file_is_not_a_model(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["/entry/data/data"] = [1]
    with pytest.raises(ConfigError, match="not a wrapper of NXRefine"):
        Model.read(tmp_path / "x.h5")
