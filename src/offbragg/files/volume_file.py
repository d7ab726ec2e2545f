"""Read a volume on disk, whole or in parts; `offbragg.files.volume_writer` has its layout."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from offbragg.bricks import SUMS
from offbragg.errors import OffbraggError, ReductionError, ScanFileError
from offbragg.files.filters import check_part
from offbragg.files.hdf5 import find_inside, link_of, open_to_read
from offbragg.grid import Grid
from offbragg.sample import Sample
from offbragg.volume import Volume

Array = NDArray[np.float64]

MOST_TEXT = 256 << 20  # bytes
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
        try:
            self._file: Any = open_to_read(
                self.path, swmr=False, libver=None, descriptor=descriptor
            )
        except FileNotFoundError:
            raise ReductionError(f"{self.path} is not there") from None
        except (OSError, RuntimeError) as error:
            number = getattr(error, "errno", None)
            what = os.strerror(number) if number else error
            raise ReductionError(f"{self.path} cannot be opened: {what}") from error
        try:
            self.record: dict[str, Any] = dict(json.loads(self._text("entry/process/record")))
            self.grid = Grid.from_dict(json.loads(self._text("entry/volume/grid")))
            if self._get("entry/volume/counts").shape != self.grid.shape[::-1]:
                raise ValueError("its counts are not of the shape of its grid")
        except _NOT_OURS as error:
            self._file.close()
            raise ReductionError(f"{self.path} is not a volume file: {error}") from error

    def __enter__(self) -> VolumeFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

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
            name: self._read(self._get(f"entry/volume/{name}"), slices) if self._has(name) else None
            for name in SUMS
        }
        return Volume(grid=grid, sample=self.sample, symmetry=self.symmetry, **sums)  # type: ignore[arg-type]

    def _read(self, data: h5py.Dataset, slices: tuple[slice, ...]) -> Array:
        try:
            check_part(data, slices)
            return np.ascontiguousarray(data[slices].T)
        except (OSError, RuntimeError, ScanFileError) as error:
            raise ReductionError(
                f"{self.path} is damaged: {data.name} does not have its checksum, or cannot be "
                f"decoded ({error})\nMake it again: offbragg reduce --again {self.path} --out NEW"
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


def read_volume(path: Path | str) -> Volume:
    """Read a volume file whole."""
    with VolumeFile(path) as file:
        return file.volume()
