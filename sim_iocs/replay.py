"""Real frames instead of simulated ones: the CBF files of a folder, in name order, unchanged."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from .cbf import MAGIC


class ReplayRefused(Exception):  # noqa: N818
    """A folder that cannot be replayed; the message is for the person who named it."""


@dataclass(frozen=True, slots=True)
class Replay:
    """The frame files of a folder.

    ``shape`` is (slow, fast) and the same for all of them.
    """

    files: tuple[Path, ...]
    shape: tuple[int, int]
    header: dict[str, str]

    @classmethod
    def open(cls, folder: Path) -> Replay:
        """Look at every file before the first is served; refuse a folder with a broken one."""
        if not folder.is_dir():
            raise ReplayRefused(f"replay folder {folder} does not exist")
        files = tuple(sorted(p for p in folder.iterdir() if p.suffix.lower() == ".cbf"))
        if not files:
            raise ReplayRefused(f"replay folder {folder} holds no .cbf file")
        first = check(files[0])
        for file in files[1:]:
            shape = check(file)
            if shape != first:
                raise ReplayRefused(
                    f"{file}: is {shape[0]} x {shape[1]} pixels, but {files[0].name} is "
                    f"{first[0]} x {first[1]}"
                )
        return cls(files, first, header_lines(files[0]))

    def read(self, number: int) -> bytes:
        """Read the bytes of frame ``number``, from 0."""
        return self.files[number].read_bytes()


def check(file: Path) -> tuple[int, int]:
    """Return a frame's shape (slow, fast); refuse a file that is incomplete or has a wrong MD5."""
    content = file.read_bytes()
    start = content.find(MAGIC)
    if not content.startswith(b"###CBF") or start < 0:
        raise ReplayRefused(f"{file}: is not a CBF file with a binary section")
    text = content[:start].decode("latin-1")
    numbers = {}
    for key in ("Size", "Size-Fastest-Dimension", "Size-Second-Dimension"):
        found = re.search(rf"^X-Binary-{key}:\s*(\d+)\s*$", text, re.MULTILINE)
        if found is None:
            raise ReplayRefused(f"{file}: its header has no X-Binary-{key}")
        numbers[key] = int(found[1])
    binary = content[start + 4 : start + 4 + numbers["Size"]]
    if len(binary) < numbers["Size"]:
        raise ReplayRefused(
            f"{file}: is cut off, {len(binary)} of {numbers['Size']} bytes of pixels are there"
        )
    declared = re.search(r"^Content-MD5:\s*(\S+)\s*$", text, re.MULTILINE)
    if declared is not None:
        found = base64.b64encode(hashlib.md5(binary, usedforsecurity=False).digest()).decode()
        if found != declared[1]:
            raise ReplayRefused(
                f"{file}: its pixels have MD5 {found}, but it declares {declared[1]}"
            )
    return numbers["Size-Second-Dimension"], numbers["Size-Fastest-Dimension"]


def header_lines(file: Path) -> dict[str, str]:
    """Read the miniCBF header as keyword and rest of the line."""
    with file.open("rb") as stream:
        text = stream.read(8192).split(MAGIC, 1)[0].decode("latin-1")
    lines = re.findall(r"^# (\S+?):?[ \t=]+([^\r\n]*)", text, re.MULTILINE)
    return {key: rest.strip() for key, rest in lines}
