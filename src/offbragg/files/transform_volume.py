"""Volumes of CCTW and NXRefine: NXdata with the axes Ql, Qk, Qh.

::

    /entry/transform    NXdata in the wrapper; `data` may be a link into transform.nxs beside it
    /entry/data         NXdata: v and n, of which the intensity is v / n
    Qh, Qk, Ql          centres of the cells (or edges: one more), r.l.u.
    n, or what the attribute `weights` names; without: the intensity is divided already

Arrays are [l, k, h]. CCTW leaves a cell that no pixel met at 0 when it divides
(``CctwDataChunk::normalizeChunk``): so without weights a 0 is an unmeasured cell, unless NaN says
where these are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from offbragg.errors import ReductionError
from offbragg.files import nexus
from offbragg.files.draft import new_hdf5
from offbragg.files.other_fields import (
    Fields,
    even_axis,
    grid_of,
    grid_to_write,
    keep_ours,
    sample_of,
    volume_of,
)
from offbragg.files.volume_writer import LIBVER, errors_of
from offbragg.grid import Array
from offbragg.sample import Sample
from offbragg.volume import Volume

_PLACES = ("entry/transform", "entry/masked_transform", "entry/symm_transform", "entry/data")
_AXES = (("Qh", "Qk", "Ql"), ("H", "K", "L"))
_CELL = ("a", "b", "c", "alpha", "beta", "gamma")


def is_transform(fields: Fields) -> bool:
    """Return whether a file has the axes of a transform."""
    return _place(fields) is not None


def read_transform(fields: Fields) -> Volume:
    """Read a volume of NXRefine or CCTW, with weights or divided by them.

    Raises
    ------
    ReductionError
        Naming what is missing, or what it has that a volume cannot hold.
    """
    found = _place(fields)
    if found is None:
        raise ReductionError(f"{fields.path} has no axes Qh, Qk, Ql in any of {_PLACES}")
    group, names = found
    given = fields.attribute(group, "axes")
    if given is not None and list(given) != list(reversed(names)):
        raise ReductionError(
            f"{fields.path}: /{group} has the axes {given}: only {names[::-1]} are read"
        )
    signal = str(fields.attribute(group, "signal") or "data")
    counts = _array(fields, f"{group}/{signal}").T
    firsts, steps = zip(
        *(
            even_axis(fields.array(f"{group}/{name}", ndim=1), n, f"{fields.path}: /{group}/{name}")
            for name, n in zip(names, counts.shape, strict=True)
        ),
        strict=True,
    )
    grid = grid_of(firsts, steps, counts.shape, fields.path)
    sample, symmetry = _sample(fields), str(fields.ours().get("symmetry", ""))
    weights = str(fields.attribute(group, "weights") or "n")
    if not fields.has(f"{group}/{weights}"):
        divided = counts if np.isnan(counts).any() else np.where(counts == 0, np.nan, counts)
        return volume_of(divided, grid, sample=sample, symmetry=symmetry)
    weight = _array(fields, f"{group}/{weights}").T
    if weight.shape != counts.shape:
        raise ReductionError(
            f"{fields.path}: /{group}/{weights} has the shape {weight.shape}, not {counts.shape}"
        )
    measured = (weight > 0) & np.isfinite(counts)
    if fields.has(f"{group}/variance"):
        variance = _array(fields, f"{group}/variance").T
    else:
        variance = np.full(counts.shape, np.nan)  # what the counts were before is not in the file
    return Volume(
        np.where(measured, counts, 0.0), np.where(measured, weight, 0.0), grid,
        variance=np.where(measured, variance, 0.0), sample=sample, symmetry=symmetry,
    )  # fmt: skip


def _place(fields: Fields) -> tuple[str, tuple[str, str, str]] | None:
    for group in _PLACES:
        for names in _AXES:
            if all(fields.has(f"{group}/{name}") for name in names):
                return group, names
    return None


def _array(fields: Fields, name: str) -> Array:
    """Read an array, or follow its link to a file in the folder of this one, or below."""
    linked = fields.elsewhere(name)
    if linked is None:
        return fields.array(name, ndim=3)
    folder = fields.path.resolve().parent
    target = (folder / linked[0]).resolve()
    if not target.is_relative_to(folder):
        raise ReductionError(
            f"{fields.path}: /{name} is a link to {linked[0]}, which is not in its folder: it is "
            "not followed"
        )
    with Fields(target) as other:
        return other.array(linked[1].strip("/"), ndim=3)


def _sample(fields: Fields) -> Sample | None:
    names = [
        next((f"entry/sample/{key}" for key in keys if fields.has(f"entry/sample/{key}")), "")
        for keys in ((f"unitcell_{name}", f"unit_cell_{name}") for name in _CELL)
    ]
    if not all(names):
        return None
    lattice = [fields.numbers(name, 1)[0] for name in names]
    name = fields.text("entry/sample/name") if fields.has("entry/sample/name") else ""
    return sample_of(fields, lattice, kind="nxrefine", name=name)


def write_transform(path: Path, volume: Volume) -> Path:
    """Write a volume as NXRefine has it: v, n and the intensity, without filters of ours.

    Raises
    ------
    ReductionError
        If it has no grid, there is a file of this name, or it cannot be written.
    """
    grid = grid_to_write(path, volume)
    above = volume.counts if volume.background is None else volume.counts - volume.background
    arrays = {
        "v": above, "n": volume.weight, "data": volume.intensity, "variance": volume.total_variance
    }  # fmt: skip
    with errors_of(path), new_hdf5(path, libver=LIBVER) as file:
        file.attrs["default"] = np.bytes_("entry")
        entry = nexus.add_group(file, "entry", "NXentry", default="transform")
        group = nexus.add_group(entry, "transform", "NXdata", signal="v", weights="n")
        group.attrs["axes"] = np.array([b"Ql", b"Qk", b"Qh"])
        centres = zip(
            ("Ql", "Qk", "Qh"), (grid.l, grid.k, grid.h), grid.per_unit[::-1], strict=True
        )
        for place, (name, values, per_unit) in enumerate(centres):
            if len(values) == 1:  # its edges: one centre would not say the step
                values = values[0] + np.array([-0.5, 0.5]) / per_unit
            nexus.add_field(group, name, values, long_name=f"{name[1]} (r.l.u.)", units="r.l.u.")
            group.attrs[f"{name}_indices"] = np.int32(place)
        for name, values in arrays.items():
            group.create_dataset(
                name, data=values.T, chunks=tuple(min(32, n) for n in values.shape[::-1]),
                compression="gzip", compression_opts=1,
            )  # fmt: skip
        group["v"].attrs["weights"] = np.bytes_("n")
        entry["data"] = group  # where CCTW merges: entry/data/v and entry/data/n
        sample = nexus.add_group(entry, "sample", "NXsample")
        if volume.sample is not None:
            nexus.add_field(sample, "name", volume.sample.name)
        if volume.sample is not None and volume.sample.lattice is not None:
            for name, value in zip(_CELL, volume.sample.lattice, strict=True):
                nexus.add_field(sample, f"unitcell_{name}", value)
        keep_ours(file, volume)
    return path
