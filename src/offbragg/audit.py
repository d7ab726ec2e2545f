"""Does the file hold what was measured? Scan file ↔ ledger ↔ MD5 ↔ journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from offbragg.callbacks.journal import journals, read_journal, read_start
from offbragg.errors import MetadataError, OffbraggError, ScanFileError
from offbragg.files.cbf import content_md5
from offbragg.files.nxrefine import scan_directory
from offbragg.files.scan_file import ScanFile, find_scan_file
from offbragg.ledger import Status
from offbragg.sample import check_component

_FILL = -1


@dataclass(slots=True)
class Verdict:
    """What :func:`verify` found.

    ``frames`` counts the frames by status; ``checked`` the stored frames whose pixels were
    compared with the MD5 that came with them; ``unchecked`` those that came without one.
    """

    path: str
    run: str
    complete: bool
    frames: dict[str, int]
    checked: int = 0
    unchecked: int = 0
    listed: list[dict[str, Any]] = field(default_factory=list)  # missing and rejected frames
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the file holds what the ledger and the journal say."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {**asdict(self), "ok": self.ok}


def verify(
    path: Path,
    *,
    journal: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verdict:
    """Compare a scan file with its ledger, the frames' MD5s and the journal of its run.

    The pixels of each stored frame are compressed as the camera server did (CBF byte offset
    has one form only), so their MD5 can be compared without the frame file.

    Parameters
    ----------
    path
        A scan file.
    journal
        The journal directory; left out, the journal is not looked at.
    progress
        Called with (frames checked, frames in all).

    Raises
    ------
    ScanFileError
        If the file cannot be read as a scan file.
    """
    if not path.is_file():
        raise ScanFileError(f"{path} is no file\nGive the path of a scan file (fN.h5).")
    with ScanFile.open(path) as scan:
        ledger = scan.ledger
        verdict = Verdict(
            path=str(path), run=scan.run, complete=scan.complete, frames=ledger.counts()
        )
        verdict.listed = [
            {"number": number, "status": str(status.value), "reason": reason}
            for number, status, reason in ledger.problems()
        ]
        if not scan.complete:
            verdict.problems.append(
                f"the sweep is not finished: {ledger.counts().get('pending', 0)} of "
                f"{scan.n_frames} frames are pending; run: offbragg stack --once"
            )
        elif scan.length != scan.n_frames:
            verdict.problems.append(
                f"the data array holds {scan.length} frames where the sweep has {scan.n_frames}"
            )
        values = scan.frame_values()
        for number, status in enumerate(ledger.statuses):
            if number < scan.length:
                _check_frame(scan, number, status, values["md5"][number], verdict)
            elif status == Status.STORED:
                verdict.problems.append(f"frame {number} is listed as stored but is not there")
            progress(number + 1, scan.n_frames)
        if journal is not None:
            _check_journal(scan, journal, verdict)
    return verdict


def _check_frame(
    scan: ScanFile, number: int, status: Status, md5: bytes | str, verdict: Verdict
) -> None:
    try:
        counts = np.asarray(scan.stack.counts[number])
    except OSError as error:
        verdict.problems.append(f"frame {number} cannot be read: {error}")
        return
    if status != Status.STORED:
        if np.any(counts != _FILL):
            verdict.problems.append(f"frame {number} is {status.value} but has counts")
        return
    expected = md5.decode() if isinstance(md5, bytes) else str(md5)
    if not expected:
        verdict.unchecked += 1
        return
    verdict.checked += 1
    if content_md5(counts) != expected:
        verdict.problems.append(
            f"frame {number} is not what was measured: its pixels have MD5 "
            f"{content_md5(counts)}, its file said {expected}"
        )


def _check_journal(scan: ScanFile, journal: Path, verdict: Verdict) -> None:
    try:
        path = journal / f"{check_component(scan.run, 'uid')}.jsonl"
    except MetadataError as error:
        verdict.problems.append(str(error))
        return
    if not path.exists():
        verdict.problems.append(f"run {scan.run} has no journal in {journal}")
        return
    documents, _ = read_journal(path)
    if documents[0][1] != scan.start:
        changed = sorted(
            key
            for key in documents[0][1].keys() | scan.start.keys()
            if documents[0][1].get(key) != scan.start.get(key)
        )
        verdict.problems.append(f"start document and scan file differ in {', '.join(changed)}")
    if documents[-1][0] != "stop" and scan.complete:
        verdict.problems.append("the journal has no stop document but the file is finished")


def scan_file_of_run(uid: str, *, journal: Path, experiment: Path) -> Path:
    """Find the scan file of a run, by its uid or the beginning of it.

    Raises
    ------
    ScanFileError
        If no run, more than one, or no file fits.
    """
    found = [path for path in journals(journal) if path.stem.startswith(uid)]
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
