"""One exposure, as counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import RejectedFrame


def _nothing() -> Mapping[str, Any]:
    return {}


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One exposure, as counted.

    Parameters
    ----------
    number
        Which frame of its sweep, from 0.
    counts
        int32, shape (slow, fast). A negative pixel has no valid count: −1 gap, −2 dead.
    header
        What the file says about the exposure, only what it says.
    md5
        The checksum that the file declares for its binary section, hex, or None.
    verified
        Whether ``md5`` was declared and agreed.

    Raises
    ------
    RejectedFrame
        If ``counts`` is not a two-dimensional int32 array or ``number`` is negative.
    """

    number: int
    counts: NDArray[np.int32]
    header: Mapping[str, Any] = field(default_factory=_nothing)
    md5: str | None = None
    verified: bool = False

    def __post_init__(self) -> None:
        if self.number < 0:
            raise RejectedFrame(f"frame {self.number}: frames are numbered from 0")
        if self.counts.dtype != np.int32 or self.counts.ndim != 2:
            raise RejectedFrame(
                f"frame {self.number} is {self.counts.dtype} of shape {self.counts.shape}: "
                "counts must be int32 (slow, fast)"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns (slow, fast)."""
        return (self.counts.shape[0], self.counts.shape[1])


@dataclass(frozen=True, slots=True, eq=False)
class PackedFrame:
    """One exposure, compressed as a scan file keeps it.

    Parameters
    ----------
    number
        Which frame of its sweep, from 0.
    shape
        Rows and columns (slow, fast).
    chunk
        uint8, as from `offbragg.kernels.encode`. It may lie in a buffer that is used again.
    source
        Name of the file that it came from.
    text
        What that file says about the exposure.
    md5, verified
        As in `Frame`.
    time
        Start of the exposure, POSIX s; NaN if not known.
    crc64
        CRC-64/XZ of the chunk, if it is known.
    """

    number: int
    shape: tuple[int, int]
    chunk: NDArray[np.uint8]
    source: str
    text: str = ""
    md5: str | None = None
    verified: bool = False
    time: float = math.nan
    crc64: int | None = None
