"""One sweep on disk, written: created, resumed after a kill, finished and sealed.

The order of writing makes a promise: pixels and their row first, flushed, and only then the
word ``stored``, flushed. Whoever reads ``stored`` can read the frame, whenever the writer dies.
"""

from __future__ import annotations

import contextlib
import io
import os
import time as clock
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from offbragg import kernels
from offbragg.errors import DamagedFrame, OffbraggError, RejectedFrame, ScanFileError
from offbragg.files import nxmx
from offbragg.files.cbf import parse_minicbf_header
from offbragg.files.digest import (
    CLOSED,
    LATER,
    has_digest,
    make_digest,
    remove_digest,
    write_digest,
)
from offbragg.files.draft import Draft, draft
from offbragg.files.durable import begin_to_sync, make_directory, sync
from offbragg.files.hdf5 import LIBVER, find_inside
from offbragg.files.scan_file import ScanFile
from offbragg.files.stored_sweep import StoredSweep, is_index_torn, torn_error
from offbragg.files.superblock import read_superblock, release
from offbragg.files.writer_lock import beside, is_opening, noted_uid, take_lock
from offbragg.frame import Frame, PackedFrame
from offbragg.ledger import FrameStatus

# Nothing that is written anew lies across the border of two pages, where a kill may tear it.
_APART: dict[str, Any] = {"alignment_threshold": 8, "alignment_interval": 512}


# HDF5's own locks are left alone: a reader, as long as it is open, would keep a writer that was
# killed from going on. `take_lock` sees to it that there is one writer.
_SYNC_EVERY = 10.0  # s between fsyncs: HDF5's own flush survives a killed process, not a power cut


_SYNC_FRAMES = 1000  # at most so many frames between fsyncs


_BEGIN_FRAMES = 32  # after so many the disk begins to write, so that it need not be waited for


_PATIENCE = 2.0  # s, for others who are just opening or reading


class ScanWriter(StoredSweep):
    """The only writer of a scan file, made by `create` or `resume`."""

    def __init__(self, file: h5py.File, path: Path, lock: int) -> None:
        self._lock: int | None = lock
        self._unsynced = 1  # what another writer left
        self._durable = 0
        self._first_told = False  # what the first frame tells about all of them
        self._synced = clock.monotonic()
        super().__init__(file, path)

    @classmethod
    def create(
        cls,
        directory: Path | str,
        *,
        start: Mapping[str, Any],
        data_shape: tuple[int, int] | None = None,
        name: str | None = None,
    ) -> ScanWriter:
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
    def resume(cls, path: Path | str) -> ScanWriter:
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
    def _write(cls, path: Path, uid: str | None) -> ScanWriter:
        lock = take_lock(path, uid)
        try:
            remove_digest(path)
            if _interrupted(path):
                release(path, keep=beside(path, "superblock"))
            file = _open_for_writing(path)
            try:
                # HDF5 would wait for ever from now on
                if is_index_torn(lambda: find_inside(file, nxmx.DATA), path):
                    raise torn_error(path)
                file.swmr_mode = True
                return cls(file, path, lock)
            except BaseException:
                file.close()
                raise
        except BaseException:
            os.close(lock)
            raise

    def close(self) -> None:
        """Let go of the file as it is; it can be resumed.

        Raises
        ------
        ScanFileError
            If what HDF5 still kept in memory cannot be written.
        """
        file, self._file = self._file, None
        lock, self._lock = self._lock, None
        self._kept = {}
        try:
            if file is not None:
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

    @property
    def durable(self) -> int:
        """How many stored frames a power cut cannot take away, as far as this writer knows."""
        return self._durable

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
        number, data = frame.number, self._get(nxmx.DATA)
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
        data = self._get(nxmx.DATA)
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

    def mark(self, number: int, status: FrameStatus | str, reason: str) -> None:
        """Say that a frame is missing or rejected, and why; its pixels read as −1.

        Raises
        ------
        ScanFileError
            If the frame is stored already, or ``status`` is another one.
        """
        status = FrameStatus(status)
        if status not in (FrameStatus.MISSING, FrameStatus.REJECTED):
            raise ScanFileError(f"frame {number} cannot be marked {status}: missing or rejected")
        if not 0 <= number < self.n_frames:
            raise ScanFileError(f"frame {number} is not one of the {self.n_frames} of this sweep")
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
            if status is FrameStatus.PENDING:
                self.mark(number, FrameStatus.MISSING, why)
        text = nxmx.as_json(summary)
        if len(text.encode()) > nxmx.SUMMARY_ROOM:
            raise ScanFileError(
                f"the summary has {len(text.encode())} bytes: there is room for {nxmx.SUMMARY_ROOM}"
            )
        run = self._get(nxmx.RUN)
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


def seal(scan: ScanFile) -> None:
    """Make the digest of a finished file that has none: its writer died before it could.

    Raises
    ------
    ScanFileError
        If the file is not finished, another process writes it, or nothing can be written.
    """
    lock = take_lock(scan.path, None)
    try:
        if not scan.complete:
            raise ScanFileError(f"{scan.path} is not finished: it gets no digest")
        if not has_digest(scan.path):
            digest = make_digest(scan.path, scan.run, scan.chunks(), made=LATER)
            write_digest(scan.path, digest)
        beside(scan.path, "superblock").unlink(missing_ok=True)
        beside(scan.path, "writer").unlink(missing_ok=True)
    except OSError as error:
        raise ScanFileError(
            f"the digest of {scan.path} cannot be made: {error}\n"
            "The scan file is whole. Look at the disk's space and permissions."
        ) from error
    finally:
        os.close(lock)


def release_if_left(path: Path) -> None:
    """Make a file readable whose writer died between opening it and beginning SWMR.

    Raises
    ------
    ScanFileError
        If its writer lives after all.
    """
    if is_opening(path):
        ScanWriter.resume(path).close()


def _told_by(path: Path) -> str | None:
    """Uid that a file says itself; None if it cannot be read."""
    if is_opening(path):
        return None
    try:
        with ScanFile.open(path) as scan:
            return scan.run
    except (OffbraggError, OSError):
        return None


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


def _has_chunk(data: h5py.Dataset, number: int) -> bool:
    return data.id.get_chunk_info_by_coord((number, 0, 0)).byte_offset is not None


def _crc64(frame: PackedFrame) -> bytes:
    return b"%016x" % (kernels.crc64(frame.chunk) if frame.crc64 is None else frame.crc64)
