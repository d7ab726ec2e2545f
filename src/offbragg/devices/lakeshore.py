"""LakeShore 336: the same rule of settling, on a controller of heaters."""

from __future__ import annotations

from ophyd import Component as Cpt
from ophyd import EpicsSignal, EpicsSignalRO, EpicsSignalWithRBV, Kind
from ophyd import FormattedComponent as FCpt

from offbragg.devices.background import put
from offbragg.devices.settle import Settle
from offbragg.devices.temperature import TemperatureController
from offbragg.errors import ConfigError

__all__ = ["LakeShore336", "Settle"]

SLOWEST = 6.0  # K/h, the one decimal of its K/min
HEATER_RANGES = ("OFF", "LOW", "MEDIUM", "HIGH")


class LakeShore336(TemperatureController):
    """Four inputs and two heater loops; a `set` is done once the sample has settled.

    Its records are those of ``LakeShore336.db``. The controller ramps at `ramp_rate`, which it
    takes in K/min with one decimal: 6 K/h at least.

    Parameters
    ----------
    loop
        Which output heats, 1 or 2.
    channel
        Which input is the sample's sensor, 1 to 4.
    heater
        Range of the heater: LOW, MEDIUM or HIGH.
    """

    fastest = 6000.0

    temperature = FCpt(
        EpicsSignalRO, "{self.prefix}IN{self.channel}", auto_monitor=True, kind=Kind.hinted
    )
    setpoint = FCpt(EpicsSignalWithRBV, "{self.prefix}OUT{self.loop}:SP", kind=Kind.normal)
    heater_output = FCpt(EpicsSignalRO, "{self.prefix}HTR{self.loop}", kind=Kind.normal)
    heater_range = FCpt(
        EpicsSignal,
        "{self.prefix}HTR{self.loop}:Range_RBV",
        write_pv="{self.prefix}HTR{self.loop}:Range",
        string=True,
        kind=Kind.config,
    )
    ramp_speed = FCpt(EpicsSignalWithRBV, "{self.prefix}RampR{self.loop}", kind=Kind.config)
    ramp_on = FCpt(
        EpicsSignal,
        "{self.prefix}OnRamp{self.loop}_RBV",
        write_pv="{self.prefix}OnRamp{self.loop}",
        string=True,
        kind=Kind.omitted,
    )
    identity = Cpt(EpicsSignalRO, "ID", string=True, kind=Kind.omitted)

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str,
        loop: int = 1,
        channel: int = 1,
        heater: str = "MEDIUM",
        settle: dict[str, float] | None = None,
        ramp_rate: float = 360.0,
        timeout: float = 3600.0,
        stuck_timeout: float = 600.0,
        interval: float = 1.0,
        limits: tuple[float, float] = (80.0, 500.0),
        **kwargs: object,
    ) -> None:
        if loop not in (1, 2):
            raise ConfigError(f"{name}: loop {loop} is not one of 1, 2")
        if channel not in (1, 2, 3, 4):
            raise ConfigError(f"{name}: channel {channel} is not one of 1, 2, 3, 4")
        if heater not in HEATER_RANGES[1:]:
            raise ConfigError(
                f"{name}: heater {heater!r} is not one of {', '.join(HEATER_RANGES[1:])}"
            )
        if ramp_rate < SLOWEST:
            raise ConfigError(
                f"{name}: ramp_rate {ramp_rate:g} K/h is less than {SLOWEST:g} K/h: the controller "
                "takes 0.1 K/min at least"
            )
        self.loop, self.channel, self.heater = loop, channel, heater
        super().__init__(
            prefix, name=name, settle=settle, ramp_rate=ramp_rate, timeout=timeout,
            stuck_timeout=stuck_timeout, interval=interval, limits=limits, **kwargs,
        )  # fmt: skip

    def ask(self, kelvin: float) -> None:
        """Set rate, heater range and setpoint; the controller ramps there."""
        put(self.ramp_speed, round(self.ramp_rate / 60.0, 1))
        put(self.ramp_on, "ON")
        put(self.heater_range, self.heater)
        put(self.setpoint, kelvin)

    @property
    def asked_signal(self) -> EpicsSignalWithRBV:
        """The set point, K."""
        return self.setpoint

    def explain(self) -> str:
        """Return setpoint, heater output and range."""
        return (
            f", setpoint {self.setpoint.get():g} K, heater {self.heater_output.get():g} % "
            f"({self.heater_range.get()})"
        )
