"""Oxford CryoStream 800: a temperature counts as reached once the sample has settled."""

from __future__ import annotations

from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO, Kind

from offbragg.devices.background import put
from offbragg.devices.settle import Settle, SettleVerdict, Settling, State
from offbragg.devices.temperature import TemperatureController

__all__ = ["Cryostream", "Settle", "SettleVerdict", "Settling", "State"]


class Cryostream(TemperatureController):
    """Nitrogen gas cooler at the sample; a `set` is done once the sample has settled.

    Its records are those of ``Oxford_CS800.db``; it takes at most 360 K/h.
    """

    temperature = Cpt(EpicsSignalRO, "TEMP", auto_monitor=True, kind=Kind.hinted)
    setpoint = Cpt(EpicsSignalRO, "SETPOINT", auto_monitor=True, kind=Kind.normal)
    target = Cpt(EpicsSignalRO, "TARGETTEMP", kind=Kind.normal)
    phase = Cpt(EpicsSignalRO, "PHASE", string=True, kind=Kind.omitted)
    run_mode = Cpt(EpicsSignalRO, "RUNMODE", string=True, kind=Kind.omitted)
    alarm = Cpt(EpicsSignalRO, "ALARM", string=True, kind=Kind.omitted)
    ramp_target = Cpt(EpicsSignal, "RTEMP", kind=Kind.omitted)
    ramp_speed = Cpt(EpicsSignal, "RRATE", kind=Kind.config)
    ramp = Cpt(EpicsSignal, "RAMP", kind=Kind.omitted)

    def ask(self, kelvin: float) -> None:
        """Start a ramp."""
        put(self.ramp_speed, self.ramp_rate)
        put(self.ramp_target, kelvin)
        put(self.ramp, 1)

    @property
    def asked_signal(self) -> EpicsSignalRO:
        """The target of what the controller does now, K."""
        return self.target

    def explain(self) -> str:
        """Return run mode, phase and alarm."""
        return (
            f", run mode {self.run_mode.get()}, phase {self.phase.get()}, "
            f"alarm {self.alarm.get()!r}"
        )
