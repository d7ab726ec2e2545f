"""One volume that grows with its sweeps: those of one crystal at one temperature that merge.

Everything is read from scan files; the volume is the only thing that is written, beside them. At
the end of its sweeps it is the one that ``offbragg reduce`` makes of the same files, with the same
record. Until then its record says ``growing``.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import DamagedFrame, OffbraggError, ReductionError, VolumeWriteError
from offbragg.files.digest import sha256
from offbragg.files.mask import split_name
from offbragg.files.orientation import NAME
from offbragg.files.scan_file import ScanFile
from offbragg.files.volume_file import VolumeFile
from offbragg.followers.live_file import LiveFile
from offbragg.followers.live_orientation import LiveOrientation
from offbragg.followers.live_sums import Change, LiveSums
from offbragg.reduction.hot_pixels import sampled
from offbragg.workflows.choices import Choices
from offbragg.workflows.record import GROWING, ReductionRecord, SweepInput
from offbragg.workflows.reduce import build_record
from offbragg.workflows.sums import background_exponents, weight_exponent
from offbragg.workflows.sweeps import Compared, opened, select

log = logging.getLogger(__name__)

_AT_ONCE = 128  # frames that are added between two looks
_HELD = 3.0  # s that a frame waits for its measured angle
_MORE = 1.5  # times as many of the frames that are compared before hot pixels are looked for again
_TRY_AGAIN = 0.2  # s, at least, after something was missing
_TRYING = 4.0  # times as long as trying took, it waits
_NEVER = (0, 0)  # stamp of a file that was not looked at


@dataclass(slots=True)
class LiveSweep:
    """A sweep as it was last looked at."""

    path: Path
    uid: str
    time: float
    proposal: str = ""
    """Volumes are of one: who sees some of their runs sees all."""
    stamp: tuple[int, int] = _NEVER
    complete: bool = False
    frames: int = 0
    """That are stored."""
    stored: float = math.nan
    """When the last one was, POSIX s; NaN if it was there when the file was first looked at."""

    def look(self) -> bool:
        """Look at the file again; return whether it has changed."""
        status = self.path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp == self.stamp:
            return False
        with opened(self.path) as scan:
            self.complete = scan.complete
            frames = scan.ledger.counts()["stored"]
        if self.stamp != _NEVER and frames != self.frames:
            self.stored = status.st_mtime
        self.stamp, self.frames = stamp, frames
        return True


class LiveVolume:
    """The volume of some sweeps of one folder.

    Parameters
    ----------
    path
        Of the volume file.
    sweeps
        In the order in which they were measured.
    choices
        Parameters of the reduction.
    every
        Least time between two writings of all cells of the growing volume, s.
    one_more
        Called after each frame; what it raises ends the work.
    written
        Called with the path whenever all cells were written.
    """

    def __init__(
        self,
        path: Path,
        sweeps: Sequence[LiveSweep],
        choices: Choices,
        *,
        every: float = 1.8,
        one_more: Callable[[], None] = lambda: None,
        written: Callable[[Path], None] = lambda path: None,
    ) -> None:
        self.path, self.sweeps = path, list(sweeps)
        self.why = ""
        """Why there is no volume yet, or none of what was measured last."""
        self.closed = False
        """Whether the file is the volume of all that was measured."""
        self.record: ReductionRecord | None = None
        self.after: float | None = None
        """How long after its last frame was stored it was complete, s; None: not known."""
        self._choices, self._one_more = choices, one_more
        self._sums = LiveSums()
        self._file = LiveFile(path, every=every, one_more=one_more, written=written)
        self._seen: tuple[object, ...] = ()
        self._next_try = self._closed_at = 0.0
        self.untried = False
        """Whether its sweeps have changed, and it waits until it is tried again."""
        self._left = 0  # frames that are stored, and in no sum yet
        self._failed = False
        self._finder = LiveOrientation()
        self._looks: dict[str, HotLook] = {}

    @property
    def frames(self) -> int:
        """Number of frames that are in it."""
        if self.closed and self.record is not None:
            return sum(each.frames for each in self.record.inputs)
        return self._sums.frames

    @property
    def unwritten(self) -> bool:
        """Whether there are frames in it that its file does not have."""
        return self._file.behind

    @property
    def complete(self) -> bool:
        """Whether all its sweeps have ended."""
        return all(sweep.complete for sweep in self.sweeps)

    @property
    def orientation(self) -> str:
        """Where the orientation of its first sweep is from."""
        return "" if self.record is None else self.record.inputs[0].orientation

    def add(self, sweep: LiveSweep) -> None:
        """Let it grow by one more sweep."""
        self.sweeps.append(sweep)
        self.record, self.closed, self._seen = None, False, ()

    def adopt(self) -> bool:
        """Return whether the file is that of its sweeps already, made by an earlier process."""
        kept = read_record(self.path)
        if kept is None or {each.run for each in kept.inputs} != {s.uid for s in self.sweeps}:
            return False
        if not is_by(kept, self._choices):
            return False
        try:
            for sweep in self.sweeps:
                sweep.look()
        except (OffbraggError, OSError):  # `advance` says why
            return False
        if not self.complete or self.path.stat().st_mtime_ns != self._newest():
            return False
        self.record, self.closed, self._seen = kept, True, self._look()
        return True

    def drop(self) -> None:
        """Free the memory of its sums."""
        self._sums.drop()
        self._file.drop()

    def advance(self) -> bool:
        """Do what there is to do now; return whether there is more to be done at once."""
        now = time.monotonic()
        try:
            seen = self._look()
        except (OffbraggError, OSError) as error:  # of one sweep: other volumes go on
            self._note(error)
            return False
        changed = seen != self._seen
        if changed and self.closed:
            log.info("%s: what it was made of has changed: it is made again", self.path)
        elif self.closed and not self.path.exists():
            log.info("%s is gone: it is made again", self.path)
            changed, self.record = True, None
        if changed and self._seen and seen[0] != self._seen[0]:
            self.record = None  # the orientation
        if changed and self._failed:
            self._next_try = now
        self._seen = seen
        self.closed &= not changed
        idle = not (self.unwritten or self.why or self._left) and self.record is not None
        if idle and not changed:
            return False
        if now < self._next_try:
            self.untried |= changed and not self._failed
            return False
        self.untried = False
        try:
            return self._close() if self.complete else self._grow()
        except (OffbraggError, OSError) as error:
            self._note(error)
            took = time.monotonic() - now
            pause = math.inf if self._failed else max(_TRY_AGAIN, _TRYING * took)
            self._next_try = time.monotonic() + pause
            return False

    def _look(self) -> tuple[object, ...]:
        """Look at the files; return what changes with them."""
        for sweep in self.sweeps:
            sweep.look()
        beside = self.path.parent / NAME
        orientation = beside.stat().st_mtime_ns if beside.exists() else None
        return (orientation, *(sweep.stamp for sweep in self.sweeps))

    def _newest(self) -> int:
        """Return when the newest of the files that it is made of was written, ns."""
        times = [sweep.path.stat().st_mtime_ns for sweep in self.sweeps]
        beside = self.path.parent / NAME
        return max([*times, *([beside.stat().st_mtime_ns] if beside.exists() else [])])

    def _note(self, error: Exception) -> None:
        why = str(error)
        if why != self.why:
            level = logging.WARNING if self.complete else logging.INFO  # it may come yet
            log.log(level, "%s: %s", self.path, why.partition("\n")[0])
        self.why = why

    def _paths(self) -> list[Path]:
        return [sweep.path for sweep in self.sweeps]

    def _orient(self) -> None:
        """Find an orientation if there is none."""
        if self._choices.orientation is None:
            self._finder.find(self._paths(), complete=self.complete)

    def _grow(self) -> bool:
        """Add what is newly stored, and write the volume now and then."""
        if self.record is None:
            self._orient()
            messages: list[str] = []
            self.record = self._build(messages)
            for line in messages:
                log.info("%s", line)
        try:
            self.record = grown(self.record, self._looks)
            change = self._sums.follow(self.record, most=_AT_ONCE, one_more=self._one_more)
        except DamagedFrame as error:
            self.record = None  # it finds which are damaged
            log.warning("%s", str(error).partition("\n")[0])
            return True
        if change.again:
            log.info("%s: %s", self.path, change)
        self.why, self._left = "", change.left
        self._file.behind |= bool(change)
        if self.unwritten and self._sums.sums is not None:
            self._file.show(
                self._sums.sums, self.record, self._growing(self.record), self._sums.frames
            )
        return change.left > 0 or self._file.in_pass

    def _build(self, messages: list[str]) -> ReductionRecord:
        """Build the record of what is stored."""
        compared = {run: look.compared for run, look in self._looks.items()}
        return build_record(
            self._paths(), self._choices, say=messages.append, compared=compared
        )  # fmt: skip

    def _close(self) -> bool:
        """Make the volume that ``offbragg reduce`` makes of the finished sweeps.

        Returns
        -------
        more
            Whether it is to be tried again at once, without a sweep that was refused.
        """
        began, newest, seen = time.monotonic(), self._newest(), self._seen
        messages: list[str] = []
        self._failed, self._left = False, 0
        try:
            self._orient()
            record = self._build(messages)
            before = self._sums.frames
            change = self._follow(record)
            sums = self._sums.sums
            assert sums is not None
            document = record.relative_to(self.path).to_dict()
            self._file.complete(sums, record, document)
            self._completed()
            self._file.finish(document)
        except VolumeWriteError:  # it may be in a moment
            raise
        except ReductionError as error:  # as `offbragg reduce` would: until a file changes
            if self._leave_out(error):
                return True
            self._forget_growing()
            self._failed = True
            raise
        os.utime(self.path, ns=(newest, newest))  # so it is known what it was made of
        self.record, self.why, self._seen = record, "", seen
        self.closed = True
        for line in messages:
            log.info("%s", line)
        log.info(
            "%s is closed: %d frames of %d sweep%s, %d of them while they grew; then %s; %.1f s",
            self.path, self.frames, len(self.sweeps), "" if len(self.sweeps) == 1 else "s",
            before, change, time.monotonic() - began,
        )  # fmt: skip
        return False

    def _leave_out(self, error: ReductionError) -> bool:
        """Leave out sweeps that are refused alone, or else the newest, if others stay."""
        if len(self.sweeps) == 1:
            return False
        refused = [each for each in self.sweeps if why_refused([each.path], self._choices)]
        if len(refused) in (0, len(self.sweeps)):
            refused = [max(self.sweeps, key=lambda sweep: sweep.time)]
        names = ", ".join(sweep.path.name for sweep in refused)
        log.warning("%s: without %s: %s", self.path, names, str(error).partition("\n")[0])
        self.sweeps = [sweep for sweep in self.sweeps if sweep not in refused]
        self.record, self._seen = None, ()
        return True

    def _completed(self) -> None:
        """Note how long after the last frame was stored the file has all of the volume."""
        now, last = time.time(), max(self.sweeps, key=lambda sweep: sweep.time).stored
        self.after = now - last if last > self._closed_at else None
        self._closed_at = now
        if self.after is not None:
            log.info("%s: volume complete %.1f s after the last frame", self.path, self.after)

    def _follow(self, record: ReductionRecord) -> Change:
        """Bring the sums to the last record."""
        try:
            return self._sums.follow(record, one_more=self._one_more)
        except DamagedFrame:  # damaged since it was added: it can only be left out
            change = self._sums.follow(record, one_more=self._one_more)
            change.again = "a stored frame"
            return change

    def _growing(self, record: ReductionRecord) -> dict[str, Any]:
        """Return the record of a volume that still grows: it cannot be reproduced."""
        frames = {
            Path(each.file).name: {
                "run": each.run, "frames": self._sums.frames_of(each.run),
                "orientation": each.orientation,
            }
            for each in record.inputs
        }  # fmt: skip
        return {
            GROWING: frames,
            "temperature": record.temperature,
            "sample": record.sample.to_dict(),
            "versions": dict(record.versions),
        }

    def _forget_growing(self) -> None:
        """Remove a growing volume that cannot become one."""
        if self.path.exists() and read_record(self.path) is None:
            self.path.unlink(missing_ok=True)


@dataclass(slots=True)
class HotLook:
    """When hot pixels of a sweep were looked for last, and what is kept of that."""

    frames: int = 0
    """How many of the frames that are compared were stored."""
    compared: Compared = field(default_factory=Compared)

    def is_due(self, stored: NDArray[np.bool_]) -> bool:
        """Return whether they are to be looked for: often at first, and before the last frame."""
        numbers = sampled(stored.size)
        there = int(np.count_nonzero(stored[numbers]))
        if there < _MORE * self.frames and not self.frames < there == len(numbers) - 1:
            return False
        self.frames = there
        return True


def grown(record: ReductionRecord, looks: dict[str, HotLook]) -> ReductionRecord:
    """Return a record with the frames that are stored by now.

    Damaged frames are those that the record has. Hot pixels are looked for again whenever there are
    half as many more of the frames that are compared for it, and once all but one are there: at the
    end they are then those that are excluded already, and one frame is to be read.

    Parameters
    ----------
    record
        With the selection of each sweep.
    looks
        How hot pixels were looked for, by run; it is changed.
    """
    inputs = tuple(_grown(each, record, looks) for each in record.inputs)
    exponent = record.weight_exponent
    before = [_brightest(each) for each in record.inputs]
    if any(_brightest(each) > most for each, most in zip(inputs, before, strict=True)):
        exponent = weight_exponent(inputs, record)
    found = replace(record, inputs=inputs, weight_exponent=exponent)
    if record.background_exponents is None:
        return found
    hot = zip(inputs, record.inputs, strict=True)
    if exponent != record.weight_exponent or any(_hot(a) != _hot(b) for a, b in hot):
        found = replace(found, background_exponents=background_exponents(found))
    return found


def _hot(each: SweepInput) -> list[int]:
    assert each.selection is not None
    return each.selection.hot.tolist()


def _brightest(each: SweepInput) -> float:
    assert each.selection is not None
    return float(each.selection.flux.max(initial=0.0))


def _grown(each: SweepInput, record: ReductionRecord, looks: dict[str, HotLook]) -> SweepInput:
    assert each.selection is not None
    look = looks.setdefault(each.run, HotLook())
    with opened(Path(each.file)) as scan:
        again = record.hot and look.is_due(scan.frame_values()["status"] == "stored")
        chosen = select(
            scan, monitor=record.monitor, hot=again, damaged=each.damaged, compared=look.compared
        )
        flux = chosen.flux.copy()
        flux[_waits_for_angle(scan)] = 0.0
    chosen = replace(chosen, flux=flux, hot=chosen.hot if again else each.selection.hot)
    return replace(each, frames=chosen.frames, selection=chosen)


def _waits_for_angle(scan: ScanFile) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which frames may get a measured angle in a moment."""
    values = scan.frame_values()
    waits = ~np.isfinite(values["angle"])
    if "angle" not in (scan.start.get("per_frame") or {}) or scan.complete:
        return np.zeros_like(waits)
    stored = np.flatnonzero(values["status"] == "stored")
    if stored.size:
        waits[: max(int(stored[-1]) - round(_HELD / scan.sweep.period), 0)] = False
    return waits


def why_refused(paths: Sequence[Path], choices: Choices) -> str:
    """Return why there can be no volume of these sweeps now; empty if there can be."""
    try:
        build_record(paths, choices, say=lambda text: None)
    except (OffbraggError, OSError) as error:
        return str(error).partition("\n")[0]
    return ""


def is_by(record: ReductionRecord, choices: Choices) -> bool:
    """Return whether a record may be one of these choices."""
    named = ("fold", "monitor", "corrections", "oversample", "hot", "background_scale")
    return (
        all(getattr(record, name) == getattr(choices, name) for name in named)
        and choices.grid in (None, record.grid)
        and choices.symmetry in ("auto", record.symmetry or "none")
        and _is_mask(choices, record)
        and (choices.background != "none" or all(e.background is None for e in record.inputs))
    )


def _is_mask(choices: Choices, record: ReductionRecord) -> bool:
    if choices.mask is None or record.mask is None:
        return choices.mask is None and record.mask is None
    file, dataset = split_name(choices.mask)
    try:
        return (sha256(file), dataset, choices.invert_mask) == (
            record.mask.sha256, record.mask.dataset, record.mask.inverted
        )  # fmt: skip
    except OSError:  # who makes it again says what is wrong with it
        return False


def read_record(path: Path) -> ReductionRecord | None:
    """Return the record of a finished volume file; None if it is not one."""
    try:
        with VolumeFile(path) as file:
            return ReductionRecord.from_dict(file.record).absolute_from(path)
    except OffbraggError:
        return None
