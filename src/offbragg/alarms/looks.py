"""What a watchdog looks at: disks, frames, the stacker's backlog, the catalog."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offbragg.alarms.board import Alarm, Thresholds, judge_backlog
from offbragg.alarms.disk import Rate, disk_facts, judge_disk, judge_path
from offbragg.files.frame_files import FrameFiles
from offbragg.files.root import Root
from offbragg.files.run_progress import RunProgress


@dataclass(slots=True)
class ExpectedFrames:
    """The frame files of a run, as far as the watchdog cares."""

    progress: RunProgress
    period: float
    since: float  # of the last progress, monotonic
    files: FrameFiles | None = None
    expected: bool = False
    given_up: bool = False
    seen: object = None

    def look(self) -> tuple[object, bool]:
        """Return something that changes with every new file, and whether no more is to come."""
        over = self.progress.all_announced
        if self.files is None:
            return self.progress.announced, over
        try:
            # a file that is made changes the time of its directory; thousands need not be listed
            seen = self.files.directory.stat().st_mtime_ns
            return seen, over or self.files.path(self.progress.n_frames - 1).exists()
        except OSError:
            return self.seen, over


class Disks:
    """The file systems that the data cross: are they there, can they be written, how full."""

    def __init__(self, paths: Mapping[str, Path], thresholds: Thresholds) -> None:
        self.paths = dict(paths)
        self.thresholds = thresholds
        self._device: dict[str, int] = {}  # as it was when it was there
        self._roots = {name: Root(path) for name, path in self.paths.items()}
        self._rates: dict[int, Rate] = {}
        self._free: dict[int, int] = {}

    def look(self, now: float, wall: float) -> list[Alarm]:
        """Look at every path and every disk; ``now`` is monotonic, s."""
        alarms: list[Alarm] = []
        self._free = {}
        for name, path in self.paths.items():
            trouble = self._roots[name].trouble()
            if not trouble:
                try:
                    device = path.stat().st_dev
                    space = os.statvfs(path)
                    self._device[name] = device
                    self._free[device] = space.f_bavail * space.f_frsize
                    if not os.access(path, os.W_OK | os.X_OK):
                        read_only = space.f_flag & os.ST_RDONLY
                        trouble = "is read-only" if read_only else "cannot be written"
                except OSError as error:
                    trouble = f"cannot be used: {error.strerror}"
            if trouble:
                alarms.append(judge_path(name, path, trouble))
        for device, free in self._free.items():
            rate = self._rates.setdefault(device, Rate())
            rate.add(now, free)
            alarm = judge_disk(
                self._names(device), free, rate.per_second, thresholds=self.thresholds, time=wall,
                span=rate.span,
            )  # fmt: skip
            if alarm is not None:
                alarms.append(alarm)
        return alarms

    def _names(self, device: int) -> list[str]:
        return [name for name in self.paths if self._device.get(name) == device]

    def facts(self, wall: float) -> list[dict[str, Any]]:
        """Return what is known of each disk, as plain JSON types."""
        return [
            {
                "paths": self._names(device),
                **disk_facts(
                    free, self._rates[device].per_second, wall, span=self._rates[device].span
                ),
            }
            for device, free in self._free.items()
        ]


def alarms_up(
    disks: Disks, board: Mapping[str, Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return disks and alarms, as the running watchdogs report them and as they are found now.

    Parameters
    ----------
    disks
        The beamline's.
    board
        What `offbragg.alarms.board_file.read_board` has read.
    """
    found: list[dict[str, Any]] = [
        {**alarm.to_dict(), "since": None} for alarm in disks.look(0.0, time.time())
    ]
    alarms: dict[str, dict[str, Any]] = {alarm["what"]: alarm for alarm in found}
    facts = disks.facts(time.time())
    for side in board.values():
        for alarm in side.get("alarms", ()):
            known = alarms.get(alarm["what"], {}).get("since")
            if known is None or alarm["since"] < known:
                alarms[alarm["what"]] = alarm
        rates = {tuple(disk["paths"]): disk for disk in side.get("disks", ()) if disk["rate"]}
        facts = [rates.get(tuple(disk["paths"]), disk) for disk in facts]
    return facts, list(alarms.values())


def backlog_look(
    backlog: Callable[[], Mapping[str, float]], thresholds: Thresholds
) -> Callable[[], Alarm | None]:
    """Make a look at the backlog of the stacker."""

    def look() -> Alarm | None:
        state = backlog()
        return judge_backlog(int(state["due"]), state["behind"], thresholds=thresholds)

    return look


class CatalogLook:
    """Ask the catalog whether it is there, in a thread of its own: it may take its time.

    Parameters
    ----------
    host, port
        Where it listens.
    patience
        How long an answer may take, s. One that refuses is away at once.
    interval
        Between two questions, s.
    """

    def __init__(
        self, host: str, port: int, *, patience: float = 3.0, interval: float = 0.5
    ) -> None:
        self.host, self.port = host, port
        self.patience, self.interval = patience, interval
        self._alarm: Alarm | None = None
        self._thread: threading.Thread | None = None

    def __call__(self) -> Alarm | None:
        """Return the alarm after the last answer, if any; the first call begins to ask."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._ask_on, name="catalog-look", daemon=True)
            self._thread.start()
        return self._alarm

    def _ask_on(self) -> None:
        while True:
            self._alarm = self._ask()
            time.sleep(self.interval)

    def _ask(self) -> Alarm | None:
        began = time.monotonic()
        asked = http.client.HTTPConnection(self.host, self.port, timeout=self.patience)
        try:
            asked.request("GET", "/healthz")
            answer = asked.getresponse().status
            trouble = f"answers {answer}" if answer >= 500 else ""
        except (OSError, http.client.HTTPException) as error:
            silent = isinstance(error, TimeoutError)
            trouble = f"does not answer within {self.patience:g} s" if silent else f"({error})"
        finally:
            asked.close()
        if not trouble:
            return None
        reason = f"the catalog at {self.host}:{self.port} is away {trouble}: runs are published "
        waited = time.monotonic() - began
        return Alarm("catalog", "minor", f"{reason}when it is back", waited, self.patience, "s")
