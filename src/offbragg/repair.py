"""Scan files and the catalog made again from what is left: frames, journal, and intact chunks.

A damaged file is never edited. A new one is made beside it under a hidden name, from the chunks
that still have their checksum and from the frame files; the damaged one gets a second name, and
only then the new one takes its place, in one step. Killed at any moment, the next repair begins
anew.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from offbragg import kernels
from offbragg.audit import Verdict, verify
from offbragg.callbacks.journal import find_run, is_open, journals, read_journal
from offbragg.callbacks.stacker import Stacker, SweepStacker
from offbragg.catalog.publisher import Publisher
from offbragg.errors import GeometryError, OffbraggError, ScanFileError
from offbragg.files.digest import digest_path, read_digest, sync, write_digest
from offbragg.files.examine import Examiner, Seen
from offbragg.files.nxrefine import write_wrapper
from offbragg.files.scan_file import ScanFile, hold, owner
from offbragg.follow import follow
from offbragg.frame import PackedFrame

log = logging.getLogger(__name__)

_BATCH = 16
_LOOK = 0.05  # s


@dataclass(slots=True)
class Repair:
    """What was done about a scan file that was not intact."""

    run: str
    path: str
    found: list[str]
    """What was wrong."""
    done: str = ""
    kept: str = ""
    """Where the damaged file is now."""
    copied: int = 0
    """Frames whose chunks were intact."""
    read_again: list[int] = field(default_factory=list)
    """Frames that came from their files."""
    lost: list[int] = field(default_factory=list)
    """Frames that were stored, and are neither intact nor have a good file; listed as missing."""
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


def repair(
    journal: Path,
    experiment: Path,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Repair]:
    """Check every scan file of an experiment, and make those anew that are not intact.

    What is only unfinished is left to the stacker. Nobody may follow the journal meanwhile.

    Parameters
    ----------
    journal
        The journal directory.
    experiment
        Root of the experiment's directory tree.
    progress
        Called with (bytes read, bytes in all), for one file after the other.

    Returns
    -------
    repairs
        One for each file that was not intact.
    """
    repairs = []
    known = {path.stem: path for path in journals(journal)}
    with Examiner() as examiner:
        for path in sorted(experiment.glob("*/*/*/f*.h5")):
            try:
                verdict, seen = _check(path, examiner, progress)
            except ScanFileError as error:
                repairs.append(Repair("", str(path), [str(error)], error=_NOBODYS))
                continue
            what = Repair(verdict.run, str(path), _damage(verdict, seen))
            if not what.found:
                _clear_left(path)
                continue
            repairs.append(what)
            source = known.get(verdict.run)
            try:
                if source is None:
                    raise ScanFileError(f"run {verdict.run} has no journal: it is left as it is")
                if is_open(source):
                    raise ScanFileError(f"run {verdict.run} is not over: it is left as it is")
                _mend(path, what, verdict, seen, source)
            except (OffbraggError, OSError) as error:
                what.error = str(error)
            for line in (what.done, what.error):
                if line:
                    log.warning("%s: %s", path.name, line.partition("\n")[0])
    return repairs


_NOBODYS = "nothing tells which run it is of: it is left as it is"


def _check(
    path: Path, examiner: Examiner, progress: Callable[[int, int], None]
) -> tuple[Verdict, Seen | None]:
    try:
        verdict = verify(path, examiner=examiner, progress=progress)
    except ScanFileError as error:  # HDF5 does not read it, and it has no digest
        run = owner(path)
        if not run:
            raise
        return Verdict(str(path), run, False, {}, problems=[str(error)]), None
    try:
        return verdict, examiner.look(path)
    except ScanFileError:
        return verdict, None


def _damage(verdict: Verdict, seen: Seen | None) -> list[str]:
    """Say what is damaged; not what is only unfinished."""
    if seen is None or verdict.differ or seen.problems:
        return verdict.problems
    if verdict.digest in ("differs", "damaged"):
        return verdict.problems
    return []


def _mend(path: Path, what: Repair, verdict: Verdict, seen: Seen | None, source: Path) -> None:
    documents, _ = read_journal(source)
    with hold(path):
        if seen is not None and not verdict.differ and verdict.digest == "damaged":
            what.kept = _aside(path, digest_path(path)).name
            digest_path(path).unlink()
            what.done = "its digest is made anew; the damaged one is kept"
            return
        hidden = path.with_name(f".{path.name}.repair")
        _clear(hidden)
        try:
            _make(path, hidden, what, verdict, seen, documents)
            _swap(path, hidden, what)
        finally:
            _clear(hidden)
    with contextlib.suppress(GeometryError, ScanFileError):
        write_wrapper(path)


def _make(
    path: Path,
    hidden: Path,
    what: Repair,
    verdict: Verdict,
    seen: Seen | None,
    documents: list[tuple[str, dict[str, Any]]],
) -> None:
    """Make the file anew under a hidden name."""
    start = documents[0][1]
    shape = None if seen is None else seen.shape
    new = ScanFile.create(hidden.parent, start=start, data_shape=shape, name=hidden.name)
    with new:
        copied = set() if seen is None else _copy(path, new, verdict, seen)
    stacker = SweepStacker(start, hidden, experiment=None, late=0.0)
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
    before = set() if seen is None else set(seen.stored())
    what.copied = len(copied)
    what.read_again = [n for n in stored if n not in copied]
    what.lost = sorted(before - set(stored))
    if not stored and (seen is None or before):
        raise ScanFileError(
            f"{path} cannot be repaired: none of its frames is intact, and none of their files is "
            "there\nIt is left as it is."
        )


def _copy(path: Path, new: ScanFile, verdict: Verdict, seen: Seen) -> set[int]:
    """Copy the chunks that are intact, and what is said of frames that are not stored."""
    batch: list[PackedFrame] = []
    copied: set[int] = set()

    def write() -> None:
        new.write_frames(batch, header=_json(seen.first_header))
        batch.clear()

    with path.open("rb", buffering=0) as file:
        for number in range(min(seen.n_frames, new.n_frames)):
            status, chunk = seen.statuses[number], seen.chunk(number)
            if status == "stored" and chunk is not None and number not in verdict.differ:
                packed = os.pread(file.fileno(), chunk.size, chunk.offset)
                # one without a checksum was compared with the MD5 of its pixels
                right = chunk.crc64 is None and bool(seen.md5[number])
                if len(packed) == chunk.size and (right or kernels.crc64(packed) == chunk.crc64):
                    when = seen.times[number]
                    batch.append(
                        PackedFrame(
                            number,
                            new.shape,
                            np.frombuffer(packed, np.uint8),
                            seen.sources[number],
                            md5=seen.md5[number] or None,
                            time=np.nan if when is None else when,
                            crc64=chunk.crc64,
                        )
                    )
                    copied.add(number)
                    if len(batch) == _BATCH:
                        write()
                    continue
            if status == "stored":
                name = seen.sources[number] or "its file"
                new.mark(number, "missing", f"was stored, was damaged, and {name} was not there")
            elif status in ("missing", "rejected"):
                new.mark(number, status, seen.reasons[number])
        if batch:
            write()
    return copied


def _swap(path: Path, hidden: Path, what: Repair) -> None:
    """Let the new file take the place of the damaged one, which is kept under another name."""
    digest = read_digest(hidden)
    assert digest is not None
    kept = _aside(path, path)
    if digest_path(path).exists():
        with contextlib.suppress(FileExistsError):
            os.link(digest_path(path), digest_path(kept))
    superblock = path.with_name(f".{path.name}.superblock")
    if superblock.exists():
        superblock.rename(kept.with_name(f".{kept.name}.superblock"))
    sync(path.parent)  # the damaged one has its other name, whatever comes now
    digest_path(path).unlink(missing_ok=True)
    sync(path.parent)
    hidden.replace(path)
    write_digest(path, digest)
    what.kept = kept.name
    lost = f", {len(what.lost)} lost" if what.lost else ""
    what.done = (
        f"made anew: {what.copied} frames copied, {len(what.read_again)} read again{lost}; the "
        f"damaged file is kept as {kept.name}"
    )


def _aside(path: Path, damaged: Path) -> Path:
    """Give a damaged file a second name that nothing has yet, or find the one that it has."""
    number = 1
    while True:
        kept = path.with_name(f"{damaged.name}.damaged-{number}")
        try:
            os.link(damaged, kept)
            return kept
        except FileExistsError:
            if kept.samefile(damaged):  # by one who died then
                return kept
            number += 1


def _clear_left(path: Path) -> None:
    """Remove what a repair left that was killed when its file was in place already."""
    hidden = path.with_name(f".{path.name}.repair")
    if any(path.parent.glob(f".*{hidden.name}*")) or any(path.parent.glob(f"{hidden.name}*")):
        with contextlib.suppress(ScanFileError, OSError), hold(path):
            _clear(hidden)


def _clear(hidden: Path) -> None:
    """Remove what a repair that was killed left: only what was derived, under its hidden name."""
    for name in (hidden.name, f"{hidden.name}.digest"):
        hidden.with_name(name).unlink(missing_ok=True)
    for what in ("superblock", "writer", "digest"):
        hidden.with_name(f".{hidden.name}.{what}").unlink(missing_ok=True)


def _json(text: str) -> Mapping[str, Any]:
    try:
        header = json.loads(text)
    except ValueError:
        return {}
    return header if isinstance(header, dict) else {}


# ---- the catalog ---------------------------------------------------------------------------


def rebuild(
    journal: Path,
    experiment: Path,
    connect: Callable[..., Any],
    *,
    runs: Iterable[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop: Any = None,
) -> dict[str, Any]:
    """Make a lost catalog again from journals and scan files.

    Runs that the catalog has, whole and as their scan files have them, are left alone.

    Parameters
    ----------
    journal, experiment
        Where the journals and the scan files are.
    connect
        Connects to the catalog.
    runs
        Runs that are published anew in any case: the beginnings of their uids.
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
        If a run is not known, or somebody else follows the journal.
    """
    anew = {find_run(journal, which).stem for which in runs}
    client = connect()
    before = set(client)

    def forget() -> None:
        for uid in anew & before:
            client.delete_contents(uid, recursive=True, external_only=False)

    publisher = Publisher(connect, experiment)
    followers = [Stacker(experiment), publisher]
    # in their order, as the catalog lists them: also after a rebuild that was killed
    failed = follow(
        journal, followers, once=True, stop=stop, progress=progress, first=forget, at_once=1
    )
    there = set(connect())
    return {
        "runs": len(journals(journal)),
        "published": sorted((there - before) | (anew & there)),
        "failed": sorted({uid for uids in failed.values() for uid in uids}),
    }
