"""Every byte on disk: frame files in, scan files out, and what other programs read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offbragg.errors import RejectedFrame
from offbragg.files.cbf import read_cbf, read_cbf_head
from offbragg.files.compressed import KINDS, frame_kind
from offbragg.files.find import find_scan_file
from offbragg.files.scan_file import ScanFile
from offbragg.files.tiff import read_tiff, read_tiff_head
from offbragg.frame import Frame

__all__ = ["ScanFile", "find_scan_file", "read_cbf", "read_frame", "read_head", "read_tiff"]


def read_frame(path: Path | str, *, number: int, shape: tuple[int, int] | None = None) -> Frame:
    """Read one frame file, CBF or TIFF by its suffix; ``.gz`` or ``.bz2`` may stand behind that.

    Parameters
    ----------
    path
        The file.
    number
        Which frame of its sweep this is, from 0.
    shape
        Rows and columns that it must have; any if None.

    Returns
    -------
    frame
        With ``verified`` true if the file declares a checksum and it agrees.

    Raises
    ------
    IncompleteFrame
        If it is still being written, or was cut short.
    RejectedFrame
        If it is complete but must not be trusted: checksum, size, format.
    FileNotFoundError
        If the file does not exist.
    """
    path = Path(path)
    kind = frame_kind(path)
    if kind == ".cbf":
        return read_cbf(path, number=number, shape=shape)
    if kind == ".tif":
        return read_tiff(path, number=number, shape=shape)
    raise RejectedFrame(
        f"frame {number}: {path.name} ends with {path.suffix!r}: only {KINDS} are read"
    )


@dataclass(frozen=True, slots=True)
class Head:
    """What a frame file says about its exposure and its pixels, which are not read."""

    header: dict[str, Any]
    """As `offbragg.files.cbf.parse_minicbf_header` has it."""
    shape: tuple[int, int]
    most_counts: int | None = None
    """Highest number that a pixel can hold, if counts above it may have been cut off."""


def read_head(path: Path) -> Head:
    """Read what a frame file says about its exposure, without its pixels.

    Raises
    ------
    IncompleteFrame, RejectedFrame, FileNotFoundError
        As `read_frame` does.
    """
    if frame_kind(path) == ".cbf":
        return Head(*read_cbf_head(path))
    return Head(*read_tiff_head(path))
