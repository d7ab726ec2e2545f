"""What HDF5 makes of a scan file, asked in a process of its own.

A damaged HDF5 file can end the process that reads it, keep it busy for ever, or ask for more memory
than there is. So the file is opened in a child; what comes back are plain numbers and texts. The
bytes of the frames are not read here, unless their pixels are asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from numpy.typing import NDArray

from offbragg.errors import OffbraggError, ScanFileError
from offbragg.files import scan_layout
from offbragg.files.cbf import content_md5
from offbragg.files.digest import FilePart
from offbragg.files.filters import check_filters, check_part
from offbragg.files.frame_chunks import FrameChunks
from offbragg.files.hdf5 import find_inside, read_torn
from offbragg.files.scan_file import ScanFile
from offbragg.files.stored_sweep import TORN, places_of_chunks
from offbragg.files.superblock import read_superblock
from offbragg.ledger import FrameStatus, Ledger

_PATIENCE = 60.0  # s without a line from the child
_MOST_MEMORY = 16 << 30  # bytes of address space
_MOST_FIELD = 256 << 20  # bytes that a field beside the frames may have
_LONGEST = 1 << 30  # bytes of an answer
_REPORT = 0.2  # s between reports of progress


@dataclass(slots=True)
class FileContents:
    """What is in a scan file, beside the frames."""

    run: str
    start: dict[str, Any]
    shape: tuple[int, int]
    length: int
    """Frames of the data array."""
    complete: bool
    ended: bool
    """Whether the end is written, as it is before the file is closed for good."""
    exit_status: str
    statuses: list[str]
    reasons: list[str]
    sources: list[str]
    md5: list[str]
    crc64: list[str] | None
    """None in a file of a version without stored checksums."""
    times: list[float | None]
    """Start of each exposure, POSIX s."""
    first_header: str
    places: list[tuple[int, int] | None]
    """Offset and size of each frame's chunk; None where there is none."""
    problems: list[str] = field(default_factory=list[str])
    """What cannot be read, or is not as a scan file has it."""
    reason: str = ""
    """Of the run's end, as in the stop document."""
    headers: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """``contradictions`` and ``differences`` between headers and run, in words."""
    angles: dict[str, Any] = field(default_factory=dict[str, Any])
    """Of the stored frames: ``sources`` (how many angles come from each), and of the measured
    ones the largest ``offset`` from what was commanded and the median ``sigma``, degree."""
    pixels: dict[int, str] = field(default_factory=dict[int, str])
    """Of frames that were asked for: the MD5 that a Pilatus declares for these counts, ``""`` if
    all of them are −1, or ``"cannot be read: …"``."""

    @property
    def n_frames(self) -> int:
        """How many frames the sweep is to have."""
        return len(self.statuses)

    def stored(self) -> list[int]:
        """Numbers of the frames that are listed as stored."""
        return [n for n, status in enumerate(self.statuses) if status == "stored"]

    def chunk(self, number: int) -> FilePart | None:
        """Where a stored frame's chunk is, and the CRC-64 that it should have."""
        place = self.places[number] if number < len(self.places) else None
        if place is None:
            return None
        word = self.crc64[number] if self.crc64 is not None else ""
        try:
            return FilePart(*place, int(word, 16) if word else None)
        except ValueError:
            return FilePart(*place, -1)  # damaged: nothing has this


class Examiner:
    """A child process that reads scan files; started on demand, and again when it died.

    Parameters
    ----------
    patience
        Time limit for its next line, s.
    """

    def __init__(self, *, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._child: subprocess.Popen[bytes] | None = None
        self._heard = b""

    def look(
        self,
        path: Path,
        *,
        pixels: Iterable[int] = (),
        progress: Callable[[int], None] = lambda done: None,
    ) -> FileContents:
        """Read what is in a scan file, in the child process.

        Parameters
        ----------
        path
            The file.
        pixels
            Frames of which the counts are to be read, too.
        progress
            Called with the number of frames whose counts are read.

        Raises
        ------
        ScanFileError
            If HDF5 cannot read it as a scan file, or did not survive it.
        """
        child = self._started()
        assert child.stdin is not None
        request = {"path": str(path.resolve()), "pixels": sorted(pixels)}
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            while True:
                answer = json.loads(self._line(child, path))
                if "done" in answer:
                    progress(answer["done"])
                elif "error" in answer:
                    raise ScanFileError(answer["error"])
                else:
                    return _contents(answer["contents"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.close()
            raise ScanFileError(f"{path} cannot be read as a scan file: {error!r}") from error

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        self._heard = b""
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._child = subprocess.Popen(
                [sys.executable, "-m", "offbragg.files.examine"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        return self._child

    def _line(self, child: subprocess.Popen[bytes], path: Path) -> bytes:
        assert child.stdout is not None
        deadline = time.monotonic() + self._patience
        while b"\n" not in self._heard:
            left = deadline - time.monotonic()
            if left <= 0 or len(self._heard) > _LONGEST:
                self.close()
                raise ScanFileError(
                    f"{path} is damaged: HDF5 did not get through it in {self._patience:g} s"
                )
            ready, _, _ = select.select([child.stdout], [], [], left)
            if not ready:
                continue
            more = os.read(child.stdout.fileno(), 1 << 20)
            if not more:
                code = child.wait()
                self.close()
                how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                raise ScanFileError(f"{path} is damaged: HDF5 did not survive it ({how})")
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        return line


def _contents(answer: dict[str, Any]) -> FileContents:
    contents = FileContents(**answer)
    contents.shape = (contents.shape[0], contents.shape[1])
    contents.places = [None if place is None else (place[0], place[1]) for place in contents.places]
    contents.pixels = {int(number): word for number, word in contents.pixels.items()}
    return contents


# ---- in the child ------------------------------------------------------------------------


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    for what, most in ((resource.RLIMIT_AS, _MOST_MEMORY), (resource.RLIMIT_CORE, 0)):
        _, limit = resource.getrlimit(what)
        if limit == resource.RLIM_INFINITY or limit > most:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(what, (most, limit))


def _main() -> None:
    _limit_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        try:
            answer: dict[str, Any] = {"contents": _look(Path(asked["path"]), asked["pixels"])}
        except OffbraggError as error:
            answer = {"error": str(error)}
        except Exception as error:  # whatever HDF5 and h5py make of a damaged file
            what = str(error).partition("\n")[0][:300]
            answer = {"error": f"{asked['path']} is not a scan file, or it is damaged: {what}"}
        _send(answer)


def _send(answer: dict[str, Any]) -> None:
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
    sys.stdout.buffer.flush()


def _open(path: Path) -> tuple[ScanFile, list[str]]:
    if read_superblock(path).writing:
        scan = ScanFile.open(path)
    else:  # as a reader of a growing file HDF5 would read damaged metadata again
        scan = ScanFile(h5py.File(path, "r", locking=False), path)
    try:
        torn = scan.is_torn()
    except BaseException:
        scan.close()
        raise
    if not torn:
        return scan, []
    scan.close()
    # what is taken from it is compared with checksums of its own
    file = read_torn(path, lambda file: places_of_chunks(find_inside(file, scan_layout.DATA)))
    return ScanFile(file, path), [f"the frame index {TORN}"]


def _look(path: Path, pixels: list[int]) -> dict[str, Any]:
    scan, problems = _open(path)
    with scan:
        try:
            ledger = scan.ledger  # first: what it calls stored is there
            complete = scan.complete
        except ScanFileError as error:
            problems.append(f"the ledger is damaged: {error}")
            ledger, complete = _ledger(scan), False
        if ledger.n_frames != scan.n_frames:
            raise ScanFileError(
                f"{path} has {ledger.n_frames} rows for {scan.n_frames} frames: it is damaged"
            )
        values = scan.frame_values()
        data: Any = scan.dataset
        length: int = data.shape[0]
        end = path.stat().st_size
        found = {n: p for n, p in places_of_chunks(data).items() if p[0] + p[1] <= end}
        places = [found.get(number) for number in range(min(length, scan.n_frames))]
        begun = [None if not np.isfinite(when) else float(when) for when in values["time"]]
        contents: dict[str, Any] = {
            "run": scan.run,
            "start": scan.start,
            "shape": data.shape[1:],
            "length": length,
            "complete": complete,
            "ended": bool(scan.text("/entry/end_time")),
            "exit_status": scan.exit_status,
            "reason": scan.text(f"{scan_layout.RUN}/reason"),
            "headers": scan.header_findings,
            "statuses": [status.value for status in ledger.statuses],
            "reasons": list(ledger.reasons),
            "sources": values["source"].tolist(),
            "md5": values["md5"].tolist(),
            "crc64": values["crc64"].tolist() if "crc64" in values else None,
            "times": begun,
            "first_header": scan.text(f"{scan_layout.RUN}/first_header"),
            "places": places,
            "angles": _angles(values, scan.sweep.midpoints),
            "problems": problems + _problems(data.file),
            "pixels": {},
        }
        reported = time.monotonic()
        wanted = {n for n in pixels if n < length}
        # a frame that is not stored has a chunk only if its writer died just then
        wanted |= {
            n
            for n, place in enumerate(places)
            if place is not None and contents["statuses"][n] != "stored"
        }
        for done, number in enumerate(sorted(wanted)):
            try:
                counts = _counts(data, number) if number in found else np.asarray(data[number])
                contents["pixels"][number] = (
                    "" if np.all(counts == scan_layout.FILL) else content_md5(counts)
                )
            except (OSError, RuntimeError, MemoryError, ValueError, ScanFileError) as error:
                what = str(error).partition("\n")[0][:200]
                contents["pixels"][number] = f"cannot be read: {what}"
            if time.monotonic() - reported > _REPORT:
                reported = time.monotonic()
                _send({"done": done + 1})
    return contents


def _counts(data: h5py.Dataset, number: int) -> NDArray[Any]:
    """Read a frame that has a chunk, whatever its checksum is."""
    chunks = FrameChunks(data)
    if not chunks.are_ours:
        check_part(data, (slice(number, number + 1), slice(None), slice(None)))
        return np.asarray(cast(Any, data)[number])
    with chunks.room() as room:
        read = chunks.read(number, room)
        if read is None:
            raise ScanFileError(f"frame {number} has no chunk")
        return chunks.decode(number, *read)


def _angles(values: Mapping[str, NDArray[Any]], asked: NDArray[np.float64]) -> dict[str, Any]:
    """Count where the angles of the stored frames come from, and how far they are from asked."""
    stored = values["status"] == "stored"
    sources = values["angle_source"][stored]
    found: dict[str, Any] = {
        "sources": {str(each): int(np.count_nonzero(sources == each)) for each in set(sources)}
    }
    measured = stored & (values["angle_source"] != "commanded") & np.isfinite(values["angle"])
    if measured.any():
        off = (values["angle"] - asked)[measured]
        found["offset"] = float(off[np.argmax(np.abs(off))])
        sigmas = values.get("angle_sigma", np.empty(0))
        known = sigmas[measured & np.isfinite(sigmas)] if len(sigmas) else sigmas
        found["sigma"] = float(np.median(known)) if len(known) else None
    return found


def _ledger(scan: ScanFile) -> Ledger:
    """Take what has a checksum for stored where the ledger cannot be understood."""
    words, reasons = scan.text_column("status"), scan.text_column("reason")
    known = {status.value for status in FrameStatus}
    crcs = scan.text_column("crc64") if "crc64" in scan.columns else [""] * len(words)
    there = ["stored" if crc else "pending" for crc in crcs]
    return Ledger.of([w if w in known else t for w, t in zip(words, there, strict=True)], reasons)


def _problems(root: h5py.Group) -> list[str]:
    """Return what cannot be read or points elsewhere, the frames not included."""
    problems: list[str] = []

    def read(name: str, item: Any) -> None:
        for key in item.attrs:
            item.attrs[key]
        if not isinstance(item, h5py.Dataset):
            return
        dataset: Any = item
        if dataset.external or dataset.is_virtual:
            problems.append(f"{name} is kept in other files: a scan file has everything in itself")
        elif dataset.ndim < 3:
            if dataset.nbytes > _MOST_FIELD:
                problems.append(f"{name} claims {dataset.nbytes} bytes")
            else:
                check_part(dataset)
                dataset[()]
        else:
            check_filters(dataset)

    def walk(group: Any, depth: int) -> None:
        for key in group:
            name = f"{(group.name or '').rstrip('/')}/{key}"
            try:
                link = group.get(key, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    problems.append(f"{name} is a link to elsewhere: a scan file has none")
                    continue
                item = group[key]
                read(name, item)
            except Exception as error:  # whatever HDF5 and h5py make of a damaged file
                what = str(error).partition("\n")[0][:200]
                problems.append(f"{name} cannot be read: {what}")
                continue
            if isinstance(item, h5py.Group):
                if depth > 8:
                    problems.append(f"{name} goes deeper than a scan file does")
                else:
                    walk(item, depth + 1)

    walk(root, 0)
    return problems[:100]


if __name__ == "__main__":
    _main()
