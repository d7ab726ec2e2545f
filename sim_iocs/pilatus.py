"""The ADPilatus records: a driver that takes puts, tells camserver to expose, reads files back.

It does so in the order and with the messages of the real IOC.

Alive: acquisition in all five trigger modes, NumImages 1 and N, NumExposures, abort, the naming of
files and its traps (stale files, wrong extension, wrong size, files that stay incomplete),
time-outs, a camserver that is gone or was restarted; the settings as in ``driver.py``.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from .camserver import Camserver, CamserverGone, Faults, Series
from .driver import OK, Driver
from .file_names import SUFFIXES, Found, c_format, frame_names, look
from .header import header_lines
from .plugins import Plugins
from .records import Completion

POLL = 0.01  # s, the driver looks for a file this often
SENDING = 0.005  # s, start angle, header string and exposure command
SECOND_READ = 0.021
"""The driver looks whether an ERR follows camserver's answer, until a timeout of 10 ms, and then
sleeps for 10 ms, before it is armed, s."""
ANSWERING = 2.0
"""Timeout of the driver for the answer to an exposure command, s; then it is armed without."""
KILL_TIME = 2.0  # s, the driver holds its port this long after a kill


class Pilatus(Driver):
    """The driver behind the ``cam1:`` records."""

    arming_seconds = 0.0
    """Time that camserver takes to acknowledge an exposure command, s; then the exposure begins."""

    arming_jitter = 0.002
    """Uncertainty of when the driver has finished with it, s."""

    def __init__(
        self,
        camserver: Camserver,
        *,
        shape: tuple[int, int],
        model: str,
        faults: Faults,
        report: Callable[[str], Awaitable[None]],
        plugins: Plugins,
        n_files: int | None = None,
        ending: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(camserver, shape=shape, model=model, report=report, ending=ending)
        self._faults = faults
        self._plugins = plugins
        self._n_files = n_files
        self._chance = random.Random(seed)
        self._driving: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.records["Acquire"].on_put = self._on_acquire
        self.records["Acquire"].asynchronous = True

    async def _on_acquire(self, label: str) -> Completion | None:
        """Start or abort; a busy record completes a put-callback when it is back at 0."""
        async with self._port:
            if label == "Acquire":
                if self._driving is not None:
                    return self._idle.wait
                if self.records.value("DetectorState_RBV") not in ("Idle", "Error", "Aborted"):
                    return None
                self._idle.clear()
                self._driving = asyncio.create_task(self._acquire())
                return self._idle.wait
            if self._driving is None:
                await self.records.post(Acquire="Done")
            else:
                await self._abort()
            return None

    async def _abort(self) -> None:
        """Abandon the series, with the port locked."""
        driving, self._driving = self._driving, None
        if driving is not None:
            driving.cancel()
            await asyncio.gather(driving, return_exceptions=True)
        await self.records.post(
            StatusMessage_RBV="Acquisition aborted", DetectorState_RBV="Aborted",
            Acquire_RBV="Done", Armed="Unarmed", AcquireBusy="Done",
        )  # fmt: skip
        self._camserver.kill()
        await self.records.post(StringToServer_RBV="K")
        await asyncio.sleep(KILL_TIME)
        await self.records.post(Acquire="Done")
        self._idle.set()

    async def _acquire(self) -> None:
        try:
            await self._run_series()
        except asyncio.CancelledError:
            raise
        except Exception as problem:
            await self._end("Error", f"{type(problem).__name__}: {problem}"[:255])
            raise

    async def _end(self, state: str, message: str | None) -> None:
        """End an acquisition; without a message the last one stays."""
        if message is not None:
            await self.records.post(StatusMessage_RBV=message)
        self._driving = None
        await self.records.post(
            DetectorState_RBV=state, Acquire="Done", Acquire_RBV="Done", Armed="Unarmed"
        )
        if self.records.value("WaitForPlugins") == "Yes":
            await self._plugins.settled()
        await self.records.post(AcquireBusy="Done", ShutterStatus_RBV="Closed")
        self._idle.set()

    def _refusal(self, name: str, n_images: int, period: float) -> str | None:
        """Why the simulation cannot do what the real detector could."""
        settings = self._camserver.settings
        follows = self._camserver.refusal(settings) is None
        if n_images > 1 and follows and not self._camserver.can_follow(settings.exposure, period):
            possible = self._camserver.shortest_period
            return (
                f"Refused: {1 / period if period > 0 else float('inf'):.3g} Hz asked, this "
                f"simulator makes at most {1 / possible:.3g} Hz (period {possible:.3f} s) of "
                f"{self._model}"
            )
        if self._n_files is not None and n_images > self._n_files:
            return (
                f"Refused: NumImages {n_images} asked, the replayed folder holds "
                f"{self._n_files} frames"
            )
        if self._n_files is not None and not name.lower().endswith(".cbf"):
            return f"Refused: the replayed frames are CBF files, {Path(name).name} is not"
        return None

    async def _run_series(self) -> None:
        records, value = self.records, self.records.value
        started = time.time()
        await records.post(
            StatusMessage_RBV="Acquiring data", DetectorState_RBV="Acquire",
            Acquire_RBV="Acquiring", Acquire="Acquire", AcquireBusy="Acquiring",
        )  # fmt: skip
        n_images, period, mode = (
            value("NumImages_RBV"), value("AcquirePeriod_RBV"), value("TriggerMode_RBV"),
        )  # fmt: skip
        if mode == "Alignment":
            await self._align()
            return
        name = c_format(
            value("FileTemplate"), value("FilePath_RBV"), value("FileName"), value("FileNumber")
        )
        refusal = self._refusal(name, n_images, period)
        if refusal is not None:
            await self._report(refusal)
            await self._end("Error", refusal)
            return
        series = self._series(name, mode, self._take_faults(n_images))
        await asyncio.sleep(SENDING)
        command = {"Ext. Enable": "ExtEnable", "Ext. Trigger": "ExtTrigger",
                   "Mult. Trigger": "ExtMTrigger"}.get(mode, "Exposure")  # fmt: skip
        exposing = asyncio.create_task(self._answer(series))
        try:
            answered, _ = await asyncio.wait([exposing], timeout=ANSWERING)
        except asyncio.CancelledError:
            exposing.cancel()
            raise
        reply = ""
        if answered:
            try:
                reply = exposing.result()
            except CamserverGone:
                await self._end("Error", "Starting exposure")
                return
        lag = SECOND_READ + self._chance.uniform(0.0, self.arming_jitter)
        answered_at = time.monotonic()
        await asyncio.sleep(lag)
        series.armed_at = (series.began[0] if series.began else answered_at) + lag
        await records.post(StringToServer_RBV=f"{command} {name}"[:255])
        if value("AutoIncrement") == "Yes":
            number = value("FileNumber") + 1
            await records.post(FileNumber=number, FileNumber_RBV=number)
        if value("ShutterMode") != "None":
            await records.post(ShutterStatus_RBV="Open")
        if reply:
            await records.post(StringFromServer_RBV=reply[:255])
        if not name.lower().endswith(SUFFIXES):
            await self._end("Error", "Unsupported file extension, expected .tif or .cbf")
            return
        names = frame_names(name, n_images)
        if n_images == 1:
            await self._read_single(series, started)
        elif value("ArrayCallbacks") == "Enable":
            await self._read_many(series, names, started)
        else:
            await records.post(FullFileName_RBV=names[-1])
            await self._post_armed(series)
            n_exposures = value("NumExposures_RBV")
            await self._wait_for_7ok(series, n_images * n_exposures * period + 10.0)

    async def _post_armed(self, series: Series) -> None:
        """Post Armed with the stamp that it has on a host that is not busy.

        A driver in C is not kept waiting by the rest of the beamline, as this one is.
        """
        now = time.monotonic()
        late = now - (series.armed_at or now)
        await self.records["Armed"].post("Armed", moment=time.time() - max(late, 0.0))

    async def _answer(self, series: Series) -> str:
        """Wait until camserver takes the exposure command; returns its answer."""
        await asyncio.sleep(self.arming_seconds)
        return self._camserver.expose(series)

    def _series(self, name: str, mode: str, faults: Faults) -> Series:
        header = partial(header_lines, self._header(), self._model)
        return Series(name=name, mode=mode, header=header, faults=faults)

    async def _align(self) -> None:
        """Expose into one file again and again, until aborted."""
        name = f"{self.records.value('FilePath_RBV')}alignment.tif"
        while True:
            series, started = self._series(name, "Internal", Faults()), time.time()
            try:
                self._camserver.expose(series)
            except CamserverGone:
                await self._end("Error", "Starting exposure")
                return
            if self.records.value("Armed") != "Armed":
                await self._post_armed(series)
            if not await self._read_single(series, started, last=False):
                return

    async def _read_many(self, series: Series, names: list[str], started: float) -> None:
        records = self.records
        limit = records.value("NumExposures_RBV") * records.value("AcquireTime_RBV")
        await self._post_armed(series)
        for number, name in enumerate(names):
            await records.post(FullFileName_RBV=name)
            await records.post(StatusMessage_RBV=f"Reading image file {name}"[:255])
            patience = limit + records.value("ImageFileTmot")
            if not await self._read_file(name, started, patience):
                return
            await self._count_one(name, number, len(names), started)
        await records.post(StatusMessage_RBV="Waiting for 7OK response")
        await self._wait_for_7ok(series, records.value("ImageFileTmot"))

    async def _read_single(self, series: Series, started: float, *, last: bool = True) -> bool:
        records, value = self.records, self.records.value
        await records.post(FullFileName_RBV=series.name)
        await self._post_armed(series)
        await records.post(StatusMessage_RBV="Waiting for 7OK response")
        more = (value("NumExposures_RBV") - 1) * value("AcquirePeriod_RBV")
        patience = value("AcquireTime_RBV") + more + 10.0
        if not await series.finishes_within(patience):
            await self._kill()
            return False
        if value("ArrayCallbacks") == "Enable":
            await records.post(StatusMessage_RBV=f"Reading image file {series.name}"[:255])
            if not await self._read_file(series.name, started, value("ImageFileTmot")):
                return False
            await self._count_one(series.name, 0, 1, started)
        if last:
            await self._end("Idle", "Waiting for acquire command")
        return True

    async def _wait_for_7ok(self, series: Series, patience: float) -> None:
        if not await series.finishes_within(patience):
            await self._kill()
            return
        await self._end("Idle", "Waiting for acquire command")

    async def _kill(self) -> None:
        """Abandon camserver; its answer to the kill hides why."""
        self._camserver.kill()
        await self.records.post(StringToServer_RBV="camcmd k")
        await self.records.post(StringToServer_RBV="K")
        await self._end("Error", OK)

    async def _read_file(self, name: str, started: float, patience: float) -> bool:
        """Wait for a file; whether a frame was read from it, however bad."""
        deadline = time.monotonic() + patience
        path = Path(name)
        while True:
            # a disk that is being written to may keep who looks at a file waiting
            found = await asyncio.to_thread(look, path, started=started, shape=self._shape)
            if found is Found.WHOLE:
                return True
            if found is Found.WRONG_SIZE and path.suffix.lower() == ".cbf":
                await self._end("Error", None)
                return False
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL)
        if found in (Found.PARTIAL, Found.WRONG_SIZE):
            return True
        message = (
            "Image file is more than 10 seconds old" if found is Found.OLD
            else "Timeout waiting for file to be created"
        )  # fmt: skip
        await self._end("Error", message)
        return False

    async def _count_one(self, name: str, number: int, n_images: int, started: float) -> None:
        value = self.records.value
        count = value("ArrayCounter_RBV") + 1
        await self.records.post(ArrayCounter=count, ArrayCounter_RBV=count)
        if number == 0:
            period = value("AcquirePeriod_RBV")
            rate = 1.0 / period if n_images > 1 and period > 0.0 else 0.0
            await self.records.post(ArrayRate_RBV=rate)
        await self._plugins.push(name, count, time.time())

    def _take_faults(self, n_images: int) -> Faults:
        """Return the faults of this series, which uses them up; a single image is spared most."""
        if n_images == 1:
            taken = Faults(no7ok=self._faults.no7ok, err=self._faults.err)
            self._faults.no7ok = self._faults.err = 0
            return taken
        taken = Faults(*(getattr(self._faults, key) for key in Faults.__slots__))
        fresh = Faults(late_seconds=self._faults.late_seconds)
        for key in Faults.__slots__:
            setattr(self._faults, key, getattr(fresh, key))
        return taken
