"""The header of an imgCIF/CBF file, or a template of one, as a model: its axes and the panel.

Categories ``_axis``, ``_diffrn_scan_axis``, ``_diffrn_scan_frame_axis``, ``_array_structure_list``
and ``_array_structure_list_axis`` of the imgCIF dictionary (International Tables G, 4.6). Only the
text is read, not the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gemmi
import numpy as np

from offbragg.errors import GeometryError
from offbragg.files.model_dials import without_prefix
from offbragg.geometry import rotation_about
from offbragg.instrument import Array

MAGIC = b"###CBF"
_BINARY = "--CIF-BINARY-FORMAT-SECTION--"
_MOST_AXES = 32

_Row = Mapping[str, str]


def read_imgcif(raw: bytes) -> dict[str, Any]:
    """Read what stands before the pixels of a file as a model's document.

    imgCIF's frame is the model's, with the beam along -z. As DIALS takes it, the displacement of
    the first data point is that of the pixel's corner.

    Raises
    ------
    GeometryError
        If it has no axes, as a miniCBF file, or they do not place one panel and one sweep.
    """
    text = raw.decode("latin-1").partition(_BINARY)
    whole = text[0] + ("\n;\n" if text[1] else "")
    try:
        block = gemmi.cif.read_string(whole).sole_block()
    except (RuntimeError, ValueError) as error:
        raise GeometryError(f"its header is not CIF: {str(error)[:150]}") from error
    axes = {row["id"]: row for row in _rows(block, "axis")}
    if not axes:
        raise GeometryError(
            "its header has no _axis: a miniCBF file does not say where panel and axes were"
        )
    scan = _settings(block)
    wavelength = _number(_one(block, "diffrn_radiation_wavelength"), "wavelength")
    times = _rows(block, "diffrn_scan_frame")
    exposure = _number(times[0], "integration_time", 0.0) if times else 0.0
    return {
        "format": "imgCIF",
        "wavelength_angstrom": wavelength,
        "s0": [0.0, 0.0, -1.0 / wavelength],
        **_panel(block, axes, scan),
        "goniometer": _goniometer(axes, scan),
        **({"exposure_time": exposure} if exposure > 0 else {}),
    }


def _rows(block: gemmi.cif.Block, category: str) -> list[_Row]:
    """Return the rows of a category, a loop or not, by what follows its name; ``?`` is empty."""
    table: Any = block.find_mmcif_category(f"_{category}.")
    names = [str(tag).partition(".")[2].lower() for tag in table.tags]
    return [
        {
            name: gemmi.cif.as_string(str(value))
            for name, value in zip(names, row, strict=True)
            if str(value) != "."  # the default of the dictionary
        }
        for row in table
    ]


def _one(block: gemmi.cif.Block, category: str) -> _Row:
    rows = _rows(block, category)
    if len(rows) != 1:
        raise GeometryError(f"its header has {len(rows)} rows of _{category}, not 1")
    return rows[0]


def _number(row: _Row, key: str, otherwise: float | None = None) -> float:
    value = gemmi.cif.as_number(row[key]) if key in row else float("nan")
    if np.isfinite(value):
        return float(value)
    if otherwise is None:
        raise GeometryError(f"its header has no number for {key}")
    return otherwise


def _vector(row: _Row, key: str) -> Array:
    keys = (f"{key}[{i}]" for i in (1, 2, 3))
    return np.array([_number(row, one) if one in row else 0.0 for one in keys])


def _settings(block: gemmi.cif.Block) -> dict[str, dict[str, str]]:
    """Return where each axis begins; one that does not turn may be set in the first frame only."""
    found = {row["axis_id"]: dict(row) for row in _rows(block, "diffrn_scan_axis")}
    for row in _rows(block, "diffrn_scan_frame_axis"):
        axis = found.setdefault(row["axis_id"], {})
        for kind in ("angle", "displacement"):
            is_set = np.isfinite(_number(axis, f"{kind}_start", np.nan))
            if not is_set and not _number(axis, f"{kind}_increment", 0.0) and kind in row:
                axis[f"{kind}_start"] = row[kind]
    return found


def _setting(scan: Mapping[str, _Row], name: str, key: str) -> float:
    if name in scan and key not in scan[name]:
        return 0.0  # the default of the dictionary
    value = _number(scan.get(name, {}), key, np.nan)
    if not np.isfinite(value):
        raise GeometryError(
            f"its axis {name} has no number for {key}, neither in _diffrn_scan_axis nor in "
            "_diffrn_scan_frame_axis"
        )
    return value


def _chain(axes: Mapping[str, _Row], name: str) -> list[str]:
    """Return an axis and those that it depends on, to the one that stands still."""
    found: list[str] = []
    while name not in (".", "?", ""):
        if name not in axes or name in found or len(found) > _MOST_AXES:
            raise GeometryError(f"its axis {name!r} is not there, or depends on itself")
        found.append(name)
        name = axes[name].get("depends_on", ".")
    return found


def _place(
    axes: Mapping[str, _Row],
    chain: Sequence[str],
    settings: Mapping[str, float],
    scan: Mapping[str, _Row],
) -> Array:
    """Return where the origin of an axis is, mm, with displacements instead of those of a scan."""
    at = np.zeros(3)
    for name in chain:
        row = axes[name]
        vector = _vector(row, "vector")
        if row.get("type") == "rotation":
            unit = vector / (np.linalg.norm(vector) or 1.0)
            at = rotation_about(unit, _setting(scan, name, "angle_start")) @ at
        elif row.get("type") == "translation":
            moved = settings.get(name)
            if moved is None:
                moved = _setting(scan, name, "displacement_start")
            at = at + vector * moved
        at = at + _vector(row, "offset")
    return at


def _panel(
    block: gemmi.cif.Block, axes: Mapping[str, _Row], scan: Mapping[str, _Row]
) -> dict[str, Any]:
    steps = {row["axis_set_id"]: row for row in _rows(block, "array_structure_list_axis")}
    along: dict[int, tuple[_Row, _Row]] = {}
    for row in _rows(block, "array_structure_list"):
        precedence = int(_number(row, "precedence"))
        step = steps.get(row.get("axis_set_id", ""))
        if step is None or precedence in along or precedence not in (1, 2):
            raise GeometryError("its arrays do not have one axis for columns and one for rows")
        along[precedence] = row, step
    if len(along) != 2:
        raise GeometryError("its arrays do not have one axis for columns and one for rows")
    (fast_row, fast), (slow_row, slow) = along[1], along[2]
    names = fast["axis_id"], slow["axis_id"]
    chains = [_chain(axes, name) for name in names]
    chain = next((one for one in chains if set(names) <= set(one)), None)
    if chain is None:
        raise GeometryError(f"its axes {names[0]} and {names[1]} do not depend on each other")
    first = {
        name: _number(row, "displacement") if "displacement" in row else 0.0
        for name, row in zip(names, (fast, slow), strict=True)
    }
    origin = _place(axes, chain, first, scan)
    sizes: list[float] = []
    directions: list[Array] = []
    for name, row in zip(names, (fast, slow), strict=True):
        step = _number(row, "displacement_increment")
        moved = _place(axes, chain, {**first, name: first[name] + 1.0}, scan) - origin
        length = float(np.linalg.norm(moved))
        sizes.append(abs(step) * length)
        directions.append(np.sign(step) * moved / (length or 1.0))
    if not sizes[0] > 0 or abs(sizes[0] - sizes[1]) > 1e-6 * sizes[0]:
        raise GeometryError(f"its pixels of {sizes[0]:g} × {sizes[1]:g} mm are not square")
    return {
        "panel_origin_mm": origin.tolist(),
        "fast": directions[0].tolist(),
        "slow": directions[1].tolist(),
        "pixel_mm": sizes[0],
        "shape": [int(_number(row, "dimension")) for row in (slow_row, fast_row)],
    }


def _goniometer(axes: Mapping[str, _Row], scan: Mapping[str, _Row]) -> dict[str, Any]:
    """Return the axes from the crystal outwards, and the one that turns."""
    turning = [
        name
        for name, row in axes.items()
        if row.get("equipment") == "goniometer" and row.get("type") == "rotation"
    ]
    if not turning:
        raise GeometryError("its header has no axis of a goniometer")
    order = max((_chain(axes, name) for name in turning), key=len)
    if set(order) != set(turning):
        raise GeometryError(f"its goniometer axes {', '.join(turning)} are not one in the other")
    moving = [name for name in order if _number(scan.get(name, {}), "angle_increment", 0.0)]
    if len(moving) != 1:
        raise GeometryError(
            f"{len(moving)} of its axes {', '.join(order)} turn by _diffrn_scan_axis, not 1"
        )
    row = scan[moving[0]]
    vectors = [_vector(axes[name], "vector") for name in order]
    return {
        "axes": [(vector / (np.linalg.norm(vector) or 1.0)).tolist() for vector in vectors],
        "angles_deg": [_setting(scan, name, "angle_start") for name in order],
        "names": [without_prefix(name) for name in order],
        "scan_axis": order.index(moving[0]),
        "start_deg": _number(row, "angle_start"),
        "step_deg": _number(row, "angle_increment"),
    }
