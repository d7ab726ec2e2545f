"""What the kernel makes of whole sums is what is made of them as arrays, bit for bit."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from volumes import LATTICES

from offbragg import kernels
from offbragg.bricks import BRICK, LEVELS, brick_places, brick_slices, volume_bricks
from offbragg.errors import ReductionError
from offbragg.files import volume_shells
from offbragg.files.volume_chunks import ChunkMaker
from offbragg.files.volume_writer import LIBVER, lay_out, write_volume
from offbragg.grid import Grid
from offbragg.kernels import brick as kernel
from offbragg.kernels.numbering import place_of
from offbragg.reduction.accumulator import Accumulator
from offbragg.sample import Sample

pytestmark = pytest.mark.skipif(not kernels.compiled, reason="there is no kernel")

COMPILED = [name for name in kernels.available() if name != "reference"]
SHAPES = [(1, 1, 1), (50, 40, 35), (64, 32, 33), (3, 33, 9)]


def whole(shape, *, parts: int = 1, air: bool = False, lattice: int = 2) -> Accumulator:
    """Sums in some bricks of a box, small and large, with gaps."""
    grid = Grid(tuple(-n // 2 for n in shape), shape, (10, 10, 5))
    cell = LATTICES[lattice]
    sums = Accumulator(
        grid, 18, parts=parts, background=(31, 44) if air else None,
        sample=None if cell is None else Sample("LSMO", "c1", lattice=cell),
    )  # fmt: skip
    rng = np.random.default_rng(sum(shape) + parts)
    for number, place in enumerate(brick_places(grid)):
        if number % 5 == 4:
            continue
        l, k, h = brick_slices(grid, *place)  # noqa: E741
        cells = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in (h, k, l))))
        where = place_of(cells.reshape(3, -1), shape)
        there = rng.random(where.size) > (0.4, 0.0, 1.0, 0.97)[number % 4]
        for pair in (sums.sums, sums.spread, sums.air):
            if pair is None:
                continue
            low, high = pair.low.reshape(-1, 2), pair.high.reshape(-1, 2)
            low[where[there]] = rng.integers(0, 2**32 if number % 3 else 90, (there.sum(), 2))
            if number % 2:
                high[where[there]] = rng.integers(0, 2**19, (there.sum(), 2))
            pair.changed[where // 2**15] = 1
    return sums


def maker_of(sums: Accumulator, directory: Path) -> ChunkMaker:
    with h5py.File(directory / "x.h5", "w", libver=LIBVER) as file:
        return ChunkMaker(sums, *lay_out(file, sums, {}))


@pytest.mark.parametrize("level", COMPILED)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("parts", "air", "cells"),
    [(1, False, False), (3, False, True), (1, True, True), (3, True, False)],
)
def test_the_kernel_makes_what_is_made_of_arrays(
    tmp_path, monkeypatch, level, shape, parts, air, cells
):
    sums = whole(shape, parts=parts, air=air, lattice=sum(shape) % 4)
    if cells:
        sums = volume_bricks(sums.volume())
    maker = maker_of(sums, tmp_path)
    for name in ("make", "make_of_cells"):
        monkeypatch.setattr(kernel, name, partial(getattr(kernel, name), level=level))
    count = partial(kernel.count_beyond, level=level)
    monkeypatch.setattr(volume_shells, "count_beyond", count)
    blocks = [maker.block((0, 0, 0)) for _ in range(3)]
    places = list(brick_places(sums.grid))

    with monkeypatch.context() as patch:
        patch.setattr(ChunkMaker, "_by_arrays", lambda self, place, sums, *_: ([], sums))
        made = maker.make(places[:8], lambda place: blocks[0])
    maker.coarse(places[:8], lambda place: blocks[1])

    for place, chunks, counted in made.bricks:
        brick = sums.brick(*place)
        expected, cells = maker._by_arrays(place, brick, blocks[2], None)
        if brick is None:  # only its cells are counted
            assert counted is None
            nothing = maker.shells.count(place, None)
            np.testing.assert_array_equal(cells.beyond, nothing.beyond)
            continue
        assert [each[:2] for each in chunks] == [each[:2] for each in expected]
        for one, other in zip(chunks, expected, strict=True):
            assert (one[2] is None) == (other[2] is None), one[0]
            assert one[2] is None or bytes(one[2]) == bytes(other[2]), one[0]
        np.testing.assert_array_equal(counted.beyond, cells.beyond)
        assert counted.weighed == cells.weighed
        assert counted is maker.shells.count_bits(
            place, np.frombuffer(counted.measured, np.uint8), maker._stored.side, counted
        )
    for block in blocks[:2]:
        for coarse, found in block._sums.items():
            np.testing.assert_array_equal(found, blocks[2]._sums[coarse])


def test_a_file_of_whole_sums_has_the_bytes_of_one_of_their_volume(tmp_path):
    sums = whole((70, 290, 40), lattice=3)

    write_volume(tmp_path / "sums.h5", sums, {"inputs": []})
    write_volume(tmp_path / "volume.h5", sums.volume(), {"inputs": []}, threads=1)

    assert (tmp_path / "sums.h5").read_bytes() == (tmp_path / "volume.h5").read_bytes()


def test_what_float64_cannot_hold_is_refused(tmp_path):
    sums = whole((50, 40, 35))
    sums.sums.high[3, 5, 1] = 1 << 21

    with pytest.raises(ReductionError, match="2\\^53"):
        write_volume(tmp_path / "v.h5", sums, {"inputs": []})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["numbers", "high", "side", "levels", "scratch", "room", "bits"])
def test_buffers_of_another_size_are_refused(change):
    sums = whole((50, 40, 35)).sums
    sides, at_once = (32, 32, 32), 2
    scratch, bound = kernels._kernels.brick_sizes(False, False, sides)
    sizes = {
        "scratch": scratch, "room": at_once * bound, "bits": at_once * 4096,
        "levels": at_once * 2 * 4680 * 8,
    }  # fmt: skip
    if change in sizes:
        sizes[change] -= 8
    high = sums.high[:-1] if change == "high" else sums.high
    numbers = np.array([0, len(sums.low) if change == "numbers" else 1], np.int64)

    with pytest.raises(ValueError, match=r"must be|need|not|there is no brick"):
        kernels._kernels.bricks(
            0, numbers, (sums.low, high, 1.0, 1.0), None, None,
            (33, 32, 32) if change == "side" else sides,
            *(np.zeros(sizes[name], np.uint8) for name in ("scratch", "room")),
            np.zeros(16, np.int64),
            *(np.zeros(sizes[name], np.uint8) for name in ("bits", "levels")),
        )  # fmt: skip


def test_bricks_and_levels_are_those_of_the_kernel():
    assert (BRICK, LEVELS) == (kernel.SIDE, kernel.LEVELS)
