"""Frames that stay in the files of others: which files, which datasets, and the counts.

A thin scan file has all that a scan file has, but the frames: its start document lists, under
`ADOPTED`, the folder and the pieces in it. They are names, not HDF5 links, and each is proven to
stay in the folder whenever it is opened.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import CatalogError, DamagedFrame, FrameError, ScanFileError
from offbragg.files.adopted_datasets import DatasetFrames
from offbragg.files.adopted_images import FrameFilesInFolder, PagesOfTiff, name_of
from offbragg.files.checked import Rows
from offbragg.files.scan_layout import ADOPTED, FILL

OpenFile = Callable[[Path], int]
"""Opens a file for reading, if it may be read, and returns a descriptor."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Frames of the sweep that lie in one dataset, one file of images, or files of one template."""

    file: str
    """Its path from the adopted folder; of frame files a template, as ``x_{:05d}.cbf``."""
    dataset: str
    first: int
    """Number of its first frame in the sweep, from 0."""
    stop: int
    """One past its last."""
    offset: int = 0
    """Where its first frame is in the dataset or file; of frame files the number in the name."""
    kind: str = "hdf5"
    """``hdf5``, ``pages`` of a TIFF file, or ``files`` of one frame each."""

    def source(self, number: int) -> str:
        """Return the name of the file that holds a frame, by its number in the sweep."""
        if self.kind != "files":
            return self.file
        return name_of(self.file, number - self.first + self.offset)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types, without what is as usual."""
        usual = {"offset": 0, "kind": "hdf5"}
        return {key: value for key, value in asdict(self).items() if usual.get(key) != value}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Piece:
        """Read a piece as `to_dict` wrote it.

        Raises
        ------
        ScanFileError
            If it is none.
        """
        try:
            piece = cls(
                str(document["file"]),
                str(document["dataset"]),
                int(document["first"]),
                int(document["stop"]),
                int(document.get("offset", 0)),
                str(document.get("kind", "hdf5")),
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise ScanFileError(f"{document!r} names no adopted frames: {error!r}") from error
        if piece.kind not in _KINDS:
            raise ScanFileError(
                f"{document!r} names adopted frames of another kind than {', '.join(_KINDS)}\n"
                "A newer version of offbragg may read them."
            )
        return piece


class _Source(Protocol):
    """A piece that is open."""

    shape: tuple[int, int]
    length: int

    def checksum(self, at: int, /) -> int: ...

    def read(self, at: int, out: NDArray[np.int32], /) -> int: ...

    def close(self) -> None: ...


NOWHERE = "no file"
"""Of a piece whose frames no file holds."""

_KINDS = ("hdf5", "pages", "files")


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
    allowed
        Opens a file if it may be read; None: whatever this process may.
    """

    def __init__(
        self,
        folder: Path,
        pieces: Sequence[Piece],
        shape: tuple[int, int],
        allowed: OpenFile | None = None,
    ) -> None:
        self._folder, self._pieces, self._shape = folder, pieces, shape
        self._allowed = allowed
        self._open: tuple[Piece, _Source] | None = None  # one: a sweep may have thousands
        self._lock = threading.Lock()

    def checksum(self, number: int) -> int:
        """Return the CRC-64 of what is stored of a frame, by its number in the sweep.

        Raises
        ------
        FileNotFoundError
            If its file is not there.
        ScanFileError
            If it cannot be read.
        """
        return self._use(number, lambda source, at: source.checksum(at))

    def read(self, number: int, out: NDArray[np.int32]) -> int:
        """Read a frame into a buffer of its shape, and return the checksum of what was read.

        Raises
        ------
        FileNotFoundError, ScanFileError
            As `checksum`.
        """
        return self._use(number, lambda source, at: source.read(at, out))

    def _use(self, number: int, use: Callable[[_Source, int], int]) -> int:
        piece = next((one for one in self._pieces if one.first <= number < one.stop), None)
        if piece is None:
            raise ScanFileError(f"no adopted file holds frame {number}")
        where = f"frame {number} ({piece.file}{': ' * bool(piece.dataset)}{piece.dataset})"
        source, at = self._source(piece), number - piece.first + piece.offset
        if source.shape != self._shape or not 0 <= at < source.length:
            raise ScanFileError(
                f"{where} is not there: the file has frames of {source.shape} up to "
                f"{source.length - 1}, and frames of {self._shape} were adopted"
            )
        try:
            return use(source, at)
        except FileNotFoundError:
            raise
        except (OSError, RuntimeError, FrameError) as error:
            raise ScanFileError(f"{where} cannot be read: {error}") from error
        except ScanFileError as error:
            raise ScanFileError(f"{where}: {error}") from error

    def _source(self, piece: Piece) -> _Source:
        with self._lock:
            if self._open is None or self._open[0] != piece:
                self._open = None
                opened = self._opened(piece)
                self._open = piece, opened
            return self._open[1]

    def _opened(self, piece: Piece) -> _Source:
        if piece.kind == "files":
            return FrameFilesInFolder(self._find, piece.file, self._allowed, self._shape)
        path = self._find(piece.file)
        if piece.kind == "pages":
            try:
                return PagesOfTiff(path, self._allowed)
            except FrameError as error:
                raise ScanFileError(f"{path} cannot be read: {error}") from error
        return DatasetFrames.open(path, piece.dataset, self._allowed)

    def _find(self, name: str) -> Path:
        if name == NOWHERE:
            raise FileNotFoundError("no file holds it")
        return path_in(self._folder, name)


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
    allowed
        As for `Pieces`.

    Raises
    ------
    ScanFileError
        If the start document names no folder and pieces.
    """

    def __init__(
        self,
        start: Mapping[str, Any],
        shape: tuple[int, int, int],
        rows: Rows,
        allowed: OpenFile | None = None,
    ) -> None:
        try:
            adopted = start[ADOPTED]
            folder, pieces = Path(adopted["folder"]), list(adopted["pieces"])
        except (KeyError, TypeError) as error:
            raise ScanFileError(
                f"{ADOPTED} of the start document names no adopted frames: {error!r}\n"
                "Adopt them again."
            ) from error
        named = [Piece.from_dict(one) for one in pieces]
        self._pieces = Pieces(folder, named, shape[1:], allowed)
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
        room = np.empty(self._shape[1:], np.int32)
        if not isinstance(keys[0], slice):
            return self.read_into(int(keys[0]), room)[rest]
        numbers = range(self._shape[0])[keys[0]]
        if not numbers:
            return np.empty((0, *self._shape[1:]), np.int32)[(slice(None), *rest)]
        return np.stack([self.read_into(number, room)[rest].copy() for number in numbers])

    def read_into(self, number: int, out: NDArray[np.int32]) -> NDArray[np.int32]:
        """Read a frame into a buffer of its shape and return it, as `__getitem__`."""
        number = range(self._shape[0])[number]
        if self._rows.status[number] != b"stored":
            out[...] = FILL
            return out
        self._compare(number, lambda: self._pieces.read(number, out))
        return out

    def damaged(self) -> tuple[int, ...]:
        """Read what is stored of every frame, and return the numbers of those not as adopted."""
        found: list[int] = []
        for number in np.flatnonzero(self._rows.status == b"stored").tolist():
            try:
                self._compare(number, lambda number=number: self._pieces.checksum(number))
            except DamagedFrame:
                found.append(number)
        return tuple(found)

    def _compare(self, number: int, read: Callable[[], int]) -> None:
        try:
            checksum = read()
        except (OSError, ScanFileError, CatalogError) as error:
            raise DamagedFrame(
                f"adopted frame {number} cannot be read: {error}", number, adopted=True
            ) from error
        if self._rows.crc64 is None or self._rows.crc64[number] != b"%016x" % checksum:
            raise DamagedFrame(
                f"adopted frame {number} has changed since it was adopted\nAdopt it again.",
                number,
                adopted=True,
            )
