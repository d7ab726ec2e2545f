"""What every export does: it is open while the documents of one run come."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from event_model import SingleRunDocumentRouter

from offbragg.export.artifacts import manager_of


class RunSerializer(SingleRunDocumentRouter):
    """Write one run's documents as they come; a context that closes its files.

    Parameters
    ----------
    directory
        Directory for the files (created if missing), or a manager as in suitcase-utils.
    file_prefix
        Beginning of each file's name, filled from the start document, as ``"{uid}-"``.
    scan_file
        The run's scan file, if there is one.
    """

    def __init__(self, directory: Any, file_prefix: str, scan_file: str | Path | None) -> None:
        super().__init__()
        self._manager = manager_of(directory)
        self._prefix = file_prefix
        self._scan_file = Path(scan_file) if scan_file is not None else None

    @property
    def artifacts(self) -> dict[str, list[Any]]:
        """Label → files that were made."""
        return self._manager.artifacts

    def close(self) -> None:
        """Close the files."""
        self._manager.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_run(serializer: RunSerializer, gen: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    """Feed one run to a serializer and close it; return its artifacts."""
    with serializer:
        for name, doc in gen:
            serializer(name, doc)
    return serializer.artifacts
