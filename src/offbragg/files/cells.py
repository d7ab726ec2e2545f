"""Chunks of a volume file as they are stored: bitshuffle with LZ4, Fletcher's checksum behind it.

What HDF5's filters would do on one thread is done here, so that several threads can do it, and of
a plane of l only the blocks that hold it are decoded.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offbragg import kernels
from offbragg.bricks import BRICK
from offbragg.errors import ScanFileError
from offbragg.files.filters import BITSHUFFLE, FLETCHER32, check_part, filters_of
from offbragg.files.frame_pool import processors

_LZ4 = 2  # what bitshuffle compresses with
_BLOCK = 8192  # bytes, as bitshuffle has it
_FEW = 8  # chunks that are decoded before threads could have begun
_SHARES = 4  # of the chunks for each thread
_NOT_STORED = "not allocated"  # what HDF5 says of a chunk that is not there
_NO_ROOM = np.empty(0, np.uint8)
_ROOM = threading.local()


def encode(cells: NDArray[Any]) -> bytes:
    """Compress the cells of a chunk.

    Parameters
    ----------
    cells
        Of 4 or 8 bytes each, little-endian, C-contiguous.

    Returns
    -------
    chunk
        For `h5py.h5d.DatasetID.write_direct_chunk` of a dataset with these two filters.
    """
    if not kernels.compiled:
        return _by_libraries(cells)
    size = kernels.chunk_bound(cells.nbytes // 4) + 4
    room: NDArray[np.uint8] | None = getattr(_ROOM, "buffer", None)
    if room is None or room.size < size:
        room = _ROOM.buffer = np.empty(size, np.uint8)
    return kernels.encode_cells(cells, room).tobytes()


class StoredArray:
    """An array of a volume file, read in boxes.

    Parameters
    ----------
    data
        An h5py dataset of three dimensions; anybody may have made it.
    """

    def __init__(self, data: Any) -> None:
        self._data = data
        self._chunks: tuple[int, ...] = data.chunks or ()
        self._kind: np.dtype[Any] = data.dtype
        self._fill = data.fillvalue
        self._bricks = self._chunks == tuple(min(BRICK, n) for n in data.shape)
        self._ours = kernels.compiled and self._bricks and _has_our_filters(data)

    def read(self, part: tuple[slice, ...]) -> NDArray[Any]:
        """Read a box; several threads may do so at once.

        Parameters
        ----------
        part
            Slices with a start and a stop within it, in steps of 1.

        Raises
        ------
        ScanFileError, OSError, RuntimeError
            If it is damaged, or what it holds cannot be bounded.
        """
        if self._ours:
            try:
                return self._read_direct(part)
            except (ScanFileError, OSError, RuntimeError):
                pass  # HDF5 decides whether it is damaged
        check_part(self._data, part)
        return self._data[part]

    def stores(self, part: tuple[slice, ...]) -> bool:
        """Return whether a brick is stored; what is not is the fill value, 0 or NaN.

        Raises
        ------
        OSError, RuntimeError
            If that cannot be read.
        """
        if not self._bricks:
            return True
        try:
            return self._chunk(tuple(each.start for each in part), _NO_ROOM) is not None
        except ScanFileError:  # it has a size
            return True

    def _read_direct(self, part: tuple[slice, ...]) -> NDArray[Any]:
        out = np.full([each.stop - each.start for each in part], self._fill, self._kind)
        l, k, h = (_parts(each, n) for each, n in zip(part, self._chunks, strict=True))  # noqa: E741
        jobs = list(itertools.product(l, k, h))
        if len(jobs) < _FEW:
            self._decode(out, jobs)
        else:
            some = -(-len(jobs) // (_SHARES * processors()))
            shares = [jobs[at : at + some] for at in range(0, len(jobs), some)]
            with ThreadPoolExecutor(processors(), thread_name_prefix="cells") as pool:
                deque(pool.map(partial(self._decode, out), shares), maxlen=0)
        return out

    def _decode(self, out: NDArray[Any], jobs: Sequence[tuple[_Part, _Part, _Part]]) -> None:
        """Decode what is wanted of some chunks, into their parts of the box."""
        cells, layer = math.prod(self._chunks), math.prod(self._chunks[1:])
        room = np.empty(kernels.chunk_bound(cells * self._kind.itemsize // 4) + 4, np.uint8)
        for l, k, h in jobs:  # noqa: E741
            chunk = self._chunk((l.begin, k.begin, h.begin), room)
            if chunk is None:
                continue
            decoded = np.empty((l.inner.stop - l.inner.start, *self._chunks[1:]), self._kind)
            kernels.decode_cells(chunk, decoded, cells=cells, first=l.inner.start * layer)
            out[l.outer, k.outer, h.outer] = decoded[:, k.inner, h.inner]

    def _chunk(self, place: tuple[int, ...], room: NDArray[np.uint8]) -> memoryview | None:
        """Read a chunk as it is stored; None: it is not.

        HDF5 is not asked where a chunk is: for that it goes through all that come before it, in a
        volume of 1201³ cells for 2 ms each.
        """
        try:
            unfiltered, chunk = self._data.id.read_direct_chunk(place, out=room)
        except RuntimeError as error:
            if _NOT_STORED in str(error):
                return None
            raise
        except ValueError as error:  # it is larger than any of ours
            raise ScanFileError(f"{self._data.name}: chunk {place}: {error}") from error
        if unfiltered:
            raise ScanFileError(f"{self._data.name}: chunk {place} is not filtered")
        return chunk


class _Part(NamedTuple):
    """Where a chunk begins along an axis, and what of it is wanted: in it, and in the box."""

    begin: int
    inner: slice
    outer: slice


def _parts(asked: slice, chunk: int) -> list[_Part]:
    parts: list[_Part] = []
    for begin in range(asked.start // chunk * chunk, asked.stop, chunk):
        first, stop = max(asked.start, begin), min(asked.stop, begin + chunk)
        parts.append(
            _Part(
                begin,
                slice(first - begin, stop - begin),
                slice(first - asked.start, stop - asked.start),
            )
        )
    return parts


def _has_our_filters(data: Any) -> bool:
    """Return whether the kernels decode the chunks of a dataset."""
    if data.dtype not in (np.float64, np.float32):
        return False
    if filters_of(data) != (BITSHUFFLE, FLETCHER32):
        return False
    options = data.id.get_create_plist().get_filter(0)[2]
    return options[4:5] == (_LZ4,)


def _by_libraries(cells: NDArray[Any]) -> bytes:
    import imagecodecs

    size, raw = cells.itemsize, cells.tobytes()
    planes = imagecodecs.bitshuffle_encode(raw, itemsize=size, blocksize=_BLOCK // size)
    whole = cells.size // 8 * 8 * size
    chunk = bytearray(len(raw).to_bytes(8, "big") + _BLOCK.to_bytes(4, "big"))
    for at in range(0, whole, _BLOCK):
        block = imagecodecs.lz4_encode(planes[at : min(at + _BLOCK, whole)], header=False)
        chunk += len(block).to_bytes(4, "big") + block
    chunk += raw[whole:]
    return bytes(chunk) + imagecodecs.h5checksum_fletcher32(chunk).to_bytes(4, "little")
