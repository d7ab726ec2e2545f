"""A chunk of a volume file as it is stored: bitshuffle with LZ4, and Fletcher's checksum behind it.

What HDF5's filters would make of it on one thread is made here, so that several threads can.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg import kernels

_BLOCK = 8192  # bytes, as bitshuffle has it
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
