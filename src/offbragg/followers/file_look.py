"""One frame file as it was when it was last looked at, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from errno import EINVAL
from pathlib import Path
from stat import S_ISREG

from offbragg.errors import FrameError, IncompleteFrame
from offbragg.ledger import FrameStatus

Signature = tuple[int, int]
"""Size of a file in bytes and time of its last change in ns."""

Problem = tuple[FrameStatus, str]
"""What a frame would be listed as, and why."""


@dataclass(slots=True)
class FileLook:
    """A file as it was when it was last looked at, and what is wrong with it."""

    signature: Signature
    since: float
    """When it was first seen with this signature, monotonic s."""
    problem: Problem | None = None
    unverified: bool = False
    """Whether it was good when it was read, but has no checksum and may still have changed."""
    steady: bool = False
    """Whether it had stopped changing when it was last read."""
    kept: bool = False
    """Whether it is in the quarantine."""


def signature_of(path: Path) -> Signature:
    """Return size and time of the last change of a frame file.

    Raises
    ------
    OSError
        If there is no such file, or it is a pipe or a device.
    """
    status = path.stat()
    if not S_ISREG(status.st_mode):  # a pipe would keep who reads it waiting for ever
        raise OSError(EINVAL, "it is not a file")
    return status.st_size, status.st_mtime_ns


def describe_unreadable(error: OSError, path: Path) -> Problem:
    """Return what a frame is listed as whose file could not be read."""
    if isinstance(error, FileNotFoundError):
        return FrameStatus.MISSING, f"{path.name} was not there"
    return FrameStatus.MISSING, f"{path.name} could not be read ({error.strerror})"


def describe_bad(error: FrameError, path: Path) -> Problem:
    """Return what a frame is listed as whose file is not good."""
    if isinstance(error, IncompleteFrame):
        return FrameStatus.MISSING, f"{path.name} was not complete ({first_line(error)})"
    return FrameStatus.REJECTED, first_line(error)


def first_line(error: Exception | str) -> str:
    """Return the first line of a message, which alone is enough for a log."""
    return str(error).partition("\n")[0]
