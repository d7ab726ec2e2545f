"""How Tiled's server reads our rows: one per frame, from the scan file.

`consolidators` describes them to it, in the process that publishes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tiled.adapters.array import ArrayAdapter
from tiled.adapters.core import Adapter
from tiled.structures.core import Spec, StructureFamily
from tiled.structures.data_source import DataSource
from tiled.structures.table import TableStructure
from tiled.type_aliases import JSON
from tiled.utils import BrokenLink, path_from_uri

from offbragg.catalog.readable import Readable
from offbragg.files.frame_columns import PUBLISHED_TEXT
from offbragg.files.scan_file import ScanFile


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
        Number of frames that are settled: only these have rows.
    started
        When the run was opened, POSIX s.
    period
        Time from the start of one frame to the start of the next, s.

    Returns
    -------
    rows
        ``seq_num`` (number + 1), ``time``, the data keys, and their time stamps. A frame that
        never came has the time when it was due: documents are sorted by time.

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
                count,
                "" if column in PUBLISHED_TEXT else np.nan,
                object if column in PUBLISHED_TEXT else float,
            )
            continue
        value = values[column][:count]
        if column in PUBLISHED_TEXT:
            texts = [t.decode("utf-8", "replace") if isinstance(t, bytes) else t for t in value]
            rows[column] = np.array(texts, dtype=object)
        else:
            rows[column] = value.astype(np.float64)
    rows.update({f"ts_{column}": times for column in columns})
    return pd.DataFrame(rows)


def times_when_due(
    times: NDArray[np.float64], *, started: float, period: float
) -> NDArray[np.float64]:
    """Fill unknown times from known ones, with one frame every `period`."""
    numbers = np.arange(times.size)
    known = np.flatnonzero(np.isfinite(times))
    if not known.size:
        return started + period * numbers.astype(np.float64)
    before = known[np.clip(np.searchsorted(known, numbers, "right") - 1, 0, None)]
    due = times[before] + period * (numbers - before)
    return np.where(np.isfinite(times), times, due).astype(np.float64)


class FramesAdapter(Adapter[TableStructure]):
    """The rows of a sweep, read from its scan file at each request, also while it grows.

    The scan file is the one source of truth: nothing is copied into the catalog, and a frame that
    comes late changes its row.
    """

    structure_family = StructureFamily.table
    readable: ClassVar[Readable]

    @classmethod
    def of(cls, readable: Readable) -> type[Self]:
        """Return an adapter class for files that lie where they may be read."""
        bound = {"readable": readable}
        return cast("type[Self]", type(cls.__name__, (cls,), bound))

    def __init__(
        self,
        path: Path,
        structure: TableStructure,
        *,
        started: float,
        period: float,
        metadata: JSON | None = None,
        specs: list[Spec] | None = None,
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
        """Read the rows of every frame that is settled and whose pixels can be read too."""
        columns = [c for c in self._structure.columns[2:] if not c.startswith("ts_")]
        with self._open() as scan:
            count = min(scan.ledger.settled(), scan.length)
            values = scan.frame_values()
        rows = frame_rows(values, columns, count=count, started=self._started, period=self._period)
        return rows if fields is None else rows.loc[:, list(fields)]

    def bytes_to_read(self) -> int:
        """Return the number of bytes of the scan file that `read` reads."""
        with self._open() as scan:
            return scan.values_size

    def _open(self) -> ScanFile:
        try:
            descriptor = self.readable.open(self._path)
        except FileNotFoundError as error:
            raise BrokenLink(f"the scan file is missing: {self._path.name}") from error
        try:
            return ScanFile.open(self._path, descriptor=descriptor)
        finally:
            os.close(descriptor)

    def read_partition(self, partition: int, fields: Sequence[str] | None = None) -> pd.DataFrame:
        """Read the only partition."""
        if partition != 0:
            raise IndexError(partition)
        return self.read(fields)

    def __getitem__(self, key: str) -> ArrayAdapter:
        return ArrayAdapter.from_array(self.read([key])[key].to_numpy())

    def get(self, key: str) -> ArrayAdapter | None:
        """Return one column as an array, or None if the table does not have it."""
        return self[key] if key in self._structure.columns else None

    def items(self) -> Iterator[tuple[str, ArrayAdapter]]:
        """Return every column as an array."""
        yield from ((key, self[key]) for key in self._structure.columns)
