"""Pilatus TIFF files: one uncompressed int32 frame.

TIFF has no checksum: such frames are never ``verified``. The directory is read here, so that
a file that is cut short is told from one that lies, before anything is allocated.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from offbragg.errors import IncompleteFrame, RejectedFrame
from offbragg.files.cbf import parse_minicbf_header
from offbragg.frame import Frame

_WIDTH, _LENGTH, _BITS, _COMPRESSION = 256, 257, 258, 259
_DESCRIPTION, _OFFSETS, _SAMPLES, _BYTES, _FORMAT = 270, 273, 277, 279, 339
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4}  # BYTE, ASCII, SHORT, LONG
_PIXEL_LIMIT = 1 << 26
_TEXT_LIMIT = 1 << 16


def read_tiff(path: Path | str, *, number: int, shape: tuple[int, int] | None = None) -> Frame:
    """Read one TIFF file; see `offbragg.files.read_frame`."""
    path = Path(path)
    where = f"frame {number}: {path.name}"
    with path.open("rb") as file:
        layout = read_layout(file, where=where, shape=shape)
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
    return Frame(
        number=number,
        counts=counts.reshape(rows, columns),
        header=parse_minicbf_header(layout.text),
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the pixels of a TIFF file are, all of them within the file."""

    shape: tuple[int, int]
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]
    big_endian: bool
    text: str


def read_layout(file: IO[bytes], *, where: str, shape: tuple[int, int] | None = None) -> Layout:
    """Read the directory of a TIFF file; refuse what `offbragg.files.read_frame` does."""
    size = os.fstat(file.fileno()).st_size
    order, tags = _directory(file, size, where)
    rows, columns = _one(tags, _LENGTH, where), _one(tags, _WIDTH, where)
    if shape is not None and (rows, columns) != tuple(shape):
        raise RejectedFrame(
            f"{where} has {rows} rows × {columns} columns: expected {shape[0]} × {shape[1]}"
        )
    if not 0 < rows * columns <= _PIXEL_LIMIT:
        raise RejectedFrame(f"{where} claims {rows} × {columns} pixels: that is not believed")
    for tag, name, wanted, default in (
        (_BITS, "bits per pixel", (32,), 1),
        (_COMPRESSION, "compression", (1,), 1),
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
    text = tags.get(_DESCRIPTION)
    words = text.decode("latin-1") if isinstance(text, bytes) else ""
    return Layout((rows, columns), offsets, lengths, order == ">", words.rstrip("\0"))


def _directory(
    file: IO[bytes], size: int, where: str
) -> tuple[str, dict[int, tuple[int, ...] | bytes]]:
    head = file.read(8)
    if head[:4] not in (b"II*\0"[: len(head)], b"MM\0*"[: len(head)]):
        raise RejectedFrame(f"{where} is no TIFF file: it begins with {head[:4]!r}")
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
    return order, tags


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
