"""A volume on disk: HDF5 that NeXpy plots and NXRefine reads as ``transform``.

::

    /entry            NXentry        opens on data
        data          NXdata         intensity (NaN where nothing was measured), its errors
        transform     NXdata         v = counts above background, n = weight; v / n is the
                                     intensity, `data` links to it
        volume        NXcollection   the sums as they were made, what `Volume` holds
        levels/2 4 8  NXdata         intensity of 2 × 2 × 2 … cells, for a first look
        completeness  NXdata         measured part of the cells, by distance from the origin
        sample        NXsample
        process       NXprocess      the record: inputs with checksums, parameters, order, versions

Arrays are stored with l slowest and h fastest, axes [Ql, Qk, Qh], as NXRefine has them; a `Volume`
has (h, k, l). Level 2 sums pairs of cells along h, then k, then l, and level 4 those of level 2:
this order only matters for weights that are not whole numbers of a unit. Nothing in the file tells
when it was made, so the same record makes the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from offbragg.bricks import LEVELS, Bricks, volume_bricks
from offbragg.errors import ReductionError, VolumeWriteError
from offbragg.files import nexus
from offbragg.files.draft import draft, hdf5_in, new_hdf5
from offbragg.files.volume_chunks import Progress, new_array, write_arrays
from offbragg.files.volume_shells import Shells
from offbragg.grid import Grid
from offbragg.lattice import direct_basis
from offbragg.sample import Sample
from offbragg.volume import Volume

LIBVER = ("v110", "v110")  # as scan files: newer layouts cannot be read with HDF5 1.10


def write_volume(
    path: Path | str,
    volume: Volume | Bricks,
    record: Mapping[str, Any],
    *,
    progress: Progress = lambda done, total: None,
    threads: int | None = None,
) -> Path:
    """Write a volume file; it appears at once, complete, and never in place of another.

    Parameters
    ----------
    path
        The file to make.
    volume
        With a grid; or its sums in bricks, of which a few at a time are in memory.
    record
        How it was made; plain JSON types. It goes into the file as it is.
    progress
        Called with the number of bricks that are written, and of all.
    threads
        How many compress; None: as many as there are processors. The file is the same.

    Raises
    ------
    ReductionError
        If there is a file of this name, or it cannot be written.
    """
    path = Path(path)
    bricks = _bricks(volume)
    with errors_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_hdf5(path, libver=LIBVER) as file:
            write_file(
                file, bricks, record,
                partial(write_arrays, bricks, progress=progress, threads=threads),
            )  # fmt: skip
    return path


@contextlib.contextmanager
def passing_volume(
    directory: Path, volume: Volume | Bricks, record: Mapping[str, Any]
) -> Iterator[Path]:
    """Write a volume file that is only there within the ``with``, under a path of this process.

    Raises
    ------
    ReductionError
        If it cannot be written.
    """
    with errors_of(directory / "a volume to compare"), draft(directory / "volume.h5") as made:
        with hdf5_in(made, libver=LIBVER) as file:
            bricks = _bricks(volume)
            write_file(file, bricks, record, partial(write_arrays, bricks))
        yield made.path


@contextlib.contextmanager
def errors_of(path: Path) -> Iterator[None]:
    """Turn what happens while a file is written into an error that names the file."""
    try:
        yield
    except FileExistsError:
        raise ReductionError(f"{path} is there already: it is not overwritten") from None
    except (OSError, RuntimeError) as error:
        what = getattr(error, "strerror", None) or error
        raise VolumeWriteError(
            f"{path} cannot be written: {what}\nLook at the disk's space and permissions."
        ) from error


def _bricks(volume: Volume | Bricks) -> Bricks:
    return volume_bricks(volume) if isinstance(volume, Volume) else volume


def write_file(
    file: h5py.File,
    bricks: Bricks,
    record: Mapping[str, Any],
    write: Callable[[Mapping[str, h5py.Dataset], Mapping[int, h5py.Dataset]], Shells],
) -> None:
    """Write all of a volume file, in the order that makes its bytes.

    Parameters
    ----------
    file
        Empty.
    bricks, record
        As for `write_volume`; of the sums only what they are of, not what they are.
    write
        Fills the arrays and levels, and returns what was measured at which distance.
    """
    arrays, levels = lay_out(file, bricks, record)
    write_completeness(file, write(arrays, levels))
    entry: Any = file["entry"]
    write_process(entry, record)


def lay_out(
    file: h5py.File, bricks: Bricks, record: Mapping[str, Any]
) -> tuple[dict[str, h5py.Dataset], dict[int, h5py.Dataset]]:
    """Make all of a volume file but what is in its arrays, its completeness and its record.

    Returns
    -------
    arrays, levels
        As `write_arrays` takes them.
    """
    grid, sample = bricks.grid, bricks.sample
    shape = grid.shape[::-1]
    file.attrs["default"] = np.bytes_("entry")
    entry = nexus.add_group(file, "entry", "NXentry", default="data")
    title = "S(Q)" if sample is None else f"{sample.name} {sample.label}"
    nexus.add_field(entry, "title", title)
    _write_sample(entry, sample, record)

    sums = nexus.add_group(entry, "volume", "NXcollection")
    arrays = {name: new_array(sums, name, shape, np.float64) for name in bricks.names}
    nexus.add_field(sums, "grid", json.dumps(grid.to_dict()))
    _write_text(sums, "symmetry", bricks.symmetry)
    if sample is not None:
        _write_text(sums, "sample", json.dumps(sample.to_dict()))

    data = _axes(entry, "data", grid, sample, signal="intensity")
    arrays["intensity"] = new_array(data, "intensity", shape, np.float32, units="counts / weight")
    arrays["intensity_errors"] = new_array(data, "intensity_errors", shape, np.float32)

    transform = _axes(entry, "transform", grid, sample, signal="v")
    transform.attrs["weights"] = np.bytes_("n")
    if "background" in bricks.names:
        arrays["v"] = new_array(transform, "v", shape, np.float64)
    else:
        transform["v"] = h5py.SoftLink("/entry/volume/counts")
    transform["n"] = h5py.SoftLink("/entry/volume/weight")
    transform["data"] = h5py.SoftLink("/entry/data/intensity")  # for nxs-analysis-tools
    sums["counts"].attrs["weights"] = np.bytes_("n")

    group = nexus.add_group(entry, "levels", "NXcollection")
    levels = {
        level: _new_level(group, level, grid) for level in LEVELS if max(grid.shape) >= 2 * level
    }
    return arrays, levels


def _write_text(group: h5py.Group, name: str, text: str) -> None:
    raw = text.encode()
    group.create_dataset(name, data=np.array(raw, f"S{max(len(raw), 1)}"))


def _axes(
    parent: h5py.Group, name: str, grid: Grid, sample: Sample | None, *, signal: str
) -> h5py.Group:
    group = nexus.add_group(parent, name, "NXdata", signal=signal)
    group.attrs["axes"] = np.array([b"Ql", b"Qk", b"Qh"])
    lengths = [None] * 3
    if sample is not None and sample.lattice is not None:
        reciprocal = np.linalg.inv(direct_basis(sample.lattice)).T
        lengths = list(np.linalg.norm(reciprocal, axis=0) * 2 * math.pi)
    for place, (axis, values) in enumerate(
        (("Ql", grid.l), ("Qk", grid.k), ("Qh", grid.h)),
    ):
        nexus.add_field(group, axis, values, long_name=f"{axis[1]} (r.l.u.)", units="r.l.u.")
        group.attrs[f"{axis}_indices"] = np.int32(place)
        if lengths[2 - place] is not None:
            group[axis].attrs["scaling_factor"] = lengths[2 - place]
    return group


def _new_level(levels: h5py.Group, level: int, grid: Grid) -> h5py.Dataset:
    group = nexus.add_group(levels, str(level), "NXdata", signal="intensity")
    group.attrs["axes"] = np.array([b"Ql", b"Qk", b"Qh"])
    for name, values in (("Ql", grid.l), ("Qk", grid.k), ("Qh", grid.h)):
        # the middle of what is in each block: the last one may have fewer cells
        group[name] = [np.mean(values[at : at + level]) for at in range(0, len(values), level)]
    shape = tuple(-(-n // level) for n in reversed(grid.shape))
    return new_array(group, "intensity", shape, np.float32)


def write_completeness(file: h5py.File, shells: Shells) -> None:
    """Write how complete a volume is, by distance from the origin."""
    entry: Any = file["entry"]
    group = nexus.add_group(entry, "completeness", "NXdata", signal="measured")
    group.attrs["axes"] = np.array([b"Q"])
    group.attrs["overall"] = shells.completeness
    distance, measured = shells.measured()
    nexus.add_field(group, "measured", measured)
    nexus.add_field(group, "Q", distance, units="1/angstrom")


def _write_sample(entry: h5py.Group, sample: Sample | None, record: Mapping[str, Any]) -> None:
    group = nexus.add_group(entry, "sample", "NXsample")
    kelvin = record.get("temperature")
    if kelvin is not None:
        nexus.add_field(group, "temperature", float(kelvin), units="K")
    if sample is None:
        return
    nexus.add_field(group, "name", sample.name)
    nexus.add_field(group, "label", sample.label)
    if sample.formula:
        nexus.add_field(group, "chemical_formula", sample.formula)
    if sample.space_group:
        nexus.add_field(group, "space_group", sample.space_group)
    if sample.lattice is not None:
        a, b, c, alpha, beta, gamma = sample.lattice
        for name, value in (("a", a), ("b", b), ("c", c)):
            nexus.add_field(group, f"unitcell_{name}", value, units="Angstrom")
        for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
            nexus.add_field(group, f"unitcell_{name}", value, units="degree")


def write_process(entry: h5py.Group, record: Mapping[str, Any]) -> None:
    """Write how a file was made: `NXprocess` with the record as JSON."""
    group = nexus.add_group(entry, "process", "NXprocess")
    nexus.add_field(group, "program", "offbragg")
    version = record.get("versions", {}).get("offbragg")
    if version:
        nexus.add_field(group, "version", version)
    _write_text(group, "record", json.dumps(record, sort_keys=True))
