"""Ten viewers do not slow the stacker: delay of the frames without and with them.

``offbragg stack``, ``offbragg serve`` and the viewers are processes of their own, on one host. Each
viewer asks for one plane after the other, of a volume that is replaced every two seconds; or for
the last frame, as a picture, whenever the page would.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.test_live import follow_ledger, replay
from faults.stacking import WaitingRun
from runs import wait_until
from streams import SHAPE_2M, generated

from offbragg import kernels
from offbragg.beamline.config import load
from offbragg.catalog.client import connect
from offbragg.catalog.volumes import publish_volume
from offbragg.files.volume_writer import write_volume
from offbragg.grid import Grid
from offbragg.volume import Volume
from sim_iocs.cbf import encode_cbf

RATE = 20.0  # Hz
N_FRAMES = 160
VIEWERS = 10
GRID = Grid((-250, -250, -16), (501, 501, 33), (25, 25, 25))
VIEW = """
import sys, threading, time, httpx
url, key, count, shown, run = sys.argv[1:]
headers = {"Authorization": f"Apikey {key}"}

def view(number):
    with httpx.Client(base_url=url, headers=headers, timeout=60) as http:
        n = number
        while True:
            n += 1
            place = f"plane=hk&value={(n % 31 - 15) / 25}&level={1 + n % 2}&low={1 + n % 97}"
            if not run:
                answer = http.get(f"/volumes/{shown}/plane?{place}")
            else:
                answer = http.get(f"/runs/{run}/frames/last")
                if answer.status_code == 404:  # no frame yet
                    answer.status_code = 200
                time.sleep(0.1)
            print(answer.status_code, flush=True)

for number in range(int(count)):
    threading.Thread(target=view, args=(1000 * number,)).start()
"""


def volumes(folder: Path) -> list[Path]:
    """Two volumes of one grid, with noise."""
    made: list[Path] = []
    for seed in range(2):
        random = np.random.default_rng(seed)
        counts = random.poisson(9.0, GRID.shape).astype(float)
        volume = Volume(counts, np.ones(GRID.shape), GRID)
        made.append(write_volume(folder / f"v{seed}.h5", volume, {}))
    return made


def replace_now_and_then(path: Path, made: list[Path], over: threading.Event) -> None:
    number = 0
    while not over.is_set():
        new = path.with_name(".new.h5")
        shutil.copy(made[number % 2], new)
        new.replace(path)
        number += 1
        over.wait(2.0)


def delays(memory: Path, viewers: int, log: Any, *, frames_seen: bool) -> tuple[np.ndarray, int]:
    """Replay a run; return how late each frame was stored, s, and how many pictures were seen."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    run = WaitingRun(memory, n_frames=N_FRAMES, shape=SHAPE_2M, period=1 / RATE, port=port)
    frames = [encode_cbf(generated(), name="x", header=["test"])]
    children: list[subprocess.Popen[bytes]] = []
    over = threading.Event()

    def child(*arguments: str, **how: Any) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        children.append(
            subprocess.Popen([sys.executable, *arguments], env=environment, stderr=log, **how)
        )
        return children[-1]

    config = load(run.toml)
    try:
        child("-m", "offbragg", "serve", "--beamline", str(run.toml))
        child("-m", "offbragg", "stack", "--beamline", str(run.toml))
        wait_until(config.key_file.exists, 180, what="a key")
        key = config.key_file.read_text().strip()
        connect(config.catalog_url, key, timeout=180)
        config.paths.experiment.mkdir(exist_ok=True)
        path = config.paths.experiment / "live-f1.h5"
        replacing = threading.Thread(
            target=replace_now_and_then, args=(path, volumes(config.paths.experiment), over)
        )
        replacing.start()
        wait_until(path.exists)
        shown = publish_volume(path, host="127.0.0.1", port=port, key=key, timeout=60)
        view = child(
            "-c", VIEW, config.catalog_url, key, str(viewers), shown, run.uid * frames_seen,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        if viewers:
            assert view.stdout is not None
            view.stdout.readline()  # the first plane is there
        stored: list[float] = []
        ledger = threading.Thread(
            target=lambda: stored.extend(follow_ledger(run, over, every=0.03))
        )
        ledger.start()
        run.began = time.time()
        run.begin()
        whole = replay(run, frames, rate=RATE)
        run.end()
        ledger.join(timeout=60)
        view.kill()
        seen = view.communicate()[0].split()
    finally:
        over.set()
        for process in children:
            process.terminate()
        for process in children:
            process.wait(timeout=30)
    assert len(stored) == N_FRAMES
    assert set(seen) <= {b"200"}
    return np.subtract(stored, whole), len(seen)


@pytest.mark.slow
@pytest.mark.skipif(not kernels.compiled, reason="the kernels are not compiled")
@pytest.mark.parametrize("frames_seen", [False, True], ids=["planes", "frames"])
def test_ten_viewers_do_not_slow_the_stacker(tmp_path, capsys, frames_seen):
    found: dict[int, tuple[np.ndarray, int]] = {}
    with (tmp_path / "log").open("wb") as log:
        for viewers in (0, VIEWERS):
            memory = tmp_path / str(viewers)
            found[viewers] = delays(memory, viewers, log, frames_seen=frames_seen)

    with capsys.disabled():
        for viewers, (late, planes) in found.items():
            median, most, worst = np.quantile(late, [0.5, 0.95, 1.0])
            print(
                f"\n{viewers} viewers, {planes * RATE / N_FRAMES:.0f} pictures/s: stored after "
                f"{median:.2f} s (median), {most:.2f} s (95 %), {worst:.2f} s (worst)"
            )
    (alone, _), (watched, planes) = found[0], found[VIEWERS]
    assert planes > VIEWERS
    assert np.median(watched) < 2 * np.median(alone) + 0.2
