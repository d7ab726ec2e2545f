"""A journal that arrives line by line, so that followers here read it as if a RunEngine wrote it.

While it arrives it is locked as a RunEngine locks it, and a file is beside it, ``.arriving``: if
the receiver ends meanwhile, `offbragg.files.abandoned` does not close the run as failed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlparse

from offbragg.errors import MetadataError, TransferError
from offbragg.files.abandoned import arriving_mark, ends_with_stop
from offbragg.files.durable import sync
from offbragg.files.journal_archive import is_archived
from offbragg.files.journal_line import LineError, decode_line, encode_line
from offbragg.files.lock import lock
from offbragg.sample import check_component


class ArrivingJournal:
    """The journal of one run.

    Parameters
    ----------
    directory
        The journal directory.
    uid
        The run's.

    Raises
    ------
    TransferError
        If the uid cannot name a file, or there is a journal of it that did not arrive from
        elsewhere.
    OSError
        If it cannot be read or written.
    """

    def __init__(self, directory: Path, uid: str) -> None:
        try:
            check_component(uid, "the uid of a run")
        except MetadataError as error:
            raise TransferError(str(error)) from None
        self.path = directory / f"{uid}.jsonl"
        self.lines = 0
        """Complete lines that are on the disk."""
        self.ended = False
        """Whether the last one is the stop document."""
        self._file: FileIO | None = None
        self._mark = arriving_mark(self.path)
        if self.path.is_symlink() or self._mark.is_symlink():
            raise TransferError(f"{self.path} is a link: it is not written")
        if not self._mark.exists():
            if not self.path.exists() and is_archived(self.path):
                self.ended = True
                return
            if self.path.exists():
                if not ends_with_stop(self.path):
                    raise TransferError(
                        f"{self.path} is there, and did not come from a sender: it is kept"
                    )
                self.ended = True
                return
            self._mark.touch(exist_ok=False)
            sync(directory)
        if not self.path.exists():
            return  # followers would find an empty one damaged: it is shown with its first lines
        self._file = self._open(self.path)
        whole = 0
        with self.path.open("rb") as written:
            for line in written:
                if line.endswith(b"\n"):
                    self.lines += 1
                    whole += len(line)
        self._file.truncate(whole)  # what a killed receiver has not written to its end
        os.fsync(self._file.fileno())
        sync(directory)
        self._finish_if_ended()

    def add(self, lines: bytes, roots: Sequence[str], frames: Path) -> None:
        """Write lines; they are on the disk when this returns.

        Parameters
        ----------
        lines
            Each with its end.
        roots
            Spellings of the sender's frames directory.
        frames
            What takes its place.

        Raises
        ------
        TransferError
            If a line is not a document, does not have its checksum, or names frames in a way that
            cannot be read: none of them is written.
        OSError
            If they cannot be written; nothing of them is left then.
        """
        if self.ended:
            return
        if not lines.endswith(b"\n"):
            raise TransferError(f"lines for {self.path.name} came without their end")
        mapped: list[bytes] = []
        for line in lines.split(b"\n")[:-1]:
            try:
                name, document = decode_line(line)
            except LineError as error:
                raise TransferError(f"a line for {self.path.name} was not taken: {error}") from None
            uid = document["uid"] if name == "start" else self.path.stem
            first = not self.lines and not mapped
            if (name == "start") is not first or uid != self.path.stem:
                raise TransferError(
                    f"a line for {self.path.name} was not taken: it is a {name} document of "
                    f"{str(uid)[:40]!r}, line {self.lines + len(mapped) + 1}"
                )
            try:
                changed = _move_frames(name, document, roots, frames)
            except (KeyError, ValueError) as error:
                raise TransferError(
                    f"a line for {self.path.name} was not taken: its {name} document has no place "
                    f"of frames that can be read: {error!r}"
                ) from None
            mapped.append(line + b"\n" if changed is None else encode_line(name, changed))
        content = b"".join(mapped)
        if self._file is None:
            self._file = self._begin(content)
        else:
            begin = self._file.seek(0, os.SEEK_END)
            try:
                _write(self._file, content)
            except OSError:
                self._file.truncate(begin)
                raise
        self.lines += len(mapped)
        self._finish_if_ended()

    def _begin(self, content: bytes) -> FileIO:
        """Write the first lines under another name, and only then show the journal."""
        hidden = self.path.with_name(f".{self.path.stem}.starting")
        hidden.unlink(missing_ok=True)  # of a receiver that was killed
        file = self._open(hidden)
        try:
            _write(file, content)
            os.link(hidden, self.path)
            hidden.unlink()
            sync(self.path.parent)
        except OSError:
            file.close()
            raise
        return file

    def _open(self, path: Path) -> FileIO:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        file = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
        lock(file, wait=True)  # somebody looks whether it is locked, for a moment
        return file

    def _finish_if_ended(self) -> None:
        if self.lines and ends_with_stop(self.path):
            self.ended = True
            self._mark.unlink()
            sync(self.path.parent)
            self.close()

    def close(self) -> None:
        """Release it."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _write(file: FileIO, content: bytes) -> None:
    """Append; it is on the disk when this returns."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
    os.fsync(file.fileno())


def _move_frames(
    name: str, document: dict[str, Any], roots: Sequence[str], frames: Path
) -> dict[str, Any] | None:
    """Return a document with the place of its frames on this host; None if it needs no change."""
    if name == "stream_resource":
        moved = _moved(unquote(urlparse(str(document["uri"])).path), roots, frames)
        if moved is not None:
            slash = "/" if document["uri"].endswith("/") else ""
            return {**document, "uri": f"file://localhost{quote(str(moved))}{slash}"}
    files: Any = document.get("files") if name == "start" else None
    if isinstance(files, dict) and isinstance(files.get("directory"), str):  # pyright: ignore[reportUnknownMemberType]
        moved = _moved(str(files["directory"]), roots, frames)  # pyright: ignore[reportUnknownArgumentType]
        if moved is not None:
            return {**document, "files": {**files, "directory": str(moved)}}
    return None


def _moved(place: str, roots: Sequence[str], frames: Path) -> Path | None:
    path = PurePosixPath(place)
    for root in roots:
        if path.is_relative_to(root) and ".." not in path.parts:
            return frames.joinpath(*path.relative_to(root).parts)
    return None
