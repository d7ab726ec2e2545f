"""Open files for the catalog's server: only regular files below its roots, whatever their names.

A path that was checked is not what is opened: in between somebody may replace it by a symbolic
link. So what is read is always a descriptor that `open_below` returned.
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
        Their paths; symbolic links in these are followed once, now.
    """

    def __init__(self, roots: Iterable[Path]) -> None:
        self._roots = tuple(root.resolve() for root in roots)

    def real(self, path: Path) -> Path:
        """Return the real path of a file below one of the roots, with every symbolic link followed.

        Raises
        ------
        CatalogError
            If it does not lie below a root.
        """
        return self._place(path)[1]

    def open(self, path: Path) -> int:
        """Open a file.

        Returns
        -------
        descriptor
            An open regular file below one of the roots; the caller closes it.

        Raises
        ------
        CatalogError
            If the path leads out, or not to a regular file, at the moment of opening.
        FileNotFoundError
            If it is missing.
        """
        root, real = self._place(path)
        try:
            return open_below(root, real.relative_to(root))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise CatalogError(f"{shown(path.name)} is not read: {error.strerror}") from error

    def read(self, path: Path, *, most: int) -> bytes:
        """Read a whole file.

        Raises
        ------
        CatalogError, FileNotFoundError
            As `open` does; a CatalogError also if the file has more than ``most`` bytes.
        """
        with os.fdopen(self.open(path), "rb") as file:
            check_size(path, os.fstat(file.fileno()).st_size, most)
            return file.read(most)

    def _place(self, path: Path) -> tuple[Path, Path]:
        try:
            real = path.resolve()
        except (OSError, ValueError, RuntimeError) as error:  # a loop, a null byte
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise CatalogError(f"{shown(path.name)} is not read: {reason}") from error
        for root in self._roots:
            if real.is_relative_to(root):
                return root, real
        raise CatalogError(f"{shown(path.name)} is not read: it leads out of what may be served")


def check_size(path: Path, size: int, most: int) -> None:
    """Refuse a file that is too large for one request.

    Raises
    ------
    CatalogError
        With its size and the limit, bytes.
    """
    if size > most:
        raise CatalogError(
            f"{shown(path.name)} is not read: it has {size:,} bytes, and one request may read "
            f"{most:,} bytes"
        )


def shown(name: object) -> str:
    """Return a name in a form that is safe in a message."""
    return printable(name if isinstance(name, str) else str(name))
