"""Compare a scan file with its journal and its frame files."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from offbragg.errors import FrameError, MetadataError, OffbraggError
from offbragg.files import read_frame, read_head
from offbragg.files.cbf import content_md5, declared_md5
from offbragg.files.examine import FileContents
from offbragg.files.frame_files import describe_others, frame_files
from offbragg.files.headers import agree
from offbragg.files.journal_file import examine_journal, has_journal, is_open
from offbragg.ledger import ranges
from offbragg.recovery.verdict import Verdict
from offbragg.sample import check_component

_MOST_LINES = 3  # of a damaged journal that are listed


def check_journal(
    seen: FileContents, journal: Path, verdict: Verdict
) -> Sequence[tuple[str, dict[str, Any]]]:
    """Compare a scan file with its journal; return the journal's documents."""
    try:
        path = journal / f"{check_component(seen.run, 'uid')}.jsonl"
    except MetadataError as error:
        verdict.problems.append(str(error))
        return []
    try:
        if not has_journal(path):
            verdict.problems.append(f"run {seen.run} has no journal in {journal}")
            return []
        found = examine_journal(path)
        over = not is_open(path)
    except (OffbraggError, OSError) as error:
        verdict.problems.append(f"the journal of run {seen.run} cannot be read: {error}")
        return []
    documents, bad = found.documents, found.bad
    start = documents[0][1] if documents and documents[0][0] == "start" else _start_of(bad[:1])
    if start is not None and bad and bad[0][0] == 1 and start != seen.start:
        bad = bad[1:]  # what has changed in it is reported below
    if bad:
        lines = "; ".join(f"line {number}: {why}" for number, why, _ in bad[:_MOST_LINES])
        more = f" and {len(bad) - _MOST_LINES} more" if len(bad) > _MOST_LINES else ""
        verdict.problems.append(
            f"the journal of run {seen.run} is damaged: {lines}{more}; to go on with what is "
            "intact in it, run: offbragg stack --once --repair"
        )
    if found.unchecked and found.unchecked < len(found.good):
        verdict.notes.append(
            f"{found.unchecked} of {len(found.good)} lines of the journal have no checksum"
        )
    if found.after:
        verdict.notes.append(
            f"{found.after} lines of the journal come after its stop document, which ends it"
        )
    if start is None:
        if not bad:
            verdict.problems.append(f"the journal of run {seen.run} has no start document")
        return documents
    if start != seen.start:
        changed = sorted(
            key for key in start.keys() | seen.start.keys() if start.get(key) != seen.start.get(key)
        )
        verdict.problems.append(f"start document and scan file differ in {', '.join(changed)}")
    last = found.stop
    if last is None:
        if seen.complete and over:
            verdict.problems.append("the journal has no stop document but the file is finished")
    elif seen.complete and seen.exit_status != last.get("exit_status"):
        verdict.problems.append(
            f"the journal says that the run ended with {last.get('exit_status')!r}, the file says "
            f"{seen.exit_status!r}"
        )
    return documents


def _start_of(bad: Sequence[tuple[int, str, bytes]]) -> dict[str, Any] | None:
    """Return the start document that a damaged first line still has; None if it has none."""
    try:
        ((_, _, line),) = bad
        name, doc = cast(list[Any], json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    return cast(dict[str, Any], doc) if name == "start" and isinstance(doc, dict) else None


def is_of_a_folder(start: dict[str, Any]) -> bool:
    """Return whether a scan file was stacked from a folder: it has no journal."""
    return isinstance(start.get("files"), dict)


def stacking_command(start: dict[str, Any]) -> str:
    """Return the command that goes on with a scan file."""
    if is_of_a_folder(start):
        return "the same offbragg stack-files again"
    return "offbragg stack --once"


def check_sources(
    seen: FileContents,
    documents: Sequence[tuple[str, dict[str, Any]]],
    verdict: Verdict,
    *,
    frames: Path | None,
    deep: bool,
) -> None:
    """Compare the stored frames with their files, and look for those of missing ones."""
    try:
        files = frame_files(seen.start, documents, frames)
        paths = [] if files is None else [files.path(n) for n in range(seen.n_frames)]
        others = "" if files is None else describe_others(files, seen.start, seen.n_frames)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, FrameError) as error:
        verdict.problems.append(f"where its frame files are cannot be understood: {error!r}")
        return
    if files is None and verdict.frames["missing"]:
        verdict.notes.append(
            "no folder of this run was found: the files of its "
            f"{verdict.frames['missing']} missing frames were not looked for"
        )
    if others:
        verdict.notes.append(others)
    verdict.sources = {"there": 0, "gone": 0}
    for number, path in enumerate(paths):
        status = seen.statuses[number]
        there = path.is_file()
        if status != "stored":
            continue
        verdict.sources["there" if there else "gone"] += 1
        if there and (what := _differs(path, number, seen, deep=deep)):
            verdict.problems.append(f"frame {number} differs from its frame file: {what}")
    if verdict.sources["gone"]:
        verdict.notes.append(
            f"{verdict.sources['gone']} of {len(seen.stored())} frame files are gone, and were "
            "not compared"
        )
    if seen.complete:
        _check_listed(seen, paths, verdict)


def _check_listed(seen: FileContents, paths: Sequence[Path], verdict: Verdict) -> None:
    """Look for good files of frames that are listed as missing or rejected."""
    good: list[int] = []
    bad: list[int] = []
    for number, path in enumerate(paths):
        if seen.statuses[number] not in ("missing", "rejected") or not path.is_file():
            continue
        try:
            read_frame(path, number=number, shape=seen.shape)
            good.append(number)
        except (FrameError, OSError):
            bad += [number] if seen.statuses[number] == "missing" else []
    if good and is_of_a_folder(seen.start):
        refused = _contradicting(paths)
        good = [number for number in good if number not in refused]
    if good:
        what = "1 frame that is not stored has a good file" if len(good) == 1 else (
            f"{len(good)} frames that are not stored have good files"
        )  # fmt: skip
        verdict.problems.append(
            f"{what} ({ranges(good, most=10)}, in {paths[good[0]].parent}); to store them, run: "
            f"{stacking_command(seen.start)}"
        )
    if bad:
        verdict.notes.append(
            f"files of missing frames are there, and are not good ({ranges(bad, most=10)})"
        )


def _contradicting(paths: Sequence[Path]) -> Collection[int]:
    """Find the frames of a folder that would be rejected again: most headers contradict them."""
    headers: dict[int, Mapping[str, Any]] = {}
    for number, path in enumerate(paths):
        with contextlib.suppress(FrameError, OSError):
            headers[number] = read_head(path).header
    # where no majority decides, it is not known here what a model said
    return agree(headers, lambda number: paths[number].name, trusted=True).refused.keys()


def _differs(path: Path, number: int, seen: FileContents, *, deep: bool) -> str:
    """Return in what a frame file differs from the stored frame; empty if in nothing."""
    md5 = seen.md5[number]
    if deep:
        try:
            frame = read_frame(path, number=number, shape=seen.shape)
        except (FrameError, OSError) as error:
            return str(error).partition("\n")[0]
        found = frame.md5 if frame.verified and md5 else content_md5(frame.counts)
        expected = md5 or seen.pixels.get(number, "")
        return "" if found == expected else f"{path.name} has other pixels"
    try:
        declared = declared_md5(path)
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    if declared is None or not md5:
        return ""  # nothing to compare, unless deep
    return "" if declared == md5 else f"{path.name} declares another MD5"
