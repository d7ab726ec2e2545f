"""A scan file made anew in place of a damaged one.

The damaged one is never edited. The new one is made beside it under a hidden name, the damaged one
gets a second name, and only then the new one takes its place, in one step.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from offbragg import kernels
from offbragg.files.digest import digest_path, read_digest, sync, write_digest
from offbragg.files.examine import Examiner, Seen
from offbragg.files.scan_file import ScanFile, hold
from offbragg.frame import PackedFrame

log = logging.getLogger(__name__)

_BATCH = 16


def renew_if_torn(path: Path, start: Mapping[str, Any]) -> None:
    """Make a scan file anew if where its frames are is damaged: a kill tears a write.

    Parameters
    ----------
    path
        The scan file; left alone if it is whole, or if somebody writes it.
    start
        The run's start document.

    Raises
    ------
    ScanFileError
        If it cannot be read all the same, or somebody writes it after all.
    """
    with ScanFile.open(path) as scan:
        if not scan.is_torn():
            return
    hidden = hidden_name(path)
    with hold(path), Examiner() as examiner:
        clear(hidden)
        seen = examiner.look(path)
        with ScanFile.create(
            hidden.parent, start=start, data_shape=seen.shape, name=hidden.name
        ) as new:
            unknown = range(seen.n_frames) if seen.crc64 is None else ()
            copied = copy_intact(path, new, seen, but=unknown)
        kept = put_in_place(hidden, path)
        clear(hidden)
    log.warning(
        "%s: where its frames are is damaged (a kill tears a write): made anew with %d of its %d "
        "frames; the damaged file is kept as %s", path, len(copied), len(seen.stored()), kept.name,
    )  # fmt: skip


def copy_intact(path: Path, new: ScanFile, seen: Seen, *, but: Collection[int] = ()) -> set[int]:
    """Copy the chunks that are intact, and what is said of frames that are not stored.

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


def put_in_place(hidden: Path, path: Path) -> Path:
    """Let a new file take the place of a damaged one; give the name that this one has then."""
    digest = read_digest(hidden)  # of a finished one
    kept = aside(path, path)
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


def aside(path: Path, damaged: Path) -> Path:
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


def hidden_name(path: Path) -> Path:
    """Say under which name a scan file is made anew."""
    return path.with_name(f".{path.name}.repair")


def clear(hidden: Path) -> None:
    """Remove what was left by one who was killed: only what was derived, under its hidden name."""
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
