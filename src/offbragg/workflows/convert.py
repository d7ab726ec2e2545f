"""A volume of one program becomes a file of another."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from offbragg.files.digest import sha256
from offbragg.files.other_volumes import SUFFIXES, WRITERS, read_other_volume, write_other_volume
from offbragg.files.volume_file import read_volume
from offbragg.files.volume_writer import write_volume
from offbragg.volume import Volume

_OURS = "offbragg"
FORMATS = (_OURS, *WRITERS)
"""What can be written."""


def convert(
    path: Path,
    to: str,
    *,
    out: Path | None = None,
    free: Callable[[Path], None] = lambda target: None,
) -> tuple[Path, str, Volume]:
    """Read a volume of any program that is known here, and write it for another one.

    Parameters
    ----------
    path
        The volume.
    to
        One of `FORMATS`.
    out
        The file to make; None: ``NAME-FORMAT`` beside the volume.
    free
        Raises if a name is taken, before the volume is read.

    Returns
    -------
    made, kind, volume
        The file, the format of the one that was read, and what is in both.

    Raises
    ------
    ReductionError
        If the volume cannot be read, the format cannot hold it, or the file cannot be written.
    """
    target = out or path.with_name(f"{path.stem}-{to}{SUFFIXES.get(to, '.h5')}")
    free(target)
    other = read_other_volume(path)
    kind, volume = (_OURS, read_volume(path)) if other is None else other
    if to != _OURS:
        return write_other_volume(target, volume, to), kind, volume
    record: dict[str, Any] = {
        "converted": {"file": path.name, "format": kind, "sha256": sha256(path)},
        "inputs": [],
        "versions": {name: version(name) for name in ("offbragg", "numpy", "h5py")},
    }
    return write_volume(target, volume, record), kind, volume
