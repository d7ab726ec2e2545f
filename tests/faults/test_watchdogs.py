"""Real disks that fill, go, and cannot be written: an alarm within a second, and nothing is lost.

A stacker in a process of its own, a run whose frames keep coming, and a command as the beamline's
alarm that writes down when it got which change.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_disks import SmallDisk, needs_mount
from runs import MeasuredRun, counts_of, wait_until

from offbragg.beamline.config import Beamline, load
from offbragg.errors import OffbraggError
from offbragg.files.scan_file import ScanFile
from offbragg.recovery.verify import verify
from offbragg.status import status

FRAMES = 12
HOOK = '#!/bin/sh\nread -r alarm\necho "$(date +%s.%N) $alarm" >> "$1"\n'


class Watched:
    """A beamline of directories, with a stacker and an alarm; its scan files on a small disk."""

    def __init__(self, root: Path, run: MeasuredRun, *options: str, port: int = 1) -> None:
        self.run = run
        self.reports = root / "reported"
        hook = root / "hook"
        hook.write_text(HOOK)
        hook.chmod(0o755)
        file = root / "beamline.toml"
        file.write_text(
            f"""
            beamline_id = "test"
            paths = {{ experiment = "{run.experiment}", frames = "{run.frames.parent}",
                journal = "{run.journal_directory}", catalog = "catalog", log = "log" }}
            limits = {{ free_disk = 0.0001 }}
            catalog = {{ port = {port} }}
            alarms = {{ command = ["{hook}", "{self.reports}"], backlog = 0.4 }}
            """.replace("\n                ", " ")
        )
        for name in ("catalog", "log"):
            (root / name).mkdir()
        self.config: Beamline = load(file)
        self.output = (root / "output").open("w+")
        self.stacker = subprocess.Popen(
            [sys.executable, "-m", "offbragg", "stack", "--beamline", str(file), "--late", "0.5",
             *options],
            stdout=self.output, stderr=self.output,
        )  # fmt: skip

    def end(self) -> None:
        self.stacker.send_signal(signal.SIGCONT)
        self.stacker.terminate()
        assert self.stacker.wait(20) == 0
        self.output.close()

    def alarms(self) -> list[tuple[float, dict[str, Any]]]:
        """What the command got, and when."""
        with contextlib.suppress(FileNotFoundError):
            lines = self.reports.read_text().splitlines(keepends=True)
            whole = [line.partition(" ") for line in lines if line.endswith("\n")]
            return [(float(when), json.loads(report)) for when, _, report in whole]
        return []

    def wait_for(self, what: str, state: str, since: float) -> float:
        """Wait for an alarm; give how long after the fault the command had it, s."""

        def there() -> float | None:
            for when, report in self.alarms():
                if (report["what"], report["state"]) == (what, state) and when > since:
                    return when - since
            return None

        return wait_until(there, 20, f"{what} {state}: {self.alarms()}")

    def stored(self) -> int:
        try:
            with ScanFile.open(self.scan_file()) as scan:
                return scan.ledger.counts()["stored"]
        except (OffbraggError, OSError, StopIteration):
            return 0

    def scan_file(self) -> Path:
        return next(self.run.experiment.rglob("f1.h5"))


@pytest.fixture
def disk(run: MeasuredRun) -> Iterator[SmallDisk]:
    run.n_frames = FRAMES
    run.experiment.mkdir()
    with SmallDisk(run.experiment, 16_000_000) as disk:
        yield disk


@pytest.fixture
def watched(tmp_path, run: MeasuredRun, disk) -> Iterator[Watched]:
    watched = Watched(tmp_path, run, "--no-catalog")
    try:
        wait_until(lambda: status(watched.config, devices=False)["stacker"], 20)
        yield watched
    finally:
        watched.end()


def measure(run: MeasuredRun, first: int, stop: int) -> None:
    run.write(*range(first, stop))
    run.monitor_counted(list(range(first, stop)))
    run.announce(stop)


def assert_nothing_is_lost(watched: Watched) -> None:
    path = watched.scan_file()
    with ScanFile.open(path) as scan:
        assert scan.complete
        assert scan.ledger.counts()["stored"] == FRAMES
        for number in range(FRAMES):
            np.testing.assert_array_equal(scan.stack.counts[number], counts_of(number))
        np.testing.assert_array_equal(scan.frame_values()["monitor"], 1000.0 + np.arange(FRAMES))
    assert verify(path, journal=watched.run.journal_directory).problems == []


def report(record_property, **figures: float) -> None:
    for name, value in figures.items():
        record_property(name, round(value, 3))
        print(f"{name}: {value:.3f} s")


@needs_mount
@pytest.mark.parametrize(
    "how",
    ["full", "gone", "read_only"]
    + [pytest.param(how, marks=pytest.mark.slow) for how in ("unmounted", "immutable")],
)
def test_a_disk_that_fails_is_reported_within_a_second_and_the_stacker_goes_on(
    watched: Watched, disk: SmallDisk, how, record_property
):
    """Frames and journal go on meanwhile; of the scan file nothing is torn or made up."""
    run = watched.run
    away = run.experiment.with_name("away")
    what = "disk.experiment" if how == "full" else "paths.experiment"
    first = 0
    with contextlib.ExitStack() as fault:
        if how not in ("read_only", "immutable"):  # a disk with an open file on it is busy
            run.begin()
            measure(run, 0, 4)
            wait_until(lambda: watched.stored() == 4, 20)
            first = 4
        began = time.time()
        if how == "full":
            disk.fill()
            fault.callback(disk.free)
        elif how == "gone":  # a mount point cannot be renamed: what is mounted moves
            disk.path.parent.joinpath("other").mkdir()
            subprocess.run(["mount", "--move", disk.path, disk.path.parent / "other"], check=True)
            disk.path.rename(away)
            fault.callback(
                lambda: (
                    away.rename(disk.path),
                    subprocess.run(
                        ["mount", "--move", disk.path.parent / "other", disk.path], check=True
                    ),
                )
            )
        else:
            fault.enter_context(disk.broken(how))
        raised = watched.wait_for(what, "raised", began)
        if not first:
            run.begin()
        measure(run, first, FRAMES)
        run.end()
        alarms = {a["what"]: a for a in status(watched.config, devices=False)["alarms"]}
        assert alarms[what]["since"] == pytest.approx(began, abs=1.0)
        time.sleep(1.0)  # the stacker tries, and cannot
    over = time.time()
    wait_until(lambda: watched.stored() == FRAMES, 30)
    whole = time.time() - over
    cleared = watched.wait_for(what, "cleared", over)
    wait_until(lambda: ScanFile.open(watched.scan_file()).complete, 10)

    report(record_property, raised=raised, cleared=cleared, whole_again=whole)
    assert raised < 1.0
    assert_nothing_is_lost(watched)
    states = [report["state"] for _, report in watched.alarms() if report["what"] == what]
    assert states == ["raised", "cleared"]
    wait_until(lambda: status(watched.config, devices=False)["alarms"] == [], 10)


@needs_mount
def test_a_disk_that_grows_is_as_good_as_one_that_is_tidied_up(
    watched: Watched, disk: SmallDisk, record_property
):
    run = watched.run
    run.begin()
    measure(run, 0, 2)
    wait_until(lambda: watched.stored() == 2, 20)
    disk.fill()
    measure(run, 2, FRAMES)
    run.end()
    watched.wait_for("disk.experiment", "raised", 0.0)
    time.sleep(0.5)
    with ScanFile.open(watched.scan_file()) as scan:
        stored = scan.ledger.counts()["stored"]
        assert scan.length <= FRAMES
        for number in range(stored):
            np.testing.assert_array_equal(scan.stack.counts[number], counts_of(number))

    over = time.time()
    disk.grow(32_000_000)

    wait_until(lambda: watched.stored() == FRAMES, 30)
    report(record_property, whole_again=time.time() - over)
    wait_until(lambda: ScanFile.open(watched.scan_file()).complete, 10)
    assert_nothing_is_lost(watched)


@needs_mount
def test_a_backlog_is_reported_and_is_over_when_the_frames_are_stacked(watched: Watched):
    """Frames are announced and no file comes: the stacker waits, and says for how long."""
    run = watched.run
    run.begin()
    measure(run, 0, 2)
    wait_until(lambda: watched.stored() == 2, 20)
    began = time.time()
    run.announce(FRAMES)  # ten frames of 0.1 s, of which none is there

    backlog = watched.wait_for("backlog", "raised", began)
    print(f"backlog reported after {backlog:.3f} s")
    assert backlog < 1.0
    (report,) = [report for _, report in watched.alarms() if report["what"] == "backlog"]
    assert report["reason"] == "10 frames, 1 s of measuring, wait to be stacked"
    assert report["side"] == "data"
    run.write(*range(2, FRAMES))
    run.monitor_counted(list(range(2, FRAMES)))
    watched.wait_for("backlog", "cleared", began)
    run.end()
    wait_until(lambda: watched.stored() == FRAMES, 20)


def test_a_catalog_that_dies_is_reported_within_a_second_and_stacking_goes_on(
    tmp_path, run: MeasuredRun, record_property
):
    run.n_frames = FRAMES
    run.experiment.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    catalog = subprocess.Popen(
        [sys.executable, "-c", _CATALOG, str(port)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert catalog.stdout is not None
        assert catalog.stdout.readline() == "serves\n"
        watched = Watched(tmp_path, run, port=port)
        try:
            run.begin()
            measure(run, 0, 4)
            wait_until(lambda: watched.stored() == 4, 20)
            assert watched.alarms() == []

            began = time.time()
            catalog.kill()
            raised = watched.wait_for("catalog", "raised", began)
            measure(run, 4, FRAMES)
            run.end()

            report(record_property, raised=raised)
            assert raised < 1.0
            wait_until(lambda: watched.stored() == FRAMES, 20)
        finally:
            watched.end()
    finally:
        with catalog:
            catalog.kill()


# answers that it is well, and nothing else
_CATALOG = """
import http.server, sys
class Well(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Well)
print("serves", flush=True)
server.serve_forever()
"""


@needs_mount
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_five_failures_one_after_the_other(watched: Watched, disk: SmallDisk):
    """The alarm, and the end of it, each time; how long they took."""
    run = watched.run
    raised: list[float] = []
    for turn in range(25):
        how = ("full", "unmounted", "read_only", "immutable", "read_only")[turn % 5]
        what = "disk.experiment" if how == "full" else "paths.experiment"
        time.sleep(0.037 * turn % 0.2)  # at another moment between two looks
        began = time.time()
        if how == "full":
            disk.fill()
            raised.append(watched.wait_for(what, "raised", began))
            over = time.time()
            disk.free()
        else:
            with disk.broken(how):
                raised.append(watched.wait_for(what, "raised", began))
            over = time.time()
        watched.wait_for(what, "cleared", over)
    print(f"{len(raised)} alarms: median {np.median(raised):.3f} s, worst {max(raised):.3f} s")
    assert max(raised) < 1.0
    run.begin()
    measure(run, 0, FRAMES)
    run.end()
    wait_until(lambda: watched.stored() == FRAMES, 30)


@pytest.mark.parametrize("command", ['["/nowhere/alarm"]', '["sleep", "60"]'])
def test_a_stacker_whose_alarm_hangs_or_is_not_there_stacks_all_the_same(
    tmp_path, run: MeasuredRun, command, monkeypatch
):
    run.n_frames = FRAMES
    run.experiment.mkdir()
    path = Path.write_text

    def other_command(self, text, *more):
        begin = text.find("command = [")
        end = text.find("]", begin) + 1
        return path(self, text if begin < 0 else f"{text[:begin]}command = {command}{text[end:]}")

    monkeypatch.setattr(Path, "write_text", other_command)
    watched = Watched(tmp_path, run, "--no-catalog")
    try:
        run.begin()
        (tmp_path / "log").rmdir()  # an alarm
        measure(run, 0, FRAMES)
        run.end()
        wait_until(lambda: watched.stored() == FRAMES, 20)
    finally:
        began = time.time()
        watched.end()
        assert time.time() - began < 6.0, "an alarm that hangs kept the stacker from ending"
