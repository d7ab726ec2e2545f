"""Cost per frame, memory and file descriptors stay the same over ten thousand frames."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from streams import SHAPE_2M

from offbragg import kernels
from offbragg.followers.folder import stack_files
from offbragg.recovery.verify import verify
from sim_iocs.cbf import encode_cbf


def _memory() -> float:
    """Memory of this process that is in no file, MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1e3
    raise AssertionError


def stack(folder: Path, n: int) -> list[tuple[int, float, float, int]]:
    """Stack ``n`` frames; give done, CPU s, MB and descriptors as it goes on."""
    header = ["Exposure_time 0.1 s"]
    # few counts: a virtual machine may have to ask its host, slowly, for memory never used before
    counts = np.random.default_rng(1).poisson(0.001, SHAPE_2M).astype(np.int32)
    (folder / "frame").write_bytes(encode_cbf(counts, name="x", header=header))
    for number in range(n):
        (folder / f"x_{number:05d}.cbf").symlink_to("frame")
    seen: list[tuple[int, float, float, int]] = []

    def look(done: int, total: int) -> None:
        descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir())
        seen.append((done, time.process_time(), _memory(), descriptors))

    stacked = stack_files(f"{folder}/x_*.cbf", folder / "stack.h5", progress=look)
    assert stacked.stored == n
    verdict = verify(folder / "stack.h5")
    assert verdict.problems == []
    assert verdict.frames == {"pending": 0, "stored": n, "missing": 0, "rejected": 0}
    assert verdict.checked == n
    assert verdict.digest == "agrees"
    assert verdict.sources == {"there": n, "gone": 0}
    return seen


@pytest.mark.slow
@pytest.mark.skipif(not kernels.compiled, reason="the kernels are not compiled")
def test_ten_thousand_frames_cost_each_what_the_first_ones_did(tmp_path, capsys):
    memory = Path("/dev/shm")
    folder = memory / f"offbragg-flat-{os.getpid()}" if memory.is_dir() else tmp_path / "flat"
    folder.mkdir()
    try:
        seen = stack(folder, 10_000)
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()

    first = next(row for row in seen if row[0] >= 100)
    early = next(row for row in seen if row[0] >= 1000)
    half = next(row for row in seen if row[0] >= 5000)  # by then buffers and caches are full
    late, last = next(row for row in seen if row[0] >= 9000), seen[-1]

    def cost(a, b) -> float:
        return 1e3 * (b[1] - a[1]) / (b[0] - a[0])

    filling = 1e3 * (half[2] - early[2]) / (half[0] - early[0])
    growth = 1e3 * (last[2] - half[2]) / (last[0] - half[0])
    with capsys.disabled():
        print(
            f"\nCPU ms per frame: {cost(first, early):.2f} from {first[0]} to {early[0]}, "
            f"{cost(late, last):.2f} from {late[0]} to {last[0]}; {filling:.3f} and from {half[0]} "
            f"on {growth:.3f} MB per 1000 frames; "
            f"descriptors {first[3]} and {last[3]}"
        )
    assert cost(late, last) < 1.5 * cost(first, early)
    assert growth < 1.0
    assert last[3] <= first[3] + 2  # each thread may have a file open just then
