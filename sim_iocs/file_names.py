"""Names of a series' files, as ADPilatus and camserver make and read them."""

from __future__ import annotations

import re
import struct
from contextlib import suppress
from enum import Enum
from pathlib import Path

from .cbf import cbf_layout
from .tiff import HEADER_SIZE

SUFFIXES = (".cbf", ".tif", ".tiff")
OLD = 10.0  # s; a file older than the start of the acquisition by more is not taken
HEAD = 16384  # bytes; the header of any frame file is in here


def frame_names(template_name: str, n_images: int) -> list[str]:
    """Name the files of a series the way camserver does.

    After the last ``_`` three or more digits are the first number and its width; otherwise ``_``
    and five digits from 0 are added. A single image keeps its name.
    """
    if n_images == 1:
        return [template_name]
    path = Path(template_name)
    stem, suffix = path.name[: len(path.name) - len(path.suffix)], path.suffix
    found = re.search(r"_(\d{3,})$", stem)
    if found:
        head, first, width = stem[: found.start()], int(found[1]), len(found[1])
        if (width == 3 and first + n_images > 1000) or (width == 4 and first + n_images > 10000):
            width = 5
    else:
        head, first, width = stem.removesuffix("_"), 0, 5
    folder = template_name[: len(template_name) - len(path.name)]
    return [f"{folder}{head}_{first + i:0{width}d}{suffix}" for i in range(n_images)]


def c_format(template: str, path: str, name: str, number: int) -> str:
    """Fill a C printf template that takes path, name and number; fewer are as good in C."""
    for values in ((path, name, number), (path, name), (path,), ()):
        with suppress(TypeError, ValueError):
            return template % values
    return template


class Found(Enum):
    """What the driver reads from a file at its first look."""

    NOTHING = "nothing"
    OLD = "old"
    PARTIAL = "partial"
    WRONG_SIZE = "wrong size"
    WHOLE = "whole"


def look(path: Path, *, started: float, shape: tuple[int, int]) -> Found:
    """Look at a frame file: whether it is there, of this acquisition, whole and of the right size.

    Parameters
    ----------
    path
        The file.
    started
        When Acquire was put, POSIX s.
    shape
        Rows and columns of the detector.
    """
    try:
        with path.open("rb") as stream:
            status = path.stat()
            head = stream.read(HEAD)
    except OSError:
        return Found.NOTHING
    if status.st_mtime < started - OLD:
        return Found.OLD
    if path.suffix.lower() == ".cbf":
        layout = cbf_layout(head)
        if layout is None:
            return Found.PARTIAL
        found, end = layout.shape, layout.start + layout.size
    else:
        found = tiff_shape(head)
        if found is None:
            return Found.PARTIAL
        end = HEADER_SIZE + 4 * found[0] * found[1]
    if found != shape:
        return Found.WRONG_SIZE
    return Found.WHOLE if status.st_size >= end else Found.PARTIAL


def tiff_shape(head: bytes) -> tuple[int, int] | None:
    """Read rows and columns from a TIFF header; None if it is not all there."""
    if len(head) < HEADER_SIZE:
        return None
    sizes: dict[int, int] = {}
    with suppress(struct.error):
        (place,) = struct.unpack_from("<I", head, 4)
        (n_tags,) = struct.unpack_from("<H", head, place)
        for i in range(n_tags):
            tag, _, _, value = struct.unpack_from("<HHII", head, place + 2 + 12 * i)
            sizes[tag] = value
    return (sizes[257], sizes[256]) if {256, 257} <= sizes.keys() else None
