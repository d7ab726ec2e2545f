"""Fetch the files of a run: what broke off is resumed, and what came is checked."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from offbragg.errors import CatalogError
from offbragg.remote.link import CatalogAway, Link, segment

Progress = Callable[[str, int, int], None]
"""Called with the name of a file, its bytes that are here, and all of them."""

_PIECE = 1 << 20  # bytes that are hashed at a time
_PARTS = ".part", ".part-of"
_BREAKS, _PAUSE = 5, 1.0  # times in a row that a download is resumed at once; s
_LONG = 600.0  # s that the server may take to hash a file


def download(link: Link, uid: str, directory: Path, progress: Progress | None) -> list[Path]:
    """Fetch the files of a run that are whole.

    A part that is there is resumed, a file that is there and has the right digest is left as it is,
    and a file gets its name when it is complete and has the SHA-256 of the server.

    Parameters
    ----------
    link
        To the server.
    uid
        Of the run, whole.
    directory
        Where to; it is made if it does not exist.
    progress
        Called with how far it is.

    Returns
    -------
    paths
        Of the files.

    Raises
    ------
    CatalogError
        If no file is whole yet, one does not have its digest, or the server is away for long.
    """
    files = link.json(f"/files/{segment(uid)}")["files"]
    whole = [file for file in files if file["whole"]]
    if not whole:
        raise CatalogError(
            f"run {uid[:8]} has no file that is whole yet: they are being written\nIts frames can "
            "be read meanwhile: run.frames[0:10]."
        )
    directory.mkdir(parents=True, exist_ok=True)
    return [_fetch(link, uid, file, directory, progress) for file in whole]


def _fetch(
    link: Link, uid: str, file: dict[str, Any], directory: Path, progress: Progress | None
) -> Path:
    name, size = str(file["name"]), int(file["size"])
    if Path(name).name != name or name.startswith(".") or "\\" in name or ":" in name:
        raise CatalogError(f"{name!r} is not the name of a file: nothing is written")
    path, part, tag = directory / name, *(directory / (name + suffix) for suffix in _PARTS)
    address = f"/files/{segment(uid)}/{segment(name)}"
    digest = link.get(f"{address}.sha256", timeout=_LONG).text.split()[0]
    if path.exists():
        if path.stat().st_size == size and _sha256(path) == digest:
            return path
        raise CatalogError(
            f"{path} exists, and differs from the file of run {uid[:8]}\n"
            "Move it, or choose another directory."
        )
    known = {"sha256": digest}
    if not _is_part_of(tag, known):  # of a file that was replaced since
        part.unlink(missing_ok=True)
        tag.write_text(json.dumps(known))
    for left in (1, 0):
        _receive(link, address, part, name, size, progress)
        if _sha256(part) == digest:
            break
        part.unlink()
        if not left:
            raise CatalogError(
                f"{name} of run {uid[:8]} arrived twice without its SHA-256 {digest}\n"
                "It is damaged on the way, or changes on the server: offbragg verify checks it."
            )
    part.replace(path)
    tag.unlink(missing_ok=True)
    return path


def _receive(
    link: Link, address: str, part: Path, name: str, size: int, progress: Progress | None
) -> None:
    """Append to a part until it has its size."""
    breaks = 0
    while (have := part.stat().st_size if part.exists() else 0) < size:
        try:
            with (
                link.stream(address, {"Range": f"bytes={have}-"}) as answer,
                part.open("ab") as out,
            ):
                if answer.status_code != 206 and have:
                    out.truncate(0)  # the whole file comes
                    have = 0
                for piece in answer.iter_raw(_PIECE):
                    out.write(piece)
                    have += len(piece)
                    breaks = 0
                    if progress is not None:
                        progress(name, have, size)
        except CatalogAway:
            breaks += 1
            if breaks > _BREAKS:
                raise
            time.sleep(_PAUSE)


def _is_part_of(tag: Path, known: dict[str, str]) -> bool:
    try:
        return json.loads(tag.read_text()) == known
    except (OSError, ValueError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def show_progress(name: str, have: int, size: int) -> None:
    """Write one line to standard error, over the one before it."""
    end = "\n" if have >= size else ""
    sys.stderr.write(f"\r{name}: {have / 1e6:.1f} of {size / 1e6:.1f} MB{end}")
    sys.stderr.flush()
