"""How much a request to the catalog may read: counted before anything is read.

Tiled counts the bytes of an answer too, but once they are in memory, and those of a container
never. So each adapter gets another one before it, which knows what will be read from shapes alone.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from typing import Any

from fastapi import HTTPException
from pyarrow.parquet import read_metadata
from tiled.adapters.parquet import ParquetDatasetAdapter
from tiled.adapters.sequence import FileSequenceAdapter
from tiled.adapters.sql import SQLAdapter
from tiled.ndslice import NDSlice
from tiled.structures.array import ArrayStructure
from tiled.structures.core import StructureFamily

from offbragg.errors import DamagedFrame, ScanFileError
from offbragg.files.stored_sweep import TORN
from offbragg.printable import printable

ANSWER = 300_000_000  # bytes that one request may read
AT_ONCE = 1_000_000_000  # and all that are being answered, together
WRITTEN_OUT = 10  # so many times as much memory is needed for text and pictures

_TORN = (
    "Where these frames are is damaged in their file, as when a kill tears a write. A stacker that "
    "is started again makes the file anew; for a run that is over, offbragg stack --once --repair "
    "does. Ask then."
)
_lock = threading.Lock()
_together = 0  # bytes, of all requests


class _Request:
    """What one request has read, or is about to."""

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
    """Say how many bytes are about to be read for the request that is being answered.

    Raises
    ------
    HTTPException
        With status 400 if one request may not read as much; 503 if all together read too much.
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
                f"Requests that are being answered read {_together:,} bytes. Ask again later.",
                headers={"retry-after": "5"},
            )
        _together += count
        request.bytes += count


class CountedAdapter:
    """Stands before an adapter of Tiled, and counts what is about to be read.

    Parameters
    ----------
    adapter
        Of an array, a table, or a container of these.
    kept
        What stays open as long as there is something to read.
    """

    def __init__(self, adapter: Any, kept: Any = None) -> None:
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

    def get(self, key: str, *default: Any) -> Any:
        """Give what a container, or a table, holds."""
        if self._adapter.structure_family == StructureFamily.table:
            about_to_read(_table_bytes(self._adapter, [key]))
        found = self._adapter.get(key, *default)
        return None if found is None else CountedAdapter(found, self._kept)

    def items(self) -> list[tuple[str, Any]]:
        """Give all that a container holds."""
        return [(key, CountedAdapter(value, self._kept)) for key, value in self._adapter.items()]

    def read(self, *args: Any, **kwargs: Any) -> Any:
        """Read a slice of an array, or columns of a table."""
        structure = self._adapter.structure()
        if isinstance(structure, ArrayStructure):
            asked = NDSlice(args[0] if args else kwargs.get("slice", ...))
            about_to_read(_array_bytes(structure, _shape(structure.shape, asked)))
            with _damage_told():
                return self._adapter.read(*args, **kwargs)
        if self._adapter.structure_family == StructureFamily.table:
            return self._read_table(self._adapter.read, *args, **kwargs)
        read = self._adapter.read(*args, **kwargs)
        return CountedAdapter(read, self._kept) if hasattr(read, "structure_family") else read

    def read_block(self, block: Any, slice: NDSlice = NDSlice(...)) -> Any:  # noqa: B008
        """Read a block of an array, or a slice of it."""
        structure = self._adapter.structure()
        shape = block.shape_from_chunks(structure.chunks)
        if not isinstance(self._adapter, FileSequenceAdapter):  # which reads all of it
            shape = _shape(shape, slice)
        about_to_read(_array_bytes(structure, shape))
        with _damage_told():
            return self._adapter.read_block(block, slice)

    def read_partition(self, partition: int, fields: Sequence[str] | None = None) -> Any:
        """Read a part of a table."""
        return self._read_table(self._adapter.read_partition, partition, fields)

    def _read_table(self, read: Any, *args: Any, **kwargs: Any) -> Any:
        fields = args[-1] if args else kwargs.get("fields")
        about_to_read(_table_bytes(self._adapter, fields))
        rows = read(*args, **kwargs)
        about_to_read(int(rows.memory_usage(deep=True).sum()))  # text has any length
        return rows


@contextmanager
def _damage_told() -> Iterator[None]:
    try:
        yield
    except DamagedFrame as error:
        raise HTTPException(
            503,
            f"Frame {error.number} is damaged in its scan file: its chunk does not have the "
            "checksum with which it was stored. The other frames can be read without it. If its "
            "frame file is still there, offbragg stack --once --repair stores it again.",
            headers={"retry-after": "60"},
        ) from error
    except ScanFileError as error:
        if TORN not in str(error):  # what its filters would make of a chunk
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


def _shape(shape: tuple[int, ...], asked: NDSlice) -> tuple[int, ...]:
    try:
        return asked.shape_after_slice(shape)
    except ValueError as error:
        raise HTTPException(400, f"there is no such slice: {error}") from error


def _array_bytes(structure: ArrayStructure, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * structure.data_type.to_numpy_dtype().itemsize


def _table_bytes(adapter: Any, fields: Sequence[str] | None) -> int:
    """Guess how large a table is, as far as it can be known before."""
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
