"""A layer of DISCUS as text: its output format ``standard``.

::

    # HEADER  : …
    # FOURIER : lower left  ;3R::    -2.00000,    -1.00000,     0.50000
    # FOURIER : lower right ;3R::     2.00000,    -1.00000,     0.50000
    # FOURIER : upper left  ;3R::    -2.00000,     1.00000,     0.50000
    # FOURIER : no. points  ;3I::          41,          21,           1
        41       21
     -0.20000E+01  0.20000E+01 -0.10000E+01  0.10000E+01
     …

Then the intensities follow row by row, five to a line. The corners are the centres of cells. There
is no unit cell in it and no standard deviation. Of a transform in three dimensions DISCUS writes a
file for each layer, and leaves out where it is; text of older versions has no header at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from offbragg.errors import ReductionError
from offbragg.files.other_fields import grid_of, volume_of
from offbragg.grid import NAMES, Array
from offbragg.volume import Volume

_FIRST = b"# HEADER  :"
_MOST_HEADER = 1 << 20  # bytes
_BYTES = 2  # at least, of each number
_LINE = re.compile(r"^# FOURIER : ([a-z. ]+?)\s*;\s*\d[RI]::(.*)$", re.MULTILINE)
_CORNERS = ("lower left", "lower right", "upper left")
_ALONG = 1e-4  # r.l.u.: two corners as they are written, with five decimals


def is_discus(path: Path) -> bool:
    """Return whether a file begins as DISCUS begins a layer."""
    try:
        with path.open("rb") as file:
            return file.read(len(_FIRST)) == _FIRST
    except OSError:
        return False


def read_discus(path: Path) -> Volume:
    """Read a layer; the volume has no sample.

    Raises
    ------
    ReductionError
        Naming what is missing, or axes that are not h, k and l.
    """
    facts, values = _layer(path)
    columns, rows, layers = (int(n) for n in _numbers(facts, "no. points", path))
    if layers != 1 or min(columns, rows) < 2:
        raise ReductionError(f"{path} has {columns} × {rows} × {layers} points: a layer is read")
    corner, right, upper = (_numbers(facts, name, path) for name in _CORNERS)
    abscissa, ordinate = _axis(corner, right, path), _axis(corner, upper, path)
    if abscissa == ordinate:
        raise ReductionError(f"{path} has two axes along {NAMES[abscissa]}")
    across = 3 - abscissa - ordinate
    steps = [0.0, 0.0, 0.0]
    steps[abscissa] = (right[abscissa] - corner[abscissa]) / (columns - 1)
    steps[ordinate] = (upper[ordinate] - corner[ordinate]) / (rows - 1)
    steps[across] = _step_of_layer(corner[across])
    layer = _values(values, columns, rows, path).T[..., None]
    arranged = np.ascontiguousarray(np.moveaxis(layer, (0, 1, 2), (abscissa, ordinate, across)))
    return volume_of(arranged, grid_of(corner, steps, arranged.shape, path))


def _layer(path: Path) -> tuple[Mapping[str, str], str]:
    """Return the lines of the header, and all that follows it."""
    try:
        text = path.read_text(encoding="ascii")
    except OSError as error:
        raise ReductionError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ReductionError(f"{path} is not text as DISCUS writes it") from None
    header = text[: min(_MOST_HEADER, _end_of_header(text))]
    facts = {" ".join(name.split()): value for name, value in _LINE.findall(header)}
    if not facts:
        raise ReductionError(
            f"{path} is of DISCUS, and its header has no section FOURIER: it does not say where "
            "its points are\nDISCUS leaves it out of transforms in three dimensions: write them in "
            "its format hdf5."
        )
    return facts, text[len(header) :]


def _end_of_header(text: str) -> int:
    """Return where the lines end that begin with #."""
    match = re.match(r"(?:#[^\n]*\n)*", text)
    return match.end() if match else 0


def _numbers(facts: Mapping[str, str], name: str, path: Path) -> list[float]:
    """Read the numbers of a line of the header."""
    known = " ".join(name.split())
    if known not in facts:
        raise ReductionError(f"{path} has no line FOURIER : {known}")
    try:
        values = [float(each) for each in facts[known].split(",")]
    except ValueError:
        values = []
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise ReductionError(f"{path}: its line FOURIER : {known} is {facts[known].strip()!r:.60}")
    return values


def _axis(corner: list[float], other: list[float], path: Path) -> int:
    """Return along which index an axis runs."""
    away = np.array(other) - np.array(corner)
    along = np.flatnonzero(np.abs(away) > _ALONG)
    if len(along) != 1 or away[along[0]] < 0:
        raise ReductionError(
            f"{path} has an axis from {corner} to {other}: only axes along h, k and l are read"
        )
    return int(along[0])


def _step_of_layer(label: float) -> float:
    """Return a step that makes the index of a single layer a label."""
    steps = (1 / n for n in range(1, 201) if abs(label * n - round(label * n)) < 1e-3)
    return next(steps, math.nan)


def _values(text: str, columns: int, rows: int, path: Path) -> Array:
    """Read the intensities of a layer, shape (ordinate, abscissa)."""
    expected = rows * columns + 6  # how many, and the four limits, come before
    if expected * _BYTES > len(text) + 1:
        raise ReductionError(f"{path} claims {columns} × {rows} points, and is too short for them")
    try:
        values = np.array(text.split(), dtype=np.float64)
    except ValueError as error:  # of Fortran: a number that is wider than its place
        raise ReductionError(f"{path} has something between its numbers: {error}") from error
    if len(values) != expected or values[:2].tolist() != [columns, rows]:
        raise ReductionError(
            f"{path} has {len(values)} numbers after its header, where {columns} × {rows} points "
            f"take {expected}"
        )
    return values[6:].reshape(rows, columns)
