"""Find what made a cell of a volume, for clients: ``offbragg why``, run beside the server.

The record in a volume file names other files, and anybody may have written it. So these are opened
here, below the roots only, and the child process sees nothing but what was opened: a folder with a
link to each descriptor, under the path that the file has. One child runs at a time, with limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from offbragg.catalog.containers import GROWING
from offbragg.catalog.read_limits import about_to_read
from offbragg.catalog.readable import Readable, shown
from offbragg.catalog.sent import OpenFile, Refusal
from offbragg.catalog.volume_files import opened_volume
from offbragg.errors import CatalogError, OffbraggError
from offbragg.files.root import path_of
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_layout import ADOPTED
from offbragg.printable import printable

_LONGEST = 60  # s
_MEMORY = 4 << 30  # bytes
_MOST_ANSWER = 50_000_000  # bytes
_MOST_FILES = 200  # that a record may name
_WAITING = 8  # questions that wait for their turn
_PIECE = 1 << 16
_PROGRAM = f"""
import os, resource, sys
os.nice(10)  # whoever measures comes first
resource.setrlimit(resource.RLIMIT_CPU, ({2 * _LONGEST}, {2 * _LONGEST}))
resource.setrlimit(resource.RLIMIT_DATA, ({_MEMORY}, {_MEMORY}))
from offbragg.files.hdf5 import follow_no_external_link
follow_no_external_link()
from offbragg.cli import main
sys.argv[0] = "offbragg"
main()
"""

Point = tuple[float, float, float]


class Origins:
    """Answers which frames and pixels made a cell.

    Parameters
    ----------
    readable
        Where files may be read.
    """

    def __init__(self, readable: Readable) -> None:
        self._readable = readable
        self._turn = asyncio.Semaphore(1)
        self._asking = 0

    async def find(self, file: OpenFile, point: Point) -> bytes:
        """Return what ``offbragg why --json`` prints.

        Parameters
        ----------
        file
            The volume.
        point
            h, k, l in the cell.

        Raises
        ------
        Refusal
            With the reason; 429 if others wait already, 503 if it takes too long.
        CatalogError
            If a file of the record must not be read, or is changed meanwhile.
        ReductionError
            If the point is outside the grid.
        """
        if self._asking > _WAITING:
            raise Refusal(
                503, "Other cells are asked for. Ask again later.", **{"retry-after": "10"}
            )
        self._asking += 1
        try:
            async with self._turn:
                return await self._find(file, point)
        finally:
            self._asking -= 1

    async def _find(self, file: OpenFile, point: Point) -> bytes:
        names = await asyncio.to_thread(_names, file, point)
        with contextlib.ExitStack() as stack:
            opened = {file.path: file}
            for name in names:
                path = _place(file.path, name)
                if path not in opened:
                    opened[path] = stack.enter_context(_opened(self._readable, path))
                    await asyncio.to_thread(_refuse_adopted, opened[path])
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="offbragg-")))
            folder = folder.resolve()
            for path, each in opened.items():
                link = folder / path.relative_to("/")
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path_of(each.descriptor))
            answer = await _ask_child(
                folder / file.path.relative_to("/"), point, [f.descriptor for f in opened.values()]
            )
            for each in opened.values():
                each.check_unchanged()  # or it is of files that nobody has looked at
            code, (out, errors) = (
                answer[0],
                (t.replace(os.fsencode(folder), b"") for t in answer[1:]),
            )
        if code < 0:  # it was ended by a limit
            why = "This cell takes more memory or time than is allowed here. Ask offbragg why."
            raise Refusal(503, why, **{"retry-after": "60"})
        if code not in (0, 1) or not out.startswith(b"{"):
            first = errors.decode("utf-8", "replace").removeprefix("offbragg: ").partition("\n")[0]
            raise Refusal(409, printable(first[:1000]) or f"offbragg why ended with code {code}.")
        return out


def _names(file: OpenFile, point: Point) -> list[str]:
    """Return the files that a record names; the point must be in the grid."""
    with opened_volume(file) as volume:
        volume.grid.index(point)
        record = volume.record
    if GROWING in record:
        raise Refusal(
            409,
            "This volume is growing: what made its cells is known once its sweeps have ended. Ask "
            "again then.",
        )
    names: list[str] = []
    for each in (*_listed(record.get("inputs")), record.get("mask")):
        for part in (each, each.get("background") if isinstance(each, Mapping) else None):
            if isinstance(part, Mapping) and isinstance(name := part.get("file"), str):
                names.append(name)
    if len(names) > _MOST_FILES:
        raise Refusal(
            400,
            f"This volume is made of {len(names):,} files; for at most {_MOST_FILES:,} a cell can "
            "be asked for here. Ask offbragg why on a host that sees the files.",
        )
    return names


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _place(volume: Path, name: str) -> Path:
    """Return where a file of a record lies; one above the root of the disk leads out."""
    above = 0
    for part in Path(name).parts:
        above += 1 if part == ".." else -1
        if above >= len(volume.parts) - 1:
            break
    else:
        if name and not Path(name).is_absolute() and "\0" not in name:
            return Path(os.path.normpath(volume.parent / name))
    raise CatalogError(f"{shown(name[:200])} is not read: it does not lie beside the volume")


@contextlib.contextmanager
def _opened(readable: Readable, path: Path) -> Iterator[OpenFile]:
    with OpenFile.below(readable, path) as file:
        yield file


def _refuse_adopted(file: OpenFile) -> None:
    """Refuse a thin scan file: whoever computes a cell would read any file that it names."""
    with (
        contextlib.suppress(OffbraggError, OSError),  # a mask, or what offbragg why refuses
        ScanFile.open(file.path, descriptor=file.descriptor) as scan,
    ):
        if ADOPTED in scan.start:
            raise Refusal(
                409,
                f"The frames of {shown(file.path.name)} lie in files of others. Ask offbragg why "
                "on a host that sees them.",
            )


async def _ask_child(
    volume: Path, point: Point, descriptors: list[int]
) -> tuple[int, bytes, bytes]:
    """Run ``offbragg why``; return its exit code, output and errors."""
    hkl = ",".join(repr(x) for x in point)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", _PROGRAM, "why", str(volume), hkl, "--json",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE, pass_fds=descriptors,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stderr is not None
    try:
        async with asyncio.timeout(_LONGEST):
            out, errors = await asyncio.gather(_read(child.stdout), _read(child.stderr))
            return await child.wait(), out, errors
    except TimeoutError:
        raise Refusal(
            503,
            f"This takes more than {_LONGEST} s. Ask offbragg why on a host that sees the files.",
            **{"retry-after": "60"},
        ) from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def _read(stream: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := await stream.read(_PIECE):
        about_to_read(len(part))
        parts.append(part)
        size += len(part)
        if size > _MOST_ANSWER:
            raise Refusal(
                400,
                f"More pixels fall into this cell than {_MOST_ANSWER:,} bytes can list. Ask "
                "offbragg why on a host that sees the files.",
            )
    return b"".join(parts)
