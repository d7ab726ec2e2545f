"""What the file of a sweep holds, as its reader and its writer both see it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ScanFileError
from offbragg.files import scan_layout
from offbragg.files.adopted import AdoptedCounts, OpenFile
from offbragg.files.checked import CheckedCounts, Rows
from offbragg.files.digest import FilePart
from offbragg.files.direct_chunks import count_chunks
from offbragg.files.frame_chunks import places_of_chunks
from offbragg.files.frame_columns import columns_of
from offbragg.files.hdf5 import find_inside
from offbragg.files.superblock import read_superblock
from offbragg.geometry import Geometry
from offbragg.ledger import Ledger
from offbragg.sample import Sample
from offbragg.stack import FrameRange, Stack
from offbragg.sweep import Sweep

TORN = "is corrupt (a process was killed during a write)"
"""What errors and problems say of a frame index that has a wrong checksum."""


class StoredSweep:
    """One sweep on disk: an NXmx file that grows while the crystal turns.

    `ScanFile` reads it, in any number of processes; `ScanWriter` writes it, in one.
    """

    def __init__(self, file: h5py.File, path: Path, kept: dict[str, Any] | None = None) -> None:
        self._file: h5py.File | None = file
        self._path = path
        # what was opened: to open it costs most
        self._kept: dict[str, Any] = {} if kept is None else kept
        self._shape: tuple[int, int] | None = None  # it never changes
        start = self._get(f"{scan_layout.RUN}/start")
        self._start: dict[str, Any] = json.loads(bytes(start[()]).decode("utf-8"))
        self._sweep = Sweep.from_dict(self._start["sweep"])
        self._declared = columns_of(self._get(scan_layout.FRAMES))
        self._has_crc64 = "crc64" in self._declared  # the first files have none

    def close(self) -> None:
        """Let go of the file."""
        raise NotImplementedError

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
            _, rows, columns = self._get(scan_layout.DATA).shape
            self._shape = rows, columns
        return self._shape

    @property
    def dataset(self) -> h5py.Dataset:
        """The data array as HDF5 has it now: what is read from it is compared with no checksum."""
        return self._fresh(scan_layout.DATA)

    @property
    def length(self) -> int:
        """How many frames the data array has now."""
        return self._fresh(scan_layout.DATA).shape[0]

    @property
    def complete(self) -> bool:
        """Whether it is finished: every frame decided, the end written, closed cleanly."""
        ended = bool(self.text("/entry/end_time"))
        return ended and self.ledger.counts()["pending"] == 0 and not self._flag()

    @property
    def summary(self) -> dict[str, Any]:
        """What was only known at the end; empty before."""
        text = self.text(f"{scan_layout.RUN}/summary")
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
            found = {"differences": cast(dict[str, Any], files).get("differences", [])}
        texts = cast(dict[str, Any], found if isinstance(found, dict) else {})
        return {
            kind: [str(line) for line in cast(list[Any], texts[kind])]
            for kind in ("contradictions", "differences")
            if isinstance(texts.get(kind), list)
        }

    @property
    def exit_status(self) -> str:
        """As in the stop document; empty before."""
        return self.text(f"{scan_layout.RUN}/exit_status")

    @property
    def ledger(self) -> Ledger:
        """What became of every expected frame."""
        # A word that straddles two pages can be seen half written; a second look sees it whole.
        for attempt in range(5):
            words = self.text_column("status")
            try:
                return Ledger.of(words, self.text_column("reason"))
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
            If the frame index is corrupt, as when a writer was killed.
        """
        data = self._fresh(scan_layout.DATA)
        self._check_torn()
        length = data.shape[0]  # once: in the writer's process it may grow between two lines
        monitor: NDArray[np.float64] | None = None
        if "monitor" in self.columns:
            monitor = self._fresh(f"{scan_layout.FRAMES}/monitor")[:length]
        counts = self._adopted() or CheckedCounts(data, self._read_rows, self._path)
        return Stack(FrameRange(counts, 0, length), self._sweep, monitor)

    def changed_adopted(self) -> tuple[int, ...]:
        """Read every adopted frame, and nothing else; return the numbers of those that changed.

        Raises
        ------
        ScanFileError
            If the start document does not say where they are.
        """
        adopted = self._adopted()
        return () if adopted is None else adopted.damaged()

    def _adopted(self, allowed: OpenFile | None = None) -> AdoptedCounts | None:
        """Return the frames of a thin scan file, which lie in the files of others; else None."""
        if scan_layout.ADOPTED not in self._start:
            return None
        data = self._fresh(scan_layout.DATA)
        return AdoptedCounts(self._start, data.shape, self._read_rows(), allowed)

    def _read_rows(self) -> Rows:
        self._fresh(scan_layout.DATA)  # where the chunks are that the rows are compared with
        crc64 = self._fresh(f"{scan_layout.FRAMES}/crc64")[()] if self._has_crc64 else None
        return Rows(self._fresh(f"{scan_layout.FRAMES}/status")[()], crc64)

    def is_torn(self) -> bool:
        """Return whether the frame index is corrupt, as when a kill tears a write."""
        return is_index_torn(lambda: self._get(scan_layout.DATA), self._path)

    def pixel_mask(self) -> NDArray[np.uint32]:
        """Bit 0: gap, bit 1: dead; all zero before the first frame, shape (slow, fast)."""
        return self._fresh(scan_layout.MASK)[()]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the per-frame columns."""
        return (*self._declared, *(self._start.get("per_frame") or {}))

    def frame_values(self) -> dict[str, NDArray[Any]]:
        """Every per-frame column, by name, each of shape (n_frames,); text as str."""
        values: dict[str, NDArray[Any]] = {}
        for name in self.columns:
            column = self._fresh(f"{scan_layout.FRAMES}/{name}")
            values[name] = (
                np.array(self.text_column(name)) if column.dtype.kind == "S" else column[()]
            )
        return values

    def frame_row(self, number: int) -> dict[str, Any]:
        """Read the row of one frame: the declared columns, by name; text as str."""
        row: dict[str, Any] = {}
        for name in self._declared:
            value = self._fresh(f"{scan_layout.FRAMES}/{name}")[number]
            row[name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return row

    def column(self, name: str) -> NDArray[Any]:
        """Read a per-frame column by its name in `columns`: numbers, or bytes of text."""
        return self._fresh(f"{scan_layout.FRAMES}/{name}")[()]

    @property
    def values_size(self) -> int:
        """How many bytes `frame_values` reads."""
        return sum(self._fresh(f"{scan_layout.FRAMES}/{name}").nbytes for name in self.columns)

    def text(self, name: str) -> str:
        """Read the text of a field, by its path in the file, such as ``/entry/end_time``."""
        return bytes(self._fresh(name)[()]).decode("utf-8", "replace")

    def text_column(self, name: str) -> list[str]:
        """Read a per-frame column of text, by its name in `columns`."""
        raw = self._fresh(f"{scan_layout.FRAMES}/{name}")[()]
        return [word.decode("utf-8", "replace") for word in raw.tolist()]

    def chunks(self) -> list[FilePart]:
        """Where the chunks of stored frames are in the file, with the CRC-64 that they should have.

        In the order of the frames' numbers.
        """
        return list(self._parts().values())

    def _parts(self) -> dict[int, FilePart]:
        data, words = self.dataset, self.text_column("status")
        crcs = self.text_column("crc64") if self._has_crc64 else [""] * len(words)
        return {
            number: FilePart(*place, int(crcs[number], 16))
            for number, place in sorted(places_of_chunks(data).items())
            if number < len(words) and words[number] == "stored" and _is_crc64(crcs[number])
        }

    def _column(self, name: str) -> Any:
        return self._get(f"{scan_layout.FRAMES}/{name}")

    def _flag(self) -> bool:
        return read_superblock(self._path).writing

    def _check_torn(self) -> None:
        """Refuse a file whose frame index is corrupt; a writer has checked it on opening."""

    def _get(self, name: str) -> Any:
        if self._file is None:
            raise ScanFileError(f"{self._path} is closed")
        kept = self._kept.get(name)
        if kept is None:
            kept = self._kept[name] = find_inside(self._file, name, self._path)
        return kept

    def _fresh(self, name: str) -> Any:
        """Return a dataset as it is now, whoever writes it."""
        return self._get(name)


def is_index_torn(data: Callable[[], h5py.Dataset], path: Path) -> bool:
    """Return whether the frame index has a wrong checksum."""
    try:
        count_chunks(data())
    except KeyError:  # there is none
        return False
    except (OSError, RuntimeError) as error:
        if "checksum" in str(error):
            return True
        raise ScanFileError(f"{path} cannot be read: {error}") from error
    return False


def torn_error(path: Path) -> ScanFileError:
    """Return the error for a file whose frame index is corrupt."""
    return ScanFileError(
        f"The frame index of {path} {TORN}\n"
        "Restart offbragg stack: it rebuilds the file from the intact frames and the frame files, "
        "and keeps the damaged file. For a run that has ended, offbragg stack --once --repair "
        "does so."
    )


def _is_crc64(word: str) -> bool:
    return len(word) == 16 and not set(word) - set("0123456789abcdef")
