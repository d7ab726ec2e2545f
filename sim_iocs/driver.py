"""Settings of the ADPilatus: a put is sent to camserver, and the read-back shows what was sent.

Alive: the numbers of an exposure, trigger mode and gap fill (each put sends them all again),
FilePath and its check, the header records, threshold, energy and gain, ResetPower, ReadStatus.
Every other setting is a record that is mirrored to its ``_RBV``. The driver does one thing at a
time: a put waits for the one before, and for a kill.

``GapFill``
    What the pixels between modules read, 0 or −1. With "N.A." nothing is sent, and camserver keeps
    the last value that was sent, −1 after a (re)start; GapFill_RBV is then none of its choices.
    Replayed frames stay as they are.
What camserver refuses
    By its detector's model (``--model``): a series or a frame of several exposures whose period is
    shorter than AcquireTime + 2.28 ms (PILATUS2) or AcquireTime + 0.95 ms and 2 ms (PILATUS3); more
    than 65535 images; a delay of 64 s or longer, or longer than the period. The settings are taken
    all the same: it is the exposure command that is answered with "ERR". The driver does not notice
    (StringFromServer_RBV shows it), is armed, and waits for a file or for the end until its
    time-out.
An abort
    lets a PILATUS2 finish and write the exposure that it is in; a PILATUS3 drops it.
A camserver that was restarted
    has its defaults: one image, and a header without what was put before. Only StartAngle and
    HeaderString are sent again with each exposure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from .camserver import Camserver
from .crystal import CUTOFF
from .header import HEADER_RECORDS, SENT_BY_ACQUIRE
from .records import ILLEGAL, Hook, Records, read_table

PARAMETER_TIME = 0.01  # s, to send nimages, exptime and their kind
LEAST = {"NumImages": (1, 1), "NumExposures": (1, 1), "AcquireTime": (0.0, 1.0),
         "AcquirePeriod": (0.0, 2.0), "DelayTime": (0.0, 0.0)}  # fmt: skip
"""Below the first number the driver takes the second instead."""

GAINS = ("lowG", "midG", "highG", "uhighG")
INPUTS = ("ao", "bo", "longout", "mbbo", "stringout", "waveform")
NOT_OF_THE_DRIVER = ("WaitForPlugins", "WriteMessage")
OK = "Camserver returned OK"


class Driver:
    """The ``cam1:`` records, and the driver that takes puts to its settings."""

    threshold_seconds = 0.5
    """Time that camserver needs to set a threshold, s; a real 2M takes tens of seconds."""

    prepare_seconds = 0.0
    """Shortest time for which a put of an acquisition parameter keeps the port locked, s."""

    def __init__(
        self,
        camserver: Camserver,
        *,
        shape: tuple[int, int],
        model: str,
        report: Callable[[str], Awaitable[None]],
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
        if ending is not None:
            for key in ("FileTemplate", "FileTemplate_RBV"):
                rows[key]["value"] = f"%s%s_%3.3d_00000.{ending}"
        self.records = Records(rows)
        self._camserver = camserver
        self._shape = shape
        self._model = model
        self._report = report
        self._port = asyncio.Lock()
        for name in self.records:
            if f"{name}_RBV" in self.records:
                self.records[name].on_put = self._mirror(name)
            elif rows[name].get("record") in INPUTS and name not in NOT_OF_THE_DRIVER:
                self.records[name].on_put = self._plain(name)
        for name in (*LEAST, "TriggerMode", "GapFill"):
            self.records[name].on_put = self._parameter(name)
        own = {
            "FilePath": self._on_path,
            "ThresholdEnergy": self._on_threshold("ThresholdEnergy"),
            "Energy": self._on_threshold("Energy"), "Gain": self._on_threshold("Gain"),
            "GainMenu": self._on_gain_menu, "ThresholdApply": self._on_apply,
            "ResetPower": self._on_reset_power, "ReadStatus": self._on_read_status,
        }  # fmt: skip
        for name, hook in own.items():
            self.records[name].on_put = hook
        for name in self.records:
            self.records[name].asynchronous = self.records[name].on_put is not None
        self._fresh = {name: self.records.value(name) for name in HEADER_RECORDS}

    def _mirror(self, name: str) -> Hook:
        async def put(value: Any) -> None:
            async with self._port:
                await self.records.post(**{name: value, f"{name}_RBV": value})

        return put

    def _plain(self, name: str) -> Hook:
        """Store a setting that has no read-back; those of the header go to camserver."""

        async def put(value: Any) -> None:
            async with self._port:
                await self.records.post(**{name: value})
                if name in HEADER_RECORDS and name not in SENT_BY_ACQUIRE:
                    self._camserver.describe(**{name: value})

        return put

    def _header(self) -> dict[str, Any]:
        """Send what is sent before each exposure; say what a header is made of."""
        value = self.records.value
        self._camserver.describe(**{name: value(name) for name in SENT_BY_ACQUIRE})
        return self._fresh | self._camserver.header

    def _parameter(self, name: str) -> Hook:
        async def put(value: Any) -> None:
            async with self._port:
                least, instead = LEAST.get(name, (None, None))
                used = instead if least is not None and value < least else value
                if name == "GapFill" and value == "N.A.":
                    used = ILLEGAL  # the read-back has no such choice
                await self.records.post(**{name: value, f"{name}_RBV": used})
                await self._send_parameters()

        return put

    async def _send_parameters(self) -> None:
        """Send camserver everything about the exposures, whatever has changed."""
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
        gap_fill = value("GapFill")
        if gap_fill != "N.A.":  # else nothing is sent
            self._camserver.configure(gap_fill=int(gap_fill))
        await asyncio.sleep(max(PARAMETER_TIME, self.prepare_seconds))

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

    async def _on_gain_menu(self, label: str) -> None:
        await self.records.post(GainMenu=label)
        await self.records["Gain"].on_put(float(self.records["GainMenu"].index))

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
            StringToServer_RBV=(
                f"SetThreshold energy {1e3 * energy:.0f} {GAINS[min(max(int(gain), 0), 3)]} "
                f"{1e3 * threshold:.0f}"
            ),
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
                StringToServer_RBV="thread",
                Temp0_RBV=31.4, Temp1_RBV=25.8, Temp2_RBV=28.6, Humid0_RBV=22.1, Humid1_RBV=33.5,
                Humid2_RBV=2.0, Temperature_RBV=31.4,
            )  # fmt: skip
