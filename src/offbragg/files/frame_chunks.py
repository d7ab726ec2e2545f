"""Frames out of the chunks in which they are stored.

A chunk as scan files have it, int32 through bitshuffle with LZ4, is decoded by our own kernel: a
fifth of the time that HDF5 takes, and of a part only the blocks that hold it. HDF5 decodes all
others, and has the last word on a chunk that the kernel refuses.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Generator
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from offbragg import kernels
from offbragg.errors import ScanFileError
from offbragg.files.direct_chunks import read_chunk
from offbragg.files.filters import BITSHUFFLE, check_chunk, check_filters

Array = NDArray[Any]

_KERNEL = (np.dtype("<i4"), np.dtype("<u4"))
_WORDS, _LZ4 = 4, 2  # bytes of a pixel, and the compressor, as bitshuffle numbers it


class FrameChunks:
    """The chunks of a dataset of frames, one of each; any number of threads may read them.

    Parameters
    ----------
    data
        Integers, shape (frame, slow, fast). Our own kernel makes int32 of those with 32 bits, also
        of unsigned ones: the same bits.

    Raises
    ------
    ScanFileError
        If it has filters of which it is not known how large they make a chunk.
    """

    def __init__(self, data: h5py.Dataset) -> None:
        self._data = data
        self._filters = check_filters(data)
        self.are_ours = kernels.compiled and _are_ours(data, self._filters)
        """Whether our own kernel decodes them."""
        self._shape = data.shape[1:]
        pixels = int(np.prod(data.shape[1:]))
        self._room = kernels.chunk_bound(pixels * max(1, data.dtype.itemsize // _WORDS))
        self._free: list[NDArray[np.uint8]] = []  # page faults of a new one cost as much as reading

    @contextlib.contextmanager
    def room(self) -> Generator[NDArray[np.uint8]]:
        """Lend a buffer for a chunk, to one thread at a time."""
        lent = self._free.pop() if self._free else np.empty(self._room, np.uint8)
        try:
            yield lent
        finally:
            self._free.append(lent)

    def read(self, number: int, room: NDArray[np.uint8]) -> tuple[int, Any] | None:
        """Read a frame's chunk as it is stored, as `read_chunk`; None if it has none."""
        return read_chunk(self._data, (number, 0, 0), room)

    def decode(
        self,
        number: int,
        mask: int,
        chunk: Any,
        part: tuple[Any, ...] = (),
        out: NDArray[np.int32] | None = None,
    ) -> Array:
        """Decode a chunk, or a part of it.

        Parameters
        ----------
        number
            Of its frame.
        mask, chunk
            As from `read`.
        part
            Of rows and columns, as a dataset is sliced.
        out
            Takes what is decoded and is returned, if it is given: int32, of the part's shape.

        Raises
        ------
        ScanFileError
            If it does not become what a chunk of the dataset is.
        OSError, RuntimeError
            If HDF5 cannot decode it.
        """
        wanted = _part(part, self._shape) if self.are_ours and not mask else None
        if wanted is not None:
            with contextlib.suppress(ScanFileError):
                return self._by_kernel(chunk, *wanted, out)
        check_chunk(self._data, self._filters, mask, chunk)
        read = self._data[(number, *part)]
        if out is None:
            return read
        out[...] = read
        return out

    def _by_kernel(
        self, chunk: Any, rows: range, key: tuple[Any, Any], out: NDArray[np.int32] | None
    ) -> Array:
        n, columns = self._shape
        first = rows[0]
        shape = (rows[-1] + 1 - first, columns)
        is_whole = rows.step == 1 and key == (slice(None), slice(None))
        direct = is_whole and out is not None and out.flags.c_contiguous and out.shape == shape
        made = out if direct and out is not None else np.empty(shape, np.int32)
        kernels.decode_chunk(chunk, made, pixels=n * columns, first=first * columns)
        if is_whole and (direct or out is None):
            return made
        wanted = made[key]
        if out is None:
            return wanted.copy()  # else it keeps all columns in memory
        out[...] = wanted
        return out


def places_of_chunks(data: h5py.Dataset) -> dict[int, tuple[int, int]]:
    """Find each frame's chunk: its first byte in the file and its size, by the frame's number.

    To find where one is, HDF5 goes through all of them; this goes through them once.
    """
    places: dict[int, tuple[int, int]] = {}

    def note(chunk: Any) -> None:
        places[chunk.chunk_offset[0]] = (chunk.byte_offset, chunk.size)

    data.id.chunk_iter(note)
    return places


def _are_ours(data: h5py.Dataset, filters: tuple[int, ...]) -> bool:
    """Return whether chunks are stored as scan files have them."""
    if filters != (BITSHUFFLE,) or data.dtype not in _KERNEL or data.ndim != 3:
        return False
    if data.chunks != (1, *data.shape[1:]):
        return False
    plist: Any = data.id.get_create_plist()
    options = plist.get_filter(0)[2]
    return len(options) > 4 and options[2] == _WORDS and options[4] == _LZ4


def _part(part: tuple[Any, ...], shape: tuple[int, ...]) -> tuple[range, tuple[Any, Any]] | None:
    """Find the rows that a part of a frame needs, and the part within them.

    None for what only HDF5 understands or refuses: lists, masks, backward slices, no pixels.

    Examples
    --------
    >>> _part((slice(4, 9, 2), 3), (10, 10))
    (range(4, 9, 2), (slice(None, None, 2), 3))
    >>> _part((..., slice(3)), (10, 10))
    (range(0, 10), (slice(None, None, None), slice(None, 3, None)))
    >>> _part(([1, 2],), (10, 10))
    """
    picks = list(part)
    at = [i for i, pick in enumerate(picks) if pick is Ellipsis]
    if len(at) > 1 or len(picks) - len(at) > 2:
        return None
    where = at[0] if at else len(picks)
    picks[where : where + len(at)] = [slice(None)] * (2 - len(picks) + len(at))
    along: list[range] = []
    for i, (pick, n) in enumerate(zip(picks, shape, strict=True)):
        try:
            if not isinstance(pick, slice):
                picks[i] = range(n)[operator.index(pick)]
                if isinstance(pick, bool | np.ndarray):
                    return None
            one = picks[i]
            along.append(range(n)[one] if isinstance(pick, slice) else range(one, one + 1))
        except (TypeError, IndexError, ValueError):
            return None
        if not along[i] or along[i].step < 0:
            return None
    rows = along[0]
    of_rows: Any = 0
    if isinstance(picks[0], slice):
        of_rows = slice(None) if rows.step == 1 else slice(None, None, rows.step)
    everything = isinstance(picks[1], slice) and along[1] == range(shape[1])
    return rows, (of_rows, slice(None) if everything else picks[1])
