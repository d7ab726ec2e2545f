"""PastRuns: what the journal knows of past runs, for a plan that asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from offbragg.errors import JournalError, OffbraggError
from offbragg.files.abandoned import close_abandoned
from offbragg.files.find import find_scan_file
from offbragg.files.frame_files import frame_files
from offbragg.files.journal_file import is_open, read_journal, read_start
from offbragg.files.journal_folder import all_journals, journals, readable_starts
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_folders import scan_directory
from offbragg.ledger import FrameStatus
from offbragg.sweep import Sweep

log = logging.getLogger(__name__)

_RECENT = 20
"""Number of journals that are searched for what the last RunEngine left behind."""


def speeds_left(journal: Path) -> dict[str, tuple[float, float]]:
    """Return what a dead RunEngine may have left: axis → its usual speed, that of the sweep.

    The newest sweep of each axis counts, unless a RunEngine is still at it.

    Parameters
    ----------
    journal
        The journal directory.
    """
    found: dict[str, tuple[float, float]] = {}
    newest = sorted(journals(journal), key=lambda path: path.stat().st_mtime, reverse=True)
    seen: set[str] = set()
    for path in newest[:_RECENT]:
        try:
            start = read_start(path)
            for axis, usual in start.get("motor_speeds", {}).items():
                if axis not in seen and not is_open(path):
                    found[axis] = float(usual), Sweep.from_dict(start["sweep"]).speed
                seen.add(axis)
        except (OffbraggError, OSError, KeyError, TypeError, ValueError) as error:
            log.warning("what run %s left behind is not known: %s", path.stem[:8], error)
    return found


class PastRuns:
    """Answer a plan's ``past_runs`` message from the journal and the scan files' ledgers.

    There is no other bookkeeping of a series, so that nothing can contradict what was recorded.

    Parameters
    ----------
    journal
        The journal directory.
    experiment
        Root of the scan files.
    """

    def __init__(self, journal: Path, experiment: Path) -> None:
        self.journal = Path(journal)
        self.experiment = Path(experiment)

    async def __call__(self, msg: Any) -> list[dict[str, Any]]:
        """Return each run as the mapping that the plan makes a ``PastRun`` of."""
        return await asyncio.to_thread(self.runs, **msg.kwargs)

    def runs(
        self, *, uid: str | None = None, series: str | None = None, frames: bool = False
    ) -> list[dict[str, Any]]:
        """Return one run, or all runs of a series whose uid begins so.

        Parameters
        ----------
        uid
            Of a run.
        series
            Uid of a series, or enough of its beginning.
        frames
            Look which frames there are also where the run succeeded.

        Raises
        ------
        JournalError
            If more than one series begins so, or a journal cannot be read.
        """
        if uid is not None:
            return [self._read(self.journal / f"{uid}.jsonl", frames)]
        if not series:
            raise JournalError("past_runs needs the uid of a run or of a series")
        found = dict(self._of_series(series))
        uids = sorted({start["series"]["uid"] for start in found.values()})
        if len(uids) > 1:
            raise JournalError(
                f"{len(uids)} series begin with {series!r}: {', '.join(uids[:5])}\n"
                "Give more of the uid."
            )
        return [self._read(path, frames) for path in found]

    def _of_series(self, series: str) -> Iterator[tuple[Path, Mapping[str, Any]]]:
        # another run's damage must not keep a series from going on
        for path, start in readable_starts(all_journals(self.journal)):
            about = start.get("series")
            if isinstance(about, Mapping) and str(about.get("uid", "")).startswith(series):
                yield path, start

    def _read(self, path: Path, frames: bool) -> dict[str, Any]:
        close_abandoned(path)
        documents, _ = read_journal(path)
        there = None
        name, stop = documents[-1]
        if frames or name != "stop" or stop["exit_status"] != "success":
            there = self._there(documents)
        return {"documents": documents, "there": there, "alive": is_open(path)}

    def _there(self, documents: list[tuple[str, dict[str, Any]]]) -> list[bool] | None:
        """Return which frames there are: by the ledger once it is complete, else by the files."""
        start = documents[0][1]
        try:
            path = find_scan_file(scan_directory(self.experiment, start), start["uid"])
            if path is not None:
                with ScanFile.open(path) as scan:
                    if scan.complete:
                        return [status is FrameStatus.STORED for status in scan.ledger.statuses]
        except (OffbraggError, OSError, KeyError):
            pass  # none, or one that is just being made
        files = frame_files(start, documents)
        if files is None:
            return None
        return [files.path(n).exists() for n in range(start["sweep"]["n_frames"])]
