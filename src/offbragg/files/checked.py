"""The frames of a scan file, each compared with its checksum as it is read.

HDF5 decodes most flipped bits without an error, to other counts. A frame is stored with the CRC-64
of its chunk, which takes 0.1 ms to compare, a tenth of what decoding takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from offbragg import kernels
from offbragg.errors import DamagedFrame, ScanFileError
from offbragg.files.frame_chunks import FrameChunks
from offbragg.files.scan_layout import FILL

Array = NDArray[Any]

REPAIR = (
    "If its frame file is still there, offbragg stack --once --repair stores it again; offbragg "
    "verify tells more."
)


_LISTED = 12  # numbers of frames in one line


class Rows(NamedTuple):
    """What is said of each frame beside its pixels, shape (n_frames,)."""

    status: Array
    crc64: Array | None
    """None in a file of a version without stored checksums."""


@dataclass(frozen=True, slots=True)
class Damage:
    """What of a scan file is not what was stored."""

    stored: int = 0
    """How many frames are stored."""
    frames: tuple[int, ...] = ()
    """Numbers of those whose chunk does not have its checksum, or is not there."""
    elsewhere: bool = False
    """Whether the file has changed since it was closed, outside its frames."""
    unchecked: int = 0
    """Stored frames without a checksum, in a file of a version without stored checksums."""

    def describe(self, *, left_out: bool) -> list[str]:
        """Return one line for each thing that is damaged; none if nothing is.

        Examples
        --------
        >>> Damage(8, (3, 6)).describe(left_out=True)
        ['2 of 8 stored frames are damaged and left out: 3, 6']
        """
        lines: list[str] = []
        if self.frames:
            some = ", ".join(map(str, self.frames[:_LISTED]))
            more = f" and {len(self.frames) - _LISTED} more" * (len(self.frames) > _LISTED)
            are = "is" if len(self.frames) == 1 else "are"
            lines.append(
                f"{len(self.frames)} of {self.stored} stored frames {are} damaged"
                f"{' and left out' * left_out}: {some}{more}"
            )
        if self.elsewhere:
            lines.append(
                "the file has changed since it was closed, outside its frames: its angles, "
                "monitor or geometry may not be those that were measured"
            )
        return lines


class CheckedCounts:
    """Counts (frame, slow, fast) that are compared with their checksums whenever they are read.

    A frame that is not stored reads as −1, whatever its writer left of it.

    Parameters
    ----------
    data
        The frames.
    rows
        Reads the rows, as they are now.
    path
        The file, to be named.
    """

    def __init__(self, data: h5py.Dataset, rows: Callable[[], Rows], path: Path) -> None:
        self._data = data
        self._read_rows = rows
        self._rows: Rows | None = None
        self._path = path
        self._chunks = FrameChunks(data)
        if data.ndim != 3 or data.chunks != (1, *data.shape[1:]) or data.dtype != np.dtype("<i4"):
            raise ScanFileError(
                f"{path} is not a scan file: its frames are {data.dtype} of shape {data.shape}, in "
                f"chunks of {data.chunks}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """(frame, slow, fast)."""
        return self._data.shape

    def __getitem__(self, key: Any, /) -> Array:
        """Read frames, or parts of them.

        Raises
        ------
        DamagedFrame
            If one of them is not what was stored: its number.
        """
        keys = cast(tuple[Any, ...], key if isinstance(key, tuple) else (key,))
        if not keys or keys[0] is Ellipsis:
            keys = (slice(None), *keys)
        rest = keys[1:]
        if not isinstance(keys[0], slice):
            return self._frame(int(keys[0]), rest)
        numbers = range(self.shape[0])[keys[0]]
        if not numbers:
            return self._data[(slice(0, 0), *rest)]
        first = self._frame(numbers[0], rest)
        read = np.empty((len(numbers), *np.shape(first)), np.int32)
        read[0] = first
        for i, number in enumerate(numbers[1:], 1):
            self._frame(number, rest, read[i, ...])
        return read

    def read_into(self, number: int, out: NDArray[np.int32]) -> NDArray[np.int32]:
        """Read a frame into a buffer of its shape, which is used again, and return it.

        Raises
        ------
        DamagedFrame
            As `__getitem__`.
        """
        return self._frame(number, (), out)

    def _frame(
        self, number: int, part: tuple[Any, ...], out: NDArray[np.int32] | None = None
    ) -> Array:
        """Read a part of a frame, into ``out`` if it is given; −1 if it is not stored."""
        for again in (False, True):  # it may have been stored since the rows, or it, were read
            if self._rows is None or again:
                self._rows = self._read_rows()
            status, crc64 = self._rows
            with self._chunks.room() as room:
                read = self._chunk(number, room)
                if read is None:
                    continue
                mask, chunk = read
                if status[number] == b"stored" and (
                    crc64 is None or crc64[number] == b"%016x" % kernels.crc64(chunk)
                ):
                    return self._decode(number, mask, chunk, part, out)
        if status[number] != b"stored":
            missing = np.full(self.shape[1:], FILL, self._data.dtype)[part or (...,)]
            if out is None:
                return missing
            out[...] = missing
            return out
        why = "does not have the checksum with which it was stored"
        raise self._damaged(number, f"its chunk {'is not there' if read is None else why}")

    def _chunk(self, number: int, room: NDArray[np.uint8]) -> tuple[int, Any] | None:
        """Read a chunk as it is stored; None if it is not there."""
        try:
            return self._chunks.read(number, room)
        except (OSError, RuntimeError, ValueError) as error:
            if "checksum" in str(error):  # HDF5's own, of where the frames are
                raise
            raise self._damaged(number, f"its chunk cannot be read ({error})") from error

    def _decode(self, number: int, mask: int, chunk: Any, part: tuple[Any, ...], out: Any) -> Array:
        try:
            return self._chunks.decode(number, mask, chunk, part, out)
        except ScanFileError as error:
            raise self._damaged(number, str(error)) from error
        except (OSError, RuntimeError) as error:
            raise self._damaged(number, f"HDF5 cannot decode it ({error})") from error

    def _damaged(self, number: int, why: str) -> DamagedFrame:
        return DamagedFrame(
            f"frame {number} of {self._path} is damaged: {why.partition(chr(10))[0]}\n{REPAIR}",
            number,
        )
