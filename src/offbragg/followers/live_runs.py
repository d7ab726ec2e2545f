"""``offbragg live``: the volumes of all runs in a journal, while they are measured.

It reads journals and scan files, and takes no lock that the stacker needs. All that it knows is in
files: killed and started again it goes on with an equal result.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offbragg.errors import JournalError, OffbraggError
from offbragg.files.find import find_scan_file
from offbragg.files.journal_archive import archived_journals
from offbragg.files.journal_file import read_start
from offbragg.files.journal_folder import JournalFolder
from offbragg.files.scan_folders import scan_directory, scan_name
from offbragg.followers.live_state import write_state
from offbragg.followers.live_volume import LiveSweep, LiveVolume, read_record, why_refused
from offbragg.workflows.choices import Choices

log = logging.getLogger(__name__)

_LOOK = 0.2  # s
_LOOK_FOR_FILES = 1.0  # s, of runs whose scan file is not there yet
_TRY_AGAIN = 1.0  # s, after a sweep could not be placed yet


class Stopped(Exception):  # noqa: N818  not an error
    """It was asked to end."""


_Kind = tuple[str, str, str, str]


@dataclass(slots=True)
class _Waiting:
    """A sweep that is in no volume yet."""

    uid: str
    time: float
    folder: Path | None
    """Where its scan file is, or will be."""
    proposal: str
    path: Path | None = None

    @classmethod
    def of(cls, start: Mapping[str, Any], experiment: Path) -> _Waiting:
        """Keep of a start document what is needed: there may be very many of them."""
        try:
            folder = scan_directory(experiment, start)
        except (OffbraggError, OSError):
            folder = None
        return cls(start["uid"], float(start.get("time", 0.0)), folder, _proposal(start))

    def find(self) -> Path | None:
        """Return its scan file, once there is one."""
        if self.path is None and self.folder is not None:
            try:
                found = find_scan_file(self.folder, self.uid)
            except (OffbraggError, OSError):
                return None
            self.path = None if found is None else found.absolute()
        return self.path


class LiveRuns:
    """The runs of a journal directory and the volumes that they belong to.

    Parameters
    ----------
    journal, experiment
        Directories.
    choices
        Parameters of the reduction.
    every
        Least time between two writings of all cells of a growing volume, s.
    since
        Age of the oldest runs whose volumes are made if there are none, s.
    stop
        Set it to end.
    written
        Called with the path of a volume whenever it was written; it must not wait.
    """

    def __init__(
        self,
        journal: Path,
        experiment: Path,
        choices: Choices,
        *,
        every: float = 1.8,
        since: float = 86400.0,
        stop: threading.Event | None = None,
        written: Callable[[Path], None] = lambda path: None,
    ) -> None:
        self._journal, self._experiment, self._choices = journal, experiment, choices
        self._every, self._since = every, since
        self._stop = stop or threading.Event()
        self._written = written
        self._folder = JournalFolder(journal)
        self._unread: list[Path] | None = None  # None: neither files nor archives were read
        self._newest: dict[_Kind, float] = {}  # when the newest run of each kind began
        self._waiting: dict[_Kind, dict[str, _Waiting]] = {}  # sweeps in no volume yet, by uid
        self._volumes: dict[Path, list[LiveVolume]] = {}  # by folder
        self._placed: set[str] = set()  # uids
        self._next_place: dict[str, float] = {}
        self._next_look = 0.0
        self._state: dict[str, Any] = {}

    @property
    def volumes(self) -> list[LiveVolume]:
        """All volumes, that of the newest sweep first."""
        found = [volume for volumes in self._volumes.values() for volume in volumes]
        return sorted(found, key=lambda volume: volume.sweeps[-1].time, reverse=True)

    def run(self, *, once: bool = False) -> None:
        """Follow until asked to stop; or, once, until all that is stored is in a volume."""
        try:
            while not self._stop.is_set():
                more = self.advance()
                if once and not more and not any(v.unwritten or v.untried for v in self.volumes):
                    return
                if not more:
                    self._stop.wait(_LOOK)
        except Stopped:
            return

    def advance(self) -> bool:
        """Do what there is to do now; return whether there is more to be done at once."""
        self._look()
        more, volumes = False, self.volumes
        for number, volume in enumerate(volumes):
            more |= volume.advance()
            if number and volume.closed:
                volume.drop()
            if more:
                break  # the newest first
        if volumes:
            self._report(volumes[0])
        return more

    def _look(self) -> None:
        """Look for new runs, and for scan files that have come."""
        try:
            new = self._read_starts()
        except JournalError as error:
            log.warning("%s", error)
            return
        if not new and time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_FOR_FILES
        now = time.time()
        wanted = [kind for kind, began in self._newest.items() if now - began < self._since]
        runs = [run for kind in wanted for run in self._waiting.get(kind, {}).values()]
        folders: dict[Path, list[LiveSweep]] = {}
        for run in sorted(runs, key=lambda run: (run.time, run.uid)):
            if (path := run.find()) is not None:
                sweep = LiveSweep(path, run.uid, run.time, run.proposal)
                folders.setdefault(path.parent, []).append(sweep)
        for folder, sweeps in folders.items():
            self._place_all(folder, sweeps)
        for kind in wanted:
            here = self._waiting.get(kind, {})
            for uid in here.keys() & self._placed:
                del here[uid]

    def _read_starts(self) -> bool:
        """Read the start documents of journals that are new; return whether there are any."""
        found = self._folder.look()[0]
        # archives after the files: what is packed meanwhile is in both lists, not in neither
        before = archived_journals(self._journal) if self._unread is None else self._unread
        paths = list(dict.fromkeys([*before, *found]))
        unread: list[Path] = []
        self._unread = unread
        for path in paths:
            try:
                start = read_start(path)
            except JournalError:
                unread.append(path)  # just begun; or damaged, which the stacker reports
                continue
            if not start.get("sweep") or start.get("purpose", "data") != "data":
                continue
            kind, began = _kind(start), float(start.get("time", 0.0))
            self._newest[kind] = max(began, self._newest.get(kind, began))
            run = _Waiting.of(start, self._experiment)
            self._waiting.setdefault(kind, {})[run.uid] = run
        return len(unread) < len(paths)

    def _place_all(self, folder: Path, sweeps: list[LiveSweep]) -> None:
        """Find the volume to which each new sweep of a folder belongs."""
        if folder not in self._volumes:
            self._volumes[folder] = []
            self._adopt(folder, sweeps)
        for sweep in sweeps:
            if sweep.uid not in self._placed and time.monotonic() > self._next_place.get(
                sweep.uid, 0.0
            ):
                self._place(folder, sweep)

    def _adopt(self, folder: Path, sweeps: list[LiveSweep]) -> None:
        """Take over the volumes that an earlier process closed."""
        runs = {sweep.uid: sweep for sweep in sweeps}
        for path in sorted(folder.glob("live-*.h5")):
            kept = read_record(path)
            mine = [runs[e.run] for e in kept.inputs if e.run in runs] if kept else []
            if len({sweep.proposal for sweep in mine}) != 1:
                continue
            volume = self._new(path, mine)
            if volume.adopt():
                self._written(path)  # it may have been closed while the catalog was away
                self._volumes[folder].append(volume)
                self._placed.update(sweep.uid for sweep in mine)
        self._volumes[folder].sort(key=lambda volume: volume.sweeps[0].time)

    def _place(self, folder: Path, sweep: LiveSweep) -> None:
        """Let a sweep join the last volume of its folder, or begin its own if it cannot."""
        there = self._volumes[folder]
        volumes = [each for each in there if each.sweeps[0].proposal == sweep.proposal]
        if volumes:
            last = volumes[-1]
            paths = [each.path for each in last.sweeps]
            # it alone first: all of the files of the others would be read each time
            if why_refused(
                [sweep.path], self._choices
            ):  # until it has frames, an orientation, a monitor
                self._next_place[sweep.uid] = time.monotonic() + _TRY_AGAIN
                return
            if not (why := why_refused([*paths, sweep.path], self._choices)):
                log.info("%s joins %s", sweep.path, last.path.name)
                last.add(sweep)
                self._placed.add(sweep.uid)
                return
            if not last.complete and why_refused(paths, self._choices):  # until the others have
                self._next_place[sweep.uid] = time.monotonic() + _TRY_AGAIN
                return
            log.warning("%s does not join %s: %s", sweep.path, last.path.name, why)
        there.append(self._new(folder / f"live-{sweep.path.stem}.h5", [sweep]))
        self._placed.add(sweep.uid)

    def _new(self, path: Path, sweeps: list[LiveSweep]) -> LiveVolume:
        return LiveVolume(
            path, sweeps, self._choices, every=self._every, one_more=self._check_stop,
            written=self._written,
        )  # fmt: skip

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped

    def _report(self, volume: LiveVolume) -> None:
        """Write the state of the newest volume for other processes."""
        state = {
            "volume": str(volume.path),
            "state": "closed" if volume.closed else "waiting" if volume.why else "growing",
            "frames": volume.frames,
            "of": sum(sweep.frames for sweep in volume.sweeps),
            "orientation": volume.orientation,
            "why": volume.why.partition("\n")[0],
            "after": volume.after if volume.closed else None,
        }
        if state != self._state:
            write_state(self._journal, state)
            self._state = state


def _kind(start: Mapping[str, Any]) -> _Kind:
    """Return what runs of one folder have in common."""
    sample: Mapping[str, Any] = start.get("sample") or {}
    proposal = _proposal(start)
    try:
        return str(sample.get("name")), str(sample.get("label")), scan_name(start), proposal
    except OffbraggError:
        return "", "", "", proposal


def _proposal(start: Mapping[str, Any]) -> str:
    return str(start.get("proposal") or "")
