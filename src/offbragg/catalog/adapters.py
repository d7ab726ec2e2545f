"""How Tiled is told to serve our files: per-frame rows and sequences of CBF, in the server.

How they are described to it, in the process that publishes, is in `consolidators`.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tiled.adapters.array import ArrayAdapter
from tiled.adapters.core import Adapter
from tiled.adapters.hdf5 import SWMR_DEFAULT, HDF5Adapter, HDF5ArrayAdapter, h5open
from tiled.adapters.sequence import FileSequenceAdapter
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import DataSource
from tiled.structures.table import TableStructure
from tiled.utils import BrokenLink, path_from_uri

from offbragg.catalog.consolidators import WORDS
from offbragg.errors import FrameError
from offbragg.files import nxmx, read_frame
from offbragg.files.filters import check_part
from offbragg.files.scan_file import ScanFile

# -- one row per frame -----------------------------------------------------------------------


def frame_rows(
    values: Mapping[str, NDArray[Any]],
    columns: Sequence[str],
    *,
    count: int,
    started: float,
    period: float,
) -> pd.DataFrame:
    """Turn the columns of a scan file into the rows of an event stream.

    Parameters
    ----------
    values
        The columns of the scan file, each of shape (n_frames,).
    columns
        Which of them are data keys, in order.
    count
        How many frames are decided: only these have rows.
    started
        When the run was opened, POSIX s.
    period
        From the beginning of one frame to that of the next, s.

    Returns
    -------
    rows
        ``seq_num`` (number + 1), ``time``, the data keys, and their time stamps. A frame that
        never came has the time at which it was due: documents are sorted by time.

    Examples
    --------
    >>> values = {"time": np.array([np.nan, 10.5, np.nan]), "status": np.array([b"missing"] * 3)}
    >>> frame_rows(values, ["status"], count=3, started=10.0, period=0.5)["time"].tolist()
    [10.0, 10.5, 11.0]
    """
    times = times_when_due(values["time"], started=started, period=period)[:count]
    rows: dict[str, Any] = {"seq_num": np.arange(1, count + 1), "time": times}
    for column in columns:
        if column not in values:  # a scan file of an earlier version has no such column
            rows[column] = np.full(
                count, "" if column in WORDS else np.nan, object if column in WORDS else float
            )
            continue
        value = values[column][:count]
        if column in WORDS:
            words = [w.decode("utf-8", "replace") if isinstance(w, bytes) else w for w in value]
            rows[column] = np.array(words, dtype=object)
        else:
            rows[column] = value.astype(np.float64)
    rows.update({f"ts_{column}": times for column in columns})
    return pd.DataFrame(rows)


def times_when_due(
    times: NDArray[np.float64], *, started: float, period: float
) -> NDArray[np.float64]:
    """Fill the times that are not known from those that are, one frame every `period`."""
    numbers = np.arange(times.size)
    known = np.flatnonzero(np.isfinite(times))
    if not known.size:
        return started + period * numbers.astype(np.float64)
    before = known[np.clip(np.searchsorted(known, numbers, "right") - 1, 0, None)]
    due = times[before] + period * (numbers - before)
    return np.where(np.isfinite(times), times, due).astype(np.float64)


class FramesAdapter(Adapter[TableStructure]):
    """The rows of a sweep, read from its scan file at each request, also while it grows.

    One source of truth: nothing is copied into the catalog, and a frame that comes late
    changes its row.
    """

    structure_family = StructureFamily.table

    def __init__(
        self,
        path: Path,
        structure: TableStructure,
        *,
        started: float,
        period: float,
        metadata: Any = None,
        specs: Any = None,
    ) -> None:
        super().__init__(structure, metadata=metadata, specs=specs)
        self._path = path
        self._started = started
        self._period = period

    @classmethod
    def from_catalog(
        cls, data_source: DataSource[TableStructure], node: Any, /, *, started: float, period: float
    ) -> FramesAdapter:
        """Make the adapter of a catalog node; Tiled has checked that the file may be read."""
        return cls(
            path_from_uri(data_source.assets[0].data_uri),
            data_source.structure,
            started=started,
            period=period,
            metadata=node.metadata_,
            specs=node.specs,
        )

    def read(self, fields: Sequence[str] | None = None) -> pd.DataFrame:
        """Read the rows of every frame that is decided and whose pixels can be read too."""
        columns = [c for c in self._structure.columns[2:] if not c.startswith("ts_")]
        with self._open() as scan:
            count = min(scan.ledger.settled(), scan.length)
            values = scan.frame_values()
        rows = frame_rows(values, columns, count=count, started=self._started, period=self._period)
        return rows if fields is None else rows.loc[:, list(fields)]

    def bytes_to_read(self) -> int:
        """How many bytes of the scan file that takes."""
        with self._open() as scan:
            return scan.values_size

    def _open(self) -> ScanFile:
        try:
            return ScanFile.open(self._path)
        except FileNotFoundError as error:
            raise BrokenLink(f"the scan file is gone: {self._path.name}") from error

    def read_partition(self, partition: int, fields: Sequence[str] | None = None) -> pd.DataFrame:
        """Read the one partition there is."""
        if partition != 0:
            raise IndexError(partition)
        return self.read(fields)

    def __getitem__(self, key: str) -> ArrayAdapter:
        return ArrayAdapter.from_array(self.read([key])[key].to_numpy())

    def get(self, key: str) -> ArrayAdapter | None:
        """One column as an array, or None if there is no such column."""
        return self[key] if key in self._structure.columns else None

    def items(self) -> Iterator[tuple[str, ArrayAdapter]]:
        """Every column as an array."""
        yield from ((key, self[key]) for key in self._structure.columns)


# -- stacks of frames, and other HDF5 --------------------------------------------------------


def _opened(path: Any, dataset: str | None, how: Mapping[str, Any]) -> Any:
    """Open a file as Tiled does, and give what is asked of it; within a ``with``."""
    return h5open(path, dataset, **how)


class _Checked:
    """A dataset of an HDF5 file that is opened whenever some of it is read, and checked then.

    Frames of a scan file are compared with their checksums, wherever in the file they are linked
    and whichever file links to them. Of anything else the filters are looked at.
    """

    def __init__(self, path: Path, dataset: str | None, how: Mapping[str, Any]) -> None:
        self._path, self._dataset, self._how = path, dataset, dict(how)
        self._scan_file: Path | None = None
        with _opened(path, dataset, self._how) as found:
            self.shape, self.dtype = found.shape, found.dtype
            self.chunks = found.chunks or found.shape
            frames = found.file.get(nxmx.DATA)
            if f"{nxmx.FRAMES}/status" in found.file and frames == found:
                self._scan_file = Path(found.file.filename)

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[Any]:
        if self._scan_file is not None:
            with self._scan(self._scan_file) as scan:
                return scan.stack.counts[key]
        with _opened(self._path, self._dataset, self._how) as found:
            check_part(found, key)
            return found[key]

    @contextmanager
    def _scan(self, path: Path) -> Iterator[ScanFile]:
        if self._how["swmr"]:
            with ScanFile.open(path) as scan:
                yield scan
        else:  # HDF5 opens a file that this process has open only in the same way
            with _opened(path, None, self._how) as file:
                yield ScanFile(file, path)


class CheckedArrayAdapter(HDF5ArrayAdapter):
    """An array in HDF5 files, checked as it is read."""

    @staticmethod
    def lazy_load_hdf5_array(
        *file_paths: Any,
        dataset: str | None = None,
        swmr: bool = SWMR_DEFAULT,
        libver: str = "latest",
        locking: bool | str | None = None,
    ) -> dask.array.Array:
        """Load an array when it is read, piece by piece, from one file or several."""
        how = {"swmr": swmr, "libver": libver, "locking": locking}
        parts = [_Checked(Path(path), dataset, how) for path in file_paths]
        if any(not part.shape or 0 in part.shape or part.dtype.kind == "O" for part in parts):
            for path in file_paths:
                with _opened(path, dataset, how) as found:
                    check_part(found)
            return HDF5ArrayAdapter.lazy_load_hdf5_array(*file_paths, dataset=dataset, **how)
        arrays = [
            # each has a name of its own: the file may have grown since the last request
            dask.array.from_array(part, chunks=part.chunks, name=False, fancy=False)
            for part in parts
        ]
        return arrays[0] if len(arrays) == 1 else dask.array.concatenate(arrays)


class CheckedHDF5Adapter(HDF5Adapter):
    """An HDF5 file, a group or an array of one, checked as it is read."""

    @classmethod
    def from_catalog(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, data_source: Any, node: Any, /, **parameters: Any
    ) -> Any:
        """Make the adapter of a catalog node."""
        if data_source.structure_family != StructureFamily.array:
            return super().from_catalog(data_source, node, **parameters)
        dataset = parameters.pop("dataset", "/")
        name = dataset if isinstance(dataset, str) else "/".join(dataset)
        return CheckedArrayAdapter.from_catalog(data_source, node, dataset=name, **parameters)

    def __getitem__(self, key: str) -> Any:
        found = super().__getitem__(key)
        name = f"{self.dataset or ''}/{key.strip('/')}"
        how: Any = self._kwargs
        if isinstance(found, HDF5ArrayAdapter):
            return CheckedArrayAdapter.from_uris(*self.uris, dataset=name, **how)
        return type(self)(
            found._tree, *found.uris, dataset=found.dataset, metadata=self._metadata,
            specs=self.specs, **how,
        )  # fmt: skip


# -- raw CBF sequences -----------------------------------------------------------------------


class CBFSequenceAdapter(FileSequenceAdapter):
    """A sequence of CBF files as one array (frame, slow, fast).

    A file that is not there, not complete or must not be trusted reads as −1: its neighbours
    keep their index.
    """

    def _load_from_files(
        self,
        slice: builtins.slice | int | Iterable[int] = builtins.slice(None),  # noqa: B008
    ) -> NDArray[Any]:
        if isinstance(slice, int):
            chosen = [self.filepaths[slice]]
        elif isinstance(slice, builtins.slice):
            chosen = self.filepaths[slice]
        else:
            chosen = [self.filepaths[i] for i in slice]
        return np.stack(self._map_read(chosen))

    def _read_one(self, filepath: Any) -> NDArray[Any]:
        try:
            return read_frame(Path(filepath), number=0).counts
        except (FrameError, FileNotFoundError):
            structure = getattr(self, "_structure", None)
            if structure is None:
                raise
            return np.full(structure.shape[-2:], -1, np.int32)
