"""A volume file holds what plain h5py would write of whole arrays, whoever writes it and how."""

from __future__ import annotations

import itertools
from pathlib import Path

import h5py
import numpy as np
import pytest
from volumes import LATTICES, sparse_volume, whole_arrays, whole_shells

from offbragg import kernels
from offbragg.bricks import BRICK, LEVELS, volume_bricks
from offbragg.errors import ReductionError
from offbragg.files.volume_file import VolumeFile, read_volume
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.volume import Volume

SHAPES = [(1, 1, 1), (50, 40, 35), (64, 32, 33), (5, 290, 40), (9, 3, 530)]


def check(path: Path, made: Volume) -> None:
    with h5py.File(path) as file:
        entry = file["entry"]
        for name, array in whole_arrays(made).items():
            data = entry[name]
            np.testing.assert_array_equal(data[()], array.astype(data.dtype), name)
        assert list(entry["levels"]) == [str(n) for n in LEVELS if max(made.grid.shape) >= 2 * n]
        distance, measured = whole_shells(made)
        np.testing.assert_array_equal(entry["completeness/Q"], distance)
        np.testing.assert_array_equal(entry["completeness/measured"], measured)
        assert entry["completeness"].attrs["overall"] == made.completeness


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sums", [2, 3, 4, 5])
def test_each_array_is_that_of_whole_arrays(tmp_path, shape, sums):
    made = sparse_volume(shape, sums=sums)

    check(write_volume(tmp_path / "v.h5", made, {"inputs": []}), made)


@pytest.mark.parametrize("lattice", range(len(LATTICES)))
@pytest.mark.parametrize("shape", [(41, 41, 41), (1, 21, 81)])
def test_shells_are_those_of_the_distances(tmp_path, shape, lattice):
    """Also where cells lie on the edge of a shell, as in a cubic box around the origin."""
    made = sparse_volume(shape, lattice=lattice)

    check(write_volume(tmp_path / "v.h5", made, {"inputs": []}), made)


def test_bytes_do_not_depend_on_threads_bricks_or_the_order_in_memory(tmp_path):
    made = sparse_volume((70, 40, 300), sums=5)
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
    made = sparse_volume((70, 100, 96), sums=5)
    record = {"inputs": []}
    path = write_volume(tmp_path / "v.h5", made, record)

    with VolumeFile(path) as file:
        bricks = file.bricks()
        assert bricks.names == volume_bricks(made).names
        assert bricks.brick(0, 0, 0) is None  # not measured
        again = write_volume(tmp_path / "again.h5", bricks, record)

    assert again.read_bytes() == path.read_bytes()


def test_what_was_not_measured_takes_no_room(tmp_path):
    made = sparse_volume((96, 96, 96))
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
    made = sparse_volume((9, 45, 37), sums=5)

    check(write_volume(tmp_path / "v.h5", made, {"inputs": []}), made)


def test_it_reports_how_far_it_is(tmp_path):
    calls: list[tuple[int, int]] = []

    write_volume(
        tmp_path / "v.h5", sparse_volume((64, 65, 3)), {}, progress=lambda *n: calls.append(n)
    )

    assert calls == [(n, 6) for n in range(1, 7)]


def test_an_error_while_reading_a_brick_leaves_nothing(tmp_path):
    class Failing:
        def __getattr__(self, name):
            return getattr(volume_bricks(made), name)

        def brick(self, *place):
            raise ReductionError("this brick is damaged")

    made = sparse_volume((40, 40, 40))

    with pytest.raises(ReductionError, match="this brick is damaged"):
        write_volume(tmp_path / "v.h5", Failing(), {})
    assert list(tmp_path.iterdir()) == []


def test_where_there_is_a_file_or_no_grid_nothing_is_written(tmp_path):
    made = sparse_volume((4, 4, 4))
    (tmp_path / "v.h5").write_text("mine")

    with pytest.raises(ReductionError, match=r"v\.h5 is there already: it is not overwritten"):
        write_volume(tmp_path / "v.h5", made, {})
    with pytest.raises(ReductionError, match="without a grid"):
        write_volume(tmp_path / "w.h5", Volume(made.counts, made.weight), {})
    assert (tmp_path / "v.h5").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["v.h5"]
