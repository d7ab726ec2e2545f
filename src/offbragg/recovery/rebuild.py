"""Rebuild the catalog from journals, archived or not, and scan files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from offbragg.files.journal_archive import archived_journals, archiving
from offbragg.files.journal_folder import all_journals, find_run
from offbragg.followers.follow import follow, following
from offbragg.followers.publishing import load_publisher
from offbragg.followers.stacker import Stacker


def rebuild(
    journal: Path,
    experiment: Path,
    connect: Callable[..., Any],
    *,
    frames: Path | None = None,
    runs: Iterable[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Rebuild a lost catalog from journals and scan files.

    Runs that the catalog has, whole and as their scan files have them, are left alone.

    Parameters
    ----------
    journal, experiment
        Where the journals and the scan files are.
    connect
        Connects to the catalog.
    frames
        As in `Stacker`.
    runs
        Runs that are published again in any case: the beginnings of their uids.
    progress, stop
        As in `follow`.

    Returns
    -------
    rebuilt
        ``published`` and ``failed`` runs, and how many ``runs`` there are.

    Raises
    ------
    CatalogError
        If the catalog does not answer.
    JournalError
        If a run is not known, or another process follows or packs the journal.
    """
    again = {find_run(journal, which).stem for which in runs}
    Publisher = load_publisher()
    client = connect()
    before = set(client)

    publisher = Publisher(connect, experiment)
    followers = [Stacker(experiment, frames=frames), publisher]
    # nothing is packed between the looks at the archives and at the files
    with following(journal) as lock, archiving(journal):
        for uid in again & before:
            client.delete_contents(uid, recursive=True, external_only=False)
        # in their order, as the catalog lists them: also after a rebuild that was killed
        failed = follow(
            journal, followers, once=True, stop=stop, progress=progress, at_once=1, held=lock,
            archived=archived_journals(journal),
        )  # fmt: skip
    there = set(connect())
    return {
        "runs": len(all_journals(journal)),
        "published": sorted((there - before) | (again & there)),
        "failed": sorted({uid for uids in failed.values() for uid in uids}),
    }
