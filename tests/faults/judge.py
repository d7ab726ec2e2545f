"""Was anything lost? Judged from the file and the source frames, without a line of offbragg's.

The definition, of a scan file and the frame files that it was made of: (1) every stored frame has
the pixels of its own source file; (2) its row is there and is that file's; (3) no frame is there
twice, or at another number; (4) every other number has a reason and reads as −1.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import fabio
import h5py
import hdf5plugin  # noqa: F401  the filter of the stack
import numpy as np
from fabio.compression import decByteOffset

FILL = -1


def judge(
    path: Path,
    sources: Mapping[int, Path],
    *,
    values: Mapping[str, Mapping[int, float]] | None = None,
    acknowledged: Iterable[int] = (),
    over: bool = False,
) -> list[str]:
    """Return what is lost or invented; an empty list is the verdict "nothing".

    Parameters
    ----------
    path
        A scan file, finished, growing or left by a dead writer.
    sources
        Number → the good frame file of that number.
    values
        Column → number → what it must be for every frame that is stored.
    acknowledged
        Numbers that were stored at some earlier time: they must be now.
    over
        Whether nothing may be pending any more.
    """
    problems: list[str] = []
    seen: dict[str, int] = {}
    with h5py.File(path, "r", swmr=True, locking=False) as file:
        data, rows = file["/entry/data/data"], file["/entry/frames"]
        status, reason = _words(rows["status"]), _words(rows["reason"])
        names, digests = _words(rows["source"]), _words(rows["md5"])
        if list(rows["number"]) != list(range(len(status))):
            problems.append("the rows are not numbered 0, 1, 2 …")
        for number, word in enumerate(status):
            there = number < data.shape[0]
            if word == "stored":
                if not there:
                    problems.append(f"{number} is stored and beyond the end of the data")
                    continue
                if number not in sources:
                    problems.append(f"{number} is stored and was never written")
                    continue
                digest = _digest(data[number])
                expected, md5 = _source_of(sources[number])
                if digest != expected:
                    problems.append(f"{number} has other pixels than {sources[number].name}")
                if digest in seen:
                    problems.append(f"{number} has the pixels of {seen[digest]}")
                seen[digest] = number
                if names[number] != sources[number].name or digests[number] != md5:
                    problems.append(f"{number} has the row of {names[number]} {digests[number]}")
            else:
                if there and np.any(data[number] != FILL):
                    # pixels come before their word: until then, they may be the frame's own
                    own = word == "pending" and number in sources
                    if not own or _digest(data[number]) != _source_of(sources[number])[0]:
                        problems.append(f"{number} is {word} and reads as something")
                if word == "pending" and over:
                    problems.append(f"{number} is pending")
                if word in ("missing", "rejected") and not reason[number]:
                    problems.append(f"{number} is {word} without a reason")
                if word not in ("pending", "missing", "rejected"):
                    problems.append(f"{number} is {word!r}")
        for column, wanted in (values or {}).items():
            known = rows[column][()]
            problems += [
                f"{number} has {column} {known[number]}: it was {value}"
                for number, value in wanted.items()
                if status[number] == "stored" and known[number] != value
            ]
        problems += [
            f"{number} was stored and is {status[number]}"
            for number in acknowledged
            if status[number] != "stored"
        ]
    return problems


def _opened(path: Path) -> h5py.File:
    deadline = time.monotonic() + 2.0
    while True:
        try:
            return h5py.File(path, "r", swmr=True, locking=False)
        except OSError as error:  # for an instant a writer has it open and has not begun SWMR
            if "SWMR" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def statuses(path: Path) -> list[str]:
    """What the ledger says of each frame; the file may be growing, or its writer dead."""
    with _opened(path) as file:
        return _words(file["/entry/frames/status"])


def stored(path: Path) -> set[int]:
    """Numbers that the ledger calls stored."""
    return {number for number, word in enumerate(statuses(path)) if word == "stored"}


def reasons(path: Path) -> list[str]:
    with _opened(path) as file:
        return _words(file["/entry/frames/reason"])


def _words(column: h5py.Dataset) -> list[str]:
    return [word.decode() for word in column[()].tolist()]


def _digest(counts: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(counts, "<i4")).hexdigest()


def _source_of(path: Path) -> tuple[str, str]:
    return _source(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _source(path: Path, _: int) -> tuple[str, str]:
    """SHA-256 of the pixels of a frame file, and the MD5 that it declares, hex."""
    if path.suffix != ".cbf":
        with fabio.open(str(path)) as image:
            counts = np.ascontiguousarray(image.data).view("<i4")
        return _digest(counts), ""
    head, _, rest = path.read_bytes().partition(b"\x0c\x1a\x04\xd5")
    size, n = (int(re.search(rb"X-Binary-" + key + rb":\s*(\d+)", head)[1])  # type: ignore[index]
               for key in (b"Size", b"Number-of-Elements"))  # fmt: skip
    counts = np.asarray(decByteOffset(rest[:size], n, "int64")).astype("<i4")
    found = re.search(rb"Content-MD5:\s*(\S+)", head)
    declared = base64.b64decode(found[1]).hex() if found else ""
    return _digest(counts), declared
