"""Frame files into the scan file of one sweep: by their number, each one judged.

The file of a frame is read, verified and written, or the ledger says why not. All state is in the
scan file: killed at any moment, a later stacker goes on with the frames that are still pending.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from offbragg import kernels
from offbragg.errors import FrameError, GeometryError, ScanFileError
from offbragg.files import read_frame
from offbragg.files.cbf import header_of
from offbragg.files.digest import has_digest
from offbragg.files.frame_files import describe_others
from offbragg.files.frame_pool import FramePool, Judged
from offbragg.files.left_behind import seal
from offbragg.files.nxrefine import has_wrapper, write_wrapper
from offbragg.files.quarantine import quarantine
from offbragg.files.run_progress import RunProgress
from offbragg.files.salvage import rebuild_if_torn
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_folders import scan_directory
from offbragg.files.scan_writer import ScanWriter
from offbragg.followers.file_look import (
    FileLook,
    Problem,
    Signature,
    describe_bad,
    describe_unreadable,
    signature_of,
)
from offbragg.followers.frame_source import FrameSource
from offbragg.followers.frame_values import FrameValues
from offbragg.followers.late_frames import LateFrames
from offbragg.followers.live_headers import LiveHeaders
from offbragg.followers.stored_files import StoredFiles
from offbragg.frame import Frame, PackedFrame
from offbragg.ledger import FrameStatus

log = logging.getLogger(__name__)

_TURN = 0.25  # how long one call of `poll` may read frames before documents get their turn, s
_LOOK_AGAIN = 1.0  # how often the file of a frame that was given up is looked for again, s
_STEADY = 0.4  # time without a change before a file without a checksum is believed, s


@dataclass(frozen=True, slots=True)
class Ending:
    """How a sweep ended."""

    time: float
    """POSIX s."""
    exit_status: str
    reason: str = ""


class SweepStacker:
    """Write the frames of one sweep into its scan file, by their number, each one judged.

    It knows no documents: its owner says which frames to `expect`, adds the values that belong to
    them to `values`, and says how the sweep came to its `end`.

    Parameters
    ----------
    start
        The start document that its scan file has, or gets.
    path
        The scan file; made below ``experiment`` if None.
    source
        Where the frame files are.
    experiment
        Without it the scan file stands alone: nothing is written for NXRefine.
    late
        How long a frame that is expected may take before it is listed as missing, s.
    contradicting
        Frames that belong to another sweep by something else than their file, and the reason:
        they are rejected.
    """

    def __init__(
        self,
        start: Mapping[str, Any],
        path: Path | None,
        source: FrameSource,
        *,
        experiment: Path | None,
        late: float,
        contradicting: Mapping[int, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.late = late
        self._start = start
        self._source = source
        self._contradicting = contradicting or {}
        self._clock = clock
        self._wrapped = experiment is not None
        self._writer: ScanWriter | None = None
        if path is None:
            assert experiment is not None
            directory = scan_directory(experiment, start)
            self._writer = ScanWriter.create(directory, start=start)
            path = self._writer.path
        else:
            rebuild_if_torn(path, start)
        self.path = path
        scan = self._writer or ScanFile.open(path)
        self._was_complete = scan.complete
        self._sweep = scan.sweep
        self._shape = scan.shape
        statuses, reasons = scan.ledger.statuses, scan.ledger.reasons
        columns = scan.frame_values()
        # The journal is read from its first line, so every sample comes again; the times of
        # the frames that are stored already come back from the file.
        middle = columns["time"] + scan.sweep.exposure / 2
        self.values = FrameValues(start.get("per_frame", {}), middle, sweep=scan.sweep)
        self._headers = LiveHeaders(start, scan.header_findings)
        if self._writer is None:
            scan.close()
        self._pending = {n for n, s in enumerate(statuses) if s == FrameStatus.PENDING}
        # missing and rejected frames: a good file that turns up later still fills its row
        self._given_up = {
            n: (status, reason)
            for n, (status, reason) in enumerate(zip(statuses, reasons, strict=True))
            if status in (FrameStatus.MISSING, FrameStatus.REJECTED)
        }
        self._looked: dict[int, FileLook] = {}
        md5 = {n: str(columns["md5"][n]) for n, s in enumerate(statuses) if s == FrameStatus.STORED}
        self._stored = StoredFiles(self._sweep.n_frames, md5, source)
        self._unreadable: dict[int, OSError] = {}  # what a thread met with
        self._pool = FramePool(self._shape) if kernels.compiled else None
        self._durable = 0
        self.busy = False  # whether there is more to do at once
        self.closed = False
        self.later: Callable[[], bool] | None = None
        """Once it is finished and lacks frames: whether a file of one has come since."""

        self._due: dict[int, float] = {}  # frame → since when its file should be there
        self._unannounced: frozenset[int] = frozenset()  # not expected before the end
        self._last_stored = self._clock()
        self._next_look = 0.0
        self._ending: Ending | None = None

    @property
    def decided(self) -> int:
        """How many of the sweep's frames are stored, missing or rejected."""
        return self._sweep.n_frames - len(self._pending)

    @property
    def contradiction(self) -> str:
        """What a header says that contradicts the run; empty if none does."""
        return self._headers.contradiction

    def backlog(self) -> dict[str, float]:
        """Return how far it is, as `Stacker.backlog` does."""
        pool = self._pool
        progress = RunProgress(self._sweep.n_frames, len(self._due), self.decided)
        return {
            "frames": progress.n_frames,
            "decided": progress.decided,
            "due": progress.due,
            "durable": self._durable,
            "in_work": len(pool) if pool else 0,
            "batches": pool.queued if pool else 0,
            "behind": progress.due * self._sweep.period,
        }

    # -- what is expected ------------------------------------------------------------------

    def expect(self, numbers: Iterable[int]) -> None:
        """Expect the files of these frames from now on."""
        now = self._clock()
        for number in numbers:
            self._due.setdefault(number, now)

    def end(self, ending: Ending) -> None:
        """Expect all frames that were not expected before, and finish once all are decided."""
        self._ending = ending
        self._next_look = 0.0  # once more before the end
        # A camserver outlives its RunEngine: what it still writes belongs to the sweep.
        self._unannounced = frozenset(range(self._sweep.n_frames)) - self._due.keys()
        self.expect(self._unannounced)

    # -- work ------------------------------------------------------------------------------

    def poll(self) -> bool:
        """Stack what is there; True once every frame is decided and the file is closed."""
        over = self._look_again_once() if self._was_complete else self._stack_more()
        if over and self._given_up and not self._source.refused:
            self.later = self._late_frames().have_come
        return over

    def _stack_more(self) -> bool:
        self._stack_pending()
        self._look_again()
        over = self._ending is not None and not self._pending
        if over:
            self._take_all()  # their values are to be written, too
            over = not self._unverified()
        self._write_values()
        if over and self._ending is not None:
            self._finish(self._ending)
        elif self._writer is not None:
            self._writer.sync_sometimes()
            self._durable = self._writer.durable
        return over

    def close(self) -> None:
        """Close the file as it is; a later stacker resumes it."""
        self.closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _stack_pending(self) -> None:
        end_of_turn = self._clock() + _TURN
        stored = self._last_stored
        self.busy = False
        for number in sorted(self._pending & self._due.keys()):
            if number not in self._pending:
                continue  # by now
            problem = self._try(number)
            if problem is not None and self._is_late(number):
                self._give_up(number, *problem)
            if self._clock() > end_of_turn:
                self.busy = self._last_stored != stored
                break
        if self._pool is not None:
            self._pool.send()
            while len(self._pool) and (left := end_of_turn - self._clock()) > 0:
                self._take(left)
            self.busy |= len(self._pool) > 0

    def _try(self, number: int) -> Problem | None:
        """Store a frame if its file is good; return what it would be given up as if it is not.

        A file without a checksum is neither until it has stopped changing. With a pool it is
        neither, too, while it is in work.
        """
        if self._pool is not None and number in self._pool:
            return None
        path = self._source.path(number)
        if path is None:
            return self._source.absence
        if number in self._contradicting:
            return FrameStatus.REJECTED, self._contradicting[number]
        if number in self._unreadable:
            return describe_unreadable(self._unreadable.pop(number), path)  # then try again
        try:
            look = self._look(number, path)
        except OSError as error:
            self._looked.pop(number, None)
            return describe_unreadable(error, path)
        if look.problem is not None:
            return look.problem  # the file has not changed since
        look.steady = self._clock() - look.since >= _STEADY
        if look.unverified and not look.steady:
            return None  # to be seen again
        if self._pool is not None:
            self._pool.offer(number, path)
            while self._pool.full:
                self._take(_TURN)
            return None
        try:
            frame = read_frame(path, number=number, shape=self._shape)
        except OSError as error:
            return describe_unreadable(error, path)
        except FrameError as error:
            look.problem = describe_bad(error, path)
            return look.problem
        if not frame.verified and self._look(number, path) is not look:
            return None  # it changed while it was read
        if self._is_believed(frame, look):
            begin = self._began(number, look)
            self._scan().write_frame(frame, source=path.name, time=begin)
            self._headers.add(number, path.name, lambda: frame.header)
            self._note_stored(number, begin)
        return None

    def _take(self, timeout: float) -> None:
        """Store what the pool has done, and note what is wrong with the rest."""
        assert self._pool is not None
        with self._pool.take(timeout) as judged:
            good = [frame for item in judged if (frame := self._believe(item)) is not None]
            if good:
                self._scan().write_frames(good)
                for frame in good:
                    if frame.text:
                        header = partial(header_of, frame.text)
                        self._headers.add(frame.number, frame.source, header)
                    self._note_stored(frame.number, frame.time)
            for item in judged:
                if isinstance(item.error, OSError):
                    self._unreadable[item.number] = item.error

    def _take_all(self) -> None:
        """Wait for everything that is in work."""
        if self._pool is not None:
            self._pool.send()
            while len(self._pool):
                self._take(_TURN)

    def _believe(self, judged: Judged) -> PackedFrame | None:
        look = self._looked[judged.number]
        if isinstance(judged.error, FrameError):
            look.problem = describe_bad(judged.error, judged.path)
        if judged.frame is None or not self._is_believed(judged.frame, look):
            return None
        if not judged.frame.verified and judged.signature != look.signature:
            look.unverified = True  # it changed while it waited
            return None
        return replace(judged.frame, time=self._began(judged.number, look))

    def _is_believed(self, frame: Frame | PackedFrame, look: FileLook) -> bool:
        if frame.verified or look.steady:
            return True
        look.unverified = True
        return False

    def _look(self, number: int, path: Path) -> FileLook:
        """Return what is known of a file as it is now: nothing, once it has changed."""
        signature = signature_of(path)
        look = self._looked.get(number)
        if look is None or look.signature != signature:
            look = self._looked[number] = FileLook(signature, self._clock())
            if self._source.leads_out(path):
                why = f"{path.name} leads out of the directory of the frames: it is not read"
                look.problem = FrameStatus.REJECTED, why
        return look

    def _began(self, number: int, look: FileLook) -> float:
        files, written = self._source.files, look.signature[1] / 1e9
        return np.nan if files is None else files.exposure_began(number, self._sweep, written)

    def _note_stored(self, number: int, begin: float) -> None:
        self.values.exposed(number, begin + self._sweep.exposure / 2)
        self._pending.discard(number)
        look = self._looked.pop(number, None)
        if look is not None:
            self._stored.add(number, look.signature)
        if self._given_up.pop(number, None):
            log.info("frame %d came late and is stored", number)
        self._last_stored = self._clock()

    def _is_late(self, number: int) -> bool:
        """Return whether a file that is not good yet has had its time, by this process's clock."""
        due, patience = self._due[number], self.late
        if number in self._unannounced:
            # the camserver may still be at it, as slowly as the sweep was to be
            due = max(due, self._last_stored)
            patience += 2 * self._sweep.period
        look = self._looked.get(number)
        if look is not None:
            due = max(due, look.since)  # it changed: it may still be being written
        return self._clock() - due >= patience

    def _give_up(self, number: int, status: FrameStatus, what: str) -> None:
        """List a frame as missing or rejected; a good file may still come."""
        reason = what
        if status is FrameStatus.MISSING:
            reason = f"{what} {self.late:g} s after it was due" if self.late else what
            if self._ending is not None and number in self._unannounced:
                reason = f"{what}; the run had ended ({self._ending.exit_status})"
        self._pending.discard(number)
        if status is FrameStatus.REJECTED:
            self._quarantine(number, reason)
        if self._given_up.get(number) == (status, reason):
            return
        self._given_up[number] = (status, reason)
        self._scan().mark(number, status, reason)
        log.warning("frame %d of %d is %s: %s", number, self._sweep.n_frames, status.value, reason)

    def _quarantine(self, number: int, reason: str, seen: Signature | None = None) -> None:
        """Keep a refused file in the run's folder; that it cannot be kept changes no verdict."""
        path, look = self._source.path(number), self._looked.get(number)
        if path is None or not self._wrapped or (look is not None and look.kept):
            return
        if self._source.leads_out(path):
            return  # what it leads to is not ours to read, and not to be copied
        if seen is None and look is not None:
            look.kept, seen = True, look.signature
        try:
            quarantine(path, self.path, number=number, reason=reason, signature=seen)
        except OSError as error:
            log.warning(
                "frame %d: %s could not be put into quarantine: %s", number, path.name, error
            )

    def _look_again(self) -> None:
        """See whether a file of a frame that was given up is there now, or another one."""
        if not self._given_up or self._clock() < self._next_look:
            return
        self._next_look = self._clock() + _LOOK_AGAIN
        for number in sorted(self._given_up):
            problem = self._try(number)
            if problem is not None and problem[0] is FrameStatus.REJECTED:
                self._give_up(number, *problem)

    def _look_again_once(self) -> bool:
        """For a sweep that was finished: reopen it only if there is something to add."""
        if self._ending is None:
            return False
        end_of_turn = self._clock() + _TURN
        for number in sorted(self._given_up):
            if number in self._given_up:  # still
                self._try(number)
            self.busy = self._clock() > end_of_turn
            if self.busy:
                return False
        self._take_all()
        if self._unverified():
            return False  # to be seen again
        for number, look in self._looked.items():
            if look.problem is not None and look.problem[0] is FrameStatus.REJECTED:
                self._quarantine(number, look.problem[1])
        if self._writer is not None:
            self._write_values()
            self._finish(self._ending)
        else:
            if self._wrapped and not has_wrapper(self.path):
                self._wrap()
            if not has_digest(self.path):
                self._seal()
        return True

    def _late_frames(self) -> LateFrames:
        judged = {n: look.signature for n, look in self._looked.items() if look.problem}
        return LateFrames(self._given_up, judged, self._source.find)

    def _unverified(self) -> bool:
        """Return whether a file without a checksum is to be seen again before it is believed."""
        return any(look.unverified and look.problem is None for look in self._looked.values())

    def _write_values(self) -> None:
        # after the end no more values come
        for column, numbers, values in self.values.take(final=self._ending is not None):
            self._scan().set_values(column, numbers, values)

    def _finish(self, ending: Ending) -> None:
        scan = self._scan()
        for number, reason, now in self._stored.replaced(
            lambda number: scan.stack.counts[number], self._shape, clock=self._clock
        ):
            log.warning("frame %d: %s; the stored one is kept", number, reason)
            self._quarantine(number, reason, now)
        if (files := self._source.files) is not None and (
            others := describe_others(files, self._start, self._sweep.n_frames)
        ):
            log.warning("run %s: %s", self._start["uid"][:8], others)
        self.values.warn_of_angles()
        summary: dict[str, Any] = dict(self.values.summary())
        if headers := self._headers.findings(self._stored.earlier, self._source, clock=self._clock):
            summary["headers"] = headers
        scan.finish(
            time=ending.time,
            exit_status=ending.exit_status,
            reason=ending.reason,
            summary=summary,
        )
        self._writer, self._durable = None, scan.durable
        self._wrap()
        with ScanFile.open(self.path) as finished:
            counts = finished.ledger.counts()
        listed = ", ".join(f"{n} {status}" for status, n in counts.items() if n)
        log.info("stacked %s: %s", self.path, listed)

    def _wrap(self) -> None:
        """Write what NXRefine opens; without it the scan file is whole all the same."""
        if not self._wrapped:
            return
        try:
            write_wrapper(self.path)
        except (GeometryError, ScanFileError) as error:
            log.warning("no NXRefine wrapper for %s: %s", self.path, error)

    def _seal(self) -> None:
        """Make the digest that a writer could not make; without it the frames are whole, too."""
        try:
            with ScanFile.open(self.path) as scan:
                seal(scan)
        except (ScanFileError, OSError) as error:  # an archive that may only be read
            log.warning("no digest for %s: %s", self.path, error)

    def _scan(self) -> ScanWriter:
        if self._writer is None:
            self._writer = ScanWriter.resume(self.path)
        return self._writer
