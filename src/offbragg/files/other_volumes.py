"""Volumes of other programs, found by what is in a file, and ours written for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py

from offbragg.errors import ReductionError
from offbragg.files.hkl_list import is_hkl_list, read_hkl_list
from offbragg.files.mantid_volume import is_mantid, read_mantid, write_mantid
from offbragg.files.other_fields import Fields
from offbragg.files.transform_volume import is_transform, read_transform, write_transform
from offbragg.files.volume_file import read_volume
from offbragg.files.yell_volume import is_yell, read_yell, write_yell
from offbragg.volume import Volume

_OURS = "entry/volume/counts"
_READERS: tuple[tuple[str, Callable[[Fields], bool], Callable[[Fields], Volume]], ...] = (
    ("mantid", is_mantid, read_mantid),
    ("yell", is_yell, read_yell),
    ("nxrefine", is_transform, read_transform),
)
WRITERS: dict[str, Callable[[Path, Volume], Path]] = {
    "yell": write_yell, "mantid": write_mantid, "nxrefine": write_transform
}  # fmt: skip
"""What writes a volume for another program, by the format's name."""
SUFFIXES = {"yell": ".h5", "mantid": ".nxs", "nxrefine": ".nxs"}


def read_other_volume(path: Path | str) -> tuple[str, Volume] | None:
    """Read a volume of another program whole.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    kind, volume
        ``mantid``, ``yell``, ``nxrefine`` or ``hkl list``, and what is in it. None: it is not of
        another program; it is ours, missing, or nothing that is known here.

    Raises
    ------
    ReductionError
        If the format is known, and something in the file is not: named.
    """
    path = Path(path)
    if not path.is_file():
        return None
    if not h5py.is_hdf5(path):
        return ("hkl list", read_hkl_list(path)) if is_hkl_list(path) else None
    try:
        fields = Fields(path)
    except ReductionError:
        return None  # of a live volume that is just being written; VolumeFile waits for it
    with fields:
        try:
            ours = fields.has(_OURS)
        except (OSError, RuntimeError):
            return None
        for kind, is_it, read in () if ours else _READERS:
            if is_it(fields):
                return kind, read(fields)
    return None


def read_any_volume(path: Path | str) -> Volume:
    """Read a volume file of ours, or of another program, whole.

    Raises
    ------
    ReductionError
        If it is none of these, or cannot be read.
    """
    other = read_other_volume(path)
    return read_volume(path) if other is None else other[1]


def write_other_volume(path: Path, volume: Volume, kind: str) -> Path:
    """Write a volume for another program, never in place of another file.

    Parameters
    ----------
    path
        The file to make.
    volume
        With a grid.
    kind
        One of `WRITERS`.

    Raises
    ------
    ReductionError
        If the format cannot hold the volume, or the file cannot be written.
    """
    if kind not in WRITERS:
        raise ReductionError(f"{kind!r} is not one of {', '.join(WRITERS)}")
    return WRITERS[kind](path, volume)
