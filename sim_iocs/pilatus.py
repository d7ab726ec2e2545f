"""The ADPilatus records: a driver that takes puts, tells camserver to expose, reads files back.

It does so in the order and with the messages of the real IOC.

Alive: acquisition in the trigger modes Internal, Ext. Trigger and Mult. Trigger (Ext. Enable is
taken for Mult. Trigger), NumImages 1 and N, abort, the file naming rules, FilePath and its check,
the header PVs, threshold and energy, ReadStatus, time-outs. Every other setting is a record that is
mirrored to its ``_RBV``. Not alive: the Alignment mode, file plugins, gap fill.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from .camserver import Camserver, Faults, Series
from .crystal import CUTOFF
from .header import HEADER_RECORDS, header_lines
from .records import Hook, Records, read_table

POLL = 0.01  # s, the driver looks for a file this often
KILL_TIME = 2.0  # s, the driver holds its port this long after a kill
THRESHOLD_TIME = 0.5  # s; a real 2M takes tens of seconds
SUFFIXES = (".cbf", ".tif", ".tiff")


def frame_names(template_name: str, n_images: int) -> list[str]:
    """Name the files of a series the way camserver does.

    After the last ``_`` three or more digits are the first number and its width; otherwise ``_``
    and five digits from 0 are added. A single image keeps its name.
    """
    if n_images == 1:
        return [template_name]
    path = Path(template_name)
    stem, suffix = path.name[: len(path.name) - len(path.suffix)], path.suffix
    found = re.search(r"_(\d{3,})$", stem)
    if found:
        head, first, width = stem[: found.start()], int(found[1]), len(found[1])
        if (width == 3 and first + n_images > 1000) or (width == 4 and first + n_images > 10000):
            width = 5
    else:
        head, first, width = stem.removesuffix("_"), 0, 5
    folder = template_name[: len(template_name) - len(path.name)]
    return [f"{folder}{head}_{first + i:0{width}d}{suffix}" for i in range(n_images)]


def c_format(template: str, path: str, name: str, number: int) -> str:
    """Fill a C printf template that takes path, name and number; fewer are as good in C."""
    for values in ((path, name, number), (path, name), (path,), ()):
        with suppress(TypeError, ValueError):
            return template % values
    return template


class Pilatus:
    """The driver behind the ``cam1:`` records."""

    def __init__(
        self,
        camserver: Camserver,
        *,
        shape: tuple[int, int],
        model: str,
        faults: Faults,
        report: Callable[[str], Awaitable[None]],
        n_files: int | None = None,
        ending: str = "cbf",
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
        for key in ("FileTemplate", "FileTemplate_RBV"):
            rows[key]["value"] = f"%s%s_%3.3d_00000.{ending}"
        self.records = Records(rows)
        self._camserver = camserver
        self._model = model
        self._faults = faults
        self._report = report
        self._n_files = n_files
        self._port = asyncio.Lock()
        self._driving: asyncio.Task[None] | None = None
        self._series: Series | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        for name in self.records:
            if f"{name}_RBV" in self.records:
                self.records[name].on_put = self._mirror(name)
        own = {
            "Acquire": self._on_acquire, "FilePath": self._on_path,
            "NumImages": self._at_least("NumImages", 1, 1),
            "NumExposures": self._at_least("NumExposures", 1, 1),
            "AcquireTime": self._at_least("AcquireTime", 0.0, 1.0),
            "AcquirePeriod": self._at_least("AcquirePeriod", 0.0, 2.0),
            "DelayTime": self._at_least("DelayTime", 0.0, 0.0),
            "ThresholdEnergy": self._on_threshold("ThresholdEnergy"),
            "Energy": self._on_threshold("Energy"), "Gain": self._on_threshold("Gain"),
            "ThresholdApply": self._on_apply, "ReadStatus": self._on_read_status,
        }  # fmt: skip
        for name, hook in own.items():
            self.records[name].on_put = hook

    # -- settings -----------------------------------------------------------------------------

    def _mirror(self, name: str) -> Hook:
        async def put(value: Any) -> None:
            async with self._port:
                await self.records.post(**{name: value, f"{name}_RBV": value})

        return put

    def _at_least(self, name: str, least: float, instead: float) -> Hook:
        async def put(value: Any) -> None:
            async with self._port:
                used = value if value >= least else instead
                await self.records.post(**{name: value, f"{name}_RBV": used})

        return put

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
        threshold = records.value("ThresholdEnergy")
        energy = records.value("Energy") or 2.0 * threshold
        await records.post(
            ThresholdEnergy_RBV=threshold, Energy_RBV=energy, Gain_RBV=records.value("Gain"),
            DetectorState_RBV="Waiting", StatusMessage_RBV="Setting threshold",
        )  # fmt: skip
        await asyncio.sleep(THRESHOLD_TIME)
        await records.post(DetectorState_RBV="Idle", StatusMessage_RBV="Camserver returned OK")

    async def _on_read_status(self, _value: Any) -> None:
        async with self._port:
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

    async def _end(self, state: str, message: str) -> None:
        self._driving = None
        await self.records.post(
            StatusMessage_RBV=message, DetectorState_RBV=state, Acquire="Done", Acquire_RBV="Done",
            Armed="Unarmed", AcquireBusy="Done", ShutterStatus_RBV="Closed",
        )  # fmt: skip
        self._idle.set()

    def _refusal(self, name: str, n_images: int, period: float) -> str | None:
        """Why the simulation cannot do what the real detector could."""
        possible = self._camserver.shortest_period
        if n_images > 1 and period < possible:
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
        n_images, exposure, period = (
            value("NumImages_RBV"), value("AcquireTime_RBV"), value("AcquirePeriod_RBV"),
        )  # fmt: skip
        name = c_format(
            value("FileTemplate"), value("FilePath_RBV"), value("FileName"), value("FileNumber")
        )
        refusal = self._refusal(name, n_images, period)
        if refusal is not None:
            await self._report(refusal)
            await self._end("Error", refusal)
            return
        names = frame_names(name, n_images)
        settings = {key: value(key) for key in HEADER_RECORDS}
        series = Series(
            names=names,
            exposure=exposure,
            period=period,
            mode=value("TriggerMode_RBV"),
            header=partial(header_lines, settings, self._model, exposure, period),
            faults=self._take_faults(n_images),
        )
        self._series = series
        await asyncio.sleep(0.020)  # two polls of camserver's replies
        command = {"Ext. Enable": "ExtEnable", "Ext. Trigger": "ExtTrigger",
                   "Mult. Trigger": "ExtMTrigger"}.get(series.mode, "Exposure")  # fmt: skip
        reply = self._camserver.expose(series)
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
        if n_images == 1:
            await self._read_single(series, started)
        elif value("ArrayCallbacks") == "Enable":
            await self._read_many(series, started)
        else:
            await records.post(FullFileName_RBV=names[-1], Armed="Armed")
            await self._wait_for_7ok(series, n_images * period + 10.0)

    async def _read_many(self, series: Series, started: float) -> None:
        records = self.records
        limit = records.value("NumExposures_RBV") * series.exposure
        await records.post(Armed="Armed")
        for number, name in enumerate(series.names):
            await records.post(FullFileName_RBV=name)
            await records.post(StatusMessage_RBV=f"Reading image file {name}"[:255])
            patience = limit + records.value("ImageFileTmot")
            if not await self._wait_for_file(name, series, started, patience):
                return
            await self._count_one(series, number)
        await records.post(StatusMessage_RBV="Waiting for 7OK response")
        await self._wait_for_7ok(series, records.value("ImageFileTmot"))

    async def _read_single(self, series: Series, started: float) -> None:
        records = self.records
        await records.post(FullFileName_RBV=series.names[0], Armed="Armed")
        await records.post(StatusMessage_RBV="Waiting for 7OK response")
        try:
            await asyncio.wait_for(series.finished.wait(), series.exposure + 10.0)
        except TimeoutError:
            await self._end("Error", "Camserver returned OK")
            return
        if records.value("ArrayCallbacks") == "Enable":
            await records.post(StatusMessage_RBV=f"Reading image file {series.names[0]}"[:255])
            patience = records.value("ImageFileTmot")
            if not await self._wait_for_file(series.names[0], series, started, patience):
                return
            await self._count_one(series, 0)
        await self._end("Idle", "Waiting for acquire command")

    async def _wait_for_7ok(self, series: Series, patience: float) -> None:
        try:
            await asyncio.wait_for(series.finished.wait(), patience)
        except TimeoutError:
            self._camserver.kill()
            await self._end("Error", "Camserver returned OK")
            return
        await self._end("Idle", "Waiting for acquire command")

    async def _wait_for_file(
        self, name: str, series: Series, started: float, patience: float
    ) -> bool:
        deadline = time.monotonic() + patience
        path = Path(name)
        stale = False
        while time.monotonic() < deadline:
            if name in series.written:
                return True
            with suppress(OSError):
                age = started - path.stat().st_mtime
                stale = age > 10.0
                # a file left by an earlier series is taken for ours, as the real driver does
                if 0.0 < age <= 10.0:
                    return True
            await asyncio.sleep(POLL)
        message = (
            "Image file is more than 10 seconds old" if stale
            else "Timeout waiting for file to be created"
        )  # fmt: skip
        await self._end("Error", message)
        return False

    async def _count_one(self, series: Series, number: int) -> None:
        count = self.records.value("ArrayCounter_RBV") + 1
        rate = 1.0 / series.period if len(series.names) > 1 and series.period > 0 else 0.0
        await self.records.post(ArrayCounter=count, ArrayCounter_RBV=count)
        if number == 0:
            await self.records.post(ArrayRate_RBV=rate)

    def _take_faults(self, n_images: int) -> Faults:
        """Take the faults of this series, which uses them up; a single image is spared."""
        if n_images == 1:
            return Faults()
        taken = Faults(*(getattr(self._faults, key) for key in Faults.__slots__))
        for key in ("drop", "flip", "truncate", "late", "hang"):
            setattr(self._faults, key, -1)
        return taken
