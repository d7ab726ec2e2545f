"""A nitrogen gas cooler with the record names of ``Oxford_CS800.db``.

Alive (the others hold fresh values):

``TEMP``
    Temperature that the sensor reads in the gas at the sample, K, with its noise.
``SETPOINT``, ``TARGETTEMP``, ``RAMPRATE``, ``PHASE``, ``REMAINING``, ``ERROR``, ``RUNMODE``
    Where the ramp is now, where it will end, at what rate (K/h), what is being done (Ramp, Cool,
    Plat, Hold, End), how long it will take yet (min), TEMP − SETPOINT, "Run".
``RRATE``, ``RTEMP``, then ``RAMP``
    Go to RTEMP (K) at RRATE (1–360 K/h): a put of anything to RAMP starts it.
``CTEMP``, then ``COOL``
    Go to CTEMP as fast as possible (360 K/h): a put of anything to COOL starts it.
``HOLD``, ``PAUSE``, ``RESUME``, ``STOP``, ``RESTART``, ``PTIME`` + ``PLAT``, ``ERATE`` + ``END``
    Stay where the ramp is now; go on; plateau of PTIME minutes; warm up to 300 K at ERATE.
``GASFLOW``, ``EVAPHEAT``, ``SAMPLEHEAT``, ``DEVICEMINTEMP``, ``DEVICEMAXTEMP``
    Plausible numbers and the limits, 80 and 400 K.

A temperature outside the limits or a rate outside 1–360 K/h is not taken: the record keeps its
value (its control limits say so beforehand) and the reason goes to ``sim:message``. A put to a
command completes at once; it says nothing about the temperature. ``acceleration`` makes the
cooler's clock run faster: ramps, lags and settling all shrink by it (``sim:acceleration``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from .records import Records, read_table
from .thermal import Thermal

LOWEST, HIGHEST = 80.0, 400.0  # K
SLOWEST, FASTEST = 1.0, 360.0  # K/h
ROOM = 300.0  # K


class Cryostream:
    """The commands and readings of the cooler in front of a thermal model."""

    def __init__(self, thermal: Thermal, *, report: Callable[[str], Awaitable[None]]) -> None:
        self.thermal = thermal
        temperature = thermal.setpoint
        rows = read_table("cryostream.json")
        for name in ("RTEMP", "CTEMP"):
            rows[name] |= {"low": LOWEST, "high": HIGHEST, "value": temperature, "precision": 2}
        for name in ("RRATE", "ERATE"):
            rows[name] |= {"low": SLOWEST, "high": FASTEST, "value": FASTEST}
        for name, value in (
            ("TEMP", temperature), ("SETPOINT", temperature), ("TARGETTEMP", temperature),
            ("RAMPRATE", 0.0), ("DEVICEMINTEMP", LOWEST), ("DEVICEMAXTEMP", HIGHEST),
            ("GASFLOW", 10.0), ("EVAPHEAT", 20.0), ("SAMPLEHEAT", 15.0),
        ):  # fmt: skip
            rows[name] |= {"value": value, "precision": rows[name].get("precision", 2)}
        rows["RUNMODE"]["value"] = 3  # Run
        rows["PHASE"]["value"] = 3  # Hold
        rows["DISABLE"]["value"] = 0
        rows["ALARM"]["value"] = "No Errors or Warnings"
        self.records = Records(rows)
        self._report = report
        self._phase = "Hold"
        for name in ("RTEMP", "CTEMP"):
            self.records[name].on_put = self._within(name, LOWEST, HIGHEST, "K")
        for name in ("RRATE", "ERATE"):
            self.records[name].on_put = self._within(name, SLOWEST, FASTEST, "K/h")
        commands = {
            "RAMP": self._on_ramp, "COOL": self._on_cool, "HOLD": self._on_hold,
            "PAUSE": self._on_pause, "RESUME": self._on_resume, "STOP": self._on_hold,
            "RESTART": self._on_hold, "PLAT": self._on_plateau, "END": self._on_end,
        }  # fmt: skip
        for name, command in commands.items():
            self.records[name].on_put = self._command(name, command)

    async def update(self) -> None:
        """Advance and read back."""
        thermal = self.thermal
        thermal.advance()
        reading = thermal.reading()
        left = abs(thermal.target - thermal.setpoint)
        if left == 0.0 and self._phase in ("Ramp", "Cool", "End"):
            self._phase = "Hold"
        await self.records.post(
            TEMP=round(reading, 2), SETPOINT=round(thermal.setpoint, 3),
            ERROR=round(reading - thermal.setpoint, 3),
        )  # fmt: skip
        for name, value in (
            ("TARGETTEMP", thermal.target),
            ("RAMPRATE", thermal.rate * 3600.0 if left else 0.0),
            ("REMAINING", round(left / thermal.rate / 60.0, 2) if left and thermal.rate else 0.0),
            ("PHASE", self._phase),
        ):
            await self.records[name].post_if_new(value)

    # -- commands -----------------------------------------------------------------------------

    def _within(
        self, name: str, low: float, high: float, unit: str
    ) -> Callable[[float], Awaitable[None]]:
        async def put(value: float) -> None:
            if low <= value <= high:
                await self.records.post(**{name: value})
                return
            await self.records.post(**{name: self.records.value(name)})
            await self._report(
                f"Refused: cryostream {name} {value:g} {unit} is outside {low:g} to {high:g} {unit}"
            )

        return put

    def _command(
        self, name: str, command: Callable[[], None]
    ) -> Callable[[float], Awaitable[None]]:
        async def put(value: float) -> None:
            self.thermal.advance()
            await self.records.post(**{name: value})
            command()
            await self.update()

        return put

    def _go(self, target: float, rate: float, phase: str) -> None:
        self.thermal.go(target, rate)
        self._phase = phase

    def _on_ramp(self) -> None:
        self._go(self.records.value("RTEMP"), self.records.value("RRATE"), "Ramp")

    def _on_cool(self) -> None:
        self._go(self.records.value("CTEMP"), FASTEST, "Cool")

    def _on_end(self) -> None:
        self._go(ROOM, self.records.value("ERATE"), "End")

    def _on_hold(self) -> None:
        self._go(self.thermal.setpoint, 0.0, "Hold")

    def _on_plateau(self) -> None:
        self._go(self.thermal.setpoint, 0.0, "Plat")

    def _on_pause(self) -> None:
        self.thermal.paused = True

    def _on_resume(self) -> None:
        self.thermal.paused = False
