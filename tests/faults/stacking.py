"""Stackers that are killed, or whose system calls fail; and runs that wait to be stacked."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from errno import ENXIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.judge import judge, stored
from files.torn import tear
from runs import MeasuredRun, wait_until

from offbragg.files import ScanFile, read_frame
from offbragg.files.scan_folders import scan_directory
from offbragg.files.scan_writer import ScanWriter
from sim_iocs.cbf import encode_cbf

strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

SMALL = (40, 50)  # pixels: what fails here are system calls, of which a large frame has no more


@dataclass
class Ended:
    """How a process ended, and what it printed."""

    code: int
    output: str
    seconds: float
    trace: str = ""

    @property
    def injected(self) -> int:
        """How often something was done to a system call."""
        return self.trace.count("(INJECTED)") + self.trace.count("+++ killed by SIGKILL")


class Stackers:
    """Runs ``offbragg stack`` in processes that are forked, so each starts in no time."""

    def __init__(self, directory: Path, *, quick: bool = False) -> None:
        directory.mkdir(exist_ok=True)
        self._patch = {"offbragg.followers.follow._LOOK_FOR_ABANDONED": 0.05} if quick else {}
        self.directory = directory
        self._errors = (directory / "zygote.log").open("wb")
        self._zygote = subprocess.Popen(
            [sys.executable, "-m", "faults.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1",
                 "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        self._n = 0

    def close(self) -> None:
        self._zygote.communicate(timeout=20)  # its input ends, and so does it
        self._errors.close()

    def _ask(self, **asked: Any) -> int:
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        self._zygote.stdin.write(json.dumps(asked) + "\n")
        self._zygote.stdin.flush()
        answer = self._zygote.stdout.readline()
        assert answer, (self.directory / "zygote.log").read_text()
        return int(answer)

    def run(
        self,
        arguments: Sequence[str],
        *,
        inject: Sequence[str] = (),
        trace: str = "",
        patch: Mapping[str, Any] | None = None,
        meanwhile: Callable[[int], None] = lambda pid: None,
    ) -> Ended:
        """Run a command line to its end.

        Parameters
        ----------
        arguments
            Of ``offbragg``.
        inject
            What strace is to inject, as ``pwrite64:error=EIO:when=3``; counted for each thread.
        trace
            More options for strace, split at spaces; without both there is no strace.
        patch
            Constants of modules that are to be other ones, by their full names.
        meanwhile
            Called with its pid once it runs.
        """
        self._n += 1
        out, go = self.directory / f"{self._n}.out", self.directory / f"{self._n}.go"
        log = self.directory / f"{self._n}.strace"
        os.mkfifo(go)
        pid = self._ask(
            run=list(arguments), go=str(go), out=str(out), patch={**self._patch, **(patch or {})}
        )
        tracer: subprocess.Popen[str] | None = None
        if inject or trace:
            calls = ",".join(dict.fromkeys(what.split(":")[0] for what in inject))
            options = [o for what in inject for o in ("-e", f"inject={what}")]
            options += trace.split() if trace else ["-e", f"trace={calls}", "-s", "0"]
            tracer = subprocess.Popen(
                ["strace", "-f", "-y", "-o", str(log), *options, "-p", str(pid)],
                stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert tracer.stderr is not None
            assert "attached" in tracer.stderr.readline()
        began = time.monotonic()
        _let_go(go, pid)
        meanwhile(pid)
        code = self._ask(wait=pid)
        seconds = time.monotonic() - began
        if tracer is not None:
            tracer.communicate(timeout=20)  # it ends with whom it traces
        go.unlink()
        output = out.read_text(errors="replace") if out.exists() else ""
        traced = log.read_text(errors="replace") if log.exists() else ""
        return Ended(code, output, seconds, traced)


def _let_go(go: Path, pid: int) -> None:
    """Let a process that waits at a fifo begin, unless it ended there because its open failed."""
    while "Z" not in _state(pid):
        try:
            os.close(os.open(go, os.O_WRONLY | os.O_NONBLOCK))
            return
        except OSError as error:
            if error.errno != ENXIO:  # nobody reads yet
                raise
        time.sleep(0.001)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


@dataclass
class WaitingRun(MeasuredRun):
    """A run that is over, its frames small and all there, in a beamline of its own."""

    n_frames: int = 12
    shape: tuple[int, int] = SMALL
    port: int | None = None  # of its catalog

    def __post_init__(self) -> None:
        super().__post_init__()
        (self.root / "catalog").mkdir(exist_ok=True)
        (self.root / "log").mkdir(exist_ok=True)
        names = ("experiment", "frames", "journal", "catalog", "log")
        paths = "".join(f'{name} = "{name}"\n' for name in names)
        port = "" if self.port is None else f"[catalog]\nport = {self.port}\n"
        self.toml.write_text(f'beamline_id = "test"\n[paths]\n{paths}{port}')

    @property
    def toml(self) -> Path:
        return self.root / "beamline.toml"

    @property
    def start(self) -> dict[str, Any]:
        start = super().start
        start["geometry"]["panel"]["shape"] = list(self.shape)
        start["detector"]["shape"] = list(self.shape)
        return start

    def write(self, *numbers: int, damage: Callable[[bytes], bytes] | None = None) -> None:
        for number in numbers:
            content = small_cbf(number, self.shape)
            self.path(number).write_bytes(damage(content) if damage else content)

    def whole(self) -> WaitingRun:
        """Measure all of it."""
        self.begin()
        self.write(*range(self.n_frames))
        self.announce(self.n_frames)
        self.monitor_counted(list(range(self.n_frames)))
        self.end()
        return self

    def torn(self, n_stored: int = 8) -> WaitingRun:
        """Leave its scan file as a stacker does that is killed while it writes where frames are.

        It is to have some hundred frames: their index is longer than a page then.
        """
        with ScanWriter.create(
            scan_directory(self.experiment, self.start), start=self.start
        ) as scan:
            self._store(scan, *range(n_stored))
            tear(scan.path, lambda: self._store(scan, n_stored, n_stored + 1))
            left = scan.path.read_bytes()
        scan.path.write_bytes(left)  # as if nobody had closed it
        return self

    def _store(self, scan: ScanFile, *numbers: int) -> None:
        for number in numbers:
            frame = read_frame(self.path(number), number=number)
            scan.write_frame(frame, source=self.path(number).name, time=self.began)

    @property
    def arguments(self) -> list[str]:
        """What finishes it."""
        catalog = "--no-catalog" if self.port is None else "--catalog"
        return ["stack", "--once", "--json", catalog, "--late", f"{self.late}",
                "--beamline", str(self.toml)]  # fmt: skip

    @property
    def sources(self) -> dict[int, Path]:
        return {n: path for n in range(self.n_frames) if (path := self.path(n)).exists()}

    @property
    def values(self) -> dict[str, dict[int, float]]:
        """What the monitor counted and how cold it was; the first comes late, maybe."""
        numbers = range(self.n_frames)
        return {
            "monitor": {n: 1000.0 + n for n in numbers},
            "temperature": dict.fromkeys(numbers, self.temperature),
            "angle": {n: 0.25 + 0.5 * n for n in numbers},
        }

    def scan_files(self) -> list[Path]:
        return sorted(self.experiment.rglob("f[0-9]*.h5"))

    def scan_file(self) -> Path:
        (path,) = self.scan_files()
        return path

    def seen(self) -> set[int]:
        """Frames that a reader has read as stored, and that are as they were measured."""
        found: set[int] = set()
        for path in self.scan_files():
            try:
                problems = judge(path, self.sources)
            except (OSError, RuntimeError, KeyError):
                continue  # died between opening and SWMR: nobody can have read anything yet
            assert problems == []
            found |= stored(path)
        return found

    def recovers(
        self, stackers: Stackers, acknowledged: set[int], *, locked: bool = False
    ) -> float:
        """Start a stacker again; all of it must be there then. Gives the time that it took, s."""
        again = stackers.run(self.arguments)

        assert again.code == 0, again.output
        path = self.scan_file()
        assert judge(path, self.sources, values=self.values, acknowledged=acknowledged,
                     over=True) == []  # fmt: skip
        assert stored(path) == set(range(self.n_frames))
        left = [p.name for pattern in (".*.draft", "*.lock", "*.nxs")
                for p in self.experiment.rglob(pattern)]  # fmt: skip
        if locked:  # it may not have been able to take its lock away
            left = [name for name in left if not name.endswith(".lock")]
        assert sorted(left) == ["LSMO-140_120K.nxs", "LSMO-140_scans.nxs"]
        return again.seconds


def small_counts(number: int, shape: tuple[int, int] = SMALL) -> np.ndarray:
    """Counts that nobody can take for another frame's."""
    counts = np.random.default_rng(number).poisson(3.0, shape).astype(np.int32)
    counts[0, :2] = number, 1_000_000 + number
    counts[7] = -1
    return counts


def small_cbf(number: int, shape: tuple[int, int] = SMALL) -> bytes:
    """The frame file of these counts."""
    counts = small_counts(number, shape)
    return encode_cbf(counts, name=f"x_{number:05d}", header=["test"])


def calls_of_stacker(trace: str, call: str) -> int:
    """How often the thread that stacks made a system call, in a trace of a whole run."""
    counts: dict[str, int] = {}
    for line in trace.splitlines():
        found = re.match(rf"(\d+) +{call}\(", line)
        if found:
            counts[found[1]] = counts.get(found[1], 0) + 1
    return max(counts.values(), default=0)


def kill_after(seconds: float) -> Callable[[int], None]:
    def meanwhile(pid: int) -> None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)

    return meanwhile


CALLS = ("pwrite64", "openat", "pread64", "readv", "write", "fsync", "rename", "ftruncate", "link",
         "unlink", "mkdir")  # fmt: skip


_MOST = ("pwrite64", "openat", "pread64")
GROUPS = {**{call: (call,) for call in _MOST}, "others": tuple(c for c in CALLS if c not in _MOST)}
"""The calls of which there are most by themselves, and the rest together."""


def survey(root: Path) -> dict[str, int]:
    """How often the thread that stacks a run of 20 frames makes each system call."""
    stackers = Stackers(root)
    run = WaitingRun(root / "run", n_frames=20).whole()
    ended = stackers.run(run.arguments, trace=f"-e trace={','.join(CALLS)} -s 0")
    stackers.close()
    assert ended.code == 0, ended.output
    return {call: calls_of_stacker(ended.trace, call) for call in CALLS}


class Sweep:
    """Hundreds of points, some at a time: a stacker waits more than it works."""

    AT_ONCE = 4

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tried = 0
        self.worst = 0.0
        self.failures: list[str] = []

    def each(self, points: Sequence[str], attempt: Callable[[Stackers, Path, str], float]) -> None:
        """Make an attempt at each point, in a directory of its own; it gives a time, s."""
        crowd = [Stackers(self.root / f"stackers-{i}") for i in range(self.AT_ONCE)]
        todo = list(enumerate(points))

        def work(stackers: Stackers) -> None:
            while todo:
                n, point = todo.pop(0)
                try:
                    self.worst = max(self.worst, attempt(stackers, self.root / f"{n}", point))
                except BaseException as error:
                    self.failures.append(f"{point}: {error!r}"[:2000])
                self.tried += 1

        threads = [threading.Thread(target=work, args=(stackers,)) for stackers in crowd]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for stackers in crowd:
            stackers.close()

    def tell(self, what: str) -> None:
        survived = self.tried - len(self.failures)
        print(f"\n{what}: {self.tried} tried, {survived} survived, worst {self.worst:.2f} s")
        assert self.tried
        if self.failures:
            raise AssertionError("\n".join(self.failures))


__all__ = ["CALLS", "GROUPS", "SMALL", "Ended", "Stackers", "Sweep", "WaitingRun",
           "calls_of_stacker",
           "kill_after", "small_cbf", "small_counts", "strace", "survey", "wait_until"]  # fmt: skip
