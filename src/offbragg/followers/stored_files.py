"""The files of stored frames: whether another one has taken the place of one of them since."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import DamagedFrame, FrameError
from offbragg.files import read_frame
from offbragg.files.cbf import declared_md5
from offbragg.followers.file_look import Signature, first_line
from offbragg.followers.frame_source import FrameSource

log = logging.getLogger(__name__)

_READING = 10.0  # time limit for reading the files that have changed, s


class StoredFiles:
    """Remember the file that each stored frame came from.

    Parameters
    ----------
    n_frames
        Of the sweep.
    earlier
        Number → MD5 of the frames that an earlier stacker stored, which knew the signatures of
        their files; empty where a file has no MD5.
    source
        Where the files are.
    """

    def __init__(self, n_frames: int, earlier: Mapping[int, str], source: FrameSource) -> None:
        self.earlier = earlier
        self._source = source
        self._signatures = np.zeros((n_frames, 2), np.int64)

    def add(self, number: int, signature: Signature) -> None:
        """Note the file of a frame that was stored just now."""
        self._signatures[number] = signature

    def replaced(
        self,
        stored: Callable[[int], NDArray[Any]],
        shape: tuple[int, int],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> Iterator[tuple[int, str, Signature]]:
        """Find files that hold other pixels now than the frame that was stored.

        Parameters
        ----------
        stored
            Returns the stored counts of a frame.
        shape
            Of a frame.

        Yields
        ------
        number, reason, signature
            Of the frame, what is wrong with its file, and the file as it was judged.
        """
        end = clock() + _READING
        here = np.flatnonzero(self._signatures[:, 1]).tolist()
        for number in [*here, *self.earlier]:
            if clock() > end:  # all of them were touched
                log.warning(
                    "frame files from %d on were not compared with what was stored: "
                    "offbragg verify --deep does", number,
                )  # fmt: skip
                return
            path = self._source.path(number)
            try:
                now = self._changed(number, path) if path is not None else None
            except OSError:
                continue  # gone: it is stored
            if path is None or now is None:
                continue
            try:
                frame = read_frame(path, number=number, shape=shape)
                if np.array_equal(frame.counts, stored(number)):
                    continue
                reason = "holds other pixels than the frame that was stored"
            except DamagedFrame as error:
                log.warning("%s", first_line(error))
                continue
            except (FrameError, OSError) as error:
                reason = f"is not what was stored: {first_line(error)}"
            changed = f"{path.name} was changed after its frame had been stored"
            yield number, f"{changed}, and {reason}", now

    def _changed(self, number: int, path: Path) -> Signature | None:
        """Return the signature of a stored frame's file if it may be another one now.

        What an earlier stacker stored is recognised by the MD5 that the file declares, if any.
        """
        status = path.stat()
        now = (status.st_size, status.st_mtime_ns)
        if not S_ISREG(status.st_mode) or now == tuple(self._signatures[number].tolist()):
            return None
        if self._source.leads_out(path):
            log.warning("frame %d: %s leads out of the directory of the frames now: it is not read",
                        number, path.name)  # fmt: skip
            return None
        if number in self.earlier:
            md5 = self.earlier[number]
            return now if md5 and declared_md5(path) != md5 else None
        return now
