"""The alarms that are up, in a file that other processes read."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from offbragg.files.journal_file import is_open

log = logging.getLogger(__name__)


ACQUISITION, DATA = "acquisition", "data"
"""The two sides."""


class BoardFile:
    """What is up, in a file that is locked while its writer lives.

    `offbragg status` reads it. The watchdog goes on if it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def write(self, content: Mapping[str, Any]) -> None:
        """Write the content, if the file can be opened and locked."""
        try:
            file = self._opened()
            if file is not None:
                line = json.dumps(content).encode() + b"\n"
                os.pwrite(file.fileno(), line, 0)
                file.truncate(len(line))
        except OSError as error:
            log.debug("what is in alarm cannot be written: %s", error)

    def _opened(self) -> IO[bytes] | None:
        if self._file is not None:
            try:
                if os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
                    return self._file
            except FileNotFoundError:
                if not self._path.parent.is_dir():
                    return self._file  # its directory may come back
            self.close()  # another directory has come in its place
        made = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        file = os.fdopen(made, "r+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()  # another process writes it
            return None
        self._file = file
        return file

    def close(self) -> None:
        """Release the file: what it says is no longer true."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def read_board(journal: Path) -> dict[str, dict[str, Any]]:
    """Read what the watchdogs of a beamline report, by side; only of those that run.

    Returns
    -------
    board
        Side → ``alarms`` (with ``since``, POSIX s), ``disks`` and ``late`` (by how much its looks
        came too late in the last minute, s).
    """
    board: dict[str, dict[str, Any]] = {}
    for side in (ACQUISITION, DATA):
        with contextlib.suppress(OSError, ValueError):
            path = journal / f".watch.{side}.json"
            if is_open(path):  # as of a journal: its writer holds a lock
                board[side] = json.loads(path.read_bytes().partition(b"\n")[0])
    return board


class OnceForBoth:
    """Check whether the other side has reported an alarm already: it is not reported twice.

    Both sides look at the same disks. The one in the RunEngine's process waits a moment for the
    report of the other one, which runs for longer. If none comes, perhaps because the other side
    runs on another host and sees another disk, this side reports.

    Parameters
    ----------
    journal
        Where the other side's board is.
    patience
        How long to wait for it, s.
    """

    def __init__(self, journal: Path, *, patience: float = 0.4) -> None:
        self._journal = journal
        self._patience = patience
        self._left: set[str] = set()

    def __call__(self, change: Mapping[str, Any]) -> bool:
        """Return whether the other side reports this change; may take ``patience`` seconds."""
        what = change["what"]
        if change["state"] == "cleared":
            left = what in self._left
            self._left.discard(what)
            return left
        deadline = time.monotonic() + self._patience
        while DATA in (board := read_board(self._journal)):
            severities = {a["what"]: a["severity"] for a in board[DATA].get("alarms", ())}
            if severities.get(what) == change["severity"]:
                self._left.add(what)
                return True
            if what == "stall" or time.monotonic() > deadline:
                break  # only this side reports a stall
            time.sleep(0.05)
        self._left.discard(what)
        return False
