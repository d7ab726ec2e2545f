"""Where the frame files of a sweep are: known from the start, or as soon as a run says it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from offbragg.errors import RejectedFrame
from offbragg.files.frame_files import FrameFiles, find_run_folder
from offbragg.followers.file_look import Problem, first_line
from offbragg.ledger import FrameStatus

log = logging.getLogger(__name__)

_SEARCH_AGAIN = 1.0  # time between two looks for the folder of a run, s


class FrameSource:
    """Frame files whose place is known.

    Parameters
    ----------
    files
        Where they are; None while that is not known.
    """

    def __init__(self, files: FrameFiles | None = None) -> None:
        self.files = files
        self.refused = ""
        """Why none of the files is read; empty if they are."""

    @property
    def absence(self) -> Problem:
        """What a frame is listed as while there is no path of it."""
        if self.refused:
            return FrameStatus.REJECTED, first_line(self.refused)
        return FrameStatus.MISSING, "no folder of this run with frames was found"

    def path(self, number: int) -> Path | None:
        """Return where the file of a frame is, or will be; None if that is not known."""
        return self.files.path(number) if self.files is not None else None

    def leads_out(self, path: Path) -> bool:
        """Return whether a file lies outside of the directory of the frames."""
        return self.files is not None and not self.files.holds(path)

    def find(self) -> FrameFiles | None:
        """Look where the files are, at any time; None if there are none.

        Raises
        ------
        RejectedFrame
            If they lie where no frames may be read.
        """
        return self.files


class RunSource(FrameSource):
    """Frame files of a run: its documents say where they are, or its folder is looked for.

    Parameters
    ----------
    start
        The run's start document.
    root
        Nothing outside of it is read, whatever a document says; None if documents are believed.
    search
        Where the run's folder is looked for if no document says where its frames are.
    """

    def __init__(
        self,
        start: Mapping[str, Any],
        *,
        root: Path | None,
        search: Path | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._start = start
        self._root = root
        self._search = search
        self._clock = clock
        self._descriptors: list[Mapping[str, Any]] = []
        self._is_over = False
        self._next_search = 0.0

    @property
    def absence(self) -> Problem:
        """What a frame is listed as while there is no path of it."""
        status, reason = super().absence
        searched = self._search is not None and not self.refused
        return status, f"{reason} in {self._search}" if searched else reason

    def add_descriptor(self, doc: Mapping[str, Any]) -> None:
        """Take a descriptor: it may have the path of the run's folder."""
        self._descriptors.append(doc)

    def add_resource(self, doc: Mapping[str, Any]) -> None:
        """Take the stream resource of the frames, which says where they are."""
        try:
            self.files = FrameFiles(doc, self._root)
        except RejectedFrame as error:  # its frames are listed with it
            self.files = None
            self._refuse(error)

    def end(self) -> None:
        """Note that no more documents come: what they have not said is looked for."""
        self._is_over = True

    def path(self, number: int) -> Path | None:
        """Return where the file of a frame is, or will be; None if that is not known."""
        if self.files is None and not self.refused and self._is_over:
            self._search_folder()
        return super().path(number)

    def find(self) -> FrameFiles | None:
        """Look where the files are, at any time; None if there are none."""
        if self.files is not None:
            return self.files
        return find_run_folder(self._start, self._descriptors, self._search, self._root)

    def _search_folder(self) -> None:
        """Look for the folder of a run that ended before it said where its frames are."""
        if self._clock() < self._next_search:
            return
        self._next_search = self._clock() + _SEARCH_AGAIN
        try:
            self.files = self.find()
        except RejectedFrame as error:
            self._refuse(error)
        if self.files is not None:
            log.warning(
                "run %s ended before it said where its frames are: they are taken from its folder, "
                "%s", self._start["uid"][:8], self.files.directory,
            )  # fmt: skip

    def _refuse(self, error: RejectedFrame) -> None:
        self.refused = str(error)
        log.error("run %s: %s", self._start["uid"][:8], error)
