"""Judge disks: free space, the rate of writing, the hour at which one is full."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from offbragg.alarms.board import Alarm, Thresholds

_EVERY = 10.0  # between two samples of the free space, s


_WINDOW = 1800.0  # over which the rate of writing is taken, s; pauses between sweeps count


_LEAST_SPAN = 10.0  # shortest time over which a rate is taken, s


_REACH = 4.0  # a rate is extrapolated over this many times the time in which it was measured


class Rate:
    """How fast a disk is written to, from its free space now and then.

    Only space that disappears counts: tidying up does not lower the rate.
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
    """Return the rate at which free space disappeared, bytes/s.

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
    """Write the hour a number of seconds after a time, with the day if it is another one."""
    if seconds > 30 * 86400:
        return f"in {seconds / 86400:.0f} days"
    now, then = datetime.fromtimestamp(time), datetime.fromtimestamp(time + seconds)
    return f"at {then:%H:%M}" if then.date() == now.date() else f"on {then:%a %d %b at %H:%M}"


def judge_path(name: str, path: object, trouble: str) -> Alarm:
    """Return the alarm of a directory that cannot be used; ``trouble`` as "is not there"."""
    return Alarm(f"paths.{name}", "major", f"{path} {trouble}", 0.0, 1.0, "")
