"""What the RunEngine's process says of itself, as other processes read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from offbragg.files.held_file import read_held


def engine_file(journal: Path) -> Path:
    """Return the file that the RunEngine's process holds while it lives."""
    return journal / ".engine.json"


def read_engine(journal: Path) -> dict[str, Any]:
    """Read what the RunEngine of a journal says of itself; empty if there is none.

    Returns
    -------
    report
        ``time``, ``state``, ``since``, ``run``, ``series``, ``waits``, ``values``, ``plan`` and
        ``pid``; see the route ``/now`` of the catalog.
    """
    return read_held(engine_file(journal))
