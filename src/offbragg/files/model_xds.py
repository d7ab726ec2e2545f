"""``XPARM.XDS`` and ``GXPARM.XDS`` of XDS: beam, panel, one axis and crystal.

https://xds.mr.mpg.de/html_doc/xds_files.html#XPARM.XDS; both its old form of 11 lines and that
which begins with its name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from offbragg.errors import GeometryError

_NAME = "XPARM.XDS"
_OLD = [6, 4, 4, 3, 3, 3, 3, 7, 3, 3, 3]
_NEW = [6, 4, 7, 3, 3, 3, 5, 3, 3, 3, 3]
"""How many numbers each line has."""
_TO_IMGCIF = np.diag([1.0, -1.0, -1.0])
"""XDS's beam runs along +z where y of the detector runs down: half a turn about x."""


def is_xds(text: str) -> bool:
    """Return whether a text is such a file."""
    lines = text[:10_000].splitlines()
    return bool(lines) and (
        lines[0].split()[:1] == [_NAME] or [len(line.split()) for line in lines] == _OLD
    )


def read_xds(text: str) -> dict[str, Any]:
    """Read it as a model's document.

    XDS's frame is the user's, with the beam near +z. It is turned about x by half a turn, and to
    the exact beam as any model is. XDS counts the centre of the first pixel as 1, so its corner is
    at ½. The cell's vectors are those at 0° of the axis.

    Raises
    ------
    GeometryError
        If the panel is not flat, pixels are not square, or the beam runs along −z.
    """
    lines = text.splitlines()
    named = lines[0].split()[:1] == [_NAME]
    rows = [line.split() for line in lines[named:]]
    lengths = _NEW if named else _OLD
    if [len(row) for row in rows[:11]] != lengths:
        raise GeometryError(
            f"it is cut off or not {_NAME}: its lines have "
            f"{', '.join(str(len(row)) for row in rows[:11])} numbers, not "
            f"{', '.join(map(str, lengths))}"
        )
    numbers = [[float(word) for word in row] for row in rows]
    scan, beam = numbers[0], numbers[1]
    if named:
        cell, basis = numbers[2][1:], numbers[3:6]
        segments, columns, n_rows, width, height = numbers[6]
        (x, y, distance), fast, slow, normal = numbers[7:11]
        _check_flat(numbers[11:], int(segments))
    else:
        (columns, n_rows, width, height), (distance, x, y) = numbers[2:4]
        fast, slow, normal = numbers[4:7]
        cell, basis = numbers[7][1:], numbers[8:11]
    if abs(width - height) > 1e-6 * width:
        raise GeometryError(f"its pixels of {width:g} × {height:g} mm are not square")
    e, f, s, n, s0 = (np.array(each) for each in (scan[3:], fast, slow, normal, beam[1:]))
    length = float(np.linalg.norm(s0))
    if not s0[2] > -0.99 * length:
        raise GeometryError(f"its beam runs along {s0.tolist()}: offbragg reads it along +z")
    origin = distance * n - (x - 0.5) * width * f - (y - 0.5) * height * s
    e, f, s = (each / np.linalg.norm(each) for each in (e, f, s))  # written with few digits
    return {
        "format": "XDS",
        "wavelength_angstrom": beam[0],
        "s0": (_TO_IMGCIF @ s0 / length / beam[0]).tolist(),
        "panel_origin_mm": (_TO_IMGCIF @ origin).tolist(),
        "fast": (_TO_IMGCIF @ f).tolist(),
        "slow": (_TO_IMGCIF @ s).tolist(),
        "pixel_mm": width,
        "shape": [int(n_rows), int(columns)],
        "goniometer": {
            "axes": [(_TO_IMGCIF @ e).tolist()],
            "angles_deg": [scan[1]],
            "scan_axis": 0,
            "start_deg": scan[1],
            "step_deg": scan[2],
        },
        "UB_no_2pi": (_TO_IMGCIF @ np.linalg.inv(np.array(basis))).ravel().tolist(),
        "cell": cell,
    }


def _check_flat(segments: list[list[float]], n: int) -> None:
    """Refuse segments that are not where the plane of the whole panel has them."""
    for place in range(min(n, len(segments) // 2)):
        shift = segments[2 * place + 1]
        if not np.allclose(shift, [0, 0, 0, 1, 0, 0, 0, 1, 0], atol=1e-6):
            raise GeometryError(
                f"its segment {place + 1} of {n} lies apart from the plane of the panel "
                f"({', '.join(f'{x:g}' for x in shift)}), and offbragg knows one plane"
            )
