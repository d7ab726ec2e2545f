"""nxs-analysis-tools, which needs an environment of its own, on a volume file."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from offbragg.files.cuts import cut_line
from offbragg.files.other_volumes import write_other_volume
from offbragg.files.volume_file import VolumeFile
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.reduction.symmetry import Laue, symmetrise
from offbragg.sample import Sample
from offbragg.volume import Volume


@pytest.mark.slow
@pytest.mark.skipif(
    "OFFBRAGG_NXS_TOOLS" not in os.environ,
    reason="OFFBRAGG_NXS_TOOLS is not set: the Python of an environment with nxs-analysis-tools",
)
def test_its_planes_cuts_and_symmetry_are_ours(tmp_path):
    grid = Grid((-20, -20, -20), (41, 41, 41), (10, 10, 10))
    counts = np.random.default_rng(0).poisson(20.0, grid.shape) + 1.0  # 0 is empty to its symmetry
    sample = Sample("LSMO", "c1", lattice=(4.0, 4.0, 6.0, 90.0, 90.0, 90.0))
    volume = Volume(counts, np.full(grid.shape, 2.0), grid, sample=sample)
    path = write_volume(tmp_path / "v.h5", volume, {"inputs": []})
    driver = Path(__file__).parents[1] / "programs" / "drive_nxs_tools.py"
    other = write_other_volume(tmp_path / "v.nxs", volume, "nxrefine")

    command = [os.environ["OFFBRAGG_NXS_TOOLS"], driver, path, other, tmp_path / "seen.npz"]
    subprocess.run(command, timeout=300, check=True)

    seen = np.load(tmp_path / "seen.npz")
    assert seen["axes"].tolist() == ["Qh", "Qk", "Ql"]
    np.testing.assert_array_equal(seen["transform"], volume.intensity.astype(np.float32))
    np.testing.assert_array_equal(seen["converted"], volume.intensity)  # as double
    np.testing.assert_array_equal(seen["along"], np.concatenate([grid.h, grid.k, grid.l]))
    np.testing.assert_array_equal(seen["plane"], seen["transform"][:, :, 20])
    np.testing.assert_array_equal(seen["drawn"], seen["plane"].T)
    with VolumeFile(path) as file:
        cut = cut_line(file, "h,0.5,0", thickness=0.3)
    np.testing.assert_allclose(seen["at"], cut.axes[0], atol=1e-12)
    np.testing.assert_allclose(seen["line"], cut.intensity, rtol=1e-5)
    # it leaves out images that rounding puts outside: some of those of the outermost cells
    inner = (slice(1, -1), slice(1, -1))
    ours = symmetrise(volume, Laue.named("4/mmm")).intensity
    np.testing.assert_allclose(seen["symmetrised"][inner], ours[inner], rtol=1e-5)
