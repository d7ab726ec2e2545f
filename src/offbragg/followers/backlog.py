"""Whether somebody stacks, and how far behind: what other processes read beside the journal."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any

BACKLOG = ".follow.json"


def is_followed(journal: Path) -> bool:
    """Return whether some process follows this journal directory (``offbragg stack``)."""
    try:
        with (journal / ".follow.lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def read_backlog(journal: Path) -> dict[str, Any]:
    """Read how far behind the followers are, by name; empty if no process follows."""
    try:
        return json.loads((journal / BACKLOG).read_text()) if is_followed(journal) else {}
    except (OSError, ValueError):
        return {}
