"""One sweep on disk: an NXmx file that grows while the crystal turns.

The order of writing makes a promise: pixels and their row first, flushed, and only then the
word ``stored``, flushed. Whoever reads ``stored`` can read the frame, whenever the writer dies.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time as clock
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from offbragg import kernels
from offbragg.errors import DamagedFrame, OffbraggError, RejectedFrame, ScanFileError
from offbragg.files import nxmx
from offbragg.files.cbf import parse_minicbf_header
from offbragg.files.checked import CheckedCounts, Damage, Rows
from offbragg.files.digest import (
    CLOSED,
    LATER,
    Part,
    between,
    crc64_of_parts,
    has_digest,
    make_digest,
    read_digest,
    remove_digest,
    write_digest,
)
from offbragg.files.draft import Draft, draft
from offbragg.files.durable import begin_to_sync, make_directory, sync
from offbragg.files.filters import check_part
from offbragg.files.hdf5 import LIBVER, find_inside, open_to_read
from offbragg.files.shared_reader import (
    ONE_HANDLE,
    READERS_LOCK,
    SharedReader,
    let_go,
    share,
    stamp_of,
)
from offbragg.files.superblock import read_superblock, release
from offbragg.files.writer_lock import beside, is_opening, noted_uid, take_lock
from offbragg.frame import Frame, PackedFrame
from offbragg.geometry import Geometry
from offbragg.ledger import Ledger, Status
from offbragg.sample import Sample
from offbragg.stack import Stack, Window
from offbragg.sweep import Sweep

# Nothing that is written anew lies across the border of two pages, where a kill may tear it.
_APART: dict[str, Any] = {"alignment_threshold": 8, "alignment_interval": 512}


# HDF5's own locks are left alone: a reader, as long as it is open, would keep a writer that was
# killed from going on. `take_lock` sees to it that there is one writer.
_SYNC_EVERY = 10.0  # s between fsyncs: HDF5's own flush survives a killed process, not a power cut


_SYNC_FRAMES = 1000  # at most so many frames between fsyncs


_BEGIN_FRAMES = 32  # after so many the disk begins to write, so that it need not be waited for


_PATIENCE = 2.0  # s, for others who are just opening or reading


TORN = "is damaged where it says where its frames are"
"""What is told of a file whose index of frames has a wrong checksum."""


_MOST_FIELD = 256 << 20  # bytes that anything beside the frames may have


_NOT_OURS = (
    KeyError, ValueError, TypeError, AttributeError, OSError, RuntimeError, OffbraggError
)  # fmt: skip
"""What comes of taking another file for a scan file; a RecursionError is a RuntimeError."""


class ScanFile:
    """One sweep on disk, made by `create`, `resume` or `open`.

    A scan file has one writer and any number of readers, in this process and in others. In the
    writer's own process, readers that are open before the writer must close within two seconds:
    HDF5 refuses to write a file that the same process already holds open for reading.
    """

    def __init__(
        self,
        file: h5py.File,
        path: Path,
        lock: int | None = None,
        reader: SharedReader | None = None,
    ) -> None:
        self._file: h5py.File | None = file
        self._reader = reader
        self._lock = lock
        self._path = path
        # what was opened: to open it costs most
        self._kept: dict[str, Any] = {} if reader is None else reader.kept
        self._seen = stamp_of(path) if reader is None else reader.seen
        self._unsynced = 0 if lock is None else 1  # what another writer left
        self._durable = 0
        self._shape: tuple[int, int] | None = None  # it never changes
        self._looked = False  # whether a kill tore it
        self._first_told = False  # what the first frame tells about all of them
        self._synced = clock.monotonic()
        start = self._get(f"{nxmx.RUN}/start")
        self._start: dict[str, Any] = json.loads(bytes(start[()]).decode("utf-8"))
        self._sweep = Sweep.from_dict(self._start["sweep"])
        frames = self._get(nxmx.FRAMES)
        self._has_crc64 = "crc64" in frames  # older files have none
        self._absent = {"crc64", "angle_sigma"} - set(frames)  # in files of earlier versions

    # ---- opening and closing ---------------------------------------------------------

    @classmethod
    def create(
        cls,
        directory: Path | str,
        *,
        start: Mapping[str, Any],
        data_shape: tuple[int, int] | None = None,
        name: str | None = None,
    ) -> ScanFile:
        """Make the scan file of a run and open it for writing.

        All of it is made without a name; the next free ``fN.h5`` then appears at once, complete,
        and never in place of another.

        Parameters
        ----------
        directory
            Where; made if it is not there.
        start
            The run's start document.
        data_shape
            Rows and columns of a frame; the detector's in ``start`` if None.
        name
            Of the file, instead of the next free one.

        Raises
        ------
        ScanFileError
            If there is a file of this name, ``start`` lacks something, or the directory cannot
            be written.
        """
        directory = Path(directory)
        for key in ("uid", "time", "sample", "sweep", "geometry"):
            if key not in start:
                raise ScanFileError(f"a scan file needs {key!r} in the start document")
        if data_shape is None:
            data_shape = (start.get("detector") or {}).get("shape")
        panel = (start["geometry"] or {}).get("panel", {})
        shape = tuple(int(n) for n in data_shape or panel.get("shape", ()))
        if len(shape) != 2:
            raise ScanFileError("a scan file needs the shape of its frames")
        # in memory: HDF5 does not survive a disk that is full before its file has a beginning
        skeleton = io.BytesIO()
        with h5py.File(skeleton, "w", libver=LIBVER, **_APART) as file:
            nxmx.write_skeleton(file, start, (shape[0], shape[1]))
        try:
            make_directory(directory)
        except OSError as error:
            raise ScanFileError(
                f"no scan file can be made in {directory}: {error.strerror}\n"
                "Give another directory."
            ) from error
        try:
            with draft(directory / (name or "f1.h5")) as made:
                made.write(skeleton.getbuffer())
                path = _place_next(made, directory) if name is None else made.target
                if name is not None:
                    made.place()
        except FileExistsError as error:
            raise ScanFileError(f"{directory / str(name)} is there already") from error
        except OSError as error:
            raise ScanFileError(
                f"no scan file can be made in {directory}: {error}\n"
                "Look at the disk's space and the directory's permissions."
            ) from error
        return cls._write(path, str(start["uid"]))

    @classmethod
    def resume(cls, path: Path | str) -> ScanFile:
        """Open a scan file for writing again, also after its writer was killed.

        Raises
        ------
        ScanFileError
            If another process writes it, or it is no scan file.
        """
        path = Path(path)
        try:
            return cls._write(path, None if noted_uid(path) else _told_by(path))
        except OSError as error:
            raise ScanFileError(f"{path} cannot be written: {error}") from error

    @classmethod
    def _write(cls, path: Path, uid: str | None) -> ScanFile:
        lock = take_lock(path, uid)
        try:
            remove_digest(path)
            if _interrupted(path):
                release(path, keep=beside(path, "superblock"))
            file = _open_for_writing(path)
            try:
                # HDF5 would wait for ever from now on
                if _is_torn(lambda: find_inside(file, nxmx.DATA), path):
                    raise _torn(path)
                file.swmr_mode = True
                return cls(file, path, lock)
            except BaseException:
                file.close()
                raise
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def open(cls, path: Path | str, *, descriptor: int | None = None) -> ScanFile:
        """Open a scan file for reading, finished or growing.

        Parameters
        ----------
        path
            The file.
        descriptor
            Of the file, if it is open: then that file is read, whatever the path leads to now.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ScanFileError
            If it is no scan file.
        """
        path = Path(path)
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there")
        deadline = clock.monotonic() + _PATIENCE
        while True:
            try:
                file = open_to_read(path, descriptor=descriptor)
                break
            except (OSError, RuntimeError) as error:
                # For an instant a writer has it open and has not begun SWMR.
                if clock.monotonic() > deadline or not read_superblock(path).opening:
                    raise ScanFileError(f"{path} cannot be opened: {error}") from error
                clock.sleep(0.01)
        reader = share(file)
        try:
            return cls(reader.file, path, reader=reader)
        except _NOT_OURS as error:
            let_go(reader)
            raise ScanFileError(f"{path} is no scan file: {error}") from error

    def close(self) -> None:
        """Let go of the file as it is; a writer's file can be resumed.

        Raises
        ------
        ScanFileError
            If what HDF5 still kept in memory cannot be written.
        """
        file, self._file = self._file, None
        lock, self._lock = self._lock, None
        reader, self._reader = self._reader, None
        self._kept = {}
        try:
            if reader is not None:
                let_go(reader)
            elif file is not None:
                file.close()
            if lock is not None and not self._flag():
                beside(self._path, "superblock").unlink(missing_ok=True)
                beside(self._path, "writer").unlink(missing_ok=True)
        except (OSError, RuntimeError, ValueError) as error:  # a full disk: RuntimeError
            raise ScanFileError(
                f"{self._path} cannot be closed: {error}\n"
                "What was stored before is safe. Look at the disk's space and permissions."
            ) from error
        finally:
            if lock is not None:
                os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except ScanFileError:
            if error is None:  # else it follows from that one
                raise

    # ---- what is in it ---------------------------------------------------------------

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._path

    @property
    def run(self) -> str:
        """Uid of the run."""
        return str(self._start["uid"])

    @property
    def start(self) -> dict[str, Any]:
        """The run's start document."""
        return self._start

    @property
    def sweep(self) -> Sweep:
        """What the sweep was to measure."""
        return self._sweep

    @property
    def geometry(self) -> Geometry:
        """Beam, panel and goniometer.

        Raises
        ------
        ScanFileError
            If it was not known when the file was made.
        """
        if self._start["geometry"] is None:
            raise ScanFileError(f"{self._path} does not say where beam, panel and axes were")
        return Geometry.from_dict(self._start["geometry"])

    @property
    def sample(self) -> Sample:
        """The crystal."""
        return Sample.from_dict(self._start["sample"])

    @property
    def n_frames(self) -> int:
        """How many frames the sweep is to have."""
        return self._sweep.n_frames

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        if self._shape is None:
            _, rows, columns = self._get(nxmx.DATA).shape
            self._shape = rows, columns
        return self._shape

    @property
    def length(self) -> int:
        """How many frames the data array has now."""
        return self._fresh(nxmx.DATA).shape[0]

    @property
    def complete(self) -> bool:
        """Whether it is finished: every frame decided, the end written, closed cleanly."""
        ended = bool(self._word("/entry/end_time"))
        return ended and self.ledger.counts()["pending"] == 0 and not self._flag()

    @property
    def summary(self) -> dict[str, Any]:
        """What was only known at the end; empty before."""
        text = self._word(f"{nxmx.RUN}/summary")
        try:
            return json.loads(text) if text else {}
        except (ValueError, RecursionError) as error:
            raise ScanFileError(f"the summary in {self._path} is damaged: {error}") from error

    @property
    def header_findings(self) -> dict[str, list[str]]:
        """In what the headers of its frames differ from the run, or each other, in words.

        ``contradictions`` change scattering vectors, ``differences`` do not. Of a run they are
        known at its end only.
        """
        found: Any = {}
        with contextlib.suppress(ScanFileError):
            found = self.summary.get("headers", {})
        if isinstance(files := self._start.get("files"), dict):
            found = {"differences": files.get("differences", [])}
        return {
            kind: [str(line) for line in found[kind]]
            for kind in ("contradictions", "differences")
            if isinstance(found, dict) and isinstance(found.get(kind), list)
        }

    @property
    def exit_status(self) -> str:
        """As in the stop document; empty before."""
        return self._word(f"{nxmx.RUN}/exit_status")

    @property
    def ledger(self) -> Ledger:
        """What became of every expected frame."""
        # A word that straddles two pages can be seen half written; a second look sees it whole.
        for attempt in range(5):
            words = self._words("status")
            try:
                return Ledger.of(words, self._words("reason"))
            except ScanFileError:
                if attempt == 4:
                    raise
        raise AssertionError

    @property
    def stack(self) -> Stack:
        """The frames that the data array has now, not read before they are asked for.

        Raises
        ------
        ScanFileError
            If where they are is damaged, as by a killed writer.
        """
        data = self._fresh(nxmx.DATA)
        self._check_torn()
        length = data.shape[0]  # once: in the writer's process it may grow between two lines
        monitor: NDArray[np.float64] | None = None
        if "monitor" in self.columns:
            monitor = self._fresh(f"{nxmx.FRAMES}/monitor")[:length]
        counts = CheckedCounts(data, self._read_rows, self._path)
        return Stack(Window(counts, 0, length), self._sweep, monitor)

    def _read_rows(self) -> Rows:
        self._fresh(nxmx.DATA)  # where the chunks are that the rows are compared with
        crc64 = self._fresh(f"{nxmx.FRAMES}/crc64")[()] if self._has_crc64 else None
        return Rows(self._fresh(f"{nxmx.FRAMES}/status")[()], crc64)

    def damage(self) -> Damage:
        """Read all bytes of the file, once and in order, and compare them with their checksums.

        Raises
        ------
        ScanFileError
            If where the frames are is damaged, or the file cannot be read.
        """
        self._check_torn()
        before = stamp_of(self._path)
        complete = self.complete
        words, parts = self._words("status"), self._parts()
        digest = None
        with contextlib.suppress(ScanFileError):  # a damaged one tells nothing
            digest = read_digest(self._path) if complete else None
        wanted = between(parts.values(), before[1])
        if digest is None:
            wanted = [part for part in wanted if part.crc64 is not None]
        intact: set[int] = set()  # where their chunks begin
        whole = 0
        for part, crc in zip(wanted, crc64_of_parts(self._path, wanted), strict=True):
            if part.crc64 == crc:
                intact.add(part.offset)
            known = crc if part.crc64 is None else part.crc64
            whole = kernels.crc64_combine(whole, known, part.size)
        there = {n for n, part in parts.items() if part.offset in intact}
        if not self._has_crc64:
            there = set(places_of_chunks(self._get(nxmx.DATA)))
        stored = [n for n, word in enumerate(words) if word == "stored"]
        changed = digest is not None and (digest.size, digest.crc64) != (before[1], whole)
        return Damage(
            len(stored),
            tuple(n for n in stored if n not in there),
            changed and stamp_of(self._path) == before,
            0 if self._has_crc64 else len(stored),
        )

    def _check_torn(self) -> None:
        if self._reader is not None and not self._looked:
            if self.is_torn():
                raise _torn(self._path)
            self._looked = True

    def is_torn(self) -> bool:
        """Whether a kill tore a write of where the frames are."""
        return _is_torn(lambda: self._get(nxmx.DATA), self._path)

    def pixel_mask(self) -> NDArray[np.uint32]:
        """Bit 0: gap, bit 1: dead; all zero before the first frame, shape (slow, fast)."""
        return self._fresh(nxmx.MASK)[()]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the per-frame columns."""
        fixed = (c for c in nxmx.FIXED_COLUMNS if c not in self._absent)
        return (*fixed, *(self._start.get("per_frame") or {}))

    def frame_values(self) -> dict[str, NDArray[Any]]:
        """Every per-frame column, by name, each of shape (n_frames,); text as str."""
        values: dict[str, NDArray[Any]] = {}
        for name in self.columns:
            column = self._fresh(f"{nxmx.FRAMES}/{name}")
            values[name] = np.array(self._words(name)) if column.dtype.kind == "S" else column[()]
        return values

    @property
    def values_size(self) -> int:
        """How many bytes `frame_values` reads."""
        return sum(self._fresh(f"{nxmx.FRAMES}/{name}").nbytes for name in self.columns)

    @property
    def durable(self) -> int:
        """How many stored frames a power cut cannot take away, as far as this writer knows."""
        return self._durable

    # ---- writing ---------------------------------------------------------------------

    def write_frame(self, frame: Frame, *, source: str, time: float) -> None:
        """Store one frame by its number.

        Parameters
        ----------
        frame
            Exactly of the file's shape.
        source
            Name of the file that it came from.
        time
            Start of its exposure, POSIX s; NaN if not known.

        Raises
        ------
        RejectedFrame
            If it has another shape, or a number that is not in the sweep or already stored with
            other pixels. The same frame once more is no error.
        ScanFileError
            If the file cannot be written; nothing that was stored is lost.
        """
        number, data = frame.number, self._writable(nxmx.DATA)
        self._check(number, source, frame.shape, str(frame.counts.dtype))
        counts = np.ascontiguousarray(frame.counts)
        length = data.shape[0]
        if self._column("status")[number] == b"stored":
            if not self._is_stored(number, counts, source):
                raise self._another(number, source)
            return
        with self._writing(f"frame {number}"):
            try:
                if number >= length:
                    data.resize(number + 1, axis=0)
                data[number] = counts
            except BaseException:
                # else a full disk leaves a frame that nobody measured
                with contextlib.suppress(Exception):
                    data.resize(length, axis=0)
                raise
            self._write_once(number, lambda: counts, lambda: frame.header)
            self._column("source")[number] = nxmx.fit(source, nxmx.SOURCE_LENGTH)
            self._column("md5")[number] = (frame.md5 or "").encode("ascii", "replace")
            if self._has_crc64:
                _, chunk = data.id.read_direct_chunk((number, 0, 0))
                self._column("crc64")[number] = b"%016x" % kernels.crc64(chunk)
            if np.isfinite(time):
                self._column("time")[number] = time
            self._flush()
            self._column("reason")[number] = b""
            self._column("status")[number] = b"stored"
            self._flush()
        self._sync_sometimes(1)

    def write_frames(
        self, frames: Iterable[PackedFrame], *, header: Mapping[str, Any] | None = None
    ) -> None:
        """Store frames that are compressed already, by their numbers: all of them, or none.

        As much is done for all of them together as for one by `write_frame`, in the same order.

        Parameters
        ----------
        frames
            Exactly of the file's shape, each number once. A gap in their numbers stays one.
        header
            What the first frame's file said, if it does not bring its text.

        Raises
        ------
        RejectedFrame
            If one of them is as `write_frame` does not take it.
        ScanFileError
            If the file cannot be written; nothing that was stored is lost.
        """
        data = self._writable(nxmx.DATA)
        new: list[PackedFrame] = []
        for frame in sorted(frames, key=lambda frame: frame.number):
            self._check(frame.number, frame.source, frame.shape, "int32")
            if new and frame.number == new[-1].number:
                raise RejectedFrame(f"frame {frame.number} ({frame.source}) comes twice at once")
            new.append(frame)
        if not new:
            return
        words = self._column("status")[new[0].number : new[-1].number + 1]
        if np.any(words == b"stored"):
            there = {f.number for f in new if words[f.number - new[0].number] == b"stored"}
            for frame in new:
                if frame.number in there and not self._is_same(frame):
                    raise self._another(frame.number, frame.source)
            new = [frame for frame in new if frame.number not in there]
            if not new:
                return
        numbers = np.array([frame.number for frame in new])
        times = np.array([frame.time for frame in new])
        known = np.isfinite(times)
        length = data.shape[0]
        with self._writing(f"frames {numbers[0]} to {numbers[-1]}"):
            try:
                if numbers[-1] >= length:
                    data.resize(int(numbers[-1]) + 1, axis=0)
                for frame in new:
                    data.id.write_direct_chunk((frame.number, 0, 0), frame.chunk)
                first = new[0]
                self._write_once(
                    first.number,
                    lambda: data[first.number],
                    lambda: parse_minicbf_header(first.text) if first.text else header or {},
                )
                sources = [nxmx.fit(frame.source, nxmx.SOURCE_LENGTH) for frame in new]
                digests = [(frame.md5 or "").encode("ascii", "replace") for frame in new]
                self._put("source", numbers, np.array(sources, f"S{nxmx.SOURCE_LENGTH}"))
                self._put("md5", numbers, np.array(digests, "S32"))
                if self._has_crc64:
                    self._put("crc64", numbers, np.array([_crc64(f) for f in new], "S16"))
                self._put("time", numbers[known], times[known])
                self._flush()
            except BaseException:
                # else a full disk leaves frames that nobody measured
                with contextlib.suppress(Exception):
                    data.resize(length, axis=0)
                raise
            self._put("reason", numbers, np.zeros(len(new), f"S{nxmx.REASON_LENGTH}"))
            self._put("status", numbers, np.full(len(new), b"stored", f"S{nxmx.STATUS_LENGTH}"))
            self._flush()
        self._sync_sometimes(len(new))

    def set_values(self, column: str, numbers: ArrayLike, values: ArrayLike) -> None:
        """Set a per-frame column at some frames.

        Parameters
        ----------
        column
            One of the start document's ``per_frame``; or ``time``; or ``angle`` as it was measured,
            degree at the middle of the frame, whose source the file then has; or ``angle_sigma``,
            its standard uncertainty, degree.
        numbers
            Frame numbers, shape (n,); any order.
        values
            As many; NaN where not known.
        """
        allowed = ("angle", "angle_sigma", "time", *(self._start.get("per_frame") or {}))
        if column not in allowed:
            raise ScanFileError(f"no column {column!r} can be set: there are {', '.join(allowed)}")
        which = np.atleast_1d(np.asarray(numbers, np.int64))
        new = np.broadcast_to(np.asarray(values, np.float64), which.shape)
        if which.size == 0:
            return
        if column == "angle_sigma" and column not in self.columns:
            return  # a file of an earlier version has no room for it
        if which.min() < 0 or which.max() >= self.n_frames:
            raise ScanFileError(
                f"frames {which.min()} to {which.max()} of {column!r} are not all in a sweep of "
                f"{self.n_frames}"
            )
        self._writable(nxmx.FRAMES)
        with self._writing(f"column {column}"):
            first, last = int(which.min()), int(which.max()) + 1
            rows = self._column(column)[first:last]
            rows[which - first] = new
            self._column(column)[first:last] = rows
            if column == "angle":
                how = (self._start.get("per_frame") or {}).get("angle", {}).get("how", "read")
                sources = self._column("angle_source")[first:last]
                # in a file of an earlier version there is room for 12 letters
                fits = len(how) <= sources.dtype.itemsize
                sources[which - first] = how.encode() if fits else b"read"
                self._column("angle_source")[first:last] = sources
            self._flush()

    def mark(self, number: int, status: Status | str, reason: str) -> None:
        """Say that a frame is missing or rejected, and why; its pixels read as −1.

        Raises
        ------
        ScanFileError
            If the frame is stored already, or ``status`` is another one.
        """
        status = Status(status)
        if status not in (Status.MISSING, Status.REJECTED):
            raise ScanFileError(f"frame {number} cannot be marked {status}: missing or rejected")
        if not 0 <= number < self.n_frames:
            raise ScanFileError(f"frame {number} is not one of the {self.n_frames} of this sweep")
        self._writable(nxmx.FRAMES)
        if self._column("status")[number] == b"stored":
            raise ScanFileError(f"frame {number} is stored: it cannot be marked {status}")
        with self._writing(f"frame {number}"):
            data = self._get(nxmx.DATA)
            if number < data.shape[0] and _has_chunk(data, number):
                # left by a writer that died before it could say stored
                data[number] = np.full(data.shape[1:], nxmx.FILL, np.int32)
                if self._has_crc64:
                    self._column("crc64")[number] = b""
            self._column("reason")[number] = nxmx.fit(reason, nxmx.REASON_LENGTH)
            self._flush()
            self._column("status")[number] = status.value.encode()
            self._flush()

    def finish(
        self, *, time: float, exit_status: str, reason: str, summary: Mapping[str, Any]
    ) -> None:
        """Write the end and close the file for good.

        Frames that are still pending become missing: by then nobody waits for them.

        Parameters
        ----------
        time
            When the run ended, POSIX s; for the file's ``end_time`` where no frame's time is known.
        exit_status, reason
            As in the stop document.
        summary
            What is only known now; plain JSON types.
        """
        why = "was not there when the run ended"
        why = f"{why}: {exit_status}" + (f", {reason}" if reason else "")
        for number, status in enumerate(self.ledger.statuses):
            if status is Status.PENDING:
                self.mark(number, Status.MISSING, why)
        text = nxmx.as_json(summary)
        if len(text.encode()) > nxmx.SUMMARY_ROOM:
            raise ScanFileError(
                f"the summary has {len(text.encode())} bytes: there is room for {nxmx.SUMMARY_ROOM}"
            )
        run = self._writable(nxmx.RUN)
        stored = self._stored()
        with self._writing("the end"):
            self._get(nxmx.DATA).resize(self.n_frames, axis=0)
            run["summary"][()] = text.encode()
            run["exit_status"][()] = nxmx.fit(exit_status, 16)
            run["reason"][()] = nxmx.fit(reason, nxmx.REASON_LENGTH)
            self._flush()
            self._get("/entry/end_time")[()] = nxmx.iso(self._end_of_exposures(time)).encode()
            self._flush()
            self._close_clean()
        self._durable = stored

    def _end_of_exposures(self, otherwise: float) -> float:
        """Return when the last frame that is stored was exposed to its end, POSIX s, if known."""
        stored = np.array(self._words("status")) == "stored"
        began = self._fresh(f"{nxmx.FRAMES}/time")[()]
        known = began[stored & np.isfinite(began)]
        return float(known.max()) + self.sweep.exposure if known.size else otherwise

    def seal(self) -> None:
        """Make the digest of a finished file that has none: its writer died before it could.

        Raises
        ------
        ScanFileError
            If the file is not finished, another process writes it, or nothing can be written.
        """
        lock = take_lock(self._path, None)
        try:
            if not self.complete:
                raise ScanFileError(f"{self._path} is not finished: it gets no digest")
            if not has_digest(self._path):
                digest = make_digest(self._path, self.run, self.chunks(), made=LATER)
                write_digest(self._path, digest)
            beside(self._path, "superblock").unlink(missing_ok=True)
            beside(self._path, "writer").unlink(missing_ok=True)
        except OSError as error:
            raise ScanFileError(
                f"the digest of {self._path} cannot be made: {error}\n"
                "The scan file is whole. Look at the disk's space and permissions."
            ) from error
        finally:
            os.close(lock)

    def chunks(self) -> list[Part]:
        """Where the chunks of stored frames are in the file, with the CRC-64 that they should have.

        In the order of the frames' numbers.
        """
        return list(self._parts().values())

    def _parts(self) -> dict[int, Part]:
        data, words = self._fresh(nxmx.DATA), self._words("status")
        crcs = self._words("crc64") if self._has_crc64 else [""] * len(words)
        return {
            number: Part(*place, int(crcs[number], 16))
            for number, place in sorted(places_of_chunks(data).items())
            if number < len(words) and words[number] == "stored" and _is_crc64(crcs[number])
        }

    def _close_clean(self) -> None:
        chunks = self.chunks()
        file, self._file = self._file, None
        self._kept.clear()
        assert file is not None
        file.close()
        if self._flag():
            # A reader in this process keeps HDF5's file open, and with it the writer's mark. It
            # has nothing left to write: when it closes, HDF5 writes these very bytes again.
            release(self._path, keep=beside(self._path, "superblock"))
        sync(self._path)
        write_digest(self._path, make_digest(self._path, self.run, chunks, made=CLOSED))
        self.close()
        sync(self._path.parent)

    def _check(self, number: int, source: str, shape: tuple[int, int], kind: str) -> None:
        expected = self.shape
        if shape != expected or kind != "int32":
            raise RejectedFrame(
                f"frame {number} ({source}) is {kind} of {shape[0]} rows × {shape[1]} columns: "
                f"expected int32, {expected[0]} × {expected[1]}"
            )
        if not 0 <= number < self.n_frames:
            raise RejectedFrame(
                f"frame {number} ({source}) is not one of the {self.n_frames} of this sweep"
            )

    def _another(self, number: int, source: str) -> RejectedFrame:
        kept = self._column("source")[number].decode("utf-8", "replace")
        return RejectedFrame(
            f"frame {number} ({source}) has other pixels than the stored one ({kept}): "
            "the stored one is kept"
        )

    def _is_same(self, frame: PackedFrame) -> bool:
        """Whether a stored frame has these pixels, whoever compressed them."""
        _, chunk = self._get(nxmx.DATA).id.read_direct_chunk((frame.number, 0, 0))
        if chunk == frame.chunk.tobytes():
            return True
        counts = nxmx.unpack(frame.chunk, frame.shape)
        return self._is_stored(frame.number, counts, frame.source)

    def _is_stored(self, number: int, counts: NDArray[np.int32], source: str) -> bool:
        """Whether a stored frame has these pixels.

        Raises
        ------
        RejectedFrame
            If that cannot be known, since the stored one is damaged.
        """
        try:
            return np.array_equal(self.stack.counts[number], counts)
        except DamagedFrame as error:
            raise RejectedFrame(
                f"frame {number} ({source}) cannot be compared with the stored one, which is "
                "damaged\noffbragg stack --once --repair replaces it."
            ) from error

    def _put(self, column: str, numbers: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Write rows of a column, those that follow each other at once."""
        dataset = self._column(column)
        for run in np.split(np.arange(numbers.size), np.flatnonzero(np.diff(numbers) != 1) + 1):
            if run.size:
                dataset[numbers[run[0]] : numbers[run[-1]] + 1] = values[run]

    def _write_once(
        self,
        number: int,
        read: Callable[[], NDArray[np.int32]],
        header: Callable[[], Mapping[str, Any]],
    ) -> None:
        """Keep what the first frame tells about all of them: dead pixels, and its header."""
        if self._first_told:
            return
        mask = self._get(nxmx.MASK)
        if mask.id.get_num_chunks() == 0:
            counts = read()
            bits = np.zeros(counts.shape, np.uint32)
            bits[counts == -1] = 1
            bits[counts == -2] = 2
            mask[...] = bits
            text = nxmx.as_json({"source_frame": number, **header()}).encode()
            if len(text) <= nxmx.HEADER_ROOM:
                self._get(f"{nxmx.RUN}/first_header")[()] = text
        self._first_told = True

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            raise ScanFileError(
                f"{what} cannot be written to {self._path}: {error}\n"
                "What was stored before is safe. Look at the disk's space and permissions."
            ) from error

    def _flush(self) -> None:
        assert self._file is not None
        self._file.flush()

    def sync_sometimes(self) -> None:
        """Sync the file to the disk if it is time to; for a writer, again and again.

        Raises
        ------
        ScanFileError
            If that fails: the disk may not have what was stored since the last time.
        """
        late = clock.monotonic() - self._synced > _SYNC_EVERY
        if not self._unsynced or not (late or self._unsynced >= _SYNC_FRAMES):
            return
        with self._writing("what was stored"):
            sync(self._path)
        self._synced, self._unsynced = clock.monotonic(), 0
        self._durable = self._stored()

    def _sync_sometimes(self, written: int) -> None:
        before, self._unsynced = self._unsynced, self._unsynced + written
        self.sync_sometimes()
        if self._unsynced // _BEGIN_FRAMES > before // _BEGIN_FRAMES:
            begin_to_sync(self._path)

    def _stored(self) -> int:
        return int(np.count_nonzero(self._column("status")[()] == b"stored"))

    # ---- access ----------------------------------------------------------------------

    def _get(self, name: str) -> Any:
        if self._file is None:
            raise ScanFileError(f"{self._path} is closed")
        kept = self._kept.get(name)
        if kept is None:
            with READERS_LOCK:  # never two handles of one dataset
                kept = self._kept.get(name) or find_inside(self._file, name, self._path)
                if self._lock is None and name != nxmx.DATA and isinstance(kept, h5py.Dataset):
                    _check_field(kept, self._path)
                kept = self._kept.setdefault(name, kept)
        return kept

    def _column(self, name: str) -> Any:
        return self._get(f"{nxmx.FRAMES}/{name}")

    def _writable(self, name: str) -> Any:
        if self._file is not None and self._lock is None:
            raise ScanFileError(f"{self._path} is open for reading only")
        return self._get(name)

    def _fresh(self, name: str) -> Any:
        dataset = self._get(name)
        if self._lock is None and self._grows():
            with ONE_HANDLE:
                dataset.refresh()
        return dataset

    def _grows(self) -> bool:
        """Whether somebody writes the file, or has written it since this reader opened it.

        HDF5's refresh spoils every other handle of this process on the same dataset: it reads the
        first frame for every other one, or fails (HDF5 2.0). So all readers of a process share one
        handle of each dataset (see `share`), and what no longer changes is not refreshed.
        """
        if self._reader is not None and self._reader.grows:
            return True
        with contextlib.suppress(OSError):  # taken away: what is open can still be read
            if stamp_of(self._path) == self._seen and not self._flag():
                return False
        if self._reader is not None:
            self._reader.grows = True
        return True

    def _word(self, name: str) -> str:
        return bytes(self._fresh(name)[()]).decode("utf-8", "replace")

    def _words(self, column: str) -> Sequence[str]:
        raw = self._fresh(f"{nxmx.FRAMES}/{column}")[()]
        return [word.decode("utf-8", "replace") for word in raw.tolist()]

    def _flag(self) -> bool:
        return read_superblock(self._path).writing


def release_if_left(path: Path) -> None:
    """Make a file readable whose writer died between opening it and beginning SWMR.

    Raises
    ------
    ScanFileError
        If its writer lives after all.
    """
    if is_opening(path):
        ScanFile.resume(path).close()


def _told_by(path: Path) -> str | None:
    """Uid that a file says itself; None if it cannot be read."""
    if is_opening(path):
        return None
    try:
        with ScanFile.open(path) as scan:
            return scan.run
    except (OffbraggError, OSError):
        return None


def _check_field(field: h5py.Dataset, path: Path) -> None:
    """Refuse what would take more memory than anything beside the frames does.

    Raises
    ------
    ScanFileError
        Naming it.
    """
    if (field.size or 0) * field.dtype.itemsize > _MOST_FIELD:
        raise ScanFileError(f"{path} is damaged: {field.name} claims {field.nbytes:,} bytes")
    try:
        check_part(field)
    except ScanFileError as error:
        raise ScanFileError(f"{path} is damaged: {error}") from error


def _open_for_writing(path: Path) -> h5py.File:
    deadline = clock.monotonic() + _PATIENCE
    while True:
        try:
            return h5py.File(path, "r+", libver=LIBVER, locking=False, rdcc_nbytes=0)
        except OSError as error:
            # HDF5 cannot write what another thread of this process is just reading
            if "already open for read-only" not in str(error) or clock.monotonic() > deadline:
                raise
            clock.sleep(0.01)


def _is_torn(data: Callable[[], h5py.Dataset], path: Path) -> bool:
    try:
        places_of_chunks(data())
    except KeyError:  # there is none
        return False
    except (OSError, RuntimeError) as error:
        if "checksum" in str(error):
            return True
        raise ScanFileError(f"{path} cannot be read: {error}") from error
    return False


def _torn(path: Path) -> ScanFileError:
    return ScanFileError(
        f"{path} {TORN}, as when a kill tears a write\n"
        "A stacker that is started again, as before, makes it anew from what is intact and from "
        "the frame files; for a run that is over so does offbragg stack --once --repair. The "
        "damaged file is kept."
    )


def _interrupted(path: Path) -> bool:
    try:
        block = read_superblock(path)
    except ScanFileError:
        return True
    return block.writing or path.stat().st_size < block.end


def _place_next(made: Draft, directory: Path) -> Path:
    number = 1
    while True:
        made.target = directory / f"f{number}.h5"
        try:
            made.place()
        except FileExistsError:
            number += 1
            continue
        return made.target


def places_of_chunks(data: h5py.Dataset) -> dict[int, tuple[int, int]]:
    """Find each frame's chunk: its first byte in the file and its size, by the frame's number.

    HDF5 finds one chunk by going through all of them; this goes through them once.
    """
    places: dict[int, tuple[int, int]] = {}

    def note(chunk: Any) -> None:
        places[chunk.chunk_offset[0]] = (chunk.byte_offset, chunk.size)

    data.id.chunk_iter(note)
    return places


def _has_chunk(data: h5py.Dataset, number: int) -> bool:
    return data.id.get_chunk_info_by_coord((number, 0, 0)).byte_offset is not None


def _crc64(frame: PackedFrame) -> bytes:
    return b"%016x" % (kernels.crc64(frame.chunk) if frame.crc64 is None else frame.crc64)


def _is_crc64(word: str) -> bool:
    return len(word) == 16 and not set(word) - set("0123456789abcdef")
