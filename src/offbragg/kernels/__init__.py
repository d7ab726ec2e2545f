"""Frames at the speed of memory: decode, check, compress, and read back.

The kernels are C, and optional: where there was no compiler, `compiled` is false and `level` is
``"reference"``, plain NumPy that gives the same bytes slowly. Each function takes a ``level``, so
that tests and benchmarks can hold them against each other; otherwise the best one that this
processor runs is taken.

Buffers are the caller's, and made to be used again: a fresh one of 10 MB costs more in page
faults than a frame takes here. The GIL is released, and nothing is shared between calls, so any
number of threads can work with buffers of their own. Whatever the bytes say, nothing outside
the given buffers is read or written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from offbragg.errors import RejectedFrame, ScanFileError
from offbragg.kernels import reference

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

try:
    from offbragg.kernels import _kernels
except ImportError:
    _kernels = None

__all__ = [
    "available",
    "chunk_bound",
    "compiled",
    "crc64",
    "crc64_combine",
    "decode",
    "decode_cells",
    "decode_chunk",
    "decode_encode",
    "encode",
    "encode_cells",
    "level",
    "md5",
    "strips",
    "tiles",
]

_LEVELS: tuple[str, ...] = (*(_kernels.levels() if _kernels else ()), "reference")
_NUMBER = {name: i for i, name in enumerate(reversed(_LEVELS[:-1]))}

compiled = _kernels is not None
"""Whether the C is there."""

level = _LEVELS[0]
"""The best level here, which is taken unless another is asked for."""


def available() -> tuple[str, ...]:
    """Levels that run here, best first; the last one is always ``"reference"``."""
    return _LEVELS


def chunk_bound(n: int) -> int:
    """Bytes that a buffer for a chunk of ``n`` pixels must have, whatever the pixels are.

    Examples
    --------
    >>> chunk_bound(1679 * 1475)
    9976558
    """
    return 12 + (n // 2048 + 1) * (4 + 8192 + 33 + 16) + 32 + 64


def decode(stream: Buffer, out: NDArray[np.int32], *, level: str = level) -> None:
    r"""Decode a CBF's byte-offset stream.

    Parameters
    ----------
    stream
        The binary section, all of it and nothing else.
    out
        int32, C-contiguous, any shape; as many pixels as the stream must have.
    level
        One of `available`.

    Raises
    ------
    RejectedFrame
        If the stream ends early, goes on behind the last pixel, or has a pixel that does not
        fit in 32 bits. Pixels before that are decoded.

    Examples
    --------
    >>> out = np.empty(4, np.int32)
    >>> decode(b"\x05\xff\x80\xe8\x03\x00", out)
    >>> out
    array([   5,    4, 1004, 1004], dtype=int32)
    """
    _check(out, "out")
    number = number_of(level)
    if number is None:
        status, done = reference.decode(stream, out)
    else:
        status, done = number[0].decode(number[1], stream, out)
    _accept(status, done, out.size)


def encode(
    counts: NDArray[np.int32], chunk: NDArray[np.uint8], *, level: str = level
) -> NDArray[np.uint8]:
    """Compress counts as HDF5's bitshuffle filter (32008) with LZ4 does.

    Parameters
    ----------
    counts
        int32, C-contiguous, any shape.
    chunk
        uint8, at least `chunk_bound` of the counts' size.

    Returns
    -------
    chunk
        The part of ``chunk`` that was filled, for `h5py.h5d.DatasetID.write_direct_chunk`. It
        is the same at every level.
    """
    _check(counts, "counts")
    _check_chunk(chunk, counts.size)
    number = number_of(level)
    if number is None:
        return _put(reference.encode(counts), chunk)
    return chunk[: number[0].encode(number[1], counts, chunk)]


def encode_cells(
    cells: NDArray[Any], chunk: NDArray[np.uint8], *, level: str = level
) -> NDArray[np.uint8]:
    """Compress cells of a volume as HDF5's bitshuffle with LZ4 does, and then its Fletcher32.

    Parameters
    ----------
    cells
        Of 4 or 8 bytes each (float32, float64, integers), C-contiguous, any shape.
    chunk
        uint8, at least 4 bytes more than the `chunk_bound` of as many bytes of pixels.

    Returns
    -------
    chunk
        The part of ``chunk`` that was filled, as from `encode`, with the checksum behind it.
    """
    if cells.itemsize not in (4, 8) or not cells.flags.c_contiguous or not cells.flags.aligned:
        raise ValueError(f"cells must have 4 or 8 bytes and be C-contiguous, not {cells.dtype}")
    _check_chunk(chunk[:-4], cells.nbytes // 4)
    number = number_of(level)
    if number is None:
        return _put(reference.encode_cells(cells), chunk)
    octets = cells.reshape(-1).view(np.uint8)
    return chunk[: number[0].encode_cells(number[1], cells.itemsize == 8, octets, chunk)]


def decode_encode(
    stream: Buffer,
    n: int,
    chunk: NDArray[np.uint8],
    *,
    image: NDArray[np.int32] | None = None,
    level: str = level,
) -> NDArray[np.uint8]:
    """Decode a byte-offset stream and compress what comes out, in one go.

    Parameters
    ----------
    stream
        As in `decode`.
    n
        How many pixels it must have.
    chunk
        As in `encode`.
    image
        Keeps the decoded counts, if given: int32, C-contiguous, ``n`` pixels. Without it no
        more than 8 KiB of them are in memory at any time.

    Returns
    -------
    chunk
        As from `encode`.

    Raises
    ------
    RejectedFrame
        As from `decode`.
    """
    if n < 0:
        raise ValueError(f"a frame of {n} pixels cannot be")
    if image is not None:
        _check(image, "image")
        if image.size != n:
            raise ValueError(f"an image of {image.size} pixels cannot keep {n}")
    _check_chunk(chunk, n)
    number = number_of(level)
    if number is None:
        out = np.empty(n, np.int32) if image is None else image
        decode(stream, out, level=level)
        return _put(reference.encode(out), chunk)
    status, done, length = number[0].decode_encode(number[1], stream, n, chunk, image)
    _accept(status, done, n)
    return chunk[:length]


def md5(buffers: Sequence[Buffer], *, level: str = level) -> list[bytes]:
    """MD5 of many buffers at once, one of them per lane of the processor's vectors.

    Sixteen frames take little longer than three. One or two are quicker with hashlib.

    Examples
    --------
    >>> [digest.hex()[:8] for digest in md5([b"", b"abc"])]
    ['d41d8cd9', '90015098']
    """
    number = number_of(level)
    if number is None:
        return reference.md5(buffers)
    return number[0].md5(number[1], tuple(buffers))


def crc64(data: Buffer | NDArray[np.uint8], before: int = 0, *, level: str = level) -> int:
    """CRC-64/XZ, the checksum of ``xz --check=crc64`` (ECMA-182, reflected).

    No change within 64 bits that follow each other passes unseen, so no changed byte does.

    Parameters
    ----------
    data
        Any bytes.
    before
        The CRC of what comes before them.

    Examples
    --------
    >>> hex(crc64(b"123456789"))
    '0x995dc9bbdf1939fa'
    >>> crc64(b"789", crc64(b"123456")) == crc64(b"123456789")
    True
    """
    number = number_of(level)
    if number is None:
        return reference.crc64(memoryview(data), before)  # type: ignore[arg-type]
    return number[0].crc64(number[1], before, data)


def crc64_combine(first: int, second: int, length: int, *, level: str = level) -> int:
    """CRC-64/XZ of two parts, one behind the other, from those of each.

    Parameters
    ----------
    first, second
        Their CRCs.
    length
        Bytes of the second part.

    Examples
    --------
    >>> crc64_combine(crc64(b"123456"), crc64(b"789"), 3) == crc64(b"123456789")
    True
    """
    number = number_of(level)
    if number is None:
        return reference.crc64_combine(first, second, length)
    return number[0].crc64_combine(first, second, length)


def strips(
    data: Buffer,
    offsets: ArrayLike,
    lengths: ArrayLike,
    out: NDArray[np.int32],
    *,
    big_endian: bool = False,
    level: str = level,
) -> None:
    """Put the uncompressed strips of a TIFF file one behind the other.

    Parameters
    ----------
    data
        The file.
    offsets, lengths
        Where each strip is and how many bytes it has, in the order of the image.
    out
        int32, C-contiguous, any shape; the strips must fill it exactly.
    big_endian
        Whether the file's words are.

    Raises
    ------
    RejectedFrame
        If a strip is not within the file, or the strips do not fill ``out``.
    """
    _check(out, "out")
    number = number_of(level)
    starts = np.ascontiguousarray(offsets, np.uint64).reshape(-1)
    sizes = np.ascontiguousarray(lengths, np.uint64).reshape(-1)
    if starts.size != sizes.size:
        raise ValueError(f"{starts.size} offsets and {sizes.size} lengths are not of one file")
    if number is None:
        fit = reference.strips(data, starts, sizes, big_endian=big_endian, out=out)
    else:
        fit = number[0].strips(data, starts, sizes, big_endian, out)
    if not fit:
        raise RejectedFrame(
            f"{starts.size} strips of {int(sizes.sum())} bytes are not within the file or do not "
            f"fill {out.size} pixels of 4 bytes"
        )


def decode_chunk(
    chunk: Buffer | NDArray[np.uint8],
    out: NDArray[np.int32],
    *,
    pixels: int | None = None,
    first: int = 0,
    level: str = level,
) -> None:
    """Decode a chunk of HDF5's bitshuffle filter (32008) with LZ4, or a part of it.

    Blocks of any multiple of 8 pixels up to 16384 are read. Of a part, only the blocks that hold
    some of it are decoded.

    Parameters
    ----------
    chunk
        Its bytes as they are stored, all of them and nothing else.
    out
        int32, C-contiguous, any shape; takes pixels ``first`` to ``first + out.size`` of the chunk.
    pixels
        How many pixels the chunk must have; if None, as many as ``out``.
    first
        The first pixel that is wanted.

    Raises
    ------
    ScanFileError
        If the chunk is not what such a chunk is. Pixels before that are decoded.

    Examples
    --------
    >>> counts = np.arange(5000, dtype=np.int32)
    >>> chunk = encode(counts, np.empty(chunk_bound(counts.size), np.uint8))
    >>> out = np.empty(3, np.int32)
    >>> decode_chunk(chunk, out, pixels=5000, first=4095)
    >>> out
    array([4095, 4096, 4097], dtype=int32)
    """
    _check(out, "out")
    n = out.size if pixels is None else pixels
    if not 0 <= first <= n - out.size:
        raise ValueError(f"a chunk of {n} pixels has no {out.size} pixels from {first} on")
    number = number_of(level)
    if number is None:
        status, done = reference.decode_chunk(chunk, n, first, out)  # type: ignore[arg-type]
    else:
        status, done = number[0].decode_chunk(number[1], chunk, n, first, out)
    if status != reference.OK:
        where = f"after {done} of {out.size} pixels from pixel {first} on"
        raise ScanFileError(f"the chunk {_WRONG[status]} ({where}; its frame has {n} pixels)")


def tiles(
    counts: NDArray[np.int32], *, level: str = level
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Find medians of the tiles of a frame, 16 × 16 pixels, and the highest counts.

    Parameters
    ----------
    counts
        int32, C-contiguous, shape (slow, fast).

    Returns
    -------
    number
        How many of each second pixel of each second row of a tile have a count (not negative, and
        not the highest that a pixel can have), shape (tile, tile).
    middle
        Their median, a little below the middle (rank 9/20); 0 where none has a count.
    highest
        The highest count of each column of a band of tiles, or −1, shape (tile, fast).

    Examples
    --------
    >>> tiles(np.full((16, 3), 7, np.int32))
    (array([[16]], dtype=int32), array([[7]], dtype=int32), array([[7, 7, 7]], dtype=int32))
    """
    _check(counts, "counts")
    rows, columns = counts.shape
    shape = -(-rows // reference.TILE), -(-columns // reference.TILE)
    number, middle = np.empty(shape, np.int32), np.empty(shape, np.int32)
    highest = np.empty((shape[0], columns), np.int32)
    compiled_level = number_of(level)
    if compiled_level is None:
        reference.tiles(counts, number, middle, highest)
    else:
        module, n = compiled_level
        module.tiles(n, counts, rows, columns, number, middle, highest)
    return number, middle, highest


_WRONG = {
    reference.TRUNCATED: "ends too early",
    reference.SURPLUS: "goes on behind its last pixel",
    reference.BAD_SIZE: "says that it has another number of pixels",
    reference.BAD_BLOCK: "has blocks of a size that is not read",
    reference.BAD_LZ4: "has a block that is not LZ4 of its size",
    reference.BAD_SUM: "does not have its checksum",
}


def decode_cells(
    chunk: Buffer,
    out: NDArray[Any],
    *,
    cells: int | None = None,
    first: int = 0,
    level: str = level,
) -> None:
    """Decode a chunk of `encode_cells` or of HDF5's same two filters, or a part of it.

    Parameters
    ----------
    chunk
        Its bytes as they are stored; the checksum is compared first.
    out
        Of 4 or 8 bytes each, C-contiguous, any shape; takes as many cells from ``first`` on.
    cells
        How many cells the chunk must have; if None, as many as ``out``.
    first
        The first cell that is wanted.

    Raises
    ------
    ScanFileError
        If the chunk is not what such a chunk is.
    """
    if out.itemsize not in (4, 8) or not out.flags.c_contiguous or not out.flags.aligned:
        raise ValueError(f"cells must have 4 or 8 bytes and be C-contiguous, not {out.dtype}")
    n = out.size if cells is None else cells
    if not 0 <= first <= n - out.size:
        raise ValueError(f"a chunk of {n} cells has no {out.size} cells from {first} on")
    number = number_of(level)
    if number is None:
        status, done = reference.decode_cells(chunk, n, first, out)
    else:
        octets = out.reshape(-1).view(np.uint8)
        status, done = number[0].decode_cells(number[1], out.itemsize == 8, chunk, n, first, octets)
    if status != reference.OK:
        where = f"after {done} of {out.size} cells from cell {first} on"
        raise ScanFileError(f"the chunk {_WRONG[status]} ({where}; it has {n} cells)")


def number_of(level: str) -> tuple[Any, int] | None:
    """Find the compiled module and its number for a level; None for the reference."""
    if level == "reference":
        return None
    if _kernels is None or level not in _NUMBER:
        raise ValueError(f"kernel level {level!r} does not run here: {', '.join(_LEVELS)} do")
    return _kernels, _NUMBER[level]


def _check(pixels: NDArray[np.int32], name: str) -> None:
    if pixels.dtype != np.int32 or not pixels.flags.c_contiguous or not pixels.flags.aligned:
        raise ValueError(f"{name} must be int32 and C-contiguous, not {pixels.dtype}")


def _check_chunk(chunk: NDArray[np.uint8], n: int) -> None:
    if chunk.dtype != np.uint8 or chunk.ndim != 1 or not chunk.flags.c_contiguous:
        raise ValueError(f"chunk must be a row of uint8, not {chunk.dtype} of shape {chunk.shape}")
    if chunk.size < chunk_bound(n):
        raise ValueError(
            f"a chunk of {n} pixels needs a buffer of {chunk_bound(n)} bytes, not {chunk.size}"
        )


def _put(text: bytes, chunk: NDArray[np.uint8]) -> NDArray[np.uint8]:
    chunk[: len(text)] = np.frombuffer(text, np.uint8)
    return chunk[: len(text)]


def _accept(status: int, done: int, n: int) -> None:
    if status == reference.TRUNCATED:
        raise RejectedFrame(f"the stream ends after {done} of {n} pixels")
    if status == reference.SURPLUS:
        raise RejectedFrame(f"the stream goes on behind the last of {n} pixels")
    if status == reference.OVERFLOW:
        raise RejectedFrame(f"pixel {done} of {n} does not fit in 32 bits")
