"""The columns that a scan file has for its frames. A new one is declared here, and only here.

A scan file lists the columns that it was made with. So a file that was made before a column was
declared is read without it, and a file that lists a column and does not have it is damaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np

LISTED = "columns"
"""Attribute of the group of the columns: the names of those that the file was made with."""


@dataclass(frozen=True, slots=True)
class FrameColumn:
    """One column; it has a row for each frame from the beginning.

    Parameters
    ----------
    name
        In the scan file, and in the catalog.
    dtype
        NumPy's: ``<f8``, ``<i4``, or ``S16`` for text of up to 16 bytes.
    units
        Of its values.
    meaning
        For people who look into the file; ``{axis}`` is the axis of the sweep.
    fresh
        Value of a frame of which nothing is known yet; by default not a number, or no text.
    published
        Whether the catalog has it, too.
    joined
        Whether the stacker joins it from documents, by `ScanWriter.set_values`.
    in_every_file
        Whether the very first scan files have it. Never so of a new one.
    """

    name: str
    dtype: str = "<f8"
    units: str = ""
    meaning: str = ""
    fresh: float | bytes | None = None
    published: bool = False
    joined: bool = False
    in_every_file: bool = False

    @property
    def length(self) -> int:
        """Maximum length of its text, bytes; 0 of numbers."""
        kind = np.dtype(self.dtype)
        return kind.itemsize if kind.kind == "S" else 0

    @property
    def begins_with(self) -> float | bytes:
        """Value of every frame in a file that has just been made."""
        if self.fresh is not None:
            return self.fresh
        return b"" if self.length else math.nan


COLUMNS = (
    FrameColumn("number", "<i4", fresh=0, in_every_file=True),
    FrameColumn("status", "S8", fresh=b"pending", published=True, in_every_file=True),
    FrameColumn("reason", "S160", published=True, in_every_file=True),
    FrameColumn(
        "angle", units="deg", meaning="{axis}, middle of the frame (deg)", published=True,
        joined=True, in_every_file=True,
    ),
    FrameColumn(
        "angle_source", "S16", fresh=b"commanded", published=True, in_every_file=True
    ),
    FrameColumn(
        "angle_sigma", units="deg", published=True, joined=True,
        meaning="standard uncertainty of the angle (deg); not a number where nothing has checked "
        "it",
    ),
    FrameColumn(
        "time", units="s", meaning="start of the exposure, POSIX seconds", joined=True,
        in_every_file=True,
    ),
    FrameColumn("source", "S200", in_every_file=True),
    FrameColumn("md5", "S32", in_every_file=True),
    FrameColumn("crc64", "S16", meaning="CRC-64/XZ of the chunk as it is stored, hex"),
)  # fmt: skip
"""What every scan file that is made now has. A run's ``per_frame`` adds columns of its own."""

BY_NAME = {column.name: column for column in COLUMNS}
PUBLISHED_TEXT = {c.name: c.length for c in COLUMNS if c.published and c.length}
"""The columns of the catalog that hold text, and their maximum length."""


def published_columns(per_frame: Mapping[str, Any]) -> list[str]:
    """List the columns that the catalog has of a run: numbers, those of the run, then text.

    Parameters
    ----------
    per_frame
        Of the start document: columns that this run has in addition.
    """
    numbers = [c.name for c in COLUMNS if c.published and not c.length]
    return list(dict.fromkeys([*numbers, *per_frame, *PUBLISHED_TEXT]))


def columns_of(frames: h5py.Group) -> tuple[str, ...]:
    """List the declared columns that a scan file should have, whether they are there or not.

    Parameters
    ----------
    frames
        The group of the columns. One without a list was made by an earlier version; what that
        version did not always write is there, or is not.
    """
    listed: Any = cast(Any, frames).attrs.get(LISTED)
    made = set(listed.decode("ascii", "replace").split()) if isinstance(listed, bytes) else frames
    return tuple(c.name for c in COLUMNS if c.in_every_file or c.name in made)
