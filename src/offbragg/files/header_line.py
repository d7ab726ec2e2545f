"""The straight line of angles through the headers of a sweep, and which of them are not on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-4  # degree: how camservers print angles
ANOTHER_ANGLE = 0.05  # degree; by as much an angle differs from that of its sweep


@dataclass(frozen=True, slots=True)
class Line:
    """An angle that grows by the same step from frame to frame, degree."""

    start: float
    """Angle of frame 0."""
    step: float
    outliers: tuple[int, ...]
    """Numbers of the frames whose angle is not on the line."""

    def at(self, number: int) -> float:
        """Return the angle of a frame, degree."""
        return self.start + number * self.step


def fit_line(angles: Mapping[int, float], step: float) -> Line | None:
    """Fit a line to most of the angles of a sweep.

    Parameters
    ----------
    angles
        Frame → angle by its header, degree.
    step
        What the headers give as the step from frame to frame, degree; 0 if they give none.

    Returns
    -------
    line
        None if it passes by half of the angles or more.

    Examples
    --------
    >>> fit_line({0: 10.0, 1: 10.1, 2: 99.0, 3: 10.3}, step=0.1)
    Line(start=10.0, step=0.1, outliers=(2,))
    """
    numbers = np.array(sorted(angles), np.float64)
    values = np.array([angles[int(n)] for n in numbers])
    best: tuple[int, float, float, NDArray[np.bool_]] | None = None
    for slope in (step, _long_slope(numbers, values, step), _short_slope(numbers, values)):
        offset, inside = _offset(numbers, values, slope, step)
        if best is None or inside.sum() > best[0]:
            best = int(inside.sum()), slope, offset, inside
    assert best is not None
    n, slope, offset, inside = best
    if 2 * n <= len(numbers):
        return None
    slope, offset = _refined(numbers[inside], values[inside], slope, offset, step)
    return Line(offset, slope, tuple(int(number) for number in numbers[~inside]))


def _long_slope(numbers: NDArray[Any], values: NDArray[Any], step: float) -> float:
    """Return the median slope between frames half the sweep apart."""
    half = len(numbers) // 2
    if half == 0:
        return step
    apart = numbers[half:] - numbers[: len(numbers) - half]
    turned = values[half:] - values[: len(values) - half] - step * apart
    return step + float(np.median(_remainder(turned) / apart))


def _short_slope(numbers: NDArray[Any], values: NDArray[Any]) -> float:
    """Return the median slope between neighbours."""
    if len(numbers) < 2:
        return 0.0
    return float(np.median(_remainder(np.diff(values)) / np.diff(numbers)))


def _offset(
    numbers: NDArray[Any], values: NDArray[Any], slope: float, step: float
) -> tuple[float, NDArray[np.bool_]]:
    """Return where a line of a given slope begins, and which angles are on it."""
    limit = (0.5 * abs(step) or min(0.5 * abs(slope) or ANOTHER_ANGLE, ANOTHER_ANGLE)) + ROUNDING
    rest = _remainder(values - slope * numbers)
    bins: Counter[float] = Counter(np.round(rest / limit).tolist())
    most = np.zeros(len(rest), bool)
    offset = 0.0
    for bin_, _ in bins.most_common(8):
        chosen = rest[np.abs(_remainder(rest - bin_ * limit)) <= 0.5 * limit + 1e-9]
        centre = float(np.median(chosen)) if chosen.size else bin_ * limit
        inside = np.abs(_remainder(rest - centre)) <= limit
        if inside.sum() > most.sum():
            offset, most = centre, inside
    return offset, most


def _refined(
    numbers: NDArray[Any], values: NDArray[Any], slope: float, offset: float, step: float
) -> tuple[float, float]:
    """Return slope and offset, as round as the printed angles allow."""
    span = float(numbers[-1] - numbers[0])
    rest = _remainder(values - offset - slope * numbers)
    if span:
        slope += float(np.polyfit(numbers, rest, 1)[0])
        rounded = (round(slope, digits) for digits in range(1, 7))
        for round_ in (step, *rounded):
            if abs(round_ - slope) * span <= 2 * ROUNDING:
                slope = round_
                break
    start = offset + float(np.median(_remainder(values - offset - slope * numbers)))
    turns = 360.0 * round((values[0] - start - slope * numbers[0]) / 360.0)
    start += turns  # as the headers have it
    return slope, float(round(start, 4) if abs(start - round(start, 4)) < 0.6e-4 else start)


def _remainder(angles: NDArray[Any]) -> NDArray[Any]:
    return (angles + 180.0) % 360.0 - 180.0
