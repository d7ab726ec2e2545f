"""Runs as CSV tables: one file for each stream.

``primary`` of a sweep has one row for each frame, from the scan file.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from event_model import (
    EventDescriptor,
    EventPage,
    NumpyEncoder,
    RunStart,
    RunStop,
)

from offbragg.errors import ScanFileError
from offbragg.export.artifacts import fill_prefix, target
from offbragg.export.serializer import RunSerializer, write_run
from offbragg.files.scan_file import ScanFile


def export(
    gen: Iterable[tuple[str, Any]],
    directory: Any,
    file_prefix: str = "{uid}-",
    *,
    scan_file: str | Path | None = None,
) -> dict[str, list[Any]]:
    """Write one run's documents into CSV files, one for each stream.

    Parameters
    ----------
    gen, directory, file_prefix, scan_file
        As for `offbragg.export.nxsas.export`.

    Returns
    -------
    artifacts
        ``{"stream_data": [paths]}``, or the manager's.
    """
    return write_run(Serializer(directory, file_prefix, scan_file=scan_file), gen)


class Serializer(RunSerializer):
    """Write one run's documents into CSV files as they come; parameters as for `export`."""

    def __init__(
        self, directory: Any, file_prefix: str = "{uid}-", *, scan_file: str | Path | None = None
    ) -> None:
        super().__init__(directory, file_prefix, scan_file)
        self._filled = ""
        self._streams: dict[str, str] = {}  # descriptor → stream
        self._tables: dict[str, tuple[IO[str], list[str]]] = {}  # stream → file, keys

    def close(self) -> None:
        """Close the files."""
        for file, _ in self._tables.values():
            file.close()
        self._tables.clear()
        super().close()

    def start(self, doc: RunStart) -> None:
        """Fill the prefix."""
        self._filled = fill_prefix(self._prefix, doc)

    def descriptor(self, doc: EventDescriptor) -> None:
        """Begin a table at the first descriptor of a stream."""
        self._streams[doc["uid"]] = doc.get("name", "primary")

    def event_page(self, doc: EventPage) -> Any:
        """Write rows."""
        stream = self._streams[doc["descriptor"]]
        keys = list(doc["data"])
        if stream not in self._tables:
            self._begin(stream, ["seq_num", "time", *keys])
        file, head = self._tables[stream]
        if head[2:] != keys:
            keys = head[2:]
        writer = csv.writer(file)
        for row, (number, time) in enumerate(zip(doc["seq_num"], doc["time"], strict=True)):
            values = [doc["data"].get(key, [""] * (row + 1))[row] for key in keys]
            writer.writerow([number, repr(float(time)), *(_cell(value) for value in values)])

    def stop(self, doc: RunStop) -> None:
        """Write the frames' table and close."""
        if self._scan_file is not None and "primary" not in self._tables:
            with ScanFile.open(self._scan_file) as scan:
                columns = scan.frame_values()
            self._begin("primary", list(columns))
            writer = csv.writer(self._tables["primary"][0])
            for row in zip(*columns.values(), strict=True):
                writer.writerow([_cell(value) for value in row])
        self.close()

    def _begin(self, stream: str, head: list[str]) -> None:
        where = target(self._manager, "stream_data", f"{self._filled}{stream}.csv", mode="x")
        try:
            file: IO[str] = where
            if isinstance(where, Path):
                file = where.open("x", newline="", encoding="utf-8")
        except OSError as error:
            raise ScanFileError(f"{where} cannot be created: {error}") from error
        self._tables[stream] = file, head
        csv.writer(file).writerow(head)


def _cell(value: object) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return "" if np.isnan(value) else repr(value)
    if isinstance(value, Mapping | list | tuple | np.ndarray):
        return json.dumps(value, cls=NumpyEncoder)
    return value
