"""The table of the latest runs: what `runs()` shows at the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offbragg.beamline.config import Beamline
from offbragg.errors import OffbraggError
from offbragg.files.journal_file import is_open, read_journal
from offbragg.files.journal_folder import journals
from offbragg.files.scan_file import ScanFile
from offbragg.ledger import FrameStatus
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
