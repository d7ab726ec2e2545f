"""What temperature controllers have in common: a `set` is done once the sample has settled."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, ClassVar

from ophyd import Device
from ophyd.status import Status

from offbragg.devices.background import Watched, check_times, fail, in_background, is_above_zero
from offbragg.devices.settle import Settle, Settling, State
from offbragg.errors import ConfigError, DeviceError

log = logging.getLogger(__name__)

_SAME = 0.05  # K, to which controllers round


def read_now(signal: Any) -> float | None:
    """Ask for the value of a record, not the last monitor; None if it does not answer."""
    try:
        return float(signal.get(use_monitor=False, timeout=2.0, connection_timeout=2))
    except (TimeoutError, TypeError, ValueError):
        return None


def make_rule(name: str, settle: Mapping[str, float] | None) -> Settle:
    """Make a rule from a table of ``beamline.toml``.

    Raises
    ------
    ConfigError
        For a key that is unknown or a value that means nothing.
    """
    known = [field.name for field in fields(Settle)]
    for key in settle or {}:
        if key not in known:
            raise ConfigError(f"{name}: settle.{key} is unknown; there are {', '.join(known)}")
    return Settle(**(settle or {}))


class TemperatureController(Device):
    """Anything with a setpoint and a sensor; classes below say which records those are.

    Parameters
    ----------
    settle
        Parameters of `Settle`, each optional.
    ramp_rate
        K/h.
    timeout
        How long a `set` may take beyond the ramp itself, s.
    stuck_timeout
        Time limit for a sensor that is stuck or silent, s: then the `set` fails at once.
    interval
        Between two readings of the temperature while settling, s.
    limits
        Lowest and highest temperature that may be asked for, K.
    """

    from_beamline: ClassVar[Mapping[str, str]] = {"limits": "limits.temperature"}
    """Parameters that other tables of beamline.toml fill: name → key there."""

    temperature: Any
    fastest: float = 360.0
    """Highest ramp rate that the controller takes, K/h."""

    def __init__(
        self,
        prefix: str = "",
        *,
        name: str,
        settle: dict[str, float] | None = None,
        ramp_rate: float = 360.0,
        timeout: float = 3600.0,
        stuck_timeout: float = 600.0,
        interval: float = 1.0,
        limits: tuple[float, float] = (80.0, 500.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(prefix, name=name, **kwargs)
        if not 0 < ramp_rate <= self.fastest:
            raise ConfigError(
                f"{name}: ramp_rate {ramp_rate:g} K/h is not within 0 to {self.fastest:g} K/h"
            )
        check_times(name, timeout=timeout, stuck_timeout=stuck_timeout, interval=interval)
        if not limits[0] < limits[1]:
            raise ConfigError(
                f"{name}: limits are {limits[0]:g} to {limits[1]:g} K: the lowest comes first"
            )
        self.settle = make_rule(name, settle)
        self.ramp_rate = ramp_rate
        self.timeout = timeout
        self.stuck_timeout = stuck_timeout
        self.interval = interval
        self.limits = (float(limits[0]), float(limits[1]))
        self.settled: dict[str, float] | None = None
        self.state: State | None = None
        self._settling: Settling | None = None
        self._asked: float | None = None
        self._shown = False  # the controller has shown what was asked for
        self._status: Status | None = None
        self._asking = threading.Lock()
        self._cancel = threading.Event()

    def ask(self, kelvin: float) -> None:
        """Write the setpoint and the rate to the controller."""
        raise NotImplementedError

    @property
    def asked_signal(self) -> Any:
        """Signal of the temperature that the controller is to hold; None if it does not say."""
        return None

    def read_asked(self) -> float | None:
        """Return which temperature the controller is to hold, K; None if it does not say."""
        signal = self.asked_signal
        return None if signal is None else read_now(signal)

    @property
    def asked(self) -> float | None:
        """Which temperature this session has asked for, K; None if for none."""
        return self._asked

    @property
    def waits_for(self) -> str:
        """What a `set` still waits for, with the numbers; an empty string if for nothing."""
        if self._status is None or self._status.done or self._settling is None:
            return ""
        return self._settling.describe()

    def changed_by_others(self) -> str:
        """Return that somebody else has changed the set point, with both numbers; else nothing.

        Only what the controller has once shown as asked for can have been changed: it may take
        its time, and some ramp what they show.
        """
        if self._asked is None:
            return ""
        now = self.read_asked()
        if now is None:
            return ""
        if abs(now - self._asked) <= _SAME:
            self._shown = True
        elif self._shown:
            return (
                f"{self.name}: its set point is {now:g} K, and {self._asked:g} K was asked for: "
                "somebody else has changed it"
            )
        return ""

    def explain(self) -> str:
        """Return what the controller itself reports, for an error message."""
        return ""

    def check_value(self, value: float, **kwargs: object) -> None:
        """Refuse a temperature outside the limits; nothing is written to any record.

        Raises
        ------
        ConfigError
            With the temperature and the limits.
        """
        low, high = self.limits
        if not is_above_zero(value):
            raise ConfigError(f"{self.name} cannot be set to {value!r}: it must be above 0 K")
        if not low <= value <= high:
            raise ConfigError(
                f"temperature {value:g} K is outside {low:g} to {high:g} K, "
                f"which {self.name} may be set to\n"
                "The range is [limits] temperature in beamline.toml."
            )

    def set(self, kelvin: float, *, timeout: float | None = None) -> Status:
        """Ask for a temperature; the status is done when `settle` says so, not at first crossing.

        Parameters
        ----------
        kelvin
            Where to go.
        timeout
            Seconds beyond the time that the ramp takes; the device's own if not given.
        """
        self.check_value(kelvin)
        if self._status is not None and not self._status.done:
            if kelvin == self._asked:  # a plan that was paused asks again
                return self._status
            self.cancel("another temperature was asked for")
        self._asked, self._shown = kelvin, False
        cancel = self._cancel = threading.Event()
        self.settled = self.state = self._settling = None
        limit = self.timeout if timeout is None else timeout
        status = self._status = Watched(self)
        return in_background(
            self, self._go, float(kelvin), limit, cancel, status.report, status=status
        )

    def read_temperature(self) -> float | None:
        """Ask the sensor, not the last monitor; None if it does not answer."""
        return read_now(self.temperature)

    def _go(
        self,
        kelvin: float,
        timeout: float,
        cancel: threading.Event,
        report: Callable[..., None],
    ) -> None:
        initial = self.read_temperature()
        if initial is None:
            raise DeviceError(
                f"{self.name} cannot be set to {kelvin:g} K: {self.temperature.pvname} gives no "
                "temperature\nIs the IOC running, and the sensor connected?"
            )
        with self._asking:  # one whose asking was overtaken must not ask after the other
            if cancel.is_set():
                return
            self.ask(kelvin)
        limit = abs(kelvin - initial) / self.ramp_rate * 3600.0 + timeout
        settling = self._settling = Settling(self.settle, kelvin, initial=initial)
        began = bad_since = time.monotonic()
        while True:
            reading = self.read_temperature()
            now = time.monotonic()
            verdict = settling.add(now, reading)
            self.state = verdict.state
            report(
                name=f"{self.name}: {verdict.state.value}, {verdict.reason or 'done'}",
                current=initial if reading is None else reading,
                initial=initial,
                target=kelvin,
                unit="K",
            )
            if changed := self.changed_by_others():
                raise DeviceError(
                    f"{changed}\nAsk who did, at the controller or another screen; then set the "
                    "temperature again."
                )
            if verdict.settled:
                self.settled = {
                    "mean": verdict.mean,
                    "std": verdict.std,
                    "window": self.settle.window,
                }
                return
            if verdict.state not in (State.STUCK, State.SILENT):
                bad_since = now
            if now - began > limit or now - bad_since > self.stuck_timeout:
                last = "no reading" if reading is None else f"{reading:.2f} K"
                raise DeviceError(
                    f"{self.name} did not settle at {kelvin:g} K in {now - began:.0f} s: "
                    f"{verdict.state.value}: {verdict.reason}\n"
                    f"{self.temperature.pvname} is {last}{self.explain()}. "
                    "Wider settle values, or a longer timeout, are set in beamline.toml."
                )
            if cancel.wait(self.interval):
                return  # whoever cancelled has failed the status

    def cancel(self, why: str) -> None:
        """Stop waiting; the sample goes on to the temperature that was set."""
        self._cancel.set()
        if self._status is not None:
            fail(self._status, DeviceError(f"{self.name} did not settle: {why}"))

    @property
    def position(self) -> float:
        """Temperature now, K."""
        return float(self.temperature.get())

    def stop(self, *, success: bool = False) -> None:
        """Stop waiting; the sample goes on to what was set, which is the safe thing.

        With ``success`` (a plan that pauses) the waiting goes on.
        """
        if not success:
            self.cancel("it was stopped")
