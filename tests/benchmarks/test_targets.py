"""What a reduction costs, against the targets of the design, by ``poe bench`` alone.

These are figures, not tests: they hold for one machine, and two cores are two only while nothing
else runs. Ratios to peers, which are asserted, are in `test_peers`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.measurement import PLAIN, UB, Measurement, cpu, scan_file
from benchmarks.peers import Transform
from numpy.typing import NDArray
from streams import generated

from offbragg import kernels
from offbragg.files.scan_file import ScanFile
from offbragg.reduction import Corrections, ReductionSetup
from offbragg.reduction.binning import Oversample
from offbragg.reduction.peaks import find_peaks
from offbragg.reduction.reduce import add_frames
from offbragg.workflows.choices import Choices
from offbragg.workflows.reduce import reduce_to_file

pytestmark = pytest.mark.skipif(not kernels.compiled, reason="the kernels are not compiled")

N = 300
"""Frames of the sweep."""


@pytest.fixture(scope="module")
def frames() -> Measurement:
    return Measurement.of(32)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Iterator[Path]:
    """Write a scan file of frames with Bragg peaks, as a Pilatus counts them."""
    folder = tmp_path_factory.mktemp("sweep")
    different = [np.roll(generated(), 7 * number, axis=0) for number in range(8)]
    measurement = Measurement(np.broadcast_to(different[0], (N, *different[0].shape)), 300)
    path = scan_file(measurement, folder, (numbered(different[n % 8], n) for n in range(N)))
    yield path
    path.unlink()


def numbered(counts: NDArray[np.int32], number: int) -> NDArray[np.int32]:
    """Return a frame with its number in a corner: repeated frames would not count."""
    found = counts.copy()
    found[0, 0] = number
    return found


def adding(frames: Measurement, setup: ReductionSetup) -> Callable[[], None]:
    """Prepare what adds all frames, which are in memory, to the same sums."""
    binner, sums = setup.binner(), setup.accumulator(setup.exponent(1.0))
    flux = np.ones(len(frames.counts))
    return lambda: add_frames(frames.stack, setup, flux, sums, binner=binner)


def setup_of(frames: Measurement, threads: int, oversample: Oversample) -> ReductionSetup:
    return ReductionSetup(
        frames.geometry, UB, frames.grid, PLAIN, oversample=oversample, threads=threads
    )


def test_two_cores(benchmark, frames, report):
    work = [adding(frames, setup_of(frames, threads, Oversample())) for threads in (1, 2)]
    walls = ([], [])

    def both() -> None:
        for add, wall in zip(work, walls, strict=True):
            begun = time.perf_counter()
            add()
            wall.append(time.perf_counter() - begun)

    benchmark.pedantic(both, rounds=4)

    one, two = min(walls[0]), min(walls[1])
    mpixels = frames.counts.size / 1e6
    report(
        "frames in memory into 601³ cells, two cores",
        f"{one / two:.2f} × one ({mpixels / two:.0f} Mpixel/s)",
        f"target 1.6 (load {os.getloadavg()[0]:.1f})",
    )


def test_finer_cells(benchmark, frames, report):
    coarse, fine = Transform(frames), Transform(replace(frames, half=600))
    costs: list[tuple[float, float]] = []

    benchmark.pedantic(lambda: costs.append((coarse.per_frame(), fine.per_frame())), rounds=4)

    ratio = min(cost for cost, _ in costs) / min(cost for _, cost in costs)
    report("1201³ cells, one core", f"{ratio:.0%} of 601³", "target 45 %")


def test_oversampling(benchmark, frames, report):
    few = frames.first(4)
    sides = (1, 2, 3)
    work = [adding(few, setup_of(few, 1, Oversample(side, side))) for side in sides]
    costs: list[float] = []

    def all_three() -> None:
        for add in work:
            with cpu() as spent:
                add()
            costs.append(1e3 * spent() / len(few.counts))

    benchmark.pedantic(all_three, rounds=1)

    for side, cost in zip(sides, costs, strict=True):
        report(
            f"oversampling {side} × {side} × {side}, one core",
            f"{cost:.0f} ms a frame",
            f"{cost / side**3:.1f} ms a part" + "; target: linear in the parts" * (side == 3),
        )


def test_reduce(benchmark, sweep, report, tmp_path):
    choices = Choices(
        grid=Measurement.of(1).grid, monitor=False, corrections=Corrections(efficiency=False)
    )
    out = tmp_path / "volume.h5"
    spent: list[tuple[float, float]] = []

    def whole() -> None:
        begun = time.perf_counter()
        with cpu() as seconds:
            written = reduce_to_file([sweep], choices, out, say=lambda text: None)
        spent.append((seconds(), time.perf_counter() - begun))
        assert written.completeness > 0.01

    benchmark.pedantic(whole, rounds=1)

    seconds, wall = spent[0]
    report(
        f"reduce {N} frames, 601³ cells, levels, file",
        f"{seconds:.1f} s of CPU in {wall:.1f} s",
        f"85 s of CPU at 35f3639, another machine; file {out.stat().st_size / 1e9:.2f} GB",
    )
    out.unlink()


def test_index(benchmark, sweep, report):
    spent: list[tuple[float, float]] = []

    def search() -> None:
        begun = time.perf_counter()
        with ScanFile.open(sweep) as scan, cpu() as seconds:
            find_peaks(scan.stack, threads=2)
        spent.append((seconds() / N, (time.perf_counter() - begun) / N))

    benchmark.pedantic(search, rounds=2)

    seconds, wall = (min(each) for each in zip(*spent, strict=True))
    report(
        "peaks of a sweep, read and searched, two threads",
        f"{1e3 * seconds:.2f} ms of CPU a frame",
        f"3650 frames: {3650 * wall:.0f} s, {3650 * seconds / 2:.0f} s by CPU; target 30 s",
    )
