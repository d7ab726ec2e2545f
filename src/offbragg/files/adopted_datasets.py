"""Frames in the HDF5 datasets of others: their chunks as they are stored, and the counts."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from numpy.typing import NDArray

from offbragg import kernels
from offbragg.errors import ScanFileError
from offbragg.files import scan_layout
from offbragg.files.direct_chunks import read_chunk
from offbragg.files.filters import check_part, chunks_of
from offbragg.files.frame_chunks import FrameChunks
from offbragg.files.hdf5 import find_inside, open_to_read

_MOST_CHUNK = 1 << 28  # bytes: to read one frame all frames of its chunk are decoded
_MARKS = 2  # of unsigned counts the two highest are not counts


def open_dataset(
    path: Path, dataset: str, allowed: Callable[[Path], int] | None = None
) -> h5py.Dataset:
    """Open a dataset of frames; its file is open as long as it is.

    Parameters
    ----------
    path, dataset
        Where it is.
    allowed
        Opens a file if it may be read; None: whatever this process may.

    Raises
    ------
    FileNotFoundError
        If the file is not there.
    ScanFileError
        If the dataset is not one of frames of integers, or its chunks are too large.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    descriptor = None if allowed is None else allowed(path)
    try:
        opened = open_to_read(path, swmr=False, descriptor=descriptor)
        found = find_inside(opened, dataset, path)
        thin = _is_thin(opened, found, path)
    except (KeyError, OSError, RuntimeError) as error:
        raise ScanFileError(f"{path} has no {dataset} that can be read: {error}") from error
    finally:
        if descriptor is not None:
            os.close(descriptor)
    if not isinstance(found, h5py.Dataset):
        raise ScanFileError(f"{path}: {dataset} is a group: name a dataset of frames in it")
    if found.ndim != 3 or found.dtype.kind not in "iu":
        raise ScanFileError(
            f"{path}: {dataset} is {found.dtype} of shape {found.shape}: frames are integers of "
            "shape (frame, slow, fast)"
        )
    if thin:
        raise ScanFileError(
            f"{path} is a thin scan file: its frames lie in files of others\n"
            "Adopt those, or give it to index, reduce and plot as it is."
        )
    size = math.prod(found.chunks or ()) * found.dtype.itemsize
    if size > _MOST_CHUNK:
        raise ScanFileError(
            f"{path}: {dataset} has chunks of {size:,} bytes, which are read for each frame: at "
            f"most {_MOST_CHUNK:,} are\nCopy it with a chunk for each frame: "
            f"h5repack -l {dataset}:CHUNK=1x{found.shape[1]}x{found.shape[2]} OLD NEW"
        )
    return found


def _is_thin(file: h5py.File, found: Any, path: Path) -> bool:
    """Return whether a dataset is that of a thin scan file, which has only fill values."""
    if getattr(found, "name", None) != scan_layout.DATA:
        return False
    try:
        start: Any = find_inside(file, f"{scan_layout.RUN}/start", path)
        return f'"{scan_layout.ADOPTED}"'.encode() in bytes(start[()])
    except (KeyError, TypeError, ScanFileError):
        return False


def as_counts(raw: NDArray[Any]) -> NDArray[np.int32]:
    """Return counts as int32; of unsigned ones the highest number is a gap, the next one is dead.

    So the detectors of Dectris mark pixels without a count, whatever their number of bits.

    Raises
    ------
    ScanFileError
        If one is beyond int32.

    Examples
    --------
    >>> as_counts(np.array([7, 2**32 - 1, 2**32 - 2], np.uint32))
    array([ 7, -1, -2], dtype=int32)
    """
    masked: list[tuple[NDArray[np.bool_], int]] = []
    valid = np.ones(raw.shape, bool)
    if raw.dtype.kind == "u":
        top = np.iinfo(raw.dtype).max
        masked = [(raw == raw.dtype.type(top - back), -1 - back) for back in range(_MARKS)]
        valid = ~(masked[0][0] | masked[1][0])
    bits = 8 * raw.dtype.itemsize - (raw.dtype.kind == "i")  # in either order of bytes
    if bits > 31:
        limits = np.iinfo(np.int32)
        beyond = valid & (raw > limits.max)
        if raw.dtype.kind == "i":
            beyond |= raw < limits.min
        _check_beyond(int(np.count_nonzero(beyond)))
    counts = np.ascontiguousarray(raw, dtype=np.int32)
    for where, value in masked:
        counts[where] = value
    return counts


def _check_beyond(n: int) -> None:
    if n:
        raise ScanFileError(f"{n} pixels have counts beyond int32")


class DatasetFrames:
    """Frames of an open dataset; any number of threads may read them.

    The checksum of a frame is that of its chunks as they are stored, or of its bytes where there
    are none: to compare it, nothing has to be decoded.

    Parameters
    ----------
    data
        Of `open_dataset`.
    """

    def __init__(self, data: h5py.Dataset) -> None:
        self._data = data
        self.length: int = data.shape[0]
        self.shape: tuple[int, int] = data.shape[1:]
        self._per_chunk: int = data.chunks[0] if data.chunks else 1
        whole = data.chunks == (1, *self.shape)
        self._chunks = FrameChunks(data) if whole else None
        self._kept: tuple[int, int, NDArray[Any] | None] = -1, 0, None
        """First frame of the chunks that were read last, their checksum, and their frames."""
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls, path: Path, dataset: str, allowed: Callable[[Path], int] | None = None
    ) -> DatasetFrames:
        """Open a dataset of frames, as `open_dataset`."""
        return cls(open_dataset(path, dataset, allowed))

    def close(self) -> None:
        """Let go of the file, unless somebody else has it open."""
        self._data.file.close()

    def checksum(self, at: int, /) -> int:
        """Return the CRC-64 of what is stored of a frame.

        Raises
        ------
        ScanFileError, OSError, RuntimeError
            If it cannot be read.
        """
        if self._chunks is None:
            with self._lock:
                return self._of_several(at, decoded=False)[0]
        with self._chunks.room() as room:
            return kernels.crc64(self._chunk(at, room)[1])

    def read(self, at: int, out: NDArray[np.int32], /) -> int:
        """Decode a frame into a buffer of its shape, and return its checksum.

        Raises
        ------
        ScanFileError, OSError, RuntimeError
            As `checksum`; a ScanFileError also if a count is beyond int32.
        """
        if self._chunks is None:
            with self._lock:
                checksum, frames = self._of_several(at, decoded=True)
                assert frames is not None
                out[...] = as_counts(frames[at % self._per_chunk])
            return checksum
        with self._chunks.room() as room:
            mask, chunk = self._chunk(at, room)
            if self._chunks.are_ours and not mask:
                read = self._chunks.decode(at, mask, chunk, (), out)
            else:
                read = self._chunks.decode(at, mask, chunk)
            if read.dtype != np.int32 or read is not out:
                out[...] = as_counts(read)
            elif self._data.dtype.kind == "u":  # our kernel made int32 of the same bits
                _check_beyond(int(np.count_nonzero(out < -_MARKS)))
            return kernels.crc64(chunk)

    def _chunk(self, at: int, room: NDArray[np.uint8]) -> tuple[int, Any]:
        assert self._chunks is not None
        try:
            read = self._chunks.read(at, room)
        except ValueError as error:
            raise ScanFileError(
                f"a chunk of {self._data.name} has more than {room.size:,} bytes"
            ) from error
        if read is None:
            raise ScanFileError(f"{self._data.name} has no chunk of this frame: it was not written")
        return read

    def _of_several(self, at: int, *, decoded: bool) -> tuple[int, NDArray[Any] | None]:
        """Return checksum and frames of the chunks that hold a frame; they are kept."""
        first = at // self._per_chunk * self._per_chunk
        known, checksum, frames = self._kept
        if known == first and (frames is not None or not decoded):
            return checksum, frames
        data = self._data
        part = tuple(slice(0, n) for n in self.shape)
        wanted = (slice(first, min(first + self._per_chunk, self.length)), *part)
        check_part(data, wanted)
        frames = data[wanted] if decoded or not data.chunks else None
        if data.chunks:
            checksum, room = 0, np.empty(2 * math.prod(data.chunks) * data.dtype.itemsize, np.uint8)
            for place in chunks_of(data, wanted):
                if (read := read_chunk(data, place, room)) is None:
                    raise ScanFileError(
                        f"{data.name} has no chunk of this frame: it was not written"
                    )
                checksum = kernels.crc64(read[1], checksum)
        else:
            checksum = kernels.crc64(np.ascontiguousarray(frames).view(np.uint8).reshape(-1))
        self._kept = first, checksum, frames
        return checksum, frames
