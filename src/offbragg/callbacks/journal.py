"""The journal: every document of a run on disk before anything else sees it.

One file per run, ``<journal>/<uid>.jsonl``, one line ``["name", {document}]`` per document, each
with its checksum (`offbragg.files.journal_line`). The stop document ends it: what comes later
is neither written nor read.

The RunEngine process holds a lock (``flock``) on the journal of a run that is open, so anyone
can tell a slow run from a dead RunEngine: an unlocked journal without a stop document was
abandoned, and :func:`close_abandoned` gives it its one stop document.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from pathlib import Path
from typing import IO

from offbragg.errors import JournalError
from offbragg.files.durable import make_directory, sync
from offbragg.files.journal_file import Document, append, no_journal
from offbragg.files.lock import lock
from offbragg.files.root import Root
from offbragg.sample import check_component

log = logging.getLogger(__name__)


_REMEMBERED = 100  # runs that are over, of which late documents are known


class Journal:
    """Append every document of every run to its journal; the one critical subscriber.

    Subscribe it to the RunEngine before everything else. If it cannot write it raises, and
    the run fails loudly: a run that cannot be rebuilt must not go on. So it does if its disk is
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
            raise JournalError(no_journal(self.directory, error)) from error
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
        append(journal, name, doc)
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
            raise JournalError(no_journal(path, f"{self.directory} {trouble}"))
        with contextlib.ExitStack() as undo:
            try:
                journal = undo.enter_context(hidden.open("xb", buffering=0))
                undo.callback(hidden.unlink, missing_ok=True)
                lock(journal)
                append(journal, "start", doc)
                os.link(hidden, path)  # refuses to replace an existing journal
                hidden.unlink()
                sync(self.directory)
            except OSError as error:
                raise JournalError(no_journal(path, error)) from error
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
