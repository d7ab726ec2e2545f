"""Locks on open files, which end with the process that holds them.

They are those of ``flock``. Windows has none of this kind: there every lock is granted, and two
programs at a time must not write the same file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def lock(file: int | IO[Any], *, shared: bool = False, wait: bool = False) -> None:
    """Lock an open file, until it is closed.

    Parameters
    ----------
    file
        Its descriptor, or the file object.
    shared
        Others may hold it, too, if they share it.
    wait
        Wait for it.

    Raises
    ------
    BlockingIOError
        If another holds it and it is not waited for.
    OSError
        If there are no locks on this disk.
    """
    if fcntl is not None:
        how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(file, how if wait else how | fcntl.LOCK_NB)


def is_locked(file: int | IO[Any]) -> bool:
    """Return whether another process holds an open file for itself; afterwards it is shared.

    Raises
    ------
    OSError
        If there are no locks on this disk.
    """
    try:
        lock(file, shared=True)
    except BlockingIOError:
        return True
    return False


def is_path_locked(path: Path) -> bool:
    """Return whether a process holds a file for itself; if there is none, no process does."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return is_locked(descriptor)
    except OSError:
        return True  # on a disk without locks, for safety
    finally:
        os.close(descriptor)
