"""A small file of what a process says of itself, which counts only while that process lives.

The writer holds a lock on it. Readers ask for the lock: if they get it, nobody stands behind what
the file says, however it ended.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from offbragg.files.journal_file import is_open
from offbragg.files.lock import lock

log = logging.getLogger(__name__)


class HeldFile:
    """The file of one writer: JSON on one line, under a lock.

    Parameters
    ----------
    path
        Where it is; it is created with the first content.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def hold(self) -> bool:
        """Open and lock the file; return whether it is ours, and not another process's.

        Raises
        ------
        OSError
            If it cannot be opened.
        """
        if self._file is not None:
            try:
                if os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
                    return True
            except FileNotFoundError:
                if not self._path.parent.is_dir():
                    return True  # its directory may come back
            self.close()  # another directory has come in its place
        made = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        file = os.fdopen(made, "r+b", buffering=0)
        try:
            lock(file)
        except OSError:
            file.close()
            return False
        self._file = file
        return True

    def write(self, content: Mapping[str, Any]) -> None:
        """Replace the content, if the file is ours; it must not fail or wait for anybody."""
        try:
            if self.hold() and self._file is not None:
                line = json.dumps(content).encode() + b"\n"
                os.pwrite(self._file.fileno(), line, 0)
                self._file.truncate(len(line))
        except OSError as error:
            log.debug("%s cannot be written: %s", self._path, error)

    def close(self) -> None:
        """Release the file: what it says is no longer true."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def read_held(path: Path) -> dict[str, Any]:
    """Read what the process that holds a file says; empty if no process holds it, or none yet."""
    for _ in range(5):
        try:
            if not is_open(path):  # as of a journal: its writer holds a lock
                return {}
            content = json.loads(path.read_bytes().partition(b"\n")[0])
            return content if isinstance(content, dict) else {}
        except OSError:
            return {}
        except ValueError:  # it was read while it was written
            time.sleep(0.005)
    return {}
