"""A checksum of a whole finished file beside it, and files read for their checksums at full speed.

``f1.h5.digest`` holds the size and the CRC-64 of ``f1.h5`` as it was closed. The CRCs of parts give
that of the whole, so that of the frames' chunks, taken before they were written, need no second
look: what the disk made of them is known from what it was given. The digest goes before the
file is opened for writing again, and the next one comes after it is closed: there may be none, and
never a stale one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from offbragg import kernels
from offbragg.errors import ScanFileError
from offbragg.files.durable import sync
from offbragg.files.read_at import read_at

CLOSED, LATER = "when the file was closed", "later"


_PIECE = 1 << 20  # bytes: they stay in the second cache between being read and being added up


_STRETCH = 8 << 20  # bytes that a thread takes at once


class FilePart(NamedTuple):
    """A part of a file."""

    offset: int
    size: int
    crc64: int | None = None
    """Of its bytes, where it is known."""


@dataclass(frozen=True, slots=True)
class Digest:
    """Size and CRC-64/XZ of a finished scan file."""

    run: str
    size: int
    crc64: int
    made: str = CLOSED
    """`CLOSED`, or `LATER` where the digest was lost: it then tells nothing of the time before."""
    time: float = 0.0
    """When it was made, POSIX s."""


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_path(path: Path) -> Path:
    """Where the digest of a scan file is."""
    return path.with_name(f"{path.name}.digest")


def has_digest(path: Path) -> bool:
    """Return whether a scan file has a digest, be it right or wrong."""
    return digest_path(path).is_file()


def read_digest(path: Path) -> Digest | None:
    """Read the digest of a scan file; None if there is none.

    Raises
    ------
    ScanFileError
        If it is damaged: it holds a checksum of itself, too.
    """
    beside = digest_path(path)
    try:
        raw = beside.read_bytes()
        document = json.loads(raw)
        if int(document.pop("check"), 16) != _check(document):
            raise ValueError("its own checksum is wrong")
        if raw != _text(document):  # what JSON passes over, such as a space
            raise ValueError("it is not as it was written")
        return Digest(
            document["run"],
            document["size"],
            int(document["crc64"], 16),
            document["made"],
            document["time"],
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ScanFileError(f"{beside.name} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ScanFileError(f"{beside.name} is damaged: {error}") from error


def write_digest(path: Path, digest: Digest) -> None:
    """Put a digest beside a scan file: whole, on the disk, in place of any other."""
    document: dict[str, object] = {
        "file": path.name,
        "run": digest.run,
        "size": digest.size,
        "crc64": f"{digest.crc64:016x}",
        "made": digest.made,
        "time": digest.time,
    }
    hidden = path.with_name(f".{path.name}.digest")
    try:
        with hidden.open("wb") as file:
            file.write(_text(document))
            file.flush()
            os.fsync(file.fileno())
        hidden.replace(digest_path(path))
    except OSError:
        with contextlib.suppress(OSError):
            hidden.unlink(missing_ok=True)
        raise
    sync(path.parent)


def remove_digest(path: Path) -> None:
    """Take the digest away before the file is changed, also as a power cut would have it."""
    beside = digest_path(path)
    if beside.exists():
        beside.unlink(missing_ok=True)
        sync(path.parent)


def make_digest(path: Path, run: str, parts: Iterable[FilePart], *, made: str = CLOSED) -> Digest:
    """Make the digest of a file from the CRCs that are known, and from its bytes elsewhere."""
    whole = 0
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for part in between(parts, size):
            crc = part.crc64
            if crc is None:
                crc = _crc64(file.fileno(), part)
            whole = kernels.crc64_combine(whole, crc, part.size)
    return Digest(run, size, whole, made, time.time())


def between(parts: Iterable[FilePart], size: int) -> list[FilePart]:
    """Fill a file of ``size`` bytes with parts: the given ones, as far as they fit, and the rest.

    Examples
    --------
    >>> [tuple(part) for part in between([FilePart(2, 3, 7), FilePart(4, 9)], 6)]
    [(0, 2, None), (2, 3, 7), (5, 1, None)]
    """
    filled: list[FilePart] = []
    at = 0
    for part in sorted(parts):
        if part.size <= 0 or part.offset < at or part.offset + part.size > size:
            continue
        if part.offset > at:
            filled.append(FilePart(at, part.offset - at))
        filled.append(part)
        at = part.offset + part.size
    if at < size:
        filled.append(FilePart(at, size - at))
    return filled


def crc64_of_parts(
    path: Path,
    parts: Sequence[FilePart],
    *,
    threads: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[int]:
    """Read parts of a file, once and in order, and give the CRC-64 of each.

    Parameters
    ----------
    path
        The file.
    parts
        In the order of the file.
    threads
        How many read; the GIL is released.
    progress
        Called with (bytes read, bytes in all), in this thread.

    Raises
    ------
    ScanFileError
        If the file ends before the parts do, or cannot be read.
    """
    stretches: list[list[int]] = []
    room = 0
    for i, part in enumerate(parts):
        if room <= 0:
            stretches.append([])
            room = _STRETCH
        stretches[-1].append(i)
        room -= part.size
    total = sum(part.size for part in parts)
    found = [0] * len(parts)
    todo = iter(stretches)
    lock = threading.Condition()
    done, running = 0, 0
    failed: list[Exception | None] = []  # None: the caller gave up

    def work(descriptor: int) -> None:
        nonlocal done, running
        room = memoryview(bytearray(_PIECE))
        try:
            while not failed:
                with lock:
                    stretch = next(todo, None)
                if stretch is None:
                    return
                for i in stretch:
                    found[i] = _crc64(descriptor, parts[i], room)
                    with lock:
                        done += parts[i].size
                        lock.notify()
        except Exception as error:  # raised by the caller
            failed.append(error)
        finally:
            with lock:
                running -= 1
                lock.notify()

    try:
        with path.open("rb", buffering=0) as file:
            _advise(file.fileno())
            workers = [
                threading.Thread(target=work, args=(file.fileno(),), daemon=True)
                for _ in range(max(1, min(threads, len(stretches))))
            ]
            running = len(workers)
            for worker in workers:
                worker.start()
            try:
                while running:
                    with lock:
                        lock.wait(0.1)
                        now = done
                    progress(now, total)
            except BaseException:
                failed.append(None)
                raise
            finally:
                for worker in workers:
                    worker.join()
    except OSError as error:
        raise ScanFileError(f"{path} cannot be read: {error.strerror}") from error
    for error in filter(None, failed):
        if isinstance(error, OSError):
            raise ScanFileError(f"{path} cannot be read: {error.strerror or error}") from error
        raise error
    progress(total, total)
    return found


def _crc64(descriptor: int, part: FilePart, room: memoryview | None = None) -> int:
    room = room if room is not None else memoryview(bytearray(min(_PIECE, part.size)))
    at, left, crc = part.offset, part.size, 0
    while left:
        n = read_at(descriptor, room[: min(left, len(room))], at)
        if n == 0:
            raise OSError(f"it ends at byte {at}, before its end")
        crc = kernels.crc64(room[:n], crc)
        at, left = at + n, left - n
    return crc


def _advise(descriptor: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)


def _text(document: dict[str, object]) -> bytes:
    return (json.dumps({**document, "check": f"{_check(document):016x}"}, indent=1) + "\n").encode()


def _check(document: dict[str, object]) -> int:
    return kernels.crc64(json.dumps(document, sort_keys=True).encode())
