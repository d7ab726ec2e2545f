"""Somebody sets a clock in the middle of a sweep: it rings, and no frame is lost or misplaced.

The clock of this host stays as it is. The process under test sees another one: a few lines of C
that are preloaded, and a file that says by how much it is wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.judge import judge, stored
from faults.stacking import Stackers, WaitingRun, wait_until
from faults.test_main_path import SimulatedBeamline, finish, uid_of

from offbragg.files.journal_file import read_journal
from offbragg.files.scan_file import ScanFile
from offbragg.recovery.verify import verify

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None or not Path("/proc").is_dir(), reason="needs a compiler, and Linux"
)

HOUR = 3600.0
HOOK = '#!/bin/sh\nread -r alarm\necho "$alarm" >> "$1"\n'


@dataclass
class SteppingClock:
    """The wall clock of the processes that are started within `seen`."""

    library: Path
    wrong: Path

    @contextlib.contextmanager
    def seen(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LD_PRELOAD", str(self.library))
            patch.setenv("STEPPING_CLOCK", str(self.wrong))
            yield

    def set(self, seconds: float) -> float:
        """Have it be wrong by this time, s; gives when that was, by the monotonic clock, s."""
        with self.wrong.open("r+b", buffering=0) as file:
            file.write(struct.pack("d", seconds))
        return time.monotonic()


@pytest.fixture(scope="module")
def clock(tmp_path_factory) -> SteppingClock:
    folder = tmp_path_factory.mktemp("clock")
    made = SteppingClock(folder / "stepping_clock.so", folder / "wrong")
    made.wrong.write_bytes(struct.pack("d", 0.0))
    source = Path(__file__).with_name("stepping_clock.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", made.library, source], check=True)
    return made


@pytest.fixture(scope="module")
def stackers(clock, tmp_path_factory) -> Iterator[Stackers]:
    with clock.seen():
        made = Stackers(tmp_path_factory.mktemp("stackers"), quick=True)
    yield made
    made.close()


def with_alarm(run: WaitingRun) -> Path:
    """Add an alarm to a beamline that writes down what it gets."""
    record, hook = run.root / "record", run.root / "hook"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    with run.toml.open("a") as toml:
        toml.write(f'[alarms]\ncommand = ["{hook}", "{record}"]\n')
    return record


def alarms(record: Path) -> list[dict[str, Any]]:
    if not record.exists():
        return []
    return [json.loads(line) for line in record.read_text().splitlines(True) if line[-1:] == "\n"]


@pytest.mark.parametrize("hours", [pytest.param(1, marks=pytest.mark.slow), -1])
def test_a_clock_that_steps_in_a_sweep_rings_and_costs_no_frame(stackers, clock, tmp_path, hours):
    clock.set(0.0)
    run = WaitingRun(tmp_path / "run", n_frames=30)
    run.experiment.mkdir()
    record = with_alarm(run)
    rang: list[float] = []

    def rings() -> bool:
        return any(alarm["what"] == "clock" for alarm in alarms(record))

    def measure(pid: int) -> None:
        try:
            run.begin()
            run.write(*range(10))
            run.announce(10)
            path = wait_until(lambda: next(iter(run.scan_files()), None), 20, "the scan file")
            wait_until(lambda: len(stored(path)) == 10, 20)
            time.sleep(0.3)  # some looks of the watchdog
            assert not rings()
            began = clock.set(hours * HOUR)
            for number in range(10, 30):
                run.write(number)
                run.announce(number + 1)
                if not rang and rings():
                    rang.append(time.monotonic() - began)
                time.sleep(0.03)
            wait_until(rings, 20, "the alarm")
            rang.append(time.monotonic() - began)
            run.monitor_counted(list(range(30)))
            run.end()
            wait_until(lambda: ScanFile.open(path).complete, 20, "the end")
        finally:
            os.kill(pid, signal.SIGTERM)

    following = [a for a in run.arguments if a != "--once"]
    ended = stackers.run(following, meanwhile=measure)

    assert ended.code == 0, ended.output
    (path,) = run.scan_files()
    assert judge(path, run.sources, values=run.values, over=True) == []
    assert stored(path) == set(range(30))
    with ScanFile.open(path) as scan:
        times = scan.frame_values()["time"]
    np.testing.assert_allclose(times - run.began, 0.1 * np.arange(30), atol=1e-6)
    assert verify(path, journal=run.journal_directory).problems == []
    print(f"\nthe clock's step of {hours:+d} h rang after {rang[0]:.2f} s")
    assert rang[0] < 1.0
    raised = {alarm["what"]: alarm for alarm in alarms(record) if alarm["state"] == "raised"}
    # the files have the right time: this host's clock differs from theirs now
    assert {"clock"} <= set(raised) <= {"clock", "clock.frames"}
    alarm = raised["clock"]
    way = "forward" if hours > 0 else "back"
    assert f"jumped {way} by 3600.0 s" in alarm["reason"]
    assert alarm["severity"] == "major"


@pytest.mark.slow
@pytest.mark.ioc
def test_a_clock_that_steps_under_a_run_engine(clock, tmp_path):
    """The one of the RunEngine's host; instruments and stacker have the right time."""
    beamline = SimulatedBeamline(tmp_path)
    try:
        beamline.stack()
        for hours in (1, -1):
            clock.set(0.0)
            with clock.seen():
                measuring = beamline.measure()
            uid = uid_of(measuring)
            wait_until(lambda uid=uid: beamline.stored(uid) >= 10, 30, "ten frames")
            clock.set(hours * HOUR)
            finish(measuring)

            path = beamline.wait_for_complete(uid)
            verdict = verify(path, journal=beamline.config.paths.journal)
            assert verdict.problems == []
            assert verdict.frames["stored"] == 40
            with ScanFile.open(path) as scan:
                values = scan.frame_values()
            np.testing.assert_allclose(np.diff(values["time"]), 0.1, atol=1e-6)
            documents, _ = read_journal(beamline.config.paths.journal / f"{uid}.jsonl")
            streams = {doc["uid"]: doc["name"] for name, doc in documents if name == "descriptor"}
            watched = [doc["data"] for name, doc in documents
                       if name == "event" and streams[doc["descriptor"]] == "watch"]  # fmt: skip
            assert any("jumped" in str(data) for data in watched), watched
            print(f"\n{hours:+d} h: {verdict.frames}, temperatures "
                  f"{np.nanmin(values['temperature'])} to {np.nanmax(values['temperature'])}, "
                  f"watch: {watched}")  # fmt: skip
    finally:
        beamline.end()
