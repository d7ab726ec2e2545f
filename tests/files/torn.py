"""A scan file as a kill in the middle of a write leaves it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_PAGE = 4096  # bytes: between two pages Linux may end a write


def tear(path: Path, write_more: Callable[[], None]) -> None:
    """Let HDF5 write more frames, of which only the first page of the index reaches the file.

    The frames' bytes are there, and nothing of the ledger: so it is when the kill comes while the
    index is written. The index must be longer than a page: that of some hundred frames.
    """
    before = path.read_bytes()
    write_more()
    after = path.read_bytes()
    index = before.index(b"FADB")
    changed = next(n for n in range(index, len(before)) if before[n] != after[n])
    border = (changed // _PAGE + 1) * _PAGE
    left = before[:index] + after[index:border] + before[border:] + after[len(before) :]
    path.write_bytes(left)
