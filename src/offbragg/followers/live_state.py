"""Where the live volume is and how far it has come: what other processes read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from offbragg.errors import JournalError
from offbragg.files.held_file import HeldFile
from offbragg.files.journal_file import is_open

_LOCK, _STATE = ".live.lock", ".live.json"


@contextlib.contextmanager
def growing_volumes(journal: Path) -> Generator[None]:
    """Hold the right to make the live volumes of a journal directory.

    Raises
    ------
    JournalError
        If another process makes them.
    """
    journal.mkdir(parents=True, exist_ok=True)
    lock = HeldFile(journal / _LOCK)
    if not lock.hold():
        raise JournalError(
            f"another offbragg live follows this journal already\n{journal}\n"
            "One is enough. To run this one, end the other one first."
        )
    try:
        yield
    finally:
        (journal / _STATE).unlink(missing_ok=True)
        lock.close()


def write_state(journal: Path, state: Mapping[str, Any]) -> None:
    """Write how far the newest volume has come."""
    hidden = journal / f"{_STATE}.new"
    with contextlib.suppress(OSError):  # a full disk is reported where it matters
        hidden.write_text(json.dumps(state))
        hidden.replace(journal / _STATE)


def read_state(journal: Path) -> dict[str, Any]:
    """Read ``volume``, ``state``, ``frames``, ``of``, ``orientation``, ``why``, ``after``.

    ``after`` is how long after its last frame was stored the volume was complete, s, if that is
    known. Empty if there is none yet, or no process makes live volumes.
    """
    with contextlib.suppress(OSError, ValueError):
        if is_open(journal / _LOCK):  # as of a journal: its writer holds a lock
            return json.loads((journal / _STATE).read_text())
    return {}
