"""Frame files into chunks: read, verified and compressed by several threads at once.

Threads, not processes: whatever takes time here (reading, checksum, decoding, compression)
releases the GIL, and a chunk need not be pickled. Every buffer is made once and used again,
because a fresh one costs more in page faults than a frame costs here. What is waiting is
bounded everywhere, so memory does not grow with the length of a sweep.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import stat
import sys
import threading
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from offbragg import kernels
from offbragg.errors import FrameError, IncompleteFrame, RejectedFrame
from offbragg.files.cbf import (
    BinarySection,
    binary_section,
    most_bytes,
    promised_end,
    read_packed_cbf,
)
from offbragg.files.compressed import KINDS, frame_kind, is_packed, unpacked
from offbragg.files.read_at import read_at
from offbragg.files.root import TO_READ
from offbragg.files.tiff import UnusualTiff, read_layout, read_tiff_counts, with_date
from offbragg.frame import PackedFrame

BATCH = 16
"""Frames that a thread takes at once: as many as there are lanes for their MD5s."""

_QUEUED = 2  # batches that may wait for the writer
_FEW = 2  # frames, at most, that are quicker with hashlib
_LEAST = 4  # frames that a thread takes when there are few left
_MOST_THREADS = 8  # one writer cannot take more
_BLOCK = 32 << 20  # bytes; from 4 MB on, numpy asks for huge pages
_ALIGNED = 64  # bytes
_HEADER = 1 << 16  # bytes; real headers have 1 to 10 thousand
_LONG = 2 << 20  # bytes, at most, of an ordinary file


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of one frame file: a frame, or why there is none."""

    number: int
    path: Path
    frame: PackedFrame | None = None
    error: FrameError | OSError | None = None
    signature: tuple[int, int] | None = None
    """Size and time of the last change, ns, once all of it had been read."""


class FramePool:
    """Read frame files of one shape in threads; needs `offbragg.kernels.compiled`.

    One thread offers frames and takes what became of them, in any order.

    Parameters
    ----------
    shape
        Rows and columns that every frame must have.
    threads
        Number of threads; None for one per processor of this process.
    """

    def __init__(self, shape: tuple[int, int], *, threads: int | None = None) -> None:
        self.shape = shape
        self._most = kernels.chunk_bound(shape[0] * shape[1])
        self.threads = threads or min(processors(), _MOST_THREADS)
        self._gathered: list[tuple[int, Path]] = []
        self._flying: set[int] = set()
        self._todo: deque[tuple[int, Path]] = deque()
        self._ready = threading.Condition()
        self._done: queue.Queue[_Batch] = queue.Queue(maxsize=_QUEUED)
        self._slabs: queue.SimpleQueue[_Slab] = queue.SimpleQueue()
        self._workers: list[threading.Thread] = []
        self._closed = False

    def __contains__(self, number: int) -> bool:
        """Return whether a frame is in work."""
        return number in self._flying

    def __len__(self) -> int:
        """Return how many frames are in work."""
        return len(self._flying)

    @property
    def full(self) -> bool:
        """Whether to take what is done before more is offered."""
        return len(self._flying) >= BATCH * (2 * self.threads + _QUEUED)

    @property
    def queued(self) -> int:
        """Number of batches that wait for the writer, at most two."""
        return self._done.qsize()

    def offer(self, number: int, path: Path) -> None:
        """Queue a file to be read; a full batch is sent at once, the rest by `send`."""
        self._flying.add(number)
        self._gathered.append((number, path))
        if len(self._gathered) == BATCH:
            self.send()

    def send(self) -> None:
        """Start to read what was offered."""
        if not self._gathered:
            return
        if len(self._workers) < self.threads:
            worker = threading.Thread(
                target=self._work, name=f"offbragg-frames-{len(self._workers)}", daemon=True
            )
            self._workers.append(worker)
            worker.start()
        with self._ready:
            self._todo.extend(self._gathered)
            self._ready.notify()
        self._gathered = []

    @contextlib.contextmanager
    def take(self, timeout: float) -> Generator[Sequence[Judged]]:
        """Yield the files that are done; none if no batch is done within ``timeout`` s.

        Their chunks are there only within the ``with``.
        """
        batches: list[_Batch] = []
        try:
            batches.append(self._done.get(timeout=max(timeout, 0.001)))
            while len(batches) < _QUEUED:  # together they cost the writer as much as one
                batches.append(self._done.get_nowait())
        except queue.Empty:
            pass
        for batch in batches:
            self._flying.difference_update(batch.numbers)
        for batch in batches:
            if batch.failure is not None:
                raise batch.failure
        try:
            yield [judged for batch in batches for judged in batch.judged]
        finally:
            for batch in batches:
                self._slabs.put(batch.slab)

    def close(self) -> None:
        """End the threads; what is in work is forgotten."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        for worker in self._workers:
            while worker.is_alive():
                with contextlib.suppress(queue.Empty):  # it may wait for a place in the queue
                    self._done.get_nowait()
                worker.join(0.01)
        self._workers.clear()

    # ---- in the threads ----------------------------------------------------------------

    def _work(self) -> None:
        reader: _Reader | None = None
        while jobs := self._next_jobs():
            try:
                slab = self._slabs.get_nowait()
            except queue.Empty:
                slab = _Slab(self._most)
            batch = _Batch([number for number, _ in jobs], slab)
            slab.clear()
            try:
                reader = reader or _Reader(self.shape)
                batch.judged = reader.judge(jobs, slab)
            except BaseException as error:  # handed to the one who takes: nothing is passed over
                batch.failure = error
            self._done.put(batch)

    def _next_jobs(self) -> list[tuple[int, Path]]:
        """Wait for frames, and take a share of them; none at the end.

        A whole batch would leave the last of them to one thread, and the others with nothing.
        """
        with self._ready:
            self._ready.wait_for(lambda: self._todo or self._closed)
            if self._closed:
                return []
            share = max(-(-len(self._todo) // self.threads), _LEAST)
            jobs = [self._todo.popleft() for _ in range(min(share, BATCH, len(self._todo)))]
            if self._todo:
                self._ready.notify()
            return jobs


@dataclass(slots=True)
class _Batch:
    numbers: list[int]
    slab: _Slab
    judged: list[Judged] = field(default_factory=list[Judged])
    failure: BaseException | None = None


class _Slab:
    """Room for the files, or the chunks, of one batch; it grows to what the largest took.

    Large blocks are cut up: a buffer for each file would cost a page fault for every 4 kB of it.
    Pieces begin at multiples of 64 bytes: AMD's Zen 3 copies a page three times slower to a place
    that is 1 to 31 bytes behind the beginning of another one, where malloc's large blocks begin.
    """

    def __init__(self, most: int) -> None:
        self._most = most  # bytes that are asked for at once
        self._blocks: list[NDArray[np.uint8]] = []
        self.clear()

    def clear(self) -> None:
        self._block = self._used = 0

    def room(self, size: int) -> NDArray[np.uint8]:
        """Return what the next piece may take, at least ``size`` bytes; `cut` takes them."""
        while (
            self._block < len(self._blocks) and self._used + size > self._blocks[self._block].size
        ):
            self._block, self._used = self._block + 1, 0
        if self._block == len(self._blocks):
            # whatever is asked for fits into every block, else it would pass by blocks for ever
            block = np.empty(_BLOCK + self._most + _ALIGNED, np.uint8)
            self._blocks.append(block[-block.ctypes.data % _ALIGNED :])
        return self._blocks[self._block][self._used :]

    def cut(self, size: int) -> NDArray[np.uint8]:
        piece = self.room(size)[:size]
        self._used += -(-size // _ALIGNED) * _ALIGNED
        return piece


class _Reader:
    """The buffers of one thread, and what it does with them."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape = shape
        self._pixels = shape[0] * shape[1]
        self._most = most_bytes(shape)
        self._files = _Slab(self._most)
        self._bound = kernels.chunk_bound(self._pixels)
        self._image = np.empty(0, np.int32)
        self._usual = 0  # bytes of a file

    def judge(self, jobs: Sequence[tuple[int, Path]], slab: _Slab) -> list[Judged]:
        """Read a batch of files, check them, and put their chunks into the slab."""
        judged: list[Judged] = []
        files: list[tuple[int, Path, memoryview, tuple[int, int]]] = []
        found: list[tuple[int, Path, tuple[int, int], BinarySection]] = []
        self._files.clear()
        for number, path in jobs:
            try:
                kind = frame_kind(path)
                if kind == ".cbf":
                    files.append((number, path, *self._load(number, path)))
                elif kind == ".tif":
                    frame, signature = self._pack_tiff(number, path, slab)
                    judged.append(Judged(number, path, frame, signature=signature))
                else:
                    raise RejectedFrame(
                        f"frame {number}: {path.name} ends with {path.suffix!r}: "
                        f"only {KINDS} are read"
                    )
            except (FrameError, OSError) as error:
                judged.append(Judged(number, path, error=error))
        # Not as each file comes: what this takes is in the caches then, for all but the first.
        for number, path, file, signature in files:
            try:
                where = f"frame {number}: {path.name}"
                section = binary_section(file, where=where, shape=self._shape)
                found.append((number, path, signature, section))
            except FrameError as error:
                judged.append(Judged(number, path, error=error))
        declared = [section.packed for *_, section in found if section.declared is not None]
        digests = iter(_md5(declared))
        for number, path, signature, section in found:
            digest = next(digests) if section.declared is not None else b""
            try:
                frame = self._pack_cbf(number, path, section, digest, slab)
                judged.append(Judged(number, path, frame, signature=signature))
            except FrameError as error:
                judged.append(Judged(number, path, error=error))
        return judged

    def _load(self, number: int, path: Path) -> tuple[memoryview, tuple[int, int]]:
        read = self._unpack if is_packed(path) else self._read
        return read(path, f"frame {number}: {path.name}")

    def _read(self, path: Path, where: str) -> tuple[memoryview, tuple[int, int]]:
        """Read a file, as far as it matters; give it and its signature."""
        descriptor = _open(path, where)
        try:
            wanted = min(os.fstat(descriptor).st_size, self._most)
            if wanted > 2 * max(self._usual, _LONG):  # it may be longer than it promises
                header = bytearray(_HEADER)
                length = read_at(descriptor, memoryview(header), 0)
                end = promised_end(bytes(header[:length])) or wanted
                wanted = min(wanted, end if end <= self._most else _HEADER)  # its header lies
            self._usual = max(self._usual, wanted)
            room = self._files.cut(wanted).data
            return room[: read_at(descriptor, room, 0)], _signature(descriptor)
        finally:
            os.close(descriptor)

    def _unpack(self, path: Path, where: str) -> tuple[memoryview, tuple[int, int]]:
        """Read a packed file, as far as it matters; return what is in it and its signature."""
        with open(_open(path, where), "rb") as raw:
            with unpacked(raw, path, where=where) as file:
                found = read_packed_cbf(file, where=where, shape=self._shape)
            return memoryview(found), _signature(raw.fileno())

    def _pack_cbf(
        self, number: int, path: Path, section: BinarySection, digest: bytes, slab: _Slab
    ) -> PackedFrame:
        where = f"frame {number}: {path.name}"
        if section.declared is not None:
            section.believe(digest, where)
        try:
            room = slab.room(self._bound)
            chunk = slab.cut(kernels.decode_encode(section.packed, self._pixels, room).size)
        except RejectedFrame as error:
            raise RejectedFrame(
                f"{where} does not decode to the {self._pixels} pixels that it claims: {error}"
            ) from error
        return PackedFrame(
            number,
            section.shape,
            chunk,
            path.name,
            text=section.text,
            md5=None if section.declared is None else section.declared.hex(),
            verified=section.declared is not None,
            crc64=kernels.crc64(chunk),  # while it is in the cache
        )

    def _pack_tiff(
        self, number: int, path: Path, slab: _Slab
    ) -> tuple[PackedFrame, tuple[int, int]]:
        where = f"frame {number}: {path.name}"
        if not self._image.size:
            self._image = np.empty(self._pixels, np.int32)
        pixels, length = self._image.data.cast("B"), 0
        with open(_open(path, where), "rb", buffering=0) as file:
            try:
                if is_packed(path):
                    raise UnusualTiff(f"{where} is packed")
                layout = read_layout(file, where=where, shape=self._shape)
            except UnusualTiff:
                return self._pack_unusual(number, path, file, slab)
            for offset, size in zip(layout.offsets, layout.lengths, strict=True):
                length += read_at(file.fileno(), pixels[length : length + size], offset)
            signature = _signature(file.fileno())
        if length != len(pixels):
            raise IncompleteFrame(f"{where} has {length} of {len(pixels)} bytes of pixels")
        if layout.big_endian is (sys.byteorder == "little"):
            self._image.byteswap(inplace=True)
        chunk = slab.cut(kernels.encode(self._image, slab.room(self._bound)).size)
        frame = PackedFrame(
            number,
            layout.shape,
            chunk,
            path.name,
            text=with_date(layout.text, layout.date),
            crc64=kernels.crc64(chunk),
        )
        return frame, signature

    def _pack_unusual(
        self, number: int, path: Path, file: IO[bytes], slab: _Slab
    ) -> tuple[PackedFrame, tuple[int, int]]:
        where = f"frame {number}: {path.name}"
        file.seek(0)
        counts, text, date = read_tiff_counts(file, path, where=where, shape=self._shape)
        chunk = slab.cut(kernels.encode(counts.reshape(-1), slab.room(self._bound)).size)
        frame = PackedFrame(
            number,
            self._shape,
            chunk,
            path.name,
            text=with_date(text, date),
            crc64=kernels.crc64(chunk),
        )
        return frame, _signature(file.fileno())


def _open(path: Path, where: str) -> int:
    """Open a regular file for reading: a pipe would keep a thread waiting for ever."""
    descriptor = os.open(path, TO_READ)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RejectedFrame(f"{where} is not a file")
    return descriptor


def _signature(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def processors() -> int:
    """Return how many processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _md5(buffers: Sequence[memoryview]) -> list[bytes]:
    if len(buffers) <= _FEW:
        return [hashlib.md5(buffer, usedforsecurity=False).digest() for buffer in buffers]
    return kernels.md5(buffers)
