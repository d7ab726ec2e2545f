"""A real EPICS database and Channel Access server with a motor-like and a busy-like record.

Run as ``python served.py READY_FILE``; the port is that of ``EPICS_CA_SERVER_PORT``. What matters
here is not the device but EPICS base itself: its records, its put-callbacks, its server.

``TWIN:phi``
    A put moves at ``TWIN:phi:VELO``; a put-callback completes at rest. What are fields of a motor
    record are records here: ``TWIN:phi:RBV``.
``TWIN:Acquire``
    1 begins ``TWIN:Seconds`` of exposure, which end or are given up at 0; a put-callback completes
    when they have. The record itself never waits, as a busy record does not.
``TWIN:Slow``
    An asynchronous record: each put takes ``TWIN:Delay`` seconds (PACT); ``TWIN:Slow:Done`` counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import time
from pathlib import Path

from softioc import asyncio_dispatcher, builder, softioc

POLL = 0.1  # s


class Phi:
    """An axis that moves at constant speed."""

    def __init__(self) -> None:
        self.work = builder.aOut("phi:Work", on_update=self.run, blocking=True, always_update=True)
        self.value = builder.aOut(
            "phi", initial_value=0.0, PREC=4, EGU="degrees", DRVL=-400, DRVH=400, LOPR=-400,
            HOPR=400, on_update=self.ask, always_update=True, FLNK=self.work,
        )  # fmt: skip
        self.speed = builder.aOut("phi:VELO", initial_value=10.0)
        for name, value in {
            "VBAS": 0.0, "VMAX": 0.0, "ACCL": 0.2, "OFF": 0.0, "HLM": 400.0, "LLM": -400.0,
        }.items():  # fmt: skip
            builder.aOut(f"phi:{name}", initial_value=value)
        for name in ("DIR", "FOFF", "SET", "HLS", "LLS", "TDIR", "HOMF", "HOMR"):
            builder.longOut(f"phi:{name}", initial_value=0)
        builder.stringOut("phi:EGU", initial_value="degrees")
        builder.stringOut("phi:SPMG", initial_value="Go")
        builder.longOut("phi:PROC", initial_value=0)  # a record of its own, which a put stamps
        self.stop = builder.boolOut("phi:STOP", on_update=self.halt, always_update=True)
        self.at = builder.aIn("phi:RBV", initial_value=0.0, PREC=4)
        self.done = builder.longIn("phi:DMOV", initial_value=1)
        self.moving = builder.longIn("phi:MOVN", initial_value=0)
        self.target, self.stopped = 0.0, False

    def ask(self, target: float) -> None:
        self.target, self.stopped = target, False

    def halt(self, asked: bool) -> None:
        self.stopped = self.stopped or bool(asked)

    async def run(self, _value: float) -> None:
        """Move to wherever was asked for last."""
        self.done.set(0)
        self.moving.set(1)
        here, last = self.at.get(), time.monotonic()
        while here != self.target and not self.stopped:
            await asyncio.sleep(POLL)
            now = time.monotonic()
            step = min(self.speed.get() * (now - last), abs(self.target - here))
            here, last = here + math.copysign(step, self.target - here), now
            self.at.set(here)
        self.moving.set(0)
        self.done.set(1)


class Exposure:
    """What is busy while Acquire is 1."""

    def __init__(self) -> None:
        self.seconds = builder.aOut("Seconds", initial_value=0.5)
        self.work = builder.aOut(
            "Acquire:Work", on_update=self.run, blocking=True, always_update=True
        )
        self.acquire = builder.boolOut(
            "Acquire", "Done", "Acquire", on_update=self.ask, always_update=True, FLNK=self.work
        )
        self.read_back = builder.boolIn("Acquire_RBV", "Done", "Acquiring", initial_value=0)
        self.asked = False
        self.changed = asyncio.Event()

    def ask(self, asked: bool) -> None:
        self.asked = bool(asked)
        self.changed.set()

    async def run(self, _value: float) -> None:
        await asyncio.sleep(0.02)  # the driver polls the replies
        if not self.asked:
            return
        self.read_back.set(1)
        until = time.monotonic() + self.seconds.get()
        while self.asked and (left := until - time.monotonic()) > 0.0:
            self.changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), left)
        self.read_back.set(0)
        self.acquire.set(0, process=False)


class Slow:
    """A record whose driver takes its time."""

    def __init__(self) -> None:
        self.delay = builder.aOut("Delay", initial_value=0.5)
        self.value = builder.aOut("Slow", on_update=self.run, blocking=True, always_update=True)
        self.done = builder.aIn("Slow:Done", initial_value=0.0)

    async def run(self, value: float) -> None:
        await asyncio.sleep(self.delay.get())
        self.done.set(value)


async def main(ready: Path) -> None:
    """Serve until killed."""
    dispatcher = asyncio_dispatcher.AsyncioDispatcher(asyncio.get_running_loop())
    builder.SetDeviceName("TWIN")
    _devices = Phi(), Exposure(), Slow()
    builder.LoadDatabase()
    softioc.iocInit(dispatcher, enable_pva=False)
    ready.write_text("serving\n")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
