"""The first 48 bytes of an HDF5 file: who has it open, and where it ends.

A writer that dies leaves its mark there, and HDF5 then refuses the file. ``h5clear`` takes
the mark away but trusts the stored end of file, and cuts what lies behind it. Here the mark
is cleared, the end is moved behind everything that is in the file, and the old bytes are
kept beside it first. Layout: HDF5 File Format Specification, II.A, superblock version 3.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from offbragg.errors import ScanFileError

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LENGTH = 48
_WRITING, _SWMR = 0x01, 0x04


@dataclass(frozen=True, slots=True)
class Superblock:
    """What the superblock says about the file."""

    flags: int
    """0 without a writer; bit 0: open for writing, bit 2: SWMR."""
    end: int
    """Address behind the last byte that the file uses."""

    @property
    def writing(self) -> bool:
        """Whether a writer has it open, or died with it."""
        return bool(self.flags & (_WRITING | _SWMR))

    @property
    def opening(self) -> bool:
        """Whether a writer has opened it and not yet begun SWMR (or died just there)."""
        return bool(self.flags & _WRITING) and not self.flags & _SWMR


def read_superblock(path: Path) -> Superblock:
    """Read and check the superblock of an HDF5 file of the layout that we write."""
    with path.open("rb") as file:
        return superblock_of(file.read(_LENGTH), path)


def release(path: Path, *, keep: Path) -> None:
    """Make a file that its dead writer left open readable again; nothing of it is lost.

    Parameters
    ----------
    path
        The file, which no process may have open for writing.
    keep
        Where the superblock as it was is kept; if that of ``path`` is damaged and this holds a
        good one, it is put back first.
    """
    with path.open("r+b") as file:
        raw = file.read(_LENGTH)
        try:
            block = superblock_of(raw, path)
        except ScanFileError:
            if not keep.exists():
                raise
            raw = keep.read_bytes()
            block = superblock_of(raw, keep)
        keep.write_bytes(raw)
        size = os.fstat(file.fileno()).st_size
        end = max(block.end, size)
        if size < end:
            file.truncate(end)
        file.seek(0)
        file.write(_released(raw, end))
        file.flush()
        os.fsync(file.fileno())


def released_superblock(path: Path) -> bytes:
    """Return the superblock as `release` would leave it; nothing is changed."""
    with path.open("rb") as file:
        raw = file.read(_LENGTH)
        return _released(raw, max(superblock_of(raw, path).end, os.fstat(file.fileno()).st_size))


def _released(raw: bytes, end: int) -> bytes:
    new = bytearray(raw[:44])
    new[11] = 0
    new[28:36] = struct.pack("<Q", end)
    return bytes(new) + struct.pack("<I", lookup3(bytes(new)))


def superblock_of(raw: bytes, path: Path) -> Superblock:
    """Check the first 48 bytes of a file; see `read_superblock`."""
    if len(raw) < _LENGTH or raw[:8] != _SIGNATURE:
        raise ScanFileError(f"{path.name} is not an HDF5 file: it begins with {raw[:8]!r}")
    if raw[8] not in (2, 3) or raw[9:11] != b"\x08\x08":
        raise ScanFileError(
            f"{path.name} has an HDF5 superblock of version {raw[8]}: offbragg did not write it"
        )
    (checksum,) = struct.unpack("<I", raw[44:48])
    if checksum != lookup3(raw[:44]):
        raise ScanFileError(f"{path.name} has a damaged superblock: its checksum is wrong")
    (end,) = struct.unpack("<Q", raw[28:36])
    return Superblock(flags=raw[11], end=end)


def lookup3(data: bytes) -> int:
    """Bob Jenkins' lookup3 hash (hashlittle, initial value 0), HDF5's metadata checksum.

    Examples
    --------
    >>> hex(lookup3(b"Four score and seven years ago"))
    '0x17770551'
    """
    mask = 0xFFFFFFFF

    def rotated(value: int, by: int) -> int:
        return ((value << by) | (value >> (32 - by))) & mask

    a = b = c = (0xDEADBEEF + len(data)) & mask
    position = 0
    while len(data) - position > 12:
        x, y, z = struct.unpack_from("<III", data, position)
        a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
        for by_a, by_b, by_c in ((4, 6, 8), (16, 19, 4)):
            a = (a - c) & mask ^ rotated(c, by_a)
            c = (c + b) & mask
            b = (b - a) & mask ^ rotated(a, by_b)
            a = (a + c) & mask
            c = (c - b) & mask ^ rotated(b, by_c)
            b = (b + a) & mask
        position += 12
    if position == len(data):
        return c
    x, y, z = struct.unpack("<III", data[position:].ljust(12, b"\0"))
    a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
    for by_c, by_a, by_b in ((14, 11, 25), (16, 4, 14)):
        c = ((c ^ b) - rotated(b, by_c)) & mask
        a = ((a ^ c) - rotated(c, by_a)) & mask
        b = ((b ^ a) - rotated(a, by_b)) & mask
    return ((c ^ b) - rotated(b, 24)) & mask
