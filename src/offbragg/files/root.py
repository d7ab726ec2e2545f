"""A directory below which files are kept: it may go, and what is then made there is lost."""

from __future__ import annotations

import os
from pathlib import Path

from offbragg.errors import ScanFileError


class Root:
    """A directory that was there once, and the disk that it was on.

    Whoever makes folders below a root that has gone makes them on another disk, and they are
    hidden when the right one is mounted again.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._mount: Path | None = None
        self.trouble()

    def trouble(self) -> str:
        """Say what is wrong with it, or nothing.

        One that was never there is only "not there"; one that has been is to be on its disk.
        """
        if not self.path.is_dir():
            return "is not there"
        mount = mount_of(self.path)
        if self._mount is not None and mount in self._mount.parents:
            return f"is not on its disk: {self._mount} is not mounted"
        self._mount = mount
        return ""

    def check(self) -> None:
        """Refuse to go on if it was there and is not.

        Raises
        ------
        ScanFileError
            With the directory.
        """
        known = self._mount is not None
        if (trouble := self.trouble()) and known:
            raise ScanFileError(f"{self.path} {trouble}\nIt was. Mount or mend that disk.")


def mount_of(path: Path) -> Path:
    """Give the mount point of the disk that a directory is on."""
    here = path.resolve()
    while here != here.parent and not os.path.ismount(here):
        here = here.parent
    return here
