"""A directory below which files are kept: it may go, and nothing is opened that lies elsewhere."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path, PurePath

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
        """Return what is wrong with it; empty if nothing is.

        If it has been there before, its disk must be mounted, too.
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
            raise ScanFileError(
                f"{self.path} {trouble}\nIt was there before. Mount or repair that disk."
            )


def mount_of(path: Path) -> Path:
    """Return the mount point of the disk that a directory is on."""
    here = path.resolve()
    while here != here.parent and not os.path.ismount(here):
        here = here.parent
    return here


def _flags(*names: str) -> int:
    """Return how to open for reading; Windows does not know all of it."""
    return sum((getattr(os, name, 0) for name in names), start=os.O_RDONLY)


TO_READ = _flags("O_NONBLOCK", "O_CLOEXEC", "O_BINARY")  # who opens a pipe waits
_FILE = TO_READ | _flags("O_NOFOLLOW")
_OPEN_FILES = ("/proc/self/fd", "/dev/fd")
_DIRECTORY = _flags("O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC")


def open_below(root: Path, relative: PurePath) -> int:
    """Open a regular file below a directory for reading, and follow no symbolic link on the way.

    A path that is checked and then opened may be another one by then. Here each directory is
    opened in the one before, so that whatever was opened lies below the root.

    Parameters
    ----------
    root
        The directory; its own path may hold links.
    relative
        The way from there, without ``..``.

    Returns
    -------
    descriptor
        Of the file, to be closed by the caller.

    Raises
    ------
    OSError
        ELOOP or ENOTDIR for a symbolic link, EXDEV for ``..`` and absolute paths, EINVAL for what
        is not a regular file, and whatever else the system says.
    """
    parts = relative.parts
    if relative.is_absolute() or ".." in parts or not parts:
        raise OSError(errno.EXDEV, "not a path below", str(root))
    here = os.open(root, _flags("O_DIRECTORY", "O_CLOEXEC"))
    try:
        for part in parts[:-1]:
            below = os.open(part, _DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
        found = os.open(parts[-1], _FILE, dir_fd=here)
    finally:
        os.close(here)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(root / relative))
    except BaseException:
        os.close(found)
        raise
    return found


def path_behind(descriptor: int) -> Path:
    """Return where the file lies that a descriptor has open, every link followed.

    Raises
    ------
    OSError
        If this system does not say it.
    """
    if sys.platform == "darwin":  # it has no /proc
        import fcntl

        found = fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024))
        return Path(os.fsdecode(found.rstrip(b"\0")))
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115


def can_open_again() -> bool:
    """Return whether this system has a path for what is open, see `path_of`; Windows has none."""
    return any(Path(directory).exists() for directory in _OPEN_FILES)


def path_of(descriptor: int) -> Path:
    """Return a path that leads to what a descriptor has open, whatever its name leads to now.

    Raises
    ------
    OSError
        If this system has none.
    """
    for directory in _OPEN_FILES:
        path = Path(directory, str(descriptor))
        if path.exists():
            return path
    raise OSError(errno.ENOSYS, "neither /proc nor /dev/fd is mounted")
