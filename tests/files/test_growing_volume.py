"""A volume file that follows its sums: at each moment, and at the end, what is written at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from offbragg.bricks import volume_bricks
from offbragg.errors import ReductionError
from offbragg.files import draft
from offbragg.files.growing_volume import GrowingVolume
from offbragg.files.volume_file import VolumeFile
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.sample import Sample
from offbragg.volume import Volume

GRID = Grid((-40, -20, 0), (70, 40, 300), (10, 10, 10))
SAMPLE = Sample("a", "b", lattice=(4.0, 4.0, 4.0, 90.0, 90.0, 90.0))


class Sums:
    """Sums that grow in some bricks."""

    def __init__(self) -> None:
        self.volume = Volume.empty(GRID, sample=SAMPLE)
        self.bricks = volume_bricks(self.volume)
        self.rng = np.random.default_rng(3)

    def grow(self, *places: tuple[int, int, int], by: int = 1) -> list[tuple[int, int, int]]:
        for place in places:
            cells = tuple(slice(32 * n, 32 * n + 32) for n in reversed(place))
            shape = self.volume.counts[cells].shape
            if by:
                self.volume.counts[cells] += self.rng.poisson(2.0, shape)
                self.volume.weight[cells] += self.rng.integers(0, 3, shape)
            else:
                self.volume.counts[cells] = self.volume.weight[cells] = 0
        return list(places)


@pytest.fixture
def sums() -> Sums:
    return Sums()


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}

    def keep(name: str, each: object) -> None:
        if isinstance(each, h5py.Dataset) and each.dtype.kind == "f":
            found[name] = each[()]

    with h5py.File(path, "r") as file:
        file.visititems(keep)
        found["overall"] = np.array(file["entry/completeness"].attrs["overall"])
    return found


def check_same(path: Path, sums: Sums) -> None:
    at_once = path.with_name("at_once.h5")
    at_once.unlink(missing_ok=True)
    write_volume(at_once, sums.volume, {})
    wanted, found = arrays_of(at_once), arrays_of(path)
    assert wanted.keys() == found.keys()
    for name, each in wanted.items():
        np.testing.assert_array_equal(found[name], each, err_msg=name)


def test_each_state_is_what_is_written_at_once(tmp_path, sums):
    path = tmp_path / "v.h5"
    growing = GrowingVolume(path, sums.bricks)

    for n, places in enumerate(([(0, 0, 0)], [(1, 1, 2), (9, 0, 0)], [], [(0, 0, 0)], [(4, 1, 1)])):
        growing.update(sums.grow(*places), {"growing": n})
        check_same(path, sums)
        with VolumeFile(path) as file:
            assert file.record == {"growing": n}
    growing.update(sums.grow((1, 1, 2), (4, 1, 1), by=0), {})
    check_same(path, sums)
    growing.update(sums.grow((4, 1, 1)), {})
    check_same(path, sums)


def test_the_last_one_has_the_bytes_of_one_that_is_written_at_once(tmp_path, sums):
    path, at_once = tmp_path / "v.h5", tmp_path / "at_once.h5"
    growing = GrowingVolume(path, sums.bricks)
    for _ in range(4):
        places = [tuple(int(sums.rng.integers(n)) for n in (10, 2, 3)) for _ in range(5)]
        growing.update(
            sums.grow(*places), {"growing": {}}, limit=sums.rng.choice([0.0, 1e-9, np.inf])
        )
    growing.update(sums.grow((3, 0, 0), by=0), {"growing": {}})

    growing.update(sums.grow((9, 1, 2), (2, 0, 1)), {"a": 1})
    check_same(path, sums)
    growing.finish({"a": 1})

    at_once.unlink()
    write_volume(at_once, sums.volume, {"a": 1})
    assert path.read_bytes() == at_once.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["at_once.h5", "v.h5"]


def test_coarse_levels_are_ahead_of_the_cells(tmp_path, sums):
    path = tmp_path / "v.h5"
    growing = GrowingVolume(path, sums.bricks)
    growing.update(sums.grow((0, 0, 0)), {})
    before = arrays_of(path)

    growing.update(sums.grow((0, 0, 0), (9, 1, 0)), {}, limit=0.0)

    coarse = arrays_of(path)
    np.testing.assert_array_equal(coarse["entry/volume/counts"], before["entry/volume/counts"])
    check = tmp_path / "at_once.h5"
    write_volume(check, sums.volume, {})
    now = arrays_of(check)
    for level in (4, 8):
        name = f"entry/levels/{level}/intensity"
        np.testing.assert_array_equal(coarse[name], now[name])
        assert not np.array_equal(coarse[name], before[name], equal_nan=True)
    growing.update([], {})
    check_same(path, sums)


def test_only_what_changed_is_written(tmp_path, sums):
    path = tmp_path / "v.h5"
    growing = GrowingVolume(path, sums.bricks)
    growing.update(sums.grow(*np.ndindex(10, 2, 3)), {})
    growing.update([], {})
    blocks = {}
    for place in ((0, 0, 0), (1, 0, 0)):
        growing.update(sums.grow(place), {})
        with h5py.File(path) as file:
            data = file["entry/volume/counts"].id
            blocks[place] = [
                data.get_chunk_info_by_coord((32 * n, 0, 0)).byte_offset for n in range(2, 10)
            ]

    assert len({path.stat().st_ino, (tmp_path / ".v.h5.next").stat().st_ino}) == 2
    assert blocks[0, 0, 0] == blocks[1, 0, 0]
    check_same(path, sums)


def test_what_is_read_is_not_written_over(tmp_path, sums):
    path = tmp_path / "v.h5"
    growing = GrowingVolume(path, sums.bricks)
    growing.update(sums.grow((0, 0, 0), (5, 1, 1)), {})
    before = sums.volume.counts.copy()

    with VolumeFile(path) as reader, h5py.File(path, "r", locking=False) as other:
        for _ in range(4):
            growing.update(sums.grow((0, 0, 0), (1, 0, 0)), {})
        np.testing.assert_array_equal(reader.volume().counts, before)
        data: Any = other["entry/volume/counts"]
        assert data.shape == before.shape[::-1]
    check_same(path, sums)


def test_a_file_that_somebody_removed_or_replaced_is_written_again(tmp_path, sums):
    path = tmp_path / "v.h5"
    growing = GrowingVolume(path, sums.bricks)
    growing.update(sums.grow((0, 0, 0), (5, 1, 1)), {})
    growing.update(sums.grow((0, 0, 0)), {})

    path.unlink()
    growing.update(sums.grow((1, 0, 0)), {})
    check_same(path, sums)
    growing.update(sums.grow((1, 0, 0)), {})
    (tmp_path / "other").write_bytes(b"another file")
    (tmp_path / "other").replace(path)
    growing.update(sums.grow((2, 0, 0)), {})
    check_same(path, sums)
    path.write_bytes(b"damaged")
    with pytest.raises(ReductionError, match="cannot be written"):
        growing.update(sums.grow((2, 0, 0)), {})
    growing.update(sums.grow((3, 0, 0)), {})
    check_same(path, sums)


def test_a_call_that_ends_early_leaves_the_file_of_before(tmp_path, sums):
    path, calls = tmp_path / "v.h5", 0

    def one_more() -> None:
        nonlocal calls
        calls += 1
        if calls == 75:
            raise KeyboardInterrupt

    growing = GrowingVolume(path, sums.bricks, one_more=one_more)
    growing.update(sums.grow((0, 0, 0)), {"n": 1})
    with pytest.raises(KeyboardInterrupt):
        growing.update(sums.grow(*np.ndindex(10, 2, 1)), {"n": 2})
    with VolumeFile(path) as file:
        assert file.record == {"n": 1}
    growing.update([], {"n": 3})

    check_same(path, sums)


def test_what_a_killed_writer_left_is_removed(tmp_path, sums):
    path = tmp_path / "v.h5"
    GrowingVolume(path, sums.bricks).update(sums.grow((0, 0, 0)), {"n": 1})
    for name in (".v.h5.next", ".v.h5.old"):
        (tmp_path / name).write_bytes(b"half of a file")

    growing = GrowingVolume(path, sums.bricks)

    assert [each.name for each in tmp_path.iterdir()] == ["v.h5"]
    growing.update([], {"n": 2})
    check_same(path, sums)


def test_a_disk_without_room_is_an_error(tmp_path, sums, monkeypatch):
    path = tmp_path / "v.h5"
    growing = GrowingVolume(path, sums.bricks)
    growing.update(sums.grow((0, 0, 0)), {"n": 1})

    with monkeypatch.context() as patch:
        patch.setattr(draft._Sink, "write", _failing)
        with pytest.raises(ReductionError, match="No space left"):
            growing.update(sums.grow((1, 0, 0)), {"n": 2})
    with VolumeFile(path) as file:
        assert file.record == {"n": 1}
    growing.update([], {"n": 3})
    check_same(path, sums)


def _failing(self, data) -> int:
    self.failure = OSError(28, "No space left on device")
    return len(memoryview(data).cast("B"))


def test_levels_do_not_wait_for_cells_that_take_long(tmp_path, sums):
    path = tmp_path / "v.h5"
    growing = GrowingVolume(path, sums.bricks, threads=1)
    growing.update(sums.grow(*np.ndindex(10, 2, 3)), {}, frames=1)
    cells: list[int] = []

    for frames in range(2, 9):
        places = np.ndindex(10, 2, 3) if frames == 2 else [(9, 1, 2)]
        growing.update(sums.grow(*places), {}, frames=frames, limit=1e-9)
        with VolumeFile(path) as file:
            cells.append(file.record["cells"])
        wanted = tmp_path / "at_once.h5"
        wanted.unlink(missing_ok=True)
        write_volume(wanted, sums.volume, {})
        found, now = arrays_of(path), arrays_of(wanted)
        for level in (4, 8):
            name = f"entry/levels/{level}/intensity"
            np.testing.assert_array_equal(found[name], now[name])
        if not growing.in_pass:
            break

    assert len(cells) > 1
    assert cells[:-1] == [1] * (len(cells) - 1)
    assert cells[-1] == 2  # the last brick has more: its change came before it was written
    growing.update([], {}, frames=frames)
    assert growing.has(frames)
    check_same(path, sums)
