"""A PostgreSQL server for tests: on a socket in a folder of its own, ended with the test."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_DEBIAN = Path("/usr/lib/postgresql")
_SETTINGS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "listen_addresses=")


def why_not() -> str:
    """Return why a server cannot be started here; empty if it can."""
    if _programs() is None:
        return f"PostgreSQL is not installed: no {_DEBIAN}/*/bin/initdb"
    if _someone() is None:
        return "PostgreSQL does not run as root, and there is nobody else here that it could be"
    return ""


def _programs() -> Path | None:
    found = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@functools.cache
def _someone() -> tuple[str, ...] | None:
    """Return what runs a program as somebody who is not root; None if nothing does."""
    if os.geteuid() != 0:
        return ()
    for way in (("unshare", "--user", "--map-user=1000", "--map-group=1000"),
                ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"),
                ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")):  # fmt: skip
        with contextlib.suppress(OSError):
            tried = [*way, "sh", "-c", ": > /dev/null && test $(id -u) != 0"]
            if subprocess.run(tried, capture_output=True, timeout=30).returncode == 0:
                return way
    return None


@dataclass(frozen=True)
class PostgreSQL:
    """A running server.

    Parameters
    ----------
    folder
        Its data and its socket.
    """

    folder: Path

    def create(self, name: str, *, like: str = "template1") -> str:
        """Create a database, as another one is, and return its address."""
        _run("createdb", "-h", str(self.folder), "-U", "offbragg", "-T", like, name)
        return f"postgresql://offbragg@/{name}?host={self.folder}"


@contextlib.contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """Run a server within a ``with``."""
    folder = Path(tempfile.mkdtemp(prefix="offbragg-pg-", dir="/tmp"))  # a socket's path is short
    try:
        folder.chmod(0o777)  # whoever runs it
        data = str(folder / "data")
        _run("initdb", "-D", data, "-U", "offbragg", "-A", "trust", "-E", "UTF8", "--no-sync",
             "--locale=C.UTF-8")  # fmt: skip
        options = " ".join(
            f"-c {each}" for each in (*_SETTINGS, f"unix_socket_directories={folder}")
        )
        _run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield PostgreSQL(folder)
        finally:
            _run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(program: str, *arguments: str) -> None:
    programs = _programs()
    assert programs is not None
    done = subprocess.run(
        [*(_someone() or ()), programs / program, *arguments], cwd="/tmp", timeout=120,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
