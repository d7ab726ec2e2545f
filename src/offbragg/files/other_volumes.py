"""Volumes of other programs, found by what is in a file, and ours written for them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py

from offbragg.errors import ReductionError
from offbragg.files.discus_volume import is_discus, read_discus
from offbragg.files.hkl_list import (
    is_bare_plane,
    is_hkl_list,
    read_bare_plane,
    read_hkl_list,
)
from offbragg.files.mantid_volume import is_mantid, read_mantid, write_mantid
from offbragg.files.other_fields import Fields
from offbragg.files.transform_volume import is_transform, read_transform, write_transform
from offbragg.files.volume_file import read_volume
from offbragg.files.yell_volume import is_yell, read_yell, write_yell
from offbragg.volume import Volume

_OURS = "entry/volume/counts"
_READERS: dict[str, tuple[Callable[[Fields], bool], Callable[[Fields], Volume]]] = {
    "mantid": (is_mantid, read_mantid),
    "yell": (is_yell, read_yell),
    "nxrefine": (is_transform, read_transform),
}
_TEXTS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], Volume]]] = {
    "hkl list": (is_hkl_list, read_hkl_list),
    "discus": (is_discus, read_discus),
    "scatty plane": (is_bare_plane, read_bare_plane),
}
KINDS = {
    "mantid": "Mantid", "yell": "meerkat, Yell or DISCUS", "nxrefine": "NXRefine or CCTW",
    "hkl list": "Scatty (a list of h k l I)", "discus": "DISCUS (layers as text)",
    "scatty plane": "Scatty (a plane without its indices)",
}  # fmt: skip
"""Which programs write a format."""
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
        A key of `KINDS`, and what is in it. None: it is not of another program; it is ours,
        missing, or nothing that is known here.

    Raises
    ------
    ReductionError
        If the format is known, and something in the file is not: named.
    """
    path = Path(path)
    with _recognised(path) as (kind, fields):
        if kind is None:
            return None
        return kind, _TEXTS[kind][1](path) if fields is None else _READERS[kind][1](fields)


def other_kind(path: Path | str) -> str | None:
    """Return of which other program a volume is, a key of `KINDS`, by what its file begins with."""
    with _recognised(Path(path)) as (kind, _):
        return kind


@contextlib.contextmanager
def _recognised(path: Path) -> Iterator[tuple[str | None, Fields | None]]:
    """Yield which format a file has, and the file if it is HDF5."""
    if not path.is_file():
        yield None, None
    elif not h5py.is_hdf5(path):
        yield next((kind for kind, (is_it, _) in _TEXTS.items() if is_it(path)), None), None
    else:
        try:
            opened = Fields(path)
        except ReductionError:  # of a live volume that is just being written; VolumeFile waits
            yield None, None
            return
        with opened as fields:
            yield _kind_of(fields), fields


def _kind_of(fields: Fields) -> str | None:
    try:
        if fields.has(_OURS):
            return None
    except (OSError, RuntimeError):
        return None
    return next((kind for kind, (is_it, _) in _READERS.items() if is_it(fields)), None)


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
