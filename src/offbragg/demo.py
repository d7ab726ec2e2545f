"""``offbragg demo``: a whole beamline on one machine, measured, catalogued and looked at.

It starts what a beamline has (instruments, catalog, stacker) as supervised child processes,
runs the RunEngine itself, and then does what a user at home does: search, slice and plot over
HTTP. Everything it makes lies in one folder.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from offbragg.errors import ConfigError, DeviceError, OffbraggError
from offbragg.geometry import Geometry
from offbragg.sweep import Sweep

log = logging.getLogger(__name__)

START_TIMEOUT = 120.0  # for each child to serve, s; a cold catalog takes 10 to 25
CATCH_UP_TIMEOUT = 60.0  # for stacker and catalog after the last frame, s

TEMPERATURES = (170.0, 130.0, 90.0)  # through Tc = 150 K, K
FRAMES, STEP, PERIOD, EXPOSURE = 60, 0.5, 0.1, 0.098  # degree, s


@dataclass
class Children:
    """Child processes that are watched while they are needed and ended together."""

    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start ``python -m`` arguments, its output in a log of its name."""
        with (self.logs / f"{name}.log").open("ab") as log_file:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C is ours to pass on, in our order
            )

    def check(self) -> None:
        """Raise if a child has ended by itself, with the last it said."""
        for name, child in self.running.items():
            if child.poll() is not None:
                said = (self.logs / f"{name}.log").read_text(errors="replace").strip()
                raise DeviceError(
                    f"the {name} process ended by itself (exit code {child.returncode})\n"
                    + "\n".join(said.splitlines()[-5:])
                )

    def wait_for(self, ready: Path, *, timeout: float = START_TIMEOUT) -> dict[str, Any]:
        """Wait until a child has written its ready file; return what it says."""
        deadline = time.monotonic() + timeout
        while not ready.exists():
            self.check()
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"{ready.name} was not there after {timeout:g} s\nSee the logs in {self.logs}"
                )
            time.sleep(0.05)
        return json.loads(ready.read_text())

    def end(self) -> None:
        """Ask every child to end, the last one first; kill those that do not."""
        for child in reversed(self.running.values()):
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in reversed(self.running.values()):
            try:
                child.wait(timeout=15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.running.clear()


@dataclass
class Watch(threading.Thread):
    """A user elsewhere: reads the newest run over HTTP while it is measured."""

    url: str
    key: str
    seen: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    slices: int = 0

    def __post_init__(self) -> None:
        super().__init__(name="offbragg-demo-watch", daemon=True)
        self.enough = threading.Event()

    def run(self) -> None:
        """Note how many frames can be read, and when, until told that it is enough."""
        from offbragg.catalog.server import connect

        runs = connect(self.url, self.key)
        while not self.enough.wait(0.5):
            try:
                run = runs.values().last()
                image = _image(run)
                began = run.metadata["start"]["time"]
                frames = image.shape[0]
                image[frames - 1]  # the newest frame, as it is now
            except (OffbraggError, LookupError, AttributeError, ValueError, OSError):
                continue  # no run yet, or one without frames so far
            self.slices += 1
            history = self.seen.setdefault(run.metadata["start"]["uid"], [])
            if not history or history[-1][1] != frames:
                history.append((round(time.time() - began, 2), frames))


def _image(run: Any) -> Any:
    """Return the array of frames of a run in the catalog."""
    primary = run["primary"]
    key = next(k for k, v in primary.metadata["data_keys"].items() if v.get("external"))
    return primary.base[key]


@dataclass(frozen=True, slots=True)
class Peak:
    """Counts of one reflection in one sweep, in a box about where it was predicted."""

    hkl: tuple[float, float, float]
    counts: float  # above the background of the box's rim
    sigma: float
    where: tuple[int, int, int]  # frame, row, column


def measure_peaks(
    image: Any,
    hkl: Sequence[Sequence[float]],
    *,
    geometry: Geometry,
    UB: np.ndarray,
    sweep: Sweep,
    box: tuple[int, int, int] = (3, 5, 5),
) -> list[Peak]:
    """Sum counts about predicted reflections, reading only their boxes.

    Parameters
    ----------
    image
        Array of frames that can be sliced (frame, row, column), here or over HTTP.
    hkl
        Reflections, r.l.u., shape (n, 3).
    geometry, UB, sweep
        Where they come from.
    box
        Half the size of the inner box (frames, rows, columns); the rim about it, as wide again,
        gives the background.
    """
    found = []
    crossings = geometry.predict(hkl, UB, sweep)
    size = np.array(image.shape)
    for x, y, z, which in zip(*crossings, strict=True):
        centre = np.floor([z, y, x]).astype(int)
        low, high = centre - 2 * np.array(box), centre + 2 * np.array(box) + 1
        if np.any(low < 0) or np.any(high > size):
            continue
        counts = np.asarray(image[tuple(slice(a, b) for a, b in zip(low, high, strict=True))])
        if np.any(counts < 0):
            continue  # a gap, a bad pixel or a missing frame
        inner = tuple(slice(b, 3 * b + 1) for b in box)
        rim = np.ones(counts.shape, bool)
        rim[inner] = False
        n_inner, n_rim = counts[inner].size, int(rim.sum())
        background = counts[rim].sum() * n_inner / n_rim
        total = counts[inner].sum()
        sigma = float(np.sqrt(total + background * n_inner / n_rim))
        reflection = np.asarray(hkl)[which]
        found.append(
            Peak(
                (float(reflection[0]), float(reflection[1]), float(reflection[2])),
                float(total - background),
                max(sigma, 1.0),
                (int(centre[0]), int(centre[1]), int(centre[2])),
            )
        )
    return found
