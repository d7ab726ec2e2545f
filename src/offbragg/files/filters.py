"""What a chunk becomes when HDF5 decodes it, looked at before it does.

A filter may make as much of a chunk as the chunk says: two kB of DEFLATE, run through the filter
twice, become gigabytes, whatever the dataset's shape is. So of a dataset that somebody else may
have made the filters are looked at, and of each chunk how large it will be.
"""

from __future__ import annotations

import itertools
import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from offbragg.errors import ScanFileError
from offbragg.files.direct_chunks import read_chunk

DEFLATE, SHUFFLE, FLETCHER32, LZ4, BITSHUFFLE = 1, 2, 3, 32004, 32008
_SUM = 4  # bytes that Fletcher32 appends
_PIECE = 1 << 20  # bytes that are inflated at a time
_SLACK = 1 << 16  # bytes that a chunk may be larger than what it holds


def filters_of(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Return the numbers of a dataset's filters, in the order in which they are applied."""
    plist: Any = dataset.id.get_create_plist()
    return tuple(plist.get_filter(i)[0] for i in range(plist.get_nfilters()))


def check_filters(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Return the filters of a dataset whose chunks can be bounded by `check_chunk`.

    Raises
    ------
    ScanFileError
        If there is one that is not known here, or more than one that compresses.
    """
    found = filters_of(dataset)
    unknown = set(found) - {DEFLATE, SHUFFLE, FLETCHER32, LZ4, BITSHUFFLE}
    compressors = [code for code in found if code in (DEFLATE, LZ4, BITSHUFFLE)]
    if unknown or len(compressors) > 1 or len(set(found)) < len(found):
        raise ScanFileError(
            f"{dataset.name} is not read: its chunks go through the filters {list(found)}, and "
            "how large they would become cannot be known before\n"
            "Copy the file without filters: h5repack -f NONE OLD NEW"
        )
    return found


def check_chunk(dataset: h5py.Dataset, found: tuple[int, ...], mask: int, chunk: Any) -> None:
    """Refuse a chunk that does not become what a chunk of its dataset is.

    Parameters
    ----------
    dataset
        Chunked.
    found
        Its filters, of `check_filters`.
    mask
        Bits of the filters that were left out for this chunk.
    chunk
        Its bytes as they are stored.

    Raises
    ------
    ScanFileError
        Saying how large it would be, as far as it was looked at.
    """
    expected = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
    applied = [code for i, code in enumerate(found) if not mask >> i & 1]
    view = memoryview(chunk)
    if FLETCHER32 in applied and len(view) >= _SUM:
        view = view[:-_SUM]  # always the last one here
    if DEFLATE in applied:
        size = _inflated(view, expected)
    elif LZ4 in applied or (BITSHUFFLE in applied and _has_header(dataset, found)):
        size = struct.unpack(">Q", view[:8])[0] if len(view) >= 12 else -1
    else:
        size = len(view)
    if size != expected:
        least = "more than " * (size > expected and DEFLATE in applied)
        raise ScanFileError(
            f"{dataset.name} is not read: one of its chunks becomes {least}{max(size, 0):,} bytes, "
            f"where {expected:,} belong"
        )


def check_part(dataset: h5py.Dataset, part: tuple[slice, ...] | None = None) -> None:
    """Refuse a part of a dataset, or all of it, if one of its chunks is another size than it says.

    Parameters
    ----------
    dataset
        Of any layout; what has no filters cannot grow.
    part
        One slice for each of its dimensions; None: all of it.

    Raises
    ------
    ScanFileError
        As `check_filters` and `check_chunk`.
    """
    if not dataset.chunks or not dataset.shape or not filters_of(dataset):
        return
    found = check_filters(dataset)
    most = 2 * math.prod(dataset.chunks) * dataset.dtype.itemsize + _SLACK
    file: Any = dataset.file.id
    room = np.empty(min(most, file.get_filesize()), np.uint8)
    for place in chunks_of(dataset, part):
        try:
            read = read_chunk(dataset, place, room)
        except ValueError as error:
            raise ScanFileError(
                f"{dataset.name} is not read: one of its chunks has more than {room.size:,} bytes"
            ) from error
        except (OSError, RuntimeError) as error:
            raise ScanFileError(f"{dataset.name} cannot be read: {error}") from error
        if read is not None:
            check_chunk(dataset, found, *read)


def chunks_of(dataset: h5py.Dataset, part: tuple[slice, ...] | None) -> Iterator[tuple[int, ...]]:
    """First element of each chunk that a part touches."""
    slices = part or (slice(None),) * dataset.ndim
    along: list[list[int]] = []
    for n, size, asked in zip(dataset.shape, dataset.chunks or (), slices, strict=True):
        numbers = range(n)[asked]
        if not len(numbers):
            return
        low, high = min(numbers[0], numbers[-1]), max(numbers[0], numbers[-1])
        along.append(list(range(low // size * size, high + 1, size)))
    yield from itertools.product(*along)


def _has_header(dataset: h5py.Dataset, found: tuple[int, ...]) -> bool:
    """Return whether bitshuffle compresses, and so says before a chunk how large it becomes."""
    plist: Any = dataset.id.get_create_plist()
    values = plist.get_filter(found.index(BITSHUFFLE))[2]
    return len(values) > 4 and values[4] in (2, 3)


def _inflated(chunk: memoryview, most: int) -> int:
    """Return how many bytes DEFLATE makes of a chunk; one more than ``most`` if it is more."""
    inflater = zlib.decompressobj()
    size, left = 0, bytes(chunk)
    try:
        while left and not inflater.eof:
            size += len(inflater.decompress(left, _PIECE))
            if size > most:
                return most + 1
            left = inflater.unconsumed_tail
        size += len(inflater.flush(_PIECE)) if not inflater.eof else 0
    except zlib.error:
        return -1
    return min(size, most + 1)
