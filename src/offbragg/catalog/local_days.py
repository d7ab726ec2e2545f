"""Days as the beamline's clock counts them, also across a change to summer time and back."""

from __future__ import annotations

import functools
from datetime import datetime, timedelta

_WEEK = 7 * 86400.0
_TO_COME = 2  # years after this one


def changes_of_clock() -> tuple[tuple[float, float], ...]:
    """Return since when the beamline's clock is how far ahead of UTC, newest first.

    Returns
    -------
    changes
        Pairs of a time, POSIX s, and the seconds since then; the last pair holds since 1970.
    """
    return _changes(datetime.now().year + _TO_COME)


@functools.lru_cache(maxsize=2)
def _changes(year: int) -> tuple[tuple[float, float], ...]:
    end = datetime(year, 1, 1).timestamp()
    found = [(0.0, offset_at(0.0))]
    time = 0.0
    while time < end:
        after = time + _WEEK
        if offset_at(after) != found[-1][1]:
            low, high = time, after
            while high - low > 1.0:
                middle = (low + high) // 2
                low, high = (middle, high) if offset_at(middle) == found[-1][1] else (low, middle)
            found.append((high, offset_at(high)))
        time = after
    return tuple(reversed(found))


def offset_at(time: float) -> float:
    """Return how far the beamline's clock is ahead of UTC at a time, s."""
    ahead = datetime.fromtimestamp(time).astimezone().utcoffset() or timedelta()
    return ahead.total_seconds()
