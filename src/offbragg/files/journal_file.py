"""Journals as files, or in an archive: read, checked, and written to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from offbragg.errors import JournalError
from offbragg.files.journal_archive import is_archived, open_archived
from offbragg.files.journal_line import (
    LineError,
    complete_line,
    decode_line,
    encode_line,
    is_checked,
    is_whole,
)
from offbragg.files.lock import is_locked

Document = Mapping[str, Any]


# Written and synced, so that what these documents promise survives a power cut.
SYNCED = frozenset({"start", "stop"})


_LISTED = 3  # damaged lines that a message lists


REFERS_TO = {
    "event": ("descriptor",),
    "event_page": ("descriptor",),
    "stream_datum": ("descriptor", "stream_resource"),
    "datum": ("resource",),
    "datum_page": ("resource",),
}


class JournalReader:
    """Read a journal as it grows, document by document, up to its stop document.

    Parameters
    ----------
    path
        A journal.
    position
        Where to begin, bytes; 0 or the end of a line.
    """

    def __init__(self, path: Path, position: int = 0) -> None:
        self.path = path
        self.ended = False
        """Whether the stop document was read."""
        self.position = position
        """Where to go on, bytes."""
        self._lines = _Lines(path.stem, from_start=position == 0)

    def read(self) -> list[tuple[str, dict[str, Any]]]:
        """Read what is new.

        A last line without its end is left for the next call: its writer is still writing, or
        died.

        Raises
        ------
        JournalError
            At a line that is damaged; from an `OSError` if the journal cannot be read, perhaps
            only just now.
        """
        if self.ended:
            return []
        text = _read_from(self.path, self.position)
        complete = text[: text.rfind(b"\n") + 1]
        documents: list[tuple[str, dict[str, Any]]] = []
        for line in complete.split(b"\n")[:-1]:
            try:
                documents.append(self._lines.take(line))
            except LineError as error:
                raise damaged_error(self.path, [(self._lines.number, str(error), line)]) from error
            if documents[-1][0] == "stop":
                self.ended = True
                break
        self.position += len(complete)
        return documents


def read_journal(path: Path, position: int = 0) -> tuple[list[tuple[str, dict[str, Any]]], int]:
    """Read the complete lines of a journal from a byte position on, up to the stop document.

    Parameters
    ----------
    path
        A journal.
    position
        Where to begin, bytes; what an earlier call returned.

    Returns
    -------
    documents, position
        The ``(name, document)`` pairs, and where to go on. A last line without its end is
        left for the next call: its writer is still writing, or died.

    Raises
    ------
    JournalError
        As `JournalReader.read`; also if it has no document at all.
    """
    reader = JournalReader(path, position)
    documents = reader.read()
    if not documents and not position:
        raise JournalError(f"journal {path.name} has no document\n{path}\n{WAY_ON}")
    return documents, reader.position


def read_ended(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the ``(name, document)`` pairs of a run that has ended.

    Raises
    ------
    JournalError
        As `read_journal`; also if the run has no stop document.
    """
    documents, _ = read_journal(path)
    if documents[-1][0] != "stop":
        raise JournalError(
            f"run {documents[0][1]['uid']} has not ended: it has no stop document\n"
            "Wait for its end; if its RunEngine died, run: offbragg stack --once"
        )
    return documents


@dataclass(slots=True)
class Contents:
    """What is in a journal, damaged or not."""

    documents: list[tuple[str, dict[str, Any]]] = field(
        default_factory=list[tuple[str, dict[str, Any]]]
    )
    """Up to the first stop document; the damaged ones are left out."""
    good: list[bytes] = field(default_factory=list[bytes])
    """Their lines."""
    bad: list[tuple[int, str, bytes]] = field(default_factory=list[tuple[int, str, bytes]])
    """Damaged lines: number (from 1), what is wrong, text."""
    unchecked: int = 0
    """Good lines without a checksum."""
    after: int = 0
    """Lines after the stop document."""
    last: bytes = b""
    """What follows the last end of a line: a writer was killed, or the end itself is damaged."""
    completed: bytes = b""
    """That line with its end, if only the end was missing; it is among the good ones."""

    @property
    def stop(self) -> dict[str, Any] | None:
        """The stop document."""
        if self.documents and self.documents[-1][0] == "stop":
            return self.documents[-1][1]
        return None


def examine_journal(path: Path, *, uid: str = "") -> Contents:
    """Read all of a journal, also where it is damaged.

    Parameters
    ----------
    path
        A journal.
    uid
        Of its run; what the file is named after if not given.

    Raises
    ------
    JournalError
        From an `OSError`, if it cannot be read.
    """
    text = _read_from(path, 0)
    *lines, last = text.split(b"\n")
    found, reader = Contents(), _Lines(uid or path.stem)
    found.last, found.completed = last, complete_line(last)
    if found.completed:
        lines.append(found.completed)
    elif is_whole(last):
        lines.append(last)  # its end is another byte now
    for line in lines:
        if found.stop is not None:
            found.after += 1
            continue
        try:
            found.documents.append(reader.take(line))
        except LineError as error:
            found.bad.append((reader.number, str(error), line))
            continue
        found.good.append(line)
        found.unchecked += not is_checked(line)
    return found


class _Lines:
    """The lines of a journal one after the other, each judged with those before it."""

    def __init__(self, uid: str, *, from_start: bool = True) -> None:
        self.number = 0
        self._uid = uid
        self._from_start = from_start
        self._started = False
        self._known: set[str] = set()

    def take(self, line: bytes) -> tuple[str, dict[str, Any]]:
        """Read the next line.

        Raises
        ------
        LineError
            If it cannot be used.
        """
        self.number += 1
        name, doc = decode_line(line)
        if not self._from_start:
            return name, doc
        if self.number == 1 and name != "start":
            raise LineError(f"it is a {name} document: a journal begins with its start document")
        if name == "start" and self._started:
            raise LineError("it is a second start document")
        if name == "start" and doc["uid"] != self._uid:
            raise LineError(f"it is of run {doc['uid'][:40]!r}: is this file a copy?")
        for key in REFERS_TO.get(name, ()):
            if doc[key] not in self._known:
                raise LineError(f"its {name} document is of a {key} that is not in the journal")
        self._started |= name == "start"
        if "uid" in doc and isinstance(doc["uid"], str):
            self._known.add(doc["uid"])
        return name, doc


def _read_from(path: Path, position: int) -> bytes:
    with open_journal(path) as journal:
        journal.seek(position)
        return journal.read()


WAY_ON = (
    "It is skipped and the other runs go on. offbragg stack --once --repair keeps the damaged "
    "journal and continues with its intact lines."
)


def damaged_error(path: Path, bad: list[tuple[int, str, bytes]]) -> JournalError:
    """Return what is raised for a journal with damaged lines."""
    what = "; ".join(f"line {number}: {why}" for number, why, _ in bad[:_LISTED])
    return JournalError(
        f"journal {path.name} has a line that is not a document: {what}\n"
        f"{path}: {bad[0][2][:80]!r}\n{WAY_ON}"
    )


def read_start(path: Path) -> dict[str, Any]:
    """Return the start document of a journal, without reading the rest.

    Raises
    ------
    JournalError
        If there is none; or if it cannot be read, perhaps only just now: from an `OSError` then.
    """
    with open_journal(path) as journal:
        line = journal.readline()
    try:
        return _Lines(path.stem).take(line.removesuffix(b"\n"))[1]
    except LineError as error:
        what = "it is empty" if not line else str(error)
        raise JournalError(
            f"journal {path.name} does not begin with a start document: {what}\n{path}\n{WAY_ON}"
        ) from error


def is_open(path: Path) -> bool:
    """Return whether the RunEngine that writes a journal is alive and in this run."""
    try:
        with path.open("rb") as journal:
            return is_locked(journal)
    except FileNotFoundError:
        if is_archived(path):
            return False
        raise


def has_journal(path: Path) -> bool:
    """Return whether there is a journal of this path, as a file or in an archive."""
    return path.exists() or is_archived(path)


@contextlib.contextmanager
def open_journal(path: Path) -> Generator[IO[bytes]]:
    """Open a journal to read it, from an archive if its file is not there any more.

    Raises
    ------
    JournalError
        If it cannot be read, perhaps only just now: from an `OSError` then.
    """
    try:
        with contextlib.ExitStack() as stack:
            try:
                journal: IO[bytes] = stack.enter_context(path.open("rb"))
            except FileNotFoundError:
                packed = stack.enter_context(open_archived(path))
                if packed is None:
                    raise
                journal = packed
            yield journal
    except OSError as error:
        raise JournalError(
            f"journal {path.name} cannot be read: {error.strerror}\n{path}"
        ) from error


def append(journal: IO[bytes], name: str, doc: Document) -> None:
    """Append a document to an open journal; a start or stop also reaches the disk."""
    line = encode_line(name, doc)
    begin = journal.seek(0, os.SEEK_END)
    try:
        rest = memoryview(line)
        while rest:
            rest = rest[journal.write(rest) :]
        if name in SYNCED:
            os.fsync(journal.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            journal.truncate(begin)  # half a line would hide what follows it
        raise JournalError(no_journal(Path(journal.name), error)) from error


def no_journal(path: Path, error: OSError | str) -> str:
    """Return the message of a journal that cannot be written."""
    return (
        f"the journal cannot be written: {error if isinstance(error, str) else error.strerror}\n"
        f"{path}\n"
        "Without a journal a run could not be rebuilt, so it does not go on. Free or mend that "
        "disk, then measure the sweep again."
    )
