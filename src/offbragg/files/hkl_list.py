"""Volumes as text: one line ``h k l I [sigma]`` for each cell, as Scatty's ``_sc_list.txt``.

Lines that begin with ``#`` or ``!`` are comments. A cell without a line is unmeasured. Scatty
writes 1 for every sigma: a sigma that is 1 everywhere is not known.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from offbragg.errors import ReductionError
from offbragg.files.other_fields import even_axis, grid_of, volume_of
from offbragg.grid import NAMES, Array
from offbragg.volume import Volume

_FIRST = 4096  # bytes that decide
_NEAR = 6  # decimals to which two numbers of one column are the same
_BESIDE = 0.02  # of a cell
_PLANE = "_sc.txt"
_MOST_EMPTY = 100  # cells of the box for each line


def is_hkl_list(path: Path) -> bool:
    """Return whether a file begins with lines of four or five numbers."""
    try:
        with path.open("rb") as file:
            lines = file.read(_FIRST).decode("ascii").splitlines()[:-1]
    except (OSError, UnicodeDecodeError):
        return False
    rows = [line.split() for line in lines if line.strip() and line.strip()[0] not in "#!"]
    return bool(rows) and all(len(row) in (4, 5) and all(map(_is_number, row)) for row in rows)


def is_bare_plane(path: Path) -> bool:
    """Return whether a file is named as Scatty names a plane: ``NAME_sc.txt``, of numbers."""
    if not path.name.endswith(_PLANE):
        return False
    try:
        with path.open("rb") as file:
            words = file.read(_FIRST).decode("ascii").split()[:-1]
    except (OSError, UnicodeDecodeError):
        return False
    return bool(words) and all(map(_is_number, words))


def read_bare_plane(path: Path) -> Volume:
    """Refuse a plane of Scatty: its numbers come without hkl, which the list beside it has.

    Raises
    ------
    ReductionError
        Always, naming the list.
    """
    beside = path.with_name(path.name.removesuffix(_PLANE) + "_sc_list.txt")
    where = "is there" if beside.is_file() else "is not there"
    raise ReductionError(
        f"{path} is a plane of Scatty, which does not say where its points are\nRead "
        f"{beside.name}, which Scatty writes beside it and which has them: it {where}."
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_hkl_list(path: Path) -> Volume:
    """Read a list; the volume has no sample, as the list has no unit cell.

    Raises
    ------
    ReductionError
        If a line is not of numbers, a cell has two, or they do not lie on a box along h, k, l.
    """
    try:
        rows = np.loadtxt(path, comments=("#", "!"), ndmin=2)
    except (OSError, ValueError) as error:
        raise ReductionError(f"{path} is not a list of h k l I: {error}") from error
    if rows.shape[1] not in (4, 5):
        raise ReductionError(f"{path} has {rows.shape[1]} columns: h k l I [sigma] are read")
    firsts: list[float] = []
    steps: list[float] = []
    shape: list[int] = []
    for place, name in enumerate(NAMES):
        first, step, count = _axis(np.unique(rows[:, place].round(_NEAR)), f"{path}: {name}")
        firsts.append(first)
        steps.append(step)
        shape.append(count)
    if math.prod(shape) > _MOST_EMPTY * len(rows):
        raise ReductionError(
            f"{path}: its {len(rows)} lines lie in a box of {shape} cells: only lists whose "
            "axes are h, k and l are read"
        )
    grid = grid_of(firsts, steps, shape, path)
    places = rows[:, :3] * grid.per_unit
    beside = np.any(np.abs(places - np.rint(places)) > _BESIDE, axis=1)
    if beside.any():
        hkl = rows[beside][0, :3].tolist()
        raise ReductionError(f"{path}: hkl {hkl} is not the centre of a cell: {grid}")
    places = np.rint(places).astype(np.int64) - grid.first
    flat = np.asarray(np.ravel_multi_index(tuple(places.T), grid.shape))
    if np.unique(flat).size < flat.size:
        twice = rows[np.setdiff1d(np.arange(flat.size), np.unique(flat, return_index=True)[1])[0]]
        raise ReductionError(f"{path} has two lines for hkl {twice[:3].tolist()}")
    intensity = np.full(grid.shape, np.nan)
    intensity.ravel()[flat] = rows[:, 3]
    variance = None
    if rows.shape[1] == 5 and np.any(rows[:, 4] != 1):
        variance = np.full(grid.shape, np.nan)
        variance.ravel()[flat] = rows[:, 4] ** 2
    return volume_of(intensity, grid, variance=variance)


def _axis(values: Array, where: str) -> tuple[float, float, int]:
    """Return first value, step and count of the axis on which the values of a column lie."""
    if not np.all(np.isfinite(values)):
        raise ReductionError(f"{where} has a value that is not finite")
    if len(values) == 1:  # a plane: any step that makes its index a label
        steps = (1 / n for n in range(1, 201) if abs(values[0] * n - round(values[0] * n)) < 1e-3)
        return float(values[0]), next(steps, math.nan), 1
    count = 1 + round(float(values[-1] - values[0]) / float(np.diff(values).min()))
    if count > len(values):  # a whole layer has no line
        step = float(values[-1] - values[0]) / (count - 1)
        return float(values[0]), step, count
    first, step = even_axis(values, count, where)
    return first, step, count
