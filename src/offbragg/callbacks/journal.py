"""The journal: every document of a run on disk before anything else sees it.

One file per run, ``<journal>/<uid>.jsonl``, one line ``["name", {document}]`` per document, each
with its checksum (`offbragg.callbacks.journal_line`). The stop document ends it: what comes later
is neither written nor read.

The RunEngine process holds a lock (``flock``) on the journal of a run that is open, so anyone
can tell a slow run from a dead RunEngine: an unlocked journal without a stop document was
abandoned, and :func:`close_abandoned` gives it its one stop document.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from offbragg.callbacks.journal_line import (
    LineError,
    complete_line,
    decode_line,
    encode_line,
    is_checked,
    is_whole,
)
from offbragg.errors import JournalError
from offbragg.files.root import Root
from offbragg.files.scan_file import make_directory, sync
from offbragg.sample import check_component

log = logging.getLogger(__name__)

Document = Mapping[str, Any]

# Written and synced, so that what these documents promise survives a power cut.
_SYNCED = frozenset({"start", "stop"})
_REMEMBERED = 100  # runs that are over, of which late documents are known
_NEVER = 1000  # tries of what cannot succeed
_LISTED = 3  # damaged lines that a message lists
_REFERS_TO = {
    "event": ("descriptor",),
    "event_page": ("descriptor",),
    "stream_datum": ("descriptor", "stream_resource"),
    "datum": ("resource",),
    "datum_page": ("resource",),
}


class Journal:
    """Append every document of every run to its journal; the one critical subscriber.

    Subscribe it to the RunEngine before everything else. If it cannot write it raises, and
    the run fails loudly: a run that nobody can rebuild must not go on. So it does if its disk is
    not mounted any more: what is written to the directory that is left then is hidden later.

    Parameters
    ----------
    directory
        Where the journals are kept; made if need be.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        try:
            make_directory(self.directory)
        except OSError as error:
            raise JournalError(_no_journal(self.directory, error)) from error
        self._root = Root(self.directory)
        self._open: dict[str, IO[bytes]] = {}
        self._run_of: dict[str, str] = {}  # descriptor, resource or stream resource → run
        self._over: deque[str] = deque(maxlen=_REMEMBERED)  # runs that have their stop document
        # events of monitored signals come in the threads of Channel Access, also beside the stop
        self._lock = threading.Lock()

    def __call__(self, name: str, doc: Document) -> None:
        """Write one document; for a start or stop document, all the way to the disk.

        What comes after the stop document of its run is left out, with a line in the log.
        """
        with self._lock:
            self._write(name, doc)

    def _write(self, name: str, doc: Document) -> None:
        if name == "start":
            self._begin(doc)
            return
        run = self._which_run(name, doc)
        journal = self._open.get(run)
        if journal is None and run in self._over:
            log.warning("%s document of run %s came after its stop document: left out",
                        name, run[:8])  # fmt: skip
            return
        if journal is None:
            raise JournalError(
                f"{name} document of run {run[:8]} came outside its run\n"
                f"No journal is open for it in {self.directory}; the document is not saved."
            )
        _append(journal, name, doc)
        if name == "stop":
            del self._open[run]
            self._over.append(run)
            known = {*self._open, *self._over}
            self._run_of = {uid: r for uid, r in self._run_of.items() if r in known}
            journal.close()  # releases the lock

    def _begin(self, doc: Document) -> None:
        """Make the journal under another name, lock it, and only then show it."""
        uid = check_component(doc["uid"], "uid")
        path = self.directory / f"{uid}.jsonl"
        hidden = self.directory / f".{uid}.starting"
        if trouble := self._root.trouble():
            raise JournalError(_no_journal(path, f"{self.directory} {trouble}"))
        with contextlib.ExitStack() as undo:
            try:
                journal = undo.enter_context(hidden.open("xb", buffering=0))
                undo.callback(hidden.unlink, missing_ok=True)
                fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _append(journal, "start", doc)
                os.link(hidden, path)  # refuses to replace an existing journal
                hidden.unlink()
                sync(self.directory)
            except OSError as error:
                raise JournalError(_no_journal(path, error)) from error
            undo.pop_all()
        self._open[uid] = journal

    def close(self) -> None:
        """Let go of every open run, as the end of the process would."""
        with self._lock:
            for journal in self._open.values():
                journal.close()
            self._open.clear()

    def _which_run(self, name: str, doc: Document) -> str:
        run = doc.get("run_start") or self._run_of.get(
            doc.get("descriptor") or doc.get("stream_resource") or doc.get("resource") or ""
        )
        if run is None:
            raise JournalError(
                f"{name} document names no run that is open\n"
                f"It refers to {doc.get('descriptor') or doc.get('resource')!r}."
            )
        if name in {"descriptor", "resource", "stream_resource"}:
            self._run_of[doc["uid"]] = run
        return run


class JournalReader:
    """Read a journal as it grows, document by document, up to its stop document.

    Parameters
    ----------
    path
        A journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ended = False
        """Whether the stop document was read."""
        self._position = 0  # bytes
        self._lines = _Lines(path.stem)

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
        text = _read_from(self.path, self._position)
        complete = text[: text.rfind(b"\n") + 1]
        documents = []
        for line in complete.split(b"\n")[:-1]:
            try:
                documents.append(self._lines.take(line))
            except LineError as error:
                raise _damaged(self.path, [(self._lines.number, str(error), line)]) from error
            if documents[-1][0] == "stop":
                self.ended = True
                break
        self._position += len(complete)
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
    reader = JournalReader(path)
    if position:
        reader._position, reader._lines = position, _Lines(path.stem, from_start=False)
    documents = reader.read()
    if not documents and not position:
        raise JournalError(f"journal {path.name} has no document\n{path}\n{_WAY_ON}")
    return documents, reader._position


@dataclass(slots=True)
class Contents:
    """What is in a journal, damaged or not."""

    documents: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Up to the first stop document; the damaged ones are left out."""
    good: list[bytes] = field(default_factory=list)
    """Their lines."""
    bad: list[tuple[int, str, bytes]] = field(default_factory=list)
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
        for key in _REFERS_TO.get(name, ()):
            if doc[key] not in self._known:
                raise LineError(f"its {name} document is of a {key} that is not in the journal")
        self._started |= name == "start"
        if "uid" in doc and isinstance(doc["uid"], str):
            self._known.add(doc["uid"])
        return name, doc


def _read_from(path: Path, position: int) -> bytes:
    try:
        with path.open("rb") as journal:
            journal.seek(position)
            return journal.read()
    except OSError as error:
        raise JournalError(
            f"journal {path.name} cannot be read: {error.strerror}\n{path}"
        ) from error


_WAY_ON = (
    "It is set aside and the other runs go on. offbragg stack --once --repair keeps the damaged "
    "journal and goes on with what is intact in it."
)


def _damaged(path: Path, bad: list[tuple[int, str, bytes]]) -> JournalError:
    what = "; ".join(f"line {number}: {why}" for number, why, _ in bad[:_LISTED])
    return JournalError(
        f"journal {path.name} has a line that is not a document: {what}\n"
        f"{path}: {bad[0][2][:80]!r}\n{_WAY_ON}"
    )


def read_start(path: Path) -> dict[str, Any]:
    """Return the start document of a journal, without reading the rest.

    Raises
    ------
    JournalError
        If there is none; or if it cannot be read, perhaps only just now: from an `OSError` then.
    """
    try:
        with path.open("rb") as journal:
            line = journal.readline()
    except OSError as error:
        raise JournalError(
            f"journal {path.name} cannot be read: {error.strerror}\n{path}"
        ) from error
    try:
        return _Lines(path.stem).take(line.removesuffix(b"\n"))[1]
    except LineError as error:
        what = "it is empty" if not line else str(error)
        raise JournalError(
            f"journal {path.name} does not begin with a start document: {what}\n{path}\n{_WAY_ON}"
        ) from error


def journals(directory: Path) -> list[Path]:
    """All journals of a directory (``<uid>.jsonl``), in no particular order; none if there is none.

    Raises
    ------
    JournalError
        If it cannot be looked at. (``Path.glob`` would find nothing then, and say nothing.)
    """
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(".jsonl")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JournalError(
            f"the journal directory cannot be looked at: {error.strerror}\n{directory}"
        ) from error
    return [path for name in names if (path := directory / name).is_file()]


def is_open(path: Path) -> bool:
    """Whether the RunEngine that writes a journal is alive and in this run."""
    with path.open("rb") as journal:
        try:
            fcntl.flock(journal, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def readable_starts(paths: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Return journals with their start documents; one that has none is logged and passed by."""
    for path in paths:
        try:
            yield path, read_start(path)
        except JournalError as error:
            log.warning("%s", str(error).partition("\n")[0])


def find_run(directory: Path, which: str = "-1") -> Path:
    """Find the journal of a run by what people call it.

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
    paths = journals(directory)
    if re.fullmatch(r"-[1-9]\d{0,5}|#?\d{1,7}", which):
        starts = dict(readable_starts(paths))
        ordered = sorted(starts, key=lambda path: starts[path].get("time", 0.0))
        if which.startswith("-"):
            if int(which) >= -len(ordered):
                return ordered[int(which)]
            raise JournalError(
                f"there is no run {which}: {directory} holds {len(ordered)}\n-1 is the newest one."
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


def close_abandoned(path: Path) -> bool:
    """Give an abandoned journal its stop document; leave every other one alone.

    A stop document anywhere in it ends a run: nothing is ever added after one.

    Parameters
    ----------
    path
        A journal.

    Returns
    -------
    bool
        True if the RunEngine that wrote it was gone and the journal is closed now.

    Raises
    ------
    JournalError
        If a line of it is damaged: who knows how it ended.
    """
    with path.open("r+b", buffering=0) as journal:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # its RunEngine lives
        found = examine_journal(path)
        if found.bad:
            raise _damaged(path, found.bad)
        if not found.documents:
            raise JournalError(f"journal {path.name} has no document\n{path}\n{_WAY_ON}")
        if found.last and not found.after:
            # what is not whole was never acknowledged to anyone
            journal.truncate(journal.seek(0, os.SEEK_END) - len(found.last))
            if found.completed:
                journal.seek(0, os.SEEK_END)
                journal.write(found.completed + b"\n")
        if found.stop is not None:
            return False
        stop_run(journal, found.documents)
    return True


def stop_run(
    journal: IO[bytes],
    documents: list[tuple[str, dict[str, Any]]],
    *,
    exit_status: str = "fail",
    reason: str = "the RunEngine process ended before the run did; closed from the journal",
) -> None:
    """Append the stop document that an abandoned journal lacks."""
    uid = documents[0][1]["uid"]
    stop = {
        "uid": str(uuid.uuid4()),
        "time": time.time(),
        "run_start": uid,
        "exit_status": exit_status,
        "reason": reason,
        "num_events": _count_events(documents),
    }
    _append(journal, "stop", stop)
    log.warning("run %s had lost its RunEngine; closed as %s", uid[:8],
                "failed" if exit_status == "fail" else exit_status)  # fmt: skip


def close_all_abandoned(
    directory: Path, closed: set[Path] | None = None, troubles: dict[Path, int] | None = None
) -> list[str]:
    """Close every abandoned journal of a directory; return the uids of their runs.

    A journal that cannot be read or written is logged once and passed by: the others go on.

    Parameters
    ----------
    directory
        The journal directory.
    closed
        Journals that are known to have their stop document; they are not read again, and what
        is found to be closed, or to be damaged, is added.
    troubles
        How often a journal could not be closed, a large number if it is damaged; it is added to.
    """
    known = closed if closed is not None else set()
    failures = troubles if troubles is not None else {}
    runs = []
    try:
        found = journals(directory)
    except JournalError as error:
        log.error("%s", error)
        return runs
    for path in found:
        if path in known:
            continue
        try:
            if _ends_with_stop(path):
                known.add(path)
                continue
            if close_abandoned(path):
                runs.append(path.stem)
            if not is_open(path):
                known.add(path)
        except (JournalError, OSError) as error:
            if path not in failures:
                log.error("%s", error)
            failures[path] = failures.get(path, 0) + 1
            if isinstance(error, JournalError) and not isinstance(error.__cause__, OSError):
                known.add(path)
                failures[path] = _NEVER
    return runs


def _ends_with_stop(path: Path) -> bool:
    """Whether the last line is a stop document, read from the end."""
    with path.open("rb") as journal:
        size = journal.seek(0, os.SEEK_END)
        journal.seek(max(0, size - (1 << 16)))
        text = journal.read()
    last = text.removesuffix(b"\n").rpartition(b"\n")[2]
    if not last.startswith(b'["stop",') or not text.endswith(b"\n"):
        return False
    try:
        decode_line(last)
    except LineError:
        return False
    return True


def _count_events(documents: list[tuple[str, dict[str, Any]]]) -> dict[str, int]:
    streams: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for name, doc in documents:
        if name == "descriptor":
            streams[doc["uid"]] = doc.get("name", "primary")
            counts[streams[doc["uid"]]] += 0
        elif name == "event":
            counts[streams[doc["descriptor"]]] += 1
        elif name == "event_page":
            counts[streams[doc["descriptor"]]] += len(doc["seq_num"])
        elif name == "stream_datum":
            stream = streams[doc["descriptor"]]
            counts[stream] = max(counts[stream], doc["seq_nums"]["stop"] - 1)
    return dict(counts)


def _append(journal: IO[bytes], name: str, doc: Document) -> None:
    line = encode_line(name, doc)
    begin = journal.seek(0, os.SEEK_END)
    try:
        rest = memoryview(line)
        while rest:
            rest = rest[journal.write(rest) :]
        if name in _SYNCED:
            os.fsync(journal.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            journal.truncate(begin)  # half a line would hide what follows it
        raise JournalError(_no_journal(Path(journal.name), error)) from error


def _no_journal(path: Path, error: OSError | str) -> str:
    return (
        f"the journal cannot be written: {error if isinstance(error, str) else error.strerror}\n"
        f"{path}\n"
        "Without a journal a run could not be rebuilt, so it does not go on. Free or mend that "
        "disk, then measure the sweep again."
    )
