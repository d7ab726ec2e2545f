"""An experiment list of DIALS (``.expt``): beam, panel, goniometer, scan and crystal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from offbragg.errors import GeometryError
from offbragg.instrument import Array, vector_of
from offbragg.lattice import lattice_of

_PREFIX = re.compile(r"^(gon|goniometer)_(?=[a-z])", re.IGNORECASE)
"""Of axes in the dictionary of imgCIF, which headers leave out."""
_ONE = "offbragg stacks one sweep: write it alone, with dials.split_experiments"


def is_dials(document: object) -> bool:
    """Return whether a JSON document is an experiment list."""
    return isinstance(document, dict) and (
        cast(dict[str, Any], document).get("__id__") == "ExperimentList"
    )


def without_prefix(name: str) -> str:
    """Return the name of an axis as headers have it.

    Examples
    --------
    >>> without_prefix("GON_OMEGA"), without_prefix("GONIOMETER_PHI")
    ('omega', 'phi')
    """
    return _PREFIX.sub("", name).lower()


def read_dials(document: Mapping[str, Any]) -> dict[str, Any]:
    """Read an experiment list as a model's document; DIALS' frame is the model's.

    ``q = S R(axis) F A h`` in DIALS, with the fixed rotation F inside the axis and the setting
    rotation S outside it: of axes that are listed one by one both follow from their angles, of a
    single one they are given, and here go into UB and the axis.

    Raises
    ------
    GeometryError
        If it holds more than one sweep, crystal or panel, or pixels are not square.
    """
    experiments = document["experiment"]
    if len(experiments) != 1:
        raise GeometryError(f"it holds {len(experiments)} experiments, not 1: {_ONE}")
    experiment = experiments[0]
    beam, detector, turns, scan = (
        _part(document, experiment, key) for key in ("beam", "detector", "goniometer", "scan")
    )
    crystal = _part(document, experiment, "crystal", needed=False)
    panel = _panel(detector)
    wavelength = float(beam["wavelength"])
    towards_source = np.array(vector_of(beam["direction"], "beam.direction"))
    start, step = (float(x) for x in _oscillation(scan))
    goniometer, fixed = _goniometer(turns, start)
    return {
        "format": "DIALS",
        "wavelength_angstrom": wavelength,
        "s0": (-towards_source / np.linalg.norm(towards_source) / wavelength).tolist(),
        **panel,
        "goniometer": {**goniometer, "start_deg": start, "step_deg": step},
        **({} if crystal is None else _crystal(crystal, fixed)),
    }


def _part(
    document: Mapping[str, Any], experiment: Mapping[str, Any], key: str, *, needed: bool = True
) -> Any:
    index = experiment.get(key)
    if index is None or not 0 <= index < len(document.get(key, [])):
        if needed:
            raise GeometryError(f"its experiment has no {key}: a sweep has one")
        return None
    return document[key][index]


def _oscillation(scan: Mapping[str, Any]) -> tuple[float, float]:
    if "oscillation" in scan:
        return tuple(scan["oscillation"])
    angles = scan["properties"]["oscillation"]  # of each frame, since DIALS 3.15
    if len(angles) < 2:
        raise GeometryError("its scan has 1 frame, which does not say the step: give the scan")
    return angles[0], (angles[-1] - angles[0]) / (len(angles) - 1)


def _panel(detector: Mapping[str, Any]) -> dict[str, Any]:
    panels = detector["panels"]
    if len(panels) != 1:
        raise GeometryError(f"its detector has {len(panels)} panels, and offbragg knows one plane")
    panel = panels[0]
    width, height = panel["pixel_size"]
    if abs(width - height) > 1e-6 * width:
        raise GeometryError(f"its pixels of {width:g} × {height:g} mm are not square")
    group = detector.get("hierarchy") or {}
    turned, moved = np.eye(3), np.zeros(3)
    if any(group.get(key) for key in ("fast_axis", "slow_axis")):
        fast, slow = np.array(group["fast_axis"]), np.array(group["slow_axis"])
        turned = np.column_stack([fast, slow, np.cross(fast, slow)])
        moved = np.array(group["origin"])
        if any("panel" not in child for child in group.get("children", [])):
            raise GeometryError("its panel lies in groups of groups, which offbragg does not read")
    columns, rows = panel["image_size"]
    return {
        "panel_origin_mm": (turned @ panel["origin"] + moved).tolist(),
        "fast": (turned @ panel["fast_axis"]).tolist(),
        "slow": (turned @ panel["slow_axis"]).tolist(),
        "pixel_mm": float(width),
        "shape": [rows, columns],
    }


def _goniometer(turns: Mapping[str, Any], start: float) -> tuple[dict[str, Any], Array]:
    """Return axes and angles, and what a fixed rotation does to UB."""
    if "axes" in turns:
        names = [without_prefix(str(name)) for name in turns["names"]]
        return {
            "axes": turns["axes"],
            "angles_deg": turns["angles"],
            "scan_axis": turns["scan_axis"],
            "names": names,
        }, np.eye(3)
    fixed, setting = (
        np.array(turns.get(key) or np.eye(3).ravel(), np.float64).reshape(3, 3)
        for key in ("fixed_rotation", "setting_rotation")
    )
    axis = setting @ np.array(vector_of(turns["rotation_axis"], "goniometer.rotation_axis"))
    return {"axes": [axis.tolist()], "angles_deg": [start], "scan_axis": 0}, setting @ fixed


def _crystal(crystal: Mapping[str, Any], fixed: Array) -> dict[str, Any]:
    basis = np.array([crystal[f"real_space_{axis}"] for axis in "abc"], np.float64)
    UB: Array = np.linalg.inv(basis).astype(np.float64)
    return {"UB_no_2pi": (fixed @ UB).ravel().tolist(), "cell": list(lattice_of(UB))}
