"""Files that appear at once and whole, and of which nothing is left if their maker is killed.

A file is made without a name where the system can do that (``O_TMPFILE``): when its maker ends, in
whatever way, it is gone. Elsewhere, as on NFS, it has a hidden name, and its maker holds a lock on
it; whoever makes the next file in that directory removes those without a lock.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

import h5py  # pyright: ignore[reportMissingTypeStubs]

from offbragg.files.durable import begin_to_sync, sync
from offbragg.files.lock import lock

_PREFIX = ".offbragg-draft-"
_BEGIN = 32 << 20  # bytes after which the disk begins to write, so that the end waits less
_NOT_HERE = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL, errno.ENOSYS)


class Draft:
    """A file without its name; made by `draft`."""

    def __init__(self, target: Path, descriptor: int, hidden: Path | None) -> None:
        self.target = target
        self.descriptor = descriptor
        self._hidden = hidden

    @property
    def path(self) -> Path:
        """A path by which this process can open it."""
        return self._hidden or Path(f"/proc/self/fd/{self.descriptor}")

    def write(self, content: bytes | memoryview) -> None:
        """Append bytes."""
        view = memoryview(content)
        while view:
            view = view[os.write(self.descriptor, view) :]

    def place(self, *, replace: bool = False) -> None:
        """Place it under its name, once it is on the disk.

        Parameters
        ----------
        replace
            In place of a file that has the name.

        Raises
        ------
        FileExistsError
            If there is one and it is not to be replaced.
        OSError
            If it cannot be written or linked.
        """
        os.fsync(self.descriptor)
        if not replace:
            self._link(self.target)
        else:
            if self._hidden is None:
                hidden = _hidden_name(self.target.parent)
                self._link(hidden)
                self._hidden = hidden
            self._hidden.replace(self.target)
            self._hidden = None
        sync(self.target.parent)

    def _link(self, name: Path) -> None:
        if self._hidden is not None:
            os.link(self._hidden, name)
            return
        folder = os.open(name.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:  # with a directory given, Python follows the link that /proc has
            os.link(self.path, name.name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            os.close(folder)

    def discard(self) -> None:
        """Forget it; what has its name stays."""
        if self._hidden is not None:
            with contextlib.suppress(OSError):
                self._hidden.unlink()


@contextlib.contextmanager
def draft(target: Path) -> Generator[Draft]:
    """Make a file that gets its name by `Draft.place`, or is gone at the end.

    Raises
    ------
    OSError
        If no file can be made in its directory.
    """
    sweep(target.parent)
    descriptor, hidden = _open(target.parent)
    made = Draft(target, descriptor, hidden)
    try:
        yield made
    finally:
        made.discard()
        os.close(descriptor)


@contextlib.contextmanager
def new_hdf5(target: Path, **options: Any) -> Generator[h5py.File]:
    """Make an HDF5 file that appears once it is whole, and never in place of another.

    Raises
    ------
    FileExistsError
        If there is a file of this name.
    OSError
        If it cannot be written.
    """
    with draft(target) as made:
        with hdf5_in(made, **options) as file:
            yield file
        made.place()


@contextlib.contextmanager
def hdf5_in(
    made: Draft, *, mode: str = "w", passing: bool = False, **options: Any
) -> Generator[h5py.File]:
    """Write HDF5 into a draft.

    HDF5 does not survive a disk that fills up: it crashes when it closes the file. So the
    failure is hidden from it: from then on nothing is written, and it is raised at the end.

    Parameters
    ----------
    made
        The draft.
    mode, options
        As h5py has them.
    passing
        It is soon written over: the disk is not asked to begin.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    sink = _Sink(made, early=not passing)
    try:
        with h5py.File(sink, mode, **options) as file:
            yield file
    except (OSError, RuntimeError, ValueError) as error:
        raise sink.failure or error from error
    finally:
        sink.close()
    if sink.failure is not None:
        raise sink.failure


class _Sink(io.FileIO):
    """Bytes for HDF5, which hears nothing of a write that fails; the disk begins on them early."""

    def __init__(self, made: Draft, *, early: bool) -> None:
        super().__init__(made.descriptor, "r+", closefd=False)
        self._early = early
        self.failure: OSError | None = None
        self._path, self._waiting = made.path, 0

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        size = len(view)
        try:
            while view and self.failure is None:
                view = view[super().write(view) :]
        except OSError as error:
            self.failure = error
        self._waiting += size
        if self._early and self._waiting >= _BEGIN:
            self._waiting = 0
            begin_to_sync(self._path)
        return size

    def truncate(self, size: int | None = None, /) -> int:
        if self.failure is None:
            try:
                return super().truncate(size)
            except OSError as error:
                self.failure = error
        return size or 0


def sweep(directory: Path) -> None:
    """Remove what those left who were killed while they made a file in a directory."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        left = [entry.path for entry in entries if entry.name.startswith(_PREFIX)]
        for path in left:
            with contextlib.suppress(OSError):
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
                try:
                    lock(descriptor)
                    Path(path).unlink()
                finally:
                    os.close(descriptor)


def _hidden_name(directory: Path) -> Path:
    return directory / f"{_PREFIX}{uuid.uuid4().hex}"


def _open(directory: Path) -> tuple[int, Path | None]:
    flag = getattr(os, "O_TMPFILE", None)
    if flag is not None and Path("/proc/self/fd").is_dir():
        try:
            descriptor = os.open(directory, flag | os.O_RDWR, 0o666)
            lock(descriptor, wait=True)  # for the moment in which it has a hidden name
            return descriptor, None
        except OSError as error:
            if error.errno not in _NOT_HERE or not directory.is_dir():
                raise
    while True:
        hidden = _hidden_name(directory)
        descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        lock(descriptor, wait=True)
        if hidden.exists():  # else somebody swept it before it was locked
            return descriptor, hidden
        os.close(descriptor)
