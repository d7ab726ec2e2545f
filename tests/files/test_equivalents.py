"""Cuts whose cells are averaged over their equivalents, against the whole volume symmetrised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offbragg.errors import ReductionError
from offbragg.files import equivalents
from offbragg.files.cuts import cut_between, cut_box, cut_line, cut_plane
from offbragg.files.planes import Plane
from offbragg.files.volume_file import VolumeFile
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.reduction.symmetry import Laue, symmetrise
from offbragg.volume import Volume

EVEN = Grid((-6, -6, -6), (13, 13, 13), (4, 4, 4))
ODD = Grid((-2, -5, -7), (20, 11, 12), (4, 4, 4))  # its images reach beyond it


def measured(grid: Grid) -> Volume:
    random = np.random.default_rng(7)
    weight = np.where(random.random(grid.shape) < 0.2, random.uniform(0.5, 2.0, grid.shape), 0.0)
    counts = random.poisson(20.0 * weight).astype(float)
    return Volume(counts, weight, grid, background=3.0 * weight, background_variance=weight / 3)


@pytest.fixture(scope="module", params=["even", "odd"])
def volume(request) -> Volume:
    return measured(EVEN if request.param == "even" else ODD)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, volume: Volume) -> Path:
    return write_volume(tmp_path_factory.mktemp("equivalents") / "v.h5", volume, {})


@pytest.fixture(scope="module", params=["m-3m", "6/mmm", "2/m"])
def laue(request) -> Laue:
    return Laue.named(request.param)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, volume: Volume, laue: Laue) -> Path:
    return write_volume(tmp_path_factory.mktemp("whole") / "v.h5", symmetrise(volume, laue), {})


CUTS = {
    "plane": lambda file, **how: cut_plane(file, Plane.parse("hk0.5"), **how),
    "upright": lambda file, **how: cut_plane(file, Plane.parse("h0l"), **how),
    "thick": lambda file, **how: cut_plane(file, Plane.parse("0kl"), thickness=0.5, **how),
    "oblique": lambda file, **how: cut_plane(file, Plane.parse("hhl"), **how),
    "line": lambda file, **how: cut_line(file, "h,0.5,0", **how),
    "between": lambda file, **how: cut_between(file, [(0, 0, 0), (1, 1, 0.5)], **how),
    "box": lambda file, **how: cut_box(file, "0:1,-1:0,-0.5:0.5", **how),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_symmetrised_cut_is_that_of_the_symmetrised_volume(path, whole, laue, name):
    with VolumeFile(whole) as file:
        expected = CUTS[name](file, sigma=True)

    with VolumeFile(path) as file:
        found = CUTS[name](file, sigma=True, operations=laue.operations)
        alone = CUTS[name](file, operations=laue.operations)

    assert np.isfinite(expected.intensity).any()
    np.testing.assert_allclose(found.intensity, expected.intensity, rtol=2e-6)
    np.testing.assert_allclose(found.sigma, expected.sigma, rtol=2e-6)
    np.testing.assert_array_equal(alone.intensity, found.intensity)
    assert found.at == expected.at


@pytest.mark.parametrize("name", ["plane", "oblique"])
def test_a_coarse_one_has_the_sums_of_the_symmetrised_cells(path, whole, laue, name):
    with VolumeFile(whole) as file:
        expected = CUTS[name](file, level=4, sigma=True)

    with VolumeFile(path) as file:
        found = CUTS[name](file, level=4, operations=laue.operations)

    np.testing.assert_allclose(found.intensity, expected.intensity, rtol=2e-6)


def test_pieces_of_a_large_box_have_the_same_sums(path, laue, monkeypatch):
    with VolumeFile(path) as file:
        expected = CUTS["upright"](file, operations=laue.operations)
    monkeypatch.setattr(equivalents, "_WHOLE", 0)
    monkeypatch.setattr(equivalents, "_LOOSE", 0)
    monkeypatch.setattr(equivalents, "BRICK", 8)

    with VolumeFile(path) as file:
        found = CUTS["upright"](file, operations=laue.operations)

    np.testing.assert_allclose(found.intensity, expected.intensity, rtol=1e-6)


def test_a_volume_that_is_symmetrised_is_not_symmetrised_again(whole, laue):
    with VolumeFile(whole) as file, pytest.raises(ReductionError, match="were made over"):
        CUTS["plane"](file, operations=laue.operations)
