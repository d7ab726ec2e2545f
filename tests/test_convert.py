"""Volumes of other programs at the command line: converted, drawn, transformed."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from offbragg.cli.app import app
from offbragg.errors import ReductionError
from offbragg.files.other_volumes import write_other_volume
from offbragg.files.volume_file import VolumeFile, read_volume
from offbragg.grid import Grid
from offbragg.plots.planes import plot
from offbragg.reduction.pair_distribution import pair_distribution
from offbragg.sample import Sample
from offbragg.volume import Volume

HEXAGONAL = (4.0, 4.0, 6.0, 90.0, 90.0, 120.0)


@pytest.fixture
def volume() -> Volume:
    grid = Grid.box((-1, 1), (-1, 1), (-1, 1), step=0.1)
    rng = np.random.default_rng(0)
    weight = (rng.random(grid.shape) > 0.1).astype(float)
    counts = rng.poisson(20, grid.shape).astype(float) * weight
    return Volume(counts, weight, grid, sample=Sample("LSMO", "c1", lattice=HEXAGONAL))


@pytest.mark.parametrize("kind", ["yell", "mantid", "nxrefine"])
def test_a_volume_goes_out_and_comes_back(tmp_path, volume, kind):
    theirs = write_other_volume(tmp_path / "theirs.h5", volume, kind)

    done = CliRunner().invoke(app, ["convert", str(theirs), "--json"], catch_exceptions=False)

    made = json.loads(done.output)
    assert (made["from"], made["to"]) == (kind, "offbragg")
    again = read_volume(made["file"])
    np.testing.assert_array_equal(again.intensity, volume.intensity)
    assert again.sample == volume.sample
    with VolumeFile(made["file"]) as file:
        assert file.record["converted"]["format"] == kind


@pytest.mark.parametrize("kind", ["yell", "mantid", "nxrefine"])
def test_a_volume_of_another_program_is_drawn_and_transformed(tmp_path, volume, kind):
    theirs = write_other_volume(tmp_path / "theirs.h5", volume, kind)

    assert plot(theirs, "hk0.5", out=tmp_path / "p.png") is not None
    done = CliRunner().invoke(app, ["pdf", str(theirs), "--json"], catch_exceptions=False)

    assert (tmp_path / "p.png").stat().st_size > 1000
    found = json.loads(done.output)
    ours = pair_distribution(volume, punch=0.15, centring="P", q_max=None)
    assert found["strongest"] == json.loads(json.dumps(ours.strongest()))


def test_a_name_that_is_taken_stays(tmp_path, volume):
    theirs = write_other_volume(tmp_path / "theirs.h5", volume, "yell")
    (tmp_path / "theirs-mantid.nxs").touch()

    with pytest.raises(ReductionError, match="not overwritten"):
        CliRunner().invoke(app, ["convert", str(theirs), "--to", "mantid"], catch_exceptions=False)


def test_a_volume_that_is_torn_is_left_to_what_reads_ours(tmp_path, volume):
    path = tmp_path / "torn.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["x"] = np.zeros(100)
    path.write_bytes(path.read_bytes()[:200])

    with pytest.raises(ReductionError, match="cannot be opened"):
        plot(path, "hk0", out=tmp_path / "p.png")
