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

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.bricks import BRICK, LEVELS
from offbragg.errors import ReductionError, ScanFileError
from offbragg.files.cells import StoredArray
from offbragg.files.planes import Line, Plane, cells_on
from offbragg.files.volume_file import VolumeFile
from offbragg.grid import NAMES, Array, Three

Cells = NDArray[np.float32]
Slices = tuple[slice, slice, slice]

MOST_CELLS = 300_000_000
"""Cells that one cut may read."""
_MOST_CHUNK = 16_000_000  # bytes; ours have 262,144
_MOST_ALONG = 100_000  # cells along an axis
_ROWS = 4 * BRICK  # rows of cells that are summed at once
_SUMS = ("counts", "weight", "background")
_SQUARES = ("variance", "background_variance")
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
    reading
        Called with the number of bytes that are about to be in memory, before they are read.

    Raises
    ------
    ReductionError
        If the plane is outside the volume, the level is missing, or the file is damaged.
    """
    source = _Source(file, level, sigma, reading)
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
    reading: Callable[[int], None] = lambda count: None,
) -> Cut:
    """Cut a line along h, k or l.

    Parameters
    ----------
    file, level, sigma, reading
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
    source = _Source(file, level, sigma, reading)
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
    reading: Callable[[int], None] = lambda count: None,
) -> Cut:
    """Cut the cells on a line from one point to another, r.l.u.; parameters as for `cut_plane`.

    The position along the line is in units of its direction, from the first point on.

    Raises
    ------
    ReductionError
        As `cut_plane` does, and if the direction is not one of small whole numbers.
    """
    source = _Source(file, level, sigma, reading)
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
    reading: Callable[[int], None] = lambda count: None,
) -> Cut:
    """Cut a box.

    Parameters
    ----------
    file, level, sigma, reading
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
    source = _Source(file, level, sigma, reading)
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


class DamagedVolume(ReductionError):  # noqa: N818  what it is
    """What is stored in a volume file does not have its checksum, or cannot be decoded."""


class _Source:
    """The arrays of a volume file at one level; places are cells of that level, along h, k, l."""

    def __init__(
        self, file: VolumeFile, level: int, sigma: bool, reading: Callable[[int], None]
    ) -> None:
        self._file, self.level, self.reading = file, level, reading
        self.grid = file.grid
        self.sigma = sigma
        self._read_cells = 0
        self._arrays: dict[str, Any] = {}
        self._stored: dict[str, StoredArray] = {}
        if max(self.grid.shape) > _MOST_ALONG:
            raise ReductionError(
                f"the volume has {max(self.grid.shape):,} cells along an axis: at most "
                f"{_MOST_ALONG:,} are cut"
            )
        there = [1, *(n for n in LEVELS if self._array(f"levels/{n}/intensity") is not None)]
        if level not in there:
            raise ReductionError(
                f"the volume has no level {level}: there are {', '.join(map(str, there))}"
            )
        self.merges = sigma and level > 1
        """Whether each cell is made of the sums of whole cells."""
        self._fine: Three = (level, level, level) if self.merges else (1, 1, 1)
        self.shape: Three = tuple(-(-n // level) for n in self.grid.shape)  # type: ignore[assignment]

    def centres(self, axis: int) -> Array:
        """Centres of the cells along an axis, r.l.u.; the last one may have fewer cells in it."""
        fine = self.grid.axis(axis)
        if self.level == 1:
            return fine
        return np.array(
            [fine[at : at + self.level].mean() for at in range(0, len(fine), self.level)]
        )

    def layers(self, axis: int, value: float, thickness: float) -> tuple[slice, float]:
        """Return the layers at a value, at least the nearest one, and where that one is."""
        grid, fine = self.grid, self.grid.axis(axis)
        if (
            not fine[0] - 0.5 * grid.step[axis] - 1e-9
            <= value
            <= fine[-1] + 0.5 * grid.step[axis] + 1e-9
        ):
            raise ReductionError(f"{NAMES[axis]} = {value:g} is outside the volume: {grid}")
        centres = self.centres(axis)
        near = np.abs(centres - value)
        which = np.flatnonzero(near <= max(0.5 * thickness, near.min()) + 1e-9)
        return slice(int(which[0]), int(which[-1]) + 1), float(centres[near.argmin()])

    def collapsed(self, box: Slices, axes: tuple[int, ...]) -> tuple[Cells, Cells | None]:
        """Read a box, summed along some of the axes, which are gone afterwards."""
        count = [part.stop - part.start for part in box]
        finer = math.prod(self._fine)
        self._count(math.prod(count) * finer)
        if all(count[axis] == 1 for axis in axes) and not self.merges:
            self.reading(4 * math.prod(count) * (1 + self.sigma))
            read = [self.read(name, box).squeeze(axes) for name in self.ready()]
            return read[0], read[1] if self.sigma else None
        kept = tuple(n for i, n in enumerate(count) if i not in axes)
        totals = {name: np.zeros(kept) for name in self.needed()}
        pieces = list(_pieces(box, axes, self._fine[0]))
        largest = max(math.prod(part.stop - part.start for part in piece) for piece in pieces)
        largest *= finer
        self.reading(8 * (len(totals) * math.prod(kept) + largest))
        wide = next(i for i in range(3) if i not in axes)
        for piece in pieces:
            rows = slice(piece[wide].start - box[wide].start, piece[wide].stop - box[wide].start)
            for name, total in totals.items():
                total[rows] += self._summable(name, piece).sum(axis=axes)
        return self.divided(totals)

    def _count(self, cells: int) -> None:
        self._read_cells += cells
        if self._read_cells > MOST_CELLS:
            raise ReductionError(
                f"this cut reads more than {MOST_CELLS:,} cells: make it thinner or smaller, or "
                "take a coarser level"
            )

    def ready(self) -> list[str]:
        """Names of the arrays that hold the intensity, and its standard deviation, of one layer."""
        if self.level > 1:
            return [f"levels/{self.level}/intensity"]
        return ["data/intensity", "data/intensity_errors"][: 1 + self.sigma]

    def needed(self) -> list[str]:
        if self.level > 1 and not self.merges:
            return ["sum", "measured"]
        names = [*_SUMS, *_SQUARES] if self.sigma else list(_SUMS)
        return [name for name in names if self._array(f"volume/{name}") is not None]

    def _summable(self, name: str, box: Slices) -> Array:
        if self.merges:
            fine = tuple(
                slice(part.start * self.level, min(part.stop * self.level, n))
                for part, n in zip(box, self.grid.shape, strict=True)
            )
            array: Array = self.read(f"volume/{name}", (fine[0], fine[1], fine[2]))
            for axis in range(3):  # a box begins where a cell of its level does
                blocks = np.arange(0, array.shape[axis], self.level)
                array = np.add.reduceat(array, blocks, axis=axis)
            return array
        if self.level == 1:
            return self.read(f"volume/{name}", box)
        values = self.read(self.ready()[0], box)
        known = np.isfinite(values)
        return known.astype(np.float64) if name == "measured" else np.where(known, values, 0.0)

    def divided(self, totals: dict[str, Array]) -> tuple[Cells, Cells | None]:
        """Return intensity and sigma of sums."""
        if "measured" in totals:
            return _ratio(totals["sum"], totals["measured"]), None
        counts, weight = totals["counts"], totals["weight"]
        intensity = _ratio(counts - totals.get("background", 0.0), weight)
        if not self.sigma:
            return intensity, None
        squares = totals.get("variance", counts) + totals.get("background_variance", 0.0)
        return intensity, _ratio(np.sqrt(squares), weight)

    def gather(self, places: NDArray[np.int64], single: bool, totals: dict[str, Array]) -> None:
        """Add the cells at some places, shape (n, 3), to flat totals of n; outside is nothing."""
        inside = np.flatnonzero(np.all((places >= 0) & (places < self.shape), axis=1))
        found = places[inside]
        edge = BRICK // self._fine[0]  # cells of one chunk of what is read
        bricks = found // edge
        along = [-(-n // edge) for n in self.shape]
        number = (bricks[:, 2] * along[1] + bricks[:, 1]) * along[0] + bricks[:, 0]
        order = np.argsort(number, kind="stable")
        edges = np.flatnonzero(np.diff(number[order], prepend=-1, append=-1))
        for begin, end in itertools.pairwise(edges):
            which = order[begin:end]
            here = found[which]
            low, high = here.min(axis=0), here.max(axis=0) + 1
            box: Slices = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))  # type: ignore[assignment]
            self._count(BRICK**3)
            index = tuple((here - low).T)
            for name, total in totals.items():
                values = self.read(name, box) if single else self._summable(name, box)
                total[inside[which]] += values[index]

    def read(self, name: str, box: Slices) -> NDArray[Any]:
        """Read a box of an array, in the order h, k, l."""
        if name not in self._stored:
            data = self._array(name)
            if data is None:
                raise DamagedVolume(f"{self._file.path} is damaged: it has no {name}")
            self._stored[name] = StoredArray(data)
        try:
            return self._stored[name].read(box[::-1]).T
        except (OSError, RuntimeError, ScanFileError) as error:
            raise DamagedVolume(
                f"{self._file.path} is damaged: {name} does not have its checksum, or cannot be "
                f"decoded ({error})\nMake it again: offbragg reduce --again {self._file.path} "
                "--out NEW"
            ) from error

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            data = self._file.dataset(f"entry/{name}")
            level = int(name.split("/")[1]) if name.startswith("levels/") else 1
            shape = tuple(-(-n // level) for n in reversed(self.grid.shape))
            if data is not None:
                self._check(name, data, shape)
            self._arrays[name] = data
        return self._arrays[name]

    def _check(self, name: str, data: Any, shape: tuple[int, ...]) -> None:
        """Refuse what is not an array of numbers in chunks, as a volume has them."""
        if getattr(data, "shape", None) != shape or data.dtype.kind != "f":
            raise DamagedVolume(
                f"{self._file.path} is damaged: {name} is not an array of numbers of shape {shape}"
            )
        size = math.prod(data.chunks or (1,)) * data.dtype.itemsize
        if size > _MOST_CHUNK:
            raise DamagedVolume(
                f"{self._file.path} is not read: {name} has chunks of {size:,} bytes, and at most "
                f"{_MOST_CHUNK:,} are read for one cell"
            )


def _oblique(source: _Source, plane: Plane, thickness: float) -> Cut:
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
    source: _Source, place: NDArray[np.int64], layers: NDArray[np.int64]
) -> tuple[Cells, Cells | None]:
    """Return intensity and sigma of cells of level 1 and those ``layers`` away, shape (n,)."""
    level, first = source.level, np.array(source.grid.first)
    if level > 1:  # layers in one coarse cell count once
        layers = layers[:: min(level, len(layers))]
    single = len(layers) == 1 and not source.merges
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


def _pieces(box: Slices, axes: tuple[int, ...], level: int) -> Iterator[Slices]:
    """Divide a box at the edges of chunks, along all axes that are summed and the first other.

    A cell of the box has ``level`` cells of the chunks along each edge.
    """
    wide = next(i for i in range(3) if i not in axes)
    along: list[list[slice]] = []
    for i, part in enumerate(box):
        size = BRICK // level if i in axes else _ROWS // level if i == wide else part.stop
        edges = [part.start, *range((part.start // size + 1) * size, part.stop, size), part.stop]
        along.append([slice(a, b) for a, b in itertools.pairwise(edges)])
    for part in itertools.product(*along):
        yield part[0], part[1], part[2]


def _ratio(value: Array, by: Array) -> Cells:
    out = np.full(value.shape, np.nan, np.float32)
    np.divide(value, by, out=out, where=by > 0, casting="same_kind")
    return out


def _check_thickness(thickness: float) -> None:
    if not (math.isfinite(thickness) and thickness >= 0):
        raise ReductionError(f"the thickness is {thickness}: it must be 0 r.l.u. or more")
