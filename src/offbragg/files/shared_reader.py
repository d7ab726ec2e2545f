"""HDF5 files that this process reads, each opened once for all who read it."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py  # pyright: ignore[reportMissingTypeStubs]


@dataclass(slots=True, eq=False)
class SharedReader:
    """A file that this process reads, once for all who read it."""

    file: h5py.File
    key: tuple[int, ...]
    seen: tuple[int, int]
    """What it looked like when the first of them opened it."""
    kept: dict[str, Any] = field(default_factory=dict[str, Any])
    users: int = 0
    grows: bool = False


_readers: dict[tuple[int, ...], SharedReader] = {}


READERS_LOCK = threading.Lock()


ONE_HANDLE = threading.RLock()
"""Held by whoever opens a dataset of a file that may be a growing scan file, but for `ScanFile`,
for as long as it is open: no reader refreshes its own meanwhile (see `ScanFile._grows`)."""


def share(file: h5py.File) -> SharedReader:
    """Return the reader that this process has of a file; close the one just opened, if another."""
    handle: Any = file.id  # h5py's compiled part has no types
    status = os.fstat(handle.get_vfd_handle())
    # a child of a fork opens its own
    key = (os.getpid(), status.st_dev, status.st_ino)
    with READERS_LOCK:
        reader = _readers.get(key)
        if reader is None:
            reader = _readers[key] = SharedReader(file, key, (status.st_mtime_ns, status.st_size))
        reader.users += 1
    if reader.file is not file:
        file.close()
    return reader


def let_go(reader: SharedReader) -> None:
    """Close the file when its last reader in this process lets go of it."""
    with READERS_LOCK:
        reader.users -= 1
        if reader.users:
            return
        _readers.pop(reader.key, None)
        reader.kept.clear()
        reader.file.close()


def stamp_of(path: Path) -> tuple[int, int]:
    """Return what changes with a file: when it was written last, ns, and its size, bytes."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size
