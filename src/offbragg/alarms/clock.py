"""Judge clocks: a jump of the host's, a difference from the instruments'."""

from __future__ import annotations

import math
from collections import deque

from offbragg.alarms.board import Alarm

_HOLD = 60.0  # time for which a jump of the clock is in alarm, s


class Clock:
    """Judge this host's clock by one that cannot be set."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._offset: float | None = None
        self._jump, self._until = 0.0, -1.0

    def judge(self, time: float, now: float) -> Alarm | None:
        """Judge by POSIX time and monotonic time, both s, read at the same moment.

        A clock that is slewed, as NTP does it, is followed.
        """
        offset = time - now
        before, self._offset = self._offset, offset
        if before is not None and abs(offset - before) > self.limit:
            self._jump, self._until = offset - before, now + _HOLD
        return self.alarm(now)

    def alarm(self, now: float) -> Alarm | None:
        """Return the alarm of a recent jump, if there was one; ``now`` is monotonic, s."""
        if now > self._until:
            return None
        way = "forward" if self._jump > 0 else "back"
        reason = (
            f"the clock of this host jumped {way} by {abs(self._jump):.1f} s: times of frames and "
            "values from before and after do not fit"
        )
        return Alarm("clock", "major", reason, self._jump, self.limit, "s")


class Skew:
    """Another clock, by the stamps that it gives, against this host's.

    A stamp is read some time after it was made, so an old one says little and a future one
    everything.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._off: dict[str, deque[float]] = {}

    def __contains__(self, whose: str) -> bool:
        return whose in self._off

    def add(
        self, whose: str, stamp: float, time: float, *, late: float = math.inf, of: int = 1
    ) -> None:
        """Take a stamp, and when it was seen, both POSIX s.

        Parameters
        ----------
        whose
            Word for the clock.
        stamp, time
            What it said, and this host's time then.
        late
            How old it may be for other reasons, s; if anything, it is never found to be behind.
        of
            Number of stamps in a row that must all be too old before the clock counts as behind.
        """
        recent = self._off.setdefault(whose, deque(maxlen=of))
        off = stamp - time
        recent.append(off if off > 0 else min(off + late, 0.0))

    def forget(self) -> None:
        """Forget all stamps: this host's own clock was set."""
        self._off.clear()

    def judge(self) -> list[Alarm]:
        """Return the alarms of the clocks that differ."""
        found: list[Alarm] = []
        for whose, recent in list(self._off.items()):
            off = max(recent)  # the one that was read soonest
            if off > self.limit or (off < -self.limit and len(recent) == recent.maxlen):
                way = "ahead of" if off > 0 else "behind"
                reason = f"the time stamps of {whose} are {abs(off):.1f} s {way} this host's clock"
                found.append(Alarm(f"clock.{whose}", "minor", reason, off, self.limit, "s"))
        return found
