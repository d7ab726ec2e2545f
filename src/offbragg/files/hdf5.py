"""HDF5 told not to wait for ever, and a file read in which a kill tore a write.

Linux ends a write between two pages when it kills a process. What HDF5 wrote there keeps the
checksum of before. A reader of a growing file takes that for a write that is still under way, and
HDF5 reads it a hundred times, waiting twice as long after each: for ever.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
from h5py import h5p  # pyright: ignore[reportAttributeAccessIssue]

from offbragg.errors import ScanFileError
from offbragg.files.superblock import lookup3, released_superblock

LIBVER = ("v110", "v110")
"""Newer layouts cannot be read by programs with HDF5 1.10."""

# how often a reader of a growing file reads what does not agree with its checksum: 0.5 s in all,
# longer than a busy disk keeps a writer between two pages
_ATTEMPTS = 29
_MOST_MENDS = 1000  # each may have been torn by another kill


def open_to_read(
    path: Path, *, swmr: bool = True, libver: Any = LIBVER, locking: bool | None = False
) -> h5py.File:
    """Open a file for reading that may grow; what a kill tore is an error after 0.5 s.

    HDF5 has it so for everybody in this process who opens the file while it is open, and has it
    as the first one had it who opened it: nobody should have done so in another way.

    Raises
    ------
    OSError, RuntimeError
        As h5py does.
    """
    driver = _PATIENCE if swmr else None  # who reads what does not grow reads it once
    return h5py.File(path, "r", libver=libver, swmr=swmr, locking=locking, driver=driver)


def _with_patience(access: Any) -> None:
    access.set_fapl_sec2()
    # h5py has no name for it; its modules lead to the very library that it uses
    with contextlib.suppress(AttributeError):
        set_attempts = ctypes.CDLL(h5p.__file__).H5Pset_metadata_read_attempts
        if set_attempts(ctypes.c_int64(access.id), ctypes.c_uint(_ATTEMPTS)) < 0:
            raise ScanFileError("HDF5 does not take a number of attempts to read")


_PATIENCE = "offbragg-patience"
h5py.register_driver(_PATIENCE, _with_patience)


def read_torn(path: Path, use: Callable[[h5py.File], Any]) -> h5py.File:
    """Open a file that its writer left, believing what a kill tore.

    Nothing of the file is changed. What was written before the torn write is in both halves, so
    it is right; whatever else is taken from it must have a checksum of its own.

    Parameters
    ----------
    path
        The file; nobody writes it.
    use
        Reads what may be torn.

    Returns
    -------
    file
        Open for reading.

    Raises
    ------
    ScanFileError
        If it cannot be read all the same.
    """
    view = _Torn(path)
    for _ in range(_MOST_MENDS):
        file = None
        try:
            file = h5py.File(view, "r")
            use(file)
            return file
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            if file is not None:
                file.close()
            if not view.believe_last():
                raise ScanFileError(
                    f"{path} is damaged: {error}\n"
                    "offbragg stack --once --repair makes it anew from the frame files."
                ) from error
    raise ScanFileError(f"{path} is damaged in more than {_MOST_MENDS} places")


class _Torn(io.FileIO):
    """A file as it would be had its writer closed it: no mark, and checksums that agree."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "r")
        self._instead: dict[int, bytes] = {0: released_superblock(path)}
        self._last = (0, b"")

    def readinto(self, buffer: Any, /) -> int:
        start = self.tell()
        count = super().readinto(buffer) or 0
        read = memoryview(buffer).cast("B")[:count]
        for at, right in self._instead.items():
            first, stop = max(at, start), min(at + len(right), start + count)
            if first < stop:
                read[first - start : stop - start] = right[first - at : stop - at]
        self._last = start, bytes(read)
        return count

    def believe_last(self) -> bool:
        """Believe what was read last, if it has a checksum and does not agree with it."""
        start, raw = self._last
        if len(raw) <= 4:
            return False
        right = struct.pack("<I", lookup3(raw[:-4]))
        if right == raw[-4:] or start + len(raw) - 4 in self._instead:
            return False
        self._instead[start + len(raw) - 4] = right
        return True
