"""Pair distributions on disk: NXdata in HDF5, never in place of another file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py  # pyright: ignore[reportMissingTypeStubs]
import numpy as np

from offbragg.files import nexus
from offbragg.files.draft import new_hdf5
from offbragg.files.volume_chunks import new_array
from offbragg.files.volume_writer import LIBVER, errors_of, write_process
from offbragg.grid import Array


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
    with errors_of(path), new_hdf5(path, libver=LIBVER) as file:
        file.attrs["default"] = np.bytes_("entry")
        entry = nexus.add_group(file, "entry", "NXentry", default="pdf")
        data = nexus.add_group(entry, "pdf", "NXdata", signal="pdf")
        data.attrs["axes"] = np.array([b"z", b"y", b"x"])
        new_array(data, "pdf", values.shape[::-1], np.float64)[...] = values.T
        for name, axis, length in zip("xyz", axes, lattice[:3], strict=True):
            nexus.add_field(data, name, axis, long_name=f"{name} (lattice vectors)")
            data[name].attrs["scaling_factor"] = length
        file["data"] = h5py.SoftLink("/entry/pdf/pdf")  # where diffpy.fourigui looks
        nexus.add_field(entry, "unit_cell", np.array(lattice))
        write_process(entry, record)
    return path
