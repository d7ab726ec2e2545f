"""Read a volume on disk, whole or in parts; `offbragg.files.volume_writer` has its layout."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.bricks import SUMS, Bricks, brick_slices
from offbragg.errors import OffbraggError, ReductionError, ScanFileError
from offbragg.files.cells import StoredArray
from offbragg.files.filters import check_part
from offbragg.files.hdf5 import find_inside, link_of, open_to_read
from offbragg.files.lock import is_locked
from offbragg.files.root import can_open_again
from offbragg.grid import Grid
from offbragg.sample import Sample
from offbragg.volume import Volume

Array = NDArray[np.float64]

MOST_TEXT = 256 << 20  # bytes
_TRIES = 100  # a file is written for moments after another one has got its name
_NOT_OURS = (KeyError, ValueError, TypeError, AttributeError, OSError, RuntimeError, OffbraggError)
"""What comes of taking another file for a volume; a RecursionError is a RuntimeError."""


class VolumeFile:
    """A volume on disk, read in parts; made by `write_volume`.

    Parameters
    ----------
    path
        The file.
    descriptor
        Of the file, if it is open: then that file is read, whatever the path leads to now.
    most_text
        Limit for its record and for each other text in it, bytes; JSON takes up to 30 times as
        much memory.
    """

    def __init__(
        self, path: Path | str, *, descriptor: int | None = None, most_text: int = MOST_TEXT
    ) -> None:
        self.path = Path(path)
        self._most_text = most_text
        self._arrays: dict[str, StoredArray] = {}
        self._locked: int | None = None
        try:
            if descriptor is not None:
                _lock(descriptor)
            elif can_open_again():
                descriptor = self._locked = _open_locked(self.path)
            self._file: Any = open_to_read(
                self.path, swmr=False, libver=None, descriptor=descriptor
            )
        except FileNotFoundError:
            raise ReductionError(f"{self.path} is not there") from None
        except (OSError, RuntimeError) as error:
            self._unlock()
            number = getattr(error, "errno", None)
            what = os.strerror(number) if number else error
            raise ReductionError(f"{self.path} cannot be opened: {what}") from error
        try:
            self.record: dict[str, Any] = dict(json.loads(self._text("entry/process/record")))
            self.grid = Grid.from_dict(json.loads(self._text("entry/volume/grid")))
            if self._get("entry/volume/counts").shape != self.grid.shape[::-1]:
                raise ValueError("its counts are not of the shape of its grid")
        except _NOT_OURS as error:
            self.close()
            raise ReductionError(f"{self.path} is not a volume file: {error}") from error

    def __enter__(self) -> VolumeFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    @property
    def sample(self) -> Sample | None:
        """The crystal."""
        if not self._has("sample"):
            return None
        return Sample.from_dict(json.loads(self._text("entry/volume/sample")))

    @property
    def symmetry(self) -> str:
        """Laue class over which the sums were made; empty for none."""
        return self._text("entry/volume/symmetry")

    @property
    def completeness(self) -> float:
        """Measured part of the cells."""
        return float(self._get("entry/completeness").attrs["overall"])

    def dataset(self, name: str) -> Any:
        """Return a dataset of the file, such as ``entry/data/intensity``; None: it has none.

        Raises
        ------
        ReductionError
            If it lies in another file.
        """
        try:
            return self._get(name)
        except KeyError:
            return None

    def volume(self) -> Volume:
        """Read all of it."""
        return self.part((slice(None), slice(None), slice(None)))

    def part(self, part: tuple[slice, slice, slice]) -> Volume:
        """Read a box of it, slices along h, k, l in steps of 1."""
        bounds = [s.indices(n) for s, n in zip(part, self.grid.shape, strict=True)]
        if any(step != 1 or stop <= start for start, stop, step in bounds):
            raise ReductionError(f"{part} is not a box inside {self.grid}")
        first = tuple(a + b[0] for a, b in zip(self.grid.first, bounds, strict=True))
        shape = tuple(b[1] - b[0] for b in bounds)
        grid = Grid(first, shape, self.grid.per_unit)  # type: ignore[arg-type]
        slices = tuple(slice(b[0], b[1]) for b in reversed(bounds))
        sums = {
            name: np.ascontiguousarray(self.cells(name, slices).T) if self._has(name) else None
            for name in SUMS
        }
        return Volume(grid=grid, sample=self.sample, symmetry=self.symmetry, **sums)  # type: ignore[arg-type]

    def bricks(self) -> Bricks:
        """Read it in bricks, each when it is asked for; while it is open."""
        return _FileBricks(self)

    @property
    def names(self) -> tuple[str, ...]:
        """Which sums it has, of `offbragg.bricks.SUMS`."""
        return tuple(name for name in SUMS if self._has(name))

    def cells(self, name: str, part: tuple[slice, ...]) -> Array:
        """Read a box of one of its sums as it is stored, [l, k, h].

        Raises
        ------
        ReductionError
            If it is damaged.
        """
        with self._damage(name):
            return self._array(name).read(part)

    def stores(self, name: str, part: tuple[slice, ...]) -> bool:
        """Return whether a brick of one of its sums is stored; what is not is 0."""
        with self._damage(name):
            return self._array(name).stores(part)

    def _array(self, name: str) -> StoredArray:
        if name not in self._arrays:
            self._arrays[name] = StoredArray(self._get(f"entry/volume/{name}"))
        return self._arrays[name]

    @contextlib.contextmanager
    def _damage(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ScanFileError) as error:
            raise ReductionError(
                f"{self.path} is damaged: /entry/volume/{name} does not have its checksum, or "
                f"cannot be decoded ({error})\n"
                f"Make it again: offbragg reduce --again {self.path} --out NEW"
            ) from error

    def _text(self, name: str) -> str:
        field = self._get(name)
        if field.nbytes > self._most_text:
            raise ValueError(f"{name} claims {field.nbytes:,} bytes")
        check_part(field)
        return bytes(field[()]).decode()

    def _has(self, name: str) -> bool:
        return link_of(self._get("entry/volume"), name) is not None

    def _get(self, name: str) -> Any:
        try:
            return find_inside(self._file, name, self.path)
        except ScanFileError as error:
            raise ReductionError(str(error)) from error


class _FileBricks:
    def __init__(self, file: VolumeFile) -> None:
        self._file = file
        self.grid = file.grid
        self.sample = file.sample
        self.symmetry = file.symmetry
        self.names = file.names

    def brick(self, l: int, k: int, h: int) -> Mapping[str, Array] | None:  # noqa: E741
        part = brick_slices(self.grid, l, k, h)
        if not any(self._file.stores(name, part) for name in self.names):
            return None
        return {
            name: np.ascontiguousarray(self._file.cells(name, part), np.float64)
            for name in self.names
        }


def _open_locked(path: Path) -> int:
    """Open a file; while it is open, nobody who makes it grow writes over it."""
    for _ in range(_TRIES):
        descriptor = os.open(path, os.O_RDONLY)
        if _lock(descriptor):
            break
        os.close(descriptor)  # another one has just got its name
    else:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
    return descriptor


def _lock(descriptor: int) -> bool:
    """Lock what is open for reading; return whether it is not just being written."""
    try:
        return not is_locked(descriptor)
    except OSError:
        return True  # there are no locks on this disk


def read_volume(path: Path | str) -> Volume:
    """Read a volume file whole."""
    with VolumeFile(path) as file:
        return file.volume()
