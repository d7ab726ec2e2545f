"""One writer for each scan file, and a note beside it of whose it is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

from offbragg.errors import OffbraggError, ScanFileError
from offbragg.files.digest import read_digest
from offbragg.files.durable import sync
from offbragg.files.lock import is_path_locked, lock
from offbragg.files.superblock import read_superblock


def is_being_written(path: Path) -> bool:
    """Return whether some process has a scan file open for writing."""
    return is_path_locked(beside(path, "writer"))


@contextlib.contextmanager
def hold(path: Path) -> Generator[None]:
    """Keep every writer away from a scan file, while it is replaced.

    Raises
    ------
    ScanFileError
        If another process writes it.
    """
    note = beside(path, "writer")
    left = note.exists()  # by a writer that was killed: it says whose the file is
    held = take_lock(path, None)
    try:
        yield
        left = False
    finally:
        if not left:
            note.unlink(missing_ok=True)
        os.close(held)


def owner(path: Path) -> str:
    """Return the run of a file that cannot be opened, from what is beside it; empty if unknown."""
    if uid := noted_uid(path):
        return uid
    with contextlib.suppress(OSError, OffbraggError):
        if (digest := read_digest(path)) is not None:  # it was damaged when it was finished
            return digest.run
    return ""


def noted_uid(path: Path) -> str:
    """Return the uid of the run that a writer noted beside its file; empty without a note."""
    try:
        return beside(path, "writer").read_text()
    except (OSError, ValueError):
        return ""


def is_opening(path: Path) -> bool:
    """Return whether a writer has the file open and has not begun SWMR."""
    try:
        return read_superblock(path).opening
    except (OffbraggError, OSError):
        return False


def beside(path: Path, what: str) -> Path:
    """Return the path of a hidden file beside a scan file."""
    return path.with_name(f".{path.name}.{what}")


def take_lock(path: Path, uid: str | None) -> int:
    """Lock a file for its only writer; HDF5 gives up its own lock when SWMR begins."""
    note = beside(path, "writer")
    while True:
        held = os.open(note, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            lock(held)
        except OSError:
            os.close(held)
            raise ScanFileError(f"{path} is being written by another process") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(held), note.stat()):
                break
        os.close(held)  # its last owner removed it just now
    if uid is not None:
        os.write(held, uid.encode())
        os.fsync(held)  # a file that cannot be read is known by this note, power cut or not
        sync(note.parent)
    return held
