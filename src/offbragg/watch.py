"""What has to be told at once: a disk that fills, a detector that hangs, a clock that jumps.

Judgement only: no I/O, and no clock of its own. Who looks (`offbragg.callbacks.watchdog`) gives
times and numbers, and is given alarms; a `Board` makes of them what is worth telling: an alarm once
when it is raised and once when it is cleared.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

SEVERITIES = ("minor", "major")

QUIET = 2.0
"""So long what was in alarm must be well before its alarm is cleared, s."""

MOST_LOAD = 1.5
"""Processes that want to run for each core, over a minute: above, the host is too busy."""

MOST_LATE = 0.5
"""How late a process may come to what it does ten times a second, s."""

MOST_BEHIND = 5.0
"""Frames of this time may wait to be stacked on a host that is not too busy, s."""

_EVERY = 10.0  # between two samples of the free space, s
_WINDOW = 1800.0  # over which the rate of writing is taken: also pauses between sweeps count, s
_LEAST_SPAN = 10.0  # a rate over less is none, s
_REACH = (
    4.0  # factor: a rate is extrapolated over this many times the time in which it was measured
)
_HOLD = 60.0  # so long a jump of the clock is in alarm, s


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on something is an alarm; see [alarms] and [limits] of ``beamline.toml``."""

    reserve: float = 1.0
    """Space to leave on every disk, GB."""
    hours: float = 2.0
    """A disk that will be full within so many hours."""
    periods: float = 5.0
    """No new file for so many periods of a sweep…"""
    least: float = 0.5
    """… but for at least so long, s."""
    backlog: float = 30.0
    """Frames of so much time wait to be stacked, s."""
    clock: float = 1.0
    """A clock that jumped, or differs, by more, s."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that somebody should know now.

    Parameters
    ----------
    what
        Always the same word for the same thing, as "disk.frames" or "stall".
    severity
        "minor" (it will be trouble) or "major" (it is).
    reason
        For people: what, where, the numbers.
    value, limit, units
        The number that decided, and from where on it is too much or too little.
    facts
        More numbers, plain JSON types.
    """

    what: str
    severity: str
    reason: str
    value: float
    limit: float
    units: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain JSON types."""
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
        """Give it as plain JSON types."""
        return {**self.alarm.to_dict(), "state": self.state, "time": self.time, "since": self.since}


class Board:
    """The alarms that are up, and what of them is worth telling.

    Worse is told at once, better when it has been better for a while: what is on the edge rings
    once and not a hundred times.

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
        """Give an alarm that is up; nothing if it is not."""
        return [self._up[what].alarm] if what in self._up else []

    def since(self, known: Mapping[str, str], time: float) -> list[Change]:
        """Give what has changed for somebody who knows other alarms.

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
            over = Alarm(what, known[what], f"{what} is over", 0.0, 0.0, "")
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
        """Take what is in alarm now; give what is to be told.

        Parameters
        ----------
        alarms
            All that is in alarm.
        now
            By a monotonic clock, s.
        time
            POSIX s, for people.
        at_once
            What is cleared without waiting, because nobody looks at it any more.
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


# -- disks -------------------------------------------------------------------------------------


class Rate:
    """How fast a disk is written to, from its free space now and then.

    Only what disappears counts: somebody who tidies up writes nothing less.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque()

    def add(self, now: float, free: float) -> None:
        """Take note of the free space, bytes, by a monotonic clock, s."""
        if self._samples and now - self._samples[-1][0] < _EVERY:
            return
        self._samples.append((now, free))
        while now - self._samples[0][0] > _WINDOW:
            self._samples.popleft()

    @property
    def per_second(self) -> float:
        """Bytes/s; 0 until it is known."""
        return writing_rate(self._samples)

    @property
    def span(self) -> float:
        """Time over which it is measured, s."""
        return self._samples[-1][0] - self._samples[0][0] if self._samples else 0.0


def writing_rate(samples: Sequence[tuple[float, float]]) -> float:
    """Give the rate at which free space disappeared.

    Parameters
    ----------
    samples
        (time s, free bytes), oldest first.

    Examples
    --------
    >>> writing_rate([(0.0, 100.0), (10.0, 80.0), (20.0, 95.0), (30.0, 85.0)])
    1.0
    """
    pairs = list(samples)
    if len(pairs) < 2 or pairs[-1][0] - pairs[0][0] < _LEAST_SPAN:
        return 0.0
    written = sum(max(a[1] - b[1], 0.0) for a, b in pairwise(pairs))
    return written / (pairs[-1][0] - pairs[0][0])


def seconds_left(free: float, rate: float, span: float) -> float | None:
    """Return the time until a disk is full, s; None if the rate does not reach so far.

    A rate is not extrapolated further than 4 times the time that it was measured over: one sweep
    writes fast, and says nothing of the hours after it.

    Parameters
    ----------
    free
        Bytes.
    rate
        Bytes/s.
    span
        Time over which the rate was measured, s.

    Examples
    --------
    >>> seconds_left(6e9, 10e6, span=60.0)
    >>> seconds_left(6e9, 10e6, span=200.0)
    600.0
    """
    if rate <= 0 or free / rate > _REACH * span:
        return None
    return free / rate


def judge_disk(
    names: Sequence[str],
    free: float,
    rate: float,
    *,
    thresholds: Thresholds,
    time: float,
    span: float = math.inf,
) -> Alarm | None:
    """Judge the space on one disk.

    Parameters
    ----------
    names
        The paths of ``beamline.toml`` that are on it.
    free
        Bytes that can be used.
    rate
        At which it is written to, bytes/s.
    thresholds
        ``reserve`` and ``hours``.
    time
        Now, POSIX s.
    span
        Time over which the rate was measured, s.
    """
    on = ", ".join(names)
    text = f"{describe_space(free, rate, time, span=span)} on the disk of {on}"
    facts = {"paths": list(names), **disk_facts(free, rate, time, span=span)}
    left = seconds_left(free, rate, span)
    if free < thresholds.reserve * 1e9:
        reason = f"{text}; {thresholds.reserve:g} GB are to be left"
        return Alarm(
            f"disk.{names[0]}", "major", reason, free / 1e9, thresholds.reserve, "GB", facts
        )
    if left is not None and left < thresholds.hours * 3600:
        return Alarm(f"disk.{names[0]}", "minor", text, left / 3600, thresholds.hours, "h", facts)
    return None


def disk_facts(free: float, rate: float, time: float, *, span: float = math.inf) -> dict[str, Any]:
    """Return free space (bytes), rate (bytes/s), its span (s) and when it is full (POSIX s).

    The span is None if it is not known, ``full`` if the rate is not a forecast that far ahead.
    """
    left = seconds_left(free, rate, span)
    return {
        "free": int(free),
        "rate": rate,
        "span": span if math.isfinite(span) else None,
        "full": None if left is None else time + left,
    }


def describe_space(free: float, rate: float, time: float, *, span: float = math.inf) -> str:
    """Describe how much space there is, how fast it is used, and until when it lasts.

    Examples
    --------
    >>> describe_space(5e9, 0.0, 0.0)
    '5.00 GB free'
    >>> describe_space(5e9, 1e6, 0.0, span=120.0)
    '5.00 GB free, 60.0 MB/min written in the last 2 min'
    """
    text = f"{describe_bytes(free)} free"
    if rate > 0:
        text += f", {describe_bytes(rate * 60)}/min written"
        if math.isfinite(span):
            text += f" in the last {max(span / 60, 1):.0f} min"
        left = seconds_left(free, rate, span)
        if left is not None:
            text += f", full {describe_hour(left, time)}"
    return text


def describe_bytes(size: float) -> str:
    """Write a size in the unit that fits it.

    Examples
    --------
    >>> describe_bytes(2.5e9), describe_bytes(2.1e6), describe_bytes(900.0)
    ('2.50 GB', '2.1 MB', '0.9 kB')
    """
    if size >= 1e9:
        return f"{size / 1e9:.2f} GB"
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def describe_hour(seconds: float, time: float) -> str:
    """Say the hour that is so many seconds after a time; the day, too, if it is another one."""
    if seconds > 30 * 86400:
        return f"in {seconds / 86400:.0f} days"
    now, then = datetime.fromtimestamp(time), datetime.fromtimestamp(time + seconds)
    return f"at {then:%H:%M}" if then.date() == now.date() else f"on {then:%a %d %b at %H:%M}"


def judge_path(name: str, path: object, trouble: str) -> Alarm:
    """Tell of a directory that cannot be used; ``trouble`` as "is not there"."""
    return Alarm(f"paths.{name}", "major", f"{path} {trouble}", 0.0, 1.0, "")


# -- frames ------------------------------------------------------------------------------------


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
    """Judge how many frames, taken in so many seconds, wait to be stacked."""
    if seconds <= thresholds.backlog:
        return None
    reason = f"{frames} frames, {seconds:.0f} s of measuring, wait to be stacked"
    return Alarm("backlog", "minor", reason, seconds, thresholds.backlog, "s", {"frames": frames})


# -- clocks ------------------------------------------------------------------------------------


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
        """Give the alarm of a jump a short while ago; ``now`` is monotonic, s."""
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
            So many in a row must all be too old before the clock is said to be behind.
        """
        recent = self._off.setdefault(whose, deque(maxlen=of))
        off = stamp - time
        recent.append(off if off > 0 else min(off + late, 0.0))

    def forget(self) -> None:
        """Begin anew: this host's own clock was set."""
        self._off.clear()

    def judge(self) -> list[Alarm]:
        """Give the clocks that differ."""
        found: list[Alarm] = []
        for whose, recent in list(self._off.items()):
            off = max(recent)  # the one that was read soonest
            if off > self.limit or (off < -self.limit and len(recent) == recent.maxlen):
                way = "ahead of" if off > 0 else "behind"
                reason = f"the time stamps of {whose} are {abs(off):.1f} s {way} this host's clock"
                found.append(Alarm(f"clock.{whose}", "minor", reason, off, self.limit, "s"))
        return found


def host_load(
    board: Mapping[str, Mapping[str, Any]],
    stacking: Mapping[str, float],
    *,
    load: float | None = None,
    cores: int | None = None,
) -> dict[str, Any]:
    """Return whether this host has more to do than it can, plain JSON types.

    Parameters
    ----------
    board
        What the watchdogs say, by side: ``late``, by how much their looks came too late in the
        last minute, s.
    stacking
        What the stacker says: ``behind``, s.
    load, cores
        Processes that want to run, averaged over a minute, and how many can; this host's if not
        given.

    Returns
    -------
    host
        ``load``, ``cores``, ``late`` (side → s), ``behind`` (s) and ``busy``: in words, what is
        too much; empty if nothing is.

    Examples
    --------
    >>> host_load({"acquisition": {"late": 0.8}}, {"behind": 12.0}, load=9.0, cores=2)["busy"]
    'load 9.0 on 2 cores; the RunEngine was up to 0.8 s late in the last minute; the stacker is \
12 s behind'
    >>> host_load({}, {}, load=1.2, cores=2)["busy"]
    ''
    """
    load = os.getloadavg()[0] if load is None else load
    cores = len(os.sched_getaffinity(0)) if cores is None else cores
    late = {side: float(each.get("late", 0.0)) for side, each in board.items()}
    behind = float(stacking.get("behind", 0.0))
    parts = []
    if load > MOST_LOAD * cores:
        parts.append(f"load {load:.1f} on {cores} core{'' if cores == 1 else 's'}")
    for side, seconds in late.items():
        if seconds > MOST_LATE:
            who = "the RunEngine" if side == "acquisition" else "the stacker"
            parts.append(f"{who} was up to {seconds:.1f} s late in the last minute")
    if behind > MOST_BEHIND:
        parts.append(f"the stacker is {behind:.0f} s behind")
    return {
        "load": load, "cores": cores, "late": late, "behind": behind, "busy": "; ".join(parts)
    }  # fmt: skip


class Lateness:
    """By how much something that is to happen regularly came too late, in the last minute.

    Parameters
    ----------
    window
        What is meant by the last minute, s.
    """

    def __init__(self, window: float = 60.0) -> None:
        self._window = window
        self._late: deque[tuple[float, float]] = deque()

    def add(self, now: float, late: float) -> None:
        """Take note; ``now`` is monotonic, s."""
        while self._late and self._late[0][0] < now - self._window:
            self._late.popleft()
        while self._late and self._late[-1][1] <= late:
            self._late.pop()  # no longer the worst, now or later
        self._late.append((now, late))

    @property
    def worst(self) -> float:
        """The largest one, s."""
        return self._late[0][1] if self._late else 0.0
