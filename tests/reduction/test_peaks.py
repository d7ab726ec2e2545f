"""Peaks in frames: by hand, and in the simulator's frames."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from crystals import (
    BRAVAIS,
    AnyCrystal,
    frames,
    geometry,
    misorientation,
    orientation,
    random_cell,
    random_turn,
)

from offbragg.errors import OrientationError
from offbragg.reduction.indexing import index
from offbragg.reduction.peaks import find_peaks
from offbragg.reduction.refinement import SweepPeaks
from offbragg.stack import Stack
from offbragg.sweep import Sweep
from sim_iocs.crystal import LATTICE, Crystal
from sim_iocs.crystal import orientation as simulated_ub

SHAPE = (96, 128)


def blobs(places, n_frames=20, *, background=5.0, seed=0, height=400.0) -> np.ndarray:
    """Gaussian peaks at (x, y, z), corner convention, on a Poisson background."""
    z, y, x = np.meshgrid(
        np.arange(n_frames) + 0.5, np.arange(SHAPE[0]) + 0.5, np.arange(SHAPE[1]) + 0.5,
        indexing="ij",
    )  # fmt: skip
    expected = np.full(z.shape, background)
    for cx, cy, cz in places:
        expected += height * np.exp(
            -0.5 * (((x - cx) / 1.2) ** 2 + ((y - cy) / 1.2) ** 2 + ((z - cz) / 0.9) ** 2)
        )
    return np.random.default_rng(seed).poisson(expected).astype(np.int32)


def stack(counts: np.ndarray) -> Stack:
    return Stack(counts, Sweep("phi", 0.0, 0.5, len(counts), 0.1, 0.1))


def test_a_peak_is_where_it_was_put():
    """The corner of pixel (0, 0) is at 0, and frame n is from n to n + 1."""
    places = [(30.5, 40.2, 8.5), (80.25, 20.75, 12.1), (101.0, 70.0, 5.0)]

    found = find_peaks(stack(blobs(places)))

    assert len(found) == 3
    for x, y, z in places:
        off = np.abs(np.column_stack([found.x - x, found.y - y, found.z - z])).max(axis=1)
        assert off.min() < 0.1
    assert found.clean.all()
    assert found.width == pytest.approx(0.9, abs=0.15)


def test_noise_alone_has_no_peaks():
    assert len(find_peaks(stack(blobs([])))) == 0


def test_a_hill_of_diffuse_scattering_is_no_peak():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    hill = 300.0 * np.exp(-0.5 * ((x - 60.0) ** 2 + (y - 50.0) ** 2) / 14.0**2) + 5.0
    counts = np.random.default_rng(1).poisson(np.repeat(hill[None], 10, axis=0)).astype(np.int32)

    assert len(find_peaks(stack(counts))) <= 1


def test_hot_pixels_gaps_and_dead_pixels_are_no_peaks():
    counts = blobs([(60.3, 40.6, 8.5)])
    counts[:, 10, 20] = 5000  # hot for all the sweep
    counts[7, 70, 90] = 900  # a cosmic ray
    counts[:, :, 50:54] = -1
    counts[:, 80, 30] = -2

    found = find_peaks(stack(counts))

    assert len(found) == 1
    assert found.x[0] == pytest.approx(60.3, abs=0.1)
    assert found.ignored["single pixels"] == 1
    assert found.ignored["lasting"] >= 1


def test_what_may_have_moved_a_centroid_is_not_clean():
    counts = blobs([(30.5, 40.2, 8.5), (80.0, 20.0, 12.0), (60.0, 80.0, 0.4), (100.0, 60.0, 9.5)])
    counts[:, 38:41, 32] = -1  # beside the first
    stored = np.ones(20, bool)
    stored[12] = False
    counts[12] = -1  # in the second
    counts[8:11, 59:62, 99:102] = 1_100_000  # saturates the fourth

    found = find_peaks(stack(counts), stored=stored, saturation=1_000_000)

    assert len(found) == 4
    assert not found.clean.any()


def test_a_peak_goes_on_over_a_missing_frame():
    counts = blobs([(80.0, 20.0, 10.5)])
    stored = np.ones(20, bool)
    stored[10] = False
    counts[10] = -1

    found = find_peaks(stack(counts), stored=stored)

    assert len(found) == 1
    assert found.z[0] == pytest.approx(10.5, abs=0.2)


def test_no_frame_is_named():
    with pytest.raises(OrientationError, match="none of the 5 frames is there"):
        find_peaks(stack(blobs([], 5)), stored=np.zeros(5, bool))


def test_frame_numbers_do_not_depend_on_how_the_stack_was_cut():
    counts = blobs([(30.5, 40.2, 12.5)])

    part = find_peaks(stack(counts)[6:])

    assert part.z[0] == pytest.approx(12.5, abs=0.1)


class Endless:
    """Frames that are made when they are read."""

    def __init__(self, n: int, shape: tuple[int, int]) -> None:
        self.shape = (n, *shape)

    def __getitem__(self, number: int) -> np.ndarray:
        return np.random.default_rng(number).poisson(5.0, self.shape[1:]).astype(np.int32)


def test_memory_does_not_grow_with_the_number_of_frames():
    def most(n: int) -> int:
        made = Endless(n, (400, 400))
        tracemalloc.start()
        find_peaks(Stack(made, Sweep("phi", 0.0, 0.1, n, 0.1, 0.1)))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    few, many = most(10), most(60)

    assert many < 1.3 * few
    assert many < 40 * 400 * 400 * 4


def test_the_simulators_own_crystal_is_found_in_its_frames():
    crystal = Crystal("100K", seed=3)
    sweep = Sweep("phi", 0.0, 1.0, 180, 0.1, 0.1)
    counts = frames(crystal, sweep)

    found = index([SweepPeaks(geometry("100K"), sweep, find_peaks(Stack(counts, sweep)))])

    angle, strain = misorientation(found.UB, simulated_ub(), (LATTICE,) * 3 + (90.0,) * 3)
    assert found.name == "cP"
    assert angle < 0.02
    assert strain < 5e-4


def attempt(seed: int) -> tuple[bool, str]:
    """A random crystal, from frames with diffuse scattering, gaps, dead pixels."""
    rng = np.random.default_rng(1000 + seed)
    name = BRAVAIS[seed % len(BRAVAIS)]
    cell = random_cell(name, rng)
    UB = orientation(cell, random_turn(rng))
    sweep = Sweep("phi", 0.0, 0.5, 240, 0.1, 0.1)
    counts = frames(AnyCrystal(UB, name[1], seed=seed), sweep)
    began = time.perf_counter()
    peaks = find_peaks(Stack(counts, sweep), saturation=1e6)
    try:
        found = index([SweepPeaks(geometry("300K"), sweep, peaks)])
    except OrientationError as error:
        return False, f"{seed} {name} {cell}: {error}"
    seconds = time.perf_counter() - began
    angle, strain = misorientation(found.UB, UB, cell)
    numbers = (
        f"{seed} {name}: {found.name}, {angle:.4f} degree, {strain:.6f}, {seconds:.1f} s, "
        f"{found.fraction:.0%} of {len(peaks)}"
    )
    return angle < 0.02 and strain < 5e-4 and found.name == name and seconds < 30, numbers


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_30_random_crystals_are_found_in_frames():
    results = [attempt(seed) for seed in range(30)]

    print(*(numbers for _, numbers in results), sep="\n")
    wrong = [numbers for right, numbers in results if not right]
    assert not wrong


@pytest.mark.parametrize("seed", range(4))
def test_peaks_do_not_depend_on_the_number_of_threads(seed):
    """Also where pixels are left out on the way, and frames are crowded."""
    rng = np.random.default_rng(seed)
    places = rng.uniform((5, 5, 2), (120, 90, 58), (30, 3)).tolist()
    counts = blobs(places, 60, seed=seed)
    counts[:, rng.random(SHAPE) < 0.01] = 9000  # hot for all the sweep
    counts[:, 50:54] = -1
    crowded = rng.random(60) < 0.1
    counts[crowded] += 500 * (rng.random((crowded.sum(), *SHAPE)) < 0.05).astype(np.int32)
    counts[7] = -1
    made = Stack(counts, Sweep("phi", 0.0, 3.0, 60, 0.1, 0.1))

    one, *others = (find_peaks(made, threads=threads) for threads in (1, 2, 3, 8))

    assert len(one) > 10
    assert one.ignored["lasting"] > 50
    assert one.ignored["crowded frames"] == crowded.sum()
    for other in others:
        assert other.ignored == one.ignored
        for name in ("x", "y", "z", "intensity", "width", "clean"):
            np.testing.assert_array_equal(getattr(other, name), getattr(one, name))


def test_an_error_of_a_frame_ends_the_search():
    class Broken(Endless):
        def __getitem__(self, number: int) -> np.ndarray:
            if number == 7:
                raise OSError("frame 7 cannot be read")
            return super().__getitem__(number)

    seen = []

    with pytest.raises(OSError, match="frame 7"):
        find_peaks(
            Stack(Broken(40, (64, 64)), Sweep("phi", 0.0, 0.1, 40, 0.1, 0.1)),
            progress=lambda done, total: seen.append(done),
        )
    assert seen == list(range(1, 8))
