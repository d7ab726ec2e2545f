"""Open a scan file for its only writer, also after another writer was killed."""

from __future__ import annotations

import contextlib
import os
import time as clock
from pathlib import Path

import h5py  # pyright: ignore[reportMissingTypeStubs]

from offbragg.errors import OffbraggError, ScanFileError
from offbragg.files import scan_layout
from offbragg.files.digest import remove_digest
from offbragg.files.hdf5 import LIBVER, find_inside
from offbragg.files.scan_file import ScanFile
from offbragg.files.stored_sweep import is_index_torn, torn_error
from offbragg.files.superblock import read_superblock, release
from offbragg.files.writer_lock import beside, is_opening, noted_uid, take_lock

_PATIENCE = 2.0  # s, for others who are just reading


def open_to_write(path: Path, uid: str | None = None) -> tuple[h5py.File, int]:
    """Lock a scan file and open it for writing under SWMR.

    Parameters
    ----------
    path
        The file.
    uid
        Of the run, to be noted beside the file. None: as it is noted there, else as in the file.

    Returns
    -------
    file, lock
        The open file, and the descriptor that holds the lock until it is closed.

    Raises
    ------
    ScanFileError
        If another process writes it, or its frame index is corrupt.
    OSError
        If it cannot be opened.
    """
    if uid is None and not noted_uid(path):
        uid = _uid_inside(path)
    with contextlib.ExitStack() as undo:
        lock = take_lock(path, uid)
        undo.callback(os.close, lock)
        remove_digest(path)
        if _is_interrupted(path):
            release(path, keep=beside(path, "superblock"))
        file = _open(path)
        undo.callback(file.close)
        # HDF5 would wait for ever from now on
        if is_index_torn(lambda: find_inside(file, scan_layout.DATA), path):
            raise torn_error(path)
        file.swmr_mode = True
        undo.pop_all()
    return file, lock


def _uid_inside(path: Path) -> str | None:
    """Return the uid of the run that a file holds; None if it cannot be read."""
    if is_opening(path):
        return None
    try:
        with ScanFile.open(path) as scan:
            return scan.run
    except (OffbraggError, OSError):
        return None


def _open(path: Path) -> h5py.File:
    deadline = clock.monotonic() + _PATIENCE
    while True:
        try:
            return h5py.File(path, "r+", libver=LIBVER, locking=False, rdcc_nbytes=0)
        except OSError as error:
            # HDF5 cannot write what another thread of this process is just reading
            if "already open for read-only" not in str(error) or clock.monotonic() > deadline:
                raise
            clock.sleep(0.01)


def _is_interrupted(path: Path) -> bool:
    try:
        block = read_superblock(path)
    except ScanFileError:
        return True
    return block.writing or path.stat().st_size < block.end
