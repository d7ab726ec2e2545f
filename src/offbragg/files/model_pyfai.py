"""A calibration of pyFAI (``.poni``): wavelength and panel, as rings of a powder show them.

pyFAI has a pixel at R (d₁ − Poni1, d₂ − Poni2, Distance), with axis 3 along the beam and
R = R₃(Rot3) R₂(−Rot2) R₁(−Rot1). Rings do not say how the panel is turned about the beam, nor
whether frames are mirrored, so neither does a calibration: the model says how it is mounted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from offbragg.errors import GeometryError
from offbragg.geometry import rotation_about
from offbragg.instrument import vector_of
from offbragg.panels import PanelType, panel_named

MOUNT = ("fast", "slow")
"""What a model has to add, besides its goniometer."""
_FURTHEST = 45.0  # degree
_LINE = re.compile(r"^[ \t]*([A-Za-z]\w*)[ \t]*:[ \t]*([^\r\n]*)$", re.MULTILINE)
_BEAM = np.array([0.0, 0.0, -1.0])  # of a model
_NEEDED = ("distance", "poni1", "poni2", "rot1", "rot2", "wavelength")
_ORIENTATIONS = {1: (True, True), 2: (True, False), 3: (False, False), 4: (False, True)}
"""Whether rows and columns are counted from the far end."""


def is_pyfai(text: str) -> bool:
    """Return whether a text is a calibration."""
    keys = _values(text[:20_000]).keys()
    return {"distance", "poni1", "poni2"} <= keys


def read_pyfai(text: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """Read it as the part of a model's document that it has: wavelength and panel.

    Parameters
    ----------
    text
        Of the file; pyFAI appends each calibration, and the last one counts.
    own
        What the model says: ``fast`` and ``slow``, about the directions of growing columns and
        rows. The panel is turned from there by the least that brings the beam where the
        calibration has it.

    Raises
    ------
    GeometryError
        If something is missing, pixels are not square, or the panel is more than 45° from there.
    """
    values = _values(text)
    if absent := [key for key in _NEEDED if key not in values]:
        raise GeometryError(f"it lacks {', '.join(absent)}")
    if any(key not in own for key in MOUNT):
        raise GeometryError(
            "a calibration of pyFAI does not say how the panel is turned about the beam, nor the "
            'axes\nGive a model that does: {"from": "x.poni", "fast": [1, 0, 0], '
            '"slow": [0, -1, 0], "goniometer": {…}}'
        )
    distance, poni1, poni2, rot1, rot2, wavelength = (float(values[key]) for key in _NEEDED)
    # the beam in the panel's own axes: Rᵀ applied to axis 3
    along_slow, along_fast = math.sin(rot2), -math.cos(rot2) * math.sin(rot1)
    along_normal = math.cos(rot2) * math.cos(rot1)
    config = _config(values)
    panel = _known_panel(values, config, own)
    pixel = _pixel(values, config) or (panel and panel.pixel)
    rows_back, columns_back = _orientation(config)
    if rows_back or columns_back:
        n_rows, n_columns = _shape(config, own, panel)
        if pixel is None:
            raise GeometryError("it does not say the pixel size, so not where its first pixel is")
        if rows_back:
            along_slow, poni1 = -along_slow, 1e-3 * pixel * n_rows - poni1
        if columns_back:
            along_fast, poni2 = -along_fast, 1e-3 * pixel * n_columns - poni2
    fast = np.array(vector_of(own["fast"], "fast"))
    slow = np.array(vector_of(own["slow"], "slow"))
    fast = fast / np.linalg.norm(fast)
    slow = slow - (slow @ fast) * fast
    slow = slow / np.linalg.norm(slow)
    normal = np.cross(fast, slow)
    normal = normal if normal @ _BEAM > 0 else -normal
    beam = along_fast * fast + along_slow * slow + along_normal * normal
    axis, cosine = np.cross(beam, _BEAM), float(beam @ _BEAM)
    sine = float(np.linalg.norm(axis))
    angle = math.degrees(math.atan2(sine, cosine))
    if angle > _FURTHEST:
        raise GeometryError(
            f"its panel is turned by {angle:.1f} degree from where fast {own['fast']} and slow "
            f"{own['slow']} have it: give their directions to within {_FURTHEST:g} degree"
        )
    turn = np.eye(3) if sine < 1e-15 else rotation_about(axis / sine, angle)
    origin = 1e3 * (distance * normal - poni2 * fast - poni1 * slow)
    whole = panel is not None and panel.pixel == pixel and "shape" not in own  # it is not binned
    return {
        "format": "pyFAI",
        "wavelength_angstrom": 1e10 * wavelength,
        "s0": (_BEAM / (1e10 * wavelength)).tolist(),
        "panel_origin_mm": (turn @ origin).tolist(),
        "fast": (turn @ fast).tolist(),
        "slow": (turn @ slow).tolist(),
        **({} if pixel is None else {"pixel_mm": pixel}),
        **({"shape": list(panel.shape)} if panel is not None and whole else {}),
    }


def _values(text: str) -> dict[str, str]:
    return {key.lower(): value.strip() for key, value in _LINE.findall(text)}


def _config(values: Mapping[str, str]) -> dict[str, Any]:
    found = json.loads(values.get("detector_config") or "{}")
    return cast(dict[str, Any], found if isinstance(found, dict) else {})


def _orientation(config: Mapping[str, Any]) -> tuple[bool, bool]:
    number = config.get("orientation") or 3
    if number not in _ORIENTATIONS:
        raise GeometryError(f"it has orientation {number!r:.50}: pyFAI has 1 to 4")
    return _ORIENTATIONS[number]


def _known_panel(
    values: Mapping[str, str], config: Mapping[str, Any], own: Mapping[str, Any]
) -> PanelType | None:
    """Return the panel that the calibration names; None if it need not be a known one."""
    name = values.get("detector", "")
    try:
        return panel_named(name)
    except GeometryError:
        if not name or _pixel(values, config) is not None or "pixel_mm" in own:
            return None  # it says what is needed of it
        raise


def _shape(
    config: Mapping[str, Any], own: Mapping[str, Any], panel: PanelType | None
) -> tuple[int, int]:
    shape = config.get("max_shape") or own.get("shape") or (panel and list(panel.shape))
    if not isinstance(shape, list) or len(cast(list[Any], shape)) != 2:
        raise GeometryError(
            f"it has orientation {config['orientation']}, which counts from the far end, and no "
            'max_shape\nSay how large the panel is: "shape": [1679, 1475] in the model'
        )
    rows, columns = cast(list[Any], shape)
    return int(rows), int(columns)


def _pixel(values: Mapping[str, str], config: Mapping[str, Any]) -> float | None:
    """Return the size of a pixel, mm; None if the calibration leaves it to the detector's name."""
    one, two = (config.get(f"pixel{n}") or values.get(f"pixelsize{n}") for n in (1, 2))
    if one is None or two is None:
        return None
    height, width = 1e3 * float(one), 1e3 * float(two)
    if abs(width - height) > 1e-6 * width:
        raise GeometryError(f"its pixels of {width:g} × {height:g} mm are not square")
    return round(width, 9)
