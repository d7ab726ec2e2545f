"""Angles of frames from the read-backs of a turning axis."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SOURCES = ("read-back", "encoder", "position compare", "interpolated")
"""Where a measured angle comes from; the last is what earlier versions wrote for an encoder."""

NOTICED = 0.02
"""An angle that is off by more than this, or by half a step, is reported, degree."""

LARGEST_GAP = 1.0
"""Longest time between two read-backs between which an angle is interpolated, s; a longer one only
if the axis turned through it at its speed."""

_REACH = 4.5  # read-backs on each side of a moment that count for it, the farther the less
_EXTRAPOLATED = 1.5  # times the time between read-backs, beyond the first and the last
_UNSTEADY = 0.005  # s: how far a stamp may be from the moment at which the position was read
_STRAIGHT = 0.005  # degree: a line may be that much off the two read-backs beside a moment


def tolerance(speed: float) -> float:
    """Return how wrong an angle may be, degree: 0.01, and what the axis turns in 5 ms."""
    return 0.01 + _UNSTEADY * speed


def unknown_between(
    stamps: NDArray[np.float64], positions: NDArray[np.float64], *, speed: float
) -> NDArray[np.float64]:
    """Return what two successive read-backs leave unknown of the angle between them, degree.

    An axis that turns at its speed leaves nothing. One that stood for a while at a moment that
    nobody knows lacks a way L. At a part p of the time between the two it has either stood or will
    stand: it is p L before the straight line between them with probability 1 − p, and (1 − p) L
    behind it with probability p. The standard uncertainty is L √(p (1 − p)), in the middle L/2,
    which is what this gives.

    Parameters
    ----------
    stamps, positions
        In order, s and degree, shape (m,).
    speed
        Degree/s.

    Returns
    -------
    unknown
        Shape (m - 1,).
    """
    return np.abs(np.abs(np.diff(positions)) - speed * np.diff(stamps)) / 2


def reach_of(
    moments: NDArray[np.float64],
    stamps: NDArray[np.float64],
    *,
    begin: float,
    end: float,
) -> NDArray[np.float64]:
    """Return how far from each moment read-backs count for it, s: some of them on each side.

    Parameters
    ----------
    moments
        When an angle is wanted, s, shape (n,).
    stamps
        In order, s, shape (m,).
    begin, end
        When the axis has reached its speed, and when it begins to slow down, s: what is read
        before and after does not count for a moment in between.

    Returns
    -------
    reach
        Shape (n,), not below 0.
    """
    longest = np.minimum(moments - begin, end - moments).clip(0.0)
    return np.minimum(_REACH * _spacing(moments, stamps), longest)


def _spacing(moments: NDArray[np.float64], stamps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the time between two read-backs near each moment, s: of the six nearest.

    Of these and no others, so that an angle does not depend on what is read later.
    """
    if len(stamps) < 2:
        return np.full(len(moments), np.inf)
    after = np.searchsorted(stamps, moments)
    first = np.clip(after - 3, 0, len(stamps) - 2)
    last = np.clip(after + 2, first + 1, len(stamps) - 1)
    return (stamps[last] - stamps[first]) / (last - first)


def angles_at(
    moments: NDArray[np.float64],
    stamps: NDArray[np.float64],
    positions: NDArray[np.float64],
    *,
    speed: float,
    begin: float,
    end: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the angle at some moments, from stamped read-backs around each of them.

    Through the read-backs near a moment goes a straight line, in which the nearer ones weigh more
    (tricube weights: Cleveland, J. Am. Stat. Assoc. 74, 829, 1979). So the jitter of stamps and of
    an encoder is averaged, and an axis that changes its speed is followed.

    Parameters
    ----------
    moments
        When the angle is wanted, s, shape (n,).
    stamps
        When the read-backs were made, s by the same clock, in order, shape (m,).
    positions
        The read-backs, degree, shape (m,).
    speed
        How fast the axis turns, degree/s: decides what two read-backs alone are worth.
    begin, end
        As of `reach_of`.

    Returns
    -------
    angles
        Degree, shape (n,); NaN where no read-backs are near enough.
    sigmas
        Standard uncertainty of each, degree, from the scatter of the read-backs.

    Examples
    --------
    >>> stamps = np.array([0.0, 0.1, 0.2, 0.3])
    >>> moments = np.array([0.125, 9.0])
    >>> angles, sigmas = angles_at(moments, stamps, 2 * stamps, speed=2.0, begin=0, end=1)
    >>> angles.round(6).tolist()
    [0.25, nan]
    """
    angles = np.full(len(moments), np.nan)
    sigmas = np.full(len(moments), np.nan)
    if len(stamps) < 2:
        return angles, sigmas
    reaches = reach_of(moments, stamps, begin=begin, end=end)
    spacings = _spacing(moments, stamps).tolist()
    unknown = unknown_between(stamps, positions, speed=speed).tolist()
    floor, allowed = speed * _UNSTEADY, 2 * tolerance(speed)
    afters = np.searchsorted(stamps, moments).tolist()
    firsts = np.searchsorted(stamps, moments - reaches).tolist()
    lasts = np.searchsorted(stamps, moments + reaches, side="right").tolist()
    edges: tuple[float, float] = stamps[0], stamps[-1]
    for i, moment in enumerate(moments.tolist()):
        after: int = afters[i]
        beside, lost = math.nan, 0.0  # on the line between the neighbours; unknown there
        if 0 < after < len(stamps):
            gap, lost = stamps[after] - stamps[after - 1], unknown[after - 1]
            if gap > LARGEST_GAP and lost > allowed:
                continue
            part = (moment - stamps[after - 1]) / gap
            lost *= 2 * math.sqrt(part * (1 - part))
            beside = positions[after - 1] + part * (positions[after] - positions[after - 1])
        elif (
            len(stamps) < 3
            or not math.isfinite(moment)
            or min(abs(edges[0] - moment), abs(edges[1] - moment)) > _EXTRAPOLATED * spacings[i]
        ):
            continue
        # the neighbours count, however far they are
        first: int = min(firsts[i], max(after - 1, 0))
        last: int = max(lasts[i], min(after + 1, len(stamps)))
        t, x = stamps[first:last] - moment, positions[first:last]
        n = len(t)
        if n < 3:
            if math.isfinite(beside):
                angles[i], sigmas[i] = beside, math.hypot(floor, lost)
            continue
        furthest = max(float(reaches[i]), 1.001 * float(np.abs(t).max()))
        weight = (1 - (np.abs(t) / furthest) ** 3) ** 3
        total = weight.sum()
        middle = (weight * t).sum() / total
        spread = (weight * (t - middle) ** 2).sum()
        mean = (weight * x).sum() / total
        slope = (weight * (t - middle) * (x - mean)).sum() / spread
        line = mean - slope * middle
        scatter = floor
        if n > 3:
            residual = x - mean - slope * (t - middle)
            scatter = math.sqrt((weight * residual**2).sum() / total * n / (n - 2))
        sigma = scatter * math.sqrt(1 / n + middle**2 / spread)
        off = abs(line - beside) if math.isfinite(beside) else 0.0
        # an axis that does not turn evenly is nearer to its two neighbours than to a line
        angles[i] = beside if off > floor + _STRAIGHT else line
        sigmas[i] = math.hypot(sigma, max(off, lost))
    return angles, sigmas


def in_order(
    samples: Sequence[tuple[float, float]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Put read-backs into the order of their stamps, each stamp once.

    Parameters
    ----------
    samples
        ``(stamp, position)``, s and degree, in any order.

    Returns
    -------
    stamps, positions
        Shape (m,) each.
    """
    if not samples:
        return np.empty(0), np.empty(0)
    stamps, positions = np.array(samples).T
    stamps, keep = np.unique(stamps, return_index=True)
    return stamps, positions[keep]
