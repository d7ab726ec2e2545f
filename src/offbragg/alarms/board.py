"""Alarms: a disk that fills, a detector that hangs, a clock that jumps.

Judgement only: no I/O, and no clock of its own. Who looks (`offbragg.alarms.watchdog`) gives
times and numbers, and gets alarms; a `Board` turns them into changes: one when an alarm is raised,
one when it is cleared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

SEVERITIES = ("minor", "major")


QUIET = 2.0
"""Time without trouble before an alarm is cleared, s."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits beyond which something is an alarm; see [alarms] and [limits] of ``beamline.toml``."""

    reserve: float = 1.0
    """Space to leave on every disk, GB."""
    hours: float = 2.0
    """Alarm when a disk will be full within this time, h."""
    periods: float = 5.0
    """Alarm when no new file has come for this number of periods of a sweep…"""
    least: float = 0.5
    """… but for at least this time, s."""
    backlog: float = 30.0
    """Alarm when the stacking backlog exceeds this, s."""
    clock: float = 1.0
    """Alarm when a clock jumped, or differs, by more than this, s."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that people should know now.

    Parameters
    ----------
    what
        Always the same word for the same thing, as "disk.frames" or "stall".
    severity
        "minor" (it will be trouble) or "major" (it is).
    reason
        For people: what, where, the numbers.
    value, limit, units
        The number that decided, and the limit beyond which it is too large or too small.
    facts
        More numbers, plain JSON types.
    """

    what: str
    severity: str
    reason: str
    value: float
    limit: float
    units: str
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {
            "what": self.what,
            "severity": self.severity,
            "reason": self.reason,
            "value": self.value,
            "limit": self.limit,
            "units": self.units,
            "facts": dict(self.facts),
        }


@dataclass(frozen=True, slots=True)
class Change:
    """An alarm that was raised (or got worse, or better) or cleared.

    ``time`` is when, ``since`` when it was first raised, both POSIX s by this host's clock.
    """

    alarm: Alarm
    state: str
    time: float
    since: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {**self.alarm.to_dict(), "state": self.state, "time": self.time, "since": self.since}


class Board:
    """The alarms that are up, and their changes.

    An alarm that gets worse is reported at once, one that gets better after a while: what is on
    the edge rings once and not a hundred times.

    Parameters
    ----------
    quiet
        How long that is, s.
    """

    def __init__(self, quiet: float = QUIET) -> None:
        self.quiet = quiet
        self._up: dict[str, _Up] = {}

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """What is up, as plain JSON types, with ``since``."""
        return [{**up.alarm.to_dict(), "since": up.since} for up in list(self._up.values())]

    def up(self, what: str) -> list[Alarm]:
        """Return an alarm that is up, in a list; an empty one if it is not."""
        return [self._up[what].alarm] if what in self._up else []

    def since(self, known: Mapping[str, str], time: float) -> list[Change]:
        """Return what has changed for a listener that knows other alarms.

        Parameters
        ----------
        known
            What → severity.
        time
            POSIX s.
        """
        changes = [
            Change(up.alarm, "raised", time, up.since)
            for what, up in self._up.items()
            if known.get(what) != up.alarm.severity
        ]
        for what in known.keys() - self._up.keys():
            over = Alarm(what, known[what], f"{what} has ended", 0.0, 0.0, "")
            changes.append(Change(over, "cleared", time, time))
        return changes

    def judge(
        self,
        alarms: Iterable[Alarm],
        *,
        now: float,
        time: float,
        at_once: Iterable[str] = (),
    ) -> list[Change]:
        """Take what is in alarm now; return the changes.

        Parameters
        ----------
        alarms
            All that is in alarm.
        now
            By a monotonic clock, s.
        time
            POSIX s, for people.
        at_once
            What is cleared without waiting, because it is no longer looked at.
        """
        seen = {alarm.what: alarm for alarm in alarms}
        without_waiting = set(at_once)
        changes: list[Change] = []
        for what, alarm in seen.items():
            up = self._up.get(what)
            if up is None:
                self._up[what] = _Up(alarm, time, now)
                changes.append(Change(alarm, "raised", time, time))
            elif _rank(alarm) > _rank(up.alarm) or (
                _rank(alarm) < _rank(up.alarm) and now - up.bad >= self.quiet
            ):
                up.alarm, up.bad = alarm, now
                changes.append(Change(alarm, "raised", time, up.since))
            elif _rank(alarm) == _rank(up.alarm):
                up.alarm, up.bad = alarm, now
        for what, up in list(self._up.items()):
            if what not in seen and (what in without_waiting or now - up.bad >= self.quiet):
                del self._up[what]
                changes.append(Change(up.alarm, "cleared", time, up.since))
        return changes


@dataclass(slots=True)
class _Up:
    alarm: Alarm
    since: float  # POSIX
    bad: float  # when it was last as bad as it is said to be, monotonic


def _rank(alarm: Alarm) -> int:
    return SEVERITIES.index(alarm.severity)


def judge_stall(
    silent: float, period: float, *, thresholds: Thresholds, n_frames: int
) -> Alarm | None:
    """Judge how long no file of a sweep has come, s, while more were expected.

    Examples
    --------
    >>> judge_stall(0.4, 0.1, thresholds=Thresholds(), n_frames=20)
    >>> judge_stall(0.6, 0.1, thresholds=Thresholds(), n_frames=20).reason
    'no new frame file for 0.6 s, 6 periods of a sweep of 20 frames'
    """
    allowed = max(thresholds.periods * period, thresholds.least)
    if silent < allowed:
        return None
    reason = (
        f"no new frame file for {silent:.1f} s, {silent / period:.0f} periods of a sweep of "
        f"{n_frames} frames"
    )
    return Alarm("stall", "major", reason, silent, allowed, "s", {"period": period})


def judge_backlog(frames: int, seconds: float, *, thresholds: Thresholds) -> Alarm | None:
    """Judge how many frames wait to be stacked, and the time in which they were taken, s."""
    if seconds <= thresholds.backlog:
        return None
    reason = f"{frames} frames, {seconds:.0f} s of measuring, wait to be stacked"
    return Alarm("backlog", "minor", reason, seconds, thresholds.backlog, "s", {"frames": frames})
