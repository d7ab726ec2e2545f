"""A file that arrives piece by piece in a draft beside its name, and gets its name once whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
from pathlib import Path

from offbragg.errors import MetadataError, TransferError
from offbragg.files.durable import make_directory
from offbragg.sample import check_component

_LONGEST_NAME = 180  # characters; the draft's name is longer, and a file system takes 255
_DEEPEST = 16
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOCK = 1 << 20
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_IN_THE_WAY = (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)  # EMLINK: a link, for FreeBSD
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class Tree:
    """A directory in which names that came from elsewhere are opened, and none leads out of it.

    Each directory on the way is opened in the one before, and no symbolic link is followed.

    Parameters
    ----------
    root
        The directory; made if need be.
    """

    def __init__(self, root: Path) -> None:
        make_directory(root)
        self.root = root.resolve()
        self._synced: set[tuple[str, ...]] = set()

    def split(self, name: str) -> tuple[tuple[str, ...], str]:
        """Return the directories and the last part of a name.

        Raises
        ------
        TransferError
            If a part of it is not a plain name.
        """
        parts = name.split("/")
        try:
            if len(parts) > _DEEPEST:
                raise MetadataError(f"the name of a file has {len(parts)} parts")
            for part in parts:
                check_component(part, f"a part of the file name {name[:60]!r}",
                                longest=_LONGEST_NAME)  # fmt: skip
        except MetadataError as error:
            raise TransferError(str(error)) from None
        return tuple(parts[:-1]), parts[-1]

    def open_directory(self, parts: tuple[str, ...], *, make: bool) -> int:
        """Open a directory below the root; the names on the way are on the disk if it is made.

        Raises
        ------
        TransferError
            If one on the way is a link or a file.
        FileNotFoundError
            If one is missing and is not to be made.
        OSError
            If it cannot be opened or made now.
        """
        here = os.open(self.root, _DIRECTORY)
        try:
            for depth, part in enumerate(parts, start=1):
                if make and parts[:depth] not in self._synced:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, dir_fd=here)
                    os.fsync(here)
                    self._synced.add(parts[:depth])
                below = os.open(part, _DIRECTORY, dir_fd=here)
                os.close(here)
                here = below
        except OSError as error:
            os.close(here)
            if isinstance(error, FileNotFoundError):
                self._synced.clear()  # somebody removed it
                raise
            if error.errno not in _IN_THE_WAY:
                raise  # a disk that is full, and its kind: not for ever
            place = "/".join(parts)
            raise TransferError(f"{place!r} cannot be opened below {self.root}: {error.strerror}: "
                                "it is a link or a file") from error  # fmt: skip
        return here

    def find(self, name: str) -> tuple[int, int] | None:
        """Return an open descriptor and the size of a file; None if it is not there.

        Raises
        ------
        TransferError
            If it is not a regular file, or leads out of the directory.
        """
        parts, last = self.split(name)
        try:
            directory = self.open_directory(parts, make=False)
        except FileNotFoundError:
            return None
        try:
            descriptor = os.open(last, os.O_RDONLY | _NO_LINK, dir_fd=directory)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise
            raise TransferError(f"{name!r} is a link below {self.root}") from error
        else:
            os.fsync(directory)  # whoever gave it its name may have died before this
        finally:
            os.close(directory)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise TransferError(f"{name!r} is not a file below {self.root}: it is kept")
        return descriptor, status.st_size

    def has(self, name: str, size: int, sha256: str) -> bool:
        """Return whether a file is there.

        Parameters
        ----------
        name, size, sha256
            What it is called and contains; with an empty checksum its size is compared alone: it
            was checked when it got its name, and is never written over.

        Raises
        ------
        TransferError
            If there is another one of this name.
        """
        found = self.find(name)
        if found is None:
            return False
        descriptor, length = found
        with os.fdopen(descriptor, "rb") as file:
            if length == size and not sha256:
                return True
            if length == size and hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                return True
        raise TransferError(f"another file is called {name!r} below {self.root}: it is kept")


class ArrivingFile:
    """A draft of a file, and how far it came.

    Parameters
    ----------
    tree
        Where it goes.
    name, size, sha256
        What was offered. What an earlier draft of the same content holds is kept.

    Raises
    ------
    TransferError
        If it cannot be taken under this name.
    OSError
        If it cannot be written.
    """

    def __init__(self, tree: Tree, name: str, size: int, sha256: str) -> None:
        if not _SHA256.fullmatch(sha256):
            raise TransferError(f"the SHA-256 of {name!r} is not one: {sha256[:70]!r}")
        self.name, self.size, self.position = name, size, 0
        self._sha256 = sha256
        parts, self._last = tree.split(name)
        self._draft = f".{self._last}.{sha256[:16]}.part"
        self._directory = tree.open_directory(parts, make=True)
        self._descriptor = -1
        try:
            flags = os.O_RDWR | os.O_CREAT | _NO_LINK
            self._descriptor = os.open(self._draft, flags, 0o666, dir_fd=self._directory)
            self._hash = hashlib.sha256()
            while block := os.read(self._descriptor, _BLOCK):
                self._hash.update(block)
                self.position += len(block)
            if self.position > size:
                self.restart()
        except BaseException:
            self.close()
            raise

    @property
    def is_whole(self) -> bool:
        """Whether all of its bytes are there."""
        return self.position == self.size

    @property
    def is_right(self) -> bool:
        """Whether they have the checksum that was offered."""
        return self._hash.hexdigest() == self._sha256

    def add(self, content: bytes) -> None:
        """Append bytes.

        Raises
        ------
        OSError
            If they cannot be written; what was written of them is read again when it is resumed.
        """
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self._hash.update(content)
        self.position += len(content)

    def restart(self) -> None:
        """Forget all of it: what came is wrong."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._hash, self.position = hashlib.sha256(), 0

    def place(self) -> None:
        """Place it under its name, its content being on the disk; then call `sync_name`.

        Raises
        ------
        TransferError
            If another file has the name by now.
        OSError
            If it cannot be written.
        """
        os.fsync(self._descriptor)
        try:  # not renamed, which would replace what has the name by now
            os.link(self._draft, self._last, src_dir_fd=self._directory,
                    dst_dir_fd=self._directory, follow_symlinks=False)  # fmt: skip
        except FileExistsError:
            raise TransferError(
                f"a file called {self.name!r} has appeared meanwhile: it is kept"
            ) from None
        os.unlink(self._draft, dir_fd=self._directory)

    def sync_name(self) -> None:
        """Wait until the names in its directory are on the disk."""
        os.fsync(self._directory)

    def close(self) -> None:
        """Release it; what came stays in the draft."""
        for descriptor in (self._descriptor, self._directory):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._directory = -1
