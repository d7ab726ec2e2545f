"""Frames that stay in the HDF5 files of others: which files, which datasets, and the counts.

A thin scan file has all that a scan file has, but the frames: its start document lists, under
`ADOPTED`, the folder and the pieces in it. They are names, not HDF5 links, and each is proven to
stay in the folder whenever it is opened.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from numpy.typing import NDArray

from offbragg import kernels
from offbragg.errors import DamagedFrame, ScanFileError
from offbragg.files.checked import Rows
from offbragg.files.filters import check_part
from offbragg.files.hdf5 import find_inside, open_to_read
from offbragg.files.scan_layout import FILL

ADOPTED = "offbragg_adopted"
"""The key of a start document that names the folder and the pieces of adopted frames.

Users put keys of their own there: it is one that they do not type.
"""


@dataclass(frozen=True, slots=True)
class Piece:
    """Frames of the sweep that lie in one dataset, from its first on."""

    file: str
    """Its path from the adopted folder."""
    dataset: str
    first: int
    """Number of its first frame in the sweep, from 0."""
    stop: int
    """One past its last."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Piece:
        """Read a piece as `to_dict` wrote it.

        Raises
        ------
        ScanFileError
            If it is none.
        """
        try:
            return cls(
                str(document["file"]),
                str(document["dataset"]),
                int(document["first"]),
                int(document["stop"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ScanFileError(f"{document!r} names no adopted frames: {error!r}") from error


def path_in(folder: Path, name: str) -> Path:
    """Return the path of a file that is proven to lie in a folder.

    Raises
    ------
    ScanFileError
        If its name or a symbolic link leads out of the folder.
    """
    try:
        home, path = folder.resolve(), (folder / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a NUL, or links that lead in circles
        raise ScanFileError(f"{name!r} in {str(folder)!r} names no file: {error}") from error
    if Path(name).is_absolute() or ".." in Path(name).parts or not path.is_relative_to(home):
        raise ScanFileError(
            f"{name} is not read: it leads out of the adopted folder {folder}\n"
            "Move the file into that folder, or adopt a folder that holds both."
        )
    return path


def open_piece(folder: Path, file: str, dataset: str) -> h5py.Dataset:
    """Open a dataset of frames; its file is open as long as it is.

    Raises
    ------
    FileNotFoundError
        If the file is not there.
    ScanFileError
        If the file leads out of the folder, or the dataset is not one of frames of integers.
    """
    path = path_in(folder, file)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    try:
        opened = open_to_read(path, swmr=False)
        found = find_inside(opened, dataset, path)
    except (KeyError, OSError, RuntimeError) as error:
        raise ScanFileError(f"{path} has no {dataset} that can be read: {error}") from error
    if not isinstance(found, h5py.Dataset):
        raise ScanFileError(f"{path}: {dataset} is a group: name a dataset of frames in it")
    if found.ndim != 3 or found.dtype.kind not in "iu":
        raise ScanFileError(
            f"{path}: {dataset} is {found.dtype} of shape {found.shape}: frames are integers of "
            "shape (frame, slow, fast)"
        )
    return found


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
        masked = [(raw == raw.dtype.type(top - back), -1 - back) for back in (0, 1)]
        valid = ~(masked[0][0] | masked[1][0])
    bits = 8 * raw.dtype.itemsize - (raw.dtype.kind == "i")  # in either order of bytes
    if bits > 31:
        limits = np.iinfo(np.int32)
        beyond = valid & (raw > limits.max)
        if raw.dtype.kind == "i":
            beyond |= raw < limits.min
        if beyond.any():
            raise ScanFileError(f"{np.count_nonzero(beyond)} pixels have counts beyond int32")
    counts = np.ascontiguousarray(raw, dtype=np.int32)
    for where, value in masked:
        counts[where] = value
    return counts


def crc64_of(counts: NDArray[np.int32]) -> int:
    """Return the CRC-64 of the counts of a frame, little-endian int32, row by row."""
    return kernels.crc64(np.ascontiguousarray(counts, dtype="<i4").view(np.uint8).reshape(-1))


class Pieces:
    """Read frames where they lie; any number of threads may.

    Parameters
    ----------
    folder
        That none of them leaves.
    pieces
        In any order.
    shape
        Rows and columns of a frame.
    """

    def __init__(self, folder: Path, pieces: Sequence[Piece], shape: tuple[int, int]) -> None:
        self._folder, self._pieces, self._shape = folder, pieces, shape
        self._open: tuple[Piece, h5py.Dataset] | None = None  # one: a sweep may have thousands
        self._lock = threading.Lock()

    def read(self, number: int) -> NDArray[np.int32]:
        """Read a frame by its number in the sweep.

        Raises
        ------
        FileNotFoundError
            If its file is not there.
        ScanFileError
            If it cannot be read.
        """
        piece = next((one for one in self._pieces if one.first <= number < one.stop), None)
        if piece is None:
            raise ScanFileError(f"no adopted file holds frame {number}")
        where = f"frame {number} ({piece.file}: {piece.dataset})"
        with self._lock:
            if self._open is None or self._open[0] != piece:
                self._open = piece, open_piece(self._folder, piece.file, piece.dataset)
            data, at = self._open[1], number - piece.first
            if data.shape[1:] != self._shape or at >= data.shape[0]:
                raise ScanFileError(
                    f"{where} is not there: the dataset has the shape {data.shape}, and frames of "
                    f"{self._shape} were adopted"
                )
            whole = tuple(slice(0, n) for n in self._shape)
            check_part(data, (slice(at, at + 1), *whole))
            try:
                raw = data[at]
            except (OSError, RuntimeError) as error:
                raise ScanFileError(f"{where} cannot be read: {error}") from error
        try:
            return as_counts(raw)
        except ScanFileError as error:
            raise ScanFileError(f"{where}: {error}") from error


class AdoptedCounts:
    """Adopted counts (frame, slow, fast), compared with their checksums whenever they are read.

    A frame that is not stored reads as −1.

    Parameters
    ----------
    start
        The start document, with `ADOPTED`.
    shape
        Frames, rows and columns.
    rows
        Of the thin scan file.

    Raises
    ------
    ScanFileError
        If the start document names no folder and pieces.
    """

    def __init__(self, start: Mapping[str, Any], shape: tuple[int, int, int], rows: Rows) -> None:
        try:
            adopted = start[ADOPTED]
            folder, pieces = Path(adopted["folder"]), list(adopted["pieces"])
        except (KeyError, TypeError) as error:
            raise ScanFileError(
                f"{ADOPTED} of the start document names no adopted frames: {error!r}\n"
                "Adopt them again."
            ) from error
        self._pieces = Pieces(folder, [Piece.from_dict(one) for one in pieces], shape[1:])
        self._shape, self._rows = shape, rows

    @property
    def shape(self) -> tuple[int, ...]:
        """(frame, slow, fast)."""
        return self._shape

    def __getitem__(self, key: Any, /) -> NDArray[np.int32]:
        """Read frames, or parts of them.

        Raises
        ------
        DamagedFrame
            If one of them is not what was adopted: its number.
        """
        keys = cast(tuple[Any, ...], key if isinstance(key, tuple) else (key,))
        if not keys or keys[0] is Ellipsis:
            keys = (slice(None), *keys)
        rest = keys[1:] or (...,)
        if not isinstance(keys[0], slice):
            return self._frame(int(keys[0]))[rest]
        numbers = range(self._shape[0])[keys[0]]
        if not numbers:
            return np.empty((0, *self._shape[1:]), np.int32)[(slice(None), *rest)]
        return np.stack([self._frame(number)[rest] for number in numbers])

    def read_into(self, number: int, out: NDArray[np.int32]) -> NDArray[np.int32]:
        """Read a frame into a buffer of its shape and return it, as `__getitem__`."""
        out[...] = self._frame(number)
        return out

    def damaged(self) -> tuple[int, ...]:
        """Read every stored frame, and return the numbers of those that are not as adopted."""
        found: list[int] = []
        for number in np.flatnonzero(self._rows.status == b"stored").tolist():
            try:
                self._frame(number)
            except DamagedFrame:
                found.append(number)
        return tuple(found)

    def _frame(self, number: int) -> NDArray[np.int32]:
        number = range(self._shape[0])[number]
        if self._rows.status[number] != b"stored":
            return np.full(self._shape[1:], FILL, np.int32)
        try:
            counts = self._pieces.read(number)
        except (OSError, ScanFileError) as error:
            raise DamagedFrame(f"adopted frame {number} cannot be read: {error}", number) from error
        if self._rows.crc64 is None or self._rows.crc64[number] != b"%016x" % crc64_of(counts):
            raise DamagedFrame(
                f"adopted frame {number} has changed since it was adopted\nAdopt it again.", number
            )
        return counts
