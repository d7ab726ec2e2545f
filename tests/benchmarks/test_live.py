"""Live: a hundred frames a second of a 2M, with a catalog and a reader on the same processors.

Files and documents come as from another host, at their time; ``offbragg stack``, ``offbragg serve``
and somebody who reads over HTTP are processes of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from faults.stacking import WaitingRun
from runs import wait_until
from streams import SHAPE_2M, generated, real_files

from offbragg import kernels
from offbragg.beamline.config import load
from offbragg.catalog.client import connect
from sim_iocs.cbf import encode_cbf

RATE = 100.0  # Hz
N_FRAMES = 1500
ANNOUNCED = 0.15  # s between two documents
READER = """
import json, sys, time
from pathlib import Path
from offbragg.beamline.config import load
config, uid = load(Path(sys.argv[1])), sys.argv[2]
seen, slices, image = {}, 0, None
runs = config.connect_catalog()
last = 0.0
while len(seen) < int(sys.argv[3]):
    time.sleep(0.1)
    try:
        image = runs[uid]["primary"].base["pilatus_image"] if image is None else image.refresh()
    except (LookupError, ValueError):
        continue  # not yet there
    now = time.time()
    for number in range(len(seen), image.shape[0]):
        seen[number] = now
    if now - last > 1.0:  # the newest frame, whole
        assert image[image.shape[0] - 1].shape == tuple(image.shape[1:])
        slices, last = slices + 1, now
print(json.dumps({"seen": list(seen.values()), "slices": slices}))
"""


@pytest.fixture
def memory(tmp_path):
    """A file system in memory, if there is one: the disk is not what is looked at."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="offbragg-live-", dir="/dev/shm") as made:
        yield Path(made)


def replay(run: WaitingRun, frames: list[bytes], *, rate: float = RATE) -> list[float]:
    """Write each frame at its time and announce them now and then; gives when each was whole."""
    whole: list[float] = []
    announced = time.time()
    for number in range(run.n_frames):
        due = run.began + (number + 1) / rate
        if (early := due - time.time()) > 0:
            time.sleep(early)
        run.path(number).write_bytes(frames[number % len(frames)])
        whole.append(time.time())
        if whole[-1] - announced > ANNOUNCED or number == run.n_frames - 1:
            run.monitor_counted(list(range(run.announced, number + 1)))
            run.announce(number + 1)
            announced = whole[-1]
    return whole


def follow_ledger(run: WaitingRun, over: threading.Event, *, every: float = 0.1) -> list[float]:
    """Note when each frame was stored, as another program sees it."""
    times: list[float] = []
    while not over.is_set() and len(times) < run.n_frames:
        with contextlib.suppress(OSError, KeyError, ValueError):
            (path,) = run.scan_files()
            with h5py.File(path, "r", libver="v110", swmr=True, locking=False) as file:
                stored = int((file["entry/frames/status"][()] == b"stored").sum())
            times += [time.time()] * (stored - len(times))
        over.wait(every)
    return times


@pytest.mark.slow
@pytest.mark.skipif(not kernels.compiled, reason="the kernels are not compiled")
def test_a_hundred_frames_a_second_are_stored_and_seen_as_they_come(memory, tmp_path, capsys):
    files = real_files()
    frames = [path.read_bytes() for path in files] or [
        encode_cbf(generated(), name="x", header=["test"])
    ]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    run = WaitingRun(memory / "run", n_frames=N_FRAMES, shape=SHAPE_2M, period=1 / RATE, port=port)
    options = ["--beamline", str(run.toml)]
    log = (tmp_path / "log").open("wb")
    children: list[subprocess.Popen[bytes]] = []

    def child(*arguments: str, **how) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        children.append(
            subprocess.Popen([sys.executable, *arguments], env=environment, stderr=log, **how)
        )
        return children[-1]

    over = threading.Event()
    try:
        child("-m", "offbragg", "serve", *options)
        child("-m", "offbragg", "stack", *options)
        config = load(run.toml)
        wait_until(config.key_file.exists, what="a key")
        connect(config.catalog_url, config.key_file.read_text().strip(), timeout=30)
        reader = child("-c", READER, str(run.toml), run.uid, f"{N_FRAMES}", stdout=subprocess.PIPE)
        stored: list[float] = []
        ledger = threading.Thread(target=lambda: stored.extend(follow_ledger(run, over)))
        ledger.start()
        run.began = time.time()
        run.begin()
        whole = replay(run, frames)
        run.end()
        output, _ = reader.communicate(timeout=60)
        ledger.join(timeout=60)
    finally:
        over.set()
        for process in children:
            process.terminate()
        for process in children:
            process.wait(timeout=30)
        log.close()

    read = json.loads(output)
    assert len(stored) == len(read["seen"]) == N_FRAMES, (tmp_path / "log").read_text()
    rate = (N_FRAMES - 1) / (whole[-1] - whole[0])
    behind = [
        n + 1 - int(np.searchsorted(stored, at, side="right"))
        for n, at in enumerate(whole) if n % 100 == 99
    ]  # fmt: skip
    late = np.subtract(stored, whole), np.subtract(read["seen"], whole)
    with capsys.disabled():
        print(f"\n{rate:.1f} frames/s came, {read['slices']} slices were read meanwhile; "
              f"not stored yet after each 100: {behind}")  # fmt: skip
        for what, seconds in zip(("stored", "seen by the reader"), late, strict=True):
            median, most, worst = np.quantile(seconds, [0.5, 0.95, 1.0])
            print(f"{what} after: median {median:.2f} s, 95 % {most:.2f} s, worst {worst:.2f} s")
