"""One sweep on disk, written: created, resumed after a kill, finished and sealed.

The order of writing makes a promise: pixels and their row first, flushed, and only then the
word ``stored``, flushed. Whoever reads ``stored`` can read the frame, whenever the writer dies.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from numpy.typing import ArrayLike, NDArray

from offbragg import kernels
from offbragg.errors import RejectedFrame, ScanFileError
from offbragg.files import scan_layout
from offbragg.files.accept_frame import check_belongs, check_same_counts, check_same_frame
from offbragg.files.cbf import parse_minicbf_header
from offbragg.files.digest import CLOSED, make_digest, write_digest
from offbragg.files.direct_chunks import has_chunk
from offbragg.files.durable import PeriodicSync, sync
from offbragg.files.frame_columns import COLUMNS
from offbragg.files.frame_rows import put_angle_source, put_known, put_stored, put_values
from offbragg.files.new_scan_file import make_scan_file
from offbragg.files.nexus import fit, iso
from offbragg.files.open_to_write import open_to_write
from offbragg.files.stored_sweep import StoredSweep
from offbragg.files.superblock import release
from offbragg.files.writer_lock import beside
from offbragg.frame import Frame, PackedFrame
from offbragg.ledger import FrameStatus


class ScanWriter(StoredSweep):
    """The only writer of a scan file, made by `create` or `resume`."""

    def __init__(self, file: h5py.File, path: Path, lock: int) -> None:
        self._lock: int | None = lock
        self._disk = PeriodicSync(path)
        self._durable = 0
        self._is_first_kept = False  # mask and header, from the first frame
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

        Parameters
        ----------
        directory
            Of the file; made if it is missing.
        start
            The run's start document.
        data_shape
            Rows and columns of a frame; the detector's in ``start`` if None.
        name
            Of the file, instead of the next free ``fN.h5``.

        Raises
        ------
        ScanFileError
            If there is a file of this name, ``start`` lacks something, or the directory cannot
            be written.
        """
        path = make_scan_file(Path(directory), start=start, data_shape=data_shape, name=name)
        return cls._open(path, str(start["uid"]))

    @classmethod
    def resume(cls, path: Path | str) -> ScanWriter:
        """Open a scan file for writing again, also after its writer was killed.

        Raises
        ------
        ScanFileError
            If another process writes it, or it is not a scan file.
        """
        path = Path(path)
        try:
            return cls._open(path)
        except OSError as error:
            raise ScanFileError(f"{path} cannot be written: {error}") from error

    @classmethod
    def _open(cls, path: Path, uid: str | None = None) -> ScanWriter:
        file, lock = open_to_write(path, uid)
        try:
            return cls(file, path, lock)
        except BaseException:
            file.close()
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
    def _data(self) -> Any:
        """The data array; h5py states no types of its parts."""
        return self._fresh(scan_layout.DATA)

    @property
    def durable(self) -> int:
        """Number of stored frames that are known to survive a power cut."""
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
            other pixels. The same frame may come again.
        ScanFileError
            If the file cannot be written; nothing that was stored is lost.
        """
        number, data = frame.number, self._data
        check_belongs(self, number, source, frame.shape, str(frame.counts.dtype))
        counts = np.ascontiguousarray(frame.counts)
        length = data.shape[0]
        if self._column("status")[number] == b"stored":
            check_same_counts(self, number, counts, source)
            return
        with self._writing(f"frame {number}"):
            try:
                if number >= length:
                    data.resize(number + 1, axis=0)
                data[number] = counts
            except BaseException:
                # else a full disk leaves a frame that was not measured
                with contextlib.suppress(Exception):
                    data.resize(length, axis=0)
                raise
            self._write_once(number, lambda: counts, lambda: frame.header)
            crcs = None
            if self._has_crc64:
                _, chunk = data.id.read_direct_chunk((number, 0, 0))
                crcs = [kernels.crc64(chunk)]
            numbers = np.array([number])
            put_known(
                self._column,
                numbers,
                sources=[source],
                md5s=[frame.md5],
                crcs=crcs,
                times=np.array([time]),
            )
            self._flush()
            self._write_stored(numbers)
        self._sync_sometimes(1)

    def write_frames(
        self, frames: Iterable[PackedFrame], *, header: Mapping[str, Any] | None = None
    ) -> None:
        """Store compressed frames by their numbers: all of them, or none; as fast as one.

        Parameters
        ----------
        frames
            Exactly of the file's shape, each number once. A gap in their numbers stays one.
        header
            Of the first frame's file, if the frame has no text.

        Raises
        ------
        RejectedFrame
            If one of them is a frame that `write_frame` refuses.
        ScanFileError
            If the file cannot be written; nothing that was stored is lost.
        """
        data = self._data
        new: list[PackedFrame] = []
        for frame in sorted(frames, key=lambda frame: frame.number):
            check_belongs(self, frame.number, frame.source, frame.shape, "int32")
            if new and frame.number == new[-1].number:
                raise RejectedFrame(f"frame {frame.number} ({frame.source}) comes twice at once")
            new.append(frame)
        if not new:
            return
        words = self._column("status")[new[0].number : new[-1].number + 1]
        there = {f.number for f in new if words[f.number - new[0].number] == b"stored"}
        for frame in new:
            if frame.number in there:
                check_same_frame(self, frame)
        new = [frame for frame in new if frame.number not in there]
        if not new:
            return
        numbers = np.array([frame.number for frame in new])
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
                put_known(
                    self._column,
                    numbers,
                    sources=[frame.source for frame in new],
                    md5s=[frame.md5 for frame in new],
                    crcs=[_crc64(frame) for frame in new] if self._has_crc64 else None,
                    times=np.array([frame.time for frame in new]),
                )
                self._flush()
            except BaseException:
                # else a full disk leaves frames that were not measured
                with contextlib.suppress(Exception):
                    data.resize(length, axis=0)
                raise
            self._write_stored(numbers)
        self._sync_sometimes(len(new))

    def set_values(self, column: str, numbers: ArrayLike, values: ArrayLike) -> None:
        """Set a per-frame column at some frames.

        Parameters
        ----------
        column
            One of the start document's ``per_frame``, or one that is declared as ``joined``
            (`frame_columns`). Of ``angle`` as it was measured, degree at the middle of the frame,
            the file then has the source.
        numbers
            Frame numbers, shape (n,); any order.
        values
            One for each number, shape (n,), or one for all; NaN where not known.
        """
        per_frame: dict[str, Any] = self._start.get("per_frame") or {}
        allowed = (*(c.name for c in COLUMNS if c.joined), *per_frame)
        if column not in allowed:
            raise ScanFileError(f"no column {column!r} can be set: there are {', '.join(allowed)}")
        which = np.atleast_1d(np.asarray(numbers, np.int64))
        new = np.broadcast_to(np.asarray(values, np.float64), which.shape)
        if which.size == 0:
            return
        if column not in self.columns:
            return  # a file of an earlier version has no room for it
        if which.min() < 0 or which.max() >= self.n_frames:
            raise ScanFileError(
                f"frames {which.min()} to {which.max()} of {column!r} are not all in a sweep of "
                f"{self.n_frames}"
            )
        with self._writing(f"column {column}"):
            put_values(self._column, column, which, new)
            if column == "angle":
                how = per_frame.get("angle", {}).get("how", "read")
                put_angle_source(self._column, which, how)
            self._flush()

    def mark(self, number: int, status: FrameStatus | str, reason: str) -> None:
        """Mark a frame as missing or rejected, with the reason; its pixels read as −1.

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
            data = self._data
            if number < data.shape[0] and has_chunk(data, (number, 0, 0)):
                # left by a writer that died before it could say stored
                data[number] = np.full(data.shape[1:], scan_layout.FILL, np.int32)
                if self._has_crc64:
                    self._column("crc64")[number] = b""
            self._column("reason")[number] = fit(reason, scan_layout.REASON_LENGTH)
            self._flush()
            self._column("status")[number] = status.value.encode()
            self._flush()

    def finish(
        self, *, time: float, exit_status: str, reason: str, summary: Mapping[str, Any]
    ) -> None:
        """Write the end and close the file for good.

        Frames that are still pending become missing.

        Parameters
        ----------
        time
            When the run ended, POSIX s; for the file's ``end_time`` where no frame's time is known.
        exit_status, reason
            As in the stop document.
        summary
            What is only known now; plain JSON types.
        """
        how = f"{exit_status}, {reason}" if reason else exit_status
        for number, status in enumerate(self.ledger.statuses):
            if status is FrameStatus.PENDING:
                self.mark(number, FrameStatus.MISSING, f"was not there when the run ended: {how}")
        text = scan_layout.as_json(summary)
        if len(text.encode()) > scan_layout.SUMMARY_ROOM:
            raise ScanFileError(
                f"the summary has {len(text.encode())} bytes: there is room for "
                f"{scan_layout.SUMMARY_ROOM}"
            )
        run = self._get(scan_layout.RUN)
        stored = self._stored()
        with self._writing("the end"):
            self._data.resize(self.n_frames, axis=0)
            run["summary"][()] = text.encode()
            run["exit_status"][()] = fit(exit_status, 16)
            run["reason"][()] = fit(reason, scan_layout.REASON_LENGTH)
            self._flush()
            self._get("/entry/end_time")[()] = iso(self._end_of_exposures(time)).encode()
            self._flush()
            self._close_clean()
        self._durable = stored

    def _end_of_exposures(self, otherwise: float) -> float:
        """Return when the exposure of the last stored frame ended, POSIX s, if that is known."""
        stored = np.array(self.text_column("status")) == "stored"
        began = self._fresh(f"{scan_layout.FRAMES}/time")[()]
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

    def _write_stored(self, numbers: NDArray[np.int64]) -> None:
        """Write that frames are stored, and flush: now they can be read, whenever we die."""
        put_stored(self._column, numbers)
        self._flush()

    def _write_once(
        self,
        number: int,
        read: Callable[[], NDArray[np.int32]],
        header: Callable[[], Mapping[str, Any]],
    ) -> None:
        """Write what the first frame has for all of them: dead pixels, and its header."""
        if self._is_first_kept:
            return
        mask = self._get(scan_layout.MASK)
        if mask.id.get_num_chunks() == 0:
            room = self._get(f"{scan_layout.RUN}/first_header")
            scan_layout.write_first_frame(mask, room, number, read(), header())
        self._is_first_kept = True

    @contextlib.contextmanager
    def _writing(self, what: str) -> Generator[None]:
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
        """Sync the file to the disk if that is due; a writer calls this again and again.

        Raises
        ------
        ScanFileError
            If that fails: the disk may not have what was stored since the last time.
        """
        if self._disk.is_due:
            with self._writing("what was stored"):
                self._disk.sync()
            self._durable = self._stored()

    def _sync_sometimes(self, written: int) -> None:
        self._disk.wrote(written)
        self.sync_sometimes()
        self._disk.begin()

    def _stored(self) -> int:
        return int(np.count_nonzero(self._column("status")[()] == b"stored"))


def _crc64(frame: PackedFrame) -> int:
    return kernels.crc64(frame.chunk) if frame.crc64 is None else frame.crc64
