"""How far the clock of an IOC is from this host's, known between two bounds."""

from __future__ import annotations

import math
import time
from typing import Any

from offbragg.devices.background import put

_ROUNDS = 3


class IocClock:
    """Bounds on an IOC's clock: POSIX time by its stamps minus this host's monotonic clock.

    A record that is processed after it was asked to be, and before its answer came, was stamped
    between these two moments. Of several rounds the bounds are intersected, so that the fastest
    one counts (the principle of NTP, RFC 5905). A stamp that arrives by itself bounds one side.

    Examples
    --------
    >>> clock = IocClock()
    >>> clock.asked(sent=10.0, stamp=1010.001, answered=10.003)
    >>> clock.asked(sent=11.0, stamp=1011.001, answered=11.002)
    >>> round(clock.offset, 4), round(clock.half_width, 4)
    (1000.0, 0.001)
    """

    def __init__(self) -> None:
        self._low, self._high = -math.inf, math.inf

    def asked(self, *, sent: float, stamp: float, answered: float) -> None:
        """Take a stamp that was made between two moments of the monotonic clock."""
        low, high = stamp - answered, stamp - sent
        if low > self._high or high < self._low:
            # one of the clocks was set: what was known before is worth nothing
            self._low, self._high = low, high
        else:
            self._low, self._high = max(low, self._low), min(high, self._high)

    def heard(self, stamp: float) -> None:
        """Take the stamp of a fresh event that has just arrived."""
        self._low = max(self._low, stamp - time.monotonic())
        self._high = max(self._high, self._low)

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
        An EPICS signal that nobody monitors and whose record is processed by a put.
    value
        What is written; what it reads if None.
    rounds
        How often; each takes two round trips.

    Returns
    -------
    clock
        Of which nothing is known if the record does not stamp itself anew.
    """
    clock, before = IocClock(), 0.0
    if value is None:
        value = signal.get(use_monitor=False)
    for _ in range(rounds):
        sent = time.monotonic()
        put(signal, value)
        answered = time.monotonic()
        signal.get(use_monitor=False)
        stamp = float(signal.timestamp)
        if stamp == before:  # a put does not process this record: its stamps tell nothing
            return IocClock()
        clock.asked(sent=sent, stamp=stamp, answered=answered)
        before = stamp
    return clock
