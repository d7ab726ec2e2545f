"""The ADPilatus records: a driver that takes puts, tells camserver to expose, reads files back.

It does so in the order and with the messages of the real IOC.

Alive: acquisition in all five trigger modes, NumImages 1 and N, NumExposures, abort, the naming of
files and its traps (stale files, wrong extension, wrong size, files that stay incomplete), FilePath
and its check, the header PVs, threshold and energy, ReadStatus, time-outs, a camserver that is gone
or was restarted. Every other setting is a record that is mirrored to its ``_RBV``. Not
alive: gap fill.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from .camserver import Camserver, CamserverGone, Faults, Series
from .crystal import CUTOFF
from .file_names import SUFFIXES, Found, c_format, frame_names, look
from .header import HEADER_RECORDS, header_lines
from .plugins import Plugins
from .records import Hook, Records, read_table

POLL = 0.01  # s, the driver looks for a file this often
PARAMETER_TIME = 0.01  # s, to send nimages, exptime and their kind
KILL_TIME = 2.0  # s, the driver holds its port this long after a kill
LEAST = {"NumImages": (1, 1), "NumExposures": (1, 1), "AcquireTime": (0.0, 1.0),
         "AcquirePeriod": (0.0, 2.0), "DelayTime": (0.0, 0.0)}  # fmt: skip
"""Below the first number the driver takes the second instead."""

OK = "Camserver returned OK"


class Pilatus:
    """The driver behind the ``cam1:`` records."""

    threshold_seconds = 0.5
    """How long camserver needs to set a threshold; a real 2M takes tens of seconds."""

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
    ) -> None:
        rows = read_table("cam1.json")
        slow, fast = shape
        for key in ("ArraySizeX_RBV", "MaxSizeX_RBV", "SizeX"):
            rows[key]["value"] = fast
        for key in ("ArraySizeY_RBV", "MaxSizeY_RBV", "SizeY"):
            rows[key]["value"] = slow
        rows["Model_RBV"]["value"] = model
        rows["PixelCutOff_RBV"]["value"] = CUTOFF
        rows["GapFill_RBV"]["value"] = 0
        if ending is not None:
            for key in ("FileTemplate", "FileTemplate_RBV"):
                rows[key]["value"] = f"%s%s_%3.3d_00000.{ending}"
        self.records = Records(rows)
        self._camserver = camserver
        self._shape = shape
        self._model = model
        self._faults = faults
        self._report = report
        self._plugins = plugins
        self._n_files = n_files
        self._port = asyncio.Lock()
        self._driving: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        for name in self.records:
            if f"{name}_RBV" in self.records:
                self.records[name].on_put = self._mirror(name)
        for name in (*LEAST, "TriggerMode", "GapFill"):
            self.records[name].on_put = self._parameter(name)
        own = {
            "Acquire": self._on_acquire, "FilePath": self._on_path,
            "ThresholdEnergy": self._on_threshold("ThresholdEnergy"),
            "Energy": self._on_threshold("Energy"), "Gain": self._on_threshold("Gain"),
            "ThresholdApply": self._on_apply, "ResetPower": self._on_reset_power,
            "ReadStatus": self._on_read_status,
        }  # fmt: skip
        for name, hook in own.items():
            self.records[name].on_put = hook

    # -- settings -----------------------------------------------------------------------------

    def _mirror(self, name: str) -> Hook:
        async def put(value: Any) -> None:
            async with self._port:
                await self.records.post(**{name: value, f"{name}_RBV": value})

        return put

    def _parameter(self, name: str) -> Hook:
        async def put(value: Any) -> None:
            async with self._port:
                least, instead = LEAST.get(name, (None, None))
                used = instead if least is not None and value < least else value
                await self.records.post(**{name: value, f"{name}_RBV": used})
                await self._send_parameters()

        return put

    async def _send_parameters(self) -> None:
        """Tell camserver everything about the exposures, whatever of it has changed."""
        value = self.records.value
        if value("TriggerMode_RBV") == "Alignment":
            await self.records.post(NumImages_RBV=1)
        self._camserver.configure(
            n_images=value("NumImages_RBV"),
            exposure=value("AcquireTime_RBV"),
            period=value("AcquirePeriod_RBV"),
            n_exposures=value("NumExposures_RBV"),
            delay=value("DelayTime_RBV"),
        )
        await asyncio.sleep(PARAMETER_TIME)

    async def _on_path(self, path: str) -> None:
        async with self._port:
            asked = path if path.endswith("/") or not path else path + "/"
            await self.records.post(FilePath=path, FilePath_RBV=asked)
            await self.records.post(FilePathExists_RBV=int(bool(path) and Path(path).is_dir()))

    def _on_threshold(self, name: str) -> Hook:
        async def put(value: Any) -> None:
            async with self._port:
                await self.records.post(**{name: value})
                if self.records.value("ThresholdAutoApply") == "Yes":
                    await self._apply_threshold()

        return put

    async def _on_apply(self, value: str) -> None:
        async with self._port:
            await self.records.post(ThresholdApply=value)
            await self._apply_threshold()
            await self.records.post(ThresholdApply="Done")

    async def _apply_threshold(self) -> None:
        records = self.records
        threshold, gain = records.value("ThresholdEnergy"), records.value("Gain")
        energy = records.value("Energy") or 2.0 * threshold
        await records.post(ThresholdEnergy_RBV=threshold, Energy_RBV=energy, Gain_RBV=gain)
        if not self._camserver.running:
            return
        state = records.value("DetectorState_RBV")
        await records.post(
            DetectorState_RBV="Waiting", StatusMessage_RBV="Setting threshold",
            StringToServer_RBV=f"SetThreshold energy {1e3 * energy:.0f} midG {1e3 * threshold:.0f}",
        )  # fmt: skip
        await asyncio.sleep(self.threshold_seconds)
        # camserver reads back whole electronvolts
        await records.post(
            ThresholdEnergy_RBV=round(threshold, 3), Energy_RBV=round(energy, 3),
            DetectorState_RBV="Idle" if state != "Acquire" else state, StatusMessage_RBV=OK,
        )  # fmt: skip
        await self._send_parameters()

    async def _on_reset_power(self, label: str) -> None:
        async with self._port:
            await self.records.post(ResetPower=label)
            if label == "Reset":
                await asyncio.sleep(self.records.value("ResetPowerTime"))
                await self._apply_threshold()
            await self.records.post(ResetPower="Done")

    async def _on_read_status(self, _value: Any) -> None:
        if self.records.value("DetectorState_RBV") == "Acquire":
            return
        async with self._port:
            if not self._camserver.running:
                await self.records.post(DetectorState_RBV="Error")
                return
            await self.records.post(
                Temp0_RBV=31.4, Temp1_RBV=25.8, Temp2_RBV=28.6, Humid0_RBV=22.1, Humid1_RBV=33.5,
                Humid2_RBV=2.0, Temperature_RBV=31.4,
            )  # fmt: skip

    # -- acquisition --------------------------------------------------------------------------

    async def _on_acquire(self, label: str) -> None:
        if label == "Acquire":
            if self._driving is not None:
                return
            if self.records.value("DetectorState_RBV") not in ("Idle", "Error", "Aborted"):
                return
            async with self._port:
                self._idle.clear()
                self._driving = asyncio.create_task(self._acquire())
            await self._idle.wait()
        elif self._driving is None:
            await self.records.post(Acquire="Done")
        else:
            await self._abort()

    async def _abort(self) -> None:
        async with self._port:
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
        await asyncio.sleep(0.020)  # two polls of camserver's replies
        command = {"Ext. Enable": "ExtEnable", "Ext. Trigger": "ExtTrigger",
                   "Mult. Trigger": "ExtMTrigger"}.get(mode, "Exposure")  # fmt: skip
        try:
            reply = self._camserver.expose(series)
        except CamserverGone:
            await self._end("Error", "Starting exposure")
            return
        await records.post(StringToServer_RBV=f"{command} {name}"[:255])
        if value("AutoIncrement") == "Yes":
            number = value("FileNumber") + 1
            await records.post(FileNumber=number, FileNumber_RBV=number)
        if value("ShutterMode") != "None":
            await records.post(ShutterStatus_RBV="Open")
        await asyncio.sleep(0.005)
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
            await records.post(FullFileName_RBV=names[-1], Armed="Armed")
            n_exposures = value("NumExposures_RBV")
            await self._wait_for_7ok(series, n_images * n_exposures * period + 10.0)

    def _series(self, name: str, mode: str, faults: Faults) -> Series:
        settings = {key: self.records.value(key) for key in HEADER_RECORDS}
        return Series(
            name=name, mode=mode, header=partial(header_lines, settings, self._model), faults=faults
        )

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
                await self.records.post(Armed="Armed")
            if not await self._read_single(series, started, last=False):
                return

    async def _read_many(self, series: Series, names: list[str], started: float) -> None:
        records = self.records
        limit = records.value("NumExposures_RBV") * records.value("AcquireTime_RBV")
        await records.post(Armed="Armed")
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
        await records.post(FullFileName_RBV=series.name, Armed="Armed")
        await records.post(StatusMessage_RBV="Waiting for 7OK response")
        more = (value("NumExposures_RBV") - 1) * value("AcquirePeriod_RBV")
        patience = value("AcquireTime_RBV") + more + 10.0
        try:
            await asyncio.wait_for(series.finished.wait(), patience)
        except TimeoutError:
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
        try:
            await asyncio.wait_for(series.finished.wait(), patience)
        except TimeoutError:
            await self._kill()
            return
        await self._end("Idle", "Waiting for acquire command")

    async def _kill(self) -> None:
        """Give up on camserver; its answer to the kill hides why."""
        self._camserver.kill()
        await self.records.post(StringToServer_RBV="camcmd k")
        await self.records.post(StringToServer_RBV="K")
        await self._end("Error", OK)

    async def _read_file(self, name: str, started: float, patience: float) -> bool:
        """Wait for a file; whether a frame was read from it, however bad."""
        deadline = time.monotonic() + patience
        path = Path(name)
        while True:
            found = look(path, started=started, shape=self._shape)
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
        """Take the faults of this series, which uses them up; a single image is spared most."""
        if n_images == 1:
            taken = Faults(no7ok=self._faults.no7ok)
            self._faults.no7ok = 0
            return taken
        taken = Faults(*(getattr(self._faults, key) for key in Faults.__slots__))
        fresh = Faults(late_seconds=self._faults.late_seconds)
        for key in Faults.__slots__:
            setattr(self._faults, key, getattr(fresh, key))
        return taken
