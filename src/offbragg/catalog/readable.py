"""What the catalog's server may open: regular files below its roots, whatever their names say.

A path is not what was opened: between a look at it and the opening somebody may put a symbolic
link in its place. So what is read is always a descriptor that `open_below` gave.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from offbragg.errors import CatalogError
from offbragg.files.root import open_below
from offbragg.printable import printable


class Readable:
    """The directories below which files may be read.

    Parameters
    ----------
    roots
        Their paths; what these lead to now is what counts from now on.
    """

    def __init__(self, roots: Iterable[Path]) -> None:
        self._roots = tuple(root.resolve() for root in roots)

    def real(self, path: Path) -> Path:
        """Return the real path of a file, which lies below one of the roots.

        Raises
        ------
        CatalogError
            If it does not, with every symbolic link on the way followed.
        """
        return self._place(path)[1]

    def open(self, path: Path) -> int:
        """Open a file.

        Returns
        -------
        descriptor
            Of a regular file that lies below one of the roots, to be closed by the caller.

        Raises
        ------
        CatalogError
            If the path leads out, or to what is not a file, also if only just now.
        FileNotFoundError
            If nothing is there.
        """
        root, real = self._place(path)
        try:
            return open_below(root, real.relative_to(root))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise CatalogError(f"{shown(path)} is not read: {error.strerror}") from error

    def read(self, path: Path, *, most: int) -> bytes:
        """Read a whole file.

        Raises
        ------
        CatalogError, FileNotFoundError
            As `open` does, and if it has more bytes than ``most``.
        """
        with os.fdopen(self.open(path), "rb") as file:
            check_size(path, os.fstat(file.fileno()).st_size, most)
            return file.read(most)

    def _place(self, path: Path) -> tuple[Path, Path]:
        try:
            real = path.resolve()
        except (OSError, ValueError, RuntimeError) as error:  # a loop, a null byte
            raise CatalogError(f"{shown(path)} is not read: {error}") from error
        for root in self._roots:
            if real.is_relative_to(root):
                return root, real
        raise CatalogError(f"{shown(path)} is not read: it leads out of what may be served")


def check_size(path: Path, size: int, most: int) -> None:
    """Refuse a file that one request may not read as a whole.

    Raises
    ------
    CatalogError
        With its size and the limit, bytes.
    """
    if size > most:
        raise CatalogError(
            f"{shown(path)} is not read: it has {size:,} bytes, and the most that one "
            f"request may read are {most:,}"
        )


def shown(name: object) -> str:
    """Return a name as it may stand in a message."""
    return printable(name if isinstance(name, str) else str(name))
