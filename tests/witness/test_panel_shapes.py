"""One path for every shape of panel: frames of the simulator become S(Q), which has its truth.

Frames of a Pilatus are CBF files and are stacked; those of an Eiger and a Pilatus4 are an Eiger
master with its data files, unsigned counts, and are adopted. Size, pixel and gaps of the simulated
panels are those of `offbragg.panels`, which are pyFAI's (`test_panels.py`).
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from measured import AS_SIMULATED, MONITOR, Measured, Truth
from test_adopt import master, model_of
from test_orient import nearest_turn
from typer.testing import CliRunner

from offbragg.cli.app import app
from offbragg.files import ScanFile
from offbragg.files.orientation import read_orientation
from offbragg.grid import Grid
from offbragg.panels import panel_named
from offbragg.workflows.choices import Choices
from offbragg.workflows.reduce import reduce_files
from sim_iocs import crystal
from sim_iocs.cbf import encode_cbf

SHAPES = {
    "300K-W": "Pilatus 300K-W", "Pilatus4 260K": "Pilatus4 260K", "Eiger 1M": "Eiger 1M",
    "Eiger2 CdTe 500K": "Eiger2 CdTe 500K", "Eiger2 1M-W": "Eiger2 1M-W",
}  # fmt: skip


def _run(*arguments: object) -> None:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == 0, (done.output, done.exception)


def _stored(sweep: Measured, folder: Path) -> Path:
    """Write what the detector writes, and make a scan file of it with the command line."""
    folder.mkdir()
    model, out = model_of(sweep, folder / "model.json"), folder / "f1.h5"
    if not sweep.detector.startswith(("Pilatus4", "Eiger")):
        for number in range(sweep.n_frames):
            content = encode_cbf(sweep.counts[number], name="x", header=["Exposure_time 0.1 s"])
            (folder / f"x_{number:05d}.cbf").write_bytes(content)
        _run("stack-files", folder, "--model", model, "--out", out)
        return out
    source = master(folder, sweep.counts, per_file=7)
    with h5py.File(source, "a") as file:
        file["/entry/monitor/data"] = sweep.flux
    _run("adopt", source, "--model", model, "--sample", "perovskite", "--out", out,
         "--monitor", "/entry/monitor/data")  # fmt: skip
    return out


def _pulls(sweep: Measured, path: Path) -> np.ndarray:
    grid = Grid.covering(sweep.geometry, sweep.sweep, sweep.UB, step=0.025)
    with ScanFile.open(path) as scan:
        monitor = "monitor" in scan.frame_values()
    mask = sweep.mask_file(path.parent)
    choices = Choices(grid=grid, corrections=AS_SIMULATED, mask=mask, monitor=monitor)
    volume = reduce_files(path, choices)
    truth = Truth(grid).add(sweep)
    # without a monitor the flux is the exposure time
    return truth.pulls(volume, unit=MONITOR if monitor else 1.0)


@pytest.mark.parametrize("name", SHAPES)
def test_the_simulator_has_the_panel_that_is_known(name):
    known, simulated = panel_named(SHAPES[name]), crystal.KINDS[name]

    assert (simulated.shape, simulated.pixel) == (known.shape, known.pixel)
    np.testing.assert_array_equal(crystal.module_mask(simulated.shape, simulated), known.gaps())


@pytest.mark.parametrize("name", ["300K-W", "Pilatus4 260K", "Eiger2 CdTe 500K"])
def test_a_short_sweep_becomes_what_is_true(tmp_path, name):
    sweep = Measured(n_frames=4, step=1.5, detector=name)

    path = _stored(sweep, tmp_path / "x")

    with ScanFile.open(path) as scan:
        np.testing.assert_array_equal(scan.stack.counts[3], sweep.counts[3])
        masked = scan.pixel_mask()
    np.testing.assert_array_equal(masked == 1, sweep.crystal.gaps)
    np.testing.assert_array_equal(masked == 2, sweep.crystal.bad)
    pulls = _pulls(sweep, path)
    assert pulls.size > 50_000
    assert abs(pulls.mean()) < max(0.01, 4 / np.sqrt(pulls.size))
    assert 0.98 < pulls.std() < 1.02


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SHAPES)
def test_a_long_sweep_is_indexed_and_becomes_what_is_true(tmp_path, name):
    """Index finds the crystal from peaks alone; the volume goes by the orientation of the model."""
    sweep = Measured(n_frames=60, step=1.0, detector=name)
    path = _stored(sweep, tmp_path / "x")
    given = _pulls(sweep, path)

    _run("index", path, "--cell", "4.186,4.186,4.186,90,90,90")

    found = read_orientation(path.parent / "orientation.json")
    off = nearest_turn(np.array(found.UB))
    print(f"{name}: {sweep.crystal.shape}, given: {given.size} cells, mean {given.mean():.4f}, "
          f"std {given.std():.4f}; found {off:.4f} degree from the truth")  # fmt: skip
    assert off < 0.05  # a panel of one row of modules sees little across
    assert abs(given.mean()) < max(0.01, 4 / np.sqrt(given.size))
    assert 0.98 < given.std() < 1.02
