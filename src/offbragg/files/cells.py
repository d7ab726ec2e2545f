"""Chunks of a volume file as they are stored: bitshuffle with LZ4, Fletcher's checksum behind it.

What HDF5's filters would do on one thread is done here, so that several threads can do it, and of
a plane of l only the blocks that hold it are decoded.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

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
        place = tuple(each.start for each in part)
        return self._data.id.get_chunk_info_by_coord(place).byte_offset is not None

    def _read_direct(self, part: tuple[slice, ...]) -> NDArray[Any]:
        out = np.full([each.stop - each.start for each in part], self._fill, self._kind)
        along = [
            range(s.start // n * n, s.stop, n) for s, n in zip(part, self._chunks, strict=True)
        ]
        places: list[tuple[int, ...]] = list(itertools.product(*along))
        if len(places) < _FEW:
            for place in places:
                self._decode(part, out, place)
        else:
            with ThreadPoolExecutor(processors(), thread_name_prefix="cells") as pool:
                deque(pool.map(partial(self._decode, part, out), places), maxlen=0)
        return out

    def _decode(self, part: tuple[slice, ...], out: NDArray[Any], place: tuple[int, ...]) -> None:
        """Decode what is wanted of the chunk that begins at a place, into its part of the box."""
        cells, layer = math.prod(self._chunks), math.prod(self._chunks[1:])
        info = self._data.id.get_chunk_info_by_coord(place)
        if info.byte_offset is None:
            return
        if info.size > kernels.chunk_bound(cells * self._kind.itemsize // 4) or info.filter_mask:
            raise ScanFileError(f"{self._data.name} has a chunk of {info.size:,} bytes")
        chunk = self._data.id.read_direct_chunk(place)[1]
        inner = [
            slice(max(each.start - at, 0), min(each.stop - at, n))
            for each, at, n in zip(part, place, self._chunks, strict=True)
        ]
        outer = tuple(
            slice(at + each.start - asked.start, at + each.stop - asked.start)
            for each, at, asked in zip(inner, place, part, strict=True)
        )
        first, stop = inner[0].start, inner[0].stop
        decoded = np.empty((stop - first, *self._chunks[1:]), self._kind)
        kernels.decode_cells(chunk, decoded, cells=cells, first=first * layer)
        out[outer] = decoded[:, inner[1], inner[2]]


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
