"""The alarms that are up, in a file that other processes read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offbragg.files.held_file import read_held

ACQUISITION, DATA = "acquisition", "data"
"""The two sides."""


def board_path(journal: Path, side: str) -> Path:
    """Return the file of one side's watchdog, which holds it while it runs."""
    return journal / f".watch.{side}.json"


def read_board(journal: Path) -> dict[str, dict[str, Any]]:
    """Read what the watchdogs of a beamline report, by side; only of those that run.

    Returns
    -------
    board
        Side → ``alarms`` (with ``since``, POSIX s), ``disks`` and ``late`` (by how much its looks
        came too late in the last minute, s).
    """
    board: dict[str, dict[str, Any]] = {}
    for side in (ACQUISITION, DATA):
        if content := read_held(board_path(journal, side)):
            board[side] = content
    return board


class OnceForBoth:
    """Check whether the other side has reported an alarm already: it is not reported twice.

    Both sides look at the same disks. The one in the RunEngine's process waits a moment for the
    report of the other one, which runs for longer. If none comes, perhaps because the other side
    runs on another host and sees another disk, this side reports.

    Parameters
    ----------
    journal
        Where the other side's board is.
    patience
        How long to wait for it, s.
    """

    def __init__(self, journal: Path, *, patience: float = 0.4) -> None:
        self._journal = journal
        self._patience = patience
        self._left: set[str] = set()

    def __call__(self, change: Mapping[str, Any]) -> bool:
        """Return whether the other side reports this change; may take ``patience`` seconds."""
        what = change["what"]
        if change["state"] == "cleared":
            left = what in self._left
            self._left.discard(what)
            return left
        deadline = time.monotonic() + self._patience
        while DATA in (board := read_board(self._journal)):
            severities = {a["what"]: a["severity"] for a in board[DATA].get("alarms", ())}
            if severities.get(what) == change["severity"]:
                self._left.add(what)
                return True
            if what == "stall" or time.monotonic() > deadline:
                break  # only this side reports a stall
            time.sleep(0.05)
        self._left.discard(what)
        return False
