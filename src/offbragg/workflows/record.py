"""The record of a reduction: which files, by content, and relative to the volume."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FORMAT = 1


def relative(record: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Give the record with its files relative to where the volume file is, so that both move."""
    copy: dict[str, Any] = json.loads(json.dumps(record))
    for told in files_of(copy):
        told["file"] = _from(path.absolute().parent, Path(told["file"]))
    return copy


def _from(folder: Path, file: Path) -> str:
    """Say where a file is, seen from a folder; also right where either is reached by a link."""
    name, really = os.path.relpath(file, folder), folder.resolve()
    there = Path(os.path.normpath(really / name))
    if there.exists() and there.samefile(file):
        return name
    return os.path.relpath(file.parent.resolve() / file.name, really)


def files_of(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return what a record says of each of its files."""
    for told in record["inputs"]:
        yield told
        if told["background"] is not None:
            yield told["background"]
    if record["mask"] is not None:
        yield record["mask"]


def absolute(record: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the record with absolute paths, as seen from the volume file."""
    copy: dict[str, Any] = json.loads(json.dumps(record))
    for told in files_of(copy):
        name = told["file"]
        told["file"] = os.path.normpath(path.absolute().parent / name)
        if not Path(told["file"]).exists():  # the folder may be a link: .. leads elsewhere then
            told["file"] = os.path.normpath(path.parent.resolve() / name)
    return copy


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
