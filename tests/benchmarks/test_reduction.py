"""Binning against what NumPy offers for it: the same frames into the same cells, in one run.

``poe bench`` times both and holds their ratio against the target; the whole suite only looks that
they agree.
"""

from __future__ import annotations

import time

import numpy as np
import pytest
from streams import generated

from offbragg import kernels
from offbragg.files import scan_layout
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_writer import ScanWriter
from offbragg.frame import Frame
from offbragg.geometry import Geometry
from offbragg.grid import Grid
from offbragg.instrument import Axis, Panel
from offbragg.lattice import q_to_hkl
from offbragg.reduction import Corrections, ReductionSetup, reduce, symmetrise
from offbragg.reduction.binning import Oversample
from offbragg.reduction.peaks import find_peaks
from offbragg.reduction.reduce import add_frames
from offbragg.reduction.symmetry import Laue
from offbragg.stack import Stack
from offbragg.sweep import Sweep
from offbragg.volume import Volume

SHAPE = (1679, 1475)
PANEL = Panel((127.0, 144.0, 250.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.172, 0.172), SHAPE)
GEOMETRY = Geometry(0.7, PANEL, (Axis("phi", (0.0, 1.0, 0.0)),), "phi")
UB = np.eye(3) / 5.5
GRID = Grid.box((-4, 4), (-4, 4), (-4, 4), step=0.05)
PLAIN = Corrections(solid_angle=False, polarization=None, efficiency=False, air=False)
TARGET = 4.0  # times as fast as histogramdd


@pytest.fixture(scope="module")
def stack(request) -> Stack:
    n = 20 if request.config.getoption("benchmark_only") else 1
    return Stack(np.stack([generated()] * n), Sweep("phi", 0.0, 1.0, n, 0.1, 0.1))


@pytest.fixture(scope="module")
def seconds() -> dict[str, float]:
    return {}


@pytest.fixture(scope="module")
def parts_seconds() -> dict[int, float]:
    return {}


def histogram(stack: Stack) -> tuple[np.ndarray, np.ndarray]:
    """Counts and weights of each cell, as one writes it with NumPy."""
    rows, columns = SHAPE
    x, y = np.arange(columns) + 0.5, (np.arange(rows) + 0.5)[:, None]
    edges = [
        (np.arange(a, a + n + 1) - 0.5) / m
        for a, n, m in zip(GRID.first, GRID.shape, GRID.per_unit, strict=True)
    ]
    counts = weight = 0.0
    for frame, angle in zip(stack.counts, stack.angles, strict=True):
        good = frame >= 0
        hkl = q_to_hkl(GEOMETRY.q(x, y, angle), UB)[good]
        counts = counts + np.histogramdd(hkl, edges, weights=frame[good])[0]
        weight = weight + np.histogramdd(hkl, edges)[0]
    return np.asarray(counts), np.asarray(weight)


def test_histogramdd(benchmark, stack, seconds, request):
    few = stack[:2]

    benchmark.pedantic(lambda: histogram(few), rounds=1)

    if request.config.getoption("benchmark_only"):  # else nothing may be timed
        seconds["histogramdd"] = benchmark.stats.stats.min / len(few)


@pytest.mark.parametrize("threads", [1, 2])
def test_binning(benchmark, stack, seconds, request, threads):
    scene = ReductionSetup(GEOMETRY, UB, GRID, PLAIN, threads=threads)
    binner, volume = scene.binner(), scene.empty()
    flux = np.ones(len(stack))

    benchmark.pedantic(
        lambda: reduce(stack, scene, flux, into=volume, binner=binner), rounds=1,
        setup=lambda: (volume.counts.fill(0), volume.weight.fill(0), None)[-1],
    )  # fmt: skip

    if request.config.getoption("benchmark_only"):
        each = benchmark.stats.stats.min / len(stack)
        ratio = seconds["histogramdd"] / each
        report = request.getfixturevalue("report")
        report(
            f"reduce 2M frames into 161³ cells, {threads} threads",
            f"{ratio:.1f} × histogramdd", f"target {TARGET}; {1 / each:.1f} frames/s",
        )  # fmt: skip
        assert ratio > TARGET


def test_both_agree(stack):
    counts, weight = histogram(stack[:1])

    volume = reduce(stack[:1], ReductionSetup(GEOMETRY, UB, GRID, PLAIN), np.ones(1))

    # a pixel on an edge, but for rounding, may go either way
    assert np.count_nonzero(volume.weight != weight) < 1e-4 * np.count_nonzero(weight)
    assert volume.counts.sum() == counts.sum()


@pytest.mark.parametrize(("pixels", "frames"), [(1, 1), (2, 2), (3, 3)])
def test_oversampling(benchmark, stack, request, parts_seconds, pixels, frames):
    """Linear in the parts: a part costs at most twice a whole pixel, and one of 27 as one of 8."""
    few = stack[:2]
    more = Oversample(pixels, frames)
    scene = ReductionSetup(GEOMETRY, UB, GRID, PLAIN, oversample=more, threads=1)
    binner, sums = scene.binner(), scene.accumulator(scene.exponent(1.0))

    def bin_frames() -> float:
        before = time.process_time()
        add_frames(few, scene, np.ones(len(few)), sums, binner=binner)
        return (time.process_time() - before) / len(few) / more.parts

    bin_frames()  # takes its pages from the system
    each = parts_seconds[more.parts] = benchmark.pedantic(bin_frames, rounds=1)

    assert sums.total("counts") > 0
    if request.config.getoption("benchmark_only"):
        line = f"\n{more.parts} parts: {each * more.parts * 1e3:.0f} ms of CPU a frame of 2M"
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(line)
        if kernels.compiled:
            assert each < 2.0 * parts_seconds[1]
            assert more.parts != 27 or each < 1.3 * parts_seconds[8]


@pytest.mark.parametrize("half", [pytest.param(200, marks=pytest.mark.slow), 25])
@pytest.mark.parametrize("name", ["-1", "mmm", "6/mmm", "m-3m"])
def test_symmetrise(benchmark, name, half, request):
    """401 × 401 × 401 cells: 0.5 GB an array, counts and weight."""
    n = 2 * half + 1
    grid = Grid((-half,) * 3, (n,) * 3, (20,) * 3)
    volume = Volume(np.ones(grid.shape), np.full(grid.shape, 2.0), grid)
    laue = Laue.named(name)

    def fill() -> None:
        volume.counts.fill(1.0)
        volume.weight.fill(2.0)

    done = benchmark.pedantic(
        lambda: symmetrise(volume, laue, overwrite=True), setup=fill, rounds=2
    )  # fmt: skip

    assert done.counts[half, half, half] == 1
    assert done.counts[half + 1, half + 2, half + 3] == len(laue.operations)
    assert np.all(done.weight == 2 * done.counts)
    if request.config.getoption("benchmark_only"):
        rate = done.counts.size / benchmark.stats.stats.min / 1e6
        report = request.getfixturevalue("report")
        report(f"symmetrise by {name}, {n}³ cells", f"{rate:.1f} Mcell/s", "target 100")


@pytest.mark.parametrize("how", ["by HDF5", "checked"])
def test_a_frame_is_read(benchmark, tmp_path, seconds, request, how):
    """What it costs to compare a chunk with its checksum and decode it, against HDF5 alone."""
    sweep = Sweep("phi", 0.0, 1.0, 2, 0.1, 0.1)
    start = {
        "uid": "read", "time": 1.7e9, "sample": {"name": "x", "label": "x"},
        "sweep": sweep.to_dict(), "geometry": GEOMETRY.to_dict(),
    }  # fmt: skip
    with ScanWriter.create(tmp_path, start=start) as scan:
        scan.write_frame(Frame(0, generated()), source="x", time=1.7e9)
        path = scan.path
    with ScanFile.open(path) as scan:
        counts = scan.stack.counts if how == "checked" else scan._get(scan_layout.DATA)

        read = benchmark(lambda: counts[0])

        np.testing.assert_array_equal(read, generated())
    if request.config.getoption("benchmark_only"):
        seconds[how] = benchmark.stats.stats.min
        if how == "checked":
            ratio = seconds[how] / seconds["by HDF5"]
            print(f"\na frame is read in {ratio:.3f} times the time that HDF5 takes without")
            assert ratio < (0.7 if kernels.compiled else 1.5)


def test_peaks_of_frames(benchmark, tmp_path, seconds, request):
    """Frames read and searched for peaks by one thread, against HDF5 that reads them."""
    n = 24 if request.config.getoption("benchmark_only") else 2
    sweep = Sweep("phi", 0.0, 1.0, n, 0.1, 0.1)
    start = {
        "uid": "peaks", "time": 1.7e9, "sample": {"name": "x", "label": "x"},
        "sweep": sweep.to_dict(), "geometry": GEOMETRY.to_dict(),
    }  # fmt: skip
    counts = generated()
    with ScanWriter.create(tmp_path, start=start) as scan:
        for number in range(n):
            scan.write_frame(Frame(number, counts), source="x", time=1.7e9)
        path = scan.path
    with ScanFile.open(path) as scan:
        found = benchmark.pedantic(lambda: find_peaks(scan.stack, threads=1), rounds=3)

    assert len(found) + found.ignored["lasting"] > 200
    if request.config.getoption("benchmark_only"):
        ratio = benchmark.stats.stats.min / n / seconds["by HDF5"]
        print(f"\na frame is read and searched in {ratio:.2f} times the time HDF5 reads it in")
        assert ratio < (3.0 if kernels.compiled else 10.0)
