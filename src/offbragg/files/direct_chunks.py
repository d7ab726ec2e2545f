"""Chunks of HDF5 datasets as they are stored, found in the same time in files of any length.

``H5Dget_chunk_info_by_coord`` goes through the chunks until it meets the one that is asked for:
20 ms for the last one of 100 000. Reading one directly looks it up, in 5 µs, and fails at once if
it is absent.
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

_ABSENT = "not allocated"  # in HDF5's words
_TOO_SMALL = "out buffer"  # in those of h5py, which compares before it reads
_NO_ROOM = np.empty(1, np.uint8)


def read_chunk(
    data: h5py.Dataset, place: tuple[int, ...], room: NDArray[np.uint8]
) -> tuple[int, Any] | None:
    """Read a chunk as it is stored.

    Parameters
    ----------
    data
        Chunked.
    place
        Its first element.
    room
        Takes its bytes.

    Returns
    -------
    mask, chunk
        Bits of the filters that were left out, and its bytes in ``room``; None if it is absent.

    Raises
    ------
    ValueError
        If it is larger than ``room``.
    OSError, RuntimeError
        If HDF5 cannot read it.
    """
    if not data.id.chunk_iter(_stop):
        return None  # HDF5 2.0 finds a chunk of any size where there is no index at all
    try:
        mask, chunk = data.id.read_direct_chunk(place, out=room)
    except RuntimeError as error:
        if _ABSENT in str(error):
            return None
        raise
    return (mask, chunk) if len(chunk) else None  # HDF5 before 2.0 reads nothing without an error


def _stop(chunk: Any) -> bool:
    """Return true at the first chunk, so that no other one is looked at."""
    return True


def has_chunk(data: h5py.Dataset, place: tuple[int, ...]) -> bool:
    """Return whether a chunk is stored, without reading it."""
    try:
        return read_chunk(data, place, _NO_ROOM) is not None
    except ValueError as error:
        if _TOO_SMALL in str(error):
            return True
        raise


def count_chunks(data: h5py.Dataset) -> int:
    """Return how many chunks are stored; all of the index is read, and its checksums compared.

    Raises
    ------
    OSError, RuntimeError
        If HDF5 cannot read it.
    """
    return data.id.get_num_chunks()
