"""What a sender needs of frame files, made in threads ahead of the link."""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from offbragg.errors import FrameError, IncompleteFrame
from offbragg.files import read_frame
from offbragg.files.cbf import binary_section
from offbragg.transfer.messages import PIECE, pack
from offbragg.transfer.packing import Packer

_LARGEST = 64 << 20  # bytes of a file that is read at once


@dataclass(frozen=True, slots=True)
class Look:
    """What a file is like."""

    size: int
    sha256: str
    complete: bool
    """False while it is being written, or if it was cut short."""


class Ahead:
    """Two threads: one looks at files, the other makes pieces. Make it with `ahead`."""

    def __init__(self, looks: ThreadPoolExecutor, pieces: ThreadPoolExecutor) -> None:
        self._looks, self._pieces = looks, pieces
        self._packer = Packer()

    def look(self, path: Path) -> Future[Look]:
        """Read a file; the result raises OSError if that cannot be done."""
        return self._looks.submit(_look, path)

    def piece(self, path: Path, name: str, start: int, stop: int) -> Future[list[bytes] | None]:
        """Make the message with a piece of a file; None if the file does not have it any more."""
        return self._pieces.submit(_piece, path, name, start, stop, self._packer)


@contextlib.contextmanager
def ahead() -> Generator[Ahead]:
    """Yield both threads."""
    looks, pieces = (ThreadPoolExecutor(1, f"send-{what}") for what in ("looks", "pieces"))
    try:
        yield Ahead(looks, pieces)
    finally:
        for threads in (looks, pieces):
            threads.shutdown(cancel_futures=True)


def _look(path: Path) -> Look:
    if path.suffix == ".cbf" and path.stat().st_size <= _LARGEST:
        content = path.read_bytes()
        complete = True
        try:  # not decoded: that is for the stackers
            section = binary_section(memoryview(content), where=path.name)
            section.believe(hashlib.md5(section.packed, usedforsecurity=False).digest(), path.name)
        except IncompleteFrame:
            complete = False
        except FrameError:
            pass  # the far stacker says so as the one here does
        return Look(len(content), hashlib.sha256(content).hexdigest(), complete)
    complete = True
    try:
        read_frame(path, number=0)
    except IncompleteFrame:
        complete = False
    except FrameError:
        pass
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return Look(file.tell(), sha256, complete)


def _piece(path: Path, name: str, start: int, stop: int, packer: Packer) -> list[bytes] | None:
    content = b""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(start)
        content = file.read(min(stop - start, PIECE))
    if len(content) != stop - start:
        return None
    packed = packer.pack(content)
    return pack(
        "piece", content if packed is None else packed, name=name, start=start, size=len(content),
        packed=packed is not None, crc32=zlib.crc32(content),
    )  # fmt: skip
