"""One sweep on disk, read: finished or growing, by any number of readers.

The writer's order of writing makes a promise: pixels and their row first, flushed, and only then
the word ``stored``, flushed. Whoever reads ``stored`` can read the frame, whenever the writer dies.
"""

from __future__ import annotations

import contextlib
import time as clock
from pathlib import Path
from typing import Any

import h5py  # pyright: ignore[reportMissingTypeStubs]

from offbragg import kernels
from offbragg.errors import OffbraggError, ScanFileError
from offbragg.files import scan_layout
from offbragg.files.adopted import AdoptedCounts, OpenFile
from offbragg.files.checked import Damage
from offbragg.files.digest import between, crc64_of_parts, read_digest
from offbragg.files.filters import check_part
from offbragg.files.hdf5 import find_inside, open_to_read
from offbragg.files.shared_reader import (
    ONE_HANDLE,
    READERS_LOCK,
    SharedReader,
    let_go,
    share,
    stamp_of,
)
from offbragg.files.stored_sweep import StoredSweep, places_of_chunks, torn_error
from offbragg.files.superblock import read_superblock

_PATIENCE = 2.0  # s, for others who are just opening or reading


_MOST_FIELD = 256 << 20  # bytes that anything beside the frames may have


_NOT_OURS = (
    KeyError, ValueError, TypeError, AttributeError, OSError, RuntimeError, OffbraggError
)  # fmt: skip
"""What comes of taking another file for a scan file; a RecursionError is a RuntimeError."""


class ScanFile(StoredSweep):
    """The scan file of a sweep, opened for reading by `open`.

    All readers of a process share what it has open. In the writer's own process, readers that are
    open before the writer must close within two seconds: HDF5 refuses to write a file that the
    same process already holds open for reading.
    """

    def __init__(
        self,
        file: h5py.File,
        path: Path,
        reader: SharedReader | None = None,
        *,
        alone: bool = False,
        allowed: OpenFile | None = None,
    ) -> None:
        self._reader = reader
        self._seen = stamp_of(path) if reader is None else reader.seen
        self._looked = False  # for a corrupt frame index
        self._alone = alone
        self._allowed = allowed
        super().__init__(file, path, None if reader is None else reader.kept)

    @classmethod
    def open(
        cls, path: Path | str, *, descriptor: int | None = None, allowed: OpenFile | None = None
    ) -> ScanFile:
        """Open a scan file for reading, finished or growing.

        Parameters
        ----------
        path
            The file.
        descriptor
            Of the file, if it is open: then that file is read, whatever the path leads to now,
            and no other one: adopted frames are refused, but for those that ``allowed`` opens.
        allowed
            Opens a file that holds adopted frames, if it may be read, and returns a descriptor.

        Raises
        ------
        FileNotFoundError
            If there is none.
        ScanFileError
            If it is not a scan file.
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
            # who holds it open, as the catalog does, serves it to others: no file that it names
            alone = descriptor is not None and allowed is None
            return cls(reader.file, path, reader=reader, alone=alone, allowed=allowed)
        except _NOT_OURS as error:
            let_go(reader)
            raise ScanFileError(f"{path} is not a scan file: {error}") from error

    def close(self) -> None:
        """Let go of the file.

        Raises
        ------
        ScanFileError
            If HDF5 cannot close it.
        """
        file, self._file = self._file, None
        reader, self._reader = self._reader, None
        self._kept = {}
        try:
            if reader is not None:
                let_go(reader)
            elif file is not None:
                file.close()
        except (OSError, RuntimeError, ValueError) as error:
            raise ScanFileError(f"{self._path} cannot be closed: {error}") from error

    def _adopted(self, allowed: OpenFile | None = None) -> AdoptedCounts | None:
        adopted = super()._adopted(allowed or self._allowed)
        if adopted is not None and self._alone:
            raise ScanFileError(
                f"{self._path} names frames in other files, which the catalog does not read"
            )
        return adopted

    def damage(self) -> Damage:
        """Read all bytes of the file, once and in order, and compare them with their checksums.

        Raises
        ------
        ScanFileError
            If its frame index is corrupt, or the file cannot be read.
        """
        self._check_torn()
        before = stamp_of(self._path)
        complete = self.complete
        words, parts = self.text_column("status"), self._parts()
        digest = None
        with contextlib.suppress(ScanFileError):  # a damaged one counts as none
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
            there = set(places_of_chunks(self._get(scan_layout.DATA)))
        stored = [n for n, word in enumerate(words) if word == "stored"]
        if (adopted := self._adopted()) is not None:
            there = set(stored) - set(adopted.damaged())
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
                raise torn_error(self._path)
            self._looked = True

    def _get(self, name: str) -> Any:
        if self._file is None:
            raise ScanFileError(f"{self._path} is closed")
        kept = self._kept.get(name)
        if kept is None:
            with READERS_LOCK:  # never two handles of one dataset
                kept = self._kept.get(name) or find_inside(self._file, name, self._path)
                if name != scan_layout.DATA and isinstance(kept, h5py.Dataset):
                    _check_field(kept, self._path)
                kept = self._kept.setdefault(name, kept)
        return kept

    def _fresh(self, name: str) -> Any:
        dataset = self._get(name)
        if self._grows():
            with ONE_HANDLE:
                dataset.refresh()
        return dataset

    def _grows(self) -> bool:
        """Return whether a process writes the file, or has written it since this reader opened it.

        HDF5's refresh spoils every other handle of this process on the same dataset: it reads the
        first frame for every other one, or fails (HDF5 2.0). So all readers of a process share one
        handle of each dataset (see `share`), and what no longer changes is not refreshed.
        """
        if self._reader is not None and self._reader.grows:
            return True
        with contextlib.suppress(OSError):  # removed: what is open can still be read
            if stamp_of(self._path) == self._seen and not self._flag():
                return False
        if self._reader is not None:
            self._reader.grows = True
        return True


def _check_field(field: Any, path: Path) -> None:
    """Check that a field takes no more memory than anything beside the frames may.

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
