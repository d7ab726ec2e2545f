"""Pilatus TIFF files: one uncompressed int32 frame.

TIFF has no checksum: such frames are never ``verified``. The directory is read here, so that
a file that is cut short differs from one that lies, before anything is allocated. What a camserver
does not write is left to `offbragg.files.tiff_by_library`.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import IncompleteFrame, RejectedFrame
from offbragg.files import tiff_by_library
from offbragg.files.cbf import parse_minicbf_header
from offbragg.files.compressed import is_packed, read_whole, unpacked
from offbragg.frame import Frame

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _FILL_ORDER = 256, 257, 258, 259, 266
_DESCRIPTION, _OFFSETS, _SAMPLES, _BYTES, _DATE, _TILE_WIDTH, _FORMAT = (
    270, 273, 277, 279, 306, 322, 339
)  # fmt: skip
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4}  # BYTE, ASCII, SHORT, LONG
_PIXEL_LIMIT = 1 << 26
_TEXT_LIMIT = 1 << 16


class UnusualTiff(RejectedFrame):
    """A TIFF file that `read_layout` does not read, and the library may."""


def read_tiff(path: Path | str, *, number: int, shape: tuple[int, int] | None = None) -> Frame:
    """Read one TIFF file; see `offbragg.files.read_frame`."""
    path = Path(path)
    where = f"frame {number}: {path.name}"
    with path.open("rb") as raw:
        counts, text, date = read_tiff_counts(raw, path, where=where, shape=shape)
    return Frame(number=number, counts=counts, header=_header(text, date))


def read_tiff_head(path: Path) -> tuple[dict[str, Any], tuple[int, int], int | None]:
    """Read what a TIFF file says of its exposure, its shape, and how much a pixel can count.

    Returns
    -------
    header, shape, most_counts
        See `offbragg.files.Head`.
    """
    with path.open("rb") as raw, _seekable(raw, path, path.name) as file:
        try:
            layout = read_layout(file, where=path.name)
        except UnusualTiff:
            found = tiff_by_library.read_description(file, where=path.name)
            most = found.most_counts if found.most_counts < 1 << 16 else None
            return _header(found.text, found.date), found.shape, most
    return _header(layout.text, layout.date), layout.shape, None


def read_tiff_counts(
    raw: IO[bytes], path: Path, *, where: str, shape: tuple[int, int] | None
) -> tuple[NDArray[np.int32], str, str]:
    """Read the pixels of a TIFF file of any kind, its description and its date.

    Raises
    ------
    IncompleteFrame, RejectedFrame
        As `offbragg.files.read_frame` does.
    """
    with _seekable(raw, path, where) as file:
        try:
            layout = read_layout(file, where=where, shape=shape)
        except UnusualTiff:
            counts, found = tiff_by_library.read_counts(file, where=where, shape=shape)
            return counts, found.text, found.date
        strips = bytearray()
        for offset, length in zip(layout.offsets, layout.lengths, strict=True):
            file.seek(offset)
            strips += file.read(length)
    rows, columns = layout.shape
    if len(strips) != 4 * rows * columns:
        raise IncompleteFrame(f"{where} has {len(strips)} of {4 * rows * columns} bytes of pixels")
    # Camserver declares unsigned or nothing, and means signed: −1 is a gap either way.
    order = ">" if layout.big_endian else "<"
    counts = np.frombuffer(strips, f"{order}i4").astype(np.int32, copy=False)
    return counts.reshape(rows, columns), layout.text, layout.date


@contextmanager
def _seekable(raw: IO[bytes], path: Path, where: str) -> Generator[IO[bytes]]:
    if not is_packed(path):
        yield raw
        return
    with unpacked(raw, path, where=where) as file:
        whole = io.BytesIO(read_whole(file, where=where))
    yield whole


def _header(text: str, date: str) -> dict[str, Any]:
    return parse_minicbf_header(with_date(text, date))


def with_date(text: str, date: str) -> str:
    """Put the tag DateTime before a description, as a line of it that counts as header."""
    return f"# DateTime {date}\n{text}" if date else text


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the pixels of a TIFF file are, all of them within the file."""

    shape: tuple[int, int]
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]
    big_endian: bool
    text: str
    date: str
    """As the tag DateTime has it."""


def read_layout(file: IO[bytes], *, where: str, shape: tuple[int, int] | None = None) -> Layout:
    """Read the directory of a TIFF file; refuse what `offbragg.files.read_frame` does.

    Raises
    ------
    UnusualTiff
        If it is not an uncompressed file of 32 bits, or has tiles or several images.
    """
    size = file.seek(0, 2)
    file.seek(0)
    order, tags, another = _directory(file, size, where)
    if (
        another
        or _TILE_WIDTH in tags
        or _one(tags, _BITS, where, 1) != 32
        or _one(tags, _COMPRESSION, where, 1) != 1
        or _one(tags, _FILL_ORDER, where, 1) != 1
    ):
        raise UnusualTiff(f"{where} is a TIFF file of a kind that no camserver writes")
    rows, columns = _one(tags, _LENGTH, where), _one(tags, _WIDTH, where)
    if shape is not None and (rows, columns) != tuple(shape):
        raise RejectedFrame(
            f"{where} has {rows} rows × {columns} columns: expected {shape[0]} × {shape[1]}"
        )
    if not 0 < rows * columns <= _PIXEL_LIMIT:
        raise RejectedFrame(f"{where} claims {rows} × {columns} pixels: that is not believed")
    for tag, name, wanted, default in (
        (_SAMPLES, "samples per pixel", (1,), 1),
        (_FORMAT, "sample format", (1, 2), 1),
    ):
        value = _one(tags, tag, where, default)
        if value not in wanted:
            raise RejectedFrame(f"{where} has {name} {value}: only {wanted[0]} is read")
    offsets, lengths = _values(tags, _OFFSETS), _values(tags, _BYTES)
    if len(offsets) != len(lengths) or sum(lengths) != 4 * rows * columns:
        raise RejectedFrame(
            f"{where} has {sum(lengths)} bytes in {len(lengths)} strips for "
            f"{rows} × {columns} pixels of 4 bytes"
        )
    end = max(offset + length for offset, length in zip(offsets, lengths, strict=True))
    if end > size:
        raise IncompleteFrame(f"{where} has {size} of {end} bytes")
    text, date = _words(tags, _DESCRIPTION), _words(tags, _DATE)
    return Layout((rows, columns), offsets, lengths, order == ">", text, date)


def _words(tags: dict[int, tuple[int, ...] | bytes], tag: int) -> str:
    found = tags.get(tag)
    return found.decode("latin-1").rstrip("\0") if isinstance(found, bytes) else ""


def _directory(
    file: IO[bytes], size: int, where: str
) -> tuple[str, dict[int, tuple[int, ...] | bytes], bool]:
    """Read byte order, tags, and whether another directory follows."""
    head = file.read(8)
    if head[:4] in (b"II+\0", b"MM\0+") and len(head) == 8:
        raise UnusualTiff(f"{where} is a BigTIFF file")
    if head[:4] not in (b"II*\0"[: len(head)], b"MM\0*"[: len(head)]):
        raise RejectedFrame(f"{where} is not a TIFF file: it begins with {head[:4]!r}")
    if len(head) < 8:
        raise IncompleteFrame(f"{where} has {size} bytes: not even a TIFF header")
    order = "<" if head[:2] == b"II" else ">"
    (start,) = struct.unpack(f"{order}I", head[4:])
    if start < 8:
        # a writer that fills the pointer in at the end leaves 0 until then
        raise IncompleteFrame(f"{where} has no directory yet")
    count_bytes = _at(file, start, 2, size, where)
    (count,) = struct.unpack(f"{order}H", count_bytes)
    entries = _at(file, start + 2, 12 * count, size, where)
    following = _at(file, start + 2 + 12 * count, 4, size, where)
    tags: dict[int, tuple[int, ...] | bytes] = {}
    for tag, kind, n, value in struct.iter_unpack(f"{order}HHI4s", entries):
        if kind not in _SIZES or tag in tags:
            continue
        length = n * _SIZES[kind]
        if length > _TEXT_LIMIT and tag != _DESCRIPTION:
            raise RejectedFrame(f"{where} claims {n} values for TIFF tag {tag}")
        if length > 4:
            (offset,) = struct.unpack(f"{order}I", value)
            value = _at(file, offset, length, size, where, limit=_TEXT_LIMIT)
        data = value[:length]
        if kind in (1, 2):
            tags[tag] = data
        else:
            code = "H" if kind == 3 else "I"
            tags[tag] = struct.unpack(f"{order}{len(data) // _SIZES[kind]}{code}", data)
    return order, tags, any(following)


def _at(
    file: IO[bytes], start: int, length: int, size: int, where: str, *, limit: int = 1 << 20
) -> bytes:
    if start + length > size:
        raise IncompleteFrame(f"{where} has {size} of at least {start + length} bytes")
    file.seek(start)
    found = file.read(min(length, limit))
    if len(found) < min(length, limit):
        raise IncompleteFrame(f"{where} has become shorter than {start + length} bytes")
    return found


def _values(tags: dict[int, tuple[int, ...] | bytes], tag: int) -> tuple[int, ...]:
    value = tags.get(tag, ())
    return tuple(value) if isinstance(value, bytes) else value


def _one(
    tags: dict[int, tuple[int, ...] | bytes], tag: int, where: str, default: int | None = None
) -> int:
    values = _values(tags, tag)
    if values:
        return values[0]
    if default is None:
        raise RejectedFrame(f"{where} lacks TIFF tag {tag}")
    return default
