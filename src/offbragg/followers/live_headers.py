"""The headers of the frames of one run, compared with the run as they are stored."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from offbragg.errors import FrameError
from offbragg.files import read_head
from offbragg.files.header_check import HeaderCheck
from offbragg.followers.frame_source import FrameSource

log = logging.getLogger(__name__)

_READING = 10.0  # time limit for reading the headers of files that were stored earlier, s


class LiveHeaders:
    """Compare headers with the run, and log a contradiction once; the frames are stored anyway.

    Parameters
    ----------
    start
        The run's start document.
    before
        What an earlier stacker found, as the scan file has it.
    """

    def __init__(self, start: Mapping[str, Any], before: Mapping[str, list[str]]) -> None:
        self.contradiction = ""
        """What the first header that contradicts the run says; empty if none does."""
        self._run = f"run {str(start['uid'])[:8]}"
        self._before = before
        # those of a folder have been compared before its scan file was made
        self._check = None if isinstance(start.get("files"), dict) else HeaderCheck(start)

    def configure(self, descriptor: Mapping[str, Any]) -> None:
        """Compare headers also with the configuration of the devices of a stream."""
        if self._check is not None:
            self._check.configure(descriptor)

    def add(self, number: int, source: str, header: Callable[[], Mapping[str, Any]]) -> None:
        """Compare what a frame's header says with the run.

        Parameters
        ----------
        number
            Of the frame.
        source
            Name of its file.
        header
            Returns the header; called only if headers are compared.
        """
        if self._check is None:
            return
        self._check.add(number, source, header())
        for text in self._check.news():
            what = f"{self._run}: header and run contradict each other: {text}"
            log.error("%s", what)
            self.contradiction = self.contradiction or what

    def findings(
        self,
        earlier: Iterable[int],
        source: FrameSource,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> dict[str, list[str]]:
        """Compare the headers of what an earlier stacker stored, too; return all findings.

        Parameters
        ----------
        earlier
            Numbers of the frames that were stored before.
        source
            Where their files are.
        """
        if self._check is None:
            return {}
        end = clock() + _READING
        is_whole = True
        for number in earlier:
            path = source.path(number) if clock() < end else None
            if self._check.seen[number]:
                continue
            try:
                head = None if path is None else read_head(path)
            except (FrameError, OSError):
                head = None
            is_whole &= head is not None
            if head is not None and path is not None:
                header = head.header
                self.add(number, path.name, lambda header=header: header)
        found = self._check.findings()
        if not is_whole:  # what was found while the files were there
            for kind, lines in self._before.items():
                found[kind] = list(dict.fromkeys([*lines, *found.get(kind, [])]))
        for line in found.get("differences", []):
            log.warning("%s: header and run differ: %s", self._run, line)
        return found
