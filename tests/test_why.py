"""Which pixels made a cell of a volume."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from measured import AS_SIMULATED, Measured
from typer.testing import CliRunner

from offbragg.cli.app import app
from offbragg.errors import ReductionError
from offbragg.files.scan_file import ScanFile
from offbragg.files.volume_file import VolumeFile, read_volume
from offbragg.grid import Grid
from offbragg.kernels.numbering import place_of
from offbragg.kernels.transform import places
from offbragg.reduction.binning import FrameToAdd, Oversample
from offbragg.reduction.trace import visits
from offbragg.workflows.choices import Choices
from offbragg.workflows.reduce import reduce_files
from offbragg.workflows.why import why, why_cells

CHOICES = Choices(step=0.1, corrections=AS_SIMULATED)


@pytest.fixture(scope="module")
def sweep() -> Measured:
    return Measured(n_frames=24, step=1.0, temperature=100.0)


@pytest.fixture(scope="module")
def folder(sweep, tmp_path_factory):
    return tmp_path_factory.mktemp("why")


@pytest.fixture(scope="module")
def scan_path(folder, sweep):
    return sweep.write(folder / "c1")


@pytest.fixture(scope="module")
def volume_path(folder, sweep, scan_path):
    path = folder / "v.h5"
    reduce_files(scan_path, replace(CHOICES, mask=sweep.mask_file(folder)), out=path)
    return path


def points(grid: Grid, cells: np.ndarray) -> np.ndarray:
    return (np.array(grid.first) + cells) / np.array(grid.per_unit)


@pytest.mark.parametrize("most", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_cells_are_exactly_the_sums_of_their_pixels(volume_path, most):
    volume = read_volume(volume_path)
    rng = np.random.default_rng(1)
    measured = np.argwhere(volume.weight > 0)
    seen = 7 * most // 10
    cells = np.concatenate(
        [rng.permutation(measured)[:seen], rng.integers(0, volume.grid.shape, (most - seen, 3))]
    )

    found = why_cells(volume_path, points(volume.grid, cells))

    assert all(each.exact for each in found)
    for each, cell in zip(found, cells, strict=True):
        assert each.counts == volume.counts[*cell]
        assert each.weight == volume.weight[*cell]
        assert sum(p.weight for p in each.pixels) * each.weight_unit == volume.weight[*cell]
    assert sum(len(each.pixels) for each in found) > 3 * most


def test_the_cells_at_the_edges_of_the_grid_too(scan_path, tmp_path):
    """And in a grid that cuts off most of what is measured."""
    grid = Grid.parse("-0.6:0.3:0.1,-0.2:0.5:0.1,-0.5:0.1:0.1")
    volume = reduce_files(scan_path, replace(CHOICES, grid=grid), out=tmp_path / "v.h5")
    corners = np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(grid.shape) - 1)
    rng = np.random.default_rng(2)
    faces = rng.integers(0, grid.shape, (60, 3))
    for n, cell in enumerate(faces):
        cell[n % 3] = 0 if n % 2 else grid.shape[n % 3] - 1
    cells = np.concatenate([corners, faces])
    assert np.count_nonzero(volume.weight[tuple(cells.T)]) > 10

    found = why_cells(tmp_path / "v.h5", points(grid, cells))

    assert all(each.exact for each in found)


@pytest.mark.parametrize("more", [
    {"symmetry": "m-3m"},
    {"oversample": Oversample(2, 3)},
    {"oversample": Oversample(2, 1), "symmetry": "mmm"},
    {"symmetry": "m-3m", "grid": Grid.parse("0:1:0.1,0:1:0.1,0:1:0.1")},
])  # fmt: skip
def test_equivalent_cells_and_parts_of_pixels_are_in_the_sums(scan_path, tmp_path, more):
    volume = reduce_files(scan_path, replace(CHOICES, **more), out=tmp_path / "v.h5")
    assert volume.grid is not None
    cells = np.random.default_rng(3).permutation(np.argwhere(volume.weight > 0))[:12]

    found = why_cells(tmp_path / "v.h5", points(volume.grid, cells))

    assert all(each.exact for each in found)
    assert all(each.counts == pytest.approx(volume.counts[*cell], rel=1e-12)
               for each, cell in zip(found, cells, strict=True))  # fmt: skip
    if "oversample" in more:
        assert {p.parts for each in found for p in each.pixels} > {1}
    if "symmetry" in more:
        assert max(len(each.cells) for each in found) > 1


def test_two_sweeps_and_a_background(tmp_path, sweep, scan_path):
    other = Measured(n_frames=6, step=1.0, first=30.0, temperature=100.0, series=2)
    air = Measured(n_frames=4, step=1.0, crystal_in=False, series=3)
    files = [scan_path, other.write(tmp_path / "c2")]
    volume = tmp_path / "v.h5"
    reduce_files(files, replace(CHOICES, background=str(air.write(tmp_path / "air"))), out=volume)
    read = read_volume(volume)
    cells = np.random.default_rng(4).permutation(np.argwhere(read.weight > 0))[:100]

    found = why_cells(volume, points(read.grid, cells))

    assert all(each.exact for each in found)
    assert {p.file for each in found for p in each.pixels} == {str(file) for file in files}


def test_a_cell_that_was_not_measured_says_why(tmp_path, sweep):
    bad = [8, 9, 10, 11, 12]
    scan = sweep.write(tmp_path / "c", without=bad, repeated={3: 2})
    mask = np.zeros(sweep.shadow.shape, bool)
    mask[:, 200:260] = True
    np.save(tmp_path / "mask.npy", mask)
    volume = tmp_path / "v.h5"
    reduce_files(scan, replace(CHOICES, mask=tmp_path / "mask.npy"), out=volume)
    with VolumeFile(volume) as file:
        grid, weight = file.grid, file.volume().weight
    empty = np.argwhere(weight == 0)
    pick = np.random.default_rng(5).permutation(empty)[:600]

    found = why_cells(volume, points(grid, pick))

    assert not any(each.counts or each.weight for each in found)
    states = {state for each in found for state in each.states}
    assert {"missing", "masked", "repeated"} <= states
    assert {"not measured: no frame of these sweeps reaches it"} < {each.verdict for each in found}
    for each in found:
        missing = {p.frame for p in each.pixels if p.state == "missing"}
        assert missing <= set(bad)
        assert each.reasons == {(str(scan), n): "was not there" for n in sorted(missing)}
        assert all(p.frame == 3 for p in each.pixels if p.state == "repeated")
        assert all(200 <= p.fast < 260 or p.counts < 0 for p in each.pixels if p.state == "masked")
    only = next(each for each in found if set(each.states) == {"missing"})
    assert only.verdict.startswith("not measured: ")
    assert only.verdict.endswith("missing)")
    assert all(p.counts is None for p in only.pixels)


def test_hot_dark_and_saturated_pixels_are_listed(tmp_path):
    beam = np.ones(12)
    beam[5] = 0.0
    sweep = Measured(n_frames=12, step=1.0, beam=beam)
    sweep.counts[:, 50, 60] = 900_000  # hot
    sweep.counts[7, 80, 100] = 1_100_000  # saturated in one frame
    volume = tmp_path / "v.h5"
    reduce_files(sweep.write(tmp_path / "c"), CHOICES, out=volume)
    geometry, UB = sweep.geometry, sweep.UB

    def cell_of(frame: int, slow: int, fast: int):
        q = geometry.q(fast + 0.5, slow + 0.5, sweep.sweep.midpoints[frame])
        return np.linalg.solve(UB, q)

    places = [(7, 50, 60), (5, 90, 90), (7, 80, 100)]
    found = why_cells(volume, [cell_of(*place) for place in places])

    for each, place, state in zip(found, places, ("hot", "no flux", "saturated"), strict=True):
        (pixel,) = [p for p in each.pixels if (p.frame, p.slow, p.fast) == place]
        assert pixel.state == state
        assert pixel.weight == 0
        assert pixel.counts == sweep.counts[place]
        assert each.exact


def test_every_pixel_that_the_kernel_puts_there_is_found(volume_path, sweep):
    """Also at the beam, where a cell is on a large part of the panel in many frames."""
    grid = read_volume(volume_path).grid
    assert grid is not None
    binner = sweep.scene(grid).binner()
    edges = sweep.sweep.edges
    frames = [FrameToAdd(lambda out: None, a, b, 1.0) for a, b in pairwise(edges)]
    near = grid.index((0.0, 0.0, 0.0))
    cells = [near, (near[0] - 1, near[1], near[2]), (near[0], near[1] + 2, near[2])]
    wanted = place_of(np.array(cells).T, grid.shape)
    turns = np.stack([binner.turns(frame) for frame in frames])
    counts = np.zeros((len(frames), *sweep.counts.shape[1:]), np.int32)
    (exposures,) = binner.exposures(turns, np.ones(len(frames), np.float32), counts)
    band = (0, counts.shape[1], 0, counts.shape[2])
    expected = set()
    for n in range(len(frames)):
        where = places(exposures, grid.shape, band, n)
        for cell, place in enumerate(wanted):
            expected |= {(cell, n, *map(int, at)) for at in np.argwhere(where == place)}

    found = {
        (visit.cell, visit.frame, int(slow), int(fast))
        for visit in visits(binner, frames, cells)
        for slow, fast in zip(visit.slow, visit.fast, strict=True)
    }

    assert len(expected) > 1000
    assert found == expected


def test_what_cannot_be_asked_is_refused_with_numbers(volume_path, tmp_path, sweep):
    with pytest.raises(ReductionError, match=r"hkl \(90\.0, 0\.0, 0\.0\) is outside h -"):
        why(volume_path, (90, 0, 0))
    with pytest.raises(ReductionError, match="each is h, k and l"):
        why(volume_path, (0, 0))

    scan = sweep.write(tmp_path / "c")
    volume = tmp_path / "v.h5"
    reduce_files(scan, CHOICES, out=volume)
    point = points(*measured_cell(volume))
    scan.unlink()
    with pytest.raises(ReductionError, match="is not there"):
        why(volume, point)
    other = Measured(n_frames=24, step=1.0, temperature=300.0)
    other.write(tmp_path / "c")
    with pytest.raises(ReductionError, match="has changed since"):
        why(volume, point)


def measured_cell(volume):
    read = read_volume(volume)
    return read.grid, np.argwhere(read.counts > 100)[0]


def test_typed(volume_path, scan_path):
    runner = CliRunner()
    grid, cell = measured_cell(volume_path)
    point = ",".join(f"{x:g}" for x in points(grid, cell))

    done = runner.invoke(app, ["why", str(volume_path), point, "--json"], catch_exceptions=False)
    text = runner.invoke(app, ["why", str(volume_path), point, "--rows", "2"])

    found = json.loads(done.output)
    assert found["exact"]
    assert found["counts"] == sum(p["counts"] for p in found["pixels"] if p["state"] == "counted")
    assert text.exit_code == 0
    assert "exactly these pixels" in text.output
    assert f"and {len(found['pixels']) - 2} pixels more" in text.output
    with ScanFile.open(scan_path) as scan:
        first = found["pixels"][0]
        counts = scan.stack.counts[first["frame"]][first["slow"], first["fast"]]
        assert counts == first["counts"]
