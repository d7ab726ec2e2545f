"""Fields of an HDF5 file that another program wrote, and what makes a volume of them.

Nothing is guessed: what is missing, or what a `Volume` cannot hold, is an error that names it.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from offbragg.errors import MetadataError, ReductionError, ScanFileError
from offbragg.files.filters import check_part
from offbragg.files.hdf5 import find_inside, link_of, open_to_read
from offbragg.grid import NAMES, Array, Grid, Three
from offbragg.sample import Sample
from offbragg.volume import Volume

_MOST_CELLS = 1 << 31  # 16 GB as float64
_MOST_TEXT = 1 << 16  # bytes
_OFF = 0.02  # of a cell: how far a centre may lie from its label, for numbers kept as float32
_OURS = "offbragg"  # attribute of the root: what the format has no field for
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9_.,+()-]+")


class Fields:
    """An HDF5 file of another program, open for reading.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    ReductionError
        If it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: Any = open_to_read(path, swmr=False, libver=None)
        except (OSError, RuntimeError) as error:
            raise ReductionError(f"{path} cannot be opened: {error}") from error

    def __enter__(self) -> Fields:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def has(self, name: str) -> bool:
        """Return whether there is something of this name, though it may lie in another file."""
        parent, _, last = name.rpartition("/")
        try:
            group = find_inside(self._file, parent or "/", self.path)
        except (KeyError, ScanFileError):
            return False
        return isinstance(group, h5py.Group) and link_of(group, last) is not None

    def elsewhere(self, name: str) -> tuple[str, str] | None:
        """Return file and path to which an external link leads; None if it is not one."""
        parent, _, last = name.rpartition("/")
        link = link_of(self._get(parent or "/"), last)
        return (link.filename, link.path) if isinstance(link, h5py.ExternalLink) else None

    def attribute(self, name: str, key: str) -> Any:
        """Return an attribute, text as str and lists of text as list; None: there is none."""
        with self._damage(name):
            value = self._get(name).attrs.get(key)
        if isinstance(value, np.ndarray):
            parts = [_text(each) for each in cast(Any, value.ravel())]
            return parts if value.ndim else parts[0]
        return _text(value)

    def text(self, name: str) -> str:
        """Read a text."""
        field = self._dataset(name)
        if field.size != 1 or field.dtype.kind not in "SO" or field.nbytes > _MOST_TEXT:
            raise ReductionError(f"{self.path}: /{name} is not a text")
        with self._damage(name):
            check_part(field)
            return str(_text(np.asarray(field[()]).ravel()[0])).rstrip("\0 ")

    def numbers(self, name: str, count: int) -> list[float]:
        """Read a few finite numbers."""
        found = self.array(name).ravel().tolist()
        if len(found) != count or not all(map(math.isfinite, found)):
            raise ReductionError(f"{self.path}: /{name} holds {found[:9]}, not {count} numbers")
        return found

    def array(self, name: str, *, ndim: int | None = None) -> Array:
        """Read an array as float64.

        Raises
        ------
        ReductionError
            If it is missing, damaged, lies in another file, or is of another kind: named.
        """
        field = self._dataset(name)
        if field.dtype.kind not in "fiub":
            raise ReductionError(f"{self.path}: /{name} is {field.dtype}, not numbers")
        if ndim is not None and field.ndim != ndim:
            raise ReductionError(f"{self.path}: /{name} has {field.ndim} dimensions, not {ndim}")
        if math.prod(field.shape) > _MOST_CELLS:
            raise ReductionError(f"{self.path}: /{name} claims {field.shape} cells: too large")
        with self._damage(name):
            check_part(field)
            return np.asarray(field[()]).astype(np.float64)

    def ours(self) -> dict[str, Any]:
        """Return what offbragg kept beside the format's own fields; empty if it is not from it."""
        try:
            return dict(json.loads(str(self.attribute("/", _OURS) or "{}")))
        except (ValueError, TypeError):
            return {}

    def _dataset(self, name: str) -> Any:
        field = self._get(name)
        if not isinstance(field, h5py.Dataset):
            raise ReductionError(f"{self.path}: /{name} is a group, not a field")
        return field

    def _get(self, name: str) -> Any:
        try:
            return find_inside(self._file, name, self.path)
        except KeyError:
            raise ReductionError(f"{self.path} has no /{name}") from None
        except (OSError, RuntimeError, ScanFileError) as error:
            raise ReductionError(str(error)) from error

    @contextlib.contextmanager
    def _damage(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ScanFileError) as error:
            raise ReductionError(f"{self.path}: /{name} cannot be read: {error}") from error


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def keep_ours(file: h5py.File, volume: Volume) -> None:
    """Write what `Fields.ours` returns: the sample and the symmetry."""
    known: dict[str, Any] = {"symmetry": volume.symmetry}
    if volume.sample is not None:
        known["sample"] = volume.sample.to_dict()
    file.attrs[_OURS] = np.bytes_(json.dumps(known).encode())


def grid_of(
    first: Sequence[float], step: Sequence[float], shape: Sequence[int], path: Path
) -> Grid:
    """Make the grid of cells whose centres another program has.

    Parameters
    ----------
    first, step
        Centre of the first cell along h, k, l and the distance of neighbours, r.l.u.
    shape
        How many cells along h, k, l.
    path
        For messages.

    Raises
    ------
    ReductionError
        If the step is not 1/integer, or hkl 0 would not be the centre of a cell.

    Examples
    --------
    >>> grid_of((-1.0, 0.0, 2.0), (0.05, 0.1, 1.0), (41, 3, 1), Path("x"))
    Grid(first=(-20, 0, 2), shape=(41, 3, 1), per_unit=(20, 10, 1))
    """
    labels: list[int] = []
    per_unit: list[int] = []
    for name, begin, each, count in zip(NAMES, first, step, shape, strict=True):
        n = round(1.0 / each) if math.isfinite(each) and 0 < each <= 1.5 else 0
        label = round(begin * n) if math.isfinite(begin) else 0
        last = (begin + (count - 1) * each) * n
        if n < 1 or abs(begin * n - label) > _OFF or abs(last - label - count + 1) > _OFF:
            raise ReductionError(
                f"{path}: {name} begins at {begin:g} r.l.u. in {count} steps of {each:g}: the "
                "centres of the cells are not whole multiples of 1/integer\n"
                "Bin it so that hkl 0 is the centre of a cell: 401 bins between the edges -10.025 "
                "and 10.025, not 400 between -10 and 10."
            )
        labels.append(label)
        per_unit.append(n)
    return Grid(cast(Three, (*labels,)), cast(Three, tuple(shape)), cast(Three, (*per_unit,)))


def grid_to_write(path: Path, volume: Volume) -> Grid:
    """Return the grid of a volume that is to be written.

    Raises
    ------
    ReductionError
        If it has none.
    """
    if volume.grid is None:
        raise ReductionError(f"{path} cannot be written: the volume has no grid")
    return volume.grid


def even_axis(values: Array, cells: int, where: str) -> tuple[float, float]:
    """Return centre of the first cell and step of an axis of centres, or of edges.

    Parameters
    ----------
    values
        As many as there are cells, or one more: then they are edges.
    cells
        How many cells the array has along it.
    where
        For messages.
    """
    if cells == len(values) == 1:
        raise ReductionError(f"{where} has one layer, which does not say its step")
    if values.ndim != 1 or len(values) not in (cells, cells + 1) or len(values) < 2:
        raise ReductionError(f"{where} has {values.size} values for {cells} cells")
    step = float(values[-1] - values[0]) / (len(values) - 1)
    even = values[0] + step * np.arange(len(values))
    if not np.all(np.abs(values - even) <= _OFF * abs(step)) or step == 0:
        raise ReductionError(f"{where} does not rise in even steps")
    return float(values[0]) + (0.5 * step if len(values) == cells + 1 else 0.0), step


def volume_of(
    intensity: Array,
    grid: Grid,
    *,
    variance: Array | None = None,
    sample: Sample | None = None,
    symmetry: str = "",
) -> Volume:
    """Make a volume of intensities: each measured cell has the weight 1.

    Parameters
    ----------
    intensity
        Shape (h, k, l); not finite where nothing was measured.
    grid
        Where the cells are.
    variance
        Of the intensity; None: it is not known, and the volume's sigma is NaN.
    sample, symmetry
        As in `Volume`.
    """
    measured = np.isfinite(intensity)
    known = np.full(intensity.shape, np.nan) if variance is None else variance
    return Volume(
        np.where(measured, intensity, 0.0), measured.astype(np.float64), grid,
        variance=np.where(measured, known, 0.0), sample=sample, symmetry=symmetry,
    )  # fmt: skip


def variance_of(volume: Volume) -> Array:
    """Return the variance of a volume's intensity, shape (h, k, l); NaN where nothing is known."""
    squared = volume.weight**2
    out = np.full(squared.shape, np.nan)
    np.divide(volume.total_variance, squared, out=out, where=squared > 0)
    return out


def sample_of(
    fields: Fields, lattice: Sequence[float], *, kind: str, name: str = "", UB: Any = None
) -> Sample:
    """Make the sample of another program's file.

    Parameters
    ----------
    fields
        The file: its name is that of the sample, if there is no other.
    lattice
        a, b, c in Å and alpha, beta, gamma in degree.
    kind
        Of the file; it becomes the label.
    name
        Of the sample.
    UB
        Å⁻¹ without 2π.
    """
    kept = fields.ours().get("sample")
    try:
        if isinstance(kept, dict) and kept.get("lattice", list(lattice)) == list(lattice):
            return Sample.from_dict(cast(dict[str, Any], kept))
        stem = _NOT_A_NAME.sub("_", name or fields.path.stem).lstrip("_.,+()-")[:100]
        known = {"name": stem or kind, "label": kind, "lattice": list(lattice)}
        return Sample.from_dict(known if UB is None else {**known, "UB": UB})
    except MetadataError as error:
        raise ReductionError(f"{fields.path}: {error}") from error
