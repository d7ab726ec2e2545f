"""How far the clock of an IOC is from this host's, known between two bounds."""

from __future__ import annotations

import math
import time
from typing import Any

from offbragg.devices.background import put

_ROUNDS = 3
_TICK = 0.5  # s, the coarsest clock that is waited for


class IocClock:
    """Bounds on an IOC's clock: POSIX time by its stamps minus this host's monotonic clock.

    A record that is processed after it was asked to be, and before its answer came, was stamped
    between these two moments. Of several rounds the bounds are intersected, so that the fastest
    one counts (the principle of NTP, RFC 5905).

    Parameters
    ----------
    low, high
        The bounds, s; infinite if nothing is known.

    Examples
    --------
    >>> clock = IocClock(999.999, 1000.001)
    >>> round(clock.offset, 4), round(clock.half_width, 4)
    (1000.0, 0.001)
    """

    def __init__(self, low: float = -math.inf, high: float = math.inf) -> None:
        self._low, self._high = low, high

    @property
    def known(self) -> bool:
        """Whether both bounds are known."""
        return math.isfinite(self._low) and math.isfinite(self._high)

    @property
    def offset(self) -> float:
        """IOC's POSIX time minus the monotonic clock, s; NaN as long as it is not known."""
        return 0.5 * (self._low + self._high) if self.known else math.nan

    @property
    def half_width(self) -> float:
        """How wrong `offset` can be, s."""
        return 0.5 * (self._high - self._low)


def measure(signal: Any, value: Any = None, *, rounds: int = _ROUNDS) -> IocClock:
    """Measure an IOC's clock by a record that is stamped when it is written.

    Parameters
    ----------
    signal
        An EPICS signal that is not monitored and whose record is processed by a put.
    value
        What is written; what it reads if None.
    rounds
        How often; each takes two round trips.

    Returns
    -------
    clock
        Of which nothing is known if the record does not update its stamp.
    """
    if value is None:
        value = signal.get(use_monitor=False)
    lows: list[float] = []
    highs: list[float] = []
    before = 0.0
    limit = time.monotonic() + _TICK
    while len(lows) < rounds:
        sent = time.monotonic()
        put(signal, value)
        signal.get(use_monitor=False)
        answered = time.monotonic()  # whatever processes the record in between stamps it, too
        stamp = float(signal.timestamp)
        if stamp == before:  # within one tick of a coarse clock; or a put does not process it
            if time.monotonic() > limit:
                return IocClock()
            time.sleep(0.005)
            continue
        before = stamp
        lows.append(stamp - answered)
        highs.append(stamp - sent)
    if max(lows) <= min(highs):
        return IocClock(max(lows), min(highs))
    # a coarse clock contradicts itself by its tick: anything in between may be right
    return IocClock(min(lows), max(highs))
