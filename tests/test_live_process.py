"""``offbragg live`` as it is typed: killed, stopped, and without an orientation."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from growing import CHOICES, Growing, N, check_equal, live, measured
from measured import Measured
from runs import wait_until

from offbragg.files.orientation import read_orientation
from offbragg.files.scan_file import ScanFile
from offbragg.files.volume_file import VolumeFile
from offbragg.followers.live_state import read_state
from offbragg.grid import Grid
from offbragg.workflows.choices import Choices

BOX = "-3:1:0.1,-1:2:0.1,-3:1:0.1"
TYPED = ("--every", "0", "--grid", BOX)
SAME = Choices(grid=Grid.parse(BOX))


@pytest.fixture
def beamline(tmp_path: Path) -> Path:
    file = tmp_path / "beamline.toml"
    file.write_text(
        'beamline_id = "test"\n[catalog]\nport = 1\n[paths]\n'
        + "".join(f'{n} = "{n}"\n' for n in ("experiment", "frames", "journal", "catalog", "log"))
    )
    return file


def start(verb: str, beamline: Path, *options: str) -> subprocess.Popen[bytes]:
    log = beamline.with_name(f"{verb}.log").open("ab")
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", "offbragg", verb, "--beamline", str(beamline), *options],
            stdout=log, stderr=log,
        )  # fmt: skip


def end(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> int:
    process.send_signal(how)
    return process.wait(30)


def is_closed(volume: Path) -> bool:
    if not volume.exists():
        return False
    with VolumeFile(volume) as file:
        return "inputs" in file.record


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_and_started_again(tmp_path, beamline, kills):
    run = Growing(tmp_path, measured())
    volume = run.path.with_name("live-f1.h5")
    random.seed(17)

    for n in range(kills):
        following = start("live", beamline, *TYPED)
        if n < N:
            run.store(n)
        time.sleep(random.uniform(0.5, 4.0))
        end(following, signal.SIGKILL)
    run.store(*range(min(kills, N), N))
    run.end()
    following = start("live", beamline, *TYPED)
    try:
        wait_until(lambda: is_closed(volume), 60, "the volume is closed")
        wait_until(
            lambda: read_state(tmp_path / "journal").get("state") == "closed", 20, "its state"
        )
        state = read_state(tmp_path / "journal")
    finally:
        code = end(following)

    assert code == 0
    assert state | {"why": "", "after": None} == {
        "volume": str(volume), "state": "closed", "frames": N, "of": N,
        "orientation": "start document", "why": "", "after": None,
    }  # fmt: skip
    assert read_state(tmp_path / "journal") == {}
    assert not list(run.path.parent.glob(".live-*"))
    check_equal(volume, [run.path], SAME)


def test_a_stacker_beside_one_that_is_stopped_is_not_delayed(run, beamline):
    """It holds no lock and no file that the stacker waits for."""
    stacker, following = start("stack", beamline, "--no-catalog"), start("live", beamline, *TYPED)
    try:
        run.begin()
        run.write(0, 1)
        run.monitor_counted([0, 1])
        run.announce(2)
        volume = wait_until(
            lambda: next(iter(run.experiment.rglob("live-*.h5")), None), 60, "a growing volume"
        )
        following.send_signal(signal.SIGSTOP)
        run.write(*range(2, 10))
        run.monitor_counted(list(range(2, 10)))
        run.announce(10)
        run.end()
        began = time.monotonic()
        path = volume.with_name("f1.h5")
        wait_until(lambda: is_complete(path), 20, "end")
        took = time.monotonic() - began
        following.send_signal(signal.SIGCONT)
        wait_until(lambda: is_closed(volume), 60, "the volume is closed")
    finally:
        os.kill(following.pid, signal.SIGCONT)
        end(following)
        end(stacker)

    assert took < 10.0
    check_equal(volume, [path], SAME)


def is_complete(path: Path) -> bool:
    with ScanFile.open(path) as scan:
        return scan.complete


def test_an_orientation_that_is_found_while_it_turns(tmp_path, caplog):
    caplog.set_level("INFO", "offbragg")
    whole = Measured(n_frames=120, step=0.5, temperature=100.0)
    sample = {k: v for k, v in whole.start["sample"].items() if k != "UB"}
    sweep = Measured(
        n_frames=120, step=0.5, temperature=100.0,
        start_more={"sample": sample, "uid": "found", "time": time.time()},
    )  # fmt: skip
    sweep.counts = whole.counts
    run = Growing(tmp_path, sweep)
    following = live(tmp_path)
    volume = run.path.with_name("live-f1.h5")

    run.store(*range(30))
    following.run(once=True)
    state = json.loads((tmp_path / "journal" / ".live.json").read_text())
    stored = 30
    while not volume.exists() and stored < 120:
        run.store(*range(stored, stored + 10))
        stored += 10
        following.volumes[0]._next_try = 0.0
        following.run(once=True)
    grown = stored
    run.store(*range(grown, 120))
    path = run.end()
    following.run(once=True)

    assert state["state"] == "waiting"
    assert state["why"] == "no orientation: 15 of at least 20 degrees are stored"
    assert grown < 120
    assert any("orientation found in the first" in line for line in caplog.messages)
    assert read_orientation(path.with_name("orientation.json")).source["what"] == "offbragg index"
    check_equal(volume, [path], CHOICES)
