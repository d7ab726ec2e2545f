"""How old a plane of a growing volume is, and how soon it is complete: a Pilatus 2M at 10 Hz."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from growing import Growing
from runs import wait_until

from offbragg.errors import ReductionError
from offbragg.files.volume_file import VolumeFile
from offbragg.followers import live_file, live_runs, live_volume
from offbragg.followers.live_runs import LiveRuns
from offbragg.followers.live_state import read_state
from offbragg.geometry import Geometry
from offbragg.grid import Grid
from offbragg.instrument import Axis, Panel
from offbragg.sweep import Sweep
from offbragg.workflows.choices import Choices
from offbragg.workflows.record import GROWING

SHAPE = (1679, 1475)
BOX = "-6:6:0.02,-6:6:0.02,-6:6:0.02"  # 601³
RATE = float(os.environ.get("LIVE_RATE", "10"))  # Hz; slower where others need the processors


def sweep_of_2m(n_frames: int, step: float) -> Any:
    """Frames of a Pilatus 2M with a little diffuse scattering."""
    rng = np.random.default_rng(1)
    base = rng.poisson(0.7, (8, *SHAPE)).astype(np.int32)
    base[:, :, 490:497] = -1
    panel = Panel((127.0, 144.0, 200.0), (-1, 0, 0), (0, -1, 0), (0.172, 0.172), SHAPE)
    geometry = Geometry(0.7, panel, (Axis("phi", (0.0, 1.0, 0.0)),), "phi")
    start = {
        "uid": "live-2m", "time": time.time(), "plan_name": "rotation_scan",
        "sample": {
            "name": "x", "label": "x", "lattice": [6.0, 6.0, 6.0, 90.0, 90.0, 90.0],
            "UB": (np.eye(3) / 6).tolist(),
        },
        "temperature": {"setpoint": 100.0},
        "sweep": Sweep("phi", 0.0, step, n_frames, 0.099, 0.1).to_dict(),
        "geometry": geometry.to_dict(),
        "detector": {
            "sensor_material": "Si", "sensor_thickness": 1.0, "saturation": 10**6,
        },
    }  # fmt: skip

    class Frames:
        def __getitem__(self, n: int) -> np.ndarray:
            return np.roll(base[n % 8], n * 37, axis=1)

    return SimpleNamespace(start=start, counts=Frames(), flux=np.ones(n_frames))


class Client:
    """Looks at the file as a reader of planes does: how old is what it shows?"""

    def __init__(self, path: Path, stored: list[float]) -> None:
        self.ages: dict[str, list[float]] = {"coarse": [], "cells": []}
        self._path, self._stored, self._stop = path, stored, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.1):
            try:
                with VolumeFile(self._path) as file:
                    record = file.record
            except ReductionError:
                continue
            if GROWING in record:
                frames = sum(each["frames"] for each in record[GROWING].values())
                for name, shown in (("coarse", frames), ("cells", record["cells"])):
                    waiting = self._stored[shown : shown + 1]  # the first one that is not in it
                    self.ages[name].append(time.time() - waiting[0] if waiting else 0.0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("n_frames", "step"), [(300, 0.1), (360, 1.0)])
def test_a_2m_at_10_hz(tmp_path, n_frames, step, record_property):
    root = tmp_path if "LIVE_SPEED" not in os.environ else Path(os.environ["LIVE_SPEED"])
    (root / "beamline.toml").write_text(
        'beamline_id = "test"\n[catalog]\nport = 1\n[paths]\n'
        + "".join(f'{n} = "{n}"\n' for n in ("experiment", "frames", "journal", "catalog", "log"))
    )
    run = Growing(root, sweep_of_2m(n_frames, step))
    volume = run.path.with_name("live-f1.h5")
    command = [
        sys.executable, *os.environ.get("LIVE_PROFILE", "").split(), "-m", "offbragg", "live",
        "--beamline", str(root / "beamline.toml"), "--grid", BOX, "--no-monitor",
    ]  # fmt: skip
    with (root / "live.log").open("ab") as log:
        following = subprocess.Popen(command, stdout=log, stderr=log)
    stored: list[float] = []
    client = Client(volume, stored)
    try:
        run.store(0, monitor=False)
        stored.append(time.time())
        wait_until(lambda: volume.exists(), 120, "it follows")
        begin, late = time.time(), 0.0
        for n in range(1, n_frames):
            time.sleep(max(begin + n / RATE - time.time(), 0.0))
            run.store(n, monitor=False)
            stored.append(time.time())
            late = max(late, stored[-1] - (begin + n / RATE))
        before = cpu(following.pid)
        run.end()
        wait_until(
            lambda: read_state(root / "journal").get("state") == "closed", 300, "it is closed"
        )
        after, used = read_state(root / "journal")["after"], cpu(following.pid)
        client.end()
    finally:
        client.end()
        following.terminate()
        following.wait(30)
    coarse, cells = (np.array(client.ages[name][20:]) for name in ("coarse", "cells"))
    numbers = {
        "closed": after, "closed_cpu": used - before, "cpu": used, "writer_late": late,
        "coarse_median": np.median(coarse), "coarse_95": np.quantile(coarse, 0.95),
        "cells_median": np.median(cells), "cells_95": np.quantile(cells, 0.95),
        "peak_MB": peak(following.pid, root), "size_MB": volume.stat().st_size / 1e6,
    }  # fmt: skip
    for name, number in numbers.items():
        record_property(name, float(number))
    print(json.dumps({k: round(float(v), 3) for k, v in numbers.items()}))
    assert after < 50.0  # 10 × what is wanted: nice, on a busy machine
    assert np.median(coarse) < 30.0, numbers
    assert np.median(cells) < 60.0, numbers


_PEAKS: dict[int, float] = {}


def cpu(pid: int) -> float:
    """Return the CPU time that a process has used, s; its largest memory is noted, too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            _PEAKS[pid] = int(line.split()[1]) / 1e3
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak(pid: int, root: Path) -> float:
    """Return the largest memory of a process when it was last looked at, MB."""
    return _PEAKS[pid]


class Clock:
    """The time that a quiet processor would have taken: what this process used, and pauses."""

    def __init__(self) -> None:
        self.now = time.time()

    def monotonic(self) -> float:
        return self.now + (time.process_time() - self._since if self._since else 0.0)

    time = monotonic
    _since = 0.0

    def run(self, work: Any) -> Any:
        self._since = time.process_time()
        done = work()
        self.now, self._since = self.monotonic(), 0.0
        return done


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("n_frames", "step"), [(300, 0.1), (360, 1.0)])
def test_a_2m_at_10_hz_on_one_quiet_core(tmp_path, n_frames, step, monkeypatch, record_property):
    """On a busy machine, too: time passes as the processor works, all threads one by one."""
    clock = Clock()
    for module in (live_file, live_volume, live_runs):
        monkeypatch.setattr(module, "time", clock)
    run = Growing(tmp_path, sweep_of_2m(n_frames, step))
    choices = Choices(grid=Grid.parse(BOX), monitor=False)
    following = LiveRuns(tmp_path / "journal", tmp_path / "experiment", choices)
    volume = run.path.with_name("live-f1.h5")
    run.store(0, monitor=False)
    clock.run(following.advance)
    due = [clock.now + n / RATE for n in range(n_frames)]
    stored, shown = 1, {"coarse": 1, "cells": 1}
    ages: dict[str, list[float]] = {"coarse": [], "cells": []}
    idle = 0.0
    while stored < n_frames:
        come = sum(at <= clock.now for at in due)
        run.store(*range(stored, come), monitor=False)
        stored = come
        os.utime(run.path)  # SWMR may not have done so yet
        before = clock.now
        if not clock.run(following.advance):
            clock.now += 0.2
            idle += 0.2 if clock.now - before < 0.25 else 0.0
        with VolumeFile(volume) as file:
            record = file.record
        now = {"coarse": record[GROWING]["f1.h5"]["frames"], "cells": record["cells"]}
        for name, n in now.items():
            if n > shown[name]:  # the age of the oldest frame that was not in it until now
                ages[name].append(clock.now - due[shown[name]])
                shown[name] = n
    last = clock.now
    run.end()
    while not following.volumes[0].closed:
        clock.run(following.advance)
    numbers = {
        "complete": following.volumes[0]._closed_at - last,
        "closed": clock.now - last,
        "behind": n_frames - shown["coarse"],
        "idle": idle,
        "length": last - due[0],
        **{f"{name}_{q}": np.quantile(each, q) for name, each in ages.items() for q in (0.5, 0.95)},
    }
    for name, number in numbers.items():
        record_property(name, float(number))
    print(json.dumps({k: round(float(v), 3) for k, v in numbers.items()}))
    # what is wanted is 5, 1 and 3 s of two quiet cores; other work makes the caches cold, too
    assert numbers["complete"] < 10.0, numbers
    assert numbers["coarse_0.5"] < 10.0, numbers
    assert numbers["cells_0.5"] < 30.0, numbers
