"""Where the live volume is and how far it has come: what other processes read."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from offbragg.errors import JournalError

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
    with (journal / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise JournalError(
                f"another offbragg live follows this journal already\n{journal}\n"
                "One is enough. To run this one, end the other one first."
            ) from error
        try:
            yield
        finally:
            (journal / _STATE).unlink(missing_ok=True)


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
    try:
        with (journal / _LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return {}
    except BlockingIOError:
        pass
    except OSError:
        return {}
    try:
        return json.loads((journal / _STATE).read_text())
    except (OSError, ValueError):
        return {}
