"""A follower that runs a command of the beamline's own for each run that is whole on disk.

It looks at what the stacker has made and never at the stacker itself: the command may hang or fail,
and frames are stored all the same. Which runs it was run for stands in files below the journal
directory, so a stacker that is started again does not run it twice for the same bytes.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from offbragg.alarms.hook import run_command
from offbragg.errors import ScanFileError
from offbragg.files.digest import Digest, read_digest
from offbragg.files.find import find_scan_file
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_folders import scan_directory
from offbragg.followers.stacker import Stacker

log = logging.getLogger(__name__)

FOLDER = "on_stored"
"""Folder below the journal directory: a file for each run that the command has taken."""

_EARLIER = 86400.0  # runs that began longer before the hook was first configured are left out, s
_AT_ONCE = 2  # commands: after a start there may be hundreds of runs to hand over
_WAITS = (1.0, 10.0, 60.0)  # before the next try, s; the last one repeats


class OnStored:
    """Run a command once for each run whose scan file is complete.

    Parameters
    ----------
    command
        Program and arguments.
    journal, experiment
        The journal directory, and the root of the scan files.
    beamline
        Its id.
    timeout
        Time limit of the command, s.
    tries
        How often a failing command is run; then it is run again once `offbragg stack` is started
        again.
    waits
        Before the next try, s.
    """

    name = "on_stored"
    after = frozenset({Stacker.name})  # a catalog that is away keeps no command waiting

    def __init__(
        self,
        command: Sequence[str],
        *,
        journal: Path,
        experiment: Path,
        beamline: str,
        timeout: float = 300.0,
        tries: int = 3,
        waits: Sequence[float] = _WAITS,
    ) -> None:
        self.command = list(command)
        self.journal = journal
        self.experiment = experiment
        self.beamline = beamline
        self.timeout = timeout
        self.tries = tries
        self.waits = tuple(waits)
        self.folder = journal / FOLDER
        self.slots = threading.BoundedSemaphore(_AT_ONCE)
        """One for each command that runs."""
        self._since: float | None = None
        self._settled: dict[str, str] = {}  # given up, or taken and not noted, by uid

    def done(self, start: Mapping[str, Any]) -> bool:
        """Return whether the command was run for a run, as it is stored now."""
        if "sweep" not in start or start["time"] < self._begun() - _EARLIER:
            return True
        path = find_scan_file(scan_directory(self.experiment, start), start["uid"])
        digest = None if path is None else read_digest(path)
        if digest is None:
            return False
        return _name(digest) in (self._taken(start["uid"]), self._settled.get(start["uid"]))

    def open(self, start: Mapping[str, Any]) -> _StoredRun:
        """Begin with a run."""
        return _StoredRun(self, start)

    def settle(self, uid: str, digest: Digest, *, taken: bool) -> None:
        """Remember that the command has taken a run, which is noted on disk, or was given up."""
        self._settled[uid] = _name(digest)
        if not taken:
            return
        path = self.folder / f"{uid}.json"
        hidden = path.with_suffix(".part")
        try:
            hidden.write_text(json.dumps({"taken": _name(digest), "time": time.time()}) + "\n")
            hidden.replace(path)
        except OSError as error:
            log.error("%s cannot be written: %s", path, error.strerror)

    def _taken(self, uid: str) -> str:
        try:
            return str(json.loads((self.folder / f"{uid}.json").read_text())["taken"])
        except (OSError, ValueError, KeyError, TypeError):  # torn: the command is run once more
            return ""

    def _begun(self) -> float:
        """Return when the hook was first configured, POSIX s."""
        if self._since is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            since = self.folder / "since"
            if not since.exists():
                since.touch()
            self._since = since.stat().st_mtime
        return self._since


class _StoredRun:
    """One run, until the command has taken it or has failed too often."""

    def __init__(
        self, hook: OnStored, start: Mapping[str, Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._hook = hook
        self._start = start
        self._clock = clock
        self._stop: Mapping[str, Any] | None = None
        self._tries = 0
        self._next_try = 0.0
        self._call: threading.Thread | None = None
        self._succeeded = False
        self._digest: Digest | None = None

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take note of the end of the run."""
        if name == "stop":
            self._stop = doc

    def poll(self) -> bool:
        """Start the command, or look whether it has ended; never wait for it."""
        if self._call is not None:
            return not self._call.is_alive() and self._ended()
        if self._stop is None or self._clock() < self._next_try:
            return False
        slots = self._hook.slots
        if not slots.acquire(blocking=False):
            return False
        try:
            found = self._document()
            if found is not None:
                document, self._digest = found
                self._tries += 1
                self._call = threading.Thread(
                    target=self._run, args=(document,), name="on_stored", daemon=True
                )
                self._call.start()
        finally:
            if self._call is None:  # the stacker is not done with it
                slots.release()
        return False

    def close(self) -> None:
        """Leave a command that runs to itself: without its note it is run again."""

    def _run(self, document: Mapping[str, Any]) -> None:
        variables = {
            "OFFBRAGG_RUN": document["run"],
            "OFFBRAGG_SCAN_FILE": document["scan_file"],
            "OFFBRAGG_BEAMLINE_ID": document["beamline"],
        }
        try:
            self._succeeded = run_command(
                self._hook.command, document, variables,
                timeout=self._hook.timeout, name="the command on_stored",
            )  # fmt: skip
        finally:
            self._hook.slots.release()

    def _ended(self) -> bool:
        self._call = None
        uid = self._start["uid"]
        assert self._digest is not None
        if self._succeeded:
            self._hook.settle(uid, self._digest, taken=True)
            return True
        if self._tries >= self._hook.tries:
            log.error(
                "on_stored failed for run %s after %d tries: it is run again once offbragg stack "
                "is started again", uid[:8], self._tries,
            )  # fmt: skip
            self._hook.settle(uid, self._digest, taken=False)
            return True
        waits = self._hook.waits
        self._next_try = self._clock() + waits[min(self._tries, len(waits)) - 1]
        return False

    def _document(self) -> tuple[dict[str, Any], Digest] | None:
        """Return what the command gets; None while the scan file is not complete."""
        start, hook = self._start, self._hook
        path = find_scan_file(scan_directory(hook.experiment, start), start["uid"])
        digest = None if path is None else read_digest(path)
        if path is None or digest is None:
            return None
        try:
            with ScanFile.open(path) as scan:
                if not scan.complete:
                    return None
                counts = scan.ledger.counts()
        except ScanFileError:  # it is opened for writing just now
            return None
        assert self._stop is not None
        series: Mapping[str, Any] = start.get("series") or {}
        sample: str | Mapping[str, Any] = start.get("sample") or {}
        return {
            "event": "stored",
            "run": start["uid"],
            "scan_id": start.get("scan_id"),
            "series": series.get("uid"),
            "sample": sample if isinstance(sample, str) else sample.get("name"),
            "beamline": hook.beamline,
            "exit_status": self._stop.get("exit_status"),
            "frames": counts,
            "scan_file": str(path),
            "size": digest.size,
            "crc64": f"{digest.crc64:016x}",
            "journal": str(hook.journal / f"{start['uid']}.jsonl"),
            "time": time.time(),
        }, digest


def _name(digest: Digest) -> str:
    return f"{digest.size}-{digest.crc64:016x}"
