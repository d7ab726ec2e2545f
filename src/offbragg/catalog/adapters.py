"""What Tiled must be told to serve our files: per-frame rows and sequences of CBF.

*Adapters* read, in the server; *consolidators* describe, in the process that publishes
(`register_consolidators`).
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
from bluesky_tiled_plugins.writing.consolidators import (
    CONSOLIDATOR_REGISTRY,
    HDF5Consolidator,
    MultipartRelatedConsolidator,
)
from numpy.typing import NDArray
from tiled.adapters.array import ArrayAdapter
from tiled.adapters.core import Adapter
from tiled.adapters.sequence import FileSequenceAdapter
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import Asset, DataSource, Management
from tiled.structures.table import TableStructure
from tiled.utils import BrokenLink, path_from_uri

from offbragg.errors import FrameError
from offbragg.files import read_frame
from offbragg.files.scan_file import ScanFile

FRAMES_MIMETYPE = "application/x-offbragg-frames"
CBF_MIMETYPE = "multipart/related;type=image/x-cbf"
WORDS = {"status": 8, "reason": 160}  # the columns that hold text, and how long it can be


# -- one row per frame -----------------------------------------------------------------------


def frames_structure(columns: Sequence[str]) -> TableStructure:
    """Describe the table of a sweep: one row per frame.

    Parameters
    ----------
    columns
        The data keys, in order; ``seq_num``, ``time`` and a ``ts_`` column for each are added.
    """
    fields = [pa.field("seq_num", pa.int64()), pa.field("time", pa.float64())]
    fields += [pa.field(c, pa.string() if c in WORDS else pa.float64()) for c in columns]
    fields += [pa.field(f"ts_{c}", pa.float64()) for c in columns]
    return TableStructure.from_schema(pa.schema(fields))


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


class FramesConsolidator:
    """Describe the rows of a sweep, from a stream resource that points at its scan file."""

    supported_mimetypes: ClassVar[set[str]] = {FRAMES_MIMETYPE}

    def __init__(self, stream_resource: Mapping[str, Any], descriptor: Mapping[str, Any]) -> None:
        self.data_key: str = stream_resource["data_key"]
        self.metadata: dict[str, Any] = {}
        self._uri: str = stream_resource["uri"]
        self._parameters = dict(stream_resource["parameters"])
        self._columns: list[str] = self._parameters.pop("columns")

    def consume_stream_datum(self, doc: Mapping[str, Any]) -> None:
        """Nothing to do: the rows are read where they are."""

    def get_data_source(self) -> DataSource[TableStructure]:
        """Describe the table to Tiled."""
        return DataSource(
            structure_family=StructureFamily.table,
            mimetype=FRAMES_MIMETYPE,
            structure=frames_structure(self._columns),
            parameters=self._parameters,
            management=Management.external,
            assets=[Asset(data_uri=self._uri, is_directory=False, parameter="data_uri")],
        )


class GrowingStackConsolidator(HDF5Consolidator):
    """Name the dimensions of a stack that grows.

    Rows and pixels are two requests, so while the sweep lasts the rows may be some frames
    ahead; a stack that shared their dimension ``time`` could then not be read with them
    (`run["primary"].read()`). It counts in ``frame`` until it is whole, then in ``time``.
    """

    def __init__(self, stream_resource: Any, descriptor: Any) -> None:
        super().__init__(stream_resource, descriptor)
        self._n_frames: int | None = self._sres_parameters.get("n_frames")
        self._name_dimensions()

    def consume_stream_datum(self, doc: Any) -> Any:
        """Take note of more frames."""
        patch = super().consume_stream_datum(doc)
        self._name_dimensions()
        return patch

    def _name_dimensions(self) -> None:
        if self._n_frames is not None:
            whole = self._num_rows >= self._n_frames
            self.dims = ("time" if whole else "frame", "slow", "fast")


# -- raw CBF sequences -----------------------------------------------------------------------


class CBFConsolidator(MultipartRelatedConsolidator):
    """Describe a sequence of CBF files, one frame each."""

    supported_mimetypes = {CBF_MIMETYPE}  # noqa: RUF012  as the base class has it


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


def register_consolidators() -> None:
    """Let this process publish our mimetypes; calling it again changes nothing."""
    CONSOLIDATOR_REGISTRY[FRAMES_MIMETYPE] = FramesConsolidator  # type: ignore[assignment]
    CONSOLIDATOR_REGISTRY[CBF_MIMETYPE] = CBFConsolidator
    CONSOLIDATOR_REGISTRY["application/x-hdf5"] = GrowingStackConsolidator
