"""Whether somebody stacks, and how far behind: what other processes read beside the journal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from offbragg.files.journal_file import is_open

BACKLOG = ".follow.json"


def is_followed(journal: Path) -> bool:
    """Return whether some process follows this journal directory (``offbragg stack``)."""
    try:
        return is_open(journal / ".follow.lock")  # as of a journal: it is held
    except FileNotFoundError:
        return False


def read_backlog(journal: Path) -> dict[str, Any]:
    """Read how far behind the followers are, by name; empty if no process follows."""
    try:
        return json.loads((journal / BACKLOG).read_text()) if is_followed(journal) else {}
    except (OSError, ValueError):
        return {}
