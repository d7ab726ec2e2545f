"""Frames that were refused, kept beside the scan file with the reason.

``f1.rejected/`` has each refused file under its own name and a ``.json`` beside it that says why.
It is a link where that is possible, so it takes no room and stays when the detector's folder is
cleared; a copy on another disk, of limited size. Nothing is overwritten:
another content of the same name gets a number.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, cast

from offbragg import kernels

MOST_COPIED = 2 << 30
"""Bytes that are copied for one scan file where no link can be made; then reasons are kept."""

_NAMES = 1000  # that one frame's file can have


def quarantine_directory(scan_file: Path) -> Path:
    """Where the refused frames of a scan file are."""
    return scan_file.with_name(f"{scan_file.stem}.rejected")


def quarantine(
    path: Path,
    scan_file: Path,
    *,
    number: int,
    reason: str,
    signature: tuple[int, int] | None = None,
) -> Path | None:
    """Keep a refused frame file, as it is now.

    Parameters
    ----------
    path
        The frame file.
    scan_file
        The scan file that refuses it.
    number
        Of the frame.
    reason
        Why.
    signature
        Size and time of the last change, ns, of what was judged: if the file is another one by
        now, it is left.

    Returns
    -------
    kept
        Where it is kept; None if it is not the file that was judged, or its content and reason
        are kept already.

    Raises
    ------
    OSError
        If it can neither be linked nor copied.
    """
    directory = quarantine_directory(scan_file)
    crc64, status = _content(path)
    if signature is not None and signature != (status.st_size, status.st_mtime_ns):
        return None
    directory.mkdir(exist_ok=True)
    for attempt in range(_NAMES):
        name = path.name if not attempt else f"{path.stem}.{attempt + 1}{path.suffix}"
        kept, note = directory / name, directory / f"{name}.json"
        noted = _read(note)
        if noted and noted.get("crc64") == crc64 and noted.get("size") == status.st_size:
            return None
        if noted is not None or (kept.exists() and not os.path.samestat(kept.stat(), status)):
            continue
        how = _keep(path, kept, directory)
        text = json.dumps(
            {
                "frame": number,
                "reason": reason,
                "file": str(path),
                "size": status.st_size,
                "crc64": crc64,
                "modified": status.st_mtime,
                "refused": time.time(),
                "kept": how,
            },
            indent=1,
            ensure_ascii=True,  # a name may hold anything; nothing of it reaches a terminal
        )
        hidden = directory / f".{name}.json"
        hidden.write_text(text + "\n")
        hidden.replace(note)
        return kept
    raise OSError(f"there are {_NAMES} refused files named {path.name} already")


def quarantined(scan_file: Path) -> list[dict[str, Any]]:
    """List the refused files of a scan file: ``number`` of the frame, ``file``, ``reason``."""
    found: list[dict[str, Any]] = []
    for note in sorted(quarantine_directory(scan_file).glob("*.json")):
        noted = _read(note) or {}
        number, reason = noted.get("frame"), noted.get("reason")
        if isinstance(number, int) and isinstance(reason, str):
            found.append({"number": number, "file": note.stem, "reason": reason})
    return sorted(found, key=lambda one: one["number"])


def _content(path: Path) -> tuple[str, os.stat_result]:
    crc = 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            crc = kernels.crc64(piece, crc)
        return f"{crc:016x}", os.fstat(file.fileno())


def _read(note: Path) -> dict[str, object] | None:
    """Read the note on a kept file; None if there is none, {} if it cannot be understood."""
    try:
        noted = json.loads(note.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return cast(dict[str, object], noted) if isinstance(noted, dict) else {}


def _keep(path: Path, kept: Path, directory: Path) -> str:
    if kept.exists():  # linked by one who died before it could say why
        return "link"
    try:
        os.link(path, kept)
        return "link"
    except OSError:  # another disk, or one that has no links
        pass
    copies = [each.stat() for each in directory.iterdir() if each.suffix != ".json"]
    used = sum(each.st_size for each in copies if each.st_nlink == 1)
    if used + path.stat().st_size > MOST_COPIED:
        return f"not copied: {used} bytes are kept already; it was left where it is"
    hidden = directory / f".{kept.name}"
    try:
        shutil.copyfile(path, hidden)
        hidden.rename(kept)  # there is none of this name: one process stacks a run
    finally:
        hidden.unlink(missing_ok=True)
    return "copy"
