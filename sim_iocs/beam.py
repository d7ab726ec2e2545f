"""The beam: ring current, shutter, and a counter that advances one channel per frame.

Alive: ``ring:current``, ``ring:lifetime``, ``ring:top_up`` (put 0: no top-up), ``ring:dump`` (put
1: the beam is lost, 0: it is back); ``atten:transmission`` (1e-4 to 1) with ``_RBV``;
``shutter:open`` with ``_RBV``; the SIS38xx-like counter
``mcs:`` EraseStart, EraseAll, StopAll, Acquiring, NuseAll, CurrentChannel, ElapsedReal, ``mca1``
(incident) and ``mca2`` (transmitted) with as many elements as channels counted.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .records import Records

FULL = 102.0  # mA, after a top-up
LOW = 101.5  # mA, the next top-up
MONITOR_RATE = 2.0e6  # counts/s at 100 mA
TRANSMITTED = 0.2
LEAST_TRANSMISSION = 1e-4
MAX_CHANNELS = 65536


class Ring:
    """A stored beam that decays and is topped up."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._filled = clock()
        self._changes: list[tuple[float, bool]] = [(-math.inf, True)]
        self._top_up = True
        self.records = Records(
            {
                "current": {"record": "ai", "type": "double", "units": "mA", "precision": 3},
                "lifetime": {"record": "ai", "type": "double", "units": "h", "precision": 2,
                             "value": 8.0},
                "top_up": {"record": "bo", "type": "enum", "enums": ["Off", "On"], "value": 1},
                "dump": {"record": "bo", "type": "enum", "enums": ["Beam", "Lost"]},
            }
        )  # fmt: skip
        self.records["dump"].on_put = self._on_dump
        self.records["top_up"].on_put = self._on_top_up

    def current(self, moment: float) -> float:
        """Return the stored current at a moment, mA."""
        if not next(there for since, there in reversed(self._changes) if since <= moment):
            return 0.0
        lifetime = self.records.value("lifetime") * 3600.0
        gone = moment - self._filled
        if self._top_up:
            gone = math.fmod(gone, lifetime * math.log(FULL / LOW))
        return FULL * math.exp(-gone / lifetime)

    async def update(self) -> None:
        """Read back."""
        current = self.current(self._clock())
        await self.records.post(current=current)
        await self.records["dump"].post_if_new("Beam" if current else "Lost")

    async def dump(self, seconds: float) -> None:
        """Lose the beam for this time, s, from now on; 0 ends a loss."""
        now = self._clock()
        past = [change for change in self._changes if change[0] <= now][-99:]
        self._changes = [*past, (now, seconds <= 0.0)]
        if 0.0 < seconds < math.inf:
            self._changes.append((now + seconds, True))
        self._filled = now
        await self.update()

    async def _on_dump(self, label: str) -> None:
        await self.dump(math.inf if label == "Lost" else 0.0)
        await self.records.post(dump=label)
        await self.update()

    async def _on_top_up(self, label: str) -> None:
        self._top_up = label == "On"
        self._filled = self._clock()
        await self.records.post(top_up=label)


class Shutter:
    """A shutter that remembers when it moved.

    It moves ``seconds`` after a put, which completes then.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changes: list[tuple[float, bool]] = [(-math.inf, False)]
        enums = ["Closed", "Open"]
        self.records = Records(
            {
                "open": {"record": "bo", "type": "enum", "enums": enums},
                "open_RBV": {"record": "bi", "type": "enum", "enums": enums},
            }
        )
        self.seconds = 0.0
        self.records["open"].on_put = self._on_open
        self.records["open"].asynchronous = True

    async def _on_open(self, label: str) -> None:
        await asyncio.sleep(self.seconds)
        self._changes = [*self._changes[-99:], (self._clock(), label == "Open")]
        await self.records.post(open=label, open_RBV=label)

    def fraction(self, began: float, ended: float) -> float:
        """Return the part of a time in which it was open."""
        total = 0.0
        for (start, is_open), (end, _) in zip(
            self._changes, [*self._changes[1:], (math.inf, False)], strict=True
        ):
            if is_open:
                total += max(min(end, ended) - max(start, began), 0.0)
        return total / (ended - began) if ended > began else 0.0


class Attenuator:
    """A filter box that makes any transmission it is asked for."""

    def __init__(self) -> None:
        rows = {"type": "double", "precision": 6, "value": 1.0}
        self.records = Records(
            {
                "transmission": {"record": "ao", "low": LEAST_TRANSMISSION, "high": 1.0, **rows},
                "transmission_RBV": {"record": "ai", **rows},
            }
        )
        self.records["transmission"].on_put = self._on_transmission

    @property
    def transmission(self) -> float:
        """The part of the beam that passes."""
        return self.records.value("transmission_RBV")

    async def _on_transmission(self, asked: float) -> None:
        given = min(max(asked, LEAST_TRANSMISSION), 1.0)
        await self.records.post(transmission=asked, transmission_RBV=given)


class Counter:
    """A multichannel scaler gated by the detector."""

    def __init__(self, *, seed: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rng = np.random.default_rng([seed, 17])
        self._counts: tuple[list[int], list[int]] = ([], [])
        self._began = clock()
        waveform: dict[str, Any] = {
            "record": "waveform", "type": "double", "count": MAX_CHANNELS, "units": "counts",
        }  # fmt: skip
        self.records = Records(
            {
                "EraseStart": {"record": "bo", "type": "enum", "enums": ["Done", "Acquire"]},
                "EraseAll": {"record": "bo", "type": "enum", "enums": ["Done", "Erase"]},
                "StopAll": {"record": "bo", "type": "enum", "enums": ["Done", "Stop"]},
                "Acquiring": {"record": "busy", "type": "enum", "enums": ["Done", "Acquiring"]},
                "NuseAll": {"record": "longout", "type": "long", "value": 4096},
                "CurrentChannel": {"record": "longin", "type": "long"},
                "ElapsedReal": {"record": "ai", "type": "double", "units": "s", "precision": 3},
                "ChannelAdvance": {"record": "bo", "type": "enum",
                                   "enums": ["Internal", "External"], "value": 1},
                "mca1": waveform,
                "mca2": waveform,
            }
        )  # fmt: skip
        self.records["EraseStart"].on_put = self._on_erase_start
        self.records["EraseAll"].on_put = self._on_erase
        self.records["StopAll"].on_put = self._on_stop
        self.records["NuseAll"].on_put = self._on_channels

    async def _on_channels(self, channels: int) -> None:
        await self.records.post(NuseAll=min(max(channels, 1), MAX_CHANNELS))

    async def _on_erase(self, _label: str = "") -> None:
        self._counts = ([], [])
        await self.records.post(mca1=[], mca2=[], CurrentChannel=0, ElapsedReal=0.0)

    async def _on_erase_start(self, _label: str) -> None:
        await self._on_erase()
        self._began = self._clock()
        await self.records.post(EraseStart="Done", Acquiring="Acquiring")

    async def _on_stop(self, _label: str) -> None:
        await self.records.post(StopAll="Done", Acquiring="Done")

    async def count(self, seconds_of_beam: float) -> None:
        """Count one gate; ``seconds_of_beam`` is exposure times shutter times current / 100 mA."""
        if self.records.value("Acquiring") != "Acquiring":
            return
        expected = MONITOR_RATE * seconds_of_beam
        self._counts[0].append(int(self._rng.poisson(expected)))
        self._counts[1].append(int(self._rng.poisson(TRANSMITTED * expected)))
        channel = len(self._counts[0])
        await self.records.post(
            mca1=list(self._counts[0]), mca2=list(self._counts[1]), CurrentChannel=channel,
            ElapsedReal=self._clock() - self._began,
        )  # fmt: skip
        if channel >= self.records.value("NuseAll"):
            await self.records.post(Acquiring="Done")
