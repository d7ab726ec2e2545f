"""What is written reaches the disk: files, and the names of directories."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
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
