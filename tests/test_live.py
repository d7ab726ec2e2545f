"""The volume that grows with its sweeps, and what `reduce` makes of them afterwards."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from measured import AS_SIMULATED, Measured

from offbragg.callbacks.journal import Journal
from offbragg.files.scan_file import ScanFile
from offbragg.files.scan_folders import scan_directory
from offbragg.files.scan_writer import ScanWriter
from offbragg.files.volume_file import VolumeFile
from offbragg.followers.live_runs import LiveRuns
from offbragg.followers.live_volume import GROWING
from offbragg.frame import Frame
from offbragg.workflows.choices import Choices
from offbragg.workflows.reduce import reduce_to_file
from offbragg.workflows.reproduce import reproduce

CHOICES = Choices(step=0.1, corrections=AS_SIMULATED)
N = 8


class Growing:
    """A run whose scan file grows as a stacker makes it grow."""

    def __init__(self, root: Path, sweep: Measured) -> None:
        self.root, self.sweep = root, sweep
        self.journal = Journal(root / "journal")
        self.journal("start", sweep.start)
        directory = scan_directory(root / "experiment", sweep.start)
        self.scan = ScanWriter.create(directory, start=sweep.start)
        self.path = self.scan.path

    def store(self, *numbers: int, monitor: bool = True) -> None:
        for n in numbers:
            frame = Frame(n, self.sweep.counts[n])
            self.scan.write_frame(frame, source=f"x_{n:05d}.cbf", time=1.77e9 + n)
        if monitor and numbers:
            self.values("monitor", numbers, self.sweep.flux[list(numbers)])

    def values(self, column: str, numbers: Sequence[int], values) -> None:
        self.scan.set_values(column, np.array(numbers), np.asarray(values, float))

    def end(self, *, missing: Sequence[int] = ()) -> Path:
        for n in missing:
            self.scan.mark(n, "missing", "was not there")
        stop = {"uid": f"{self.sweep.start['uid']}-stop", "run_start": self.sweep.start["uid"]}
        self.journal("stop", {**stop, "time": time.time(), "exit_status": "success"})
        self.scan.finish(time=1.77e9 + 100, exit_status="success", reason="", summary={})
        return self.path


def measured(number: int = 0, **more) -> Measured:
    again = more.pop("start_more", {})
    start = {"uid": f"live-{number}", "time": time.time() + number, **again}
    return Measured(
        n_frames=N, step=2.0, temperature=100.0, series=number, start_more=start, **more
    )  # fmt: skip


@pytest.fixture
def run(tmp_path) -> Growing:
    return Growing(tmp_path, measured())


def live(root: Path, choices: Choices = CHOICES, *, every: float = 0.0) -> LiveRuns:
    return LiveRuns(root / "journal", root / "experiment", choices, every=every)


def check_equal(volume: Path, files: Sequence[Path], choices: Choices = CHOICES) -> None:
    """Check that a live volume is the one that `reduce` makes, and can be made again."""
    offline = volume.with_name("offline.h5")
    offline.unlink(missing_ok=True)
    reduce_to_file(list(files), choices, offline, say=lambda text: None)
    assert volume.read_bytes() == offline.read_bytes()
    assert reproduce(volume).same


def test_it_grows_and_is_what_reduce_makes(run, tmp_path):
    following = live(tmp_path)
    volume = run.path.with_name("live-f1.h5")
    grown = []

    for n in range(N):
        run.store(n)
        following.run(once=True)
        with VolumeFile(volume) as file:
            grown.append(file.record[GROWING]["f1.h5"]["frames"])
    run.end()
    following.run(once=True)

    assert grown == list(range(1, N + 1))
    check_equal(volume, [run.path])


def test_nothing_is_summed_twice(run, tmp_path, caplog):
    caplog.set_level("INFO", "offbragg")
    following = live(tmp_path)

    run.store(*range(N))
    following.run(once=True)
    run.end()
    following.run(once=True)
    following.run(once=True)

    closed = [line for line in caplog.messages if "is closed" in line]
    assert len(closed) == 1
    assert "8 of them while they grew; then 0 frames added;" in closed[0]


def test_late_missing_and_dark_frames(run, tmp_path, caplog):
    """What was binned and does not count in the end is subtracted; what came late is added."""
    caplog.set_level("INFO", "offbragg")
    following = live(tmp_path)

    run.store(0, 1, 2, 4, 6)
    following.run(once=True)
    run.store(3, monitor=False)
    following.run(once=True)
    run.values("weight", [1], [0.0])  # there was no beam
    run.values("monitor", [2, 3], [80.0, 90.0])
    run.store(7)
    following.run(once=True)
    run.values("weight", [4], [0.0])
    path = run.end(missing=[5])
    following.run(once=True)

    (closed,) = [line for line in caplog.messages if "is closed" in line]
    assert "1 subtracted" in closed
    assert "summed from" not in closed
    check_equal(path.with_name("live-f1.h5"), [path])


def test_hot_pixels_that_are_known_at_the_end(tmp_path, caplog):
    caplog.set_level("INFO", "offbragg")
    sweep = measured()
    sweep.counts[:, 20, 30] = 5000
    sweep.counts[3:, 100, 300] = 9000  # hot in what is stored later, and not in all
    run = Growing(tmp_path, sweep)
    following = live(tmp_path)

    for n in range(N):
        run.store(n)
        following.run(once=True)
    path = run.end()
    following.run(once=True)

    (closed,) = [line for line in caplog.messages if "is closed" in line]
    assert "pixels corrected in all frames" in closed
    check_equal(path.with_name("live-f1.h5"), [path])


def test_restarted_at_any_moment(run, tmp_path):
    for n in range(N):
        run.store(n)
        if n % 3 == 0:
            live(tmp_path).run(once=True)
    path = run.end()
    live(tmp_path).run(once=True)
    volume = path.with_name("live-f1.h5")
    before = volume.stat()
    live(tmp_path).run(once=True)

    assert (volume.stat().st_ino, volume.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    check_equal(volume, [path])


def test_sweeps_of_one_folder_merge_as_they_come(tmp_path):
    following = live(tmp_path)
    runs = []

    for number, chi in enumerate((0.0, 30.0, 60.0)):
        run = Growing(tmp_path, measured(number, chi=chi))
        runs.append(run)
        run.store(*range(4))
        following.run(once=True)
        following._next_look = 0.0
        run.store(*range(4, N))
        following.run(once=True)
        run.end()
        following.run(once=True)
        check_equal(run.path.with_name("live-f1.h5"), [each.path for each in runs])

    assert [each.path.name for each in runs] == ["f1.h5", "f2.h5", "f3.h5"]
    live(tmp_path).run(once=True)
    assert [each.name for each in runs[0].path.parent.glob("live-*")] == ["live-f1.h5"]


def test_a_sweep_that_does_not_merge_has_its_own_volume(tmp_path):
    UB = measured().UB
    turned = {"sample": {**measured().start["sample"], "UB": (UB[[1, 2, 0]]).tolist()}}
    one = Growing(tmp_path, measured())
    one.store(*range(N))
    one.end()
    other = Growing(tmp_path, measured(1, start_more=turned))
    other.store(*range(N))
    other.end()

    live(tmp_path).run(once=True)

    check_equal(one.path.with_name("live-f1.h5"), [one.path])
    check_equal(one.path.with_name("live-f2.h5"), [other.path])
    live(tmp_path).run(once=True)  # takes both over
    check_equal(one.path.with_name("live-f2.h5"), [other.path])


def test_another_orientation_makes_it_again(run, tmp_path):
    from offbragg.files.orientation import Orientation, write_orientation

    following = live(tmp_path)
    run.store(*range(N))
    path = run.end()
    following.run(once=True)
    with ScanFile.open(path) as scan:
        lattice, UB = scan.sample.lattice, np.array(scan.sample.UB) * 1.0005
    rows = tuple(tuple(float(x) for x in row) for row in UB)
    write_orientation(path.with_name("orientation.json"), Orientation(rows, lattice, {}, {}))

    following.run(once=True)

    volume = path.with_name("live-f1.h5")
    with VolumeFile(volume) as file:
        assert file.record["inputs"][0]["orientation"].endswith("orientation.json")
    check_equal(volume, [path])


def test_symmetry_and_background(tmp_path):
    choices = Choices(
        step=0.1, corrections=AS_SIMULATED, symmetry="m-3m", oversample=CHOICES.oversample
    )
    air = Measured(
        n_frames=4, step=2.0, temperature=100.0, crystal_in=False, series=50,
        start_more={"uid": "air"},
    )  # fmt: skip
    air.write(scan_directory(tmp_path / "experiment", air.start))
    run = Growing(tmp_path, measured())
    following = live(tmp_path, choices)

    run.store(*range(5))
    following.run(once=True)
    run.store(*range(5, N))
    path = run.end()
    following.run(once=True)

    with VolumeFile(path.with_name("live-f1.h5")) as file:
        assert file.record["inputs"][0]["background"]["run"] == "air"
    check_equal(path.with_name("live-f1.h5"), [path], choices)
