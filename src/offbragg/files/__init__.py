"""Every byte on disk: frame files in, scan files out, and what other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from offbragg.errors import RejectedFrame
from offbragg.files.cbf import parse_minicbf_header, read_cbf, read_cbf_text
from offbragg.files.scan_file import ScanFile, find_scan_file
from offbragg.files.tiff import read_layout, read_tiff
from offbragg.frame import Frame

__all__ = ["ScanFile", "find_scan_file", "read_cbf", "read_frame", "read_header", "read_tiff"]


def read_frame(path: Path | str, *, number: int, shape: tuple[int, int] | None = None) -> Frame:
    """Read one frame file, CBF or TIFF by its suffix.

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
        If not all of it is there yet.
    RejectedFrame
        If all of it is there and it must not be trusted.
    FileNotFoundError
        If there is no such file.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".cbf":
        return read_cbf(path, number=number, shape=shape)
    if suffix in (".tif", ".tiff"):
        return read_tiff(path, number=number, shape=shape)
    raise RejectedFrame(
        f"frame {number}: {path.name} ends with {suffix!r}: only .cbf, .tif and .tiff are read"
    )


def read_header(path: Path) -> dict[str, Any]:
    """Read what a frame file says about its exposure, without its pixels.

    Raises
    ------
    IncompleteFrame, RejectedFrame, FileNotFoundError
        As `read_frame` does.
    """
    if path.suffix.lower() == ".cbf":
        return parse_minicbf_header(read_cbf_text(path))
    with path.open("rb") as file:
        return parse_minicbf_header(read_layout(file, where=path.name).text)
