"""Whole sweeps of large detectors, replayed at their rate; and what stacker and viewers saw when.

A frame is *whole* when its file is there, and *stored* when a reader of the scan file finds it.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from faults.stacking import WaitingRun
from streams import SHAPE_2M

from offbragg.beamline.config import Beamline, load
from offbragg.catalog.client import connect
from offbragg.catalog.volumes import publish_volume, volume_key
from offbragg.errors import OffbraggError
from offbragg.files.volume_file import VolumeFile
from offbragg.workflows.record import GROWING
from sim_iocs.cbf import encode_cbf

SHAPE_6M = (2527, 2463)
BOX = "-6:6:0.02,-6:6:0.02,-6:6:0.02"  # 601³ cells
DELAYED = 1.0  # s from whole to stored
ANNOUNCED = 0.15  # s between two documents


def pattern(shape: tuple[int, int]) -> np.ndarray:
    """Air scatter and diffuse streaks on a panel with its gaps, without them as yet."""
    rng = np.random.default_rng(3)
    slow, fast = np.ogrid[: shape[0], : shape[1]]
    radius = np.hypot(slow - shape[0] / 2, fast - shape[1] / 2)
    mean = 6.0 * np.exp(-radius / 500.0) + 3.0 * np.exp(-((slow % 160 - 80) ** 2) / 18.0)
    return rng.poisson(np.broadcast_to(mean, shape)).astype(np.int32)


def prepare_frames(folder: Path, n: int, shape: tuple[int, int]) -> list[Path]:
    """Write frame files, no two of which are the same."""
    folder.mkdir(parents=True)
    base, paths = pattern(shape), []
    for number in range(n):
        counts = np.roll(base, 7 * number, axis=1)
        counts[0, 0] = number
        for row in range(195, shape[0], 212):
            counts[row : row + 17] = -1
        for column in range(487, shape[1], 494):
            counts[:, column : column + 7] = -1
        path = folder / f"x_{number:05d}.cbf"
        path.write_bytes(encode_cbf(counts, name=path.stem, header=["test"]))
        paths.append(path)
    return paths


@dataclass
class Replayed(WaitingRun):
    """A sweep whose frames and documents come at their time, as from another host."""

    shape: tuple[int, int] = SHAPE_2M
    step: float = 0.1

    @property
    def start(self) -> dict[str, Any]:
        start = super().start
        rows, columns = self.shape
        panel = start["geometry"]["panel"]
        panel["origin"] = [0.172 * columns / 2, 0.172 * rows / 2, 150.0]
        start["geometry"]["axes"] = [{"name": "phi", "vector": [0.0, 1.0, 0.0], "angle": 0.0}]
        start["sample"]["lattice"] = [6.0, 6.0, 6.0, 90.0, 90.0, 90.0]
        start["sample"]["UB"] = (np.eye(3) / 6.0).tolist()
        start["sweep"] |= {"start": 0.0, "step": self.step}
        return start

    def replay(self, prepared: Sequence[Path]) -> list[float]:
        """Move each frame into the run's folder at its time; return when each was whole."""
        whole: list[float] = []
        announced = time.time()
        for number, path in enumerate(prepared):
            due = self.began + (number + 1) * self.period
            if (early := due - time.time()) > 0:
                time.sleep(early)
            path.rename(self.path(number))
            whole.append(time.time())
            if whole[-1] - announced > ANNOUNCED or number == len(prepared) - 1:
                self.monitor_counted(list(range(self.announced, number + 1)))
                self.announce(number + 1)
                announced = whole[-1]
        return whole


@dataclass
class Processes:
    """Commands of offbragg as processes of their own, with a log each."""

    toml: Path
    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, verb: str, *options: str) -> subprocess.Popen[bytes]:
        with (self.logs / f"{verb}.log").open("ab") as log:
            self.running[verb] = subprocess.Popen(
                [sys.executable, "-m", "offbragg", verb, "--beamline", str(self.toml), *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )  # fmt: skip
        return self.running[verb]

    def serve(self) -> Beamline:
        """Start the catalog, and wait for it."""
        self.start("serve")
        config = load(self.toml)
        deadline = time.monotonic() + 120
        while not config.key_file.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        connect(config.catalog_url, config.key_file.read_text().strip(), timeout=60)
        return config

    def cpu(self, verb: str) -> float:
        """Return the CPU time that a process took, s."""
        fields = Path(f"/proc/{self.running[verb].pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def log(self, verb: str) -> str:
        return (self.logs / f"{verb}.log").read_text(errors="replace")

    def end(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Follower(threading.Thread):
    """Notes something again and again until it is left."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(60)

    def run(self) -> None:
        while not self._over.is_set():
            self.look()

    def look(self) -> None:
        raise NotImplementedError


class Delays(NamedTuple):
    """How many frames were stored later than `DELAYED` after they were whole, and the longest."""

    frames: int
    longest: float

    def __str__(self) -> str:
        return f"{self.frames} frames delayed (longest {self.longest:.2f} s)"


class StoredFrames(Follower):
    """When each frame was stored, as another program sees it."""

    def __init__(self, experiment: Path) -> None:
        super().__init__()
        self._experiment, self.times = experiment, list[float]()

    def look(self) -> None:
        with contextlib.suppress(OSError, KeyError, ValueError, RuntimeError):
            (path,) = self._experiment.rglob("f1.h5")
            with h5py.File(path, "r", libver="v110", swmr=True, locking=False) as file:
                stored = int((file["entry/frames/status"][()] == b"stored").sum())
            self.times += [time.time()] * (stored - len(self.times))
        self._over.wait(0.05)

    def delayed(self, whole: Sequence[float]) -> Delays:
        """Return how long after they were whole frames were stored."""
        late = np.subtract(self.times, whole[: len(self.times)])
        return Delays(int(np.sum(late > DELAYED)), float(late.max()))


class Viewer(Follower):
    """Asks for planes all the time, at both levels in turn, as a client of the catalog does.

    A plane's age is for how long the oldest stored frame that is not in it has been stored.
    """

    def __init__(self, config: Beamline, experiment: Path, stored: StoredFrames) -> None:
        super().__init__()
        self._config, self._experiment, self._stored = config, experiment, stored
        self._key = config.key_file.read_text().strip()
        self._connection = http.client.HTTPConnection(config.catalog.host, config.catalog.port)
        self.ages: dict[int, list[float]] = {4: [], 1: []}
        self.seconds: dict[int, list[float]] = {4: [], 1: []}
        self.first = self.closed = 0.0  # when a plane was there, and when the volume was complete

    def __exit__(self, *why: object) -> None:
        super().__exit__(*why)
        self._connection.close()

    def look(self) -> None:
        path = live_volume(self._experiment)
        if path is None:
            self._over.wait(0.05)
            return
        for level in self.ages:
            frames, closed = frames_of(path, level)
            if closed and not self.closed:
                self.closed = time.time()
            began = time.time()
            if not frames or not self._plane(path, level):
                continue
            now = time.time()
            self.first = self.first or now
            self.seconds[level].append(now - began)
            if not self.closed:
                waits = self._stored.times[frames : frames + 1]
                self.ages[level].append(max(now - waits[0], 0.0) if waits else 0.0)
        self._over.wait(0.02)

    def _plane(self, path: Path, level: int) -> bool:
        try:
            self._connection.request(
                "GET", f"/volumes/{volume_key(path)}/plane?plane=hk0&level={level}&format=png",
                headers={"Authorization": f"Apikey {self._key}"},
            )  # fmt: skip
            answer = self._connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return False
        if answer.status == 404:  # until `offbragg live` does it
            catalog = self._config.catalog
            with contextlib.suppress(OffbraggError):
                publish_volume(path, host=catalog.host, port=catalog.port, key=self._key)
        return answer.status == 200


def live_volume(experiment: Path) -> Path | None:
    """Return the live volume's file, if it is there."""
    return next(iter(experiment.rglob("live-*.h5")), None)


def frames_of(volume: Path, level: int = 1) -> tuple[int, bool]:
    """Return how many frames are in a level of a live volume, and whether it is closed.

    Levels from 4 on may have more than the cells, which are level 1.
    """
    try:
        with VolumeFile(volume) as file:
            record = file.record
    except (OffbraggError, OSError):
        return 0, False
    if "inputs" in record:
        return sum(each["frames"] for each in record["inputs"]), True
    if level < 4:
        return record["cells"], False
    return sum(each["frames"] for each in record[GROWING].values()), False


def wait_for_volume(experiment: Path, timeout: float) -> tuple[Path, float]:
    """Wait until the volume is closed; return its file, and when that was."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        path = live_volume(experiment)
        if path is not None and frames_of(path)[1]:
            return path, time.time()
        time.sleep(0.05)
    raise AssertionError(f"the volume was not closed within {timeout:g} s")


def summary(seconds: Sequence[float]) -> str:
    """Describe times: median, 95 % and the longest."""
    if not len(seconds):
        return "none"
    median, most, longest = np.quantile(seconds, [0.5, 0.95, 1.0])
    return f"median {median:.2f} s, 95 % {most:.2f} s, longest {longest:.2f} s ({len(seconds)})"


def backlog(stored: Sequence[float], whole: Sequence[float]) -> list[int]:
    """Return how many frames were whole and not stored, at ten times of the sweep."""
    at = np.linspace(0, len(whole) - 1, 11).astype(int)[1:]
    return [int(n) + 1 - int(np.searchsorted(stored, whole[n], side="right")) for n in at]


@contextlib.contextmanager
def processes(toml: Path, logs: Path) -> Iterator[Processes]:
    """Run commands of offbragg that end with the test."""
    made = Processes(toml, logs)
    try:
        yield made
    finally:
        made.end()
