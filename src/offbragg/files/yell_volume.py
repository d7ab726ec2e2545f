"""Volumes of meerkat, Yell and DISCUS: ``Yell 1.0`` in HDF5.

::

    /format         "Yell 1.0"; "Yell 0.9": meerkat kept sums and numbers of pixels
    /data           intensity [h, k, l]; NaN where nothing was measured
    /lower_limits   centre of the first cell along h, k, l, r.l.u.
    /step_sizes     distance of neighbouring centres, r.l.u.
    /unit_cell      a, b, c in Å and alpha, beta, gamma in degree
    /is_direct      true: a pair distribution, in lattice vectors

meerkat rounds ``(hkl − lower_limits) / step_sizes`` to the index of a cell: the limits are centres,
not edges (``meerkat.reconstruct_data``). DISCUS has the vector of each step beside its size. The
format has no standard deviation.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from offbragg.errors import ReductionError
from offbragg.files.draft import new_hdf5
from offbragg.files.other_fields import Fields, grid_of, keep_ours, sample_of, volume_of
from offbragg.files.volume_writer import LIBVER, errors_of
from offbragg.volume import Volume

_VECTORS = ("step_sizes_abs", "step_sizes_ord", "step_sizes_top")  # of DISCUS


def is_yell(fields: Fields) -> bool:
    """Return whether a file has the layout of Yell."""
    return fields.has("lower_limits") and fields.has("step_sizes")


def read_yell(fields: Fields) -> Volume:
    """Read a volume of Yell, meerkat or DISCUS.

    Raises
    ------
    ReductionError
        Naming what is missing, or what it has that a volume cannot hold.
    """
    path = fields.path
    if fields.array("is_direct").any():
        raise ReductionError(
            f"{path} is a pair distribution (is_direct is true), not a volume of reciprocal space"
        )
    steps = fields.numbers("step_sizes", 3)
    for place, name in enumerate(_VECTORS):
        if fields.has(name):
            vector = fields.numbers(name, 3)
            if np.count_nonzero(np.abs(vector) > 1e-6) > 1 or vector[place] < 1e-6:
                raise ReductionError(
                    f"{path}: {name} is {vector}: only axes along h, k and l, in this order, are "
                    "read"
                )
    limits, cell = fields.numbers("lower_limits", 3), fields.numbers("unit_cell", 6)
    sample, symmetry = sample_of(fields, cell, kind="yell"), str(fields.ours().get("symmetry", ""))
    if not fields.has("data") and fields.has("rebinned_data"):  # Yell 0.9
        counts = fields.array("rebinned_data", ndim=3)
        weight = fields.array("number_of_pixels_rebinned", ndim=3)
        grid = grid_of(limits, steps, counts.shape, path)
        unknown = np.where(weight > 0, np.nan, 0.0)
        return Volume(counts, weight, grid, variance=unknown, sample=sample, symmetry=symmetry)
    data = fields.array("data", ndim=3)
    return volume_of(
        data, grid_of(limits, steps, data.shape, path), sample=sample, symmetry=symmetry
    )


def write_yell(path: Path, volume: Volume) -> Path:
    """Write a volume as Yell, meerkat and DISCUS have it: the intensities, without their errors.

    Raises
    ------
    ReductionError
        If it has no lattice, there is a file of this name, or it cannot be written.
    """
    grid = volume.grid
    if grid is None or volume.sample is None or volume.sample.lattice is None:
        raise ReductionError(f"{path} cannot be written: Yell needs a grid and a unit cell")
    with errors_of(path), new_hdf5(path, libver=LIBVER) as file:
        file.create_dataset("format", data="Yell 1.0", dtype=h5py.string_dtype())
        file["data"] = volume.intensity
        file["lower_limits"] = np.array([grid.h[0], grid.k[0], grid.l[0]])
        file["step_sizes"] = np.array(grid.step)
        file["unit_cell"] = np.array(volume.sample.lattice)
        file["is_direct"] = False
        keep_ours(file, volume)
    return path
