"""Judge the host: its load, and how late a process comes to its work."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from typing import Any

MOST_LOAD = 1.5
"""Processes that want to run for each core, over a minute: above, the host is too busy."""


MOST_LATE = 0.5
"""How late a process may come to what it does ten times a second, s."""


MOST_BEHIND = 5.0
"""Longest stacking backlog on a host that is not too busy, s."""


def host_load(
    board: Mapping[str, Mapping[str, Any]],
    stacking: Mapping[str, float],
    *,
    load: float | None = None,
    cores: int | None = None,
) -> dict[str, Any]:
    """Return whether this host is too busy, as plain JSON types.

    Parameters
    ----------
    board
        What the watchdogs report, by side: ``late``, by how much their looks came too late in the
        last minute, s.
    stacking
        What the stacker reports: ``behind``, s.
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
    parts: list[str] = []
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
