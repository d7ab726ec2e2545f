"""What two workers of a Dask cluster make of two cores, against one process on the same machine.

Scheduler and workers are processes of their own, started as the how-to has it. The integer sums are
compared, so that the same work was done.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streams import SHAPE_2M, generated

from offbragg import kernels
from offbragg.files.scan_writer import ScanWriter
from offbragg.frame import PackedFrame
from offbragg.geometry import Geometry
from offbragg.grid import Grid
from offbragg.instrument import Axis, Panel
from offbragg.reduction.accumulator import Accumulator
from offbragg.sweep import Sweep
from offbragg.workflows.choices import Choices
from offbragg.workflows.dask import sum_on_cluster
from offbragg.workflows.record import ReductionRecord
from offbragg.workflows.reduce import build_record
from offbragg.workflows.sums import empty_sums, prepared

GRID = Grid.parse("-6:6:0.02,-6:6:0.02,-6:6:0.02")  # 601³ cells
QUIET = {  # what a worker does beside its tasks, all the time; see the how-to
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "1s",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "5s",
}


def sweep_file(folder: Path, n: int) -> Path:
    """Write a scan file of a 2M at 0.1° a frame."""
    panel = Panel((127.0, 144.0, 200.0), (-1, 0, 0), (0, -1, 0), (0.172, 0.172), SHAPE_2M)
    geometry = Geometry(0.7, panel, (Axis("phi", (0.0, 1.0, 0.0)),), "phi")
    sample = {"name": "x", "label": "x", "lattice": [6.0, 6.0, 6.0, 90.0, 90.0, 90.0]}
    start = {
        "uid": "many", "time": 1.7e9, "sample": {**sample, "UB": (np.eye(3) / 6).tolist()},
        "sweep": Sweep("phi", 0.0, 360 / 3650, n, 0.1, 0.1).to_dict(),
        "geometry": geometry.to_dict(),
        "detector": {"sensor_material": "Si", "sensor_thickness": 1.0, "saturation": 10**6},
    }  # fmt: skip
    base = generated()
    with ScanWriter.create(folder, start=start) as scan:
        for number in range(n):
            base[0, 0] = number  # one that is repeated would not count
            chunk = kernels.encode(base, np.empty(kernels.chunk_bound(base.size), np.uint8))
            frame = PackedFrame(number, SHAPE_2M, chunk, f"x_{number:05d}.cbf", time=1.7e9)
            scan.write_frames([frame])
        scan.finish(time=1.7e9 + n, exit_status="success", reason="", summary={})
        return scan.path


class Cluster:
    """A scheduler and two workers of one thread."""

    def __init__(self, folder: Path) -> None:
        file = folder / "scheduler.json"
        environment = os.environ | QUIET | {
            "MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
        }  # fmt: skip
        common = ["--scheduler-file", str(file), "--no-dashboard"]
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "dask", *line, *common], env=environment,
                stderr=subprocess.DEVNULL,
            )
            for line in (
                ["scheduler", "--host", "127.0.0.1", "--port", "0"],
                ["worker", "--nworkers", "2", "--nthreads", "1", "--memory-limit", "0"],
            )
        ]  # fmt: skip
        deadline = time.monotonic() + 60
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        self.address: str = json.loads(file.read_text())["address"]
        from distributed import Client

        self.client: Any = Client(self.address, set_as_default=False)
        self.client.wait_for_workers(2, timeout=60)
        self.client.run(__import__, "offbragg.workflows.sums")

    def cpu(self) -> tuple[float, float, float]:
        """Return CPU times so far: of the workers, the scheduler, and this process, s."""
        workers = sum(self.client.run(time.process_time).values())
        return workers, self.client.run_on_scheduler(time.process_time), time.process_time()

    def peaks(self) -> list[float]:
        """Return the peak memory of each worker so far, GB."""
        return [peak(pid) for pid in self.client.run(os.getpid).values()]

    def end(self) -> None:
        self.client.close()
        for process in reversed(self._processes):
            process.terminate()
            process.wait(30)


def peak(pid: int) -> float:
    """Return the peak memory of a process so far, GB."""
    (line,) = [
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]  # fmt: skip
    return round(int(line.split()[1]) * 1024 / 1e9, 2)


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    pytest.importorskip("distributed", reason="the extra [dask] is not installed")
    made = Cluster(tmp_path)
    yield made
    made.end()


def alone(record: ReductionRecord, threads: int) -> tuple[Accumulator, float, float]:
    """Sum in this process; return the sums, CPU time and wall time, s."""
    cpu, wall = time.process_time(), time.monotonic()
    sums = empty_sums(record)
    for each in record.inputs:
        with prepared(record, each, threads=threads) as sweep:
            sweep.add(sums)
    return sums, time.process_time() - cpu, time.monotonic() - wall


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not kernels.compiled, reason="the kernels are not compiled")
@pytest.mark.parametrize("n", [256, 1024, 3650])
def test_two_workers(cluster, tmp_path, capsys, n):
    path = sweep_file(tmp_path / "sweep", n)
    choices = Choices(grid=GRID, monitor=False, background="none")
    record = build_record([path], choices, say=lambda text: None)
    before, began = cluster.cpu(), time.monotonic()

    two = sum_on_cluster(record, cluster.address)

    wall = time.monotonic() - began
    workers, scheduler, here = np.subtract(cluster.cpu(), before)
    peaks, ours = cluster.peaks(), peak(os.getpid())
    assert isinstance(two, Accumulator)
    sums, one, one_wall = alone(record, 1)
    assert np.array_equal(sums.touched(), two.touched())
    assert all(np.array_equal(sums.sums.low[b], two.sums.low[b]) for b in sums.touched())
    del sums, two
    _, both, both_wall = alone(record, 2)
    everything = workers + scheduler + here
    with capsys.disabled():
        print(f"\n{n} frames: one process {one:.1f} s CPU, {one_wall:.1f} s; two threads "
              f"{both:.1f} s CPU, {both_wall:.1f} s; two workers {workers:.1f} s CPU, scheduler "
              f"{scheduler:.1f}, merging {here:.1f}, {wall:.1f} s, peaks {peaks} GB, here "
              f"{ours} GB\nefficiency by CPU time: workers {one / workers:.2f}, all "
              f"{one / everything:.2f}; by wall time: {one_wall / (2 * wall):.2f} of two cores, "
              f"{both_wall / wall:.2f} of two threads")  # fmt: skip
    assert one / everything > 0.5
