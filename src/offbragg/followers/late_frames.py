"""Frame files that come after their sweep was finished without them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from offbragg.errors import RejectedFrame
from offbragg.files.frame_files import FrameFiles


class LateFrames:
    """What a finished scan file lacks, and the folder where it may come.

    A look takes one listing of the folder, and no scan file is opened.

    Parameters
    ----------
    lacking
        Numbers of the frames that are missing or rejected.
    judged
        Size in bytes and time of the last change in ns of the files that were found bad, by
        number. A file that could not be read is not among them: it is tried again.
    find
        Returns where the frame files are; None while there is no folder.
    """

    def __init__(
        self,
        lacking: Iterable[int],
        judged: Mapping[int, tuple[int, int]],
        find: Callable[[], FrameFiles | None],
    ) -> None:
        self._lacking = tuple(lacking)
        self._judged = dict(judged)
        self._find = find

    def have_come(self) -> bool:
        """Return whether there is a file of a lacking frame that was not judged as it is now."""
        try:
            files = self._find()
            if files is None or not self._lacking:
                return False
            wanted: dict[Path, dict[str, int]] = {}
            for number in self._lacking:
                path = files.path(number)
                wanted.setdefault(path.parent, {})[path.name] = number
            return any(self._is_in(folder, numbers) for folder, numbers in wanted.items())
        except (OSError, RejectedFrame):  # away just now, or nothing to be read
            return False

    def _is_in(self, folder: Path, numbers: Mapping[str, int]) -> bool:
        with os.scandir(folder) as entries:
            return any(
                self._is_new(numbers[entry.name], entry)
                for entry in entries
                if entry.name in numbers and entry.is_file()
            )

    def _is_new(self, number: int, entry: os.DirEntry[str]) -> bool:
        status = entry.stat()
        return (status.st_size, status.st_mtime_ns) != self._judged.get(number)
