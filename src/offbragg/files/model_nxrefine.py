"""A wrapper of NXRefine (``<sample>_<scan>.nxs``) as a model: one of its rotations."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np

from offbragg.errors import GeometryError, ScanFileError
from offbragg.files.filters import check_part
from offbragg.files.hdf5 import find_inside, open_to_read
from offbragg.geometry import rotation_about
from offbragg.instrument import Array
from offbragg.lattice import direct_basis, lattice_of

ROTATION = "rotation"
"""Key of a model in JSON that names the rotation, where there are several."""

_TO_MODEL = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]])
"""NXRefine has x along the beam and z up; a model has the beam along -z, and y up."""
_AXES = {"phi": (0.0, 0.0, 1.0), "chi": (1.0, 0.0, 0.0), "omega": (0.0, 0.0, 1.0),
         "theta": (0.0, 1.0, 0.0)}  # fmt: skip
"""From the crystal outwards, at zero angles."""
_ORIENTATION = "-y +z -x"
_CELL = ("a", "b", "c", "alpha", "beta", "gamma")
_UNITS = {
    "angstrom": ("angstrom", "angstroms", "å", "a"),
    "mm": ("mm", "millimeter", "millimeters", "millimetre", "millimetres"),
    "degree": ("deg", "degree", "degrees", "°"),
}
_UNIT_OF = {
    **dict.fromkeys(("wavelength", "unitcell_a", "unitcell_b", "unitcell_c"), "angstrom"),
    **dict.fromkeys(("distance", "pixel_size"), "mm"),
    **dict.fromkeys(
        ("yaw", "pitch", "roll", *_AXES, "unitcell_alpha", "unitcell_beta", "unitcell_gamma"),
        "degree",
    ),
}
"""A field that does not say its unit is in this one, as NXRefine takes it."""


def read_nxrefine(path: Path, own: Mapping[str, Any]) -> dict[str, Any]:
    """Read a rotation of a wrapper as a model's document.

    ``hkl = UB⁻¹ G⁻¹ (v/|v| − x)/λ`` in NXRefine, with ``G = R_y(theta) R_z(omega) R_x(chi)
    R_z(phi)``; frame z counts at phi + step · z there, and half a step later here. The beam's
    centre is pyFAI's: the corner of pixel (0, 0) is (0, 0).

    Parameters
    ----------
    path
        The wrapper; what it links is not read.
    own
        May name the ``rotation``, as ``f2``.

    Raises
    ------
    GeometryError
        If it is not a wrapper, has several rotations and none is named, or lacks something: all of
        it by name.
    """
    try:
        with open_to_read(path, swmr=False) as file:
            return _read(file, own.get(ROTATION))
    except (OSError, RuntimeError) as error:
        raise GeometryError(f"it cannot be read: {error}") from error


def _read(file: h5py.File, wanted: Any) -> dict[str, Any]:
    names = sorted(
        name
        for name in map(str, file)
        if name[-1:].isdigit() and _value(file, f"{name}/instrument/goniometer/phi") is not None
    )
    if not names:
        raise GeometryError("it is HDF5, and not a wrapper of NXRefine: no rotation has a phi")
    if wanted is None and len(names) > 1:
        raise GeometryError(
            f"it has the rotations {', '.join(names)}: say which one in a model of JSON, "
            f'{{"from": "{Path(file.filename).name}", "{ROTATION}": "{names[0]}"}}'
        )
    name = names[0] if wanted is None else str(wanted)
    if name not in names:
        raise GeometryError(f"it has no rotation {name!r}: there are {', '.join(names)}")
    detector, turns = f"{name}/instrument/detector", f"{name}/instrument/goniometer"
    phi = find_inside(file, f"{turns}/phi")
    found = {
        "wavelength": _value(file, f"{name}/instrument/monochromator/wavelength"),
        "phi": _value(file, f"{turns}/phi"),
        "phi@step": None if "step" not in phi.attrs else float(phi.attrs["step"]),
        **{key: _value(file, f"{detector}/{key}") for key in (
            "distance", "pixel_size", "beam_center_x", "beam_center_y", "yaw", "pitch", "roll")},
    }  # fmt: skip
    if lacking := [key for key, value in found.items() if value is None]:
        raise GeometryError(f"its rotation {name} lacks {', '.join(lacking)}")
    at: dict[str, float] = {key: float(value or 0.0) for key, value in found.items()}
    orientation = _text(file, f"{detector}/detector_orientation") or _ORIENTATION
    if orientation.split() != _ORIENTATION.split():
        raise GeometryError(
            f"its detector_orientation is {orientation!r}: only {_ORIENTATION!r} is read"
        )
    tilt = (
        rotation_about((1.0, 0.0, 0.0), at["roll"])
        @ rotation_about((0.0, 1.0, 0.0), at["pitch"])
        @ rotation_about((0.0, 0.0, 1.0), at["yaw"])
    )
    fast, slow = tilt @ np.array([0.0, -1.0, 0.0]), tilt @ np.array([0.0, 0.0, 1.0])
    origin = np.array([at["distance"], 0.0, 0.0]) - at["pixel_size"] * (
        at["beam_center_x"] * fast + at["beam_center_y"] * slow
    )
    angles = {key: _value_or_0(file, f"{turns}/{key}") for key in ("chi", "omega", "theta")}
    period = _value(file, f"{detector}/frame_time")
    return {
        "format": "NXRefine",
        "wavelength_angstrom": at["wavelength"],
        "s0": [0.0, 0.0, -1.0 / at["wavelength"]],
        "panel_origin_mm": (_TO_MODEL @ origin).tolist(),
        "fast": (_TO_MODEL @ fast).tolist(),
        "slow": (_TO_MODEL @ slow).tolist(),
        "pixel_mm": at["pixel_size"],
        "goniometer": {
            "names": list(_AXES),
            "axes": [(_TO_MODEL @ axis).tolist() for axis in _AXES.values()],
            "angles_deg": [at["phi"], angles["chi"], angles["omega"], angles["theta"]],
            "scan_axis": 0,
            "start_deg": at["phi"],
            "step_deg": at["phi@step"],
        },
        **({} if period is None else {"exposure_period": period}),
        **_crystal(file, name, at["phi@step"]),
    }


def _crystal(file: h5py.File, name: str, step: float) -> dict[str, Any]:
    matrix = _array(file, f"{name}/instrument/detector/orientation_matrix", (3, 3))
    if matrix is None:
        return {}
    cell = [_value(file, f"entry/sample/unitcell_{key}") for key in _CELL]
    if any(value is None for value in cell):
        raise GeometryError(
            f"its rotation {name} has an orientation_matrix, and /entry/sample no unitcell_a … "
            "unitcell_gamma, without which it is not known what that means"
        )
    a, b, c, alpha, beta, gamma = (float(value or 0.0) for value in cell)
    ahead = matrix @ np.linalg.inv(direct_basis((a, b, c, alpha, beta, gamma)))
    UB: Array = _TO_MODEL @ rotation_about((0.0, 0.0, 1.0), -0.5 * step) @ ahead
    return {"UB_no_2pi": UB.ravel().tolist(), "cell": list(lattice_of(UB))}


def _array(file: h5py.File, name: str, shape: tuple[int, ...]) -> Array | None:
    """Return numbers of a field; None if it is not there, or lies in another file."""
    try:
        found: Any = find_inside(file, name)
        if not isinstance(found, h5py.Dataset) or found.size != int(np.prod(shape)):
            return None
        check_part(found)
        value = np.asarray(found[()], np.float64).reshape(shape)
    except (KeyError, ScanFileError, TypeError, ValueError):
        return None
    return value if np.isfinite(value).all() else None


def _value(file: h5py.File, name: str) -> float | None:
    found = _array(file, name, ())
    if found is None:
        return None
    unit = _UNIT_OF.get(name.rpartition("/")[2])
    given: Any = find_inside(file, name).attrs.get("units", unit)
    text = given.decode("utf-8", "replace") if isinstance(given, bytes) else str(given)
    if unit is not None and text.strip().lower() not in ("", *_UNITS[unit]):
        raise GeometryError(f"its {name} is in {text!r:.50}: only {unit} is read")
    return float(found)


def _value_or_0(file: h5py.File, name: str) -> float:
    """Return a number that is 0 where there is no such field."""
    value = _value(file, name)
    if value is not None:
        return value
    with contextlib.suppress(KeyError):
        find_inside(file, name)
        raise GeometryError(f"its {name} is not one finite number")
    return 0.0


def _text(file: h5py.File, name: str) -> str:
    try:
        raw: Any = find_inside(file, name)[()]
    except (KeyError, ScanFileError, TypeError):
        return ""
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
