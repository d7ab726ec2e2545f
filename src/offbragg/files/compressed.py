"""Frame files that were packed whole by gzip or bzip2, as archives have them.

They are unpacked as they are read, and never further than the frame can reach: a few kilobytes
can claim to be gigabytes.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import IO, cast

from offbragg.errors import IncompleteFrame, RejectedFrame

MOST_UNPACKED = 256 << 20
"""Bytes that one file may become: six times what a Pilatus 6M writes for a frame of noise."""

_FRAMES = (".cbf", ".tif", ".tiff")
_PACKED = ("", ".gz", ".bz2")
KINDS = ".cbf, .tif and .tiff, also with .gz or .bz2 behind,"
_SURPLUS = 1 << 20  # bytes behind a frame that are padding
_BLOCK = 1 << 16


def split_suffix(name: str) -> tuple[str, str, str]:
    """Split a file's name into stem, suffix of the frame and suffix of the packing.

    Examples
    --------
    >>> split_suffix("x_1.00001.CBF.gz"), split_suffix("x.tif"), split_suffix("x.gz")
    (('x_1.00001', '.CBF', '.gz'), ('x', '.tif', ''), ('x', '.gz', ''))
    """
    stem, suffix = _cut(name)
    if suffix.lower() not in _PACKED[1:]:
        return stem, suffix, ""
    inner, kind = _cut(stem)
    return (inner, kind, suffix) if kind.lower() in _FRAMES else (stem, suffix, "")


def _cut(name: str) -> tuple[str, str]:
    """Cut a name at its suffix, as `pathlib` does, which takes ten times as long for it."""
    at = name.rfind(".")
    return (name[:at], name[at:]) if 0 < at < len(name) - 1 else (name, "")


def frame_kind(path: Path) -> str | None:
    """Return ``".cbf"`` or ``".tif"`` after a file's suffix, packed or not; None for others."""
    suffix = split_suffix(path.name)[1].lower()
    return {".tiff": ".tif"}.get(suffix, suffix) if suffix in _FRAMES else None


def is_packed(path: Path) -> bool:
    """Return whether a frame file was packed as a whole."""
    return bool(split_suffix(path.name)[2])


@contextlib.contextmanager
def unpacked(file: IO[bytes], path: Path, *, where: str) -> Generator[IO[bytes]]:
    """Open what is within a frame file; of one that is not packed, itself.

    Parameters
    ----------
    file
        The open file. What is read from the result is unpacked as far as it is asked for.
    path
        Its name.
    where
        What messages begin with.

    Raises
    ------
    IncompleteFrame
        Within the ``with``, if the file ends too early.
    RejectedFrame
        If it is not packed as its suffix says, or damaged.
    """
    packing = split_suffix(path.name)[2].lower()
    if not packing:
        yield file
        return
    try:
        opened = gzip.GzipFile(fileobj=file) if packing == ".gz" else bz2.BZ2File(file)
        with opened:
            yield cast(IO[bytes], opened)
    except EOFError as error:
        raise IncompleteFrame(f"{where} ends before its {packing[1:]} stream does") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise RejectedFrame(f"{where} is damaged or not packed by gzip: {error}") from error
    except OSError as error:
        if error.errno is not None:  # of the disk
            raise
        raise RejectedFrame(f"{where} is damaged or not packed by bzip2: {error}") from error


def read_whole(file: IO[bytes], *, where: str, most: int = MOST_UNPACKED) -> bytes:
    """Read a packed file to its end.

    Raises
    ------
    RejectedFrame
        If it holds more than ``most`` bytes.
    """
    found = file.read(most + 1)
    if len(found) > most:
        raise RejectedFrame(
            f"{where} unpacks to more than the {most} bytes that a frame can have: it is not read"
        )
    return found


def check_surplus(file: IO[bytes], *, where: str) -> None:
    """Read a packed file to its end, which has its checksum; refuse one that goes on for long."""
    left = _SURPLUS
    while block := file.read(_BLOCK):
        left -= len(block)
        if left < 0:
            raise RejectedFrame(
                f"{where} goes on for more than {_SURPLUS} bytes behind its frame when it is "
                "unpacked: it is not read"
            )
