"""A long measurement fast-forwarded: a whole beamline with small frames, as fast as it goes.

The simulated instruments, ``offbragg up`` (stack, serve, live) and the RunEngine are processes of
their own, as on a beamline's host. Every 10 000 frames each of them is looked at from outside.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import soak_engine

from offbragg.beamline.config import load
from offbragg.beamline.limits import make_paths
from offbragg.demo import configure
from offbragg.demo.scene import Scene
from offbragg.geometry import Geometry
from offbragg.host.children import Children
from offbragg.instrument import Axis, Panel
from offbragg.sample import Sample
from offbragg.sweep import Sweep
from sim_iocs.cbf import encode_cbf

SHAPE = (64, 64)  # pixels of a frame
ROLES = ("engine", "stack", "serve", "live", "up")
_TICK = os.sysconf("SC_CLK_TCK")
_LATE = 600.0  # s without a frame, after which the soak is given up
_HEADER = [
    "Detector: PILATUS3 small, S/N 00-0000 simulated", "2026-01-01T00:00:00.000",
    "Pixel_size 172e-6 m x 172e-6 m", "Silicon sensor, thickness 0.000450 m",
    f"Exposure_time {soak_engine.PERIOD - soak_engine.READOUT:.7f} s",
    f"Exposure_period {soak_engine.PERIOD:.7f} s", "Count_cutoff 1048500 counts",
]  # fmt: skip


@dataclass(frozen=True)
class Process:
    """What one process holds, and what it has used since it began."""

    pid: int
    memory: float
    """Its own, in no file, MB."""
    share: float
    """PSS, MB."""
    descriptors: int
    threads: int
    cpu: float
    """s, with the children that have ended."""

    @classmethod
    def look(cls, pid: int) -> Process:
        """Read it from /proc."""
        at = Path("/proc") / str(pid)
        status = dict(
            line.split(":", 1) for line in (at / "status").read_text().splitlines() if ":" in line
        )
        rollup = (at / "smaps_rollup").read_text().splitlines()
        pss = next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
        times = (at / "stat").read_text().rpartition(")")[2].split()[11:15]
        return cls(
            pid, int(status["RssAnon"].split()[0]) / 1e3, pss / 1e3,
            len(list((at / "fd").iterdir())), int(status["Threads"]),
            sum(map(int, times)) / _TICK,
        )  # fmt: skip


@dataclass(frozen=True)
class Look:
    """The beamline after a number of frames."""

    frames: int
    runs: int
    seconds: float
    """Since the first look."""
    processes: Mapping[str, Process]
    sizes: Mapping[str, float]
    """MB."""
    searches: Mapping[str, float]
    """ms."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON types."""
        return {
            "frames": self.frames, "runs": self.runs, "seconds": round(self.seconds, 1),
            "processes": {name: vars(one) for name, one in self.processes.items()},
            "sizes": dict(self.sizes), "searches": dict(self.searches),
        }  # fmt: skip


def growth(x: list[float], y: list[float]) -> float:
    """Return the slope of a line through points, which a few of them cannot change (Theil, Sen).

    Examples
    --------
    >>> growth([0, 1, 2, 3, 4], [5, 7, 9, 11, 100])
    2.0
    """
    pairs = [(y[j] - y[i]) / (x[j] - x[i]) for i in range(len(x)) for j in range(i + 1, len(x))]
    return statistics.median(pairs) if pairs else 0.0


def rows(looks: list[Look]) -> list[dict[str, Any]]:
    """Return a row for each span between two looks: CPU of a frame, ms, and what is held then."""
    made = []
    for before, now in itertools.pairwise(looks):
        frames = now.frames - before.frames
        row: dict[str, Any] = {"frames": now.frames, "runs": now.runs, "seconds": now.seconds}
        for role in ROLES:
            if (one := now.processes.get(role)) and (was := before.processes.get(role)):
                row |= {
                    f"{role}, CPU": 1e3 * (one.cpu - was.cpu) / frames,
                    f"{role}, MB": one.memory, f"{role}, descriptors": one.descriptors,
                    f"{role}, threads": one.threads,
                }  # fmt: skip
        made.append(row | {f"{k}, MB": v for k, v in now.sizes.items()} | dict(now.searches))
    return made


def verdict(looks: list[Look]) -> dict[str, tuple[float, float, bool]]:
    """Return what each process costs and holds from the third part of the soak on.

    Returns
    -------
    found
        Name of a column of `rows` → its mean, its growth in 10 000 frames, and whether it is flat:
        memory that grows by less than 2 MB, descriptors and threads by less than a half, CPU by
        less than a 20th of its mean.
    """
    some = rows(looks)
    some = some[len(some) // 3 :]
    found = {}
    for name in some[0]:
        kind = name.rpartition(", ")[2]
        if name.partition(",")[0] not in ROLES or not all(name in row for row in some):
            continue
        values = [row[name] for row in some]
        mean = statistics.fmean(values)
        slope = 1e4 * growth([row["frames"] for row in some], values)
        most = {"MB": 2.0, "descriptors": 0.5, "threads": 0.5, "CPU": mean / 20}[kind]
        found[name] = (mean, slope, slope < most)
    return found


@dataclass
class Soak:
    """A beamline that measures, and the looks at it.

    Parameters
    ----------
    root
        A new folder for everything.
    frames
        How many to measure.
    every
        Frames between two looks.
    say
        Called with each look.
    """

    root: Path
    frames: int
    every: int
    say: Callable[[Look], None]
    looks: list[Look] = field(default_factory=list)

    def run(self) -> list[Look]:
        """Measure; look now and then, and once everything is stored and published."""
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "log").mkdir()
        with contextlib.ExitStack() as stack:
            children = stack.enter_context(Children(self.root / "log"))
            config = load(self._configure(children))
            make_paths(config)
            up = stack.enter_context(self._up(config.file))
            children.wait_for(config.paths.log / ".serve.ready.json")
            report = self.root / "report.jsonl"
            engine = subprocess.Popen(
                [sys.executable, soak_engine.__file__, str(config.file), str(self.frames),
                 str(report)],
                stdout=(self.root / "log" / "engine.out").open("wb"), stderr=subprocess.STDOUT,
            )  # fmt: skip
            stack.callback(engine.kill)
            self._watch(config, engine, up, report)
        return self.looks

    def _watch(self, config: Any, engine: Any, up: Any, report: Path) -> None:
        began = progressed = time.monotonic()
        done, next_look = 0, self.every
        while True:
            time.sleep(0.5)
            facts = last_line(report)
            if facts.get("frames", 0) != done:
                done, progressed = facts["frames"], time.monotonic()
            if done >= next_look or (done and engine.poll() is not None):
                pids = {"engine": engine.pid, "up": up.pid, **children_of(up.pid)}
                look = self._look(config, done, facts["runs"], time.monotonic() - began, pids)
                self.looks.append(look)
                self.say(look)
                next_look = done - done % self.every + self.every
            if engine.poll() is not None:
                assert engine.returncode == 0, (self.root / "log" / "engine.out").read_text()
                return
            assert time.monotonic() - progressed < _LATE, "no frames any more"

    def _look(
        self, config: Any, frames: int, runs: int, seconds: float, pids: Mapping[str, int]
    ) -> Look:
        processes = {}
        for name, pid in pids.items():
            with contextlib.suppress(OSError, StopIteration, KeyError):
                processes[name] = Process.look(pid)
        paths = config.paths
        sizes = {
            "catalog": size(paths.catalog), "journals": size(paths.journal),
            "log": size(paths.log),
        }  # fmt: skip
        return Look(frames, runs, seconds, processes, sizes, self._searches(config))

    def _searches(self, config: Any) -> dict[str, float]:
        connection = http.client.HTTPConnection(config.catalog.host, config.catalog.port)
        headers = {"Authorization": f"Apikey {config.read_key()}"}
        took = {}
        for name, address in {
            "newest": "/runs?limit=10", "sample": "/runs?sample=sample1&limit=10",
            "text": "/runs?text=crystal0&limit=10", "now": "/now",
        }.items():  # fmt: skip
            times = []
            for _ in range(5):
                begin = time.perf_counter()
                connection.request("GET", address, headers=headers)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200, (address, answer.status)
                times.append(1e3 * (time.perf_counter() - begin))
            took[name] = round(statistics.median(times), 1)
        return took

    def _configure(self, children: Children) -> Path:
        """Start instruments that serve small frames, and write their beamline.toml."""
        frames = self.root / "replay"
        frames.mkdir()
        draw = np.random.default_rng(1)  # no two are equal: a repeated frame does not count
        for number in range(int(os.environ.get("OFFBRAGG_SOAK_SWEEP", "3600"))):
            counts = draw.poisson(0.5, SHAPE).astype(np.int32)
            content = encode_cbf(counts, name="x", header=_HEADER)
            (frames / f"x_{number:05d}.cbf").write_bytes(content)
        ready = self.root / "log" / "ioc.json"
        children.start("ioc", [
            "sim_iocs", "--port", "0", "--ready", str(ready), "--acceleration", "600",
            "--temperature", "172", "--replay", str(frames),
        ])  # fmt: skip
        served = children.wait_for(ready)
        return configure(self.root, served, _scene())

    @contextlib.contextmanager
    def _up(self, beamline: Path) -> Iterator[subprocess.Popen[bytes]]:
        with (self.root / "log" / "up.log").open("wb") as log:
            up = subprocess.Popen(
                [sys.executable, "-m", "offbragg", "up", "--json", "--beamline", str(beamline)],
                stdout=log, stderr=log,
            )  # fmt: skip
        try:
            yield up
        finally:
            up.terminate()
            up.wait(60)


def _scene() -> Scene:
    geometry = Geometry(
        0.7,
        Panel((5.5, 5.5, 100.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.172, 0.172), SHAPE),
        tuple(
            Axis(name, vector, 0.0)
            for name, vector in (
                ("phi", (0.0, 1.0, 0.0)), ("chi", (0.0, 0.0, 1.0)), ("omega", (0.0, 1.0, 0.0)),
            )
        ),
        "phi",
    )  # fmt: skip
    sweep = Sweep("phi", 0.0, 1.0, 1, 0.1, 0.1)
    sample = Sample.from_dict({"name": "x", "label": "x"})
    # pulses for each frame would cost more than the frame
    triggered = {"trigger": "internal"}
    return Scene(sample, geometry, (sweep,), np.empty((0, 3)), replayed=True, detector=triggered)


def children_of(pid: int) -> dict[str, int]:
    """Return the services that a supervisor runs, by name."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
            if "offbragg" in words:
                found[words[words.index("offbragg") + 1]] = int(child)
    return found


def last_line(path: Path) -> dict[str, Any]:
    """Return the last line of a report, none yet: nothing."""
    if not path.exists():
        return {}
    lines = path.read_text().splitlines()
    return json.loads(lines[-1]) if lines else {}


def size(folder: Path) -> float:
    """Return the bytes of all files below a folder, MB."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return round(total / 1e6, 3)


if __name__ == "__main__":
    out = Path(sys.argv[3])
    results = out.with_suffix(".results.jsonl")

    def note(look: Look) -> None:
        with results.open("a") as file:
            file.write(json.dumps(look.to_dict()) + "\n")

    Soak(out, int(sys.argv[1]), int(sys.argv[2]), note).run()
