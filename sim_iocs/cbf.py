"""CBF files as a Pilatus camserver writes them: byte-offset compression, header, Content-MD5."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAGIC = b"\x0c\x1a\x04\xd5"
PADDING = 4095


def encode_byte_offset(counts: NDArray[np.int32]) -> bytes:
    """Compress counts as the differences of neighbours, in 1, 3, 7 or 15 bytes each.

    A difference that does not fit a signed byte is written after the escape ``80``; one that does
    not fit 16 bits after ``80 00 80``, one that does not fit 32 bits after ``80 00 80 00 00 00 80``
    (the format of CBFlib's ``x-CBF_BYTE_OFFSET``, little endian).
    """
    flat = counts.ravel()
    if flat.size == 0:
        return b""
    # int32 differences can need 33 bits; only then are 64 worth their time
    narrow = bool(flat.min() >= -(2**30) and flat.max() < 2**30)
    wide = flat if narrow else flat.astype(np.int64)
    delta = np.empty_like(wide)
    delta[0] = wide[0]
    np.subtract(wide[1:], wide[:-1], out=delta[1:])

    escaped = np.flatnonzero((delta > 127) | (delta < -127))
    one_byte = delta.astype(np.int8).view(np.uint8)
    if escaped.size == 0:
        return one_byte.tobytes()

    big = delta[escaped].astype(np.int64)
    long = np.abs(big) > 32767
    longest = np.abs(big) > 2147483647
    extra = 2 + 4 * long + 8 * longest  # bytes beyond the first

    # a plain difference moves by what the escapes before it add
    out = np.zeros(flat.size + int(extra.sum()), np.uint8)
    before = np.concatenate([[0], np.cumsum(extra)])
    where = escaped + before[:-1]
    plain = np.ones(out.size, bool)
    for i in range(15):
        part = where[extra >= i] if i < 3 else where[extra >= (6 if i < 7 else 14)]
        plain[part + i] = False
    out[plain] = np.delete(one_byte, escaped)

    out[where] = 0x80
    for chosen, offset, kind in (
        (~long, 1, "<i2"),
        (long & ~longest, 3, "<i4"),
        (longest, 7, "<i8"),
    ):
        if chosen.any():
            data = big[chosen].astype(kind).view(np.uint8).reshape(-1, np.dtype(kind).itemsize)
            for i in range(data.shape[1]):
                out[where[chosen] + offset + i] = data[:, i]
    out[where[long] + 2] = 0x80  # 80 00 80
    out[where[longest] + 6] = 0x80  # 80 00 80 00 00 00 80
    return out.tobytes()


def encode_cbf(counts: NDArray[np.int32], *, name: str, header: list[str]) -> bytes:
    """Make a whole miniCBF file.

    Parameters
    ----------
    counts
        Pixels, shape (slow, fast).
    name
        The file's name without its ending; it names the data block.
    header
        Lines of the header, without the leading ``# ``.
    """
    slow, fast = counts.shape
    binary = encode_byte_offset(counts)
    digest = base64.b64encode(hashlib.md5(binary, usedforsecurity=False).digest()).decode()
    lines = [
        "###CBF: VERSION 1.5, CBFlib v0.7.8 - PILATUS detectors",
        "",
        f"data_{name}",
        "",
        '_array_data.header_convention "PILATUS_1.2"',
        "_array_data.header_contents",
        ";",
        *(f"# {line}" for line in header),
        ";",
        "",
        "_array_data.data",
        ";",
        "--CIF-BINARY-FORMAT-SECTION--",
        "Content-Type: application/octet-stream;",
        '     conversions="x-CBF_BYTE_OFFSET"',
        "Content-Transfer-Encoding: BINARY",
        f"X-Binary-Size: {len(binary)}",
        "X-Binary-ID: 1",
        'X-Binary-Element-Type: "signed 32-bit integer"',
        "X-Binary-Element-Byte-Order: LITTLE_ENDIAN",
        f"Content-MD5: {digest}",
        f"X-Binary-Number-of-Elements: {counts.size}",
        f"X-Binary-Size-Fastest-Dimension: {fast}",
        f"X-Binary-Size-Second-Dimension: {slow}",
        f"X-Binary-Size-Padding: {PADDING}",
        "",
        "",
    ]
    text = "\r\n".join(lines).encode("utf-8")
    tail = b"\r\n--CIF-BINARY-FORMAT-SECTION----\r\n;\r\n\r\n"
    return b"".join([text, MAGIC, binary, bytes(PADDING), tail])


@dataclass(frozen=True, slots=True)
class Layout:
    """Position of the pixels in a CBF file, from its header."""

    shape: tuple[int, int]
    start: int
    size: int


def cbf_layout(content: bytes) -> Layout | None:
    """Read the header of a CBF file; None if it is not all there."""
    start = content.find(MAGIC)
    if start < 0:
        return None
    header = content[:start]
    numbers = []
    for key in (b"Size-Second-Dimension", b"Size-Fastest-Dimension", b"Size"):
        found = re.search(rb"^X-Binary-" + key + rb":\s*(\d+)\s*$", header, re.MULTILINE)
        if found is None:
            return None
        numbers.append(int(found[1]))
    return Layout((numbers[0], numbers[1]), start + len(MAGIC), numbers[2])
