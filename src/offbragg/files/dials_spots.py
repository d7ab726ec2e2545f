"""Spots that DIALS has found: a reflection table, ``.refl``.

It is MessagePack: the word ``dials::af::reflection_table``, a version, and a map with the number of
rows and the columns, each with the name of its type and little-endian numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from offbragg.errors import ConfigError, OrientationError

Array = NDArray[np.float64]

_WORD = "dials::af::reflection_table"
_LARGEST = 1 << 31  # bytes
_KINDS = {  # of what is read here: numbers, and how many of them a row has
    "double": (np.dtype("<f8"), 1),
    "int": (np.dtype("<i4"), 1),
    "std::size_t": (np.dtype("<u8"), 1),
    "vec3<double>": (np.dtype("<f8"), 3),
    "int6": (np.dtype("<i4"), 6),
}


class DialsSpots(NamedTuple):
    """Spots of one sweep, in the order of the file."""

    at: Array
    """Centroid: column, row, frame, shape (n, 3); of the first pixel and frame from 0 to 1."""
    box: NDArray[np.int32]
    """What a spot fills: first column, one past the last, rows and frames so, shape (n, 6)."""
    intensity: Array
    """Counts above the background."""


def read_spots(path: Path, *, n_frames: int, panel: tuple[int, int]) -> DialsSpots:
    """Read spots that ``dials.find_spots`` wrote, or a later step of DIALS.

    Parameters
    ----------
    path
        The ``.refl`` file.
    n_frames
        Of the sweep in which they were found.
    panel
        Shape of its frames, (slow, fast).

    Raises
    ------
    OrientationError
        If it cannot be read, is of several sweeps or panels, or does not belong to this sweep.
    ConfigError
        If the library that reads it is not installed.
    """
    columns = _read_columns(path)
    for name, what in (("id", "sweeps"), ("panel", "panels")):
        if name in columns and np.unique(_numbers(path, columns, name)).size > 1:
            raise OrientationError(f"{path} has spots of several {what}: give one file for each")
    at = _numbers(path, columns, "xyzobs.px.value")
    box = _numbers(path, columns, "bbox").astype(np.int32)
    intensity = _numbers(path, columns, "intensity.sum.value")
    slow, fast = panel
    size = np.array([fast, slow, n_frames])
    wrong = np.flatnonzero(~np.all((at >= 0) & (at <= size), axis=1))
    if wrong.size:
        x, y, z = at[wrong[0]]
        raise OrientationError(
            f"{path}: spot {wrong[0]} is at column {x:.1f}, row {y:.1f}, frame {z:.1f}, and the "
            f"sweep has {fast} columns, {slow} rows and {n_frames} frames\n"
            "Give the spots of this sweep, found in all of its frames."
        )
    return DialsSpots(at, box, intensity.astype(np.float64))


def _read_columns(path: Path) -> Mapping[str, Any]:
    try:
        import msgpack  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        raise ConfigError(
            "msgpack, which reads spots of DIALS, is not installed\n"
            "Install it: pip install 'offbragg[tiled]'"
        ) from None
    try:
        if path.stat().st_size > _LARGEST:
            raise OrientationError(f"{path} has more than {_LARGEST >> 30} GB")
        content: Any = msgpack.unpackb(path.read_bytes(), strict_map_key=False)
    except OSError as error:
        raise OrientationError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise OrientationError(f"{path} is no reflection table of DIALS: {error}") from error
    match content:
        case [word, int(), {"data": dict() as columns, "nrows": int()}] if word == _WORD:
            return columns
        case _:
            raise OrientationError(f"{path} is no reflection table of DIALS")


def _numbers(path: Path, columns: Mapping[str, Any], name: str) -> NDArray[Any]:
    match columns.get(name):
        case [str() as kind, [int() as rows, bytes() as raw]] if kind in _KINDS:
            dtype, width = _KINDS[kind]
            if len(raw) == rows * width * dtype.itemsize:
                found = np.frombuffer(raw, dtype)
                return found.reshape(rows, width) if width > 1 else found
        case _:
            pass
    raise OrientationError(f"{path} has no column {name} that can be read: is it of DIALS?")
