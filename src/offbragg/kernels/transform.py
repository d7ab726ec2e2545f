"""Pixels of frames into the cells of an hkl grid, exactly: sums are whole numbers.

The arithmetic that finds a pixel's cell is float64, operation by operation, without fused
multiply-adds; along h, k and l alike::

    along = base + y * down
    cell  = floor((along + x * across) * inverse + shift)

with the place (x, y) of the measured point on the panel in pixels and ``inverse`` = 1 / its
distance from the crystal. The weight of a pixel in a frame is ``factor * flux`` in float32,
rounded to the nearest whole number (ties to even). C and NumPy agree in every bit.

Cells are numbered brick by brick, see `numbering`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offbragg.kernels import level, number_of
from offbragg.kernels.folding import Fold
from offbragg.kernels.folding import fold as folded
from offbragg.kernels.numbering import NOWHERE, Shape, place_of

MOST_WEIGHT = np.float32((1 << 28) - 16)
"""Largest weight of a pixel in a frame; what is above is cut: 32 bits must hold a run of 16."""
Band = tuple[int, int, int, int]
"""From which row, to which (one past the last); the same for columns."""


@dataclass(frozen=True, slots=True, eq=False)
class Exposures:
    """Frames, and how their pixels look at the crystal.

    Parameters
    ----------
    counts
        int32, C-contiguous, shape (frame, slow, fast).
    turns
        ``base``, ``across``, ``down`` and ``shift`` for h, k, l of each exposure: float64, shape
        (frame, 4, 3).
    flux
        Of each frame, float32, shape (frame,).
    inverse
        1 / distance of the measured point of each pixel, 1/mm: float64, shape (slow, fast).
    factor
        Weight of each pixel for a flux of one, 0 where it does not count: float32, (slow, fast).
    most
        The highest count that is valid.
    point
        Place (x, y) of the measured point within a pixel.
    rate, rate_flux
        As ``factor`` and ``flux``, of a weight that is added in place of the counts; None: the
        counts are.
    """

    counts: NDArray[np.int32]
    turns: NDArray[np.float64]
    flux: NDArray[np.float32]
    inverse: NDArray[np.float64]
    factor: NDArray[np.float32]
    most: int = 2**31 - 1
    point: tuple[float, float] = (0.5, 0.5)
    rate: NDArray[np.float32] | None = None
    rate_flux: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PairSums:
    """Two sums for each cell of a grid, as 64-bit numbers in two's complement.

    Parameters
    ----------
    low, high
        Their lower and upper 32 bits: uint32, shape (bricks, `CELLS`, 2). They lie apart, so that
        upper halves that nothing was carried to take no memory.
    changed
        Nonzero for each brick that was added to: uint8, shape (bricks,).
    shape
        Cells along h, k, l.
    """

    low: NDArray[np.uint32]
    high: NDArray[np.uint32]
    changed: NDArray[np.uint8]
    shape: Shape


def places(
    exposures: Exposures, shape: Shape, band: Band, number: int = 0, *, level: str = level
) -> NDArray[np.uint32]:
    """Find the places of the pixels of a band in a frame, whether they count or not.

    Parameters
    ----------
    exposures
        Frames; their counts, flux and factor are not used.
    shape
        Cells along h, k, l.
    band
        Which pixels.
    number
        Of the frame.

    Returns
    -------
    places
        Shape of the band; `NOWHERE` outside the grid.
    """
    begin, end, left, right = band
    turn = np.ascontiguousarray(exposures.turns[number])
    kernels = number_of(level)
    if kernels is None:
        y = np.arange(begin, end, dtype=np.float64)[:, None] + exposures.point[1]
        x = np.arange(left, right, dtype=np.float64) + exposures.point[0]
        base, across, down, shift = turn
        inside = np.ones((end - begin, right - left), np.bool_)
        cell = np.zeros((3, *inside.shape), np.int64)
        for i in range(3):
            along = base[i] + y * down[i]
            at = (along + x * across[i]) * exposures.inverse[begin:end, left:right] + shift[i]
            inside &= (at >= 0) & (at < shape[i])
            cell[i] = np.where(inside, at, 0.0)
        return np.where(inside, place_of(cell, shape), np.uint32(NOWHERE))
    out = np.empty((end - begin, right - left), np.uint32)
    kernels[0].places(
        turn, exposures.inverse, exposures.inverse.shape, band, exposures.point, shape, out
    )
    return out


def weights(factor: NDArray[np.float32], flux: np.float32) -> NDArray[np.int64]:
    """Return the weights of pixels in a frame, whole numbers of the unit of ``flux``."""
    return np.rint(np.fmax(np.fmin(factor * flux, MOST_WEIGHT), 0)).astype(np.int64)


def transform(
    exposures: Exposures,
    sums: PairSums,
    band: Band,
    *,
    fold: Fold | None = None,
    subtract: bool = False,
    level: str = level,
) -> None:
    """Add the pixels of a band of all frames: counts to the first sums, weight to the second.

    With a rate, that weight is added to the first sums, by the same pixels.

    Parameters
    ----------
    exposures
        Frames; their flux is finite and not negative, ``factor * flux`` at most `MOST_WEIGHT`.
    sums
        They are changed; without a fold no other thread may add to the same cells meanwhile.
    band
        Which pixels.
    fold
        Brings cells into the part of their grid whose sums these are; None: ``sums`` are of all.
        With it threads may add at the same time, if the kernels are compiled.
    subtract
        Take them away again instead.
    """
    kernels = number_of(level)
    if kernels is not None:
        kernels[0].transform(*_arguments(kernels[1], exposures, sums, band, fold, subtract))
        return
    begin, end, left, right = band
    factor = exposures.factor[begin:end, left:right]
    for n, flux in enumerate(exposures.flux):
        counts = exposures.counts[n, begin:end, left:right]
        where = _places(exposures, sums, band, n, fold)
        good = (counts >= 0) & (counts <= exposures.most) & (factor > 0) & (where != NOWHERE)
        weight = weights(factor[good], flux)
        where = where[good] if fold is None else folded(where[good], fold, level="reference")
        first = counts[good].astype(np.int64)
        if exposures.rate is not None and exposures.rate_flux is not None:
            first = weights(exposures.rate[begin:end, left:right][good], exposures.rate_flux[n])
        add(sums, where, first, weight, subtract=subtract)


def _places(
    exposures: Exposures, sums: PairSums, band: Band, number: int, fold: Fold | None
) -> NDArray[np.uint32]:
    shape = sums.shape if fold is None else fold.shape
    return places(exposures, shape, band, number, level="reference")


def variance(
    exposures: Exposures,
    inverses: NDArray[np.float64],
    sums: PairSums,
    band: Band,
    *,
    fold: Fold | None = None,
    subtract: bool = False,
    level: str = level,
) -> None:
    """Add the variance of what divided pixels count to the first sums, in units of 1 / parts².

    Parts of a pixel that fall into one cell are one count there, not several: a cell with n of the
    parts of a pixel with c counts has the variance c (n / parts)². That is of cells as they are
    before they are folded, so that it is the sum over equivalent cells.

    Parameters
    ----------
    exposures
        Frames; ``turns`` of all their parts, shape (frame, part, 4, 3).
    inverses
        As ``inverse``, of each part of a pixel: shape (sides², slow, fast).
    sums, band, fold, subtract
        As for `transform`.
    """
    sides, turns = round(len(inverses) ** 0.5), exposures.turns.shape[1]
    kernels = number_of(level)
    if kernels is not None:
        kernels[0].variance(
            *_arguments(kernels[1], exposures, sums, band, fold, subtract, sides, turns, inverses)
        )
        return
    begin, end, left, right = band
    factor = exposures.factor[begin:end, left:right]
    for n in range(len(exposures.flux)):
        counts = exposures.counts[n, begin:end, left:right]
        good = (counts > 0) & (counts <= exposures.most) & (factor > 0)
        parts: list[NDArray[np.uint32]] = []
        for turn in range(turns):
            for part, inverse in enumerate(inverses):
                one = Exposures(
                    exposures.counts, exposures.turns[:, turn], exposures.flux, inverse,
                    exposures.factor, exposures.most, point_of(part, sides),
                )  # fmt: skip
                parts.append(_places(one, sums, band, n, fold)[good])
        where = np.sort(np.stack(parts), axis=0)
        spread = counts[good].astype(np.int64)
        together = np.zeros(where.shape, np.int64)
        for i in range(len(where)):
            together[i] = np.count_nonzero(where == where[i], axis=0)
        inside = where != NOWHERE
        # each of n parts brings n: n² for all of them
        terms = (together * spread)[inside]
        to = where[inside] if fold is None else folded(where[inside], fold, level="reference")
        add(sums, to, terms, np.zeros_like(terms), subtract=subtract)


def point_of(part: int, sides: int) -> tuple[float, float]:
    """Return the place (x, y) of a part of a pixel that is divided into ``sides`` × ``sides``."""
    return (part % sides + 0.5) / sides, (part // sides + 0.5) / sides


def add(
    sums: PairSums,
    where: NDArray[np.uint32],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    *,
    subtract: bool = False,
) -> None:
    """Add whole numbers to the sums at places; the same place may be there several times.

    Parameters
    ----------
    sums
        They are changed.
    where
        Places, shape (n,).
    first, second
        What is added to each of the two sums there, shape (n,).
    subtract
        Take them away again instead.
    """
    if not where.size:
        return
    place, inverse = np.unique(where, return_inverse=True)
    low, high = sums.low.reshape(-1, 2), sums.high.reshape(-1, 2)
    for column, terms in enumerate((first, second)):
        more = np.zeros(place.size, np.int64)
        np.add.at(more, inverse, -terms if subtract else terms)
        value = (high[place, column].astype(np.int64) << 32) + low[place, column] + more
        low[place, column] = (value & 0xFFFFFFFF).astype(np.uint32)
        upper = (value >> 32).astype(np.uint32)
        moved = np.flatnonzero(upper != high[place, column])
        high[place[moved], column] = upper[moved]  # untouched memory is not there
    sums.changed[np.unique(place >> 15)] = 1


def _arguments(
    number: int,
    exposures: Exposures,
    sums: PairSums,
    band: Band,
    fold: Fold | None,
    subtract: bool,
    sides: int = 1,
    turns: int = 1,
    inverses: NDArray[np.float64] | None = None,
) -> tuple[object, ...]:
    return (
        number, exposures.counts, np.ascontiguousarray(exposures.turns), exposures.flux,
        exposures.inverse if inverses is None else inverses, exposures.factor,
        exposures.factor.shape, band, exposures.point, exposures.most, sums.shape, sums.low,
        sums.high, sums.changed, subtract, (sides, turns),
        None if fold is None else fold.arguments(), exposures.rate, exposures.rate_flux,
    )  # fmt: skip
