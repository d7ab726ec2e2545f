"""What is written reaches the disk: files, and the names of directories."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

# HDF5's own flush survives a killed process, not a power cut.
_SYNC_EVERY = 10.0  # s between fsyncs
_SYNC_FRAMES = 1000  # frames between fsyncs, at most
_BEGIN_FRAMES = 32  # frames after which the disk begins to write, so that a sync waits less


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no directory
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def begin_to_sync(path: Path) -> None:
    """Have the system begin to put a file on the disk, without waiting, where it knows how to.

    A later `sync` has less to wait for. Nothing is promised, so nothing is checked.
    """
    if _sync_file_range is None:
        return
    with contextlib.suppress(OSError), path.open("rb", buffering=0) as file:
        _sync_file_range(file.fileno(), 0, 0, _SYNC_FILE_RANGE_WRITE)


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    function = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux only
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function


_SYNC_FILE_RANGE_WRITE = 2


_sync_file_range = _find_sync_file_range() if sys.platform == "linux" else None


def make_directory(path: Path) -> None:
    """Make a directory and those above it that are missing, all of them also on the disk."""
    missing = [place for place in (path, *path.parents) if not place.is_dir()]
    for place in reversed(missing):
        place.mkdir(exist_ok=True)
        sync(place.parent)


class PeriodicSync:
    """When a growing file is synced to the disk: after a time, or a number of frames.

    Parameters
    ----------
    path
        The file; what another process left in it is not taken for synced.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unsynced = 1  # frames; what another writer left
        self._begun = 0  # of them, those that the disk was asked to write
        self._synced = time.monotonic()

    def wrote(self, frames: int) -> None:
        """Note that a number of frames was written."""
        self._unsynced += frames

    @property
    def is_due(self) -> bool:
        """Whether there is something to sync, and it is time to."""
        late = time.monotonic() - self._synced > _SYNC_EVERY
        return self._unsynced > 0 and (late or self._unsynced >= _SYNC_FRAMES)

    def sync(self) -> None:
        """Wait until the file is on the disk."""
        sync(self._path)
        self._synced, self._unsynced, self._begun = time.monotonic(), 0, 0

    def begin(self) -> None:
        """Have the disk begin to write, if enough frames wait for it."""
        if self._unsynced // _BEGIN_FRAMES > self._begun // _BEGIN_FRAMES:
            begin_to_sync(self._path)
        self._begun = self._unsynced
