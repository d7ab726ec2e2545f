"""Volumes of Mantid (CORELLI, TOPAZ …): an MDHistoWorkspace as SaveMD writes it (version 2).

::

    /MDHistoWorkspace   NXentry; attributes SaveMDVersion, QConvention
        data/D0 D1 D2   edges of the bins; attributes long_name ("[H,0,0]"), units, frame
        data/signal     [D2, D1, D0], as its attribute axes = "D2:D1:D0" says
        data/errors_squared, num_events, mask (not 0: masked)
        experiment0/sample/oriented_lattice/orientation_matrix   UB, Å⁻¹ without 2π

A cell is unmeasured where the signal is not finite or the mask is set. ``num_events`` does not say
it: a cell may have been measured and have no event. Mantid's Q is k_i − k_f ("Inelastic", its
default, and that of files that do not say), ours is k_f − k_i ("Crystallography"): so a cell at hkl
there is at −hkl here, as LoadMD itself has it between its two conventions (``LoadMD::loadHisto``).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from offbragg.errors import ReductionError
from offbragg.files.draft import new_hdf5
from offbragg.files.other_fields import (
    Fields,
    even_axis,
    grid_of,
    grid_to_write,
    keep_ours,
    sample_of,
    variance_of,
    volume_of,
)
from offbragg.files.volume_writer import LIBVER, errors_of
from offbragg.grid import Array
from offbragg.lattice import direct_basis, lattice_of
from offbragg.sample import Sample
from offbragg.volume import Volume

_ENTRY = "MDHistoWorkspace"
_DATA = f"{_ENTRY}/data"
_LATTICE = f"{_ENTRY}/experiment0/sample/oriented_lattice"
_PART = re.compile(r"([+-]?)(\d*\.?\d*)\*?([A-Za-z]?)")
_CELL = ("a", "b", "c", "alpha", "beta", "gamma")
_LABELS = ("[H,0,0]", "[0,K,0]", "[0,0,L]")
_HKL = 3  # Mantid::Kernel::SpecialCoordinateSystem


def is_mantid(fields: Fields) -> bool:
    """Return whether a file is a workspace of Mantid."""
    return fields.has(_ENTRY) or fields.has("MDEventWorkspace")


def read_mantid(fields: Fields) -> Volume:
    """Read an MDHistoWorkspace whose axes are h, k and l, in any order.

    Raises
    ------
    ReductionError
        Naming what is missing, or what it has that a volume cannot hold.
    """
    path = fields.path
    if not fields.has(_ENTRY):
        raise ReductionError(
            f"{path} is an MDEventWorkspace: it holds events, not cells\n"
            "Bin it with BinMD or MDNorm."
        )
    if not fields.has(f"{_DATA}/signal"):
        raise ReductionError(
            f"{path} has no /{_DATA}/signal: only what SaveMD version 2 wrote is read"
        )
    signal = fields.array(f"{_DATA}/signal")
    names = str(fields.attribute(f"{_DATA}/signal", "axes") or "").split(":")
    if len(names) != signal.ndim:
        raise ReductionError(f"{path}: /{_DATA}/signal has the axes {names}, not {signal.ndim}")
    order, flips, firsts, steps = _places(fields, names, signal.shape)

    def arranged(values: Array) -> Array:
        if values.shape != signal.shape:
            raise ReductionError(
                f"{path}: its arrays have the shapes {values.shape}, {signal.shape}"
            )
        kept = values.reshape([n for i, n in enumerate(values.shape) if i in order])
        ranks = [sorted(order).index(i) for i in order]
        return np.ascontiguousarray(kept.transpose(ranks)[flips])

    variance = arranged(fields.array(f"{_DATA}/errors_squared"))
    masked = arranged(fields.array(f"{_DATA}/mask")) != 0
    intensity = np.where(masked, np.nan, arranged(signal))
    return volume_of(
        intensity, grid_of(firsts, steps, intensity.shape, path), variance=variance,
        sample=_sample(fields), symmetry=str(fields.ours().get("symmetry", "")),
    )  # fmt: skip


def _places(
    fields: Fields, names: list[str], shape: tuple[int, ...]
) -> tuple[list[int], tuple[slice, ...], list[float], list[float]]:
    """Return for h, k, l: dimension of the array, its direction, first centre and step, r.l.u."""
    inelastic = fields.attribute(_ENTRY, "QConvention") != "Crystallography"
    found: dict[int, tuple[int, slice, float, float]] = {}
    for place, name in enumerate(names):
        axis = f"{_DATA}/{name}"
        label = str(fields.attribute(axis, "long_name"))
        direction = _direction(label)
        if direction is None or fields.attribute(axis, "frame") not in (None, "HKL"):
            if shape[place] == 1 and direction is None:
                continue  # an energy over which was summed
            raise ReductionError(
                f"{fields.path}: /{axis} is {label!r} (frame {fields.attribute(axis, 'frame')}): "
                "only axes along h, k and l are read\nBin it with u=[1,0,0], v=[0,1,0], w=[0,0,1]."
            )
        index, factor = direction
        values = fields.array(axis, ndim=1)
        if len(values) != shape[place] + 1:
            raise ReductionError(
                f"{fields.path}: /{axis} has {len(values)} edges for {shape[place]} bins"
            )
        factor = -factor if inelastic else factor
        first, step = even_axis(factor * values, shape[place], f"{fields.path}: /{axis}")
        if step < 0:
            first += step * (shape[place] - 1)
        found[index] = (place, slice(None, None, 1 if step > 0 else -1), first, abs(step))
    if sorted(found) != [0, 1, 2]:
        raise ReductionError(f"{fields.path}: its axes {names} are not one of h, k and l each")
    order, flips, firsts, steps = zip(*(found[i] for i in range(3)), strict=True)
    return list(order), tuple(flips), list(firsts), list(steps)


def _direction(label: str) -> tuple[int, float] | None:
    """Return along which index an axis runs, and its length, r.l.u.; None: along none.

    Examples
    --------
    >>> _direction("[0,-K,0]"), _direction("[H,H,0]"), _direction("DeltaE")
    ((1, -1.0), None, None)
    """
    text = label.strip()
    if text in ("H", "K", "L"):
        return "HKL".index(text), 1.0
    parts = text[1:-1].split(",") if text[:1] == "[" and text[-1:] == "]" else []
    lengths: list[float] = []
    for part in parts:
        match = _PART.fullmatch(part.strip())
        if match is None or not (match[2] or match[3]) or match[2] == ".":
            return None
        length = float(match[2] or 1) * (-1 if match[1] == "-" else 1)
        if not match[3] and length:
            return None  # beside the origin
        lengths.append(length if match[3] else 0.0)
    along = [i for i, length in enumerate(lengths) if length]
    return (along[0], lengths[along[0]]) if len(lengths) == 3 and len(along) == 1 else None


def _sample(fields: Fields) -> Sample | None:
    if not fields.has(f"{_LATTICE}/orientation_matrix"):
        return None
    UB = np.array(fields.numbers(f"{_LATTICE}/orientation_matrix", 9)).reshape(3, 3)
    if not np.linalg.det(UB) > 0:
        raise ReductionError(f"{fields.path}: its orientation_matrix is not right-handed: {UB}")
    lattice = list(lattice_of(UB))
    if all(fields.has(f"{_LATTICE}/unit_cell_{name}") for name in _CELL):
        given = [fields.numbers(f"{_LATTICE}/unit_cell_{name}", 1)[0] for name in _CELL]
        # LoadMD goes by the matrix; where both agree, the cell is not rounded twice
        lattice = given if np.allclose(given, lattice, rtol=1e-6) else lattice
    name = str(fields.attribute(f"{_ENTRY}/experiment0/sample", "name") or "").strip()
    return sample_of(fields, lattice, kind="mantid", name=name, UB=UB.tolist())


# -- writing -----------------------------------------------------------------------------------


def write_mantid(path: Path, volume: Volume) -> Path:
    """Write a volume as SaveMD writes an MDHistoWorkspace, in the convention k_f − k_i.

    Raises
    ------
    ReductionError
        If it has no grid, there is a file of this name, or it cannot be written.
    """
    grid = grid_to_write(path, volume)
    measured = volume.measured.T
    arrays = {
        "signal": volume.intensity.T,
        "errors_squared": np.where(measured, variance_of(volume).T, 0.0),
        "num_events": measured.astype(np.float64),
        "mask": (~measured).astype(np.int8),
    }
    with errors_of(path), new_hdf5(path, libver=LIBVER) as file:
        entry = _group(file, _ENTRY, "NXentry", QConvention="Crystallography")
        entry.attrs["SaveMDVersion"] = np.int32(2)
        entry["coordinate_system"] = np.array([_HKL], np.uint32)
        entry["visual_normalization"] = np.zeros(1, np.uint32)
        data = _group(entry, "data", "NXdata")
        for i, label in enumerate(_LABELS):
            labels = np.arange(grid.first[i], grid.end[i] + 1) - 0.5
            data[f"D{i}"] = labels / grid.per_unit[i]
            _attributes(data[f"D{i}"], long_name=label, units="r.l.u.", frame="HKL")
        for name, values in arrays.items():
            data.create_dataset(
                name, data=values, chunks=(1, *values.shape[1:]), compression="gzip",
                compression_opts=1,
            )  # fmt: skip
        data["signal"].attrs["signal"] = np.int32(1)
        _attributes(data["signal"], axes="D2:D1:D0")
        _write_experiment(entry, volume.sample)
        keep_ours(file, volume)
    return path


def _write_experiment(entry: Any, sample: Sample | None) -> None:
    """Write what LoadMD wants to find of an experiment: an instrument without a name, no logs."""
    experiment = _group(entry, "experiment0", "NXgroup", version=1)
    instrument = _group(experiment, "instrument", "NXinstrument", version=1)
    _write_text(instrument, "name", " ")
    for name, kind in (("instrument_xml", "text/xml"), ("instrument_parameter_map", "text/plain")):
        note = _group(instrument, name, "NXnote", version=1)
        _write_text(note, "data", " ")
        _write_text(note, "type", kind)
    _group(experiment, "logs", "NXgroup", version=1)
    group = _group(experiment, "sample", "NXsample", version=1)
    _attributes(group, name=" " if sample is None else sample.name, shape_xml=" ")
    group["num_other_samples"] = np.zeros(1, np.int32)
    known = sample is not None and (sample.UB is not None or sample.lattice is not None)
    group["num_oriented_lattice"] = np.array([int(known)], np.int32)
    if sample is None or not known:
        return
    if sample.UB is not None:
        UB = np.array(sample.UB, np.float64)
    else:
        assert sample.lattice is not None
        UB = np.linalg.inv(direct_basis(sample.lattice)).T.astype(np.float64)
    lattice = _group(group, "oriented_lattice", "NXcrystal")
    lattice["orientation_matrix"] = UB
    for name, value in zip(_CELL, sample.lattice or lattice_of(UB), strict=True):
        lattice[f"unit_cell_{name}"] = np.array([value])


def _group(parent: Any, name: str, kind: str, *, version: int | None = None, **text: str) -> Any:
    group = parent.create_group(name)
    _attributes(group, NX_class=kind, **text)
    if version is not None:
        group.attrs["version"] = np.int32(version)
    return group


def _attributes(place: Any, **text: str) -> None:
    for (
        name,
        value,
    ) in text.items():  # of variable length, ASCII, as Mantid's NeXus library has them
        place.attrs.create(name, value.encode(), dtype=h5py.string_dtype("ascii"))


def _write_text(group: Any, name: str, text: str) -> None:
    group[name] = np.array([text.encode()])
