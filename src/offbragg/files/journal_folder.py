"""The journals of a directory: listed, looked at again and again, and found by what people say."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from offbragg.errors import JournalError
from offbragg.files.journal_archive import archived_journals
from offbragg.files.journal_file import read_start

log = logging.getLogger(__name__)

_SUFFIX = ".jsonl"
_SURE = 1.0  # s after which a directory is listed again even if its time is the same


def journals(directory: Path) -> list[Path]:
    """Return the journals of a directory that are files of their own, in no particular order.

    Those are the ones that may still grow: journals in an archive belong to runs that have ended.

    Raises
    ------
    JournalError
        If it cannot be looked at. (``Path.glob`` would find nothing then, and say nothing.)
    """
    return [directory / name for name in journal_names(directory)]


def all_journals(directory: Path) -> list[Path]:
    """Return the journals of a directory with those in its archives, under the paths they had.

    Raises
    ------
    JournalError
        If it cannot be looked at. An archive that cannot be read is logged and skipped.
    """
    return list(dict.fromkeys([*journals(directory), *archived_journals(directory)]))


def journal_names(directory: Path) -> list[str]:
    """Return the names of the journals of a directory (``<uid>.jsonl``); none if there is none.

    Raises
    ------
    JournalError
        If it cannot be looked at.
    """
    try:
        with os.scandir(directory) as entries:
            # the kind of an entry comes with its name: no file is looked at
            return [e.name for e in entries if e.name.endswith(_SUFFIX) and e.is_file()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JournalError(
            f"the journal directory cannot be looked at: {error.strerror}\n{directory}"
        ) from error


class JournalFolder:
    """A journal directory that is looked at many times a second, whatever number of runs it has.

    Parameters
    ----------
    directory
        The journal directory.
    clock
        Seconds.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._names: set[str] = set()
        self._changed: int | None = None
        self._listed = -_SURE

    def look(self) -> tuple[list[Path], list[Path]]:
        """Return the journals that are new since the last look, and those that are gone.

        The names are read only if the directory has changed, or a second has passed: two changes
        within one tick of the file system's clock look the same.

        Raises
        ------
        JournalError
            If it cannot be looked at.
        """
        try:
            changed = self._directory.stat().st_mtime_ns
        except OSError:
            changed = None
        now = self._clock()
        if changed is not None and changed == self._changed and now - self._listed < _SURE:
            return [], []
        names = set(journal_names(self._directory))
        self._changed, self._listed = changed, now
        new, gone = names - self._names, self._names - names
        self._names = names
        return [self._directory / name for name in new], [self._directory / name for name in gone]


def readable_starts(paths: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Return journals with their start documents; one that has none is logged and passed by."""
    for path in paths:
        try:
            yield path, read_start(path)
        except JournalError as error:
            log.warning("%s", str(error).partition("\n")[0])


def find_run(directory: Path, which: str = "-1") -> Path:
    """Find the journal of a run by what people call it, also in an archive.

    Parameters
    ----------
    directory
        The journal directory.
    which
        The beginning of its uid; its scan number ("42" or "#42"; the newest run that has it); or,
        counted from the newest, "-1", "-2" …

    Raises
    ------
    JournalError
        If there is none, or more than one whose uid begins so.
    """
    paths = all_journals(directory)
    if re.fullmatch(r"-[1-9]\d{0,5}|#?\d{1,7}", which):
        starts = dict(readable_starts(paths))
        ordered = sorted(starts, key=lambda path: starts[path].get("time", 0.0))
        if which.startswith("-"):
            if int(which) >= -len(ordered):
                return ordered[int(which)]
            raise JournalError(
                f"run {which} does not exist: runs in {directory}: {len(ordered)}\n"
                "-1 is the newest one."
            )
        number = int(which.removeprefix("#"))
        numbered = [path for path in ordered if starts[path].get("scan_id") == number]
        if numbered:
            return numbered[-1]
    found = [path for path in paths if path.stem.startswith(which)]
    if len(found) == 1 and which:
        return found[0]
    what = f"{len(found)} runs have" if found else "no run has"
    raise JournalError(
        f"{what} a uid that begins with {which!r}, or that scan number\n"
        f"Looked in {directory}. A run is named by its uid or the beginning of it, by its scan "
        "number (#42), or counted from the newest (-1)."
    )
