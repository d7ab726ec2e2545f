"""Cut planes, lines and boxes out of a volume file; only the chunks that they touch are read.

At level 1 the intensity is the sum of the counts over the sum of the weights. A coarser level has
intensities only: one layer of it is as it is stored, and several are averaged over the cells that
were measured, without weights. That is for a first look. With its standard deviation a coarser cut
is made of the sums of the whole cells in each of its cells,

    I = Σ (N − B) / Σ w,    σ² = Σ (var N + var B) / (Σ w)²

with counts N, background B and weight w of a cell: different cells have different counts, so that
variances add, as do those of layers. The same counts of air are in the background of neighbours,
where a pixel moved from one to the other within a frame; that covariance is not known here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ReductionError
from offbragg.files.cut_source import Cells, Source
from offbragg.files.equivalents import EquivalentCells, Matrix
from offbragg.files.planes import Line, Plane, cells_on
from offbragg.files.volume_file import VolumeFile
from offbragg.grid import NAMES, Array, Three

_AXIS = re.compile(r"[+-]?\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """What was cut out of a volume.

    Parameters
    ----------
    intensity
        Counts above background per weight, float32; NaN where nothing was measured. One dimension
        for each of ``axes``.
    axes
        Positions along each of ``directions``, r.l.u.
    directions
        Whole numbers: (1, 1, 0) runs along h and k.
    at
        h, k, l where all axes are 0; an index that stands still has the value of the nearest
        layer.
    level
        Cells of the volume along each edge of one cell of the cut.
    sigma
        Standard deviation of the intensity, where it was asked for.
    """

    intensity: Cells
    axes: tuple[Array, ...]
    directions: tuple[Three, ...]
    at: tuple[float, float, float]
    level: int = 1
    sigma: Cells | None = None


def cut_plane(
    file: VolumeFile,
    plane: Plane,
    *,
    thickness: float = 0.0,
    level: int = 1,
    sigma: bool = False,
    operations: Sequence[Matrix] = (),
    reading: Callable[[int], None] = lambda count: None,
) -> Cut:
    """Cut a plane.

    Parameters
    ----------
    file
        Open.
    plane
        On which cells lie.
    thickness
        Over which the intensity is averaged, r.l.u.; of an oblique plane along `Plane.normal`.
    level
        1, or one of the levels of the file.
    sigma
        Whether the standard deviation is wanted, too.
    operations
        Of a Laue class: each cell is made of the sums over its equivalents, at any level.
    reading
        Called with the number of bytes that are about to be in memory, before they are read.

    Raises
    ------
    ReductionError
        If the plane is outside the volume, the level is missing, or the file is damaged.
    """
    source = _source(file, level, sigma, reading, operations)
    _check_thickness(thickness)
    if plane.fixed is None or min(*plane.across, *plane.up) < 0:
        return _oblique(source, plane, thickness)
    box: list[slice] = [slice(0, n) for n in source.shape]
    box[plane.fixed], value = source.layers(plane.fixed, plane.at[plane.fixed], thickness)
    at = tuple(value if i == plane.fixed else plane.at[i] for i in range(3))
    intensity, errors = source.collapsed((box[0], box[1], box[2]), (plane.fixed,))
    rising = plane.across.index(1) < plane.up.index(1)
    axes = tuple(source.centres(vector.index(1)) for vector in (plane.across, plane.up))
    return Cut(
        intensity if rising else intensity.T,
        axes, (plane.across, plane.up), (at[0], at[1], at[2]), level,
        errors if errors is None or rising else errors.T,
    )  # fmt: skip


def cut_line(
    file: VolumeFile,
    line: str,
    *,
    thickness: float = 0.0,
    level: int = 1,
    sigma: bool = False,
    operations: Sequence[Matrix] = (),
    reading: Callable[[int], None] = lambda count: None,
) -> Cut:
    """Cut a line along h, k or l.

    Parameters
    ----------
    file, level, sigma, operations, reading
        As for `cut_plane`.
    line
        One of h, k, l and two numbers, with commas: ``h,0.5,0``.
    thickness
        Edge of the square across the line over which the intensity is averaged, r.l.u.

    Raises
    ------
    ReductionError
        As `cut_plane` does.
    """
    parts = line.replace(" ", "").replace("−", "-").split(",")
    runs = [i for i, part in enumerate(parts) if part == NAMES[i : i + 1]]
    still = [i for i, part in enumerate(parts) if _AXIS.fullmatch(part)]
    if len(parts) != 3 or len(runs) != 1 or len(still) != 2:
        raise ReductionError(f"{line!r} is not a line: write h,0.5,0 or 1,k,0 or 1,1,l")
    source = _source(file, level, sigma, reading, operations)
    _check_thickness(thickness)
    box: list[slice] = [slice(0, n) for n in source.shape]
    at = [0.0, 0.0, 0.0]
    for i in still:
        box[i], at[i] = source.layers(i, float(parts[i]), thickness)
    intensity, errors = source.collapsed((box[0], box[1], box[2]), (still[0], still[1]))
    along: Three = tuple(int(i == runs[0]) for i in range(3))  # type: ignore[assignment]
    return Cut(
        intensity, (source.centres(runs[0]),), (along,), (at[0], at[1], at[2]), level, errors
    )


def cut_between(
    file: VolumeFile,
    points: Sequence[Sequence[float]],
    *,
    level: int = 1,
    sigma: bool = False,
    operations: Sequence[Matrix] = (),
    reading: Callable[[int], None] = lambda count: None,
) -> Cut:
    """Cut the cells on a line from one point to another, r.l.u.; parameters as for `cut_plane`.

    The position along the line is in units of its direction, from the first point on.

    Raises
    ------
    ReductionError
        As `cut_plane` does, and if the direction is not one of small whole numbers.
    """
    source = _source(file, level, sigma, reading, operations)
    line = Line.through(points)
    place, label = line.cells_on(source.grid)
    place, label = place[::level], label[::level]
    intensity, errors = _at_cells(source, place, np.zeros((1, 3), np.int64))
    return Cut(intensity, (label,), (line.along,), line.at, level, errors)


def cut_box(
    file: VolumeFile,
    box: str,
    *,
    level: int = 1,
    sigma: bool = False,
    operations: Sequence[Matrix] = (),
    reading: Callable[[int], None] = lambda count: None,
) -> Cut:
    """Cut a box.

    Parameters
    ----------
    file, level, sigma, operations, reading
        As for `cut_plane`.
    box
        Limits of the centres along h, k, l, r.l.u., as ``-1:1,-1:1,0:0.5``.

    Raises
    ------
    ReductionError
        As `cut_plane` does.
    """
    try:
        limits = [tuple(map(float, part.split(":"))) for part in box.split(",")]
        if len(limits) != 3 or any(
            len(pair) != 2 or not -math.inf < pair[0] <= pair[1] < math.inf for pair in limits
        ):
            raise ValueError(box)
    except ValueError:
        raise ReductionError(
            f"{box!r} is not a box: write h0:h1,k0:k1,l0:l1, as -1:1,-1:1,0:0.5"
        ) from None
    source = _source(file, level, sigma, reading, operations)
    parts: list[slice] = []
    for i, (low, high) in enumerate(limits):
        within = np.flatnonzero(
            (source.centres(i) >= low - 1e-9) & (source.centres(i) <= high + 1e-9)
        )
        if not within.size:
            raise ReductionError(f"no cell has {NAMES[i]} from {low:g} to {high:g}: {file.grid}")
        parts.append(slice(int(within[0]), int(within[-1]) + 1))
    intensity, errors = source.collapsed((parts[0], parts[1], parts[2]), ())
    return Cut(
        intensity,
        tuple(source.centres(i)[part] for i, part in enumerate(parts)),
        ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
        (0.0, 0.0, 0.0),
        level,
        errors,
    )


def _source(
    file: VolumeFile,
    level: int,
    sigma: bool,
    reading: Callable[[int], None],
    operations: Sequence[Matrix],
) -> Source:
    if operations:
        return EquivalentCells(file, level, sigma, reading, operations)
    return Source(file, level, sigma, reading)


def _oblique(source: Source, plane: Plane, thickness: float) -> Cut:
    """Cut a plane cell by cell; at a coarser level each cell is the one that holds the point."""
    level, cells = source.level, cells_on(source.grid, plane, thickness)
    place = cells.place[level // 2 :: level, level // 2 :: level]
    shape = place.shape[:2]
    if not place.size:
        raise ReductionError(f"no cell lies on this plane: {source.grid}")
    intensity, errors = _at_cells(source, place.reshape(-1, 3), cells.layers)
    axes = tuple(label[level // 2 :: level] for label in cells.labels)
    return Cut(
        intensity.reshape(shape), axes, (plane.across, plane.up), plane.at, level,
        None if errors is None else errors.reshape(shape),
    )  # fmt: skip


def _at_cells(
    source: Source, place: NDArray[np.int64], layers: NDArray[np.int64]
) -> tuple[Cells, Cells | None]:
    """Return intensity and sigma of cells of level 1 and those ``layers`` away, shape (n,)."""
    level, first = source.level, np.array(source.grid.first)
    if level > 1:  # layers in one coarse cell count once
        layers = layers[:: min(level, len(layers))]
    single = len(layers) == 1 and source.is_ready
    names = source.ready() if single else source.needed()
    source.reading(place.size * 8 * 3 + len(place) * 8 * len(names))
    totals = {name: np.zeros(len(place)) for name in names}
    seen = np.zeros(len(place), np.bool_)
    for layer in layers:
        where = place + layer - first
        inside = np.all((where >= 0) & (where < source.grid.shape), axis=1)
        seen |= inside
        where = np.where(inside[:, None], where // level, -1)
        source.gather(where, single, totals)
    if not single:
        return source.divided(totals)
    read = [np.where(seen, total, np.nan).astype(np.float32) for total in totals.values()]
    return read[0], read[1] if source.sigma else None


def _check_thickness(thickness: float) -> None:
    if not (math.isfinite(thickness) and thickness >= 0):
        raise ReductionError(f"the thickness is {thickness}: it must be 0 r.l.u. or more")
