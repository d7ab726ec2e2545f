"""Pixels into cells: the NumPy reference, which every faster way must agree with.

A pixel and a frame see one point of reciprocal space, in the middle of both; its cell is the one
whose centre is nearest. With oversampling a pixel and a frame are divided into equal parts, each of
which sees a point of its own and has its part of counts and weight.

Everything is sums of products in a fixed order, without BLAS and its threads, so the same frames
give the same bits again.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import GeometryError, ReductionError
from offbragg.geometry import Geometry
from offbragg.grid import Grid
from offbragg.volume import Volume

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_BAND = 1 << 16  # pixels that are worked on at a time: they stay in a processor's cache


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


@dataclass(frozen=True, slots=True, eq=False)
class AirRate:
    """What each pixel counts without the crystal, for a flux of one.

    Parameters
    ----------
    rate
        Shape (slow, fast); NaN where it is not known.
    variance
        Of ``rate``.
    """

    rate: Array
    variance: Array


@dataclass(slots=True, eq=False)
class _Band:
    """Some pixels that count: where they look, and how well."""

    pixel: Index
    rays: list[tuple[Array, Array, Array]]  # (ŝ − ẑ) / λ of each part of a pixel
    factor: Array
    air: _BandAir | None


@dataclass(slots=True, eq=False)
class _BandAir:
    """Air counts of these pixels, the cell they are in, and the flux since they entered it.

    A pixel stays in a cell for some frames, and all that time it is one measurement of the air
    that is used: its share of the variance goes with the square of the flux while it was there.
    """

    rate: Array
    variance: Array
    cell: list[Index]  # of each part, in the previous frame
    flux: list[Array]  # since it entered that cell


@dataclass(slots=True, eq=False)
class _Hits:
    """What one part of a band's pixels adds for one frame."""

    band: _Band
    part: int
    cell: Index
    good: NDArray[np.bool_]
    flux: float
    where: Index
    weight: Array
    counted_at: Index
    counts: Array
    variance: Array | None
    air: Array | None


class Binner:
    """Adds frames of one sweep to a volume.

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
        Number that find the cells; adding is in order, so the result does not depend on it.
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
    ) -> None:
        if factor.shape != geometry.panel.shape:
            raise GeometryError(
                f"pixel weights of shape {factor.shape} for a panel of {geometry.panel.shape}"
            )
        self._geometry, self._grid = geometry, grid
        self._oversample = oversample or Oversample()
        self._saturation = saturation
        self._threads = threads or min(os.cpu_count() or 1, 8)
        self._to_cells = np.array(grid.per_unit, np.float64)[:, None] * np.linalg.inv(UB)
        self._offset = [0.5 - first for first in grid.first]
        self._bands = list(self._prepare(factor, air))

    def _prepare(self, factor: Array, air: AirRate | None) -> Iterator[_Band]:
        good = np.isfinite(factor) & (factor > 0)
        if air is not None:
            good &= np.isfinite(air.rate)
        pixels = np.flatnonzero(good)
        columns = factor.shape[1]
        n = self._oversample.pixels
        parts = (np.arange(n) + 0.5) / n
        for begin in range(0, pixels.size, _BAND):
            pixel = pixels[begin : begin + _BAND]
            row, column = np.divmod(pixel, columns)
            rays: list[tuple[Array, Array, Array]] = []
            for down in parts:
                for across in parts:
                    position = self._geometry.lab(column + across, row + down)
                    s = position / np.linalg.norm(position, axis=-1, keepdims=True)
                    s[:, 2] -= 1.0
                    s /= self._geometry.wavelength
                    rays.append((s[:, 0].copy(), s[:, 1].copy(), s[:, 2].copy()))
            known = None
            if air is not None:
                tracked = range(len(rays) * self._oversample.frames)
                known = _BandAir(
                    rate=air.rate.reshape(-1)[pixel],
                    variance=air.variance.reshape(-1)[pixel],
                    cell=[np.full(pixel.size, -1, np.intp) for _ in tracked],
                    flux=[np.zeros(pixel.size) for _ in tracked],
                )
            yield _Band(pixel, rays, factor.reshape(-1)[pixel], known)

    @property
    def n_pixels(self) -> int:
        """Number of pixels that count."""
        return sum(band.pixel.size for band in self._bands)

    def add(
        self,
        frames: Iterable[tuple[NDArray[np.int32], float, float, float]],
        volume: Volume,
        *,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        """Add frames to the arrays of a volume.

        Parameters
        ----------
        frames
            Counts (slow, fast), angle where the frame begins and where it ends, degree, and flux.
        volume
            Its arrays are changed.
        done
            Called after each frame.
        """
        pending: deque[Future[list[_Hits]]] = deque()
        with ThreadPoolExecutor(self._threads) as pool:
            for counts, begin, end, flux in frames:
                pending.append(pool.submit(self._hits, counts.reshape(-1), begin, end, flux))
                if len(pending) > self._threads:
                    self._put(pending.popleft().result(), volume)
                    done()
            while pending:
                self._put(pending.popleft().result(), volume)
                done()
        self._leave_all(volume)

    def _hits(
        self, counts: NDArray[np.int32], begin: float, end: float, flux: float
    ) -> list[_Hits]:
        """Find what one frame adds: for each band, and each part of its pixels."""
        n = self._oversample.frames
        share = 1.0 / self._oversample.parts
        angles = [begin + (end - begin) * (t + 0.5) / n for t in range(n)]
        turns = [_product(self._to_cells, self._geometry.rotation(a).T) for a in angles]
        hits: list[_Hits] = []
        for band in self._bands:
            seen = counts[band.pixel]
            valid = seen >= 0
            if self._saturation is not None:
                valid &= seen < self._saturation
            parts = [self._cells(ray, turn) for turn in turns for ray in band.rays]
            agree = _agreement([cell for cell, _ in parts]) if len(parts) > 1 else None
            for number, (cell, inside) in enumerate(parts):
                good = valid if inside is None else valid & inside
                which = slice(None) if good.all() else np.flatnonzero(good)
                where, counted = cell[which], seen[which]
                some = np.flatnonzero(counted)
                times = counted[some].astype(np.float64) * share
                hits.append(
                    _Hits(
                        band, number, cell, good, flux * share,
                        where, band.factor[which] * (flux * share),
                        where[some], times,
                        None if agree is None else times * share * agree[number][which][some],
                        None if band.air is None else band.air.rate[which] * (flux * share),
                    )
                )  # fmt: skip
        return hits

    def _cells(
        self, ray: tuple[Array, Array, Array], turn: Array
    ) -> tuple[Index, NDArray[np.bool_] | None]:
        """Return the flat index of each ray's cell, and which are inside, if not all are."""
        flat: Array | None = None
        inside: NDArray[np.bool_] | None = None
        spare = np.empty_like(ray[0])
        for axis, size in enumerate(self._grid.shape):
            at = ray[0] * turn[axis, 0]
            at += np.multiply(ray[1], turn[axis, 1], out=spare)
            at += np.multiply(ray[2], turn[axis, 2], out=spare)
            at += self._offset[axis]
            np.floor(at, out=at)
            if at.size and (at.min() < 0 or at.max() >= size):
                here = (at >= 0) & (at < size)
                inside = here if inside is None else inside & here
            if flat is None:
                flat = at
            else:
                flat *= size
                flat += at
        assert flat is not None
        if inside is not None:
            flat[~inside] = -1.0
        return flat.astype(np.intp), inside

    def _put(self, frame: list[_Hits], volume: Volume) -> None:
        counts, weight = volume.counts.reshape(-1), volume.weight.reshape(-1)
        for hits in frame:
            np.add.at(weight, hits.where, hits.weight)
            np.add.at(counts, hits.counted_at, hits.counts)
            if volume.variance is not None:
                spread = hits.counts if hits.variance is None else hits.variance
                np.add.at(volume.variance.reshape(-1), hits.counted_at, spread)
            if hits.air is not None and volume.background is not None:
                np.add.at(volume.background.reshape(-1), hits.where, hits.air)
                self._follow_air(hits, volume)

    def _follow_air(self, hits: _Hits, volume: Volume) -> None:
        """Add the air's variance of those pixels that have just left their cell."""
        air = hits.band.air
        assert air is not None
        cell, flux = air.cell[hits.part], air.flux[hits.part]
        moved = np.flatnonzero(hits.good & (hits.cell != cell))
        self._leave(air, hits.part, moved, volume)
        cell[moved] = hits.cell[moved]
        flux[hits.good] += hits.flux

    def _leave(self, air: _BandAir, part: int, which: Index, volume: Volume) -> None:
        assert volume.background_variance is not None
        cell, flux = air.cell[part][which], air.flux[part][which]
        was = cell >= 0
        # parts of a pixel share its counts: taken as if all were in one cell
        spread = flux[was] ** 2 * air.variance[which][was] * self._oversample.parts
        np.add.at(volume.background_variance.reshape(-1), cell[was], spread)
        air.flux[part][which] = 0.0

    def _leave_all(self, volume: Volume) -> None:
        for band in self._bands:
            if band.air is not None and volume.background_variance is not None:
                for part, cell in enumerate(band.air.cell):
                    self._leave(band.air, part, np.arange(cell.size), volume)
                    cell[:] = -1


def check_memory(grid: Grid, *, arrays: int) -> None:
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


def _agreement(parts: list[Index]) -> list[Array]:
    """Count the parts of a pixel that are in the same cell as each of them, itself included."""
    agree = [np.ones(cell.size) for cell in parts]
    for i, mine in enumerate(parts):
        for j in range(i):
            same = mine == parts[j]
            agree[i] += same
            agree[j] += same
    return agree


def _product(a: Array, b: Array) -> Array:
    """Return the matrix product, summed in a fixed order."""
    return np.sum(a[:, :, None] * b[None, :, :], axis=1)
