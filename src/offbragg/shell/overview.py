"""The latest runs, one line each, and what became of the frames of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offbragg.beamline.config import Beamline
from offbragg.errors import (
    OffbraggError,
    ScanFileError,
)
from offbragg.files.journal_file import find_run, is_open, journals, read_journal
from offbragg.files.scan_file import ScanFile
from offbragg.followers.backlog import is_followed
from offbragg.ledger import FrameStatus, describe_problems
from offbragg.printable import printable
from offbragg.recovery.verify import scan_file_of_run

_HEADS = ("#", "run", "sample", "T, K", "frames", "state", "series", "remark")


_LONGEST = 100  # characters of a remark


@dataclass(frozen=True, slots=True)
class Row:
    """One run.

    Parameters
    ----------
    scan_id, uid, sample
        Of the run.
    temperature
        Requested temperature, K; None without one.
    frames, stored
        Number of frames requested, and in the scan file (or, before there is one, announced);
        None for a run that is not a sweep.
    state
        "running", its exit status, or "interrupted" until it is closed.
    series
        Uid of its series, if it has one.
    remark
        The reason in its stop document, and whether its headers contradict it.
    """

    scan_id: int | None
    uid: str
    sample: str
    temperature: float | None
    frames: int | None
    stored: int | None
    state: str
    series: str = ""
    remark: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return the text of each column."""
        frames = "" if self.frames is None else f"{self.stored}/{self.frames}"
        kelvin = "" if self.temperature is None else f"{self.temperature:g}"
        number = "?" if self.scan_id is None else str(self.scan_id)
        remark = self.remark.partition("\n")[0]
        if len(remark) > _LONGEST:
            remark = f"{remark[:_LONGEST]}…"
        return (
            number, self.uid[:8], self.sample, kelvin, frames, self.state, self.series[:8], remark
        )  # fmt: skip


class Runs(tuple[Row, ...]):
    """Some runs, the newest last; shown as a table."""

    __slots__ = ()

    def __repr__(self) -> str:
        if not self:
            return "no runs yet"
        rows = [_HEADS, *(row.cells() for row in self)]
        if not any(row.remark for row in self):
            rows = [row[:-1] for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = (
            "  ".join(
                cell.rjust(width) if i in (0, 3, 4) else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        )
        return printable("\n".join(line.rstrip() for line in lines), lines=True)


def list_runs(config: Beamline, last: int = 20, *, series: str = "", sample: str = "") -> Runs:
    """Return the newest runs.

    Parameters
    ----------
    config
        The beamline.
    last
        Largest number of runs.
    series
        Beginning of a series' uid: only its runs.
    sample
        Only those of this sample.
    """
    newest = sorted(journals(config.paths.journal), key=lambda path: path.stat().st_mtime)
    rows: list[tuple[float, Row]] = []
    for path in reversed(newest):
        if len(rows) >= last:
            break
        try:
            documents, _ = read_journal(path)
            start = documents[0][1]
            row = _row(config, documents, running=is_open(path))
        except (OffbraggError, OSError, LookupError, TypeError, ValueError):
            row, start = Row(None, path.stem, "?", None, None, None, "journal cannot be read"), {}
        if row.series.startswith(series) and (not sample or row.sample == sample):
            rows.append((float(start.get("time", 0.0)), row))
    return Runs(row for _, row in sorted(rows, key=lambda each: each[0]))


def _row(
    config: Beamline, documents: Sequence[tuple[str, Mapping[str, Any]]], *, running: bool
) -> Row:
    start, (name, stop) = documents[0][1], documents[-1]
    known = start.get("sample") or ""
    sweep = start.get("sweep")
    stored, contradicts = (None, False) if sweep is None else _stored(config, start, documents)
    remarks = [str(stop.get("reason") or "")] if name == "stop" else []
    if contradicts:
        remarks.insert(0, "header and run contradict each other: see offbragg verify")
    return Row(
        scan_id=start.get("scan_id"),
        uid=str(start["uid"]),
        sample=str(known.get("name", "?") if isinstance(known, Mapping) else known),
        temperature=(start.get("temperature") or {}).get("setpoint"),
        frames=None if sweep is None else int(sweep["n_frames"]),
        stored=stored,
        state=str(stop["exit_status"]) if name == "stop" else ["interrupted", "running"][running],
        series=str((start.get("series") or {}).get("uid", "")),
        remark="; ".join(filter(None, remarks)),
    )


def _stored(
    config: Beamline, start: Mapping[str, Any], documents: Sequence[tuple[str, Mapping[str, Any]]]
) -> tuple[int, bool]:
    """Return the number of stored frames, and whether their headers contradict the run."""
    try:
        path = scan_file_of_run(
            start["uid"], journal=config.paths.journal, experiment=config.paths.experiment
        )
        with ScanFile.open(path) as scan:
            contradicts = "contradictions" in scan.header_findings
            return scan.ledger.counts()[FrameStatus.STORED.value], contradicts
    except (OffbraggError, OSError, KeyError):  # there is none (yet)
        announced = (doc["indices"]["stop"] for name, doc in documents if name == "stream_datum")
        return max(announced, default=0), False


_LISTED = 20  # lines of %ledger


def describe_ledger(config: Beamline, which: str = "-1") -> str:
    """Describe what became of every frame of a run, from its scan file.

    Parameters
    ----------
    config
        The beamline.
    which
        The beginning of a uid, a scan number (#42), or -1 for the newest run, -2 …

    Raises
    ------
    JournalError
        If there is no such run.
    ScanFileError
        If it has no scan file (yet).
    """
    from offbragg.callbacks.progress import describe_run

    journal = find_run(config.paths.journal, which)
    documents, _ = read_journal(journal)
    start, (last, stop) = documents[0][1], documents[-1]
    if last != "stop":
        stop = {"time": stop.get("time", start["time"]), "exit_status": "running"}
    lines = [describe_run(start, stop)]
    if "sweep" not in start:
        return "\n".join([*lines, "not a sweep: it has no frames of its own"])
    recorded = max(
        (doc["indices"]["stop"] for name, doc in documents if name == "stream_datum"), default=0
    )
    follows = is_followed(config.paths.journal)
    try:
        path = scan_file_of_run(
            start["uid"], journal=config.paths.journal, experiment=config.paths.experiment
        )
        with ScanFile.open(path) as scan:
            ledger, complete = scan.ledger, scan.complete
    except (ScanFileError, OSError):
        if not follows:
            raise
        return "\n".join([*lines, f"no scan file yet: {_behind(recorded, follows, config)}"])
    counts = ledger.counts()
    waiting = counts.pop(FrameStatus.PENDING.value)
    behind = 0 if complete else max(recorded - sum(counts.values()), 0)
    parts = [f"{n} {status}" for status, n in counts.items() if n]
    if waiting > behind:
        parts.append(f"{waiting - behind} not recorded")
    if behind:
        parts.append(_behind(behind, follows, config))
    lines.append(f"{', '.join(parts)} · {path}")
    problems = describe_problems(ledger.problems())
    lines += problems[:_LISTED]
    if len(problems) > _LISTED:
        lines.append(f"… and {len(problems) - _LISTED} more lines: offbragg verify {path}")
    return "\n".join(lines)


def _behind(frames: int, follows: bool, config: Beamline) -> str:
    """Describe recorded frames that wait for the stacker, and whether one runs."""
    waiting = f"{frames} recorded frame{'' if frames == 1 else 's'}"
    if follows:
        return f"the stacker is behind: {waiting} not stacked yet"
    return f"{waiting} not stacked: no stacker is running (offbragg stack --beamline {config.file})"
