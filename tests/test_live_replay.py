"""``offbragg live`` beside a stacker at the rates of large detectors, replayed.

All of it is slow, and prints what it measured: run it with ``-m slow -s`` on a quiet machine. Only
what must hold on any machine is asserted: nothing is lost, and the volume is that of ``reduce``.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from replays import (
    BOX,
    DELAYED,
    SHAPE_6M,
    Replayed,
    StoredFrames,
    Viewer,
    backlog,
    prepare_frames,
    processes,
    summary,
    wait_for_volume,
)
from runs import wait_until
from streams import SHAPE_2M

from offbragg import kernels
from offbragg.beamline.config import Beamline, load
from offbragg.beamline.limits import make_paths
from offbragg.demo import configure
from offbragg.demo.scene import simulated_scene
from offbragg.files.scan_file import ScanFile
from offbragg.grid import Grid
from offbragg.workflows.choices import Choices
from offbragg.workflows.reduce import reduce_to_file
from sim_iocs import crystal

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not kernels.compiled, reason="the kernels are not compiled"),
]
BOX_SMALL = "-3:3:0.05,-3:3:0.05,-3:3:0.05"
PATIENCE = 600.0  # s, on a busy machine
MEASURE = str(Path(__file__).with_name("faults") / "measure.py")
PEROVSKITE = json.dumps(simulated_scene(crystal.truth("2M")).sample.to_dict())


@pytest.fixture
def memory(tmp_path) -> Iterator[Path]:
    """A folder in memory, if there is one: the disk is not what is looked at."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="offbragg-replay-", dir="/dev/shm") as made:
        yield Path(made)


@pytest.mark.parametrize(("n", "step"), [(360, 1.0), (1800, 0.2)], ids=["1 deg", "0.2 deg"])
def test_a_whole_rotation_through_channel_access_is_seen_as_it_grows(
    memory, tmp_path, capsys, n, step
):
    """Frames of a 2M at 10 Hz, and a client who asks for planes all the time."""
    root = memory if n <= 360 else tmp_path  # memory does not hold all of them
    prepare_frames(root / "prepared", n, SHAPE_2M)
    log = (tmp_path / "ioc.log").open("wb")
    with log, simulated(root, log) as config, processes(config.file, tmp_path) as beamline:
        beamline.serve()
        beamline.start("stack")
        beamline.start("live", "--grid", BOX)
        experiment = config.paths.experiment
        with (
            StoredFrames(experiment) as stored,
            Viewer(config, experiment, stored) as viewer,
            subprocess.Popen(
                [sys.executable, MEASURE, str(config.file), str(n), str(step), PEROVSKITE],
                stdout=log,
            ) as measuring,
        ):
            assert measuring.wait(PATIENCE) == 0
            wait_until(lambda: len(stored.times) == n, PATIENCE, "all frames are stored")
            volume, closed = wait_for_volume(experiment, PATIENCE)
        cpu = {verb: beamline.cpu(verb) for verb in beamline.running}

    whole = sorted(path.stat().st_mtime for path in config.paths.frames.rglob("*.cbf"))
    delayed = stored.delayed(whole)
    with capsys.disabled():
        print(f"\n{(n - 1) / (whole[-1] - whole[0]):.2f} frames/s came, {step:g}° each; "
              f"{delayed}; CPU, s: {cpu}; "
              f"the first plane {viewer.first - stored.times[0]:.1f} s after the first frame; "
              f"complete {closed - stored.times[-1]:.1f} s after the last")  # fmt: skip
        for level, name in ((4, "coarse"), (1, "full")):
            print(f"{name} planes: age {summary(viewer.ages[level])}; "
                  f"answered in {summary(viewer.seconds[level])}")  # fmt: skip
    assert len(whole) == n
    check_same_volume(volume, Choices(grid=Grid.parse(BOX)))


@pytest.mark.parametrize(
    ("shape", "n"), [(SHAPE_2M, 1000), (SHAPE_6M, 500)], ids=["2M", "6M"]
)  # fmt: skip
def test_a_hundred_frames_a_second(memory, tmp_path, capsys, shape, n):
    """Frame files that were prepared are moved into the run's folder at their time."""
    prepared = prepare_frames(memory / "prepared", n, shape)
    run = Replayed(memory / "run", n_frames=n, shape=shape, period=0.01)
    with processes(run.toml, tmp_path) as beamline, StoredFrames(run.experiment) as stored:
        beamline.start("stack", "--no-catalog")
        beamline.start("live", "--grid", BOX)
        wait_until(lambda: all(is_idle(each.pid) for each in beamline.running.values()), 60)
        run.began = time.time()
        run.begin()
        whole = run.replay(prepared)
        run.end()
        wait_until(lambda: len(stored.times) == n, PATIENCE, "all frames are stored")
        volume, closed = wait_for_volume(run.experiment, PATIENCE)
        cpu = {verb: round(1e3 * beamline.cpu(verb) / n, 1) for verb in beamline.running}

    with capsys.disabled():
        print(f"\n{(n - 1) / (whole[-1] - whole[0]):.1f} frames/s came, "
              f"{(n - 1) / (stored.times[-1] - stored.times[0]):.1f} were stored, "
              f"{n / (closed - whole[0]):.1f} were in the volume when it was complete, "
              f"{closed - stored.times[-1]:.1f} s after the last was stored; not stored yet: "
              f"{backlog(stored.times, whole)}; CPU of a frame, ms: {cpu}")  # fmt: skip
    check_same_volume(volume, Choices(grid=Grid.parse(BOX)))


def test_stopped_for_half_a_minute(tmp_path, capsys):
    """A sweep of 45 s at 10 Hz, in the middle of which the live process stands still."""
    prepared, run = small_sweep(tmp_path, 450)
    with processes(run.toml, tmp_path) as beamline, StoredFrames(run.experiment) as stored:
        beamline.start("stack", "--no-catalog")
        following = beamline.start("live", "--grid", BOX_SMALL)
        wait_until(lambda: all(is_idle(each.pid) for each in beamline.running.values()), 60)
        stop_and_go = subprocess.Popen(
            ["sh", "-c", f"sleep 5; kill -STOP {following.pid}; sleep 30; "
             f"kill -CONT {following.pid}"]
        )  # fmt: skip
        run.began = time.time()
        run.begin()
        whole = run.replay(prepared)
        run.end()
        wait_until(lambda: len(stored.times) == 450, 60, "all frames are stored")
        assert stop_and_go.wait(60) == 0
        volume, closed = wait_for_volume(run.experiment, PATIENCE)

    delayed = stored.delayed(whole)
    with capsys.disabled():
        print(f"\n{delayed}; complete {closed - stored.times[-1]:.1f} s after the last")
    assert delayed.longest < 10 * DELAYED
    check_same_volume(volume, Choices(grid=Grid.parse(BOX_SMALL)))


@pytest.mark.parametrize("spare", [1, 30, 100])
def test_starved_of_memory(tmp_path, capsys, spare):
    """The live process gets ``spare`` MB beyond what it has before the sweep begins."""
    prepared, run = small_sweep(tmp_path, 100)
    with processes(run.toml, tmp_path) as beamline, StoredFrames(run.experiment) as stored:
        beamline.start("stack", "--no-catalog")
        following = beamline.start("live", "--grid", BOX_SMALL)
        wait_until(lambda: all(is_idle(each.pid) for each in beamline.running.values()), 60)
        most = memory_of(following.pid) + (spare << 20)
        resource.prlimit(following.pid, resource.RLIMIT_AS, (most, most))
        run.began = time.time()
        run.begin()
        whole = run.replay(prepared)
        run.end()
        wait_until(lambda: len(stored.times) == 100, 60, "all frames are stored")
        time.sleep(5)
        ended = following.poll()
        printed = beamline.log("live")
        following.terminate()
        following.wait(30)
        beamline.start("live", "--grid", BOX_SMALL)
        volume, _ = wait_for_volume(run.experiment, PATIENCE)

    delayed = stored.delayed(whole)
    with capsys.disabled():
        print(f"\nwith {spare} MB to spare: ended with {ended}; {delayed}\n{printed[-1500:]}")
    assert delayed.longest < 10 * DELAYED
    check_same_volume(volume, Choices(grid=Grid.parse(BOX_SMALL)))


def small_sweep(root: Path, n: int) -> tuple[list[Path], Replayed]:
    shape = (195, 487)
    prepared = prepare_frames(root / "prepared", n, shape)
    return prepared, Replayed(root / "run", n_frames=n, shape=shape, period=0.1, step=180.0 / n)


def check_same_volume(volume: Path, choices: Choices) -> None:
    """Check that a live volume is the one that ``reduce`` makes, byte for byte."""
    path = volume.with_name(volume.name.removeprefix("live-"))
    with ScanFile.open(path) as scan:
        counts = scan.ledger.counts()
        assert counts["stored"] == scan.n_frames, counts
    offline = volume.with_name("offline.h5")
    reduce_to_file([path], choices, offline, say=lambda text: None)
    assert volume.read_bytes() == offline.read_bytes()


def is_idle(pid: int) -> bool:
    """Return whether a process has started and sleeps: it ran in none of 20 looks in a second."""
    for _ in range(20):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if fields[0] != "S" or int(fields[11]) < 0.5 * os.sysconf("SC_CLK_TCK"):
            return False
        time.sleep(0.05)
    return True


def memory_of(pid: int) -> int:
    """Return the size of a process's address space, bytes."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[0]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def simulated(root: Path, log: IO[bytes]) -> Iterator[Beamline]:
    """Serve a simulated beamline that replays the frames that were prepared."""
    ready = root / "ioc.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "sim_iocs", "--port", "0", "--ready", str(ready), "--replay",
         str(root / "prepared"), "--acceleration", "60"],
        stdout=log, stderr=log,
    )  # fmt: skip
    try:
        wait_until(ready.exists, 120, "the simulated beamline serves")
        served = json.loads(ready.read_text())
        config = load(configure(root, served, simulated_scene(crystal.truth("2M"))))
        make_paths(config)
        yield config
    finally:
        process.terminate()
        process.wait(30)
