"""The arrays of a volume file at one level, read in boxes and summed: what a cut is made of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.bricks import BRICK, LEVELS
from offbragg.errors import ReductionError, ScanFileError
from offbragg.files.cells import StoredArray
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


class DamagedVolume(ReductionError):  # noqa: N818  what it is
    """What is stored in a volume file does not have its checksum, or cannot be decoded."""


class Source:
    """The arrays of a volume file at one level; places are cells of that level, along h, k, l.

    Parameters
    ----------
    file, level, sigma, reading
        As for `offbragg.files.cuts.cut_plane`.
    """

    as_stored = True
    """Whether intensities that the file holds serve; otherwise they are made of its sums."""

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
        self.merges = False
        """Whether each cell is made of the sums of whole cells."""
        self._fine: Three = (1, 1, 1)
        if sigma:
            self.merge()
        self.shape: Three = tuple(-(-n // level) for n in self.grid.shape)  # type: ignore[assignment]

    def merge(self) -> None:
        """Let each cell be made of the sums of whole cells."""
        self.merges = self.level > 1
        self._fine = (self.level, self.level, self.level)

    @property
    def cells_in_one(self) -> int:
        """Number of cells that are read for one."""
        return math.prod(self._fine)

    def pieces(self, box: Slices, axes: tuple[int, ...]) -> list[Slices]:
        """Divide a box into parts that are summed one after the other."""
        return list(_pieces(box, axes, self._fine[0]))

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
        finer = self.cells_in_one
        self.count(math.prod(count) * finer)
        if all(count[axis] == 1 for axis in axes) and self.is_ready:
            self.reading(4 * math.prod(count) * (1 + self.sigma))
            read = [self.read(name, box).squeeze(axes) for name in self.ready()]
            return read[0], read[1] if self.sigma else None
        kept = tuple(n for i, n in enumerate(count) if i not in axes)
        totals = {name: np.zeros(kept) for name in self.needed()}
        pieces = self.pieces(box, axes)
        largest = max(math.prod(part.stop - part.start for part in piece) for piece in pieces)
        largest *= finer
        self.reading(8 * (len(totals) * math.prod(kept) + largest))
        wide = next(i for i in range(3) if i not in axes)
        for piece in pieces:
            rows = slice(piece[wide].start - box[wide].start, piece[wide].stop - box[wide].start)
            for name, total in totals.items():
                total[rows] += self._summable(name, piece).sum(axis=axes)
        return self.divided(totals)

    def count(self, cells: int) -> None:
        """Count cells that are about to be read; raise if they are too many."""
        self._read_cells += cells
        if self._read_cells > MOST_CELLS:
            raise ReductionError(
                f"this cut reads more than {MOST_CELLS:,} cells: make it thinner or smaller, or "
                "take a coarser level"
            )

    @property
    def is_ready(self) -> bool:
        """Whether a single layer is in the file as it is wanted."""
        return self.as_stored and not self.merges

    def ready(self) -> list[str]:
        """Names of the arrays that hold the intensity, and its standard deviation, of one layer."""
        if self.level > 1:
            return [f"levels/{self.level}/intensity"]
        return ["data/intensity", "data/intensity_errors"][: 1 + self.sigma]

    def needed(self) -> list[str]:
        """Names of what is summed where the file does not hold what is wanted."""
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
            self.count(BRICK**3)
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
