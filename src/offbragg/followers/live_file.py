"""The file of a live volume: how often it is brought to what the sums are, and how."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from offbragg.files.growing_volume import GrowingVolume, remove_hidden
from offbragg.files.volume_writer import write_volume
from offbragg.reduction.accumulator import Accumulator
from offbragg.reduction.folding import Unfolded
from offbragg.sample import Sample
from offbragg.volume import Volume
from offbragg.workflows.record import ReductionRecord
from offbragg.workflows.sums import finished, is_as_binned

_COARSE = 0.25  # s between two writings of the coarse levels
_SLICE = 0.3  # s for cells, before frames are added and the levels written again
_WRITING = 1.25  # the cells are written at most in 4 of 5 parts of the time


class LiveFile:
    """The file of a volume that grows.

    Parameters
    ----------
    path
        Of the file.
    every
        Least time between two writings of all cells, s.
    one_more
        Called now and then; what it raises ends the work.
    written
        Called with the path whenever all cells were written.
    """

    def __init__(
        self,
        path: Path,
        *,
        every: float,
        one_more: Callable[[], None],
        written: Callable[[Path], None],
    ) -> None:
        self.path, self._written = path, written
        self.behind = False
        """Whether there are sums that the file does not have."""
        self._every, self._one_more = every, one_more
        self._growing: tuple[Accumulator, Sample | None, GrowingVolume] | None = None
        self._next_fine = self._next_coarse = 0.0
        self._began = self._spent = 0.0  # s, of the writing of all cells that is under way

    @property
    def in_pass(self) -> bool:
        """Whether the writing of all cells is under way."""
        return self._growing is not None and self._growing[2].in_pass

    def show(
        self,
        sums: Accumulator,
        record: ReductionRecord,
        document: Mapping[str, Any],
        frames: int,
    ) -> None:
        """Write what is due: levels from 4 on within a second, all cells less often.

        Parameters
        ----------
        sums, record
            What the volume is made of.
        document
            The record that the file gets; with ``cells``, the number of frames that are in all
            cells: in some of them, and in the coarse levels, there may be more.
        frames
            Number of frames in the sums.

        Raises
        ------
        ReductionError
            If nothing was measured in the grid, or it cannot be written.
        """
        began = time.monotonic()
        due = began >= self._next_fine
        if not due and not self.in_pass and began < self._next_coarse:
            return
        first = self._growing is None
        growing = self._grow(sums) if is_as_binned(sums, record) else None
        if growing is None:
            if due:
                self._write(finished(record, sums), {**document, "cells": frames})
                self._passed(began, time.monotonic() - began, behind=False)
            return
        if due and not growing.in_pass:
            self._began, self._spent = began, 0.0
        limit = _SLICE if due or growing.in_pass else 0.0
        growing.update(_changed(sums), document, frames=frames, limit=limit)
        end = time.monotonic()
        self._next_coarse = end + min(_COARSE, self._every)
        if first:
            self._written(self.path)  # it can be looked at from now on
        if limit:
            self._spent += end - began
            if not growing.in_pass:
                self._passed(self._began, self._spent, behind=not growing.has(frames))

    def _passed(self, began: float, spent: float, *, behind: bool) -> None:
        """Note that all cells were written: when that began, and how long writing took, s."""
        self._next_fine = began + max(self._every, _WRITING * spent)
        self.behind = behind
        self._written(self.path)

    def complete(
        self, sums: Accumulator, record: ReductionRecord, document: Mapping[str, Any]
    ) -> None:
        """Write all of the volume of complete sums.

        Parameters
        ----------
        sums, record, document
            As for `show`.
        """
        if not is_as_binned(sums, record):
            self._write(finished(record, sums), document)
        elif self._growing is None:
            self._write(sums, document)
        else:
            self._grow(sums).update(_changed(sums), document)
            return
        self.drop()

    def finish(self, document: Mapping[str, Any]) -> None:
        """Make it the file that ``offbragg reduce`` writes, with the bytes in the same order."""
        if self._growing is not None:
            self._growing[2].finish(document)
        self.drop()
        self._written(self.path)

    def drop(self) -> None:
        """Forget what is kept of the growing volume; its file stays."""
        if self._growing is not None:
            self._growing[2].close()
        self._growing, self.behind = None, False

    def _grow(self, sums: Accumulator) -> GrowingVolume:
        """Return what writes these sums; others before are forgotten."""
        if self._growing is not None:
            of, sample, growing = self._growing
            if of is sums and sample == sums.sample:
                return growing
            growing.close()
        growing = GrowingVolume(self.path, sums, one_more=self._one_more)
        self._growing = sums, sums.sample, growing
        return growing

    def _write(self, volume: Accumulator | Unfolded | Volume, document: Mapping[str, Any]) -> None:
        """Write all of the volume in place of the one before, at once."""
        hidden = self.path.with_name(f".{self.path.name}.new")
        hidden.unlink(missing_ok=True)  # left by one that was killed
        write_volume(hidden, volume, document)
        hidden.replace(self.path)
        remove_hidden(self.path)


def _changed(sums: Accumulator) -> Iterable[tuple[int, int, int]]:
    return (sums.place(number) for number in sums.take_changed())
