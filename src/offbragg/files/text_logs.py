"""Text files that a beamline writes beside its stack: ``f1_head.txt`` and ``f1_meta.txt``.

As at 6-ID-D of the APS, and as NXRefine reads them: the head has lines ``name, value``, the other
file a row of names and a row of numbers for each frame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ScanFileError

_MOST = 64 << 20  # bytes of such a file


@dataclass(frozen=True, slots=True, eq=False)
class TextLogs:
    """What text files beside a stack say."""

    head: Mapping[str, float | str]
    columns: Mapping[str, NDArray[np.float64]]
    """One number for each frame, by name; NaN where there is none."""
    files: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it for a start document; of the columns, their names: the numbers stay there."""
        return {
            "files": [path.name for path in self.files],
            "head": dict(self.head),
            "columns": list(self.columns),
        }

    def column(self, name: str, n_frames: int) -> NDArray[np.float64]:
        """Return the numbers of the first frames.

        Raises
        ------
        ScanFileError
            If there is no such column, or it has fewer rows, or frames without a number.
        """
        where = self.files[-1].name
        if name not in self.columns:
            raise ScanFileError(f"{where} has no column {name}: {', '.join(self.columns)}")
        found = self.columns[name]
        if found.size < n_frames:
            raise ScanFileError(f"{where} has {found.size} rows for {n_frames} frames")
        bad = np.flatnonzero(~np.isfinite(found[:n_frames]))
        if bad.size:
            raise ScanFileError(f"{where}: row {bad[0] + 1} has no number under {name}")
        return found[:n_frames]


def read_text_logs(stack: Path) -> TextLogs | None:
    """Read the text files beside a stack.

    Parameters
    ----------
    stack
        As ``f1.h5``.

    Returns
    -------
    logs
        None if there is no such file.

    Raises
    ------
    ScanFileError
        If a line is not what it should be, with its number.
    """
    paths = [stack.with_name(f"{stack.stem}_{what}.txt") for what in ("head", "meta")]
    head, meta = paths
    there = tuple(path for path in paths if path.is_file())
    if not there:
        return None
    return TextLogs(
        _read_head(head) if head in there else {},
        _read_columns(meta) if meta in there else {},
        there,
    )


def _read_head(path: Path) -> dict[str, float | str]:
    found: dict[str, float | str] = {}
    for count, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        name, comma, value = (part.strip() for part in line.partition(","))
        if not (comma and name):
            raise ScanFileError(f"{path}, line {count} is not “name, value”: {line[:80]!r}")
        number = _number(value)
        found[name] = value if isinstance(number, float) and not math.isfinite(number) else number
    return found


def _read_columns(path: Path) -> dict[str, NDArray[np.float64]]:
    first, *rest = _lines(path) or [""]
    names = [name.strip().lstrip("#").strip() for name in first.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise ScanFileError(f"{path}, line 1 does not name each column once: {first[:80]!r}")
    rows: list[list[float]] = []
    for number, line in enumerate(rest, 2):
        if not line.strip():
            continue
        values = [_number(each.strip()) for each in line.split(",")]
        if len(values) != len(names):
            raise ScanFileError(
                f"{path}, line {number} has {len(values)} values for {len(names)} names"
            )
        rows.append([each if isinstance(each, float) else math.nan for each in values])
    table = np.array(rows, np.float64).reshape(len(rows), len(names))
    return {name: table[:, i].copy() for i, name in enumerate(names)}


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _MOST:
            raise ScanFileError(f"{path} has more than {_MOST >> 20} MB: is it a text file?")
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScanFileError(f"{path} cannot be read: {error}") from error
