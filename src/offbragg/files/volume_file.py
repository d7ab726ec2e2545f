"""A volume on disk: HDF5 that NeXpy plots and NXRefine reads as ``transform``.

::

    /entry            NXentry        opens on data
        data          NXdata         intensity (NaN where nothing was measured), its errors
        transform     NXdata         v = counts above background, n = weight; v / n is the intensity
        volume        NXcollection   the sums as they were made, what `Volume` holds
        levels/2 4 8  NXdata         intensity of 2 × 2 × 2 … cells, for a first look
        completeness  NXdata         measured part of the cells, by distance from the origin
        sample        NXsample
        process       NXprocess      the record: inputs with checksums, parameters, order, versions

Arrays are stored with l slowest and h fastest, axes [Ql, Qk, Qh], as NXRefine has them; a `Volume`
has (h, k, l). Nothing in the file tells when it was made, so the same record makes the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from offbragg.errors import OffbraggError, ReductionError, ScanFileError
from offbragg.files import nxmx
from offbragg.files.draft import draft, hdf5_in, new_hdf5
from offbragg.files.filters import check_part
from offbragg.files.hdf5 import find_inside, link_of, open_to_read
from offbragg.grid import Grid
from offbragg.lattice import direct_basis
from offbragg.sample import Sample
from offbragg.volume import Volume

Array = NDArray[np.float64]

LEVELS = (2, 4, 8)
_CHUNK = 32
_SUMS = ("counts", "weight", "variance", "background", "background_variance")
MOST_TEXT = 256 << 20  # bytes
_NOT_OURS = (KeyError, ValueError, TypeError, AttributeError, OSError, RuntimeError, OffbraggError)
"""What comes of taking another file for a volume; a RecursionError is a RuntimeError."""
_LIBVER = ("v110", "v110")  # as scan files: newer layouts cannot be read with HDF5 1.10


def write_volume(path: Path | str, volume: Volume, record: Mapping[str, Any]) -> Path:
    """Write a volume file; it appears at once, complete, and never in place of another.

    Parameters
    ----------
    path
        The file to make.
    volume
        With a grid.
    record
        How it was made; plain JSON types. It goes into the file as it is.

    Raises
    ------
    ReductionError
        If there is a file of this name, or it cannot be written.
    """
    path = Path(path)
    if volume.grid is None:
        raise ReductionError("a volume without a grid cannot be written")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_hdf5(path, libver=_LIBVER) as file:
            _write(file, volume, volume.grid, record)
    except FileExistsError:
        raise ReductionError(f"{path} is there already: it is not overwritten") from None
    except (OSError, RuntimeError) as error:
        raise _cannot_be_written(path, error) from error
    return path


@contextlib.contextmanager
def passing_volume(directory: Path, volume: Volume, record: Mapping[str, Any]) -> Iterator[Path]:
    """Write a volume file that is only there within the ``with``, under a path of this process.

    Raises
    ------
    ReductionError
        If it cannot be written.
    """
    assert volume.grid is not None
    try:
        with draft(directory / "volume.h5") as made:
            with hdf5_in(made, libver=_LIBVER) as file:
                _write(file, volume, volume.grid, record)
            yield made.path
    except (OSError, RuntimeError) as error:
        raise _cannot_be_written(directory / "a volume to compare", error) from error


class VolumeFile:
    """A volume on disk, read in parts; made by `write_volume`.

    Parameters
    ----------
    path
        The file.
    descriptor
        Of the file, if it is open: then that file is read, whatever the path leads to now.
    most_text
        Limit for its record and for each other text in it, bytes; JSON takes up to 30 times as
        much memory.
    """

    def __init__(
        self, path: Path | str, *, descriptor: int | None = None, most_text: int = MOST_TEXT
    ) -> None:
        self.path = Path(path)
        self._most_text = most_text
        try:
            self._file: Any = open_to_read(
                self.path, swmr=False, libver=None, descriptor=descriptor
            )
        except FileNotFoundError:
            raise ReductionError(f"{self.path} is not there") from None
        except (OSError, RuntimeError) as error:
            number = getattr(error, "errno", None)
            what = os.strerror(number) if number else error
            raise ReductionError(f"{self.path} cannot be opened: {what}") from error
        try:
            self.record: dict[str, Any] = dict(json.loads(self._text("entry/process/record")))
            self.grid = Grid.from_dict(json.loads(self._text("entry/volume/grid")))
            if self._get("entry/volume/counts").shape != self.grid.shape[::-1]:
                raise ValueError("its counts are not of the shape of its grid")
        except _NOT_OURS as error:
            self._file.close()
            raise ReductionError(f"{self.path} is not a volume file: {error}") from error

    def __enter__(self) -> VolumeFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    @property
    def sample(self) -> Sample | None:
        """The crystal."""
        if not self._has("sample"):
            return None
        return Sample.from_dict(json.loads(self._text("entry/volume/sample")))

    @property
    def symmetry(self) -> str:
        """Laue class over which the sums were made; empty for none."""
        return self._text("entry/volume/symmetry")

    @property
    def completeness(self) -> float:
        """Measured part of the cells."""
        return float(self._get("entry/completeness").attrs["overall"])

    def volume(self) -> Volume:
        """Read all of it."""
        return self.part((slice(None), slice(None), slice(None)))

    def part(self, part: tuple[slice, slice, slice]) -> Volume:
        """Read a box of it, slices along h, k, l in steps of 1."""
        bounds = [s.indices(n) for s, n in zip(part, self.grid.shape, strict=True)]
        if any(step != 1 or stop <= start for start, stop, step in bounds):
            raise ReductionError(f"{part} is not a box inside {self.grid}")
        first = tuple(a + b[0] for a, b in zip(self.grid.first, bounds, strict=True))
        shape = tuple(b[1] - b[0] for b in bounds)
        grid = Grid(first, shape, self.grid.per_unit)  # type: ignore[arg-type]
        slices = tuple(slice(b[0], b[1]) for b in reversed(bounds))
        sums = {
            name: self._read(self._get(f"entry/volume/{name}"), slices) if self._has(name) else None
            for name in _SUMS
        }
        return Volume(grid=grid, sample=self.sample, symmetry=self.symmetry, **sums)  # type: ignore[arg-type]

    def _read(self, data: h5py.Dataset, slices: tuple[slice, ...]) -> Array:
        try:
            check_part(data, slices)
            return np.ascontiguousarray(data[slices].T)
        except (OSError, RuntimeError, ScanFileError) as error:
            raise ReductionError(
                f"{self.path} is damaged: {data.name} does not have its checksum, or cannot be "
                f"decoded ({error})\nMake it again: offbragg reduce --again {self.path} --out NEW"
            ) from error

    def _text(self, name: str) -> str:
        field = self._get(name)
        if field.nbytes > self._most_text:
            raise ValueError(f"{name} claims {field.nbytes:,} bytes")
        check_part(field)
        return bytes(field[()]).decode()

    def _has(self, name: str) -> bool:
        return link_of(self._get("entry/volume"), name) is not None

    def _get(self, name: str) -> Any:
        try:
            return find_inside(self._file, name, self.path)
        except ScanFileError as error:
            raise ReductionError(str(error)) from error


def read_volume(path: Path | str) -> Volume:
    """Read a volume file whole."""
    with VolumeFile(path) as file:
        return file.volume()


# ---- the parts -------------------------------------------------------------------------


def _write(file: h5py.File, volume: Volume, grid: Grid, record: Mapping[str, Any]) -> None:
    file.attrs["default"] = np.bytes_("entry")
    entry = nxmx.add_group(file, "entry", "NXentry", default="data")
    sample = volume.sample
    title = "S(Q)" if sample is None else f"{sample.name} {sample.label}"
    nxmx.add_field(entry, "title", title)
    _write_sample(entry, sample, record)
    intensity, sigma = volume.intensity, volume.sigma

    sums = nxmx.add_group(entry, "volume", "NXcollection")
    for name in _SUMS:
        array = getattr(volume, name)
        if array is not None:
            _put(sums, name, array, np.float64)
    nxmx.add_field(sums, "grid", json.dumps(grid.to_dict()))
    _text(sums, "symmetry", volume.symmetry)
    if sample is not None:
        _text(sums, "sample", json.dumps(sample.to_dict()))

    data = _axes(entry, "data", grid, sample, signal="intensity")
    _put(data, "intensity", intensity, np.float32, units="counts / weight")
    _put(data, "intensity_errors", sigma, np.float32)

    transform = _axes(entry, "transform", grid, sample, signal="v")
    transform.attrs["weights"] = np.bytes_("n")
    if volume.background is None:
        transform["v"] = h5py.SoftLink("/entry/volume/counts")
    else:
        _put(transform, "v", volume.counts - volume.background, np.float64)
    transform["n"] = h5py.SoftLink("/entry/volume/weight")
    sums["counts"].attrs["weights"] = np.bytes_("n")

    levels = nxmx.add_group(entry, "levels", "NXcollection")
    above = volume.counts if volume.background is None else volume.counts - volume.background
    for level in LEVELS:
        _write_level(levels, level, above, volume.weight, grid)
    _write_completeness(entry, volume, grid)
    _write_process(entry, record)


def _put(group: h5py.Group, name: str, array: Array, kind: Any, **attributes: Any) -> None:
    """Write an array (h, k, l) as [l, k, h] in cubic chunks."""
    shape = array.shape[::-1]
    data = group.create_dataset(
        name,
        shape=shape,
        dtype=kind,
        chunks=tuple(min(_CHUNK, n) for n in shape),
        fletcher32=True,  # HDF5 compares it whenever the chunk is read
        **hdf5plugin.Bitshuffle(cname="lz4"),
    )
    for begin in range(0, shape[0], _CHUNK):  # a slab at a time: no copy of the whole
        slab = array[:, :, begin : begin + _CHUNK].T
        data[begin : begin + _CHUNK] = slab.astype(kind)
    for key, value in attributes.items():
        data.attrs[key] = np.bytes_(value)


def _text(group: h5py.Group, name: str, text: str) -> None:
    raw = text.encode()
    group.create_dataset(name, data=np.array(raw, f"S{max(len(raw), 1)}"))


def _axes(
    parent: h5py.Group, name: str, grid: Grid, sample: Sample | None, *, signal: str
) -> h5py.Group:
    group = nxmx.add_group(parent, name, "NXdata", signal=signal)
    group.attrs["axes"] = np.array([b"Ql", b"Qk", b"Qh"])
    lengths = [None] * 3
    if sample is not None and sample.lattice is not None:
        reciprocal = np.linalg.inv(direct_basis(sample.lattice)).T
        lengths = list(np.linalg.norm(reciprocal, axis=0) * 2 * math.pi)
    for place, (axis, values) in enumerate(
        (("Ql", grid.l), ("Qk", grid.k), ("Qh", grid.h)),
    ):
        nxmx.add_field(group, axis, values, long_name=f"{axis[1]} (r.l.u.)", units="r.l.u.")
        group.attrs[f"{axis}_indices"] = np.int32(place)
        if lengths[2 - place] is not None:
            group[axis].attrs["scaling_factor"] = lengths[2 - place]
    return group


def _write_level(levels: h5py.Group, level: int, above: Array, weight: Array, grid: Grid) -> None:
    if max(grid.shape) < 2 * level:
        return
    count, time = _coarse(above, level), _coarse(weight, level)
    group = nxmx.add_group(levels, str(level), "NXdata", signal="intensity")
    group.attrs["axes"] = np.array([b"Ql", b"Qk", b"Qh"])
    for name, values in (("Ql", grid.l), ("Qk", grid.k), ("Qh", grid.h)):
        # the middle of what is in each block: the last one may have fewer cells
        group[name] = [np.mean(values[at : at + level]) for at in range(0, len(values), level)]
    mean = np.full(count.shape, np.nan)
    np.divide(count, time, out=mean, where=time > 0)
    _put(group, "intensity", mean, np.float32)


def _coarse(array: Array, level: int) -> Array:
    """Sum blocks of level³ cells; the last ones have fewer."""
    for axis in range(3):
        array = np.add.reduceat(array, np.arange(0, array.shape[axis], level), axis=axis)
    return array


def _write_completeness(entry: h5py.Group, volume: Volume, grid: Grid) -> None:
    group = nxmx.add_group(entry, "completeness", "NXdata", signal="measured")
    group.attrs["axes"] = np.array([b"Q"])
    group.attrs["overall"] = volume.completeness
    sample = volume.sample
    metric = np.eye(3)
    if sample is not None and sample.lattice is not None:
        reciprocal = np.linalg.inv(direct_basis(sample.lattice)).T * 2 * math.pi
        metric = reciprocal.T @ reciprocal
    h, k, l = grid.h[:, None], grid.k[None, :], grid.l  # noqa: E741
    ends = [max(abs(axis[0]), abs(axis[-1])) for axis in (grid.h, grid.k, grid.l)]
    furthest = sum(math.sqrt(metric[i, i]) * end for i, end in enumerate(ends))
    edges = np.linspace(0.0, furthest, 41)
    cells, seen = np.zeros(40), np.zeros(40)
    for i, z in enumerate(l):  # a plane at a time
        squared = (
            metric[0, 0] * h**2 + metric[1, 1] * k**2 + metric[2, 2] * z**2
            + 2 * (metric[0, 1] * h * k + metric[0, 2] * h * z + metric[1, 2] * k * z)
        )  # fmt: skip
        distance = np.sqrt(np.maximum(squared, 0.0))
        cells += np.histogram(distance, edges)[0]
        seen += np.histogram(distance[volume.weight[:, :, i] > 0], edges)[0]
    known = cells > 0
    nxmx.add_field(group, "measured", seen[known] / cells[known])
    nxmx.add_field(group, "Q", (0.5 * (edges[1:] + edges[:-1]))[known], units="1/angstrom")


def _write_sample(entry: h5py.Group, sample: Sample | None, record: Mapping[str, Any]) -> None:
    group = nxmx.add_group(entry, "sample", "NXsample")
    kelvin = record.get("temperature")
    if kelvin is not None:
        nxmx.add_field(group, "temperature", float(kelvin), units="K")
    if sample is None:
        return
    nxmx.add_field(group, "name", sample.name)
    nxmx.add_field(group, "label", sample.label)
    if sample.formula:
        nxmx.add_field(group, "chemical_formula", sample.formula)
    if sample.space_group:
        nxmx.add_field(group, "space_group", sample.space_group)
    if sample.lattice is not None:
        a, b, c, alpha, beta, gamma = sample.lattice
        for name, value in (("a", a), ("b", b), ("c", c)):
            nxmx.add_field(group, f"unitcell_{name}", value, units="Angstrom")
        for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
            nxmx.add_field(group, f"unitcell_{name}", value, units="degree")


def _write_process(entry: h5py.Group, record: Mapping[str, Any]) -> None:
    group = nxmx.add_group(entry, "process", "NXprocess")
    nxmx.add_field(group, "program", "offbragg")
    version = record.get("versions", {}).get("offbragg")
    if version:
        nxmx.add_field(group, "version", version)
    _text(group, "record", json.dumps(record, sort_keys=True))


def write_pdf(
    path: Path | str,
    values: Array,
    axes: tuple[Array, Array, Array],
    lattice: tuple[float, ...],
    record: Mapping[str, Any],
) -> Path:
    """Write a pair distribution: NXdata with axes in lattice vectors, never in place of another.

    Parameters
    ----------
    path
        The file to make.
    values
        Shape (x, y, z); stored as [z, y, x].
    axes
        Along x, y, z.
    lattice
        a, b, c in Å and alpha, beta, gamma in degree.
    record
        How it was made.
    """
    path = Path(path)
    try:
        with new_hdf5(path, libver=_LIBVER) as file:
            file.attrs["default"] = np.bytes_("entry")
            entry = nxmx.add_group(file, "entry", "NXentry", default="pdf")
            data = nxmx.add_group(entry, "pdf", "NXdata", signal="pdf")
            data.attrs["axes"] = np.array([b"z", b"y", b"x"])
            _put(data, "pdf", values, np.float64)
            for name, axis, length in zip("xyz", axes, lattice[:3], strict=True):
                nxmx.add_field(data, name, axis, long_name=f"{name} (lattice vectors)")
                data[name].attrs["scaling_factor"] = length
            nxmx.add_field(entry, "unit_cell", np.array(lattice))
            _write_process(entry, record)
    except FileExistsError:
        raise ReductionError(f"{path} is there already: it is not overwritten") from None
    except (OSError, RuntimeError) as error:
        raise _cannot_be_written(path, error) from error
    return path


def _cannot_be_written(path: Path, error: Exception) -> ReductionError:
    what = getattr(error, "strerror", None) or error
    return ReductionError(
        f"{path} cannot be written: {what}\nLook at the disk's space and permissions."
    )
