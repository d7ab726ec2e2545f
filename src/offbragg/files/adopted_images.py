"""Frames in the image files of others: one CBF or TIFF each, or the pages of one TIFF."""

from __future__ import annotations

import io
import os
import re
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from offbragg import kernels
from offbragg.errors import RejectedFrame, ScanFileError
from offbragg.files.cbf import read_cbf_from
from offbragg.files.compressed import frame_kind
from offbragg.files.tiff import read_tiff_counts
from offbragg.files.tiff_by_library import Pages

_MOST_FILE = 1 << 28  # bytes of one frame's file
_NUMBER = re.compile(r"\{:0(\d{1,2})d\}")


def open_file(path: Path, allowed: Callable[[Path], int] | None) -> BinaryIO:
    """Open a file, if it may be read.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    return path.open("rb") if allowed is None else os.fdopen(allowed(path), "rb")


class FrameFilesInFolder:
    """Frame files, CBF or TIFF, of one template; any number of threads may read them.

    The checksum of a frame is that of its file.

    Parameters
    ----------
    find
        Returns the path of a file by its name, if it lies in the adopted folder.
    template
        Of their names, as ``x_{:05d}.cbf``.
    allowed
        Opens a file if it may be read; None: whatever this process may.
    """

    length = 1 << 62  # numbers of files that are not there are missing frames

    def __init__(
        self,
        find: Callable[[str], Path],
        template: str,
        allowed: Callable[[Path], int] | None,
        shape: tuple[int, int],
    ) -> None:
        self._find, self._template, self._allowed = find, template, allowed
        self.shape = shape

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def checksum(self, at: int, /) -> int:
        """Return the CRC-64 of a file, by the number in its name.

        Raises
        ------
        FileNotFoundError
            If it is not there.
        RejectedFrame
            If it is too large for a frame.
        """
        return kernels.crc64(self._bytes(at)[1])

    def read(self, at: int, out: NDArray[np.int32], /) -> int:
        """Decode a frame into a buffer of its shape, and return the checksum of its file.

        Raises
        ------
        FileNotFoundError, FrameError
            As `offbragg.files.read_frame`.
        """
        path, stored = self._bytes(at)
        file, shape = io.BytesIO(stored), self.shape
        if frame_kind(path) == ".cbf":
            out[...] = read_cbf_from(file, path, number=at, shape=shape).counts
        else:
            out[...] = read_tiff_counts(file, path, where=path.name, shape=shape)[0]
        return kernels.crc64(stored)

    def _bytes(self, at: int) -> tuple[Path, bytes]:
        name = name_of(self._template, at)
        path = self._find(name)
        with open_file(path, self._allowed) as file:
            stored = file.read(_MOST_FILE + 1)
        if len(stored) > _MOST_FILE:
            raise RejectedFrame(f"{name} has more than {_MOST_FILE:,} bytes: it is not read")
        # by its own name: where a link leads says nothing of what is in it
        return path.with_name(Path(name).name), stored


def name_of(template: str, number: int) -> str:
    """Return the name of a frame file.

    Raises
    ------
    ScanFileError
        If the template does not have one number.

    Examples
    --------
    >>> name_of("stack1_1/x_{:05d}.cbf", 7)
    'stack1_1/x_00007.cbf'
    """
    found = _NUMBER.findall(template)
    if len(found) != 1 or _NUMBER.sub("", template).count("{"):
        raise ScanFileError(f"{template!r:.200} names no frame files: it has not one number")
    return _NUMBER.sub(lambda match: f"{number:0{int(match[1])}d}", template)


class PagesOfTiff:
    """The images of one TIFF file; threads read them one after the other.

    The checksum of a frame is that of its pieces as they are stored.

    Parameters
    ----------
    path
        The file.
    allowed
        As for `FrameFilesInFolder`.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    RejectedFrame
        If it is not a TIFF file of integers.
    """

    def __init__(self, path: Path, allowed: Callable[[Path], int] | None = None) -> None:
        self._file = open_file(path, allowed)
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        try:
            self._pages = Pages(self._file, where=path.name)
        except BaseException:
            self._file.close()
            raise
        self.shape, self.length = self._pages.first.shape, self._pages.length
        self.most_counts = self._pages.first.most_counts

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def checksum(self, at: int, /) -> int:
        """Return the CRC-64 of what is stored of a frame.

        Raises
        ------
        FrameError
            If it is not there, or not of the shape of the first one.
        """
        with self._lock:
            found = 0
            for piece in self._pages.stored(at):
                found = kernels.crc64(piece, found)
            return found

    def read(self, at: int, out: NDArray[np.int32], /) -> int:
        """Decode a frame into a buffer of its shape, and return its checksum.

        Raises
        ------
        FrameError
            As `checksum`, or if it cannot be decoded.
        """
        with self._lock:
            out[...] = self._pages.counts(at)
        return self.checksum(at)
