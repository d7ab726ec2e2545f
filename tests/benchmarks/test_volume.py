"""Writing a volume with its levels, against plain h5py, NumPy and the disk, in one run.

The whole suite only looks that both write the same.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
from volumes import sparse_volume, whole_arrays, whole_shells

from offbragg.files.volume_writer import write_volume
from offbragg.volume import Volume

TARGET = 3.0  # times as fast as plain h5py, at 301³; the larger a volume, the more


@pytest.fixture(scope="module")
def made(request) -> Volume:
    n = 301 if request.config.getoption("benchmark_only") else 41
    return sparse_volume((n, n, n))


@pytest.fixture(scope="module")
def seconds() -> dict[str, float]:
    return {}


def write_plainly(path: Path, made: Volume) -> None:
    """Write every array whole, as one does with h5py and hdf5plugin."""
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        for name, array in whole_arrays(made).items():
            kind = np.float64 if name.startswith(("volume", "transform")) else np.float32
            data = file.create_dataset(
                name, array.shape, kind, chunks=tuple(min(32, n) for n in array.shape),
                fletcher32=True, **hdf5plugin.Bitshuffle(cname="lz4"),
            )  # fmt: skip
            for at in range(0, array.shape[0], 32):
                data[at : at + 32] = array[at : at + 32].astype(kind)
        file["Q"], file["measured"] = whole_shells(made)
    sync(path)


def sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def timed(benchmark, seconds: dict[str, float], name: str, path: Path, work) -> None:
    cpu: list[float] = []

    def once() -> None:
        begun = time.process_time()
        work()
        cpu.append(time.process_time() - begun)

    benchmark.pedantic(once, setup=lambda: path.unlink(missing_ok=True), rounds=2)
    if benchmark.stats is not None:
        seconds[name], seconds[f"{name}, CPU"] = benchmark.stats.stats.min, min(cpu)


def test_plain_h5py(benchmark, made, seconds, tmp_path):
    path = tmp_path / "plain.h5"

    timed(benchmark, seconds, "plain", path, lambda: write_plainly(path, made))


def test_the_disk(benchmark, made, seconds, tmp_path):
    size = write_volume(tmp_path / "v.h5", made, {}).stat().st_size
    path = tmp_path / "bytes"
    noise = np.random.default_rng(0).bytes(size)

    def work() -> None:
        path.write_bytes(noise)
        sync(path)

    timed(benchmark, seconds, "disk", path, work)


def test_write_volume(benchmark, made, seconds, tmp_path, request):
    path = tmp_path / "v.h5"

    timed(benchmark, seconds, "ours", path, lambda: write_volume(path, made, {}))

    with h5py.File(path) as file:
        for name, array in whole_arrays(made).items():
            data = file["entry"][name]
            np.testing.assert_array_equal(data[()], array.astype(data.dtype))
    if request.config.getoption("benchmark_only"):
        ratio = seconds["plain"] / seconds["ours"]
        cpu = seconds["plain, CPU"] / seconds["ours, CPU"]
        stored = path.stat().st_size / 1e6
        arrays = sum(
            array.size * (8 if name.startswith("volume") else 4)
            for name, array in whole_arrays(made).items()
            if not name.startswith("transform")  # links
        ) / 1e6  # fmt: skip
        report = request.getfixturevalue("report")
        report(
            f"volume of {made.counts.size / 1e6:.0f} Mcells written, levels and all",
            f"{ratio:.1f} × plain h5py",
            f"target {TARGET}; CPU: {seconds['ours, CPU']:.2f} s, {cpu:.1f} ×",
        )
        report(
            "the same against as many bytes written and synced",
            f"{seconds['disk'] / seconds['ours']:.2f} of the disk",
            f"target 0.5; {arrays / seconds['ours']:.0f} MB/s of arrays, "
            f"{stored / seconds['ours']:.0f} MB/s compressed",
        )
        assert ratio > TARGET
