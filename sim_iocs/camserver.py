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
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from .crystal import GAP
from .file_names import frame_names

MOST_IMAGES = 65535
LONGEST_DELAY = 64.0  # s
SPARE = 1.25  # times the time that a frame takes

log = logging.getLogger(__name__)


class Surroundings(Protocol):
    """What the detector sees of the beamline; moments are monotonic seconds."""

    def exposure(self, began: float, ended: float) -> dict[str, Any]:
        """Return what the sample and the beam were during an exposure."""
        ...

    async def gate(self, number: int, began: float, ended: float, period: float) -> None:
        """Gate all per-frame counters for this frame, of ``period`` seconds."""
        ...

    def trigger(self, number: float, since: float) -> float | None:
        """Return when the position compare unit gives (or gave) pulse ``number``.

        A fraction is that part of the way to the next pulse: there a gate closes.
        """
        ...

    async def series_began(self) -> None:
        """Prepare for a series of exposures that starts."""
        ...


@dataclass(frozen=True, slots=True)
class Model:
    """What a generation of the detector can follow (Dectris' manuals).

    ``finishes`` tells whether a kill lets it finish the exposure that it is in; newer camservers
    drop it (release notes of ADPilatus on "camcmd k").
    """

    readout: float
    """s, from the end of an exposure to the begin of the next."""

    shortest_period: float
    """s."""

    finishes: bool


MODELS = {
    "PILATUS2": Model(readout=0.00228, shortest_period=0.00228, finishes=True),
    "PILATUS3": Model(readout=0.00095, shortest_period=0.002, finishes=False),
}


class CamserverGone(Exception):  # noqa: N818
    """Nothing answers on camserver's socket."""


@dataclass(slots=True)
class Faults:
    """Faults of the next series, by frame number; -1 is none."""

    drop: int = -1
    flip: int = -1
    truncate: int = -1
    duplicate: int = -1
    resize: int = -1
    late: int = -1
    hang: int = -1
    hiccup: int = -1
    oversize: int = -1
    no7ok: int = 0
    err: int = 0
    late_seconds: float = 2.0

    def of(self, number: int) -> str | None:
        """Name the fault of one frame that its writer must commit."""
        for kind in ("drop", "flip", "truncate", "duplicate", "resize", "oversize"):
            if getattr(self, kind) == number:
                return kind
        return None


@dataclass(frozen=True, slots=True)
class Settings:
    """The last settings sent to camserver; after a restart it has forgotten them."""

    n_images: int = 1
    exposure: float = 1.0
    period: float = 1.05
    n_exposures: int = 1
    delay: float = 0.0
    gap_fill: int = GAP


@dataclass(slots=True)
class Series:
    """One exposure command."""

    name: str
    mode: str
    header: Callable[[Settings, int, float], list[str]]
    faults: Faults = field(default_factory=Faults)
    settings: Settings = field(default_factory=Settings)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    began: list[float] = field(default_factory=list)
    armed_at: float | None = None
    """When the driver is through with starting it, monotonic s."""

    async def finishes_within(self, seconds: float) -> bool:
        """Wait until camserver says that it has finished; whether it did in time.

        Not with ``asyncio.wait_for``: before Python 3.12 that forgets a cancellation which comes
        as camserver finishes, and whoever aborts waits for ever.
        """
        try:
            async with asyncio.timeout(seconds):
                await self.finished.wait()
        except TimeoutError:
            return False
        return True


class Camserver:
    """Exposes, and has the frames written by its process."""

    def __init__(self, surroundings: Surroundings, options: Mapping[str, Any]) -> None:
        self._surroundings = surroundings
        self._options = dict(options)
        self._model = MODELS[options["generation"]]
        self._process: asyncio.subprocess.Process | None = None
        self._exposing: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._pending: dict[str, Series] = {}
        self.settings = Settings()
        self.header: dict[str, Any] = {}
        """What ``mxsettings`` was sent, by record name."""
        self.running = True
        self._stop = False
        self._number = 0
        self._measured: tuple[list[float], list[float]] = ([0.0], [0.0])

    async def start(self) -> None:
        """Start the process and wait until it has made its first frame."""
        # one thread: the other processors belong to the rest of the beamline
        threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sim_iocs.frame_writer", env=os.environ | threads,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**20,
        )  # fmt: skip
        await self._send(self._options)
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the camserver process ended before its first frame")
        measured = json.loads(line)["ready"]
        self._measured = (measured["at"], measured["seconds"])
        self._listening = asyncio.create_task(self._listen())

    def seconds(self, exposure: float) -> float:
        """Return the time that this host needs for a frame, s."""
        return float(np.interp(exposure, *self._measured))

    def can_follow(self, exposure: float, period: float) -> bool:
        """Return whether frames are made as fast as they are exposed, with a quarter to spare."""
        return period >= SPARE * self.seconds(exposure) - 1e-9

    @property
    def shortest_period(self) -> float:
        """The shortest period that the model can follow, however much of it is exposed, s."""
        for milliseconds in range(2, 100_000):
            period = max(self._model.shortest_period, 1e-3 * milliseconds)
            if self.can_follow(period, period):
                return round(period, 5)
        return 100.0

    async def stop(self) -> None:
        """End the process."""
        if self._listening is not None:
            self._listening.cancel()
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()
            await self._process.wait()

    async def _send(self, message: Mapping[str, Any]) -> None:
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
            self._pending.pop(name, None)
            if "failed" in message:
                log.warning("camserver could not write %s: %s", name, message["why"])
        log.warning("the camserver process is gone; no frame will be written")

    def configure(self, **changes: Any) -> None:
        """Change settings, if camserver runs."""
        if self.running:
            self.settings = replace(self.settings, **changes)

    def describe(self, **settings: Any) -> None:
        """Set entries of the frames' headers, if camserver runs."""
        if self.running:
            self.header |= settings

    def leave(self) -> None:
        """Disappear, whatever camserver is doing."""
        self.running = False
        self._number += 1  # no exposure goes on
        self._pending.clear()

    def come_back(self) -> None:
        """Come back, as freshly started."""
        if not self.running:
            self.running, self.settings, self.header = True, Settings(), {}

    def refusal(self, settings: Settings) -> str | None:
        """Return camserver's answer to settings that the detector cannot follow.

        It answers the exposure command with it, and exposes nothing.
        """
        asked, model = settings, self._model
        if asked.n_images > MOST_IMAGES:
            return f"15 ERR {asked.n_images} images are more than {MOST_IMAGES}"
        if asked.delay >= LONGEST_DELAY or asked.delay > max(asked.period, 0.0):
            return (
                f"15 ERR Delay {asked.delay:.7f} s is not below {LONGEST_DELAY:g} s and at most "
                f"the exposure period {asked.period:.7f} s"
            )
        if asked.n_images == asked.n_exposures == 1:
            return None  # nothing follows the exposure
        gap = asked.period - asked.exposure
        if gap < model.readout - 1e-9 or asked.period < model.shortest_period - 1e-9:
            return (
                f"15 ERR Exposure period {asked.period:.7f} s is too short for exposure time "
                f"{asked.exposure:.7f} s + {model.readout * 1000:.2f} ms, or shorter than "
                f"{model.shortest_period * 1000:.2f} ms"
            )
        return None

    def expose(self, series: Series) -> str:
        """Start an exposure; return the reply to the command."""
        if not self.running:
            raise CamserverGone
        refusal = self.refusal(self.settings)
        if refusal is not None:
            return refusal
        if series.faults.err:
            return "15 ERR the exposure command was refused (sim:err)"
        series.settings = self.settings
        self.kill()
        self._stop = False
        self._number += 1
        self._exposing = asyncio.create_task(self._expose(series, self._number))
        return f"15 OK  Starting {series.settings.exposure:.6f} second background: {series.name}"

    def kill(self) -> None:
        """Stop the series: a PILATUS2 after the current exposure, a PILATUS3 at once."""
        self._stop = True

    async def _expose(self, series: Series, serial: int) -> None:
        await self._surroundings.series_began()
        armed = time.monotonic()
        settings = series.settings
        seconds = settings.period * (settings.n_exposures - 1) + settings.exposure
        writes_again = 0.0  # monotonic s, after a hiccup
        for number, name in enumerate(frame_names(series.name, settings.n_images)):
            ended = None
            if series.mode == "Internal" or (series.mode == "Ext. Trigger" and number):
                apart = number * settings.n_exposures * settings.period
                began = (series.began[0] if series.began else armed) + apart
            else:
                pulse = await self._triggered(number, since=armed)
                if pulse is None:
                    return
                began = pulse
                if series.mode == "Ext. Enable":
                    duty = settings.exposure / settings.period
                    ended = await self._triggered(number + duty, since=armed)
                    if ended is None:
                        return
                else:
                    began += settings.delay
            await asyncio.sleep(max(began - time.monotonic(), 0.0))
            if serial != self._number or self._stop:
                return
            series.began.append(began)
            ended = began + seconds if ended is None else ended
            await asyncio.sleep(max(ended - time.monotonic(), 0.0))
            if number == series.faults.hang or serial != self._number:
                return
            if self._stop and not self._model.finishes:
                return
            frame = settings.period * settings.n_exposures
            if series.mode == "Ext. Enable":
                frame = (ended - began) * settings.period / settings.exposure
            elif settings.n_images == 1:
                frame = ended - began
            await self._surroundings.gate(number, began, ended, frame)
            taken = time.time() - (time.monotonic() - began)
            task = {
                "path": name,
                "number": number,
                "taken": taken,
                "model": self._options["model"],
                "header": series.header(settings, number, taken),
                "fault": series.faults.of(number),
                "gap_fill": settings.gap_fill,
                "exposure": {
                    "number": number,
                    "series": serial,
                    **self._surroundings.exposure(began, ended),
                },
            }
            if task["fault"] != "drop":
                self._pending[name] = series
            if number == series.faults.hiccup:
                writes_again = time.monotonic() + series.faults.late_seconds
            wait = writes_again + 1e-4 * number - time.monotonic()  # in their order
            if number == series.faults.late:
                wait = series.faults.late_seconds
            if wait > 0:
                asyncio.get_running_loop().call_later(
                    wait, lambda task=task: asyncio.ensure_future(self._send(task))
                )
            else:
                await self._send(task)
        while any(waiting is series for waiting in self._pending.values()):
            await asyncio.sleep(0.002)
        if not series.faults.no7ok and serial == self._number:
            series.finished.set()

    async def _triggered(self, number: float, *, since: float) -> float | None:
        """Wait for a pulse of the position compare unit."""
        serial = self._number
        while not self._stop and serial == self._number:
            moment = self._surroundings.trigger(number, since)
            if moment is not None and moment <= time.monotonic() + 0.02:
                return moment
            await asyncio.sleep(0.002)
        return None
