"""Runs whose scan files grow as a stacker makes them grow, and their live volumes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measured import AS_SIMULATED, Measured

from offbragg.callbacks.journal import Journal
from offbragg.files.scan_folders import scan_directory
from offbragg.files.scan_writer import ScanWriter
from offbragg.followers.live_runs import LiveRuns
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


def live(root: Path, choices: Choices = CHOICES, *, every: float = 0.0, **more: Any) -> LiveRuns:
    return LiveRuns(root / "journal", root / "experiment", choices, every=every, **more)


def check_equal(volume: Path, files: Sequence[Path], choices: Choices = CHOICES) -> None:
    """Check that a live volume is the one that `reduce` makes, and can be made again."""
    offline = volume.with_name("offline.h5")
    offline.unlink(missing_ok=True)
    reduce_to_file(list(files), choices, offline, say=lambda text: None)
    assert volume.read_bytes() == offline.read_bytes()
    assert reproduce(volume).same
