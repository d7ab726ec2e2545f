"""Which frames of a sweep are there: known from the names and sizes in one directory."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import re
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ConfigError

log = logging.getLogger(__name__)


def folder_mode(text: str) -> int:
    """Read the mode of a folder as ``chmod`` writes it.

    Raises
    ------
    ConfigError
        If it is not octal, or its owner could not use the folder.

    Examples
    --------
    >>> oct(folder_mode("2775"))
    '0o2775'
    """
    mode = int(text, 8) if re.fullmatch(r"[0-7]{3,4}", text) else -1
    if mode & 0o700 != 0o700 or mode < 0:
        raise ConfigError(
            f"directory_mode is {text!r}: it must be octal digits as for chmod, with all rights "
            'for the owner, e.g. "2775"'
        )
    return mode


def make_folder(folder: Path, mode: int, *, exist_ok: bool = False) -> None:
    """Make a folder that has a mode whatever the umask, as far as the disk can do that."""
    folder.mkdir(exist_ok=exist_ok)
    try:
        if stat.S_IMODE(folder.stat().st_mode) != mode:
            folder.chmod(mode)
    except OSError as error:
        log.warning("%s cannot have the mode %s: %s", folder, format(mode, "o"), error.strerror)


def describe_access(folder: Path) -> str:
    """Return who may write to a folder: its owner, group and mode."""
    try:
        facts = folder.stat()
    except OSError as error:
        return f"it cannot be looked at: {error.strerror}"
    return describe_owner(facts)


def describe_owner(facts: os.stat_result) -> str:
    """Return owner, group and mode of a file, as "det:users, mode 2775"."""
    try:
        owner = pwd.getpwuid(facts.st_uid).pw_name
    except KeyError:
        owner = str(facts.st_uid)
    try:
        group = grp.getgrgid(facts.st_gid).gr_name
    except KeyError:
        group = str(facts.st_gid)
    return f"{owner}:{group}, mode {stat.S_IMODE(facts.st_mode):o}"


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
        """Return when the file of a frame was last written, POSIX s."""
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
