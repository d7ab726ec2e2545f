"""A volume file holds what plain h5py would write of whole arrays, whoever writes it and how."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import h5py
import numpy as np
import pytest

from offbragg import kernels
from offbragg.bricks import BRICK, volume_bricks
from offbragg.errors import ReductionError
from offbragg.files.volume_chunks import LEVELS
from offbragg.files.volume_file import VolumeFile, read_volume
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.lattice import direct_basis
from offbragg.sample import Sample
from offbragg.volume import Volume

LATTICES = [None, (4.0, 5.0, 6.0, 90.0, 90.0, 90.0), (4.0, 4.0, 6.0, 90.0, 90.0, 120.0),
            (4.0, 5.0, 6.0, 70.0, 80.0, 105.0)]  # fmt: skip
SHAPES = [(1, 1, 1), (50, 40, 35), (64, 32, 33), (5, 290, 40), (9, 3, 530)]


def volume(shape: tuple[int, int, int], *, sums: int = 2, lattice: int = 2) -> Volume:
    """Sums of a box around the origin, of which some bricks are empty."""
    rng = np.random.default_rng(sum(shape))
    grid = Grid(tuple(-n // 2 for n in shape), shape, (10, 10, 5))
    weight = rng.integers(1, 2**20, shape) / 2**18 * (rng.random(shape) > 0.3)
    weight[:, : shape[1] // 3, : shape[2] // 2] = 0.0
    counts = rng.poisson(20, shape) * (weight > 0.0)
    more = [rng.integers(0, 9, shape) * (weight > 0.0) for _ in range(3)]
    names = ["variance"] * (sums in (3, 5)) + ["background", "background_variance"] * (sums > 3)
    arrays = {name: array.astype(float) for name, array in zip(names, more, strict=False)}
    cell = LATTICES[lattice]
    sample = None if cell is None else Sample("LSMO", "c1", lattice=cell)
    return Volume(counts.astype(float), weight, grid, sample=sample, **arrays)


def expected_arrays(made: Volume) -> dict[str, np.ndarray]:
    """What each dataset holds, [l, k, h], from whole arrays."""
    above = made.counts if made.background is None else made.counts - made.background
    arrays = {"data/intensity": made.intensity, "data/intensity_errors": made.sigma,
              "transform/v": above, "transform/n": made.weight}  # fmt: skip
    for name in ("counts", "weight", "variance", "background", "background_variance"):
        if getattr(made, name) is not None:
            arrays[f"volume/{name}"] = getattr(made, name)
    for level in LEVELS:
        if max(made.counts.shape) >= 2 * level:
            count, time = above, made.weight
            for axis in range(3):
                blocks = np.arange(0, count.shape[axis], level)
                count = np.add.reduceat(count, blocks, axis=axis)
                time = np.add.reduceat(time, blocks, axis=axis)
            mean = np.full(count.shape, np.nan)
            np.divide(count, time, out=mean, where=time > 0)
            arrays[f"levels/{level}/intensity"] = mean
    return {name: array.T for name, array in arrays.items()}


def expected_shells(made: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Measured part of the cells in 40 shells, from the distance of each cell."""
    assert made.grid is not None
    metric = np.eye(3)
    if made.sample is not None and made.sample.lattice is not None:
        reciprocal = np.linalg.inv(direct_basis(made.sample.lattice)).T * 2 * math.pi
        metric = reciprocal.T @ reciprocal
    axes = made.grid.h, made.grid.k, made.grid.l
    h, k, l = np.meshgrid(*axes, indexing="ij")  # noqa: E741
    squared = (
        metric[0, 0] * h**2 + metric[1, 1] * k**2 + metric[2, 2] * l**2
        + 2 * (metric[0, 1] * h * k + metric[0, 2] * h * l + metric[1, 2] * k * l)
    )  # fmt: skip
    distance = np.sqrt(np.maximum(squared, 0.0))
    ends = [max(abs(axis[0]), abs(axis[-1])) for axis in axes]
    furthest = sum(math.sqrt(metric[i, i]) * end for i, end in enumerate(ends))
    edges = np.linspace(0.0, furthest, 41)
    cells = np.histogram(distance, edges)[0]
    seen = np.histogram(distance[made.weight > 0], edges)[0]
    known = cells > 0
    return (0.5 * (edges[1:] + edges[:-1]))[known], seen[known] / cells[known]


def check(path: Path, made: Volume) -> None:
    with h5py.File(path) as file:
        entry = file["entry"]
        for name, array in expected_arrays(made).items():
            data = entry[name]
            np.testing.assert_array_equal(data[()], array.astype(data.dtype), name)
        assert list(entry["levels"]) == [str(n) for n in LEVELS if max(made.grid.shape) >= 2 * n]
        distance, measured = expected_shells(made)
        np.testing.assert_array_equal(entry["completeness/Q"], distance)
        np.testing.assert_array_equal(entry["completeness/measured"], measured)
        assert entry["completeness"].attrs["overall"] == made.completeness


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sums", [2, 3, 4, 5])
def test_each_array_is_that_of_whole_arrays(tmp_path, shape, sums):
    made = volume(shape, sums=sums)

    check(write_volume(tmp_path / "v.h5", made, {"inputs": []}), made)


@pytest.mark.parametrize("lattice", range(len(LATTICES)))
@pytest.mark.parametrize("shape", [(41, 41, 41), (1, 21, 81)])
def test_shells_are_those_of_the_distances(tmp_path, shape, lattice):
    """Also where cells lie on the edge of a shell, as in a cubic box around the origin."""
    made = volume(shape, lattice=lattice)

    check(write_volume(tmp_path / "v.h5", made, {"inputs": []}), made)


def test_bytes_do_not_depend_on_threads_bricks_or_the_order_in_memory(tmp_path):
    made = volume((70, 40, 300), sums=5)
    turned = Volume(
        **{name: np.asfortranarray(getattr(made, name)) for name in volume_bricks(made).names},
        grid=made.grid, sample=made.sample,
    )  # fmt: skip
    first = write_volume(tmp_path / "first.h5", made, {"inputs": []}, threads=1).read_bytes()

    for number, (source, threads) in enumerate(
        itertools.product([made, turned, volume_bricks(made)], [1, 2, 5])
    ):
        path = write_volume(tmp_path / f"{number}.h5", source, {"inputs": []}, threads=threads)
        assert path.read_bytes() == first


def test_a_file_is_bricks_of_which_the_same_file_is_made(tmp_path):
    made = volume((70, 100, 96), sums=5)
    record = {"inputs": []}
    path = write_volume(tmp_path / "v.h5", made, record)

    with VolumeFile(path) as file:
        bricks = file.bricks()
        assert bricks.names == volume_bricks(made).names
        assert bricks.brick(0, 0, 0) is None  # not measured
        again = write_volume(tmp_path / "again.h5", bricks, record)

    assert again.read_bytes() == path.read_bytes()


def test_what_was_not_measured_takes_no_room(tmp_path):
    made = volume((96, 96, 96))
    only = made.weight * 0.0
    only[40:44, 40:44, 40:44] = 1.0
    made = Volume(only * 7, only, made.grid, sample=made.sample)

    path = write_volume(tmp_path / "v.h5", made, {"inputs": []})

    check(path, made)
    with h5py.File(path) as file:
        for name in ("volume/counts", "volume/weight", "data/intensity", "levels/2/intensity"):
            data = file["entry"][name]
            assert data.id.get_num_chunks() == 1
            assert data.chunks == (BRICK,) * 3
            assert list(data._filters) == ["32008", "fletcher32"]
    assert path.stat().st_size < 100_000


def test_an_empty_volume_can_be_written(tmp_path):
    grid = Grid((0, 0, 0), (40, 40, 40), (10, 10, 10))

    path = write_volume(tmp_path / "v.h5", Volume.empty(grid), {"inputs": []})

    check(path, Volume.empty(grid))
    assert read_volume(path).completeness == 0.0


def test_without_compiled_kernels_the_libraries_make_the_same_values(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "compiled", False)
    made = volume((9, 45, 37), sums=5)

    check(write_volume(tmp_path / "v.h5", made, {"inputs": []}), made)


def test_it_reports_how_far_it_is(tmp_path):
    calls: list[tuple[int, int]] = []

    write_volume(tmp_path / "v.h5", volume((64, 65, 3)), {}, progress=lambda *n: calls.append(n))

    assert calls == [(n, 6) for n in range(1, 7)]


def test_an_error_while_reading_a_brick_leaves_nothing(tmp_path):
    class Failing:
        def __getattr__(self, name):
            return getattr(volume_bricks(made), name)

        def brick(self, *place):
            raise ReductionError("this brick is damaged")

    made = volume((40, 40, 40))

    with pytest.raises(ReductionError, match="this brick is damaged"):
        write_volume(tmp_path / "v.h5", Failing(), {})
    assert list(tmp_path.iterdir()) == []


def test_where_there_is_a_file_or_no_grid_nothing_is_written(tmp_path):
    made = volume((4, 4, 4))
    (tmp_path / "v.h5").write_text("mine")

    with pytest.raises(ReductionError, match=r"v\.h5 is there already: it is not overwritten"):
        write_volume(tmp_path / "v.h5", made, {})
    with pytest.raises(ReductionError, match="without a grid"):
        write_volume(tmp_path / "w.h5", Volume(made.counts, made.weight), {})
    assert (tmp_path / "v.h5").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["v.h5"]
