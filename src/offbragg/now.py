"""What a beamline is doing at this moment: what the page shows, from files alone.

`offbragg status` looks once, and at everything. This looks twice a second for as long as the
catalog is served, so each look reads only what is new.
"""

from __future__ import annotations

import heapq
import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offbragg.alarms.board_file import read_board
from offbragg.alarms.host import host_load
from offbragg.alarms.looks import Disks, alarms_up
from offbragg.beamline.config import Beamline
from offbragg.errors import OffbraggError
from offbragg.files.engine_file import engine_file, read_engine
from offbragg.files.find import find_scan_file
from offbragg.files.journal_file import JournalReader, is_open, read_start
from offbragg.files.run_progress import RunProgress
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_folders import scan_directory
from offbragg.followers.backlog import is_followed, read_backlog
from offbragg.followers.live_state import read_state

log = logging.getLogger(__name__)

_NEW = 2.0  # s between two looks for new journals
_SLOW = 5.0  # s between two looks at disks and at ended runs
_RECENT = 20  # runs whose scan files are looked at
_UID = re.compile(r"[0-9A-Za-z-]{1,100}")


class BeamlineNow:
    """Looks at a beamline again and again; one thread calls it.

    Parameters
    ----------
    config
        The configuration.
    """

    def __init__(self, config: Beamline) -> None:
        self._config = config
        self._disks = Disks(dict(config.paths), config.thresholds)
        self._newest = NewestJournals(config.paths.journal)
        self._journals: list[Path] = []
        self._looked = self._looked_slowly = -float("inf")
        self._run: _FollowedRun | None = None
        self._ended: dict[Path, _EndedRun] = {}
        self._slow: dict[str, Any] = {}
        self._began = time.time()

    def __call__(self) -> dict[str, Any]:
        """Look; return what the route ``/now`` answers, but for ``catalog``. It may block."""
        now = time.monotonic()
        journal = self._config.paths.journal
        report = read_engine(journal)
        if now - self._looked >= _NEW:
            self._journals = self._newest.look()
            self._looked = now
        frames = self._frames(report)
        followers = read_backlog(journal)
        if now - self._looked_slowly >= _SLOW:
            self._slow = self._look_slowly(followers.get("stack", {}))
            self._looked_slowly = now
        due = followers.get("stack", {}).get("due")
        waiting = frames["behind"] if due is None and frames else due
        backlog = {"runs": self._slow["behind"], "frames": waiting or 0}
        return {
            "time": time.time(),
            "beamline": self._config.beamline_id,
            "engine": self._engine(report),
            "frames": frames,
            "live": read_state(journal),
            "stacker": journal.is_dir() and is_followed(journal),
            "backlog": backlog,
            **{key: self._slow[key] for key in ("disks", "alarms", "host")},
        }

    def has_begun(self, uid: str) -> bool:
        """Return whether a RunEngine is in the run with this uid."""
        if not _UID.fullmatch(uid):
            return False
        try:
            return is_open(self._config.paths.journal / f"{uid}.jsonl")
        except OSError:
            return False

    def _engine(self, report: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the RunEngine says of itself, or that there is none."""
        if report:
            age = round(max(time.time() - float(report.get("time", 0.0)), 0.0), 1)
            return {**{key: report[key] for key in report if key != "time"}, "age": age}
        try:
            since = engine_file(self._config.paths.journal).stat().st_mtime
        except OSError:  # there has been none
            since = self._began
        return {"state": "gone", "since": since, "age": None, "plan": "", "run": self._open_run(),
                "series": None, "waits": [], "values": {}}  # fmt: skip

    def _open_run(self) -> dict[str, Any] | None:
        """Return the run of a RunEngine that reports nothing, from its journal."""
        run = self._run
        if run is None or run.ended or not run.is_open():
            return None
        return run.described()

    def _frames(self, report: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what became of the frames of the run that is open, or of the last one."""
        uid = (report.get("run") or {}).get("uid")
        directory = self._config.paths.journal
        path = self._journals[0] if self._journals else None
        if uid and (path is None or path.stem != uid):
            path = directory / f"{uid}.jsonl"
        if path is None:
            return None
        try:
            if self._run is None or self._run.path != path:
                self._run = _FollowedRun(path, self._config.paths.experiment)
            return self._run.look()
        except (OffbraggError, OSError, KeyError, TypeError, ValueError) as error:
            log.debug("the frames of %s are not known: %s", path, error)
            return None

    def _look_slowly(self, stacking: Mapping[str, float]) -> dict[str, Any]:
        board = read_board(self._config.paths.journal)
        disks, alarms = alarms_up(self._disks, board)
        kept, self._ended = self._ended, {}
        for path in self._journals[:_RECENT]:
            self._ended[path] = kept.get(path) or _EndedRun(path, self._config.paths.experiment)
        behind = sum(run.is_behind() for run in self._ended.values())
        return {"disks": disks, "alarms": alarms, "host": host_load(board, stacking),
                "behind": behind}  # fmt: skip


class _FollowedRun:
    """A run whose journal and scan file are read as they grow."""

    def __init__(self, path: Path, experiment: Path) -> None:
        self.path = path
        self._experiment = experiment
        self._reader = JournalReader(path)
        self._start: dict[str, Any] = {}
        self._progress = RunProgress(0)
        self._scan: Path | None = None
        self._state: tuple[int, int] = (0, 0)
        self._counts: dict[str, int] = {}
        self._last: int | None = None

    @property
    def ended(self) -> bool:
        """Whether its journal has a stop document."""
        return self._reader.ended

    def is_open(self) -> bool:
        """Whether a RunEngine is in it."""
        try:
            return is_open(self.path)
        except OSError:
            return False

    def described(self) -> dict[str, Any]:
        """Return it as the RunEngine would."""
        start = self._start
        sweep, sample = start.get("sweep") or {}, start.get("sample")
        left = (self._progress.n_frames - self._progress.announced) * (sweep.get("period") or 0.0)
        return {
            "uid": start.get("uid"), "scan_id": start.get("scan_id"),
            "sample": sample.get("name") if isinstance(sample, Mapping) else sample,
            "temperature": (start.get("temperature") or {}).get("setpoint"),
            "purpose": start.get("purpose"), "sweep": 1, "sweeps": 1,
            "done": self._progress.announced, "n": self._progress.n_frames, "left": left,
        }  # fmt: skip

    def look(self) -> dict[str, Any] | None:
        """Read what is new; None if it is not a run of frames."""
        for name, doc in self._reader.read():
            if name == "start":
                self._start = doc
                self._progress.n_frames = int((doc.get("sweep") or {}).get("n_frames") or 0)
            self._progress.add(name, doc)
        if not self._progress.n_frames:
            return None
        self._look_at_scan()
        decided = sum(n for word, n in self._counts.items() if word != "pending")
        n, announced = self._progress.n_frames, self._progress.announced
        return {
            "run": self._start["uid"], "n": n, "stored": self._counts.get("stored", 0),
            "last": self._last, "behind": max(announced - decided, 0),
            "missing": self._counts.get("missing", 0), "rejected": self._counts.get("rejected", 0),
            "pending": n - decided,
        }  # fmt: skip

    def _look_at_scan(self) -> None:
        if self._scan is None:
            directory = scan_directory(self._experiment, self._start)
            self._scan = find_scan_file(directory, self._start["uid"])
        if self._scan is None:
            return
        stat = self._scan.stat()
        state = stat.st_mtime_ns, stat.st_size
        if state == self._state:
            return
        with ScanFile.open(self._scan) as scan:
            statuses = scan.ledger.statuses
            self._counts = scan.ledger.counts()
        stored = [i for i, status in enumerate(statuses) if status == "stored"]
        self._last = stored[-1] if stored else None
        self._state = state


class _EndedRun:
    """A run of which it matters only whether its frames are all decided."""

    def __init__(self, path: Path, experiment: Path) -> None:
        self._path = path
        self._experiment = experiment
        self._is_whole = False

    def is_behind(self) -> bool:
        """Return whether the run is over, and frames of it are not stacked."""
        if self._is_whole:
            return False
        try:
            if is_open(self._path):
                return False
            start = read_start(self._path)
            if not start.get("sweep"):
                self._is_whole = True
                return False
            found = find_scan_file(scan_directory(self._experiment, start), start["uid"])
            if found is not None:
                with ScanFile.open(found) as scan:
                    self._is_whole = scan.complete
        except (OffbraggError, OSError, KeyError, TypeError):
            return True
        return not self._is_whole


class NewestJournals:
    """The journals that were written last, of which there may be tens of thousands.

    Parameters
    ----------
    directory
        The journals'.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._times: dict[Path, float] = {}

    def look(self) -> list[Path]:
        """Return them, newest first; only the newest and those that are new are looked at."""
        try:
            with os.scandir(self._directory) as entries:
                names = [entry.name for entry in entries if entry.name.endswith(".jsonl")]
        except OSError:
            return []
        there = {self._directory / name for name in names}
        newest = self._newest()
        for path in [*(there - self._times.keys()), *newest]:
            try:
                self._times[path] = path.stat().st_mtime
            except OSError:  # it is gone
                self._times.pop(path, None)
        for path in self._times.keys() - there:
            del self._times[path]
        return self._newest()

    def _newest(self) -> list[Path]:
        return heapq.nlargest(_RECENT + 1, self._times, key=self._times.__getitem__)
