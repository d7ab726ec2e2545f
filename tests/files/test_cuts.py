"""Planes, lines and boxes that are cut out of a volume file, and the chunks that this reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from offbragg.errors import ReductionError
from offbragg.files import cut_source
from offbragg.files.cells import StoredArray
from offbragg.files.cuts import cut_between, cut_box, cut_line, cut_plane
from offbragg.files.planes import Plane
from offbragg.files.volume_file import VolumeFile
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.plots.planes import cut
from offbragg.volume import Volume

GRID = Grid((-30, -25, -40), (61, 51, 81), (10, 10, 20))


def measured(*, background: bool = False) -> Volume:
    random = np.random.default_rng(4)
    weight = np.where(random.random(GRID.shape) < 0.7, random.uniform(0.5, 2.0, GRID.shape), 0.0)
    counts = random.poisson(20.0 * weight).astype(float)
    air = 3.0 * weight if background else None
    return Volume(
        counts, weight, GRID, background=air, background_variance=None if air is None else air / 9
    )


@pytest.fixture(scope="module")
def volume() -> Volume:
    return measured()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, volume: Volume) -> Path:
    return write_volume(tmp_path_factory.mktemp("cuts") / "v.h5", volume, {})


@pytest.mark.parametrize("thickness", [0.0, 0.05, 0.4])
@pytest.mark.parametrize("name", ["hk0.5", "h-1l", "2kl", "hhl", "h,k,-h-k", "-hk0", "h-hl"])
def test_a_plane_of_a_file_is_that_of_its_volume(volume, path, name, thickness):
    plane = Plane.parse(name)

    with VolumeFile(path) as file:
        found = cut_plane(file, plane, thickness=thickness, sigma=True)

    expected = cut(volume, plane, thickness=thickness)
    assert found.intensity.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(found.intensity), np.isnan(expected))
    np.testing.assert_allclose(found.intensity, expected, rtol=1e-6)
    assert found.sigma is not None
    assert np.isfinite(found.sigma).sum() == np.isfinite(expected).sum() > 100
    assert [axis.size for axis in found.axes] == list(expected.shape)


def test_the_axes_of_a_plane_are_the_labels_of_its_cells(path):
    with VolumeFile(path) as file:
        found = cut_plane(file, Plane.parse("h0.52l"))

    np.testing.assert_allclose(found.axes[0], GRID.h)
    np.testing.assert_allclose(found.axes[1], GRID.l)
    assert found.at == (0.0, 0.5, 0.0)


def test_sigma_has_the_background_in_it(tmp_path):
    volume = measured(background=True)
    path = write_volume(tmp_path / "v.h5", volume, {})

    with VolumeFile(path) as file:
        thin = cut_plane(file, Plane.parse("hk0"), sigma=True)
        thick = cut_plane(file, Plane.parse("hk0"), thickness=0.1, sigma=True)

    np.testing.assert_allclose(thin.sigma, volume.sigma[:, :, 40], rtol=1e-6)
    np.testing.assert_allclose(thin.intensity, volume.intensity[:, :, 40], rtol=1e-6)
    layers = slice(39, 42)
    weight = volume.weight[:, :, layers].sum(axis=2)
    squares = volume.total_variance[:, :, layers].sum(axis=2)
    known = weight > 0
    np.testing.assert_allclose(
        thick.sigma[known], np.sqrt(squares[known]) / weight[known], rtol=1e-6
    )


@pytest.mark.parametrize("level", [2, 4, 8])
def test_a_coarse_plane_is_the_layer_that_the_file_holds(path, level):
    with VolumeFile(path) as file:
        found = cut_plane(file, Plane.parse("hk0"), level=level)

    with h5py.File(path) as file:
        stored = file[f"entry/levels/{level}/intensity"][40 // level].T
        h, l = (file[f"entry/levels/{level}/{name}"][()] for name in ("Qh", "Ql"))  # noqa: E741
    centre = np.abs(l).argmin()
    assert found.at[2] == pytest.approx(l[centre])
    np.testing.assert_allclose(found.axes[0], h)
    if centre == 40 // level:
        np.testing.assert_array_equal(found.intensity, stored)


def test_a_coarse_oblique_plane_has_the_cells_that_hold_its_points(path):
    with VolumeFile(path) as file:
        fine = cut_plane(file, Plane.parse("hhl"))
        coarse = cut_plane(file, Plane.parse("hhl"), level=2)
        stored = np.asarray(file.dataset("entry/levels/2/intensity")[()]).T

    assert coarse.intensity.shape == tuple(n // 2 for n in fine.intensity.shape)
    i, j = 12, 20
    h, l = coarse.axes[0][i], coarse.axes[1][j]  # noqa: E741
    cell = tuple(n // 2 for n in GRID.index((h, h, l)))
    assert coarse.intensity[i, j] == pytest.approx(stored[cell], nan_ok=True)


def merged(volume: Volume, level: int, layers: slice | None = None) -> list[np.ndarray]:
    """Intensity and sigma of coarser cells, from sums over blocks of whole arrays, cell by cell."""
    sums = []
    for array in (volume.counts, volume.background, volume.weight, volume.total_variance):
        blocks = np.zeros([-(-n // level) for n in volume.counts.shape])
        if array is not None:
            for place in np.ndindex(*array.shape):
                blocks[tuple(n // level for n in place)] += array[place]
        sums.append(blocks if layers is None else blocks[:, :, layers].sum(axis=2))
    counts, background, weight, variance = sums
    with np.errstate(invalid="ignore"):
        return [(counts - background) / weight, np.sqrt(variance) / weight]


@pytest.fixture(scope="module", params=["Poisson", "with background"])
def small(request, tmp_path_factory) -> tuple[Path, Volume]:
    """With cells that were not measured, an odd number of cells, and more than one brick."""
    random = np.random.default_rng(6)
    grid = Grid((-9, -10, -20), (19, 21, 39), (5, 5, 10))
    seen = random.random(grid.shape) < 0.5
    seen[:8, :8, 16:24] = False
    weight = seen * random.integers(1, 2**20, grid.shape) / 2**18
    counts = random.poisson(9.0, grid.shape) * seen.astype(float)
    air = {}
    if request.param == "with background":
        background = random.integers(0, 9, grid.shape) * seen / 4
        air = {"background": background, "background_variance": background / 8}
    volume = Volume(counts, weight, grid, **air)
    return write_volume(tmp_path_factory.mktemp("small") / "v.h5", volume, {}), volume


@pytest.mark.parametrize("level", [2, 4, 8])
def test_sigma_of_a_coarse_cut_is_that_of_the_sums_of_its_cells(small, level):
    path, volume = small
    at = 20 // level
    with VolumeFile(path) as file:
        cuts_made = [
            cut_plane(file, Plane.parse("hk0"), level=level, sigma=True),
            cut_plane(file, Plane.parse("kh0"), level=level, sigma=True),
            cut_plane(file, Plane.parse("hk0"), level=level, sigma=True, thickness=99),
            cut_box(file, "-9:9,-9:9,-9:9", level=level, sigma=True),
        ]
        line = cut_line(file, "h,0,0", level=level, sigma=True)
        stored = cut_plane(file, Plane.parse("hk0"), level=level)

    centre = cuts_made[0].at[2]
    middles = [np.mean(volume.grid.l[n : n + level]) for n in range(0, 39, level)]
    layer = slice(n := int(np.argmin(np.abs(np.array(middles) - centre))), n + 1)
    assert abs(n - at) <= 1
    expected = [
        merged(volume, level, layer), merged(volume, level, layer),
        merged(volume, level, slice(None)), merged(volume, level),
    ]  # fmt: skip
    for made, (intensity, sigma) in zip(cuts_made, expected, strict=True):
        turned = made.directions[0] == (0, 1, 0)
        np.testing.assert_allclose(made.intensity.T if turned else made.intensity, intensity, 2e-7)
        np.testing.assert_allclose(made.sigma.T if turned else made.sigma, sigma, 2e-7)
        np.testing.assert_array_equal(np.isnan(made.sigma), np.isnan(made.intensity))
    assert np.isnan(cuts_made[0].intensity).any()
    np.testing.assert_array_equal(cuts_made[0].intensity, stored.intensity)  # sums are exact
    assert line.sigma.shape == line.intensity.shape == (-(-19 // level),)


@pytest.mark.parametrize("level", [2, 4])
def test_sigma_of_a_coarse_oblique_plane_too(small, level):
    path, volume = small
    with VolumeFile(path) as file:
        found = cut_plane(file, Plane.parse("hhl"), level=level, sigma=True)
        stored = cut_plane(file, Plane.parse("hhl"), level=level)

    np.testing.assert_array_equal(found.intensity, stored.intensity)
    intensity, sigma = merged(volume, level)
    for i, h in enumerate(found.axes[0]):
        for j, l in enumerate(found.axes[1]):  # noqa: E741
            cell = tuple(n // level for n in volume.grid.index((h, h, l)))
            assert found.sigma[i, j] == pytest.approx(sigma[cell], rel=2e-7, nan_ok=True)
            assert found.intensity[i, j] == pytest.approx(intensity[cell], rel=2e-7, nan_ok=True)


def test_a_plane_through_three_points_is_that_of_its_name(path):
    plane = Plane.through([(0, 0, 0.5), (0.5, 0.5, 0.5), (0, 0, 1)])

    with VolumeFile(path) as file:
        found = cut_plane(file, plane)
        named = cut_plane(file, Plane.parse("hhl"))

    np.testing.assert_array_equal(
        found.intensity[np.isfinite(found.intensity)], named.intensity[np.isfinite(named.intensity)]
    )
    assert plane.axis_label(0) == "(h h 0)"


@pytest.mark.parametrize(
    ("points", "why"),
    [
        ([(0, 0, 0), (1, 0, 0), (2, 0, 0)], "lie on one line"),
        ([(0, 0, 0), (0, 0, 0), (2, 0, 0)], "must differ"),
        ([(0, 0, 0), (1, 0.37, 0), (0, 0, 1)], r"is \(100 37 0\)"),
        ([(0, 0, 0), (1, float("nan"), 0), (0, 0, 1)], "three numbers below"),
        ([(1e308, 0, 0), (-1e308, 0, 0), (0, 0, 1)], "three numbers below"),
        ([(0, 0, 0), (1, 0, 0)], "three points"),
    ],
)
def test_points_without_a_plane_of_cells_are_refused(points, why):
    with pytest.raises(ReductionError, match=why):
        Plane.through(points)


@pytest.mark.parametrize("name", ["hk0", "hhl"])
def test_a_plane_as_thick_as_the_volume_is_the_mean_of_all(volume, path, name):
    with VolumeFile(path) as file:
        found = cut_plane(file, Plane.parse(name), thickness=1e308)

    if name == "hk0":
        weight = volume.weight.sum(axis=2)
        np.testing.assert_allclose(found.intensity, volume.counts.sum(axis=2) / weight, rtol=1e-6)
    assert np.isfinite(found.intensity).any()


def test_a_line_is_the_row_of_cells_on_it_and_thick_the_mean_of_its_neighbours(volume, path):
    with VolumeFile(path) as file:
        thin = cut_line(file, "h,0.5,1")
        thick = cut_line(file, "h,0.5,1", thickness=0.2, sigma=True)

    rows = slice(29, 32), slice(58, 63)
    np.testing.assert_allclose(thin.intensity, volume.intensity[:, 30, 60], rtol=1e-6)
    weight = volume.weight[:, rows[0], rows[1]].sum(axis=(1, 2))
    np.testing.assert_allclose(
        thick.intensity, volume.counts[:, rows[0], rows[1]].sum(axis=(1, 2)) / weight, rtol=1e-6
    )
    np.testing.assert_allclose(thick.axes[0], GRID.h)


@pytest.mark.parametrize(
    ("start", "end", "cells"),
    [
        ((0, 0, 0.5), (2, 2, 0.5), [(30 + i, 25 + i, 50) for i in range(21)]),
        ((1, 0.5, 1), (-1, 0.5, 1), [(40 - i, 30, 60) for i in range(21)]),
        ((0, 0, 0), (1, 0, 1), [(30 + i, 25, 40 + 2 * i) for i in range(11)]),
        ((2.5, 0, 0), (4.5, 0, 0), [(55 + i, 25, 40) for i in range(21)]),  # leaves the volume
    ],
)
def test_a_line_between_two_points_has_the_cells_on_it(volume, path, start, end, cells):
    with VolumeFile(path) as file:
        found = cut_between(file, (start, end), sigma=True)

    inside = [cell for cell in cells if cell[0] < 61]
    expected = np.full(len(cells), np.nan)
    index = tuple(np.array(inside).T)
    with np.errstate(invalid="ignore"):
        expected[: len(inside)] = volume.counts[index] / volume.weight[index]
    np.testing.assert_allclose(found.intensity, expected, rtol=1e-6)
    hkl = np.array(found.at) + found.axes[0][:, None] * np.array(found.directions[0])
    np.testing.assert_allclose(hkl[[0, -1]], [start, end], atol=1e-12)
    assert found.sigma is not None
    np.testing.assert_array_equal(np.isnan(found.sigma), np.isnan(expected))


def test_a_coarse_line_between_two_points_has_the_coarse_cells_that_hold_them(path):
    with VolumeFile(path) as file:
        found = cut_between(file, ((0, 0, 0), (2, 0, 0)), level=2)
        coarse = cut_box(file, "-3:3,-3:3,-3:3", level=2).intensity

    np.testing.assert_array_equal(found.intensity, coarse[15:26, 12, 20])


@pytest.mark.parametrize(
    ("points", "why"),
    [
        (((0, 0, 0), (1, 0.13, 0)), "directions have whole numbers up to 12"),
        (((0, 0, 0), (0, 0, 0)), "they must differ"),
        (((0, 0, 0), (float("nan"), 0, 0)), "three numbers below"),
        (((0, 0, 0),), "through two points"),
        (((0, 0, 0), (99_999, 0, 0)), "the line has 999,991 cells"),
    ],
)
def test_a_line_that_cannot_be_is_refused(path, points, why):
    with VolumeFile(path) as file, pytest.raises(ReductionError, match=why):
        cut_between(file, points)


def test_a_box_is_that_part_of_the_volume(volume, path):
    with VolumeFile(path) as file:
        found = cut_box(file, "-1:1,0:0.3,0.5:0.5", sigma=True)

    part = slice(20, 41), slice(25, 29), slice(50, 51)
    np.testing.assert_allclose(found.intensity, volume.intensity[part], rtol=1e-6)
    np.testing.assert_allclose(found.sigma, volume.sigma[part], rtol=1e-6)
    np.testing.assert_allclose(found.axes[1], [0, 0.1, 0.2, 0.3], atol=1e-12)


@pytest.mark.parametrize("name", ["hk0", "hhl"])
def test_only_the_chunks_that_a_plane_touches_are_read(path, name, monkeypatch):
    read: list[tuple[slice, ...]] = []

    class Noting(StoredArray):
        def read(self, part):
            read.append(part)
            return super().read(part)

    monkeypatch.setattr(cut_source, "StoredArray", Noting)
    with VolumeFile(path) as file:
        cut_plane(file, Plane.parse(name))

    if name == "hk0":
        assert [part[0] for part in read] == [slice(40, 41)]
    else:  # 2 × 2 × 3 chunks, of which hhl crosses those on its diagonal
        assert 0 < len(read) < 12


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (lambda file: cut_plane(file, Plane.parse("hk9")), "l = 9 is outside the volume"),
        (lambda file: cut_plane(file, Plane.parse("hk0"), level=3), "no level 3: there are 1, 2"),
        (lambda file: cut_plane(file, Plane.parse("hk0"), thickness=-1), "thickness is -1"),
        (lambda file: cut_plane(file, Plane.parse("hhl"), thickness=float("nan")), "is nan"),
        (lambda file: cut_line(file, "h,h,0"), "not a line"),
        (lambda file: cut_line(file, "h,k,0"), "not a line"),
        (lambda file: cut_line(file, "k,h,0"), "not a line"),
        (lambda file: cut_line(file, "h,99,0"), "k = 99 is outside"),
        (lambda file: cut_box(file, "0:1,0:1"), "not a box"),
        (lambda file: cut_box(file, "1:0,0:1,0:1"), "not a box"),
        (lambda file: cut_box(file, "nan:1,0:1,0:1"), "not a box"),
        (lambda file: cut_box(file, "90:91,0:1,0:1"), "no cell has h from 90"),
    ],
)
def test_a_cut_that_cannot_be_is_refused(path, ask, why):
    with VolumeFile(path) as file, pytest.raises(ReductionError, match=why):
        ask(file)


def test_a_cut_of_too_many_cells_is_refused_before_it_is_read(path, monkeypatch):
    monkeypatch.setattr(cut_source, "MOST_CELLS", 1000)

    with VolumeFile(path) as file, pytest.raises(ReductionError, match="more than 1,000 cells"):
        cut_plane(file, Plane.parse("hk0"))


def test_bytes_are_counted_before_they_are_read(path):
    counted: list[int] = []

    with VolumeFile(path) as file:
        found = cut_plane(file, Plane.parse("hk0"), reading=counted.append)

    assert sum(counted) == found.intensity.nbytes


def test_a_damaged_chunk_is_an_error_with_the_file(tmp_path, path):
    copy = tmp_path / "v.h5"
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy) as file:
        info = file["entry/data/intensity"].id.get_chunk_info_by_coord((32, 0, 0))
    with copy.open("r+b") as raw:
        raw.seek(info.byte_offset + info.size // 2)
        raw.write(b"\xff\x00\xff\x00")

    with VolumeFile(copy) as file, pytest.raises(ReductionError, match="is damaged"):
        cut_plane(file, Plane.parse("hk0"))


def hostile(path: Path, shape: tuple[int, ...], dataset: dict[str, Any]) -> Path:
    """A file that claims to be a volume of some shape [l, k, h]; next to nothing is stored."""
    grid = Grid((0, 0, 0), shape[::-1], (1, 1, 1))
    with h5py.File(path, "w") as file:
        file["entry/process/record"] = np.bytes_(b"{}")
        file["entry/volume/grid"] = np.bytes_(json.dumps(grid.to_dict()).encode())
        for name in ("volume/counts", "volume/weight"):
            file.create_dataset(
                f"entry/{name}", shape, "f8", chunks=tuple(min(n, 32) for n in shape)
            )
        if dataset:
            file.create_dataset("entry/data/intensity", **dataset)
    return path


SHAPE = (64, 64, 64)


@pytest.mark.parametrize(
    ("shape", "dataset", "plane", "why"),
    [
        (SHAPE, {}, "hk0", "has no data/intensity"),
        (SHAPE, {"shape": (64, 64, 63), "dtype": "f4"}, "hk0", "not an array of numbers"),
        (SHAPE, {"shape": SHAPE, "dtype": "S8"}, "hk0", "not an array of numbers"),
        (SHAPE, {"shape": SHAPE, "dtype": "i4"}, "hhl", "not an array of numbers"),
        ((512, 512, 512), {"shape": (512, 512, 512), "dtype": "f4", "chunks": (512, 512, 512),
                           "compression": "gzip"}, "hk0", "chunks of 536,870,912 bytes"),
        ((1, 90_000, 90_000), {"shape": (1, 90_000, 90_000), "dtype": "f4", "chunks": (1, 32, 32)},
         "hk0", "more than 300,000,000 cells"),
        ((90_000, 1, 90_000), {"shape": (90_000, 1, 90_000), "dtype": "f4", "chunks": (32, 1, 32)},
         "h,0,h+l", "at most 30,000,000"),
        ((1, 1, 10**9), {"shape": (1, 1, 10**9), "dtype": "f4", "chunks": (1, 1, 32)},
         "hk0", "along an axis"),
    ],
)  # fmt: skip
def test_a_file_that_claims_to_be_a_volume_is_refused_before_memory_is_taken(
    tmp_path, shape, dataset, plane, why
):
    path = hostile(tmp_path / "v.h5", shape, dataset)

    with VolumeFile(path) as file, pytest.raises(ReductionError, match=why):
        cut_plane(file, Plane.parse(plane))
