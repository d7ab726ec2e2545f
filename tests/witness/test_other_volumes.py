"""Volumes that other programs really wrote: meerkat reconstructs frames, we read its file."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import h5py
import numpy as np
import pytest
from benchmarks.measurement import CELL, REACH, Measurement
from typer.testing import CliRunner, Result

from offbragg.cli.app import app
from offbragg.errors import ReductionError
from offbragg.files.other_volumes import read_other_volume
from offbragg.files.volume_file import read_volume
from offbragg.grid import Grid

N_FRAMES, HALF = 3, 20


@pytest.fixture(scope="module")
def measurement() -> Measurement:
    return Measurement.of(N_FRAMES, HALF, coarser=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, measurement) -> Path:
    """With frames, XPARM.XDS and what meerkat makes of them: intensities, and sums and numbers."""
    pytest.importorskip("meerkat")
    from benchmarks.peers import MeerkatFromFiles

    folder = tmp_path_factory.mktemp("meerkat")
    peer = MeerkatFromFiles(measurement, folder)
    with contextlib.redirect_stdout(io.StringIO()), np.errstate(invalid="ignore"):
        for name, keep in (("divided.h5", False), ("sums.h5", True)):
            peer.module.reconstruct_data(
                peer.template, 1, N_FRAMES, [REACH] * 3, [2 * HALF + 1] * 3,
                path_to_XPARM=str(folder), output_filename=str(folder / name),
                keep_number_of_pixels=keep,
            )  # fmt: skip
    return folder


@pytest.mark.parametrize("name", ["divided.h5", "sums.h5"])
def test_a_file_that_meerkat_wrote_has_its_cells(folder, measurement, name):
    """The number of pixels of each cell is that of the positions that NumPy bins."""
    kind, volume = read_other_volume(folder / name)

    hkl = np.concatenate([measurement.hkl(number) for number in range(N_FRAMES)])
    cells = np.rint(hkl * (HALF // REACH)).astype(int) + HALF
    wanted = np.zeros((2 * HALF + 1,) * 3)
    np.add.at(wanted, tuple(cells.T), 1.0)
    assert kind == "yell"
    assert volume.grid == Grid((-HALF,) * 3, (2 * HALF + 1,) * 3, (HALF // REACH,) * 3)
    np.testing.assert_allclose(volume.sample.lattice, (CELL, CELL, CELL, 90, 90, 90), rtol=1e-6)
    np.testing.assert_array_equal(volume.measured, wanted > 0)
    with h5py.File(folder / "sums.h5") as file:
        sums, number = file["rebinned_data"][()], file["number_of_pixels_rebinned"][()]
    np.testing.assert_array_equal(number, wanted)
    divided = sums / np.where(number > 0, number, 1).astype(sums.dtype)
    np.testing.assert_allclose(
        volume.intensity[volume.measured], divided[volume.measured], rtol=1e-6
    )
    if name == "sums.h5":
        np.testing.assert_array_equal(volume.counts, sums)
        np.testing.assert_array_equal(volume.weight, number)


def test_what_meerkat_wrote_is_plotted_transformed_and_converted(folder):
    """And why, which asks for frames that it has not, says so."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments), catch_exceptions=True)

    source = str(folder / "divided.h5")
    for arguments in (
        ["plot", source, "hk0", "--out", str(folder / "p.png")],
        ["pdf", source, "--out", str(folder / "pdf.h5")],
        ["convert", source, "--out", str(folder / "ours.h5")],
        ["plot", str(folder / "ours.h5"), "hk0", "--out", str(folder / "q.png")],
        ["pdf", str(folder / "ours.h5"), "--out", str(folder / "pdf2.h5")],
    ):
        done = run(*arguments)
        assert done.exit_code == 0, (arguments, done.output, done.exception)
    np.testing.assert_array_equal(
        read_volume(folder / "ours.h5").intensity, read_other_volume(source)[1].intensity
    )

    for file, message in (
        ("ours.h5", "converted from divided.h5, a volume of meerkat"),
        ("divided.h5", "is a volume of meerkat"),
    ):
        asked = run("why", str(folder / file), "1,0,0")
        assert isinstance(asked.exception, ReductionError), asked.output
        assert message in str(asked.exception)
