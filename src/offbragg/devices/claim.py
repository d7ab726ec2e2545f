"""Which process acquires with a detector: a locked file beside its frames.

The kernel takes the lock away from a process that dies, while what is written in the file stays. So
a series that somebody runs by hand, one of another session, and one that a dead session left behind
can be distinguished.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from offbragg.files.lock import lock

log = logging.getLogger(__name__)

CLOCKS = 60.0  # s that the clocks of IOC and host may differ


@dataclass(frozen=True, slots=True)
class Holder:
    """Who claimed a detector, as the file says."""

    host: str
    process: int
    since: float
    """POSIX s by that host's clock."""
    alive: bool
    """Whether the process still holds the lock, or that is unknown."""

    def left_behind(self, began: float) -> bool:
        """Return whether it is dead and began the series of a time (POSIX s, IOC's clock)."""
        return not self.alive and abs(began - self.since) < CLOCKS

    def __str__(self) -> str:
        """Name the process."""
        return f"process {self.process} on {self.host}"


class DetectorClaim:
    """The claim of this process on one detector.

    Parameters
    ----------
    folder
        Of the frames, as this host sees it.
    prefix
        Of the detector's records: what is claimed.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self.path = folder / f".{re.sub(r'[^A-Za-z0-9_-]+', '-', prefix).strip('-')}.claim"
        self._file: int | None = None
        self._warned = False

    def take(self) -> None:
        """Claim the detector; without the rights to do so, nothing is written."""
        self.release()
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
        except OSError as error:
            if not self._warned:
                self._warned = True
                log.warning("%s cannot be written: %s", self.path, error.strerror)
            return
        self._file = file
        with contextlib.suppress(OSError):  # for colleagues of the group, whatever the umask
            os.fchmod(file, 0o664)
        with contextlib.suppress(OSError):  # held by another: the IOC serves whom it wants to
            lock(file)
            os.ftruncate(file, 0)
            facts = {"host": socket.gethostname(), "process": os.getpid(), "since": time.time()}
            os.pwrite(file, json.dumps(facts).encode(), 0)

    def release(self) -> None:
        """Release the claim; the file becomes empty."""
        file, self._file = self._file, None
        if file is None:
            return
        with contextlib.suppress(OSError):
            lock(file)
            os.ftruncate(file, 0)
        os.close(file)

    def holder(self) -> Holder | None:
        """Return who claimed the detector last and did not release it; None if no one did."""
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            facts = json.loads(os.read(file, 4096) or b"null")
            if facts is None:
                return None
            alive = False
            try:
                lock(file, shared=True)
            except OSError:
                alive = True
            return Holder(str(facts["host"]), int(facts["process"]), float(facts["since"]), alive)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        finally:
            os.close(file)
