"""What is expected without the crystal, in cells: whole numbers, frame by frame.

A pixel and a frame add rate × flux to the background of their cell, in units of 2⁻ⁿ, as they add
to its weight. The rate is one measurement, though, that is used as long as the pixel looks into
the cell: of n frames with the flux f the variance is var (n f)². So that each frame has a share
that does not depend on which others count, n is what the geometry says: with the speed v of the
pixel, cells per frame along h, k, l, a frame that is somewhere in a cell has there, itself
included,

    n = Σₖ Πᵢ max(0, 1 − |k vᵢ|),    k = …, −1, 0, 1, …

frames on average, and adds var n f². Summed over cells that is the sum of var (n f)². A sweep of N
frames ends a stay, too: v₄ = 1 / N.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ReductionError
from offbragg.geometry import Geometry
from offbragg.kernels.transform import Exposures
from offbragg.reduction.accumulator import weight_exponent

Array = NDArray[np.float64]
Planes = tuple[NDArray[np.float32], NDArray[np.float32]]

LONGEST = 256.0
"""Frames that a pixel is taken to stay in a cell, at most; on the axis it may be more."""
_SLOW = 1.0 / 16.0  # cells per frame: below, the sum is as good as an integral
_SECTOR = 2.0  # degree over which a speed is taken as the same
_BLOCKS = 96  # along the shorter side of a panel, of pixels that have the same speed


@dataclass(frozen=True, slots=True, eq=False)
class AirRate:
    """What each pixel counts without the crystal, for a flux of one.

    Parameters
    ----------
    rate
        Shape (slow, fast); NaN where it is not known.
    variance
        Of ``rate``.
    frames
        Of the sweep that it is subtracted from; None: so many that they limit no stay.
    by_stays
        Summed stay by stay, as in records of earlier versions.
    """

    rate: Array
    variance: Array
    frames: int | None = None
    by_stays: bool = False

    @property
    def longest(self) -> float:
        """Number of frames that a pixel stays in a cell, at most."""
        return LONGEST if self.frames is None else min(LONGEST, self.frames)

    def exponents(self, flux: float, parts: int) -> tuple[int, int]:
        """Choose n of the units 2⁻ⁿ of the background and of its variance.

        Parameters
        ----------
        flux
            Largest on the crystal during a frame; it counts as the next power of 4.
        parts
            Into how many a pixel of a frame is divided.
        """
        most = 4.0 ** math.ceil(math.log2(flux) / 2)
        rate, variance = (float(np.nanmax(each)) for each in (self.rate, self.variance))
        return (
            weight_exponent(rate / parts if rate > 0 else 1.0, most),
            weight_exponent(variance * self.longest / parts, most**2),
        )


class AirInCells:
    """Prepares frames for the kernel to add what they count without the crystal.

    Parameters
    ----------
    air
        Counts without the crystal.
    good
        Pixels that count, shape (slow, fast); the air is known there.
    parts
        Into how many a pixel of a frame is divided.
    geometry
        Beam, panel and goniometer.
    turns_at
        ``base``, ``across``, ``down`` and ``shift`` at an angle, as `Exposures` has them.
    """

    def __init__(
        self,
        air: AirRate,
        good: NDArray[np.bool_],
        parts: int,
        geometry: Geometry,
        turns_at: Callable[[float], Array],
    ) -> None:
        self._air, self._parts, self._turns_at = air, parts, turns_at
        self._rate = float(np.max(air.rate, initial=0.0, where=good)) or 1.0
        self._variance = float(np.max(air.variance, initial=0.0, where=good)) or 1.0
        self._rates = np.where(good, air.rate / self._rate, 0.0).astype(np.float32)
        self._spread = np.where(good, air.variance / self._variance, 0.0).astype(np.float32)
        rows, columns = air.rate.shape
        size = self._block = max(1, min(rows, columns) // _BLOCKS)
        self._y: Array = np.arange(0.0, rows, size)[:, None] + 0.5 * size
        self._x: Array = np.arange(0.0, columns, size) + 0.5 * size
        self._inverse = 1.0 / np.linalg.norm(geometry.lab(self._x, self._y), axis=-1)
        self._planes: dict[tuple[int, float], NDArray[np.float32]] = {}

    def exposures(
        self,
        parts: Sequence[Exposures],
        frames: Sequence[tuple[float, float, float]],
        exponents: tuple[int, int],
    ) -> list[Exposures]:
        """Return frames as the kernel takes them: what is added are background and variance.

        Parameters
        ----------
        parts
            The same frames as they are added to counts and weight.
        frames
            Angle where each begins and where it ends, degree, and its flux.
        exponents
            n of the units 2⁻ⁿ of both sums.
        """
        flux = np.array([each[2] for each in frames])
        first = flux * self._rate * 2.0 ** exponents[0] / self._parts
        second = flux**2 * self._variance * 2.0 ** exponents[1] / self._parts
        if max(first.max(), second.max() * self._air.longest) >= 2.0**28:
            raise ReductionError(
                f"the flux {flux.max():g} of a frame, or the background's rate, is above what the "
                f"units of the sums were chosen for (2^-{exponents[0]}, 2^-{exponents[1]})\n"
                "Begin the volume again, with all frames."
            )
        found: list[Exposures] = []
        begin = 0
        for (sector, width), group in itertools.groupby(frames, _speed_of):
            end = begin + len(list(group))
            spread = self._spread_in(sector, width)
            found += [
                replace(
                    each, counts=each.counts[begin:end], turns=each.turns[begin:end],
                    factor=spread, flux=second[begin:end].astype(np.float32),
                    rate=self._rates, rate_flux=first[begin:end].astype(np.float32),
                )
                for each in parts
            ]  # fmt: skip
            begin = end
        return found

    def _spread_in(self, sector: int, width: float) -> NDArray[np.float32]:
        """Return variances times the frames of a stay, relative to the largest variance."""
        key = (sector, width)
        if key not in self._planes:
            while len(self._planes) > 1:
                self._planes.pop(next(iter(self._planes)))
            middle = (sector + 0.5) * _SECTOR
            before, after = (self._cells(middle + way * 0.5 * width) for way in (-1, 1))
            stay = expected_stay(after - before, self._air.frames).astype(np.float32)
            rows, columns = self._spread.shape
            stay = stay.repeat(self._block, axis=0)[:rows].repeat(self._block, axis=1)[:, :columns]
            self._planes[key] = np.ascontiguousarray(stay) * self._spread
        return self._planes[key]

    def _cells(self, angle: float) -> Array:
        base, across, down, shift = self._turns_at(angle)[:, :, None, None]
        return (base + self._y * down + self._x * across) * self._inverse + shift


def _speed_of(frame: tuple[float, float, float]) -> tuple[int, float]:
    begin, end, _ = frame
    return math.floor(0.5 * (begin + end) / _SECTOR), round(end - begin, 6)


def expected_stay(speed: Array, frames: int | None = None) -> Array:
    """Return in how many frames a pixel looks into the cell that it is in, on average.

    Parameters
    ----------
    speed
        Cells per frame along h, k, l, shape (3, ...).
    frames
        Of the sweep; None: very many.

    Examples
    --------
    >>> speed = np.array([[2.0, 0.5, 0.25], [0.0, 0.0, 0.25], [0.0, 0.0, 0.25]])
    >>> expected_stay(speed).round(3)
    array([1.   , 2.   , 2.125])
    >>> expected_stay(np.zeros((3, 1)), 5)
    array([5.])
    """
    end = 1e-3 / LONGEST if frames is None else 1.0 / frames
    ways = np.stack([*np.abs(speed), np.full(speed.shape[1:], end)])
    stay = np.ones(speed.shape[1:])
    for k in range(1, round(1 / _SLOW)):
        stay += 2.0 * np.prod(np.maximum(1.0 - k * ways, 0.0), axis=0)
    fastest = ways.max(axis=0)
    # of what is slow, 2 ∫ Π (1 − vᵢ t) dt until the fastest has left, with Π = Σ ± eⱼ tʲ
    symmetric = np.zeros((5, *fastest.shape))
    symmetric[0] = 1.0
    for way in ways:
        symmetric[1:] += way * symmetric[:-1]
    integral = np.zeros_like(fastest)
    for j, each in enumerate(symmetric):
        integral += 2.0 * (-1) ** j * each / ((j + 1) * fastest ** (j + 1))
    return np.minimum(np.where(fastest < _SLOW, integral, stay), LONGEST)
