"""Which frames of a sweep are there: known from the names and sizes in one directory."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offbragg.ledger import ranges as ranges


def decided(
    present: NDArray[np.bool_], elapsed: float, *, period: float, patience: float
) -> tuple[int, list[int]]:
    """Judge which frames of a sweep have come, are lost, or may still come.

    A frame's time is over ``patience`` after its exposure ended. A hole counts as covered as soon
    as a later frame is there, because files are written in order; it is lost only once its time
    is over.

    Parameters
    ----------
    present
        Which frames have a complete file, shape (n_frames,).
    elapsed
        Time since the first exposure began, s.
    period
        Of one frame, s.
    patience
        How late a file may come, s.

    Returns
    -------
    covered
        Frames 0 … covered−1 are there or passed by.
    lost
        Numbers of the frames whose time is over without a file.

    Examples
    --------
    >>> decided(np.array([True, False, True, False]), 0.4, period=0.1, patience=5.0)
    (3, [])
    >>> decided(np.array([True, False, True, False]), 5.25, period=0.1, patience=5.0)
    (3, [1])
    """
    over = max(int(np.floor((elapsed - patience) / period + 1e-9)), 0)
    over = min(over, len(present))
    there = np.flatnonzero(present)
    last = int(there[-1]) + 1 if len(there) else 0
    lost = [int(number) for number in np.flatnonzero(~present[:over])]
    return max(last, over), lost


class FrameFolder:
    """The frame files of one sweep in one directory, looked at again and again.

    A file counts once it has stopped growing: a later frame is there, or its size is the same at
    two looks. Whether its content is good is not judged here.
    """

    def __init__(self, directory: Path, stem: str, suffix: str, n_frames: int) -> None:
        self.directory = directory
        self.present = np.zeros(n_frames, dtype=bool)
        self._pattern = re.compile(re.escape(stem) + r"_(\d{5,})\." + re.escape(suffix) + r"\Z")
        self._sizes: dict[int, int] = {}
        self._paths: dict[int, Path] = {}
        self._whole: set[str] = set()  # names of complete files: thousands, at every look

    @property
    def n_present(self) -> int:
        """How many frames have a complete file."""
        return int(self.present.sum())

    @property
    def last(self) -> int:
        """Number of the last frame that has a complete file; −1 if none has."""
        return int(np.flatnonzero(self.present).max(initial=-1))

    def seen(self) -> list[int]:
        """Numbers of the frames that have a file, complete or not, at the last look."""
        return sorted({*map(int, np.flatnonzero(self.present)), *self._sizes})

    def written(self, number: int) -> float:
        """When the file of a frame was last written, POSIX s."""
        return self._paths[number].stat().st_mtime

    def look(self) -> None:
        """Take note of the files that have been completed since the last look."""
        sizes: dict[int, int] = {}
        newest = self.last
        with os.scandir(self.directory) as entries:
            for entry in entries:
                if entry.name in self._whole:
                    continue
                match = self._pattern.match(entry.name)
                if not match:
                    continue
                number = int(match[1])
                newest = max(newest, number)
                if number >= len(self.present) or self.present[number]:
                    continue
                try:
                    sizes[number] = entry.stat().st_size
                except FileNotFoundError:
                    continue
                self._paths[number] = Path(entry.path)
        for number, size in sizes.items():
            if size and (number < newest or size == self._sizes.get(number)):
                self.present[number] = True
                self._whole.add(self._paths[number].name)
        self._sizes = sizes
