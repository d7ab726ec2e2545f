"""The journal of a run that nobody measured here: all of it, at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from offbragg.errors import JournalError
from offbragg.files.draft import draft
from offbragg.files.durable import make_directory
from offbragg.files.journal_line import encode_line


def write_whole_journal(path: Path, documents: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """Write a journal that appears once it is whole, and never in place of another.

    Parameters
    ----------
    path
        The journal.
    documents
        Name and document, from start to stop.

    Raises
    ------
    FileExistsError
        If there is one of this name.
    JournalError
        If it cannot be written.
    """
    try:
        make_directory(path.parent)
        with draft(path) as made:
            for name, document in documents:
                made.write(encode_line(name, document))
            made.place()
    except FileExistsError:
        raise
    except OSError as error:
        raise JournalError(f"the journal {path} cannot be written: {error.strerror}") from error
