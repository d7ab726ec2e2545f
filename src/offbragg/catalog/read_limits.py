"""Limit how much a request to the catalog may read: bytes are counted before anything is read.

Tiled counts the bytes of an answer too, but only when they are in memory, and never those of a
container. So each adapter is wrapped in one that knows from shapes alone what will be read.
"""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from fastapi import HTTPException
from pyarrow.parquet import read_metadata, write_table
from tiled.adapters.parquet import ParquetDatasetAdapter
from tiled.adapters.sequence import FileSequenceAdapter
from tiled.adapters.sql import SQLAdapter
from tiled.ndslice import NDBlock, NDSlice
from tiled.structures.array import ArrayStructure
from tiled.structures.core import StructureFamily
from tiled.structures.table import TableStructure

from offbragg.errors import DamagedFrame, ScanFileError
from offbragg.files.stored_sweep import TORN
from offbragg.printable import printable
from offbragg.private_parts import PrivatePart, examine

ANSWER = 300_000_000  # bytes that one request may read
AT_ONCE = 1_000_000_000  # bytes that all requests being answered may read together
WRITTEN_OUT = 10  # factor for text and pictures, which need more memory than the array

_TORN = (
    "The frame index of this scan file is corrupt (a process was killed during a write). Restart "
    "offbragg stack: it rebuilds the file. For a run that has ended, stack --once --repair "
    "rebuilds it. Ask again after that."
)
_lock = threading.Lock()
_together = 0  # bytes of all requests that are being answered


class _Request:
    """The number of bytes that one request has read, or is about to read."""

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.bytes = 0


_request: ContextVar[_Request | None] = ContextVar("_request", default=None)


@contextmanager
def answering(*, written_out: bool = False) -> Iterator[None]:
    """Count what is read for one request, until its answer is sent.

    Parameters
    ----------
    written_out
        Whether the answer will be text or a picture.
    """
    global _together
    request = _Request(WRITTEN_OUT if written_out else 1)
    token = _request.set(request)
    try:
        yield
    finally:
        _request.reset(token)
        with _lock:
            _together -= request.bytes


def about_to_read(count: int) -> None:
    """Count bytes that are about to be read for the request that is being answered.

    Raises
    ------
    HTTPException
        With status 400 if one request must not read that much; 503 if all requests together do.
    """
    global _together
    request = _request.get()
    if request is None:
        return
    count *= request.weight
    with _lock:
        if request.bytes + count > ANSWER:
            times = f", {request.weight} times for text or a picture" * (request.weight > 1)
            raise HTTPException(
                400,
                f"This would be {request.bytes + count:,} bytes{times}; one request may read "
                f"{ANSWER:,}. Ask for a smaller slice, fewer columns, or one node of a container.",
            )
        if _together + count > AT_ONCE:
            raise HTTPException(
                503,
                f"The requests being answered read {_together:,} bytes already. Ask again later.",
                headers={"retry-after": "5"},
            )
        _together += count
        request.bytes += count


class CountedAdapter:
    """Wraps an adapter of Tiled, and counts what is about to be read.

    Parameters
    ----------
    adapter
        The adapter of an array, a table, or a container of these.
    kept
        An object that keeps files open as long as there is something to read.
    """

    def __init__(self, adapter: Any, kept: object = None) -> None:
        self._adapter = adapter
        self._kept = kept

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._adapter, name)

    def __getitem__(self, key: str) -> Any:
        return CountedAdapter(self._adapter[key], self._kept)

    def __iter__(self) -> Iterator[str]:
        return iter(self._adapter)

    def __len__(self) -> int:
        return len(self._adapter)

    def get(self, key: str, *default: object) -> Any:
        """Return an item of a container, or a column of a table; None: there is none."""
        if not hasattr(self._adapter, "get"):  # an array
            return None
        if self._adapter.structure_family == StructureFamily.table:
            about_to_read(_table_bytes(self._adapter, [key]))
        found = self._adapter.get(key, *default)
        return None if found is None else CountedAdapter(found, self._kept)

    def items(self) -> list[tuple[str, Any]]:
        """Return all items of a container."""
        return [(key, CountedAdapter(value, self._kept)) for key, value in self._adapter.items()]

    def read(self, *args: Any, **kwargs: Any) -> Any:
        """Read a slice of an array, or columns of a table."""
        structure = self._adapter.structure()
        if isinstance(structure, ArrayStructure):
            asked = args[0] if args else kwargs.get("slice", ...)
            if type(asked) is tuple:  # only Tiled's Zarr asks so
                _refuse_outside(structure.shape, asked)
            asked = NDSlice(asked)
            about_to_read(_array_bytes(structure, _shape(structure.shape, asked)))
            with refusing_damaged():
                return self._adapter.read(*args, **kwargs)
        if self._adapter.structure_family == StructureFamily.table:
            return self._read_table(self._adapter.read, *args, **kwargs)
        read = self._adapter.read(*args, **kwargs)
        return CountedAdapter(read, self._kept) if hasattr(read, "structure_family") else read

    def read_block(self, block: NDBlock, slice: NDSlice = NDSlice(...)) -> Any:  # noqa: B008
        """Read a block of an array, or a slice of it."""
        structure = self._adapter.structure()
        shape = block.shape_from_chunks(structure.chunks)
        if not isinstance(self._adapter, FileSequenceAdapter):  # this one reads the whole block
            shape = _shape(shape, slice)
        about_to_read(_array_bytes(structure, shape))
        with refusing_damaged():
            return self._adapter.read_block(block, slice)

    def read_partition(self, partition: int, fields: Sequence[str] | None = None) -> Any:
        """Read a part of a table."""
        return self._read_table(self._adapter.read_partition, partition, fields)

    def _read_table(self, read: Callable[..., pd.DataFrame], *args: Any, **kwargs: Any) -> Any:
        fields = args[-1] if args else kwargs.get("fields")
        about_to_read(_table_bytes(self._adapter, fields))
        rows = read(*args, **kwargs)
        about_to_read(int(rows.memory_usage(deep=True).sum()))  # texts may have any length
        return rows


@contextmanager
def refusing_damaged() -> Iterator[None]:
    """Answer with 503 and what to do if what is read within a ``with`` is damaged."""
    try:
        yield
    except DamagedFrame as error:
        if error.adopted:
            raise HTTPException(
                410,
                f"Frame {error.number} lies in a file of others, which is not there any more, may "
                "not be read here, or has changed since it was adopted. The other frames can be "
                "read without it. Put the file back, or adopt it again.",
            ) from error
        raise HTTPException(
            503,
            f"Frame {error.number} is damaged in its scan file: its chunk does not have the "
            "checksum with which it was stored. The other frames can be read without it. If its "
            "frame file still exists, offbragg stack --once --repair stores it again.",
            headers={"retry-after": "60"},
        ) from error
    except ScanFileError as error:
        if TORN not in str(error):  # the filters of a chunk
            raise HTTPException(503, printable(str(error).partition("\n")[0])) from error
        raise HTTPException(503, _TORN, headers={"retry-after": "5"}) from error
    except (OSError, RuntimeError) as error:
        if "filter" in str(error) or "Fletcher32" in str(error):
            raise HTTPException(
                503, "This part of the array is damaged in its file: HDF5 cannot decode it."
            ) from error
        if "checksum" not in str(error):
            raise
        raise HTTPException(503, _TORN, headers={"retry-after": "5"}) from error


def _refuse_outside(shape: tuple[int, ...], chunk: tuple[Any, ...]) -> None:
    """Refuse a chunk of Zarr behind the end: Tiled would fill all up to its end with zeros."""
    firsts = [each.start or 0 if isinstance(each, slice) else 0 for each in chunk]
    if any(first >= max(n, 1) for n, first in zip(shape, firsts, strict=False)):
        raise IndexError(f"no cell of {shape} lies in {chunk}")


def _shape(shape: tuple[int, ...], asked: NDSlice) -> tuple[int, ...]:
    try:
        return asked.shape_after_slice(shape)
    except ValueError as error:
        raise HTTPException(400, f"this slice is not valid: {error}") from error


def _array_bytes(structure: ArrayStructure, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * structure.data_type.to_numpy_dtype().itemsize


def _table_bytes(adapter: Any, fields: Sequence[str] | None) -> int:
    """Return the size of a table in bytes, as far as it can be known before reading."""
    if isinstance(adapter, SQLAdapter):
        with closing(adapter.storage.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(
                f'SELECT COUNT(*) FROM "{adapter.table_name}" '
                f"WHERE _dataset_id={int(adapter.dataset_id)}"
            )
            (rows,) = cursor.fetchone() or (0,)
            connection.commit()
        return 8 * rows * len(fields or adapter.structure().columns)
    if isinstance(adapter, ParquetDatasetAdapter):
        paths = [path for path in adapter._partition_paths if path.exists()]
        rows = sum(read_metadata(path).num_rows for path in paths)
        return 8 * rows * len(fields or adapter.structure().columns)
    expected = getattr(adapter, "bytes_to_read", None)
    return expected() if expected is not None else 0


def is_countable(adapter: object) -> bool:
    """Return whether the size of a table can be known before it is read."""
    known = isinstance(adapter, SQLAdapter | ParquetDatasetAdapter)
    return known or hasattr(adapter, "bytes_to_read")


def self_test() -> PrivatePart:
    """Return whether the size of Tiled's tables is known before they are read."""
    return examine("tiled", "tables counted before they are read", _count_table, guards=True)


def _count_table() -> None:
    """Count the bytes of a table in a Parquet file."""
    table = pa.table({"a": [1.0, 2.0, 3.0]})
    with tempfile.TemporaryDirectory(prefix="offbragg-") as folder:
        path = Path(folder) / "probe.parquet"
        write_table(table, path)
        adapter = ParquetDatasetAdapter([path.as_uri()], TableStructure.from_arrow_table(table))
        if _table_bytes(adapter, None) != 24:
            raise ValueError("a table is counted with another size")
