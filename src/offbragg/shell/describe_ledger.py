"""What became of every frame of one run: what `%ledger` prints at the prompt."""

from __future__ import annotations

from offbragg.beamline.config import Beamline
from offbragg.errors import ScanFileError
from offbragg.files.journal_file import read_journal
from offbragg.files.journal_folder import find_run
from offbragg.files.scan_file import ScanFile
from offbragg.followers.backlog import is_followed
from offbragg.ledger import FrameStatus, describe_problems
from offbragg.recovery.verify import scan_file_of_run

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
