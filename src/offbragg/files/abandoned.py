"""Close the journals of runs whose RunEngine died."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from offbragg.errors import JournalError
from offbragg.files.journal_archive import is_archived
from offbragg.files.journal_file import (
    WAY_ON,
    append,
    damaged_error,
    examine_journal,
    is_open,
)
from offbragg.files.journal_folder import journal_names
from offbragg.files.journal_line import LineError, decode_line
from offbragg.files.lock import lock

log = logging.getLogger(__name__)

_NEVER = 1000  # tries of what cannot succeed


def arriving_mark(path: Path) -> Path:
    """Return the file that is beside a journal while it is received from another host.

    Its RunEngine is on that host, and more lines come even if the receiver ends meanwhile.
    """
    return path.with_name(f"{path.name}.arriving")


def close_abandoned(path: Path) -> bool:
    """Write the stop document of an abandoned journal; leave every other journal alone.

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
    if arriving_mark(path).exists():
        return False
    if not path.exists() and is_archived(path):
        return False  # only what has ended is
    with path.open("r+b", buffering=0) as journal:
        try:
            lock(journal)
        except BlockingIOError:
            return False  # its RunEngine lives
        found = examine_journal(path)
        if found.bad:
            raise damaged_error(path, found.bad)
        if not found.documents:
            raise JournalError(f"journal {path.name} has no document\n{path}\n{WAY_ON}")
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
    append(journal, "stop", stop)
    log.warning("run %s had lost its RunEngine; closed as %s", uid[:8],
                "failed" if exit_status == "fail" else exit_status)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Closings:
    """What came of closing the abandoned journals of a directory."""

    runs: tuple[str, ...] = ()
    """Runs whose journals this call closed, by uid."""
    ended: frozenset[str] = frozenset()
    """Names of journals not to be read again: they have their stop document, or are damaged."""
    failures: Mapping[Path, int] = field(default_factory=dict[Path, int])
    """How often a journal could not be closed, a large number if it is damaged."""


def close_all_abandoned(directory: Path, before: Closings | None = None) -> Closings:
    """Close every abandoned journal of a directory.

    A journal that cannot be read or written is logged once and passed by: the others go on.

    Parameters
    ----------
    directory
        The journal directory.
    before
        What the last call returned: journals that have ended are not read again, and failures are
        counted on.
    """
    before = before or Closings()
    runs: list[str] = []
    failures = dict(before.failures)
    try:
        found = set(journal_names(directory))
        ended = before.ended & found  # what is in an archive by now is forgotten
    except JournalError as error:
        log.error("%s", error)
        found, ended = set[str](), before.ended
    over: set[str] = set()
    for name in found - ended:
        path = directory / name
        try:
            if ends_with_stop(path):
                over.add(name)
                continue
            if close_abandoned(path):
                runs.append(path.stem)
            if not is_open(path) and not arriving_mark(path).exists():
                over.add(name)
        except FileNotFoundError:
            continue  # it was put into an archive meanwhile, or moved away
        except (JournalError, OSError) as error:
            if path not in failures:
                log.error("%s", error)
            failures[path] = failures.get(path, 0) + 1
            if isinstance(error, JournalError) and not isinstance(error.__cause__, OSError):
                over.add(name)
                failures[path] = _NEVER
    return Closings(tuple(runs), ended | over, failures)


def ends_with_stop(path: Path) -> bool:
    """Return whether the last line is a stop document, read from the end."""
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
