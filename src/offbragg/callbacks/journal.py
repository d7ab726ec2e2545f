"""The journal: every document of a run on disk before anything else sees it.

One file per run, ``<journal>/<uid>.jsonl``, one line ``["name", {document}]`` per document.
The RunEngine process holds a lock (``flock``) on the journal of a run that is open, so anyone
can tell a slow run from a dead RunEngine: an unlocked journal without a stop document was
abandoned, and :func:`close_abandoned` gives it its one stop document.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from offbragg.errors import JournalError
from offbragg.files.root import Root
from offbragg.files.scan_file import make_directory, sync
from offbragg.json_values import plain
from offbragg.sample import check_component

log = logging.getLogger(__name__)

Document = Mapping[str, Any]

# Written and synced, so that what these documents promise survives a power cut.
_SYNCED = frozenset({"start", "stop"})


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

    def __call__(self, name: str, doc: Document) -> None:
        """Write one document; for a start or stop document, all the way to the disk."""
        if name == "start":
            self._begin(doc)
            return
        run = self._which_run(name, doc)
        journal = self._open.get(run)
        if journal is None:
            raise JournalError(
                f"{name} document of run {run[:8]} came outside its run\n"
                f"No journal is open for it in {self.directory}; the document is not saved."
            )
        _append(journal, name, doc)
        if name == "stop":
            del self._open[run]
            self._run_of = {uid: r for uid, r in self._run_of.items() if r != run}
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
        for journal in self._open.values():
            journal.close()
        self._open.clear()

    def _which_run(self, name: str, doc: Document) -> str:
        run = doc.get("run_start") or self._run_of.get(
            doc.get("descriptor") or doc.get("resource") or ""
        )
        if run is None:
            raise JournalError(
                f"{name} document names no run that is open\n"
                f"It refers to {doc.get('descriptor') or doc.get('resource')!r}."
            )
        if name in {"descriptor", "resource", "stream_resource"}:
            self._run_of[doc["uid"]] = run
        return run


def read_journal(path: Path, position: int = 0) -> tuple[list[tuple[str, dict[str, Any]]], int]:
    """Read the complete lines of a journal from a byte position on.

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
    """
    try:
        with path.open("rb") as journal:
            journal.seek(position)
            text = journal.read()
    except OSError as error:
        raise JournalError(
            f"journal {path.name} cannot be read: {error.strerror}\n{path}"
        ) from error
    complete = text[: text.rfind(b"\n") + 1]
    documents = []
    for line in complete.splitlines():
        try:
            name, doc = json.loads(line)
        except (ValueError, TypeError) as error:
            raise JournalError(
                f"journal {path.name} has a line that is no document: {error}\n"
                f"{path}: {line[:80]!r}"
            ) from error
        documents.append((name, doc))
    return documents, position + len(complete)


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
        name, doc = json.loads(line)
    except (ValueError, TypeError):
        name, doc = "", {}
    if name != "start":
        raise JournalError(f"journal {path.name} does not begin with a start document\n{path}")
    return doc


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
        starts = {path: read_start(path) for path in paths}
        ordered = sorted(paths, key=lambda path: starts[path].get("time", 0.0))
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

    Parameters
    ----------
    path
        A journal.

    Returns
    -------
    bool
        True if the RunEngine that wrote it was gone and the journal is closed now.
    """
    with path.open("r+b", buffering=0) as journal:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # its RunEngine lives
        documents, end = read_journal(path)
        if not documents or documents[-1][0] == "stop":
            return False
        # What follows the last complete line was never acknowledged to anyone.
        journal.truncate(end)
        journal.seek(end)
        start = documents[0][1]
        stop = {
            "uid": str(uuid.uuid4()),
            "time": time.time(),
            "run_start": start["uid"],
            "exit_status": "fail",
            "reason": "the RunEngine process ended before the run did; closed from the journal",
            "num_events": _count_events(documents),
        }
        _append(journal, "stop", stop)
    log.warning("run %s had lost its RunEngine; closed as failed", start["uid"][:8])
    return True


def close_all_abandoned(directory: Path, closed: set[Path] | None = None) -> list[str]:
    """Close every abandoned journal of a directory; return the uids of their runs.

    A journal that cannot be read or written is told and passed by: the others go on.

    Parameters
    ----------
    directory
        The journal directory.
    closed
        Journals that are known to have their stop document; they are not read again, and what
        is found to be closed, or to be no journal, is added.
    """
    known = closed if closed is not None else set()
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
            if close_abandoned(path):
                runs.append(path.stem)
            if _is_closed(path):
                known.add(path)
        except (JournalError, OSError) as error:
            log.error("%s", error)
            known.add(path)
    return runs


def _is_closed(path: Path) -> bool:
    """Whether the last line is a stop document, read from the end."""
    with path.open("rb") as journal:
        size = journal.seek(0, os.SEEK_END)
        journal.seek(max(0, size - (1 << 16)))
        last = journal.read().rstrip(b"\n").rpartition(b"\n")[2]
    return last.startswith(b'["stop",')


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
    line = json.dumps([name, doc], default=plain, separators=(",", ":")).encode() + b"\n"
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
