"""Reproduce a volume from its own record, and compare the two."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np

from offbragg.errors import ReductionError
from offbragg.files.digest import sha256
from offbragg.files.volume_file import VolumeFile
from offbragg.files.volume_writer import passing_volume, write_volume
from offbragg.workflows.choices import Progress
from offbragg.workflows.record import GROWING, ReductionRecord
from offbragg.workflows.sums import sum_record

_ROUNDING = 2.0**-18  # of a weight, and of what is divided by it
_SLAB = 32  # planes of a volume that are compared at a time


@dataclass(frozen=True, slots=True)
class Reproduction:
    """Whether a volume file could be reproduced."""

    file: str
    same: bool
    differences: tuple[str, ...]
    """Datasets and attributes that differ: in any bit, or by more than the rounding of weights."""
    rounded: bool = False
    """It was made before weights were whole numbers: numbers are compared to 2⁻¹⁸."""


def reproduce(
    path: Path | str,
    *,
    out: Path | str | None = None,
    progress: Progress = lambda done, total: None,
) -> Reproduction:
    """Reproduce a volume file from its own record, and compare.

    Parameters
    ----------
    path
        The volume file.
    out
        Where to keep the new file; None: it is removed after the comparison.
    progress
        Called with the number of frames that are done, and of all.

    Raises
    ------
    ReductionError
        If an input is not there or has changed, or the record is malformed.
    """
    path = Path(path)
    with VolumeFile(path) as file:
        kept = file.record
    if GROWING in kept:
        raise ReductionError(
            f"{path} cannot be reproduced: its sweeps had not ended when it was written\n"
            "offbragg live closes it once they have."
        )
    try:
        record = ReductionRecord.from_dict(kept).absolute_from(path)
    except ReductionError as error:
        raise ReductionError(f"{path} cannot be reproduced: {error}") from error
    for each in record.files():
        if not Path(each.file).exists():
            raise ReductionError(f"{each.file} is not there: {path} was made of it")
        if sha256(each.file) != each.sha256:
            raise ReductionError(
                f"{each.file} has changed since {path} was made of it: its SHA-256 is not "
                f"{each.sha256[:12]}…"
            )
    rounded = record.weight_exponent is None
    volume = sum_record(record, progress=progress)
    if out is not None:
        write_volume(out, volume, kept)
        differences = _differences(path, Path(out), rounded=rounded)
    else:
        with passing_volume(path.parent, volume, kept) as new:
            differences = _differences(path, new, rounded=rounded)
    return Reproduction(str(path), not differences, tuple(differences), rounded)


def _differences(one: Path, other: Path, *, rounded: bool) -> list[str]:
    """Return the datasets and attributes in which two volume files differ.

    The bytes between them may differ: another version may put them elsewhere.
    """
    if sha256(one) == sha256(other):
        return []
    # HDF5 looks for the real path of what it opens, and the new file may have none
    with one.open("rb") as mine, other.open("rb") as its, h5py.File(mine) as a, h5py.File(its) as b:
        left, right = _contents(a), _contents(b)
        differ = sorted(
            name for name in left.keys() | right.keys() if left.get(name) != right.get(name)
        )
        if rounded:
            differ = [name for name in differ if not _are_close(a, b, name)]
    return differ


def _are_close(a: Any, b: Any, name: str) -> bool:
    """Return whether a dataset holds the same numbers in both but for the rounding of weights."""
    one, other = a.get(name), b.get(name)
    if not all(isinstance(each, h5py.Dataset) for each in (one, other)):
        return False
    if one.dtype.kind != "f" or other.dtype.kind != "f":
        return False
    return one.shape == other.shape and all(
        np.allclose(one[n : n + _SLAB], other[n : n + _SLAB], rtol=_ROUNDING, equal_nan=True)
        for n in range(0, one.shape[0], _SLAB)
    )


def _contents(file: Any) -> dict[str, tuple[Any, ...]]:
    """Return everything in an HDF5 file: of each array its type, shape and digest."""
    found: dict[str, tuple[Any, ...]] = {}

    def look(name: str, thing: Any) -> None:
        attributes = [(str(key), np.asarray(value)) for key, value in thing.attrs.items()]
        attributes.sort(key=lambda each: each[0])
        found[name] = tuple((key, value.dtype.str, value.tobytes()) for key, value in attributes)
        if isinstance(thing, h5py.Dataset):
            array: Any = thing
            digest = hashlib.sha256()
            for n in range(0, array.shape[0] if array.ndim else 1, _SLAB):
                part = array[n : n + _SLAB] if array.ndim else array[()]
                digest.update(np.ascontiguousarray(part).tobytes())
            found[name] += (array.dtype.str, array.shape, digest.hexdigest())

    look("/", file)
    file.visititems(look)
    return found
