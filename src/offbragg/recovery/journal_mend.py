"""A damaged journal rebuilt from what is intact in it; the damaged one is kept.

The damaged journal is never edited. A new one is made beside it under a hidden name from the lines
that are intact, word for word; the damaged one gets a second name, and only then the new one takes
its place, in one step. Frames need no line of it: they are found in the run's folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offbragg.errors import JournalError
from offbragg.files.abandoned import stop_run
from offbragg.files.durable import sync
from offbragg.files.journal_file import Contents, examine_journal
from offbragg.files.journal_line import encode_line
from offbragg.files.lock import lock

_NAMES = 1000
_REASON = "its journal was damaged and had no stop document; closed from what was intact in it"


@dataclass(frozen=True, slots=True)
class Mended:
    """What was done about a damaged journal."""

    found: list[str] = field(default_factory=list[str])
    """What was wrong, line by line."""
    kept: Path | None = None
    """Where the damaged journal is now."""
    documents: int = 0
    """How many documents the new one has; 0 if there is none."""


def is_damaged(path: Path) -> bool:
    """Return whether a line of a journal is damaged, or it has no start document."""
    found = examine_journal(path)
    return bool(found.bad) or not found.documents


def mend_journal(
    path: Path, *, start: Mapping[str, Any] | None = None, exit_status: str = ""
) -> Mended:
    """Rebuild a damaged journal; leave every other one alone.

    Parameters
    ----------
    path
        A journal.
    start
        The start document as the run's scan file has it, if there is one: it replaces one
        that is damaged. Without either the journal is only put into quarantine under another name.
    exit_status
        How the run ended, as its scan file says, if that is finished.

    Raises
    ------
    JournalError
        If its RunEngine lives.
    OSError
        If it cannot be written.
    """
    with path.open("rb") as journal:
        try:
            lock(journal)
        except BlockingIOError:
            raise JournalError(
                f"run {path.stem[:8]} has not ended: its journal is left unchanged"
            ) from None
        found = examine_journal(path)
        if found.documents and not found.bad:
            return Mended()
        wrong = [f"line {number}: {why}" for number, why, _ in found.bad] or ["it is empty"]
        lines = _lines(found, start)
        if not lines:
            return Mended(wrong, _keep(path, move=True))
        hidden = path.with_name(f".{path.stem}.mended")
        hidden.unlink(missing_ok=True)
        with hidden.open("xb", buffering=0) as new:
            new.write(b"".join(line + b"\n" for line in lines))
        contents = examine_journal(hidden, uid=path.stem)
        if contents.stop is None:
            with hidden.open("r+b", buffering=0) as new:
                stop_run(new, contents.documents, exit_status=exit_status or "fail", reason=_REASON)
        sync(hidden)
        kept = _keep(path, move=False)
        hidden.replace(path)
        sync(path.parent)
    return Mended(wrong, kept, len(contents.documents) + (contents.stop is None))


def _lines(found: Contents, start: Mapping[str, Any] | None) -> list[bytes]:
    """Return the lines of the new journal; none without a start document."""
    if found.documents and found.documents[0][0] == "start":
        return found.good
    if start is None:
        return []
    return [encode_line("start", start).removesuffix(b"\n"), *found.good]


def _keep(path: Path, *, move: bool) -> Path:
    """Link or move the damaged journal to another name."""
    for number in range(1, _NAMES):
        kept = path.with_name(f"{path.name}.damaged-{number}")
        try:
            os.link(path, kept)
        except FileExistsError:
            continue
        if move:
            path.unlink()
        sync(path.parent)
        return kept
    raise JournalError(
        f"{path.name} was damaged {_NAMES} times, and each time kept\nLook at {path.parent}."
    )
