"""Journals of ended runs packed into one ZIP file per month, read as if they were still files.

``<journal>/archive/2026-11.zip`` has the journals of the runs that began in that month (UTC), each
under the name that its file had, byte for byte. The path of a journal stays its name: who reads
``<journal>/<uid>.jsonl`` gets it from the archive once the file is gone. While a journal is in
both places, as after a kill, the file counts.

An archive is never edited: a new one is made beside it under a hidden name, compared with the
journals, and put in place in one step. Only then are the journals removed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import zipfile
import zlib
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from offbragg.errors import JournalError
from offbragg.files.durable import sync
from offbragg.files.lock import lock

log = logging.getLogger(__name__)

ARCHIVE = "archive"
"""Folder of the archives, in the journal directory."""

_SUFFIX = ".zip"
_EARLIEST = datetime(1980, 1, 2, tzinfo=UTC).timestamp()  # that a ZIP file can name anywhere
_LATEST = datetime(2107, 12, 30, tzinfo=UTC).timestamp()
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)

_Signature = tuple[int, int, int]


class _Archive:
    """One archive as it was when it was opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            status = path.stat()
            self.signature: _Signature = (status.st_ino, status.st_size, status.st_mtime_ns)
            self._zip = zipfile.ZipFile(path)
        except OSError as error:
            raise JournalError(
                f"the archive {path.name} cannot be read: {error.strerror}\n{path}"
            ) from error
        except _DAMAGED as error:
            raise self._damaged(str(error)) from error
        self.names = frozenset(self._zip.namelist())

    def _damaged(self, why: str) -> JournalError:
        return JournalError(
            f"the archive {self.path.name} is damaged: {why}\n{self.path}\n"
            "Restore it from a backup. Runs that are not in it are not affected."
        )

    @contextlib.contextmanager
    def open(self, name: str) -> Generator[IO[bytes]]:
        """Open a journal; what is damaged is noticed while it is read."""
        try:
            with self._zip.open(name) as journal:
                yield journal
        except _DAMAGED as error:
            raise self._damaged(f"{name}: {error}") from error
        except OSError as error:
            raise JournalError(
                f"the archive {self.path.name} cannot be read: {error.strerror}\n{self.path}"
            ) from error


_opened: dict[Path, _Archive] = {}
_unreadable: dict[Path, tuple[_Signature | None, JournalError]] = {}
_lock = threading.Lock()


def _archives(directory: Path) -> tuple[list[_Archive], list[JournalError]]:
    """Return the archives of a journal directory, and why others cannot be read.

    One that has not changed is not read again, and what is wrong with it is logged once.
    """
    folder = directory / ARCHIVE
    archives: list[_Archive] = []
    errors: list[JournalError] = []
    try:
        with os.scandir(folder) as entries:
            found = {
                folder / entry.name: entry.stat()
                for entry in entries
                if entry.name.endswith(_SUFFIX) and not entry.name.startswith(".")
            }
    except FileNotFoundError:
        return [], []
    except OSError as error:
        errors.append(
            _log_once(
                folder,
                None,
                JournalError(
                    f"the archives of journals cannot be looked at: {error.strerror}\n{folder}"
                ),
            )
        )
        return [], errors
    with _lock:
        for path, status in sorted(found.items()):
            signature = (status.st_ino, status.st_size, status.st_mtime_ns)
            known = _opened.get(path)
            if known is None or known.signature != signature:
                before = _unreadable.get(path)
                if before is not None and before[0] == signature:
                    errors.append(before[1])
                    continue
                try:
                    known = _opened[path] = _Archive(path)
                except JournalError as error:
                    # what could not be opened at all is tried again, as a disk may come back
                    kept = None if isinstance(error.__cause__, OSError) else signature
                    errors.append(_log_once(path, kept, error))
                    continue
                _unreadable.pop(path, None)
            archives.append(known)
    return archives, errors


def _log_once(path: Path, signature: _Signature | None, error: JournalError) -> JournalError:
    before = _unreadable.get(path)
    if before is None or before[0] != signature or str(before[1]) != str(error):
        log.error("%s", error)
    _unreadable[path] = signature, error
    return error


def _find(path: Path) -> _Archive | None:
    archives, errors = _archives(path.parent)
    found = next((each for each in archives if path.name in each.names), None)
    if found is None and errors:
        raise JournalError(
            f"cannot tell whether the journal {path.name} is archived: {errors[0]}"
        ) from errors[0].__cause__
    return found


def is_archived(path: Path) -> bool:
    """Return whether an archive has the journal of this path.

    Raises
    ------
    JournalError
        If no archive that can be read has it, and there is one that cannot be read.
    """
    return _find(path) is not None


def find_archive(path: Path) -> Path | None:
    """Return the archive that has the journal of this path; None if none has it.

    Raises
    ------
    JournalError
        If no archive that can be read has it, and there is one that cannot be read.
    """
    archive = _find(path)
    return None if archive is None else archive.path


def archived_journals(directory: Path) -> list[Path]:
    """Return the paths that the journals in the archives of a directory had.

    An archive that cannot be read is logged and skipped.
    """
    names = sorted({name for archive in _archives(directory)[0] for name in archive.names})
    return [directory / name for name in names]


@contextlib.contextmanager
def open_archived(path: Path) -> Generator[IO[bytes] | None]:
    """Open the journal that had this path; None if no archive has it.

    Raises
    ------
    JournalError
        If the journal in an archive is damaged; or no archive that can be read has it, and there is
        one that cannot be read.
    """
    archive = _find(path)
    if archive is None:
        yield None
        return
    with archive.open(path.name) as journal:
        yield journal


def month_of(began: float) -> str:
    """Return the month in whose archive a run belongs.

    Examples
    --------
    >>> month_of(1.7e9)
    '2023-11'
    """
    return f"{datetime.fromtimestamp(began, UTC):%Y-%m}"


@contextlib.contextmanager
def archiving(directory: Path) -> Generator[None]:
    """Hold the lock of the archives: one process at a time makes them.

    Raises
    ------
    JournalError
        If another process does, or they cannot be written.
    """
    folder = directory / ARCHIVE
    try:
        folder.mkdir(exist_ok=True)
        held = (folder / ".lock").open("w")
    except OSError as error:
        raise JournalError(
            f"the archives of journals cannot be written: {error.strerror}\n{folder}"
        ) from error
    with held:
        try:
            lock(held)
        except BlockingIOError as error:
            raise JournalError(
                f"another offbragg archive or rebuild uses these archives already\n{folder}\n"
                "Wait until it has ended."
            ) from error
        yield


def pack(
    directory: Path, month: str, contents: Mapping[Path, bytes]
) -> tuple[Path, frozenset[Path]]:
    """Put journals into the archive of a month, and remove their files.

    A kill at any moment loses nothing: until the archive is in place the files are there. The
    caller holds `archiving`.

    Parameters
    ----------
    directory
        The journal directory.
    month
        As `month_of` returns it.
    contents
        What each journal holds. One that has changed since is left where it is.

    Returns
    -------
    archive, others
        The archive, and those journals of whose runs it has another one: they are left, too.

    Raises
    ------
    JournalError
        If the archive cannot be written.
    """
    archive = directory / ARCHIVE / f"{month}{_SUFFIX}"
    hidden = archive.with_name(f".{archive.name}.new")
    there = _Archive(archive) if archive.exists() else None
    new = {
        path: text for path, text in contents.items() if not there or path.name not in there.names
    }
    others: set[Path] = set()
    for path in contents.keys() - new.keys():
        assert there is not None
        with there.open(path.name) as journal:
            if journal.read() != contents[path]:
                others.add(path)
    try:
        if new:
            _make(hidden, archive if there else None, new)
            hidden.replace(archive)
            sync(archive.parent)
            sync(directory)  # it may have been made just now
        for path, text in contents.items():
            if path not in others and path.read_bytes() == text:
                path.unlink()
        sync(directory)
    except OSError as error:
        raise JournalError(
            f"the archive {archive.name} cannot be written: {error.strerror}\n{archive}\n"
            "The journals that were not packed are still there."
        ) from error
    finally:
        hidden.unlink(missing_ok=True)
    return archive, frozenset(others)


def _make(hidden: Path, before: Path | None, new: Mapping[Path, bytes]) -> None:
    """Write what an archive has and what is new under a hidden name, and compare it."""
    hidden.unlink(missing_ok=True)
    if before is not None:
        shutil.copyfile(before, hidden)
    with zipfile.ZipFile(hidden, "a", zipfile.ZIP_DEFLATED) as made:
        for path, text in new.items():
            written_at = min(max(path.stat().st_mtime, _EARLIEST), _LATEST)
            when = datetime.fromtimestamp(written_at).timetuple()
            entry = zipfile.ZipInfo(path.name, when[:6])
            entry.compress_type = zipfile.ZIP_DEFLATED
            made.writestr(entry, text)
    sync(hidden)
    if before is not None:
        _check_copy(hidden, before)
    written = _Archive(hidden)
    for path, text in new.items():
        with written.open(path.name) as journal:
            if journal.read() != text:
                raise OSError(5, "it does not read back as it was written")


def _check_copy(hidden: Path, before: Path) -> None:
    """Raise if a journal in a copy of an archive is damaged: the copy is to replace it."""
    try:
        with zipfile.ZipFile(hidden) as made:
            bad = made.testzip()
    except _DAMAGED as error:
        bad = str(error)
    if bad is not None:
        raise JournalError(
            f"the archive {before.name} is damaged, or was not copied right: {bad}\n{before}\n"
            "It is left as it is, and so are the journals that were to be added. If it is damaged "
            "(unzip -t), restore it from a backup."
        )
