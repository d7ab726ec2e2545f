"""A disk that loses its power: what a trace of system calls leaves on it at any moment.

A file's bytes are safe once it was synced, a name once its directory was; of what came later,
any part may be there, from the first on. (Disks that write later blocks before earlier ones can
do worse; nothing below a checksum of every block helps against those.)
"""

from __future__ import annotations

import os
import random
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

TRACE = (
    "-x -s 4000000 -e trace=openat,write,pwrite64,fsync,fdatasync,ftruncate,rename,link,linkat,"
    "unlink,mkdir"
)
_LINE = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)")
_UNFINISHED = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")
_HANDLES = "/proc/self/fd/"
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"(\.\.\.)?')


@dataclass
class Inode:
    """A file: what is safe of it, and the writes since."""

    safe: bytearray = field(default_factory=bytearray)
    since: list[tuple[str, int, bytes]] = field(default_factory=list)

    def after(self, n: int) -> bytearray:
        content = bytearray(self.safe)
        for what, at, data in self.since[:n]:
            if what == "truncate":
                content = content[:at].ljust(at, b"\0")
            else:
                content = content.ljust(at + len(data), b"\0")
                content[at : at + len(data)] = data
        return content


@dataclass
class Directory:
    """Names: those that are safe, and what was done to them since."""

    safe: dict[str, Inode | None] = field(default_factory=dict)
    since: list[tuple[str, Inode | None, bool]] = field(default_factory=list)  # name, what, there

    def after(self, n: int) -> dict[str, Inode | None]:
        names = dict(self.safe)
        for name, inode, there in self.since[:n]:
            if there:
                names[name] = inode
            else:
                names.pop(name, None)
        return names


class Disk:
    """Replays a trace below a root; the power can be cut after any line."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.directories: dict[str, Directory] = {}
        self.positions: dict[int, int] = {}
        self._handles: dict[int, str | Inode] = {}  # a path through /proc may be a deleted one
        self._inodes: dict[str, Inode] = {}

    def begin_with(self, place: Path) -> None:
        """Take a directory, and all that is in it now, as written and synced."""
        self._directory(str(place.parent)).safe[place.name] = None
        for path in sorted(place.rglob("*")):
            inode = None if path.is_dir() else Inode(bytearray(path.read_bytes()))
            self._directory(str(path.parent)).safe[path.name] = inode
            if inode is not None:
                self._inodes[str(path)] = inode

    def _directory(self, path: str) -> Directory:
        return self.directories.setdefault(path, Directory())

    def _name(self, path: str, inode: Inode | None, there: bool) -> None:
        parent, name = os.path.split(path.rstrip("/"))
        self._directory(parent).since.append((name, inode, there))

    def _mine(self, path: str) -> bool:
        return path.startswith(self.root)

    def do(self, call: str, arguments: str, answer: int) -> None:
        """One system call that was answered."""
        if answer < 0:
            return
        handle = re.match(r"(\d+)<([^>]*)>", arguments)
        strings = [_bytes(text) for text, _ in _STRING.findall(arguments)]
        paths = [text.decode("utf-8", "replace") for text in strings]
        if call == "openat":
            self._handles.pop(answer, None)
        if call == "openat" and paths and self._mine(paths[0]):
            if "O_TMPFILE" in arguments:  # a file in this directory that has no name yet
                self.positions[answer] = 0
                self._handles[answer] = Inode()
                return
            if "O_CREAT" in arguments and paths[0] not in self._inodes:
                self._inodes[paths[0]] = Inode()
                self._name(paths[0], self._inodes[paths[0]], True)
            elif "O_TRUNC" in arguments and paths[0] in self._inodes:
                self._inodes[paths[0]].since.append(("truncate", 0, b""))
            self.positions[answer] = 0
            self._handles[answer] = self._inodes.get(paths[0], paths[0])
        elif call == "mkdir" and self._mine(paths[0]):
            self._name(paths[0], None, True)
            self._directory(paths[0].rstrip("/"))
        elif call in ("link", "linkat"):
            old, new = _linked(arguments, paths)
            if self._mine(new):
                self._inodes[new] = self._source(old)
                self._name(new, self._inodes[new], True)
        elif call == "rename" and self._mine(paths[0]):
            inode = self._inodes.pop(paths[0])
            self._name(paths[0], None, False)
            self._inodes[paths[1]] = inode
            self._name(paths[1], inode, True)
        elif call == "unlink" and self._mine(paths[0]):
            self._inodes.pop(paths[0], None)
            self._name(paths[0], None, False)
        elif handle and int(handle[1]) in self._handles:
            self._to_handle(call, int(handle[1]), strings, arguments, answer)

    def _source(self, path: str) -> Inode:
        """What is given another name: by the one that it has, or without one by its handle."""
        if path.startswith(_HANDLES):
            what = self._handles[int(path.removeprefix(_HANDLES))]
            assert isinstance(what, Inode), f"{path} is {what}"
            return what
        return self._inodes[path]

    def _to_handle(
        self, call: str, number: int, strings: list[bytes], arguments: str, answer: int
    ) -> None:
        what = self._handles[number]
        inode = what if isinstance(what, Inode) else None
        if call in ("fsync", "fdatasync"):
            if inode is not None:
                inode.safe, inode.since = inode.after(len(inode.since)), []
            elif what in self.directories:
                directory = self.directories[what]
                directory.safe, directory.since = directory.after(len(directory.since)), []
        elif inode is None:
            return
        elif call == "ftruncate":
            inode.since.append(("truncate", int(arguments.rpartition(",")[2]), b""))
        elif call == "pwrite64":
            assert len(strings[0]) >= answer, "the trace has not all of it"
            at = int(arguments.rpartition(",")[2])
            inode.since.append(("write", at, strings[0][:answer]))
        elif call == "write":
            at = self.positions.get(number, 0)
            inode.since.append(("write", at, strings[0][:answer]))
            self.positions[number] = at + answer

    def cut(self, onto: Path, rng: random.Random | None = None) -> None:
        """Leave below ``onto`` (of the root) what a power cut would.

        Everything that is not safe is gone, or with ``rng`` any end of it, for each file and
        directory on its own.
        """
        if onto.exists():
            shutil.rmtree(onto)
        parent = self.directories.get(str(onto.parent), Directory())
        if onto.name in _some(parent, rng):
            self._restore(onto, rng, {})

    def _restore(self, place: Path, rng: random.Random | None, kept: dict[int, Path]) -> None:
        place.mkdir()
        for name, inode in _some(self._directory(str(place)), rng).items():
            if inode is None:
                self._restore(place / name, rng, kept)
            elif id(inode) in kept:
                os.link(kept[id(inode)], place / name)
            else:
                n = 0 if rng is None else rng.randint(0, len(inode.since))
                (place / name).write_bytes(inode.after(n))
                kept[id(inode)] = place / name


def _some(directory: Directory, rng: random.Random | None) -> dict[str, Inode | None]:
    return directory.after(0 if rng is None else rng.randint(0, len(directory.since)))


def _linked(arguments: str, paths: list[str]) -> tuple[str, str]:
    """Both names of a link; those of linkat may be below directories that are open."""
    below = re.findall(r'<([^>]*)>, "', arguments) or ["", ""]
    old, new = (str(Path(*both)) for both in zip(below, paths, strict=True))
    return old, new


def calls(trace: str) -> list[tuple[str, str, int]]:
    """Every system call of a trace, in the order in which they were answered."""
    begun: dict[str, tuple[str, str]] = {}
    found: list[tuple[str, str, int]] = []
    for line in trace.splitlines():
        if match := _UNFINISHED.match(line):
            begun[match[1]] = match[2], match[3]
            continue
        if match := _RESUMED.match(line):
            call, arguments = begun.pop(match[1], (match[2], ""))
            answered = re.search(r"\) += (-?\d+)", match[3])
            if answered:
                rest = match[3][: answered.start()]
                found.append((call, arguments + rest, int(answered[1])))
            continue
        if match := _LINE.match(line):
            found.append((match[1], match[2], int(match[3])))
    return found


def _bytes(text: str) -> bytes:
    return text.encode("latin-1").decode("unicode_escape").encode("latin-1")
