"""Journals, scan files and the catalog rebuilt from what is left: frames, lines, intact chunks.

A damaged file is never edited. A new one is made beside it under a hidden name, from the chunks
that still have their checksum and from the frame files; the damaged one gets a second name, and
only then the new one takes its place, in one step. After a kill at any moment, the next repair
begins again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from offbragg.errors import GeometryError, JournalError, OffbraggError, ScanFileError
from offbragg.files.abandoned import close_all_abandoned
from offbragg.files.digest import digest_path
from offbragg.files.examine import Examiner
from offbragg.files.journal_file import is_open, read_journal
from offbragg.files.journal_folder import all_journals, journals
from offbragg.files.nxrefine import write_wrapper
from offbragg.files.salvage import clear, copy_intact, hidden_name, keep_damaged, put_in_place
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_writer import ScanWriter
from offbragg.files.writer_lock import hold, owner
from offbragg.followers.stacker import RunStacker
from offbragg.recovery.journal_mend import is_damaged, mend_journal
from offbragg.recovery.verdict import Verdict
from offbragg.recovery.verify import verify

log = logging.getLogger(__name__)


_LOOK = 0.05  # s


@dataclass(slots=True)
class Repair:
    """What was done about a journal or scan file that was not intact."""

    run: str
    path: str
    found: list[str]
    """What was wrong."""
    done: str = ""
    kept: str = ""
    """Where the damaged file is now."""
    copied: int = 0
    """Frames whose chunks were intact."""
    read_again: list[int] = field(default_factory=list[int])
    """Frames that came from their files."""
    lost: list[int] = field(default_factory=list[int])
    """Frames that were stored, and are neither intact nor have a good file; listed as missing."""
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain types, for JSON."""
        return asdict(self)


def repair(
    journal: Path,
    experiment: Path,
    *,
    frames: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Repair]:
    """Check every journal and scan file of an experiment, and rebuild those that are damaged.

    What is only unfinished is left to the stacker. The caller holds the lock of the journal (see
    `offbragg.followers.follow.following`). Runs whose RunEngine died are closed first.

    Parameters
    ----------
    journal
        The journal directory.
    experiment
        Root of the experiment's directory tree.
    frames
        Root of the frame files: where the folder of a run is looked for whose documents do not
        say where its frames are.
    progress
        Called with (bytes read, bytes in all), for one file after the other.

    Returns
    -------
    repairs
        One for each file that was not intact, journals first.
    """
    close_all_abandoned(journal)
    repairs = _mend_journals(journal, experiment)
    known = {path.stem: path for path in all_journals(journal)}
    with Examiner() as examiner:
        for path in sorted(experiment.glob("*/*/*/f*.h5")):
            try:
                verdict = _check(path, examiner, progress)
            except ScanFileError as error:
                repairs.append(Repair("", str(path), [str(error)], error=_UNKNOWN_RUN))
                continue
            what = Repair(verdict.run, str(path), _damage(verdict))
            if not what.found:
                _clear_left(path)
                continue
            repairs.append(what)
            source = known.get(verdict.run)
            try:
                if source is None:
                    raise ScanFileError(
                        f"run {verdict.run} has no journal: its scan file is left unchanged"
                    )
                if is_open(source):
                    raise ScanFileError(
                        f"run {verdict.run} has not ended: its scan file is left unchanged"
                    )
                _mend(path, what, verdict, source, frames)
            except (OffbraggError, OSError) as error:
                what.error = str(error)
            for line in (what.done, what.error):
                if line:
                    log.warning("%s: %s", path.name, line.partition("\n")[0])
    return repairs


def _mend_journals(journal: Path, experiment: Path) -> list[Repair]:
    """Rebuild damaged journals from what is intact in them, and in their scan files."""
    damaged: list[Path] = []
    for path in sorted(journals(journal)):
        try:
            if is_damaged(path):
                damaged.append(path)
        except JournalError as error:
            damaged.append(path)
            log.warning("%s", str(error).partition("\n")[0])
    facts = _facts_of_scan_files(experiment, {path.stem for path in damaged})
    repairs: list[Repair] = []
    for path in damaged:
        what = Repair(path.stem, str(path), [])
        try:
            start, exit_status = facts.get(path.stem, (None, ""))
            mended = mend_journal(path, start=start, exit_status=exit_status)
            what.found, what.kept = mended.found, mended.kept.name if mended.kept else ""
            if mended.documents:
                what.done = (
                    f"rebuilt with {mended.documents} documents; the damaged journal is kept as "
                    f"{what.kept} ({mended.found[0]})"
                )
            else:
                what.error = (
                    f"it has no start document ({mended.found[0]}) and no scan file: kept as "
                    f"{what.kept}\nFrames that its run measured can be stacked by offbragg "
                    "stack-files."
                )
        except (OffbraggError, OSError) as error:
            what.error = str(error)
        log.warning("%s: %s", path.name, (what.done or what.error).partition("\n")[0])
        repairs.append(what)
    return repairs


def _facts_of_scan_files(experiment: Path, uids: set[str]) -> dict[str, tuple[dict[str, Any], str]]:
    """Return start document and exit status of runs as their scan files have them."""
    found: dict[str, tuple[dict[str, Any], str]] = {}
    for path in experiment.glob("*/*/*/f*.h5") if uids else ():
        with (
            contextlib.suppress(OffbraggError, OSError, KeyError, ValueError),
            ScanFile.open(path) as scan,
        ):
            if scan.run in uids:
                found[scan.run] = scan.start, scan.exit_status if scan.complete else ""
    return found


_UNKNOWN_RUN = "cannot tell which run it belongs to; left unchanged"


def _check(path: Path, examiner: Examiner, progress: Callable[[int, int], None]) -> Verdict:
    try:
        return verify(path, examiner=examiner, progress=progress)
    except ScanFileError as error:  # HDF5 does not read it, and it has no digest
        run = owner(path)
        if not run:
            raise
        return Verdict(str(path), run, False, {}, problems=[str(error)])


def _damage(verdict: Verdict) -> list[str]:
    """List what is damaged; not what is only unfinished."""
    seen = verdict.contents
    if seen is None or verdict.differ or seen.problems:
        return verdict.problems
    if verdict.digest in ("differs", "damaged"):
        return verdict.problems
    return []


def _mend(
    path: Path,
    what: Repair,
    verdict: Verdict,
    source: Path,
    frames: Path | None,
) -> None:
    documents, _ = read_journal(source)
    with hold(path):
        if verdict.contents is not None and not verdict.differ and verdict.digest == "damaged":
            what.kept = keep_damaged(path, digest_path(path)).name
            digest_path(path).unlink()
            what.done = "its digest is rebuilt; the damaged one is kept"
            return
        hidden = hidden_name(path)
        clear(hidden)
        try:
            _make(path, hidden, what, verdict, documents, frames)
            _swap(path, hidden, what)
        finally:
            clear(hidden)
    with contextlib.suppress(GeometryError, ScanFileError):
        write_wrapper(path)


def _make(
    path: Path,
    hidden: Path,
    what: Repair,
    verdict: Verdict,
    documents: list[tuple[str, dict[str, Any]]],
    frames: Path | None,
) -> None:
    """Rebuild the file under a hidden name."""
    start, seen = documents[0][1], verdict.contents
    shape = None if seen is None else seen.shape
    new = ScanWriter.create(hidden.parent, start=start, data_shape=shape, name=hidden.name)
    with new:
        copied: set[int] = (
            set() if seen is None else copy_intact(path, new, seen, but=verdict.differ)
        )
    stacker = RunStacker(start, hidden, experiment=None, late=0.0, search=frames)
    try:
        for name, doc in documents:
            stacker(name, doc)
        while not stacker.poll():
            if not stacker.busy:
                time.sleep(_LOOK)
    finally:
        stacker.close()
    with ScanFile.open(hidden) as scan:
        statuses = scan.ledger.statuses
    stored = [n for n, status in enumerate(statuses) if status == "stored"]
    before: set[int] = set() if seen is None else set(seen.stored())
    what.copied = len(copied)
    what.read_again = [n for n in stored if n not in copied]
    what.lost = sorted(before - set(stored))
    if not stored and (seen is None or before):
        raise ScanFileError(
            f"{path} cannot be repaired: none of its frames is intact, and none of their files is "
            "there\nIt is left unchanged."
        )


def _swap(path: Path, hidden: Path, what: Repair) -> None:
    what.kept = put_in_place(hidden, path).name
    lost = f", {len(what.lost)} lost" if what.lost else ""
    what.done = (
        f"rebuilt: {what.copied} frames copied, {len(what.read_again)} read again{lost}; the "
        f"damaged file is kept as {what.kept}"
    )


def _clear_left(path: Path) -> None:
    """Remove what a repair left that was killed when its file was in place already."""
    hidden = hidden_name(path)
    if any(path.parent.glob(f".*{hidden.name}*")) or any(path.parent.glob(f"{hidden.name}*")):
        with contextlib.suppress(ScanFileError, OSError), hold(path):
            clear(hidden)
