"""What the beamline has done in the last hour, kept in a file: a server that starts again has it.

The file holds one JSON object a line, oldest first. It is never synced: what a power cut takes is a
part of a curve on a page, while runs have their values in their own files.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

POINTS = 3700
"""More than an hour, of one a second."""

FILE = "now-history.jsonl"
"""Its name in the catalog's directory."""

_HOUR = 3600.0 + 60.0  # s
_LONGEST = 4096  # bytes of a line

_log = logging.getLogger(__name__)


class NowHistory:
    """The newest points, and the file that has them, too.

    Parameters
    ----------
    path
        The file; None keeps them in memory alone.
    writes
        Whether new points are written: of several processes, one does.
    """

    def __init__(self, path: Path | None = None, *, writes: bool = True) -> None:
        self._points: deque[dict[str, Any]] = deque(maxlen=POINTS)
        self._path = path if writes else None
        self._lines = 0
        self._is_full = False  # or its disk, so that it is said once
        if path is not None:
            for point in _read(path):
                self._append(point)
            self._rewrite()

    def add(self, point: dict[str, Any], *, step: float) -> None:
        """Add a point with its time ``t``, POSIX s, if the last one is a step ago, s."""
        if self._points and 0 <= point["t"] - self._points[-1]["t"] < step:
            return
        self._append(point)
        if self._lines >= 2 * POINTS:
            self._rewrite()
        else:
            self._write("ab", [point])

    def since(self, time: float) -> list[dict[str, Any]]:
        """Return the points since a time, POSIX s, oldest first."""
        return [point for point in self._points if point["t"] >= time]

    def _append(self, point: dict[str, Any]) -> None:
        while self._points and self._points[-1]["t"] > point["t"]:  # the clock was set back
            self._points.pop()
        self._points.append(point)

    def _rewrite(self) -> None:
        if self._path is None:
            return
        part = self._path.with_name(f".{FILE}.part")
        if self._write("wb", list(self._points), part):
            try:
                part.replace(self._path)
                self._lines = len(self._points)
            except OSError as error:
                self._tell(error)

    def _write(self, mode: str, points: list[dict[str, Any]], path: Path | None = None) -> bool:
        path = path or self._path
        if path is None:
            return False
        lines = "".join(json.dumps(point, separators=(",", ":")) + "\n" for point in points)
        flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if mode == "ab" else os.O_TRUNC)
        try:
            with os.fdopen(os.open(path, flags, 0o600), mode) as file:
                file.write(lines.encode())
        except OSError as error:
            self._tell(error)
            return False
        self._lines += len(points)
        self._is_full = False
        return True

    def _tell(self, error: OSError) -> None:
        if not self._is_full:
            _log.warning("the history of /now is not kept: %s", error.strerror)
        self._is_full = True


def _read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the points of the last hour; a line that is torn or not a point is passed by."""
    now = time.time()
    try:
        with path.open("rb") as file:
            lines = deque(file, maxlen=POINTS)
    except OSError:
        return
    for line in lines:
        try:
            point = json.loads(line) if len(line) <= _LONGEST else None
        except (ValueError, RecursionError):
            continue
        if not isinstance(point, dict):
            continue
        of, frames_of = point.pop("of", None), point.pop("frames_of", "")
        if not all(_is_value(each) for each in point.values()):
            continue
        if not _names_a_run(of or ["", ""]) or not _names_a_run([frames_of, ""]):
            continue
        point |= {"of": of or ["", ""], "frames_of": frames_of}
        at = point.get("t")
        if isinstance(at, int | float) and now - _HOUR <= at <= now:
            yield point


def _is_value(value: object) -> bool:
    """Return whether a value is a number, none, or a pair of numbers as a window has."""
    if isinstance(value, list):
        return all(isinstance(each, int | float) and math.isfinite(each) for each in value)
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def _names_a_run(value: object) -> bool:
    """Return whether a value is the names of a run and a series, as `now_seen.whose` does."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(each, str) and len(each) <= 200 for each in value)
    )
