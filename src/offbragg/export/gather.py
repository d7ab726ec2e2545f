"""Gather the neutral record of a run or a series from journals and the files on disk."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from offbragg.errors import JournalError, OffbraggError
from offbragg.export.record import (
    JOURNAL,
    PDF,
    SCAN,
    VOLUME,
    About,
    Checksum,
    Derived,
    ExperimentRecord,
    FrameFiles,
    RecordedFile,
    RecordedRun,
)
from offbragg.files.digest import has_digest, read_digest, sha256
from offbragg.files.find import find_scan_file
from offbragg.files.frame_files import FRAME_SEQUENCES
from offbragg.files.hdf5 import open_to_read
from offbragg.files.journal_archive import find_archive
from offbragg.files.journal_file import read_ended
from offbragg.files.journal_folder import all_journals, find_run, readable_starts
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_folders import scan_directory

_FRAME_MD5 = "MD5 of each frame file's data: /entry/frames/md5 in the scan file"


def find_runs(journal: Path, which: str) -> tuple[str, list[Path]]:
    """Find the journals of a run or of a series.

    Parameters
    ----------
    journal
        The journal directory.
    which
        As for `find_run`; or the uid of a series, or the beginning of it.

    Returns
    -------
    identifier, paths
        The uid of the run or the series, and its journals, oldest first.

    Raises
    ------
    JournalError
        If there is none, or more than one.
    """
    try:
        path = find_run(journal, which)
    except JournalError:
        found: dict[str, list[tuple[float, Path]]] = {}
        for path, start in readable_starts(all_journals(journal)):
            uid = str((start.get("series") or {}).get("uid") or "")
            if which and uid.startswith(which):
                found.setdefault(uid, []).append((float(start.get("time", 0.0)), path))
        if len(found) != 1:
            raise
        ((uid, runs),) = found.items()
        return uid, [path for _, path in sorted(runs)]
    return path.stem, [path]


def gather(
    identifier: str,
    paths: list[Path],
    *,
    experiment: Path,
    beamline: str,
    about: About,
    clock: Callable[[], float] = time.time,
) -> ExperimentRecord:
    """Read what is known of runs and of what was made from them.

    Each SHA-256 is computed, for which each file is read once: what a volume holds of its scan file
    says which bytes it was made from, and not whether they are still there.

    Parameters
    ----------
    identifier, paths
        As `find_runs` returns them.
    experiment
        Root of the scan files; volumes and pair distributions are looked for in the folders of
        the crystals that these runs measured, and in those above them.
    beamline
        Its id.
    about
        What the beamline has set.

    Raises
    ------
    JournalError
        If a run has not ended, or its journal is damaged.
    ScanFileError
        If a file cannot be read.
    """
    documents = [read_ended(path) for path in paths]
    uids = {str(run[0][1]["uid"]) for run in documents}
    made = list(_made(_crystals(experiment, [run[0][1] for run in documents])))
    volumes = {
        path: record
        for path, record in made
        if any(each["run"] in uids for each in _inputs(record))
    }
    runs = tuple(_run(path, run, experiment) for path, run in zip(paths, documents, strict=True))
    notes: list[str] = []
    derived: list[Derived] = []
    by_sum: dict[str, Path] = {}
    for path, record in volumes.items():
        each = _volume(path, record, runs, notes)
        first = by_sum.setdefault(each.file.sha256.value, each.file.path)
        if first == each.file.path:
            derived.append(each)
        else:
            notes.append(f"{path.name} is a copy of {first.name}, and not listed")
    for path, record in made:
        source = _volume_of(path, record, by_sum)
        if source is not None:
            file = _file(path, PDF)
            derived.append(Derived(file, (source,), record, dict(record.get("versions") or {})))
    return ExperimentRecord(
        identifier, about, beamline, runs, tuple(derived), clock(), tuple(notes)
    )  # fmt: skip


def _run(
    journal: Path,
    documents: list[tuple[str, dict[str, Any]]],
    experiment: Path,
) -> RecordedRun:
    start, stop = documents[0][1], documents[-1][1]
    path = None
    if "sweep" in start:
        path = find_scan_file(scan_directory(experiment, start), start["uid"])
    scan_file, counts = None, {}
    md5 = False
    if path is not None:
        with ScanFile.open(path) as scan:
            counts = scan.ledger.counts()
            md5 = "md5" in scan.columns
        digest = read_digest(path)
        others: tuple[Checksum, ...] = ()
        if digest is not None and digest.size == path.stat().st_size:
            origin = f"{path.name}.digest, made {digest.made}"
            others = (Checksum("crc64-xz", f"{digest.crc64:016x}", origin),)
        scan_file = _file(path, SCAN, others)
    frames = None
    for name, doc in documents:
        if name == "stream_resource" and doc["mimetype"] in FRAME_SEQUENCES:
            frames = FrameFiles(
                str(doc["uri"]), counts.get("stored"), doc["mimetype"].partition("type=")[2],
                _FRAME_MD5 if md5 else "",
            )  # fmt: skip
    return RecordedRun(start, stop, _journal(journal), frames, scan_file, counts)


def _file(path: Path, role: str, others: tuple[Checksum, ...] = ()) -> RecordedFile:
    status = path.stat()
    checksum = Checksum("sha256", sha256(path))
    return RecordedFile(
        path.resolve(), status.st_size, status.st_mtime, role, checksum, others
    )  # fmt: skip


def _journal(path: Path) -> RecordedFile:
    """Return the file that holds a journal: its own, or the archive that it was put into."""
    packed = None if path.exists() else find_archive(path)
    return _file(path if packed is None else packed, JOURNAL)


def _crystals(experiment: Path, starts: Iterable[Mapping[str, Any]]) -> Iterator[Path]:
    """Yield the HDF5 files in the folders of the crystals of some runs, and on the way there."""
    folders: set[Path] = set()
    for start in starts:
        with contextlib.suppress(OffbraggError, KeyError):
            folders.add(scan_directory(experiment, start).parent)
    for folder in folders:
        yield from folder.rglob("*.h5")
    for above in {parent for folder in folders for parent in folder.parents}:
        if above.is_relative_to(experiment):
            yield from above.glob("*.h5")


def _made(paths: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the files that hold how they were made, and what they hold of it."""
    for path in sorted(set(paths)):
        if path.name.startswith(".") or has_digest(path):
            continue  # it is being written, or a scan file
        try:
            with open_to_read(path, swmr=False, libver=None) as file:
                kept: Any = file.get("entry/process/record")
                record = None if kept is None else json.loads(kept[()])
        except (OSError, RuntimeError, ValueError, TypeError, AttributeError, RecursionError):
            continue  # another HDF5 file, or one that is being written
        if isinstance(record, dict):
            yield path, record


def _inputs(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the scan files of a volume's record: none of another record, or while it grows."""
    inputs = record.get("inputs")
    if "format" not in record or not isinstance(inputs, list):
        return []
    return [each for each in inputs if isinstance(each, Mapping) and {"run", "file"} <= set(each)]


def _volume(
    path: Path, record: Mapping[str, Any], runs: tuple[RecordedRun, ...], notes: list[str]
) -> Derived:
    scans = {run.uid: run.scan_file for run in runs}
    inputs: list[Path] = []
    for each in _inputs(record):
        scan = scans.get(each["run"])
        if scan is None:
            notes.append(f"{path.name} was made from run {each['run'][:8]}, too")
        elif scan.sha256.value != each["sha256"]:
            notes.append(f"{scan.path.name} was changed after {path.name} had been made from it")
        else:
            inputs.append(scan.path)
    return Derived(
        _file(path, VOLUME), tuple(inputs), record, dict(record.get("versions") or {})
    )  # fmt: skip


def _volume_of(path: Path, record: Mapping[str, Any], by_sum: Mapping[str, Path]) -> Path | None:
    """Return the volume that a pair distribution was made from, if it is one of these."""
    if "punch" not in record or "volume" not in record:
        return None
    if record.get("volume_sha256"):
        return by_sum.get(str(record["volume_sha256"]))
    beside = (path.parent / str(record["volume"])).resolve()  # of an earlier version
    return beside if beside in by_sum.values() else None
