"""Rebuild a scan file in place of a damaged one.

The damaged one is never edited. The new one is made beside it under a hidden name, the damaged one
gets a second name, and only then the new one takes its place, in one step.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from offbragg import kernels
from offbragg.errors import ScanFileError
from offbragg.files.digest import digest_path, read_digest, write_digest
from offbragg.files.durable import sync
from offbragg.files.examine import Examiner, FileContents
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_writer import ScanWriter
from offbragg.files.stored_sweep import TORN
from offbragg.files.writer_lock import hold
from offbragg.frame import PackedFrame

log = logging.getLogger(__name__)

_BATCH = 16


def rebuild_if_torn(path: Path, start: Mapping[str, Any]) -> None:
    """Rebuild a scan file whose frame index is corrupt, as when a kill tears a write.

    Parameters
    ----------
    path
        The scan file; left alone if it is whole.
    start
        The run's start document.

    Raises
    ------
    ScanFileError
        If a process writes it, its disk has no room for another one, it cannot be read even so, or
        it was written by a version without stored checksums.
    """
    with ScanFile.open(path) as scan:
        if not scan.is_torn():
            return
    hidden = hidden_name(path)
    try:
        with hold(path), Examiner() as examiner:
            seen = examiner.look(path)
            if not any(TORN in problem for problem in seen.problems):
                return  # its writer has ended well
            try:
                lost = _rebuild(path, hidden, seen, start)
            finally:
                clear(hidden)
    except OSError as error:
        raise ScanFileError(f"{path} is damaged and cannot be rebuilt: {error}") from error
    if lost:
        log.error(
            "%s: these stored frames are not intact, and are taken from their files if they "
            "are there: %s", path, ", ".join(map(str, lost)),
        )  # fmt: skip


def _rebuild(path: Path, hidden: Path, seen: FileContents, start: Mapping[str, Any]) -> list[int]:
    if seen.crc64 is None:
        raise ScanFileError(
            f"{path} is damaged, and was written by a version without stored checksums\n"
            "offbragg stack --once --repair compares its frames with their MD5 first."
        )
    clear(hidden)
    needed = sum(place[1] for place in seen.places if place is not None)
    if (free := shutil.disk_usage(path.parent).free) < needed:
        raise ScanFileError(
            f"{path} is damaged and cannot be rebuilt: that takes {needed / 1e6:.0f} MB, and "
            f"its disk has {free / 1e6:.0f} MB\nMake room; the damaged file is kept."
        )
    stored = seen.stored()
    log.warning(
        "%s is damaged (a process was killed during a write): %d frames are copied",
        path,
        len(stored),
    )
    with ScanWriter.create(
        hidden.parent, start=start, data_shape=seen.shape, name=hidden.name
    ) as new:
        copied = copy_intact(path, new, seen)
    kept = put_in_place(hidden, path)
    log.warning(
        "%s is rebuilt with %d of its %d frames; the damaged file is kept as %s",
        path, len(copied), len(stored), kept.name,
    )  # fmt: skip
    return [number for number in stored if number not in copied]


def copy_intact(
    path: Path, new: ScanWriter, seen: FileContents, *, but: Collection[int] = ()
) -> set[int]:
    """Copy the intact chunks, and status and reason of frames that are not stored.

    Parameters
    ----------
    path, seen
        The damaged file, and what is in it.
    new
        Open for writing.
    but
        Frames of which it is known that they are not intact.

    Returns
    -------
    copied
        The frames' numbers.
    """
    batch: list[PackedFrame] = []
    copied: set[int] = set()

    def write() -> None:
        new.write_frames(batch, header=_json(seen.first_header))
        batch.clear()

    with path.open("rb", buffering=0) as file:
        for number in range(min(seen.n_frames, new.n_frames)):
            status, chunk = seen.statuses[number], seen.chunk(number)
            if status == "stored" and chunk is not None and number not in but:
                file.seek(chunk.offset)
                packed = file.read(chunk.size)
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


def put_in_place(hidden: Path, path: Path) -> Path:
    """Replace a damaged file by a new one; return the name that the damaged one has then."""
    sync(hidden)  # what it replaces is on the disk
    digest = read_digest(hidden)  # of a finished one
    kept = keep_damaged(path, path)
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
    sync(path.parent)
    if digest is not None:
        write_digest(path, digest)
    return kept


def keep_damaged(path: Path, damaged: Path) -> Path:
    """Link a damaged file to a second, free name, or find the one that it has."""
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


def hidden_name(path: Path) -> Path:
    """Return the hidden name under which a scan file is rebuilt."""
    return path.with_name(f".{path.name}.repair")


def clear(hidden: Path) -> None:
    """Remove what a killed process left under a hidden name: derived files only."""
    for name in (hidden.name, f"{hidden.name}.digest"):
        hidden.with_name(name).unlink(missing_ok=True)
    for what in ("superblock", "writer", "digest"):
        hidden.with_name(f".{hidden.name}.{what}").unlink(missing_ok=True)


def _json(text: str) -> Mapping[str, Any]:
    try:
        header = json.loads(text)
    except ValueError:
        return {}
    return cast(dict[str, Any], header) if isinstance(header, dict) else {}
