"""The camserver: it exposes, frame after frame, and has the files written.

It knows when each exposure begins and ends, asks the beamline where everything was, and hands the
frame to a process of its own (``frame_writer.py``), so Channel Access is never kept waiting.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

READOUT = 0.00095  # s, PILATUS3
SHORTEST_PERIOD = 0.002  # s, PILATUS3

log = logging.getLogger(__name__)


class Surroundings(Protocol):
    """What the detector sees of the beamline; moments are monotonic seconds."""

    def exposure(self, began: float, ended: float) -> dict[str, Any]:
        """Say what the sample and the beam were during an exposure."""
        ...

    async def gate(self, number: int, began: float, ended: float) -> None:
        """Let everything that counts per frame count this one."""
        ...

    def trigger(self, number: int, since: float) -> float | None:
        """Say when the position compare unit gives (or gave) pulse ``number``."""
        ...

    async def series_began(self) -> None:
        """Be told that a series of exposures starts."""
        ...


@dataclass(slots=True)
class Faults:
    """What shall go wrong in the next series, by frame number; -1 is nothing."""

    drop: int = -1
    flip: int = -1
    truncate: int = -1
    late: int = -1
    hang: int = -1
    late_seconds: float = 2.0

    def of(self, number: int) -> str | None:
        """Name the fault of one frame that its writer must commit."""
        for kind in ("drop", "flip", "truncate"):
            if getattr(self, kind) == number:
                return kind
        return None


@dataclass(slots=True)
class Series:
    """One exposure command."""

    names: list[str]
    exposure: float
    period: float
    mode: str
    header: Callable[[int, float], list[str]]
    faults: Faults = field(default_factory=Faults)
    written: set[str] = field(default_factory=set)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    began: list[float] = field(default_factory=list)


class Camserver:
    """Exposes, and has the frames written by its process."""

    def __init__(self, surroundings: Surroundings, options: Mapping[str, Any]) -> None:
        self._surroundings = surroundings
        self._options = dict(options)
        self._process: asyncio.subprocess.Process | None = None
        self._exposing: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._pending: dict[str, Series] = {}
        self._stop = False
        self._number = 0
        self.seconds = 0.0

    async def start(self) -> None:
        """Start the process and wait until it has made its first frame."""
        # one thread: the other processors belong to the rest of the beamline
        threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sim_iocs.frame_writer", env=os.environ | threads,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**20,
        )  # fmt: skip
        await self._tell(self._options)
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the camserver process ended before its first frame")
        self.seconds = json.loads(line)["ready"]["seconds"]
        self._listening = asyncio.create_task(self._listen())

    @property
    def shortest_period(self) -> float:
        """The shortest period that the model can follow, with half a frame to spare, s."""
        return max(SHORTEST_PERIOD, round(1.5 * self.seconds, 3))

    async def stop(self) -> None:
        """End the process."""
        if self._listening is not None:
            self._listening.cancel()
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            await self._process.wait()

    async def _tell(self, message: Mapping[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        await self._process.stdin.drain()

    async def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            message = json.loads(line)
            name = message.get("written") or message["failed"]
            series = self._pending.pop(name, None)
            if series is not None and "written" in message:
                series.written.add(name)
            if "failed" in message:
                log.warning("camserver could not write %s: %s", name, message["why"])
        log.warning("the camserver process is gone; no frame will be written")

    def expose(self, series: Series) -> str:
        """Take an exposure command; gives the reply."""
        single = len(series.names) == 1
        gap = series.period - series.exposure
        if not single and (gap < READOUT - 1e-9 or series.period < SHORTEST_PERIOD):
            return (
                f"15 ERR Exposure period {series.period:.7f} s is too short for exposure time "
                f"{series.exposure:.7f} s + {READOUT * 1000:.2f} ms"
            )
        self.kill()
        self._stop = False
        self._number += 1
        self._exposing = asyncio.create_task(self._expose(series, self._number))
        return f"15 OK  Starting {series.exposure:.6f} second background: {series.names[0]}"

    def kill(self) -> None:
        """Stop after the current exposure."""
        self._stop = True

    async def _expose(self, series: Series, serial: int) -> None:
        await self._surroundings.series_began()
        armed = time.monotonic()
        for number, name in enumerate(series.names):
            if series.mode == "Internal" or (series.mode == "Ext. Trigger" and number):
                began = (series.began[0] if series.began else armed) + number * series.period
            else:
                pulse = await self._triggered(number, since=armed)
                if pulse is None:
                    return
                began = pulse
            await asyncio.sleep(max(began - time.monotonic(), 0.0))
            if serial != self._number or self._stop:
                return
            series.began.append(began)
            ended = began + series.exposure
            await asyncio.sleep(max(ended - time.monotonic(), 0.0))
            if number == series.faults.hang:
                return
            await self._surroundings.gate(number, began, ended)
            taken = time.time() - (time.monotonic() - began)
            task = {
                "path": name,
                "number": number,
                "taken": taken,
                "model": self._options["model"],
                "header": series.header(number, taken),
                "fault": series.faults.of(number),
                "exposure": {
                    "number": number,
                    "series": serial,
                    **self._surroundings.exposure(began, ended),
                },
            }
            if task["fault"] != "drop":
                self._pending[name] = series
            if number == series.faults.late:
                asyncio.get_running_loop().call_later(
                    series.faults.late_seconds,
                    lambda task=task: asyncio.ensure_future(self._tell(task)),
                )
            else:
                await self._tell(task)
        while any(waiting is series for waiting in self._pending.values()):
            await asyncio.sleep(0.002)
        series.finished.set()

    async def _triggered(self, number: int, *, since: float) -> float | None:
        """Wait for a pulse of the position compare unit."""
        serial = self._number
        while not self._stop and serial == self._number:
            moment = self._surroundings.trigger(number, since)
            if moment is not None and moment <= time.monotonic() + 0.02:
                return moment
            await asyncio.sleep(0.002)
        return None
