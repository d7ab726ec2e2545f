"""Runs nxs-analysis-tools, as it is: ``drive_nxs_tools.py VOLUME CONVERTED OUT.npz``.

The transform of a volume file, a plane, a line cut and the volume symmetrised with 4/mmm go into
the last file, and the transform of what `offbragg convert --to nxrefine` wrote.
"""

from __future__ import annotations

import sys

import matplotlib as mpl

mpl.use("Agg")

import hdf5plugin  # noqa: F401  registers bitshuffle, without which nothing can be read
import numpy as np
from nxs_analysis_tools import Scissors, load_transform, plot_slice
from nxs_analysis_tools.pairdistribution import Symmetrizer


def main(volume: str, converted: str, out: str) -> None:
    data = load_transform(volume, print_tree=False)
    again = load_transform(converted, print_tree=False)
    plane = data[:, :, 0.0]
    drawn = plot_slice(plane)
    line = Scissors(data=data).cut_data(
        center=(0.0, 0.5, 0.0), window=(2.0, 0.1, 0.1), normalize=True, empty_bins="nan"
    )
    symmetrised = Symmetrizer(data=data, symmetry="tetragonal", layer_axis=2).symmetrize_3d(
        method="average"
    )
    np.savez(
        out,
        axes=[axis.nxname for axis in data.nxaxes],
        transform=data.nxsignal.nxdata,
        converted=again.nxsignal.nxdata,
        along=np.concatenate([axis.nxdata for axis in again.nxaxes]),
        plane=plane.nxsignal.nxdata,
        drawn=np.ma.filled(drawn.get_array(), np.nan).reshape(plane.nxsignal.shape[::-1]),
        at=line.nxaxes[0].nxdata,
        line=line.nxsignal.nxdata,
        symmetrised=symmetrised.nxsignal.nxdata,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
