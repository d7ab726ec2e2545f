"""A follower that passes the documents of open runs to a watchdog."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from offbragg.alarms.board import Alarm
from offbragg.alarms.board_file import DATA
from offbragg.alarms.looks import CatalogLook, backlog_look
from offbragg.alarms.watchdog import Watchdog
from offbragg.beamline.config import Beamline
from offbragg.beamline.watchdog import make_watchdog
from offbragg.files.journal_file import is_open
from offbragg.followers.stacker import Stacker


def watch_data(
    config: Beamline, stacker: Stacker, *, catalog: bool
) -> tuple[Watchdog, JournalWatch]:
    """Make the watchdog that runs beside a stacker, and what follows the journal for it.

    Parameters
    ----------
    config
        What `load` returned.
    stacker
        Whose ``backlog`` is looked at.
    catalog
        Whether runs are to be published: then the catalog has to be there.
    """
    looks: list[Callable[[], Alarm | None]] = [backlog_look(stacker.backlog, config.thresholds)]
    if catalog:
        where = config.catalog
        looks.append(CatalogLook(where.host, where.port, patience=config.alarms.catalog))
    watchdog = make_watchdog(config, side=DATA, looks=looks)
    return watchdog, JournalWatch(watchdog, config.paths.journal)


class JournalWatch:
    """Pass the documents of the runs that are open from the journal to a watchdog."""

    name = "watch"

    def __init__(self, watchdog: Watchdog, journal: Path) -> None:
        self._watchdog = watchdog
        self._journal = journal

    def done(self, start: Mapping[str, Any]) -> bool:
        """Return whether the run has ended: then there is nothing to watch."""
        return not is_open(self._journal / f"{start['uid']}.jsonl")

    def open(self, start: Mapping[str, Any]) -> _Documents:
        """Begin with a run."""
        return _Documents(self._watchdog)


class _Documents:
    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog
        self._over = False

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        self._watchdog(name, doc)
        self._over = name == "stop"

    def poll(self) -> bool:
        return self._over

    def close(self) -> None:
        pass
