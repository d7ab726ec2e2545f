"""Does the file hold what was measured? File ↔ digest ↔ checksums ↔ ledger ↔ journal ↔ sources.

The bytes of a file are read once, in order, by threads, and nothing of them is believed: HDF5
looks at the file in a process of its own (`offbragg.files.examine`), which a damaged file may take
with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from offbragg import kernels
from offbragg.errors import CatalogError, OffbraggError, ScanFileError
from offbragg.files.digest import (
    LATER,
    Digest,
    FilePart,
    between,
    crc64_of_parts,
    has_digest,
    read_digest,
)
from offbragg.files.examine import Examiner, FileContents
from offbragg.files.find import find_scan_file
from offbragg.files.frame_pool import processors
from offbragg.files.journal_file import read_start
from offbragg.files.journal_folder import all_journals
from offbragg.files.quarantine import quarantine_directory, quarantined
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_folders import scan_directory
from offbragg.files.scan_layout import ADOPTED
from offbragg.files.writer_lock import is_being_written
from offbragg.recovery.verdict import Verdict
from offbragg.recovery.verify_sources import (
    check_journal,
    check_sources,
    is_of_a_folder,
    stacking_command,
)

_CHANGED = 3  # how often a file that changed meanwhile is read again


def verify(
    path: Path,
    *,
    journal: Path | None = None,
    frames: Path | None = None,
    catalog: Callable[[], Any] | None = None,
    deep: bool = False,
    examiner: Examiner | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verdict:
    """Compare a scan file with everything that says what should be in it.

    Each stored chunk is compared with its checksum, the whole file with the digest that was taken
    when it was closed, the ledger with what is there, and the file with the journal of its run and
    the frame files that are still there.

    Parameters
    ----------
    path
        A scan file.
    journal
        The journal directory; left out, the journal is not looked at.
    frames
        Root of the frame files: where the folder of a run is looked for whose documents do not
        say where its frames are.
    catalog
        Connects to the catalog; left out, the catalog is not asked.
    deep
        Read the pixels of every frame, too, and every frame file, instead of what it declares.
    examiner
        For many files one after the other.
    progress
        Called with (bytes read, bytes in all).

    Raises
    ------
    ScanFileError
        If it is not there, not readable, or not a scan file without any sign that it was one.
    """
    began = time.perf_counter()
    if not path.is_file():
        raise ScanFileError(f"{path} is not a file\nGive the path of a scan file (fN.h5).")
    path = path.resolve()  # what belongs to it is beside it
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ScanFileError(
            f"{path} cannot be read: {error.strerror}\nIt was not checked."
        ) from error
    own = Examiner() if examiner is None else examiner
    try:
        left = _CHANGED
        while True:
            before = _signature(path)
            checking = _Checking(path, own, deep=deep, progress=progress)
            verdict = checking.check()
            left -= 1
            if _signature(path) == before or not verdict.complete or not left:
                break  # else a late frame was stored just then
    finally:
        if examiner is None:
            own.close()
    seen = checking.seen
    verdict.contents = seen
    if seen is not None:
        documents = () if journal is None else check_journal(seen, journal, verdict)
        verdict.ended = _reason(seen, documents)
        check_sources(seen, documents, verdict, frames=frames, deep=deep)
        verdict.seconds = time.perf_counter() - began
        if catalog is not None:
            _check_catalog(path, seen, catalog, verdict)
    return verdict


class _Checking:
    """What is found in the file itself."""

    def __init__(
        self,
        path: Path,
        examiner: Examiner,
        *,
        deep: bool,
        progress: Callable[[int, int], None],
    ) -> None:
        self.path = path
        self.seen: FileContents | None = None
        self._examiner = examiner
        self._deep = deep
        self._progress = progress

    def check(self) -> Verdict:
        damaged, digest = None, None
        try:
            digest = read_digest(self.path)
        except ScanFileError as error:
            damaged = str(error)
        try:
            self.seen = self._examiner.look(self.path)
        except ScanFileError as error:
            if digest is None and damaged is None:
                raise
            return self._unreadable(digest, damaged, error)
        seen = self.seen
        counts = {status: seen.statuses.count(status) for status in _STATUSES}
        verdict = Verdict(str(self.path), seen.run, seen.complete, counts)
        verdict.problems += seen.problems
        verdict.listed = [
            {"number": n, "status": status, "reason": seen.reasons[n]}
            for n, status in enumerate(seen.statuses)
            if status in ("missing", "rejected")
        ]
        verdict.angles = seen.angles
        self._list_refused(seen, verdict)
        self._check_end(seen, verdict)
        self._check_bytes(seen, digest, verdict)
        self._note_angles(seen, verdict)
        self._list_headers(seen, verdict)
        if damaged is not None:
            verdict.digest = "damaged"
            how = "a new one is made by offbragg stack --once --repair"
            if is_of_a_folder(seen.start):
                how = "stack its folder again, into another file"
            verdict.problems.append(
                f"{damaged}: cannot tell whether the file is as it was closed; {how}"
            )
        return verdict

    def _note_angles(self, seen: FileContents, verdict: Verdict) -> None:
        """Note angles that nothing has checked, of a sweep that turned."""
        commanded = seen.angles.get("sources", {}).get("commanded", 0)
        turned = seen.start.get("sweep", {}).get("step") and not is_of_a_folder(seen.start)
        if commanded and turned:
            verdict.notes.append(
                f"the angles of {commanded} of {verdict.frames['stored']} stored frames are as "
                "commanded: nothing has checked them"
            )

    def _list_headers(self, seen: FileContents, verdict: Verdict) -> None:
        """List in what headers and run differ: a contradiction changes scattering vectors."""
        verdict.problems += [
            f"header and run contradict each other, and one of them is wrong: {text}"
            for text in seen.headers.get("contradictions", [])
        ]
        verdict.notes += [f"headers: {text}" for text in seen.headers.get("differences", [])]

    def _list_refused(self, seen: FileContents, verdict: Verdict) -> None:
        """List refused files; those of frames that are not stored are in the ledger."""
        verdict.refused = quarantined(self.path)
        for one in verdict.refused:
            number = one["number"]
            if 0 <= number < seen.n_frames and seen.statuses[number] == "stored":
                verdict.notes.append(
                    f"frame {number}: another file was refused and is kept in "
                    f"{quarantine_directory(self.path).name}/{one['file']}: {one['reason']}"
                )

    def _check_end(self, seen: FileContents, verdict: Verdict) -> None:
        pending = verdict.frames["pending"]
        if not seen.complete:
            if is_being_written(self.path):
                verdict.problems.append(
                    f"the sweep is being stacked: {pending} of {seen.n_frames} frames are pending"
                )
            elif seen.ended and not pending:
                verdict.problems.append(
                    f"its writer died before it had closed it; run: {stacking_command(seen.start)}"
                )
            else:
                verdict.problems.append(
                    f"the sweep is not finished: {pending} of {seen.n_frames} frames are pending; "
                    f"run: {stacking_command(seen.start)}"
                )
        elif seen.length != seen.n_frames:
            verdict.problems.append(
                f"the data array holds {seen.length} frames where the sweep has {seen.n_frames}"
            )

    def _check_bytes(self, seen: FileContents, digest: Digest | None, verdict: Verdict) -> None:
        """Read the file once, and compare every part that has a checksum."""
        size = verdict.size = self.path.stat().st_size
        numbers: dict[int, int] = {}  # offset → frame
        chunks: list[FilePart] = []
        stored = list(seen.stored())
        if ADOPTED in seen.start:  # no chunk of theirs is in this file
            changed = self._find_changed(stored, verdict)
            verdict.differ += changed
            verdict.problems += [f"adopted frame {n} has changed, or is gone" for n in changed]
            stored = []
        for number in stored:
            chunk = seen.chunk(number)
            if chunk is None:
                verdict.problems.append(f"frame {number} is listed as stored but is not there")
                verdict.differ.append(number)
            elif chunk.offset + chunk.size > size:
                verdict.problems.append(
                    f"frame {number} is not there: the file ends at byte {size}, before its chunk"
                )
                verdict.differ.append(number)
            elif chunk.offset in numbers:
                verdict.problems.append(
                    f"frame {number} has the same place in the file as frame "
                    f"{numbers[chunk.offset]}"
                )
                verdict.differ.append(number)
            else:
                numbers[chunk.offset] = number
                chunks.append(chunk)
        for number, pixels in seen.pixels.items():
            if seen.statuses[number] != "stored" and pixels:
                verdict.problems.append(f"frame {number} is {seen.statuses[number]} but has counts")
        parts = between(chunks, size)
        if not seen.complete:
            parts = [part for part in parts if part.offset in numbers]
        crcs = crc64_of_parts(
            self.path, parts, threads=min(processors(), 4), progress=self._progress
        )
        bad: list[int] = []
        ask: list[int] = []
        whole = declared = 0
        for part, crc in zip(parts, crcs, strict=True):
            number = numbers.get(part.offset)
            if number is not None and part.crc64 is None:
                ask.append(number)
            elif number is not None:
                verdict.checked += 1
                if crc != part.crc64:
                    bad.append(number)
            known = crc if part.crc64 is None else part.crc64
            whole = kernels.crc64_combine(whole, crc, part.size)
            declared = kernels.crc64_combine(declared, known % (1 << 64), part.size)
        overlapping = sorted(set(numbers.values()) - {numbers.get(p.offset, -1) for p in parts})
        for number in overlapping:
            verdict.problems.append(f"frame {number} lies within another one's place in the file")
            verdict.differ.append(number)
        self._check_pixels(seen, bad, ask, verdict)
        self._check_digest(seen, digest, (size, whole, declared), verdict)
        verdict.differ = sorted({*verdict.differ, *bad})

    def _find_changed(self, stored: list[int], verdict: Verdict) -> Sequence[int]:
        """Read adopted frames where they lie; the bytes of the file itself are read elsewhere."""
        try:
            with ScanFile.open(self.path) as scan:
                changed = scan.changed_adopted()
        except ScanFileError as error:
            verdict.problems.append(str(error))
            return stored
        verdict.checked += len(stored)
        return changed

    def _check_pixels(
        self, seen: FileContents, bad: list[int], ask: list[int], verdict: Verdict
    ) -> None:
        """Compare pixels with the MD5 of their frame files, where that says more."""
        with_md5 = [n for n in ask if seen.md5[n]]
        verdict.unchecked += len(ask) - len(with_md5)
        if ask:
            verdict.notes.append(
                f"{len(ask)} frames were written by a version without stored checksums: "
                f"{len(with_md5)} were compared with the MD5 of their frame file"
            )
        wanted = {*bad, *with_md5, *(seen.stored() if self._deep else ())}
        if wanted:
            total = len(wanted)
            try:
                again = self._examiner.look(
                    self.path, pixels=wanted, progress=lambda done: self._progress(done, total)
                )
                seen.pixels.update({n: again.pixels.get(n, "") for n in wanted})
            except ScanFileError as error:  # a damaged chunk may be the end of who reads it
                seen.pixels.update(dict.fromkeys(wanted, f"cannot be read: {error}"))
        for number in sorted(wanted):
            found, md5 = seen.pixels[number], seen.md5[number]
            verdict.checked += number in with_md5
            if number in bad:
                if found == md5 and md5:
                    verdict.problems.append(
                        f"frame {number} has its pixels, but they are stored otherwise than they "
                        "were, or the checksum in the file has changed"
                    )
                else:
                    what = f": {found}" if found.startswith("cannot be read") else ""
                    verdict.problems.append(
                        f"frame {number} is not what was measured: its chunk does not have the "
                        f"checksum with which it was stored{what}"
                    )
            elif found.startswith("cannot be read"):
                verdict.problems.append(f"frame {number} {found}")
                verdict.differ.append(number)
            elif md5 and found != md5:
                verdict.problems.append(
                    f"frame {number} is not what was measured: its pixels have MD5 {found}, "
                    f"its file said {md5}"
                )
                verdict.differ.append(number)

    def _check_digest(
        self,
        seen: FileContents,
        digest: Digest | None,
        found: tuple[int, int, int],
        verdict: Verdict,
    ) -> None:
        size, whole, declared = found
        if not seen.complete:
            verdict.digest = "not yet"
        elif digest is None:
            if not has_digest(self.path):
                verdict.notes.append(
                    "it has no digest: changes outside the frames would not be seen; "
                    f"{stacking_command(seen.start)} makes one"
                )
        elif digest.run != seen.run:
            verdict.digest = "differs"
            verdict.problems.append(f"the digest beside it is that of run {digest.run}")
        elif (digest.size, digest.crc64) == (size, whole):
            verdict.digest = "agrees"
        else:
            verdict.digest = "differs"
            if digest.size != size:
                verdict.problems.append(
                    f"the file has {size} bytes; it had {digest.size} when it was closed"
                )
            elif digest.crc64 != declared:
                verdict.problems.append(
                    "the file has changed since it was closed, outside the frames: in its "
                    "structure or in its columns"
                )
        if digest is not None and digest.made == LATER:
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(digest.time))
            verdict.notes.append(
                f"its digest was made later ({when}): it says nothing about the time before"
            )

    def _unreadable(self, digest: Digest | None, damaged: str | None, error: Exception) -> Verdict:
        """Compare a file that HDF5 cannot read with its digest."""
        verdict = Verdict(str(self.path), "" if digest is None else digest.run, False, {})
        verdict.digest = "damaged"
        size = verdict.size = self.path.stat().st_size
        if digest is not None:
            (crc,) = crc64_of_parts(self.path, [FilePart(0, size)], progress=self._progress)
            agrees = (size, crc) == (digest.size, digest.crc64)
            verdict.digest = "agrees" if agrees else "differs"
            if not agrees:
                verdict.problems.append(
                    f"the file is not as it was closed: {size} bytes with CRC-64 {crc:016x}, then "
                    f"{digest.size} with {digest.crc64:016x}"
                )
        if damaged is not None:
            verdict.problems.append(damaged)
        verdict.problems.append(str(error))
        return verdict


_STATUSES = ("pending", "stored", "missing", "rejected")


def _signature(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _reason(seen: FileContents, documents: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Return how the run ended, and what its stop document says of that."""
    nothing: dict[str, Any] = {}
    stop = next((doc for name, doc in documents if name == "stop"), nothing)
    reason = str(stop.get("reason") or seen.reason).partition("\n")[0]  # the file's may be cut
    return f"{stop.get('exit_status', seen.exit_status)}: {reason}" if reason else ""


def _check_catalog(
    path: Path, seen: FileContents, connect: Callable[[], Any], verdict: Verdict
) -> None:
    try:
        client = connect()  # first: it raises if Tiled is absent
        from offbragg.recovery.compare import differences

        found = differences(client, path, seen)
    except CatalogError as error:
        verdict.catalog = f"not compared: {error}".partition("\n")[0]
        verdict.notes.append(f"the catalog was {verdict.catalog}")
        return
    verdict.catalog = "differs" if found else "agrees"
    verdict.problems += [f"the catalog differs: {what}" for what in found]
    if found and seen.complete:
        verdict.problems[-1] += f"; run: offbragg rebuild {seen.run[:8]}"


def scan_file_of_run(uid: str, *, journal: Path, experiment: Path) -> Path:
    """Find the scan file of a run, by its uid or the beginning of it.

    Raises
    ------
    ScanFileError
        If no run, more than one, or no file fits.
    """
    found = [path for path in all_journals(journal) if path.stem.startswith(uid)]
    if len(found) != 1:
        what = "no run" if not found else f"{len(found)} runs"
        raise ScanFileError(
            f"{what} with a uid that begins with {uid!r}\nLooked in {journal}; give more of the "
            "uid, or the path of the scan file."
        )
    start = read_start(found[0])
    try:
        path = find_scan_file(scan_directory(experiment, start), start["uid"])
    except (OffbraggError, KeyError):
        path = None
    if path is None:
        raise ScanFileError(
            f"run {start['uid']} has no scan file\n"
            "If it measured frames, run: offbragg stack --once"
        )
    return path


def all_scan_files(journal: Path, experiment: Path) -> list[Path]:
    """Find the scan files of all runs in the journals; a run without one is skipped."""
    found: list[tuple[float, Path]] = []
    for path in sorted(all_journals(journal)):
        try:
            start = read_start(path)
            scan = find_scan_file(scan_directory(experiment, start), start["uid"])
        except (OffbraggError, KeyError, TypeError):
            continue
        if scan is not None:
            found.append((start.get("time", 0.0), scan))
    return [scan for _, scan in sorted(found)]
