"""Put the journals of runs that have ended, and were verified, into the archive of their month."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from offbragg.errors import JournalError, OffbraggError, ScanFileError
from offbragg.files.abandoned import arriving_mark
from offbragg.files.examine import Examiner
from offbragg.files.find import find_scan_file
from offbragg.files.journal_archive import archiving, month_of, pack
from offbragg.files.journal_file import examine_journal, is_open, read_start
from offbragg.files.journal_folder import journals
from offbragg.files.run_progress import RunProgress
from offbragg.files.scan_folders import scan_directory
from offbragg.recovery.verify import verify

_AT_ONCE = 64 << 20  # bytes of journals that are packed in one step


@dataclass(slots=True)
class Archived:
    """What was put into archives."""

    runs: list[str] = field(default_factory=list[str])
    """Uids, oldest first."""
    left: dict[str, str] = field(default_factory=dict[str, str])
    """Runs that are old enough and stay where they are, by uid, and why."""
    archives: list[str] = field(default_factory=list[str])
    """Paths of the archives that were written."""
    bytes: int = 0
    """Size of the journals that were packed."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain types, for JSON."""
        return asdict(self)


def archive(
    journal: Path,
    experiment: Path,
    *,
    older: float,
    frames: Path | None = None,
    unpublished: Callable[[Collection[str]], Collection[str]] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: threading.Event | None = None,
    clock: Callable[[], float] = time.time,
) -> Archived:
    """Pack the journals of runs that ended long enough ago, each after its scan file was verified.

    Parameters
    ----------
    journal, experiment
        Directories.
    older
        Least time since the end of a run, and since its journal was written, s.
    frames
        As in `verify`.
    unpublished
        Returns which of some runs the catalog lacks: those stay. None: there is no catalog.
    progress
        Called with (runs looked at, runs in all).
    stop
        Set it to end after the next run.

    Raises
    ------
    CatalogError
        If the catalog does not answer.
    JournalError
        If an archive cannot be written, or another process packs these journals.
    """
    stop = stop or threading.Event()
    done = Archived()
    with archiving(journal), Examiner() as examiner:
        paths = _oldest_first(journal, older, clock())
        waiting = set(unpublished([path.stem for path, _ in paths]) if unpublished else ())
        batch: dict[Path, bytes] = {}
        month = ""
        for number, (path, began) in enumerate(paths):
            if stop.is_set():
                break
            progress(number, len(paths))
            text = b""
            try:
                text = path.read_bytes()
                why = _check(path, text, experiment, frames, examiner, clock() - older)
            except (OffbraggError, OSError) as error:
                why = str(error).partition("\n")[0]
            if not why and path.stem in waiting:
                why = "it is not in the catalog"
            if why == _TOO_NEW:
                continue
            if why:
                done.left[path.stem] = why
                continue
            if batch and (month_of(began) != month or sum(map(len, batch.values())) > _AT_ONCE):
                _pack(journal, month, batch, done)
                batch = {}
            batch[path], month = text, month_of(began)
        if batch:
            _pack(journal, month, batch, done)
    return done


_TOO_NEW = "it ended too short a time ago"


def _oldest_first(journal: Path, older: float, now: float) -> list[tuple[Path, float]]:
    """Return journals that may be old enough, and when their runs began."""
    found: list[tuple[float, Path]] = []
    for path in journals(journal):
        try:
            began = float(read_start(path).get("time", 0.0))
            month_of(began)
        except (JournalError, TypeError, ValueError, OverflowError, OSError):
            continue  # `offbragg stack` and `status` report it
        if now - began >= older:
            found.append((began, path))
    return [(path, began) for began, path in sorted(found)]


def _check(
    path: Path,
    text: bytes,
    experiment: Path,
    frames: Path | None,
    examiner: Examiner,
    before: float,
) -> str:
    """Return why a journal cannot be packed; empty if it can."""
    if is_open(path) or arriving_mark(path).exists():
        return _TOO_NEW
    found = examine_journal(path)
    if found.stop is None or found.bad:
        return "it has no stop document" if not found.bad else "its journal is damaged"
    if max(float(found.stop.get("time", 0.0)), path.stat().st_mtime) > before:
        return _TOO_NEW  # a journal that was restored or received just now is in use, too
    start = found.documents[0][1]
    if not start.get("sweep"):
        return ""
    scan = find_scan_file(scan_directory(experiment, start), start["uid"])
    if scan is None:
        if any(name == "stream_datum" for name, _ in found.documents):
            return "it has no scan file"
        return ""  # it ended before its first frame
    try:
        verdict = verify(scan, journal=path.parent, frames=frames, examiner=examiner)
    except ScanFileError as error:
        return str(error).partition("\n")[0]
    if verdict.problems:
        return f"{scan.name}: {verdict.problems[0]}"
    if not verdict.complete:
        return f"{scan.name} is not finished"
    # those of a sweep that ended early were never measured
    measured = RunProgress.of_documents(0, found.documents).announced
    missing = measured - verdict.frames.get("stored", 0) - verdict.frames.get("rejected", 0)
    if missing > 0:
        return f"{scan.name}: frames are missing ({missing}): their files may still come"
    return "" if path.read_bytes() == text else _TOO_NEW


def _pack(journal: Path, month: str, batch: dict[Path, bytes], done: Archived) -> None:
    made, others = pack(journal, month, batch)
    for path in others:
        done.left[path.stem] = (
            f"{made.name} has another journal of this run: compare them, move away the wrong one"
        )
    packed = {path: text for path, text in batch.items() if path not in others}
    if packed and str(made) not in done.archives:
        done.archives.append(str(made))
    done.runs += [path.stem for path in packed]
    done.bytes += sum(map(len, packed.values()))
