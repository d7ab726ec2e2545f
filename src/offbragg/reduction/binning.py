"""Frames into cells: where every pixel looks, and what it adds.

A pixel and a frame see one point of reciprocal space, in the middle of both; its cell is the one
whose centre is nearest. With oversampling a pixel and a frame are divided into equal parts, each of
which sees a point of its own and has its part of counts and weight. The arithmetic is that of
`offbragg.kernels.transform`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import GeometryError, ReductionError
from offbragg.geometry import Geometry
from offbragg.grid import Grid
from offbragg.kernels import compiled
from offbragg.kernels.folding import Fold
from offbragg.kernels.transform import Band, Exposures, point_of, transform, variance
from offbragg.reduction.accumulator import Accumulator
from offbragg.reduction.air import AirInCells, AirRate
from offbragg.reduction.air_stays import AirByStays
from offbragg.reduction.bands import any_bands, bands

Array = NDArray[np.float64]
Counts = NDArray[np.int32]

_FRAMES = 32  # of a batch: neighbours meet the same cells, which are still in the cache then
_BATCH = 320 << 20  # bytes of one, at most
_MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Oversample:
    """Number of parts into which a pixel (along each side) and a frame are divided."""

    pixels: int = 1
    frames: int = 1

    def __post_init__(self) -> None:
        if not (1 <= self.pixels <= 8 and 1 <= self.frames <= 64):
            raise ReductionError(
                f"oversampling {self.pixels} × {self.pixels} × {self.frames}: "
                "1 to 8 along a pixel's side, 1 to 64 along a frame"
            )

    @property
    def parts(self) -> int:
        """Number of parts of a pixel of one frame."""
        return self.pixels**2 * self.frames


@dataclass(frozen=True, slots=True)
class FrameToAdd:
    """A frame before it is read.

    Parameters
    ----------
    read
        Reads its counts into an array (slow, fast).
    begin, end
        Angle where it begins and where it ends, degree.
    flux
        On the crystal, above 0.
    """

    read: Callable[[Counts], None]
    begin: float
    end: float
    flux: float


class Binner:
    """Adds frames of one sweep to the sums of a volume.

    Parameters
    ----------
    geometry
        Beam, panel and goniometer.
    UB
        Orientation matrix, Å⁻¹ without 2π.
    grid
        The cells.
    factor
        Weight of each pixel for a flux of one, shape (slow, fast); 0 where a pixel must not
        count.
    saturation
        A pixel with this number of counts or more is excluded in that frame; None: not known.
    oversample
        Number of parts into which pixels and frames are divided.
    air
        Counts without the crystal; pixels for which they are not known do not count.
    threads
        The result does not depend on their number.
    fold
        Brings cells into the part of the grid whose sums are kept.
    """

    def __init__(
        self,
        geometry: Geometry,
        UB: Array,
        grid: Grid,
        factor: Array,
        *,
        saturation: float | None = None,
        oversample: Oversample | None = None,
        air: AirRate | None = None,
        threads: int | None = None,
        fold: Fold | None = None,
    ) -> None:
        if factor.shape != geometry.panel.shape:
            raise GeometryError(
                f"pixel weights of shape {factor.shape} for a panel of {geometry.panel.shape}"
            )
        self.geometry, self.grid = geometry, grid
        self._oversample = oversample or Oversample()
        self.most = _MOST if saturation is None else min(int(np.ceil(saturation)) - 1, _MOST)
        self._threads = threads or min(os.cpu_count() or 1, 8)
        self._to_cells = np.array(grid.per_unit, np.float64)[:, None] * np.linalg.inv(UB)
        good = np.isfinite(factor) & (factor > 0)
        if air is not None:
            good &= np.isfinite(air.rate)
        self.factor = np.where(good, factor, 0.0).astype(np.float32)
        self._inverses = self._distances()
        self._fold = fold
        self._bands: list[list[Band]] = [[(0, factor.shape[0], 0, factor.shape[1])]]
        if self._threads > 1 and fold is None:
            self._bands = bands(geometry, UB, grid, self._inverses)
        elif self._threads > 1 and compiled:  # bands meet in equivalent cells: the kernel knows
            self._bands = any_bands(factor.shape)
        self._air: AirInCells | None = None
        self._stays: AirByStays | None = None
        if air is not None and air.by_stays:
            self._stays = AirByStays(air, self._oversample.parts, grid.shape, fold)
        elif air is not None:
            self._air = AirInCells(
                air, self.factor > 0, self._oversample.parts, geometry, self._turns_at
            )  # fmt: skip

    def _distances(self) -> Array:
        """Return 1 / distance of the parts of each pixel, 1/mm, shape (parts, slow, fast)."""
        rows, columns = self.geometry.panel.shape
        sides = self._oversample.pixels
        found = np.empty((sides**2, rows, columns))
        for part in range(sides**2):
            x, y = point_of(part, sides)
            position = self.geometry.lab(np.arange(columns) + x, (np.arange(rows) + y)[:, None])
            found[part] = 1.0 / np.linalg.norm(position, axis=-1)
        return found

    @property
    def n_pixels(self) -> int:
        """Number of pixels that count."""
        return int(np.count_nonzero(self.factor))

    def of_pixels(self, pixels: NDArray[np.intp], factor: NDArray[np.float32]) -> Binner:
        """Return one that adds a few pixels only, and looks at no others.

        Parameters
        ----------
        pixels
            Row and column of each, shape (n, 2).
        factor
            Weight of each pixel of the panel for a flux of one, shape (slow, fast).
        """
        found = copy(self)
        found.factor = factor
        found._bands = [[(row, row + 1, column, column + 1)] for row, column in pixels.tolist()]
        return found

    def add(
        self,
        frames: Iterable[FrameToAdd],
        sums: Accumulator,
        *,
        subtract: bool = False,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        """Add frames to the sums of a volume.

        Parameters
        ----------
        frames
            In any order; in that of their angles where a background is kept by stays.
        sums
            They are changed.
        subtract
            Take frames away that were added before; not where a background is kept by stays.
        done
            Called after each frame.
        """
        if subtract and self._stays is not None:
            raise ReductionError(
                "frames with a background by stays, as in records of earlier versions, cannot be "
                "taken away: begin again"
            )
        size = self.factor.size * 4
        length = max(1, min(_FRAMES, _BATCH // size))
        buffer: Counts | None = None
        with ThreadPoolExecutor(self._threads) as pool:
            left = iter(frames)
            while batch := tuple(islice(left, length)):
                if buffer is None:
                    buffer = np.empty((len(batch), *self.factor.shape), np.int32)
                counts = buffer[: len(batch)]
                list(pool.map(_read, batch, counts))
                self._add_batch(pool, batch, counts, sums, subtract)
                for _ in batch:
                    done()
        if self._stays is not None and sums.air is not None:
            self._stays.leave_all(sums)

    def _add_batch(
        self,
        pool: ThreadPoolExecutor,
        batch: Sequence[FrameToAdd],
        counts: Counts,
        sums: Accumulator,
        subtract: bool,
    ) -> None:
        flux = self.flux(batch, sums.exponent)
        turns = np.stack([self.turns(frame) for frame in batch])
        parts = self.exposures(turns, flux, counts)
        of_all = replace(parts[0], turns=turns)
        air: list[Exposures] = []
        if self._air is not None and sums.background is not None:
            times = [(frame.begin, frame.end, frame.flux) for frame in batch]
            air = self._air.exposures(parts, times, sums.background)

        def work(band: Band) -> None:
            for exposures in parts:
                transform(exposures, sums.sums, band, fold=self._fold, subtract=subtract)
            for exposures in air:
                assert sums.air is not None
                transform(exposures, sums.air, band, fold=self._fold, subtract=subtract)
            if sums.spread is not None:
                variance(
                    of_all, self._inverses, sums.spread, band, fold=self._fold, subtract=subtract
                )  # fmt: skip

        for group in self._bands:
            list(pool.map(work, group))
        if self._stays is not None and sums.air is not None:
            self._stays.follow(parts, [frame.flux for frame in batch], sums)

    def exposures(self, turns: Array, flux: NDArray[np.float32], counts: Counts) -> list[Exposures]:
        """Return frames as the kernel takes them: each part of them, in it each part of a pixel.

        Parameters
        ----------
        turns
            Of each frame: shape (frame, part, 4, 3).
        flux
            Of a part of each frame, in units of the weight, shape (frame,).
        counts
            Shape (frame, slow, fast).
        """
        return [
            Exposures(
                counts, np.ascontiguousarray(turns[:, turn]), flux, inverse, self.factor,
                self.most, point_of(part, self._oversample.pixels),
            )
            for turn in range(self._oversample.frames)
            for part, inverse in enumerate(self._inverses)
        ]  # fmt: skip

    def flux(self, batch: Sequence[FrameToAdd], exponent: int) -> NDArray[np.float32]:
        """Return the flux of a part of each frame in units of the weight, 2⁻ⁿ with n = exponent."""
        unit = 2.0**-exponent * self._oversample.parts
        flux = np.array([frame.flux / unit for frame in batch], np.float32)
        most = float(self.factor.max(initial=0)) * float(flux.max(initial=0))
        if not most < 2.0**28:
            brightest = max(frame.flux for frame in batch)
            raise ReductionError(
                f"the flux {brightest:g} of a frame is above what the units of the sums were "
                f"chosen for (2^-{exponent})\nBegin the volume again, with all frames."
            )
        return flux

    def turns(self, frame: FrameToAdd) -> Array:
        """Return what takes pixels to cells in each part of a frame, shape (parts, 4, 3)."""
        n = self._oversample.frames
        angles = [frame.begin + (frame.end - frame.begin) * (part + 0.5) / n for part in range(n)]
        return np.stack([self._turns_at(angle) for angle in angles])

    def _turns_at(self, angle: float) -> Array:
        """Return ``base``, ``across``, ``down`` and ``shift`` for h, k, l, shape (4, 3)."""
        panel = self.geometry.panel
        turn = _product(self._to_cells, self.geometry.rotation(angle).T)
        turn /= self.geometry.wavelength
        vectors = (
            np.array(panel.origin),
            np.array(panel.fast) * panel.pixel_size[0],
            np.array(panel.slow) * panel.pixel_size[1],
        )
        found = [np.sum(turn * vector, axis=1) for vector in vectors]
        return np.stack([*found, 0.5 - np.array(self.grid.first) - turn[:, 2]])


def check_memory(grid: Grid, *, arrays: float) -> None:
    """Refuse a grid that does not fit, before any of it is allocated.

    Parameters
    ----------
    grid
        The cells.
    arrays
        Number of values of 8 bytes that each cell will have.

    Raises
    ------
    ReductionError
        With the memory that it needs, what there is, and a step that would fit.
    """
    needed = grid.size * 8 * arrays
    there = available_memory()
    if needed > 0.9 * there:
        coarser = (needed / (0.8 * there)) ** (1.0 / 3.0)
        steps = ", ".join(f"{step * coarser:.3g}" for step in grid.step)
        raise ReductionError(
            f"a grid of {' × '.join(map(str, grid.shape))} cells needs {needed / 1e9:.1f} GB, and "
            f"there are {there / 1e9:.1f} GB\n"
            f"Take a smaller box, or steps of about {steps} (--grid)."
        )


def available_memory() -> int:
    """Return the number of bytes that are available without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # pragma: no cover  not on this system
        return 1 << 62


def _read(frame: FrameToAdd, out: Counts) -> None:
    frame.read(out)


def _product(a: Array, b: Array) -> Array:
    """Return the matrix product, summed in a fixed order."""
    return np.sum(a[:, :, None] * b[None, :, :], axis=1)
