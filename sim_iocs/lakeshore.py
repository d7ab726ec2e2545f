"""A LakeShore 336 with the record names of ``LakeShore336.db``.

Alive (the others are records that are mirrored to their ``_RBV``):

``IN1`` (A), ``IN2`` (B)
    The sensor in the gas and one on the sample, K; ``IN3`` and ``IN4`` stay at room temperature.
``OUT1:SP``, ``OUT1:SP_RBV``
    The setpoint; the read-back is where the ramp is now.
``OnRamp1``, ``RampR1``
    Whether setpoints are ramped, and at what rate, K/min (0.1–100). Without a ramp the setpoint
    jumps and the sample follows at 20 K/min.
``HTR1``, ``HTR1:Range``, ``OUT1:Mode``
    Output in %; with Range OFF or Mode Off a setpoint is taken and nothing moves.

A setpoint outside 1.4 to 420 K is not taken and the reason goes to ``sim:message``. Put completion
says nothing about the temperature. It shares the thermal model with the Cryostream: the one that
was set last drives it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from .records import Hook, Records, read_table
from .thermal import Thermal

LOWEST, HIGHEST = 1.4, 420.0  # K
SLOWEST, FASTEST = 0.1, 100.0  # K/min
FREE = 20.0  # K/min, without a ramp
ROOM = 295.0  # K


class LakeShore:
    """The settings and readings of the controller in front of a thermal model."""

    def __init__(self, thermal: Thermal, *, report: Callable[[str], Awaitable[None]]) -> None:
        self.thermal = thermal
        self._report = report
        rows = read_table("lakeshore.json")
        start = thermal.setpoint
        for name, value in (
            ("ID", "LSCI,MODEL336,SIM0001/SIM0002,2.9"), ("IN1", start), ("IN2", start),
            ("IN3", ROOM), ("IN4", ROOM), ("OUT1:SP", start), ("OUT1:SP_RBV", start),
            ("RampR1", 10.0), ("RampR1_RBV", 10.0), ("P1", 50.0), ("P1_RBV", 50.0),
            ("I1", 20.0), ("I1_RBV", 20.0), ("HTR1:Range", 3), ("HTR1:Range_RBV", 3),
            ("OUT1:Mode", 1), ("OUT1:Mode_RBV", 1), ("OUT1:Cntrl", 1), ("OUT1:Cntrl_RBV", 1),
            ("ModeRI", 1), ("ModeRI_RBV", 1),
        ):  # fmt: skip
            rows[name]["value"] = value
        for i in range(1, 5):
            rows[f"IN{i}"] |= {"units": "K", "precision": 3}
            rows[f"IN{i}:Units_RBV"]["value"] = 1
        rows["OUT1:SP"] |= {"low": LOWEST, "high": HIGHEST, "units": "K"}
        self.records = Records(rows)
        for name in self.records:
            if f"{name}_RBV" in self.records:
                self.records[name].on_put = self._mirror(name)
        self.records["OUT1:SP"].on_put = self._on_setpoint
        self.records["RampR1"].on_put = self._on_rate

    def _mirror(self, name: str) -> Hook:
        async def put(value: Any) -> None:
            label = self.records[f"{name}_RBV"]
            same = getattr(label, "enum_strings", None)
            known = same is None or value in same
            await self.records.post(**{name: value})
            if known:
                await label.post(value)

        return put

    @property
    def _drives(self) -> bool:
        value = self.records.value
        return value("HTR1:Range") != "OFF" and value("OUT1:Mode") == "Closed Loop"

    async def update(self) -> None:
        """Read back; the thermal model is advanced elsewhere."""
        thermal = self.thermal
        heat = 30.0 + 0.1 * (thermal.setpoint - thermal.gas) if self._drives else 0.0
        await self.records.post(
            **{
                "IN1": round(thermal.reading(), 3), "IN2": round(thermal.sample, 3),
                "OUT1:SP_RBV": round(thermal.setpoint, 3), "HTR1": min(max(heat, 0.0), 100.0),
            }
        )  # fmt: skip

    async def _refuse(self, name: str, value: float, low: float, high: float, unit: str) -> None:
        await self.records.post(**{name: self.records.value(name)})
        await self._report(
            f"Refused: LakeShore {name} {value:g} {unit} is outside {low:g} to {high:g} {unit}"
        )

    async def _on_setpoint(self, kelvin: float) -> None:
        if not LOWEST <= kelvin <= HIGHEST:
            await self._refuse("OUT1:SP", kelvin, LOWEST, HIGHEST, "K")
            return
        await self.records.post(**{"OUT1:SP": kelvin})
        if self._drives:
            ramps = self.records.value("OnRamp1") == "ON"
            rate = self.records.value("RampR1") if ramps else FREE
            self.thermal.go(kelvin, 60.0 * rate)
        await self.update()

    async def _on_rate(self, rate: float) -> None:
        if not SLOWEST <= rate <= FASTEST:
            await self._refuse("RampR1", rate, SLOWEST, FASTEST, "K/min")
            return
        await self.records.post(RampR1=rate, RampR1_RBV=rate)
