"""Orientation matrices of other programs: with or without 2π, in the frame that each of them has.

A model has ``"UB": {"convention": NAME, "rows": [[…], […], […]]}`` in place of ``UB_no_2pi``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from offbragg.errors import GeometryError
from offbragg.instrument import Array, floats_of, vector_of
from offbragg.lattice import lattice_of

_UP, _BEAM = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, -1.0])  # in a model's frame
_SAME_CELL = 0.01
_ACROSS = math.sin(math.radians(1.0))


@dataclass(frozen=True, slots=True)
class _Convention:
    """Which of x, y and z of a frame run along the beam and along the second direction."""

    beam: int
    second: int
    two_pi: bool
    of_axis: bool = False
    """Whether the second direction is not up, but that about which the outermost axis turns
    left-handed."""


_CONVENTIONS = {
    # Busing & Levy, Acta Cryst. 22, 457 (1967): ω, χ, φ turn about −z, y, −z, and y is the beam
    "Busing-Levy": _Convention(beam=1, second=2, two_pi=False, of_axis=True),
    "SPEC": _Convention(beam=1, second=2, two_pi=True, of_axis=True),  # fourc: the same, with 2π
    # You, J. Appl. Cryst. 32, 614 (1999)
    "diffcalc": _Convention(beam=1, second=0, two_pi=True),
    # libhkl and hklpy2
    "hkl": _Convention(beam=0, second=2, two_pi=True),
}


def with_UB(document: Mapping[str, Any]) -> dict[str, Any]:
    """Put ``UB_no_2pi`` and ``cell`` where a model's document has ``UB`` of a convention.

    Raises
    ------
    GeometryError
        If the convention is unknown, or its cell is not the one that the model has.
    """
    rest = {key: value for key, value in document.items() if key != "UB"}
    if "UB_no_2pi" in rest:
        raise GeometryError("it has UB and UB_no_2pi: one of the two must go")
    given = document["UB"]
    found = cast(dict[str, Any], given if isinstance(given, dict) else {})
    name = found.get("convention")
    if name not in _CONVENTIONS:
        raise GeometryError(
            f"its UB has the convention {name!r:.50}; offbragg reads {', '.join(_CONVENTIONS)}"
        )
    convention = _CONVENTIONS[name]
    rows = found.get("rows")
    if not isinstance(rows, list) or len(cast(list[Any], rows)) != 3:
        raise GeometryError("its UB must have rows: three lists of three numbers")
    UB = np.array([floats_of(row, 3, "UB.rows") for row in cast(list[Any], rows)])
    if convention.two_pi:
        UB = UB / (2.0 * math.pi)
    if not abs(np.linalg.det(UB)) > 1e-12:
        raise GeometryError(f"its UB is singular: {rows!r:.200}")
    cell = list(lattice_of(UB))
    _check_cell(rest.get("cell"), cell, name)
    frame = _frame(convention, rest)
    return {"cell": cell, **rest, "UB_no_2pi": (frame @ UB).ravel().tolist()}


def _check_cell(given: Any, cell: list[float], name: str) -> None:
    if given is None:
        return
    expected = floats_of(given, 6, "cell")
    if not np.allclose(cell, expected, rtol=_SAME_CELL):
        raise GeometryError(
            f"its cell is {', '.join(f'{x:g}' for x in expected)}, and its UB in the convention "
            f"{name} has {', '.join(f'{x:.5g}' for x in cell)} (Å, degree)"
        )


def _frame(convention: _Convention, document: Mapping[str, Any]) -> Array:
    """Return the matrix from the convention's frame to that of a model."""
    second = _UP
    if convention.of_axis:
        axes = document["goniometer"]["axes"]
        second = -np.array(vector_of(axes[-1], "goniometer.axes"))
        if abs(second @ _BEAM) > _ACROSS:
            raise GeometryError(
                f"its outermost axis {axes[-1]} is not across the beam, as the convention has it"
            )
        second = second - (second @ _BEAM) * _BEAM
        second = second / np.linalg.norm(second)
    columns = np.empty((3, 3))
    columns[:, convention.beam], columns[:, convention.second] = _BEAM, second
    third = 3 - convention.beam - convention.second
    columns[:, third] = np.cross(columns[:, (third + 1) % 3], columns[:, (third + 2) % 3])
    return columns
