"""The stacker: frame files into the scan file, by their number, each one judged.

It follows a journal. A ``stream_datum`` says that a frame is expected by now; the file of
that number is read, verified and written, or the ledger says why not. All state is in the
scan file: killed at any moment and started again, it reads the journal from the first line
and goes on with the frames that are still pending.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from errno import EINVAL
from functools import partial
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np

from offbragg import kernels
from offbragg.errors import (
    DamagedFrame,
    FrameError,
    GeometryError,
    IncompleteFrame,
    RejectedFrame,
    ScanFileError,
)
from offbragg.files import read_frame, read_head
from offbragg.files.cbf import declared_md5, header_of
from offbragg.files.digest import has_digest
from offbragg.files.find import find_scan_file
from offbragg.files.frame_files import FRAME_SEQUENCES, FrameFiles, describe_others, find_run_folder
from offbragg.files.frame_pool import FramePool, Judged
from offbragg.files.header_check import HeaderCheck
from offbragg.files.nxrefine import has_wrapper, remove_left_locks, write_wrapper
from offbragg.files.quarantine import quarantine
from offbragg.files.root import Root
from offbragg.files.salvage import rebuild_if_torn
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_folders import scan_directory
from offbragg.files.scan_writer import ScanWriter, release_if_left, seal
from offbragg.followers.frame_values import FrameValues
from offbragg.followers.late_frames import LateFrames
from offbragg.frame import Frame, PackedFrame
from offbragg.ledger import FrameStatus

log = logging.getLogger(__name__)

# How long one call of `poll` may read frames before documents get their turn, s.
_TURN = 0.25
_SHOWN = 20  # runs whose contradictions are shown at the prompt
# How often the file of a frame that was given up is looked for again, s.
_LOOK_AGAIN = 1.0
# How long files that changed after their frame was stored are read at the end, s.
_REFUSING = 10.0
# How long a file without a checksum must not have changed before it is believed, s.
_STEADY = 0.4


class Stacker:
    """Follow runs and keep one scan file for each sweep.

    Parameters
    ----------
    experiment
        Root of the experiment's directory tree (``<sample>/<label>/<scan>/fN.h5`` below it).
    late
        How long a frame that should be there may take before it is listed as missing, s.
        A frame that turns up later still fills its own row.
    frames
        Root of the frame files: nothing outside is read, whatever a document says. Without it,
        documents are believed.
    """

    name = "stack"

    def __init__(self, experiment: Path, *, late: float = 5.0, frames: Path | None = None) -> None:
        self.experiment = Path(experiment)
        self.late = late
        self.frames = frames
        self._root = Root(self.experiment)
        self._open: dict[str, SweepStacker] = {}
        self._contradicted: dict[str, str] = {}

    def done(self, start: Mapping[str, Any]) -> bool:
        """Whether the scan file of a run needs nothing more."""
        if "sweep" not in start:
            return True
        path = self._find(start)
        if path is None:
            return False
        release_if_left(path)
        with ScanFile.open(path) as scan:
            whole = scan.complete and scan.ledger.counts()[FrameStatus.STORED] == scan.n_frames
        if not (whole and has_wrapper(path) and has_digest(path)):
            return False
        remove_left_locks(path)
        return True

    def open(self, start: Mapping[str, Any]) -> SweepStacker:
        """Make or find the scan file of a run."""
        self._root.check()
        stacker = SweepStacker(
            start,
            self._find(start),
            experiment=self.experiment,
            late=self.late,
            frames=self.frames,
            contradicted=self._contradicted,
        )
        # closed ones go; replaced, not changed: another thread may be in `backlog`
        still = {uid: run for uid, run in self._open.items() if not run.closed}
        self._open = {**still, start["uid"]: stacker}
        return stacker

    def backlog(self) -> dict[str, Any]:
        """Say how far the runs are that are being stacked; any thread may ask.

        Returns
        -------
        backlog
            ``frames`` of their sweeps, ``decided`` ones, ``due`` ones that are not decided,
            ``durable`` ones that a power cut cannot take, ``in_work`` (with a thread, or done and
            not yet written), and of these the ``batches`` that wait for the writer, two at most
            for each run; ``behind``, the time in which the due ones were measured, s.
            ``contradicted``: what headers say otherwise than their run, by its uid, if
            something; of the newest.
        """
        runs = [run.backlog() for run in list(self._open.values()) if not run.closed]
        keys = ("frames", "decided", "due", "durable", "in_work", "batches", "behind")
        contradicted = dict(list(self._contradicted.items())[-_SHOWN:])
        sums = {key: sum(run[key] for run in runs) for key in keys}
        return {**sums, **({"contradicted": contradicted} if contradicted else {})}

    def _find(self, start: Mapping[str, Any]) -> Path | None:
        return find_scan_file(scan_directory(self.experiment, start), start["uid"])


class SweepStacker:
    """Stack the frames of one sweep (see :class:`Stacker`).

    Parameters
    ----------
    start
        The run's start document.
    path
        Its scan file; made below ``experiment`` if None.
    experiment
        Without it the scan file stands alone: nothing is written for NXRefine.
    late, frames
        As in `Stacker`.
    contradicting
        Frames of which something else than their file tells that they are of another sweep, and
        what: they are rejected.
    contradicted
        What a header says otherwise than the run is put there, by the run's uid.
    search
        Where the run's folder is looked for if no document says where its frames are;
        ``frames`` if not given.
    """

    def __init__(
        self,
        start: Mapping[str, Any],
        path: Path | None,
        *,
        experiment: Path | None,
        late: float,
        frames: Path | None = None,
        contradicting: Mapping[int, str] | None = None,
        contradicted: dict[str, str] | None = None,
        search: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.late = late
        self._start = start
        self._contradicting = contradicting or {}
        self._contradicted = {} if contradicted is None else contradicted
        self._frames = frames
        self._search = search or frames
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
        self._values = FrameValues(
            start.get("per_frame", {}),
            columns["time"] + scan.sweep.exposure / 2,
            sweep=scan.sweep,
        )
        # those of a folder have been compared before its scan file was made
        self._headers = None if isinstance(start.get("files"), dict) else HeaderCheck(start)
        self._headers_before = scan.header_findings
        if self._writer is None:
            scan.close()
        self._pending = {n for n, s in enumerate(statuses) if s == FrameStatus.PENDING}
        # missing and rejected frames: a good file that turns up later still fills its row
        self._given_up = {
            n: (status, reason)
            for n, (status, reason) in enumerate(zip(statuses, reasons, strict=True))
            if status in (FrameStatus.MISSING, FrameStatus.REJECTED)
        }
        self._looked: dict[int, _Look] = {}
        self._stored_as = np.zeros((self._sweep.n_frames, 2), np.int64)  # signatures
        # by an earlier stacker, which knew the signatures of their files
        self._md5_before = {
            n: str(columns["md5"][n]) for n, s in enumerate(statuses) if s == FrameStatus.STORED
        }
        self._unreadable: dict[int, OSError] = {}  # what a thread met with
        self._pool = FramePool(self._shape) if kernels.compiled else None
        self._durable = 0
        self.busy = False  # whether there is more to do at once
        self.closed = False
        self.later: Callable[[], bool] | None = None
        """Once it is finished and lacks frames: whether a file of one has come since."""

        self._source: FrameFiles | None = None
        self._refused = ""  # why there is none
        self._resource = ""
        self._descriptors: list[Mapping[str, Any]] = []
        self._next_search = 0.0
        self._due: dict[int, float] = {}  # frame → since when its file should be there
        self._unannounced: frozenset[int] = frozenset()  # no datum spoke of them before the stop
        self._last_stored = self._clock()
        self._next_look = 0.0
        self._stop: Mapping[str, Any] | None = None

    @property
    def decided(self) -> int:
        """How many of the sweep's frames are stored, missing or rejected."""
        return self._sweep.n_frames - len(self._pending)

    def backlog(self) -> dict[str, float]:
        """Say how far it is, as `Stacker.backlog` does."""
        pool = self._pool
        due = max(len(self._due) + len(self._pending) - self._sweep.n_frames, 0)
        return {
            "frames": self._sweep.n_frames,
            "decided": self.decided,
            "due": due,
            "durable": self._durable,
            "in_work": len(pool) if pool else 0,
            "batches": pool.queued if pool else 0,
            "behind": due * self._sweep.period,
        }

    # -- documents -------------------------------------------------------------------------

    def __call__(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take note of one document of the run."""
        if name == "stream_resource" and doc["mimetype"] in FRAME_SEQUENCES:
            self._resource = doc["uid"]
            try:
                self._source = FrameFiles(doc, self._frames)
            except RejectedFrame as error:  # its frames are listed with it
                self._source, self._refused = None, str(error)
                log.error("run %s: %s", self.path, error)
        elif name == "descriptor":
            self._descriptors.append(doc)
        elif name == "stream_datum" and doc["stream_resource"] == self._resource:
            self._expect(range(doc["indices"]["start"], doc["indices"]["stop"]))
        elif name == "event":
            self._values.add(doc["data"], doc["timestamps"], doc["time"])
        elif name == "event_page":
            self._values.add_page(doc)
        elif name == "stop":
            self._stop = doc
            self._next_look = 0.0  # once more before it is over
            # A camserver outlives its RunEngine: what it still writes belongs to the sweep.
            self._unannounced = frozenset(range(self._sweep.n_frames)) - self._due.keys()
            self._expect(self._unannounced)

    def _expect(self, numbers: Iterable[int]) -> None:
        now = self._clock()
        for number in numbers:
            self._due.setdefault(number, now)

    # -- work ------------------------------------------------------------------------------

    def poll(self) -> bool:
        """Stack what is there; True once every frame is decided and the file is closed."""
        over = self._look_again_once() if self._was_complete else self._stack_more()
        if over and self._given_up and not self._refused:
            self.later = self._late_frames().have_come
        return over

    def _stack_more(self) -> bool:
        self._stack_pending()
        self._look_again()
        over = self._stop is not None and not self._pending
        if over:
            self._take_all()  # their values are to be written, too
            over = not self._unverified()
        self._write_values()
        if over and self._stop is not None:
            self._finish(self._stop)
        elif self._writer is not None:
            self._writer.sync_sometimes()
            self._durable = self._writer.durable
        return over

    def close(self) -> None:
        """Let go of the file as it is; a later stacker resumes it."""
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

    def _try(self, number: int) -> tuple[FrameStatus, str] | None:
        """Store a frame if its file is good, and say what it would be given up as if it is not.

        A file without a checksum is neither until it has stopped changing. With a pool it is
        neither, too, while it is in work.
        """
        if self._pool is not None and number in self._pool:
            return None
        path = self._path_of(number)
        if path is None:
            if self._refused:
                return FrameStatus.REJECTED, _first_line(self._refused)
            where = f" in {self._search}" if self._search is not None else ""
            return FrameStatus.MISSING, f"no folder of this run with frames was found{where}"
        if number in self._contradicting:
            return FrameStatus.REJECTED, self._contradicting[number]
        if number in self._unreadable:
            return _unreadable(self._unreadable.pop(number), path)  # the next time anew
        try:
            look = self._look(number, path)
        except OSError as error:
            self._looked.pop(number, None)
            return _unreadable(error, path)
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
            return _unreadable(error, path)
        except FrameError as error:
            look.problem = _problem(error, path)
            return look.problem
        if not frame.verified and self._look(number, path) is not look:
            return None  # it changed while it was read
        if self._is_believed(frame, look):
            begin = self._began(number, look)
            self._scan().write_frame(frame, source=path.name, time=begin)
            self._note_header(number, path.name, frame.header)
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
                    if self._headers is not None and frame.text:
                        self._note_header(frame.number, frame.source, header_of(frame.text))
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
            look.problem = _problem(judged.error, judged.path)
        if judged.frame is None or not self._is_believed(judged.frame, look):
            return None
        if not judged.frame.verified and judged.signature != look.signature:
            look.unverified = True  # it changed while it waited
            return None
        return replace(judged.frame, time=self._began(judged.number, look))

    def _is_believed(self, frame: Frame | PackedFrame, look: _Look) -> bool:
        if frame.verified or look.steady:
            return True
        look.unverified = True
        return False

    def _look(self, number: int, path: Path) -> _Look:
        """Give what is known of a file as it is now: nothing, once it has changed."""
        status = path.stat()
        if not S_ISREG(status.st_mode):  # a pipe would keep who reads it waiting for ever
            raise OSError(EINVAL, "it is no file")
        signature = (status.st_size, status.st_mtime_ns)
        look = self._looked.get(number)
        if look is None or look.signature != signature:
            look = self._looked[number] = _Look(signature, self._clock())
            if self._leads_out(path):
                why = f"{path.name} leads out of the directory of the frames: it is not read"
                look.problem = FrameStatus.REJECTED, why
        return look

    def _began(self, number: int, look: _Look) -> float:
        if self._source is None:
            return np.nan
        return self._source.exposure_began(number, self._sweep, look.signature[1] / 1e9)

    def _note_stored(self, number: int, begin: float) -> None:
        self._values.exposed(number, begin + self._sweep.exposure / 2)
        self._pending.discard(number)
        look = self._looked.pop(number, None)
        if look is not None:
            self._stored_as[number] = look.signature
        if self._given_up.pop(number, None):
            log.info("frame %d came late and is stored", number)
        self._last_stored = self._clock()

    def _note_header(self, number: int, source: str, header: Mapping[str, Any]) -> None:
        """Compare what a frame's header says with the run; the frame is stored in any case."""
        if self._headers is None:
            return
        self._headers.add(number, source, header)
        for text in self._headers.news():
            what = f"run {self._start['uid'][:8]}: header and run contradict each other: {text}"
            log.error("%s", what)
            self._contradicted.setdefault(self._start["uid"], what)

    def _compare_earlier_headers(self) -> dict[str, list[str]]:
        """Compare the headers of what an earlier stacker stored, too; return all findings."""
        if self._headers is None:
            return {}
        end = self._clock() + _REFUSING
        whole = True
        for number in self._md5_before:
            path = self._path_of(number) if self._clock() < end else None
            if self._headers.seen[number]:
                continue
            try:
                head = None if path is None else read_head(path)
            except (FrameError, OSError):
                head = None
            whole &= head is not None
            if head is not None and path is not None:
                self._note_header(number, path.name, head.header)
        found = self._headers.findings()
        if not whole:  # what was found while the files were there
            for kind, lines in self._headers_before.items():
                found[kind] = list(dict.fromkeys([*lines, *found.get(kind, [])]))
        for line in found.get("differences", []):
            log.warning("run %s: header and run differ: %s", self._start["uid"][:8], line)
        return found

    def _is_late(self, number: int) -> bool:
        """Whether a file that is not good yet has had its time, by this process's clock."""
        due, patience = self._due[number], self.late
        if number in self._unannounced:
            # the camserver may still be at it, as slowly as the sweep was to be
            due = max(due, self._last_stored)
            patience += 2 * self._sweep.period
        look = self._looked.get(number)
        if look is not None:
            due = max(due, look.since)  # it changed: somebody may be writing it
        return self._clock() - due >= patience

    def _give_up(self, number: int, status: FrameStatus, what: str) -> None:
        """List a frame as missing or rejected; a good file may still come."""
        reason = what
        if status is FrameStatus.MISSING:
            reason = f"{what} {self.late:g} s after it was due" if self.late else what
            if self._stop is not None and number in self._unannounced:
                reason = f"{what}; the run had ended ({self._stop['exit_status']})"
        self._pending.discard(number)
        if status is FrameStatus.REJECTED:
            self._keep_aside(number, reason)
        if self._given_up.get(number) == (status, reason):
            return
        self._given_up[number] = (status, reason)
        self._scan().mark(number, status, reason)
        log.warning("frame %d of %d is %s: %s", number, self._sweep.n_frames, status.value, reason)

    def _keep_aside(self, number: int, reason: str, seen: tuple[int, int] | None = None) -> None:
        """Keep a refused file in the run's folder; that it cannot be kept changes no verdict."""
        path, look = self._path_of(number), self._looked.get(number)
        if path is None or not self._wrapped or (look is not None and look.kept):
            return
        if self._leads_out(path):
            return  # what it leads to is not ours to read, and not to be copied
        if seen is None and look is not None:
            look.kept, seen = True, look.signature
        try:
            quarantine(path, self.path, number=number, reason=reason, signature=seen)
        except OSError as error:
            log.warning("frame %d is not kept aside: %s: %s", number, path.name, error)

    def _refuse_others(self) -> None:
        """Keep files aside that took the place of stored ones, if they hold other pixels."""
        end = self._clock() + _REFUSING
        here = np.flatnonzero(self._stored_as[:, 1]).tolist()
        for number in [*here, *self._md5_before]:
            if self._clock() > end:  # somebody touched all of them
                log.warning(
                    "frame files from %d on were not compared with what was stored: "
                    "offbragg verify --deep does", number,
                )  # fmt: skip
                break
            path = self._path_of(number)
            try:
                now = self._changed(number, path) if path is not None else None
            except OSError:
                continue  # gone: it is stored
            if path is None or now is None:
                continue
            try:
                frame = read_frame(path, number=number, shape=self._shape)
                if np.array_equal(frame.counts, self._scan().stack.counts[number]):
                    continue
                reason = "holds other pixels than the frame that was stored"
            except DamagedFrame as error:
                log.warning("%s", _first_line(error))
                continue
            except (FrameError, OSError) as error:
                reason = f"is not what was stored: {_first_line(error)}"
            reason = f"{path.name} was changed after its frame had been stored, and {reason}"
            log.warning("frame %d: %s; the stored one is kept", number, reason)
            self._keep_aside(number, reason, now)

    def _changed(self, number: int, path: Path) -> tuple[int, int] | None:
        """Give the signature of a stored frame's file if it may be another one now.

        What an earlier stacker stored is told by the MD5 that the file declares, if there is one.
        """
        status = path.stat()
        now = (status.st_size, status.st_mtime_ns)
        if not S_ISREG(status.st_mode) or now == tuple(self._stored_as[number].tolist()):
            return None
        if self._leads_out(path):
            log.warning("frame %d: %s leads out of the directory of the frames now: it is not read",
                        number, path.name)  # fmt: skip
            return None
        if number in self._md5_before:
            md5 = self._md5_before[number]
            return now if md5 and declared_md5(path) != md5 else None
        return now

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
        if self._stop is None:
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
                self._keep_aside(number, look.problem[1])
        if self._writer is not None:
            self._write_values()
            self._finish(self._stop)
        else:
            if self._wrapped and not has_wrapper(self.path):
                self._wrap()
            if not has_digest(self.path):
                self._seal()
        return True

    def _late_frames(self) -> LateFrames:
        judged = {
            number: look.signature
            for number, look in self._looked.items()
            if look.problem is not None
        }
        if self._source is not None:
            source = self._source
            return LateFrames(self._given_up, judged, lambda: source)
        find = partial(find_run_folder, self._start, self._descriptors, self._search, self._frames)
        return LateFrames(self._given_up, judged, find)

    def _unverified(self) -> bool:
        """Whether a file without a checksum is to be seen again before it is believed."""
        return any(look.unverified and look.problem is None for look in self._looked.values())

    def _write_values(self) -> None:
        # after the stop document nothing more comes
        for column, numbers, values in self._values.take(final=self._stop is not None):
            self._scan().set_values(column, numbers, values)

    def _finish(self, stop: Mapping[str, Any]) -> None:
        self._refuse_others()
        if self._source is not None and (
            others := describe_others(self._source, self._start, self._sweep.n_frames)
        ):
            log.warning("run %s: %s", self._start["uid"][:8], others)
        self._values.warn_of_angles()
        summary: dict[str, Any] = dict(self._values.summary())
        if headers := self._compare_earlier_headers():
            summary["headers"] = headers
        scan = self._scan()
        scan.finish(
            time=stop["time"],
            exit_status=stop["exit_status"],
            reason=stop.get("reason", ""),
            summary=summary,
        )
        self._writer, self._durable = None, scan.durable
        self._wrap()
        counts = ", ".join(f"{n} {status}" for status, n in self._counts().items() if n)
        log.info("stacked %s: %s", self.path, counts)

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

    def _counts(self) -> dict[str, int]:
        with ScanFile.open(self.path) as scan:
            return scan.ledger.counts()

    def _scan(self) -> ScanWriter:
        if self._writer is None:
            self._writer = ScanWriter.resume(self.path)
        return self._writer

    def _find_folder(self) -> None:
        """Look for the folder of a run that ended before it said where its frames are."""
        if self._clock() < self._next_search:
            return
        self._next_search = self._clock() + _LOOK_AGAIN
        try:
            self._source = find_run_folder(
                self._start, self._descriptors, self._search, self._frames
            )
        except RejectedFrame as error:
            self._refused = str(error)
            log.error("run %s: %s", self.path, error)
        if self._source is not None:
            log.warning(
                "run %s ended before it said where its frames are: they are taken from its folder, "
                "%s", self._start["uid"][:8], self._source.directory,
            )  # fmt: skip

    def _leads_out(self, path: Path) -> bool:
        return self._source is not None and not self._source.holds(path)

    def _path_of(self, number: int) -> Path | None:
        if self._source is None and not self._refused and self._stop is not None:
            self._find_folder()
        return self._source.path(number) if self._source is not None else None


@dataclass(slots=True)
class _Look:
    """A file as it was when it was last looked at, and what is wrong with it."""

    signature: tuple[int, int]  # size, time of the last change
    since: float
    problem: tuple[FrameStatus, str] | None = None
    unverified: bool = False
    steady: bool = False  # when it was last read
    kept: bool = False  # aside


def _unreadable(error: OSError, path: Path) -> tuple[FrameStatus, str]:
    if isinstance(error, FileNotFoundError):
        return FrameStatus.MISSING, f"{path.name} was not there"
    return FrameStatus.MISSING, f"{path.name} could not be read ({error.strerror})"


def _problem(error: FrameError, path: Path) -> tuple[FrameStatus, str]:
    if isinstance(error, IncompleteFrame):
        return FrameStatus.MISSING, f"{path.name} was not complete ({_first_line(error)})"
    return FrameStatus.REJECTED, _first_line(error)


def _first_line(error: Exception | str) -> str:
    return str(error).partition("\n")[0]
