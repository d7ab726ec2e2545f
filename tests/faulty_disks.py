"""Disks of a few megabytes that fill, grow, and cannot be written: real ones, for root."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@cache
def _can_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
        if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
            return False
        _run("umount", folder)
        return True


needs_mount = pytest.mark.skipif(not _can_mount(), reason="only root can mount a small disk")


class SmallDisk:
    """A tmpfs on a directory."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size

    def __enter__(self) -> SmallDisk:
        _run("mount", "-t", "tmpfs", "-o", f"size={self.size}", "tmpfs", str(self.path))
        return self

    def __exit__(self, *_: object) -> None:
        # lazily: a process may be in it; with a bind mount on top there are two
        while os.path.ismount(self.path):
            _run("umount", "-l", str(self.path))

    @property
    def ballast(self) -> Path:
        return self.path / "ballast"

    def fill(self, size: int | None = None) -> None:
        """Fill it, but for what is asked to be left free."""
        with self.ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            left = size if size is not None else 1 << 40
            while left > 0:
                left -= file.write(bytes(min(left, 1 << 16)))

    def free(self) -> None:
        """Take the ballast away."""
        self.ballast.unlink()

    def grow(self, size: int) -> None:
        _run("mount", "-o", f"remount,size={size}", str(self.path))

    @contextlib.contextmanager
    def broken(self, how: str) -> Iterator[None]:
        """Make it unusable for a while."""
        if how == "read_only":
            _run("mount", "-o", "remount,ro", str(self.path))
            try:
                yield
            finally:
                _run("mount", "-o", "remount,rw", str(self.path))
        elif how == "immutable":
            _run("chattr", "+i", str(self.path))
            try:
                yield
            finally:
                _run("chattr", "-i", str(self.path))
        else:
            with tempfile.TemporaryDirectory() as away:
                _run("mount", "--move", str(self.path), away)
                try:
                    yield
                finally:
                    _run("mount", "--move", away, str(self.path))
